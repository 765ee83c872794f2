//! Client assertions of an application: signed with the key of a certificate, or a federated token of another issuer.
//!
//! Microsoft Learn, "Microsoft identity platform application authentication certificate credentials" and "Workload
//! identity federation".

use std::fs;
use std::path::{Path, PathBuf};

use std::sync::OnceLock;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use rcgen::{CertificateParams, DnType, KeyPair, PKCS_RSA_SHA256};
use ring::{digest, signature};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::clock::Clock;
use crate::entra::CLIENT_ID;
use crate::entra::error::{EntraError, malformed};
use crate::keygen::{RSA, generate_key};
use crate::token::TokenKey;

/// The only `client_assertion_type`.
pub(crate) const JWT_BEARER: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// Issuer, subject and audience of federated tokens. The audience is documented.
const ISSUER: &str = "https://issuer.example";
const SUBJECT: &str = "system:serviceaccount:tests:arcssh";
pub(crate) const AUDIENCE: &str = "api://AzureADTokenExchange";

/// Files of the emulator's directory.
const KEY_FILE: &str = "client.key";
const CERTIFICATE_FILE: &str = "client.pem";
const FEDERATED_FILE: &str = "federated-token";

/// The certificate of the application, which is generated on first use, and the other issuer.
pub(crate) struct Assertions {
    directory: PathBuf,
    clock: Clock,
    certificate: OnceLock<Certificate>,
    /// The key of the other issuer. Real issuers sign with RSA, but clients do not read these tokens.
    issuer_key: TokenKey,
}

struct Certificate {
    file: PathBuf,
    /// In PKCS #1, the format of ring.
    public_key: Vec<u8>,
    /// `x5t` and `x5t#S256`.
    thumbprints: [String; 2],
}

impl Assertions {
    pub(crate) fn new(directory: &Path, clock: Clock) -> Self {
        Self {
            directory: directory.to_owned(),
            clock,
            certificate: OnceLock::new(),
            issuer_key: TokenKey::generate(),
        }
    }

    /// Returns the file with the private key and the certificate.
    pub(crate) fn certificate(&self) -> &Path {
        let make = || Certificate::make(&self.directory).expect("ssh-keygen generates an RSA key");
        &self.certificate.get_or_init(make).file
    }

    /// Writes a token of the other issuer, which is valid for an hour, to a file.
    pub(crate) fn federated_token(&self) -> anyhow::Result<(PathBuf, String)> {
        let token = self.sign_federated();
        let file = self.directory.join(FEDERATED_FILE);
        fs::write(&file, &token)?;
        Ok((file, token))
    }

    /// Returns a new token of the other issuer.
    pub(crate) fn sign_federated(&self) -> String {
        let now = self.clock.unix_seconds();
        self.issuer_key.sign(&json!({
            "iss": ISSUER, "sub": SUBJECT, "aud": [AUDIENCE], "iat": now, "nbf": now, "exp": now + 3600,
            "jti": Uuid::new_v4(),
        }))
    }

    /// Checks an assertion. `endpoint` is the URL of the token endpoint.
    pub(crate) fn check(&self, assertion: &str, endpoint: &str) -> Result<(), EntraError> {
        let (header, claims) = parts(assertion).ok_or_else(|| malformed("client_assertion is not a JWT"))?;
        let own = claims["iss"].as_str().is_some_and(|issuer| issuer.eq_ignore_ascii_case(CLIENT_ID));
        if own {
            self.check_own(assertion, &header, &claims)?;
            self.check_audience(&claims, endpoint)?;
        } else {
            self.check_federated(assertion, &claims)?;
        }
        self.check_time(&claims)
    }

    fn check_own(&self, assertion: &str, header: &Value, claims: &Value) -> Result<(), EntraError> {
        if claims["sub"] != claims["iss"] || claims["jti"].as_str().is_none_or(str::is_empty) {
            return Err(malformed("the assertion needs sub, the client ID, and jti"));
        }
        let thumbprints = [&header["x5t"], &header["x5t#S256"]];
        let certificate = self.certificate.get().filter(|certificate| {
            thumbprints
                .iter()
                .zip(&certificate.thumbprints)
                .any(|(thumbprint, known)| thumbprint.as_str() == Some(known))
        });
        let unknown = || {
            let text = "The certificate with identifier used to sign the client assertion is not registered on \
                        application.";
            EntraError::new("invalid_client", 700_027, text)
        };
        if certificate.ok_or_else(unknown)?.signed(assertion, header["alg"].as_str()) {
            return Ok(());
        }
        let text = "The client assertion failed signature validation.";
        Err(EntraError::new("invalid_client", 700_027, text))
    }

    fn check_audience(&self, claims: &Value, endpoint: &str) -> Result<(), EntraError> {
        let audience = claims["aud"].as_str().unwrap_or_default();
        if audience == endpoint {
            return Ok(());
        }
        let text =
            format!("The client assertion audience claim '{audience}' does not match the expected audience.");
        Err(EntraError::new("invalid_client", 700_023, text))
    }

    fn check_federated(&self, assertion: &str, claims: &Value) -> Result<(), EntraError> {
        let audience = claims["aud"].as_array().map_or(&claims["aud"], |all| &all[0]);
        let found =
            [&claims["iss"], &claims["sub"], audience].map(|claim| claim.as_str().unwrap_or_default());
        if found != [ISSUER, SUBJECT, AUDIENCE] {
            let [issuer, subject, audience] = found;
            let text = format!(
                "No matching federated identity record found for presented assertion. Assertion Issuer: '{issuer}'. \
                 Assertion Subject: '{subject}'. Assertion Audience: '{audience}'."
            );
            return Err(EntraError::new("invalid_client", 70021, text));
        }
        let invalid = || EntraError::new("invalid_client", 50013, "Assertion failed signature validation.");
        self.issuer_key.verify(assertion).map(drop).ok_or_else(invalid)
    }

    fn check_time(&self, claims: &Value) -> Result<(), EntraError> {
        let now = self.clock.unix_seconds();
        let begun = claims["nbf"].as_u64().is_none_or(|from| from <= now + SKEW);
        let expires = claims["exp"].as_u64().ok_or_else(|| malformed("the assertion has no exp"))?;
        if begun && now < expires + SKEW {
            return Ok(());
        }
        let text = "Client assertion is not within its valid time range.";
        Err(EntraError::new("invalid_client", 700_024, text))
    }
}

/// The accepted clock skew in seconds, as in Microsoft's libraries (IdentityModel
/// `TokenValidationParameters.DefaultClockSkew`).
const SKEW: u64 = 300;

impl Certificate {
    fn make(directory: &Path) -> anyhow::Result<Self> {
        let key_file = directory.join(KEY_FILE);
        generate_key(&RSA, &key_file)?;
        let pem = fs::read_to_string(&key_file)?;
        let key = KeyPair::from_pkcs8_pem_and_sign_algo(&pem, &PKCS_RSA_SHA256)?;
        let mut parameters = CertificateParams::new(Vec::<String>::new())?;
        parameters.distinguished_name.push(DnType::CommonName, "arcssh tests");
        let certificate = parameters.self_signed(&key)?;
        let file = directory.join(CERTIFICATE_FILE);
        fs::write(&file, format!("{pem}{}", certificate.pem()))?;
        let thumbprints = [&digest::SHA1_FOR_LEGACY_USE_ONLY, &digest::SHA256]
            .map(|algorithm| URL_SAFE_NO_PAD.encode(digest::digest(algorithm, certificate.der())));
        Ok(Self { file, public_key: public_key(&pem)?, thumbprints })
    }

    fn signed(&self, token: &str, algorithm: Option<&str>) -> bool {
        let algorithm = match algorithm {
            Some("PS256") => &signature::RSA_PSS_2048_8192_SHA256,
            Some("RS256") => &signature::RSA_PKCS1_2048_8192_SHA256,
            _ => return false,
        };
        let Some((signed, signature)) = token.rsplit_once('.') else { return false };
        let Ok(signature) = URL_SAFE_NO_PAD.decode(signature) else { return false };
        let key = signature::UnparsedPublicKey::new(algorithm, &self.public_key);
        key.verify(signed.as_bytes(), &signature).is_ok()
    }
}

fn public_key(pem: &str) -> anyhow::Result<Vec<u8>> {
    use ring::signature::KeyPair as _;
    let key = PrivateKeyDer::from_pem_slice(pem.as_bytes())?;
    let key =
        signature::RsaKeyPair::from_pkcs8(key.secret_der()).map_err(|error| anyhow::anyhow!("{error}"))?;
    Ok(key.public_key().as_ref().to_vec())
}

/// Returns header and claims of a token without verification.
fn parts(token: &str) -> Option<(Value, Value)> {
    let mut parts = token.split('.').map(|part| {
        let json = URL_SAFE_NO_PAD.decode(part).ok()?;
        serde_json::from_slice::<Value>(&json).ok()
    });
    Some((parts.next()??, parts.next()??))
}
