//! What is waited for, told on standard error: after two seconds, then every fifteen. A connection that comes at once
//! says nothing.

use std::cell::RefCell;
use std::io::Write;
use std::time::Duration;

use tokio::time::{Instant, interval_at};

/// The first line comes after this time.
const FIRST: Duration = Duration::from_secs(2);
/// And one each time after that.
const EVERY: Duration = Duration::from_secs(15);

/// The present object of a wait, which the work under way changes as it goes.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    object: RefCell<String>,
}

impl Waiting {
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
        let object = self.object.borrow();
        let _ =
            writeln!(std::io::stderr(), "arcssh: waiting for the {object}; {} s so far", elapsed.as_secs());
    }
}
