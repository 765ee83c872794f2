//! A TCP proxy that delivers bytes after a delay, in both directions. The kernel's netem requires root and a module.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::Result;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

const BUFFER: usize = 64 * 1024;
/// The most reads that are on their way: more than any rate fills in the longest delay.
const IN_FLIGHT: usize = 4096;

/// A running proxy.
pub(crate) struct Delay {
    pub(crate) port: u16,
    /// Dropping it ends the proxy.
    _runtime: Runtime,
}

impl Delay {
    /// Starts a proxy to a port on loopback.
    pub(crate) fn start(target: u16, delay: Duration) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))?;
        let port = listener.local_addr()?.port();
        runtime.spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(async move { join(client, target, delay).await.is_ok() });
            }
        });
        Ok(Self { port, _runtime: runtime })
    }
}

async fn join(client: TcpStream, target: u16, delay: Duration) -> Result<()> {
    let server = TcpStream::connect((Ipv4Addr::LOCALHOST, target)).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (client_reads, client_writes) = client.into_split();
    let (server_reads, server_writes) = server.into_split();
    tokio::try_join!(carry(client_reads, server_writes, delay), carry(server_reads, client_writes, delay))?;
    Ok(())
}

/// Carries one direction, with its end.
async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, delay: Duration) -> Result<()> {
    let (sender, mut receiver) = mpsc::channel::<(Instant, Vec<u8>)>(IN_FLIGHT);
    let read = async move {
        let mut buffer = vec![0; BUFFER];
        loop {
            let count = from.read(&mut buffer).await?;
            sender.send((Instant::now() + delay, buffer[..count].to_vec())).await?;
            if count == 0 {
                return Ok::<_, anyhow::Error>(());
            }
        }
    };
    let write = async move {
        while let Some((due, bytes)) = receiver.recv().await {
            if !delay.is_zero() {
                sleep_until(due).await;
            }
            to.write_all(&bytes).await?;
        }
        Ok(to.shutdown().await?)
    };
    tokio::try_join!(read, write)?;
    Ok(())
}
