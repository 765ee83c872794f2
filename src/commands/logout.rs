//! `arcssh logout`: forgets who signed in, and all that Azure gave to whoever we were.

use anyhow::Result;

use crate::azure::sign_in;
use crate::line::warn;
use crate::store::{Kind, Store};

/// Forgets accounts, tokens, certificates and relay credentials; the exit status.
///
/// # Errors
/// Others can get at the store.
pub(crate) async fn run() -> Result<u8> {
    let store = Store::open()?;
    let accounts = sign_in::forget(&store).await;
    store.clear(&[Kind::Token, Kind::Relay, Kind::Refusal, Kind::Name, Kind::Certificate, Kind::Failure]);
    store.clear_half_made();
    warn(if accounts == 0 { "nobody was signed in" } else { "signed out" });
    Ok(0)
}
