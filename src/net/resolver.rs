//! Name resolution by the system.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::thread;
use std::vec::IntoIter;

use hyper_util::client::legacy::connect::dns::Name;
use tokio::sync::oneshot;
use tower_service::Service;

/// Resolves each name on a thread of its own. The threads of tokio, which hyper-util uses by default, panic if the system
/// denies one; without a thread, this resolver blocks.
#[derive(Clone)]
pub(super) struct Resolver;

impl Service<Name> for Resolver {
    type Response = IntoIter<SocketAddr>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let (sender, addresses) = oneshot::channel();
        let on_thread = name.clone();
        let thread = thread::Builder::new().name("resolver".into());
        let started = thread.spawn(move || drop(sender.send(resolve(&on_thread))));
        Box::pin(async move {
            match started {
                Ok(_detached) => addresses.await.map_err(io::Error::other)?,
                Err(_no_thread) => resolve(&name),
            }
        })
    }
}

/// Resolves a name (getaddrinfo(3)). The port is set later.
fn resolve(name: &Name) -> io::Result<IntoIter<SocketAddr>> {
    (name.as_str(), 0).to_socket_addrs()
}
