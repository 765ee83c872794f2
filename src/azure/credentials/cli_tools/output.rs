//! The output of a program: JSON among other text, or an error message.

use std::process::Output;

use serde::de::DeserializeOwned;
use serde_json::{Deserializer, Value};
use zeroize::Zeroizing;

use crate::azure::credentials::cli_tools::redaction::without_secrets;

const ESCAPE: u8 = 0x1b;
const BELL: u8 = 0x07;

/// Returns the first JSON object of this type in a text. Other text can surround it: a byte order mark, a greeting of a
/// profile, warnings, and the escape code that resets a color (Azure/azure-cli issue 9903, Azure/azure-sdk-for-net
/// issue 20417).
pub(super) fn json<T: DeserializeOwned>(text: &[u8]) -> Option<T> {
    let plain = Zeroizing::new(without_escape_codes(text));
    objects(&plain).next()
}

/// Returns the JSON objects of this type in a text. An object of another type can contain one.
fn objects<T: DeserializeOwned>(text: &[u8]) -> impl Iterator<Item = T> {
    let mut rest = text;
    std::iter::from_fn(move || {
        loop {
            rest = &rest[rest.iter().position(|&byte| byte == b'{')?..];
            let mut values = Deserializer::from_slice(rest).into_iter();
            if let Some(Ok(value)) = values.next() {
                rest = &rest[values.byte_offset()..];
                return Some(value);
            }
            rest = &rest[1..];
        }
    })
}

/// Returns a text without escape codes: control sequences, commands up to BEL, and two-byte codes (ECMA-48).
fn without_escape_codes(text: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.iter().position(|&byte| byte == ESCAPE) {
        plain.extend_from_slice(&rest[..start]);
        rest = &rest[start + 1..];
        let end = match rest.first() {
            Some(b'[') => rest.iter().skip(1).position(|byte| (b'@'..=b'~').contains(byte)).map(|at| at + 1),
            Some(b']') => rest.iter().position(|byte| [BELL, b'\n'].contains(byte)),
            _ => Some(0),
        };
        rest = rest.get(end.unwrap_or_default() + 1..).unwrap_or_default();
    }
    plain.extend_from_slice(rest);
    plain
}

/// Returns the error message of a program without secrets, or its exit status.
pub(super) fn error_message(output: &Output) -> String {
    let stderr = text(&output.stderr);
    let message = in_json(&stderr).or_else(|| in_json(&text(&output.stdout)));
    let message = message.unwrap_or_else(|| relevant(&stderr));
    if message.is_empty() { output.status.to_string() } else { without_secrets(&message) }
}

/// Returns an output as text without escape codes.
pub(super) fn text(output: &[u8]) -> String {
    String::from_utf8_lossy(&without_escape_codes(output)).trim().to_owned()
}

/// Returns the message of Azure Developer CLI, which prints one JSON object for each line: errors, and messages for the
/// console (azure-dev, `pkg/output` and `pkg/contracts`).
fn in_json(text: &str) -> Option<String> {
    let lines = text.lines().filter(|line| line.trim_start().starts_with('{'));
    let values: Vec<Value> = lines.flat_map(|line| objects(line.as_bytes())).collect();
    let find = |path: &str| {
        let texts = values.iter().filter_map(|value| value.pointer(path)?.as_str());
        let mut texts: Vec<&str> = texts.map(str::trim).filter(|text| !text.is_empty()).collect();
        texts.dedup();
        texts.join(" ")
    };
    ["/error", "/error/message", "/data/message"].into_iter().map(find).find(|text| !text.is_empty())
}

/// Returns the exception of a Python traceback, or the text from its first error on: warnings can precede it.
fn relevant(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let is_error = |line: &&str| line.starts_with("ERROR");
    if text.contains("Traceback (most recent call last)")
        && let Some(line) = lines.iter().rev().find(|line| is_error(line) || is_exception(line))
    {
        return line.trim().to_owned();
    }
    let start = lines.iter().position(is_error).unwrap_or_default();
    lines[start.min(lines.len())..].join("\n")
}

/// Returns whether a line begins with a dotted name and a colon, as the last line of a traceback does (Python,
/// `traceback.format_exception_only`).
fn is_exception(line: &str) -> bool {
    let is_name = |part: &str| {
        part.starts_with(|c: char| c.is_alphabetic()) && part.chars().all(|c| c.is_alphanumeric() || c == '_')
    };
    line.split_once(": ").is_some_and(|(name, _)| name.split('.').all(is_name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Deserialize)]
    struct Token {
        token: String,
    }

    #[test]
    fn json_is_found_among_other_text() {
        for (text, expected) in [
            (r#"{"token":"a"}"#, Some("a")),
            ("\u{feff}{\"token\":\"a\"}\u{1b}[0m", Some("a")),
            ("\u{1b}]0;{}\u{7}\u{1b}[32m{\u{1b}[1m\"token\":\u{1b}[0m\"a\"}\r\n\u{1b}(B", Some("a")),
            ("Use {name}, {\"x\": 1}. {\n{'a'}\n{\"token\": \"a\"}\nbye }", Some("a")),
            (
                "{\"data\":{\"message\":\"new {version}\"}}\n{\"token\":\"a\",\"x\":{}} {\"token\":\"b\"}",
                Some("a"),
            ),
            ("\u{1b}]0;title\n{\"token\":\"a\"}", Some("a")),
            ("\u{1b}[", None),
            (r#"{"token":1}"#, None),
            (r#"{"token":"a""#, None),
        ] {
            let found = json::<Token>(text.as_bytes()).map(|found| found.token);
            assert_eq!(found.as_deref(), expected, "{text:?}");
        }
        let mut bytes = b"caf\xe9 \xff\xfe".to_vec();
        bytes.extend_from_slice(b"{\"token\":\"a\"}\xff");
        assert_eq!(json::<Token>(&bytes).unwrap().token, "a");
    }

    #[test]
    fn the_cause_is_taken_from_an_error_output() {
        let message = |stderr: &str| {
            let stderr = stderr.as_bytes().to_vec();
            error_message(&Output { status: std::process::ExitStatus::default(), stdout: vec![], stderr })
        };
        let traceback = "ERROR: The command failed with an unexpected error. Here is the traceback:\nERROR: [Errno 13]\nTraceback (most recent call last):\n  File \"a.py\", line 1, in b\n    c: int = 1\nmsal.errors.X: no\n\nrequests.exceptions.ConnectionError: HTTPSConnectionPool(host='x'): no route\nTo check existing issues, please visit: https://github.com/Azure/azure-cli/issues";
        for (stderr, expected) in [
            (traceback, "requests.exceptions.ConnectionError: HTTPSConnectionPool(host='x'): no route"),
            (
                "Traceback (most recent call last):\n  File \"x\"\nImportError",
                "Traceback (most recent call last):\n  File \"x\"\nImportError",
            ),
            (
                "WARNING: old: x\n\u{1b}[31mERROR: AADSTS1: No.\nRun: x\u{1b}[0m\n",
                "ERROR: AADSTS1: No.\nRun: x",
            ),
            ("ERROR: (Bad) {\"error\":{\"message\":\"x\"}}", "ERROR: (Bad) {\"error\":{\"message\":\"x\"}}"),
            (
                "WARNING: new\n{\"type\":\"consoleMessage\",\"data\":{\"message\":\"\\nERROR: no\\n\"}}",
                "ERROR: no",
            ),
            (
                "{\"data\":{\"message\":\"m\"}} {\"error\":\"fetching token: no\"}\n{\"error\":\"fetching token: no\"}",
                "fetching token: no",
            ),
            ("{\"error\":{\"code\":\"c\",\"message\":\"m\"}}", "m"),
            ("{}", "{}"),
        ] {
            assert_eq!(message(stderr), expected, "{stderr}");
        }
        assert!(message("\u{1b}[0m\n").starts_with("exit"));
    }
}
