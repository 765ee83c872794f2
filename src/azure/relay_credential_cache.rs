//! The cache of relay credentials, shared by all processes: one of them requests the credentials of a machine.
//!
//! Each listCredentials call issues a new name, which the machine's agent learns with a delay. arcssh therefore uses a
//! working name as long as possible, and requests its replacement long before the name expires.

use std::cell::RefCell;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tracing::info;

use crate::azure::arm::{Arm, ArmError, ErrorResponse};
use crate::azure::hybrid_connectivity::{RelayCredentials, Service, Unchecked, list_credentials};
use crate::azure::relay_host::RelaySuffixes;
use crate::azure::resource_id::ResourceId;
use crate::state::{Key, Kind, Lock, Store};
use crate::system::SystemError;
use crate::system::clock::unix_now;

/// Percent of their lifetime after which credentials are refreshed.
const REFRESH_AFTER: u64 = 70;
/// The longest accepted lifetime, in seconds (azure-rest-api-specs, `expiresin` of listCredentials).
const MAX_LIFETIME: u64 = 10_800;
/// Seconds before their expiry at which credentials are no longer used: a handshake takes time.
const EXPIRY_MARGIN: u64 = 5;
/// Seconds for the agent to learn about new credentials, during which the previous ones are preferred.
const MIN_PROPAGATION: u64 = 20;
/// The age, in seconds, up to which the relay may find no listener for a new name. 30 to 90 s are typical, and about 2
/// minutes were observed (aztunnel `docs/guides/sender-arc.md`; sshproxy logs in public issues).
const PROPAGATION_LIMIT: u64 = 120;
/// Seconds before a rejected request is retried.
const NEGATIVE_LIFETIME: u64 = 30;
/// The most cached credentials of a machine: those in use and their replacement.
const MAX_CACHED: usize = 2;

/// Relay credentials with their lifetime, in seconds of Unix time by this machine's clock.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct IssuedCredentials<C = RelayCredentials> {
    pub(crate) credentials: C,
    #[serde(rename = "at")]
    issued_at: u64,
    /// The server's expiry, converted from the server's clock to this machine's.
    #[serde(rename = "until")]
    expires_at: u64,
}

impl<C> IssuedCredentials<C> {
    /// Returns whether the credentials can be used. The clock was set back since they were issued if that time is in the
    /// future.
    fn is_valid(&self, now: u64) -> bool {
        self.issued_at <= now && now + EXPIRY_MARGIN < self.expires_at
    }
}

impl IssuedCredentials {
    fn new(credentials: RelayCredentials, date: Option<u64>, now: u64) -> Self {
        let server_now = date.unwrap_or(now);
        let lifetime = credentials.expires_on.map_or(0, |expiry| expiry.saturating_sub(server_now));
        Self { credentials, issued_at: now, expires_at: now + lifetime.min(MAX_LIFETIME) }
    }

    fn age(&self) -> u64 {
        unix_now().saturating_sub(self.issued_at)
    }

    /// Returns whether the agent may not know the credentials yet.
    pub(crate) fn is_propagating(&self) -> bool {
        self.age() < PROPAGATION_LIMIT
    }

    fn is(&self, other: &Self) -> bool {
        self.credentials.hybrid_connection_name == other.credentials.hybrid_connection_name
    }

    fn is_among(&self, others: &[Self]) -> bool {
        others.iter().any(|other| self.is(other))
    }
}

/// The cached credentials of a machine.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Record<C = RelayCredentials> {
    /// Oldest first.
    #[serde(rename = "minted")]
    issued: Vec<IssuedCredentials<C>>,
    /// The last known delay until the agent knew new credentials, in seconds.
    #[serde(rename = "settling")]
    propagation_secs: u64,
}

impl<C> Default for Record<C> {
    fn default() -> Self {
        Self { issued: Vec::new(), propagation_secs: 0 }
    }
}

impl Record<Unchecked> {
    /// Validates the credentials as in a response of Azure, and removes invalid ones.
    fn check(self, suffixes: &RelaySuffixes) -> Record {
        let check = |issued: IssuedCredentials<Unchecked>| {
            let IssuedCredentials { credentials, issued_at, expires_at } = issued;
            Some(IssuedCredentials { credentials: credentials.check(suffixes).ok()?, issued_at, expires_at })
        };
        Record {
            issued: self.issued.into_iter().filter_map(check).collect(),
            propagation_secs: self.propagation_secs,
        }
    }
}

impl Record {
    /// Returns the valid credentials, the preferred first: the newest once the agent has had time to learn about them,
    /// else the previous ones.
    fn in_order(mut self, now: u64) -> Vec<IssuedCredentials> {
        let propagation_secs = self.propagation_secs.max(MIN_PROPAGATION);
        self.issued.retain(|issued| issued.is_valid(now));
        if self.issued.last().is_some_and(|newest| newest.issued_at.saturating_add(propagation_secs) <= now) {
            self.issued.reverse();
        }
        self.issued
    }

    fn without(mut self, rejected: &[IssuedCredentials]) -> Self {
        self.issued.retain(|issued| !issued.is_among(rejected));
        self
    }

    /// Returns whether the credentials are due for a refresh: after 70 % of their lifetime, or earlier so that the agent
    /// gets twice the time that it needed before.
    fn is_due(&self, issued: &IssuedCredentials, now: u64) -> bool {
        let lifetime = issued.expires_at.saturating_sub(issued.issued_at).min(MAX_LIFETIME);
        let propagation_secs = self.propagation_secs.max(MIN_PROPAGATION);
        let latest = lifetime.saturating_sub(propagation_secs.saturating_mul(2));
        let due = (lifetime * REFRESH_AFTER / 100).min(latest);
        lifetime > 0
            && self.issued.last().is_none_or(|newest| newest.is(issued))
            && issued.issued_at.saturating_add(due) <= now
    }
}

/// An error response of ARM, cached until a time in seconds of Unix time.
#[derive(Serialize, Deserialize)]
struct CachedRejection {
    #[serde(rename = "refusal")]
    response: ErrorResponse,
    until: u64,
}

impl CachedRejection {
    /// Returns whether the cached error replaces a request. The clock was set back if more than the lifetime is left.
    fn is_valid(&self, now: u64) -> bool {
        self.until.checked_sub(now).is_some_and(|left| (1..=NEGATIVE_LIFETIME).contains(&left))
    }
}

/// The cache for one service of one machine.
#[derive(Debug)]
pub(crate) struct RelayCredentialCache<'a> {
    arm: &'a Arm,
    store: &'a Store,
    machine: ResourceId,
    service: Service,
    key: Key,
    /// The record that [`Self::cached`] has read, or [`Self::report`] has written.
    read: RefCell<Record>,
}

impl<'a> RelayCredentialCache<'a> {
    pub(crate) fn new(
        arm: &'a Arm,
        store: &'a Store,
        machine: &ResourceId,
        service: Service,
        port: u16,
    ) -> Self {
        let id = machine.to_string().to_lowercase();
        let name = format!("{}{id} {service} {port}", arm.authority());
        Self {
            arm,
            store,
            machine: machine.clone(),
            service,
            key: Key::new(Kind::Relay, name),
            read: RefCell::default(),
        }
    }

    /// Returns the state directory of the cache.
    pub(crate) fn store(&self) -> &'a Store {
        self.store
    }

    /// Returns the cached credentials, the preferred first.
    ///
    /// # Errors
    /// Other users can access the state directory.
    pub(crate) fn cached(&self) -> Result<Vec<IssuedCredentials>, SystemError> {
        let record = self.record()?;
        self.read.replace(record.clone());
        Ok(record.in_order(unix_now()))
    }

    /// Requests credentials, or returns those that another process has requested in the meantime. Removes the
    /// `rejected` ones.
    ///
    /// # Errors
    /// See [`ArmError`]. ARM's error response is cached for [`NEGATIVE_LIFETIME`].
    pub(crate) async fn request(
        &self,
        rejected: &[IssuedCredentials],
    ) -> Result<IssuedCredentials, ArmError> {
        let _lock = self.store.lock(&self.key).await;
        let newest = self.record()?.issued.pop();
        match newest.filter(|newest| newest.is_valid(unix_now()) && !newest.is_among(rejected)) {
            Some(newest) => Ok(newest),
            None => self.request_locked(rejected).await,
        }
    }

    /// Requests a replacement if it is due and no other process requests it.
    pub(crate) async fn refresh(&self, issued: &IssuedCredentials) {
        let Some(lock) = self.store.try_lock(&self.key) else { return };
        match self.record() {
            Ok(record) if record.is_due(issued, unix_now()) => {}
            _ => return,
        }
        if let Err(error) = self.request_locked(&[]).await {
            info!("cannot refresh the relay credentials: {error}");
        }
        drop::<Lock>(lock);
    }

    /// Returns whether the credentials are due for a refresh, as far as this process knows. [`Self::refresh`] reads the record
    /// again.
    pub(crate) fn is_due(&self, issued: &IssuedCredentials) -> bool {
        self.read.borrow().is_due(issued, unix_now())
    }

    /// Records the outcome of a connection. Deletes `rejected` credentials, so that the others are due for another
    /// successor. The age of `awaited` credentials, for which the agent needed time, becomes the expected time.
    pub(crate) fn report(&self, rejected: &[IssuedCredentials], awaited: Option<&IssuedCredentials>) {
        let awaited = awaited.filter(|issued| issued.is_propagating());
        if rejected.is_empty() && awaited.is_none() {
            return;
        }
        let Some(_lock) = self.store.try_lock(&self.key) else { return };
        if let Ok(record) = self.record() {
            let propagation_secs = awaited.map_or(record.propagation_secs, IssuedCredentials::age);
            let record = Record { propagation_secs, ..record.without(rejected) };
            self.store.write(&self.key, &record);
            self.read.replace(record);
        }
    }

    async fn request_locked(&self, rejected: &[IssuedCredentials]) -> Result<IssuedCredentials, ArmError> {
        let negative = self.negative_key()?;
        let rejection: Option<CachedRejection> = self.store.read(&negative)?;
        if let Some(rejection) = rejection.filter(|rejection| rejection.is_valid(unix_now())) {
            return Err(ArmError::Rejected(rejection.response));
        }
        match list_credentials(self.arm, &self.machine, self.service).await {
            Ok((credentials, date)) => {
                let issued = IssuedCredentials::new(credentials, date, unix_now());
                info!(relay = %issued.credentials.relay, until = issued.expires_at, "new relay credentials");
                self.save(issued.clone(), rejected)?;
                self.store.remove(&negative);
                Ok(issued)
            }
            Err(error) => {
                self.save_error(&negative, &error);
                Err(error)
            }
        }
    }

    fn save(&self, issued: IssuedCredentials, rejected: &[IssuedCredentials]) -> Result<(), SystemError> {
        let Record { issued: mut all, propagation_secs } = self.record()?.without(rejected);
        all.push(issued);
        let issued = all.split_off(all.len().saturating_sub(MAX_CACHED));
        self.store.write(&self.key, &Record { issued, propagation_secs });
        Ok(())
    }

    /// Returns the key of a cached error response, which applies to one account.
    fn negative_key(&self) -> Result<Key, SystemError> {
        Ok(Key::new(Kind::Rejection, format!("{} to {}", self.key.name, self.arm.account_key()?)))
    }

    /// Caches 403 and 404 for other processes, for example for Ansible's forks. `arcssh setup` fixes a 412 at once.
    fn save_error(&self, negative: &Key, error: &ArmError) {
        if let ArmError::Rejected(response) = error
            && matches!(response.status, 403 | 404)
            && response.claims.is_none()
        {
            let until = unix_now() + NEGATIVE_LIFETIME;
            self.store.write(negative, &CachedRejection { response: response.clone(), until });
        }
    }

    fn record(&self) -> Result<Record, SystemError> {
        let record: Record<Unchecked> = self.store.read(&self.key)?.unwrap_or_default();
        Ok(record.check(self.arm.relay_suffixes()))
    }
}

/// Deletes the cached credentials and errors of all services and ports of a machine.
pub(crate) fn forget(arm: &Arm, store: &Store, machine: &ResourceId) {
    delete(arm, store, machine, &[Kind::Relay, Kind::Rejection]);
}

/// Deletes the cached errors of a machine.
pub(crate) fn forget_rejections(arm: &Arm, store: &Store, machine: &ResourceId) {
    delete(arm, store, machine, &[Kind::Rejection]);
}

fn delete(arm: &Arm, store: &Store, machine: &ResourceId, kinds: &[Kind]) {
    let prefix = format!("{}{} ", arm.authority(), machine.to_string().to_lowercase());
    let keys =
        store.keys().into_iter().filter(|key| kinds.contains(&key.kind) && key.name.starts_with(&prefix));
    keys.for_each(|key| store.remove(&key));
}

/// Returns the remaining lifetime of the credentials under a key.
///
/// # Errors
/// Other users can access the state directory.
pub(crate) fn life_left(store: &Store, key: &Key) -> Result<Option<Duration>, SystemError> {
    let record: Record<Unchecked> = store.read(key)?.unwrap_or_default();
    let now = unix_now();
    let valid = record.issued.iter().filter(|issued| issued.is_valid(now));
    let expiry = valid.map(|issued| issued.expires_at).max();
    Ok(expiry.map(|expiry| Duration::from_secs(expiry - now)))
}

/// How long the relay may find no listener for a cached name before new credentials are requested: an agent that
/// reconnects needs some seconds.
pub(crate) const STALE_GRACE: Duration = Duration::from_secs(8);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::azure::cloud::CloudName;

    const RELAY: &str = r#"{"relay":{"namespaceName":"azgn","namespaceNameSuffix":"servicebus.windows.net",
        "hybridConnectionName":"NAME","accessKey":"SharedAccessSignature sr=x","expiresOn":1000}}"#;
    const HOUR: u64 = 3600;

    fn parse(json: &str) -> RelayCredentials {
        let suffixes = RelaySuffixes::new(&[CloudName::Public.relay_suffix()], None);
        RelayCredentials::from_json(json.as_bytes(), &suffixes).expect("well formed")
    }

    fn issued(name: &str, issued_at: u64, lifetime: u64) -> IssuedCredentials {
        let credentials = parse(&RELAY.replace("NAME", name));
        IssuedCredentials { credentials, issued_at, expires_at: issued_at + lifetime }
    }

    fn order(issued: &[&IssuedCredentials], propagation_secs: u64, now: u64) -> Vec<String> {
        let record = Record { issued: issued.iter().map(|&m| m.clone()).collect(), propagation_secs };
        record.in_order(now).into_iter().map(|issued| issued.credentials.hybrid_connection_name).collect()
    }

    #[test]
    fn expiry_is_calculated_from_the_servers_clock() {
        let credentials = || parse(RELAY);
        // This machine's clock is 500 s ahead, then 500 s behind; then the server's clock is unknown.
        assert_eq!(IssuedCredentials::new(credentials(), Some(900), 1400).expires_at, 1500);
        assert_eq!(IssuedCredentials::new(credentials(), Some(900), 400).expires_at, 500);
        assert_eq!(IssuedCredentials::new(credentials(), None, 950).expires_at, 1000);
        assert_eq!(IssuedCredentials::new(credentials(), Some(2000), 950).expires_at, 950);
        let endless = RelayCredentials { expires_on: Some(u64::MAX), ..credentials() };
        let endless = IssuedCredentials::new(endless, None, 950);
        assert_eq!(endless.expires_at, 950 + MAX_LIFETIME);
        assert!(!Record { issued: vec![endless.clone()], propagation_secs: u64::MAX }.is_due(&endless, 949));
    }

    #[test]
    fn the_newest_credentials_come_first_after_the_propagation_time() {
        let old = issued("old", 0, 3 * HOUR);
        let new = issued("new", 7600, 3 * HOUR);
        assert_eq!(order(&[&old, &new], 0, 7600 + MIN_PROPAGATION - 1), ["old", "new"]);
        assert_eq!(order(&[&old, &new], 0, 7600 + MIN_PROPAGATION), ["new", "old"]);
        assert_eq!(order(&[&old, &new], 60, 7600 + 59), ["old", "new"]);
        assert_eq!(order(&[&old, &new], 60, 3 * HOUR), ["new"]);
    }

    #[test]
    fn credentials_that_expired_or_come_from_the_future_are_not_used() {
        let one = issued("one", 100, HOUR);
        assert!(order(&[&one], 0, 99).is_empty());
        assert_eq!(order(&[&one], 0, 100), ["one"]);
        assert_eq!(order(&[&one], 0, 100 + HOUR - EXPIRY_MARGIN - 1), ["one"]);
        assert!(order(&[&one], 0, 100 + HOUR - EXPIRY_MARGIN).is_empty());
    }

    #[test]
    fn a_refresh_is_due_at_seventy_percent_or_earlier_for_a_slow_agent() {
        let is_due = |lifetime, propagation_secs, now| {
            let issued = issued("one", 0, lifetime);
            Record { issued: vec![issued.clone()], propagation_secs }.is_due(&issued, now)
        };
        assert!(!is_due(10_800, 0, 7559) && is_due(10_800, 0, 7560));
        assert!(!is_due(600, 90, 419) && is_due(600, 90, 420));
        assert!(is_due(60, 20, 20) && !is_due(60, 20, 19));
        assert!(!is_due(0, 0, 0));
    }

    #[test]
    fn a_cached_error_expires_even_if_the_clock_is_set_back() {
        let response = serde_json::json!({"status": 403, "code": "", "message": ""});
        let rejection = CachedRejection { response: serde_json::from_value(response).unwrap(), until: 1000 };
        let is_valid = [969, 970, 999, 1000].map(|now| rejection.is_valid(now));
        assert_eq!(is_valid, [false, true, true, false]);
    }

    #[test]
    fn credentials_with_a_replacement_are_not_refreshed() {
        let old = issued("old", 0, HOUR);
        let new = issued("new", 3000, HOUR);
        let record = Record { issued: vec![old.clone(), new], propagation_secs: 0 };
        assert!(!record.is_due(&old, 3500));
    }

    #[test]
    fn cached_credentials_of_an_untrusted_host_are_removed() {
        let record =
            Record { issued: vec![issued("one", 0, HOUR), issued("two", 0, HOUR)], propagation_secs: 7 };
        let text = serde_json::to_string(&record).unwrap();
        let valid = |text: &str, cloud: CloudName| {
            let record: Record<Unchecked> = serde_json::from_str(text).unwrap();
            record.check(&RelaySuffixes::new(&[cloud.relay_suffix()], None)).issued.len()
        };
        assert_eq!(valid(&text, CloudName::Public), 2);
        assert_eq!(valid(&text, CloudName::China), 0);
        assert_eq!(valid(&text.replacen("azgn", "localhost:x", 1), CloudName::Public), 1);
        assert_eq!(valid(&text.replace("servicebus.windows.net", "0.0.1:8443"), CloudName::Public), 0);
    }
}
