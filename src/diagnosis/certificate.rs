//! SSH certificates of Entra ID. Without one, ssh itself would print only "Permission denied".

use crate::azure::credentials::source::SourceError;
use crate::azure::credentials::{CredentialError, CredentialSource};
use crate::azure::entra::Rejection;
use crate::azure::login::LoginError;
use crate::diagnosis::credentials::{self, credential};
use crate::diagnosis::system::{self, RAISE_PROCESSES};
use crate::diagnosis::{Code, Context, Diagnosis, ExitStatus, Hint, sign_in};
use crate::entra_ssh::IssueError;
use crate::ssh::SshError;

/// "Azure Linux VM Sign-In", the application of Conditional Access policies, whose service principal a tenant may lack
/// (Microsoft Learn, "Sign in to a Linux virtual machine in Azure by using Microsoft Entra ID and OpenSSH").
const SIGN_IN_APPLICATION: &str = "ce6ff14a-7fdc-4685-bbe0-f6afdfcfa8e0";

/// The numbers of the errors if the tenant does not have the application.
const NO_APPLICATION: [&str; 2] = ["500011", "650052"];

pub(super) fn issue(error: &IssueError, context: &Context) -> Diagnosis {
    match error {
        IssueError::Credential { scope, error } => rejected(scope, error, context),
        IssueError::Unsupported(CredentialSource::ManagedIdentity) => Diagnosis::new(
            Code::CertificateRejected,
            "Entra ID issues no SSH certificates to managed identities",
            "sign in: arcssh login; or set AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET",
        ),
        IssueError::Unsupported(source) => Diagnosis::new(
            Code::CertificateRejected,
            format!("{} cannot request SSH certificates", source.title()),
            credentials::sign_in(""),
        ),
        IssueError::Unusable(problem) => Diagnosis::new(
            Code::UnusableCertificate,
            format!("Entra ID issued an unusable certificate: {problem}"),
            "check the clock of this computer, and AZURE_AUTHORITY_HOST if you set it",
        ),
        IssueError::WrongLoginName { name, entry } => Diagnosis::new(
            Code::WrongAccount,
            error.to_string(),
            format!("sign in as {entry}; or, for host entries of {name}, run: arcssh config"),
        ),
        IssueError::NotCached => Diagnosis::new(
            Code::NoCertificate,
            error.to_string(),
            Hint::new("get a certificate: ", "arcssh cert"),
        ),
        IssueError::State(error) => system::system(error),
        IssueError::NoKey(error) => no_key(error),
    }
}

/// Diagnoses a failure of ssh-keygen.
pub(super) fn no_key(error: &SshError) -> Diagnosis {
    let hint = match error {
        SshError::NoKeygen => "install the OpenSSH client, which includes ssh-keygen",
        SshError::NoProcess(_) => RAISE_PROCESSES,
        _ => "free disk space, or name a writable directory in TMPDIR",
    };
    Diagnosis::new(Code::KeyGenerationFailed, format!("cannot create a key for a certificate: {error}"), hint)
}

fn rejected(scope: &str, error: &CredentialError, context: &Context) -> Diagnosis {
    let diagnosis = credential(error, context);
    if diagnosis.code.exit_status() == ExitStatus::Network {
        return diagnosis;
    }
    let CredentialError::Failed { from, error, .. } = error else { return diagnosis };
    let (SourceError::Entra(rejection) | SourceError::Login(LoginError::Rejected(rejection))) = &**error
    else {
        return diagnosis;
    };
    Diagnosis {
        summary: format!("no SSH certificate: {}", diagnosis.summary),
        hint: grant_hint(scope, *from, rejection).or(diagnosis.hint),
        ..diagnosis
    }
}

/// Returns the hint for a rejected grant for certificates; `None` if the source decides.
fn grant_hint(scope: &str, from: CredentialSource, rejection: &Rejection) -> Option<Hint> {
    // Only Azure CLI can present a device, and only on Windows and macOS.
    if sign_in::is_device_rejected(&rejection.description) {
        return Some(
            "Conditional Access for Azure Linux VM Sign-In rejects this device; on a managed Windows or macOS device, run az login and add --credential azure-cli"
                .into(),
        );
    }
    if sign_in::names(&rejection.description, &NO_APPLICATION) {
        return Some(
            format!("ask an administrator of the tenant to run: az ad sp create --id {SIGN_IN_APPLICATION}")
                .into(),
        );
    }
    let requires_user = ["interaction_required", "invalid_grant", "consent_required", "login_required"];
    (from == CredentialSource::Arcssh && requires_user.contains(&rejection.error.as_str()))
        .then(|| credentials::sign_in(&format!(" --scope {scope}")))
}
