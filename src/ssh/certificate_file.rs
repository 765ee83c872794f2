//! The certificate of a user's own certificate authority, which a host entry names with `CertificateFile` (ssh_config(5)).

use std::io::ErrorKind;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::ssh::home;
use crate::ssh::wire::{Malformed, Reader, put_string};
use crate::system::clock::{format_time, unix_now};
use crate::system::files;

/// The most bytes of a key or certificate. A certificate with the most principals that OpenSSH accepts is smaller.
const MAX_FILE: u64 = 256 * 1024;
/// The end of a certificate's type (PROTOCOL.certkeys).
const CERTIFICATE: &str = "-cert-v01@openssh.com";
/// The types of certificates with the number of fields of their keys (PROTOCOL.certkeys, PROTOCOL.u2f).
const TYPES: [(&str, usize); 8] = [
    ("ssh-rsa-cert-v01@openssh.com", 2),
    ("ssh-dss-cert-v01@openssh.com", 4),
    ("ssh-ed25519-cert-v01@openssh.com", 1),
    ("ecdsa-sha2-nistp256-cert-v01@openssh.com", 2),
    ("ecdsa-sha2-nistp384-cert-v01@openssh.com", 2),
    ("ecdsa-sha2-nistp521-cert-v01@openssh.com", 2),
    ("sk-ssh-ed25519-cert-v01@openssh.com", 2),
    ("sk-ecdsa-sha2-nistp256-cert-v01@openssh.com", 3),
];
/// The type of a certificate for a user (PROTOCOL.certkeys).
const USER: u32 = 1;

/// Why ssh cannot log in with a certificate file. The text is a verb with its object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Problem {
    /// The file is of another kind.
    Unusable(String),
    /// The file is missing, or its certificate is not valid at this time.
    NotNow(String),
}

impl Problem {
    /// Returns the cause.
    pub(crate) fn cause(&self) -> &str {
        let (Self::Unusable(cause) | Self::NotNow(cause)) = self;
        cause
    }
}

fn unusable<T>(cause: &str) -> Result<T, Problem> {
    Err(Problem::Unusable(cause.to_owned()))
}

/// The fields of a certificate that decide whether ssh can use it.
struct Certificate {
    /// The public key in the encoding of SSH messages.
    key: Vec<u8>,
    kind: u32,
    valid_after: u64,
    valid_before: u64,
}

/// Checks that a file is a certificate for a user, for the key in `identity` if arcssh can read that key, and valid now.
///
/// # Errors
/// The reason why ssh cannot use it.
pub(crate) fn check(file: &Path, identity: Option<&Path>) -> Result<(), Problem> {
    let bytes = files::read(&home::expanded(file), MAX_FILE).map_err(|error| {
        let is_missing = error.kind() == ErrorKind::NotFound;
        Problem::NotNow(if is_missing { "does not exist".into() } else { format!("cannot be read: {error}") })
    })?;
    let certificate = Certificate::parse(&String::from_utf8_lossy(&bytes))?;
    if certificate.kind != USER {
        return unusable("is for a host, not for a user");
    }
    if let Some(identity) = identity
        && public_key(&home::expanded(identity)).is_some_and(|key| key != certificate.key)
    {
        return unusable(&format!("is for another key than {}", identity.display()));
    }
    certificate.check_validity(unix_now())
}

impl Certificate {
    fn parse(text: &str) -> Result<Self, Problem> {
        if text.contains("PRIVATE KEY-----") {
            return unusable("is a private key, not a certificate");
        }
        if text.contains("-----BEGIN ") || text.contains("---- BEGIN ") {
            return unusable("is in another format than OpenSSH's");
        }
        let (kind, blob) = line(text).unwrap_or_default();
        let Some((_, fields)) = TYPES.into_iter().find(|(name, _)| *name == kind) else {
            let is_key = ["ssh-", "ecdsa-", "sk-"].iter().any(|start| kind.starts_with(start));
            return unusable(if is_key && !kind.contains("-cert-") {
                "is a public key, not a certificate"
            } else {
                "is no OpenSSH certificate"
            });
        };
        let read = |blob: Option<Vec<u8>>| Self::read(&blob.ok_or(Malformed)?, kind, fields);
        read(blob).or_else(|_| unusable("is damaged"))
    }

    /// Reads the fields up to the validity, in the order of PROTOCOL.certkeys.
    fn read(blob: &[u8], kind: &str, fields: usize) -> Result<Self, Malformed> {
        let mut reader = Reader::new(blob);
        if reader.string()? != kind.as_bytes() {
            return Err(Malformed);
        }
        let _nonce = reader.string()?;
        let name = kind.strip_suffix(CERTIFICATE).ok_or(Malformed)?;
        let domain = if name.starts_with("sk-") { "@openssh.com" } else { "" };
        let mut key = Vec::new();
        put_string(&mut key, format!("{name}{domain}").as_bytes());
        for _ in 0..fields {
            put_string(&mut key, reader.string()?);
        }
        let _serial = reader.uint64()?;
        let kind = reader.uint32()?;
        let (_key_id, _principals) = (reader.string()?, reader.string()?);
        Ok(Self { key, kind, valid_after: reader.uint64()?, valid_before: reader.uint64()? })
    }

    fn check_validity(&self, now: u64) -> Result<(), Problem> {
        let (after, before) = (self.valid_after, self.valid_before);
        if before <= now {
            return Err(Problem::NotNow(format!("expired at {}", format_time(before))));
        }
        if after > now {
            return Err(Problem::NotNow(format!("is not valid before {}", format_time(after))));
        }
        Ok(())
    }
}

/// The type and the decoded body of the first line that is not a comment.
fn line(text: &str) -> Option<(&str, Option<Vec<u8>>)> {
    let is_key = |line: &&str| !line.is_empty() && !line.starts_with('#');
    let mut words = text.lines().map(str::trim).find(is_key)?.split_ascii_whitespace();
    Some((words.next()?, words.next().and_then(|body| STANDARD.decode(body).ok())))
}

/// Returns the public key of an `IdentityFile`: a public key, a private key in OpenSSH's format, or the `.pub` file of another
/// private key.
fn public_key(identity: &Path) -> Option<Vec<u8>> {
    let text = |path: &Path| Some(String::from_utf8_lossy(&files::read(path, MAX_FILE).ok()?).into_owned());
    let of_private_key = |text: &str| {
        let body = text.trim().strip_prefix("-----BEGIN OPENSSH PRIVATE KEY-----")?;
        let body: String = body.split("-----END").next()?.split_ascii_whitespace().collect();
        public_part(&STANDARD.decode(body).ok()?)
    };
    let own = text(identity);
    let found = own.as_deref().and_then(|own| of_private_key(own).or_else(|| line(own)?.1));
    found.or_else(|| {
        let mut file = identity.as_os_str().to_owned();
        file.push(".pub");
        line(&text(Path::new(&file))?)?.1
    })
}

/// Reads the public key of a private key, which is not encrypted (PROTOCOL.key).
fn public_part(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut reader = Reader::new(bytes.strip_prefix(b"openssh-key-v1\0")?);
    let (_cipher, _kdf, _options) = (reader.string().ok()?, reader.string().ok()?, reader.string().ok()?);
    let _count = reader.uint32().ok()?;
    reader.string().ok().map(<[u8]>::to_vec)
}

#[cfg(all(test, unix))]
mod tests {
    use std::fs;
    use std::process::Command;

    use super::*;

    fn keygen(folder: &Path, arguments: &[&str]) {
        let output = Command::new("ssh-keygen").current_dir(folder).arg("-q").args(arguments).output();
        let output = output.expect("ssh-keygen is installed");
        assert!(output.status.success(), "{arguments:?}: {output:?}");
    }

    fn cause(folder: &Path, file: &str, identity: Option<&str>) -> String {
        let identity = identity.map(|name| folder.join(name));
        let problem = check(&folder.join(file), identity.as_deref()).err();
        problem.map(|problem| problem.cause().to_owned()).unwrap_or_default()
    }

    #[test]
    fn certificates_of_all_key_types_are_accepted_for_their_key() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        keygen(folder, &["-t", "ed25519", "-N", "", "-f", "ca"]);
        for (name, kind, passphrase, format) in [
            ("rsa", "rsa", "", "RFC4716"),
            ("pem", "rsa", "secret", "PEM"),
            ("locked", "ed25519", "secret", "RFC4716"),
            ("ed25519", "ed25519", "", "RFC4716"),
            ("ecdsa", "ecdsa", "", "RFC4716"),
        ] {
            keygen(folder, &["-t", kind, "-N", passphrase, "-m", format, "-f", name]);
            keygen(folder, &["-s", "ca", "-I", "id", "-n", "ada", "-V", "+1d", &format!("{name}.pub")]);
            let file = format!("{name}-cert.pub");
            assert_eq!(cause(folder, &file, Some(name)), "");
            assert_eq!(cause(folder, &file, Some(&format!("{name}.pub"))), "");
            assert_eq!(cause(folder, &file, Some("missing")), "");
            let other = folder.join("ca");
            assert_eq!(
                cause(folder, &file, Some("ca")),
                format!("is for another key than {}", other.display())
            );
            // ssh reads a private key without its .pub file.
            fs::rename(folder.join(format!("{name}.pub")), folder.join("elsewhere.pub")).unwrap();
            assert_eq!(cause(folder, &file, Some(name)), "");
        }
    }

    #[test]
    fn other_files_are_reported() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        keygen(folder, &["-t", "ed25519", "-N", "", "-f", "key"]);
        for (file, options) in [
            ("host", &["-h", "-n", "web01"][..]),
            ("expired", &["-n", "ada", "-V", "20200101000000Z:20210101000000Z"]),
            ("future", &["-n", "ada", "-V", "21000101000000Z:21100101000000Z"]),
            ("forever", &["-n", "ada"]),
        ] {
            keygen(folder, &[&["-s", "key", "-I", "id"], options, &["key.pub"]].concat());
            fs::rename(folder.join("key-cert.pub"), folder.join(file)).unwrap();
        }
        let certificate = fs::read_to_string(folder.join("forever")).unwrap();
        fs::write(folder.join("damaged"), &certificate[..120]).unwrap();
        fs::write(folder.join("pem"), "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n")
            .unwrap();
        fs::write(folder.join("text"), "hello\n").unwrap();
        for (file, expected) in [
            ("forever", ""),
            ("host", "is for a host, not for a user"),
            ("expired", "expired at 2021-01-01T00:00:00Z"),
            ("future", "is not valid before 2100-01-01T00:00:00Z"),
            ("key", "is a private key, not a certificate"),
            ("key.pub", "is a public key, not a certificate"),
            ("damaged", "is damaged"),
            ("pem", "is in another format than OpenSSH's"),
            ("text", "is no OpenSSH certificate"),
            ("missing", "does not exist"),
        ] {
            assert_eq!(cause(folder, file, None), expected, "{file}");
        }
        assert!(cause(folder, ".", None).starts_with("cannot be read: "));
    }
}
