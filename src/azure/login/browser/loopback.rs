//! One port on both loopback addresses, and the user at the other end of a connection to it.

use std::io::{Error, ErrorKind, Result};
use std::net::{Ipv4Addr, Ipv6Addr};

use tokio::net::{TcpListener, TcpStream};

/// How many ports are tried before the sign-in fails.
const ATTEMPTS: usize = 16;

/// EAFNOSUPPORT, in the numbers of Winsock (Microsoft Learn, "Windows Sockets error codes": `WSAEAFNOSUPPORT`).
#[cfg(not(unix))]
const UNSUPPORTED_FAMILY: i32 = 10047;
#[cfg(unix)]
const UNSUPPORTED_FAMILY: i32 = rustix::io::Errno::AFNOSUPPORT.raw_os_error();

/// A listener on one port of 127.0.0.1 and of ::1: a browser may resolve `localhost` to either (RFC 6761, section 6.3).
#[derive(Debug)]
pub(super) struct Loopback {
    v4: TcpListener,
    /// None on a machine without ::1.
    v6: Option<TcpListener>,
    port: u16,
}

impl Loopback {
    /// Binds a port that is free on both addresses.
    ///
    /// # Errors
    /// No socket is available, or another process uses each tried port of ::1.
    pub(super) async fn bind() -> Result<Self> {
        let mut in_use = Error::from(ErrorKind::AddrInUse);
        for _ in 0..ATTEMPTS {
            let v4 = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
            match Self::bind_v6(v4).await {
                // Winsock denies a port that another user has bound exclusively.
                Err(error) if [ErrorKind::AddrInUse, ErrorKind::PermissionDenied].contains(&error.kind()) => {
                    in_use = error;
                }
                result => return result,
            }
        }
        Err(in_use)
    }

    /// Binds the same port of ::1.
    async fn bind_v6(v4: TcpListener) -> Result<Self> {
        let port = v4.local_addr()?.port();
        let v6 = match TcpListener::bind((Ipv6Addr::LOCALHOST, port)).await {
            Ok(v6) => Some(v6),
            Err(error) if is_missing(&error) => None,
            Err(error) => return Err(error),
        };
        Ok(Self { v4, v6, port })
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// Accepts the next connection on either address.
    ///
    /// # Errors
    /// No file descriptor is left, or the client has closed the connection.
    pub(super) async fn accept(&self) -> Result<TcpStream> {
        let v6 = async {
            match &self.v6 {
                Some(v6) => v6.accept().await,
                None => std::future::pending().await,
            }
        };
        let (stream, _) = tokio::select! {
            accepted = self.v4.accept() => accepted?,
            accepted = v6 => accepted?,
        };
        Ok(stream)
    }
}

/// Returns whether this machine has no ::1: IPv6 is disabled, or the loopback interface has no such address.
fn is_missing(error: &Error) -> bool {
    error.kind() == ErrorKind::AddrNotAvailable || error.raw_os_error() == Some(UNSUPPORTED_FAMILY)
}

/// The user at the other end of a loopback connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Peer {
    /// This user, or root.
    #[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "other systems show no owner"))]
    Trusted,
    /// Another user, or the unknown user of a closing connection.
    OtherUser,
    /// The platform does not show the user.
    Unknown,
}

impl Peer {
    /// Returns the user at the other end of a connection.
    pub(super) fn of(stream: &TcpStream) -> Self {
        match (stream.peer_addr(), stream.local_addr()) {
            (Ok(peer), Ok(local)) => owner(peer, local),
            _ => Self::OtherUser,
        }
    }
}

/// Other systems show sockets only to root. They do not show the link to other users either: Windows hides command
/// lines, and macOS sends the link in an Apple event.
#[cfg(not(target_os = "linux"))]
fn owner(_: std::net::SocketAddr, _: std::net::SocketAddr) -> Peer {
    Peer::Unknown
}

#[cfg(target_os = "linux")]
use linux::owner;

#[cfg(target_os = "linux")]
mod linux {
    use std::fs;
    use std::net::{IpAddr, SocketAddr};

    use rustix::process::geteuid;

    use crate::azure::login::browser::loopback::Peer;

    /// The state of a connection that neither side has closed (Linux, `include/net/tcp_states.h`). In later states, the
    /// table shows root as the owner of a socket without a process.
    const ESTABLISHED: &str = "01";

    /// A table that changes during the read can lack an entry.
    const READS: usize = 3;

    /// Returns the owner of the socket from `local` to `remote`.
    pub(super) fn owner(local: SocketAddr, remote: SocketAddr) -> Peer {
        let found = (0..READS).find_map(|_| {
            // The second table also lists IPv4 connections of AF_INET6 sockets.
            ["/proc/net/tcp", "/proc/net/tcp6"]
                .iter()
                .find_map(|table| find(&fs::read_to_string(table).ok()?, local, remote))
        });
        match found {
            Some((state, user)) if state == ESTABLISHED && (user == 0 || user == geteuid().as_raw()) => {
                Peer::Trusted
            }
            Some(_) => Peer::OtherUser,
            None => Peer::Unknown,
        }
    }

    /// Returns state and user ID of a connection in one of the tables (proc(5), `/proc/net/tcp`).
    pub(super) fn find(table: &str, local: SocketAddr, remote: SocketAddr) -> Option<(String, u32)> {
        let local = spellings(local);
        let remote = spellings(remote);
        table.lines().find_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let [_, from, to, state, _, _, _, user, ..] = fields[..] else { return None };
            let is_one_of =
                |spellings: &[String], text: &str| spellings.iter().any(|spelling| spelling == text);
            (is_one_of(&local, from) && is_one_of(&remote, to)).then_some(())?;
            Some((state.to_owned(), user.parse().ok()?))
        })
    }

    /// Returns an address in the form of the tables: each 32-bit word in the machine's byte order.
    fn spellings(address: SocketAddr) -> Vec<String> {
        let words = |bytes: &[u8]| -> String {
            let words = bytes.chunks_exact(4).filter_map(|word| word.try_into().ok());
            words.map(|word| format!("{:08X}", u32::from_ne_bytes(word))).collect()
        };
        let texts = match address.ip() {
            IpAddr::V4(ip) => vec![words(&ip.octets()), words(&ip.to_ipv6_mapped().octets())],
            IpAddr::V6(ip) => vec![words(&ip.octets())],
        };
        texts.into_iter().map(|text| format!("{text}:{:04X}", address.port())).collect()
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::net::SocketAddr;

    use super::linux::find;
    use super::*;

    #[tokio::test]
    async fn one_port_is_bound_on_both_loopback_addresses() {
        let loopback = Loopback::bind().await.unwrap();
        assert!(std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, loopback.port())).is_err());
        if std::net::TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok() {
            assert!(std::net::TcpListener::bind((Ipv6Addr::LOCALHOST, loopback.port())).is_err());
        }
    }

    #[tokio::test]
    async fn a_port_whose_ipv6_side_is_taken_is_not_used() {
        let Ok(other) = std::net::TcpListener::bind((Ipv6Addr::LOCALHOST, 0)) else { return };
        let port = other.local_addr().unwrap().port();
        let Ok(v4) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await else { return };
        assert_eq!(Loopback::bind_v6(v4).await.unwrap_err().kind(), ErrorKind::AddrInUse);
    }

    #[tokio::test]
    async fn a_connection_of_this_user_is_trusted_until_it_closes() {
        let loopback = Loopback::bind().await.unwrap();
        let client = TcpStream::connect((Ipv4Addr::LOCALHOST, loopback.port())).await.unwrap();
        let accepted = loopback.accept().await.unwrap();
        assert_eq!(Peer::of(&accepted), Peer::Trusted);
        drop(client);
        assert_ne!(Peer::of(&accepted), Peer::Trusted);
    }

    #[tokio::test]
    async fn an_ipv4_connection_through_an_ipv6_socket_is_found() {
        let loopback = Loopback::bind().await.unwrap();
        let mapped = SocketAddr::from((Ipv4Addr::LOCALHOST.to_ipv6_mapped(), loopback.port()));
        let Ok(_client) = TcpStream::connect(mapped).await else { return };
        assert_eq!(Peer::of(&loopback.accept().await.unwrap()), Peer::Trusted);
    }

    #[test]
    fn the_kernels_connection_table_is_parsed() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            0: 0100007F:9C40 0100007F:1F90 01 00000000:00000000 00:00000000 00000000  1001        0 36045 1 0\n\
            1: 00000000000000000000000001000000:9C41 00000000000000000000000001000000:1F90 05 00000000:00000000 \
            00:00000000 00000000     0        0 0 1 0\n";
        let at = |ip: &str, port| SocketAddr::new(ip.parse().unwrap(), port);
        let found = |ip, port| find(table, at(ip, port), at(ip, 8080));
        if cfg!(target_endian = "little") {
            assert_eq!(found("127.0.0.1", 40000), Some(("01".into(), 1001)));
            assert_eq!(found("::1", 40001), Some(("05".into(), 0)));
        }
        assert_eq!(found("127.0.0.1", 40001), None);
    }
}
