//! The properties of each parser for any input.

use std::pin::Pin;
use std::task::{Context, Poll};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::uri::Authority;
use tokio::io::{AsyncRead, ReadBuf};

use crate::azure::hybrid_connectivity::RelayCredentials;
use crate::azure::relay_host::RelaySuffixes;
use crate::azure::resource_id::ResourceId;
use crate::cli::proxy_command::find_entry;
use crate::net::{http_head, http_proxy, x509};
use crate::ssh::certificate::Certificate;
use crate::ssh::rsa_key::PublicKey;
use crate::ssh::wire::{Reader, put_positive, put_string};
use crate::ssh::{effective_config, foreign_entries, managed_block};
use crate::tests::{each_input, finish, is_plain, text};
use crate::text::{sanitize, shell_quote};

#[test]
fn relay_credentials_name_a_relay_of_the_cloud_and_never_print_their_key() {
    const SUFFIX: &str = ".servicebus.windows.net";
    let suffixes = RelaySuffixes::new(&[&SUFFIX[1..]], None);
    each_input("relay", |input| {
        let (plain, packed) = (RelayCredentials::from_json(input, &suffixes), STANDARD.encode(input));
        let folded: String = packed.chars().flat_map(|c| [c, '\n']).collect();
        assert_eq!(plain.is_ok(), RelayCredentials::from_relay_info(&folded, &suffixes).is_ok());
        let _ = RelayCredentials::from_relay_info(&text(input), &suffixes);
        match plain {
            Ok(credentials) => {
                let key = credentials.access_key.secret();
                assert!(key.len() < 12 || !format!("{:?}", credentials.access_key).contains(key));
                let authority = credentials.relay.authority();
                let label = authority.host().strip_suffix(SUFFIX).unwrap_or_default();
                let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
                assert!(!label.is_empty() && label.chars().all(is_plain), "{authority}");
                assert_eq!((authority.port(), authority.as_str()), (None, authority.host()));
                "ok".into()
            }
            Err(error) => format!("{error:?}"),
        }
    });
}

/// A stream that delivers one byte at a time.
struct OneByOne<'a>(&'a [u8]);

impl AsyncRead for OneByOne<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        if let Some((first, rest)) = self.0.split_first() {
            buffer.put_slice(&[*first]);
            self.0 = rest;
        }
        Poll::Ready(Ok(()))
    }
}

#[test]
fn the_head_of_a_response_is_the_same_in_steps_of_any_size() {
    each_input("head", |input| {
        let (whole, parts) =
            (finish(http_head::read(&mut &*input)), finish(http_head::read(&mut OneByOne(input))));
        match (whole, parts) {
            (Ok(whole), Ok(parts)) => {
                assert!(input.ends_with(&whole.read_ahead));
                assert_eq!((whole.status, &whole.reason), (parts.status, &parts.reason));
                assert_eq!((&whole.headers, parts.read_ahead.len()), (&parts.headers, 0));
                format!("{} {:?}", whole.status / 100, whole.headers.len().min(3))
            }
            (Err(whole), Err(_)) => format!("{whole:#}"),
            (whole, parts) => panic!("{whole:?} and {parts:?}"),
        }
    });
}

#[test]
fn a_parameter_is_part_of_its_challenge() {
    each_input("challenge", |input| {
        let challenge = text(input);
        let names = ["realm", "authorization_uri", "error"];
        let found = names.map(|name| http_head::auth_param(&challenge, "Bearer", name));
        for value in found.iter().flatten() {
            // Escapes have no backslash in the value.
            let mut rest = challenge.chars();
            assert!(value.chars().all(|c| rest.any(|other| other == c)), "{value:?} in {challenge:?}");
        }
        format!("{:?}", found.map(|value| value.map(|value| value.len().min(2))))
    });
}

#[test]
fn a_tunnel_is_open_only_after_a_2xx_response_without_further_bytes() {
    each_input("proxy", |input| {
        let [proxy, target] =
            ["proxy.example", "relay.example"].map(|host| host.parse::<Authority>().unwrap());
        let mut stream = tokio::io::join(input, tokio::io::sink());
        match finish(http_proxy::open_tunnel(&mut stream, &proxy, &target, None)) {
            Ok(()) => {
                assert!(input.windows(2).any(|pair| pair == b" 2") && stream.reader().is_empty());
                "open".into()
            }
            Err(error) => sanitize(&format!("{error:#}")),
        }
    });
}

#[test]
fn removing_the_managed_block_restores_the_configuration() {
    each_input("ssh_config", |input| {
        let text = text(input);
        let block = managed_block::block("--all", "Host web01\n  ProxyCommand arcssh proxy x\n");
        let _ = (managed_block::options(&text), managed_block::host_entries(&text));
        match (managed_block::find(&text), managed_block::with_block(&text, &block)) {
            (Ok(found), Ok(with)) => {
                assert_eq!(managed_block::with_block(&with, &block).unwrap(), with);
                let without = managed_block::without_block(&with).unwrap();
                assert_eq!(managed_block::find(&without).unwrap(), None);
                if found.is_none() {
                    assert_eq!(without, text, "the user's text is unchanged");
                }
                format!("{:?}", found.is_some())
            }
            (Err(error), Err(_)) => error.to_string(),
            (found, with) => panic!("{found:?}, {with:?}"),
        }
    });
}

#[test]
fn adopted_entries_become_comments_and_nothing_else_changes() {
    each_input("ssh_config", |input| {
        let text = text(input);
        let foreign = foreign_entries::find(&text);
        assert_eq!(foreign_entries::commented_out(&text, &[], "2026-01-01"), text);
        let adopted = foreign_entries::commented_out(&text, &foreign, "2026-01-01");
        assert!(foreign_entries::find(&adopted).is_empty(), "{adopted:?}");
        assert_eq!(adopted.matches('\n').count(), text.matches('\n').count());
        assert!(foreign_entries::find_adopted(&adopted).len() >= foreign.len());
        let ours = effective_config::host_entries(&text);
        let _ = find_entry("web01", &text);
        let keywords = text.lines().filter_map(effective_config::directive).map(|(keyword, _)| keyword);
        assert!(
            keywords.into_iter().all(|word| word == word.to_lowercase() && !word.contains([' ', '=', '\t']))
        );
        format!("{} {}", "x".repeat(foreign.len().min(3)), "y".repeat(ours.len().min(3)))
    });
}

#[test]
fn a_public_key_is_written_unchanged() {
    each_input("key", |input| {
        let read = PublicKey::from_blob(input);
        if let Ok(key) = &read {
            assert_eq!(PublicKey::from_blob(&key.blob()).as_ref(), Ok(key));
            assert!(is_plain(key.to_line().trim_end()));
        }
        read.map_or_else(|error| error.to_string(), |_| "ok".into())
    });
}

#[test]
fn a_certificate_is_written_unchanged() {
    let check = |parsed: Result<Certificate, _>| match parsed {
        Ok(certificate) => {
            let again = Certificate::parse(&certificate.to_line()).unwrap();
            assert_eq!((again.blob(), again.login_name()), (certificate.blob(), certificate.login_name()));
            "ok".into()
        }
        Err(error) => sanitize(&message(error)),
    };
    each_input("certificate", |input| {
        let line = check(Certificate::parse(&text(input)));
        // The input is the body of a line, because mutated base64 is seldom valid.
        line + &check(Certificate::parse(&STANDARD.encode(input)))
    });
}

/// Returns the text of an error.
fn message(error: impl std::fmt::Display) -> String {
    error.to_string()
}

#[test]
fn numbers_and_strings_of_ssh_are_read_within_the_input() {
    each_input("wire", |input| {
        let (mut reader, mut outcome) = (Reader::new(input), String::new());
        while reader.left() > 0 && outcome.len() < 60 {
            let before = reader.left();
            let mut ahead = reader;
            if let Ok(string) = ahead.string() {
                let mut written = Vec::new();
                put_string(&mut written, string);
                assert!(input[input.len() - before..].starts_with(&written));
            }
            ahead = reader;
            if let Ok(number) = ahead.positive() {
                let mut written = Vec::new();
                put_positive(&mut written, number);
                assert_eq!(Reader::new(&written).positive(), Ok(number));
            }
            let (kind, read) = match reader.byte() {
                Ok(0) => ("string", reader.string().is_ok()),
                Ok(1) => ("text", reader.text().is_ok()),
                Ok(2) => ("uint32", reader.uint32().is_ok()),
                Ok(3) => ("uint64", reader.uint64().is_ok()),
                Ok(4) => ("positive", reader.positive().is_ok()),
                Ok(_) => ("boolean", reader.boolean().is_ok()),
                Err(_) => ("nothing", false),
            };
            assert!(reader.left() < before || !read);
            outcome += &format!("{kind}{read} ");
        }
        outcome
    });
}

#[test]
fn a_printed_resource_id_can_be_parsed() {
    each_input("resource_id", |input| match text(input).parse::<ResourceId>() {
        Ok(id) => {
            assert_eq!(id.to_string().parse(), Ok(id.clone()));
            let name = |segment: &&str| {
                !segment.is_empty() && is_plain(segment) && !segment.contains(['/', '?', '#', '%', ' ', '"'])
            };
            assert!(id.segments().iter().all(name), "{id}");
            format!("ok {}", id.kind)
        }
        Err(error) => format!("{:?}", std::mem::discriminant(&error)),
    });
}

#[test]
fn any_certificate_has_an_issuer_or_none() {
    each_input("x509", |input| match x509::issuer(input) {
        Some(issuer) => {
            assert!(is_plain(&sanitize(&issuer)));
            format!("some {}", issuer.is_empty())
        }
        None => "none".into(),
    });
}

#[test]
fn sanitized_text_is_one_line_without_unsafe_characters() {
    each_input("line", |input| {
        let text = text(input);
        let line = sanitize(&text);
        assert!(is_plain(&line) && line.chars().count() <= 901);
        assert_eq!(sanitize(&line), line);
        #[cfg(unix)]
        assert_eq!(shell_word(&shell_quote(&text)).as_ref(), Some(&text));
        format!("{} {}", line.len() == text.len(), shell_quote(&text).starts_with('\''))
    });
}

/// Returns one word as a POSIX shell reads it; `None` if part of it is special to the shell (Shell Command Language, 2.2).
#[cfg(unix)]
fn shell_word(word: &str) -> Option<String> {
    let (mut read, mut is_quoted, mut characters) = (String::new(), false, word.chars());
    while let Some(c) = characters.next() {
        match c {
            '\'' => is_quoted = !is_quoted,
            '\\' if !is_quoted => read.push(characters.next()?),
            c if is_quoted || c.is_ascii_alphanumeric() || "/._-+:@%=,~".contains(c) => read.push(c),
            _ => return None,
        }
    }
    (!is_quoted && !word.is_empty()).then_some(read)
}
