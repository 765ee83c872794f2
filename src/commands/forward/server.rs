//! Accepts clients, and carries each connection to its machine.

use std::cell::Cell;
use std::io;
use std::pin::pin;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::{join_all, pending};
use futures_util::stream::FuturesUnordered;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{sleep, timeout};
use tokio_util::io::{InspectReader, InspectWriter};
use tokio_util::sync::CancellationToken;

use crate::azure::relay_credential_cache::RelayCredentialCache;
use crate::cli::forward::ForwardArgs;
use crate::commands::destination::Destination;
use crate::commands::forward::Forward;
use crate::commands::forward::report::{Connection, End, Report};
use crate::diagnosis::{Error, Result, last_error};
use crate::net;
use crate::net::listener::{Client, Input, Output};
use crate::relay::bridge::{self, BridgeEnd, BridgeError};
use crate::relay::connector::Connector;
use crate::relay::handshake::Upgraded;
use crate::system::limits;
use crate::terminal::progress::Progress;

/// The descriptors of a connection: the client, the relay, and a second dial or a lock file.
const PER_CONNECTION: usize = 3;
/// The descriptors of a machine: two listeners, and a client that waits.
const PER_MACHINE: usize = 3;
/// The pause after an error of accept(2), which otherwise fails again at once: a limit of the system is reached.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);
/// How often to check whether relay credentials are due for a refresh. Without connections, nothing else refreshes them, and
/// the agent would need time to learn about new ones when the next client connects.
const REFRESH_INTERVAL: Duration = Duration::from_secs(15);
/// The pause after a refresh, which may have failed.
const RETRY_INTERVAL: Duration = Duration::from_secs(60);
/// The longest silence of a client, and the longest time, until it closes a connection that the machine has closed.
const LINGER: [Duration; 2] = [Duration::from_secs(5), Duration::from_secs(30)];
/// The most bytes of a client that are read before the machine is connected.
const FIRST_BYTES: usize = 16 * 1024;
/// The first bytes of a record of TLS with a handshake (RFC 8446, section 5.1).
const TLS: [u8; 2] = [0x16, 0x03];

pub(super) struct Server<'a> {
    forwards: &'a [Forward],
    report: &'a Report,
    wait: Duration,
    stop: CancellationToken,
    /// A permit for each connection that the limit of file descriptors allows.
    permits: Semaphore,
    limit: usize,
}

impl<'a> Server<'a> {
    pub(super) fn new(forwards: &'a [Forward], report: &'a Report, args: &ForwardArgs) -> Self {
        // A program of --exec inherits the limit, and select(2) fails with a descriptor above 1023.
        let descriptors = match args.exec {
            Some(_) => limits::descriptor_limit(),
            None => limits::raise_descriptor_limit(),
        };
        let limit = limits::spare(descriptors, PER_MACHINE * forwards.len()) / PER_CONNECTION;
        let limit = limit.clamp(1, Semaphore::MAX_PERMITS);
        let wait = args.destination.target.wait;
        let (stop, permits) = (CancellationToken::new(), Semaphore::new(limit));
        Self { forwards, report, wait, stop, permits, limit }
    }

    /// Accepts no more clients, and closes all connections.
    pub(super) fn stop(&self) {
        self.stop.cancel();
    }

    /// Serves clients until [`Self::stop`].
    pub(super) async fn run(&self) {
        join_all(self.forwards.iter().map(|forward| self.serve(forward))).await;
    }

    /// Serves the clients of one machine. A client that was accepted waits if there are too many connections.
    async fn serve(&self, forward: &Forward) {
        let mut connections = FuturesUnordered::new();
        let mut refresh = pin!(refresh(forward));
        let mut accepted = None;
        loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => break,
                Some(()) = connections.next() => {}
                Ok(permit) = self.permits.acquire(), if accepted.is_some() => {
                    connections.extend(accepted.take().map(|client| self.connection(forward, client, permit)));
                }
                client = self.accept(forward), if accepted.is_none() => {
                    if self.permits.available_permits() == 0 {
                        self.report.full(self.limit);
                    }
                    accepted = Some(client);
                }
                () = &mut refresh => {}
            }
        }
        while connections.next().await.is_some() {}
    }

    /// Waits for a client.
    async fn accept(&self, forward: &Forward) -> Client {
        loop {
            match forward.listener.accept().await {
                Ok(client) => return client,
                // The client has left (accept(2)).
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    self.report.cannot_accept(&error);
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Carries one connection, and reports its end.
    async fn connection(&self, forward: &Forward, client: Client, _permit: SemaphorePermit<'_>) {
        let connection = self.report.opened(&forward.destination.target, &client.from);
        let end = self.carry(forward, client, &connection).await;
        self.report.closed(&connection, end);
    }

    /// Connects to the machine, and copies bytes until one side closes.
    async fn carry(&self, forward: &Forward, client: Client, connection: &Connection<'_>) -> Result<End> {
        let Client { mut input, mut output, .. } = client;
        let mut first = Vec::new();
        let upgraded = tokio::select! {
            biased;
            () = self.stop.cancelled() => return Ok(End::Stopped),
            upgraded = self.connect(forward, connection) => upgraded?,
            () = left(&mut input, &mut first) => return Ok(End::Left),
        };
        self.report.connected(connection);
        connection.sent(first.len());
        let stop = async {
            self.stop.cancelled().await;
            BridgeEnd::Finished
        };
        let end = {
            let input = InspectReader::new(&mut input, |bytes| connection.sent(bytes.len()));
            let output = InspectWriter::new(&mut output, |bytes| connection.received(bytes.len()));
            bridge::run(upgraded, io::Cursor::new(first).chain(input), output, stop).await
        };
        match end {
            _ if self.stop.is_cancelled() => return Ok(End::Stopped),
            BridgeEnd::Finished | BridgeEnd::Signal(_) => tokio::select! {
                () = self.stop.cancelled() => {}
                () = linger(&mut input, &mut output) => {}
            },
            // The client has reset its connection.
            BridgeEnd::Broken(BridgeError::Input(_) | BridgeError::Output(_)) => {}
            BridgeEnd::Broken(error) => return Err(error.into()),
        }
        Ok(End::Closed)
    }

    async fn connect(&self, forward: &Forward, connection: &Connection<'_>) -> Result<Upgraded<net::Stream>> {
        let Destination { session, target, .. } = &forward.destination;
        let cache = credentials(forward);
        let is_first = Cell::new(true);
        let on_no_listener = &|| {
            if is_first.replace(false) {
                self.report.waiting(connection, self.wait);
            }
        };
        let progress = &Progress::default();
        let connector = Connector { net: &session.net, target, wait: self.wait, progress, on_no_listener };
        let (upgraded, _) = connector.connect(&cache).await.map_err(Error::from)?;
        last_error::clear(&session.store, target);
        Ok(upgraded)
    }
}

/// The relay credentials of a machine.
fn credentials(forward: &Forward) -> RelayCredentialCache<'_> {
    let Destination { session, id, target, .. } = &forward.destination;
    RelayCredentialCache::new(&session.arm, &session.store, id, target.service, target.port)
}

/// Refreshes relay credentials that are due, for ever.
async fn refresh(forward: &Forward) {
    let cache = credentials(forward);
    loop {
        sleep(REFRESH_INTERVAL).await;
        let cached = cache.cached().unwrap_or_default();
        if let Some(issued) = cached.iter().find(|issued| cache.is_due(issued)) {
            cache.refresh(issued).await;
            sleep(RETRY_INTERVAL).await;
        }
    }
}

/// Resolves when the client has left before the machine is connected. Reads up to [`FIRST_BYTES`] into `first`.
///
/// A client that closes its connection looks like one that only sends no more. Clients of SSH and TLS send more after the
/// server's first bytes, and so does a client that has sent nothing. Others may wait for a response.
async fn left(input: &mut Input, first: &mut Vec<u8>) {
    while first.len() < FIRST_BYTES {
        match input.read_buf(first).await {
            Ok(0) if first.is_empty() || first.starts_with(b"SSH-") || first.starts_with(&TLS) => return,
            Ok(0) => break,
            Ok(_) => {}
            Err(_) => return,
        }
    }
    pending().await
}

/// Closes the connection of a client after it has received everything. If arcssh closed it with unread input, the system would
/// reset it, and discard output that the client has not received yet (RFC 1122, section 4.2.2.13).
async fn linger(input: &mut Input, output: &mut Output) {
    let [silence, limit] = LINGER;
    let discard = async {
        let mut discarded = [0; 4096];
        while let Ok(Ok(1..)) = timeout(silence, input.read(&mut discarded)).await {}
    };
    if output.shutdown().await.is_ok() {
        let _ = timeout(limit, discard).await;
    }
}
