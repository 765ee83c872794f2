//! The CONNECT method of an HTTP proxy (RFC 9110, section 9.3.6).

use std::time::Duration;

use http::HeaderValue;
use http::uri::Authority;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::time::Instant;

use crate::net::NetError;
use crate::net::error::{Cause, chain};
use crate::net::http_head::{self, Head};
use crate::net::proxy::Proxy;

/// The time for which a rejection of a host counts.
const MEMORY: Duration = Duration::from_secs(60);

/// The responses of the proxy in this process.
#[derive(Debug, Default)]
pub(super) struct Responses {
    /// Whether it has opened a tunnel: then user name and password are right.
    is_accepted: bool,
    rejections: Vec<(Instant, NetError)>,
}

impl Responses {
    pub(super) fn is_accepted(&self) -> bool {
        self.is_accepted
    }

    /// Returns why the proxy would reject a tunnel to `target`. 407 rejects the user, whatever the host. Before the first
    /// tunnel, 401 and 403 can do so as well: tinyproxy rejects a wrong password with 401. Another rejection counts for
    /// [`MEMORY`]: `arcssh forward` runs for days.
    pub(super) fn rejection(&self, proxy: &Proxy, target: &Authority) -> Option<&NetError> {
        let is_user_in_doubt = proxy.authorization.is_some() && !self.is_accepted;
        let rejection = self.rejections.iter().find(|(at, error)| match error {
            NetError::ProxyRejected { host, status, .. } => {
                let is_recent = at.elapsed() < MEMORY;
                is_user_in_doubt
                    || matches!(status, Some(401 | 407))
                    || is_recent && *host == with_port(target)
            }
            _ => false,
        });
        rejection.map(|(_, error)| error)
    }

    /// Adds the result of an attempt.
    pub(super) fn add(&mut self, error: Option<&NetError>) {
        self.is_accepted |= error.is_none();
        let rejection = error.filter(|error| matches!(error, NetError::ProxyRejected { .. }));
        let rejection = rejection.filter(|error| !error.is_transient()).cloned();
        self.rejections.extend(rejection.map(|error| (Instant::now(), error)));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_a_rejected_password_is_final() {
        let target: Authority = "relay.example".parse().unwrap();
        let rejected = |status| NetError::ProxyRejected {
            proxy: "proxy.example:8080".into(),
            host: with_port(&target),
            status: Some(status),
            cause: Cause::Failure("no".into()),
        };
        let authorization = |password: Option<&str>| password.map(|text| text.parse().unwrap());
        for (status, password, is_accepted, is_final) in [
            (403, None, false, false),
            (403, Some("Basic eA=="), true, false),
            (403, Some("Basic eA=="), false, true),
            (407, None, false, true),
            (401, Some("Basic eA=="), true, true),
            (407, Some("Basic eA=="), true, true),
        ] {
            let host = "proxy.example:8080".parse().unwrap();
            let proxy =
                Proxy { origin: "HTTPS_PROXY", host, is_tls: false, authorization: authorization(password) };
            let mut responses = Responses { is_accepted, ..Responses::default() };
            responses.add(Some(&rejected(status)));
            responses.is_accepted = is_accepted;
            assert!(responses.rejection(&proxy, &target).is_some(), "{status}");
            tokio::time::advance(MEMORY).await;
            assert_eq!(responses.rejection(&proxy, &target).is_some(), is_final, "{status} {password:?}");
        }
    }
}
