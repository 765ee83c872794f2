//! Which machines are meant, and what ssh calls them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use anyhow::{Error, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use tracing::info;

use crate::azure::arm::Arm;
use crate::azure::hybrid_compute::{self, Machine, MachineName, list, show};
use crate::azure::resource_id::ResourceId;
use crate::line::word;
use crate::ssh::host::is_alias;
use crate::store::{Key, Kind, Store, unix_now};
use crate::waiting::Waiting;

/// What selects machines: by name, or by what they have in common.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Selection {
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

impl Selection {
    /// Whether nothing is meant.
    pub(crate) fn is_empty(&self) -> bool {
        self.machines.is_empty() && !self.is_broad()
    }

    /// Whether machines are meant by what they have in common.
    fn is_broad(&self) -> bool {
        self.all || !self.groups.is_empty() || !self.tags.is_empty()
    }

    /// Both together.
    pub(crate) fn and(mut self, other: Self) -> Self {
        self.machines.extend(other.machines);
        self.groups.extend(other.groups);
        self.subscriptions.extend(other.subscriptions);
        self.tags.extend(other.tags);
        self.all |= other.all;
        self.except.extend(other.except);
        self
    }

    /// Takes a machine out, and keeps it out; `name` is what it is called where its ID is not known.
    pub(crate) fn leave(&mut self, name: &MachineName) {
        self.machines.retain(|kept| !same(kept, name));
        if self.is_broad() {
            self.except.insert(name.to_string());
        }
    }

    /// What the machines that are meant have in common, as it is typed.
    fn common(&self) -> String {
        let typed = |option: &str, values: &BTreeSet<String>| -> Vec<String> {
            values.iter().map(|value| format!("{option} {}", word(value))).collect()
        };
        let subscriptions = typed("--subscription", &self.subscriptions);
        [typed("-g", &self.groups), typed("--tag", &self.tags), subscriptions].concat().join(" ")
    }

    fn takes(&self, machine: &Machine) -> bool {
        let in_group = self.groups.is_empty()
            || self.groups.iter().any(|group| group.eq_ignore_ascii_case(&machine.id.resource_group));
        let has_tag = |tag: &String| {
            let (key, value) = tag.split_once('=').unwrap_or((tag, ""));
            machine.tags.iter().any(|(k, v)| k.eq_ignore_ascii_case(key) && v == value)
        };
        let left_out = self.except.iter().any(|text| means(text, machine));
        self.is_broad() && in_group && self.tags.iter().all(has_tag) && !left_out
    }
}

fn means(text: &str, machine: &Machine) -> bool {
    text.parse::<MachineName>().is_ok_and(|name| name.means(machine))
}

/// Whether a selector and a name mean one machine, as far as can be told without Azure.
fn same(selector: &str, name: &MachineName) -> bool {
    match name {
        MachineName::Id(id) => means(selector, &Machine::unseen(id.clone())),
        MachineName::Name { .. } => selector.eq_ignore_ascii_case(&name.to_string()),
    }
}

/// A machine with what ssh calls it.
#[derive(Clone, Debug)]
pub(crate) struct Named {
    /// The machine.
    pub(crate) machine: Machine,
    /// What may be typed for it; see [`aliases`].
    pub(crate) patterns: Option<Vec<String>>,
}

/// The machines that are meant, ordered by name and group, each once. In the selection names give way to the resource
/// IDs of their machines, which stay when another machine takes on the name.
///
/// # Errors
/// A name that no machine or more than one has; [`NoSubscription`]; what Azure refuses.
pub(crate) async fn select(arm: &Arm, selection: &mut Selection) -> Result<Vec<Named>> {
    let names: Vec<MachineName> =
        selection.machines.iter().map(|text| text.parse()).collect::<Result<_, _>>()?;
    let by_id = names.iter().all(|name| matches!(name, MachineName::Id(_))) && !selection.is_broad();
    let subscriptions: Vec<String> = selection.subscriptions.iter().cloned().collect();
    let waiting = Waiting::default();
    waiting.for_the("list of machines from Azure Resource Manager".into());
    // What a machine is called depends on all others, whichever are meant.
    let mut known = match waiting.during(seen(arm, &subscriptions)).await {
        Err(error) if by_id => {
            info!("names are told apart among the named machines only: {error}");
            Vec::new()
        }
        seen => seen?,
    };
    let mut meant: BTreeSet<String> =
        known.iter().filter(|machine| selection.takes(machine)).map(key).collect();
    selection.machines.clear();
    for name in &names {
        let machine = one(arm, name, &known).await?;
        selection.machines.insert(machine.id.to_string());
        selection.except.retain(|text| !means(text, &machine));
        meant.insert(key(&machine));
        if !known.iter().any(|other| key(other) == key(&machine)) {
            known.push(machine);
        }
    }
    let patterns = aliases(&known);
    let named = known.into_iter().zip(patterns).map(|(machine, patterns)| Named { machine, patterns });
    let mut named: Vec<Named> = named.filter(|named| meant.contains(&key(&named.machine))).collect();
    named.sort_by_key(|named| (named.machine.id.name.to_lowercase(), key(&named.machine)));
    Ok(named)
}

/// The same for a command that acts on machines: there is at least one.
///
/// # Errors
/// [`NoneFits`]; those of [`select`].
pub(crate) async fn select_some(arm: &Arm, selection: &mut Selection) -> Result<Vec<Named>> {
    let machines = select(arm, selection).await?;
    ensure!(!machines.is_empty(), NoneFits(selection.common()));
    Ok(machines)
}

/// The machines of these subscriptions, or of all that the identity sees if none is named.
///
/// # Errors
/// [`NoSubscription`], which is an empty list too; what Azure refuses.
async fn seen(arm: &Arm, subscriptions: &[String]) -> Result<Vec<Machine>> {
    let machines = list(arm, subscriptions).await?;
    if machines.is_empty() && matches!(hybrid_compute::subscriptions(arm).await, Ok((0, _))) {
        bail!(NoSubscription);
    }
    Ok(machines)
}

/// A machine's resource ID, the same in every spelling.
fn key(machine: &Machine) -> String {
    machine.id.to_string().to_lowercase()
}

/// The one machine that `text` names: a resource ID, `GROUP/NAME`, `NAME`, or one of the [`aliases`]; in these
/// subscriptions, or all that the identity sees if none is named.
///
/// # Errors
/// [`NotOne`], [`NoSubscription`]; what Azure refuses.
pub(crate) async fn find(arm: &Arm, text: &str, subscriptions: &[String]) -> Result<Machine> {
    let name: MachineName = text.parse()?;
    if matches!(name, MachineName::Id(_)) {
        return one(arm, &name, &[]).await;
    }
    let known = seen(arm, subscriptions).await?;
    let is_alias = |alias: &Option<Vec<String>>| {
        alias.iter().flatten().any(|pattern| pattern.eq_ignore_ascii_case(text))
    };
    match aliases(&known).iter().position(is_alias) {
        Some(at) => Ok(known[at].clone()),
        None => one(arm, &name, &known).await,
    }
}

/// What a machine's name means, kept from connection to connection.
#[derive(Debug)]
pub(crate) struct Names<'a> {
    arm: &'a Arm,
    store: &'a Store,
    name: &'a str,
    subscriptions: Vec<String>,
    key: Key,
}

/// The machine that had a name.
#[derive(Serialize, Deserialize)]
struct Meant {
    id: String,
    /// Seconds of Unix time.
    at: u64,
}

/// How long, in seconds, a name is taken to mean the same machine: a day.
const NAME_LIFE: u64 = 86_400;

impl<'a> Names<'a> {
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
    pub(crate) fn kept(&self) -> Result<Option<ResourceId>> {
        let meant: Option<Meant> = self.store.read(&self.key)?;
        let lately = meant.filter(|meant| unix_now().saturating_sub(meant.at) < NAME_LIFE);
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
    pub(crate) async fn look_up(&self) -> Result<ResourceId> {
        let _lock = self.store.lock(&self.key).await;
        // Whoever had the lock before has done the work.
        if let Some(id) = self.kept()? {
            return Ok(id);
        }
        let id = find(self.arm, self.name, &self.subscriptions).await?.id;
        self.store.write(&self.key, &Meant { id: id.to_string(), at: unix_now() });
        Ok(id)
    }
}

async fn one(arm: &Arm, name: &MachineName, known: &[Machine]) -> Result<Machine> {
    let found: Vec<&Machine> = known.iter().filter(|machine| name.means(machine)).collect();
    match (&found[..], name) {
        ([machine], _) => Ok((*machine).clone()),
        // A machine that may not be read can still be connected to.
        ([], MachineName::Id(id)) => Ok(show(arm, id).await?.unwrap_or_else(|| Machine::unseen(id.clone()))),
        (others, _) => {
            let candidates =
                others.iter().map(|m| format!("{}/{}", m.id.resource_group, m.id.name)).collect();
            bail!(NotOne { name: name.to_string(), candidates })
        }
    }
}

/// What came of the work on several machines.
///
/// # Errors
/// That of the one machine there was; [`NotReached`] of several.
pub(crate) fn all_done<T>(results: Vec<Result<T>>) -> Result<()> {
    let total = results.len();
    let mut errors: Vec<Error> = results.into_iter().filter_map(Result::err).collect();
    match (errors.pop(), total) {
        (None, _) => Ok(()),
        (Some(error), 1) => Err(error),
        (Some(last), _) => {
            errors.push(last);
            bail!(NotReached(errors))
        }
    }
}

/// Machines that something went wrong with, each as the context of what it was.
#[derive(Debug, thiserror::Error)]
#[error("not all machines can be reached")]
pub(crate) struct NotReached(pub(crate) Vec<Error>);

/// A command was to act on machines, and none was named.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("no machine is named")]
pub(crate) struct NoMachine {
    /// The command.
    pub(crate) command: &'static str,
}

/// Machines were named by what they have in common, and none has that.
#[derive(Debug, thiserror::Error)]
#[error("no Arc machine that this identity sees fits {}", if .0.is_empty() { "--all" } else { .0 })]
pub(crate) struct NoneFits(String);

/// The identity sees nothing of Azure: it is at home in another tenant, or has no role.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("this identity sees no subscription")]
pub(crate) struct NoSubscription;

/// A name that no machine has, or several have.
#[derive(Debug)]
pub(crate) struct NotOne {
    /// As it was given.
    pub(crate) name: String,
    /// `GROUP/NAME` of those that have it.
    pub(crate) candidates: Vec<String>,
}

impl fmt::Display for NotOne {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.candidates.len() {
            0 => write!(f, "no Arc machine that this identity sees is called {}", self.name),
            n => write!(f, "{n} machines are called {}: {}", self.name, self.candidates.join(", ")),
        }
    }
}

impl std::error::Error for NotOne {}

/// What ssh calls a machine: names that can be typed, the first of them for all tools. `None` for a name that ssh would
/// not take. Azure's names are the same in any case and ssh's are not, so that the lower-case name comes first and
/// Azure's spelling beside it. Where two machines have a name, both go by `name.group`, or by more of their IDs.
pub(crate) fn aliases(machines: &[Machine]) -> Vec<Option<Vec<String>>> {
    let mut counts = BTreeMap::new();
    for form in machines.iter().flat_map(forms) {
        *counts.entry(form.to_lowercase()).or_insert(0) += 1;
    }
    let alias = |machine: &Machine| {
        let name = forms(machine).into_iter().find(|form| counts.get(&form.to_lowercase()) == Some(&1))?;
        let lower = name.to_lowercase();
        is_alias(&name).then(|| if lower == name { vec![name] } else { vec![lower, name] })
    };
    machines.iter().map(alias).collect()
}

/// Whether this is what the machine can be called: its ID, `GROUP/NAME`, or what an alias can be, in any case.
pub(crate) fn is_called(id: &ResourceId, text: &str) -> bool {
    let machine = Machine::unseen(id.clone());
    means(text, &machine) || forms(&machine).iter().any(|form| form.eq_ignore_ascii_case(text))
}

/// What a machine can be called, the shortest first.
fn forms(machine: &Machine) -> [String; 4] {
    let id = &machine.id;
    let grouped = format!("{}.{}", id.name, id.resource_group);
    let full = format!("{grouped}.{}", id.subscription);
    let typed = format!("{full}.{}", id.namespace);
    [id.name.clone(), grouped, full, typed]
}
