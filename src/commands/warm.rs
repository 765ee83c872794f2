//! `arcssh warm`: connect to each machine once, so that the next connection waits for nobody, and say which cannot be
//! reached.

use std::cell::Cell;

use anyhow::{Context, Error, Result, bail, ensure};
use futures_util::{StreamExt, stream};

use crate::azure::arm::Arm;
use crate::azure::cloud::Cloud;
use crate::azure::hybrid_compute::Machine;
use crate::azure::relay_credential_cache::RelayCredentialCache;
use crate::azure::target::Target;
use crate::cli::WarmArgs;
use crate::diagnosis::last_error;
use crate::machines::{NothingSelected, SomeFailed, select_some};
use crate::net::Net;
use crate::relay::connector::Connector;
use crate::state::Store;
use crate::terminal::output::print;
use crate::terminal::progress::Progress;

/// Reaches the machines; the exit status.
///
/// # Errors
/// [`SomeFailed`]; what Azure refuses.
pub(crate) async fn run(args: &WarmArgs) -> Result<u8> {
    let mut selection = args.selection.selection();
    ensure!(!selection.is_empty(), NothingSelected { command: "warm" });
    let (net, store) = (Net::new(), Store::open()?);
    let cloud = Cloud::new(args.cloud.name(), &args.cloud.endpoints())?;
    let arm = Arm::new(&cloud, &net, &store, args.who.wanted());
    let machines = select_some(&arm, &mut selection).await?;
    let (progress, done) = (Progress::default(), Cell::new(0));
    let show = || progress.set(format!("other machines, {} of {} are done", done.get(), machines.len()));
    show();
    let parts = Parts { net, store, arm, args };
    let goals = machines.iter().map(|named| target(&named.machine, args)).enumerate();
    let work = stream::iter(goals).map(|(number, target)| {
        let (parts, done, show) = (&parts, &done, &show);
        async move {
            let result = parts.reach(&target).await;
            done.set(done.get() + 1);
            show();
            (number, result.context(target))
        }
    });
    // As they come: a machine that is off keeps nobody waiting.
    let results = work.buffer_unordered(args.jobs.into()).collect();
    let mut results: Vec<(usize, Result<()>)> = progress.run(results).await;
    results.sort_by_key(|(number, _)| *number);
    tell(results.into_iter().map(|(_, result)| result))
}

struct Parts<'a> {
    net: Net,
    store: Store,
    arm: Arm,
    args: &'a WarmArgs,
}

impl Parts<'_> {
    /// Connects, and mints a successor where one is due. The connection is closed again before anything is sent on it.
    async fn reach(&self, target: &Target) -> Result<()> {
        let Self { net, store, arm, args } = self;
        let machine = target.machine.as_ref().context(NothingSelected { command: "warm" })?;
        let credentials = RelayCredentialCache::new(arm, store, machine, args.service, target.port);
        let connector = Connector { net, target, wait: args.wait, waiting: &Progress::default() };
        let (_connection, minted) = connector.connect(&credentials).await?;
        last_error::forget(store, target);
        if credentials.is_due(&minted) {
            credentials.refresh(&minted).await;
        }
        Ok(())
    }
}

fn target(machine: &Machine, args: &WarmArgs) -> Target {
    Target {
        machine: Some(machine.id.clone()),
        name: machine.id.name.clone(),
        port: args.port.unwrap_or(args.service.default_port()),
        service: args.service,
    }
}

fn tell(results: impl ExactSizeIterator<Item = Result<()>>) -> Result<u8> {
    let total = results.len();
    let mut errors: Vec<Error> = results.filter_map(Result::err).collect();
    let reached = total - errors.len();
    errors.extend(print(&format!("{reached} of {total} machines are ready to connect to\n")).err());
    if errors.is_empty() { Ok(0) } else { bail!(SomeFailed(errors)) }
}
