//! `arcssh last`: why a machine could not be reached, for when ssh has not shown it.

use std::time::Duration;

use anyhow::Result;

use crate::cli::LastArgs;
use crate::diagnosis::last_error::{self, LastError};
use crate::ssh::effective_config::find_entry;
use crate::ssh::managed_block;
use crate::state::{OTHER_DIRECTORY, Store};
use crate::system::clock::{format_duration, format_time, unix_now};
use crate::terminal::output::print;
use crate::text::{sanitize, shell_quote};

/// Prints it; the exit status.
///
/// # Errors
/// The store is open to others.
pub(crate) fn run(args: &LastArgs) -> Result<u8> {
    let store = Store::open()?;
    let mut errors = last_error::all(&store)?;
    if let Some(machine) = &args.machine {
        let target = target(machine);
        let is_target = |error: &LastError| target.as_ref().is_some_and(|target| error.is_about(target));
        errors.retain(|error| error.is_about(machine) || is_target(error));
    }
    let text = match errors.split_first() {
        Some((last, others)) => explained(last) + &named(others),
        None if store.check()?.is_none() => format!("nothing can be kept here: {OTHER_DIRECTORY}\n"),
        None => nothing(args.machine.as_deref()),
    };
    print(&text)?;
    Ok(0)
}

/// What the user's ssh configuration has under a name.
fn target(name: &str) -> Option<String> {
    let text = managed_block::default_path().and_then(|file| managed_block::read(&file)).ok()?;
    Some(find_entry(name, &text)?.target)
}

fn nothing(machine: Option<&str>) -> String {
    let whose = machine.map_or(String::new(), |machine| format!(" of {machine}"));
    format!("no failure{whose} is kept: one is forgotten when a connection works\n")
}

fn explained(error: &LastError) -> String {
    let LastError { machine, port, what, hint, request, status, .. } = error;
    let doctor = |id: &String| format!("arcssh doctor {} looks at each step of the way", shell_quote(id));
    let lines = [
        ("what", Some(what.clone())),
        ("hint", hint.clone()),
        ("when", Some(when(error))),
        ("machine", machine.clone()),
        ("port", Some(port.to_string())),
        ("request", request.clone()),
        ("status", Some(status.to_string())),
        ("next", machine.as_ref().map(doctor)),
    ];
    let given = lines.into_iter().filter_map(|(title, value)| Some((title, value?)));
    given.map(|(title, value)| format!("{title:8} {}\n", sanitize(&value))).collect()
}

/// The others that failed, for the command to be given their names.
fn named(others: &[LastError]) -> String {
    if others.is_empty() {
        return String::new();
    }
    let names: Vec<String> = others.iter().map(|error| format!("{} {}", name(error), ago(error))).collect();
    format!("{:8} {}\n", "others", sanitize(&names.join(", ")))
}

/// `GROUP/NAME` of the machine, or what was typed for ssh where no more was known.
fn name(error: &LastError) -> String {
    error.id().map_or(error.name.clone(), |id| format!("{}/{}", id.resource_group, id.name))
}

fn when(error: &LastError) -> String {
    format!("{}, {}", format_time(error.at), ago(error))
}

fn ago(error: &LastError) -> String {
    format!("{} ago", format_duration(Duration::from_secs(unix_now().saturating_sub(error.at))))
}
