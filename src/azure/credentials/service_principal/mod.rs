//! Service principals from the environment: with a client secret, a certificate, or a token of another issuer.

pub(crate) mod federated_token;

use std::env::VarError;
use std::path::Path;

use anyhow::bail;
use tracing::info;

use crate::azure::cloud::Cloud;
use crate::azure::credentials::client_assertion::{ClientCertificate, Sent};
use crate::azure::credentials::service_principal::federated_token::FederatedToken;
use crate::azure::credentials::source::{SourceError, Unavailable};
use crate::azure::entra::{self, Entra, EntraError, TokenResponse};
use crate::azure::http::Client;
use crate::net::Net;
use crate::state::Store;
use crate::system::secret::Secret;

/// Returns an environment variable without the blanks, line breaks and byte order marks around it, which files and stores of
/// secrets add, and which no ID and no secret of Entra ID contains. The Azure SDKs send them; GitHub's actions remove them (actions/toolkit,
/// `packages/core/src/core.ts`, `getInput`). As in every Azure SDK, an empty variable counts as not set.
pub(crate) fn variable(name: &str) -> anyhow::Result<Option<String>> {
    match std::env::var(name) {
        Ok(value) => {
            let value = value.trim_matches(|c: char| c.is_whitespace() || c == '\u{feff}');
            Ok(Some(value.to_owned()).filter(|value| !value.is_empty()))
        }
        Err(VarError::NotPresent) => Ok(None),
        Err(VarError::NotUnicode(_)) => bail!("{name} is not valid Unicode"),
    }
}

/// The variable that makes an assertion contain the certificates.
const SEND_CHAIN: &str = "AZURE_CLIENT_SEND_CERTIFICATE_CHAIN";

/// A service principal, which Entra ID authenticates as an application.
pub(crate) struct ServicePrincipal {
    tenant: String,
    /// The form fields that name and authenticate the application.
    fields: Vec<(&'static str, Secret)>,
}

impl ServicePrincipal {
    /// Returns the service principal with a client secret or a certificate.
    pub(crate) fn with_secret_or_certificate(
        cloud: &Cloud,
        tenant: Option<&str>,
    ) -> Result<Self, SourceError> {
        if let Some(secret) = variable("AZURE_CLIENT_SECRET")? {
            let Ids { tenant, client_id } = Ids::of("AZURE_CLIENT_SECRET", tenant)?;
            let fields = vec![("client_id", client_id.into()), ("client_secret", secret.into())];
            Ok(Self { tenant, fields })
        } else if let Some(path) = variable("AZURE_CLIENT_CERTIFICATE_PATH")? {
            let Ids { tenant, client_id } = Ids::of("AZURE_CLIENT_CERTIFICATE_PATH", tenant)?;
            let audience = entra::address(&cloud.authority_host, &tenant, "token");
            let certificate = ClientCertificate::read(Path::new(&path))?;
            let assertion = certificate.assertion(&client_id, audience.as_str(), sent()?)?;
            Ok(Self::with_assertion(tenant, client_id, assertion.into()))
        } else {
            Err(Unavailable::NoSecret.into())
        }
    }

    /// Returns the service principal with a token of another issuer, for example of Kubernetes or of a pipeline.
    pub(crate) async fn with_federated_token(
        tenant: Option<&str>,
        net: &Net,
        store: &Store,
    ) -> Result<Self, SourceError> {
        let (token, Ids { tenant, client_id }) = FederatedToken::find(tenant)?;
        info!(tenant, client_id, "the service principal of a federated token");
        let assertion = token.get(net, store).await?;
        Ok(Self::with_assertion(tenant, client_id, assertion))
    }

    /// RFC 7523, section 2.2.
    fn with_assertion(tenant: String, client_id: String, assertion: Secret) -> Self {
        const JWT_BEARER: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
        let fields = vec![
            ("client_id", client_id.into()),
            ("client_assertion_type", JWT_BEARER.into()),
            ("client_assertion", assertion),
        ];
        Self { tenant, fields }
    }

    /// Requests a token (RFC 6749, section 4.4), with `more` form fields. Also returns Entra ID's time, in seconds of Unix
    /// time.
    pub(crate) async fn request(
        &self,
        cloud: &Cloud,
        client: Client,
        scope: &str,
        more: &[(&str, &str)],
    ) -> Result<(TokenResponse, Option<u64>), EntraError> {
        let mut form = vec![("grant_type", "client_credentials"), ("scope", scope)];
        form.extend(self.fields.iter().map(|(name, value)| (*name, value.secret())));
        form.extend(more);
        Entra::new(cloud, client).post_dated(&self.tenant, "token", &form).await
    }
}

/// Returns what an assertion contains of the certificate (azidentity for Go, `environment_credential.go`;
/// azure-identity for JavaScript, `environmentCredential.ts`: `true` or `1`, in any case).
fn sent() -> Result<Sent, SourceError> {
    let value = variable(SEND_CHAIN)?.unwrap_or_default();
    match value.trim().to_ascii_lowercase().as_str() {
        "true" | "1" => Ok(Sent::Chain),
        "" | "false" | "0" => Ok(Sent::Thumbprint),
        _ => Err(SourceError::Variable { name: SEND_CHAIN, value, expected: "true or false" }),
    }
}

/// The tenant and the client ID of an application.
struct Ids {
    tenant: String,
    client_id: String,
}

impl Ids {
    /// Reads the first of these variables that is set, for each of the two IDs; `tenant` has precedence. `missing` returns the
    /// error for a variable that is not set.
    fn read(
        tenant: Option<&str>,
        tenants: &[&str],
        client_ids: &[&str],
        missing: impl Fn(&'static str) -> SourceError,
    ) -> Result<Self, SourceError> {
        let tenant = tenant.map_or_else(|| first(tenants), |tenant| Ok(Some(tenant.to_owned())))?;
        let tenant = tenant.ok_or_else(|| missing("AZURE_TENANT_ID"))?;
        let client_id = first(client_ids)?.ok_or_else(|| missing("AZURE_CLIENT_ID"))?;
        Ok(Self { tenant, client_id })
    }

    /// Reads the IDs for a secret or a certificate. Other credential sources use the same variables too, so only the variable
    /// `by`, which authenticates the application, selects this source.
    fn of(by: &'static str, tenant: Option<&str>) -> Result<Self, SourceError> {
        let missing = |missing| SourceError::IncompleteEnvironment { by, missing };
        let ids = Self::read(tenant, &["AZURE_TENANT_ID"], &["AZURE_CLIENT_ID"], missing)?;
        info!(tenant = ids.tenant, client_id = ids.client_id, "the service principal of {by}");
        Ok(ids)
    }
}

/// Returns the first of these variables that is set.
fn first(names: &[&str]) -> anyhow::Result<Option<String>> {
    names.iter().find_map(|name| variable(name).transpose()).transpose()
}
