//! RSA key pairs that ssh-keygen generates, and public keys of users.
//!
//! Private keys are PKCS#1 in PEM (`BEGIN RSA PRIVATE KEY`), which ring and every version of OpenSSH read.

use std::fmt;
use std::io;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use ring::digest::{SHA256, digest};
use ring::rand::SystemRandom;
use ring::rsa::{KeyPair as RingKeyPair, PublicKeyComponents};
use ring::signature::{RSA_PKCS1_SHA256, RSA_PKCS1_SHA512, RsaEncoding};
use serde::{Deserialize, Serialize};
use tempfile::TempDir;
use tokio::process::Command;
use tokio::time::timeout;
use zeroize::Zeroizing;

use crate::ssh::wire::{Malformed, Reader, put_positive, put_string};
use crate::ssh::{SshError, client};
use crate::system::files;
use crate::system::secret::Secret;
use crate::text::hex;

/// The name of RSA keys (RFC 4253 section 6.6).
pub(crate) const SSH_RSA: &str = "ssh-rsa";

/// The size of a generated key in bits.
pub(crate) const BITS: u32 = 3072;
/// The time limit for generating a key, which takes about a second.
const KEYGEN_TIMEOUT: Duration = Duration::from_secs(60);
/// The most bytes of a key file. RSA keys of 16384 bits, the largest that OpenSSH accepts, are smaller.
const MAX_FILE: u64 = 32 * 1024;
const BEGIN: &str = "-----BEGIN RSA PRIVATE KEY-----";
const END: &str = "-----END RSA PRIVATE KEY-----";

/// A public RSA key: exponent and modulus without leading zeros.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PublicKey {
    pub(crate) e: Vec<u8>,
    pub(crate) n: Vec<u8>,
}

/// A public key as JSON Web Key (RFC 7517, RFC 7518 section 6.3.1).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Jwk {
    kty: &'static str,
    n: String,
    e: String,
    /// The key ID: any text that is unique to the key. az uses SHA-256 of `n` and `e` (azure-cli-extensions `ssh`,
    /// custom.py, `_prepare_jwk_data`).
    pub(crate) kid: String,
}

impl PublicKey {
    /// Reads the first line of a file that is not a comment: `ssh-rsa AAAA… comment`.
    ///
    /// # Errors
    /// The file has no RSA public key; the error names the file and what it has instead.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text = read(path).with_context(|| format!("cannot read {}", path.display()))?;
        Self::from_text(&text).with_context(|| format!("{} cannot be certified", path.display()))
    }

    fn from_text(text: &str) -> Result<Self> {
        ensure!(
            !text.contains("PRIVATE KEY"),
            "it is a private key; its public key is in the file that ends in .pub"
        );
        let is_key = |line: &&str| !line.is_empty() && !line.starts_with('#');
        let line = text.lines().map(str::trim).find(is_key).unwrap_or_default();
        let mut words = line.split_ascii_whitespace();
        match words.next() {
            Some(SSH_RSA) => {}
            Some(other) if is_key_type(other) => {
                bail!(
                    "its type is {other}, and Entra ID certifies only {SSH_RSA}; to create such a key: ssh-keygen -t rsa"
                )
            }
            _ => bail!("it contains no OpenSSH public key"),
        }
        let blob =
            words.next().and_then(|body| STANDARD.decode(body).ok()).context("its key is not base64")?;
        Self::from_blob(&blob).map_err(|malformed| anyhow!("{malformed}"))
    }

    /// Reads a key in the encoding of SSH messages.
    pub(crate) fn from_blob(blob: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(blob);
        if reader.string()? != SSH_RSA.as_bytes() {
            return Err(Malformed);
        }
        let key = Self { e: reader.positive()?.to_vec(), n: reader.positive()?.to_vec() };
        reader.end().map(|()| key)
    }

    /// The key in the encoding of SSH messages.
    pub(crate) fn blob(&self) -> Vec<u8> {
        let mut blob = Vec::new();
        put_string(&mut blob, SSH_RSA.as_bytes());
        put_positive(&mut blob, &self.e);
        put_positive(&mut blob, &self.n);
        blob
    }

    /// The line of a `.pub` file.
    pub(crate) fn to_line(&self) -> String {
        format!("{SSH_RSA} {}\n", STANDARD.encode(self.blob()))
    }

    /// The key as JSON Web Key.
    pub(crate) fn jwk(&self) -> Jwk {
        let (n, e) = (URL_SAFE_NO_PAD.encode(&self.n), URL_SAFE_NO_PAD.encode(&self.e));
        let hash = digest(&SHA256, format!("{n}{e}").as_bytes());
        Jwk { kty: "RSA", n, e, kid: hex(hash.as_ref()) }
    }
}

/// The fingerprint of a key in the format of OpenSSH.
pub(crate) fn fingerprint(blob: &[u8]) -> String {
    format!("SHA256:{}", STANDARD_NO_PAD.encode(digest(&SHA256, blob)))
}

fn is_key_type(word: &str) -> bool {
    ["ssh-", "ecdsa-", "sk-"].iter().any(|start| word.starts_with(start))
}

/// Signature algorithms (RFC 8332). SHA-1, `ssh-rsa`, is not supported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SignatureAlgorithm {
    /// `rsa-sha2-256`.
    Sha256,
    /// `rsa-sha2-512`.
    Sha512,
}

impl SignatureAlgorithm {
    fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "rsa-sha2-256",
            Self::Sha512 => "rsa-sha2-512",
        }
    }

    fn encoding(self) -> &'static dyn RsaEncoding {
        match self {
            Self::Sha256 => &RSA_PKCS1_SHA256,
            Self::Sha512 => &RSA_PKCS1_SHA512,
        }
    }
}

/// A key pair. No output contains its private key.
pub(crate) struct KeyPair {
    pair: RingKeyPair,
    public: PublicKey,
}

/// A private key as text, PKCS#1 in PEM. No output contains it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Pem(pub(super) Secret);

impl Pem {
    /// Generates a key in `directory`, which must be private and is then deleted.
    ///
    /// # Errors
    /// ssh-keygen is not installed or fails; the directory is not writable.
    pub(crate) async fn generate(directory: TempDir) -> Result<Self, SshError> {
        let file = directory.path().join("key");
        keygen(&file).await?;
        let text = read(&file)
            .map_err(|error| SshError::KeyGeneration(format!("ssh-keygen created no key: {error}")))?;
        Ok(Self(text.into()))
    }

    /// The text of a key file.
    pub(crate) fn text(&self) -> &str {
        self.0.secret()
    }
}

impl KeyPair {
    /// Parses a private key.
    ///
    /// # Errors
    /// The text is not an RSA private key.
    pub(crate) fn from_pem(pem: &Pem) -> Result<Self> {
        let body = pem.text().trim().strip_prefix(BEGIN).and_then(|text| text.strip_suffix(END));
        let body = body.context("it is not PKCS#1 in PEM")?;
        let body: Zeroizing<String> = Zeroizing::new(body.split_ascii_whitespace().collect());
        // Errors of the decoders are dropped, since they can quote the key.
        let der = STANDARD.decode(body.as_bytes()).ok().context("it is not base64, or encrypted")?;
        let der = Zeroizing::new(der);
        let pair =
            RingKeyPair::from_der(&der).ok().context("it is not a private key of 2048 to 4096 bits")?;
        let PublicKeyComponents { e, n } = PublicKeyComponents::from(pair.public());
        let public = PublicKey { e, n };
        Ok(Self { pair, public })
    }

    pub(crate) fn public(&self) -> &PublicKey {
        &self.public
    }

    /// Signs `data`, in the encoding of SSH messages; `None` if the system has no random numbers.
    pub(crate) fn sign(&self, data: &[u8], algorithm: SignatureAlgorithm) -> Option<Vec<u8>> {
        let mut signature = vec![0; self.pair.public().modulus_len()];
        self.pair.sign(algorithm.encoding(), &SystemRandom::new(), data, &mut signature).ok()?;
        let mut blob = Vec::new();
        put_string(&mut blob, algorithm.name().as_bytes());
        put_string(&mut blob, &signature);
        Some(blob)
    }
}

impl fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyPair").field("public", &self.public).finish_non_exhaustive()
    }
}

async fn keygen(file: &Path) -> Result<(), SshError> {
    let mut command = Command::new(client::ssh_keygen()?);
    command
        .args(["-q", "-t", "rsa", "-b", &BITS.to_string(), "-m", "PEM", "-N", "", "-C", "arcssh", "-f"])
        .arg(file);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    #[cfg(unix)]
    command.process_group(0);
    let output = timeout(KEYGEN_TIMEOUT, command.output()).await.map_err(|_elapsed| {
        SshError::KeyGeneration(format!("ssh-keygen did not end within {} s", KEYGEN_TIMEOUT.as_secs()))
    })?;
    let output = output.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => SshError::NoKeygen,
        io::ErrorKind::WouldBlock => SshError::NoProcess(error.to_string()),
        _ => SshError::KeyGeneration(format!("cannot start ssh-keygen: {error}")),
    })?;
    if output.status.success() {
        return Ok(());
    }
    let cause = String::from_utf8_lossy(&output.stderr);
    Err(SshError::KeyGeneration(format!("ssh-keygen created no key: {}", cause.trim())))
}

/// The text of a regular file of at most [`MAX_FILE`] bytes. The comment of a key can be in any encoding.
fn read(path: &Path) -> io::Result<String> {
    Ok(String::from_utf8_lossy(&files::read(path, MAX_FILE)?).into_owned())
}

#[cfg(all(test, unix))]
mod tests;
