//! The report of `arcssh doctor` on terminals of several widths and in a pipe, and what Ctrl-C leaves of it.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::doctor::{assert_fits, doctor, find, screen, visible, with_reason};
use crate::support::{
    ARCSSH, LIMIT, Lab, Limited, ended, eventually, finish, lab, on_a_terminal, run, script, signal,
};

#[test]
fn the_report_is_coloured_only_on_a_terminal() {
    let w = lab(&["web01"]);
    w.emulator().machine("web01").remove_service_configuration();
    let plain = run(&mut doctor(&w, &w.id(), &[]));
    let text = String::from_utf8(plain.stdout).unwrap();
    let failed = "FAIL  service configuration  SSH is not enabled on the machine";
    let end = format!(
        "skip  not checked, because 'service configuration' failed: relay, sshd, host key\n\n\
         Problem: SSH is not enabled on the machine\nFix: enable it:\n    arcssh setup rg-arc/web01 --port {}\n",
        w.sshd().port()
    );
    assert!(text.lines().any(|line| line == failed) && text.ends_with(&end), "{text}");
    assert!(!text.contains('\u{1b}') && !text.contains("checking "), "{text}");
    let command = format!(
        "{ARCSSH} doctor {} --port {} --file {}",
        w.id(),
        w.sshd().port(),
        w.configuration().display()
    );
    let shown = |variables: &str| {
        let command = format!("stty cols 100 rows 50; {variables} {command}");
        let (code, screen) = on_a_terminal(w.command("script"), &command);
        assert_eq!(code, Some(1));
        screen
    };
    let screen = shown("");
    assert!(screen.contains("\u{1b}[31mFAIL\u{1b}[0m  service configuration"), "{screen}");
    assert!(screen.contains("      checking "), "{screen}");
    for setting in ["NO_COLOR=1", "TERM=dumb", "CLICOLOR=0"] {
        let screen = shown(setting);
        assert!(screen.contains(failed) && !screen.contains("\u{1b}[31m"), "{setting}: {screen}");
        assert_eq!(screen.contains('\u{1b}'), setting != "TERM=dumb", "{screen}");
    }
}

#[test]
fn the_report_is_wrapped_at_words_under_its_own_column() {
    let w = lab(&["web01"]);
    w.emulator().machine("web01").remove_service_configuration();
    let (file, port) = (w.configuration().display().to_string(), w.sshd().port().to_string());
    let id = w.id();
    let words = [id.as_str(), "--file", &file, "--port", &port];
    let command = format!("    arcssh setup rg-arc/web01 --port {port}");
    let wide = [
        "FAIL  service configuration  SSH is not enabled on the machine",
        "skip  not checked, because 'service configuration' failed: relay, sshd, host key",
        "",
        "Problem: SSH is not enabled on the machine",
        "Fix: enable it:",
        &command,
    ];
    let medium = [
        "FAIL  service configuration  SSH is not enabled on the",
        "                             machine",
        "skip  not checked, because 'service configuration' failed:",
        "      relay, sshd, host key",
        "",
        "Problem: SSH is not enabled on the machine",
        "Fix: enable it:",
        &command,
    ];
    let narrow = [
        "FAIL  service configuration: SSH is not",
        "      enabled on the machine",
        "skip  not checked, because 'service",
        "      configuration' failed: relay,",
        "      sshd, host key",
        "",
        "Problem: SSH is not enabled on the",
        "         machine",
        "Fix: enable it:",
        &command,
    ];
    for (columns, expected) in [(100, &wide[..]), (60, &medium[..]), (40, &narrow[..])] {
        let screen = screen(&w, columns, &words, |_| {});
        assert_fits(&screen, columns);
        let at = screen.iter().position(|line| *line == expected[0]).unwrap_or_else(|| panic!("{screen:#?}"));
        let failed = expected.iter().position(|line| line.starts_with("skip")).unwrap();
        assert_eq!(screen[at..at + failed], expected[..failed], "{screen:#?}");
        assert_eq!(screen[screen.len() - (expected.len() - failed)..], expected[failed..], "{screen:#?}");
    }
}

#[test]
fn hostile_names_neither_control_the_terminal_nor_exceed_its_width() {
    let w = lab(&["web01"]);
    let status = "机器\u{1b}[2J状态\u{9b}1A ".repeat(12) + &"机".repeat(50) + "\u{202e}";
    w.emulator().machine("web01").set_status(&status);
    let (file, port) = (w.configuration().display().to_string(), w.sshd().port().to_string());
    for columns in [100, 60, 40, 9] {
        let screen = screen(&w, columns, &["web01", "--file", &file, "--port", &port], |_| {});
        assert_fits(&screen, columns.max(14));
        assert!(screen.concat().contains("机器") && !screen.concat().contains('\u{202e}'), "{screen:#?}");
    }
}

#[test]
fn a_report_without_a_problem_ends_with_a_command_that_works() {
    let w = lab(&["web01"]);
    let last_command = |words: &[&str]| {
        let report = run(w.arcssh(&["doctor"]).args(words)).clean();
        let (_, end) = report.split_once("\n\n").unwrap();
        let (text, command) = end.split_once('\n').unwrap();
        let text = text.split_once(". ").unwrap_or_else(|| panic!("{end}"));
        let command = command.strip_prefix("    ").unwrap().trim_end();
        (text.0.to_owned(), text.1.to_owned(), command.to_owned())
    };
    let (file, port) = (w.configuration().display().to_string(), w.sshd().port().to_string());
    let runs = |command: &str| run(w.command("sh").args(["-c", command])).clean();
    let id = w.id();
    for target in ["web01", "rg-arc/web01", &id] {
        let (found, text, command) = last_command(&[target, "--file", &file]);
        assert_eq!((found.as_str(), text.as_str()), ("No problem found", "To connect, run:"));
        assert_eq!(command, format!("ssh -F {file} web01"));
        assert_eq!(runs(&format!("{command} echo reached")), "reached\n");
    }
    // The host entry of another port works with the enabled port.
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace(&format!("Port {port}"), "Port 9")).unwrap();
    let (.., command) = last_command(&["web01", "--file", &file, "--port", &port]);
    assert_eq!(command, format!("ssh -F {file} -p {port} web01"));
    assert_eq!(runs(&format!("{command} echo reached")), "reached\n");
    fs::write(&file, text).unwrap();
    // Without a host entry, the command writes one.
    let (_, text, command) = last_command(&["web01", "--file", "own.conf", "--credential", "environment"]);
    assert_eq!(text, "To write a host entry for ssh, run:");
    assert_eq!(
        command,
        format!("arcssh config web01 --port {port} --file own.conf --credential environment")
    );
    let written = run(w.command("sh").args(["-c", &command.replacen("arcssh", ARCSSH, 1)]));
    assert_eq!(written.code, Some(0), "{}", written.stderr);
    // No other configuration includes that file.
    let (found, _, command) = last_command(&["web01", "--file", "own.conf"]);
    assert_eq!(
        (found.as_str(), command.as_str()),
        ("No check failed; 1 has a warning", "ssh -F own.conf web01")
    );
    let (found, text, command) = last_command(&[]);
    assert_eq!((found.as_str(), text.as_str()), ("No problem found", "To list your machines, run:"));
    assert_eq!(command, "arcssh list");
}

/// An `az` that writes a file and then hangs.
fn with_hanging_az(w: &Lab, command: &mut Command) {
    script(&w.home().join("bin"), "az", "#!/bin/sh\n: > \"$HOME/started\"\nexec sleep 1000\n");
    command.env("PATH", format!("{}:/usr/bin:/bin", w.home().join("bin").display()));
    command.env("ARCSSH_CREDENTIAL", "azure-cli");
}

/// The checks that wait for the sign-in.
const WAITING: &str = "identity, clock, subscription, resource provider, machine, agent version, agent configuration, operating system, region, private link, permissions, endpoint, service configuration, entra login, relay, sshd, host key";

#[test]
fn each_check_is_printed_as_soon_as_it_has_a_result() {
    let w = lab(&["web01"]);
    let mut doctor = doctor(&w, "web01", &[]);
    with_hanging_az(&w, &mut doctor);
    let mut doctor = doctor.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(Limited(doctor.stdout.take().unwrap())).lines().map(Result::unwrap);
    let first: Vec<String> = lines.by_ref().take(6).collect();
    let names = ["ssh ", "ssh-keygen ", "shell ", "cloud ", "proxy ", "root certificates "];
    assert!(
        first.iter().zip(names).all(|(line, name)| line.starts_with(&format!("ok    {name}"))),
        "{first:#?}"
    );
    signal(doctor.id(), "INT");
    let rest: Vec<String> = lines.collect();
    assert_eq!(ended(&mut doctor).code(), Some(130));
    let names: Vec<&str> = rest.iter().filter_map(|line| line.get(6..)?.split("  ").next()).collect();
    let [known @ .., last] = &rest[..] else { panic!("{rest:#?}") };
    assert!(known.iter().all(|line| !line.contains("not checked")), "{rest:#?}");
    assert!(
        last.starts_with("skip  not checked, because arcssh was interrupted: identity, clock, "),
        "{rest:#?}"
    );
    assert!(names.len() == rest.len() && names.contains(&"state directory"), "{rest:#?}");
}

/// Runs doctor on a wide terminal and types Ctrl-C when the terminal has shown this text. Returns the exit status and the
/// screen.
fn interrupt(w: &Lab, words: &str, when: &str, change: impl Fn(&mut Command)) -> (Option<i32>, Vec<String>) {
    let mut script = w.command("/usr/bin/script");
    change(&mut script);
    let command = format!("stty cols 400 rows 50; exec {ARCSSH} doctor {words}");
    match cfg!(target_os = "linux") {
        true => script.args(["-qefc", &command, "/dev/null"]),
        false => script.args(["-q", "/dev/null", "sh", "-c", &command]),
    };
    script.env("TERM", "xterm").stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut script = script.spawn().unwrap();
    let (mut output, mut seen) = (Limited(script.stdout.take().unwrap()), Vec::new());
    while !String::from_utf8_lossy(&seen).contains(when) {
        let mut bytes = [0; 4096];
        let read = output.read(&mut bytes).unwrap();
        assert!(read > 0, "{}", String::from_utf8_lossy(&seen));
        seen.extend_from_slice(&bytes[..read]);
    }
    script.stdin.as_ref().unwrap().write_all(b"\x03").unwrap();
    output.read_to_end(&mut seen).unwrap();
    (ended(&mut script).code(), visible(&String::from_utf8(seen).unwrap()))
}

#[test]
fn after_ctrl_c_a_terminal_shows_the_checks_that_were_made() {
    let w = lab(&["web01"]);
    // The other checks of this computer have ended when only the sign-in, and those that wait for it, run.
    let waiting = format!("      checking {WAITING}; ");
    let (code, screen) = interrupt(&w, "web01 --file none", &waiting, |script| with_hanging_az(&w, script));
    assert_eq!(code, Some(130));
    assert!(
        screen[0].starts_with("ok    ssh  ") && screen.iter().any(|line| line.starts_with("ok    network  "))
    );
    let last = format!("skip  not checked, because arcssh was interrupted: {WAITING}");
    assert_eq!(screen.last(), Some(&last), "{screen:#?}");
}

#[test]
fn ctrl_c_at_the_question_of_fix_changes_nothing() {
    let w = lab(&["web01"]);
    w.emulator().machine("web01").remove_endpoint();
    let words = format!("web01 --fix --file {}", w.configuration().display());
    let (code, screen) = interrupt(&w, &words, "[y/N]", |_| {});
    assert_eq!(code, Some(130), "{screen:#?}");
    assert!(screen.contains(&"Problem: the machine has no connectivity endpoint".to_owned()), "{screen:#?}");
    assert!(!w.emulator().machine("web01").has_endpoint());
}

#[test]
fn an_interrupted_run_prints_json_and_is_not_ok() {
    let w = lab(&["web01"]);
    let mut doctor = doctor(&w, "web01", &["--json"]);
    with_hanging_az(&w, &mut doctor);
    for (name, status) in [("INT", 130), ("TERM", 143)] {
        let _ = fs::remove_file(w.home().join("started"));
        let child = doctor.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        assert!(eventually(LIMIT, || w.home().join("started").exists()));
        signal(child.id(), name);
        let run = finish(child);
        let report: Value = serde_json::from_slice(&run.stdout).unwrap();
        assert_eq!((run.code, &report["ok"]), (Some(status), &Value::Bool(false)));
        let interrupted = with_reason(&report, "interrupted");
        assert!(["identity", "relay", "host key"].iter().all(|name| interrupted.contains(&(*name).into())));
        assert_eq!(find(&report, "network")["outcome"], "passed");
    }
}
