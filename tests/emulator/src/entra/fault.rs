//! Answers of the token endpoint that a test configures.

use std::time::Duration;

use crate::clock::Clock;
use crate::entra::error;
use crate::server::Answer;

/// An answer that the token endpoint gives instead of a token.
#[derive(Clone, Debug)]
pub struct EntraFault {
    status: u16,
    content_type: String,
    body: String,
    delay: Duration,
    pub(crate) times: usize,
}

impl EntraFault {
    /// An error in Entra's form: `error` is the OAuth code, `aadsts` the number in `AADSTS…`.
    pub fn new(status: u16, error: &str, aadsts: u32, description: &str) -> Self {
        let body = error::body(error, aadsts, description, Clock::default().unix_seconds());
        Self::raw(status, "application/json", &body.to_string())
    }

    /// Any body, such as the error page of a gateway.
    pub fn raw(status: u16, content_type: &str, body: &str) -> Self {
        Self {
            status,
            content_type: content_type.to_owned(),
            body: body.to_owned(),
            delay: Duration::ZERO,
            times: 1,
        }
    }

    /// Delays the answer by `delay`.
    pub fn after(self, delay: Duration) -> Self {
        Self { delay, ..self }
    }

    /// Applies to the next `requests` requests instead of one.
    pub fn times(self, requests: usize) -> Self {
        Self { times: requests, ..self }
    }

    pub(crate) async fn answer(self) -> Answer {
        tokio::time::sleep(self.delay).await;
        error::answer(self.status, &self.content_type, self.body)
    }
}
