//! Tokens of another issuer: a file, as in Kubernetes, or the OIDC service of GitHub Actions or Azure Pipelines. A token of
//! a pipeline is valid for minutes, so each request for an access token requests a new one.

use std::io;
use std::path::Path;

use anyhow::Context as _;
use azure_core::http::headers::HeaderName;
use azure_core::http::{Context, Method, Pipeline, PipelineSendOptions, Request, Url};
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::azure::credentials::service_principal::{Ids, variable};
use crate::azure::credentials::source::{CLIENT_ID, Issuer, SourceError, TENANT_ID, Unavailable};
use crate::azure::entra::{self, EntraError};
use crate::azure::http::{Client, MAX_BODY, client_options};
use crate::azure::json::parse;
use crate::net::Net;
use crate::state::Store;
use crate::system::files::{MAX_TEXT, read_text};
use crate::system::secret::Secret;

/// The audience that Entra ID requires (Microsoft Learn, "Workload identity federation").
const AUDIENCE: &str = "api://AzureADTokenExchange";
const FILE: &str = "AZURE_FEDERATED_TOKEN_FILE";
const GITHUB_URL: &str = "ACTIONS_ID_TOKEN_REQUEST_URL";
const PIPELINES_URL: &str = "SYSTEM_OIDCREQUESTURI";
/// The version of Azure Pipelines' API (azure_identity 1.0, `azure_pipelines_credential.rs`).
const PIPELINES_VERSION: &str = "7.1";
/// Without this header, Azure Pipelines redirects an unauthenticated request to a sign-in page (the same source).
const NO_REDIRECT: HeaderName = HeaderName::from_static("x-tfs-fedauthredirect");
/// The ID of a service connection, which the tasks AzureCLI and AzurePowerShell set, and which Terraform's providers read
/// (azure-pipelines-tasks; azapi and azurerm, `oidc_azure_service_connection_id`).
const SERVICE_CONNECTION: [&str; 3] = [
    "AZURESUBSCRIPTION_SERVICE_CONNECTION_ID",
    "ARM_ADO_PIPELINE_SERVICE_CONNECTION_ID",
    "ARM_OIDC_AZURE_SERVICE_CONNECTION_ID",
];

/// Where a token of another issuer comes from.
pub(crate) enum FederatedToken {
    File(String),
    Service(OidcService),
}

/// The OIDC service of a pipeline.
pub(crate) struct OidcService {
    issuer: Issuer,
    url: Url,
    /// The token that authenticates the job.
    job_token: Secret,
}

impl FederatedToken {
    /// Finds the token that the environment describes, and its application. A job of a pipeline can have an OIDC service
    /// without using it for Azure, so its variables select the source only if they are complete.
    ///
    /// # Errors
    /// The environment describes none, or only in part, or an OIDC service that is not an `https://` URL.
    pub(super) fn find(tenant: Option<&str>) -> Result<(Self, Ids), SourceError> {
        if let Some(file) = variable(FILE)? {
            let missing = |missing| SourceError::IncompleteEnvironment { by: FILE, missing };
            return Ok((Self::File(file), Ids::read(tenant, &[TENANT_ID], &[CLIENT_ID], missing)?));
        }
        let issuer = issuer()?.ok_or(Unavailable::NoFederatedToken)?;
        // The tasks of Azure Pipelines set the last two.
        let (tenants, client_ids): (&[&str], &[&str]) = match issuer {
            Issuer::AzurePipelines => {
                (&[TENANT_ID, "AZURESUBSCRIPTION_TENANT_ID"], &[CLIENT_ID, "AZURESUBSCRIPTION_CLIENT_ID"])
            }
            Issuer::GitHubActions => (&[TENANT_ID], &[CLIENT_ID]),
        };
        let ids = Ids::read(tenant, tenants, client_ids, |name| missing(issuer, name))?;
        let service = match issuer {
            Issuer::GitHubActions => OidcService::github()?,
            Issuer::AzurePipelines => OidcService::pipelines()?,
        };
        Ok((Self::Service(service), ids))
    }

    /// Returns the token.
    pub(crate) async fn get(&self, net: &Net, store: &Store) -> Result<Secret, SourceError> {
        match self {
            Self::File(file) => {
                let text = read(file).with_context(|| format!("{FILE}={file} cannot be used"))?;
                // A shell appends a line break, and a program of Windows writes a byte order mark.
                Ok(text.trim_start_matches('\u{feff}').trim().into())
            }
            Self::Service(service) => service.token(net, store).await,
        }
    }

    /// Returns the file of the token, and when that token expires, in seconds of Unix time.
    pub(crate) fn file_expiry() -> Option<(String, u64)> {
        let file = variable(FILE).ok()??;
        let expiry = entra::claims(&read(&file).ok()?)["exp"].as_u64()?;
        Some((file, expiry))
    }
}

fn read(file: &str) -> io::Result<Zeroizing<String>> {
    read_text(Path::new(file), MAX_TEXT).map(Zeroizing::new)
}

/// The response of either service.
#[derive(Deserialize)]
struct OidcResponse {
    #[serde(alias = "oidcToken")]
    value: Secret,
}

impl OidcService {
    /// actions/toolkit, `packages/core/src/oidc-utils.ts`.
    fn github() -> Result<Self, SourceError> {
        let required = |name| -> Result<String, SourceError> {
            variable(name)?.ok_or_else(|| missing(Issuer::GitHubActions, name))
        };
        let (url, token) = (required(GITHUB_URL)?, required("ACTIONS_ID_TOKEN_REQUEST_TOKEN")?);
        let mut url = https(GITHUB_URL, url)?;
        url.query_pairs_mut().append_pair("audience", AUDIENCE);
        Ok(Self { issuer: Issuer::GitHubActions, url, job_token: token.into() })
    }

    /// azure_identity 1.0, `azure_pipelines_credential.rs`.
    fn pipelines() -> Result<Self, SourceError> {
        let required = |names: &[&'static str]| -> Result<String, SourceError> {
            let value = names.iter().find_map(|name| expanded(name).transpose()).transpose()?;
            value.ok_or_else(|| missing(Issuer::AzurePipelines, names[0]))
        };
        let (url, token) = (required(&[PIPELINES_URL])?, required(&["SYSTEM_ACCESSTOKEN"])?);
        let connection = required(&SERVICE_CONNECTION)?;
        let mut url = https(PIPELINES_URL, url)?;
        url.query_pairs_mut()
            .append_pair("api-version", PIPELINES_VERSION)
            .append_pair("serviceConnectionId", &connection);
        Ok(Self { issuer: Issuer::AzurePipelines, url, job_token: token.into() })
    }

    async fn token(&self, net: &Net, store: &Store) -> Result<Secret, SourceError> {
        let Self { issuer, url, job_token } = self;
        let http = net.http_client([url.authority(), url.authority()])?;
        let options = client_options(Client { http, store: store.clone() }, url, |_| MAX_BODY);
        let (name, version) = (option_env!("CARGO_PKG_NAME"), option_env!("CARGO_PKG_VERSION"));
        let pipeline = Pipeline::new(name, version, options, vec![], vec![], None);
        let method = if *issuer == Issuer::GitHubActions { Method::Get } else { Method::Post };
        let mut request = Request::new(url.clone(), method);
        request.insert_header("authorization", format!("Bearer {}", job_token.secret()));
        request.insert_header("accept", "application/json");
        if *issuer == Issuer::AzurePipelines {
            request.insert_header(NO_REDIRECT, "Suppress");
            request.insert_header("content-length", "0");
        }
        let unchecked = PipelineSendOptions { skip_checks: true, ..Default::default() };
        let response = pipeline.send(&Context::new(), &mut request, Some(unchecked)).await;
        let rejected = |cause| SourceError::Oidc { issuer: *issuer, cause };
        let response = response.map_err(|error| match EntraError::of_pipeline(&error) {
            EntraError::Net(error) => SourceError::Net(error),
            EntraError::Rejected(rejection) => rejected(rejection.status.to_string()),
            EntraError::Failed(cause) => rejected(cause),
        })?;
        let status = response.status();
        if !status.is_success() {
            return Err(rejected(u16::from(status).to_string()));
        }
        let token: Result<OidcResponse, _> = parse(response.body());
        Ok(token.map_err(|_| rejected("the response contains no token".into()))?.value)
    }
}

/// Returns the issuer of this job, whether or not the job may request a token (GitHub Docs, "Default environment
/// variables"; Microsoft Learn, "Predefined variables").
fn issuer() -> Result<Option<Issuer>, SourceError> {
    let is_github = variable("GITHUB_ACTIONS")?.is_some_and(|value| value == "true");
    Ok(if is_github || variable(GITHUB_URL)?.is_some() {
        Some(Issuer::GitHubActions)
    } else {
        variable(PIPELINES_URL)?.map(|_| Issuer::AzurePipelines)
    })
}

/// Returns a variable of Azure Pipelines, which leaves `$(NAME)` in place of a variable that is not defined (Microsoft
/// Learn, "Define variables").
fn expanded(name: &str) -> anyhow::Result<Option<String>> {
    Ok(variable(name)?.filter(|value| !(value.starts_with("$(") && value.ends_with(')'))))
}

fn missing(issuer: Issuer, name: &str) -> SourceError {
    Unavailable::IncompletePipeline { issuer, missing: name.to_owned() }.into()
}

/// Checks the URL of a service, which gets the token of the job.
fn https(name: &'static str, value: String) -> Result<Url, SourceError> {
    let url = Url::parse(&value).ok().filter(|url| url.scheme() == "https" && url.has_host());
    url.ok_or(SourceError::Variable { name, value, expected: "an https:// URL" })
}
