//! Verifies with ssh that it uses the values of a managed block.
//!
//! ssh parses the whole configuration for each alias, so verifying every alias takes quadratic time and runs a user's
//! `Match exec` for each. arcssh therefore runs ssh for one alias of each kind. Aliases are of one kind if the same sections
//! apply to them, and their values differ only in names whose characters ssh reads literally.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Output;

use crate::ssh::SshError;
use crate::ssh::effective_config::{
    Alias, Expected, Location, MAX_DEPTH, Run, Source, Trace, directive, finish, host_entries, is_same,
    no_user, overridden, start, text,
};
use crate::ssh::managed_block;
use crate::ssh::patterns::{arguments, example, is_alias_of, is_wildcard, match_patterns, matches};
use crate::ssh::rejection::{self, Place, Rejection};
use crate::ssh::requirements;
use crate::ssh::used_names::system_folder;

/// The most processes of ssh at a time.
const PROCESSES: usize = 4;
/// Keywords whose values are choices or numbers and not names.
const CHOICES: [&str; 3] = ["port", "identitiesonly", "forwardagent"];
/// Made-up names, to verify a wildcard with.
const PROBES: [&str; 6] = ["example", "machine-1", "x", "0-arcssh", "zz-9", "q7-wildcard-of-arcssh"];
/// Values with a meaning of their own (ssh_config(5)).
const SPECIAL: [&str; 4] = ["none", "yes", "no", "SSH_AUTH_SOCK"];

/// The configuration in which ssh reads a managed block.
pub(crate) struct View {
    source: Source,
    /// The file with the block.
    file: PathBuf,
    /// The name of that file in messages.
    name: PathBuf,
}

impl View {
    /// `ssh -F` with a file, or with a new version of it that is not in its place yet.
    pub(crate) fn alone(file: &Path, name: &Path) -> Self {
        Self { source: Source::file(file), file: file.to_owned(), name: name.to_owned() }
    }

    /// The files that ssh reads without `-F`: the user's and the system's (ssh_config(5)).
    pub(crate) fn plain(file: &Path) -> Result<Self, SshError> {
        let files = vec![managed_block::default_path()?, system_folder().join("ssh_config")];
        let source = Source { option: None, files };
        Ok(Self { source, file: file.to_owned(), name: file.to_owned() })
    }

    /// The line that gives ssh the value of a keyword.
    pub(crate) fn first_line_with(&self, keyword: &str, alias: &str) -> Result<Option<Location>, SshError> {
        self.source.first_line_with(&keyword.to_lowercase(), alias)
    }

    /// Whether ssh reads the file only if another one includes it.
    fn needs_include(&self) -> bool {
        !self.source.files.iter().any(|root| is_same(root, &self.file))
    }

    /// Returns ssh's error in this configuration.
    fn rejection(&self, stderr: &[u8], alias: &str) -> Result<SshError, SshError> {
        no_user(stderr)?;
        let mut rejection = Rejection::of(stderr, &self.file, &self.name);
        if self.file != self.name && !matches!(rejection.place, Place::Block(..)) && self.name.exists() {
            let present = finish(Source::file(&self.name).start(alias)?)?;
            if let Some(present) = present.filter(|output| !output.status.success()) {
                if rejection.place == Place::File {
                    rejection = Rejection::of(&present.stderr, &self.name, &self.name);
                }
                rejection.is_old = true;
            }
        }
        Ok(SshError::Rejected(rejection))
    }

    /// The location in the present file, if ssh read a new version of it; `None` for a line of the new block.
    fn present(&self, at: Location) -> Option<Location> {
        if at.file != self.file || self.file == self.name {
            return Some(at);
        }
        match rejection::place(at.line, &self.file, &self.name) {
            Place::Line(line) => Some(Location { file: self.name.clone(), line }),
            Place::File | Place::Block(..) => None,
        }
    }

    /// Returns the error that ssh does not read the file for an alias; `None` if it does.
    fn not_included(&self, alias: &str) -> Result<Option<NotIncluded>, SshError> {
        let trace = if self.needs_include() { self.source.trace(alias)? } else { None };
        let Some(Err(conditional)) = trace.as_ref().map(|trace| trace.inclusion(&self.file)) else {
            return Ok(None);
        };
        let (alias, file, config) = (alias.to_owned(), self.name.clone(), self.source.files[0].clone());
        Ok(Some(NotIncluded { alias, file, config, conditional: conditional.map(str::to_owned) }))
    }
}

/// A file that ssh does not read for an alias.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NotIncluded {
    pub(crate) alias: String,
    pub(crate) file: PathBuf,
    /// The user's configuration.
    pub(crate) config: PathBuf,
    /// The location of an `Include` of the file in a section that does not apply.
    pub(crate) conditional: Option<String>,
}

impl NotIncluded {
    pub(crate) fn reason(&self) -> String {
        match &self.conditional {
            Some(location) => {
                format!("the Include in {location} belongs to a Host or Match that does not apply")
            }
            None => format!("{} does not include it", self.config.display()),
        }
    }

    /// The `Include` line for the file. ssh expects a relative name in the directory of the user's configuration, and expands
    /// wildcards (ssh_config(5)).
    pub(crate) fn include(&self) -> String {
        let file = std::path::absolute(&self.file).unwrap_or_else(|_| self.file.clone());
        let relative = self.config.parent().and_then(|folder| file.strip_prefix(folder).ok());
        let name = relative.unwrap_or(&file).display().to_string();
        let name = name.replace(['*', '?', '[', ']', '"', '%', '$'], "?");
        let is_word = !name.contains(|c: char| c.is_whitespace() || "'#".contains(c));
        if is_word { format!("Include {name}") } else { format!("Include \"{name}\"") }
    }
}

/// The first file with a managed block that ssh includes in `file`.
pub(crate) fn included_block(file: &Path) -> Option<PathBuf> {
    let trace = Source::file(file).trace("localhost").ok()??;
    let has_block =
        |file: &&Path| text(file).is_some_and(|text| matches!(managed_block::find(&text), Ok(Some(_))));
    trace.all_files().find(has_block).map(Into::into)
}

/// A verified block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Verified {
    /// The number of verified aliases.
    pub(crate) hosts: usize,
    /// Why ssh uses the block only with `-F`.
    pub(crate) not_included: Option<NotIncluded>,
}

/// Verifies the block in a file that is in its place: with `-F` unless ssh reads the file without, and without `-F`.
///
/// # Errors
/// As for [`verify`]. A file that the user's configuration does not include is no error.
pub(crate) fn verify_file(
    block: &str,
    file: &Path,
    only: Option<&str>,
    on_done: &dyn Fn(usize, usize),
) -> Result<Option<Verified>, SshError> {
    let plain = View::plain(file)?;
    let alone =
        if plain.needs_include() { verify(block, &View::alone(file, file), only, on_done)? } else { None };
    let (hosts, not_included) = match verify(block, &plain, only, on_done) {
        Err(SshError::NotIncluded(reason)) => (alone, Some(reason)),
        hosts => (hosts?, None),
    };
    Ok(hosts.map(|hosts| Verified { hosts, not_included }))
}

/// Checks that ssh accepts its present configuration, apart from the lines of `file`, which arcssh is about to change.
///
/// # Errors
/// [`SshError::Rejected`].
pub(crate) fn accept_other_files(file: &Path) -> Result<(), SshError> {
    let plain = View::plain(file)?;
    // The name is made up, so ssh need not find its canonical form.
    let options = ["-G", "-o", "CanonicalizeHostname=no"];
    let output = if plain.needs_include() { None } else { finish(start(&options, "localhost", None)?)? };
    let Some(output) = output.filter(|output| !output.status.success()) else { return Ok(()) };
    match plain.rejection(&output.stderr, "localhost")? {
        SshError::Rejected(Rejection { file: rejected, place: Place::Line(_), .. })
            if is_same(&rejected, file) =>
        {
            Ok(())
        }
        SshError::Rejected(rejection) => Err(SshError::Rejected(Rejection { is_old: true, ..rejection })),
        error => Err(error),
    }
}

/// Checks that ssh uses the values of each host entry of `block`, or only of the one with an alias.
/// Runs ssh once for each kind of entries, and not for each entry; see [`Sections::representatives`].
/// Calls `on_done` with the number of finished runs and of all runs. Returns the number of verified aliases; `None` if no ssh
/// is installed.
///
/// # Errors
/// [`SshError::Overridden`]; [`SshError::Conflict`]; [`SshError::Rejected`]; [`SshError::NotIncluded`].
pub(crate) fn verify(
    block: &str,
    view: &View,
    only: Option<&str>,
    on_done: &dyn Fn(usize, usize),
) -> Result<Option<usize>, SshError> {
    let mut entries = host_entries(block);
    if let Some(alias) = only {
        entries.retain(|(patterns, _)| patterns.iter().any(|pattern| is_alias_of(pattern, alias)));
    }
    entries.retain(|(_, expected)| !expected.is_empty());
    let names = entries.iter().map(|(patterns, _)| patterns.len()).sum();
    let Some(first) = entries.first().and_then(|(patterns, _)| patterns.first()) else { return Ok(Some(0)) };
    let Some(sections) = sections_of(block, view, &example(first))? else { return Ok(None) };
    entries.iter_mut().for_each(|(patterns, _)| sections.name_wildcards(patterns));
    let representatives = sections.representatives(&entries);
    for (number, batch) in representatives.chunks(PROCESSES).enumerate() {
        on_done(number * PROCESSES, representatives.len());
        let started: Vec<Option<Run>> =
            batch.iter().map(|alias| view.source.start(alias.name)).collect::<Result<_, _>>()?;
        let outputs: Vec<Option<Output>> = started.into_iter().map(finish).collect::<Result<_, _>>()?;
        for (alias, output) in batch.iter().zip(outputs) {
            let Some(output) = output else { return Ok(None) };
            check(*alias, &output, view)?;
        }
    }
    Ok(Some(names))
}

/// Checks ssh's output for an alias.
fn check(alias: Alias<'_>, output: &Output, view: &View) -> Result<(), SshError> {
    if !output.status.success() {
        return Err(view.rejection(&output.stderr, alias.name)?);
    }
    let Some(mut first) = overridden(alias, output, &view.source)?.into_iter().next() else {
        return requirements::check(alias, &output.stdout, &view.source).map_err(|error| match error {
            SshError::Conflict(mut conflict) => {
                conflict.by = conflict.by.and_then(|by| view.present(by));
                SshError::Conflict(conflict)
            }
            other => other,
        });
    };
    if let Some(reason) = view.not_included(alias.name)? {
        return Err(SshError::NotIncluded(reason));
    }
    first.by = first.by.and_then(|by| view.present(by));
    Err(SshError::Overridden(first))
}

/// The sections that ssh reads; `None` if no ssh is installed. ssh names the included files.
fn sections_of(block: &str, view: &View, alias: &str) -> Result<Option<Sections>, SshError> {
    let file = if view.needs_include() { Some(&view.file) } else { None };
    let (mut above, mut below): (Vec<Part<'_>>, Vec<Part<'_>>) = (Vec::new(), Vec::new());
    for file in view.source.files.iter().chain(file) {
        let content = text(file).unwrap_or_default();
        let around = content.split_once(block).filter(|_| is_same(file, &view.file));
        match around {
            Some((before, after)) => {
                let line = 1 + before.lines().count() + block.lines().count();
                above.push(Part { text: before.to_owned(), file, line: 1 });
                below.push(Part { text: after.to_owned(), file, line });
            }
            None if below.is_empty() => above.push(Part { text: content, file, line: 1 }),
            None => below.push(Part { text: content, file, line: 1 }),
        }
    }
    let is_include = |line| directive(line).is_some_and(|(keyword, _)| keyword == "include");
    // The files that the system's configuration includes rarely name a host, so they are not worth a run of ssh.
    let trace = if above.iter().chain(below.first()).any(|part| part.text.lines().any(is_include)) {
        // The trace of a run that fails, such as of a cycle of Include lines, has no end that arcssh can follow.
        let Some(output) = finish(view.source.start(alias)?)? else { return Ok(None) };
        if !output.status.success() {
            return Err(view.rejection(&output.stderr, alias)?);
        }
        view.source.trace(alias)?
    } else {
        None
    };
    Ok(Some(Sections::of(&above, block, &below, &view.file, trace.as_ref())))
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

/// The patterns of the sections that can change the values of a host entry, in lower case and without `!`: those above it, and
/// those below it that set one of [`requirements::KEYWORDS`].
#[derive(Default)]
struct Sections {
    /// The file with the block, which no `Include` reads again.
    file: PathBuf,
    /// Names without wildcards, with the number of their uses.
    literal: BTreeMap<String, usize>,
    wildcards: BTreeSet<String>,
    sets_host_name: bool,
    /// Whether a `Match host` compares the `HostName` of an earlier section.
    matches_host_name: bool,
}

/// Where a text begins, and the keywords that count in it.
#[derive(Clone, Copy)]
struct Position<'a> {
    file: &'a Path,
    line: usize,
    /// The number of nested `Include` lines above it.
    depth: usize,
    counts: fn(&str) -> bool,
}

/// A part of a configuration file.
struct Part<'a> {
    text: String,
    file: &'a Path,
    /// The number of its first line.
    line: usize,
}

/// What ssh reads of one section.
#[derive(Default)]
struct Section {
    patterns: Vec<String>,
    /// Without a setting, the section has no effect.
    has_setting: bool,
}

impl Sections {
    /// Reads the lines above a block, the block, and the lines below it, with the files that they include according to ssh.
    fn of(above: &[Part<'_>], block: &str, below: &[Part<'_>], file: &Path, trace: Option<&Trace>) -> Self {
        let mut sections = Self { file: file.to_owned(), ..Self::default() };
        let start = Position { file, line: 1, depth: 0, counts: |_| true };
        for Part { text, file, line } in above {
            sections.read(text, Position { file, line: *line, ..start }, trace);
        }
        let is_renamed = sections.sets_host_name;
        sections.read(block, start, None);
        let counts = |keyword: &str| requirements::KEYWORDS.contains(&keyword);
        for Part { text, file, line } in below {
            sections.read(text, Position { file, line: *line, counts, ..start }, trace);
        }
        sections.sets_host_name = is_renamed;
        sections
    }

    fn read(&mut self, content: &str, at: Position<'_>, trace: Option<&Trace>) {
        let Position { file, line, depth, counts } = at;
        let mut section = Section::default();
        for (number, line) in (line..).zip(content.lines()) {
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
                    let included = trace.into_iter().flat_map(|trace| trace.files(file, number));
                    let included: Vec<&Path> = included.filter(|one| !is_same(one, &self.file)).collect();
                    for file in included {
                        let start = Position { file, line: 1, depth: depth + 1, counts };
                        self.read(&text(file).unwrap_or_default(), start, trace);
                    }
                }
                _ => {
                    section.has_setting |= counts(&keyword);
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
            if is_wildcard(&pattern) {
                self.wildcards.insert(pattern);
            } else {
                *self.literal.entry(pattern).or_default() += 1;
            }
        }
    }

    /// Replaces each wildcard by a name that matches it and no other pattern, except those that match every name.
    fn name_wildcards(&self, patterns: &mut [String]) {
        for pattern in patterns.iter_mut().filter(|pattern| is_wildcard(pattern)) {
            let own = pattern.to_lowercase();
            let is_narrow = |other: &&String| **other != own && other.contains(char::is_alphanumeric);
            let is_free = |name: &String| {
                let name = name.to_lowercase();
                !self.literal.contains_key(&name)
                    && !self.wildcards.iter().filter(is_narrow).any(|other| matches(other, &name))
            };
            let mut names = PROBES.iter().map(|word| pattern.replace('*', word).replace('?', "x"));
            let first = names.clone().next();
            *pattern = names.find(is_free).or(first).unwrap_or_default();
        }
    }

    /// Returns the longest alias of each kind, in the order of their kinds in the block.
    fn representatives<'a>(&self, entries: &'a [(Vec<String>, Expected)]) -> Vec<Alias<'a>> {
        let mut kinds = BTreeMap::new();
        let mut longest: Vec<Alias<'a>> = Vec::new();
        for (patterns, expected) in entries {
            let mut shape = None;
            for name in patterns.iter().filter(|pattern| !is_wildcard(pattern)) {
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
        let sections = sections(above, &block, "");
        sections.representatives(&entries).iter().map(|alias| alias.name.to_owned()).collect()
    }

    fn sections(above: &str, block: &str, below: &str) -> Sections {
        let part = |text: &str| [Part { text: text.to_owned(), file: Path::new("config"), line: 1 }];
        Sections::of(&part(above), block, &part(below), Path::new("config"), None)
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
    fn a_section_below_the_block_counts_if_it_sets_an_option_that_decides() {
        let block = fleet().concat();
        let entries = host_entries(&block);
        let names = |below: &str| {
            let sections = sections("", &block, below);
            let found = sections.representatives(&entries);
            found.iter().map(|alias| alias.name.to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(names("Host web2\n Compression yes\nHost *1\n ForwardAgent yes\n"), ["web10"]);
        assert_eq!(names("Host web2\n PreferredAuthentications password\n"), ["web10", "web2"]);
    }

    #[test]
    fn a_wildcard_is_verified_with_a_name_that_no_other_pattern_matches() {
        let block = entry("*.arc", "User me");
        for (above, name) in [
            ("", "example.arc"),
            ("Host e* *.arc\n User x\nHost *\n User y\n", "machine-1.arc"),
            ("Host EXAMPLE.arc machine*\n User x\n", "x.arc"),
            ("Host e*\nHost other\n User x\n", "example.arc"),
            ("Host ?*.arc\n User x\n", "example.arc"),
        ] {
            let sections = sections(above, &block, "");
            let mut patterns = vec!["*.arc".to_owned(), "web01".to_owned()];
            sections.name_wildcards(&mut patterns);
            assert_eq!(patterns, [name, "web01"], "{above}");
        }
    }

    #[test]
    fn a_line_of_a_new_version_is_reported_with_its_place_in_the_present_file() {
        let folder = tempfile::tempdir().unwrap();
        let [new, old] = ["new", "old"].map(|name| folder.path().join(name));
        let text = "Host *\n User root\n";
        let block = managed_block::block("{}", &entry("web01", "User me"));
        let changed = managed_block::with_block(text, &block).unwrap();
        std::fs::write(&old, text).unwrap();
        std::fs::write(&new, &changed).unwrap();
        let view = View::alone(&new, &old);
        let at = |line| view.present(Location { file: new.clone(), line });
        assert_eq!(at(changed.lines().count()), Some(Location { file: old.clone(), line: 2 }));
        assert_eq!(at(3), None, "a line of the new block");
        let elsewhere = Location { file: "/elsewhere".into(), line: 3 };
        assert_eq!(view.present(elsewhere.clone()), Some(elsewhere));
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
