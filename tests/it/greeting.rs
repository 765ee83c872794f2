//! The machine's first bytes are no SSH identification: limits of a real sshd, TCP services of other protocols.
//!
//! The agent dials sshd from the machine itself, so OpenSSH 9.8 and later penalise all users for one.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use crate::support::{
    ARCSSH, LIMIT, Lab, Run, connect, eventually, free_port, lab, run, run_with_input, service, skipped,
};

const PENALTY: &str = "Not allowed at this time\r\n";

/// The sshd of OpenSSH 10, which is installed in the build directory once. `None` on a system without apt-get.
fn newer_sshd() -> Option<&'static Path> {
    static PROGRAM: OnceLock<Option<PathBuf>> = OnceLock::new();
    let install = || {
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("openssh-10");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/newer-openssh.sh");
        let installed = Command::new(script).arg(&directory).output().unwrap();
        match installed.status.code() {
            Some(0) => Some(directory.join("sshd")),
            Some(3) => None,
            _ => panic!("{}", String::from_utf8_lossy(&installed.stderr)),
        }
    };
    let program = PROGRAM.get_or_init(install).as_deref();
    if program.is_none() {
        skipped("there is no apt-get to fetch OpenSSH 10");
    }
    program
}

/// A listening sshd with the keys of the lab's own, on the port of web01.
struct Daemon {
    sshd: Child,
    port: u16,
    log: PathBuf,
}

impl Daemon {
    fn start(w: &Lab, program: &Path, settings: &str) -> Self {
        let keys = w.sshd().client_key().parent().unwrap().to_owned();
        let port = free_port();
        let log = w.home().join(format!("sshd-{port}.log"));
        let programs = program.parent().unwrap().display();
        let newer = if program.ends_with("openssh-10/sshd") {
            format!("SshdSessionPath {programs}/sshd-session\nSshdAuthPath {programs}/sshd-auth\n")
        } else {
            String::new()
        };
        let keys = keys.display();
        let configuration = format!(
            "ListenAddress 127.0.0.1\nPort {port}\nHostKey {keys}/host_key\nAuthorizedKeysFile {keys}/authorized_keys\n\
             StrictModes no\nUsePAM no\nPidFile none\nLogLevel VERBOSE\n{newer}{settings}\n"
        );
        let file = w.home().join("sshd_config");
        fs::write(&file, configuration).unwrap();
        let mut sshd = Command::new(program);
        sshd.args(["-D", "-E"]).arg(&log).arg("-f").arg(&file).stdin(Stdio::null());
        let daemon = Self { sshd: sshd.spawn().unwrap(), port, log };
        let listens = || daemon.log().contains("Server listening");
        assert!(eventually(LIMIT, listens), "{}", daemon.log());
        w.emulator().machine("web01").set_ssh_port(port);
        daemon
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The number of connections that sshd has accepted.
    fn connections(&self) -> usize {
        self.log().matches("Connection from ").count()
    }

    fn connect(&self) -> TcpStream {
        connect(self.port)
    }

    /// Reads the first line of a new connection from the address of the agent, and closes it.
    fn first_line(&self) -> String {
        let mut bytes = Vec::new();
        let mut stream = self.connect();
        while !bytes.ends_with(b"\n") {
            let mut byte = [0];
            if stream.read(&mut byte).unwrap_or(0) == 0 {
                break;
            }
            bytes.extend(byte);
        }
        String::from_utf8(bytes).unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.sshd.kill();
        let _ = self.sshd.wait();
    }
}

fn ssh(w: &Lab, port: u16, options: &[&str]) -> Run {
    let mut ssh = w.ssh();
    ssh.args(["-o", &format!("ProxyCommand={ARCSSH} proxy {} --port {port}", w.id())]);
    run(ssh.args(options).args(["web01", "echo reached"]))
}

/// Asserts that ssh, `arcssh last` and `arcssh doctor` show the reason, and the settings.
#[track_caller]
fn assert_explained(w: &Lab, port: u16, code: &str, reason: &str, fixes: &[&str]) {
    let failed = ssh(w, port, &["-v"]);
    let lines = failed.arcssh_lines();
    let [message, hint] = lines[..] else { panic!("{}", failed.stderr) };
    assert!(
        message.starts_with("arcssh: cannot connect to web01: ") && message.contains(reason),
        "{message}"
    );
    assert!(fixes.iter().all(|fix| hint.contains(fix)), "{hint}");
    let last = run(&mut w.arcssh(&["last", "web01"])).clean();
    assert!(last.contains(reason) && last.contains(code), "{last}");
    let doctor =
        run(&mut w.arcssh(&["doctor", &w.id(), "--port", &port.to_string(), "--json", "--file", "none"]));
    let report: serde_json::Value = serde_json::from_slice(&doctor.stdout).unwrap();
    let checks = report["checks"].as_array().unwrap();
    let check = checks.iter().find(|check| check["name"] == "sshd").unwrap_or_else(|| panic!("{report:#}"));
    assert_eq!((&check["code"], &check["outcome"]), (&code.into(), &"failed".into()), "{check:#}");
    assert!(check.to_string().contains(&reason.replace('"', "\\\"")), "{check:#}");
}

#[test]
fn penalties_of_a_newer_sshd_are_explained_with_the_setting_that_lifts_them() {
    let Some(program) = newer_sshd() else { return };
    let w = lab(&["web01"]);
    let daemon = Daemon::start(&w, program, "PerSourcePenalties noauth:60");
    assert_eq!(String::from_utf8(ssh(&w, daemon.port, &[]).stdout).unwrap(), "reached\n");
    let penalised = || daemon.first_line() == PENALTY;
    assert!(eventually(LIMIT, penalised), "{}", daemon.log());
    let fixes =
        ["PerSourcePenaltyExemptList 127.0.0.1,::1", "MaxStartups 100:30:200", "/etc/ssh/sshd_config"];
    let reason = "sshd rejects connections for now (\"Not allowed at this time\")";
    assert_explained(&w, daemon.port, "sshd-limited", reason, &fixes);
    let port = daemon.port.to_string();
    let keys = run(&mut w.arcssh(&["known-hosts", "web01", "--port", &port]));
    assert!(
        keys.stderr.contains("ssh received no host key: sshd rejects connections for now"),
        "{}",
        keys.stderr
    );
    drop(daemon);

    // The lines of the hint.
    let exempt = format!("PerSourcePenalties noauth:60\n{}\n{}", fixes[0], fixes[1]);
    let daemon = Daemon::start(&w, program, &exempt);
    assert!((0..5).all(|_| daemon.first_line().starts_with("SSH-2.0-OpenSSH_10")), "{}", daemon.log());
    assert_eq!(ssh(&w, daemon.port, &[]).clean(), "reached\n");
}

/// Debian 12's sshd says `Exceeded MaxStartups`, OpenSSH 10 `Not allowed at this time`.
#[test]
fn too_many_connections_at_once_are_explained() {
    let newer = newer_sshd().map(|program| (program, "\"Not allowed at this time\""));
    let own = Path::new("/usr/sbin/sshd");
    let version = run(Command::new(own).arg("-V")).stderr;
    let own_text =
        if version.starts_with("OpenSSH_9.2") { "\"Exceeded MaxStartups\"" } else { "sshd rejects" };
    for (program, text) in newer.into_iter().chain([(own, own_text)]) {
        let w = lab(&["web01"]);
        let daemon = Daemon::start(&w, program, "MaxStartups 1:100:1");
        let _waiting = daemon.connect();
        assert!(eventually(LIMIT, || daemon.connections() > 0), "{}", daemon.log());
        let reason = format!("sshd rejects connections for now ({text})");
        let reason = if text.starts_with('"') { &reason } else { text };
        assert_explained(&w, daemon.port, "sshd-limited", reason, &["MaxStartups 100:30:200"]);
    }
}

/// Each of these connections costs all users a second of penalty.
#[test]
fn commands_make_few_connections_that_do_not_log_in() {
    let Some(program) = newer_sshd() else { return };
    let w = lab(&["web01"]);
    let daemon = Daemon::start(&w, program, "");
    let port = daemon.port.to_string();
    let count = |arguments: &[&str], expected: usize| {
        let before = daemon.connections();
        let output = run(&mut w.arcssh(arguments));
        // A session may write to the log after its client has ended.
        eventually(LIMIT, || daemon.connections() - before >= expected);
        assert_eq!(daemon.connections() - before, expected, "{arguments:?}: {}", output.stderr);
    };
    count(&["warm", "web01", "--port", &port], 1);
    // This sshd has one host key.
    count(&["known-hosts", "web01", "--port", &port], 1);
    count(&["doctor", &w.id(), "--port", &port, "--file", "none"], 1);
    assert_eq!(daemon.first_line().get(..8), Some("SSH-2.0-"));
}

#[test]
fn services_of_other_protocols_are_named_and_ssh_receives_their_bytes() {
    let first = |bytes: &'static [u8]| move |mut stream: TcpStream| drop(stream.write_all(bytes));
    let cases = [
        (service(first(b"RFB 003.008\n")), "not-ssh", "not an SSH server: it uses VNC"),
        (service(first(b"220 mail.example ESMTP\r\n")), "not-ssh", "it sends \"220 mail.example ESMTP\""),
        (service(first(&[0x15, 3, 1, 0, 2, 2, 70])), "not-ssh", "it uses TLS"),
        (service(first(&[3, 0, 0, 19, 14, 0xd0])), "not-ssh", "it uses Remote Desktop"),
        (
            service(first(b"HTTP/1.1 400 Bad Request\r\n\r\n")),
            "not-ssh",
            "web server (\"HTTP/1.1 400 Bad Request\")",
        ),
        (service(first(b"SSH-1.5-old\r\n")), "not-ssh", "speaks SSH 1.5, which OpenSSH does not support"),
        (
            service(first(b"SSH-2.0-Open")),
            "sshd-closed",
            "the beginning of an identification (\"SSH-2.0-Open\")",
        ),
        (
            service(first(b"You are not welcome to use sshd from 127.0.0.1.\r\n")),
            "not-ssh",
            "it sends \"You are not welcome to use sshd from 127.0.0.1.\"",
        ),
        (service(first(b"")), "sshd-closed", "closes each connection without a byte"),
    ];
    for (port, code, reason) in cases {
        let w = lab(&["web01"]);
        w.emulator().machine("web01").set_ssh_port(port);
        assert_explained(&w, port, code, reason, &["on"]);
    }
    let w = lab(&["web01"]);
    let port = service(first(b"hello\r\nFTP\r\n"));
    w.emulator().machine("web01").set_ssh_port(port);
    let verbose = ssh(&w, port, &["-v"]).stderr;
    assert!(verbose.contains("banner line 0: hello") && verbose.contains("banner line 1: FTP"), "{verbose}");
}

/// Python's web server answers ssh as most web servers do.
#[test]
fn a_web_server_on_the_port_is_named() {
    let w = lab(&["web01"]);
    let port = free_port();
    let mut python = Command::new("python3");
    python.args(["-m", "http.server", "--bind", "127.0.0.1", &port.to_string()]).current_dir(w.home());
    let mut python = python.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    assert!(eventually(LIMIT, || TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok()));
    w.emulator().machine("web01").set_ssh_port(port);
    let failed = ssh(&w, port, &[]);
    let _ = python.kill();
    let _ = python.wait();
    assert!(failed.stderr.contains("is not an SSH server: it is a web server (\""), "{}", failed.stderr);
}

/// Clients of other protocols use arcssh as well.
#[test]
fn a_client_that_is_not_ssh_gets_all_bytes_and_no_error() {
    let w = lab(&["web01"]);
    let port = service(|mut stream| {
        let _ = stream.read(&mut [0; 64]);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\nbody");
    });
    let output = run_with_input(&mut w.proxy_to(port), b"GET / HTTP/1.1\r\n\r\n".to_vec());
    assert_eq!(output.clean(), "HTTP/1.1 200 OK\r\n\r\nbody");
}
