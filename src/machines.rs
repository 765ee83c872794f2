//! Which machines are meant, and what ssh calls them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use anyhow::{Error, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use tracing::info;

use crate::azure::arm::Arm;
use crate::azure::hybrid_compute::{self, Machine, MachineRef, list, show};
use crate::azure::resource_id::ResourceId;
use crate::ssh::host_entry::is_alias;
use crate::ssh::used_names::{Place, Use, UsedNames, matches};
use crate::ssh::{effective_config, managed_block};
use crate::state::{Key, Kind, Store};
use crate::system::clock::unix_now;
use crate::terminal::progress::Progress;
use crate::text::shell_quote;

/// What selects machines: by name, or by what they have in common.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct MachineSelector {
    /// Names, `GROUP/NAME`s and resource IDs.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub(crate) machines: BTreeSet<String>,
    /// Resource groups, all of whose machines are meant.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub(crate) groups: BTreeSet<String>,
    /// Subscriptions to look in; all that the identity sees if none is named.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub(crate) subscriptions: BTreeSet<String>,
    /// `KEY=VALUE` tags that machines of groups, or all machines, must have.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub(crate) tags: BTreeSet<String>,
    /// Whether all machines are meant.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) all: bool,
    /// Machines that were taken out, and stay out until they are named again.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub(crate) except: BTreeSet<String>,
}

impl MachineSelector {
    /// Whether nothing is meant.
    pub(crate) fn is_empty(&self) -> bool {
        self.machines.is_empty() && !self.is_filter()
    }

    /// Whether both select the same machines: only a tag's value depends on case (Azure docs, "Use tags to organize your
    /// Azure resources").
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.folded() == other.folded()
    }

    fn folded(&self) -> Self {
        let lower = |texts: &BTreeSet<String>| texts.iter().map(|text| text.to_lowercase()).collect();
        let tag = |tag: &String| {
            let (key, value) = tag.split_once('=').unwrap_or((tag, ""));
            format!("{}={value}", key.to_lowercase())
        };
        Self {
            groups: lower(&self.groups),
            subscriptions: lower(&self.subscriptions),
            tags: self.tags.iter().map(tag).collect(),
            // Groups and tags narrow all machines.
            all: self.all && self.groups.is_empty() && self.tags.is_empty(),
            ..self.clone()
        }
    }

    /// Whether machines are meant by what they have in common.
    pub(crate) fn is_filter(&self) -> bool {
        self.all || !self.groups.is_empty() || !self.tags.is_empty()
    }

    /// Both together.
    pub(crate) fn merge(mut self, other: Self) -> Self {
        self.machines.extend(other.machines);
        self.groups.extend(other.groups);
        self.subscriptions.extend(other.subscriptions);
        self.tags.extend(other.tags);
        self.all |= other.all;
        self.except.extend(other.except);
        self
    }

    /// What the machines that are meant have in common, as it is typed; empty for all machines.
    pub(crate) fn common(&self) -> String {
        let typed = |option: &str, values: &BTreeSet<String>| -> Vec<String> {
            values.iter().map(|value| format!("{option} {}", shell_quote(value))).collect()
        };
        let subscriptions = typed("--subscription", &self.subscriptions);
        [typed("-g", &self.groups), typed("--tag", &self.tags), subscriptions].concat().join(" ")
    }

    /// Whether the machine is meant by what it has in common with others.
    pub(crate) fn selects(&self, machine: &Machine) -> bool {
        let in_subscription = self.subscriptions.is_empty()
            || self.subscriptions.iter().any(|id| id.eq_ignore_ascii_case(&machine.id.subscription));
        let in_group = self.groups.is_empty()
            || self.groups.iter().any(|group| group.eq_ignore_ascii_case(&machine.id.resource_group));
        let has_tag = |tag: &String| {
            let (key, value) = tag.split_once('=').unwrap_or((tag, ""));
            machine.tags.iter().any(|(k, v)| k.eq_ignore_ascii_case(key) && v == value)
        };
        let left_out = self.except.iter().any(|text| refers_to(text, machine));
        self.is_filter() && in_subscription && in_group && self.tags.iter().all(has_tag) && !left_out
    }
}

/// Whether a name, `GROUP/NAME` or resource ID means the machine.
pub(crate) fn refers_to(text: &str, machine: &Machine) -> bool {
    text.parse::<MachineRef>().is_ok_and(|name| name.matches(machine))
}

/// A machine with what ssh calls it.
#[derive(Clone, Debug)]
pub(crate) struct NamedMachine {
    /// The machine.
    pub(crate) machine: Machine,
    /// What may be typed for it: the alias of its host entry if the ssh configuration has one, else the one that
    /// `arcssh config` would write. `None` if ssh accepts no name of the machine.
    pub(crate) patterns: Option<Vec<String>>,
}

/// The machines that are meant, ordered by name and group, each once. In the selection names give way to the resource
/// IDs of their machines, which stay when another machine takes on the name.
///
/// # Errors
/// A name that no machine or more than one has; [`NoSubscriptions`]; what Azure refuses.
pub(crate) async fn select(arm: &Arm, selection: &mut MachineSelector) -> Result<Vec<NamedMachine>> {
    let names: Vec<MachineRef> =
        selection.machines.iter().map(|text| text.parse()).collect::<Result<_, _>>()?;
    let by_id = names.iter().all(|name| matches!(name, MachineRef::Id(_))) && !selection.is_filter();
    let subscriptions: Vec<String> = selection.subscriptions.iter().cloned().collect();
    let waiting = Progress::default();
    waiting.set("list of machines from Azure Resource Manager".into());
    // What a machine is called depends on all others, whichever are meant.
    let mut known = match waiting.run(list_visible(arm, &subscriptions)).await {
        Err(error) if by_id => {
            info!("arcssh compares the names of the named machines only: {error}");
            Vec::new()
        }
        list_visible => list_visible?,
    };
    let mut meant: BTreeSet<String> =
        known.iter().filter(|machine| selection.selects(machine)).map(key).collect();
    selection.machines.clear();
    for name in &names {
        let machine = resolve(arm, name, &known).await?;
        selection.machines.insert(machine.id.to_string());
        selection.except.retain(|text| !refers_to(text, &machine));
        meant.insert(key(&machine));
        if !known.iter().any(|other| key(other) == key(&machine)) {
            known.push(machine);
        }
    }
    let patterns = written_or_new(&known);
    let named = known.into_iter().zip(patterns).map(|(machine, patterns)| NamedMachine { machine, patterns });
    let mut named: Vec<NamedMachine> = named.filter(|named| meant.contains(&key(&named.machine))).collect();
    named.sort_by_key(|named| (named.machine.id.name.to_lowercase(), key(&named.machine)));
    Ok(named)
}

/// The same for a command that acts on machines: there is at least one.
///
/// # Errors
/// [`NoMatch`]; those of [`select`].
pub(crate) async fn select_some(arm: &Arm, selection: &mut MachineSelector) -> Result<Vec<NamedMachine>> {
    let machines = select(arm, selection).await?;
    ensure!(!machines.is_empty(), NoMatch(selection.common()));
    Ok(machines)
}

/// The machines of these subscriptions, or of all that the identity sees if none is named.
///
/// # Errors
/// [`NoSubscriptions`], which is an empty list too; what Azure refuses.
pub(crate) async fn list_visible(arm: &Arm, subscriptions: &[String]) -> Result<Vec<Machine>> {
    let machines = list(arm, subscriptions).await?;
    if machines.is_empty() && matches!(hybrid_compute::subscriptions(arm).await, Ok((0, _))) {
        bail!(NoSubscriptions);
    }
    Ok(machines)
}

/// A machine's resource ID, the same in every spelling.
pub(crate) fn key(machine: &Machine) -> String {
    machine.id.to_string().to_lowercase()
}

/// The one machine that `text` names: a resource ID, `GROUP/NAME`, `NAME`, or one of the names that ssh may have for it;
/// in these subscriptions, or all that the identity sees if none is named.
///
/// # Errors
/// [`AmbiguousName`], [`NoSubscriptions`]; what Azure refuses.
pub(crate) async fn find(arm: &Arm, text: &str, subscriptions: &[String]) -> Result<Machine> {
    let name: MachineRef = text.parse()?;
    if matches!(name, MachineRef::Id(_)) {
        return resolve(arm, &name, &[]).await;
    }
    pick(arm, text, &list_visible(arm, subscriptions).await?).await
}

/// The same among the machines of a list. A text that is the name of one machine and, with its group, that of another
/// names neither.
///
/// # Errors
/// [`AmbiguousName`]; what Azure refuses.
pub(crate) async fn pick(arm: &Arm, text: &str, known: &[Machine]) -> Result<Machine> {
    let name: MachineRef = text.parse()?;
    if !matches!(name, MachineRef::Name { group: None, .. }) {
        return resolve(arm, &name, known).await;
    }
    let is_called =
        |machine: &&Machine| alias_candidates(machine).iter().any(|form| form.eq_ignore_ascii_case(text));
    match known.iter().filter(is_called).collect::<Vec<_>>()[..] {
        [machine] => Ok(machine.clone()),
        ref several => bail!(AmbiguousName::among(&name, several)),
    }
}

/// What a machine's name means, kept from connection to connection.
#[derive(Debug)]
pub(crate) struct NameCache<'a> {
    arm: &'a Arm,
    store: &'a Store,
    name: &'a str,
    subscriptions: Vec<String>,
    key: Key,
}

/// The machine that had a name.
#[derive(Serialize, Deserialize)]
struct CachedName {
    id: String,
    /// Seconds of Unix time.
    at: u64,
}

/// How long, in seconds, a name is taken to mean the same machine: a day.
const NAME_LIFETIME: u64 = 86_400;

impl<'a> NameCache<'a> {
    /// What `name` means, in one subscription if that is named; see [`find`].
    pub(crate) fn new(arm: &'a Arm, store: &'a Store, name: &'a str, subscription: Option<&str>) -> Self {
        let subscriptions: Vec<String> = subscription.into_iter().map(Into::into).collect();
        let place = subscription.map_or(String::new(), |id| format!(" in {id}"));
        let subject = format!("{} {}{place}", arm.authority(), name.to_lowercase());
        Self { arm, store, name, subscriptions, key: Key::new(Kind::Name, subject) }
    }

    /// What it meant lately, if it was looked up.
    ///
    /// # Errors
    /// The store is open to others.
    pub(crate) fn cached(&self) -> Result<Option<ResourceId>> {
        let meant: Option<CachedName> = self.store.read(&self.key)?;
        let lately = meant.filter(|meant| unix_now().saturating_sub(meant.at) < NAME_LIFETIME);
        Ok(lately.and_then(|meant| meant.id.parse().ok()))
    }

    /// It means something else now.
    pub(crate) fn forget(&self) {
        self.store.remove(&self.key);
    }

    /// What it means now.
    ///
    /// # Errors
    /// See [`find`].
    pub(crate) async fn resolve_name(&self) -> Result<ResourceId> {
        let _lock = self.store.lock(&self.key).await;
        // Whoever had the lock before has done the work.
        if let Some(id) = self.cached()? {
            return Ok(id);
        }
        let id = find(self.arm, self.name, &self.subscriptions).await?.id;
        self.store.write(&self.key, &CachedName { id: id.to_string(), at: unix_now() });
        Ok(id)
    }
}

/// The one machine of a list that a name means; a resource ID that is not in the list is asked for.
///
/// # Errors
/// [`AmbiguousName`]; what Azure refuses.
pub(crate) async fn resolve(arm: &Arm, name: &MachineRef, known: &[Machine]) -> Result<Machine> {
    let found: Vec<&Machine> = known.iter().filter(|machine| name.matches(machine)).collect();
    match (&found[..], name) {
        ([machine], _) => Ok((*machine).clone()),
        // A machine that may not be read can still be connected to.
        ([], MachineRef::Id(id)) => Ok(show(arm, id).await?.unwrap_or_else(|| Machine::from_id(id.clone()))),
        (others, _) => bail!(AmbiguousName::among(name, others)),
    }
}

/// What came of the work on several machines.
///
/// # Errors
/// That of the one machine there was; [`SomeFailed`] of several.
pub(crate) fn all_done<T>(results: Vec<Result<T>>) -> Result<()> {
    let total = results.len();
    let mut errors: Vec<Error> = results.into_iter().filter_map(Result::err).collect();
    match (errors.pop(), total) {
        (None, _) => Ok(()),
        (Some(error), 1) => Err(error),
        (Some(last), _) => {
            errors.push(last);
            bail!(SomeFailed(errors))
        }
    }
}

/// Machines that something went wrong with, each as the context of what it was.
#[derive(Debug, thiserror::Error)]
#[error("not all machines can be reached")]
pub(crate) struct SomeFailed(pub(crate) Vec<Error>);

/// A command was to act on machines, and none was named.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("no machine is named")]
pub(crate) struct NothingSelected {
    /// The command.
    pub(crate) command: &'static str,
}

/// Machines were named by what they have in common, and none has that.
#[derive(Debug, thiserror::Error)]
#[error("no Arc machine that this identity sees fits {}", if .0.is_empty() { "--all" } else { .0 })]
pub(crate) struct NoMatch(pub(crate) String);

/// The identity sees nothing of Azure: it is at home in another tenant, or has no role.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("this identity sees no subscription")]
pub(crate) struct NoSubscriptions;

/// A name that no machine has, or several have.
#[derive(Debug)]
pub(crate) struct AmbiguousName {
    /// As it was given.
    pub(crate) name: String,
    /// `GROUP/NAME` of those that have it.
    pub(crate) candidates: Vec<String>,
}

impl AmbiguousName {
    fn among(name: &MachineRef, machines: &[&Machine]) -> Self {
        let candidates = machines.iter().map(|m| format!("{}/{}", m.id.resource_group, m.id.name)).collect();
        Self { name: name.to_string(), candidates }
    }
}

impl fmt::Display for AmbiguousName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.candidates.len() {
            0 => write!(f, "no Arc machine that this identity sees is called {}", self.name),
            n => write!(f, "{n} machines are called {}: {}", self.name, self.candidates.join(", ")),
        }
    }
}

impl std::error::Error for AmbiguousName {}

/// A host entry of arcssh's in an ssh configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Written {
    /// The first name that may be typed for it.
    pub(crate) alias: String,
    /// The key of its machine; see [`key`].
    pub(crate) machine: String,
    /// Whether it has a `HostKeyAlias`, so that ssh records the machine's host key under that and not under a name.
    pub(crate) has_key_alias: bool,
}

/// The host entries of a configuration that lead to a machine by arcssh, by machine.
pub(crate) fn written(text: &str) -> BTreeMap<String, Vec<Written>> {
    let entry = |(patterns, values): (Vec<String>, effective_config::Expected)| {
        let (_, command) = values.iter().find(|(keyword, _)| keyword == "proxycommand")?;
        let id =
            command.split_whitespace().find_map(|word| word.trim_matches('"').parse::<ResourceId>().ok())?;
        Some(Written {
            alias: patterns.into_iter().find(|pattern| !pattern.contains(['*', '?', '!']))?,
            machine: id.to_string().to_lowercase(),
            has_key_alias: values.iter().any(|(keyword, _)| keyword == "hostkeyalias"),
        })
    };
    let mut entries: BTreeMap<String, Vec<Written>> = BTreeMap::new();
    for written in effective_config::sections(text).into_iter().filter_map(entry) {
        entries.entry(written.machine.clone()).or_default().push(written);
    }
    entries
}

/// How a machine may get its own name as an alias.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Claim {
    /// The user named the machine: its own name, whatever else uses it.
    ByUser {
        /// Whether the user did so just now, so that an alias of an earlier run gives way to the name.
        just_now: bool,
    },
    /// A broad selection takes it: a name that nothing else uses, without a dot.
    #[default]
    ByWhatIsFree,
    /// The same, and a name that the user allowed.
    Allowed,
}

/// What has to be known to name machines for ssh.
pub(crate) struct Naming<'a> {
    /// Names that ssh uses for something else.
    pub(crate) used: &'a UsedNames,
    /// The host entries of an earlier run, by machine. Their aliases stay as long as they are safe.
    pub(crate) written: BTreeMap<String, Vec<Written>>,
    /// Whether that run looked for them among known hosts.
    pub(crate) written_checked: bool,
    /// Aliases of other host entries in the block, in lower case.
    pub(crate) taken: BTreeSet<String>,
}

/// An alias for a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Alias {
    /// What may be typed: in lower case first, and as Azure spells it.
    pub(crate) patterns: Vec<String>,
    /// Why it is not the machine's own name.
    pub(crate) instead: Option<String>,
    /// Where the name is used for something else, which the host entry overrides.
    pub(crate) overrides: Option<Place>,
}

/// Why a machine does not get its own name, even if the user names it.
pub(crate) const SHARED: &str = "another machine or host entry has its name";

impl Naming<'_> {
    /// Names each machine, by its own name or by `name.group` and more of its ID. No two machines get one name. `None`
    /// for a machine of which ssh accepts no name.
    ///
    /// A user who can onboard a machine chooses its name, and often its group. A name that is not the user's own word must
    /// therefore never be one that the user types for something else.
    pub(crate) fn aliases(
        &self,
        machines: &[Machine],
        claim: impl Fn(&Machine) -> Claim,
    ) -> Vec<Option<Alias>> {
        let mut counts = BTreeMap::new();
        for form in machines.iter().flat_map(alias_candidates) {
            *counts.entry(form.to_lowercase()).or_insert(0) += 1;
        }
        let mut reserved = BTreeMap::new();
        for machine in machines {
            let (key, claim) = (key(machine), claim(machine));
            let cached = self
                .written
                .get(&key)
                .into_iter()
                .flatten()
                .filter(|written| self.stays(machine, written, &claim));
            if let Some(Written { alias, .. }) = { cached }.next() {
                reserved.entry(alias.to_lowercase()).or_insert(key);
            }
        }
        let is_free = |form: &str, machine: &Machine| match reserved.get(form) {
            Some(owner) => *owner == key(machine),
            None => counts.get(form) == Some(&1) && !self.taken.contains(form),
        };
        let alias = |machine: &Machine| {
            let claim = claim(machine);
            let alias_candidates =
                alias_candidates(machine).into_iter().filter(|form| is_free(&form.to_lowercase(), machine));
            let alias_candidates: Vec<String> = alias_candidates.collect();
            let may_be = |form: &&String| self.objection(machine, form, &claim).is_none();
            let is_kept = |form: &&String| reserved.get(&form.to_lowercase()) == Some(&key(machine));
            let is_own =
                |form: &&String| **form == machine.id.name && claim == Claim::ByUser { just_now: true };
            let at_once = alias_candidates
                .iter()
                .find(is_own)
                .filter(may_be)
                .or_else(|| alias_candidates.iter().find(is_kept));
            let chosen = at_once.or_else(|| alias_candidates.iter().find(may_be))?;
            Some(self.alias(machine, chosen, &claim))
        };
        machines.iter().map(alias).collect()
    }

    fn alias(&self, machine: &Machine, name: &str, claim: &Claim) -> Alias {
        let is_own = name == machine.id.name;
        let lower = name.to_lowercase();
        let objection = || self.objection(machine, &machine.id.name, claim);
        Alias {
            instead: (!is_own).then(|| objection().unwrap_or_else(|| SHARED.into())),
            overrides: Some(name)
                .filter(|_| is_own && *claim != Claim::ByWhatIsFree)
                .and_then(|name| self.overridden(name)),
            patterns: if lower == name { vec![lower] } else { vec![lower, name.to_owned()] },
        }
    }

    /// Where a name is used that a machine gets nevertheless.
    fn overridden(&self, name: &str) -> Option<Place> {
        let known = || self.used.among_known_hosts(name, Use::AnyPattern);
        self.used.in_configuration(name, Use::AnyPattern).or_else(known)
    }

    /// Whether the alias of an earlier run is still one of the machine's.
    fn stays(&self, machine: &Machine, written: &Written, claim: &Claim) -> bool {
        let form =
            alias_candidates(machine).into_iter().find(|form| form.eq_ignore_ascii_case(&written.alias));
        form.is_some_and(|form| self.objection(machine, &form, claim).is_none())
    }

    /// Why a form of a machine's name must not be an alias.
    fn objection(&self, machine: &Machine, form: &str, claim: &Claim) -> Option<String> {
        let is_own = form == machine.id.name;
        if !is_alias(form) {
            return Some("ssh does not accept its name as a host name".into());
        }
        if is_own && matches!(claim, Claim::ByUser { .. }) {
            return None;
        }
        if is_address(form) {
            return Some("its name is an IP address".into());
        }
        if is_this_computer(form) {
            return Some("its name means this computer or its router".into());
        }
        if is_own && *claim == Claim::Allowed {
            return None;
        }
        if is_own && form.contains('.') {
            return Some("its name contains a dot, as names in DNS do".into());
        }
        if *form == grouped(machine) && is_like_dns(&machine.id.resource_group) {
            return Some("its name and group together can be a name in DNS".into());
        }
        self.place(machine, form).map(|place| format!("ssh already uses its name: {place}"))
    }

    /// Where ssh uses the name for something else. Known hosts have the name of an entry without `HostKeyAlias` because of
    /// that entry. The user's own lines for a host entry that is there add to it, unless they connect it to another host.
    fn place(&self, machine: &Machine, form: &str) -> Option<Place> {
        let own = &machine.id.name;
        let how = if form == own { Use::AnyPattern } else { Use::NoPatternOf(own) };
        let is_it = |written: &&Written| written.alias.eq_ignore_ascii_case(form);
        let written = self.written.get(&key(machine)).into_iter().flatten().find(is_it);
        let is_checked = written.is_some_and(|written| self.written_checked || !written.has_key_alias);
        let known = || if is_checked { None } else { self.used.among_known_hosts(form, how) };
        let configured = match written.is_some() && self.written_checked {
            true => self.used.redirected(form, how),
            false => self.used.in_configuration(form, how),
        };
        configured.or_else(known)
    }
}

/// Whether a name matches one of the patterns, in any case.
pub(crate) fn is_allowed<'a>(name: &str, mut patterns: impl Iterator<Item = &'a String>) -> bool {
    patterns.any(|pattern| matches(&pattern.to_lowercase(), &name.to_lowercase()))
}

/// The names of machines in this user's ssh configuration; for those that have none, the names that a broad
/// `arcssh config` would write.
fn written_or_new(machines: &[Machine]) -> Vec<Option<Vec<String>>> {
    let file = managed_block::default_path().unwrap_or_default();
    let written = written(&managed_block::read(&file).unwrap_or_default());
    let used = UsedNames::here(&file);
    let naming =
        Naming { used: &used, written: BTreeMap::new(), written_checked: false, taken: BTreeSet::new() };
    let patterns = |(machine, alias): (&Machine, Option<Alias>)| {
        let key = key(machine);
        let entries = || written.get(&key).into_iter().flatten().map(|entry| &entry.alias);
        let is_form =
            |alias: &&String| alias_candidates(machine).iter().any(|form| form.eq_ignore_ascii_case(alias));
        let there = entries().find(is_form).or_else(|| entries().next());
        there.map(|alias| vec![alias.to_lowercase()]).or(alias.map(|alias| alias.patterns))
    };
    machines.iter().zip(naming.aliases(machines, |_| Claim::default())).map(patterns).collect()
}

/// Whether this is what the machine can be called: its ID, `GROUP/NAME`, or what an alias can be, in any case.
pub(crate) fn is_called(id: &ResourceId, text: &str) -> bool {
    let machine = Machine::from_id(id.clone());
    refers_to(text, &machine) || alias_candidates(&machine).iter().any(|form| form.eq_ignore_ascii_case(text))
}

/// What follows a name and a group that can be a name in DNS. A top-level domain has no hyphen unless it begins with
/// `xn--` (RFC 3696, section 2).
pub(crate) const SUFFIX: &str = "azure-arc";

/// What a machine can be called, the shortest first.
fn alias_candidates(machine: &Machine) -> [String; 5] {
    let id = &machine.id;
    let grouped = grouped(machine);
    let full = format!("{grouped}.{}", id.subscription);
    let typed = format!("{full}.{}", id.namespace);
    [id.name.clone(), grouped.clone(), format!("{grouped}.{SUFFIX}"), full, typed]
}

fn grouped(machine: &Machine) -> String {
    format!("{}.{}", machine.id.name, machine.id.resource_group)
}

/// Whether a name in DNS can end like this: its last label is alphabetic or begins with `xn--` (RFC 3696, section 2).
fn is_like_dns(name: &str) -> bool {
    let last = name.trim_end_matches('.').rsplit('.').next().unwrap_or_default();
    last.chars().all(char::is_alphabetic) || last.to_lowercase().starts_with("xn--")
}

/// Whether a name is an IPv4 address in a form that `inet_aton` accepts: one to four numbers, decimal, octal or
/// hexadecimal. An alias holds no colon, so that it is no IPv6 address.
fn is_address(name: &str) -> bool {
    let is_number = |part: &str| match part.strip_prefix("0x").or(part.strip_prefix("0X")) {
        Some(digits) => digits.chars().all(|c| c.is_ascii_hexdigit()),
        None => !part.is_empty() && part.chars().all(|c| c.is_ascii_digit()),
    };
    let parts: Vec<&str> = name.strip_suffix('.').unwrap_or(name).split('.').collect();
    parts.len() <= 4 && parts.into_iter().all(is_number)
}

/// Whether a name is one of the loopback's (RFC 6761, section 6.3; hosts(5) of Debian and macOS), or is always resolved to
/// an address of this computer or its router (nss-myhostname(8)).
fn is_this_computer(name: &str) -> bool {
    let lower = name.to_lowercase();
    let name = lower.strip_suffix('.').unwrap_or(&lower);
    let is_local = |label: Option<&str>| {
        label.is_some_and(|label| ["localhost", "localhost4", "localhost6"].contains(&label))
    };
    ["ip6-localhost", "ip6-loopback", "broadcasthost", "loopback", "_gateway", "_outbound"].contains(&name)
        || is_local(name.rsplit('.').next())
        || name.ends_with(".localdomain") && is_local(name.split('.').next())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(group: &str, name: &str) -> Machine {
        let id = format!(
            "/subscriptions/0a363e8c-a728-4970-8108-d104b63cb74f/resourceGroups/{group}/providers/Microsoft.HybridCompute/machines/{name}"
        );
        Machine::from_id(id.parse().unwrap())
    }

    fn names(
        machines: &[Machine],
        written: BTreeMap<String, Vec<Written>>,
        claim: impl Fn(&Machine) -> Claim,
    ) -> Vec<String> {
        let used = UsedNames::default();
        let naming = Naming { used: &used, written, written_checked: true, taken: BTreeSet::new() };
        let first = |alias: Option<Alias>| alias.unwrap().patterns.swap_remove(0);
        naming.aliases(machines, claim).into_iter().map(first).collect()
    }

    #[test]
    fn every_spelling_of_an_address_is_an_address() {
        for address in
            ["10.0.0.1", "10.1", "2130706433", "0x7f.1", "0X7F000001", "0177.0.0.01", "1.2.3.4.", "10"]
        {
            assert!(is_address(address), "{address}");
        }
        for name in ["web01", "1.2.3.4.5", "10.rg-arc", "0xyz", "deadbeef", "1a", ""] {
            assert!(!is_address(name), "{name}");
        }
    }

    #[test]
    fn a_broad_selection_gets_no_name_that_means_something_else() {
        for (group, name, alias) in [
            ("rg-arc", "web01", "web01"),
            ("rg-arc", "github.com", "github.com.rg-arc"),
            ("com", "github", "github"),
            ("com", "www.github", "www.github.com.azure-arc"),
            ("github.com", "api.v3", "api.v3.github.com.azure-arc"),
            ("xn--p1ai", "a.b", "a.b.xn--p1ai.azure-arc"),
            ("rg-arc", "localhost", "localhost.rg-arc"),
            ("localhost", "a.b", "a.b.localhost.azure-arc"),
            ("rg-arc", "2130706433", "2130706433.rg-arc"),
            ("1", "10", "10.1.azure-arc"),
        ] {
            assert_eq!(
                names(&[machine(group, name)], BTreeMap::new(), |_| Claim::default()),
                [alias],
                "{group}/{name}"
            );
        }
    }

    #[test]
    fn the_user_and_an_allowed_pattern_give_a_machine_its_own_name() {
        let all = ["github.com", "localhost", "10.1"].map(|name| machine("rg-arc", name));
        let named = names(&all, BTreeMap::new(), |_| Claim::ByUser { just_now: false });
        assert_eq!(named, ["github.com", "localhost", "10.1"]);
        let allowed = names(&all, BTreeMap::new(), |_| Claim::Allowed);
        assert_eq!(allowed, ["github.com", "localhost.rg-arc", "10.1.rg-arc"]);
    }

    #[test]
    fn a_machine_that_is_new_takes_no_name_from_one_that_has_it() {
        let all = [machine("rg-a", "web01"), machine("rg-evil", "web01")];
        assert_eq!(names(&all, BTreeMap::new(), |_| Claim::default()), ["web01.rg-a", "web01.rg-evil"]);
        let first = Written { alias: "web01".into(), machine: key(&all[0]), has_key_alias: true };
        assert_eq!(
            names(&all, BTreeMap::from([(first.machine.clone(), vec![first])]), |_| Claim::default()),
            ["web01", "web01.rg-evil"]
        );
    }
}
