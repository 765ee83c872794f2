//! Dials that are late or get no response: a second dial, retries, and their number.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use arcssh_emulator::RelayFault;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::proxies::Tinyproxy;
use crate::store::{GREETING, greeter, start};
use crate::support::{LIMIT, Lab, Limited, accept, eventually, finish, lab, service};

/// A lab with cached credentials, and the port of a service that sends [`GREETING`].
fn warm_lab() -> (Lab, u16) {
    let (w, port) = (lab(&["web01"]), greeter());
    assert_eq!(finish(start(w.proxy_to(port))).clean(), GREETING);
    (w, port)
}

/// Connects, and returns the number of dials.
#[track_caller]
fn dials(w: &Lab, port: u16) -> usize {
    let before = w.dialled().len();
    assert_eq!(finish(start(w.proxy_to(port))).clean(), GREETING);
    w.dialled().len() - before
}

#[test]
fn a_second_dial_replaces_one_that_is_late_or_abandoned_and_the_late_one_is_closed() {
    let (w, port) = warm_lab();
    for (number, fault) in
        [RelayFault::silent_handshake(), RelayFault::slow_handshake(LIMIT)].into_iter().enumerate()
    {
        w.emulator().relay_fault(fault);
        assert_eq!(dials(&w, port), 2);
        assert!(eventually(LIMIT, || w.emulator().abandoned_dials() == number + 1));
    }
}

#[test]
fn a_second_dial_that_is_rejected_does_not_end_the_first_one() {
    let (w, port) = warm_lab();
    w.emulator().relay_fault(RelayFault::slow_handshake(Duration::from_secs(4)));
    w.emulator().relay_fault(RelayFault::expired_token());
    assert_eq!(dials(&w, port), 2);
    assert_eq!(w.emulator().machine("web01").issued_credentials().len(), 1);
}

#[test]
fn a_rejection_has_no_second_dial() {
    let (w, port) = warm_lab();
    let before = w.dialled().len();
    w.emulator().relay_fault(RelayFault::refuse(403, "Generic").always());
    let run = finish(start(w.proxy_to(port)));
    assert!(run.stderr.contains("403 Generic"), "{run:?}");
    assert_eq!(w.dialled().len() - before, 1);
}

/// Two silent dials are one attempt. The third dial belongs to the next attempt, and the fourth to the third attempt, which
/// waits for a slow agent.
#[test]
fn silence_is_retried_and_a_slow_agent_is_reached_later() {
    for (silent, last) in [(2, Duration::ZERO), (3, Duration::from_secs(15))] {
        let (w, port) = warm_lab();
        w.emulator().relay_fault(RelayFault::silent_handshake().times(silent));
        w.emulator().relay_fault(RelayFault::slow_handshake(last));
        assert_eq!(dials(&w, port), silent + 1);
    }
}

/// Each dial takes longer than the silence after which a second one starts, and the first one wins.
#[test]
fn second_dials_stay_within_the_budget_if_every_dial_is_slow() {
    const CONNECTIONS: usize = 40;
    let (w, port) = warm_lab();
    let before = w.dialled().len();
    w.emulator().relay_fault(RelayFault::slow_handshake(Duration::from_millis(2500)).always());
    let running: Vec<Child> = (0..CONNECTIONS).map(|_| start(w.proxy_to(port))).collect();
    for proxy in running {
        assert_eq!(finish(proxy).clean(), GREETING);
    }
    let second_dials = w.dialled().len() - before - CONNECTIONS;
    assert!((1..=20).contains(&second_dials), "{second_dials} second dials");
    // They were no help, so the next connections have none.
    let before = w.dialled().len();
    for _ in 0..2 {
        assert_eq!(finish(start(w.proxy_to(port))).clean(), GREETING);
    }
    assert_eq!(w.dialled().len() - before, 2);
}

/// A host between arcssh and the next one. It accepts all connections.
struct Gate {
    port: u16,
    connections: Arc<AtomicUsize>,
}

impl Gate {
    /// Does not respond in the first `silent` connections, and forwards the others.
    fn start(silent: usize, target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let gate = Self { port: listener.local_addr().unwrap().port(), connections: Arc::default() };
        let connections = Arc::clone(&gate.connections);
        thread::spawn(move || {
            let mut held = Vec::new();
            for connection in listener.incoming().flatten() {
                if connections.fetch_add(1, Ordering::SeqCst) < silent {
                    held.push(connection);
                } else {
                    forward(connection, target);
                }
            }
        });
        gate
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

/// Copies bytes in both directions, on threads of its own.
fn forward(client: TcpStream, target: SocketAddr) {
    let server = TcpStream::connect(target).unwrap();
    for (mut from, mut to) in [(client.try_clone().unwrap(), server.try_clone().unwrap()), (server, client)] {
        thread::spawn(move || {
            let _ = std::io::copy(&mut from, &mut to);
            let _ = to.shutdown(Shutdown::Write);
        });
    }
}

fn relay_address(w: &Lab) -> SocketAddr {
    w.emulator().relay_authority().parse().unwrap()
}

/// arcssh with relay information for the relay, at another port if there is one.
fn with_relay_info(w: &Lab, gate: Option<u16>) -> Command {
    let port = greeter();
    w.emulator().machine("web01").set_ssh_port(port);
    let mut info = String::from_utf8(STANDARD.decode(w.relay_info()).unwrap()).unwrap();
    if let Some(gate) = gate {
        let own = format!("0.0.1:{}\"", relay_address(w).port());
        assert!(info.contains(&own), "{info}");
        info = info.replace(&own, &format!("0.0.1:{gate}\""));
    }
    let mut arcssh = w.arcssh(&["-p", &port.to_string(), "-v"]);
    arcssh.env("SSHPROXY_RELAY_INFO", STANDARD.encode(info));
    arcssh
}

/// Asserts that a program connects and that its log contains `event`.
#[track_caller]
fn assert_connects(program: Child, event: &str) {
    let run = finish(program);
    assert_eq!((run.code, run.stdout.as_slice()), (Some(0), GREETING.as_bytes()), "{}", run.stderr);
    assert!(run.stderr.contains(event), "{}", run.stderr);
}

const SECOND_DIAL: &str = "no response for 2 s; dialling a second time";
const RETRY: &str = "no response within 10 s";

#[test]
fn silent_tls_gets_a_second_dial_and_is_retried() {
    for (silent, event) in [(1, SECOND_DIAL), (2, RETRY)] {
        let w = lab(&["web01"]);
        let gate = Gate::start(silent, relay_address(&w));
        assert_connects(start(with_relay_info(&w, Some(gate.port))), event);
        assert_eq!(gate.connections(), silent + 1);
    }
}

#[test]
fn a_silent_proxy_gets_a_second_dial_and_is_retried() {
    for (silent, event) in [(1, SECOND_DIAL), (2, RETRY)] {
        let w = lab(&["web01"]);
        let tinyproxy = Tinyproxy::start(&w, "");
        let gate = Gate::start(silent, ([127, 0, 0, 1], tinyproxy.port).into());
        let mut arcssh = with_relay_info(&w, None);
        arcssh.env("HTTPS_PROXY", format!("http://127.0.0.1:{}", gate.port));
        assert_connects(start(arcssh), event);
        assert_eq!(gate.connections(), silent + 1);
    }
}

/// While the queue of a listener is full, Linux drops SYN segments (listen(2)).
#[cfg(target_os = "linux")]
#[test]
fn silent_tcp_is_retried() {
    let w = lab(&["web01"]);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    rustix::net::listen(&listener, 0).unwrap();
    let address = listener.local_addr().unwrap();
    let _queued = TcpStream::connect(address).unwrap();
    let mut arcssh = start(with_relay_info(&w, Some(address.port())));
    let mut log = BufReader::new(Limited(arcssh.stderr.take().unwrap())).lines().map(Result::unwrap);
    let retry = log.find(|line| line.contains("; retrying in")).unwrap();
    assert!(retry.contains(&format!("cannot reach {address}: {RETRY}")), "{retry}");
    let rest = thread::spawn(move || log.collect::<Vec<_>>());
    drop(accept(&listener));
    forward(accept(&listener), relay_address(&w));
    assert_connects(arcssh, "");
    rest.join().unwrap();
}

/// Until the proxy has accepted it, one connection at a time sends the password.
#[test]
fn a_silent_proxy_gets_a_password_once_at_a_time() {
    let w = lab(&["web01"]);
    let tinyproxy = Tinyproxy::start(&w, "BasicAuth alice s3cret\n");
    let gate = Gate::start(1, ([127, 0, 0, 1], tinyproxy.port).into());
    let mut arcssh = with_relay_info(&w, None);
    arcssh.env("HTTPS_PROXY", format!("http://alice:s3cret@127.0.0.1:{}", gate.port));
    assert_connects(start(arcssh), RETRY);
    assert_eq!(gate.connections(), 2);
}

/// A proxy that rejects a password late.
#[test]
fn a_slow_rejection_of_a_password_is_final() {
    static CONNECTIONS: AtomicUsize = AtomicUsize::new(0);
    let w = lab(&["web01"]);
    let proxy = service(|mut connection| {
        CONNECTIONS.fetch_add(1, Ordering::SeqCst);
        let _ = connection.read(&mut [0; 4096]).unwrap();
        thread::park_timeout(Duration::from_secs(5));
        let _ = connection.write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n");
    });
    let mut arcssh = with_relay_info(&w, None);
    arcssh.env("HTTPS_PROXY", format!("http://alice:wrong@127.0.0.1:{proxy}"));
    let run = finish(start(arcssh));
    assert!(run.code == Some(6) && run.stderr.contains("the proxy responded 407"), "{run:?}");
    assert_eq!(CONNECTIONS.load(Ordering::SeqCst), 1);
}
