//! `arcssh setup`: look what a machine lacks, show it, ask once, make it, and wait until it can be connected to.

use anyhow::{Result, ensure};

use crate::ask::Consent;
use crate::azure::arm::Arm;
use crate::azure::cloud::Cloud;
use crate::cli::SetupArgs;
use crate::fleet::{NoMachine, select};
use crate::net::Net;
use crate::set_up::Wish;
use crate::set_up::work::{Go, Work};
use crate::store::Store;

/// Sets the machines up; the exit status.
///
/// # Errors
/// What Azure refuses, and that nobody agreed to the changes.
pub(crate) async fn run(args: &SetupArgs) -> Result<u8> {
    let mut selection = args.selection.selection();
    ensure!(!selection.is_empty(), NoMachine { command: "setup" });
    let (net, store) = (Net::new(), Store::open()?);
    let cloud = Cloud::new(args.cloud.name(), &args.cloud.endpoints())?;
    let arm = Arm::new(&cloud, &net, &store, args.who.wanted());
    let machines = select(&arm, &mut selection).await?.into_iter().map(|named| named.machine.id).collect();
    let wish = Wish { service: args.service, port: args.port, replace: args.replace_port };
    let work = Work { net: &net, store: &store, arm: &arm, wish, jobs: args.jobs.into(), wait: args.wait };
    let go = if args.dry_run { Go::NotAtAll } else { Go::With(Consent::of(args.yes)) };
    let changes = work.run(machines, go).await?;
    Ok(u8::from(changes && args.dry_run))
}
