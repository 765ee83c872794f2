//! `arcssh forward`: local ports whose connections are carried to machines, for clients without a `ProxyCommand`.

mod exec;
mod report;
mod server;

use crate::cli::forward::{self as cli, ForwardArgs};
use crate::commands::destination::Destination;
use crate::commands::forward::exec::Exec;
use crate::commands::forward::report::{Form, Report};
use crate::commands::forward::server::Server;
use crate::diagnosis::code::ExitStatus;
use crate::diagnosis::{Context, Error, Result, all_done};
use crate::net::listener::{Listener, Local};
use crate::system::signals::{Signals, or_shutdown, take_over};
use crate::terminal::output::note;
use crate::terminal::progress::{Progress, Step};

/// A machine with its listener.
struct Forward {
    destination: Destination,
    listener: Listener,
}

/// Listens until a signal or the end of `--exec`, and returns the exit status.
///
/// # Errors
/// A machine does not exist, Azure issues no credentials for it, or arcssh cannot listen.
pub(crate) async fn run(args: &ForwardArgs) -> Result<u8> {
    let signals = &mut Signals::new();
    let prepare = async { prepare(args).await.map(Ok) };
    let forwards = match or_shutdown(signals, prepare, |number| Ok(Err(128 + number))).await? {
        Ok(forwards) => forwards,
        Err(status) => return Ok(status),
    };
    let report = &Report::new(Form::of(args));
    let server = Server::new(&forwards, report, args);
    take_over();
    report.listening(&forwards)?;
    let mut exec = match &args.exec {
        Some(command) => Some(Exec::start(command, &forwards)?),
        None => None,
    };
    let end = async {
        let status = match &mut exec {
            Some(exec) => exec.status(signals).await,
            None => Ok(128 + signals.next().await),
        };
        server.stop();
        status
    };
    let ((), status) = tokio::join!(server.run(), end);
    report.stopped()?;
    status
}

/// Returns whether another machine may have no such error.
fn is_of_machine(error: &Error) -> bool {
    matches!(error.diagnose().code.exit_status(), ExitStatus::NotConfigured | ExitStatus::Denied)
}

/// Opens the listeners, and then verifies that Azure issues credentials for each machine, one after the other: each machine can
/// have another account, and a wrong password of a proxy must not be sent twice. Nothing connects to a machine: a connection
/// without a login counts against all users of its sshd (sshd_config(5), `PerSourcePenalties`).
async fn prepare(args: &ForwardArgs) -> Result<Vec<Forward>> {
    let bind = |forward: &cli::Forward| Listener::bind(&forward.local, args.bind);
    // Without a machine, the user picks one.
    let listeners = match &args.forwards[..] {
        [] => vec![Listener::bind(&Local::Port(0), args.bind)?],
        forwards => forwards.iter().map(bind).collect::<Result<_, _>>()?,
    };
    let (progress, all) = (Progress::default(), listeners.len());
    let (mut forwards, mut results) = (Vec::new(), Vec::new());
    for (number, listener) in listeners.into_iter().enumerate() {
        let open = async {
            let machine = args.forwards.get(number).map(|forward| forward.machine.as_str());
            let destination = Destination::open(machine, &args.destination, "forward").await?;
            let Destination { session, target, .. } = &destination;
            progress.set(Step::left(all - number, all, "machines", vec![target.name.clone()]));
            let verified = progress.run(session.cache_credentials(target)).await;
            verified.map_err(|error| error.during(Context::connecting(target.clone())))?;
            Ok(destination)
        };
        match open.await {
            Err(error) if !is_of_machine(&error) => return Err(error),
            result => {
                results.push(result.map(|destination| forwards.push(Forward { destination, listener })))
            }
        }
    }
    let is_one = results.iter().filter(|result| result.is_err()).count() == 1;
    results.retain(|result| result.is_err() || !is_one);
    all_done(results)?;
    let has_port = forwards.iter().any(|forward| forward.listener.socket().is_none());
    if has_port && args.bind.is_some_and(|address| !address.is_loopback()) {
        note("warning: other computers can connect to these ports too");
    }
    Ok(forwards)
}
