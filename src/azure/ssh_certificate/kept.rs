//! The key and the certificate that log in, kept together from connection to connection: which to log in with, when to
//! ask for another, and that one process asks for all.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tracing::info;

use crate::azure::credential::Identity;
use crate::azure::ssh_certificate::{Asked, Certified, NoCertificate, certify};
use crate::ssh::certificate::Certificate;
use crate::ssh::key::{KeyPair, Pem};
use crate::store::{Key, Kind, Lock, Store, TooOpen, unix_now};

/// What must be left of a certificate's life, in seconds, to log in with it: the start of a session can be slow. Of one
/// that lives less than an hour, a tenth of its life.
const MARGIN: u64 = 300;
/// Of a life, in percent, after which a successor is asked for in the background.
const REFRESH_AFTER: u64 = 70;
/// How long a key is certified again, in seconds.
const KEY_LIFE: u64 = 30 * 24 * 3600;

/// A certificate with its life, in seconds of Unix time by this machine's clock.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Issued {
    /// A line, as in a `-cert.pub` file.
    certificate: String,
    /// When it was given.
    at: u64,
    /// When it ends. Entra ID's clock decides: this is its end, less what that clock is ahead of ours.
    until: u64,
}

impl Issued {
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
        self.lasts(MARGIN.min(self.life() / 10))
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
    issued: Option<Issued>,
}

impl Record {
    fn has_young_key(&self) -> bool {
        let now = unix_now();
        self.made <= now && now < self.made.saturating_add(KEY_LIFE)
    }

    /// Key and certificate, if they belong together.
    fn pair(self) -> Option<Pair> {
        let issued = self.issued?;
        let key = KeyPair::from_pem(&self.key).ok()?;
        let certificate = Certificate::parse(&issued.certificate).ok()?;
        // Of its time, its issuer's clock has been the judge.
        certificate.check(key.public(), certificate.valid_before().saturating_sub(1)).ok()?;
        Some(Pair { pem: self.key, key, certificate, issued })
    }
}

/// A key and its certificate.
#[derive(Debug)]
pub(crate) struct Pair {
    /// The private key as text.
    pub(crate) pem: Pem,
    /// The key.
    pub(crate) key: KeyPair,
    /// The certificate.
    pub(crate) certificate: Certificate,
    issued: Issued,
}

impl Pair {
    /// How long it can still be logged in with; nothing where it has ended.
    pub(crate) fn left(&self) -> Option<Duration> {
        self.issued.left()
    }
}

/// The pair of one identity.
#[derive(Debug)]
pub(crate) struct Holder {
    identity: Identity,
    asked: Asked,
    kept: Key,
}

impl Holder {
    /// The pair with which this identity logs in. Nothing is asked for yet.
    ///
    /// # Errors
    /// The store is open to others.
    pub(crate) fn new(identity: Identity, asked: Asked) -> Result<Self, TooOpen> {
        let client = asked.client_id.as_ref().map_or(String::new(), |id| format!(" by {id}"));
        let what = format!("{}{client}", asked.scope(&identity));
        let subject = identity.subject(what, identity.wanted.tenant.as_deref())?;
        Ok(Self { identity, asked, kept: Key::new(Kind::Certificate, subject) })
    }

    /// What is kept, whether it can be used or not.
    ///
    /// # Errors
    /// The store is open to others.
    pub(crate) fn kept(&self) -> Result<Option<Pair>, TooOpen> {
        Ok(self.record()?.and_then(Record::pair))
    }

    /// What to log in with: the pair that is kept, or a new certificate that is kept from now on. However many processes
    /// want one at a time, one asks for it.
    ///
    /// # Errors
    /// See [`NoCertificate`].
    pub(crate) async fn pair(&self) -> Result<Pair, NoCertificate> {
        if let Some(pair) = self.fresh()? {
            return Ok(pair);
        }
        let _lock = self.identity.store.lock(&self.kept).await;
        // Whoever had the lock before has done the work.
        if let Some(pair) = self.fresh()? {
            return Ok(pair);
        }
        match self.mint().await {
            Err(error) => match self.kept()?.filter(|pair| pair.issued.lasts(0)) {
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
        let Some(lock) = self.identity.store.try_lock(&self.kept) else { return };
        if self.is_due()
            && let Err(error) = self.mint().await
        {
            info!("no successor of the certificate: {error}");
        }
        drop::<Lock>(lock);
    }

    /// Whether there is a certificate that wants a successor.
    fn is_due(&self) -> bool {
        let record = self.record().ok().flatten();
        record.and_then(|record| record.issued).is_some_and(|issued| issued.is_due())
    }

    fn fresh(&self) -> Result<Option<Pair>, TooOpen> {
        Ok(self.kept()?.filter(|pair| pair.issued.is_fresh()))
    }

    fn record(&self) -> Result<Option<Record>, TooOpen> {
        self.identity.store.read(&self.kept)
    }

    async fn mint(&self) -> Result<Pair, NoCertificate> {
        let (mut record, key) = self.key().await?;
        let certified = certify(&self.identity, key.public(), &self.asked).await?;
        let issued = Issued::new(&certified);
        record.issued = Some(issued.clone());
        self.identity.store.write(&self.kept, &record);
        Ok(Pair { pem: record.key, key, certificate: certified.certificate, issued })
    }

    /// The key to be certified: the one that is kept while it is young, else a new one, whose time begins now even where
    /// no certificate comes of it.
    async fn key(&self) -> Result<(Record, KeyPair), NoCertificate> {
        if let Some(record) = self.record()?.filter(Record::has_young_key)
            && let Ok(key) = KeyPair::from_pem(&record.key)
        {
            return Ok((record, key));
        }
        let temporary = std::env::temp_dir();
        let folder = self.identity.store.folder().unwrap_or(&temporary);
        let key = Pem::generate(folder).await.map_err(NoCertificate::NoKey)?;
        let pair = KeyPair::from_pem(&key).map_err(NoCertificate::NoKey)?;
        let record = Record { key, made: unix_now(), issued: None };
        if self.kept()?.is_none_or(|old| !old.issued.lasts(0)) {
            self.identity.store.write(&self.kept, &record);
        }
        Ok((record, pair))
    }
}

/// How long the certificate that is kept under a key lasts.
///
/// # Errors
/// The store is open to others.
pub(crate) fn life_left(store: &Store, key: &Key) -> Result<Option<Duration>, TooOpen> {
    let record: Option<Record> = store.read(key)?;
    Ok(record.and_then(|record| record.issued).and_then(|issued| issued.left()))
}
