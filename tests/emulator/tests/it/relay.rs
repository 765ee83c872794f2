//! Senders and the agent, over the wire.

use std::net::SocketAddr;

use arcssh_emulator::{Emulator, Machine, Minted};
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_tungstenite::tungstenite::Message;

use crate::client::{self, PATIENCE, Socket};

/// A server on loopback in sshd's place, and an emulator whose machine `web01` has it configured.
pub(crate) async fn with_server(bind: &str) -> (TcpListener, Emulator, Minted, u16) {
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = server.local_addr().unwrap().port();
    let machine = Machine::new("web01").ssh_port(port);
    let emulator = Emulator::builder().bind(bind.parse().unwrap()).machine(machine).start().unwrap();
    let minted = client::mint(&emulator);
    client::wait_for_agent(&emulator, 1);
    (server, emulator, minted, port)
}

fn pattern(length: usize, seed: u8) -> Vec<u8> {
    (0..length).map(|i| ((i * 31 + i / 251) as u8).wrapping_add(seed)).collect()
}

async fn read_data(socket: &mut Socket, length: usize) -> Vec<u8> {
    let mut data = Vec::new();
    while data.len() < length {
        match tokio::time::timeout(PATIENCE, socket.next()).await.unwrap().unwrap().unwrap() {
            Message::Binary(bytes) => data.extend_from_slice(&bytes),
            Message::Ping(_) => {}
            other => panic!("unexpected {other:?}"),
        }
    }
    data
}

async fn bytes_arrive_both_ways(bind: &str) {
    const LENGTH: usize = 8 * 1024 * 1024;
    let (server, emulator, minted, port) = with_server(bind).await;
    let connected = tokio::join!(client::connect(&emulator, &minted, port), server.accept());
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
    assert!(emulator.wait_until(PATIENCE, |emulator| emulator.open_connections() == 0));
}

#[test]
fn bytes_arrive_both_ways_over_ipv4() {
    client::runtime().block_on(bytes_arrive_both_ways("127.0.0.1"));
}

#[test]
fn bytes_arrive_both_ways_over_ipv6() {
    client::runtime().block_on(bytes_arrive_both_ways("::1"));
}

#[test]
fn the_relay_has_an_address_that_can_be_dialled() {
    let emulator = client::emulator();
    assert!(emulator.relay_authority().parse::<SocketAddr>().unwrap().ip().is_loopback());
}
