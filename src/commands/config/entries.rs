//! The host entries for the machines that this run and earlier runs selected.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow, ensure};

use crate::azure::arm::{Arm, ArmError};
use crate::azure::cloud::{Cloud, CloudName};
use crate::azure::credentials::CredentialChain;
use crate::azure::hybrid_compute::{Machine, MachineRef, list};
use crate::azure::resource_id::ResourceId;
use crate::cli::ConfigArgs;
use crate::cli::proxy_command::{ProxyCommand, ProxyMachine, azure_options, program};
use crate::commands::certificates::{Entra, ONLY_LINUX, is_windows};
use crate::commands::config::options::{Access, Adopted, Filter, Login, Options};
use crate::commands::config::plan::Notes;
use crate::commands::config::{own_block, wildcard};
use crate::commands::session::to_selector;
use crate::diagnosis::Result;
use crate::entra_ssh::CertificateOptions;
use crate::machines::{
    Alias, Claim, KeyNames, MachineSelector, Naming, SHARED, SelectError, THIS_COMPUTER, ensure_matches,
    is_allowed, key, list_visible, pick, refers_to, resolve, with_subscription_ids, without_suffix, written,
};
use crate::net::Net;
use crate::ssh::effective_config::{self, Location};
use crate::ssh::foreign_entries::{ForeignEntry, replaced_lines};
use crate::ssh::host_entry::{self, CertificateMode, Host, Platform, escape_percent, is_alias};
use crate::ssh::managed_block;
use crate::ssh::patterns::example;
use crate::ssh::used_names::{Use, UsedNames};
use crate::state::Store;
use crate::system::files::{MAX_TEXT, read_text};
use crate::terminal::output::{note, note_names};
use crate::terminal::progress::{Progress, Step};
use crate::text::{grouped, shell_quote};

/// The content of a managed block.
pub(super) struct Composed {
    pub(super) options: Options,
    /// The host entries.
    pub(super) host_entries: String,
    pub(super) notes: Notes,
}

/// The configuration file that gets the block.
pub(super) struct Target<'a> {
    pub(super) file: &'a Path,
    /// Its present content.
    pub(super) text: &'a str,
}

impl Login {
    /// The values on the command line.
    fn from_args(args: &ConfigArgs, platform: Platform) -> Self {
        let absolute = |path: &PathBuf| std::path::absolute(path).unwrap_or_else(|_| path.clone());
        let CertificateOptions { scope, client_id } = args.certificate.options();
        Self {
            user: args.user.clone(),
            port: args.port,
            identity: args.identity.as_deref().map(absolute_identity),
            certificate_file: args.certificate_file.as_deref().map(absolute_identity),
            entra: args.entra.map(|mode| match &args.public_key {
                Some(_) => CertificateMode::Files,
                None => mode.unwrap_or(CertificateMode::on(platform)),
            }),
            public_key: args.public_key.as_deref().map(absolute_identity),
            user_of_certificate: false,
            scope,
            client_id,
            control_master: args.control_master.then_some(true),
            template: args.template.as_ref().map(absolute),
            credential: args.azure.credential.source(),
            tenant: args.azure.credential.options().tenant,
            cloud: args.azure.chosen_cloud(),
        }
    }

    fn host(&self, patterns: Vec<String>) -> Host {
        Host {
            patterns,
            user: self.user.clone(),
            port: self.port,
            identity_file: self.identity.clone(),
            certificate_file: self.certificate_file.clone(),
            shared: self.control_master.unwrap_or_default(),
            ..Host::default()
        }
    }
}

/// The absolute path of a key file, since ssh reads a relative one from its working directory. Does not change a path
/// without a file here, such as a quoted `~/.ssh/key` or a path for another platform.
fn absolute_identity(identity: &str) -> String {
    let absolute = std::path::absolute(identity).ok().filter(|_| Path::new(identity).exists());
    absolute.and_then(|path| path.to_str().map(Into::into)).unwrap_or_else(|| identity.to_owned())
}

/// The machine whose group and name are in a file name of the entry; otherwise the only machine with the `HostName`.
fn machine_of<'a>(entry: &ForeignEntry, known: &'a [Machine]) -> Option<&'a Machine> {
    let names = entry.group_and_name();
    let has_name = |machine: &&Machine| {
        let name = format!("{}-{}", machine.id.resource_group, machine.id.name);
        names.iter().any(|candidate| candidate.eq_ignore_ascii_case(&name))
    };
    if let Some(machine) = known.iter().find(has_name) {
        return Some(machine);
    }
    let host_name = entry.host_name.as_ref()?;
    let mut named = known.iter().filter(|machine| machine.id.name.eq_ignore_ascii_case(host_name));
    named.next().filter(|_| named.next().is_none())
}

impl Options {
    /// Returns a predicate for machines that the user removed, which excludes them from filters.
    fn exclusion(&self) -> impl Fn(&Machine) -> bool + use<> {
        let removed: Vec<MachineRef> = self.except.iter().filter_map(|text| text.parse().ok()).collect();
        move |machine| removed.iter().any(|name| name.matches(machine))
    }

    /// Removes a wildcard that an earlier version accepted, although it covers names of other hosts.
    fn drop_unsafe_wildcard(&mut self, notes: &mut Notes) {
        if let Some(error) = self.wildcard.as_ref().and_then(|one| wildcard::check(&one.pattern).err()) {
            let pattern = self.wildcard.take().map(|one| one.pattern).unwrap_or_default();
            notes.of_machine.insert(pattern, error.to_string());
        }
    }
}

/// Prints a note about machines that a filter of this run matches, and that the user removed.
fn note_excluded<'a>(machines: impl Iterator<Item = &'a Machine>) {
    let name = |machine: &Machine| format!("{}/{}", machine.id.resource_group, machine.id.name);
    let names: Vec<String> = machines.map(name).collect();
    match &names[..] {
        [] => {}
        [name] => {
            let name = shell_quote(name);
            note(&format!("skipped {name}: you removed it; to add it: arcssh config {name}"));
        }
        _ => {
            let count = grouped(names.len());
            note_names(&format!("skipped {count} machines that you removed"), &names);
            note("hint: to add a machine again, name it: arcssh config GROUP/NAME");
        }
    }
}

/// Prints a note for each cause about the names that get no host entry.
fn note_skipped(skipped: impl Iterator<Item = (String, String)>) {
    let mut causes: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, cause) in skipped {
        causes.entry(cause).or_default().push(name);
    }
    for (cause, names) in causes {
        match &names[..] {
            [name] => note(&format!("skipped {name}: {cause}")),
            _ => note_names(&format!("skipped {} names: {cause}", grouped(names.len())), &names),
        }
    }
}

/// Access to Azure, with the machines read so far.
struct Azure<'a> {
    args: &'a ConfigArgs,
    net: Net,
    store: Store,
    /// The lists of machines, each with the credential and cloud, and the subscriptions.
    lists: Vec<(Access, BTreeSet<String>, Vec<Machine>)>,
    /// The machines of all lists, by [`key`].
    visible: BTreeMap<String, Machine>,
}

/// Whether a run requires a list of machines.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Need {
    /// It selects machines from the list.
    Required,
    /// It has the resource IDs of its machines, and only compares their names with other machines.
    Optional,
}

impl Azure<'_> {
    fn cloud(&self, access: &Access) -> Result<Cloud> {
        if access.cloud == CloudName::Public {
            // The cloud of Azure CLI may be unknown.
            self.args.azure.cloud()?;
        }
        Ok(Cloud::new(access.cloud, &self.args.azure.cloud.endpoints())?)
    }

    fn arm(&self, access: &Access) -> Result<Arm> {
        Ok(Arm::new(&self.cloud(access)?, &self.net, &self.store, access.credential.clone()))
    }

    fn credentials(&self, access: &Access) -> Result<CredentialChain> {
        Ok(CredentialChain::new(&self.cloud(access)?, access.credential.clone(), &self.net, &self.store))
    }

    /// Reads a list, if this run has not read it yet.
    async fn read(&mut self, access: &Access, subscriptions: &BTreeSet<String>, need: Need) -> Result<()> {
        if self.list(access, subscriptions).is_some() {
            return Ok(());
        }
        let progress = Progress::default();
        progress.set(Step::wait("list of machines").with(" from Azure Resource Manager"));
        let only: Vec<String> = subscriptions.iter().cloned().collect();
        let machines = match progress.run(list_visible(&self.arm(access)?, &self.store, &only)).await {
            Err(error) if need == Need::Optional => {
                tracing::info!(
                    "cannot list machines, so arcssh compares only the names of the named machines: {error}"
                );
                return Ok(());
            }
            result => result?,
        };
        self.visible.extend(machines.iter().map(|machine| (key(machine), machine.clone())));
        self.lists.push((access.clone(), subscriptions.clone(), machines));
        Ok(())
    }

    fn list(&self, access: &Access, subscriptions: &BTreeSet<String>) -> Option<&Vec<Machine>> {
        let matches = |(by, within, _): &&(Access, BTreeSet<String>, Vec<Machine>)| {
            (by, within) == (access, subscriptions)
        };
        self.lists.iter().find(matches).map(|(_, _, machines)| machines)
    }

    /// Returns the machine of a resource ID in the options; `None` if Azure no longer has that machine.
    async fn find(&self, id: &str, login: &Login) -> Result<Option<Machine>> {
        if let Some(machine) = self.visible.get(&id.to_lowercase()) {
            return Ok(Some(machine.clone()));
        }
        match resolve(&self.arm(&login.access())?, &id.parse()?, &[]).await {
            Ok(machine) => Ok(Some(machine)),
            Err(error) if is_not_found(&error) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

fn is_not_found(error: &SelectError) -> bool {
    matches!(error, SelectError::Arm(ArmError::Rejected(response)) if response.status == 404)
}

/// A machine that gets a host entry.
struct Selected {
    machine: Machine,
    login: Login,
    claim: Claim,
    /// Whether this run named the machine or a filter that matches it.
    is_of_this_run: bool,
    /// Whether this run named the machine. It is then an error if the machine cannot have a host entry.
    is_named_now: bool,
}

/// Requests the machines from Azure and renders their host entries.
///
/// # Errors
/// Nothing is selected; Azure returns an error; a value is not valid in an ssh configuration.
pub(super) async fn compose(
    args: &ConfigArgs,
    mut options: Options,
    foreign: &[ForeignEntry],
    target: Target<'_>,
) -> Result<Composed> {
    let typed = to_selector(&args.selection);
    options.platform = args.platform.or(options.platform);
    options.program = args.program.clone().or(options.program);
    if let Some(suffix) = &args.suffix {
        options.set_suffix(suffix)?;
    }
    if options.program.is_none() && args.platform.is_some_and(|platform| platform != Platform::HERE) {
        note(
            "the host entries contain the path of arcssh on this computer; to set another one: --program PATH",
        );
    }
    let login = Login::from_args(args, options.platform());
    if options.is_empty() && typed.is_empty() && args.wildcard.is_none() && foreign.is_empty() {
        return Err(SelectError::NothingSelected { command: "config" }.into());
    }
    // A subscription restricts a selection, and selects nothing on its own.
    if typed.is_empty() && !typed.subscriptions.is_empty() {
        return Err(SelectError::NothingSelected { command: "config" }.into());
    }
    if typed.is_empty() && args.wildcard.is_none() && foreign.is_empty() {
        options.apply_to_all(&login);
    }
    let used = UsedNames::here(target.file);
    wildcard::check_suffix(options.suffix(), &used)?;
    let mut notes = Notes::default();
    match &args.wildcard {
        Some(pattern) => {
            wildcard::check(pattern)?;
            wildcard::check_names(pattern, &used)?;
            options.set_wildcard(pattern, &login);
        }
        None => options.drop_unsafe_wildcard(&mut notes),
    }
    let mut azure =
        Azure { args, net: Net::new()?, store: Store::open()?, lists: Vec::new(), visible: BTreeMap::new() };
    let typed = with_subscription_ids(&azure.arm(&login.access())?, typed).await?;
    let named_now = azure.add_typed(&mut options, &typed, &login).await?;
    if !foreign.is_empty() {
        let machines = list(&azure.arm(&login.access())?, &[]).await?;
        adopt(&mut options, foreign, &machines, &login);
    }
    azure.read_all(&options).await?;
    let mut adopted = Vec::new();
    for one in std::mem::take(&mut options.adopted) {
        match azure.find(&one.machine, &one.login).await? {
            Some(machine) => adopted.push((one, machine)),
            None => drop(notes.of_machine.insert(one.machine.to_lowercase(), NOT_FOUND.into())),
        }
    }
    options.adopted = adopted.iter().map(|(one, _)| one.clone()).collect();
    let replaced = replaced_lines(foreign.iter().filter(|entry| options.has_adopted(entry)));
    let location = |line: usize| Location { file: target.file.to_owned(), line: line + 1 };
    notes.replaced = replaced.into_iter().map(location).collect();
    let selected = azure.selected(&mut options, &typed, &named_now, &mut notes).await?;
    if login.entra.is_some() {
        ensure_not_all_windows(&selected)?;
    }
    let renderer = Renderer { azure: &azure, used: &used, target };
    let named = renderer.named(&options, selected)?;
    let host_entries = renderer.render(&options, adopted, named, &mut notes).await?;
    renderer.explain_absence(&mut notes);
    Ok(Composed { options, host_entries, notes })
}

/// Why the host entry of a named or adopted machine is removed.
const NOT_FOUND: &str = "the machine no longer exists in Azure";

impl Azure<'_> {
    /// Adds the selection of this run to the options. Returns the keys of the machines that this run names.
    async fn add_typed(
        &mut self,
        options: &mut Options,
        typed: &MachineSelector,
        login: &Login,
    ) -> Result<BTreeSet<String>> {
        let is_id = |text: &String| text.parse::<ResourceId>().is_ok();
        let needs_list = typed.is_filter() || !typed.machines.iter().all(is_id);
        let need = if needs_list { Need::Required } else { Need::Optional };
        let access = login.access();
        if !typed.is_empty() {
            self.read(&access, &typed.subscriptions, need).await?;
        }
        let known = self.list(&access, &typed.subscriptions).cloned().unwrap_or_default();
        let mut named = BTreeSet::new();
        for text in &typed.machines {
            let text = without_suffix(text, options.suffix(), &known);
            let machine = pick(&self.arm(&access)?, text, &known).await?;
            let by_alias = self.args.derived || !refers_to(text, &machine);
            options.name(&machine, by_alias, login);
            named.insert(key(&machine));
        }
        if typed.is_filter() {
            let filter = MachineSelector { machines: BTreeSet::new(), ..typed.clone() };
            ensure_matches(&filter, &known)?;
            let is_excluded = options.exclusion();
            let matching: Vec<&Machine> = known.iter().filter(|machine| filter.selects(machine)).collect();
            note_excluded(matching.iter().copied().filter(|machine| is_excluded(machine)));
            if login.selects_user_of_certificate() {
                options.use_certificate_of(&matching);
            }
            options.select(filter, self.args.allow_names.iter().cloned().collect(), login);
        } else if typed.is_empty() {
            let allowed = self.args.allow_names.iter().cloned();
            options.selections.iter_mut().for_each(|one| one.allowed_names.extend(allowed.clone()));
        }
        Ok(named)
    }

    /// Reads the lists for the selections of all runs.
    async fn read_all(&mut self, options: &Options) -> Result<()> {
        for Filter { selection, login, .. } in &options.selections {
            self.read(&login.access(), &selection.subscriptions, Need::Required).await?;
        }
        let adopted = options.adopted.iter().map(|one| &one.login);
        for login in options.named.iter().map(|one| &one.login).chain(adopted) {
            let access = login.access();
            if !self.lists.iter().any(|(by, _, _)| *by == access) {
                self.read(&access, &BTreeSet::new(), Need::Optional).await?;
            }
        }
        Ok(())
    }

    /// The machines that all runs selected, ordered by name and group.
    async fn selected(
        &self,
        options: &mut Options,
        typed: &MachineSelector,
        named_now: &BTreeSet<String>,
        notes: &mut Notes,
    ) -> Result<Vec<Selected>> {
        let mut selected: BTreeMap<String, Selected> = BTreeMap::new();
        let mut without_machines = BTreeSet::new();
        let is_excluded = options.exclusion();
        for Filter { selection, allowed_names, login } in &options.selections {
            let list = self.list(&login.access(), &selection.subscriptions).map_or(&[][..], Vec::as_slice);
            let mut matching = list.iter().filter(|machine| selection.selects(machine)).peekable();
            if matching.peek().is_none() && without_machines.insert(selection.filter_options().to_lowercase())
            {
                note(&format!(
                    "{}; arcssh keeps the selection for the next run",
                    SelectError::NoMatch {
                        filter: selection.filter_options(),
                        similar: Vec::new(),
                        total: list.len(),
                    }
                ));
            }
            let is_of_this_run =
                selection.is_same(&MachineSelector { machines: BTreeSet::new(), ..typed.clone() });
            for machine in matching.filter(|one| !is_excluded(one) && options.adopted_name(one).is_none()) {
                let entry = selected.entry(key(machine)).or_insert_with(|| Selected {
                    machine: machine.clone(),
                    login: Login::default(),
                    claim: Claim::default(),
                    is_of_this_run: false,
                    is_named_now: false,
                });
                // A later selection overrides an earlier one.
                entry.login = login.clone().or(&entry.login);
                entry.is_of_this_run |= is_of_this_run;
                if is_allowed(&machine.id.name, allowed_names.iter()) {
                    entry.claim = Claim::Allowed;
                }
            }
        }
        for one in std::mem::take(&mut options.named) {
            let Some(machine) = self.find(&one.machine, &one.login).await? else {
                notes.of_machine.insert(one.machine.to_lowercase(), NOT_FOUND.into());
                continue;
            };
            let matched = selected.remove(&key(&machine));
            let matched = matched.map(|entry| (entry.login, entry.claim, entry.is_of_this_run));
            let (login, claim, is_matched_now) = matched.unwrap_or_default();
            let just_now = named_now.contains(&key(&machine));
            let claim = if one.by_alias { claim } else { Claim::ByUser { just_now } };
            let login = one.login.clone().or(&login);
            let entry = Selected {
                machine,
                login,
                claim,
                is_of_this_run: just_now || is_matched_now,
                is_named_now: just_now,
            };
            selected.insert(key(&entry.machine), entry);
            options.named.push(one);
        }
        let mut selected: Vec<Selected> = selected.into_values().collect();
        selected.sort_by_key(|one| (one.machine.id.name.to_lowercase(), key(&one.machine)));
        Ok(selected)
    }
}

/// Adopts host entries of other programs, after finding their machines. ssh uses the first of several entries with a name.
fn adopt(options: &mut Options, foreign: &[ForeignEntry], known: &[Machine], typed: &Login) {
    let mut unknown = Vec::new();
    for entry in foreign {
        let Some(alias) = entry.patterns.first() else { continue };
        if let Some(pattern) = entry.patterns.iter().find(|pattern| !is_alias(pattern)) {
            note(&format!("skipped {alias}: arcssh adopts only names, and no pattern such as {pattern:?}"));
            continue;
        }
        let Some(machine) = machine_of(entry, known) else {
            unknown.push(alias.clone());
            continue;
        };
        let login = Login {
            user: entry.user.clone(),
            port: entry.port,
            // az created the key of a certificate for that certificate only.
            identity: entry.identity_file.clone().filter(|_| !entry.has_entra_certificate()),
            certificate_file: entry.certificate_file.clone().filter(|_| !entry.has_entra_certificate()),
            entra: entry.has_entra_certificate().then_some(CertificateMode::on(options.platform())),
            user_of_certificate: !entry.has_entra_certificate() && typed.selects_user_of_certificate(),
            ..Login::default()
        };
        options.adopt(&entry.patterns, machine, login.or(typed));
    }
    let cause = "the account sees no Arc machine that matches this entry";
    note_skipped(unknown.into_iter().map(|alias| (alias, cause.into())));
}

fn ensure_not_all_windows(selected: &[Selected]) -> anyhow::Result<()> {
    let now: Vec<&Machine> =
        selected.iter().filter(|one| one.is_of_this_run).map(|one| &one.machine).collect();
    let windows: Vec<&str> =
        now.iter().filter(|machine| is_windows(machine)).map(|machine| machine.id.name.as_str()).collect();
    ensure!(windows.is_empty() || windows.len() < now.len(), "{}: {ONLY_LINUX}", windows.join(", "));
    Ok(())
}

/// Renders host entries.
struct Renderer<'a> {
    azure: &'a Azure<'a>,
    used: &'a UsedNames,
    target: Target<'a>,
}

impl Renderer<'_> {
    /// Assigns aliases. Leaves out a machine for which no name is valid.
    fn named(&self, options: &Options, selected: Vec<Selected>) -> Result<Vec<(Selected, Alias)>> {
        let block = own_block(self.target.text)?;
        let naming = Naming {
            used: self.used,
            written: written(block),
            written_checked: managed_block::is_current(block),
            suffix: options.suffix(),
            taken: options.adopted.iter().flat_map(Adopted::names).map(|name| name.to_lowercase()).collect(),
        };
        // An alias depends on all visible machines, not only on the selected ones.
        let mut known: BTreeMap<String, &Machine> =
            self.azure.visible.iter().map(|(key, machine)| (key.clone(), machine)).collect();
        known.extend(selected.iter().map(|one| (key(&one.machine), &one.machine)));
        let known: Vec<Machine> = known.into_values().cloned().collect();
        let claims: BTreeMap<String, Claim> =
            selected.iter().map(|one| (key(&one.machine), one.claim.clone())).collect();
        let aliases =
            naming.aliases(&known, |machine| claims.get(&key(machine)).cloned().unwrap_or_default());
        let mut aliases: BTreeMap<String, Option<Alias>> = known.iter().map(key).zip(aliases).collect();
        let (mut named, mut unnamed) = (Vec::new(), Vec::new());
        for one in selected {
            let id = &one.machine.id;
            match aliases.remove(&key(&one.machine)).flatten() {
                Some(alias) => named.push((one, alias)),
                None if one.is_named_now => {
                    let name = id.grouped_name();
                    return Err(anyhow!("cannot write a host entry for {name}: none of its names is valid in an ssh configuration").into());
                }
                None => unnamed.push(id.grouped_name()),
            }
        }
        let cause = "none of its names is valid in an ssh configuration";
        note_skipped(unnamed.into_iter().map(|name| (name, cause.into())));
        Ok(named)
    }

    /// The text of all host entries. Leaves out a machine that cannot have one, unless this run names it.
    async fn render(
        &self,
        options: &Options,
        adopted: Vec<(Adopted, Machine)>,
        named: Vec<(Selected, Alias)>,
        notes: &mut Notes,
    ) -> Result<String> {
        let mut entries = Vec::new();
        for (one, machine) in adopted {
            let names = one.names().cloned().collect();
            entries.push((machine, one.login, names, false));
        }
        for (selected, alias) in named {
            if let Some(note) = note_of(&selected.machine, &alias) {
                notes.of_alias.extend(alias.patterns.first().map(|first| (first.clone(), note)));
            }
            entries.push((selected.machine, selected.login, alias.patterns, selected.is_named_now));
        }
        let mut builders = Builders {
            azure: self.azure,
            program: options.program.clone().map_or_else(program, Ok)?,
            platform: options.platform(),
            built: Vec::new(),
        };
        let key_names = KeyNames::of(own_block(self.target.text)?, self.used);
        let mut host_entries = Vec::new();
        let mut skipped = Vec::new();
        for (machine, login, patterns, is_named_now) in entries {
            let name = patterns.first().cloned().unwrap_or_default();
            let builder = builders.get(&login).await?;
            let entry = builder.entry(&login, &machine, patterns, key_names.name(&machine));
            match entry.with_context(|| format!("cannot write a host entry for {name}")) {
                Ok(text) => {
                    notes.add_options(self.used, &text);
                    host_entries.push(text);
                }
                Err(error) if is_named_now => return Err(error.into()),
                Err(error) => {
                    notes.of_machine.insert(key(&machine), error.root_cause().to_string());
                    skipped.push((name, error));
                }
            }
        }
        if host_entries.is_empty() && !skipped.is_empty() {
            return Err(skipped.swap_remove(0).1.into());
        }
        note_skipped(skipped.into_iter().map(|(name, error)| (name, error.root_cause().to_string())));
        if let Some(one) = &options.wildcard {
            let host = builders.get(&one.login).await?.wildcard(&one.login, &one.pattern)?;
            let text = host.render(host_entry::WILDCARD, options.platform())?;
            notes.add_options(self.used, &text);
            let used = self.used.redirected(&example(&one.pattern), Use::AnyPattern);
            let overridden = used.map(|location| format!("the entry overrides {location}"));
            notes.of_alias.extend(overridden.map(|note| (one.pattern.clone(), note)));
            host_entries.push(text);
        }
        Ok(host_entries.join("\n"))
    }

    /// Adds the reason why a machine of the old block is not in the new one, unless there is a more precise one.
    fn explain_absence(&self, notes: &mut Notes) {
        for machine in written(self.target.text).into_keys() {
            let is_visible = self.azure.visible.contains_key(&machine);
            let reason = Some("no selection matches the machine").filter(|_| is_visible);
            let reason = reason.unwrap_or("the account does not see the machine");
            notes.of_machine.entry(machine).or_insert_with(|| reason.into());
        }
    }
}

/// The remark about an alias, for the list of changes.
fn note_of(machine: &Machine, alias: &Alias) -> Option<String> {
    let name = shell_quote(&format!("{}/{}", machine.id.resource_group, machine.id.name));
    match (&alias.instead, &alias.overrides) {
        (Some(why), _) if [SHARED, THIS_COMPUTER].contains(&why.as_str()) => Some(why.clone()),
        (Some(why), _) => Some(format!("{why}; to use its name anyway: arcssh config {name}")),
        (None, Some(location)) => Some(format!("the entry overrides {location}")),
        (None, None) => None,
    }
}

/// One [`EntryBuilder`] for all host entries with the same values.
struct Builders<'a> {
    azure: &'a Azure<'a>,
    program: String,
    platform: Platform,
    built: Vec<(BuilderKey, EntryBuilder)>,
}

/// The values that an [`EntryBuilder`] depends on.
#[derive(Clone, PartialEq, Eq)]
struct BuilderKey {
    access: Access,
    certificate: CertificateOptions,
    entra: Option<CertificateMode>,
    template: Option<PathBuf>,
    certificate_file: Option<String>,
}

impl Builders<'_> {
    async fn get(&mut self, login: &Login) -> Result<&EntryBuilder> {
        let key = BuilderKey {
            access: login.access(),
            certificate: login.certificate(),
            entra: login.entra,
            template: login.template.clone(),
            certificate_file: login.certificate_file.clone(),
        };
        if let Some(at) = self.built.iter().position(|(other, _)| *other == key) {
            return Ok(&self.built[at].1);
        }
        let template = match &key.template {
            Some(file) => {
                let text =
                    read_text(file, MAX_TEXT).with_context(|| format!("cannot read {}", file.display()))?;
                if effective_config::host_entries(&text).is_empty() {
                    let file = file.display();
                    return Err(anyhow!("the template {file} has no line Host {{patterns}}").into());
                }
                text
            }
            None => host_entry::HOST.to_owned(),
        };
        if key.certificate_file.is_some() && !template.contains("{certificate_file}") {
            let placeholder = "{certificate_file}";
            let message = format!("the template has no {placeholder}, which --certificate-file requires");
            return Err(anyhow!(message).into());
        }
        let entra = match key.entra {
            None => None,
            Some(mode) => {
                let placeholder = mode.placeholder();
                if !mode.is_in(&template) {
                    return Err(anyhow!("the template has no {placeholder}, which --entra requires").into());
                }
                let credentials = self.azure.credentials(&key.access)?;
                Some(Entra::request(credentials, &key.certificate, mode, self.platform).await?)
            }
        };
        let (program, platform, access) = (self.program.clone(), self.platform, key.access.clone());
        self.built.push((key, EntryBuilder { program, platform, access, template, entra }));
        Ok(&self.built[self.built.len() - 1].1)
    }
}

/// Renders the host entries of one [`BuilderKey`].
struct EntryBuilder {
    /// The path of arcssh.
    program: String,
    platform: Platform,
    access: Access,
    template: String,
    /// The certificate to log in with.
    entra: Option<Entra>,
}

impl EntryBuilder {
    fn entry(
        &self,
        login: &Login,
        machine: &Machine,
        patterns: Vec<String>,
        host_key_alias: Option<String>,
    ) -> anyhow::Result<String> {
        let id = machine.id.to_string();
        let mut login = login.clone();
        if is_windows(machine) && login.entra.take().is_some() {
            note(&format!("no certificate for {}: {ONLY_LINUX}", machine.id.grouped_name()));
        }
        let host = Host {
            host_name: patterns.first().cloned(),
            host_key_alias,
            resource_id: Some(id.clone()),
            ..login.host(patterns)
        };
        let machine = ProxyMachine::Id(machine.id.clone());
        self.with_commands(host, machine, &login, &id)?.render(&self.template, self.platform)
    }

    /// Adds the ProxyCommand and, for `--entra`, the certificate. `target_name` identifies the host
    /// entry: a resource ID or a pattern.
    fn with_commands(
        &self,
        host: Host,
        machine: ProxyMachine,
        login: &Login,
        target_name: &str,
    ) -> anyhow::Result<Host> {
        let mut command = ProxyCommand::new(&self.program, machine, self.azure_args());
        let Some((entra, mode)) = self.entra.as_ref().zip(login.entra) else {
            return Ok(Host { proxy_command: command.words(), ..host });
        };
        let own_user = login.user.clone().filter(|_| !login.selects_user_of_certificate());
        let options = entra.arguments(own_user.as_ref());
        let user = own_user.or(Some(entra.login_name.clone()));
        match mode {
            CertificateMode::Agent => {
                let path = entra.agent(target_name)?;
                command.options.extend(["--agent".to_owned(), path.clone()]);
                command.options.extend(options);
                Ok(Host { user, proxy_command: command.words(), identity_agent: Some(path), ..host })
            }
            CertificateMode::Files => {
                let certificate = format!("{}-cert.pub", entra.file(login.public_key.as_deref()));
                let renew = [&self.program, "cert", "--file", &certificate].map(str::to_owned);
                let own_key = login.public_key.iter().flat_map(|key| ["--if-needed", "--public-key", key]);
                let own_key: Vec<String> = own_key.map(str::to_owned).collect();
                let renew = [renew.to_vec(), own_key, options, self.azure_args()].concat();
                // ssh reads the public key from the file that ends in .pub if its agent has the private key (authfile.c,
                // `sshkey_load_public`).
                let key = login.public_key.as_deref().map(|key| key.strip_suffix(".pub").unwrap_or(key));
                let key = key.or(certificate.strip_suffix("-cert.pub")).map(str::to_owned);
                Ok(Host {
                    user,
                    proxy_command: command.words(),
                    identity_file: key,
                    certificate_file: Some(certificate),
                    renew_command: Some(renew.iter().map(|word| escape_percent(word)).collect()),
                    ..host
                })
            }
        }
    }

    fn wildcard(&self, login: &Login, pattern: &str) -> anyhow::Result<Host> {
        let suffix = pattern.rsplit(['*', '?']).next().unwrap_or_default().to_owned();
        let host = login.host(vec![pattern.to_owned()]);
        self.with_commands(host, ProxyMachine::Name { suffix }, login, pattern)
    }

    fn azure_args(&self) -> Vec<String> {
        azure_options(&self.access.credential, self.access.cloud)
    }
}
