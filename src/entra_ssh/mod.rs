//! SSH certificates of Entra ID: the grant with `token_type=ssh-cert`, for whichever identity there is. Knows not where
//! certificates are kept; that is in [`kept`].

pub(crate) mod cache;

use std::fs;
use std::slice;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tracing::info;

use crate::azure::credentials::cli_tools::{azure_cli_certificate, azure_cli_program};
use crate::azure::credentials::service_principal::ServicePrincipal;
use crate::azure::credentials::source::{SourceError, Unavailable};
use crate::azure::credentials::{CredentialChain, CredentialError, CredentialSource};
use crate::azure::login::{self, RefreshRequest};
use crate::ssh::SshError;
use crate::ssh::certificate::{Certificate, CertificateError};
use crate::ssh::rsa_key::PublicKey;
use crate::system::SystemError;
use crate::system::clock::unix_now;
use crate::system::secret::Secret;

/// The sources that can ask for a certificate, in the order in which they are tried.
const ASKED: [CredentialSource; 4] = [
    CredentialSource::Environment,
    CredentialSource::WorkloadIdentity,
    CredentialSource::Arcssh,
    CredentialSource::AzureCli,
];

/// What the user said about certificates.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct CertificateOptions {
    /// Scope in place of the cloud's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) scope: Option<String>,
    /// Application in place of the one that was signed in to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) client_id: Option<String>,
}

impl CertificateOptions {
    fn scope<'a>(&'a self, identity: &'a CredentialChain) -> &'a str {
        self.scope.as_deref().unwrap_or(identity.cloud.ssh_scope)
    }
}

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IssueError {
    /// No credential source issues a certificate.
    #[error("{error}")]
    Credential {
        /// The requested scope.
        scope: String,
        /// Why.
        error: CredentialError,
    },
    /// The source cannot request certificates.
    #[error("{} cannot request SSH certificates", .0.title())]
    Unsupported(CredentialSource),
    /// Entra ID issued a certificate that cannot be used.
    #[error("{0}")]
    Unusable(CertificateError),
    /// Other users can access the state directory.
    #[error(transparent)]
    State(#[from] SystemError),
    /// The certificate is for another login name.
    #[error("the certificate is for {name}, and the host entry for {entry}")]
    WrongLoginName {
        /// The login name of the certificate.
        name: String,
        /// The login name of the host entry.
        entry: String,
    },
    /// No certificate is cached.
    #[error("no certificate of this account is cached")]
    NotCached,
    /// There is no key for a certificate.
    #[error("{0}")]
    NoKey(SshError),
}

impl From<CertificateError> for IssueError {
    fn from(error: CertificateError) -> Self {
        Self::Unusable(error)
    }
}

/// A certificate that has been checked.
#[derive(Debug)]
pub(crate) struct Certified {
    /// The certificate.
    pub(crate) certificate: Certificate,
    /// Seconds that Entra ID's clock is ahead of ours, as far as it is known.
    ahead: i64,
}

/// Text that is meant to be a certificate, and when it was given by Entra ID's clock, if that is known.
type IssuedCertificate = (Secret, Option<u64>);

/// A certificate for a key.
///
/// # Errors
/// See [`IssueError`].
pub(crate) async fn request_certificate(
    identity: &CredentialChain,
    key: &PublicKey,
    asked: &CertificateOptions,
) -> Result<Certified, IssueError> {
    let request = Request::new(identity, key, asked);
    let (text, date) = request.send().await?;
    let now = unix_now();
    let server = date.unwrap_or(now);
    let certificate = Certificate::parse(text.secret())?;
    certificate.check(key, server)?;
    info!(login_name = certificate.login_name(), until = certificate.valid_before(), "an SSH certificate");
    Ok(Certified { certificate, ahead: server.cast_signed() - now.cast_signed() })
}

/// What is asked for, of whom.
struct Request<'a> {
    identity: &'a CredentialChain,
    key: &'a PublicKey,
    scope: &'a str,
    client_id: Option<&'a str>,
    /// The key's name, `key_id`.
    name: String,
    /// The key, `req_cnf`.
    confirmation: String,
}

impl<'a> Request<'a> {
    fn new(identity: &'a CredentialChain, key: &'a PublicKey, asked: &'a CertificateOptions) -> Self {
        let jwk = key.jwk();
        Self {
            identity,
            key,
            scope: asked.scope(identity),
            client_id: asked.client_id.as_deref(),
            confirmation: json!(jwk).to_string(),
            name: jwk.kid,
        }
    }

    /// Asks one source after the other.
    async fn send(&self) -> Result<IssuedCertificate, IssueError> {
        let failed = |error| IssueError::Credential { scope: self.scope.to_owned(), error };
        let asked = match &self.identity.options.source {
            CredentialSource::Any => &ASKED,
            one => slice::from_ref(one),
        };
        let mut nearest = None;
        for &from in asked {
            if !ASKED.contains(&from) {
                return Err(IssueError::Unsupported(from));
            }
            info!("asking for a certificate by {}", from.title());
            match self.ask(from).await {
                Ok(answer) => return Ok(answer),
                Err(SourceError::Unavailable(unavailable)) => {
                    info!("skipping {}: {unavailable}", from.title());
                    nearest.get_or_insert(CredentialError::Unavailable { from, unavailable });
                }
                Err(error) => return Err(failed(CredentialError::Failed { from, tenant: None, error })),
            }
        }
        if let Some(absent) = nearest.filter(|_| asked.len() == 1) {
            return Err(failed(absent));
        }
        // Whoever has a token for ARM all the same is one who can get no certificate.
        match self.identity.token(None).await {
            Ok(token) => Err(IssueError::Unsupported(token.source)),
            Err(_) => Err(failed(CredentialError::NotSignedIn(None))),
        }
    }

    async fn ask(&self, source: CredentialSource) -> Result<IssuedCertificate, SourceError> {
        let (cloud, tenant) = (&self.identity.cloud, self.identity.options.tenant.as_deref());
        match source {
            CredentialSource::Environment => {
                self.by_application(ServicePrincipal::with_secret_or_certificate(cloud, tenant)?).await
            }
            CredentialSource::WorkloadIdentity => {
                self.by_application(ServicePrincipal::with_federated_token(tenant)?).await
            }
            CredentialSource::AzureCli => self.by_azure_cli().await,
            _ => self.as_user(tenant).await,
        }
    }

    /// What makes a request for a token one for a certificate (azure-cli-extensions `ssh`, custom.py,
    /// `_prepare_jwk_data`).
    fn fields(&self) -> [(&str, &str); 3] {
        [("token_type", "ssh-cert"), ("req_cnf", &self.confirmation), ("key_id", &self.name)]
    }

    async fn by_application(&self, principal: ServicePrincipal) -> Result<IssuedCertificate, SourceError> {
        let CredentialChain { cloud, .. } = self.identity;
        let (response, date) =
            principal.request(cloud, self.identity.client()?, self.scope, &self.fields()).await?;
        Ok((response.access_token, date))
    }

    async fn as_user(&self, tenant: Option<&str>) -> Result<IssuedCertificate, SourceError> {
        let CredentialChain { cloud, store, .. } = self.identity;
        if login::account(cloud, store)?.is_none() {
            return Err(Unavailable::NoSignIn.into());
        }
        let request =
            RefreshRequest { scope: self.scope, client_id: self.client_id, fields: self.fields().to_vec() };
        let granted = login::redeem(cloud, self.identity.client()?, tenant, &request).await?;
        let (granted, date) = granted.ok_or(Unavailable::NoSignIn)?;
        Ok((granted.response.access_token, date))
    }

    async fn by_azure_cli(&self) -> Result<IssuedCertificate, SourceError> {
        let program = azure_cli_program()?;
        if !self.is_what_azure_cli_asks() {
            return Err(SourceError::AzureCliOptions);
        }
        let folder = tempfile::tempdir().context("cannot create a temporary directory")?;
        let (public, certificate) = (folder.path().join("key.pub"), folder.path().join("key-cert.pub"));
        fs::write(&public, self.key.to_line()).context("cannot write a temporary file")?;
        azure_cli_certificate(&program, &public, &certificate).await?;
        let text = fs::read_to_string(certificate).context("it created no certificate")?;
        Ok((text.into(), None))
    }

    /// `az ssh cert` has no options for tenant, scope and application (azure-cli-extensions `ssh`, custom.py, `ssh_cert`).
    fn is_what_azure_cli_asks(&self) -> bool {
        let CredentialChain { cloud, options, .. } = self.identity;
        let is_its_own = self.client_id.is_none_or(|id| id == login::AZURE_CLI);
        options.tenant.is_none() && self.scope == cloud.ssh_scope && is_its_own
    }
}
