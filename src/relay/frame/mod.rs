//! WebSocket frames (RFC 6455, section 5). Received frames are decoded piece by piece, so that no payload is buffered. Sent
//! frames are built and masked in place.

use std::fmt::{self, Display, Formatter};

/// The longest payload of a control frame (RFC 6455, section 5.5).
pub(crate) const MAX_CONTROL: usize = 125;
/// The longest header of a frame that arcssh sends: two bytes, a 16-bit length, the masking key.
pub(crate) const MAX_HEADER: usize = 8;
/// The longest payload of a frame that arcssh sends. Such a frame is 64 KiB long, which is four full TLS records.
/// The documents name no limit for WebSocket data. Microsoft's relay client for .NET sends messages of the same size.
pub(crate) const MAX_PAYLOAD: usize = 64 * 1024 - MAX_HEADER;

/// Close code for a normal end (RFC 6455, section 7.4.1).
pub(crate) const NORMAL: u16 = 1000;
/// Close code after a protocol error of the peer (RFC 6455, section 7.4.1).
pub(crate) const PROTOCOL_ERROR: u16 = 1002;
/// Close code for text that is not UTF-8 (RFC 6455, section 7.4.1).
pub(crate) const INVALID_DATA: u16 = 1007;

/// The kind of a frame (RFC 6455, section 5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Opcode {
    /// Data: binary, text and continuation frames.
    Data,
    /// The end of the connection.
    Close,
    /// A request for a pong.
    Ping,
    /// The answer to a ping, or an unsolicited pong.
    Pong,
}

/// A frame, or a part of a data frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    /// The kind of the frame.
    pub(crate) opcode: Opcode,
    /// The size of the header.
    pub(crate) header: usize,
    /// The size of the payload. A control frame is one piece. A data frame has one piece for each part that arrives.
    pub(crate) payload: usize,
}

/// A violation of RFC 6455 by the relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Violation {
    /// Section 5.2: RSV1, RSV2 and RSV3 are zero without an extension.
    #[error("a frame has a reserved bit set")]
    ReservedBits,
    /// Section 5.2: opcodes 3 to 7 and 11 to 15 are reserved.
    #[error("a frame has the reserved opcode {0}")]
    ReservedOpcode(u8),
    /// Section 5.1: a server does not mask.
    #[error("a frame is masked")]
    Masked,
    /// Section 5.2: the length has its shortest form and at most 63 bits.
    #[error("a frame has a malformed length")]
    Length,
    /// Section 5.5: a control frame is not fragmented.
    #[error("a control frame is fragmented")]
    FragmentedControl,
    /// Section 5.5: a control frame carries at most 125 bytes.
    #[error("a control frame has {0} bytes of payload")]
    LongControl(u64),
    /// Section 5.4: a continuation frame continues a message.
    #[error("a continuation frame continues no message")]
    NothingToContinue,
    /// Section 5.4: a message ends before the next one begins.
    #[error("a message begins inside another message")]
    UnfinishedMessage,
}

/// Decodes frames of a server.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    /// Bytes of the current data frame that have not arrived yet.
    remaining: u64,
    /// Whether a fragmented message is not complete.
    in_message: bool,
}

impl Decoder {
    /// Returns the piece at the start of `received`, or `None` if it needs more bytes. The caller removes the piece before the
    /// next call.
    ///
    /// # Errors
    /// A [`Violation`] of the protocol.
    pub(crate) fn decode(&mut self, received: &[u8]) -> Result<Option<Piece>, Violation> {
        if self.remaining > 0 {
            return Ok((!received.is_empty()).then(|| self.data(0, received.len())));
        }
        let Some(header) = Header::parse(received)? else { return Ok(None) };
        let available = received.len() - header.size;
        match header.opcode {
            Opcode::Data => {
                self.begin(&header)?;
                Ok(Some(self.data(header.size, available)))
            }
            opcode => {
                let payload = header.control_payload()?;
                Ok((payload <= available).then_some(Piece { opcode, header: header.size, payload }))
            }
        }
    }

    fn begin(&mut self, header: &Header) -> Result<(), Violation> {
        match (header.continues, self.in_message) {
            (true, false) => return Err(Violation::NothingToContinue),
            (false, true) => return Err(Violation::UnfinishedMessage),
            _ => {}
        }
        self.in_message = !header.last;
        self.remaining = header.length;
        Ok(())
    }

    fn data(&mut self, header: usize, available: usize) -> Piece {
        let payload = usize::try_from(self.remaining).unwrap_or(usize::MAX).min(available);
        self.remaining -= payload as u64;
        Piece { opcode: Opcode::Data, header, payload }
    }
}

/// The header of a frame.
struct Header {
    opcode: Opcode,
    continues: bool,
    last: bool,
    /// Bytes of payload.
    length: u64,
    /// Bytes of header.
    size: usize,
}

impl Header {
    /// Parses a header. Checks each byte that has arrived, so that a violation is reported before the header is complete.
    fn parse(received: &[u8]) -> Result<Option<Self>, Violation> {
        let Some(&first) = received.first() else { return Ok(None) };
        if first & 0x70 != 0 {
            return Err(Violation::ReservedBits);
        }
        let opcode = match first & 0x0f {
            0..=2 => Opcode::Data,
            8 => Opcode::Close,
            9 => Opcode::Ping,
            10 => Opcode::Pong,
            reserved => return Err(Violation::ReservedOpcode(reserved)),
        };
        let last = first & 0x80 != 0;
        if opcode != Opcode::Data && !last {
            return Err(Violation::FragmentedControl);
        }
        let Some(&second) = received.get(1) else { return Ok(None) };
        if second & 0x80 != 0 {
            return Err(Violation::Masked);
        }
        let Some((length, size)) = length(second, &received[2..])? else { return Ok(None) };
        Ok(Some(Self { opcode, continues: first & 0x0f == 0, last, length, size }))
    }

    fn control_payload(&self) -> Result<usize, Violation> {
        let short = usize::try_from(self.length).ok().filter(|&length| length <= MAX_CONTROL);
        short.ok_or(Violation::LongControl(self.length))
    }
}

/// Returns the payload's length and the header's size.
fn length(second: u8, rest: &[u8]) -> Result<Option<(u64, usize)>, Violation> {
    let (length, size, shortest) = match second {
        126 => {
            let Some(bytes) = rest.first_chunk() else { return Ok(None) };
            (u16::from_be_bytes(*bytes).into(), 4, 126)
        }
        127 => {
            let Some(bytes) = rest.first_chunk() else { return Ok(None) };
            (u64::from_be_bytes(*bytes), 10, 65_536)
        }
        short => (short.into(), 2, 0),
    };
    if length < shortest || length >> 63 == 1 {
        return Err(Violation::Length);
    }
    Ok(Some((length, size)))
}

/// Builds a masked frame of one message at the start of `frame`, and returns its length. `frame` is [`MAX_HEADER`] bytes of
/// space and the payload.
pub(crate) fn seal(frame: &mut [u8], opcode: Opcode, key: [u8; 4]) -> usize {
    const LAST: u8 = 0x80;
    const MASKED: u8 = 0x80;
    let payload = frame.len() - MAX_HEADER;
    mask(&mut frame[MAX_HEADER..], key);
    frame[0] = LAST
        | match opcode {
            Opcode::Data => 2,
            Opcode::Close => 8,
            Opcode::Ping => 9,
            Opcode::Pong => 10,
        };
    match u16::try_from(payload).unwrap_or(u16::MAX) {
        short @ ..=125 => {
            frame[1] = MASKED | short as u8;
            frame[2..6].copy_from_slice(&key);
            frame.copy_within(MAX_HEADER.., 6);
            6 + payload
        }
        long => {
            frame[1] = MASKED | 126;
            frame[2..4].copy_from_slice(&long.to_be_bytes());
            frame[4..8].copy_from_slice(&key);
            MAX_HEADER + payload
        }
    }
}

/// Masks a payload (RFC 6455, section 5.3), eight bytes at a time, which the compiler vectorizes.
fn mask(payload: &mut [u8], key: [u8; 4]) {
    let [a, b, c, d] = key;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (words, rest) = payload.as_chunks_mut();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip(key.into_iter().cycle()) {
        *byte ^= key;
    }
}

/// The content of the relay's Close frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PeerClose {
    status: Status,
    /// The reason; invalid UTF-8 is replaced.
    reason: String,
    reason_is_utf8: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Status {
    None,
    /// The first of two bytes.
    Half(u8),
    Code(u16),
}

impl PeerClose {
    /// Parses the payload of a Close frame, which can be invalid (RFC 6455, section 5.5.1).
    pub(crate) fn parse(payload: &[u8]) -> Self {
        let (status, reason) = match payload {
            [] => (Status::None, &[][..]),
            [half] => (Status::Half(*half), &[][..]),
            [high, low, reason @ ..] => (Status::Code(u16::from_be_bytes([*high, *low])), reason),
        };
        let reason_is_utf8 = std::str::from_utf8(reason).is_ok();
        Self { status, reason: String::from_utf8_lossy(reason).into_owned(), reason_is_utf8 }
    }

    /// Returns the code, or `None` if there is none or only one of its bytes.
    pub(crate) fn code(&self) -> Option<u16> {
        match self.status {
            Status::Code(code) => Some(code),
            Status::None | Status::Half(_) => None,
        }
    }

    /// Returns whether the connection ended normally: code 1000, or no code.
    pub(crate) fn is_normal(&self) -> bool {
        matches!(self.status, Status::None | Status::Code(NORMAL))
    }

    /// Returns the code for the reply: the relay's code (RFC 6455, section 5.5.1), an error code for an invalid frame (sections
    /// 7.4 and 8.1), or `None` for a frame without a code.
    pub(crate) fn reply(&self) -> Option<u16> {
        match self.status {
            Status::None => None,
            Status::Code(code) if is_sendable(code) => {
                Some(if self.reason_is_utf8 { code } else { INVALID_DATA })
            }
            Status::Code(_) | Status::Half(_) => Some(PROTOCOL_ERROR),
        }
    }
}

/// Returns whether a Close frame can contain a code (RFC 6455, section 7.4; 1012 to 1014 are in IANA's registry of close codes).
fn is_sendable(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

impl Display for PeerClose {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.status {
            Status::None => f.write_str("without a code"),
            Status::Half(byte) => write!(f, "with half a code (0x{byte:02x})"),
            Status::Code(code) => write!(f, "with code {code} {:?}", self.reason),
        }
    }
}

#[cfg(test)]
mod fuzz_tests;
#[cfg(test)]
mod tests;
