//! `arcssh cache`: shows or clears the state directory.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use crate::azure::credentials::AccessToken;
use crate::azure::relay_credential_cache::life_left;
use crate::azure::resource_id::ResourceId;
use crate::cli::{CacheArgs, CacheCommand};
use crate::diagnosis::Result;
use crate::diagnosis::system::OTHER_DIRECTORY;
use crate::entra_ssh::cache;
use crate::machines::Names;
use crate::state::{Key, Kind, Store};
use crate::system::clock::{format_duration, format_time, since_epoch, unix_now};
use crate::terminal::output::{Screen, print};
use crate::terminal::table::{Column, Table};
use crate::text::{json_text, sanitize};

/// Shows or clears the cache and returns the exit status.
///
/// # Errors
/// Other users can access the state directory.
pub(crate) fn run(args: &CacheArgs) -> Result<u8> {
    let store = Store::open()?;
    let text = match args.command {
        CacheCommand::Show(args) if args.is_json() => json_text(&entries(&store)?) + "\n",
        CacheCommand::Show(_) => show(&store, Screen::stdout())?,
        CacheCommand::Clear(args) => {
            let cleared = Cleared::new(&store);
            if args.is_json() { json_text(&cleared.json()) + "\n" } else { cleared.text() }
        }
    };
    print(&text)?;
    Ok(0)
}

/// The number of deleted values, by kind, and of the accounts that remain.
struct Cleared {
    counts: BTreeMap<&'static str, usize>,
    accounts: usize,
}

impl Cleared {
    /// Clears the cache.
    fn new(store: &Store) -> Self {
        let mut counts = BTreeMap::new();
        for kind in store.clear(|kind| kind != Kind::Account) {
            *counts.entry(kind.name()).or_default() += 1;
        }
        Self { counts, accounts: store.files_of(Kind::Account).len() }
    }

    fn text(&self) -> String {
        let counts: Vec<String> = self.counts.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
        let total = match self.counts.values().sum::<usize>() {
            0 => "nothing was cached".into(),
            1 => format!("1 entry cleared: {}", counts.join(", ")),
            total => format!("{total} entries cleared: {}", counts.join(", ")),
        };
        let sign_in = if self.accounts == 0 { "" } else { "; the sign-in remains" };
        format!("{total}{sign_in}\n")
    }

    fn json(&self) -> Value {
        let count = |(kind, count)| json!({ "kind": kind, "count": count });
        json!({ "cleared": Value::from_iter(self.counts.iter().map(count)), "accounts": self.accounts })
    }
}

fn entries(store: &Store) -> Result<Value> {
    let mut entries = Vec::new();
    for key in store.keys() {
        let id = machine(&key.name);
        let object = if id.is_some() { None } else { Some(object(store, &key)?) };
        let service = id.as_ref().and_then(|_| key.name.split(' ').nth(2).map(str::to_owned));
        let port = id.as_ref().and_then(|_| key.name.split(' ').nth(3)?.parse::<u16>().ok());
        let expires = life(store, &key)?.map(|left| format_time(unix_now() + left.as_secs()));
        entries.push(json!({
            "kind": key.kind.name(), "id": id.map(|id| id.to_string()), "service": service, "port": port,
            "for": object, "expires": expires,
        }));
    }
    Ok(json!({ "directory": store.folder().map(|folder| folder.display().to_string()), "entries": entries }))
}

fn show(store: &Store, screen: Screen) -> Result<String> {
    let Some(folder) = store.folder() else {
        return Ok(format!("there is no state directory: {OTHER_DIRECTORY}\n"));
    };
    let mut keys = store.keys();
    keys.sort_by_key(|key| (key.kind.name(), key.name.clone()));
    let folder = sanitize(&folder.display().to_string());
    if keys.is_empty() {
        return Ok(format!("{folder}\nnothing is cached\n"));
    }
    let columns = [("KIND", 11), ("FOR", 12), ("SERVICE", 7), ("EXPIRES", 13), ("ID", 0)];
    let shown = if screen.is_terminal() { &columns[..4] } else { &columns };
    let mut table = Table::new(
        shown.iter().map(|(title, min)| Column::new(title, *min)).collect(),
        &["FOR", "KIND", "EXPIRES", "SERVICE", "ID"],
    );
    let ids: Vec<Option<ResourceId>> = keys.iter().map(|key| machine(&key.name)).collect();
    let names = Names::of(ids.iter().flatten());
    for (key, id) in keys.iter().zip(ids) {
        let name = id.as_ref().map(|id| names.argument(id));
        let object = name.map_or_else(|| object(store, key), Ok)?;
        let service = id.as_ref().map_or("-".into(), |_| service(&key.name));
        let id = id.map_or(String::new(), |id| id.to_string());
        let expiry = expiry(store, key, screen)?;
        let row = [key.kind.name().into(), object.into(), service.into(), expiry.into(), id.into()];
        table.push(row.into_iter().take(shown.len()).collect());
    }
    Ok(format!("{folder}\n{}", table.render(screen)))
}

/// Returns the machine whose resource ID a key contains, after the host of Azure Resource Manager.
fn machine(key: &str) -> Option<ResourceId> {
    let id = &key[key.find("/subscriptions/")?..];
    id.split(' ').next()?.parse().ok()
}

/// Returns the service and the port after the resource ID in a key.
fn service(key: &str) -> String {
    match key.split(' ').skip(1).collect::<Vec<_>>()[..] {
        [service, port, ..] => format!("{service} {port}"),
        _ => "-".into(),
    }
}

/// Returns what a value without a machine is for.
fn object(store: &Store, key: &Key) -> Result<String> {
    let name = match key.kind {
        Kind::Token => store.read::<AccessToken>(key)?.map(|token| account_of(&token)),
        Kind::Certificate => cache::summary(store, key)?.0,
        // The name follows the host of Azure Resource Manager.
        Kind::Name => key.name.split_once(' ').map(|(_, name)| name.to_owned()),
        _ => None,
    };
    Ok(name.unwrap_or_else(|| key.name.clone()))
}

fn account_of(token: &AccessToken) -> String {
    format!("{}, {}", token.account_name(), token.source.title())
}

/// Returns when a value expires: on a terminal, how long that takes.
fn expiry(store: &Store, key: &Key, screen: Screen) -> Result<String> {
    if key.kind == Kind::Account {
        return Ok("at logout".into());
    }
    if !matches!(key.kind, Kind::Relay | Kind::Certificate | Kind::Token | Kind::Throttle) {
        return Ok("-".into());
    }
    let left = life(store, key)?;
    Ok(match left {
        None => "expired".into(),
        Some(left) if screen.is_terminal() => format!("in {}", format_duration(left)),
        Some(left) => format_time(unix_now() + left.as_secs()),
    })
}

/// Returns how long a value remains valid; `None` if it has expired, or has no time of its own.
fn life(store: &Store, key: &Key) -> Result<Option<Duration>> {
    Ok(match key.kind {
        Kind::Relay => life_left(store, key)?,
        Kind::Certificate => cache::summary(store, key)?.1,
        Kind::Token => store.read::<AccessToken>(key)?.and_then(|token| token.left()),
        Kind::Throttle => store.read::<Duration>(key)?.and_then(|until| until.checked_sub(since_epoch())),
        _ => None,
    })
}
