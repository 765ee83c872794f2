//! The listener's control channel: `sb-hc-action=listen`.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use hyper::upgrade::OnUpgrade;
use serde_json::Value;
use tokio::sync::{mpsc, watch};
use tokio_tungstenite::tungstenite::{Error, Message};
use uuid::Uuid;

use crate::clock::Clock;
use crate::relay::error::{RelayError, Tracking};
use crate::relay::sas::AccessRight;
use crate::relay::websocket::{self, Socket};
use crate::relay::{ConnectionState, ControlChannel, HybridConnection, Relay};
use crate::server::{Answer, Call};

/// The number of pending accept messages of a listener. Further senders wait.
const NOTIFICATION_CAPACITY: usize = 64;

/// Registers a listener. After the 101 it receives accept messages.
pub(crate) fn listen(relay: Arc<Relay>, call: Call, tracking: &Tracking) -> Answer {
    match register(&relay, &call, tracking) {
        Ok(control) => {
            let key = websocket::upgrade_key(&call.headers).unwrap_or_default();
            let answer = websocket::switching_protocols(key, None);
            tokio::spawn(control.run(relay, call.upgrade));
            answer
        }
        Err(error) => error.tracked(tracking),
    }
}

fn register(relay: &Relay, call: &Call, tracking: &Tracking) -> Result<Control, RelayError> {
    let expires = relay.authorize(call, tracking.path, AccessRight::Listen)?;
    let missing = || RelayError::new(404, "Endpoint does not exist.");
    let hybrid_connection = relay.find(tracking.path).ok_or_else(missing)?;
    let (messages, notifications) = mpsc::channel(NOTIFICATION_CAPACITY);
    let id = Uuid::new_v4();
    let state = hybrid_connection.state.subscribe();
    hybrid_connection.register(ControlChannel { id, messages })?;
    Ok(Control { id, hybrid_connection, notifications, state, expires, clock: relay.clock })
}

/// One control channel.
struct Control {
    id: Uuid,
    hybrid_connection: Arc<HybridConnection>,
    notifications: mpsc::Receiver<String>,
    state: watch::Receiver<ConnectionState>,
    /// When the newest token expires, in Unix seconds.
    expires: u64,
    clock: Clock,
}

/// An event on a control channel.
enum Event {
    Notification(String),
    Message(Option<Result<Message, Error>>),
    Deleted,
    Expired,
}

/// Code and reason of the Close frame with which the relay closes a control channel (protocol guide, status table).
type CloseReason = (u16, &'static str);

impl Drop for Control {
    fn drop(&mut self) {
        self.hybrid_connection.deregister(self.id);
    }
}

impl Control {
    async fn run(mut self, relay: Arc<Relay>, upgrade: OnUpgrade) {
        let Ok(mut socket) = websocket::socket(upgrade).await else { return };
        if let Some(reason) = self.serve_channel(&relay, &mut socket).await {
            self.hybrid_connection.deregister(self.id);
            websocket::close(&mut socket, reason).await;
        }
    }

    /// Serves the channel until it closes. Returns `None` if the listener closed it.
    async fn serve_channel(&mut self, relay: &Relay, socket: &mut Socket) -> Option<CloseReason> {
        loop {
            match self.next_event(socket).await {
                Event::Notification(text) => socket.send(Message::text(text)).await.ok()?,
                Event::Message(Some(Ok(Message::Text(text)))) => {
                    if let Err(reason) = self.renew(relay, &text) {
                        return Some(reason);
                    }
                }
                Event::Message(Some(Ok(Message::Close(_)) | Err(_)) | None) => return None,
                Event::Message(Some(Ok(_))) => {}
                Event::Deleted => {
                    return Some((1001, "The Hybrid Connection path has been deleted or disabled."));
                }
                Event::Expired => return Some((1008, "The security token has expired.")),
            }
        }
    }

    async fn next_event(&mut self, socket: &mut Socket) -> Event {
        let lifetime = Duration::from_secs(self.expires.saturating_sub(self.clock.unix_seconds()));
        tokio::select! {
            biased;
            _ = self.state.wait_for(|state| *state != ConnectionState::Alive) => Event::Deleted,
            Some(text) = self.notifications.recv() => Event::Notification(text),
            message = socket.next() => Event::Message(message),
            () = tokio::time::sleep(lifetime) => Event::Expired,
        }
    }

    /// Handles `{"renewToken":{"token":"…"}}`, which replaces the token. An invalid token closes the channel. Other
    /// messages are ignored.
    fn renew(&mut self, relay: &Relay, text: &str) -> Result<(), CloseReason> {
        let message: Value = serde_json::from_str(text).unwrap_or_default();
        let Some(renewal) = message.get("renewToken") else { return Ok(()) };
        let token = renewal["token"].as_str();
        let checked = relay.check_token(token, &self.hybrid_connection.name, AccessRight::Listen);
        self.expires = checked.map_err(|_| (1008, "The security token is not valid."))?;
        Ok(())
    }
}
