//! A certificate, and the statement signed with its key that proves to Entra ID who we are.

use std::path::Path;

use anyhow::{Context, Result, anyhow};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest::{SHA256, digest};
use ring::error::KeyRejected;
use ring::rand::SystemRandom;
use ring::signature::{RSA_PSS_SHA256, RsaKeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::system::clock::unix_now;
use crate::system::files;

/// Seconds that a statement is good for (MSAL, `assertion.py`).
const LIFETIME: u64 = 600;

/// An application's certificate with its key.
#[derive(Debug)]
pub(crate) struct ClientCertificate {
    key: RsaKeyPair,
    /// How Entra ID knows it: the hash of its DER form, in base64.
    thumbprint: String,
}

impl ClientCertificate {
    /// Reads a PEM file that holds an RSA key and, first of its certificates, the one of that key.
    ///
    /// # Errors
    /// There is no such file, or it holds something else.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text = files::read(path, files::MAX_TEXT);
        let text = text.with_context(|| format!("cannot read the certificate {}", path.display()))?;
        Self::from_pem(&text)
            .map_err(|flaw| InvalidClientCertificate { path: path.display().to_string(), flaw }.into())
    }

    fn from_pem(text: &[u8]) -> Result<Self, CertificateProblem> {
        let holds = |marker: &str| text.windows(marker.len()).any(|window| window == marker.as_bytes());
        if !holds("-----BEGIN ") {
            return Err(CertificateProblem::NotPem);
        }
        if holds("ENCRYPTED") {
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

    /// A statement for the token endpoint `audience` that we are the application `client_id` (Microsoft Learn,
    /// "Microsoft identity platform application authentication certificate credentials").
    ///
    /// # Errors
    /// The system gives no randomness.
    pub(crate) fn assertion(&self, client_id: &str, audience: &str) -> Result<String> {
        let now = unix_now();
        let header = json!({ "alg": "PS256", "typ": "JWT", "x5t#S256": self.thumbprint });
        let claims = json!({
            "aud": audience, "iss": client_id, "sub": client_id, "jti": Uuid::new_v4().to_string(),
            "nbf": now, "iat": now, "exp": now + LIFETIME,
        });
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let statement = format!("{}.{}", part(&header), part(&claims));
        let mut signature = vec![0; self.key.public().modulus_len()];
        self.key
            .sign(&RSA_PSS_SHA256, &SystemRandom::new(), statement.as_bytes(), &mut signature)
            .map_err(|_| anyhow!("the key does not sign"))?;
        Ok(format!("{statement}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}

/// A certificate that cannot be used as it is.
#[derive(Debug, thiserror::Error)]
#[error("the certificate {path} is unusable")]
pub(crate) struct InvalidClientCertificate {
    /// Its file.
    pub(crate) path: String,
    /// What is wrong with that.
    #[source]
    pub(crate) flaw: CertificateProblem,
}

/// What is wrong with a file that should hold a certificate and its key.
#[derive(Clone, Copy, Debug, thiserror::Error)]
pub(crate) enum CertificateProblem {
    /// It may be PKCS #12.
    #[error("it is not in PEM form")]
    NotPem,
    /// Its key can be read with a password only.
    #[error("its key has a password")]
    Locked,
    #[error("it holds no certificate")]
    NoCertificate,
    #[error("it holds no private key")]
    NoKey,
    #[error("its key is not an RSA key")]
    NotRsa,
    #[error("its key is not a usable RSA key ({0})")]
    Rejected(KeyRejected),
}
