//! Faults of a sender's connection that a test configures. `sender` and `bridge` apply them.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// A fault of the relay in one sender connection.
///
/// A fault applies to the next connection only; see [`RelayFault::times`] and [`RelayFault::always`].
#[derive(Clone, Debug, Default)]
pub struct RelayFault {
    pub(crate) rejection: Option<(u16, String)>,
    pub(crate) silent_handshake: bool,
    pub(crate) handshake_delay: Duration,
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
    /// The number of connections that the fault applies to; `None` is one.
    pub(crate) times: Option<usize>,
}

/// Bytes that the relay sends instead of the listener's data.
#[derive(Clone, Debug)]
pub(crate) struct Wire {
    pub(crate) first: Vec<u8>,
    pub(crate) then: Vec<u8>,
    pub(crate) times: usize,
}

impl RelayFault {
    /// Rejects the handshake with `status` and a reason phrase that starts with `reason`.
    pub fn refuse(status: u16, reason: &str) -> Self {
        Self { rejection: Some((status, reason.to_owned())), ..Self::default() }
    }

    /// Rejects a valid token as expired, with 401.
    pub fn expired_token() -> Self {
        Self::refuse(401, "ExpiredToken: The token is expired.")
    }

    /// Reads the request but never answers it.
    pub fn silent_handshake() -> Self {
        Self { silent_handshake: true, ..Self::default() }
    }

    /// Reads the request, and handles it after `delay`.
    pub fn slow_handshake(delay: Duration) -> Self {
        Self { handshake_delay: delay, ..Self::default() }
    }

    /// Answers 101, then neither reads nor writes.
    pub fn silent_after_upgrade() -> Self {
        Self { silent_after_upgrade: true, ..Self::default() }
    }

    /// Answers 101, then never reads from the sender. Data from the listener still arrives.
    pub fn blocked_reader() -> Self {
        Self { blocked_reader: true, ..Self::default() }
    }

    /// Reads from the sender at `bytes_per_second`.
    pub fn slow_reader(bytes_per_second: u64) -> Self {
        Self { read_rate: Some(bytes_per_second), ..Self::default() }
    }

    /// Drops TCP without a Close frame or TLS close after `bytes` of data to the sender.
    pub fn cut_after(bytes: u64) -> Self {
        Self { cut_after: Some(bytes), ..Self::default() }
    }

    /// Sends a Close frame with `code` and `reason` after `bytes` of data to the sender.
    pub fn close_after(bytes: u64, code: u16, reason: &str) -> Self {
        Self { close_after: Some((bytes, code, reason.to_owned())), ..Self::default() }
    }

    /// Sends every message to the sender in frames of at most `bytes`, with a ping after the first frame.
    pub fn fragments(bytes: usize) -> Self {
        Self { fragment: Some(bytes.max(1)), ..Self::default() }
    }

    /// Combines the listener's data into messages of at least `bytes`. An incomplete message is sent after a short pause,
    /// because an ssh session would hang otherwise.
    pub fn coalesce(bytes: usize) -> Self {
        Self { coalesce: Some(bytes), ..Self::default() }
    }

    /// Pings the sender every `interval`.
    pub fn pings(interval: Duration) -> Self {
        Self::default().with_pings(interval)
    }

    /// Drops the connection after `limit` without a frame from the sender. Azure does so after minutes (aztunnel
    /// `bridge.go`: about 120 s; Azure/azure-relay issue 33: about 4 min).
    pub fn idle_limit(limit: Duration) -> Self {
        Self { idle_limit: Some(limit), ..Self::default() }
    }

    /// Works for `time`, then sends nothing more. TCP still acknowledges the sender's data.
    pub fn silent_after(time: Duration) -> Self {
        Self { silent_after: Some(time), ..Self::default() }
    }

    /// Sends only these bytes after the 101, whether they are frames or not.
    pub fn wire(bytes: Vec<u8>) -> Self {
        Self::endless_wire(bytes, Vec::new(), 0)
    }

    /// Sends the bytes `first`, then the bytes `then` for `times` times.
    pub fn endless_wire(first: Vec<u8>, then: Vec<u8>, times: usize) -> Self {
        Self { wire: Some(Wire { first, then, times }), ..Self::default() }
    }

    /// Also pings every `interval`.
    pub fn with_pings(self, interval: Duration) -> Self {
        Self { ping_every: Some(interval), ..self }
    }

    /// Applies to the next `connections` connections instead of one.
    pub fn times(self, connections: usize) -> Self {
        Self { times: Some(connections), ..self }
    }

    /// Applies to all connections from now on.
    pub fn always(self) -> Self {
        self.times(usize::MAX)
    }
}

/// The usual mix of dials that have no other fault: one in 20 takes 3 to 7 s, and one in 50 gets no answer (aztunnel issues 115
/// and 142).
#[derive(Debug, Default)]
pub(crate) struct Tail(AtomicUsize);

impl Tail {
    pub(crate) fn next(&self) -> RelayFault {
        match self.0.fetch_add(1, Ordering::Relaxed) {
            number if number % 50 == 25 => RelayFault::silent_handshake(),
            number if number % 20 == 10 => {
                RelayFault::slow_handshake(Duration::from_secs(3 + number as u64 / 20 % 5))
            }
            _ => RelayFault::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_sender_in_20_is_delayed_and_one_in_50_gets_no_answer() {
        let tail = Tail::default();
        let faults: Vec<RelayFault> = (0..100).map(|_| tail.next()).collect();
        let delays: Vec<u64> = faults.iter().map(|fault| fault.handshake_delay.as_secs()).collect();
        assert_eq!(delays.iter().filter(|delay| **delay > 0).collect::<Vec<_>>(), [&3, &4, &5, &6, &7]);
        assert_eq!(faults.iter().filter(|fault| fault.silent_handshake).count(), 2);
    }
}
