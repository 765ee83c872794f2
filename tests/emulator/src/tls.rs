//! A temporary certificate authority, and the TLS configurations of servers and agent.

use std::sync::Arc;

use anyhow::Context as _;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, HandshakeKind, RootCertStore, ServerConfig, ServerConnection};

use crate::clock::{self, Clock};
use crate::journal::Service;
use crate::relay::IPV6_HOST;

/// The names of the loopback interface. A dual-stack client may connect to `::ffff:127.0.0.1`.
const SUBJECT_NAMES: [&str; 5] = ["localhost", "127.0.0.1", "::1", "::ffff:127.0.0.1", IPV6_HOST];

const DAY: u64 = 86_400;
const VALID_DAYS: u64 = 30;

/// The key-exchange groups that the relay's TLS accepts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeyExchange {
    /// All groups of rustls' ring provider.
    #[default]
    Any,
    /// Only secp384r1. A client whose first key share is of another group receives a HelloRetryRequest, as from Azure
    /// Relay (aztunnel `docs/internals/sequences/port-forward.md`).
    Secp384r1Only,
}

/// The outcome of the TLS handshake of one accepted connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsHandshake {
    /// The server of the connection.
    pub service: Service,
    /// Whether the server rejected the client's first key share with a HelloRetryRequest.
    pub hello_retry_request: bool,
    /// Whether the client resumed an earlier session.
    pub resumed: bool,
    /// The negotiated protocol version in rustls' spelling (`TLSv1_3`).
    pub protocol_version: String,
}

impl TlsHandshake {
    /// Returns the outcome for `connection`, whose handshake is complete.
    pub(crate) fn of(service: Service, connection: &ServerConnection) -> Self {
        let kind = connection.handshake_kind();
        Self {
            service,
            hello_retry_request: kind == Some(HandshakeKind::FullWithHelloRetryRequest),
            resumed: kind == Some(HandshakeKind::Resumed),
            protocol_version: connection.protocol_version().map(|v| format!("{v:?}")).unwrap_or_default(),
        }
    }
}

/// The certificate that a test's server presents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerCertificate {
    /// The certificate of the emulator's servers.
    Genuine,
    /// From the same authority, but expired.
    Expired,
    /// From the same authority, but for another host.
    OtherHost,
    /// For the right host, but from an authority that the environment does not trust.
    Untrusted,
}

/// The authority, and the certificate that it signed for all servers.
pub(crate) struct Certificates {
    issuer: Issuer<'static, KeyPair>,
    authority: CertificateDer<'static>,
    authority_pem: String,
    server: CertificateDer<'static>,
    server_key: PrivateKeyDer<'static>,
}

impl Certificates {
    /// Generates an authority and a certificate that are valid for a month.
    pub(crate) fn generate() -> anyhow::Result<Self> {
        let (authority_parameters, authority_key) = (authority_parameters()?, KeyPair::generate()?);
        let authority = authority_parameters.self_signed(&authority_key)?;
        let issuer = Issuer::new(authority_parameters, authority_key);
        let server_key = KeyPair::generate()?;
        let server = server_parameters()?.signed_by(&server_key, &issuer)?;
        Ok(Self {
            issuer,
            authority_pem: authority.pem(),
            authority: authority.der().clone(),
            server: server.der().clone(),
            server_key: PrivateKeyDer::Pkcs8(server_key.serialize_der().into()),
        })
    }

    /// The authority's certificate, for `SSL_CERT_FILE`.
    pub(crate) fn authority_pem(&self) -> &str {
        &self.authority_pem
    }

    /// A server for HTTP/1.1, the only version with the WebSocket upgrade of RFC 6455.
    pub(crate) fn server(&self, key_exchange: KeyExchange) -> anyhow::Result<Arc<ServerConfig>> {
        server_config(key_exchange, self.server.clone(), self.server_key.clone_key())
    }

    /// A server that presents `certificate`.
    pub(crate) fn presenting(&self, certificate: ServerCertificate) -> anyhow::Result<Arc<ServerConfig>> {
        let mut parameters = server_parameters()?;
        match certificate {
            ServerCertificate::Genuine => return self.server(KeyExchange::Any),
            ServerCertificate::Untrusted => return Self::generate()?.server(KeyExchange::Any),
            ServerCertificate::Expired => {
                parameters.not_before = date_time_ymd(2020, 1, 1);
                parameters.not_after = date_time_ymd(2020, 2, 1);
            }
            ServerCertificate::OtherHost => {
                let other = CertificateParams::new(vec!["other.arcssh.example".to_owned()])?;
                parameters.subject_alt_names = other.subject_alt_names;
            }
        }
        let key = KeyPair::generate()?;
        let signed = parameters.signed_by(&key, &self.issuer)?;
        server_config(
            KeyExchange::Any,
            signed.der().clone(),
            PrivateKeyDer::Pkcs8(key.serialize_der().into()),
        )
    }

    /// A client that trusts only this authority.
    pub(crate) fn client(&self) -> anyhow::Result<Arc<ClientConfig>> {
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.clone())?;
        let config = ClientConfig::builder_with_provider(provider(KeyExchange::Any))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Arc::new(config))
    }
}

fn server_config(
    key_exchange: KeyExchange,
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
) -> anyhow::Result<Arc<ServerConfig>> {
    let mut config = ServerConfig::builder_with_provider(provider(key_exchange))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .context("server certificate")?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn provider(key_exchange: KeyExchange) -> Arc<CryptoProvider> {
    let mut provider = ring::default_provider();
    if key_exchange == KeyExchange::Secp384r1Only {
        provider.kx_groups = vec![ring::kx_group::SECP384R1];
    }
    Arc::new(provider)
}

fn authority_parameters() -> anyhow::Result<CertificateParams> {
    let mut parameters = CertificateParams::new(Vec::<String>::new())?;
    parameters.distinguished_name.push(DnType::CommonName, "arcssh emulator authority");
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    limit_validity(&mut parameters);
    Ok(parameters)
}

fn server_parameters() -> anyhow::Result<CertificateParams> {
    let mut parameters = CertificateParams::new(SUBJECT_NAMES.map(str::to_owned))?;
    parameters.distinguished_name.push(DnType::CommonName, "arcssh emulator");
    parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    parameters.use_authority_key_identifier_extension = true;
    limit_validity(&mut parameters);
    Ok(parameters)
}

/// Makes a certificate valid from yesterday, because clocks differ, for a month: platform verifiers reject certificates
/// with a long lifetime.
fn limit_validity(parameters: &mut CertificateParams) {
    let at = |seconds| {
        let (year, month, day) = clock::date(seconds);
        date_time_ymd(year, month, day)
    };
    // The client checks the validity with the clock of this machine.
    let now = Clock::default().unix_seconds();
    parameters.not_before = at(now - DAY);
    parameters.not_after = at(now + VALID_DAYS * DAY);
}
