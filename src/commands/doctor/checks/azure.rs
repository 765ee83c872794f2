//! Checks of the machine and its resources in Azure.

use crate::azure::hybrid_compute::{Extension, Machine};
use crate::azure::hybrid_connectivity::endpoint::Lookup;
use crate::azure::rbac::{CONNECT, LOGIN, LOGIN_AS_ADMIN, SET_UP};
use crate::azure::resource_providers::NAMESPACE;
use crate::commands::doctor::checks::{
    Evaluator, blocked_by, error, failed, failed_or, found, is_forbidden, is_unknown_provider, numbers,
    warned,
};
use crate::commands::doctor::report::Outcome::{self, Failed, Passed, Skipped};
use crate::diagnosis::finding::Finding;
use crate::diagnosis::machines::list_machines;

/// The first agent with service configurations (azure-docs `ssh-arc-overview.md`), and the first that supports SSH at all
/// (the same document in its first version).
const SERVICE_CONFIGURATIONS: [u64; 2] = [1, 31];
const FIRST_AGENT: [u64; 3] = [1, 13, 21320];

/// The account's role does not allow reading the resource.
const UNREADABLE: &str = "exists (not readable with your role)";

impl Evaluator {
    pub(super) fn provider(&self) -> Outcome {
        if let Err(skipped) = self.machine_in_azure() {
            return skipped;
        }
        match &self.facts.azure.registration {
            Some(Ok(registration)) if registration.is_done() => Passed(format!("{NAMESPACE} is registered")),
            Some(Ok(registration)) => {
                failed(&Finding::ProviderState { state: &registration.state, set_up: &self.set_up_command() })
            }
            Some(Err(error)) if is_unknown_provider(error) => Failed(error.diagnose()),
            Some(Err(_)) | None => Skipped("not readable with your role".into()),
        }
    }

    pub(super) fn machine_status(&self) -> Outcome {
        if let Err(skipped) = self.in_azure() {
            return skipped;
        }
        if let Some(error) = error(&self.facts.azure.machine) {
            if matches!(self.subscription(), Failed(_)) {
                return blocked_by("subscription");
            }
            return failed_or(error, list_machines());
        }
        let machine = match self.machine_in_azure() {
            Ok(machine) => machine,
            Err(skipped) => return skipped,
        };
        let status = &since(&machine.status, &machine.last_status_change);
        let responds = self.responds();
        let is_expired = machine.status.eq_ignore_ascii_case("expired");
        let finding = Finding::Disconnected { status, is_expired, responds };
        match machine.status.to_lowercase().as_str() {
            "" if *machine == Machine::from_id(machine.id.clone()) => {
                Passed("not readable with your role".into())
            }
            "" => Skipped("Azure has no information".into()),
            "connected" => Passed(status.clone()),
            _ if responds => warned(&finding),
            _ => failed(&finding),
        }
    }

    pub(super) fn agent_version(&self) -> Outcome {
        let machine = match self.machine_in_azure() {
            Ok(machine) => machine,
            Err(skipped) => return skipped,
        };
        let version = numbers(&machine.agent_version);
        if version.is_empty() {
            return Skipped("Azure has no information".into());
        }
        if version.as_slice() >= &SERVICE_CONFIGURATIONS[..] {
            return Passed(machine.agent_version.clone());
        }
        let supports_ssh = version.as_slice() >= &FIRST_AGENT[..];
        let finding =
            Finding::AgentVersion { version: &machine.agent_version, os: &machine.os, supports_ssh };
        if self.responds() { warned(&finding) } else { failed(&finding) }
    }

    /// Monitor mode disables remote connectivity (azure-docs `security-extensions.md`, "monitor mode"). Azure does not show the
    /// agent's setting `incomingconnections.enabled`.
    pub(super) fn agent_configuration(&self) -> Outcome {
        let machine = match self.machine_in_azure() {
            Ok(machine) => machine,
            Err(skipped) => return skipped,
        };
        let finding = Finding::MonitorMode { os: &machine.os };
        match machine.config_mode.to_lowercase().as_str() {
            "" => Skipped("Azure has no information".into()),
            "monitor" if self.responds() => warned(&finding),
            "monitor" => failed(&finding),
            mode => Passed(format!("{mode} mode")),
        }
    }

    pub(super) fn operating_system(&self) -> Outcome {
        match self.machine_in_azure() {
            Ok(machine) if machine.os.is_empty() => Skipped("Azure has no information".into()),
            Ok(machine) if machine.is_windows() => {
                Passed("windows (local and domain users; Entra users log in to Linux only)".into())
            }
            Ok(machine) => Passed(format!(
                "{} (local users; Entra users with the extension AADSSHLoginForLinux)",
                machine.os
            )),
            Err(skipped) => skipped,
        }
    }

    pub(super) fn region(&self) -> Outcome {
        match self.machine_in_azure() {
            Ok(machine) if machine.location.is_empty() => Skipped("Azure has no information".into()),
            Ok(machine) => Passed([&*machine.location, &*machine.kind].join(" ").trim_end().to_owned()),
            Err(skipped) => skipped,
        }
    }

    /// A private link scope does not support SSH (azure-docs `private-link-security.md`).
    pub(super) fn private_link(&self) -> Outcome {
        match self.machine_in_azure() {
            Ok(machine) if machine.is_private_link => warned(&Finding::PrivateLink(&machine.id)),
            Ok(_) => Passed("none".into()),
            Err(skipped) => skipped,
        }
    }

    pub(super) fn permissions(&self) -> Outcome {
        if let Err(skipped) = self.machine_in_azure() {
            return skipped;
        }
        let errors = [error(&self.facts.azure.service), error(&self.facts.azure.relay)];
        if let Some(error) = errors.into_iter().flatten().find(|error| is_forbidden(error)) {
            return Failed(error.diagnose());
        }
        let Some(permissions) = found(&self.facts.azure.permissions) else {
            return Skipped("not readable with your role".into());
        };
        if !permissions.allow(CONNECT) && !self.responds() {
            return failed(&Finding::NoPermission);
        }
        let can_set_up = SET_UP.iter().all(|action| permissions.allow(action));
        let actions = if can_set_up { "connect and set up" } else { "connect" };
        let login = match (permissions.allow_data(LOGIN_AS_ADMIN), permissions.allow_data(LOGIN)) {
            (true, _) => "; log in with Entra ID as administrator",
            (false, true) => "; log in with Entra ID",
            (false, false) => "",
        };
        Passed(format!("{actions}{login}"))
    }

    pub(super) fn endpoint(&self) -> Outcome {
        match self.service_state().map(|service| service.endpoint) {
            Ok(Lookup::Found(())) => Passed("exists".into()),
            Ok(Lookup::Forbidden) => Passed(UNREADABLE.into()),
            Ok(Lookup::NotFound) => failed(&Finding::NoEndpoint { set_up: &self.set_up_command() }),
            Err(skipped) => skipped,
        }
    }

    pub(super) fn service_configuration(&self) -> Outcome {
        let port = self.facts.azure.port;
        match self.service_state().map(|service| (service.endpoint, service.port)) {
            Ok((Lookup::NotFound, _)) => blocked_by("endpoint"),
            Ok((_, Lookup::Found(enabled))) if enabled == port => Passed(format!("SSH on port {port}")),
            Ok((_, Lookup::Found(enabled))) => self.other_port(enabled),
            Ok((_, Lookup::Forbidden)) => Passed(UNREADABLE.into()),
            Ok((_, Lookup::NotFound)) => failed(&Finding::NotEnabled { set_up: &self.set_up_command() }),
            Err(Failed(_)) => blocked_by("endpoint"),
            Err(skipped) => skipped,
        }
    }

    /// A machine has one port for SSH, and others may use it: arcssh suggests to change it only if the user gave another.
    fn other_port(&self, enabled: u16) -> Outcome {
        let port = self.facts.azure.port;
        match &self.facts.azure.entry {
            Some(entry) if !self.facts.is_port_given => {
                failed(&Finding::PortOfEntry { enabled, port, alias: &entry.alias })
            }
            _ => failed(&Finding::PortTaken { enabled, port, set_up: &self.set_up_without_port() }),
        }
    }

    pub(super) fn entra_login(&self) -> Outcome {
        let machine = match self.machine_in_azure() {
            Ok(machine) => machine,
            Err(skipped) => return skipped,
        };
        if machine.is_windows() {
            return Skipped("Entra users log in to Linux only".into());
        }
        let Some(extensions) = found(&self.facts.azure.extensions) else {
            return Skipped("extensions not readable with your role".into());
        };
        let extension = extensions.iter().find(|extension| extension.is_entra_login());
        let permissions = found(&self.facts.azure.permissions);
        let has_role = permissions.is_some_and(|permissions| permissions.allow_data(LOGIN));
        match (extension.map(Extension::state), has_role) {
            (None, true) => warned(&Finding::NoExtension(machine)),
            (None, false) => Skipped("local users only: the extension is not installed".into()),
            (Some(state), _) if !state.eq_ignore_ascii_case("Succeeded") => {
                warned(&Finding::ExtensionState { machine: &machine.id, state })
            }
            (Some(_), true) => Passed("the extension is installed, and the account has a role for it".into()),
            (Some(_), false) => Passed("the extension is installed; the account has no role for it".into()),
        }
    }
}

/// Returns a status with the time of its last change, which Azure does not have for every machine.
fn since(status: &str, change: &str) -> String {
    match change.split(['T', '.']).take(2).collect::<Vec<_>>().join(" ") {
        time if time.is_empty() => status.to_owned(),
        time => format!("{status} since {time}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_has_the_time_of_its_change_if_azure_has_one() {
        assert_eq!(since("Connected", "2026-03-02T09:14:07.123Z"), "Connected since 2026-03-02 09:14:07");
        assert_eq!(since("Connected", ""), "Connected");
    }
}
