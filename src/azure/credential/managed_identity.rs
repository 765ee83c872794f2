//! The identity that Azure gives a machine: App Service, an Arc machine by its agent, an Azure VM by its instance
//! metadata service. None of them is ever asked through a proxy.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use azure_core::credentials::{Secret, TokenCredential};
use azure_core::error::ErrorKind;
use azure_core::http::{ClientOptions, StatusCode, Transport};
use azure_identity::{ManagedIdentityCredential, ManagedIdentityCredentialOptions, UserAssignedId};
use reqwest::header::WWW_AUTHENTICATE;
use reqwest::{Client, Response, Url};
use serde::Deserialize;
use tracing::debug;

use crate::azure::credential::environment::variable;
use crate::azure::credential::{Absent, Answer, Without, resource};
use crate::azure::entra::{Given, InOneForm};
use crate::azure::pipeline::{Bounded, MAX_BODY, TooLong, causes};
use crate::net::Net;
use crate::net::head::parameter;

/// How long the instance metadata service may take to show that it is there. It answers at once where there is one; where
/// there is none, often nothing answers at all.
const PROBE_TIMEOUT: Duration = Duration::from_millis(500);

/// The instance metadata service of an Azure VM (Microsoft Learn, "How to use managed identities on a VM to acquire an
/// access token"). Without the header `Metadata` it answers 400, which no other cloud's service at this address does.
const IMDS: &str = "http://169.254.169.254/metadata/identity/oauth2/token?api-version=2018-02-01";

/// The Arc agent's endpoint where the environment names none, and the version of its protocol (MSAL,
/// `managed_identity.py`).
const HIMDS: &str = "http://localhost:40342/metadata/identity/oauth2/token";
const HIMDS_API_VERSION: &str = "2020-06-01";
/// The longest key that the agent leaves for us (the same).
const MAX_KEY: u64 = 4096;

/// The token of this machine.
pub(super) async fn managed_identity(net: &Net, scope: &str) -> Answer {
    let http = net.local_http_client(PROBE_TIMEOUT)?;
    if let Some(endpoint) = arc_endpoint()? {
        return of_arc(&http, endpoint, scope).await;
    }
    if variable("IDENTITY_ENDPOINT")?.is_none() && variable("MSI_ENDPOINT")?.is_none() {
        probe(&http).await?;
    }
    of_azure(http, scope).await
}

/// App Service and Azure VMs.
async fn of_azure(http: Client, scope: &str) -> Answer {
    let transport = Some(Transport::new(Arc::new(Bounded(http))));
    let options = ManagedIdentityCredentialOptions {
        user_assigned_id: variable("AZURE_CLIENT_ID")?.map(UserAssignedId::ClientId),
        client_options: ClientOptions {
            transport,
            per_call_policies: vec![Arc::new(InOneForm)],
            ..Default::default()
        },
    };
    // It knows no other kinds of machines.
    let credential = ManagedIdentityCredential::new(Some(options)).map_err(|error| absent(&error))?;
    credential.get_token(&[scope], None).await.map_err(|error| match none_assigned(&error) {
        true => absent(&"no managed identity is assigned to this machine").into(),
        false => error.into(),
    })
}

/// IMDS answers 400 where the machine has no identity, or not this one.
fn none_assigned(error: &azure_core::Error) -> bool {
    causes(error)
        .filter_map(|cause| cause.downcast_ref::<azure_core::Error>())
        .any(|cause| matches!(cause.kind(), ErrorKind::HttpResponse { status: StatusCode::BadRequest, .. }))
}

fn absent(why: &dyn std::fmt::Display) -> Absent {
    Absent::new(why.to_string(), "assign a managed identity to this machine")
}

async fn probe(http: &Client) -> Result<(), Absent> {
    match http.get(IMDS).timeout(PROBE_TIMEOUT).send().await {
        Ok(answer) if answer.status() == 400 => Ok(()),
        Ok(answer) => {
            debug!(status = answer.status().as_u16(), "another service than Azure's is at {IMDS}");
            Err(absent(&"this is no machine in Azure"))
        }
        Err(_) => Err(absent(&"this is no machine in Azure")),
    }
}

/// Where the Arc agent answers, if this is an Arc machine: the environment tells, else the agent's program does
/// (MSAL, `managed_identity.py`; MSAL Go, `managedidentity.go`).
fn arc_endpoint() -> Result<Option<Url>> {
    if variable("IDENTITY_HEADER")?.is_some() {
        return Ok(None);
    }
    let endpoint = match (variable("IDENTITY_ENDPOINT")?, variable("IMDS_ENDPOINT")?) {
        (Some(endpoint), Some(_)) => endpoint,
        _ if agent_program().is_file() => HIMDS.to_owned(),
        _ => return Ok(None),
    };
    let url = Url::parse(&endpoint).with_context(|| format!("IDENTITY_ENDPOINT={endpoint} is not a URL"))?;
    let here = matches!(url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"));
    ensure!(url.scheme() == "http" && here, "IDENTITY_ENDPOINT={endpoint} is not on this machine");
    Ok(Some(url))
}

/// The token of an Arc machine: the agent names a file, and whoever can read it has the token.
async fn of_arc(http: &Client, mut endpoint: Url, scope: &str) -> Answer {
    let query = [("api-version", HIMDS_API_VERSION), ("resource", resource(scope))];
    endpoint.query_pairs_mut().extend_pairs(query);
    let ask = || http.get(endpoint.clone()).header("Metadata", "true");
    let challenge = ask().send().await.context(NoAgent)?;
    let text = challenge.headers().get(WWW_AUTHENTICATE).and_then(|value| value.to_str().ok());
    let file = text.and_then(|text| parameter(text, "realm")).with_context(|| {
        format!("the Arc agent answered {} in place of a challenge", challenge.status().as_u16())
    })?;
    let key = key(file)?;
    let answer = ask().header("Authorization", format!("Basic {}", key.secret())).send().await;
    let answer = answer.context(NoAgent)?;
    let status = answer.status();
    let body = body(answer).await.context("the Arc agent broke off")?;
    if !status.is_success() {
        return Err(anyhow!("the Arc agent answered {}: {}", status.as_u16(), told(&body)).into());
    }
    let given: Given = serde_json::from_slice(&body).context("the Arc agent gave no token")?;
    Ok(given.token())
}

/// The body of an answer, up to [`MAX_BODY`].
async fn body(mut answer: Response) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await? {
        body.extend_from_slice(&chunk);
        ensure!(body.len() <= MAX_BODY, TooLong);
    }
    Ok(body)
}

/// This is an Arc machine whose agent is not running.
#[derive(Debug, thiserror::Error)]
#[error("the Arc agent of this machine does not answer")]
pub(crate) struct NoAgent;

/// What an answer without a token says (OAuth's `error_description`, or whatever stands there).
fn told(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Refusal {
        error_description: String,
    }
    serde_json::from_slice(body).map_or_else(
        |_| String::from_utf8_lossy(&body[..body.len().min(300)]).trim().to_owned(),
        |Refusal { error_description }| error_description,
    )
}

/// The key that the agent left in a file for those who may have its token. The agent's word for where it lies is not
/// taken: only its name counts, and it must be in the agent's own folder.
fn key(named: &str) -> Result<Secret, Without> {
    let name = named.rsplit(['/', '\\']).next().unwrap_or_default();
    let path = key_folder().join(name);
    if path != Path::new(named) || !name.ends_with(".key") {
        return Err(anyhow!("the Arc agent named a key outside of its folder: {named}").into());
    }
    match read_key(&path) {
        Ok(key) => Ok(Secret::new(key.trim_end().to_owned())),
        Err(error) if is_denied(&error) => Err(Absent::for_others(
            format!("only the agent's own group may read {}", path.display()),
            IN_GROUP,
        )
        .into()),
        Err(error) => Err(error.context(format!("cannot read {}", path.display())).into()),
    }
}

fn read_key(path: &Path) -> Result<String> {
    let file = File::open(path)?;
    let length = file.metadata()?.len();
    if length > MAX_KEY {
        bail!("it is longer than {MAX_KEY} bytes");
    }
    let mut key = String::new();
    file.take(MAX_KEY).read_to_string(&mut key)?;
    ensure!(!key.trim_end().contains(char::is_control), "it holds no key");
    Ok(key)
}

fn is_denied(error: &anyhow::Error) -> bool {
    let cause = error.downcast_ref::<std::io::Error>();
    cause.is_some_and(|cause| cause.kind() == std::io::ErrorKind::PermissionDenied)
}

/// What starts the agent (Microsoft Learn, "Overview of Azure Connected Machine agent": its services).
pub(crate) const START_AGENT: &str =
    if cfg!(windows) { "Start-Service himds" } else { "sudo systemctl start himdsd" };

/// Who may have an Arc machine's token (Microsoft Learn, "Authenticate against Azure resources with Azure Arc-enabled
/// servers").
const IN_GROUP: &str = if cfg!(windows) {
    "run as an administrator, or join the group Hybrid agent extension applications"
} else {
    "sudo usermod -a -G himds $USER, and log in again"
};

#[cfg(not(windows))]
fn agent_program() -> PathBuf {
    PathBuf::from("/opt/azcmagent/bin/himds")
}

#[cfg(windows)]
fn agent_program() -> PathBuf {
    let folder = std::env::var_os("ProgramFiles").unwrap_or_default();
    Path::new(&folder).join(r"AzureConnectedMachineAgent\himds.exe")
}

#[cfg(not(windows))]
fn key_folder() -> PathBuf {
    PathBuf::from("/var/opt/azcmagent/tokens")
}

#[cfg(windows)]
fn key_folder() -> PathBuf {
    let folder = std::env::var_os("ProgramData").unwrap_or_default();
    Path::new(&folder).join(r"AzureConnectedMachineAgent\Tokens")
}
