//! Managed identities: of App Service, of an Arc-enabled server through its agent, and of an Azure VM through its
//! instance metadata service (IMDS). Requests to them never use a proxy.

pub(super) mod arc;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use azure_core::credentials::TokenCredential;
use azure_core::error::ErrorKind;
use azure_core::http::{ClientOptions, StatusCode, Transport};
use azure_identity::{ManagedIdentityCredential, ManagedIdentityCredentialOptions, UserAssignedId};
use reqwest::Client;
use tokio::time::timeout;
use tracing::debug;

use crate::azure::credentials::managed_identity::arc::Agent;
use crate::azure::credentials::service_principal::variable;
use crate::azure::credentials::source::{SourceError, Unavailable};
use crate::azure::credentials::{CredentialSource, TokenResult};
use crate::azure::entra::NormalizeTokenResponse;
use crate::azure::http::{Bounded, HttpError, MAX_BODY};
use crate::net::Net;
use crate::net::error::causes;

/// Time limit for the first response of IMDS, which responds at once. On other machines, often nothing responds.
const PROBE_TIMEOUT: Duration = Duration::from_millis(500);

/// The URL of IMDS (Microsoft Learn, "How to use managed identities on a VM to acquire an access token"). A request
/// without the header `Metadata` gets a 400, unlike from the services of other clouds at this address.
const IMDS: &str = "http://169.254.169.254/metadata/identity/oauth2/token?api-version=2018-02-01";

/// Time limit for a token of App Service or IMDS, including retries.
const TOKEN_TIMEOUT: Duration = Duration::from_secs(30);

/// The chassis asset tag of every Azure VM (cloud-init, `sources/azure/identity.py`), and its file on Linux.
const AZURE_TAG: &str = "7783-7084-3265-9085-8269-3286-77";
const CHASSIS_TAG: &str = "/sys/class/dmi/id/chassis_asset_tag";

/// Requests a token of this machine. `selected` is the source that the user has selected.
pub(super) async fn managed_identity(net: &Net, scope: &str, selected: CredentialSource) -> TokenResult {
    if let Some(agent) = Agent::find()? {
        return agent.token(scope).await;
    }
    let http = net.local_http_client(PROBE_TIMEOUT)?;
    if variable("IDENTITY_ENDPOINT")?.is_none() && variable("MSI_ENDPOINT")?.is_none() {
        if selected.is_any() && is_other_firmware() {
            debug!("the firmware shows that this is not an Azure VM");
            return Err(not_in_azure().into());
        }
        probe(&http).await?;
    }
    let token = timeout(TOKEN_TIMEOUT, request(http, scope)).await;
    token.with_context(|| {
        format!("the metadata service did not respond within {} s", TOKEN_TIMEOUT.as_secs())
    })?
}

/// Returns whether the firmware shows that this is not an Azure VM: any device of the network could then respond at the
/// address of IMDS. Some containers, and systems other than Linux, do not show the tag.
fn is_other_firmware() -> bool {
    std::fs::read_to_string(CHASSIS_TAG).is_ok_and(|tag| tag.trim() != AZURE_TAG)
}

/// Requests a token of App Service or IMDS.
async fn request(http: Client, scope: &str) -> TokenResult {
    let transport = Some(Transport::new(Arc::new(Bounded { http, max_body: |_| MAX_BODY })));
    let options = ManagedIdentityCredentialOptions {
        user_assigned_id: variable("AZURE_CLIENT_ID")?.map(UserAssignedId::ClientId),
        client_options: ClientOptions {
            transport,
            per_call_policies: vec![Arc::new(NormalizeTokenResponse)],
            ..Default::default()
        },
    };
    // It fails on every other kind of machine.
    let credential = ManagedIdentityCredential::new(Some(options)).map_err(|error| unavailable(&error))?;
    credential.get_token(&[scope], None).await.map_err(|error| {
        if is_unassigned(&error) {
            unavailable(&"no managed identity is assigned to this computer").into()
        } else if let Some(too_long @ HttpError::TooLong(_)) = HttpError::find(&error) {
            SourceError::Failed(format!("the response of the metadata service cannot be used: {too_long}"))
        } else {
            error.into()
        }
    })
}

/// IMDS responds with 400 if the machine does not have this identity.
fn is_unassigned(error: &azure_core::Error) -> bool {
    causes(error)
        .filter_map(|cause| cause.downcast_ref::<azure_core::Error>())
        .any(|cause| matches!(cause.kind(), ErrorKind::HttpResponse { status: StatusCode::BadRequest, .. }))
}

fn unavailable(why: &dyn std::fmt::Display) -> Unavailable {
    Unavailable::NoManagedIdentity(why.to_string())
}

async fn probe(http: &Client) -> Result<(), Unavailable> {
    match http.get(IMDS).timeout(PROBE_TIMEOUT).send().await {
        Ok(response) if response.status() == 400 => Ok(()),
        Ok(response) => {
            debug!(status = response.status().as_u16(), "another service than Azure's responds at {IMDS}");
            Err(not_in_azure())
        }
        Err(_) => Err(not_in_azure()),
    }
}

fn not_in_azure() -> Unavailable {
    unavailable(&"this computer is not in Azure")
}
