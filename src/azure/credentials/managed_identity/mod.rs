//! Managed identities: of App Service, of an Arc-enabled server through its agent, and of an Azure VM through its
//! instance metadata service (IMDS). Requests to them never use a proxy.

pub(super) mod arc;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use azure_core::credentials::TokenCredential;
use azure_core::error::ErrorKind;
use azure_core::http::headers::Headers;
use azure_core::http::policies::{Policy, PolicyResult};
use azure_core::http::{
    AsyncRawResponse, ClientOptions, Context, ExponentialRetryOptions, Request, RetryOptions, Transport,
};
use azure_identity::{ManagedIdentityCredential, ManagedIdentityCredentialOptions, UserAssignedId};
use reqwest::Client;
use serde_json::Value;
use tokio::time::timeout;
use tracing::debug;

use crate::azure::credentials::managed_identity::arc::Agent;
use crate::azure::credentials::service_principal::variable;
use crate::azure::credentials::source::{MetadataServiceError, SourceError, Unavailable};
use crate::azure::credentials::{Selection, TokenResult};
use crate::azure::entra::NormalizeTokenResponse;
use crate::azure::http::{Bounded, HttpError, MAX_BODY};
use crate::azure::json::parse;
use crate::net::Net;
use crate::net::error::{causes, root};
use crate::text::without_byte_order_mark;

/// Time limits for the first response of IMDS. On other machines, often nothing responds, so a search waits for a short
/// time, and twice: a busy Azure VM can take longer than half a second (Azure/azure-sdk-for-net issue 9550). If the user
/// selected the identity, there is nothing to guess; up to 6 s were seen (issue 20609).
const SEARCH_PROBES: [Duration; 2] = [Duration::from_secs(1); 2];
const NAMED_PROBE: [Duration; 1] = [Duration::from_secs(10)];

/// The URL of IMDS (Microsoft Learn, "How to use managed identities on a VM to acquire an access token"). A request
/// without the header `Metadata` gets a 400, unlike from the services of other clouds at this address.
const IMDS: &str = "http://169.254.169.254/metadata/identity/oauth2/token?api-version=2018-02-01";

/// Time limit for a token of App Service or IMDS, including retries.
const TOKEN_TIMEOUT: Duration = Duration::from_secs(30);
/// Retries after 408, 429, 5xx and a broken connection, with delays of 0.4, 0.8, 1.6 and 3.2 s (typespec_client_core 1.1,
/// `exponential.rs`): about 6 s if the user selected the identity.
const SEARCH_RETRIES: u32 = 1;
const NAMED_RETRIES: u32 = 4;

/// The chassis asset tag of every Azure VM (cloud-init, `sources/azure/identity.py`), and its file on Linux.
const AZURE_TAG: &str = "7783-7084-3265-9085-8269-3286-77";
const CHASSIS_TAG: &str = "/sys/class/dmi/id/chassis_asset_tag";

/// Requests a token of this machine.
pub(super) async fn managed_identity(net: &Net, scope: &str, selection: Selection) -> TokenResult {
    if let Some(agent) = Agent::find()? {
        return agent.token(scope).await;
    }
    let client_id = variable("AZURE_CLIENT_ID")?;
    let is_named = selection == Selection::Named || client_id.is_some();
    let limits = if is_named { &NAMED_PROBE[..] } else { &SEARCH_PROBES };
    let http = net.local_http_client(limits[0])?;
    if variable("IDENTITY_ENDPOINT")?.is_none() && variable("MSI_ENDPOINT")?.is_none() {
        if selection == Selection::Chain && is_other_firmware() {
            debug!("the firmware shows that this is not an Azure VM");
            return Err(not_in_azure().into());
        }
        match probe(&http, limits).await {
            // On most computers this is no reason that the user should see.
            Err(error @ Unavailable::NoResponse(_)) if !is_named => return Err(unavailable(&error).into()),
            result => result?,
        }
    }
    let max_retries = if is_named { NAMED_RETRIES } else { SEARCH_RETRIES };
    let too_long = |_| {
        let limit = TOKEN_TIMEOUT.as_secs();
        SourceError::Failed(format!("the metadata service did not respond within {limit} s"))
    };
    timeout(TOKEN_TIMEOUT, request(http, scope, client_id, max_retries)).await.map_err(too_long)?
}

/// Returns whether the firmware shows that this is not an Azure VM: any device of the network could then respond at the
/// address of IMDS. Some containers, and systems other than Linux, do not show the tag.
fn is_other_firmware() -> bool {
    std::fs::read_to_string(CHASSIS_TAG).is_ok_and(|tag| tag.trim() != AZURE_TAG)
}

/// Requests a token of App Service or IMDS.
async fn request(http: Client, scope: &str, client_id: Option<String>, max_retries: u32) -> TokenResult {
    let transport = Some(Transport::new(Arc::new(Bounded { http, max_body: |_| MAX_BODY })));
    let options = ManagedIdentityCredentialOptions {
        user_assigned_id: client_id.clone().map(UserAssignedId::ClientId),
        client_options: ClientOptions {
            transport,
            per_call_policies: vec![Arc::new(NormalizeTokenResponse)],
            per_try_policies: vec![Arc::new(LimitRetries)],
            retry: RetryOptions::exponential(ExponentialRetryOptions { max_retries, ..Default::default() }),
            ..Default::default()
        },
    };
    // It fails on every other kind of machine.
    let credential = ManagedIdentityCredential::new(Some(options)).map_err(|error| unavailable(&error))?;
    credential.get_token(&[scope], None).await.map_err(|error| {
        if let Some(too_long @ HttpError::TooLong(_)) = HttpError::find(&error) {
            return SourceError::Failed(format!(
                "the response of the metadata service cannot be used: {too_long}"
            ));
        }
        match rejection(&error, client_id) {
            Some(rejection) if rejection.is_unassigned() => {
                unavailable(&"no managed identity is assigned to this computer").into()
            }
            Some(rejection) => rejection.into(),
            None if causes(&error).any(|cause| cause.is::<reqwest::Error>()) => {
                SourceError::Failed(format!("the metadata service does not respond: {}", root(&error)))
            }
            None if causes(&error).any(|cause| cause.is::<serde_json::Error>()) => {
                SourceError::Failed("its response contains no token".into())
            }
            None => error.into(),
        }
    })
}

/// Stops the retry policy if nothing listens, and keeps its delays in place of a longer one of the service.
#[derive(Debug)]
struct LimitRetries;

#[async_trait]
impl Policy for LimitRetries {
    async fn send(&self, ctx: &Context, request: &mut Request, next: &[Arc<dyn Policy>]) -> PolicyResult {
        let response = next[0].send(ctx, request, &next[1..]).await.map_err(|error| match error.kind() {
            ErrorKind::Connection => {
                azure_core::Error::with_error(ErrorKind::Other, error, "the connection failed")
            }
            _ => error,
        })?;
        let (status, headers, body) = response.try_into_raw_response().await?.deconstruct();
        let mut kept = Headers::new();
        for (name, value) in headers.iter().filter(|(name, _)| !name.as_str().contains("retry-after")) {
            kept.insert(name.clone(), value.clone());
        }
        Ok(AsyncRawResponse::from_bytes(status, kept, azure_core::Bytes::from(body)))
    }
}

/// Returns the response of the service, if it sent one without a token.
fn rejection(error: &azure_core::Error, client_id: Option<String>) -> Option<MetadataServiceError> {
    let errors = causes(error).filter_map(|cause| cause.downcast_ref::<azure_core::Error>());
    let mut responses = errors.filter_map(|cause| match cause.kind() {
        ErrorKind::HttpResponse { status, raw_response, .. } => Some((*status, raw_response)),
        _ => None,
    });
    let (status, response) = responses.next()?;
    let description = response.as_ref().map_or(String::new(), |response| describe(response.body()));
    Some(MetadataServiceError { status: status.into(), description, client_id })
}

impl MetadataServiceError {
    /// Returns whether the machine has no identity at all. IMDS responds with 400 and other texts if the machine has several
    /// identities, or not the selected one (Azure/azure-sdk-for-net issue 13481).
    fn is_unassigned(&self) -> bool {
        self.status == 400
            && self.client_id.is_none()
            && self.description.trim_end_matches('.').ends_with("Identity not found")
    }
}

/// The longest description of a response that is not JSON, in characters.
const MAX_DESCRIPTION: usize = 300;

/// Returns the text of an error response: that of OAuth (IMDS, the Arc agent), of ARM, or of App Service (RFC 6749, section 5.2;
/// pnp/cli-microsoft365 has a response of App Service in its tests), or the beginning of another text.
fn describe(body: &[u8]) -> String {
    let json: Value = parse(body).unwrap_or_default();
    let paths = ["/error_description", "/error/message", "/message", "/Message", "/error"];
    let text = paths.iter().find_map(|path| json.pointer(path)?.as_str().filter(|text| !text.is_empty()));
    text.map_or_else(
        || {
            let text = String::from_utf8_lossy(without_byte_order_mark(body));
            text.trim().chars().take(MAX_DESCRIPTION).collect()
        },
        ToOwned::to_owned,
    )
}

fn unavailable(why: &dyn std::fmt::Display) -> Unavailable {
    Unavailable::NoManagedIdentity(why.to_string())
}

/// Waits for a response of IMDS, once for each time limit.
async fn probe(http: &Client, limits: &[Duration]) -> Result<(), Unavailable> {
    for limit in limits {
        match http.get(IMDS).timeout(*limit).send().await {
            Ok(response) if response.status() == 400 => return Ok(()),
            Ok(response) => {
                debug!(
                    status = response.status().as_u16(),
                    "another service than Azure's responds at {IMDS}"
                );
                return Err(not_in_azure());
            }
            Err(error) if error.is_timeout() => debug!("no response of {IMDS} within {} s", limit.as_secs()),
            Err(_) => return Err(not_in_azure()),
        }
    }
    Err(Unavailable::NoResponse(limits.iter().map(Duration::as_secs).sum()))
}

fn not_in_azure() -> Unavailable {
    unavailable(&"this computer is not in Azure")
}
