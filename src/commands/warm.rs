//! `arcssh warm`: connects to each machine once, so that its next connection uses cached credentials.

use futures_util::{StreamExt, stream};
use indicatif::{ProgressBar, ProgressStyle};

use crate::azure::relay_credential_cache::RelayCredentialCache;
use crate::azure::resource_id::ResourceId;
use crate::azure::target::Target;
use crate::cli::WarmArgs;
use crate::commands::session::Session;
use crate::diagnosis::{Context, Error, Result, last_error};
use crate::relay::connector::Connector;
use crate::terminal::output::print;
use crate::terminal::progress::Progress;

/// Connects to the machines and returns the exit status.
///
/// # Errors
/// [`Error::Several`]; those of [`Session::select_some`].
pub(crate) async fn run(args: &WarmArgs) -> Result<u8> {
    let session = &Session::open(&args.azure)?;
    let machines = session.select_some(&args.selection, "warm").await?;
    let bar = &progress_bar(machines.len());
    let work = stream::iter(machines.iter().enumerate()).map(async |(number, named)| {
        let id = &named.machine.id;
        let target = Target::new(id, args.target.service, args.target.port());
        let result = connect(args, session, id, &target).await;
        bar.inc(1);
        (number, result.map_err(|error| error.during(Context::connecting(target))))
    });
    let mut results: Vec<(usize, Result<()>)> = work.buffer_unordered(args.jobs.into()).collect().await;
    bar.finish_and_clear();
    results.sort_by_key(|(number, _)| *number);
    report(results.into_iter().map(|(_, result)| result))
}

/// Connects, requests successor credentials if they are due, and closes the connection without sending data.
async fn connect(args: &WarmArgs, session: &Session, machine: &ResourceId, target: &Target) -> Result<()> {
    let Session { net, store, arm, .. } = session;
    let credentials = RelayCredentialCache::new(arm, store, machine, target.service, target.port);
    let connector = Connector { net, target, wait: args.target.wait, waiting: &Progress::default() };
    let (_connection, issued) = connector.connect(&credentials).await?;
    last_error::clear(store, target);
    if credentials.is_due(&issued) {
        credentials.refresh(&issued).await;
    }
    Ok(())
}

/// Returns a progress bar on standard error, which is hidden if that is not a terminal.
fn progress_bar(machines: usize) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:30} {pos} of {len} machines, {elapsed}");
    ProgressBar::new(machines as u64).with_style(style.expect("the template is well formed"))
}

fn report(results: impl ExactSizeIterator<Item = Result<()>>) -> Result<u8> {
    let total = results.len();
    let mut errors: Vec<Error> = results.filter_map(Result::err).collect();
    let ready = total - errors.len();
    errors.extend(print(&format!("{ready} of {total} machines are ready\n")).err().map(Error::from));
    if errors.is_empty() { Ok(0) } else { Err(Error::Several(errors)) }
}
