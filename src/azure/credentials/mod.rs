//! Who we are: the sources of an Entra ID token for ARM, tried in order, and the token that they gave last.
//!
//! A source that is not there is passed over; one that is there and refuses ends the search with its own words.

pub(crate) mod cli_tools;
mod client_assertion;
mod managed_identity;
pub(crate) mod service_principal;

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::slice;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use azure_core::credentials::AccessToken as SdkToken;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::Mutex;
use tracing::info;

use crate::azure::cloud::Cloud;
use crate::azure::http::Client;
use crate::azure::{entra, login};
use crate::net::Net;
use crate::state::{InsecurePermissions, Key, Kind, Store};
use crate::system::clock::unix_now;
use crate::system::secret::Secret;

pub(crate) use crate::azure::credentials::cli_tools::MissingSshExtension;
pub(crate) use crate::azure::credentials::client_assertion::{CertificateProblem, InvalidClientCertificate};
pub(crate) use crate::azure::credentials::managed_identity::arc::{AgentNotRunning, Impostor, START_AGENT};
pub(crate) use crate::azure::credentials::service_principal::IncompleteEnvironment;

/// Where a token can come from. Spelling as typed after `--credential`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum CredentialSource {
    /// The first that is there; an empty ARCSSH_CREDENTIAL means it too.
    #[default]
    #[value(help = "the first available source of this list", alias = "")]
    Any,
    /// A service principal with a secret or a certificate.
    #[value(
        help = "service principal: AZURE_CLIENT_ID with AZURE_CLIENT_SECRET or AZURE_CLIENT_CERTIFICATE_PATH"
    )]
    Environment,
    /// A service principal that trusts another issuer.
    #[value(help = "service principal: AZURE_CLIENT_ID with AZURE_FEDERATED_TOKEN_FILE")]
    WorkloadIdentity,
    /// Our own sign-in.
    #[value(help = "account signed in with arcssh login")]
    Arcssh,
    /// Whoever is signed in to Azure CLI.
    #[value(help = "account signed in with az login", alias = "az")]
    AzureCli,
    /// Whoever is signed in to Azure Developer CLI.
    #[value(help = "account signed in with azd auth login", alias = "azd")]
    AzureDeveloperCli,
    /// Whoever is signed in to Azure PowerShell.
    #[value(name = "azure-powershell", help = "account signed in with Connect-AzAccount", aliases = ["pwsh", "powershell"])]
    AzurePowershell,
    /// The identity of this machine.
    #[value(help = "managed identity of this machine (Azure Arc, Azure VM, App Service)")]
    ManagedIdentity,
}

impl CredentialSource {
    /// All sources, in the order in which they are tried. What the user has set or typed comes before what the machine
    /// and its network offer.
    const ALL: [Self; 7] = [
        Self::Environment,
        Self::WorkloadIdentity,
        Self::Arcssh,
        Self::AzureCli,
        Self::AzureDeveloperCli,
        Self::AzurePowershell,
        Self::ManagedIdentity,
    ];

    /// Whether it is the first that is there.
    pub(crate) fn is_any(&self) -> bool {
        *self == Self::Any
    }

    /// Whether it is a program, which takes long to start.
    fn is_program(self) -> bool {
        matches!(self, Self::AzureCli | Self::AzureDeveloperCli | Self::AzurePowershell)
    }

    /// Seconds that a token of this source is cached at most. arcssh looks up a managed identity again after an hour: its token
    /// may live for a day (Microsoft Learn, "Managed identities for Azure resources frequently asked questions"), and its
    /// service caches it by itself.
    fn cached_for(self) -> u64 {
        match self {
            Self::ManagedIdentity => 3600,
            _ => u64::MAX,
        }
    }

    /// What it is called in a sentence.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Any => "any source",
            Self::Environment => "the service principal",
            Self::WorkloadIdentity => "the workload identity",
            Self::ManagedIdentity => "the managed identity",
            Self::Arcssh => "the sign-in of arcssh",
            Self::AzureCli => "Azure CLI",
            Self::AzureDeveloperCli => "Azure Developer CLI",
            Self::AzurePowershell => "Azure PowerShell",
        }
    }
}

/// What a source answers.
type TokenResult = Result<SdkToken, SourceError>;

/// A source without a token.
#[derive(Debug)]
pub(crate) enum SourceError {
    /// It is not there.
    Unavailable(Unavailable),
    /// It is there, and refuses.
    Refused(anyhow::Error),
    /// It is a program without a signed-in user.
    SignedOut(anyhow::Error),
}

/// A source that is not there.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{why}")]
pub(crate) struct Unavailable {
    why: String,
    /// What would bring it.
    pub(crate) remedy: String,
    /// Whether it is there for other users.
    for_others: bool,
}

impl Unavailable {
    pub(crate) fn new(why: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { why: why.into(), remedy: remedy.into(), for_others: false }
    }

    /// A source that is there, but not for this user.
    fn for_others(why: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { for_others: true, ..Self::new(why, remedy) }
    }
}

impl From<Unavailable> for SourceError {
    fn from(absent: Unavailable) -> Self {
        Self::Unavailable(absent)
    }
}

impl From<anyhow::Error> for SourceError {
    fn from(error: anyhow::Error) -> Self {
        Self::Refused(error)
    }
}

impl From<azure_core::Error> for SourceError {
    fn from(error: azure_core::Error) -> Self {
        Self::Refused(error.into())
    }
}

impl From<InsecurePermissions> for SourceError {
    fn from(error: InsecurePermissions) -> Self {
        Self::Refused(error.into())
    }
}

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CredentialError {
    /// No source is there; this one would be for another user.
    #[error("no account is signed in")]
    Nobody(Option<Unavailable>),
    /// The one source that was asked for is not there.
    #[error("{} is not there: {absent}", from.title())]
    Unavailable {
        /// Which.
        from: CredentialSource,
        /// Why, and what to do.
        absent: Unavailable,
    },
    /// A source is there, and refuses.
    #[error("{} gives no token", from.title())]
    Refused {
        /// Which.
        from: CredentialSource,
        /// The tenant that Azure wants a token of, where it is not the source's own choice.
        tenant: Option<String>,
        /// In its own words.
        #[source]
        error: anyhow::Error,
    },
    /// What was kept cannot be trusted.
    #[error(transparent)]
    Store(#[from] InsecurePermissions),
}

/// An access token for ARM.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct AccessToken {
    /// What goes into the header.
    pub(crate) secret: Secret,
    /// When it ends, in seconds of Unix time.
    pub(crate) expires_on: u64,
    /// When we had it.
    obtained_on: u64,
    /// Who gave it.
    pub(crate) source: CredentialSource,
    /// Whether it was kept from before.
    #[serde(skip)]
    pub(crate) cached: bool,
}

/// A token is used up to this many seconds before it ends, which a slow request may take; for one that lives less than
/// an hour, up to the last tenth of its life.
const MARGIN: u64 = 300;

impl AccessToken {
    fn new(token: SdkToken, source: CredentialSource) -> Self {
        let expires_on = u64::try_from(token.expires_on.unix_timestamp()).unwrap_or_default();
        Self { secret: token.token.into(), expires_on, obtained_on: unix_now(), source, cached: false }
    }

    fn is_fresh(&self) -> bool {
        let life = self.expires_on.saturating_sub(self.obtained_on).min(self.source.cached_for());
        self.obtained_on + life > unix_now() + MARGIN.min(life / 10)
    }

    /// Whom it speaks for, as far as it tells. Only Azure can check it.
    pub(crate) fn claims(&self) -> Value {
        entra::claims(self.secret.secret())
    }
}

/// What a program refused with. It has refused all that wanted a token by then: a fleet does not start it over and over.
#[derive(Serialize, Deserialize)]
struct Refused {
    from: CredentialSource,
    /// In its own words, outermost first.
    words: Vec<String>,
    /// When, in Unix time.
    at: Duration,
}

impl Refused {
    fn new(from: CredentialSource, error: &anyhow::Error) -> Self {
        Self { from, words: words(error), at: now() }
    }

    fn again(self, tenant: Option<&str>) -> CredentialError {
        CredentialError::Refused {
            from: self.from,
            tenant: tenant.map(Into::into),
            error: of_words(self.words),
        }
    }
}

/// An error in its own words, outermost first.
pub(crate) fn words(error: &anyhow::Error) -> Vec<String> {
    error.chain().map(ToString::to_string).collect()
}

/// An error of these words.
pub(crate) fn of_words(words: Vec<String>) -> anyhow::Error {
    let mut words = words.into_iter().rev();
    let cause = anyhow::Error::msg(words.next().unwrap_or_default());
    words.fold(cause, anyhow::Error::context)
}

/// Since the Unix epoch.
fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// What the user said about identities.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct CredentialOptions {
    /// Where to take a token from.
    #[serde(rename = "credential", skip_serializing_if = "CredentialSource::is_any")]
    pub(crate) source: CredentialSource,
    /// The tenant to sign in to, if not the source's own choice.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tenant: Option<String>,
}

/// Who we are in one cloud.
#[derive(Debug)]
pub(crate) struct CredentialChain {
    /// Where.
    pub(crate) cloud: Cloud,
    /// What the user said.
    pub(crate) wanted: CredentialOptions,
    net: Net,
    /// Where what lasts is kept.
    pub(crate) store: Store,
    client: OnceCell<Client>,
    /// Since when it has been wanted, in Unix time.
    since: Duration,
    /// The tokens of this process, each under its subject. Held while one is fetched, so that it is fetched once.
    tokens: Mutex<BTreeMap<String, AccessToken>>,
}

impl CredentialChain {
    /// Nothing is asked for yet.
    pub(crate) fn new(cloud: &Cloud, wanted: CredentialOptions, net: &Net, store: &Store) -> Self {
        let (cloud, net, store) = (cloud.clone(), net.clone(), store.clone());
        Self { cloud, wanted, net, store, client: OnceCell::new(), since: now(), tokens: Mutex::default() }
    }

    /// The client of ARM and Entra ID.
    ///
    /// # Errors
    /// The environment names a proxy that is of no use.
    pub(crate) fn client(&self) -> anyhow::Result<Client> {
        if let Some(client) = self.client.get() {
            return Ok(client.clone());
        }
        let http = self.net.http_client([&self.cloud.arm_endpoint, &self.cloud.authority_host])?;
        let client = Client { http, store: self.store.clone() };
        Ok(self.client.get_or_init(|| client).clone())
    }

    /// A token, of `tenant` where it is named: the one that was kept, or a new one that is kept from now on. However
    /// many processes want one at a time, one fetches it.
    ///
    /// # Errors
    /// See [`CredentialError`].
    pub(crate) async fn token(&self, tenant: Option<&str>) -> Result<AccessToken, CredentialError> {
        let key = self.key(tenant)?;
        let mut tokens = self.tokens.lock().await;
        if let Some(token) = tokens.get(&key.subject).filter(|token| token.is_fresh()) {
            return Ok(token.clone());
        }
        let cached = self.cached(&key)?;
        let token = match cached {
            Some(token) => token,
            None => self.fetch_alone(&key, tenant).await?,
        };
        tokens.insert(key.subject, token.clone());
        Ok(token)
    }

    /// A new token in place of one that Azure did not take.
    ///
    /// # Errors
    /// See [`CredentialError`].
    pub(crate) async fn replace(
        &self,
        token: &AccessToken,
        tenant: Option<&str>,
    ) -> Result<AccessToken, CredentialError> {
        let key = self.key(tenant)?;
        self.tokens.lock().await.retain(|_, other| other.secret != token.secret);
        if self.store.read::<AccessToken>(&key)?.is_some_and(|cached| cached.secret == token.secret) {
            self.store.remove(&key);
        }
        self.token(tenant).await
    }

    async fn fetch_alone(&self, key: &Key, tenant: Option<&str>) -> Result<AccessToken, CredentialError> {
        let _lock = self.store.lock(key).await;
        // Whoever had the lock before has done the work.
        if let Some(token) = self.cached(key)? {
            return Ok(token);
        }
        let refusal = Key::new(Kind::Refusal, key.subject.as_str());
        let refused: Option<Refused> = self.store.read(&refusal)?;
        if let Some(refused) = refused.filter(|refused| (self.since..now()).contains(&refused.at)) {
            return Err(refused.again(tenant));
        }
        let fetched = self.fetch(tenant).await;
        match &fetched {
            Ok(token) => {
                self.store.write(key, token);
                self.store.remove_expired(); // here, for that comes about once an hour
            }
            Err(CredentialError::Refused { from, error, .. }) if from.is_program() => {
                self.store.write(&refusal, &Refused::new(*from, error));
            }
            Err(_) => {}
        }
        fetched
    }

    fn cached(&self, key: &Key) -> Result<Option<AccessToken>, CredentialError> {
        let cached = self.store.read::<AccessToken>(key)?.filter(AccessToken::is_fresh);
        if let Some(token) = &cached {
            info!(expires_on = token.expires_on, "a kept token of {}", token.source.title());
        }
        Ok(cached.map(|token| AccessToken { cached: true, ..token }))
    }

    /// Asks one source after the other.
    async fn fetch(&self, tenant: Option<&str>) -> Result<AccessToken, CredentialError> {
        let asked = match &self.wanted.source {
            CredentialSource::Any => &CredentialSource::ALL,
            one => slice::from_ref(one),
        };
        let mut nearest: Option<Unavailable> = None;
        let mut signed_out = None;
        for &from in asked {
            info!("trying {}", from.title());
            match self.ask(from, tenant.or(self.wanted.tenant.as_deref())).await.and_then(usable) {
                Ok(token) => {
                    let token = AccessToken::new(token, from);
                    info!(expires_on = token.expires_on, "a token of {}", from.title());
                    return Ok(token);
                }
                Err(SourceError::Unavailable(absent)) => {
                    info!("passing over {}: {absent}", from.title());
                    if self.wanted.source != CredentialSource::Any {
                        return Err(CredentialError::Unavailable { from, absent });
                    }
                    nearest = nearest.or(Some(absent).filter(|absent| absent.for_others));
                }
                Err(SourceError::SignedOut(error)) => {
                    info!("passing over {}: {error:#}", from.title());
                    signed_out.get_or_insert((from, error));
                }
                Err(SourceError::Refused(error)) => {
                    return Err(CredentialError::Refused { from, tenant: tenant.map(Into::into), error });
                }
            }
        }
        Err(match signed_out {
            Some((from, error)) => CredentialError::Refused { from, tenant: tenant.map(Into::into), error },
            None => CredentialError::Nobody(nearest),
        })
    }

    async fn ask(&self, source: CredentialSource, tenant: Option<&str>) -> TokenResult {
        let (cloud, scope) = (&self.cloud, self.cloud.arm_scope.as_str());
        match source {
            CredentialSource::Any => Err(Unavailable::new("it is no source of its own", "").into()),
            CredentialSource::Environment => {
                service_principal::service_principal(cloud, self.client()?, scope, tenant).await
            }
            CredentialSource::WorkloadIdentity => {
                service_principal::workload_identity(cloud, self.client()?, scope, tenant).await
            }
            CredentialSource::ManagedIdentity => {
                managed_identity::managed_identity(&self.net, scope, self.wanted.source).await
            }
            CredentialSource::Arcssh => self.from_login(tenant).await,
            CredentialSource::AzureCli => cli_tools::azure_cli(scope, tenant).await,
            CredentialSource::AzureDeveloperCli => cli_tools::azure_developer_cli(scope, tenant).await,
            CredentialSource::AzurePowershell => cli_tools::azure_powershell(scope, tenant).await,
        }
    }

    /// A token by our own sign-in.
    async fn from_login(&self, tenant: Option<&str>) -> TokenResult {
        if login::account(&self.cloud, &self.store)?.is_none() {
            return Err(Unavailable::new("nobody has typed arcssh login", "run arcssh login").into());
        }
        let token = login::refreshed(&self.cloud, self.client()?, tenant).await?;
        token.ok_or_else(|| Unavailable::new("somebody typed arcssh logout", "run arcssh login").into())
    }

    /// Under what a token is kept.
    fn key(&self, tenant: Option<&str>) -> Result<Key, CredentialError> {
        let Cloud { arm_endpoint, arm_scope, .. } = &self.cloud;
        Ok(Key::new(Kind::Token, self.subject(format!("{arm_endpoint} as {arm_scope}"), tenant)?))
    }

    /// Something that Entra ID gives, and all that decides to whom.
    pub(crate) fn subject(&self, what: String, tenant: Option<&str>) -> Result<String, InsecurePermissions> {
        let given = |name| service_principal::variable(name).ok().flatten();
        let mut subject = format!("{what} of {}", self.cloud.authority_host);
        let mut add = |name: &str, value: Option<String>| {
            if let Some(value) = value {
                subject += &format!(", {name} {value}");
            }
        };
        let pinned =
            (self.wanted.source != CredentialSource::Any).then(|| self.wanted.source.title().to_owned());
        add("by", pinned);
        add("in", tenant.map(Into::into).or_else(|| self.wanted.tenant.clone()));
        for name in ["AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_CLIENT_CERTIFICATE_PATH"] {
            add(name, given(name));
        }
        for name in [
            "AZURE_FEDERATED_TOKEN_FILE",
            "IDENTITY_ENDPOINT",
            "IMDS_ENDPOINT",
            "MSI_ENDPOINT",
            "AZURE_CONFIG_DIR",
            "AZD_CONFIG_DIR",
        ] {
            add(name, given(name));
        }
        add("AZURE_CLIENT_SECRET", given("AZURE_CLIENT_SECRET").map(|_| "set".into()));
        add("account", login::account(&self.cloud, &self.store)?.map(|account| account.id()));
        add("Azure CLI's of", changed("AZURE_CONFIG_DIR", ".azure", "azureProfile.json"));
        add("Azure Developer CLI's of", changed("AZD_CONFIG_DIR", ".azd", "auth.json"));
        Ok(subject)
    }
}

/// When somebody last signed in to a program. Azure CLI writes that, and another choice of subscription, to
/// `azureProfile.json` in `$AZURE_CONFIG_DIR` or `~/.azure` (azure-cli-core, `_session.py` and `_environment.py`); Azure
/// Developer CLI writes it to `auth.json` in `$AZD_CONFIG_DIR` or `~/.azd` (azure-dev, `pkg/auth/manager.go`).
fn changed(variable: &str, folder: &str, file: &str) -> Option<String> {
    let given = service_principal::variable(variable).ok().flatten().map(PathBuf::from);
    let folder = given.or_else(|| Some(std::env::home_dir()?.join(folder)))?;
    let changed: SystemTime = folder.join(file).metadata().ok()?.modified().ok()?;
    Some(changed.duration_since(UNIX_EPOCH).ok()?.as_millis().to_string())
}

/// A token that a header takes.
fn usable(token: SdkToken) -> TokenResult {
    let text = token.token.secret();
    match !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic()) {
        true => Ok(token),
        false => Err(anyhow::anyhow!("what it gave is no token").into()),
    }
}

/// The resource that a scope stands for, as services of version 1 name it.
fn resource(scope: &str) -> &str {
    scope.strip_suffix("/.default").unwrap_or(scope)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_fresh_until_five_minutes_or_a_tenth_of_its_life_before_its_end() {
        let fresh = |life: u64, left: u64| {
            let (now, secret) = (unix_now(), Secret::from("secret"));
            let expires_on = now + left;
            let obtained_on = expires_on - life;
            AccessToken { secret, expires_on, obtained_on, source: CredentialSource::Any, cached: false }
                .is_fresh()
        };
        assert!(fresh(3600, 310) && !fresh(3600, 290));
        assert!(fresh(86_400, 310) && !fresh(86_400, 290));
        assert!(fresh(60, 10) && !fresh(60, 5) && !fresh(60, 0));
    }

    #[test]
    fn a_token_of_a_managed_identity_is_cached_for_an_hour_at_most() {
        let fresh = |source: CredentialSource, age: u64| {
            let (obtained_on, secret) = (unix_now() - age, Secret::from("secret"));
            AccessToken { secret, expires_on: unix_now() + 86_000, obtained_on, source, cached: false }
                .is_fresh()
        };
        assert!(
            fresh(CredentialSource::ManagedIdentity, 0) && fresh(CredentialSource::ManagedIdentity, 3290)
        );
        assert!(
            !fresh(CredentialSource::ManagedIdentity, 3310)
                && !fresh(CredentialSource::ManagedIdentity, 7200)
        );
        assert!(fresh(CredentialSource::AzureCli, 7200));
    }
}
