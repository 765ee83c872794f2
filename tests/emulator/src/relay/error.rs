//! The relay's answer to a handshake that fails: a status, and the cause in the HTTP reason phrase.

use http_body_util::Full;
use hyper::ext::ReasonPhrase;
use hyper::{Response, StatusCode};

use crate::clock;
use crate::server::Answer;

/// A status and the start of the reason phrase.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RelayError {
    pub(crate) status: u16,
    pub(crate) text: String,
}

/// The end of a reason phrase.
pub(crate) struct Tracking<'a> {
    /// The sender's `sb-hc-id`, or one that the relay generated.
    pub(crate) id: &'a str,
    /// `{namespace}.{suffix}`.
    pub(crate) namespace: &'a str,
    pub(crate) path: &'a str,
    /// Unix time in seconds.
    pub(crate) now: u64,
}

impl RelayError {
    pub(crate) fn new(status: u16, text: &str) -> Self {
        Self { status, text: text.to_owned() }
    }

    /// The relay's own error. The reason phrase has the form of those in logs of Microsoft's ssh proxy:
    /// `Endpoint does not exist. TrackingId:{id}_G13, SystemTracker:sb://{namespace}/{path}, Timestamp:2025-04-24T11:08:04`
    /// (`G13` numbers a gateway). The body is empty.
    pub(crate) fn tracked(&self, tracking: &Tracking) -> Answer {
        let text = self.text.trim_end_matches('.');
        let Tracking { id, namespace, path, now } = tracking;
        let time = clock::timestamp(*now);
        answer(
            self.status,
            &format!("{text}. TrackingId:{id}_G13, SystemTracker:sb://{namespace}/{path}, Timestamp:{time}"),
        )
    }

    /// A listener's rejection, unchanged.
    pub(crate) fn verbatim(&self) -> Answer {
        answer(self.status, &self.text)
    }
}

/// An answer without a body whose reason phrase is `phrase`.
fn answer(status: u16, phrase: &str) -> Answer {
    let mut answer = Response::new(Full::default());
    *answer.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let printable: String = phrase.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if let Ok(reason) = ReasonPhrase::try_from(printable) {
        answer.extensions_mut().insert(reason);
    }
    answer
}
