//! The configuration that ssh uses for a host (`ssh -G`), and the line that overrides a value of a host entry. ssh uses the
//! first value that it reads.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ffi::OsString;
use std::fmt;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::Context as _;

use crate::ssh::{SshError, client};
use crate::system::children::{self, Running};
use crate::system::files;

/// The location of an option, or of the use of a name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Location {
    pub(crate) file: PathBuf,
    /// Counted from 1; 0 for the whole file.
    pub(crate) line: usize,
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}", self.file.display()),
            line => write!(f, "{} line {line}", self.file.display()),
        }
    }
}

/// A value of a host entry that ssh does not use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Overridden {
    /// The alias of the host entry.
    pub(crate) alias: String,
    /// The keyword in lower case, as ssh prints it.
    pub(crate) keyword: String,
    /// The value that ssh uses.
    pub(crate) instead: String,
    /// The location of that value, if arcssh finds it.
    pub(crate) by: Option<Location>,
}

impl fmt::Display for Overridden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { alias, keyword, instead, by } = self;
        let location = by.as_ref().map_or("another line".into(), Location::to_string);
        write!(f, "ssh does not use the {keyword} written for {alias}: {location} says {instead:?}")
    }
}

/// The values of a host entry, by keyword in lower case.
pub(crate) type Expected = Vec<(String, String)>;

/// The first value of a keyword in a host entry.
pub(crate) fn value<'a>(values: &'a Expected, keyword: &str) -> Option<&'a str> {
    values.iter().find(|(name, _)| name == keyword).map(|(_, value)| value.as_str())
}

/// An alias with the values of its host entry.
#[derive(Clone, Copy)]
pub(crate) struct Alias<'a> {
    pub(crate) name: &'a str,
    pub(crate) expected: &'a Expected,
}

/// The keywords whose values ssh must use.
const CHECKED_KEYWORDS: [&str; 7] =
    ["proxycommand", "user", "port", "hostkeyalias", "identityagent", "identitiesonly", "forwardagent"];

/// The configuration files that a run of ssh reads.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    /// The file for `-F`.
    pub(crate) option: Option<PathBuf>,
    /// The files in the order of reading, without those that they include.
    pub(crate) files: Vec<PathBuf>,
}

impl Source {
    /// Only this file.
    pub(crate) fn file(file: &Path) -> Self {
        Self { option: Some(file.to_owned()), files: vec![file.to_owned()] }
    }

    /// Starts `ssh -G`; returns `None` if ssh is not installed.
    pub(crate) fn start(&self, alias: &str) -> Result<Option<Run>, SshError> {
        start(&["-G"], alias, self.option.as_deref())
    }

    /// The trace of `ssh -vvv -G`, which is incomplete if ssh rejects the configuration; `None` if ssh is not installed.
    pub(crate) fn trace(&self, alias: &str) -> Result<Option<Trace>, SshError> {
        let output = ssh(&["-vvv", "-G"], alias, self.option.as_deref())?;
        Ok(output.map(|output| Trace::of(&output.stderr)))
    }

    /// The line that gave ssh the value: the first one with the keyword in a section that applies.
    pub(crate) fn first_line_with(&self, keyword: &str, alias: &str) -> Result<Option<Location>, SshError> {
        let Some(mut trace) = self.trace(alias)? else { return Ok(None) };
        let reading = Reading { applies: true, parse_only: false, depth: 0 };
        Ok(self.files.iter().find_map(|file| trace.first_line_with(keyword, file, reading)))
    }
}

/// The values of an alias that ssh does not use, according to its output for a configuration.
pub(crate) fn overridden(
    alias: Alias<'_>,
    output: &Output,
    source: &Source,
) -> Result<Vec<Overridden>, SshError> {
    let Alias { name: alias, expected } = alias;
    let effective = parse(&output.stdout);
    let is_same = |keyword: &str, used: &str, expected: &str| match keyword {
        // ssh prints HostKeyAlias in lower case.
        "hostkeyalias" => used.eq_ignore_ascii_case(expected),
        // ssh prints the name of this file with its tokens expanded.
        "identityagent" => used == expected || used == expected.replace("%%", "%"),
        _ => used == expected,
    };
    let mut found = Vec::new();
    for (keyword, value) in expected {
        let is_used = effective.get(keyword).is_some_and(|used| is_same(keyword, used, value));
        if is_used || !CHECKED_KEYWORDS.contains(&keyword.as_str()) {
            continue;
        }
        found.push(Overridden {
            alias: alias.to_owned(),
            keyword: keyword.clone(),
            instead: effective.get(keyword).cloned().unwrap_or_default(),
            by: source.first_line_with(keyword, alias)?,
        });
    }
    Ok(found)
}

/// Finds ssh's message that the user database has no entry for this user (ssh.c, `main`).
///
/// # Errors
/// [`SshError::NoUser`].
pub(crate) fn no_user(stderr: &[u8]) -> Result<(), SshError> {
    let text = String::from_utf8_lossy(stderr);
    let id = text.lines().find_map(|line| line.trim().strip_prefix("No user exists for uid "));
    id.map_or(Ok(()), |id| Err(SshError::NoUser(id.to_owned())))
}

/// The patterns of each host entry, with its keywords and values. Leaves out the lines below a `Match`, which do not
/// depend on a host name alone.
pub(crate) fn host_entries(text: &str) -> Vec<(Vec<String>, Expected)> {
    let mut host_entries: Vec<(Vec<String>, Expected)> = Vec::new();
    let mut in_host = false;
    for line in text.lines() {
        match directive(line) {
            Some((keyword, value)) if keyword == "host" => {
                host_entries.push((value.split_whitespace().map(Into::into).collect(), Vec::new()));
                in_host = true;
            }
            Some((keyword, _)) if keyword == "match" => in_host = false,
            Some((keyword, value)) => {
                if let Some((_, values)) = host_entries.last_mut().filter(|_| in_host) {
                    values.push((keyword, unquoted(&value)));
                }
            }
            None => {}
        }
    }
    host_entries
}

/// The values that ssh uses for `alias` when it reads `file`, or its default files; `None` if no ssh is installed.
///
/// # Errors
/// ssh cannot be started.
pub(crate) fn values(alias: &str, file: Option<&Path>) -> Result<Option<BTreeMap<String, String>>, SshError> {
    Ok(ssh(&["-G"], alias, file)?.map(|output| parse(&output.stdout)))
}

pub(crate) fn ssh(options: &[&str], alias: &str, file: Option<&Path>) -> Result<Option<Output>, SshError> {
    finish(start(options, alias, file)?)
}

/// A run of ssh.
pub(crate) struct Run {
    program: Running,
    arguments: Vec<OsString>,
}

/// Starts ssh; returns `None` if it is not installed.
pub(crate) fn start(options: &[&str], alias: &str, file: Option<&Path>) -> Result<Option<Run>, SshError> {
    let mut arguments: Vec<OsString> = options.iter().map(Into::into).collect();
    arguments.extend(file.into_iter().flat_map(|file| [OsString::from("-F"), file.into()]));
    arguments.extend(["--".into(), alias.into()]);
    match children::spawn(&mut command(&[], &arguments)?) {
        Ok(program) => Ok(Some(Run { program, arguments })),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).context("cannot run ssh")?,
    }
}

fn command(first: &[&str], arguments: &[OsString]) -> Result<Command, SshError> {
    let mut ssh = Command::new(client::ssh()?);
    ssh.args(first).args(arguments);
    ssh.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    Ok(ssh)
}

/// Waits for the end of a run. With `ForkAfterAuthentication`, which versions before 8.7 do not know, ssh also wants a command
/// if it only prints the configuration (ssh.c, `main`).
pub(crate) fn finish(ssh: Option<Run>) -> Result<Option<Output>, SshError> {
    let Some(Run { program, arguments }) = ssh else { return Ok(None) };
    let mut output = program.output().context("cannot run ssh")?;
    if !output.status.success()
        && String::from_utf8_lossy(&output.stderr).contains("Cannot fork into background without a command")
    {
        let mut again = command(&["-o", "ForkAfterAuthentication=no"], &arguments)?;
        output = children::spawn(&mut again).and_then(Running::output).context("cannot run ssh")?;
    }
    Ok(Some(output))
}

/// Parses the output of `ssh -G`: a keyword in lower case and its value on each line. The first of several counts.
pub(crate) fn parse(stdout: &[u8]) -> BTreeMap<String, String> {
    let text = String::from_utf8_lossy(stdout);
    let mut values = BTreeMap::new();
    for (keyword, value) in text.lines().filter_map(|line| line.split_once(' ')) {
        values.entry(keyword.to_owned()).or_insert_with(|| value.to_owned());
    }
    values
}

/// The most levels of included files (readconf.c, `READCONF_MAX_DEPTH`).
pub(crate) const MAX_DEPTH: usize = 16;

/// The most bytes of a file. 5,000 machines need 4 MiB.
pub(crate) const MAX_FILE: u64 = 64 << 20;

/// The text of a file; `None` if it cannot be read.
pub(crate) fn text(file: &Path) -> Option<String> {
    files::read(file, MAX_FILE).ok().map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

/// How ssh reads a file.
#[derive(Clone, Copy)]
struct Reading {
    /// Whether the lines before its first section apply.
    applies: bool,
    /// Whether ssh only checks its syntax, since its `Include` is in a section that does not apply.
    parse_only: bool,
    /// The number of nested `Include` lines above it.
    depth: usize,
}

/// The messages of `ssh -vvv` about a configuration (readconf.c): the location of each `Host` that applies, the files of
/// each `Include` with its location, and the result of each `Match` in the order of reading.
#[derive(Default)]
pub(crate) struct Trace {
    hosts: Vec<String>,
    included: Vec<(String, PathBuf, bool)>,
    matches: VecDeque<bool>,
}

impl Trace {
    pub(crate) fn of(stderr: &[u8]) -> Self {
        let mut trace = Self::default();
        for line in String::from_utf8_lossy(stderr).lines().map(unescaped) {
            let Some((_level, line)) = line.trim_end().split_once(": ") else { continue };
            if let Some((location, _)) = line.split_once(": Applying options for ") {
                trace.hosts.push(location.to_owned());
            } else if let Some((location, rest)) = line.split_once(": Including file ") {
                let (file, details) = rest.rsplit_once(" depth ").unwrap_or((rest, ""));
                let found = (location.to_owned(), file.into(), details.ends_with("(parse only)"));
                // ssh logs a line again for each Include of its file.
                if !trace.included.contains(&found) {
                    trace.included.push(found);
                }
            } else if let Some(outcome) = line.strip_prefix("match ") {
                trace.matches.push_back(outcome == "found");
            }
        }
        trace
    }

    /// The files that a line includes, also if their section does not apply.
    pub(crate) fn files(&self, file: &Path, line: usize) -> BTreeSet<&Path> {
        let location = location(file, line);
        self.included.iter().filter(|(at, ..)| *at == location).map(|(_, file, _)| file.as_path()).collect()
    }

    /// All included files, also if their sections do not apply.
    pub(crate) fn all_files(&self) -> impl Iterator<Item = &Path> {
        self.included.iter().map(|(_, file, _)| file.as_path())
    }

    /// Returns whether a section that applies includes the file. If it does not, returns the location of another `Include`
    /// of the file.
    pub(crate) fn inclusion(&self, file: &Path) -> Result<(), Option<&str>> {
        let is_it = |(_, included, _): &&(String, PathBuf, bool)| is_same(included, file);
        let mut found = self.included.iter().filter(is_it).peekable();
        let first = found.peek().map(|(location, ..)| location.as_str());
        if found.any(|(.., parse_only)| !parse_only) { Ok(()) } else { Err(first) }
    }

    fn first_line_with(&mut self, keyword: &str, file: &Path, reading: Reading) -> Option<Location> {
        let text = text(file)?;
        let mut applies = reading.applies;
        for (number, line) in (1..).zip(text.lines()) {
            let Some((word, _)) = directive(line) else { continue };
            match word.as_str() {
                "host" => applies = self.hosts.contains(&location(file, number)),
                "match" => applies = self.matches.pop_front().unwrap_or(false),
                "include" if reading.depth < MAX_DEPTH => {
                    let found =
                        self.in_included(keyword, &location(file, number), applies, reading.depth + 1);
                    if found.is_some() && !reading.parse_only {
                        return found;
                    }
                }
                word if conflicts_with(word, keyword) && applies && !reading.parse_only => {
                    return Some(Location { file: file.to_owned(), line: number });
                }
                _ => {}
            }
        }
        None
    }

    fn in_included(
        &mut self,
        keyword: &str,
        location: &str,
        applies: bool,
        depth: usize,
    ) -> Option<Location> {
        let at_location = |(at, file, parse_only): &(String, PathBuf, bool)| {
            (at == location).then(|| (file.clone(), Reading { applies, parse_only: *parse_only, depth }))
        };
        let files: Vec<(PathBuf, Reading)> = self.included.iter().filter_map(at_location).collect();
        files.into_iter().find_map(|(file, reading)| self.first_line_with(keyword, &file, reading))
    }
}

/// Returns whether a line with `word` sets `keyword`: ProxyJump overrides a later ProxyCommand, and some keywords have an old
/// name (readconf.c, `keywords`).
pub(crate) fn conflicts_with(word: &str, keyword: &str) -> bool {
    let other = match keyword {
        "proxycommand" => "proxyjump",
        "pubkeyacceptedalgorithms" => "pubkeyacceptedkeytypes",
        "pubkeyacceptedkeytypes" => "pubkeyacceptedalgorithms",
        "pubkeyauthentication" => "dsaauthentication",
        _ => keyword,
    };
    word == keyword || word == other
}

/// A line in the form in which ssh logs it, with the first 200 bytes of the file's name.
fn location(file: &Path, line: usize) -> String {
    format!("{} line {line}", shown(file))
}

/// The first 200 bytes of a file's name, which ssh's messages contain.
pub(crate) fn shown(file: &Path) -> String {
    let name = file.to_string_lossy();
    let end = (0..=200.min(name.len())).rev().find(|end| name.is_char_boundary(*end)).unwrap_or_default();
    name[..end].to_owned()
}

/// A line of ssh's log without escapes: ssh writes a byte beyond ASCII as `\ooo`, and a backslash twice (log.c,
/// `LOG_STDERR_VIS`).
pub(crate) fn unescaped(line: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = line.as_bytes();
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

/// Returns whether two paths are of one file.
pub(crate) fn is_same(one: &Path, other: &Path) -> bool {
    one == other || one.canonicalize().is_ok_and(|one| other.canonicalize().is_ok_and(|other| one == other))
}

/// The keyword in lower case and the value of a line of ssh_config(5), separated by white space or one `=`.
pub(crate) fn directive(line: &str) -> Option<(String, String)> {
    let line = line.trim().trim_start_matches('\u{feff}');
    if line.is_empty() || line.starts_with('#') {
        return None;
    }
    let (keyword, value) = line.split_once(|c: char| c.is_whitespace() || c == '=').unwrap_or((line, ""));
    let value = value.trim_start_matches(|c: char| c.is_whitespace() || c == '=').trim_end();
    Some((keyword.trim_matches('"').to_lowercase(), value.to_owned()))
}

/// The value without quotes, as `ssh -G` prints it. A command, which is the rest of its line, keeps them.
fn unquoted(value: &str) -> String {
    match value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        Some(inner) if !inner.contains('"') => inner.to_owned(),
        _ => value.to_owned(),
    }
}
