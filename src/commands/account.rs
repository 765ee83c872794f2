//! `arcssh account`: who connects to Azure, and by which source.

use anyhow::Result;
use serde_json::Value;

use crate::azure::arm::ArmError;
use crate::azure::cloud::Cloud;
use crate::azure::credentials::{AccessToken, CredentialChain, CredentialSource};
use crate::azure::login::{self, Account};
use crate::cli::AccountArgs;
use crate::net::Net;
use crate::state::Store;
use crate::system::clock::{format_time, unix_now};
use crate::terminal::output::print;
use crate::text::sanitize;

/// Prints it; the exit status.
///
/// # Errors
/// No source gives a token.
pub(crate) async fn run(args: &AccountArgs) -> Result<u8> {
    let (net, store) = (Net::new(), Store::open()?);
    let cloud = Cloud::new(args.cloud.name(), &args.cloud.endpoints())?;
    let token = CredentialChain::new(&cloud, args.who.wanted(), &net, &store).token(None).await;
    let token = token.map_err(ArmError::from)?;
    let lines = [
        ("source", token.source.title().to_owned()),
        ("account", name(&token.claims())),
        ("tenant", text(&token.claims()["tid"])),
        ("expires", expiry(&token)),
        ("stored", stored(&token, &cloud, &store)?),
    ];
    let given = lines.iter().filter(|(_, value)| !value.is_empty());
    print(&given.map(|(what, value)| format!("{what:8} {}\n", sanitize(value))).collect::<String>())?;
    Ok(0)
}

/// Whom a token speaks for: a user by name, an application or a machine by its IDs (Microsoft Learn, "Access token claims
/// reference").
fn name(claims: &Value) -> String {
    let users = ["upn", "preferred_username", "unique_name"].map(|name| text(&claims[name]));
    if let Some(user) = users.into_iter().find(|user| !user.is_empty()) {
        return user;
    }
    match (text(&claims["xms_mirid"]), text(&claims["appid"])) {
        (machine, _) if !machine.is_empty() => machine,
        (_, application) if !application.is_empty() => format!("application {application}"),
        _ => text(&claims["oid"]),
    }
}

/// Where the refresh token of this account is stored, if arcssh stores one.
fn stored(token: &AccessToken, cloud: &Cloud, store: &Store) -> Result<String> {
    let account = login::account(cloud, store)?.filter(|_| token.source == CredentialSource::Arcssh);
    Ok(match (&account, account.as_ref().and_then(Account::key_store)) {
        (None, _) => String::new(),
        (_, Some(name)) => format!("the refresh token is in {name}"),
        (_, None) => {
            let file = login::account_file(cloud, store).unwrap_or_default();
            format!("the refresh token is in the file {}", file.display())
        }
    })
}

fn text(claim: &Value) -> String {
    claim.as_str().unwrap_or_default().to_owned()
}

fn expiry(token: &AccessToken) -> String {
    let minutes = token.expires_on.saturating_sub(unix_now()) / 60;
    format!("{}, in {minutes} min", format_time(token.expires_on))
}
