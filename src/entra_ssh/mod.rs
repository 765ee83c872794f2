//! SSH certificates of Entra ID: the grant with `token_type=ssh-cert`, for whichever identity there is. Knows not where
//! certificates are kept; that is in [`kept`].

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
    /// No identity, or none that Entra ID gives one to.
    #[error("{error}")]
    Refused {
        /// What was asked for.
        scope: String,
        /// Who was asked, and what they said.
        #[source]
        error: CredentialError,
    },
    /// This source can ask for none.
    #[error("{} cannot get an SSH certificate", .0.title())]
    NoWay(CredentialSource),
    /// What was given is none that can be used.
    #[error(transparent)]
    Unusable(#[from] CertificateError),
    /// What was kept cannot be trusted.
    #[error(transparent)]
    Store(#[from] SystemError),
    /// It lets in somebody else.
    #[error("the certificate is for {name}, and the section for {section}")]
    Another {
        /// Whom it lets in.
        name: String,
        /// Whom the section logs in as.
        section: String,
    },
    /// None was asked for yet.
    #[error("no certificate is kept for this identity")]
    NoneKept,
    /// There is no key to certify.
    #[error("there is no key for a certificate")]
    NoKey(#[source] anyhow::Error),
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
        let refused = |error| IssueError::Refused { scope: self.scope.to_owned(), error };
        let asked = match &self.identity.options.source {
            CredentialSource::Any => &ASKED,
            one => slice::from_ref(one),
        };
        let mut nearest = None;
        for &from in asked {
            if !ASKED.contains(&from) {
                return Err(IssueError::NoWay(from));
            }
            info!("asking for a certificate by {}", from.title());
            match self.ask(from).await {
                Ok(answer) => return Ok(answer),
                Err(SourceError::Unavailable(absent)) => {
                    info!("passing over {}: {absent}", from.title());
                    nearest.get_or_insert(CredentialError::Unavailable { from, absent });
                }
                Err(SourceError::Refused(error) | SourceError::SignedOut(error)) => {
                    return Err(refused(CredentialError::Refused { from, tenant: None, error }));
                }
            }
        }
        if let Some(absent) = nearest.filter(|_| asked.len() == 1) {
            return Err(refused(absent));
        }
        // Whoever has a token for ARM all the same is one who can get no certificate.
        match self.identity.token(None).await {
            Ok(token) => Err(IssueError::NoWay(token.source)),
            Err(_) => Err(refused(CredentialError::Nobody(None))),
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
        let nobody = || Unavailable::new("nobody has typed arcssh login", "run arcssh login");
        if login::account(cloud, store)?.is_none() {
            return Err(nobody().into());
        }
        let request =
            RefreshRequest { scope: self.scope, client_id: self.client_id, fields: self.fields().to_vec() };
        let granted = login::redeem(cloud, self.identity.client()?, tenant, &request).await?;
        let (granted, date) = granted.ok_or_else(nobody)?;
        Ok((granted.response.access_token, date))
    }

    async fn by_azure_cli(&self) -> Result<IssuedCertificate, SourceError> {
        let program = azure_cli_program()?;
        if !self.is_what_azure_cli_asks() {
            return Err(anyhow!(AzureCliOptions).into());
        }
        let folder = tempfile::tempdir().context("no temporary folder can be made")?;
        let (public, certificate) = (folder.path().join("key.pub"), folder.path().join("key-cert.pub"));
        fs::write(&public, self.key.to_line()).context("no temporary file can be written")?;
        azure_cli_certificate(&program, &public, &certificate).await?;
        let text = fs::read_to_string(certificate).context("it wrote no certificate")?;
        Ok((text.into(), None))
    }

    /// `az ssh cert` has no options for tenant, scope and application (azure-cli-extensions `ssh`, custom.py, `ssh_cert`).
    fn is_what_azure_cli_asks(&self) -> bool {
        let CredentialChain { cloud, options, .. } = self.identity;
        let is_its_own = self.client_id.is_none_or(|id| id == login::AZURE_CLI);
        options.tenant.is_none() && self.scope == cloud.ssh_scope && is_its_own
    }
}

/// Azure CLI can be asked for one certificate alone.
#[derive(Debug, thiserror::Error)]
#[error("Azure CLI gets an SSH certificate as it is signed in, without --tenant, --scope and --client-id")]
pub(crate) struct AzureCliOptions;
