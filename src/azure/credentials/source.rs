//! Why a credential source has no token.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use ring::error::KeyRejected;
use serde::{Deserialize, Serialize};

use crate::azure::cloud::CloudName;
use crate::azure::entra::{EntraError, Rejection};
use crate::azure::login::LoginError;
use crate::net::NetError;
use crate::net::error::{causes, chain};
use crate::system::SystemError;

/// Why a source has no token.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum SourceError {
    /// The source is unavailable.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
    /// The Arc agent of this computer does not respond; why.
    #[error("the Arc agent of this computer does not respond: {0}")]
    AgentNotRunning(String),
    /// A process of another user listens on the Arc agent's port.
    #[error("a process of user ID {user} listens on {address} in place of the Arc agent")]
    Impostor {
        address: SocketAddr,
        /// The user ID.
        user: u32,
    },
    /// The account of `arcssh login` cannot be used.
    #[error(transparent)]
    Login(#[from] LoginError),
    /// Entra ID issued no token.
    #[error("{0}")]
    Entra(Rejection),
    /// The network.
    #[error(transparent)]
    Net(#[from] NetError),
    /// Other users can access the state directory.
    #[error(transparent)]
    State(#[from] SystemError),
    /// The certificate of the service principal cannot be used.
    #[error("the certificate {path} cannot be used: {problem}")]
    ClientCertificate { path: String, problem: CertificateProblem },
    /// The environment describes a service principal only in part.
    #[error("{by} is set, but {missing} is not")]
    IncompleteEnvironment {
        /// The variable that selects the source.
        by: &'static str,
        /// A variable that is not set.
        missing: &'static str,
    },
    /// The OIDC service of a pipeline issued no token; its status, or another cause.
    #[error("{issuer} issued no OIDC token ({cause})")]
    Oidc { issuer: Issuer, cause: String },
    /// A variable of the environment has an unusable value.
    #[error("{name}={value:?} cannot be used: it is not {expected}")]
    Variable { name: &'static str, value: String, expected: &'static str },
    /// Azure CLI has no `ssh` extension.
    #[error("Azure CLI has no ssh extension, and no other account is signed in")]
    MissingSshExtension,
    /// Azure CLI does not support the user's options for certificates.
    #[error("Azure CLI requests SSH certificates without --tenant, --scope and --client-id")]
    AzureCliOptions,
    /// A program exited with status 0, but its output contains no token.
    #[error("its output is not a token")]
    NoToken,
    /// Azure CLI failed, and uses another cloud.
    #[error("it uses the cloud {own}, and arcssh the cloud {} ({message})", cloud.in_azure_cli())]
    OtherCloud { own: String, cloud: CloudName, message: String },
    /// The managed identity of Azure CLI is not one of the tenant.
    #[error("the managed identity is in the tenant {own:?}, and gets no token of the tenant {tenant:?}")]
    OtherTenant { own: String, tenant: String },
    /// A metadata service rejected the request for a token.
    #[error(transparent)]
    MetadataService(#[from] MetadataServiceError),
    /// Anything else; the source's own message.
    #[error("{0}")]
    Failed(String),
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

/// A response of IMDS or of App Service without a token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the metadata service responded {status}{}{description}", if description.is_empty() { "" } else { ": " })]
pub(crate) struct MetadataServiceError {
    pub(crate) status: u16,
    /// The service's own text; empty if it sent none.
    pub(crate) description: String,
    /// AZURE_CLIENT_ID, which selects the identity.
    pub(crate) client_id: Option<String>,
}

/// An issuer of tokens for the jobs of a pipeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Issuer {
    GitHubActions,
    AzurePipelines,
}

impl fmt::Display for Issuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::GitHubActions => "GitHub Actions",
            Self::AzurePipelines => "Azure Pipelines",
        })
    }
}

/// The variables with the tenant and the client ID of an application.
pub(crate) const TENANT_ID: &str = "AZURE_TENANT_ID";
pub(crate) const CLIENT_ID: &str = "AZURE_CLIENT_ID";

/// Why a source is unavailable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub(crate) enum Unavailable {
    /// No account is signed in to arcssh.
    #[error("no account is signed in to arcssh")]
    NoSignIn,
    /// The environment has no client secret and no certificate.
    #[error("neither AZURE_CLIENT_SECRET nor AZURE_CLIENT_CERTIFICATE_PATH is set")]
    NoSecret,
    /// The environment has no token of another issuer.
    #[error("AZURE_FEDERATED_TOKEN_FILE is not set, and there is no OIDC service of a pipeline")]
    NoFederatedToken,
    /// The job of a pipeline lacks a variable that a token of the pipeline requires.
    #[error("this job of {issuer} has no {missing}")]
    IncompletePipeline {
        issuer: Issuer,
        /// The name of the variable.
        missing: String,
    },
    /// A program is not on PATH, and not in a usual directory.
    #[error("{program} is not on the PATH of this process, and not in a usual directory")]
    NotInstalled {
        /// The name of the program.
        program: String,
        /// The product that contains the program.
        product: String,
    },
    /// A program cannot be started; why.
    #[error("{program} cannot be started: {cause}")]
    CannotRun { program: String, product: String, cause: String },
    /// No user is signed in to a program; its message.
    #[error("{0}")]
    SignedOut(String),
    /// PowerShell has no module `Az.Accounts`.
    #[error("Azure PowerShell is not installed")]
    NoPowerShellModule,
    /// Only the Arc agent's group may read the key, so the managed identity is available to other users.
    #[error("only the group of the Arc agent may read {}", .0.display())]
    KeyOfAgent(PathBuf),
    /// This computer has no managed identity; why.
    #[error("{0}")]
    NoManagedIdentity(String),
    /// The metadata service did not respond, and the user has selected an identity.
    #[error("the metadata service did not respond within {0} s")]
    NoResponse(u64),
}

impl Unavailable {
    /// Returns whether the source exists on this computer, so that the user may expect it to work.
    pub(crate) fn is_notable(&self) -> bool {
        match self {
            // A job that names an application uses it.
            Self::IncompletePipeline { missing, .. } => ![TENANT_ID, CLIENT_ID].contains(&missing.as_str()),
            Self::CannotRun { .. } | Self::SignedOut(_) | Self::KeyOfAgent(_) | Self::NoResponse(_) => true,
            _ => false,
        }
    }
}

/// Why a certificate file cannot be used.
#[derive(Clone, Copy, Debug, thiserror::Error)]
pub(crate) enum CertificateProblem {
    /// The file may be PKCS #12.
    #[error("the file is not in PEM format")]
    NotPem,
    /// The key is encrypted.
    #[error("the key has a password")]
    Locked,
    /// The file has no certificate.
    #[error("the file contains no certificate")]
    NoCertificate,
    /// The key belongs to none of the certificates.
    #[error("the key belongs to none of its certificates")]
    AnotherKey,
    /// The file has no private key.
    #[error("the file contains no private key")]
    NoKey,
    /// The key has another type.
    #[error("its key is not an RSA key, and arcssh requires one")]
    NotRsa,
    /// The RSA key is too short, or damaged.
    #[error("the key is not a usable RSA key ({0})")]
    Rejected(KeyRejected),
}
