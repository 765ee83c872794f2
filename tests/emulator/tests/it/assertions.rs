//! Client assertions of an application.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use arcssh_emulator::Emulator;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::{digest, rand, signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};

use crate::client::{self, Answer, entra};

fn token(emulator: &Emulator, assertion: &str) -> Answer {
    let (client, tenant) =
        (client::variable(emulator, "AZURE_CLIENT_ID"), client::variable(emulator, "AZURE_TENANT_ID"));
    let fields = [
        ("grant_type", "client_credentials"),
        ("client_id", client.as_str()),
        ("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"),
        ("client_assertion", assertion),
        ("scope", "https://management.azure.com/.default"),
    ];
    entra(emulator, &format!("{tenant}/token"), &fields)
}

fn number(answer: &Answer) -> u64 {
    answer.json()["error_codes"][0].as_u64().unwrap_or_else(|| panic!("{answer:?}"))
}

/// Returns valid header and claims for the certificate of `emulator`.
fn valid(emulator: &Emulator) -> (Value, Value) {
    let certificate = CertificateDer::from_pem_file(emulator.client_certificate()).unwrap();
    let thumbprint = URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, &certificate));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let client = client::variable(emulator, "AZURE_CLIENT_ID");
    let endpoint = format!(
        "{}{}/oauth2/v2.0/token",
        client::variable(emulator, "AZURE_AUTHORITY_HOST"),
        client::variable(emulator, "AZURE_TENANT_ID")
    );
    let header = json!({ "alg": "PS256", "typ": "JWT", "x5t#S256": thumbprint });
    let claims = json!({
        "aud": endpoint, "iss": client, "sub": client, "jti": "1", "nbf": now, "iat": now, "exp": now + 600,
    });
    (header, claims)
}

fn signed(emulator: &Emulator, (header, claims): &(Value, Value)) -> String {
    let key = PrivateKeyDer::from_pem_file(emulator.client_certificate()).unwrap();
    let key = signature::RsaKeyPair::from_pkcs8(key.secret_der()).unwrap();
    let padding: &dyn signature::RsaEncoding =
        if header["alg"] == "PS256" { &signature::RSA_PSS_SHA256 } else { &signature::RSA_PKCS1_SHA256 };
    let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let text = format!("{}.{}", encode(header), encode(claims));
    let mut signature = vec![0; key.public().modulus_len()];
    key.sign(padding, &rand::SystemRandom::new(), text.as_bytes(), &mut signature).unwrap();
    format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature))
}

#[test]
fn both_signature_algorithms_and_both_thumbprints_are_valid() {
    let emulator = client::emulator();
    let modern = valid(&emulator);
    let assertion = signed(&emulator, &modern);
    assert_eq!(token(&emulator, &assertion).status, 200);
    assert!(emulator.secrets().contains(&assertion));
    let certificate = CertificateDer::from_pem_file(emulator.client_certificate()).unwrap();
    let sha1 = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, &certificate);
    let header = json!({ "alg": "RS256", "x5t": URL_SAFE_NO_PAD.encode(sha1) });
    assert_eq!(token(&emulator, &signed(&emulator, &(header, modern.1))).status, 200);
}

#[test]
fn each_defect_of_an_assertion_has_its_own_number() {
    let emulator = client::emulator();
    let rejected = |change: &dyn Fn(&mut Value, &mut Value)| {
        let (mut header, mut claims) = valid(&emulator);
        change(&mut header, &mut claims);
        number(&token(&emulator, &signed(&emulator, &(header, claims))))
    };
    assert_eq!(rejected(&|header, _| header["x5t#S256"] = "other".into()), 700_027);
    assert_eq!(rejected(&|_, claims| claims["aud"] = "https://example.org".into()), 700_023);
    assert_eq!(rejected(&|_, claims| claims["exp"] = 1_700_000_000.into()), 700_024);
    assert_eq!(rejected(&|_, claims| claims["jti"] = "".into()), 9_002_313);
    let valid = signed(&emulator, &valid(&emulator));
    let (text, signature) = valid.rsplit_once('.').unwrap();
    let forged = format!("{text}.{}", signature.chars().rev().collect::<String>());
    assert_eq!(number(&token(&emulator, &forged)), 700_027);
    assert_eq!(number(&token(&emulator, "nothing")), 9_002_313);
}

#[test]
fn a_federated_token_is_valid_if_a_record_matches() {
    let emulator = client::emulator();
    let federated = fs::read_to_string(emulator.federated_token()).unwrap();
    assert_eq!(token(&emulator, &federated).status, 200);
    let (signed, signature) = federated.rsplit_once('.').unwrap();
    let forged = format!("{signed}.{}", signature.chars().rev().collect::<String>());
    assert_eq!(number(&token(&emulator, &forged)), 50013);
    let mut claims = client::claims(&federated);
    claims["sub"] = "system:serviceaccount:tests:other".into();
    let header = signed.split('.').next().unwrap();
    let other = format!("{header}.{}.{signature}", URL_SAFE_NO_PAD.encode(claims.to_string()));
    assert_eq!(number(&token(&emulator, &other)), 70021);
    assert!(emulator.secrets().contains(&federated));
}
