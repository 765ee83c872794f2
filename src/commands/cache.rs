//! `arcssh cache`: what is kept between connections, without its secrets.

use std::time::Duration;

use anyhow::Result;

use crate::azure::relay_credential_cache::life_left;
use crate::cli::{CacheArgs, CacheCommand};
use crate::entra_ssh::cache;
use crate::state::{Key, Kind, OTHER_DIRECTORY, Store};
use crate::system::clock::format_duration;
use crate::terminal::output::print;
use crate::text::sanitize;

/// What a user may clear: everything but a sign-in, which `arcssh logout` ends.
const CLEARED: [Kind; 7] =
    [Kind::Relay, Kind::Refusal, Kind::Throttle, Kind::Name, Kind::Token, Kind::Certificate, Kind::Failure];

/// Shows or clears; the exit status.
///
/// # Errors
/// The store is open to others.
pub(crate) fn run(args: &CacheArgs) -> Result<u8> {
    let store = Store::open()?;
    let text = match args.command {
        CacheCommand::Show => show(&store)?,
        CacheCommand::Clear => format!("{} entries cleared\n", store.clear(&CLEARED)),
    };
    print(&text)?;
    Ok(0)
}

fn show(store: &Store) -> Result<String> {
    let Some(folder) = store.folder() else {
        return Ok(format!("nothing can be kept here: {OTHER_DIRECTORY}\n"));
    };
    let mut text = format!("{}\n", sanitize(&folder.display().to_string()));
    for key in store.keys() {
        text += &line(store, &key)?;
    }
    Ok(text)
}

fn told(left: Option<Duration>) -> String {
    left.map_or("has ended".into(), |left| format!("{} left", format_duration(left)))
}

fn line(store: &Store, key: &Key) -> Result<String> {
    let left = match key.kind {
        Kind::Relay => told(life_left(store, key)?),
        Kind::Certificate => told(cache::life_left(store, key)?),
        _ => String::new(),
    };
    Ok(format!("{:11} {left:12} {}\n", key.kind.name(), sanitize(&key.subject)))
}
