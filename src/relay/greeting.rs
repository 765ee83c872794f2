//! The machine's first bytes. An SSH server begins with its identification, which may follow lines of text (RFC 4253,
//! section 4.2). Other bytes come from a service of another protocol, or from an sshd that rejects the connection.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use tokio::time::Instant;

use crate::text::sanitize;

/// The most bytes to examine. RFC 4253 sets no limit.
pub(crate) const MAX_GREETING: usize = 8192;
/// The silence after which a connection that ssh gives up is reported.
const MIN_SILENCE: Duration = Duration::from_secs(5);
/// The most characters of a message.
const MAX_TEXT: usize = 120;

/// The text of sshd since 9.8 for penalties (`PerSourcePenalties`), `MaxStartups` and `PerSourceMaxStartups`, and the text of
/// older versions for the last two (OpenSSH, sshd.c: `drop_connection`).
const LIMITED: [(&str, Limit); 2] =
    [("Not allowed at this time", Limit::Penalties), ("Exceeded MaxStartups", Limit::MaxStartups)];

/// The first bytes of other protocols: a record of TLS (RFC 8446, section 5.1), TPKT of RDP (RFC 2126, section 4.3), RFB of
/// VNC (RFC 6143, section 7.1.1), IAC of Telnet (RFC 854).
const PROTOCOLS: [(&[u8], &str); 6] = [
    (&[0x15, 0x03], "TLS"),
    (&[0x16, 0x03], "TLS"),
    (&[0x03, 0x00], "Remote Desktop"),
    (b"RFB ", "VNC"),
    (&[0xff, 0xfb], "Telnet"),
    (&[0xff, 0xfd], "Telnet"),
];

/// A limit of sshd for connections that have not logged in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Limit {
    /// `PerSourcePenalties` or `MaxStartups` of OpenSSH 9.8 or later.
    Penalties,
    /// `MaxStartups` of an older OpenSSH.
    MaxStartups,
}

/// The behaviour of a service that sends no SSH identification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NotSsh {
    /// It is an sshd that rejects the connection because of a limit; its text.
    Limited(Limit, String),
    /// It sends an HTTP response with this status line.
    Http(String),
    /// It uses this protocol.
    Protocol(&'static str),
    /// It identifies itself with this version of SSH, which OpenSSH does not support.
    Version(String),
    /// It sends this beginning of an identification.
    Incomplete(String),
    /// It sends this text.
    Text(String),
    /// It sends other bytes.
    Binary,
    /// It closes the connection without a byte.
    Closed,
    /// It sends nothing for this time.
    Silent(Duration),
}

impl fmt::Display for NotSsh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Limited(_, text) => write!(f, "sshd rejects connections for now (\"{text}\")"),
            Self::Http(status) => write!(f, "it is a web server (\"{status}\")"),
            Self::Protocol(name) => write!(f, "it uses {name}"),
            Self::Version(version) => write!(f, "it speaks SSH {version}, which OpenSSH does not support"),
            Self::Incomplete(text) => {
                write!(f, "it sends only the beginning of an identification (\"{text}\")")
            }
            Self::Text(text) => write!(f, "it sends \"{text}\""),
            Self::Binary => write!(f, "it sends data of another protocol"),
            Self::Closed => write!(f, "it closes each connection without a byte"),
            Self::Silent(time) => write!(f, "it sent nothing within {} s", time.as_secs()),
        }
    }
}

impl NotSsh {
    /// Classifies the bytes of a service before it closed the connection or fell silent.
    pub(crate) fn of(bytes: &[u8]) -> Self {
        let text = String::from_utf8_lossy(bytes);
        let line = text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
        let line: String = sanitize(line).chars().take(MAX_TEXT).collect();
        let ssh =
            ssh_line(bytes).map(|line| sanitize(line.trim_end()).chars().take(MAX_TEXT).collect::<String>());
        if bytes.is_empty() {
            Self::Closed
        } else if let Some(line) = ssh {
            match version(&line) {
                Some(version) if !is_supported(version) => Self::Version(version.into()),
                Some(_) => Self::Incomplete(line),
                None => Self::Text(line),
            }
        } else if let Some((text, limit)) = LIMITED.into_iter().find(|(text, _)| line.starts_with(text)) {
            Self::Limited(limit, text.into())
        } else if let Some((_, name)) = PROTOCOLS.into_iter().find(|(start, _)| bytes.starts_with(start)) {
            Self::Protocol(name)
        } else if line.starts_with("HTTP/") || line.starts_with('<') {
            Self::Http(line)
        } else if line.is_empty() || bytes.iter().any(|byte| *byte < b' ' && !byte.is_ascii_whitespace()) {
            Self::Binary
        } else {
            Self::Text(line)
        }
    }
}

/// Returns the line of the identification in the first bytes of a server, once it is complete.
pub(crate) fn identification(bytes: &[u8]) -> Option<String> {
    let line = ssh_line(bytes)?;
    let is_complete = line.ends_with('\n') && version(&line).is_some_and(is_supported);
    is_complete.then(|| line.trim_end().to_owned())
}

/// Returns the first line that begins with `SSH-`, or its beginning.
fn ssh_line(bytes: &[u8]) -> Option<Cow<'_, str>> {
    let line = bytes.split_inclusive(|byte| *byte == b'\n').find(|line| line.starts_with(b"SSH-"))?;
    Some(String::from_utf8_lossy(line))
}

/// Returns the version in the line of an identification.
fn version(line: &str) -> Option<&str> {
    let (version, _) = line.strip_prefix("SSH-")?.split_once('-')?;
    let (major, minor) = version.split_once('.')?;
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    (is_number(major) && is_number(minor)).then_some(version)
}

/// Returns whether OpenSSH supports a version (RFC 4253, sections 4.2 and 5.1; OpenSSH, kex.c:
/// `kex_exchange_identification`).
fn is_supported(version: &str) -> bool {
    version == "1.99" || version.starts_with("2.")
}

/// The machine's first bytes in a connection of ssh.
pub(crate) struct Greeting {
    start: Instant,
    bytes: Vec<u8>,
}

impl Greeting {
    pub(crate) fn new() -> Self {
        Self { start: Instant::now(), bytes: Vec::new() }
    }

    /// Adds bytes of the machine. Returns whether they contain an identification.
    pub(crate) fn is_complete_with(&mut self, bytes: &[u8]) -> bool {
        let space = MAX_GREETING - self.bytes.len();
        if space == 0 {
            return false;
        }
        self.bytes.extend_from_slice(&bytes[..bytes.len().min(space)]);
        identification(&self.bytes).is_some()
    }

    /// Returns why ssh received no identification. `is_ssh` tells whether the client has sent one; other clients may use other
    /// protocols.
    pub(crate) fn failure(&self, is_ssh: Option<bool>, closed_by_machine: ByMachine) -> Option<NotSsh> {
        if !self.bytes.is_empty() {
            let failure = NotSsh::of(&self.bytes);
            let is_certain = match failure {
                NotSsh::Limited(..) => true,
                NotSsh::Http(_) => is_ssh != Some(false),
                _ => is_ssh == Some(true),
            };
            return is_certain.then_some(failure);
        }
        if is_ssh != Some(true) {
            return None;
        }
        let silence = self.start.elapsed();
        match closed_by_machine {
            ByMachine::Closed => Some(NotSsh::Closed),
            ByMachine::Open => (silence >= MIN_SILENCE).then_some(NotSsh::Silent(silence)),
        }
    }
}

/// Whether the machine has closed the connection before ssh did.
#[derive(Clone, Copy)]
pub(crate) enum ByMachine {
    Closed,
    Open,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_bytes_other_than_an_identification_are_classified() {
        let limited = |limit, text: &str| NotSsh::Limited(limit, text.into());
        let text = |text: &str| NotSsh::Text(text.into());
        let cases: [(&[u8], NotSsh); 19] = [
            (b"", NotSsh::Closed),
            (b"Not allowed at this time\r\n", limited(Limit::Penalties, "Not allowed at this time")),
            (b"Exceeded MaxStartups\r\n", limited(Limit::MaxStartups, "Exceeded MaxStartups")),
            (
                b"HTTP/1.1 400 Bad Request\r\nServer: x\r\n\r\n",
                NotSsh::Http("HTTP/1.1 400 Bad Request".into()),
            ),
            (b"<!DOCTYPE html>", NotSsh::Http("<!DOCTYPE html>".into())),
            (&[0x15, 3, 1, 0, 2, 2, 70], NotSsh::Protocol("TLS")),
            (&[0x16, 3, 3, 0, 9], NotSsh::Protocol("TLS")),
            (&[3, 0, 0, 19, 14, 0xd0], NotSsh::Protocol("Remote Desktop")),
            (b"RFB 003.008\n", NotSsh::Protocol("VNC")),
            (&[0xff, 0xfd, 0x18], NotSsh::Protocol("Telnet")),
            (b"220 mail.example ESMTP\r\n", text("220 mail.example ESMTP")),
            (b"\r\n\r\nYou are not welcome here.\r\n", text("You are not welcome here.")),
            (&[0x4a, 0, 0, 0, 0x0a, b'8', b'.'], NotSsh::Binary),
            (b"\r\n", NotSsh::Binary),
            (b"SSH-1.5-old\r\n", NotSsh::Version("1.5".into())),
            (b"notice\r\nSSH-3.0-new\r\n", NotSsh::Version("3.0".into())),
            (b"notice\r\nSSH-2.0-Open", NotSsh::Incomplete("SSH-2.0-Open".into())),
            (b"SSH-2.0\r\n", text("SSH-2.0")),
            (b"SSH-none\r\n", text("SSH-none")),
        ];
        for (bytes, expected) in cases {
            assert_eq!(NotSsh::of(bytes), expected);
        }
        let hostile = NotSsh::of("a\u{1b}[2J\u{202e}b".as_bytes()).to_string();
        assert_eq!(sanitize(&hostile), hostile);
        let NotSsh::Text(long) = NotSsh::of(&[b'x'; 9000]) else { panic!() };
        assert_eq!(long.len(), MAX_TEXT);
    }

    #[test]
    fn an_identification_may_follow_lines_and_arrive_in_pieces() {
        let mut greeting = Greeting::new();
        let pieces: [&[u8]; 5] = [b"notice\r", b"\nS", b"SH", b"-2.0-x", b"\r\n"];
        assert_eq!(pieces.map(|piece| greeting.is_complete_with(piece)), [false, false, false, false, true]);
        assert_eq!(identification(b"notice\r\nSSH-2.0-x y\r\nrest").as_deref(), Some("SSH-2.0-x y"));
        assert_eq!(identification(b"SSH-2.0-x"), None);
        assert_eq!(identification(b"no SSH-2.0-x\n"), None);
        assert_eq!(identification(b"SSH-1.5-x\r\n"), None);
        assert_eq!(identification(b"SSH-1.99-x\n").as_deref(), Some("SSH-1.99-x"));
    }

    #[test]
    fn a_client_of_another_protocol_gets_no_error() {
        let failure = |bytes: &[u8], is_ssh, by| {
            let mut greeting = Greeting::new();
            greeting.is_complete_with(bytes);
            greeting.failure(is_ssh, by)
        };
        let http = b"HTTP/1.1 200 OK\r\n";
        assert_eq!(failure(http, Some(false), ByMachine::Closed), None);
        assert!(failure(http, None, ByMachine::Closed).is_some());
        assert_eq!(failure(b"data", None, ByMachine::Closed), None);
        assert!(failure(b"data", Some(true), ByMachine::Open).is_some());
        assert_eq!(failure(b"", None, ByMachine::Closed), None);
        assert_eq!(failure(b"", Some(true), ByMachine::Open), None, "ssh has not waited long");
        assert_eq!(failure(b"", Some(true), ByMachine::Closed), Some(NotSsh::Closed));
        assert!(failure(b"Not allowed at this time", Some(false), ByMachine::Open).is_some());
    }
}
