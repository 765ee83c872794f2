//! VM extensions of Arc-enabled servers: reading, installing and removing them (azure-rest-api-specs hybridcompute
//! 2024-07-10, `MachineExtensions`).

use std::fmt;
use std::time::Duration;

use azure_core::http::Url;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::azure::arm::{Arm, ArmError};
use crate::azure::hybrid_compute::{MACHINES_VERSION, is_windows, pages};
use crate::azure::json::text;
use crate::azure::resource_id::ResourceId;

const QUERY: [(&str, &str); 1] = [("api-version", MACHINES_VERSION)];

/// The code of ARM's error while another change of an extension of the same type is in progress (Microsoft's
/// `activate-pcore-license` quotes it with its message).
const IN_PROGRESS: &str = "HCRP409";

/// The properties of an extension that its owner sets, without the write-only `protectedSettings` (`MachineExtensionProperties`).
const SETTINGS: [&str; 7] = [
    "publisher",
    "type",
    "typeHandlerVersion",
    "autoUpgradeMinorVersion",
    "enableAutomaticUpgrade",
    "forceUpdateTag",
    "settings",
];

/// An extension that logins with ssh need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SshExtension {
    /// OpenSSH for Windows.
    Sshd,
    /// Logins with Entra ID, for Linux.
    Entra,
}

impl SshExtension {
    /// Returns the publisher (azure-docs `ssh-arc-overview.md`; azure-local `connect-arc-vm-using-ssh.md`).
    pub(crate) fn publisher(self) -> &'static str {
        match self {
            Self::Sshd => "Microsoft.Azure.OpenSSH",
            Self::Entra => "Microsoft.Azure.ActiveDirectory",
        }
    }

    /// Returns the type. The same documents install it without a version: Azure then selects the newest.
    pub(crate) fn kind(self) -> &'static str {
        match self {
            Self::Sshd => "WindowsOpenSSH",
            Self::Entra => "AADSSHLoginForLinux",
        }
    }

    /// Returns the name of the resource in the same documents.
    pub(crate) fn resource_name(self) -> &'static str {
        match self {
            Self::Sshd => "WindowsOpenSSH",
            Self::Entra => "AADSSHLogin",
        }
    }

    /// Returns the option of `arcssh setup` that installs it.
    pub(crate) fn option(self) -> &'static str {
        match self {
            Self::Sshd => "--sshd",
            Self::Entra => "--entra",
        }
    }

    /// Returns whether the extension is for an operating system. Logins with Entra ID on Windows are for remote desktop only
    /// (Microsoft Learn, "Sign in to an Azure Arc-enabled server using Microsoft Entra ID").
    pub(crate) fn fits(self, os: &str) -> bool {
        !os.is_empty() && is_windows(os) == (self == Self::Sshd)
    }
}

impl fmt::Display for SshExtension {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind())
    }
}

/// A VM extension of a machine, as ARM shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct Extension(Value);

impl Extension {
    /// Returns whether this is the extension. Its name is free, so publisher and type decide.
    pub(crate) fn is(&self, extension: SshExtension) -> bool {
        let is = |name: &str, expected: &str| {
            self.0["properties"][name].as_str().is_some_and(|value| value.eq_ignore_ascii_case(expected))
        };
        is("publisher", extension.publisher()) && is("type", extension.kind())
    }

    /// Returns the name of the resource.
    pub(crate) fn name(&self) -> &str {
        self.0["name"].as_str().unwrap_or_default()
    }

    /// `Succeeded`, `Failed`, `Creating`, …: an open set.
    pub(crate) fn state(&self) -> &str {
        self.0["properties"]["provisioningState"].as_str().unwrap_or_default()
    }

    /// Returns whether its last change has failed.
    pub(crate) fn has_failed(&self) -> bool {
        ["Failed", "Canceled"].iter().any(|state| self.state().eq_ignore_ascii_case(state))
    }

    /// Returns whether a change is in progress. An unknown state is one in progress.
    pub(crate) fn is_in_progress(&self) -> bool {
        !self.has_failed() && !self.state().is_empty() && !self.state().eq_ignore_ascii_case("Succeeded")
    }

    /// Returns the message of the extension itself, if there is one.
    pub(crate) fn message(&self) -> Option<String> {
        let status = &self.0["properties"]["instanceView"]["status"];
        let message = text(&status["message"]).or_else(|| text(&status["displayStatus"]));
        message.map(|message| message.trim().to_owned()).filter(|message| !message.is_empty())
    }

    /// Returns the body of a request that creates the extension as it was.
    pub(crate) fn request(&self) -> Value {
        let copy = |from: &Value, names: &[&str]| -> Map<String, Value> {
            let present = names.iter().filter(|name| !from[**name].is_null());
            present.map(|name| ((*name).to_owned(), from[*name].clone())).collect()
        };
        let mut body = copy(&self.0, &["location", "tags"]);
        body.insert("properties".to_owned(), copy(&self.0["properties"], &SETTINGS).into());
        body.into()
    }
}

/// Returns the body of a request that installs an extension.
pub(crate) fn request(extension: SshExtension, location: &str) -> Value {
    let properties = json!({ "publisher": extension.publisher(), "type": extension.kind() });
    json!({ "location": location, "properties": properties })
}

/// Lists the extensions of a machine.
pub(crate) async fn extensions(arm: &Arm, machine: &ResourceId) -> Result<Vec<Extension>, ArmError> {
    let mut path = machine.segments().to_vec();
    path.push("extensions");
    pages(arm, &path, &QUERY).await
}

/// Reads an extension; `None` if it does not exist.
pub(crate) async fn extension(
    arm: &Arm,
    machine: &ResourceId,
    name: &str,
) -> Result<Option<Extension>, ArmError> {
    match arm.get(&path(machine, name), &QUERY).await {
        Err(ArmError::Rejected(response)) if response.status == 404 => Ok(None),
        extension => extension.map(Some),
    }
}

/// A change that Azure has accepted.
#[derive(Debug)]
pub(crate) struct Operation {
    /// The URL of its state.
    url: Option<Url>,
    /// The time until the next poll.
    pub(crate) retry_after: Option<Duration>,
}

impl Operation {
    /// Returns the error of the operation, if it has failed. The state of an operation needs a permission of its own, so an
    /// error of the request counts as none.
    pub(crate) async fn error(&self, arm: &Arm) -> Option<String> {
        let state: Value = arm.get_url(self.url.clone()?).await.ok()?;
        let is_over = ["Failed", "Canceled"].iter().any(|end| state["status"] == **end);
        let error = &state["error"];
        is_over.then(|| text(&error["message"]).or_else(|| text(&error["code"])).unwrap_or_default())
    }
}

/// Creates an extension, or replaces its configuration.
pub(crate) async fn put_extension(
    arm: &Arm,
    machine: &ResourceId,
    name: &str,
    body: &Value,
) -> Result<Operation, ArmError> {
    let response = Box::pin(arm.put(&path(machine, name), &QUERY, body)).await?;
    Ok(Operation { url: response.operation, retry_after: response.retry_after })
}

/// Removes an extension from the machine.
pub(crate) async fn delete_extension(
    arm: &Arm,
    machine: &ResourceId,
    name: &str,
) -> Result<Operation, ArmError> {
    let response = Box::pin(arm.delete_later(&path(machine, name), &QUERY)).await?;
    Ok(Operation { url: response.operation, retry_after: response.retry_after })
}

/// Returns whether ARM rejects a change until another one is complete.
pub(crate) fn is_in_progress(error: &ArmError) -> bool {
    matches!(error, ArmError::Rejected(response) if response.status == 409 && &*response.code == IN_PROGRESS)
}

fn path<'a>(machine: &'a ResourceId, name: &'a str) -> Vec<&'a str> {
    let mut path = machine.segments().to_vec();
    path.extend(["extensions", name]);
    path
}

/// The properties of a machine that decide whether its agent installs an extension.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ExtensionPolicy {
    /// Whether the machine has a system-assigned managed identity; `None` if Azure does not show it.
    pub(crate) identity: Option<String>,
    /// `extensionsEnabled` is false.
    pub(crate) is_disabled: bool,
    /// The only extensions that the agent installs, as `publisher/type`, if there are any.
    allowlist: Vec<String>,
    /// The extensions that the agent does not install.
    blocklist: Vec<String>,
}

impl ExtensionPolicy {
    /// Reads the properties of a machine (`AgentConfiguration`; values are texts).
    pub(super) fn of(row: &Value) -> Self {
        let settings = &row["properties"]["agentConfiguration"];
        let list = |name: &str| {
            let all = settings[name].as_array().into_iter().flatten();
            let entry =
                |one: &Value| Some(format!("{}/{}", one["publisher"].as_str()?, one["type"].as_str()?));
            all.filter_map(entry).collect()
        };
        Self {
            identity: row["identity"]["type"].as_str().map(str::to_owned),
            is_disabled: text(&settings["extensionsEnabled"])
                .is_some_and(|on| on.eq_ignore_ascii_case("false")),
            allowlist: list("extensionsAllowList"),
            blocklist: list("extensionsBlockList"),
        }
    }

    /// Returns whether the machine has a system-assigned managed identity.
    pub(crate) fn has_identity(&self) -> bool {
        self.identity.as_ref().is_some_and(|kind| kind.contains("SystemAssigned"))
    }

    /// Returns whether the agent's allowlist lacks the extension.
    pub(crate) fn is_not_allowed(&self, extension: SshExtension) -> bool {
        !self.allowlist.is_empty() && !contains(&self.allowlist, extension)
    }

    /// Returns whether the agent's blocklist contains the extension.
    pub(crate) fn is_blocked(&self, extension: SshExtension) -> bool {
        contains(&self.blocklist, extension)
    }
}

fn contains(list: &[String], extension: SshExtension) -> bool {
    let entry = format!("{}/{}", extension.publisher(), extension.kind());
    list.iter().any(|one| one.eq_ignore_ascii_case(&entry))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_request_has_all_settings_of_the_extension_and_nothing_else() {
        let extension = Extension(json!({
            "id": "/x", "name": "mine", "type": "Microsoft.HybridCompute/machines/extensions", "location": "eastus",
            "tags": { "owner": "ops" }, "properties": {
                "publisher": "P", "type": "T", "typeHandlerVersion": "1.2", "enableAutomaticUpgrade": false,
                "settings": { "a": 1 }, "provisioningState": "Failed", "protectedSettings": null,
                "instanceView": { "status": { "message": " no\n" } },
            },
        }));
        assert_eq!(
            extension.request(),
            json!({
                "location": "eastus", "tags": { "owner": "ops" }, "properties": {
                    "publisher": "P", "type": "T", "typeHandlerVersion": "1.2", "enableAutomaticUpgrade": false,
                    "settings": { "a": 1 },
                },
            })
        );
        assert!(extension.has_failed() && !extension.is_in_progress());
        assert_eq!(extension.message().as_deref(), Some("no"));
    }

    #[test]
    fn an_extension_of_any_form_has_a_state() {
        for (form, in_progress) in [
            (json!(null), false),
            (json!({ "properties": null }), false),
            (json!({ "properties": { "provisioningState": "succeeded" } }), false),
            (json!({ "properties": { "provisioningState": "Failed" } }), false),
            (json!({ "properties": { "provisioningState": "Updating" } }), true),
        ] {
            let extension = Extension(form);
            assert_eq!(extension.is_in_progress(), in_progress, "{extension:?}");
            assert!(!extension.is(SshExtension::Sshd) && extension.message().is_none());
        }
    }

    #[test]
    fn the_agents_lists_are_compared_without_case() {
        let policy = |configuration: Value| {
            ExtensionPolicy::of(&json!({ "properties": { "agentConfiguration": configuration } }))
        };
        let listed = json!([{ "publisher": "microsoft.azure.openssh", "type": "windowsopenssh" }]);
        let allows = policy(json!({ "extensionsAllowList": listed }));
        assert!(!allows.is_not_allowed(SshExtension::Sshd) && allows.is_not_allowed(SshExtension::Entra));
        let blocks = policy(json!({ "extensionsBlockList": listed, "extensionsEnabled": "False" }));
        assert!(blocks.is_blocked(SshExtension::Sshd) && !blocks.is_blocked(SshExtension::Entra));
        assert!(blocks.is_disabled && !blocks.has_identity());
        let unknown = policy(json!(null));
        assert!(!unknown.is_disabled && !unknown.is_not_allowed(SshExtension::Sshd));
    }
}
