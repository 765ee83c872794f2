//! TLS 1.2 and 1.3 with one provider (ring) and the system's trust store, which loads in parallel with the network.

mod failure;
mod key_share;
mod pem;

use std::ffi::OsString;
use std::fmt;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring::{default_provider, kx_group};
use rustls::crypto::{CryptoProvider, SupportedKxGroup, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, OtherError, RootCertStore, SignatureScheme,
};

use crate::net::tls::key_share::EarlySecp384r1;
use crate::net::x509;
use crate::system::files::open_regular;
use crate::text::{unquoted, without_byte_order_mark};

/// Returns the TLS configuration of all connections: ARM, Entra ID and the relay.
///
/// secp384r1 is the first group, so that the first ClientHello contains its key share. Without one, Azure Relay sends a
/// HelloRetryRequest, which costs one round trip (aztunnel `docs/internals/sequences/port-forward.md`).
pub(super) fn client_config() -> (ClientConfig, Arc<SystemTrust>) {
    let kx_groups = vec![&EarlySecp384r1 as &dyn SupportedKxGroup, kx_group::X25519, kx_group::SECP256R1];
    let provider = Arc::new(CryptoProvider { kx_groups, ..default_provider() });
    let trust = SystemTrust::load(Arc::clone(&provider));
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring has cipher suites for TLS 1.2 and 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::clone(&trust) as _)
        .with_no_client_auth();
    (config, trust)
}

/// Verifies certificates with the system's trust store, and with the certificates that the user has added.
///
/// Reading the trust store takes longer than the rest of the start, and is not needed before the server's certificate arrives.
/// A thread therefore loads it. The system's certificates are in a file and again, one by one, in a directory, to which an
/// administrator can have added others. arcssh reads the directory only if the file does not suffice.
#[derive(Debug)]
pub(super) struct SystemTrust {
    provider: Arc<CryptoProvider>,
    roots: OnceLock<Result<Roots, Error>>,
    /// With the system's directories, if `roots` lacks them.
    all: OnceLock<Result<Roots, Error>>,
}

/// The root certificates.
#[derive(Debug)]
struct Roots {
    verifier: Arc<dyn ServerCertVerifier>,
    /// Where they come from.
    origin: String,
    /// A part of them that could not be read.
    unreadable: Option<Unreadable>,
    /// Which of the system's certificates they contain.
    extent: Extent,
}

/// The system's certificates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Extent {
    /// Those of the file.
    #[cfg(not(any(windows, target_vendor = "apple")))]
    File,
    All,
}

impl SystemTrust {
    fn load(provider: Arc<CryptoProvider>) -> Arc<Self> {
        let trust = Arc::new(Self { provider, roots: OnceLock::new(), all: OnceLock::new() });
        let early = Arc::clone(&trust);
        // Without a thread, the store is loaded when a certificate arrives.
        let _ = std::thread::Builder::new().spawn(move || {
            key_share::generate();
            early.roots().is_ok()
        });
        trust
    }

    fn roots(&self) -> Result<&Roots, Error> {
        self.roots.get_or_init(|| first_roots(&self.provider)).as_ref().map_err(Error::clone)
    }

    /// Returns the roots for a second attempt, if there are more than [`Self::roots`].
    fn more_roots(&self) -> Option<&Roots> {
        if self.roots().ok()?.extent == Extent::All {
            return None;
        }
        self.all.get_or_init(|| all_roots(&self.provider)).as_ref().ok()
    }

    /// Returns where the root certificates come from.
    pub(super) fn origin(&self) -> Result<String, TlsError> {
        self.roots().map(|roots| roots.origin.clone()).map_err(|error| TlsError::from(&error))
    }
}

/// The certificates that the user has added to the system's.
#[derive(Default)]
struct Added {
    certificates: Vec<CertificateDer<'static>>,
    /// The values and names of the variables.
    origins: String,
    unreadable: Option<Unreadable>,
}

impl Added {
    /// Reads the certificates of `SSL_CERT_FILE`, a file, and `SSL_CERT_DIR`, a list of directories (OpenSSL,
    /// SSL_CTX_load_verify_locations(3)). Unlike in OpenSSL, they do not replace the system's: behind a proxy that inspects only
    /// some hosts, both are necessary.
    ///
    /// # Errors
    /// A variable names no certificate.
    fn from_environment() -> Result<Self, Error> {
        let mut added = Self::default();
        if let Some(file) = path_in(CERT_FILE).map(PathBuf::from) {
            added.add_file(&file).map_err(|cause| Unreadable::new(&file, &cause, CERT_FILE).into_error())?;
            added.origins += &format!(" and {} ({CERT_FILE})", file.display());
        }
        if let Some(list) = path_in(CERT_DIR) {
            let directories = std::env::split_paths(&list).filter(|path| !path.as_os_str().is_empty());
            let are_readable: Vec<bool> = directories.map(|path| added.add_directory(&path)).collect();
            // An empty directory next to a file of certificates is a choice.
            if !are_readable.contains(&true) || added.certificates.is_empty() {
                let none = || Unreadable::new(list.as_ref(), &no_certificate(), CERT_DIR);
                return Err(added.unreadable.unwrap_or_else(none).into_error());
            }
            added.origins += &format!(" and {} ({CERT_DIR})", list.display());
        }
        Ok(added)
    }

    fn add_file(&mut self, file: &Path) -> io::Result<()> {
        // A FIFO would block, and a device has no end.
        let mut bytes = Vec::new();
        open_regular(file)?.take(MAX_FILE).read_to_end(&mut bytes)?;
        let text = without_byte_order_mark(&bytes);
        let certificates = pem::certificates(text);
        let (valid, _) = RootCertStore::empty().add_parsable_certificates(certificates.iter().cloned());
        if valid == 0 {
            return Err(no_certificate());
        }
        self.certificates.extend(certificates);
        Ok(())
    }

    /// Adds the certificates in the files of a directory, and returns whether the directory is readable.
    fn add_directory(&mut self, directory: &Path) -> bool {
        let loaded = rustls_native_certs::load_certs_from_paths(None, Some(directory));
        let error = loaded.errors.iter().find_map(io_error);
        let is_readable = error.is_none_or(|(path, _)| path != directory);
        self.unreadable =
            error.map(|(path, cause)| Unreadable::new(path, cause, CERT_DIR)).or(self.unreadable.take());
        self.certificates.extend(loaded.certs);
        is_readable
    }
}

fn io_error(error: &rustls_native_certs::Error) -> Option<(&Path, &io::Error)> {
    match &error.kind {
        rustls_native_certs::ErrorKind::Io { inner, path } => Some((path, inner)),
        _ => None,
    }
}

fn no_certificate() -> io::Error {
    io::Error::other("it contains no certificate in PEM format")
}

/// Returns the path in a variable.
fn path_in(variable: &str) -> Option<OsString> {
    let value = std::env::var_os(variable)?;
    let value = value.to_str().map(|text| unquoted(text).into()).unwrap_or(value);
    Some(value).filter(|value| !value.is_empty())
}

/// The variables of OpenSSL for root certificates.
pub(crate) const CERT_FILE: &str = "SSL_CERT_FILE";
const CERT_DIR: &str = "SSL_CERT_DIR";
/// More than any bundle: that of Mozilla has 220 kB.
const MAX_FILE: u64 = 16 * 1024 * 1024;

/// Returns the roots for the first attempt.
#[cfg(any(windows, target_vendor = "apple"))]
fn first_roots(provider: &Arc<CryptoProvider>) -> Result<Roots, Error> {
    all_roots(provider)
}

/// Uses the platform's verifier.
#[cfg(any(windows, target_vendor = "apple"))]
fn all_roots(provider: &Arc<CryptoProvider>) -> Result<Roots, Error> {
    use rustls_platform_verifier::Verifier;
    let Added { certificates, origins, unreadable } = Added::from_environment()?;
    let provider = Arc::clone(provider);
    // On Windows, additional roots require a chain engine of their own.
    let verifier = if certificates.is_empty() {
        Verifier::new(provider)
    } else {
        Verifier::new_with_extra_roots(certificates, provider)
    }?;
    Ok(Roots {
        verifier: Arc::new(verifier),
        origin: format!("the system's trust store{origins}"),
        unreadable,
        extent: Extent::All,
    })
}

/// Loads the certificates of the distribution's file, and those of the user. With the user's, the file is all.
#[cfg(not(any(windows, target_vendor = "apple")))]
fn first_roots(provider: &Arc<CryptoProvider>) -> Result<Roots, Error> {
    let mut added = Added::from_environment()?;
    let extent = if added.origins.is_empty() { Extent::File } else { Extent::All };
    let is_added = |path: &Path| path_in(CERT_FILE).as_deref() == Some(path.as_os_str());
    match bundle() {
        Some(bundle) if is_added(bundle) => {}
        Some(bundle) => {
            if let Err(error) = added.add_file(bundle) {
                if extent == Extent::File {
                    return all_roots(provider);
                }
                added.unreadable.get_or_insert(Unreadable::new(bundle, &error, ""));
            }
        }
        None => return all_roots(provider),
    }
    Roots::new(added, extent, provider)
}

/// Loads all certificates of the distribution, also those in directories, and those of the user.
#[cfg(not(any(windows, target_vendor = "apple")))]
fn all_roots(provider: &Arc<CryptoProvider>) -> Result<Roots, Error> {
    let mut added = Added::from_environment()?;
    let loaded = rustls_native_certs::load_native_certs();
    let of_system = loaded.errors.iter().find_map(io_error);
    added.unreadable = added.unreadable.or(of_system.map(|(path, cause)| Unreadable::new(path, cause, "")));
    added.certificates.extend(loaded.certs);
    Roots::new(added, Extent::All, provider)
}

#[cfg(not(any(windows, target_vendor = "apple")))]
impl Roots {
    fn new(added: Added, extent: Extent, provider: &Arc<CryptoProvider>) -> Result<Self, Error> {
        use rustls::client::WebPkiServerVerifier;
        let Added { mut certificates, origins, unreadable } = added;
        certificates.sort_unstable_by(|one, other| one.as_ref().cmp(other.as_ref()));
        certificates.dedup();
        let mut store = RootCertStore::empty();
        store.add_parsable_certificates(certificates);
        if store.is_empty() {
            let error =
                unreadable.or_else(unreadable_bundle).map_or(TrustError::NoRoots, TrustError::Unreadable);
            return Err(Error::Other(error.into()));
        }
        let origin = match bundle() {
            Some(bundle) => format!("{}{origins}", bundle.display()),
            None => format!("the system's trust store{origins}"),
        };
        let verifier =
            WebPkiServerVerifier::builder_with_provider(store.into(), Arc::clone(provider)).build();
        let verifier = verifier.map_err(|error| Error::Other(OtherError(Arc::new(error))))?;
        Ok(Self { verifier, origin, unreadable, extent })
    }
}

/// Returns the certificate file of the distribution.
#[cfg(not(any(windows, target_vendor = "apple")))]
fn bundle() -> Option<&'static Path> {
    BUNDLES.iter().map(Path::new).find(|path| path.exists())
}

/// Returns the certificate file of the distribution, if it cannot be opened.
#[cfg(not(any(windows, target_vendor = "apple")))]
fn unreadable_bundle() -> Option<Unreadable> {
    BUNDLES.iter().map(Path::new).find_map(|path| match open_regular(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Some(Unreadable::new(path, &error, "")),
        _ => None,
    })
}

/// The files of Debian, RHEL, Fedora, openSUSE, Alpine and FreeBSD (openssl-probe, `CERTIFICATE_FILE_NAMES`).
#[cfg(not(any(windows, target_vendor = "apple")))]
const BUNDLES: [&str; 6] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
    "/usr/local/etc/ssl/cert.pem",
];

/// Root certificates that arcssh cannot read.
#[derive(Clone, Debug)]
pub(crate) struct Unreadable {
    /// Where they are, and why arcssh cannot read them.
    text: String,
    /// The variable that names them; empty for the system's.
    variable: &'static str,
    lacks_descriptors: bool,
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot read the root certificates in {}", self.text)?;
        if self.variable.is_empty() { Ok(()) } else { write!(f, " ({} names it)", self.variable) }
    }
}

impl Unreadable {
    pub(crate) fn new(path: &Path, error: &io::Error, variable: &'static str) -> Self {
        let lacks_descriptors = error.raw_os_error().is_some_and(is_limit_of_descriptors);
        Self { text: format!("{}: {error}", path.display()), variable, lacks_descriptors }
    }

    fn into_error(self) -> Error {
        Error::Other(TrustError::Unreadable(self).into())
    }

    /// Returns whether the limit of file descriptors is the cause.
    pub(crate) fn lacks_descriptors(&self) -> bool {
        self.lacks_descriptors
    }

    /// Returns the variable that names the certificates, if one does.
    pub(crate) fn variable(&self) -> Option<&'static str> {
        Some(self.variable).filter(|variable| !variable.is_empty())
    }
}

#[cfg(unix)]
fn is_limit_of_descriptors(error: i32) -> bool {
    use rustix::io::Errno;
    [Errno::MFILE, Errno::NFILE].map(Errno::raw_os_error).contains(&error)
}

/// Windows has no such limit.
#[cfg(not(unix))]
fn is_limit_of_descriptors(_: i32) -> bool {
    false
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
        let verify = |roots: &Roots| {
            roots.verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
        };
        let mut roots = self.roots()?;
        let mut result = verify(roots);
        if result.is_err()
            && let Some(more) = self.more_roots()
        {
            roots = more;
            result = verify(roots);
        }
        result.map_err(|error| {
            let Error::InvalidCertificate(error) = error else { return error };
            let issuer = x509::issuer(end_entity);
            let error = match error {
                CertificateError::UnknownIssuer => {
                    TrustError::UnknownIssuer { issuer, unreadable: roots.unreadable.clone() }
                }
                error => TrustError::Invalid { issuer, error },
            };
            Error::InvalidCertificate(CertificateError::Other(error.into()))
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
    #[error("invalid")]
    Invalid { issuer: Option<String>, error: CertificateError },
    #[cfg(not(any(windows, target_vendor = "apple")))]
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
    /// The certificate has expired, at this time if it is known.
    #[error("the certificate has expired")]
    Expired(Option<u64>),
    /// The certificate is not valid yet, but from this time on if it is known.
    #[error("the certificate is not valid yet")]
    NotYetValid(Option<u64>),
    /// The system has no root certificates.
    #[error("no root certificates")]
    NoRoots,
    /// The root certificates cannot be read.
    #[error("{0}")]
    Unreadable(Unreadable),
    /// The certificate is not valid for another reason.
    #[error("the certificate is not valid: it {why}")]
    InvalidCertificate {
        /// A phrase whose subject is the certificate.
        why: String,
        /// The authority's own name.
        issuer: Option<String>,
    },
    /// The other side does not use TLS.
    #[error("the response is not TLS")]
    NotTls,
    /// The two sides have no protocol version or algorithm in common.
    #[error("{0}")]
    Incompatible(&'static str),
    /// The other side rejects the handshake.
    #[error("{0}")]
    Rejected(&'static str),
    /// The connection was closed during the handshake.
    #[error("{0} during the handshake")]
    Interrupted(String),
    /// The other side did not complete the handshake in this time.
    #[error("no response within {} s during the handshake", .0.as_secs())]
    TimedOut(Duration),
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

/// Returns the TLS error in an error. tokio-rustls and hyper put it into one or two [`std::io::Error`]s.
pub(crate) fn error_in<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a Error> {
    match error.downcast_ref::<std::io::Error>() {
        Some(io) => error_in(io.get_ref()?),
        None => error.downcast_ref(),
    }
}
