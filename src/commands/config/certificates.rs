//! Where sections find a certificate of Entra ID, and whom it lets in.

use anyhow::{Context, Result, ensure};
use ring::digest::{SHA256, digest};

use crate::azure::credentials::CredentialChain;
use crate::entra_ssh::CertificateOptions;
use crate::entra_ssh::cache::CertificateCache;
use crate::ssh::host_entry::{CertificateMode, Platform};
use crate::text::hex;

/// What sections hold of a certificate of Entra ID.
pub(super) struct Entra {
    /// Whom it lets in.
    pub(super) login_name: String,
    /// Which certificate.
    pub(super) asked: CertificateOptions,
    /// The folder of agents and files; on Windows relative to the user's, for its name may hold spaces.
    folder: String,
}

impl Entra {
    /// Asks for the certificate, since it alone says whom it lets in.
    ///
    /// # Errors
    /// There is no certificate, or no such way on this system.
    pub(super) async fn of(
        identity: CredentialChain,
        asked: &CertificateOptions,
        delivery: CertificateMode,
        platform: Platform,
    ) -> Result<Self> {
        ensure!(
            platform == Platform::Unix || delivery != CertificateMode::Agent,
            "OpenSSH for Windows knows no agent such as --entra=agent needs; use --entra=files"
        );
        let folder = match platform {
            Platform::Windows => "~/.ssh/arcssh".to_owned(),
            Platform::Unix => {
                let home = std::env::home_dir().context("this user has no home directory")?;
                let folder = home.join(".ssh/arcssh");
                folder.to_str().with_context(|| format!("{} is not text", folder.display()))?.to_owned()
            }
        };
        let asked = asked.clone();
        let pair = CertificateCache::new(identity, asked.clone())?.pair().await?;
        let login_name = pair.certificate.login_name().context("the certificate lets nobody in")?;
        Ok(Self { login_name, asked, folder })
    }

    /// The path of the agent for a machine or a pattern.
    ///
    /// # Errors
    /// It is too long.
    pub(super) fn agent(&self, subject: &str) -> Result<String> {
        let path = format!("{}/{}", self.folder, short_hash(&subject.to_lowercase()));
        ensure!(
            path.len() <= MAX_AGENT,
            "{path} is too long for a socket's name, of which systems take about 100 bytes; use --entra=files"
        );
        Ok(path)
    }

    /// The file of the private key.
    pub(super) fn file(&self) -> String {
        let Self { folder, login_name, asked: CertificateOptions { scope, client_id } } = self;
        format!("{folder}/id_{}", short_hash(&format!("{login_name} {scope:?} {client_id:?}")))
    }
}

/// Bytes of an agent's path: macOS takes 103, of which the number of a process takes some.
const MAX_AGENT: usize = 92;

/// Enough to tell the machines of one user apart.
fn short_hash(text: &str) -> String {
    hex(&digest(&SHA256, text.as_bytes()).as_ref()[..4])
}
