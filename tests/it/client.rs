//! `--ssh` and `ARCSSH_SSH` select the OpenSSH client that every command runs.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::support::{Lab, lab, run, script};

const HINT: &str =
    "arcssh: hint: name the ssh program of OpenSSH with --ssh or ARCSSH_SSH, or unset ARCSSH_SSH";

/// A directory with scripts that record their arguments and start ssh or ssh-keygen.
fn client(w: &Lab) -> PathBuf {
    let directory = w.home().join("open ssh");
    fs::create_dir(&directory).unwrap();
    for name in ["ssh", "ssh-keygen"] {
        let log = w.home().join("log");
        let text = format!("#!/bin/sh\necho {name} \"$@\" >> {}\nexec /usr/bin/{name} \"$@\"", log.display());
        script(&directory, name, &text);
    }
    directory
}

/// arcssh, if no ssh is in `PATH`.
fn without_ssh(w: &Lab, arguments: &[&str]) -> Command {
    let mut arcssh = w.arcssh(arguments);
    let empty = w.home().join("empty");
    let _ = fs::create_dir(&empty);
    arcssh.env("PATH", empty);
    arcssh
}

#[track_caller]
fn succeed(command: &mut Command) {
    let run = run(command);
    assert_eq!(run.code, Some(0), "{}", run.stderr);
}

/// The recorded command lines since the last call.
fn log(w: &Lab) -> String {
    let log = w.home().join("log");
    let text = fs::read_to_string(&log).unwrap_or_default();
    let _ = fs::remove_file(log);
    text
}

#[test]
fn every_command_runs_the_selected_client() {
    let w = lab(&["web01"]);
    let directory = client(&w);
    let [ssh, directory] = [directory.join("ssh"), directory].map(|path| path.to_str().unwrap().to_owned());
    let port = w.sshd().port().to_string();
    succeed(without_ssh(&w, &["config", "web01", "--port", &port]).env("ARCSSH_SSH", &ssh));
    assert!(log(&w).contains("ssh -G -F"), "arcssh config");
    succeed(&mut without_ssh(&w, &["config", "--verify", "--ssh", &directory]));
    assert!(log(&w).contains("ssh -G -- web01"), "arcssh config --verify");
    let doctor = run(without_ssh(&w, &["doctor", "web01", "--ssh", "open ssh/ssh"]).current_dir(w.home()));
    let report = String::from_utf8_lossy(&doctor.stdout).into_owned();
    assert!(report.contains(&format!(", {ssh}\n")) && report.contains("OpenSSH_"), "{report}");
    let log_of_doctor = log(&w);
    for arguments in ["ssh -V\n", "ssh -o BatchMode=yes", "ssh-keygen -l -f -\n"] {
        assert!(log_of_doctor.contains(arguments), "{arguments}: {log_of_doctor}");
    }
    let keys = run(without_ssh(&w, &["known-hosts", "web01", "--port", &port]).env("ARCSSH_SSH", &directory));
    assert!(String::from_utf8_lossy(&keys.stdout).contains("ssh-ed25519 AAAA"), "{keys:?}");
    assert!(log(&w).contains("ssh -F none -T"), "arcssh known-hosts");
    let version = run(&mut without_ssh(&w, &["version", "-v", "--ssh", &ssh])).clean();
    assert!(version.contains(&format!(", {ssh}\n")), "{version}");
}

#[test]
fn a_client_that_is_not_openssh_is_reported() {
    let w = lab(&["web01"]);
    succeed(&mut w.arcssh(&["config", "web01"]));
    script(w.home(), "dbclient", "#!/bin/sh\necho \"Dropbear v2022.83\" >&2");
    let path = w.home().join("dbclient").display().to_string();
    for (client, cause) in [
        ("/no/such/ssh", "does not exist"),
        ("no-such-ssh", "is not in PATH"),
        (&path, "is not OpenSSH: for -V, it prints \"Dropbear v2022.83\""),
    ] {
        let first = format!("arcssh: the ssh client {client} {cause}");
        for arguments in [&["config", "--verify"][..], &["config", "web01"], &["known-hosts", "web01"]] {
            let verified = run(w.arcssh(arguments).env("ARCSSH_SSH", client));
            assert_eq!((verified.code, verified.arcssh_lines()), (Some(1), vec![first.as_str(), HINT]));
        }
        let doctor = run(&mut w.arcssh(&["doctor", "web01", "--ssh", client]));
        let report = String::from_utf8_lossy(&doctor.stdout).into_owned();
        assert!(report.contains(&format!("Problem: the ssh client {client} {cause}")), "{report}");
        let is_blocked =
            |line: &str| line.contains("because 'ssh' failed: ") && line.ends_with("ssh configuration");
        assert!(report.lines().any(is_blocked), "{report}");
        assert_eq!(doctor.code, Some(1));
        let proxy = run(w.proxy("web01").env("ARCSSH_SSH", client));
        assert!(proxy.stdout.starts_with(b"SSH-2.0-"), "a connection runs no ssh: {proxy:?}");
    }
    succeed(w.arcssh(&["config", "--verify"]).env("ARCSSH_SSH", ""));
}
