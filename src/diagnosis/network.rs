//! Names, TCP, proxies, TLS, and services that are busy.

use std::time::Duration;

use crate::diagnosis::system::RAISE_DESCRIPTORS;
use crate::diagnosis::{Code, Diagnosis, Hint};
use crate::net::NetError;
use crate::net::listener::ListenError;
use crate::net::proxy::{PROXY, Problem};
use crate::net::tls::{CERT_FILE, TlsError, Unreadable};
use crate::system::clock::{format_time, unix_now};
use crate::text::{set_variable, unset_variable};

pub(super) const TRY_LATER: &str = "retry in a minute; for outages, see the status page of your Azure cloud";
const CHECK_PROXY_ADDRESS: &str = "check the proxy's address in HTTPS_PROXY";
const CHECK_CLOCK: &str = "check the clock of this computer";

pub(super) fn net(error: &NetError) -> Diagnosis {
    let summary = error.to_string();
    match error {
        NetError::Unreachable { .. } | NetError::Client(_) => {
            Diagnosis::new(Code::NetworkUnreachable, summary, check_network())
        }
        NetError::TimedOut { .. } => Diagnosis::new(Code::TimedOut, summary, check_network()),
        NetError::ProxyUnreachable { .. } => {
            Diagnosis::new(Code::ProxyUnreachable, summary, CHECK_PROXY_ADDRESS)
        }
        // tinyproxy asks for a password with 407, and rejects it with 401.
        NetError::ProxyRejected { status: Some(401 | 407), .. } => {
            Diagnosis::new(Code::ProxyRejected, summary, proxy_password())
        }
        // The peer sent no HTTP response, so it may be no proxy.
        NetError::ProxyRejected { status: None, .. } => {
            Diagnosis::new(Code::ProxyRejected, summary, CHECK_PROXY_ADDRESS)
        }
        NetError::ProxyRejected { host, .. } if error.is_transient() => Diagnosis::new(
            Code::ProxyFailed,
            summary,
            format!(
                "retry in a minute; if the error persists, ask the proxy's administrator whether the proxy can reach {host}"
            ),
        ),
        NetError::ProxyRejected { host, .. } => Diagnosis::new(
            Code::ProxyRejected,
            summary,
            format!("allow CONNECT to {host} in the proxy, or add the host to NO_PROXY"),
        ),
        NetError::Setting { problem, .. } => {
            Diagnosis::new(Code::UnsupportedProxy, summary, proxy_setting(*problem))
        }
        NetError::Tls { host, error } => tls(host, error),
    }
}

/// Diagnoses a local port or socket that cannot be opened.
pub(super) fn listen(error: &ListenError) -> Diagnosis {
    let hint = match error {
        ListenError::PortInUse(_) => "use another port, or 0 for a free one".into(),
        ListenError::PortDenied(_) => "use a port from 1024, or 0 for a free one".into(),
        ListenError::NoSuchAddress(_) => {
            "name an address of this computer with --bind, or omit --bind".into()
        }
        ListenError::SocketInUse(_) => "use another path, or end the other program".into(),
        ListenError::Occupied(_) => "use another path; arcssh does not replace the file".into(),
        ListenError::TooLong(_) => "use a path with at most 100 bytes".into(),
        ListenError::Exposed { .. } => {
            "use a directory that only you can write to, such as your home directory".into()
        }
        ListenError::Failed { .. } => {
            Hint::from("use another port, or another path in an existing directory")
        }
    };
    Diagnosis::new(Code::CannotListen, error.to_string(), hint)
}

fn tls(host: &str, error: &TlsError) -> Diagnosis {
    let summary = format!("TLS with {host} failed: {error}");
    match error {
        TlsError::UnknownIssuer { issuer, unreadable } => {
            let mut authority = "an authority that this computer does not trust".to_owned();
            if let Some(issuer) = issuer {
                authority += &format!(": {issuer}");
            }
            if let Some(unreadable) = unreadable {
                authority += &format!(" ({unreadable})");
            }
            Diagnosis::new(
                Code::UntrustedCertificate,
                format!("the certificate of {host} comes from {authority}"),
                trust_authority(),
            )
        }
        // Windows does not report which.
        TlsError::Expired(None) => {
            date(format!("the certificate of {host} has expired, or is not valid yet"), None)
        }
        TlsError::Expired(at) => date(format!("the certificate of {host} has expired"), *at),
        TlsError::NotYetValid(at) => date(format!("the certificate of {host} is not valid yet"), *at),
        TlsError::NoRoots => Diagnosis::new(
            Code::NoRootCertificates,
            "this computer has no trusted root certificates",
            "install the system's ca-certificates; if you set SSL_CERT_FILE or SSL_CERT_DIR, check that each names PEM certificates",
        ),
        TlsError::Unreadable(unreadable) => unreadable_roots(unreadable),
        TlsError::InvalidCertificate { why, issuer } => {
            let issuer = issuer.as_ref().map_or(String::new(), |issuer| format!(" (issued by {issuer})"));
            Diagnosis::new(
                Code::TlsFailed,
                format!("the certificate of {host} is not valid: it {why}{issuer}"),
                format!(
                    "ask the administrator of the proxy that inspects TLS, or of {host}, to replace the certificate; or to exclude {host} from the inspection"
                ),
            )
        }
        TlsError::NotTls => Diagnosis::new(
            Code::TlsFailed,
            summary,
            format!(
                "if the network requires a sign-in, open a web browser and sign in; else {}",
                check_network().text
            ),
        ),
        TlsError::Incompatible(_) => Diagnosis::new(
            Code::TlsFailed,
            summary,
            format!(
                "allow TLS 1.3, or TLS 1.2 with ECDHE ciphers, in the proxy or server; or exclude {host} from TLS inspection"
            ),
        ),
        TlsError::Rejected(_) => Diagnosis::new(
            Code::TlsFailed,
            summary,
            format!(
                "if a proxy inspects TLS, exclude {host} from the inspection; check the endpoint, if you set it"
            ),
        ),
        TlsError::Interrupted(_) | TlsError::TimedOut(_) => Diagnosis::new(
            Code::TlsFailed,
            summary,
            format!("{}; {}", allow_https(host), check_network().text),
        ),
        TlsError::Other(_) => Diagnosis::new(Code::TlsFailed, summary, check_network()),
    }
}

/// Diagnoses a certificate whose validity ended or begins at this time.
fn date(summary: String, at: Option<u64>) -> Diagnosis {
    let clock = format_time(unix_now());
    let times = at.map_or(String::new(), |at| {
        format!(" ({}; the clock of this computer shows {clock})", format_time(at))
    });
    let hint = format!(
        "{CHECK_CLOCK}; if it is right, ask the administrator of the proxy or server to replace the certificate"
    );
    Diagnosis::new(Code::CertificateDate, summary + &times, hint)
}

fn unreadable_roots(unreadable: &Unreadable) -> Diagnosis {
    let hint = match unreadable.variable() {
        _ if unreadable.lacks_descriptors() => RAISE_DESCRIPTORS.into(),
        Some(variable) => Hint::new(
            &format!("correct {variable}, or remove it to trust only the system's certificates: "),
            unset_variable(variable),
        ),
        None => {
            "make the file readable to your user, or name a file of PEM certificates in SSL_CERT_FILE".into()
        }
    };
    Diagnosis::new(Code::UnreadableRootCertificates, unreadable.to_string(), hint)
}

/// Returns how to trust the authority of a proxy that inspects TLS. Azure CLI reads `REQUESTS_CA_BUNDLE` (Microsoft Learn, "Work
/// behind a proxy").
fn trust_authority() -> Hint {
    let value = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    if let Some(file) = value(CERT_FILE) {
        let text = "if a proxy inspects TLS, append its root certificate to the file in SSL_CERT_FILE";
        return format!("{text}, {file}").into();
    }
    match value("REQUESTS_CA_BUNDLE") {
        Some(file) => Hint::new(
            "if a proxy inspects TLS, let arcssh trust the certificates in REQUESTS_CA_BUNDLE too: ",
            set_variable(CERT_FILE, &file),
        ),
        None => "if a proxy inspects TLS, add its root certificate to the system's trust store, or name its file in SSL_CERT_FILE".into(),
    }
}

/// Returns what to check if no host responds: a proxy can be the reason.
pub(super) fn check_network() -> Hint {
    let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    if PROXY.into_iter().any(is_set) {
        "check the network of this computer, and the proxy in HTTPS_PROXY or ALL_PROXY".into()
    } else {
        format!("check the network of this computer; if it requires a proxy, run: {}", http_proxy()).into()
    }
}

fn proxy_setting(problem: Problem) -> Hint {
    match problem {
        Problem::Socks => format!("use an HTTP proxy: {}", http_proxy()).into(),
        Problem::Exception(_) => {
            let list = set_variable("NO_PROXY", ".example.com,192.0.2.0/24");
            format!("separate hosts, domains and networks by commas: {list}").into()
        }
        _ => "write the proxy as http://USER:PASSWORD@HOST:PORT; in USER and PASSWORD, write % as %25, : as %3A, @ as %40, / as %2F, # as %23 and \\ as %5C".into(),
    }
}

fn http_proxy() -> String {
    set_variable("HTTPS_PROXY", "http://PROXY:PORT")
}

fn proxy_password() -> Hint {
    format!(
        "set the proxy's user and password: {}; for a proxy that requires NTLM or Kerberos, run px or cntlm on this computer and name its address",
        set_variable("HTTPS_PROXY", "http://USER:PASSWORD@PROXY:PORT")
    )
    .into()
}

pub(super) fn allow_https(host: &str) -> String {
    format!("allow https://{host} in the firewall and the proxy")
}

pub(super) fn retry_in(retry_after: Option<Duration>) -> Hint {
    let pause = retry_after.map_or("a minute".into(), |after| format!("{} s", after.as_secs()));
    format!("retry in {pause}").into()
}
