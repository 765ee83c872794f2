//! What is waited for, told on standard error: after two seconds, then every fifteen. A connection that comes at once
//! says nothing.

use std::cell::RefCell;
use std::io::{Stderr, Write, stderr};
use std::time::Duration;

use tokio::time::{Instant, interval_at};

use crate::line::one_line;

/// The first line comes after this time.
const FIRST: Duration = Duration::from_secs(2);
/// And one each time after that.
const EVERY: Duration = Duration::from_secs(15);

/// The present object of a wait, which the work under way changes as it goes.
#[derive(Debug)]
pub(crate) struct Waiting<W = Stderr> {
    object: RefCell<String>,
    out: RefCell<W>,
}

impl Default for Waiting {
    fn default() -> Self {
        Self { object: RefCell::default(), out: RefCell::new(stderr()) }
    }
}

impl<W: Write> Waiting<W> {
    /// From now on it is this that is waited for; it reads after "waiting for the".
    pub(crate) fn for_the(&self, object: String) {
        self.object.replace(object);
    }

    /// Does `work`, and tells what it waits for while it takes long.
    pub(crate) async fn during<T>(&self, work: impl Future<Output = T>) -> T {
        let start = Instant::now();
        let mut lines = interval_at(start + FIRST, EVERY);
        tokio::pin!(work);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return done,
                now = lines.tick() => self.tell(now - start),
            }
        }
    }

    /// A standard error that is gone is no reason to stop.
    fn tell(&self, elapsed: Duration) {
        let (object, mut out) = (self.object.borrow(), self.out.borrow_mut());
        let line = format!("arcssh: waiting for the {object}; {} s so far", elapsed.as_secs());
        let _ = writeln!(out, "{}", one_line(&line));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::sleep;

    #[tokio::test(start_paused = true)]
    async fn a_line_comes_after_two_seconds_and_then_every_fifteen() {
        let waiting = Waiting { object: RefCell::default(), out: RefCell::new(Vec::new()) };
        let work = async {
            waiting.for_the("first answer".into());
            sleep(Duration::from_secs(3)).await;
            waiting.for_the("second".into());
            sleep(Duration::from_secs(30)).await;
        };
        waiting.during(work).await;
        let told = String::from_utf8(waiting.out.into_inner()).unwrap();
        assert_eq!(
            told.lines().collect::<Vec<_>>(),
            [
                "arcssh: waiting for the first answer; 2 s so far",
                "arcssh: waiting for the second; 17 s so far",
                "arcssh: waiting for the second; 32 s so far",
            ]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn work_that_is_done_at_once_says_nothing() {
        let waiting = Waiting { object: RefCell::default(), out: RefCell::new(Vec::new()) };
        waiting.during(sleep(Duration::from_millis(1900))).await;
        assert!(waiting.out.into_inner().is_empty());
    }
}
