//! The base line of the benchmark: copies standard input and output to a server.
//!
//! `arcssh-bench-limit tls ADDRESS CA-FILE` uses arcssh's TLS library, configuration, runtime and kind of pipe, but trusts
//! only one authority and has no WebSocket. `arcssh-bench-limit tcp ADDRESS` replaces `nc`.

#![forbid(unsafe_code)]

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::{default_provider, kx_group};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, copy_bidirectional_with_sizes, join};
use tokio::net::TcpStream;
use tokio::net::unix::pipe::OpenOptions;
use tokio_rustls::TlsConnector;

/// The bytes of one read, in both directions.
const BUFFER: usize = 64 * 1024;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["tls", address, authority] => carry(connect_tls(address.parse()?, authority).await?).await,
        ["tcp", address] => carry(connect(address.parse()?).await?).await,
        _ => bail!("usage: arcssh-bench-limit tls ADDRESS CA-FILE | tcp ADDRESS"),
    }
}

async fn connect(address: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// The first data is an empty head, which takes the place of the WebSocket upgrade.
async fn connect_tls(address: SocketAddr, authority: &str) -> Result<impl AsyncRead + AsyncWrite + Unpin> {
    let connector = TlsConnector::from(Arc::new(tls_config(authority)?));
    let name = ServerName::from(address.ip()).to_owned();
    let mut stream = connector.connect(name, connect(address).await?).await?;
    stream.write_all(b"raw\r\n\r\n").await?;
    stream.flush().await?;
    Ok(stream)
}

/// The key-exchange groups are those of arcssh (`src/net/tls`).
fn tls_config(authority: &str) -> Result<ClientConfig> {
    let kx_groups = vec![kx_group::SECP384R1, kx_group::X25519, kx_group::SECP256R1];
    let provider = CryptoProvider { kx_groups, ..default_provider() };
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(authority).context("the authority's certificate")?)?;
    let config =
        ClientConfig::builder_with_provider(Arc::new(provider)).with_safe_default_protocol_versions()?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

/// Opens the pipes a second time, non-blocking, as arcssh does.
async fn carry(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> Result<()> {
    let input =
        OpenOptions::new().open_receiver("/proc/self/fd/0").context("standard input is not a pipe")?;
    let output =
        OpenOptions::new().open_sender("/proc/self/fd/1").context("standard output is not a pipe")?;
    copy_bidirectional_with_sizes(&mut join(input, output), &mut stream, BUFFER, BUFFER).await?;
    Ok(())
}
