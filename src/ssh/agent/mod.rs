//! An agent for one key and its certificate, on a socket that `IdentityAgent` of ssh_config(5) names, for as long as a
//! connection lasts. Knows no Azure; what it says is in [`protocol`], where it is found in [`place`].

mod protocol;
mod socket;

use std::cell::Cell;
use std::convert::Infallible;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use futures_util::StreamExt as _;
use futures_util::future::LocalBoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};
use tracing::{debug, info};

use crate::ssh::agent::protocol::{Identity, Session};
use crate::ssh::agent::socket::SharedSocket;
use crate::ssh::certificate::Certificate;
use crate::ssh::rsa_key::KeyPair;

/// Bytes of a message that are taken. A request to sign holds the certificate twice (OpenSSH takes 256 KiB).
const MAX_MESSAGE: u32 = 256 * 1024;
/// Clients at a time; more wait in the socket's queue.
const MAX_CLIENTS: usize = 512;
/// How long accepting pauses when the system has nothing left for another client.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How soon the path is looked at again when it led nowhere.
const WATCH_PAUSE: Duration = Duration::from_millis(20);
/// How long a client can take from finding the path to its first message.
const GRACE: Duration = Duration::from_millis(200);
/// How long other connections' clients are given to end what they began.
const LINGER: Duration = Duration::from_secs(3);

/// Why no agent is served at a path.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotServed {
    /// The path is not free.
    #[error("arcssh did not make {}, and does not replace it by an SSH agent", .0.display())]
    Occupied(PathBuf),
    /// Other users can reach sockets in the folder.
    #[error("other users can open {} (mode {mode:04o}), the directory of the SSH agent", folder.display())]
    Open {
        /// The folder.
        folder: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// The folder is a symbolic link, another kind of file, or another user's.
    #[error("{} is not a directory of this user, so that arcssh serves no SSH agent there", .0.display())]
    NotOwn(PathBuf),
    /// The path of its socket does not fit into an address (unix(7), `sun_path`).
    #[error("the path of the SSH agent is too long for a socket: {}", .0.display())]
    TooLong(PathBuf),
}

/// An agent that can be reached. Dropping it hands its path over to another process, or takes it away.
pub(crate) struct Agent {
    place: SharedSocket, // before the socket: nobody is to find it closed
    listener: UnixListener,
    identity: Identity,
    /// Somebody came and went without a word: the path may lead elsewhere now.
    looked: Notify,
    /// Clients that are in the middle of something.
    busy: Cell<usize>,
}

impl Agent {
    /// Makes `path` lead here. To be called in a Tokio runtime.
    ///
    /// # Errors
    /// [`NotServed`]; no socket can be made in its folder.
    pub(crate) fn open(path: &Path, key: KeyPair, certificate: Certificate) -> Result<Self> {
        let what = || format!("cannot serve {}", path.display());
        let path = &std::path::absolute(path).with_context(what)?;
        let (place, listener) = SharedSocket::take(path).with_context(what)?;
        listener.set_nonblocking(true).with_context(what)?;
        Ok(Self {
            place,
            listener: UnixListener::from_std(listener).with_context(what)?,
            identity: Identity::new(key, certificate),
            looked: Notify::new(),
            busy: Cell::new(0),
        })
    }

    /// Serves while `connection` lasts, and until the clients of other connections have what they came for.
    pub(crate) async fn during<T>(self, connection: impl Future<Output = T>) -> T {
        let mut clients = Clients::new();
        let result = tokio::select! {
            biased;
            result = connection => result,
            never = self.serve(&mut clients) => match never {},
        };
        if self.place.leave() {
            let _ = timeout(GRACE, self.accept_all(&mut clients)).await;
            let _ = timeout(LINGER, self.finish(&mut clients)).await;
        }
        drop(clients);
        result
    }

    async fn serve<'a>(&'a self, clients: &mut Clients<'a>) -> Infallible {
        tokio::select! {
            never = self.accept_all(clients) => never,
            never = self.watch() => never,
        }
    }

    async fn accept_all<'a>(&'a self, clients: &mut Clients<'a>) -> Infallible {
        loop {
            self.step(clients).await;
        }
    }

    async fn finish<'a>(&'a self, clients: &mut Clients<'a>) {
        while self.busy.get() > 0 {
            self.step(clients).await;
        }
    }

    /// Until a client comes or leaves.
    async fn step<'a>(&'a self, clients: &mut Clients<'a>) {
        tokio::select! {
            stream = self.accept(), if clients.len() < MAX_CLIENTS => clients.push(Box::pin(self.client(stream))),
            Some(()) = clients.next() => {}
        }
    }

    async fn accept(&self) -> UnixStream {
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => return stream,
                Err(error) => {
                    debug!(%error, "no client can be accepted");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Sees to it that the path leads to a process that lives: each watches the one that the path led to when it
    /// looked, by a connection that ends when that process does.
    async fn watch(&self) -> Infallible {
        loop {
            if self.place.is_current() {
                self.looked.notified().await;
                continue;
            }
            if let Ok(mut other) = UnixStream::connect(self.place.path()).await {
                let _ = other.read(&mut [0]).await;
            }
            self.place.repair();
            sleep(WATCH_PAUSE).await;
        }
    }

    async fn client(&self, stream: UnixStream) {
        match is_ours(&stream) {
            Ok(true) => {}
            refused => return info!(?refused, "a client of another user is turned away"),
        }
        match self.talk(stream).await {
            Ok(0) => self.looked.notify_one(),
            Ok(_) => {}
            Err(error) => debug!(%error, "a client is lost"),
        }
    }

    /// Answers until the client leaves; how many messages it had.
    async fn talk(&self, mut stream: UnixStream) -> io::Result<usize> {
        let (mut session, mut messages) = (Session::default(), 0);
        let mut busy = None;
        while let Some(message) = read_message(&mut stream).await? {
            let answer = self.identity.answer(&mut session, &message);
            messages += 1;
            // What is forwarded gets no signature, and is not waited for.
            match session.is_forwarded() {
                true => busy = None,
                false => drop(busy.get_or_insert_with(|| Busy::new(&self.busy))),
            }
            stream.write_all(&answer).await?;
        }
        Ok(messages)
    }
}

/// Clients that are being served.
type Clients<'a> = FuturesUnordered<LocalBoxFuture<'a, ()>>;

/// Counts a client while it lives.
struct Busy<'a>(&'a Cell<usize>);

impl<'a> Busy<'a> {
    fn new(count: &'a Cell<usize>) -> Self {
        count.set(count.get() + 1);
        Self(count)
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// Whether the other side is a process of our user.
fn is_ours(stream: &UnixStream) -> io::Result<bool> {
    Ok(stream.peer_cred()?.uid() == rustix::process::geteuid().as_raw())
}

/// The next message without its length; `None` where the client has left.
async fn read_message(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Vec<u8>>> {
    let length = match stream.read_u32().await {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        length => length?,
    };
    if length > MAX_MESSAGE {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a message is too long"));
    }
    // Room is made for what comes, not for what is announced.
    let mut message = Vec::new();
    stream.take(length.into()).read_to_end(&mut message).await?;
    Ok((message.len() == length as usize).then_some(message))
}

#[cfg(test)]
mod tests;
