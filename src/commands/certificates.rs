//! The Entra ID certificate that ssh logs in with.

use anyhow::Context as _;
use ring::digest::{SHA256, digest};

use crate::azure::credentials::CredentialChain;
use crate::azure::hybrid_compute::Machine;
use crate::diagnosis::Result;
use crate::entra_ssh::CertificateOptions;
use crate::entra_ssh::cache::CertificateCache;
use crate::ssh::home;
use crate::ssh::host_entry::{CertificateMode, Platform, to_word};
use crate::ssh::{SocketProblem, SshError};
use crate::text::hex;

/// The certificate that host entries, or ssh without a host entry, log in with.
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

    /// Returns the options of `arcssh proxy` and `arcssh cert`. Without another user, the user is the one that the certificate is
    /// for, and the certificate must remain for that user.
    pub(super) fn arguments(&self, other_user: Option<&String>) -> Vec<String> {
        let login_name = other_user.is_none().then(|| to_word(&self.login_name));
        let CertificateOptions { scope, client_id } = &self.options;
        let options = [
            ("--login-name", login_name.as_ref()),
            ("--scope", scope.as_ref()),
            ("--client-id", client_id.as_ref()),
        ];
        let options = options.into_iter().filter_map(|(name, value)| Some([name.to_owned(), value?.clone()]));
        options.flatten().collect()
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

/// Why ssh logs in to a Windows machine without a certificate (Microsoft Learn, "SSH access to Azure Arc-enabled servers";
/// azure-cli-extensions `ssh`, custom.py).
pub(super) const ONLY_LINUX: &str = "Entra users can log in to Linux machines only; for Windows, use --user and a key \
    of that user";

pub(super) fn is_windows(machine: &Machine) -> bool {
    machine.os == "windows"
}

/// The most bytes of an agent's path. macOS allows 103 for a socket, whose name also has a number.
const MAX_AGENT: usize = 92;

/// A hash that is long enough to distinguish the machines of one user.
fn short_hash(text: &str) -> String {
    hex(&digest(&SHA256, text.as_bytes()).as_ref()[..4])
}
