//! Secrets in the messages of programs: the password of a proxy, and tokens.

use std::env;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::percent_decode_str;

use crate::net::proxy::PROXY;

const HIDDEN: &str = "***";
/// Programs also read these variables (Python, `urllib.request.getproxies`).
const HTTP_PROXY: [&str; 2] = ["HTTP_PROXY", "http_proxy"];
/// The fewest bytes of a password to hide wherever it occurs: a shorter one would hide parts of most words.
const SHORTEST: usize = 4;

/// Returns a text without secrets.
pub(crate) fn without_secrets(text: &str) -> String {
    let values = PROXY.into_iter().chain(HTTP_PROXY).filter_map(env::var_os);
    let mut secrets: Vec<String> = values.flat_map(|value| of_proxy(&value.to_string_lossy())).collect();
    secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
    let text = secrets.iter().fold(text.to_owned(), |text, secret| text.replace(secret, HIDDEN));
    let words = text.split_inclusive(char::is_whitespace).map(without_user);
    without_tokens(&words.collect::<String>())
}

/// Returns the secrets in a proxy's address, in each form in which a message can contain them: user name with password, the
/// password, and its parts, because a program can take one of them for a port or a path. An address that names neither a
/// user nor a port can be a user name with a password.
fn of_proxy(address: &str) -> Vec<String> {
    let address = address.trim_matches(|c: char| c.is_whitespace() || c == '"' || c == '\'');
    let rest = address.split_once("://").map_or(address, |(_, rest)| rest);
    let is_port = |port: &str| port.trim_end_matches('/').bytes().all(|byte| byte.is_ascii_digit());
    let user = match (rest.rsplit_once('@'), rest.rsplit_once(':')) {
        (Some((user, _)), _) => user,
        (None, Some((_, port))) if !is_port(port) => rest,
        _ => return Vec::new(),
    };
    let password = user.split_once(':').map_or(user, |(_, password)| password);
    let parts = password.split(['/', '?', '#', '@', ':', '\\']);
    let plain = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
    let texts = [user, password].into_iter().chain(parts).flat_map(|text| [text.to_owned(), plain(text)]);
    let escaped = |text: String| [text.escape_debug().to_string(), text];
    let mut secrets: Vec<String> = texts.flat_map(escaped).collect();
    secrets.push(STANDARD.encode(plain(user)));
    secrets.retain(|secret| secret.len() >= SHORTEST);
    secrets
}

/// Returns a word without the user information of its URL, which the last `@` ends.
fn without_user(word: &str) -> String {
    let parts = word.split_once("://").and_then(|(scheme, rest)| Some((scheme, rest.rsplit_once('@')?.1)));
    parts.map_or(word.to_owned(), |(scheme, host)| format!("{scheme}://{HIDDEN}@{host}"))
}

/// Returns a text without JSON Web Tokens, which begin with the base64 of `{"` (RFC 7519, section 3).
fn without_tokens(text: &str) -> String {
    let is_part = |c: char| c.is_ascii_alphanumeric() || "-_=.".contains(c);
    let (mut plain, mut rest) = (String::new(), text);
    while let Some((before, _)) = rest.split_once("eyJ") {
        let token = &rest[before.len()..];
        let (token, after) = token.split_at(token.find(|c| !is_part(c)).unwrap_or(token.len()));
        plain += before;
        plain += if token.matches('.').count() >= 2 { HIDDEN } else { token };
        rest = after;
    }
    plain + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_user_of_an_address_is_hidden() {
        for (text, expected) in [
            ("no: http://CORP\\ada:p@ss@127.0.0.1:9/ x", "no: http://***@127.0.0.1:9/ x"),
            ("'http://a:b@h'\n\thttps://c@d/", "'http://***@h'\n\thttps://***@d/"),
            ("ada@contoso.com https://aka.ms/x", "ada@contoso.com https://aka.ms/x"),
        ] {
            assert_eq!(without_secrets(text), expected);
        }
    }

    #[test]
    fn a_token_is_hidden() {
        for (text, expected) in [
            ("token eyJhbGciOi.eyJ0aWQ.c2ln-_ x", "token *** x"),
            ("{\"t\":\"eyJ0.eyJ1.\",\"u\":\"eyJ0.a.b.c.d\"}", "{\"t\":\"***\",\"u\":\"***\"}"),
            ("--claims-challenge eyJhY2Nlc3NfdG9rZW4.", "--claims-challenge eyJhY2Nlc3NfdG9rZW4."),
            ("eyJ", "eyJ"),
        ] {
            assert_eq!(without_secrets(text), expected);
        }
    }

    #[test]
    fn a_proxy_contains_secrets() {
        for address in
            ["http://CORP\\ada:p4ss%23w@h:1", "CORP\\ada:p4ss%23w@", "\"htp://CORP\\ada:p4ss%23w\""]
        {
            let secrets = of_proxy(address);
            for expected in ["CORP\\ada:p4ss%23w", "CORP\\\\ada:p4ss#w", "p4ss%23w", "p4ss#w"] {
                assert!(
                    secrets.iter().any(|secret| secret == expected),
                    "{address}: {expected}: {secrets:?}"
                );
            }
        }
        assert!(of_proxy("http://a:p4ss#word@h").contains(&"p4ss".to_owned()));
        for address in ["http://proxy.example:3128/", "proxy.example", "http://proxy.example:80", ""] {
            assert_eq!(of_proxy(address), [""; 0], "{address}");
        }
    }
}
