//! The machine that a command connects to.

use crate::azure::hybrid_compute::{Machine, MachineRef};
use crate::azure::hybrid_connectivity::Service;
use crate::azure::resource_id::ResourceId;
use crate::azure::target::Target;
use crate::cli::ProxyArgs;
use crate::cli::destination::DestinationArgs;
use crate::cli::proxy_command::{HostEntry, find_entry};
use crate::commands::session::{Session, pick_machine};
use crate::diagnosis::{Error, Result};
use crate::machines::{distinguished, find_or_suggest, without_suffix};
use crate::relay::connector::ARM_TIMEOUT;
use crate::ssh::managed_block;
use crate::terminal::progress::{Progress, Step};
use crate::text::shell_quote;

/// A machine with the account and the port to connect to it.
pub(crate) struct Destination {
    /// The clients, with the account and the cloud of the host entry if there is one.
    pub(crate) session: Session,
    pub(crate) id: ResourceId,
    pub(crate) target: Target,
    /// The machine, of which only the resource ID is known unless its name was looked up in Azure.
    pub(crate) machine: Machine,
    /// The machine's host entry in the user's ssh configuration.
    pub(crate) entry: Option<Entry>,
}

/// A host entry that connects through arcssh, with the arguments of its `arcssh proxy`.
pub(crate) struct Entry {
    pub(crate) host: HostEntry,
    pub(crate) proxy: ProxyArgs,
}

impl Destination {
    /// Finds a machine by the alias of a host entry, its resource ID, `GROUP/NAME` or name. A host entry precedes a machine of
    /// Azure with the same name, as it does for ssh.
    ///
    /// # Errors
    /// [`crate::machines::SelectError`]; Azure rejects a request; see [`Session::open`].
    pub(crate) async fn open(
        machine: Option<&str>,
        args: &DestinationArgs,
        command: &'static str,
    ) -> Result<Self> {
        let picked = match machine {
            Some(_) => None,
            None => Some(pick(args, command).await?),
        };
        let machine = machine.or(picked.as_deref()).unwrap_or_default();
        let open =
            |entry: Option<&Entry>| Session::open(entry.map_or(&args.azure, |entry| &entry.proxy.azure));
        let mut entry = find_host_entry(machine, args)?;
        let mut session = open(entry.as_ref())?;
        let machine = find_machine(machine, args, entry.as_ref(), &session).await?;
        let id = machine.id.clone();
        // The alias of a host entry can differ from the machine's name.
        if entry.is_none() {
            entry = find_host_entry(&id.to_string(), args)?;
            session = open(entry.as_ref())?;
        }
        let service = args.target.service;
        let of_entry = entry.as_ref().filter(|_| service == Service::Ssh).map(|entry| entry.host.port);
        let port = args.target.port.or(of_entry).unwrap_or(service.default_port());
        let target = distinguished(Target::new(&id, service, port));
        Ok(Self { session, id, target, machine, entry })
    }
}

impl Destination {
    /// Returns how to connect with ssh; `None` for another service.
    pub(crate) fn connect_command(&self) -> Option<String> {
        let Self { target, entry, .. } = self;
        let port = entry.as_ref().map_or(Service::Ssh.default_port(), |entry| entry.host.port);
        let port = if target.port == port { String::new() } else { format!("-p {} ", target.port) };
        let (program, machine) = match entry {
            Some(entry) => ("ssh", &entry.host.alias),
            None => ("arcssh ssh", &target.argument),
        };
        (target.service == Service::Ssh).then(|| format!("{program} {port}{}", shell_quote(machine)))
    }
}

/// Lets the user pick a machine, and returns its resource ID.
async fn pick(args: &DestinationArgs, command: &'static str) -> Result<String> {
    let session = Session::open(&args.azure)?;
    let picked = pick_machine(&session, args.subscription.as_slice(), command).await?;
    Ok(picked.machine.id.to_string())
}

/// Returns the host entry of a machine, with the port that ssh uses.
fn find_host_entry(machine: &str, args: &DestinationArgs) -> Result<Option<Entry>> {
    let Some(host) = find_entry(machine, &managed_block::text_of_user()) else { return Ok(None) };
    let host = host.used(None, &managed_block::default_path()?)?;
    Ok(host.proxy_args(&args.typed).map(|proxy| Entry { host, proxy }))
}

async fn find_machine(
    machine: &str,
    args: &DestinationArgs,
    entry: Option<&Entry>,
    session: &Session,
) -> Result<Machine> {
    if let Some(id) = entry.and_then(|entry| entry.proxy.machine.clone()) {
        return Ok(Machine::from_id(id));
    }
    if let MachineRef::Id(id) = machine.parse()? {
        return Ok(Machine::from_id(id));
    }
    let suffix = entry.map(|entry| entry.proxy.suffix.clone());
    let suffix = suffix.unwrap_or_else(|| managed_block::suffix(&managed_block::text_of_user()));
    let subscription = args.subscription.clone().or(entry.and_then(|entry| entry.proxy.subscription.clone()));
    let (name, subscriptions) = (without_suffix(machine, &suffix, &[]), Vec::from_iter(subscription));
    let step = Step::wait(format!("resource ID of {name}")).or("resource ID");
    let step = step.with(" from Azure Resource Manager");
    let find =
        async { Ok::<_, Error>(find_or_suggest(&session.arm, &session.store, name, &subscriptions).await?) };
    let progress = Progress::default();
    progress.run(progress.run_with_timeout(ARM_TIMEOUT, step, find)).await
}
