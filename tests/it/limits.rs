//! The errors if the system denies file descriptors, threads, random numbers or root certificates.

use std::fs;
use std::io::Read as _;
use std::os::fd::AsFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;

use crate::sign_in::sign_in_without_browser;
use crate::support::{ARCSSH, Lab, Limited, Run, ended, lab, program_at, run};

const RAISE: &str = "arcssh: hint: raise the limit of file descriptors in this shell: ulimit -n 1024";
/// A user without privileges. Limits of processes do not apply to root (setrlimit(2)).
const UNPRIVILEGED: u32 = 65534;

/// Commands that use the network, files, or neither.
fn commands(w: &Lab) -> Vec<Vec<String>> {
    let id = w.id();
    let lines = [
        vec!["proxy", &id],
        vec!["list"],
        vec!["config", "--all"],
        vec!["doctor", "web01"],
        vec!["login"],
        vec!["version"],
        vec!["cache", "show"],
    ];
    lines.into_iter().map(|line| line.into_iter().map(str::to_owned).collect()).collect()
}

/// Runs `program` with limits of the shell.
fn with_limits(w: &Lab, limits: &str, program: &str, arguments: &[String]) -> Command {
    let mut shell = w.command("bash");
    shell.args(["-c", &format!("{limits} && exec \"$0\" \"$@\""), program]).args(arguments);
    shell
}

/// Asserts that the program exits with one error and one hint.
#[track_caller]
fn fails_with_hint(run: &Run, what: &str) {
    let lines: Vec<&str> = run.stderr.lines().collect();
    assert_eq!(run.code, Some(1), "{}", run.stderr);
    assert!(
        lines.len() == 2 && lines[0].starts_with(what) && lines[1].starts_with("arcssh: hint: "),
        "{lines:?}"
    );
    assert!(run.stdout.is_empty());
}

/// With three descriptors, the loader cannot open the C library.
#[test]
fn too_few_file_descriptors_are_reported_by_every_command() {
    let w = lab(&["web01"]);
    for command in commands(&w) {
        for limit in 4..=20 {
            let run = run(&mut with_limits(&w, &format!("ulimit -n {limit}"), ARCSSH, &command));
            let why = "arcssh: too few file descriptors are free: arcssh needs 24 (Too many open files (os error 24))";
            assert_eq!(run.stderr.lines().collect::<Vec<_>>(), [why, RAISE], "{command:?} {limit}");
            assert_eq!((run.code, run.stdout.len()), (Some(1), 0), "{command:?} {limit}");
        }
    }
}

#[test]
fn few_file_descriptors_cause_no_crash() {
    let w = lab(&["web01"]);
    for command in commands(&w).into_iter().filter(|command| command[0] != "login") {
        for limit in 24..=32 {
            let run = run(&mut with_limits(&w, &format!("ulimit -n {limit}"), ARCSSH, &command));
            assert!(run.code.is_some(), "{command:?} {limit}: {}", run.stderr);
            assert!(
                !run.stderr.contains("root certificates were found"),
                "{command:?} {limit}: {}",
                run.stderr
            );
        }
    }
}

/// A copy that all users can run.
fn shared_copy(w: &Lab) -> PathBuf {
    let folder = w.home().join("shared");
    fs::create_dir(&folder).unwrap();
    let program = folder.join("arcssh");
    program_at(&program, ARCSSH.as_ref());
    for path in [w.home(), &folder, &program] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    program
}

#[test]
fn a_denied_thread_is_reported_by_every_other_command() {
    let w = lab(&["web01"]);
    let program = shared_copy(&w);
    // Between two pipes, `arcssh proxy` needs no other thread.
    for command in commands(&w).into_iter().filter(|command| command[0] != "proxy") {
        let mut limited = with_limits(&w, "ulimit -u 0", program.to_str().unwrap(), &command);
        if rustix::process::geteuid().is_root() {
            limited.uid(UNPRIVILEGED).gid(UNPRIVILEGED);
        }
        fails_with_hint(
            &run(&mut limited),
            "arcssh: the system does not start a thread: Resource temporarily unavailable",
        );
    }
}

/// Between two pipes, as ssh runs it, arcssh resolves names and reads certificates on its only thread if it gets no other.
#[test]
#[cfg(target_os = "linux")]
fn a_proxy_command_works_without_another_thread() {
    let w = lab(&["web01"]);
    let program = shared_copy(&w);
    let relay_info = w.home().join("relay_info");
    fs::write(&relay_info, w.relay_info()).unwrap();
    let authority = w.home().join("shared/ca.pem");
    fs::copy(w.emulator().authority_file(), &authority).unwrap();
    for file in [&relay_info, &authority] {
        fs::set_permissions(file, fs::Permissions::from_mode(0o644)).unwrap();
    }
    let port = w.sshd().port().to_string();
    let arguments = ["proxy", "-r", relay_info.to_str().unwrap(), "-p", &port].map(str::to_owned);
    let mut limited = with_limits(&w, "ulimit -u 0", program.to_str().unwrap(), &arguments);
    if rustix::process::geteuid().is_root() {
        limited.uid(UNPRIVILEGED).gid(UNPRIVILEGED);
    }
    let (input, _open) = std::io::pipe().unwrap();
    let (banner, output) = std::io::pipe().unwrap();
    for pipe in [input.as_fd(), output.as_fd()] {
        rustix::fs::fchmod(pipe, rustix::fs::Mode::from_raw_mode(0o666)).unwrap();
    }
    let mut arcssh = limited.env("SSL_CERT_FILE", &authority).stdin(input).stdout(output).spawn().unwrap();
    drop(limited);
    let mut start = [0; 8];
    Limited(&banner).read_exact(&mut start).unwrap();
    assert_eq!(&start, b"SSH-2.0-");
    arcssh.kill().unwrap();
    ended(&mut arcssh);
}

/// A user whose only process is this one, so that the limit counts no other.
const SINGLE_PROCESS_USER: u32 = 54_321;

/// One thread resolves names, so with two there is none to start the browser.
#[test]
fn without_a_thread_for_the_browser_the_address_is_shown() {
    if !rustix::process::geteuid().is_root() {
        return; // only root can be another user
    }
    let w = lab(&["web01"]);
    let program = shared_copy(&w);
    let (state, authority) = (w.home().join("shared/state"), w.home().join("shared/ca.pem"));
    fs::create_dir(&state).unwrap();
    std::os::unix::fs::chown(&state, Some(SINGLE_PROCESS_USER), Some(SINGLE_PROCESS_USER)).unwrap();
    fs::copy(w.emulator().authority_file(), &authority).unwrap();
    fs::set_permissions(&authority, fs::Permissions::from_mode(0o644)).unwrap();
    let mut login = with_limits(&w, "ulimit -u 2", program.to_str().unwrap(), &["login".to_owned()]);
    login
        .uid(SINGLE_PROCESS_USER)
        .gid(SINGLE_PROCESS_USER)
        .env("ARCSSH_STATE_DIR", &state)
        .env("SSL_CERT_FILE", &authority);
    login.env_remove("SSL_CERT_DIR").env("ARCSSH_NO_KEYRING", "1").env("ARCSSH_CREDENTIAL", "arcssh");
    // Nor is there one for ssh, which knows whether the host entry of web01 uses the sign-in.
    let next = "to add your machines to the ssh configuration, run: arcssh config --all";
    sign_in_without_browser(&w, &mut login, next);
}

/// A filter of system calls (seccomp(2)) with which getrandom(2) fails.
const WITHOUT_GETRANDOM: &str = r#"
import ctypes, os, platform, struct, sys
number = {"x86_64": 318, "aarch64": 278}[platform.machine()]
error = int(sys.argv[1])
rules = [(0x20, 0, 0, 0), (0x15, 0, 1, number), (0x06, 0, 0, 0x00050000 | error), (0x06, 0, 0, 0x7fff0000)]
code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *rule) for rule in rules))
program = ctypes.create_string_buffer(struct.pack("HL", len(rules), ctypes.addressof(code)))
libc = ctypes.CDLL(None, use_errno=True)
if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, program, 0, 0):
    sys.exit("no filter: " + os.strerror(ctypes.get_errno()))
os.execv(sys.argv[2], sys.argv[2:])
"#;

#[test]
#[cfg(target_os = "linux")]
fn missing_random_numbers_are_reported_by_every_command() {
    const EAGAIN: &str = "11";
    const EPERM: &str = "1";
    let w = lab(&["web01"]);
    let denied = |error: &str, arguments: &[String]| {
        let mut python = w.command("python3");
        python.args(["-c", WITHOUT_GETRANDOM, error, ARCSSH]).args(arguments);
        run(&mut python)
    };
    for command in commands(&w) {
        fails_with_hint(&denied(EAGAIN, &command), "arcssh: the system does not provide random numbers");
    }
    // A sandbox may deny the call. arcssh then reads /dev/urandom.
    let run = denied(EPERM, &["list".to_owned()]);
    assert!(run.code == Some(0) || run.stderr.contains("does not provide random numbers"), "{}", run.stderr);
}

#[test]
fn unreadable_root_certificates_are_reported_with_the_reason() {
    let w = lab(&["web01"]);
    let path = |name: &str| w.home().join(name);
    run(w.command("mkfifo").arg(path("fifo"))).clean();
    fs::create_dir(path("directory")).unwrap();
    let cases = [
        (path("fifo"), "it is not a regular file"),
        (path("directory"), "it is not a regular file"),
        ("/dev/zero".into(), "it is not a regular file"),
        (path("missing"), "No such file or directory (os error 2)"),
    ];
    for (file, why) in cases {
        let run = run(w.arcssh(&["list"]).env("SSL_CERT_FILE", &file));
        let why = format!(
            "arcssh: cannot read the root certificates in {}: {why} (SSL_CERT_FILE names it)",
            file.display()
        );
        assert_eq!((run.code, run.arcssh_lines()[0]), (Some(6), &*why), "{}", run.stderr);
    }
    let empty = path("empty.pem");
    fs::write(&empty, "").unwrap();
    let run = run(w.arcssh(&["list"]).env("SSL_CERT_FILE", &empty));
    let why = format!(
        "arcssh: cannot read the root certificates in {}: it contains no certificate in PEM format (SSL_CERT_FILE names it)",
        empty.display()
    );
    let hint = "arcssh: hint: correct SSL_CERT_FILE, or remove it to trust only the system's certificates: unset SSL_CERT_FILE";
    assert_eq!(run.arcssh_lines(), [&*why, hint]);
}

#[test]
fn unreadable_root_certificates_are_reported_with_an_unknown_issuer() {
    let w = lab(&["web01"]);
    let directory = w.home().join("certificates");
    fs::create_dir(&directory).unwrap();
    let other = directory.join("other.pem");
    let subject = ["-subj", "/CN=other", "-days", "1", "-nodes", "-newkey", "rsa:2048"];
    let key = w.home().join("other.key");
    let mut openssl = w.command("openssl");
    openssl.args(["req", "-x509"]).args(subject).arg("-keyout").arg(key).arg("-out").arg(&other);
    assert_eq!(run(&mut openssl).code, Some(0));
    let missing = w.home().join("missing");
    let run = run(w
        .arcssh(&["list"])
        .env("SSL_CERT_FILE", &other)
        .env("SSL_CERT_DIR", format!("{}:{}", directory.display(), missing.display())));
    let line = run.arcssh_lines()[0];
    let missing = format!("(cannot read the root certificates in {}: No such file", missing.display());
    assert!(line.contains("does not trust") && line.contains(&missing), "{line}");
}
