//! Accepts TLS connections, reads HTTP/1.1 requests, records them in the journal and passes them to a handler.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{DATE, HeaderValue};
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper::{HeaderMap, Method, Request, Response};
use hyper_util::rt::TokioIo;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::clock::{self, Clock};
use crate::encoding::Parameters;
use crate::journal::{Journal, Service, lock, record};
use crate::tls::TlsHandshake;

/// A request with its body.
pub(crate) struct Call {
    pub(crate) method: Method,
    /// The path, still encoded.
    pub(crate) path: String,
    pub(crate) query: Parameters,
    raw_query: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    /// Resolves to the raw connection after a 101.
    pub(crate) upgrade: OnUpgrade,
    pub(crate) peer: SocketAddr,
}

impl Call {
    /// The query, still encoded.
    pub(crate) fn raw_query(&self) -> &str {
        &self.raw_query
    }

    /// Returns the value of the header `name`, if it is text.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

pub(crate) type Answer = Response<Full<Bytes>>;

/// An emulated service.
pub(crate) trait Handler: Send + Sync + 'static {
    /// The service in the journal.
    const SERVICE: Service;

    /// The clock of the header `Date`.
    fn clock(&self) -> Clock;

    fn answer(self: Arc<Self>, call: Call) -> impl Future<Output = Answer> + Send;
}

/// The records of a server.
#[derive(Clone)]
pub(crate) struct Recorder {
    pub(crate) journal: Arc<Journal>,
    pub(crate) handshakes: Arc<Mutex<Vec<TlsHandshake>>>,
}

/// Accepts connections for `handler` until the runtime stops.
pub(crate) async fn serve<R: Handler>(
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    handler: Arc<R>,
    recorder: Recorder,
) {
    let acceptor = TlsAcceptor::from(tls);
    while let Ok((stream, peer)) = listener.accept().await {
        tokio::spawn(connection(stream, peer, acceptor.clone(), Arc::clone(&handler), recorder.clone()));
    }
}

/// Serves one connection. An error closes the connection; the client reports it.
async fn connection<R: Handler>(
    stream: TcpStream,
    peer: SocketAddr,
    acceptor: TlsAcceptor,
    handler: Arc<R>,
    recorder: Recorder,
) {
    // Nagle's algorithm would delay small frames.
    let _ = stream.set_nodelay(true);
    let Ok(tls) = acceptor.accept(stream).await else { return };
    lock(&recorder.handshakes).push(TlsHandshake::of(R::SERVICE, tls.get_ref().1));
    requests(tls, peer, handler, &recorder.journal).await;
}

/// Accepts connections without TLS for `handler` until the runtime stops.
pub(crate) async fn serve_plain<R: Handler>(listener: TcpListener, handler: Arc<R>, recorder: Recorder) {
    while let Ok((stream, peer)) = listener.accept().await {
        let (handler, recorder) = (Arc::clone(&handler), recorder.clone());
        tokio::spawn(async move { requests(stream, peer, handler, &recorder.journal).await });
    }
}

async fn requests<R: Handler>(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: SocketAddr,
    handler: Arc<R>,
    journal: &Journal,
) {
    let service = service_fn(|request| exchange(request, peer, Arc::clone(&handler), journal));
    let connection =
        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    let _ = connection.with_upgrades().await;
}

async fn exchange<R: Handler>(
    mut request: Request<Incoming>,
    peer: SocketAddr,
    handler: Arc<R>,
    journal: &Journal,
) -> Result<Answer, Infallible> {
    let upgrade = hyper::upgrade::on(&mut request);
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let path_and_query = parts.uri.path_and_query().map_or("/", |value| value.as_str());
    let number = journal.arrived(record(R::SERVICE, &parts.method, path_and_query, &parts.headers, &body));
    let call = Call {
        path: parts.uri.path().to_owned(),
        query: Parameters::from_query(parts.uri.query().unwrap_or_default()),
        raw_query: parts.uri.query().unwrap_or_default().to_owned(),
        method: parts.method,
        headers: parts.headers,
        body,
        upgrade,
        peer,
    };
    let clock = handler.clock();
    let mut answer = handler.answer(call).await;
    if let Ok(date) = HeaderValue::try_from(clock::http_date(clock.unix_seconds())) {
        answer.headers_mut().insert(DATE, date);
    }
    journal.answered(number, answer.status().as_u16());
    Ok(answer)
}
