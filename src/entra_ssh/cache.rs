//! The key and the certificate that log in, kept together from connection to connection: which to log in with, when to
//! ask for another, and that one process asks for all.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use tracing::info;

use crate::azure::credentials::source::SourceError;
use crate::azure::credentials::{CredentialChain, CredentialError, CredentialSource};
use crate::azure::entra::Rejection;
use crate::azure::login::LoginError;
use crate::entra_ssh::{CertificateOptions, Certified, IssueError, request_certificate};
use crate::ssh::SshError;
use crate::ssh::certificate::Certificate;
use crate::ssh::rsa_key::{KeyPair, Pem};
use crate::state::{Key, Kind, Lock, Store};
use crate::system::SystemError;
use crate::system::clock::unix_now;

/// What must be left of a certificate's life, in seconds, to log in with it: the start of a session can be slow. Of one
/// that lives less than an hour, a tenth of its life.
const EXPIRY_MARGIN: u64 = 300;
/// Of a life, in percent, after which a successor is asked for in the background.
const REFRESH_AFTER: u64 = 70;
/// How long a key is certified again, in seconds, and beyond that while its certificate lasts: ssh reads a key's file
/// when it signs, and must find the one whose certificate it has read before.
const KEY_LIFETIME: u64 = 30 * 24 * 3600;

/// How long, in milliseconds, no successor is asked for again in the background after Entra ID has said no.
const NEGATIVE_LIFETIME_MS: u64 = 30_000;

/// A certificate with its life, in seconds of Unix time by this machine's clock.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct CachedCertificate {
    /// A line, as in a `-cert.pub` file.
    certificate: String,
    /// When it was given.
    at: u64,
    /// When it ends. Entra ID's clock decides: this is its end, less what that clock is ahead of ours.
    until: u64,
}

impl CachedCertificate {
    fn new(Certified { certificate, ahead }: &Certified) -> Self {
        let until = certificate.valid_before().saturating_add_signed(-ahead);
        Self { certificate: certificate.to_line(), at: unix_now(), until }
    }

    fn life(&self) -> u64 {
        self.until.saturating_sub(self.at)
    }

    /// Whether it ends later than this many seconds from now. One from the future was given before the clock was set.
    fn lasts(&self, seconds: u64) -> bool {
        let now = unix_now();
        self.at <= now && now.saturating_add(seconds) < self.until
    }

    fn left(&self) -> Option<Duration> {
        self.lasts(0).then(|| Duration::from_secs(self.until - unix_now()))
    }

    fn is_fresh(&self) -> bool {
        self.lasts(EXPIRY_MARGIN.min(self.life() / 10))
    }

    fn is_due(&self) -> bool {
        self.at.saturating_add(self.life().saturating_mul(REFRESH_AFTER) / 100) <= unix_now()
    }
}

/// What is kept: one value, so that key and certificate are always of one generation.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Record {
    key: Pem,
    /// When the key was made, in seconds of Unix time.
    made: u64,
    issued: Option<CachedCertificate>,
    /// The last answer in place of a certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    refused: Option<Refused>,
}

impl Record {
    fn keeps_its_key(&self) -> bool {
        let now = unix_now();
        let is_young = self.made <= now && now < self.made.saturating_add(KEY_LIFETIME);
        is_young || self.issued.as_ref().is_some_and(|issued| issued.lasts(0))
    }

    /// Whether the certificate wants a successor, which was not refused just now.
    fn is_due(&self) -> bool {
        let is_refused =
            |refused: &Refused| unix_now_in_milliseconds() < refused.at.saturating_add(NEGATIVE_LIFETIME_MS);
        self.issued.as_ref().is_some_and(CachedCertificate::is_due)
            && !self.refused.as_ref().is_some_and(is_refused)
    }

    /// Key and certificate, if they belong together.
    fn pair(self) -> Option<CertifiedKey> {
        let issued = self.issued?;
        let key = KeyPair::from_pem(&self.key).ok()?;
        let certificate = Certificate::parse(&issued.certificate).ok()?;
        // Of its time, its issuer's clock has been the judge.
        certificate.check(key.public(), certificate.valid_before().saturating_sub(1)).ok()?;
        Some(CertifiedKey { pem: self.key, key, certificate, issued })
    }
}

/// What Entra ID or Azure CLI said no with: whoever waits for the same certificate meanwhile is answered alike, and whoever comes
/// later asks again.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Refused {
    from: CredentialSource,
    refusal: Refusal,
    /// When, in milliseconds of Unix time.
    at: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum Refusal {
    Entra(Rejection),
    Words(Vec<String>),
    /// The value is null.
    MissingSshExtension(()),
}

impl Refused {
    fn of(error: &IssueError) -> Option<Self> {
        let IssueError::Credential { error: CredentialError::Failed { from, error, .. }, .. } = error else {
            return None;
        };
        let refusal = match error {
            SourceError::Entra(rejection) | SourceError::Login(LoginError::Rejected(rejection)) => {
                Refusal::Entra(rejection.clone())
            }
            SourceError::MissingSshExtension => Refusal::MissingSshExtension(()),
            // Other sources failed before or during the request.
            SourceError::SignedOut(message) | SourceError::Failed(message)
                if *from == CredentialSource::AzureCli =>
            {
                Refusal::Words(vec![message.clone()])
            }
            _ => return None,
        };
        Some(Self { from: *from, refusal, at: unix_now_in_milliseconds() })
    }

    fn again(self, scope: &str) -> IssueError {
        let error = match self.refusal {
            Refusal::Entra(rejection) => SourceError::Entra(rejection),
            Refusal::MissingSshExtension(()) => SourceError::MissingSshExtension,
            Refusal::Words(messages) => SourceError::Failed(messages.join(": ")),
        };
        let error = CredentialError::Failed { from: self.from, tenant: None, error };
        IssueError::Credential { scope: scope.to_owned(), error }
    }
}

/// A key and its certificate.
#[derive(Debug)]
pub(crate) struct CertifiedKey {
    /// The private key as text.
    pub(crate) pem: Pem,
    /// The key.
    pub(crate) key: KeyPair,
    /// The certificate.
    pub(crate) certificate: Certificate,
    issued: CachedCertificate,
}

impl CertifiedKey {
    /// How long it can still be logged in with; nothing where it has ended.
    pub(crate) fn left(&self) -> Option<Duration> {
        self.issued.left()
    }

    /// The same, if its certificate lets in whom a section logs in as; nobody, if it does not say.
    ///
    /// # Errors
    /// It lets in another: another identity than that of the section was signed in.
    pub(crate) fn for_login_name(self, section: Option<&str>) -> Result<Self, IssueError> {
        match section.filter(|name| !self.certificate.lets_in(name)) {
            None => Ok(self),
            Some(entry) => Err(IssueError::WrongLoginName {
                name: self.certificate.login_name().unwrap_or_default(),
                entry: entry.to_owned(),
            }),
        }
    }
}

/// The pair of one identity.
#[derive(Debug)]
pub(crate) struct CertificateCache {
    identity: CredentialChain,
    asked: CertificateOptions,
    cached: Key,
}

impl CertificateCache {
    /// The pair with which this identity logs in. Nothing is asked for yet.
    ///
    /// # Errors
    /// The store is open to others.
    pub(crate) fn new(identity: CredentialChain, asked: CertificateOptions) -> Result<Self, SystemError> {
        let client = asked.client_id.as_ref().map_or(String::new(), |id| format!(" by {id}"));
        let what = format!("{}{client}", asked.scope(&identity));
        let subject = identity.cache_key(what, identity.options.tenant.as_deref())?;
        Ok(Self { identity, asked, cached: Key::new(Kind::Certificate, subject) })
    }

    /// What is kept, whether it can be used or not.
    ///
    /// # Errors
    /// The store is open to others.
    pub(crate) fn cached(&self) -> Result<Option<CertifiedKey>, SystemError> {
        Ok(self.record()?.and_then(Record::pair))
    }

    /// What to log in with: the pair that is kept, or a new certificate that is kept from now on. However many processes
    /// want one at a time, one asks for it.
    ///
    /// # Errors
    /// See [`IssueError`].
    pub(crate) async fn pair(&self) -> Result<CertifiedKey, IssueError> {
        if let Some(pair) = self.fresh()? {
            return Ok(pair);
        }
        let began = unix_now_in_milliseconds();
        let _lock = self.identity.store.lock(&self.cached).await;
        // Whoever had the lock before has done the work.
        if let Some(pair) = self.fresh()? {
            return Ok(pair);
        }
        let refused = self.record()?.and_then(|record| record.refused).filter(|refused| began < refused.at);
        let minted = match refused {
            Some(refused) => Err(refused.again(self.asked.scope(&self.identity))),
            None => self.request().await,
        };
        match minted {
            Err(error) => match self.cached()?.filter(|pair| pair.issued.lasts(0)) {
                Some(pair) => {
                    info!("the certificate that is kept must do: {error}");
                    Ok(pair)
                }
                None => Err(error),
            },
            minted => minted,
        }
    }

    /// Asks for a successor, unless it is not due or another process is at it.
    pub(crate) async fn refresh(&self) {
        if !self.is_due() {
            return;
        }
        let Some(lock) = self.identity.store.try_lock(&self.cached) else { return };
        if self.is_due()
            && let Err(error) = self.request().await
        {
            info!("no successor of the certificate: {error}");
        }
        drop::<Lock>(lock);
    }

    /// Whether there is a certificate that wants a successor.
    fn is_due(&self) -> bool {
        self.record().ok().flatten().is_some_and(|record| record.is_due())
    }

    fn fresh(&self) -> Result<Option<CertifiedKey>, SystemError> {
        Ok(self.cached()?.filter(|pair| pair.issued.is_fresh()))
    }

    fn record(&self) -> Result<Option<Record>, SystemError> {
        self.identity.store.read(&self.cached)
    }

    async fn request(&self) -> Result<CertifiedKey, IssueError> {
        let (mut record, key) = self.key().await?;
        let certified = match request_certificate(&self.identity, key.public(), &self.asked).await {
            Ok(certified) => certified,
            Err(error) => {
                self.save_refusal(&error)?;
                return Err(error);
            }
        };
        let issued = CachedCertificate::new(&certified);
        (record.issued, record.refused) = (Some(issued.clone()), None);
        self.identity.store.write(&self.cached, &record);
        Ok(CertifiedKey { pem: record.key, key, certificate: certified.certificate, issued })
    }

    fn save_refusal(&self, error: &IssueError) -> Result<(), SystemError> {
        if let Some((refused, record)) = Refused::of(error).zip(self.record()?) {
            self.identity.store.write(&self.cached, &Record { refused: Some(refused), ..record });
        }
        Ok(())
    }

    /// The key to be certified: the one that is kept while it may be, else a new one, whose time begins now even where
    /// no certificate comes of it.
    async fn key(&self) -> Result<(Record, KeyPair), IssueError> {
        if let Some(record) = self.record()?.filter(Record::keeps_its_key)
            && let Ok(key) = KeyPair::from_pem(&record.key)
        {
            return Ok((record, key));
        }
        let key = self.new_key().await.map_err(IssueError::NoKey)?;
        let pair = KeyPair::from_pem(&key).map_err(|error| IssueError::NoKey(error.into()))?;
        let record = Record { key, made: unix_now(), issued: None, refused: None };
        if self.cached()?.is_none_or(|old| !old.issued.lasts(0)) {
            self.identity.store.write(&self.cached, &record);
        }
        Ok((record, pair))
    }

    /// A new key, made in the store, or where that takes nothing, in the system's folder for what is temporary.
    async fn new_key(&self) -> Result<Pem, SshError> {
        let in_store = async { Pem::generate(self.identity.store.temp_dir()?).await };
        match in_store.await {
            Err(SshError::NoKeygen) => Err(SshError::NoKeygen),
            Err(error) => {
                info!("no key in the state directory: {error}");
                Pem::generate(tempfile::tempdir().context("cannot create a temporary directory")?).await
            }
            created => created,
        }
    }
}

fn unix_now_in_milliseconds() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// How long the certificate that is kept under a key lasts.
///
/// # Errors
/// The store is open to others.
pub(crate) fn life_left(store: &Store, key: &Key) -> Result<Option<Duration>, SystemError> {
    let record: Option<Record> = store.read(key)?;
    Ok(record.and_then(|record| record.issued).and_then(|issued| issued.left()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3600;

    /// One whose key was made so many seconds ago, and whose certificate of an hour was given so many ago.
    fn record(key: u64, certificate: Option<u64>) -> Record {
        let now = unix_now();
        let issued = |at| CachedCertificate { certificate: String::new(), at, until: at + HOUR };
        let key_text = serde_json::from_str("\"a key\"").unwrap();
        let issued = certificate.map(|ago| issued(now - ago));
        Record { key: key_text, made: now - key, issued, refused: None }
    }

    #[test]
    fn a_key_is_replaced_when_it_is_old_and_none_of_its_certificates_is_valid_any_more() {
        assert!(record(KEY_LIFETIME - HOUR, None).keeps_its_key());
        assert!(record(2 * KEY_LIFETIME, Some(HOUR / 2)).keeps_its_key());
        assert!(!record(2 * KEY_LIFETIME, Some(2 * HOUR)).keeps_its_key());
        assert!(!record(2 * KEY_LIFETIME, None).keeps_its_key());
    }

    #[test]
    fn a_successor_is_due_at_seventy_percent_but_not_while_entra_has_just_refused_one() {
        let refused_before = |milliseconds| {
            let url = "https://login.example".parse().unwrap();
            let refusal = Rejection::in_browser(&url, "interaction_required", "AADSTS50076: a second factor");
            let refusal = Refusal::Entra(refusal);
            let at = unix_now_in_milliseconds() - milliseconds;
            Some(Refused { from: CredentialSource::Arcssh, refusal, at })
        };
        assert!(!record(0, None).is_due() && !record(0, Some(HOUR / 2)).is_due());
        let due = record(0, Some(HOUR * 8 / 10));
        assert!(due.is_due());
        assert!(!Record { refused: refused_before(0), ..due.clone() }.is_due());
        assert!(Record { refused: refused_before(NEGATIVE_LIFETIME_MS), ..due }.is_due());
    }
}
