//! Our own sign-in of a user: by browser or device code, and from then on by the refresh token that it left.
//!
//! Knows Entra ID's protocol; whoever calls shows the user where to go.

mod browser;

use std::time::Duration;

use anyhow::{Context, Result, bail};
use azure_core::credentials::{AccessToken, Secret};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};
use tracing::info;

use crate::azure::cloud::Cloud;
use crate::azure::entra::{Entra, EntraRefusal, Given, claims};
use crate::azure::json::optional_number;
use crate::azure::pipeline::{Client, causes};
use crate::store::{Key, Kind, Store, TooOpen};

/// Azure CLI's application: a public client that every tenant knows (MSAL Python, `tests/test_e2e.py`: one of the only
/// two that may ask for ssh certificates).
pub(crate) const AZURE_CLI: &str = "04b07795-8ddb-461a-bbee-02f9e1bf7b46";

/// The tenant of whoever signs in, with any work or school account.
const ANY_TENANT: &str = "organizations";

/// What every sign-in asks for beside ARM: a refresh token, and who it was.
const ALSO: &str = "offline_access openid profile";

/// How long the user may take.
const PATIENCE: Duration = Duration::from_secs(300);

/// The longest life of a code that is believed, in seconds; Entra ID's live 15 minutes (Microsoft Learn, "OAuth 2.0 device
/// authorization grant").
const LONGEST_CODE: u64 = 3600;

/// Seconds between two questions whether the user is done, where Entra ID does not say (RFC 8628, section 3.2).
const USUAL_INTERVAL: u64 = 5;

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
        show(&code.message().context("Entra ID gave no code")?);
        self.account(self.poll(&code).await?)
    }

    /// Asks whether the user is done, as often as Entra ID allows (RFC 8628, section 3.5).
    async fn poll(&self, code: &DeviceCode) -> Result<Granted> {
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
        format!("{} {ALSO}", self.scope)
    }

    fn account(&self, granted: Granted) -> Result<Account> {
        // The token for ARM tells the same where there is no ID token.
        let tokens = [granted.id_token.as_ref(), Some(&granted.given.access_token)];
        let identities = tokens.map(|token| token.map(|token| claims(token.secret())).unwrap_or_default());
        let claim = |name: &str| {
            identities.iter().find_map(|claims| claims[name].as_str()).unwrap_or_default().to_owned()
        };
        let name =
            ["preferred_username", "upn", "unique_name"].map(claim).into_iter().find(|name| !name.is_empty());
        let refresh_token = granted.refresh_token.context("Entra ID gave no refresh token")?;
        let tenant = Some(claim("tid")).filter(|tenant| !tenant.is_empty());
        Ok(Account {
            name: name.unwrap_or_default(),
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
    Ok(granted.map(|(granted, _date)| granted.given.token()))
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
    if let Some(refresh_token) = granted.refresh_token.take().filter(|token| !token.secret().is_empty()) {
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
        self.expires_in.map_or(PATIENCE, |seconds| Duration::from_secs(seconds.min(LONGEST_CODE)))
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
pub(crate) struct Granted {
    /// The token, or what was asked for in its place.
    #[serde(flatten)]
    pub(crate) given: Given,
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
