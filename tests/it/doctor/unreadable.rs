//! `arcssh doctor` shows what it could not read as unknown.

use std::thread;

use arcssh_emulator::{ArmCall, ArmFault, Machine, Role};
use serde_json::Value;

use crate::doctor::{assert_reasons, doctor, find, problems, with_reason};
use crate::support::{LIMIT, Lab, lab, lab_with, run, script};

#[test]
fn what_arcssh_cannot_read_is_unknown_and_never_passes() {
    type Change = fn(&Lab);
    fn fault(w: &Lab, call: ArmCall, fault: ArmFault) {
        w.emulator().arm_fault(fault.on(call).times(20));
    }
    fn machine(w: &Lab, properties: &str) {
        let text = format!(r#"{{"id":"{}","location":"eastus","properties":{properties}}}"#, w.id());
        fault(w, ArmCall::Machine, ArmFault::raw(200, "application/json", &text));
    }
    fn denied() -> ArmFault {
        ArmFault::new(403, "AuthorizationFailed", "No.")
    }
    let properties = ["machine", "agent version", "agent configuration", "operating system", "private link"];
    let cases: [(&str, Change, &[&str]); 8] = [
        (
            "a login role",
            |w| w.emulator().set_role(Role::LocalUserLogin),
            &["endpoint", "service configuration"],
        ),
        ("no properties", |w| machine(w, "null"), &properties),
        (
            "a mode that arcssh does not know",
            |w| {
                machine(
                    w,
                    r#"{"status":"Connected","osName":"linux","agentVersion":"1.67.0.1","agentConfiguration":{"configMode":"other"}}"#,
                )
            },
            &["agent configuration"],
        ),
        (
            "an unreadable machine",
            |w| fault(w, ArmCall::Machine, denied()),
            &[
                "machine",
                "agent version",
                "agent configuration",
                "operating system",
                "region",
                "private link",
                "entra login",
            ],
        ),
        (
            "unreadable permissions",
            |w| fault(w, ArmCall::Permissions, denied()),
            &["permissions", "entra login"],
        ),
        (
            "permissions that are no list",
            |w| fault(w, ArmCall::Permissions, ArmFault::raw(200, "application/json", "null")),
            &["permissions", "entra login"],
        ),
        (
            "permissions that do not arrive",
            |w| fault(w, ArmCall::Permissions, denied().after(LIMIT)),
            &["permissions", "entra login"],
        ),
        (
            "an unreadable registration",
            |w| fault(w, ArmCall::Provider, denied()),
            &["clock", "subscription", "resource provider"],
        ),
    ];
    let examine = |(label, change, unknown): &(&str, Change, &[&str])| {
        let w = lab(&["web01"]);
        change(&w);
        let examined = run(&mut doctor(&w, &w.id(), &["--json"]));
        let report: Value = serde_json::from_slice(&examined.stdout).unwrap();
        assert_eq!((problems(&report), examined.code), (vec![], Some(0)), "{label}: {report:#}");
        assert_eq!(with_reason(&report, "unknown"), *unknown, "{label}: {report:#}");
        assert_reasons(&report);
        assert!(unknown.iter().all(|name| find(&report, name)["text"].as_str() != Some("")), "{report:#}");
    };
    thread::scope(|scope| {
        for case in &cases {
            scope.spawn(|| examine(case));
        }
    });
    let w = lab_with(&["web01"], |builder| {
        builder.machine(Machine::new("db").extension(
            "Microsoft.Azure.ActiveDirectory",
            "AADSSHLoginForLinux",
            "",
        ))
    });
    let db = w.emulator().machine("db");
    db.set_ssh_port(w.sshd().port());
    let report =
        serde_json::from_slice(&run(&mut doctor(&w, &db.resource_id(), &["--json"])).stdout).unwrap();
    assert_eq!(with_reason(&report, "unknown"), ["entra login"], "{report:#}");
    let shown = run(&mut doctor(&w, &db.resource_id(), &[])).clean();
    let line = "?     entra login            unknown: Azure does not show the state of the extension\n";
    assert!(shown.contains(line), "{shown}");
}

#[test]
fn programs_that_do_not_work_never_pass() {
    let w = lab(&["web01"]);
    let bin = w.home().join("bin");
    let examined = |ssh: &str, keygen: &str, az: &str| {
        for (name, text) in [("ssh", ssh), ("ssh-keygen", keygen), ("az", az)] {
            script(&bin, name, &format!("#!/bin/sh\n{text}\n"));
        }
        let mut doctor = w.arcssh(&["doctor", "--json", "--file", "none", "--credential", "azure-cli"]);
        doctor.env("PATH", format!("{}:/usr/bin:/bin", bin.display()));
        serde_json::from_slice::<Value>(&run(&mut doctor).stdout).unwrap()
    };
    let expires = "9999999999";
    let opaque = format!(
        r#"echo '{{"accessToken":"opaque","expiresOn":"2286-11-20 17:46:39.000000","expires_on":{expires},"tokenType":"Bearer"}}'"#
    );
    let report =
        examined("echo 'error while loading shared libraries' >&2; exit 127", "kill -SEGV $$", &opaque);
    for (name, text) in [
        ("ssh", "ssh does not work: error while loading shared libraries (exit status: 127)"),
        ("ssh-keygen", "ssh-keygen does not work: "),
    ] {
        let check = find(&report, name);
        assert_eq!(check["outcome"], "failed", "{check}");
        assert!(check["text"].as_str().unwrap().starts_with(text), "{check}");
        assert_eq!(check["hint"]["text"], "reinstall OpenSSH's client on this computer");
    }
    assert_eq!(find(&report, "identity")["reason"], "unknown", "{report:#}");
    let report = examined("exit 0", "exit 255", "exit 1");
    assert_eq!(find(&report, "ssh")["reason"], "unknown", "{report:#}");
    assert_eq!(find(&report, "ssh-keygen")["outcome"], "passed", "{report:#}");
}
