//! `arcssh warm`: connects to each machine once, so that its next connection uses cached credentials.

use std::cell::Cell;

use futures_util::{StreamExt, stream};

use crate::azure::relay_credential_cache::RelayCredentialCache;
use crate::azure::resource_id::ResourceId;
use crate::azure::target::Target;
use crate::cli::WarmArgs;
use crate::commands::session::Session;
use crate::diagnosis::{Context, Result, all_done, last_error};
use crate::relay::connector::Connector;
use crate::terminal::output::print;
use crate::terminal::progress::Progress;

/// Connects to the machines and returns the exit status.
///
/// # Errors
/// Those of [`all_done`] and [`Session::select_some`].
pub(crate) async fn run(args: &WarmArgs) -> Result<u8> {
    let session = &Session::open(&args.azure)?;
    let machines = session.select_some(&args.selection, "warm").await?;
    let progress = Progress::default();
    let done = Cell::new(0);
    let show = || progress.set(format!("other machines, {} of {} are done", done.get(), machines.len()));
    show();
    let work = stream::iter(machines.iter().enumerate()).map(async |(number, named)| {
        let id = &named.machine.id;
        let target = Target::new(id, args.target.service, args.target.port());
        let result = connect(args, session, id, &target).await;
        done.set(done.get() + 1);
        show();
        (number, result.map_err(|error| error.during(Context::connecting(target))))
    });
    let results = work.buffer_unordered(args.jobs.into()).collect();
    let mut results: Vec<(usize, Result<()>)> = progress.run(results).await;
    results.sort_by_key(|(number, _)| *number);
    report(results.into_iter().map(|(_, result)| result).collect())
}

/// Connects, requests successor credentials if they are due, and closes the connection without sending data.
async fn connect(args: &WarmArgs, session: &Session, machine: &ResourceId, target: &Target) -> Result<()> {
    let Session { net, store, arm, .. } = session;
    let credentials = RelayCredentialCache::new(arm, store, machine, target.service, target.port);
    let connector = Connector { net, target, wait: args.target.wait, progress: &Progress::default() };
    let (_connection, issued) = connector.connect(&credentials).await?;
    last_error::clear(store, target);
    if credentials.is_due(&issued) {
        credentials.refresh(&issued).await;
    }
    Ok(())
}

/// Prints how many machines are ready, and returns the exit status.
fn report(results: Vec<Result<()>>) -> Result<u8> {
    let ready = results.iter().flatten().count();
    let printed = print(&format!("{ready} of {} machines are ready\n", results.len()));
    all_done(results)?;
    printed?;
    Ok(0)
}
