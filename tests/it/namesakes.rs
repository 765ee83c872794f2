//! Machines with the same name in other groups and subscriptions: messages distinguish them, and the commands of hints work.

use arcssh_emulator::{Machine, Role};

use crate::config::Home;
use crate::support::{ARCSSH, Lab, Run, lab_with, run};

const OTHER_SUBSCRIPTION: &str = "99999999-0000-4000-8000-000000000009";

/// Three machines named web01, on which SSH is not enabled.
fn namesakes() -> Lab {
    lab_with(&[], |builder| {
        let machine = |group| Machine::new("web01").resource_group(group).without_service_configuration();
        builder
            .machine(machine("rg-a").vm_id("a"))
            .machine(machine("rg-b").vm_id("b"))
            .machine(machine("rg-b").vm_id("c").subscription(OTHER_SUBSCRIPTION))
            .role(Role::Owner)
    })
}

fn aliases() -> [String; 3] {
    let with_subscription = |subscription: &str| format!("web01.rg-b.{subscription}");
    [
        "web01.rg-a".into(),
        with_subscription(arcssh_emulator::SUBSCRIPTION),
        with_subscription(OTHER_SUBSCRIPTION),
    ]
}

/// Runs the command of the first hint, and answers its question.
fn run_hint(home: &Home, stderr: &str, option: &str) -> Run {
    let hint = stderr.lines().find_map(|line| line.strip_prefix("arcssh: hint: "));
    let command = hint.unwrap_or_else(|| panic!("no hint: {stderr}")).split_once(": arcssh ").unwrap().1;
    assert!(!command.contains("/subscriptions/"), "{stderr}");
    let words: Vec<&str> = command.split_whitespace().chain([option]).collect();
    run(home.command(ARCSSH).args(words))
}

#[test]
fn the_hint_of_a_failed_connection_names_its_machine_and_works() {
    let w = namesakes();
    let home = Home::new(&w);
    let port = w.sshd().port().to_string();
    assert_eq!(home.config(&["--all", "--port", &port]).code, Some(0));
    for alias in aliases() {
        let failed = run(home.command("ssh").args(["-o", "BatchMode=yes", &alias, "true"]));
        let message = format!("arcssh: cannot connect to {alias}: SSH is not enabled on the machine");
        assert!(failed.stderr.contains(&message), "{}", failed.stderr);
        let last = run(home.command(ARCSSH).arg("last")).clean();
        let next = last.lines().find_map(|line| line.strip_prefix("next ")).unwrap().trim();
        let examined = run(home
            .command("sh")
            .args(["-c", &format!("{} --port {port} --json", next.replacen("arcssh", ARCSSH, 1))]));
        let report: serde_json::Value = serde_json::from_slice(&examined.stdout).unwrap();
        assert!(report.to_string().contains("SSH is not enabled on the machine"), "{next}: {report}");
        let set_up = run_hint(&home, &failed.stderr, "--yes");
        assert_eq!(set_up.code, Some(0), "{}", set_up.stderr);
        let accepted = run(home.command("ssh").args(["-o", "BatchMode=yes", &alias, "true"]));
        assert!(!accepted.stderr.contains("arcssh: "), "{}", accepted.stderr);
    }
}

#[test]
fn a_command_for_all_machines_distinguishes_them() {
    let w = namesakes();
    let home = Home::new(&w);
    let port = w.sshd().port().to_string();
    let warmed = run(home.command(ARCSSH).args(["warm", "--all", "--port", &port]));
    let [a, b, c] = aliases();
    let message = format!(
        "arcssh: cannot connect to 3 machines: SSH is not enabled on the machine (412 Precondition Failed): rg-a/web01, {b}, {c}\n"
    );
    let hint = format!("{message}arcssh: hint: enable it: arcssh setup rg-a/web01 {b} {c} --port {port}\n");
    assert!(warmed.stderr.contains(&hint), "{}", warmed.stderr);
    let set_up = run_hint(&home, &warmed.stderr, "--yes");
    assert_eq!(set_up.code, Some(0), "{}", set_up.stderr);
    let warmed = run(home.command(ARCSSH).args(["warm", &a, &b, &c, "--port", &port]));
    assert_eq!(warmed.clean(), "3 of 3 machines are ready\n");
}

#[test]
fn the_names_of_an_ambiguous_name_are_different_and_work() {
    let w = namesakes();
    let home = Home::new(&w);
    for (name, count, hint) in [
        ("web01", 3, "name the machine with one of these names"),
        ("rg-b/web01", 2, "name the machine with one of these names"),
    ] {
        let failed = run(home.command(ARCSSH).args(["doctor", name]));
        assert_eq!(failed.code, Some(1), "{}", failed.stderr);
        let set_up = run(home.command(ARCSSH).args(["setup", name, "--dry-run"]));
        let line = set_up.stderr.lines().next().unwrap_or_default();
        let (_, names) = line.split_once(&format!("{count} machines are named {name}: ")).unwrap();
        assert!(set_up.stderr.ends_with(&format!("arcssh: hint: {hint}\n")), "{}", set_up.stderr);
        let names: Vec<&str> = names.split(", ").collect();
        assert_eq!(names.iter().collect::<std::collections::BTreeSet<_>>().len(), count);
        for name in names {
            let found = run(home.command(ARCSSH).args(["setup", name, "--dry-run"]));
            assert_eq!(found.code, Some(1), "{name}: {}", found.stderr);
        }
    }
}
