//! JSON Web Tokens, signed with HMAC-SHA256 (RFC 7519, HS256).

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::hmac;
use serde_json::{Value, json};

/// A key that signs and checks tokens.
pub(crate) struct TokenKey(hmac::Key);

impl TokenKey {
    pub(crate) fn generate() -> Self {
        let random = ring::rand::SystemRandom::new();
        Self(hmac::Key::generate(hmac::HMAC_SHA256, &random).expect("the system has random numbers"))
    }

    pub(crate) fn sign(&self, claims: &Value) -> String {
        let header = json!({ "typ": "JWT", "alg": "HS256" });
        let signed = format!("{}.{}", part(&header), part(claims));
        let signature = hmac::sign(&self.0, signed.as_bytes());
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    /// Returns the claims of `token` if this key signed it. The caller checks `exp`.
    pub(crate) fn verify(&self, token: &str) -> Option<Value> {
        let (signed, signature) = token.rsplit_once('.')?;
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        hmac::verify(&self.0, signed.as_bytes(), &signature).ok()?;
        let (_, claims) = signed.split_once('.')?;
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()
    }
}

fn part(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_key_that_signed_a_token_verifies_it() {
        let (key, other) = (TokenKey::generate(), TokenKey::generate());
        let token = key.sign(&json!({ "aud": "x" }));
        assert_eq!(key.verify(&token), Some(json!({ "aud": "x" })));
        assert_eq!(other.verify(&token), None);
        assert_eq!(key.verify("a.b"), None);
    }
}
