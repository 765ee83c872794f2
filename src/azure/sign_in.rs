//! Our own sign-in of a user: by browser or device code, and from then on by the refresh token that it left.
//!
//! Knows Entra ID's protocol; whoever calls shows the user where to go.

mod browser;

use std::time::Duration;

use anyhow::{Context, Result, bail};
use azure_core::credentials::{AccessToken, Secret};
use azure_core::time::OffsetDateTime;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};
use tracing::info;

use crate::azure::cloud::Cloud;
use crate::azure::entra::{Entra, EntraRefusal, claims, seconds};
use crate::azure::pipeline::{Client, causes};
use crate::store::{Key, Kind, Store, TooOpen, unix_now};

/// Azure CLI's application: a public client that every tenant knows (MSAL Python, `tests/test_e2e.py`: one of the only
/// two that may ask for ssh certificates).
pub(crate) const AZURE_CLI: &str = "04b07795-8ddb-461a-bbee-02f9e1bf7b46";

/// The tenant of whoever signs in, with any work or school account.
const ANY_TENANT: &str = "organizations";

/// What every sign-in asks for beside ARM: a refresh token, and who it was.
const ALSO: &str = "offline_access openid profile";

/// How long the user may take.
const PATIENCE: Duration = Duration::from_secs(300);

/// Who signed in, and the right to speak for them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Account {
    /// What they are called.
    pub(crate) name: String,
    /// The tenant that they signed in to.
    pub(crate) tenant: String,
    object_id: String,
    client_id: String,
    refresh_token: Secret,
}

impl Account {
    /// What tells this account from others.
    pub(crate) fn id(&self) -> String {
        format!("{}@{}", self.object_id, self.tenant)
    }
}

/// Who is signed in to this cloud.
///
/// # Errors
/// Others can read it.
pub(crate) fn account(cloud: &Cloud, store: &Store) -> Result<Option<Account>, TooOpen> {
    store.read(&key(cloud))
}

fn key(cloud: &Cloud) -> Key {
    Key::new(Kind::Account, cloud.authority_host.as_str())
}

/// A sign-in in one cloud, to one tenant, through one application.
#[derive(Debug)]
pub(crate) struct SignIn<'a> {
    cloud: &'a Cloud,
    entra: Entra,
    tenant: &'a str,
    client_id: &'a str,
    scope: &'a str,
}

impl<'a> SignIn<'a> {
    /// A sign-in for ARM. Nothing is asked for yet.
    pub(crate) fn new(cloud: &'a Cloud, client: Client, tenant: Option<&'a str>, client_id: &'a str) -> Self {
        let (entra, tenant) = (Entra::new(cloud, client), tenant.unwrap_or(ANY_TENANT));
        Self { cloud, entra, tenant, client_id, scope: &cloud.arm_scope }
    }

    /// The same for something else, whose policies the user is to satisfy.
    pub(crate) fn to(self, scope: &'a str) -> Self {
        Self { scope, ..self }
    }

    /// Signs in with a code that the user types in a browser of their choice; `show` gets Entra ID's words for it.
    ///
    /// # Errors
    /// Entra ID or the user refuses, or the code expires.
    pub(crate) async fn by_device_code(&self, show: impl FnOnce(&str)) -> Result<Account> {
        let form = [("client_id", self.client_id), ("scope", &self.scope())];
        let code: DeviceCode = self.entra.post(self.tenant, "devicecode", &form).await?;
        show(&code.message);
        self.account(self.poll(&code).await?)
    }

    /// Asks whether the user is done, as often as Entra ID allows (RFC 8628, section 3.5).
    async fn poll(&self, code: &DeviceCode) -> Result<Granted> {
        let form = [
            ("grant_type", "urn:ietf:params:oauth:grant-type:device_code"),
            ("client_id", self.client_id),
            ("device_code", code.device_code.secret()),
        ];
        let end = Instant::now() + Duration::from_secs(code.expires_in);
        let mut interval = Duration::from_secs(code.interval);
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
        format!("{} {ALSO}", self.scope)
    }

    fn account(&self, granted: Granted) -> Result<Account> {
        let identity = granted.id_token.as_ref().map(|token| claims(token.secret())).unwrap_or_default();
        let claim = |name: &str| identity[name].as_str().unwrap_or_default().to_owned();
        let refresh_token = granted.refresh_token.context("Entra ID gave no refresh token")?;
        let tenant = Some(claim("tid")).filter(|tenant| !tenant.is_empty());
        Ok(Account {
            name: claim("preferred_username"),
            tenant: tenant.unwrap_or_else(|| self.tenant.to_owned()),
            object_id: claim("oid"),
            client_id: self.client_id.to_owned(),
            refresh_token,
        })
    }
}

/// Keeps who signed in.
///
/// # Errors
/// The store takes nothing.
pub(crate) async fn keep(cloud: &Cloud, store: &Store, account: &Account) -> Result<()> {
    let key = key(cloud);
    let _lock = store.lock(&key).await;
    store.keep(&key, account)
}

/// Forgets who signed in, to any cloud; how many did.
pub(crate) async fn forget(store: &Store) -> usize {
    let accounts = store.keys().into_iter().filter(|key| key.kind == Kind::Account);
    let mut forgotten = 0;
    for key in accounts {
        // Whoever redeems the refresh token would keep the next.
        let _lock = store.lock(&key).await;
        store.remove(&key);
        forgotten += 1;
    }
    forgotten + store.clear(&[Kind::Account])
}

/// A token for ARM by the refresh token; none where nobody is signed in.
///
/// # Errors
/// Entra ID refuses, or the store cannot be trusted.
pub(crate) async fn refreshed(
    cloud: &Cloud,
    client: Client,
    tenant: Option<&str>,
) -> Result<Option<AccessToken>> {
    let granted = redeem(cloud, client, tenant, &Wish { scope: &cloud.arm_scope, ..Wish::default() }).await?;
    Ok(granted.map(|(granted, _date)| granted.token()))
}

/// What a refresh token is redeemed for.
#[derive(Debug, Default)]
pub(crate) struct Wish<'a> {
    /// For what.
    pub(crate) scope: &'a str,
    /// Through which application, where it is another than the one that was signed in to: a family of Microsoft's own
    /// share their refresh tokens (MSAL token_cache.py, `family_id`).
    pub(crate) client_id: Option<&'a str>,
    /// More fields of the form.
    pub(crate) fields: Vec<(&'a str, &'a str)>,
}

/// Redeems the refresh token, which is replaced by the one that comes with what it was redeemed for; nothing where
/// nobody is signed in. The time is Entra ID's, in seconds of Unix time.
///
/// # Errors
/// As for [`refreshed`].
pub(crate) async fn redeem(
    cloud: &Cloud,
    client: Client,
    tenant: Option<&str>,
    wish: &Wish<'_>,
) -> Result<Option<(Granted, Option<u64>)>> {
    let (key, store) = (key(cloud), client.store.clone());
    let _lock = store.lock(&key).await;
    let Some(account) = store.read::<Account>(&key)? else { return Ok(None) };
    info!(account = account.name, tenant = account.tenant, "refreshing the sign-in of arcssh");
    let client_id = wish.client_id.unwrap_or(&account.client_id);
    let tenant = tenant.unwrap_or(&account.tenant);
    let sign_in = SignIn::new(cloud, client, Some(tenant), client_id).to(wish.scope);
    let scope = sign_in.scope();
    let mut form = vec![
        ("grant_type", "refresh_token"),
        ("client_id", client_id),
        ("refresh_token", account.refresh_token.secret()),
        ("scope", &scope),
    ];
    form.extend(&wish.fields);
    let (mut granted, date): (Granted, _) = sign_in.entra.post_dated(tenant, "token", &form).await?;
    if let Some(refresh_token) = granted.refresh_token.take() {
        store.write(&key, &Account { refresh_token, ..account });
    }
    Ok(Some((granted, date)))
}

/// What Entra ID said in place of what was asked for.
fn refusal(error: &azure_core::Error) -> Option<&EntraRefusal> {
    causes(error).find_map(|cause| cause.downcast_ref())
}

/// A code for another device (Microsoft Learn, "OAuth 2.0 device authorization grant").
#[derive(Deserialize)]
struct DeviceCode {
    device_code: Secret,
    message: String,
    #[serde(deserialize_with = "seconds")]
    expires_in: u64,
    #[serde(deserialize_with = "seconds")]
    interval: u64,
}

/// What a grant gives.
#[derive(Deserialize)]
pub(crate) struct Granted {
    /// The token, or what was asked for in its place.
    pub(crate) access_token: Secret,
    #[serde(deserialize_with = "seconds")]
    expires_in: u64,
    refresh_token: Option<Secret>,
    id_token: Option<Secret>,
}

impl Granted {
    fn token(&self) -> AccessToken {
        let expires_on = i64::try_from(unix_now().saturating_add(self.expires_in)).ok();
        let expires_on = expires_on.and_then(|time| OffsetDateTime::from_unix_timestamp(time).ok());
        AccessToken::new(self.access_token.clone(), expires_on.unwrap_or_else(OffsetDateTime::now_utc))
    }
}
