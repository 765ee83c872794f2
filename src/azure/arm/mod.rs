//! One authenticated request to Azure Resource Manager, through azure_core's pipeline: its retries, its Retry-After,
//! its sanitised logging. What ARM refuses comes back as an [`ArmError`] that says which refusal it was.

use std::cell::{OnceCell, RefCell};
use std::time::Duration;

use anyhow::{Result, anyhow};
use azure_core::Error;
use azure_core::error::ErrorKind;
use azure_core::http::headers::{HeaderName, Headers};
use azure_core::http::{Context, Method, Pipeline, PipelineSendOptions, RawResponse, Request, Url};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tracing::info;

use crate::azure::cloud::Cloud;
use crate::azure::credentials::{AccessToken, CredentialChain, CredentialError, CredentialOptions};
use crate::azure::http::{TooLong, client_options, date, error_chain, retry_after};
use crate::azure::json::text;
use crate::azure::relay_host::RelaySuffixes;
use crate::net::Net;
use crate::net::http_head::auth_param;
use crate::system::SystemError;
use crate::state::{Store};

/// How ARM names a request; support asks for it.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-ms-request-id");
/// Where ARM says which tenant's token it wants.
const WWW_AUTHENTICATE: HeaderName = HeaderName::from_static("www-authenticate");

/// Azure Resource Manager of one cloud, as one identity.
#[derive(Debug)]
pub(crate) struct Arm {
    endpoint: Url,
    relay_suffixes: RelaySuffixes,
    identity: CredentialChain,
    /// The tenant that ARM asked for last, where it is another than the identity's own choice.
    tenant: RefCell<Option<String>>,
    pipeline: OnceCell<Pipeline>,
}

impl Arm {
    /// ARM of `cloud`, as the identity that is wanted. Nothing is built before the first request.
    pub(crate) fn new(cloud: &Cloud, net: &Net, store: &Store, wanted: CredentialOptions) -> Self {
        Self {
            endpoint: cloud.arm_endpoint.clone(),
            relay_suffixes: cloud.relay_suffixes.clone(),
            identity: CredentialChain::new(cloud, wanted, net, store),
            tenant: RefCell::default(),
            pipeline: OnceCell::new(),
        }
    }

    /// Whoever asks, as far as it is known without a token.
    ///
    /// # Errors
    /// The store is open to others.
    pub(crate) fn who(&self) -> Result<String, SystemError> {
        self.identity.cache_key("somebody".into(), None)
    }

    /// Host and port of ARM: which cloud this is.
    pub(crate) fn authority(&self) -> &str {
        self.endpoint.authority()
    }

    /// Where the relays may be that it names.
    pub(crate) fn relay_suffixes(&self) -> &RelaySuffixes {
        &self.relay_suffixes
    }

    /// `POST {endpoint}/{path…}?{query}` with a JSON body; a 2xx answer.
    ///
    /// # Errors
    /// See [`ArmError`]; so it is with every request.
    pub(crate) async fn post(
        &self,
        path: &[&str],
        query: &[(&str, &str)],
        body: &Value,
    ) -> Result<Answer, ArmError> {
        self.send_json(Method::Post, path, query, body).await
    }

    /// `PUT` of a JSON body; a 2xx answer.
    pub(crate) async fn put(
        &self,
        path: &[&str],
        query: &[(&str, &str)],
        body: &Value,
    ) -> Result<Answer, ArmError> {
        self.send_json(Method::Put, path, query, body).await
    }

    /// `DELETE`; what was not there is deleted too.
    pub(crate) async fn delete(&self, path: &[&str], query: &[(&str, &str)]) -> Result<(), ArmError> {
        self.send(Request::new(self.url(path, query), Method::Delete)).await.map(drop)
    }

    async fn send_json(
        &self,
        method: Method,
        path: &[&str],
        query: &[(&str, &str)],
        body: &Value,
    ) -> Result<Answer, ArmError> {
        let mut request = Request::new(self.url(path, query), method);
        request.insert_header("content-type", "application/json");
        request.set_body(body.to_string());
        self.send(request).await
    }

    /// `GET {endpoint}/{path…}?{query}`; a 2xx answer.
    pub(crate) async fn read(&self, path: &[&str], query: &[(&str, &str)]) -> Result<Answer, ArmError> {
        self.send(Request::new(self.url(path, query), Method::Get)).await
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
            return Err(self.unexpected(anyhow!("{} is not Azure Resource Manager", url.authority())));
        }
        self.send(Request::new(url, Method::Get)).await?.json()
    }

    fn url(&self, path: &[&str], query: &[(&str, &str)]) -> Url {
        let mut url = self.endpoint.clone();
        url.path_segments_mut().expect("an https URL has a path").pop_if_empty().extend(path);
        url.query_pairs_mut().extend_pairs(query);
        url
    }

    /// Sends a request with a token; once more with another where that one may be taken.
    async fn send(&self, request: Request) -> Result<Answer, ArmError> {
        let tenant = self.tenant.borrow().clone();
        let token = self.identity.token(tenant.as_deref()).await?;
        match self.send_as(&token, request.clone()).await {
            Err(ArmError::Refused(refusal)) if refusal.status == 401 => {
                let token = self.another(&token, &refusal).await?;
                let token = token.ok_or(ArmError::Refused(refusal))?;
                self.send_as(&token, request).await
            }
            answer => answer,
        }
    }

    /// The token to try after one that ARM did not take: of the tenant that it names, or in place of a kept one.
    async fn another(
        &self,
        token: &AccessToken,
        refusal: &ErrorResponse,
    ) -> Result<Option<AccessToken>, CredentialError> {
        let claims = token.claims();
        let tenant = refusal.tenant.as_deref().filter(|&tenant| claims["tid"] != tenant);
        if let Some(tenant) = tenant {
            info!("ARM wants a token of the tenant {tenant}");
            self.tenant.replace(Some(tenant.to_owned()));
            return self.identity.token(Some(tenant)).await.map(Some);
        }
        if !token.cached {
            return Ok(None);
        }
        info!("ARM does not take the kept token; asking for a new one once");
        let tenant = self.tenant.borrow().clone();
        self.identity.replace(token, tenant.as_deref()).await.map(Some)
    }

    async fn send_as(&self, token: &AccessToken, mut request: Request) -> Result<Answer, ArmError> {
        request.insert_header("authorization", format!("Bearer {}", token.secret.secret()));
        let unchecked = PipelineSendOptions { skip_checks: true, ..Default::default() };
        let response = self.pipeline()?.send(&Context::new(), &mut request, Some(unchecked)).await;
        let response = response.map_err(|error| self.failed(error))?;
        let (status, request_id) = (response.status(), response.headers().get_optional_str(&REQUEST_ID));
        info!(status = u16::from(status), request_id, "ARM answered");
        if status.is_success() {
            let (date, retry_after) = (date(response.headers()), retry_after(response.headers()));
            let host = self.authority().to_owned();
            return Ok(Answer { host, body: response.into_body().to_vec(), date, retry_after });
        }
        Err(ArmError::Refused(ErrorResponse::new(&self.endpoint, &response)))
    }

    /// Returns the error for a 2xx answer that holds something else than was asked for.
    pub(crate) fn unexpected(&self, error: impl Into<anyhow::Error>) -> ArmError {
        ArmError::UnexpectedAnswer { host: self.authority().to_owned(), error: error.into() }
    }

    fn failed(&self, error: Error) -> ArmError {
        // The retry policy wraps what a policy below it returns.
        if let Some(refusal) = error_chain(&error).find_map(|cause| cause.downcast_ref::<ErrorResponse>()) {
            return ArmError::Refused(refusal.clone());
        }
        if let Some(too_long) = error_chain(&error).find_map(|cause| cause.downcast_ref::<TooLong>()) {
            return self.unexpected(*too_long);
        }
        ArmError::Unreachable(error)
    }

    fn pipeline(&self) -> Result<&Pipeline, ArmError> {
        if let Some(pipeline) = self.pipeline.get() {
            return Ok(pipeline);
        }
        let client = self.identity.client().map_err(ArmError::Client)?;
        let refusal = |url: &Url, response: &RawResponse| {
            Error::new(ErrorKind::Other, ErrorResponse::new(url, response))
        };
        let options = client_options(client, &self.endpoint, refusal);
        let (name, version) = (option_env!("CARGO_PKG_NAME"), option_env!("CARGO_PKG_VERSION"));
        Ok(self.pipeline.get_or_init(|| Pipeline::new(name, version, options, vec![], vec![], None)))
    }
}

/// A 2xx answer.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The host that gave it, with its port unless that is 443.
    host: String,
    /// The body.
    pub(crate) body: Vec<u8>,
    /// When the server gave it by its own clock, in seconds of Unix time.
    pub(crate) date: Option<u64>,
    /// When to look again at what it began.
    pub(crate) retry_after: Option<Duration>,
}

impl Answer {
    /// The JSON of the body.
    pub(crate) fn json<T: DeserializeOwned>(&self) -> Result<T, ArmError> {
        serde_json::from_slice(&self.body)
            .map_err(|error| ArmError::UnexpectedAnswer { host: self.host.clone(), error: error.into() })
    }
}

/// Why ARM gave no answer to build on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ArmError {
    /// ARM answered with a status other than 2xx.
    #[error(transparent)]
    Refused(ErrorResponse),
    /// No identity gives a token.
    #[error(transparent)]
    CredentialError(#[from] CredentialError),
    /// The environment names a proxy that is of no use.
    #[error("there is no way to Azure Resource Manager")]
    Client(#[source] anyhow::Error),
    /// ARM could not be reached.
    #[error("Azure Resource Manager cannot be reached")]
    Unreachable(#[source] Error),
    /// What is kept for it is open to others.
    #[error(transparent)]
    Store(#[from] SystemError),
    /// ARM answered 2xx with something else than was asked for.
    #[error("Azure Resource Manager gave an unexpected answer")]
    UnexpectedAnswer {
        /// The host that was asked, with its port unless that is 443.
        host: String,
        /// What is wrong with the answer.
        #[source]
        error: anyhow::Error,
    },
}

/// A refusal in ARM's envelope, `{"error":{"code","message"}}`.
#[derive(Clone, Debug, Serialize, Deserialize, thiserror::Error)]
#[error("ARM answered {status} {code}: {message}")]
pub(crate) struct ErrorResponse {
    /// The host that was asked, with its port unless that is 443.
    #[serde(default)]
    pub(crate) host: Box<str>,
    /// The HTTP status.
    pub(crate) status: u16,
    /// ARM's error code; empty where a gateway answered without the envelope.
    pub(crate) code: String,
    /// ARM's message for people.
    pub(crate) message: String,
    /// When to come back, as the answer says it.
    pub(crate) retry_after: Option<Duration>,
    /// How ARM names the request, for support.
    pub(crate) request_id: Option<Box<str>>,
    /// The tenant whose token it wants.
    pub(crate) tenant: Option<Box<str>>,
}

impl ErrorResponse {
    /// Whether the identity lacks a right.
    pub(crate) fn is_forbidden(&self) -> bool {
        self.status == 403
    }

    /// Whether the provider is not registered, or does not serve the machine's region: one code stands for both, and
    /// what is served is in the message (azure-docs "Resolve errors for resource provider registration").
    pub(crate) fn is_unserved(&self) -> bool {
        self.code == "NoRegisteredProviderFound"
    }

    fn new(url: &Url, response: &RawResponse) -> Self {
        let headers = response.headers();
        // A byte order mark is no JSON (RFC 8259, section 8.1), and some services write one.
        let body = response.body().strip_prefix(b"\xef\xbb\xbf").unwrap_or(response.body());
        let body: Value = serde_json::from_slice(body).unwrap_or_default();
        let error = body.get("error").filter(|error| error.is_object()).unwrap_or(&body);
        Self {
            host: url.authority().into(),
            status: response.status().into(),
            code: text(&error["code"]).unwrap_or_default(),
            message: text(&error["message"]).unwrap_or_default(),
            retry_after: retry_after(headers),
            request_id: headers.get_optional_str(&REQUEST_ID).map(Into::into),
            tenant: wanted_tenant(headers).map(Into::into),
        }
    }
}

/// The tenant in `Bearer authorization_uri="https://login.windows.net/{tenant}", …`, with which ARM answers a token of
/// another tenant (an exception of Azure.Core's in public code holds the whole answer); other services call it
/// `authorization`. Other challenges name `common`, which is no tenant (Microsoft Learn, "Continuous Access Evaluation
/// enabled APIs"), nor are its kin.
fn wanted_tenant(headers: &Headers) -> Option<String> {
    let challenge = headers.get_optional_str(&WWW_AUTHENTICATE)?;
    let value = |name| auth_param(challenge, "Bearer", name);
    let uri = Url::parse(&value("authorization_uri").or_else(|| value("authorization"))?).ok()?;
    let tenant = uri.path_segments()?.next()?;
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
    // Programs get it as an argument: it must not look like an option.
    let is_one = !["common", "organizations", "consumers"].contains(&tenant)
        && tenant.starts_with(|c: char| c.is_ascii_alphanumeric());
    (is_one && tenant.chars().all(plain)).then(|| tenant.to_owned())
}

#[cfg(test)]
mod fuzz_tests;
