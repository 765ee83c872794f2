//! `arcssh cert`: an Entra ID SSH certificate, for the cached key or for a key of the user.

use std::fs::File;
use std::io::{ErrorKind, IsTerminal as _, Read as _, stdout};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use ring::digest::{SHA256, digest};

use crate::cli::proxy_command::{HostEntry, first_entry};
use crate::cli::{CertArgs, OutputFormat};
use crate::commands::session::Session;
use crate::diagnosis::Result;
use crate::entra_ssh::cache::{CertificateCache, CertifiedKey};
use crate::entra_ssh::{IssueError, ensure_login_name, request_certificate};
use crate::ssh::SshError;
use crate::ssh::certificate::{ALGORITHM, Certificate};
use crate::ssh::home;
use crate::ssh::managed_block;
use crate::ssh::rsa_key::PublicKey;
use crate::state::{Key, Kind, Store};
use crate::system::clock::unix_now;
use crate::system::files;
use crate::terminal::output::{note, print, print_json};
use crate::terminal::progress::{Progress, Step};
use crate::text::{hex, shell_quote};

/// The suffix of a certificate file of OpenSSH (ssh-keygen(1), "CERTIFICATES").
const CERTIFICATE: &str = "-cert.pub";
/// How many seconds before its expiry a certificate for the user's own key is replaced.
const RENEWAL: u64 = 300;
/// The most bytes of an existing file that arcssh reads; keys and certificates are smaller.
const MAX_FILE: u64 = 64 * 1024;

/// Requests, writes or shows a certificate, and returns the exit status.
///
/// # Errors
/// Entra ID issues no certificate; a file cannot be written.
pub(crate) async fn run(args: &CertArgs) -> Result<u8> {
    let session = Session::open(&args.azure)?;
    if let Some(public_key) = &args.public_key {
        return request_for_own_key(args, &session, &home::expanded(public_key)).await;
    }
    let certificates = CertificateCache::new(session.credentials(), args.certificate.options())?;
    if args.show {
        return show(&certificates, args.output.unwrap_or_default());
    }
    let Some(file) = &args.file else {
        let certificate = with_progress(certificates.pair()).await?.certificate;
        print_summary(&certificate)?;
        if stdout().is_terminal() {
            note(&format!("hint: {}", next_step(&certificate)));
        }
        return Ok(0);
    };
    let (key, file) = (home::expanded(&private_key_file(file)?), home::expanded(file));
    let pair = with_progress(certificates.pair()).await?.for_login_name(args.login_name.as_deref())?;
    write(&pair, &key, &file, &session.store).await?;
    // ssh runs this command from a host entry, and discards its standard output.
    if stdout().is_terminal() {
        note(&format!("wrote {} and the private key {}", file.display(), key.display()));
        print_summary(&pair.certificate)?;
    }
    Ok(0)
}

/// Requests a certificate while it shows the progress.
async fn with_progress<T>(request: impl Future<Output = T>) -> T {
    let progress = Progress::default();
    progress.set(Step::wait("SSH certificate").with(" from Entra ID"));
    progress.run(request).await
}

/// Returns how to connect with a host entry that logs in with the certificate, or how to add host entries if there is none.
fn next_step(certificate: &Certificate) -> String {
    let name = certificate.login_name();
    let is_for_name = |entry: &HostEntry| {
        let args = entry.proxy_args(&[]);
        args.is_some_and(|args| args.agent.is_some() && args.login_name == name)
    };
    match first_entry(&managed_block::text_of_user(), is_for_name) {
        Some(entry) => format!("to connect, run: ssh {}", shell_quote(&entry.alias)),
        None => "to log in with the certificate, add host entries: arcssh config --all --entra".into(),
    }
}

/// Requests a certificate for the user's own public key and writes it.
async fn request_for_own_key(args: &CertArgs, session: &Session, public_key: &Path) -> Result<u8> {
    let key = PublicKey::read(public_key)?;
    let file = args.file.as_deref().map_or_else(|| certificate_file(public_key), home::expanded);
    if args.if_needed {
        return renew(args, session, &key, &file).await;
    }
    let certificate = request(args, session, &key).await?;
    ensure_replaceable(&file, &certificate)?;
    replace(&file, &with_comment(&certificate, OWN_KEY))?;
    note(&format!("wrote {}", file.display()));
    print_summary(&certificate)?;
    Ok(0)
}

/// Requests a certificate that is valid for the login name of the command line.
async fn request(args: &CertArgs, session: &Session, key: &PublicKey) -> Result<Certificate> {
    let (credentials, options) = (session.credentials(), args.certificate.options());
    let certificate = with_progress(request_certificate(&credentials, key, &options)).await?.certificate;
    ensure_login_name(&certificate, args.login_name.as_deref())?;
    Ok(certificate)
}

/// Replaces the certificate of a host entry for the user's own key before it expires. Of several processes, one requests it.
async fn renew(args: &CertArgs, session: &Session, key: &PublicKey, file: &Path) -> Result<u8> {
    if let Some(folder) = file.parent() {
        files::create_private_dir(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    }
    let _lock = session.store.lock(&Key::new(Kind::Certificate, file.display().to_string())).await;
    let present = read(file)?.and_then(|text| Certificate::parse(&text).ok());
    let is_current = |old: &Certificate| {
        let is_for_entry = ensure_login_name(old, args.login_name.as_deref()).is_ok();
        is_for_entry && old.check(key, unix_now() + RENEWAL).is_ok()
    };
    if !present.is_some_and(|old| is_current(&old)) {
        let certificate = request(args, session, key).await?;
        ensure_replaceable(file, &certificate)?;
        replace(file, &with_comment(&certificate, OWN_KEY))?;
    }
    Ok(0)
}

/// Returns the file in which ssh looks for the certificate: `id_rsa-cert.pub` for `id_rsa.pub`.
fn certificate_file(public_key: &Path) -> PathBuf {
    let name = public_key.file_name().unwrap_or_default().to_string_lossy();
    public_key.with_file_name(format!("{}{CERTIFICATE}", name.strip_suffix(".pub").unwrap_or(&name)))
}

/// Returns the file of the private key whose certificate is in `file`.
fn private_key_file(file: &Path) -> anyhow::Result<PathBuf> {
    let name = file.file_name().and_then(|name| name.to_str()?.strip_suffix(CERTIFICATE));
    let Some(name) = name.filter(|name| !name.is_empty()) else {
        bail!(
            "{} must end in {CERTIFICATE}: arcssh writes the private key to the name without that suffix",
            file.display()
        )
    };
    Ok(file.with_file_name(name))
}

/// Writes the key and the certificate. Only one process writes at a time, so that both always belong together. If a
/// process ends between the two files, the comment of the certificate lets the next process replace both.
async fn write(pair: &CertifiedKey, key: &Path, file: &Path, store: &Store) -> Result<()> {
    if let Some(folder) = file.parent() {
        files::create_private_dir(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    }
    let _lock = store.lock(&Key::new(Kind::Certificate, file.display().to_string())).await;
    let old_key = read(key)?;
    let old_certificate = read(file)?.unwrap_or_default();
    let is_replaceable = |key: &String| key == pair.pem.text() || belongs_to(&old_certificate, key);
    if !old_key.as_ref().is_none_or(is_replaceable) {
        return Err(SshError::NotOurs(key.to_owned()).into());
    }
    ensure_replaceable(file, &pair.certificate)?;
    let keys = [Some(pair.pem.text()), old_key.as_deref().filter(|old| *old != pair.pem.text())];
    let keys = keys.into_iter().flatten().map(fingerprint).collect::<Vec<_>>().join(" ");
    replace(file, &with_comment(&pair.certificate, &format!("{PAIR} {keys}")))?;
    replace(key, pair.pem.text())?;
    Ok(())
}

/// Returns whether arcssh wrote the private key together with the certificate: the comment of the certificate contains the
/// fingerprint of the key. Earlier versions wrote no fingerprint.
fn belongs_to(certificate: &str, key: &str) -> bool {
    let mut keys = certificate.split_ascii_whitespace().skip(3).peekable();
    comment(certificate) == Some(PAIR)
        && (keys.peek().is_none() || keys.any(|known| known == fingerprint(key)))
}

fn fingerprint(key: &str) -> String {
    let hash = digest(&SHA256, key.as_bytes());
    hex(&hash.as_ref()[..8])
}

/// The comment of a certificate whose private key arcssh wrote too. arcssh never replaces another private key, because
/// the user may have no copy. The fingerprints of the new and the previous key follow, because arcssh can end between
/// writing the two files.
const PAIR: &str = "key-and-certificate-by-arcssh";
/// The comment of a certificate for the user's own key.
const OWN_KEY: &str = "certificate-by-arcssh";

fn with_comment(certificate: &Certificate, comment: &str) -> String {
    format!("{} {comment}\n", certificate.to_line().trim_end())
}

fn comment(text: &str) -> Option<&str> {
    let mut words = text.split_ascii_whitespace();
    words.next().filter(|kind| *kind == ALGORITHM).and_then(|_| words.nth(1))
}

/// Checks that the file may be replaced: arcssh wrote it, its certificate is expired, or its certificate is from the same
/// authority, such as one of az ssh.
fn ensure_replaceable(file: &Path, certificate: &Certificate) -> Result<()> {
    let Some(text) = read(file)? else { return Ok(()) };
    let replaces = |old: Certificate| old.has_authority_of(certificate) || old.valid_before() <= unix_now();
    let is_ours = [Some(PAIR), Some(OWN_KEY)].contains(&comment(&text));
    if is_ours || Certificate::parse(&text).is_ok_and(replaces) {
        return Ok(());
    }
    Err(SshError::NotOurs(file.to_owned()).into())
}

/// Returns the text of the file if it exists; a device or a directory has an empty text.
fn read(file: &Path) -> anyhow::Result<Option<String>> {
    match std::fs::metadata(file) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Ok(metadata) if !metadata.is_file() => return Ok(Some(String::new())),
        _ => {}
    }
    let mut bytes = Vec::new();
    let read = File::open(file).and_then(|file| file.take(MAX_FILE).read_to_end(&mut bytes));
    read.with_context(|| format!("cannot read {}", file.display()))?;
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}

/// Replaces the file atomically, readable only by its owner, unless it already has this text. A symbolic link is followed.
fn replace(file: &Path, text: &str) -> anyhow::Result<()> {
    let file = &std::fs::canonicalize(file).unwrap_or_else(|_| file.to_owned());
    ensure!(!file.is_symlink(), "{} is a symbolic link to a missing file", file.display());
    if std::fs::read_to_string(file).is_ok_and(|old| old == text) {
        return Ok(());
    }
    files::replace(file, text.as_bytes()).with_context(|| format!("cannot write {}", file.display()))
}

fn show(certificates: &CertificateCache, format: OutputFormat) -> Result<u8> {
    let Some(CertifiedKey { certificate, .. }) = certificates.cached()? else {
        return Err(IssueError::NotCached.into());
    };
    match format {
        OutputFormat::Json => print_json(&certificate.json())?,
        OutputFormat::Table => print(&certificate.to_string())?,
    }
    Ok(0)
}

/// Prints the login name and the validity.
fn print_summary(certificate: &Certificate) -> Result<()> {
    let text = certificate.to_string();
    let summary = text.lines().filter(|line| line.starts_with("login name") || line.starts_with("valid"));
    Ok(print(&summary.map(|line| format!("{line}\n")).collect::<String>())?)
}
