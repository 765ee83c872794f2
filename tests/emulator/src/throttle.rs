//! Throttling windows, in which a service answers 429 with `Retry-After`.

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
