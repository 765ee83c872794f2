//! Azure Relay, and the machine's Arc agent behind it.

use crate::azure::hybrid_compute::is_windows;
use crate::azure::hybrid_connectivity::Service;
use crate::diagnosis::arm::arm;
use crate::diagnosis::network::{TRY_LATER, net, retry_in};
use crate::diagnosis::{Code, Context, Diagnosis, system, terminal};
use crate::net::error::chain;
use crate::relay::bridge::BridgeError;
use crate::relay::greeting::{Limit, NotSsh};
use crate::relay::handshake::{ConnectError, Rejection};

/// The machine's agent does not respond.
pub(crate) const CHECK_AGENT: &str =
    "check that the machine is on and its Arc agent is connected: on the machine, run azcmagent show";
/// Azure has removed the connection of the machine's agent.
pub(crate) const CONNECT_AGENT: &str =
    "reconnect the machine: on the machine, run azcmagent disconnect, then azcmagent connect";
const RECONNECT: &str = "connect again";

pub(super) fn connect(error: &ConnectError, context: &Context) -> Diagnosis {
    match error {
        ConnectError::Rejected(rejection) => rejected(rejection, context),
        ConnectError::TimedOut(_) => Diagnosis::new(Code::AgentOffline, error.to_string(), CHECK_AGENT),
        ConnectError::Net(error) => match error.unknown_host() {
            Some(host) => unknown_relay(error.to_string(), host),
            None => net(error),
        },
        ConnectError::Credentials(error) => arm(error, context),
        ConnectError::State(error) => system::system(error),
        ConnectError::InvalidResponse { relay, .. } => {
            Diagnosis::new(Code::UnexpectedResponse, error.to_string(), allow_web_sockets(relay))
        }
        ConnectError::CredentialsTimedOut(error) => terminal::terminal(error, None),
    }
}

/// Diagnoses a failed connection to a machine with a status other than connected.
pub(super) fn offline(status: &str, error: &ConnectError, context: &Context) -> Diagnosis {
    let diagnosis = connect(error, context);
    let summary = format!("{}; Azure reports the machine as {status}", diagnosis.summary);
    if !status.to_lowercase().starts_with("expired") {
        return Diagnosis { summary, ..diagnosis };
    }
    Diagnosis { summary, hint: Some(CONNECT_AGENT.into()), ..diagnosis }
}

/// Diagnoses a name of a relay that DNS does not know, although Azure Resource Manager issued it. The private DNS zone of
/// Azure Relay hides all public names of the domain from its networks (Microsoft Learn, "Azure Private Endpoint private DNS
/// zone values", "Fallback to internet for Azure Private DNS zones").
fn unknown_relay(summary: String, host: &str) -> Diagnosis {
    let domain = host.split_once('.').map_or(host, |(_, domain)| domain);
    let domain = domain.split(':').next().unwrap_or(domain);
    Diagnosis::new(
        Code::NetworkUnreachable,
        summary,
        format!(
            "check DNS, which does not know {host}; if the private DNS zone privatelink.{domain} is linked to this network, enable its fallback to the internet, or add a record for the relay"
        ),
    )
}

/// Diagnoses a response by facts of the Relay Hybrid Connections protocol, and of the agent's own 503.
fn rejected(rejection: &Rejection, context: &Context) -> Diagnosis {
    let Rejection { relay, status, reason, tracking_id } = rejection;
    let port = context.port();
    let program = match context.service() {
        Service::Ssh => "sshd",
        Service::Wac => "Windows Admin Center",
    };
    let by_relay_information = context.target.as_ref().is_some_and(|target| target.machine.is_none());
    let diagnosis = match status {
        503 if rejection.is_port_closed() => Diagnosis::new(
            Code::PortClosed,
            format!("no service listens on port {port} of the machine ({reason})"),
            format!("start {program} on the machine, or name its port with --port"),
        ),
        404 => Diagnosis::new(
            Code::AgentOffline,
            format!("the machine's Arc agent is not connected to the relay ({rejection})"),
            CHECK_AGENT,
        ),
        408 | 504 => Diagnosis::new(
            Code::AgentOffline,
            format!("the machine's Arc agent did not respond in time ({rejection})"),
            CHECK_AGENT,
        ),
        401 => unauthorized(rejection, by_relay_information),
        400 | 426 => Diagnosis::new(
            Code::UnexpectedResponse,
            format!("a proxy removed the WebSocket upgrade from the request ({rejection})"),
            allow_web_sockets(relay),
        ),
        ..400 | 407 | 511 => Diagnosis::new(
            Code::UnexpectedResponse,
            format!("a proxy responded instead of the relay ({rejection})"),
            allow_web_sockets(relay),
        ),
        503 if rejection.has_default_reason() => Diagnosis::new(
            Code::ServiceError,
            format!("the relay failed, or a proxy replaced its response ({rejection})"),
            format!(
                "check that {program} listens on port {port} of the machine; if a proxy inspects TLS, {}",
                allow_web_sockets(relay)
            ),
        ),
        429 => Diagnosis::new(
            Code::Throttled,
            format!("the relay throttles requests ({rejection})"),
            retry_in(None),
        ),
        500.. => Diagnosis::new(Code::ServiceError, format!("the relay failed ({rejection})"), TRY_LATER),
        _ => Diagnosis::new(
            Code::ConnectionRejected,
            format!("the relay or the machine's Arc agent rejected the connection ({rejection})"),
            format!(
                "check that {} is enabled on port {port}: {} --dry-run",
                context.service(),
                context.command("setup", None)
            ),
        ),
    };
    let request_id = Some(tracking_id).filter(|id| !id.is_empty()).map(|id| format!("{id} of Azure Relay"));
    Diagnosis { request_id, ..diagnosis }
}

/// Diagnoses a 401: of a network rule, or of the credentials in the request.
fn unauthorized(rejection: &Rejection, by_relay_information: bool) -> Diagnosis {
    if rejection.is_ip_blocked() {
        return Diagnosis::new(
            Code::IpBlocked,
            format!("the relay blocks the IP address of this network ({rejection})"),
            "connect from another network, or ask Microsoft's support, which manages the relay's namespace",
        );
    }
    if by_relay_information {
        return Diagnosis::new(
            Code::RelayInformationExpired,
            format!("the relay information has expired or is damaged ({rejection})"),
            "run az ssh config again; to connect without relay information, give arcssh proxy the machine's resource ID",
        );
    }
    Diagnosis::new(
        Code::RelayCredentialsRejected,
        format!("the relay rejected the credentials that Azure Resource Manager issued ({rejection})"),
        "check the clock of this computer, and connect again",
    )
}

/// Diagnoses close codes of the relay (Relay Hybrid Connections protocol, "close codes").
pub(super) fn bridge(error: &BridgeError, context: &Context) -> Diagnosis {
    let summary = match error {
        BridgeError::Closed(close) => match close.code() {
            Some(1001) => format!("the machine's Arc agent disconnected ({error})"),
            Some(1008) => format!("the relay's token has expired ({error})"),
            Some(1011) => format!("the relay failed ({error})"),
            _ => error.to_string(),
        },
        BridgeError::Lost(_) | BridgeError::NotSent(_) => chain(error),
        BridgeError::Silent => error.to_string(),
        BridgeError::NotSsh(failure) => return not_ssh(failure, context.port(), ""),
        BridgeError::Violation { relay, .. } => {
            let hint = format!("{RECONNECT}; if a proxy inspects TLS, {}", allow_web_sockets(relay));
            return Diagnosis::new(Code::ProtocolViolation, error.to_string(), hint);
        }
        BridgeError::Input(cause) => {
            return Diagnosis::new(
                Code::InputFailed,
                format!("{error}: {cause}"),
                "connect standard input to a pipe, a socket, a terminal or a readable file",
            );
        }
        BridgeError::Output(cause) => {
            return Diagnosis::new(Code::OutputFailed, format!("{error}: {cause}"), system::FREE_DISK);
        }
    };
    Diagnosis::new(Code::ConnectionLost, summary, RECONNECT)
}

fn allow_web_sockets(host: &str) -> String {
    format!("allow WebSocket connections to {host} in the proxy, without TLS inspection")
}

/// Diagnoses a service that sends no SSH identification, on a machine with this operating system; empty if it is unknown.
pub(crate) fn not_ssh(failure: &NotSsh, port: u16, os: &str) -> Diagnosis {
    match failure {
        NotSsh::Limited(limit, _) => Diagnosis::new(
            Code::SshdLimited,
            format!(
                "{failure}: it limits connections that do not log in, and all connections through Arc are one client to it"
            ),
            raise_limits(*limit, os),
        ),
        NotSsh::Closed => Diagnosis::new(
            Code::SshdClosed,
            format!("the service on port {port} closes each connection without a byte"),
            check_sshd(os),
        ),
        NotSsh::Incomplete(text) => Diagnosis::new(
            Code::SshdClosed,
            format!("the service on port {port} sends only the beginning of an identification (\"{text}\")"),
            check_sshd(os),
        ),
        NotSsh::Version(version) => Diagnosis::new(
            Code::NotSsh,
            format!("the service on port {port} speaks SSH {version}, which OpenSSH does not support"),
            "update the SSH server of the machine, or name the port of another one with --port",
        ),
        NotSsh::Silent(time) => Diagnosis::new(
            Code::NotSsh,
            format!("the service on port {port} sent nothing within {} s", time.as_secs()),
            format!("{}; or {}", check_service(port), check_sshd(os)),
        ),
        NotSsh::Text(_) => Diagnosis::new(
            Code::NotSsh,
            other_service(failure, port),
            format!("{}{}", check_service(port), if is_windows(os) { "" } else { WRAPPED }),
        ),
        NotSsh::Http(_) | NotSsh::Protocol(_) | NotSsh::Binary => {
            Diagnosis::new(Code::NotSsh, other_service(failure, port), check_service(port))
        }
    }
}

/// TCP wrappers can send a text in place of sshd (hosts_options(5), `twist` and `banners`).
const WRAPPED: &str = "; or sshd is wrapped: check /etc/hosts.deny and /etc/hosts.allow on the machine";

fn other_service(failure: &NotSsh, port: u16) -> String {
    format!("the service on port {port} is not an SSH server: {failure}")
}

fn check_service(port: u16) -> String {
    format!("check which service listens on port {port} of the machine; name the port of sshd with --port")
}

/// Returns how to raise the limits of sshd. The agent connects to sshd from the machine itself. Only OpenSSH 9.8 and later
/// have penalties, and an older sshd does not start with their settings (sshd_config(5), `PerSourcePenaltyExemptList`).
fn raise_limits(limit: Limit, os: &str) -> String {
    let settings = match limit {
        Limit::Penalties => "the lines PerSourcePenaltyExemptList 127.0.0.1,::1 and MaxStartups 100:30:200",
        Limit::MaxStartups => "the line MaxStartups 100:30:200",
    };
    let linux = "/etc/ssh/sshd_config, then run: sudo sshd -t && sudo systemctl reload sshd";
    let windows = r"%ProgramData%\ssh\sshd_config, then run as an administrator: Restart-Service sshd";
    let file = of_system(os, linux, windows);
    format!(
        "connect again in some minutes; to raise the limits, add on the machine {settings} at the top of {file}"
    )
}

/// Returns how to check an sshd that closes each connection. TCP wrappers close it without a byte (hosts_access(5)).
fn check_sshd(os: &str) -> String {
    let linux = "run sudo sshd -t, and check /etc/hosts.deny and MaxStartups";
    let windows = "run sshd -t as an administrator";
    let check = of_system(os, linux, windows);
    format!(
        "check sshd: on the machine, {check}; if SSH was enabled before the agent was updated to 1.31, run arcssh teardown, then arcssh setup"
    )
}

/// Returns the advice for an operating system, or both if it is unknown.
fn of_system(os: &str, linux: &str, windows: &str) -> String {
    match os {
        "" => format!("{linux}; on Windows, {windows}"),
        os if is_windows(os) => windows.into(),
        _ => linux.into(),
    }
}
