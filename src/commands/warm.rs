//! `arcssh warm`: connects to each machine once, so that its next connection uses cached credentials.

use crate::azure::target::Target;
use crate::cli::WarmArgs;
use crate::commands::session::{Session, for_each};
use crate::diagnosis::{Context, Result, all_done};
use crate::machines::NamedMachine;
use crate::terminal::output::print;

/// Connects to the machines and returns the exit status.
///
/// # Errors
/// Those of [`all_done`] and [`Session::select_some`].
pub(crate) async fn run(args: &WarmArgs) -> Result<u8> {
    let session = &Session::open(&args.azure)?;
    let machines = session.select_some(&args.selection, "warm").await?;
    let connect = async |named: &NamedMachine| {
        let target = Target::new(&named.machine.id, args.target.service, args.target.port());
        let result = session.connect(&target, args.target.wait).await;
        result.map_err(|error| error.during(Context::connecting(target)))
    };
    report(for_each(&machines, args.jobs, connect).await)
}

/// Prints how many machines are ready, and returns the exit status.
fn report(results: Vec<Result<()>>) -> Result<u8> {
    let ready = results.iter().flatten().count();
    let printed = print(&format!("{ready} of {} machines are ready\n", results.len()));
    all_done(results)?;
    printed?;
    Ok(0)
}
