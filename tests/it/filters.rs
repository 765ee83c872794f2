//! Selecting machines by operating system, type and status.

use arcssh_emulator::Machine;

use crate::support::{ARCSSH, Lab, lab_with, run};

const FLEET: [(&str, &str); 4] = [
    ("lin01", "Microsoft.HybridCompute/machines"),
    ("off01", "Microsoft.HybridCompute/machines"),
    ("win01", "Microsoft.HybridCompute/machines"),
    ("vmm01", "Microsoft.ScVmm/virtualMachines"),
];

fn fleet() -> Lab {
    lab_with(&[], |builder| {
        FLEET.iter().fold(builder, |builder, (name, kind)| {
            let machine = Machine::new(name).resource_type(kind).tag("env", &name[..3]);
            let machine = if *name == "win01" { machine.os_name("windows") } else { machine };
            builder.machine(if *name == "off01" { machine.offline() } else { machine })
        })
    })
}

fn names(w: &Lab, options: &str) -> Vec<String> {
    let words: Vec<&str> = options.split_whitespace().collect();
    let list = run(w.command(ARCSSH).args(["list", "--format", "json"]).args(words)).clean();
    let list: serde_json::Value = serde_json::from_str(&list).unwrap();
    list.as_array().unwrap().iter().map(|machine| machine["name"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn properties_select_machines_alone_and_narrow_other_filters() {
    let w = fleet();
    for (options, expected) in [
        ("--os windows", &["win01"][..]),
        ("--os LINUX", &["lin01", "off01", "vmm01"]),
        ("--os linux --os windows", &["lin01", "off01", "vmm01", "win01"]),
        ("--status disconnected", &["off01"]),
        ("--status Connected --os linux --type machines", &["lin01"]),
        ("--type scvmm", &["vmm01"]),
        ("--type Microsoft.ScVmm/virtualMachines", &["vmm01"]),
        ("--resource-type microsoft.hybridcompute", &["lin01", "off01", "win01"]),
        ("-g rg-arc --type machines --status connected", &["lin01", "win01"]),
        ("--tag env=off --os linux", &["off01"]),
        ("--all --os windows", &["win01"]),
        ("off01 --os windows", &["off01", "win01"]),
    ] {
        assert_eq!(names(&w, options), expected, "{options}");
    }
}

#[test]
fn a_filter_without_machines_is_an_error_that_names_values_with_machines() {
    let w = fleet();
    for (options, error, hint) in [
        (
            "--status expired --os linux",
            "the account sees no Arc machine that matches --os linux --status expired; it sees 4 machines",
            "did you mean --status connected or --status disconnected?",
        ),
        (
            "--type scvmm --os windows",
            "that matches --os windows --type scvmm; it sees 4 machines",
            "did you mean --os linux or --type machines?",
        ),
        ("-g rg-none --os linux", "that matches -g rg-none; it sees 4 machines", "list the machines"),
    ] {
        for command in ["list", "warm", "setup", "teardown", "known-hosts"] {
            let failed = run(w.command(ARCSSH).arg(command).args(options.split_whitespace()));
            assert_eq!(failed.code, Some(5), "{command} {options}: {}", failed.stderr);
            assert!(failed.stderr.contains(error) && failed.stderr.contains(hint), "{}", failed.stderr);
        }
    }
    let invalid = run(w.command(ARCSSH).args(["list", "--status", "lost"]));
    assert_eq!(invalid.code, Some(2));
    assert!(invalid.stderr.contains("connected, disconnected, expired, error, awaiting-connection"));
}

#[test]
fn host_entries_are_selected_by_system_and_type_but_not_by_status() {
    let w = fleet();
    let config = w.home().join(".ssh/config");
    let text = || std::fs::read_to_string(&config).unwrap();
    run(w.command(ARCSSH).args(["config", "--os", "linux", "--type", "machines", "--user", "ada"]));
    assert!(text().contains(r#""os":["linux"],"types":["machines"]"#), "{}", text());
    run(w.command(ARCSSH).arg("config"));
    for (name, _) in FLEET {
        let is_selected = ["lin01", "off01"].contains(&name);
        assert_eq!(text().contains(&format!("Host {name}\n")), is_selected, "{name}: {}", text());
    }
    let before = text();
    let rejected = run(w.command(ARCSSH).args(["config", "--status", "connected"]));
    assert_eq!(rejected.code, Some(2));
    assert!(rejected.stderr.contains("must not depend on the status"), "{}", rejected.stderr);
    assert_eq!(text(), before);
}
