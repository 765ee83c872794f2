//! `arcssh logout`: deletes the stored accounts and the credentials that Azure issued to them.

use serde_json::json;

use crate::azure::login;
use crate::cli::OutputArgs;
use crate::diagnosis::Result;
use crate::state::{Kind, Store};
use crate::terminal::output::{note, print_json};

/// Deletes accounts, tokens, certificates and relay credentials, and returns the exit status.
///
/// # Errors
/// Other users can access the state directory; a refresh token cannot be deleted from the key store.
pub(crate) async fn run(args: &OutputArgs) -> Result<u8> {
    let store = Store::open()?;
    let accounts = login::delete(&store).await;
    store.clear(|kind| !matches!(kind, Kind::Account | Kind::Throttle));
    store.clear_temporary();
    let accounts = accounts?;
    if args.is_json() {
        print_json(&json!({ "accounts": accounts }))?;
    }
    if accounts == 0 {
        note("no account was signed in");
    } else {
        note("signed out");
        note("hint: to sign in again, run: arcssh login");
    }
    Ok(0)
}
