//! The sender's handshake with Azure Relay.
//!
//! WebSocket libraries drop the HTTP reason phrase, which alone contains the relay's error text (Relay Hybrid Connections
//! protocol, "error codes").

use std::fmt;
use std::time::Duration;

use http::StatusCode;
use http::uri::Authority;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tracing::debug;
use uuid::Uuid;

use crate::azure::arm::ArmError;
use crate::azure::hybrid_connectivity::RelayCredentials;
use crate::net::error::{causes, chain};
use crate::net::http_head::{self, Head};
use crate::net::tls::{self, TlsError};
use crate::net::{self, Net, NetError, Step};
use crate::system::SystemError;
use crate::system::timeout::with_timeout;
use crate::terminal::TerminalError;

/// A connection to the machine's agent, on which WebSocket frames follow.
#[derive(Debug)]
pub(crate) struct Upgraded<S> {
    /// The relay's host, with its port unless that is 443.
    pub(crate) relay: String,
    pub(crate) stream: S,
    /// Bytes of the first frames, read with the response.
    pub(crate) read_ahead: Vec<u8>,
}

/// Dials once: TCP, TLS, upgrade. The relay sends 101 after the agent has connected to the port and accepted. Calls `limit`
/// before each step for its time limit.
///
/// # Errors
/// See [`ConnectError`].
pub(crate) async fn dial(
    net: &Net,
    credentials: &RelayCredentials,
    port: u16,
    limit: impl Fn(Step) -> Duration,
) -> Result<Upgraded<net::Stream>, ConnectError> {
    let authority = credentials.relay.authority();
    let stream = net.connect_in_steps(authority, &limit).await?;
    let upgrade = upgrade(stream, authority, credentials, port);
    with_timeout(limit(Step::Onward), upgrade, ConnectError::TimedOut).await
}

async fn upgrade<S>(
    mut stream: S,
    authority: &Authority,
    credentials: &RelayCredentials,
    port: u16,
) -> Result<Upgraded<S>, ConnectError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let key = generate_key();
    let id = Uuid::new_v4();
    debug!(%id, %authority, "requesting a connection from the relay");
    let request = request(authority, credentials, port, &key, id);
    let head = exchange(&mut stream, &request)
        .await
        .map_err(|error| ConnectError::of_exchange(authority, &error))?;
    if head.status != 101 {
        return Err(Rejection::new(authority.as_str(), head.status, &head.reason).into());
    }
    check_upgrade(&head, &key).map_err(|cause| ConnectError::invalid(authority, cause))?;
    Ok(Upgraded { relay: authority.to_string(), stream, read_ahead: head.read_ahead })
}

/// Checks a 101 (RFC 6455, section 4.1).
fn check_upgrade(head: &Head, key: &str) -> Result<(), String> {
    let has = |name: &str, value: &str| head.values(name).any(|other| other.eq_ignore_ascii_case(value));
    if !has("upgrade", "websocket") {
        return Err("its Upgrade header does not name websocket".into());
    }
    if !has("connection", "upgrade") {
        return Err("its Connection header does not name Upgrade".into());
    }
    let accept: Vec<&str> = head.values("sec-websocket-accept").collect();
    if accept != [derive_accept_key(key.as_bytes())] {
        return Err("its Sec-WebSocket-Accept header is wrong".into());
    }
    let not_offered = ["Sec-WebSocket-Extensions", "Sec-WebSocket-Protocol"];
    match not_offered.into_iter().find_map(|name| Some((name, head.values(name).next()?))) {
        Some((name, value)) => Err(format!("it selected {value:?} in {name}, which arcssh did not offer")),
        None => Ok(()),
    }
}

async fn exchange<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, request: &str) -> anyhow::Result<Head> {
    stream.write_all(request.as_bytes()).await?;
    stream.flush().await?;
    http_head::read(stream).await
}

/// Returns the request of a sender. The slashes in the hybrid connection's name are not escaped. The token is in a header,
/// which proxies do not log (aztunnel `internal/arc/arc.go`; Relay Hybrid Connections protocol, "HTTP request").
fn request(authority: &Authority, credentials: &RelayCredentials, port: u16, key: &str, id: Uuid) -> String {
    let RelayCredentials { hybrid_connection_name, access_key, service_configuration_token, .. } =
        credentials;
    let mut lines = vec![
        format!("GET /$hc/{hybrid_connection_name}?sb-hc-action=connect&sb-hc-id={id} HTTP/1.1"),
        format!("Host: {authority}"),
        "Connection: Upgrade".into(),
        "Upgrade: websocket".into(),
        "Sec-WebSocket-Version: 13".into(),
        format!("Sec-WebSocket-Key: {key}"),
        format!("ServiceBusAuthorization: {}", access_key.secret()),
        format!("Microsoft-Guestgateway-Target: localhost:{port}"),
    ];
    if let Some(token) = service_configuration_token {
        lines.push(format!("Service-Configuration-Token: {}", token.secret()));
    }
    lines.join("\r\n") + "\r\n\r\n"
}

/// A failed connection to the relay.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    /// The relay, or the agent through it, rejected the upgrade.
    #[error("{0}")]
    Rejected(Rejection),
    /// The relay did not respond to the upgrade in this time.
    #[error("the relay did not respond within {} s", .0.as_secs())]
    TimedOut(Duration),
    /// The relay cannot be reached.
    #[error(transparent)]
    Net(#[from] NetError),
    /// The server does not speak the relay's protocol.
    #[error("{relay} is not a relay: {cause}")]
    InvalidResponse {
        relay: String,
        /// The problem with its response.
        cause: String,
    },
    /// Azure Resource Manager issued no relay credentials.
    #[error(transparent)]
    Credentials(#[from] ArmError),
    /// The cached credentials cannot be used.
    #[error(transparent)]
    State(#[from] SystemError),
    /// Azure Resource Manager took too long.
    #[error(transparent)]
    CredentialsTimedOut(#[from] TerminalError),
}

/// A response of the relay other than 101.
#[derive(Clone, Debug)]
pub(crate) struct Rejection {
    /// The relay's host, with its port unless that is 443.
    pub(crate) relay: String,
    /// The HTTP status.
    pub(crate) status: u16,
    /// The text of the HTTP reason phrase.
    pub(crate) reason: String,
    /// The relay's ID of the request, for support; empty if the phrase has none.
    pub(crate) tracking_id: String,
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the relay responded {} {}", self.status, self.reason)?;
        if self.tracking_id.is_empty() { Ok(()) } else { write!(f, ", TrackingId {}", self.tracking_id) }
    }
}

impl From<Rejection> for ConnectError {
    fn from(rejection: Rejection) -> Self {
        Self::Rejected(rejection)
    }
}

/// Returns the standard reason phrase of a status.
fn default_reason(status: u16) -> Option<&'static str> {
    StatusCode::from_u16(status).ok()?.canonical_reason()
}

impl Rejection {
    /// Parses a reason phrase: `{text}. TrackingId:{id}, SystemTracker:…, Timestamp:…`.
    pub(crate) fn new(relay: &str, status: u16, phrase: &str) -> Self {
        let (text, trackers) = phrase.split_once("TrackingId:").unwrap_or((phrase, ""));
        let text = Some(text.trim_end_matches([' ', '.'])).filter(|text| !text.is_empty());
        let reason = text.or_else(|| default_reason(status)).unwrap_or_default().to_owned();
        let tracking_id = trackers.split([',', ' ']).next().unwrap_or_default().to_owned();
        Self { relay: relay.to_owned(), status, reason, tracking_id }
    }

    /// Returns whether the agent was reached and no service listens on the port: its 503 names the address that it dialled
    /// (Microsoft Learn, "Troubleshoot SSH access to Azure Arc-enabled servers").
    pub(crate) fn is_port_closed(&self) -> bool {
        self.status == 503 && self.reason.contains("connection to localhost:")
    }

    /// Returns whether the reason phrase contains only the text of the status. The relay adds a text of its own, and a
    /// proxy that inspects TLS replaces it (seen with Squid).
    pub(crate) fn has_default_reason(&self) -> bool {
        self.tracking_id.is_empty() && default_reason(self.status) == Some(&self.reason)
    }

    /// Returns whether the namespace allows only certain networks: `Ip has been prevented to connect to the endpoint`
    /// (OfficeDev microsoft-teams-tunnelrelay issue 36).
    pub(crate) fn is_ip_blocked(&self) -> bool {
        self.reason.contains("Ip has been prevented")
    }

    /// Returns whether the same request may succeed later: no listener yet, or a gateway that timed out or failed. A network
    /// that requires its user to sign in first responds 511 (RFC 6585, section 6).
    fn is_transient(&self) -> bool {
        match self.status {
            404 | 408 | 429 => true,
            511 => false,
            status => (500..600).contains(&status) && !self.is_port_closed(),
        }
    }
}

impl ConnectError {
    fn invalid(relay: &Authority, cause: String) -> Self {
        Self::InvalidResponse { relay: relay.to_string(), cause }
    }

    /// Returns the error of a request that got no response.
    fn of_exchange(relay: &Authority, error: &anyhow::Error) -> Self {
        let cause = chain(error.as_ref());
        if error.is::<httparse::Error>() {
            return Self::invalid(relay, cause);
        }
        let host = relay.to_string();
        Self::Net(match causes(error.as_ref()).find_map(tls::error_in) {
            Some(error) => NetError::Tls { host, error: TlsError::from(error) },
            None => NetError::Unreachable { host, cause: cause.into() },
        })
    }

    /// Returns whether the same request may succeed later.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Self::Rejected(rejection) => rejection.is_transient(),
            // The proxy's connection to the relay failed.
            Self::Net(error @ NetError::ProxyRejected { status: Some(_), .. }) => error.is_transient(),
            _ => self.is_silence(),
        }
    }

    /// Returns whether a step of the dial got no response in time.
    pub(crate) fn is_silence(&self) -> bool {
        match self {
            Self::TimedOut(_) => true,
            Self::Net(error) => error.is_silence(),
            _ => false,
        }
    }

    /// Returns whether no agent listens under the name that was dialled: not yet, or no longer.
    pub(crate) fn is_no_listener(&self) -> bool {
        matches!(self, Self::Rejected(Rejection { status: 404, .. }))
    }

    /// Returns whether the relay rejected the shared access signature, so that newly issued credentials may work.
    pub(crate) fn is_unauthorized(&self) -> bool {
        matches!(self, Self::Rejected(rejection) if rejection.status == 401 && !rejection.is_ip_blocked())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::azure::cloud::CloudName;
    use crate::azure::relay_host::RelaySuffixes;

    const RELAY_INFO: &str = r#"{"relay":{"namespaceName":"azgn","namespaceNameSuffix":"servicebus.windows.net",
        "hybridConnectionName":"microsoft.hybridcompute/machines/3cf2/1664/v2","accessKey":"SharedAccessSignature sr=x&sig=y",
        "expiresOn":1,"serviceConfigurationToken":"eyJ0.a.b"}}"#;

    fn rejected(status: u16, reason: &str) -> ConnectError {
        Rejection::new("azgn.servicebus.windows.net", status, reason).into()
    }

    #[test]
    fn a_reason_phrase_is_parsed() {
        let phrase = "Endpoint does not exist. TrackingId:1b_G13, SystemTracker:sb://ns/name, Timestamp:2025-04-24T11:08:04";
        let error = rejected(404, phrase);
        assert_eq!(error.to_string(), "the relay responded 404 Endpoint does not exist, TrackingId 1b_G13");
        assert_eq!(rejected(404, "Not Found").to_string(), "the relay responded 404 Not Found");
        assert_eq!(rejected(404, "").to_string(), "the relay responded 404 Not Found");
    }

    #[test]
    fn the_request_carries_its_secrets_in_headers_only_and_its_path_unescaped() {
        let suffixes = RelaySuffixes::new(&[CloudName::Public.relay_suffix()], None);
        let credentials = RelayCredentials::from_json(RELAY_INFO.as_bytes(), &suffixes).unwrap();
        let text = request(credentials.relay.authority(), &credentials, 2222, "a2V5", Uuid::nil());
        let lines: Vec<&str> = text.split("\r\n").collect();
        assert_eq!(
            lines[0],
            "GET /$hc/microsoft.hybridcompute/machines/3cf2/1664/v2?sb-hc-action=connect&sb-hc-id=00000000-0000-0000-0000-000000000000 HTTP/1.1"
        );
        for header in [
            "Host: azgn.servicebus.windows.net",
            "ServiceBusAuthorization: SharedAccessSignature sr=x&sig=y",
            "Service-Configuration-Token: eyJ0.a.b",
            "Microsoft-Guestgateway-Target: localhost:2222",
        ] {
            assert!(lines.contains(&header), "{header}");
        }
        assert!(text.ends_with("\r\n\r\n") && !text.contains("Sec-WebSocket-Extensions"));
    }

    async fn head(lines: &str) -> Head {
        let answer = format!("HTTP/1.1 101 Switching Protocols\r\n{lines}\r\n");
        http_head::read(&mut answer.as_bytes()).await.unwrap()
    }

    #[tokio::test]
    async fn a_101_is_accepted_if_it_upgrades_and_selects_nothing() {
        let accept = "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"; // RFC 6455, section 1.3
        let check = async |lines: &str| check_upgrade(&head(lines).await, "dGhlIHNhbXBsZSBub25jZQ==");
        for upgrade in [
            "Upgrade: websocket\r\nConnection: Upgrade\r\n",
            "UPGRADE: WebSocket\r\nconnection: keep-alive, upgrade\r\n",
            "Connection: keep-alive\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Protocol:\r\n",
        ] {
            check(&format!("{upgrade}{accept}")).await.unwrap();
        }
        let good = "Upgrade: websocket\r\nConnection: Upgrade\r\n";
        let twice = accept.repeat(2);
        let accepted = format!("{good}{accept}");
        for (lines, message) in [
            (format!("Connection: Upgrade\r\n{accept}"), "its Upgrade header does not name websocket"),
            (
                format!("Upgrade: h2c\r\nConnection: Upgrade\r\n{accept}"),
                "its Upgrade header does not name websocket",
            ),
            (format!("Upgrade: websocket\r\n{accept}"), "its Connection header does not name Upgrade"),
            (good.to_owned(), "its Sec-WebSocket-Accept header is wrong"),
            (
                format!("{good}Sec-WebSocket-Accept: S3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"),
                "its Sec-WebSocket-Accept header is wrong",
            ),
            (format!("{good}{twice}"), "its Sec-WebSocket-Accept header is wrong"),
            (
                format!("{accepted}sec-websocket-extensions: permessage-deflate\r\n"),
                "it selected \"permessage-deflate\" in Sec-WebSocket-Extensions, which arcssh did not offer",
            ),
            (
                format!("{accepted}Sec-WebSocket-Protocol: ssh\r\n"),
                "it selected \"ssh\" in Sec-WebSocket-Protocol, which arcssh did not offer",
            ),
        ] {
            assert_eq!(check(&lines).await.unwrap_err(), message, "{lines}");
        }
    }

    #[tokio::test]
    async fn a_selection_that_is_not_text_is_an_error_too() {
        let answer = b"HTTP/1.1 101 Yes\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Extensions: \xff\r\n\r\n";
        let head = http_head::read(&mut answer.as_slice()).await.unwrap();
        let error = check_upgrade(&head, "dGhlIHNhbXBsZSBub25jZQ==").unwrap_err();
        assert!(error.contains("did not offer"), "{error}");
    }

    #[test]
    fn only_transient_errors_are_retried() {
        let phrases =
            ["Endpoint does not exist. TrackingId:x", "There are no listeners connected for the endpoint."];
        assert!(phrases.iter().all(|reason| rejected(404, reason).is_transient()));
        assert!([408, 429, 500, 502, 503, 504].iter().all(|status| rejected(*status, "").is_transient()));
        assert!(![400, 401, 403, 301, 426, 511].iter().any(|status| rejected(*status, "").is_transient()));
        let closed = rejected(
            503,
            "connection to localhost:22 failed: dial tcp 127.0.0.1:22: connect: connection refused",
        );
        assert!(!closed.is_transient());
        assert!(rejected(401, "ExpiredToken").is_unauthorized());
        assert!(
            !rejected(401, "Generic: Ip has been prevented to connect to the endpoint").is_unauthorized()
        );
    }
}
