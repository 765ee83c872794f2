//! OpenSSH user certificates for RSA keys (PROTOCOL.certkeys): parsed, checked and displayed.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::rsa::PublicKeyComponents;
use ring::signature::{
    RSA_PKCS1_2048_8192_SHA1_FOR_LEGACY_USE_ONLY, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA512,
};
use serde_json::{Value, json};

use crate::ssh::rsa_key::{PublicKey, SSH_RSA, fingerprint};
use crate::ssh::wire::{Malformed, Reader};
use crate::system::clock::format_time;
use crate::text::fields;

/// The key type of these certificates.
pub(crate) const ALGORITHM: &str = "ssh-rsa-cert-v01@openssh.com";
/// The most bytes of a certificate's text. A certificate of Entra ID has about 2 kB.
const MAX_TEXT: usize = 64 * 1024;
/// The most principals that OpenSSH accepts (sshkey.h, `SSHKEY_CERT_MAX_PRINCIPALS`).
const MAX_PRINCIPALS: usize = 256;
/// How far in the future a certificate may become valid, in seconds. The server's clock decides, and the local clock can be
/// behind.
const CLOCK_SKEW: u64 = 5 * 60;

/// Key types of authorities other than RSA (PROTOCOL.certkeys).
const OTHER_AUTHORITIES: [&str; 6] = [
    "ssh-ed25519",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
];

/// The types of certificates (PROTOCOL.certkeys).
const USER: u32 = 1;
const HOST: u32 = 2;

/// Why a certificate cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CertificateError {
    /// The text is too long.
    #[error("the certificate has more than {} bytes", MAX_TEXT)]
    TooLarge,
    /// The text is damaged, or is not a certificate.
    #[error("it is not an {ALGORITHM} certificate: {0}")]
    Malformed(&'static str),
    /// The certificate is for another key.
    #[error("the certificate is for another key")]
    AnotherKey,
    /// The certificate is for a server.
    #[error("the certificate is for a host, not for a user")]
    ForHost,
    /// The end of its validity, in seconds of Unix time.
    #[error("the certificate expired at {}", format_time(*.0))]
    Expired(u64),
    /// The beginning of its validity, in seconds of Unix time.
    #[error("the certificate is not valid before {}, according to the clock of this computer", format_time(*.0))]
    NotYetValid(u64),
    /// The certificate is for no user.
    #[error("the certificate has no principals, so it is valid for no login name")]
    NoPrincipals,
}

impl From<Malformed> for CertificateError {
    fn from(_: Malformed) -> Self {
        Self::Malformed("it is not in the encoding of SSH")
    }
}

/// A well-formed certificate. [`Certificate::check`] tests whether it is usable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Certificate {
    blob: Vec<u8>,
    key: PublicKey,
    serial: u64,
    kind: u32,
    key_id: String,
    principals: Vec<String>,
    valid_after: u64,
    valid_before: u64,
    critical_options: Vec<NamedOption>,
    extensions: Vec<NamedOption>,
    authority: Vec<u8>,
}

/// A critical option or an extension.
#[derive(Clone, Debug, PartialEq, Eq)]
struct NamedOption {
    name: String,
    data: Vec<u8>,
}

impl Certificate {
    /// Returns whether the certificate is for the key.
    pub(crate) fn is_for(&self, key: &PublicKey) -> bool {
        self.key == *key
    }

    /// Parses the line of a `-cert.pub` file, or only its base64 body.
    ///
    /// # Errors
    /// The text is too long or not a certificate.
    pub(crate) fn parse(text: &str) -> Result<Self, CertificateError> {
        if text.len() > MAX_TEXT {
            return Err(CertificateError::TooLarge);
        }
        let words: Vec<&str> = text.split_ascii_whitespace().collect();
        let body = match words.as_slice() {
            [ALGORITHM, body, ..] => body,
            [body] => body,
            _ => return Err(CertificateError::Malformed("it is not one line of base64")),
        };
        let blob = STANDARD.decode(body).map_err(|_| CertificateError::Malformed("it is not base64"))?;
        Self::from_blob(blob)
    }

    /// The fields in the order of PROTOCOL.certkeys.
    fn from_blob(blob: Vec<u8>) -> Result<Self, CertificateError> {
        let mut fields = Reader::new(&blob);
        if fields.string()? != ALGORITHM.as_bytes() {
            return Err(CertificateError::Malformed("it is of another type"));
        }
        let _nonce = fields.string()?;
        let key = PublicKey { e: fields.positive()?.to_vec(), n: fields.positive()?.to_vec() };
        let (serial, kind) = (fields.uint64()?, fields.uint32()?);
        if ![USER, HOST].contains(&kind) {
            return Err(CertificateError::Malformed("it is neither for a user nor for a host"));
        }
        let (key_id, principals) = (fields.text()?.to_owned(), principals(fields.string()?)?);
        let (valid_after, valid_before) = (fields.uint64()?, fields.uint64()?);
        let (critical_options, extensions) =
            (named_options(fields.string()?)?, named_options(fields.string()?)?);
        let _reserved = fields.string()?;
        let authority = fields.string()?.to_vec();
        let signed = &blob[..blob.len() - fields.left()];
        verify(signed, &authority, fields.string()?)?;
        fields.end()?;
        Ok(Self {
            key,
            serial,
            kind,
            key_id,
            principals,
            valid_after,
            valid_before,
            critical_options,
            extensions,
            authority,
            blob,
        })
    }

    /// Checks that a user can log in with the certificate and this key at a time in Unix time.
    ///
    /// # Errors
    /// The reason why the user cannot.
    pub(crate) fn check(&self, key: &PublicKey, now: u64) -> Result<(), CertificateError> {
        if self.key != *key {
            return Err(CertificateError::AnotherKey);
        }
        if self.kind != USER {
            return Err(CertificateError::ForHost);
        }
        if self.valid_before <= now {
            return Err(CertificateError::Expired(self.valid_before));
        }
        if self.valid_after > now.saturating_add(CLOCK_SKEW) {
            return Err(CertificateError::NotYetValid(self.valid_after));
        }
        self.login_name().map(|_| ()).ok_or(CertificateError::NoPrincipals)
    }

    /// The user to log in as: the first principal in lower case (azure-cli-extensions `ssh`, custom.py:
    /// `username.lower()`).
    pub(crate) fn login_name(&self) -> Option<String> {
        self.principals.first().filter(|name| !name.is_empty()).map(|name| name.to_lowercase())
    }

    /// Returns whether the certificate is for the user.
    pub(crate) fn lets_in(&self, user: &str) -> bool {
        self.principals.iter().any(|name| name.to_lowercase() == user.to_lowercase())
    }

    /// Returns whether both have the same issuer.
    pub(crate) fn has_authority_of(&self, other: &Self) -> bool {
        self.authority == other.authority
    }

    /// The first second after its validity, in Unix time.
    pub(crate) fn valid_before(&self) -> u64 {
        self.valid_before
    }

    /// The certificate in the encoding of SSH messages.
    pub(crate) fn blob(&self) -> &[u8] {
        &self.blob
    }

    /// The line of a `-cert.pub` file.
    pub(crate) fn to_line(&self) -> String {
        format!("{ALGORITHM} {}\n", STANDARD.encode(&self.blob))
    }
}

impl Certificate {
    /// Returns the contents as JSON. A time is `null` if there is no limit.
    pub(crate) fn json(&self) -> Value {
        let options = |options: &[NamedOption]| options.iter().map(ToString::to_string).collect::<Vec<_>>();
        json!({
            "loginName": self.login_name(), "principals": self.principals, "keyId": self.key_id,
            "serial": self.serial.to_string(), "validFrom": Some(self.valid_after).filter(|at| *at > 0).map(format_time),
            "expires": Some(self.valid_before).filter(|at| *at < u64::MAX).map(format_time),
            "publicKey": fingerprint(&self.key.blob()), "signedBy": fingerprint(&self.authority),
            "criticalOptions": options(&self.critical_options), "extensions": options(&self.extensions),
        })
    }
}

impl fmt::Display for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&fields(&[
            ("login name", self.login_name().unwrap_or("none".into())),
            ("principals", list(self.principals.iter().cloned())),
            ("valid", validity(self.valid_after, self.valid_before)),
            ("key ID", self.key_id.clone()),
            ("serial", self.serial.to_string()),
            ("public key", fingerprint(&self.key.blob())),
            ("signed by", fingerprint(&self.authority)),
            ("critical options", list(self.critical_options.iter().map(NamedOption::to_string))),
            ("extensions", list(self.extensions.iter().map(NamedOption::to_string))),
        ]))
    }
}

impl fmt::Display for NamedOption {
    /// The name, with the value if the data is one string.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut data = Reader::new(&self.data);
        match data.text() {
            Ok(value) if data.end().is_ok() => write!(f, "{}={value}", self.name),
            _ => f.write_str(&self.name),
        }
    }
}

fn principals(list: &[u8]) -> Result<Vec<String>, CertificateError> {
    let (mut list, mut principals) = (Reader::new(list), Vec::new());
    while list.left() > 0 {
        if principals.len() == MAX_PRINCIPALS {
            return Err(CertificateError::Malformed("it has too many principals"));
        }
        principals.push(list.text()?.to_owned());
    }
    Ok(principals)
}

fn named_options(list: &[u8]) -> Result<Vec<NamedOption>, Malformed> {
    let (mut list, mut all) = (Reader::new(list), Vec::new());
    while list.left() > 0 {
        all.push(NamedOption { name: list.text()?.to_owned(), data: list.string()?.to_vec() });
    }
    Ok(all)
}

/// Verifies RSA signatures, which Entra ID uses, because ssh ignores a certificate with an invalid signature without a
/// message. ssh verifies the signatures of other key types.
fn verify(signed: &[u8], authority: &[u8], signature: &[u8]) -> Result<(), CertificateError> {
    let kind = Reader::new(authority).text()?;
    let mut signature = Reader::new(signature);
    let (algorithm, bytes) = (signature.text()?, signature.string()?);
    signature.end()?;
    let parameters = match (kind, algorithm) {
        (SSH_RSA, "rsa-sha2-512") => &RSA_PKCS1_2048_8192_SHA512,
        (SSH_RSA, "rsa-sha2-256") => &RSA_PKCS1_2048_8192_SHA256,
        (SSH_RSA, SSH_RSA) => &RSA_PKCS1_2048_8192_SHA1_FOR_LEGACY_USE_ONLY,
        (other, _) if OTHER_AUTHORITIES.contains(&other) => return Ok(()),
        _ => return Err(CertificateError::Malformed("arcssh does not know the type of its signature")),
    };
    let PublicKey { e, n } = PublicKey::from_blob(authority)?;
    let verified = PublicKeyComponents { n, e }.verify(parameters, signed, bytes);
    verified.map_err(|_| CertificateError::Malformed("its signature is wrong"))
}

fn list(items: impl Iterator<Item = String>) -> String {
    let items: Vec<String> = items.collect();
    if items.is_empty() { "none".into() } else { items.join(", ") }
}

fn validity(after: u64, before: u64) -> String {
    match (after, before) {
        (0, u64::MAX) => "forever".into(),
        (after, u64::MAX) => format!("from {}", format_time(after)),
        (after, before) => format!("from {} to {}", format_time(after), format_time(before)),
    }
}

#[cfg(all(test, unix))]
mod tests;
