//! Entra ID: the token endpoint, for a service principal with a secret.
//!
//! Knows the tenant, the application and the tokens that it issues; knows nothing of what they open.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::CONTENT_TYPE;
use hyper::{Method, Response};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::clock;
use crate::encoding::Parameters;
use crate::journal::{Journal, Service, lock};
use crate::server::{Answer, Call, Room};
use crate::token::TokenKey;

/// The tenant that the emulator is.
pub(crate) const TENANT: &str = "7e4a4700-0000-4000-8000-000000000001";
/// The one registered application.
pub(crate) const CLIENT_ID: &str = "c11e4700-0000-4000-8000-000000000001";
/// The application's service principal, the `oid` of its tokens.
pub(crate) const OBJECT_ID: &str = "0b1ec700-0000-4000-8000-000000000001";

/// The resources whose tokens Azure Resource Manager takes: that of the Azure SDKs and that of azure-cli, which ends
/// in a slash and so gives a scope with two (azure-cli-core cloud.py).
pub(crate) const ARM_AUDIENCES: [&str; 2] =
    ["https://management.azure.com", "https://management.core.windows.net"];

/// An answer that the token endpoint gives instead of a token.
#[derive(Clone, Debug)]
pub struct EntraFault {
    status: u16,
    content_type: String,
    body: String,
    delay: Duration,
    times: usize,
}

impl EntraFault {
    /// An error of Entra's own: `error` is OAuth's code, `aadsts` the number in `AADSTS…`.
    pub fn new(status: u16, error: &str, aadsts: u32, description: &str) -> Self {
        Self::raw(status, "application/json", &error_body(error, aadsts, description).to_string())
    }

    /// Any body, such as the page of a gateway on the way.
    pub fn raw(status: u16, content_type: &str, body: &str) -> Self {
        Self {
            status,
            content_type: content_type.to_owned(),
            body: body.to_owned(),
            delay: Duration::ZERO,
            times: 1,
        }
    }

    /// Answers only after `delay`.
    pub fn after(self, delay: Duration) -> Self {
        Self { delay, ..self }
    }

    /// For the next `requests` requests instead of one.
    pub fn times(self, requests: usize) -> Self {
        Self { times: requests, ..self }
    }
}

/// The service's state.
pub(crate) struct Entra {
    pub(crate) client_secret: String,
    token_key: TokenKey,
    token_lifetime: Mutex<Duration>,
    faults: Mutex<VecDeque<EntraFault>>,
    journal: Arc<Journal>,
}

/// Whom a token speaks for.
pub(crate) struct Bearer {
    pub(crate) audience: String,
    pub(crate) expires: u64,
}

/// A status and a body.
type Failure = (u16, Value);

impl Entra {
    pub(crate) fn new(token_lifetime: Duration, journal: Arc<Journal>) -> Self {
        // The form of Entra's generated secrets; it contains `~`, which is not to be escaped.
        let client_secret = format!("Q8~{}", Uuid::new_v4().simple());
        journal.remember_secret(client_secret.as_str());
        Self {
            client_secret,
            token_key: TokenKey::generate(),
            token_lifetime: Mutex::new(token_lifetime),
            faults: Mutex::default(),
            journal,
        }
    }

    pub(crate) fn add_fault(&self, fault: EntraFault) {
        lock(&self.faults).push_back(fault);
    }

    pub(crate) fn set_token_lifetime(&self, lifetime: Duration) {
        *lock(&self.token_lifetime) = lifetime;
    }

    /// Who presents `token`, if this service issued it.
    pub(crate) fn bearer(&self, token: &str) -> Option<Bearer> {
        let claims = self.token_key.verify(token)?;
        let audience = claims["aud"].as_str()?.to_owned();
        Some(Bearer { audience, expires: claims["exp"].as_u64()? })
    }

    fn next_fault(&self) -> Option<EntraFault> {
        let mut faults = lock(&self.faults);
        let first = faults.front_mut()?;
        let fault = first.clone();
        first.times = first.times.saturating_sub(1);
        if first.times == 0 {
            faults.pop_front();
        }
        Some(fault)
    }

    /// Checks everything that the client-credentials grant sends (Microsoft Learn, "OAuth 2.0 client credentials flow
    /// on the Microsoft identity platform"; the numbers are of "Microsoft Entra authentication and authorization error
    /// codes", the texts are abridged).
    fn grant(&self, tenant: &str, form: &Parameters) -> Result<Value, Failure> {
        let field = |name| form.value(name).unwrap_or_default();
        if !tenant.eq_ignore_ascii_case(TENANT) {
            let text =
                format!("Tenant '{tenant}' not found. Check to make sure you have the correct tenant ID.");
            return Err(failure(400, "invalid_request", 90002, &text));
        }
        if field("grant_type") != "client_credentials" {
            let text = format!("The app requested an unsupported grant type '{}'.", field("grant_type"));
            return Err(failure(400, "unsupported_grant_type", 70003, &text));
        }
        self.check_client(field("client_id"), field("client_secret"))?;
        let audience = audience(field("scope"))?;
        Ok(self.token(&audience))
    }

    fn check_client(&self, client_id: &str, client_secret: &str) -> Result<(), Failure> {
        if !client_id.eq_ignore_ascii_case(CLIENT_ID) {
            let text = format!(
                "Application with identifier '{client_id}' was not found in the directory '{TENANT}'."
            );
            return Err(failure(400, "unauthorized_client", 700_016, &text));
        }
        if client_secret != self.client_secret {
            let text = format!(
                "Invalid client secret provided. Ensure the secret being sent in the request is the client secret \
                 value, not the client secret ID, for a secret added to app '{client_id}'."
            );
            return Err(failure(401, "invalid_client", 7_000_215, &text));
        }
        Ok(())
    }

    fn token(&self, audience: &str) -> Value {
        let (now, lifetime) = (clock::unix_seconds(), lock(&self.token_lifetime).as_secs());
        let token = self.token_key.sign(&json!({
            "aud": audience, "iss": format!("https://sts.windows.net/{TENANT}/"), "iat": now, "nbf": now,
            "exp": now + lifetime, "appid": CLIENT_ID, "oid": OBJECT_ID, "sub": OBJECT_ID, "tid": TENANT,
            "idtyp": "app", "ver": "1.0", "uti": Uuid::new_v4().simple().to_string(),
        }));
        self.journal.remember_secret(token.as_str());
        json!({ "token_type": "Bearer", "expires_in": lifetime, "ext_expires_in": lifetime, "access_token": token })
    }
}

/// The resource that a scope asks for: `{resource}/.default`.
fn audience(scope: &str) -> Result<String, Failure> {
    let resource = scope.strip_suffix("/.default").unwrap_or(scope);
    if ARM_AUDIENCES.contains(&resource.trim_end_matches('/')) && resource != scope {
        return Ok(resource.to_owned());
    }
    let text = format!("The resource principal named {resource} was not found in the tenant named {TENANT}.");
    Err(failure(400, "invalid_resource", 500_011, &text))
}

fn failure(status: u16, error: &str, aadsts: u32, description: &str) -> Failure {
    (status, error_body(error, aadsts, description))
}

fn error_body(error: &str, aadsts: u32, description: &str) -> Value {
    let (trace_id, correlation_id) = (Uuid::new_v4().to_string(), Uuid::new_v4().to_string());
    let time = format!("{}Z", clock::timestamp(clock::unix_seconds()).replace('T', " "));
    json!({
        "error": error,
        "error_description": format!(
            "AADSTS{aadsts}: {description} Trace ID: {trace_id} Correlation ID: {correlation_id} Timestamp: {time}"
        ),
        "error_codes": [aadsts],
        "timestamp": time,
        "trace_id": trace_id,
        "correlation_id": correlation_id,
        "error_uri": format!("https://login.microsoftonline.com/error?code={aadsts}"),
    })
}

fn answer(status: u16, content_type: &str, body: String) -> Answer {
    let response = Response::builder().status(status).header(CONTENT_TYPE, content_type);
    response
        .header("cache-control", "no-store, no-cache")
        .body(Full::new(Bytes::from(body)))
        .unwrap_or_default()
}

impl Room for Entra {
    const SERVICE: Service = Service::Entra;

    async fn answer(self: Arc<Self>, call: Call) -> Answer {
        if let Some(fault) = self.next_fault() {
            tokio::time::sleep(fault.delay).await;
            return answer(fault.status, &fault.content_type, fault.body);
        }
        let segments: Vec<&str> = call.path.trim_start_matches('/').split('/').collect();
        let result = match (&call.method, segments.as_slice()) {
            (&Method::POST, [tenant, "oauth2", "v2.0", "token"]) => {
                self.grant(tenant, &Parameters::from_form(&String::from_utf8_lossy(&call.body)))
            }
            _ => return answer(404, "text/html", String::new()),
        };
        let (status, body) = result.map_or_else(|failure| failure, |token| (200, token));
        answer(status, "application/json; charset=utf-8", body.to_string())
    }
}
