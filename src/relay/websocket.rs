//! The client's side of an upgraded WebSocket (RFC 6455). It delivers payload as it arrives, and reads input directly into
//! frames. It uses two buffers of fixed size, so its memory does not depend on the relay.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use ring::rand::{SecureRandom, SystemRandom};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tracing::debug;

use crate::net::SEND_BATCH;
use crate::relay::frame::{
    self, Decoder, MAX_CONTROL, MAX_HEADER, MAX_PAYLOAD, Opcode, PeerClose, Violation,
};

/// The size of the read buffer: the header and payload of the longest frame that most relays send, and a record of TLS, so that
/// the output gets such a payload with one call of the system.
const READ_BUFFER: usize = MAX_HEADER + 64 * 1024 + 16 * 1024;
/// The size of the write buffer: frames that are written together, and control frames.
const WRITE_BUFFER: usize = SEND_BATCH + CONTROL_FRAMES;
/// The space that input leaves for control frames.
const CONTROL_FRAMES: usize = 4096;

/// A message of the relay.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// Data for the output: [`WebSocket::payload`].
    Data,
    /// A ping, which was answered, or an empty frame.
    Other,
    /// The payload of a pong.
    Pong(Vec<u8>),
    /// A Close frame. Later bytes are ignored.
    Close(PeerClose),
}

/// The end of the reading side.
#[derive(Debug)]
pub(crate) enum ReadError {
    /// The connection failed, or was closed without a Close frame.
    Io(io::Error),
    /// The relay violated the protocol.
    Violation(Violation),
}

/// A WebSocket over `S`.
///
/// A failed write returns no error, and later writes do nothing: when the relay closes, writes fail before arcssh has read the
/// Close frame, which contains the reason. See [`WebSocket::take_write_error`].
pub(crate) struct WebSocket<S> {
    stream: S,
    decoder: Decoder,
    received: Buffer,
    /// The number of bytes at the start of `received` that are payload for the output.
    payload: usize,
    /// The end of the reading side, reported after the bytes before it.
    read_end: Option<io::Error>,
    has_received: bool,
    queued: Buffer,
    /// Whether `queued`, or the buffer of the stream, contains input of ssh.
    has_input: bool,
    /// Whether the first input is an SSH identification; `None` before any input.
    is_input_ssh: Option<bool>,
    unflushed: bool,
    /// The answer to the last ping, if the buffer had no space for it.
    late_pong: Option<Vec<u8>>,
    keys: Keys,
    write_error: Option<io::Error>,
    lost_input: bool,
}

impl<S> WebSocket<S>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    /// Creates a WebSocket. `read_ahead` was read with the response to the upgrade.
    pub(crate) fn new(stream: S, read_ahead: &[u8]) -> Self {
        Self {
            stream,
            decoder: Decoder::default(),
            received: Buffer::with_bytes(read_ahead, READ_BUFFER),
            payload: 0,
            read_end: None,
            has_received: false,
            queued: Buffer::with_bytes(&[], WRITE_BUFFER),
            has_input: false,
            is_input_ssh: None,
            unflushed: false,
            late_pong: None,
            keys: Keys::default(),
            write_error: None,
            lost_input: false,
        }
    }

    /// Returns the bytes for the output that were not consumed yet.
    pub(crate) fn payload(&self) -> &[u8] {
        &self.received.filled()[..self.payload]
    }

    /// Removes the first bytes of the payload.
    pub(crate) fn consume(&mut self, count: usize) {
        self.received.consume(count);
        self.payload -= count;
    }

    /// Returns whether bytes have arrived since the last call.
    pub(crate) fn take_received(&mut self) -> bool {
        std::mem::take(&mut self.has_received)
    }

    /// Returns whether a write has failed.
    pub(crate) fn is_unwritable(&self) -> bool {
        self.write_error.is_some()
    }

    /// Takes the error of the first failed write.
    pub(crate) fn take_write_error(&mut self) -> Option<io::Error> {
        self.write_error.take()
    }

    /// Returns whether the first input is an SSH identification (RFC 4253, section 4.2); `None` before any input.
    pub(crate) fn is_input_ssh(&self) -> Option<bool> {
        self.is_input_ssh
    }

    /// Returns whether a failed write has lost input of ssh.
    pub(crate) fn has_lost_input(&self) -> bool {
        self.lost_input
    }

    /// Returns the next event. The caller must have consumed the payload.
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

    /// Reads until the buffer is full or there are no more bytes, so that the output is written in large pieces.
    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(end) = self.read_end.take() {
            return Poll::Ready(Err(end));
        }
        let space = self.received.space();
        let mut buffer = ReadBuf::new(space);
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
                (self.read_end, self.has_received) = (end, true);
                Poll::Ready(Ok(()))
            }
        }
    }

    /// Answers a ping. If the buffer is full, only the last ping is answered (RFC 6455, section 5.5.3).
    fn pong(&mut self, payload: Vec<u8>) {
        self.late_pong = (!self.control(Opcode::Pong, &payload)).then_some(payload);
    }

    /// Queues a ping, if the buffer has space.
    pub(crate) fn ping(&mut self, payload: &[u8]) {
        self.control(Opcode::Ping, payload);
    }

    /// Sends the queued bytes and a Close frame.
    pub(crate) async fn close(&mut self, code: Option<u16>) {
        std::future::poll_fn(|cx| self.poll_drain(cx)).await;
        let payload = code.map(u16::to_be_bytes);
        self.control(Opcode::Close, payload.as_ref().map_or(&[], |code| code.as_slice()));
        std::future::poll_fn(|cx| self.poll_flush(cx)).await;
    }

    /// Closes the stream after the Close frame.
    pub(crate) async fn shutdown(&mut self) {
        if self.write_error.is_none() {
            let _ = self.stream.shutdown().await;
        }
    }

    /// Queues a control frame. Returns whether the buffer had space for it.
    fn control(&mut self, opcode: Opcode, payload: &[u8]) -> bool {
        let space = self.queued.space();
        let length = MAX_HEADER + payload.len();
        if payload.len() > MAX_CONTROL || space.len() < length {
            return false;
        }
        space[MAX_HEADER..length].copy_from_slice(payload);
        self.seal(opcode, length);
        true
    }

    /// Returns whether queued bytes wait for the relay.
    pub(crate) fn is_stuck(&self) -> bool {
        !self.queued.filled().is_empty()
    }

    /// Reads from `input` directly into the next frame, after writing the queued ones if the buffer is full. Returns
    /// the number of bytes, 0 at the end of input. Also pending while the relay accepts no bytes.
    ///
    /// # Errors
    /// An error of `input`.
    pub(crate) fn poll_send_from(
        &mut self,
        cx: &mut Context<'_>,
        input: Pin<&mut impl AsyncRead>,
    ) -> Poll<io::Result<usize>> {
        if self.queued.space().len() < MAX_HEADER + MAX_PAYLOAD + CONTROL_FRAMES {
            ready!(self.poll_drain(cx));
        }
        let mut payload = ReadBuf::new(&mut self.queued.space()[MAX_HEADER..MAX_HEADER + MAX_PAYLOAD]);
        ready!(input.poll_read(cx, &mut payload))?;
        let count = payload.filled().len();
        if count > 0 {
            self.is_input_ssh.get_or_insert_with(|| payload.filled().starts_with(b"SSH-"));
            self.has_input = true;
            self.seal(Opcode::Data, MAX_HEADER + count);
        }
        Poll::Ready(Ok(count))
    }

    /// Builds a frame from the bytes after the queued ones, and queues it.
    fn seal(&mut self, opcode: Opcode, length: usize) {
        let key = self.keys.next();
        if key.is_none() {
            self.fail(io::Error::other("the system does not provide random numbers"));
        }
        let Some(key) = key.filter(|_| self.write_error.is_none()) else {
            self.lost_input |= self.has_input;
            return;
        };
        let length = frame::seal(&mut self.queued.space()[..length], opcode, key);
        self.queued.fill(length);
    }

    /// Writes the queued bytes, and flushes the stream.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        ready!(self.poll_drain(cx));
        if let Some(payload) = self.late_pong.take() {
            self.control(Opcode::Pong, &payload);
            ready!(self.poll_drain(cx));
        }
        if self.unflushed && self.write_error.is_none() {
            match ready!(Pin::new(&mut self.stream).poll_flush(cx)) {
                Ok(()) => (self.unflushed, self.has_input) = (false, false),
                Err(error) => self.fail(error),
            }
        }
        Poll::Ready(())
    }

    /// Writes the queued bytes. The stream can still buffer them.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while !self.queued.filled().is_empty() {
            match ready!(Pin::new(&mut self.stream).poll_write(cx, self.queued.filled())) {
                Ok(0) => self.fail(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    self.queued.consume(count);
                    self.unflushed = true;
                }
                Err(error) => self.fail(error),
            }
        }
        Poll::Ready(())
    }

    fn fail(&mut self, error: io::Error) {
        debug!(%error, "cannot write to the relay");
        self.queued.clear();
        self.write_error.get_or_insert(error);
        self.lost_input |= self.has_input;
    }
}

fn closed_without_close_frame() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the connection was closed")
}

/// Unpredictable masking keys, one for each frame (RFC 6455, sections 5.3 and 10.3), requested from the system in batches.
#[derive(Default)]
struct Keys {
    left: Vec<[u8; 4]>,
}

impl Keys {
    /// The keys in 256 bytes, which getrandom(2) returns without an interruption.
    const BATCH: usize = 64;

    /// Returns `None` if the system does not provide random numbers.
    fn next(&mut self) -> Option<[u8; 4]> {
        if self.left.is_empty() {
            let mut keys = [[0; 4]; Self::BATCH];
            SystemRandom::new().fill(keys.as_flattened_mut()).ok()?;
            self.left.extend(keys);
        }
        self.left.pop()
    }
}

/// A buffer with bytes that are added at the end and removed from the start.
struct Buffer {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl Buffer {
    /// Creates a buffer with these bytes, and space for `size` bytes in total.
    fn with_bytes(first: &[u8], size: usize) -> Self {
        let end = first.len();
        // Zeroed memory of the system, which uses no page before the first write to it. Growing a vector would write.
        let mut bytes = vec![0; size.max(end)];
        bytes[..end].copy_from_slice(first);
        Self { bytes, start: 0, end }
    }

    fn filled(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    /// Returns the space after the bytes. Moves the bytes to the start if they are few.
    fn space(&mut self) -> &mut [u8] {
        const FEW: usize = 256;
        if self.start > 0 && self.end - self.start <= FEW {
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
    fn each_frame_has_a_different_masking_key() {
        let mut keys = Keys::default();
        let drawn: HashSet<_> = (0..20 * Keys::BATCH).map(|_| keys.next().unwrap()).collect();
        // Two of these keys are equal in one of 5000 runs, three in one of some millions.
        assert!(drawn.len() >= 20 * Keys::BATCH - 1);
    }
}
