//! A record of every request with the status of its answer, and of every secret.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use hyper::{HeaderMap, Method};

/// The emulated service that received a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// Entra ID, and the metadata services of machines, whose paths begin with `/metadata`.
    Entra,
    /// Azure Resource Manager.
    Arm,
    /// Azure Relay: senders, listeners and rendezvous sockets.
    Relay,
    /// The Arc agent. A request is an accept message with the headers of the sender.
    Agent,
}

/// One request.
#[derive(Clone, Debug)]
pub struct RequestRecord {
    /// When the whole request had been read, on the clock of this machine.
    pub arrived: Instant,
    /// The service that received the request.
    pub service: Service,
    /// The HTTP method; `accept` for an accept message.
    pub method: String,
    /// Path and query, still encoded.
    pub path_and_query: String,
    /// Header names in lower case, with their values.
    pub headers: Vec<(String, String)>,
    /// The body, as text.
    pub body: String,
    /// The status of the answer; `None` if the client has not received one.
    pub status: Option<u16>,
}

impl RequestRecord {
    /// Returns the value of the header `name`, compared without case.
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
    /// Adds a request. Returns its number for [`Journal::answered`].
    pub(crate) fn arrived(&self, record: RequestRecord) -> usize {
        let mut requests = lock(&self.requests);
        requests.push(record);
        requests.len() - 1
    }

    /// Adds the status of the answer to a request.
    pub(crate) fn answered(&self, number: usize, status: u16) {
        if let Some(record) = lock(&self.requests).get_mut(number) {
            record.status = Some(status);
        }
    }

    pub(crate) fn requests(&self) -> Vec<RequestRecord> {
        lock(&self.requests).clone()
    }

    /// Adds a secret, unless it is empty or recorded already.
    pub(crate) fn record_secret(&self, secret: impl Into<String>) {
        let (secret, mut secrets) = (secret.into(), lock(&self.secrets));
        if !secret.is_empty() && !secrets.contains(&secret) {
            secrets.push(secret);
        }
    }

    pub(crate) fn secrets(&self) -> Vec<String> {
        lock(&self.secrets).clone()
    }
}

/// The record of an HTTP request without an answer.
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

/// Locks `mutex`, even if a thread panicked while it held the lock: every write is a single step, so the data is valid.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
