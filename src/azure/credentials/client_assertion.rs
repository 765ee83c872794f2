//! A client certificate, and the client assertion that its key signs (RFC 7523, section 2.2).

use std::path::Path;

use anyhow::{Context, Result, anyhow};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::digest::{SHA256, digest};
use ring::rand::SystemRandom;
use ring::signature::{RSA_PSS_SHA256, RsaKeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::azure::credentials::source::{CertificateProblem, SourceError};
use crate::net::x509;
use crate::system::clock::unix_now;
use crate::system::files;

const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// The lifetime of a client assertion, in seconds (MSAL, `assertion.py`).
const LIFETIME: u64 = 600;

/// An application's certificate, with its key.
#[derive(Debug)]
pub(crate) struct ClientCertificate {
    key: RsaKeyPair,
    /// The certificate of the key in DER form, then that of its issuer, and so on, as far as the file contains them.
    chain: Vec<CertificateDer<'static>>,
}

impl ClientCertificate {
    /// Reads a PEM file with an RSA key and its certificate, in any order and among other certificates.
    ///
    /// # Errors
    /// [`SourceError::ClientCertificate`], or the file is unreadable.
    pub(crate) fn read(path: &Path) -> Result<Self, SourceError> {
        let text = files::read(path, files::MAX_TEXT).map(Zeroizing::new);
        let text = text.with_context(|| format!("cannot read the certificate {}", path.display()))?;
        Self::from_pem(&without_byte_order_marks(&text))
            .map_err(|problem| SourceError::ClientCertificate { path: path.display().to_string(), problem })
    }

    fn from_pem(text: &[u8]) -> Result<Self, CertificateProblem> {
        let contains = |marker: &str| text.windows(marker.len()).any(|window| window == marker.as_bytes());
        if !contains("-----BEGIN ") {
            return Err(CertificateProblem::NotPem);
        }
        // RFC 7468, section 11, and RFC 1421, section 4.6.1.1.
        if contains("-----BEGIN ENCRYPTED ") || contains("Proc-Type: 4,ENCRYPTED") {
            return Err(CertificateProblem::Locked);
        }
        let certificates: Vec<_> = CertificateDer::pem_slice_iter(text).filter_map(Result::ok).collect();
        if certificates.is_empty() {
            return Err(CertificateProblem::NoCertificate);
        }
        let key = PrivateKeyDer::from_pem_slice(text).map_err(|_| CertificateProblem::NoKey)?;
        let key = match &key {
            PrivateKeyDer::Pkcs8(key) => RsaKeyPair::from_pkcs8(key.secret_pkcs8_der()),
            PrivateKeyDer::Pkcs1(key) => RsaKeyPair::from_der(key.secret_pkcs1_der()),
            _ => return Err(CertificateProblem::NotRsa),
        };
        // ring's text for the key of another algorithm in PKCS #8.
        let key = key.map_err(|error| match error.to_string().as_str() {
            "WrongAlgorithm" => CertificateProblem::NotRsa,
            _ => CertificateProblem::Rejected(error),
        })?;
        let chain = chain(certificates, key.public().as_ref());
        if chain.is_empty() {
            return Err(CertificateProblem::AnotherKey);
        }
        Ok(Self { key, chain })
    }

    /// Returns a client assertion of the application `client_id` for the token endpoint `audience` (Microsoft Learn,
    /// "Microsoft identity platform application authentication certificate credentials"). It contains the chain for an
    /// application that accepts certificates by subject and issuer (MSAL, `application.py`, `public_certificate`).
    ///
    /// # Errors
    /// The system provides no random numbers.
    pub(crate) fn assertion(&self, client_id: &str, audience: &str, sent: Sent) -> Result<String> {
        let now = unix_now();
        let thumbprint = URL_SAFE_NO_PAD.encode(digest(&SHA256, &self.chain[0]));
        let mut header = json!({ "alg": "PS256", "typ": "JWT", "x5t#S256": thumbprint });
        if sent == Sent::Chain {
            // RFC 7515, section 4.1.6.
            header["x5c"] = self.chain.iter().map(|certificate| STANDARD.encode(certificate)).collect();
        }
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

/// The part of the certificate that an assertion contains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    Thumbprint,
    Chain,
}

/// Returns the certificate of a key, then that of its issuer, and so on. Empty if no certificate is that of the key.
fn chain(mut certificates: Vec<CertificateDer<'static>>, public_key: &[u8]) -> Vec<CertificateDer<'static>> {
    let mut chain = Vec::new();
    let is_of_key = |certificate: &CertificateDer| {
        x509::fields(certificate).is_some_and(|fields| fields.public_key == public_key)
    };
    let mut next = certificates.iter().position(is_of_key);
    while let Some(position) = next {
        let certificate = certificates.remove(position);
        let issuer = x509::fields(&certificate).map(|fields| fields.issuer);
        let is_issuer = |other: &CertificateDer| x509::fields(other).map(|fields| fields.subject) == issuer;
        next = certificates.iter().position(is_issuer);
        chain.push(certificate);
    }
    chain
}

/// Returns a text as UTF-8 without byte order marks, which programs of Windows write. A file that is put together from
/// others can contain several.
fn without_byte_order_marks(text: &[u8]) -> Zeroizing<Vec<u8>> {
    let utf16 = |decode: fn([u8; 2]) -> u16, text: &[u8]| {
        let units =
            Zeroizing::new(text.chunks_exact(2).map(|pair| decode([pair[0], pair[1]])).collect::<Vec<_>>());
        String::from_utf16_lossy(&units).into_bytes()
    };
    let text = Zeroizing::new(match text {
        [0xff, 0xfe, rest @ ..] => utf16(u16::from_le_bytes, rest),
        [0xfe, 0xff, rest @ ..] => utf16(u16::from_be_bytes, rest),
        _ => text.to_vec(),
    });
    let mut plain = Zeroizing::new(Vec::with_capacity(text.len()));
    let mut rest = &text[..];
    while let Some((byte, after)) = rest.split_first() {
        match rest.strip_prefix(BYTE_ORDER_MARK) {
            Some(after) => rest = after,
            None => {
                plain.push(*byte);
                rest = after;
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A certificate with this issuer, subject and key, as far as `x509::fields` reads it.
    fn certificate(issuer: u8, subject: u8, key: u8) -> CertificateDer<'static> {
        let name = |name| vec![0x30, 1, name];
        let key_info = [0x30, 6, 0x30, 0, 0x03, 2, 0, key];
        let fields =
            [vec![0x02, 1, 1, 0x30, 0], name(issuer), vec![0x30, 0], name(subject), key_info.to_vec()];
        let fields = fields.concat();
        let length = u8::try_from(fields.len()).unwrap();
        [vec![0x30, length + 2, 0x30, length], fields].concat().into()
    }

    #[test]
    fn the_chain_begins_with_the_certificate_of_the_key() {
        let (root, middle, leaf) = (certificate(1, 1, 1), certificate(1, 2, 2), certificate(2, 3, 3));
        let other = certificate(9, 9, 9);
        let file = vec![root.clone(), other, leaf.clone(), middle.clone()];
        assert_eq!(chain(file.clone(), &[3]), [leaf, middle.clone(), root.clone()]);
        assert_eq!(chain(file.clone(), &[1]), vec![root.clone()]);
        assert_eq!(chain(file[..2].to_vec(), &[1]), [root]);
        assert_eq!(chain(vec![middle.clone()], &[2]), [middle]);
        assert!(chain(file, &[4]).is_empty());
        assert!(chain(vec![vec![0x30, 0].into()], &[]).is_empty());
    }
}
