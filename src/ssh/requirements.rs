//! Options of ssh with which a host entry does not work, although ssh uses the values written for it.
//!
//! Options that restrict the server as well, such as `Ciphers`, `KexAlgorithms` or `HostKeyAlgorithms`, are the user's policy.
//! `CASignatureAlgorithms` concerns certificates of hosts only (ssh_config(5)). `ProxyJump` and `ProxyCommand` of another
//! section override the entry; see [`crate::ssh::effective_config`].

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};

use crate::ssh::SshError;
use crate::ssh::effective_config::{self, Alias, Location, Source, conflicts_with, parse};
use crate::ssh::home;
use crate::ssh::host_entry::{CERTIFICATE_ALGORITHMS, is_of_entra};
use crate::ssh::patterns::matches;
use crate::ssh::rsa_key;

/// An option with which a host entry does not work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Conflict {
    /// The alias of the host entry.
    pub(crate) alias: String,
    /// The keyword in lower case, as ssh prints it.
    pub(crate) keyword: &'static str,
    /// The value that ssh uses.
    pub(crate) value: String,
    /// The location of that value, if arcssh finds it.
    pub(crate) by: Option<Location>,
    /// Whether the host entry itself has the value.
    pub(crate) is_own: bool,
    pub(crate) fix: Fix,
}

/// How the user resolves a [`Conflict`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fix {
    /// The host entry has the right value, but ssh reads the other section first.
    Move,
    /// The host entry has no such line: an earlier version, or a user's template, wrote it.
    Write { keyword: &'static str, value: &'static str },
    /// The line must have another value.
    Change(&'static str),
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { alias, keyword, value, by, is_own, .. } = self;
        let other = if *is_own { "it" } else { "another line" };
        let location = by.as_ref().map_or(other.into(), Location::to_string);
        write!(f, "the host entry {alias} does not work: {location} sets {keyword} to {value:?}")
    }
}

/// The keywords of conflicts that a section below the managed block can cause.
pub(crate) const KEYWORDS: [&str; 17] = [
    "proxyusefdpass",
    "hostname",
    "controlpath",
    "pubkeyauthentication",
    "dsaauthentication",
    "pubkeyacceptedalgorithms",
    "pubkeyacceptedkeytypes",
    "preferredauthentications",
    "requiredrsasize",
    "rsaminsize",
    "controlmaster",
    "revokedhostkeys",
    "identityfile",
    "certificatefile",
    "knownhostscommand",
    "localcommand",
    "permitlocalcommand",
];

/// The tokens of all keywords that name a file (ssh_config(5), TOKENS).
const FILE_TOKENS: &str = "%CdhijkLlnpru";
/// The tokens of the commands that ssh runs itself.
const COMMAND_TOKENS: &str = "%CdfHhIijKkLlnprTtu";

/// Checks the options of an alias in the output of `ssh -G`. `source` is the configuration that ssh read.
///
/// # Errors
/// [`SshError::Conflict`].
pub(crate) fn check(alias: Alias<'_>, stdout: &[u8], source: &Source) -> Result<(), SshError> {
    let effective = parse(stdout);
    let is_own = |keyword: &str, value: &str| {
        alias.expected.iter().any(|(written, own)| written == keyword && own == value)
    };
    let Some((keyword, fix)) = conflict(alias, &effective) else {
        let Some((keyword, value, fix)) = unusable(stdout, &effective)? else { return Ok(()) };
        let alias_name = alias.name.to_owned();
        // ssh uses all values of a keyword such as IdentityFile, so the first line may have another one.
        let is_first = effective.get(keyword) == Some(&value);
        let by = if is_first { source.first_line_with(keyword, alias.name)? } else { None };
        let is_own = is_own(keyword, &value);
        let conflict = Conflict { alias: alias_name, keyword, value, by, is_own, fix };
        return Err(SshError::Conflict(Box::new(conflict)));
    };
    // The entry's own value may be wrong, if a template sets it.
    let written = alias.expected.iter().find(|(written, _)| conflicts_with(written, keyword));
    let as_written = written.map(|(_, value)| {
        let value = (keyword.to_owned(), value.clone());
        conflict(alias, &effective.clone().into_iter().chain([value]).collect())
    });
    let is_right = as_written.is_some_and(|found| found.is_none_or(|(other, _)| other != keyword));
    let fix = if is_right { Fix::Move } else { fix };
    let value = effective.get(keyword).cloned().unwrap_or_default();
    Err(SshError::Conflict(Box::new(Conflict {
        alias: alias.name.to_owned(),
        keyword,
        is_own: is_own(keyword, &value),
        value,
        by: source.first_line_with(keyword, alias.name)?,
        fix,
    })))
}

fn conflict(alias: Alias<'_>, effective: &BTreeMap<String, String>) -> Option<(&'static str, Fix)> {
    let value = |keyword: &str| effective.get(keyword).map(String::as_str);
    let written = |keyword: &str| effective_config::value(alias.expected, keyword).unwrap_or_default();
    // ssh then expects an open socket from the ProxyCommand, not a connection.
    if value("proxyusefdpass") == Some("yes") {
        return Some(("proxyusefdpass", Fix::Write { keyword: "ProxyUseFdpass", value: "no" }));
    }
    let is_by_name = written("proxycommand").contains(" --host %h ");
    if is_by_name && value("hostname").is_some_and(|name| !name.eq_ignore_ascii_case(alias.name)) {
        return Some(("hostname", Fix::Write { keyword: "HostName", value: "%h" }));
    }
    if let Some(problem) = value("controlpath").and_then(|path| control_path_problem(path, effective)) {
        return Some(("controlpath", Fix::Change(problem)));
    }
    let has_agent = !written("identityagent").is_empty() && written("proxycommand").contains(" --agent ");
    let has_files = is_of_entra(written("certificatefile"));
    if has_agent || has_files { certificate_conflict(&value) } else { None }
}

/// An option with which ssh does not offer an RSA certificate (sshconnect2.c, `pubkey_prepare`).
fn certificate_conflict<'a>(value: &impl Fn(&str) -> Option<&'a str>) -> Option<(&'static str, Fix)> {
    if matches!(value("pubkeyauthentication"), Some("no" | "false")) {
        return Some(("pubkeyauthentication", Fix::Write { keyword: "PubkeyAuthentication", value: "yes" }));
    }
    let is_in = |list: &str, names: &[&str]| {
        list.split(',').any(|pattern| names.iter().any(|name| matches(pattern.trim(), name)))
    };
    let algorithms: Vec<&str> = CERTIFICATE_ALGORITHMS.trim_start_matches('+').split(',').collect();
    for keyword in ["pubkeyacceptedalgorithms", "pubkeyacceptedkeytypes"] {
        if value(keyword).is_some_and(|list| !is_in(list, &algorithms)) {
            let fix = Fix::Write { keyword: "PubkeyAcceptedKeyTypes", value: CERTIFICATE_ALGORITHMS };
            return Some((keyword, fix));
        }
    }
    if value("preferredauthentications").is_some_and(|list| !is_in(list, &["publickey"])) {
        return Some(("preferredauthentications", Fix::Change("add publickey to the list in that line")));
    }
    // Red Hat's name for RequiredRSASize before 9.1 is RSAMinSize.
    for keyword in ["requiredrsasize", "rsaminsize"] {
        let is_larger = |bits: &str| bits.parse::<u32>().is_ok_and(|bits| bits > rsa_key::BITS);
        if value(keyword).is_some_and(is_larger) {
            return Some((keyword, Fix::Change("set RequiredRSASize to 3072 or less in that line")));
        }
    }
    None
}

/// Why ssh cannot use a socket for shared connections. Some versions of ssh print its path with expanded tokens.
fn control_path_problem(path: &str, effective: &BTreeMap<String, String>) -> Option<&'static str> {
    if path == "none" {
        return None;
    }
    // unix(7), `sun_path`; mux.c, `muxclient`.
    if cfg!(target_os = "linux") && path.len() >= 108 {
        return Some("shorten the path with the token %C");
    }
    let names = ["hostname", "hostkeyalias", "host"].map(|keyword| effective.get(keyword));
    let has_name = names.into_iter().flatten().any(|name| path.to_lowercase().contains(&name.to_lowercase()));
    let has_hash = path.split(|c: char| !c.is_ascii_hexdigit()).any(|word| word.len() >= 40);
    let has_token = ["%C", "%h", "%k", "%n"].iter().any(|token| path.contains(token));
    // ssh would use an open connection to another host.
    (!has_name && !has_hash && !has_token).then_some("add the token %C to the path in that line")
}

/// A value that ssh uses only when it connects, and that it cannot use on this computer.
fn unusable(
    stdout: &[u8],
    effective: &BTreeMap<String, String>,
) -> Result<Option<(&'static str, String, Fix)>, SshError> {
    let value = |keyword: &str| effective.get(keyword).map(String::as_str);
    let is_shared = value("controlmaster").is_some_and(|value| !matches!(value, "no" | "false"));
    if let Some(path) = value("controlpath").filter(|path| is_shared && *path != "none")
        && local(path).parent().is_some_and(|folder| folder.is_absolute() && !folder.is_dir())
    {
        return Ok(Some(("controlpath", path.into(), Fix::Change("create the directory of that path"))));
    }
    // ssh_config(5): if the file is not readable, ssh refuses all hosts. Newer versions accept several files.
    if let Some(files) = value("revokedhostkeys").filter(|files| *files != "none")
        && !is_readable(files)
        && !files.split_whitespace().all(is_readable)
    {
        let fix = Fix::Change("create the file, or make it readable, or remove that line");
        return Ok(Some(("revokedhostkeys", files.into(), fix)));
    }
    let runs_local = matches!(value("permitlocalcommand"), Some("yes" | "true"));
    let text = String::from_utf8_lossy(stdout);
    for (keyword, value) in text.lines().filter_map(|line| line.split_once(' ')) {
        let (keyword, fix) = match keyword {
            "identityfile" => ("identityfile", file_problem(value)?),
            "certificatefile" => ("certificatefile", file_problem(value)?),
            "knownhostscommand" => ("knownhostscommand", expansion_problem(value, COMMAND_TOKENS)),
            // The shell expands its variables.
            "localcommand" if runs_local => {
                ("localcommand", expansion_problem(&value.replace('$', ""), COMMAND_TOKENS))
            }
            _ => continue,
        };
        if let Some(fix) = fix.filter(|_| value != "none") {
            return Ok(Some((keyword, value.to_owned(), Fix::Change(fix))));
        }
    }
    Ok(None)
}

/// The path in the user's home directory; an empty one if it has tokens or variables.
fn local(path: &str) -> PathBuf {
    if path.contains(['%', '$']) { PathBuf::new() } else { home::expanded(Path::new(path)) }
}

/// Returns whether ssh can read a file. The directory of ssh is not known for a relative one.
fn is_readable(file: &str) -> bool {
    let path = local(file);
    if !path.is_absolute() {
        return true;
    }
    path.metadata().is_ok_and(|found| !found.is_dir() && (!found.is_file() || File::open(&path).is_ok()))
}

/// Why ssh cannot expand the name of a file.
fn file_problem(file: &str) -> Result<Option<&'static str>, SshError> {
    if let Some(fix) = expansion_problem(file, FILE_TOKENS) {
        return Ok(Some(fix));
    }
    let user = file.strip_prefix('~').and_then(|rest| rest.split('/').next());
    let is_word =
        |user: &&str| !user.is_empty() && user.chars().all(|c| c.is_alphanumeric() || "._-".contains(c));
    let Some(user) = user.filter(is_word) else { return Ok(None) };
    // ssh expands this option also without a connection (ssh.c).
    let option = format!("ControlPath=~{user}/x");
    let output = effective_config::ssh(&["-G", "-o", &option], "localhost", Some(Path::new("none")))?;
    let is_unknown = |output: std::process::Output| !output.status.success();
    Ok(output.is_some_and(is_unknown).then_some("name an existing user in the value"))
}

/// Why ssh cannot expand the tokens and the variables of a value (misc.c, `vdollar_percent_expand`).
fn expansion_problem(value: &str, tokens: &str) -> Option<&'static str> {
    let mut rest = value;
    while let Some(at) = rest.find(['%', '$']) {
        let (sign, after) = rest[at..].split_at(1);
        rest = after;
        if sign == "%" {
            let Some(token) = after.chars().next().filter(|token| tokens.contains(*token)) else {
                return Some("write only tokens that ssh_config(5) allows there, and %% for a percent sign");
            };
            rest = &after[token.len_utf8()..];
        } else if let Some(variable) = after.strip_prefix('{') {
            let (name, after) = variable.split_once('}').unwrap_or((variable, ""));
            if std::env::var_os(name).is_none() {
                return Some("set the environment variable, or change the value");
            }
            rest = after;
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conflict_of(proxy: &str, extra: &[(&str, &str)], effective: &[(&str, &str)]) -> Option<&'static str> {
        let mut expected = vec![("proxycommand".to_owned(), proxy.to_owned())];
        expected.extend(extra.iter().map(|(keyword, value)| ((*keyword).to_owned(), (*value).to_owned())));
        let effective = effective.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        conflict(Alias { name: "web01.arc", expected: &expected }, &effective).map(|(keyword, _)| keyword)
    }

    const ID: &str = "arcssh proxy /subscriptions/s --port %p";
    const AGENT: &str = "arcssh proxy /subscriptions/s --port %p --agent /a";

    #[test]
    fn options_that_keep_ssh_from_a_certificate_conflict_with_an_entry_that_uses_one() {
        let agent = [("identityagent", "/a")];
        for (option, is_conflict) in [
            (("pubkeyauthentication", "false"), true),
            (("pubkeyauthentication", "no"), true),
            (("pubkeyauthentication", "unbound"), false),
            (("pubkeyacceptedalgorithms", "ssh-ed25519,rsa-sha2-512"), true),
            (("pubkeyacceptedalgorithms", "ssh-ed25519,rsa-sha2-256-cert-v01@openssh.com"), false),
            (("pubkeyacceptedkeytypes", "ssh-rsa-cert-v01@openssh.com"), true),
            (("pubkeyacceptedkeytypes", "rsa-sha2-*"), false),
            (("preferredauthentications", "password,keyboard-interactive"), true),
            (("preferredauthentications", "password,publickey"), false),
            (("requiredrsasize", "4096"), true),
            (("requiredrsasize", "3072"), false),
            (("rsaminsize", "8192"), true),
        ] {
            let expected = is_conflict.then_some(option.0);
            assert_eq!(conflict_of(AGENT, &agent, &[option]), expected, "{option:?}");
            let files = [("certificatefile", "/home/me/.ssh/arcssh/id_1-cert.pub")];
            assert_eq!(conflict_of(ID, &files, &[option]), expected, "{option:?}");
            // A user may log in with a password, and may use a certificate or an agent of another authority.
            assert_eq!(conflict_of(ID, &[("certificatefile", "/other-cert.pub")], &[option]), None);
            assert_eq!(conflict_of(ID, &agent, &[option]), None, "{option:?}");
        }
    }

    #[test]
    fn options_of_the_transport_conflict_with_every_entry() {
        for (option, is_conflict) in [
            (("proxyusefdpass", "yes"), true),
            (("proxyusefdpass", "no"), false),
            (("controlpath", "none"), false),
            (("controlpath", "/home/me/.ssh/shared"), true),
            (("controlpath", "/home/me/.ssh/0123456789abcdef0123456789abcdef01234567"), false),
            (("controlpath", "~/.ssh/%r@%h"), false),
            (("controlpath", "/home/me/.ssh/me@web01.arc:22"), false),
        ] {
            let effective = [("hostname", "web01.arc"), option];
            assert_eq!(conflict_of(ID, &[], &effective), is_conflict.then_some(option.0), "{option:?}");
        }
        let long = format!("/tmp/web01.arc/{}", "a".repeat(100));
        let found = conflict_of(ID, &[], &[("hostname", "web01.arc"), ("controlpath", &long)]);
        assert_eq!(found, cfg!(target_os = "linux").then_some("controlpath"));
    }

    #[test]
    fn another_host_name_conflicts_with_an_entry_that_passes_it_on() {
        let name = [("hostname", "web01.arc.corp")];
        assert_eq!(conflict_of("arcssh proxy --host %h --suffix .arc", &[], &name), Some("hostname"));
        assert_eq!(conflict_of("arcssh proxy --host %n --suffix .arc", &[], &name), None);
        assert_eq!(conflict_of(ID, &[], &name), None);
    }
}
