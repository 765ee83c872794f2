//! What Entra ID's token endpoint answers instead of a token: azure_identity reads its error texts only where they hold
//! no escape, and its real ones hold line breaks.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use azure_core::Error;
use azure_core::error::ErrorKind;
use azure_core::http::policies::{Policy, PolicyResult};
use azure_core::http::{ClientOptions, Context, RawResponse, Request};
use serde::Deserialize;
use serde_json::Value;

use crate::azure::pipeline::{self, retry_after, unread};

/// The options of a credential that asks Entra ID itself.
pub(crate) fn client_options(http: reqwest::Client) -> ClientOptions {
    let per_call_policies: Vec<Arc<dyn Policy>> = vec![Arc::new(OnlyTokens)];
    ClientOptions { per_call_policies, ..pipeline::client_options(http, refused) }
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
#[derive(Clone, Debug, thiserror::Error)]
#[error("Entra ID answered {status} {description}")]
pub(crate) struct EntraRefusal {
    /// The HTTP status.
    pub(crate) status: u16,
    /// Entra ID's `AADSTS…` text on one line; empty where something else answered.
    pub(crate) description: String,
    /// When to come back, as the answer says it.
    pub(crate) retry_after: Option<Duration>,
}

#[derive(Deserialize)]
struct Body {
    error_description: String,
}

impl EntraRefusal {
    fn new(response: &RawResponse) -> Self {
        let text = serde_json::from_slice(response.body())
            .map_or(String::new(), |Body { error_description }| error_description);
        let description = text.split_whitespace().collect::<Vec<_>>().join(" ");
        Self {
            status: response.status().into(),
            description: if description.starts_with("AADSTS") { description } else { String::new() },
            retry_after: retry_after(response.headers()),
        }
    }
}
