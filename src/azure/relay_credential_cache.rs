//! Relay credentials kept from connection to connection: which to dial with, when to mint others, and that one process
//! mints for all that want the same.
//!
//! Each listCredentials call makes up a new name that the machine's agent must first hear of, so a name that is known
//! to work is used as long as it may be, and its successor is minted long before the agent must know it.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tracing::info;

use crate::azure::arm::{Arm, ArmError, Refusal};
use crate::azure::hybrid_connectivity::{RelayCredentials, Service, Unchecked, list_credentials};
use crate::azure::relay_host::RelaySuffixes;
use crate::azure::resource_id::ResourceId;
use crate::state::{Key, Kind, Lock, Store, TooOpen, unix_now};

/// Of a life, in percent, after which a successor is minted.
const REFRESH_AFTER: u64 = 70;
/// The longest life that is believed, in seconds: they can be asked for no longer (azure-rest-api-specs, `expiresin` of
/// listCredentials).
const LONGEST_LIFE: u64 = 10_800;
/// What must be left of a life, in seconds, for a handshake to come before its end.
const MARGIN: u64 = 5;
/// The least time, in seconds, that an agent is given to hear of a successor while there is something else to dial with.
const LEAST_SETTLING: u64 = 20;
/// The age, in seconds, up to which "nobody listens" is what a new name answers: 30 to 90 s are typical, and about 2
/// minutes were seen (aztunnel `docs/guides/sender-arc.md`; sshproxy logs in public issues).
const YOUNG: u64 = 120;
/// How long, in seconds, ARM is not asked again after it has said no.
const REFUSAL_LIFE: u64 = 30;
/// What is kept of a machine: the credentials in use and their successor.
const KEPT: usize = 2;

/// Relay credentials with their life, in seconds of Unix time by this machine's clock.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Minted<C = RelayCredentials> {
    /// The credentials.
    pub(crate) credentials: C,
    /// When they were minted.
    at: u64,
    /// When they end. The server's clock decides: what is kept here is its expiry, less what its clock is ahead of ours.
    until: u64,
}

impl<C> Minted<C> {
    /// Whether they can be dialled with. Those from the future were minted before the clock was set.
    fn is_valid(&self, now: u64) -> bool {
        self.at <= now && now + MARGIN < self.until
    }
}

impl Minted {
    fn new(credentials: RelayCredentials, date: Option<u64>, now: u64) -> Self {
        let server = date.unwrap_or(now);
        let life = credentials.expires_on.map_or(0, |expires| expires.saturating_sub(server));
        let life = life.min(LONGEST_LIFE);
        Self { credentials, at: now, until: now + life }
    }

    fn age(&self) -> u64 {
        unix_now().saturating_sub(self.at)
    }

    /// Whether the agent may not have heard of them yet.
    pub(crate) fn is_young(&self) -> bool {
        self.age() < YOUNG
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
    minted: Vec<Minted<C>>,
    /// How long the agent took to hear of the last that was waited for, in seconds.
    settling: u64,
}

impl<C> Default for Record<C> {
    fn default() -> Self {
        Self { minted: Vec::new(), settling: 0 }
    }
}

impl Record<Unchecked> {
    /// Returns the credentials that pass the checks of an answer of Azure's; others count as absent.
    fn check(self, suffixes: &RelaySuffixes) -> Record {
        let check = |Minted { credentials, at, until }: Minted<Unchecked>| {
            Some(Minted { credentials: credentials.check(suffixes).ok()?, at, until })
        };
        Record { minted: self.minted.into_iter().filter_map(check).collect(), settling: self.settling }
    }
}

impl Record {
    /// What can be dialled with, the best first: the newest once its agent has had time, else what came before it.
    fn in_order(mut self, now: u64) -> Vec<Minted> {
        let settling = self.settling.max(LEAST_SETTLING);
        self.minted.retain(|minted| minted.is_valid(now));
        if self.minted.last().is_some_and(|newest| newest.at.saturating_add(settling) <= now) {
            self.minted.reverse();
        }
        self.minted
    }

    fn without(mut self, in_vain: &[Minted]) -> Self {
        self.minted.retain(|minted| !minted.is_among(in_vain));
        self
    }

    /// Whether a successor of these is due: at 70 % of their life, or earlier where that would leave an agent less than
    /// twice the time that it took. What cannot be kept needs none.
    fn is_due(&self, minted: &Minted, now: u64) -> bool {
        let life = minted.until.saturating_sub(minted.at).min(LONGEST_LIFE);
        let settling = self.settling.max(LEAST_SETTLING);
        let due = (life * REFRESH_AFTER / 100).min(life.saturating_sub(settling.saturating_mul(2)));
        life > 0
            && self.minted.last().is_none_or(|newest| newest.is(minted))
            && minted.at.saturating_add(due) <= now
    }
}

/// What ARM said no with, until when it is not asked again.
#[derive(Serialize, Deserialize)]
struct Refused {
    refusal: Refusal,
    until: u64,
}

impl Refused {
    /// Whether it is not to be asked for again yet. What lasts longer was refused before the clock was set back.
    fn holds(&self, now: u64) -> bool {
        self.until.checked_sub(now).is_some_and(|left| (1..=REFUSAL_LIFE).contains(&left))
    }
}

/// The relay credentials of one service of one machine.
#[derive(Debug)]
pub(crate) struct Credentials<'a> {
    arm: &'a Arm,
    store: &'a Store,
    machine: ResourceId,
    service: Service,
    kept: Key,
}

impl<'a> Credentials<'a> {
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
        Self { arm, store, machine: machine.clone(), service, kept: Key::new(Kind::Relay, subject) }
    }

    /// What the store holds to dial with, the best first.
    ///
    /// # Errors
    /// The store is open to others.
    pub(crate) fn kept(&self) -> Result<Vec<Minted>, TooOpen> {
        Ok(self.record()?.in_order(unix_now()))
    }

    /// New ones, or those that another process has minted meanwhile; none of those that were dialled `in_vain`, which are
    /// forgotten.
    ///
    /// # Errors
    /// What ARM refuses, and refused within [`REFUSAL_LIFE`].
    pub(crate) async fn mint(&self, in_vain: &[Minted]) -> Result<Minted, ArmError> {
        let _lock = self.store.lock(&self.kept).await;
        let newest = self.record()?.minted.pop();
        match newest.filter(|newest| newest.is_valid(unix_now()) && !newest.is_among(in_vain)) {
            Some(newest) => Ok(newest),
            None => self.mint_locked(in_vain).await,
        }
    }

    /// Mints a successor, unless it is not due or another process is at it.
    pub(crate) async fn refresh(&self, minted: &Minted) {
        let Some(lock) = self.store.try_lock(&self.kept) else { return };
        match self.record() {
            Ok(record) if record.is_due(minted, unix_now()) => {}
            _ => return,
        }
        if let Err(error) = self.mint_locked(&[]).await {
            info!("no successor: {error}");
        }
        drop::<Lock>(lock);
    }

    /// Whether a successor is due.
    pub(crate) fn is_due(&self, minted: &Minted) -> bool {
        self.record().is_ok_and(|record| record.is_due(minted, unix_now()))
    }

    /// Notes that the agent has heard of these just now, after it had to be waited for.
    pub(crate) fn settled(&self, minted: &Minted) {
        let Some(_lock) = self.store.try_lock(&self.kept) else { return };
        if let (true, Ok(record)) = (minted.is_young(), self.record()) {
            self.store.write(&self.kept, &Record { settling: minted.age(), ..record });
        }
    }

    /// Forgets those that were dialled `in_vain`, so that what works instead of them is due for another successor.
    pub(crate) fn discard(&self, in_vain: &[Minted]) {
        if in_vain.is_empty() {
            return;
        }
        let Some(_lock) = self.store.try_lock(&self.kept) else { return };
        if let Ok(record) = self.record() {
            self.store.write(&self.kept, &record.without(in_vain));
        }
    }

    async fn mint_locked(&self, in_vain: &[Minted]) -> Result<Minted, ArmError> {
        let refused = self.refused()?;
        if let Some(refused) = self.store.read::<Refused>(&refused)?.filter(|no| no.holds(unix_now())) {
            return Err(ArmError::Refused(refused.refusal));
        }
        match list_credentials(self.arm, &self.machine, self.service).await {
            Ok((credentials, date)) => {
                let minted = Minted::new(credentials, date, unix_now());
                info!(relay = %minted.credentials.relay, until = minted.until, "relay credentials");
                self.keep(minted.clone(), in_vain)?;
                self.store.remove(&refused);
                Ok(minted)
            }
            Err(error) => {
                self.keep_refusal(&refused, &error);
                Err(error)
            }
        }
    }

    fn keep(&self, minted: Minted, in_vain: &[Minted]) -> Result<(), TooOpen> {
        let Record { minted: mut all, settling } = self.record()?.without(in_vain);
        all.push(minted);
        let minted = all.split_off(all.len().saturating_sub(KEPT));
        self.store.write(&self.kept, &Record { minted, settling });
        Ok(())
    }

    /// Where it is kept that this identity was refused: another may be let in.
    fn refused(&self) -> Result<Key, TooOpen> {
        Ok(Key::new(Kind::Refusal, format!("{} to {}", self.kept.subject, self.arm.who()?)))
    }

    /// What fifty forks of ansible would be answered alike is asked once. 412 is not kept: setting up ends it at once.
    fn keep_refusal(&self, refused: &Key, error: &ArmError) {
        if let ArmError::Refused(refusal) = error
            && matches!(refusal.status, 403 | 404)
        {
            let until = unix_now() + REFUSAL_LIFE;
            self.store.write(refused, &Refused { refusal: refusal.clone(), until });
        }
    }

    fn record(&self) -> Result<Record, TooOpen> {
        let record: Record<Unchecked> = self.store.read(&self.kept)?.unwrap_or_default();
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
pub(crate) fn life_left(store: &Store, key: &Key) -> Result<Option<Duration>, TooOpen> {
    let record: Record<Unchecked> = store.read(key)?.unwrap_or_default();
    let now = unix_now();
    let ends = record.minted.iter().filter(|minted| minted.is_valid(now)).map(|minted| minted.until).max();
    Ok(ends.map(|end| Duration::from_secs(end - now)))
}

/// How long a kept name may go unheard while it is dialled, before another is minted: an agent that has just
/// reconnected takes some seconds.
pub(crate) const LASTING: Duration = Duration::from_secs(8);

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

    fn minted(name: &str, at: u64, life: u64) -> Minted {
        Minted { credentials: read(&RELAY.replace("NAME", name)), at, until: at + life }
    }

    fn order(minted: &[&Minted], settling: u64, now: u64) -> Vec<String> {
        let record = Record { minted: minted.iter().map(|&m| m.clone()).collect(), settling };
        record.in_order(now).into_iter().map(|minted| minted.credentials.hybrid_connection_name).collect()
    }

    #[test]
    fn the_servers_clock_decides_when_credentials_end() {
        let credentials = || read(RELAY);
        // Ours is 500 s ahead of the server's, then behind, then its own is not told.
        assert_eq!(Minted::new(credentials(), Some(900), 1400).until, 1500);
        assert_eq!(Minted::new(credentials(), Some(900), 400).until, 500);
        assert_eq!(Minted::new(credentials(), None, 950).until, 1000);
        assert_eq!(Minted::new(credentials(), Some(2000), 950).until, 950);
        // No service means such an end.
        let endless = RelayCredentials { expires_on: Some(u64::MAX), ..credentials() };
        let endless = Minted::new(endless, None, 950);
        assert_eq!(endless.until, 950 + LONGEST_LIFE);
        assert!(!Record { minted: vec![endless.clone()], settling: u64::MAX }.is_due(&endless, 949));
    }

    #[test]
    fn the_newest_comes_first_once_its_agent_has_had_time() {
        let (old, new) = (minted("old", 0, 3 * HOUR), minted("new", 7600, 3 * HOUR));
        assert_eq!(order(&[&old, &new], 0, 7600 + LEAST_SETTLING - 1), ["old", "new"]);
        assert_eq!(order(&[&old, &new], 0, 7600 + LEAST_SETTLING), ["new", "old"]);
        assert_eq!(order(&[&old, &new], 60, 7600 + 59), ["old", "new"]);
        assert_eq!(order(&[&old, &new], 60, 3 * HOUR), ["new"]);
    }

    #[test]
    fn what_has_ended_or_comes_from_the_future_is_not_dialled_with() {
        let one = minted("one", 100, HOUR);
        assert!(order(&[&one], 0, 99).is_empty());
        assert_eq!(order(&[&one], 0, 100), ["one"]);
        assert_eq!(order(&[&one], 0, 100 + HOUR - MARGIN - 1), ["one"]);
        assert!(order(&[&one], 0, 100 + HOUR - MARGIN).is_empty());
    }

    #[test]
    fn a_successor_is_due_at_seventy_percent_or_before_a_slow_agent_needs_it() {
        let due = |life, settling, now| {
            let minted = minted("one", 0, life);
            Record { minted: vec![minted.clone()], settling }.is_due(&minted, now)
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
        let (old, new) = (minted("old", 0, HOUR), minted("new", 3000, HOUR));
        let record = Record { minted: vec![old.clone(), new], settling: 0 };
        assert!(!record.is_due(&old, 3500));
    }

    #[test]
    fn cached_credentials_for_a_host_that_is_no_relay_count_as_absent() {
        let record = Record { minted: vec![minted("one", 0, HOUR), minted("two", 0, HOUR)], settling: 7 };
        let text = serde_json::to_string(&record).unwrap();
        let left = |text: &str, cloud: CloudName| {
            let record: Record<Unchecked> = serde_json::from_str(text).unwrap();
            record.check(&RelaySuffixes::new(&[cloud.relay_suffix()], None)).minted.len()
        };
        assert_eq!(left(&text, CloudName::Public), 2);
        assert_eq!(left(&text, CloudName::China), 0);
        assert_eq!(left(&text.replacen("azgn", "localhost:x", 1), CloudName::Public), 1);
        assert_eq!(left(&text.replace("servicebus.windows.net", "0.0.1:8443"), CloudName::Public), 0);
    }
}
