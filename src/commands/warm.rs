//! `arcssh warm`: connects to each machine once, so that its next connection uses cached credentials.

use crate::azure::target::Target;
use crate::cli::WarmArgs;
use crate::commands::session::{Session, for_each};
use crate::diagnosis::{Context, Error, Result};
use crate::machines::NamedMachine;
use crate::terminal::output::print;

/// Connects to the machines and returns the exit status.
///
/// # Errors
/// [`Error::Several`]; those of [`Session::select_some`].
pub(crate) async fn run(args: &WarmArgs) -> Result<u8> {
    let session = &Session::open(&args.azure)?;
    let machines = session.select_some(&args.selection, "warm").await?;
    let connect = async |named: &NamedMachine| {
        let target = Target::new(&named.machine.id, args.target.service, args.target.port());
        let result = session.connect(&target, args.target.wait).await;
        result.map_err(|error| error.during(Context::connecting(target)))
    };
    report(for_each(&machines, args.jobs, connect).await.into_iter())
}

fn report(results: impl ExactSizeIterator<Item = Result<()>>) -> Result<u8> {
    let total = results.len();
    let mut errors: Vec<Error> = results.filter_map(Result::err).collect();
    let ready = total - errors.len();
    errors.extend(print(&format!("{ready} of {total} machines are ready\n")).err().map(Error::from));
    if errors.is_empty() { Ok(0) } else { Err(Error::Several(errors)) }
}
