//! Errors of Entra ID. The numbers are from "Microsoft Entra authentication and authorization error codes" (Microsoft
//! Learn); the texts are abridged.

use http_body_util::Full;
use hyper::Response;
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, RETRY_AFTER};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::clock;
use crate::server::Answer;

#[derive(Clone, Debug)]
pub(crate) struct EntraError {
    status: u16,
    /// The OAuth code.
    pub(crate) code: &'static str,
    /// The number in `AADSTS…`.
    number: u32,
    description: String,
    suberror: Option<&'static str>,
}

impl EntraError {
    pub(crate) fn new(error: &'static str, number: u32, description: impl Into<String>) -> Self {
        // RFC 6749, section 5.2: 401 is for failed client authentication.
        let status = if error == "invalid_client" { 401 } else { 400 };
        Self { status, code: error, number, description: description.into(), suberror: None }
    }

    /// Adds the `suberror`, which MSAL reads too.
    pub(crate) fn suberror(self, suberror: &'static str) -> Self {
        Self { suberror: Some(suberror), ..self }
    }

    /// Returns the `error_description`.
    pub(crate) fn text(&self, now: u64) -> String {
        text(self.number, &self.description, &Trace::new(now))
    }

    /// Returns the answer of a token endpoint.
    pub(crate) fn answer(&self, now: u64) -> Answer {
        let mut body = body(self.code, self.number, &self.description, now);
        if let Some(suberror) = self.suberror {
            body["suberror"] = suberror.into();
        }
        json_answer(self.status, &body)
    }

    /// Returns the error page of the authorization endpoint.
    pub(crate) fn page(&self, now: u64) -> Answer {
        html(400, &format!("<html><body>Sign in: {}</body></html>", escaped(&self.text(now))))
    }
}

/// A parameter is missing.
pub(crate) fn missing(parameter: &str) -> EntraError {
    let text = format!("The request body must contain the following parameter: '{parameter}'.");
    EntraError::new("invalid_request", 900_144, text)
}

/// The request is malformed.
pub(crate) fn malformed(what: &str) -> EntraError {
    EntraError::new(
        "invalid_request",
        9_002_313,
        format!("Invalid request. Request is malformed or invalid: {what}."),
    )
}

/// The grant is invalid, or was issued to another client.
pub(crate) fn invalid_grant(what: &str) -> EntraError {
    EntraError::new("invalid_grant", 70000, format!("Provided grant is invalid or malformed: {what}."))
}

pub(crate) fn unknown_application(client_id: &str, tenant: &str) -> EntraError {
    let text =
        format!("Application with identifier '{client_id}' was not found in the directory '{tenant}'.");
    EntraError::new("unauthorized_client", 700_016, text)
}

/// The documented text of 90055 is "too many incoming requests".
pub(crate) fn throttled(seconds: u64, now: u64) -> Answer {
    let text = "There are too many incoming requests.";
    let mut answer = json_answer(429, &body("temporarily_unavailable", 90055, text, now));
    answer.headers_mut().insert(RETRY_AFTER, seconds.into());
    answer
}

struct Trace {
    trace_id: String,
    correlation_id: String,
    time: String,
}

impl Trace {
    fn new(now: u64) -> Self {
        let [trace_id, correlation_id] = [Uuid::new_v4(), Uuid::new_v4()].map(|id| id.to_string());
        Self { trace_id, correlation_id, time: format!("{}Z", clock::timestamp(now).replace('T', " ")) }
    }
}

fn text(number: u32, description: &str, trace: &Trace) -> String {
    let Trace { trace_id, correlation_id, time } = trace;
    format!(
        "AADSTS{number}: {description} Trace ID: {trace_id} Correlation ID: {correlation_id} Timestamp: {time}"
    )
}

pub(crate) fn body(error: &str, number: u32, description: &str, now: u64) -> Value {
    let trace = Trace::new(now);
    json!({
        "error": error,
        "error_description": text(number, description, &trace),
        "error_codes": [number],
        "timestamp": trace.time,
        "trace_id": trace.trace_id,
        "correlation_id": trace.correlation_id,
        "error_uri": format!("https://login.microsoftonline.com/error?code={number}"),
    })
}

pub(crate) fn json_answer(status: u16, body: &Value) -> Answer {
    answer(status, "application/json; charset=utf-8", body.to_string())
}

pub(crate) fn html(status: u16, page: &str) -> Answer {
    answer(status, "text/html; charset=utf-8", page.to_owned())
}

pub(crate) fn answer(status: u16, content_type: &str, body: String) -> Answer {
    let response = Response::builder().status(status).header(CONTENT_TYPE, content_type);
    response
        .header("cache-control", "no-store, no-cache")
        .body(Full::new(Bytes::from(body)))
        .unwrap_or_default()
}

/// Escapes text for HTML and its attributes.
pub(crate) fn escaped(text: &str) -> String {
    let escapes = [("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("\"", "&quot;")];
    escapes.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}
