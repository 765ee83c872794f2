//! Text without secrets, for a bug report. Nothing that arcssh prints contains one, but a message of Azure, a proxy or another
//! program can quote what it received.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use crate::azure::credentials::cli_tools::redaction::without_secrets;
use crate::text::lines;

const HIDDEN: &str = "***";
/// The fewest bytes of a secret to hide wherever it occurs.
const SHORTEST: usize = 6;

/// Returns whether an environment variable contains a secret: its name belongs to one, and its value is not a file.
pub(super) fn is_secret(name: &str, value: &str) -> bool {
    const PARTS: [&str; 16] = [
        "SECRET",
        "TOKEN",
        "PASS",
        "PWD",
        "KEY",
        "CREDENTIAL",
        "COOKIE",
        "CONNECTION_STRING",
        "CONNECTIONSTRING",
        "IDENTITY_HEADER",
        "RELAY_INFO",
        "_AUTH",
        "_PAT",
        "_SAS",
        "_PIN",
        "WEBHOOK",
    ];
    const OTHERS: [&str; 4] = ["_FILE", "_PATH", "_URL", "_URI"];
    const CHOICES: [&str; 3] = ["ARCSSH_CREDENTIAL", "ARCSSH_NO_KEYRING", "AZURE_TOKEN_CREDENTIALS"];
    let name = name.to_uppercase();
    PARTS.iter().any(|part| name.contains(part))
        && !OTHERS.iter().any(|end| name.ends_with(end))
        && !CHOICES.contains(&name.as_str())
        && !Path::new(value).is_absolute()
}

/// Returns a text without these secrets, in each form in which a message can contain them, and without other text that only
/// secrets have.
pub(super) fn redacted(text: &str, secrets: &[String]) -> String {
    let parts = secrets.iter().flat_map(|secret| [secret.trim()].into_iter().chain(secret.lines()));
    let mut forms: Vec<String> = parts.filter(|part| part.len() >= SHORTEST).flat_map(forms).collect();
    forms.sort_by_key(|form| std::cmp::Reverse(form.len()));
    forms.dedup();
    let mut text = text.to_owned();
    for form in &forms {
        text = without_beginning(&text.replace(form, HIDDEN), form);
    }
    let mut is_key = false;
    let without_keys = text.split_inclusive('\n').filter(|line| {
        is_key |= line.contains("-----BEGIN ") && line.contains("PRIVATE KEY");
        let is_shown = !is_key;
        is_key &= !line.contains("-----END ");
        is_shown
    });
    without_values(&without_secrets(&without_keys.collect::<String>()))
}

/// Returns a secret as text, in a string of Rust or JSON, in a URL, in a form, and in base64.
fn forms(secret: &str) -> Vec<String> {
    let percent = utf8_percent_encode(secret, NON_ALPHANUMERIC).to_string();
    // RFC 3986, section 2.3, and the form of WHATWG's URL Standard.
    let unreserved = ["-", ".", "_", "~"]
        .iter()
        .fold(percent.clone(), |text, c| text.replace(&format!("%{:02X}", c.as_bytes()[0]), c));
    let form = percent.replace("%2D", "-").replace("%2E", ".").replace("%5F", "_").replace("%2A", "*");
    let urls = [percent, unreserved, form.replace("%20", "+"), form];
    let mut forms = vec![secret.to_owned(), lines(secret), secret.escape_debug().to_string()];
    forms.push(serde_json::Value::from(secret).to_string().trim_matches('"').to_owned());
    forms.extend(urls.iter().map(|text| text.to_lowercase()).collect::<Vec<_>>());
    forms.extend(urls);
    // The next bytes of a longer text would change the last letters.
    let whole = &secret.as_bytes()[..secret.len() / 3 * 3];
    forms.extend([&STANDARD, &URL_SAFE].map(|encoding| encoding.encode(secret)));
    forms.extend([&STANDARD_NO_PAD, &URL_SAFE_NO_PAD].map(|encoding| encoding.encode(whole)));
    forms
}

/// Returns a text without the beginning of a secret in which a long line ends.
fn without_beginning(text: &str, secret: &str) -> String {
    let mut parts: Vec<&str> = text.split('…').collect();
    let last = parts.pop();
    let shortened = parts.into_iter().map(|part| {
        let ends = secret.char_indices().map(|(at, _)| at).filter(|at| *at >= SHORTEST);
        let rest = ends.rev().find_map(|at| part.strip_suffix(&secret[..at]));
        rest.map_or_else(|| format!("{part}…"), |rest| format!("{rest}{HIDDEN}…"))
    });
    shortened.chain(last.map(str::to_owned)).collect()
}

/// The ends of names whose values are secrets, in lower case: of parameters, fields and headers.
const NAMES: [&str; 21] = [
    "password",
    "passwd",
    "passphrase",
    "secret",
    "client_assertion",
    "access_token",
    "accesstoken",
    "refresh_token",
    "refreshtoken",
    "id_token",
    "idtoken",
    "accesskey",
    "accountkey",
    "primarykey",
    "secondarykey",
    "apikey",
    "api_key",
    "api-key",
    "device_code",
    "cookie",
    "sig",
];
/// Words before a secret in a header (RFC 9110, section 11.6.2), in lower case.
const SCHEMES: [&str; 4] = ["bearer ", "basic ", "negotiate ", "ntlm "];
/// The fewest bytes of a secret after such a word, which is also a word of a sentence.
const SHORTEST_AFTER_SCHEME: usize = 12;

/// Returns a text without the values of names that belong to secrets, such as `SharedAccessSignature sr=…&sig=…&se=…`.
fn without_values(text: &str) -> String {
    let lower = text.to_ascii_lowercase();
    let (mut plain, mut end) = (String::new(), 0);
    for (at, _) in text.char_indices() {
        if let Some((start, after)) = value_at(&lower, at).filter(|_| at >= end) {
            plain += &text[end..start];
            plain += HIDDEN;
            end = after;
        }
    }
    plain + &text[end..]
}

/// Returns the start and the end of the value whose name is at this place of a text in lower case.
fn value_at(text: &str, at: usize) -> Option<(usize, usize)> {
    let is_quote = |c| "\"'\\".contains(c);
    let named = |names: &[&str]| names.iter().find_map(|name| text[at..].strip_prefix(name));
    let is_word = !text[..at].ends_with(char::is_alphanumeric);
    let (value, shortest) = if let Some(value) = named(&SCHEMES).filter(|_| is_word) {
        (value, SHORTEST_AFTER_SCHEME)
    } else {
        let after = named(&NAMES)?.trim_start_matches(is_quote);
        (["=", ":", "%3d"].iter().find_map(|separator| after.strip_prefix(separator))?, 1)
    };
    let value = value.trim_start_matches(' ');
    let opened = value.trim_start_matches(is_quote);
    let length = if text[at..].starts_with("cookie") {
        opened.find('\n')
    } else if opened.len() < value.len() {
        opened.find(|c| is_quote(c) || c == '\n')
    } else {
        opened.find(|c: char| c.is_whitespace() || is_quote(c) || "&,;)}]".contains(c))
    };
    let length = length.unwrap_or(opened.len());
    let length = opened[..length].find("%26").unwrap_or(length);
    let start = text.len() - opened.len();
    (length >= shortest).then_some((start, start + length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_hidden_in_each_form() {
        let secret = "c\u{e4}nary/+1\"~x y".to_owned();
        for form in forms(&secret) {
            assert_eq!(redacted(&format!("a {form} b"), &[format!("{secret}\n")]), "a *** b");
        }
        let text = "a c\u{e4}nary/…\nb c\u{e4}…";
        assert_eq!(redacted(text, &[secret]), "a ***…\nb c\u{e4}…");
        assert_eq!(redacted("x line-one x line-two", &["line-one\nline-two".into()]), "x *** x ***");
    }

    #[test]
    fn a_value_is_hidden_if_its_name_belongs_to_a_secret() {
        for (text, expected) in [
            (
                "a SharedAccessSignature sr=x&sig=canary%3d&se=1 b",
                "a SharedAccessSignature sr=x&sig=***&se=1 b",
            ),
            (
                "SharedAccessSignature%20sr%3Dx%26sig%3Dcanary%26se%3D1",
                "SharedAccessSignature%20sr%3Dx%26sig%3D***%26se%3D1",
            ),
            ("Authorization: Bearer canary-opaque-1 x", "Authorization: Bearer *** x"),
            ("proxy-authorization: basic Y2FuYXJ5OmNhbmFyeQ==", "proxy-authorization: basic ***"),
            ("Set-Cookie: a=canary; b=canary\nx", "Set-Cookie: ***\nx"),
            ("{\"access_token\":\"canary\",\"x\":1}", "{\"access_token\":\"***\",\"x\":1}"),
            (r#"{\"refreshToken\": \"canary x\"}"#, r#"{\"refreshToken\": \"***\"}"#),
            ("client_secret=canary&x=1", "client_secret=***&x=1"),
            ("AccountName=a;AccountKey=canary==;x", "AccountName=a;AccountKey=***;x"),
            ("Password: canary.", "Password: ***"),
            ("the bearer token, basic access, design=1", "the bearer token, basic access, design=1"),
            (
                "remove the password, and name it; the secret is wrong",
                "remove the password, and name it; the secret is wrong",
            ),
            ("http://ada:canary@h/", "http://***@h/"),
        ] {
            assert_eq!(redacted(text, &[]), expected);
        }
        let key = "-----BEGIN RSA PRIVATE KEY-----\ncanary\n-----END RSA PRIVATE KEY-----\nx";
        assert_eq!(redacted(key, &[]), "x");
    }

    #[test]
    fn a_variable_is_secret_if_its_name_belongs_to_a_secret() {
        for name in ["SSHPASS", "AZURE_CLIENT_SECRET", "mysql_pwd", "GH_PAT", "NPM_CONFIG__AUTH"] {
            assert!(is_secret(name, "canary"), "{name}");
        }
        for (name, value) in [
            ("PWD", "/home/ada"),
            ("SSH_ASKPASS", "/usr/bin/x"),
            ("AZURE_TOKEN_CREDENTIALS", "dev"),
            ("TERM", "xterm"),
        ] {
            assert!(!is_secret(name, value), "{name}");
        }
    }
}
