//! Faults of the relay.

use std::time::{Duration, Instant};

use arcssh_emulator::{Emulator, KeyExchange, Machine, RelayFault, Service};
use futures_util::{FutureExt as _, SinkExt as _, StreamExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::client::{self, Socket, TIMEOUT};
use crate::relay::with_server;

/// Opens a connection with `fault`. Returns the sender's and the server's end.
async fn faulty(fault: RelayFault) -> (Emulator, Socket, TcpStream) {
    let (server, emulator, issued, port) = with_server("127.0.0.1").await;
    emulator.relay_fault(fault);
    let connected = tokio::join!(client::connect(&emulator, &issued, port), server.accept());
    (emulator, connected.0.unwrap(), connected.1.unwrap().0)
}

async fn next(socket: &mut Socket) -> Option<Result<Message, Error>> {
    tokio::time::timeout(TIMEOUT, socket.next()).await.unwrap()
}

#[test]
fn a_fault_applies_to_the_configured_number_of_connections() {
    let emulator = client::emulator();
    let issued = client::issue_credentials(&emulator);
    client::wait_for_agent(&emulator, 1);
    emulator.relay_fault(RelayFault::refuse(500, "Something is wrong").times(2));
    emulator.relay_fault(RelayFault::expired_token());
    let statuses: Vec<u16> = (0..3).map(|_| client::sender_handshake(&emulator, &issued, 1).status).collect();
    assert_eq!(statuses, [500, 500, 401]);
    emulator.relay_fault(RelayFault::refuse(502, "Bad Gateway").always());
    assert_eq!(client::sender_handshake(&emulator, &issued, 1).status, 502);
    assert_eq!(client::sender_handshake(&emulator, &issued, 1).status, 502);
    emulator.clear_faults();
    assert_eq!(client::sender_handshake(&emulator, &issued, 1).status, 403);
}

#[test]
fn a_connection_is_cut_after_the_configured_number_of_bytes() {
    client::runtime().block_on(async {
        let (_emulator, mut socket, mut server) = faulty(RelayFault::cut_after(100_000)).await;
        server.write_all(&vec![1; 200_000]).await.unwrap();
        let mut received = 0;
        let end = loop {
            match next(&mut socket).await {
                Some(Ok(message)) => received += message.len(),
                end => break end,
            }
        };
        assert_eq!(received, 100_000);
        assert!(matches!(end, Some(Err(_))), "{end:?}");
    });
}

#[test]
fn a_close_frame_follows_the_configured_number_of_bytes() {
    client::runtime().block_on(async {
        let fault = RelayFault::close_after(10, 1011, "Something went wrong in the service.");
        let (_emulator, mut socket, mut server) = faulty(fault).await;
        server.write_all(b"0123456789ABCDEF").await.unwrap();
        assert_eq!(next(&mut socket).await.unwrap().unwrap().into_data(), "0123456789");
        let Some(Ok(Message::Close(Some(frame)))) = next(&mut socket).await else { panic!("no close frame") };
        assert_eq!(
            (u16::from(frame.code), frame.reason.as_str()),
            (1011, "Something went wrong in the service.")
        );
    });
}

#[test]
fn fragments_with_a_ping_between_them_form_the_message() {
    client::runtime().block_on(async {
        let (emulator, mut socket, mut server) = faulty(RelayFault::fragments(100)).await;
        let sent: Vec<u8> = (0..10_000u32).map(|i| i as u8).collect();
        server.write_all(&sent).await.unwrap();
        let (mut received, mut pings) = (Vec::new(), 0);
        while received.len() < sent.len() {
            match next(&mut socket).await.unwrap().unwrap() {
                Message::Ping(_) => pings += 1,
                message => received.extend_from_slice(&message.into_data()),
            }
        }
        assert!(received == sent && pings > 0);
        socket.flush().await.unwrap();
        assert!(emulator.wait_until(TIMEOUT, |emulator| !emulator.sender_pongs().is_empty()));
    });
}

#[test]
fn coalesced_data_arrives_in_large_messages() {
    client::runtime().block_on(async {
        const SIZE: usize = 1 << 20;
        let (_emulator, mut socket, mut server) = faulty(RelayFault::coalesce(SIZE)).await;
        let sending = tokio::spawn(async move {
            server.write_all(&vec![5; 3 * SIZE]).await.unwrap();
            server
        });
        let (mut received, mut largest) = (0, 0);
        while received < 3 * SIZE {
            let message = next(&mut socket).await.unwrap().unwrap();
            received += message.len();
            largest = largest.max(message.len());
        }
        assert!(largest >= SIZE, "{largest}");
        let mut server = sending.await.unwrap();
        server.write_all(b"a prompt").await.unwrap();
        assert_eq!(next(&mut socket).await.unwrap().unwrap().into_data(), "a prompt");
    });
}

#[test]
fn pings_arrive_and_pongs_are_recorded() {
    client::runtime().block_on(async {
        let (emulator, mut socket, _server) = faulty(RelayFault::pings(Duration::from_millis(10))).await;
        while emulator.sender_pongs().len() < 3 {
            assert!(next(&mut socket).await.unwrap().unwrap().is_ping());
        }
    });
}

#[test]
fn a_blocked_reader_stops_the_sender_but_not_the_listener() {
    client::runtime().block_on(async {
        let (_emulator, mut socket, mut server) = faulty(RelayFault::blocked_reader()).await;
        // More than the buffers hold: those of TCP grow to some megabytes.
        let mut sent = 0;
        let filling = async {
            loop {
                socket.send(Message::binary(vec![0; 1 << 20])).await.unwrap();
                sent += 1;
            }
        };
        assert!(tokio::time::timeout(Duration::from_secs(1), filling).await.is_err());
        assert!(sent < 64, "{sent} MiB went into a relay that does not read");
        assert!(server.read(&mut [0; 16]).now_or_never().is_none());
        server.write_all(b"still here").await.unwrap();
        assert_eq!(next(&mut socket).await.unwrap().unwrap().into_data(), "still here");
    });
}

#[test]
fn a_slow_reader_limits_the_rate() {
    client::runtime().block_on(async {
        let (_emulator, mut socket, mut server) = faulty(RelayFault::slow_reader(100_000)).await;
        let started = Instant::now();
        for _ in 0..4 {
            socket.send(Message::binary(vec![0; 10_000])).await.unwrap();
        }
        server.read_exact(&mut vec![0; 40_000]).await.unwrap();
        assert!(started.elapsed() >= Duration::from_millis(290), "{:?}", started.elapsed());
    });
}

#[test]
fn the_relay_can_stop_before_or_after_the_upgrade() {
    client::runtime().block_on(async {
        let (_emulator, mut socket, mut server) = faulty(RelayFault::silent_after_upgrade()).await;
        server.write_all(b"hello").await.unwrap();
        socket.send(Message::Ping("".into())).await.unwrap();
        assert!(tokio::time::timeout(Duration::from_millis(200), socket.next()).await.is_err());
        let (_server, emulator, issued, port) = with_server("127.0.0.1").await;
        emulator.relay_fault(RelayFault::silent_handshake());
        let connecting = client::connect(&emulator, &issued, port);
        assert!(tokio::time::timeout(Duration::from_millis(200), connecting).await.is_err());
        assert!(emulator.requests_to(Service::Relay).iter().any(|request| request.status.is_none()));
        assert!(emulator.wait_until(Duration::from_secs(10), |emulator| emulator.abandoned_dials() == 1));
    });
}

#[test]
fn a_sender_can_get_its_answer_late() {
    client::runtime().block_on(async {
        let delay = Duration::from_millis(300);
        let start = Instant::now();
        let (emulator, _socket, _server) = faulty(RelayFault::slow_handshake(delay)).await;
        assert!(start.elapsed() >= delay);
        assert_eq!(emulator.abandoned_dials(), 0);
    });
}

#[test]
fn an_idle_connection_is_cut_unless_the_sender_pings() {
    client::runtime().block_on(async {
        let limit = Duration::from_millis(300);
        let (emulator, mut socket, _server) = faulty(RelayFault::idle_limit(limit)).await;
        let started = Instant::now();
        while started.elapsed() < 2 * limit {
            socket.send(Message::Ping("".into())).await.unwrap();
            assert!(next(&mut socket).await.unwrap().unwrap().is_pong());
        }
        assert_eq!(emulator.open_connections(), 1);
        assert!(next(&mut socket).await.unwrap().is_err());
    });
}

#[test]
fn a_relay_with_one_key_exchange_group_records_the_retry() {
    client::runtime().block_on(async {
        let builder = Emulator::builder().machine(Machine::new("web01")).without_agent();
        let emulator = builder.relay_key_exchange(KeyExchange::Secp384r1Only).start().unwrap();
        let issued = client::issue_credentials(&emulator);
        let answer = client::connect(&emulator, &issued, 22).await;
        assert!(matches!(answer, Err(Error::Http(_))));
        let handshakes = emulator.tls_handshakes();
        let of = |service| handshakes.iter().rfind(|handshake| handshake.service == service).unwrap();
        assert!(of(Service::Relay).hello_retry_request && !of(Service::Arm).hello_retry_request);
        assert_eq!(of(Service::Relay).protocol_version, "TLSv1_3");
    });
}
