//! SSH certificates of Entra ID: a token request with `token_type=ssh-cert`. [`cache`] stores them.

pub(crate) mod cache;

use std::fs;

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

/// The credential sources that can request a certificate.
const SOURCES: [CredentialSource; 4] = [
    CredentialSource::Environment,
    CredentialSource::WorkloadIdentity,
    CredentialSource::Arcssh,
    CredentialSource::AzureCli,
];

/// The user's options for certificates.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct CertificateOptions {
    /// Without it, the cloud's scope is used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) scope: Option<String>,
    /// Without it, the application of the sign-in is used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) client_id: Option<String>,
}

impl CertificateOptions {
    fn scope<'a>(&'a self, credentials: &'a CredentialChain) -> &'a str {
        self.scope.as_deref().unwrap_or(credentials.cloud.ssh_scope)
    }
}

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IssueError {
    /// No credential is available, or Entra ID has rejected it.
    #[error("{error}")]
    Credential {
        /// The requested scope.
        scope: String,
        error: CredentialError,
    },
    /// This source cannot request a certificate.
    #[error("{} cannot request SSH certificates", .0.title())]
    Unsupported(CredentialSource),
    /// The certificate is unusable.
    #[error("{0}")]
    Unusable(CertificateError),
    /// Other users can access the state directory.
    #[error(transparent)]
    State(#[from] SystemError),
    /// The certificate is for another user than the host entry.
    #[error("the certificate is for {name}, and the host entry for {entry}")]
    WrongLoginName {
        /// The user of the certificate.
        name: String,
        /// The user of the host entry.
        entry: String,
    },
    /// No certificate is cached.
    #[error("no certificate of this account is cached")]
    NotCached,
    /// No key could be generated.
    #[error("{0}")]
    NoKey(SshError),
}

impl From<CertificateError> for IssueError {
    fn from(error: CertificateError) -> Self {
        Self::Unusable(error)
    }
}

/// A validated certificate.
#[derive(Debug)]
pub(crate) struct Certified {
    pub(crate) certificate: Certificate,
    /// Seconds that Entra ID's clock is ahead of this machine's; 0 if unknown.
    clock_offset: i64,
}

/// The text of a certificate, and Entra ID's time of issue, if known.
type IssuedCertificate = (Secret, Option<u64>);

/// Checks that a certificate is valid for the user of a host entry.
///
/// # Errors
/// [`IssueError::WrongLoginName`].
pub(crate) fn ensure_login_name(certificate: &Certificate, user: Option<&str>) -> Result<(), IssueError> {
    match user.filter(|name| !certificate.lets_in(name)) {
        None => Ok(()),
        Some(user) => Err(IssueError::WrongLoginName {
            name: certificate.login_name().unwrap_or_default(),
            entry: user.to_owned(),
        }),
    }
}

/// Requests a certificate for a key.
///
/// # Errors
/// See [`IssueError`].
pub(crate) async fn request_certificate(
    credentials: &CredentialChain,
    key: &PublicKey,
    options: &CertificateOptions,
) -> Result<Certified, IssueError> {
    let (text, date) = Request::new(credentials, key, options).send().await?;
    let now = unix_now();
    let server_now = date.unwrap_or(now);
    let certificate = Certificate::parse(text.secret())?;
    certificate.check(key, server_now)?;
    info!(login_name = certificate.login_name(), until = certificate.valid_before(), "a new SSH certificate");
    Ok(Certified { certificate, clock_offset: server_now.cast_signed() - now.cast_signed() })
}

/// A request for a certificate.
struct Request<'a> {
    credentials: &'a CredentialChain,
    key: &'a PublicKey,
    scope: &'a str,
    client_id: Option<&'a str>,
    key_id: String,
    req_cnf: String,
}

impl<'a> Request<'a> {
    fn new(credentials: &'a CredentialChain, key: &'a PublicKey, options: &'a CertificateOptions) -> Self {
        let jwk = key.jwk();
        Self {
            credentials,
            key,
            scope: options.scope(credentials),
            client_id: options.client_id.as_deref(),
            req_cnf: json!(jwk).to_string(),
            key_id: jwk.kid,
        }
    }

    /// Requests the certificate from one source after the other.
    async fn send(&self) -> Result<IssuedCertificate, IssueError> {
        let failed = |error| IssueError::Credential { scope: self.scope.to_owned(), error };
        let mut sources = self.credentials.options.sources().map_err(failed)?;
        if sources.len() > 1 {
            sources.retain(|source| SOURCES.contains(source));
        }
        let mut first_unavailable = None;
        for &from in &sources {
            if !SOURCES.contains(&from) {
                return Err(IssueError::Unsupported(from));
            }
            info!("requesting a certificate with {}", from.title());
            match self.request(from).await {
                Ok(certificate) => return Ok(certificate),
                Err(SourceError::Unavailable(unavailable)) => {
                    info!("skipping {}: {unavailable}", from.title());
                    first_unavailable.get_or_insert(CredentialError::Unavailable { from, unavailable });
                }
                Err(error) => {
                    return Err(failed(CredentialError::Failed { from, tenant: None, error: error.into() }));
                }
            }
        }
        if let Some(unavailable) = first_unavailable.filter(|_| sources.len() == 1) {
            return Err(failed(unavailable));
        }
        // A source that issues a token for ARM is one that cannot request a certificate.
        match self.credentials.token(None).await {
            Ok(token) => Err(IssueError::Unsupported(token.source)),
            Err(error @ CredentialError::NotSignedIn(_)) => Err(failed(error)),
            Err(_) => Err(failed(CredentialError::NotSignedIn(Vec::new()))),
        }
    }

    async fn request(&self, source: CredentialSource) -> Result<IssuedCertificate, SourceError> {
        let cloud = &self.credentials.cloud;
        let tenant = self.credentials.options.tenant.as_deref();
        match source {
            CredentialSource::Environment => {
                self.by_application(ServicePrincipal::with_secret_or_certificate(cloud, tenant)?).await
            }
            CredentialSource::WorkloadIdentity => {
                let CredentialChain { net, store, .. } = self.credentials;
                self.by_application(ServicePrincipal::with_federated_token(tenant, net, store).await?).await
            }
            CredentialSource::AzureCli => self.by_azure_cli().await,
            _ => self.by_login(tenant).await,
        }
    }

    /// Returns the additional fields of a token request (azure-cli-extensions `ssh`, custom.py, `_prepare_jwk_data`).
    fn fields(&self) -> [(&str, &str); 3] {
        [("token_type", "ssh-cert"), ("req_cnf", &self.req_cnf), ("key_id", &self.key_id)]
    }

    async fn by_application(&self, principal: ServicePrincipal) -> Result<IssuedCertificate, SourceError> {
        let CredentialChain { cloud, .. } = self.credentials;
        let (response, date) =
            principal.request(cloud, self.credentials.client()?, self.scope, &self.fields()).await?;
        Ok((response.access_token, date))
    }

    async fn by_login(&self, tenant: Option<&str>) -> Result<IssuedCertificate, SourceError> {
        let CredentialChain { cloud, store, .. } = self.credentials;
        if login::account(cloud, store)?.is_none() {
            return Err(Unavailable::NoSignIn.into());
        }
        let request =
            RefreshRequest { scope: self.scope, client_id: self.client_id, fields: self.fields().to_vec() };
        let grant = login::redeem(cloud, self.credentials.client()?, tenant, &request).await?;
        let (grant, date) = grant.ok_or(Unavailable::NoSignIn)?;
        Ok((grant.response.access_token, date))
    }

    async fn by_azure_cli(&self) -> Result<IssuedCertificate, SourceError> {
        let program = azure_cli_program()?;
        if !self.has_azure_cli_defaults() {
            return Err(SourceError::AzureCliOptions);
        }
        let folder = tempfile::tempdir().context("cannot create a temporary directory")?;
        let (public, certificate) = (folder.path().join("key.pub"), folder.path().join("key-cert.pub"));
        fs::write(&public, self.key.to_line()).context("cannot write a temporary file")?;
        azure_cli_certificate(&program, &public, &certificate).await?;
        let text = fs::read_to_string(certificate).context("it created no certificate")?;
        Ok((text.into(), None))
    }

    /// `az ssh cert` has no options for tenant, scope and application (azure-cli-extensions `ssh`, custom.py,
    /// `ssh_cert`).
    fn has_azure_cli_defaults(&self) -> bool {
        let CredentialChain { cloud, options, .. } = self.credentials;
        let is_azure_cli = self.client_id.is_none_or(|id| id == login::AZURE_CLI);
        options.tenant.is_none() && self.scope == cloud.ssh_scope && is_azure_cli
    }
}
