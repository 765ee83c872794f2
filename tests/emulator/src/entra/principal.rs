//! Whom a token speaks for, and what it says of them.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use crate::entra::{CLIENT_ID, OBJECT_ID, TENANT};

/// The user, the `oid` of its tokens.
const USER_OBJECT_ID: &str = "05e7d700-0000-4000-8000-000000000001";
/// The same user as a guest of another tenant.
const GUEST_OBJECT_ID: &str = "05e7d700-0000-4000-8000-000000000002";
/// The user's name for people.
const DISPLAY_NAME: &str = "Ada Lovelace";

/// Somebody whom Entra ID knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Principal {
    /// The one user.
    User,
    /// The service principal of the registered application.
    Application,
}

impl Principal {
    /// `oid`, which differs from tenant to tenant.
    pub(crate) fn object_id(self, tenant: &str) -> &'static str {
        match self {
            Self::Application => OBJECT_ID,
            Self::User if tenant == TENANT => USER_OBJECT_ID,
            Self::User => GUEST_OBJECT_ID,
        }
    }

    /// The claims that are about who it is (Microsoft Learn, "Access token claims reference").
    pub(crate) fn claims(self, client: &str, tenant: &str, upn: &str) -> Value {
        let object_id = self.object_id(tenant);
        match self {
            Self::Application => json!({
                "appid": CLIENT_ID, "oid": object_id, "sub": object_id, "tid": tenant, "idtyp": "app",
            }),
            Self::User => json!({
                "appid": client, "oid": object_id, "sub": object_id, "tid": tenant, "idtyp": "user",
                "name": DISPLAY_NAME, "upn": upn, "unique_name": upn, "scp": "user_impersonation",
            }),
        }
    }
}

/// The user's ID token (Microsoft Learn, "ID token claims reference").
pub(crate) fn id_claims(client: &str, tenant: &str, upn: &str) -> Value {
    let object_id = Principal::User.object_id(tenant);
    json!({
        "aud": client, "oid": object_id, "sub": object_id, "tid": tenant, "name": DISPLAY_NAME,
        "preferred_username": upn, "ver": "2.0",
    })
}

/// The user at home, as MSAL reads it from `client_info`.
pub(crate) fn client_info() -> String {
    URL_SAFE_NO_PAD.encode(json!({ "uid": USER_OBJECT_ID, "utid": TENANT }).to_string())
}
