//! Service principals that the environment names: with a secret, a certificate, or a token of another issuer.

use std::env::VarError;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use azure_core::credentials::TokenCredential;
use azure_core::http::ClientMethodOptions;
use azure_identity::{
    ClientAssertion, ClientAssertionCredential, ClientAssertionCredentialOptions, ClientSecretCredential,
    ClientSecretCredentialOptions,
};
use tracing::info;
use zeroize::Zeroizing;

use crate::azure::cloud::Cloud;
use crate::azure::credentials::client_assertion::ClientCertificate;
use crate::azure::credentials::{SourceError, TokenResult, Unavailable};
use crate::azure::entra;
use crate::azure::http::Client;
use crate::system::files::{MAX_TEXT, read_text};
use crate::system::secret::Secret;

/// A variable of the environment, as every Azure SDK reads it; an empty one counts as not set.
pub(crate) fn variable(name: &str) -> Result<Option<String>> {
    match std::env::var(name) {
        Ok(value) if !value.is_empty() => Ok(Some(value)),
        Ok(_) | Err(VarError::NotPresent) => Ok(None),
        Err(VarError::NotUnicode(_)) => bail!("{name} is not text"),
    }
}

/// An application, which proves who it is by one of these.
struct ServicePrincipal {
    tenant: String,
    client_id: String,
}

impl ServicePrincipal {
    /// The application that AZURE_TENANT_ID and AZURE_CLIENT_ID name. These two also serve other sources, so that only
    /// the variable with the proof, `by`, says that one is meant.
    fn proved_by(by: &'static str, tenant: Option<&str>) -> Result<Self> {
        let tenant =
            tenant.map_or_else(|| variable("AZURE_TENANT_ID"), |tenant| Ok(Some(tenant.to_owned())))?;
        let missing = |missing| IncompleteEnvironment { by, missing };
        let tenant = tenant.ok_or(missing("AZURE_TENANT_ID"))?;
        let client_id = variable("AZURE_CLIENT_ID")?.ok_or(missing("AZURE_CLIENT_ID"))?;
        info!(tenant, client_id, "the service principal of {by}");
        Ok(Self { tenant, client_id })
    }
}

/// The environment names a service principal only in part.
#[derive(Debug, thiserror::Error)]
#[error("{by} is set, but {missing} is not")]
pub(crate) struct IncompleteEnvironment {
    by: &'static str,
    missing: &'static str,
}

/// What proves to Entra ID that we are an application.
enum ClientSecretOrAssertion {
    Secret(Secret),
    ClientCertificate(Box<ClientCertificate>),
    /// The file that holds another issuer's token.
    Federated(PathBuf),
}

/// The application with a secret or a certificate.
fn with_secret_or_certificate(
    tenant: Option<&str>,
) -> Result<(ServicePrincipal, ClientSecretOrAssertion), SourceError> {
    if let Some(secret) = variable("AZURE_CLIENT_SECRET")? {
        let principal = ServicePrincipal::proved_by("AZURE_CLIENT_SECRET", tenant)?;
        Ok((principal, ClientSecretOrAssertion::Secret(secret.into())))
    } else if let Some(path) = variable("AZURE_CLIENT_CERTIFICATE_PATH")? {
        let principal = ServicePrincipal::proved_by("AZURE_CLIENT_CERTIFICATE_PATH", tenant)?;
        Ok((
            principal,
            ClientSecretOrAssertion::ClientCertificate(Box::new(ClientCertificate::read(&PathBuf::from(
                path,
            ))?)),
        ))
    } else {
        Err(Unavailable::new(
            "neither AZURE_CLIENT_SECRET nor AZURE_CLIENT_CERTIFICATE_PATH is set",
            "set AZURE_TENANT_ID, AZURE_CLIENT_ID, and AZURE_CLIENT_SECRET or AZURE_CLIENT_CERTIFICATE_PATH",
        )
        .into())
    }
}

/// The application that another issuer vouches for, as in Kubernetes and in pipelines.
fn federated(tenant: Option<&str>) -> Result<(ServicePrincipal, ClientSecretOrAssertion), SourceError> {
    let Some(file) = variable("AZURE_FEDERATED_TOKEN_FILE")? else {
        return Err(Unavailable::new(
            "AZURE_FEDERATED_TOKEN_FILE is not set",
            "set AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_FEDERATED_TOKEN_FILE",
        )
        .into());
    };
    let principal = ServicePrincipal::proved_by("AZURE_FEDERATED_TOKEN_FILE", tenant)?;
    Ok((principal, ClientSecretOrAssertion::Federated(PathBuf::from(file))))
}

/// The token of a service principal with a secret or a certificate.
pub(crate) async fn service_principal(
    cloud: &Cloud,
    client: Client,
    scope: &str,
    tenant: Option<&str>,
) -> TokenResult {
    let (principal, proof) = with_secret_or_certificate(tenant)?;
    token(cloud, client, scope, principal, proof).await
}

/// The token of a service principal that trusts another issuer.
pub(crate) async fn workload_identity(
    cloud: &Cloud,
    client: Client,
    scope: &str,
    tenant: Option<&str>,
) -> TokenResult {
    let (principal, proof) = federated(tenant)?;
    token(cloud, client, scope, principal, proof).await
}

async fn token(
    cloud: &Cloud,
    client: Client,
    scope: &str,
    principal: ServicePrincipal,
    proof: ClientSecretOrAssertion,
) -> TokenResult {
    let client_options = entra::client_options(client, cloud);
    let credential: Arc<dyn TokenCredential> = match proof {
        ClientSecretOrAssertion::Secret(secret) => {
            let ServicePrincipal { tenant, client_id } = principal;
            let options = ClientSecretCredentialOptions { client_options };
            ClientSecretCredential::new(&tenant, client_id, secret.into(), Some(options))?
        }
        proof => {
            let client_assertion = StaticAssertion(client_assertion(cloud, &principal, proof)?);
            let ServicePrincipal { tenant, client_id } = principal;
            let options = ClientAssertionCredentialOptions { client_options };
            ClientAssertionCredential::new(tenant, client_id, client_assertion, Some(options))?
        }
    };
    Ok(credential.get_token(&[scope], None).await?)
}

/// What a certificate's key or another issuer has signed to prove who we are; of a secret, itself.
fn client_assertion(
    cloud: &Cloud,
    principal: &ServicePrincipal,
    proof: ClientSecretOrAssertion,
) -> Result<Secret> {
    match proof {
        ClientSecretOrAssertion::Secret(secret) => Ok(secret),
        ClientSecretOrAssertion::ClientCertificate(certificate) => {
            let audience = entra::address(&cloud.authority_host, &principal.tenant, "token");
            Ok(certificate.assertion(&principal.client_id, audience.as_str())?.into())
        }
        // Whoever writes the file by a shell ends it with a line break, which is none of the token's.
        ClientSecretOrAssertion::Federated(file) => {
            let text = read_text(&file, MAX_TEXT).with_context(|| unusable(&file))?;
            Ok(Zeroizing::new(text).trim().into())
        }
    }
}

fn unusable(file: &Path) -> String {
    format!("AZURE_FEDERATED_TOKEN_FILE={} is unusable", file.display())
}

/// How an application asks a token endpoint for something in our own words.
pub(crate) struct ClientAuth {
    /// The tenant whose endpoint it is.
    pub(crate) tenant: String,
    /// The fields of a form that say and prove who we are.
    pub(crate) fields: Vec<(&'static str, Secret)>,
}

/// The form of the service principal with a secret or a certificate.
pub(crate) fn service_principal_form(cloud: &Cloud, tenant: Option<&str>) -> Result<ClientAuth, SourceError> {
    let (principal, proof) = with_secret_or_certificate(tenant)?;
    Ok(form(cloud, principal, proof)?)
}

/// The form of the service principal that trusts another issuer.
pub(crate) fn workload_identity_form(cloud: &Cloud, tenant: Option<&str>) -> Result<ClientAuth, SourceError> {
    let (principal, proof) = federated(tenant)?;
    Ok(form(cloud, principal, proof)?)
}

fn form(cloud: &Cloud, principal: ServicePrincipal, proof: ClientSecretOrAssertion) -> Result<ClientAuth> {
    const JWT_BEARER: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
    let is_secret = matches!(proof, ClientSecretOrAssertion::Secret(_));
    let proof = client_assertion(cloud, &principal, proof)?;
    let ServicePrincipal { tenant, client_id } = principal;
    let mut fields = vec![("client_id", client_id.into())];
    match is_secret {
        true => fields.push(("client_secret", proof)),
        false => fields.extend([("client_assertion_type", JWT_BEARER.into()), ("client_assertion", proof)]),
    }
    Ok(ClientAuth { tenant, fields })
}

/// What proves to one token endpoint who we are.
#[derive(Debug)]
struct StaticAssertion(Secret);

#[async_trait::async_trait]
impl ClientAssertion for StaticAssertion {
    async fn secret(&self, _: Option<ClientMethodOptions<'_>>) -> azure_core::Result<String> {
        Ok(self.0.secret().to_owned())
    }
}
