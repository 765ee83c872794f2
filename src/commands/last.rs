//! `arcssh last`: shows the last connection error, in case ssh did not show it.

use std::collections::BTreeMap;

use crate::azure::resource_id::ResourceId;
use crate::cli::LastArgs;
use crate::cli::proxy_command::find_entry;
use crate::diagnosis::last_error::{self, LastError};
use crate::diagnosis::system::OTHER_DIRECTORY;
use crate::diagnosis::{Diagnosis, Result};
use crate::machines::{labels, similar};
use crate::ssh::managed_block;
use crate::state::Store;
use crate::system::clock::{format_ago, format_time};
use crate::terminal::output::{Screen, print};
use crate::terminal::table::{Column, Table};
use crate::text::{fields, sanitize, shell_quote};

/// Prints the error and returns the exit status.
///
/// # Errors
/// Other users can access the state directory.
pub(crate) fn run(args: &LastArgs) -> Result<u8> {
    let store = Store::open()?;
    let mut errors = last_error::all(&store)?;
    let names = names(&errors);
    if let Some(machine) = &args.machine {
        let target = target(machine);
        let is_target = |error: &LastError| target.as_ref().is_some_and(|target| error.is_about(target));
        errors.retain(|error| error.is_about(machine) || is_target(error));
    }
    let text = match errors.split_first() {
        Some((last, [])) => describe(last),
        Some((last, others)) => format!("{}\n{}", describe(last), table(others, &names, Screen::stdout())),
        None if store.check()?.is_none() => format!("there is no state directory: {OTHER_DIRECTORY}\n"),
        None => no_error(args.machine.as_deref(), names),
    };
    print(&text)?;
    Ok(0)
}

/// Returns the machine of a host entry in the user's ssh configuration.
fn target(name: &str) -> Option<String> {
    let text = managed_block::read(&managed_block::default_path().ok()?).ok()?;
    Some(find_entry(name, &text)?.target)
}

fn no_error(machine: Option<&str>, names: BTreeMap<String, String>) -> String {
    let name_in_group = |label: &String| label.split_once('/').map(|(_, name)| name.to_owned());
    let known: Vec<String> =
        names.into_values().flat_map(|label| [name_in_group(&label), Some(label)]).flatten().collect();
    let similar = similar(machine.unwrap_or_default(), known.iter().map(String::as_str));
    let hint =
        if similar.is_empty() { String::new() } else { format!("; did you mean {}?", similar.join(" or ")) };
    let machine = machine.map_or(String::new(), |machine| format!(" for {machine}"));
    let text = format!("no error is recorded{machine}: a successful connection deletes the record{hint}");
    sanitize(&text) + "\n"
}

fn describe(error: &LastError) -> String {
    let LastError { machine, port, diagnosis: Diagnosis { code, summary, hint, request_id }, .. } = error;
    let doctor = machine.as_ref().map(|id| format!("arcssh doctor {}", shell_quote(id)));
    fields(&[
        ("error", summary.clone()),
        ("hint", hint.as_ref().map_or(String::new(), |hint| hint.text.clone())),
        ("code", code.slug().to_owned()),
        ("time", format!("{}, {}", format_time(error.at), format_ago(error.at))),
        ("machine", machine.clone().unwrap_or_default()),
        ("port", port.to_string()),
        ("request ID", request_id.clone().unwrap_or_default()),
        ("exit status", u8::from(code.exit_status()).to_string()),
        ("next", doctor.unwrap_or_default()),
    ])
}

/// Returns the errors of the other machines, one on each line.
fn table(others: &[LastError], names: &BTreeMap<String, String>, screen: Screen) -> String {
    let columns = [("OTHER MACHINE", 14), ("TIME", 14), ("CODE", 13), ("ERROR", 20)];
    let columns = columns.map(|(title, min)| Column::new(title, min));
    let mut table = Table::new(columns.into(), &["OTHER MACHINE", "TIME", "CODE", "ERROR"]);
    for error in others {
        let LastError { at, diagnosis, .. } = error;
        let time = if screen.is_terminal() { format_ago(*at) } else { format_time(*at) };
        let name = names.get(&identity(error)).unwrap_or(&error.name);
        let summary = diagnosis.summary.as_str();
        let cause =
            summary.strip_prefix("cannot connect to ").and_then(|rest| Some(rest.split_once(": ")?.1));
        let cause = cause.unwrap_or(summary);
        table.push(vec![name.into(), time.into(), diagnosis.code.slug().into(), cause.into()]);
    }
    let next = if screen.is_terminal() { "\nto see one of them: arcssh last MACHINE\n" } else { "" };
    table.render(screen) + next
}

/// Returns a different name of each machine: `GROUP/NAME`, or the host name on the command line if the machine is not known.
fn names(errors: &[LastError]) -> BTreeMap<String, String> {
    let ids: Vec<ResourceId> = errors.iter().filter_map(LastError::id).collect();
    let mut labels = labels(&ids, &BTreeMap::new()).into_iter();
    let name =
        |error: &LastError| error.id().and_then(|_| labels.next()).unwrap_or_else(|| error.name.clone());
    errors.iter().map(identity).zip(errors.iter().map(name)).collect()
}

fn identity(error: &LastError) -> String {
    error.machine.clone().unwrap_or_else(|| error.name.clone())
}
