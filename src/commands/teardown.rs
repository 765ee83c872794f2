//! `arcssh teardown`: disables a service of machines, removes the extensions that logins need, and deletes cached
//! credentials.

use std::time::Duration;

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
use crate::commands::session::{Session, report_failures};
use crate::diagnosis::{Action, Context, Error, Result};
use crate::machines::NamedMachine;
use crate::provisioning::check_permissions;
use crate::provisioning::extension::{ExtensionPlan, plan_removal};
use crate::ssh::managed_block;
use crate::terminal::output::note;
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
    let change = if args.endpoint {
        "delete the endpoint and all its services".to_owned()
    } else {
        format!("disable {}", args.service)
    };
    let (unwanted, progress) = (args.extensions.wanted(), Progress::default());
    let (mut permitted, mut results) = (Vec::new(), Vec::new());
    let left = |number: usize, all: usize, target: &Target| {
        Step::left(all - number, all, "machines", vec![target.to_string()])
    };
    for (number, named) in machines.iter().enumerate() {
        let (id, target) = (&named.machine.id, named.target(args.service, args.service.default_port()));
        progress.set(left(number, machines.len(), &target).with(", whose permissions Azure lists"));
        let extensions = match progress.run(plan_removal(&session.arm, id, &unwanted)).await {
            Ok(extensions) => extensions,
            Err(error) => {
                results.push(Err(Error::from(error).during(tearing_down(target))));
                continue;
            }
        };
        let changes = [change.clone()].into_iter().chain(extensions.iter().map(ToString::to_string));
        let lines = changes.map(|change| format!("{}: {change}", target.title()));
        match progress.run(check(&session, id, &extensions, args)).await {
            Ok(()) => {
                lines.for_each(|line| note(&line));
                permitted.push((id, target, extensions));
            }
            Err(error) => {
                lines.for_each(|line| note(&format!("{line}; {NOT_PERMITTED}")));
                results.push(Err(error.during(tearing_down(target))));
            }
        }
    }
    if !permitted.is_empty() {
        Confirm::of(args.yes).to("apply these changes? All users of these machines lose access.").await?;
    }
    let all = permitted.len();
    for (number, (machine, target, extensions)) in permitted.into_iter().enumerate() {
        progress.set(left(number, all, &target));
        let work = async {
            take_down(&session, machine, args).await?;
            for extension in &extensions {
                apply_extension(&session.arm, &target, extension, REMOVAL_TIMEOUT, &progress, &progress)
                    .await?;
            }
            Ok(())
        };
        let result: Result<()> = progress.run(work).await;
        if result.is_ok() {
            note(&format!("{target}: done"));
        }
        results.push(result.map_err(|error| error.during(tearing_down(target))));
    }
    if let Some(status) = report_failures(results, |machines| format!("{machines} are done")) {
        return Ok(status);
    }
    if args.service == Service::Ssh || args.endpoint {
        note_host_entries(&machines);
    }
    note(
        "to block incoming connections on a machine itself, run there: azcmagent config set incomingconnections.enabled false",
    );
    Ok(0)
}

/// Checks that the account may make the change. With `--yes`, Azure decides.
async fn check(
    session: &Session,
    machine: &ResourceId,
    extensions: &[ExtensionPlan],
    args: &TeardownArgs,
) -> Result<()> {
    let action = if args.endpoint { DELETE_ENDPOINT } else { DELETE_PORT };
    if args.yes {
        return Ok(());
    }
    let extensions = extensions.iter().flat_map(|extension| extension.actions());
    let actions: Vec<&str> = [action].into_iter().chain(extensions.copied()).collect();
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
