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
const DRAIN_SILENCE: Duration = Duration::from_secs(5);
/// How long the relay is listened to after a failed write: a Close frame that is under way gives the reason.
const LAST_WORDS: Duration = Duration::from_secs(3);
/// How long the farewell may take: input already read, the Close frame, output already received.
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
    stop: impl Future<Output = Ending>,
) -> Ending
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
    let farewell = timeout(FAREWELL, bridge.farewell()).await;
    trace!(complete = farewell.is_ok(), "farewell");
    match ending {
        // ssh had closed its side, all of it was sent, and nothing more was to come.
        Ending::Broken(Broken::Closed(_) | Broken::Lost(_) | Broken::Unwritable(_))
            if !bridge.input_open && !bridge.answered && !bridge.relay.has_lost_input() =>
        {
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
    /// The relay's host, with its port unless that is 443.
    host: String,
    relay: WebSocket<S>,
    input: I,
    input_open: bool,
    output: O,
    unflushed: bool,
    /// Whether anything has arrived since the input ended.
    answered: bool,
    liveness: Liveness,
    silence: Pin<Box<Sleep>>,
    /// Whether something of ours kept the relay from being listened to.
    held_up: bool,
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
    fn new(Upgraded { relay, stream, beyond }: Upgraded<S>, input: I, output: O) -> Self {
        Self {
            host: relay,
            relay: WebSocket::new(stream, beyond),
            input,
            input_open: true,
            output,
            unflushed: false,
            answered: false,
            liveness: Liveness::new(),
            silence: Box::pin(sleep(DRAIN_SILENCE)),
            held_up: false,
            last_words: None,
            close_code: Some(NORMAL),
            closed: false,
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Ending> {
        if let Poll::Ready(ending) = self.poll_downstream(cx) {
            return Poll::Ready(self.with_write_error(ending));
        }
        if self.poll_pulse(cx).is_ready() {
            return Poll::Ready(Ending::Broken(Broken::Silent));
        }
        // An input that has nothing for now keeps a waker, as does a relay that takes nothing.
        let upstream = self.poll_upstream(cx);
        if let Poll::Ready(Err(error)) = upstream {
            return Poll::Ready(Ending::Broken(Broken::Input(error)));
        }
        if self.relay.is_unwritable() {
            ready!(self.poll_last_words(cx));
            return self.unwritable().map_or(Poll::Pending, Poll::Ready);
        }
        if !self.input_open && self.poll_silence(cx, upstream.is_pending()).is_ready() {
            return Poll::Ready(Ending::Finished);
        }
        Poll::Pending
    }

    /// Ready when the relay has kept silent for [`DRAIN_SILENCE`]. It is not silence while we have more to send, or do
    /// not read because the output takes nothing.
    fn poll_silence(&mut self, cx: &mut Context<'_>, sending: bool) -> Poll<()> {
        let held_up = sending || self.output_is_behind();
        if std::mem::replace(&mut self.held_up, held_up) || held_up {
            self.silence.as_mut().reset(Instant::now() + DRAIN_SILENCE);
        }
        self.silence.as_mut().poll(cx)
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
    fn with_write_error(&mut self, ending: Ending) -> Ending {
        match ending {
            Ending::Broken(Broken::Lost(_)) => self.unwritable().unwrap_or(ending),
            ending => ending,
        }
    }

    fn unwritable(&mut self) -> Option<Ending> {
        Some(Ending::Broken(Broken::Unwritable(self.relay.take_write_error()?)))
    }

    /// Relay to output, up to a turn's worth of messages.
    fn poll_downstream(&mut self, cx: &mut Context<'_>) -> Poll<Ending> {
        for _ in 0..TURN {
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
    fn receive(&mut self, event: Result<Event, ReadError>) -> Option<Ending> {
        match event {
            Ok(Event::Data) => {
                self.answered |= !self.input_open;
                self.held_up |= !self.input_open;
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
                    true => Ending::Finished,
                    false => Ending::Broken(Broken::Closed(close)),
                })
            }
            Err(ReadError::Io(error)) => Some(Ending::Broken(Broken::Lost(error))),
            Err(ReadError::Violation(violation)) => {
                (self.closed, self.close_code) = (true, Some(PROTOCOL_ERROR));
                Some(Ending::Broken(Broken::Violation { relay: self.host.clone(), violation }))
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
        for _ in 0..TURN {
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
        self.held_up = true;
    }

    /// What ssh wrote before it went, a Close frame, and what is still on its way out. The peer is not waited for.
    async fn farewell(&mut self) {
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
