//! The names that the account saw in its last lists of machines, for shell completion. They contain no secret.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::azure::hybrid_compute::Machine;
use crate::state::{Key, Kind, Store};
use crate::system::SystemError;
use crate::system::clock::unix_now;

/// How long arcssh completes names after the list of their subscription, in seconds: 30 days.
const LIFETIME: u64 = 30 * 86_400;
/// The most bytes of all names, and of all tags: the state directory has files of up to 1 MiB.
const MAX_NAMES: usize = 512 * 1024;
const MAX_TAGS: usize = 128 * 1024;

/// The names in a cloud.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Seen {
    /// By the ID of the subscription, in lower case.
    pub(crate) subscriptions: BTreeMap<String, Subscription>,
}

/// The names in a subscription.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Subscription {
    /// When its machines were listed, in seconds of Unix time.
    at: u64,
    /// Its own name; empty if it is unknown.
    pub(crate) name: String,
    /// The names of the machines in each resource group.
    pub(crate) groups: BTreeMap<String, BTreeSet<String>>,
    /// `KEY=VALUE` tags of its machines.
    pub(crate) tags: BTreeSet<String>,
}

/// Stores the names in a list of the machines of these subscriptions, or of all. A list of all subscriptions replaces the
/// earlier names; another one replaces those of its subscriptions.
pub(crate) fn record(store: &Store, authority: &str, subscriptions: &[String], machines: &[Machine]) {
    let key = key(authority);
    let earlier = store.read::<Seen>(&key).ok().flatten().unwrap_or_default();
    store.write(&key, &earlier.with_list(subscriptions, machines).limited());
}

/// Stores the names of subscriptions, by ID in lower case, if their machines were listed.
pub(crate) fn record_subscriptions(store: &Store, authority: &str, names: &BTreeMap<String, String>) {
    let key = key(authority);
    let Ok(Some(mut seen)) = store.read::<Seen>(&key) else { return };
    let before = seen.clone();
    for (id, name) in names {
        if let Some(subscription) = seen.subscriptions.get_mut(id) {
            subscription.name.clone_from(name);
        }
    }
    if seen != before {
        store.write(&key, &seen.limited());
    }
}

/// Returns the names of all clouds that have not expired.
///
/// # Errors
/// Other users can access a file.
pub(crate) fn all(store: &Store) -> Result<Seen, SystemError> {
    let mut all = Seen::default();
    for key in store.files_of(Kind::Machines).iter().filter_map(|path| store.key_of(path)) {
        all.subscriptions.extend(store.read::<Seen>(&key)?.unwrap_or_default().subscriptions);
    }
    let now = unix_now();
    all.subscriptions.retain(|_, subscription| now.saturating_sub(subscription.at) < LIFETIME);
    Ok(all)
}

fn key(authority: &str) -> Key {
    Key::new(Kind::Machines, authority)
}

impl Seen {
    fn with_list(mut self, subscriptions: &[String], machines: &[Machine]) -> Self {
        let listed: BTreeSet<String> = subscriptions.iter().map(|id| id.to_lowercase()).collect();
        let names: BTreeMap<String, String> = self
            .subscriptions
            .iter()
            .map(|(id, subscription)| (id.clone(), subscription.name.clone()))
            .collect();
        self.subscriptions.retain(|id, _| !listed.is_empty() && !listed.contains(id));
        for machine in machines {
            let id = machine.id.subscription.to_lowercase();
            let name = names.get(&id).cloned().unwrap_or_default();
            let subscription = self.subscriptions.entry(id).or_default();
            (subscription.at, subscription.name) = (unix_now(), name);
            let group = subscription.groups.entry(machine.id.resource_group.clone()).or_default();
            group.insert(machine.id.name.clone());
            subscription.tags.extend(machine.tags.iter().map(|(key, value)| format!("{key}={value}")));
        }
        self
    }

    /// Returns the names without the last ones, if they are too long together.
    fn limited(mut self) -> Self {
        let (mut names, mut tags) = (MAX_NAMES, MAX_TAGS);
        // Each text has two quotes and a comma in the file, and a quote in it has a backslash.
        let fits = |text: &str, left: &mut usize| {
            let rest = left.checked_sub(text.len() + text.matches(['"', '\\']).count() + 3);
            rest.inspect(|rest| *left = *rest).is_some()
        };
        for subscription in self.subscriptions.values_mut() {
            subscription.groups.retain(|group, machines| {
                let is_kept = fits(group, &mut names);
                machines.retain(|name| is_kept && fits(name, &mut names));
                !machines.is_empty()
            });
            subscription.tags.retain(|tag| !tag.chars().any(char::is_control) && fits(tag, &mut tags));
        }
        self.subscriptions.retain(|_, subscription| !subscription.groups.is_empty());
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(subscription: &str, name: &str, tag: &str) -> Machine {
        let id = format!(
            "/subscriptions/{subscription}/resourceGroups/rg/providers/Microsoft.HybridCompute/machines/{name}"
        );
        let tags = BTreeMap::from([("env".to_owned(), tag.to_owned())]);
        Machine { tags, ..Machine::from_id(id.parse().unwrap()) }
    }

    fn names(seen: &Seen) -> Vec<String> {
        let groups = seen.subscriptions.iter().flat_map(|(id, subscription)| {
            subscription.groups.values().flatten().map(move |name| format!("{id}/{name}"))
        });
        groups.collect()
    }

    #[test]
    fn a_list_of_some_subscriptions_replaces_only_their_names() {
        let all = [machine("S1", "a", "x"), machine("S1", "b", "x"), machine("s2", "c", "y")];
        let mut seen = Seen::default().with_list(&[], &all);
        seen.subscriptions.get_mut("s1").unwrap().name = "First".into();
        assert_eq!(names(&seen), ["s1/a", "s1/b", "s2/c"]);
        let seen = seen.with_list(&["s1".into()], &[machine("S1", "d", "z")]);
        assert_eq!(names(&seen), ["s1/d", "s2/c"]);
        assert_eq!(seen.subscriptions["s1"].name, "First");
        assert_eq!(seen.subscriptions["s1"].tags, BTreeSet::from(["env=z".to_owned()]));
        let seen = seen.with_list(&["s2".into()], &[]);
        assert_eq!(names(&seen), ["s1/d"]);
        assert_eq!(names(&seen.with_list(&[], &[machine("s3", "e", "z")])), ["s3/e"]);
    }

    #[test]
    fn a_list_of_any_length_fits_into_a_file_of_the_state_directory() {
        let machines = (0..40_000).map(|number| machine("s", &format!("{number:0200}"), &"\"".repeat(200)));
        let seen = Seen::default().with_list(&[], &machines.collect::<Vec<_>>()).limited();
        let length = serde_json::to_vec(&seen).unwrap().len();
        assert!((MAX_NAMES - 1000..1024 * 1024 - 1000).contains(&length), "{length}");
        let usual = (0..5000).map(|number| machine("s", &format!("prod-web-{number:05}"), "x"));
        let usual = Seen::default().with_list(&[], &usual.collect::<Vec<_>>()).limited();
        assert_eq!(names(&usual).len(), 5000);
    }

    #[test]
    fn names_expire_after_thirty_days() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::at(directory.path().join("state")).unwrap();
        record(&store, "management.azure.com", &[], &[machine("s1", "a", "x")]);
        record(&store, "management.azure.cn", &[], &[machine("s2", "b", "x")]);
        record_subscriptions(&store, "management.azure.com", &BTreeMap::from([("s1".into(), "One".into())]));
        let seen = all(&store).unwrap();
        assert_eq!(names(&seen), ["s1/a", "s2/b"]);
        assert_eq!(seen.subscriptions["s1"].name, "One");
        let mut old = store.read::<Seen>(&key("management.azure.com")).unwrap().unwrap();
        old.subscriptions.get_mut("s1").unwrap().at -= LIFETIME;
        store.write(&key("management.azure.com"), &old);
        assert_eq!(names(&all(&store).unwrap()), ["s2/b"]);
    }
}
