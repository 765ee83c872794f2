//! Providers, machines, resource lists and Resource Graph: everything that finds a machine.

use std::time::Instant;

use hyper::Method;
use serde_json::{Value, json};

use crate::arm::error::ArmError;
use crate::arm::path::{ProviderPath, Scope};
use crate::arm::reply::Reply;
use crate::arm::{Arm, CONNECTIVITY_VERSIONS, HYBRID_CONNECTIVITY, error};
use crate::clock;
use crate::encoding::encode;
use crate::entra::TENANT;
use crate::journal::lock;
use crate::machine::{MachineState, RESOURCE_TYPE, SUBSCRIPTION};
use crate::server::Call;

/// The managed identity of every machine.
const MACHINE_PRINCIPAL: &str = "ac41e000-0000-4000-8000-000000000001";

/// A machine, with the fields of the recorded GET (azure-powershell TestGetArcConfig.json) that a client may read.
pub(crate) fn machine(machine: &MachineState) -> Value {
    let facts = &machine.facts;
    json!({
        "id": machine.resource_id(), "name": facts.name, "location": facts.location, "tags": {},
        "identity": { "type": "SystemAssigned", "principalId": MACHINE_PRINCIPAL, "tenantId": TENANT },
        "type": RESOURCE_TYPE, "kind": null,
        "properties": {
            "provisioningState": "Succeeded", "agentVersion": facts.agent_version, "status": machine.status(),
            "lastStatusChange": format!("{}.0000000Z", clock::timestamp(clock::unix_seconds())),
            "errorDetails": [], "displayName": facts.name, "machineFqdn": facts.name,
            "osName": facts.os_name, "osType": facts.os_name, "osProfile": { "computerName": facts.name },
            "agentConfiguration": { "incomingConnectionsPorts": [], "configMode": "full" },
        },
        "resources": [],
    })
}

impl Arm {
    /// `GET /subscriptions/{sub}/providers/{namespace}`. Every other provider is registered.
    pub(crate) fn provider(&self, path: &ProviderPath) -> Result<Reply, ArmError> {
        let ours = path.namespace.eq_ignore_ascii_case(HYBRID_CONNECTIVITY);
        let state =
            if ours { lock(&self.registration).current().to_owned() } else { "Registered".to_owned() };
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

    /// `POST …/register`: it takes its time, two to five minutes in Azure (Microsoft Learn, "SSH access to Azure
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

    /// The machines of a subscription or a resource group, in pages.
    pub(crate) fn machine_list(&self, call: &Call, scope: &Scope) -> Result<Reply, ArmError> {
        let machines = self.in_scope(scope)?;
        let skip = call.query.value("$skiptoken").and_then(|token| token.parse().ok()).unwrap_or(0);
        let page: Vec<Value> = machines.iter().skip(skip).take(self.page_size).map(|m| machine(m)).collect();
        let mut body = json!({ "value": page });
        if skip + self.page_size < machines.len() {
            let version = encode(call.query.value("api-version").unwrap_or_default());
            let next = skip + self.page_size;
            let link =
                format!("https://{}{}?api-version={version}&$skiptoken={next}", self.address, call.path);
            body["nextLink"] = link.into();
        }
        Ok(Reply::ok(&body))
    }

    fn in_scope(&self, scope: &Scope) -> Result<Vec<&MachineState>, ArmError> {
        let Some(group) = &scope.resource_group else {
            return Ok(self.machines.iter().map(|m| &**m).collect());
        };
        let machines = self.machines.iter().map(|machine| &**machine);
        let found: Vec<_> = machines.filter(|m| m.facts.resource_group.eq_ignore_ascii_case(group)).collect();
        if found.is_empty() { Err(error::resource_group_not_found(group)) } else { Ok(found) }
    }

    /// `GET …/resourceGroups/{rg}/resources?$filter=name eq '…'`: not found is an empty list, not 404 (recorded).
    pub(crate) fn resources(&self, call: &Call, scope: &Scope) -> Result<Reply, ArmError> {
        let filter = call.query.value("$filter").unwrap_or_default();
        let name = quoted_after(filter, "name eq ").map(|name| name.replace("''", "'"));
        let found = self.in_scope(scope)?.into_iter();
        let found =
            found.filter(|m| name.as_ref().is_none_or(|name| m.facts.name.eq_ignore_ascii_case(name)));
        let found: Vec<Value> = found.map(resource).collect();
        Ok(Reply::ok(&json!({ "value": found })))
    }

    /// `POST /providers/Microsoft.ResourceGraph/resources` with one answer page. Of the query only `name =~ '…'` is
    /// understood, and the columns are always those of a machine.
    pub(crate) fn resource_graph(&self, call: &Call) -> Result<Reply, ArmError> {
        if call.method != Method::POST {
            return Err(error::method_not_allowed());
        }
        let body: Value = serde_json::from_slice(&call.body).unwrap_or_default();
        let name = body["query"].as_str().and_then(|query| quoted_after(query, "name =~ "));
        let readable = lock(&self.role).allows("Microsoft.HybridCompute/machines/read");
        let found = self.machines.iter().filter(|_| readable);
        let found =
            found.filter(|m| name.as_ref().is_none_or(|name| m.facts.name.eq_ignore_ascii_case(name)));
        let rows: Vec<Value> = found.map(|machine| row(machine)).collect();
        Ok(Reply::ok(&json!({
            "totalRecords": rows.len(), "count": rows.len(), "resultTruncated": "false", "data": rows, "facets": [],
        })))
    }
}

fn resource(machine: &MachineState) -> Value {
    let facts = &machine.facts;
    json!({ "id": machine.resource_id(), "name": facts.name, "type": RESOURCE_TYPE, "location": facts.location })
}

fn row(machine: &MachineState) -> Value {
    let facts = &machine.facts;
    json!({
        "id": machine.resource_id(), "name": facts.name, "type": RESOURCE_TYPE.to_ascii_lowercase(),
        "resourceGroup": facts.resource_group, "subscriptionId": SUBSCRIPTION, "location": facts.location,
        "kind": "", "status": machine.status(), "agentVersion": facts.agent_version,
        "osType": facts.os_name, "osName": facts.os_name,
    })
}

/// The text in single quotes after `marker`; a doubled quote is part of it.
fn quoted_after(text: &str, marker: &str) -> Option<String> {
    let quoted = text.split_once(marker)?.1.strip_prefix('\'')?;
    let mut end = 0;
    while let Some(quote) = quoted[end..].find('\'') {
        end += quote;
        if !quoted[end + 1..].starts_with('\'') {
            return Some(quoted[..end].to_owned());
        }
        end += 2;
    }
    None
}
