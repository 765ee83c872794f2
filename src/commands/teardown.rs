//! `arcssh teardown`: disable a service of machines, and forget what was kept for them.

use anyhow::{Context, Result, ensure};

use crate::azure::arm::Arm;
use crate::azure::cloud::Cloud;
use crate::azure::hybrid_connectivity::endpoint::{delete_endpoint, delete_port, is_missing};
use crate::azure::relay_credential_cache::forget;
use crate::azure::resource_id::ResourceId;
use crate::azure::target::Target;
use crate::cli::TeardownArgs;
use crate::machines::{NothingSelected, all_done, select_some};
use crate::net::Net;
use crate::state::Store;
use crate::terminal::output::note;
use crate::terminal::progress::Progress;
use crate::terminal::prompt::Confirm;

/// Takes the machines down; the exit status.
///
/// # Errors
/// Under [`TakingDown`]: what Azure refuses, and that nobody agreed to it.
pub(crate) async fn run(args: &TeardownArgs) -> Result<u8> {
    let mut selection = args.selection.selection();
    ensure!(!selection.is_empty(), NothingSelected { command: "teardown" });
    let store = Store::open()?;
    let cloud = Cloud::new(args.cloud.name(), &args.cloud.endpoints())?;
    let arm = Arm::new(&cloud, &Net::new(), &store, args.who.wanted());
    let machines = select_some(&arm, &mut selection).await?;
    let what = if args.endpoint {
        "delete its endpoint, and with it every service".to_owned()
    } else {
        format!("disable {}", args.service)
    };
    for named in &machines {
        let ResourceId { name, resource_group, .. } = &named.machine.id;
        note(&format!("{name} in {resource_group}: {what}"));
    }
    Confirm::of(args.yes).to("take this from everybody who connects to these machines?").await?;
    let (mut results, waiting) = (Vec::new(), Progress::default());
    for named in &machines {
        waiting.set(format!("changes to {} in Azure Resource Manager", named.machine.id.name));
        let done = waiting.run(take_down(&arm, &store, &named.machine.id, args)).await;
        if done.is_ok() {
            note(&format!("{}: done", named.machine.id.name));
        }
        results.push(done);
    }
    all_done(results)?;
    note(
        "on a machine itself, azcmagent config set incomingconnections.enabled false keeps everybody out, whatever Azure says",
    );
    Ok(0)
}

async fn take_down(arm: &Arm, store: &Store, machine: &ResourceId, args: &TeardownArgs) -> Result<()> {
    let (name, port) = (machine.name.clone(), args.service.default_port());
    let target = Target { machine: Some(machine.clone()), name, port, service: args.service };
    let deleted = match args.endpoint {
        true => delete_endpoint(arm, machine).await,
        false => delete_port(arm, machine, args.service).await,
    };
    forget(arm, store, machine);
    let deleted = deleted.or_else(|error| if is_missing(&error) { Ok(()) } else { Err(error) });
    deleted.context(target).context(TakingDown)?;
    Ok(())
}

/// What was under way when something went wrong.
#[derive(Debug, thiserror::Error)]
#[error("cannot take down")]
pub(crate) struct TakingDown;
