//! `arcssh list`: the Arc machines that the account can see, as a table, as JSON or as an Ansible inventory.

use std::collections::{BTreeMap, BTreeSet};

use clap::builder::styling::Style;
use serde_json::{Map, Value, json};

use crate::azure::cloud::CloudName;
use crate::azure::hybrid_compute::Machine;
use crate::cli::proxy_command::{ProxyCommand, ProxyMachine, azure_options, program};
use crate::cli::{ListArgs, ListFormat};
use crate::commands::session::{Session, to_selector};
use crate::diagnosis::Result;
use crate::machines::{KeyNames, MachineSelector, NamedMachine, Names, SUFFIX, Selection};
use crate::ssh::host_entry::{Host, Platform, is_alias};
use crate::ssh::managed_block;
use crate::ssh::used_names::UsedNames;
use crate::system::clock::{format_ago, parse_time};
use crate::terminal::output::{Screen, note, print};
use crate::terminal::palette::BAD;
use crate::terminal::table::{Cell, Column, Table};
use crate::text::{json_text, shell_quote};

/// Prints the list and returns the exit status.
///
/// # Errors
/// Azure rejects a request; a machine on the command line is unknown or ambiguous; no machine
/// matches a filter.
pub(crate) async fn run(args: &ListArgs) -> Result<u8> {
    let typed = to_selector(&args.selection);
    let all = typed.all || typed.is_empty();
    let selector = MachineSelector { all, ..typed.clone() };
    let selection = Session::open(&args.azure)?.select(&selector).await?;
    let format = args.format.unwrap_or(ListFormat::Table);
    // Ansible accepts an inventory without hosts.
    let is_inventory = args.list || args.standalone || args.host.is_some() || format == ListFormat::Ansible;
    let may_be_empty = is_inventory || typed == MachineSelector::default();
    let selection = if may_be_empty { selection } else { selection.complete()? };
    let machines = &selection.machines;
    let used = args.standalone.then(|| UsedNames::here(&managed_block::default_path().unwrap_or_default()));
    let connection = used.as_ref().map(|used| Connection::new(args, used)).transpose()?;
    let connection = connection.as_ref();
    let text = match (format, &args.host) {
        (_, Some(host)) => json_text(&host_variables(&hosts(machines, connection)?, host)),
        (ListFormat::Ansible, None) => json_text(&inventory(machines, connection)?),
        _ if args.list || args.standalone => json_text(&inventory(machines, connection)?),
        (ListFormat::Json, None) => json_text(&Value::from_iter(machines.iter().map(with_alias))),
        (ListFormat::Table, None) => text(&selection, &typed, Screen::stdout()),
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

/// Returns a machine with the name to type for ssh, if ssh accepts one, and the name that ssh knows already.
fn with_alias(named: &NamedMachine) -> Value {
    let mut object = object(&named.machine);
    object["alias"] = json!(named.patterns.iter().flatten().next());
    object["hostEntry"] = json!(named.host_entry);
    object
}

/// Returns an inventory with all variables in `_meta`, so that Ansible runs arcssh once (Ansible docs, "Developing
/// dynamic inventory"). Its groups are all hosts, each resource group and each operating system.
fn inventory(machines: &[NamedMachine], connection: Option<&Connection<'_>>) -> Result<Value> {
    let names = GroupNames::of(machines);
    names.note_renamed();
    let mut groups: Map<String, Value> = Map::new();
    let mut variables = Map::new();
    let mut add_to_group = |group: String, host: &str| {
        let hosts = groups.entry(group).or_insert_with(|| json!({ "hosts": [] }));
        if let Some(hosts) = hosts["hosts"].as_array_mut() {
            hosts.push(host.into());
        }
    };
    for (machine, host, host_variables) in hosts(machines, connection)? {
        for group in [ALL.to_owned(), names.resource_group(machine), group_name(SYSTEM, &machine.os)] {
            add_to_group(group, &host);
        }
        variables.insert(host, host_variables);
    }
    for (group, name, value) in connection.into_iter().flat_map(Connection::group_variables) {
        if let Some(group) = groups.get_mut(&group) {
            group["vars"][name] = mark_unsafe(value.into());
        }
    }
    groups.insert("_meta".into(), json!({ "hostvars": variables }));
    Ok(Value::Object(groups))
}

/// A machine, its host name in the inventory, and its variables.
type InventoryHost<'a> = (&'a Machine, String, Value);

fn host_variables(hosts: &[InventoryHost<'_>], host: &str) -> Value {
    let found = hosts.iter().find(|(_, name, _)| name.eq_ignore_ascii_case(host));
    found.map_or(json!({}), |(_, _, variables)| variables.clone())
}

/// Returns the machines that have an alias for ssh. The host name is the alias, unless a group has that name: a play for the
/// group would then run on that host only.
fn hosts<'a>(
    machines: &'a [NamedMachine],
    connection: Option<&Connection<'_>>,
) -> Result<Vec<InventoryHost<'a>>> {
    let host = |(machine, alias): (&'a Machine, &String)| {
        let mut variables = json!({ "arc": mark_unsafe(object(machine)) });
        if let Some(connection) = connection {
            variables["ansible_ssh_common_args"] = mark_unsafe(connection.ssh_args(machine)?.into());
        }
        if !is_group(alias) {
            return Ok((machine, alias.clone(), variables));
        }
        variables["ansible_host"] = mark_unsafe(json!(alias));
        Ok((machine, format!("{alias}.{SUFFIX}"), variables))
    };
    let with_alias = |named: &'a NamedMachine| Some((&named.machine, named.patterns.as_ref()?.first()?));
    machines.iter().filter_map(with_alias).map(host).collect()
}

/// The values with which Ansible connects without a host entry.
struct Connection<'a> {
    program: String,
    key_names: KeyNames<'a>,
    /// The options of the credential and the cloud.
    options: Vec<String>,
    user: Option<String>,
}

impl<'a> Connection<'a> {
    fn new(args: &ListArgs, used: &'a UsedNames) -> Result<Self> {
        let program = args.program.clone().map_or_else(program, Ok)?;
        let cloud = args.azure.chosen_cloud().unwrap_or(CloudName::Public);
        let options = azure_options(&args.azure.credential.options(), cloud);
        let key_names = KeyNames::of(&managed_block::text_of_user(), used);
        Ok(Self { program, key_names, options, user: args.user.clone() })
    }

    /// Returns the options of ssh for a machine. Ansible splits the text into words as a POSIX shell does (ansible-core
    /// `plugins/connection/ssh.py`, `_split_ssh_args`). A ProxyCommand contains no single quote.
    fn ssh_args(&self, machine: &Machine) -> anyhow::Result<String> {
        let command =
            ProxyCommand::new(&self.program, ProxyMachine::Id(machine.id.clone()), self.options.clone());
        let host = Host { proxy_command: command.words(), ..Host::default() };
        let mut options = format!("-o 'ProxyCommand={}'", host.proxy_command(Platform::Unix)?);
        let key_name = self.key_names.name(machine).filter(|name| is_alias(name));
        options.extend(key_name.map(|name| format!(" -o HostKeyAlias={name}")));
        Ok(options)
    }

    /// Returns each variable that all hosts of a group have, with the group. The user's `group_vars` override them. `cmd` is
    /// the default shell of OpenSSH for Windows (Microsoft Learn, "OpenSSH Server configuration for Windows Server").
    fn group_variables(&self) -> Vec<(String, &'static str, String)> {
        let user = self.user.iter().map(|user| (ALL.to_owned(), "ansible_user", user.clone()));
        user.chain([(group_name(SYSTEM, "windows"), "ansible_shell_type", "cmd".to_owned())]).collect()
    }
}

/// The group of all hosts.
const ALL: &str = "arc";
/// Prefixes of the groups of a resource group and of an operating system.
const GROUP: &str = "rg";
const SYSTEM: &str = "os";

/// Returns whether a group of this inventory, or one that every inventory has, can have this name, or Ansible's own computer.
/// Ansible prefers a host to a group of the same name (ansible-core `inventory/manager.py`, `_evaluate_patterns`), and a
/// host in the inventory to its own computer (`constants.py`, `LOCALHOST`; `_enumerate_matches`).
fn is_group(name: &str) -> bool {
    let name = name.to_lowercase();
    let has_prefix = |kind: &str| name.strip_prefix(kind).is_some_and(|rest| rest.starts_with('_'));
    let reserved = ["all", "ungrouped", ALL, "localhost", "127.0.0.1"];
    reserved.contains(&name.as_str()) || has_prefix(GROUP) || has_prefix(SYSTEM)
}

/// A resource group: its name in lower case, and its subscription.
type ResourceGroup = (String, String);

/// The names of resource groups as groups of the inventory. Two resource groups never have the same name, so that a play
/// for one does not run on machines of the other.
struct GroupNames {
    /// The resource groups with each possible name.
    claims: BTreeMap<String, BTreeSet<ResourceGroup>>,
}

impl GroupNames {
    fn of(machines: &[NamedMachine]) -> Self {
        let mut claims: BTreeMap<String, BTreeSet<ResourceGroup>> = BTreeMap::new();
        for group in machines.iter().map(|named| resource_group(&named.machine)) {
            for name in group_candidates(&group) {
                claims.entry(name).or_default().insert(group.clone());
            }
        }
        Self { claims }
    }

    /// Returns the name of a machine's resource group: the first candidate that no other resource group has.
    fn resource_group(&self, machine: &Machine) -> String {
        let [candidates @ .., full] = group_candidates(&resource_group(machine));
        let is_unique = |name: &String| self.claims.get(name).is_some_and(|groups| groups.len() == 1);
        candidates.into_iter().find(is_unique).unwrap_or(full)
    }

    /// Prints a note for each name that several resource groups would have.
    fn note_renamed(&self) {
        let is_own = |name: &str, groups: &BTreeSet<ResourceGroup>| {
            groups.len() > 1 && groups.iter().any(|(group, _)| group_name(GROUP, group) == name)
        };
        for (name, groups) in self.claims.iter().filter(|(name, groups)| is_own(name, groups)) {
            let groups: Vec<String> = groups.iter().map(|(group, id)| format!("{group} in {id}")).collect();
            let groups = groups.join(", ");
            note(&format!(
                "the inventory has no group {name}, because several resource groups match: {groups}"
            ));
        }
    }
}

fn resource_group(machine: &Machine) -> ResourceGroup {
    (machine.id.resource_group.to_lowercase(), machine.id.subscription.to_lowercase())
}

/// Returns the possible names of a resource group, the shortest first: its own, with the replaced characters in hexadecimal,
/// and also with the subscription. No other resource group gets the last one.
fn group_candidates((name, subscription): &ResourceGroup) -> [String; 3] {
    let own = group_name(GROUP, name);
    let replaced: String =
        name.chars().filter(|c| !c.is_alphanumeric()).map(|c| format!("{:02x}", u32::from(c))).collect();
    let spelled = if replaced.is_empty() { own.clone() } else { format!("{own}_{replaced}") };
    let full = format!("{spelled}_{}", subscription.replace('-', ""));
    [own, spelled, full]
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

/// Returns the table. On a terminal, the last lines are the number of machines, and the next command if none has a host entry.
fn text(selection: &Selection, typed: &MachineSelector, screen: Screen) -> String {
    let machines = &selection.machines;
    let table = if machines.is_empty() && screen.is_terminal() {
        String::new()
    } else {
        table(selection, screen).render(screen) + if screen.is_terminal() { "\n" } else { "" }
    };
    let is_without_entries = machines.iter().all(|named| named.host_entry.is_none());
    match machines.len() {
        _ if !screen.is_terminal() => table,
        0 => format!("no machines\n{}\n", screen.with_command("to see your account:", "arcssh account")),
        count if is_without_entries => {
            let next = screen.with_command("to add them:", &configuring(typed));
            format!("{table}{}, none with a host entry\n{next}\n", counted(count))
        }
        count => format!("{table}{}\n", counted(count)),
    }
}

fn counted(machines: usize) -> String {
    format!("{machines} machine{}", if machines == 1 { "" } else { "s" })
}

/// Returns the command that writes host entries for the selection, which cannot depend on a status.
fn configuring(typed: &MachineSelector) -> String {
    let typed = MachineSelector { statuses: BTreeSet::new(), ..typed.clone() };
    let all = Some("--all".to_owned()).filter(|_| typed.all || typed.is_empty());
    let names = typed.machines.iter().map(|name| shell_quote(name));
    let words = names.chain(all).chain([typed.filter_options()]).filter(|word| !word.is_empty());
    format!("arcssh config {}", words.collect::<Vec<_>>().join(" "))
}

/// Returns the table. If machines have the same name, the columns that distinguish them are the most important ones.
fn table(selection: &Selection, screen: Screen) -> Table {
    let has_several_subscriptions = {
        let mut ids = selection.machines.iter().map(|named| &named.machine.id.subscription);
        ids.next().is_some_and(|first| ids.any(|id| !id.eq_ignore_ascii_case(first)))
    };
    let names = Names::of(selection.machines.iter().map(|named| &named.machine.id));
    let is_shared =
        |named: &NamedMachine| names.is_namesake(&named.machine.id) && named.name == named.machine.id.name;
    let identity = [GROUP_TITLE, SUBSCRIPTION];
    let others = [STATUS, HOST_ENTRY, CHANGED, OS, AGENT];
    let importance = if selection.machines.iter().any(is_shared) {
        [&[NAME][..], &identity, &others].concat()
    } else {
        [&[NAME][..], &others[..2], &identity, &others[2..]].concat()
    };
    let columns = [
        (NAME, 14),
        (GROUP_TITLE, 10),
        (STATUS, 12),
        (AGENT, 8),
        (OS, 7),
        (CHANGED, 14),
        (HOST_ENTRY, 10),
        (SUBSCRIPTION, 12),
    ];
    let columns =
        columns.into_iter().filter(|(title, _)| has_several_subscriptions || *title != SUBSCRIPTION);
    let mut table = Table::new(columns.map(|(title, min)| Column::new(title, min)).collect(), &importance);
    for named in &selection.machines {
        let id = &named.machine.id;
        let mut row = row(named, screen);
        if has_several_subscriptions {
            let name = selection.subscriptions.get(&id.subscription.to_lowercase());
            row.push(name.unwrap_or(&id.subscription).into());
        }
        table.push(row);
    }
    table
}

/// The titles of the columns.
const NAME: &str = "NAME";
const GROUP_TITLE: &str = "GROUP";
const STATUS: &str = "STATUS";
const AGENT: &str = "AGENT";
const OS: &str = "OS";
const CHANGED: &str = "LAST CHANGE";
const HOST_ENTRY: &str = "HOST ENTRY";
const SUBSCRIPTION: &str = "SUBSCRIPTION";

/// Returns the values of all columns but the subscription. Only an agent that is `Connected` accepts connections
/// (azure-docs `articles/azure-arc/servers/overview.md`).
fn row(NamedMachine { machine, name, host_entry, .. }: &NamedMachine, screen: Screen) -> Vec<Cell> {
    let status = match machine.status.as_str() {
        "Connected" | "" => Style::new(),
        _ => BAD,
    };
    let change = &machine.last_status_change;
    let change = match parse_time(change).filter(|_| screen.is_terminal()) {
        Some(time) => format_ago(time),
        None => change.split('.').next().unwrap_or_default().replace('T', " "),
    };
    vec![
        name.into(),
        (&machine.id.resource_group).into(),
        Cell::styled(&machine.status, status),
        (&machine.agent_version).into(),
        (&machine.os).into(),
        change.into(),
        host_entry.as_deref().unwrap_or("-").into(),
    ]
}
