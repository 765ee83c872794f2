//! From what was asked for, now and in earlier runs, to the host entries that stand for it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Error, Result, bail, ensure};
use clap::ValueEnum;

use crate::azure::arm::{Arm, ArmError};
use crate::azure::cloud::{Cloud, CloudName};
use crate::azure::credentials::{CredentialChain, CredentialSource};
use crate::azure::hybrid_compute::{Machine, list};
use crate::azure::resource_id::ResourceId;
use crate::cli::ConfigArgs;
use crate::commands::config::certificates::Entra;
use crate::commands::config::options::{Access, Adopted, Broad, Login, Options};
use crate::commands::config::plan::Notes;
use crate::commands::config::{own_block, wildcard};
use crate::entra_ssh::CertificateOptions;
use crate::machines::{
    Alias, Claim, MachineSelector, Naming, NoMatch, NothingSelected, SHARED, is_allowed, key, list_visible,
    pick, refers_to, resolve, written,
};
use crate::net::Net;
use crate::ssh::foreign_entries::ForeignEntry;
use crate::ssh::host_entry::{self, CertificateMode, Host, Platform, escape_percent, is_alias};
use crate::ssh::managed_block;
use crate::ssh::used_names::UsedNames;
use crate::state::Store;
use crate::system::files::{MAX_TEXT, read_text};
use crate::terminal::output::note;
use crate::terminal::progress::Progress;
use crate::text::shell_quote;

/// A block that was made up.
pub(super) struct Composed {
    pub(super) options: Options,
    /// The host entries.
    pub(super) sections: String,
    pub(super) notes: Notes,
}

/// The configuration that a block is for.
pub(super) struct Target<'a> {
    /// Its file.
    pub(super) file: &'a Path,
    /// What the file holds now.
    pub(super) text: &'a str,
}

impl Login {
    /// What was typed.
    fn typed(args: &ConfigArgs, platform: Platform) -> Self {
        let absolute = |path: &PathBuf| std::path::absolute(path).unwrap_or_else(|_| path.clone());
        let CertificateOptions { scope, client_id } = args.certificate.asked();
        Self {
            user: args.user.clone(),
            port: args.port,
            identity: args.identity.as_deref().map(absolute_identity),
            entra: args.entra.map(|how| how.unwrap_or(CertificateMode::on(platform))),
            scope,
            client_id,
            control_master: args.control_master.then_some(true),
            template: args.template.as_ref().map(absolute),
            credential: args.who.credential(),
            tenant: args.who.wanted().tenant,
            cloud: args.cloud.given(),
        }
    }

    fn host(&self, patterns: Vec<String>) -> Host {
        Host {
            patterns,
            user: self.user.clone(),
            port: self.port,
            identity_file: self.identity.clone(),
            shared: self.control_master.unwrap_or_default(),
            ..Host::default()
        }
    }
}

/// A key's file by a name that holds in every folder: ssh looks for a relative one in the folder that it is started in.
/// What is no file here, such as `~/.ssh/key` in quotes or a path of another system, is left to ssh.
fn absolute_identity(identity: &str) -> String {
    let absolute = std::path::absolute(identity).ok().filter(|_| Path::new(identity).exists());
    absolute.and_then(|path| path.to_str().map(Into::into)).unwrap_or_else(|| identity.to_owned())
}

/// The machine whose group and name make up a file's name; else the only one with the section's `HostName`.
fn machine_of<'a>(section: &ForeignEntry, known: &'a [Machine]) -> Option<&'a Machine> {
    let names = section.group_and_name();
    let fits = |machine: &&Machine| {
        let name = format!("{}-{}", machine.id.resource_group, machine.id.name);
        names.iter().any(|given| given.eq_ignore_ascii_case(&name))
    };
    if let Some(machine) = known.iter().find(fits) {
        return Some(machine);
    }
    let host_name = section.host_name.as_ref()?;
    let mut named = known.iter().filter(|machine| machine.id.name.eq_ignore_ascii_case(host_name));
    named.next().filter(|_| named.next().is_none())
}

impl Options {
    /// Whether the user removed the machine, which stays out of broad selections.
    fn is_out(&self, machine: &Machine) -> bool {
        self.except.iter().any(|text| refers_to(text, machine))
    }

    /// Reports a machine that a broad selection of this run does not bring back.
    fn tell_if_out(&self, machine: &Machine) {
        if self.is_out(machine) {
            let name = shell_quote(&format!("{}/{}", machine.id.resource_group, machine.id.name));
            note(&format!("{name} stays out, since you removed it; to add it: arcssh config {name}"));
        }
    }

    /// Drops the wildcard of an earlier version that covers names which are not the user's.
    fn drop_unsafe_wildcard(&mut self, notes: &mut Notes) {
        if let Some(error) = self.wildcard.as_ref().and_then(|one| wildcard::check(&one.pattern).err()) {
            let pattern = self.wildcard.take().map(|one| one.pattern).unwrap_or_default();
            notes.of_machine.insert(pattern, error.to_string());
        }
    }
}

/// Azure, as each selection reads it.
struct Azure<'a> {
    args: &'a ConfigArgs,
    net: Net,
    store: Store,
    /// The lists of machines that were read, by who read them and in which subscriptions.
    lists: Vec<(Access, BTreeSet<String>, Vec<Machine>)>,
    /// The machines of all lists; see [`key`].
    seen: BTreeMap<String, Machine>,
}

/// Whether a run can do without a list of machines.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Need {
    /// It selects machines.
    Selects,
    /// It only tells the names of machines apart, whose resource IDs are known.
    TellsApart,
}

impl Azure<'_> {
    fn cloud(&self, access: &Access) -> Result<Cloud> {
        Cloud::new(access.cloud, &self.args.cloud.endpoints())
    }

    fn arm(&self, access: &Access) -> Result<Arm> {
        Ok(Arm::new(&self.cloud(access)?, &self.net, &self.store, access.who.clone()))
    }

    fn identity(&self, access: &Access) -> Result<CredentialChain> {
        Ok(CredentialChain::new(&self.cloud(access)?, access.who.clone(), &self.net, &self.store))
    }

    /// Reads a list once.
    async fn read(&mut self, access: &Access, subscriptions: &BTreeSet<String>, need: Need) -> Result<()> {
        if self.list(access, subscriptions).is_some() {
            return Ok(());
        }
        let waiting = Progress::default();
        waiting.set("list of machines from Azure Resource Manager".into());
        let only: Vec<String> = subscriptions.iter().cloned().collect();
        let machines = match waiting.run(list_visible(&self.arm(access)?, &only)).await {
            Err(error) if need == Need::TellsApart => {
                tracing::info!("arcssh compares the names of the named machines only: {error}");
                return Ok(());
            }
            seen => seen?,
        };
        self.seen.extend(machines.iter().map(|machine| (key(machine), machine.clone())));
        self.lists.push((access.clone(), subscriptions.clone(), machines));
        Ok(())
    }

    fn list(&self, access: &Access, subscriptions: &BTreeSet<String>) -> Option<&Vec<Machine>> {
        let is_it = |(by, within, _): &&(Access, BTreeSet<String>, Vec<Machine>)| {
            (by, within) == (access, subscriptions)
        };
        self.lists.iter().find(is_it).map(|(_, _, machines)| machines)
    }

    /// The machine of a resource ID that an earlier run kept; `None` if Azure has no such machine any more.
    async fn kept(&self, id: &str, login: &Login) -> Result<Option<Machine>> {
        if let Some(machine) = self.seen.get(&id.to_lowercase()) {
            return Ok(Some(machine.clone()));
        }
        match resolve(&self.arm(&login.access())?, &id.parse()?, &[]).await {
            Ok(machine) => Ok(Some(machine)),
            Err(error) if is_gone(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn is_gone(error: &Error) -> bool {
    matches!(error.downcast_ref(), Some(ArmError::Refused(refusal)) if refusal.status == 404)
}

/// A machine that gets a host entry.
struct Meant {
    machine: Machine,
    login: Login,
    claim: Claim,
    /// Whether this run named or selected it.
    is_of_this_run: bool,
    /// Whether this run named it. It is then an error if the machine cannot have a host entry.
    is_named_now: bool,
}

/// Asks Azure for the machines, and renders their host entries.
///
/// # Errors
/// What was typed selects nothing; what Azure refuses; a value that cannot stand in a configuration.
pub(super) async fn compose(
    args: &ConfigArgs,
    mut options: Options,
    foreign: &[ForeignEntry],
    target: Target<'_>,
) -> Result<Composed> {
    let typed = args.selection.selection();
    options.platform = args.platform.or(options.platform);
    let login = Login::typed(args, options.platform());
    if options.is_empty() && typed.is_empty() && args.wildcard.is_none() && foreign.is_empty() {
        bail!(NothingSelected { command: "config" });
    }
    // A subscription narrows a selection, and is none.
    ensure!(!typed.is_empty() || typed.subscriptions.is_empty(), NothingSelected { command: "config" });
    if typed.is_empty() && args.wildcard.is_none() && foreign.is_empty() {
        options.apply_to_all(&login);
    }
    let used = UsedNames::here(target.file);
    let mut notes = Notes::default();
    match &args.wildcard {
        Some(pattern) => {
            wildcard::check(pattern)?;
            wildcard::check_names(pattern, &used)?;
            options.find_by(pattern, &login);
        }
        None => options.drop_unsafe_wildcard(&mut notes),
    }
    let mut azure =
        Azure { args, net: Net::new(), store: Store::open()?, lists: Vec::new(), seen: BTreeMap::new() };
    let named_now = azure.add_typed(&mut options, &typed, &login).await?;
    if !foreign.is_empty() {
        let machines = list(&azure.arm(&login.access())?, &[]).await?;
        adopt(&mut options, foreign, &machines, &login);
    }
    azure.read_all(&options).await?;
    let mut adopted = Vec::new();
    for one in std::mem::take(&mut options.adopted) {
        match azure.kept(&one.machine, &one.login).await? {
            Some(machine) => adopted.push((one, machine)),
            None => drop(notes.of_machine.insert(one.machine.to_lowercase(), GONE.into())),
        }
    }
    options.adopted = adopted.iter().map(|(one, _)| one.clone()).collect();
    let meant = azure.meant(&mut options, &typed, &named_now, &mut notes).await?;
    if login.entra.is_some() {
        ensure_not_all_windows(&meant)?;
    }
    let machines = Machines { azure: &azure, used: &used, target };
    let named = machines.named(&options, meant)?;
    let sections = machines.rendered(&options, adopted, named, &mut notes).await?;
    machines.explain_absence(&mut notes);
    Ok(Composed { options, sections, notes })
}

/// Why the host entry of a machine that was named or adopted is removed.
const GONE: &str = "Azure has no such machine";

impl Azure<'_> {
    /// Adds what was typed to the options; the resource IDs of the machines that were named.
    async fn add_typed(
        &mut self,
        options: &mut Options,
        typed: &MachineSelector,
        login: &Login,
    ) -> Result<BTreeSet<String>> {
        let is_id = |text: &String| text.parse::<ResourceId>().is_ok();
        let need = match typed.is_filter() || !typed.machines.iter().all(is_id) {
            true => Need::Selects,
            false => Need::TellsApart,
        };
        let access = login.access();
        if !typed.is_empty() {
            self.read(&access, &typed.subscriptions, need).await?;
        }
        let known = self.list(&access, &typed.subscriptions).cloned().unwrap_or_default();
        let mut named = BTreeSet::new();
        for text in &typed.machines {
            let machine = pick(&self.arm(&access)?, text, &known).await?;
            let by_alias = self.args.derived || !refers_to(text, &machine);
            options.name(&machine, by_alias, login);
            named.insert(key(&machine));
        }
        if typed.is_filter() {
            let broad = MachineSelector { machines: BTreeSet::new(), ..typed.clone() };
            ensure_each_fits(&broad, &known)?;
            known
                .iter()
                .filter(|machine| broad.selects(machine))
                .for_each(|machine| options.tell_if_out(machine));
            options.select(broad, self.args.allow_names.iter().cloned().collect(), login);
        } else if typed.is_empty() {
            let allowed = self.args.allow_names.iter().cloned();
            options.selections.iter_mut().for_each(|one| one.allowed_names.extend(allowed.clone()));
        }
        Ok(named)
    }

    /// Reads the lists of what earlier runs selected.
    async fn read_all(&mut self, options: &Options) -> Result<()> {
        for Broad { selection, login, .. } in &options.selections {
            self.read(&login.access(), &selection.subscriptions, Need::Selects).await?;
        }
        let adopted = options.adopted.iter().map(|one| &one.login);
        for login in options.named.iter().map(|one| &one.login).chain(adopted) {
            let access = login.access();
            if !self.lists.iter().any(|(by, _, _)| *by == access) {
                self.read(&access, &BTreeSet::new(), Need::TellsApart).await?;
            }
        }
        Ok(())
    }

    /// The machines of all runs together, ordered by name and group.
    async fn meant(
        &self,
        options: &mut Options,
        typed: &MachineSelector,
        named_now: &BTreeSet<String>,
        notes: &mut Notes,
    ) -> Result<Vec<Meant>> {
        let mut meant: BTreeMap<String, Meant> = BTreeMap::new();
        let mut without_machines = BTreeSet::new();
        for Broad { selection, allowed_names, login } in &options.selections {
            let list = self.list(&login.access(), &selection.subscriptions).into_iter().flatten();
            let mut fitting = list.filter(|machine| selection.selects(machine)).peekable();
            if fitting.peek().is_none() && without_machines.insert(selection.common().to_lowercase()) {
                note(&format!("{}; it stays in the block's options", NoMatch(selection.common())));
            }
            let is_of_this_run =
                selection.is_same(&MachineSelector { machines: BTreeSet::new(), ..typed.clone() });
            for machine in fitting.filter(|machine| !options.is_out(machine)) {
                let entry = meant.entry(key(machine)).or_insert_with(|| Meant {
                    machine: machine.clone(),
                    login: Login::default(),
                    claim: Claim::default(),
                    is_of_this_run: false,
                    is_named_now: false,
                });
                // A selection that was made later counts more.
                entry.login = login.clone().or(&entry.login);
                entry.is_of_this_run |= is_of_this_run;
                if is_allowed(&machine.id.name, allowed_names.iter()) {
                    entry.claim = Claim::Allowed;
                }
            }
        }
        for one in std::mem::take(&mut options.named) {
            let Some(machine) = self.kept(&one.machine, &one.login).await? else {
                notes.of_machine.insert(one.machine.to_lowercase(), GONE.into());
                continue;
            };
            let broad = meant.remove(&key(&machine));
            let (login, claim) =
                broad.map_or((Login::default(), Claim::default()), |broad| (broad.login, broad.claim));
            let just_now = named_now.contains(&key(&machine));
            let claim = if one.by_alias { claim } else { Claim::ByUser { just_now } };
            let login = one.login.clone().or(&login);
            let entry = Meant { machine, login, claim, is_of_this_run: just_now, is_named_now: just_now };
            meant.insert(key(&entry.machine), entry);
            options.named.push(one);
        }
        let mut meant: Vec<Meant> = meant.into_values().collect();
        meant.sort_by_key(|one| (one.machine.id.name.to_lowercase(), key(&one.machine)));
        Ok(meant)
    }
}

/// A selection that was typed must select something, and so must each of its groups: one that does not is a mistake.
fn ensure_each_fits(selection: &MachineSelector, known: &[Machine]) -> Result<()> {
    let of_group = |group: &String| MachineSelector {
        groups: BTreeSet::from([group.clone()]),
        tags: BTreeSet::new(),
        ..selection.clone()
    };
    let groups = selection.groups.iter().map(of_group);
    for part in groups.chain([selection.clone()]) {
        ensure!(known.iter().any(|machine| part.selects(machine)), NoMatch(part.common()));
    }
    Ok(())
}

/// Finds the machines of other programs' sections and adopts the sections.
fn adopt(options: &mut Options, foreign: &[ForeignEntry], known: &[Machine], typed: &Login) {
    for section in foreign {
        let Some(alias) = section.patterns.first().filter(|alias| is_alias(alias)) else { continue };
        let Some(machine) = machine_of(section, known) else {
            note(&format!("{alias} stays as it is: no Arc machine that this identity sees fits it"));
            continue;
        };
        let login = Login {
            user: section.user.clone(),
            port: section.port,
            // Beside a certificate lies a key that was made for it alone.
            identity: section.identity_file.clone().filter(|_| !section.has_certificate()),
            entra: section.has_certificate().then_some(CertificateMode::on(options.platform())),
            ..Login::default()
        };
        options.adopted.retain(|adopted| adopted.alias != *alias);
        let machine = machine.id.to_string();
        options.adopted.push(Adopted { alias: alias.clone(), machine, login: login.or(typed) });
    }
}

fn ensure_not_all_windows(meant: &[Meant]) -> Result<()> {
    let now: Vec<&Machine> = meant.iter().filter(|one| one.is_of_this_run).map(|one| &one.machine).collect();
    let windows: Vec<&str> =
        now.iter().filter(|machine| is_windows(machine)).map(|machine| machine.id.name.as_str()).collect();
    ensure!(windows.is_empty() || windows.len() < now.len(), "{}: {ONLY_LINUX}", windows.join(", "));
    Ok(())
}

/// Machines on their way to host entries.
struct Machines<'a> {
    azure: &'a Azure<'a>,
    used: &'a UsedNames,
    target: Target<'a>,
}

impl Machines<'_> {
    /// Each machine with what ssh calls it; one without a name is left out.
    fn named(&self, options: &Options, meant: Vec<Meant>) -> Result<Vec<(Meant, Alias)>> {
        let block = own_block(self.target.text)?;
        let naming = Naming {
            used: self.used,
            written: written(block),
            written_checked: managed_block::is_current(block),
            taken: options.adopted.iter().map(|one| one.alias.to_lowercase()).collect(),
        };
        // What a machine is called depends on all others, whichever are meant.
        let mut known: BTreeMap<String, &Machine> =
            self.azure.seen.iter().map(|(key, machine)| (key.clone(), machine)).collect();
        known.extend(meant.iter().map(|one| (key(&one.machine), &one.machine)));
        let known: Vec<Machine> = known.into_values().cloned().collect();
        let claims: BTreeMap<String, Claim> =
            meant.iter().map(|one| (key(&one.machine), one.claim.clone())).collect();
        let aliases =
            naming.aliases(&known, |machine| claims.get(&key(machine)).cloned().unwrap_or_default());
        let mut aliases: BTreeMap<String, Option<Alias>> = known.iter().map(key).zip(aliases).collect();
        let mut named = Vec::new();
        for one in meant {
            let id = &one.machine.id;
            match aliases.remove(&key(&one.machine)).flatten() {
                Some(alias) => named.push((one, alias)),
                None if one.is_named_now => bail!("no host entry for {id}: ssh accepts no name of it"),
                None => note(&format!("{id} is left out: ssh accepts no name of it")),
            }
        }
        Ok(named)
    }

    /// The text of all host entries. A machine that cannot have one is left out, so that it stops no other.
    async fn rendered(
        &self,
        options: &Options,
        adopted: Vec<(Adopted, Machine)>,
        named: Vec<(Meant, Alias)>,
        notes: &mut Notes,
    ) -> Result<String> {
        let mut wanted = Vec::new();
        for (one, machine) in adopted {
            wanted.push((machine, one.login, vec![one.alias], false));
        }
        for (meant, alias) in named {
            if let Some(note) = note_of(&meant.machine, &alias) {
                notes.of_alias.extend(alias.patterns.first().map(|first| (first.clone(), note)));
            }
            wanted.push((meant.machine, meant.login, alias.patterns, meant.is_named_now));
        }
        let mut writers = Writers {
            azure: self.azure,
            program: program()?,
            platform: options.platform(),
            made: Vec::new(),
        };
        let (mut sections, mut first_error) = (Vec::new(), None);
        for (machine, login, patterns, is_named_now) in wanted {
            let writer = writers.of(&login).await?;
            let name = patterns.first().cloned().unwrap_or_default();
            match writer
                .section(&login, &machine, patterns)
                .with_context(|| format!("no host entry for {name}"))
            {
                Ok(section) => sections.push(section),
                Err(error) if is_named_now => return Err(error),
                Err(error) => {
                    let reason = error.root_cause().to_string();
                    notes.of_machine.insert(key(&machine), reason.clone());
                    first_error
                        .get_or_insert((error, Vec::new()))
                        .1
                        .push(format!("{name} is left out: {reason}"));
                }
            }
        }
        match first_error {
            Some((error, _)) if sections.is_empty() => return Err(error),
            Some((_, left_out)) => left_out.iter().for_each(|line| note(line)),
            None => {}
        }
        if let Some(one) = &options.wildcard {
            let host = writers.of(&one.login).await?.wildcard(&one.login, &one.pattern)?;
            sections.push(host.render(host_entry::WILDCARD, options.platform())?);
        }
        Ok(sections.join("\n"))
    }

    /// Why a machine of the old block is in the new one no more, if nothing else has said it.
    fn explain_absence(&self, notes: &mut Notes) {
        for machine in written(self.target.text).into_keys() {
            let is_visible = self.azure.seen.contains_key(&machine);
            notes.of_machine.entry(machine).or_insert_with(|| match is_visible {
                true => "it does not fit any selection".into(),
                false => "this identity does not see it".into(),
            });
        }
    }
}

/// What the user should know of an alias.
fn note_of(machine: &Machine, alias: &Alias) -> Option<String> {
    let name = shell_quote(&format!("{}/{}", machine.id.resource_group, machine.id.name));
    match (&alias.instead, &alias.overrides) {
        (Some(why), _) if why == SHARED => Some(why.clone()),
        (Some(why), _) => Some(format!("{why}; to use it: arcssh config {name}")),
        (None, Some(place)) => Some(format!("it overrides {place}")),
        (None, None) => None,
    }
}

/// What host entries with the same values have in common, made once for all of them.
struct Writers<'a> {
    azure: &'a Azure<'a>,
    program: String,
    platform: Platform,
    made: Vec<(Common, EntryBuilder)>,
}

/// What a [`EntryBuilder`] depends on.
#[derive(Clone, PartialEq, Eq)]
struct Common {
    access: Access,
    asked: CertificateOptions,
    entra: Option<CertificateMode>,
    template: Option<PathBuf>,
}

impl Writers<'_> {
    async fn of(&mut self, login: &Login) -> Result<&EntryBuilder> {
        let common = Common {
            access: login.access(),
            asked: login.asked(),
            entra: login.entra,
            template: login.template.clone(),
        };
        if let Some(at) = self.made.iter().position(|(made, _)| *made == common) {
            return Ok(&self.made[at].1);
        }
        let template = match &common.template {
            Some(file) => {
                read_text(file, MAX_TEXT).with_context(|| format!("cannot read {}", file.display()))?
            }
            None => host_entry::HOST.to_owned(),
        };
        let entra = match common.entra {
            None => None,
            Some(way) => {
                let placeholder = way.placeholder();
                ensure!(
                    template.contains(placeholder),
                    "the template has no {placeholder}, which --entra fills in"
                );
                let identity = self.azure.identity(&common.access)?;
                Some(Entra::of(identity, &common.asked, way, self.platform).await?)
            }
        };
        let (program, platform, access) = (self.program.clone(), self.platform, common.access.clone());
        self.made.push((common, EntryBuilder { program, platform, access, template, entra }));
        Ok(&self.made[self.made.len() - 1].1)
    }
}

/// Writes host entries.
struct EntryBuilder {
    /// This program, as a ProxyCommand starts it.
    program: String,
    platform: Platform,
    access: Access,
    template: String,
    /// Of entries that log in with a certificate.
    entra: Option<Entra>,
}

impl EntryBuilder {
    fn section(&self, login: &Login, machine: &Machine, patterns: Vec<String>) -> Result<String> {
        let id = machine.id.to_string();
        let mut login = login.clone();
        if is_windows(machine) && login.entra.take().is_some() {
            note(&format!("{} gets a section without a certificate: {ONLY_LINUX}", machine.id.name));
        }
        let host = Host {
            host_name: patterns.first().cloned(),
            // As ssh looks it up among the known hosts.
            host_key_alias: machine.vm_id.as_ref().map(|id| id.to_lowercase()),
            proxy_command: self.command(&[&escape_percent(&id)]),
            resource_id: Some(id.clone()),
            ..login.host(patterns)
        };
        self.with_certificate(host, &login, &id)?.render(&self.template, self.platform)
    }

    /// The section with what it takes to log in with a certificate; `subject` is what the section reaches.
    fn with_certificate(&self, host: Host, login: &Login, subject: &str) -> Result<Host> {
        let Some((entra, delivery)) = self.entra.as_ref().zip(login.entra) else { return Ok(host) };
        let user = login.user.clone().or_else(|| Some(entra.login_name.clone()));
        let CertificateOptions { scope, client_id } = &entra.asked;
        // Whom the certificate must let in, where the section says nobody else.
        let login_name = login.user.is_none().then(|| entra.login_name.clone());
        let login_name = login_name.filter(|name| host_entry::is_word(name));
        let options =
            [("--login-name", &login_name), ("--scope", scope), ("--client-id", client_id)].into_iter();
        let asked =
            options.filter_map(|(name, value)| Some([name.to_owned(), escape_percent(value.as_ref()?)]));
        let asked: Vec<String> = asked.flatten().collect();
        Ok(match delivery {
            CertificateMode::Agent => {
                let path = entra.agent(subject)?;
                let serving = ["--agent".to_owned(), escape_percent(&path)];
                let proxy_command = [host.proxy_command, serving.to_vec(), asked].concat();
                Host { user, proxy_command, identity_agent: Some(path), ..host }
            }
            CertificateMode::Files => {
                let key = entra.file();
                let certificate = format!("{key}-cert.pub");
                let words =
                    [&self.program, "cert", "--file", &escape_percent(&certificate)].map(str::to_owned);
                let renew_command = [words.to_vec(), asked, self.azure_args()].concat();
                Host {
                    user,
                    identity_file: Some(key),
                    certificate_file: Some(certificate),
                    renew_command: Some(renew_command),
                    ..host
                }
            }
        })
    }

    fn wildcard(&self, login: &Login, pattern: &str) -> Result<Host> {
        let suffix = pattern.rsplit(['*', '?']).next().unwrap_or_default();
        let host = login.host(vec![pattern.to_owned()]);
        let host = Host { proxy_command: self.command(&["--host", "%n", "--suffix", suffix]), ..host };
        self.with_certificate(host, login, pattern)
    }

    /// `arcssh proxy {words} --port %p`, with whose name and the cloud if they are not the defaults.
    fn command(&self, words: &[&str]) -> Vec<String> {
        let all = [&[self.program.as_str(), "proxy"], words, &["--port", "%p"]].concat();
        all.into_iter().map(Into::into).chain(self.azure_args()).collect()
    }

    fn azure_args(&self) -> Vec<String> {
        let Access { who, cloud } = &self.access;
        let source = Some(who.source).filter(|source| *source != CredentialSource::Any);
        let cloud = Some(*cloud).filter(|cloud| *cloud != CloudName::Public);
        let options = [
            ("--credential", source.and_then(name_of)),
            ("--tenant", who.tenant.clone()),
            ("--cloud", cloud.and_then(name_of)),
        ];
        let given = options.into_iter().filter_map(|(option, value)| Some([option.to_owned(), value?]));
        given.flatten().collect()
    }
}

/// How a value is typed.
fn name_of(value: impl ValueEnum) -> Option<String> {
    value.to_possible_value().map(|value| value.get_name().to_owned())
}

/// Why a section for a Windows machine has no certificate (Microsoft Learn, "SSH access to Azure Arc-enabled servers";
/// azure-cli-extensions `ssh`, custom.py).
const ONLY_LINUX: &str = "Windows does not let Entra users log in by ssh, only Linux does; \
    use --user, with a key of that user";

fn is_windows(machine: &Machine) -> bool {
    machine.os == "windows"
}

/// This program as ssh should start it: by the absolute path it was found under, which a package manager's link keeps
/// from one version to the next, where its file's own path would not.
fn program() -> Result<String> {
    let file = std::env::current_exe().context("this program does not know its own path")?;
    let typed = PathBuf::from(std::env::args_os().next().unwrap_or_default());
    let found = which::which(typed).ok();
    let is_this = |candidate: &PathBuf| {
        candidate.is_absolute()
            && candidate.canonicalize().is_ok_and(|found| file.canonicalize().ok() == Some(found))
    };
    let program = found.filter(is_this).unwrap_or(file);
    let text = program.to_str().with_context(|| format!("{} is not text", program.display()))?;
    Ok(escape_percent(&without_spaces(text)))
}

/// The short name that Windows keeps for a path with spaces: its OpenSSH 7.7 cannot start a program in quotes
/// (gravitational/teleport issue 16181).
#[cfg(windows)]
fn without_spaces(path: &str) -> String {
    use std::os::windows::process::CommandExt;
    let mut cmd = std::process::Command::new("cmd");
    cmd.raw_arg(format!("/C for %I in (\"{path}\") do @echo %~sI"));
    let short = cmd.output().ok().and_then(|output| String::from_utf8(output.stdout).ok());
    let short =
        short.map(|text| text.trim().to_owned()).filter(|text| path.contains(' ') && !text.is_empty());
    short.unwrap_or_else(|| path.to_owned())
}

/// Elsewhere spaces are quoted.
#[cfg(not(windows))]
fn without_spaces(path: &str) -> String {
    path.to_owned()
}
