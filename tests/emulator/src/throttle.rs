//! Throttling windows, in which a service answers 429 with `Retry-After`, and the quota of a user.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::journal::lock;

/// Armed and open windows, each for requests of one kind.
pub(crate) struct Throttles<K>(Mutex<Vec<Throttle<K>>>);

struct Throttle<K> {
    kind: K,
    retry_after: Duration,
    /// `None` until the first request of this kind opens the window.
    end: Option<Instant>,
}

impl<K> Default for Throttles<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K> Throttles<K> {
    /// Arms a window of `retry_after` that the next request of `kind` opens.
    pub(crate) fn arm(&self, kind: K, retry_after: Duration) {
        lock(&self.0).push(Throttle { kind, retry_after, end: None });
    }

    pub(crate) fn clear(&self) {
        lock(&self.0).clear();
    }

    /// Returns the seconds of `Retry-After`, rounded up, if a window whose kind `matches` is open. Opens an armed window.
    pub(crate) fn retry_after(&self, matches: impl Fn(&K) -> bool) -> Option<u64> {
        let (now, mut throttles) = (Instant::now(), lock(&self.0));
        throttles.retain(|throttle| throttle.end.is_none_or(|end| now < end));
        let window = throttles.iter_mut().find(|throttle| matches(&throttle.kind))?;
        let end = *window.end.get_or_insert(now + window.retry_after);
        Some((end - now).as_millis().div_ceil(1000) as u64)
    }
}

/// A number of requests that a user may send in each window.
pub(crate) struct Quota {
    requests: usize,
    window: Duration,
    /// The end of the window, and the requests in it so far.
    current: Mutex<(Instant, usize)>,
}

/// What the headers of a response say about a quota.
pub(crate) struct QuotaState {
    pub(crate) is_exceeded: bool,
    pub(crate) remaining: usize,
    /// In seconds, rounded up.
    pub(crate) resets_after: u64,
}

impl Quota {
    pub(crate) fn new(requests: usize, window: Duration) -> Self {
        Self { requests, window, current: Mutex::new((Instant::now(), 0)) }
    }

    /// Counts a request.
    pub(crate) fn count(&self) -> QuotaState {
        let (now, mut current) = (Instant::now(), lock(&self.current));
        if current.0 <= now {
            *current = (now + self.window, 0);
        }
        current.1 += 1;
        QuotaState {
            is_exceeded: current.1 > self.requests,
            remaining: self.requests.saturating_sub(current.1),
            resets_after: (current.0 - now).as_millis().div_ceil(1000) as u64,
        }
    }
}
