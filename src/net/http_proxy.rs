//! An HTTP proxy's CONNECT method (RFC 9110, section 9.3.6). Which proxy is meant for a host is the library's matter
//! (`hyper_util`'s matcher: `HTTPS_PROXY`, `ALL_PROXY`, `NO_PROXY`); here its tunnel is opened, and its refusal kept.

use anyhow::{Context, Result, bail, ensure};
use http::HeaderValue;
use http::uri::Authority;
use hyper_util::client::proxy::matcher::Intercept;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

use crate::net::http_head::{self, Head};

/// Where a proxy listens.
pub(crate) struct Address {
    /// Host and port.
    pub(crate) host: Authority,
    /// Whether the proxy itself is spoken to in TLS (`https://`).
    pub(crate) encrypted: bool,
}

/// The address of a proxy that speaks HTTP.
///
/// # Errors
/// The environment names a SOCKS proxy.
pub(crate) fn address(proxy: &Intercept) -> Result<Address> {
    let uri = proxy.uri();
    let host = uri.authority().context("the proxy has no host")?.clone();
    match uri.scheme_str() {
        Some("http") => Ok(Address { host, encrypted: false }),
        Some("https") => Ok(Address { host, encrypted: true }),
        other => bail!(UnsupportedProxy(format!("{}://{host}", other.unwrap_or_default()))),
    }
}

/// Asks for a tunnel to `target` and reads exactly the proxy's answer: what follows belongs to the tunnel.
///
/// # Errors
/// A [`Refused`] with the proxy's status line when that is not 2xx.
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
    // TLS lets the client speak first: nothing can have come through the tunnel yet.
    ensure!(read_ahead.is_empty(), "it answered more than a tunnel's opening");
    Ok(())
}

/// A proxy's answer other than 2xx.
#[derive(Debug, thiserror::Error)]
#[error("it answered {status} {reason}")]
pub(crate) struct Refused {
    /// Host and port that the tunnel was to lead to.
    pub(crate) target: String,
    /// The HTTP status: 407 asks for a user and password.
    pub(crate) status: u16,
    /// The reason phrase.
    pub(crate) reason: String,
}

/// The environment names a proxy that does not speak HTTP.
#[derive(Debug, thiserror::Error)]
#[error("{0} is not an HTTP proxy")]
pub(crate) struct UnsupportedProxy(String);
