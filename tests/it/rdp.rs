//! `arcssh rdp`: a tunnel for a remote desktop, with FreeRDP as the client and the server.

use std::cell::RefCell;
use std::fs;
use std::io::{Read, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::channel;
use std::thread;

use crate::config::Home;
use crate::interruption::Terminal;
use crate::ssh::User;
use crate::support::{
    ARCSSH, LIMIT, Limited, connect, ended, eventually, finish, free_port, lab, run, script, service, signal,
    skipped, terminal,
};

/// A program, by its name in version 2 or 3 of FreeRDP, if it is installed.
fn installed(names: [&'static str; 2]) -> Option<&'static str> {
    let name = names.into_iter().find(|name| which::which(name).is_ok());
    if name.is_none() {
        skipped(&format!("{} is not installed", names[0]));
    }
    name
}

fn freerdp() -> Option<&'static str> {
    installed(["xfreerdp", "xfreerdp3"])
}

fn rdp(home: &Home<'_>, words: &[&str]) -> Command {
    let mut command = home.command(ARCSSH);
    command.arg("rdp").args(words);
    command
}

fn place(home: &Home<'_>) -> PathBuf {
    home.file().parent().unwrap().parent().unwrap().to_owned()
}

/// A client that runs this script, in which `$1` is the .rdp file.
fn client(home: &Home<'_>, text: &str) -> String {
    script(&place(home), "client", &format!("#!/bin/sh\n{text}\n"));
    place(home).join("client").display().to_string()
}

/// The messages of arcssh: ssh prints a note of a new host key.
fn messages(stderr: &str) -> String {
    stderr.lines().filter(|line| line.starts_with("arcssh: ")).map(|line| format!("{line}\n")).collect()
}

#[test]
fn the_client_gets_a_private_file_with_the_address_of_the_tunnel() {
    let w = lab(&["web01"]);
    let user = User::new(&w);
    let port = service(|mut connection| connection.write_all(b"desktop").unwrap());
    let text = r#"stat -c %a "$1"; cat "$1"; echo "$1" >file; port=$(sed -n 's/full address:s:127.0.0.1:\([0-9]*\)\r/\1/p' "$1")
        exec python3 -c "import socket, sys; sys.stdout.write(socket.create_connection(('127.0.0.1', $port)).recv(7).decode()); sys.exit(23)""#;
    let client = client(&user.home, text);
    let to = port.to_string();
    let words = ["web01", "--rdp-port", &to, "--client", &client, "--rdp-user", "CORP\\ada"];
    let shown = run(&mut rdp(&user.home, &words));
    assert_eq!((shown.code, messages(&shown.stderr)), (Some(23), String::new()), "{}", shown.stderr);
    let text = String::from_utf8(shown.stdout).unwrap();
    let (address, rest) = text.split_once("\r\n").unwrap();
    assert!(address.starts_with("600\nfull address:s:127.0.0.1:"), "{text}");
    assert_eq!(rest, "username:s:CORP\\ada\r\ndesktop");
    let file = fs::read_to_string(place(&user.home).join("file")).unwrap();
    assert!(file.ends_with("/web01.rdp\n") && !Path::new(file.trim()).exists(), "{file}");
    // Another host in the machine's network, and a host entry.
    user.home.succeed(&["web01"]);
    let words = ["web01", "--gateway-to", "127.0.0.1", "--rdp-port", &to, "--client", &client];
    assert_eq!(run(&mut rdp(&user.home, &words)).code, Some(23));
}

/// A program that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// An X server, with the name of its display; `None` if it is not installed.
fn display(home: &Home<'_>) -> Option<(Running, String)> {
    if which::which("Xvfb").is_err() {
        skipped("Xvfb is not installed");
        return None;
    }
    let mut xvfb = home.command("Xvfb");
    xvfb.args(["-displayfd", "1", "-nolisten", "tcp", "-screen", "0", "640x480x24"]);
    let mut xvfb = xvfb.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let number = read_to(xvfb.stdout.as_mut().unwrap(), "\n");
    Some((Running(xvfb), format!(":{}", number.trim())))
}

/// Reads a stream up to a text.
fn read_to(stream: impl Read + AsFd, end: &str) -> String {
    let (mut stream, mut text) = (Limited(stream), Vec::new());
    while !text.ends_with(end.as_bytes()) {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&text)));
        text.push(byte[0]);
    }
    String::from_utf8(text).unwrap()
}

/// [MS-RDPBCGR] 2.2.1.1: a TPKT header (RFC 1006), and an X.224 Connection Request.
#[test]
fn the_connection_request_of_a_real_client_reaches_the_desktop() {
    let w = lab(&["web01"]);
    let user = User::new(&w);
    let Some((freerdp, (_xvfb, display))) = freerdp().zip(display(&user.home)) else { return };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = listener.local_addr().unwrap().port().to_string();
    let (sender, received) = channel();
    thread::spawn(move || {
        let mut first = [0; 6];
        listener.accept().unwrap().0.read_exact(&mut first).unwrap();
        sender.send(first).unwrap();
    });
    let client = client(&user.home, &format!("exec {freerdp} \"$1\" /cert:ignore /sec:tls /p:x"));
    let words = ["web01", "--rdp-port", &to, "--client", &client];
    let ended = run(rdp(&user.home, &words).env("DISPLAY", display));
    let [version, 0, 0, length, rest, kind] = received.recv_timeout(LIMIT).unwrap() else {
        panic!("no TPKT header")
    };
    assert_eq!((version, length - 5, kind), (3, rest, 0xe0));
    assert_ne!(ended.code, Some(0), "the desktop ended the connection");
}

#[test]
fn a_real_client_connects_to_a_real_desktop() {
    let w = lab(&["web01"]);
    let user = User::new(&w);
    let Some((freerdp, (_xvfb, display))) = freerdp().zip(display(&user.home)) else { return };
    let Some(shadow) = installed(["freerdp-shadow-cli", "freerdp-shadow-cli3"]) else { return };
    let port = free_port();
    let start = || {
        let mut server = user.home.command(shadow);
        server.args([&format!("/port:{port}"), "/bind-address:127.0.0.1", "/sec:tls"]);
        server.env("DISPLAY", &display).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Running(server.spawn().unwrap())
    };
    // The server ends if the display does not accept its connection yet.
    let server = RefCell::new(start());
    let listens = || {
        let mut server = server.borrow_mut();
        if server.0.try_wait().unwrap().is_some() {
            *server = start();
        }
        TcpStream::connect(("127.0.0.1", port)).is_ok()
    };
    assert!(eventually(LIMIT, listens));
    let port = port.to_string();
    let command = format!("exec {freerdp} \"$1\" /cert:ignore /sec:tls /p:x +auth-only");
    let client = client(&user.home, &command);
    let words = ["web01", "--rdp-port", &port, "--client", &client];
    let connected = run(rdp(&user.home, &words).env("DISPLAY", &display));
    assert_eq!(connected.code, Some(0), "{}", connected.stderr);
    // Without --client, arcssh finds it.
    let bin = place(&user.home).join("bin");
    script(&bin, "xfreerdp3", &format!("#!/bin/sh\nPATH=${{PATH#*:}} {command}\n"));
    let path = std::env::join_paths([bin].into_iter().chain(std::env::split_paths(w.path()))).unwrap();
    let mut found = rdp(&user.home, &["web01", "--rdp-port", &port]);
    let connected = run(found.env("PATH", path).env("DISPLAY", &display));
    assert_eq!(connected.code, Some(0), "{}", connected.stderr);
}

#[test]
fn a_file_for_another_client_is_written_and_a_signal_ends_the_tunnel() {
    let w = lab(&["web01"]);
    let user = User::new(&w);
    let port = service(|mut connection| connection.write_all(b"desktop").unwrap()).to_string();
    let file = place(&user.home).join("web01.rdp");
    for name in ["TERM", "INT"] {
        let mut command = rdp(&user.home, &["web01", "--rdp-port", &port, "--file", "web01.rdp"]);
        let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let shown = read_to(child.stderr.as_mut().unwrap(), "press Ctrl-C\n");
        let text = fs::read_to_string(&file).unwrap();
        let address = text.trim_end().strip_prefix("full address:s:").unwrap();
        let expected = format!(
            "arcssh: wrote web01.rdp\narcssh: the desktop of web01 is at {address}\narcssh: to close the tunnel, press Ctrl-C\n"
        );
        assert_eq!(messages(&shown), expected);
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        let address: SocketAddr = address.parse().unwrap();
        let mut greeting = [0; 7];
        connect(address.port()).read_exact(&mut greeting).unwrap();
        assert_eq!(&greeting, b"desktop");
        signal(child.id(), name);
        ended(&mut child);
        assert!(eventually(LIMIT, || TcpStream::connect(address).is_err()), "{name}");
    }
    fs::write(&file, "full address:s:win.example.com\r\n").unwrap();
    run(&mut rdp(&user.home, &["web01", "--file", "web01.rdp"])).failed(
        1,
        &[
            "arcssh: cannot overwrite web01.rdp: arcssh did not create it",
            "arcssh: hint: name another file with --file",
        ],
    );
    assert_eq!(fs::read_to_string(&file).unwrap(), "full address:s:win.example.com\r\n");
}

#[test]
fn ctrl_c_closes_the_tunnel_without_an_error() {
    let w = lab(&["web01"]);
    let user = User::new(&w);
    for _ in 0..6 {
        let words = format!("exec {ARCSSH} rdp web01 --file web01.rdp");
        let terminal = Terminal::open(user.home.command("script"), &words);
        let is_open = || terminal.shown().contains("press Ctrl-C\n");
        assert!(eventually(LIMIT, is_open), "{}", terminal.shown());
        let (status, screen) = terminal.interrupt();
        assert_eq!((status, screen.trim_end()), (Some(130), "^C"));
        assert!(eventually(LIMIT, || w.survivors().is_empty()), "{:?}", w.survivors());
    }
}

#[test]
fn without_a_client_the_address_is_shown() {
    let w = lab(&["web01"]);
    let user = User::new(&w);
    let bin = place(&user.home).join("bin");
    fs::create_dir(&bin).unwrap();
    for name in ["ssh", "mkdir"] {
        std::os::unix::fs::symlink(which::which(name).unwrap(), bin.join(name)).unwrap();
    }
    let mut command = rdp(&user.home, &["web01"]);
    let mut child = command.env("PATH", bin).stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let shown = messages(&read_to(child.stderr.as_mut().unwrap(), "press Ctrl-C\n"));
    assert!(shown.starts_with("arcssh: no client is installed: "), "{shown}");
    assert!(shown.contains("\narcssh: the desktop of web01 is at 127.0.0.1:"), "{shown}");
    signal(child.id(), "TERM");
    assert_eq!(ended(&mut child).code(), Some(143));
}

#[test]
fn a_section_for_all_hosts_does_not_change_the_tunnel() {
    let w = lab(&["web01"]);
    let user = User::new(&w);
    let port = service(|mut connection| connection.write_all(b"desktop").unwrap()).to_string();
    let text = r#"port=$(sed -n 's/full address:s:127.0.0.1:\([0-9]*\)\r/\1/p' "$1")
        exec python3 -c "import socket, sys; sys.exit(socket.create_connection(('127.0.0.1', $port)).recv(7) != b'desktop')""#;
    let client = client(&user.home, text);
    let config = user.home.text();
    for line in [
        "ForkAfterAuthentication yes",
        "ClearAllForwardings yes",
        "AddressFamily inet6",
        "RemoteCommand none-such\nRequestTTY force",
        "ControlMaster auto\nControlPersist 60\nControlPath ~/.ssh/%C",
        "PermitLocalCommand yes\nLocalCommand touch local",
        "SessionType default\nStdinNull no\nGatewayPorts yes",
    ] {
        fs::write(user.home.file(), format!("IgnoreUnknown *\n{line}\n{config}")).unwrap();
        let shown = run(&mut rdp(&user.home, &["web01", "--rdp-port", &port, "--client", &client]));
        assert_eq!(shown.code, Some(0), "{line}: {}", shown.stderr);
        assert!(eventually(LIMIT, || w.emulator().open_connections() == 0), "{line}");
    }
}

#[test]
fn the_line_of_a_forwarding_whose_port_is_in_use_is_named() {
    let w = lab(&["web01"]);
    let user = User::new(&w);
    let client = client(&user.home, "exit 23");
    let config = user.home.text();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (busy, free) = (listener.local_addr().unwrap().port(), free_port());
    let to = "localhost:22";
    for (lines, shown) in [
        (format!("LocalForward 127.0.0.1:{busy} {to}"), Some(("LocalForward", " line 2"))),
        (
            format!("LocalForward {free} {to}\nDynamicForward 127.0.0.1:{busy}"),
            Some(("DynamicForward", " line 3")),
        ),
        (format!("LocalForward {free} {to}\nLocalForward 127.0.0.1:{busy} {to}"), Some(("LocalForward", ""))),
        (format!("LocalForward {free} {to}\nDynamicForward {}", free_port()), None),
    ] {
        fs::write(user.home.file(), format!("Host web01.*\n{lines}\n{config}")).unwrap();
        let ended = run(&mut rdp(&user.home, &["web01", "--client", &client]));
        let Some((keyword, line)) = shown else {
            assert_eq!(ended.code, Some(23), "{}", ended.stderr);
            continue;
        };
        let file = user.home.file().display().to_string();
        let place = if line.is_empty() { "your ssh configuration".into() } else { file + line };
        let expected = format!(
            "arcssh: ssh ended, because another program uses the port of {keyword} [127.0.0.1]:{busy} in {place}\n\
            arcssh: hint: end that program, or remove the line of the forwarding\n"
        );
        assert_eq!((ended.code, messages(&ended.stderr)), (Some(1), expected), "{}", ended.stderr);
    }
}

/// A process that listens on the port first would get the user's password.
#[test]
fn the_client_connects_to_no_other_process() {
    let w = lab(&["web01"]);
    let user = User::new(&w);
    let client = client(&user.home, ": >started");
    let (port, ssh) = (free_port(), which::which("ssh").unwrap());
    let take = format!(
        "#!/bin/sh\ncase \"$*\" in *-NT*) exec python3 -c 'import socket, subprocess, sys; s = socket.create_server((\"127.0.0.1\", {port})); sys.exit(subprocess.call(sys.argv[1:]))' {ssh} \"$@\";; esac\nexec {ssh} \"$@\"\n",
        ssh = ssh.display()
    );
    let bin = place(&user.home).join("bin");
    script(&bin, "ssh", &take);
    let path = std::env::join_paths([bin].into_iter().chain(std::env::split_paths(w.path()))).unwrap();
    let local = port.to_string();
    let words = ["web01", "--local-port", &local, "--client", &client];
    let taken = run(rdp(&user.home, &words).env("PATH", path));
    assert_eq!(taken.code, Some(255), "{}", taken.stderr);
    assert!(taken.stderr.contains("Address already in use"), "{}", taken.stderr);
    assert!(!place(&user.home).join("started").exists());
    let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
    let taken = run(&mut rdp(&user.home, &words));
    let expected =
        format!("arcssh: cannot listen on 127.0.0.1:{port}: Address already in use (os error 98)\n");
    assert_eq!((taken.code, messages(&taken.stderr)), (Some(1), expected));
    drop(listener);
}

#[test]
fn wrong_input_is_an_error_before_a_connection() {
    let w = lab(&["web01"]);
    let user = User::new(&w);
    run(&mut rdp(&user.home, &["web01", "--client", "./none"])).failed(
        1,
        &["arcssh: the client ./none does not exist; name another client, or use --file instead of --client"],
    );
    run(&mut rdp(&user.home, &["web01", "--file", "a.rdp", "--rdp-user", "a\r\nalternate shell:s:calc"])).failed(
        1,
        &["arcssh: the user \"a\\r\\nalternate shell:s:calc\" cannot be in an .rdp file: it contains a control character"],
    );
    assert!(!place(&user.home).join("a.rdp").exists());
    assert_eq!(w.dialled(), Vec::<String>::new());
}

#[test]
fn the_question_about_the_host_key_is_answered_before_the_client_starts() {
    let w = lab(&["web01"]);
    let user = User::new(&w);
    let config =
        user.home.text().replace("StrictHostKeyChecking accept-new\n  ", "").replace("BatchMode yes", "");
    fs::write(user.home.file(), config).unwrap();
    let client = client(&user.home, "echo start''ed");
    let mut script =
        terminal(user.home.command("script"), &format!("'{ARCSSH}' rdp web01 --client '{client}'"));
    let mut script =
        script.env("TERM", "xterm").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let screen = read_to(script.stdout.as_mut().unwrap(), "(yes/no/[fingerprint])?");
    assert!(!screen.contains("started"), "{screen}");
    script.stdin.as_mut().unwrap().write_all(b"yes\n").unwrap();
    let ended = finish(script);
    assert_eq!(ended.code, Some(0));
    assert!(String::from_utf8_lossy(&ended.stdout).contains("started\r\n"), "{screen}");
}
