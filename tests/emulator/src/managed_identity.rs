//! Managed identities: the token endpoints of an Azure VM (IMDS) and of an Arc-enabled server (himds).
//!
//! Microsoft Learn, "How to use managed identities for Azure resources on an Azure VM to acquire an access token" and
//! "Authenticate against Azure resources with Azure Arc-enabled servers".

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hyper::Method;
use hyper::header::{HeaderValue, WWW_AUTHENTICATE};
use serde_json::json;
use uuid::Uuid;

use crate::clock::Clock;
use crate::entra::error::json_answer;
use crate::entra::{Entra, ManagedIdentity};
use crate::journal::{Journal, Service, lock};
use crate::server::{Answer, Call, Handler};

const PATH: &str = "/metadata/identity/oauth2/token";
/// The versions with this path (Microsoft Learn, "Azure Instance Metadata Service", supported versions, in part).
const IMDS_VERSIONS: [&str; 4] = ["2018-02-01", "2018-04-02", "2018-10-01", "2019-08-01"];
/// The versions that clients use (azure-sdk: `2019-11-01`; MSAL managed_identity.py: `2020-06-01`).
const HIMDS_VERSIONS: [&str; 3] = ["2019-08-15", "2019-11-01", "2020-06-01"];
/// The directory of the key files of himds' challenges on Linux. Clients accept no other (MSAL managed_identity.py).
pub(crate) const TOKEN_DIRECTORY: &str = "/var/opt/azcmagent/tokens";

/// Azure Instance Metadata Service, on an Azure VM.
pub(crate) struct Imds(pub(crate) Endpoint);

/// The hybrid instance metadata service of the Arc agent. A client proves that it may read a file.
pub(crate) struct Himds {
    pub(crate) endpoint: Endpoint,
    pub(crate) token_directory: PathBuf,
    pub(crate) journal: Arc<Journal>,
    challenges: Mutex<Vec<Challenge>>,
}

struct Challenge {
    file: PathBuf,
    content: String,
}

/// Status, error and description.
type TokenError = (u16, &'static str, &'static str);

/// The token endpoint that both services have.
pub(crate) struct Endpoint {
    pub(crate) entra: Arc<Entra>,
    pub(crate) identity: ManagedIdentity,
    /// Whether the machine has an identity.
    pub(crate) assigned: Arc<Mutex<bool>>,
    pub(crate) clock: Clock,
}

impl Endpoint {
    fn check(&self, call: &Call, versions: &[&str]) -> Result<(), TokenError> {
        if call.method != Method::GET || call.path != PATH {
            return Err((404, "not_found", "There is nothing at this path"));
        }
        if call.header("metadata") != Some("true") {
            return Err((400, "bad_request_102", "Required metadata header not specified"));
        }
        let version = call.query.value("api-version").unwrap_or_default();
        if !versions.contains(&version) || call.query.value("resource").is_none() {
            let text = "The request is missing a required parameter, includes an invalid parameter value.";
            return Err((400, "invalid_request", text));
        }
        Ok(())
    }

    /// Numbers are strings in these answers.
    fn token(&self, call: &Call) -> Answer {
        let resource = call.query.value("resource").unwrap_or_default();
        let named = call.query.value("client_id");
        let other = named.is_some_and(|named| !named.eq_ignore_ascii_case(self.identity.client_id));
        if other || !*lock(&self.assigned) {
            return error_answer((400, "invalid_request", "Identity not found"));
        }
        let (token, lifetime) = match self.entra.managed_identity_token(&self.identity, resource) {
            Ok(issued) => issued,
            Err(error) => return error.answer(self.clock.unix_seconds()),
        };
        let now = self.clock.unix_seconds();
        let body = json!({
            "access_token": token, "client_id": self.identity.client_id, "expires_in": lifetime.to_string(),
            "expires_on": (now + lifetime).to_string(), "ext_expires_in": lifetime.to_string(),
            "not_before": now.to_string(), "resource": resource, "token_type": "Bearer",
        });
        json_answer(200, &body)
    }
}

fn error_answer((status, error, description): TokenError) -> Answer {
    json_answer(status, &json!({ "error": error, "error_description": description }))
}

impl Himds {
    pub(crate) fn new(endpoint: Endpoint, token_directory: &Path, journal: Arc<Journal>) -> Self {
        let token_directory = token_directory.to_owned();
        Self { endpoint, token_directory, journal, challenges: Mutex::default() }
    }

    /// Creates a key file and returns the challenge that names it. MSAL reads this header; no source has the body.
    fn challenge(&self) -> Answer {
        let file = self.token_directory.join(format!("{}.key", Uuid::new_v4()));
        let content = STANDARD.encode(format!("{}{}", Uuid::new_v4(), Uuid::new_v4()));
        if fs::create_dir_all(&self.token_directory).and_then(|()| fs::write(&file, &content)).is_err() {
            return json_answer(500, &json!({ "error": "server_error", "error_description": "no key file" }));
        }
        self.journal.record_secret(content.as_str());
        let realm = format!("Basic realm={}", file.display());
        lock(&self.challenges).push(Challenge { file, content });
        let text = "The request needs the content of the file named in WWW-Authenticate.";
        let body = json!({ "error": "unauthorized_client", "error_description": text });
        let mut answer = json_answer(401, &body);
        if let Ok(realm) = HeaderValue::try_from(realm) {
            answer.headers_mut().insert(WWW_AUTHENTICATE, realm);
        }
        answer
    }

    /// Returns whether `content` is that of a key file, and deletes the file.
    fn answers_challenge(&self, content: &str) -> bool {
        let mut challenges = lock(&self.challenges);
        let Some(index) = challenges.iter().position(|challenge| challenge.content == content) else {
            return false;
        };
        let _ = fs::remove_file(challenges.swap_remove(index).file);
        true
    }
}

impl Drop for Himds {
    fn drop(&mut self) {
        for challenge in lock(&self.challenges).iter() {
            let _ = fs::remove_file(&challenge.file);
        }
    }
}

impl Handler for Imds {
    const SERVICE: Service = Service::Entra;

    fn clock(&self) -> Clock {
        self.0.clock
    }

    async fn answer(self: Arc<Self>, call: Call) -> Answer {
        self.0.check(&call, &IMDS_VERSIONS).map_or_else(error_answer, |()| self.0.token(&call))
    }
}

impl Handler for Himds {
    const SERVICE: Service = Service::Entra;

    fn clock(&self) -> Clock {
        self.endpoint.clock
    }

    async fn answer(self: Arc<Self>, call: Call) -> Answer {
        if let Err(error) = self.endpoint.check(&call, &HIMDS_VERSIONS) {
            return error_answer(error);
        }
        let key = call.header("authorization").and_then(|value| value.strip_prefix("Basic "));
        let answered = key.is_some_and(|key| self.answers_challenge(key));
        if answered { self.endpoint.token(&call) } else { self.challenge() }
    }
}
