//! Limits on the number of requests, as clients meet them: 429 and `Retry-After`.
//!
//! Knows windows of time; what the requests are is the business of the rooms.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::journal::lock;

/// Limits that are armed or in force, each for requests of one kind.
pub(crate) struct Throttles<K>(Mutex<Vec<Throttle<K>>>);

struct Throttle<K> {
    kind: K,
    retry_after: Duration,
    /// Begins with the first request that meets it.
    end: Option<Instant>,
}

impl<K> Default for Throttles<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K> Throttles<K> {
    /// The next request of `kind` begins a window of `retry_after`.
    pub(crate) fn arm(&self, kind: K, retry_after: Duration) {
        lock(&self.0).push(Throttle { kind, retry_after, end: None });
    }

    /// Forgets all of them.
    pub(crate) fn clear(&self) {
        lock(&self.0).clear();
    }

    /// The seconds of `Retry-After`, rounded up, for a request that meets a limit whose kind `matches`.
    pub(crate) fn refusal(&self, matches: impl Fn(&K) -> bool) -> Option<u64> {
        let (now, mut throttles) = (Instant::now(), lock(&self.0));
        throttles.retain(|throttle| throttle.end.is_none_or(|end| now < end));
        let met = throttles.iter_mut().find(|throttle| matches(&throttle.kind))?;
        let end = *met.end.get_or_insert(now + met.retry_after);
        Some((end - now).as_millis().div_ceil(1000) as u64)
    }
}
