//! A failure arrives even where ssh throws standard error away: in one line on the terminal, and by `arcssh last`.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use arcssh_emulator::{Machine, Role};

use crate::support::{ARCSSH, LIMIT, Lab, eventually, on_a_terminal, run, world, world_with};

const NOTHING: &str = "no failure is kept: one is forgotten when a connection works\n";

fn last(w: &Lab, arguments: &[&str]) -> String {
    run(w.arcssh(&["last"]).args(arguments)).clean()
}

/// The value behind a title of what `arcssh last` prints.
fn value<'a>(told: &'a str, title: &str) -> Option<&'a str> {
    let mut lines = told.lines().filter_map(|line| line.split_once(' '));
    lines.find(|(first, _)| *first == title).map(|(_, value)| value.trim())
}

#[test]
fn a_failure_is_explained_until_a_connection_works() {
    let w = world_with(&["web01"], |builder| builder.role(Role::None));
    assert_eq!(last(&w, &[]), NOTHING);
    let failed = run(&mut w.proxy("web01"));
    let told = last(&w, &[]);
    let lines = failed.arcssh_lines();
    assert_eq!(value(&told, "what"), lines[0].strip_prefix("arcssh: "));
    assert_eq!(value(&told, "hint"), lines[1].strip_prefix("arcssh: hint: "));
    assert_eq!(value(&told, "machine"), Some(w.id().as_str()));
    assert_eq!(value(&told, "status"), Some("4"));
    assert!(value(&told, "when").unwrap().ends_with(" ago"), "{told}");
    assert!(value(&told, "request").unwrap().ends_with(" of Azure Resource Manager"), "{told}");
    assert!(value(&told, "next").unwrap().starts_with(&format!("arcssh doctor {} ", w.id())), "{told}");

    w.emulator().set_role(Role::LocalUserLogin);
    run(&mut w.arcssh(&["cache", "clear"])).clean();
    assert_eq!(last(&w, &[]), NOTHING, "cleared with all else");
    w.emulator().machine("web01").set_online(false);
    run(w.proxy("web01").args(["--wait", "0"]));
    assert!(value(&last(&w, &["WEB01"]), "request").unwrap().ends_with(" of Azure Relay"));
    w.emulator().machine("web01").set_online(true);
    assert_eq!(w.ssh_run(&["web01", "echo reached"]).clean(), "reached\n");
    assert_eq!(last(&w, &[]), NOTHING, "forgotten by a connection that works");
}

#[test]
fn where_nothing_can_be_kept_that_is_told() {
    let w = world(&[]);
    let told = run(w.arcssh(&["last"]).env("ARCSSH_STATE_DIR", "/dev/null")).clean();
    assert_eq!(told, "nothing can be kept here: name a folder of your own in ARCSSH_STATE_DIR\n");
}

#[test]
fn what_ssh_stopped_waiting_for_is_kept() {
    let w = world(&["web01"]);
    w.emulator().machine("web01").set_online(false);
    // As ansible has it: what a ProxyCommand says goes nowhere.
    let proxy = format!("ProxyCommand={ARCSSH} proxy {} --port %p 2>/dev/null", w.id());
    let run = run(w.ssh().args(["-o", &proxy, "-o", "ConnectTimeout=2", "web01", "true"]));
    assert_eq!(run.code, Some(255));
    let kept = || last(&w, &["web01"]);
    assert!(eventually(LIMIT, || kept() != NOTHING.replace("no failure", "no failure of web01")));
    let told = kept();
    let what = value(&told, "what").unwrap();
    assert!(what.starts_with("cannot connect to web01: ssh stopped waiting after "), "{told}");
    assert!(what.contains(" s, for the agent of web01 to listen (404 "), "{told}");
    let (id, port) = (w.id(), w.sshd().port());
    let hint = format!("arcssh warm {id} --port {port} makes it ready for the next time");
    assert_eq!(value(&told, "hint"), Some(hint.as_str()));
}

#[test]
fn each_machine_has_its_own_failure_and_the_others_are_named() {
    let w = world_with(&["web01"], |builder| builder.machine(Machine::new("web02")));
    for machine in ["web01", "web02", "web01"] {
        w.emulator().machine(machine).set_online(false);
        run(w.proxy(machine).args(["--wait", "0"]));
    }
    let told = last(&w, &["web02"]);
    assert!(value(&told, "what").unwrap().starts_with("cannot connect to web02: its agent"), "{told}");
    assert_eq!(value(&told, "others"), None);
    let told = last(&w, &[]);
    assert!(value(&told, "others").unwrap().starts_with("rg-arc/web0"), "{told}");
    assert_eq!(last(&w, &["db07"]), "no failure of db07 is kept: one is forgotten when a connection works\n");
}

#[test]
fn a_failure_is_found_by_whatever_the_machine_is_called() {
    let w = world_with(&["web01"], |builder| builder.role(Role::None));
    let section = format!("Host shop\n  ProxyCommand {ARCSSH} proxy {} --port %p\n", w.id());
    fs::write(w.configuration(), section).unwrap();
    for id in [w.id(), w.id().replace("rg-arc", "rg-b")] {
        assert_eq!(run(&mut w.arcssh(&["proxy", &id])).code, Some(4));
    }
    for called in ["shop", "web01.rg-arc", "RG-ARC/web01", &w.id()] {
        let told = last(&w, &[called]);
        assert_eq!(value(&told, "machine"), Some(w.id().as_str()), "{called}: {told}");
        assert_eq!(value(&told, "others"), None, "{called}: {told}");
    }
    let told = last(&w, &["web01"]);
    let other = value(&told, "others").unwrap().split(' ').next().unwrap();
    assert_eq!(value(&last(&w, &[other]), "others"), None, "{told}");
}

#[test]
fn nobody_else_can_read_a_failure() {
    let w = world_with(&["web01"], |builder| builder.role(Role::None));
    run(&mut w.proxy("web01"));
    let folder = fs::read_dir(w.home().join(".local/state/arcssh")).unwrap();
    let mut kept = folder.flatten().filter(|file| file.file_name().to_string_lossy().starts_with("failure-"));
    let kept = kept.next().unwrap();
    assert_eq!(kept.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let text = fs::read_to_string(kept.path()).unwrap();
    assert!(w.emulator().secrets().iter().all(|secret| !text.contains(secret.as_str())), "{text}");
}

/// What ssh that keeps its connection for others shows on a terminal.
fn persistent(w: &Lab, more: &str) -> String {
    let command = format!(
        "ssh -F .ssh/config -o ControlMaster=auto -o ControlPath={}/c -o ControlPersist=10 web01 true {more}",
        w.home().display()
    );
    on_a_terminal(w.command("script"), &command).1.replace('\r', "")
}

#[test]
fn with_control_persist_one_line_reaches_the_terminal() {
    let w = world_with(&["web01"], |builder| builder.role(Role::None));
    let screen = persistent(&w, "");
    let ours: Vec<&str> = screen.lines().filter(|line| line.starts_with("arcssh: ")).collect();
    let line = "arcssh: cannot connect to web01: this identity may not ask for its relay credentials (403 AuthorizationFailed); arcssh last explains it";
    assert_eq!(ours, [line], "{screen}");
    assert!(screen.contains("UNKNOWN port 65535"), "ssh says no more than this: {screen}");
    assert!(value(&last(&w, &["web01"]), "hint").unwrap().starts_with("an owner of the machine types: "));
}

#[test]
fn whoever_turns_the_messages_of_ssh_away_is_not_told() {
    if !cfg!(target_os = "linux") {
        return; // elsewhere it cannot be seen what ssh's own standard error is
    }
    let w = world_with(&["web01"], |builder| builder.role(Role::None));
    assert_eq!(persistent(&w, "2>/dev/null"), "");
    assert!(last(&w, &[]).contains("AuthorizationFailed"), "but it is kept");
}

#[test]
fn a_failure_that_ssh_shows_is_told_once() {
    let w = world_with(&["web01"], |builder| builder.role(Role::None));
    let (_, screen) = on_a_terminal(w.command("script"), "ssh -F .ssh/config web01 true");
    assert_eq!(screen.matches("arcssh: cannot connect").count(), 1, "{screen}");
    assert!(!screen.contains("arcssh last"), "{screen}");
}
