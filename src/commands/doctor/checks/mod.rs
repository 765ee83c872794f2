//! Evaluates the facts: one function for each check. A fault fails one check. arcssh skips the checks that depend on a
//! failed one.

mod azure;
mod identity;
mod local;
mod relay;

use crate::azure::arm::{ArmError, ErrorResponse};
use crate::azure::hybrid_compute::Machine;
use crate::azure::resource_id::ResourceId;
use crate::commands::doctor::probe::{Facts, Probe};
use crate::commands::doctor::report::{Check, Outcome};
use crate::diagnosis::finding::Finding;
use crate::diagnosis::{Diagnosis, Error, Hint};
use crate::provisioning::{ProvisionError, ServiceState};
use crate::text::shell_quote;

use Outcome::{Failed, Skipped, Warned};

type CheckFn = fn(&Evaluator) -> Outcome;

/// The checks in the order of the report.
const CHECKS: [(&str, CheckFn); 27] = [
    ("ssh", |evaluator| evaluator.program(0)),
    ("ssh-keygen", |evaluator| evaluator.program(1)),
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
    /// Returns all checks.
    pub(super) fn checks(&self) -> Vec<Check> {
        CHECKS.iter().map(|(name, check)| Check { name, outcome: check(self) }).collect()
    }

    /// Returns the machine, if Azure has it.
    pub(super) fn machine(&self) -> Option<ResourceId> {
        Some(found(&self.facts.azure.machine)?.id.clone())
    }

    /// Returns the check that must pass before any check in Azure.
    fn in_azure(&self) -> Result<(), Outcome> {
        if self.facts.issuers.iter().any(|(_, issuer)| issuer.is_err()) {
            return Err(blocked_by(self.network_check()));
        }
        match self.facts.azure.token {
            Some(Ok(_)) => Ok(()),
            _ => Err(blocked_by("identity")),
        }
    }

    /// Returns the machine, or the check that must pass before any check of a machine.
    fn machine_in_azure(&self) -> Result<&Machine, Outcome> {
        self.in_azure()?;
        if self.facts.name.is_none() {
            return Err(Skipped("no machine was given".into()));
        }
        if matches!(self.subscription(), Failed(_)) {
            return Err(blocked_by("subscription"));
        }
        found(&self.facts.azure.machine).ok_or_else(|| blocked_by("machine"))
    }

    /// Returns the endpoint and service, if the provider is registered and the account may connect.
    fn service_state(&self) -> Result<&ServiceState, Outcome> {
        self.machine_in_azure()?;
        if matches!(self.provider(), Failed(_)) {
            return Err(blocked_by("resource provider"));
        }
        match &self.facts.azure.service {
            Some(Ok(service)) => Ok(service),
            Some(Err(error)) if is_forbidden(error) => Err(blocked_by("permissions")),
            Some(Err(error)) => Err(self.service_failed(error)),
            None => Err(blocked_by("machine")),
        }
    }

    fn service_failed(&self, error: &Error) -> Outcome {
        let is_registered = found(&self.facts.azure.registration).is_some();
        match response(error).filter(|response| response.is_unserved() && is_registered) {
            Some(response) => Failed(crate::diagnosis::arm::region_not_served(response)),
            None => Failed(error.diagnose()),
        }
    }

    fn responds(&self) -> bool {
        matches!(self.facts.azure.relay, Some(Ok(())))
    }

    /// Returns the command that enables SSH, on the port of the connection unless that is the default.
    fn set_up_command(&self) -> String {
        match self.facts.azure.port {
            22 => self.set_up_without_port(),
            port => format!("{} --port {port}", self.set_up_without_port()),
        }
    }

    fn set_up_without_port(&self) -> String {
        let id = self.machine().map_or("MACHINE".into(), |machine| machine.to_string());
        format!("arcssh setup {}", shell_quote(&id))
    }
}

fn blocked_by(check: &str) -> Outcome {
    Skipped(format!("fix '{check}' first"))
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

fn found<T>(probe: &Probe<T>) -> Option<&T> {
    probe.as_ref()?.as_ref().ok()
}

fn error<T>(probe: &Probe<T>) -> Option<&Error> {
    probe.as_ref()?.as_ref().err()
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
