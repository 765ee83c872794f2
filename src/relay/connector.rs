//! Connecting to a machine: which credentials to try, in which order, and when to request others.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tracing::info;

use crate::azure::hybrid_connectivity::RelayCredentials;
use crate::azure::relay_credential_cache::{IssuedCredentials, RelayCredentialCache, STALE_GRACE};
use crate::azure::target::Target;
use crate::net::{self, Net, Step};
use crate::relay::handshake::{self, ConnectError, Rejection, Upgraded};
use crate::relay::hedge::{self, HedgeBudget};
use crate::state::Store;
use crate::terminal::progress::{self, Progress};

/// The time limit for everything that a connection requests from Azure, access tokens included: a program that prints a
/// token has 60 s, and each of three pauses that Azure demands has 30 s.
pub(crate) const ARM_TIMEOUT: Duration = Duration::from_secs(150);

/// The attempts that give up after a short silence: a response that has not come by then usually never comes (aztunnel issue
/// 142), and programs such as Ansible give ssh 10 s.
const IMPATIENT: u32 = 2;
/// The least time limit of a step, even if less of `wait` is left: enough for a slow network.
const MIN_LIMIT: Duration = Duration::from_secs(10);
/// The time limit of a step in which another host connects to a third one. The relay gives the listener about 30 s to accept
/// (Relay Hybrid Connections protocol, "accept"), so its own 504 arrives earlier.
const MAX_LIMIT: Duration = Duration::from_secs(40);

/// Connects to a port of a machine.
pub(crate) struct Connector<'a> {
    pub(crate) net: &'a Net,
    /// The machine and port.
    pub(crate) target: &'a Target,
    /// How long to retry while there is no listener.
    pub(crate) wait: Duration,
    /// Shows the current step.
    pub(crate) progress: &'a Progress,
    /// Called each time that the relay knows no listener.
    pub(crate) on_no_listener: &'a dyn Fn(),
}

/// The origin of the credentials that are tried.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Attempt {
    /// The cache.
    Cached,
    /// A request, because the cache had none.
    Fresh,
    /// A request, because the relay rejected others.
    Replacement,
}

impl Connector<'_> {
    /// Connects with cached credentials, or requests new ones if there are none or the relay rejects them. Returns the
    /// credentials of the connection too.
    ///
    /// # Errors
    /// The error of the last attempt.
    pub(crate) async fn connect(
        &self,
        cache: &RelayCredentialCache<'_>,
    ) -> Result<(Upgraded<net::Stream>, IssuedCredentials), ConnectError> {
        let mut dialling = Dialling::new(self, cache.store());
        let cached = cache.cached()?.into_iter().map(|issued| (Attempt::Cached, issued));
        let mut queue: VecDeque<_> = cached.collect();
        let mut rejected = Vec::new();
        loop {
            let (attempt, issued) = match queue.pop_front() {
                Some(next) => next,
                None if rejected.is_empty() => {
                    let issued = self.request_credentials(cache, &rejected).await?;
                    dialling.deadline = Instant::now() + self.wait;
                    (Attempt::Fresh, issued)
                }
                None => (Attempt::Replacement, self.request_credentials(cache, &rejected).await?),
            };
            let (is_propagating, is_last) = (issued.is_propagating(), queue.is_empty());
            let left = dialling.left();
            let limit = match (is_last, is_propagating) {
                (true, true) => left,
                (true, false) => left.min(STALE_GRACE),
                (false, _) => Duration::ZERO,
            };
            let attempts = dialling.attempts;
            match dialling.dial(&issued.credentials, limit).await {
                Ok(upgraded) => {
                    cache.report(&rejected, (dialling.attempts - attempts > 1).then_some(&issued));
                    return Ok((upgraded, issued));
                }
                // The agent can still learn about a new name.
                Err(error)
                    if attempt != Attempt::Replacement
                        && (error.is_unauthorized() || error.is_no_listener() && !is_propagating) =>
                {
                    info!("{error}; discarding these credentials");
                    rejected.push(issued);
                }
                Err(error) if error.is_transient() && !is_last => info!("{error}; trying other credentials"),
                // New credentials would meet the same error.
                Err(error) if error.is_transient() && !dialling.left().is_zero() => {
                    queue.push_back((attempt, issued));
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Connects with these credentials.
    ///
    /// # Errors
    /// The error of the last try.
    pub(crate) async fn connect_with(
        &self,
        credentials: &RelayCredentials,
    ) -> Result<Upgraded<net::Stream>, ConnectError> {
        let store = Store::open().unwrap_or_else(|_| Store::disabled());
        Dialling::new(self, &store).dial(credentials, self.wait).await
    }

    async fn request_credentials(
        &self,
        cache: &RelayCredentialCache<'_>,
        rejected: &[IssuedCredentials],
    ) -> Result<IssuedCredentials, ConnectError> {
        let step = progress::Step::wait("relay credentials").with(format!(" of {}", self.target));
        let step = step.with(" from Azure Resource Manager");
        let request = async { Ok::<_, ConnectError>(cache.request(rejected).await?) };
        self.progress.run_with_timeout(ARM_TIMEOUT, step, request).await
    }
}

/// The attempts of one connection.
struct Dialling<'a> {
    connector: &'a Connector<'a>,
    /// When the last attempt begins.
    deadline: Instant,
    /// The number of attempts so far.
    attempts: u32,
    budget: HedgeBudget<'a>,
}

impl<'a> Dialling<'a> {
    fn new(connector: &'a Connector<'a>, store: &'a Store) -> Self {
        let (deadline, budget) = (Instant::now() + connector.wait, HedgeBudget::new(store));
        Self { connector, deadline, attempts: 0, budget }
    }

    fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// Connects with these credentials, and retries transient errors for `retry_limit`.
    ///
    /// # Errors
    /// The error of the last attempt.
    async fn dial(
        &mut self,
        credentials: &RelayCredentials,
        retry_limit: Duration,
    ) -> Result<Upgraded<net::Stream>, ConnectError> {
        let retry_until = Instant::now() + retry_limit;
        let mut backoff = backoff();
        loop {
            self.attempts += 1;
            let error = match self.attempt(credentials).await {
                Ok(upgraded) => {
                    self.budget.add();
                    return Ok(upgraded);
                }
                Err(error) => error,
            };
            if error.is_no_listener() {
                (self.connector.on_no_listener)();
            }
            let left = retry_until.saturating_duration_since(Instant::now());
            if !error.is_transient() || left.is_zero() {
                return Err(error);
            }
            // The last attempt starts at the end of the limit. After a silence, more waiting is of no use.
            let pause = if error.is_silence() { None } else { backoff.next() };
            let pause = pause.unwrap_or_default().min(left);
            info!("{error}; retrying in {:.0} s", pause.as_secs_f32());
            self.show_retry(&error, credentials, left);
            sleep(pause).await;
        }
    }

    /// Dials once, or twice if the first dial of the connection is late.
    async fn attempt(&self, credentials: &RelayCredentials) -> Result<Upgraded<net::Stream>, ConnectError> {
        let Connector { net, target, progress, .. } = self.connector;
        let dial = async |limit: &dyn Fn(Step) -> Duration| {
            handshake::dial(net, credentials, target.port, limit).await
        };
        let limit = |step| step_limit(step, self.attempts, self.left());
        if self.attempts > 1 {
            return dial(&limit).await;
        }
        let shown = |step| {
            progress.set_deadline(relay(credentials), self.left() + MIN_LIMIT);
            limit(step)
        };
        let allows_second = || net.allows_second(credentials.relay.authority());
        hedge::dial(shown, dial, allows_second, &self.budget).await
    }

    /// Shows the reason for a retry, and how long arcssh retries: while there is no listener for `left`, else for the whole
    /// time.
    fn show_retry(&self, error: &ConnectError, credentials: &RelayCredentials, left: Duration) {
        let Connector { target, progress, .. } = self.connector;
        let step = match error {
            _ if error.is_silence() => relay(credentials).with(", which does not respond"),
            ConnectError::Rejected(rejection) => awaited(rejection, target),
            _ => relay(credentials).with(", which the proxy does not reach"),
        };
        let left = if error.is_no_listener() { left } else { left.max(self.left()) };
        progress.set_deadline(step, left + MIN_LIMIT);
    }
}

fn relay(credentials: &RelayCredentials) -> progress::Step {
    progress::Step::wait("relay").with(format!(" {}", credentials.relay))
}

/// Returns what a retry after a rejection waits for. The log has the text of the relay.
fn awaited(rejection: &Rejection, target: &Target) -> progress::Step {
    let agent = progress::Step::wait(format!("agent of {target}")).or("agent");
    match rejection.status {
        404 => agent.with(", which is not connected yet"),
        408 | 504 => agent.with(", which does not respond yet"),
        429 => progress::Step::wait("relay").with(format!(" of {target}")).with(", which limits requests"),
        _ => progress::Step::wait("relay").with(format!(" of {target}")).with(", which failed"),
    }
}

/// Returns the time limit of a step. Only another host that connects to a third one can take long.
fn step_limit(step: Step, attempt: u32, left: Duration) -> Duration {
    match step {
        Step::Onward if attempt > IMPATIENT => left.clamp(MIN_LIMIT, MAX_LIMIT),
        Step::Onward | Step::Direct => MIN_LIMIT,
    }
}

/// Returns the pauses between attempts, which are those of aztunnel. The agent learns about a new name only after some time.
fn backoff() -> impl Iterator<Item = Duration> {
    [1, 2, 4].into_iter().chain(std::iter::repeat(5)).map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_two_attempts_give_up_after_ten_seconds_of_silence_and_later_ones_wait_for_a_slow_agent() {
        let limit = |step, attempt, left| step_limit(step, attempt, Duration::from_secs(left)).as_secs();
        assert_eq!([1, 2, 3, 4].map(|attempt| limit(Step::Onward, attempt, 90)), [10, 10, 40, 40]);
        assert_eq!([1, 2, 3, 4].map(|attempt| limit(Step::Direct, attempt, 90)), [10; 4]);
        assert_eq!([35, 10, 3, 0].map(|left| limit(Step::Onward, 3, left)), [35, 10, 10, 10]);
    }

    #[test]
    fn pauses_grow_to_five_seconds() {
        let seconds: Vec<u64> = backoff().take(6).map(|pause| pause.as_secs()).collect();
        assert_eq!(seconds, [1, 2, 4, 5, 5, 5]);
    }
}
