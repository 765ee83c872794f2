//! The sign-in of a user by arcssh itself: by browser or device code, and then by the refresh token that it left.
//!
//! Knows Entra ID's protocol and where the refresh token is stored; the caller shows the user where to go.

mod browser;
pub(crate) mod key_store;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use azure_core::credentials::AccessToken as SdkToken;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};
use tracing::info;

use crate::azure::cloud::Cloud;
use crate::azure::entra::{Entra, EntraError, TokenResponse, claims};
use crate::azure::http::{Client, causes};
use crate::azure::json::optional_number;
use crate::azure::login::key_store::{Item, Prompt, Unusable};
use crate::state::{InsecurePermissions, Key, Kind, Store};
use crate::system::secret::Secret;

/// Azure CLI's application: a public client that every tenant knows (MSAL Python, `tests/test_e2e.py`: one of the only
/// two that may ask for ssh certificates).
pub(crate) const AZURE_CLI: &str = "04b07795-8ddb-461a-bbee-02f9e1bf7b46";

/// The tenant of whoever signs in, with any work or school account.
const ANY_TENANT: &str = "organizations";

/// What every sign-in asks for beside ARM: a refresh token, and who it was.
const OIDC_SCOPES: &str = "offline_access openid profile";

/// How long the user may take.
const SIGN_IN_TIMEOUT: Duration = Duration::from_secs(300);

/// The longest life of a code that is believed, in seconds; Entra ID's live 15 minutes (Microsoft Learn, "OAuth 2.0 device
/// authorization grant").
const LONGEST_CODE: u64 = 3600;

/// Seconds between two questions whether the user is done, where Entra ID does not say (RFC 8628, section 3.2).
const USUAL_INTERVAL: u64 = 5;

/// A signed-in user.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Account {
    /// The user principal name.
    pub(crate) name: String,
    /// The ID of the tenant that the user signed in to.
    pub(crate) tenant: String,
    object_id: String,
    client_id: String,
    #[serde(flatten)]
    refresh_token: Stored,
}

/// Where an account's refresh token is stored. The names are those in the account file.
#[derive(Clone, Debug, Serialize, Deserialize)]
enum Stored {
    /// In the key store of this name.
    #[serde(rename = "refresh_token_in")]
    KeyStore(String),
    /// In the account file, where there was no key store when the user signed in.
    #[serde(rename = "refresh_token_in_file")]
    File(Secret),
    /// In the account file, as version 0.1 wrote it. It moves to the key store at the next refresh that finds one.
    #[serde(rename = "refresh_token")]
    OldFile(Secret),
}

impl Account {
    /// Identifies the account among others.
    pub(crate) fn id(&self) -> String {
        format!("{}@{}", self.object_id, self.tenant)
    }

    /// The account in a sentence.
    pub(crate) fn title(&self) -> String {
        format!("{} in the tenant {}", self.name, self.tenant)
    }

    /// The key store that holds its refresh token; none where the account file does.
    pub(crate) fn key_store(&self) -> Option<&str> {
        match &self.refresh_token {
            Stored::KeyStore(name) => Some(name),
            Stored::File(_) | Stored::OldFile(_) => None,
        }
    }

    /// The refresh token, from where it is stored.
    async fn refresh_token(&self, item: &Item) -> Result<Secret, Unusable> {
        match &self.refresh_token {
            Stored::KeyStore(_) => key_store::read(item).await,
            Stored::File(token) | Stored::OldFile(token) => Ok(token.clone()),
        }
    }

    fn stored(self, refresh_token: Stored) -> Self {
        Self { refresh_token, ..self }
    }

    /// The item of the key store for its refresh token.
    fn item(&self, store: &Store, key: &Key) -> Item {
        let account_file = store.path(key).unwrap_or_default().display().to_string();
        Item { account_file, label: format!("arcssh sign-in of {}", self.name) }
    }
}

/// Returns the account that is signed in to this cloud.
///
/// # Errors
/// Others can read its file.
pub(crate) fn account(cloud: &Cloud, store: &Store) -> Result<Option<Account>, InsecurePermissions> {
    store.read(&key(cloud))
}

/// Returns the file of the account that is signed in to this cloud.
pub(crate) fn account_file(cloud: &Cloud, store: &Store) -> Option<PathBuf> {
    store.path(&key(cloud))
}

fn key(cloud: &Cloud) -> Key {
    Key::new(Kind::Account, cloud.authority_host.as_str())
}

/// What a sign-in gives: an account, and a refresh token that is stored nowhere yet.
pub(crate) struct SignedIn {
    /// Who signed in.
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
}

impl<'a> SignIn<'a> {
    /// A sign-in for ARM. Nothing is asked for yet.
    pub(crate) fn new(cloud: &'a Cloud, client: Client, tenant: Option<&'a str>, client_id: &'a str) -> Self {
        let (entra, tenant) = (Entra::new(cloud, client), tenant.unwrap_or(ANY_TENANT));
        Self { cloud, entra, tenant, client_id, scope: &cloud.arm_scope, account: None }
    }

    /// The same for something else, whose policies the user is to satisfy.
    pub(crate) fn to(self, scope: &'a str) -> Self {
        Self { scope, ..self }
    }

    /// The same with the account that the browser proposes, by its user principal name.
    pub(crate) fn for_account(self, account: Option<&'a str>) -> Self {
        Self { account, ..self }
    }

    /// Signs in with a code that the user types in a browser of their choice; `show` gets Entra ID's words for it.
    ///
    /// # Errors
    /// Entra ID or the user refuses, or the code expires.
    pub(crate) async fn by_device_code(&self, show: impl FnOnce(&str)) -> Result<SignedIn> {
        let form = [("client_id", self.client_id), ("scope", &self.scope())];
        let code: DeviceCode = self.entra.post(self.tenant, "devicecode", &form).await?;
        show(&code.message().context("Entra ID gave no code")?);
        self.signed_in(self.poll(&code).await?)
    }

    /// Asks whether the user is done, as often as Entra ID allows (RFC 8628, section 3.5).
    async fn poll(&self, code: &DeviceCode) -> Result<TokenGrant> {
        let form = [
            ("grant_type", "urn:ietf:params:oauth:grant-type:device_code"),
            ("client_id", self.client_id),
            ("device_code", code.device_code.secret()),
        ];
        let end = Instant::now() + code.life();
        let mut interval = code.interval();
        while Instant::now() < end {
            sleep(interval).await;
            let error = match self.entra.post(self.tenant, "token", &form).await {
                Ok(granted) => return Ok(granted),
                Err(error) => error,
            };
            match refusal(&error).map(|refusal| refusal.error.as_str()) {
                Some("authorization_pending") => {}
                Some("slow_down") => interval += Duration::from_secs(5),
                _ => return Err(error.into()),
            }
        }
        bail!("the code has expired")
    }

    fn scope(&self) -> String {
        format!("{} {OIDC_SCOPES}", self.scope)
    }

    fn signed_in(&self, granted: TokenGrant) -> Result<SignedIn> {
        // The token for ARM tells the same where there is no ID token.
        let tokens = [granted.id_token.as_ref(), Some(&granted.given.access_token)];
        let identities = tokens.map(|token| token.map(|token| claims(token.secret())).unwrap_or_default());
        let claim = |name: &str| {
            identities.iter().find_map(|claims| claims[name].as_str()).unwrap_or_default().to_owned()
        };
        let name =
            ["preferred_username", "upn", "unique_name"].map(claim).into_iter().find(|name| !name.is_empty());
        let token = granted.refresh_token.context("Entra ID gave no refresh token")?;
        let tenant = Some(claim("tid")).filter(|tenant| !tenant.is_empty());
        let account = Account {
            name: name.unwrap_or_default(),
            tenant: tenant.unwrap_or_else(|| self.tenant.to_owned()),
            object_id: claim("oid"),
            client_id: self.client_id.to_owned(),
            refresh_token: Stored::KeyStore(key_store::NAME.to_owned()),
        };
        Ok(SignedIn { account, token })
    }
}

/// Stores an account and its refresh token: in the key store, or in the account file where the key store cannot be used.
/// The reason is returned then.
///
/// # Errors
/// The state directory takes no file.
pub(crate) async fn save(cloud: &Cloud, store: &Store, signed_in: SignedIn) -> Result<Option<Unusable>> {
    let SignedIn { account, token } = signed_in;
    let key = key(cloud);
    let item = account.item(store, &key);
    let _lock = store.lock(&key).await;
    let unusable = key_store::write(&item, &token, Prompt::Allowed).await.err();
    let account = match unusable {
        None => account,
        Some(_) => account.stored(Stored::File(token)),
    };
    let kept = store.keep(&key, &account);
    let (is_kept, is_in_file) = (kept.is_ok(), unusable.is_some());
    if is_kept == is_in_file {
        // The token of an account that was not stored, or of the one before it.
        let _ = key_store::delete(&item, Prompt::Never).await;
    }
    kept.map(|()| unusable)
}

/// A refresh token that is still in the key store.
#[derive(Debug, thiserror::Error)]
#[error("the refresh token is still stored")]
pub(crate) struct StillStored(#[source] pub(crate) Unusable);

/// Forgets the accounts in all clouds, with their refresh tokens; the number of accounts.
///
/// # Errors
/// A refresh token cannot be deleted from the key store. Its account stays, so that another sign-out finds it.
pub(crate) async fn delete(store: &Store) -> Result<usize, StillStored> {
    let (mut forgotten, mut failed) = (0, Ok(()));
    for path in store.files_of(Kind::Account) {
        // The holder of the lock may be redeeming the refresh token, and would store the next.
        let key = store.key_of(&path);
        let _lock = match &key {
            Some(key) => store.lock(key).await,
            None => None,
        };
        let account = key.and_then(|key| store.read::<Account>(&key).ok().flatten());
        let is_in_key_store = account.as_ref().map(|account| account.key_store().is_some());
        let prompt = if is_in_key_store == Some(false) { Prompt::Never } else { Prompt::Allowed };
        let item = Item { account_file: path.display().to_string(), label: String::new() };
        let left = key_store::delete(&item, prompt).await.err();
        match (left, is_in_key_store) {
            (Some(error), Some(true)) => {
                failed = Err(StillStored(error));
                continue;
            }
            // A file that cannot be read does not tell where its token is.
            (Some(error), None) if !error.is_expected() => failed = Err(StillStored(error)),
            _ => {}
        }
        forgotten += usize::from(store.delete(&path));
    }
    failed.map(|()| forgotten)
}

/// A token for ARM by the refresh token; none where no account is signed in.
///
/// # Errors
/// Entra ID refuses, or the store cannot be trusted.
pub(crate) async fn refreshed(
    cloud: &Cloud,
    client: Client,
    tenant: Option<&str>,
) -> Result<Option<SdkToken>> {
    let granted = redeem(
        cloud,
        client,
        tenant,
        &RefreshRequest { scope: &cloud.arm_scope, ..RefreshRequest::default() },
    )
    .await?;
    Ok(granted.map(|(granted, _date)| granted.given.token()))
}

/// What a refresh token is redeemed for.
#[derive(Debug, Default)]
pub(crate) struct RefreshRequest<'a> {
    /// For what.
    pub(crate) scope: &'a str,
    /// Through which application, where it is another than the one that was signed in to: a family of Microsoft's own
    /// share their refresh tokens (MSAL token_cache.py, `family_id`).
    pub(crate) client_id: Option<&'a str>,
    /// More fields of the form.
    pub(crate) fields: Vec<(&'a str, &'a str)>,
}

/// Redeems the refresh token, which is replaced by the one that comes with what it was redeemed for; nothing where
/// no account is signed in. The time is Entra ID's, in seconds of Unix time.
///
/// # Errors
/// As for [`refreshed`].
pub(crate) async fn redeem(
    cloud: &Cloud,
    client: Client,
    tenant: Option<&str>,
    request: &RefreshRequest<'_>,
) -> Result<Option<(TokenGrant, Option<u64>)>> {
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
    let (mut granted, date): (TokenGrant, _) = sign_in.entra.post_dated(tenant, "token", &form).await?;
    let next = granted.refresh_token.take().filter(|token| !token.secret().is_empty());
    renew(&store, &key, account, next).await;
    Ok(Some((granted, date)))
}

/// Stores the refresh token that came with a refresh where the one before it is. That one stays good where it cannot be
/// replaced (Microsoft Learn, "Refresh tokens in the Microsoft identity platform": use does not revoke it).
async fn renew(store: &Store, key: &Key, account: Account, next: Option<Secret>) {
    let item = account.item(store, key);
    match (account.refresh_token.clone(), next) {
        (Stored::KeyStore(_), Some(next)) => {
            let _ = key_store::write(&item, &next, Prompt::Never).await;
        }
        (Stored::File(_), Some(next)) => store.write(key, &account.stored(Stored::File(next))),
        (Stored::OldFile(token), next) => {
            let token = next.unwrap_or(token);
            let stored = match key_store::write(&item, &token, Prompt::Never).await {
                Ok(()) => Stored::KeyStore(key_store::NAME.to_owned()),
                Err(_) => Stored::OldFile(token),
            };
            store.write(key, &account.stored(stored));
        }
        (Stored::KeyStore(_) | Stored::File(_), None) => {}
    }
}

/// What Entra ID said in place of what was asked for.
fn refusal(error: &azure_core::Error) -> Option<&EntraError> {
    causes(error).find_map(|cause| cause.downcast_ref())
}

/// A code for another device (Microsoft Learn, "OAuth 2.0 device authorization grant").
#[derive(Deserialize)]
struct DeviceCode {
    device_code: Secret,
    /// What to tell the user, in Entra ID's words; other parts are those of RFC 8628.
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
    fn life(&self) -> Duration {
        self.expires_in.map_or(SIGN_IN_TIMEOUT, |seconds| Duration::from_secs(seconds.min(LONGEST_CODE)))
    }

    fn interval(&self) -> Duration {
        Duration::from_secs(self.interval.unwrap_or(USUAL_INTERVAL).clamp(1, LONGEST_CODE))
    }

    fn message(&self) -> Option<String> {
        self.message.clone().or_else(|| {
            let (code, place) = (self.user_code.as_ref()?, self.verification_uri.as_ref()?);
            Some(format!("To sign in, open {place} in a web browser and enter the code {code}."))
        })
    }
}

/// What a grant gives.
#[derive(Deserialize)]
pub(crate) struct TokenGrant {
    /// The token, or what was asked for in its place.
    #[serde(flatten)]
    pub(crate) given: TokenResponse,
    refresh_token: Option<Secret>,
    id_token: Option<Secret>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_told_with_what_rfc_8628_requires() {
        let code = |rest: &str| -> DeviceCode {
            serde_json::from_str(&format!(r#"{{"device_code":"d","user_code":"ABCD"{rest}}}"#)).unwrap()
        };
        let told = "To sign in, open https://x/d in a web browser and enter the code ABCD.";
        for name in ["verification_uri", "verification_url"] {
            let code = code(&format!(r#","{name}":"https://x/d","expires_in":"900","message":null"#));
            assert_eq!(
                (code.message().as_deref(), code.expires_in, code.interval),
                (Some(told), Some(900), None)
            );
        }
        assert_eq!(code(r#","message":"Go.","interval":null"#).message().as_deref(), Some("Go."));
        assert_eq!(code("").message(), None);
        let endless = code(&format!(r#","expires_in":{0},"interval":{0}"#, u64::MAX));
        let longest = Duration::from_secs(LONGEST_CODE);
        assert_eq!((endless.life(), endless.interval()), (longest, longest));
    }
}
