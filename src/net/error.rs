//! Why a connection to a host fails.

use std::error::Error as StdError;
use std::io::{Error as IoError, ErrorKind};
use std::time::Duration;

use crate::net::proxy::Problem;
use crate::net::tls::TlsError;

/// Why a step of a connection failed.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum Cause {
    /// The other side sent nothing in this time.
    #[error("no response within {} s", .0.as_secs())]
    Silence(Duration),
    /// Anything else.
    #[error("{0}")]
    Failure(String),
}

impl From<String> for Cause {
    fn from(text: String) -> Self {
        Self::Failure(text)
    }
}

impl From<&str> for Cause {
    fn from(text: &str) -> Self {
        Self::Failure(text.to_owned())
    }
}

impl Cause {
    /// Returns the cause of a failed name resolution or TCP connection after `elapsed`. The system can give up before arcssh:
    /// TCP after a lower `tcp_syn_retries` (tcp(7)), and the resolver if no name server responds, with `EAI_AGAIN`
    /// (getaddrinfo(3)). Without a network, `EAI_AGAIN` comes at once.
    pub(super) fn of_tcp(error: &(dyn StdError + 'static), elapsed: Duration) -> Self {
        let is_late = |error: &IoError| error.kind() == ErrorKind::TimedOut;
        let text = chain(error);
        let is_lookup = elapsed >= SILENT_LOOKUP && TRY_AGAIN.iter().any(|again| text.contains(again));
        if is_lookup || causes(error).any(|cause| cause.downcast_ref().is_some_and(is_late)) {
            return Self::Silence(elapsed);
        }
        text.trim_start_matches("dns error: ").into()
    }
}

/// A failure of name resolution, TCP, a proxy or TLS.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum NetError {
    /// Name resolution, TCP, or a connection that the host closed.
    #[error("cannot reach {host}: {cause}")]
    Unreachable {
        /// The host, with its port unless that is 443.
        host: String,
        cause: Cause,
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
        cause: Cause,
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
        cause: Cause,
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

/// Parts of the text of `EAI_AGAIN`: of glibc and macOS, of musl, and of Windows (WSATRY_AGAIN).
const TRY_AGAIN: [&str; 3] =
    ["Temporary failure in name resolution", "information: Try again", "(os error 11002)"];
/// The time after which `EAI_AGAIN` means that no name server responded (resolv.conf(5), `timeout`, is 1 s or more).
const SILENT_LOOKUP: Duration = Duration::from_secs(1);

/// Parts of the text of a failed name resolution.
const LOOKUP: [&str; 4] =
    ["failed to lookup address", "(os error 11001)", "(os error 11002)", "(os error 11004)"];

impl NetError {
    /// Returns the host whose name this computer cannot resolve, if that is the error. Its text is that of Rust's library on
    /// Unix (std, `cvt_gai`), and on Windows has the number of Winsock (WSAHOST_NOT_FOUND, WSATRY_AGAIN, WSANO_DATA).
    pub(crate) fn unknown_host(&self) -> Option<&str> {
        match self {
            Self::Unreachable { host, cause: Cause::Failure(cause) }
                if LOOKUP.iter().any(|text| cause.contains(text)) =>
            {
                Some(host)
            }
            _ => None,
        }
    }

    /// Returns the error of a connection among the causes of an error.
    pub(crate) fn find(error: &(dyn StdError + 'static)) -> Option<Self> {
        causes(error).find_map(|cause| cause.downcast_ref::<Self>()).cloned()
    }

    /// Returns whether a step of the connection got no response in time.
    pub(crate) fn is_silence(&self) -> bool {
        match self {
            Self::Unreachable { cause, .. }
            | Self::ProxyUnreachable { cause, .. }
            | Self::ProxyRejected { cause, .. } => matches!(cause, Cause::Silence(_)),
            Self::Tls { error, .. } => matches!(error, TlsError::TimedOut(_)),
            Self::TimedOut { .. } => true,
            Self::Setting { .. } | Self::Client(_) => false,
        }
    }

    /// Returns whether the same connection may succeed later. A proxy responds 5xx if the host or another proxy behind it
    /// does not respond; 501, 505 and 511 are about the request and the user (RFC 9110, section 15.6; RFC 6585, section 6).
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::TimedOut { .. } | Self::ProxyUnreachable { .. } => true,
            Self::ProxyRejected { status: Some(501 | 505 | 511), .. } => false,
            Self::ProxyRejected { status: None | Some(408 | 429 | 500..), .. } => true,
            Self::Tls { error, .. } => matches!(error, TlsError::Interrupted(_) | TlsError::TimedOut(_)),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_of_the_system_counts_as_silence() {
        let is_silence = |error: IoError, seconds| {
            matches!(Cause::of_tcp(&error, Duration::from_secs(seconds)), Cause::Silence(_))
        };
        let lookup = |detail| IoError::other(format!("failed to lookup address information: {detail}"));
        assert!(is_silence(ErrorKind::TimedOut.into(), 3));
        assert!(!is_silence(ErrorKind::ConnectionRefused.into(), 3));
        for again in ["Temporary failure in name resolution", "Try again"] {
            assert!(is_silence(lookup(again), 5), "{again}");
            assert!(!is_silence(lookup(again), 0), "{again}: there is no network");
        }
        assert!(!is_silence(lookup("Name or service not known"), 5));
    }

    #[test]
    fn only_silence_is_retried_by_all() {
        let (host, proxy) = (String::new, String::new);
        let of = |cause: Cause, status| {
            [
                NetError::Unreachable { host: host(), cause: cause.clone() },
                NetError::ProxyUnreachable { proxy: proxy(), cause: cause.clone() },
                NetError::ProxyRejected { proxy: proxy(), host: host(), status, cause },
            ]
        };
        assert!(of(Cause::Silence(Duration::ZERO), None).iter().all(NetError::is_silence));
        assert!(!of("refused".into(), Some(407)).iter().any(NetError::is_silence));
    }
}
