//! Microsoft.HybridCompute and its kin: which Arc machines there are, by name, group, subscription and tag.
//!
//! Resource Graph answers for all subscriptions and all four Arc types at once; where it is refused, each
//! subscription's list of machines serves instead.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::hash::BuildHasher as _;
use std::str::FromStr;

use azure_core::http::Url;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tracing::info;

use crate::azure::arm::{Arm, ArmError, ErrorResponse};
use crate::azure::json::{or_default, text};
use crate::azure::resource_id::{ResourceId, ResourceIdError, segment};

/// Azure/azure-rest-api-specs, hybridcompute, stable.
const MACHINES_VERSION: &str = "2024-07-10";
/// What az asks for virtual machines of VMware with (azure-cli-extensions `target_os_utils.py`); no source tells of the
/// other types.
const VIRTUAL_MACHINES_VERSION: &str = "2022-07-15-preview";
/// The one stable version of Microsoft.ResourceGraph.
const GRAPH_VERSION: &str = "2021-03-01";
/// Azure/azure-rest-api-specs, subscriptions.
const SUBSCRIPTIONS_VERSION: &str = "2022-12-01";

/// The list of all resources, as azure-powershell was recorded with it (`TestArcPortFromRSTags.json`).
const RESOURCES_VERSION: &str = "2018-05-01";
/// The Arc machines that Microsoft.HybridCompute's own list does not hold.
const OTHER_TYPES: &str = "resourceType eq 'Microsoft.ConnectedVMwarevSphere/virtualMachines' \
    or resourceType eq 'Microsoft.ScVmm/virtualMachines' or resourceType eq 'Microsoft.AzureStackHCI/virtualMachines'";

/// All Arc machines that the identity may read; ordered by a unique column, so that pages do not overlap.
const QUERY: &str = "resources \
    | where type in~ ('microsoft.hybridcompute/machines', 'microsoft.connectedvmwarevsphere/virtualmachines', \
      'microsoft.scvmm/virtualmachines', 'microsoft.azurestackhci/virtualmachines') \
    | project id, name, tags, properties | order by id asc";
/// Rows of a Resource Graph page: the most there are.
const PAGE: usize = 1000;
/// The most pages of one list that are read: a million machines from Resource Graph, more than any tenant has. A server
/// that always names a next page must not keep arcssh for ever.
const MAX_PAGES: usize = 1000;

/// An Arc machine, as far as arcssh wants to know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Machine {
    /// Its resource ID, its name in the spelling that Azure keeps.
    pub(crate) id: ResourceId,
    /// A GUID that stays with the machine as long as it is onboarded, whatever its name.
    pub(crate) vm_id: Option<String>,
    /// `Connected`, `Disconnected`, `Error`, `Expired`, …: an open set.
    pub(crate) status: String,
    /// Version of the Connected Machine agent, four numbers.
    pub(crate) agent_version: String,
    /// `linux` or `windows`, in lower case.
    pub(crate) os: String,
    /// When the status last changed, ISO 8601 in UTC.
    pub(crate) last_status_change: String,
    /// Its tags.
    pub(crate) tags: BTreeMap<String, String>,
    /// Its region; only [`show`] tells.
    pub(crate) location: String,
    /// `VMware`, `SCVMM`, `HCI`, `AWS`, … where it is known what the machine runs on; only [`show`] tells.
    pub(crate) kind: String,
    /// Whether its agent talks to Azure over a private link.
    pub(crate) is_private_link: bool,
}

impl Machine {
    /// A machine of which no more is known than its ID.
    pub(crate) fn from_id(id: ResourceId) -> Self {
        machine(&json!({ "id": id.to_string() })).expect("an ID is what a row needs")
    }
}

/// One machine by its ID. `None` where the identity may not read it, or its type is asked for with another version: that
/// does not keep it from connecting, and no source says that the login roles cover this call.
pub(crate) async fn show(arm: &Arm, id: &ResourceId) -> Result<Option<Machine>, ArmError> {
    let is_server = id.namespace == "Microsoft.HybridCompute";
    let version = if is_server { MACHINES_VERSION } else { VIRTUAL_MACHINES_VERSION };
    let is_hidden = |refusal: &ErrorResponse| {
        refusal.is_forbidden() || !is_server && refusal.code == "NoRegisteredProviderFound"
    };
    match arm.get(&id.segments(), &[("api-version", version)]).await {
        Ok(row) => Ok(machine(&row)),
        Err(ArmError::Refused(refusal)) if is_hidden(&refusal) => Ok(None),
        Err(error) => Err(error),
    }
}

/// What Azure installs and keeps on a machine.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Extension {
    #[serde(default, deserialize_with = "or_default")]
    properties: ExtensionProperties,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ExtensionProperties {
    publisher: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
    provisioning_state: Option<String>,
}

impl Extension {
    /// Whether it is the one that lets Entra ID's users in. Microsoft's guide installs it under another name, so that
    /// publisher and type decide (azure-docs `ssh-arc-overview.md`).
    pub(crate) fn is_entra_login(&self) -> bool {
        let is = |text: &Option<String>, wanted: &str| {
            text.as_ref().is_some_and(|text| text.eq_ignore_ascii_case(wanted))
        };
        is(&self.properties.publisher, "Microsoft.Azure.ActiveDirectory")
            && is(&self.properties.kind, "AADSSHLoginForLinux")
    }

    /// `Succeeded`, `Failed`, `Creating`, …: an open set.
    pub(crate) fn state(&self) -> &str {
        self.properties.provisioning_state.as_deref().unwrap_or_default()
    }
}

/// The extensions of a machine.
pub(crate) async fn extensions(arm: &Arm, id: &ResourceId) -> Result<Vec<Extension>, ArmError> {
    let mut path = id.segments().to_vec();
    path.push("extensions");
    pages(arm, &path, &[("api-version", MACHINES_VERSION)]).await
}

/// All Arc machines of the given subscriptions, or of all that the identity sees.
pub(crate) async fn list(arm: &Arm, subscriptions: &[String]) -> Result<Vec<Machine>, ArmError> {
    match graph(arm, subscriptions).await {
        Err(error) if affects_one_request(&error) || matches!(error, ArmError::UnexpectedAnswer { .. }) => {
            info!("Resource Graph is of no use here ({error}); asking each subscription");
            by_subscription(arm, subscriptions).await
        }
        result => result,
    }
}

/// Whether this call alone is refused: others may be answered.
fn affects_one_request(error: &ArmError) -> bool {
    matches!(error, ArmError::Refused(refusal) if !matches!(refusal.status, 401 | 429))
}

async fn graph(arm: &Arm, subscriptions: &[String]) -> Result<Vec<Machine>, ArmError> {
    let path = ["providers", "Microsoft.ResourceGraph", "resources"];
    let mut machines = Vec::new();
    let mut seen = VisitedPages::default();
    let mut skip_token: Option<String> = None;
    loop {
        let mut body = json!({ "query": QUERY, "options": { "resultFormat": "objectArray", "$top": PAGE } });
        if !subscriptions.is_empty() {
            body["subscriptions"] = json!(subscriptions);
        }
        if let Some(token) = &skip_token {
            body["options"]["$skipToken"] = json!(token);
        }
        let page: GraphPage = arm.post(&path, &[("api-version", GRAPH_VERSION)], &body).await?.json()?;
        machines.extend(page.data.iter().filter_map(machine));
        skip_token = page.skip_token.filter(|token| !token.is_empty());
        match &skip_token {
            Some(token) => seen.note(token)?,
            None => return Ok(machines),
        }
    }
}

async fn by_subscription(arm: &Arm, subscriptions: &[String]) -> Result<Vec<Machine>, ArmError> {
    let version = ("api-version", SUBSCRIPTIONS_VERSION);
    let subscriptions = match subscriptions {
        [] => pages::<Subscription>(arm, &["subscriptions"], &[version]).await?,
        given => given.iter().map(|id| Subscription { subscription_id: id.clone() }).collect(),
    };
    let (mut machines, mut refusal) = (Vec::new(), None);
    for Subscription { subscription_id } in subscriptions {
        let path = ["subscriptions", &subscription_id, "providers", "Microsoft.HybridCompute", "machines"];
        match pages::<Value>(arm, &path, &[("api-version", MACHINES_VERSION)]).await {
            Ok(rows) => machines.extend(rows.iter().filter_map(machine)),
            // One subscription whose machines may not be listed, or that knows no such type, hides no other's.
            Err(error) if affects_one_request(&error) => refusal = Some(error),
            Err(error) => return Err(error),
        }
        let others = other_types(arm, &subscription_id).await;
        let others = others.iter().filter_map(machine);
        machines.extend(others.filter(|other| other.id.namespace != "Microsoft.HybridCompute"));
    }
    match refusal {
        Some(error) if machines.is_empty() => Err(error),
        _ => Ok(machines),
    }
}

/// Virtual machines of VMware, SCVMM and Azure Local, by ID and tags alone. Whoever may not list them has none.
async fn other_types(arm: &Arm, subscription: &str) -> Vec<Value> {
    let query = [("$filter", OTHER_TYPES), ("api-version", RESOURCES_VERSION)];
    pages(arm, &["subscriptions", subscription, "resources"], &query).await.unwrap_or_else(|error| {
        info!("only Arc-enabled servers are listed: {error}");
        Vec::new()
    })
}

/// How many subscriptions the identity sees, a page of them at the most, and when ARM answered by its own clock.
pub(crate) async fn subscriptions(arm: &Arm) -> Result<(usize, Option<u64>), ArmError> {
    let answer = arm.read(&["subscriptions"], &[("api-version", SUBSCRIPTIONS_VERSION)]).await?;
    Ok((answer.json::<Page<Subscription>>()?.value.len(), answer.date))
}

/// All pages of a list: `{"value":[…],"nextLink"?}`, where `nextLink` is followed as it stands.
pub(super) async fn pages<T: DeserializeOwned>(
    arm: &Arm,
    path: &[&str],
    query: &[(&str, &str)],
) -> Result<Vec<T>, ArmError> {
    let mut page: Page<T> = arm.get(path, query).await?;
    let mut all = page.value;
    let mut seen = VisitedPages::default();
    while let Some(next) = page.next_link.filter(|link| !link.is_empty()) {
        seen.note(&next)?;
        let next =
            Url::parse(&next).map_err(|error| arm.unexpected(format!("nextLink is not a URL: {error}")))?;
        page = arm.get_url(next).await?;
        all.append(&mut page.value);
    }
    Ok(all)
}

/// The pages that a list has led to, by their hashes: a link may be megabytes long.
#[derive(Default)]
struct VisitedPages(HashSet<u64>);

impl VisitedPages {
    /// Notes the next page.
    ///
    /// # Errors
    /// It was there before, or there are more than [`MAX_PAGES`].
    fn note(&mut self, page: &str) -> Result<(), ArmError> {
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
struct GraphPage {
    #[serde(deserialize_with = "or_default")]
    data: Vec<Value>,
    #[serde(rename = "$skipToken")]
    skip_token: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Subscription {
    subscription_id: String,
}

/// A machine as ARM and Resource Graph both show it; `None` for what is no Arc machine, should a list hold such. Whatever is
/// null or of another form than the specification says is not known: many fields are null for a machine that is not
/// connected.
fn machine(row: &Value) -> Option<Machine> {
    let at = |path: &str| row.pointer(path)?.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    let first = |paths: &[&str]| paths.iter().find_map(|path| at(path)).unwrap_or_default();
    let is_id = |text: &String| text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    let tags = row["tags"].as_object().into_iter().flatten();
    Some(Machine {
        id: row["id"].as_str()?.parse().ok()?,
        vm_id: at("/properties/vmId").filter(is_id),
        // Virtual machines keep what their agent and their system are in profiles (azure-cli-extensions
        // `target_os_utils.py`).
        status: first(&["/properties/status", "/properties/guestAgentProfile/status"]),
        agent_version: first(&["/properties/agentVersion", "/properties/guestAgentProfile/agentVersion"]),
        // az ssh takes osName, else osType; a recording has the first without the second.
        os: first(&["/properties/osName", "/properties/osType", "/properties/osProfile/osType"])
            .to_lowercase(),
        last_status_change: first(&[
            "/properties/lastStatusChange",
            "/properties/guestAgentProfile/lastStatusChange",
        ]),
        tags: tags.map(|(key, value)| (key.clone(), text(value).unwrap_or_default())).collect(),
        location: first(&["/location"]),
        kind: first(&["/kind"]),
        is_private_link: at("/properties/privateLinkScopeResourceId").is_some(),
    })
}

/// What is typed to name a machine: an ID, a name, or a group and a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum MachineRef {
    /// A resource ID.
    Id(ResourceId),
    /// A name, with the group it must be in if one was given.
    Name {
        /// The resource group.
        group: Option<String>,
        /// The machine's name.
        name: String,
    },
}

impl FromStr for MachineRef {
    type Err = ResourceIdError;

    /// Anything with more than one slash is a resource ID, or none.
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
    /// Whether this machine is meant. Names of Azure resources are the same in any case.
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
