//! TLS 1.2 and 1.3 with one provider (ring) and the system's trust store, which loads in parallel with the network.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring::{default_provider, kx_group};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, OtherError, SignatureScheme};

#[cfg(not(any(windows, target_vendor = "apple")))]
use rustix::io::Errno;

#[cfg(not(any(windows, target_vendor = "apple")))]
use crate::net::x509;
use crate::system::files::open_regular;

/// Returns the TLS configuration of all connections: ARM, Entra ID and the relay.
///
/// secp384r1 is the first group, so that the first ClientHello contains its key share. Without one, Azure Relay sends a
/// HelloRetryRequest, which costs one round trip (aztunnel `docs/internals/sequences/port-forward.md`).
pub(crate) fn client_config() -> ClientConfig {
    let kx_groups = vec![kx_group::SECP384R1, kx_group::X25519, kx_group::SECP256R1];
    let provider = Arc::new(CryptoProvider { kx_groups, ..default_provider() });
    ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("ring has cipher suites for TLS 1.2 and 1.3")
        .dangerous()
        .with_custom_certificate_verifier(SystemTrust::load(provider))
        .with_no_client_auth()
}

/// Verifies certificates with the system's trust store.
///
/// Reading the trust store takes longer than the rest of the start (290 certificates: about 6 ms), and is not needed before
/// the server's certificate arrives. A thread therefore loads it.
#[derive(Debug)]
struct SystemTrust {
    provider: Arc<CryptoProvider>,
    roots: OnceLock<Result<Roots, Error>>,
}

/// The system's root certificates.
#[derive(Debug)]
struct Roots {
    verifier: Arc<dyn ServerCertVerifier>,
    /// A part of them that could not be read.
    unreadable: Option<Unreadable>,
}

impl SystemTrust {
    fn load(provider: Arc<CryptoProvider>) -> Arc<Self> {
        let trust = Arc::new(Self { provider, roots: OnceLock::new() });
        let early = Arc::clone(&trust);
        // Without a thread, the store is loaded when a certificate arrives.
        let _ = std::thread::Builder::new().spawn(move || early.roots().is_ok());
        trust
    }

    fn roots(&self) -> Result<&Roots, Error> {
        self.roots.get_or_init(|| roots(&self.provider)).as_ref().map_err(Error::clone)
    }
}

/// Uses the platform's verifier. `SSL_CERT_FILE` and `SSL_CERT_DIR` add certificates.
#[cfg(any(windows, target_vendor = "apple"))]
fn roots(provider: &Arc<CryptoProvider>) -> Result<Roots, Error> {
    let path = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(std::path::PathBuf::from);
    let (file, dir) = (path("SSL_CERT_FILE"), path("SSL_CERT_DIR"));
    let extra = rustls_native_certs::load_certs_from_paths(file.as_deref(), dir.as_deref()).certs;
    let verifier = rustls_platform_verifier::Verifier::new_with_extra_roots(extra, Arc::clone(provider))?;
    Ok(Roots { verifier: Arc::new(verifier), unreadable: None })
}

/// Loads the certificates of `SSL_CERT_FILE` and `SSL_CERT_DIR`, or those of the distribution.
#[cfg(not(any(windows, target_vendor = "apple")))]
fn roots(provider: &Arc<CryptoProvider>) -> Result<Roots, Error> {
    use rustls::client::WebPkiServerVerifier;
    let other = |error: TrustError| Error::Other(error.into());
    // The loader waits for the other end of a FIFO, and reads a device without end.
    if let Some(file) = std::env::var_os("SSL_CERT_FILE").filter(|file| std::fs::exists(file).unwrap_or(true))
    {
        open_regular(file.as_ref())
            .map_err(|error| other(TrustError::Unreadable(Unreadable::new(file.as_ref(), &error))))?;
    }
    let loaded = rustls_native_certs::load_native_certs();
    let unreadable = loaded.errors.iter().find_map(|error| match &error.kind {
        rustls_native_certs::ErrorKind::Io { inner, path } => Some(Unreadable::new(path, inner)),
        _ => None,
    });
    let mut store = rustls::RootCertStore::empty();
    store.add_parsable_certificates(loaded.certs);
    if store.is_empty() {
        let error = unreadable.or_else(unreadable_bundle).map_or(TrustError::NoRoots, TrustError::Unreadable);
        return Err(other(error));
    }
    let verifier = WebPkiServerVerifier::builder_with_provider(store.into(), Arc::clone(provider)).build();
    let verifier = verifier.map_err(|error| Error::Other(OtherError(Arc::new(error))))?;
    Ok(Roots { verifier, unreadable })
}

/// Returns the certificate file of the distribution, if it cannot be opened.
#[cfg(not(any(windows, target_vendor = "apple")))]
fn unreadable_bundle() -> Option<Unreadable> {
    BUNDLES.iter().map(std::path::Path::new).find_map(|path| match open_regular(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Some(Unreadable::new(path, &error)),
        _ => None,
    })
}

/// The files of Debian, Fedora, openSUSE and Alpine (openssl-probe, `probe_from_env` and its list).
#[cfg(not(any(windows, target_vendor = "apple")))]
const BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// The text with which rustls-platform-verifier begins its error if the system has no root certificates.
const NO_ROOTS: &str = "No CA certificates";

/// Root certificates that arcssh cannot read.
#[derive(Clone, Debug)]
pub(crate) struct Unreadable {
    path: PathBuf,
    cause: String,
    lacks_descriptors: bool,
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot read the root certificates in {}: {}", self.path.display(), self.cause)
    }
}

impl Unreadable {
    /// Returns whether the limit of file descriptors is the cause.
    pub(crate) fn lacks_descriptors(&self) -> bool {
        self.lacks_descriptors
    }
}

#[cfg(not(any(windows, target_vendor = "apple")))]
impl Unreadable {
    pub(crate) fn new(path: &std::path::Path, error: &std::io::Error) -> Self {
        let limits = [Errno::MFILE, Errno::NFILE].map(|limit| Some(limit.raw_os_error()));
        let lacks_descriptors = limits.contains(&error.raw_os_error());
        Self { path: path.to_owned(), cause: error.to_string(), lacks_descriptors }
    }
}

impl ServerCertVerifier for SystemTrust {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let roots = self.roots()?;
        let result =
            roots.verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        result.map_err(|error| match error {
            Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
                let issuer = x509::issuer(end_entity);
                let error = TrustError::UnknownIssuer { issuer, unreadable: roots.unreadable.clone() };
                Error::InvalidCertificate(CertificateError::Other(error.into()))
            }
            error => error,
        })
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Why this computer does not trust a certificate, inside of an error of rustls.
#[derive(Clone, Debug, thiserror::Error)]
enum TrustError {
    #[error("unknown issuer")]
    UnknownIssuer { issuer: Option<String>, unreadable: Option<Unreadable> },
    #[error("no root certificates")]
    NoRoots,
    #[error("{0}")]
    Unreadable(Unreadable),
}

impl From<TrustError> for OtherError {
    fn from(error: TrustError) -> Self {
        Self(Arc::new(error))
    }
}

/// Why a TLS handshake failed.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum TlsError {
    /// The system does not trust the authority: usually that of a proxy that inspects TLS.
    #[error("this computer does not trust the certificate's authority")]
    UnknownIssuer {
        /// The authority's own name.
        issuer: Option<String>,
        /// Root certificates that arcssh could not read, one of which may be the authority's.
        unreadable: Option<Unreadable>,
    },
    /// The certificate has expired.
    #[error("the certificate has expired")]
    Expired,
    /// The certificate is not valid yet.
    #[error("the certificate is not valid yet")]
    NotYetValid,
    /// The system has no root certificates.
    #[error("no root certificates")]
    NoRoots,
    /// The root certificates cannot be read.
    #[error("{0}")]
    Unreadable(Unreadable),
    /// The certificate is not valid for another reason.
    #[error("{0}")]
    InvalidCertificate(String),
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

impl From<&Error> for TlsError {
    fn from(error: &Error) -> Self {
        let other = match error {
            Error::Other(other) | Error::InvalidCertificate(CertificateError::Other(other)) => {
                other.0.downcast_ref::<TrustError>()
            }
            _ => None,
        };
        match (other, error) {
            (Some(TrustError::UnknownIssuer { issuer, unreadable }), _) => {
                Self::UnknownIssuer { issuer: issuer.clone(), unreadable: unreadable.clone() }
            }
            (Some(TrustError::NoRoots), _) => Self::NoRoots,
            (Some(TrustError::Unreadable(unreadable)), _) => Self::Unreadable(unreadable.clone()),
            (None, Error::General(text)) if text.starts_with(NO_ROOTS) => Self::NoRoots,
            (None, Error::InvalidCertificate(error)) => match error {
                CertificateError::Expired | CertificateError::ExpiredContext { .. } => Self::Expired,
                CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                    Self::NotYetValid
                }
                error => Self::InvalidCertificate(error.to_string()),
            },
            (None, error) => Self::Other(error.to_string()),
        }
    }
}

/// Returns the TLS error in an error. tokio-rustls and hyper put it into one or two [`std::io::Error`]s.
pub(crate) fn error_in<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a Error> {
    match error.downcast_ref::<std::io::Error>() {
        Some(io) => error_in(io.get_ref()?),
        None => error.downcast_ref(),
    }
}
