//! The CONNECT method of an HTTP proxy (RFC 9110, section 9.3.6). `hyper_util` selects the proxy of a host (`HTTPS_PROXY`,
//! `ALL_PROXY`, `NO_PROXY`). Its own CONNECT drops the status of an error.

use http::HeaderValue;
use http::uri::Authority;
use hyper_util::client::proxy::matcher::Intercept;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

use crate::net::NetError;
use crate::net::error::chain;
use crate::net::http_head::{self, Head};

/// The address of a proxy.
pub(crate) struct Address {
    /// Host and port.
    pub(crate) host: Authority,
    /// Whether the connection to the proxy uses TLS (`https://`).
    pub(crate) is_tls: bool,
}

/// Returns the address of an HTTP proxy.
///
/// # Errors
/// The environment names a SOCKS proxy.
pub(crate) fn address(proxy: &Intercept) -> Result<Address, NetError> {
    let uri = proxy.uri();
    let Some(host) = uri.authority().cloned() else {
        return Err(NetError::UnsupportedProxy(uri.to_string()));
    };
    match uri.scheme_str() {
        Some("http") => Ok(Address { host, is_tls: false }),
        Some("https") => Ok(Address { host, is_tls: true }),
        other => Err(NetError::UnsupportedProxy(format!("{}://{host}", other.unwrap_or_default()))),
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
    let target = match target.port() {
        Some(_) => target.to_string(),
        None => format!("{target}:443"),
    };
    let rejected = |status, cause| NetError::ProxyRejected {
        proxy: Some(proxy.to_string()),
        host: target.clone(),
        status,
        cause,
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
