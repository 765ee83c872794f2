//! What the block was written with. A line of JSON in the block keeps it, and is the only state.

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::azure::cloud::CloudName;
use crate::azure::credentials::{CredentialOptions, CredentialSource};
use crate::azure::hybrid_compute::{Machine, MachineRef};
use crate::azure::resource_id::ResourceId;
use crate::entra_ssh::CertificateOptions;
use crate::machines::{MachineSelector, refers_to};
use crate::ssh::foreign_entries::ForeignEntry;
use crate::ssh::host_entry::{CertificateMode, Platform};
use crate::ssh::managed_block;

/// Everything that the runs of `arcssh config` selected, each with the options that it was selected with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Options {
    /// Machines that the user named.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) named: Vec<NamedMachine>,
    /// Broad selections, in the order in which they were first made. Only blocks of format 2 have this key.
    pub(super) selections: Vec<Broad>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) wildcard: Option<Wildcard>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) adopted: Vec<Adopted>,
    /// Machines that were removed, and stay out of broad selections until they are named again.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(super) except: BTreeSet<String>,
    /// The system that the whole block is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) platform: Option<Platform>,
}

/// A machine that the user named.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct NamedMachine {
    /// The resource ID.
    pub(super) machine: String,
    /// Whether the user typed another name for it than its own, to which it has therefore no claim.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) by_alias: bool,
    #[serde(flatten)]
    pub(super) login: Login,
}

/// Machines that have something in common.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Broad {
    #[serde(flatten)]
    pub(super) selection: MachineSelector,
    /// Patterns of names that its machines may have although a broad selection takes no such name.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(super) allowed_names: BTreeSet<String>,
    #[serde(flatten)]
    pub(super) login: Login,
}

/// The host entry that finds any machine by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Wildcard {
    pub(super) pattern: String,
    #[serde(flatten)]
    pub(super) login: Login,
}

/// A section that another program wrote, as it lives on under its old name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Adopted {
    pub(super) alias: String,
    /// The resource ID.
    pub(super) machine: String,
    #[serde(flatten)]
    pub(super) login: Login,
}

/// How host entries are written: each value is absent until the user gives one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Login {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) identity: Option<String>,
    /// How a certificate of Entra ID gets to ssh, if it is what the user logs in with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) entra: Option<CertificateMode>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) scope: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) client_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) control_master: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) template: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) credential: Option<CredentialSource>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) tenant: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) cloud: Option<CloudName>,
}

/// Who reads the machine from Azure, and from which cloud.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Access {
    pub(super) who: CredentialOptions,
    pub(super) cloud: CloudName,
}

impl Login {
    /// These values, and others for those that are absent.
    pub(super) fn or(self, other: &Self) -> Self {
        let other = other.clone();
        Self {
            user: self.user.or(other.user),
            port: self.port.or(other.port),
            identity: self.identity.or(other.identity),
            entra: self.entra.or(other.entra),
            scope: self.scope.or(other.scope),
            client_id: self.client_id.or(other.client_id),
            control_master: self.control_master.or(other.control_master),
            template: self.template.or(other.template),
            credential: self.credential.or(other.credential),
            tenant: self.tenant.or(other.tenant),
            cloud: self.cloud.or(other.cloud),
        }
    }

    /// These values without those that the other one sets; who reads the machines, and from where, stays.
    fn without(&self, other: &Self) -> Self {
        fn unless<T: Clone, U>(other: &Option<U>, value: &Option<T>) -> Option<T> {
            value.clone().filter(|_| other.is_none())
        }
        Self {
            user: unless(&other.user, &self.user),
            port: unless(&other.port, &self.port),
            identity: unless(&other.identity, &self.identity),
            entra: unless(&other.entra, &self.entra),
            scope: unless(&other.scope, &self.scope),
            client_id: unless(&other.client_id, &self.client_id),
            control_master: unless(&other.control_master, &self.control_master),
            template: unless(&other.template, &self.template),
            ..self.clone()
        }
    }

    /// Whether no value is given but who reads the machines, and from where.
    fn sets_nothing(&self) -> bool {
        let (credential, tenant, cloud) = (self.credential, self.tenant.clone(), self.cloud);
        *self == Self { credential, tenant, cloud, ..Self::default() }
    }

    fn put_before(&self, login: &mut Self) {
        *login = self.clone().or(login);
    }

    pub(super) fn access(&self) -> Access {
        let who =
            CredentialOptions { source: self.credential.unwrap_or_default(), tenant: self.tenant.clone() };
        Access { who, cloud: self.cloud.unwrap_or(CloudName::Public) }
    }

    pub(super) fn asked(&self) -> CertificateOptions {
        CertificateOptions { scope: self.scope.clone(), client_id: self.client_id.clone() }
    }
}

impl Options {
    /// What the block in a text was written with; the default if there is none.
    ///
    /// # Errors
    /// The block's markers do not pair, or its line of options is damaged.
    pub(super) fn of(text: &str) -> Result<Self> {
        let Some(line) = managed_block::options(text)? else { return Ok(Self::default()) };
        let read = || -> Result<Self> {
            let value: Value = serde_json::from_str(line)?;
            match value.get("selections") {
                Some(_) => Ok(serde_json::from_value(value)?),
                None => Ok(serde_json::from_value::<Merged>(value)?.into()),
            }
        };
        read().context("the options line of the arcssh block is damaged")
    }

    /// One line of JSON, so that no value can add a line to the file.
    pub(super) fn line(&self) -> Result<String> {
        Ok(serde_json::to_string(self)?)
    }

    /// Whether there is nothing to write host entries for.
    pub(super) fn is_empty(&self) -> bool {
        self.named.is_empty()
            && self.selections.is_empty()
            && self.adopted.is_empty()
            && self.wildcard.is_none()
    }

    /// Whether this section of another program's lives on.
    pub(super) fn has_adopted(&self, section: &ForeignEntry) -> bool {
        self.adopted.iter().any(|adopted| section.patterns.first() == Some(&adopted.alias))
    }

    pub(super) fn platform(&self) -> Platform {
        self.platform.unwrap_or(Platform::HERE)
    }

    /// Gives every host entry the values that the user typed without naming any.
    pub(super) fn apply_to_all(&mut self, typed: &Login) {
        let named = self.named.iter_mut().map(|one| &mut one.login);
        let broad = self.selections.iter_mut().map(|one| &mut one.login);
        let adopted = self.adopted.iter_mut().map(|one| &mut one.login);
        let wildcard = self.wildcard.iter_mut().map(|one| &mut one.login);
        named.chain(broad).chain(adopted).chain(wildcard).for_each(|login| typed.put_before(login));
    }

    /// Adds a machine that the user named, or gives it the values that were typed. An adopted section under the machine's
    /// own name is that machine's host entry.
    pub(super) fn name(&mut self, machine: &Machine, by_alias: bool, typed: &Login) {
        self.except.retain(|text| !refers_to(text, machine));
        let is_it = |id: &str| refers_to(id, machine);
        let is_its =
            |one: &&mut Adopted| is_it(&one.machine) && one.alias.eq_ignore_ascii_case(&machine.id.name);
        if let Some(adopted) = self.adopted.iter_mut().find(is_its) {
            typed.put_before(&mut adopted.login);
        } else if let Some(named) = self.named.iter_mut().find(|one| is_it(&one.machine)) {
            typed.put_before(&mut named.login);
            named.by_alias &= by_alias;
        } else {
            self.named.push(NamedMachine { machine: machine.id.to_string(), by_alias, login: typed.clone() });
        }
    }

    /// Adds a broad selection, or gives the same one of an earlier run the values that were typed, which then count more
    /// than those of all other selections. It is another one if another identity sees its machines.
    pub(super) fn select(
        &mut self,
        selection: MachineSelector,
        allowed_names: BTreeSet<String>,
        typed: &Login,
    ) {
        let is_same = |one: &Broad| one.selection.is_same(&selection) && one.login.access() == typed.access();
        if let Some(one) = self.selections.iter_mut().find(|one| is_same(one)) {
            one.allowed_names.extend(allowed_names.clone());
        }
        let last = self.selections.iter().rposition(is_same);
        if last.is_some() && typed.sets_nothing() {
            return;
        }
        let earlier = self.selections.iter_mut().filter(|one| is_same(one));
        earlier.for_each(|one| one.login = one.login.without(typed));
        if let Some(one) = self.selections.last_mut().filter(|one| is_same(one)) {
            return typed.put_before(&mut one.login);
        }
        let superseded = |one: &Broad| is_same(one) && one.login.sets_nothing();
        let inherited = self.selections.extract_if(.., |one| superseded(one));
        let allowed_names = inherited.flat_map(|one| one.allowed_names).chain(allowed_names).collect();
        self.selections.push(Broad { selection, allowed_names, login: typed.clone() });
    }

    /// Sets the wildcard; another pattern takes the place of an earlier one.
    pub(super) fn find_by(&mut self, pattern: &str, typed: &Login) {
        let login = self.wildcard.take().map(|one| one.login).unwrap_or_default();
        self.wildcard = Some(Wildcard { pattern: pattern.to_owned(), login: typed.clone().or(&login) });
    }

    /// Removes what a host entry was written for: the machine of its ID, the section adopted under one of its patterns, or
    /// the wildcard of that name.
    pub(super) fn exclude(&mut self, id: Option<ResourceId>, patterns: &[String], name: &str) -> Result<()> {
        let before = self.adopted.len();
        self.adopted.retain(|adopted| !patterns.contains(&adopted.alias));
        let is_wildcard = |wildcard: &Wildcard| wildcard.pattern.eq_ignore_ascii_case(name);
        match id {
            Some(_) if self.adopted.len() < before => {}
            Some(id) => self.exclude_machine(&MachineRef::Id(id)),
            None if self.wildcard.as_ref().is_some_and(is_wildcard) => self.wildcard = None,
            None => self.exclude_machine(&name.parse()?),
        }
        Ok(())
    }

    fn exclude_machine(&mut self, name: &MachineRef) {
        let is_it = |named: &NamedMachine| {
            named.machine.parse().is_ok_and(|id: ResourceId| name.matches(&Machine::from_id(id)))
        };
        self.named.retain(|named| !is_it(named));
        if !self.selections.is_empty() {
            self.except.insert(name.to_string());
        }
    }
}

/// The options of a block of format 1: one selection of all runs together, with one set of values.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Merged {
    #[serde(flatten)]
    selection: MachineSelector,
    #[serde(flatten)]
    login: Login,
    wildcard: Option<String>,
    platform: Option<Platform>,
    adopted: Vec<Adopted>,
}

impl From<Merged> for Options {
    fn from(merged: Merged) -> Self {
        let Merged { mut selection, login, wildcard, platform, mut adopted } = merged;
        // Adopted sections had a user, a port and keys of their own, and shared the rest.
        let shared = Login { user: None, port: None, identity: None, entra: None, ..login.clone() };
        adopted.iter_mut().for_each(|one| one.login = one.login.clone().or(&shared));
        let machines = std::mem::take(&mut selection.machines).into_iter();
        let named = |machine| NamedMachine { machine, by_alias: false, login: login.clone() };
        let except = std::mem::take(&mut selection.except);
        let broad = Some(Broad { selection, allowed_names: BTreeSet::new(), login: login.clone() });
        Self {
            named: machines.map(named).collect(),
            selections: broad.into_iter().filter(|one| one.selection.is_filter()).collect(),
            wildcard: wildcard.map(|pattern| Wildcard { pattern, login: login.clone() }),
            adopted,
            except,
            platform,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn login(user: &str, tenant: Option<&str>) -> Login {
        Login { user: Some(user.into()), tenant: tenant.map(Into::into), ..Login::default() }
    }

    fn machine(name: &str) -> Machine {
        let id =
            format!("/subscriptions/s/resourceGroups/g/providers/Microsoft.HybridCompute/machines/{name}");
        Machine::from_id(id.parse().unwrap())
    }

    #[test]
    fn the_same_selection_by_another_identity_is_another_selection() {
        let all = || MachineSelector { all: true, ..MachineSelector::default() };
        let mut options = Options::default();
        options.select(all(), BTreeSet::new(), &login("a", None));
        options.select(all(), BTreeSet::new(), &login("b", Some("contoso.com")));
        options.select(all(), BTreeSet::new(), &login("c", None));
        let users: Vec<_> = options.selections.iter().map(|one| one.login.user.as_deref().unwrap()).collect();
        assert_eq!(users, ["b", "c"]);
    }

    #[test]
    fn values_that_are_given_last_count_most_and_no_list_grows() {
        let group = |name: &str| MachineSelector {
            groups: BTreeSet::from([name.to_owned()]),
            ..MachineSelector::default()
        };
        let all = || MachineSelector { all: true, ..MachineSelector::default() };
        let ported = |port| Login { port: Some(port), ..Login::default() };
        let names = || BTreeSet::from(["*.x".to_owned()]);
        let mut options = Options::default();
        options.select(all(), names(), &ported(1));
        for _ in 0..3 {
            options.select(group("rg-web"), BTreeSet::new(), &login("a", None).or(&ported(2)));
            options.select(all(), BTreeSet::new(), &login("b", None));
            options.select(group("RG-WEB"), BTreeSet::new(), &login("c", None));
            options.select(all(), BTreeSet::new(), &Login::default());
        }
        let values = options.selections.iter().rev().fold(Login::default(), |sum, one| sum.or(&one.login));
        assert_eq!((values.user.as_deref(), values.port), (Some("c"), Some(2)), "{options:?}");
        assert!(options.selections.len() <= 4, "{options:?}");
        assert!(options.selections.iter().any(|one| one.selection == all() && one.allowed_names == names()));
    }

    #[test]
    fn options_of_an_adopted_name_go_to_its_host_entry() {
        let one = machine("web01");
        let adopted = |alias: &str| Adopted {
            alias: alias.into(),
            machine: one.id.to_string(),
            login: login("old", None),
        };
        let mut options =
            Options { adopted: vec![adopted("g-web01"), adopted("WEB01")], ..Options::default() };
        options.name(&one, false, &login("new", None));
        let users: Vec<_> = options.adopted.iter().map(|one| one.login.user.as_deref().unwrap()).collect();
        assert_eq!((users, options.named.len()), (vec!["old", "new"], 0));
    }

    #[test]
    fn options_are_read_as_they_were_written() {
        let mut options = Options { platform: Some(Platform::Windows), ..Options::default() };
        options.name(&machine("web01"), true, &login("a", Some("t")));
        let tags = BTreeSet::from(["k=\"v\"".to_owned()]);
        options.select(
            MachineSelector { tags, ..MachineSelector::default() },
            BTreeSet::from(["*.x".into()]),
            &Login::default(),
        );
        options.find_by("*.arc", &login("b", None));
        options.except.insert("web02".into());
        let block = managed_block::block(&options.line().unwrap(), "Host a\n");
        assert_eq!(Options::of(&block).unwrap(), options);
        assert_eq!(Options::of("").unwrap(), Options::default());
        assert!(Options::of(&managed_block::block("{\"selections\":1}", "")).is_err());
    }

    #[test]
    fn options_of_format_1_belong_to_each_thing_that_they_were_for() {
        let line = r#"{"machines":["/m"],"groups":["g"],"all":true,"except":["x"],"user":"u","control_master":true,
            "credential":"environment","wildcard":"*.arc","adopted":[{"alias":"a","machine":"/m","user":"own"}]}"#;
        let options: Options = serde_json::from_str::<Merged>(line).unwrap().into();
        assert_eq!(options.named[0].login.user.as_deref(), Some("u"));
        let Broad { selection, login, .. } = &options.selections[0];
        assert!(selection.all && selection.groups.contains("g") && selection.machines.is_empty());
        assert_eq!(
            (login.user.as_deref(), login.credential),
            (Some("u"), Some(CredentialSource::Environment))
        );
        assert_eq!(options.wildcard.unwrap().login.control_master, Some(true));
        let Adopted { login, .. } = &options.adopted[0];
        assert_eq!((login.user.as_deref(), login.control_master), (Some("own"), Some(true)));
        assert!(options.except.contains("x"));
    }
}
