//! One authenticated request to Azure Resource Manager, through azure_core's pipeline: its retries, its Retry-After,
//! its sanitised logging. What ARM refuses comes back as an [`ArmError`] that says which refusal it was.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use async_trait::async_trait;
use azure_core::Error;
use azure_core::error::ErrorKind;
use azure_core::http::headers::{HeaderName, Headers, RETRY_AFTER};
use azure_core::http::policies::auth::BearerTokenAuthorizationPolicy;
use azure_core::http::policies::{Policy, PolicyResult};
use azure_core::http::{
    ClientOptions, Context, ExponentialRetryOptions, Method, Pipeline, PipelineSendOptions, Request,
    RetryOptions, StatusCode, Transport, Url,
};
use serde::Deserialize;
use serde_json::Value;
use tracing::info;

use crate::azure::cloud::Cloud;
use crate::azure::credential;
use crate::net::tls;

/// Retries of one request after the first try: 429, 408 and 5xx answers, and connections that broke.
const MAX_RETRIES: u32 = 3;

/// The longest Retry-After that is waited out. Beyond it the user is told, since ssh and its callers stop waiting
/// long before (Ansible after 10 s).
const PATIENCE: Duration = Duration::from_secs(30);

/// How ARM names a request; support asks for it.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-ms-request-id");

/// Azure Resource Manager of one cloud, as one identity.
pub(crate) struct Arm {
    endpoint: Url,
    pipeline: Pipeline,
}

impl Arm {
    /// ARM of `cloud`, reached through `http`, as the first identity that the environment offers.
    ///
    /// # Errors
    /// The environment names an identity only in part.
    pub(crate) fn new(cloud: &Cloud, http: reqwest::Client) -> Result<Self> {
        let options = client_options(http);
        let credential = credential::from_environment(cloud, options.clone())?;
        let authorization = BearerTokenAuthorizationPolicy::new(credential, [cloud.arm_scope.clone()]);
        let pipeline = Pipeline::new(
            option_env!("CARGO_PKG_NAME"),
            option_env!("CARGO_PKG_VERSION"),
            options,
            vec![],
            vec![Arc::new(authorization)],
            None,
        );
        Ok(Self { endpoint: cloud.arm_endpoint.clone(), pipeline })
    }

    /// `POST {endpoint}/{path…}?{query}` with a JSON body; the body of a 2xx answer.
    pub(crate) async fn post(
        &self,
        path: &[&str],
        query: &[(&str, &str)],
        body: &Value,
    ) -> Result<Vec<u8>, ArmError> {
        let mut url = self.endpoint.clone();
        url.path_segments_mut().expect("an https URL has a path").pop_if_empty().extend(path);
        url.query_pairs_mut().extend_pairs(query);
        let mut request = Request::new(url, Method::Post);
        request.insert_header("content-type", "application/json");
        request.set_body(body.to_string());

        let unchecked = PipelineSendOptions { skip_checks: true, ..Default::default() };
        let response = self.pipeline.send(&Context::new(), &mut request, Some(unchecked)).await?;
        let (status, headers, body) = response.deconstruct();
        info!(status = u16::from(status), request_id = headers.get_optional_str(&REQUEST_ID), "ARM answered");
        if status.is_success() {
            return Ok(body.to_vec());
        }
        Err(ArmError::Refused(Refusal::new(status, &headers, &body)))
    }
}

fn client_options(http: reqwest::Client) -> ClientOptions {
    let retry =
        RetryOptions::exponential(ExponentialRetryOptions { max_retries: MAX_RETRIES, ..Default::default() });
    ClientOptions {
        transport: Some(Transport::new(Arc::new(http))),
        retry,
        per_try_policies: vec![Arc::new(OnlyWhatMayPass)],
        ..Default::default()
    }
}

/// Keeps the retry policy from repeating what cannot change soon: a certificate that is not trusted, and a
/// Retry-After longer than anybody waits.
#[derive(Debug)]
struct OnlyWhatMayPass;

#[async_trait]
impl Policy for OnlyWhatMayPass {
    async fn send(&self, ctx: &Context, request: &mut Request, next: &[Arc<dyn Policy>]) -> PolicyResult {
        let result = next[0].send(ctx, request, &next[1..]).await;
        match result {
            Err(error) if causes(&error).any(|cause| tls::refusal(cause).is_some()) => {
                Err(Error::with_error(ErrorKind::Other, error, "the TLS connection was refused"))
            }
            Ok(response) if retry_after(response.headers()).is_some_and(|wait| wait > PATIENCE) => {
                let (status, headers, body) = response.try_into_raw_response().await?.deconstruct();
                Err(Error::new(ErrorKind::Other, Refusal::new(status, &headers, &body)))
            }
            other => other,
        }
    }
}

fn retry_after(headers: &Headers) -> Option<Duration> {
    headers.get_optional_str(&RETRY_AFTER)?.trim().parse().ok().map(Duration::from_secs)
}

/// Why ARM gave no answer to build on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ArmError {
    /// ARM answered with a status other than 2xx.
    #[error(transparent)]
    Refused(Refusal),
    /// No identity, or Entra ID refused it.
    #[error("no token for Azure Resource Manager")]
    Identity(#[source] Error),
    /// ARM could not be reached.
    #[error("Azure Resource Manager cannot be reached")]
    Unreachable(#[source] Error),
    /// ARM answered 2xx with something else than was asked for.
    #[error("Azure Resource Manager gave an unexpected answer")]
    UnexpectedAnswer(#[source] anyhow::Error),
}

/// A refusal in ARM's envelope, `{"error":{"code","message"}}`.
#[derive(Clone, Debug, thiserror::Error)]
#[error("ARM answered {status} {code}: {message}")]
pub(crate) struct Refusal {
    /// The HTTP status.
    pub(crate) status: u16,
    /// ARM's error code; empty where a gateway answered without the envelope.
    pub(crate) code: String,
    /// ARM's message for people.
    pub(crate) message: String,
    /// When to come back, as the answer says it.
    pub(crate) retry_after: Option<Duration>,
    /// How ARM names the request, for support.
    pub(crate) request_id: Option<String>,
}

#[derive(Deserialize)]
struct Envelope {
    error: Inner,
}

#[derive(Deserialize)]
struct Inner {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

impl Refusal {
    fn new(status: StatusCode, headers: &Headers, body: &[u8]) -> Self {
        let Inner { code, message } = serde_json::from_slice(body)
            .map_or(Inner { code: String::new(), message: String::new() }, |Envelope { error }| error);
        Self {
            status: status.into(),
            code,
            message,
            retry_after: retry_after(headers),
            request_id: headers.get_optional_str(&REQUEST_ID).map(Into::into),
        }
    }
}

impl From<Error> for ArmError {
    fn from(error: Error) -> Self {
        // The retry policy wraps what a policy below it returns.
        if let Some(refusal) = causes(&error).find_map(|cause| cause.downcast_ref::<Refusal>()) {
            return Self::Refused(refusal.clone());
        }
        match error.kind() {
            ErrorKind::Credential => Self::Identity(error),
            _ => Self::Unreachable(error),
        }
    }
}

/// An error and what caused it, outermost first.
fn causes<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> impl Iterator<Item = &'a (dyn std::error::Error + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}
