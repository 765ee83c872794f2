//! The CONNECT method of an HTTP proxy (RFC 9110, section 9.3.6).

use http::HeaderValue;
use http::uri::Authority;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

use crate::net::NetError;
use crate::net::error::{Cause, chain};
use crate::net::http_head::{self, Head};
use crate::net::proxy::Proxy;

/// The responses of the proxy in this process.
#[derive(Debug, Default)]
pub(super) struct Responses {
    /// Whether it has opened a tunnel: then user name and password are right.
    is_accepted: bool,
    rejections: Vec<NetError>,
}

impl Responses {
    pub(super) fn is_accepted(&self) -> bool {
        self.is_accepted
    }

    /// Returns why the proxy would reject a tunnel to `target`. 407 rejects the user, whatever the host. Before the first
    /// tunnel, 401 and 403 can do so as well: tinyproxy rejects a wrong password with 401.
    pub(super) fn rejection(&self, proxy: &Proxy, target: &Authority) -> Option<&NetError> {
        let is_user_in_doubt = proxy.authorization.is_some() && !self.is_accepted;
        self.rejections.iter().find(|error| match error {
            NetError::ProxyRejected { host, status, .. } => {
                is_user_in_doubt || *status == Some(407) || *host == with_port(target)
            }
            _ => false,
        })
    }

    /// Adds the result of an attempt.
    pub(super) fn add(&mut self, error: Option<&NetError>) {
        self.is_accepted |= error.is_none();
        let rejection = error.filter(|error| matches!(error, NetError::ProxyRejected { .. }));
        self.rejections.extend(rejection.filter(|error| !error.is_transient()).cloned());
    }
}

fn with_port(target: &Authority) -> String {
    match target.port() {
        Some(_) => target.to_string(),
        None => format!("{target}:443"),
    }
}

/// Opens a tunnel to `target`, and reads exactly the proxy's response: what follows belongs to the tunnel.
///
/// # Errors
/// [`NetError::ProxyRejected`].
pub(crate) async fn open_tunnel<T>(
    transport: &mut T,
    proxy: &Authority,
    target: &Authority,
    authorization: Option<&HeaderValue>,
) -> Result<(), NetError>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let target = with_port(target);
    let rejected = |status, cause: String| NetError::ProxyRejected {
        proxy: proxy.to_string(),
        host: target.clone(),
        status,
        cause: Cause::Failure(cause),
    };
    let mut request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n").into_bytes();
    if let Some(basic) = authorization {
        request.extend_from_slice(b"Proxy-Authorization: ");
        request.extend_from_slice(basic.as_bytes());
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(b"\r\n");
    let sent = async {
        transport.write_all(&request).await?;
        transport.flush().await
    };
    sent.await.map_err(|error| rejected(None, error.to_string()))?;
    let head = http_head::read(transport).await.map_err(|error| rejected(None, chain(error.as_ref())))?;
    let Head { status, reason, read_ahead, .. } = head;
    if !(200..300).contains(&status) {
        return Err(rejected(Some(status), format!("the proxy responded {status} {reason}")));
    }
    // In TLS, the client sends first: nothing can have come through the tunnel yet.
    if read_ahead.is_empty() {
        Ok(())
    } else {
        Err(rejected(None, "the proxy sent data before the server".into()))
    }
}
