//! The sender's handshake: `sb-hc-action=connect`.

use std::future::pending;
use std::sync::Arc;

use serde_json::{Map, Value, json};
use tokio::sync::{oneshot, watch};

use crate::encoding::encode;
use crate::relay::error::{RelayError, Tracking};
use crate::relay::fault::{RelayFault, Tail};
use crate::relay::observations::OpenConnection;
use crate::relay::rendezvous::{Accepted, Decision, Rendezvous};
use crate::relay::sas::AccessRight;
use crate::relay::{ConnectionState, HybridConnection, PATH_PREFIX, Relay, bridge, websocket};
use crate::server::{Answer, Call};

/// Answers a sender: 101 when a listener has accepted it, else an error.
pub(crate) async fn connect(relay: Arc<Relay>, call: Call, tracking: &Tracking<'_>) -> Answer {
    let tail = || relay.tail.as_ref().map(Tail::next);
    let fault = relay.faults.next(|_| true).or_else(tail).unwrap_or_default();
    let unanswered = relay.observations.unanswered();
    if fault.silent_handshake {
        return pending().await;
    }
    tokio::time::sleep(fault.handshake_delay).await;
    let answer = answer(relay, call, tracking, fault).await;
    unanswered.answered();
    answer
}

async fn answer(relay: Arc<Relay>, call: Call, tracking: &Tracking<'_>, fault: RelayFault) -> Answer {
    let hybrid_connection = match authorize_sender(&relay, &call, tracking, &fault) {
        Ok(hybrid_connection) => hybrid_connection,
        Err(error) => return error.tracked(tracking),
    };
    match invite_listener(&relay, &hybrid_connection, &call, tracking).await {
        Ok(Decision::Accepted(listener)) => join(&relay, &hybrid_connection, call, listener, fault),
        Ok(Decision::Rejected(rejection)) => rejection.verbatim(),
        Err(error) => error.tracked(tracking),
    }
}

/// Checks the token, then the name. No source has the order.
fn authorize_sender(
    relay: &Relay,
    call: &Call,
    tracking: &Tracking,
    fault: &RelayFault,
) -> Result<Arc<HybridConnection>, RelayError> {
    if let Some((status, reason)) = &fault.rejection {
        return Err(RelayError::new(*status, reason));
    }
    relay.authorize(call, tracking.path, AccessRight::Send)?;
    relay.find(tracking.path).ok_or_else(|| RelayError::new(404, "Endpoint does not exist."))
}

/// Sends the accept message to one listener and waits for its decision.
async fn invite_listener(
    relay: &Relay,
    hybrid_connection: &HybridConnection,
    call: &Call,
    tracking: &Tracking<'_>,
) -> Result<Decision, RelayError> {
    let (decide, decision) = oneshot::channel();
    let rendezvous_id = relay.open_rendezvous(tracking.id, Rendezvous { decide });
    let pending = PendingRendezvous { relay, id: &rendezvous_id };
    let notification = accept_message(relay, call, tracking, &rendezvous_id).to_string();
    loop {
        let none = || RelayError::new(404, "There are no listeners connected for the endpoint.");
        let listener = hybrid_connection.any_listener().ok_or_else(none)?;
        if listener.messages.send(notification.clone()).await.is_ok() {
            break;
        }
        hybrid_connection.deregister(listener.id);
    }
    let decision = tokio::time::timeout(relay.rendezvous_time, decision).await;
    drop(pending);
    // azure-relay-dotnet WebSocketExceptionHelper.cs maps 504 to a timeout. No source has the text.
    let timeout = || RelayError::new(504, "The listener did not accept the connection in time.");
    decision.ok().and_then(Result::ok).ok_or_else(timeout)
}

/// Invalidates the rendezvous address when the sender stops waiting.
struct PendingRendezvous<'a> {
    relay: &'a Relay,
    id: &'a str,
}

impl Drop for PendingRendezvous<'_> {
    fn drop(&mut self) {
        self.relay.close_rendezvous(self.id);
    }
}

/// The accept message (protocol guide, "Accept message"; `remoteEndpoint` from azure-relay-dotnet ListenerCommand.cs).
fn accept_message(relay: &Relay, call: &Call, tracking: &Tracking, rendezvous_id: &str) -> Value {
    let own_arguments = call.query.without_prefix("sb-hc-");
    let mut query = own_arguments;
    query.push("sb-hc-action=accept".to_owned());
    query.push(format!("sb-hc-id={}", encode(rendezvous_id)));
    let address =
        format!("wss://{}{PATH_PREFIX}{}?{}", relay.address, url_path(tracking.path), query.join("&"));
    json!({ "accept": {
        "address": address,
        "id": rendezvous_id,
        "connectHeaders": connect_headers(call),
        "remoteEndpoint": { "address": call.peer.ip().to_string(), "port": call.peer.port() },
    }})
}

/// Encodes a path without its slashes.
fn url_path(path: &str) -> String {
    path.split('/').map(encode).collect::<Vec<_>>().join("/")
}

/// Returns the headers of the sender without its relay token: `ServiceBusAuthorization` is always removed,
/// `Authorization` only if it has the token (protocol guide, "Request operation").
fn connect_headers(call: &Call) -> Map<String, Value> {
    let own_token =
        call.query.value("sb-hc-token").is_some() || call.headers.contains_key("servicebusauthorization");
    let passed_on = |name: &str| name != "servicebusauthorization" && (own_token || name != "authorization");
    let headers = call.headers.iter().filter(|(name, _)| passed_on(name.as_str()));
    headers
        .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into()))
        .collect()
}

/// Answers 101 and spawns a task that connects the two sockets.
fn join(
    relay: &Arc<Relay>,
    hybrid_connection: &HybridConnection,
    call: Call,
    listener: Accepted,
    fault: RelayFault,
) -> Answer {
    let key = websocket::upgrade_key(&call.headers).unwrap_or_default();
    let answer = websocket::switching_protocols(key, listener.subprotocol.as_deref());
    let open = relay.observations.opened();
    let state = hybrid_connection.state.subscribe();
    tokio::spawn(joined(Arc::clone(relay), call, listener, fault, state, open));
    answer
}

async fn joined(
    relay: Arc<Relay>,
    call: Call,
    listener: Accepted,
    fault: RelayFault,
    state: watch::Receiver<ConnectionState>,
    open: OpenConnection,
) {
    let sockets = tokio::try_join!(websocket::socket(call.upgrade), websocket::socket(listener.upgrade));
    if let Ok((sender, listener)) = sockets {
        bridge::join(sender, listener, &fault, state, &relay.observations).await;
    }
    drop(open);
}
