//! A client of the emulator that shares no code with it: HTTPS over rustls, and WebSockets with tokio-tungstenite.

use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use arcssh_emulator::{Builder, Emulator, IssuedCredentials, Machine};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::{Value, json};
use tokio_rustls::TlsConnector;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, http};

/// Longer than any operation in these tests.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(20);

pub(crate) const CONNECTIVITY: &str = "providers/Microsoft.HybridConnectivity/endpoints";

pub(crate) type Socket = WebSocketStream<tokio_rustls::client::TlsStream<tokio::net::TcpStream>>;

/// An HTTP answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) reason: String,
    pub(crate) headers: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    pub(crate) fn error(&self) -> (u16, String, String) {
        let error = &self.json()["error"];
        let text = |name: &str| error[name].as_str().unwrap().to_owned();
        (self.status, text("code"), text("message"))
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let lines = self.headers.lines().filter_map(|line| line.split_once(": "));
        lines.into_iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }
}

/// An emulator with the machine `web01`.
pub(crate) fn emulator() -> Emulator {
    emulator_with(|builder| builder)
}

/// An emulator with the machine `web01` and other settings.
pub(crate) fn emulator_with(configure: impl FnOnce(Builder) -> Builder) -> Emulator {
    configure(Emulator::builder().machine(Machine::new("web01"))).start().unwrap()
}

pub(crate) fn emulator_of(machines: impl IntoIterator<Item = Machine>) -> Emulator {
    machines.into_iter().fold(Emulator::builder(), Builder::machine).start().unwrap()
}

pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

pub(crate) fn variable(emulator: &Emulator, name: &str) -> String {
    emulator.environment().into_iter().find(|(key, _)| key == name).unwrap().1
}

fn tls(emulator: &Emulator) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(emulator.authority_file()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    Arc::new(config.with_root_certificates(roots).with_no_client_auth())
}

/// Returns the address of a URL's host. No resolver has the relay's name on [::1].
pub(crate) fn address(url: &str) -> SocketAddr {
    let authority = url.split("://").nth(1).unwrap().split('/').next().unwrap();
    authority.replace("ipv6.relay.test:", "[::1]:").parse().unwrap()
}

/// Sends one request on a new connection.
pub(crate) fn request(
    emulator: &Emulator,
    method: &str,
    url: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Answer {
    let address = address(url);
    let target = &url[url.find("://").unwrap() + 3..];
    let target = &target[target.find('/').unwrap()..];
    let name = ServerName::from(address.ip());
    let connection = ClientConnection::new(tls(emulator), name).unwrap();
    let mut stream = StreamOwned::new(connection, TcpStream::connect(address).unwrap());
    let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let connection = if headers.contains("Upgrade") { "" } else { "Connection: close\r\n" };
    let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
    write!(
        stream,
        "{method} {target} HTTP/1.1\r\nHost: {address}\r\n{connection}{length}{headers}\r\n{body}"
    )
    .unwrap();
    read_answer(&mut stream)
}

pub(crate) fn read_answer(stream: &mut impl std::io::Read) -> Answer {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    let head = loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break end;
        }
        let length = stream.read(&mut buffer).unwrap();
        assert!(length > 0, "the connection closed before the answer");
        bytes.extend_from_slice(&buffer[..length]);
    };
    let text = String::from_utf8(bytes[..head].to_vec()).unwrap();
    let (status_line, headers) = text.split_once("\r\n").unwrap();
    let mut body = bytes.split_off(head + 4);
    let mut words = status_line.splitn(3, ' ');
    let status = words.nth(1).unwrap().parse().unwrap();
    let length = headers
        .lines()
        .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
    while body.len() < length.unwrap_or(0) {
        let length = stream.read(&mut buffer).unwrap();
        assert!(length > 0, "the connection closed within the answer");
        body.extend_from_slice(&buffer[..length]);
    }
    let reason = words.next().unwrap_or_default().to_owned();
    Answer { status, reason, headers: headers.to_owned(), body: String::from_utf8(body).unwrap() }
}

/// Requests an access token of the service principal.
pub(crate) fn access_token(emulator: &Emulator) -> String {
    let answer = token_request(emulator, &[]);
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()["access_token"].as_str().unwrap().to_owned()
}

/// Returns the claims of a token.
pub(crate) fn claims(token: &str) -> Value {
    let payload = token.split('.').nth(1).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap()
}

/// Sends a valid token request with some fields replaced. The field `tenant` is the tenant in the path.
pub(crate) fn token_request(emulator: &Emulator, replaced: &[(&str, &str)]) -> Answer {
    let mut fields = vec![
        ("grant_type", "client_credentials".to_owned()),
        ("client_id", variable(emulator, "AZURE_CLIENT_ID")),
        ("client_secret", variable(emulator, "AZURE_CLIENT_SECRET")),
        ("scope", "https://management.azure.com/.default".to_owned()),
        ("tenant", variable(emulator, "AZURE_TENANT_ID")),
    ];
    for (name, value) in replaced {
        fields.iter_mut().find(|(field, _)| field == name).unwrap().1 = (*value).to_owned();
    }
    let tenant = fields.pop().unwrap().1;
    let fields: Vec<(&str, &str)> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
    entra(emulator, &format!("{tenant}/token"), &fields)
}

/// Posts a form to an endpoint of Entra. `path` is `{tenant}/{endpoint}`.
pub(crate) fn entra(emulator: &Emulator, path: &str, fields: &[(&str, &str)]) -> Answer {
    let (tenant, endpoint) = path.split_once('/').unwrap();
    let url = format!("{}{tenant}/oauth2/v2.0/{endpoint}", variable(emulator, "AZURE_AUTHORITY_HOST"));
    let headers = [("Content-Type", "application/x-www-form-urlencoded")];
    request(emulator, "POST", &url, &headers, &encoded(fields))
}

/// Encodes fields as a form or a query.
pub(crate) fn encoded(fields: &[(&str, &str)]) -> String {
    let encode = |text: &str| -> String {
        let byte =
            |b: u8| if b.is_ascii_alphanumeric() { char::from(b).to_string() } else { format!("%{b:02X}") };
        text.bytes().map(byte).collect()
    };
    let pairs: Vec<String> = fields.iter().map(|(name, value)| format!("{name}={}", encode(value))).collect();
    pairs.join("&")
}

/// Calls ARM with a valid token.
pub(crate) fn arm(emulator: &Emulator, method: &str, path_and_query: &str, body: &str) -> Answer {
    arm_with_token(emulator, &access_token(emulator), method, path_and_query, body)
}

pub(crate) fn arm_with_token(
    emulator: &Emulator,
    token: &str,
    method: &str,
    path_and_query: &str,
    body: &str,
) -> Answer {
    let bearer = format!("Bearer {token}");
    let url = format!("{}{path_and_query}", variable(emulator, "ARCSSH_ARM_ENDPOINT"));
    request(emulator, method, &url, &[("Authorization", &bearer), ("Content-Type", "application/json")], body)
}

/// Returns path and query of a machine's GET.
pub(crate) fn machine_path(emulator: &Emulator, machine: &str) -> String {
    format!("{}?api-version=2024-07-10", emulator.machine(machine).resource_id())
}

/// Calls listCredentials for SSH on the machine `web01`.
pub(crate) fn list_credentials(emulator: &Emulator) -> Answer {
    let id = emulator.machine("web01").resource_id();
    let path = format!("{id}/{CONNECTIVITY}/default/listCredentials?expiresin=3600&api-version=2023-03-15");
    arm(emulator, "POST", &path, &json!({ "serviceName": "SSH" }).to_string())
}

/// Calls listCredentials and returns the issued credentials.
pub(crate) fn issue_credentials(emulator: &Emulator) -> IssuedCredentials {
    let answer = list_credentials(emulator);
    assert_eq!(answer.status, 200, "{answer:?}");
    emulator.machine("web01").issued_credentials().pop().unwrap()
}

/// Sends a WebSocket handshake and returns the answer.
pub(crate) fn handshake(emulator: &Emulator, uri: &str, headers: &[(&str, &str)]) -> Answer {
    let upgrade = [
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", "l8fWd829IrZbEqUcLejv+Q=="),
    ];
    request(emulator, "GET", uri, &[&upgrade, headers].concat(), "")
}

fn sender_headers<'a>(issued: &'a IssuedCredentials, target: &'a str) -> [(&'a str, &'a str); 3] {
    [
        ("ServiceBusAuthorization", &issued.access_key),
        ("Service-Configuration-Token", issued.service_configuration_token.as_deref().unwrap_or_default()),
        ("Microsoft-Guestgateway-Target", target),
    ]
}

/// Sends the handshake of a sender, with the headers of a real client.
pub(crate) fn sender_handshake(emulator: &Emulator, issued: &IssuedCredentials, port: u16) -> Answer {
    let target = format!("localhost:{port}");
    let headers = sender_headers(issued, &target);
    handshake(emulator, &issued.connect_uri(), &headers)
}

pub(crate) async fn open(emulator: &Emulator, uri: &str, headers: &[(&str, &str)]) -> Result<Socket, Error> {
    let mut request = uri.into_client_request()?;
    for (name, value) in headers {
        let name: http::HeaderName = name.parse().unwrap();
        request.headers_mut().insert(name, value.parse().unwrap());
    }
    let address = address(uri);
    let stream = tokio::net::TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let stream = TlsConnector::from(tls(emulator)).connect(address.ip().into(), stream).await?;
    let config = WebSocketConfig::default().max_message_size(None).max_frame_size(None);
    Ok(tokio_tungstenite::client_async_with_config(request, stream, Some(config)).await?.0)
}

/// Connects as a sender through the agent.
pub(crate) async fn connect(
    emulator: &Emulator,
    issued: &IssuedCredentials,
    port: u16,
) -> Result<Socket, Error> {
    let target = format!("localhost:{port}");
    let headers = sender_headers(issued, &target);
    open(emulator, &issued.connect_uri(), &headers).await
}

/// Waits until agents have registered `listeners` times. Before that, senders receive 404.
pub(crate) fn wait_for_agent(emulator: &Emulator, listeners: usize) {
    let listening = |emulator: &Emulator| {
        let requests = emulator.requests_to(arcssh_emulator::Service::Relay);
        let listens = requests.iter().filter(|r| r.path_and_query.contains("sb-hc-action=listen"));
        listens.filter(|r| r.status == Some(101)).count() >= listeners
    };
    assert!(emulator.wait_until(TIMEOUT, listening), "no agent listens: {:?}", emulator.requests());
}
