//! Why no account is signed in, or somebody was refused, in words.

use std::error::Error as StdError;

use anyhow::Error;

use crate::azure::credentials::{
    AgentNotRunning, CertificateProblem, CredentialError, CredentialSource, Impostor, IncompleteEnvironment,
    InvalidClientCertificate, START_AGENT,
};
use crate::azure::entra::EntraError;
use crate::azure::http::TooLong;
use crate::azure::login::StillStored;
use crate::azure::login::key_store::Unusable;
use crate::commands::doctor::report::Hint;
use crate::commands::login::{AnotherAccount, NowhereToKeep};
use crate::diagnosis::{
    EXIT_AUTH, EXIT_NETWORK, FAILED, TRY_LATER, Told, again, causes, chain, explain_too_open,
    explain_way_out, is_set, network, root,
};
use crate::state::{InsecurePermissions, OTHER_DIRECTORY};
use crate::text::{shell_quote, unset_variable};

/// The way to an identity that needs no other program.
const SIGN_IN: &str = "run arcssh login";
const SERVICE_PRINCIPAL: &str =
    "check AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET, or unset them and run arcssh login";
const CERTIFICATE: &str = "check AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_CERTIFICATE_PATH, or unset them and run arcssh login";

/// A sign-in by arcssh, with `options` that begin with a space.
pub(super) fn sign_in(options: &str) -> Hint {
    Hint::new(format!("{SIGN_IN}{options}"), format!("arcssh login{options}"))
}

/// What azure_identity writes between the name of a credential and why it failed.
const FAILED_CREDENTIAL: &str = " authentication failed.";

/// No source gives a token.
pub(super) fn explain_no_token(no_token: &CredentialError) -> Told {
    match no_token {
        CredentialError::Nobody(Some(absent)) => {
            let why = format!(
                "no account is signed in; of the machine's own identity: {absent} ({})",
                absent.remedy
            );
            Told::new(EXIT_AUTH, why, sign_in(""))
        }
        CredentialError::Nobody(None) => Told::new(
            EXIT_AUTH,
            "no account is signed in: no service principal, no managed identity, no sign-in of arcssh, Azure CLI or PowerShell",
            sign_in(""),
        ),
        CredentialError::Unavailable { from, absent } => {
            Told::new(EXIT_AUTH, format!("{} was asked for: {absent}", from.title()), absent.remedy.clone())
        }
        CredentialError::Refused { from, tenant, error } => explain_refused(*from, tenant.as_deref(), error),
        CredentialError::Store(too_open) => explain_too_open(too_open),
    }
}

fn explain_refused(from: CredentialSource, tenant: Option<&str>, error: &Error) -> Told {
    let chain = || chain(error.as_ref());
    if error.is::<AgentNotRunning>() {
        let why = format!("{AgentNotRunning} ({})", root(error.as_ref()));
        let hint =
            format!("type azcmagent show, and {START_AGENT}; or name another identity with --credential");
        return Told::new(EXIT_AUTH, why, hint);
    }
    if let Some(impostor) = error.downcast_ref::<Impostor>() {
        let hint = format!("stop that process, then start the agent: {START_AGENT}");
        return Told::new(EXIT_AUTH, impostor.to_string(), hint);
    }
    if let Some(told) = explain_way_out(error.as_ref(), None, "Entra ID") {
        return told;
    }
    if let Some(unusable) = error.downcast_ref::<Unusable>() {
        let why = format!("the sign-in of arcssh cannot be used: {unusable}");
        let hint = match remedy(unusable) {
            Some(first) => format!("{first}, or {RUN_LOGIN}").into(),
            None => Hint::new(RUN_LOGIN, "arcssh login"),
        };
        return Told::new(EXIT_AUTH, why, hint);
    }
    if let Some(too_open) = chain().find_map(|cause| cause.downcast_ref::<InsecurePermissions>()) {
        return explain_too_open(too_open);
    }
    if let Some(refusal) = chain().find_map(|cause| cause.downcast_ref::<EntraError>()) {
        let who = tenant.map_or(String::new(), |tenant| format!(" in the machine's tenant {tenant}"));
        return explain_entra(refusal, &format!("{}{who} was refused", from.title()), hint(from, tenant));
    }
    if let Some(too_long) = chain().find_map(|cause| cause.downcast_ref::<TooLong>()) {
        let why = format!("{} gives no token, but an answer without end: {too_long}", from.title());
        return Told::new(EXIT_AUTH, why, hint(from, tenant));
    }
    if let Some(error) =
        chain().find(|cause| cause.is::<reqwest::Error>() && from != CredentialSource::ManagedIdentity)
    {
        let why = format!("Entra ID cannot be reached: {}", root(error));
        return Told::new(EXIT_NETWORK, why, network());
    }
    if let Some(InvalidClientCertificate { path, flaw }) = error.downcast_ref() {
        return Told::new(EXIT_AUTH, causes(error.chain()), usable(path, *flaw));
    }
    if error.is::<IncompleteEnvironment>() {
        return Told::new(EXIT_AUTH, error.to_string(), hint(from, tenant));
    }
    let why = format!("{} gives no token: {}", from.title(), own_words(error));
    Told::new(EXIT_AUTH, why, hint(from, tenant))
}

const RUN_LOGIN: &str = "run: arcssh login";

/// What makes a key store usable; none where only another sign-in helps.
fn remedy(unusable: &Unusable) -> Option<String> {
    match unusable {
        Unusable::Off => Some(unset_variable("ARCSSH_NO_KEYRING")),
        Unusable::Unavailable => Some("use a session that has your key store".into()),
        Unusable::Locked => Some("unlock the key store".into()),
        Unusable::Silent | Unusable::Failed(_) => Some("restart the key store".into()),
        Unusable::Empty => None,
    }
}

/// A sign-out that left a refresh token behind.
pub(super) fn explain_still_stored(StillStored(unusable): &StillStored) -> Told {
    let why = format!("the refresh token is still in the key store: {unusable}");
    let first = remedy(unusable).map_or(String::new(), |first| format!("{first}, then "));
    Told::new(FAILED, why, format!("{first}run: arcssh logout"))
}

/// What makes a certificate usable.
fn usable(path: &str, flaw: CertificateProblem) -> String {
    let (old, new) = (shell_quote(path), shell_quote(&format!("{path}.pem")));
    match flaw {
        CertificateProblem::NotPem => {
            format!("openssl pkcs12 -in {old} -out {new} -nodes, and name that file")
        }
        CertificateProblem::Locked if cfg!(windows) => without_password_in_powershell(&old, &new),
        CertificateProblem::Locked => without_password_in_unix(&old, &new),
        CertificateProblem::NoCertificate
        | CertificateProblem::NoKey
        | CertificateProblem::NotRsa
        | CertificateProblem::Rejected(_) => {
            "name a PEM file that holds both, an RSA key without a password and its certificate".into()
        }
    }
}

pub(super) fn without_password_in_unix(old: &str, new: &str) -> String {
    format!("openssl pkey -in {old} -out {new} && openssl x509 -in {old} >> {new}, and name that file")
}

/// Windows PowerShell knows no `&&`, and its `>>` writes UTF-16 (Microsoft Learn, "about_Pipeline_Chain_Operators",
/// "about_Redirection").
pub(super) fn without_password_in_powershell(old: &str, new: &str) -> String {
    format!(
        "openssl pkey -in {old} -out {new}; openssl x509 -in {old} | Add-Content -Encoding ascii {new}; then name that file"
    )
}

/// What to do where a source refuses.
fn hint(from: CredentialSource, tenant: Option<&str>) -> Hint {
    let option = |name: &str| tenant.map_or(String::new(), |tenant| format!(" {name} {tenant}"));
    match from {
        CredentialSource::Environment if is_set("AZURE_CLIENT_SECRET") => SERVICE_PRINCIPAL.into(),
        CredentialSource::Environment => CERTIFICATE.into(),
        CredentialSource::WorkloadIdentity => {
            "check AZURE_TENANT_ID, AZURE_CLIENT_ID and the federated credentials of the application".into()
        }
        CredentialSource::ManagedIdentity => {
            "name another identity with --credential or ARCSSH_CREDENTIAL".into()
        }
        CredentialSource::Arcssh | CredentialSource::Any => sign_in(&option("--tenant")),
        CredentialSource::AzureCli => {
            format!("run az login{0}, or arcssh login{0}", option("--tenant")).into()
        }
        CredentialSource::AzureDeveloperCli => {
            format!("run azd auth login{}, or arcssh login", option("--tenant-id")).into()
        }
        CredentialSource::AzurePowershell => {
            format!("run Connect-AzAccount{}, or arcssh login", option("-Tenant")).into()
        }
    }
}

/// Entra ID's own answers begin with AADSTS (Microsoft Learn, "Microsoft Entra authentication and authorization error
/// codes"); what else comes in its place is somebody else's.
fn explain_entra(refusal: &EntraError, what: &str, hint: Hint) -> Told {
    let EntraError { host, status, description, retry_after, .. } = refusal;
    let answer = format!("{status} {description}");
    let answer = answer.trim_end();
    match status {
        429 => Told::new(FAILED, "Entra ID has had too many requests (429)", again(*retry_after)),
        408 => {
            Told::new(EXIT_NETWORK, format!("Entra ID did not get the request in time ({answer})"), network())
        }
        500.. => Told::new(FAILED, format!("Entra ID has a fault ({answer})"), TRY_LATER),
        400..500 if !description.is_empty() => Told::new(EXIT_AUTH, format!("{what}: {description}"), hint),
        _ => Told::new(
            EXIT_NETWORK,
            format!("something on the way to Entra ID answered ({answer})"),
            format!(
                "let https://{host} pass the network and its proxy; check --cloud, and AZURE_AUTHORITY_HOST if you set it"
            ),
        ),
    }
}

/// The words of a source: of azure_identity they quote what a program printed.
///
/// The retry policy wraps them in an error that says nothing.
fn own_words(error: &Error) -> String {
    let texts = || error.chain().map(ToString::to_string);
    let text = texts().find(|text| text.contains(FAILED_CREDENTIAL)).unwrap_or_else(|| causes(error.chain()));
    let words = text.split_once(FAILED_CREDENTIAL).map_or(text.as_str(), |(_, words)| words);
    let lines = words.lines().map(str::trim);
    lines
        .filter(|line| !line.is_empty() && !line.starts_with("To troubleshoot"))
        .collect::<Vec<_>>()
        .join(" ")
}

/// A sign-in that failed.
pub(super) fn explain_sign_in(error: &Error) -> Told {
    const AGAIN: &str = "run arcssh login again; with --device-code a browser on another device can be used";
    if let Some(told) = explain_way_out(error.as_ref(), None, "Entra ID") {
        return told;
    }
    let causes: Vec<&(dyn StdError + 'static)> = error.chain().skip(1).collect();
    if error.is::<NowhereToKeep>() {
        let why = super::causes(causes.into_iter());
        return Told::new(FAILED, why, OTHER_DIRECTORY);
    }
    if let Some(another) = error.downcast_ref::<AnotherAccount>() {
        let command = format!("arcssh login --account {}", shell_quote(&another.name));
        let hint = Hint::new(format!("to use this account, run: {command}"), command);
        return Told::new(EXIT_AUTH, another.to_string(), hint);
    }
    if let Some(refusal) = causes.iter().find_map(|cause| cause.downcast_ref::<EntraError>()) {
        return explain_entra(refusal, "the sign-in was refused", AGAIN.into());
    }
    Told::new(EXIT_AUTH, format!("cannot sign in: {}", super::causes(causes.into_iter())), AGAIN)
}
