//! Every error in words: what failed, why, and the next thing to type. The only advice to users in the program.

use std::error::Error as StdError;
use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Error;
use rustls::CertificateError;

use crate::azure::arm::{ArmError, Refusal};
use crate::azure::credential::NotSetUp;
use crate::azure::entra::EntraRefusal;
use crate::commands::config::{NotUsed, NothingSelected};
use crate::commands::proxy::{Goal, NoMachine};
use crate::fleet::NotOne;
use crate::line::one_line;
use crate::net::proxy::{Refused as ProxyRefused, UnsupportedProxy};
use crate::net::{Step, tls};
use crate::relay::bridge::Broken;
use crate::relay::connect::ConnectError;

/// Exit statuses; 2 is clap's for a command line that cannot be read. ssh passes none of them on.
const FAILED: u8 = 1;
const USAGE: u8 = 2;
const NO_IDENTITY: u8 = 3;
const NOT_ALLOWED: u8 = 4;
const NOT_SET_UP: u8 = 5;
const NO_WAY_OUT: u8 = 6;
const NOBODY_LISTENS: u8 = 7;

/// What a user is told of a failure.
#[derive(Debug)]
struct Told {
    why: String,
    hint: Option<String>,
    status: u8,
}

impl Told {
    fn new(status: u8, why: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { why: why.into(), hint: Some(hint.into()), status }
    }

    fn without_hint(status: u8, why: impl Into<String>) -> Self {
        Self { why: why.into(), hint: None, status }
    }
}

/// Tells the user on standard error, and what to exit with.
pub(crate) fn report(error: &Error) -> ExitCode {
    let goal = error.downcast_ref::<Goal>();
    let Told { why, hint, status } = explain(error, goal);
    let what = match goal {
        Some(goal) if error.is::<Broken>() => format!("lost {goal}: "),
        Some(goal) if !error.is::<NoMachine>() => format!("cannot connect to {goal}: "),
        _ => String::new(),
    };
    // A standard error that is gone leaves nobody to tell.
    let mut stderr = std::io::stderr().lock();
    let _ = writeln!(stderr, "{}", one_line(&format!("arcssh: {what}{why}")));
    if let Some(hint) = hint {
        let _ = writeln!(stderr, "{}", one_line(&format!("arcssh: hint: {hint}")));
    }
    ExitCode::from(status)
}

fn explain(error: &Error, goal: Option<&Goal>) -> Told {
    if let Some(arm) = error.downcast_ref::<ArmError>() {
        return explain_arm(arm, goal);
    }
    if let Some(connect) = error.downcast_ref::<ConnectError>() {
        return explain_connect(connect, goal);
    }
    if let Some(broken) = error.downcast_ref::<Broken>() {
        return explain_broken(broken);
    }
    if error.is::<NotSetUp>() {
        return Told::new(NO_IDENTITY, error.root_cause().to_string(), SIGN_IN);
    }
    if let Some(not_one) = error.downcast_ref::<NotOne>() {
        return explain_not_one(not_one, goal);
    }
    if error.is::<NothingSelected>() {
        return Told::new(
            USAGE,
            error.root_cause().to_string(),
            "arcssh config --help shows how to name one",
        );
    }
    if let Some(NotUsed(shadowed)) = error.downcast_ref::<NotUsed>() {
        let hint = match &shadowed.by {
            Some((file, line)) => format!("move line {line} of {} below the arcssh block", file.display()),
            None => format!("ssh -v -G {} shows which lines apply", shadowed.alias),
        };
        return Told::new(FAILED, error.root_cause().to_string(), hint);
    }
    if error.is::<NoMachine>() {
        return Told::new(USAGE, error.root_cause().to_string(), "arcssh proxy --help shows how to name one");
    }
    explain_way_out(error.root_cause(), None, "Azure").unwrap_or_else(|| {
        Told::without_hint(FAILED, causes(error.chain().skip(usize::from(goal.is_some()))))
    })
}

fn explain_not_one(not_one: &NotOne, goal: Option<&Goal>) -> Told {
    let hint = match (not_one.candidates.first().and_then(|first| first.split_once('/')), goal) {
        (Some((group, name)), Some(goal)) => {
            // What was typed for ssh ends in what the wildcard's pattern ends in.
            let typed = goal.to_string();
            let suffix = typed.strip_prefix(not_one.name.as_str()).unwrap_or_default();
            format!("ssh {}.{}{suffix}", name.to_lowercase(), group.to_lowercase())
        }
        (Some(_), None) => "name the machine as GROUP/NAME".into(),
        (None, _) => "arcssh list shows the machines that this identity sees".into(),
    };
    Told::new(NOT_SET_UP, not_one.to_string(), hint)
}

const SIGN_IN: &str = "az login, or set AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET";
const SERVICE_PRINCIPAL: &str =
    "check AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET, or unset them to use Azure CLI";
const NETWORK: &str =
    "check this machine's network; where it needs a proxy: export HTTPS_PROXY=http://PROXY:PORT";
const HTTP_PROXY: &str = "export HTTPS_PROXY=http://PROXY:PORT";
const PROXY_PASSWORD: &str = "export HTTPS_PROXY=http://USER:PASSWORD@PROXY:PORT";
const TRY_LATER: &str = "try again in a minute; https://azure.status.microsoft tells of outages";

fn explain_arm(error: &ArmError, goal: Option<&Goal>) -> Told {
    match error {
        ArmError::Refused(refusal) => explain_refusal(refusal, goal),
        ArmError::NoToken(refusal) => explain_no_token(refusal),
        ArmError::Identity(error) => {
            explain_way_out(error, None, "Entra ID").unwrap_or_else(|| explain_identity(error))
        }
        ArmError::Unreachable(error) => explain_way_out(error, None, "Azure Resource Manager")
            .unwrap_or_else(|| {
                let why = format!("Azure Resource Manager cannot be reached: {}", root(error));
                Told::new(NO_WAY_OUT, why, NETWORK)
            }),
        ArmError::UnexpectedAnswer(error) => {
            let why = format!(
                "Azure Resource Manager gave an answer that holds nothing to connect with: {error:#}"
            );
            Told::new(FAILED, why, "check ARCSSH_ARM_ENDPOINT, if it is set")
        }
    }
}

/// ARM's refusals, told apart by code where it has one (azure-docs "Resolve errors for resource provider registration";
/// Microsoft Learn, "Troubleshoot SSH access to Azure Arc-enabled servers"; recorded bodies of azure-powershell).
fn explain_refusal(refusal: &Refusal, goal: Option<&Goal>) -> Told {
    let Refusal { status, code, message, .. } = refusal;
    let id = goal.and_then(|goal| goal.machine.as_ref()).map(ToString::to_string).unwrap_or_default();
    match (*status, code.as_str()) {
        (_, "NoRegisteredProviderFound" | "MissingSubscriptionRegistration") => {
            let subscription = id.split('/').nth(2).unwrap_or("SUBSCRIPTION");
            let why = format!("the subscription has no registered Microsoft.HybridConnectivity ({code})");
            let register = format!(
                "az provider register --namespace Microsoft.HybridConnectivity --subscription {subscription} --wait; then restart the Arc agent on the machine"
            );
            Told::new(NOT_SET_UP, why, register)
        }
        (401, _) => {
            Told::new(NO_IDENTITY, format!("Azure does not accept this sign-in ({code}: {message})"), SIGN_IN)
        }
        (403, "AuthorizationFailed") => {
            let why = "this identity may not ask for its relay credentials (403 AuthorizationFailed)";
            let assignee = quoted_after(message, "with object id").unwrap_or("YOU");
            let role = format!(
                "an owner of the machine types: az role assignment create --role 'Virtual Machine Local User Login' --assignee {assignee} --scope {}",
                quoted(&id)
            );
            Told::new(NOT_ALLOWED, why, role)
        }
        (404, "ResourceNotFound") if message.to_lowercase().contains("/endpoints/default") => {
            Told::new(NOT_SET_UP, "it has no connectivity endpoint yet (404 ResourceNotFound)", setup(&id))
        }
        (412, _) => Told::new(
            NOT_SET_UP,
            "the service is not enabled on it yet (412 Precondition Failed)",
            setup(&id),
        ),
        (404, _) => Told::new(
            NOT_SET_UP,
            format!("there is no such machine ({code}: {message})"),
            "az resource list --resource-type Microsoft.HybridCompute/machines --query [].id lists the resource IDs",
        ),
        (429, _) => Told::new(
            FAILED,
            "Azure Resource Manager has had too many requests (429)",
            again(refusal.retry_after),
        ),
        (500.., _) => {
            Told::new(FAILED, format!("Azure Resource Manager has a fault ({})", answer(refusal)), TRY_LATER)
        }
        (..=399 | 407, _) => Told::new(
            NO_WAY_OUT,
            format!("something on the way to Azure Resource Manager answered ({})", answer(refusal)),
            "have the network or its proxy let https://management.azure.com pass; check ARCSSH_ARM_ENDPOINT, if it is set",
        ),
        (403, _) => Told::new(
            NOT_ALLOWED,
            format!("Azure Resource Manager refused ({})", answer(refusal)),
            "ask an owner of the machine, or whoever runs the proxy, if one stands in the way",
        ),
        _ => Told::new(FAILED, format!("Azure Resource Manager refused ({})", answer(refusal)), TRY_LATER),
    }
}

/// Entra ID's own answers begin with AADSTS (Microsoft Learn, "Microsoft Entra authentication and authorization error
/// codes"); what else comes in its place is somebody else's.
fn explain_no_token(EntraRefusal { status, description, retry_after }: &EntraRefusal) -> Told {
    let answer = format!("{status} {description}");
    let answer = answer.trim_end();
    match status {
        429 => Told::new(FAILED, "Entra ID has had too many requests (429)", again(*retry_after)),
        408 => Told::new(NO_WAY_OUT, format!("Entra ID did not get the request in time ({answer})"), NETWORK),
        500.. => Told::new(FAILED, format!("Entra ID has a fault ({answer})"), TRY_LATER),
        400..500 if !description.is_empty() => Told::new(
            NO_IDENTITY,
            format!("the service principal was refused: {description}"),
            SERVICE_PRINCIPAL,
        ),
        _ => Told::new(
            NO_WAY_OUT,
            format!("something on the way to Entra ID answered ({answer})"),
            "have the network or its proxy let https://login.microsoftonline.com pass; check AZURE_AUTHORITY_HOST, if it is set",
        ),
    }
}

fn again(retry_after: Option<Duration>) -> String {
    let pause = retry_after.map_or("a minute".into(), |after| format!("{} s", after.as_secs()));
    format!("try again in {pause}")
}

/// A resource ID as a shell takes it: a resource group's name may hold parentheses.
fn quoted(id: &str) -> String {
    if id.contains(['(', ')']) { format!("'{id}'") } else { id.to_owned() }
}

fn setup(id: &str) -> String {
    format!("arcssh setup {}", quoted(id))
}

/// What azure_identity writes between the name of a credential and why it failed.
const FAILED_CREDENTIAL: &str = " authentication failed. ";

fn answer(Refusal { status, code, message, request_id, .. }: &Refusal) -> String {
    let request = request_id.as_ref().map(|id| format!("request {id}"));
    let parts = [Some(status.to_string()), Some(code.clone()), Some(message.clone()), request];
    parts.into_iter().flatten().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ")
}

fn quoted_after<'a>(text: &'a str, marker: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(marker)?;
    rest.split('\'').nth(1).filter(|quoted| !quoted.is_empty())
}

/// A credential of azure_identity, in its own words: they quote Entra ID's AADSTS code, or what Azure CLI printed.
///
/// The retry policy wraps them in an error that says nothing.
fn explain_identity(error: &(dyn StdError + 'static)) -> Told {
    let texts = || chain(error).map(ToString::to_string);
    let text = texts().find(|text| text.contains(FAILED_CREDENTIAL)).unwrap_or_else(|| root(error));
    let words =
        text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("To troubleshoot"));
    let words = words.collect::<Vec<_>>().join(" ");
    if words.contains("az not found on PATH") {
        return Told::new(
            NO_IDENTITY,
            "nobody is signed in: there is no Azure CLI and no service principal",
            SIGN_IN,
        );
    }
    if let Some(error) = chain(error).find(|cause| cause.is::<reqwest::Error>()) {
        return Told::new(NO_WAY_OUT, format!("Entra ID cannot be reached: {}", root(error)), NETWORK);
    }
    let (source, hint) = match words.split_once(FAILED_CREDENTIAL) {
        Some(("AzureCliCredential", _)) => ("Azure CLI gives no token", SIGN_IN),
        _ => ("the service principal gives no token", SERVICE_PRINCIPAL),
    };
    let reason = words.split_once(FAILED_CREDENTIAL).map_or(words.as_str(), |(_, reason)| reason);
    Told::new(NO_IDENTITY, format!("{source}: {reason}"), hint)
}

/// The relay's refusals: facts of the Relay Hybrid Connections protocol, and the agent's own 503.
fn explain_connect(error: &ConnectError, goal: Option<&Goal>) -> Told {
    let ConnectError::Refused { status, reason, .. } = error else {
        return match error {
            ConnectError::Unreachable(error) => {
                let told = explain_way_out(error.as_ref(), error.downcast_ref(), "the relay");
                told.unwrap_or_else(|| Told::new(NO_WAY_OUT, causes(error.chain()), NETWORK))
            }
            _ => Told::new(NOBODY_LISTENS, error.to_string(), AGENT),
        };
    };
    let port = goal.map_or(0, |goal| goal.port);
    let by_relay_info = goal.is_some_and(|goal| goal.machine.is_none());
    match status {
        503 if error.is_port_closed() => Told::new(
            NOBODY_LISTENS,
            format!("nothing listens on its port {port} ({reason})"),
            "start sshd on the machine, or name its port with --port",
        ),
        404 => Told::new(NOBODY_LISTENS, format!("its agent does not listen ({error})"), AGENT),
        408 | 504 => Told::new(NOBODY_LISTENS, format!("its agent did not answer in time ({error})"), AGENT),
        401 if by_relay_info => Told::new(
            NOT_ALLOWED,
            format!("the relay information has expired or is damaged ({error})"),
            "run az ssh config again; or give arcssh proxy the machine's resource ID, and it renews itself",
        ),
        401 => Told::new(
            NOT_ALLOWED,
            format!("the relay does not accept the credentials that ARM gave ({error})"),
            "check this machine's clock, and try again",
        ),
        400 => Told::new(
            NO_WAY_OUT,
            format!("something on the way takes the WebSocket upgrade out of the request ({error})"),
            "let WebSocket connections to *.servicebus.windows.net pass the proxy untouched",
        ),
        ..400 | 407 => Told::new(
            NO_WAY_OUT,
            format!("something on the way answered in the relay's place ({error})"),
            "let WebSocket connections to *.servicebus.windows.net pass the proxy untouched",
        ),
        500.. => Told::new(FAILED, format!("the relay has a fault ({error})"), TRY_LATER),
        _ => Told::new(
            FAILED,
            format!("its agent or the relay refused ({error})"),
            format!("check that {port} is the port that is enabled on the machine"),
        ),
    }
}

const AGENT: &str = "check that the machine is on and its Arc agent connected: on it, type azcmagent show";

/// Close codes of the relay (Relay Hybrid Connections protocol, "close codes").
fn explain_broken(broken: &Broken) -> Told {
    let why = match broken {
        Broken::Closed(frame) => match u16::from(frame.code) {
            1001 => format!("its agent went away ({broken})"),
            1008 => format!("the relay's token has expired ({broken})"),
            1011 => format!("the relay has a fault ({broken})"),
            _ => broken.to_string(),
        },
        Broken::Lost(error) => format!("{broken}: {}", root(error)),
        Broken::Output(error) => {
            return Told::new(FAILED, format!("{broken}: {error}"), "free the disk, or write elsewhere");
        }
    };
    Told::new(FAILED, why, "connect again")
}

/// What failed on the network, whoever was to be reached; nothing where it was something else.
fn explain_way_out(error: &(dyn StdError + 'static), step: Option<&Step>, whom: &str) -> Option<Told> {
    let chain = || chain(error);
    if let Some(refusal) = chain().find_map(tls::refusal) {
        let whom = if let Some(Step::Tls(host)) = step { host } else { whom };
        return Some(explain_tls(refusal, whom));
    }
    if let Some(refused) = chain().find_map(|cause| cause.downcast_ref::<ProxyRefused>()) {
        let hint = match refused.status {
            // tinyproxy asks with 407 and refuses with 401.
            401 | 407 => PROXY_PASSWORD,
            _ => {
                "have the proxy let CONNECT to *.servicebus.windows.net:443 pass, or name the host in NO_PROXY"
            }
        };
        return Some(Told::new(NO_WAY_OUT, causes(chain()), hint));
    }
    if chain().any(|cause| cause.is::<UnsupportedProxy>()) {
        return Some(Told::new(NO_WAY_OUT, causes(chain()), HTTP_PROXY));
    }
    if let Some(told) = explain_tunnel(error, whom) {
        return Some(told);
    }
    let no_connection = chain().find_map(|cause| cause.downcast_ref::<reqwest::Error>());
    if no_connection.is_some_and(reqwest::Error::is_connect) {
        let why = format!("{whom} cannot be reached: {}", root(error));
        return Some(Told::new(NO_WAY_OUT, why, NETWORK));
    }
    None
}

/// A tunnel that the HTTP library did not get. Its error is of a private type (hyper-util, `tunnel.rs`), and holds no
/// more of the proxy's answer than whether that was 407.
fn explain_tunnel(error: &(dyn StdError + 'static), whom: &str) -> Option<Told> {
    let texts = chain(error).map(ToString::to_string);
    let reason = texts.filter_map(|text| Some(text.strip_prefix("tunnel error: ")?.to_owned())).next()?;
    Some(match reason.as_str() {
        "proxy authorization required" => {
            let why = format!("the proxy opens no tunnel to {whom}: it answered 407");
            Told::new(NO_WAY_OUT, why, PROXY_PASSWORD)
        }
        "failed to create underlying connection" => {
            let why = format!("the proxy on the way to {whom} cannot be reached: {}", root(error));
            Told::new(NO_WAY_OUT, why, "check the address in HTTPS_PROXY")
        }
        _ => Told::new(
            NO_WAY_OUT,
            format!("the proxy opens no tunnel to {whom}: {reason}"),
            "check user and password in HTTPS_PROXY, and that the proxy lets CONNECT pass",
        ),
    })
}

fn explain_tls(refusal: &rustls::Error, host: &str) -> Told {
    use rustls::Error::InvalidCertificate;
    let (why, hint) = match refusal {
        InvalidCertificate(CertificateError::UnknownIssuer) => (
            format!("the certificate of {host} comes from an authority that this machine does not trust"),
            "where a proxy inspects TLS, add its root certificate to the system's trust store or name it in SSL_CERT_FILE",
        ),
        InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => {
            (format!("the certificate of {host} has expired"), "check this machine's clock")
        }
        rustls::Error::General(text) if text.starts_with("No CA certificates") => (
            "no root certificates were found to check others with".into(),
            "check that SSL_CERT_FILE and SSL_CERT_DIR, where they are set, name PEM certificates (an empty variable counts too); else install the system's ca-certificates",
        ),
        InvalidCertificate(error) => (format!("the certificate of {host} is not valid: {error}"), NETWORK),
        other => (format!("no TLS with {host}: {other}"), NETWORK),
    };
    Told::new(NO_WAY_OUT, why, hint)
}

/// An error and what caused it, outermost first.
fn chain<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}

fn root(error: &(dyn StdError + 'static)) -> String {
    words(chain(error).last().unwrap_or(error))
}

/// An error's own words; rustls tells of an end without notice at length, with a link for programmers.
fn words(error: &(dyn StdError + 'static)) -> String {
    let text = error.to_string();
    if text.contains("without sending TLS close_notify") { "the connection was closed".into() } else { text }
}

/// All causes on one line, outermost first; an error that only repeats the one before it is left out.
fn causes<'a>(chain: impl Iterator<Item = &'a (dyn StdError + 'static)>) -> String {
    let mut words: Vec<String> = Vec::new();
    for cause in chain.map(self::words) {
        if words.last().is_none_or(|before| !before.contains(&cause)) {
            words.push(cause);
        }
    }
    words.join(": ")
}
