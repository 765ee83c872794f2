//! Asks the system's own ssh what it makes of a configuration (`ssh -G`), and finds the line that keeps a value of ours
//! from being used: ssh takes the first value that it meets.

use std::collections::{BTreeMap, VecDeque};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail};

use crate::system::files;

/// A value of a section that ssh does not use for its host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Overridden {
    /// The host.
    pub(crate) alias: String,
    /// The keyword, as ssh prints it: in lower case.
    pub(crate) keyword: String,
    /// What ssh uses.
    pub(crate) instead: String,
    /// File and line that say so, where they can be found.
    pub(crate) by: Option<(PathBuf, usize)>,
}

/// ssh does not use a value of ours.
#[derive(Debug, thiserror::Error)]
#[error(
    "ssh does not use the {} written for {}: {} says {:?}", .0.keyword, .0.alias,
    .0.by.as_ref().map_or("another line".to_owned(), |(file, line)| format!("{} line {line}", file.display())), .0.instead
)]
pub(crate) struct OverriddenError(pub(crate) Overridden);

/// The values that must be used for a host, by keyword in lower case.
pub(crate) type Expected = Vec<(String, String)>;

/// The keywords whose values are asked about.
const CHECKED_KEYWORDS: [&str; 7] =
    ["proxycommand", "user", "port", "hostkeyalias", "identityagent", "identitiesonly", "forwardagent"];

/// Which values of `alias` are not used when ssh reads `file`; `None` where no ssh is installed.
///
/// # Errors
/// ssh cannot read the configuration at all, in its own words.
pub(crate) fn overridden(alias: &str, expected: &Expected, file: &Path) -> Result<Option<Vec<Overridden>>> {
    let Some(output) = ssh(&["-G"], alias, Some(file))? else { return Ok(None) };
    if !output.status.success() {
        bail!("ssh does not accept {}: {}", file.display(), String::from_utf8_lossy(&output.stderr).trim());
    }
    let effective = effective(&output.stdout);
    // ssh puts a HostKeyAlias into lower case.
    let same = |keyword: &str, used: &str, meant: &str| match keyword {
        "hostkeyalias" => used.eq_ignore_ascii_case(meant),
        // Of a file's name ssh prints what it stands for.
        "identityagent" => used == meant || used == meant.replace("%%", "%"),
        _ => used == meant,
    };
    let differs = |(keyword, meant): &&(String, String)| {
        !effective.get(keyword).is_some_and(|used| same(keyword, used, meant))
    };
    let mut found = Vec::new();
    for (keyword, _) in
        expected.iter().filter(|(keyword, _)| CHECKED_KEYWORDS.contains(&keyword.as_str())).filter(differs)
    {
        found.push(Overridden {
            alias: alias.to_owned(),
            keyword: keyword.clone(),
            instead: effective.get(keyword).cloned().unwrap_or_default(),
            by: first_line_with(keyword, alias, file)?,
        });
    }
    Ok(Some(found))
}

/// What stands in our own sections: the keywords and values of each `Host`, with the names it goes by. What stands
/// under a `Match` depends on more than a name.
pub(crate) fn sections(text: &str) -> Vec<(Vec<String>, Expected)> {
    let mut sections: Vec<(Vec<String>, Expected)> = Vec::new();
    let mut in_host = false;
    for line in text.lines() {
        match directive(line) {
            Some((keyword, value)) if keyword == "host" => {
                sections.push((value.split_whitespace().map(Into::into).collect(), Vec::new()));
                in_host = true;
            }
            Some((keyword, _)) if keyword == "match" => in_host = false,
            Some((keyword, value)) => {
                if let (true, Some((_, values))) = (in_host, sections.last_mut()) {
                    values.push((keyword, unquoted(&value)));
                }
            }
            None => {}
        }
    }
    sections
}

/// The port that ssh connects to where it is told no other.
const SSH_PORT: u16 = 22;

/// What the ssh configuration has for a machine.
#[derive(Clone, Debug, Default)]
pub(crate) struct Section {
    /// What ssh calls it.
    pub(crate) alias: String,
    /// The resource ID or the name that its ProxyCommand has.
    pub(crate) target: String,
    /// Its `Port`: ssh's own where it has none.
    pub(crate) port: u16,
    /// The name that its host key is kept under.
    pub(crate) key_name: String,
    /// Its ProxyCommand.
    command: String,
}

impl Section {
    /// What its ProxyCommand hands to arcssh, from the name of the command on.
    pub(crate) fn arguments(&self) -> impl Iterator<Item = String> {
        let port = self.port.to_string();
        let arguments = words(&self.command).skip_while(|word| *word != "proxy");
        arguments.map(move |word| word.replace("%p", &port))
    }

    /// The section with the port that ssh connects to: any line of the configuration may name it. ssh is asked as it is
    /// typed, and with `file` where it does not find the section by itself.
    ///
    /// # Errors
    /// ssh cannot be run.
    pub(crate) fn used(self, typed: Option<&Path>, file: &Path) -> Result<Self> {
        for file in [typed, Some(file)] {
            let Some(output) = ssh(&["-G"], &self.alias, file)? else { break };
            let values = effective(&output.stdout);
            if values.get("proxycommand") == Some(&self.command) {
                let port = values.get("port").and_then(|port| port.parse().ok());
                return Ok(Self { port: port.unwrap_or(self.port), ..self });
            }
        }
        Ok(self)
    }
}

/// The section that leads to a machine by arcssh: by what it is called, or by the resource ID in its ProxyCommand.
pub(crate) fn find_entry(machine: &str, text: &str) -> Option<Section> {
    let value = |values: &Expected, wanted: &str| {
        values.iter().find(|(keyword, _)| keyword == wanted).map(|(_, value)| value.clone())
    };
    let is_path = machine.starts_with('/');
    let is_called = |pattern: &String| match pattern.strip_prefix('*') {
        Some(end) => !end.is_empty() && !is_path && machine.ends_with(end),
        None => pattern.eq_ignore_ascii_case(machine),
    };
    let leads = |(patterns, values): &(Vec<String>, Expected)| {
        let command = value(values, "proxycommand").unwrap_or_default();
        let is_reached = is_path && words(&command).any(|word| word.eq_ignore_ascii_case(machine));
        command.contains("arcssh") && (is_reached || patterns.iter().any(is_called))
    };
    let (patterns, values) = sections(text).into_iter().find(leads)?;
    let alias = patterns.into_iter().find(|pattern| !pattern.contains(['*', '?']));
    let alias = alias.or((!is_path).then(|| machine.to_owned()))?;
    let command = value(&values, "proxycommand").unwrap_or_default();
    let id = words(&command).find(|word| word.starts_with("/subscriptions/"));
    let suffix = words(&command).skip_while(|word| *word != "--suffix").nth(1).unwrap_or_default();
    let target = id.unwrap_or(alias.strip_suffix(suffix).unwrap_or(&alias)).to_owned();
    let port = value(&values, "port").and_then(|port| port.parse().ok()).unwrap_or(SSH_PORT);
    let key_name = value(&values, "hostkeyalias").unwrap_or(alias.clone());
    Some(Section { alias, target, port, key_name, command })
}

/// The words of a ProxyCommand.
fn words(command: &str) -> impl Iterator<Item = &str> {
    command.split_whitespace().map(|word| word.trim_matches('"'))
}

fn ssh(options: &[&str], alias: &str, file: Option<&Path>) -> Result<Option<Output>> {
    let mut ssh = Command::new("ssh");
    ssh.args(options).args(file.map(|_| "-F")).args(file).arg("--").arg(alias).stdin(Stdio::null());
    match ssh.output() {
        Ok(output) => Ok(Some(output)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).context("cannot run ssh"),
    }
}

/// `ssh -G` prints a keyword in lower case and its value on each line; the first of several counts.
fn effective(stdout: &[u8]) -> BTreeMap<String, String> {
    let text = String::from_utf8_lossy(stdout);
    let mut values = BTreeMap::new();
    for (keyword, value) in text.lines().filter_map(|line| line.split_once(' ')) {
        values.entry(keyword.to_owned()).or_insert_with(|| value.to_owned());
    }
    values
}

/// The line that gave ssh the value: the first with the keyword in a section that applies.
fn first_line_with(keyword: &str, alias: &str, file: &Path) -> Result<Option<(PathBuf, usize)>> {
    let Some(output) = ssh(&["-vvv", "-G"], alias, Some(file))? else { return Ok(None) };
    let mut trace = Trace::of(&output.stderr);
    Ok(trace.first_line_with(keyword, file, Reading { applies: true, parse_only: false, depth: 0 }))
}

/// How deep files can include each other (readconf.c, `READCONF_MAX_DEPTH`).
const DEPTH: usize = 16;

/// How a file is read.
#[derive(Clone, Copy)]
struct Reading {
    /// Whether its lines before its first section apply.
    applies: bool,
    /// Whether it is read for its syntax alone: an Include in a section that does not apply.
    parse_only: bool,
    /// How many files include it.
    depth: usize,
}

/// What ssh tells with `-vvv` while it reads (readconf.c): each Host section that applies and each file that an Include
/// stands for by file and line, the outcome of each Match in the order of reading.
#[derive(Default)]
struct Trace {
    hosts: Vec<String>,
    included: Vec<(String, PathBuf, bool)>,
    matches: VecDeque<bool>,
}

impl Trace {
    fn of(stderr: &[u8]) -> Self {
        let mut trace = Self::default();
        for line in String::from_utf8_lossy(stderr).lines().map(unescaped) {
            let Some((_level, line)) = line.trim_end().split_once(": ") else { continue };
            if let Some((place, _)) = line.split_once(": Applying options for ") {
                trace.hosts.push(place.to_owned());
            } else if let Some((place, rest)) = line.split_once(": Including file ") {
                let (file, how) = rest.rsplit_once(" depth ").unwrap_or((rest, ""));
                trace.included.push((place.to_owned(), file.into(), how.ends_with("(parse only)")));
            } else if let Some(outcome) = line.strip_prefix("match ") {
                trace.matches.push_back(outcome == "found");
            }
        }
        trace
    }

    fn first_line_with(&mut self, keyword: &str, file: &Path, how: Reading) -> Option<(PathBuf, usize)> {
        let text = String::from_utf8_lossy(&files::read(file, files::MAX_TEXT).ok()?).into_owned();
        let mut applies = how.applies;
        for (number, line) in (1..).zip(text.lines()) {
            let Some((word, _)) = directive(line) else { continue };
            match word.as_str() {
                "host" => applies = self.hosts.contains(&place(file, number)),
                "match" => applies = self.matches.pop_front().unwrap_or(false),
                "include" if how.depth < DEPTH => {
                    let found = self.in_included(keyword, &place(file, number), applies, how.depth + 1);
                    if found.is_some() && !how.parse_only {
                        return found;
                    }
                }
                word if conflicts_with(word, keyword) && applies && !how.parse_only => {
                    return Some((file.to_owned(), number));
                }
                _ => {}
            }
        }
        None
    }

    fn in_included(
        &mut self,
        keyword: &str,
        place: &str,
        applies: bool,
        depth: usize,
    ) -> Option<(PathBuf, usize)> {
        let here = |(at, file, parse_only): &(String, PathBuf, bool)| {
            (at == place).then(|| (file.clone(), Reading { applies, parse_only: *parse_only, depth }))
        };
        let files: Vec<(PathBuf, Reading)> = self.included.iter().filter_map(here).collect();
        files.into_iter().find_map(|(file, how)| self.first_line_with(keyword, &file, how))
    }
}

/// Whether a line with `word` settles `keyword`: ProxyJump and ProxyCommand keep each other out.
fn conflicts_with(word: &str, keyword: &str) -> bool {
    word == keyword || (keyword == "proxycommand" && word == "proxyjump")
}

/// How ssh names a line; of a file's name it tells 200 bytes.
fn place(file: &Path, line: usize) -> String {
    let name = file.to_string_lossy();
    let end = (0..=200.min(name.len())).rev().find(|end| name.is_char_boundary(*end)).unwrap_or_default();
    format!("{} line {line}", &name[..end])
}

/// A line that ssh logs: there a byte beyond ASCII is `\ooo`, and a backslash is two (log.c, `LOG_STDERR_VIS`).
fn unescaped(line: &str) -> String {
    let (mut bytes, mut rest) = (Vec::new(), line.as_bytes());
    while let [first, after @ ..] = rest {
        let octal = after.first_chunk::<3>().and_then(|digits| std::str::from_utf8(digits).ok());
        let octal = octal.and_then(|digits| u8::from_str_radix(digits, 8).ok());
        let (byte, length) = match (first, octal, after.first()) {
            (b'\\', Some(byte), _) => (byte, 4),
            (b'\\', None, Some(b'\\')) => (b'\\', 2),
            _ => (*first, 1),
        };
        bytes.push(byte);
        rest = &rest[length..];
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Keyword in lower case and value of a line of ssh_config(5): separated by white space or one `=`.
pub(crate) fn directive(line: &str) -> Option<(String, String)> {
    let line = line.trim().trim_start_matches('\u{feff}');
    if line.is_empty() || line.starts_with('#') {
        return None;
    }
    let (keyword, value) = line.split_once(|c: char| c.is_whitespace() || c == '=').unwrap_or((line, ""));
    let value = value.trim_start_matches(|c: char| c.is_whitespace() || c == '=').trim_end();
    Some((keyword.trim_matches('"').to_lowercase(), value.to_owned()))
}

/// A value in quotes is printed by `ssh -G` without them, but for a command, which is the rest of its line.
fn unquoted(value: &str) -> String {
    match value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        Some(inner) if !inner.contains('"') => inner.to_owned(),
        _ => value.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "Host plain\n  ProxyCommand none\nHost web01 WEB01\n  Port 2222\n  HostKeyAlias 23c501dd\n  \
        ProxyCommand /usr/bin/arcssh proxy /subscriptions/s/machines/Web01 --port %p\n\
        Host *.arc\n  ProxyCommand arcssh proxy --host %n --suffix .arc --port %p\nHost *\n";

    #[test]
    fn a_section_is_found_by_what_it_is_called_and_by_its_id() {
        for machine in ["web01", "Web01", "/subscriptions/S/machines/web01"] {
            let section = find_entry(machine, TEXT).unwrap();
            assert_eq!((section.alias.as_str(), section.port), ("web01", 2222));
            assert_eq!(section.key_name, "23c501dd");
            assert_eq!(section.target, "/subscriptions/s/machines/Web01");
        }
        let section = find_entry("web02.arc", TEXT).unwrap();
        assert_eq!((section.alias.as_str(), section.target.as_str()), ("web02.arc", "web02"));
        assert!(find_entry("/subscriptions/s/machines/w.arc", TEXT).is_none());
        assert!(find_entry("plain", TEXT).is_none() && find_entry("web02", TEXT).is_none());
        for part in ["/subscriptions/s/machines/web0", "web0", "proxy", "--port"] {
            assert!(find_entry(part, TEXT).is_none(), "{part}");
        }
    }
}
