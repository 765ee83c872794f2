//! `arcssh last`: shows the last connection error, in case ssh did not show it.

use std::time::Duration;

use crate::cli::LastArgs;
use crate::cli::proxy_command::find_entry;
use crate::diagnosis::last_error::{self, LastError};
use crate::diagnosis::system::OTHER_DIRECTORY;
use crate::diagnosis::{Diagnosis, Result};
use crate::ssh::managed_block;
use crate::state::Store;
use crate::system::clock::{format_duration, format_time, unix_now};
use crate::terminal::output::print;
use crate::text::{fields, shell_quote};

/// Prints the error and returns the exit status.
///
/// # Errors
/// Other users can access the state directory.
pub(crate) fn run(args: &LastArgs) -> Result<u8> {
    let store = Store::open()?;
    let mut errors = last_error::all(&store)?;
    if let Some(machine) = &args.machine {
        let target = target(machine);
        let is_target = |error: &LastError| target.as_ref().is_some_and(|target| error.is_about(target));
        errors.retain(|error| error.is_about(machine) || is_target(error));
    }
    let text = match errors.split_first() {
        Some((last, others)) => describe(last, others),
        None if store.check()?.is_none() => format!("there is no state directory: {OTHER_DIRECTORY}\n"),
        None => no_error(args.machine.as_deref()),
    };
    print(&text)?;
    Ok(0)
}

/// Returns the machine of a host entry in the user's ssh configuration.
fn target(name: &str) -> Option<String> {
    let text = managed_block::read(&managed_block::default_path().ok()?).ok()?;
    Some(find_entry(name, &text)?.target)
}

fn no_error(machine: Option<&str>) -> String {
    let machine = machine.map_or(String::new(), |machine| format!(" for {machine}"));
    format!("no error is recorded{machine}: a successful connection deletes the record\n")
}

/// Describes the error, and names the other machines that have one.
fn describe(error: &LastError, others: &[LastError]) -> String {
    let LastError { machine, port, diagnosis: Diagnosis { code, summary, hint, request_id }, .. } = error;
    let doctor = machine.as_ref().map(|id| format!("arcssh doctor {}", shell_quote(id)));
    let others: Vec<String> = others.iter().map(|error| format!("{} {}", name(error), ago(error))).collect();
    fields(&[
        ("error", summary.clone()),
        ("hint", hint.as_ref().map_or(String::new(), |hint| hint.text.clone())),
        ("code", code.slug().to_owned()),
        ("time", format!("{}, {}", format_time(error.at), ago(error))),
        ("machine", machine.clone().unwrap_or_default()),
        ("port", port.to_string()),
        ("request ID", request_id.clone().unwrap_or_default()),
        ("exit status", u8::from(code.exit_status()).to_string()),
        ("next", doctor.unwrap_or_default()),
        ("others", others.join(", ")),
    ])
}

/// Returns `GROUP/NAME` of the machine, or the host name on the command line if the machine is not known.
fn name(error: &LastError) -> String {
    error.id().map_or(error.name.clone(), |id| format!("{}/{}", id.resource_group, id.name))
}

fn ago(error: &LastError) -> String {
    format!("{} ago", format_duration(Duration::from_secs(unix_now().saturating_sub(error.at))))
}
