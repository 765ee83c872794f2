//! `arcssh account`: shows the account in use and its credential source.

use serde_json::json;

use crate::azure::arm::ArmError;
use crate::azure::credentials::{AccessToken, CredentialSource};
use crate::azure::login::{self, Account};
use crate::cli::AccountArgs;
use crate::commands::session::Session;
use crate::diagnosis::Result;
use crate::system::clock::{format_duration, format_time};
use crate::terminal::output::{print, print_json};
use crate::terminal::progress::{Progress, Step};
use crate::text::fields;

/// Prints the account and returns the exit status.
///
/// # Errors
/// No credential source returns a token.
pub(crate) async fn run(args: &AccountArgs) -> Result<u8> {
    let session = Session::open(&args.azure)?;
    let progress = Progress::default();
    progress.set(Step::wait("access token").with(" from Entra ID"));
    let token = progress.run(session.credentials().token(None)).await.map_err(ArmError::from)?;
    let stored = refresh_token_location(&token, &session)?;
    if args.output.is_json() {
        let stored = Some(stored).filter(|stored| !stored.is_empty());
        print_json(&json!({
            "source": token.source.name(), "account": token.account_name(), "tenant": token.tenant(),
            "expires": format_time(token.expires_on), "refreshToken": stored,
        }))?;
        return Ok(0);
    }
    let account = fields(&[
        ("source", token.source.title().to_owned()),
        ("account", token.account_name()),
        ("tenant", token.tenant()),
        ("expires", expiry(&token)),
        ("stored", stored),
    ]);
    print(&account)?;
    Ok(0)
}

/// Returns where the refresh token of this account is stored, if arcssh stores one.
fn refresh_token_location(token: &AccessToken, session: &Session) -> Result<String> {
    let Session { cloud, store, .. } = session;
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

fn expiry(token: &AccessToken) -> String {
    let time = format_time(token.expires_on);
    token.left().map_or(time.clone(), |left| format!("{time}, in {}", format_duration(left)))
}
