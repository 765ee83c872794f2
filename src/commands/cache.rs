//! `arcssh cache`: shows or clears the state directory.

use crate::azure::credentials::AccessToken;
use crate::azure::relay_credential_cache::life_left;
use crate::cli::{CacheArgs, CacheCommand};
use crate::diagnosis::Result;
use crate::diagnosis::system::OTHER_DIRECTORY;
use crate::entra_ssh::cache;
use crate::state::{Key, Kind, Store};
use crate::system::clock::format_duration;
use crate::terminal::output::print;
use crate::text::{fields, sanitize};

/// Shows or clears the cache and returns the exit status.
///
/// # Errors
/// Other users can access the state directory.
pub(crate) fn run(args: &CacheArgs) -> Result<u8> {
    let store = Store::open()?;
    let text = match args.command {
        CacheCommand::Show => show(&store)?,
        CacheCommand::Clear => format!("{} entries cleared\n", store.clear(|kind| kind != Kind::Account)),
    };
    print(&text)?;
    Ok(0)
}

fn show(store: &Store) -> Result<String> {
    let Some(folder) = store.folder() else {
        return Ok(format!("there is no state directory: {OTHER_DIRECTORY}\n"));
    };
    let entry = |key: Key| Ok((key.kind.name(), format!("{:22} {}", expiry(store, &key)?, key.name)));
    let entries: Vec<_> = store.keys().into_iter().map(entry).collect::<Result<_>>()?;
    Ok(format!("{}\n{}", sanitize(&folder.display().to_string()), fields(&entries)))
}

fn expiry(store: &Store, key: &Key) -> Result<String> {
    let left = match key.kind {
        Kind::Relay => life_left(store, key)?,
        Kind::Certificate => cache::life_left(store, key)?,
        Kind::Token => store.read::<AccessToken>(key)?.and_then(|token| token.left()),
        Kind::Account => return Ok("until arcssh logout".into()),
        _ => return Ok(String::new()),
    };
    Ok(left.map_or("expired".into(), |left| format!("expires in {}", format_duration(left))))
}
