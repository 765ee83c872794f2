//! `arcssh list`: the Arc machines that the account can see, as a table, as JSON or as an Ansible inventory.

use serde_json::{Map, Value, json};

use crate::azure::hybrid_compute::Machine;
use crate::cli::{ListArgs, ListFormat};
use crate::commands::session::{Session, to_selector};
use crate::diagnosis::Result;
use crate::machines::{MachineSelector, NamedMachine, SUFFIX, SelectError};
use crate::terminal::output::print;
use crate::text::{json_text, sanitize, width};

/// Prints the list and returns the exit status.
///
/// # Errors
/// Azure rejects a request; a machine on the command line is unknown or ambiguous; no machine
/// matches a filter.
pub(crate) async fn run(args: &ListArgs) -> Result<u8> {
    let typed = to_selector(&args.selection);
    let all = typed.all || typed.is_empty();
    let selector = MachineSelector { all, ..typed.clone() };
    let machines = Session::open(&args.azure)?.select(&selector).await?;
    let format = args.format.unwrap_or(ListFormat::Table);
    // Ansible accepts an inventory without hosts.
    let is_inventory = args.list || args.host.is_some() || format == ListFormat::Ansible;
    if machines.is_empty() && typed != MachineSelector::default() && !is_inventory {
        return Err(SelectError::NoMatch(typed.filter_options()).into());
    }
    let text = match format {
        _ if args.host.is_some() => {
            json_text(&host_variables(&machines, args.host.as_deref().unwrap_or_default()))
        }
        ListFormat::Ansible => json_text(&inventory(&machines)),
        _ if args.list => json_text(&inventory(&machines)),
        ListFormat::Json => json_text(&Value::from_iter(machines.iter().map(|named| object(&named.machine)))),
        ListFormat::Table => table(&machines),
    };
    print(&format!("{}\n", text.trim_end()))?;
    Ok(0)
}

fn object(machine: &Machine) -> Value {
    json!({
        "name": machine.id.name, "resourceGroup": machine.id.resource_group, "subscription": machine.id.subscription,
        "id": machine.id.to_string(), "vmId": machine.vm_id, "status": machine.status,
        "agentVersion": machine.agent_version, "os": machine.os, "lastStatusChange": machine.last_status_change,
        "tags": machine.tags,
    })
}

/// Returns an inventory with all variables in `_meta`, so that Ansible runs arcssh once (Ansible docs, "Developing
/// dynamic inventory"). Its groups are all hosts, each resource group and each operating system.
fn inventory(machines: &[NamedMachine]) -> Value {
    let mut groups: Map<String, Value> = Map::new();
    let mut variables = Map::new();
    let mut add_to_group = |group: String, host: &str| {
        let hosts = groups.entry(group).or_insert_with(|| json!({ "hosts": [] }));
        if let Some(hosts) = hosts["hosts"].as_array_mut() {
            hosts.push(host.into());
        }
    };
    for (machine, host, host_variables) in hosts(machines) {
        for group in
            [ALL.to_owned(), group_name(GROUP, &machine.id.resource_group), group_name(SYSTEM, &machine.os)]
        {
            add_to_group(group, &host);
        }
        variables.insert(host, host_variables);
    }
    groups.insert("_meta".into(), json!({ "hostvars": variables }));
    Value::Object(groups)
}

fn host_variables(machines: &[NamedMachine], host: &str) -> Value {
    let found = hosts(machines).find(|(_, name, _)| name.eq_ignore_ascii_case(host));
    found.map_or(json!({}), |(_, _, variables)| variables)
}

/// Returns the machines that have an alias for ssh, each with its host name in the inventory and its variables. The
/// host name is the alias, unless a group has that name: a play for the group would then run on that host only.
fn hosts(machines: &[NamedMachine]) -> impl Iterator<Item = (&Machine, String, Value)> {
    machines.iter().filter_map(|NamedMachine { machine, patterns }| {
        let alias = patterns.as_ref()?.first()?;
        let mut variables = json!({ "arc": mark_unsafe(object(machine)) });
        if !is_group(alias) {
            return Some((machine, alias.clone(), variables));
        }
        variables["ansible_host"] = mark_unsafe(json!(alias));
        Some((machine, format!("{alias}.{SUFFIX}"), variables))
    })
}

/// The group of all hosts.
const ALL: &str = "arc";
/// Prefixes of the groups of a resource group and of an operating system.
const GROUP: &str = "rg";
const SYSTEM: &str = "os";

/// Returns whether a group of this inventory, or one that every inventory has, can have this name. Ansible prefers a host to
/// a group of the same name (ansible-core `inventory/manager.py`, `_evaluate_patterns`).
fn is_group(name: &str) -> bool {
    let has_prefix = |kind: &str| name.strip_prefix(kind).is_some_and(|rest| rest.starts_with('_'));
    ["all", "ungrouped", ALL].contains(&name) || has_prefix(GROUP) || has_prefix(SYSTEM)
}

/// Marks each string so that Ansible does not evaluate it as a template: names, tags and statuses come from Azure.
///
/// Source: ansible-core 2.16 `parsing/ajson.py` and 2.19 `_internal/_json/_profiles/_legacy.py`, `__ansible_unsafe`.
fn mark_unsafe(value: Value) -> Value {
    match value {
        Value::String(text) => json!({ "__ansible_unsafe": text }),
        Value::Array(values) => values.into_iter().map(mark_unsafe).collect(),
        Value::Object(values) => {
            let safe = values.into_iter().filter(|(key, _)| is_safe_key(key));
            safe.map(|(key, value)| (key, mark_unsafe(value))).collect()
        }
        other => other,
    }
}

/// Returns whether Ansible reads a key literally. Keys cannot be marked. Ansible decodes an object with a key such as
/// `__ansible_unsafe` or `__ansible_vault` to another value, and 2.19 then rejects the whole inventory.
fn is_safe_key(key: &str) -> bool {
    !key.starts_with("__ansible") && !["{{", "{%", "{#"].iter().any(|template| key.contains(template))
}

/// Returns a valid Ansible group name: letters, digits and underscores.
fn group_name(kind: &str, name: &str) -> String {
    let name: String =
        name.to_lowercase().chars().map(|c| if c.is_alphanumeric() { c } else { '_' }).collect();
    format!("{kind}_{name}")
}

fn table(machines: &[NamedMachine]) -> String {
    let head = ["NAME", "GROUP", "STATUS", "AGENT", "OS", "LAST CHANGE"].map(str::to_owned);
    let row = |NamedMachine { machine, .. }: &NamedMachine| {
        let change = machine.last_status_change.split('.').next().unwrap_or_default().replace('T', " ");
        let id = &machine.id;
        [&id.name, &id.resource_group, &machine.status, &machine.agent_version, &machine.os, &change]
            .map(|cell| sanitize(cell))
    };
    let rows: Vec<[String; 6]> = std::iter::once(head).chain(machines.iter().map(row)).collect();
    let max_width = |column: usize| rows.iter().map(|row| width(&row[column])).max().unwrap_or_default();
    let widths: [usize; 6] = std::array::from_fn(max_width);
    let padded = |(cell, columns): (&String, usize)| format!("{cell}{}", " ".repeat(columns - width(cell)));
    let line = |row: &[String; 6]| {
        let cells: Vec<String> = row.iter().zip(widths).map(padded).collect();
        format!("{}\n", cells.join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}
