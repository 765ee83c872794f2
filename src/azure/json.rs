//! JSON of services that deviate from their specification: numbers as text, with a fraction, or null; null instead of
//! an empty list; a byte order mark.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::text::without_byte_order_mark;

/// Parses JSON. Some services write a byte order mark before it, which JSON does not allow (RFC 8259, section 8.1;
/// Azure/azure-rest-api-specs issue 42472).
pub(crate) fn parse<T: DeserializeOwned>(json: &[u8]) -> serde_json::Result<T> {
    serde_json::from_slice(without_byte_order_mark(json))
}

/// Parses a number, such as seconds, in every form; `None` for another value.
pub(crate) fn number(value: &Value) -> Option<u64> {
    let text = match value {
        Value::Number(number) => number.to_string(),
        Value::String(text) => text.trim().to_owned(),
        _ => return None,
    };
    let (whole, fraction) = text.split_once('.').unwrap_or((&text, "0"));
    let is_number = !fraction.is_empty() && fraction.bytes().all(|byte| byte.is_ascii_digit());
    whole.parse().ok().filter(|_| is_number)
}

/// [`number`] for a field.
pub(crate) fn optional_number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    Ok(number(&Value::deserialize(deserializer)?))
}

/// Reads null as the default value.
pub(crate) fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// Returns a value as text; `None` for null.
pub(crate) fn text(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn numbers_are_read_in_every_form() {
        for form in
            [json!(3599), json!(3599.0), json!(3599.75), json!("3599"), json!(" 3599 "), json!("3599.5")]
        {
            assert_eq!(number(&form), Some(3599), "{form}");
        }
        for form in [
            json!(null),
            json!(-1),
            json!(""),
            json!("soon"),
            json!("1."),
            json!("1.x"),
            json!([1]),
            json!(1e30),
        ] {
            assert_eq!(number(&form), None, "{form}");
        }
    }
}
