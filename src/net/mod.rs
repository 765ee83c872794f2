//! The network: name resolution, TCP, HTTP proxies, TLS and HTTPS. Independent of Azure and ssh.

pub(crate) mod error;
pub(crate) mod http_head;
pub(crate) mod http_proxy;
pub(crate) mod https;
pub(crate) mod listener;
pub(crate) mod loopback;
pub(crate) mod proxy;
mod resolver;
pub(crate) mod tls;
pub(crate) mod x509;

use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use http::uri::Authority;
use hyper_util::client::legacy::connect::HttpConnector;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either;
use tower_service::Service as _;
use tracing::{debug, info};

use crate::net::error::{Cause, root};
use crate::net::http_proxy::Responses;
use crate::net::https::HttpsClient;
use crate::net::proxy::{Proxies, Proxy};
use crate::net::resolver::Resolver;
use crate::net::tls::{SystemTrust, TlsError};
use crate::system::timeout::with_timeout;

pub(crate) use crate::net::error::NetError;

/// The idle time before the first TCP keepalive probe (tcp(7)).
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
/// The time between two keepalive probes.
const KEEPALIVE_PERIOD: Duration = Duration::from_secs(15);
/// The number of unanswered probes after which the connection is lost.
const KEEPALIVE_PROBES: u32 = 4;
/// The time for which sent bytes may be unacknowledged before the connection is lost. The default of Linux is about 16 minutes
/// (tcp(7), `tcp_retries2`). The limit also applies to a peer with a full receive window (Linux `tcp_timer.c`,
/// `tcp_probe_timer`), so it must be longer than the pauses of a slow machine.
#[cfg(any(target_os = "android", target_os = "linux"))]
const UNACKNOWLEDGED: Duration = Duration::from_secs(180);
/// The longest pause within an HTTP response.
const HTTP_READ_TIMEOUT: Duration = Duration::from_secs(30);

/// The number of bytes that rustls encrypts before it calls the system: two WebSocket frames of arcssh. With its default, one
/// frame, an upload took about a tenth more processor time; four frames saved no more.
pub(crate) const SEND_BATCH: usize = 128 * 1024;

/// The time limit for an HTTP request and its response.
pub(crate) const HTTP_TIMEOUT: Duration = Duration::from_secs(60);

/// A TCP connection, or one inside TLS to an `https://` proxy.
type Transport = Either<TcpStream, TlsStream<TcpStream>>;

/// A TLS connection to a host, with or without a proxy in between.
pub(crate) type Stream = TlsStream<Transport>;

/// A step of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// The other side responds by itself: name resolution with TCP over all addresses of a host, and a TLS handshake.
    Direct,
    /// The other side connects to a third one first: a proxy to the host, the relay to the machine's agent.
    Onward,
}

impl Step {
    /// Returns the time limit of a step, unless the caller has its own.
    pub(crate) fn timeout(self) -> Duration {
        match self {
            Self::Direct => Duration::from_secs(10),
            Self::Onward => Duration::from_secs(20),
        }
    }
}

/// Opens connections with the proxy of the environment and the system's trust store.
#[derive(Clone, Debug)]
pub(crate) struct Net {
    tls: Arc<ClientConfig>,
    trust: Arc<SystemTrust>,
    proxies: Arc<Result<Proxies, NetError>>,
    responses: Arc<Mutex<Responses>>,
}

impl Net {
    /// Reads the proxy settings, and starts to load the trust store on another thread.
    ///
    /// # Errors
    /// [`NetError::Setting`].
    pub(crate) fn new() -> Result<Self, NetError> {
        let net = Self::unchecked();
        net.proxies()?;
        Ok(net)
    }

    /// As [`Net::new`], but the first connection returns the error.
    pub(crate) fn unchecked() -> Self {
        let (tls, trust) = tls::client_config();
        let proxies = Arc::new(Proxies::from_environment());
        Self { tls: Arc::new(tls), trust, proxies, responses: Arc::default() }
    }

    fn proxies(&self) -> Result<&Proxies, NetError> {
        self.proxies.as_ref().as_ref().map_err(NetError::clone)
    }

    /// Returns the proxy for a host.
    ///
    /// # Errors
    /// [`NetError::Setting`].
    pub(crate) fn proxy(&self, authority: &Authority) -> Result<Option<Proxy>, NetError> {
        self.proxies()?.of(authority)
    }

    /// Returns the origin of the root certificates.
    ///
    /// # Errors
    /// A variable names none, or the system has none.
    pub(crate) fn root_certificates(&self) -> Result<String, TlsError> {
        self.trust.origin()
    }

    /// Opens a TLS connection to `authority`, on port 443 by default, through the proxy that the environment names for it.
    ///
    /// # Errors
    /// See [`NetError`].
    pub(crate) async fn connect(&self, authority: &Authority) -> Result<Stream, NetError> {
        self.connect_in_steps(authority, Step::timeout).await
    }

    /// Connects as [`Self::connect`] does. Calls `limit` before each step for its time limit.
    ///
    /// # Errors
    /// See [`NetError`].
    pub(crate) async fn connect_in_steps(
        &self,
        authority: &Authority,
        limit: impl Fn(Step) -> Duration,
    ) -> Result<Stream, NetError> {
        let transport = match self.proxy(authority)? {
            Some(proxy) => self.tunnel(&proxy, authority, &limit).await?,
            None => Either::Left(
                tcp(authority, limit(Step::Direct))
                    .await
                    .map_err(|cause| NetError::Unreachable { host: authority.to_string(), cause })?,
            ),
        };
        self.encrypt(transport, authority, limit(Step::Direct)).await
    }

    /// Returns whether a second connection to `authority` may start while a first one has no result yet. Until the proxy has
    /// accepted the password, one connection at a time sends it.
    pub(crate) fn allows_second(&self, authority: &Authority) -> bool {
        match self.proxy(authority) {
            Ok(Some(Proxy { authorization: Some(_), .. })) => {
                self.responses.try_lock().is_ok_and(|responses| responses.is_accepted())
            }
            Ok(_) => true,
            Err(_) => false,
        }
    }

    /// Returns an HTTP client with the same proxy and trust store, for these hosts.
    ///
    /// # Errors
    /// [`NetError::Setting`]: the proxy for one of them is not an HTTP proxy.
    pub(crate) fn http_client(&self, hosts: [&str; 2]) -> Result<HttpsClient, NetError> {
        for host in hosts {
            let authority = host.parse().map_err(|_| NetError::Client(format!("{host} is not a host")))?;
            self.proxy(&authority)?;
        }
        Ok(HttpsClient::new(self.clone()))
    }

    /// Returns an HTTP client without a proxy, for a service on this computer or next to it.
    ///
    /// # Errors
    /// None that a user can cause.
    pub(crate) fn local_http_client(&self, connect_timeout: Duration) -> Result<reqwest::Client, NetError> {
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(ClientConfig::clone(&self.tls))
            .no_proxy()
            .connect_timeout(connect_timeout)
            .read_timeout(HTTP_READ_TIMEOUT)
            .timeout(HTTP_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none());
        client.build().map_err(|error| NetError::Client(root(&error)))
    }

    /// Opens a tunnel, unless the proxy has rejected it in this process: repeating a wrong password locks an account. Until the
    /// proxy has accepted the password, one connection at a time sends it.
    async fn tunnel(
        &self,
        proxy: &Proxy,
        authority: &Authority,
        limit: &impl Fn(Step) -> Duration,
    ) -> Result<Transport, NetError> {
        let responses = self.responses.lock().await;
        if let Some(error) = responses.rejection(proxy, authority) {
            return Err(error.clone());
        }
        let alone = (proxy.authorization.is_some() && !responses.is_accepted()).then_some(responses);
        let result = self.open_tunnel(proxy, authority, limit).await;
        let mut responses = match alone {
            Some(responses) => responses,
            None => self.responses.lock().await,
        };
        responses.add(result.as_ref().err());
        result
    }

    async fn open_tunnel(
        &self,
        proxy: &Proxy,
        authority: &Authority,
        limit: &impl Fn(Step) -> Duration,
    ) -> Result<Transport, NetError> {
        info!(%proxy, target = %authority, "connecting through the proxy");
        let tcp = tcp(&proxy.host, limit(Step::Direct))
            .await
            .map_err(|cause| NetError::ProxyUnreachable { proxy: proxy.host.to_string(), cause })?;
        let mut transport = if proxy.is_tls {
            Either::Right(self.encrypt(tcp, &proxy.host, limit(Step::Direct)).await?)
        } else {
            Either::Left(tcp)
        };
        let tunnel =
            http_proxy::open_tunnel(&mut transport, &proxy.host, authority, proxy.authorization.as_ref());
        let timed_out = |limit| NetError::ProxyRejected {
            proxy: proxy.host.to_string(),
            host: authority.to_string(),
            status: None,
            cause: Cause::Silence(limit),
        };
        with_timeout(limit(Step::Onward), tunnel, timed_out).await?;
        Ok(transport)
    }

    async fn encrypt<T>(
        &self,
        transport: T,
        authority: &Authority,
        limit: Duration,
    ) -> Result<TlsStream<T>, NetError>
    where
        T: AsyncRead + AsyncWrite + Unpin,
    {
        let failed = |error| NetError::Tls { host: authority.to_string(), error };
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let name = ServerName::try_from(host).map_err(|error| failed(TlsError::Other(error.to_string())))?;
        let handshake = async {
            let stream = TlsConnector::from(Arc::clone(&self.tls))
                .connect_with(name, transport, |tls| tls.set_buffer_limit(Some(SEND_BATCH)))
                .await;
            stream.map_err(|error| {
                tls::error_in(&error).map_or_else(|| TlsError::Interrupted(root(&error)), TlsError::from)
            })
        };
        let stream = with_timeout(limit, handshake, TlsError::TimedOut).await.map_err(failed)?;
        let (_, session) = stream.get_ref();
        debug!(
            version = ?session.protocol_version(), suite = ?session.negotiated_cipher_suite().map(|suite| suite.suite()),
            handshake = ?session.handshake_kind(), "TLS with {authority}"
        );
        Ok(stream)
    }
}

/// Connects to the first address of a host that responds (RFC 8305), on port 443 by default, with the library of the HTTP
/// client.
async fn tcp(authority: &Authority, limit: Duration) -> Result<TcpStream, Cause> {
    let mut connector = HttpConnector::new_with_resolver(Resolver);
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector.set_keepalive(Some(KEEPALIVE_IDLE));
    connector.set_keepalive_interval(Some(KEEPALIVE_PERIOD));
    connector.set_keepalive_retries(Some(KEEPALIVE_PROBES));
    #[cfg(any(target_os = "android", target_os = "linux"))]
    connector.set_tcp_user_timeout(Some(UNACKNOWLEDGED));
    let start = Instant::now();
    let connect = async {
        connector.call(uri(authority)).await.map_err(|error| Cause::of_tcp(&error, start.elapsed()))
    };
    Ok(with_timeout(limit, connect, Cause::Silence).await?.into_inner())
}

fn uri(authority: &Authority) -> Uri {
    let uri = Uri::builder().scheme("https").authority(authority.clone()).path_and_query("/").build();
    uri.expect("an authority with a scheme and a path is a URI")
}
