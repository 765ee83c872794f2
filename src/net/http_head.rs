//! The head of an HTTP/1 response with its reason phrase, which contains the error text of Azure Relay. HTTP libraries drop
//! a phrase that is not ASCII.

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncRead, AsyncReadExt};

/// The longest accepted head. Azure Relay's limit for headers is 32 kB (Relay Hybrid Connections protocol).
const MAX_HEAD: usize = 32 * 1024;
/// The most accepted header lines.
const MAX_HEADERS: usize = 64;

/// The status line and the headers of a response.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Head {
    /// The status code.
    pub(crate) status: u16,
    /// The reason phrase; empty if there is none.
    pub(crate) reason: String,
    /// Names and values in order. Bytes that are not UTF-8 are replaced.
    pub(crate) headers: Vec<(String, String)>,
    /// Bytes after the head that were already read.
    pub(crate) read_ahead: Vec<u8>,
}

impl Head {
    /// Returns the non-empty members of a list header, over all its lines (RFC 9110, section 5.6.1).
    pub(crate) fn values(&self, name: &str) -> impl Iterator<Item = &str> {
        let lines = self.headers.iter().filter(move |(n, _)| n.eq_ignore_ascii_case(name));
        lines.flat_map(|(_, value)| value.split(',')).map(str::trim).filter(|value| !value.is_empty())
    }
}

/// Reads one head.
///
/// # Errors
/// The connection ends within the head, or the response is not HTTP.
pub(crate) async fn read<T: AsyncRead + Unpin>(stream: &mut T) -> Result<Head> {
    let (mut received, mut interim) = (Vec::with_capacity(4096), 0);
    while interim + received.len() < MAX_HEAD {
        if stream.read_buf(&mut received).await? == 0 {
            let already =
                if received.is_empty() { "without a response" } else { "in the middle of the response" };
            bail!("the connection was closed {already}");
        }
        while let Some(head) = parse(&received)? {
            // Other 1xx responses precede the final response (RFC 9110, section 15.2).
            if head.status == 101 || !(100..200).contains(&head.status) {
                return Ok(head);
            }
            interim += received.len() - head.read_ahead.len();
            received = head.read_ahead;
        }
    }
    bail!("the head of the response is longer than {MAX_HEAD} bytes")
}

fn parse(received: &[u8]) -> Result<Option<Head>> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(length) = response.parse(received).context("the response is not HTTP")?
    else {
        return Ok(None);
    };
    let text = |header: &httparse::Header<'_>| {
        (header.name.to_owned(), String::from_utf8_lossy(header.value).into_owned())
    };
    Ok(Some(Head {
        status: response.code.context("the response has no status")?,
        reason: reason(received),
        headers: response.headers.iter().map(text).collect(),
        read_ahead: received[length..].to_vec(),
    }))
}

/// Returns the text after the status. An agent sends error texts in the language of its operating system, and httparse drops
/// a phrase that is not ASCII.
fn reason(received: &[u8]) -> String {
    let line = received.trim_ascii_start().split(|&byte| byte == b'\n').next().unwrap_or_default();
    let phrase = line.splitn(3, |&byte| byte == b' ').nth(2).unwrap_or_default();
    String::from_utf8_lossy(phrase).trim().to_owned()
}

/// Returns the value of the parameter `name` in the first challenge of `scheme` that has it. A field line can contain several
/// challenges (RFC 9110, section 11.6.1). `name` and `scheme` are case-insensitive.
///
/// An unquoted value ends at a comma: the Arc agent sends a file's path with slashes and spaces, and without quotes
/// (Microsoft Learn, "Authenticate against Azure resources with Azure Arc-enabled servers").
pub(crate) fn auth_param(line: &str, scheme: &str, name: &str) -> Option<String> {
    let mut rest = line;
    let mut is_in_scheme = false;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let (token, after) = rest.split_at(rest.find([' ', '\t', ',', '=', '"']).unwrap_or(rest.len()));
        let after = after.trim_start_matches([' ', '\t']);
        rest = match after.strip_prefix('=') {
            Some(value) => {
                let (value, after) = parameter_value(value.trim_start_matches([' ', '\t']))?;
                if is_in_scheme && token.eq_ignore_ascii_case(name) {
                    return Some(value);
                }
                after
            }
            // The end, or a string in an invalid place.
            None if token.is_empty() => quoted_string(after.strip_prefix('"')?)?.1,
            None => {
                is_in_scheme = token.eq_ignore_ascii_case(scheme);
                after
            }
        };
    }
}

/// Returns the value at the start of `text`, and what follows it.
fn parameter_value(text: &str) -> Option<(String, &str)> {
    match text.strip_prefix('"') {
        Some(quoted) => quoted_string(quoted),
        None => {
            let (value, after) = text.split_at(text.find(',').unwrap_or(text.len()));
            Some((value.trim_end().to_owned(), after))
        }
    }
}

/// Returns the content of a string without its opening quote, and the rest. `None`: the string has no end.
///
/// Only `\"` and `\\` are escapes: senders escape no other characters (RFC 9110, section 5.6.4), and a Windows path has single
/// backslashes.
fn quoted_string(text: &str) -> Option<(String, &str)> {
    let mut content = String::new();
    let mut is_escaped = false;
    for (at, c) in text.char_indices() {
        match c {
            '"' | '\\' if is_escaped => {
                content.pop();
                content.push(c);
                is_escaped = false;
                continue;
            }
            '"' => return Some((content, &text[at + 1..])),
            _ => content.push(c),
        }
        is_escaped = c == '\\';
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read_all(mut bytes: &[u8]) -> Result<Head> {
        read(&mut bytes).await
    }

    #[tokio::test]
    async fn a_head_has_its_reason_phrase_and_the_bytes_after_it() {
        let head = read_all(b"HTTP/1.1 404 Endpoint does not exist. TrackingId:x_G13\r\nX-A: b\r\n\r\nrest")
            .await
            .unwrap();
        assert_eq!((head.status, head.reason.as_str()), (404, "Endpoint does not exist. TrackingId:x_G13"));
        assert_eq!(head.values("x-a").collect::<Vec<_>>(), ["b"]);
        assert_eq!(head.read_ahead, b"rest");
    }

    #[tokio::test]
    async fn a_reason_phrase_can_have_any_language() {
        let head = read_all("HTTP/1.1 503 zurückgewiesen – für Sie\r\n\r\n".as_bytes()).await.unwrap();
        assert_eq!(head.reason, "zurückgewiesen – für Sie");
        let head = read_all(b"HTTP/1.1 503 port 22: f\xfcr Sie\r\n\r\n").await.unwrap();
        assert_eq!(head.reason, "port 22: f\u{fffd}r Sie");
    }

    #[test]
    fn a_parameter_is_found_in_every_form_of_a_challenge() {
        for challenge in [
            "Bearer realm=\"a b\", x=1",
            "Bearer realm=a b",
            "bearer Realm = a b , charset=\"UTF-8\"",
            "BEARER REALM=\"a b\"",
            "Negotiate, Bearer x=\"realms\",realm=\"a b\"",
            "Bearer\trealm=\"a b\",realm=\"second\"",
            ", ,Bearer realm=\"a b\"",
        ] {
            assert_eq!(auth_param(challenge, "Bearer", "realm").as_deref(), Some("a b"), "{challenge}");
        }
        for challenge in [
            "",
            "Bearer",
            "Bearer realm",
            "Bearer xrealm=\"a\"",
            "Bearer realm=\"a",
            "realm=a",
            "\"Bearer realm=a\"",
        ] {
            assert_eq!(auth_param(challenge, "Bearer", "realm"), None, "{challenge}");
        }
    }

    #[test]
    fn a_quoted_string_contains_no_parameter() {
        for challenge in [
            "Bearer error_description=\"see realm=evil for more\", realm=\"good\"",
            "Bearer error_description=\"see, realm=evil, for more\", realm=good",
            "Bearer error=\"say \\\", realm=\\\"evil\\\"\", realm=\"good\"",
            "Bearer error=\"ends in \\\\\", realm=\"good\"",
            "Bearer \"realm=evil\", realm=\"good\"",
            "Bearer error=\"\",realm=\"good\"",
        ] {
            assert_eq!(auth_param(challenge, "Bearer", "realm").as_deref(), Some("good"), "{challenge}");
        }
        assert_eq!(auth_param("Bearer error=\", realm=\"evil", "Bearer", "realm"), None);
    }

    #[test]
    fn a_parameter_belongs_to_the_challenge_of_its_scheme() {
        let several = "Negotiate YIIB==, Digest realm=\"other\", nonce=\"x\", Basic realm=/var/opt/a.key, Bearer realm=z";
        assert_eq!(auth_param(several, "Basic", "realm").as_deref(), Some("/var/opt/a.key"));
        assert_eq!(auth_param(several, "bearer", "REALM").as_deref(), Some("z"));
        assert_eq!(auth_param(several, "Basic", "nonce"), None);
        assert_eq!(auth_param(several, "NTLM", "realm"), None);
    }

    #[test]
    fn escapes_are_resolved_and_a_path_has_its_backslashes() {
        for (challenge, realm) in [
            (r#"Basic realm="a \"b\" c""#, r#"a "b" c"#),
            (r#"Basic realm="C:\\a\\\"b""#, r#"C:\a\"b"#),
            (r#"Basic realm="C:\ProgramData\Tokens\a.key""#, r"C:\ProgramData\Tokens\a.key"),
            (r"Basic realm=C:\ProgramData\Tokens\a.key", r"C:\ProgramData\Tokens\a.key"),
            ("Basic realm=/var/opt/a=b/c d.key", "/var/opt/a=b/c d.key"),
        ] {
            assert_eq!(auth_param(challenge, "Basic", "realm").as_deref(), Some(realm), "{challenge}");
        }
    }

    #[tokio::test]
    async fn interim_responses_are_skipped() {
        let head = read_all(
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 101 Yes\r\n\r\nx",
        );
        let head = head.await.unwrap();
        assert_eq!((head.status, head.read_ahead.as_slice()), (101, b"x".as_slice()));
    }

    #[tokio::test]
    async fn a_head_without_a_reason_is_read() {
        let head = read_all(b"HTTP/1.1 503\r\n\r\n").await.unwrap();
        assert_eq!((head.status, head.reason.as_str()), (503, ""));
    }

    /// tinyproxy responds in HTTP/1.0.
    #[tokio::test]
    async fn a_head_of_http_1_0_is_read() {
        let head = read_all(b"HTTP/1.0 200 Connection established\r\n\r\n").await.unwrap();
        assert_eq!((head.status, head.reason.as_str()), (200, "Connection established"));
    }

    #[tokio::test]
    async fn other_bytes_are_an_error() {
        let error = |bytes: &'static [u8]| async move { read_all(bytes).await.unwrap_err().to_string() };
        assert_eq!(error(b"").await, "the connection was closed without a response");
        assert_eq!(error(b"HTTP/1.1 200").await, "the connection was closed in the middle of the response");
        assert_eq!(error(b"SSH-2.0-OpenSSH_9.2\r\n").await, "the response is not HTTP");
        let endless: &'static [u8] =
            Box::leak([b"HTTP/1.1 200 ".as_slice(), &[b'a'; MAX_HEAD]].concat().into_boxed_slice());
        assert_eq!(error(endless).await, format!("the head of the response is longer than {MAX_HEAD} bytes"));
        let interim: &'static [u8] = Box::leak(b"HTTP/1.1 100 Continue\r\n\r\n".repeat(MAX_HEAD).into());
        assert_eq!(error(interim).await, format!("the head of the response is longer than {MAX_HEAD} bytes"));
    }
}
