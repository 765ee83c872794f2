//! A connection that only measures: the time to the machine's first bytes, and round trips to the relay.

use std::future::poll_fn;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, timeout};

use crate::relay::bridge::BridgeError;
use crate::relay::frame::NORMAL;
use crate::relay::greeting::{MAX_GREETING, NotSsh, identification};
use crate::relay::handshake::Upgraded;
use crate::relay::websocket::{Event, ReadError, WebSocket};

/// The time limit for closing.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// A connection to a machine on which arcssh sends no data.
pub(crate) struct Line<S> {
    /// The relay's host, with its port unless that is 443.
    relay: String,
    socket: WebSocket<S>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Line<S> {
    pub(crate) fn new(Upgraded { relay, stream, read_ahead }: Upgraded<S>) -> Self {
        Self { relay, socket: WebSocket::new(stream, &read_ahead) }
    }

    /// Waits for the machine's SSH identification.
    ///
    /// # Errors
    /// The machine sends other bytes, or nothing within `limit`; the connection ends.
    pub(crate) async fn identification(&mut self, limit: Duration) -> Result<String, BridgeError> {
        let mut bytes = Vec::new();
        let end = Instant::now() + limit;
        while bytes.len() < MAX_GREETING {
            match timeout(end.saturating_duration_since(Instant::now()), self.next()).await {
                Ok(Ok(Event::Data)) => bytes.extend_from_slice(self.socket.payload()),
                Ok(Ok(Event::Close(close))) if !close.is_normal() => return Err(BridgeError::Closed(close)),
                Ok(Ok(Event::Close(_))) => break,
                Ok(Ok(_)) => {}
                Ok(Err(error)) => return Err(error),
                Err(_elapsed) if bytes.is_empty() => return Err(BridgeError::NotSsh(NotSsh::Silent(limit))),
                Err(_elapsed) => break,
            }
            if let Some(line) = identification(&bytes) {
                return Ok(line);
            }
        }
        Err(BridgeError::NotSsh(NotSsh::of(&bytes)))
    }

    /// Sends a ping and returns the time until the relay has answered it; `None`: it does not within `limit`.
    ///
    /// # Errors
    /// The connection ends.
    pub(crate) async fn round_trip(
        &mut self,
        number: u64,
        limit: Duration,
    ) -> Result<Option<Duration>, BridgeError> {
        let start = Instant::now();
        let payload = number.to_be_bytes();
        self.socket.ping(&payload);
        let answered = async {
            loop {
                match self.next().await? {
                    Event::Pong(pong) if pong == payload => return Ok(start.elapsed()),
                    Event::Close(close) => return Err(BridgeError::Closed(close)),
                    Event::Data | Event::Other | Event::Pong(_) => {}
                }
            }
        };
        timeout(limit, answered).await.map_or(Ok(None), |answered| answered.map(Some))
    }

    /// Returns the next event, after discarding the payload of the last one.
    async fn next(&mut self) -> Result<Event, BridgeError> {
        let Self { relay, socket } = self;
        socket.consume(socket.payload().len());
        let event = poll_fn(|cx| {
            let _ = socket.poll_flush(cx);
            socket.poll_next(cx)
        });
        event.await.map_err(|error| match error {
            ReadError::Io(error) => match socket.take_write_error() {
                Some(error) => BridgeError::NotSent(error),
                None => BridgeError::Lost(error),
            },
            ReadError::Violation(violation) => BridgeError::Violation { relay: relay.clone(), violation },
        })
    }

    /// Closes the connection in limited time.
    pub(crate) async fn close(mut self) {
        let close = async {
            self.socket.close(Some(NORMAL)).await;
            self.socket.shutdown().await;
        };
        let _ = timeout(CLOSE_TIMEOUT, close).await;
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

    use super::*;

    const LIMIT: Duration = Duration::from_secs(5);

    /// A line and the relay's end of it.
    fn line() -> (Line<DuplexStream>, DuplexStream) {
        let (stream, relay) = duplex(4096);
        (Line::new(Upgraded { relay: "relay".into(), stream, read_ahead: Vec::new() }), relay)
    }

    /// An unmasked frame of the relay (RFC 6455, section 5.2).
    fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![0x80 | opcode, u8::try_from(payload.len()).unwrap()];
        frame.extend_from_slice(payload);
        frame
    }

    #[tokio::test(start_paused = true)]
    async fn an_identification_may_arrive_in_pieces_after_other_lines() {
        let (mut line, mut relay) = line();
        for piece in ["notice\r\nSS", "H-2.0-x", "\r\n"] {
            relay.write_all(&frame(2, piece.as_bytes())).await.unwrap();
        }
        assert_eq!(line.identification(LIMIT).await.unwrap(), "SSH-2.0-x");
    }

    #[tokio::test(start_paused = true)]
    async fn other_first_bytes_are_classified() {
        for (frames, expected) in [
            (
                vec![frame(2, b"Not allowed at this time\r\n"), frame(8, &1000_u16.to_be_bytes())],
                "not allowed",
            ),
            (vec![frame(2, b"HTTP/1.1 400 Bad Request\r\n")], "web server"),
            (vec![frame(8, &1000_u16.to_be_bytes())], "closes each connection"),
            (vec![], "sent nothing within 5 s"),
        ] {
            let (mut line, mut relay) = line();
            relay.write_all(&frames.concat()).await.unwrap();
            let error = line.identification(LIMIT).await.unwrap_err().to_string();
            assert!(error.to_lowercase().contains(expected), "{error}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn only_the_pong_of_the_ping_counts() {
        let (mut line, mut relay) = line();
        let answer = async {
            let mut ping = [0; 14];
            relay.read_exact(&mut ping).await.unwrap();
            assert_eq!(ping[..2], [0x89, 0x88], "a masked ping of 8 bytes");
            let frames = [frame(10, b""), frame(10, &6_u64.to_be_bytes()), frame(2, b"data")];
            relay.write_all(&frames.concat()).await.unwrap();
            tokio::time::sleep(Duration::from_millis(40)).await;
            relay.write_all(&frame(10, &7_u64.to_be_bytes())).await.unwrap();
        };
        let (time, ()) = tokio::join!(line.round_trip(7, LIMIT), answer);
        assert_eq!(time.unwrap(), Some(Duration::from_millis(40)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_relay_that_answers_no_ping_is_not_awaited_for_ever() {
        let (mut line, _relay) = line();
        assert_eq!(line.round_trip(1, LIMIT).await.unwrap(), None);
        let (mut line, relay) = self::line();
        drop(relay);
        assert!(line.round_trip(1, LIMIT).await.is_err());
    }
}
