//! Why a credential source has no token.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use ring::error::KeyRejected;
use serde::{Deserialize, Serialize};

use crate::azure::entra::{EntraError, Rejection};
use crate::azure::login::LoginError;
use crate::net::NetError;
use crate::net::error::{causes, chain};
use crate::system::SystemError;

/// Why a source has no token.
#[derive(Clone, Debug)]
pub(crate) enum SourceError {
    /// The source is unavailable.
    Unavailable(Unavailable),
    /// The source is a program without a signed-in user; its message.
    SignedOut(String),
    /// The Arc agent of this computer does not respond; why.
    AgentNotRunning(String),
    /// A process of another user listens on the Arc agent's port.
    Impostor {
        address: SocketAddr,
        /// The user ID.
        user: u32,
    },
    /// The account of `arcssh login` cannot be used.
    Login(LoginError),
    /// Entra ID issued no token.
    Entra(Rejection),
    /// The network.
    Net(NetError),
    /// Other users can access the state directory.
    State(SystemError),
    /// The certificate of the service principal cannot be used.
    ClientCertificate { path: String, problem: CertificateProblem },
    /// The environment describes a service principal only in part.
    IncompleteEnvironment {
        /// The variable that selects the source.
        by: &'static str,
        /// A variable that is not set.
        missing: &'static str,
    },
    /// Azure CLI has no `ssh` extension.
    MissingSshExtension,
    /// Azure CLI does not support the user's options for certificates.
    AzureCliOptions,
    /// Anything else; the source's own message.
    Failed(String),
}

impl fmt::Display for SourceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unavailable(unavailable) => unavailable.fmt(f),
            Self::SignedOut(message) | Self::Failed(message) => f.write_str(message),
            Self::AgentNotRunning(cause) => {
                write!(f, "the Arc agent of this computer does not respond: {cause}")
            }
            Self::Impostor { address, user } => {
                write!(f, "a process of user ID {user} listens on {address} in place of the Arc agent")
            }
            Self::Login(error) => error.fmt(f),
            Self::Entra(rejection) => rejection.fmt(f),
            Self::Net(error) => error.fmt(f),
            Self::State(error) => error.fmt(f),
            Self::ClientCertificate { path, problem } => {
                write!(f, "the certificate {path} cannot be used: {problem}")
            }
            Self::IncompleteEnvironment { by, missing } => write!(f, "{by} is set, but {missing} is not"),
            Self::MissingSshExtension => {
                f.write_str("Azure CLI has no ssh extension, and no other account is signed in")
            }
            Self::AzureCliOptions => {
                f.write_str("Azure CLI requests SSH certificates without --tenant, --scope and --client-id")
            }
        }
    }
}

impl From<Unavailable> for SourceError {
    fn from(unavailable: Unavailable) -> Self {
        Self::Unavailable(unavailable)
    }
}

impl From<LoginError> for SourceError {
    fn from(error: LoginError) -> Self {
        Self::Login(error)
    }
}

impl From<EntraError> for SourceError {
    fn from(error: EntraError) -> Self {
        match error {
            EntraError::Rejected(rejection) => Self::Entra(rejection),
            EntraError::Net(error) => Self::Net(error),
            EntraError::Failed(cause) => Self::Failed(cause),
        }
    }
}

impl From<NetError> for SourceError {
    fn from(error: NetError) -> Self {
        Self::Net(error)
    }
}

impl From<SystemError> for SourceError {
    fn from(error: SystemError) -> Self {
        Self::State(error)
    }
}

impl From<anyhow::Error> for SourceError {
    fn from(error: anyhow::Error) -> Self {
        Self::Failed(chain(error.as_ref()))
    }
}

impl From<azure_core::Error> for SourceError {
    fn from(error: azure_core::Error) -> Self {
        Self::Failed(sdk_message(&error))
    }
}

/// Returns the message of a source in an error of azure_identity, which contains the output of a program. The retry policy
/// wraps it into an error without a message of its own.
fn sdk_message(error: &azure_core::Error) -> String {
    /// The text of azure_identity between the name of a credential and its message.
    const FAILED: &str = " authentication failed.";
    let text = causes(error).map(ToString::to_string).find(|text| text.contains(FAILED));
    let text = text.unwrap_or_else(|| chain(error));
    let message = text.split_once(FAILED).map_or(text.as_str(), |(_, message)| message);
    let lines = message.lines().map(str::trim);
    let lines = lines.filter(|line| !line.is_empty() && !line.starts_with("To troubleshoot"));
    lines.collect::<Vec<_>>().join(" ")
}

/// Why a source is unavailable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Unavailable {
    /// No account is signed in to arcssh.
    NoSignIn,
    /// The environment has no client secret and no certificate.
    NoSecret,
    /// The environment has no token of another issuer.
    NoFederatedToken,
    /// A program is not on PATH.
    NotInstalled {
        /// The name of the program.
        program: &'static str,
        /// The product that contains the program.
        product: &'static str,
    },
    /// PowerShell has no module `Az.Accounts`.
    NoPowerShellModule,
    /// Only the Arc agent's group may read the key, so the managed identity is available to other users.
    KeyOfAgent(PathBuf),
    /// This computer has no managed identity; why.
    NoManagedIdentity(String),
}

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSignIn => f.write_str("no account is signed in to arcssh"),
            Self::NoSecret => {
                f.write_str("neither AZURE_CLIENT_SECRET nor AZURE_CLIENT_CERTIFICATE_PATH is set")
            }
            Self::NoFederatedToken => f.write_str("AZURE_FEDERATED_TOKEN_FILE is not set"),
            Self::NotInstalled { program, .. } => write!(f, "{program} is not on PATH"),
            Self::NoPowerShellModule => f.write_str("Azure PowerShell is not installed"),
            Self::KeyOfAgent(path) => {
                write!(f, "only the group of the Arc agent may read {}", path.display())
            }
            Self::NoManagedIdentity(cause) => f.write_str(cause),
        }
    }
}

/// Why a certificate file cannot be used.
#[derive(Clone, Copy, Debug)]
pub(crate) enum CertificateProblem {
    /// The file may be PKCS #12.
    NotPem,
    /// The key is encrypted.
    Locked,
    /// The file has no certificate.
    NoCertificate,
    /// The file has no private key.
    NoKey,
    /// The key has another type.
    NotRsa,
    /// The RSA key is too short, or damaged.
    Rejected(KeyRejected),
}

impl fmt::Display for CertificateProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotPem => f.write_str("the file is not in PEM format"),
            Self::Locked => f.write_str("the key has a password"),
            Self::NoCertificate => f.write_str("the file contains no certificate"),
            Self::NoKey => f.write_str("the file contains no private key"),
            Self::NotRsa => f.write_str("the key is not an RSA key"),
            Self::Rejected(cause) => write!(f, "the key is not a usable RSA key ({cause})"),
        }
    }
}

/// A failure of a program, as other processes that need the same token read it.
#[derive(Serialize, Deserialize)]
pub(super) struct ProgramFailure {
    /// Whether no user is signed in to the program.
    #[serde(default)]
    signed_out: bool,
    /// The messages of the program, outermost first.
    words: Vec<String>,
}

impl ProgramFailure {
    /// Returns the failure, if it is one of a program.
    pub(super) fn of(error: &SourceError) -> Option<Self> {
        match error {
            SourceError::SignedOut(message) => Some(Self { signed_out: true, words: vec![message.clone()] }),
            SourceError::Failed(message) => Some(Self { signed_out: false, words: vec![message.clone()] }),
            _ => None,
        }
    }

    /// Returns the error of the process that started the program.
    pub(super) fn into_error(self) -> SourceError {
        let message = self.words.join(": ");
        if self.signed_out { SourceError::SignedOut(message) } else { SourceError::Failed(message) }
    }
}
