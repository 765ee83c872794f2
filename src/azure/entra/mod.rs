//! Entra ID's endpoints, and what they answer instead of a token: azure_identity reads its error texts only where they
//! hold no escape, and its real ones hold line breaks.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use azure_core::cloud::{CloudConfiguration, CustomConfiguration};
use azure_core::credentials::AccessToken as SdkToken;
use azure_core::error::ErrorKind;
use azure_core::http::policies::{Policy, PolicyResult};
use azure_core::http::{
    ClientOptions, Context, Method, Pipeline, PipelineSendOptions, RawResponse, Request, Url,
};
use azure_core::time::OffsetDateTime;
use azure_core::{Error, Result};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::azure::cloud::Cloud;
use crate::azure::http::{self, Client, date, into_async, retry_after};
use crate::azure::json::{optional_number, or_default};
use crate::system::clock::unix_now;
use crate::system::secret::Secret;

/// The options of a credential that asks Entra ID itself: that of its cloud.
pub(crate) fn client_options(client: Client, cloud: &Cloud) -> ClientOptions {
    let options = http::client_options(client, &cloud.authority_host, refused);
    let mut custom = CustomConfiguration::default();
    custom.authority_host = cloud.authority_host.to_string();
    let per_call_policies: Vec<Arc<dyn Policy>> = vec![Arc::new(RequireToken)];
    let cloud = Some(Arc::new(CloudConfiguration::Custom(custom)));
    ClientOptions { per_call_policies, cloud, ..options }
}

/// The address of one of Entra ID's endpoints, such as `token`, for a tenant.
pub(crate) fn address(authority: &Url, tenant: &str, endpoint: &str) -> Url {
    let mut url = authority.clone();
    let mut path = url.path_segments_mut().expect("an https URL has a path");
    path.pop_if_empty().extend([tenant, "oauth2", "v2.0", endpoint]);
    drop(path);
    url
}

/// Entra ID of one cloud, asked in our own words.
#[derive(Debug)]
pub(crate) struct Entra {
    authority: Url,
    pipeline: Pipeline,
}

impl Entra {
    /// Entra ID of `cloud`.
    pub(crate) fn new(cloud: &Cloud, client: Client) -> Self {
        let options = http::client_options(client, &cloud.authority_host, refused);
        let (name, version) = (option_env!("CARGO_PKG_NAME"), option_env!("CARGO_PKG_VERSION"));
        let pipeline = Pipeline::new(name, version, options, vec![], vec![], None);
        Self { authority: cloud.authority_host.clone(), pipeline }
    }

    /// `POST` of a form to an endpoint; the JSON of the answer.
    ///
    /// # Errors
    /// An [`EntraError`] among the causes, or what kept the request from arriving.
    pub(crate) async fn post<T: DeserializeOwned>(
        &self,
        tenant: &str,
        endpoint: &str,
        form: &[(&str, &str)],
    ) -> Result<T> {
        Ok(self.post_dated(tenant, endpoint, form).await?.0)
    }

    /// The same, with the time of the answer by Entra ID's clock, in seconds of Unix time.
    ///
    /// # Errors
    /// As for [`Entra::post`].
    pub(crate) async fn post_dated<T: DeserializeOwned>(
        &self,
        tenant: &str,
        endpoint: &str,
        form: &[(&str, &str)],
    ) -> Result<(T, Option<u64>)> {
        let mut request = Request::new(address(&self.authority, tenant, endpoint), Method::Post);
        request.insert_header("content-type", "application/x-www-form-urlencoded");
        request.set_body(form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish());
        let unchecked = PipelineSendOptions { skip_checks: true, ..Default::default() };
        let response = self.pipeline.send(&Context::new(), &mut request, Some(unchecked)).await?;
        let answer = serde_json::from_slice(response.body()).ok();
        let answer = answer
            .filter(|_| response.status().is_success())
            .ok_or_else(|| refused(&self.authority, &response))?;
        Ok((answer, date(response.headers())))
    }
}

/// The life of a token, in seconds, where nothing tells it (Microsoft Learn, "Access tokens in the Microsoft identity
/// platform": 60 to 90 minutes).
const USUAL_LIFE: u64 = 3600;

/// The longest life of a token that is believed, in seconds (Microsoft Learn, "Continuous access evaluation": up to 28
/// hours). azure_identity adds any to the time, and panics where that comes to no date.
const LONGEST_LIFE: u64 = 28 * 3600;

/// A token as Entra ID, a machine's own service and Azure CLI give it. Each tells in its own way when it ends, and not
/// every version does.
#[derive(Debug, Deserialize)]
pub(crate) struct TokenResponse {
    /// The token, or what was asked for in its place.
    #[serde(alias = "accessToken")]
    pub(crate) access_token: Secret,
    /// How long it lives, in seconds.
    #[serde(default, deserialize_with = "optional_number")]
    expires_in: Option<u64>,
    /// When it ends, in seconds of Unix time.
    #[serde(default, deserialize_with = "optional_number")]
    expires_on: Option<u64>,
}

impl TokenResponse {
    fn lives(&self) -> u64 {
        let until = |end: u64| end.saturating_sub(unix_now());
        let told = self.expires_in.or(self.expires_on.map(until));
        let told = told.or_else(|| claims(self.access_token.secret())["exp"].as_u64().map(until));
        told.unwrap_or(USUAL_LIFE).min(LONGEST_LIFE)
    }

    fn ends(&self) -> u64 {
        let end = unix_now() + self.lives();
        self.expires_on.map_or(end, |told| told.min(unix_now() + LONGEST_LIFE))
    }

    /// The token with the time at which it ends.
    pub(crate) fn token(self) -> SdkToken {
        let end =
            i64::try_from(self.ends()).ok().and_then(|end| OffsetDateTime::from_unix_timestamp(end).ok());
        SdkToken::new(
            azure_core::credentials::Secret::from(self.access_token),
            end.unwrap_or_else(OffsetDateTime::now_utc),
        )
    }
}

/// An answer with a token in the one form that azure_identity reads: it takes numbers from Entra ID only as numbers and
/// from a machine only as text, and wants fields that it does not use. Nothing for what is no such answer.
fn in_one_form(response: &RawResponse) -> Option<RawResponse> {
    let given: TokenResponse =
        serde_json::from_slice(response.body()).ok().filter(|_| response.status().is_success())?;
    let (lives, ends) = (given.lives(), given.ends());
    let body = json!({
        "access_token": given.access_token.secret(), "token_type": "Bearer", "resource": "",
        "expires_in": lives, "ext_expires_in": lives, "expires_on": ends.to_string(),
    });
    Some(RawResponse::from_bytes(response.status(), response.headers().clone(), body.to_string()))
}

/// Hands azure_identity tokens in the form that it reads, and what else comes as it is.
#[derive(Debug)]
pub(crate) struct NormalizeTokenResponse;

#[async_trait]
impl Policy for NormalizeTokenResponse {
    async fn send(&self, ctx: &Context, request: &mut Request, next: &[Arc<dyn Policy>]) -> PolicyResult {
        let response = next[0].send(ctx, request, &next[1..]).await?.try_into_raw_response().await?;
        Ok(into_async(in_one_form(&response).unwrap_or(response)))
    }
}

/// Turns what is no token, after all retries, into an [`EntraError`].
#[derive(Debug)]
struct RequireToken;

#[async_trait]
impl Policy for RequireToken {
    async fn send(&self, ctx: &Context, request: &mut Request, next: &[Arc<dyn Policy>]) -> PolicyResult {
        let response = next[0].send(ctx, request, &next[1..]).await?.try_into_raw_response().await?;
        in_one_form(&response).map(into_async).ok_or_else(|| refused(request.url(), &response))
    }
}

fn refused(url: &Url, response: &RawResponse) -> Error {
    Error::new(ErrorKind::Credential, EntraError::new(url, response))
}

/// An answer without a token.
#[derive(Clone, Debug, Serialize, Deserialize, thiserror::Error)]
#[error("Entra ID answered {status} {description}")]
pub(crate) struct EntraError {
    /// The host that was asked, with its port unless that is 443.
    #[serde(default)]
    pub(crate) host: String,
    /// The HTTP status.
    pub(crate) status: u16,
    /// OAuth's code for what is wrong; empty where something else answered.
    pub(crate) error: String,
    /// Entra ID's `AADSTS…` text on one line, or OAuth's code with another's; empty where something else answered.
    pub(crate) description: String,
    /// When to come back, as the answer says it.
    pub(crate) retry_after: Option<Duration>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Body {
    #[serde(deserialize_with = "or_default")]
    error: String,
    #[serde(deserialize_with = "or_default")]
    error_description: String,
}

impl EntraError {
    fn new(url: &Url, response: &RawResponse) -> Self {
        let Body { error, error_description } = serde_json::from_slice(response.body()).unwrap_or_default();
        let status = response.status().into();
        // OAuth refuses with 400 and 401 (RFC 6749, section 5.2); with others a proxy may write such an answer.
        let is_oauth = matches!(status, 400 | 401);
        let description = words(if is_oauth { &error } else { "" }, &error_description);
        let (host, retry_after) = (url.authority().to_owned(), retry_after(response.headers()));
        Self { host, status, error, description, retry_after }
    }

    /// An answer that came by way of the browser.
    pub(crate) fn in_browser(url: &Url, error: &str, description: &str) -> Self {
        Self {
            host: url.authority().to_owned(),
            status: 400,
            error: error.to_owned(),
            description: words(error, description),
            retry_after: None,
        }
    }
}

/// A refusal on one line: Entra ID's text says all; another's is told with OAuth's code, where there is one.
fn words(error: &str, description: &str) -> String {
    let on_one_line = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let (error, description) = (on_one_line(error), on_one_line(description));
    match (error.as_str(), description.as_str()) {
        (_, text) if text.starts_with("AADSTS") => description,
        ("", _) => String::new(),
        (_, "") => error,
        (error, text) => format!("{error}: {text}"),
    }
}

/// What a JSON web token says, unchecked; nothing where it is none.
pub(crate) fn claims(token: &str) -> Value {
    let payload = token.split('.').nth(1).and_then(|part| URL_SAFE_NO_PAD.decode(part).ok());
    payload.and_then(|json| serde_json::from_slice(&json).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use azure_core::http::StatusCode;
    use azure_core::http::headers::Headers;

    fn given(json: &str) -> TokenResponse {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn the_end_of_a_token_is_read_wherever_it_is_told() {
        let end = unix_now() + 1000;
        let jwt = format!("h.{}.s", URL_SAFE_NO_PAD.encode(format!(r#"{{"exp":{end}}}"#)));
        let near = |left: u64, right: u64| left.abs_diff(right) <= 5;
        for (rest, lives) in [
            (r#""expires_in":1000"#.to_owned(), 1000),
            (r#""expires_in":"1000","ext_expires_in":null"#.to_owned(), 1000),
            (format!(r#""expires_on":"{end}""#), 1000),
            (format!(r#""expires_on":{end}.5,"expires_in":null"#), 1000),
            (r#""expires_on":"11/24/2026 01:00:00 +00:00","expires_in":"1000""#.to_owned(), 1000),
            (r#""expires_in":null"#.to_owned(), USUAL_LIFE),
            (format!(r#""expires_in":{}"#, u64::MAX), LONGEST_LIFE),
            (format!(r#""expires_on":"{}""#, u64::MAX), LONGEST_LIFE),
        ] {
            let given = given(&format!(r#"{{"access_token":"opaque",{rest}}}"#));
            assert!(near(given.lives(), lives) && near(given.ends(), unix_now() + lives), "{rest}");
        }
        let told_by_itself =
            given(&format!(r#"{{"accessToken":"{jwt}","expiresOn":"2026-08-20 13:50:47.114324"}}"#));
        assert!(near(told_by_itself.ends(), end));
    }

    #[test]
    fn a_refusal_is_told_in_its_own_words() {
        let told = |status, body: &str| {
            let body = body.as_bytes().to_vec();
            let url = "https://login.example/tenant".parse().unwrap();
            EntraError::new(&url, &RawResponse::from_bytes(status, Headers::new(), body)).description
        };
        let (bad, forbidden) = (StatusCode::BadRequest, StatusCode::Forbidden);
        let aadsts = r#"{"error":"invalid_grant","error_description":"AADSTS7: No.\r\nTrace"}"#;
        assert_eq!(told(bad, aadsts), "AADSTS7: No. Trace");
        assert_eq!(told(forbidden, aadsts), "AADSTS7: No. Trace");
        let others = r#"{"error":"invalid_client","error_description":"Wrong secret."}"#;
        assert_eq!(told(bad, others), "invalid_client: Wrong secret.");
        assert_eq!(told(bad, r#"{"error":"invalid_client","error_description":null}"#), "invalid_client");
        for nobodys in [r#"{"error_description":"Blocked."}"#, "<html>", ""] {
            assert_eq!(told(bad, nobodys), "", "{nobodys}");
        }
        assert_eq!(told(forbidden, others), "");
    }
}

#[cfg(test)]
mod fuzz_tests;
