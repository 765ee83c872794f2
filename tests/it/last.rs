//! Errors reach the user even if ssh discards standard error: one line on the terminal, and `arcssh last`.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;

use arcssh_emulator::{Machine, RelayFault, Role};

use crate::support::{ARCSSH, LIMIT, Lab, eventually, free_port, lab, lab_with, on_a_terminal, run, service};

const NOTHING: &str = "no error is recorded: a successful connection deletes the record\n";

fn last(w: &Lab, arguments: &[&str]) -> String {
    run(w.arcssh(&["last"]).args(arguments)).clean()
}

/// The value after a title in the output of `arcssh last`.
fn value<'a>(output: &'a str, title: &str) -> Option<&'a str> {
    let mut values = output.lines().filter_map(|line| line.strip_prefix(title)?.strip_prefix("  "));
    values.next().map(str::trim)
}

/// The first column of the table of the other machines with an error.
fn others(output: &str) -> Vec<String> {
    let table = output.split_once("\nOTHER MACHINE").map_or("", |(_, table)| table);
    table.lines().skip(1).map(|line| line.split(' ').next().unwrap().to_owned()).collect()
}

#[test]
fn an_error_is_explained_until_a_connection_succeeds() {
    let w = lab_with(&["web01"], |builder| builder.role(Role::None));
    assert_eq!(last(&w, &[]), NOTHING);
    let failed = run(&mut w.proxy("web01"));
    let output = last(&w, &[]);
    let lines = failed.arcssh_lines();
    assert_eq!(value(&output, "error"), lines[0].strip_prefix("arcssh: "));
    assert_eq!(value(&output, "hint"), lines[1].strip_prefix("arcssh: hint: "));
    assert_eq!(value(&output, "machine"), Some(w.id().as_str()));
    assert_eq!(value(&output, "code"), Some("access-denied"));
    assert_eq!(value(&output, "exit status"), Some("4"));
    assert!(value(&output, "time").unwrap().ends_with(" ago"), "{output}");
    assert!(value(&output, "request ID").unwrap().ends_with(" of Azure Resource Manager"), "{output}");
    assert_eq!(value(&output, "next"), Some("arcssh doctor rg-arc/web01"), "{output}");

    w.emulator().set_role(Role::LocalUserLogin);
    run(&mut w.arcssh(&["cache", "clear"])).clean();
    assert_eq!(last(&w, &[]), NOTHING, "cache clear deletes the error");
    w.emulator().machine("web01").set_online(false);
    run(w.proxy("web01").args(["--wait", "0"]));
    assert!(value(&last(&w, &["WEB01"]), "request ID").unwrap().ends_with(" of Azure Relay"));
    w.emulator().machine("web01").set_online(true);
    assert_eq!(w.ssh_run(&["web01", "echo reached"]).clean(), "reached\n");
    assert_eq!(last(&w, &[]), NOTHING, "a successful connection deletes the error");
}

#[test]
fn an_unusable_state_directory_is_reported() {
    let w = lab(&[]);
    let output = run(w.arcssh(&["last"]).env("ARCSSH_STATE_DIR", "/dev/null")).clean();
    assert_eq!(output, "there is no state directory: name a directory of yours in ARCSSH_STATE_DIR\n");
}

#[test]
fn a_connect_timeout_of_ssh_is_stored() {
    let w = lab(&["web01"]);
    w.emulator().machine("web01").set_online(false);
    // Ansible discards the standard error of a ProxyCommand.
    let proxy = format!("ProxyCommand={ARCSSH} proxy {} --port %p 2>/dev/null", w.id());
    let run = run(w.ssh().args(["-o", &proxy, "-o", "ConnectTimeout=2", "web01", "true"]));
    assert_eq!(run.code, Some(255));
    let stored = || last(&w, &["web01"]);
    assert!(eventually(LIMIT, || stored() != NOTHING.replace("recorded", "recorded for web01")));
    let output = stored();
    let what = value(&output, "error").unwrap();
    assert!(what.starts_with("cannot connect to web01: ssh stopped waiting after "), "{output}");
    assert!(what.contains(" s for the agent of web01, which is not connected yet"), "{output}");
    let port = w.sshd().port();
    let hint = format!("to fill the cache before you connect, run: arcssh warm rg-arc/web01 --port {port}");
    assert_eq!(value(&output, "hint"), Some(hint.as_str()));
    assert_eq!((value(&output, "code"), value(&output, "exit status")), (Some("hung-up"), Some("129")));
}

#[test]
fn each_machine_has_its_own_error_and_others_are_listed() {
    let w = lab_with(&["web01"], |builder| builder.machine(Machine::new("web02")));
    for machine in ["web01", "web02", "web01"] {
        w.emulator().machine(machine).set_online(false);
        run(w.proxy(machine).args(["--wait", "0"]));
    }
    let output = last(&w, &["web02"]);
    let what = value(&output, "error").unwrap();
    assert!(
        what.starts_with("cannot connect to web02: the machine's Arc agent is not connected"),
        "{output}"
    );
    assert_eq!(value(&output, "code"), Some("agent-offline"));
    assert_eq!(others(&output), Vec::<String>::new());
    let output = last(&w, &[]);
    let titles = output.lines().find(|line| line.starts_with("OTHER MACHINE")).unwrap();
    assert_eq!(titles.split("  ").filter(|title| !title.is_empty()).count(), 4, "{output}");
    assert!(["rg-arc/web01", "rg-arc/web02"].contains(&others(&output)[0].as_str()), "{output}");
    assert!(
        output.lines().last().unwrap().contains("  the machine's Arc agent is not connected"),
        "{output}"
    );
    assert_eq!(
        last(&w, &["db07"]),
        "no error is recorded for db07: a successful connection deletes the record\n"
    );
    assert_eq!(
        last(&w, &["wbe01"]),
        "no error is recorded for wbe01: a successful connection deletes the record; did you mean web01?\n"
    );
    for limit in [100, 60, 40] {
        let mut terminal = w.command("script");
        terminal.env("NO_COLOR", "1");
        let (_, screen) = on_a_terminal(terminal, &format!("stty cols {limit}; {ARCSSH} last"));
        let (_, table) = screen.split_once("\r\n\r\n").unwrap();
        assert!(table.lines().all(|line| line.trim_end().chars().count() <= limit), "{limit}: {screen}");
        assert!(
            table.contains(" ago") && table.ends_with("to see one of them: arcssh last MACHINE\r\n"),
            "{screen}"
        );
    }
}

#[test]
fn an_error_is_found_by_any_name_of_the_machine() {
    let w = lab_with(&["web01"], |builder| builder.role(Role::None));
    let section = format!("Host shop\n  ProxyCommand {ARCSSH} proxy {} --port %p\n", w.id());
    fs::write(w.configuration(), section).unwrap();
    for id in [w.id(), w.id().replace("rg-arc", "rg-b")] {
        assert_eq!(run(&mut w.arcssh(&["proxy", &id])).code, Some(4));
    }
    for name in ["shop", "web01.rg-arc", "RG-ARC/web01", &w.id()] {
        let output = last(&w, &[name]);
        assert_eq!(value(&output, "machine"), Some(w.id().as_str()), "{name}: {output}");
        assert_eq!(others(&output), Vec::<String>::new(), "{name}: {output}");
    }
    let output = last(&w, &["web01"]);
    let [other] = &others(&output)[..] else { panic!("{output}") };
    assert_eq!(others(&last(&w, &[other])), Vec::<String>::new(), "{output}");
}

#[test]
fn a_stored_error_is_private_and_contains_no_secret() {
    let w = lab_with(&["web01"], |builder| builder.role(Role::None));
    run(&mut w.proxy("web01"));
    let folder = fs::read_dir(w.home().join(".local/state/arcssh")).unwrap();
    let mut errors =
        folder.flatten().filter(|file| file.file_name().to_string_lossy().starts_with("failure-"));
    let error = errors.next().unwrap();
    assert_eq!(error.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let text = fs::read_to_string(error.path()).unwrap();
    assert!(w.emulator().secrets().iter().all(|secret| !text.contains(secret.as_str())), "{text}");
}

/// The terminal output of ssh with ControlPersist.
fn with_control_persist(w: &Lab, more: &str) -> String {
    let command = format!(
        "ssh -F .ssh/config -o ControlMaster=auto -o ControlPath={}/c -o ControlPersist=10 web01 true {more}",
        w.home().display()
    );
    on_a_terminal(w.command("script"), &command).1.replace('\r', "")
}

#[test]
fn with_control_persist_one_line_reaches_the_terminal() {
    let w = lab_with(&["web01"], |builder| builder.role(Role::None));
    let screen = with_control_persist(&w, "");
    let lines: Vec<&str> = screen.lines().filter(|line| line.starts_with("arcssh: ")).collect();
    let line = "arcssh: cannot connect to web01: the service principal (application c11e4700-0000-4000-8000-000000000001) has no permission to connect to the machine (403 AuthorizationFailed); for details: arcssh last";
    assert_eq!(lines, [line], "{screen}");
    assert!(screen.contains("UNKNOWN port 65535"), "ssh prints only this: {screen}");
    assert!(
        value(&last(&w, &["web01"]), "hint").unwrap().starts_with("ask an owner of the machine to run: ")
    );
}

/// ssh in the background has let go of its standard error, and arcssh too.
#[test]
fn a_connection_lost_in_the_background_reaches_the_record_the_log_and_the_terminal() {
    let w = lab(&["web01"]);
    w.emulator().relay_fault(RelayFault::cut_after(100_000).always());
    let flood = service(|mut connection| drop(connection.write_all(&[7; 1_000_000])));
    let script = r#"
        x=$(ssh -F .ssh/config -o "ProxyCommand=$ARCSSH proxy $ID --port %p --log-file log" -f -N -L $FORWARD web01 2>&1)
        echo "[$x]"
        cat </dev/tcp/127.0.0.1/${FORWARD%%:*} >/dev/null
        until $ARCSSH last web01 | grep -q 'lost the connection'; do sleep 0.1; done"#;
    fs::write(w.home().join("script"), script).unwrap();
    let mut terminal = w.command("script");
    terminal.env("ARCSSH", ARCSSH).env("ID", w.id());
    terminal.env("FORWARD", format!("{}:127.0.0.1:{flood}", free_port()));
    let (_, screen) = on_a_terminal(terminal, "bash script");
    let lost = "lost the connection to web01: the connection to the relay was lost: ";
    let [captured, line] = screen.trim().split("\r\n").collect::<Vec<_>>()[..] else { panic!("{screen}") };
    assert_eq!(captured, "[]");
    assert!(line.contains(lost) && line.ends_with("; for details: arcssh last"), "{screen}");
    assert!(fs::read_to_string(w.home().join("log")).unwrap().contains(lost));
}

#[test]
fn a_redirected_standard_error_of_ssh_keeps_the_terminal_clean() {
    if !cfg!(target_os = "linux") {
        return; // other systems do not show which file is the standard error of ssh
    }
    let w = lab_with(&["web01"], |builder| builder.role(Role::None));
    assert_eq!(with_control_persist(&w, "2>/dev/null"), "");
    assert!(last(&w, &[]).contains("AuthorizationFailed"), "the error is stored");
}

#[test]
fn an_error_that_ssh_shows_appears_once() {
    let w = lab_with(&["web01"], |builder| builder.role(Role::None));
    let (_, screen) = on_a_terminal(w.command("script"), "ssh -F .ssh/config web01 true");
    assert_eq!(screen.matches("arcssh: cannot connect").count(), 1, "{screen}");
    assert!(!screen.contains("arcssh last"), "{screen}");
}
