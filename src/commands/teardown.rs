//! `arcssh teardown`: disables a service of machines, removes the extensions that logins need, and deletes cached
//! credentials.

use std::time::Duration;

use serde_json::{Value, json};

use crate::azure::arm::ArmError;
use crate::azure::hybrid_connectivity::Service;
use crate::azure::hybrid_connectivity::endpoint::{delete_endpoint, delete_port, is_missing};
use crate::azure::rbac::{DELETE_ENDPOINT, DELETE_PORT};
use crate::azure::relay_credential_cache::forget;
use crate::azure::resource_id::ResourceId;
use crate::azure::target::Target;
use crate::cli::TeardownArgs;
use crate::cli::proxy_command::find_entry;
use crate::commands::provision::{NOT_PERMITTED, apply_extension};
use crate::commands::session::{Session, failure, report_failures};
use crate::diagnosis::{Action, Context, Result};
use crate::machines::NamedMachine;
use crate::provisioning::check_permissions;
use crate::provisioning::extension::{ExtensionPlan, plan_removal};
use crate::ssh::managed_block;
use crate::terminal::output::{note, print_json};
use crate::terminal::progress::{Progress, Step};
use crate::terminal::prompt::Confirm;
use crate::text::shell_quote;

/// How long to wait until an agent has removed an extension.
const REMOVAL_TIMEOUT: Duration = Duration::from_secs(900);

/// Disables the service, removes extensions, and returns the exit status.
///
/// # Errors
/// Those of [`Session::select_some`]; the user does not confirm; Azure rejects a request.
pub(crate) async fn run(args: &TeardownArgs) -> Result<u8> {
    let session = Session::open(&args.azure)?;
    let machines = session.select_some(&args.selection, "teardown").await?;
    let (progress, all) = (Progress::default(), machines.len());
    let mut removals = Vec::new();
    for (number, named) in machines.iter().enumerate() {
        let target = named.target(args.service, args.service.default_port());
        progress.set(left(number, all, &target).with(", whose permissions Azure lists"));
        let removal = progress.run(plan(&session, named, target, args)).await;
        removal.print();
        removals.push(removal);
    }
    let is_permitted = |removal: &&mut Removal<'_>| removal.result.is_ok();
    if !args.dry_run {
        if removals.iter().any(|removal| removal.result.is_ok()) {
            let question = "apply these changes? All users of these machines lose access.";
            Confirm::of(args.yes).to(question).await?;
        }
        let permitted: Vec<_> = removals.iter_mut().filter(is_permitted).collect();
        let all = permitted.len();
        for (number, removal) in permitted.into_iter().enumerate() {
            progress.set(left(number, all, &removal.target));
            removal.result = progress.run(apply(&session, removal, args, &progress)).await;
            if removal.result.is_ok() {
                note(&format!("{}: done", removal.target));
            }
        }
    }
    if args.output.is_json() {
        print_json(&removals.iter().map(|removal| removal.json(args)).collect())?;
    }
    let results = removals.into_iter().map(Removal::into_result).collect();
    let done = if args.dry_run { "can be changed" } else { "are done" };
    if let Some(status) = report_failures(results, |machines| format!("{machines} {done}")) {
        return Ok(status);
    }
    if args.dry_run {
        return Ok(1);
    }
    if args.service == Service::Ssh || args.endpoint {
        note_host_entries(&machines);
    }
    note(
        "to block incoming connections on a machine itself, run there: azcmagent config set incomingconnections.enabled false",
    );
    Ok(0)
}

/// The removal of a service and of extensions from a machine.
struct Removal<'a> {
    named: &'a NamedMachine,
    target: Target,
    /// Each change as a sentence.
    changes: Vec<String>,
    extensions: Vec<ExtensionPlan>,
    result: Result<()>,
}

impl Removal<'_> {
    /// Prints each change.
    fn print(&self) {
        let denied = if self.result.is_ok() { String::new() } else { format!("; {NOT_PERMITTED}") };
        let title = self.target.title();
        self.changes.iter().for_each(|change| note(&format!("{title}: {change}{denied}")));
    }

    fn json(&self, args: &TeardownArgs) -> Value {
        let extensions = self.extensions.iter().flat_map(ExtensionPlan::actions);
        let mut object = failure(self.named, self.result.as_ref().err());
        object["service"] = json!(self.target.service.to_string());
        object["changes"] = json!(self.changes);
        object["permissions"] = [action(args)].into_iter().chain(extensions.copied()).collect();
        object["done"] = json!(self.result.is_ok() && !args.dry_run);
        object
    }

    fn into_result(self) -> Result<()> {
        self.result.map_err(|error| error.during(tearing_down(self.target)))
    }
}

fn left(number: usize, all: usize, target: &Target) -> Step {
    Step::left(all - number, all, "machines", vec![target.to_string()])
}

/// Plans the changes of a machine, and checks the permissions of the account.
async fn plan<'a>(
    session: &Session,
    named: &'a NamedMachine,
    target: Target,
    args: &TeardownArgs,
) -> Removal<'a> {
    let id = &named.machine.id;
    let extensions = match plan_removal(&session.arm, id, &args.extensions.wanted()).await {
        Ok(extensions) => extensions,
        Err(error) => {
            let (changes, extensions, result) = (Vec::new(), Vec::new(), Err(error.into()));
            return Removal { named, target, changes, extensions, result };
        }
    };
    let change = if args.endpoint {
        "delete the endpoint and all its services".to_owned()
    } else {
        format!("disable {}", args.service)
    };
    let changes: Vec<String> =
        [change].into_iter().chain(extensions.iter().map(ToString::to_string)).collect();
    let result = check(session, id, &extensions, args).await;
    Removal { named, target, changes, extensions, result }
}

async fn apply(
    session: &Session,
    removal: &Removal<'_>,
    args: &TeardownArgs,
    progress: &Progress,
) -> Result<()> {
    let Removal { named, target, extensions, .. } = removal;
    take_down(session, &named.machine.id, args).await?;
    for extension in extensions {
        apply_extension(&session.arm, target, extension, REMOVAL_TIMEOUT, progress, progress).await?;
    }
    Ok(())
}

/// Returns the permission that the removal of the service requires.
fn action(args: &TeardownArgs) -> &'static str {
    if args.endpoint { DELETE_ENDPOINT } else { DELETE_PORT }
}

/// Checks that the account may make the change. With `--yes`, Azure decides.
async fn check(
    session: &Session,
    machine: &ResourceId,
    extensions: &[ExtensionPlan],
    args: &TeardownArgs,
) -> Result<()> {
    if args.yes {
        return Ok(());
    }
    let extensions = extensions.iter().flat_map(|extension| extension.actions());
    let actions: Vec<&str> = [action(args)].into_iter().chain(extensions.copied()).collect();
    Ok(check_permissions(&session.arm, machine, &actions).await?)
}

/// Prints how to remove the host entries of the machines, if they have any.
fn note_host_entries(machines: &[NamedMachine]) {
    let config = managed_block::text_of_user();
    let entries = machines.iter().filter_map(|named| find_entry(&named.machine.id.to_string(), &config));
    let aliases: Vec<String> = entries.map(|entry| shell_quote(&entry.alias)).collect();
    if !aliases.is_empty() {
        note(&format!(
            "hint: to remove the host entries too, run: arcssh config --remove {}",
            aliases.join(" ")
        ));
    }
}

async fn take_down(session: &Session, machine: &ResourceId, args: &TeardownArgs) -> Result<(), ArmError> {
    let Session { store, arm, .. } = session;
    let deleted = if args.endpoint {
        delete_endpoint(arm, machine).await
    } else {
        delete_port(arm, machine, args.service).await
    };
    forget(arm, store, machine);
    deleted.or_else(|error| if is_missing(&error) { Ok(()) } else { Err(error) })
}

fn tearing_down(target: Target) -> Context {
    Context { action: Action::TearDown, target: Some(target) }
}
