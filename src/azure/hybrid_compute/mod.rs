//! Arc machines: Microsoft.HybridCompute and the other Arc types. `extension` contains the extensions of a machine.
//!
//! One Resource Graph query lists the machines of all subscriptions and of all four Arc types. If Resource Graph
//! rejects it, each subscription lists its machines.

pub(crate) mod extension;
pub(crate) mod filter;

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::hash::BuildHasher as _;
use std::str::FromStr;

use azure_core::http::Url;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};
use tracing::{info, warn};

use crate::azure::arm::{Arm, ArmError, ErrorResponse, RESOURCE_GRAPH};
use crate::azure::hybrid_compute::extension::ExtensionPolicy;
use crate::azure::json::{optional_number, or_default, text};
use crate::azure::resource_id::{ResourceId, ResourceIdError, segment};
use crate::system::clock::{format_time, unix_now};

/// Azure/azure-rest-api-specs, hybridcompute, stable.
const MACHINES_VERSION: &str = "2024-07-10";
/// Azure CLI's version for virtual machines of VMware (azure-cli-extensions `target_os_utils.py`); no source has one
/// for the other types.
const VIRTUAL_MACHINES_VERSION: &str = "2022-07-15-preview";
/// The stable version of Microsoft.ResourceGraph.
const GRAPH_VERSION: &str = "2021-03-01";
/// Azure/azure-rest-api-specs, subscriptions.
const SUBSCRIPTIONS_VERSION: &str = "2022-12-01";

/// The list of all resources, as in a recording of azure-powershell (`TestArcPortFromRSTags.json`).
const RESOURCES_VERSION: &str = "2018-05-01";
/// The Arc machines that Microsoft.HybridCompute does not list.
const OTHER_TYPES: &str = "resourceType eq 'Microsoft.ConnectedVMwarevSphere/virtualMachines' \
    or resourceType eq 'Microsoft.ScVmm/virtualMachines' or resourceType eq 'Microsoft.AzureStackHCI/virtualMachines'";

/// The types of Arc machines, as a list of KQL.
const TYPES: &str = "'microsoft.hybridcompute/machines', 'microsoft.connectedvmwarevsphere/virtualmachines', \
    'microsoft.scvmm/virtualmachines', 'microsoft.azurestackhci/virtualmachines'";
/// Rows of a Resource Graph page: the maximum.
const PAGE_SIZE: usize = 1000;
/// The fewest rows that arcssh requests if Resource Graph rejects larger pages.
const MIN_PAGE_SIZE: usize = 10;
/// The most pages of a list: a million machines of Resource Graph, more than any tenant has. A server could always name
/// a next page.
const MAX_PAGES: usize = 1000;

/// The properties of a machine that arcssh reads, each with the paths at which its type has it. Those of virtual machines
/// are in profiles (azure-cli-extensions `target_os_utils.py`).
const VM_ID: &[&str] = &["properties.vmId"];
const STATUS: &[&str] = &["properties.status", "properties.guestAgentProfile.status"];
const AGENT_VERSION: &[&str] = &["properties.agentVersion", "properties.guestAgentProfile.agentVersion"];
/// az ssh reads osName, then osType; a recording contains only osName.
const OS: &[&str] = &["properties.osName", "properties.osType", "properties.osProfile.osType"];
const LAST_STATUS_CHANGE: &[&str] =
    &["properties.lastStatusChange", "properties.guestAgentProfile.lastStatusChange"];
const PRIVATE_LINK: &[&str] = &["properties.privateLinkScopeResourceId"];

/// The properties of an Arc machine that arcssh uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Machine {
    pub(crate) id: ResourceId,
    /// A GUID that does not change until the machine is onboarded again.
    pub(crate) vm_id: Option<String>,
    /// `Connected`, `Disconnected`, `Error`, `Expired`, …: an open set.
    pub(crate) status: String,
    /// Version of the Connected Machine agent, four numbers.
    pub(crate) agent_version: String,
    /// `linux` or `windows`.
    pub(crate) os: String,
    /// ISO 8601 in UTC.
    pub(crate) last_status_change: String,
    pub(crate) tags: BTreeMap<String, String>,
    /// The region; only from [`show`].
    pub(crate) location: String,
    /// The machine's platform, `VMware`, `SCVMM`, `HCI`, `AWS`, …, if known; only from [`show`].
    pub(crate) kind: String,
    /// Whether the agent connects to Azure through a private link.
    pub(crate) is_private_link: bool,
    /// The agent's mode, `full` or `monitor`, if known; only from [`show`].
    pub(crate) config_mode: String,
    /// What the agent installs; only from [`show`].
    pub(crate) extension_policy: ExtensionPolicy,
}

impl Machine {
    /// Returns a machine of which only the ID is known.
    pub(crate) fn from_id(id: ResourceId) -> Self {
        machine(&json!({ "id": id.to_string() })).expect("a row needs only an ID")
    }

    /// Returns the status and its time if the machine is not connected to Azure, such as "Disconnected since 03:15 UTC".
    pub(crate) fn disconnected(&self) -> Option<String> {
        let Self { status, last_status_change: time, .. } = self;
        if status.is_empty() || status.eq_ignore_ascii_case("connected") {
            return None;
        }
        let today = format_time(unix_now());
        let since = time.split_once('T').and_then(|(date, time)| Some((date, time.get(..5)?)));
        Some(match since {
            Some((date, minute)) if today.starts_with(date) => format!("{status} since {minute} UTC"),
            Some((date, minute)) => format!("{status} since {date} {minute} UTC"),
            None => status.clone(),
        })
    }

    /// Returns whether the operating system is Windows.
    pub(crate) fn is_windows(&self) -> bool {
        is_windows(&self.os)
    }
}

/// Returns whether an operating system is Windows. Its name can have the edition, such as `windows server 2022`.
pub(crate) fn is_windows(os: &str) -> bool {
    os.starts_with("windows")
}

/// Reads a machine; `None` if the account cannot read it, or if the API version is wrong for its type. A connection
/// does not need this call, and no source says that the login roles allow it.
pub(crate) async fn show(arm: &Arm, id: &ResourceId) -> Result<Option<Machine>, ArmError> {
    let is_server = id.namespace == "Microsoft.HybridCompute";
    let version = if is_server { MACHINES_VERSION } else { VIRTUAL_MACHINES_VERSION };
    let is_unreadable =
        |response: &ErrorResponse| response.is_forbidden() || !is_server && response.is_unserved();
    match arm.get(&id.segments(), &[("api-version", version)]).await {
        Ok(row) => Ok(machine(&row)),
        Err(ArmError::Rejected(response)) if is_unreadable(&response) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Lists the Arc machines of these subscriptions, or of all that the account can see.
pub(crate) async fn list(arm: &Arm, subscriptions: &[String]) -> Result<Vec<Machine>, ArmError> {
    list_by(arm, subscriptions, &query("")).await
}

/// Lists the Arc machines that a text can refer to, and perhaps others: by their name, or by an alias, which begins with
/// the name and a dot.
pub(crate) async fn list_named(
    arm: &Arm,
    subscriptions: &[String],
    named: &MachineRef,
) -> Result<Vec<Machine>, ArmError> {
    list_by(arm, subscriptions, &query(&named.filter())).await
}

async fn list_by(arm: &Arm, subscriptions: &[String], query: &str) -> Result<Vec<Machine>, ArmError> {
    match graph(arm, subscriptions, query).await {
        Err(error)
            if affects_one_request(&error)
                || matches!(
                    error,
                    ArmError::InvalidResponse { .. } | ArmError::TooManyPages(_) | ArmError::ListTooLong
                ) =>
        {
            info!("Resource Graph failed ({error}); listing the machines of each subscription");
            by_subscription(arm, subscriptions).await
        }
        result => result,
    }
}

/// Returns whether another request can succeed after this error.
fn affects_one_request(error: &ArmError) -> bool {
    matches!(error, ArmError::Rejected(response) if !matches!(response.status, 401 | 429))
}

/// Returns the query for the Arc machines that the account can read and that a filter selects. It requests only what
/// [`machine`] reads: the other properties of a machine have several kB, and a page is limited. The order is by a unique
/// column, so that pages do not overlap.
fn query(filter: &str) -> String {
    let properties = [VM_ID, STATUS, AGENT_VERSION, OS, LAST_STATUS_CHANGE, PRIVATE_LINK].concat();
    let properties = properties.iter().map(|path| format!("{} = tostring({path})", column(path)));
    let columns = properties.collect::<Vec<_>>().join(", ");
    format!("resources | where type in~ ({TYPES}){filter} | project id, tags, {columns} | order by id asc")
}

/// Returns a text as a string literal of KQL (Microsoft Learn, "The string data type": `\` escapes).
fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}

async fn graph(arm: &Arm, subscriptions: &[String], query: &str) -> Result<Vec<Machine>, ArmError> {
    let mut machines = Vec::new();
    let mut visited = VisitedPages::default();
    let mut skip_token: Option<String> = None;
    let (mut top, mut rows) = (PAGE_SIZE, 0);
    loop {
        let mut body = json!({ "query": query, "options": { "resultFormat": "objectArray", "$top": top } });
        if !subscriptions.is_empty() {
            body["subscriptions"] = json!(subscriptions);
        }
        if let Some(token) = &skip_token {
            body["options"]["$skipToken"] = json!(token);
        }
        let response = arm.post(&RESOURCE_GRAPH, &[("api-version", GRAPH_VERSION)], &body).await;
        let page: GraphPage = match response.and_then(|response| response.json()) {
            Err(error) if is_page_too_large(&error) && top > MIN_PAGE_SIZE => {
                // "$top" overrides the page size of "$skipToken" (azure-rest-api-specs, QueryRequestOptions).
                top /= 10;
                info!("requesting {top} rows of each page of Resource Graph: {error}");
                continue;
            }
            result => result?,
        };
        rows += page.data.len();
        let (is_truncated, total) = (page.is_truncated(), page.total_records.unwrap_or_default());
        machines.extend(page.data.into_iter().filter_map(|Row(machine)| machine));
        skip_token = page.skip_token.filter(|token| !token.is_empty());
        match &skip_token {
            Some(token) => visited.add(token)?,
            None => {
                if is_truncated || (rows as u64) < total {
                    warn!(
                        "the list of machines is incomplete: Azure Resource Graph returned {rows} of {total}"
                    );
                }
                return Ok(machines);
            }
        }
    }
}

/// Returns whether fewer rows may fit into a page (microsoft/ARI issue 199).
fn is_page_too_large(error: &ArmError) -> bool {
    match error {
        ArmError::Rejected(response) => &*response.code == "ResponsePayloadTooLarge",
        ArmError::ListTooLong => true,
        _ => false,
    }
}

async fn by_subscription(arm: &Arm, subscriptions: &[String]) -> Result<Vec<Machine>, ArmError> {
    let version = ("api-version", SUBSCRIPTIONS_VERSION);
    let subscriptions = match subscriptions {
        [] => pages::<Subscription>(arm, &["subscriptions"], &[version]).await?,
        ids => {
            let subscription = |id: &String| Subscription { subscription_id: id.clone(), display_name: None };
            ids.iter().map(subscription).collect()
        }
    };
    let mut machines = Vec::new();
    let mut last_error = None;
    for Subscription { subscription_id, .. } in subscriptions {
        let path = ["subscriptions", &subscription_id, "providers", "Microsoft.HybridCompute", "machines"];
        match pages::<Row>(arm, &path, &[("api-version", MACHINES_VERSION)]).await {
            Ok(rows) => machines.extend(rows.into_iter().filter_map(|Row(machine)| machine)),
            // The account may be able to read the machines of another subscription.
            Err(error) if affects_one_request(&error) => last_error = Some(error),
            Err(error) => return Err(error),
        }
        let others = other_types(arm, &subscription_id).await;
        let others = others.into_iter().filter_map(|Row(machine)| machine);
        machines.extend(others.filter(|other| other.id.namespace != "Microsoft.HybridCompute"));
    }
    match last_error {
        Some(error) if machines.is_empty() => Err(error),
        _ => Ok(machines),
    }
}

/// Lists virtual machines of VMware, SCVMM and Azure Local, with only ID and tags; empty if the account cannot list
/// them.
async fn other_types(arm: &Arm, subscription: &str) -> Vec<Row> {
    let query = [("$filter", OTHER_TYPES), ("api-version", RESOURCES_VERSION)];
    pages(arm, &["subscriptions", subscription, "resources"], &query).await.unwrap_or_else(|error| {
        info!("listing only Arc-enabled servers: {error}");
        Vec::new()
    })
}

/// Returns the number of subscriptions that the account can see, on the first page, and ARM's time, in seconds of Unix
/// time.
pub(crate) async fn subscriptions(arm: &Arm) -> Result<(usize, Option<u64>), ArmError> {
    let response = arm.read(&["subscriptions"], &[("api-version", SUBSCRIPTIONS_VERSION)]).await?;
    Ok((response.json::<Page<Subscription>>()?.value.len(), response.date))
}

/// Returns the name of each subscription that the account can see, by its ID in lower case (azure-rest-api-specs,
/// subscriptions, `displayName`).
pub(crate) async fn subscription_names(arm: &Arm) -> Result<BTreeMap<String, String>, ArmError> {
    let all =
        pages::<Subscription>(arm, &["subscriptions"], &[("api-version", SUBSCRIPTIONS_VERSION)]).await?;
    Ok(all
        .into_iter()
        .map(|one| (one.subscription_id.to_lowercase(), one.display_name.unwrap_or_default()))
        .collect())
}

/// Reads all pages of a list, `{"value":[…],"nextLink"?}`. `nextLink` is a complete URL.
pub(super) async fn pages<T: DeserializeOwned>(
    arm: &Arm,
    path: &[&str],
    query: &[(&str, &str)],
) -> Result<Vec<T>, ArmError> {
    let mut page: Page<T> = arm.get(path, query).await?;
    let mut all = page.value;
    let mut visited = VisitedPages::default();
    while let Some(next) = page.next_link.filter(|link| !link.is_empty()) {
        visited.add(&next)?;
        let next =
            Url::parse(&next).map_err(|error| arm.unexpected(format!("nextLink is not a URL: {error}")))?;
        page = arm.get_url(next).await?;
        all.append(&mut page.value);
    }
    Ok(all)
}

/// The visited pages of a list, as hashes, since a link can be megabytes long.
#[derive(Default)]
struct VisitedPages(HashSet<u64>);

impl VisitedPages {
    /// Adds the next page.
    ///
    /// # Errors
    /// The page was visited before, or the list has [`MAX_PAGES`].
    fn add(&mut self, page: &str) -> Result<(), ArmError> {
        let hash = self.0.hasher().hash_one(page);
        if !self.0.insert(hash) {
            return Err(ArmError::TooManyPages("a page links to a previous page".into()));
        }
        if self.0.len() >= MAX_PAGES {
            return Err(ArmError::TooManyPages(format!("a list has more than {MAX_PAGES} pages")));
        }
        Ok(())
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", bound = "T: DeserializeOwned")]
struct Page<T> {
    #[serde(default, deserialize_with = "or_default")]
    value: Vec<T>,
    next_link: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct GraphPage {
    #[serde(deserialize_with = "or_default")]
    data: Vec<Row>,
    #[serde(rename = "$skipToken")]
    skip_token: Option<String>,
    #[serde(default)]
    result_truncated: Value,
    #[serde(default, deserialize_with = "optional_number")]
    total_records: Option<u64>,
}

impl GraphPage {
    /// Returns whether rows are missing that no other page has. The specification has the text "true".
    fn is_truncated(&self) -> bool {
        text(&self.result_truncated).is_some_and(|text| text.eq_ignore_ascii_case("true"))
    }
}

/// A row of a list. Only the machine in it stays in memory: all properties of a page can be 16 MiB.
struct Row(Option<Machine>);

impl<'de> Deserialize<'de> for Row {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(machine(&Value::deserialize(deserializer)?)))
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Subscription {
    subscription_id: String,
    #[serde(default, deserialize_with = "or_default")]
    display_name: Option<String>,
}

/// Parses a machine of ARM or Resource Graph; `None` for another resource. Ignores values in an unexpected form: many
/// are null for a disconnected machine.
fn machine(row: &Value) -> Option<Machine> {
    let value = |path: &&str| {
        let value = row.pointer(&format!("/{}", path.replace('.', "/"))).unwrap_or(&row[column(path)]);
        value.as_str().filter(|text| !text.is_empty()).map(str::to_owned)
    };
    let find = |paths: &[&str]| paths.iter().find_map(value);
    let first = |paths| find(paths).unwrap_or_default();
    let is_vm_id = |text: &String| text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    let tags = row["tags"].as_object().into_iter().flatten();
    Some(Machine {
        id: row["id"].as_str()?.parse().ok()?,
        vm_id: find(VM_ID).filter(is_vm_id),
        status: first(STATUS),
        agent_version: first(AGENT_VERSION),
        os: first(OS).to_lowercase(),
        last_status_change: first(LAST_STATUS_CHANGE),
        tags: tags.map(|(key, value)| (key.clone(), text(value).unwrap_or_default())).collect(),
        location: first(&["location"]),
        kind: first(&["kind"]),
        is_private_link: find(PRIVATE_LINK).is_some(),
        config_mode: first(&["properties.agentConfiguration.configMode"]),
        extension_policy: ExtensionPolicy::of(row),
    })
}

/// Returns the column of a query for a property.
fn column(path: &str) -> String {
    path.replace('.', "_")
}

/// The user's reference to a machine: an ID, `NAME` or `GROUP/NAME`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum MachineRef {
    Id(ResourceId),
    Name {
        /// The machine must be in this resource group.
        group: Option<String>,
        name: String,
    },
}

impl FromStr for MachineRef {
    type Err = ResourceIdError;

    /// A text with more than one slash must be a resource ID.
    fn from_str(text: &str) -> Result<Self, ResourceIdError> {
        let (group, name) = match text.split_once('/') {
            Some((group, name)) if !name.contains('/') && !group.is_empty() => (Some(segment(group)?), name),
            Some(_) => return Ok(Self::Id(text.parse()?)),
            None => (None, text),
        };
        Ok(Self::Name { group, name: segment(name)? })
    }
}

impl fmt::Display for MachineRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => id.fmt(f),
            Self::Name { group: Some(group), name } => write!(f, "{group}/{name}"),
            Self::Name { group: None, name } => f.write_str(name),
        }
    }
}

impl MachineRef {
    /// Returns the KQL for a filter of the machines to which this can refer.
    fn filter(&self) -> String {
        let group = |group: &str| format!(" | where resourceGroup =~ {}", literal(group));
        let names = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| literal(name)).collect();
            format!(" | where name in~ ({})", names.join(", "))
        };
        match self {
            Self::Id(id) => names(&[&id.name]) + &group(&id.resource_group),
            Self::Name { group: Some(within), name } => names(&[name]) + &group(within),
            Self::Name { group: None, name } => {
                let ends = name.match_indices('.').map(|(end, _)| end).chain([name.len()]);
                names(&ends.map(|end| &name[..end]).collect::<Vec<_>>())
            }
        }
    }

    /// Returns whether this is the machine. Names of Azure resources are case-insensitive.
    pub(crate) fn matches(&self, machine: &Machine) -> bool {
        match self {
            Self::Id(id) => id.to_string().eq_ignore_ascii_case(&machine.id.to_string()),
            Self::Name { group, name } => {
                machine.id.name.eq_ignore_ascii_case(name)
                    && group
                        .as_ref()
                        .is_none_or(|group| machine.id.resource_group.eq_ignore_ascii_case(group))
            }
        }
    }
}

#[cfg(test)]
mod fuzz_tests;
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_for_a_name_includes_the_names_of_its_aliases() {
        let filter = |text: &str| text.parse::<MachineRef>().unwrap().filter();
        assert_eq!(filter("web01"), " | where name in~ ('web01')");
        assert_eq!(filter("a.b.rg"), " | where name in~ ('a', 'a.b', 'a.b.rg')");
        assert_eq!(filter("rg/a.b"), " | where name in~ ('a.b') | where resourceGroup =~ 'rg'");
        assert!(query(&filter("web01")).contains(") | where name in~ ('web01') | project id, tags, "));
    }

    #[test]
    fn a_literal_ends_only_at_its_last_quote() {
        assert_eq!(literal(r"a' or '1'=='1"), r"'a\' or \'1\'==\'1'");
        assert_eq!(literal(r"a\"), r"'a\\'");
        assert_eq!(literal(r"a\' | x"), r"'a\\\' | x'");
    }
}
