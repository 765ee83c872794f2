//! `arcssh teardown`: disables a service of machines, removes the extensions that logins need, and deletes cached
//! credentials.

use std::time::Duration;

use serde_json::{Value, json};

use crate::azure::arm::ArmError;
use crate::azure::hybrid_connectivity::Service;
use crate::azure::hybrid_connectivity::endpoint::{Lookup, delete_endpoint, delete_port, is_missing};
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
use crate::provisioning::extension::{ExtensionPlan, plan_removal};
use crate::provisioning::{check_permissions, inspect};
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
        removal.print(args);
        removals.push(removal);
    }
    let is_permitted = |removal: &&mut Removal<'_>| removal.result.is_ok();
    if !args.dry_run {
        if removals.iter().any(|removal| removal.result.is_ok() && removal.changes()) {
            let question = "apply these changes? All users of these machines lose access.";
            Confirm::of(args.yes).to(question).await?;
        }
        let permitted: Vec<_> = removals.iter_mut().filter(is_permitted).collect();
        let all = permitted.len();
        for (number, removal) in permitted.into_iter().enumerate() {
            progress.set(left(number, all, &removal.target));
            removal.result = progress.run(apply(&session, removal, args, &progress)).await;
            if removal.result.is_ok() && removal.changes() {
                note(&format!("{}: done", removal.target));
            }
        }
    }
    if args.output.is_json() {
        print_json(&removals.iter().map(|removal| removal.json(args)).collect())?;
    }
    let has_changes = removals.iter().any(Removal::changes);
    let results = removals.into_iter().map(Removal::into_result).collect();
    let done = if args.dry_run { "can be changed" } else { "are done" };
    if let Some(status) = report_failures(results, |machines| format!("{machines} {done}")) {
        return Ok(status);
    }
    if args.dry_run {
        return Ok(u8::from(has_changes));
    }
    if args.service == Service::Ssh || args.endpoint {
        note_host_entries(&machines);
    }
    if !has_changes {
        return Ok(0);
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
    /// The change of the service as a sentence; `None` if it is not enabled.
    change: Option<String>,
    extensions: Vec<ExtensionPlan>,
    result: Result<()>,
}

impl Removal<'_> {
    /// Prints each change.
    fn print(&self, args: &TeardownArgs) {
        let title = self.target.title();
        let end = match &self.result {
            Ok(()) if !self.changes() => {
                let service = format!("{} is not enabled", self.target.service);
                let state = if args.endpoint { "there is no endpoint" } else { &service };
                return note(&format!("{title}: {state}; nothing to change"));
            }
            Ok(()) => String::new(),
            Err(_) => format!("; {NOT_PERMITTED}"),
        };
        self.texts().for_each(|change| note(&format!("{title}: {change}{end}")));
    }

    fn changes(&self) -> bool {
        self.texts().next().is_some()
    }

    /// Returns each change as a sentence.
    fn texts(&self) -> impl Iterator<Item = String> {
        self.change.clone().into_iter().chain(self.extensions.iter().map(ToString::to_string))
    }

    /// Returns the permissions that the changes require.
    fn permissions(&self, args: &TeardownArgs) -> Vec<&'static str> {
        let action = if args.endpoint { DELETE_ENDPOINT } else { DELETE_PORT };
        let action = self.change.is_some().then_some(action);
        let extensions = self.extensions.iter().flat_map(|extension| extension.actions().iter().copied());
        action.into_iter().chain(extensions).collect()
    }

    fn json(&self, args: &TeardownArgs) -> Value {
        let mut object = failure(self.named, self.result.as_ref().err());
        object["service"] = json!(self.target.service.to_string());
        object["changes"] = self.texts().collect();
        object["permissions"] = self.permissions(args).into();
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
    let read = async {
        let extensions = plan_removal(&session.arm, id, &args.extensions.wanted()).await?;
        Ok((is_enabled(session, id, args).await?, extensions))
    };
    let (is_enabled, extensions, result) = match read.await {
        Ok((is_enabled, extensions)) => (is_enabled, extensions, Ok(())),
        Err(error) => (false, Vec::new(), Err(error)),
    };
    let change = if args.endpoint {
        "delete the endpoint and all its services".to_owned()
    } else {
        format!("disable {}", args.service)
    };
    let mut removal = Removal { named, target, change: is_enabled.then_some(change), extensions, result };
    // With `--yes`, Azure decides.
    if removal.result.is_ok() && !args.yes {
        let checked = check_permissions(&session.arm, id, &removal.permissions(args)).await;
        removal.result = checked.map_err(Into::into);
    }
    removal
}

/// Returns whether the endpoint exists or the service is enabled. If the account cannot read that, Azure decides.
async fn is_enabled(session: &Session, machine: &ResourceId, args: &TeardownArgs) -> Result<bool> {
    match inspect(&session.arm, machine, args.service).await {
        Ok(state) if args.endpoint => Ok(state.endpoint != Lookup::NotFound),
        Ok(state) => Ok(state.port != Lookup::NotFound),
        Err(ArmError::Rejected(response)) if response.is_forbidden() => Ok(true),
        Err(error) => Err(error.into()),
    }
}

async fn apply(
    session: &Session,
    removal: &Removal<'_>,
    args: &TeardownArgs,
    progress: &Progress,
) -> Result<()> {
    let Removal { named, target, change, extensions, .. } = removal;
    match change {
        Some(_) => take_down(session, &named.machine.id, args).await?,
        None => forget(&session.arm, &session.store, &named.machine.id),
    }
    for extension in extensions {
        apply_extension(&session.arm, target, extension, REMOVAL_TIMEOUT, progress, progress).await?;
    }
    Ok(())
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
