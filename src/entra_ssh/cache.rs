//! The cache of a key with its SSH certificate, shared by all processes: one of them requests the certificate.

use std::time::Duration;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use tracing::info;

use crate::azure::credentials::source::SourceError;
use crate::azure::credentials::{CredentialChain, CredentialError, CredentialSource};
use crate::azure::entra::Rejection;
use crate::azure::login::LoginError;
use crate::entra_ssh::{CertificateOptions, Certified, IssueError, ensure_login_name, request_certificate};
use crate::ssh::SshError;
use crate::ssh::certificate::Certificate;
use crate::ssh::rsa_key::{KeyPair, Pem};
use crate::state::{Key, Kind, Lock, Store};
use crate::system::SystemError;
use crate::system::clock::{since_epoch, unix_now};

/// Seconds before its expiry at which a certificate is replaced, since a login takes time. A certificate with a
/// lifetime below 50 minutes is replaced in the last tenth of it.
const EXPIRY_MARGIN: u64 = 300;
/// Percent of its lifetime after which a certificate is refreshed in the background.
const REFRESH_AFTER: u64 = 70;
/// The lifetime of a key, in seconds. An older key is used while its certificate is valid: ssh reads the key file after
/// the certificate file, and both must match.
const KEY_LIFETIME: u64 = 30 * 24 * 3600;

/// Milliseconds before a background refresh is retried after an error of Entra ID.
const NEGATIVE_LIFETIME_MS: u64 = 30_000;

/// A certificate with its lifetime, in seconds of Unix time by this machine's clock.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct CachedCertificate {
    /// A line, as in a `-cert.pub` file.
    certificate: String,
    #[serde(rename = "at")]
    issued_at: u64,
    /// The certificate's expiry, converted from Entra ID's clock to this machine's.
    #[serde(rename = "until")]
    expires_at: u64,
}

impl CachedCertificate {
    fn new(Certified { certificate, clock_offset }: &Certified) -> Self {
        let expires_at = certificate.valid_before().saturating_add_signed(-clock_offset);
        Self { certificate: certificate.to_line(), issued_at: unix_now(), expires_at }
    }

    fn lifetime(&self) -> u64 {
        self.expires_at.saturating_sub(self.issued_at)
    }

    /// Returns whether the certificate is valid for this many more seconds. The clock was set back since the certificate was
    /// issued if that time is in the future.
    fn is_valid_for(&self, seconds: u64) -> bool {
        let now = unix_now();
        self.issued_at <= now && now.saturating_add(seconds) < self.expires_at
    }

    fn is_valid(&self) -> bool {
        self.is_valid_for(0)
    }

    fn left(&self) -> Option<Duration> {
        self.is_valid().then(|| Duration::from_secs(self.expires_at - unix_now()))
    }

    fn is_fresh(&self) -> bool {
        self.is_valid_for(EXPIRY_MARGIN.min(self.lifetime() / 10))
    }

    fn is_due(&self) -> bool {
        self.issued_at.saturating_add(self.lifetime().saturating_mul(REFRESH_AFTER) / 100) <= unix_now()
    }
}

/// The cached value: key and certificate in one file, so that they always match.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Record {
    key: Pem,
    /// In seconds of Unix time.
    #[serde(rename = "made")]
    key_created_at: u64,
    issued: Option<CachedCertificate>,
    /// The last error.
    #[serde(rename = "refused", default, skip_serializing_if = "Option::is_none")]
    last_error: Option<LastError>,
}

impl Record {
    fn has_usable_key(&self) -> bool {
        let now = unix_now();
        let expiry = self.key_created_at.saturating_add(KEY_LIFETIME);
        (self.key_created_at <= now && now < expiry)
            || self.issued.as_ref().is_some_and(CachedCertificate::is_valid)
    }

    /// Returns whether the certificate is due for a refresh, and the last refresh did not fail just now.
    fn is_due(&self) -> bool {
        let is_recent = |error: &LastError| unix_now_ms() < error.at.saturating_add(NEGATIVE_LIFETIME_MS);
        self.issued.as_ref().is_some_and(CachedCertificate::is_due)
            && !self.last_error.as_ref().is_some_and(is_recent)
    }

    /// Returns key and certificate if they match.
    fn pair(self) -> Option<CertifiedKey> {
        let issued = self.issued?;
        let key = KeyPair::from_pem(&self.key).ok()?;
        let certificate = Certificate::parse(&issued.certificate).ok()?;
        // The validity was checked when the certificate was issued. This checks only the key, the type and the principals,
        // so it uses a time at which the certificate is valid.
        certificate.check(key.public(), certificate.valid_before().saturating_sub(1)).ok()?;
        Some(CertifiedKey { pem: self.key, key, certificate, issued })
    }
}

/// An error of Entra ID or Azure CLI, shared with all processes that waited for the same certificate. Later processes
/// send a new request.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct LastError {
    from: CredentialSource,
    #[serde(rename = "refusal")]
    cause: Cause,
    /// In milliseconds of Unix time.
    at: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum Cause {
    Entra(Rejection),
    Messages(Vec<String>),
    /// The value is null.
    MissingSshExtension(()),
}

impl LastError {
    fn of(error: &IssueError) -> Option<Self> {
        let IssueError::Credential { error: CredentialError::Failed { from, error, .. }, .. } = error else {
            return None;
        };
        let cause = match &**error {
            SourceError::Entra(rejection) | SourceError::Login(LoginError::Rejected(rejection)) => {
                Cause::Entra(rejection.clone())
            }
            SourceError::MissingSshExtension => Cause::MissingSshExtension(()),
            // The others failed before or during the request.
            SourceError::Failed(message) if *from == CredentialSource::AzureCli => {
                Cause::Messages(vec![message.clone()])
            }
            _ => return None,
        };
        Some(Self { from: *from, cause, at: unix_now_ms() })
    }

    fn into_error(self, scope: &str) -> IssueError {
        let error = match self.cause {
            Cause::Entra(rejection) => SourceError::Entra(rejection),
            Cause::MissingSshExtension(()) => SourceError::MissingSshExtension,
            Cause::Messages(messages) => SourceError::Failed(messages.join(": ")),
        };
        let error = CredentialError::Failed { from: self.from, tenant: None, error: error.into() };
        IssueError::Credential { scope: scope.to_owned(), error }
    }
}

/// A key and its certificate.
#[derive(Debug)]
pub(crate) struct CertifiedKey {
    /// The private key.
    pub(crate) pem: Pem,
    pub(crate) key: KeyPair,
    pub(crate) certificate: Certificate,
    issued: CachedCertificate,
}

impl CertifiedKey {
    /// Returns the remaining lifetime; `None` for an expired certificate.
    pub(crate) fn left(&self) -> Option<Duration> {
        self.issued.left()
    }

    /// Checks the certificate against the user of a host entry, if there is one.
    ///
    /// # Errors
    /// The certificate is for another user: the account is not that of the host entry.
    pub(crate) fn for_login_name(self, user: Option<&str>) -> Result<Self, IssueError> {
        ensure_login_name(&self.certificate, user).map(|()| self)
    }
}

/// The cached key and certificate of one account.
#[derive(Debug)]
pub(crate) struct CertificateCache {
    credentials: CredentialChain,
    options: CertificateOptions,
    key: Key,
}

impl CertificateCache {
    /// Returns the cache without a request.
    ///
    /// # Errors
    /// Other users can access the state directory.
    pub(crate) fn new(
        credentials: CredentialChain,
        options: CertificateOptions,
    ) -> Result<Self, SystemError> {
        let client = options.client_id.as_ref().map_or(String::new(), |id| format!(" by {id}"));
        let what = format!("{}{client}", options.scope(&credentials));
        let name = credentials.cache_key(what, credentials.options.tenant.as_deref())?;
        Ok(Self { credentials, options, key: Key::new(Kind::Certificate, name) })
    }

    /// Returns the cached key and certificate, which may have expired.
    ///
    /// # Errors
    /// Other users can access the state directory.
    pub(crate) fn cached(&self) -> Result<Option<CertifiedKey>, SystemError> {
        Ok(self.record()?.and_then(Record::pair))
    }

    /// Returns the cached key and certificate, or requests a certificate. Only one process sends the request.
    ///
    /// # Errors
    /// See [`IssueError`].
    pub(crate) async fn pair(&self) -> Result<CertifiedKey, IssueError> {
        if let Some(pair) = self.fresh()? {
            return Ok(pair);
        }
        let since = unix_now_ms();
        let _lock = self.credentials.store.lock(&self.key).await;
        // The process that held the lock before may have stored a certificate.
        if let Some(pair) = self.fresh()? {
            return Ok(pair);
        }
        let last_error = self.record()?.and_then(|record| record.last_error).filter(|error| since < error.at);
        let issued = match last_error {
            Some(error) => Err(error.into_error(self.options.scope(&self.credentials))),
            None => self.request().await,
        };
        let Err(error) = issued else { return issued };
        let pair = self.cached()?.filter(|pair| pair.issued.is_valid()).ok_or(error)?;
        info!("using the cached certificate until it expires");
        Ok(pair)
    }

    /// Requests a new certificate if it is due and no other process requests it.
    pub(crate) async fn refresh(&self) {
        if !self.is_due() {
            return;
        }
        let Some(lock) = self.credentials.store.try_lock(&self.key) else { return };
        if self.is_due()
            && let Err(error) = self.request().await
        {
            info!("cannot refresh the certificate: {error}");
        }
        drop::<Lock>(lock);
    }

    /// Returns whether there is a certificate, and it is due for a refresh.
    fn is_due(&self) -> bool {
        self.record().ok().flatten().is_some_and(|record| record.is_due())
    }

    fn fresh(&self) -> Result<Option<CertifiedKey>, SystemError> {
        Ok(self.cached()?.filter(|pair| pair.issued.is_fresh()))
    }

    fn record(&self) -> Result<Option<Record>, SystemError> {
        self.credentials.store.read(&self.key)
    }

    async fn request(&self) -> Result<CertifiedKey, IssueError> {
        let (mut record, key) = self.reusable_or_new_key().await?;
        let certified = match request_certificate(&self.credentials, key.public(), &self.options).await {
            Ok(certified) => certified,
            Err(error) => {
                self.save_error(&error)?;
                return Err(error);
            }
        };
        let issued = CachedCertificate::new(&certified);
        record.issued = Some(issued.clone());
        record.last_error = None;
        self.credentials.store.write(&self.key, &record);
        Ok(CertifiedKey { pem: record.key, key, certificate: certified.certificate, issued })
    }

    fn save_error(&self, error: &IssueError) -> Result<(), SystemError> {
        if let Some((last_error, record)) = LastError::of(error).zip(self.record()?) {
            self.credentials.store.write(&self.key, &Record { last_error: Some(last_error), ..record });
        }
        Ok(())
    }

    /// Returns the key for the next certificate, and caches a new key even if the request for the certificate fails.
    async fn reusable_or_new_key(&self) -> Result<(Record, KeyPair), IssueError> {
        if let Some(record) = self.record()?.filter(Record::has_usable_key)
            && let Ok(key) = KeyPair::from_pem(&record.key)
        {
            return Ok((record, key));
        }
        let key = self.new_key().await.map_err(IssueError::NoKey)?;
        let pair = KeyPair::from_pem(&key).map_err(|error| IssueError::NoKey(error.into()))?;
        let record = Record { key, key_created_at: unix_now(), issued: None, last_error: None };
        if self.cached()?.is_none_or(|old| !old.issued.is_valid()) {
            self.credentials.store.write(&self.key, &record);
        }
        Ok((record, pair))
    }

    /// Generates a key in the state directory, or in the system's temporary directory if the state directory is not
    /// writable.
    async fn new_key(&self) -> Result<Pem, SshError> {
        let in_state_directory = async { Pem::generate(self.credentials.store.temp_dir()?).await };
        match in_state_directory.await {
            Err(SshError::NoKeygen) => Err(SshError::NoKeygen),
            Err(error) => {
                info!("cannot generate a key in the state directory: {error}");
                Pem::generate(tempfile::tempdir().context("cannot create a temporary directory")?).await
            }
            result => result,
        }
    }
}

fn unix_now_ms() -> u64 {
    u64::try_from(since_epoch().as_millis()).unwrap_or(u64::MAX)
}

/// Returns the login name and the remaining lifetime of the certificate under a key.
///
/// # Errors
/// Other users can access the state directory.
pub(crate) fn summary(store: &Store, key: &Key) -> Result<(Option<String>, Option<Duration>), SystemError> {
    let record: Option<Record> = store.read(key)?;
    let Some(issued) = record.and_then(|record| record.issued) else { return Ok((None, None)) };
    let certificate = Certificate::parse(&issued.certificate).ok();
    Ok((certificate.and_then(|certificate| certificate.login_name()), issued.left()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3600;

    /// Returns a record with these ages in seconds. The certificate's lifetime is an hour.
    fn record(key_age: u64, certificate_age: Option<u64>) -> Record {
        let now = unix_now();
        let issued = certificate_age.map(|age| CachedCertificate {
            certificate: String::new(),
            issued_at: now - age,
            expires_at: now - age + HOUR,
        });
        let key = serde_json::from_str("\"a key\"").unwrap();
        Record { key, key_created_at: now - key_age, issued, last_error: None }
    }

    #[test]
    fn an_old_key_is_replaced_once_its_certificate_has_expired() {
        assert!(record(KEY_LIFETIME - HOUR, None).has_usable_key());
        assert!(record(2 * KEY_LIFETIME, Some(HOUR / 2)).has_usable_key());
        assert!(!record(2 * KEY_LIFETIME, Some(2 * HOUR)).has_usable_key());
        assert!(!record(2 * KEY_LIFETIME, None).has_usable_key());
    }

    #[test]
    fn a_refresh_is_due_at_seventy_percent_but_not_right_after_an_error() {
        let failed_before = |milliseconds| {
            let url = "https://login.example".parse().unwrap();
            let rejection =
                Rejection::in_browser(&url, "interaction_required", "AADSTS50076: a second factor");
            let cause = Cause::Entra(rejection);
            let at = unix_now_ms() - milliseconds;
            Some(LastError { from: CredentialSource::Arcssh, cause, at })
        };
        assert!(!record(0, None).is_due() && !record(0, Some(HOUR / 2)).is_due());
        let due = record(0, Some(HOUR * 8 / 10));
        assert!(due.is_due());
        assert!(!Record { last_error: failed_before(0), ..due.clone() }.is_due());
        assert!(Record { last_error: failed_before(NEGATIVE_LIFETIME_MS), ..due }.is_due());
    }
}
