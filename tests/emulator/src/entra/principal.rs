//! The user and the application, and the claims of their tokens.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use crate::entra::{CLIENT_ID, OBJECT_ID, TENANT};

/// The object ID of the user in the home tenant.
const USER_OBJECT_ID: &str = "05e7d700-0000-4000-8000-000000000001";
/// The object ID of the user as a guest in another tenant.
const GUEST_OBJECT_ID: &str = "05e7d700-0000-4000-8000-000000000002";
/// The display name of the user.
const DISPLAY_NAME: &str = "Ada Lovelace";

/// The principal of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Principal {
    /// The only user.
    User,
    /// The service principal of the registered application.
    Application,
}

impl Principal {
    /// Returns `oid`, which differs between tenants.
    pub(crate) fn object_id(self, tenant: &str) -> &'static str {
        match self {
            Self::Application => OBJECT_ID,
            Self::User if tenant == TENANT => USER_OBJECT_ID,
            Self::User => GUEST_OBJECT_ID,
        }
    }

    /// Returns the claims of an access token about the principal (Microsoft Learn, "Access token claims reference").
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

/// The claims of the user's ID token (Microsoft Learn, "ID token claims reference").
pub(crate) fn id_claims(client: &str, tenant: &str, upn: &str) -> Value {
    let object_id = Principal::User.object_id(tenant);
    json!({
        "aud": client, "oid": object_id, "sub": object_id, "tid": tenant, "name": DISPLAY_NAME,
        "preferred_username": upn, "ver": "2.0",
    })
}

/// The user in the home tenant, as MSAL reads it from `client_info`.
pub(crate) fn client_info() -> String {
    URL_SAFE_NO_PAD.encode(json!({ "uid": USER_OBJECT_ID, "utid": TENANT }).to_string())
}
