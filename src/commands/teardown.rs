//! `arcssh teardown`: disables a service of machines and deletes their cached credentials.

use crate::azure::hybrid_connectivity::endpoint::{delete_endpoint, delete_port, is_missing};
use crate::azure::relay_credential_cache::forget;
use crate::azure::resource_id::ResourceId;
use crate::azure::target::Target;
use crate::cli::TeardownArgs;
use crate::commands::session::Session;
use crate::diagnosis::{self, Action, Context, Error, Result, all_done};
use crate::terminal::output::note;
use crate::terminal::progress::{Progress, Step};
use crate::terminal::prompt::Confirm;
use crate::text::grouped;

/// Disables the service and returns the exit status.
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
    for named in &machines {
        let ResourceId { name, resource_group, .. } = &named.machine.id;
        note(&format!("{name} in {resource_group}: {change}"));
    }
    Confirm::of(args.yes).to("apply these changes? All users of these machines lose access.").await?;
    let mut results = Vec::new();
    let progress = Progress::default();
    for (number, named) in machines.iter().enumerate() {
        let machine = &named.machine.id;
        let left = machines.len() - number;
        progress.set(Step::left(left, machines.len(), "machines", vec![machine.name.clone()]));
        let result = progress.run(take_down(&session, machine, args)).await;
        if result.is_ok() {
            note(&format!("{}: done", machine.name));
        }
        results.push(result);
    }
    let (done, all) = (results.iter().flatten().count(), results.len());
    if let Err(error) = all_done(results) {
        let status = diagnosis::report(&error);
        if all > 1 {
            note(&format!("{} of {} machines are done", grouped(done), grouped(all)));
        }
        return Ok(status);
    }
    note(
        "to block incoming connections on a machine itself, run there: azcmagent config set incomingconnections.enabled false",
    );
    Ok(0)
}

async fn take_down(session: &Session, machine: &ResourceId, args: &TeardownArgs) -> Result<()> {
    let Session { store, arm, .. } = session;
    let deleted = if args.endpoint {
        delete_endpoint(arm, machine).await
    } else {
        delete_port(arm, machine, args.service).await
    };
    forget(arm, store, machine);
    let deleted = deleted.or_else(|error| if is_missing(&error) { Ok(()) } else { Err(error) });
    deleted.map_err(|error| {
        let target = Some(Target::new(machine, args.service, args.service.default_port()));
        Error::from(error).during(Context { action: Action::TearDown, target })
    })
}
