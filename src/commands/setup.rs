//! `arcssh setup`: enables a service of machines, waits until they accept connections, and offers to add host entries.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::azure::hybrid_compute::extension::SshExtension;
use crate::azure::hybrid_connectivity::Service;
use crate::azure::rbac::{LOGIN, least_role};
use crate::azure::target::Target;
use crate::cli::proxy_command::find_entry;
use crate::cli::{ConfigArgs, SetupArgs};
use crate::commands::provision::{Mode, Provisioner, Report};
use crate::commands::session::{Session, failure, report_failures};
use crate::diagnosis::Result;
use crate::machines::NamedMachine;
use crate::provisioning::DesiredService;
use crate::provisioning::extension::Unfit;
use crate::ssh::managed_block;
use crate::terminal::output::{note, print_json};
use crate::terminal::prompt::{Confirm, confirm};
use crate::text::{grouped, shell_quote};

/// The next step of the program.
pub(crate) enum Next {
    /// Exit with this status.
    End(u8),
    /// Run `arcssh config` for the host entries that the user wants.
    Config(Box<ConfigArgs>),
}

/// Sets the machines up and returns the next step.
///
/// # Errors
/// Those of [`Session::select_some`]; Azure rejects a request; the user does not confirm the changes.
pub(crate) async fn run(args: &SetupArgs) -> Result<Next> {
    let session = Session::open(&args.azure)?;
    let machines = session.select_some(&args.selection, "setup").await?;
    let Session { net, store, arm, .. } = &session;
    let desired =
        DesiredService { service: args.target.service, port: args.target.port, replace: args.replace_port };
    let extensions = &args.extensions.wanted();
    let fits = |named: &NamedMachine| extensions.iter().any(|extension| extension.fits(&named.machine.os));
    let unfit = if machines.iter().any(fits) { Unfit::Skip } else { Unfit::Reject };
    let (jobs, wait) = (args.jobs.into(), args.target.wait);
    let provisioner = Provisioner { net, store, arm, desired, extensions, unfit, jobs, wait };
    let mode = if args.dry_run { Mode::DryRun } else { Mode::Apply(Confirm::of(args.yes)) };
    let target = |named: &NamedMachine| named.target(args.target.service, desired.port());
    let report = provisioner.run(machines.iter().map(target).collect(), mode).await;
    let ready: Vec<Target> = report.results.iter().flatten().cloned().collect();
    let changes = report.changes.iter().any(|changes| !changes.texts.is_empty());
    let is_confirmed = report.common.iter().all(|(subscription, _)| subscription.is_some());
    if args.output.is_json() && is_confirmed {
        print_json(&Value::from_iter(
            machines.iter().map(|named| outcome(named, &report, args.target.service)),
        ))?;
    }
    let results = report.into_results();
    let may_ask = !args.yes && !args.output.is_json() && ready.len() == results.len();
    let has_entra =
        args.extensions.entra && machines.iter().any(|named| SshExtension::Entra.fits(&named.machine.os));
    if has_entra && changes {
        note_roles(&ready);
    }
    let login = if has_entra { EntraLogin::Yes } else { EntraLogin::No };
    let config = match HostEntries::of(&machines, &ready, login) {
        Some(entries) => entries.offer(may_ask).await?,
        None => None,
    };
    // The machines of a subscription that is not registered have one result in common.
    let count =
        |_: &str| format!("{} of {} machines are ready", grouped(ready.len()), grouped(machines.len()));
    if let Some(status) = report_failures(results, count) {
        return Ok(Next::End(status));
    }
    match config {
        Some(words) => {
            Ok(Next::Config(Box::new(ConfigArgs::from_setup(&words, args).map_err(anyhow::Error::from)?)))
        }
        None => Ok(Next::End(u8::from(changes && args.dry_run))),
    }
}

/// Returns the changes and the result of a machine as JSON.
fn outcome(named: &NamedMachine, report: &Report, service: Service) -> Value {
    let id = &named.machine.id;
    let changes = report.changes.iter().find(|changes| changes.machine == *id);
    let is_ready = report.is_ready(id);
    let mut object = failure(named, report.error(id).filter(|_| !is_ready));
    object["service"] = json!(service.to_string());
    object["port"] = json!(changes.map(|changes| changes.port));
    object["changes"] = json!(changes.map(|changes| &changes.texts[..]).unwrap_or_default());
    object["permissions"] = json!(changes.map(|changes| &changes.permissions[..]).unwrap_or_default());
    object["ready"] = json!(is_ready);
    object
}

/// Prints the command that lets a user log in with Entra ID (azure-docs `ssh-arc-overview.md`: Owner does not suffice).
fn note_roles(ready: &[Target]) {
    let scope = match ready {
        [] => return,
        [one] => shell_quote(&id(one)),
        _ => "MACHINE-ID".to_owned(),
    };
    note(&format!(
        "hint: to allow a user to log in with Entra ID, an owner runs: az role assignment create --role '{}' --assignee USER --scope {scope}",
        least_role(LOGIN)
    ));
}

/// Whether users log in with Entra ID.
#[derive(Clone, Copy, PartialEq, Eq)]
enum EntraLogin {
    Yes,
    No,
}

/// The host entries of machines that accept connections.
struct HostEntries<'a> {
    /// The user's ssh configuration.
    file: PathBuf,
    /// The `Port` of all entries in a new managed block; entries in an existing block have their own.
    port: Option<u16>,
    login: EntraLogin,
    /// The machines without a host entry, by alias.
    missing: Vec<(&'a str, &'a Target)>,
}

impl<'a> HostEntries<'a> {
    /// Finds the host entries and prints the `ssh` command for one of them. Returns `None` if the user has no home directory.
    fn of(machines: &'a [NamedMachine], ready: &'a [Target], login: EntraLogin) -> Option<Self> {
        let file = managed_block::default_path().ok()?;
        // The machines are set up even if the file cannot be read; `arcssh config` reports that error.
        let text = managed_block::read(&file).unwrap_or_default();
        let (mut missing, mut connect) = (Vec::new(), None);
        for named in machines {
            let is_named = |target: &&Target| target.machine.as_ref() == Some(&named.machine.id);
            let target = ready.iter().find(is_named).filter(|target| target.service == Service::Ssh);
            let alias = named.patterns.iter().flatten().next();
            match (target, find_entry(&named.machine.id.to_string(), &text), alias) {
                (Some(target), Some(entry), _) => {
                    connect.get_or_insert_with(|| ssh_command(&entry.alias, target, Some(entry.port)));
                }
                (Some(target), None, Some(alias)) => missing.push((alias.as_str(), target)),
                _ => {}
            }
        }
        connect.iter().for_each(|command| note(&format!("hint: to connect, run: {command}")));
        let first = missing.first().map(|(_, target)| target.port);
        let port = first.filter(|port| *port != Service::Ssh.default_port());
        let has_block = managed_block::find(&text).is_ok_and(|block| block.is_some());
        Some(Self { file, port: port.filter(|_| !has_block), login, missing })
    }

    /// Offers to add the missing host entries. Returns the arguments of `arcssh config` if the user agrees, else prints
    /// the command.
    async fn offer(&self, may_ask: bool) -> Result<Option<Vec<String>>> {
        if self.missing.is_empty() {
            return Ok(None);
        }
        let commands: Vec<String> =
            self.missing.iter().map(|(alias, target)| ssh_command(alias, target, self.port)).collect();
        let (entry, its_entry) = if commands.len() == 1 {
            ("a host entry", "its host entry")
        } else {
            ("host entries", "their host entries")
        };
        // An option of ssh is part of the question, because the host entry does not contain it.
        let name = |command: &String| match command.strip_prefix("ssh ") {
            Some(alias) if !alias.starts_with('-') => alias.to_owned(),
            _ => command.clone(),
        };
        let names: Vec<String> = commands.iter().map(name).collect();
        let question = format!("add {entry} for {} to {}?", names.join(", "), self.file.display());
        if may_ask && confirm(&question).await? {
            return Ok(Some(self.config_args(|(_, target)| id(target))));
        }
        let config_args = self.config_args(|(alias, _)| shell_quote(alias)).join(" ");
        let user = if self.login == EntraLogin::Yes { "" } else { " --user NAME" };
        note(&format!(
            "hint: to connect with {}, add {its_entry}: arcssh config {config_args}{user}",
            commands.join(", ")
        ));
        Ok(None)
    }

    fn config_args(&self, machine: impl Fn(&(&str, &Target)) -> String) -> Vec<String> {
        let port = self.port.iter().flat_map(|port| ["--port".to_owned(), port.to_string()]);
        let entra = (self.login == EntraLogin::Yes).then(|| "--entra".to_owned());
        self.missing.iter().map(machine).chain(port).chain(entra).collect()
    }
}

fn id(target: &Target) -> String {
    target.machine.as_ref().map(ToString::to_string).unwrap_or_default()
}

/// Returns the `ssh` command for a machine whose host entry has this `Port`, or none.
fn ssh_command(alias: &str, target: &Target, entry_port: Option<u16>) -> String {
    let alias = shell_quote(alias);
    match target.port {
        port if port == entry_port.unwrap_or(Service::Ssh.default_port()) => format!("ssh {alias}"),
        port => format!("ssh -p {port} {alias}"),
    }
}
