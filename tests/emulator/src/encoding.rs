//! Percent-encoding (RFC 3986), query strings and `application/x-www-form-urlencoded`.

use std::fmt::Write as _;

/// The decoded parameters of a query string or a form, in order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Parameters(Vec<(String, String)>);

impl Parameters {
    /// Parses a query string, in which `+` is a plus sign.
    pub(crate) fn from_query(text: &str) -> Self {
        Self::parse(text, decode)
    }

    /// Parses a form, in which `+` is a space.
    pub(crate) fn from_form(text: &str) -> Self {
        Self::parse(text, |value| decode(&value.replace('+', " ")))
    }

    fn parse(text: &str, decode: impl Fn(&str) -> String) -> Self {
        let pairs = text.split('&').filter(|pair| !pair.is_empty());
        Self(
            pairs
                .map(|pair| {
                    let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                    (decode(name), decode(value))
                })
                .collect(),
        )
    }

    /// Returns the first value of `name`, compared without case: Azure's query parameters are case-insensitive.
    pub(crate) fn value(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// Returns the encoded parameters whose name does not start with `prefix`.
    pub(crate) fn without_prefix(&self, prefix: &str) -> Vec<String> {
        let others = self.0.iter().filter(|(name, _)| !name.to_ascii_lowercase().starts_with(prefix));
        others.map(|(name, value)| format!("{}={}", encode(name), encode(value))).collect()
    }
}

/// Returns whether `list` contains `value`, compared without case, as Azure compares names and IDs.
pub(crate) fn is_one_of(list: &[impl AsRef<str>], value: &str) -> bool {
    list.iter().any(|known| known.as_ref().eq_ignore_ascii_case(value))
}

/// Encodes everything but RFC 3986's unreserved characters.
pub(crate) fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => encoded.push(byte.into()),
            _ => write!(encoded, "%{byte:02X}").expect("writing to a String cannot fail"),
        }
    }
    encoded
}

/// Decodes `%XX`. An invalid escape is left unchanged.
pub(crate) fn decode(text: &str) -> String {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let escape = (byte == b'%').then(|| after.get(..2).and_then(hexadecimal)).flatten();
        decoded.push(escape.unwrap_or(byte));
        rest = if escape.is_some() { &after[2..] } else { after };
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

fn hexadecimal(digits: &[u8]) -> Option<u8> {
    u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encoding_and_decoding_are_inverse() {
        let resource = "http://127.0.0.1:5/microsoft.hybridcompute/machines/a b%/v2/";
        assert_eq!(decode(&encode(resource)), resource);
        assert_eq!(encode("a/b:c"), "a%2Fb%3Ac");
    }

    #[test]
    fn invalid_escapes_are_unchanged() {
        assert_eq!(decode("100%"), "100%");
        assert_eq!(decode("%zz%41"), "%zzA");
    }

    #[test]
    fn plus_is_a_space_only_in_forms() {
        assert_eq!(Parameters::from_query("a=1+2").value("A"), Some("1+2"));
        assert_eq!(Parameters::from_form("a=1+2").value("a"), Some("1 2"));
    }
}
