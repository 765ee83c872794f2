//! Broken connections and every way to end a session: nothing hangs, nothing remains, and memory stays bounded.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use arcssh_emulator::{RelayFault, SenderEnd};

use crate::support::{
    ARCSSH, LIMIT, Lab, Limited, accept, ended, eventually, finish, lab, lab_with, noise, run,
    run_with_input, script, service, signal,
};

const MIB: usize = 1 << 20;
/// Limit for the end of a program that has nothing left to do.
const SOON: Duration = Duration::from_secs(10);

#[test]
fn a_lost_connection_is_reported() {
    let w = lab(&["web01"]);
    w.emulator().relay_fault(RelayFault::cut_after(100_000).always());
    let run = w.ssh_run(&["web01", "head -c 10000000 /dev/zero"]);
    let [why, hint] = run.arcssh_lines()[..] else { panic!("{}", run.stderr) };
    assert!(
        why.starts_with("arcssh: lost the connection to web01: the connection to the relay was lost: "),
        "{why}"
    );
    assert_eq!(hint, "arcssh: hint: connect again");
    assert_eq!(run.code, Some(255));
}

#[test]
fn close_codes_are_explained() {
    let w = lab(&["web01"]);
    let port = service(|mut connection| {
        connection.write_all(b"greeting").unwrap();
        wait_for_end(connection);
    });
    let cases = [
        (
            1001,
            "gone",
            "the machine's Arc agent disconnected (the relay closed the connection with code 1001 \"gone\")",
        ),
        (
            1008,
            "late",
            "the relay's token has expired (the relay closed the connection with code 1008 \"late\")",
        ),
        (1011, "oops", "the relay failed (the relay closed the connection with code 1011 \"oops\")"),
        (1003, "", "the relay closed the connection with code 1003 \"\""),
    ];
    for (code, reason, why) in cases {
        w.emulator().clear_faults();
        w.emulator().relay_fault(RelayFault::close_after(8, code, reason).always());
        let mut arcssh = Running::start(&mut w.proxy_to(port));
        assert_eq!(arcssh.read(8), b"greeting");
        let (status, stderr) = arcssh.end();
        assert_eq!(
            stderr,
            format!("arcssh: lost the connection to web01: {why}\narcssh: hint: connect again\n")
        );
        assert_eq!(status, Some(1));
    }
}

#[test]
fn fragments_large_messages_and_pings_are_transparent() {
    let w = lab(&["web01"]);
    let bytes = noise(5 * MIB);
    fs::write(w.home().join("file"), &bytes).unwrap();
    let file = w.home().join("file").display().to_string();
    let faults = [
        RelayFault::fragments(1000),
        RelayFault::coalesce(3 * MIB),
        RelayFault::pings(Duration::from_millis(5)),
    ];
    for fault in faults {
        w.emulator().clear_faults();
        w.emulator().relay_fault(fault.always());
        let run = w.ssh_run(&["web01", &format!("cat {file}")]);
        assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""));
        assert!(run.stdout == bytes);
    }
    assert!(!w.emulator().sender_pongs().is_empty());
}

#[test]
fn a_slow_relay_receives_everything() {
    let w = lab(&["web01"]);
    w.emulator().relay_fault(RelayFault::slow_reader(8 * MIB as u64).always());
    let run = run_with_input(w.ssh().args(["web01", "wc -c"]), noise(16 * MIB));
    assert_eq!(run.clean().trim(), (16 * MIB).to_string());
}

#[test]
fn a_relay_that_reads_nothing_blocks_the_input() {
    let w = lab(&["web01"]);
    let machine = TcpListener::bind("127.0.0.1:0").unwrap();
    w.emulator().relay_fault(RelayFault::blocked_reader().always());
    let mut arcssh = Running::start(&mut w.proxy_to(machine.local_addr().unwrap().port()));
    let connection = accept(&machine);
    let written = arcssh.feed(64 * MIB);
    assert!(eventually(Duration::from_secs(20), || written.load(Ordering::SeqCst) > 0));
    wait_until_stable(&written);
    assert!(
        written.load(Ordering::SeqCst) < 24 * MIB,
        "{} bytes are buffered",
        written.load(Ordering::SeqCst)
    );
    let peak = peak_memory(arcssh.id());
    assert!(peak < 16 * MIB, "{peak} bytes");
    signal(arcssh.id(), "TERM");
    assert_eq!(arcssh.end_soon().0, Some(143));
    drop(connection); // the relay reads nothing, so this side closes
}

#[test]
fn an_ssh_that_reads_nothing_blocks_the_output() {
    let w = lab(&["web01"]);
    let port = service(|mut connection| while connection.write_all(&[7; 65536]).is_ok() {});
    let mut arcssh = Running::start(&mut w.proxy_to(port));
    assert_eq!(arcssh.read(4), [7; 4]);
    wait_until_unchanged(|| times_scheduled(arcssh.id()));
    let peak = peak_memory(arcssh.id());
    assert!(peak < 16 * MIB, "{peak} bytes");
    signal(arcssh.id(), "HUP");
    assert_eq!(arcssh.end().0, Some(129));
}

#[test]
fn output_after_the_end_of_input_is_delivered() {
    let w = lab(&["web01"]);
    let port = service(|mut connection| {
        let mut question = [0; 5];
        connection.read_exact(&mut question).unwrap();
        thread::park_timeout(Duration::from_millis(700)); // a slow server
        connection.write_all(b"answer").unwrap();
    });
    let run = run_with_input(&mut w.proxy_to(port), b"hello".to_vec());
    assert_eq!(run.clean(), "answer");
}

#[test]
fn the_end_of_input_ends_a_session_without_output() {
    let w = lab(&["web01"]);
    let port = service(wait_for_end);
    let start = Instant::now();
    assert_eq!(run_with_input(&mut w.proxy_to(port), b"hello".to_vec()).clean(), "");
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
}

#[test]
fn a_closed_output_ends_the_session() {
    let w = lab(&["web01"]);
    let port = service(|mut connection| while connection.write_all(&[7; 1024]).is_ok() {});
    let mut arcssh = Running::start(&mut w.proxy_to(port));
    assert_eq!(arcssh.read(4), [7; 4]);
    drop(arcssh.child.stdout.take());
    let (status, stderr) = arcssh.end_soon();
    assert_eq!((status, stderr.as_str()), (Some(0), ""));
}

#[test]
fn a_signal_ends_the_session_with_its_shell_status() {
    let w = lab(&["web01"]);
    let port = service(|mut connection| {
        connection.write_all(b"greeting").unwrap();
        wait_for_end(connection);
    });
    for (name, status) in [("HUP", 129), ("INT", 130), ("TERM", 143)] {
        let mut arcssh = Running::start(&mut w.proxy_to(port));
        assert_eq!(arcssh.read(8), b"greeting");
        signal(arcssh.id(), name);
        let (ended, stderr) = arcssh.end_soon();
        assert_eq!((ended, stderr.as_str()), (Some(status), ""), "SIG{name}");
    }
}

/// `nohup` ignores SIGHUP, and a shell ignores SIGINT for background commands of a script.
#[cfg(target_os = "linux")]
#[test]
fn an_ignored_signal_does_not_end_the_session() {
    let w = lab(&["web01"]);
    let port = service(reply_in_capitals);
    w.emulator().machine("web01").set_ssh_port(port);
    let line = format!("trap '' HUP INT; exec {ARCSSH} proxy {} --port {port}", w.id());
    let mut arcssh = Running::start(w.command("sh").args(["-c", &line]));
    assert!(eventually(SOON, || w.emulator().open_connections() == 1));
    signal(arcssh.id(), "HUP");
    signal(arcssh.id(), "INT");
    arcssh.child.stdin.as_mut().unwrap().write_all(b"hello").unwrap();
    assert_eq!(arcssh.read(5), b"HELLO");
    assert_eq!(arcssh.end_soon().0, Some(0));
}

#[test]
fn a_signal_ends_the_wait_for_a_listener() {
    let w = lab(&["web01"]);
    w.emulator().machine("web01").set_online(false);
    let mut before = 0;
    for (name, number) in [("HUP", 1), ("INT", 2), ("TERM", 15)] {
        let arcssh = Running::start(&mut w.proxy("web01"));
        assert!(eventually(SOON, || not_found_responses(&w) > before));
        signal(arcssh.id(), name);
        let (status, stderr) = arcssh.end_soon();
        assert!(status.is_none_or(|code| code == 128 + number), "{status:?}");
        assert!(name == "HUP" || !stderr.contains("stopped waiting"), "only SIGHUP comes from ssh: {stderr}");
        let last = run(&mut w.arcssh(&["last", "web01"])).clean();
        assert!(last.contains(" ssh stopped waiting after "), "SIG{name}: {last}");
        run(&mut w.arcssh(&["cache", "clear"])).clean();
        before = not_found_responses(&w);
    }
}

#[test]
fn a_killed_ssh_ends_the_wait_for_a_listener() {
    let w = lab_with(&["web01"], |builder| builder.endpoint_delay(Duration::from_secs(3600)));
    let mut ssh = w.ssh().args(["web01", "true"]).stderr(Stdio::null()).spawn().unwrap();
    assert!(eventually(SOON, || not_found_responses(&w) > 0));
    signal(ssh.id(), "KILL");
    ended(&mut ssh);
    assert!(eventually(SOON, || w.survivors().is_empty()), "{:?}", w.survivors());
}

#[test]
fn a_killed_ssh_ends_the_session() {
    let w = lab(&["web01"]);
    let mut ssh = w.ssh().args(["web01", "cat"]).stdin(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    assert!(eventually(SOON, || w.emulator().open_connections() == 1));
    signal(ssh.id(), "KILL");
    ended(&mut ssh);
    let all_closed = || w.survivors().is_empty() && w.emulator().open_connections() == 0;
    // The bridge would wait 5 s for output after the end of input.
    assert!(eventually(Duration::from_secs(4), all_closed), "{:?}", w.survivors());
}

#[test]
fn a_connect_timeout_of_ssh_leaves_no_process() {
    let w = lab(&["web01"]);
    w.emulator().machine("web01").set_online(false);
    let start = Instant::now();
    let run = run(w.ssh().args(["-o", "ConnectTimeout=2", "web01", "true"]));
    assert_eq!(run.code, Some(255));
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
    assert!(eventually(SOON, || w.survivors().is_empty()), "{:?}", w.survivors());
}

#[test]
fn files_work_as_input_and_output() {
    let w = lab(&["web01"]);
    let (input, output) = (w.home().join("input"), w.home().join("output"));
    fs::write(&input, b"hello").unwrap();
    let mut proxy = w.proxy_to(service(reply_in_capitals));
    proxy.stdin(File::open(&input).unwrap()).stdout(File::create(&output).unwrap()).stderr(Stdio::piped());
    let run = finish(proxy.spawn().unwrap());
    assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""));
    assert_eq!(fs::read(output).unwrap(), b"HELLO");
}

#[test]
fn one_socket_works_as_input_and_output() {
    let w = lab(&["web01"]);
    let (mut local, remote) = UnixStream::pair().unwrap();
    let mut proxy = w.proxy_to(service(reply_in_capitals));
    proxy.stdin(OwnedFd::from(remote.try_clone().unwrap())).stdout(OwnedFd::from(remote));
    let mut arcssh = proxy.stderr(Stdio::piped()).spawn().unwrap();
    drop(proxy); // holds a copy of the socket
    local.write_all(b"hello").unwrap();
    let mut answer = Vec::new();
    Limited(local).read_to_end(&mut answer).unwrap();
    assert_eq!(answer, b"HELLO");
    assert!(ended(&mut arcssh).success());
}

#[test]
fn a_terminal_works_as_input_and_output() {
    let w = lab(&["web01"]);
    let port = service(reply_in_capitals);
    w.emulator().machine("web01").set_ssh_port(port);
    let line = format!("stty raw -echo; exec {ARCSSH} proxy {} --port {port}", w.id());
    let mut script = w.command("script");
    script.args(["-q", "-e", "-c", &line, "/dev/null"]);
    let mut arcssh = Running::start(&mut script);
    assert!(eventually(SOON, || w.emulator().open_connections() == 1));
    arcssh.child.stdin.as_mut().unwrap().write_all(b"hello").unwrap();
    assert_eq!(arcssh.read(5), b"HELLO");
    let (status, _) = arcssh.end_soon();
    assert_eq!(status, Some(0));
}

#[test]
fn inherited_files_stay_blocking() {
    let w = lab(&["web01"]);
    let port = service(reply_in_capitals);
    w.emulator().machine("web01").set_ssh_port(port);
    let line =
        format!("{ARCSSH} proxy {} --port {port}; cat /proc/self/fdinfo/0 /proc/self/fdinfo/1", w.id());
    let mut arcssh = Running::start(w.command("sh").args(["-c", &line]));
    assert!(eventually(SOON, || w.emulator().open_connections() == 1));
    let during: String =
        [0, 1].map(|fd| fs::read_to_string(format!("/proc/{}/fdinfo/{fd}", arcssh.id())).unwrap()).concat();
    assert_eq!(nonblocking(&during), [false, false], "during the session: {during}");
    arcssh.child.stdin.as_mut().unwrap().write_all(b"hello").unwrap();
    assert_eq!(arcssh.read(5), b"HELLO");
    let mut after = String::new();
    Limited(arcssh.child.stdout.as_mut().unwrap()).read_to_string(&mut after).unwrap();
    assert_eq!(nonblocking(&after), [false, false], "after the session: {after}");
    assert_eq!(arcssh.end_soon().0, Some(0));
}

/// A lab whose relay sends these bytes after its 101 response.
fn lab_with_wire(fault: RelayFault) -> (Lab, Command) {
    let w = lab(&["web01"]);
    let port = service(wait_for_end);
    w.emulator().relay_fault(fault.always());
    let proxy = w.proxy_to(port);
    (w, proxy)
}

/// An unmasked frame with up to 125 bytes of payload.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    [&[first, payload.len() as u8], payload].concat()
}

#[test]
fn close_frames_are_reported_and_answered() {
    let body = |code: u16, reason: &[u8]| [&code.to_be_bytes()[..], reason].concat();
    let mut cases = vec![
        (body(1000, b"bye"), None, Some(1000)),
        (vec![], None, None),
        (vec![3], Some("with half a code (0x03)".to_owned()), Some(1002)),
        (body(1013, b"f\xfcr"), Some("with code 1013 \"f\u{fffd}r\"".to_owned()), Some(1007)),
    ];
    for code in [999, 1004, 1005, 1006, 1015, 1016, 5000] {
        cases.push((body(code, b"why"), Some(format!("with code {code} \"why\"")), Some(1002)));
    }
    for (payload, error, answer) in cases {
        let close = [frame(0x82, b"greeting"), frame(0x88, &payload)].concat();
        let (w, mut proxy) = lab_with_wire(RelayFault::wire(close));
        let mut arcssh = Running::start(&mut proxy);
        assert_eq!(arcssh.read(8), b"greeting");
        let (status, stderr) = arcssh.end_soon();
        let expected = error.as_ref().map_or(String::new(), |error| {
            format!(
                "arcssh: lost the connection to web01: the relay closed the connection {error}\narcssh: hint: connect again\n"
            )
        });
        assert_eq!((stderr, status), (expected, Some(error.is_some().into())), "{payload:02x?}");
        let has_closed = || w.emulator().sender_ends() == [SenderEnd::Closed(answer)];
        assert!(eventually(SOON, has_closed), "{payload:02x?}: {:?}", w.emulator().sender_ends());
    }
}

#[test]
fn protocol_errors_are_reported_after_the_preceding_bytes() {
    let ping = [&[0x89, 126, 0, 126][..], &[0; 126]].concat();
    let cases: [(&[u8], &str); 5] = [
        (&[0xc2, 0], "a frame has a reserved bit set"),
        (&[0x83, 0], "a frame has the reserved opcode 3"),
        (&[0x82, 0x80, 0, 0, 0, 0], "a frame is masked"),
        (&[0x80, 0], "a continuation frame continues no message"),
        (&ping, "a control frame has 126 bytes of payload"),
    ];
    for (violation, error) in cases {
        let (w, mut proxy) = lab_with_wire(RelayFault::wire([&frame(0x82, b"greeting"), violation].concat()));
        let mut arcssh = Running::start(&mut proxy);
        assert_eq!(arcssh.read(8), b"greeting");
        let (status, stderr) = arcssh.end_soon();
        let why = format!(
            "arcssh: lost the connection to web01: the relay violated the WebSocket protocol: {error}\n"
        );
        assert!(stderr.starts_with(&why) && status == Some(1), "{status:?} {stderr}");
        let has_closed = || w.emulator().sender_ends() == [SenderEnd::Closed(Some(1002))];
        assert!(eventually(SOON, has_closed), "{:?}", w.emulator().sender_ends());
    }
}

#[test]
fn message_size_does_not_increase_memory() {
    let huge = [&[0x82, 127][..], &(1_u64 << 30).to_be_bytes()].concat();
    let fragments = frame(0x00, b"endless").repeat(4096);
    let pings = frame(0x89, &[b'p'; 125]).repeat(512);
    let cases = [
        (huge, vec![7; MIB], 200),
        (frame(0x02, b""), fragments, 1000),
        (frame(0x02, b""), frame(0x00, b"").repeat(16_384), 300),
        (frame(0x02, b""), pings, 300),
    ];
    for (first, then, times) in cases {
        let (w, mut proxy) = lab_with_wire(RelayFault::endless_wire(first, then, times));
        let mut arcssh = Running::start(&mut proxy);
        let mut output = arcssh.child.stdout.take().unwrap();
        let reading = thread::spawn(move || std::io::copy(&mut output, &mut std::io::sink()));
        let id = arcssh.id();
        assert!(eventually(SOON, || w.emulator().open_connections() == 1));
        wait_until_unchanged(|| times_scheduled(id));
        let peak = peak_memory(id);
        assert!(peak < 16 * MIB, "{peak} bytes");
        signal(id, "HUP");
        arcssh.end_soon();
        reading.join().unwrap().unwrap();
    }
}

#[test]
fn unanswered_pings_end_the_session() {
    let w = lab(&["web01"]);
    let port = service(wait_for_end);
    w.emulator().relay_fault(RelayFault::silent_after(Duration::from_secs(40)).always());
    let arcssh = Running::start(&mut w.proxy_to(port));
    assert!(eventually(LIMIT, || w.emulator().sender_pings().len() == 1), "no ping");
    let start = Instant::now();
    let (status, stderr) = arcssh.end();
    let why = "arcssh: lost the connection to web01: the relay no longer responds: 2 pings are unanswered";
    assert_eq!((status, stderr.lines().next()), (Some(1), Some(why)));
    assert!(start.elapsed() < Duration::from_secs(100), "{:?}", start.elapsed());
}

/// A write cannot fail on a loopback while reads stay silent, so strace injects the error.
#[cfg(target_os = "linux")]
#[test]
fn a_failed_write_ends_the_session_and_is_reported() {
    let strace = || Command::new("strace").args(["-o", "/dev/null", "true"]).status();
    if !strace().is_ok_and(|status| status.success()) {
        writeln!(std::io::stderr(), "skipped: strace is missing, or may not trace here").unwrap();
        return;
    }
    for error in ["ECONNRESET", "ENOBUFS", "ETIMEDOUT", "EPIPE"] {
        for input_ends in [false, true] {
            let w = lab(&["web01"]);
            let proxy = w.proxy_to(service(wait_for_end));
            let inject = format!("inject=writev,sendmsg,sendto:error={error}:when=40+");
            let mut strace = w.command("strace");
            strace.args(["-f", "-qq", "-o", "/dev/null", "-e", &inject]);
            strace.arg(proxy.get_program()).args(proxy.get_args());
            let mut arcssh = Running::start(&mut strace);
            let mut stdin = arcssh.child.stdin.take().unwrap();
            assert!(eventually(SOON, || w.emulator().open_connections() == 1));
            let writing = thread::spawn(move || {
                let mut lines = 0;
                while lines < 200 && stdin.write_all(b"line\n").is_ok() {
                    thread::park_timeout(Duration::from_millis(20)); // one frame for each line
                    lines += 1;
                }
                (!input_ends).then_some(stdin)
            });
            let (status, stderr) = arcssh.end_soon();
            let why = "arcssh: lost the connection to web01: cannot send to the relay: ";
            assert!(
                stderr.starts_with(why) && status == Some(1),
                "{error} {input_ends}: {status:?} {stderr}"
            );
            writing.join().unwrap();
        }
    }
}

#[test]
fn an_unreadable_input_is_reported() {
    for (input, error) in
        [("/", "Is a directory (os error 21)"), ("/proc/self/mem", "Input/output error (os error 5)")]
    {
        let w = lab(&["web01"]);
        let mut proxy = w.proxy_to(service(wait_for_end));
        proxy.stdin(File::open(input).unwrap()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let run = finish(proxy.spawn().unwrap());
        let why = format!("arcssh: lost the connection to web01: cannot read standard input: {error}");
        assert_eq!((run.code, run.stderr.lines().next()), (Some(1), Some(why.as_str())));
    }
}

#[test]
fn a_wrong_open_mode_of_input_or_output_is_reported() {
    let w = lab(&["web01"]);
    let file = w.home().join("file");
    fs::write(&file, b"hello").unwrap();
    let to_write = || fs::OpenOptions::new().write(true).open(&file).unwrap();
    let to_read = || File::open(&file).unwrap();
    for (input, output, error) in [
        (to_write(), to_write(), "cannot read standard input"),
        (to_read(), to_read(), "cannot write to standard output"),
    ] {
        let mut proxy = w.proxy_to(service(reply_in_capitals));
        let run = finish(proxy.stdin(input).stdout(output).stderr(Stdio::piped()).spawn().unwrap());
        let why = format!("arcssh: lost the connection to web01: {error}: Bad file descriptor (os error 9)");
        assert_eq!((run.code, run.stderr.lines().next()), (Some(1), Some(why.as_str())));
    }
    assert_eq!(fs::read(&file).unwrap(), b"hello");
}

/// Like after `kill -9` of ssh, with the input open or closed.
#[test]
fn a_closed_output_ends_a_session_with_a_blocked_relay() {
    for input_ends in [false, true] {
        let w = lab(&["web01"]);
        let machine = TcpListener::bind("127.0.0.1:0").unwrap();
        w.emulator().relay_fault(RelayFault::blocked_reader().always());
        let mut arcssh = Running::start(&mut w.proxy_to(machine.local_addr().unwrap().port()));
        let connection = accept(&machine);
        let mut stdin = arcssh.child.stdin.take();
        if input_ends {
            stdin = None;
        } else {
            arcssh.child.stdin = stdin.take();
            wait_until_stable(&arcssh.feed(64 * MIB));
        }
        drop(arcssh.child.stdout.take());
        arcssh.end_soon();
        drop((connection, stdin));
    }
}

#[test]
fn a_closed_socket_ends_a_session_with_a_blocked_relay() {
    let w = lab(&["web01"]);
    let machine = TcpListener::bind("127.0.0.1:0").unwrap();
    w.emulator().relay_fault(RelayFault::blocked_reader().always());
    let (local, remote) = UnixStream::pair().unwrap();
    let mut proxy = w.proxy_to(machine.local_addr().unwrap().port());
    proxy.stdin(Stdio::piped()).stdout(OwnedFd::from(remote)).stderr(Stdio::piped());
    let arcssh = Running { child: proxy.spawn().unwrap() };
    drop(proxy); // holds a copy of the socket
    let connection = accept(&machine);
    local.shutdown(std::net::Shutdown::Write).unwrap();
    assert!(eventually(SOON, || w.emulator().open_connections() == 1));
    drop(local);
    arcssh.end_soon();
    drop(connection);
}

/// SIGHUP is ignored, like under `nohup`.
#[cfg(target_os = "linux")]
#[test]
fn a_closed_terminal_ends_the_session() {
    let w = lab(&["web01"]);
    let machine = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = machine.local_addr().unwrap().port();
    w.emulator().machine("web01").set_ssh_port(port);
    w.emulator().relay_fault(RelayFault::blocked_reader().always());
    let line = format!("trap '' HUP; stty raw -echo; exec {ARCSSH} proxy {} --port {port}", w.id());
    let mut script = w.command("script");
    script.args(["-q", "-e", "-c", &line, "/dev/null"]);
    let mut terminal = Running::start(&mut script);
    let connection = accept(&machine);
    signal(terminal.id(), "KILL");
    ended(&mut terminal.child);
    assert!(eventually(SOON, || w.survivors().is_empty()), "{:?}", w.survivors());
    drop(connection);
}

#[test]
fn a_closed_socket_ends_the_wait_for_a_listener() {
    let w = lab_with(&["web01"], |builder| builder.endpoint_delay(Duration::from_secs(3600)));
    let (local, remote) = UnixStream::pair().unwrap();
    let mut proxy = w.proxy("web01");
    proxy.stdin(OwnedFd::from(remote.try_clone().unwrap())).stdout(OwnedFd::from(remote));
    let arcssh = Running { child: proxy.stderr(Stdio::piped()).spawn().unwrap() };
    drop(proxy); // holds a copy of the socket
    assert!(eventually(SOON, || not_found_responses(&w) > 0));
    drop(local);
    assert_eq!(arcssh.end_soon().0, Some(129));
}

#[test]
fn a_session_survives_a_stopped_process() {
    let w = lab(&["web01"]);
    let port = service(reply_in_capitals);
    let mut arcssh = Running::start(&mut w.proxy_to(port));
    assert!(eventually(SOON, || w.emulator().open_connections() == 1));
    signal(arcssh.id(), "STOP");
    let stopped = || {
        let stat = fs::read_to_string(format!("/proc/{}/stat", arcssh.id())).unwrap();
        stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T'))
    };
    assert!(eventually(SOON, stopped));
    arcssh.child.stdin.as_mut().unwrap().write_all(b"hello").unwrap();
    signal(arcssh.id(), "CONT");
    assert_eq!(arcssh.read(5), b"HELLO");
    assert_eq!(arcssh.end_soon().0, Some(0));
}

/// Replies to five letters with capitals, and closes.
fn reply_in_capitals(mut connection: TcpStream) {
    let mut letters = [0; 5];
    if connection.read_exact(&mut letters).is_ok() {
        connection.write_all(&letters.to_ascii_uppercase()).unwrap();
    }
}

/// Neither reads nor writes until the agent closes its side.
fn wait_for_end(connection: TcpStream) {
    // `peek` returns 0 after the end of the connection. The bytes stay unread until then.
    let mut byte = [0];
    while connection.peek(&mut byte).is_ok_and(|length| length > 0) {
        thread::park_timeout(Duration::from_millis(20));
    }
}

/// Whether each open file in an fdinfo of /proc has O_NONBLOCK.
fn nonblocking(fdinfo: &str) -> Vec<bool> {
    const O_NONBLOCK: u32 = 0o4000;
    let flags = fdinfo.lines().filter_map(|line| line.strip_prefix("flags:"));
    flags.map(|octal| u32::from_str_radix(octal.trim(), 8).unwrap() & O_NONBLOCK != 0).collect()
}

/// Connection attempts that the relay answered with 404.
fn not_found_responses(w: &Lab) -> usize {
    let requests = w.emulator().requests();
    let local = requests.iter().filter(|request| request.path_and_query.contains("sb-hc-action=connect"));
    local.filter(|request| request.status == Some(404)).count()
}

/// The peak memory of a process, without the pages of its program file: 12 MiB of a debug build.
fn peak_memory(process: u32) -> usize {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let bytes = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
    };
    bytes("VmHWM:") - bytes("RssFile:")
}

/// Number of context switches of a process. /proc/PID/io would show the bytes that arcssh read, but only to root:
/// arcssh is not dumpable (proc(5)).
pub(crate) fn times_scheduled(process: u32) -> usize {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let counts = status.lines().filter(|line| line.contains("voluntary_ctxt_switches:"));
    counts.map(|line| line.split_whitespace().last().unwrap().parse::<usize>().unwrap()).sum()
}

fn wait_until_stable(counter: &AtomicUsize) {
    wait_until_unchanged(|| counter.load(Ordering::SeqCst));
}

/// Waits until the number is unchanged for a second.
#[track_caller]
pub(crate) fn wait_until_unchanged(number: impl Fn() -> usize) {
    let last = std::cell::Cell::new((number(), Instant::now()));
    let rests = || {
        if number() != last.get().0 {
            last.set((number(), Instant::now()));
        }
        last.get().1.elapsed() > Duration::from_secs(1)
    };
    assert!(eventually(Duration::from_secs(30), rests), "the number still changes: {:?}", last.get());
}

/// A program with three pipes.
struct Running {
    child: Child,
}

impl Running {
    fn start(command: &mut Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Self { child: command.spawn().unwrap() }
    }

    fn id(&self) -> u32 {
        self.child.id()
    }

    /// Reads this many bytes of its output.
    fn read(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        Limited(self.child.stdout.as_mut().unwrap()).read_exact(&mut bytes).unwrap();
        bytes
    }

    /// Writes its standard input in another thread. Returns the number of bytes that were written so far.
    fn feed(&mut self, length: usize) -> Arc<AtomicUsize> {
        let mut stdin = self.child.stdin.take().unwrap();
        let written = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&written);
        thread::spawn(move || {
            while count.load(Ordering::SeqCst) < length && stdin.write_all(&[9; 65536]).is_ok() {
                count.fetch_add(65536, Ordering::SeqCst);
            }
        });
        written
    }

    /// Waits for its end with an open standard input. Returns its exit status (`None` after a signal) and its standard
    /// error.
    #[track_caller]
    fn end(mut self) -> (Option<i32>, String) {
        let stdin = self.child.stdin.take();
        let run = finish(self.child);
        drop(stdin);
        (run.code, run.stderr)
    }

    /// Like `end`, within [`SOON`].
    #[track_caller]
    fn end_soon(self) -> (Option<i32>, String) {
        let start = Instant::now();
        let end = self.end();
        assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
        end
    }
}

/// Azure CLI is a shell script that starts another program. Both must end with arcssh.
#[test]
fn azure_cli_ends_with_arcssh() {
    let w = lab(&["web01"]);
    let folder = w.home().join("bin");
    script(&folder, "az", "#!/bin/sh\nexec tail -f /dev/null\n");
    let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap());
    for name in ["HUP", "INT", "TERM"] {
        for mut command in [w.proxy("web01"), w.arcssh(&["list"]), w.arcssh(&["account"])] {
            let arcssh = Running::start(command.env_remove("AZURE_CLIENT_SECRET").env("PATH", &path));
            let runs = || w.survivors().iter().any(|line| line.starts_with("tail -f"));
            assert!(eventually(SOON, runs), "{:?}", w.survivors());
            signal(arcssh.id(), name);
            arcssh.end_soon();
            assert!(eventually(SOON, || w.survivors().is_empty()), "SIG{name}: {:?}", w.survivors());
        }
    }
}
