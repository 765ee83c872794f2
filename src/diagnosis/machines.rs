//! Selecting machines, and enabling them for connections.

use crate::azure::rbac::REGISTER;
use crate::azure::resource_id::ResourceIdError;
use crate::diagnosis::arm::{OTHER_TENANT, arm, assign_role, or_other_account};
use crate::diagnosis::extension::extension;
use crate::diagnosis::{Code, Context, Diagnosis, Hint};
use crate::machines::SelectError;
use crate::provisioning::ProvisionError;
use crate::text::shell_quote;

const RERUN: &str = "run the same command again to continue";

pub(super) fn select(error: &SelectError, context: &Context) -> Diagnosis {
    let summary = error.to_string();
    match error {
        SelectError::Arm(error) => arm(error, context),
        SelectError::ResourceId(error) => resource_id(error),
        SelectError::Unknown { similar, .. } => {
            Diagnosis::new(Code::MachineNotFound, summary, did_you_mean(similar, list_machines()))
        }
        SelectError::Ambiguous { name, candidates } => {
            Diagnosis::new(Code::AmbiguousName, summary, name_one(name, candidates, context))
        }
        SelectError::NoMatch { similar, total, .. } => {
            let hint = if *total == 0 { OTHER_TENANT.into() } else { list_machines() };
            Diagnosis::new(Code::NoMatch, summary, did_you_mean(similar, hint))
        }
        SelectError::UnknownSubscription { similar, .. } => {
            Diagnosis::new(Code::SubscriptionNotFound, summary, did_you_mean(similar, OTHER_TENANT.into()))
        }
        SelectError::NoSubscription => Diagnosis::new(Code::SubscriptionNotFound, summary, OTHER_TENANT),
        SelectError::Unexpanded(token) => {
            let hint = if token.starts_with("%h") {
                "configure this SSH client to expand the tokens of ssh_config, or name the machine in its ProxyCommand: arcssh proxy RESOURCE-ID --port PORT".into()
            } else {
                Hint::new("write the host entry again with %h, which more clients expand: ", "arcssh config")
            };
            Diagnosis::new(Code::InvalidResourceId, summary, hint)
        }
        SelectError::NothingSelected { command } => {
            let command = format!("arcssh {command} --help");
            Diagnosis::new(
                Code::NoMachine,
                summary,
                Hint::new("to see how to name a machine, run: ", command),
            )
        }
    }
}

/// Asks for names that are similar to the typed one, before another hint.
pub(super) fn did_you_mean(similar: &[String], hint: Hint) -> Hint {
    if similar.is_empty() {
        return hint;
    }
    Hint { text: format!("did you mean {}? Otherwise, {}", similar.join(" or "), hint.text), ..hint }
}

/// Names one of several machines as it was typed: for ssh, the name ends like the wildcard's pattern. The typed name itself
/// can be the name and group of one of them.
fn name_one(name: &str, candidates: &[String], context: &Context) -> Hint {
    let is_grouped = |candidate: &String| candidate.contains('/') && !candidate.starts_with('/');
    match &context.target {
        None if candidates.iter().all(is_grouped) => "name the machine as GROUP/NAME".into(),
        None => "name the machine with one of these names".into(),
        Some(target) => {
            let typed = target.to_string();
            let suffix = typed.strip_prefix(name).unwrap_or_default();
            let alias = |candidate: &String| match candidate.split_once('/') {
                Some((group, machine)) => format!("{machine}.{group}").to_lowercase() + suffix,
                None => candidate.to_lowercase() + suffix,
            };
            let mut aliases = candidates.iter().filter(|candidate| !candidate.starts_with('/')).map(alias);
            match aliases.find(|alias| !alias.eq_ignore_ascii_case(&typed)) {
                Some(alias) => Hint::command(format!("ssh {}", shell_quote(&alias))),
                None => list_machines(),
            }
        }
    }
}

pub(crate) fn list_machines() -> Hint {
    Hint::new("list the machines that the account sees: ", "arcssh list")
}

pub(super) fn resource_id(error: &ResourceIdError) -> Diagnosis {
    Diagnosis::new(
        Code::InvalidResourceId,
        error.to_string(),
        "use NAME, GROUP/NAME or a resource ID; to list the IDs, run: arcssh list -o json",
    )
}

pub(super) fn provision(error: &ProvisionError, context: &Context) -> Diagnosis {
    let summary = error.to_string();
    match error {
        ProvisionError::Arm(error) => arm(error, context),
        ProvisionError::PortTaken { to, .. } => {
            let command = format!("{} --replace-port", context.command("setup", Some(*to)));
            let hint = context.runnable("to disconnect its users and change the port, run: ", command);
            Diagnosis::new(Code::PortInUse, summary, hint)
        }
        ProvisionError::NotPermitted { caller, object_id, action } => {
            let id = context.machine_id().unwrap_or_default();
            let scope = match id.match_indices('/').nth(2) {
                Some((end, _)) if *action == REGISTER => &id[..end],
                _ => &id,
            };
            let hint = or_other_account(Some(caller), assign_role(action, object_id, scope));
            Diagnosis::new(Code::AccessDenied, summary, hint)
        }
        ProvisionError::NotRegistered { .. } => Diagnosis::new(Code::RegistrationPending, summary, RERUN),
        ProvisionError::Extension(error) => extension(error, context),
        ProvisionError::NotVisible => Diagnosis::new(Code::ChangeNotVisible, summary, RERUN),
    }
}
