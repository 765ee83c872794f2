//! Who we are: the sources of an Entra ID token for ARM, tried in order.
//!
//! A source that is not set up is passed over; one that is set up and refuses ends the search with its own words.

use std::env::VarError;
use std::ffi::OsStr;
use std::process::{Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use async_trait::async_trait;
use azure_core::cloud::{CloudConfiguration, CustomConfiguration};
use azure_core::credentials::{Secret, TokenCredential};
use azure_core::http::ClientOptions;
use azure_identity::{
    AzureCliCredential, AzureCliCredentialOptions, ClientSecretCredential, ClientSecretCredentialOptions,
    Executor,
};
use tokio::process::Command;
use tokio::time::timeout;
use tracing::info;

use crate::azure::cloud::Cloud;
use crate::azure::entra;

/// The environment variables of a service principal with a secret, as every Azure SDK reads them.
const SERVICE_PRINCIPAL: [&str; 3] = ["AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET"];

/// The first source that is set up: a service principal in the environment, else Azure CLI.
///
/// Entra ID is asked through `http`; the sign-in authority is the cloud's.
///
/// # Errors
/// The environment names a service principal only in part.
pub(crate) fn from_environment(cloud: &Cloud, http: reqwest::Client) -> Result<Arc<dyn TokenCredential>> {
    if let Some([tenant, client, secret]) = service_principal()? {
        info!(tenant, client, "identity: the service principal of AZURE_CLIENT_ID");
        let options = ClientSecretCredentialOptions {
            client_options: with_authority(entra::client_options(http), cloud),
        };
        return ClientSecretCredential::new(&tenant, client, Secret::new(secret), Some(options))
            .map(|credential| credential as Arc<dyn TokenCredential>)
            .context("the service principal of AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET is unusable");
    }
    info!("identity: Azure CLI, as AZURE_CLIENT_SECRET is not set");
    let options = AzureCliCredentialOptions { executor: Some(Arc::new(Apart)), ..Default::default() };
    Ok(AzureCliCredential::new(Some(options)).context("Azure CLI is unusable")?)
}

/// How long a program may take to give a token; Azure CLI takes 0.5 to 5 s.
const PROGRAM_TIMEOUT: Duration = Duration::from_secs(60);

/// Runs a program apart from ssh's connection: standard input belongs to ssh, and what would read it would steal the
/// first bytes. A program that nobody waits for any more is ended, with all that it has started.
#[derive(Debug)]
struct Apart;

#[async_trait]
impl Executor for Apart {
    async fn run(&self, program: &OsStr, args: &[&OsStr]) -> std::io::Result<Output> {
        let mut command = Command::new(program);
        command
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        #[cfg(unix)]
        command.process_group(0);
        let child = command.spawn()?;
        let group = Group(child.id());
        let output = timeout(PROGRAM_TIMEOUT, child.wait_with_output()).await??;
        group.spare();
        Ok(output)
    }
}

/// The processes of a program; ended when dropped.
struct Group(Option<u32>);

impl Group {
    /// Lets them be: the program has ended by itself.
    fn spare(mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        #[cfg(unix)]
        if let Some(leader) = self.0.and_then(|id| rustix::process::Pid::from_raw(id.cast_signed())) {
            let _ = rustix::process::kill_process_group(leader, rustix::process::Signal::KILL);
        }
    }
}

/// All three variables, or none. `AZURE_TENANT_ID` and `AZURE_CLIENT_ID` alone also serve other sources, so only the
/// secret says that a service principal is meant.
fn service_principal() -> Result<Option<[String; 3]>> {
    let read = |name: &str| match std::env::var(name) {
        Ok(value) if !value.is_empty() => Ok(Some(value)),
        Ok(_) | Err(VarError::NotPresent) => Ok(None),
        Err(VarError::NotUnicode(_)) => bail!("{name} is not text"),
    };
    let [tenant, client, secret] = SERVICE_PRINCIPAL.map(read);
    match (tenant?, client?, secret?) {
        (_, _, None) => Ok(None),
        (Some(tenant), Some(client), Some(secret)) => Ok(Some([tenant, client, secret])),
        (tenant, _, Some(_)) => {
            let missing = if tenant.is_none() { "AZURE_TENANT_ID" } else { "AZURE_CLIENT_ID" };
            bail!(NotSetUp { missing })
        }
    }
}

/// The environment names a service principal only in part.
#[derive(Debug, thiserror::Error)]
#[error("AZURE_CLIENT_SECRET is set, but {missing} is not")]
pub(crate) struct NotSetUp {
    missing: &'static str,
}

fn with_authority(mut options: ClientOptions, cloud: &Cloud) -> ClientOptions {
    let mut custom = CustomConfiguration::default();
    custom.authority_host = cloud.authority_host.to_string();
    options.cloud = Some(Arc::new(CloudConfiguration::Custom(custom)));
    options
}
