//! Senders and the agent.

use std::cell::RefCell;
use std::io::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use arcssh_emulator::{Emulator, IssuedCredentials, Machine, Service};
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_tungstenite::tungstenite::Message;

use crate::client::{self, Socket, TIMEOUT};

/// Returns a server on loopback instead of sshd, and an emulator whose machine `web01` has its port in the service
/// configuration.
pub(crate) async fn with_server(bind: &str) -> (TcpListener, Emulator, IssuedCredentials, u16) {
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = server.local_addr().unwrap().port();
    let machine = Machine::new("web01").ssh_port(port);
    let emulator = Emulator::builder().bind(bind.parse().unwrap()).machine(machine).start().unwrap();
    let issued = client::issue_credentials(&emulator);
    client::wait_for_agent(&emulator, 1);
    (server, emulator, issued, port)
}

fn pattern(length: usize, seed: u8) -> Vec<u8> {
    (0..length).map(|i| ((i * 31 + i / 251) as u8).wrapping_add(seed)).collect()
}

async fn read_data(socket: &mut Socket, length: usize) -> Vec<u8> {
    let mut data = Vec::new();
    while data.len() < length {
        match tokio::time::timeout(TIMEOUT, socket.next()).await.unwrap().unwrap().unwrap() {
            Message::Binary(bytes) => data.extend_from_slice(&bytes),
            Message::Ping(_) => {}
            other => panic!("unexpected {other:?}"),
        }
    }
    data
}

async fn bytes_arrive_both_ways(bind: &str) {
    const LENGTH: usize = 8 * 1024 * 1024;
    let (server, emulator, issued, port) = with_server(bind).await;
    let connected = tokio::join!(client::connect(&emulator, &issued, port), server.accept());
    let (mut socket, (stream, _)) = (connected.0.unwrap(), connected.1.unwrap());
    assert_eq!(emulator.open_connections(), 1);
    let (mut from_relay, mut to_relay) = stream.into_split();
    let receive = async {
        let mut received = vec![0; LENGTH];
        from_relay.read_exact(&mut received).await.unwrap();
        received
    };
    let send = async { to_relay.write_all(&pattern(LENGTH, 7)).await.unwrap() };
    let (up, down) = (pattern(LENGTH, 1), pattern(LENGTH, 7));
    let exchange = async {
        for message in up.chunks(32 * 1024) {
            socket.feed(Message::binary(message.to_vec())).await.unwrap();
        }
        socket.flush().await.unwrap();
        read_data(&mut socket, LENGTH).await
    };
    let (received_by_server, (), received_by_sender) = tokio::join!(receive, send, exchange);
    assert!(received_by_server == up && received_by_sender == down);
    drop(socket);
    assert!(emulator.wait_until(TIMEOUT, |emulator| emulator.open_connections() == 0));
}

#[test]
fn bytes_arrive_both_ways_over_ipv4() {
    client::runtime().block_on(bytes_arrive_both_ways("127.0.0.1"));
}

#[test]
fn bytes_arrive_both_ways_over_ipv6() {
    if let Err(error) = std::net::TcpListener::bind("[::1]:0") {
        // libtest captures the output of eprintln!, but not this.
        let _ = writeln!(
            std::io::stderr(),
            "skipped: bytes_arrive_both_ways_over_ipv6: this machine has no [::1]: {error}"
        );
        return;
    }
    client::runtime().block_on(bytes_arrive_both_ways("::1"));
}

#[test]
fn the_relay_has_a_loopback_address() {
    let emulator = client::emulator();
    assert!(emulator.relay_authority().parse::<SocketAddr>().unwrap().ip().is_loopback());
}

/// Returns an emulator with a machine but no agent, and issued credentials.
fn without_agent() -> (Emulator, IssuedCredentials) {
    let emulator = Emulator::builder().machine(Machine::new("web01")).without_agent().start().unwrap();
    let issued = client::issue_credentials(&emulator);
    (emulator, issued)
}

#[test]
fn the_reason_phrase_of_an_error_has_the_tracking_id() {
    let (emulator, issued) = without_agent();
    let id = "4cb542c3-047a-4d40-a19f-bdc66441e736";
    let uri = format!("{}&sb-hc-id={id}", issued.connect_uri());
    let answer = client::handshake(&emulator, &uri, &[("ServiceBusAuthorization", &issued.access_key)]);
    let expected = format!(
        "There are no listeners connected for the endpoint. TrackingId:{id}_G13, SystemTracker:sb://{}/{}, Timestamp:20",
        emulator.relay_authority(),
        issued.hybrid_connection_name
    );
    assert_eq!((answer.status, answer.body.as_str()), (404, ""));
    assert!(answer.reason.starts_with(&expected), "{}", answer.reason);
}

#[test]
fn endpoint_and_listener_become_available_one_after_the_other() {
    let wait = Duration::from_millis(600);
    // Nothing listens on port 1: the third phase is an error of the agent.
    let machine = Machine::new("web01").ssh_port(1);
    let emulator =
        Emulator::builder().machine(machine).endpoint_delay(wait).listener_delay(wait).start().unwrap();
    let issued = client::issue_credentials(&emulator);
    let phases = RefCell::new(Vec::new());
    let came_up = emulator.wait_until(TIMEOUT, |emulator| {
        let answer = client::sender_handshake(emulator, &issued, 1);
        let phase = format!("{} {}", answer.status, answer.reason.split(['.', ':']).next().unwrap());
        if phases.borrow().last() != Some(&phase) {
            phases.borrow_mut().push(phase);
        }
        answer.status == 503
    });
    let expected = [
        "404 Endpoint does not exist",
        "404 There are no listeners connected for the endpoint",
        "503 connection to localhost",
    ];
    assert!(came_up && *phases.borrow() == expected, "{phases:?}");
}

#[test]
fn the_sender_receives_the_agents_error_when_the_port_is_closed() {
    let machine = Machine::new("web01").ssh_port(1);
    let emulator = Emulator::builder().machine(machine).start().unwrap();
    let issued = client::issue_credentials(&emulator);
    client::wait_for_agent(&emulator, 1);
    let answer = client::sender_handshake(&emulator, &issued, 1);
    assert_eq!(answer.status, 503);
    assert_eq!(
        answer.reason,
        "connection to localhost:1 failed: dial tcp 127.0.0.1:1: connect: connection refused"
    );
    let accepts = emulator.requests_to(Service::Relay);
    let rejection = accepts.iter().find(|r| r.path_and_query.contains("sb-hc-statusCode=503")).unwrap();
    assert!(emulator.wait_until(TIMEOUT, |emulator| {
        let requests = emulator.requests_to(Service::Relay);
        requests.iter().any(|r| r.path_and_query == rejection.path_and_query && r.status == Some(410))
    }));
}

#[test]
fn the_agent_requires_the_configured_port_and_a_valid_token() {
    let emulator = client::emulator();
    let mut issued = client::issue_credentials(&emulator);
    client::wait_for_agent(&emulator, 1);
    assert_eq!(client::sender_handshake(&emulator, &issued, 2222).status, 403);
    issued.service_configuration_token = Some("not.a.token".to_owned());
    assert_eq!(client::sender_handshake(&emulator, &issued, 22).status, 403);
}

#[test]
fn the_listener_receives_all_headers_but_the_relay_token() {
    let emulator = client::emulator();
    let issued = client::issue_credentials(&emulator);
    client::wait_for_agent(&emulator, 1);
    let headers = [
        ("ServiceBusAuthorization", issued.access_key.as_str()),
        ("Authorization", "Basic of-the-application"),
        ("Microsoft-Guestgateway-Target", "localhost:22"),
    ];
    client::handshake(&emulator, &issued.connect_uri(), &headers);
    let accept = emulator.requests_to(Service::Agent).pop().unwrap();
    assert_eq!(accept.header("ServiceBusAuthorization"), None);
    assert_eq!(accept.header("Authorization"), Some("Basic of-the-application"));
    assert_eq!(accept.header("Microsoft-Guestgateway-Target"), Some("localhost:22"));
    assert!(accept.header("Sec-WebSocket-Key").is_some() && accept.header("Host").is_some());
}

#[test]
fn a_token_can_be_in_three_places() {
    let (emulator, issued) = without_agent();
    let status = |suffix: &str, headers: &[(&str, &str)]| {
        client::handshake(&emulator, &format!("{}{suffix}", issued.connect_uri()), headers).status
    };
    let encoded: String = issued.access_key.bytes().map(|byte| format!("%{byte:02X}")).collect();
    assert_eq!(status(&format!("&sb-hc-token={encoded}"), &[]), 404);
    assert_eq!(status("", &[("ServiceBusAuthorization", &issued.access_key)]), 404);
    assert_eq!(status("", &[("Authorization", &issued.access_key)]), 404);
    assert_eq!(status("", &[]), 401);
}

#[test]
fn each_invalid_token_has_its_own_error() {
    let (emulator, issued) = without_agent();
    let other = client::issue_credentials(&emulator);
    let answer = |token: &str| {
        client::handshake(&emulator, &issued.connect_uri(), &[("ServiceBusAuthorization", token)])
    };
    let rejected = |token: &str, status: u16, start: &str| {
        let answer = answer(token);
        assert!(answer.status == status && answer.reason.starts_with(start), "{answer:?}");
        assert!(answer.reason.contains(" TrackingId:"), "{answer:?}");
    };
    let signature = "InvalidSignature: The token has an invalid signature.";
    rejected(&issued.access_key.replace("sig=", "sig=A"), 401, signature);
    rejected(&issued.access_key.replace("&skn=sender", "&skn=unknown"), 401, signature);
    rejected(&other.access_key, 401, "InvalidAudience: ");
    rejected(&issued.listen_token, 403, "");
    rejected("SharedAccessSignature nonsense", 401, "MalformedToken: ");
}

#[test]
fn requests_that_are_not_websocket_upgrades_are_rejected() {
    let (emulator, issued) = without_agent();
    let answer = client::request(&emulator, "GET", &issued.connect_uri(), &[], "");
    assert_eq!(answer.status, 400);
    assert!(answer.reason.starts_with("This endpoint is only for web-socket requests"), "{answer:?}");
    let unknown = issued.connect_uri().replace("=connect", "=dance");
    assert_eq!(client::handshake(&emulator, &unknown, &[]).status, 400);
}

#[test]
fn a_second_put_of_the_endpoint_disconnects_the_listener() {
    let emulator = client::emulator();
    let issued = client::issue_credentials(&emulator);
    client::wait_for_agent(&emulator, 1);
    let path = format!(
        "{}/{}/default?api-version=2023-03-15",
        emulator.machine("web01").resource_id(),
        client::CONNECTIVITY
    );
    assert_eq!(client::arm(&emulator, "PUT", &path, r#"{"properties":{"type":"default"}}"#).status, 200);
    let answer = client::sender_handshake(&emulator, &issued, 22);
    assert!(answer.status == 404 && answer.reason.starts_with("Endpoint does not exist."), "{answer:?}");
}

#[test]
fn an_agent_that_goes_offline_stops_listening() {
    let emulator = client::emulator();
    let issued = client::issue_credentials(&emulator);
    client::wait_for_agent(&emulator, 1);
    emulator.machine("web01").set_online(false);
    assert!(emulator.wait_until(TIMEOUT, |emulator| {
        client::sender_handshake(emulator, &issued, 22).reason.starts_with("There are no listeners")
    }));
    emulator.machine("web01").set_online(true);
    client::wait_for_agent(&emulator, 2);
}
