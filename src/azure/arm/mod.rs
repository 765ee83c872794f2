//! Authenticated requests to Azure Resource Manager (ARM) through azure_core's pipeline, which retries them and logs
//! them without secrets.

mod policy_token;

use std::cell::{OnceCell, RefCell};
use std::fmt;
use std::time::Duration;

use azure_core::http::headers::{HeaderName, Headers};
use azure_core::http::{Context, Method, Pipeline, PipelineSendOptions, RawResponse, Request, Url};
use azure_core::{Bytes, Error};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tracing::info;

use crate::azure::cloud::Cloud;
use crate::azure::credentials::{
    AccessToken, Caller, CredentialChain, CredentialError, CredentialOptions, CredentialSource,
};
use crate::azure::entra::ClaimsChallenge;
use crate::azure::http::{HttpError, MAX_BODY, client_options, date, retry_after};
use crate::azure::json::{parse, text};
use crate::azure::relay_host::RelaySuffixes;
use crate::net::error::chain;
use crate::net::http_head::auth_param;
use crate::net::{Net, NetError};
use crate::state::Store;
use crate::system::SystemError;

/// The header with the URL of the state of an operation that takes longer than its request (azure-resource-manager-rpc,
/// "Asynchronous Operations").
const ASYNC_OPERATION: HeaderName = HeaderName::from_static("azure-asyncoperation");
/// The header with ARM's ID of a request, for Azure support.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-ms-request-id");
/// The header with the tenant whose token ARM requires.
const WWW_AUTHENTICATE: HeaderName = HeaderName::from_static("www-authenticate");

/// The path of Resource Graph's queries.
pub(crate) const RESOURCE_GRAPH: [&str; 3] = ["providers", "Microsoft.ResourceGraph", "resources"];

/// The longest accepted page of a list, in bytes: Resource Graph's limit (microsoft/ARI issue 199, "has exceeded the
/// limit of 16777216"). A resource provider may send 15 MB (Azure/azure-resource-manager-rpc pull request 133).
const MAX_LIST: usize = 16 * 1024 * 1024;

/// Returns the longest accepted body of the response to a request, in bytes.
fn max_body(request: &Request) -> usize {
    let is_query = request.url().path().trim_matches('/').split('/').eq(RESOURCE_GRAPH);
    if is_query || request.method() == Method::Get { MAX_LIST } else { MAX_BODY }
}

/// A client of one cloud's ARM, with one credential chain.
#[derive(Debug)]
pub(crate) struct Arm {
    endpoint: Url,
    relay_suffixes: RelaySuffixes,
    credentials: CredentialChain,
    /// The last tenant that ARM required, if it was not that of the token.
    tenant: RefCell<Option<String>>,
    pipeline: OnceCell<Pipeline>,
}

impl Arm {
    /// Returns a client, whose pipeline is built at the first request.
    pub(crate) fn new(cloud: &Cloud, net: &Net, store: &Store, options: CredentialOptions) -> Self {
        Self {
            endpoint: cloud.arm_endpoint.clone(),
            relay_suffixes: cloud.relay_suffixes.clone(),
            credentials: CredentialChain::new(cloud, options, net, store),
            tenant: RefCell::default(),
            pipeline: OnceCell::new(),
        }
    }

    /// Returns the cache key of the account, without a request for its token.
    ///
    /// # Errors
    /// Other users can access the state directory.
    pub(crate) fn account_key(&self) -> Result<String, SystemError> {
        self.credentials.cache_key("an account".into(), None)
    }

    /// Returns the account of the requests, and its object ID (Microsoft Learn, "Access token claims reference", `oid`).
    ///
    /// # Errors
    /// There is no token.
    pub(crate) async fn caller(&self) -> Result<(Caller, String), ArmError> {
        let tenant = self.tenant.borrow().clone();
        let token = self.credentials.token(tenant.as_deref()).await?;
        let object_id = token.claims()["oid"].as_str().unwrap_or("YOU").to_owned();
        Ok((self.credentials.caller(&token), object_id))
    }

    /// Returns host and port of ARM, which identify the cloud.
    pub(crate) fn authority(&self) -> &str {
        self.endpoint.authority()
    }

    pub(crate) fn relay_suffixes(&self) -> &RelaySuffixes {
        &self.relay_suffixes
    }

    /// Sends `POST {endpoint}/{path…}?{query}` with a JSON body, and returns a 2xx response.
    ///
    /// # Errors
    /// See [`ArmError`], as for all requests.
    pub(crate) async fn post(
        &self,
        path: &[&str],
        query: &[(&str, &str)],
        body: &Value,
    ) -> Result<ArmResponse, ArmError> {
        self.send_json(Method::Post, path, query, body).await
    }

    /// Sends `PUT {endpoint}/{path…}?{query}` with a JSON body, and returns a 2xx response.
    pub(crate) async fn put(
        &self,
        path: &[&str],
        query: &[(&str, &str)],
        body: &Value,
    ) -> Result<ArmResponse, ArmError> {
        self.send_json(Method::Put, path, query, body).await
    }

    /// Sends `DELETE {endpoint}/{path…}?{query}`, which also succeeds for a missing resource.
    pub(crate) async fn delete(&self, path: &[&str], query: &[(&str, &str)]) -> Result<(), ArmError> {
        self.delete_later(path, query).await.map(drop)
    }

    /// As [`Arm::delete`], but returns the response, for a resource whose deletion takes longer.
    pub(crate) async fn delete_later(
        &self,
        path: &[&str],
        query: &[(&str, &str)],
    ) -> Result<ArmResponse, ArmError> {
        self.send(Request::new(self.url(path, query), Method::Delete)).await
    }

    async fn send_json(
        &self,
        method: Method,
        path: &[&str],
        query: &[(&str, &str)],
        body: &Value,
    ) -> Result<ArmResponse, ArmError> {
        let mut request = Request::new(self.url(path, query), method);
        request.insert_header("content-type", "application/json");
        request.set_body(body.to_string());
        self.send(request).await
    }

    /// Sends `GET {endpoint}/{path…}?{query}`, and returns a 2xx response.
    pub(crate) async fn read(&self, path: &[&str], query: &[(&str, &str)]) -> Result<ArmResponse, ArmError> {
        self.send(Request::new(self.url(path, query), Method::Get)).await
    }

    /// As [`Arm::read`], but returns the JSON of the response.
    pub(crate) async fn get<T: DeserializeOwned>(
        &self,
        path: &[&str],
        query: &[(&str, &str)],
    ) -> Result<T, ArmError> {
        self.get_url(self.url(path, query)).await
    }

    /// Sends a `GET` to a URL of a response, such as `nextLink`. Only ARM gets the token.
    pub(crate) async fn get_url<T: DeserializeOwned>(&self, url: Url) -> Result<T, ArmError> {
        if url.origin() != self.endpoint.origin() {
            return Err(self.unexpected(format!("{} is not Azure Resource Manager", url.authority())));
        }
        self.send(Request::new(url, Method::Get)).await?.json()
    }

    fn url(&self, path: &[&str], query: &[(&str, &str)]) -> Url {
        let mut url = self.endpoint.clone();
        url.path_segments_mut().expect("an https URL has a path").pop_if_empty().extend(path);
        url.query_pairs_mut().extend_pairs(query);
        url
    }

    /// Sends a request, and once more after an error response if there may be a better token, or a policy token.
    async fn send(&self, request: Request) -> Result<ArmResponse, ArmError> {
        let tenant = self.tenant.borrow().clone();
        let mut token = self.credentials.token(tenant.as_deref()).await?;
        let mut result = self.send_with(&token, request.clone()).await;
        if let Err(ArmError::Rejected(response)) = &result
            && (response.status == 401 || response.claims.is_some())
            && let Some(other) = self.replacement(&token, response).await?
            && other.secret != token.secret
        {
            token = other;
            result = self.send_with(&token, request.clone()).await;
            if let Err(ArmError::Rejected(response)) = &result
                && let Some(claims) = &response.claims
            {
                self.credentials.store_challenge(&token, self.tenant.borrow().as_deref(), claims)?;
            }
        }
        if let Err(ArmError::Rejected(response)) = &result
            && response.needs_policy_token
            && let Some(request) = policy_token::acquire(self, &token, &request).await?
        {
            return self.send_with(&token, request).await;
        }
        result
    }

    /// Returns the token to use after a rejection: one of the tenant that ARM names, one with the claims that ARM requires,
    /// or a new one in place of a cached one.
    async fn replacement(
        &self,
        token: &AccessToken,
        response: &ErrorResponse,
    ) -> Result<Option<AccessToken>, CredentialError> {
        let claims = token.claims();
        let tenant = response.tenant.as_deref().filter(|&tenant| claims["tid"] != tenant);
        if let Some(tenant) = tenant {
            info!("ARM requires a token of the tenant {tenant}");
            self.tenant.replace(Some(tenant.to_owned()));
            return self.credentials.token(Some(tenant)).await.map(Some);
        }
        let tenant = self.tenant.borrow().clone();
        let can_send_claims = match &response.claims {
            Some(claims) => self.credentials.store_challenge(token, tenant.as_deref(), claims)?,
            None => false,
        };
        if !token.cached && !can_send_claims {
            return Ok(None);
        }
        info!("ARM has rejected the token; requesting a new one");
        self.credentials.replace(token, tenant.as_deref()).await.map(Some)
    }

    async fn send_with(&self, token: &AccessToken, mut request: Request) -> Result<ArmResponse, ArmError> {
        request.insert_header("authorization", format!("Bearer {}", token.secret.secret()));
        let unchecked = PipelineSendOptions { skip_checks: true, ..Default::default() };
        let response = self.pipeline()?.send(&Context::new(), &mut request, Some(unchecked)).await;
        let response = response.map_err(|error| self.to_arm_error(&error))?;
        let status = response.status();
        let request_id = response.headers().get_optional_str(&REQUEST_ID);
        info!(status = u16::from(status), request_id, "response of ARM");
        if !status.is_success() {
            let mut rejection = ErrorResponse::new(&self.endpoint, &response);
            if matches!(rejection.status, 401 | 403 | 404) || rejection.claims.is_some() {
                rejection.caller = Some(self.credentials.caller(token).into());
            }
            return Err(ArmError::Rejected(rejection.in_tenant_of(token)));
        }
        Ok(ArmResponse {
            host: self.authority().to_owned(),
            date: date(response.headers()),
            retry_after: retry_after(response.headers()),
            operation: response
                .headers()
                .get_optional_str(&ASYNC_OPERATION)
                .and_then(|url| Url::parse(url).ok()),
            body: response.into_body().into(),
        })
    }

    /// Returns the error for an unexpected 2xx response.
    pub(crate) fn unexpected(&self, cause: impl Into<String>) -> ArmError {
        ArmError::InvalidResponse { host: self.authority().to_owned(), cause: cause.into() }
    }

    fn to_arm_error(&self, error: &Error) -> ArmError {
        match HttpError::find(error) {
            Some(HttpError::Status { url, response }) => {
                ArmError::Rejected(ErrorResponse::new(url, response))
            }
            Some(HttpError::TooLong(MAX_LIST)) => ArmError::ListTooLong,
            Some(error @ HttpError::TooLong(_)) => self.unexpected(error.to_string()),
            None => ArmError::Net(NetError::find(error).unwrap_or_else(|| NetError::Unreachable {
                host: self.authority().to_owned(),
                cause: chain(error).into(),
            })),
        }
    }

    fn pipeline(&self) -> Result<&Pipeline, ArmError> {
        if let Some(pipeline) = self.pipeline.get() {
            return Ok(pipeline);
        }
        let options = client_options(self.credentials.client()?, &self.endpoint, max_body);
        let (name, version) = (option_env!("CARGO_PKG_NAME"), option_env!("CARGO_PKG_VERSION"));
        Ok(self.pipeline.get_or_init(|| Pipeline::new(name, version, options, vec![], vec![], None)))
    }
}

/// A 2xx response.
#[derive(Debug)]
pub(crate) struct ArmResponse {
    /// The host of the request, with its port unless that is 443.
    host: String,
    pub(crate) body: Bytes,
    /// The server's time, in seconds of Unix time.
    pub(crate) date: Option<u64>,
    /// The delay before the next poll.
    pub(crate) retry_after: Option<Duration>,
    /// The URL of the state of an operation that is not complete.
    pub(crate) operation: Option<Url>,
}

impl ArmResponse {
    pub(crate) fn json<T: DeserializeOwned>(&self) -> Result<T, ArmError> {
        parse(&self.body)
            .map_err(|error| ArmError::InvalidResponse { host: self.host.clone(), cause: error.to_string() })
    }
}

/// Why a request to ARM failed.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum ArmError {
    /// ARM responded with a status other than 2xx.
    #[error("{0}")]
    Rejected(ErrorResponse),
    /// There is no token.
    #[error(transparent)]
    Credential(#[from] CredentialError),
    /// ARM is unreachable.
    #[error(transparent)]
    Net(#[from] NetError),
    /// Other users can access the state directory.
    #[error(transparent)]
    State(#[from] SystemError),
    /// ARM names a relay outside of the trusted domains.
    #[error("the host {0:?} is not in a trusted relay domain")]
    UntrustedRelay(String),
    /// A list does not end.
    #[error("{0}")]
    TooManyPages(String),
    /// A page of a list is longer than [`MAX_LIST`].
    #[error("a page is longer than {} MiB", MAX_LIST / 1024 / 1024)]
    ListTooLong,
    /// ARM sent an unexpected 2xx response.
    #[error("unexpected response of {host}: {cause}")]
    InvalidResponse {
        /// The host of the request, with its port unless that is 443.
        host: String,
        cause: String,
    },
}

/// An error response of ARM, `{"error":{"code","message"}}`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct ErrorResponse {
    /// The host of the request, with its port unless that is 443.
    #[serde(default)]
    pub(crate) host: Box<str>,
    pub(crate) status: u16,
    /// ARM's error code; empty if a gateway responded in another form.
    pub(crate) code: Box<str>,
    pub(crate) message: Box<str>,
    pub(crate) retry_after: Option<Duration>,
    /// ARM's ID of the request, for Azure support.
    pub(crate) request_id: Option<Box<str>>,
    /// The tenant whose token ARM requires.
    pub(crate) tenant: Option<Box<str>>,
    /// The claims that ARM requires of the token (Microsoft Learn, "Claims challenges, claims requests, and client
    /// capabilities").
    #[serde(default)]
    pub(crate) claims: Option<Box<ClaimsChallenge>>,
    /// Whether a policy requires a policy token.
    #[serde(skip)]
    pub(crate) needs_policy_token: bool,
    /// The account, if the response can be one to the account.
    #[serde(default)]
    pub(crate) caller: Option<Box<Caller>>,
}

impl fmt::Display for ErrorResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { status, code, message, .. } = self;
        write!(f, "Azure Resource Manager responded {status} {code}: {message}")
    }
}

impl ErrorResponse {
    /// Returns whether the account lacks a permission.
    pub(crate) fn is_forbidden(&self) -> bool {
        self.status == 403
    }

    /// Returns whether the provider is not registered, or not available in the machine's region: both have the same code,
    /// and the message lists the regions (azure-docs "Resolve errors for resource provider registration").
    pub(crate) fn is_unserved(&self) -> bool {
        &*self.code == "NoRegisteredProviderFound"
    }

    /// Returns whether the cloud does not have the resource provider, or not with this resource type.
    pub(crate) fn is_unknown_provider(&self) -> bool {
        matches!(&*self.code, "InvalidResourceNamespace" | "InvalidResourceType")
    }

    fn new(url: &Url, response: &RawResponse) -> Self {
        let headers = response.headers();
        let body: Value = parse(response.body()).unwrap_or_default();
        let error = body.get("error").filter(|error| error.is_object()).unwrap_or(&body);
        // Resource Graph gives the cause only in the details (microsoft/ARI issue 199).
        let cause = &error["details"][0];
        let is_generic = error["code"] == "BadRequest" && cause["code"].is_string();
        let error = if is_generic { cause } else { error };
        Self {
            host: url.authority().into(),
            status: response.status().into(),
            code: text(&error["code"]).unwrap_or_default().into(),
            message: text(&error["message"]).unwrap_or_default().into(),
            retry_after: retry_after(headers),
            request_id: headers.get_optional_str(&REQUEST_ID).map(Into::into),
            tenant: required_tenant(headers).map(Into::into),
            claims: required_claims(headers).map(Box::new),
            needs_policy_token: policy_token::is_required(error),
            caller: None,
        }
    }

    /// Adds the tenant of the rejected token, if ARM requires other claims of that tenant's token.
    fn in_tenant_of(self, token: &AccessToken) -> Self {
        let own = self.claims.as_ref().map(|_| token.tenant()).filter(|tenant| is_tenant(tenant));
        Self { tenant: self.tenant.or(own.map(Into::into)), ..self }
    }

    /// Returns the source of the rejected token.
    pub(crate) fn source(&self) -> CredentialSource {
        self.caller.as_ref().map_or(CredentialSource::Unset, |caller| caller.source)
    }
}

/// Returns the claims of `Bearer error="insufficient_claims", claims="{base64}"`. A token from a disallowed address has
/// the error `invalid_token` (azure-powershell, `SilentReAuthByTenantCmdletTest.cs`).
fn required_claims(headers: &Headers) -> Option<ClaimsChallenge> {
    let challenge = headers.get_optional_str(&WWW_AUTHENTICATE)?;
    ClaimsChallenge::from_base64(&auth_param(challenge, "Bearer", "claims")?)
}

/// Returns the tenant of `Bearer authorization_uri="https://login.windows.net/{tenant}", …`, ARM's challenge after a
/// token of another tenant (an exception of Azure.Core in public code contains the whole response). Other services call
/// the parameter `authorization`. Other challenges name `common`, which is no tenant (Microsoft Learn, "Continuous
/// Access Evaluation enabled APIs").
fn required_tenant(headers: &Headers) -> Option<String> {
    let challenge = headers.get_optional_str(&WWW_AUTHENTICATE)?;
    let param = |name| auth_param(challenge, "Bearer", name);
    let uri = Url::parse(&param("authorization_uri").or_else(|| param("authorization"))?).ok()?;
    let tenant = uri.path_segments()?.next()?;
    (!["common", "organizations", "consumers"].contains(&tenant) && is_tenant(tenant))
        .then(|| tenant.to_owned())
}

/// Returns whether a text is the ID or domain of a tenant. The tenant is an argument of programs, and must not look like
/// an option.
fn is_tenant(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '.')
}

#[cfg(test)]
mod fuzz_tests;
