//! A client certificate, and the client assertion that its key signs (RFC 7523, section 2.2).

use std::path::Path;

use anyhow::{Context, Result, anyhow};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest::{SHA256, digest};
use ring::rand::SystemRandom;
use ring::signature::{RSA_PSS_SHA256, RsaKeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::azure::credentials::source::{CertificateProblem, SourceError};
use crate::system::clock::unix_now;
use crate::system::files;

/// The lifetime of a client assertion, in seconds (MSAL, `assertion.py`).
const LIFETIME: u64 = 600;

/// An application's certificate, with its key.
#[derive(Debug)]
pub(crate) struct ClientCertificate {
    key: RsaKeyPair,
    /// The SHA-256 hash of the certificate's DER form, in base64.
    thumbprint: String,
}

impl ClientCertificate {
    /// Reads a PEM file. Its first certificate must be that of its RSA key.
    ///
    /// # Errors
    /// [`SourceError::ClientCertificate`], or the file is unreadable.
    pub(crate) fn read(path: &Path) -> Result<Self, SourceError> {
        let text = files::read(path, files::MAX_TEXT);
        let text = text.with_context(|| format!("cannot read the certificate {}", path.display()))?;
        Self::from_pem(&text)
            .map_err(|problem| SourceError::ClientCertificate { path: path.display().to_string(), problem })
    }

    fn from_pem(text: &[u8]) -> Result<Self, CertificateProblem> {
        let contains = |marker: &str| text.windows(marker.len()).any(|window| window == marker.as_bytes());
        if !contains("-----BEGIN ") {
            return Err(CertificateProblem::NotPem);
        }
        if contains("ENCRYPTED") {
            return Err(CertificateProblem::Locked);
        }
        let certificate =
            CertificateDer::from_pem_slice(text).map_err(|_| CertificateProblem::NoCertificate)?;
        let key = PrivateKeyDer::from_pem_slice(text).map_err(|_| CertificateProblem::NoKey)?;
        let key = match &key {
            PrivateKeyDer::Pkcs8(key) => RsaKeyPair::from_pkcs8(key.secret_pkcs8_der()),
            PrivateKeyDer::Pkcs1(key) => RsaKeyPair::from_der(key.secret_pkcs1_der()),
            _ => return Err(CertificateProblem::NotRsa),
        };
        let thumbprint = URL_SAFE_NO_PAD.encode(digest(&SHA256, &certificate));
        Ok(Self { key: key.map_err(CertificateProblem::Rejected)?, thumbprint })
    }

    /// Returns a client assertion of the application `client_id` for the token endpoint `audience` (Microsoft Learn,
    /// "Microsoft identity platform application authentication certificate credentials").
    ///
    /// # Errors
    /// The system provides no random numbers.
    pub(crate) fn assertion(&self, client_id: &str, audience: &str) -> Result<String> {
        let now = unix_now();
        let header = json!({ "alg": "PS256", "typ": "JWT", "x5t#S256": self.thumbprint });
        let claims = json!({
            "aud": audience, "iss": client_id, "sub": client_id, "jti": Uuid::new_v4().to_string(),
            "nbf": now, "iat": now, "exp": now + LIFETIME,
        });
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(&header), part(&claims));
        let mut signature = vec![0; self.key.public().modulus_len()];
        self.key
            .sign(&RSA_PSS_SHA256, &SystemRandom::new(), signed.as_bytes(), &mut signature)
            .map_err(|_| anyhow!("the key cannot sign"))?;
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}
