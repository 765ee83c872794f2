//! TLS 1.2 and 1.3 with one provider (ring) and the system's trust store, which is loaded while the network answers.

use std::sync::{Arc, OnceLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring::{default_provider, kx_group};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, OtherError, SignatureScheme};
use rustls_platform_verifier::Verifier;

use crate::net::certificate;

/// TLS for every connection: ARM, Entra ID and the relay.
///
/// secp384r1 comes first, and so has its key share in the first ClientHello: Azure Relay answers a client without one
/// with a HelloRetryRequest, one round trip more (aztunnel `docs/internals/sequences/port-forward.md`).
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

/// The system's verdict on a server's certificate.
///
/// Reading the OS store is the dearest part of a start (290 certificates take about 6 ms), and its result is not needed
/// before the server's certificate arrives: it is loaded on a thread of its own, and whoever comes first waits.
#[derive(Debug)]
struct SystemTrust {
    provider: Arc<CryptoProvider>,
    verifier: OnceLock<Result<Verifier, Error>>,
}

impl SystemTrust {
    fn load(provider: Arc<CryptoProvider>) -> Arc<Self> {
        let trust = Arc::new(Self { provider, verifier: OnceLock::new() });
        let early = Arc::clone(&trust);
        // Without the thread it is loaded when a certificate arrives.
        let _ = std::thread::Builder::new().spawn(move || early.verifier().is_ok());
        trust
    }

    fn verifier(&self) -> Result<&Verifier, Error> {
        let load = || Verifier::new_with_extra_roots(extra_roots(), Arc::clone(&self.provider));
        self.verifier.get_or_init(load).as_ref().map_err(Error::clone)
    }
}

/// `SSL_CERT_FILE` and `SSL_CERT_DIR` replace the store on Linux, where the verifier reads them itself; elsewhere the
/// system's own verifier decides, and they add to it.
fn extra_roots() -> Vec<CertificateDer<'static>> {
    #[cfg(any(windows, target_vendor = "apple"))]
    {
        let path =
            |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(std::path::PathBuf::from);
        let (file, dir) = (path("SSL_CERT_FILE"), path("SSL_CERT_DIR"));
        rustls_native_certs::load_certs_from_paths(file.as_deref(), dir.as_deref()).certs
    }
    #[cfg(not(any(windows, target_vendor = "apple")))]
    Vec::new()
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
        let verifier = self.verifier()?;
        let verdict = verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        verdict.map_err(|error| match error {
            Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
                let untrusted = Untrusted { issuer: certificate::issuer(end_entity) };
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

/// An authority that the system does not trust: that of a proxy that reads along, as a rule.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the certificate comes from {}", issuer.as_deref().unwrap_or("nobody"))]
pub(crate) struct Untrusted {
    /// What it calls itself.
    pub(crate) issuer: Option<String>,
}

/// The TLS error in an error, if it is one: tokio-rustls and hyper hide it in one [`std::io::Error`] and another.
pub(crate) fn refusal<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a Error> {
    match error.downcast_ref::<std::io::Error>() {
        Some(io) => refusal(io.get_ref()?),
        None => error.downcast_ref(),
    }
}
