//! `arcssh login`: the sign-in with a browser or a device code, and the refresh token that it returns.
//!
//! This module speaks Entra ID's protocol and stores the refresh token. The caller talks to the user.

pub(crate) mod browser;
pub(crate) mod key_store;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use azure_core::credentials::AccessToken as SdkToken;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};
use tracing::info;

use crate::azure::cloud::Cloud;
use crate::azure::entra::{ClaimsChallenge, Entra, EntraError, Rejection, TokenResponse, claims};
use crate::azure::http::Client;
use crate::azure::json::optional_number;
use crate::azure::login::key_store::{Item, KeyStoreError, Prompt};
use crate::net::NetError;
use crate::state::{Key, Kind, Store};
use crate::system::SystemError;
use crate::system::clock::format_duration;
use crate::system::secret::Secret;

/// Azure CLI's application: a public client that every tenant has, and one of the two that can request SSH certificates
/// (MSAL Python, `tests/test_e2e.py`).
pub(crate) const AZURE_CLI: &str = "04b07795-8ddb-461a-bbee-02f9e1bf7b46";

/// The tenant of the account, which can be any work or school account.
const ANY_TENANT: &str = "organizations";

/// The scopes of every sign-in: a refresh token, and the name of the account.
const OIDC_SCOPES: &str = "offline_access openid profile";

/// The time that the user has for the sign-in.
const SIGN_IN_TIMEOUT: Duration = Duration::from_secs(300);

/// The longest accepted lifetime of a device code, in seconds. Entra ID's codes expire after 15 minutes (Microsoft
/// Learn, "OAuth 2.0 device authorization grant").
const MAX_CODE_LIFETIME: u64 = 3600;

/// Seconds between two polls if the response contains no interval (RFC 8628, section 3.2).
const DEFAULT_INTERVAL: u64 = 5;

/// Why a sign-in failed, or an account cannot be used.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum LoginError {
    /// Entra ID issued no token.
    #[error("{0}")]
    Rejected(Rejection),
    /// Entra ID issued no token for a device code.
    #[error("{0}")]
    DeviceCodeRejected(Rejection),
    /// Entra ID is unreachable.
    #[error(transparent)]
    Net(#[from] NetError),
    /// Other users can access the state directory.
    #[error(transparent)]
    State(#[from] SystemError),
    /// The key store does not return the refresh token.
    #[error(transparent)]
    KeyStore(#[from] KeyStoreError),
    /// The account cannot be stored; why.
    #[error("cannot store the sign-in: {0}")]
    NotStored(String),
    /// The key store does not delete the refresh token.
    #[error("the refresh token is still in the key store: {0}")]
    NotDeleted(KeyStoreError),
    /// Another account than the expected one signed in, and there is no terminal to confirm it.
    #[error("{name} in the tenant {tenant} signed in, not {expected}; arcssh discarded the sign-in")]
    AnotherAccount {
        /// The name of the account.
        name: String,
        /// Its tenant.
        tenant: String,
        /// The expected account.
        expected: String,
    },
    /// The user did not confirm another account than the expected one; the account that stays signed in.
    #[error("arcssh discarded the sign-in{}", .0.as_ref().map_or(String::new(), |account| format!("; {account} stays signed in")))]
    Declined(Option<String>),
    /// Anything else.
    #[error("{0}")]
    Failed(String),
}

impl From<EntraError> for LoginError {
    fn from(error: EntraError) -> Self {
        match error {
            EntraError::Rejected(rejection) => Self::Rejected(rejection),
            EntraError::Net(error) => Self::Net(error),
            EntraError::Failed(cause) => Self::Failed(cause),
        }
    }
}

impl From<anyhow::Error> for LoginError {
    fn from(error: anyhow::Error) -> Self {
        Self::Failed(format!("{error:#}"))
    }
}

/// A signed-in user.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Account {
    /// The user principal name.
    pub(crate) name: String,
    /// The ID of the tenant.
    pub(crate) tenant: String,
    object_id: String,
    client_id: String,
    #[serde(flatten)]
    refresh_token: StoredToken,
}

/// The place of an account's refresh token. The serde names are those in the account file.
#[derive(Clone, Debug, Serialize, Deserialize)]
enum StoredToken {
    /// In the key store of this name.
    #[serde(rename = "refresh_token_in")]
    KeyStore(String),
    /// In the account file: there was no key store when the user signed in.
    #[serde(rename = "refresh_token_in_file")]
    File(Secret),
    /// In the account file of version 0.1. The token moves to the key store at the next refresh that can use one.
    #[serde(rename = "refresh_token")]
    OldFile(Secret),
}

impl Account {
    /// Returns the unique ID of the account.
    pub(crate) fn id(&self) -> String {
        format!("{}@{}", self.object_id, self.tenant)
    }

    /// Returns the name of the account for a sentence.
    pub(crate) fn title(&self) -> String {
        format!("{} in the tenant {}", self.name, self.tenant)
    }

    /// Returns the name of the key store; `None` if the account file contains the refresh token.
    pub(crate) fn key_store(&self) -> Option<&str> {
        match &self.refresh_token {
            StoredToken::KeyStore(name) => Some(name),
            StoredToken::File(_) | StoredToken::OldFile(_) => None,
        }
    }

    async fn refresh_token(&self, item: &Item) -> Result<Secret, KeyStoreError> {
        match &self.refresh_token {
            StoredToken::KeyStore(_) => key_store::read(item).await,
            StoredToken::File(token) | StoredToken::OldFile(token) => Ok(token.clone()),
        }
    }

    fn with_refresh_token(self, refresh_token: StoredToken) -> Self {
        Self { refresh_token, ..self }
    }

    /// Returns the item of the key store for the refresh token.
    fn item(&self, store: &Store, key: &Key) -> Item {
        let account_file = store.path(key).unwrap_or_default().display().to_string();
        Item { account_file, label: format!("arcssh sign-in of {}", self.name) }
    }
}

/// Returns the account that is signed in to this cloud.
///
/// # Errors
/// Other users can read the account file.
pub(crate) fn account(cloud: &Cloud, store: &Store) -> Result<Option<Account>, SystemError> {
    store.read(&key(cloud))
}

/// Returns the file of the account that is signed in to this cloud.
pub(crate) fn account_file(cloud: &Cloud, store: &Store) -> Option<PathBuf> {
    store.path(&key(cloud))
}

fn key(cloud: &Cloud) -> Key {
    Key::new(Kind::Account, cloud.authority_host.as_str())
}

/// Returns the key of the claims that a service requires of the account's tokens, in `tenant` or in the account's tenant;
/// `None` if no account is signed in.
fn challenge_key(cloud: &Cloud, store: &Store, tenant: Option<&str>) -> Result<Option<Key>, SystemError> {
    let Some(account) = account(cloud, store)? else { return Ok(None) };
    let tenant = tenant.unwrap_or(&account.tenant);
    let name = format!("{} of {} in {tenant}", account.id(), cloud.authority_host);
    Ok(Some(Key::new(Kind::Claims, name)))
}

/// Returns the claims that the next sign-in or refresh must request.
///
/// # Errors
/// Other users can read the account file.
pub(crate) fn challenge(
    cloud: &Cloud,
    store: &Store,
    tenant: Option<&str>,
) -> Result<Option<ClaimsChallenge>, SystemError> {
    challenge_key(cloud, store, tenant)?.map_or(Ok(None), |key| store.read(&key))
}

/// Stores the claims that ARM or Entra ID requires.
///
/// # Errors
/// Other users can read the account file.
pub(crate) fn store_challenge(
    cloud: &Cloud,
    store: &Store,
    tenant: Option<&str>,
    claims: &ClaimsChallenge,
) -> Result<(), SystemError> {
    if let Some(key) = challenge_key(cloud, store, tenant)? {
        store.write(&key, claims);
    }
    Ok(())
}

/// The account of a sign-in, with a refresh token that is not stored yet.
pub(crate) struct SignedIn {
    pub(crate) account: Account,
    token: Secret,
}

/// A sign-in in one cloud, to one tenant, through one application.
#[derive(Debug)]
pub(crate) struct SignIn<'a> {
    cloud: &'a Cloud,
    entra: Entra,
    tenant: &'a str,
    client_id: &'a str,
    scope: &'a str,
    account: Option<&'a str>,
    claims: Option<ClaimsChallenge>,
}

impl<'a> SignIn<'a> {
    /// Returns a sign-in for ARM that has not sent any request.
    pub(crate) fn new(cloud: &'a Cloud, client: Client, tenant: Option<&'a str>, client_id: &'a str) -> Self {
        Self {
            cloud,
            entra: Entra::new(cloud, client),
            tenant: tenant.unwrap_or(ANY_TENANT),
            client_id,
            scope: &cloud.arm_scope,
            account: None,
            claims: None,
        }
    }

    /// Replaces the scope, so that the sign-in satisfies the policies of that scope.
    pub(crate) fn to(self, scope: &'a str) -> Self {
        Self { scope, ..self }
    }

    /// Sets the account that the browser proposes, by its user principal name.
    pub(crate) fn for_account(self, account: Option<&'a str>) -> Self {
        Self { account, ..self }
    }

    /// Sets the claims that the sign-in must provide, such as multi-factor authentication.
    pub(crate) fn with_claims(self, claims: Option<ClaimsChallenge>) -> Self {
        Self { claims, ..self }
    }

    /// Returns the parameter for the claims. MSAL sends it to the authorization and device code endpoints and with each
    /// redemption (MSAL Python, `application.py`, `claims_challenge`).
    fn claims(&self) -> Option<(&str, &str)> {
        self.claims.as_ref().map(|claims| ("claims", claims.json()))
    }

    /// Signs in with a code that the user types into any browser. `show` gets the instructions for the user.
    ///
    /// # Errors
    /// Entra ID or the user rejects the sign-in, or the code expires.
    pub(crate) async fn by_device_code(&self, show: impl FnOnce(&str)) -> Result<SignedIn, LoginError> {
        let scope = self.scope();
        let mut form = vec![("client_id", self.client_id), ("scope", &scope)];
        form.extend(self.claims());
        let rejected = |error| match LoginError::from(error) {
            LoginError::Rejected(rejection) => LoginError::DeviceCodeRejected(rejection),
            error => error,
        };
        let code = self.entra.post(self.tenant, "devicecode", &form).await;
        let code: DeviceCode = code.map_err(rejected)?;
        let message = code.message().context("the response of Entra ID contains no code")?;
        show(&format!("{message} The code is valid for {}.", format_duration(code.lifetime())));
        let grant = self.poll(&code).await.map_err(rejected)?;
        self.signed_in(grant)
    }

    /// Polls until the user has signed in (RFC 8628, section 3.5).
    async fn poll(&self, code: &DeviceCode) -> Result<TokenGrant, EntraError> {
        let mut form = vec![
            ("grant_type", "urn:ietf:params:oauth:grant-type:device_code"),
            ("client_id", self.client_id),
            ("device_code", code.device_code.secret()),
        ];
        form.extend(self.claims());
        let end = Instant::now() + code.lifetime();
        let mut interval = code.interval();
        while Instant::now() < end {
            sleep(interval).await;
            let error = match self.entra.post(self.tenant, "token", &form).await {
                Ok(grant) => return Ok(grant),
                Err(error) => error,
            };
            let code = match &error {
                EntraError::Rejected(rejection) => Some(rejection.error.as_str()),
                _ => None,
            };
            match code {
                Some("authorization_pending") => {}
                Some("slow_down") => interval += Duration::from_secs(5),
                _ => return Err(error),
            }
        }
        Err(EntraError::Failed("the code has expired".into()))
    }

    fn scope(&self) -> String {
        format!("{} {OIDC_SCOPES}", self.scope)
    }

    fn signed_in(&self, grant: TokenGrant) -> Result<SignedIn, LoginError> {
        // The access token contains the same claims, if there is no ID token.
        let tokens = [grant.id_token.as_ref(), Some(&grant.response.access_token)];
        let identities = tokens.map(|token| token.map(|token| claims(token.secret())).unwrap_or_default());
        let claim = |name: &str| {
            identities.iter().find_map(|claims| claims[name].as_str()).unwrap_or_default().to_owned()
        };
        let name =
            ["preferred_username", "upn", "unique_name"].map(claim).into_iter().find(|name| !name.is_empty());
        let token = grant.refresh_token.context("the response of Entra ID contains no refresh token")?;
        let tenant = Some(claim("tid")).filter(|tenant| !tenant.is_empty());
        let account = Account {
            name: name.unwrap_or_default(),
            tenant: tenant.unwrap_or_else(|| self.tenant.to_owned()),
            object_id: claim("oid"),
            client_id: self.client_id.to_owned(),
            refresh_token: StoredToken::KeyStore(key_store::NAME.to_owned()),
        };
        Ok(SignedIn { account, token })
    }
}

/// Stores an account and its refresh token. If the key store is unusable, stores the token in the account file and
/// returns the reason.
///
/// # Errors
/// The state directory is not writable.
pub(crate) async fn save(
    cloud: &Cloud,
    store: &Store,
    signed_in: SignedIn,
) -> Result<Option<KeyStoreError>, LoginError> {
    let SignedIn { account, token } = signed_in;
    let key = key(cloud);
    let item = account.item(store, &key);
    let _lock = store.lock(&key).await;
    let unusable = key_store::write(&item, &token, Prompt::Allowed).await.err();
    let account = match unusable {
        None => account,
        Some(_) => account.with_refresh_token(StoredToken::File(token)),
    };
    let saved = store.try_write(&key, &account).map_err(|error| LoginError::NotStored(format!("{error:#}")));
    if saved.is_ok() == unusable.is_some() {
        // The new token of an account that was not saved, or the previous account's token.
        let _ = key_store::delete(&item, Prompt::Never).await;
    }
    saved.map(|()| unusable)
}

/// Deletes the accounts of all clouds, with their refresh tokens, and returns the number of accounts.
///
/// # Errors
/// A refresh token cannot be deleted from the key store. Its account remains, so that the next sign-out finds the token.
pub(crate) async fn delete(store: &Store) -> Result<usize, LoginError> {
    let mut deleted = 0;
    let mut result = Ok(());
    for path in store.files_of(Kind::Account) {
        // A process that redeems the refresh token holds the lock until it has stored the next token.
        let key = store.key_of(&path);
        let _lock = match &key {
            Some(key) => store.lock(key).await,
            None => None,
        };
        let account = key.and_then(|key| store.read::<Account>(&key).ok().flatten());
        let is_in_key_store = account.as_ref().map(|account| account.key_store().is_some());
        let prompt = if is_in_key_store == Some(false) { Prompt::Never } else { Prompt::Allowed };
        let item = Item { account_file: path.display().to_string(), label: String::new() };
        match (key_store::delete(&item, prompt).await, is_in_key_store) {
            (Err(error), Some(true)) => {
                result = Err(LoginError::NotDeleted(error));
                continue;
            }
            // An unreadable account file does not show where the token is.
            (Err(error), None) if !error.is_expected() => result = Err(LoginError::NotDeleted(error)),
            _ => {}
        }
        deleted += usize::from(store.delete(&path));
    }
    result.map(|()| deleted)
}

/// Redeems the refresh token for an access token for ARM; `None` if no account is signed in. The token has the claims
/// that ARM required of an earlier one.
///
/// # Errors
/// Entra ID rejects the refresh token, or other users can access the state directory.
pub(crate) async fn refreshed(
    cloud: &Cloud,
    client: Client,
    tenant: Option<&str>,
) -> Result<Option<SdkToken>, LoginError> {
    let store = client.store.clone();
    let claims = challenge(cloud, &store, tenant)?;
    let fields = claims.iter().map(|claims| ("claims", claims.json())).collect();
    let request = RefreshRequest { scope: &cloud.arm_scope, client_id: None, fields };
    let grant = redeem(cloud, client, tenant, &request).await;
    match &grant {
        // Conditional Access requires a new sign-in with these claims.
        Err(LoginError::Rejected(Rejection { claims: Some(more), .. })) => {
            let all = claims.as_ref().map_or_else(|| (**more).clone(), |claims| claims.merged(more));
            store_challenge(cloud, &store, tenant, &all)?;
        }
        Ok(_) if claims.is_some() => remove_challenge(cloud, &store, tenant)?,
        _ => {}
    }
    Ok(grant?.map(|(grant, _date)| grant.response.token()))
}

/// Deletes claims that a token has.
fn remove_challenge(cloud: &Cloud, store: &Store, tenant: Option<&str>) -> Result<(), SystemError> {
    if let Some(key) = challenge_key(cloud, store, tenant)? {
        store.remove(&key);
    }
    Ok(())
}

/// A request that redeems the refresh token.
#[derive(Debug, Default)]
pub(crate) struct RefreshRequest<'a> {
    pub(crate) scope: &'a str,
    /// Another application than that of the sign-in: some of Microsoft's own applications share their refresh tokens
    /// (MSAL token_cache.py, `family_id`).
    pub(crate) client_id: Option<&'a str>,
    /// Additional form fields.
    pub(crate) fields: Vec<(&'a str, &'a str)>,
}

/// Redeems the refresh token, and stores the next one of the response; `None` if no account is signed in. Also returns
/// Entra ID's time, in seconds of Unix time.
///
/// # Errors
/// As for [`refreshed`].
pub(crate) async fn redeem(
    cloud: &Cloud,
    client: Client,
    tenant: Option<&str>,
    request: &RefreshRequest<'_>,
) -> Result<Option<(TokenGrant, Option<u64>)>, LoginError> {
    let (key, store) = (key(cloud), client.store.clone());
    let _lock = store.lock(&key).await;
    let Some(account) = store.read::<Account>(&key)? else { return Ok(None) };
    info!(account = account.name, tenant = account.tenant, "refreshing the sign-in of arcssh");
    let item = account.item(&store, &key);
    let refresh_token = account.refresh_token(&item).await?;
    let client_id = request.client_id.unwrap_or(&account.client_id);
    let tenant = tenant.unwrap_or(&account.tenant);
    let sign_in = SignIn::new(cloud, client, Some(tenant), client_id).to(request.scope);
    let scope = sign_in.scope();
    let mut form = vec![
        ("grant_type", "refresh_token"),
        ("client_id", client_id),
        ("refresh_token", refresh_token.secret()),
        ("scope", &scope),
    ];
    form.extend(&request.fields);
    let (mut grant, date): (TokenGrant, _) = sign_in.entra.post_dated(tenant, "token", &form).await?;
    let next = grant.refresh_token.take().filter(|token| !token.secret().is_empty());
    renew(&store, &key, account, next).await;
    Ok(Some((grant, date)))
}

/// Stores the next refresh token in the place of the previous one. If that fails, the previous token remains valid
/// (Microsoft Learn, "Refresh tokens in the Microsoft identity platform": use does not revoke it).
async fn renew(store: &Store, key: &Key, account: Account, next: Option<Secret>) {
    let item = account.item(store, key);
    match (account.refresh_token.clone(), next) {
        (StoredToken::KeyStore(_), Some(next)) => {
            let _ = key_store::write(&item, &next, Prompt::Never).await;
        }
        (StoredToken::File(_), Some(next)) => {
            store.write(key, &account.with_refresh_token(StoredToken::File(next)))
        }
        (StoredToken::OldFile(token), next) => {
            let token = next.unwrap_or(token);
            let stored = match key_store::write(&item, &token, Prompt::Never).await {
                Ok(()) => StoredToken::KeyStore(key_store::NAME.to_owned()),
                Err(_) => StoredToken::OldFile(token),
            };
            store.write(key, &account.with_refresh_token(stored));
        }
        (StoredToken::KeyStore(_) | StoredToken::File(_), None) => {}
    }
}

/// A device code response (Microsoft Learn, "OAuth 2.0 device authorization grant").
#[derive(Deserialize)]
struct DeviceCode {
    device_code: Secret,
    /// Entra ID's instructions for the user, an addition to RFC 8628.
    message: Option<String>,
    user_code: Option<String>,
    #[serde(alias = "verification_url")]
    verification_uri: Option<String>,
    #[serde(default, deserialize_with = "optional_number")]
    expires_in: Option<u64>,
    #[serde(default, deserialize_with = "optional_number")]
    interval: Option<u64>,
}

impl DeviceCode {
    fn lifetime(&self) -> Duration {
        self.expires_in.map_or(SIGN_IN_TIMEOUT, |seconds| Duration::from_secs(seconds.min(MAX_CODE_LIFETIME)))
    }

    fn interval(&self) -> Duration {
        Duration::from_secs(self.interval.unwrap_or(DEFAULT_INTERVAL).clamp(1, MAX_CODE_LIFETIME))
    }

    fn message(&self) -> Option<String> {
        self.message.clone().or_else(|| {
            let code = self.user_code.as_ref()?;
            let uri = self.verification_uri.as_ref()?;
            Some(format!("To sign in, open {uri} in a web browser and enter the code {code}."))
        })
    }
}

/// The response of the token endpoint to a sign-in or a refresh.
#[derive(Deserialize)]
pub(crate) struct TokenGrant {
    #[serde(flatten)]
    pub(crate) response: TokenResponse,
    refresh_token: Option<Secret>,
    id_token: Option<Secret>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_are_built_from_the_fields_that_rfc_8628_requires() {
        let code = |rest: &str| -> DeviceCode {
            serde_json::from_str(&format!(r#"{{"device_code":"d","user_code":"ABCD"{rest}}}"#)).unwrap()
        };
        let message = "To sign in, open https://x/d in a web browser and enter the code ABCD.";
        for name in ["verification_uri", "verification_url"] {
            let code = code(&format!(r#","{name}":"https://x/d","expires_in":"900","message":null"#));
            assert_eq!(
                (code.message().as_deref(), code.expires_in, code.interval),
                (Some(message), Some(900), None)
            );
        }
        assert_eq!(code(r#","message":"Go.","interval":null"#).message().as_deref(), Some("Go."));
        assert_eq!(code("").message(), None);
        let endless = code(&format!(r#","expires_in":{0},"interval":{0}"#, u64::MAX));
        let longest = Duration::from_secs(MAX_CODE_LIFETIME);
        assert_eq!((endless.lifetime(), endless.interval()), (longest, longest));
    }
}
