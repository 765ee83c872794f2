//! The server side of RFC 6455: upgrade, 101, socket and closing handshake.

use std::time::Duration;

use anyhow::anyhow;
use futures_util::{SinkExt as _, StreamExt as _};
use http_body_util::Full;
use hyper::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_PROTOCOL, UPGRADE};
use hyper::upgrade::OnUpgrade;
use hyper::{HeaderMap, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};

use crate::relay::observations::SenderEnd;
use crate::server::Answer;

/// A WebSocket with a client of the relay.
pub(crate) type Socket = WebSocketStream<TlsStream<TcpStream>>;

/// How long a peer may take to answer a Close frame.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Returns the key of a WebSocket upgrade; `None` for another request.
pub(crate) fn upgrade_key(headers: &HeaderMap) -> Option<&str> {
    let header = |name: &str| headers.get(name)?.to_str().ok();
    let has = |name, expected: &str| {
        header(name)
            .is_some_and(|value| value.split(',').any(|part| part.trim().eq_ignore_ascii_case(expected)))
    };
    let upgrade = has("upgrade", "websocket") && has("connection", "upgrade");
    (upgrade && has("sec-websocket-version", "13")).then(|| header("sec-websocket-key")).flatten()
}

/// The answer 101 to a WebSocket upgrade.
pub(crate) fn switching_protocols(key: &str, subprotocol: Option<&str>) -> Answer {
    let mut response = Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(CONNECTION, "Upgrade")
        .header(UPGRADE, "websocket")
        .header(SEC_WEBSOCKET_ACCEPT, derive_accept_key(key.as_bytes()));
    if let Some(subprotocol) = subprotocol {
        response = response.header(SEC_WEBSOCKET_PROTOCOL, subprotocol);
    }
    response.body(Full::default()).unwrap_or_default()
}

/// Returns the WebSocket after the 101 has been sent.
pub(crate) async fn socket(upgrade: OnUpgrade) -> anyhow::Result<Socket> {
    let upgraded = upgrade.await?;
    let parts = upgraded
        .downcast::<TokioIo<TlsStream<TcpStream>>>()
        .map_err(|_| anyhow!("the upgraded connection is not the server's own type"))?;
    let (stream, read) = (parts.io.into_inner(), parts.read_buf.to_vec());
    Ok(WebSocketStream::from_partially_read(stream, read, Role::Server, Some(no_size_limit())).await)
}

/// A configuration without a limit on messages: the protocol guide has none.
pub(crate) fn no_size_limit() -> WebSocketConfig {
    WebSocketConfig::default().max_message_size(None).max_frame_size(None)
}

/// Sends a Close frame, waits for the peer's answer for [`CLOSE_TIMEOUT`] and closes the connection. Returns whether the
/// peer answered.
pub(crate) async fn close(socket: &mut Socket, (code, reason): (u16, &str)) -> SenderEnd {
    let frame = CloseFrame { code: code.into(), reason: reason.into() };
    let closing = async {
        let socket = &mut *socket;
        socket.send(Message::Close(Some(frame))).await.ok()?;
        while let Some(message) = socket.next().await {
            if let Message::Close(_) = message.ok()? {
                return Some(SenderEnd::Answered);
            }
        }
        None
    };
    let end = tokio::time::timeout(CLOSE_TIMEOUT, closing).await.ok().flatten();
    shut_down(socket).await;
    end.unwrap_or(SenderEnd::Dropped)
}

/// Reads to the end a socket whose peer has sent a Close frame. tungstenite writes the answer to that frame.
pub(crate) async fn drain(socket: &mut Socket) {
    let reading = async { while let Some(Ok(_)) = socket.next().await {} };
    let _ = tokio::time::timeout(CLOSE_TIMEOUT, reading).await;
    shut_down(socket).await;
}

/// Sends the TLS close_notify, without which the peer would report a truncated stream. Errors of a closed connection are
/// ignored.
async fn shut_down(socket: &mut Socket) {
    let _ = tokio::time::timeout(CLOSE_TIMEOUT, socket.get_mut().shutdown()).await;
}
