//! The Arc agent: a hybrid connection listener that copies bytes to and from a port on loopback.
//!
//! It connects to the relay over TLS and WebSocket. New hybrid connections and service configurations reach a real agent
//! through Azure's notification service, and this one through channels. Its behaviour follows the protocol guide and
//! public reports of clients. No source has its answer to an invalid token or a port that is not configured.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use serde_json::Value;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, watch};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::handshake::client::Request;
use tokio_tungstenite::tungstenite::http::{HeaderValue, Uri};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Bytes, Error, Message};

use crate::clock::Clock;
use crate::encoding::encode;
use crate::journal::{Journal, RequestRecord, Service, find_header};
use crate::machine::{MachineState, Notice, port};
use crate::relay::websocket::no_size_limit;
use crate::token::TokenKey;

/// The largest message that the agent sends. aztunnel's listener sends 32 KiB (`internal/relay/bridge.go`).
const MAX_MESSAGE: usize = 32 * 1024;

/// The pause before the next attempt to register. azure-relay-dotnet starts with 0 s and 1 s.
const RECONNECT_DELAY: Duration = Duration::from_millis(100);

/// How long a peer may take to close its side of a connection.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

type Socket = WebSocketStream<TlsStream<TcpStream>>;

/// The agent of one machine.
pub(crate) struct Agent {
    pub(crate) machine: Arc<MachineState>,
    pub(crate) relay: SocketAddr,
    pub(crate) tls: Arc<ClientConfig>,
    pub(crate) service_token_key: Arc<TokenKey>,
    pub(crate) journal: Arc<Journal>,
    /// The same clock as Azure's, so that a test of skew concerns the client only.
    pub(crate) clock: Clock,
}

/// An accept message (protocol guide, "Accept message").
struct AcceptMessage {
    address: String,
    headers: Vec<(String, String)>,
}

/// The HTTP status and text with which the agent rejects a sender.
type Rejection = (u16, String);

impl Agent {
    /// Listens at every hybrid connection of `notices`, until the emulator stops.
    pub(crate) async fn run(self, mut notices: mpsc::UnboundedReceiver<Notice>) {
        let agent = Arc::new(self);
        while let Some(notice) = notices.recv().await {
            tokio::spawn(Arc::clone(&agent).listen(notice));
        }
    }

    /// Holds a control channel open while the machine is online, until the hybrid connection expires or is deleted.
    async fn listen(self: Arc<Self>, notice: Notice) {
        tokio::time::sleep_until(notice.listen_from.into()).await;
        let lifetime = notice.issued.expires_on.saturating_sub(self.clock.unix_seconds());
        let end = Instant::now() + Duration::from_secs(lifetime);
        let mut online = self.machine.online.subscribe();
        let listening = async {
            while online.wait_for(|online| *online).await.is_ok() {
                match self.control_channel(&notice).await {
                    Ok(channel) => Arc::clone(&self).receive(channel, online.clone()).await,
                    // The hybrid connection is deleted. azure-relay-dotnet does not retry EndpointNotFound either.
                    Err(Error::Http(answer)) if answer.status() == 404 => return,
                    Err(_) => {}
                }
                tokio::time::sleep(RECONNECT_DELAY).await;
            }
        };
        let _ = tokio::time::timeout_at(end.into(), listening).await;
    }

    async fn control_channel(&self, notice: &Notice) -> Result<Socket, Error> {
        let mut request = notice.issued.listen_uri().into_client_request()?;
        let token = HeaderValue::from_str(&notice.issued.listen_token)?;
        request.headers_mut().insert("ServiceBusAuthorization", token);
        self.open(request).await
    }

    async fn open(&self, request: Request) -> Result<Socket, Error> {
        let stream = TcpStream::connect(self.relay).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::IpAddress(self.relay.ip().into());
        let stream = TlsConnector::from(Arc::clone(&self.tls)).connect(name, stream).await?;
        let opened =
            tokio_tungstenite::client_async_with_config(request, stream, Some(no_size_limit())).await;
        opened.map(|(socket, _)| socket)
    }

    /// Receives accept messages until the channel closes or the machine goes offline.
    async fn receive(self: Arc<Self>, mut channel: Socket, mut online: watch::Receiver<bool>) {
        loop {
            let offline = async { drop(online.wait_for(|online| !*online).await) };
            let message = tokio::select! {
                message = channel.next() => message,
                () = offline => None,
            };
            match message {
                Some(Ok(Message::Text(text))) => {
                    if let Some(accept) = AcceptMessage::parse(&text) {
                        tokio::spawn(Arc::clone(&self).serve(accept));
                    }
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => break,
            }
        }
        let _ = channel.close(None).await;
    }

    /// Accepts or rejects one sender.
    async fn serve(self: Arc<Self>, accept: AcceptMessage) {
        let number = self.journal.arrived(accept.record());
        let dialled = match self.check(&accept) {
            Ok(port) => dial(self.machine.loopback_port(port)).await,
            Err(rejection) => Err(rejection),
        };
        match dialled {
            Ok(server) => {
                self.journal.answered(number, 101);
                if let Ok(socket) = self.rendezvous(&accept.address).await {
                    copy_both_ways(socket, server).await;
                }
            }
            Err((status, text)) => {
                self.journal.answered(number, status);
                let query = format!("&sb-hc-statusCode={status}&sb-hc-statusDescription={}", encode(&text));
                // The relay answers a rejection with 410.
                let _ = self.rendezvous(&(accept.address + &query)).await;
            }
        }
    }

    async fn rendezvous(&self, address: &str) -> anyhow::Result<Socket> {
        let address: Uri = address.parse().context("rendezvous address")?;
        Ok(self.open(address.into_client_request()?).await?)
    }

    /// Returns the port that the sender may connect to. The 403 for an invalid token or port is an assumption.
    fn check(&self, accept: &AcceptMessage) -> Result<u16, Rejection> {
        let reject = |text: &str| (403, text.to_owned());
        let target = accept.header("Microsoft-Guestgateway-Target").ok_or_else(|| reject("no target"))?;
        let requested: Option<u16> = target.strip_prefix("localhost:").and_then(|port| port.parse().ok());
        let requested = requested.ok_or_else(|| reject("the target is not a port of localhost"))?;
        let token = accept.header("Service-Configuration-Token");
        let claims = token.and_then(|token| self.service_token_key.verify(token));
        let claims = claims.ok_or_else(|| reject("the service configuration token is not valid"))?;
        if claims["exp"].as_u64().is_none_or(|expires| expires <= self.clock.unix_seconds()) {
            return Err(reject("the service configuration token is expired"));
        }
        if claims["machine"].as_str() != Some(&self.machine.resource_id().to_ascii_lowercase()) {
            return Err(reject("the service configuration token is for another machine"));
        }
        let configured = port(
            &self.machine.service_configurations.borrow(),
            claims["service"].as_str().unwrap_or_default(),
        );
        if configured == Some(requested) && claims["port"].as_u64() == Some(requested.into()) {
            Ok(requested)
        } else {
            Err(reject("the port is not allowed by the service configuration"))
        }
    }
}

impl AcceptMessage {
    fn parse(text: &str) -> Option<Self> {
        let message: Value = serde_json::from_str(text).ok()?;
        let accept = message.get("accept")?;
        let headers = accept["connectHeaders"].as_object()?.iter();
        let headers = headers.filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())));
        Some(Self { address: accept["address"].as_str()?.to_owned(), headers: headers.collect() })
    }

    fn header(&self, name: &str) -> Option<&str> {
        find_header(&self.headers, name)
    }

    fn record(&self) -> RequestRecord {
        RequestRecord {
            arrived: Instant::now(),
            service: Service::Agent,
            method: "accept".to_owned(),
            path_and_query: self.address.clone(),
            headers: self.headers.clone(),
            body: String::new(),
            status: None,
        }
    }
}

/// Connects to `localhost:{port}` over IPv4, then IPv6. The text of a failure is the one that Go prints on Linux
/// (Microsoft Learn, "Troubleshoot SSH access to Azure Arc-enabled servers").
async fn dial(port: u16) -> Result<TcpStream, Rejection> {
    for host in [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)] {
        if let Ok(server) = TcpStream::connect((host, port)).await {
            let _ = server.set_nodelay(true);
            return Ok(server);
        }
    }
    let text = format!(
        "connection to localhost:{port} failed: dial tcp 127.0.0.1:{port}: connect: connection refused"
    );
    Err((503, text))
}

/// Copies bytes in both directions until either side closes.
async fn copy_both_ways(socket: Socket, server: TcpStream) {
    let (mut to_relay, mut from_relay) = socket.split();
    let (mut from_server, mut to_server) = server.into_split();
    tokio::select! {
        () = server_to_relay(&mut from_server, &mut to_relay) => {
            // If TCP closed before the relay's Close frame arrives, data could be lost.
            let answer = async { while let Some(Ok(_)) = from_relay.next().await {} };
            let _ = tokio::time::timeout(CLOSE_TIMEOUT, answer).await;
        }
        () = relay_to_server(&mut from_relay, &mut to_server) => {}
    }
}

/// Copies the server's output to the relay and flushes when the server pauses. Sends a Close frame at end of file.
async fn server_to_relay(server: &mut OwnedReadHalf, relay: &mut SplitSink<Socket, Message>) {
    let mut buffer = vec![0; MAX_MESSAGE];
    loop {
        match server.try_read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => {
                let data = Bytes::copy_from_slice(&buffer[..length]);
                if relay.feed(Message::Binary(data)).await.is_err() {
                    return wait_for_close_frame().await;
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                if relay.flush().await.is_err() {
                    return wait_for_close_frame().await;
                }
                if server.readable().await.is_err() {
                    break;
                }
            }
            Err(_) => break,
        }
    }
    let frame = CloseFrame { code: 1000.into(), reason: "".into() };
    let _ = relay.send(Message::Close(Some(frame))).await;
}

/// After a failed write, the other direction may still deliver data that the relay sent before its Close frame.
async fn wait_for_close_frame() {
    tokio::time::sleep(CLOSE_TIMEOUT).await;
}

/// Copies the relay's messages to the server. Closes the server's input when the relay closes, cleanly or not.
async fn relay_to_server(relay: &mut SplitStream<Socket>, server: &mut OwnedWriteHalf) {
    while let Some(Ok(message)) = relay.next().await {
        let carries_data = message.is_binary() || message.is_text();
        if carries_data && server.write_all(&message.into_data()).await.is_err() {
            return wait_for_close_frame().await;
        }
    }
    let _ = server.shutdown().await;
}
