//! The options of the managed block: one line of JSON in the block, which is the only state of `arcssh config`.

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::azure::cloud::CloudName;
use crate::azure::credentials::{CredentialOptions, CredentialSource};
use crate::azure::hybrid_compute::{Machine, MachineRef};
use crate::azure::resource_id::ResourceId;
use crate::commands::config::wildcard;
use crate::entra_ssh::CertificateOptions;
use crate::machines::{MachineSelector, refers_to};
use crate::ssh::foreign_entries::ForeignEntry;
use crate::ssh::host_entry::{CertificateMode, Platform};
use crate::ssh::managed_block;

/// The selections of all runs, each with its values.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Options {
    /// Machines that the user named.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) named: Vec<NamedMachine>,
    /// Filters in the order of their first use. Only blocks of format 2 have this key.
    pub(super) selections: Vec<Filter>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) wildcard: Option<Wildcard>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) adopted: Vec<Adopted>,
    /// Removed machines, which filters do not select until the user names them again.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(super) except: BTreeSet<String>,
    /// The suffix of all aliases except those of adopted entries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) suffix: Option<String>,
    /// The platform of the whole block.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) platform: Option<Platform>,
    /// The path of arcssh in the whole block, if it is not the path of the program that writes the block.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) program: Option<String>,
}

/// A machine that the user named.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct NamedMachine {
    /// The resource ID.
    pub(super) machine: String,
    /// Whether the user typed another name than the machine's own, so that the machine has no claim to that one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) by_alias: bool,
    #[serde(flatten)]
    pub(super) login: Login,
}

/// Machines with a common property.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Filter {
    #[serde(flatten)]
    pub(super) selection: MachineSelector,
    /// Patterns of names that its machines may use although a filter normally does not use such names.
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

/// A host entry of another program that arcssh maintains under its old name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Adopted {
    pub(super) alias: String,
    /// The other names in its `Host` line.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) others: Vec<String>,
    /// The resource ID.
    pub(super) machine: String,
    #[serde(flatten)]
    pub(super) login: Login,
}

impl Adopted {
    /// All names of the entry.
    pub(super) fn names(&self) -> impl Iterator<Item = &String> {
        std::iter::once(&self.alias).chain(&self.others)
    }
}

/// The values of host entries. A value is absent until the user sets it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Login {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) identity: Option<String>,
    /// A certificate of a certificate authority of the user. The last of this option and `entra` counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) certificate_file: Option<String>,
    /// How ssh gets the Entra ID certificate, if the user logs in with one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) entra: Option<CertificateMode>,
    /// A public key of the user for the certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) public_key: Option<String>,
    /// Whether the user of the certificate logs in, although `user` names another one. A Windows machine, which has no
    /// certificate, uses `user`.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) user_of_certificate: bool,
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

/// The credential and the cloud to read machines with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Access {
    pub(super) credential: CredentialOptions,
    pub(super) cloud: CloudName,
}

impl Login {
    /// These values; values of `other` replace absent ones. A certificate without a user logs in as its own user.
    pub(super) fn or(self, other: &Self) -> Self {
        let other = other.clone();
        let user_of_certificate = (self.user.is_some() || other.user.is_some())
            && (self.selects_user_of_certificate()
                || self.user.is_none() && other.selects_user_of_certificate());
        Self {
            user_of_certificate,
            // Without a key, --entra uses one of arcssh.
            public_key: self.public_key.or(other.public_key.filter(|_| self.entra.is_none())),
            user: self.user.or(other.user),
            port: self.port.or(other.port),
            identity: self.identity.or(other.identity),
            entra: self.entra.or(other.entra.filter(|_| self.certificate_file.is_none())),
            certificate_file: self
                .certificate_file
                .or(other.certificate_file.filter(|_| self.entra.is_none())),
            scope: self.scope.or(other.scope),
            client_id: self.client_id.or(other.client_id),
            control_master: self.control_master.or(other.control_master),
            template: self.template.or(other.template),
            credential: self.credential.or(other.credential),
            tenant: self.tenant.or(other.tenant),
            cloud: self.cloud.or(other.cloud),
        }
    }

    /// These values without those that `other` sets, except credential and cloud.
    fn without(&self, other: &Self) -> Self {
        fn unless<T: Clone, U>(other: &Option<U>, value: &Option<T>) -> Option<T> {
            value.clone().filter(|_| other.is_none())
        }
        Self {
            user: unless(&other.user, &self.user),
            port: unless(&other.port, &self.port),
            identity: unless(&other.identity, &self.identity),
            certificate_file: unless(&other.certificate_file, &self.certificate_file)
                .filter(|_| other.entra.is_none()),
            entra: unless(&other.entra, &self.entra).filter(|_| other.certificate_file.is_none()),
            public_key: unless(&other.entra, &self.public_key),
            user_of_certificate: self.user_of_certificate
                && other.user.is_none()
                && !other.selects_user_of_certificate(),
            scope: unless(&other.scope, &self.scope),
            client_id: unless(&other.client_id, &self.client_id),
            control_master: unless(&other.control_master, &self.control_master),
            template: unless(&other.template, &self.template),
            ..self.clone()
        }
    }

    /// Returns whether no value is set except credential and cloud.
    fn sets_nothing(&self) -> bool {
        let access = Self {
            credential: self.credential,
            tenant: self.tenant.clone(),
            cloud: self.cloud,
            ..Self::default()
        };
        *self == access
    }

    /// Whether the user of the certificate logs in.
    pub(super) fn selects_user_of_certificate(&self) -> bool {
        self.user_of_certificate || self.entra.is_some() && self.user.is_none()
    }

    /// Overrides the values of `login`.
    fn override_in(&self, login: &mut Self) {
        *login = self.clone().or(login);
    }

    pub(super) fn access(&self) -> Access {
        let credential =
            CredentialOptions { source: self.credential.unwrap_or_default(), tenant: self.tenant.clone() };
        Access { credential, cloud: self.cloud.unwrap_or(CloudName::Public) }
    }

    pub(super) fn certificate(&self) -> CertificateOptions {
        CertificateOptions { scope: self.scope.clone(), client_id: self.client_id.clone() }
    }
}

impl Options {
    /// Reads the options of the block in a text; the default if there is no block.
    ///
    /// # Errors
    /// The markers of the block do not match, or its options line is damaged.
    pub(super) fn of(text: &str) -> Result<Self> {
        let Some(line) = managed_block::options(text)? else { return Ok(Self::default()) };
        let read = || -> Result<Self> {
            let value: Value = serde_json::from_str(line)?;
            match value.get("selections") {
                Some(_) => Ok(serde_json::from_value(value)?),
                None => Ok(serde_json::from_value::<Merged>(value)?.into()),
            }
        };
        read().context("the options line of the managed block is damaged")
    }

    /// One line of JSON, in which no value can add a line to the file.
    pub(super) fn line(&self) -> Result<String> {
        Ok(serde_json::to_string(self)?)
    }

    /// Returns whether the options select nothing.
    pub(super) fn is_empty(&self) -> bool {
        self.named.is_empty()
            && self.selections.is_empty()
            && self.adopted.is_empty()
            && self.wildcard.is_none()
    }

    /// Returns whether arcssh has adopted this host entry of another program.
    pub(super) fn has_adopted(&self, entry: &ForeignEntry) -> bool {
        entry.patterns.iter().all(|name| self.is_adopted(name))
    }

    fn is_adopted(&self, name: &String) -> bool {
        self.adopted.iter().flat_map(Adopted::names).any(|adopted| adopted == name)
    }

    pub(super) fn suffix(&self) -> &str {
        self.suffix.as_deref().unwrap_or_default()
    }

    /// Sets the suffix of all aliases, or removes it if it is empty.
    ///
    /// # Errors
    /// Names of other hosts can have the suffix.
    pub(super) fn set_suffix(&mut self, suffix: &str) -> Result<()> {
        if !suffix.is_empty() {
            wildcard::check(&format!("*{suffix}"))?;
        }
        self.suffix = Some(suffix.to_lowercase()).filter(|suffix| !suffix.is_empty());
        Ok(())
    }

    pub(super) fn platform(&self) -> Platform {
        self.platform.unwrap_or(Platform::HERE)
    }

    /// Sets values of all host entries, for a run that selects none.
    pub(super) fn apply_to_all(&mut self, typed: &Login) {
        let named = self.named.iter_mut().map(|one| &mut one.login);
        let filters = self.selections.iter_mut().map(|one| &mut one.login);
        let adopted = self.adopted.iter_mut().map(|one| &mut one.login);
        let wildcard = self.wildcard.iter_mut().map(|one| &mut one.login);
        named.chain(filters).chain(adopted).chain(wildcard).for_each(|login| typed.override_in(login));
    }

    /// Adds a machine that the user named, or sets its values. An adopted entry with the name of the machine is the host entry
    /// of that machine.
    pub(super) fn name(&mut self, machine: &Machine, by_alias: bool, typed: &Login) {
        self.except.retain(|text| !refers_to(text, machine));
        if let Some(at) = self.adopted_name(machine) {
            typed.override_in(&mut self.adopted[at].login);
        } else if let Some(named) = self.named.iter_mut().find(|one| refers_to(&one.machine, machine)) {
            typed.override_in(&mut named.login);
            named.by_alias &= by_alias;
        } else {
            self.named.push(NamedMachine { machine: machine.id.to_string(), by_alias, login: typed.clone() });
        }
    }

    /// The position of the adopted entry that has the name of its machine, and so is the host entry of that machine.
    pub(super) fn adopted_name(&self, machine: &Machine) -> Option<usize> {
        self.adopted.iter().position(|one| {
            refers_to(&one.machine, machine)
                && one.names().any(|name| name.eq_ignore_ascii_case(&machine.id.name))
        })
    }

    /// Adds an adopted entry with those of its names that the block does not have, whose values ssh uses. If a name is that of
    /// a machine that the user named, the adopted entry replaces the entry of that machine.
    pub(super) fn adopt(&mut self, names: &[String], machine: &Machine, login: Login) {
        let mut names = names.iter().filter(|name| !self.is_adopted(name)).cloned();
        let Some(alias) = names.next() else { return };
        let others = names.filter(|name| *name != alias).collect();
        let mut adopted = Adopted { alias, others, machine: machine.id.to_string(), login };
        let has_name = adopted.names().any(|name| name.eq_ignore_ascii_case(&machine.id.name));
        let is_same = |named: &mut NamedMachine| has_name && refers_to(&named.machine, machine);
        for named in self.named.extract_if(.., is_same) {
            adopted.login = named.login.or(&adopted.login);
        }
        self.adopted.push(adopted);
    }

    /// Adds a filter, or sets the values of the same filter of an earlier run, which then override those of all other filters.
    /// A filter with another credential is another filter.
    pub(super) fn select(
        &mut self,
        selection: MachineSelector,
        allowed_names: BTreeSet<String>,
        typed: &Login,
    ) {
        let is_same =
            |one: &Filter| one.selection.is_same(&selection) && one.login.access() == typed.access();
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
            return typed.override_in(&mut one.login);
        }
        let superseded = |one: &Filter| is_same(one) && one.login.sets_nothing();
        let inherited = self.selections.extract_if(.., |one| superseded(one));
        let allowed_names = inherited.flat_map(|one| one.allowed_names).chain(allowed_names).collect();
        self.selections.push(Filter { selection, allowed_names, login: typed.clone() });
    }

    /// Lets the user of the certificate log in to the named machines that a filter selects with a certificate.
    pub(super) fn use_certificate_of(&mut self, selected: &[&Machine]) {
        let is_selected =
            |one: &&mut NamedMachine| selected.iter().any(|machine| refers_to(&one.machine, machine));
        let named = self.named.iter_mut().filter(is_selected).map(|one| &mut one.login);
        named.filter(|login| login.user.is_some()).for_each(|login| login.user_of_certificate = true);
    }

    /// Sets the wildcard, which replaces one with another pattern.
    pub(super) fn set_wildcard(&mut self, pattern: &str, typed: &Login) {
        let login = self.wildcard.take().map(|one| one.login).unwrap_or_default();
        self.wildcard = Some(Wildcard { pattern: pattern.to_owned(), login: typed.clone().or(&login) });
    }

    /// Removes the selection behind a host entry: the machine with its ID, the adopted entry with one of its patterns, or the
    /// wildcard with that name.
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
        let matches = |named: &NamedMachine| {
            named.machine.parse().is_ok_and(|id: ResourceId| name.matches(&Machine::from_id(id)))
        };
        self.named.retain(|named| !matches(named));
        if !self.selections.is_empty() {
            self.except.insert(name.to_string());
        }
    }
}

/// The options of a block of format 1: one selection and one set of values for all runs.
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
        // Adopted entries had separate users, ports and keys, and shared the other values.
        let shared = Login {
            user: None,
            port: None,
            identity: None,
            certificate_file: None,
            entra: None,
            ..login.clone()
        };
        adopted.iter_mut().for_each(|one| one.login = one.login.clone().or(&shared));
        let machines = std::mem::take(&mut selection.machines).into_iter();
        let named = |machine| NamedMachine { machine, by_alias: false, login: login.clone() };
        let except = std::mem::take(&mut selection.except);
        let filter = Some(Filter { selection, allowed_names: BTreeSet::new(), login: login.clone() });
        Self {
            named: machines.map(named).collect(),
            selections: filter.into_iter().filter(|one| one.selection.is_filter()).collect(),
            wildcard: wildcard.map(|pattern| Wildcard { pattern, login: login.clone() }),
            adopted,
            except,
            suffix: None,
            platform,
            program: None,
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
    fn the_same_filter_with_another_tenant_is_another_filter() {
        let all = || MachineSelector { all: true, ..MachineSelector::default() };
        let mut options = Options::default();
        options.select(all(), BTreeSet::new(), &login("a", None));
        options.select(all(), BTreeSet::new(), &login("b", Some("contoso.com")));
        options.select(all(), BTreeSet::new(), &login("c", None));
        let users: Vec<_> = options.selections.iter().map(|one| one.login.user.as_deref().unwrap()).collect();
        assert_eq!(users, ["b", "c"]);
    }

    #[test]
    fn the_last_values_override_earlier_ones_and_no_list_grows() {
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
    fn naming_an_adopted_machine_changes_its_host_entry() {
        let one = machine("web01");
        let adopted = |alias: &str| Adopted {
            alias: alias.into(),
            others: Vec::new(),
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
    fn options_are_the_same_after_writing_and_reading() {
        let mut options = Options { platform: Some(Platform::Windows), ..Options::default() };
        options.name(&machine("web01"), true, &login("a", Some("t")));
        let tags = BTreeSet::from(["k=\"v\"".to_owned()]);
        options.select(
            MachineSelector { tags, ..MachineSelector::default() },
            BTreeSet::from(["*.x".into()]),
            &Login::default(),
        );
        options.set_wildcard("*.arc", &login("b", None));
        options.except.insert("web02".into());
        let block = managed_block::block(&options.line().unwrap(), "Host a\n");
        assert_eq!(Options::of(&block).unwrap(), options);
        assert_eq!(Options::of("").unwrap(), Options::default());
        assert!(Options::of(&managed_block::block("{\"selections\":1}", "")).is_err());
    }

    #[test]
    fn options_of_format_1_apply_to_each_selection() {
        let line = r#"{"machines":["/m"],"groups":["g"],"all":true,"except":["x"],"user":"u","control_master":true,
            "credential":"environment","wildcard":"*.arc","adopted":[{"alias":"a","machine":"/m","user":"own"}]}"#;
        let options: Options = serde_json::from_str::<Merged>(line).unwrap().into();
        assert_eq!(options.named[0].login.user.as_deref(), Some("u"));
        let Filter { selection, login, .. } = &options.selections[0];
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
