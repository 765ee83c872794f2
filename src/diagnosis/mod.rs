//! Every error in words: what failed, why, and the next thing to type. The only advice to users in the program.

mod certificate;
mod credentials;
pub(crate) mod last_error;
pub(crate) mod system;

use std::error::Error as StdError;
use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Error;
use rustls::CertificateError;

use crate::azure::arm::{ArmError, ErrorResponse};
use crate::azure::hybrid_compute::TooManyPages;
use crate::azure::hybrid_connectivity::Service;
use crate::azure::login::StillStored;
use crate::azure::rbac::{CONNECT, least_role};
use crate::azure::relay_host::ForeignRelay;
use crate::azure::resource_id::ResourceIdError;
use crate::azure::target::Target;
use crate::commands::doctor::probe::Slow;
use crate::commands::doctor::report::{AGENT, Hint, SERVED_REGION, Words};
use crate::commands::login::SigningIn;
use crate::commands::provision::SettingUp;
use crate::commands::proxy::Interrupted;
use crate::commands::teardown::TakingDown;
use crate::diagnosis::certificate::explain_no_certificate;
use crate::diagnosis::credentials::{explain_no_token, explain_sign_in, explain_still_stored, sign_in};
use crate::diagnosis::last_error::LastError;
use crate::diagnosis::system::{explain_system, explain_unread};
use crate::entra_ssh::IssueError;
use crate::machines::{AmbiguousName, NoMatch, NoSubscriptions, NothingSelected, SomeFailed};
use crate::net::ConnectStep;
use crate::net::http_proxy::{Refused as ProxyRefused, UnsupportedProxy};
use crate::net::tls::{self, NO_ROOTS, UnknownIssuer, Unread};
use crate::provisioning::{NotRegistered, NotShown, PortTaken};
use crate::relay::bridge::BridgeError;
use crate::relay::handshake::ConnectError;
use crate::ssh::effective_config::{Overridden, OverriddenError};
use crate::ssh::managed_block::WriteError;
use crate::state::InsecurePermissions;
use crate::system::clock::unix_now;
use crate::system::timeout::TimedOut;
use crate::terminal::output::StdoutError;
use crate::terminal::prompt::PromptError;
use crate::terminal::tty;
use crate::text::{sanitize, set_variable, shell_quote};

/// Exit statuses; 2 is clap's for a command line that cannot be read. ssh passes none of them on.
pub(crate) const FAILED: u8 = 1;
pub(crate) const USAGE: u8 = 2;
const EXIT_AUTH: u8 = 3;
const EXIT_DENIED: u8 = 4;
const EXIT_NOT_CONFIGURED: u8 = 5;
const EXIT_NETWORK: u8 = 6;
const EXIT_NO_LISTENER: u8 = 7;
/// As shells tell of SIGHUP, by which ssh says that it is done.
const HUNG_UP: u8 = 129;

/// What a user is told of a failure.
#[derive(Debug)]
struct Told {
    why: String,
    hint: Option<Hint>,
    status: u8,
}

impl Told {
    fn new(status: u8, why: impl Into<String>, hint: impl Into<Hint>) -> Self {
        Self { why: why.into(), hint: Some(hint.into()), status }
    }

    fn without_hint(status: u8, why: impl Into<String>) -> Self {
        Self { why: why.into(), hint: None, status }
    }
}

/// Tells the user on standard error, and what to exit with. What kept a connection from coming about is kept too: with
/// ControlPersist ssh throws the standard error of its ProxyCommand away.
pub(crate) fn report(error: &Error) -> ExitCode {
    if let Some(SomeFailed(errors)) = error.downcast_ref() {
        for error in errors {
            report(error);
        }
        return ExitCode::from(FAILED);
    }
    let target = error.downcast_ref::<Target>();
    let Told { why, hint, status } = explain(error, target);
    let hint = hint.map(|hint| hint.text);
    let what = match target {
        Some(target) if error.is::<SettingUp>() => format!("cannot set up {target}: "),
        Some(target) if error.is::<TakingDown>() => format!("cannot take down {target}: "),
        Some(target) if error.is::<BridgeError>() => format!("lost {target}: "),
        Some(target) if !error.is::<NothingSelected>() => format!("cannot connect to {target}: "),
        _ => String::new(),
    };
    let what = format!("{what}{why}");
    // Whoever types Ctrl-C ends ssh by it too, and wants to hear no more.
    if !error.is::<Interrupted>() || status == HUNG_UP {
        tell(&what, hint.as_deref());
    }
    let is_connection = !error.is::<SettingUp>() && !error.is::<TakingDown>();
    if let Some(target) = target.filter(|_| is_connection) {
        last_error::keep(&LastError {
            at: unix_now(),
            machine: target.machine.as_ref().map(ToString::to_string),
            name: target.name.clone(),
            port: target.port,
            what: sanitize(&what),
            hint: hint.as_deref().map(sanitize),
            request: request(error),
            status,
        });
    }
    ExitCode::from(status)
}

/// One line goes to the terminal where ssh has turned standard error away.
fn tell(what: &str, hint: Option<&str>) {
    // A standard error that is gone leaves nobody to tell.
    let mut stderr = std::io::stderr().lock();
    let _ = writeln!(stderr, "{}", sanitize(&format!("arcssh: {what}")));
    if let Some(hint) = hint {
        let _ = writeln!(stderr, "{}", sanitize(&format!("arcssh: hint: {hint}")));
    }
    if let Some(mut terminal) = tty::tty_if_stderr_discarded() {
        // A session may have made the terminal raw.
        let _ = write!(terminal, "\r{}; arcssh last explains it\r\n", sanitize(&format!("arcssh: {what}")));
    }
}

/// How Azure names the request that it refused, for its support.
fn request(error: &Error) -> Option<String> {
    if let Some(ArmError::Refused(ErrorResponse { request_id: Some(id), .. })) = error.downcast_ref() {
        return Some(format!("{id} of Azure Resource Manager"));
    }
    match error.downcast_ref() {
        Some(ConnectError::Refused { tracking_id, .. }) if !tracking_id.is_empty() => {
            Some(format!("{tracking_id} of Azure Relay"))
        }
        _ => None,
    }
}

/// An error as the doctor tells it: the words of a connection that fails by it.
pub(crate) fn in_words(error: &Error) -> Words {
    let Told { why, hint, .. } = explain(error, error.downcast_ref());
    Words { why, hint }
}

fn explain(error: &Error, target: Option<&Target>) -> Told {
    if let Some(arm) = error.downcast_ref::<ArmError>() {
        let told = explain_arm(arm, target);
        return match arm {
            // Setting up registers the provider where it is not.
            ArmError::Refused(refusal) if refusal.is_unserved() && error.is::<SettingUp>() => {
                Told { hint: Some(SERVED_REGION.into()), ..told }
            }
            _ => told,
        };
    }
    if let Some(connect) = error.downcast_ref::<ConnectError>() {
        return explain_connect(connect, target);
    }
    if let Some(broken) = error.downcast_ref::<BridgeError>() {
        return explain_broken(broken);
    }
    if let Some(open) = error.downcast_ref::<InsecurePermissions>() {
        return explain_too_open(open);
    }
    if let Some(told) = explain_system(error) {
        return told;
    }
    if let Some(none) = error.downcast_ref::<IssueError>() {
        return explain_no_certificate(none);
    }
    if error.is::<SigningIn>() {
        return explain_sign_in(error);
    }
    if let Some(still) = error.downcast_ref::<StillStored>() {
        return explain_still_stored(still);
    }
    if let Some(told) = explain_selection(error, target) {
        return told;
    }
    if let Some(told) = explain_set_up(error, target) {
        return told;
    }
    if let Some(stopped) = error.downcast_ref::<Interrupted>() {
        let hint = match target.filter(|target| target.machine.is_some()) {
            Some(_) => {
                let command = as_tried("warm", target);
                Hint::new(format!("{command} makes it ready for the next time"), command)
            }
            None => "ssh -o ConnectTimeout=120 waits longer".into(),
        };
        return Told::new(stopped.status(), stopped.to_string(), hint);
    }
    if error.is::<TimedOut>() || error.is::<Slow>() {
        return Told::new(EXIT_NETWORK, error.root_cause().to_string(), network());
    }
    if error.is::<StdoutError>() {
        return Told::new(FAILED, causes(error.chain()), FREE_THE_DISK);
    }
    if let Some(OverriddenError(shadowed)) = error.downcast_ref::<OverriddenError>() {
        return explain_not_used(error, shadowed);
    }
    if error.is::<ForeignRelay>() {
        return explain_foreign_relay(error);
    }
    if error.is::<WriteError>() {
        let hint = "arcssh config --file FILE writes another file, for ssh -F FILE";
        return Told::new(FAILED, causes(error.chain()), hint);
    }
    explain_way_out(error.root_cause(), None, "Azure").unwrap_or_else(|| {
        let contexts = [target.is_some(), error.is::<SettingUp>() || error.is::<TakingDown>()];
        let contexts = contexts.into_iter().filter(|there| *there).count();
        Told::without_hint(FAILED, causes(error.chain().skip(contexts)))
    })
}

/// A line of another host entry, or of another file, that ssh uses instead.
fn explain_not_used(error: &Error, shadowed: &Overridden) -> Told {
    let hint = match &shadowed.by {
        Some((file, line)) => format!("move line {line} of {} below the arcssh block", file.display()).into(),
        None => {
            let command = format!("ssh -v -G {}", shell_quote(&shadowed.alias));
            Hint::new(format!("{command} shows which lines apply"), command)
        }
    };
    Told::new(FAILED, error.root_cause().to_string(), hint)
}

/// What was typed to name machines, and names none.
fn explain_selection(error: &Error, target: Option<&Target>) -> Option<Told> {
    if let Some(not_one) = error.downcast_ref::<AmbiguousName>() {
        return Some(explain_not_one(not_one, target));
    }
    if error.is::<NoMatch>() {
        return Some(Told::new(EXIT_NOT_CONFIGURED, error.root_cause().to_string(), list()));
    }
    if error.is::<NoSubscriptions>() {
        return Some(Told::new(EXIT_NOT_CONFIGURED, error.root_cause().to_string(), OTHER_TENANT));
    }
    if error.is::<ResourceIdError>() {
        return Some(Told::new(USAGE, error.root_cause().to_string(), NAME_IT));
    }
    if let Some(none) = error.downcast_ref::<NothingSelected>() {
        let command = format!("arcssh {} --help", none.command);
        let hint = Hint::new(format!("{command} shows how to name one"), command);
        return Some(Told::new(USAGE, none.to_string(), hint));
    }
    None
}

/// What keeps a machine from being set up, if Azure has not refused it.
fn explain_set_up(error: &Error, target: Option<&Target>) -> Option<Told> {
    if let Some(not_agreed) = error.downcast_ref::<PromptError>() {
        let why = not_agreed.to_string();
        return Some(match not_agreed {
            PromptError::Declined => Told::without_hint(FAILED, why),
            PromptError::NotInteractive => Told::new(FAILED, why, "the same command with --yes goes ahead"),
        });
    }
    if let Some(taken) = error.downcast_ref::<PortTaken>() {
        let hint = runnable(target, format!("{} --replace-port", command("setup", target, Some(taken.to))));
        return Some(Told::new(EXIT_NOT_CONFIGURED, taken.to_string(), hint));
    }
    if error.is::<NotShown>() {
        return Some(Told::new(FAILED, error.root_cause().to_string(), GO_ON));
    }
    if let Some(slow) = error.downcast_ref::<NotRegistered>() {
        return Some(Told::new(EXIT_NOT_CONFIGURED, slow.to_string(), GO_ON));
    }
    None
}

/// What others could read or plant is not used.
fn explain_too_open(open: &InsecurePermissions) -> Told {
    let path = shell_quote(&open.path.display().to_string());
    Told::new(FAILED, open.to_string(), Hint::command(format!("chmod {:o} {path}", open.wanted)))
}

fn explain_not_one(not_one: &AmbiguousName, target: Option<&Target>) -> Told {
    let hint = match (not_one.candidates.first().and_then(|first| first.split_once('/')), target) {
        (Some((group, name)), Some(target)) => {
            // What was typed for ssh ends in what the wildcard's pattern ends in.
            let typed = target.to_string();
            let suffix = typed.strip_prefix(not_one.name.as_str()).unwrap_or_default();
            let alias = format!("{}.{}{suffix}", name.to_lowercase(), group.to_lowercase());
            Hint::command(format!("ssh {}", shell_quote(&alias)))
        }
        (Some(_), None) => "name the machine as GROUP/NAME".into(),
        (None, _) => list(),
    };
    Told::new(EXIT_NOT_CONFIGURED, not_one.to_string(), hint)
}

/// What to do where nobody answers: a proxy that is meant for the way may be why.
fn network() -> String {
    match ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"].into_iter().any(is_set) {
        true => "check this machine's network, and the proxy that HTTPS_PROXY or ALL_PROXY names".into(),
        false => format!("check this machine's network; if it needs a proxy: {}", http_proxy()),
    }
}

fn list() -> Hint {
    Hint::new("arcssh list shows the machines that this identity sees", "arcssh list")
}

fn http_proxy() -> String {
    set_variable("HTTPS_PROXY", "http://PROXY:PORT")
}

fn proxy_password() -> String {
    format!(
        "{}; if the proxy asks for NTLM or Kerberos, run a proxy such as px or cntlm on this machine, and set HTTPS_PROXY to that",
        set_variable("HTTPS_PROXY", "http://USER:PASSWORD@PROXY:PORT")
    )
}

fn relay_domain() -> String {
    format!(
        "check --cloud; if your administrator confirms another relay domain, add --relay-suffix, or: {}",
        set_variable("ARCSSH_RELAY_SUFFIX", "DOMAIN")
    )
}

fn let_arm_pass(host: &str) -> String {
    format!(
        "let https://{host} pass the network and its proxy; check --cloud, and ARCSSH_ARM_ENDPOINT if you set it"
    )
}

fn let_relay_pass(host: &str) -> String {
    format!("let WebSocket connections to {host} pass the proxy unchanged")
}

fn is_set(name: &str) -> bool {
    std::env::var_os(name).is_some_and(|value| !value.is_empty())
}

const NAME_IT: &str =
    "name the machine by NAME, GROUP/NAME or the resource ID that arcssh list --format json shows";
/// Only users sign in by arcssh login.
const OTHER_TENANT: &str = "arcssh account shows the identity and its tenant; the same command with --tenant TENANT, or after arcssh login --tenant TENANT, takes another";
const PROXY_ADDRESS: &str = "check the address in HTTPS_PROXY";
const CHECK_CLOCK: &str = "check this machine's clock";
const ONE_SUBSCRIPTION: &str = "select the machines of one subscription: --subscription ID";
const READABLE_INPUT: &str =
    "connect standard input to a pipe, a socket, a terminal or a file that can be read";
const FREE_THE_DISK: &str = "free the disk, or write elsewhere";
const GO_ON: &str = "the same command again goes on with it";
const TRY_LATER: &str = "try again in a minute; for outages, see the status page of your Azure cloud";

fn explain_arm(error: &ArmError, target: Option<&Target>) -> Told {
    match error {
        ArmError::Refused(refusal) => explain_refusal(refusal, target),
        ArmError::CredentialError(no_token) => explain_no_token(no_token),
        ArmError::Client(error) => explain_way_out(error.as_ref(), None, "Azure Resource Manager")
            .unwrap_or_else(|| Told::without_hint(EXIT_NETWORK, causes(error.chain()))),
        ArmError::Unreachable(error) => explain_way_out(error, None, "Azure Resource Manager")
            .unwrap_or_else(|| {
                let why = format!("Azure Resource Manager cannot be reached: {}", root(error));
                Told::new(EXIT_NETWORK, why, network())
            }),
        ArmError::Store(open) => explain_too_open(open),
        ArmError::UnexpectedAnswer { error, .. } if error.is::<ForeignRelay>() => {
            explain_foreign_relay(error)
        }
        ArmError::UnexpectedAnswer { error, .. } if error.is::<TooManyPages>() => Told::new(
            FAILED,
            format!("Azure Resource Manager does not end its answer: {error}"),
            ONE_SUBSCRIPTION,
        ),
        ArmError::UnexpectedAnswer { host, error } => {
            let why = format!(
                "Azure Resource Manager gave an answer that holds nothing to connect with: {error:#}"
            );
            Told::new(FAILED, why, let_arm_pass(host))
        }
    }
}

/// Azure, or relay information, names a host that must not get the relay's tokens.
fn explain_foreign_relay(error: &Error) -> Told {
    Told::new(EXIT_DENIED, format!("arcssh sends no relay token: {}", error.root_cause()), relay_domain())
}

/// ARM's refusals, told apart by code where it has one (azure-docs "Resolve errors for resource provider registration";
/// Microsoft Learn, "Troubleshoot SSH access to Azure Arc-enabled servers"; recorded bodies of azure-powershell).
fn explain_refusal(refusal: &ErrorResponse, target: Option<&Target>) -> Told {
    let ErrorResponse { status, code, message, .. } = refusal;
    let id = target.and_then(|target| target.machine.as_ref()).map(ToString::to_string).unwrap_or_default();
    match (*status, code.as_str()) {
        (_, "NoRegisteredProviderFound" | "MissingSubscriptionRegistration") => {
            Told::new(EXIT_NOT_CONFIGURED, unregistered(refusal), setup(target))
        }
        (401, _) => {
            let tenant =
                refusal.tenant.as_ref().map_or(String::new(), |tenant| format!(" --tenant {tenant}"));
            let why = format!("Azure does not accept this sign-in ({})", said(refusal));
            Told::new(EXIT_AUTH, why, sign_in(&tenant))
        }
        (403, "AuthorizationFailed") => explain_missing_right(message, &id),
        (403, "RequestDisallowedByPolicy") => Told::new(
            EXIT_DENIED,
            format!("a policy of Azure forbids it ({message})"),
            "ask an administrator of the subscription's policies",
        ),
        (409, "ScopeLocked") => Told::new(
            EXIT_DENIED,
            format!("it is locked against changes ({message})"),
            format!(
                "az lock list --resource {} shows the lock; az lock delete takes it away",
                shell_quote(&id)
            ),
        ),
        (404, _) if message.to_lowercase().contains("/endpoints/default") => Told::new(
            EXIT_NOT_CONFIGURED,
            "it has no connectivity endpoint yet (404 ResourceNotFound)",
            setup(target),
        ),
        (412, _) => Told::new(
            EXIT_NOT_CONFIGURED,
            "the service is not enabled on it yet (412 Precondition Failed)",
            setup(target),
        ),
        (404, "SubscriptionNotFound") => Told::new(
            EXIT_NOT_CONFIGURED,
            format!("this identity sees no such subscription ({})", said(refusal)),
            OTHER_TENANT,
        ),
        (404, "ResourceNotFound" | "ResourceGroupNotFound") => Told::new(
            EXIT_NOT_CONFIGURED,
            format!("there is no such machine ({})", said(refusal)),
            "arcssh list --format json shows the IDs of those that there are; arcssh config --remove NAME takes out the section of one that is gone",
        ),
        (404, _) => Told::new(
            EXIT_NOT_CONFIGURED,
            format!("there is no such machine, or no connectivity endpoint on it ({})", said(refusal)),
            Hint {
                text: format!("arcssh doctor {} tells which", machine(target)),
                ..runnable(target, format!("arcssh doctor {}", machine(target)))
            },
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
            EXIT_NETWORK,
            format!("something on the way to Azure Resource Manager answered ({})", answer(refusal)),
            let_arm_pass(&refusal.host),
        ),
        (403, _) => Told::new(
            EXIT_DENIED,
            format!("Azure Resource Manager refused ({})", answer(refusal)),
            "ask an owner of the machine; if a proxy is in the way, ask its administrator",
        ),
        _ => Told::new(FAILED, format!("Azure Resource Manager refused ({})", answer(refusal)), TRY_LATER),
    }
}

fn unregistered(refusal: &ErrorResponse) -> String {
    match refusal.is_unserved() {
        true => format!(
            "Microsoft.HybridConnectivity is not registered in the subscription, or does not serve the machine's region ({})",
            said(refusal)
        ),
        false => {
            format!("Microsoft.HybridConnectivity is not registered in the subscription ({})", refusal.code)
        }
    }
}

/// What ARM answered, in its own words where it has any.
fn said(refusal: &ErrorResponse) -> String {
    let ErrorResponse { code, message, .. } = refusal;
    if code.is_empty() && message.is_empty() { answer(refusal) } else { format!("{code}: {message}") }
}

fn again(retry_after: Option<Duration>) -> String {
    let pause = retry_after.map_or("a minute".into(), |after| format!("{} s", after.as_secs()));
    format!("try again in {pause}")
}

/// The command that makes a machine ready for a connection as it was tried.
fn setup(target: Option<&Target>) -> Hint {
    match runnable(target, as_tried("setup", target)) {
        Hint { text, command: Some(_) } => Hint::set_up(text),
        hint => hint,
    }
}

/// A hint that is a command for the machine; the command cannot be run if the machine is not known.
fn runnable(target: Option<&Target>, command: String) -> Hint {
    match target.is_some_and(|target| target.machine.is_some()) {
        true => Hint::command(command),
        false => command.into(),
    }
}

/// A command for the machine and the port of a connection that was tried.
fn as_tried(name: &str, target: Option<&Target>) -> String {
    command(
        name,
        target,
        target.map(|target| target.port).filter(|port| *port != service(target).default_port()),
    )
}

/// A machine as a shell takes it.
fn machine(target: Option<&Target>) -> String {
    let machine = target.and_then(|target| target.machine.as_ref());
    shell_quote(&machine.map_or("MACHINE".into(), ToString::to_string))
}

fn service(target: Option<&Target>) -> Service {
    target.map_or(Service::Ssh, |target| target.service)
}

fn command(name: &str, target: Option<&Target>, port: Option<u16>) -> String {
    let service = Some(service(target)).filter(|service| *service != Service::Ssh);
    let service = service.map_or(String::new(), |service| format!(" --service {service}"));
    let port = port.map_or(String::new(), |port| format!(" --port {port}"));
    format!("arcssh {name} {}{service}{port}", machine(target))
}

/// ARM names the right that is missing, whom it is missing to, and where (Microsoft Learn, "Troubleshoot SSH access to
/// Azure Arc-enabled servers").
fn explain_missing_right(message: &str, id: &str) -> Told {
    let action = quoted_after(message, "perform action").unwrap_or(CONNECT);
    let why = if action.eq_ignore_ascii_case(CONNECT) {
        "this identity may not ask for its relay credentials (403 AuthorizationFailed)".to_owned()
    } else {
        format!("this identity lacks the right {action} (403 AuthorizationFailed)")
    };
    let assignee = quoted_after(message, "with object id").unwrap_or("YOU");
    // A role on the machine counts for all below it; a right on a subscription is none of its machines'.
    let of_subscription = |scope: &str| scope.trim_matches('/').split('/').count() == 2;
    let scope = quoted_after(message, "over scope").filter(|scope| id.is_empty() || of_subscription(scope));
    let scope = scope.unwrap_or(id);
    let role = format!(
        "an owner of the {} types: az role assignment create --role '{}' --assignee {} --scope {}",
        if of_subscription(scope) { "subscription" } else { "machine" },
        least_role(action),
        shell_quote(assignee),
        shell_quote(scope)
    );
    Told::new(EXIT_DENIED, why, role)
}

fn answer(ErrorResponse { status, code, message, request_id, .. }: &ErrorResponse) -> String {
    let request = request_id.as_ref().map(|id| format!("request {id}"));
    let parts = [Some(status.to_string()), Some(code.clone()), Some(message.clone()), request];
    parts.into_iter().flatten().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ")
}

fn quoted_after<'a>(text: &'a str, marker: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(marker)?;
    rest.split('\'').nth(1).filter(|quoted| !quoted.is_empty())
}

/// The relay's refusals: facts of the Relay Hybrid Connections protocol, and the agent's own 503.
fn explain_connect(error: &ConnectError, target: Option<&Target>) -> Told {
    let ConnectError::Refused { relay, status, reason, .. } = error else {
        return match error {
            ConnectError::Unreachable(error) => {
                let told = explain_way_out(error.as_ref(), error.downcast_ref(), "the relay");
                told.unwrap_or_else(|| Told::new(EXIT_NETWORK, causes(error.chain()), network()))
            }
            _ => Told::new(EXIT_NO_LISTENER, error.to_string(), AGENT),
        };
    };
    let port = target.map_or(0, |target| target.port);
    let by_relay_info = target.is_some_and(|target| target.machine.is_none());
    match status {
        503 if error.is_port_closed() => Told::new(
            EXIT_NO_LISTENER,
            format!("nothing listens on its port {port} ({reason})"),
            "start sshd on the machine, or name its port with --port",
        ),
        404 => Told::new(EXIT_NO_LISTENER, format!("its agent does not listen ({error})"), AGENT),
        408 | 504 => {
            Told::new(EXIT_NO_LISTENER, format!("its agent did not answer in time ({error})"), AGENT)
        }
        401 if error.is_ip_blocked() => Told::new(
            EXIT_NETWORK,
            format!("the relay does not let this network in ({error})"),
            "connect from another network, or ask Microsoft's support: the relay's namespace is theirs",
        ),
        401 if by_relay_info => Told::new(
            EXIT_DENIED,
            format!("the relay information has expired or is damaged ({error})"),
            "run az ssh config again; or give arcssh proxy the machine's resource ID, and it renews itself",
        ),
        401 => Told::new(
            EXIT_DENIED,
            format!("the relay does not accept the credentials that ARM gave ({error})"),
            "check this machine's clock, and try again",
        ),
        400 | 426 => Told::new(
            EXIT_NETWORK,
            format!("something on the way takes the WebSocket upgrade out of the request ({error})"),
            let_relay_pass(relay),
        ),
        ..400 | 407 | 511 => Told::new(
            EXIT_NETWORK,
            format!("something on the way answered in the relay's place ({error})"),
            let_relay_pass(relay),
        ),
        503 if error.has_default_reason() => Told::new(
            FAILED,
            format!("the relay has a fault, or a proxy in its place ({error})"),
            format!(
                "check that sshd listens on port {port} of the machine; if a proxy inspects TLS, {}",
                let_relay_pass(relay)
            ),
        ),
        429 => Told::new(FAILED, format!("the relay has had too many requests ({error})"), again(None)),
        500.. => Told::new(FAILED, format!("the relay has a fault ({error})"), TRY_LATER),
        _ => Told::new(
            FAILED,
            format!("its agent or the relay refused ({error})"),
            format!(
                "check that {port} is the port that is enabled on the machine: {} --dry-run shows it",
                command("setup", target, None)
            ),
        ),
    }
}

/// Close codes of the relay (Relay Hybrid Connections protocol, "close codes").
fn explain_broken(broken: &BridgeError) -> Told {
    let why = match broken {
        BridgeError::Closed(close) => match close.code() {
            Some(1001) => format!("its agent went away ({broken})"),
            Some(1008) => format!("the relay's token has expired ({broken})"),
            Some(1011) => format!("the relay has a fault ({broken})"),
            _ => broken.to_string(),
        },
        BridgeError::Lost(error) | BridgeError::Unwritable(error) => format!("{broken}: {}", root(error)),
        BridgeError::Silent => broken.to_string(),
        BridgeError::Violation { relay, .. } => {
            let hint = format!("connect again; if a proxy inspects TLS, {}", let_relay_pass(relay));
            return Told::new(FAILED, broken.to_string(), hint);
        }
        BridgeError::Input(error) => return Told::new(FAILED, format!("{broken}: {error}"), READABLE_INPUT),
        BridgeError::Output(error) => return Told::new(FAILED, format!("{broken}: {error}"), FREE_THE_DISK),
    };
    Told::new(FAILED, why, "connect again")
}

/// What failed on the network, whoever was to be reached; nothing where it was something else.
fn explain_way_out(error: &(dyn StdError + 'static), step: Option<&ConnectStep>, whom: &str) -> Option<Told> {
    let chain = || chain(error);
    if let Some(refusal) = chain().find_map(tls::error_in) {
        let whom = if let Some(ConnectStep::Tls(host)) = step { host } else { whom };
        return Some(explain_tls(refusal, whom));
    }
    if let Some(refused) = chain().find_map(|cause| cause.downcast_ref::<ProxyRefused>()) {
        let hint = match refused.status {
            // tinyproxy asks with 407 and refuses with 401.
            401 | 407 => proxy_password(),
            _ => format!("let CONNECT to {} pass the proxy, or name the host in NO_PROXY", refused.target),
        };
        return Some(Told::new(EXIT_NETWORK, causes(chain()), hint));
    }
    if matches!(step, Some(ConnectStep::ProxyTcp(_) | ConnectStep::ProxyConnect { .. })) {
        return Some(Told::new(EXIT_NETWORK, causes(chain()), PROXY_ADDRESS));
    }
    if chain().any(|cause| cause.is::<UnsupportedProxy>()) {
        return Some(Told::new(EXIT_NETWORK, causes(chain()), http_proxy()));
    }
    if let Some(told) = explain_tunnel(error, whom) {
        return Some(told);
    }
    let no_connection = chain().find_map(|cause| cause.downcast_ref::<reqwest::Error>());
    if no_connection.is_some_and(reqwest::Error::is_connect) {
        let why = format!("{whom} cannot be reached: {}", root(error));
        return Some(Told::new(EXIT_NETWORK, why, network()));
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
            Told::new(EXIT_NETWORK, why, proxy_password())
        }
        "failed to create underlying connection" => {
            let why = format!("the proxy on the way to {whom} cannot be reached: {}", root(error));
            Told::new(EXIT_NETWORK, why, PROXY_ADDRESS)
        }
        _ => Told::new(
            EXIT_NETWORK,
            format!("the proxy opens no tunnel to {whom}: {reason}"),
            "check user and password in HTTPS_PROXY, and that the proxy lets CONNECT pass",
        ),
    })
}

fn authority(untrusted: Option<&UnknownIssuer>) -> String {
    let unknown = "an authority that this machine does not trust";
    let issuer = untrusted.and_then(|untrusted| untrusted.issuer.as_ref());
    let told = issuer.map_or(unknown.to_owned(), |issuer| format!("{unknown}: {issuer}"));
    match untrusted.and_then(|untrusted| untrusted.unread.as_ref()) {
        Some(unread) => format!("{told} (arcssh {unread})"),
        None => told,
    }
}

fn explain_tls(refusal: &rustls::Error, host: &str) -> Told {
    use rustls::Error::InvalidCertificate;
    if let rustls::Error::Other(other) = refusal
        && let Some(unread) = other.0.downcast_ref::<Unread>()
    {
        return explain_unread(unread);
    }
    let (why, hint): (String, String) = match refusal {
        InvalidCertificate(CertificateError::Other(other)) if other.0.is::<UnknownIssuer>() => (
            format!("the certificate of {host} comes from {}", authority(other.0.downcast_ref())),
            "where a proxy inspects TLS, add its root certificate to the system's trust store or name it in SSL_CERT_FILE".into(),
        ),
        InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => {
            (format!("the certificate of {host} has expired"), CHECK_CLOCK.into())
        }
        InvalidCertificate(CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. }) => {
            (format!("the certificate of {host} is not valid yet"), CHECK_CLOCK.into())
        }
        rustls::Error::General(text) if text.starts_with(NO_ROOTS) => (
            "no root certificates were found to check others with".into(),
            "check that SSL_CERT_FILE and SSL_CERT_DIR, where they are set, name PEM certificates (an empty variable counts too); else install the system's ca-certificates".into(),
        ),
        InvalidCertificate(error) => (format!("the certificate of {host} is not valid: {error}"), network()),
        other => (format!("no TLS with {host}: {other}"), network()),
    };
    Told::new(EXIT_NETWORK, why, hint)
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

#[cfg(test)]
mod tests;
