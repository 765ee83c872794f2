//! Connecting to a machine: which credentials to try, in which order, and when to request others.

use std::cell::Cell;
use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;
use tracing::info;

use crate::azure::hybrid_connectivity::RelayCredentials;
use crate::azure::relay_credential_cache::{IssuedCredentials, RelayCredentialCache, STALE_GRACE};
use crate::azure::target::Target;
use crate::net::{self, Net};
use crate::relay::handshake::{ConnectError, MIN_ATTEMPT, Upgraded, wait_for_listener};
use crate::terminal::progress::Progress;

/// The time limit for everything that a connection requests from Azure, access tokens included: a program that prints a
/// token has 60 s, and each of three pauses that Azure demands has 30 s.
pub(crate) const ARM_TIMEOUT: Duration = Duration::from_secs(150);

/// Connects to a port of a machine.
pub(crate) struct Connector<'a> {
    pub(crate) net: &'a Net,
    /// The machine and port.
    pub(crate) target: &'a Target,
    /// How long to retry while there is no listener.
    pub(crate) wait: Duration,
    /// Shows the current step.
    pub(crate) progress: &'a Progress,
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
        let mut deadline = Instant::now() + self.wait;
        let cached = cache.cached()?.into_iter().map(|issued| (Attempt::Cached, issued));
        let mut queue: VecDeque<_> = cached.collect();
        let mut rejected = Vec::new();
        loop {
            let (attempt, issued) = match queue.pop_front() {
                Some(next) => next,
                None if rejected.is_empty() => {
                    let issued = self.request_credentials(cache, &rejected).await?;
                    deadline = Instant::now() + self.wait;
                    (Attempt::Fresh, issued)
                }
                None => (Attempt::Replacement, self.request_credentials(cache, &rejected).await?),
            };
            let (is_propagating, is_last) = (issued.is_propagating(), queue.is_empty());
            let left = deadline.saturating_duration_since(Instant::now());
            let limit = match (is_last, is_propagating) {
                (true, true) => left,
                (true, false) => left.min(STALE_GRACE),
                (false, _) => Duration::ZERO,
            };
            match self.dial(&issued.credentials, limit).await {
                Ok((upgraded, tries)) => {
                    cache.report(&rejected, (tries > 1).then_some(&issued));
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
                Err(error) if error.is_transient() && Instant::now() < deadline => {
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
        Ok(self.dial(credentials, self.wait).await?.0)
    }

    async fn request_credentials(
        &self,
        cache: &RelayCredentialCache<'_>,
        rejected: &[IssuedCredentials],
    ) -> Result<IssuedCredentials, ConnectError> {
        let object = format!("relay credentials of {} from Azure Resource Manager", self.target);
        let request = async { Ok::<_, ConnectError>(cache.request(rejected).await?) };
        self.progress.run_with_timeout(ARM_TIMEOUT, object, request).await
    }

    /// Returns the connection and the number of tries.
    async fn dial(
        &self,
        credentials: &RelayCredentials,
        retry_limit: Duration,
    ) -> Result<(Upgraded<net::Stream>, u32), ConnectError> {
        let start = Instant::now();
        let tries = Cell::new(1);
        // Later, the limit of all tries is shown.
        let on_step = |limit| {
            if tries.get() == 1 {
                self.progress.set_deadline(format!("relay {}", credentials.relay), limit);
            }
        };
        let on_retry = |error: &ConnectError| {
            tries.set(tries.get() + 1);
            let object = format!("agent of {} to listen ({})", self.target, error.brief());
            // Other transient errors are retried until `wait` ends. The last try begins when the limit ends.
            let limit = if error.is_no_listener() { retry_limit } else { retry_limit.max(self.wait) };
            self.progress.set_deadline(object, (limit + MIN_ATTEMPT).saturating_sub(start.elapsed()));
        };
        let upgraded =
            wait_for_listener(self.net, credentials, self.target.port, retry_limit, on_step, on_retry)
                .await?;
        Ok((upgraded, tries.get()))
    }
}
