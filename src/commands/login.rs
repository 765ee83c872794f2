//! `arcssh login`: a user signs in, in a browser here or on another device.

use std::thread;

use anyhow::{Context as _, Result};
use azure_core::http::Url;
use tracing::debug;

use crate::azure::cloud::Cloud;
use crate::azure::credential::{Identity, Source, Wanted};
use crate::azure::pipeline::Client;
use crate::azure::sign_in::{self, Account, SignIn};
use crate::cli::LoginArgs;
use crate::line::warn;
use crate::net::Net;
use crate::store::Store;

/// Signs in, and keeps who did; the exit status.
///
/// # Errors
/// Under [`SigningIn`]: Entra ID or the user refuses, or what came of it cannot be kept.
pub(crate) async fn run(args: &LoginArgs) -> Result<u8> {
    let store = Store::open()?;
    let cloud = Cloud::new(args.cloud.name(), &args.cloud.endpoints())?;
    let account = sign_in(args, &cloud, &store).await.map_err(|error| error.context(SigningIn))?;
    sign_in::keep(&cloud, &store, &account).await?;
    warn(&format!("signed in as {} in the tenant {}", account.name, account.tenant));
    if let Some(first) = comes_first(&cloud, &store).await {
        warn(&format!("{} comes before it; with ARCSSH_CREDENTIAL=arcssh it does not", first.title()));
    }
    Ok(0)
}

/// Who speaks for this user all the same.
async fn comes_first(cloud: &Cloud, store: &Store) -> Option<Source> {
    let token = Identity::new(cloud, Wanted::default(), &Net::new(), store).token(None).await.ok()?;
    (token.source != Source::Arcssh && std::env::var_os("ARCSSH_CREDENTIAL").is_none())
        .then_some(token.source)
}

async fn sign_in(args: &LoginArgs, cloud: &Cloud, store: &Store) -> Result<Account> {
    store.try_out().context(NowhereToKeep)?;
    let http = Net::new().http_client([&cloud.arm_endpoint, &cloud.authority_host])?;
    let client = Client { http, store: store.clone() };
    let sign_in = SignIn::new(cloud, client, args.tenant.as_deref(), &args.client_id);
    let sign_in = sign_in.to(args.scope.as_deref().unwrap_or(&cloud.arm_scope));
    if args.device_code { sign_in.by_device_code(warn).await } else { sign_in.by_browser(open).await }
}

/// Shows the address in a browser, and on the terminal for one that cannot be found.
fn open(url: &Url) {
    warn("sign in in the browser, at the address:");
    warn(url.as_str());
    let url = url.clone();
    // A browser in the terminal keeps whoever opens it waiting.
    thread::spawn(move || {
        if let Err(error) = webbrowser::open(url.as_str()) {
            debug!("no browser: {error}");
            warn("no browser can be opened here; for one on another device type arcssh login --device-code");
        }
    });
}

/// What comes of a sign-in would be lost.
#[derive(Debug, thiserror::Error)]
#[error("a sign-in can be kept nowhere")]
pub(crate) struct NowhereToKeep;

/// What was under way when a sign-in failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot sign in")]
pub(crate) struct SigningIn;
