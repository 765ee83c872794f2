//! `arcssh login`: signs in a user with a browser on this computer or on another device.

use std::io::IsTerminal as _;
use std::thread;

use azure_core::http::Url;
use clap::ValueEnum as _;
use serde_json::json;
use tracing::debug;

use crate::azure::cloud::{Cloud, CloudName};
use crate::azure::credentials::{
    CredentialChain, CredentialError, CredentialOptions, CredentialSource, TOKEN_CREDENTIALS,
};
use crate::azure::http::Client;
use crate::azure::login::browser::Problem;
use crate::azure::login::{self, Account, LoginError, SignIn, SignedIn};
use crate::cli::proxy_command::{HostEntry, azure_options, first_entry};
use crate::cli::{LoginArgs, ProxyArgs};
use crate::diagnosis::Result;
use crate::net::Net;
use crate::ssh::managed_block;
use crate::state::{Kind, Store};
use crate::terminal::TerminalError;
use crate::terminal::output::{note, print_json};
use crate::terminal::progress::{Progress, Step};
use crate::terminal::prompt::{Confirm, typed_line};
use crate::text::{set_variable, shell_quote};

/// Signs in, stores the account and returns the exit status.
///
/// # Errors
/// Entra ID rejects the sign-in; the user cancels it; another account than the expected one signed in;
/// the account cannot be stored.
pub(crate) async fn run(args: &LoginArgs) -> Result<u8> {
    let store = Store::open()?;
    let cloud = args.cloud.cloud()?;
    let previous = login::account(&cloud, &store)?;
    let account = sign_in_and_save(args, &cloud, &store, previous).await?;
    note(&format!("signed in as {}", account.title()));
    let obstacle = obstacle(&cloud, &store).await;
    if args.output.is_json() {
        print_json(
            &json!({ "account": account.name, "tenant": account.tenant, "used": obstacle.is_none() }),
        )?;
    }
    if let Some(obstacle) = obstacle {
        let command = set_variable(CREDENTIAL, "arcssh");
        note(&format!("{obstacle} this sign-in; to use this sign-in, run: {command}"));
    } else if args.scope.is_none() {
        note(&format!("hint: {}", next_step(&cloud, &account)));
    }
    Ok(0)
}

/// Returns how to connect with a host entry that uses this sign-in, or how to add host entries if there is none.
fn next_step(cloud: &Cloud, account: &Account) -> String {
    let is_cloud = |other: Cloud| {
        other.arm_endpoint == cloud.arm_endpoint && other.authority_host == cloud.authority_host
    };
    let uses_sign_in = |entry: &HostEntry| {
        let Some(ProxyArgs { azure, login_name, .. }) = entry.proxy_args(&[]) else { return false };
        let CredentialOptions { source, tenant } = azure.credential.options();
        (source.is_any() || source == CredentialSource::Arcssh)
            && tenant.is_none_or(|tenant| tenant.eq_ignore_ascii_case(&account.tenant))
            && azure.cloud().is_ok_and(is_cloud)
            && login_name.is_none_or(|name| name.eq_ignore_ascii_case(&account.name))
    };
    match first_entry(&managed_block::text_of_user(), uses_sign_in) {
        Some(HostEntry { alias, .. }) => format!("to connect, run: ssh {}", shell_quote(&alias)),
        None => {
            let options =
                azure_options(&CredentialOptions::default(), cloud.name().unwrap_or(CloudName::Public));
            let command = [&["arcssh config --all".to_owned()], &options[..]].concat().join(" ");
            format!("to add your machines to the ssh configuration, run: {command}")
        }
    }
}

async fn sign_in_and_save(
    args: &LoginArgs,
    cloud: &Cloud,
    store: &Store,
    previous: Option<Account>,
) -> Result<Account> {
    let signed_in = sign_in(args, cloud, store).await?;
    let account = signed_in.account.clone();
    confirm(args, previous.as_ref(), &account).await?;
    if previous.is_some_and(|previous| previous.title() != account.title()) {
        store.clear(|kind| kind == Kind::Machines);
    }
    if let Some(reason) = login::save(cloud, store, signed_in).await?.filter(|reason| !reason.is_expected()) {
        note(&format!("the refresh token is stored in a file that only you can read: {reason}"));
    }
    Ok(account)
}

/// The variable that selects a credential source.
const CREDENTIAL: &str = "ARCSSH_CREDENTIAL";

/// Returns what keeps other commands from using the sign-in, as the beginning of a sentence: a variable that selects other
/// sources, or a source that is tried first and has a token or fails.
async fn obstacle(cloud: &Cloud, store: &Store) -> Option<String> {
    let selected = std::env::var(CREDENTIAL).unwrap_or_default();
    let Ok(source) = CredentialSource::from_str(&selected, true) else {
        return Some(format!("{CREDENTIAL} excludes"));
    };
    let options = CredentialOptions { source, tenant: None };
    if !options.sources().is_ok_and(|sources| sources.contains(&CredentialSource::Arcssh)) {
        let variable = if source == CredentialSource::Unset { TOKEN_CREDENTIALS } else { CREDENTIAL };
        return Some(format!("{variable} excludes"));
    }
    let net = Net::new().ok()?;
    let progress = Progress::default();
    progress.set(Step::wait("access token").with(" from Entra ID"));
    let chain = CredentialChain::new(cloud, options, &net, store);
    let first = match progress.run(chain.token(None)).await {
        Ok(token) => token.source,
        Err(CredentialError::Failed { from, .. }) => from,
        Err(_) => return None,
    };
    (first != CredentialSource::Arcssh).then(|| format!("{} takes precedence over", first.title()))
}

/// Signs in without storing the account.
async fn sign_in(args: &LoginArgs, cloud: &Cloud, store: &Store) -> Result<SignedIn> {
    store.check_writable().map_err(|error| LoginError::NotStored(format!("{error:#}")))?;
    let http = Net::new()?.http_client([cloud.arm_endpoint.authority(), cloud.authority_host.authority()])?;
    let client = Client { http, store: store.clone() };
    let sign_in = SignIn::new(cloud, client, args.tenant.as_deref(), &args.client_id);
    let sign_in = sign_in.to(args.scope.as_deref().unwrap_or(&cloud.arm_scope));
    let claims = login::challenge(cloud, store, args.tenant.as_deref())?;
    let sign_in = sign_in.for_account(args.account.as_deref()).with_claims(claims);
    let progress = Progress::default();
    let signed_in = if args.device_code {
        progress.set(Step::wait("code").with(" from Entra ID"));
        let show = |text: &str| {
            progress.println(text);
            progress.set(Step::wait("sign-in").with(" on the other device"));
        };
        progress.run(sign_in.by_device_code(show)).await
    } else if is_elsewhere() {
        sign_in.by_browser(open_browser, typed_line, explain(note)).await
    } else {
        progress.set(Step::wait("sign-in").with(" in the browser"));
        let explain = explain(|text| progress.println(text));
        progress.run(sign_in.by_browser(open_browser, typed_line, explain)).await
    };
    Ok(signed_in?)
}

/// Returns whether the user may sign in on another computer, and paste an address here, which progress would overwrite.
fn is_elsewhere() -> bool {
    !webbrowser::Browser::is_available() || std::env::var_os("SSH_CONNECTION").is_some()
}

/// Returns a function that explains why the browser's response does not arrive.
fn explain(print: impl Fn(&str)) -> impl Fn(Problem) {
    move |problem| match problem {
        Problem::Https(port) => print(&format!(
            "the browser opened https://localhost:{port}: in its address bar, type http:// in place of https://"
        )),
        Problem::NotTheResponse => print(
            "this is not the response to this sign-in: paste the whole address, which begins with http://localhost",
        ),
    }
}

/// Prints the URL, in case arcssh cannot start a browser, and starts a browser with the link.
fn open_browser(url: &Url, link: &str) {
    let is_available = webbrowser::Browser::is_available();
    note(if is_available {
        "your browser opens for the sign-in; if it does not, open this address:"
    } else {
        "to sign in, open this address in your browser:"
    });
    note(url.as_str());
    if !is_available {
        note(WITHOUT_BROWSER);
    }
    if cfg!(unix) && is_elsewhere() && std::io::stdin().is_terminal() {
        note(
            "if the browser is on another computer, sign in there, and paste the address that it cannot open here:",
        );
    }
    if !is_available {
        return;
    }
    let link = link.to_owned();
    // A text browser runs until the user closes it.
    let browser = move || webbrowser::open(&link).unwrap_or_else(|error| warn_without_browser(&error));
    if let Err(error) = thread::Builder::new().spawn(browser) {
        warn_without_browser(&error);
    }
}

const WITHOUT_BROWSER: &str =
    "cannot open a browser here; to sign in on another device, run: arcssh login --device-code";

fn warn_without_browser(error: &std::io::Error) {
    debug!("no browser: {error}");
    note(WITHOUT_BROWSER);
}

/// Asks the user to confirm an account that is not the expected one: another user of this computer, or a web page, can
/// have signed this user in with another account (RFC 6749, section 10.12).
async fn confirm(args: &LoginArgs, previous: Option<&Account>, account: &Account) -> Result<()> {
    let Some(expected) = expected_account(args, previous, account) else { return Ok(()) };
    let question = format!("{} signed in, not {expected}. Use this account?", account.title());
    match Confirm::Ask.to(&question).await {
        Err(TerminalError::Declined) => Err(LoginError::Declined(previous.map(Account::title)).into()),
        Err(TerminalError::NotInteractive) => {
            let (name, tenant) = (account.name.clone(), account.tenant.clone());
            Err(LoginError::AnotherAccount { name, tenant, expected }.into())
        }
        result => Ok(result?),
    }
}

/// Returns the expected account if another one signed in: the account of the command line, else the previous account. A
/// user has a different ID in each tenant, so arcssh compares names if the command line contains a tenant.
fn expected_account(args: &LoginArgs, previous: Option<&Account>, account: &Account) -> Option<String> {
    let is_named = |name: &str| name.eq_ignore_ascii_case(&account.name);
    let tenant = args.tenant.as_deref().filter(|tenant| uuid::Uuid::try_parse(tenant).is_ok());
    if let Some(tenant) = tenant.filter(|tenant| !tenant.eq_ignore_ascii_case(&account.tenant)) {
        return Some(format!("an account in the tenant {tenant}"));
    }
    if let Some(name) = &args.account {
        return (!is_named(name)).then(|| name.clone());
    }
    let previous = previous.filter(|previous| previous.id() != account.id())?;
    (args.tenant.is_none() || !is_named(&previous.name)).then(|| previous.title())
}
