//! Faults on the local side: signals, standard streams, the state directory, limits of the process.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arcssh_emulator::ServerCertificate;

use crate::matrix::cell::{Cell, Input, run_phase};
use crate::matrix::server::{BINARY, Peer, Server, act};
use crate::matrix::{GREETING, MIB, Service, after_request, in_tls, namespaces_work, session};
use crate::store::greeter;
use crate::support::{ARCSSH, Lab, Limited, ended, eventually, lab, noise, signal};

fn greet_and_listen(peer: &mut Peer) -> io::Result<()> {
    peer.frame(BINARY, GREETING)?;
    peer.silence()
}

#[test]
fn signals_and_standard_streams() {
    let w = lab(&["web01"]);
    let send = |name: &'static str| {
        move |child: &mut Child| {
            // After the greeting, the session is established.
            let mut greeting = [0; GREETING.len()];
            io::Read::read_exact(&mut Limited(child.stdout.as_mut().unwrap()), &mut greeting).unwrap();
            signal(child.id(), name);
        }
    };
    // `disturb` runs after the silent relay has received the request.
    let connecting = |fault, cause: &[&'static str], disturb: fn(&mut Child)| {
        let requested = Arc::new(AtomicBool::new(false));
        let is_requested = Arc::clone(&requested);
        let silent = after_request(move |peer| {
            requested.store(true, Ordering::SeqCst);
            peer.silence()
        });
        in_tls(&w, Service::Relay, fault, silent, cause).disturbed(move |child| {
            assert!(eventually(Duration::from_secs(30), || is_requested.load(Ordering::SeqCst)));
            disturb(child);
        })
    };
    let mut cells: Vec<Cell> = vec![
        session(&w, "SIGTERM in a session", &[], greet_and_listen).disturbed(send("TERM")).quiet(143),
        session(&w, "SIGINT in a session", &[], greet_and_listen).disturbed(send("INT")).quiet(130),
        session(&w, "SIGHUP in a session", &[], greet_and_listen).disturbed(send("HUP")).quiet(129),
        session(&w, "SIGKILL in a session", &[], greet_and_listen).disturbed(send("KILL")).status(&[None]),
        connecting("SIGTERM while connecting", &[], |child| signal(child.id(), "TERM"))
            .status(&[Some(143), None]),
        connecting("SIGINT while connecting", &[], |child| signal(child.id(), "INT"))
            .status(&[Some(130), None]),
        connecting("SIGHUP while connecting", &["stopped"], |child| signal(child.id(), "HUP"))
            .status(&[Some(129)]),
        connecting("standard output closed while connecting", &["stopped"], |child| {
            drop(child.stdout.take())
        })
        .status(&[Some(129)]),
        session(&w, "standard output closed in a session", &[], |peer| {
            loop {
                peer.frame(BINARY, &[7; 1000])?;
                std::thread::park_timeout(Duration::from_millis(20));
            }
        })
        .disturbed(|child| {
            let mut bytes = [0; 1000];
            io::Read::read_exact(&mut Limited(child.stdout.as_mut().unwrap()), &mut bytes).unwrap();
            drop(child.stdout.take());
        })
        .quiet(0),
        session(&w, "standard output closed, with a silent relay", &[], greet_and_listen)
            .disturbed(|child| {
                let mut greeting = [0; GREETING.len()];
                io::Read::read_exact(&mut Limited(child.stdout.as_mut().unwrap()), &mut greeting).unwrap();
                drop(child.stdout.take());
            })
            .status(&[Some(0), Some(129)]),
    ];
    cells.extend(failing_streams(&w));
    run_phase("local: signals, streams", &w, cells);
}

/// Standard streams that fail, or that are not pipes.
fn failing_streams(w: &Lab) -> Vec<Cell> {
    let on_file = |fault, cause: &[&'static str], input: &str, output: &str| {
        let cell = session(w, fault, cause, |peer| {
            for _ in 0..64 {
                peer.frame(BINARY, &[7; 1000])?;
            }
            peer.silence()
        });
        let (input, output) = (File::open(input).unwrap(), File::options().write(true).open(output).unwrap());
        cell.input(Input::Given).files(input, output)
    };
    vec![
        on_file("standard output full", &["No space left"], "/dev/zero", "/dev/full"),
        // read(2) returns EISDIR.
        on_file("cannot read standard input", &["standard input"], "/", "/dev/null"),
        session(w, "ssh ended, and the relay reads nothing", &[], |peer| {
            peer.frame(BINARY, GREETING)?;
            peer.block()
        })
        .input(Input::Open(noise(8 * MIB)))
        .disturbed(|child| {
            let mut greeting = [0; GREETING.len()];
            io::Read::read_exact(&mut Limited(child.stdout.as_mut().unwrap()), &mut greeting).unwrap();
            drop(child.stdout.take());
        })
        .status(&[Some(0), Some(129)]),
    ]
}

/// An unusable state directory does not prevent a connection.
#[test]
fn unusable_state_directories() {
    let w = lab(&["web01"]);
    let port = greeter();
    w.emulator().machine("web01").set_ssh_port(port);
    let with = |fault: &'static str, name: &str, prepare: &dyn Fn(&std::path::Path)| {
        let directory = w.home().join(name);
        prepare(&directory);
        let mut proxy = w.proxy_to(port);
        proxy.env("ARCSSH_STATE_DIR", &directory);
        Cell::new(fault, proxy, &[]).quiet(0).delivers(crate::store::GREETING.as_bytes())
    };
    let mounted = |fault: &'static str, name: &str, options: &str| {
        let directory = w.home().join(name);
        fs::create_dir(&directory).unwrap();
        let script = format!("mount -t tmpfs -o mode=700,{options} tmpfs $ARCSSH_STATE_DIR && exec \"$@\"");
        let proxy = w.proxy_to(port);
        let mut shell = w.command("unshare");
        shell.args(["-rm", "sh", "-c", &script, "sh"]).arg(proxy.get_program()).args(proxy.get_args());
        shell.env("ARCSSH_STATE_DIR", &directory);
        Cell::new(fault, shell, &[]).quiet(0).delivers(crate::store::GREETING.as_bytes())
    };
    let mut cells = vec![
        with("missing", "a/b/c", &|_| ()),
        with("invalid files", "invalid", &|directory| {
            fs::create_dir(directory).unwrap();
            fs::set_permissions(directory, Permissions::from_mode(0o700)).unwrap();
            fs::write(directory.join("relay-0.json"), noise(100)).unwrap();
            fs::write(directory.join("token-0.json"), "{").unwrap();
        }),
        with("a name that is too long", &"x".repeat(300), &|_| ()),
    ];
    if namespaces_work(w.home()) {
        cells.push(mounted("full", "full", "size=4k,nr_inodes=3"));
        cells.push(mounted("read-only", "read-only", "ro"));
    }
    run_phase("local: state directory", &w, cells);
}

#[test]
fn limits_of_the_process() {
    let w = lab(&["web01"]);
    let port = greeter();
    w.emulator().machine("web01").set_ssh_port(port);
    let limited = |fault, limits: &str, cause: &[&'static str]| {
        let proxy = w.proxy_to(port);
        let mut shell = w.command("bash");
        let (program, arguments) = (proxy.get_program(), proxy.get_args());
        shell.args(["-c", &format!("ulimit {limits}; exec \"$@\""), "sh"]).arg(program).args(arguments);
        Cell::new(fault, shell, cause)
    };
    let files = &["file descriptors", "open files"];
    let mut cells = vec![
        // With fewer, the system cannot load the program.
        limited("5 file descriptors", "-n 5", files),
        limited("6 file descriptors", "-n 6", files),
        limited("8 file descriptors", "-n 8", files),
        limited("files of no bytes", "-f 0", &[]).quiet(0).delivers(crate::store::GREETING.as_bytes()),
    ];
    // The trust store is a file too. Every number between too few and enough must be reported as too few.
    for (fault, limit) in [("9", 9), ("10", 10), ("11", 11), ("12", 12), ("14", 14), ("16", 16)] {
        let number = Box::leak(format!("{fault} file descriptors").into_boxed_str());
        let cell =
            limited(number, &format!("-n {limit}"), files).or_delivers(crate::store::GREETING.as_bytes());
        cells.push(cell);
    }
    run_phase("local: limits", &w, cells);
}

/// The real ssh is killed in a session whose relay reads nothing. arcssh must end too.
#[test]
fn a_killed_ssh_ends_arcssh_with_a_blocked_relay() {
    let w = lab(&["web01"]);
    let tls = w.emulator().tls_server(ServerCertificate::Genuine);
    let upgraded = act(|peer| {
        peer.upgrade()?;
        peer.frame(BINARY, GREETING)?;
        peer.block()
    });
    let server = Arc::new(Server::start(Some(tls), upgraded));
    let proxy = Service::Relay.command(&w, server.port);
    let mut ssh = w.command("ssh");
    ssh.args(["-F", "none", "-o", &format!("ProxyCommand='{ARCSSH}' -p 22 --wait 0"), "web01"]);
    for (name, value) in proxy.get_envs().filter_map(|(name, value)| Some((name, value?))) {
        ssh.env(name, value);
    }
    let mut ssh = ssh.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    assert!(eventually(Duration::from_secs(10), || server.open() == 1));
    signal(ssh.id(), "KILL");
    ended(&mut ssh);
    assert!(eventually(Duration::from_secs(10), || w.survivors().is_empty()), "{:?}", w.survivors());
    server.client_ended();
    assert!(eventually(Duration::from_secs(10), || server.open() == 0));
}
