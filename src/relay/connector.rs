//! How a machine is reached: which credentials are dialled with, in which order, and when others are asked for.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;
use tracing::info;

use crate::azure::hybrid_connectivity::RelayCredentials;
use crate::azure::relay_credential_cache::{IssuedCredentials, RelayCredentialCache, STALE_GRACE};
use crate::azure::target::Target;
use crate::net::{self, Net};
use crate::relay::handshake::{ConnectError, MIN_ATTEMPT, UPGRADE_TIMEOUT, Upgraded, wait_for_listener};
use crate::terminal::progress::Progress;

/// How long Azure may take for what a connection needs of it, with all that it takes to be known there: a program that is
/// asked for a token has 60 s, and each of three pauses that Azure asks for 30 s.
pub(crate) const ARM_TIMEOUT: Duration = Duration::from_secs(150);

/// A way to one port of a machine.
pub(crate) struct Connector<'a> {
    /// The way out.
    pub(crate) net: &'a Net,
    /// Where to.
    pub(crate) target: &'a Target,
    /// How long to go on trying while nobody listens.
    pub(crate) wait: Duration,
    /// Where it is told what is waited for.
    pub(crate) waiting: &'a Progress,
}

impl Connector<'_> {
    /// Dials with what is kept, and with newly minted credentials where there are none or they are of no use; what was
    /// dialled with comes with the connection.
    ///
    /// # Errors
    /// The last refusal.
    pub(crate) async fn connect(
        &self,
        credentials: &RelayCredentialCache<'_>,
    ) -> Result<(Upgraded<net::Stream>, IssuedCredentials), ConnectError> {
        let mut deadline = Instant::now() + self.wait;
        let mut kept = VecDeque::from(credentials.cached()?);
        let (mut rejected, mut replaced) = (Vec::new(), false);
        loop {
            let minted = match kept.pop_front() {
                Some(minted) => minted,
                None => {
                    replaced = !rejected.is_empty();
                    let minted = self.request_credentials(credentials, &rejected).await?;
                    if !replaced {
                        deadline = Instant::now() + self.wait;
                    }
                    minted
                }
            };
            let (young, last) = (minted.is_propagating(), kept.is_empty());
            let left = deadline.saturating_duration_since(Instant::now());
            let patience = match last {
                true if young => left,
                true => left.min(STALE_GRACE),
                false => Duration::ZERO,
            };
            match self.try_credentials(credentials, &minted, patience).await {
                Ok(upgraded) => {
                    credentials.invalidate(&rejected);
                    return Ok((upgraded, minted));
                }
                // An agent may yet hear of a young name.
                Err(error) if !replaced && (error.is_unauthorized() || error.is_no_listener() && !young) => {
                    info!("{error}; no more of these credentials");
                    rejected.push(minted);
                }
                Err(error) if error.is_transient() && !last => info!("{error}; dialling with others"),
                // New ones would meet the same fault on the way.
                Err(error) if error.is_transient() && Instant::now() < deadline => kept.push_back(minted),
                Err(error) => return Err(error),
            }
        }
    }

    /// Dials with credentials that were given.
    ///
    /// # Errors
    /// The last refusal.
    pub(crate) async fn connect_with(
        &self,
        credentials: &RelayCredentials,
    ) -> Result<Upgraded<net::Stream>, ConnectError> {
        Ok(self.dial(credentials, self.wait).await?.0)
    }

    async fn request_credentials(
        &self,
        credentials: &RelayCredentialCache<'_>,
        rejected: &[IssuedCredentials],
    ) -> Result<IssuedCredentials, ConnectError> {
        let object = format!("relay credentials of {} from Azure Resource Manager", self.target);
        self.waiting
            .run_with_timeout(ARM_TIMEOUT, object, async {
                Ok::<_, ConnectError>(credentials.request(rejected).await?)
            })
            .await
    }

    /// Dials, and notes how long the agent took to listen where it had to be waited for.
    async fn try_credentials(
        &self,
        credentials: &RelayCredentialCache<'_>,
        minted: &IssuedCredentials,
        patience: Duration,
    ) -> Result<Upgraded<net::Stream>, ConnectError> {
        let (upgraded, tries) = self.dial(&minted.credentials, patience).await?;
        if tries > 1 {
            credentials.record_propagation(minted);
        }
        Ok(upgraded)
    }

    /// The connection, and after how many tries.
    async fn dial(
        &self,
        credentials: &RelayCredentials,
        patience: Duration,
    ) -> Result<(Upgraded<net::Stream>, u32), ConnectError> {
        let (start, limit) = (Instant::now(), patience.max(MIN_ATTEMPT));
        self.waiting.set_deadline(format!("relay {}", credentials.relay), limit.min(UPGRADE_TIMEOUT));
        let mut tries = 1;
        let on_retry = |error: &ConnectError| {
            tries += 1;
            let object = format!("agent of {} to listen ({})", self.target, error.brief());
            // What may pass on the way is waited out to the end. The last try begins when the patience ends.
            let patience = if error.is_no_listener() { patience } else { patience.max(self.wait) };
            self.waiting.set_deadline(object, (patience + MIN_ATTEMPT).saturating_sub(start.elapsed()));
        };
        let upgraded = wait_for_listener(self.net, credentials, self.target.port, patience, on_retry).await?;
        Ok((upgraded, tries))
    }
}
