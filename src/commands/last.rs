//! `arcssh last`: shows the last connection error, in case ssh did not show it.

use serde_json::{Value, json};

use crate::azure::resource_id::ResourceId;
use crate::cli::LastArgs;
use crate::cli::proxy_command::find_entry;
use crate::diagnosis::last_error::{self, LastError};
use crate::diagnosis::system::OTHER_DIRECTORY;
use crate::diagnosis::{Diagnosis, Result};
use crate::machines::{Names, similar};
use crate::ssh::managed_block;
use crate::state::Store;
use crate::system::clock::{format_ago, format_time};
use crate::terminal::output::{Screen, print, print_json};
use crate::terminal::table::{Column, Table};
use crate::text::{fields, sanitize, shell_quote};

/// Prints the error and returns the exit status.
///
/// # Errors
/// Other users can access the state directory.
pub(crate) fn run(args: &LastArgs) -> Result<u8> {
    let store = Store::open()?;
    let mut errors = last_error::all(&store)?;
    let machines: Vec<ResourceId> = errors.iter().filter_map(LastError::id).collect();
    let names = &Names::with_configured(&machines);
    if let Some(machine) = &args.machine {
        let target = target(machine);
        let is_target = |error: &LastError| target.as_ref().is_some_and(|target| error.is_about(target));
        errors.retain(|error| error.is_about(machine) || is_target(error));
    }
    if args.output.is_json() {
        print_json(&Value::from_iter(errors.into_iter().map(object)))?;
        return Ok(0);
    }
    let text = match errors.split_first() {
        Some((last, [])) => describe(last, names),
        Some((last, others)) => {
            format!("{}\n{}", describe(last, names), table(others, names, Screen::stdout()))
        }
        None if store.check()?.is_none() => format!("there is no state directory: {OTHER_DIRECTORY}\n"),
        None => no_error(args.machine.as_deref(), &machines, names),
    };
    print(&text)?;
    Ok(0)
}

fn object(error: LastError) -> Value {
    let exit_status = u8::from(error.diagnosis.code.exit_status());
    let Diagnosis { code, summary, hint, request_id } = error.diagnosis.on_one_line();
    json!({
        "name": error.name, "id": error.machine, "port": error.port, "time": format_time(error.at), "code": code,
        "error": summary, "hint": hint, "requestId": request_id, "exitStatus": exit_status,
    })
}

/// Returns the machine of a host entry in the user's ssh configuration.
fn target(name: &str) -> Option<String> {
    Some(find_entry(name, &managed_block::text_of_user())?.target)
}

fn no_error(machine: Option<&str>, machines: &[ResourceId], names: &Names) -> String {
    let known: Vec<String> = machines.iter().flat_map(|id| [id.name.clone(), names.argument(id)]).collect();
    let similar = similar(machine.unwrap_or_default(), known.iter().map(String::as_str));
    let hint =
        if similar.is_empty() { String::new() } else { format!("; did you mean {}?", similar.join(" or ")) };
    let machine = machine.map_or(String::new(), |machine| format!(" for {machine}"));
    let text = format!("no error is recorded{machine}: a successful connection deletes the record{hint}");
    sanitize(&text) + "\n"
}

fn describe(error: &LastError, names: &Names) -> String {
    let LastError { machine, port, diagnosis: Diagnosis { code, summary, hint, request_id }, .. } = error;
    let doctor = error.id().map(|id| format!("arcssh doctor {}", shell_quote(&names.argument(&id))));
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
fn table(others: &[LastError], names: &Names, screen: Screen) -> String {
    let columns = [("OTHER MACHINE", 14), ("TIME", 14), ("CODE", 13), ("ERROR", 20)];
    let columns = columns.map(|(title, min)| Column::new(title, min));
    let mut table = Table::new(columns.into(), &["OTHER MACHINE", "TIME", "CODE", "ERROR"]);
    for error in others {
        let LastError { at, diagnosis, .. } = error;
        let time = if screen.is_terminal() { format_ago(*at) } else { format_time(*at) };
        // The host name on the command line, if the machine is not known.
        let name = error.id().map_or_else(|| error.name.clone(), |id| names.argument(&id));
        let summary = diagnosis.summary.as_str();
        let cause =
            summary.strip_prefix("cannot connect to ").and_then(|rest| Some(rest.split_once(": ")?.1));
        let cause = cause.unwrap_or(summary);
        table.push(vec![name.into(), time.into(), diagnosis.code.slug().into(), cause.into()]);
    }
    let next = if screen.is_terminal() { "\nto see one of them: arcssh last MACHINE\n" } else { "" };
    table.render(screen) + next
}
