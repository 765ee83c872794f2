//! Removes host entries from the managed block, or keeps only some, without a request to Azure.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::anyhow;

use crate::azure::hybrid_compute::{Machine, MachineRef};
use crate::commands::config::options::Options;
use crate::commands::config::{own_block, plan};
use crate::diagnosis::Result;
use crate::machines::{SelectError, similar};
use crate::ssh::patterns::{is_alias_of, is_wildcard};
use crate::ssh::{SshError, effective_config, managed_block};

/// Returns the text without the host entries of `names`, or without the block if `names` is empty or no host entry is left.
pub(super) fn without(names: &BTreeSet<String>, old: &str, file: &Path) -> Result<String> {
    if names.is_empty() {
        return Ok(managed_block::without_block(old)?);
    }
    let block = own_block(old)?.replace("\r\n", "\n");
    if block.is_empty() {
        return Err(anyhow!("there is no managed block").into());
    }
    let mut options = Options::of(old)?;
    let mut entries: Vec<Entry> =
        managed_block::host_entries(&block).iter().map(|text| Entry::of(text)).collect();
    for name in names {
        let at = position(&entries, name, options.suffix())?.ok_or_else(|| no_entry(&entries, name, file))?;
        let entry = entries.remove(at);
        options.exclude(entry.machine.map(|machine| machine.id), &entry.patterns, name)?;
    }
    if options.is_empty() {
        return Ok(managed_block::without_block(old)?);
    }
    let entries: Vec<String> = entries.into_iter().map(|entry| entry.text).collect();
    Ok(managed_block::with_block(old, &managed_block::block(&options.line()?, &entries.join("\n")))?)
}

/// Returns the text with only the host entries of `names`.
///
/// # Errors
/// [`SshError::NoEntry`].
pub(super) fn only(names: &BTreeSet<String>, text: &str, file: &Path) -> Result<String> {
    let block = own_block(text)?.replace("\r\n", "\n");
    let options = Options::of(text)?;
    let entries: Vec<Entry> =
        managed_block::host_entries(&block).iter().map(|text| Entry::of(text)).collect();
    let wildcard =
        |name: &String| entries.iter().position(|one| one.patterns.iter().any(|one| is_alias_of(one, name)));
    let mut positions = BTreeSet::new();
    for name in names {
        let at = position(&entries, name, options.suffix())?.or_else(|| wildcard(name));
        positions.insert(at.ok_or_else(|| no_entry(&entries, name, file))?);
    }
    let entries: Vec<&str> = positions.into_iter().map(|at| entries[at].text.as_str()).collect();
    Ok(managed_block::with_block(text, &managed_block::block(&options.line()?, &entries.join("\n")))?)
}

fn no_entry(entries: &[Entry], name: &str, file: &Path) -> SshError {
    let aliases = entries.iter().filter_map(|entry| entry.patterns.first()).filter(|one| !is_wildcard(one));
    let similar = similar(name, aliases.map(String::as_str));
    SshError::NoEntry { path: file.to_owned(), name: name.to_owned(), similar }
}

/// A host entry of the block.
struct Entry {
    text: String,
    patterns: Vec<String>,
    machine: Option<Machine>,
}

impl Entry {
    fn of(text: &str) -> Self {
        let patterns = effective_config::host_entries(text).into_iter().flat_map(|(patterns, _)| patterns);
        Self {
            patterns: patterns.collect(),
            machine: plan::machine(text).map(Machine::from_id),
            text: format!("{}\n", text.trim_end()),
        }
    }
}

/// Returns the position of the only entry with a name: an alias, also without the suffix, or otherwise the name or ID of its
/// machine.
fn position(entries: &[Entry], name: &str, suffix: &str) -> Result<Option<usize>> {
    let reference = name.parse::<MachineRef>().ok();
    let has_alias =
        |entry: &Entry, alias: &str| entry.patterns.iter().any(|pattern| pattern.eq_ignore_ascii_case(alias));
    let has_machine = |entry: &Entry| {
        let machine = entry.machine.as_ref().zip(reference.as_ref());
        machine.is_some_and(|(machine, reference)| reference.matches(machine))
    };
    let positions = |matches: &dyn Fn(&Entry) -> bool| -> Vec<usize> {
        (0..entries.len()).filter(|at| matches(&entries[*at])).collect()
    };
    let mut found = positions(&|entry| has_alias(entry, name));
    if found.is_empty() {
        found = positions(&|entry| has_alias(entry, &format!("{name}{suffix}")));
    }
    if found.is_empty() {
        found = positions(&has_machine);
    }
    match found[..] {
        [at] => Ok(Some(at)),
        [] => Ok(None),
        _ => {
            let candidate = |at: usize| entries[at].patterns.first().cloned().unwrap_or_default();
            let candidates = found.into_iter().map(candidate).collect();
            Err(SelectError::Ambiguous { name: name.to_owned(), candidates }.into())
        }
    }
}
