//! Entra ID's endpoints, their token responses and their errors.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use azure_core::Error;
use azure_core::credentials::AccessToken as SdkToken;
use azure_core::http::policies::{Policy, PolicyResult};
use azure_core::http::{Context, Method, Pipeline, PipelineSendOptions, RawResponse, Request, Url};
use azure_core::time::OffsetDateTime;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::azure::cloud::Cloud;
use crate::azure::http::{Client, HttpError, MAX_BODY, client_options, date, into_async, retry_after};
use crate::azure::json::{optional_number, or_default, parse};
use crate::net::NetError;
use crate::net::error::chain;
use crate::system::clock::unix_now;
use crate::system::secret::Secret;

/// Returns the URL of one of a tenant's endpoints, such as `token`.
pub(crate) fn address(authority: &Url, tenant: &str, endpoint: &str) -> Url {
    let mut url = authority.clone();
    let mut path = url.path_segments_mut().expect("an https URL has a path");
    path.pop_if_empty().extend([tenant, "oauth2", "v2.0", endpoint]);
    drop(path);
    url
}

/// A client of one cloud's Entra ID.
#[derive(Debug)]
pub(crate) struct Entra {
    authority: Url,
    pipeline: Pipeline,
}

impl Entra {
    pub(crate) fn new(cloud: &Cloud, client: Client) -> Self {
        let options = client_options(client, &cloud.authority_host, |_| MAX_BODY);
        let (name, version) = (option_env!("CARGO_PKG_NAME"), option_env!("CARGO_PKG_VERSION"));
        let pipeline = Pipeline::new(name, version, options, vec![], vec![], None);
        Self { authority: cloud.authority_host.clone(), pipeline }
    }

    /// Posts a form to an endpoint, and returns the JSON response.
    ///
    /// # Errors
    /// See [`EntraError`].
    pub(crate) async fn post<T: DeserializeOwned>(
        &self,
        tenant: &str,
        endpoint: &str,
        form: &[(&str, &str)],
    ) -> Result<T, EntraError> {
        Ok(self.post_dated(tenant, endpoint, form).await?.0)
    }

    /// As [`Entra::post`]; also returns Entra ID's time, in seconds of Unix time.
    ///
    /// # Errors
    /// As for [`Entra::post`].
    pub(crate) async fn post_dated<T: DeserializeOwned>(
        &self,
        tenant: &str,
        endpoint: &str,
        form: &[(&str, &str)],
    ) -> Result<(T, Option<u64>), EntraError> {
        let mut request = Request::new(address(&self.authority, tenant, endpoint), Method::Post);
        request.insert_header("content-type", "application/x-www-form-urlencoded");
        request.set_body(form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish());
        let unchecked = PipelineSendOptions { skip_checks: true, ..Default::default() };
        let response = self.pipeline.send(&Context::new(), &mut request, Some(unchecked)).await;
        let response = response.map_err(|error| EntraError::of_pipeline(&error))?;
        let json = parse(response.body()).ok().filter(|_| response.status().is_success());
        let json = json.ok_or_else(|| EntraError::Rejected(Rejection::new(&self.authority, &response)))?;
        Ok((json, date(response.headers())))
    }
}

/// The assumed lifetime of a token whose response contains none, in seconds (Microsoft Learn, "Access tokens in the
/// Microsoft identity platform": 60 to 90 minutes).
const DEFAULT_LIFETIME: u64 = 3600;

/// The longest accepted lifetime of a token, in seconds (Microsoft Learn, "Continuous access evaluation": up to 28
/// hours). azure_identity panics if the lifetime results in an invalid date.
const MAX_LIFETIME: u64 = 28 * 3600;

/// A token response of Entra ID, of a metadata service or of Azure CLI (RFC 6749, section 5.1). The form of its expiry
/// differs, and some versions contain none.
#[derive(Debug, Deserialize)]
pub(crate) struct TokenResponse {
    /// The token, or the SSH certificate.
    #[serde(alias = "accessToken")]
    pub(crate) access_token: Secret,
    /// The lifetime in seconds.
    #[serde(default, deserialize_with = "optional_number")]
    expires_in: Option<u64>,
    /// In seconds of Unix time.
    #[serde(default, deserialize_with = "optional_number")]
    expires_on: Option<u64>,
}

impl TokenResponse {
    fn lifetime(&self) -> u64 {
        let until = |expiry: u64| expiry.saturating_sub(unix_now());
        let lifetime = self.expires_in.or(self.expires_on.map(until));
        let lifetime = lifetime.or_else(|| claims(self.access_token.secret())["exp"].as_u64().map(until));
        lifetime.unwrap_or(DEFAULT_LIFETIME).min(MAX_LIFETIME)
    }

    fn expiry(&self) -> u64 {
        match self.expires_on {
            Some(expiry) => expiry.min(unix_now() + MAX_LIFETIME),
            None => unix_now() + self.lifetime(),
        }
    }

    /// Returns the token with its expiry.
    pub(crate) fn token(self) -> SdkToken {
        let expiry = i64::try_from(self.expiry()).ok();
        let expiry = expiry.and_then(|expiry| OffsetDateTime::from_unix_timestamp(expiry).ok());
        SdkToken::new(
            azure_core::credentials::Secret::from(self.access_token),
            expiry.unwrap_or_else(OffsetDateTime::now_utc),
        )
    }
}

/// Returns a token response in the form that azure_identity requires: numbers as text, and fields that it does not use;
/// `None` for another response.
fn normalized(response: &RawResponse) -> Option<RawResponse> {
    let token: TokenResponse = parse(response.body()).ok().filter(|_| response.status().is_success())?;
    let lifetime = token.lifetime();
    let body = json!({
        "access_token": token.access_token.secret(), "token_type": "Bearer", "resource": "",
        "expires_in": lifetime, "ext_expires_in": lifetime, "expires_on": token.expiry().to_string(),
    });
    Some(RawResponse::from_bytes(response.status(), response.headers().clone(), body.to_string()))
}

/// Converts token responses to the form that azure_identity requires.
#[derive(Debug)]
pub(crate) struct NormalizeTokenResponse;

#[async_trait]
impl Policy for NormalizeTokenResponse {
    async fn send(&self, ctx: &Context, request: &mut Request, next: &[Arc<dyn Policy>]) -> PolicyResult {
        let response = next[0].send(ctx, request, &next[1..]).await?.try_into_raw_response().await?;
        Ok(into_async(normalized(&response).unwrap_or(response)))
    }
}

/// Why Entra ID issued no token.
#[derive(Clone, Debug)]
pub(crate) enum EntraError {
    /// Entra ID, or another server instead, responded without a token.
    Rejected(Rejection),
    /// Entra ID is unreachable.
    Net(NetError),
    /// Anything else.
    Failed(String),
}

impl EntraError {
    /// Returns the failure of a request.
    pub(crate) fn of_pipeline(error: &Error) -> Self {
        match HttpError::find(error) {
            Some(HttpError::Status { url, response }) => Self::Rejected(Rejection::new(url, response)),
            Some(error @ HttpError::TooLong(_)) => Self::Failed(error.to_string()),
            None => match NetError::find(error) {
                Some(error) => Self::Net(error),
                None => Self::Failed(chain(error)),
            },
        }
    }
}

/// A response of Entra ID without a token.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Rejection {
    /// The host of the request, with its port unless that is 443.
    #[serde(default)]
    pub(crate) host: String,
    pub(crate) status: u16,
    /// OAuth's error code; empty for a response that is not OAuth's.
    pub(crate) error: String,
    /// Entra ID's `AADSTS…` text on one line, or another text after OAuth's code; empty for a response that is not
    /// OAuth's.
    pub(crate) description: String,
    pub(crate) retry_after: Option<Duration>,
    /// The claims that the next sign-in must provide.
    #[serde(default)]
    pub(crate) claims: Option<Box<ClaimsChallenge>>,
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Entra ID responded {} {}", self.status, self.description)
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Body {
    #[serde(deserialize_with = "or_default")]
    error: String,
    #[serde(deserialize_with = "or_default")]
    error_description: String,
    #[serde(deserialize_with = "or_default")]
    claims: String,
}

impl Rejection {
    fn new(url: &Url, response: &RawResponse) -> Self {
        let Body { error, error_description, claims } = parse(response.body()).unwrap_or_default();
        let status = response.status().into();
        // OAuth's errors have the status 400 or 401 (RFC 6749, section 5.2); another one can be a proxy's.
        let is_oauth = matches!(status, 400 | 401);
        let description = describe(if is_oauth { &error } else { "" }, &error_description);
        let (host, retry_after) = (url.authority().to_owned(), retry_after(response.headers()));
        let claims = ClaimsChallenge::from_json(claims).map(Box::new);
        Self { host, status, error, description, retry_after, claims }
    }

    /// Returns an error that Entra ID sent through the browser.
    pub(crate) fn in_browser(url: &Url, error: &str, description: &str) -> Self {
        Self {
            host: url.authority().to_owned(),
            status: 400,
            error: error.to_owned(),
            description: describe(error, description),
            retry_after: None,
            claims: None,
        }
    }
}

/// Returns an error on one line: Entra ID's text, or another text after OAuth's code.
fn describe(error: &str, description: &str) -> String {
    let on_one_line = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let (error, description) = (on_one_line(error), on_one_line(description));
    match (error.as_str(), description.as_str()) {
        (_, text) if text.starts_with("AADSTS") => description,
        ("", _) => String::new(),
        (_, "") => error,
        (error, text) => format!("{error}: {text}"),
    }
}

/// The longest accepted claims challenge, in bytes of base64. It becomes part of a URL and of a command.
const MAX_CHALLENGE: usize = 4096;

/// Claims that a service requires of a token: the JSON of OpenID Connect's `claims` parameter (OpenID Connect Core,
/// section 5.5).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ClaimsChallenge(String);

impl ClaimsChallenge {
    /// Decodes the parameter `claims` of a challenge; `None` if it is not a JSON object in base64.
    pub(crate) fn from_base64(text: &str) -> Option<Self> {
        let text = text.trim_end_matches('=').replace('-', "+").replace('_', "/");
        let json = STANDARD_NO_PAD.decode(&text).ok().filter(|_| text.len() <= MAX_CHALLENGE)?;
        Self::from_json(String::from_utf8(json).ok()?)
    }

    /// Returns the claims in an error of Entra ID (Microsoft Learn, "Developer guidance for Microsoft Entra Conditional
    /// Access"); `None` if they are not a JSON object.
    pub(crate) fn from_json(json: String) -> Option<Self> {
        let is_object = serde_json::from_str::<serde_json::Map<String, Value>>(&json).is_ok();
        (is_object && json.len() <= MAX_CHALLENGE).then_some(Self(json))
    }

    /// Returns the claims of both challenges, or only the other ones if the result is too long.
    pub(crate) fn merged(&self, other: &Self) -> Self {
        type Parts = serde_json::Map<String, Value>;
        let parse = |text: &str| serde_json::from_str::<Parts>(text).unwrap_or_default();
        let mut all = parse(&self.0);
        for (part, claims) in parse(&other.0) {
            match (all.get_mut(&part), claims) {
                (Some(Value::Object(old)), Value::Object(new)) => old.extend(new),
                (_, claims) => drop(all.insert(part, claims)),
            }
        }
        Self::from_json(Value::from(all).to_string()).unwrap_or_else(|| other.clone())
    }

    pub(crate) fn json(&self) -> &str {
        &self.0
    }

    /// Returns the claims in base64, as programs accept them after options.
    pub(crate) fn base64(&self) -> String {
        STANDARD.encode(&self.0)
    }
}

/// Returns the claims of a JSON web token, unverified; null for another text.
pub(crate) fn claims(token: &str) -> Value {
    let payload = token.split('.').nth(1).and_then(|part| URL_SAFE_NO_PAD.decode(part).ok());
    payload.and_then(|json| serde_json::from_slice(&json).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use azure_core::http::StatusCode;
    use azure_core::http::headers::Headers;

    fn token(json: &str) -> TokenResponse {
        parse(json.as_bytes()).unwrap()
    }

    #[test]
    fn expiry_is_read_from_every_form_of_a_token_response() {
        let end = unix_now() + 1000;
        let jwt = format!("h.{}.s", URL_SAFE_NO_PAD.encode(format!(r#"{{"exp":{end}}}"#)));
        let near = |left: u64, right: u64| left.abs_diff(right) <= 5;
        for (rest, lifetime) in [
            (r#""expires_in":1000"#.to_owned(), 1000),
            (r#""expires_in":"1000","ext_expires_in":null"#.to_owned(), 1000),
            (format!(r#""expires_on":"{end}""#), 1000),
            (format!(r#""expires_on":{end}.5,"expires_in":null"#), 1000),
            (r#""expires_on":"11/24/2026 01:00:00 +00:00","expires_in":"1000""#.to_owned(), 1000),
            (r#""expires_in":null"#.to_owned(), DEFAULT_LIFETIME),
            (format!(r#""expires_in":{}"#, u64::MAX), MAX_LIFETIME),
            (format!(r#""expires_on":"{}""#, u64::MAX), MAX_LIFETIME),
        ] {
            let token = token(&format!(r#"{{"access_token":"opaque",{rest}}}"#));
            assert!(near(token.lifetime(), lifetime), "{rest}");
            assert!(near(token.expiry(), unix_now() + lifetime), "{rest}");
        }
        let mark = '\u{feff}';
        let token =
            token(&format!(r#"{mark}{{"accessToken":"{jwt}","expiresOn":"2026-08-20 13:50:47.114324"}}"#));
        assert!(near(token.expiry(), end));
    }

    #[test]
    fn a_claims_challenge_is_a_json_object_in_base64() {
        let decode = |text: &str| ClaimsChallenge::from_base64(text).map(|claims| claims.json().to_owned());
        let json = r#"{"access_token":{"acrs":{"essential":true,"values":["p1"]}}}"#;
        let base64 = "eyJhY2Nlc3NfdG9rZW4iOnsiYWNycyI6eyJlc3NlbnRpYWwiOnRydWUsInZhbHVlcyI6WyJwMSJdfX19";
        assert_eq!(decode(base64).as_deref(), Some(json));
        assert_eq!(ClaimsChallenge::from_base64(base64).unwrap().base64(), base64);
        for (text, json) in [
            ("eyJhIjoxfQ==", r#"{"a":1}"#),
            ("eyJhIjoxfQ", r#"{"a":1}"#),
            ("eyJhIjoiPz8_In0", r#"{"a":"???"}"#),
        ] {
            assert_eq!(decode(text).as_deref(), Some(json), "{text}");
        }
        let long = STANDARD.encode(format!(r#"{{"a":"{}"}}"#, "x".repeat(MAX_CHALLENGE)));
        for text in ["", "e30 && x", "WzFd", "bnVsbA", "eyJhIjox", long.as_str()] {
            assert_eq!(decode(text), None, "{text}");
        }
    }

    #[test]
    fn two_challenges_are_merged() {
        let challenge = |json: &str| ClaimsChallenge::from_json(json.into()).unwrap();
        let old = challenge(r#"{"access_token":{"acrs":{"values":["p1"]},"nbf":{"value":"1"}}}"#);
        let merged = old.merged(&challenge(r#"{"access_token":{"nbf":{"value":"2"}},"id_token":{}}"#));
        let expected = r#"{"access_token":{"acrs":{"values":["p1"]},"nbf":{"value":"2"}},"id_token":{}}"#;
        assert_eq!(merged, challenge(expected));
        let long = challenge(&format!(r#"{{"a":"{}"}}"#, "x".repeat(MAX_CHALLENGE - 8)));
        assert_eq!(old.merged(&long), long);
    }

    #[test]
    fn an_error_is_described_in_entra_ids_own_words() {
        let describe = |status, body: &str| {
            let body = body.as_bytes().to_vec();
            let url = "https://login.example/tenant".parse().unwrap();
            Rejection::new(&url, &RawResponse::from_bytes(status, Headers::new(), body)).description
        };
        let (bad, forbidden) = (StatusCode::BadRequest, StatusCode::Forbidden);
        let aadsts = r#"{"error":"invalid_grant","error_description":"AADSTS7: No.\r\nTrace"}"#;
        assert_eq!(describe(bad, aadsts), "AADSTS7: No. Trace");
        assert_eq!(describe(forbidden, aadsts), "AADSTS7: No. Trace");
        let other = r#"{"error":"invalid_client","error_description":"Wrong secret."}"#;
        assert_eq!(describe(bad, other), "invalid_client: Wrong secret.");
        assert_eq!(describe(bad, r#"{"error":"invalid_client","error_description":null}"#), "invalid_client");
        for body in [r#"{"error_description":"Blocked."}"#, "<html>", ""] {
            assert_eq!(describe(bad, body), "", "{body}");
        }
        assert_eq!(describe(forbidden, other), "");
    }
}

#[cfg(test)]
mod fuzz_tests;
