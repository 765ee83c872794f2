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

use crate::azure::arm::{ArmError, Refusal};
use crate::azure::hybrid_compute::TooManyPages;
use crate::azure::hybrid_connectivity::Service;
use crate::azure::login::StillStored;
use crate::azure::rbac::{CONNECT, least_role};
use crate::azure::relay_host::ForeignRelay;
use crate::azure::resource_id::ResourceIdError;
use crate::commands::doctor::probe::Slow;
use crate::commands::doctor::report::{AGENT, Hint, SERVED_REGION, Words};
use crate::commands::login::SigningIn;
use crate::commands::proxy::StoppedWaiting;
use crate::commands::teardown::TakingDown;
use crate::connector::Goal;
use crate::diagnosis::certificate::explain_no_certificate;
use crate::diagnosis::credentials::{explain_no_token, explain_sign_in, explain_still_stored, sign_in};
use crate::diagnosis::last_error::LastError;
use crate::diagnosis::system::{explain_system, explain_unread};
use crate::entra_ssh::NoCertificate;
use crate::machines::{NoMachine, NoSubscription, NoneFits, NotOne, NotReached};
use crate::net::Step;
use crate::net::http_proxy::{Refused as ProxyRefused, UnsupportedProxy};
use crate::net::tls::{self, NO_ROOTS, Unread, Untrusted};
use crate::provisioning::run::SettingUp;
use crate::provisioning::{NotRegistered, NotShown, PortTaken};
use crate::relay::bridge::Broken;
use crate::relay::handshake::ConnectError;
use crate::ssh::effective_config::{NotUsed, Shadowed};
use crate::ssh::managed_block::NotChanged;
use crate::state::{TooOpen, unix_now};
use crate::terminal::output::{NotPrinted, one_line, set_variable, word};
use crate::terminal::progress::Late;
use crate::terminal::prompt::NotAgreed;
use crate::terminal::tty;

/// Exit statuses; 2 is clap's for a command line that cannot be read. ssh passes none of them on.
pub(crate) const FAILED: u8 = 1;
pub(crate) const USAGE: u8 = 2;
const NO_IDENTITY: u8 = 3;
const NOT_ALLOWED: u8 = 4;
const NOT_SET_UP: u8 = 5;
const NO_WAY_OUT: u8 = 6;
const NOBODY_LISTENS: u8 = 7;
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
    if let Some(NotReached(errors)) = error.downcast_ref() {
        for error in errors {
            report(error);
        }
        return ExitCode::from(FAILED);
    }
    let goal = error.downcast_ref::<Goal>();
    let Told { why, hint, status } = explain(error, goal);
    let hint = hint.map(|hint| hint.text);
    let what = match goal {
        Some(goal) if error.is::<SettingUp>() => format!("cannot set up {goal}: "),
        Some(goal) if error.is::<TakingDown>() => format!("cannot take down {goal}: "),
        Some(goal) if error.is::<Broken>() => format!("lost {goal}: "),
        Some(goal) if !error.is::<NoMachine>() => format!("cannot connect to {goal}: "),
        _ => String::new(),
    };
    let what = format!("{what}{why}");
    // Whoever types Ctrl-C ends ssh by it too, and wants to hear no more.
    if !error.is::<StoppedWaiting>() || status == HUNG_UP {
        tell(&what, hint.as_deref());
    }
    let is_connection = !error.is::<SettingUp>() && !error.is::<TakingDown>();
    if let Some(goal) = goal.filter(|_| is_connection) {
        last_error::keep(&LastError {
            at: unix_now(),
            machine: goal.machine.as_ref().map(ToString::to_string),
            name: goal.name.clone(),
            port: goal.port,
            what: one_line(&what),
            hint: hint.as_deref().map(one_line),
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
    let _ = writeln!(stderr, "{}", one_line(&format!("arcssh: {what}")));
    if let Some(hint) = hint {
        let _ = writeln!(stderr, "{}", one_line(&format!("arcssh: hint: {hint}")));
    }
    if let Some(mut terminal) = tty::behind_ssh() {
        // A session may have made the terminal raw.
        let _ = write!(terminal, "\r{}; arcssh last explains it\r\n", one_line(&format!("arcssh: {what}")));
    }
}

/// How Azure names the request that it refused, for its support.
fn request(error: &Error) -> Option<String> {
    if let Some(ArmError::Refused(Refusal { request_id: Some(id), .. })) = error.downcast_ref() {
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

fn explain(error: &Error, goal: Option<&Goal>) -> Told {
    if let Some(arm) = error.downcast_ref::<ArmError>() {
        let told = explain_arm(arm, goal);
        return match arm {
            // Setting up registers the provider where it is not.
            ArmError::Refused(refusal) if refusal.is_unserved() && error.is::<SettingUp>() => {
                Told { hint: Some(SERVED_REGION.into()), ..told }
            }
            _ => told,
        };
    }
    if let Some(connect) = error.downcast_ref::<ConnectError>() {
        return explain_connect(connect, goal);
    }
    if let Some(broken) = error.downcast_ref::<Broken>() {
        return explain_broken(broken);
    }
    if let Some(open) = error.downcast_ref::<TooOpen>() {
        return explain_too_open(open);
    }
    if let Some(told) = explain_system(error) {
        return told;
    }
    if let Some(none) = error.downcast_ref::<NoCertificate>() {
        return explain_no_certificate(none);
    }
    if error.is::<SigningIn>() {
        return explain_sign_in(error);
    }
    if let Some(still) = error.downcast_ref::<StillStored>() {
        return explain_still_stored(still);
    }
    if let Some(told) = explain_selection(error, goal) {
        return told;
    }
    if let Some(told) = explain_set_up(error, goal) {
        return told;
    }
    if let Some(stopped) = error.downcast_ref::<StoppedWaiting>() {
        let hint = match goal.filter(|goal| goal.machine.is_some()) {
            Some(_) => {
                let command = as_tried("warm", goal);
                Hint::new(format!("{command} makes it ready for the next time"), command)
            }
            None => "ssh -o ConnectTimeout=120 waits longer".into(),
        };
        return Told::new(stopped.status(), stopped.to_string(), hint);
    }
    if error.is::<Late>() || error.is::<Slow>() {
        return Told::new(NO_WAY_OUT, error.root_cause().to_string(), network());
    }
    if error.is::<NotPrinted>() {
        return Told::new(FAILED, causes(error.chain()), FREE_THE_DISK);
    }
    if let Some(NotUsed(shadowed)) = error.downcast_ref::<NotUsed>() {
        return explain_not_used(error, shadowed);
    }
    if error.is::<ForeignRelay>() {
        return explain_foreign_relay(error);
    }
    if error.is::<NotChanged>() {
        let hint = "arcssh config --file FILE writes another file, for ssh -F FILE";
        return Told::new(FAILED, causes(error.chain()), hint);
    }
    explain_way_out(error.root_cause(), None, "Azure").unwrap_or_else(|| {
        let contexts = [goal.is_some(), error.is::<SettingUp>() || error.is::<TakingDown>()];
        let contexts = contexts.into_iter().filter(|there| *there).count();
        Told::without_hint(FAILED, causes(error.chain().skip(contexts)))
    })
}

/// A line of another host entry, or of another file, that ssh uses instead.
fn explain_not_used(error: &Error, shadowed: &Shadowed) -> Told {
    let hint = match &shadowed.by {
        Some((file, line)) => format!("move line {line} of {} below the arcssh block", file.display()).into(),
        None => {
            let command = format!("ssh -v -G {}", word(&shadowed.alias));
            Hint::new(format!("{command} shows which lines apply"), command)
        }
    };
    Told::new(FAILED, error.root_cause().to_string(), hint)
}

/// What was typed to name machines, and names none.
fn explain_selection(error: &Error, goal: Option<&Goal>) -> Option<Told> {
    if let Some(not_one) = error.downcast_ref::<NotOne>() {
        return Some(explain_not_one(not_one, goal));
    }
    if error.is::<NoneFits>() {
        return Some(Told::new(NOT_SET_UP, error.root_cause().to_string(), list()));
    }
    if error.is::<NoSubscription>() {
        return Some(Told::new(NOT_SET_UP, error.root_cause().to_string(), OTHER_TENANT));
    }
    if error.is::<ResourceIdError>() {
        return Some(Told::new(USAGE, error.root_cause().to_string(), NAME_IT));
    }
    if let Some(none) = error.downcast_ref::<NoMachine>() {
        let command = format!("arcssh {} --help", none.command);
        let hint = Hint::new(format!("{command} shows how to name one"), command);
        return Some(Told::new(USAGE, none.to_string(), hint));
    }
    None
}

/// What keeps a machine from being set up, if Azure has not refused it.
fn explain_set_up(error: &Error, goal: Option<&Goal>) -> Option<Told> {
    if let Some(not_agreed) = error.downcast_ref::<NotAgreed>() {
        let why = not_agreed.to_string();
        return Some(match not_agreed {
            NotAgreed::Declined => Told::without_hint(FAILED, why),
            NotAgreed::NobodyToAsk => Told::new(FAILED, why, "the same command with --yes goes ahead"),
        });
    }
    if let Some(taken) = error.downcast_ref::<PortTaken>() {
        let hint = runnable(goal, format!("{} --replace-port", command("setup", goal, Some(taken.to))));
        return Some(Told::new(NOT_SET_UP, taken.to_string(), hint));
    }
    if error.is::<NotShown>() {
        return Some(Told::new(FAILED, error.root_cause().to_string(), GO_ON));
    }
    if let Some(slow) = error.downcast_ref::<NotRegistered>() {
        return Some(Told::new(NOT_SET_UP, slow.to_string(), GO_ON));
    }
    None
}

/// What others could read or plant is not used.
fn explain_too_open(open: &TooOpen) -> Told {
    let path = word(&open.path.display().to_string());
    Told::new(FAILED, open.to_string(), Hint::command(format!("chmod {:o} {path}", open.wanted)))
}

fn explain_not_one(not_one: &NotOne, goal: Option<&Goal>) -> Told {
    let hint = match (not_one.candidates.first().and_then(|first| first.split_once('/')), goal) {
        (Some((group, name)), Some(goal)) => {
            // What was typed for ssh ends in what the wildcard's pattern ends in.
            let typed = goal.to_string();
            let suffix = typed.strip_prefix(not_one.name.as_str()).unwrap_or_default();
            let alias = format!("{}.{}{suffix}", name.to_lowercase(), group.to_lowercase());
            Hint::command(format!("ssh {}", word(&alias)))
        }
        (Some(_), None) => "name the machine as GROUP/NAME".into(),
        (None, _) => list(),
    };
    Told::new(NOT_SET_UP, not_one.to_string(), hint)
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

fn explain_arm(error: &ArmError, goal: Option<&Goal>) -> Told {
    match error {
        ArmError::Refused(refusal) => explain_refusal(refusal, goal),
        ArmError::NoToken(no_token) => explain_no_token(no_token),
        ArmError::NoWayOut(error) => explain_way_out(error.as_ref(), None, "Azure Resource Manager")
            .unwrap_or_else(|| Told::without_hint(NO_WAY_OUT, causes(error.chain()))),
        ArmError::Unreachable(error) => explain_way_out(error, None, "Azure Resource Manager")
            .unwrap_or_else(|| {
                let why = format!("Azure Resource Manager cannot be reached: {}", root(error));
                Told::new(NO_WAY_OUT, why, network())
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
    Told::new(NOT_ALLOWED, format!("arcssh sends no relay token: {}", error.root_cause()), relay_domain())
}

/// ARM's refusals, told apart by code where it has one (azure-docs "Resolve errors for resource provider registration";
/// Microsoft Learn, "Troubleshoot SSH access to Azure Arc-enabled servers"; recorded bodies of azure-powershell).
fn explain_refusal(refusal: &Refusal, goal: Option<&Goal>) -> Told {
    let Refusal { status, code, message, .. } = refusal;
    let id = goal.and_then(|goal| goal.machine.as_ref()).map(ToString::to_string).unwrap_or_default();
    match (*status, code.as_str()) {
        (_, "NoRegisteredProviderFound" | "MissingSubscriptionRegistration") => {
            Told::new(NOT_SET_UP, unregistered(refusal), setup(goal))
        }
        (401, _) => {
            let tenant =
                refusal.tenant.as_ref().map_or(String::new(), |tenant| format!(" --tenant {tenant}"));
            let why = format!("Azure does not accept this sign-in ({})", said(refusal));
            Told::new(NO_IDENTITY, why, sign_in(&tenant))
        }
        (403, "AuthorizationFailed") => explain_missing_right(message, &id),
        (403, "RequestDisallowedByPolicy") => Told::new(
            NOT_ALLOWED,
            format!("a policy of Azure forbids it ({message})"),
            "ask an administrator of the subscription's policies",
        ),
        (409, "ScopeLocked") => Told::new(
            NOT_ALLOWED,
            format!("it is locked against changes ({message})"),
            format!("az lock list --resource {} shows the lock; az lock delete takes it away", word(&id)),
        ),
        (404, _) if message.to_lowercase().contains("/endpoints/default") => {
            Told::new(NOT_SET_UP, "it has no connectivity endpoint yet (404 ResourceNotFound)", setup(goal))
        }
        (412, _) => Told::new(
            NOT_SET_UP,
            "the service is not enabled on it yet (412 Precondition Failed)",
            setup(goal),
        ),
        (404, "SubscriptionNotFound") => Told::new(
            NOT_SET_UP,
            format!("this identity sees no such subscription ({})", said(refusal)),
            OTHER_TENANT,
        ),
        (404, "ResourceNotFound" | "ResourceGroupNotFound") => Told::new(
            NOT_SET_UP,
            format!("there is no such machine ({})", said(refusal)),
            "arcssh list --format json shows the IDs of those that there are; arcssh config --remove NAME takes out the section of one that is gone",
        ),
        (404, _) => Told::new(
            NOT_SET_UP,
            format!("there is no such machine, or no connectivity endpoint on it ({})", said(refusal)),
            Hint {
                text: format!("arcssh doctor {} tells which", machine(goal)),
                ..runnable(goal, format!("arcssh doctor {}", machine(goal)))
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
            NO_WAY_OUT,
            format!("something on the way to Azure Resource Manager answered ({})", answer(refusal)),
            let_arm_pass(&refusal.host),
        ),
        (403, _) => Told::new(
            NOT_ALLOWED,
            format!("Azure Resource Manager refused ({})", answer(refusal)),
            "ask an owner of the machine; if a proxy is in the way, ask its administrator",
        ),
        _ => Told::new(FAILED, format!("Azure Resource Manager refused ({})", answer(refusal)), TRY_LATER),
    }
}

fn unregistered(refusal: &Refusal) -> String {
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
fn said(refusal: &Refusal) -> String {
    let Refusal { code, message, .. } = refusal;
    if code.is_empty() && message.is_empty() { answer(refusal) } else { format!("{code}: {message}") }
}

fn again(retry_after: Option<Duration>) -> String {
    let pause = retry_after.map_or("a minute".into(), |after| format!("{} s", after.as_secs()));
    format!("try again in {pause}")
}

/// The command that makes a machine ready for a connection as it was tried.
fn setup(goal: Option<&Goal>) -> Hint {
    match runnable(goal, as_tried("setup", goal)) {
        Hint { text, command: Some(_) } => Hint::set_up(text),
        hint => hint,
    }
}

/// A hint that is a command for the machine; the command cannot be run if the machine is not known.
fn runnable(goal: Option<&Goal>, command: String) -> Hint {
    match goal.is_some_and(|goal| goal.machine.is_some()) {
        true => Hint::command(command),
        false => command.into(),
    }
}

/// A command for the machine and the port of a connection that was tried.
fn as_tried(name: &str, goal: Option<&Goal>) -> String {
    command(name, goal, goal.map(|goal| goal.port).filter(|port| *port != service(goal).default_port()))
}

/// A machine as a shell takes it.
fn machine(goal: Option<&Goal>) -> String {
    let machine = goal.and_then(|goal| goal.machine.as_ref());
    word(&machine.map_or("MACHINE".into(), ToString::to_string))
}

fn service(goal: Option<&Goal>) -> Service {
    goal.map_or(Service::Ssh, |goal| goal.service)
}

fn command(name: &str, goal: Option<&Goal>, port: Option<u16>) -> String {
    let service = Some(service(goal)).filter(|service| *service != Service::Ssh);
    let service = service.map_or(String::new(), |service| format!(" --service {service}"));
    let port = port.map_or(String::new(), |port| format!(" --port {port}"));
    format!("arcssh {name} {}{service}{port}", machine(goal))
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
        word(assignee),
        word(scope)
    );
    Told::new(NOT_ALLOWED, why, role)
}

fn answer(Refusal { status, code, message, request_id, .. }: &Refusal) -> String {
    let request = request_id.as_ref().map(|id| format!("request {id}"));
    let parts = [Some(status.to_string()), Some(code.clone()), Some(message.clone()), request];
    parts.into_iter().flatten().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ")
}

fn quoted_after<'a>(text: &'a str, marker: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(marker)?;
    rest.split('\'').nth(1).filter(|quoted| !quoted.is_empty())
}

/// The relay's refusals: facts of the Relay Hybrid Connections protocol, and the agent's own 503.
fn explain_connect(error: &ConnectError, goal: Option<&Goal>) -> Told {
    let ConnectError::Refused { relay, status, reason, .. } = error else {
        return match error {
            ConnectError::Unreachable(error) => {
                let told = explain_way_out(error.as_ref(), error.downcast_ref(), "the relay");
                told.unwrap_or_else(|| Told::new(NO_WAY_OUT, causes(error.chain()), network()))
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
        401 if error.is_of_network() => Told::new(
            NO_WAY_OUT,
            format!("the relay does not let this network in ({error})"),
            "connect from another network, or ask Microsoft's support: the relay's namespace is theirs",
        ),
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
        400 | 426 => Told::new(
            NO_WAY_OUT,
            format!("something on the way takes the WebSocket upgrade out of the request ({error})"),
            let_relay_pass(relay),
        ),
        ..400 | 407 | 511 => Told::new(
            NO_WAY_OUT,
            format!("something on the way answered in the relay's place ({error})"),
            let_relay_pass(relay),
        ),
        503 if error.gives_no_reason() => Told::new(
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
                command("setup", goal, None)
            ),
        ),
    }
}

/// Close codes of the relay (Relay Hybrid Connections protocol, "close codes").
fn explain_broken(broken: &Broken) -> Told {
    let why = match broken {
        Broken::Closed(close) => match close.code() {
            Some(1001) => format!("its agent went away ({broken})"),
            Some(1008) => format!("the relay's token has expired ({broken})"),
            Some(1011) => format!("the relay has a fault ({broken})"),
            _ => broken.to_string(),
        },
        Broken::Lost(error) | Broken::Unwritable(error) => format!("{broken}: {}", root(error)),
        Broken::Silent => broken.to_string(),
        Broken::Violation { relay, .. } => {
            let hint = format!("connect again; if a proxy inspects TLS, {}", let_relay_pass(relay));
            return Told::new(FAILED, broken.to_string(), hint);
        }
        Broken::Input(error) => return Told::new(FAILED, format!("{broken}: {error}"), READABLE_INPUT),
        Broken::Output(error) => return Told::new(FAILED, format!("{broken}: {error}"), FREE_THE_DISK),
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
            401 | 407 => proxy_password(),
            _ => format!("let CONNECT to {} pass the proxy, or name the host in NO_PROXY", refused.target),
        };
        return Some(Told::new(NO_WAY_OUT, causes(chain()), hint));
    }
    if matches!(step, Some(Step::ToProxy(_) | Step::Proxy { .. })) {
        return Some(Told::new(NO_WAY_OUT, causes(chain()), PROXY_ADDRESS));
    }
    if chain().any(|cause| cause.is::<UnsupportedProxy>()) {
        return Some(Told::new(NO_WAY_OUT, causes(chain()), http_proxy()));
    }
    if let Some(told) = explain_tunnel(error, whom) {
        return Some(told);
    }
    let no_connection = chain().find_map(|cause| cause.downcast_ref::<reqwest::Error>());
    if no_connection.is_some_and(reqwest::Error::is_connect) {
        let why = format!("{whom} cannot be reached: {}", root(error));
        return Some(Told::new(NO_WAY_OUT, why, network()));
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
            Told::new(NO_WAY_OUT, why, proxy_password())
        }
        "failed to create underlying connection" => {
            let why = format!("the proxy on the way to {whom} cannot be reached: {}", root(error));
            Told::new(NO_WAY_OUT, why, PROXY_ADDRESS)
        }
        _ => Told::new(
            NO_WAY_OUT,
            format!("the proxy opens no tunnel to {whom}: {reason}"),
            "check user and password in HTTPS_PROXY, and that the proxy lets CONNECT pass",
        ),
    })
}

fn authority(untrusted: Option<&Untrusted>) -> String {
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
        InvalidCertificate(CertificateError::Other(other)) if other.0.is::<Untrusted>() => (
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

#[cfg(test)]
mod tests;
