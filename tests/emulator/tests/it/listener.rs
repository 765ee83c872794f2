//! The protocol of listeners: control channel, rendezvous, rejection, renewal of tokens, close codes.

use std::time::Duration;

use arcssh_emulator::{Emulator, IssuedCredentials, Machine, SenderEnd, Service};
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::client::{self, Socket, TIMEOUT};

/// Short, because tests wait for it, but long enough for a busy machine.
const RENDEZVOUS_TIME: Duration = Duration::from_secs(2);

async fn with_listener() -> (Emulator, IssuedCredentials, Socket) {
    let emulator = Emulator::builder()
        .machine(Machine::new("web01"))
        .rendezvous_time(RENDEZVOUS_TIME)
        .without_agent()
        .start()
        .unwrap();
    let issued = client::issue_credentials(&emulator);
    let control = listen(&emulator, &issued).await.unwrap();
    (emulator, issued, control)
}

async fn listen(emulator: &Emulator, issued: &IssuedCredentials) -> Result<Socket, Error> {
    let headers = [("ServiceBusAuthorization", issued.listen_token.as_str())];
    client::open(emulator, &issued.listen_uri(), &headers).await
}

async fn accept_message(control: &mut Socket) -> Value {
    let text = next(control).await.into_text().unwrap();
    serde_json::from_str::<Value>(&text).unwrap()["accept"].clone()
}

async fn next(socket: &mut Socket) -> Message {
    tokio::time::timeout(TIMEOUT, socket.next()).await.unwrap().unwrap().unwrap()
}

async fn close_frame(socket: &mut Socket) -> CloseFrame {
    loop {
        match next(socket).await {
            Message::Close(frame) => return frame.unwrap(),
            other => assert!(!other.is_close()),
        }
    }
}

/// Returns a sender, its listener, and the rendezvous address.
async fn joined(
    emulator: &Emulator,
    issued: &IssuedCredentials,
    control: &mut Socket,
) -> (Socket, Socket, String) {
    let accepting = async {
        let address = accept_message(control).await["address"].as_str().unwrap().to_owned();
        (client::open(emulator, &address, &[]).await.unwrap(), address)
    };
    let (sender, (listener, address)) = tokio::join!(client::connect(emulator, issued, 22), accepting);
    (sender.unwrap(), listener, address)
}

fn status(error: Result<Socket, Error>) -> u16 {
    match error {
        Err(Error::Http(answer)) => answer.status().as_u16(),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("the handshake succeeded"),
    }
}

#[test]
fn an_accept_message_has_address_id_headers_and_query_of_the_sender() {
    client::runtime().block_on(async {
        let (emulator, issued, mut control) = with_listener().await;
        let name = &issued.hybrid_connection_name;
        let uri = issued.connect_uri().replace("?", "/suffix?colour=blue&") + "&sb-hc-id=my-id";
        let headers = [("ServiceBusAuthorization", issued.access_key.as_str()), ("X-Own", "value")];
        let (accept, answer) =
            tokio::join!(accept_message(&mut control), client::open(&emulator, &uri, &headers));
        assert_eq!(status(answer), 504);
        assert!(accept["id"].as_str().unwrap().starts_with("my-id_G"));
        assert_eq!(accept["connectHeaders"]["x-own"], "value");
        assert!(accept["remoteEndpoint"]["port"].is_u64());
        let address = accept["address"].as_str().unwrap();
        let start = format!(
            "wss://{}/$hc/{name}/suffix?colour=blue&sb-hc-action=accept&",
            emulator.relay_authority()
        );
        assert!(address.starts_with(&start), "{address}");
    });
}

#[test]
fn a_rendezvous_address_is_valid_once_and_until_the_timeout() {
    client::runtime().block_on(async {
        let (emulator, issued, mut control) = with_listener().await;
        let (_sender, _listener, address) = joined(&emulator, &issued, &mut control).await;
        assert_eq!(status(client::open(&emulator, &address, &[]).await), 403);
        let (accept, answer) =
            tokio::join!(accept_message(&mut control), client::connect(&emulator, &issued, 22));
        assert_eq!(status(answer), 504);
        let late = accept["address"].as_str().unwrap();
        assert_eq!(status(client::open(&emulator, late, &[]).await), 403);
    });
}

#[test]
fn a_rejection_is_410_for_the_listener_and_reaches_the_sender_unchanged() {
    let runtime = client::runtime();
    let (emulator, issued, mut control) = runtime.block_on(with_listener());
    std::thread::scope(|scope| {
        let sender = scope.spawn(|| client::sender_handshake(&emulator, &issued, 22));
        let listener = runtime.block_on(async {
            let address = accept_message(&mut control).await["address"].as_str().unwrap().to_owned();
            let rejection =
                format!("{address}&sb-hc-statusCode=418&sb-hc-statusDescription=no%20tea%3A%20sorry");
            client::open(&emulator, &rejection, &[]).await
        });
        let answer = sender.join().unwrap();
        assert_eq!(status(listener), 410);
        assert_eq!((answer.status, answer.reason.as_str()), (418, "no tea: sorry"));
    });
}

#[test]
fn the_sender_receives_101_after_the_listener_accepted_with_its_subprotocol() {
    client::runtime().block_on(async {
        let (emulator, issued, mut control) = with_listener().await;
        let headers = [
            ("ServiceBusAuthorization", issued.access_key.as_str()),
            ("Sec-WebSocket-Protocol", "first, second"),
        ];
        let uri = issued.connect_uri();
        let sender = client::open(&emulator, &uri, &headers);
        let accepting = async {
            let accept = accept_message(&mut control).await;
            assert_eq!(accept["connectHeaders"]["sec-websocket-protocol"], "first, second");
            let senders = emulator.requests_to(Service::Relay);
            let sender = senders.iter().find(|r| r.path_and_query.contains("=connect")).unwrap();
            assert_eq!(sender.status, None);
            let address = accept["address"].as_str().unwrap().to_owned();
            client::open(&emulator, &address, &[("Sec-WebSocket-Protocol", "second")]).await.unwrap()
        };
        // tungstenite checks that the answer names one of the requested subprotocols.
        let (sender, _listener) = tokio::join!(sender, accepting);
        assert!(sender.is_ok());
    });
}

#[test]
fn a_sender_receives_all_data_and_1000_when_the_listener_closes() {
    client::runtime().block_on(async {
        let (emulator, issued, mut control) = with_listener().await;
        let (mut sender, mut listener, _) = joined(&emulator, &issued, &mut control).await;
        listener.send(Message::binary(vec![7; 100_000])).await.unwrap();
        listener.close(None).await.unwrap();
        assert_eq!(next(&mut sender).await.into_data().len(), 100_000);
        assert_eq!(u16::from(close_frame(&mut sender).await.code), 1000);
        assert!(sender.next().await.is_none());
        assert!(emulator.wait_until(TIMEOUT, |e| e.sender_ends() == [SenderEnd::Answered]));
    });
}

#[test]
fn a_listener_receives_1001_when_the_sender_closes() {
    client::runtime().block_on(async {
        let (emulator, issued, mut control) = with_listener().await;
        let (mut sender, mut listener, _) = joined(&emulator, &issued, &mut control).await;
        sender.send(Message::binary("last words")).await.unwrap();
        sender.close(Some(CloseFrame { code: 1000.into(), reason: "".into() })).await.unwrap();
        assert_eq!(next(&mut listener).await.into_data(), "last words");
        assert_eq!(u16::from(close_frame(&mut listener).await.code), 1001);
        let (sender, mut listener, _) = joined(&emulator, &issued, &mut control).await;
        drop(sender);
        assert_eq!(u16::from(close_frame(&mut listener).await.code), 1001);
        assert!(listener.next().await.is_none());
        let ends = [SenderEnd::Closed(Some(1000)), SenderEnd::Dropped];
        assert!(emulator.wait_until(TIMEOUT, |e| e.sender_ends() == ends), "{:?}", emulator.sender_ends());
    });
}

#[test]
fn a_deleted_endpoint_closes_all_sockets_with_1001() {
    client::runtime().block_on(async {
        let (emulator, issued, mut control) = with_listener().await;
        let (mut sender, mut listener, _) = joined(&emulator, &issued, &mut control).await;
        emulator.machine("web01").remove_endpoint();
        for socket in [&mut control, &mut sender, &mut listener] {
            assert_eq!(u16::from(close_frame(socket).await.code), 1001);
        }
        assert_eq!(status(client::connect(&emulator, &issued, 22).await), 404);
    });
}

#[test]
fn the_relay_answers_pings() {
    client::runtime().block_on(async {
        let (emulator, issued, mut control) = with_listener().await;
        let (mut sender, mut listener, _) = joined(&emulator, &issued, &mut control).await;
        sender.send(Message::Ping("are you there".into())).await.unwrap();
        assert_eq!(next(&mut sender).await, Message::Pong("are you there".into()));
        sender.send(Message::text("and now data")).await.unwrap();
        assert_eq!(next(&mut listener).await, Message::text("and now data"));
        assert_eq!(emulator.sender_pings()[0].payload, b"are you there");
    });
}

#[test]
fn a_renewed_token_must_be_valid() {
    client::runtime().block_on(async {
        let (emulator, issued, mut control) = with_listener().await;
        let renewal = |token: &str| Message::text(json!({ "renewToken": { "token": token } }).to_string());
        control.send(renewal(&issued.listen_token)).await.unwrap();
        joined(&emulator, &issued, &mut control).await;
        control.send(renewal(&issued.access_key)).await.unwrap();
        assert_eq!(u16::from(close_frame(&mut control).await.code), 1008);
    });
}

#[test]
fn listening_needs_the_listen_right_and_has_a_quota() {
    client::runtime().block_on(async {
        let (emulator, issued, _control) = with_listener().await;
        let headers = [("ServiceBusAuthorization", issued.access_key.as_str())];
        assert_eq!(status(client::open(&emulator, &issued.listen_uri(), &headers).await), 403);
        let mut listeners = Vec::new();
        for _ in 1..25 {
            listeners.push(listen(&emulator, &issued).await.unwrap());
        }
        assert_eq!(status(listen(&emulator, &issued).await), 403);
    });
}

#[test]
fn senders_are_spread_over_the_listeners() {
    client::runtime().block_on(async {
        let (emulator, issued, mut first) = with_listener().await;
        let mut second = listen(&emulator, &issued).await.unwrap();
        let mut counts = [0, 0];
        for _ in 0..40 {
            let sender = client::connect(&emulator, &issued, 22);
            let accepting = async {
                let (index, accept) = tokio::select! {
                    accept = accept_message(&mut first) => (0, accept),
                    accept = accept_message(&mut second) => (1, accept),
                };
                counts[index] += 1;
                client::open(&emulator, accept["address"].as_str().unwrap(), &[]).await.unwrap()
            };
            assert!(tokio::join!(sender, accepting).0.is_ok());
        }
        // One of 2^39 runs fails by chance.
        assert!(counts[0] > 0 && counts[1] > 0, "{counts:?}");
    });
}
