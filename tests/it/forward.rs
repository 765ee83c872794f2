//! `arcssh forward`: local ports for clients without a `ProxyCommand`.

use std::fs;
use std::io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use arcssh_emulator::{Machine, RelayFault};
use serde_json::{Value, json};

use crate::faults::{times_scheduled, wait_until_unchanged};
use crate::interruption::Terminal;
use crate::support::{
    ARCSSH, LIMIT, Lab, connect, ended, eventually, free_port, lab, lab_with, noise, run, service, signal,
};

/// A running `arcssh forward`, with the lines that it has printed.
struct Forwarder {
    arcssh: Child,
    stdout: Arc<Mutex<Vec<String>>>,
    stderr: Arc<Mutex<Vec<String>>>,
}

/// Another test would wait for the end of arcssh.
impl Drop for Forwarder {
    fn drop(&mut self) {
        let _ = self.arcssh.kill();
        let _ = self.arcssh.wait();
    }
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
    #[track_caller]
    fn port(&self, number: usize) -> u16 {
        self.wait_for("listening", number + 1)[number]["addresses"][0]["port"]
            .as_u64()
            .unwrap()
            .try_into()
            .unwrap()
    }

    fn connect(&self) -> TcpStream {
        connect(self.port(0))
    }

    /// Sends a signal, and returns the exit status.
    #[track_caller]
    fn end(mut self, name: &str) -> (Option<i32>, Self) {
        signal(self.arcssh.id(), name);
        let status = ended(&mut self.arcssh).code();
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
    let alias = forwarder.events("listening")[0]["host_key_alias"].clone();
    let known = format!("HostKeyAlias={}", alias.as_str().unwrap());
    let known_hosts = format!("UserKnownHostsFile={}", w.home().join(".ssh/known_hosts").display());
    let options = ["-o", &known, "-o", &known_hosts, "-o", "StrictHostKeyChecking=yes"];
    let mut ssh = w.command("ssh");
    ssh.args(["-F", "none", "-o", "BatchMode=yes", "-i"]).arg(w.sshd().client_key()).args(options);
    assert_eq!(run(ssh.args(["-p", &port, "-l", &user, "localhost", "echo known"])).clean(), "known\n");
    for host in ["localhost", "127.0.0.1", "::1"] {
        let ssh = run(openssh(&w, "ssh").args(["-p", &port, "-l", &user, host, "echo reached"]));
        assert_eq!(ssh.clean(), "reached\n", "{host}");
    }
    fs::write(w.home().join("file"), noise(1 << 20)).unwrap();
    let copy = w.home().join("copy");
    let target = format!("{user}@localhost:{}", copy.display());
    run(openssh(&w, "scp").args(["-P", &port, "file", &target])).clean();
    assert!(fs::read(&copy).unwrap() == fs::read(w.home().join("file")).unwrap());
    let closed = forwarder.wait_for("closed", 5);
    assert!(closed[4]["sent"].as_u64().unwrap() > 1 << 20, "{closed:?}");
    assert!(closed.iter().all(|event| event["reason"] == "closed"), "{closed:?}");
    forwarder.interrupt();
}

#[test]
fn bytes_and_a_half_close_arrive_unchanged() {
    let w = lab(&["web01"]);
    let forwarder = Forwarder::json(&w, &["web01", &port_option(&w, echo())]);
    let bytes = noise(3 << 20);
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

/// A client that was connected to the machine, as the echo shows.
fn connected(mut client: TcpStream) -> TcpStream {
    client.write_all(b"x").unwrap();
    client.read_exact(&mut [0]).unwrap();
    client
}

/// Reads until the server closes the connection. A reset has the same meaning.
fn is_closed(client: &mut TcpStream) -> bool {
    match client.read(&mut [0]) {
        Err(error) if error.kind() == ErrorKind::WouldBlock => panic!("the connection is still open"),
        read => !matches!(read, Ok(1)),
    }
}

#[test]
fn putty_connects_through_a_port() {
    let w = lab(&["web01"]);
    let forwarder = Forwarder::json(&w, &["web01", &sshd_port(&w)]);
    let (port, user) = (forwarder.port(0).to_string(), crate::consumers::user());
    let host_key = w.sshd().client_key().with_file_name("host_key.pub");
    let fingerprint = run(w.command("ssh-keygen").arg("-lf").arg(host_key)).clean();
    let fingerprint = fingerprint.split(' ').nth(1).unwrap();
    let key = w.sshd().client_key();
    run(w.command("puttygen").arg(&key).args(["-O", "private", "-o", "key.ppk"])).clean();
    let putty = |program: &str| {
        let mut command = w.command(program);
        command.args([
            "-batch",
            "-P",
            &port,
            "-i",
            "key.ppk",
            "-hostkey",
            fingerprint,
            "-l",
            &user,
            "127.0.0.1",
        ]);
        command
    };
    let plink = run(putty("plink").arg("echo reached"));
    assert_eq!(String::from_utf8_lossy(&plink.stdout), "reached\n", "{}", plink.stderr);
    fs::write(w.home().join("batch"), format!("put key.ppk {}\n", w.home().join("copy").display())).unwrap();
    let psftp = run(putty("psftp").args(["-b", "batch"]));
    assert_eq!(psftp.code, Some(0), "{}", psftp.stderr);
    assert_eq!(fs::read(w.home().join("copy")).unwrap(), fs::read(w.home().join("key.ppk")).unwrap());
    forwarder.interrupt();
}

#[test]
fn a_missing_windows_admin_center_is_named() {
    let w = lab(&["web01"]);
    let port = free_port().to_string();
    let set_up = run(&mut w.arcssh(&["setup", "web01", "--service", "wac", "--port", &port, "--yes"]));
    let hint = "arcssh: hint: start Windows Admin Center on the machine, or name its port with --port\n";
    assert!(set_up.stderr.ends_with(hint), "{}", set_up.stderr);
    assert_eq!(set_up.code, Some(7));
}

#[test]
fn curl_reaches_windows_admin_center() {
    let w = lab(&["web01"]);
    let port = free_port();
    let certificate = "openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -days 2 -subj /CN=localhost 2>log";
    run(w.command("sh").args(["-c", certificate])).clean();
    let mut server = w.command("openssl");
    server.args(["s_server", "-www", "-quiet", "-key", "key.pem", "-cert", "cert.pem", "-accept"]);
    let mut server =
        server.arg(format!("127.0.0.1:{port}")).stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
    assert!(eventually(LIMIT, || TcpStream::connect(("127.0.0.1", port)).is_ok()));
    let set_up = ["setup", "web01", "--service", "wac", "--port", &port.to_string(), "--yes"];
    let run_setup = run(&mut w.arcssh(&set_up));
    assert_eq!(run_setup.code, Some(0), "{}", run_setup.stderr);
    let forwarder = Forwarder::json(&w, &["web01", "--service", "wac", "--port", &port.to_string()]);
    assert_eq!(forwarder.events("listening")[0]["service"], "WAC");
    let url = format!("https://localhost:{}/", forwarder.port(0));
    let page = run(w.command("curl").args(["-sS", "--cacert", "cert.pem", &url]));
    let text = String::from_utf8_lossy(&page.stdout).into_owned();
    assert!(text.contains("TLSv1.3"), "{text}{}", page.stderr);
    forwarder.interrupt();
    server.kill().unwrap();
    ended(&mut server);
}

#[test]
fn a_socket_is_private_and_is_removed_at_the_end() {
    let w = lab(&["web01"]);
    let option = port_option(&w, echo());
    let path = w.home().join("sub");
    fs::create_dir(&path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
    let path = path.join("socket");
    // A socket on which no program listens.
    drop(UnixListener::bind(&path).unwrap());
    let forwarder = Forwarder::json(&w, &["web01=sub/socket", &option]);
    assert_eq!(forwarder.events("listening")[0]["socket"], "sub/socket");
    let metadata = fs::symlink_metadata(&path).unwrap();
    assert!(metadata.file_type().is_socket());
    assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
    let mut client = UnixStream::connect(&path).unwrap();
    client.write_all(b"hello").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let mut received = String::new();
    client.read_to_string(&mut received).unwrap();
    assert_eq!(received, "hello");
    let from = forwarder.wait_for("closed", 1)[0]["from"].clone();
    assert_eq!(from, format!("process {}", std::process::id()));

    let second = run(&mut w.arcssh(&["forward", "web01=sub/socket"]));
    second.failed(
        1,
        &[
            "arcssh: cannot listen on sub/socket: another program uses the socket",
            "arcssh: hint: use another path, or end the other program",
        ],
    );
    forwarder.interrupt();
    assert!(!path.exists());
}

#[test]
fn a_listener_that_cannot_be_opened_is_explained() {
    let w = lab(&["web01"]);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    fs::write(w.home().join("file"), "content").unwrap();
    fs::create_dir(w.home().join("open")).unwrap();
    fs::set_permissions(w.home().join("open"), fs::Permissions::from_mode(0o1777)).unwrap();
    let long = format!("./{}", "a".repeat(120));
    let open = fs::canonicalize(w.home()).unwrap().join("open");
    for (local, bind, cause) in [
        (port.to_string(), None, format!("127.0.0.1:{port}: another program uses the port")),
        ("0".into(), Some("192.0.2.1"), "192.0.2.1:0: this computer does not have the address".into()),
        ("./file".into(), None, "./file: the path has a file that is not a socket of yours".into()),
        (long.clone(), None, format!("{long}: the path of the socket is too long")),
        ("./no/s".into(), None, "./no/s: No such file or directory (os error 2)".into()),
        (
            "open/s".into(),
            None,
            format!("open/s: other users can write to the directory {} (mode 1777)", open.display()),
        ),
    ] {
        let mut arcssh = w.arcssh(&["forward", &format!("web01={local}")]);
        let run = run(arcssh.args(bind.map(|address| format!("--bind={address}"))));
        let lines = run.arcssh_lines();
        assert_eq!((run.code, lines[0]), (Some(1), format!("arcssh: cannot listen on {cause}").as_str()));
        assert!(lines.len() == 2 && lines[1].starts_with("arcssh: hint: "), "{lines:?}");
    }
    assert_eq!(fs::read_to_string(w.home().join("file")).unwrap(), "content");
    assert_eq!(w.emulator().requests().len(), 0, "the local problem is reported before any request");
}

#[test]
fn a_port_that_is_in_use_for_ipv6_only_is_in_use() {
    if !crate::support::has_ipv6() {
        return;
    }
    let w = lab(&["web01"]);
    let taken = TcpListener::bind("[::1]:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let run = run(&mut w.arcssh(&["forward", &format!("web01={port}")]));
    let lines = [
        format!("arcssh: cannot listen on [::1]:{port}: another program uses the port"),
        "arcssh: hint: use another port, or 0 for a free one".into(),
    ];
    run.failed(1, &lines.each_ref().map(String::as_str));
}

#[test]
fn a_wrong_form_is_a_usage_error() {
    for words in [
        &["forward"][..],
        &["forward", "2201"],
        &["forward", "web01", "2201"],
        &["forward", "web01", "2201:22"],
        &["forward", "web01=70000"],
        &["forward", "web01=0.0.0.0:2201"],
        &["forward", "web01", "--bind", "localhost"],
        &["forward", "web01", "--exec", "true", "--json"],
        &["forward", "web01", "--exec", "true", "-o", "json"],
        &["forward", "web01:2201"],
        &["forward", "ada@web01"],
        &["forward", "web01", "-L", "2201"],
    ] {
        let run = crate::support::run_arcssh(words);
        assert_eq!((run.code, run.stdout.len()), (Some(2), 0), "{words:?}: {}", run.stderr);
    }
    let run = crate::support::run_arcssh(&["forward", "web01", "2201:22"]);
    assert!(run.stderr.contains("append it to the machine, such as web01=2201"), "{}", run.stderr);
    for (local, place) in [("2201", "port 2201"), ("./web", "socket ./web")] {
        let machines = ["web01", "web02"].map(|machine| format!("{machine}={local}"));
        let run = crate::support::run_arcssh(&["forward", &machines[0], "db01", "db02", &machines[1]]);
        let expected = format!("error: two machines have the local {place}; each needs its own\n");
        assert!(run.code == Some(2) && run.stderr.starts_with(&expected), "{}", run.stderr);
    }
}

#[test]
fn each_machine_has_its_own_port() {
    let w = lab(&["web01", "db01"]);
    let services = [
        service(|mut connection| drop(connection.write_all(b"I am web01"))),
        service(|mut connection| drop(connection.write_all(b"I am db01"))),
    ];
    for (name, port) in ["web01", "db01"].into_iter().zip(services) {
        w.emulator().machine(name).set_ssh_port(22);
        w.emulator().machine(name).move_port(22, port);
    }
    let port = free_port();
    let forwarder = Forwarder::json(&w, &[&format!("web01={port}"), "db01", "--port=22"]);
    let events = forwarder.wait_for("listening", 2);
    assert_eq!((&events[0]["machine"], &events[1]["machine"]), (&"web01".into(), &"db01".into()));
    assert_eq!(forwarder.port(0), port);
    for (number, answer) in ["I am web01", "I am db01"].into_iter().enumerate() {
        let mut received = String::new();
        connect(forwarder.port(number)).read_to_string(&mut received).unwrap();
        assert_eq!(received, answer);
    }
    forwarder.interrupt();
}

#[test]
fn a_machine_that_does_not_exist_is_reported_at_the_start() {
    let w = lab(&["web01"]);
    let run = run(&mut w.arcssh(&["forward", "web01", "web02"]));
    assert_eq!((run.code, run.stdout.len()), (Some(5), 0), "{}", run.stderr);
    assert!(run.stderr.contains("the account sees no Arc machine named web02"), "{}", run.stderr);
    let id = w.id();
    let run = crate::support::run(&mut w.arcssh(&["forward", &id.replace("web01", "web02")]));
    assert_eq!((run.code, run.stdout.len()), (Some(5), 0), "{}", run.stderr);
    assert!(run.stderr.starts_with("arcssh: cannot connect to web02: "), "{}", run.stderr);
    assert!(w.dialled().is_empty(), "nothing connects to a machine before a client");
}

#[test]
fn machines_with_the_same_error_share_a_message_and_a_hint() {
    let w =
        lab_with(&["web01"], |builder| builder.machine(Machine::new("web02")).machine(Machine::new("web03")));
    for name in ["web02", "web03"] {
        w.emulator().machine(name).remove_endpoint();
    }
    let run = run(&mut w.arcssh(&["forward", "web01", "web02", "web03"]));
    run.failed(
        1,
        &[
            "arcssh: cannot connect to 2 machines: the machine has no connectivity endpoint (404 ResourceNotFound): web02, web03",
            "arcssh: hint: enable it: arcssh setup rg-arc/web02 rg-arc/web03",
        ],
    );
}

#[test]
fn fifty_first_connections_request_credentials_once() {
    let w = lab(&["web01"]);
    let forwarder = Forwarder::json(&w, &["web01", &port_option(&w, echo())]);
    w.clear_cache();
    let issued = || w.emulator().machine("web01").issued_credentials().len();
    let before = issued();
    let clients: Vec<TcpStream> = (0..50).map(|_| forwarder.connect()).collect();
    let clients: Vec<TcpStream> = clients.into_iter().map(connected).collect();
    assert_eq!((clients.len(), issued() - before), (50, 1));
    drop(clients);
    forwarder.interrupt();
}

/// The number of open files of a process (proc_pid_fd(5)).
#[cfg(target_os = "linux")]
fn open_files(process: u32) -> usize {
    fs::read_dir(format!("/proc/{process}/fd")).unwrap().count()
}

#[test]
#[cfg(target_os = "linux")]
fn five_hundred_connections_are_carried_at_once_and_leave_no_open_file() {
    let w = lab(&["web01"]);
    let forwarder = Forwarder::json(&w, &["web01", &port_option(&w, echo())]);
    let may_list = crate::support::may_list_open_files();
    drop(connected(forwarder.connect()));
    forwarder.wait_for("closed", 1);
    let before = may_list.then(|| open_files(forwarder.arcssh.id()));
    let clients: Vec<TcpStream> = (0..500).map(|_| forwarder.connect()).collect();
    let mut clients: Vec<TcpStream> = clients.into_iter().map(connected).collect();
    assert_eq!(w.emulator().open_connections(), 500);
    for (number, client) in clients.iter_mut().enumerate() {
        client.write_all(&number.to_be_bytes()).unwrap();
    }
    for (number, client) in clients.iter_mut().enumerate() {
        let mut received = [0; 8];
        client.read_exact(&mut received).unwrap();
        assert_eq!(usize::from_be_bytes(received), number);
    }
    drop(clients);
    forwarder.wait_for("closed", 501);
    if let Some(before) = before {
        let is_same = || open_files(forwarder.arcssh.id()) <= before;
        assert!(eventually(LIMIT, is_same), "{} instead of {before}", open_files(forwarder.arcssh.id()));
    }
    let ended = forwarder.interrupt();
    assert_eq!(ended.events("stopped")[0]["failed"], 0);
}

#[test]
#[cfg(target_os = "linux")]
fn clients_beyond_the_limit_of_descriptors_wait() {
    let w = lab(&["web01"]);
    let option = port_option(&w, echo());
    let mut shell = w.command("bash");
    shell.args(["-c", "ulimit -n 64 && exec \"$0\" \"$@\"", ARCSSH, "forward", "--json", "web01", &option]);
    let forwarder = Forwarder::start(shell);
    forwarder.wait_for("listening", 1);
    // (64 - 24 - 3) / 3
    let mut clients: Vec<TcpStream> = (0..15).map(|_| forwarder.connect()).collect();
    let carried: Vec<TcpStream> = clients.drain(..12).map(connected).collect();
    let limit = &forwarder.wait_for("limit", 1)[0];
    assert_eq!(limit["code"], "limit-reached");
    assert!(limit["text"].as_str().unwrap().starts_with("12 connections are open"), "{limit}");
    drop(carried);
    let clients: Vec<TcpStream> = clients.into_iter().map(connected).collect();
    drop(clients);
    forwarder.wait_for("closed", 15);
    forwarder.interrupt();
}

#[test]
fn a_failed_connection_ends_its_client_only() {
    let w = lab(&["web01"]);
    let option = port_option(&w, echo());
    let forwarder = Forwarder::json(&w, &["web01", &option, "--wait=0"]);
    let carried = connected(forwarder.connect());
    for (fault, code) in [
        (RelayFault::refuse(503, "connection to localhost:22 failed: connection refused"), "port-closed"),
        (RelayFault::refuse(429, "too many requests"), "throttled"),
        (RelayFault::close_after(1, 1011, "an internal error"), "connection-lost"),
        (RelayFault::cut_after(1), "connection-lost"),
        (RelayFault::wire(vec![0xff; 64]), "protocol-violation"),
    ] {
        w.emulator().relay_fault(fault);
        let mut client = forwarder.connect();
        client.write_all(b"xy").unwrap();
        while !is_closed(&mut client) {}
        let has_code = || forwarder.events("error").iter().any(|event| event["code"] == code);
        assert!(eventually(LIMIT, has_code), "{code}: {:?}", forwarder.events("error"));
        let mut next = forwarder.connect();
        let is_echoed = next.write_all(b"x").and_then(|()| next.read_exact(&mut [0]));
        assert!(is_echoed.is_ok(), "{code}: {:?}", forwarder.stdout());
    }
    w.emulator().machine("web01").set_online(false);
    let mut client = forwarder.connect();
    assert!(is_closed(&mut client));
    let error = &forwarder.wait_for("error", 6)[5];
    assert_eq!(error["code"], "agent-offline");
    assert!(error["text"].as_str().unwrap().starts_with("cannot connect to web01: "), "{error}");
    assert!(error["hint"]["text"].is_string(), "{error}");
    assert!(run(&mut w.arcssh(&["last", "web01"])).clean().contains("agent-offline"));
    w.emulator().machine("web01").set_online(true);
    // The agent needs time to listen again.
    let is_echoed = || {
        let mut client = forwarder.connect();
        client.write_all(b"x").is_ok() && client.read_exact(&mut [0]).is_ok()
    };
    assert!(eventually(LIMIT, is_echoed), "{:?}", forwarder.stdout());
    drop(carried);
    assert!(run(&mut w.arcssh(&["last", "web01"])).clean().starts_with("no error is recorded"));
    forwarder.interrupt();
}

#[test]
fn a_client_that_leaves_before_the_dial_ends_cancels_it() {
    let w = lab(&["web01"]);
    let forwarder = Forwarder::json(&w, &["web01", &port_option(&w, echo())]);
    for (number, first) in [&b""[..], b"SSH-2.0-client\r\n", b"\x16\x03\x01\0\xc8"].into_iter().enumerate() {
        w.emulator().relay_fault(RelayFault::silent_handshake());
        let mut client = forwarder.connect();
        client.write_all(first).unwrap();
        let dialled = w.dialled().len();
        assert!(eventually(LIMIT, || w.dialled().len() > number), "{dialled}");
        drop(client);
        assert_eq!(forwarder.wait_for("closed", number + 1)[number]["reason"], "left");
        assert!(eventually(LIMIT, || w.emulator().abandoned_dials() == number + 1));
    }
    // Such a client still waits for the response.
    w.emulator().relay_fault(RelayFault::slow_handshake(Duration::from_millis(500)));
    let mut client = forwarder.connect();
    client.write_all(b"hello").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let mut received = String::new();
    client.read_to_string(&mut received).unwrap();
    assert_eq!(received, "hello");
    forwarder.interrupt();
}

/// The resident memory of a process, in KiB (proc_pid_status(5)).
#[cfg(target_os = "linux")]
fn resident(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// The service sends as fast as it can, and counts what it could send.
#[test]
#[cfg(target_os = "linux")]
fn a_client_that_does_not_read_stops_the_machine() {
    use std::sync::atomic::{AtomicU64, Ordering};
    static SENT: AtomicU64 = AtomicU64::new(0);
    let w = lab(&["web01"]);
    let flood = service(|mut connection| {
        while connection.write_all(&[0; 1 << 16]).is_ok() {
            SENT.fetch_add(1 << 16, Ordering::SeqCst);
        }
    });
    let forwarder = Forwarder::json(&w, &["web01", &port_option(&w, flood)]);
    let before = resident(forwarder.arcssh.id());
    let client = forwarder.connect();
    let mut last = 0;
    let has_stopped = || {
        let sent = SENT.load(Ordering::SeqCst);
        let has_stopped = sent > 0 && sent == last;
        last = sent;
        thread::park_timeout(Duration::from_millis(500));
        has_stopped
    };
    let mut has_stopped = has_stopped;
    let stopped = (0..100).any(|_| has_stopped());
    assert!(stopped, "{} bytes were sent to a client that does not read", SENT.load(Ordering::SeqCst));
    let grown = resident(forwarder.arcssh.id()).saturating_sub(before);
    assert!(grown < 8 * 1024, "{grown} KiB more");
    drop(client);
    forwarder.wait_for("closed", 1);
    forwarder.interrupt();
}

#[test]
fn credentials_are_refreshed_without_a_connection() {
    let w =
        lab_with(&["web01"], |builder| builder.credential_lifetime(Duration::from_secs(60)).strict_expiry());
    let forwarder = Forwarder::json(&w, &["web01", &port_option(&w, echo())]);
    let issued = || w.emulator().machine("web01").issued_credentials().len();
    assert!(eventually(LIMIT, || issued() > 1), "{} credentials", issued());
    drop(connected(forwarder.connect()));
    forwarder.interrupt();
}

#[test]
fn the_forward_ends_with_its_command() {
    let w = lab(&["web01", "db01"]);
    let user = crate::consumers::user();
    let option = sshd_port(&w);
    w.emulator().machine("db01").set_ssh_port(w.sshd().port());
    let exec =
        |command: &str| run(&mut w.arcssh(&["forward", "web01", "db01=./db01", &option, "--exec", command]));
    let ssh = format!(
        "ssh -F none -o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR \
         -i '{}' -l {user} -p {{port}} {{host}} 'echo reached; exit 7'",
        w.sshd().client_key().display()
    );
    let ended = exec(&ssh);
    assert_eq!((ended.code, ended.stdout.as_slice()), (Some(7), b"reached\n".as_slice()), "{}", ended.stderr);
    let values = exec(
        "echo {host} $ARCSSH_FORWARD_HOST {socket2} $ARCSSH_FORWARD_SOCKET2 {port2} ${port}; \
         test {port} = $ARCSSH_FORWARD_PORT && test {port1} = {port} && test -S {socket2}",
    );
    assert_eq!(values.clean(), "127.0.0.1 127.0.0.1 ./db01 ./db01 {port2}\n");
    assert_eq!(exec("kill -TERM $$").code, Some(143));
    assert_eq!(exec("no-such-program").code, Some(127));
    assert!(!w.home().join("db01").exists());
}

#[test]
fn a_command_gets_ctrl_c_and_other_signals_reach_it() {
    let w = lab(&["web01"]);
    let command = r#"trap 'echo interrupted' INT; : >reached; read answer; echo "answer $answer""#;
    fs::write(w.home().join("command"), command).unwrap();
    let words = format!("exec {ARCSSH} forward web01 --exec '. ./command'");
    let terminal = Terminal::open(w.command("script"), &words);
    assert!(eventually(LIMIT, || w.home().join("reached").exists()), "{}", terminal.shown());
    terminal.type_keys(b"\x03");
    assert!(eventually(LIMIT, || terminal.shown().contains("interrupted")), "{}", terminal.shown());
    terminal.type_keys(b"yes\n");
    let (status, screen) = terminal.wait();
    assert_eq!(status, Some(0), "{screen}");
    assert!(screen.contains("answer"), "{screen}");

    let command = "trap 'echo terminated; exit 3' TERM; : >again; while :; do sleep 0.1; done";
    let forwarder = Forwarder::start(w.arcssh(&["forward", "web01", "--exec", command]));
    assert!(eventually(LIMIT, || w.home().join("again").exists()));
    let (status, ended) = forwarder.end("TERM");
    assert_eq!((status, ended.stdout()), (Some(3), vec!["terminated".to_owned()]));

    // No program of the shell remains, as the lab checks.
    for (name, status) in [("TERM", 143), ("INT", 130)] {
        let command = format!(": >{name}; tail -f /dev/null; true");
        let forwarder = Forwarder::start(w.arcssh(&["forward", "web01", "--exec", &command]));
        assert!(eventually(LIMIT, || w.home().join(name).exists()));
        assert_eq!(forwarder.end(name).0, Some(status), "{name}");
        assert!(eventually(LIMIT, || w.survivors().is_empty()), "{:?}", w.survivors());
    }
}

#[test]
fn a_terminal_shows_a_line_for_each_connection_and_the_totals() {
    let w = lab(&["web01"]);
    let option = port_option(&w, echo());
    let port = free_port();
    let words = format!("stty cols 120; exec {ARCSSH} forward web01={port} {option} --wait 0");
    let terminal = Terminal::open(w.command("script"), &words);
    let shows =
        |text: &str| assert!(eventually(LIMIT, || terminal.shown().contains(text)), "{}", terminal.shown());
    let ipv6 = if crate::support::has_ipv6() { format!(" and [::1]:{port}") } else { String::new() };
    let listens = port_option(&w, option.trim_start_matches("--port=").parse().unwrap());
    shows(&format!("web01:{} at 127.0.0.1:{port}{ipv6}\n", listens.trim_start_matches("--port=")));
    shows(&format!("arcssh: hint: to stop, press Ctrl-C; to connect, run: ssh -p {port} USER@127.0.0.1\n"));
    drop(connected(connect(port)));
    shows(": 1 bytes sent, 1 received, ");
    w.emulator().machine("web01").set_online(false);
    for _ in 0..2 {
        assert!(is_closed(&mut connect(port)));
    }
    let failed = "cannot connect to web01: the machine's Arc agent is not connected to the relay";
    assert!(eventually(LIMIT, || terminal.shown().matches(failed).count() == 2), "{}", terminal.shown());
    assert_eq!(terminal.shown().matches("arcssh: hint: ").count(), 2, "{}", terminal.shown());
    let (status, screen) = terminal.interrupt();
    assert_eq!(
        (status, screen.as_str()),
        (Some(130), "^C\narcssh: 3 connections, 2 failed; 1 bytes sent, 1 received\n")
    );
}

/// The pipe is full, so arcssh waits in its first output.
#[test]
#[cfg(target_os = "linux")]
fn a_signal_during_the_first_output_ends_the_forwarder() {
    let w = lab(&["web01"]);
    for (name, status) in [("INT", 130), ("TERM", 143), ("HUP", 129)] {
        let (mut reader, mut writer) = std::io::pipe().unwrap();
        writer.write_all(&vec![0; rustix::pipe::fcntl_getpipe_size(&writer).unwrap()]).unwrap();
        let mut command = w.arcssh(&["forward", "--json", "web01"]);
        let mut arcssh = command.stdin(Stdio::null()).stdout(writer).spawn().unwrap();
        drop(command); // holds a copy of the pipe
        wait_until_unchanged(|| times_scheduled(arcssh.id()));
        signal(arcssh.id(), name);
        wait_until_unchanged(|| times_scheduled(arcssh.id()));
        let reading = thread::spawn(move || std::io::copy(&mut reader, &mut std::io::sink()));
        assert_eq!(ended(&mut arcssh).code(), Some(status), "{name}");
        reading.join().unwrap().unwrap();
    }
}

#[test]
fn signals_end_all_connections() {
    for (name, status) in [("INT", 130), ("TERM", 143), ("HUP", 129)] {
        let w = lab(&["web01"]);
        let forwarder = Forwarder::json(&w, &["web01=./socket", "web01", &port_option(&w, echo())]);
        let mut client = connect(forwarder.port(1));
        client = connected(client);
        // This one is still dialling.
        w.emulator().relay_fault(RelayFault::silent_handshake());
        let mut dialling = connect(forwarder.port(1));
        assert!(eventually(LIMIT, || w.dialled().len() == 2));
        let (ended, forwarder) = forwarder.end(name);
        assert_eq!(ended, Some(status), "{:?}", forwarder.stderr());
        assert!(is_closed(&mut client) && is_closed(&mut dialling));
        let reasons: Vec<Value> =
            forwarder.events("closed").iter().map(|event| event["reason"].clone()).collect();
        assert_eq!(json!(reasons), json!(["stopped", "stopped"]));
        assert!(!w.home().join("socket").exists());
    }
}

/// The machine closes its side while the client still sends, and the client reads slowly.
#[test]
fn a_client_that_still_sends_receives_everything() {
    const SIZE: usize = 4 << 20;
    let w = lab(&["web01"]);
    let port = service(|mut connection| {
        let _ = connection.write_all(&vec![7; SIZE]);
        let _ = connection.shutdown(Shutdown::Write);
        let _ = std::io::copy(&mut connection, &mut std::io::sink());
    });
    let forwarder = Forwarder::json(&w, &["web01", &port_option(&w, port)]);
    let mut client = forwarder.connect();
    let mut output = client.try_clone().unwrap();
    let sender = thread::spawn(move || while output.write_all(&[1; 4096]).is_ok() {});
    let (mut received, mut buffer) = (0, [0; 16 << 10]);
    loop {
        match client.read(&mut buffer).unwrap() {
            0 => break,
            count => received += count,
        }
        thread::yield_now();
    }
    assert_eq!(received, SIZE);
    drop(client.shutdown(Shutdown::Both));
    sender.join().unwrap();
    forwarder.wait_for("closed", 1);
    forwarder.interrupt();
}

#[test]
fn the_port_survives_a_lost_network() {
    let w = lab(&["web01"]);
    let option = port_option(&w, echo());
    let network = crate::proxies::Tinyproxy::start(&w, "");
    let port = network.port;
    let mut command = w.arcssh(&["forward", "--json", "web01", &option]);
    command.env("HTTPS_PROXY", format!("http://127.0.0.1:{port}"));
    let forwarder = Forwarder::start(command);
    forwarder.wait_for("listening", 1);
    let mut carried = connected(forwarder.connect());
    drop(network);
    assert!(is_closed(&mut carried));
    assert_eq!(forwarder.wait_for("error", 1)[0]["code"], "connection-lost");
    assert!(is_closed(&mut forwarder.connect()));
    assert_eq!(forwarder.wait_for("error", 2)[1]["code"], "proxy-unreachable");
    let _network = crate::proxies::Tinyproxy::start_at(&w, "127.0.0.1", port, "");
    drop(connected(forwarder.connect()));
    forwarder.interrupt();
}

#[test]
fn an_address_that_is_not_loopback_gets_a_warning() {
    let w = lab(&["web01"]);
    let warning = "arcssh: warning: other computers can connect to these ports too";
    let exec =
        |bind: &str| run(&mut w.arcssh(&["forward", "web01", "--bind", bind, "--exec", "echo {host}"]));
    let run = exec("0.0.0.0");
    assert_eq!((run.code, run.stdout.as_slice()), (Some(0), b"127.0.0.1\n".as_slice()), "{}", run.stderr);
    assert_eq!(run.arcssh_lines(), [warning]);
    assert_eq!(exec("127.0.0.2").clean(), "127.0.0.2\n");
    let words = ["forward", "web01=./s", "--bind", "0.0.0.0", "--exec", "echo {socket}"];
    assert_eq!(crate::support::run(&mut w.arcssh(&words)).clean(), "./s\n");
}
