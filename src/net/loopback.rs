//! HTTP to a service on this machine. The caller can check the owner of the service before it sends anything.
//!
//! There is no name resolution, no proxy and no redirect. Time, head and body are limited.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, anyhow};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::system::timeout::with_timeout;

/// Bound on a connection over the loopback interface.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Bound on a request and its whole response.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(15);
/// Bytes of a response's head, and of its body, that are read. An access token takes about 2 kB.
const MAX_HEAD: usize = 16 * 1024;
pub(crate) const MAX_BODY: usize = 64 * 1024;

/// A connection to a service on this machine.
#[derive(Debug)]
pub(crate) struct Loopback {
    stream: TcpStream,
}

impl Loopback {
    /// Connects to `address`.
    ///
    /// # Errors
    /// No process listens there, or the connection takes longer than [`CONNECT_TIMEOUT`].
    pub(crate) async fn connect(address: SocketAddr) -> io::Result<Self> {
        let timed_out = |limit: Duration| {
            let text = format!("no connection to {address} within {} s", limit.as_secs());
            io::Error::new(io::ErrorKind::TimedOut, text)
        };
        let stream = with_timeout(CONNECT_TIMEOUT, TcpStream::connect(address), timed_out).await?;
        Ok(Self { stream })
    }

    /// Returns the user ID of the process that accepted this connection; none where the platform does not show it.
    ///
    /// # Errors
    /// The process does not accept the connection, or the system does not list it.
    #[cfg(target_os = "linux")]
    pub(crate) async fn owner(&self) -> Result<Option<u32>> {
        proc_net::owner(self.stream.peer_addr()?, self.stream.local_addr()?).await.map(Some)
    }

    /// Returns the user ID of the process that accepted this connection; none where the platform does not show it.
    ///
    /// # Errors
    /// None on this platform.
    #[cfg(not(target_os = "linux"))]
    pub(crate) async fn owner(&self) -> Result<Option<u32>> {
        Ok(None)
    }

    /// Sends `request` and returns the response with its body; `None` if the body is longer than [`MAX_BODY`].
    ///
    /// # Errors
    /// The response is not HTTP, its head is longer than [`MAX_HEAD`], or it takes longer than [`EXCHANGE_TIMEOUT`].
    pub(crate) async fn exchange(self, request: Request<Empty<Bytes>>) -> Result<Option<Response<Bytes>>> {
        let timed_out = |limit: Duration| anyhow!("no response within {} s", limit.as_secs());
        with_timeout(EXCHANGE_TIMEOUT, exchange(self.stream, request), timed_out).await
    }
}

async fn exchange(stream: TcpStream, request: Request<Empty<Bytes>>) -> Result<Option<Response<Bytes>>> {
    let client = http1::Builder::new().max_buf_size(MAX_HEAD).handshake(TokioIo::new(stream));
    let (mut sender, connection) = client.await?;
    let exchange = async move {
        let (head, body) = sender.send_request(request).await?.into_parts();
        match Limited::new(body, MAX_BODY).collect().await {
            Ok(body) => Ok(Some(Response::from_parts(head, body.to_bytes()))),
            Err(error) if error.is::<LengthLimitError>() => Ok(None),
            Err(error) => Err(anyhow!(error)),
        }
    };
    tokio::pin!(exchange);
    tokio::select! {
        biased;
        answer = &mut exchange => answer,
        // The exchange then fails with a more specific error.
        _ = connection => exchange.await,
    }
}

/// Linux lists the sockets of this network namespace in `/proc/net/tcp` and `/proc/net/tcp6` (proc_pid_net(5)).
#[cfg(target_os = "linux")]
mod proc_net {
    use std::net::{IpAddr, Ipv6Addr, SocketAddr};
    use std::time::Duration;

    use anyhow::{Context, Result, bail};
    use tokio::time::{Instant, sleep};

    /// Bound on the time until the service accepts the connection.
    const ACCEPT_TIMEOUT: Duration = Duration::from_secs(5);
    const INTERVAL: Duration = Duration::from_millis(50);

    /// Returns the owner of the socket whose own address is `server` and whose peer is `client`.
    ///
    /// A connection that its listener has not accepted has no inode yet, and user ID 0 for every listener
    /// (net/core/sock.c, `sock_i_uid`), so that only a socket with an inode counts.
    pub(super) async fn owner(server: SocketAddr, client: SocketAddr) -> Result<u32> {
        let end = Instant::now() + ACCEPT_TIMEOUT;
        loop {
            if let Some(owner) = look_up(server, client)? {
                return Ok(owner);
            }
            if Instant::now() >= end {
                bail!("/proc/net/tcp does not show which user listens on {server}");
            }
            sleep(INTERVAL).await;
        }
    }

    fn look_up(server: SocketAddr, client: SocketAddr) -> Result<Option<u32>> {
        if let Some((server, client)) = ipv4(server).zip(ipv4(client)) {
            let table = std::fs::read_to_string("/proc/net/tcp").context("cannot read /proc/net/tcp")?;
            if let Some(owner) = find(&table, &server, &client) {
                return Ok(Some(owner));
            }
        }
        // A kernel without IPv6 has no such file.
        let table = std::fs::read_to_string("/proc/net/tcp6").unwrap_or_default();
        Ok(find(&table, &ipv6(server), &ipv6(client)))
    }

    /// Columns: number, own address, peer, state, queues, timer, retransmissions, user ID, timeout, inode.
    pub(super) fn find(table: &str, server: &str, client: &str) -> Option<u32> {
        table.lines().find_map(|line| {
            let columns: Vec<&str> = line.split_ascii_whitespace().collect();
            let [_, own, peer, _, _, _, _, owner, _, inode, ..] = columns[..] else { return None };
            let is_accepted = own == server && peer == client && inode != "0";
            is_accepted.then(|| owner.parse().ok()).flatten()
        })
    }

    fn ipv4(address: SocketAddr) -> Option<String> {
        let IpAddr::V4(ip) = address.ip() else { return None };
        Some(format!("{:08X}:{:04X}", u32::from_ne_bytes(ip.octets()), address.port()))
    }

    /// An IPv4 address is listed in its mapped form for a listener that serves both families.
    pub(super) fn ipv6(address: SocketAddr) -> String {
        let ip: Ipv6Addr = match address.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        let octets = ip.octets();
        let (words, _) = octets.as_chunks::<4>();
        let words: String = words.iter().map(|word| format!("{:08X}", u32::from_ne_bytes(*word))).collect();
        format!("{words}:{:04X}", address.port())
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::net::TcpListener;

    use tokio::io::AsyncWriteExt as _;

    use super::*;

    #[tokio::test]
    async fn the_owner_of_an_accepted_connection_is_found_in_both_tables() {
        for listening_on in ["127.0.0.1:0", "0.0.0.0:0", "[::]:0", "[::1]:0"] {
            let Ok(listener) = tokio::net::TcpListener::bind(listening_on).await else { continue };
            let port = listener.local_addr().unwrap().port();
            let host = if listening_on.starts_with("[::1]") { "[::1]" } else { "127.0.0.1" };
            let address = format!("{host}:{port}").parse().unwrap();
            let (connection, accepted) = tokio::join!(Loopback::connect(address), listener.accept());
            let owner = connection.unwrap().owner().await.unwrap();
            assert_eq!(owner, Some(rustix::process::geteuid().as_raw()), "{listening_on}");
            drop(accepted);
        }
    }

    /// The kernel shows user ID 0 for such a connection to any listener.
    #[tokio::test(start_paused = true)]
    async fn a_connection_that_is_not_accepted_has_no_owner() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let connection = Loopback::connect(listener.local_addr().unwrap()).await.unwrap();
        let error = connection.owner().await.unwrap_err();
        assert!(error.to_string().contains("does not show which user listens on 127.0.0.1"), "{error}");
    }

    #[tokio::test(start_paused = true)]
    #[cfg(target_os = "linux")]
    async fn a_connection_that_takes_too_long_is_an_error_with_the_address_and_the_limit() {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(1).unwrap();
        let address = listener.local_addr().unwrap();
        // A full queue of connections answers no further one (listen(2)).
        let connect = || std::net::TcpStream::connect_timeout(&address, Duration::from_millis(200));
        let _queue: Vec<_> = std::iter::from_fn(|| connect().ok()).collect();
        let error = Loopback::connect(address).await.unwrap_err();
        assert_eq!(error.to_string(), format!("no connection to {address} within 2 s"));
    }

    #[tokio::test]
    async fn an_endless_response_is_not_read_to_the_end() {
        for (head, chunk) in [
            ("HTTP/1.1 200 OK\r\n\r\n", "a".repeat(4096)),
            ("HTTP/1.1 200 OK\r\n", format!("X: {}\r\n", "a".repeat(4096))),
        ] {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let connection = Loopback::connect(listener.local_addr().unwrap()).await.unwrap();
            let (mut server, _) = listener.accept().await.unwrap();
            let serve = async move {
                let mut sent = server.write_all(head.as_bytes()).await;
                while sent.is_ok() {
                    sent = server.write_all(chunk.as_bytes()).await;
                }
            };
            let request = Request::get("/").header("Host", "localhost").body(Empty::new()).unwrap();
            let (answer, ()) = tokio::join!(connection.exchange(request), serve);
            assert!(!matches!(answer, Ok(Some(_))));
        }
    }
}
