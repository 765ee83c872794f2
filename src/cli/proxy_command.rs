//! The `ProxyCommand` of a host entry that `arcssh config` writes, and the host entries that have one.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::{CommandFactory as _, ValueEnum};

use crate::azure::cloud::CloudName;
use crate::azure::credentials::CredentialOptions;
use crate::azure::resource_id::ResourceId;
use crate::cli::{Cli, Command, ProxyArgs};
use crate::ssh::effective_config::{self, Expected, is_same, value};
use crate::ssh::host_entry::escape_percent;
use crate::ssh::patterns::{is_alias_of, is_wildcard};
use crate::text::strip_suffix;

/// ssh's token for the port, and that for the host name (ssh_config(5), TOKENS). OpenSSH 8.0, paramiko, libssh and net-ssh do
/// not know `%n`, the name as typed, in a ProxyCommand.
const PORT: &str = "%p";
const HOST: &str = "%h";

/// A command line of `arcssh proxy`, with its values as arcssh receives them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ProxyCommand {
    /// The program; with any words before it if another program wrote the line.
    pub(crate) program: String,
    pub(crate) machine: ProxyMachine,
    /// The port, or [`PORT`].
    pub(crate) port: String,
    /// All other options.
    pub(crate) options: Vec<String>,
}

/// The machine of a [`ProxyCommand`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ProxyMachine {
    /// By its resource ID.
    Id(ResourceId),
    /// By the name that the user types, which ends in this suffix.
    Name {
        /// Such as `.arc`.
        suffix: String,
    },
}

impl ProxyCommand {
    /// The command for a machine, with ssh's port.
    pub(crate) fn new(program: &str, machine: ProxyMachine, options: Vec<String>) -> Self {
        Self { program: program.to_owned(), machine, port: PORT.to_owned(), options }
    }

    /// The words of the line, with ssh's tokens.
    pub(crate) fn words(&self) -> Vec<String> {
        self.words_with(escape_percent)
    }

    /// The words with each value but the tokens in the form that `escape` returns.
    fn words_with(&self, escape: impl Fn(&str) -> String) -> Vec<String> {
        let mut words = vec![escape(&self.program), "proxy".into()];
        match &self.machine {
            ProxyMachine::Id(id) => words.push(escape(&id.to_string())),
            ProxyMachine::Name { suffix } => {
                words.extend(["--host", HOST, "--suffix", &escape(suffix)].map(Into::into));
            }
        }
        words.extend(["--port".into(), self.port.clone()]);
        words.extend(self.options.iter().map(|option| escape(option)));
        words
    }

    /// Parses a line, also one that a user wrote by hand.
    pub(crate) fn parse(line: &str) -> Self {
        let words = split(line);
        let at = words.iter().position(|word| word == "proxy").unwrap_or_default();
        let mut command =
            Self::new(&words[..at].join(" "), ProxyMachine::Name { suffix: String::new() }, Vec::new());
        let mut rest = words.into_iter().skip(at + 1);
        while let Some(word) = rest.next() {
            match word.as_str() {
                "--port" | "-p" => command.port = rest.next().unwrap_or_default(),
                "--host" => drop(rest.next()),
                "--suffix" => {
                    command.machine = ProxyMachine::Name { suffix: rest.next().unwrap_or_default() }
                }
                id => match id.parse() {
                    Ok(id) => command.machine = ProxyMachine::Id(id),
                    Err(_) => command.options.push(word),
                },
            }
        }
        command
    }

    /// Sets an option with a value.
    pub(crate) fn set(&mut self, option: &str, value: String) {
        if let Some(at) = self.options.iter().position(|word| word == option) {
            self.options.drain(at..self.options.len().min(at + 2));
        }
        self.options.extend([option.to_owned(), value]);
    }

    /// The resource ID of the machine, if the line has one.
    pub(crate) fn resource_id(&self) -> Option<&ResourceId> {
        match &self.machine {
            ProxyMachine::Id(id) => Some(id),
            ProxyMachine::Name { .. } => None,
        }
    }
}

/// Returns the options for the credential and the cloud, if they are not the defaults.
pub(crate) fn azure_options(credential: &CredentialOptions, cloud: CloudName) -> Vec<String> {
    let source = Some(credential.source).filter(|source| !source.is_any());
    let cloud = Some(cloud).filter(|cloud| *cloud != CloudName::Public);
    let options = [
        ("--credential", source.and_then(name_of)),
        ("--tenant", credential.tenant.clone()),
        ("--cloud", cloud.and_then(name_of)),
    ];
    let options = options.into_iter().filter_map(|(option, value)| Some([option.to_owned(), value?]));
    options.flatten().collect()
}

/// The value as typed on the command line.
fn name_of(value: impl ValueEnum) -> Option<String> {
    value.to_possible_value().map(|value| value.get_name().to_owned())
}

/// The path by which ssh starts arcssh: the absolute path by which the user started it. Unlike the path of the file itself,
/// the link of a package manager remains valid after an update.
///
/// # Errors
/// The system does not provide the path, or it is not valid Unicode.
pub(crate) fn program() -> Result<String> {
    let file = std::env::current_exe().context("the system does not provide the path of this program")?;
    let typed = PathBuf::from(std::env::args_os().next().unwrap_or_default());
    let found = which::which(typed).ok();
    let program = found.filter(|found| found.is_absolute() && is_same(found, &file)).unwrap_or(file);
    let text = program.to_str().with_context(|| format!("{} is not valid Unicode", program.display()))?;
    Ok(without_spaces(text))
}

/// The short name of a path with spaces: OpenSSH 7.7 of Windows cannot start a program in quotes (gravitational/teleport
/// issue 16181).
#[cfg(windows)]
fn without_spaces(path: &str) -> String {
    use std::os::windows::process::CommandExt;
    let mut cmd = std::process::Command::new("cmd");
    cmd.raw_arg(format!("/C for %I in (\"{path}\") do @echo %~sI"));
    let short = cmd.output().ok().and_then(|output| String::from_utf8(output.stdout).ok());
    let short =
        short.map(|text| text.trim().to_owned()).filter(|text| path.contains(' ') && !text.is_empty());
    short.unwrap_or_else(|| path.to_owned())
}

/// The path itself: other systems start a program in quotes.
#[cfg(not(windows))]
fn without_spaces(path: &str) -> String {
    path.to_owned()
}

/// The words of a command line without quotes and escapes. `--option=value` becomes two words.
pub(super) fn split(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let (mut word, mut is_quoted) = (None, false);
    for c in line.chars() {
        match c {
            '"' => {
                is_quoted = !is_quoted;
                word.get_or_insert_with(String::new);
            }
            c if c.is_whitespace() && !is_quoted => words.extend(word.take()),
            c => word.get_or_insert_with(String::new).push(c),
        }
    }
    words.extend(word);
    let parts = words.iter().flat_map(|word| match word.split_once('=') {
        Some((option, value)) if option.starts_with("--") => vec![option, value],
        _ => vec![word.as_str()],
    });
    parts.map(|part| part.replace(&escape_percent("%"), "%")).collect()
}

/// The name without the suffix. ssh expands `%h` to lower case (ssh.c, `lowercase`), the suffix has the case of the pattern.
pub(crate) fn without_suffix<'a>(name: &'a str, suffix: &str) -> &'a str {
    strip_suffix(name, suffix).unwrap_or(name)
}

/// The port that ssh uses by default.
const SSH_PORT: u16 = 22;

/// A host entry that connects through arcssh.
#[derive(Clone, Debug)]
pub(crate) struct HostEntry {
    /// The name to type for it.
    pub(crate) alias: String,
    /// The resource ID or the name of the machine.
    pub(crate) target: String,
    /// Its `Port`, or the port that ssh uses by default.
    pub(crate) port: u16,
    /// The name under which known hosts have its host key.
    pub(crate) key_name: String,
    /// Its `ProxyCommand`.
    line: String,
}

impl HostEntry {
    /// Its `ProxyCommand`.
    pub(crate) fn proxy_command(&self) -> ProxyCommand {
        ProxyCommand::parse(&self.line)
    }

    /// The arguments of its `arcssh proxy`, with `overrides` after them; `None` if they are not valid.
    pub(crate) fn proxy_args(&self, overrides: &[OsString]) -> Option<ProxyArgs> {
        let mut command = ProxyCommand::parse(&self.line);
        command.port = command.port.replace(PORT, &self.port.to_string());
        let words = command.words_with(str::to_owned).into_iter().map(OsString::from);
        let words = words.chain(overrides.iter().cloned());
        let matches = Cli::command().args_override_self(true).try_get_matches_from(words).ok()?;
        match Cli::of(&matches).ok()?.command {
            Command::Proxy(args) => Some(args),
            _ => None,
        }
    }

    /// The host entry with the port that ssh uses, since any line of the configuration can set it. arcssh asks ssh with the
    /// file that the user typed, if any, and with `file` if ssh does not find the entry that way.
    ///
    /// # Errors
    /// ssh cannot be started.
    pub(crate) fn used(self, typed: Option<&Path>, file: &Path) -> Result<Self> {
        for file in [typed, Some(file)] {
            let Some(values) = effective_config::values(&self.alias, file)? else { break };
            if values.get("proxycommand") == Some(&self.line) {
                let port = values.get("port").and_then(|port| port.parse().ok());
                return Ok(Self { port: port.unwrap_or(self.port), ..self });
            }
        }
        Ok(self)
    }
}

/// Finds the host entry that connects to a machine through arcssh, by an alias, by the machine's resource ID, or by its
/// `GROUP/NAME` if only one machine of the configuration has it.
pub(crate) fn find_entry(machine: &str, text: &str) -> Option<HostEntry> {
    let is_id = machine.starts_with('/');
    let is_alias = |pattern: &String| {
        pattern.eq_ignore_ascii_case(machine) || !is_id && pattern != "*" && is_alias_of(pattern, machine)
    };
    let connects = |(patterns, values): &(Vec<String>, Expected)| {
        let line = value(values, "proxycommand").filter(|line| line.contains("arcssh"));
        let id = |line: &str| ProxyCommand::parse(line).resource_id().map(ToString::to_string);
        let has_id = |line: &str| id(line).is_some_and(|id| id.eq_ignore_ascii_case(machine));
        line.is_some_and(|line| has_id(line) || patterns.iter().any(is_alias))
    };
    if let Some(id) = id_of_grouped_name(machine, text) {
        return find_entry(&id.to_string(), text);
    }
    let (patterns, values) = effective_config::host_entries(text).into_iter().find(connects)?;
    let alias = patterns.into_iter().find(|pattern| !is_wildcard(pattern));
    host_entry(alias.or((!is_id).then(|| machine.to_owned()))?, &values)
}

/// Finds the first host entry of a machine that connects through arcssh and fulfils a condition.
pub(crate) fn first_entry(text: &str, is_found: impl Fn(&HostEntry) -> bool) -> Option<HostEntry> {
    let mut entries = effective_config::host_entries(text).into_iter().filter_map(|(patterns, values)| {
        let connects = value(&values, "proxycommand")?.contains("arcssh");
        let alias = patterns.into_iter().next().filter(|pattern| connects && !is_wildcard(pattern))?;
        host_entry(alias, &values)
    });
    entries.find(is_found)
}

fn host_entry(alias: String, values: &Expected) -> Option<HostEntry> {
    let line = value(values, "proxycommand")?.to_owned();
    let target = match ProxyCommand::parse(&line).machine {
        ProxyMachine::Id(id) => id.to_string(),
        ProxyMachine::Name { suffix } => without_suffix(&alias, &suffix).to_owned(),
    };
    let port = value(values, "port").and_then(|port| port.parse().ok()).unwrap_or(SSH_PORT);
    let key_name = value(values, "hostkeyalias").unwrap_or(&alias).to_owned();
    Some(HostEntry { alias, target, port, key_name, line })
}

fn id_of_grouped_name(name: &str, text: &str) -> Option<ResourceId> {
    if name.starts_with('/') || !name.contains('/') {
        return None;
    }
    let entries = effective_config::host_entries(text);
    let lines = entries.iter().filter_map(|(_, values)| value(values, "proxycommand"));
    let ids = lines.filter_map(|line| ProxyCommand::parse(line).resource_id().cloned());
    let mut ids = ids.filter(|id| id.grouped_name().eq_ignore_ascii_case(name));
    let first = ids.next()?;
    ids.all(|other| other == first).then_some(first)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ssh::host_entry::{Host, Platform};

    const ID: &str = "/subscriptions/s/resourceGroups/g/providers/Microsoft.HybridCompute/machines/Web01";

    fn text() -> String {
        format!(
            "Host plain\n  ProxyCommand none\nHost web01 WEB01\n  Port 2222\n  HostKeyAlias 23c501dd\n  \
            ProxyCommand /usr/bin/arcssh proxy {ID} --port %p\n\
            Host *.arc\n  ProxyCommand arcssh proxy --host %h --suffix .arc --port %p\nHost *\n"
        )
    }

    #[test]
    fn a_host_entry_is_found_by_its_alias_and_by_its_id() {
        for machine in ["web01", "Web01", &ID.to_lowercase()] {
            let entry = find_entry(machine, &text()).unwrap();
            assert_eq!((entry.alias.as_str(), entry.port), ("web01", 2222));
            assert_eq!(entry.key_name, "23c501dd");
            assert_eq!(entry.target, ID);
        }
        let entry = find_entry("web02.arc", &text()).unwrap();
        assert_eq!((entry.alias.as_str(), entry.target.as_str()), ("web02.arc", "web02"));
        assert!(find_entry(&ID.replace("Web01", "w.arc"), &text()).is_none());
        assert!(find_entry("plain", &text()).is_none() && find_entry("web02", &text()).is_none());
        for part in [&ID[..ID.len() - 1], "web0", "proxy", "--port"] {
            assert!(find_entry(part, &text()).is_none(), "{part}");
        }
    }

    #[test]
    fn a_line_is_parsed_as_it_was_written() {
        let id = ID.replace("/g/", "/of_(all)/").parse().unwrap();
        for machine in [ProxyMachine::Id(id), ProxyMachine::Name { suffix: ".arc".into() }] {
            let options = ["--tenant", "contoso.com", "--agent", "/home/a b/100%/x"].map(Into::into);
            let command = ProxyCommand::new("/opt/my programs/arcssh", machine, options.to_vec());
            let host = Host { proxy_command: command.words(), ..Host::default() };
            for platform in [Platform::Unix, Platform::Windows] {
                assert_eq!(ProxyCommand::parse(&host.proxy_command(platform).unwrap()), command);
            }
        }
    }

    #[test]
    fn a_line_that_a_user_wrote_is_parsed() {
        let command = ProxyCommand::parse(&format!("exec /x/arcssh proxy -p 23 --cloud=china \"{ID}\""));
        assert_eq!((command.program.as_str(), command.port.as_str()), ("exec /x/arcssh", "23"));
        assert_eq!(command.resource_id().unwrap().to_string(), ID);
        assert_eq!(command.options, ["--cloud", "china"]);
        assert_eq!(ProxyCommand::parse(&format!("/opt/wrapper {ID}")).resource_id().unwrap().to_string(), ID);
        assert_eq!(ProxyCommand::parse("none").resource_id(), None);
    }

    #[test]
    fn an_entry_with_any_wildcard_is_found_by_a_name_that_matches() {
        let text = "Host web-?.arc\n  ProxyCommand arcssh proxy --host %h --suffix .arc --port %p\n";
        let entry = find_entry("web-1.arc", text).unwrap();
        assert_eq!((entry.alias.as_str(), entry.target.as_str()), ("web-1.arc", "web-1"));
        assert!(find_entry("web-10.arc", text).is_none());
    }

    #[test]
    fn the_arguments_of_a_host_entry_have_its_port_and_the_overrides() {
        let overrides = ["--cloud", "china"].map(OsString::from);
        let args = find_entry("web01", &text()).unwrap().proxy_args(&overrides).unwrap();
        assert_eq!((args.target.port, args.machine.unwrap().to_string()), (Some(2222), ID.to_owned()));
        assert_eq!(args.azure.chosen_cloud(), Some(CloudName::China));
        let args = find_entry("web02.arc", &text()).unwrap().proxy_args(&[]).unwrap();
        assert_eq!((args.target.port, args.suffix.as_str()), (Some(22), ".arc"));
    }
}
