//! `arcssh warm`: connects to each machine once, so that its next connection uses cached credentials.

use std::io::{IsTerminal as _, stdout};

use serde_json::{Value, json};

use crate::azure::hybrid_connectivity::Service;
use crate::cli::WarmArgs;
use crate::commands::session::{Session, failure, for_each, note_disconnected};
use crate::diagnosis::{self, Context, Result, all_done};
use crate::machines::NamedMachine;
use crate::terminal::output::{note, print, print_json};
use crate::text::{grouped, shell_quote};

/// Connects to the machines and returns the exit status.
///
/// # Errors
/// Those of [`Session::select_some`]; the output cannot be written.
pub(crate) async fn run(args: &WarmArgs) -> Result<u8> {
    let session = &Session::open(&args.azure)?;
    let machines = session.select_some(&args.selection, "warm").await?;
    note_disconnected(&machines, args.target.wait);
    let connect = async |named: &NamedMachine| {
        let target = named.target(args.target.service, args.target.port());
        let result = session.connect(&target, args.target.wait).await;
        result.map_err(|error| error.during(Context::connecting(target)))
    };
    let results = for_each(&machines, args.jobs, connect).await;
    if args.output.is_json() {
        print_json(&Value::from_iter(
            machines.iter().zip(&results).map(|(named, result)| outcome(named, result)),
        ))?;
        return Ok(all_done(results).map_or_else(|error| diagnosis::report(&error), |()| 0));
    }
    let is_ready = results.iter().all(Result::is_ok);
    let status = report(results)?;
    if is_ready && args.target.service == Service::Ssh && stdout().is_terminal() {
        note(&format!("hint: to connect, run: {}", connect_command(&machines[0])));
    }
    Ok(status)
}

/// Returns how to connect to a machine with its host entry, or without one.
fn connect_command(named: &NamedMachine) -> String {
    match &named.host_entry {
        Some(alias) => format!("ssh {}", shell_quote(alias)),
        None => format!("arcssh ssh {}", shell_quote(&named.argument)),
    }
}

fn outcome(named: &NamedMachine, result: &Result<()>) -> Value {
    let mut object = failure(named, result.as_ref().err());
    object["ready"] = json!(result.is_ok());
    object
}

/// Prints the errors and then how many machines are ready, and returns the exit status.
fn report(results: Vec<Result<()>>) -> Result<u8> {
    let (ready, all) = (results.iter().flatten().count(), results.len());
    let status = all_done(results).map_or_else(|error| diagnosis::report(&error), |()| 0);
    print(&format!("{} of {} machines are ready\n", grouped(ready), grouped(all)))?;
    Ok(status)
}
