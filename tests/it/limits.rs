//! What arcssh says when the system denies it file descriptors, threads, random numbers or root certificates.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::support::{ARCSSH, Lab, Run, lab, program_at, run};

const RAISE: &str = "arcssh: hint: raise the limit of file descriptors in this shell: ulimit -n 1024";
/// A user with no rights of its own, to whom limits of processes apply; they do not apply to root (setrlimit(2)).
const NOBODY: u32 = 65534;

/// The command lines that must all end in order; each needs the network, or a file, or neither.
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

/// `program` under limits of the shell.
fn under(w: &Lab, limits: &str, program: &str, arguments: &[String]) -> Command {
    let mut shell = w.command("bash");
    shell.args(["-c", &format!("{limits} && exec \"$0\" \"$@\""), program]).args(arguments);
    shell
}

/// Asserts that it said one thing and what to do about it, and was not killed.
#[track_caller]
fn told(run: &Run, what: &str) {
    let lines: Vec<&str> = run.stderr.lines().collect();
    assert_eq!(run.code, Some(1), "{}", run.stderr);
    assert!(
        lines.len() == 2 && lines[0].starts_with(what) && lines[1].starts_with("arcssh: hint: "),
        "{lines:?}"
    );
    assert!(run.stdout.is_empty());
}

/// With three the loader has none for the C library.
#[test]
fn too_few_file_descriptors_are_one_message_for_every_command() {
    let w = lab(&["web01"]);
    for command in commands(&w) {
        for limit in 4..=20 {
            let run = run(&mut under(&w, &format!("ulimit -n {limit}"), ARCSSH, &command));
            let why = "arcssh: arcssh needs 24 free file descriptors: Too many open files (os error 24)";
            assert_eq!(run.stderr.lines().collect::<Vec<_>>(), [why, RAISE], "{command:?} {limit}");
            assert_eq!((run.code, run.stdout.len()), (Some(1), 0), "{command:?} {limit}");
        }
    }
}

#[test]
fn a_limit_of_file_descriptors_that_is_just_enough_ends_in_no_crash() {
    let w = lab(&["web01"]);
    for command in commands(&w).into_iter().filter(|command| command[0] != "login") {
        for limit in 24..=32 {
            let run = run(&mut under(&w, &format!("ulimit -n {limit}"), ARCSSH, &command));
            assert!(run.code.is_some(), "{command:?} {limit}: {}", run.stderr);
            assert!(
                !run.stderr.contains("root certificates were found"),
                "{command:?} {limit}: {}",
                run.stderr
            );
        }
    }
}

/// A copy that any user can run.
fn copy_for_all(w: &Lab) -> PathBuf {
    let folder = w.home().join("for-all");
    fs::create_dir(&folder).unwrap();
    let program = folder.join("arcssh");
    program_at(&program, ARCSSH.as_ref());
    for path in [w.home(), &folder, &program] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    program
}

#[test]
fn no_thread_is_one_message_for_every_command() {
    let w = lab(&["web01"]);
    let program = copy_for_all(&w);
    for command in commands(&w) {
        let mut limited = under(&w, "ulimit -u 0", program.to_str().unwrap(), &command);
        if rustix::process::geteuid().is_root() {
            limited.uid(NOBODY).gid(NOBODY);
        }
        told(
            &run(&mut limited),
            "arcssh: the system does not start a thread: Resource temporarily unavailable",
        );
    }
}

/// A user of whom no other process counts against the limit.
const LONER: u32 = 54_321;

/// With two threads there is one for names, and none for the browser.
#[test]
fn no_thread_for_the_browser_leaves_the_address_to_the_user() {
    if !rustix::process::geteuid().is_root() {
        return; // only root can be another user
    }
    let w = lab(&["web01"]);
    let program = copy_for_all(&w);
    let (state, authority) = (w.home().join("for-all/state"), w.home().join("for-all/ca.pem"));
    fs::create_dir(&state).unwrap();
    std::os::unix::fs::chown(&state, Some(LONER), Some(LONER)).unwrap();
    fs::copy(w.emulator().authority_file(), &authority).unwrap();
    fs::set_permissions(&authority, fs::Permissions::from_mode(0o644)).unwrap();
    let mut login = under(&w, "ulimit -u 2", program.to_str().unwrap(), &["login".to_owned()]);
    login.uid(LONER).gid(LONER).env("ARCSSH_STATE_DIR", &state).env("SSL_CERT_FILE", &authority);
    login.env_remove("SSL_CERT_DIR").env("ARCSSH_NO_KEYRING", "1").env("ARCSSH_CREDENTIAL", "arcssh");
    let mut login = login.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(login.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert_eq!(lines.next().unwrap(), "arcssh: sign in in the browser, at the address:");
    let address = lines.next().unwrap();
    assert_eq!(
        lines.next().unwrap(),
        "arcssh: arcssh cannot open a browser here; to sign in on another device, run: arcssh login --device-code"
    );
    let address = address.strip_prefix("arcssh: ").unwrap();
    run(w.command("curl").args(["-sSL", "--cacert"]).arg(&authority).arg(address)).clean();
    assert!(lines.next().unwrap().starts_with("arcssh: signed in as "));
    assert_eq!(login.wait().unwrap().code(), Some(0));
}

/// A filter of system calls (seccomp(2)) that lets getrandom(2) fail with this error.
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
fn no_random_numbers_are_one_message_for_every_command() {
    const EAGAIN: &str = "11";
    const EPERM: &str = "1";
    let w = lab(&["web01"]);
    let denied = |error: &str, arguments: &[String]| {
        let mut python = w.command("python3");
        python.args(["-c", WITHOUT_GETRANDOM, error, ARCSSH]).args(arguments);
        run(&mut python)
    };
    for command in commands(&w) {
        told(&denied(EAGAIN, &command), "arcssh: the system does not provide random numbers");
    }
    // A sandbox that forbids the call leaves /dev/urandom.
    let run = denied(EPERM, &["list".to_owned()]);
    assert!(run.code == Some(0) || run.stderr.contains("does not provide random numbers"), "{}", run.stderr);
}

#[test]
fn root_certificates_that_cannot_be_read_are_named_with_the_reason() {
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
        let why = format!("arcssh: cannot read the root certificates in {}: {why}", file.display());
        assert_eq!((run.code, run.arcssh_lines()[0]), (Some(6), &*why), "{}", run.stderr);
    }
    let empty = path("empty.pem");
    fs::write(&empty, "").unwrap();
    let run = run(w.arcssh(&["list"]).env("SSL_CERT_FILE", &empty));
    assert!(run.stderr.starts_with("arcssh: no root certificates were found"), "{}", run.stderr);
}

#[test]
fn an_unreadable_part_of_the_root_certificates_is_told_with_an_unknown_authority() {
    let w = lab(&["web01"]);
    let directory = w.home().join("certificates");
    fs::create_dir(&directory).unwrap();
    let other = directory.join("other.pem");
    let subject = ["-subj", "/CN=other", "-days", "1", "-nodes", "-newkey", "rsa:2048"];
    let key = w.home().join("other.key");
    let mut openssl = w.command("openssl");
    openssl.args(["req", "-x509"]).args(subject).arg("-keyout").arg(key).arg("-out").arg(&other);
    assert_eq!(run(&mut openssl).code, Some(0));
    let run = run(w
        .arcssh(&["list"])
        .env("SSL_CERT_FILE", w.home().join("missing.pem"))
        .env("SSL_CERT_DIR", &directory));
    let missing = w.home().join("missing.pem").display().to_string();
    let line = run.arcssh_lines()[0];
    assert!(
        line.contains("does not trust")
            && line
                .contains(&format!("(arcssh cannot read the root certificates in {missing}: No such file")),
        "{line}"
    );
}
