//! What happened: every request with its answer, and every secret that was handed out.
//!
//! Knows no service; the rooms write here and tests read.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use hyper::{HeaderMap, Method};

/// Which of the emulated parties a request came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// Entra ID, and the endpoints at which machines ask for its tokens: their paths begin with `/metadata`.
    Entra,
    /// Azure Resource Manager.
    Arm,
    /// Azure Relay: senders, listeners and rendezvous sockets.
    Relay,
    /// The Arc agent: an accept notification, its headers those that the sender sent.
    Agent,
}

/// One request, in the order in which it arrived.
#[derive(Clone, Debug)]
pub struct RequestRecord {
    /// When it had been read to its end, on the clock of this machine.
    pub arrived: Instant,
    /// Who was asked.
    pub service: Service,
    /// The HTTP method; `accept` for a notification to the agent.
    pub method: String,
    /// Path and query as they were on the wire.
    pub path_and_query: String,
    /// Header names in lower case, with their values.
    pub headers: Vec<(String, String)>,
    /// The body, as text.
    pub body: String,
    /// The answer's status; `None` while there is none, or if the client left before it.
    pub status: Option<u16>,
}

impl RequestRecord {
    /// The value of the header `name`, compared without case.
    pub fn header(&self, name: &str) -> Option<&str> {
        find_header(&self.headers, name)
    }
}

pub(crate) fn find_header<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
}

/// The requests and secrets of one emulator.
#[derive(Debug, Default)]
pub(crate) struct Journal {
    requests: Mutex<Vec<RequestRecord>>,
    secrets: Mutex<Vec<String>>,
}

impl Journal {
    /// Notes a request that has just arrived; the number is for [`Journal::answered`].
    pub(crate) fn arrived(&self, record: RequestRecord) -> usize {
        let mut requests = lock(&self.requests);
        requests.push(record);
        requests.len() - 1
    }

    /// Notes the answer to a request.
    pub(crate) fn answered(&self, number: usize, status: u16) {
        if let Some(record) = lock(&self.requests).get_mut(number) {
            record.status = Some(status);
        }
    }

    /// All requests so far.
    pub(crate) fn requests(&self) -> Vec<RequestRecord> {
        lock(&self.requests).clone()
    }

    /// Notes a secret, once.
    pub(crate) fn record_secret(&self, secret: impl Into<String>) {
        let (secret, mut secrets) = (secret.into(), lock(&self.secrets));
        if !secret.is_empty() && !secrets.contains(&secret) {
            secrets.push(secret);
        }
    }

    /// All secrets so far.
    pub(crate) fn secrets(&self) -> Vec<String> {
        lock(&self.secrets).clone()
    }
}

/// A record of an HTTP request that has not been answered yet.
pub(crate) fn record(
    service: Service,
    method: &Method,
    path_and_query: &str,
    headers: &HeaderMap,
    body: &[u8],
) -> RequestRecord {
    let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
    RequestRecord {
        arrived: Instant::now(),
        service,
        method: method.to_string(),
        path_and_query: path_and_query.to_owned(),
        headers: headers.iter().map(|(name, value)| (name.to_string(), text(value.as_bytes()))).collect(),
        body: text(body),
        status: None,
    }
}

/// Locks; a panic elsewhere while holding the lock leaves the data usable here, because every write is a single step.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
