//! Evaluates the facts: one function for each check, once the facts that it needs are there. A fault fails one check. arcssh
//! does not evaluate the checks that depend on a failed one.

mod azure;
mod identity;
mod local;
mod relay;

use std::cell::OnceCell;

use crate::azure::arm::{ArmError, ErrorResponse};
use crate::azure::hybrid_compute::Machine;
use crate::azure::hybrid_compute::extension::SshExtension;
use crate::azure::resource_id::ResourceId;
use crate::cli::DoctorArgs;
use crate::commands::doctor::outcome::{Check, Outcome, Reason};
use crate::commands::doctor::probe::Facts;
use crate::diagnosis::code::Code;
use crate::diagnosis::finding::Finding;
use crate::diagnosis::{Diagnosis, Error, Hint};
use crate::machines::Names;
use crate::provisioning::{ProvisionError, ServiceState};
use crate::text::shell_quote;

use Outcome::{Failed, NotChecked, Unknown, Warned};

/// The result of a check, or of a part of one that can end it.
type Evaluation<T = Outcome> = Result<T, Early>;

/// Why an evaluation ends early.
#[derive(Clone, Debug)]
enum Early {
    /// A fact is not there yet.
    Pending,
    /// The outcome is known.
    Outcome(Outcome),
}

impl From<Outcome> for Early {
    fn from(outcome: Outcome) -> Self {
        Self::Outcome(outcome)
    }
}

impl Early {
    /// Returns that `check` must pass first, if this is its failure.
    fn or_blocked_by(self, check: &'static str) -> Self {
        match self {
            Self::Outcome(Failed(_)) => blocked_by(check).into(),
            other => other,
        }
    }
}

type CheckFn = fn(&Evaluator) -> Evaluation;

/// The checks in the order of the report.
const CHECKS: [(&str, CheckFn); 27] = [
    ("ssh", Evaluator::ssh),
    ("ssh-keygen", Evaluator::ssh_keygen),
    ("shell", Evaluator::shell),
    ("cloud", Evaluator::cloud),
    ("proxy", Evaluator::proxy),
    ("root certificates", Evaluator::roots),
    ("identity", Evaluator::identity),
    ("clock", Evaluator::clock),
    ("subscription", Evaluator::subscription),
    ("resource provider", Evaluator::provider),
    ("machine", Evaluator::machine_status),
    ("agent version", Evaluator::agent_version),
    ("agent configuration", Evaluator::agent_configuration),
    ("operating system", Evaluator::operating_system),
    ("region", Evaluator::region),
    ("private link", Evaluator::private_link),
    ("permissions", Evaluator::permissions),
    ("endpoint", Evaluator::endpoint),
    ("service configuration", Evaluator::service_configuration),
    ("entra login", Evaluator::entra_login),
    ("network", Evaluator::network),
    ("relay", Evaluator::relay),
    ("sshd", Evaluator::sshd),
    ("host key", Evaluator::host_key),
    ("certificate", Evaluator::certificate),
    ("ssh configuration", Evaluator::configuration),
    ("state directory", Evaluator::state),
];

/// Evaluates the facts.
pub(super) struct Evaluator {
    pub(super) facts: Facts,
}

impl Evaluator {
    /// Returns the names of the checks, in the order of the report.
    pub(super) fn names() -> impl Iterator<Item = &'static str> {
        CHECKS.iter().map(|(name, _)| *name)
    }

    /// Returns the check with this name; `None` as long as it needs a fact that is not there yet.
    pub(super) fn check(&self, name: &'static str) -> Option<Check> {
        let (_, check) = CHECKS.iter().find(|(other, _)| *other == name)?;
        match check(self) {
            Ok(outcome) | Err(Early::Outcome(outcome)) => Some(Check { name, outcome }),
            Err(Early::Pending) => None,
        }
    }

    /// Returns the machine, if Azure has it.
    pub(super) fn machine(&self) -> Option<ResourceId> {
        Some(self.facts.probes.machine.get()?.as_ref().ok()?.id.clone())
    }

    /// Returns what the user can do next if no check failed; `None` if arcssh did not reach the machine's sshd.
    pub(super) fn next_step(&self, args: &DoctorArgs) -> Option<Hint> {
        let option = |name, value: Option<String>| {
            value.map_or(String::new(), |value| format!(" {name} {}", shell_quote(&value)))
        };
        let file = |name| option(name, args.file.as_ref().map(|file| file.display().to_string()));
        let azure: String =
            args.typed.iter().map(|word| format!(" {}", shell_quote(&word.to_string_lossy()))).collect();
        let Some(machine) = &args.machine else {
            return Some(Hint::new("To list your machines, run: ", format!("arcssh list{azure}")));
        };
        let is_reached = matches!(self.sshd(), Ok(Outcome::Passed(_) | Warned(_)));
        let connection = self.facts.probes.connection.get().filter(|_| is_reached)?;
        let port = |default| {
            option(
                "--port",
                Some(connection.port).filter(|port| *port != default).map(|port| port.to_string()),
            )
        };
        Some(match &connection.entry {
            Some(entry) => {
                let port = port(entry.port).replace("--port", "-p");
                let command = format!("ssh{}{port} {}", file("-F"), shell_quote(&entry.alias));
                Hint::new("To connect, run: ", command)
            }
            None => {
                let (subscription, port) = (option("--subscription", args.subscription.clone()), port(22));
                let options = format!("{subscription}{port}{}{azure}", file("--file"));
                let command = format!("arcssh config {}{options}", shell_quote(machine));
                Hint::new("To write a host entry for ssh, run: ", command)
            }
        })
    }

    fn has_failed(&self, check: CheckFn) -> Evaluation<bool> {
        match check(self) {
            Ok(outcome) | Err(Early::Outcome(outcome)) => Ok(matches!(outcome, Failed(_))),
            Err(Early::Pending) => Err(Early::Pending),
        }
    }

    /// Returns the check that must pass before any check in Azure.
    fn in_azure(&self) -> Evaluation<()> {
        if known(&self.facts.probes.issuers)?.iter().any(|(_, issuer)| issuer.is_err()) {
            return Err(blocked_by(self.network_check()).into());
        }
        match known(&self.facts.probes.token)? {
            Ok(_) => Ok(()),
            Err(_) => Err(blocked_by("identity").into()),
        }
    }

    /// Returns the check that must pass before any check of a machine.
    fn in_subscription(&self) -> Evaluation<()> {
        self.in_azure()?;
        if self.facts.name.is_none() {
            return Err(NotChecked(Reason::NoMachine).into());
        }
        if self.has_failed(Self::subscription)? {
            return Err(blocked_by("subscription").into());
        }
        Ok(())
    }

    /// Returns the machine, or the check that must pass before any check of its properties.
    fn machine_in_azure(&self) -> Evaluation<&Machine> {
        self.in_subscription()?;
        known(&self.facts.probes.machine)?.as_ref().map_err(|_| blocked_by("machine").into())
    }

    /// Returns the endpoint and service, if the provider is registered and the account may connect.
    fn service_state(&self) -> Evaluation<&ServiceState> {
        self.machine_in_azure()?;
        if self.has_failed(Self::provider)? {
            return Err(blocked_by("resource provider").into());
        }
        match known(&self.facts.probes.service)? {
            Ok(service) => Ok(service),
            Err(error) if is_forbidden(error) => Err(blocked_by("permissions").into()),
            Err(error) => Err(self.service_failed(error)?.into()),
        }
    }

    fn service_failed(&self, error: &Error) -> Evaluation {
        let is_registered = matches!(known(&self.facts.probes.registration)?, Some(Ok(_)));
        Ok(match response(error).filter(|response| response.is_unserved() && is_registered) {
            Some(response) => Failed(crate::diagnosis::arm::region_not_served(response)),
            None => Failed(error.diagnose()),
        })
    }

    fn responds(&self) -> Evaluation<bool> {
        Ok(matches!(known(&self.facts.probes.relay)?, Some(Ok(()))))
    }

    /// Returns the command that enables SSH, on the port of the connection unless that is the default.
    fn set_up_command(&self) -> Evaluation<String> {
        Ok(match known(&self.facts.probes.connection)?.port {
            22 => self.set_up_without_port(),
            port => format!("{} --port {port}", self.set_up_without_port()),
        })
    }

    /// Returns the extension with which `arcssh setup` repairs a failure, if there is one.
    pub(super) fn missing_extension(&self) -> Option<SshExtension> {
        let is_port_closed =
            matches!(self.sshd(), Ok(Failed(diagnosis)) if diagnosis.code == Code::PortClosed);
        let is_windows = self.machine_in_azure().is_ok_and(Machine::is_windows);
        (is_port_closed && is_windows).then_some(SshExtension::Sshd)
    }

    fn set_up_without_port(&self) -> String {
        let argument = |id| Names::with_configured(std::slice::from_ref(&id)).argument(&id);
        format!("arcssh setup {}", shell_quote(&self.machine().map_or("MACHINE".into(), argument)))
    }
}

fn known<T>(fact: &OnceCell<T>) -> Evaluation<&T> {
    fact.get().ok_or(Early::Pending)
}

/// `check` has failed.
fn blocked_by(check: &'static str) -> Outcome {
    NotChecked(Reason::Blocked(check))
}

/// Returns the outcome of a check whose resource arcssh could not read.
fn unreadable(error: &Error) -> Outcome {
    Unknown(if is_forbidden(error) {
        "your role does not allow reading it".into()
    } else {
        error.diagnose().summary
    })
}

fn failed(finding: &Finding) -> Outcome {
    Failed(finding.diagnose())
}

fn warned(finding: &Finding) -> Outcome {
    Warned(finding.diagnose())
}

/// Returns the failure of an error that may have no hint of its own.
fn failed_or(error: &Error, hint: impl Into<Hint>) -> Outcome {
    let diagnosis = error.diagnose();
    Failed(Diagnosis { hint: diagnosis.hint.or(Some(hint.into())), ..diagnosis })
}

/// Returns ARM's error response, if the error is one.
fn response(error: &Error) -> Option<&ErrorResponse> {
    use crate::relay::handshake::ConnectError;
    let arm = match error.cause() {
        Error::Arm(error)
        | Error::Provision(ProvisionError::Arm(error))
        | Error::Connect(ConnectError::Credentials(error)) => error,
        _ => return None,
    };
    match arm {
        ArmError::Rejected(response) => Some(response),
        _ => None,
    }
}

fn is_unknown_provider(error: &Error) -> bool {
    response(error).is_some_and(ErrorResponse::is_unknown_provider)
}

fn is_forbidden(error: &Error) -> bool {
    response(error).is_some_and(ErrorResponse::is_forbidden)
}

/// Returns the numbers at the beginning of a version.
fn numbers(version: &str) -> Vec<u64> {
    version.split('.').map_while(|part| part.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_compared_number_by_number() {
        assert!(numbers("1.67.03504.1320").as_slice() >= &[1, 31][..]);
        assert!(numbers("2.0").as_slice() >= &[1, 31][..]);
        assert!(numbers("1.9.1").as_slice() < &[1, 31][..]);
        assert!(numbers("1.13.21320.014").as_slice() >= &[1, 13, 21320][..]);
        assert!(numbers("1.13.21319.9").as_slice() < &[1, 13, 21320][..]);
        assert!(numbers("unknown").is_empty());
    }
}
