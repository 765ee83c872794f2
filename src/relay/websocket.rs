//! The client's side of a WebSocket (RFC 6455) that has been upgraded: payload is handed on as it arrives, input is
//! read straight into frames. Two buffers of fixed size are all the memory that it uses, whatever the relay sends.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use ring::rand::{SecureRandom, SystemRandom};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tracing::debug;

use crate::relay::frame::{
    self, Decoder, MAX_CONTROL, MAX_HEADER, MAX_PAYLOAD, Opcode, PeerClose, Violation,
};

/// Bytes that are read before they are handed on.
const READ_BUFFER: usize = 64 * 1024;
/// No data is added to as many bytes as this: they are written first.
const WRITE_FIRST: usize = 64 * 1024;
/// Room for the longest frame on top of that, and for some control frames.
const WRITE_BUFFER: usize = WRITE_FIRST + MAX_HEADER + MAX_PAYLOAD + 4096;

/// What the relay sent.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// Bytes for the output: [`WebSocket::payload`].
    Data,
    /// A ping, which is answered, or nothing that matters.
    Other,
    /// The payload of a pong.
    Pong(Vec<u8>),
    /// A Close frame. What comes after it does not matter.
    Close(PeerClose),
}

/// Why nothing more can be read.
#[derive(Debug)]
pub(crate) enum ReadError {
    /// The connection failed, or ended without a Close frame.
    Io(io::Error),
    /// The relay broke the protocol.
    Violation(Violation),
}

/// A WebSocket over `S`.
///
/// A failed write is not returned by the call that it befell, and later writes do nothing: when the relay closes, its
/// Close frame lies ready to be read while writing already fails, and the frame is the reason. See
/// [`WebSocket::take_write_error`].
pub(crate) struct WebSocket<S> {
    stream: S,
    decoder: Decoder,
    received: Buffer,
    /// Bytes at the start of `received` that are payload for the output.
    payload: usize,
    /// The end of the reading side, which is reported after what was read before it.
    read_end: Option<io::Error>,
    heard: bool,
    unsent: Buffer,
    /// Whether `unsent`, or what the stream buffers, holds input of ssh.
    holds_input: bool,
    unflushed: bool,
    /// The answer to the last ping, if there was no room for it.
    late_pong: Option<Vec<u8>>,
    keys: Keys,
    write_error: Option<io::Error>,
    lost_input: bool,
}

impl<S> WebSocket<S>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    /// A WebSocket whose first bytes have been read with the answer to the upgrade.
    pub(crate) fn new(stream: S, read_ahead: Vec<u8>) -> Self {
        Self {
            stream,
            decoder: Decoder::default(),
            received: Buffer::holding(read_ahead, READ_BUFFER),
            payload: 0,
            read_end: None,
            heard: false,
            unsent: Buffer::holding(Vec::new(), WRITE_BUFFER),
            holds_input: false,
            unflushed: false,
            late_pong: None,
            keys: Keys::default(),
            write_error: None,
            lost_input: false,
        }
    }

    /// Returns the bytes for the output that have arrived and were not consumed.
    pub(crate) fn payload(&self) -> &[u8] {
        &self.received.filled()[..self.payload]
    }

    /// Removes the first bytes of the payload.
    pub(crate) fn consume(&mut self, count: usize) {
        self.received.consume(count);
        self.payload -= count;
    }

    /// Returns whether anything has arrived since the last call.
    pub(crate) fn take_heard(&mut self) -> bool {
        std::mem::take(&mut self.heard)
    }

    /// Returns whether a write has failed. Nothing is written any more.
    pub(crate) fn is_unwritable(&self) -> bool {
        self.write_error.is_some()
    }

    /// Takes the error of the first failed write.
    pub(crate) fn take_write_error(&mut self) -> Option<io::Error> {
        self.write_error.take()
    }

    /// Returns whether a failed write took input of ssh with it.
    pub(crate) fn has_lost_input(&self) -> bool {
        self.lost_input
    }

    /// Returns what comes next. All payload must have been consumed.
    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Event, ReadError>> {
        loop {
            let piece = self.decoder.decode(self.received.filled()).map_err(ReadError::Violation)?;
            let Some(piece) = piece else {
                ready!(self.poll_receive(cx)).map_err(ReadError::Io)?;
                continue;
            };
            self.received.consume(piece.header);
            if piece.opcode == Opcode::Data {
                self.payload = piece.payload;
                return Poll::Ready(Ok(if piece.payload > 0 { Event::Data } else { Event::Other }));
            }
            let payload = self.received.filled()[..piece.payload].to_vec();
            self.received.consume(piece.payload);
            return Poll::Ready(Ok(match piece.opcode {
                Opcode::Close => Event::Close(PeerClose::parse(&payload)),
                Opcode::Pong => Event::Pong(payload),
                Opcode::Ping | Opcode::Data => {
                    self.pong(payload);
                    Event::Other
                }
            }));
        }
    }

    /// Reads until the buffer is full or nothing more is there for now, so that the output is written in large pieces.
    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(end) = self.read_end.take() {
            return Poll::Ready(Err(end));
        }
        let room = self.received.room();
        let mut buffer = ReadBuf::new(room);
        while buffer.remaining() > 0 {
            let before = buffer.filled().len();
            let read = match Pin::new(&mut self.stream).poll_read(cx, &mut buffer) {
                Poll::Pending => break,
                Poll::Ready(Ok(())) if buffer.filled().len() == before => Err(closed_without_close_frame()),
                Poll::Ready(read) => read,
            };
            if let Err(end) = read {
                self.read_end = Some(end);
                break;
            }
        }
        let count = buffer.filled().len();
        self.received.fill(count);
        match (count, self.read_end.take()) {
            (0, None) => Poll::Pending,
            (0, Some(end)) => Poll::Ready(Err(end)),
            (_, end) => {
                (self.read_end, self.heard) = (end, true);
                Poll::Ready(Ok(()))
            }
        }
    }

    /// Answers a ping. If the relay takes nothing, only the last of its pings is answered (RFC 6455, section 5.5.3).
    fn pong(&mut self, payload: Vec<u8>) {
        self.late_pong = (!self.control(Opcode::Pong, &payload)).then_some(payload);
    }

    /// Queues a ping, unless bytes wait for the relay already.
    pub(crate) fn ping(&mut self, payload: &[u8]) {
        self.control(Opcode::Ping, payload);
    }

    /// Sends a Close frame after what is queued.
    pub(crate) async fn close(&mut self, code: Option<u16>) {
        std::future::poll_fn(|cx| self.poll_drain(cx)).await;
        let payload = code.map(u16::to_be_bytes);
        self.control(Opcode::Close, payload.as_ref().map_or(&[], |code| code.as_slice()));
        std::future::poll_fn(|cx| self.poll_flush(cx)).await;
    }

    /// Ends the stream after the Close frame.
    pub(crate) async fn shutdown(&mut self) {
        if self.write_error.is_none() {
            let _ = self.stream.shutdown().await;
        }
    }

    /// Returns whether there was room for a control frame.
    fn control(&mut self, opcode: Opcode, payload: &[u8]) -> bool {
        let room = self.unsent.room();
        let length = MAX_HEADER + payload.len();
        if payload.len() > MAX_CONTROL || room.len() < length {
            return false;
        }
        room[MAX_HEADER..length].copy_from_slice(payload);
        self.seal(opcode, length);
        true
    }

    /// Returns whether the relay takes no bytes although some wait for it.
    pub(crate) fn is_stuck(&self) -> bool {
        !self.unsent.filled().is_empty()
    }

    /// Reads from `input` straight into the next frame; the number of bytes that were read, 0 at the end of input.
    /// Pending as well while the relay takes nothing.
    ///
    /// # Errors
    /// Those of `input`.
    pub(crate) fn poll_send_from(
        &mut self,
        cx: &mut Context<'_>,
        input: Pin<&mut impl AsyncRead>,
    ) -> Poll<io::Result<usize>> {
        if self.unsent.filled().len() >= WRITE_FIRST || self.unsent.room().len() < MAX_HEADER + MAX_PAYLOAD {
            ready!(self.poll_drain(cx));
        }
        let mut payload = ReadBuf::new(&mut self.unsent.room()[MAX_HEADER..MAX_HEADER + MAX_PAYLOAD]);
        ready!(input.poll_read(cx, &mut payload))?;
        let count = payload.filled().len();
        if count > 0 {
            self.holds_input = true;
            self.seal(Opcode::Data, MAX_HEADER + count);
        }
        Poll::Ready(Ok(count))
    }

    /// Makes a frame of the first bytes after those that are queued.
    fn seal(&mut self, opcode: Opcode, length: usize) {
        let key = self.keys.next();
        if key.is_none() {
            self.fail(io::Error::other("the system gives no random numbers"));
        }
        let Some(key) = key.filter(|_| self.write_error.is_none()) else {
            self.lost_input |= self.holds_input;
            return;
        };
        let length = frame::seal(&mut self.unsent.room()[..length], opcode, key);
        self.unsent.fill(length);
    }

    /// Writes all that is queued, and flushes the stream.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        ready!(self.poll_drain(cx));
        if let Some(payload) = self.late_pong.take() {
            self.control(Opcode::Pong, &payload);
            ready!(self.poll_drain(cx));
        }
        if self.unflushed && self.write_error.is_none() {
            match ready!(Pin::new(&mut self.stream).poll_flush(cx)) {
                Ok(()) => (self.unflushed, self.holds_input) = (false, false),
                Err(error) => self.fail(error),
            }
        }
        Poll::Ready(())
    }

    /// Writes all that is queued; the stream may still buffer it.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while !self.unsent.filled().is_empty() {
            match ready!(Pin::new(&mut self.stream).poll_write(cx, self.unsent.filled())) {
                Ok(0) => self.fail(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    self.unsent.consume(count);
                    self.unflushed = true;
                }
                Err(error) => self.fail(error),
            }
        }
        Poll::Ready(())
    }

    fn fail(&mut self, error: io::Error) {
        debug!(%error, "cannot write to the relay");
        self.unsent.clear();
        self.write_error.get_or_insert(error);
        self.lost_input |= self.holds_input;
    }
}

fn closed_without_close_frame() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the connection was closed")
}

/// A new masking key for each frame, which cannot be predicted (RFC 6455, sections 5.3 and 10.3). The system is asked for
/// many at once.
#[derive(Default)]
struct Keys {
    left: Vec<[u8; 4]>,
}

impl Keys {
    /// As much as getrandom(2) returns without an interruption.
    const AT_ONCE: usize = 64;

    /// Returns `None` if the system provides no random numbers.
    fn next(&mut self) -> Option<[u8; 4]> {
        if self.left.is_empty() {
            let mut keys = [[0; 4]; Self::AT_ONCE];
            SystemRandom::new().fill(keys.as_flattened_mut()).ok()?;
            self.left.extend(keys);
        }
        self.left.pop()
    }
}

/// Bytes that are added at the end and taken from the start.
struct Buffer {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl Buffer {
    /// A buffer with these bytes in it, and room for `size` bytes in all.
    fn holding(mut bytes: Vec<u8>, size: usize) -> Self {
        let end = bytes.len();
        bytes.resize(size.max(end), 0);
        Self { bytes, start: 0, end }
    }

    fn filled(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    /// The room behind the bytes, all of it: what is left of them moves to the start if it is little.
    fn room(&mut self) -> &mut [u8] {
        const LITTLE: usize = 256;
        if self.start > 0 && self.end - self.start <= LITTLE {
            self.bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        &mut self.bytes[self.end..]
    }

    fn fill(&mut self, count: usize) {
        self.end += count;
    }

    fn consume(&mut self, count: usize) {
        self.start += count;
        if self.start == self.end {
            self.clear();
        }
    }

    fn clear(&mut self) {
        (self.start, self.end) = (0, 0);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn each_frame_has_a_masking_key_of_its_own() {
        let mut keys = Keys::default();
        let drawn: HashSet<_> = (0..20 * Keys::AT_ONCE).map(|_| keys.next().unwrap()).collect();
        // Two of so many are alike once in 5000 runs; three once in some millions.
        assert!(drawn.len() >= 20 * Keys::AT_ONCE - 1);
    }
}
