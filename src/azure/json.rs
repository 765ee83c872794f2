//! JSON as services write it, whatever its specification says: numbers as text, with a fraction, or null; lists that are
//! null where they are empty.

use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// A count, such as of seconds, whichever way it is written; nothing where it is none.
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

/// The same as a field.
pub(crate) fn optional_number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    Ok(number(&Value::deserialize(deserializer)?))
}

/// What stands for nothing where it is null.
pub(crate) fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// Text, whatever is written in its place; nothing where it is null or not there.
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
    fn a_number_is_read_in_every_form() {
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
