//! What can go wrong with a sender's connection when a test asks for it.
//!
//! A description only: `sender` and `bridge` carry it out.

use std::time::Duration;

/// Misbehaviour of the relay towards one sender connection. The parts combine; what is not set behaves.
///
/// A fault is consumed by the next connection; see [`RelayFault::times`] and [`RelayFault::always`].
#[derive(Clone, Debug, Default)]
pub struct RelayFault {
    pub(crate) refusal: Option<(u16, String)>,
    pub(crate) silent_handshake: bool,
    pub(crate) silent_after_upgrade: bool,
    pub(crate) blocked_reader: bool,
    pub(crate) read_rate: Option<u64>,
    pub(crate) cut_after: Option<u64>,
    pub(crate) close_after: Option<(u64, u16, String)>,
    pub(crate) fragment: Option<usize>,
    pub(crate) coalesce: Option<usize>,
    pub(crate) ping_every: Option<Duration>,
    pub(crate) idle_limit: Option<Duration>,
    pub(crate) silent_after: Option<Duration>,
    pub(crate) wire: Option<Wire>,
    /// How many connections it applies to, if it is not one.
    pub(crate) times: Option<usize>,
}

/// Bytes that the sender gets in place of what the listener sends.
#[derive(Clone, Debug)]
pub(crate) struct Wire {
    pub(crate) first: Vec<u8>,
    pub(crate) then: Vec<u8>,
    pub(crate) times: usize,
}

impl RelayFault {
    /// Refuses the handshake with `status` and, as the start of the reason phrase, `reason`.
    pub fn refuse(status: u16, reason: &str) -> Self {
        Self { refusal: Some((status, reason.to_owned())), ..Self::default() }
    }

    /// Refuses the token as expired, with 401, though it is not.
    pub fn expired_token() -> Self {
        Self::refuse(401, "ExpiredToken: The token is expired.")
    }

    /// Takes TCP and TLS and reads the request, and never answers it.
    pub fn silent_handshake() -> Self {
        Self { silent_handshake: true, ..Self::default() }
    }

    /// Answers 101 and then neither reads nor writes.
    pub fn silent_after_upgrade() -> Self {
        Self { silent_after_upgrade: true, ..Self::default() }
    }

    /// Answers 101 and then never reads from the sender; what the listener sends still arrives.
    pub fn blocked_reader() -> Self {
        Self { blocked_reader: true, ..Self::default() }
    }

    /// Reads from the sender at `bytes_per_second`.
    pub fn slow_reader(bytes_per_second: u64) -> Self {
        Self { read_rate: Some(bytes_per_second), ..Self::default() }
    }

    /// Drops TCP, without Close frame or TLS close, when `bytes` of data have gone to the sender.
    pub fn cut_after(bytes: u64) -> Self {
        Self { cut_after: Some(bytes), ..Self::default() }
    }

    /// Sends a Close frame with `code` and `reason` when `bytes` of data have gone to the sender.
    pub fn close_after(bytes: u64, code: u16, reason: &str) -> Self {
        Self { close_after: Some((bytes, code, reason.to_owned())), ..Self::default() }
    }

    /// Sends every message to the sender in frames of at most `bytes`, with a ping after the first frame.
    pub fn fragments(bytes: usize) -> Self {
        Self { fragment: Some(bytes.max(1)), ..Self::default() }
    }

    /// Collects what the listener sends into messages of at least `bytes`. What is there is sent after a moment
    /// without input, because an ssh session would stop otherwise.
    pub fn coalesce(bytes: usize) -> Self {
        Self { coalesce: Some(bytes), ..Self::default() }
    }

    /// Pings the sender every `interval`.
    pub fn pings(interval: Duration) -> Self {
        Self::default().with_pings(interval)
    }

    /// Drops the connection when no frame came from the sender for `limit`, as the service and what lies before it
    /// do after minutes (aztunnel `bridge.go` says about 120 s, Azure/azure-relay issue 33 about 4 min).
    pub fn idle_limit(limit: Duration) -> Self {
        Self { idle_limit: Some(limit), ..Self::default() }
    }

    /// Works for `time`, and then sends and answers nothing more, though TCP acknowledges what the sender sends.
    pub fn silent_after(time: Duration) -> Self {
        Self { silent_after: Some(time), ..Self::default() }
    }

    /// Sends these bytes after the 101, frames or not, and nothing else.
    pub fn wire(bytes: Vec<u8>) -> Self {
        Self::endless_wire(bytes, Vec::new(), 0)
    }

    /// Sends the bytes `first`, and then the bytes `then` so many times.
    pub fn endless_wire(first: Vec<u8>, then: Vec<u8>, times: usize) -> Self {
        Self { wire: Some(Wire { first, then, times }), ..Self::default() }
    }

    /// The same, and pings every `interval` as well.
    pub fn with_pings(self, interval: Duration) -> Self {
        Self { ping_every: Some(interval), ..self }
    }

    /// For the next `connections` connections instead of one.
    pub fn times(self, connections: usize) -> Self {
        Self { times: Some(connections), ..self }
    }

    /// For every connection from now on.
    pub fn always(self) -> Self {
        self.times(usize::MAX)
    }
}
