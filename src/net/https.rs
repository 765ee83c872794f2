//! The HTTP client for ARM and Entra ID. Its connections are those of [`Net`], so both it and the relay use the same proxy, and
//! an error has the proxy's status. The tunnel of hyper-util, which reqwest uses, shows no status but 407.

use std::io::{IoSlice, Result as IoResult};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Request, Response, Uri};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tower_service::Service;

use crate::net::error::root;
use crate::net::{Net, NetError, Stream};
use crate::system::timeout::with_timeout;

/// The time limit for a connection and the head of the response.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// The time for which an unused connection stays open.
const IDLE_TIMEOUT: Duration = Duration::from_secs(90);

/// An HTTP client for `https://` URLs. It reuses connections.
#[derive(Clone, Debug)]
pub(crate) struct HttpsClient(Client<Connector, Full<Bytes>>);

impl HttpsClient {
    pub(super) fn new(net: Net) -> Self {
        let mut builder = Client::builder(TokioExecutor::new());
        builder.pool_timer(TokioTimer::new()).pool_idle_timeout(IDLE_TIMEOUT);
        Self(builder.build(Connector(net)))
    }

    /// Sends a request, and returns the response with an unread body.
    ///
    /// # Errors
    /// See [`NetError`].
    pub(crate) async fn send(&self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, NetError> {
        let host = request.uri().authority().map_or(String::new(), ToString::to_string);
        let response = async {
            self.0.request(request).await.map_err(|error| {
                let cause = || NetError::Unreachable { host: host.clone(), cause: root(&error).into() };
                NetError::find(&error).unwrap_or_else(cause)
            })
        };
        let timed_out = |after| NetError::TimedOut { host: host.clone(), after };
        with_timeout(HEAD_TIMEOUT, response, timed_out).await
    }
}

/// Opens the connections of a client.
#[derive(Clone, Debug)]
struct Connector(Net);

impl Service<Uri> for Connector {
    type Response = Pooled;
    type Error = NetError;
    type Future = BoxFuture<'static, Result<Pooled, NetError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), NetError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let net = self.0.clone();
        Box::pin(async move {
            let Some(authority) = uri.authority().filter(|_| uri.scheme_str() == Some("https")) else {
                return Err(NetError::Client(format!("{uri} is not an https:// URL")));
            };
            Ok(Pooled(TokioIo::new(net.connect(authority).await?)))
        })
    }
}

/// A connection in a client's pool.
struct Pooled(TokioIo<Stream>);

impl Connection for Pooled {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl Read for Pooled {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<IoResult<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl Write for Pooled {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<IoResult<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<IoResult<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<IoResult<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<IoResult<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, bufs)
    }
}
