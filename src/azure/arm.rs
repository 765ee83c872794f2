//! One authenticated request to Azure Resource Manager, through azure_core's pipeline: its retries, its Retry-After,
//! its sanitised logging. What ARM refuses comes back as an [`ArmError`] that says which refusal it was.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, anyhow};
use azure_core::Error;
use azure_core::error::ErrorKind;
use azure_core::http::headers::HeaderName;
use azure_core::http::policies::auth::BearerTokenAuthorizationPolicy;
use azure_core::http::{Context, Method, Pipeline, PipelineSendOptions, RawResponse, Request, Url};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tracing::info;

use crate::azure::cloud::Cloud;
use crate::azure::credential;
use crate::azure::entra::EntraRefusal;
use crate::azure::pipeline::{TooLong, causes, client_options, retry_after};
use crate::net::Net;

/// How ARM names a request; support asks for it.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-ms-request-id");

/// Azure Resource Manager of one cloud, as one identity.
pub(crate) struct Arm {
    endpoint: Url,
    pipeline: Pipeline,
}

impl Arm {
    /// ARM of `cloud`, as the first identity that the environment offers.
    ///
    /// # Errors
    /// The environment names an identity only in part, or a proxy that is of no use.
    pub(crate) fn new(cloud: &Cloud, net: &Net) -> Result<Self> {
        let http = net.http_client([&cloud.arm_endpoint, &cloud.authority_host])?;
        let credential = credential::from_environment(cloud, http.clone())?;
        let options = client_options(http, |response| Error::new(ErrorKind::Other, Refusal::new(response)));
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
    ///
    /// # Errors
    /// See [`ArmError`]; so it is with every request.
    pub(crate) async fn post(
        &self,
        path: &[&str],
        query: &[(&str, &str)],
        body: &Value,
    ) -> Result<Vec<u8>, ArmError> {
        let mut request = Request::new(self.url(path, query), Method::Post);
        request.insert_header("content-type", "application/json");
        request.set_body(body.to_string());
        self.send(request).await
    }

    /// `GET {endpoint}/{path…}?{query}`; the JSON of a 2xx answer.
    pub(crate) async fn get<T: DeserializeOwned>(
        &self,
        path: &[&str],
        query: &[(&str, &str)],
    ) -> Result<T, ArmError> {
        self.get_url(self.url(path, query)).await
    }

    /// `GET` of an address that ARM gave, as `nextLink` does. The token goes to ARM and nowhere else.
    pub(crate) async fn get_url<T: DeserializeOwned>(&self, url: Url) -> Result<T, ArmError> {
        if url.origin() != self.endpoint.origin() {
            return Err(ArmError::UnexpectedAnswer(anyhow!(
                "{} is not Azure Resource Manager",
                url.authority()
            )));
        }
        let json = self.send(Request::new(url, Method::Get)).await?;
        serde_json::from_slice(&json).map_err(|error| ArmError::UnexpectedAnswer(error.into()))
    }

    fn url(&self, path: &[&str], query: &[(&str, &str)]) -> Url {
        let mut url = self.endpoint.clone();
        url.path_segments_mut().expect("an https URL has a path").pop_if_empty().extend(path);
        url.query_pairs_mut().extend_pairs(query);
        url
    }

    async fn send(&self, mut request: Request) -> Result<Vec<u8>, ArmError> {
        let unchecked = PipelineSendOptions { skip_checks: true, ..Default::default() };
        let response = self.pipeline.send(&Context::new(), &mut request, Some(unchecked)).await?;
        let (status, request_id) = (response.status(), response.headers().get_optional_str(&REQUEST_ID));
        info!(status = u16::from(status), request_id, "ARM answered");
        if status.is_success() {
            return Ok(response.into_body().to_vec());
        }
        Err(ArmError::Refused(Refusal::new(&response)))
    }
}

/// Why ARM gave no answer to build on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ArmError {
    /// ARM answered with a status other than 2xx.
    #[error(transparent)]
    Refused(Refusal),
    /// Entra ID answered with no token.
    #[error(transparent)]
    NoToken(EntraRefusal),
    /// No identity, or Entra ID cannot be reached.
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
    code: Option<String>,
    message: Option<String>,
}

impl Refusal {
    fn new(response: &RawResponse) -> Self {
        let headers = response.headers();
        let Inner { code, message } = serde_json::from_slice(response.body())
            .map_or(Inner { code: None, message: None }, |Envelope { error }| error);
        Self {
            status: response.status().into(),
            code: code.unwrap_or_default(),
            message: message.unwrap_or_default(),
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
        if let Some(refusal) = causes(&error).find_map(|cause| cause.downcast_ref::<EntraRefusal>()) {
            return Self::NoToken(refusal.clone());
        }
        if let Some(too_long) = causes(&error).find_map(|cause| cause.downcast_ref::<TooLong>()) {
            return Self::UnexpectedAnswer((*too_long).into());
        }
        match error.kind() {
            ErrorKind::Credential => Self::Identity(error),
            _ => Self::Unreachable(error),
        }
    }
}
