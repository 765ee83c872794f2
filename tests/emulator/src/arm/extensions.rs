//! VM extensions of Arc-enabled servers: `…/machines/{name}/extensions/{extension}`, and the operations that change them.
//!
//! Requests follow azure-rest-api-specs hybridcompute 2024-07-10. Answers follow the recorded sessions of azure-powershell
//! (`New-AzConnectedMachineExtension.Recording.json`, `Remove-AzConnectedMachineExtension.Recording.json`): 202 without a body
//! and with `Azure-AsyncOperation`, `Location` and `Retry-After`, then an operation that is `InProgress` until the machine's
//! agent reports the result.

use std::time::{Duration, Instant};

use hyper::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::arm::error::{self, ArmError};
use crate::arm::path::MachinePath;
use crate::arm::reply::Reply;
use crate::arm::{Arm, json_body, require_method};
use crate::clock;
use crate::journal::lock;
use crate::machine::MachineState;
use crate::server::Call;

/// The recorded `Retry-After`, in seconds. It is shorter if the operations of the emulator are.
const RETRY_AFTER: u64 = 15;

/// The properties of a request that an answer shows. `protectedSettings` is write-only.
const SHOWN: [&str; 7] = [
    "publisher",
    "type",
    "typeHandlerVersion",
    "autoUpgradeMinorVersion",
    "enableAutomaticUpgrade",
    "forceUpdateTag",
    "settings",
];

/// The extensions of a machine, and the operations on them.
#[derive(Debug, Default)]
pub(crate) struct Extensions {
    pub(crate) all: Vec<Extension>,
    operations: Vec<Operation>,
    /// How long an agent needs for an operation.
    pub(crate) delay: Duration,
    /// The messages of the next installations, which fail.
    pub(crate) failures: Vec<String>,
}

/// An extension of a machine.
#[derive(Clone, Debug)]
pub(crate) struct Extension {
    pub(crate) name: String,
    pub(crate) tags: Value,
    /// The properties of the request.
    pub(crate) properties: Value,
    pub(crate) state: String,
    /// `instanceView.status.message`.
    pub(crate) message: Option<String>,
}

/// A change that the agent makes.
#[derive(Clone, Debug)]
struct Operation {
    id: String,
    extension: String,
    started: u64,
    due: Instant,
    is_removal: bool,
    /// The message of the agent if it fails.
    failure: Option<String>,
    /// `InProgress`, `Succeeded` or `Failed`.
    status: &'static str,
}

impl Extension {
    fn is_named(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name)
    }

    fn is_in_progress(&self) -> bool {
        ["Creating", "Updating", "Deleting"].contains(&self.state.as_str())
    }

    fn kind(&self) -> &str {
        self.properties["type"].as_str().unwrap_or_default()
    }

    pub(crate) fn json(&self, machine: &MachineState) -> Value {
        let mut properties = json!({ "provisioningState": self.state });
        for name in SHOWN {
            if !self.properties[name].is_null() {
                properties[name] = self.properties[name].clone();
            }
        }
        if let Some(message) = &self.message {
            let (code, level) = if self.state == "Failed" { ("1", "Error") } else { ("0", "Information") };
            properties["instanceView"] = json!({
                "name": self.name, "type": self.kind(), "typeHandlerVersion": properties["typeHandlerVersion"],
                "status": { "code": code, "level": level, "message": message },
            });
        }
        let id = format!("{}/extensions/{}", machine.resource_id(), self.name);
        json!({
            "id": id, "name": self.name, "type": "Microsoft.HybridCompute/machines/extensions",
            "location": machine.facts.location, "tags": self.tags, "properties": properties,
        })
    }
}

impl Extensions {
    pub(crate) fn new(all: Vec<Extension>) -> Self {
        Self { all, ..Self::default() }
    }

    /// Ends the operations that the agent has completed. An agent that does not run completes none.
    fn advance(&mut self, is_online: bool) {
        let now = Instant::now();
        let Self { all, operations, .. } = self;
        let is_due = |operation: &&mut Operation| {
            operation.status == "InProgress" && operation.due <= now && is_online
        };
        for operation in operations.iter_mut().filter(is_due) {
            operation.status = if operation.failure.is_some() { "Failed" } else { "Succeeded" };
            let is_removed = operation.is_removal && operation.failure.is_none();
            all.retain(|extension| !(is_removed && extension.is_named(&operation.extension)));
            let extension = all.iter_mut().find(|extension| extension.is_named(&operation.extension));
            if let Some(extension) = extension {
                operation.status.clone_into(&mut extension.state);
                let done = || "Extension Message: the extension is enabled".to_owned();
                extension.message = Some(operation.failure.clone().unwrap_or_else(done));
            }
        }
    }

    fn start(&mut self, machine: &MachineState, extension: &str, is_removal: bool) -> Operation {
        let failure = (!is_removal && !self.failures.is_empty()).then(|| self.failures.remove(0));
        let operation = Operation {
            id: Uuid::new_v4().to_string(),
            extension: extension.to_owned(),
            started: machine.clock().unix_seconds(),
            due: Instant::now() + self.delay,
            is_removal,
            failure: failure
                .or_else(|| if is_removal { None } else { blocked(machine, &self.all, extension) }),
            status: "InProgress",
        };
        self.operations.push(operation.clone());
        operation
    }
}

/// Returns the message of an agent whose settings do not allow the extension. The settings and their effect are in
/// azure-docs `security-extensions.md`; no source has the message.
fn blocked(machine: &MachineState, all: &[Extension], name: &str) -> Option<String> {
    let extension = all.iter().find(|extension| extension.is_named(name))?;
    let settings = &machine.facts.agent_configuration;
    let is_listed = |list: &str| {
        let is_same = |one: &Value| {
            let is = |field: &str| {
                let text = |value: &Value| value[field].as_str().unwrap_or_default().to_lowercase();
                text(one) == text(&extension.properties)
            };
            is("publisher") && is("type")
        };
        settings[list].as_array().is_some_and(|list| list.iter().any(is_same))
    };
    let has_allowlist = settings["extensionsAllowList"].as_array().is_some_and(|list| !list.is_empty());
    let is_blocked = settings["extensionsEnabled"] == "false"
        || machine.facts.config_mode == Some("monitor")
        || has_allowlist && !is_listed("extensionsAllowList")
        || is_listed("extensionsBlockList");
    is_blocked.then(|| "The agent's configuration does not allow this extension.".to_owned())
}

impl Arm {
    /// `GET …/extensions`.
    pub(crate) fn extension_list(&self, call: &Call, machine: &MachineState) -> Result<Reply, ArmError> {
        require_method(call, &Method::GET)?;
        let all = current(machine).all.iter().map(|extension| extension.json(machine)).collect::<Vec<_>>();
        Ok(Reply::ok(&json!({ "value": all })))
    }

    /// `…/extensions/{name}`.
    pub(crate) fn extension(
        &self,
        call: &Call,
        path: &MachinePath,
        machine: &MachineState,
        name: &str,
    ) -> Result<Reply, ArmError> {
        let mut extensions = current(machine);
        let found = extensions.all.iter().position(|extension| extension.is_named(name));
        match (call.method.as_str(), found) {
            ("GET", Some(found)) => Ok(Reply::ok(&extensions.all[found].json(machine))),
            ("GET", None) => Err(error::extension_not_found(path, name)),
            ("PUT", found) => {
                let body = json_body(call)?;
                check(&body)?;
                let kind = body["properties"]["type"].as_str().unwrap_or_default();
                require_idle(&extensions, kind, found)?;
                let (tags, properties) = (body["tags"].clone(), body["properties"].clone());
                let unchanged =
                    found.map(|found| &extensions.all[found]).filter(|old| old.properties == properties);
                // Azure passes no new configuration to the agent, so the failure remains.
                let old_failure =
                    unchanged.filter(|old| old.state == "Failed").and_then(|old| old.message.clone());
                let state = if found.is_some() { "Updating" } else { "Creating" }.to_owned();
                let name = found.map_or(name, |found| &extensions.all[found].name).to_owned();
                let extension = Extension { name: name.clone(), tags, properties, state, message: None };
                match found {
                    Some(found) => extensions.all[found] = extension,
                    None => extensions.all.push(extension),
                }
                if let Some(failure) = old_failure {
                    extensions.failures.insert(0, failure);
                }
                let operation = extensions.start(machine, &name, false);
                Ok(self.accepted(machine, &operation, extensions.delay))
            }
            ("DELETE", Some(found)) => {
                let kind = extensions.all[found].kind().to_owned();
                require_idle(&extensions, &kind, Some(found))?;
                "Deleting".clone_into(&mut extensions.all[found].state);
                let operation = extensions.start(machine, name, true);
                Ok(self.accepted(machine, &operation, extensions.delay))
            }
            ("DELETE", None) => Ok(Reply::empty(204)),
            _ => Err(error::method_not_allowed()),
        }
    }

    /// Returns the recorded 202.
    fn accepted(&self, machine: &MachineState, operation: &Operation, delay: Duration) -> Reply {
        let url = |kind: &str| {
            let facts = &machine.facts;
            format!(
                "https://{}/subscriptions/{}/providers/Microsoft.HybridCompute/locations/{}/{kind}/{}?api-version=2024-07-10",
                self.address, facts.subscription, facts.location, operation.id
            )
        };
        let retry_after = delay.as_secs().clamp(1, RETRY_AFTER);
        Reply::empty(202)
            .header("Location", &url("operationresults"))
            .header("Azure-AsyncOperation", &url("operationstatus"))
            .header("Retry-After", &retry_after.to_string())
    }

    /// `GET …/locations/{location}/operationstatus/{id}`.
    pub(crate) fn operation_status(&self, call: &Call, id: &str) -> Result<Reply, ArmError> {
        require_method(call, &Method::GET)?;
        let found = self.machines.iter().find_map(|machine| {
            let extensions = current(machine);
            let operation = extensions.operations.iter().find(|operation| operation.id == id)?.clone();
            let extension = extensions.all.iter().find(|extension| extension.is_named(&operation.extension));
            Some((extension.map(|extension| extension.json(machine)), operation))
        });
        let (extension, operation) = found.ok_or_else(|| error::invalid_path(&call.path))?;
        let time = format!("{}.0000000Z", clock::timestamp(operation.started));
        let mut body = json!({ "name": operation.id, "status": operation.status, "startTime": time });
        match (operation.status, operation.failure) {
            ("Succeeded", _) => body["properties"] = extension.unwrap_or_default(),
            // ARM's form of a failed operation (azure-resource-manager-rpc, "Asynchronous Operations").
            ("Failed", failure) => {
                body["error"] = json!({ "code": "VMExtensionProvisioningError", "message": failure });
            }
            _ => {}
        }
        Ok(Reply::ok(&body))
    }
}

/// Returns the extensions after the agent's work so far.
fn current(machine: &MachineState) -> std::sync::MutexGuard<'_, Extensions> {
    let mut extensions = lock(&machine.extensions);
    extensions.advance(*machine.online.borrow());
    extensions
}

/// Rejects a body without the properties that the specification requires. No source has the text for a missing publisher.
fn check(body: &Value) -> Result<(), ArmError> {
    if !body["location"].is_string() {
        let text = "The location property is required for this definition.";
        return Err(ArmError::new(400, "LocationRequired", text));
    }
    let is_text = |name: &str| body["properties"][name].is_string();
    if is_text("publisher") && is_text("type") {
        return Ok(());
    }
    Err(error::bad_request("The properties 'publisher' and 'type' of an extension are required."))
}

/// Rejects a change while another one of this type is in progress.
fn require_idle(extensions: &Extensions, kind: &str, found: Option<usize>) -> Result<(), ArmError> {
    let mut others = extensions.all.iter().filter(|other| other.kind().eq_ignore_ascii_case(kind));
    let named = found.map(|found| &extensions.all[found]);
    if others.any(Extension::is_in_progress) || named.is_some_and(Extension::is_in_progress) {
        return Err(error::extension_in_progress(kind));
    }
    Ok(())
}
