//! Two byte streams carried over one WebSocket: ssh's input to the relay, the relay's messages to ssh's output.
//!
//! One task polls both directions without splitting the connection, which costs no lock and lets neither wait for the
//! other: input is read only while the relay takes it, the relay only while the output takes it. What is fed to the
//! relay is flushed once there is no more of it for the moment.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures_util::{Sink, SinkExt, Stream};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::{Instant, Interval, MissedTickBehavior, Sleep, interval_at, sleep, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_util::io::poll_read_buf;
use tracing::{debug, trace};

use crate::relay::connect::Upgraded;

/// The most bytes sent in one message. No limit is documented for WebSocket data; .NET's relay client sends as much.
const MAX_PAYLOAD: usize = 64 * 1024;
/// The largest message taken in. The relay documents no limit; beyond this no listener means well.
const MAX_MESSAGE: usize = 1 << 30;
/// The most bytes that wait for the relay to take them: some messages, and pongs where it only ever pings.
const MAX_UNSENT: usize = 4 * MAX_PAYLOAD;
/// How often a ping keeps the relay from taking the connection for idle: losses are reported after about 2 and after
/// about 4 minutes (aztunnel `bridge.go`; Azure/azure-relay issue 33). Whether pongs come is documented nowhere, so
/// that a missing one means nothing.
const PING_PERIOD: Duration = Duration::from_secs(30);
/// How long the relay may keep silent, while it is listened to, after ssh has closed its side and all of it was sent:
/// then the connection is taken to be over. A WebSocket cannot be half closed, and a Close frame would cut off what the
/// server still sends.
const DRAIN_SILENCE: Duration = Duration::from_secs(5);
/// How long the last words may take: input already read, the Close frame, output already received.
const FAREWELL: Duration = Duration::from_secs(1);
/// Messages moved in one direction before the other gets its turn.
const TURN: usize = 8;

/// How a bridge came to its end.
#[derive(Debug)]
pub(crate) enum Ending {
    /// In order: ssh closed its side or reads no more, or the machine closed the connection.
    Finished,
    /// A signal asked for it; its number.
    Signal(u8),
    /// Out of order, while ssh still wanted the connection.
    Broken(Broken),
}

/// Why a connection that ssh still wanted is no more.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Broken {
    /// The relay closed it, saying why.
    #[error("the relay closed the connection with code {} {:?}", u16::from(.0.code), .0.reason.as_str())]
    Closed(CloseFrame),
    /// The connection to the relay was lost.
    #[error("the connection to the relay was lost")]
    Lost(#[source] Error),
    /// What the machine sent cannot be handed on.
    #[error("standard output cannot be written")]
    Output(#[source] io::Error),
}

/// Carries bytes until one side is done or `stop` says so, and then says farewell to the relay in bounded time.
pub(crate) async fn run<S, I, O>(
    upgraded: Upgraded<S>,
    input: I,
    output: O,
    stop: impl Future<Output = Ending>,
) -> Ending
where
    S: AsyncRead + AsyncWrite + Unpin,
    I: AsyncRead + Unpin,
    O: AsyncWrite + Unpin,
{
    let mut bridge = Bridge::new(upgraded, input, output).await;
    let ending = tokio::select! {
        biased;
        ending = poll_fn(|cx| bridge.poll(cx)) => ending,
        ending = stop => ending,
    };
    debug!(?ending, "the bridge ends");
    let farewell = timeout(FAREWELL, bridge.farewell()).await;
    trace!(complete = farewell.is_ok(), "farewell");
    match ending {
        // ssh had closed its side, and nothing more was to come.
        Ending::Broken(Broken::Closed(_) | Broken::Lost(_)) if !bridge.input_open && !bridge.answered => {
            Ending::Finished
        }
        ending => ending,
    }
}

/// ssh that reads no more has gone; any other failure is one.
fn output_failed(error: io::Error) -> Ending {
    match error.kind() {
        io::ErrorKind::BrokenPipe => Ending::Finished,
        _ => Ending::Broken(Broken::Output(error)),
    }
}

struct Bridge<S, I, O> {
    relay: WebSocketStream<ReadSideTells<S>>,
    input: I,
    input_open: bool,
    read: BytesMut,
    /// A message that the relay had no room for.
    unsent: Option<Message>,
    output: O,
    arrived: Bytes,
    unflushed: bool,
    /// Whether anything has arrived since the input ended.
    answered: bool,
    ping: Interval,
    silence: Pin<Box<Sleep>>,
    /// Whether something of ours kept the relay from being listened to.
    held_up: bool,
}

impl<S, I, O> Bridge<S, I, O>
where
    S: AsyncRead + AsyncWrite + Unpin,
    I: AsyncRead + Unpin,
    O: AsyncWrite + Unpin,
{
    async fn new(Upgraded { stream, beyond }: Upgraded<S>, input: I, output: O) -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(MAX_PAYLOAD)
            .write_buffer_size(MAX_PAYLOAD)
            .max_write_buffer_size(MAX_UNSENT)
            .max_message_size(Some(MAX_MESSAGE))
            .max_frame_size(Some(MAX_MESSAGE));
        let stream = ReadSideTells { stream, write_failed: false };
        let mut ping = interval_at(Instant::now() + PING_PERIOD, PING_PERIOD);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            relay: WebSocketStream::from_partially_read(stream, beyond, Role::Client, Some(config)).await,
            input,
            input_open: true,
            read: BytesMut::with_capacity(MAX_PAYLOAD),
            unsent: None,
            output,
            arrived: Bytes::new(),
            unflushed: false,
            answered: false,
            ping,
            silence: Box::pin(sleep(DRAIN_SILENCE)),
            held_up: false,
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Ending> {
        if let Poll::Ready(ending) = self.poll_downstream(cx) {
            return Poll::Ready(ending);
        }
        self.poll_ping(cx);
        // An input that has nothing for now keeps a waker, as does a relay that takes nothing.
        let sending = self.poll_upstream(cx).is_pending();
        if !self.input_open && self.poll_silence(cx, sending).is_ready() {
            return Poll::Ready(Ending::Finished);
        }
        Poll::Pending
    }

    /// Ready when the relay has kept silent for [`DRAIN_SILENCE`]. It is not silence while we have more to send, or do
    /// not read because the output takes nothing.
    fn poll_silence(&mut self, cx: &mut Context<'_>, sending: bool) -> Poll<()> {
        let held_up = sending || self.unflushed || self.arrived.has_remaining();
        if std::mem::replace(&mut self.held_up, held_up) || held_up {
            self.silence.as_mut().reset(Instant::now() + DRAIN_SILENCE);
        }
        self.silence.as_mut().poll(cx)
    }

    /// Relay to output, up to a turn's worth of messages.
    fn poll_downstream(&mut self, cx: &mut Context<'_>) -> Poll<Ending> {
        for _ in 0..TURN {
            if let Err(error) = ready!(self.poll_write_out(cx)) {
                return Poll::Ready(output_failed(error));
            }
            let Poll::Ready(message) = Pin::new(&mut self.relay).poll_next(cx) else {
                return self.poll_flush_out(cx);
            };
            if let Some(ending) = self.receive(message) {
                return Poll::Ready(ending);
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// A buffering output holds the end of a burst until it is flushed.
    fn poll_flush_out(&mut self, cx: &mut Context<'_>) -> Poll<Ending> {
        if self.unflushed {
            if let Err(error) = ready!(Pin::new(&mut self.output).poll_flush(cx)) {
                return Poll::Ready(output_failed(error));
            }
            self.unflushed = false;
        }
        Poll::Pending
    }

    fn poll_write_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.arrived.has_remaining() {
            match ready!(Pin::new(&mut self.output).poll_write(cx, &self.arrived))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.arrived.advance(written),
            }
            self.unflushed = true;
        }
        Poll::Ready(Ok(()))
    }

    /// Takes in what the relay sent. Pings are answered by the WebSocket layer; the agent sends binary messages, and
    /// bytes are bytes whatever kind of message brings them.
    fn receive(&mut self, message: Option<Result<Message, Error>>) -> Option<Ending> {
        match message {
            Some(Ok(Message::Binary(bytes))) => self.arrived = bytes,
            Some(Ok(Message::Text(text))) => self.arrived = text.into(),
            Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => return None,
            Some(Ok(Message::Close(Some(frame)))) if frame.code != CloseCode::Normal => {
                return Some(Ending::Broken(Broken::Closed(frame)));
            }
            Some(Ok(Message::Close(_))) | None => return Some(Ending::Finished),
            Some(Err(error)) => return Some(Ending::Broken(Broken::Lost(error))),
        }
        self.answered |= !self.input_open;
        self.held_up |= !self.input_open;
        None
    }

    /// Input to relay, up to a turn's worth of messages, then one flush. Ready when nothing is left to do for now.
    fn poll_upstream(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        for _ in 0..TURN {
            if self.unsent.is_some() {
                ready!(self.poll_flush(cx));
            }
            if let Some(message) = self.unsent.take() {
                self.send(message);
                continue;
            }
            if !self.input_open {
                return self.poll_flush(cx);
            }
            if ready!(Pin::new(&mut self.relay).poll_ready(cx)).is_err() {
                return Poll::Ready(());
            }
            self.read.reserve(MAX_PAYLOAD);
            match poll_read_buf(Pin::new(&mut self.input), cx, &mut (&mut self.read).limit(MAX_PAYLOAD)) {
                Poll::Pending => return self.poll_flush(cx),
                Poll::Ready(Ok(0) | Err(_)) => self.end_input(),
                Poll::Ready(Ok(_)) => {
                    let bytes = self.read.split().freeze();
                    self.send(Message::Binary(bytes));
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn end_input(&mut self) {
        debug!("ssh closed its side");
        self.input_open = false;
        self.held_up = true;
    }

    fn poll_ping(&mut self, cx: &mut Context<'_>) {
        while self.ping.poll_tick(cx).is_ready() {
            // A relay that takes nothing for now is not idle, and needs no ping.
            if let Poll::Ready(Ok(())) = Pin::new(&mut self.relay).poll_ready(cx) {
                let _ = Pin::new(&mut self.relay).start_send(Message::Ping(Bytes::new()));
            }
        }
    }

    /// Feeds the relay. That it fails is learnt on the reading side; see [`ReadSideTells`].
    fn send(&mut self, message: Message) {
        match Pin::new(&mut self.relay).start_send(message) {
            Ok(()) => {}
            Err(Error::WriteBufferFull(message)) => self.unsent = Some(*message),
            Err(error) => debug!(%error, "the relay takes no more"),
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        Pin::new(&mut self.relay).poll_flush(cx).map(drop)
    }

    /// What ssh wrote before it went, a Close frame, and what is still on its way out. The peer is not waited for.
    async fn farewell(&mut self) {
        poll_fn(|cx| self.poll_upstream(cx)).await;
        let frame = CloseFrame { code: CloseCode::Normal, reason: Default::default() };
        let closed = self.relay.send(Message::Close(Some(frame))).await;
        trace!(?closed, "Close frame");
        let _ = self.output.flush().await;
        let _ = self.relay.get_mut().shutdown().await;
    }
}

/// A connection whose failed writes are told by its reading side alone.
///
/// When the relay closes, its Close frame lies ready to be read while writing already fails: the frame is the reason,
/// the failed write only its echo.
#[derive(Debug)]
struct ReadSideTells<S> {
    stream: S,
    write_failed: bool,
}

impl<S: AsyncRead + Unpin> AsyncRead for ReadSideTells<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> ReadSideTells<S> {
    fn unless_failed<T>(
        &mut self,
        instead: T,
        write: impl FnOnce(Pin<&mut S>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if self.write_failed {
            return Poll::Ready(Ok(instead));
        }
        Poll::Ready(match ready!(write(Pin::new(&mut self.stream))) {
            Ok(done) => Ok(done),
            Err(error) => {
                debug!(%error, "cannot write to the relay");
                self.write_failed = true;
                Ok(instead)
            }
        })
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for ReadSideTells<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.unless_failed(buf.len(), |stream| stream.poll_write(cx, buf))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.unless_failed((), |stream| stream.poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.unless_failed((), |stream| stream.poll_shutdown(cx))
    }
}

#[cfg(test)]
mod tests;
