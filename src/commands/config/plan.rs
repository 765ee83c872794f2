//! What a run adds to the block, changes in it and removes from it, for the user to read.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::azure::resource_id::ResourceId;
use crate::ssh::effective_config::{self, Expected};
use crate::ssh::{host_entry, managed_block};
use crate::terminal::output::note;

/// How many host entries of a kind get a line each.
const LINES: usize = 20;

/// What the user should know of host entries besides that they change.
#[derive(Clone, Debug, Default)]
pub(super) struct Notes {
    /// By the alias in the new block.
    pub(super) of_alias: BTreeMap<String, String>,
    /// Why a host entry is removed, by its machine's resource ID in lower case, or by its pattern.
    pub(super) of_machine: BTreeMap<String, String>,
}

/// A host entry in a block.
struct Entry {
    alias: String,
    machine: Option<String>,
    text: String,
    values: Expected,
}

/// The differences between two blocks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    added: Vec<String>,
    changed: Vec<String>,
    renamed: Vec<String>,
    /// What is removed, without what happened to it: the same in two plans for the same entries.
    pub(super) removed: Vec<String>,
    reasons: Vec<String>,
}

impl Plan {
    /// From an old block to a new one; either may be empty.
    pub(super) fn between(old: &str, new: &str, notes: &Notes) -> Self {
        let mut old: BTreeMap<String, Entry> =
            entries(old).into_iter().map(|entry| (entry.alias.clone(), entry)).collect();
        let mut plan = Self::default();
        let mut unmatched = Vec::new();
        for entry in entries(new) {
            match old.remove(&entry.alias) {
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
                Some(before) => plan.renamed.push(format!("{} to {}{note}", before.alias, entry.alias)),
                None => plan.added.push(format!("{}{note}", entry.title())),
            }
        }
        // What the user should know is not lost among the rest.
        plan.added.sort_by_key(|line| !line.contains("; "));
        plan.renamed.sort_by_key(|line| !line.contains("; "));
        for entry in old.into_values() {
            let key = entry.key().unwrap_or_else(|| entry.alias.clone());
            let reason = notes.of_machine.get(&key).map_or(String::new(), |reason| format!("; {reason}"));
            plan.reasons.push(format!("{}{reason}", entry.title()));
            plan.removed.push(entry.title());
        }
        plan
    }

    fn change(&mut self, old: &Entry, new: &Entry) {
        if old.text == new.text {
            return;
        }
        let differs = |(keyword, value): &&(String, String)| {
            let is_there = |values: &Expected| values.iter().any(|(k, v)| k == keyword && v == value);
            !is_there(&old.values) || !is_there(&new.values)
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
        let what = if keywords.is_empty() { "its text".to_owned() } else { keywords.join(", ") };
        self.changed.push(format!("{}: {what}", new.alias));
    }

    /// Tells the user, in one line for each host entry up to a bound.
    pub(super) fn tell(&self) {
        let kinds = [
            ("add", &self.added),
            ("change", &self.changed),
            ("rename", &self.renamed),
            ("remove", &self.reasons),
        ];
        for (kind, lines) in kinds {
            lines.iter().take(LINES).for_each(|line| note(&format!("{kind} {line}")));
            if let Some(more) = lines.len().checked_sub(LINES).filter(|more| *more > 0) {
                note(&format!("{kind} {more} more"));
            }
        }
    }
}

impl Entry {
    /// Its machine's resource ID, the same in every spelling.
    fn key(&self) -> Option<String> {
        self.machine.as_ref().map(|id| id.to_lowercase())
    }

    fn has_machine_of(&self, other: &Self) -> bool {
        self.key() == other.key()
    }

    /// The alias, and the group and name of the machine behind it.
    fn title(&self) -> String {
        let id = self.machine.as_ref().and_then(|id| id.parse::<ResourceId>().ok());
        id.map_or(self.alias.clone(), |id| format!("{} ({}/{})", self.alias, id.resource_group, id.name))
    }
}

fn entries(block: &str) -> Vec<Entry> {
    let block = block.replace("\r\n", "\n");
    let entry = |range: Range<usize>| {
        let text = block[range].trim_end().to_owned();
        let (patterns, values) = effective_config::sections(&text).into_iter().next()?;
        Some(Entry { alias: patterns.into_iter().next()?, machine: machine(&text), text, values })
    };
    managed_block::sections(&block).into_iter().filter_map(entry).collect()
}

/// The resource ID that the lines of a host entry name.
pub(super) fn machine(text: &str) -> Option<String> {
    let bare = |word: &str| word.trim_matches('"').replace(&host_entry::escape_percent("%"), "%");
    text.split_whitespace().map(bare).find(|word| word.parse::<ResourceId>().is_ok())
}
