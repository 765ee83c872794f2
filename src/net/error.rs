//! Why a connection to a host fails.

use std::error::Error as StdError;
use std::time::Duration;

use crate::net::proxy::Problem;
use crate::net::tls::TlsError;

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
    #[error("the proxy {proxy} opens no tunnel to {host}: {cause}")]
    ProxyRejected {
        /// The proxy and its port.
        proxy: String,
        /// The host and its port.
        host: String,
        /// The status of the response, if it is one. 407 requires a user and password.
        status: Option<u16>,
        /// The response of the proxy.
        cause: String,
    },
    /// A proxy setting cannot be used.
    #[error("the proxy setting {variable} is invalid: {problem}")]
    Setting {
        /// The variable that contains it.
        variable: &'static str,
        problem: Problem,
    },
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

/// Parts of the text of a failed name resolution.
const LOOKUP: [&str; 4] =
    ["failed to lookup address", "(os error 11001)", "(os error 11002)", "(os error 11004)"];

impl NetError {
    /// Returns the host whose name this computer cannot resolve, if that is the error. Its text is that of Rust's library on
    /// Unix (std, `cvt_gai`), and on Windows has the number of Winsock (WSAHOST_NOT_FOUND, WSATRY_AGAIN, WSANO_DATA).
    pub(crate) fn unknown_host(&self) -> Option<&str> {
        match self {
            Self::Unreachable { host, cause } if LOOKUP.iter().any(|text| cause.contains(text)) => Some(host),
            _ => None,
        }
    }

    /// Returns the error of a connection among the causes of an error.
    pub(crate) fn find(error: &(dyn StdError + 'static)) -> Option<Self> {
        causes(error).find_map(|cause| cause.downcast_ref::<Self>()).cloned()
    }

    /// Returns whether the same connection may succeed later. A proxy responds 5xx if the host or another proxy behind it
    /// does not respond; 501, 505 and 511 are about the request and the user (RFC 9110, section 15.6; RFC 6585, section 6).
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::TimedOut { .. } | Self::ProxyUnreachable { .. } => true,
            Self::ProxyRejected { status: Some(501 | 505 | 511), .. } => false,
            Self::ProxyRejected { status: None | Some(408 | 429 | 500..), .. } => true,
            Self::Tls { error, .. } => matches!(error, TlsError::Interrupted(_)),
            Self::ProxyRejected { .. } | Self::Setting { .. } | Self::Client(_) => false,
        }
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

/// Returns the text of an error. rustls adds a link for programmers to one of its own, and tokio-rustls has an abbreviation.
fn text(error: &(dyn StdError + 'static)) -> String {
    let text = error.to_string();
    match text.as_str() {
        "tls handshake eof" => "the connection was closed".into(),
        text if text.contains("without sending TLS close_notify") => "the connection was closed".into(),
        _ => text,
    }
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
