//! Verifies with ssh that it uses the values of a managed block.
//!
//! ssh parses the whole configuration for each alias, so verifying every alias takes quadratic time and runs a user's
//! `Match exec` for each. arcssh therefore runs ssh for one alias of each kind. Aliases are of one kind if the same sections
//! apply to them, and their values differ only in names whose characters ssh reads literally.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::{Child, Output};

use crate::ssh::SshError;
use crate::ssh::effective_config::{
    Alias, Expected, MAX_DEPTH, Trace, directive, finish, host_entries, overridden, ssh, start,
};
use crate::ssh::used_names::{arguments, match_patterns, matches, text};

/// The most processes of ssh at a time.
const PROCESSES: usize = 4;
/// Keywords whose values are choices or numbers and not names.
const CHOICES: [&str; 3] = ["port", "identitiesonly", "forwardagent"];
/// Values with a meaning of their own (ssh_config(5)).
const SPECIAL: [&str; 4] = ["none", "yes", "no", "SSH_AUTH_SOCK"];

/// Checks that ssh uses the values of each host entry of `block`, or only of the one with an alias, when it reads `file`.
/// Runs ssh once for each kind of entries, and not for each entry; see [`Sections::representatives`].
/// Calls `on_done` with the number of finished runs and of all runs. An error calls that file `name`. Returns the number of
/// verified aliases; `None` if no ssh is installed.
///
/// # Errors
/// [`SshError::Overridden`]; [`SshError::Rejected`].
pub(crate) fn verify(
    block: &str,
    file: &Path,
    name: &Path,
    only: Option<&str>,
    on_done: &dyn Fn(usize, usize),
) -> Result<Option<usize>, SshError> {
    let mut entries = host_entries(block);
    if let Some(alias) = only {
        entries.retain(|(patterns, _)| patterns.iter().any(|pattern| pattern == alias));
    }
    let is_name = |pattern: &&String| !pattern.contains(['*', '?']);
    let names: Vec<&String> = entries.iter().flat_map(|(patterns, _)| patterns).filter(is_name).collect();
    let Some(first) = names.first() else { return Ok(Some(0)) };
    let Some(sections) = sections_of(block, file, first)? else { return Ok(None) };
    let representatives = sections.representatives(&entries);
    for (number, batch) in representatives.chunks(PROCESSES).enumerate() {
        on_done(number * PROCESSES, representatives.len());
        let started: Vec<Option<Child>> =
            batch.iter().map(|alias| start(&["-G"], alias.name, Some(file))).collect::<Result<_, _>>()?;
        let outputs: Vec<Option<Output>> = started.into_iter().map(finish).collect::<Result<_, _>>()?;
        for (alias, output) in batch.iter().zip(outputs) {
            let Some(output) = output else { return Ok(None) };
            if let Some(mut first) = overridden(*alias, &output, file, name)?.into_iter().next() {
                first.by =
                    first.by.map(|(by, line)| if by == file { (name.to_owned(), line) } else { (by, line) });
                return Err(SshError::Overridden(first));
            }
        }
    }
    Ok(Some(names.len()))
}

/// The sections that ssh reads up to the end of the block; `None` if no ssh is installed. ssh names the included files.
fn sections_of(block: &str, file: &Path, alias: &str) -> Result<Option<Sections>, SshError> {
    let content = text(file).unwrap_or_default();
    let above = content.find(block).map_or(content.as_str(), |at| &content[..at]);
    let is_include = |line| directive(line).is_some_and(|(keyword, _)| keyword == "include");
    let trace = if above.lines().any(is_include) {
        let Some(output) = ssh(&["-vvv", "-G"], alias, Some(file))? else { return Ok(None) };
        Some(Trace::of(&output.stderr))
    } else {
        None
    };
    Ok(Some(Sections::of(above, block, file, trace.as_ref())))
}

fn length(alias: Alias<'_>) -> usize {
    alias.name.len() + alias.expected.iter().map(|(_, value)| value.len()).sum::<usize>()
}

/// The values, without the names in them.
fn shape_of(alias: Alias<'_>) -> Vec<(String, String)> {
    let shape = |(keyword, value): &(String, String)| {
        let is_literal = CHOICES.contains(&keyword.as_str()) || SPECIAL.contains(&value.as_str());
        (keyword.clone(), if is_literal { value.clone() } else { without_names(value) })
    };
    alias.expected.iter().map(shape).collect()
}

/// Replaces each run of characters that have no special meaning in any value.
fn without_names(value: &str) -> String {
    let mut shape = String::new();
    for c in value.chars() {
        if !(c.is_ascii_alphanumeric() || "._-".contains(c)) {
            shape.push(c);
        } else if !shape.ends_with('x') {
            shape.push('x');
        }
    }
    shape
}

/// The patterns of the sections that ssh reads before the values of a host entry, in lower case and without `!`.
#[derive(Default)]
pub(crate) struct Sections {
    /// Names without wildcards, with the number of their uses.
    literal: BTreeMap<String, usize>,
    wildcards: BTreeSet<String>,
    sets_host_name: bool,
    /// Whether a `Match host` compares the `HostName` of an earlier section.
    matches_host_name: bool,
}

/// What ssh reads of one section.
#[derive(Default)]
struct Section {
    patterns: Vec<String>,
    /// Without a setting, the section has no effect.
    has_setting: bool,
}

impl Sections {
    /// Reads the lines above a block, with the files that they include according to ssh, and the block itself.
    pub(crate) fn of(above: &str, block: &str, file: &Path, trace: Option<&Trace>) -> Self {
        let mut sections = Self::default();
        sections.read(above, file, trace, 0);
        let is_renamed = sections.sets_host_name;
        sections.read(block, file, None, 0);
        sections.sets_host_name = is_renamed;
        sections
    }

    fn read(&mut self, content: &str, file: &Path, trace: Option<&Trace>, depth: usize) {
        let mut section = Section::default();
        for (number, line) in (1..).zip(content.lines()) {
            let Some((keyword, value)) = directive(line) else { continue };
            match keyword.as_str() {
                "host" => self.start(&mut section, arguments(&value)),
                "match" => {
                    let is_host = |word: &String| word.trim_start_matches('!').eq_ignore_ascii_case("host");
                    self.matches_host_name |= arguments(&value.replace('=', " ")).iter().any(is_host);
                    self.start(&mut section, match_patterns(&value));
                }
                "include" if depth < MAX_DEPTH => {
                    section.has_setting = true;
                    for included in trace.into_iter().flat_map(|trace| trace.files(file, number)) {
                        self.read(&text(included).unwrap_or_default(), included, trace, depth + 1);
                    }
                }
                _ => {
                    section.has_setting = true;
                    self.sets_host_name |= keyword == "hostname";
                }
            }
        }
        self.start(&mut section, Vec::new());
    }

    /// Adds a section at its end, and starts the next one.
    fn start(&mut self, section: &mut Section, patterns: Vec<String>) {
        let ended = std::mem::replace(section, Section { patterns, has_setting: false });
        for pattern in ended.patterns.into_iter().filter(|_| ended.has_setting) {
            let pattern = pattern.trim_start_matches('!').to_lowercase();
            if pattern.contains(['*', '?']) {
                self.wildcards.insert(pattern);
            } else {
                *self.literal.entry(pattern).or_default() += 1;
            }
        }
    }

    /// Returns the longest alias of each kind, in the order of their kinds in the block.
    pub(crate) fn representatives<'a>(&self, entries: &'a [(Vec<String>, Expected)]) -> Vec<Alias<'a>> {
        let mut kinds = BTreeMap::new();
        let mut longest: Vec<Alias<'a>> = Vec::new();
        for (patterns, expected) in entries {
            let mut shape = None;
            for name in patterns.iter().filter(|pattern| !pattern.contains(['*', '?'])) {
                let alias = Alias { name, expected };
                let lower = name.to_lowercase();
                let own = patterns.iter().filter(|pattern| pattern.to_lowercase() == lower).count();
                let only_own = self.literal.get(&lower).is_none_or(|uses| *uses <= own);
                let is_of_a_kind = only_own
                    && !(self.sets_host_name && self.matches_host_name)
                    && !expected.iter().any(|(keyword, _)| keyword == "include");
                if !is_of_a_kind {
                    longest.push(alias);
                    continue;
                }
                let applying: Vec<&String> =
                    self.wildcards.iter().filter(|pattern| matches(pattern, &lower)).collect();
                let shape = shape.get_or_insert_with(|| shape_of(alias)).clone();
                let at = *kinds.entry((without_names(name), applying, shape)).or_insert(longest.len());
                match longest.get_mut(at) {
                    Some(other) if length(alias) > length(*other) => *other = alias,
                    Some(_) => {}
                    None => longest.push(alias),
                }
            }
        }
        longest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(alias: &str, lines: &str) -> String {
        format!("Host {alias}\n HostName {alias}\n {lines}\n ProxyCommand arcssh proxy /machines/{alias}\n")
    }

    fn names(above: &str, entries: &[String]) -> Vec<String> {
        let block = entries.concat();
        let entries = host_entries(&block);
        let sections = Sections::of(above, &block, Path::new("config"), None);
        sections.representatives(&entries).iter().map(|alias| alias.name.to_owned()).collect()
    }

    fn fleet() -> Vec<String> {
        ["web1", "web2", "web10", "db1"].map(|alias| entry(alias, "User me")).to_vec()
    }

    #[test]
    fn the_longest_alias_represents_its_kind() {
        assert_eq!(names("", &fleet()), ["web10"]);
        assert_eq!(names("User me\nHost other\n User x\nHost *\n User y\n", &fleet()), ["web10"]);
        assert_eq!(names("", &[entry("web1 WEB1", "User me")]).len(), 1);
    }

    #[test]
    fn an_alias_to_which_other_sections_apply_is_of_another_kind() {
        for (above, expected) in [
            ("Host WEB2\n User x\n", &["web10", "web2"][..]),
            ("Host * !web2\n User x\n", &["web10", "web2"]),
            ("Host * !db*\n User x\n", &["web10", "db1"]),
            ("Host web?\n User x\n", &["web1", "web10"]),
            ("Match originalhost web2,x user me\n User x\n", &["web10", "web2"]),
            ("Match !host web2\n User x\n", &["web10", "web2"]),
            ("Match exec true\n User x\n", &["web10"]),
            ("Host web2\nHost other\n User x\n", &["web10"]),
            ("Host *\n HostName %h.corp\nMatch host web2.corp\n User x\n", &["web1", "web2", "web10", "db1"]),
        ] {
            let mut found = names(above, &fleet());
            let mut expected = expected.to_vec();
            found.sort();
            expected.sort_unstable();
            assert_eq!(found, expected, "{above}");
        }
    }

    #[test]
    fn entries_with_other_keywords_or_special_characters_are_of_another_kind() {
        for lines in [
            "User m\u{e9}",
            "User \"a b\"",
            "User none",
            "Port 1",
            "User me\n Port 1",
            "Include x",
            "ForwardAgent no",
        ] {
            let mut entries = fleet();
            entries.push(entry("x", lines));
            assert_eq!(names("", &entries), ["web10", "x"], "{lines}");
        }
        assert_eq!(names("", &[fleet(), vec![entry("x", "User root")]].concat()), ["web10"]);
    }

    #[test]
    fn an_alias_of_two_entries_is_of_its_own_kind() {
        let entries = [fleet(), vec![entry("web2", "User me")]].concat();
        assert_eq!(names("", &entries), ["web10", "web2", "web2"]);
        let wildcard = entry("*.arc", "User me");
        assert_eq!(
            names("", &[vec![wildcard], fleet(), vec![entry("a.arc", "User me")]].concat()),
            ["web10", "a.arc"]
        );
    }
}
