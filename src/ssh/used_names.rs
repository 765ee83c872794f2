//! Host names that ssh already uses: in the user's and the system's configuration, in known hosts and in `/etc/hosts`.
//!
//! arcssh reads these files itself, because running `ssh -G` for each machine would take too long and run every
//! `Match exec`. Conditions of a `Match` other than host names are ignored, except for options that a note names.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::hmac::{self, HMAC_SHA1_FOR_LEGACY_USE_ONLY};

use crate::ssh::effective_config::{Location, MAX_DEPTH, directive, text};
use crate::ssh::home;
use crate::ssh::managed_block;
use crate::ssh::patterns::{arguments, example, is_wildcard, match_patterns, matches, without_comment};
use crate::ssh::user_options::{Scope, UserOption, UserOptions};

/// Keywords that set the host, the user or the host key of a connection. A section with a wildcard counts as a use of a name
/// if it sets one of them.
const DIRECTING: [&str; 9] = [
    "hostname",
    "port",
    "user",
    "proxyjump",
    "proxycommand",
    "hostkeyalias",
    "userknownhostsfile",
    "knownhostscommand",
    "include",
];
/// Keywords that set the host of a connection.
const REDIRECTING: [&str; 3] = ["hostname", "proxyjump", "proxycommand"];
/// The most ports to try with hashed known hosts.
const MAX_PORTS: usize = 4;

/// Names with the location of their first use. ssh compares known hosts in lower case (hostfile.c), and patterns exactly; here
/// no comparison depends on case.
#[derive(Debug, Default)]
struct Names {
    literal: BTreeMap<String, Location>,
    /// Lists of patterns in lower case, of which one must match.
    patterns: Vec<(Vec<String>, Location)>,
}

impl Names {
    fn add(&mut self, patterns: &[String], wildcards: Wildcards, location: &Location) {
        let lower: Vec<String> = patterns.iter().map(|pattern| pattern.to_lowercase()).collect();
        let negated = |pattern: &&String| pattern.starts_with('!');
        for name in lower.iter().filter(|pattern| !negated(pattern) && !is_wildcard(pattern)) {
            self.literal.entry(name.clone()).or_insert_with(|| location.clone());
        }
        // `*` matches every host, so it is not a use of a name.
        let narrow = |pattern: &String| is_wildcard(pattern) && pattern.contains(char::is_alphanumeric);
        let excluded: Vec<&String> = lower.iter().filter(negated).collect();
        let patterns: Vec<String> =
            lower.iter().filter(|one| !negated(one) && narrow(one)).cloned().collect();
        if wildcards == Wildcards::Count && !patterns.is_empty() {
            let patterns = patterns.into_iter().chain(excluded.into_iter().cloned());
            self.patterns.push((patterns.collect(), location.clone()));
        }
    }

    fn location(&self, name: &str, uses: Use<'_>) -> Option<&Location> {
        self.literal.get(name).or_else(|| self.by_pattern(name, uses))
    }

    fn by_pattern(&self, name: &str, uses: Use<'_>) -> Option<&Location> {
        let is_use = |patterns: &[String]| match uses {
            Use::AnyPattern => applies(patterns, name),
            Use::NoPatternOf(short) => applies(patterns, name) && !applies(patterns, &short.to_lowercase()),
        };
        self.patterns.iter().find(|(patterns, _)| is_use(patterns)).map(|(_, location)| location)
    }
}

/// Returns whether one of the patterns matches the name, and none with `!` does.
fn applies(patterns: &[String], name: &str) -> bool {
    let (negated, patterns): (Vec<_>, Vec<_>) = patterns.iter().partition(|pattern| pattern.starts_with('!'));
    patterns.iter().any(|pattern| matches(pattern, name))
        && !negated.iter().any(|pattern| matches(&pattern[1..], name))
}

/// The patterns with wildcards that count as a use of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use<'a> {
    /// All patterns that match the name.
    AnyPattern,
    /// Patterns that match the name but not this shorter form of it. `prod-*` matches every longer form of `prod-1`.
    NoPatternOf(&'a str),
}

/// Whether a pattern with wildcards is a use of the names that it matches.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wildcards {
    Count,
    DoNotCount,
}

/// Host names in use.
#[derive(Debug, Default)]
pub(crate) struct UsedNames {
    configured: Names,
    /// The names in `configured` whose sections connect to another host; see [`REDIRECTING`].
    redirected: Names,
    known: Names,
    /// The domains of `CanonicalDomains` in lower case, which ssh appends to a name.
    domains: BTreeSet<String>,
    /// Known hosts of `HashKnownHosts`: the key from the salt, and the hash of the name (hostfile.c, `host_hash`).
    hashed: Vec<(hmac::Key, Vec<u8>, Location)>,
    /// Ports other than 22 that known hosts may have.
    ports: BTreeSet<String>,
    /// Names of known-hosts files that contain `%h`, `%k` or `%n`.
    one_per_host: BTreeSet<String>,
    pub(crate) options: UserOptions,
    /// The text of all files that ssh reads for each host.
    pub(crate) text: String,
}

impl UsedNames {
    /// Reads the names in `file`, in the user's and the system's configuration and in known hosts. Ignores unreadable files and
    /// the managed block.
    pub(crate) fn here(file: &Path) -> Self {
        let home = home::directory().unwrap_or_default();
        let mut reader = Reader { user: home.join(".ssh"), home, ..Reader::default() };
        let (user, system) = (reader.user.clone(), system_folder());
        reader.known_hosts.extend(["known_hosts", "known_hosts2"].map(|name| user.join(name)));
        reader.known_hosts.extend(["ssh_known_hosts", "ssh_known_hosts2"].map(|name| system.join(name)));
        let everywhere = Scope::default();
        reader.configuration(file, &user, 0, &everywhere);
        reader.configuration(&user.join("config"), &user, 0, &everywhere);
        reader.configuration(&system.join("ssh_config"), &system, 0, &everywhere);
        for file in std::mem::take(&mut reader.known_hosts) {
            reader.known_hosts(&file);
        }
        reader.this_computer();
        reader.used
    }

    /// The location where a configuration uses the name.
    pub(crate) fn in_configuration(&self, name: &str, uses: Use<'_>) -> Option<Location> {
        let name = name.to_lowercase();
        let completed = || self.completed(&name).find_map(|name| self.configured.literal.get(&name));
        self.configured.location(&name, uses).or_else(completed).cloned()
    }

    /// The location where a configuration connects the name to another host.
    pub(crate) fn redirected(&self, name: &str, uses: Use<'_>) -> Option<Location> {
        self.redirected.location(&name.to_lowercase(), uses).cloned()
    }

    /// The location where known hosts have the name.
    pub(crate) fn among_known_hosts(&self, name: &str, uses: Use<'_>) -> Option<Location> {
        let name = name.to_lowercase();
        let exact = |name: &str| self.known.literal.get(name).or_else(|| self.hashed_location(name));
        let plain = self.known.location(&name, uses).or_else(|| self.hashed_location(&name));
        let completed = || self.completed(&name).find_map(|name| exact(&name));
        plain.or_else(completed).cloned().or_else(|| self.own_file(&name))
    }

    /// The name with each domain that ssh appends (ssh_config(5), CanonicalDomains). A pattern that matches such a name does
    /// not show that the host exists.
    fn completed(&self, name: &str) -> impl Iterator<Item = String> {
        self.domains.iter().map(move |domain| format!("{name}.{domain}"))
    }

    /// A name in a configuration that a pattern matches, and its location. Known hosts do not count, since they contain the hosts
    /// that ssh reached by the pattern.
    pub(crate) fn covered_by(&self, pattern: &str) -> Option<(&str, &Location)> {
        let pattern = pattern.to_lowercase();
        let all = self.configured.literal.iter().map(|(name, location)| (name.as_str(), location));
        all.into_iter().find(|(name, _)| matches(&pattern, name))
    }

    /// The location where a configuration connects names that the pattern matches to another host.
    pub(crate) fn redirected_by(&self, pattern: &str) -> Option<Location> {
        let pattern = pattern.to_lowercase();
        let is_covered = |(patterns, _): &&(Vec<String>, Location)| {
            let names = patterns.iter().filter(|one| !one.starts_with('!')).map(|one| example(one));
            names.into_iter().any(|name| matches(&pattern, &name) && applies(patterns, &name))
        };
        let covered =
            || self.redirected.patterns.iter().find(is_covered).map(|(_, location)| location.clone());
        self.redirected(&example(&pattern), Use::AnyPattern).or_else(covered)
    }

    fn hashed_location(&self, name: &str) -> Option<&Location> {
        let with_port = |port: &String| format!("[{name}]:{port}");
        let spellings: Vec<String> = std::iter::once(name.to_owned())
            .chain(self.ports.iter().take(MAX_PORTS).map(with_port))
            .collect();
        let matches = |key: &hmac::Key, hash: &[u8]| {
            spellings.iter().any(|name| hmac::verify(key, name.as_bytes(), hash).is_ok())
        };
        self.hashed.iter().find(|(key, hash, _)| matches(key, hash)).map(|(_, _, location)| location)
    }

    fn own_file(&self, name: &str) -> Option<Location> {
        let file = |template: &String| PathBuf::from(tokens_replaced(template, name));
        let found = self.one_per_host.iter().map(file).find(|file| file.is_file());
        found.map(|file| Location { file, line: 0 })
    }
}

fn tokens_replaced(template: &str, name: &str) -> String {
    ["%h", "%k", "%n"].iter().fold(template.to_owned(), |text, token| text.replace(token, name))
}

/// The directory of the system's configuration.
pub(crate) fn system_folder() -> PathBuf {
    if cfg!(windows) {
        return PathBuf::from(std::env::var_os("ProgramData").unwrap_or_default()).join("ssh");
    }
    PathBuf::from("/etc/ssh")
}

/// A `Host` or `Match` of a configuration.
struct Section {
    patterns: Vec<String>,
    location: Location,
    wildcards: Wildcards,
    /// Whether it sets one of [`REDIRECTING`].
    redirects: bool,
    /// Host names in its values, such as a jump host.
    named: Vec<(String, Location)>,
    /// Whether another program wrote it for an Arc machine, which then has the name in `HostName`.
    of_sshproxy: bool,
}

#[derive(Default)]
struct Reader {
    home: PathBuf,
    /// The directory of the user's configuration.
    user: PathBuf,
    read: BTreeSet<PathBuf>,
    known_hosts: BTreeSet<PathBuf>,
    /// Whether the present line is above the managed block.
    is_above: bool,
    used: UsedNames,
}

impl Reader {
    /// Reads a file whose lines ssh reads in the scope `outer`.
    fn configuration(&mut self, file: &Path, folder: &Path, depth: usize, outer: &Scope) {
        let path = fs::canonicalize(file).unwrap_or_else(|_| file.to_owned());
        if depth > MAX_DEPTH || !self.read.insert(path) {
            return;
        }
        let Some(text) = text(file) else { return };
        if *outer == Scope::default() {
            self.used.text += &format!("Host *\n{text}\n");
        }
        let block = managed_block::find(&text).ok().flatten();
        let mut section = self.section(Vec::new(), file, 0);
        let mut scope = outer.clone();
        let mut at = 0;
        for (number, line) in (1..).zip(text.split_inclusive('\n')) {
            let is_managed = block.as_ref().is_some_and(|block| block.contains(&at));
            if let Some(block) = &block {
                self.is_above = at < block.start;
            }
            at += line.len();
            let Some((keyword, value)) = directive(line).filter(|_| !is_managed) else { continue };
            let location = Location { file: file.to_owned(), line: number };
            let patterns = match keyword.as_str() {
                "host" => {
                    scope = outer.host(without_comment(&value));
                    arguments(&value)
                }
                "match" => {
                    scope = outer.matching(&value);
                    match_patterns(&value)
                }
                _ => {
                    self.option(&scope, line, &value, location.clone());
                    self.line(&mut section, &keyword, &value, location);
                    if keyword == "include" {
                        let files: Vec<PathBuf> =
                            arguments(&value).iter().flat_map(|one| self.expanded(one, folder)).collect();
                        for included in files {
                            self.configuration(&included, folder, depth + 1, &scope);
                        }
                    }
                    continue;
                }
            };
            self.finish(std::mem::replace(&mut section, self.section(patterns, file, number)));
        }
        self.finish(section);
    }

    /// Adds an option to [`UsedNames::options`], with its keyword as in the line.
    fn option(&mut self, scope: &Scope, line: &str, value: &str, location: Location) {
        let keyword = line.trim().split(|c: char| c.is_whitespace() || c == '=').next().unwrap_or_default();
        let keyword = keyword.trim_matches('"').to_owned();
        let value = without_comment(value).join(" ");
        let option = UserOption { keyword, value, location, is_above: self.is_above };
        self.used.options.add(scope, option);
    }

    fn section(&self, patterns: Vec<String>, file: &Path, line: usize) -> Section {
        let location = Location { file: file.to_owned(), line };
        let wildcards = Wildcards::DoNotCount;
        Section { patterns, location, wildcards, redirects: false, named: Vec::new(), of_sshproxy: false }
    }

    fn line(&mut self, section: &mut Section, keyword: &str, value: &str, location: Location) {
        if DIRECTING.contains(&keyword) {
            section.wildcards = Wildcards::Count;
        }
        section.redirects |= REDIRECTING.contains(&keyword) && !keeps_host(value);
        match keyword {
            "canonicaldomains" => {
                let domains = arguments(value).into_iter().map(|domain| domain.to_lowercase());
                self.used.domains.extend(domains.map(|domain| domain.trim_matches('.').to_owned()));
            }
            "port" => {
                self.used.ports.insert(value.to_owned());
            }
            "hostname" | "proxyjump" | "proxycommand" => {
                section.of_sshproxy |= value.to_lowercase().contains("sshproxy");
                section.named.extend(host_names(value).map(|name| (name, location.clone())));
            }
            "userknownhostsfile" | "globalknownhostsfile" => {
                for file in arguments(value) {
                    let file = self.in_home(&file);
                    if ["%h", "%k", "%n"].iter().any(|token| file.contains(token)) {
                        self.used.one_per_host.insert(file);
                    } else {
                        self.known_hosts.insert(PathBuf::from(file));
                    }
                }
            }
            _ => {}
        }
    }

    fn finish(&mut self, section: Section) {
        self.used.configured.add(&section.patterns, section.wildcards, &section.location);
        if section.redirects {
            self.used.redirected.add(&section.patterns, Wildcards::Count, &section.location);
        }
        for (name, location) in section.named.into_iter().filter(|_| !section.of_sshproxy) {
            self.used.configured.add(&[name], Wildcards::DoNotCount, &location);
        }
    }

    /// Replaces `~`, `%d` and `${HOME}` (ssh_config(5), TOKENS).
    fn in_home(&self, path: &str) -> String {
        let home = self.home.display().to_string();
        let path = path.replace("%d", &home).replace("${HOME}", &home);
        match path.strip_prefix("~/") {
            Some(rest) => format!("{home}/{rest}"),
            None => path,
        }
    }

    /// The files of an `Include`. A relative name is in the directory of the configuration that ssh reads first.
    fn expanded(&self, pattern: &str, folder: &Path) -> Vec<PathBuf> {
        let pattern = folder.join(self.in_home(pattern));
        let mut found = vec![PathBuf::new()];
        for component in pattern.components() {
            let name = component.as_os_str().to_string_lossy();
            found = match component {
                Component::Normal(_) if name.contains(['*', '?', '[']) => {
                    found.iter().flat_map(|folder| entries(folder, &without_classes(&name))).collect()
                }
                _ => found.iter().map(|folder| folder.join(component)).collect(),
            };
        }
        found
    }

    fn known_hosts(&mut self, file: &Path) {
        for (number, line) in (1..).zip(text(file).unwrap_or_default().lines()) {
            let mut words = line.split_whitespace().skip_while(|word| word.starts_with('@'));
            let Some(hosts) = words.next().filter(|hosts| !hosts.starts_with('#')) else { continue };
            let location = Location { file: file.to_owned(), line: number };
            if let Some((key, hash)) = hashed(hosts) {
                self.used.hashed.push((key, hash, location));
                continue;
            }
            let mut names = Vec::new();
            for host in hosts.split(',') {
                let bracketed = host.strip_prefix('[').and_then(|rest| rest.split_once("]:"));
                if let Some((_, port)) = bracketed {
                    self.used.ports.insert(port.to_owned());
                }
                names.push(bracketed.map_or(host, |(name, _)| name).to_owned());
            }
            self.used.known.add(&names, Wildcards::Count, &location);
        }
    }

    /// Reads the names of this computer, and those that it resolves without DNS.
    fn this_computer(&mut self) {
        for file in ["/etc/hosts", "/etc/hostname"].map(Path::new) {
            for (number, line) in (1..).zip(text(file).unwrap_or_default().lines()) {
                let line = line.split('#').next().unwrap_or_default();
                let words = line.split_whitespace();
                // `/etc/hostname` may contain the full name, of which a user types the first label.
                let short = words.clone().filter_map(|word| Some(word.split_once('.')?.0));
                let short = short.filter(|_| file.ends_with("hostname"));
                let names: Vec<String> = words.clone().chain(short).map(Into::into).collect();
                let location = Location { file: file.to_owned(), line: number };
                self.used.configured.add(&names, Wildcards::DoNotCount, &location);
            }
        }
    }
}

/// Returns whether a value of one of [`REDIRECTING`] leaves the host as it is: `ProxyJump none`, `HostName %h`.
fn keeps_host(value: &str) -> bool {
    let words = without_comment(value);
    matches!(&words[..], [word] if word.eq_ignore_ascii_case("none") || ["%h", "%n"].contains(&word.as_str()))
}

/// The names in `[user@]host[:port],…` and in the words of a command.
fn host_names(value: &str) -> impl Iterator<Item = String> {
    let words = value.split(|c: char| c.is_whitespace() || ",\"'=".contains(c));
    let host = |word: &str| {
        let word = word.strip_prefix("ssh://").unwrap_or(word);
        let word = word.rsplit('@').next().unwrap_or_default();
        word.split(':').next().unwrap_or_default().to_owned()
    };
    words.map(host).filter(|word| !word.is_empty() && !word.contains(['/', '%', '*', '?', '!']))
}

/// `|1|salt|hash` of known hosts.
fn hashed(hosts: &str) -> Option<(hmac::Key, Vec<u8>)> {
    let (salt, hash) = hosts.strip_prefix("|1|")?.split_once('|')?;
    let key = hmac::Key::new(HMAC_SHA1_FOR_LEGACY_USE_ONLY, &STANDARD.decode(salt).ok()?);
    Some((key, STANDARD.decode(hash).ok()?))
}

/// The entries of a directory that match a pattern, in order. A pattern does not match hidden files (glob(3)).
fn entries(folder: &Path, pattern: &str) -> Vec<PathBuf> {
    let names = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.file_name());
    let is_match = |name: &std::ffi::OsString| {
        let name = name.to_string_lossy();
        !name.starts_with('.') && matches(pattern, &name)
    };
    let mut found: Vec<PathBuf> = names.filter(is_match).map(|name| folder.join(name)).collect();
    found.sort();
    found
}

/// Replaces each `[…]` of a glob pattern by `?`, which matches at least the same files.
fn without_classes(pattern: &str) -> String {
    let mut plain = String::new();
    let mut rest = pattern;
    while let Some((before, after)) = rest.split_once('[') {
        plain += before;
        plain.push('?');
        rest = after.split_once(']').map_or("", |(_, after)| after);
    }
    plain + rest
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn reader(home: &Path) -> Reader {
        Reader { home: home.to_owned(), user: home.to_owned(), ..Reader::default() }
    }

    fn configured(text: &str) -> UsedNames {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("config");
        fs::write(&file, text).unwrap();
        let mut reader = reader(home.path());
        reader.configuration(&file, home.path(), 0, &Scope::default());
        reader.used
    }

    #[test]
    fn names_of_sections_and_host_names_in_values_are_used_names() {
        let used = configured(
            "User me\nHost Bastion \"quoted\" !not\n  Compression yes\nHost prod-*\n HostName %h.corp\n\
             Host dev-*\n Compression yes\nMatch originalhost matched,other exec true\n User x\n\
             Host *\n ProxyJump me@jump:22,second\n ProxyCommand=ssh -W %h:%p gate\n",
        );
        for name in ["bastion", "BASTION", "quoted", "prod-1", "matched", "other", "jump", "second", "gate"] {
            assert!(used.in_configuration(name, Use::AnyPattern).is_some(), "{name}");
        }
        for name in ["not", "dev-1", "web01", "true"] {
            assert_eq!(used.in_configuration(name, Use::AnyPattern), None, "{name}");
        }
        assert_eq!(used.in_configuration("prod-1", Use::AnyPattern).unwrap().line, 4);
        let longer = |name: &str, short| used.in_configuration(name, Use::NoPatternOf(short));
        assert_eq!(longer("prod-1.rg", "PROD-1"), None);
        assert!(longer("prod-1", "1").is_some());
    }

    #[test]
    fn a_short_name_is_used_if_its_canonical_name_is() {
        let used = configured(
            "CanonicalDomains corp.example.net .other.\nHost db.CORP.example.net\n User x\n\
             Host *.corp.example.net\n ProxyJump jump\n",
        );
        assert!(used.in_configuration("DB", Use::AnyPattern).is_some());
        assert_eq!(used.in_configuration("web01", Use::AnyPattern), None);
    }

    #[test]
    fn only_a_section_that_sets_the_host_redirects_a_name() {
        let used = configured(
            "Host web01\n ForwardAgent yes\n User me\nHost inner\n ProxyJump web01\nHost gw-*\n HostName %h.corp\n",
        );
        for (name, is_redirected) in [("web01", false), ("INNER", true), ("gw-1", true)] {
            assert!(used.in_configuration(name, Use::AnyPattern).is_some());
            assert_eq!(used.redirected(name, Use::AnyPattern).is_some(), is_redirected, "{name}");
        }
    }

    #[test]
    fn a_pattern_of_a_section_that_sets_the_host_redirects_the_names_of_a_wildcard() {
        for (section, is_redirected) in [
            ("Host *.lab\n ProxyJump bastion\n User corp\n", true),
            ("Host ?*.lab\n HostName %h.corp\n", true),
            ("Host web-?.LAB\n ProxyCommand nc gate %p\n", true),
            ("Match host *.eu.lab user me\n ProxyJump bastion\n", true),
            ("Host *.lab !gate*\n ProxyJump bastion\n", true),
            ("Host *.lab !*.lab\n ProxyJump bastion\n", false),
            ("Match !host *.lab\n ProxyJump bastion\n", false),
            ("Match host * !host *.lab\n ProxyJump bastion\n", false),
            ("Host *.lab\n ProxyJump none # direct\n", false),
            ("Host *.lab\n ProxyCommand None\n HostName %h\n", false),
            ("Host *.lab\n User corp\n", false),
            ("Host *\n ProxyJump bastion\n", false),
            ("Host web*\n ProxyJump bastion\n", false),
        ] {
            let redirected = configured(section).redirected_by("*.lab");
            assert_eq!(redirected.map(|location| location.line), is_redirected.then_some(1), "{section}");
        }
    }

    #[test]
    fn included_files_are_read_and_the_managed_block_is_ignored() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("conf.d");
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("one.conf"), "Host one\n Port 1\nInclude conf.d/[t]wo.conf\n").unwrap();
        fs::write(folder.join("two.conf"), "Host two\n").unwrap();
        fs::write(folder.join(".hidden.conf"), "Host hidden\n").unwrap();
        let file = home.path().join("config");
        let block = managed_block::block("{}", "Host ours\n  Port 2\n");
        fs::write(&file, format!("{block}\nInclude conf.d/o*.conf ~/no-such\nHost last\n")).unwrap();
        let mut reader = reader(home.path());
        reader.configuration(&file, home.path(), 0, &Scope::default());
        let used = |name| reader.used.in_configuration(name, Use::AnyPattern);
        assert!(used("one").is_some() && used("two").is_some() && used("last").is_some());
        assert!(used("hidden").is_none() && used("ours").is_none());
    }

    #[test]
    fn known_hosts_are_found_in_every_form() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("known_hosts");
        let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ0f3r4Vh0mZc1TtYJr2X0qk1bq6Yy9q6w4m3sT1v2aB";
        let plain = format!("Hashed {key}\n[ported]:2222 {key}\n");
        fs::write(&file, plain).unwrap();
        let keygen = Command::new("ssh-keygen").arg("-Hf").arg(&file).output().unwrap();
        assert!(keygen.status.success());
        let hashed = fs::read_to_string(&file).unwrap();
        assert_eq!(hashed.matches("|1|").count(), 2, "{hashed}");
        let open = format!(
            "# c\none,[two]:2222 {key}\n@cert-authority *.corp,!x.corp {key}\n@revoked bad {key}\n* {key}\n"
        );
        fs::write(&file, hashed + &open).unwrap();
        let mut reader = reader(home.path());
        reader.known_hosts(&file);
        let used = reader.used;
        for name in ["hashed", "HASHED", "ported", "one", "Two", "a.corp", "bad"] {
            assert!(used.among_known_hosts(name, Use::AnyPattern).is_some(), "{name}");
        }
        for name in ["x.corp", "other", "hashe"] {
            assert_eq!(used.among_known_hosts(name, Use::AnyPattern), None, "{name}");
        }
    }
}
