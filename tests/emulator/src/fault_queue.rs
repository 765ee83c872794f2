//! The faults that a test has queued for one service.

use std::collections::VecDeque;
use std::sync::Mutex;

use crate::journal::lock;

/// Faults in the order in which the test added them, each with the number of requests that it still applies to.
pub(crate) struct FaultQueue<F>(Mutex<VecDeque<(F, usize)>>);

impl<F> Default for FaultQueue<F> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<F: Clone> FaultQueue<F> {
    pub(crate) fn add(&self, fault: F, times: usize) {
        lock(&self.0).push_back((fault, times));
    }

    pub(crate) fn clear(&self) {
        lock(&self.0).clear();
    }

    /// Takes the first fault that `applies` to a request.
    pub(crate) fn next(&self, applies: impl Fn(&F) -> bool) -> Option<F> {
        let mut faults = lock(&self.0);
        let index = faults.iter().position(|(fault, _)| applies(fault))?;
        let (fault, left) = &mut faults[index];
        let fault = fault.clone();
        *left = left.saturating_sub(1);
        if *left == 0 {
            faults.remove(index);
        }
        Some(fault)
    }
}
