//! Checks of the machine and its resources in Azure.

use crate::azure::hybrid_compute::Machine;
use crate::azure::hybrid_compute::extension::{Extension, SshExtension};
use crate::azure::hybrid_connectivity::endpoint::Lookup;
use crate::azure::rbac::{CONNECT, LOGIN, LOGIN_AS_ADMIN, SET_UP};
use crate::azure::resource_providers::NAMESPACE;
use crate::commands::doctor::checks::{
    Evaluation, Evaluator, blocked_by, failed, failed_or, is_forbidden, is_unknown_provider, known, numbers,
    unreadable, warned,
};
use crate::commands::doctor::outcome::Outcome::{self, Failed, Passed, Skipped, Unknown};
use crate::diagnosis::finding::Finding;
use crate::diagnosis::machines::list_machines;

/// The first agent with service configurations (azure-docs `ssh-arc-overview.md`), and the first that supports SSH at all
/// (the same document in its first version).
const SERVICE_CONFIGURATIONS: [u64; 2] = [1, 31];
const FIRST_AGENT: [u64; 3] = [1, 13, 21320];

impl Evaluator {
    pub(super) fn provider(&self) -> Evaluation {
        self.machine_in_azure()?;
        Ok(match known(&self.facts.probes.registration)? {
            Some(Ok(registration)) if registration.is_done() => Passed(format!("{NAMESPACE} is registered")),
            Some(Ok(registration)) => failed(&Finding::ProviderState {
                state: &registration.state,
                set_up: &self.set_up_command()?,
            }),
            Some(Err(error)) if is_unknown_provider(error) => Failed(error.diagnose()),
            Some(Err(error)) => unreadable(error),
            None => blocked_by("machine"),
        })
    }

    pub(super) fn machine_status(&self) -> Evaluation {
        self.in_subscription()?;
        let machine = match known(&self.facts.probes.machine)? {
            Ok(machine) => machine,
            Err(error) => return Ok(failed_or(error, list_machines())),
        };
        let status = &since(&machine.status, &machine.last_status_change);
        match machine.status.to_lowercase().as_str() {
            "" => return Ok(not_shown(machine)),
            "connected" => return Ok(Passed(status.clone())),
            _ => {}
        }
        let is_expired = machine.status.eq_ignore_ascii_case("expired");
        let responds = self.responds()?;
        let finding = Finding::Disconnected { status, is_expired, responds };
        Ok(if responds { warned(&finding) } else { failed(&finding) })
    }

    pub(super) fn agent_version(&self) -> Evaluation {
        let machine = self.machine_in_azure()?;
        let version = numbers(&machine.agent_version);
        if version.is_empty() {
            return Ok(not_shown(machine));
        }
        if version.as_slice() >= &SERVICE_CONFIGURATIONS[..] {
            return Ok(Passed(machine.agent_version.clone()));
        }
        let supports_ssh = version.as_slice() >= &FIRST_AGENT[..];
        let finding =
            Finding::AgentVersion { version: &machine.agent_version, os: &machine.os, supports_ssh };
        Ok(if self.responds()? { warned(&finding) } else { failed(&finding) })
    }

    /// Monitor mode disables remote connectivity (azure-docs `security-extensions.md`, "monitor mode"). Azure does not show the
    /// agent's setting `incomingconnections.enabled`.
    pub(super) fn agent_configuration(&self) -> Evaluation {
        let machine = self.machine_in_azure()?;
        let finding = Finding::MonitorMode { os: &machine.os };
        Ok(match machine.config_mode.to_lowercase().as_str() {
            "" => not_shown(machine),
            "monitor" if self.responds()? => warned(&finding),
            "monitor" => failed(&finding),
            "full" => Passed("full mode".into()),
            mode => Unknown(format!("arcssh does not know the mode {mode}")),
        })
    }

    pub(super) fn operating_system(&self) -> Evaluation {
        let machine = self.machine_in_azure()?;
        Ok(match machine.os.as_str() {
            "" => not_shown(machine),
            _ if machine.is_windows() => {
                Passed("windows (local and domain users; Entra users log in to Linux only)".into())
            }
            os => Passed(format!("{os} (local users; Entra users with the extension AADSSHLoginForLinux)")),
        })
    }

    pub(super) fn region(&self) -> Evaluation {
        let machine = self.machine_in_azure()?;
        Ok(match machine.location.as_str() {
            "" => not_shown(machine),
            region => Passed([region, &machine.kind].join(" ").trim_end().to_owned()),
        })
    }

    /// A private link scope does not support SSH (azure-docs `private-link-security.md`). A machine without one has no such
    /// property, so its absence counts only if Azure shows other properties, of a type that can have it (azure-rest-api-specs,
    /// hybridcompute).
    pub(super) fn private_link(&self) -> Evaluation {
        let machine = self.machine_in_azure()?;
        let is_shown = !machine.status.is_empty() || !machine.agent_version.is_empty();
        Ok(if machine.is_private_link {
            warned(&Finding::PrivateLink(&machine.id))
        } else if is_shown && machine.id.namespace == "Microsoft.HybridCompute" {
            Passed("none".into())
        } else {
            not_shown(machine)
        })
    }

    pub(super) fn permissions(&self) -> Evaluation {
        self.machine_in_azure()?;
        let service = known(&self.facts.probes.service)?.as_ref().err();
        let relay = known(&self.facts.probes.relay)?.as_ref().and_then(|relay| relay.as_ref().err());
        if let Some(error) = [service, relay].into_iter().flatten().find(|error| is_forbidden(error)) {
            return Ok(Failed(error.diagnose()));
        }
        let permissions = match known(&self.facts.probes.permissions)? {
            Ok(permissions) => permissions,
            Err(error) => return Ok(unreadable(error)),
        };
        if !permissions.allow(CONNECT) {
            return Ok(if self.responds()? {
                Unknown("Azure shows no permission to connect, but the machine responds".into())
            } else {
                failed(&Finding::NoPermission)
            });
        }
        let can_set_up = SET_UP.iter().all(|action| permissions.allow(action));
        let actions = if can_set_up { "connect and set up" } else { "connect" };
        let login = match (permissions.allow_data(LOGIN_AS_ADMIN), permissions.allow_data(LOGIN)) {
            (true, _) => "; log in with Entra ID as administrator",
            (false, true) => "; log in with Entra ID",
            (false, false) => "",
        };
        Ok(Passed(format!("{actions}{login}")))
    }

    pub(super) fn endpoint(&self) -> Evaluation {
        Ok(match self.service_state()?.endpoint {
            Lookup::Found(()) => Passed("exists".into()),
            Lookup::Forbidden => Unknown("your role does not allow reading it".into()),
            Lookup::NotFound => failed(&Finding::NoEndpoint { set_up: &self.set_up_command()? }),
        })
    }

    pub(super) fn service_configuration(&self) -> Evaluation {
        let service = self.service_state().map_err(|early| early.or_blocked_by("endpoint"))?;
        let port = known(&self.facts.probes.connection)?.port;
        Ok(match (service.endpoint, service.port) {
            (Lookup::NotFound, _) => blocked_by("endpoint"),
            (_, Lookup::Found(enabled)) if enabled == port => Passed(format!("SSH on port {port}")),
            (_, Lookup::Found(enabled)) => self.other_port(enabled)?,
            (_, Lookup::Forbidden) => Unknown("SSH is enabled, on a port that your role cannot read".into()),
            (_, Lookup::NotFound) => failed(&Finding::NotEnabled { set_up: &self.set_up_command()? }),
        })
    }

    /// A machine has one port for SSH, and others may use it: arcssh suggests to change it only if the user gave another.
    fn other_port(&self, enabled: u16) -> Evaluation {
        let connection = known(&self.facts.probes.connection)?;
        let port = connection.port;
        Ok(match connection.entry_for_port() {
            Some(entry) if !self.facts.is_port_given => {
                failed(&Finding::PortOfEntry { enabled, port, alias: &entry.alias })
            }
            _ => failed(&Finding::PortTaken { enabled, port, set_up: &self.set_up_without_port() }),
        })
    }

    pub(super) fn entra_login(&self) -> Evaluation {
        let machine = self.machine_in_azure()?;
        if machine.is_windows() {
            return Ok(Skipped("Entra users log in to Linux only".into()));
        }
        let extensions = match known(&self.facts.probes.extensions)? {
            Ok(extensions) => extensions,
            Err(error) => return Ok(unreadable(error)),
        };
        let permissions = match known(&self.facts.probes.permissions)? {
            Ok(permissions) => permissions,
            Err(error) => return Ok(unreadable(error)),
        };
        let extension = extensions.iter().find(|extension| extension.is(SshExtension::Entra));
        Ok(match (extension.map(Extension::state), permissions.allow_data(LOGIN)) {
            (None, true) if machine.os.is_empty() || machine.location.is_empty() => not_shown(machine),
            (None, true) => warned(&Finding::NoExtension { set_up: &self.set_up_without_port() }),
            (None, false) => Skipped("local users only: the extension is not installed".into()),
            (Some(""), _) => Unknown("Azure does not show the state of the extension".into()),
            (Some(state), _) if !state.eq_ignore_ascii_case("Succeeded") => {
                warned(&Finding::ExtensionState { state, set_up: &self.set_up_without_port() })
            }
            (Some(_), true) => Passed("the extension is installed, and the account has a role for it".into()),
            (Some(_), false) => Passed("the extension is installed; the account has no role for it".into()),
        })
    }
}

/// Returns the outcome of a check whose property Azure does not show. A machine with only an ID is one that arcssh could not
/// read, with this role or with the API versions that it knows.
fn not_shown(machine: &Machine) -> Outcome {
    let is_unread = *machine == Machine::from_id(machine.id.clone());
    Unknown(if is_unread { "arcssh cannot read the machine" } else { "Azure has no information" }.into())
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
