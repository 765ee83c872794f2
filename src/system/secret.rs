//! Secret text: it cannot be printed, and its memory is overwritten when it is dropped.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::Zeroizing;

/// A token, a key or a password. Libraries make copies that they do not overwrite: secrets of azure_core, HTTP headers
/// and TLS records.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(Zeroizing<String>);

impl Secret {
    /// Returns the text, for a header, a form or a file of this user.
    pub(crate) fn secret(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(Zeroizing::new(text))
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}

impl From<azure_core::credentials::Secret> for Secret {
    fn from(secret: azure_core::credentials::Secret) -> Self {
        secret.secret().into()
    }
}

impl From<Secret> for azure_core::credentials::Secret {
    fn from(secret: Secret) -> Self {
        Self::new(secret.secret().to_owned())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.secret())
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_output_hides_the_secret_and_json_contains_it() {
        let secret = Secret::from("s3cret");
        assert!(!format!("{secret:?}").contains("s3cret"));
        let json = serde_json::to_string(&secret).unwrap();
        assert_eq!((json.as_str(), serde_json::from_str::<Secret>(&json).unwrap()), ("\"s3cret\"", secret));
    }
}
