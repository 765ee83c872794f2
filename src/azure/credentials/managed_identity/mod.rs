//! The identity that Azure gives a machine: App Service, an Arc machine by its agent, an Azure VM by its instance
//! metadata service. None of them is ever asked through a proxy.

pub(super) mod arc;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use azure_core::credentials::TokenCredential;
use azure_core::error::ErrorKind;
use azure_core::http::{ClientOptions, StatusCode, Transport};
use azure_identity::{ManagedIdentityCredential, ManagedIdentityCredentialOptions, UserAssignedId};
use reqwest::Client;
use tokio::time::timeout;
use tracing::debug;

use crate::azure::credentials::managed_identity::arc::Agent;
use crate::azure::credentials::service_principal::variable;
use crate::azure::credentials::{CredentialSource, TokenResult, Unavailable};
use crate::azure::entra::NormalizeTokenResponse;
use crate::azure::http::{Bounded, TooLong, error_chain};
use crate::net::Net;

/// How long the instance metadata service may take to show that it is there. It answers at once where there is one; where
/// there is none, often nothing answers at all.
const PROBE_TIMEOUT: Duration = Duration::from_millis(500);

/// The instance metadata service of an Azure VM (Microsoft Learn, "How to use managed identities on a VM to acquire an
/// access token"). Without the header `Metadata` it answers 400, which no other cloud's service at this address does.
const IMDS: &str = "http://169.254.169.254/metadata/identity/oauth2/token?api-version=2018-02-01";

/// Bound on a token of App Service or the instance metadata service, retries included.
const TOKEN_TIMEOUT: Duration = Duration::from_secs(30);

/// The asset tag of every Azure VM's chassis (cloud-init, `sources/azure/identity.py`), and where Linux shows it.
const AZURE_TAG: &str = "7783-7084-3265-9085-8269-3286-77";
const CHASSIS_TAG: &str = "/sys/class/dmi/id/chassis_asset_tag";

/// Gets a token of this machine. `wanted` is the source that the user named.
pub(super) async fn managed_identity(net: &Net, scope: &str, wanted: CredentialSource) -> TokenResult {
    if let Some(agent) = Agent::find()? {
        return agent.token(scope).await;
    }
    let http = net.local_http_client(PROBE_TIMEOUT)?;
    if variable("IDENTITY_ENDPOINT")?.is_none() && variable("MSI_ENDPOINT")?.is_none() {
        if wanted.is_any() && is_elsewhere() {
            debug!("the firmware shows that this is not an Azure VM");
            return Err(no_azure_machine().into());
        }
        probe(&http).await?;
    }
    let token = timeout(TOKEN_TIMEOUT, of_azure(http, scope)).await;
    token.with_context(|| format!("no answer within {} s", TOKEN_TIMEOUT.as_secs()))?
}

/// Whether the firmware shows that this is not an Azure VM. There, only the network could answer at the address of the
/// instance metadata service. Some containers and other systems than Linux show nothing.
fn is_elsewhere() -> bool {
    std::fs::read_to_string(CHASSIS_TAG).is_ok_and(|tag| tag.trim() != AZURE_TAG)
}

/// App Service and Azure VMs.
async fn of_azure(http: Client, scope: &str) -> TokenResult {
    let transport = Some(Transport::new(Arc::new(Bounded(http))));
    let options = ManagedIdentityCredentialOptions {
        user_assigned_id: variable("AZURE_CLIENT_ID")?.map(UserAssignedId::ClientId),
        client_options: ClientOptions {
            transport,
            per_call_policies: vec![Arc::new(NormalizeTokenResponse)],
            ..Default::default()
        },
    };
    // It knows no other kinds of machines.
    let credential = ManagedIdentityCredential::new(Some(options)).map_err(|error| absent(&error))?;
    credential.get_token(&[scope], None).await.map_err(|error| match none_assigned(&error) {
        true => absent(&"no managed identity is assigned to this machine").into(),
        false if error_chain(&error).any(|cause| cause.is::<TooLong>()) => {
            anyhow!(TooLong).context("the answer of the metadata service is unusable").into()
        }
        false => error.into(),
    })
}

/// IMDS answers 400 where the machine has no identity, or not this one.
fn none_assigned(error: &azure_core::Error) -> bool {
    error_chain(error)
        .filter_map(|cause| cause.downcast_ref::<azure_core::Error>())
        .any(|cause| matches!(cause.kind(), ErrorKind::HttpResponse { status: StatusCode::BadRequest, .. }))
}

fn absent(why: &dyn std::fmt::Display) -> Unavailable {
    Unavailable::new(why.to_string(), "assign a managed identity to this machine")
}

async fn probe(http: &Client) -> Result<(), Unavailable> {
    match http.get(IMDS).timeout(PROBE_TIMEOUT).send().await {
        Ok(answer) if answer.status() == 400 => Ok(()),
        Ok(answer) => {
            debug!(status = answer.status().as_u16(), "another service than Azure's is at {IMDS}");
            Err(no_azure_machine())
        }
        Err(_) => Err(no_azure_machine()),
    }
}

fn no_azure_machine() -> Unavailable {
    absent(&"this is no machine in Azure")
}
