//! Answers of ARM.

use http_body_util::Full;
use hyper::Response;
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use serde_json::Value;
use uuid::Uuid;

use crate::server::Answer;

/// An answer to which headers can be added.
pub(crate) struct Reply(Answer);

impl Reply {
    pub(crate) fn json(status: u16, body: &Value) -> Self {
        Self::text(status, "application/json; charset=utf-8", &body.to_string())
    }

    pub(crate) fn ok(body: &Value) -> Self {
        Self::json(200, body)
    }

    pub(crate) fn empty(status: u16) -> Self {
        let response = Response::builder().status(status).body(Full::default());
        Self(response.unwrap_or_default())
    }

    pub(crate) fn text(status: u16, content_type: &str, body: &str) -> Self {
        let mut reply = Self::empty(status);
        *reply.0.body_mut() = Full::new(Bytes::copy_from_slice(body.as_bytes()));
        reply.header(CONTENT_TYPE.as_str(), content_type)
    }

    /// Adds a header, unless it is invalid in HTTP.
    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            self.0.headers_mut().insert(name, value);
        }
        self
    }

    /// Adds a header line, also if the answer already has one with this name, unless it is invalid in HTTP.
    pub(crate) fn line(mut self, name: &str, value: &str) -> Self {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            self.0.headers_mut().append(name, value);
        }
        self
    }

    /// Returns the answer with the request ID and the correlation ID.
    pub(crate) fn finish(self) -> Answer {
        let (request, correlation) = (Uuid::new_v4().to_string(), Uuid::new_v4().to_string());
        self.header("x-ms-request-id", &request).header("x-ms-correlation-request-id", &correlation).0
    }
}
