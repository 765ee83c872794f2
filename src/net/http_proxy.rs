//! The CONNECT method of an HTTP proxy (RFC 9110, section 9.3.6). `hyper_util` selects the proxy of a host (`HTTPS_PROXY`,
//! `ALL_PROXY`, `NO_PROXY`). Its own CONNECT drops the status of an error.

use anyhow::{Context, Result, bail, ensure};
use http::HeaderValue;
use http::uri::Authority;
use hyper_util::client::proxy::matcher::Intercept;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

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
pub(crate) fn address(proxy: &Intercept) -> Result<Address> {
    let uri = proxy.uri();
    let host = uri.authority().context("the proxy has no host")?.clone();
    match uri.scheme_str() {
        Some("http") => Ok(Address { host, is_tls: false }),
        Some("https") => Ok(Address { host, is_tls: true }),
        other => bail!(UnsupportedProxy(format!("{}://{host}", other.unwrap_or_default()))),
    }
}

/// Opens a tunnel to `target`.
///
/// # Errors
/// [`Refused`]: the status of the proxy's response is not 2xx.
pub(crate) async fn open_tunnel<T>(
    proxy: &mut T,
    target: &Authority,
    authorization: Option<&HeaderValue>,
) -> Result<()>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let target = match target.port() {
        Some(_) => target.to_string(),
        None => format!("{target}:443"),
    };
    let mut request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n").into_bytes();
    if let Some(basic) = authorization {
        request.extend_from_slice(b"Proxy-Authorization: ");
        request.extend_from_slice(basic.as_bytes());
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(b"\r\n");
    proxy.write_all(&request).await?;
    proxy.flush().await?;

    let Head { status, reason, read_ahead, .. } = http_head::read(proxy).await?;
    if !(200..300).contains(&status) {
        bail!(Refused { target, status, reason });
    }
    // In TLS the client sends first, so the tunnel has carried nothing yet.
    ensure!(read_ahead.is_empty(), "it answered more than a tunnel's opening");
    Ok(())
}

/// A response of a proxy with a status other than 2xx.
#[derive(Debug, thiserror::Error)]
#[error("it answered {status} {reason}")]
pub(crate) struct Refused {
    /// Host and port of the target.
    pub(crate) target: String,
    /// The HTTP status; 407 requires a user and a password.
    pub(crate) status: u16,
    /// The reason phrase.
    pub(crate) reason: String,
}

/// The environment names a proxy that is not an HTTP proxy.
#[derive(Debug, thiserror::Error)]
#[error("{0} is not an HTTP proxy")]
pub(crate) struct UnsupportedProxy(String);
