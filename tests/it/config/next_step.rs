//! The last line of a successful command: the command that the user needs next, which works.

use std::fs;

use arcssh_emulator::Machine;

use super::Home;
use crate::consumers::user;
use crate::support::{ARCSSH, Run, lab, lab_with, on_a_terminal, run};

/// Returns the command of the last line, if that is a hint.
fn next(run: &Run) -> Option<String> {
    let (_, command) = run.stderr.lines().last()?.strip_prefix("arcssh: hint: ")?.split_once(": ")?;
    Some(command.to_owned())
}

#[test]
fn config_ends_with_the_command_that_connects() {
    let machine = |group| Machine::new("web01").resource_group(group);
    let w = lab_with(&[], |builder| {
        builder.machine(machine("rg-a").vm_id("a")).machine(machine("rg-b").vm_id("b"))
    });
    w.emulator().machine("web01").set_ssh_port(w.sshd().port());
    let (home, port, user) = (Home::new(&w), w.sshd().port().to_string(), user());
    let key = w.sshd().client_key().display().to_string();
    let login = ["--user", &user, "--port", &port, "--identity", &key];
    let added = home.config(&[&["-g", "rg-a"], &login[..]].concat());
    assert_eq!(next(&added).as_deref(), Some("ssh web01.rg-a"), "{}", added.stderr);
    let connect = format!("{} -o StrictHostKeyChecking=accept-new echo reached", next(&added).unwrap());
    let reached = run(home.command("sh").args(["-c", &connect]));
    assert_eq!(String::from_utf8_lossy(&reached.stdout), "reached\n", "{}", reached.stderr);
    let steps: [(&[&str], Option<&str>); 7] = [
        (&["-g", "rg-b", "--dry-run"], None),
        (&["-g", "rg-b"], Some("ssh web01.rg-b")),
        (&[], None),
        (&["rg-a/web01"], Some("ssh web01.rg-a")),
        (&["--user", "other"], Some("ssh web01.rg-a")),
        (&["--wildcard", "*.arc"], Some("ssh NAME.arc")),
        (&["--remove", "web01.rg-a"], None),
    ];
    for (arguments, expected) in steps {
        let run = home.config(arguments);
        assert_eq!(next(&run).as_deref(), expected, "{arguments:?}: {}", run.stderr);
    }
}

#[test]
fn a_command_that_would_not_work_is_not_the_next_step() {
    let w = lab(&["web01"]);
    let home = Home::new(&w);
    for arguments in [["--file", "other.conf"], ["--platform", "windows"]] {
        let run = home.config(&[&["web01"], &arguments[..]].concat());
        assert!(run.code == Some(0) && !run.stderr.contains("run: ssh web01"), "{}", run.stderr);
    }
    fs::remove_file(home.file()).unwrap();
    fs::write(home.file(), format!("Include {}\n", home.path.join("other.conf").display())).unwrap();
    let included = home.config(&["web01", "--file", "other.conf"]);
    assert_eq!(next(&included).as_deref(), Some("ssh web01"), "{}", included.stderr);
}

#[test]
fn the_messages_fit_a_terminal() {
    let w = lab(&["web01", "web02"]);
    let home = Home::new(&w);
    let shown = |columns: u8, words: &str| {
        let command = format!("stty cols {columns} rows 30; '{ARCSSH}' {words}");
        let (code, screen) = on_a_terminal(home.command("script"), &command);
        assert_eq!(code, Some(0), "{screen}");
        home.with_tilde(&screen.replace('\r', ""))
    };
    for columns in [60, 100] {
        assert_eq!(
            shown(columns, "config --all"),
            "arcssh: added web01 (rg-arc/web01)\narcssh: added web02 (rg-arc/web02)\n\
             arcssh: wrote 2 hosts to ~/.ssh/config\narcssh: hint: to connect, run: ssh web01\n"
        );
        assert_eq!(shown(columns, "config --all"), "arcssh: ~/.ssh/config is up to date\n");
        let removed = shown(columns, "config --remove");
        assert!(removed.starts_with("arcssh: removed web01 (rg-arc/web01)\n"), "{removed}");
        fs::remove_file(home.file()).unwrap();
    }
    let port = w.sshd().port();
    let keys = shown(100, &format!("known-hosts web01 --port {port}"));
    let hint = "arcssh: hint: to add these host keys to ssh's known hosts, run: ";
    let command = keys.lines().find_map(|line| line.strip_prefix(hint)).unwrap_or_else(|| panic!("{keys}"));
    assert_eq!(command, format!("arcssh known-hosts web01 --port {port} >> ~/.ssh/known_hosts"));
    let certificate = shown(100, "cert");
    let hint =
        "arcssh: hint: to log in with the certificate, add host entries: arcssh config --all --entra\n";
    assert!(certificate.ends_with(hint), "{certificate}");
    shown(100, "config web02 --entra");
    let certificate = shown(100, "cert");
    assert!(certificate.ends_with("arcssh: hint: to connect, run: ssh web02\n"), "{certificate}");
}

#[test]
fn teardown_names_the_host_entries_that_remain() {
    let w = lab(&["web01", "web02"]);
    let home = Home::new(&w);
    let teardown = |name: &str| run(home.command(ARCSSH).args(["teardown", name, "--yes"]));
    let without = teardown("web02");
    assert!(without.code == Some(0) && !without.stderr.contains("--remove"), "{}", without.stderr);
    home.succeed(&["web01", "--suffix", ".arc"]);
    let with = teardown("web01");
    let hint = "arcssh: hint: to remove the host entries too, run: arcssh config --remove web01.arc\n";
    assert!(with.code == Some(0) && with.stderr.contains(hint), "{}", with.stderr);
    home.succeed(&["--remove", "web01.arc"]);
}
