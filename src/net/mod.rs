//! The way out: name resolution, TCP, the environment's HTTP proxies, TLS. Knows nothing of Azure or ssh.

pub(crate) mod http_head;
pub(crate) mod http_proxy;
pub(crate) mod loopback;
pub(crate) mod tls;
pub(crate) mod x509;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use http::Uri;
use http::uri::Authority;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use reqwest::Url;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either;
use tower_service::Service as _;
use tracing::{debug, info};

use crate::system::timeout::with_timeout;

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

/// What a peer that times out did not send.
const ANSWER: &str = "answer";

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
    /// An [`anyhow::Error`] with a [`ConnectStep`] as its context: which part of the way failed.
    pub(crate) async fn connect(&self, authority: &Authority) -> Result<Stream> {
        let target = https(authority)?;
        let transport = match self.proxies.intercept(&target) {
            Some(proxy) => self.tunnel(&proxy, authority).await?,
            None => {
                Either::Left(tcp(&target).await.with_context(|| ConnectStep::Tcp(authority.to_string()))?)
            }
        };
        self.encrypt(transport, authority).await
    }

    /// An HTTP client on the same proxies and trust store, to be used for `urls`.
    ///
    /// # Errors
    /// The environment names a proxy for one of them that is of no use.
    pub(crate) fn http_client(&self, urls: [&Url; 2]) -> Result<reqwest::Client> {
        for url in urls {
            if let Some(proxy) = self.proxies.intercept(&url.as_str().parse()?) {
                http_proxy::address(&proxy)?;
            }
        }
        let client = self.client().connect_timeout(TCP_TIMEOUT + TLS_TIMEOUT);
        client.build().context("cannot set up an HTTP client")
    }

    /// An HTTP client that goes through no proxy, for what answers on this machine or next to it, if anything does
    /// within `connect_timeout`.
    ///
    /// # Errors
    /// None that a user can bring about.
    pub(crate) fn local_http_client(&self, connect_timeout: Duration) -> Result<reqwest::Client> {
        let client = self.client().no_proxy().connect_timeout(connect_timeout);
        client.build().context("cannot set up an HTTP client")
    }

    fn client(&self) -> reqwest::ClientBuilder {
        reqwest::Client::builder()
            .tls_backend_preconfigured(ClientConfig::clone(&self.tls))
            .read_timeout(HTTP_READ_TIMEOUT)
            .timeout(HTTP_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
    }

    async fn tunnel(&self, proxy: &Intercept, authority: &Authority) -> Result<Transport> {
        let via = http_proxy::address(proxy)?;
        info!(proxy = %via.host, target = %authority, "going through the environment's proxy");
        let tcp = tcp(proxy.uri()).await.context(ConnectStep::ProxyTcp(via.host.to_string()))?;
        let mut transport = match via.encrypted {
            true => Either::Right(self.encrypt(tcp, &via.host).await?),
            false => Either::Left(tcp),
        };
        let step =
            || ConnectStep::ProxyConnect { proxy: via.host.to_string(), target: authority.to_string() };
        with_timeout(
            PROXY_TIMEOUT,
            ANSWER,
            http_proxy::open_tunnel(&mut transport, authority, proxy.basic_auth()),
        )
        .await
        .with_context(step)?;
        Ok(transport)
    }

    async fn encrypt<T>(&self, transport: T, authority: &Authority) -> Result<TlsStream<T>>
    where
        T: AsyncRead + AsyncWrite + Unpin,
    {
        let step = || ConnectStep::Tls(authority.to_string());
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let name = ServerName::try_from(host).with_context(step)?;
        let stream = with_timeout(TLS_TIMEOUT, ANSWER, async {
            Ok(TlsConnector::from(Arc::clone(&self.tls)).connect(name, transport).await?)
        });
        let stream = stream.await.with_context(step)?;
        let (_, session) = stream.get_ref();
        debug!(
            version = ?session.protocol_version(), suite = ?session.negotiated_cipher_suite().map(|suite| suite.suite()),
            handshake = ?session.handshake_kind(), "TLS with {authority}"
        );
        Ok(stream)
    }
}

/// The part of the way that failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ConnectStep {
    /// Name resolution or the TCP connection to a host.
    #[error("cannot reach {0}")]
    Tcp(String),
    /// The same to an HTTP proxy.
    #[error("the proxy {0} cannot be reached")]
    ProxyTcp(String),
    /// The tunnel of an HTTP proxy.
    #[error("the proxy {proxy} opens no tunnel to {target}")]
    ProxyConnect {
        /// Host and port of the proxy.
        proxy: String,
        /// Where it should have led.
        target: String,
    },
    /// The TLS handshake with a host.
    #[error("no TLS with {0}")]
    Tls(String),
}

/// Happy eyeballs over all addresses of the host, by the library that the HTTP client uses too.
async fn tcp(target: &Uri) -> Result<TcpStream> {
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector.set_keepalive(Some(KEEPALIVE_IDLE));
    connector.set_keepalive_interval(Some(KEEPALIVE_PERIOD));
    connector.set_keepalive_retries(Some(KEEPALIVE_PROBES));
    #[cfg(any(target_os = "android", target_os = "linux"))]
    connector.set_tcp_user_timeout(Some(UNACKNOWLEDGED));
    with_timeout(TCP_TIMEOUT, ANSWER, async { Ok(connector.call(target.clone()).await?.into_inner()) }).await
}

fn https(authority: &Authority) -> Result<Uri> {
    Ok(Uri::builder().scheme("https").authority(authority.clone()).path_and_query("/").build()?)
}
