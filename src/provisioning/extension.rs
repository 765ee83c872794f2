//! The extensions that logins with ssh need: plans, changes, and the wait until the machine's agent has made them.

use std::fmt;
use std::time::Duration;

use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::azure::arm::{Arm, ArmError};
use crate::azure::hybrid_compute::extension::{
    Extension, Operation, SshExtension, delete_extension, extension, extensions, is_in_progress,
    put_extension, request,
};
use crate::azure::hybrid_compute::{Machine, show};
use crate::azure::rbac::{DELETE_EXTENSION, INSTALL_EXTENSION};
use crate::azure::resource_id::ResourceId;
use crate::provisioning::ProvisionError;

/// The pause between two requests for a state, if Azure sends no `Retry-After`.
const POLL_INTERVAL: Duration = Duration::from_secs(5);
/// The first agent with SSH (azure-docs `ssh-arc-overview.md`).
const FIRST_AGENT: [u64; 2] = [1, 31];

/// How to treat a machine for whose operating system no extension is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unfit {
    /// The user selected only such machines.
    Reject,
    /// Another machine of the selection gets an extension.
    Skip,
}

/// The change of one extension of a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ExtensionPlan {
    pub(crate) extension: SshExtension,
    machine: ResourceId,
    change: Change,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Change {
    /// The extension is not for the machine's operating system.
    Skip,
    Keep,
    /// Azure installs it already.
    Wait {
        name: String,
        state: String,
    },
    Install {
        name: String,
        body: Value,
    },
    /// Microsoft's guide removes an extension that has failed, and then installs it (Microsoft Learn, "Log in to a Linux
    /// virtual machine in Azure by using Microsoft Entra ID", exit code 22): an unchanged configuration is not tried again.
    Reinstall {
        name: String,
        body: Value,
        why: Option<String>,
    },
    Remove {
        name: String,
    },
}

/// Plans the extensions of a machine.
///
/// # Errors
/// [`ExtensionError`] if the machine's agent cannot install one; Azure rejects a request.
pub(crate) async fn plan_extensions(
    arm: &Arm,
    machine: &ResourceId,
    wanted: &[SshExtension],
    unfit: Unfit,
) -> Result<Vec<ExtensionPlan>, ProvisionError> {
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let shown = show(arm, machine).await?.filter(|shown| !shown.os.is_empty());
    let shown = shown.ok_or(ExtensionError::UnknownSystem)?;
    let plan = |extension: &SshExtension, change| ExtensionPlan {
        extension: *extension,
        machine: machine.clone(),
        change,
    };
    let fitting: Vec<&SshExtension> = wanted.iter().filter(|extension| extension.fits(&shown.os)).collect();
    match (&fitting[..], unfit) {
        ([], Unfit::Reject) => return Err(ExtensionError::Unfit(wanted[0]).into()),
        ([], Unfit::Skip) => {
            return Ok(wanted.iter().map(|extension| plan(extension, Change::Skip)).collect());
        }
        _ => {}
    }
    let existing = extensions(arm, machine).await?;
    let plans = fitting.into_iter().map(|extension| {
        let change = Change::of(*extension, &shown, &existing);
        if change != Change::Keep {
            require(*extension, &shown)?;
        }
        Ok(plan(extension, change))
    });
    plans.collect()
}

/// Plans the removal of extensions that a machine has.
///
/// # Errors
/// Azure rejects a request.
pub(crate) async fn plan_removal(
    arm: &Arm,
    machine: &ResourceId,
    unwanted: &[SshExtension],
) -> Result<Vec<ExtensionPlan>, ArmError> {
    if unwanted.is_empty() {
        return Ok(Vec::new());
    }
    let existing = extensions(arm, machine).await?;
    let found = |extension: &SshExtension| existing.iter().find(|existing| existing.is(*extension));
    let plans = unwanted.iter().filter_map(|extension| {
        let change = Change::Remove { name: found(extension)?.name().to_owned() };
        Some(ExtensionPlan { extension: *extension, machine: machine.clone(), change })
    });
    Ok(plans.collect())
}

impl Change {
    fn of(extension: SshExtension, machine: &Machine, existing: &[Extension]) -> Self {
        let Some(found) = existing.iter().find(|existing| existing.is(extension)) else {
            // A PUT replaces the extension with its name, whatever that extension is.
            let is_free =
                |name: &&str| !existing.iter().any(|existing| existing.name().eq_ignore_ascii_case(name));
            let names = [extension.resource_name(), extension.kind(), "arcssh"];
            let name = names.into_iter().find(is_free).unwrap_or("arcssh-extension").to_owned();
            return Self::Install { name, body: request(extension, &machine.location) };
        };
        let name = found.name().to_owned();
        match found.state() {
            // Azure accepts the request when the removal is complete.
            state if state.eq_ignore_ascii_case("Deleting") => Self::Install { name, body: found.request() },
            state if found.is_in_progress() => Self::Wait { name, state: state.to_owned() },
            _ if found.has_failed() => Self::Reinstall { name, body: found.request(), why: found.message() },
            _ => Self::Keep,
        }
    }
}

/// Checks that the machine's agent can install the extension.
fn require(extension: SshExtension, machine: &Machine) -> Result<(), ExtensionError> {
    let policy = &machine.extension_policy;
    let version: Vec<u64> = machine.agent_version.split('.').map_while(|part| part.parse().ok()).collect();
    let os = machine.os.clone();
    if machine.id.namespace != "Microsoft.HybridCompute" {
        return Err(ExtensionError::OtherType {
            extension,
            kind: format!("{}/{}", machine.id.namespace, machine.id.kind),
        });
    }
    if let Some(status) = machine.disconnected() {
        return Err(ExtensionError::Offline { extension, status });
    }
    if !version.is_empty() && version.as_slice() < &FIRST_AGENT[..] {
        return Err(ExtensionError::OldAgent { version: machine.agent_version.clone(), os });
    }
    if machine.config_mode.eq_ignore_ascii_case("monitor") {
        return Err(ExtensionError::Restricted { extension, os, by: Restriction::Monitor });
    }
    let restrictions = [
        (policy.is_disabled, Restriction::Disabled),
        (policy.is_not_allowed(extension), Restriction::Allowlist),
        (policy.is_blocked(extension), Restriction::Blocklist),
    ];
    if let Some((_, by)) = restrictions.into_iter().find(|(applies, _)| *applies) {
        return Err(ExtensionError::Restricted { extension, os, by });
    }
    if extension == SshExtension::Entra && !policy.has_identity() {
        return Err(ExtensionError::NoIdentity(extension));
    }
    Ok(())
}

impl ExtensionPlan {
    /// Returns whether Azure must change something.
    pub(crate) fn changes(&self) -> bool {
        !matches!(self.change, Change::Skip | Change::Keep | Change::Wait { .. })
    }

    /// Returns whether the plan ends with an extension that was not there before.
    pub(crate) fn installs(&self) -> bool {
        matches!(self.change, Change::Wait { .. } | Change::Install { .. } | Change::Reinstall { .. })
    }

    /// Returns whether there is work, and not only information.
    pub(crate) fn has_work(&self) -> bool {
        self.changes() || self.installs()
    }

    /// Returns the permissions that the change requires.
    pub(crate) fn actions(&self) -> &'static [&'static str] {
        match self.change {
            Change::Skip | Change::Keep | Change::Wait { .. } => &[],
            Change::Install { .. } => &[INSTALL_EXTENSION],
            Change::Reinstall { .. } => &[INSTALL_EXTENSION, DELETE_EXTENSION],
            Change::Remove { .. } => &[DELETE_EXTENSION],
        }
    }

    /// Makes the change, and waits until the agent has made it. Calls `on_wait` before each pause, with the state of the
    /// extension and the time until the limit.
    ///
    /// # Errors
    /// Azure rejects a request; the extension fails; it takes longer than `limit`.
    pub(crate) async fn apply(
        &self,
        arm: &Arm,
        limit: Duration,
        on_wait: impl Fn(&str, Duration),
    ) -> Result<(), ProvisionError> {
        let wait = Wait { arm, plan: self, limit, deadline: Instant::now() + limit, on_wait };
        match &self.change {
            Change::Skip | Change::Keep => Ok(()),
            Change::Wait { name, .. } => wait.until(name, Goal::Installed, None).await,
            Change::Install { name, body } => wait.install(name, body).await,
            Change::Reinstall { name, body, .. } => {
                wait.remove(name).await?;
                wait.install(name, body).await
            }
            Change::Remove { name } => wait.remove(name).await,
        }
    }
}

impl fmt::Display for ExtensionPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let extension = self.extension;
        match &self.change {
            Change::Skip => write!(f, "{} does not apply: {}", extension.option(), unfit(extension)),
            Change::Keep => write!(f, "the extension {extension} is installed; nothing to change"),
            Change::Wait { state, .. } => {
                write!(f, "the extension {extension} is {state}; wait until it is installed")
            }
            Change::Install { .. } => write!(f, "install the extension {extension}"),
            Change::Reinstall { why: None, .. } => {
                write!(f, "remove the extension {extension}, which has failed, and install it again")
            }
            Change::Reinstall { why: Some(why), .. } => {
                write!(f, "remove the extension {extension}, which has failed, and install it again ({why})")
            }
            Change::Remove { .. } => {
                write!(f, "remove the extension {extension}; {}", consequence(extension))
            }
        }
    }
}

/// Returns the effect of a removal on the users of a machine.
fn consequence(extension: SshExtension) -> &'static str {
    match extension {
        SshExtension::Sshd => "sshd goes away with it, and open sessions end",
        SshExtension::Entra => "Entra ID users can no longer log in",
    }
}

/// Returns why an extension is not for the operating system.
fn unfit(extension: SshExtension) -> &'static str {
    match extension {
        SshExtension::Sshd => "on Linux, sshd is a package of the distribution",
        SshExtension::Entra => "with ssh, Entra ID users log in to Linux only",
    }
}

/// The state of an extension to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Goal {
    Installed,
    Removed,
}

/// Changes of one extension with a common time limit.
struct Wait<'a, F> {
    arm: &'a Arm,
    plan: &'a ExtensionPlan,
    limit: Duration,
    deadline: Instant,
    on_wait: F,
}

impl<F: Fn(&str, Duration)> Wait<'_, F> {
    async fn install(&self, name: &str, body: &Value) -> Result<(), ProvisionError> {
        let request = async || put_extension(self.arm, &self.plan.machine, name, body).await;
        let operation = self.accepted(request).await?;
        self.until(name, Goal::Installed, Some(operation)).await
    }

    async fn remove(&self, name: &str) -> Result<(), ProvisionError> {
        let request = async || delete_extension(self.arm, &self.plan.machine, name).await;
        let operation = self.accepted(request).await?;
        self.until(name, Goal::Removed, Some(operation)).await
    }

    /// Sends a request again while another change of the extension is in progress.
    async fn accepted(
        &self,
        request: impl AsyncFn() -> Result<Operation, ArmError>,
    ) -> Result<Operation, ProvisionError> {
        loop {
            match request().await {
                Err(error) if is_in_progress(&error) && !self.is_over() => {}
                result => return Ok(result?),
            }
            self.pause("another change is in progress", POLL_INTERVAL).await;
        }
    }

    /// Waits until the extension is in a state, or has failed. Right after a request, Azure can show the state before it.
    async fn until(
        &self,
        name: &str,
        goal: Goal,
        operation: Option<Operation>,
    ) -> Result<(), ProvisionError> {
        let extension_name = self.plan.extension;
        let failed = |message| ExtensionError::Failed { extension: extension_name, message };
        loop {
            let found = Box::pin(extension(self.arm, &self.plan.machine, name)).await?;
            let error = async || Box::pin(operation.as_ref()?.error(self.arm)).await;
            match (&found, goal) {
                (None, Goal::Removed) => return Ok(()),
                (Some(found), Goal::Installed) if found.has_failed() => {
                    let message = match found.message() {
                        None => error().await,
                        message => message,
                    };
                    return Err(failed(message.unwrap_or_default()).into());
                }
                (Some(found), Goal::Installed) if !found.is_in_progress() => return Ok(()),
                (Some(_), Goal::Installed) => {}
                (None, Goal::Installed) | (Some(_), Goal::Removed) => {
                    if let Some(message) = error().await {
                        return Err(failed(message).into());
                    }
                }
            }
            let state = found.as_ref().map_or("Requested", Extension::state).to_owned();
            if self.is_over() {
                let extension = extension_name;
                return Err(ExtensionError::Pending { extension, state, after: self.limit }.into());
            }
            let retry_after = operation.as_ref().and_then(|operation| operation.retry_after);
            self.pause(&state, retry_after.unwrap_or(POLL_INTERVAL)).await;
        }
    }

    fn is_over(&self) -> bool {
        Instant::now() >= self.deadline
    }

    async fn pause(&self, state: &str, pause: Duration) {
        let left = self.deadline.saturating_duration_since(Instant::now());
        (self.on_wait)(state, left);
        sleep(pause.min(left)).await;
    }
}

/// A setting of the agent that excludes an extension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Restriction {
    /// Monitor mode, in which the agent installs only extensions for monitoring (azure-docs `security-extensions.md`).
    Monitor,
    /// `extensions.enabled`.
    Disabled,
    /// `extensions.allowlist`.
    Allowlist,
    /// `extensions.blocklist`.
    Blocklist,
}

impl fmt::Display for Restriction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Monitor => "its monitor mode",
            Self::Disabled => "its setting extensions.enabled",
            Self::Allowlist => "its setting extensions.allowlist",
            Self::Blocklist => "its setting extensions.blocklist",
        })
    }
}

/// Why an extension is not installed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExtensionError {
    /// The extension is for another operating system.
    #[error("{} does not apply to this machine: {}", .0.option(), unfit(*.0))]
    Unfit(SshExtension),
    /// Azure shows no operating system.
    #[error("Azure does not show the operating system of the machine, so arcssh cannot select an extension")]
    UnknownSystem,
    /// The machine is none of Microsoft.HybridCompute.
    #[error("arcssh cannot install the extension {extension} on a machine of the type {kind}")]
    OtherType { extension: SshExtension, kind: String },
    /// The agent is not connected.
    #[error(
        "the agent cannot install the extension {extension}, because Azure reports the machine as {status}"
    )]
    Offline { extension: SshExtension, status: String },
    /// The agent is older than [`FIRST_AGENT`].
    #[error("agent {version} does not support SSH; version {}.{} or later is required", FIRST_AGENT[0], FIRST_AGENT[1])]
    OldAgent { version: String, os: String },
    /// The agent's settings exclude the extension.
    #[error("the agent does not install the extension {extension}, because of {by}")]
    Restricted { extension: SshExtension, os: String, by: Restriction },
    /// The machine has no system-assigned managed identity.
    #[error("the machine has no system-assigned managed identity, which the extension {0} requires")]
    NoIdentity(SshExtension),
    /// The extension reported an error.
    #[error("the extension {extension} failed{}", in_parentheses(.message))]
    Failed { extension: SshExtension, message: String },
    /// The limit is over.
    #[error("the extension {extension} is still in the state {state} after {} s", .after.as_secs())]
    Pending { extension: SshExtension, state: String, after: Duration },
}

fn in_parentheses(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!(" ({text})") }
}
