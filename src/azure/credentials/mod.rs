//! Access tokens for ARM: the credential sources, tried in order.
//!
//! Unavailable sources are skipped. If an available source fails, the search stops with its error.

pub(crate) mod cache;
pub(crate) mod cli_tools;
pub(crate) mod client_assertion;
mod managed_identity;
pub(crate) mod service_principal;
pub(crate) mod source;

use std::cell::{OnceCell, RefCell};
use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use azure_core::credentials::AccessToken as SdkToken;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tracing::info;

use crate::azure::cloud::Cloud;
use crate::azure::credentials::cache::TokenCache;
use crate::azure::credentials::service_principal::ServicePrincipal;
use crate::azure::credentials::source::{SourceError, Unavailable};
use crate::azure::entra::ClaimsChallenge;
use crate::azure::http::Client;
use crate::azure::{entra, login};
use crate::net::{Net, NetError};
use crate::state::{Key, Kind, Store};
use crate::system::SystemError;
use crate::system::clock::unix_now;
use crate::system::secret::Secret;

/// A source of access tokens, spelled as after `--credential`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum CredentialSource {
    /// No choice, also for an empty ARCSSH_CREDENTIAL: the sources of AZURE_TOKEN_CREDENTIALS, else all.
    #[default]
    #[value(name = "", hide = true)]
    Unset,
    /// The first available source.
    #[value(help = "the first available source of this list")]
    Any,
    /// A service principal with a secret or a certificate.
    #[value(
        help = "service principal: AZURE_CLIENT_ID with AZURE_CLIENT_SECRET or AZURE_CLIENT_CERTIFICATE_PATH"
    )]
    Environment,
    /// A service principal that trusts another issuer.
    #[value(help = "service principal: AZURE_CLIENT_ID with AZURE_FEDERATED_TOKEN_FILE")]
    WorkloadIdentity,
    /// The account of `arcssh login`.
    #[value(help = "account signed in with arcssh login")]
    Arcssh,
    /// The account of Azure CLI.
    #[value(help = "account signed in with az login", alias = "az")]
    AzureCli,
    /// The account of Azure Developer CLI.
    #[value(help = "account signed in with azd auth login", alias = "azd")]
    AzureDeveloperCli,
    /// The account of Azure PowerShell.
    #[value(name = "azure-powershell", help = "account signed in with Connect-AzAccount", aliases = ["pwsh", "powershell"])]
    AzurePowershell,
    /// The managed identity of this machine.
    #[value(help = "managed identity of this machine (Azure Arc, Azure VM, App Service)")]
    ManagedIdentity,
}

impl CredentialSource {
    /// All sources, in the order in which they are tried: the user's own choices before an offer of the machine or its
    /// network.
    const ALL: [Self; 7] = [
        Self::Environment,
        Self::WorkloadIdentity,
        Self::Arcssh,
        Self::AzureCli,
        Self::AzureDeveloperCli,
        Self::AzurePowershell,
        Self::ManagedIdentity,
    ];

    /// Returns whether the user selected no source.
    pub(crate) fn is_any(&self) -> bool {
        matches!(self, Self::Unset | Self::Any)
    }

    /// Returns whether the source is a program, which starts slowly.
    fn is_program(self) -> bool {
        matches!(self, Self::AzureCli | Self::AzureDeveloperCli | Self::AzurePowershell)
    }

    /// Returns the sources that AZURE_TOKEN_CREDENTIALS selects: those of a developer, those of a deployment, or one
    /// credential. `None` for a credential that arcssh does not have (azidentity for Go, `default_azure_credential.go`;
    /// azure-identity for Python, `_credentials/default.py`: both ignore case and blanks).
    fn of_token_credentials(value: &str) -> Option<Vec<Self>> {
        Some(match value.trim().to_ascii_lowercase().as_str() {
            "dev" => vec![Self::Arcssh, Self::AzureCli, Self::AzureDeveloperCli, Self::AzurePowershell],
            "prod" => vec![Self::Environment, Self::WorkloadIdentity, Self::ManagedIdentity],
            "environmentcredential" => vec![Self::Environment],
            "workloadidentitycredential" => vec![Self::WorkloadIdentity],
            "managedidentitycredential" => vec![Self::ManagedIdentity],
            "azureclicredential" => vec![Self::AzureCli],
            "azuredeveloperclicredential" => vec![Self::AzureDeveloperCli],
            "azurepowershellcredential" => vec![Self::AzurePowershell],
            _ => return None,
        })
    }

    /// Returns the longest time to cache a token of this source, in seconds. Azure issues tokens of a managed identity
    /// for a day and caches them itself (Microsoft Learn, "Managed identities for Azure resources frequently asked
    /// questions").
    fn max_cache_time(self) -> u64 {
        match self {
            Self::ManagedIdentity => 3600,
            _ => u64::MAX,
        }
    }

    /// Returns the name of the source after `--credential`.
    pub(crate) fn name(self) -> String {
        self.to_possible_value().map_or(String::new(), |value| value.get_name().to_owned())
    }

    /// Returns the name of the source for a sentence.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Unset | Self::Any => "any source",
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

/// The variable that selects credentials in every Azure SDK.
pub(crate) const TOKEN_CREDENTIALS: &str = "AZURE_TOKEN_CREDENTIALS";

/// How a source was selected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Selection {
    /// The user named it.
    Named,
    /// It is one of several that are tried.
    Chain,
}

type TokenResult = Result<SdkToken, SourceError>;

/// Why there is no token.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum CredentialError {
    /// No source is available; those that exist on this computer, and why each of them is unavailable.
    #[error("no account is signed in")]
    NotSignedIn(Vec<(CredentialSource, Unavailable)>),
    /// AZURE_TOKEN_CREDENTIALS has a value that arcssh does not support.
    #[error("AZURE_TOKEN_CREDENTIALS={0:?} names no credential source of arcssh")]
    TokenCredentials(String),
    /// The selected source is unavailable.
    #[error("{} is unavailable: {unavailable}", from.title())]
    Unavailable { from: CredentialSource, unavailable: Unavailable },
    /// An available source failed.
    #[error("{} has no token: {error}", from.title())]
    Failed {
        from: CredentialSource,
        /// The tenant that Azure asked for; without it, the source chose.
        tenant: Option<String>,
        error: Box<SourceError>,
    },
    /// Other users can access the state directory.
    #[error(transparent)]
    State(#[from] SystemError),
}

/// An access token for ARM.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct AccessToken {
    pub(crate) secret: Secret,
    /// In seconds of Unix time.
    pub(crate) expires_on: u64,
    /// In seconds of Unix time.
    obtained_on: u64,
    pub(crate) source: CredentialSource,
    /// Whether the token comes from the state directory.
    #[serde(skip)]
    pub(crate) cached: bool,
}

/// Seconds before its expiry at which a token is replaced: a slow request takes time. A token with a lifetime below 50
/// minutes is replaced in the last tenth of it.
const EXPIRY_MARGIN: u64 = 300;

impl AccessToken {
    fn new(token: SdkToken, source: CredentialSource) -> Self {
        let expires_on = u64::try_from(token.expires_on.unix_timestamp()).unwrap_or_default();
        Self { secret: token.token.into(), expires_on, obtained_on: unix_now(), source, cached: false }
    }

    fn is_fresh(&self) -> bool {
        let lifetime = self.expires_on.saturating_sub(self.obtained_on).min(self.source.max_cache_time());
        self.obtained_on + lifetime > unix_now() + EXPIRY_MARGIN.min(lifetime / 10)
    }

    /// Returns the remaining lifetime, unless the token has expired.
    pub(crate) fn left(&self) -> Option<Duration> {
        self.expires_on.checked_sub(unix_now()).filter(|left| *left > 0).map(Duration::from_secs)
    }

    /// Returns the name of the user, or the ID of the machine or application, unverified (Microsoft Learn, "Access token
    /// claims reference").
    pub(crate) fn account_name(&self) -> String {
        let claims = self.claims();
        let find = |name: &str| claims[name].as_str().filter(|text| !text.is_empty()).map(ToOwned::to_owned);
        let name = ["upn", "preferred_username", "unique_name", "xms_mirid"].into_iter().find_map(find);
        let application = || find("appid").map(|id| format!("application {id}"));
        name.or_else(application).or_else(|| find("oid")).unwrap_or_default()
    }

    /// Returns the tenant of the account, unverified.
    pub(crate) fn tenant(&self) -> String {
        self.claims()["tid"].as_str().unwrap_or_default().to_owned()
    }

    /// Returns the claims of the token, unverified.
    pub(crate) fn claims(&self) -> Value {
        entra::claims(self.secret.secret())
    }
}

/// The account of a rejected request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Caller {
    pub(crate) source: CredentialSource,
    /// The name of the account; empty if its token contains none.
    pub(crate) name: String,
    /// Other sources that have an account on this computer.
    pub(crate) others: Vec<CredentialSource>,
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.source {
            CredentialSource::Arcssh => f.write_str("the account of arcssh login")?,
            source if source.is_program() => write!(f, "the account of {}", source.title())?,
            source => f.write_str(source.title())?,
        }
        if self.name.is_empty() { Ok(()) } else { write!(f, " ({})", self.name) }
    }
}

/// The user's choice of credentials.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct CredentialOptions {
    #[serde(rename = "credential", skip_serializing_if = "CredentialSource::is_any")]
    pub(crate) source: CredentialSource,
    /// The tenant to sign in to; without it, the source chooses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tenant: Option<String>,
}

impl CredentialOptions {
    /// Returns the sources to try, in this order.
    ///
    /// # Errors
    /// AZURE_TOKEN_CREDENTIALS cannot be used.
    pub(crate) fn sources(&self) -> Result<Vec<CredentialSource>, CredentialError> {
        match self.source {
            CredentialSource::Unset => {
                match std::env::var_os(TOKEN_CREDENTIALS)
                    .filter(|value| !value.to_string_lossy().trim().is_empty())
                {
                    Some(value) => {
                        let value = value.to_string_lossy();
                        CredentialSource::of_token_credentials(&value)
                            .ok_or_else(|| CredentialError::TokenCredentials(value.into_owned()))
                    }
                    None => Ok(CredentialSource::ALL.into()),
                }
            }
            CredentialSource::Any => Ok(CredentialSource::ALL.into()),
            one => Ok(vec![one]),
        }
    }
}

/// The credential sources for one cloud, with the tokens that they issued.
#[derive(Debug)]
pub(crate) struct CredentialChain {
    pub(crate) cloud: Cloud,
    pub(crate) options: CredentialOptions,
    pub(crate) net: Net,
    pub(crate) store: Store,
    client: OnceCell<Client>,
    tokens: TokenCache,
    /// The claims that ARM required of the last token of a service principal.
    claims: RefCell<Option<ClaimsChallenge>>,
}

impl CredentialChain {
    /// Returns a chain that has not sent any request.
    pub(crate) fn new(cloud: &Cloud, options: CredentialOptions, net: &Net, store: &Store) -> Self {
        Self {
            cloud: cloud.clone(),
            options,
            net: net.clone(),
            store: store.clone(),
            client: OnceCell::new(),
            tokens: TokenCache::new(store),
            claims: RefCell::default(),
        }
    }

    /// Returns the HTTP client for ARM and Entra ID.
    ///
    /// # Errors
    /// The environment names an unusable proxy.
    pub(crate) fn client(&self) -> Result<Client, NetError> {
        if let Some(client) = self.client.get() {
            return Ok(client.clone());
        }
        let http = self
            .net
            .http_client([self.cloud.arm_endpoint.authority(), self.cloud.authority_host.authority()])?;
        let client = Client { http, store: self.store.clone() };
        Ok(self.client.get_or_init(|| client).clone())
    }

    /// Returns a cached or a new token, of `tenant` if one is given.
    ///
    /// # Errors
    /// See [`CredentialError`].
    pub(crate) async fn token(&self, tenant: Option<&str>) -> Result<AccessToken, CredentialError> {
        self.tokens.get_or_fetch(self.key(tenant)?, tenant, async || self.fetch(tenant).await).await
    }

    /// Returns a token in place of one that Azure rejected.
    ///
    /// # Errors
    /// See [`CredentialError`].
    pub(crate) async fn replace(
        &self,
        token: &AccessToken,
        tenant: Option<&str>,
    ) -> Result<AccessToken, CredentialError> {
        self.tokens.invalidate(&self.key(tenant)?, token).await?;
        self.token(tenant).await
    }

    /// Stores the claims that ARM requires in place of a token. The next request to Entra ID contains them. Returns whether
    /// the source of the token can request them: programs and metadata services have no parameter for claims.
    ///
    /// # Errors
    /// Other users can access the state directory.
    pub(crate) fn store_challenge(
        &self,
        token: &AccessToken,
        tenant: Option<&str>,
        claims: &ClaimsChallenge,
    ) -> Result<bool, SystemError> {
        match token.source {
            CredentialSource::Arcssh => {
                let tenant = tenant.or(self.options.tenant.as_deref());
                login::store_challenge(&self.cloud, &self.store, tenant, claims)?;
            }
            CredentialSource::Environment | CredentialSource::WorkloadIdentity => {
                self.claims.replace(Some(claims.clone()));
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Returns the account of a token.
    pub(crate) fn caller(&self, token: &AccessToken) -> Caller {
        let has_account = |source: &CredentialSource| match source {
            CredentialSource::Arcssh => {
                login::account(&self.cloud, &self.store).is_ok_and(|account| account.is_some())
            }
            program => cli_tools::has_account(*program),
        };
        let mut others = CredentialSource::ALL.to_vec();
        others.retain(|source| *source != token.source && has_account(source));
        Caller { source: token.source, name: token.account_name(), others }
    }

    /// Requests a token from one source after the other.
    async fn fetch(&self, tenant: Option<&str>) -> Result<AccessToken, CredentialError> {
        let sources = self.options.sources()?;
        let selection = if sources.len() == 1 { Selection::Named } else { Selection::Chain };
        let is_selected = sources.len() < CredentialSource::ALL.len();
        let mut reasons = Vec::new();
        for from in sources {
            info!("trying {}", from.title());
            let source_tenant = tenant.or(self.options.tenant.as_deref());
            match self.request(from, source_tenant, selection).await.and_then(check) {
                Ok(token) => {
                    let token = AccessToken::new(token, from);
                    info!(expires_on = token.expires_on, "a token of {}", from.title());
                    return Ok(token);
                }
                Err(SourceError::Unavailable(unavailable)) => {
                    info!("skipping {}: {unavailable}", from.title());
                    if selection == Selection::Named {
                        return Err(CredentialError::Unavailable { from, unavailable });
                    }
                    reasons.extend((is_selected || unavailable.is_notable()).then_some((from, unavailable)));
                }
                Err(error) => {
                    let tenant = tenant.map(Into::into);
                    return Err(CredentialError::Failed { from, tenant, error: error.into() });
                }
            }
        }
        Err(CredentialError::NotSignedIn(reasons))
    }

    async fn request(
        &self,
        source: CredentialSource,
        tenant: Option<&str>,
        selection: Selection,
    ) -> TokenResult {
        let cloud = &self.cloud;
        let scope = cloud.arm_scope.as_str();
        match source {
            CredentialSource::Unset | CredentialSource::Any => Err(Unavailable::NoSignIn.into()),
            CredentialSource::Environment => {
                self.by_application(ServicePrincipal::with_secret_or_certificate(cloud, tenant)?).await
            }
            CredentialSource::WorkloadIdentity => {
                let principal =
                    ServicePrincipal::with_federated_token(tenant, &self.net, &self.store).await?;
                self.by_application(principal).await
            }
            CredentialSource::ManagedIdentity => {
                managed_identity::managed_identity(&self.net, scope, selection).await
            }
            CredentialSource::Arcssh => self.by_login(tenant).await,
            CredentialSource::AzureCli => {
                cli_tools::azure_cli(scope, tenant).await.map_err(|error| in_other_cloud(error, cloud))
            }
            CredentialSource::AzureDeveloperCli => cli_tools::azure_developer_cli(scope, tenant).await,
            CredentialSource::AzurePowershell => cli_tools::azure_powershell(scope, tenant).await,
        }
    }

    async fn by_application(&self, principal: ServicePrincipal) -> TokenResult {
        let scope = &self.cloud.arm_scope;
        let claims = self.claims.borrow().clone();
        let claims: Vec<(&str, &str)> = claims.iter().map(|claims| ("claims", claims.json())).collect();
        let (response, _date) = principal.request(&self.cloud, self.client()?, scope, &claims).await?;
        Ok(response.token())
    }

    /// Requests a token for the account of `arcssh login`.
    async fn by_login(&self, tenant: Option<&str>) -> TokenResult {
        if login::account(&self.cloud, &self.store)?.is_none() {
            return Err(Unavailable::NoSignIn.into());
        }
        let token = login::refreshed(&self.cloud, self.client()?, tenant).await?;
        token.ok_or(SourceError::Unavailable(Unavailable::NoSignIn))
    }

    fn key(&self, tenant: Option<&str>) -> Result<Key, CredentialError> {
        let Cloud { arm_endpoint, arm_scope, .. } = &self.cloud;
        Ok(Key::new(Kind::Token, self.cache_key(format!("{arm_endpoint} as {arm_scope}"), tenant)?))
    }

    /// Returns the cache key of `what` Entra ID issues: `what`, with all that decides for which account it is issued.
    pub(crate) fn cache_key(&self, what: String, tenant: Option<&str>) -> Result<String, SystemError> {
        let variable = |name| service_principal::variable(name).ok().flatten();
        let mut key = format!("{what} of {}", self.cloud.authority_host);
        let mut add = |name: &str, value: Option<String>| {
            if let Some(value) = value {
                key += &format!(", {name} {value}");
            }
        };
        let source = self.options.source;
        add("by", (!source.is_any()).then(|| source.title().to_owned()));
        let selects = (source == CredentialSource::Unset).then(|| variable(TOKEN_CREDENTIALS)).flatten();
        add(TOKEN_CREDENTIALS, selects);
        add("in", tenant.map(Into::into).or_else(|| self.options.tenant.clone()));
        for name in [
            "AZURE_TENANT_ID",
            "AZURE_CLIENT_ID",
            "AZURE_CLIENT_CERTIFICATE_PATH",
            "AZURE_FEDERATED_TOKEN_FILE",
            "AZURESUBSCRIPTION_TENANT_ID",
            "AZURESUBSCRIPTION_CLIENT_ID",
            "IDENTITY_ENDPOINT",
            "IMDS_ENDPOINT",
            "MSI_ENDPOINT",
            "AZURE_CONFIG_DIR",
            "AZD_CONFIG_DIR",
        ] {
            add(name, variable(name));
        }
        add("AZURE_CLIENT_SECRET", variable("AZURE_CLIENT_SECRET").map(|_| "set".into()));
        add("account", login::account(&self.cloud, &self.store)?.map(|account| account.id()));
        add("Azure CLI's of", modified("AZURE_CONFIG_DIR", ".azure", "azureProfile.json"));
        add("Azure Developer CLI's of", modified("AZD_CONFIG_DIR", ".azd", "auth.json"));
        Ok(key)
    }
}

/// Returns when the user last signed in to a program. Azure CLI writes each sign-in, and each choice of another
/// subscription, to `azureProfile.json` in `$AZURE_CONFIG_DIR` or `~/.azure` (azure-cli-core, `_session.py` and
/// `_environment.py`). Azure Developer CLI writes each sign-in to `auth.json` in `$AZD_CONFIG_DIR` or `~/.azd`
/// (azure-dev, `pkg/auth/manager.go`).
fn modified(variable: &str, folder: &str, file: &str) -> Option<String> {
    let modified: SystemTime = cli_tools::file(variable, folder, file)?.metadata().ok()?.modified().ok()?;
    Some(modified.duration_since(UNIX_EPOCH).ok()?.as_millis().to_string())
}

/// Returns the error of Azure CLI, which names its cloud if that is not the cloud of the scope.
fn in_other_cloud(error: SourceError, cloud: &Cloud) -> SourceError {
    let own = cli_tools::cloud::azure_cli_cloud();
    match (error, cloud.name(), own) {
        (SourceError::Failed(message), Some(cloud), Some(own)) if own != cloud.in_azure_cli() => {
            SourceError::OtherCloud { own, cloud, message }
        }
        (error, ..) => error,
    }
}

/// Rejects a token that cannot be in an HTTP header.
fn check(token: SdkToken) -> TokenResult {
    let text = token.token.secret();
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(SourceError::NoToken);
    }
    Ok(token)
}

/// Returns the resource of a scope, which version 1 of Entra ID's endpoints expects.
fn resource(scope: &str) -> &str {
    scope.strip_suffix("/.default").unwrap_or(scope)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(source: CredentialSource, obtained_on: u64, expires_on: u64) -> AccessToken {
        AccessToken { secret: Secret::from("secret"), expires_on, obtained_on, source, cached: false }
    }

    #[test]
    fn a_token_is_fresh_until_five_minutes_or_a_tenth_of_its_lifetime_before_expiry() {
        let is_fresh = |lifetime: u64, left: u64| {
            let expires_on = unix_now() + left;
            token(CredentialSource::Any, expires_on - lifetime, expires_on).is_fresh()
        };
        assert!(is_fresh(3600, 310) && !is_fresh(3600, 290));
        assert!(is_fresh(86_400, 310) && !is_fresh(86_400, 290));
        assert!(is_fresh(60, 10) && !is_fresh(60, 5) && !is_fresh(60, 0));
    }

    #[test]
    fn a_token_of_a_managed_identity_is_cached_for_an_hour_at_most() {
        let is_fresh = |source, age| token(source, unix_now() - age, unix_now() + 86_000).is_fresh();
        for (age, expected) in [(0, true), (3290, true), (3310, false), (7200, false)] {
            assert_eq!(is_fresh(CredentialSource::ManagedIdentity, age), expected, "{age}");
        }
        assert!(is_fresh(CredentialSource::AzureCli, 7200));
    }
}
