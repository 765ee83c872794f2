//! The cache of access tokens, in this process and in the state directory.
//!
//! However many processes need the same token, one of them requests it.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use tracing::info;

use crate::azure::credentials::source::{SourceError, Unavailable};
use crate::azure::credentials::{AccessToken, CredentialError, CredentialSource};
use crate::state::{Key, Kind, Store};
use crate::system::SystemError;
use crate::system::clock::since_epoch;

/// The tokens of one credential chain.
#[derive(Debug)]
pub(super) struct TokenCache {
    store: Store,
    /// The time since which this process needs tokens. It ignores earlier errors of other processes.
    since: Duration,
    /// The tokens of this process by key. The lock is held during a request, so that each token is requested once.
    tokens: Mutex<BTreeMap<String, AccessToken>>,
}

impl TokenCache {
    pub(super) fn new(store: &Store) -> Self {
        Self { store: store.clone(), since: since_epoch(), tokens: Mutex::default() }
    }

    /// Returns the cached token, or the new one of `fetch`.
    pub(super) async fn get_or_fetch(
        &self,
        key: Key,
        tenant: Option<&str>,
        fetch: impl AsyncFnOnce() -> Result<AccessToken, CredentialError>,
    ) -> Result<AccessToken, CredentialError> {
        let mut tokens = self.tokens.lock().await;
        if let Some(token) = tokens.get(&key.name).filter(|token| token.is_fresh()) {
            return Ok(token.clone());
        }
        let token = match self.stored(&key)? {
            Some(token) => token,
            None => self.fetch_locked(&key, tenant, fetch).await?,
        };
        tokens.insert(key.name, token.clone());
        Ok(token)
    }

    /// Removes a token that Azure rejected.
    pub(super) async fn invalidate(&self, key: &Key, token: &AccessToken) -> Result<(), SystemError> {
        self.tokens.lock().await.retain(|_, other| other.secret != token.secret);
        if self.store.read::<AccessToken>(key)?.is_some_and(|stored| stored.secret == token.secret) {
            self.store.remove(key);
        }
        Ok(())
    }

    async fn fetch_locked(
        &self,
        key: &Key,
        tenant: Option<&str>,
        fetch: impl AsyncFnOnce() -> Result<AccessToken, CredentialError>,
    ) -> Result<AccessToken, CredentialError> {
        let _lock = self.store.lock(key).await;
        // The process that held the lock before may have stored a token.
        if let Some(token) = self.stored(key)? {
            return Ok(token);
        }
        let error_key = Key::new(Kind::Rejection, key.name.as_str());
        let error: Option<CachedError> = self.store.read(&error_key)?;
        if let Some(error) = error.filter(|error| (self.since..since_epoch()).contains(&error.at)) {
            return Err(error.into_error(tenant));
        }
        let fetched = fetch().await;
        match &fetched {
            Ok(token) => {
                self.store.write(key, token);
                // About once an hour.
                self.store.remove_expired();
            }
            Err(error) => {
                if let Some(cause) = Cause::of(error) {
                    self.store.write(&error_key, &CachedError { cause, at: since_epoch() });
                }
            }
        }
        fetched
    }

    fn stored(&self, key: &Key) -> Result<Option<AccessToken>, SystemError> {
        let token = self.store.read::<AccessToken>(key)?.filter(AccessToken::is_fresh);
        if let Some(token) = &token {
            info!(expires_on = token.expires_on, "using the cached token of {}", token.source.title());
        }
        Ok(token.map(|token| AccessToken { cached: true, ..token }))
    }
}

/// The error of a program, shared with all processes that waited for its token: they do not start the program again.
#[derive(Serialize, Deserialize)]
struct CachedError {
    cause: Cause,
    /// Since the Unix epoch.
    at: Duration,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Cause {
    /// A program failed with this message.
    Failed(CredentialSource, String),
    /// The output of a program contains no token.
    NoToken(CredentialSource),
    /// The selected source is unavailable.
    Unavailable(CredentialSource, Unavailable),
    /// No source is available.
    NotSignedIn(Vec<(CredentialSource, Unavailable)>),
}

impl Cause {
    /// Returns the cause, if a program was started.
    fn of(error: &CredentialError) -> Option<Self> {
        match error {
            CredentialError::Failed { from, error, .. } if from.is_program() => match &**error {
                SourceError::OtherCloud { message, .. } | SourceError::Failed(message) => {
                    Some(Self::Failed(*from, message.clone()))
                }
                SourceError::NoToken => Some(Self::NoToken(*from)),
                _ => None,
            },
            CredentialError::Unavailable { from, unavailable } if from.is_program() => {
                Some(Self::Unavailable(*from, unavailable.clone()))
            }
            CredentialError::NotSignedIn(reasons) if reasons.iter().any(|(from, _)| from.is_program()) => {
                Some(Self::NotSignedIn(reasons.clone()))
            }
            _ => None,
        }
    }
}

impl CachedError {
    fn into_error(self, tenant: Option<&str>) -> CredentialError {
        let failed = |from, error: SourceError| CredentialError::Failed {
            from,
            tenant: tenant.map(Into::into),
            error: error.into(),
        };
        match self.cause {
            Cause::Failed(from, message) => failed(from, SourceError::Failed(message)),
            Cause::NoToken(from) => failed(from, SourceError::NoToken),
            Cause::Unavailable(from, unavailable) => CredentialError::Unavailable { from, unavailable },
            Cause::NotSignedIn(reasons) => CredentialError::NotSignedIn(reasons),
        }
    }
}
