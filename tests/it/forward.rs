//! `arcssh forward`: local ports for clients without a `ProxyCommand`.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::support::{LIMIT, Lab, eventually, finish, lab, lab_with, run, service, signal};

/// A running `arcssh forward`, with the lines that it has printed.
struct Forwarder {
    arcssh: Child,
    stdout: Arc<Mutex<Vec<String>>>,
    stderr: Arc<Mutex<Vec<String>>>,
}

fn collect(stream: impl std::io::Read + Send + 'static) -> Arc<Mutex<Vec<String>>> {
    let lines = Arc::<Mutex<Vec<String>>>::default();
    let collected = Arc::clone(&lines);
    thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            collected.lock().unwrap().push(line);
        }
    });
    lines
}

impl Forwarder {
    fn start(mut command: Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut arcssh = command.spawn().unwrap();
        let stdout = collect(arcssh.stdout.take().unwrap());
        let stderr = collect(arcssh.stderr.take().unwrap());
        Self { arcssh, stdout, stderr }
    }

    /// Starts `arcssh forward` with a JSON event for each connection, and waits until it listens.
    #[track_caller]
    fn json(w: &Lab, arguments: &[&str]) -> Self {
        let mut command = w.arcssh(&["forward", "--json"]);
        command.args(arguments);
        let forwarder = Self::start(command);
        let is_listening = || !forwarder.events("listening").is_empty() || !forwarder.stderr().is_empty();
        assert!(eventually(LIMIT, is_listening), "{:?}", forwarder.stderr());
        assert_eq!(forwarder.stderr(), [""; 0]);
        forwarder
    }

    fn stdout(&self) -> Vec<String> {
        self.stdout.lock().unwrap().clone()
    }

    fn stderr(&self) -> Vec<String> {
        self.stderr.lock().unwrap().clone()
    }

    fn events(&self, kind: &str) -> Vec<Value> {
        let events = self.stdout().into_iter().map(|line| serde_json::from_str::<Value>(&line).unwrap());
        events.filter(|event| event["event"] == kind).collect()
    }

    /// Waits for this number of events of a kind.
    #[track_caller]
    fn wait_for(&self, kind: &str, count: usize) -> Vec<Value> {
        assert!(eventually(LIMIT, || self.events(kind).len() >= count), "{kind}: {:?}", self.stdout());
        self.events(kind)
    }

    /// The port of a machine.
    fn port(&self, number: usize) -> u16 {
        self.events("listening")[number]["addresses"][0]["port"].as_u64().unwrap().try_into().unwrap()
    }

    fn connect(&self) -> TcpStream {
        TcpStream::connect(("127.0.0.1", self.port(0))).unwrap()
    }

    /// Sends a signal, and returns the exit status.
    #[track_caller]
    fn end(mut self, name: &str) -> (Option<i32>, Self) {
        signal(self.arcssh.id(), name);
        let status = self.arcssh.wait().unwrap().code();
        let is_read = |lines: &Arc<_>| Arc::strong_count(lines) == 1;
        assert!(eventually(LIMIT, || is_read(&self.stdout) && is_read(&self.stderr)));
        (status, self)
    }

    #[track_caller]
    fn interrupt(self) -> Self {
        let (status, ended) = self.end("INT");
        assert_eq!(status, Some(130), "{:?}", ended.stderr());
        ended
    }
}

/// A service that returns each byte.
fn echo() -> u16 {
    service(|mut connection| {
        let mut input = connection.try_clone().unwrap();
        let _ = std::io::copy(&mut input, &mut connection);
    })
}

/// The port option of a machine whose SSH port is the one of a service.
fn port_option(w: &Lab, port: u16) -> String {
    w.emulator().machine("web01").set_ssh_port(port);
    format!("--port={port}")
}

/// A program of OpenSSH, with the key of the playground and without its configuration.
fn openssh(w: &Lab, name: &str) -> Command {
    let mut program = w.command(name);
    program.args(["-F", "none", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no"]);
    program.args(["-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR", "-i"]);
    program.arg(w.sshd().client_key());
    program
}

fn sshd_port(w: &Lab) -> String {
    port_option(w, w.sshd().port())
}

#[test]
fn ssh_and_scp_connect_through_a_port() {
    let w = lab(&["web01"]);
    let forwarder = Forwarder::json(&w, &["web01", &sshd_port(&w)]);
    let port = forwarder.port(0).to_string();
    let user = crate::consumers::user();
    for host in ["localhost", "127.0.0.1", "::1"] {
        let ssh = run(openssh(&w, "ssh").args(["-p", &port, "-l", &user, host, "echo reached"]));
        assert_eq!(ssh.clean(), "reached\n", "{host}");
    }
    fs::write(w.home().join("file"), crate::support::noise(1 << 20)).unwrap();
    let copy = w.home().join("copy");
    let target = format!("{user}@localhost:{}", copy.display());
    run(openssh(&w, "scp").args(["-P", &port, "file", &target])).clean();
    assert!(fs::read(&copy).unwrap() == fs::read(w.home().join("file")).unwrap());
    let closed = forwarder.wait_for("closed", 4);
    assert!(closed[3]["sent"].as_u64().unwrap() > 1 << 20, "{closed:?}");
    assert!(closed.iter().all(|event| event["reason"] == "closed"), "{closed:?}");
    forwarder.interrupt();
}

#[test]
fn bytes_and_a_half_close_arrive_unchanged() {
    let w = lab(&["web01"]);
    let forwarder = Forwarder::json(&w, &["web01", &port_option(&w, echo())]);
    let bytes = crate::support::noise(3 << 20);
    let mut client = forwarder.connect();
    let mut output = client.try_clone().unwrap();
    let sent = bytes.clone();
    // The client sends no more before the machine is connected.
    let sender = thread::spawn(move || {
        output.write_all(&sent).unwrap();
        output.shutdown(Shutdown::Write).unwrap();
    });
    let mut received = Vec::new();
    client.read_to_end(&mut received).unwrap();
    sender.join().unwrap();
    assert!(received == bytes, "{} of {} bytes", received.len(), bytes.len());
    let closed = &forwarder.wait_for("closed", 1)[0];
    assert_eq!((&closed["sent"], &closed["received"]), (&bytes.len().into(), &bytes.len().into()));
    let ended = forwarder.interrupt();
    let stopped = &ended.events("stopped")[0];
    assert_eq!((&stopped["connections"], &stopped["failed"]), (&1.into(), &0.into()));
}
