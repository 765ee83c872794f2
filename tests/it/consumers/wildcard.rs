//! `arcssh config --wildcard`: any machine by its name, found when it is connected to.

use arcssh_emulator::{Machine, SUBSCRIPTION};

use super::{Configuration, join, trust};
use crate::support::{Run, World, run, world_with};

#[test]
fn a_name_that_nobody_wrote_down_is_found() {
    let w = fleet();
    let hosts = Configuration::generate(&w, &["--wildcard", "*.arc"]);
    for (typed, known_as) in
        [("web07.arc", "web07.arc"), ("WEB07.arc", ""), ("Db01.rg-B.arc", "db01.rg-b.arc")]
    {
        know(&w, known_as);
        assert_eq!(hosts.ssh(&[typed, "echo reached"]).clean(), "reached\n", "{typed}");
    }
}

#[test]
fn concrete_sections_stand_beside_the_wildcard() {
    let w = fleet();
    let hosts = Configuration::generate(&w, &["--all", "--wildcard", "*.arc"]);
    know(&w, "web07.arc");
    for typed in ["web07", "db01.rg-a", "db01.rg-b", "web07.arc"] {
        assert_eq!(hosts.ssh(&[typed, "echo reached"]).clean(), "reached\n", "{typed}");
    }
    let reached: Vec<usize> = ["rg-a/db01", "rg-b/db01"]
        .iter()
        .map(|m| w.emulator().machine(m).issued_credentials().len())
        .collect();
    assert_eq!(reached, [1, 1]);
}

#[test]
fn a_name_that_means_no_machine_or_several_is_told() {
    let w = fleet();
    let hosts = Configuration::generate(&w, &["--wildcard", "*.arc"]);
    told(
        &hosts.ssh(&["web99.arc", "true"]),
        &[
            "arcssh: cannot connect to web99.arc: no Arc machine that this identity sees is called web99",
            "arcssh: hint: arcssh list shows the machines that this identity sees",
        ],
    );
    told(
        &hosts.ssh(&["db01.arc", "true"]),
        &[
            "arcssh: cannot connect to db01.arc: 2 machines are called db01: rg-a/db01, rg-b/db01",
            "arcssh: hint: ssh db01.rg-a.arc",
        ],
    );
}

#[test]
fn a_name_is_looked_for_in_the_subscription_that_is_named() {
    let w = world_with(&["web01"], |builder| builder);
    let by = |subscription: &str| {
        let proxy = format!("arcssh proxy --host %n --subscription {subscription} --port %p");
        run(&mut w.ssh_by(&proxy, "echo reached"))
    };
    assert_eq!(by(SUBSCRIPTION).clean(), "reached\n");
    let other = by("00000000-0000-4000-8000-000000000009");
    let [why, _] = other.arcssh_lines()[..] else { panic!("{}", other.stderr) };
    assert!(why.starts_with("arcssh: cannot connect to web01: "), "{why}");
    assert_eq!(
        by(SUBSCRIPTION).clean(),
        "reached\n",
        "what was found before is kept for its own subscription"
    );
}

/// web07, and two machines that are called db01.
fn fleet() -> World {
    let db = |group: &str| Machine::new("db01").resource_group(group);
    let w = world_with(&["web07"], |builder| builder.machine(db("rg-a")).machine(db("rg-b")));
    join(&w, "rg-a/db01");
    join(&w, "rg-b/db01");
    w
}

/// Adds the host key under the name that ssh knows a host of the wildcard by: as typed, in lower case, with its port.
fn know(w: &World, name: &str) {
    if !name.is_empty() {
        trust(w, &format!("[{name}]:{}", w.sshd().port()));
    }
}

/// Asserts that the user reads these lines before ssh's own.
#[track_caller]
fn told(run: &Run, lines: &[&str]) {
    assert_eq!(run.arcssh_lines(), lines, "{}", run.stderr);
    assert_eq!((run.code, run.stdout.len()), (Some(255), 0));
}
