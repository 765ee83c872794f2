//! `arcssh cert`: an SSH certificate of Entra ID, for the key that arcssh keeps or for one's own.

use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use ring::digest::{SHA256, digest};

use crate::azure::cloud::Cloud;
use crate::azure::credentials::CredentialChain;
use crate::cli::CertArgs;
use crate::entra_ssh::cache::{CertificateCache, CertifiedKey};
use crate::entra_ssh::{IssueError, request_certificate};
use crate::net::Net;
use crate::ssh::certificate::{ALGORITHM, Certificate};
use crate::ssh::rsa_key::PublicKey;
use crate::state::{Key, Kind, Store};
use crate::system::clock::unix_now;
use crate::system::files;
use crate::terminal::output::{note, print};
use crate::text::hex;

/// How OpenSSH names a key's certificate (ssh-keygen(1), "CERTIFICATES").
const CERTIFICATE: &str = "-cert.pub";
/// Bytes of a file that are looked at to see whose it is; keys and certificates have less.
const MAX_FILE: u64 = 64 * 1024;

/// Gets, writes or shows; the exit status.
///
/// # Errors
/// Entra ID gives no certificate, or a file cannot be written.
pub(crate) async fn run(args: &CertArgs) -> Result<u8> {
    let (net, store) = (Net::new(), Store::open()?);
    let cloud = Cloud::new(args.cloud.name(), &args.cloud.endpoints())?;
    let identity = CredentialChain::new(&cloud, args.who.wanted(), &net, &store);
    if let Some(public_key) = &args.public_key {
        return for_own_key(args, &identity, public_key).await;
    }
    let holder = CertificateCache::new(identity, args.certificate.asked())?;
    match &args.file {
        _ if args.show => show(&holder),
        Some(file) => {
            let (key, file) = (expanded(&key_of(file)?), expanded(file));
            let pair = holder.pair().await?.for_login_name(args.login_name.as_deref())?;
            write(&pair, &key, &file, &store).await
        }
        None => {
            tell(&holder.pair().await?.certificate)?;
            Ok(0)
        }
    }
}

/// A certificate for a key that the user has.
async fn for_own_key(args: &CertArgs, identity: &CredentialChain, public_key: &Path) -> Result<u8> {
    let key = PublicKey::read(&expanded(public_key))?;
    let file = args.file.as_deref().map_or_else(|| beside(&expanded(public_key)), expanded);
    let certificate = request_certificate(identity, &key, &args.certificate.asked()).await?.certificate;
    ensure_ours(&file, &certificate)?;
    replace(&file, &marked(&certificate, OWN))?;
    note(&format!("{} is written", file.display()));
    tell(&certificate)?;
    Ok(0)
}

/// `id_rsa-cert.pub` for `id_rsa.pub`: ssh finds it there by itself.
fn beside(public_key: &Path) -> PathBuf {
    let name = public_key.file_name().unwrap_or_default().to_string_lossy();
    public_key.with_file_name(format!("{}{CERTIFICATE}", name.strip_suffix(".pub").unwrap_or(&name)))
}

/// The file of the private key whose certificate is in `file`.
fn key_of(file: &Path) -> Result<PathBuf> {
    let name = file.file_name().and_then(|name| name.to_str()?.strip_suffix(CERTIFICATE));
    let Some(name) = name.filter(|name| !name.is_empty()) else {
        bail!(
            "{} does not end in {CERTIFICATE}: the private key goes to the same without that",
            file.display()
        )
    };
    Ok(file.with_file_name(name))
}

/// Writes the pair for ssh to read, one process at a time, so that no two pairs are mixed. Who stops in the middle leaves
/// the mark on the certificate, and whoever comes next goes on.
async fn write(pair: &CertifiedKey, key: &Path, file: &Path, store: &Store) -> Result<u8> {
    if let Some(folder) = file.parent() {
        files::create_private_dir(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    }
    let _lock = store.lock(&Key::new(Kind::Certificate, file.display().to_string())).await;
    let (old_key, old) = (read(key)?, read(file)?.unwrap_or_default());
    let is_ours = |key: &String| key == pair.pem.text() || was_written_with(&old, key);
    ensure!(old_key.as_ref().is_none_or(is_ours), occupied(key));
    ensure_ours(file, &pair.certificate)?;
    let keys = [Some(pair.pem.text()), old_key.as_deref().filter(|old| *old != pair.pem.text())];
    let keys = keys.into_iter().flatten().map(fingerprint).collect::<Vec<_>>().join(" ");
    replace(file, &marked(&pair.certificate, &format!("{PAIR} {keys}")))?;
    replace(key, pair.pem.text())?;
    Ok(0)
}

/// Whether arcssh wrote the private key in whose place another is to go: its fingerprint is in the comment of the
/// certificate beside it. Earlier versions wrote none.
fn was_written_with(certificate: &str, key: &str) -> bool {
    let mut keys = certificate.split_ascii_whitespace().skip(3).peekable();
    mark(certificate) == Some(PAIR) && (keys.peek().is_none() || keys.any(|known| known == fingerprint(key)))
}

fn fingerprint(key: &str) -> String {
    let hash = digest(&SHA256, key.as_bytes());
    hex(&hash.as_ref()[..8])
}

/// The comment of a certificate whose key is beside it by our hand: another key there is its owner's, who may have no
/// other copy. The fingerprints of that key, and of the one before, follow: arcssh can stop between the two files.
const PAIR: &str = "key-and-certificate-by-arcssh";
/// That of a certificate for a key of one's own.
const OWN: &str = "certificate-by-arcssh";

fn marked(certificate: &Certificate, mark: &str) -> String {
    format!("{} {mark}\n", certificate.to_line().trim_end())
}

fn mark(text: &str) -> Option<&str> {
    let mut words = text.split_ascii_whitespace();
    words.next().filter(|kind| *kind == ALGORITHM).and_then(|_| words.nth(1))
}

/// A certificate takes the place of one of ours, of one that has ended, and of one that the same authority made out, as
/// az ssh has it; nothing else is ours to lose.
fn ensure_ours(file: &Path, certificate: &Certificate) -> Result<()> {
    let Some(text) = read(file)? else { return Ok(()) };
    let replaces = |old: Certificate| old.has_authority_of(certificate) || old.valid_before() <= unix_now();
    let is_ours = [Some(PAIR), Some(OWN)].contains(&mark(&text));
    ensure!(is_ours || Certificate::parse(&text).is_ok_and(replaces), occupied(file));
    Ok(())
}

fn occupied(file: &Path) -> String {
    format!("{} holds something else, which would be lost; name another file with --file", file.display())
}

/// The text of a file that may be replaced, if there is one; a device, or a folder, holds none.
fn read(file: &Path) -> Result<Option<String>> {
    match std::fs::metadata(file) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Ok(found) if !found.is_file() => return Ok(Some(String::new())),
        _ => {}
    }
    let mut bytes = Vec::new();
    let read = File::open(file).and_then(|file| file.take(MAX_FILE).read_to_end(&mut bytes));
    read.with_context(|| format!("cannot read {}", file.display()))?;
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}

/// A path whose `~/` no shell has replaced, as on Windows.
fn expanded(path: &Path) -> PathBuf {
    match (path.strip_prefix("~"), std::env::home_dir()) {
        (Ok(rest), Some(home)) => home.join(rest),
        _ => path.to_owned(),
    }
}

/// Writes the file beside its place, for its owner alone, and moves it there, unless it is as it should be. A symbolic
/// link stays, and leads to the new file.
fn replace(file: &Path, text: &str) -> Result<()> {
    let file = &std::fs::canonicalize(file).unwrap_or_else(|_| file.to_owned());
    ensure!(!file.is_symlink(), "{} is a symbolic link that leads nowhere", file.display());
    if std::fs::read_to_string(file).is_ok_and(|old| old == text) {
        return Ok(());
    }
    files::replace(file, text.as_bytes()).with_context(|| format!("cannot write {}", file.display()))
}

/// What the kept certificate says.
fn show(holder: &CertificateCache) -> Result<u8> {
    let Some(CertifiedKey { certificate, .. }) = holder.cached()? else { bail!(IssueError::NoneKept) };
    print(&certificate.to_string())?;
    Ok(0)
}

/// Who can log in with it, and until when.
fn tell(certificate: &Certificate) -> Result<()> {
    let text = certificate.to_string();
    let brief = text.lines().filter(|line| line.starts_with("login name") || line.starts_with("valid"));
    print(&brief.map(|line| format!("{line}\n")).collect::<String>())
}
