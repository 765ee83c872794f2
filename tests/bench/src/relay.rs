//! A relay that costs as little as possible: TLS, the upgrade, and one of five uses of the connection.
//!
//! The emulator follows the documents of Azure Relay and connects a listener too. That work would hide the differences that
//! this program measures, so this server reads and writes frames only.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rustls::{HandshakeKind, NamedGroup, ServerConfig, ServerConnection};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf, split};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::frames::{CHUNK, Framing, Reader, Writer};

/// The limit for a client's next step. Every wait is for a process of this program.
pub(crate) const LIMIT: Duration = Duration::from_secs(120);

/// An SSH identification (RFC 4253, section 4.2).
pub(crate) const GREETING: &str = "SSH-2.0-bench\r\n";

/// What the relay does with the next connections.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Mode {
    /// Reads this many bytes.
    Up(u64),
    /// Sends this many bytes.
    Down(u64),
    /// Sends back this many bytes.
    Echo(u64),
    /// Connects to this port on loopback, as the agent does.
    Port(u16),
    /// Sends [`GREETING`] and closes, sometimes late or not at all, as Azure Relay does.
    Tail,
}

/// One connection that transfers a number of bytes.
pub(crate) struct Visit {
    pub(crate) accepted: Instant,
    /// When the whole upgrade request had arrived.
    pub(crate) requested: Instant,
    done: mpsc::Receiver<Instant>,
    close: oneshot::Sender<()>,
}

impl Visit {
    /// Waits until the relay has sent and received all bytes of the mode.
    pub(crate) fn done(&self) -> Result<Instant> {
        self.done.recv_timeout(LIMIT).context("the relay did not receive or send all bytes")
    }

    /// Lets the relay close the connection.
    pub(crate) fn close(self) {
        let _ = self.close.send(());
    }
}

/// What clients did.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) tcp: AtomicUsize,
    pub(crate) tls: AtomicUsize,
    pub(crate) hello_retry: AtomicUsize,
    pub(crate) upgrades: AtomicUsize,
}

struct Shared {
    acceptor: TlsAcceptor,
    mode: Mutex<Mode>,
    visits: mpsc::Sender<Visit>,
    counts: Counts,
}

/// A running relay.
pub(crate) struct Relay {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    visits: mpsc::Receiver<Visit>,
    /// Dropping it ends the server.
    _runtime: Runtime,
}

impl Relay {
    /// Starts a relay on a free port.
    pub(crate) fn start(tls: Arc<ServerConfig>) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))?;
        let address = listener.local_addr()?;
        let (sender, visits) = mpsc::channel();
        let shared = Arc::new(Shared {
            acceptor: tls.into(),
            mode: Mutex::new(Mode::Up(0)),
            visits: sender,
            counts: Counts::default(),
        });
        runtime.spawn(accept(listener, Arc::clone(&shared)));
        Ok(Self { address, shared, visits, _runtime: runtime })
    }

    /// Sets the mode of the next connections.
    pub(crate) fn set_mode(&self, mode: Mode) {
        *self.shared.mode.lock().unwrap_or_else(PoisonError::into_inner) = mode;
    }

    /// Waits for the next connection.
    pub(crate) fn visit(&self) -> Result<Visit> {
        self.visits.recv_timeout(LIMIT).context("no client connected to the relay")
    }

    pub(crate) fn counts(&self) -> &Counts {
        &self.shared.counts
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((stream, _)) = listener.accept().await {
        let accepted = Instant::now();
        shared.counts.tcp.fetch_add(1, Ordering::Relaxed);
        let shared = Arc::clone(&shared);
        // A client that ends early is an error of the part that waits for it.
        tokio::spawn(async move { serve(stream, accepted, &shared).await.is_ok() });
    }
}

async fn serve(stream: TcpStream, accepted: Instant, shared: &Shared) -> Result<()> {
    stream.set_nodelay(true)?;
    let stream = shared.acceptor.accept(stream).await?;
    check_handshake(stream.get_ref().1, &shared.counts)?;
    let (input, output) = split(stream);
    let (head, reader) = Reader::after_head(input).await?;
    let requested = Instant::now();
    let mut writer = Writer::new(output, reader.framing());
    let mode = *shared.mode.lock().unwrap_or_else(PoisonError::into_inner);
    if reader.framing() == Framing::WebSocket {
        let number = shared.counts.upgrades.fetch_add(1, Ordering::Relaxed);
        if matches!(mode, Mode::Tail) {
            tail_delay(number).await;
        }
        writer.send(&switching_protocols(&head)?).await?;
    }
    match mode {
        Mode::Port(port) => return forward(reader, writer, port).await,
        Mode::Tail => {
            writer.write(GREETING.as_bytes()).await?;
            return Ok(writer.close().await?);
        }
        Mode::Up(_) | Mode::Down(_) | Mode::Echo(_) => {}
    }
    let (done, on_done) = mpsc::channel();
    let (close, on_close) = oneshot::channel();
    let sent = shared.visits.send(Visit { accepted, requested, done: on_done, close });
    ensure!(sent.is_ok(), "this program ends");
    transfer(reader, writer, mode, || done.send(Instant::now()).is_ok(), on_close).await
}

/// Delays one request in 20 by 3 to 7 s, and one in 50 for ever (aztunnel issues 115 and 142).
async fn tail_delay(number: usize) {
    if number % 50 == 25 {
        std::future::pending::<()>().await;
    } else if number % 20 == 10 {
        tokio::time::sleep(Duration::from_secs(3 + number as u64 / 20 % 5)).await;
    }
}

/// Counts the handshake. A comparison is fair only if all clients use the same group, which is the one that Azure Relay
/// prefers (aztunnel `docs/internals/sequences/port-forward.md`).
fn check_handshake(connection: &ServerConnection, counts: &Counts) -> Result<()> {
    counts.tls.fetch_add(1, Ordering::Relaxed);
    if connection.handshake_kind() == Some(HandshakeKind::FullWithHelloRetryRequest) {
        counts.hello_retry.fetch_add(1, Ordering::Relaxed);
    }
    let group = connection.negotiated_key_exchange_group().map(|group| group.name());
    ensure!(group == Some(NamedGroup::secp384r1), "the client used {group:?} instead of secp384r1");
    Ok(())
}

fn switching_protocols(head: &str) -> Result<String> {
    let headers = head.lines().filter_map(|line| line.split_once(':'));
    let mut keys = headers.filter(|(name, _)| name.eq_ignore_ascii_case("sec-websocket-key"));
    let (_, key) = keys.next().context("the upgrade request has no key")?;
    let accept = derive_accept_key(key.trim().as_bytes());
    Ok(format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
    ))
}

type Input = Reader<ReadHalf<TlsStream<TcpStream>>>;
type Output = Writer<WriteHalf<TlsStream<TcpStream>>>;

/// Transfers the bytes of a mode, calls `done`, and closes when the visit is closed.
async fn transfer(
    mut reader: Input,
    mut writer: Output,
    mode: Mode,
    done: impl FnOnce() -> bool,
    close: oneshot::Receiver<()>,
) -> Result<()> {
    let mut buffer = vec![0; CHUNK];
    let (Mode::Up(mut left) | Mode::Down(mut left) | Mode::Echo(mut left)) = mode else { return Ok(()) };
    while left > 0 {
        let count = match mode {
            Mode::Up(_) => reader.discard(&mut buffer).await?,
            Mode::Echo(_) => reader.read(&mut buffer).await?,
            Mode::Down(_) | Mode::Port(_) | Mode::Tail => CHUNK.min(usize::try_from(left).unwrap_or(CHUNK)),
        };
        ensure!(count > 0, "the client closed the connection");
        if !matches!(mode, Mode::Up(_)) {
            writer.write(&buffer[..count]).await?;
        }
        left = left.saturating_sub(count as u64);
    }
    done();
    close.await?;
    Ok(writer.close().await?)
}

/// Carries the connection to a port until one side closes.
async fn forward(mut reader: Input, mut writer: Output, port: u16) -> Result<()> {
    let target = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
    target.set_nodelay(true)?;
    let (mut input, mut output) = target.into_split();
    let up = async {
        let mut buffer = vec![0; CHUNK];
        loop {
            match reader.read(&mut buffer).await? {
                0 => return Ok::<_, anyhow::Error>(()),
                count => output.write_all(&buffer[..count]).await?,
            }
        }
    };
    let down = async {
        let mut buffer = vec![0; CHUNK];
        loop {
            match input.read(&mut buffer).await? {
                0 => return Ok(writer.close().await?),
                count => writer.write(&buffer[..count]).await?,
            }
        }
    };
    tokio::select! { result = up => result, result = down => result }
}
