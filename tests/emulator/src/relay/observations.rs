//! Records of the relay's open connections, and of the senders' pings and Close frames.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use crate::journal::lock;

/// A ping or pong from a sender.
#[derive(Clone, Debug)]
pub struct Heartbeat {
    /// When the relay read it.
    pub at: Instant,
    /// Its application data.
    pub payload: Vec<u8>,
}

/// How a sender ended its connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SenderEnd {
    /// The sender sent the first Close frame, with or without a code.
    Closed(Option<u16>),
    /// The sender answered the relay's Close frame.
    Answered,
    /// The sender dropped the connection without a Close frame.
    Dropped,
}

#[derive(Debug, Default)]
pub(crate) struct Observations {
    open: AtomicUsize,
    pings: Mutex<Vec<Heartbeat>>,
    pongs: Mutex<Vec<Heartbeat>>,
    ends: Mutex<Vec<SenderEnd>>,
    abandoned: AtomicUsize,
}

impl Observations {
    /// Counts a connection until the guard is dropped.
    pub(crate) fn opened(self: &Arc<Self>) -> OpenConnection {
        self.open.fetch_add(1, Ordering::SeqCst);
        OpenConnection(Arc::clone(self))
    }

    /// Counts a request as abandoned if the guard is dropped before the answer: the sender closed the connection.
    pub(crate) fn unanswered(self: &Arc<Self>) -> Unanswered {
        Unanswered(Some(Arc::clone(self)))
    }

    pub(crate) fn abandoned(&self) -> usize {
        self.abandoned.load(Ordering::SeqCst)
    }

    pub(crate) fn open(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }

    pub(crate) fn record_ping(&self, payload: &[u8]) {
        lock(&self.pings).push(Heartbeat { at: Instant::now(), payload: payload.to_vec() });
    }

    pub(crate) fn record_pong(&self, payload: &[u8]) {
        lock(&self.pongs).push(Heartbeat { at: Instant::now(), payload: payload.to_vec() });
    }

    pub(crate) fn record_end(&self, end: SenderEnd) {
        lock(&self.ends).push(end);
    }

    pub(crate) fn pings(&self) -> Vec<Heartbeat> {
        lock(&self.pings).clone()
    }

    pub(crate) fn pongs(&self) -> Vec<Heartbeat> {
        lock(&self.pongs).clone()
    }

    pub(crate) fn ends(&self) -> Vec<SenderEnd> {
        lock(&self.ends).clone()
    }
}

/// The guard of one open connection.
pub(crate) struct OpenConnection(Arc<Observations>);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The guard of a request without an answer.
pub(crate) struct Unanswered(Option<Arc<Observations>>);

impl Unanswered {
    pub(crate) fn answered(mut self) {
        self.0 = None;
    }
}

impl Drop for Unanswered {
    fn drop(&mut self) {
        if let Some(observations) = &self.0 {
            observations.abandoned.fetch_add(1, Ordering::SeqCst);
        }
    }
}
