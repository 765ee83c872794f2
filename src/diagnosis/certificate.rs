//! Why there is no SSH certificate to log in with, in words.

use crate::azure::credentials::{CredentialError, CredentialSource, MissingSshExtension};
use crate::azure::entra::EntraError;
use crate::commands::doctor::report::Hint;
use crate::diagnosis::credentials::{explain_no_token, sign_in};
use crate::diagnosis::system::RAISE_PROCESSES;
use crate::diagnosis::{EXIT_AUTH, EXIT_NETWORK, FAILED, Told, causes, chain, explain_too_open};
use crate::entra_ssh::{AzureCliOptions, IssueError};
use crate::ssh::rsa_key::NoProgram;

/// "Azure Linux VM Sign-In", the application that Conditional Access knows, and whose service principal a tenant may
/// lack (Microsoft Learn, "Sign in to a Linux virtual machine in Azure by using Microsoft Entra ID and OpenSSH").
const SIGN_IN_APPLICATION: &str = "ce6ff14a-7fdc-4685-bbe0-f6afdfcfa8e0";

/// Devices that a policy does not take (Microsoft Learn, "Microsoft Entra authentication and authorization error
/// codes"): what a device is, only Azure CLI can tell, and on Windows and macOS alone.
const DEVICE: [&str; 4] = ["AADSTS53000", "AADSTS53001", "AADSTS53003", "AADSTS530003"];
/// Refusals of a tenant that does not have the application (the same).
const NO_APPLICATION: [&str; 2] = ["AADSTS500011", "AADSTS650052"];

/// No certificate, and so no login: ssh itself would say "Permission denied".
pub(super) fn explain_no_certificate(none: &IssueError) -> Told {
    match none {
        IssueError::Refused { scope, error } => explain_refused(scope, error),
        IssueError::NoWay(CredentialSource::ManagedIdentity) => Told::new(
            EXIT_AUTH,
            "there is no SSH certificate for a managed identity: Entra ID makes none",
            "run arcssh login, or set AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET",
        ),
        IssueError::NoWay(source) => Told::new(
            EXIT_AUTH,
            format!("{} has no way to ask for an SSH certificate", source.title()),
            sign_in(""),
        ),
        IssueError::Unusable(error) => Told::new(
            FAILED,
            format!("what Entra ID gave cannot log in: {error}"),
            "check AZURE_AUTHORITY_HOST, if it is set, and this machine's clock",
        ),
        IssueError::Another { name, section } => Told::new(
            EXIT_AUTH,
            none.to_string(),
            format!("sign in as {section}, or run arcssh config for sections of {name}"),
        ),
        IssueError::NoneKept => {
            Told::new(FAILED, none.to_string(), Hint::new("arcssh cert gets one", "arcssh cert"))
        }
        IssueError::Store(open) => explain_too_open(open),
        IssueError::NoKey(error) => {
            let why = format!("{none}: {}", causes(error.chain()));
            let lacks_processes = |cause: &std::io::Error| cause.kind() == std::io::ErrorKind::WouldBlock;
            let hint = match error.downcast_ref().is_some_and(lacks_processes) {
                _ if error.is::<NoProgram>() => "install OpenSSH's client, which ssh-keygen comes with",
                true => RAISE_PROCESSES,
                false => "free the disk, or name a folder that can be written to in TMPDIR",
            };
            Told::new(FAILED, why, hint)
        }
    }
}

fn explain_refused(scope: &str, error: &CredentialError) -> Told {
    let told = explain_no_token(error);
    if told.status == EXIT_NETWORK {
        return told;
    }
    let CredentialError::Refused { from, error, .. } = error else { return told };
    if error.is::<MissingSshExtension>() {
        return Told::new(told.status, error.to_string(), "run arcssh login, or az extension add --name ssh");
    }
    if error.is::<AzureCliOptions>() {
        return Told::new(told.status, error.to_string(), "leave them out, or run arcssh login");
    }
    let Some(refusal) = chain(error.as_ref()).find_map(|cause| cause.downcast_ref::<EntraError>()) else {
        return told;
    };
    Told {
        why: format!("no SSH certificate: {}", told.why),
        hint: remedy(scope, *from, refusal).or(told.hint),
        ..told
    }
}

/// What a refusal of the grant for certificates wants.
fn remedy(scope: &str, from: CredentialSource, refusal: &EntraError) -> Option<Hint> {
    let is = |codes: &[&str]| codes.iter().any(|code| refusal.description.starts_with(&format!("{code}:")));
    if is(&DEVICE) {
        return Some(
            "Conditional Access of Azure Linux VM Sign-In is in the way; where it wants a managed device, az login on Windows or macOS and --credential azure-cli pass"
                .into(),
        );
    }
    if is(&NO_APPLICATION) {
        return Some(
            format!("an administrator of the tenant types: az ad sp create --id {SIGN_IN_APPLICATION}")
                .into(),
        );
    }
    let wants_user = ["interaction_required", "invalid_grant", "consent_required", "login_required"];
    (from == CredentialSource::Arcssh && wants_user.contains(&refusal.error.as_str()))
        .then(|| sign_in(&format!(" --scope {scope}")))
}
