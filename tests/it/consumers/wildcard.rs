//! `arcssh config --wildcard`: arcssh resolves a machine's name at connect time.

use arcssh_emulator::{Machine, SUBSCRIPTION};

use super::{Configuration, add_known_host, add_sshd};
use crate::support::{Lab, Run, lab_with, run};

#[test]
fn a_wildcard_host_is_resolved_at_connect_time() {
    let w = three_machines();
    let hosts = Configuration::generate(&w, &["--wildcard", "*.arc"]);
    for (host, known_as) in
        [("web07.arc", "web07.arc"), ("WEB07.arc", ""), ("Db01.rg-B.arc", "db01.rg-b.arc")]
    {
        trust_host_key(&w, known_as);
        assert_eq!(hosts.ssh(&[host, "echo reached"]).clean(), "reached\n", "{host}");
    }
}

#[test]
fn host_entries_and_a_wildcard_work_together() {
    let w = three_machines();
    let hosts = Configuration::generate(&w, &["--all", "--wildcard", "*.arc"]);
    trust_host_key(&w, "web07.arc");
    for host in ["web07", "db01.rg-a", "db01.rg-b", "web07.arc"] {
        assert_eq!(hosts.ssh(&[host, "echo reached"]).clean(), "reached\n", "{host}");
    }
    let reached: Vec<usize> = ["rg-a/db01", "rg-b/db01"]
        .iter()
        .map(|m| w.emulator().machine(m).issued_credentials().len())
        .collect();
    assert_eq!(reached, [1, 1]);
}

#[test]
fn an_unknown_or_ambiguous_name_is_an_error() {
    let w = three_machines();
    let hosts = Configuration::generate(&w, &["--wildcard", "*.arc"]);
    fails_with(
        &hosts.ssh(&["web99.arc", "true"]),
        &[
            "arcssh: cannot connect to web99.arc: the account sees no Arc machine named web99",
            "arcssh: hint: list the machines that the account sees: arcssh list",
        ],
    );
    fails_with(
        &hosts.ssh(&["db01.arc", "true"]),
        &[
            "arcssh: cannot connect to db01.arc: 2 machines are named db01: rg-a/db01, rg-b/db01",
            "arcssh: hint: run: ssh db01.rg-a.arc",
        ],
    );
}

#[test]
fn a_wildcard_is_matched_in_its_own_case_and_passes_on_the_typed_name() {
    let w = three_machines();
    let hosts = Configuration::generate(&w, &["--wildcard", "*.Arc"]);
    let text = hosts.text();
    trust_host_key(&w, "web07.arc");
    // An option for all hosts does not change the name.
    for below in ["", "\nHost *\n    HostName %h.corp\n", "\nHost *\n    CanonicalizeHostname always\n"] {
        std::fs::write(&hosts.file, format!("{text}{below}")).unwrap();
        assert_eq!(hosts.ssh(&["web07.Arc", "echo reached"]).clean(), "reached\n", "{below}");
    }
    // Earlier versions wrote `%n`.
    let earlier = text.replace("--host %h", "--host %n");
    std::fs::write(&hosts.file, earlier).unwrap();
    assert_eq!(hosts.ssh(&["web07.Arc", "echo reached"]).clean(), "reached\n");
}

#[test]
fn a_token_that_the_client_does_not_expand_is_named() {
    let w = lab_with(&["web01"], |builder| builder);
    for (token, hint) in [
        ("%n", "write the host entry again with %h, which more clients expand: arcssh config"),
        (
            "%h",
            "configure this SSH client to expand the tokens of ssh_config, or name the machine in its ProxyCommand: arcssh proxy RESOURCE-ID --port PORT",
        ),
    ] {
        let proxy = format!("arcssh proxy --host %{token} --suffix .arc --port %p");
        fails_with(
            &run(&mut w.ssh_by(&proxy, "true")),
            &[
                &format!(
                    "arcssh: cannot connect to {token}: the SSH client did not expand {token} in the ProxyCommand"
                ),
                &format!("arcssh: hint: {hint}"),
            ],
        );
    }
}

#[test]
fn a_name_is_resolved_in_the_given_subscription() {
    let w = lab_with(&["web01"], |builder| builder);
    let connect = |subscription: &str| {
        let proxy = format!("arcssh proxy --host %n --subscription {subscription} --port %p");
        run(&mut w.ssh_by(&proxy, "echo reached"))
    };
    assert_eq!(connect(SUBSCRIPTION).clean(), "reached\n");
    let other = connect("00000000-0000-4000-8000-000000000009");
    let [error, _] = other.arcssh_lines()[..] else { panic!("{}", other.stderr) };
    assert!(error.starts_with("arcssh: cannot connect to web01: "), "{error}");
    assert_eq!(connect(SUBSCRIPTION).clean(), "reached\n", "the cached ID belongs to its subscription");
}

/// web07, and two machines with the name db01.
fn three_machines() -> Lab {
    let db = |group: &str| Machine::new("db01").resource_group(group);
    let w = lab_with(&["web07"], |builder| builder.machine(db("rg-a")).machine(db("rg-b")));
    add_sshd(&w, "rg-a/db01");
    add_sshd(&w, "rg-b/db01");
    w
}

/// Adds the host key under ssh's name for a host of the wildcard: as typed, in lower case, with its port.
fn trust_host_key(w: &Lab, name: &str) {
    if !name.is_empty() {
        add_known_host(w, &format!("[{name}]:{}", w.sshd().port()));
    }
}

/// Asserts that ssh prints these lines of arcssh and fails.
#[track_caller]
fn fails_with(run: &Run, lines: &[&str]) {
    assert_eq!(run.arcssh_lines(), lines, "{}", run.stderr);
    assert_eq!((run.code, run.stdout.len()), (Some(255), 0));
}
