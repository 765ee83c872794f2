//! docs/JSON.md and the JSON of each command have the same fields.

use std::collections::{BTreeMap, BTreeSet};

use arcssh_emulator::Machine;
use serde_json::Value;

use crate::support::{ARCSSH, Lab, lab_with, run};

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

/// Adds the path of each field, such as `checks[].hint.text`. The keys of tags are no fields.
fn add_fields(value: &Value, path: &str, fields: &mut BTreeSet<String>) {
    match value {
        Value::Array(values) => {
            values.iter().for_each(|value| add_fields(value, &format!("{path}[]"), fields))
        }
        Value::Object(values) if !path.ends_with("tags") => {
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
fn output(w: &Lab, words: &str) -> Value {
    let result = run(w.command(ARCSSH).args(words.split_whitespace()));
    let text = String::from_utf8(result.stdout).unwrap();
    assert!(text.ends_with('\n') && text.lines().count() == 1, "{words}: {text:?} {}", result.stderr);
    serde_json::from_str(&text).unwrap()
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
    ] {
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
    assert_eq!(as_user(&["login", "--device-code"]).code, Some(0));
    as_user(&["cert"]);
    let shown: Value = serde_json::from_slice(&as_user(&["cert", "--show", "-o", "json"]).stdout).unwrap();
    add_fields(&shown, "", found.entry("cert --show").or_default());
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
