//! `arcssh login`: signs a user in, with a browser on this machine or on another device.

use std::thread;

use anyhow::{Context as _, Result, bail};
use azure_core::http::Url;
use tracing::debug;

use crate::azure::cloud::Cloud;
use crate::azure::credentials::{CredentialChain, CredentialOptions, CredentialSource};
use crate::azure::http::Client;
use crate::azure::login::{self, Account, SignIn, SignedIn};
use crate::cli::LoginArgs;
use crate::net::Net;
use crate::state::Store;
use crate::terminal::output::note;
use crate::terminal::prompt::{Confirm, PromptError};
use crate::text::set_variable;

/// Signs in, and stores the account; the exit status.
///
/// # Errors
/// Under [`SigningIn`]: Entra ID or the user refuses, another account than the expected one signed in, or the account
/// cannot be stored.
pub(crate) async fn run(args: &LoginArgs) -> Result<u8> {
    let store = Store::open()?;
    let cloud = Cloud::new(args.cloud.name(), &args.cloud.endpoints())?;
    let before = login::account(&cloud, &store)?;
    let account = attempt(args, &cloud, &store, before).await.map_err(|error| error.context(SigningIn))?;
    note(&format!("signed in as {}", account.title()));
    if let Some(first) = comes_first(&cloud, &store).await {
        let command = set_variable("ARCSSH_CREDENTIAL", "arcssh");
        note(&format!("{} comes before this sign-in; to use this sign-in: {command}", first.title()));
    }
    Ok(0)
}

async fn attempt(args: &LoginArgs, cloud: &Cloud, store: &Store, before: Option<Account>) -> Result<Account> {
    let signed_in = sign_in(args, cloud, store).await?;
    let account = signed_in.account.clone();
    confirm(args, before.as_ref(), &account).await?;
    if let Some(reason) = login::save(cloud, store, signed_in).await?.filter(|reason| !reason.is_expected()) {
        note(&format!("the refresh token is stored in a file that only you can read: {reason}"));
    }
    Ok(account)
}

/// The credential that is used in place of this account.
async fn comes_first(cloud: &Cloud, store: &Store) -> Option<CredentialSource> {
    let token = CredentialChain::new(cloud, CredentialOptions::default(), &Net::new(), store)
        .token(None)
        .await
        .ok()?;
    (token.source != CredentialSource::Arcssh && std::env::var_os("ARCSSH_CREDENTIAL").is_none())
        .then_some(token.source)
}

async fn sign_in(args: &LoginArgs, cloud: &Cloud, store: &Store) -> Result<SignedIn> {
    store.check_writable().context(NowhereToKeep)?;
    let http = Net::new().http_client([&cloud.arm_endpoint, &cloud.authority_host])?;
    let client = Client { http, store: store.clone() };
    let sign_in = SignIn::new(cloud, client, args.tenant.as_deref(), &args.client_id);
    let sign_in = sign_in.to(args.scope.as_deref().unwrap_or(&cloud.arm_scope));
    let sign_in = sign_in.for_account(args.account.as_deref());
    if args.device_code { sign_in.by_device_code(note).await } else { sign_in.by_browser(open).await }
}

/// Shows the URL on the terminal, for a browser that arcssh cannot start, and starts a browser with the link.
fn open(url: &Url, link: &str) {
    note("sign in in the browser, at the address:");
    note(url.as_str());
    let link = link.to_owned();
    // A browser in the terminal keeps its caller waiting.
    let browser = move || webbrowser::open(&link).unwrap_or_else(|error| warn_without_browser(&error));
    if let Err(error) = thread::Builder::new().spawn(browser) {
        warn_without_browser(&error);
    }
}

fn warn_without_browser(error: &std::io::Error) {
    debug!("no browser: {error}");
    note("arcssh cannot open a browser here; to sign in on another device, run: arcssh login --device-code");
}

/// Has the user confirm an account that is not the expected one: another user of this machine, or a web page, could have
/// signed this user in with another account (RFC 6749, section 10.12).
async fn confirm(args: &LoginArgs, before: Option<&Account>, account: &Account) -> Result<()> {
    let Some(expected) = other_than(args, before, account) else { return Ok(()) };
    let question = format!("{} signed in, not {expected}. Use this account?", account.title());
    match Confirm::Ask.to(&question).await {
        Err(error) if error.is::<PromptError>() => {
            bail!(AnotherAccount { name: account.name.clone(), tenant: account.tenant.clone(), expected })
        }
        result => result,
    }
}

/// The expected account, where another one signed in. The command line names it, else it is the account that was signed in
/// before. In a tenant that the command line names, the same user has another ID.
fn other_than(args: &LoginArgs, before: Option<&Account>, account: &Account) -> Option<String> {
    let is_named = |name: &str| name.eq_ignore_ascii_case(&account.name);
    let tenant = args.tenant.as_deref().filter(|tenant| is_id(tenant));
    if let Some(tenant) = tenant.filter(|tenant| !tenant.eq_ignore_ascii_case(&account.tenant)) {
        return Some(format!("an account in the tenant {tenant}"));
    }
    if let Some(name) = &args.account {
        return (!is_named(name)).then(|| name.clone());
    }
    let before = before.filter(|before| before.id() != account.id())?;
    (args.tenant.is_none() || !is_named(&before.name)).then(|| before.title())
}

/// Whether a tenant is named by its ID, and not by a domain.
fn is_id(tenant: &str) -> bool {
    uuid::Uuid::try_parse(tenant).is_ok()
}

/// The directory for the state cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("a sign-in can be kept nowhere")]
pub(crate) struct NowhereToKeep;

/// Another account than the expected one signed in, and the user has not confirmed it.
#[derive(Debug, thiserror::Error)]
#[error("{name} in the tenant {tenant} signed in, not {expected}; the sign-in was discarded")]
pub(crate) struct AnotherAccount {
    /// The name of the account that signed in.
    pub(crate) name: String,
    tenant: String,
    expected: String,
}

/// What was under way when a sign-in failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot sign in")]
pub(crate) struct SigningIn;
