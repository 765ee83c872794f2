//! The Entra ID certificate of host entries.

use anyhow::Context as _;
use ring::digest::{SHA256, digest};

use crate::azure::credentials::CredentialChain;
use crate::diagnosis::Result;
use crate::entra_ssh::CertificateOptions;
use crate::entra_ssh::cache::CertificateCache;
use crate::ssh::home;
use crate::ssh::host_entry::{CertificateMode, Platform};
use crate::ssh::{SocketProblem, SshError};
use crate::text::hex;

/// The certificate that host entries log in with.
pub(super) struct Entra {
    /// The user that the certificate is for.
    pub(super) login_name: String,
    pub(super) options: CertificateOptions,
    /// The directory of agent sockets and key files; on Windows relative to the home directory, whose path may have spaces.
    folder: String,
}

impl Entra {
    /// Requests a certificate, whose principal is the user to log in as.
    ///
    /// # Errors
    /// The request fails; the platform does not support the mode.
    pub(super) async fn request(
        credentials: CredentialChain,
        options: &CertificateOptions,
        mode: CertificateMode,
        platform: Platform,
    ) -> Result<Self> {
        if platform == Platform::Windows && mode == CertificateMode::Agent {
            return Err(SshError::NoAgent.into());
        }
        let folder = match platform {
            Platform::Windows => "~/.ssh/arcssh".to_owned(),
            Platform::Unix => {
                let folder = home::directory()?.join(".ssh/arcssh");
                folder
                    .to_str()
                    .with_context(|| format!("{} is not valid Unicode", folder.display()))?
                    .to_owned()
            }
        };
        let options = options.clone();
        let pair = CertificateCache::new(credentials, options.clone())?.pair().await?;
        let login_name = pair.certificate.login_name().context("the certificate has no login name")?;
        Ok(Self { login_name, options, folder })
    }

    /// The path of the agent for a resource ID or a pattern.
    ///
    /// # Errors
    /// The path is too long.
    pub(super) fn agent(&self, target_name: &str) -> Result<String, SshError> {
        let path = format!("{}/{}", self.folder, short_hash(&target_name.to_lowercase()));
        if path.len() > MAX_AGENT {
            return Err(SshError::AgentSocket(SocketProblem::TooLong(path.into())));
        }
        Ok(path)
    }

    /// The path of the private key, and the start of the certificate's; the latter also for a key of the user.
    pub(super) fn file(&self, public_key: Option<&str>) -> String {
        let Self { folder, login_name, options: CertificateOptions { scope, client_id } } = self;
        let of_key = public_key.map_or(String::new(), |key| format!(" {key}"));
        format!("{folder}/id_{}", short_hash(&format!("{login_name} {scope:?} {client_id:?}{of_key}")))
    }
}

/// The most bytes of an agent's path. macOS allows 103 for a socket, whose name also has a number.
const MAX_AGENT: usize = 92;

/// A hash that is long enough to distinguish the machines of one user.
fn short_hash(text: &str) -> String {
    hex(&digest(&SHA256, text.as_bytes()).as_ref()[..4])
}
