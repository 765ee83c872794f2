//! Why a connection to a host fails.

use std::error::Error as StdError;
use std::time::Duration;

use crate::net::tls::{self, TlsError};

/// A failure of name resolution, TCP, a proxy or TLS.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum NetError {
    /// Name resolution, TCP, or a connection that the host closed.
    #[error("cannot reach {host}: {cause}")]
    Unreachable {
        /// The host, with its port unless that is 443.
        host: String,
        /// The innermost cause.
        cause: String,
    },
    /// The host is silent.
    #[error("{host} did not respond within {} s", .after.as_secs())]
    TimedOut {
        /// The host or the service.
        host: String,
        /// The time limit.
        after: Duration,
    },
    /// Name resolution or TCP to the proxy.
    #[error("cannot reach the proxy {proxy}: {cause}")]
    ProxyUnreachable {
        /// The proxy and its port.
        proxy: String,
        /// The innermost cause.
        cause: String,
    },
    /// The proxy responded to CONNECT with another status than 2xx.
    #[error("the proxy{} opens no tunnel to {host}: {cause}", proxy.as_ref().map_or(String::new(), |proxy| format!(" {proxy}")))]
    ProxyRejected {
        /// The proxy and its port, if the HTTP library names it.
        proxy: Option<String>,
        /// The host and its port.
        host: String,
        /// The status of the response, if the HTTP library names it. 407 requires a user and password.
        status: Option<u16>,
        /// The response of the proxy.
        cause: String,
    },
    /// The environment names a proxy of another protocol.
    #[error("{0} is not an HTTP proxy")]
    UnsupportedProxy(String),
    /// The TLS handshake.
    #[error("TLS with {host} failed: {error}")]
    Tls {
        /// The host, with its port unless that is 443.
        host: String,
        error: TlsError,
    },
    /// The HTTP library cannot be set up.
    #[error("cannot set up an HTTP client: {0}")]
    Client(String),
}

impl NetError {
    /// Returns the error of a connection to `host` among the causes of an error of the HTTP library.
    pub(crate) fn find(error: &(dyn StdError + 'static), host: &str) -> Option<Self> {
        let host = host.to_owned();
        if let Some(error) = causes(error).find_map(|cause| cause.downcast_ref::<Self>()) {
            return Some(error.clone());
        }
        if let Some(error) = causes(error).find_map(tls::error_in) {
            return Some(Self::Tls { host, error: TlsError::from(error) });
        }
        if let Some(error) = Self::of_tunnel(error, &host) {
            return Some(error);
        }
        let is_connection =
            causes(error).find_map(|cause| cause.downcast_ref::<reqwest::Error>()).is_some_and(|error| {
                error.is_connect() || error.is_timeout() || error.is_request() || error.is_body()
            });
        is_connection.then(|| Self::Unreachable { host, cause: root(error) })
    }

    /// Returns the error of a tunnel that the HTTP library did not get. Its type is private (hyper-util, `tunnel.rs`), and
    /// of the proxy's response it shows only whether that was 407.
    fn of_tunnel(error: &(dyn StdError + 'static), host: &str) -> Option<Self> {
        let texts = causes(error).map(ToString::to_string);
        let reason = texts.filter_map(|text| Some(text.strip_prefix("tunnel error: ")?.to_owned())).next()?;
        let rejected = |status, cause: &str| Self::ProxyRejected {
            proxy: None,
            host: host.to_owned(),
            status,
            cause: cause.to_owned(),
        };
        Some(match reason.as_str() {
            "proxy authorization required" => rejected(Some(407), "the proxy responded 407"),
            "failed to create underlying connection" => {
                Self::ProxyUnreachable { proxy: format!("on the way to {host}"), cause: root(error) }
            }
            reason => rejected(None, reason),
        })
    }
}

/// Returns an error and its causes, outermost first.
pub(crate) fn causes<'a>(
    error: &'a (dyn StdError + 'static),
) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}

/// Returns the text of the innermost cause.
pub(crate) fn root(error: &(dyn StdError + 'static)) -> String {
    text(causes(error).last().unwrap_or(error))
}

/// Returns the text of an error. rustls adds a link for programmers to one of its own.
fn text(error: &(dyn StdError + 'static)) -> String {
    let text = error.to_string();
    if text.contains("without sending TLS close_notify") { "the connection was closed".into() } else { text }
}

/// Returns the texts of all causes on one line, outermost first, without repetitions.
pub(crate) fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut texts: Vec<String> = Vec::new();
    for cause in causes(error).map(text) {
        if texts.last().is_none_or(|before| !before.contains(&cause)) {
            texts.push(cause);
        }
    }
    texts.join(": ")
}
