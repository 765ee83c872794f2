//! Azure Relay Hybrid Connections, as the Microsoft Learn article "Azure Relay Hybrid Connections protocol" (here: the
//! protocol guide) describes them.

pub(crate) mod bridge;
pub(crate) mod error;
pub(crate) mod fault;
pub(crate) mod listener;
pub(crate) mod observations;

pub(crate) mod rendezvous;
pub(crate) mod sas;
pub(crate) mod sender;
pub(crate) mod websocket;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use tokio::sync::{mpsc, watch};
use uuid::Uuid;

use crate::clock::Clock;
use crate::encoding::decode;
use crate::fault_queue::FaultQueue;
use crate::journal::{Service, lock};
use crate::relay::error::{RelayError, Tracking};
use crate::relay::fault::{RelayFault, Tail};
use crate::relay::observations::Observations;
use crate::relay::rendezvous::Rendezvous;
use crate::relay::sas::{AccessRight, Requirement, SasKey};
use crate::server::{Answer, Call, Handler};

/// The start of every WebSocket path.
const PATH_PREFIX: &str = "/$hc/";

/// The relay's host name if it listens on ::1. `.test` is reserved for tests (RFC 6761, section 6.2).
pub(crate) const IPV6_HOST: &str = "ipv6.relay.test";

/// The address of the namespace, in the two parts that listCredentials returns.
#[derive(Clone, Debug)]
pub(crate) struct Namespace {
    pub(crate) name: String,
    pub(crate) suffix: String,
}

impl Namespace {
    /// Splits `address` so that `{name}.{suffix}` is the address. An IPv6 address has no dots: for ::1 the host is
    /// [`IPV6_HOST`], which the client must resolve.
    pub(crate) fn at(address: SocketAddr) -> anyhow::Result<Self> {
        let (host, port) = (address.ip(), address.port());
        match host {
            IpAddr::V4(host) => {
                let [first, rest @ ..] = host.octets();
                let [b, c, d] = rest;
                Ok(Self { name: first.to_string(), suffix: format!("{b}.{c}.{d}:{port}") })
            }
            IpAddr::V6(host) if host.is_loopback() => {
                let (name, suffix) = IPV6_HOST.split_once('.').context("the host has no suffix")?;
                Ok(Self { name: name.to_owned(), suffix: format!("{suffix}:{port}") })
            }
            IpAddr::V6(host) => bail!("{host} has no name; use ::1"),
        }
    }

    /// The DNS suffix without the port.
    pub(crate) fn domain(&self) -> &str {
        self.suffix.split(':').next().unwrap_or_default()
    }

    /// Host and port, as a client joins them.
    pub(crate) fn authority(&self) -> String {
        format!("{}.{}", self.name, self.suffix)
    }
}

/// The state of the relay.
pub(crate) struct Relay {
    pub(crate) address: SocketAddr,
    pub(crate) namespace: Namespace,
    pub(crate) sender_key: SasKey,
    pub(crate) listener_key: SasKey,
    pub(crate) observations: Arc<Observations>,
    pub(crate) clock: Clock,
    /// How long a sender waits for its listener.
    rendezvous_time: Duration,
    /// The hosts that the resource of a token may have.
    authorities: Vec<String>,
    hybrid_connections: Mutex<HashMap<String, Arc<HybridConnection>>>,
    rendezvous: Mutex<HashMap<String, Rendezvous>>,
    pub(crate) faults: FaultQueue<RelayFault>,
    pub(crate) tail: Option<Tail>,
}

/// Whether a hybrid connection exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ConnectionState {
    Alive,
    /// It does not exist any more, and its control channels are closed. Open connections stay open.
    ListenersDropped,
    /// It was deleted, and all its sockets close.
    Deleted,
}

/// The time in which a hybrid connection exists.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Validity {
    pub(crate) from: Instant,
    pub(crate) until: Option<Instant>,
}

impl Validity {
    fn includes(self, moment: Instant) -> bool {
        self.from <= moment && self.until.is_none_or(|until| moment < until)
    }
}

/// The name at which listeners register and to which senders connect.
pub(crate) struct HybridConnection {
    pub(crate) name: String,
    validity: Validity,
    state: watch::Sender<ConnectionState>,
    listeners: Mutex<Vec<ControlChannel>>,
}

/// A registered listener.
#[derive(Clone)]
pub(crate) struct ControlChannel {
    id: Uuid,
    messages: mpsc::Sender<String>,
}

impl Relay {
    pub(crate) fn new(
        address: SocketAddr,
        rendezvous_time: Duration,
        clock: Clock,
        tail: Option<Tail>,
    ) -> anyhow::Result<Self> {
        let now = clock.unix_seconds();
        let namespace = Namespace::at(address)?;
        Ok(Self {
            authorities: vec![
                namespace.authority(),
                address.to_string(),
                format!("localhost:{}", address.port()),
            ],
            address,
            namespace,
            sender_key: SasKey::generate(AccessRight::Send, now),
            listener_key: SasKey::generate(AccessRight::Listen, now),
            observations: Arc::default(),
            clock,
            rendezvous_time,
            hybrid_connections: Mutex::default(),
            rendezvous: Mutex::default(),
            faults: FaultQueue::default(),
            tail,
        })
    }

    /// Returns the resource of a token for `name` in Arc's form: `http`, and a slash at the end (azure-powershell recorded
    /// session TestGetArcConfig.json).
    pub(crate) fn resource(&self, name: &str) -> String {
        format!("http://{}/{name}/", self.namespace.authority())
    }

    /// Creates the hybrid connection `name`. Clients see it during its `validity`.
    pub(crate) fn create(&self, name: &str, validity: Validity) {
        let created = HybridConnection {
            name: name.to_owned(),
            validity,
            state: watch::Sender::new(ConnectionState::Alive),
            listeners: Mutex::default(),
        };
        lock(&self.hybrid_connections).insert(name.to_owned(), Arc::new(created));
    }

    /// Deletes the hybrid connection `name`.
    pub(crate) fn delete(&self, name: &str, state: ConnectionState) {
        if let Some(deleted) = lock(&self.hybrid_connections).remove(name) {
            deleted.state.send_replace(state);
        }
    }

    /// Returns the hybrid connection of `path`: its name, possibly followed by a suffix.
    fn find(&self, path: &str) -> Option<Arc<HybridConnection>> {
        let named = lock(&self.hybrid_connections);
        let found = path_and_parents(path).find_map(|name| named.get(name))?;
        found.validity.includes(Instant::now()).then(|| Arc::clone(found))
    }

    /// Checks the token of `call`, which may be in three places (protocol guide, "Request operation").
    fn authorize(&self, call: &Call, path: &str, right: AccessRight) -> Result<u64, RelayError> {
        let token = call
            .query
            .value("sb-hc-token")
            .or_else(|| call.header("servicebusauthorization"))
            .or_else(|| call.header("authorization"));
        self.check_token(token, path, right)
    }

    fn check_token(&self, token: Option<&str>, path: &str, right: AccessRight) -> Result<u64, RelayError> {
        let keys = [self.sender_key.clone(), self.listener_key.clone()];
        let (authorities, now) = (self.authorities.as_slice(), self.clock.unix_seconds());
        sas::check(token, &keys, &Requirement { authorities, path, right, now })
    }
}

impl HybridConnection {
    fn register(&self, channel: ControlChannel) -> Result<(), RelayError> {
        /// azure-docs `articles/azure-relay/relay-faq.md`, quotas.
        const MAX_LISTENERS: usize = 25;
        let mut listeners = lock(&self.listeners);
        if listeners.len() >= MAX_LISTENERS {
            // No source has the answer above the quota.
            return Err(RelayError::new(403, "QuotaExceeded: Too many listeners."));
        }
        listeners.push(channel);
        Ok(())
    }

    fn deregister(&self, id: Uuid) {
        lock(&self.listeners).retain(|listener| listener.id != id);
    }

    /// One of the listeners, at random.
    fn any_listener(&self) -> Option<ControlChannel> {
        let listeners = lock(&self.listeners);
        let random = Uuid::new_v4().as_u128() % (listeners.len().max(1) as u128);
        listeners.get(random as usize).cloned()
    }
}

/// `a/b/c`, `a/b`, `a`.
fn path_and_parents(path: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(path), |path| path.rsplit_once('/').map(|(parent, _)| parent))
}

impl Handler for Relay {
    const SERVICE: Service = Service::Relay;

    fn clock(&self) -> Clock {
        self.clock
    }

    async fn answer(self: Arc<Self>, call: Call) -> Answer {
        let id = call.query.value("sb-hc-id").map_or_else(|| Uuid::new_v4().to_string(), str::to_owned);
        let path = decode(call.path.strip_prefix(PATH_PREFIX).unwrap_or_default());
        let authority = self.namespace.authority();
        let now = self.clock.unix_seconds();
        let tracking = Tracking { id: &id, namespace: &authority, path: &path, now };
        let error = if websocket::upgrade_key(&call.headers).is_none() {
            RelayError::new(400, "This endpoint is only for web-socket requests")
        } else if path.is_empty() {
            // The text is the protocol guide's description of 404.
            RelayError::new(404, "The Hybrid Connection path is invalid or the base URL is malformed.")
        } else {
            match call.query.value("sb-hc-action") {
                Some("connect") => return sender::connect(self, call, &tracking).await,
                Some("listen") => return listener::listen(self, call, &tracking),
                Some("accept") => return rendezvous::accept(&self, call, &tracking),
                // The text is the protocol guide's description of an invalid rendezvous URL.
                _ => RelayError::new(400, "Unrecognized action or URL not valid."),
            }
        };
        error.tracked(&tracking)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_parts_of_a_namespace_form_its_address() {
        let authority = |address: &str| Namespace::at(address.parse().unwrap()).unwrap().authority();
        assert_eq!(authority("127.0.0.1:5671"), "127.0.0.1:5671");
        assert_eq!(authority("[::1]:5671"), "ipv6.relay.test:5671");
    }

    #[test]
    fn a_path_is_tried_with_and_without_its_suffix() {
        assert_eq!(path_and_parents("a/b/c").collect::<Vec<_>>(), ["a/b/c", "a/b", "a"]);
    }
}
