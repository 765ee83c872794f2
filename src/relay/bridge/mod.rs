//! Two byte streams carried over one WebSocket: ssh's input to the relay, the relay's messages to ssh's output.
//!
//! One task polls both directions without splitting the connection, so it needs no lock, and neither direction blocks the
//! other. It reads input only while the relay accepts data, and the relay only while the output accepts data. It collects
//! messages while there is more input, and writes them together.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::{Instant, Sleep, sleep, timeout};
use tracing::{debug, trace};

use crate::relay::frame::{NORMAL, PROTOCOL_ERROR, PeerClose, Violation};
use crate::relay::greeting::{ByMachine, Greeting, NotSsh};
use crate::relay::handshake::Upgraded;
use crate::relay::liveness::{Liveness, MISSED_PINGS, Pulse, Traffic};
use crate::relay::websocket::{Event, ReadError, WebSocket};

/// The silence of the relay after which the connection ends, if ssh has closed its side and all input was sent. A WebSocket
/// cannot be half-closed, and a Close frame would cut off data that the server still sends.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
/// The time for which the bridge reads after a failed write: a Close frame that arrives contains the reason.
const CLOSE_FRAME_TIMEOUT: Duration = Duration::from_secs(3);
/// The time limit for the first input if the machine has closed the connection before it.
const FIRST_INPUT_TIMEOUT: Duration = Duration::from_secs(1);
/// The time limit for closing: sending the input that was read and the Close frame, and writing the received output.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// The number of messages in one direction before the bridge polls the other.
const MESSAGES_PER_POLL: usize = 8;

/// The end of a bridge.
#[derive(Debug)]
pub(crate) enum BridgeEnd {
    /// Normal: ssh closed its side or its output, or the machine closed the connection.
    Finished,
    /// A signal, with its number.
    Signal(u8),
    /// An error, while ssh still used the connection.
    Broken(BridgeError),
}

/// The error that ended a connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BridgeError {
    /// The relay closed the connection with a Close frame.
    #[error("the relay closed the connection {0}")]
    Closed(PeerClose),
    /// The connection to the relay was lost.
    #[error("the connection to the relay was lost")]
    Lost(#[source] io::Error),
    /// Writing to the relay failed, and there was no Close frame.
    #[error("cannot send to the relay")]
    NotSent(#[source] io::Error),
    /// The relay no longer responds to pings.
    #[error("the relay no longer responds: {MISSED_PINGS} pings are unanswered")]
    Silent,
    /// The relay violated the WebSocket protocol.
    #[error("the relay violated the WebSocket protocol: {violation}")]
    Violation {
        /// The relay's host, with its port unless that is 443.
        relay: String,
        violation: Violation,
    },
    /// ssh received no identification of an SSH server.
    #[error("no SSH server responds: {0}")]
    NotSsh(NotSsh),
    /// Reading from ssh failed.
    #[error("cannot read standard input")]
    Input(#[source] io::Error),
    /// Writing to ssh failed.
    #[error("cannot write to standard output")]
    Output(#[source] io::Error),
}

/// Carries bytes until one side ends or `stop` resolves, and then closes the connection in limited time.
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
    let end = tokio::select! {
        biased;
        end = poll_fn(|cx| bridge.poll(cx)) => end,
        end = stop => end,
    };
    debug!(?end, "closing the bridge");
    let close = timeout(CLOSE_TIMEOUT, bridge.close()).await;
    trace!(complete = close.is_ok(), "closed the bridge");
    let is_ssh = bridge.is_client_ssh().await;
    if let Some(failure) = bridge.greeting_failure(is_ssh, &end) {
        return BridgeEnd::Broken(BridgeError::NotSsh(failure));
    }
    match end {
        // ssh had closed its side, and all input was sent.
        BridgeEnd::Broken(BridgeError::Closed(_) | BridgeError::Lost(_) | BridgeError::NotSent(_))
            if !bridge.input_open && !bridge.received_after_eof && !bridge.relay.has_lost_input() =>
        {
            BridgeEnd::Finished
        }
        end => end,
    }
}

/// Returns the end after a failed write to ssh. If ssh has closed its output, that is not an error.
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
    /// Whether data has arrived since the end of input.
    received_after_eof: bool,
    /// The machine's first bytes, until they contain an SSH identification.
    greeting: Option<Greeting>,
    liveness: Liveness,
    drain_timer: Pin<Box<Sleep>>,
    /// Whether the bridge did not read from the relay.
    stalled: bool,
    /// The timer for a Close frame after a failed write.
    close_frame_timer: Option<Pin<Box<Sleep>>>,
    /// The code of our Close frame; `None` if the relay's Close frame had none.
    close_code: Option<u16>,
    /// Whether the relay has closed the connection or violated the protocol, so that it needs no more input.
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
            relay: WebSocket::new(stream, &read_ahead),
            input,
            input_open: true,
            output,
            unflushed: false,
            received_after_eof: false,
            greeting: Some(Greeting::new()),
            liveness: Liveness::new(),
            drain_timer: Box::pin(sleep(DRAIN_TIMEOUT)),
            stalled: false,
            close_frame_timer: None,
            close_code: Some(NORMAL),
            closed: false,
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<BridgeEnd> {
        if let Poll::Ready(end) = self.poll_downstream(cx) {
            return Poll::Ready(self.with_write_error(end));
        }
        if self.poll_pulse(cx).is_ready() {
            return Poll::Ready(BridgeEnd::Broken(BridgeError::Silent));
        }
        // A pending input or relay has registered the waker.
        let upstream = self.poll_upstream(cx);
        if let Poll::Ready(Err(error)) = upstream {
            return Poll::Ready(BridgeEnd::Broken(BridgeError::Input(error)));
        }
        if self.relay.is_unwritable() {
            ready!(self.poll_close_frame(cx));
            return self.unwritable().map_or(Poll::Pending, Poll::Ready);
        }
        if !self.input_open && self.poll_drain(cx, upstream.is_pending()).is_ready() {
            return Poll::Ready(BridgeEnd::Finished);
        }
        Poll::Pending
    }

    /// Ready when the relay was silent for [`DRAIN_TIMEOUT`]. The timer restarts while the bridge still sends, or does not read
    /// because the output is blocked.
    fn poll_drain(&mut self, cx: &mut Context<'_>, sending: bool) -> Poll<()> {
        let stalled = sending || self.is_output_pending();
        if std::mem::replace(&mut self.stalled, stalled) || stalled {
            self.drain_timer.as_mut().reset(Instant::now() + DRAIN_TIMEOUT);
        }
        self.drain_timer.as_mut().poll(cx)
    }

    fn is_output_pending(&self) -> bool {
        self.unflushed || !self.relay.payload().is_empty()
    }

    /// Ready when [`CLOSE_FRAME_TIMEOUT`] has passed since a failed write. The timer restarts while the output is blocked, because
    /// a Close frame can wait behind that data.
    fn poll_close_frame(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let is_pending = self.is_output_pending();
        let timer = self.close_frame_timer.get_or_insert_with(|| Box::pin(sleep(CLOSE_FRAME_TIMEOUT)));
        if is_pending {
            timer.as_mut().reset(Instant::now() + CLOSE_FRAME_TIMEOUT);
        }
        timer.as_mut().poll(cx)
    }

    /// Returns an earlier write error in place of a lost connection. A Close frame takes precedence over both.
    fn with_write_error(&mut self, end: BridgeEnd) -> BridgeEnd {
        match end {
            BridgeEnd::Broken(BridgeError::Lost(_)) => self.unwritable().unwrap_or(end),
            end => end,
        }
    }

    fn unwritable(&mut self) -> Option<BridgeEnd> {
        Some(BridgeEnd::Broken(BridgeError::NotSent(self.relay.take_write_error()?)))
    }

    /// Moves up to [`MESSAGES_PER_POLL`] messages from the relay to the output.
    fn poll_downstream(&mut self, cx: &mut Context<'_>) -> Poll<BridgeEnd> {
        for _ in 0..MESSAGES_PER_POLL {
            if let Err(error) = ready!(self.poll_write_out(cx)) {
                return Poll::Ready(output_failed(error));
            }
            let Poll::Ready(event) = self.relay.poll_next(cx) else {
                return self.poll_flush_out(cx);
            };
            if let Some(end) = self.receive(event) {
                return Poll::Ready(end);
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Flushes the output, which can be buffered.
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

    /// Processes an event of the relay, and sets the code of our Close frame.
    fn receive(&mut self, event: Result<Event, ReadError>) -> Option<BridgeEnd> {
        match event {
            Ok(Event::Data) => {
                self.received_after_eof |= !self.input_open;
                self.stalled |= !self.input_open;
                let payload = self.relay.payload();
                self.greeting.take_if(|greeting| greeting.is_complete_with(payload));
                None
            }
            Ok(Event::Pong(payload)) => {
                self.liveness.pong(&payload);
                None
            }
            Ok(Event::Other) => None,
            Ok(Event::Close(close)) => {
                (self.closed, self.close_code) = (true, close.reply());
                let is_normal = close.is_normal();
                Some(if is_normal {
                    BridgeEnd::Finished
                } else {
                    BridgeEnd::Broken(BridgeError::Closed(close))
                })
            }
            Err(ReadError::Io(error)) => Some(BridgeEnd::Broken(BridgeError::Lost(error))),
            Err(ReadError::Violation(violation)) => {
                (self.closed, self.close_code) = (true, Some(PROTOCOL_ERROR));
                Some(BridgeEnd::Broken(BridgeError::Violation { relay: self.host.clone(), violation }))
            }
        }
    }

    /// Returns whether the client is ssh; `None` if it has sent nothing. Waits for its first bytes if the machine has closed the
    /// connection before them. Call this after [`Self::close`]: nothing may follow the Close frame (RFC 6455, section 5.5.1).
    async fn is_client_ssh(&mut self) -> Option<bool> {
        let known = self.relay.is_input_ssh();
        if known.is_some() || self.greeting.is_none() || !(self.closed && self.input_open) {
            return known;
        }
        let mut first = [0; 4];
        let read = timeout(FIRST_INPUT_TIMEOUT, self.input.read_exact(&mut first)).await;
        read.ok()?.ok().map(|_| first == *b"SSH-")
    }

    /// Returns why ssh received no identification of an SSH server.
    fn greeting_failure(&self, is_ssh: Option<bool>, end: &BridgeEnd) -> Option<NotSsh> {
        let greeting = self.greeting.as_ref()?;
        let by = match end {
            BridgeEnd::Finished if self.closed && self.input_open => ByMachine::Closed,
            _ => ByMachine::Open,
        };
        let failure = greeting.failure(is_ssh, by);
        // The reason of a lost connection says more than silence.
        failure.filter(|failure| !matches!((failure, end), (NotSsh::Silent(_), BridgeEnd::Broken(_))))
    }

    /// Ready when the relay is gone. Sends the pings that are due.
    fn poll_pulse(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let traffic = match (self.relay.take_received(), self.is_output_pending() || self.relay.is_stuck()) {
            (true, _) => Traffic::Received,
            (false, true) => Traffic::Blocked,
            (false, false) => Traffic::None,
        };
        match ready!(self.liveness.poll(cx, traffic)) {
            Pulse::Stopped => Poll::Ready(()),
            Pulse::Ping(number) => {
                self.relay.ping(&number);
                Poll::Pending
            }
        }
    }

    /// Moves up to [`MESSAGES_PER_POLL`] messages from the input to the relay, and flushes once. Ready when it has nothing left
    /// to do.
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
        debug!("end of input");
        self.input_open = false;
        self.stalled = true;
    }

    /// Sends the remaining input and a Close frame, and flushes the output. Does not wait for the relay.
    async fn close(&mut self) {
        // If the relay has closed, it waits for the Close frame. One poll shows whether ssh has closed its side too.
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
