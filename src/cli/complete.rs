//! Completion of names in a shell: machines, resource groups, subscriptions and tags.
//!
//! An argument or option that takes such a name has `#[arg(add = complete::machine())]`, or one of the other functions. They
//! read only this computer's files: the names that earlier lists of machines contained, and the host entries. Pressing the tab
//! key therefore sends no request and requires no token.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};

use clap::Args;
use clap_complete::Shell;
use clap_complete::engine::{ArgValueCompleter, CompletionCandidate};

use crate::azure::resource_id::ResourceId;
use crate::machines::seen::{self, Seen};
use crate::machines::written;
use crate::ssh::managed_block;
use crate::state::Store;

/// The beginning of a URI of ssh (ssh(1)).
pub(super) const URI: &str = "ssh://";

/// The command line at which the user asks a shell for completion.
#[derive(Debug, Args)]
pub(crate) struct CompleteArgs {
    /// Shell of the command line
    #[arg(value_enum)]
    pub(crate) shell: Shell,
    /// Current word up to the cursor, with its quotes
    #[arg(long, default_value = "", allow_hyphen_values = true)]
    pub(crate) current: OsString,
    /// Command line up to the cursor, in place of words
    #[arg(long, allow_hyphen_values = true, conflicts_with = "words")]
    pub(crate) line: Option<OsString>,
    /// Words before the current one, without their quotes
    #[arg(last = true)]
    pub(crate) words: Vec<OsString>,
}

/// Completes a machine: its name, `GROUP/NAME`, or the alias of a host entry.
pub(crate) fn machine() -> ArgValueCompleter {
    ArgValueCompleter::new(|current: &OsStr| {
        matching(current, [aliases(), machines(&seen(), current)].concat())
    })
}

/// Completes a machine, also after `USER@`.
pub(crate) fn user_and_machine() -> ArgValueCompleter {
    ArgValueCompleter::new(|current: &OsStr| {
        let text = current.to_string_lossy();
        // A user can contain `@` (ssh.c, `main`: the last one counts).
        let scheme = if text.starts_with(URI) { URI.len() } else { 0 };
        let (user, machine) = text.split_at(text.rfind('@').map_or(scheme, |at| at + 1));
        let values = [aliases(), machines(&seen(), OsStr::new(machine))].concat().into_iter();
        matching(
            current,
            values.map(|(value, description)| (format!("{user}{value}"), description)).collect(),
        )
    })
}

/// Completes the alias of a host entry.
pub(crate) fn alias() -> ArgValueCompleter {
    ArgValueCompleter::new(|current: &OsStr| matching(current, aliases()))
}

/// Completes a resource group.
pub(crate) fn group() -> ArgValueCompleter {
    ArgValueCompleter::new(|current: &OsStr| matching(current, groups(&seen())))
}

/// Completes a subscription: its name, or its ID if its name is unknown or the current word is the beginning of the ID.
pub(crate) fn subscription() -> ArgValueCompleter {
    ArgValueCompleter::new(|current: &OsStr| matching(current, subscriptions(&seen(), current)))
}

/// Completes a tag, `KEY=VALUE`.
pub(crate) fn tag() -> ArgValueCompleter {
    ArgValueCompleter::new(|current: &OsStr| matching(current, tags(&seen())))
}

fn seen() -> Seen {
    Store::open().and_then(|store| seen::all(&store)).unwrap_or_default()
}

/// A value and its description.
type Value = (String, String);

/// Returns the values that begin with the current word, in any case, in their order and each once.
fn matching(current: &OsStr, values: Vec<Value>) -> Vec<CompletionCandidate> {
    let current = current.to_string_lossy().to_lowercase();
    let mut found = BTreeMap::new();
    for (value, description) in values {
        if value.to_lowercase().starts_with(&current) {
            found.entry(value).or_insert(description);
        }
    }
    let candidate = |(value, description): Value| {
        let description = Some(description).filter(|description| !description.is_empty());
        CompletionCandidate::new(value).help(description.map(Into::into))
    };
    found.into_iter().map(candidate).collect()
}

/// Returns the aliases of the host entries of arcssh in the user's ssh configuration.
fn aliases() -> Vec<Value> {
    let entries = written(&managed_block::text_of_user());
    let name = |id: &str| id.parse::<ResourceId>().map(|id| id.grouped_name()).unwrap_or_default();
    let alias = |(id, entries): (String, Vec<_>)| {
        let description = format!("host entry of {}", name(&id));
        entries.into_iter().map(move |entry: crate::machines::Written| (entry.alias, description.clone()))
    };
    entries.into_iter().flat_map(alias).collect()
}

fn machines(seen: &Seen, current: &OsStr) -> Vec<Value> {
    let has_group = current.to_string_lossy().contains('/');
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for name in seen.subscriptions.values().flat_map(|subscription| subscription.groups.values().flatten()) {
        *counts.entry(name.to_lowercase()).or_default() += 1;
    }
    let is_unique = |name: &str| counts.get(&name.to_lowercase()) == Some(&1);
    let mut values = Vec::new();
    for (id, subscription) in &seen.subscriptions {
        let within = if subscription.name.is_empty() { id } else { &subscription.name };
        for (group, names) in &subscription.groups {
            let value = |name: &String| match is_unique(name) && !has_group {
                true => (name.clone(), format!("{group}, {within}")),
                false => (format!("{group}/{name}"), within.clone()),
            };
            values.extend(names.iter().map(value));
        }
    }
    values
}

fn groups(seen: &Seen) -> Vec<Value> {
    let mut counts: BTreeMap<&String, usize> = BTreeMap::new();
    for (group, names) in seen.subscriptions.values().flat_map(|subscription| &subscription.groups) {
        *counts.entry(group).or_default() += names.len();
    }
    let value = |(group, count): (&String, usize)| {
        (group.clone(), format!("{count} machine{}", if count == 1 { "" } else { "s" }))
    };
    counts.into_iter().map(value).collect()
}

fn subscriptions(seen: &Seen, current: &OsStr) -> Vec<Value> {
    let current = current.to_string_lossy().to_lowercase();
    let value = |(id, subscription): (&String, &seen::Subscription)| {
        let by_id = subscription.name.is_empty() || !current.is_empty() && id.starts_with(&current);
        if by_id { (id.clone(), subscription.name.clone()) } else { (subscription.name.clone(), id.clone()) }
    };
    seen.subscriptions.iter().map(value).collect()
}

fn tags(seen: &Seen) -> Vec<Value> {
    let tags = seen.subscriptions.values().flat_map(|subscription| &subscription.tags);
    tags.map(|tag| (tag.clone(), String::new())).collect()
}
