//! Azure Relay, and the machine's Arc agent behind it.

use crate::diagnosis::arm::arm;
use crate::diagnosis::network::{TRY_LATER, net, retry_in};
use crate::diagnosis::{Code, Context, Diagnosis, system, terminal};
use crate::net::error::chain;
use crate::relay::bridge::BridgeError;
use crate::relay::handshake::{ConnectError, Rejection};

/// The machine's agent does not respond.
pub(crate) const CHECK_AGENT: &str =
    "check that the machine is on and its Arc agent is connected: on the machine, run azcmagent show";
const RECONNECT: &str = "connect again";

pub(super) fn connect(error: &ConnectError, context: &Context) -> Diagnosis {
    match error {
        ConnectError::Rejected(rejection) => rejected(rejection, context),
        ConnectError::TimedOut(_) => Diagnosis::new(Code::AgentOffline, error.to_string(), CHECK_AGENT),
        ConnectError::Net(error) => net(error),
        ConnectError::Credentials(error) => arm(error, context),
        ConnectError::State(error) => system::system(error),
        ConnectError::InvalidResponse { relay, .. } => {
            Diagnosis::new(Code::UnexpectedResponse, error.to_string(), allow_web_sockets(relay))
        }
        ConnectError::CredentialsTimedOut(error) => terminal::terminal(error, None),
    }
}

/// Diagnoses a response by facts of the Relay Hybrid Connections protocol, and of the agent's own 503.
fn rejected(rejection: &Rejection, context: &Context) -> Diagnosis {
    let Rejection { relay, status, reason, tracking_id } = rejection;
    let port = context.port();
    let by_relay_information = context.target.as_ref().is_some_and(|target| target.machine.is_none());
    let diagnosis = match status {
        503 if rejection.is_port_closed() => Diagnosis::new(
            Code::PortClosed,
            format!("no service listens on port {port} of the machine ({reason})"),
            "start sshd on the machine, or name its port with --port",
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
                "check that sshd listens on port {port} of the machine; if a proxy inspects TLS, {}",
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
pub(super) fn bridge(error: &BridgeError) -> Diagnosis {
    let summary = match error {
        BridgeError::Closed(close) => match close.code() {
            Some(1001) => format!("the machine's Arc agent disconnected ({error})"),
            Some(1008) => format!("the relay's token has expired ({error})"),
            Some(1011) => format!("the relay failed ({error})"),
            _ => error.to_string(),
        },
        BridgeError::Lost(_) | BridgeError::NotSent(_) => chain(error),
        BridgeError::Silent => error.to_string(),
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
