//! `arcssh list`: the Arc machines that the identity sees, for people, programs and ansible.

use anyhow::Result;
use serde_json::{Map, Value, json};

use crate::azure::arm::Arm;
use crate::azure::cloud::Cloud;
use crate::azure::hybrid_compute::Machine;
use crate::cli::{ListArgs, ListFormat};
use crate::machines::{MachineSelector, NamedMachine, SUFFIX, select};
use crate::net::Net;
use crate::state::Store;
use crate::terminal::output::print;
use crate::text::{json_text, sanitize, width};

/// Prints the list; the exit status.
///
/// # Errors
/// What Azure refuses.
pub(crate) async fn run(args: &ListArgs) -> Result<u8> {
    let (net, store) = (Net::new(), Store::open()?);
    let cloud = Cloud::new(args.cloud.name(), &args.cloud.endpoints())?;
    let arm = Arm::new(&cloud, &net, &store, args.who.wanted());
    let typed = args.selection.selection();
    let mut selection = if typed.is_empty() {
        typed.merge(MachineSelector { all: true, ..MachineSelector::default() })
    } else {
        typed
    };
    let machines = select(&arm, &mut selection).await?;
    let text = match args.format.unwrap_or(ListFormat::Table) {
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

/// An inventory with all variables in `_meta`, so that ansible asks once (ansible docs, "Developing dynamic inventory").
/// Groups are all hosts, resource groups and systems.
fn inventory(machines: &[NamedMachine]) -> Value {
    let mut groups: Map<String, Value> = Map::new();
    let mut variables = Map::new();
    let mut join = |group: String, host: &str| {
        let hosts = groups.entry(group).or_insert_with(|| json!({ "hosts": [] }));
        if let Some(hosts) = hosts["hosts"].as_array_mut() {
            hosts.push(host.into());
        }
    };
    for (machine, host, of_host) in hosts(machines) {
        for group in
            [ALL.to_owned(), group_name(GROUP, &machine.id.resource_group), group_name(SYSTEM, &machine.os)]
        {
            join(group, &host);
        }
        variables.insert(host, of_host);
    }
    groups.insert("_meta".into(), json!({ "hostvars": variables }));
    Value::Object(groups)
}

fn host_variables(machines: &[NamedMachine], host: &str) -> Value {
    let found = hosts(machines).find(|(_, name, _)| name.eq_ignore_ascii_case(host));
    found.map_or(json!({}), |(_, _, variables)| variables)
}

/// The machines that ssh has a name for, each with its name in the inventory and its variables. That name is what ssh
/// calls the machine, unless it is a group's: ansible would connect to that host alone when a play names the group.
fn hosts(machines: &[NamedMachine]) -> impl Iterator<Item = (&Machine, String, Value)> {
    machines.iter().filter_map(|NamedMachine { machine, patterns }| {
        let alias = patterns.as_ref()?.first()?;
        let mut variables = json!({ "arc": for_ansible(object(machine)) });
        let name = match is_group(alias) {
            true => {
                variables["ansible_host"] = for_ansible(json!(alias));
                format!("{alias}.{SUFFIX}")
            }
            false => alias.clone(),
        };
        Some((machine, name, variables))
    })
}

/// The group of all hosts.
const ALL: &str = "arc";
/// How the groups of a resource group and of a system begin.
const GROUP: &str = "rg";
const SYSTEM: &str = "os";

/// Whether a name is that of a group here, or of one that ansible has in every inventory. ansible takes a host before a
/// group of the same name (ansible-core `inventory/manager.py`, `_evaluate_patterns`).
fn is_group(name: &str) -> bool {
    let begins = |kind: &str| name.strip_prefix(kind).is_some_and(|rest| rest.starts_with('_'));
    ["all", "ungrouped", ALL].contains(&name) || begins(GROUP) || begins(SYSTEM)
}

/// Marks each string, so that ansible does not evaluate it as a template: names, tags and statuses come from Azure.
///
/// Source: ansible-core 2.16 `parsing/ajson.py` and 2.19 `_internal/_json/_profiles/_legacy.py`, `__ansible_unsafe`.
fn for_ansible(value: Value) -> Value {
    match value {
        Value::String(text) => json!({ "__ansible_unsafe": text }),
        Value::Array(values) => values.into_iter().map(for_ansible).collect(),
        Value::Object(values) => {
            let inert = values.into_iter().filter(|(key, _)| is_inert(key));
            inert.map(|(key, value)| (key, for_ansible(value))).collect()
        }
        other => other,
    }
}

/// Whether ansible takes a key as it is. Keys cannot be marked: ansible reads an object with a key such as
/// `__ansible_unsafe` or `__ansible_vault` as something else, and 2.19 then rejects the whole inventory.
fn is_inert(key: &str) -> bool {
    !key.starts_with("__ansible") && !["{{", "{%", "{#"].iter().any(|template| key.contains(template))
}

/// What ansible takes for a group: letters, digits and underscores.
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
    let widest = |column: usize| rows.iter().map(|row| width(&row[column])).max().unwrap_or_default();
    let widths: [usize; 6] = std::array::from_fn(widest);
    let padded = |(cell, columns): (&String, usize)| format!("{cell}{}", " ".repeat(columns - width(cell)));
    let line = |row: &[String; 6]| {
        let cells: Vec<String> = row.iter().zip(widths).map(padded).collect();
        format!("{}\n", cells.join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}
