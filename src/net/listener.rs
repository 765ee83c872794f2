//! Local listeners: a TCP port on the loopback interface or another address, or a Unix socket that only this user can open.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use futures_util::future::select_all;
use tokio::net::{TcpListener, TcpSocket};

#[cfg(unix)]
pub(crate) use unix::{Client, Input, Output};
#[cfg(not(unix))]
pub(crate) use windows::{Client, Input, Output};

/// The clients that may wait for [`Listener::accept`]. The system's own limit applies too (listen(2)).
const BACKLOG: u32 = 1024;
/// How often to choose a port that is free for IPv4 and IPv6.
const PORT_TRIES: u32 = 20;

/// Where clients connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Local {
    /// A TCP port; 0: any free one.
    Port(u16),
    /// A Unix socket.
    Socket(PathBuf),
}

/// A listener that cannot be opened.
#[derive(Debug, thiserror::Error)]
#[cfg_attr(not(unix), allow(dead_code, reason = "only Unix has sockets with a path"))]
pub(crate) enum ListenError {
    /// A program listens on the port.
    #[error("cannot listen on {0}: another program uses the port")]
    PortInUse(SocketAddr),
    /// The system denies the port.
    #[error("cannot listen on {0}: the system denies the port")]
    PortDenied(SocketAddr),
    /// The address belongs to another computer.
    #[error("cannot listen on {0}: this computer does not have the address")]
    NoSuchAddress(SocketAddr),
    /// A program listens on the socket.
    #[error("cannot listen on {}: another program uses the socket", .0.display())]
    SocketInUse(PathBuf),
    /// The path has another file, or a socket of another user.
    #[error("cannot listen on {}: the path has a file that is not a socket of yours", .0.display())]
    Occupied(PathBuf),
    /// The path of the socket is longer than the system permits.
    #[error("cannot listen on {}: the path of the socket is too long", .0.display())]
    TooLong(PathBuf),
    /// Other users can replace the socket.
    #[error("cannot listen on {}: other users can write to the directory {} (mode {mode:04o})", socket.display(), directory.display())]
    Exposed {
        socket: PathBuf,
        directory: PathBuf,
        /// The mode of the directory.
        mode: u32,
    },
    /// Another failure.
    #[error("cannot listen on {place}: {cause}")]
    Failed {
        /// The address or the path.
        place: String,
        cause: io::Error,
    },
}

/// A listener, with one socket for each address.
pub(crate) struct Listener {
    sockets: Vec<Socket>,
}

enum Socket {
    Tcp(TcpListener),
    #[cfg(unix)]
    Unix(unix::PrivateSocket),
}

impl Listener {
    /// Opens a listener. Without an address, a port belongs to 127.0.0.1 and ::1: programs that connect to `localhost` use
    /// either, and another user could otherwise listen on the other one.
    ///
    /// # Errors
    /// See [`ListenError`].
    pub(crate) fn bind(local: &Local, address: Option<IpAddr>) -> Result<Self, ListenError> {
        let sockets = match (local, address) {
            (Local::Port(port), Some(address)) => vec![tcp((address, *port).into())?],
            (Local::Port(port), None) => loopback(*port)?,
            #[cfg(unix)]
            (Local::Socket(path), _) => return unix::bind(path),
            #[cfg(not(unix))]
            (Local::Socket(path), _) => {
                let cause = io::Error::other("arcssh supports sockets only on Unix");
                return Err(ListenError::Failed { place: path.display().to_string(), cause });
            }
        };
        Ok(Self { sockets: sockets.into_iter().map(Socket::Tcp).collect() })
    }

    /// Returns the addresses; none for a Unix socket.
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        let address = |socket: &Socket| match socket {
            Socket::Tcp(listener) => listener.local_addr().ok(),
            #[cfg(unix)]
            Socket::Unix(_) => None,
        };
        self.sockets.iter().filter_map(address).collect()
    }

    /// Returns the path of a Unix socket.
    pub(crate) fn socket(&self) -> Option<&Path> {
        self.sockets.iter().find_map(|socket| match socket {
            Socket::Tcp(_) => None,
            #[cfg(unix)]
            Socket::Unix(socket) => Some(socket.path.as_path()),
        })
    }

    /// Returns each address, or the path of the socket.
    pub(crate) fn places(&self) -> Vec<String> {
        let addresses = self.addresses().into_iter().map(|address| address.to_string());
        addresses.chain(self.socket().map(|path| path.display().to_string())).collect()
    }

    /// Waits for the next client. The caller can drop the future at any time.
    ///
    /// # Errors
    /// The client has left (ECONNABORTED), or a limit of the system is reached (accept(2)).
    pub(crate) async fn accept(&self) -> io::Result<Client> {
        let accepts = self.sockets.iter().map(|socket| {
            Box::pin(async move {
                match socket {
                    Socket::Tcp(listener) => {
                        let (stream, address) = listener.accept().await?;
                        let _ = stream.set_nodelay(true); // fails if the client has left
                        Ok(Client::of_tcp(stream, address))
                    }
                    #[cfg(unix)]
                    Socket::Unix(socket) => Ok(Client::of_unix(socket.listener.accept().await?.0)),
                }
            })
        });
        select_all(accepts).await.0
    }
}

/// Binds the port on both loopback addresses; only on 127.0.0.1 if this computer has no IPv6.
fn loopback(port: u16) -> Result<Vec<TcpListener>, ListenError> {
    let mut tries = 0;
    loop {
        tries += 1;
        let ipv4 = tcp((Ipv4Addr::LOCALHOST, port).into())?;
        let chosen = ipv4.local_addr().map_or(port, |address| address.port());
        match tcp((Ipv6Addr::LOCALHOST, chosen).into()) {
            Ok(ipv6) => return Ok(vec![ipv4, ipv6]),
            Err(ListenError::PortInUse(_)) if port == 0 && tries < PORT_TRIES => {}
            Err(ListenError::NoSuchAddress(_)) => return Ok(vec![ipv4]),
            Err(ListenError::Failed { cause, .. }) if cause.kind() == io::ErrorKind::Unsupported => {
                return Ok(vec![ipv4]);
            }
            Err(error) => return Err(error),
        }
    }
}

/// Binds a TCP port, whose connections have keepalive probes: accepted sockets inherit that option (Linux, socket(7);
/// FreeBSD, accept(2)).
fn tcp(address: SocketAddr) -> Result<TcpListener, ListenError> {
    let bind = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        // On Windows, this option lets another program take over the port.
        #[cfg(unix)]
        socket.set_reuseaddr(true)?;
        socket.set_keepalive(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    bind().map_err(|error: io::Error| match error.kind() {
        io::ErrorKind::AddrInUse => ListenError::PortInUse(address),
        io::ErrorKind::PermissionDenied => ListenError::PortDenied(address),
        io::ErrorKind::AddrNotAvailable => ListenError::NoSuchAddress(address),
        _ => ListenError::Failed { place: address.to_string(), cause: error },
    })
}

#[cfg(unix)]
mod unix {
    use std::fs::{self, Metadata, Permissions};
    use std::io::{self, ErrorKind};
    use std::net::SocketAddr;
    use std::os::fd::OwnedFd;
    use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
    use std::path::{Path, PathBuf};

    use rustix::net::{AddressFamily, SocketAddrUnix, SocketType};
    use tokio::net::{TcpStream, UnixListener, UnixStream, tcp, unix};
    use tokio_util::either::Either;

    use super::{BACKLOG, ListenError, Listener, Socket};
    use crate::system::files::{is_own, parent};

    pub(crate) type Input = Either<tcp::OwnedReadHalf, unix::OwnedReadHalf>;
    pub(crate) type Output = Either<tcp::OwnedWriteHalf, unix::OwnedWriteHalf>;

    /// A client that connected to a listener.
    pub(crate) struct Client {
        /// The address or the process of the client.
        pub(crate) from: String,
        pub(crate) input: Input,
        pub(crate) output: Output,
    }

    impl Client {
        pub(super) fn of_tcp(stream: TcpStream, address: SocketAddr) -> Self {
            let (input, output) = stream.into_split();
            Self { from: address.to_string(), input: Either::Left(input), output: Either::Left(output) }
        }

        pub(super) fn of_unix(stream: UnixStream) -> Self {
            let process = stream.peer_cred().ok().and_then(|client| client.pid());
            let from = process.map_or_else(|| "a process".into(), |process| format!("process {process}"));
            let (input, output) = stream.into_split();
            Self { from, input: Either::Right(input), output: Either::Right(output) }
        }
    }

    /// A Unix socket with mode 0600. Its file is deleted when the value is dropped.
    pub(super) struct PrivateSocket {
        pub(super) path: PathBuf,
        pub(super) listener: UnixListener,
        /// Device and inode of the file.
        file: (u64, u64),
    }

    impl Drop for PrivateSocket {
        fn drop(&mut self) {
            if fs::symlink_metadata(&self.path).is_ok_and(|now| identity(&now) == self.file) {
                let _ = fs::remove_file(&self.path);
            }
        }
    }

    fn identity(metadata: &Metadata) -> (u64, u64) {
        (metadata.dev(), metadata.ino())
    }

    pub(super) fn bind(path: &Path) -> Result<Listener, ListenError> {
        let failed = |cause: io::Error| ListenError::Failed { place: path.display().to_string(), cause };
        let address = SocketAddrUnix::new(path).map_err(|_| ListenError::TooLong(path.to_owned()))?;
        ensure_private(path)?;
        remove_stale(path, &address)?;
        let bind = || -> io::Result<PrivateSocket> {
            let socket: OwnedFd = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None)?;
            rustix::io::fcntl_setfd(&socket, rustix::io::FdFlags::CLOEXEC)?;
            rustix::net::bind(&socket, &address)?;
            // No process can connect before listen(2).
            fs::set_permissions(path, Permissions::from_mode(0o600))?;
            let file = identity(&fs::symlink_metadata(path)?);
            rustix::net::listen(&socket, BACKLOG.cast_signed())?;
            rustix::io::ioctl_fionbio(&socket, true)?;
            let listener = UnixListener::from_std(socket.into())?;
            Ok(PrivateSocket { path: path.to_owned(), listener, file })
        };
        let socket = bind().map_err(failed)?;
        Ok(Listener { sockets: vec![Socket::Unix(socket)] })
    }

    /// Checks that no other user but root can replace the socket.
    fn ensure_private(path: &Path) -> Result<(), ListenError> {
        let failed = |cause| ListenError::Failed { place: path.display().to_string(), cause };
        let directory = fs::canonicalize(parent(path)).map_err(failed)?;
        let metadata = fs::metadata(&directory).map_err(failed)?;
        let is_private = metadata.mode() & 0o022 == 0 && (is_own(&metadata) || metadata.uid() == 0);
        if is_private {
            return Ok(());
        }
        Err(ListenError::Exposed { socket: path.to_owned(), directory, mode: metadata.mode() & 0o7777 })
    }

    /// Deletes a socket of this user on which no process listens.
    fn remove_stale(path: &Path, address: &SocketAddrUnix) -> Result<(), ListenError> {
        let failed = |cause| ListenError::Failed { place: path.display().to_string(), cause };
        match fs::symlink_metadata(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(failed(error)),
            Ok(metadata) if metadata.file_type().is_socket() && is_own(&metadata) => {}
            Ok(_) => return Err(ListenError::Occupied(path.to_owned())),
        }
        let connect = || {
            let probe = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None)?;
            rustix::io::ioctl_fionbio(&probe, true)?;
            rustix::net::connect(&probe, address)
        };
        // A process that was stopped does not accept, but its queue exists.
        if connect() != Err(rustix::io::Errno::CONNREFUSED) {
            return Err(ListenError::SocketInUse(path.to_owned()));
        }
        fs::remove_file(path).map_err(failed)
    }
}

#[cfg(not(unix))]
mod windows {
    use std::net::SocketAddr;

    use tokio::net::{TcpStream, tcp};

    pub(crate) type Input = tcp::OwnedReadHalf;
    pub(crate) type Output = tcp::OwnedWriteHalf;

    /// A client that connected to a listener.
    pub(crate) struct Client {
        /// The address of the client.
        pub(crate) from: String,
        pub(crate) input: Input,
        pub(crate) output: Output,
    }

    impl Client {
        pub(super) fn of_tcp(stream: TcpStream, address: SocketAddr) -> Self {
            let (input, output) = stream.into_split();
            Self { from: address.to_string(), input, output }
        }
    }
}
