//! The host of an Azure Relay namespace, built only from the two parts in which Azure returns it. arcssh sends relay
//! tokens to no other host.

use std::fmt;

use http::uri::Authority;

/// The longest label of a DNS name, and the longest name without the final dot (RFC 1035, section 2.3.4).
const MAX_LABEL: usize = 63;
const MAX_NAME: usize = 253;
/// The port of every relay of Azure (Microsoft Learn, "Azure Relay port settings").
const HTTPS: u16 = 443;

/// The DNS suffixes of trusted relays.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RelaySuffixes {
    /// The suffixes of clouds.
    known: Vec<&'static str>,
    /// The user's suffixes, in lower case.
    custom: Vec<String>,
}

impl RelaySuffixes {
    /// Returns the suffixes of clouds, and those of the user.
    pub(crate) fn new(known: &[&'static str], custom: Option<&Self>) -> Self {
        let custom = custom.map(|suffixes| suffixes.custom.clone()).unwrap_or_default();
        Self { known: known.to_vec(), custom }
    }

    /// Parses the user's `[SUFFIX[,SUFFIX…]]`.
    ///
    /// # Errors
    /// The text contains something other than a DNS suffix.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let is_suffix = |text: &str| text.len() <= MAX_NAME && text.split('.').all(is_label);
        let suffix = |text: &str| match text.trim() {
            suffix if is_suffix(suffix) => Ok(suffix.to_ascii_lowercase()),
            other => Err(format!(
                "{other:?} is not a DNS suffix such as servicebus.example.com, without a port or a leading dot"
            )),
        };
        let parts = text.split(',').filter(|_| !text.trim().is_empty());
        Ok(Self { known: Vec::new(), custom: parts.map(suffix).collect::<Result<_, _>>()? })
    }

    /// Returns the host of a namespace: `name` must be one DNS label, and `suffix` one of these suffixes. A suffix of
    /// the user may have any port, that of a cloud only 443.
    ///
    /// # Errors
    /// The host is not trusted.
    pub(crate) fn host(&self, name: &str, suffix: &str) -> Result<RelayHost, UntrustedRelay> {
        let foreign = || UntrustedRelay { host: format!("{name}.{suffix}").chars().take(MAX_NAME).collect() };
        let (domain, port) = match suffix.split_once(':') {
            Some((domain, port)) => (domain, parse_port(port).ok_or_else(foreign)?),
            None => (suffix, HTTPS),
        };
        let is_custom = self.custom.iter().any(|custom| custom.eq_ignore_ascii_case(domain));
        let is_known = port == HTTPS && self.known.iter().any(|known| known.eq_ignore_ascii_case(domain));
        let host = format!("{name}.{domain}");
        if !is_label(name) || host.len() > MAX_NAME || !(is_custom || is_known) {
            return Err(foreign());
        }
        let authority = if port == HTTPS { host } else { format!("{host}:{port}") };
        authority.parse().map(RelayHost).map_err(|_| foreign())
    }
}

/// Returns whether a text is one label of a host name (RFC 1123, section 2.1).
fn is_label(text: &str) -> bool {
    (1..=MAX_LABEL).contains(&text.len())
        && !text.starts_with('-')
        && !text.ends_with('-')
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

fn parse_port(text: &str) -> Option<u16> {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|port| is_number && *port != 0)
}

/// A relay's host name, and its port unless that is 443. Only [`RelaySuffixes::host`] returns one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RelayHost(Authority);

impl RelayHost {
    /// Returns host and port.
    pub(crate) fn authority(&self) -> &Authority {
        &self.0
    }

    /// Returns name and suffix; the name is the first label.
    pub(crate) fn parts(&self) -> (&str, &str) {
        self.0.as_str().split_once('.').unwrap_or_default()
    }
}

impl fmt::Display for RelayHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Relay credentials name a host outside of the trusted domains.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UntrustedRelay {
    pub(crate) host: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    const PUBLIC: &str = "servicebus.windows.net";
    const ALL: [&str; 3] = [PUBLIC, "servicebus.chinacloudapi.cn", "servicebus.usgovcloudapi.net"];

    fn custom(text: &str) -> RelaySuffixes {
        RelaySuffixes::new(&[PUBLIC], Some(&RelaySuffixes::parse(text).unwrap()))
    }

    #[test]
    fn a_namespace_of_the_cloud_is_accepted() {
        for suffix in ALL {
            for suffixes in [RelaySuffixes::new(&[suffix], None), RelaySuffixes::new(&ALL, None)] {
                let host = suffixes.host("azgnrelay-eastus-l1", suffix).unwrap();
                assert_eq!(host.to_string(), format!("azgnrelay-eastus-l1.{suffix}"));
                assert_eq!(host.parts(), ("azgnrelay-eastus-l1", suffix));
                assert_eq!(suffixes.host("azgnrelay-eastus-l1", &format!("{suffix}:443")), Ok(host));
            }
            let others = ALL.into_iter().filter(|other| *other != suffix).collect::<Vec<_>>();
            assert!(RelaySuffixes::new(&others, None).host("azgn", suffix).is_err());
        }
        let host = RelaySuffixes::new(&ALL, None).host("AZGN", "ServiceBus.Windows.NET").unwrap();
        assert_eq!(host.authority().host(), "AZGN.ServiceBus.Windows.NET");
    }

    #[test]
    fn a_host_outside_of_the_relay_domains_is_rejected() {
        let suffixes = RelaySuffixes::new(&ALL, None);
        let long = "a".repeat(MAX_LABEL + 1);
        for name in [
            "localhost:x",
            "localhost:1/",
            "evil.com",
            "evil.com/",
            "evil.com#",
            "evil.com?",
            "a.b",
            "",
            ".",
            "-a",
            "a-",
            "a_b",
            "a b",
            "[::1]",
            "[::1",
            "127.0.0.1:443/x",
            "u@evil",
            "u:p@evil.com",
            "ä",
            "a\u{200b}",
            "a\r\n",
            "a\0",
            "%61",
            "a\\",
            &long,
        ] {
            assert!(suffixes.host(name, PUBLIC).is_err(), "{name:?}");
        }
        for suffix in [
            "",
            ".",
            "net",
            "windows.net",
            "servicebus.windows.net.",
            "servicebus.windows.net.evil.com",
            ".servicebus.windows.net",
            "evil.com/.servicebus.windows.net",
            "servicebus.windows.net@evil.com",
            "x.servicebus.windows.net",
            "evilservicebus.windows.net",
            "servicebus.windows.net:80",
            "servicebus.windows.net:",
            "servicebus.windows.net:443:443",
            "servicebus.windows.net:+443",
            "servicebus.windows.net:443@evil.com",
            "servicebus.windows.net:443/x",
            "servicebus.windows.net/",
            "servicebus.windows.net\r\nX: y",
            "servicebus。windows。net",
            "ſervicebus.windows.net",
            "0.0.1",
            "0.0.1:8443",
            "::1]",
        ] {
            assert!(suffixes.host("azgn", suffix).is_err(), "{suffix:?}");
        }
    }

    #[test]
    fn a_custom_suffix_is_accepted_with_any_port() {
        let suffixes = custom("0.0.1, Relay.Example");
        for (name, suffix, authority) in [
            ("127", "0.0.1", "127.0.0.1"),
            ("127", "0.0.1:8443", "127.0.0.1:8443"),
            ("127", "0.0.1:443", "127.0.0.1"),
            ("ns", "relay.example:1", "ns.relay.example:1"),
            ("ns", "servicebus.windows.net", "ns.servicebus.windows.net"),
        ] {
            assert_eq!(suffixes.host(name, suffix).unwrap().to_string(), authority);
        }
        for (name, suffix) in [
            ("127.0", "0.1"),
            ("127", "0.0.1:0"),
            ("127", "0.0.1:65536"),
            ("127", "0.0.1:x"),
            ("127", "0.0.1:"),
            ("127", "0.0.1:1@evil"),
            ("a", "b.0.0.1"),
            ("a", "example"),
            ("ns", "servicebus.windows.net:8443"),
        ] {
            assert!(suffixes.host(name, suffix).is_err(), "{name:?} {suffix:?}");
        }
    }

    #[test]
    fn only_dns_suffixes_are_parsed() {
        assert_eq!(RelaySuffixes::parse(" "), Ok(RelaySuffixes::default()));
        for text in [
            ".example",
            "example.",
            "a..b",
            "a,,b",
            ",",
            "https://a",
            "a:443",
            "*.a",
            "a/b",
            "[::1]",
            "ä.de",
            "a b",
        ] {
            let error = RelaySuffixes::parse(text).unwrap_err();
            assert!(error.contains("is not a DNS suffix"), "{text}: {error}");
        }
    }
}
