//! TLS 1.2 and 1.3 with one provider (ring) and the system's trust store, which loads in parallel with the network.

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
    /// A file or directory that could not be read.
    unread: Option<Unread>,
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
    Ok(Roots { verifier: Arc::new(verifier), unread: None })
}

/// Loads the certificates of `SSL_CERT_FILE` and `SSL_CERT_DIR`, or those of the distribution.
#[cfg(not(any(windows, target_vendor = "apple")))]
fn roots(provider: &Arc<CryptoProvider>) -> Result<Roots, Error> {
    use rustls::client::WebPkiServerVerifier;
    let other = |error: Unread| Error::Other(OtherError(Arc::new(error)));
    // The loader would block on a FIFO, and read a device without a limit.
    if let Some(file) = std::env::var_os("SSL_CERT_FILE").filter(|file| std::fs::exists(file).unwrap_or(true))
    {
        open_regular(file.as_ref()).map_err(|error| other(Unread::new(file.as_ref(), &error)))?;
    }
    let loaded = rustls_native_certs::load_native_certs();
    let unread = loaded.errors.iter().find_map(|error| match &error.kind {
        rustls_native_certs::ErrorKind::Io { inner, path } => Some(Unread::new(path, inner)),
        _ => None,
    });
    let mut store = rustls::RootCertStore::empty();
    store.add_parsable_certificates(loaded.certs);
    if store.is_empty() {
        return Err(unread.or_else(unread_bundle).map_or(Error::General(NO_ROOTS.into()), other));
    }
    let verifier = WebPkiServerVerifier::builder_with_provider(store.into(), Arc::clone(provider)).build();
    let verifier = verifier.map_err(|error| Error::Other(OtherError(Arc::new(error))))?;
    Ok(Roots { verifier, unread })
}

/// Returns the certificate file of the distribution, if it cannot be opened.
#[cfg(not(any(windows, target_vendor = "apple")))]
fn unread_bundle() -> Option<Unread> {
    BUNDLES.iter().map(std::path::Path::new).find_map(|path| match open_regular(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Some(Unread::new(path, &error)),
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

/// The error if the system has no root certificates. The error of rustls-platform-verifier begins with the same words.
pub(crate) const NO_ROOTS: &str = "No CA certificates";

/// Root certificates that could not be read.
#[derive(Clone, Debug, thiserror::Error)]
#[error("cannot read the root certificates in {}: {why}", path.display())]
pub(crate) struct Unread {
    path: PathBuf,
    why: String,
    lacks_descriptors: bool,
}

impl Unread {
    /// Returns whether the cause is the limit of file descriptors.
    pub(crate) fn is_for_want_of_descriptors(&self) -> bool {
        self.lacks_descriptors
    }
}

#[cfg(not(any(windows, target_vendor = "apple")))]
impl Unread {
    fn new(path: &std::path::Path, error: &std::io::Error) -> Self {
        let limits = [Errno::MFILE, Errno::NFILE].map(|limit| Some(limit.raw_os_error()));
        let lacks_descriptors = limits.contains(&error.raw_os_error());
        Self { path: path.to_owned(), why: error.to_string(), lacks_descriptors }
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
                let (issuer, unread) = (x509::issuer(end_entity), roots.unread.clone());
                let untrusted = UnknownIssuer { issuer, unread };
                Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(untrusted))))
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

/// The system does not trust the issuer of a certificate. Usually a proxy intercepts TLS.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the certificate comes from {}", issuer.as_deref().unwrap_or("nobody"))]
pub(crate) struct UnknownIssuer {
    /// The name of the issuer.
    pub(crate) issuer: Option<String>,
    /// Root certificates that could not be read, and could include the issuer's.
    pub(crate) unread: Option<Unread>,
}

/// Returns the TLS error within an error. tokio-rustls and hyper wrap it in several layers of [`std::io::Error`].
pub(crate) fn error_in<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a Error> {
    match error.downcast_ref::<std::io::Error>() {
        Some(io) => error_in(io.get_ref()?),
        None => error.downcast_ref(),
    }
}
