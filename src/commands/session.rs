//! The clients that the commands share.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::{StreamExt, stream};
use serde_json::{Value, json};

use crate::azure::arm::Arm;
use crate::azure::cloud::Cloud;
use crate::azure::credentials::{CredentialChain, CredentialOptions};
use crate::azure::hybrid_compute::Machine;
use crate::azure::relay_credential_cache::RelayCredentialCache;
use crate::azure::target::Target;
use crate::cli::entry_files::Remark;
use crate::cli::{AzureArgs, SelectionArgs};
use crate::diagnosis::finding::Finding;
use crate::diagnosis::{self, Error, Result, all_done, last_error};
use crate::machines::{MachineSelector, NamedMachine, SelectError, Selection, select};
use crate::net::Net;
use crate::relay::connector::{ARM_TIMEOUT, Connector};
use crate::state::Store;
use crate::system::timeout::with_timeout;
use crate::terminal::TerminalError;
use crate::terminal::output::{note, note_names};
use crate::terminal::picker::{self, Choice};
use crate::terminal::progress::{Progress, Step};
use crate::text::{grouped, shell_quote, width};

/// The finding of a remark about the files of host entries.
pub(crate) fn finding(remark: &Remark) -> Finding<'_> {
    match remark {
        Remark::OtherProgram { entry, own } => Finding::OtherProgram { entry, own },
        Remark::Elsewhere { program, cause } => Finding::ProgramElsewhere { program, cause },
        Remark::NoKey { alias, file } => Finding::NoKey { alias, file },
        Remark::CertificateFile { alias, file, cause } => Finding::CertificateFile { alias, file, cause },
        Remark::ExposedKey { alias, file, mode } => Finding::ExposedKey { alias, file, mode: *mode },
    }
}

/// Network, state directory and Azure clients of a command. They send no request before they are used.
pub(crate) struct Session {
    pub(crate) net: Net,
    pub(crate) store: Store,
    pub(crate) cloud: Cloud,
    pub(crate) arm: Arm,
    credential: CredentialOptions,
}

impl Session {
    /// Creates the clients.
    ///
    /// # Errors
    /// Other users can access the state directory; an endpoint is not an `https://` URL.
    pub(crate) fn open(args: &AzureArgs) -> Result<Self> {
        let net = Net::new()?;
        let store = Store::open()?;
        let cloud = args.cloud()?;
        let credential = args.credential.options();
        let arm = Arm::new(&cloud, &net, &store, credential.clone());
        Ok(Self { net, store, cloud, arm, credential })
    }

    /// Returns the credentials for requests to Entra ID.
    pub(crate) fn credentials(&self) -> CredentialChain {
        CredentialChain::new(&self.cloud, self.credential.clone(), &self.net, &self.store)
    }

    /// Selects machines while it shows the progress.
    ///
    /// # Errors
    /// Those of [`select`].
    pub(crate) async fn select(&self, selector: &MachineSelector) -> Result<Selection> {
        let progress = Progress::default();
        progress.set(Step::wait("list of machines").with(" from Azure Resource Manager"));
        Ok(progress.run(select(&self.arm, &self.store, selector)).await?)
    }

    /// Selects the machines that a command changes or connects to: at least one. If the command line selects none, the user
    /// picks them from a list.
    ///
    /// # Errors
    /// [`SelectError`]; those of [`select`].
    pub(crate) async fn select_some(
        &self,
        args: &SelectionArgs,
        command: &'static str,
    ) -> Result<Vec<NamedMachine>> {
        let selector = to_selector(args);
        if selector.is_empty() {
            return pick(self, &args.subscriptions, command, Choice::Several).await;
        }
        Ok(self.select(&selector).await?.complete()?.machines)
    }

    /// Caches relay credentials of a machine without a connection to it, if none are cached.
    ///
    /// # Errors
    /// Azure Resource Manager issues none.
    pub(crate) async fn cache_credentials(&self, target: &Target) -> Result<()> {
        let Some(machine) = &target.machine else { return Ok(()) };
        let cache = RelayCredentialCache::new(&self.arm, &self.store, machine, target.service, target.port);
        if cache.cached()?.is_empty() {
            let object = format!("relay credentials of {target} from Azure Resource Manager");
            let request = async { Ok::<_, Error>(cache.request(&[]).await?) };
            let timed_out = |after| TerminalError::TimedOut { object, after }.into();
            with_timeout(ARM_TIMEOUT, request, timed_out).await?;
        }
        Ok(())
    }

    /// Connects to a machine, requests successor credentials if they are due, and closes the connection without sending data.
    ///
    /// # Errors
    /// The connection fails.
    pub(crate) async fn connect(&self, target: &Target, wait: Duration) -> Result<()> {
        let Self { net, store, arm, .. } = self;
        let Some(machine) = &target.machine else { return Ok(()) };
        let credentials = RelayCredentialCache::new(arm, store, machine, target.service, target.port);
        let connector =
            Connector { net, target, wait, progress: &Progress::default(), on_no_listener: &|| () };
        let (_connection, issued) = connector.connect(&credentials).await?;
        last_error::clear(store, target);
        if credentials.is_due(&issued) {
            credentials.refresh(&issued).await;
        }
        Ok(())
    }
}

/// Lets the user pick the machine of a command whose command line names none. The list has the machines of these subscriptions,
/// or of all that the account can see.
///
/// # Errors
/// [`SelectError::NothingSelected`] without a terminal; the user picks no machine; those of [`select`].
pub(crate) async fn pick_machine(
    session: &Session,
    subscriptions: &[String],
    command: &'static str,
) -> Result<NamedMachine> {
    let picked = pick(session, subscriptions, command, Choice::One).await?;
    picked.into_iter().next().ok_or_else(|| SelectError::NothingSelected { command }.into())
}

/// Lets the user pick machines, and prints the command that selects them without the list.
async fn pick(
    session: &Session,
    subscriptions: &[String],
    command: &'static str,
    choice: Choice,
) -> Result<Vec<NamedMachine>> {
    if !picker::is_possible() {
        return Err(SelectError::NothingSelected { command }.into());
    }
    let subscriptions = subscriptions.iter().cloned().collect();
    let all = MachineSelector { subscriptions, all: true, ..MachineSelector::default() };
    let selection = session.select(&all).await?.complete()?;
    let picked: BTreeSet<usize> = picker::pick(lines(&selection), choice).await?.into_iter().collect();
    let machines = selection.machines.into_iter().enumerate().filter(|(at, _)| picked.contains(at));
    let machines: Vec<NamedMachine> = machines.map(|(_, machine)| machine).collect();
    let arguments: Vec<String> = machines.iter().map(|named| shell_quote(&named.argument)).collect();
    note(&format!("to do this without the list, run: arcssh {command} {}", arguments.join(" ")));
    Ok(machines)
}

/// Returns a line for each machine, with what distinguishes machines of the same name.
fn lines(selection: &Selection) -> Vec<String> {
    let machines = &selection.machines;
    let longest = |text: fn(&NamedMachine) -> &str| machines.iter().map(|named| width(text(named))).max();
    let name_width = longest(|named| &named.name).unwrap_or_default();
    let group_width = longest(|named| &named.machine.id.resource_group).unwrap_or_default();
    let pad = |text: &str, columns| format!("{text}{}", " ".repeat(columns - width(text)));
    let line = |named: &NamedMachine| {
        let Machine { id, status, .. } = &named.machine;
        let is_unique = named.distinct_name() == id.name;
        let subscription = selection.subscriptions.get(&id.subscription.to_lowercase());
        let subscription = if is_unique { "" } else { subscription.unwrap_or(&id.subscription) };
        let columns =
            [&pad(&named.name, name_width), &pad(&id.resource_group, group_width), status, subscription];
        columns.join("  ").trim_end().to_owned()
    };
    machines.iter().map(line).collect()
}

/// Runs an action for each machine, `jobs` of them in parallel, while it shows the progress. Returns the results in the order
/// of the machines.
pub(crate) async fn for_each<T>(
    machines: &[NamedMachine],
    jobs: u8,
    action: impl AsyncFn(&NamedMachine) -> Result<T>,
) -> Vec<Result<T>> {
    for_each_of(machines, title, jobs.into(), &Progress::default(), action).await
}

/// Does the same for machines of another type, whose names `title` returns.
pub(crate) async fn for_each_of<M, T>(
    machines: &[M],
    title: impl Fn(&M) -> String,
    jobs: usize,
    progress: &Progress,
    action: impl AsyncFn(&M) -> T,
) -> Vec<T> {
    let (left, running) = (Cell::new(machines.len()), RefCell::new(BTreeMap::new()));
    let show = || {
        let names = running.borrow().values().cloned().collect();
        progress.set(Step::left(left.get(), machines.len(), "machines", names));
    };
    let work = stream::iter(machines.iter().enumerate()).map(async |(number, machine)| {
        running.borrow_mut().insert(number, title(machine));
        show();
        let result = action(machine).await;
        running.borrow_mut().remove(&number);
        left.set(left.get() - 1);
        show();
        (number, result)
    });
    let mut results: Vec<(usize, T)> = progress.run(work.buffer_unordered(jobs).collect()).await;
    results.sort_by_key(|(number, _)| *number);
    results.into_iter().map(|(_, result)| result).collect()
}

/// Reports the failures of machines, if there are any, and the number of the other machines in the text that `summary` returns
/// for it. Returns the exit status of the failures.
pub(crate) fn report_failures<T>(
    results: Vec<Result<T>>,
    summary: impl FnOnce(&str) -> String,
) -> Option<u8> {
    let (done, all) = (results.iter().flatten().count(), results.len());
    let status = diagnosis::report(&all_done(results).err()?);
    if all > 1 {
        note(&summary(&format!("{} of {} machines", grouped(done), grouped(all))));
    }
    Some(status)
}

/// Returns a machine and its error, if it has one, as JSON.
pub(crate) fn failure(named: &NamedMachine, error: Option<&Error>) -> Value {
    let diagnosis = error.map(|error| error.diagnose().on_one_line());
    let (code, hint) = (diagnosis.as_ref().map(|one| one.code), diagnosis.as_ref().map(|one| &one.hint));
    let error = diagnosis.as_ref().map(|one| &one.summary);
    let id = &named.machine.id;
    json!({ "name": id.name, "id": id.to_string(), "code": code, "error": error, "hint": hint })
}

/// Returns the name of a machine, with its status if it is not connected to Azure.
fn title(named: &NamedMachine) -> String {
    let name = named.distinct_name();
    named.machine.disconnected().map_or_else(|| name.to_owned(), |status| format!("{name} ({status})"))
}

/// Prints the machines that are not connected to Azure, to which a command nevertheless tries to connect.
pub(crate) fn note_disconnected(machines: &[NamedMachine], wait: Duration) {
    let disconnected: Vec<String> =
        machines.iter().filter(|named| named.machine.disconnected().is_some()).map(title).collect();
    if !disconnected.is_empty() {
        let (count, all) = (grouped(disconnected.len()), grouped(machines.len()));
        let tries = match wait.as_secs() {
            0 => String::new(),
            wait => format!(", and arcssh tries each for up to {wait} s"),
        };
        let verb = if disconnected.len() == 1 { "is" } else { "are" };
        note_names(&format!("{count} of {all} machines {verb} not connected to Azure{tries}"), &disconnected);
    }
}

/// Returns the selection of the command line.
pub(crate) fn to_selector(args: &SelectionArgs) -> MachineSelector {
    let set = |values: &[String]| values.iter().cloned().collect();
    MachineSelector {
        machines: set(&args.machines),
        groups: set(&args.groups),
        subscriptions: set(&args.subscriptions),
        tags: set(&args.tags),
        os: args.os.iter().copied().collect(),
        types: args.types.iter().copied().collect(),
        statuses: args.statuses.iter().copied().collect(),
        all: args.all,
        ..MachineSelector::default()
    }
}
