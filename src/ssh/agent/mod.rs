//! An SSH agent for one key and its certificate, for as long as a connection lasts. It listens on the path that
//! `IdentityAgent` of ssh_config(5) names. [`protocol`] answers its messages; [`socket`] shares the path between processes.

mod protocol;
mod socket;

use std::convert::Infallible;
use std::io;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use futures_util::StreamExt as _;
use futures_util::future::LocalBoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::{sleep, timeout};
use tracing::{debug, info};

use crate::ssh::SshError;
use crate::ssh::agent::protocol::{Identity, Session};
use crate::ssh::agent::socket::SharedSocket;
use crate::ssh::certificate::Certificate;
use crate::ssh::rsa_key::KeyPair;

/// The most bytes of a message. A request to sign contains the certificate twice (OpenSSH accepts 256 KiB).
const MAX_MESSAGE: u32 = 256 * 1024;
/// The most clients at a time; more wait in the socket's queue.
const MAX_CLIENTS: usize = 512;
/// The pause after a failed accept, such as one for lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long the agent accepts clients after another process has taken over its path: they may already be connecting.
const GRACE: Duration = Duration::from_millis(200);
/// How long the agent then serves its clients. ssh lists the keys and signs with one over the same connection, with a
/// round trip to the server in between.
const LINGER: Duration = Duration::from_secs(3);

/// A listening agent. When it is dropped, another process takes over its path, or the path is removed.
pub(crate) struct Agent {
    socket: SharedSocket, // dropped first, so that the path never points to a closed socket
    server: Server,
}

impl Agent {
    /// Listens at `path`. Requires a Tokio runtime.
    ///
    /// # Errors
    /// [`SshError::AgentSocket`]; the socket cannot be created.
    pub(crate) fn open(path: &Path, key: KeyPair, certificate: Certificate) -> Result<Self, SshError> {
        let what = || format!("cannot serve {}", path.display());
        let path = &std::path::absolute(path).with_context(what)?;
        let (socket, listener) = SharedSocket::bind(path)?;
        listener.set_nonblocking(true).with_context(what)?;
        let listener = UnixListener::from_std(listener).with_context(what)?;
        Ok(Self { socket, server: Server { listener, identity: Identity::new(key, certificate) } })
    }

    /// Serves until `connection` completes, and then the clients that other connections already have here.
    pub(crate) async fn during<T>(self, connection: impl Future<Output = T>) -> T {
        let Self { server, mut socket } = self;
        let mut clients = Clients::new();
        let result = tokio::select! {
            biased;
            result = connection => result,
            never = server.serve(&mut clients) => match never {},
        };
        if socket.release() {
            let _ = timeout(GRACE, server.serve(&mut clients)).await;
            let _ = timeout(LINGER, clients.count()).await;
        }
        result
    }
}

/// The clients of an agent.
type Clients<'a> = FuturesUnordered<LocalBoxFuture<'a, ()>>;

/// Accepts clients and answers them.
struct Server {
    listener: UnixListener,
    identity: Identity,
}

impl Server {
    async fn serve<'a>(&'a self, clients: &mut Clients<'a>) -> Infallible {
        loop {
            tokio::select! {
                stream = self.accept(), if clients.len() < MAX_CLIENTS => clients.push(Box::pin(self.client(stream))),
                Some(()) = clients.next() => {}
            }
        }
    }

    async fn accept(&self) -> UnixStream {
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => return stream,
                Err(error) => {
                    debug!(%error, "the agent cannot accept a client");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn client(&self, stream: UnixStream) {
        match is_same_user(&stream) {
            Ok(true) => {}
            rejected => return info!(?rejected, "the agent rejects a client of another user"),
        }
        if let Err(error) = self.answer(stream).await {
            debug!(%error, "the agent lost a client");
        }
    }

    /// Answers until the client closes the connection.
    async fn answer(&self, mut stream: UnixStream) -> io::Result<()> {
        let mut session = Session::default();
        while let Some(message) = read_message(&mut stream).await? {
            stream.write_all(&self.identity.answer(&mut session, &message)).await?;
        }
        Ok(())
    }
}

/// Returns whether the peer is a process of this user.
fn is_same_user(stream: &UnixStream) -> io::Result<bool> {
    Ok(stream.peer_cred()?.uid() == rustix::process::geteuid().as_raw())
}

/// Reads the next message, without its length; `None` after the client has closed the connection.
async fn read_message(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Vec<u8>>> {
    let length = match stream.read_u32().await {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        length => length?,
    };
    if length > MAX_MESSAGE {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a message is too long"));
    }
    // Memory is allocated for the bytes that arrive, not for the announced length.
    let mut message = Vec::new();
    stream.take(length.into()).read_to_end(&mut message).await?;
    Ok((message.len() == length as usize).then_some(message))
}

#[cfg(test)]
mod tests;
