//! The way out: name resolution, TCP, the environment's HTTP proxies, TLS. Knows nothing of Azure or ssh.

pub(crate) mod error;
pub(crate) mod http_head;
pub(crate) mod http_proxy;
pub(crate) mod loopback;
pub(crate) mod tls;
pub(crate) mod x509;

use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use http::uri::Authority;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use reqwest::Url;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either;
use tower_service::Service as _;
use tracing::{debug, info};

use crate::net::error::root;
use crate::net::tls::TlsError;

pub(crate) use crate::net::error::NetError;

/// How long name resolution and the TCP connection may take, over all addresses of a host.
const TCP_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an HTTP proxy may take to open its tunnel: it connects onwards in this time.
const PROXY_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a TLS handshake may take.
const TLS_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a TCP connection is idle before the system asks whether the peer still exists.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
/// The time between two of these questions.
const KEEPALIVE_PERIOD: Duration = Duration::from_secs(15);
/// Unanswered questions after which the connection is lost.
const KEEPALIVE_PROBES: u32 = 4;
/// How long sent bytes may stay unacknowledged before the connection is lost; Linux alone waits about 16 minutes (tcp(7),
/// `tcp_retries2`). A peer that acknowledges and takes no bytes has as long (Linux `tcp_timer.c`, `tcp_probe_timer`), so
/// that this must outlast the pauses of a slow machine.
#[cfg(any(target_os = "android", target_os = "linux"))]
const UNACKNOWLEDGED: Duration = Duration::from_secs(180);
/// How long an HTTP answer may keep silent.
const HTTP_READ_TIMEOUT: Duration = Duration::from_secs(30);

/// How long an HTTP request and its whole answer may take.
const HTTP_TIMEOUT: Duration = Duration::from_secs(60);

/// A TCP connection, or one inside TLS to an `https://` proxy.
type Transport = Either<TcpStream, TlsStream<TcpStream>>;

/// A TLS connection to its far end, whatever lies between.
pub(crate) type Stream = TlsStream<Transport>;

/// The ways out that the environment leaves open.
#[derive(Clone, Debug)]
pub(crate) struct Net {
    tls: Arc<ClientConfig>,
    proxies: Arc<Matcher>,
}

impl Net {
    /// Reads the environment's proxies and starts to load the trust store on a thread of its own.
    pub(crate) fn new() -> Self {
        Self { tls: Arc::new(tls::client_config()), proxies: Arc::new(Matcher::from_system()) }
    }

    /// A TLS connection to `authority`, port 443 unless it names another, through the environment's proxy if one is
    /// meant for it.
    ///
    /// # Errors
    /// See [`NetError`].
    pub(crate) async fn connect(&self, authority: &Authority) -> Result<Stream, NetError> {
        let target = https(authority);
        let transport = match self.proxies.intercept(&target) {
            Some(proxy) => self.tunnel(&proxy, authority).await?,
            None => Either::Left(
                tcp(&target)
                    .await
                    .map_err(|cause| NetError::Unreachable { host: authority.to_string(), cause })?,
            ),
        };
        self.encrypt(transport, authority).await
    }

    /// An HTTP client on the same proxies and trust store, to be used for `urls`.
    ///
    /// # Errors
    /// The environment names a proxy for one of them that is of no use.
    pub(crate) fn http_client(&self, urls: [&Url; 2]) -> Result<reqwest::Client, NetError> {
        for url in urls {
            let uri = url.as_str().parse().map_err(|_| NetError::Client(format!("{url} is not a URL")))?;
            if let Some(proxy) = self.proxies.intercept(&uri) {
                http_proxy::address(&proxy)?;
            }
        }
        build(self.client().connect_timeout(TCP_TIMEOUT + TLS_TIMEOUT))
    }

    /// Returns an HTTP client without a proxy, for a service on this computer or next to it.
    ///
    /// # Errors
    /// None that a user can cause.
    pub(crate) fn local_http_client(&self, connect_timeout: Duration) -> Result<reqwest::Client, NetError> {
        build(self.client().no_proxy().connect_timeout(connect_timeout))
    }

    fn client(&self) -> reqwest::ClientBuilder {
        reqwest::Client::builder()
            .tls_backend_preconfigured(ClientConfig::clone(&self.tls))
            .read_timeout(HTTP_READ_TIMEOUT)
            .timeout(HTTP_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
    }

    async fn tunnel(&self, proxy: &Intercept, authority: &Authority) -> Result<Transport, NetError> {
        let via = http_proxy::address(proxy)?;
        info!(proxy = %via.host, target = %authority, "connecting through the proxy of the environment");
        let tcp = tcp(proxy.uri())
            .await
            .map_err(|cause| NetError::ProxyUnreachable { proxy: via.host.to_string(), cause })?;
        let mut transport = if via.encrypted {
            Either::Right(self.encrypt(tcp, &via.host).await?)
        } else {
            Either::Left(tcp)
        };
        let tunnel = http_proxy::open_tunnel(&mut transport, &via.host, authority, proxy.basic_auth());
        timeout(PROXY_TIMEOUT, tunnel).await.unwrap_or_else(|_elapsed| {
            Err(NetError::ProxyRejected {
                proxy: Some(via.host.to_string()),
                host: authority.to_string(),
                status: None,
                cause: no_response(PROXY_TIMEOUT),
            })
        })?;
        Ok(transport)
    }

    async fn encrypt<T>(&self, transport: T, authority: &Authority) -> Result<TlsStream<T>, NetError>
    where
        T: AsyncRead + AsyncWrite + Unpin,
    {
        let failed = |error| NetError::Tls { host: authority.to_string(), error };
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let name = ServerName::try_from(host).map_err(|error| failed(TlsError::Other(error.to_string())))?;
        let handshake = TlsConnector::from(Arc::clone(&self.tls)).connect(name, transport);
        let stream = timeout(TLS_TIMEOUT, handshake)
            .await
            .map_err(|_elapsed| failed(TlsError::Other(no_response(TLS_TIMEOUT))))?
            .map_err(|error| {
                failed(tls::error_in(&error).map_or_else(|| TlsError::Other(root(&error)), TlsError::from))
            })?;
        let (_, session) = stream.get_ref();
        debug!(
            version = ?session.protocol_version(), suite = ?session.negotiated_cipher_suite().map(|suite| suite.suite()),
            handshake = ?session.handshake_kind(), "TLS with {authority}"
        );
        Ok(stream)
    }
}

fn build(client: reqwest::ClientBuilder) -> Result<reqwest::Client, NetError> {
    client.build().map_err(|error| NetError::Client(root(&error)))
}

/// Happy eyeballs over all addresses of the host, by the library that the HTTP client uses too.
async fn tcp(target: &Uri) -> Result<TcpStream, String> {
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector.set_keepalive(Some(KEEPALIVE_IDLE));
    connector.set_keepalive_interval(Some(KEEPALIVE_PERIOD));
    connector.set_keepalive_retries(Some(KEEPALIVE_PROBES));
    #[cfg(any(target_os = "android", target_os = "linux"))]
    connector.set_tcp_user_timeout(Some(UNACKNOWLEDGED));
    match timeout(TCP_TIMEOUT, connector.call(target.clone())).await {
        Ok(Ok(stream)) => Ok(stream.into_inner()),
        Ok(Err(error)) => Err(error::chain(&error)),
        Err(_elapsed) => Err(no_response(TCP_TIMEOUT)),
    }
}

fn https(authority: &Authority) -> Uri {
    let uri = Uri::builder().scheme("https").authority(authority.clone()).path_and_query("/").build();
    uri.expect("an authority with a scheme and a path is a URI")
}

fn no_response(limit: Duration) -> String {
    format!("no response within {} s", limit.as_secs())
}
