//! Options of the user's and the system's configuration that ssh adds to a host entry of arcssh: ssh uses the first value of
//! an option, and the values of all matching sections of an option that can have several (ssh_config(5)).

use std::cell::{OnceCell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::ssh::effective_config::{self, Location};
use crate::ssh::patterns::{arguments, is_wildcard, matches};

/// Keywords of which ssh uses every value (ssh_config(5)).
const REPEATED: [&str; 7] = [
    "identityfile",
    "certificatefile",
    "localforward",
    "remoteforward",
    "dynamicforward",
    "sendenv",
    "setenv",
];
/// The most runs of ssh for conditions: each of them runs every `Match exec`.
const MAX_RUNS: usize = 20;
/// Keywords without an effect on a connection.
const WITHOUT_EFFECT: [&str; 2] = ["ignoreunknown", "include"];
/// Keywords whose value `none` is the default (ssh_config(5)).
const NONE_BY_DEFAULT: [&str; 4] = ["controlpath", "localcommand", "proxyjump", "remotecommand"];

/// An option in a configuration.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct UserOption {
    /// The keyword as the user spells it.
    pub(crate) keyword: String,
    pub(crate) value: String,
    pub(crate) location: Location,
    /// Whether ssh reads it before the managed block.
    pub(crate) is_above: bool,
}

impl UserOption {
    fn key(&self) -> String {
        self.keyword.to_lowercase()
    }

    /// The port, if this option sets it.
    pub(crate) fn port(&self) -> Option<u16> {
        self.value.trim_matches('"').parse().ok().filter(|_| self.key() == "port")
    }
}

/// The hosts that a section applies to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Scope {
    /// Lists of patterns, each of which must match.
    lists: Vec<Vec<String>>,
    /// Whether it also depends on something other than the host's name.
    is_conditional: bool,
}

impl Scope {
    /// The scope of a `Host` line inside of this scope.
    pub(crate) fn host(&self, patterns: Vec<String>) -> Self {
        let mut scope = self.clone();
        scope.lists.push(patterns);
        scope
    }

    /// The scope of a `Match` line inside of this scope.
    pub(crate) fn matching(&self, value: &str) -> Self {
        let mut scope = self.clone();
        let words = arguments(&value.replace('=', " "));
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let criterion = word.trim_start_matches('!').to_lowercase();
            match criterion.as_str() {
                "all" => {}
                "canonical" | "final" => scope.is_conditional = true,
                "host" | "originalhost" => {
                    let list = words.next().into_iter().flat_map(|list| list.split(','));
                    scope.lists.push(if word.starts_with('!') {
                        std::iter::once("*".to_owned()).chain(list.map(|one| format!("!{one}"))).collect()
                    } else {
                        list.map(Into::into).collect()
                    });
                }
                _ => {
                    words.next();
                    scope.is_conditional = true;
                }
            }
        }
        scope
    }

    fn applies(&self, name: &str) -> bool {
        self.lists.iter().all(|list| {
            let mut excluded = list.iter().filter_map(|pattern| pattern.strip_prefix('!'));
            list.iter().any(|pattern| matches(pattern, name)) && !excluded.any(|one| matches(one, name))
        })
    }

    /// Whether it names hosts, unlike `Host *`.
    fn is_narrow(&self) -> bool {
        let names_hosts =
            |pattern: &String| !pattern.starts_with('!') && pattern.contains(char::is_alphanumeric);
        self.lists.iter().flatten().any(names_hosts)
    }

    /// The only names that it can apply to, if it has no wildcards.
    fn names(&self) -> Option<&Vec<String>> {
        self.lists.iter().find(|list| !list.iter().any(|pattern| is_wildcard(pattern)))
    }
}

/// Consecutive options of one scope.
#[derive(Debug)]
struct Group {
    scope: Scope,
    options: Vec<UserOption>,
}

/// The values of `ssh -G`, by keyword.
type Values = BTreeMap<String, String>;

/// All options in the order in which ssh reads them.
#[derive(Debug, Default)]
pub(crate) struct UserOptions {
    groups: Vec<Group>,
    /// The groups that apply to few names.
    by_name: BTreeMap<String, Vec<usize>>,
    /// The other groups.
    wide: Vec<usize>,
    /// The values of ssh without any configuration.
    defaults: OnceCell<Values>,
    /// The values of ssh by name and file, for conditions that only ssh knows.
    used: RefCell<BTreeMap<(String, Option<PathBuf>), Values>>,
}

impl UserOptions {
    pub(crate) fn add(&mut self, scope: &Scope, option: UserOption) {
        if let Some(last) = self.groups.last_mut().filter(|last| last.scope == *scope) {
            return last.options.push(option);
        }
        let number = self.groups.len();
        match scope.names() {
            Some(names) => {
                names.iter().for_each(|name| self.by_name.entry(name.clone()).or_default().push(number));
            }
            None => self.wide.push(number),
        }
        self.groups.push(Group { scope: scope.clone(), options: vec![option] });
    }

    /// The options that ssh adds to a host entry with these names and keywords and that change what ssh does: those of
    /// sections that name the host, and `Port` of any section. Leaves out ssh's default values.
    pub(crate) fn added_to(&self, names: &[String], keywords: &BTreeSet<String>) -> Vec<UserOption> {
        let mut numbers: Vec<usize> =
            names.iter().filter_map(|name| self.by_name.get(name)).flatten().copied().collect();
        numbers.extend(&self.wide);
        numbers.sort_unstable();
        numbers.dedup();
        let groups = numbers.into_iter().map(|number| &self.groups[number]);
        let (mut added, mut set, mut shadowing) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
        for group in groups.filter(|group| names.iter().any(|name| group.scope.applies(name))) {
            for option in &group.options {
                let key = option.key();
                let is_single = !REPEATED.contains(&key.as_str());
                let is_of_entry =
                    keywords.contains(&key) || key == "proxyjump" && keywords.contains("proxycommand");
                if is_single && is_of_entry && !option.is_above || WITHOUT_EFFECT.contains(&key.as_str()) {
                    continue;
                }
                if is_single && set.contains(&key) {
                    shadowing.insert(key);
                    continue;
                }
                if !group.scope.is_conditional {
                    set.insert(key.clone());
                }
                let is_of_interest = group.scope.is_narrow() || key == "port";
                let may_apply = |name: &String| !group.scope.is_conditional || self.may_use(option, name);
                if is_of_interest && names.iter().any(may_apply) {
                    added.push(option.clone());
                }
            }
        }
        added.retain(|option| shadowing.contains(&option.key()) || !self.is_default(option));
        added
    }

    /// Returns false if ssh uses another value for the name, with its default files and with the file of the option. Only
    /// values that ssh prints as they are written are compared.
    fn may_use(&self, option: &UserOption, name: &str) -> bool {
        let (key, value) = (option.key(), normal(&option.value));
        let is_plain = value == "yes" || value == "no" || value.parse::<u32>().is_ok();
        if !is_plain || REPEATED.contains(&key.as_str()) {
            return true;
        }
        let mut used = self.used.borrow_mut();
        [None, Some(option.location.file.clone())].into_iter().any(|file| {
            let place = (name.to_owned(), file);
            if used.len() >= MAX_RUNS && !used.contains_key(&place) {
                return true;
            }
            let read =
                || effective_config::values(name, place.1.as_deref()).ok().flatten().unwrap_or_default();
            let values = used.entry(place.clone()).or_insert_with(read);
            values.get(&key).is_none_or(|used| normal(used) == value)
        })
    }

    fn is_default(&self, option: &UserOption) -> bool {
        let (key, value) = (option.key(), normal(&option.value));
        if REPEATED.contains(&key.as_str()) {
            return false;
        }
        let read = || effective_config::values("arcssh", Some(Path::new("none"))).ok().flatten();
        let defaults = self.defaults.get_or_init(|| read().unwrap_or_default());
        value == "none" && NONE_BY_DEFAULT.contains(&key.as_str())
            || defaults.get(&key).is_some_and(|default| normal(default) == value)
    }
}

/// A value in the form in which ssh prints it, with one form of yes and no.
fn normal(value: &str) -> String {
    match value.trim_matches('"').to_lowercase().as_str() {
        "true" => "yes".to_owned(),
        "false" => "no".to_owned(),
        other => other.to_owned(),
    }
}
