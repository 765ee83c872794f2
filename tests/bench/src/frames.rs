//! The server's side of WebSocket frames (RFC 6455, section 5.2), or the same calls without framing for the limit.

use std::io;

use tokio::io::{
    AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader,
};

/// The bytes that one read may return.
pub(crate) const CHUNK: usize = 32 * 1024;
const BINARY: u8 = 0x82;
const CLOSE: u8 = 0x88;
/// Bits of the first two bytes of a frame.
const OPCODE: u8 = 0x0F;
const CONTROL: u8 = 0x08;
const LENGTH: u8 = 0x7F;

/// Whether data travels in frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    WebSocket,
    Raw,
}

/// Reads the payload that a client sends.
pub(crate) struct Reader<R> {
    source: BufReader<R>,
    framing: Framing,
    /// The rest of the current frame.
    left: u64,
    mask: [u8; 4],
    /// The position in the mask.
    position: usize,
}

impl<R: AsyncRead + Unpin> Reader<R> {
    /// Reads the head of the connection: lines up to an empty one. A request of HTTP selects frames.
    pub(crate) async fn after_head(source: R) -> io::Result<(String, Self)> {
        let mut source = BufReader::with_capacity(2 * CHUNK, source);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if source.read_line(&mut head).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        let framing = if head.starts_with("GET ") { Framing::WebSocket } else { Framing::Raw };
        Ok((head, Self { source, framing, left: 0, mask: [0; 4], position: 0 }))
    }

    pub(crate) fn framing(&self) -> Framing {
        self.framing
    }

    /// Returns the length of the payload that it read, 0 at the end. The payload is still masked.
    async fn read_masked(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.framing == Framing::Raw {
            return self.source.read(buffer).await;
        }
        while self.left == 0 {
            if self.next_frame().await? == CLOSE & OPCODE {
                return Ok(0);
            }
        }
        let limit = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let count = self.source.read(&mut buffer[..limit]).await?;
        self.left -= count as u64;
        Ok(count)
    }

    /// Reads and discards payload. Returns its length, 0 at the end.
    pub(crate) async fn discard(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.read_masked(buffer).await
    }

    /// Reads payload. Returns its length, 0 at the end.
    pub(crate) async fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.read_masked(buffer).await?;
        if self.framing == Framing::WebSocket {
            for byte in &mut buffer[..count] {
                *byte ^= self.mask[self.position % 4];
                self.position += 1;
            }
        }
        Ok(count)
    }

    /// Reads the header of a frame, and all of a control frame. Returns the opcode.
    async fn next_frame(&mut self) -> io::Result<u8> {
        let mut start = [0; 2];
        self.source.read_exact(&mut start).await?;
        let length = match start[1] & LENGTH {
            126 => self.source.read_u16().await?.into(),
            127 => self.source.read_u64().await?,
            length => length.into(),
        };
        self.source.read_exact(&mut self.mask).await?;
        self.position = 0;
        if start[0] & CONTROL == 0 {
            self.left = length;
        } else {
            let mut payload = vec![0; usize::try_from(length).unwrap_or_default()];
            self.source.read_exact(&mut payload).await?;
        }
        Ok(start[0] & OPCODE)
    }
}

/// Sends payload to a client.
pub(crate) struct Writer<W> {
    sink: W,
    framing: Framing,
    frame: Vec<u8>,
}

impl<W: AsyncWrite + Unpin> Writer<W> {
    pub(crate) fn new(sink: W, framing: Framing) -> Self {
        Self { sink, framing, frame: Vec::with_capacity(CHUNK + 4) }
    }

    /// Sends text as it is.
    pub(crate) async fn send(&mut self, text: &str) -> io::Result<()> {
        self.sink.write_all(text.as_bytes()).await?;
        self.sink.flush().await
    }

    /// Sends payload of at most [`CHUNK`] bytes as one message.
    pub(crate) async fn write(&mut self, payload: &[u8]) -> io::Result<()> {
        self.frame.clear();
        if self.framing == Framing::WebSocket {
            self.frame.push(BINARY);
            match u8::try_from(payload.len()) {
                Ok(length @ ..126) => self.frame.push(length),
                _ => {
                    self.frame.push(126);
                    let length = u16::try_from(payload.len()).map_err(io::Error::other)?;
                    self.frame.extend(length.to_be_bytes());
                }
            }
        }
        self.frame.extend(payload);
        self.sink.write_all(&self.frame).await?;
        self.sink.flush().await
    }

    /// Ends the connection with the status "normal closure" (RFC 6455, section 7.4.1).
    pub(crate) async fn close(&mut self) -> io::Result<()> {
        if self.framing == Framing::WebSocket {
            self.sink.write_all(&[CLOSE, 2, 0x03, 0xE8]).await?;
        }
        self.sink.shutdown().await
    }
}
