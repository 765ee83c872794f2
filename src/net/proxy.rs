//! The proxy of the environment, and the hosts that arcssh reaches without it. A setting that arcssh cannot use is an error:
//! a connection never bypasses a proxy that the user has set. No text of this module contains a part of a proxy's address
//! that could be a password.

use std::env::VarError;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;
use http::uri::Authority;
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use percent_encoding::percent_decode_str;

use crate::net::NetError;
use crate::text::unquoted;

/// The variables that name the proxy of an `https://` address, the first non-empty one of which counts. Their order is that of
/// hyper-util's `Matcher::from_env`.
pub(crate) const PROXY: [&str; 4] = ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"];
const NO_PROXY: [&str; 2] = ["NO_PROXY", "no_proxy"];
/// The origin of a proxy that no variable names: the settings of Windows or macOS.
const SYSTEM: &str = "of the system";

/// Why a setting cannot be used. None of the texts quotes the setting, which can contain a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Problem {
    #[error("it is not UTF-8")]
    NotUtf8,
    #[error("it names a SOCKS proxy, and arcssh supports only HTTP proxies")]
    Socks,
    #[error("its scheme is neither http nor https")]
    Scheme,
    #[error("it names no host")]
    NoHost,
    #[error("its host contains a character that a host name cannot have")]
    Host,
    #[error("its host is not a valid IPv6 address in brackets")]
    Ipv6,
    #[error("its port is not a number from 1 to 65535")]
    Port,
    #[error("its host is followed by a path, which the address of a proxy cannot have")]
    Path,
    #[error("its user name contains a colon, which a user name for a proxy cannot have")]
    Colon,
    #[error("its entry number {0} is not a host, domain, address or network")]
    Exception(usize),
}

/// An HTTP proxy.
#[derive(Clone)]
pub(crate) struct Proxy {
    /// The variable that names the proxy.
    pub(super) origin: &'static str,
    /// Host and port.
    pub(super) host: Authority,
    /// Whether the connection to the proxy uses TLS (`https://`).
    pub(super) is_tls: bool,
    /// User name and password, as a header (RFC 7617).
    pub(super) authorization: Option<HeaderValue>,
}

/// The address without user name and password, and its origin.
impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_tls { "https" } else { "http" };
        write!(f, "{scheme}://{} ({})", self.host, self.origin.trim_start_matches("of "))
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Proxy {
    /// Parses an address in each form that programs accept: with and without a scheme and a final slash. The last `@` ends
    /// user name and password, which may contain any character; `%` and two hexadecimal digits are one byte.
    fn parse(origin: &'static str, text: &str) -> Result<Self, Problem> {
        let (scheme, rest) = match text.split_once("://") {
            Some((scheme, rest)) if is_scheme(scheme) => (scheme.to_ascii_lowercase(), rest),
            _ => ("http".to_owned(), text),
        };
        let (is_tls, default_port) = match scheme.as_str() {
            "http" => (false, 80),
            "https" => (true, 443),
            socks if socks.starts_with("socks") => return Err(Problem::Socks),
            _ => return Err(Problem::Scheme),
        };
        let (user, address) = rest.rsplit_once('@').map_or(("", rest), |(user, address)| (user, address));
        let (host, port) = host_and_port(address.trim_end_matches('/'))?;
        let port = port.unwrap_or(default_port);
        let host = format!("{host}:{port}").parse().map_err(|_| Problem::Host)?;
        Ok(Self { origin, host, is_tls, authorization: basic(user)? })
    }

    /// Returns the proxy of the system's settings, which hyper-util has parsed.
    fn of_system(proxy: &Intercept) -> Result<Self, Problem> {
        let parsed = Self::parse(SYSTEM, proxy.uri().to_string().as_str())?;
        Ok(Self { authorization: proxy.basic_auth().cloned(), ..parsed })
    }
}

fn is_scheme(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
}

/// Returns the header for `USER[:PASSWORD]`.
fn basic(user: &str) -> Result<Option<HeaderValue>, Problem> {
    let (user, password) = user.split_once(':').unwrap_or((user, ""));
    let user: Vec<u8> = percent_decode_str(user).collect();
    if user.contains(&b':') {
        return Err(Problem::Colon);
    }
    let pair: Vec<u8> = user.into_iter().chain([b':']).chain(percent_decode_str(password)).collect();
    if pair == b":" {
        return Ok(None);
    }
    let header = HeaderValue::from_str(&format!("Basic {}", STANDARD.encode(pair)));
    let mut header = header.expect("base64 is valid in a header");
    header.set_sensitive(true);
    Ok(Some(header))
}

/// Splits `HOST[:PORT]`. An IPv6 address is in brackets.
fn host_and_port(text: &str) -> Result<(&str, Option<u16>), Problem> {
    let (host, port) = match text.find(']') {
        Some(end) if text.starts_with('[') => match text.split_at(end + 1) {
            (host, "") => (host, None),
            (host, rest) => (host, Some(rest.strip_prefix(':').ok_or(Problem::Ipv6)?)),
        },
        _ if text.parse::<Ipv6Addr>().is_ok() => return Err(Problem::Ipv6),
        _ => text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
    };
    if host.is_empty() {
        return Err(Problem::NoHost);
    }
    if let Some(address) = host.strip_prefix('[') {
        address.trim_end_matches(']').parse::<Ipv6Addr>().map_err(|_| Problem::Ipv6)?;
    } else if host.contains(['/', '?', '#']) {
        return Err(Problem::Path);
    } else if !host.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c)) {
        return Err(Problem::Host);
    }
    let Some(port) = port else { return Ok((host, None)) };
    match port.find(['/', '?', '#']) {
        Some(end) if number(&port[..end]).is_some() => Err(Problem::Path),
        _ => Ok((host, Some(number(port).ok_or(Problem::Port)?))),
    }
}

/// Returns a port. `parse` alone accepts `+80`.
fn number(port: &str) -> Option<u16> {
    let is_number = port.bytes().all(|byte| byte.is_ascii_digit());
    port.parse().ok().filter(|&port| is_number && port > 0)
}

/// The hosts that arcssh reaches without a proxy.
///
/// There is no standard for the variable. arcssh accepts the forms of curl (CURLOPT_NOPROXY(3): commas or blanks, CIDR, `x` and
/// `.x` for a domain and the names in it), of Go (golang.org/x/net/http/httpproxy, `Config.NoProxy`: `*.x`, and a port) and of
/// Windows (semicolons, `*` in any place, `<local>`). Where programs differ: `.x` also means `x` itself, as in curl but not in
/// Go, and `*` excludes all hosts in any position, as in Go but not in curl.
#[derive(Clone, Debug, Default)]
struct Exceptions(Vec<Exception>);

#[derive(Clone, Debug)]
struct Exception {
    hosts: Hosts,
    /// The only port, if the user gave one.
    port: Option<u16>,
}

#[derive(Clone, Debug)]
enum Hosts {
    /// A domain and all names in it.
    Domain(String),
    /// A name with `*` in place of any text.
    Pattern(String),
    /// Addresses with the same first bits.
    Network(IpAddr, u32),
    /// Names without a dot.
    Local,
}

impl Exceptions {
    fn parse(text: &str) -> Result<Self, Problem> {
        let separators = |c: char| c == ',' || c == ';' || c.is_whitespace();
        let entries = text.split(separators).filter(|entry| !entry.is_empty());
        let parse = |(index, entry)| Exception::parse(entry).ok_or(Problem::Exception(index + 1));
        Ok(Self(entries.enumerate().map(parse).collect::<Result<_, _>>()?))
    }

    fn contain(&self, authority: &Authority) -> bool {
        let host = authority.host().trim_matches(['[', ']']).trim_end_matches('.').to_ascii_lowercase();
        let port = authority.port_u16().unwrap_or(443);
        self.0.iter().any(|one| one.port.is_none_or(|only| only == port) && one.hosts.contain(&host))
    }
}

impl Exception {
    fn parse(entry: &str) -> Option<Self> {
        let entry = entry.trim_matches(['"', '\'']).to_ascii_lowercase();
        let entry = entry.strip_prefix("https://").or(entry.strip_prefix("http://")).unwrap_or(&entry);
        let all_ports = |hosts| Some(Self { hosts, port: None });
        if entry == "<local>" {
            return all_ports(Hosts::Local);
        }
        if let Some(network) = Hosts::network(entry) {
            return all_ports(network);
        }
        let entry = entry.trim_end_matches('/');
        let (host, port) = match entry.rsplit_once(':') {
            Some((host, port)) => (host, Some(number(port)?)),
            None => (entry, None),
        };
        let hosts = match Hosts::network(host) {
            Some(network) => network,
            None => Hosts::name(host)?,
        };
        Some(Self { hosts, port })
    }
}

impl Hosts {
    /// Parses an address, in brackets or not, with or without the length of a prefix.
    fn network(text: &str) -> Option<Self> {
        let (address, bits) =
            text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
        let bare = address.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(address);
        let address: IpAddr = bare.parse().ok()?;
        let all = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.filter(|bits| !bits.is_empty());
        let bits = bits.map_or(Some(all), |bits| bits.parse().ok().filter(|&bits| bits <= all))?;
        Some(Self::Network(address, bits))
    }

    fn name(text: &str) -> Option<Self> {
        let name = text.trim_start_matches('.').trim_end_matches('.');
        let is_name = name.chars().all(|c| c.is_ascii_alphanumeric() || "-._*".contains(c));
        if name.is_empty() || !is_name {
            return None;
        }
        Some(if name.contains('*') { Self::Pattern(name.into()) } else { Self::Domain(name.into()) })
    }

    fn contain(&self, host: &str) -> bool {
        let address = host.parse::<IpAddr>().ok().map(|address| address.to_canonical());
        match (self, address) {
            (Self::Network(network, bits), Some(address)) => has_prefix(*network, *bits, address),
            (Self::Pattern(pattern), _) => matches(pattern, host),
            (Self::Domain(domain), None) => {
                host.strip_suffix(domain.as_str()).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
            }
            (Self::Local, None) => !host.contains('.'),
            _ => false,
        }
    }
}

fn has_prefix(network: IpAddr, bits: u32, address: IpAddr) -> bool {
    match (network, address) {
        (IpAddr::V4(network), IpAddr::V4(address)) => {
            (network.to_bits() ^ address.to_bits()).checked_shr(32 - bits).unwrap_or(0) == 0
        }
        (IpAddr::V6(network), IpAddr::V6(address)) => {
            (network.to_bits() ^ address.to_bits()).checked_shr(128 - bits).unwrap_or(0) == 0
        }
        _ => false,
    }
}

/// Returns whether `text` is the pattern with any text in place of each `*`.
fn matches(pattern: &str, text: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut text) = text.strip_prefix(first) else { return false };
    let mut parts: Vec<&str> = rest.split('*').collect();
    let last = parts.pop().unwrap_or_default();
    for part in parts {
        match text.split_once(part) {
            Some((_, after)) => text = after,
            None => return false,
        }
    }
    text.ends_with(last)
}

/// The proxy settings.
#[derive(Debug)]
pub(super) struct Proxies {
    /// The proxy that a variable names. A SOCKS proxy is an error only for the hosts that need it.
    proxy: Option<Result<Proxy, NetError>>,
    exceptions: Exceptions,
    /// The settings of Windows and macOS, which apply if no variable names a proxy.
    system: Matcher,
}

impl Proxies {
    /// Reads the variables, and the system's settings.
    ///
    /// # Errors
    /// [`NetError::Setting`]: a variable cannot be used.
    pub(super) fn from_environment() -> Result<Self, NetError> {
        let exceptions = match variable(&NO_PROXY)? {
            Some((name, text)) => Exceptions::parse(&text).map_err(|problem| invalid(name, problem))?,
            None => Exceptions::default(),
        };
        let proxy = match variable(&PROXY)? {
            Some((name, text)) => match Proxy::parse(name, &text) {
                Err(problem) if problem != Problem::Socks => return Err(invalid(name, problem)),
                proxy => Some(proxy.map_err(|problem| invalid(name, problem))),
            },
            None => None,
        };
        Ok(Self { proxy, exceptions, system: Matcher::from_system() })
    }

    /// Returns the proxy for a host.
    ///
    /// # Errors
    /// [`NetError::Setting`]: it is not an HTTP proxy.
    pub(super) fn of(&self, authority: &Authority) -> Result<Option<Proxy>, NetError> {
        if self.exceptions.contain(authority) {
            return Ok(None);
        }
        if let Some(proxy) = &self.proxy {
            return proxy.clone().map(Some);
        }
        let proxy = self.system.intercept(&super::uri(authority));
        let proxy = proxy.map(|proxy| Proxy::of_system(&proxy).map_err(|problem| invalid(SYSTEM, problem)));
        proxy.transpose()
    }
}

fn invalid(variable: &'static str, problem: Problem) -> NetError {
    NetError::Setting { variable, problem }
}

/// Returns the first of these variables that is not empty.
fn variable(names: &[&'static str]) -> Result<Option<(&'static str, String)>, NetError> {
    for &name in names {
        match std::env::var(name) {
            Ok(text) if unquoted(&text).is_empty() => {}
            Ok(text) => return Ok(Some((name, unquoted(&text).to_owned()))),
            Err(VarError::NotPresent) => {}
            Err(VarError::NotUnicode(_)) => return Err(invalid(name, Problem::NotUtf8)),
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<(String, bool, Option<String>), Problem> {
        let proxy = Proxy::parse("HTTPS_PROXY", unquoted(text))?;
        let user = proxy.authorization.map(|header| {
            let basic = header.to_str().unwrap().strip_prefix("Basic ").unwrap().to_owned();
            String::from_utf8(STANDARD.decode(basic).unwrap()).unwrap()
        });
        Ok((proxy.host.to_string(), proxy.is_tls, user))
    }

    #[test]
    fn a_proxy_is_accepted_in_each_common_form() {
        for text in [
            "http://proxy.example:3128",
            "proxy.example:3128",
            "HTTP://proxy.example:3128/",
            "  http://proxy.example:3128 \n",
            "\"http://proxy.example:3128\"",
            "'proxy.example:3128' ",
            "http://@proxy.example:3128",
            "http://proxy.example:03128//",
        ] {
            assert_eq!(parse(text), Ok(("proxy.example:3128".into(), false, None)), "{text}");
        }
        assert_eq!(parse("https://proxy"), Ok(("proxy:443".into(), true, None)));
        assert_eq!(parse("proxy_1"), Ok(("proxy_1:80".into(), false, None)));
        assert_eq!(parse("http://[::1]:3128"), Ok(("[::1]:3128".into(), false, None)));
        assert_eq!(parse("[fd00::1]"), Ok(("[fd00::1]:80".into(), false, None)));
    }

    #[test]
    fn user_name_and_password_may_contain_any_character() {
        for (text, user) in [
            ("CORP\\ada:p", "CORP\\ada:p"),
            ("CORP%5Cada:p", "CORP\\ada:p"),
            ("ada:a#b", "ada:a#b"),
            ("ada:a@b", "ada:a@b"),
            ("ada@corp.example:p", "ada@corp.example:p"),
            ("ada%40corp.example:p%40", "ada@corp.example:p@"),
            ("ada:100%", "ada:100%"),
            ("ada:100%zz", "ada:100%zz"),
            ("ada:100%25", "ada:100%"),
            ("ada:a$b", "ada:a$b"),
            ("ada:pä", "ada:pä"),
            ("ada:p%C3%A4", "ada:pä"),
            ("ada:a/b?c", "ada:a/b?c"),
            ("ada:a:b", "ada:a:b"),
            ("ada:a://b", "ada:a://b"),
            ("ada:a b", "ada:a b"),
            ("ada:[x]", "ada:[x]"),
            ("ada", "ada:"),
            (":p", ":p"),
        ] {
            for address in [format!("http://{user}@proxy:1", user = text), format!("{text}@proxy:1/")] {
                assert_eq!(parse(&address), Ok(("proxy:1".into(), false, Some(user.into()))), "{address}");
            }
        }
        assert_eq!(parse("http://a:b@[::1]:1"), Ok(("[::1]:1".into(), false, Some("a:b".into()))));
    }

    #[test]
    fn an_unusable_proxy_is_rejected_with_the_reason() {
        for (text, problem) in [
            ("socks5://proxy:1080", Problem::Socks),
            ("SOCKS5H://proxy:1080", Problem::Socks),
            ("socks4a://a:b@proxy:1080", Problem::Socks),
            ("ftp://proxy:1", Problem::Scheme),
            ("htp://a:b@proxy:1", Problem::Scheme),
            ("http://", Problem::NoHost),
            ("http://:3128", Problem::NoHost),
            ("ada:secret@", Problem::NoHost),
            ("http://proxy:", Problem::Port),
            ("http://proxy:0", Problem::Port),
            ("http://proxy:65536", Problem::Port),
            ("http://proxy:+80", Problem::Port),
            ("http://proxy: 80", Problem::Port),
            ("http://127.0.0.1:port", Problem::Port),
            ("http://a:b@proxy:3128x", Problem::Port),
            ("http://ada:secret", Problem::Port),
            ("a:b:c", Problem::Port),
            ("http://::1:3128", Problem::Ipv6),
            ("::1", Problem::Ipv6),
            ("[::1]3128", Problem::Ipv6),
            ("[::g]:1", Problem::Ipv6),
            ("[fe80::1%25eth0]:1", Problem::Ipv6),
            ("http://[::1", Problem::Ipv6),
            ("http://CORP\\ada:12345", Problem::Host),
            ("http://pro xy:1", Problem::Host),
            ("http://pröxy:1", Problem::Host),
            ("%HTTP_PROXY%", Problem::Host),
            ("$PROXY", Problem::Host),
            ("http:\\\\proxy:1", Problem::Port),
            ("\u{201c}http://proxy:1\u{201d}", Problem::Host),
            ("http://proxy:1/proxy.pac", Problem::Path),
            ("http://proxy/wpad.dat", Problem::Path),
            ("http://proxy:1?x", Problem::Path),
            ("http://proxy#x", Problem::Path),
            ("http://a%3Ab:c@proxy:1", Problem::Colon),
        ] {
            assert_eq!(parse(text), Err(problem), "{text}");
        }
    }

    #[test]
    fn no_text_of_a_proxy_contains_its_user() {
        let proxy = Proxy::parse("HTTPS_PROXY", "https://ada:secret@proxy:1").unwrap();
        assert_eq!(proxy.to_string(), "https://proxy:1 (HTTPS_PROXY)");
        assert_eq!(format!("{proxy:?}"), "https://proxy:1 (HTTPS_PROXY)");
    }

    #[test]
    fn each_common_form_of_no_proxy_excludes_the_host() {
        let relay = "azgn.servicebus.windows.net";
        let is_excluded = |no_proxy: &str, host: &str| {
            let exceptions = Exceptions::parse(unquoted(no_proxy)).unwrap();
            exceptions.contain(&host.parse().unwrap())
        };
        for (no_proxy, host) in [
            ("*", relay),
            ("localhost,*", relay),
            ("*.servicebus.windows.net", relay),
            (".servicebus.windows.net", relay),
            ("servicebus.windows.net", relay),
            (".ServiceBus.Windows.NET", relay),
            ("*.windows.net", relay),
            ("servicebus.windows.net.", relay),
            ("azgn*.servicebus.windows.net", relay),
            (relay, relay),
            ("servicebus.windows.net:443", relay),
            ("*.servicebus.windows.net:443", relay),
            ("https://azgn.servicebus.windows.net/", relay),
            ("a.example servicebus.windows.net", relay),
            ("a.example;servicebus.windows.net", relay),
            ("a.example, , .servicebus.windows.net ,", relay),
            ("'servicebus.windows.net'", relay),
            (".windows.net", "windows.net"),
            ("127.0.0.1", "127.0.0.1:8443"),
            ("127.0.0.1:8443", "127.0.0.1:8443"),
            ("127.0.0.0/8", "127.1.2.3"),
            ("10.*", "10.1.2.3"),
            ("0.0.0.0/0", "10.1.2.3"),
            ("::1", "[::1]:8443"),
            ("[::1]", "[::1]"),
            ("[::1]:8443", "[::1]:8443"),
            ("fd00::/8", "[fd12::1]"),
            ("[fd00::]/8", "[fd12::1]"),
            ("<local>", "proxyless"),
        ] {
            assert!(is_excluded(no_proxy, host), "{no_proxy} {host}");
        }
        for (no_proxy, host) in [
            ("", relay),
            ("indows.net", relay),
            ("*indows.example", relay),
            ("servicebus.windows.net:8443", relay),
            ("azgn.servicebus.windows.net.evil", relay),
            ("*.windows.net", "windows.net"),
            ("0.0.1", "127.0.0.1"),
            ("127.0.0.0/16", "127.1.2.3"),
            ("127.0.0.1:443", "127.0.0.1:8443"),
            ("fd00::/8", "[fe00::1]"),
            ("0.0.0.0/0", "[fd12::1]"),
            ("0.0.0.0/0", relay),
            ("<local>", relay),
        ] {
            assert!(!is_excluded(no_proxy, host), "{no_proxy} {host}");
        }
    }

    #[test]
    fn an_unusable_entry_of_no_proxy_is_rejected_with_its_number() {
        for entry in [
            "10.0.0.0/33",
            "fd00::/129",
            "10.0.0.0/x",
            "a:65536",
            "a:",
            "a:b",
            "ä.example",
            "a/b",
            "@",
            "[::1",
            ".",
        ] {
            let problem = Exceptions::parse(&format!("a.example, {entry}")).unwrap_err();
            assert_eq!(problem, Problem::Exception(2), "{entry}");
        }
    }
}
