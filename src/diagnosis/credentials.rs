//! Accounts: where a token comes from, and why there is none.

use clap::ValueEnum as _;

use crate::azure::cloud::CloudName;
use crate::azure::credentials::service_principal::federated_token::FederatedToken;
use crate::azure::credentials::service_principal::variable;
use crate::azure::credentials::source::{
    CLIENT_ID, CertificateProblem, Issuer, MetadataServiceError, SourceError, TENANT_ID, Unavailable,
};
use crate::azure::credentials::{CredentialError, CredentialSource};
use crate::azure::entra::Rejection;
use crate::azure::login::LoginError;
use crate::azure::login::key_store::KeyStoreError;
use crate::diagnosis::network::{TRY_LATER, allow_https, check_network, net, retry_in};
use crate::diagnosis::sign_in::{self, Flow};
use crate::diagnosis::{Code, Context, Diagnosis, Hint, system};
use crate::system::clock::{format_time, unix_now};
use crate::text::{shell_quote, unset_variable};

const SERVICE_PRINCIPAL: &str =
    "check AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET, or unset them and run: arcssh login";
const CERTIFICATE: &str = "check AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_CERTIFICATE_PATH, or unset them and run: arcssh login";
/// The options of the command line must stay.
const RETRY_LOGIN: &str =
    "run the same command again; to sign in with a browser on another device, add --device-code";
const RETRY_DEVICE_CODE: &str =
    "run the same command again; to sign in with a browser on this computer, remove --device-code";
const SELECT_SOURCE: &str = "select another credential source with --credential or ARCSSH_CREDENTIAL";
const TOKEN_CREDENTIALS: &str = "set AZURE_TOKEN_CREDENTIALS to dev, prod, EnvironmentCredential, WorkloadIdentityCredential, ManagedIdentityCredential, AzureCliCredential, AzureDeveloperCliCredential or AzurePowerShellCredential, or select a source with --credential";
/// The text of IMDS if a machine has several identities and the request names none (Azure/azure-sdk-for-net issue 13481).
const SEVERAL_IDENTITIES: &str = "Multiple user assigned identities";

/// Returns a hint to sign in, with `options` that begin with a space.
pub(super) fn sign_in(options: &str) -> Hint {
    Hint::new("sign in: ", format!("arcssh login{options}"))
}

/// How to start the Arc agent (Microsoft Learn, "Overview of Azure Connected Machine agent": its services).
const START_AGENT: &str = if cfg!(windows) { "Start-Service himds" } else { "sudo systemctl start himdsd" };

/// How to get access to an Arc machine's token (Microsoft Learn, "Authenticate against Azure resources with Azure
/// Arc-enabled servers").
const JOIN_GROUP: &str = if cfg!(windows) {
    "run arcssh as an administrator, or join the group Hybrid agent extension applications"
} else {
    "join the agent's group, then log in again: sudo usermod -a -G himds $USER"
};

pub(super) fn credential(error: &CredentialError, context: &Context) -> Diagnosis {
    match error {
        CredentialError::NotSignedIn(reasons) => not_signed_in(reasons),
        CredentialError::TokenCredentials(_) => {
            Diagnosis::new(Code::CredentialUnavailable, error.to_string(), TOKEN_CREDENTIALS)
        }
        CredentialError::Unavailable { from, unavailable: cause } => unavailable(*from, cause),
        CredentialError::Failed { from, tenant, error } => failed(*from, tenant.as_deref(), error, context),
        CredentialError::State(error) => system::system(error),
    }
}

/// Diagnoses a search without a result. The reasons are those of sources that exist on this computer, or of all those that the
/// user selected.
fn not_signed_in(reasons: &[(CredentialSource, Unavailable)]) -> Diagnosis {
    if reasons.is_empty() {
        return Diagnosis::new(
            Code::NotSignedIn,
            "no account is signed in: arcssh found no service principal, no managed identity, and no sign-in of arcssh, Azure CLI, Azure Developer CLI or Azure PowerShell",
            sign_in(""),
        );
    }
    let texts = reasons.iter().map(|(from, cause)| format!("{} is unavailable: {cause}", from.title()));
    let all_sources = reasons.iter().all(|(_, cause)| cause.is_notable());
    let (programs, others): (Vec<_>, Vec<_>) = reasons
        .iter()
        .partition(|(_, cause)| matches!(cause, Unavailable::SignedOut(_) | Unavailable::NoSignIn));
    let commands = programs.into_iter().map(|(from, _)| sign_in_command(*from, None));
    let own = sign_in_command(CredentialSource::Arcssh, None);
    let commands: Vec<String> = all_sources.then_some(own).into_iter().chain(commands).collect();
    let sign_in = (!commands.is_empty()).then(|| format!("sign in: {}", alternatives(&commands)));
    let remedies = others.into_iter().map(|(from, cause)| remedy(*from, cause).text);
    let hints: Vec<String> = sign_in.into_iter().chain(remedies).collect();
    Diagnosis::new(
        Code::NotSignedIn,
        format!("no account is signed in: {}", texts.collect::<Vec<_>>().join("; ")),
        hints.join("; or "),
    )
}

fn unavailable(from: CredentialSource, cause: &Unavailable) -> Diagnosis {
    Diagnosis::new(
        Code::CredentialUnavailable,
        format!("the credential source {} is unavailable: {cause}", from.name()),
        remedy(from, cause),
    )
}

fn remedy(from: CredentialSource, unavailable: &Unavailable) -> Hint {
    match unavailable {
        Unavailable::NoSignIn => sign_in(""),
        Unavailable::NoSecret => {
            "set AZURE_TENANT_ID, AZURE_CLIENT_ID, and AZURE_CLIENT_SECRET or AZURE_CLIENT_CERTIFICATE_PATH"
                .into()
        }
        Unavailable::NoFederatedToken => {
            "set AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_FEDERATED_TOKEN_FILE; in GitHub Actions, set the first two, and grant the job the permission id-token: write".into()
        }
        Unavailable::IncompletePipeline { issuer, missing } => complete_pipeline(*issuer, missing).into(),
        Unavailable::NotInstalled { product, .. } => {
            format!("install {product}, or add its directory to PATH").into()
        }
        Unavailable::CannotRun { product, .. } => format!("repair or remove {product}").into(),
        Unavailable::SignedOut(_) => source_hint(from, None),
        Unavailable::NoPowerShellModule => {
            Hint::new("install the module in PowerShell: ", "Install-Module Az.Accounts")
        }
        Unavailable::KeyOfAgent(_) => JOIN_GROUP.into(),
        Unavailable::NoManagedIdentity(_) => "assign a managed identity to this computer".into(),
        Unavailable::NoResponse(_) => {
            "let this computer connect to 169.254.169.254, if it is an Azure VM".into()
        }
    }
}

/// Returns how to set a variable in a job of a pipeline.
fn complete_pipeline(issuer: Issuer, missing: &str) -> String {
    match (issuer, missing) {
        (_, TENANT_ID | CLIENT_ID) => format!("set {TENANT_ID} and {CLIENT_ID} in the job"),
        (Issuer::GitHubActions, _) => "grant the job the permission id-token: write".into(),
        (Issuer::AzurePipelines, "SYSTEM_ACCESSTOKEN") => {
            "add to env of the step: SYSTEM_ACCESSTOKEN: $(System.AccessToken)".into()
        }
        (Issuer::AzurePipelines, name) => format!("set {name} to the ID of the service connection"),
    }
}

fn failed(from: CredentialSource, tenant: Option<&str>, error: &SourceError, context: &Context) -> Diagnosis {
    match error {
        SourceError::Unavailable(cause) => unavailable(from, cause),
        SourceError::AgentNotRunning(cause) => Diagnosis::new(
            Code::ArcAgentUnavailable,
            format!("the Arc agent of this computer does not respond ({cause})"),
            format!(
                "check the agent with azcmagent show, or select another credential source with --credential; to start the agent, run: {START_AGENT}"
            ),
        ),
        SourceError::Impostor { .. } => Diagnosis::new(
            Code::ArcAgentUnavailable,
            error.to_string(),
            format!("stop that process; then start the agent: {START_AGENT}"),
        ),
        SourceError::Login(error) => login(error, Some((from, tenant)), context),
        SourceError::Entra(rejection) => {
            let tenant_text =
                tenant.map_or(String::new(), |tenant| format!(" in the machine's tenant {tenant}"));
            let what = format!("Entra ID rejected {}{tenant_text}", account(from));
            let hint = cause_hint(from, &rejection.description).unwrap_or_else(|| source_hint(from, tenant));
            entra(rejection, &what, hint)
        }
        SourceError::Net(error) => net(error),
        SourceError::State(error) => system::system(error),
        SourceError::ClientCertificate { path, problem } => Diagnosis::new(
            Code::CredentialRejected,
            format!("the certificate {path} cannot be used: {problem}"),
            usable_certificate(path, *problem),
        ),
        SourceError::IncompleteEnvironment { .. } => {
            Diagnosis::new(Code::CredentialRejected, error.to_string(), source_hint(from, tenant))
        }
        SourceError::MissingSshExtension => Diagnosis::new(
            Code::CertificateRejected,
            error.to_string(),
            "sign in: arcssh login; or install the extension: az extension add --name ssh",
        ),
        SourceError::AzureCliOptions => Diagnosis::new(
            Code::CertificateRejected,
            error.to_string(),
            "remove these options, or sign in with them: arcssh login",
        ),
        SourceError::Variable { name, expected, .. } => Diagnosis::new(
            Code::CredentialRejected,
            error.to_string(),
            format!("set {name} to {expected}, or {}", unset_variable(name)),
        ),
        SourceError::OtherCloud { .. }
        | SourceError::Oidc { .. }
        | SourceError::NoToken
        | SourceError::OtherTenant { .. }
        | SourceError::MetadataService(_)
        | SourceError::Failed(_) => Diagnosis::new(
            Code::CredentialRejected,
            format!("cannot get a token of {}: {error}", account(from)),
            failure_hint(from, tenant, error),
        ),
    }
}

/// Returns the source with the application that the environment selects, for a sentence.
fn account(from: CredentialSource) -> String {
    let is_application = matches!(from, CredentialSource::Environment | CredentialSource::WorkloadIdentity);
    let id = variable("AZURE_CLIENT_ID").ok().flatten().filter(|_| is_application);
    id.map_or_else(|| from.title().to_owned(), |id| format!("{} (application {id})", from.title()))
}

fn failure_hint(from: CredentialSource, tenant: Option<&str>, error: &SourceError) -> Hint {
    match error {
        SourceError::Oidc { issuer: Issuer::GitHubActions, .. } => {
            "grant the job the permission id-token: write".into()
        }
        SourceError::Oidc { issuer: Issuer::AzurePipelines, .. } => {
            "check the ID of the service connection, and set SYSTEM_ACCESSTOKEN to $(System.AccessToken)"
                .into()
        }
        SourceError::NoToken => format!("update {}; or {SELECT_SOURCE}", from.title()).into(),
        SourceError::OtherCloud { own, cloud, .. } => {
            let change = format!("az cloud set --name {}", cloud.in_azure_cli());
            match CloudName::from_str(own, true).ok().and_then(|own| own.to_possible_value()) {
                Some(own) => {
                    format!("add --cloud {}; or change the cloud of Azure CLI: {change}", own.get_name())
                        .into()
                }
                None => Hint::new("change the cloud of Azure CLI: ", change),
            }
        }
        SourceError::OtherTenant { tenant, .. } => sign_in(&format!(" --tenant {}", shell_quote(tenant))),
        SourceError::MetadataService(MetadataServiceError { description, .. })
            if description.contains(SEVERAL_IDENTITIES) =>
        {
            "set AZURE_CLIENT_ID to the client ID of one of the identities".into()
        }
        SourceError::MetadataService(MetadataServiceError { client_id: Some(id), .. }) => format!(
            "check AZURE_CLIENT_ID: assign the identity {id} to this computer, or {}",
            unset_variable("AZURE_CLIENT_ID")
        )
        .into(),
        SourceError::Failed(message) => {
            let hint = cause_hint(from, message).or_else(|| program_hint(from, message));
            hint.unwrap_or_else(|| source_hint(from, tenant))
        }
        _ => source_hint(from, tenant),
    }
}

/// Returns the hint for a cause that Entra ID names, also in the output of a program; `None` if the source decides.
fn cause_hint(from: CredentialSource, text: &str) -> Option<Hint> {
    let is = |expected: &[&str]| sign_in::names(text, expected);
    let is_application = from == CredentialSource::Environment;
    if is(&["700024", "500133"]) {
        Some(expired_assertion(from))
    } else if is(&["90002", "900023"]) {
        Some(sign_in::CHECK_TENANT.into())
    } else if is_application && is(&["7000222"]) {
        Some("create a new client secret of the application, and set AZURE_CLIENT_SECRET to its value".into())
    } else if is_application && is(&["700027"]) {
        Some("upload the certificate in AZURE_CLIENT_CERTIFICATE_PATH to the application; for an application that accepts certificates by subject and issuer, set AZURE_CLIENT_SEND_CERTIFICATE_CHAIN=true".into())
    } else {
        None
    }
}

/// Texts of a program's error that ask for a sign-in, in lower case: Entra ID's code, and the texts of azure-cli-core,
/// `auth/util.py`, azure-dev, `pkg/auth`, and Az.Accounts, `Resources.resx`.
const SIGN_IN_TEXTS: [&str; 10] = [
    "aadsts",
    "az login",
    "auth login",
    "connect-azaccount",
    "authenticat",
    "expired",
    "log in",
    "logged in",
    "sign in",
    "signed in",
];
/// The text of Azure CLI without a network (azure-cli-core, `_profile.py`), and that of its library (urllib3, `exceptions.py`).
const OFFLINE_TEXTS: [&str; 2] = ["ensure you have network connection", "max retries exceeded"];

/// Returns the hint for an error of a program that asks for no sign-in; `None` for one that does.
fn program_hint(from: CredentialSource, message: &str) -> Option<Hint> {
    let command = match from {
        CredentialSource::AzureCli => "az account get-access-token",
        CredentialSource::AzureDeveloperCli => "azd auth token",
        CredentialSource::AzurePowershell => "Get-AzAccessToken",
        _ => return None,
    };
    let message = message.to_lowercase();
    let has = |texts: &[&str]| texts.iter().any(|text| message.contains(text));
    if has(&OFFLINE_TEXTS) {
        Some(check_network())
    } else if has(&SIGN_IN_TEXTS) {
        None
    } else {
        let title = from.title();
        Some(format!("to check {title}, run: {command}; or sign in without {title}: arcssh login").into())
    }
}

/// Returns the hint for an assertion that is not valid at Entra ID's time: it has expired, or the clock that dated it is
/// wrong.
fn expired_assertion(from: CredentialSource) -> Hint {
    let expired = FederatedToken::file_expiry().filter(|(_, expiry)| *expiry <= unix_now());
    match (from, expired) {
        (CredentialSource::WorkloadIdentity, Some((file, expiry))) => format!(
            "renew the token in {file}: it expired at {}, and the program that writes it must replace it earlier",
            format_time(expiry)
        )
        .into(),
        (CredentialSource::Environment | CredentialSource::WorkloadIdentity, _) => {
            "check the clock of this computer".into()
        }
        _ => format!("check the clock of this computer; or {}", source_hint(from, None).text).into(),
    }
}

/// Returns how to make a key store usable; `None` if only another sign-in helps.
fn unlock(problem: &KeyStoreError) -> Option<String> {
    match problem {
        KeyStoreError::Off => Some(unset_variable("ARCSSH_NO_KEYRING")),
        KeyStoreError::Unavailable => Some("use a session that has your key store".into()),
        KeyStoreError::Locked => Some("unlock the key store".into()),
        KeyStoreError::TimedOut | KeyStoreError::Failed(_) => Some("restart the key store".into()),
        KeyStoreError::Empty => None,
    }
}

/// Diagnoses a certificate of a service principal.
fn usable_certificate(path: &str, problem: CertificateProblem) -> String {
    let old = shell_quote(path);
    let new = shell_quote(&format!("{path}.pem"));
    match problem {
        CertificateProblem::NotPem => {
            format!("convert it, and name the new file: openssl pkcs12 -in {old} -out {new} -nodes")
        }
        CertificateProblem::Locked if cfg!(windows) => without_password_in_powershell(&old, &new),
        CertificateProblem::Locked => without_password_in_unix(&old, &new),
        CertificateProblem::NoCertificate
        | CertificateProblem::AnotherKey
        | CertificateProblem::NoKey
        | CertificateProblem::NotRsa
        | CertificateProblem::Rejected(_) => {
            "name a PEM file with an RSA key without a password, and its certificate".into()
        }
    }
}

pub(super) fn without_password_in_unix(old: &str, new: &str) -> String {
    format!(
        "remove the password, and name the new file: openssl pkey -in {old} -out {new} && openssl x509 -in {old} >> {new}"
    )
}

/// Windows PowerShell has no `&&`, and its `>>` writes UTF-16 (Microsoft Learn, "about_Pipeline_Chain_Operators",
/// "about_Redirection").
pub(super) fn without_password_in_powershell(old: &str, new: &str) -> String {
    format!(
        "remove the password, and name the new file: openssl pkey -in {old} -out {new}; openssl x509 -in {old} | Add-Content -Encoding ascii {new}"
    )
}

/// Returns what to check if Entra ID rejects a source.
pub(super) fn source_hint(from: CredentialSource, tenant: Option<&str>) -> Hint {
    match from {
        CredentialSource::Environment if !matches!(variable("AZURE_CLIENT_SECRET"), Ok(None)) => {
            SERVICE_PRINCIPAL.into()
        }
        CredentialSource::Environment => CERTIFICATE.into(),
        CredentialSource::WorkloadIdentity => {
            "check AZURE_TENANT_ID, AZURE_CLIENT_ID and the federated credentials of the application".into()
        }
        CredentialSource::ManagedIdentity => SELECT_SOURCE.into(),
        CredentialSource::Arcssh | CredentialSource::Any | CredentialSource::Unset => {
            sign_in(&option("--tenant", tenant))
        }
        CredentialSource::AzureCli => {
            let own = sign_in_command(CredentialSource::Arcssh, tenant);
            format!("sign in again: {}; or: {own}", sign_in_command(from, tenant)).into()
        }
        CredentialSource::AzureDeveloperCli | CredentialSource::AzurePowershell => {
            format!("sign in again: {}; or: arcssh login", sign_in_command(from, tenant)).into()
        }
    }
}

/// Returns the command that signs in to a program, or to arcssh.
fn sign_in_command(from: CredentialSource, tenant: Option<&str>) -> String {
    let (command, name) = match from {
        CredentialSource::AzureCli => ("az login", "--tenant"),
        CredentialSource::AzureDeveloperCli => ("azd auth login", "--tenant-id"),
        CredentialSource::AzurePowershell => ("Connect-AzAccount", "-Tenant"),
        _ => ("arcssh login", "--tenant"),
    };
    format!("{command}{}", option(name, tenant))
}

/// Joins texts: `a, b or c`.
fn alternatives(texts: &[String]) -> String {
    match texts {
        [rest @ .., last] if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        _ => texts.concat(),
    }
}

/// Returns an option with its value, which begins with a space; empty without a value.
pub(super) fn option(name: &str, value: Option<&str>) -> String {
    value.map_or(String::new(), |value| format!(" {name} {value}"))
}

/// Entra ID's own descriptions begin with AADSTS (Microsoft Learn, "Microsoft Entra authentication and authorization
/// error codes"); a response without one comes from another program.
fn entra(rejection: &Rejection, what: &str, hint: Hint) -> Diagnosis {
    let Rejection { host, status, description, retry_after, .. } = rejection;
    let answer = format!("{status} {description}");
    let answer = answer.trim_end();
    match status {
        429 => Diagnosis::new(Code::Throttled, "Entra ID throttles requests (429)", retry_in(*retry_after)),
        408 => Diagnosis::new(
            Code::TimedOut,
            format!("Entra ID did not receive the request in time ({answer})"),
            check_network(),
        ),
        500.. => Diagnosis::new(Code::ServiceError, format!("Entra ID failed ({answer})"), TRY_LATER),
        400..500 if !description.is_empty() => {
            Diagnosis::new(Code::CredentialRejected, format!("{what}: {description}"), hint)
        }
        _ => Diagnosis::new(
            Code::UnexpectedResponse,
            format!("a proxy or captive portal responded instead of Entra ID ({answer})"),
            format!("{}; check --cloud, and AZURE_AUTHORITY_HOST if you set it", allow_https(host)),
        ),
    }
}

/// Diagnoses a new sign-in that Entra ID rejects.
fn rejected(rejection: &Rejection, flow: Flow) -> Diagnosis {
    let retry = match flow {
        Flow::Browser => RETRY_LOGIN,
        Flow::DeviceCode => RETRY_DEVICE_CODE,
    };
    let hint = sign_in::hint(&rejection.description, flow).unwrap_or_else(|| retry.into());
    entra(rejection, "Entra ID rejected the sign-in", hint)
}

/// Diagnoses the sign-in of arcssh: a new one, or one that a connection uses as credential source `from`.
pub(super) fn login(
    error: &LoginError,
    from: Option<(CredentialSource, Option<&str>)>,
    context: &Context,
) -> Diagnosis {
    let summary = error.to_string();
    match error {
        LoginError::Rejected(rejection) => match from {
            Some((from, tenant)) => failed(from, tenant, &SourceError::Entra(rejection.clone()), context),
            None => rejected(rejection, Flow::Browser),
        },
        LoginError::DeviceCodeRejected(rejection) => rejected(rejection, Flow::DeviceCode),
        LoginError::Net(error) => net(error),
        LoginError::State(error) => system::system(error),
        LoginError::KeyStore(problem) => {
            let sign_in = sign_in("");
            let hint = match unlock(problem) {
                Some(first) => format!("{first}; or {}", sign_in.text).into(),
                None => sign_in,
            };
            Diagnosis::new(
                Code::KeyStoreUnavailable,
                format!("cannot use the sign-in of arcssh: {problem}"),
                hint,
            )
        }
        LoginError::NotStored(_) => Diagnosis::new(Code::NotStored, summary, system::OTHER_DIRECTORY),
        LoginError::NotDeleted(problem) => {
            let first = unlock(problem).map_or(String::new(), |first| format!("{first}; then "));
            Diagnosis::new(Code::NotDeleted, summary, format!("{first}run: arcssh logout"))
        }
        LoginError::AnotherAccount { name, .. } => Diagnosis::new(
            Code::WrongAccount,
            summary,
            Hint::new("to use this account, run: ", format!("arcssh login --account {}", shell_quote(name))),
        ),
        LoginError::Declined(_) => Diagnosis::without_hint(Code::WrongAccount, summary),
        LoginError::Failed(_) => match from {
            Some((from, tenant)) => failed(from, tenant, &SourceError::Failed(summary), context),
            None => Diagnosis::new(Code::LoginFailed, format!("cannot sign in: {summary}"), RETRY_LOGIN),
        },
    }
}
