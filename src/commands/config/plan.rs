//! The list of changes that a run makes to the managed block.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use tracing::{Level, enabled};

use crate::azure::resource_id::ResourceId;
use crate::cli::proxy_command::ProxyCommand;
use crate::ssh::effective_config::{self, Expected, Location};
use crate::ssh::managed_block;
use crate::ssh::patterns::{example, is_wildcard};
use crate::ssh::used_names::UsedNames;
use crate::ssh::user_options::UserOption;
use crate::terminal::output::note;
use crate::text::{grouped, shell_quote};

/// The most lines for changes of one kind, unless all are printed.
const MAX_LINES: usize = 10;

/// When the list of changes is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum When {
    /// Instead of the changes: all of them.
    DryRun,
    /// Before the changes.
    Before,
    /// After the changes.
    After,
}

/// A kind of change, the one to which the next step belongs first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd)]
enum Kind {
    Added,
    Renamed,
    Changed,
}

/// Remarks on changed host entries.
#[derive(Clone, Debug, Default)]
pub(super) struct Notes {
    /// By the alias in the new block.
    pub(super) of_alias: BTreeMap<String, String>,
    /// The reasons of removals, by the machine's resource ID in lower case or by the pattern.
    pub(super) of_machine: BTreeMap<String, String>,
    /// The user's options that ssh adds to host entries, by the alias in the new block.
    pub(super) added: BTreeMap<String, Vec<UserOption>>,
    /// The lines that this run turns into comments.
    pub(super) replaced: BTreeSet<Location>,
}

impl Notes {
    /// Adds the options of the user that ssh adds to a rendered host entry.
    pub(super) fn add_options(&mut self, used: &UsedNames, entry: &str) {
        let Some((patterns, values)) = effective_config::host_entries(entry).into_iter().next() else {
            return;
        };
        let names: Vec<String> = patterns.iter().map(|pattern| example(pattern)).collect();
        let keywords = values.into_iter().map(|(keyword, _)| keyword).collect();
        let mut options = used.options.added_to(&names, &keywords);
        options.retain(|option| !self.replaced.contains(&option.location));
        self.added.extend(
            patterns.into_iter().next().filter(|_| !options.is_empty()).map(|alias| (alias, options)),
        );
    }
}

/// A host entry in a block.
struct Entry {
    alias: String,
    machine: Option<ResourceId>,
    /// The lines without comments.
    text: String,
    values: Expected,
}

/// The differences between two blocks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    added: Vec<String>,
    changed: Vec<String>,
    renamed: Vec<String>,
    /// The removed entries without the reasons, so that two plans for the same entries are equal.
    pub(super) removed: Vec<String>,
    reasons: Vec<String>,
    /// The aliases of added, changed and renamed entries to which ssh adds the same options of the user.
    with_options: BTreeMap<Vec<UserOption>, Vec<String>>,
    /// The alias of the first of the most important changes.
    first: Option<(Kind, String)>,
    /// Each change as JSON, without remarks.
    changes: Vec<Value>,
}

impl Plan {
    /// Compares an old block with a new one. Either may be empty.
    pub(super) fn between(old: &str, new: &str, notes: &Notes) -> Self {
        let mut old: BTreeMap<String, Entry> =
            entries(old).into_iter().map(|entry| (entry.alias.clone(), entry)).collect();
        let mut plan = Self::default();
        let mut unmatched = Vec::new();
        for entry in entries(new) {
            let before = old.remove(&entry.alias);
            if before.as_ref().is_none_or(|before| before.text != entry.text)
                && let Some(options) = notes.added.get(&entry.alias)
            {
                plan.with_options.entry(options.clone()).or_default().push(entry.alias.clone());
            }
            match before {
                Some(before) if before.has_machine_of(&entry) => plan.change(&before, &entry),
                Some(before) => {
                    old.insert(before.alias.clone(), before);
                    unmatched.push(entry);
                }
                None => unmatched.push(entry),
            }
        }
        let mut by_machine: BTreeMap<String, String> =
            old.values().filter_map(|entry| Some((entry.key()?, entry.alias.clone()))).collect();
        for entry in unmatched {
            let note = notes.of_alias.get(&entry.alias).map_or(String::new(), |note| format!("; {note}"));
            match entry.key().and_then(|key| by_machine.remove(&key)).and_then(|alias| old.remove(&alias)) {
                Some(before) => {
                    plan.renamed.push(format!("{} to {}{note}", before.alias, entry.alias));
                    plan.changes.push(entry.json("renamed", Some(&before.alias)));
                    plan.found(Kind::Renamed, &entry.alias);
                }
                None => {
                    plan.added.push(format!("{}{note}", entry.title()));
                    plan.changes.push(entry.json("added", None));
                    plan.found(Kind::Added, &entry.alias);
                }
            }
        }
        // Lines with remarks come first.
        plan.added.sort_by_key(|line| !line.contains("; "));
        plan.renamed.sort_by_key(|line| !line.contains("; "));
        for entry in old.into_values() {
            let key = entry.key().unwrap_or_else(|| entry.alias.clone());
            let reason = notes.of_machine.get(&key).map_or(String::new(), |reason| format!("; {reason}"));
            plan.reasons.push(format!("{}{reason}", entry.title()));
            plan.removed.push(entry.title());
            plan.changes.push(entry.json("removed", None));
        }
        plan
    }

    fn change(&mut self, old: &Entry, new: &Entry) {
        if old.text == new.text {
            return;
        }
        let differs = |(keyword, value): &&(String, String)| {
            let has_it = |values: &Expected| values.iter().any(|(k, v)| k == keyword && v == value);
            !has_it(&old.values) || !has_it(&new.values)
        };
        let mut keywords: Vec<&str> = old
            .values
            .iter()
            .chain(&new.values)
            .filter(differs)
            .map(|(keyword, _)| keyword.as_str())
            .collect();
        keywords.sort_unstable();
        keywords.dedup();
        let changes = if keywords.is_empty() { "other text".to_owned() } else { keywords.join(", ") };
        self.changed.push(format!("{}: {changes}", new.alias));
        self.changes.push(new.json("changed", None));
        self.found(Kind::Changed, &new.alias);
    }

    fn found(&mut self, kind: Kind, alias: &str) {
        if self.first.as_ref().is_none_or(|(other, _)| kind < *other) {
            self.first = Some((kind, alias.to_owned()));
        }
    }

    /// Returns each change as JSON.
    pub(super) fn json(&self) -> Value {
        Value::from(self.changes.clone())
    }

    /// Returns the alias of an entry that is new, if there is one, else of one that differs.
    pub(super) fn first_alias(&self) -> Option<&str> {
        self.first.as_ref().map(|(_, alias)| alias.as_str())
    }

    /// Prints one line for each change, up to [`MAX_LINES`] of each kind, or all with `--dry-run` and `-v`.
    pub(super) fn print(&self, when: When) {
        let is_done = when == When::After;
        let kinds = [
            (if is_done { "added" } else { "add" }, &self.added),
            (if is_done { "changed" } else { "change" }, &self.changed),
            (if is_done { "renamed" } else { "rename" }, &self.renamed),
            (if is_done { "removed" } else { "remove" }, &self.reasons),
        ];
        let most = if when == When::DryRun || enabled!(Level::INFO) { usize::MAX } else { MAX_LINES };
        for (kind, lines) in kinds {
            lines.iter().take(most).for_each(|line| note(&format!("{kind} {line}")));
            if let Some(more) = lines.len().checked_sub(most).filter(|more| *more > 0) {
                note(&format!("{kind} {} more", grouped(more)));
            }
        }
        self.print_options();
    }

    /// Prints the user's options that ssh adds to the host entries, one line for each file and list of options.
    pub(super) fn print_options(&self) {
        for (options, aliases) in self.with_options.iter().take(MAX_LINES) {
            let [alias, others @ ..] = &aliases[..] else { continue };
            let names = match others.len() {
                0 => alias.clone(),
                1 => format!("{alias} and 1 more host entry"),
                more => format!("{alias} and {} more host entries", grouped(more)),
            };
            for of_file in options.chunk_by(|one, next| one.location.file == next.location.file) {
                let Some(UserOption { location, .. }) = of_file.first() else { continue };
                let options: Vec<String> = of_file.iter().map(described).collect();
                note(&format!(
                    "ssh adds options of {} to {names}: {}",
                    location.file.display(),
                    options.join(", ")
                ));
            }
            if let Some(port) = options.iter().find_map(UserOption::port) {
                let wildcard = if is_wildcard(alias) { "--wildcard " } else { "" };
                let only = format!("{wildcard}{} ", shell_quote(alias));
                let only = if others.is_empty() { only } else { String::new() };
                note(&format!(
                    "hint: if SSH is enabled on another port of the machine than {port}, such as 22: arcssh config {only}--port 22"
                ));
            }
        }
        if let Some(more) = self.with_options.len().checked_sub(MAX_LINES).filter(|more| *more > 0) {
            note(&format!("{} more lists of options also apply to host entries", grouped(more)));
        }
    }
}

impl Entry {
    /// The machine's resource ID in lower case.
    fn key(&self) -> Option<String> {
        self.machine.as_ref().map(|id| id.to_string().to_lowercase())
    }

    fn has_machine_of(&self, other: &Self) -> bool {
        self.key() == other.key()
    }

    fn json(&self, change: &str, old_alias: Option<&str>) -> Value {
        let id = self.machine.as_ref().map(ToString::to_string);
        json!({ "change": change, "alias": self.alias, "oldAlias": old_alias, "id": id })
    }

    /// The alias, with the group and the name of the machine.
    fn title(&self) -> String {
        match &self.machine {
            Some(id) => format!("{} ({}/{})", self.alias, id.resource_group, id.name),
            None => self.alias.clone(),
        }
    }
}

fn described(option: &UserOption) -> String {
    let port = option.port().map_or(String::new(), |port| format!(" {port}"));
    format!("{}{port} (line {})", option.keyword, option.location.line)
}

fn entries(block: &str) -> Vec<Entry> {
    let block = block.replace("\r\n", "\n");
    let entry = |text: String| {
        let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        let text = lines.collect::<Vec<_>>().join("\n");
        let (patterns, values) = effective_config::host_entries(&text).into_iter().next()?;
        Some(Entry { alias: patterns.into_iter().next()?, machine: machine(&text), text, values })
    };
    managed_block::host_entries(&block).into_iter().filter_map(entry).collect()
}

/// The resource ID in the ProxyCommand of a host entry.
pub(super) fn machine(text: &str) -> Option<ResourceId> {
    let (_, values) = effective_config::host_entries(text).into_iter().next()?;
    let line = effective_config::value(&values, "proxycommand")?;
    ProxyCommand::parse(line).resource_id().cloned()
}
