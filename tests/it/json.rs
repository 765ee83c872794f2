//! docs/JSON.md and the JSON of each command have the same fields.

use std::collections::{BTreeMap, BTreeSet};

use arcssh_emulator::{ArmCall, ArmFault, Machine, Role};
use serde_json::{Value, json};

use crate::setup::write_requests;
use crate::ssh::User;
use crate::support::{ARCSSH, Lab, Run, lab, lab_with, run, script};

const PAGE: &str = include_str!("../../docs/JSON.md");

/// A section of the page: its command, its text, and the fields of its table.
fn sections() -> BTreeMap<&'static str, (&'static str, BTreeSet<String>)> {
    let sections = PAGE.split("\n## `arcssh ").skip(1);
    sections
        .map(|section| {
            let (command, text) = section.split_once('`').unwrap();
            let rows = text.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
            (command, (text, rows.map(|(field, _)| field.to_owned()).collect()))
        })
        .collect()
}

/// Adds the path of each field, such as `checks[].hint.text`. The keys of tags and the steps of a connection are no fields.
fn add_fields(value: &Value, path: &str, fields: &mut BTreeSet<String>) {
    match value {
        Value::Array(values) => {
            values.iter().for_each(|value| add_fields(value, &format!("{path}[]"), fields))
        }
        Value::Object(values) if !["tags", "connect.steps"].contains(&path.trim_start_matches("[].")) => {
            for (key, value) in values {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                fields.insert(path.clone());
                add_fields(value, &path, fields);
            }
        }
        _ => {}
    }
}

/// Returns the one JSON document on standard output.
#[track_caller]
fn document(result: &Run, words: &str) -> Value {
    let text = String::from_utf8_lossy(&result.stdout);
    assert!(text.ends_with('\n') && text.lines().count() == 1, "{words}: {text:?} {}", result.stderr);
    serde_json::from_str(&text).unwrap()
}

/// Runs a command, and returns its document.
#[track_caller]
fn output(w: &Lab, words: &str) -> Value {
    document(&run(w.command(ARCSSH).args(words.split_whitespace())), words)
}

/// Returns the document of `arcssh rdp` with a client that prints to standard output.
fn desktop() -> Value {
    let w = lab(&["web01"]);
    let user = User::new(&w);
    script(w.home(), "client", "#!/bin/sh\necho noise\n");
    let client = w.home().join("client").display().to_string();
    let shown = run(user.home.command(ARCSSH).args(["rdp", "web01", "-o", "json", "--client", &client]));
    assert!(shown.stderr.contains("noise\n") && shown.code == Some(0), "{}", shown.stderr);
    let report = document(&shown, "rdp");
    assert_eq!((&report["machine"], &report["client"]), (&"web01".into(), &client.into()));
    report
}

#[test]
fn each_field_is_documented_and_each_documented_field_exists() {
    let w = lab_with(&["web01"], |builder| {
        let machine = Machine::new("new01").tag("env", "prod").without_endpoint();
        let second = std::time::Duration::from_secs(1);
        builder
            .machine(machine)
            .user_principal_name("ada@arcssh.example")
            .approve_devices()
            .device_interval(second)
    });
    let (sections, port) = (sections(), w.sshd().port().to_string());
    let mut found: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for (command, words) in [
        ("list", "list -o json"),
        ("list", "list --format JSON"),
        ("account", "account --output json"),
        ("config", "config --all --dry-run -o json"),
        ("config", "config --all -o json"),
        ("config", "config --suffix .arc -o json"),
        ("config --verify", "config --verify -o json"),
        ("warm", "warm --all --wait 0 --port PORT -o json"),
        ("known-hosts", "known-hosts --all --wait 0 --port PORT -o json"),
        ("cache show", "cache show -o json"),
        ("last", "last -o json"),
        ("version", "version -o json"),
        ("doctor", "doctor new01 --json"),
        ("doctor", "doctor web01 -o json"),
        ("ping", "ping web01 -c 1 --port PORT -o json"),
        ("setup", "setup new01 --dry-run -o json"),
        ("setup", "setup --all --port PORT --yes --wait 0 -o json"),
        ("setup", "setup web01 --port 9 --yes -o json"),
        ("ping", "ping new01 -c 1 --wait 0 --json"),
        ("teardown", "teardown web01 --dry-run -o json"),
        ("teardown", "teardown --all --yes -o json"),
        ("cache clear", "cache clear -o json"),
    ] {
        let locked = ArmFault::new(409, "ScopeLocked", "it is locked").on(ArmCall::ServiceConfiguration);
        if command == "teardown" {
            w.emulator().arm_fault(locked);
        }
        let fields = found.entry(command).or_default();
        add_fields(&output(&w, &words.replace("PORT", &port)), "", fields);
    }
    // A certificate is for a user.
    let as_user = |words: &[&str]| {
        let mut command = w.command(ARCSSH);
        for name in ["AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET"] {
            command.env_remove(name);
        }
        run(command.args(words))
    };
    for (command, words) in [
        ("login", "login --device-code -o json"),
        ("cert", "cert"),
        ("cert --show", "cert --show -o json"),
        ("cache clear", "cache clear -o json"),
        ("logout", "logout -o json"),
    ] {
        let shown = as_user(&words.split_whitespace().collect::<Vec<_>>());
        assert_eq!(shown.code, Some(0), "{words}: {}", shown.stderr);
        if words.contains("json") {
            add_fields(&document(&shown, words), "", found.entry(command).or_default());
        }
    }
    add_fields(&desktop(), "", found.entry("rdp").or_default());
    assert_eq!(found.keys().collect::<Vec<_>>(), sections.keys().collect::<Vec<_>>());
    for (command, fields) in found {
        let fields: BTreeSet<String> =
            fields.into_iter().map(|field| field.trim_start_matches("[].").to_owned()).collect();
        let (text, documented) = &sections[command];
        assert_eq!(&fields, documented, "arcssh {command}");
        let example = text.split("```json\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
        let mut in_example = BTreeSet::new();
        add_fields(&serde_json::from_str(example).unwrap(), "", &mut in_example);
        let top = |fields: &mut dyn Iterator<Item = &String>| -> BTreeSet<String> {
            fields.map(|field| field.trim_start_matches("[].").to_owned()).collect()
        };
        assert!(top(&mut in_example.iter()).is_subset(documented), "the example of arcssh {command}");
    }
}

#[test]
fn a_failed_command_prints_no_document() {
    let w = lab_with(&["web01"], |builder| builder);
    for words in [
        "list -g none -o json",
        "warm none -o json",
        "known-hosts none -o json",
        "cert --show -o json",
        "config none -o json",
    ] {
        let failed = run(w.command(ARCSSH).args(words.split_whitespace()));
        assert!(failed.code != Some(0) && failed.stdout.is_empty(), "{words}");
        assert!(failed.stderr.contains("arcssh: hint: "), "{words}: {}", failed.stderr);
    }
}

/// The value of a field for each machine, by its name.
fn of_each(report: &Value, field: &str) -> BTreeMap<String, Value> {
    let machines = report.as_array().unwrap().iter();
    machines.map(|one| (one["name"].as_str().unwrap().to_owned(), one[field].clone())).collect()
}

fn values<const N: usize>(values: [(&str, Value); N]) -> BTreeMap<String, Value> {
    values.map(|(name, value)| (name.to_owned(), value)).into()
}

fn lab_with_a_new_machine() -> Lab {
    lab_with(&["web01"], |builder| builder.machine(Machine::new("new01").without_endpoint()))
}

#[test]
fn setup_and_teardown_report_the_plan_and_the_result_of_each_machine() {
    let w = lab_with_a_new_machine();
    let port = w.sshd().port();
    let arcssh = |words: &str| {
        let words = words.replace("PORT", &port.to_string());
        let result = run(w.command(ARCSSH).args(words.split_whitespace()));
        let report = document(&result, &words);
        (result.code, report, result.stderr)
    };
    let enable = json!([format!("create the endpoint, enable SSH on port {port}")]);
    let plan = values([("new01", enable), ("web01", json!([]))]);
    let (code, report, _) = arcssh("setup --all --port PORT --dry-run -o json");
    assert_eq!((code, of_each(&report, "changes")), (Some(1), plan.clone()));
    assert_eq!(of_each(&report, "ready"), values([("new01", false.into()), ("web01", false.into())]));
    let actions = json!([
        "Microsoft.HybridConnectivity/endpoints/write",
        "Microsoft.HybridConnectivity/endpoints/serviceConfigurations/write"
    ]);
    assert_eq!(of_each(&report, "permissions")["new01"], actions);
    assert_eq!(write_requests(&w), [""; 0]);

    // The agent of web01 is offline.
    w.emulator().machine("web01").set_online(false);
    let (code, report, stderr) = arcssh("setup --all --port PORT --yes --wait 0 -o json");
    assert_eq!((code, of_each(&report, "changes")), (Some(1), plan), "{stderr}");
    assert_eq!(of_each(&report, "ready"), values([("new01", true.into()), ("web01", false.into())]));
    let codes = values([("new01", Value::Null), ("web01", "agent-offline".into())]);
    assert_eq!(of_each(&report, "code"), codes);
    assert!(stderr.contains("1 of 2 machines are ready"), "{stderr}");

    let before = write_requests(&w);
    let (code, report, _) = arcssh("teardown --all --dry-run -o json");
    assert_eq!((code, write_requests(&w)), (Some(1), before));
    let disable = values([("new01", json!(["disable SSH"])), ("web01", json!(["disable SSH"]))]);
    assert_eq!(of_each(&report, "changes"), disable);
    assert_eq!(of_each(&report, "done"), values([("new01", false.into()), ("web01", false.into())]));
    w.emulator()
        .arm_fault(ArmFault::new(409, "ScopeLocked", "it is locked").on(ArmCall::ServiceConfiguration));
    let (code, report, stderr) = arcssh("teardown --all --yes -o json");
    assert_ne!(code, Some(0));
    let done: Vec<bool> = of_each(&report, "done").values().map(|done| done.as_bool().unwrap()).collect();
    assert_eq!(done.iter().filter(|done| **done).count(), 1, "{report} {stderr}");
    assert_eq!(of_each(&report, "code").values().filter(|code| code.is_string()).count(), 1, "{report}");
}

#[test]
fn a_plan_that_is_not_confirmed_prints_no_document() {
    let w = lab_with_a_new_machine();
    for words in ["setup --all -o json", "teardown --all -o json"] {
        let failed = run(w.command(ARCSSH).args(words.split_whitespace()));
        assert!(failed.code != Some(0) && failed.stdout.is_empty(), "{words}");
        assert!(failed.stderr.contains("--yes"), "{words}: {}", failed.stderr);
    }
    assert_eq!(write_requests(&w), [""; 0]);
}

#[test]
fn machines_of_a_subscription_that_cannot_be_registered_have_its_error() {
    let w = lab_with_a_new_machine();
    w.emulator().set_registration_state("NotRegistered");
    w.emulator().set_role(Role::LocalUserLogin);
    let report = output(&w, "setup --all --yes -o json");
    let changes = of_each(&report, "changes");
    let register = "register Microsoft.HybridConnectivity";
    assert!(changes.values().all(|changes| changes[0] == register), "{report}");
    let denied = Value::from("access-denied");
    assert_eq!(of_each(&report, "code"), values([("new01", denied.clone()), ("web01", denied)]), "{report}");
}
