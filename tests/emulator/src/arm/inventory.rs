//! Subscriptions, resource providers, machines and lists of resources.

use std::sync::Arc;
use std::time::Instant;

use hyper::Method;
use serde_json::{Value, json};

use crate::arm::error::ArmError;
use crate::arm::path::{ProviderPath, Scope};
use crate::arm::reply::Reply;
use crate::arm::role::Role;
use crate::arm::{Arm, CONNECTIVITY_VERSIONS, HYBRID_CONNECTIVITY, require_method};
use crate::clock;
use crate::encoding::{encode, is_one_of};
use crate::entra::TENANT;
use crate::journal::lock;
use crate::machine::{Machine, MachineState, RESOURCE_TYPES, resource_id};
use crate::server::Call;

/// The managed identity of every machine.
const MACHINE_PRINCIPAL: &str = "ac41e000-0000-4000-8000-000000000001";

/// The default number of machines of a page.
const LIST_PAGE: usize = 100;

/// A machine, with fields of the recorded GET (azure-powershell TestGetArcConfig.json).
pub(crate) fn machine(machine: &MachineState) -> Value {
    let facts = &machine.facts;
    let identity = json!({ "type": "SystemAssigned", "principalId": MACHINE_PRINCIPAL, "tenantId": TENANT });
    json!({
        "id": machine.resource_id(), "name": facts.name, "location": facts.location, "tags": facts.tags,
        "identity": if facts.has_identity { identity } else { Value::Null },
        "type": facts.resource_type, "kind": null, "properties": properties(machine), "resources": [],
    })
}

fn properties(machine: &MachineState) -> Value {
    let server = machine.facts.resource_type == RESOURCE_TYPES[0];
    let mut properties =
        if server { server_properties(machine) } else { virtual_machine_properties(machine) };
    if machine.facts.private_link {
        let Machine { subscription, resource_group, .. } = &machine.facts;
        let scope_type = "Microsoft.HybridCompute/privateLinkScopes";
        properties["privateLinkScopeResourceId"] =
            resource_id(subscription, resource_group, scope_type, "scope").into();
    }
    if let Some(vm_id) = machine.vm_id() {
        properties["vmId"] = vm_id.into();
    }
    properties
}

fn server_properties(machine: &MachineState) -> Value {
    let facts = &machine.facts;
    let mut configuration = facts.agent_configuration.clone();
    configuration["incomingConnectionsPorts"] = json!([]);
    configuration["configMode"] = json!(facts.config_mode);
    json!({
        "provisioningState": "Succeeded", "agentVersion": facts.agent_version, "status": machine.status(),
        "lastStatusChange": status_change(machine),
        "errorDetails": [], "displayName": facts.name, "machineFqdn": facts.name,
        "osName": facts.os_name, "osType": facts.os_name, "osProfile": { "computerName": facts.name },
        "agentConfiguration": configuration,
    })
}

/// The properties of a VMware virtual machine that azure-cli-extensions `src/ssh/azext_ssh/target_os_utils.py` reads. The
/// same for the other two types of virtual machine is an assumption.
fn virtual_machine_properties(machine: &MachineState) -> Value {
    let facts = &machine.facts;
    json!({
        "provisioningState": "Succeeded",
        "osProfile": { "computerName": facts.name, "osType": facts.os_name },
        "guestAgentProfile": {
            "agentVersion": facts.agent_version, "status": machine.status(), "lastStatusChange": status_change(machine),
        },
    })
}

fn status_change(machine: &MachineState) -> String {
    format!("{}.0000000Z", clock::timestamp(machine.status_since()))
}

impl Arm {
    /// `GET /subscriptions`: the subscriptions in which the caller has any permission (azure-rest-api-specs resources
    /// 2022-12-01 `subscriptions.json`).
    pub(crate) fn subscription_list(&self, call: &Call) -> Result<Reply, ArmError> {
        require_method(call, &Method::GET)?;
        let tenant = self.entra.subscription_tenant;
        let all: Vec<Value> = self
            .visible_subscriptions()
            .into_iter()
            .enumerate()
            .map(|one| subscription(one, tenant))
            .collect();
        Ok(Reply::ok(&json!({ "count": { "type": "Total", "value": all.len() }, "value": all })))
    }

    /// Returns the subscriptions in which the caller has any permission.
    pub(crate) fn visible_subscriptions(&self) -> Vec<&str> {
        if *lock(&self.role) == Role::None { Vec::new() } else { self.subscriptions() }
    }

    /// `GET /subscriptions/{sub}/providers/{namespace}`. All providers but Microsoft.HybridConnectivity are registered.
    pub(crate) fn provider(&self, path: &ProviderPath) -> Result<Reply, ArmError> {
        let is_connectivity = path.namespace.eq_ignore_ascii_case(HYBRID_CONNECTIVITY);
        let state = if is_connectivity {
            lock(&self.registration).current().to_owned()
        } else {
            "Registered".to_owned()
        };
        Ok(Reply::ok(&json!({
            "id": format!("/subscriptions/{}/providers/{}", path.subscription, path.namespace),
            "namespace": path.namespace,
            "registrationPolicy": "RegistrationRequired",
            "registrationState": state,
            "resourceTypes": [
                { "resourceType": "endpoints", "locations": ["East US"], "apiVersions": CONNECTIVITY_VERSIONS }
            ],
            "providerAuthorizationConsentState": "NotSpecified",
        })))
    }

    /// `POST …/register`. In Azure, a registration takes two to five minutes (Microsoft Learn, "SSH access to Azure
    /// Arc-enabled servers").
    pub(crate) fn register(&self, path: &ProviderPath) -> Result<Reply, ArmError> {
        if path.namespace.eq_ignore_ascii_case(HYBRID_CONNECTIVITY) {
            let mut registration = lock(&self.registration);
            if registration.current() != "Registered" {
                registration.state = "Registering".to_owned();
                registration.done = Some(Instant::now() + registration.delay);
            }
        }
        self.provider(path)
    }

    /// Answers with one page of the machines of one type in a subscription or a resource group.
    pub(crate) fn machine_list(&self, call: &Call, scope: &Scope) -> Result<Reply, ArmError> {
        let machines = self.in_scope(scope)?;
        let size = self.page_size.unwrap_or(LIST_PAGE);
        let skip = call.query.value("$skiptoken").and_then(|token| token.parse().ok()).unwrap_or(0);
        let page: Vec<Value> = machines.iter().skip(skip).take(size).map(|m| machine(m)).collect();
        let mut body = json!({ "value": page });
        if skip + size < machines.len() {
            let version = encode(call.query.value("api-version").unwrap_or_default());
            let next = skip + size;
            let link =
                format!("https://{}{}?api-version={version}&$skiptoken={next}", self.address, call.path);
            body["nextLink"] = link.into();
        }
        Ok(Reply::ok(&body))
    }

    fn in_scope(&self, scope: &Scope) -> Result<Vec<&MachineState>, ArmError> {
        let subscription = &scope.subscription;
        let machines: Vec<&Arc<MachineState>> = match &scope.resource_group {
            Some(group) => self.in_group(subscription, group)?,
            None => {
                let all = self.machines.iter();
                all.filter(|m| m.facts.subscription.eq_ignore_ascii_case(subscription)).collect()
            }
        };
        let machines = machines.into_iter().map(|machine| &**machine);
        Ok(machines
            .filter(|m| scope.resource_type.is_none_or(|kind| m.facts.resource_type == kind))
            .collect())
    }

    /// `GET …/resources?$filter=name eq '…' and (resourceType eq '…' or …)` in a subscription or a resource group. Without a
    /// match the list is empty (recorded: azure-powershell TestArcPortFromRSTags.json).
    pub(crate) fn resources(&self, call: &Call, scope: &Scope) -> Result<Reply, ArmError> {
        let filter = call.query.value("$filter").unwrap_or_default();
        let names: Vec<&str> = quoted_after(filter, "name eq ").collect();
        let types: Vec<&str> = quoted_after(filter, "resourceType eq ").collect();
        let is_allowed = |allowed: &[&str], value: &str| allowed.is_empty() || is_one_of(allowed, value);
        let found = self.in_scope(scope)?.into_iter().filter(|machine| self.readable(machine));
        let found =
            found.filter(|m| is_allowed(&names, &m.facts.name) && is_allowed(&types, m.facts.resource_type));
        let found: Vec<Value> = found.map(resource).collect();
        Ok(Reply::ok(&json!({ "value": found })))
    }
}

fn subscription((index, id): (usize, &str), tenant: &str) -> Value {
    json!({
        "id": format!("/subscriptions/{id}"), "subscriptionId": id, "tenantId": tenant, "state": "Enabled",
        "displayName": format!("Subscription {}", index + 1),
    })
}

fn resource(machine: &MachineState) -> Value {
    let facts = &machine.facts;
    json!({ "id": machine.resource_id(), "name": facts.name, "type": facts.resource_type, "location": facts.location })
}

/// Returns the texts in single quotes after each `marker`. Names of Azure resources contain no quotes.
fn quoted_after<'a>(text: &'a str, marker: &str) -> impl Iterator<Item = &'a str> {
    text.split(marker).skip(1).filter_map(|rest| Some(rest.strip_prefix('\'')?.split_once('\'')?.0))
}
