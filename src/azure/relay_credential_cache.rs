//! Relay credentials kept from connection to connection: which to dial with, when to mint others, and that one process
//! mints for all that want the same.
//!
//! Each listCredentials call makes up a new name that the machine's agent must first hear of, so a name that is known
//! to work is used as long as it may be, and its successor is minted long before the agent must know it.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tracing::info;

use crate::azure::arm::{Arm, ArmError, ErrorResponse};
use crate::azure::hybrid_connectivity::{RelayCredentials, Service, Unchecked, list_credentials};
use crate::azure::relay_host::RelaySuffixes;
use crate::azure::resource_id::ResourceId;
use crate::state::{InsecurePermissions, Key, Kind, Lock, Store};
use crate::system::clock::unix_now;

/// Of a life, in percent, after which a successor is minted.
const REFRESH_AFTER: u64 = 70;
/// The longest life that is believed, in seconds: they can be asked for no longer (azure-rest-api-specs, `expiresin` of
/// listCredentials).
const MAX_LIFETIME: u64 = 10_800;
/// What must be left of a life, in seconds, for a handshake to come before its end.
const EXPIRY_MARGIN: u64 = 5;
/// The least time, in seconds, that an agent is given to hear of a successor while there is something else to dial with.
const MIN_PROPAGATION: u64 = 20;
/// The age, in seconds, up to which "nobody listens" is what a new name answers: 30 to 90 s are typical, and about 2
/// minutes were seen (aztunnel `docs/guides/sender-arc.md`; sshproxy logs in public issues).
const PROPAGATION_LIMIT: u64 = 120;
/// How long, in seconds, ARM is not asked again after it has said no.
const NEGATIVE_LIFETIME: u64 = 30;
/// What is kept of a machine: the credentials in use and their successor.
const MAX_CACHED: usize = 2;

/// Relay credentials with their life, in seconds of Unix time by this machine's clock.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct IssuedCredentials<C = RelayCredentials> {
    /// The credentials.
    pub(crate) credentials: C,
    /// When they were minted.
    at: u64,
    /// When they end. The server's clock decides: what is kept here is its expiry, less what its clock is ahead of ours.
    until: u64,
}

impl<C> IssuedCredentials<C> {
    /// Whether they can be dialled with. Those from the future were minted before the clock was set.
    fn is_valid(&self, now: u64) -> bool {
        self.at <= now && now + EXPIRY_MARGIN < self.until
    }
}

impl IssuedCredentials {
    fn new(credentials: RelayCredentials, date: Option<u64>, now: u64) -> Self {
        let server = date.unwrap_or(now);
        let life = credentials.expires_on.map_or(0, |expires| expires.saturating_sub(server));
        let life = life.min(MAX_LIFETIME);
        Self { credentials, at: now, until: now + life }
    }

    fn age(&self) -> u64 {
        unix_now().saturating_sub(self.at)
    }

    /// Whether the agent may not have heard of them yet.
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

/// What is kept of a machine.
#[derive(Debug, Serialize, Deserialize)]
struct Record<C = RelayCredentials> {
    /// The last that were minted, oldest first.
    #[serde(rename = "minted")]
    issued: Vec<IssuedCredentials<C>>,
    /// How long the agent took to hear of the last that was waited for, in seconds.
    #[serde(rename = "settling")]
    propagation_secs: u64,
}

impl<C> Default for Record<C> {
    fn default() -> Self {
        Self { issued: Vec::new(), propagation_secs: 0 }
    }
}

impl Record<Unchecked> {
    /// Returns the credentials that pass the checks of an answer of Azure's; others count as absent.
    fn check(self, suffixes: &RelaySuffixes) -> Record {
        let check = |IssuedCredentials { credentials, at, until }: IssuedCredentials<Unchecked>| {
            Some(IssuedCredentials { credentials: credentials.check(suffixes).ok()?, at, until })
        };
        Record {
            issued: self.issued.into_iter().filter_map(check).collect(),
            propagation_secs: self.propagation_secs,
        }
    }
}

impl Record {
    /// What can be dialled with, the best first: the newest once its agent has had time, else what came before it.
    fn in_order(mut self, now: u64) -> Vec<IssuedCredentials> {
        let propagation_secs = self.propagation_secs.max(MIN_PROPAGATION);
        self.issued.retain(|issued| issued.is_valid(now));
        if self.issued.last().is_some_and(|newest| newest.at.saturating_add(propagation_secs) <= now) {
            self.issued.reverse();
        }
        self.issued
    }

    fn without(mut self, rejected: &[IssuedCredentials]) -> Self {
        self.issued.retain(|issued| !issued.is_among(rejected));
        self
    }

    /// Whether a successor of these is due: at 70 % of their life, or earlier where that would leave an agent less than
    /// twice the time that it took. What cannot be kept needs none.
    fn is_due(&self, issued: &IssuedCredentials, now: u64) -> bool {
        let life = issued.until.saturating_sub(issued.at).min(MAX_LIFETIME);
        let propagation_secs = self.propagation_secs.max(MIN_PROPAGATION);
        let due = (life * REFRESH_AFTER / 100).min(life.saturating_sub(propagation_secs.saturating_mul(2)));
        life > 0
            && self.issued.last().is_none_or(|newest| newest.is(issued))
            && issued.at.saturating_add(due) <= now
    }
}

/// What ARM said no with, until when it is not asked again.
#[derive(Serialize, Deserialize)]
struct Refused {
    refusal: ErrorResponse,
    until: u64,
}

impl Refused {
    /// Whether it is not to be asked for again yet. What lasts longer was refused before the clock was set back.
    fn holds(&self, now: u64) -> bool {
        self.until.checked_sub(now).is_some_and(|left| (1..=NEGATIVE_LIFETIME).contains(&left))
    }
}

/// The relay credentials of one service of one machine.
#[derive(Debug)]
pub(crate) struct RelayCredentialCache<'a> {
    arm: &'a Arm,
    store: &'a Store,
    machine: ResourceId,
    service: Service,
    cached: Key,
}

impl<'a> RelayCredentialCache<'a> {
    /// Those of a service of a machine, for dialling a port of it.
    pub(crate) fn new(
        arm: &'a Arm,
        store: &'a Store,
        machine: &ResourceId,
        service: Service,
        port: u16,
    ) -> Self {
        let id = machine.to_string().to_lowercase();
        let subject = format!("{}{id} {service} {port}", arm.authority());
        Self { arm, store, machine: machine.clone(), service, cached: Key::new(Kind::Relay, subject) }
    }

    /// What the store holds to dial with, the best first.
    ///
    /// # Errors
    /// The store is open to others.
    pub(crate) fn cached(&self) -> Result<Vec<IssuedCredentials>, InsecurePermissions> {
        Ok(self.record()?.in_order(unix_now()))
    }

    /// New ones, or those that another process has minted meanwhile; none of those that were dialled `rejected`, which are
    /// forgotten.
    ///
    /// # Errors
    /// What ARM refuses, and refused within [`NEGATIVE_LIFETIME`].
    pub(crate) async fn request(
        &self,
        rejected: &[IssuedCredentials],
    ) -> Result<IssuedCredentials, ArmError> {
        let _lock = self.store.lock(&self.cached).await;
        let newest = self.record()?.issued.pop();
        match newest.filter(|newest| newest.is_valid(unix_now()) && !newest.is_among(rejected)) {
            Some(newest) => Ok(newest),
            None => self.request_locked(rejected).await,
        }
    }

    /// Mints a successor, unless it is not due or another process is at it.
    pub(crate) async fn refresh(&self, issued: &IssuedCredentials) {
        let Some(lock) = self.store.try_lock(&self.cached) else { return };
        match self.record() {
            Ok(record) if record.is_due(issued, unix_now()) => {}
            _ => return,
        }
        if let Err(error) = self.request_locked(&[]).await {
            info!("no successor: {error}");
        }
        drop::<Lock>(lock);
    }

    /// Whether a successor is due.
    pub(crate) fn is_due(&self, issued: &IssuedCredentials) -> bool {
        self.record().is_ok_and(|record| record.is_due(issued, unix_now()))
    }

    /// Records the outcome of a connection. Deletes `rejected` credentials, so that the others are due for another
    /// successor. The age of `awaited` credentials, for which the agent needed time, becomes the expected time.
    pub(crate) fn report(&self, rejected: &[IssuedCredentials], awaited: Option<&IssuedCredentials>) {
        let awaited = awaited.filter(|issued| issued.is_propagating());
        if rejected.is_empty() && awaited.is_none() {
            return;
        }
        let Some(_lock) = self.store.try_lock(&self.cached) else { return };
        if let Ok(record) = self.record() {
            let propagation_secs = awaited.map_or(record.propagation_secs, IssuedCredentials::age);
            let record = Record { propagation_secs, ..record.without(rejected) };
            self.store.write(&self.cached, &record);
        }
    }

    async fn request_locked(&self, rejected: &[IssuedCredentials]) -> Result<IssuedCredentials, ArmError> {
        let refused = self.refused()?;
        if let Some(refused) = self.store.read::<Refused>(&refused)?.filter(|no| no.holds(unix_now())) {
            return Err(ArmError::Refused(refused.refusal));
        }
        match list_credentials(self.arm, &self.machine, self.service).await {
            Ok((credentials, date)) => {
                let issued = IssuedCredentials::new(credentials, date, unix_now());
                info!(relay = %issued.credentials.relay, until = issued.until, "relay credentials");
                self.save(issued.clone(), rejected)?;
                self.store.remove(&refused);
                Ok(issued)
            }
            Err(error) => {
                self.save_refusal(&refused, &error);
                Err(error)
            }
        }
    }

    fn save(
        &self,
        issued: IssuedCredentials,
        rejected: &[IssuedCredentials],
    ) -> Result<(), InsecurePermissions> {
        let Record { issued: mut all, propagation_secs } = self.record()?.without(rejected);
        all.push(issued);
        let issued = all.split_off(all.len().saturating_sub(MAX_CACHED));
        self.store.write(&self.cached, &Record { issued, propagation_secs });
        Ok(())
    }

    /// Where it is kept that this identity was refused: another may be let in.
    fn refused(&self) -> Result<Key, InsecurePermissions> {
        Ok(Key::new(Kind::Refusal, format!("{} to {}", self.cached.subject, self.arm.who()?)))
    }

    /// What fifty forks of ansible would be answered alike is asked once. 412 is not kept: setting up ends it at once.
    fn save_refusal(&self, refused: &Key, error: &ArmError) {
        if let ArmError::Refused(refusal) = error
            && matches!(refusal.status, 403 | 404)
        {
            let until = unix_now() + NEGATIVE_LIFETIME;
            self.store.write(refused, &Refused { refusal: refusal.clone(), until });
        }
    }

    fn record(&self) -> Result<Record, InsecurePermissions> {
        let record: Record<Unchecked> = self.store.read(&self.cached)?.unwrap_or_default();
        Ok(record.check(self.arm.relay_suffixes()))
    }
}

/// Forgets the credentials of a machine, of all its services and ports, and that they were refused.
pub(crate) fn forget(arm: &Arm, store: &Store, machine: &ResourceId) {
    forget_kinds(arm, store, machine, &[Kind::Relay, Kind::Refusal]);
}

/// Forgets that credentials of a machine were refused.
pub(crate) fn forget_refusals(arm: &Arm, store: &Store, machine: &ResourceId) {
    forget_kinds(arm, store, machine, &[Kind::Refusal]);
}

fn forget_kinds(arm: &Arm, store: &Store, machine: &ResourceId, kinds: &[Kind]) {
    let start = format!("{}{} ", arm.authority(), machine.to_string().to_lowercase());
    let of_machine = |key: &Key| kinds.contains(&key.kind) && key.subject.starts_with(&start);
    store.keys().iter().filter(|key| of_machine(key)).for_each(|key| store.remove(key));
}

/// How long what is kept under a key can be dialled with.
///
/// # Errors
/// The store is open to others.
pub(crate) fn life_left(store: &Store, key: &Key) -> Result<Option<Duration>, InsecurePermissions> {
    let record: Record<Unchecked> = store.read(key)?.unwrap_or_default();
    let now = unix_now();
    let ends = record.issued.iter().filter(|issued| issued.is_valid(now)).map(|issued| issued.until).max();
    Ok(ends.map(|end| Duration::from_secs(end - now)))
}

/// How long a kept name may go unheard while it is dialled, before another is minted: an agent that has just
/// reconnected takes some seconds.
pub(crate) const STALE_GRACE: Duration = Duration::from_secs(8);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::azure::cloud::CloudName;

    const RELAY: &str = r#"{"relay":{"namespaceName":"azgn","namespaceNameSuffix":"servicebus.windows.net",
        "hybridConnectionName":"NAME","accessKey":"SharedAccessSignature sr=x","expiresOn":1000}}"#;
    const HOUR: u64 = 3600;

    fn read(json: &str) -> RelayCredentials {
        let suffixes = RelaySuffixes::new(&[CloudName::Public.relay_suffix()], None);
        RelayCredentials::from_json(json.as_bytes(), &suffixes).expect("well formed")
    }

    fn issued(name: &str, at: u64, life: u64) -> IssuedCredentials {
        IssuedCredentials { credentials: read(&RELAY.replace("NAME", name)), at, until: at + life }
    }

    fn order(issued: &[&IssuedCredentials], propagation_secs: u64, now: u64) -> Vec<String> {
        let record = Record { issued: issued.iter().map(|&m| m.clone()).collect(), propagation_secs };
        record.in_order(now).into_iter().map(|issued| issued.credentials.hybrid_connection_name).collect()
    }

    #[test]
    fn the_servers_clock_decides_when_credentials_end() {
        let credentials = || read(RELAY);
        // Ours is 500 s ahead of the server's, then behind, then its own is not told.
        assert_eq!(IssuedCredentials::new(credentials(), Some(900), 1400).until, 1500);
        assert_eq!(IssuedCredentials::new(credentials(), Some(900), 400).until, 500);
        assert_eq!(IssuedCredentials::new(credentials(), None, 950).until, 1000);
        assert_eq!(IssuedCredentials::new(credentials(), Some(2000), 950).until, 950);
        // No service means such an end.
        let endless = RelayCredentials { expires_on: Some(u64::MAX), ..credentials() };
        let endless = IssuedCredentials::new(endless, None, 950);
        assert_eq!(endless.until, 950 + MAX_LIFETIME);
        assert!(!Record { issued: vec![endless.clone()], propagation_secs: u64::MAX }.is_due(&endless, 949));
    }

    #[test]
    fn the_newest_comes_first_once_its_agent_has_had_time() {
        let (old, new) = (issued("old", 0, 3 * HOUR), issued("new", 7600, 3 * HOUR));
        assert_eq!(order(&[&old, &new], 0, 7600 + MIN_PROPAGATION - 1), ["old", "new"]);
        assert_eq!(order(&[&old, &new], 0, 7600 + MIN_PROPAGATION), ["new", "old"]);
        assert_eq!(order(&[&old, &new], 60, 7600 + 59), ["old", "new"]);
        assert_eq!(order(&[&old, &new], 60, 3 * HOUR), ["new"]);
    }

    #[test]
    fn what_has_ended_or_comes_from_the_future_is_not_dialled_with() {
        let one = issued("one", 100, HOUR);
        assert!(order(&[&one], 0, 99).is_empty());
        assert_eq!(order(&[&one], 0, 100), ["one"]);
        assert_eq!(order(&[&one], 0, 100 + HOUR - EXPIRY_MARGIN - 1), ["one"]);
        assert!(order(&[&one], 0, 100 + HOUR - EXPIRY_MARGIN).is_empty());
    }

    #[test]
    fn a_successor_is_due_at_seventy_percent_or_before_a_slow_agent_needs_it() {
        let due = |life, propagation_secs, now| {
            let issued = issued("one", 0, life);
            Record { issued: vec![issued.clone()], propagation_secs }.is_due(&issued, now)
        };
        assert!(!due(10_800, 0, 7559) && due(10_800, 0, 7560));
        assert!(!due(600, 90, 419) && due(600, 90, 420));
        assert!(due(60, 20, 20) && !due(60, 20, 19));
        assert!(!due(0, 0, 0));
    }

    #[test]
    fn a_refusal_holds_for_its_time_whatever_becomes_of_the_clock() {
        let refusal = serde_json::json!({"status": 403, "code": "", "message": ""});
        let refused = Refused { refusal: serde_json::from_value(refusal).unwrap(), until: 1000 };
        let holds = [969, 970, 999, 1000].map(|now| refused.holds(now));
        assert_eq!(holds, [false, true, true, false]);
    }

    #[test]
    fn what_already_has_a_successor_needs_none() {
        let (old, new) = (issued("old", 0, HOUR), issued("new", 3000, HOUR));
        let record = Record { issued: vec![old.clone(), new], propagation_secs: 0 };
        assert!(!record.is_due(&old, 3500));
    }

    #[test]
    fn cached_credentials_for_a_host_that_is_no_relay_count_as_absent() {
        let record =
            Record { issued: vec![issued("one", 0, HOUR), issued("two", 0, HOUR)], propagation_secs: 7 };
        let text = serde_json::to_string(&record).unwrap();
        let left = |text: &str, cloud: CloudName| {
            let record: Record<Unchecked> = serde_json::from_str(text).unwrap();
            record.check(&RelaySuffixes::new(&[cloud.relay_suffix()], None)).issued.len()
        };
        assert_eq!(left(&text, CloudName::Public), 2);
        assert_eq!(left(&text, CloudName::China), 0);
        assert_eq!(left(&text.replacen("azgn", "localhost:x", 1), CloudName::Public), 1);
        assert_eq!(left(&text.replace("servicebus.windows.net", "0.0.1:8443"), CloudName::Public), 0);
    }
}
