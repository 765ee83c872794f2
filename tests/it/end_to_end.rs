//! The main use: the system's ssh, scp, sftp and rsync reach a machine that has no open port.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Stdio};
use std::thread;
use std::time::Duration;

use arcssh_emulator::Service;

use crate::support::{Lab, ended, eventually, finish, free_port, lab, noise, run, run_with_input};

const MIB: usize = 1 << 20;
/// Size of a large transfer.
const LARGE: usize = 256 * MIB;

#[test]
fn ssh_transfers_streams_and_exit_status() {
    let w = lab(&["web01"]);
    let run = run_with_input(w.ssh().args(["web01", "cat; echo problem >&2; exit 7"]), b"input\n".to_vec());
    assert_eq!(run.code, Some(7));
    assert_eq!(run.stdout, b"input\n");
    assert_eq!(run.stderr, "problem\n");
}

#[test]
fn connecting_changes_nothing_in_azure() {
    let w = lab(&["web01"]);
    assert_eq!(w.ssh_run(&["web01", "true"]).clean(), "");
    let arm: Vec<String> = w.emulator().requests_to(Service::Arm).iter().map(|r| r.method.clone()).collect();
    assert_eq!(arm, ["POST"], "only listCredentials");
    assert_eq!(w.emulator().requests_to(Service::Entra).len(), 1);
}

#[test]
fn an_interactive_session_has_a_terminal() {
    let w = lab(&["web01"]);
    let run =
        run_with_input(w.ssh().args(["-tt", "web01"]), b"tty; echo rows $((40 + 2)); exit 3\n".to_vec());
    let screen = String::from_utf8_lossy(&run.stdout).into_owned();
    assert!(screen.contains("/dev/pts/") && screen.contains("rows 42"), "{screen}");
    assert_eq!(run.code, Some(3));
}

#[test]
fn a_quarter_gigabyte_arrives_in_each_direction() {
    let w = lab(&["web01"]);
    let sum = large_file(&w, "large");
    let up = shell(&w, "$SSH web01 sha256sum < large");
    assert_eq!(up, format!("{sum}  -"));
    let down = shell(&w, "$SSH web01 cat $PWD/large | sha256sum");
    assert_eq!(down, format!("{sum}  -"));
}

#[test]
fn a_quarter_gigabyte_arrives_in_both_directions_at_once() {
    let w = lab(&["web01"]);
    let (sent, fetched) = (large_file(&w, "sent"), large_file(&w, "fetched"));
    let both = shell(
        &w,
        "$SSH web01 'exec 3<&0; sha256sum <&3 >'$PWD'/sum & cat '$PWD'/fetched; wait' < sent | sha256sum; cat sum",
    );
    assert_eq!(both, format!("{fetched}  -\n{sent}  -"));
}

#[test]
fn scp_copies_both_ways() {
    let w = lab(&["web01"]);
    let bytes = noise(3 * MIB);
    fs::write(w.home().join("file"), &bytes).unwrap();
    let home = w.home().display().to_string();
    let scp =
        |from: &str, to: &str| run(w.command("scp").args(["-q", "-F", ".ssh/config", from, to])).clean();
    scp("file", &format!("web01:{home}/copied"));
    scp(&format!("web01:{home}/copied"), "back");
    assert!(fs::read(w.home().join("back")).unwrap() == bytes);
    // The SCP protocol, which scp uses before OpenSSH 9.0 and with -O.
    run(w.command("scp").args(["-q", "-O", "-F", ".ssh/config", "file", &format!("web01:{home}/old")]))
        .clean();
    assert!(fs::read(w.home().join("old")).unwrap() == bytes);
}

#[test]
fn sftp_runs_a_batch() {
    let w = lab(&["web01"]);
    let bytes = noise(3 * MIB);
    fs::write(w.home().join("file"), &bytes).unwrap();
    let home = w.home().display();
    fs::write(w.home().join("batch"), format!("put file {home}/put\nget {home}/put got\nrm {home}/put\n"))
        .unwrap();
    run(w.command("sftp").args(["-q", "-F", ".ssh/config", "-b", "batch", "web01"])).clean();
    assert!(fs::read(w.home().join("got")).unwrap() == bytes);
    assert!(!w.home().join("put").exists());
}

#[test]
fn rsync_copies_both_ways() {
    let w = lab(&["web01"]);
    fs::create_dir_all(w.home().join("tree/sub")).unwrap();
    for n in 0..50 {
        fs::write(w.home().join(format!("tree/sub/{n}")), noise(40_000)).unwrap();
    }
    let home = w.home().display().to_string();
    let rsync = |from: &str, to: &str| {
        let shell = "ssh -F .ssh/config";
        run(w.command("rsync").args(["-a", "--delete", "--checksum", "-e", shell, from, to])).clean()
    };
    rsync("tree/", &format!("web01:{home}/copy/"));
    rsync(&format!("web01:{home}/copy/"), "back/");
    let difference = run(w.command("diff").args(["-r", "tree", "back"])).clean();
    assert_eq!(difference, "");
}

#[test]
fn a_local_port_is_forwarded() {
    let w = lab(&["web01"]);
    let (service, port) = (echo_service(), free_port());
    let forward = format!("127.0.0.1:{port}:127.0.0.1:{service}");
    let mut ssh =
        w.ssh().args(["-o", "ExitOnForwardFailure=yes", "-N", "-L", &forward, "web01"]).spawn().unwrap();
    assert_eq!(echo(port, b"through -L"), b"through -L");
    terminate(&mut ssh);
}

#[test]
fn a_socks_port_reaches_the_network_of_the_machine() {
    let w = lab(&["web01"]);
    let (service, port) = (echo_service(), free_port());
    let mut ssh = w.ssh().args(["-N", "-D", &format!("127.0.0.1:{port}"), "web01"]).spawn().unwrap();
    let mut socks = connect(port);
    // SOCKS5 (RFC 1928): no authentication; CONNECT to 127.0.0.1.
    socks.write_all(&[5, 1, 0]).unwrap();
    assert_eq!(read_exactly(&mut socks, 2), [5, 0]);
    socks.write_all(&[5, 1, 0, 1, 127, 0, 0, 1]).unwrap();
    socks.write_all(&service.to_be_bytes()).unwrap();
    assert_eq!(read_exactly(&mut socks, 10)[..2], [5, 0]);
    socks.write_all(b"through -D").unwrap();
    assert_eq!(read_exactly(&mut socks, 10), b"through -D");
    terminate(&mut ssh);
}

#[test]
fn the_agent_is_forwarded() {
    let w = lab(&["web01"]);
    // Debian's ssh-agent is set-group-ID, and such a program loads no library for LD_PRELOAD (ld.so(8)).
    let script = "eval $(env -u LD_PRELOAD ssh-agent -s) >/dev/null && trap 'env -u LD_PRELOAD ssh-agent -k >/dev/null' EXIT
        ssh-add -q server/client_key && ssh -F .ssh/config -A web01 ssh-add -l";
    let listed = shell(&w, script);
    assert!(listed.contains("ED25519"), "{listed}");
}

#[test]
fn a_jump_works_with_w_and_proxyjump() {
    let w = lab(&["web01", "web02"]);
    let inner = format!("127.0.0.1:{}", w.sshd().port());
    let greeting = run(w.ssh().args(["-W", &inner, "web01"])).stdout;
    assert!(greeting.starts_with(b"SSH-2.0-"), "{}", String::from_utf8_lossy(&greeting));

    let port = w.sshd().port().to_string();
    let key = w.sshd().client_key();
    let known_hosts = w.home().join(".ssh/known_hosts");
    let mut jump = w.ssh();
    jump.args(["-o", "HostKeyAlias=web02", "-o", &format!("UserKnownHostsFile={}", known_hosts.display())]);
    jump.args(["-J", "web01", "-p", &port, "-i"]).arg(key).args(["127.0.0.1", "echo inner"]);
    assert_eq!(run(&mut jump).clean(), "inner\n");
}

#[test]
fn sessions_share_one_connection_with_a_control_master() {
    let w = lab(&["web01"]);
    let control = ["-o", "ControlPath=.ssh/%C", "-o", "ControlPersist=60", "-o", "ControlMaster=auto"];
    for n in 0..5 {
        let run = run(w.ssh().args(control).args(["web01", &format!("echo {n}")]));
        assert_eq!((run.code, run.stdout), (Some(0), format!("{n}\n").into_bytes()));
    }
    assert_eq!(w.emulator().open_connections(), 1);
    run(w.ssh().args(control).args(["-O", "exit", "web01"]));
}

/// The reader of a pipe waits until ssh and arcssh have closed it.
#[test]
fn captured_output_of_an_ssh_in_the_background_ends() {
    let w = lab(&["web01"]);
    let (service, port) = (echo_service(), free_port());
    let background =
        format!("ssh -F .ssh/config -M -S ./c -f -N -L 127.0.0.1:{port}:127.0.0.1:{service} web01");
    let in_python =
        "import subprocess, sys\np = subprocess.run(sys.argv[1].split(), capture_output=True)\nprint(p)";
    let options = background.replace(" -f -N", " -o ForkAfterAuthentication=yes -N");
    let socket = "import socket, subprocess, sys\na, b = socket.socketpair()\nsubprocess.run(sys.argv[1].split(), stderr=b)\nb.close()\nprint(a.recv(1))";
    let runs = [
        ("bash", vec!["-c", r#"x=$($0 2>&1); echo "$?[$x]""#, &background], "0[]"),
        ("bash", vec!["-c", r#"x=$($0 2>&1); echo "$?[$x]""#, &options], "0[]"),
        ("python3", vec!["-c", in_python, &background], "returncode=0, stdout=b'', stderr=b'')"),
        ("python3", vec!["-c", socket, &background], "b''"),
    ];
    for (program, arguments, expected) in runs {
        let output = run(w.command(program).args(&arguments)).clean();
        assert!(output.trim_end().ends_with(expected), "{output}");
        assert_eq!(w.emulator().open_connections(), 1, "{program}: {arguments:?}");
        assert_eq!(echo(port, b"in the background"), b"in the background");
        run(w.ssh().args(["-S", "./c", "-O", "exit", "web01"]));
        assert!(eventually(Duration::from_secs(30), || w.emulator().open_connections() == 0));
    }
}

/// A script ends at Ctrl-C, and ansible-core 2.19 sends SIGTERM to the process group of a worker (executor/process/worker.py,
/// `_term`). ssh in the background is in no such group any more.
#[test]
fn a_signal_to_the_group_of_an_ended_job_does_not_end_a_connection_in_the_background() {
    let w = lab(&["web01"]);
    for options in [&["-o", "ControlMaster=auto", "-o", "ControlPersist=60"][..], &["-M", "-f", "-N"]] {
        let mut ssh = w.ssh();
        ssh.args(["-S", "./c"]).args(options).args(["web01", "true"]).stdin(Stdio::null());
        let mut job = ssh.process_group(0).spawn().unwrap();
        let group = rustix::process::Pid::from_raw(job.id().cast_signed()).unwrap();
        assert!(ended(&mut job).success());
        let is_empty = || rustix::process::test_kill_process_group(group).is_err();
        assert!(eventually(Duration::from_secs(30), is_empty), "{options:?}");
        assert_eq!(run(w.ssh().args(["-S", "./c", "web01", "echo reached"])).clean(), "reached\n");
        assert_eq!(w.emulator().open_connections(), 1);
        run(w.ssh().args(["-S", "./c", "-O", "exit", "web01"]));
        assert!(eventually(Duration::from_secs(30), || w.emulator().open_connections() == 0));
    }
}

#[test]
fn fifty_connections_work_at_once() {
    let w = lab(&["web01"]);
    let start = |n: usize| {
        let mut ssh = w.ssh();
        ssh.args(["web01", &format!("cat >/dev/null; echo {n}")]);
        ssh.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let mut all: Vec<_> = (0..50).map(start).collect();
    assert!(
        eventually(Duration::from_secs(60), || w.emulator().open_connections() == 50),
        "not all 50 connected"
    );
    let inputs: Vec<_> = all.iter_mut().map(|ssh| ssh.stdin.take()).collect();
    drop(inputs);
    for (n, ssh) in all.into_iter().enumerate() {
        // Some processes print a progress line on a busy machine.
        let run = finish(ssh);
        assert_eq!((run.code, run.stdout), (Some(0), format!("{n}\n").into_bytes()), "{}", run.stderr);
    }
}

/// Creates a file of random bytes in the lab's home directory. Returns its SHA-256.
fn large_file(w: &Lab, name: &str) -> String {
    let checksum = shell(w, &format!("head -c {LARGE} /dev/urandom | tee {name} | sha256sum"));
    checksum.split(' ').next().unwrap().to_owned()
}

/// Runs a script in the lab's home directory, with `$SSH` as ssh command.
#[track_caller]
fn shell(w: &Lab, script: &str) -> String {
    let mut bash = w.command("bash");
    bash.args(["-eu", "-o", "pipefail", "-c", script]).env("SSH", "ssh -F .ssh/config");
    run(&mut bash).clean().trim_end().to_owned()
}

/// A TCP service that sends back its input.
fn echo_service() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            thread::spawn(move || std::io::copy(&mut &connection, &mut &connection));
        }
    });
    port
}

/// Connects to a port of ssh's -L or -D. ssh cannot choose a free port and report it.
fn connect(port: u16) -> TcpStream {
    assert!(
        eventually(Duration::from_secs(30), || TcpStream::connect(("127.0.0.1", port)).is_ok()),
        "ssh does not listen"
    );
    crate::support::connect(port)
}

fn echo(port: u16, bytes: &[u8]) -> Vec<u8> {
    let mut connection = connect(port);
    connection.write_all(bytes).unwrap();
    read_exactly(&mut connection, bytes.len())
}

fn read_exactly(connection: &mut TcpStream, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    connection.read_exact(&mut bytes).unwrap();
    bytes
}

fn terminate(ssh: &mut Child) {
    crate::support::signal(ssh.id(), "TERM");
    ended(ssh);
}

#[test]
fn the_service_option_requests_another_service() {
    let w = lab(&["web01"]);
    let run = run(w.proxy("web01").args(["--service", "wac"]));
    assert_eq!(run.code, Some(5), "the machine has no service configuration for it: {}", run.stderr);
    let [request] = &w.emulator().requests_to(Service::Arm)[..] else { panic!("{}", run.stderr) };
    assert_eq!(request.body, r#"{"serviceName":"WAC"}"#);
}
