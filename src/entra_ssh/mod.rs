//! SSH certificates of Entra ID: a token request with `token_type=ssh-cert`. [`cache`] stores them.

pub(crate) mod cache;

use std::fs;
use std::slice;

use anyhow::{Context as _, anyhow};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tracing::info;

use crate::azure::credentials::cli_tools::{azure_cli_certificate, azure_cli_program};
use crate::azure::credentials::service_principal::ServicePrincipal;
use crate::azure::credentials::{
    CredentialChain, CredentialError, CredentialSource, SourceError, Unavailable,
};
use crate::azure::login::{self, RefreshRequest};
use crate::ssh::certificate::{Certificate, CertificateError};
use crate::ssh::rsa_key::PublicKey;
use crate::state::InsecurePermissions;
use crate::system::clock::unix_now;
use crate::system::secret::Secret;

/// The credential sources that can request a certificate, in the order in which they are tried.
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
    Refused {
        /// The requested scope.
        scope: String,
        #[source]
        error: CredentialError,
    },
    /// This source cannot request a certificate.
    #[error("{} cannot get an SSH certificate", .0.title())]
    NoWay(CredentialSource),
    /// The certificate is unusable.
    #[error(transparent)]
    Unusable(#[from] CertificateError),
    /// Other users can access the state directory.
    #[error(transparent)]
    Store(#[from] InsecurePermissions),
    /// The certificate is for another user than the host entry.
    #[error("the certificate is for {name}, and the section for {section}")]
    Another {
        /// The user of the certificate.
        name: String,
        /// The user of the host entry.
        section: String,
    },
    /// No certificate is cached.
    #[error("no certificate is kept for this identity")]
    NoneKept,
    /// No key could be generated.
    #[error("there is no key for a certificate")]
    NoKey(#[source] anyhow::Error),
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
        let rejected = |error| IssueError::Refused { scope: self.scope.to_owned(), error };
        let sources = match &self.credentials.options.source {
            CredentialSource::Any => &SOURCES,
            one => slice::from_ref(one),
        };
        let mut first_unavailable = None;
        for &from in sources {
            if !SOURCES.contains(&from) {
                return Err(IssueError::NoWay(from));
            }
            info!("requesting a certificate with {}", from.title());
            match self.request(from).await {
                Ok(certificate) => return Ok(certificate),
                Err(SourceError::Unavailable(absent)) => {
                    info!("skipping {}: {absent}", from.title());
                    first_unavailable.get_or_insert(CredentialError::Unavailable { from, absent });
                }
                Err(SourceError::Refused(error) | SourceError::SignedOut(error)) => {
                    return Err(rejected(CredentialError::Refused { from, tenant: None, error }));
                }
            }
        }
        if let Some(unavailable) = first_unavailable.filter(|_| sources.len() == 1) {
            return Err(rejected(unavailable));
        }
        // A source that issues a token for ARM is one that cannot request a certificate.
        match self.credentials.token(None).await {
            Ok(token) => Err(IssueError::NoWay(token.source)),
            Err(_) => Err(rejected(CredentialError::Nobody(None))),
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
                self.by_application(ServicePrincipal::with_federated_token(tenant)?).await
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
        let signed_out = || Unavailable::new("nobody has typed arcssh login", "run arcssh login");
        if login::account(cloud, store)?.is_none() {
            return Err(signed_out().into());
        }
        let request =
            RefreshRequest { scope: self.scope, client_id: self.client_id, fields: self.fields().to_vec() };
        let grant = login::redeem(cloud, self.credentials.client()?, tenant, &request).await?;
        let (grant, date) = grant.ok_or_else(signed_out)?;
        Ok((grant.response.access_token, date))
    }

    async fn by_azure_cli(&self) -> Result<IssuedCertificate, SourceError> {
        let program = azure_cli_program()?;
        if !self.has_azure_cli_defaults() {
            return Err(anyhow!(AzureCliOptions).into());
        }
        let folder = tempfile::tempdir().context("no temporary folder can be made")?;
        let (public, certificate) = (folder.path().join("key.pub"), folder.path().join("key-cert.pub"));
        fs::write(&public, self.key.to_line()).context("no temporary file can be written")?;
        azure_cli_certificate(&program, &public, &certificate).await?;
        let text = fs::read_to_string(certificate).context("it wrote no certificate")?;
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

/// Azure CLI does not support an option of the user.
#[derive(Debug, thiserror::Error)]
#[error("Azure CLI gets an SSH certificate as it is signed in, without --tenant, --scope and --client-id")]
pub(crate) struct AzureCliOptions;
