//! The listener's answer to an accept message: `sb-hc-action=accept`.

use hyper::upgrade::OnUpgrade;
use tokio::sync::oneshot;
use uuid::Uuid;

use crate::journal::lock;
use crate::relay::error::{RelayError, Tracking};
use crate::relay::{Relay, websocket};
use crate::server::{Answer, Call};

/// A sender that waits for its listener.
pub(crate) struct Rendezvous {
    pub(crate) decide: oneshot::Sender<Decision>,
}

/// The decision of the listener.
pub(crate) enum Decision {
    Accepted(Accepted),
    Rejected(RelayError),
}

/// The listener's side of the connection, before the upgrade.
pub(crate) struct Accepted {
    pub(crate) upgrade: OnUpgrade,
    pub(crate) subprotocol: Option<String>,
}

impl Relay {
    /// Adds a waiting sender. Returns the rendezvous ID: the sender's ID and two gateway numbers, as in `GUID_G0_G1`. The
    /// last number is random, because two senders may use the same ID.
    pub(crate) fn open_rendezvous(&self, sender_id: &str, rendezvous: Rendezvous) -> String {
        let id = format!("{sender_id}_G13_G{}", Uuid::new_v4().as_u128() as u32);
        lock(&self.rendezvous).insert(id.clone(), rendezvous);
        id
    }

    /// Removes and returns the sender that waits at `id`. A rendezvous address works once.
    pub(crate) fn close_rendezvous(&self, id: &str) -> Option<Rendezvous> {
        lock(&self.rendezvous).remove(id)
    }
}

/// Answers a listener that connects to a rendezvous address. The ID authorizes the listener.
pub(crate) fn accept(relay: &Relay, call: Call, tracking: &Tracking) -> Answer {
    let Some(rendezvous) = relay.close_rendezvous(tracking.id) else {
        return RelayError::new(403, "The URL is not valid.").tracked(tracking);
    };
    match rejection(&call) {
        Some(rejection) => {
            let _ = rendezvous.decide.send(Decision::Rejected(rejection));
            // "This handshake intentionally fails with an HTTP error code 410" (protocol guide, "Rejecting the socket").
            RelayError::new(410, "Gone").tracked(tracking)
        }
        None => accepted(call, rendezvous, tracking),
    }
}

/// Returns the status and text of a rejection, if the listener added them to the address.
fn rejection(call: &Call) -> Option<RelayError> {
    let status = call.query.value("sb-hc-statusCode")?;
    let text = call.query.value("sb-hc-statusDescription").unwrap_or_default();
    Some(RelayError::new(status.parse().unwrap_or(500), text))
}

/// Accepts the sender. The subprotocol that the listener names goes to both sides. Extensions are never negotiated,
/// because this relay reads the frames.
fn accepted(call: Call, rendezvous: Rendezvous, tracking: &Tracking) -> Answer {
    let key = websocket::upgrade_key(&call.headers).unwrap_or_default();
    let subprotocol = call.header("sec-websocket-protocol").and_then(|offered| offered.split(',').next());
    let subprotocol = subprotocol.map(|name| name.trim().to_owned());
    let answer = websocket::switching_protocols(key, subprotocol.as_deref());
    let decision = Decision::Accepted(Accepted { upgrade: call.upgrade, subprotocol });
    match rendezvous.decide.send(decision) {
        Ok(()) => answer,
        Err(_sender_left) => RelayError::new(403, "The URL is not valid.").tracked(tracking),
    }
}
