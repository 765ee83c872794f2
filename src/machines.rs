//! Selects machines, resolves their names, and chooses their aliases for ssh.

pub(crate) mod seen;

use std::collections::{BTreeMap, BTreeSet};

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use strsim::damerau_levenshtein;
use tracing::info;
use uuid::Uuid;

use crate::azure::arm::{Arm, ArmError};
use crate::azure::hybrid_compute::filter::{ArcType, OperatingSystem, Status, word};
use crate::azure::hybrid_compute::{self, Machine, MachineRef, list, list_named, show, subscription_names};
use crate::azure::hybrid_connectivity::Service;
use crate::azure::resource_id::{ResourceId, ResourceIdError};
use crate::azure::target::Target;
use crate::ssh::effective_config::{self, Location};
use crate::ssh::host_entry::is_alias;
use crate::ssh::managed_block;
use crate::ssh::patterns::{is_wildcard, matches};
use crate::ssh::used_names::{Use, UsedNames};
use crate::state::{Key, Kind, Store};
use crate::system::SystemError;
use crate::system::clock::unix_now;
use crate::text::{shell_quote, strip_suffix};

/// A selection of machines: by name, or by a filter of groups, subscriptions and tags.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct MachineSelector {
    /// Names, `GROUP/NAME` and resource IDs.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub(crate) machines: BTreeSet<String>,
    /// Resource groups; all their machines are selected.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub(crate) groups: BTreeSet<String>,
    /// Subscriptions to search; if empty, all that the account can see.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub(crate) subscriptions: BTreeSet<String>,
    /// `KEY=VALUE` tags that the machines must have.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub(crate) tags: BTreeSet<String>,
    /// Operating systems; a machine has one of them.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub(crate) os: BTreeSet<OperatingSystem>,
    /// Types of the machines' resource IDs.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub(crate) types: BTreeSet<ArcType>,
    /// Statuses. A host entry must not disappear because its machine is offline, so `arcssh config` has no status.
    #[serde(skip)]
    pub(crate) statuses: BTreeSet<Status>,
    /// Whether all machines are selected.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) all: bool,
    /// Machines that `arcssh config --remove` excluded, until the user names them again.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub(crate) except: BTreeSet<String>,
}

impl MachineSelector {
    /// Returns whether this selects nothing.
    pub(crate) fn is_empty(&self) -> bool {
        self.machines.is_empty() && !self.is_filter()
    }

    /// Returns whether both select the same machines: only a tag's value depends on case (Azure docs, "Use tags to organize
    /// your Azure resources").
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
            // The other filters narrow all machines.
            all: self.all && !self.is_narrowed(),
            ..self.clone()
        }
    }

    /// Returns whether this selects machines by a property, or all.
    pub(crate) fn is_filter(&self) -> bool {
        self.all || self.is_narrowed()
    }

    fn is_narrowed(&self) -> bool {
        let Self { groups, tags, os, types, statuses, .. } = self;
        !(groups.is_empty() && tags.is_empty() && os.is_empty() && types.is_empty() && statuses.is_empty())
    }

    /// Returns the options of the filter, as on a command line; empty for all machines.
    pub(crate) fn filter_options(&self) -> String {
        let options = |option: &str, values: &BTreeSet<String>| -> Vec<String> {
            values.iter().map(|value| format!("{option} {}", shell_quote(value))).collect()
        };
        let subscriptions = options("--subscription", &self.subscriptions);
        let properties =
            [words("--os", &self.os), words("--type", &self.types), words("--status", &self.statuses)];
        let properties = properties.concat();
        [options("-g", &self.groups), options("--tag", &self.tags), properties, subscriptions]
            .concat()
            .join(" ")
    }

    fn is_in_subscription(&self, machine: &Machine) -> bool {
        self.subscriptions.is_empty()
            || self.subscriptions.iter().any(|id| id.eq_ignore_ascii_case(&machine.id.subscription))
    }

    /// Returns whether the filter matches the machine.
    pub(crate) fn selects(&self, machine: &Machine) -> bool {
        let in_group = self.groups.is_empty()
            || self.groups.iter().any(|group| group.eq_ignore_ascii_case(&machine.id.resource_group));
        let has_tag = |tag: &String| {
            let (key, value) = tag.split_once('=').unwrap_or((tag, ""));
            machine.tags.iter().any(|(k, v)| k.eq_ignore_ascii_case(key) && v == value)
        };
        let is_excluded = self.except.iter().any(|text| refers_to(text, machine));
        let has_properties = is_any(&self.os, |os| os.is_of(machine))
            && is_any(&self.types, |arc_type| arc_type.is_of(machine))
            && is_any(&self.statuses, |status| status.is_of(machine));
        self.is_filter()
            && self.is_in_subscription(machine)
            && in_group
            && self.tags.iter().all(has_tag)
            && has_properties
            && !is_excluded
    }
}

/// Returns whether no value is selected, or one of the selected values fits.
fn is_any<T: Copy>(values: &BTreeSet<T>, fits: impl Fn(T) -> bool) -> bool {
    values.is_empty() || values.iter().any(|value| fits(*value))
}

/// Returns the option with each value, as on a command line.
fn words<T: ValueEnum>(option: &str, values: &BTreeSet<T>) -> Vec<String> {
    values.iter().map(|value| format!("{option} {}", word(value))).collect()
}

/// Returns whether a name, `GROUP/NAME` or resource ID refers to the machine.
pub(crate) fn refers_to(text: &str, machine: &Machine) -> bool {
    text.parse::<MachineRef>().is_ok_and(|name| name.matches(machine))
}

/// A machine and its names for ssh.
#[derive(Clone, Debug)]
pub(crate) struct NamedMachine {
    pub(crate) machine: Machine,
    /// The alias, if the aliases have a suffix, else the machine's own name.
    pub(crate) name: String,
    /// The alias of its host entry if the ssh configuration has one, else the names that `arcssh config` would write.
    /// `None` if ssh accepts no name of the machine.
    pub(crate) patterns: Option<Vec<String>>,
    /// The name that ssh knows from a host entry in the user's ssh configuration.
    pub(crate) host_entry: Option<String>,
    /// The machine as an argument of commands; see [`Names::argument`].
    pub(crate) argument: String,
    /// Whether another machine has the same name.
    is_namesake: bool,
}

impl NamedMachine {
    /// Returns the name for messages: the machine's own, or the argument if other machines have that name.
    pub(crate) fn distinct_name(&self) -> &str {
        if self.is_namesake { &self.argument } else { &self.machine.id.name }
    }

    /// Returns the target of a connection to the machine.
    pub(crate) fn target(&self, service: Service, port: u16) -> Target {
        let target = Target::new(&self.machine.id, service, port);
        Target { name: self.distinct_name().to_owned(), argument: self.argument.clone(), ..target }
    }
}

/// The machines of a selection.
#[derive(Debug)]
pub(crate) struct Selection {
    /// Ordered by name and group, each once.
    pub(crate) machines: Vec<NamedMachine>,
    /// The names of the subscriptions, by ID in lower case, if the machines are in several.
    pub(crate) subscriptions: BTreeMap<String, String>,
    /// Why a part of the filter matches no machine.
    unmatched: Option<SelectError>,
}

impl Selection {
    /// Returns the machines: at least one, and one for each group and tag of the filter.
    ///
    /// # Errors
    /// [`SelectError::NoMatch`].
    pub(crate) fn complete(self) -> Result<Self, SelectError> {
        match self.unmatched {
            Some(error) => Err(error),
            None => Ok(self),
        }
    }
}

/// Returns the selected machines.
///
/// # Errors
/// [`SelectError::Ambiguous`]; [`SelectError::NoSubscription`]; Azure rejects a request.
pub(crate) async fn select(
    arm: &Arm,
    store: &Store,
    selector: &MachineSelector,
) -> Result<Selection, SelectError> {
    let selector = &with_subscription_ids(arm, selector.clone()).await?;
    let names: Vec<MachineRef> =
        selector.machines.iter().map(|text| text.parse()).collect::<Result<_, _>>()?;
    let by_id = names.iter().all(|name| matches!(name, MachineRef::Id(_))) && !selector.is_filter();
    let subscriptions: Vec<String> = selector.subscriptions.iter().cloned().collect();
    // The alias of a machine depends on the names of all others.
    let mut known = match list_visible(arm, store, &subscriptions).await {
        Err(error) if by_id => {
            info!("choosing aliases without a list of all machines: {error}");
            Vec::new()
        }
        machines => machines?,
    };
    let mut keys: BTreeSet<String> = known.iter().map(key).collect();
    let listed = keys.clone();
    let mut selected: BTreeSet<String> =
        known.iter().filter(|machine| selector.selects(machine)).map(key).collect();
    let file = managed_block::default_path().unwrap_or_default();
    let config = managed_block::read(&file).unwrap_or_default();
    let suffix = managed_block::suffix(&config);
    for text in &selector.machines {
        let text = without_suffix(text, &suffix, &known);
        let machine = match resolve(arm, &text.parse()?, &known).await {
            Err(SelectError::Unknown { .. }) => pick(arm, text, &known).await?,
            machine => machine?,
        };
        selected.insert(key(&machine));
        if keys.insert(key(&machine)) {
            known.push(machine);
        }
    }
    let unmatched = ensure_matches(selector, &known).err();
    let patterns = written_or_new(&known, &config, &UsedNames::here(&file));
    let names = Names::of(known.iter().map(|machine| &machine.id));
    let mut named: Vec<NamedMachine> = Vec::new();
    for (machine, (patterns, host_entry)) in known.into_iter().zip(patterns) {
        if selected.contains(&key(&machine)) {
            let alias = patterns.iter().flatten().next().filter(|_| !suffix.is_empty());
            let name = alias.unwrap_or(&machine.id.name).clone();
            // Azure finds a machine by its name only if the account can read it.
            let is_listed = listed.contains(&key(&machine));
            let argument = if is_listed { names.argument(&machine.id) } else { machine.id.to_string() };
            let is_namesake = names.is_namesake(&machine.id);
            named.push(NamedMachine { name, machine, patterns, host_entry, argument, is_namesake });
        }
    }
    named.sort_by_key(|named| (named.machine.id.name.to_lowercase(), key(&named.machine)));
    let ids: Vec<ResourceId> = named.iter().map(|named| named.machine.id.clone()).collect();
    let subscriptions = names_of_several(arm, &ids).await;
    seen::record_subscriptions(store, arm.authority(), &subscriptions);
    Ok(Selection { machines: named, subscriptions, unmatched })
}

/// Returns the names of subscriptions by their ID in lower case, if the machines are in several and Azure returns the names.
/// Leaves out a name that several subscriptions have.
async fn names_of_several(arm: &Arm, ids: &[ResourceId]) -> BTreeMap<String, String> {
    let distinct: BTreeSet<String> = ids.iter().map(|id| id.subscription.to_lowercase()).collect();
    if distinct.len() < 2 {
        return BTreeMap::new();
    }
    let mut names = subscription_names(arm).await.unwrap_or_else(|error| {
        info!("cannot read the names of subscriptions: {error}");
        BTreeMap::new()
    });
    let all: Vec<String> = names.values().cloned().collect();
    names.retain(|_, name| !name.is_empty() && all.iter().filter(|other| *other == name).count() == 1);
    names
}

/// Returns the selection with the IDs of subscriptions whose names it has.
///
/// # Errors
/// [`SelectError::UnknownSubscription`]; Azure rejects the request.
pub(crate) async fn with_subscription_ids(
    arm: &Arm,
    mut selector: MachineSelector,
) -> Result<MachineSelector, SelectError> {
    selector.subscriptions = subscription_ids(arm, selector.subscriptions).await?;
    Ok(selector)
}

/// Replaces names of subscriptions by their IDs, which are GUIDs. Several subscriptions can have the same name.
async fn subscription_ids(arm: &Arm, texts: BTreeSet<String>) -> Result<BTreeSet<String>, SelectError> {
    if texts.iter().all(|text| Uuid::parse_str(text).is_ok()) {
        return Ok(texts);
    }
    let names = subscription_names(arm).await?;
    let mut ids = BTreeSet::new();
    for text in texts {
        let lower = text.to_lowercase();
        let is_meant = |id: &str, name: &str| id == lower || name.to_lowercase() == lower;
        let before = ids.len();
        ids.extend(names.iter().filter(|(id, name)| is_meant(id, name)).map(|(id, _)| id.clone()));
        if ids.len() == before && Uuid::parse_str(&text).is_ok() {
            ids.insert(text);
        } else if ids.len() == before {
            let similar = similar(&text, names.iter().flat_map(|(id, name)| [name.as_str(), id.as_str()]));
            return Err(SelectError::UnknownSubscription { name: text, similar });
        }
    }
    Ok(ids)
}

/// Fails if a filter, or one of its groups, matches no machine.
///
/// # Errors
/// [`SelectError::NoMatch`].
pub(crate) fn ensure_matches(selector: &MachineSelector, known: &[Machine]) -> Result<(), SelectError> {
    let no_match = |selector: &MachineSelector, similar| {
        let total = known.iter().filter(|machine| selector.is_in_subscription(machine)).count();
        Err(SelectError::NoMatch { filter: selector.filter_options(), similar, total })
    };
    let matches = |selector: &MachineSelector| known.iter().any(|machine| selector.selects(machine));
    for group in &selector.groups {
        let only = MachineSelector {
            groups: BTreeSet::from([group.clone()]),
            subscriptions: selector.subscriptions.clone(),
            except: selector.except.clone(),
            ..MachineSelector::default()
        };
        if !matches(&only) {
            let groups = known.iter().map(|machine| machine.id.resource_group.as_str());
            return no_match(&only, similar(group, groups));
        }
    }
    if !selector.is_filter() || matches(selector) {
        return Ok(());
    }
    let has = |tag: &&String| {
        let only = MachineSelector { tags: BTreeSet::from([(*tag).clone()]), ..MachineSelector::default() };
        matches(&only)
    };
    let unknown = selector.tags.iter().find(|tag| !has(tag));
    let tags = known.iter().flat_map(|machine| &machine.tags).map(|(key, value)| format!("{key}={value}"));
    let tags: BTreeSet<String> = tags.collect();
    let similar = unknown.map(|tag| similar(tag, tags.iter().map(String::as_str)));
    no_match(selector, similar.unwrap_or_else(|| other_properties(selector, known)))
}

/// Returns the options that would match in place of the operating systems, types and statuses of a selection.
fn other_properties(selector: &MachineSelector, known: &[Machine]) -> Vec<String> {
    fn present<T: ValueEnum + Ord>(found: &[&Machine], is_of: fn(T, &Machine) -> bool) -> BTreeSet<T> {
        let all = T::value_variants().iter().cloned();
        all.filter(|value| found.iter().any(|machine| is_of(value.clone(), machine))).collect()
    }
    let without = |change: fn(&mut MachineSelector)| {
        let mut other = MachineSelector { all: true, ..selector.clone() };
        change(&mut other);
        known.iter().filter(|machine| other.selects(machine)).collect::<Vec<_>>()
    };
    let mut options = Vec::new();
    if !selector.statuses.is_empty() {
        let found = without(|other| other.statuses.clear());
        options.extend(words("--status", &present(&found, Status::is_of)));
    }
    if !selector.os.is_empty() {
        options.extend(words("--os", &present(&without(|other| other.os.clear()), OperatingSystem::is_of)));
    }
    if !selector.types.is_empty() {
        options.extend(words("--type", &present(&without(|other| other.types.clear()), ArcType::is_of)));
    }
    options
}

/// The most suggestions in an error.
const MAX_SUGGESTIONS: usize = 3;

/// Returns the names that a text with a typing error may mean: those with the fewest differences, in at most a third of its
/// characters, or else those that contain the text or are a part of it.
pub(crate) fn similar<'a>(text: &str, names: impl Iterator<Item = &'a str>) -> Vec<String> {
    let text = text.to_lowercase();
    let length = text.chars().count();
    let limit = (length / 3).max(1).min(length.saturating_sub(1));
    let contains = |name: &str| length > 1 && name.contains(&text) || name.len() > 1 && text.contains(name);
    let rank = |name: &str| {
        let lower = name.to_lowercase();
        let distance = damerau_levenshtein(&text, &lower);
        let is_part = distance > limit;
        (!is_part || contains(&lower)).then(|| (is_part, if is_part { 0 } else { distance }, name.to_owned()))
    };
    let names: BTreeSet<&str> = names.collect();
    let mut found: Vec<_> = names.into_iter().filter_map(rank).collect();
    found.sort();
    let best = found.first().map(|(is_part, distance, _)| (*is_part, *distance));
    let is_best = |(is_part, distance, _): &(bool, usize, String)| Some((*is_part, *distance)) == best;
    found.into_iter().filter(is_best).take(MAX_SUGGESTIONS).map(|(_, _, name)| name).collect()
}

/// Lists the machines of these subscriptions, or of all subscriptions that the account can see, and stores their names for
/// shell completion.
///
/// # Errors
/// [`SelectError::NoSubscription`], for which Azure returns an empty list; Azure rejects a request.
pub(crate) async fn list_visible(
    arm: &Arm,
    store: &Store,
    subscriptions: &[String],
) -> Result<Vec<Machine>, SelectError> {
    let machines = ensure_subscription(arm, list(arm, subscriptions).await?).await?;
    seen::record(store, arm.authority(), subscriptions, &machines);
    Ok(machines)
}

async fn ensure_subscription(arm: &Arm, machines: Vec<Machine>) -> Result<Vec<Machine>, SelectError> {
    if machines.is_empty() && matches!(hybrid_compute::subscriptions(arm).await, Ok((0, _))) {
        return Err(SelectError::NoSubscription);
    }
    Ok(machines)
}

/// How often machines have a name.
pub(crate) struct Names(BTreeMap<String, usize>);

impl Names {
    /// Counts the names of different machines.
    pub(crate) fn of<'a>(machines: impl Iterator<Item = &'a ResourceId>) -> Self {
        let mut counts = BTreeMap::new();
        let different: BTreeMap<String, &ResourceId> =
            machines.map(|id| (id.to_string().to_lowercase(), id)).collect();
        for name in
            different.into_values().flat_map(|id| [vec![id.name.clone()], arguments(id).into()].concat())
        {
            *counts.entry(name.to_lowercase()).or_insert(0) += 1;
        }
        Self(counts)
    }

    /// Counts the names of these machines and of those in the user's ssh configuration.
    pub(crate) fn with_configured(machines: &[ResourceId]) -> Self {
        let configured: Vec<ResourceId> = configured().keys().filter_map(|id| id.parse().ok()).collect();
        Self::of(machines.iter().chain(&configured))
    }

    fn is_shared(&self, name: &str) -> bool {
        self.0.get(&name.to_lowercase()).is_some_and(|count| *count > 1)
    }

    /// Returns whether several machines have the name of this one.
    pub(crate) fn is_namesake(&self, id: &ResourceId) -> bool {
        self.is_shared(&id.name)
    }

    /// Returns the machine as an argument of commands: the first of its names that no other machine has, or its resource ID.
    pub(crate) fn argument(&self, id: &ResourceId) -> String {
        arguments(id).into_iter().find(|name| !self.is_shared(name)).unwrap_or_else(|| id.to_string())
    }
}

/// Returns the host entries in the user's ssh configuration, by machine.
fn configured() -> BTreeMap<String, Vec<Written>> {
    written(&managed_block::text_of_user())
}

/// Returns the target with names that no other machine of the user's ssh configuration has.
pub(crate) fn distinguished(target: Target) -> Target {
    let Some(id) = &target.machine else { return target };
    let names = Names::with_configured(std::slice::from_ref(id));
    let argument = names.argument(id);
    // A name that the user typed ends like the pattern of a wildcard.
    if target.name != id.name || !names.is_namesake(id) {
        return Target { argument, ..target };
    }
    let entries = configured().remove(&id.to_string().to_lowercase()).unwrap_or_default();
    let alias = entries.into_iter().next().map(|entry| entry.alias);
    Target { name: alias.unwrap_or_else(|| argument.clone()), argument, ..target }
}

/// Returns texts for a machine that all commands accept: `GROUP/NAME`, and the aliases with the subscription.
fn arguments(id: &ResourceId) -> [String; 3] {
    let [.., full, typed] = alias_candidates(&Machine::from_id(id.clone()));
    [id.grouped_name(), full, typed]
}

/// Returns the machine's resource ID in lower case, as a key for comparisons.
pub(crate) fn key(machine: &Machine) -> String {
    machine.id.to_string().to_lowercase()
}

/// Finds the machine with this resource ID, `GROUP/NAME`, name or possible alias, in these subscriptions, or in all
/// that the account can see.
///
/// # Errors
/// [`SelectError::Ambiguous`]; [`SelectError::NoSubscription`]; Azure rejects a request.
pub(crate) async fn find(arm: &Arm, text: &str, subscriptions: &[String]) -> Result<Machine, SelectError> {
    let name: MachineRef = text.parse()?;
    if matches!(name, MachineRef::Id(_)) {
        return resolve(arm, &name, &[]).await;
    }
    let subscriptions = subscription_ids(arm, subscriptions.iter().cloned().collect()).await?;
    let subscriptions: Vec<String> = subscriptions.into_iter().collect();
    let known = list_named(arm, &subscriptions, &name).await?;
    pick(arm, text, &ensure_subscription(arm, known).await?).await
}

/// Finds the machine as [`find`] does. If there is none, the error suggests similar names of all machines.
///
/// # Errors
/// Those of [`find`].
pub(crate) async fn find_or_suggest(
    arm: &Arm,
    store: &Store,
    text: &str,
    subscriptions: &[String],
) -> Result<Machine, SelectError> {
    match find(arm, text, subscriptions).await {
        Err(SelectError::Unknown { .. }) if subscriptions.is_empty() => {
            pick(arm, text, &list_visible(arm, store, &[]).await?).await
        }
        result => result,
    }
}

/// Finds the machine as [`find`] does, in a list. A text that is the name of one machine and an alias of another one is
/// ambiguous.
///
/// # Errors
/// [`SelectError::Ambiguous`]; Azure rejects a request.
pub(crate) async fn pick(arm: &Arm, text: &str, known: &[Machine]) -> Result<Machine, SelectError> {
    let name: MachineRef = text.parse()?;
    if !matches!(name, MachineRef::Name { group: None, .. }) {
        return resolve(arm, &name, known).await;
    }
    let is_called =
        |machine: &&Machine| alias_candidates(machine).iter().any(|name| name.eq_ignore_ascii_case(text));
    match known.iter().filter(is_called).collect::<Vec<_>>()[..] {
        [machine] => Ok(machine.clone()),
        ref several => Err(not_one(&name, several, known)),
    }
}

/// Returns the text without the suffix of the host entries, unless it is a resource ID, or a machine has a name with that
/// suffix.
pub(crate) fn without_suffix<'a>(text: &'a str, suffix: &str, known: &[Machine]) -> &'a str {
    let is_name = text.starts_with('/') || known.iter().any(|machine| refers_to(text, machine));
    strip_suffix(text, suffix).filter(|name| !is_name && !name.is_empty()).unwrap_or(text)
}

/// The cached machine of a name in a wildcard host entry.
#[derive(Debug)]
pub(crate) struct NameCache<'a> {
    arm: &'a Arm,
    store: &'a Store,
    name: &'a str,
    subscriptions: Vec<String>,
    key: Key,
}

#[derive(Serialize, Deserialize)]
struct CachedName {
    id: String,
    /// When the name was resolved, in seconds of Unix time.
    at: u64,
}

/// How long a name is cached, in seconds: a day.
const NAME_LIFETIME: u64 = 86_400;

impl<'a> NameCache<'a> {
    /// Creates the cache of a name, in one subscription or in all; see [`find`].
    pub(crate) fn new(arm: &'a Arm, store: &'a Store, name: &'a str, subscription: Option<&str>) -> Self {
        let subscriptions: Vec<String> = subscription.into_iter().map(Into::into).collect();
        let scope = subscription.map_or(String::new(), |id| format!(" in {id}"));
        let key_name = format!("{} {}{scope}", arm.authority(), name.to_lowercase());
        Self { arm, store, name, subscriptions, key: Key::new(Kind::Name, key_name) }
    }

    /// Returns the cached machine, if it has not expired.
    ///
    /// # Errors
    /// Other users can access the state directory.
    pub(crate) fn cached(&self) -> Result<Option<ResourceId>, SelectError> {
        let cached: Option<CachedName> = self.store.read(&self.key)?;
        let fresh = cached.filter(|cached| unix_now().saturating_sub(cached.at) < NAME_LIFETIME);
        Ok(fresh.and_then(|cached| cached.id.parse().ok()))
    }

    /// Deletes the cached machine.
    pub(crate) fn forget(&self) {
        self.store.remove(&self.key);
    }

    /// Resolves the name and caches the machine.
    ///
    /// # Errors
    /// See [`find`].
    pub(crate) async fn resolve_name(&self) -> Result<ResourceId, SelectError> {
        let _lock = self.store.lock(&self.key).await;
        // Another process can have resolved the name while this one waited for the lock.
        if let Some(id) = self.cached()? {
            return Ok(id);
        }
        let id = find(self.arm, self.name, &self.subscriptions).await?.id;
        self.store.write(&self.key, &CachedName { id: id.to_string(), at: unix_now() });
        Ok(id)
    }
}

/// Finds the machine that a name refers to in a list. Requests a machine by its resource ID if the list does not
/// contain it.
///
/// # Errors
/// [`SelectError::Ambiguous`]; Azure rejects a request.
pub(crate) async fn resolve(arm: &Arm, name: &MachineRef, known: &[Machine]) -> Result<Machine, SelectError> {
    let found: Vec<&Machine> = known.iter().filter(|machine| name.matches(machine)).collect();
    match (&found[..], name) {
        ([machine], _) => Ok((*machine).clone()),
        // An account can connect to a machine without permission to read it.
        ([], MachineRef::Id(id)) => Ok(show(arm, id).await?.unwrap_or_else(|| Machine::from_id(id.clone()))),
        (others, _) => Err(not_one(name, others, known)),
    }
}

/// Returns the error of a name that no machine has, or several.
fn not_one(name: &MachineRef, found: &[&Machine], known: &[Machine]) -> SelectError {
    if found.is_empty() {
        return SelectError::Unknown { name: name.to_string(), similar: similar_machines(name, known) };
    }
    let names = Names::of(found.iter().map(|machine| &machine.id));
    let candidates = found.iter().map(|machine| names.argument(&machine.id)).collect();
    SelectError::Ambiguous { name: name.to_string(), candidates }
}

/// Returns names of machines in a list that are similar to an unknown name, or the group with that name.
fn similar_machines(name: &MachineRef, known: &[Machine]) -> Vec<String> {
    let groups = || known.iter().map(|machine| &machine.id.resource_group);
    match name {
        MachineRef::Id(_) => Vec::new(),
        MachineRef::Name { group: Some(_), .. } => {
            let names: BTreeSet<String> = known.iter().map(|machine| machine.id.grouped_name()).collect();
            similar(&name.to_string(), names.iter().map(String::as_str))
        }
        MachineRef::Name { group: None, name } => {
            match groups().find(|group| group.eq_ignore_ascii_case(name)) {
                Some(group) => vec![format!("-g {}", shell_quote(group))],
                None => similar(name, known.iter().map(|machine| machine.id.name.as_str())),
            }
        }
    }
}

/// Why no machine is selected.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SelectError {
    /// No machine has the name.
    #[error("the account sees no Arc machine named {name}")]
    Unknown {
        /// The name as the user typed it.
        name: String,
        /// Names that the user may mean.
        similar: Vec<String>,
    },
    /// Several machines have the name.
    #[error("{} machines are named {name}: {}", candidates.len(), candidates.join(", "))]
    Ambiguous {
        /// The name as the user typed it.
        name: String,
        /// An argument for each machine; see [`Names::argument`].
        candidates: Vec<String>,
    },
    /// No machine matches the filter.
    #[error("the account sees no Arc machine{}", no_match(filter, *total))]
    NoMatch {
        /// The options of the filter; empty for all machines.
        filter: String,
        /// Values that the user may mean.
        similar: Vec<String>,
        /// The number of machines in the subscriptions of the filter.
        total: usize,
    },
    /// The account sees no subscription with the name.
    #[error("the account sees no subscription named {name}")]
    UnknownSubscription {
        /// The name as the user typed it.
        name: String,
        /// Names that the user may mean.
        similar: Vec<String>,
    },
    /// The account sees no subscription: it belongs to another tenant, or has no role.
    #[error("the account sees no subscription")]
    NoSubscription,
    /// The SSH client passed a token of ssh_config(5) as the name.
    #[error("the SSH client did not expand {0} in the ProxyCommand")]
    Unexpanded(String),
    /// The command requires a machine.
    #[error("no machine was given")]
    NothingSelected { command: &'static str },
    /// A name is not a resource ID.
    #[error(transparent)]
    ResourceId(#[from] ResourceIdError),
    /// A request failed.
    #[error(transparent)]
    Arm(#[from] ArmError),
}

fn no_match(filter: &str, total: usize) -> String {
    match (filter, total) {
        ("", _) => String::new(),
        (_, 0) => format!(" that matches {filter}"),
        (_, 1) => format!(" that matches {filter}; it sees 1 machine"),
        _ => format!(" that matches {filter}; it sees {total} machines"),
    }
}

impl From<SystemError> for SelectError {
    fn from(error: SystemError) -> Self {
        Self::Arm(error.into())
    }
}

/// A host entry that arcssh wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Written {
    /// The first pattern without wildcards.
    pub(crate) alias: String,
    /// The key of its machine; see [`key`].
    pub(crate) machine: String,
    /// Whether it has a `HostKeyAlias`: ssh then records the machine's host key under that name and not under the
    /// alias.
    pub(crate) has_key_alias: bool,
}

/// Returns the host entries of arcssh in a configuration, by machine.
pub(crate) fn written(text: &str) -> BTreeMap<String, Vec<Written>> {
    let entry = |(patterns, values): (Vec<String>, effective_config::Expected)| {
        let command = effective_config::value(&values, "proxycommand")?;
        let id =
            command.split_whitespace().find_map(|word| word.trim_matches('"').parse::<ResourceId>().ok())?;
        Some(Written {
            alias: patterns.into_iter().find(|pattern| !pattern.contains(['*', '?', '!']))?,
            machine: id.to_string().to_lowercase(),
            has_key_alias: effective_config::value(&values, "hostkeyalias").is_some(),
        })
    };
    let mut entries: BTreeMap<String, Vec<Written>> = BTreeMap::new();
    for written in effective_config::host_entries(text).into_iter().filter_map(entry) {
        entries.entry(written.machine.clone()).or_default().push(written);
    }
    entries
}

/// Chooses the names under which known hosts have the host keys of machines: the `HostKeyAlias` of host entries.
///
/// ssh shows this name in its question about an unknown key, and in place of the host name (OpenSSH, sshconnect.c,
/// `get_hostfile_hostname_ipaddr` and `check_host_key`). A name in use remains, because ssh would ask again under another one.
pub(crate) struct KeyNames<'a> {
    used: &'a UsedNames,
    /// The names in the ssh configuration, by machine ID.
    written: BTreeMap<String, String>,
}

impl<'a> KeyNames<'a> {
    /// Reads the names in a configuration.
    pub(crate) fn of(config: &str, used: &'a UsedNames) -> Self {
        let entries = effective_config::host_entries(config).into_iter();
        let names = entries.filter_map(|(_, values)| {
            let name = effective_config::value(&values, "hostkeyalias")?.to_lowercase();
            let id = name.rsplit('.').next().unwrap_or_default().to_owned();
            Some((id, name))
        });
        Self { used, written: names.collect() }
    }

    /// Returns the name for a machine: the name in the configuration, else the one in the known hosts, else the first of
    /// [`key_names`].
    pub(crate) fn name(&self, machine: &Machine) -> Option<String> {
        let names = key_names(machine);
        let written = names.last().and_then(|id| self.written.get(id));
        let is_known = |name: &&String| self.used.among_known_hosts(name, Use::AnyPattern).is_some();
        written.or_else(|| names.iter().find(is_known)).or(names.first()).cloned()
    }
}

/// Returns the possible names for a machine's host key: its name and ID, and the ID that earlier versions wrote. Host keys
/// belong to the machine, which has the same ID under each name. ssh looks up names in lower case.
pub(crate) fn key_names(machine: &Machine) -> Vec<String> {
    let Some(id) = machine.vm_id.as_ref().map(|id| id.to_lowercase()) else { return Vec::new() };
    let name = machine.id.name.to_lowercase();
    // ssh prints other characters as numbers.
    let is_readable = name.is_ascii() && is_alias(&name) && is_alias(&id);
    is_readable.then(|| format!("{name}.{id}")).into_iter().chain([id]).collect()
}

/// Whether a machine may have its own name as an alias.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Claim {
    /// The user named the machine: it gets its own name, even if ssh already uses it.
    ByUser {
        /// Whether the user named it in this run: its name then replaces an alias of an earlier run.
        just_now: bool,
    },
    /// A filter selected the machine: it gets its own name only if ssh does not use it and it contains no dot.
    #[default]
    IfFree,
    /// A filter selected the machine, and `--allow-names` contains its name.
    Allowed,
}

/// Chooses aliases of machines.
pub(crate) struct Naming<'a> {
    /// Names that ssh uses for other hosts.
    pub(crate) used: &'a UsedNames,
    /// The host entries of an earlier run, by machine. arcssh reuses their aliases while they are safe.
    pub(crate) written: BTreeMap<String, Vec<Written>>,
    /// Whether the earlier run compared the aliases with the known hosts.
    pub(crate) written_checked: bool,
    /// The suffix of all aliases, such as `.arc`, or an empty text.
    pub(crate) suffix: &'a str,
    /// Aliases of other host entries in the block, in lower case.
    pub(crate) taken: BTreeSet<String>,
}

/// An alias for a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Alias {
    /// The patterns of the host entry: the name in lower case, then in the spelling of Azure.
    pub(crate) patterns: Vec<String>,
    /// The reason if the alias is not the machine's own name.
    pub(crate) instead: Option<String>,
    /// The other use of the name by ssh, which the host entry overrides.
    pub(crate) overrides: Option<Location>,
}

/// The reason why a machine does not get its own name even if the user names it.
pub(crate) const SHARED: &str = "another machine or host entry has the same name";

/// The reason why a machine never gets its own name.
pub(crate) const THIS_COMPUTER: &str = "its name refers to this computer or its router";

impl Naming<'_> {
    /// Returns the possible aliases of a machine, the shortest first.
    fn candidates(&self, machine: &Machine) -> [String; 5] {
        alias_candidates(machine).map(|name| name + self.suffix)
    }

    /// Returns the machine's own name with the suffix.
    fn own_name(&self, machine: &Machine) -> String {
        format!("{}{}", machine.id.name, self.suffix)
    }

    /// Chooses a unique alias for each machine: its name, or `name.group` and more parts of its ID. Returns `None` for
    /// a machine of which ssh accepts no name.
    ///
    /// A user who can onboard a machine chooses its name, and often its group. Unless the user has named the machine,
    /// its alias must therefore never be a name of another host.
    pub(crate) fn aliases(
        &self,
        machines: &[Machine],
        claim: impl Fn(&Machine) -> Claim,
    ) -> Vec<Option<Alias>> {
        let mut counts = BTreeMap::new();
        for name in machines.iter().flat_map(|machine| self.candidates(machine)) {
            *counts.entry(name.to_lowercase()).or_insert(0) += 1;
        }
        let mut reserved = BTreeMap::new();
        for machine in machines {
            let key = key(machine);
            let claim = claim(machine);
            let mut written = self.written.get(&key).into_iter().flatten();
            if let Some(written) = written.find(|written| self.is_reusable(machine, written, &claim)) {
                reserved.entry(written.alias.to_lowercase()).or_insert(key);
            }
        }
        let is_free = |name: &str, machine: &Machine| match reserved.get(name) {
            Some(owner) => *owner == key(machine),
            None => counts.get(name) == Some(&1) && !self.taken.contains(name),
        };
        let alias = |machine: &Machine| {
            let claim = claim(machine);
            let candidates: Vec<String> = self
                .candidates(machine)
                .into_iter()
                .filter(|candidate| is_free(&candidate.to_lowercase(), machine))
                .collect();
            let is_safe = |candidate: &&String| self.objection(machine, candidate, &claim).is_none();
            let is_reserved =
                |candidate: &&String| reserved.get(&candidate.to_lowercase()) == Some(&key(machine));
            let is_named_now = |candidate: &&String| {
                **candidate == self.own_name(machine) && claim == Claim::ByUser { just_now: true }
            };
            let mut all = candidates.iter();
            let preferred = all.clone().find(is_named_now).filter(is_safe);
            let chosen = preferred.or_else(|| all.clone().find(is_reserved)).or_else(|| all.find(is_safe))?;
            Some(self.alias(machine, chosen, &claim))
        };
        machines.iter().map(alias).collect()
    }

    fn alias(&self, machine: &Machine, name: &str, claim: &Claim) -> Alias {
        let is_own = name == self.own_name(machine);
        let lower = name.to_lowercase();
        let objection = || self.objection(machine, &self.own_name(machine), claim);
        Alias {
            instead: (!is_own).then(|| objection().unwrap_or_else(|| SHARED.into())),
            overrides: Some(name)
                .filter(|_| is_own && *claim != Claim::IfFree)
                .and_then(|name| self.overridden(name)),
            patterns: if lower == name { vec![lower] } else { vec![lower, name.to_owned()] },
        }
    }

    /// Returns the other use of a name that a machine gets nevertheless.
    fn overridden(&self, name: &str) -> Option<Location> {
        let known = || self.used.among_known_hosts(name, Use::AnyPattern);
        self.used.in_configuration(name, Use::AnyPattern).or_else(known)
    }

    /// Returns whether the alias of an earlier run is still a safe candidate for the machine.
    fn is_reusable(&self, machine: &Machine, written: &Written, claim: &Claim) -> bool {
        let is_alias = |candidate: &String| candidate.eq_ignore_ascii_case(&written.alias);
        let candidate = self.candidates(machine).into_iter().find(is_alias);
        candidate.is_some_and(|candidate| self.objection(machine, &candidate, claim).is_none())
    }

    /// Returns the reason why a candidate must not be the alias.
    fn objection(&self, machine: &Machine, candidate: &str, claim: &Claim) -> Option<String> {
        let is_own = candidate == self.own_name(machine);
        if !is_alias(candidate) {
            return Some("its name is not a valid host name for ssh".into());
        }
        if is_this_computer(candidate) {
            return Some(THIS_COMPUTER.into());
        }
        if is_own && matches!(claim, Claim::ByUser { .. }) {
            return None;
        }
        if is_address(candidate) {
            return Some("its name is an IP address".into());
        }
        if is_own && *claim == Claim::Allowed {
            return None;
        }
        // A suffix that only the user uses separates all names from those in DNS.
        if is_own && self.suffix.is_empty() && candidate.contains('.') {
            return Some("its name contains a dot, like a DNS name".into());
        }
        if self.suffix.is_empty() && *candidate == grouped(machine) && is_like_dns(&machine.id.resource_group)
        {
            return Some("its name and group together look like a DNS name".into());
        }
        self.other_use(machine, candidate).map(|location| format!("ssh already uses its name: {location}"))
    }

    /// Returns the location where ssh uses the name for another host. The name of an entry without `HostKeyAlias` is in
    /// the known hosts because of that entry. The user's own lines for an existing host entry extend it, unless they
    /// connect to another host.
    fn other_use(&self, machine: &Machine, candidate: &str) -> Option<Location> {
        let own = &machine.id.name;
        // A pattern that matches the machine's name without the suffix also matches all longer names.
        let usage = if candidate == own { Use::AnyPattern } else { Use::NoPatternOf(own) };
        let is_alias = |written: &&Written| written.alias.eq_ignore_ascii_case(candidate);
        let written = self.written.get(&key(machine)).into_iter().flatten().find(is_alias);
        let is_checked = written.is_some_and(|written| self.written_checked || !written.has_key_alias);
        let known = || if is_checked { None } else { self.used.among_known_hosts(candidate, usage) };
        // Sections of the user for names with a suffix are for host entries of arcssh.
        let configured = if written.is_some() && self.written_checked || !self.suffix.is_empty() {
            self.used.redirected(candidate, usage)
        } else {
            self.used.in_configuration(candidate, usage)
        };
        configured.or_else(known)
    }
}

/// Returns whether a name matches one of the patterns, ignoring case.
pub(crate) fn is_allowed<'a>(name: &str, mut patterns: impl Iterator<Item = &'a String>) -> bool {
    patterns.any(|pattern| matches(&pattern.to_lowercase(), &name.to_lowercase()))
}

/// Returns the patterns and the host entry of each machine; see [`NamedMachine`]. Without a host entry, the patterns are those
/// that `arcssh config --all` would write.
fn written_or_new(
    machines: &[Machine],
    config: &str,
    used: &UsedNames,
) -> Vec<(Option<Vec<String>>, Option<String>)> {
    let written = written(&used.text);
    let naming = Naming {
        used,
        written: BTreeMap::new(),
        written_checked: false,
        suffix: &managed_block::suffix(config),
        taken: BTreeSet::new(),
    };
    let matched = matched_by_wildcards(machines, &used.text);
    let names = |((machine, alias), matched): ((&Machine, Option<Alias>), Option<String>)| {
        let key = key(machine);
        let entries = || written.get(&key).into_iter().flatten().map(|entry| &entry.alias);
        let is_candidate =
            |alias: &&String| naming.candidates(machine).iter().any(|name| name.eq_ignore_ascii_case(alias));
        let existing = entries().find(is_candidate).or_else(|| entries().next()).cloned();
        let patterns =
            existing.as_ref().map(|alias| vec![alias.to_lowercase()]).or(alias.map(|alias| alias.patterns));
        (patterns, existing.or(matched))
    };
    machines.iter().zip(naming.aliases(machines, |_| Claim::default())).zip(matched).map(names).collect()
}

/// Returns the shortest name of each machine that a wildcard entry of arcssh matches, and resolves to that machine only.
fn matched_by_wildcards(machines: &[Machine], config: &str) -> Vec<Option<String>> {
    let is_by_name = |values: &effective_config::Expected| {
        effective_config::value(values, "proxycommand").is_some_and(|line| line.contains(" proxy --host %"))
    };
    let entries = effective_config::host_entries(config).into_iter().filter(|(_, values)| is_by_name(values));
    let wildcards: Vec<String> =
        entries.flat_map(|(patterns, _)| patterns).filter(|pattern| is_wildcard(pattern)).collect();
    let mut counts = BTreeMap::new();
    for name in machines.iter().filter(|_| !wildcards.is_empty()).flat_map(alias_candidates) {
        *counts.entry(name.to_lowercase()).or_insert(0) += 1;
    }
    let matched = |machine: &Machine| {
        let names = alias_candidates(machine).map(|name| name.to_lowercase());
        names.iter().filter(|name| counts.get(*name) == Some(&1)).find_map(|name| {
            let suffix = |pattern: &str| pattern.rsplit(['*', '?']).next().unwrap_or_default().to_owned();
            let typed = wildcards.iter().map(|pattern| (pattern, format!("{name}{}", suffix(pattern))));
            typed
                .filter(|(pattern, typed)| is_alias(typed) && matches(pattern, typed))
                .map(|(_, typed)| typed)
                .next()
        })
    };
    machines.iter().map(matched).collect()
}

/// Returns whether the text is the machine's ID, `GROUP/NAME` or possible alias, ignoring case.
pub(crate) fn is_called(id: &ResourceId, text: &str) -> bool {
    let machine = Machine::from_id(id.clone());
    refers_to(text, &machine) || alias_candidates(&machine).iter().any(|name| name.eq_ignore_ascii_case(text))
}

/// The suffix of `name.group` if that can be a name in DNS. A top-level domain has no hyphen unless it begins with
/// `xn--` (RFC 3696, section 2).
pub(crate) const SUFFIX: &str = "azure-arc";

/// Returns the possible aliases of a machine, the shortest first.
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

/// Returns whether a name in DNS can end with this text: its last label is alphabetic or begins with `xn--` (RFC 3696,
/// section 2).
fn is_like_dns(name: &str) -> bool {
    let last = name.trim_end_matches('.').rsplit('.').next().unwrap_or_default();
    last.chars().all(char::is_alphabetic) || last.to_lowercase().starts_with("xn--")
}

/// Returns whether a name is an IPv4 address in a form that `inet_aton` accepts: one to four numbers, decimal, octal or
/// hexadecimal. An alias contains no colon, so it is never an IPv6 address.
fn is_address(name: &str) -> bool {
    let is_number = |part: &str| match part.strip_prefix("0x").or(part.strip_prefix("0X")) {
        Some(digits) => digits.chars().all(|c| c.is_ascii_hexdigit()),
        None => !part.is_empty() && part.chars().all(|c| c.is_ascii_digit()),
    };
    let parts: Vec<&str> = name.strip_suffix('.').unwrap_or(name).split('.').collect();
    parts.len() <= 4 && parts.into_iter().all(is_number)
}

/// Returns whether a name is 0.0.0.0 or in 127.0.0.0/8 (RFC 1122, section 3.2.1.3), in a form of [`is_address`].
fn is_loopback(name: &str) -> bool {
    let value = |part: &str| match (part.strip_prefix("0x"), part.strip_prefix('0')) {
        (Some(digits), _) => u32::from_str_radix(digits, 16).ok(),
        (None, Some(digits)) if !digits.is_empty() => u32::from_str_radix(digits, 8).ok(),
        _ => part.parse().ok(),
    };
    let parts: Vec<u32> = name.split('.').filter_map(value).collect();
    let first = if let [all] = parts[..] { all >> 24 } else { parts.first().copied().unwrap_or_default() };
    is_address(name) && (first == 127 || parts.iter().all(|part| *part == 0))
}

/// Returns whether a name belongs to the loopback address (RFC 6761, section 6.3; hosts(5) of Debian and macOS), or always
/// resolves to an address of this computer or its router (nss-myhostname(8)).
fn is_this_computer(name: &str) -> bool {
    let lower = name.to_lowercase();
    let name = lower.strip_suffix('.').unwrap_or(&lower);
    let is_local = |label: Option<&str>| {
        label.is_some_and(|label| ["localhost", "localhost4", "localhost6"].contains(&label))
    };
    is_loopback(name)
        || ["ip6-localhost", "ip6-loopback", "broadcasthost", "loopback", "_gateway", "_outbound"]
            .contains(&name)
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
        let naming =
            Naming { used: &used, written, written_checked: true, suffix: "", taken: BTreeSet::new() };
        let first = |alias: Option<Alias>| alias.unwrap().patterns.swap_remove(0);
        naming.aliases(machines, claim).into_iter().map(first).collect()
    }

    #[test]
    fn all_ipv4_notations_are_recognized() {
        for address in
            ["10.0.0.1", "10.1", "2130706433", "0x7f.1", "0X7F000001", "0177.0.0.01", "1.2.3.4.", "10"]
        {
            assert!(is_address(address), "{address}");
        }
        for name in ["web01", "1.2.3.4.5", "10.rg-arc", "0xyz", "deadbeef", "1a", ""] {
            assert!(!is_address(name), "{name}");
        }
        for name in ["127.0.0.1", "127.1", "2130706433", "0X7f.1", "0177.1", "0.0.0.0", "0", "127.0.0.1."] {
            assert!(is_this_computer(name), "{name}");
        }
        for name in ["10.1", "10", "128.0.0.1", "127.a", "0.0.0.1", "web127"] {
            assert!(!is_this_computer(name), "{name}");
        }
    }

    #[test]
    fn the_suffix_of_host_entries_is_not_removed_from_an_id_or_a_name_of_a_machine() {
        let machine = machine("rg-arc", "db.arc");
        let id = machine.id.to_string();
        let known = [machine];
        for (text, known, expected) in [
            ("web01.ARC", &known[..], "web01"),
            ("rg-arc/web01.arc", &known, "rg-arc/web01"),
            ("db.arc", &known, "db.arc"),
            (&id, &[], &id),
            (".arc", &[], ".arc"),
            ("web01", &[], "web01"),
        ] {
            assert_eq!(without_suffix(text, ".arc", known), expected);
        }
    }

    #[test]
    fn a_filter_gives_no_machine_the_name_of_another_host() {
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
    fn a_named_or_allowed_machine_gets_its_own_name() {
        let all = ["github.com", "localhost", "10.1"].map(|name| machine("rg-arc", name));
        let named = names(&all, BTreeMap::new(), |_| Claim::ByUser { just_now: false });
        assert_eq!(named, ["github.com", "localhost.rg-arc", "10.1"]);
        let allowed = names(&all, BTreeMap::new(), |_| Claim::Allowed);
        assert_eq!(allowed, ["github.com", "localhost.rg-arc", "10.1.rg-arc"]);
    }

    #[test]
    fn an_argument_is_as_long_as_necessary() {
        let id = |subscription: &str, kind: &str| -> ResourceId {
            format!("/subscriptions/{subscription}/resourceGroups/rg/providers/{kind}/db01").parse().unwrap()
        };
        let (arc, vm) = ("Microsoft.HybridCompute/machines", "Microsoft.ScVmm/virtualMachines");
        let arguments = |ids: [ResourceId; 3]| {
            let names = Names::of(ids.iter());
            ids.map(|id| names.argument(&id))
        };
        assert_eq!(
            arguments([id("s1", arc), id("S1", arc), id("s1", arc)]),
            ["rg/db01"; 3],
            "one machine has its names once"
        );
        assert_eq!(
            arguments([id("s1", arc), id("s2", arc), id("s3", vm)]),
            ["db01.rg.s1", "db01.rg.s2", "db01.rg.s3"]
        );
        assert_eq!(
            arguments([id("s1", arc), id("s2", arc), id("s1", vm)]),
            ["db01.rg.s1.Microsoft.HybridCompute", "db01.rg.s2", "db01.rg.s1.Microsoft.ScVmm"]
        );
    }

    #[test]
    fn the_most_similar_names_are_suggested() {
        let names = ["rg-web", "rg-db", "rg-web-test", "Prod", "机器01", "a"];
        for (text, expected) in [
            ("rg-wbe", &["rg-web"][..]),
            ("RG-WEB", &["rg-web"]),
            ("web", &["rg-web", "rg-web-test"]),
            ("prd", &["Prod"]),
            ("机器1", &["机器01"]),
            ("rg-web.contoso.com", &["rg-web"]),
            ("x", &[]),
            ("", &[]),
            ("entirely-different", &[]),
        ] {
            assert_eq!(similar(text, names.into_iter()), expected, "{text}");
        }
        let many: Vec<String> = (0..9).map(|number| format!("web{number}")).collect();
        assert_eq!(similar("web", many.iter().map(String::as_str)).len(), MAX_SUGGESTIONS);
    }

    #[test]
    fn a_new_machine_does_not_take_over_an_existing_alias() {
        let all = [machine("rg-a", "web01"), machine("rg-evil", "web01")];
        assert_eq!(names(&all, BTreeMap::new(), |_| Claim::default()), ["web01.rg-a", "web01.rg-evil"]);
        let first = Written { alias: "web01".into(), machine: key(&all[0]), has_key_alias: true };
        assert_eq!(
            names(&all, BTreeMap::from([(first.machine.clone(), vec![first])]), |_| Claim::default()),
            ["web01", "web01.rg-evil"]
        );
    }
}
