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

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, Sleep, sleep, timeout};
use tracing::{debug, trace};

use crate::relay::frame::{NORMAL, PROTOCOL_ERROR, PeerClose, Violation};
use crate::relay::handshake::Upgraded;
use crate::relay::liveness::{Liveness, MISSED_PINGS, Pulse, Relay};
use crate::relay::websocket::{Event, ReadError, WebSocket};

/// How long the relay may keep silent, while it is listened to, after ssh has closed its side and all of it was sent:
/// then the connection is taken to be over. A WebSocket cannot be half closed, and a Close frame would cut off what the
/// server still sends.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the relay is listened to after a failed write: a Close frame that is under way gives the reason.
const LAST_WORDS: Duration = Duration::from_secs(3);
/// How long the farewell may take: input already read, the Close frame, output already received.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// Messages moved in one direction before the other gets its turn.
const MESSAGES_PER_POLL: usize = 8;

/// How a bridge came to its end.
#[derive(Debug)]
pub(crate) enum BridgeEnd {
    /// In order: ssh closed its side or reads no more, or the machine closed the connection.
    Finished,
    /// A signal asked for it; its number.
    Signal(u8),
    /// Out of order, while ssh still wanted the connection.
    Broken(BridgeError),
}

/// Why a connection that ssh still wanted is no more.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BridgeError {
    /// The relay closed it, saying why.
    #[error("the relay closed the connection {0}")]
    Closed(PeerClose),
    /// The connection to the relay was lost.
    #[error("the connection to the relay was lost")]
    Lost(#[source] io::Error),
    /// Input can no longer be sent to the relay, which has not said why.
    #[error("the relay cannot be written to")]
    Unwritable(#[source] io::Error),
    /// The relay answered pings and no longer does.
    #[error("the relay no longer answers: {MISSED_PINGS} pings are unanswered")]
    Silent,
    /// The relay does not speak the WebSocket protocol.
    #[error("the relay broke the WebSocket protocol: {violation}")]
    Violation {
        /// The relay's host, with its port unless that is 443.
        relay: String,
        /// What it broke.
        violation: Violation,
    },
    /// What ssh writes cannot be read.
    #[error("standard input cannot be read")]
    Input(#[source] io::Error),
    /// What the machine sent cannot be handed on.
    #[error("standard output cannot be written")]
    Output(#[source] io::Error),
}

/// Carries bytes until one side is done or `stop` says so, and then says farewell to the relay in bounded time.
pub(crate) async fn run<S, I, O>(
    upgraded: Upgraded<S>,
    input: I,
    output: O,
    stop: impl Future<Output = BridgeEnd>,
) -> BridgeEnd
where
    S: AsyncRead + AsyncWrite + Unpin,
    I: AsyncRead + Unpin,
    O: AsyncWrite + Unpin,
{
    let mut bridge = Bridge::new(upgraded, input, output);
    let ending = tokio::select! {
        biased;
        ending = poll_fn(|cx| bridge.poll(cx)) => ending,
        ending = stop => ending,
    };
    debug!(?ending, "the bridge ends");
    let close = timeout(CLOSE_TIMEOUT, bridge.close()).await;
    trace!(complete = close.is_ok(), "farewell");
    match ending {
        // ssh had closed its side, all of it was sent, and nothing more was to come.
        BridgeEnd::Broken(BridgeError::Closed(_) | BridgeError::Lost(_) | BridgeError::Unwritable(_))
            if !bridge.input_open && !bridge.received_after_eof && !bridge.relay.has_lost_input() =>
        {
            BridgeEnd::Finished
        }
        ending => ending,
    }
}

/// ssh that reads no more has gone; any other failure is one.
fn output_failed(error: io::Error) -> BridgeEnd {
    match error.kind() {
        io::ErrorKind::BrokenPipe => BridgeEnd::Finished,
        _ => BridgeEnd::Broken(BridgeError::Output(error)),
    }
}

struct Bridge<S, I, O> {
    /// The relay's host, with its port unless that is 443.
    host: String,
    relay: WebSocket<S>,
    input: I,
    input_open: bool,
    output: O,
    unflushed: bool,
    /// Whether anything has arrived since the input ended.
    received_after_eof: bool,
    liveness: Liveness,
    drain_timer: Pin<Box<Sleep>>,
    /// Whether something of ours kept the relay from being listened to.
    stalled: bool,
    /// The time for a Close frame, after a failed write.
    last_words: Option<Pin<Box<Sleep>>>,
    /// The code of our Close frame, which has none if the relay's had none.
    close_code: Option<u16>,
    /// Whether the relay has closed the connection or broken the protocol: it wants no more input.
    closed: bool,
}

impl<S, I, O> Bridge<S, I, O>
where
    S: AsyncRead + AsyncWrite + Unpin,
    I: AsyncRead + Unpin,
    O: AsyncWrite + Unpin,
{
    fn new(Upgraded { relay, stream, read_ahead }: Upgraded<S>, input: I, output: O) -> Self {
        Self {
            host: relay,
            relay: WebSocket::new(stream, read_ahead),
            input,
            input_open: true,
            output,
            unflushed: false,
            received_after_eof: false,
            liveness: Liveness::new(),
            drain_timer: Box::pin(sleep(DRAIN_TIMEOUT)),
            stalled: false,
            last_words: None,
            close_code: Some(NORMAL),
            closed: false,
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<BridgeEnd> {
        if let Poll::Ready(ending) = self.poll_downstream(cx) {
            return Poll::Ready(self.with_write_error(ending));
        }
        if self.poll_pulse(cx).is_ready() {
            return Poll::Ready(BridgeEnd::Broken(BridgeError::Silent));
        }
        // An input that has nothing for now keeps a waker, as does a relay that takes nothing.
        let upstream = self.poll_upstream(cx);
        if let Poll::Ready(Err(error)) = upstream {
            return Poll::Ready(BridgeEnd::Broken(BridgeError::Input(error)));
        }
        if self.relay.is_unwritable() {
            ready!(self.poll_last_words(cx));
            return self.unwritable().map_or(Poll::Pending, Poll::Ready);
        }
        if !self.input_open && self.poll_drain(cx, upstream.is_pending()).is_ready() {
            return Poll::Ready(BridgeEnd::Finished);
        }
        Poll::Pending
    }

    /// Ready when the relay has kept silent for [`DRAIN_TIMEOUT`]. It is not silence while we have more to send, or do
    /// not read because the output takes nothing.
    fn poll_drain(&mut self, cx: &mut Context<'_>, sending: bool) -> Poll<()> {
        let stalled = sending || self.output_is_behind();
        if std::mem::replace(&mut self.stalled, stalled) || stalled {
            self.drain_timer.as_mut().reset(Instant::now() + DRAIN_TIMEOUT);
        }
        self.drain_timer.as_mut().poll(cx)
    }

    fn output_is_behind(&self) -> bool {
        self.unflushed || !self.relay.payload().is_empty()
    }

    /// Ready when no Close frame has come in [`LAST_WORDS`] after a failed write. The time stands still while the output
    /// takes nothing: a Close frame may wait behind that.
    fn poll_last_words(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let behind = self.output_is_behind();
        let time = self.last_words.get_or_insert_with(|| Box::pin(sleep(LAST_WORDS)));
        if behind {
            time.as_mut().reset(Instant::now() + LAST_WORDS);
        }
        time.as_mut().poll(cx)
    }

    /// A write that failed before the connection was lost is the reason; a Close frame is a better one.
    fn with_write_error(&mut self, ending: BridgeEnd) -> BridgeEnd {
        match ending {
            BridgeEnd::Broken(BridgeError::Lost(_)) => self.unwritable().unwrap_or(ending),
            ending => ending,
        }
    }

    fn unwritable(&mut self) -> Option<BridgeEnd> {
        Some(BridgeEnd::Broken(BridgeError::Unwritable(self.relay.take_write_error()?)))
    }

    /// Relay to output, up to a turn's worth of messages.
    fn poll_downstream(&mut self, cx: &mut Context<'_>) -> Poll<BridgeEnd> {
        for _ in 0..MESSAGES_PER_POLL {
            if let Err(error) = ready!(self.poll_write_out(cx)) {
                return Poll::Ready(output_failed(error));
            }
            let Poll::Ready(event) = self.relay.poll_next(cx) else {
                return self.poll_flush_out(cx);
            };
            if let Some(ending) = self.receive(event) {
                return Poll::Ready(ending);
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// A buffering output holds the end of a burst until it is flushed.
    fn poll_flush_out(&mut self, cx: &mut Context<'_>) -> Poll<BridgeEnd> {
        if self.unflushed {
            if let Err(error) = ready!(Pin::new(&mut self.output).poll_flush(cx)) {
                return Poll::Ready(output_failed(error));
            }
            self.unflushed = false;
        }
        Poll::Pending
    }

    fn poll_write_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.relay.payload().is_empty() {
            match ready!(Pin::new(&mut self.output).poll_write(cx, self.relay.payload()))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.relay.consume(written),
            }
            self.unflushed = true;
        }
        Poll::Ready(Ok(()))
    }

    /// Takes what the relay sent, and notes how its end is answered.
    fn receive(&mut self, event: Result<Event, ReadError>) -> Option<BridgeEnd> {
        match event {
            Ok(Event::Data) => {
                self.received_after_eof |= !self.input_open;
                self.stalled |= !self.input_open;
                None
            }
            Ok(Event::Pong(payload)) => {
                self.liveness.pong(&payload);
                None
            }
            Ok(Event::Other) => None,
            Ok(Event::Close(close)) => {
                (self.closed, self.close_code) = (true, close.reply());
                Some(match close.is_normal() {
                    true => BridgeEnd::Finished,
                    false => BridgeEnd::Broken(BridgeError::Closed(close)),
                })
            }
            Err(ReadError::Io(error)) => Some(BridgeEnd::Broken(BridgeError::Lost(error))),
            Err(ReadError::Violation(violation)) => {
                (self.closed, self.close_code) = (true, Some(PROTOCOL_ERROR));
                Some(BridgeEnd::Broken(BridgeError::Violation { relay: self.host.clone(), violation }))
            }
        }
    }

    /// Ready when the relay is taken to be gone; sends the pings that are due.
    fn poll_pulse(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let relay = match (self.relay.take_heard(), self.output_is_behind() || self.relay.is_stuck()) {
            (true, _) => Relay::Heard,
            (false, true) => Relay::HeldUp,
            (false, false) => Relay::Quiet,
        };
        match ready!(self.liveness.poll(cx, relay)) {
            Pulse::Stopped => Poll::Ready(()),
            Pulse::Ping(number) => {
                self.relay.ping(&number);
                Poll::Pending
            }
        }
    }

    /// Input to relay, up to a turn's worth of messages, then one flush. Ready when nothing is left to do for now.
    fn poll_upstream(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        for _ in 0..MESSAGES_PER_POLL {
            if !self.input_open || self.relay.is_unwritable() {
                return self.relay.poll_flush(cx).map(Ok);
            }
            match self.relay.poll_send_from(cx, Pin::new(&mut self.input)) {
                Poll::Pending => return self.relay.poll_flush(cx).map(Ok),
                Poll::Ready(Ok(0)) => self.end_input(),
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn end_input(&mut self) {
        debug!("ssh closed its side");
        self.input_open = false;
        self.stalled = true;
    }

    /// What ssh wrote before it went, a Close frame, and what is still on its way out. The peer is not waited for.
    async fn close(&mut self) {
        // A relay that has closed waits for the Close frame: one turn shows whether ssh has closed its side too.
        let closed = self.closed;
        poll_fn(|cx| match self.poll_upstream(cx) {
            Poll::Pending if !closed => Poll::Pending,
            _ => Poll::Ready(()),
        })
        .await;
        self.relay.close(self.close_code).await;
        let _ = self.output.flush().await;
        self.relay.shutdown().await;
    }
}

#[cfg(test)]
mod tests;
