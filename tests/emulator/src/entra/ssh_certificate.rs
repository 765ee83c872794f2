//! SSH certificates: the token endpoint with `token_type=ssh-cert`.
//!
//! The parameters are those of azure-cli-extensions ssh `custom.py`. The contents follow certificates in public issues.
//! ssh-keygen signs them.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::Value;
use uuid::Uuid;

use crate::encoding::Parameters;
use crate::entra::error::{EntraError, malformed, missing};
use crate::fault_queue::FaultQueue;
use crate::keygen::{RSA, generate_key, ssh_keygen};

/// A defect of a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CertificateFault {
    /// It is for another key than that of the request.
    AnotherKey,
    /// It has expired.
    Expired,
    /// It is not valid yet.
    NotYetValid,
    /// It is a host certificate.
    HostType,
    /// Another authority signed it.
    AnotherAuthority,
    /// It is not a certificate.
    Garbage,
    /// It has 16 MiB.
    Huge,
}

/// The subject of a certificate.
pub(crate) struct CertificateSubject<'a> {
    /// The name of a user, or the client ID of a service principal.
    pub(crate) principal: &'a str,
    pub(crate) object_id: &'a str,
    pub(crate) tenant: &'a str,
}

pub(crate) struct SshCertificates {
    directory: PathBuf,
    pub(crate) lifetime: Duration,
    authority: OnceLock<PathBuf>,
    pub(crate) faults: FaultQueue<CertificateFault>,
}

impl SshCertificates {
    pub(crate) fn new(directory: &Path, lifetime: Duration) -> Self {
        let directory = directory.to_owned();
        Self { directory, lifetime, authority: OnceLock::new(), faults: FaultQueue::default() }
    }

    /// Returns the public key of the authority as a line of authorized_keys.
    pub(crate) fn public_key(&self) -> String {
        let file = self.authority().with_extension("pub");
        fs::read_to_string(file).expect("ssh-keygen wrote the public key")
    }

    fn authority(&self) -> &Path {
        self.authority.get_or_init(|| {
            let file = self.directory.join("ssh-authority");
            generate_key(&RSA, &file).expect("ssh-keygen generates an RSA key");
            file
        })
    }

    /// Issues a certificate for the key in `form`. Returns it in base64, without its type.
    pub(crate) fn issue(
        &self,
        form: &Parameters,
        subject: &CertificateSubject,
        now: u64,
    ) -> Result<String, EntraError> {
        let key = requested_key(form)?;
        let fault = self.faults.next(|_| true);
        match fault {
            Some(CertificateFault::Garbage) => return Ok("AAAAgarbage".to_owned()),
            Some(CertificateFault::Huge) => return Ok("A".repeat(16 << 20)),
            _ => {}
        }
        let signed = self.sign(&key, subject, now, fault);
        signed.map_err(|error| EntraError::new("server_error", 90033, format!("{error:#}")))
    }

    fn sign(
        &self,
        key: &[u8],
        subject: &CertificateSubject,
        now: u64,
        fault: Option<CertificateFault>,
    ) -> anyhow::Result<String> {
        let file = self.directory.join(format!("ssh-{}", Uuid::new_v4()));
        let (public, certificate) = (file.with_extension("pub"), file.with_file_name(cert_name(&file)));
        let other = self.directory.join(format!("ssh-other-{}", Uuid::new_v4()));
        if matches!(fault, Some(CertificateFault::AnotherKey | CertificateFault::AnotherAuthority)) {
            generate_key(&RSA, &other)?;
        }
        match fault {
            Some(CertificateFault::AnotherKey) => drop(fs::copy(other.with_extension("pub"), &public)?),
            _ => fs::write(&public, format!("ssh-rsa {}\n", STANDARD.encode(key)))?,
        }
        let another = fault == Some(CertificateFault::AnotherAuthority);
        let authority = if another { other.as_path() } else { self.authority() };
        let CertificateSubject { principal, object_id, tenant } = subject;
        let key_id = format!("{object_id}@{tenant}");
        let validity = self.validity(now, fault);
        let extension = |name: &str, value: &str| format!("extension:{name}@sshservice.azure.net={value}");
        let (tid, oid) = (extension("tid", tenant), extension("oid", object_id));
        let kind: &[&str] = match fault {
            Some(CertificateFault::HostType) => &["-h"],
            _ => &["-O", &tid, "-O", &oid],
        };
        let options = [&["-I", &key_id, "-n", principal, "-V", &validity], kind].concat();
        let signer = [OsStr::new("-s"), authority.as_os_str()].into_iter();
        ssh_keygen(signer.chain(options.into_iter().map(OsStr::new)).chain([public.as_os_str()]))?;
        let text = fs::read_to_string(certificate)?;
        Ok(text.split(' ').nth(1).context("no certificate")?.to_owned())
    }

    /// Returns the validity for `ssh-keygen -V`, in hexadecimal seconds.
    fn validity(&self, now: u64, fault: Option<CertificateFault>) -> String {
        let lifetime = self.lifetime.as_secs();
        let start = match fault {
            Some(CertificateFault::Expired) => now - 2 * lifetime - 86_400,
            Some(CertificateFault::NotYetValid) => now + 86_400,
            _ => now,
        };
        format!("{start:#x}:{:#x}", start + lifetime)
    }
}

/// The name of ssh-keygen's output: `{file}-cert.pub`.
fn cert_name(file: &Path) -> String {
    format!("{}-cert.pub", file.file_name().unwrap_or_default().display())
}

/// Returns the public key of a request in SSH's wire format. Clients encode it with or without padding and with or
/// without a leading zero.
fn requested_key(form: &Parameters) -> Result<Vec<u8>, EntraError> {
    let text = form.value("req_cnf").ok_or_else(|| missing("req_cnf"))?;
    let jwk: Value = serde_json::from_str(text).map_err(|_| malformed("req_cnf is not JSON"))?;
    if jwk["kty"] != "RSA" {
        return Err(malformed("req_cnf is not an RSA key"));
    }
    if form.value("key_id").is_some_and(|id| jwk["kid"] != id) {
        return Err(malformed("key_id is not the kid of req_cnf"));
    }
    let number = |name: &str| {
        let text = jwk[name].as_str()?.trim_end_matches('=');
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let start = bytes.iter().position(|byte| *byte != 0)?;
        Some(bytes[start..].to_vec())
    };
    let (n, e) = number("n").zip(number("e")).ok_or_else(|| malformed("n or e of req_cnf"))?;
    let mut key = Vec::new();
    for mut part in [b"ssh-rsa".to_vec(), e, n] {
        if part[0] >= 0x80 {
            part.insert(0, 0);
        }
        key.extend((part.len() as u32).to_be_bytes());
        key.extend(part);
    }
    Ok(key)
}
