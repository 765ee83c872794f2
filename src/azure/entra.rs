//! Entra ID's endpoints, and what they answer instead of a token: azure_identity reads its error texts only where they
//! hold no escape, and its real ones hold line breaks.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use azure_core::cloud::{CloudConfiguration, CustomConfiguration};
use azure_core::error::ErrorKind;
use azure_core::http::policies::{Policy, PolicyResult};
use azure_core::http::{
    ClientOptions, Context, Method, Pipeline, PipelineSendOptions, RawResponse, Request, Url,
};
use azure_core::{Error, Result};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::azure::cloud::Cloud;
use crate::azure::pipeline::{self, Client, date, retry_after, unread};

/// The options of a credential that asks Entra ID itself: that of its cloud.
pub(crate) fn client_options(client: Client, cloud: &Cloud) -> ClientOptions {
    let options = pipeline::client_options(client, &cloud.authority_host, refused);
    let mut custom = CustomConfiguration::default();
    custom.authority_host = cloud.authority_host.to_string();
    let per_call_policies: Vec<Arc<dyn Policy>> = vec![Arc::new(OnlyTokens)];
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
        let options = pipeline::client_options(client, &cloud.authority_host, refused);
        let (name, version) = (option_env!("CARGO_PKG_NAME"), option_env!("CARGO_PKG_VERSION"));
        let pipeline = Pipeline::new(name, version, options, vec![], vec![], None);
        Self { authority: cloud.authority_host.clone(), pipeline }
    }

    /// `POST` of a form to an endpoint; the JSON of the answer.
    ///
    /// # Errors
    /// An [`EntraRefusal`] among the causes, or what kept the request from arriving.
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
        let answer = answer.filter(|_| response.status().is_success()).ok_or_else(|| refused(&response))?;
        Ok((answer, date(response.headers())))
    }
}

/// Turns what is no token, after all retries, into an [`EntraRefusal`].
#[derive(Debug)]
struct OnlyTokens;

#[async_trait]
impl Policy for OnlyTokens {
    async fn send(&self, ctx: &Context, request: &mut Request, next: &[Arc<dyn Policy>]) -> PolicyResult {
        let response = next[0].send(ctx, request, &next[1..]).await?.try_into_raw_response().await?;
        if response.status().is_success() && is_token(response.body()) {
            return Ok(unread(response));
        }
        Err(refused(&response))
    }
}

fn is_token(body: &[u8]) -> bool {
    let answer: Value = serde_json::from_slice(body).unwrap_or_default();
    answer["access_token"].is_string() && answer["expires_in"].is_i64()
}

fn refused(response: &RawResponse) -> Error {
    Error::new(ErrorKind::Credential, EntraRefusal::new(response))
}

/// An answer without a token.
#[derive(Clone, Debug, Serialize, Deserialize, thiserror::Error)]
#[error("Entra ID answered {status} {description}")]
pub(crate) struct EntraRefusal {
    /// The HTTP status.
    pub(crate) status: u16,
    /// OAuth's code for what is wrong; empty where something else answered.
    pub(crate) error: String,
    /// Entra ID's `AADSTS…` text on one line; empty where something else answered.
    pub(crate) description: String,
    /// When to come back, as the answer says it.
    pub(crate) retry_after: Option<Duration>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Body {
    error: String,
    error_description: String,
}

impl EntraRefusal {
    fn new(response: &RawResponse) -> Self {
        let Body { error, error_description } = serde_json::from_slice(response.body()).unwrap_or_default();
        Self {
            status: response.status().into(),
            error,
            description: aadsts(&error_description),
            retry_after: retry_after(response.headers()),
        }
    }

    /// An answer that came by way of the browser.
    pub(crate) fn in_browser(error: &str, description: &str) -> Self {
        let description = aadsts(description);
        let description = if description.is_empty() { error.to_owned() } else { description };
        Self { status: 400, error: error.to_owned(), description, retry_after: None }
    }
}

/// Entra ID's text on one line, if it is one.
fn aadsts(text: &str) -> String {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if text.starts_with("AADSTS") { text } else { String::new() }
}

/// What a JSON web token says, unchecked; nothing where it is none.
pub(crate) fn claims(token: &str) -> Value {
    let payload = token.split('.').nth(1).and_then(|part| URL_SAFE_NO_PAD.decode(part).ok());
    payload.and_then(|json| serde_json::from_slice(&json).ok()).unwrap_or_default()
}

/// Seconds, which some services write as text.
pub(crate) fn seconds<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<u64, D::Error> {
    let value = Value::deserialize(deserializer)?;
    let seconds = value.as_u64().or_else(|| value.as_str()?.trim().parse().ok());
    seconds.ok_or_else(|| serde::de::Error::custom("not a number of seconds"))
}
