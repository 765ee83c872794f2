//! `arcssh list`: table, JSON and Ansible inventory.

use std::collections::BTreeSet;

use arcssh_emulator::{ArmCall, ArmFault, Builder, EntraFault, Machine, RelayFault, SUBSCRIPTION, Service};
use serde_json::{Value, json};

use crate::support::{ARCSSH, Lab, lab, lab_with, on_a_terminal, run};

const OTHER: &str = "5b5c4700-0000-4000-8000-000000000002";

/// Machines with different groups, tags, subscriptions and states.
fn machines() -> Lab {
    machines_with(|builder| builder)
}

fn machines_with(configure: impl FnOnce(Builder) -> Builder) -> Lab {
    let machines = [
        Machine::new("db01").resource_group("rg-a").tag("env", "test"),
        Machine::new("db01").resource_group("rg-b").tag("env", "live"),
        Machine::new("a-machine-with-a-long-name").resource_group("rg-b").os_name("windows").offline(),
        Machine::new("far").subscription(OTHER).tag("env", "live"),
    ];
    lab_with(&["Web01"], |builder| {
        configure(machines.into_iter().fold(builder, |builder, machine| builder.machine(machine)))
    })
}

#[track_caller]
fn list(w: &Lab, arguments: &[&str]) -> String {
    run(w.arcssh(&["list"]).args(arguments)).clean()
}

#[track_caller]
fn json(w: &Lab, arguments: &[&str]) -> Value {
    serde_json::from_str(&list(w, arguments)).unwrap()
}

/// GROUP/NAME of each listed machine.
#[track_caller]
fn names(w: &Lab, arguments: &[&str]) -> Vec<String> {
    let machines = json(w, &[arguments, &["--format", "json"]].concat());
    let name =
        |m: &Value| format!("{}/{}", m["resourceGroup"].as_str().unwrap(), m["name"].as_str().unwrap());
    machines.as_array().unwrap().iter().map(name).collect()
}

const ALL: [&str; 5] =
    ["rg-b/a-machine-with-a-long-name", "rg-a/db01", "rg-b/db01", "rg-arc/far", "rg-arc/Web01"];

#[test]
fn the_default_format_is_a_table() {
    let w = machines();
    let table = list(&w, &[]);
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(lines.len(), 1 + ALL.len(), "{table}");
    let titles = ["NAME", "GROUP", "STATUS", "AGENT", "OS", "LAST CHANGE", "HOST ENTRY", "SUBSCRIPTION"];
    let columns: Vec<usize> = titles.iter().map(|title| lines[0].find(title).unwrap()).collect();
    let cells = |line: &str| -> Vec<String> {
        let ends = columns[1..].iter().copied().chain([line.len()]);
        columns.iter().zip(ends).map(|(start, end)| line[*start..end].trim_end().to_owned()).collect()
    };
    for (line, name) in lines[1..].iter().zip(ALL) {
        let cells = cells(line);
        assert_eq!(format!("{}/{}", cells[1], cells[0]), name, "{table}");
        let (status, os) = match cells[0].len() {
            26 => ("Disconnected", "windows"),
            _ => ("Connected", "linux"),
        };
        assert_eq!(
            (cells[2].as_str(), cells[3].as_str(), cells[4].as_str()),
            (status, "1.67.03504.1320", os)
        );
        let shape: String = cells[5].chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
        assert_eq!(shape.trim_end_matches('Z'), "0000-00-00 00:00:00", "{table}");
        let (entry, subscription) = match name {
            "rg-arc/Web01" => ("Web01", "Subscription 1"),
            "rg-arc/far" => ("-", "Subscription 2"),
            _ => ("-", "Subscription 1"),
        };
        assert_eq!((cells[6].as_str(), cells[7].as_str()), (entry, subscription), "{table}");
        assert!(columns[1..].iter().all(|start| line[..*start].ends_with("  ")), "{table}");
    }
    assert_eq!(list(&w, &["--all", "--format", "table"]), table);
}

/// Characters that a terminal interprets or hides: C0 and C1 controls, bidirectional marks, invisible characters, tags.
const STEERING: &str = "\u{1b}[2J\u{1b}]0;x\u{7}\u{9b}2J\u{9d}0;x\u{9c}\u{85}\r\u{202e}\u{2066}\u{61c}\u{200b}\u{200f}\u{2060}\u{feff}\u{ad}\u{180e}\u{fe0f}\u{e0041}\u{fff9}\u{2028}\nForged: all is well";

/// Returns a character of [`STEERING`] in the text of a terminal, whose line ends are CR LF.
fn steering_character(screen: &str) -> Option<char> {
    let hidden = |c: char| c.is_control() && !"\r\n".contains(c) || STEERING.contains(c) && !c.is_ascii();
    screen.replace("\r\n", "\n").chars().find(|c| *c == '\r' || hidden(*c))
}

/// Machines whose texts are all [`STEERING`]. The name of one contains U+3164, an invisible letter.
fn steering_machines() -> Lab {
    let w = lab_with(&["web01"], |builder| builder);
    let row = json!({
        "id": w.id().replace("machines/web01", "machines/web\u{3164}01"), "tags": { "note": STEERING, STEERING: "x" },
        "location": STEERING, "properties": {
            "status": STEERING, "osName": STEERING, "agentVersion": STEERING, "lastStatusChange": STEERING, "vmId": STEERING,
        },
    });
    let mut named = row.clone();
    named["id"] = w.id().into();
    let body = json!({ "data": [row, named] }).to_string();
    let fault = ArmFault::raw(200, "application/json", &body);
    w.emulator().arm_fault(fault.on(ArmCall::ResourceGraph).times(100));
    w
}

/// The output of a command on a terminal.
fn screen(w: &Lab, command: &str) -> String {
    let mut terminal = w.command("script");
    terminal.env("NO_COLOR", "1");
    on_a_terminal(terminal, &format!("stty cols 200; {ARCSSH} {command}")).1
}

#[test]
fn texts_of_a_machine_cannot_control_the_terminal() {
    let w = steering_machines();
    for command in
        ["list", "list --format json", "list --list", "list --format ansible", "config --all --dry-run"]
    {
        let screen = screen(&w, command);
        assert_eq!(steering_character(&screen), None, "{command}: {screen:?}");
        assert!(screen.contains("web"), "{command}: {screen:?}");
    }
    let table = list(&w, &[]);
    assert_eq!(table.lines().count(), 3, "{table:?}");
    // JSON contains Azure's text unchanged.
    assert_eq!(json(&w, &["--format", "json"])[0]["tags"]["note"], STEERING);
    let variables = json(&w, &["--list"])["_meta"]["hostvars"].take();
    assert_eq!(variables["web01"]["arc"]["tags"]["note"]["__ansible_unsafe"], STEERING);
    assert_eq!(variables.as_object().unwrap().len(), 1, "an invisible letter is not allowed in an ssh name");
}

#[test]
fn columns_line_up_under_wide_characters_and_marks() {
    let machines =
        ["机器", "e\u{301}", "web02"].map(|os| Machine::new(&format!("m{}", os.len())).os_name(os));
    let w = lab_with(&[], |builder| machines.into_iter().fold(builder, Builder::machine));
    let table = list(&w, &[]);
    let starts: Vec<usize> =
        table.lines().map(|line| columns(&line[..line.trim_end().rfind("  ").unwrap()])).collect();
    assert_eq!(starts, [starts[0]; 4], "{table}");
}

/// The columns of a line on a terminal, for the characters in these tests (EastAsianWidth.txt of Unicode).
fn columns(line: &str) -> usize {
    let width = |c: char| match c {
        '机' | '器' | '👍' | '\u{1f3fd}' => 2,
        '\u{301}' => 0,
        _ => 1,
    };
    line.chars().map(width).sum()
}

/// Machines with long names, wide characters, a hostile status, and the same names in several groups and subscriptions.
fn wide_machines() -> Lab {
    let long = |end: &str| format!("contoso-production-westeurope-{}-{end}", "x".repeat(40));
    let machines = [
        Machine::new("db01").resource_group(&long("001")),
        Machine::new("db01").resource_group(&long("002")),
        Machine::new("db01").resource_group(&long("002")).subscription(OTHER),
        Machine::new(&"机器".repeat(20)).resource_group(&"机".repeat(60)).os_name(&"👍\u{1f3fd}".repeat(30)),
        Machine::new("a").os_name(&"e\u{301}".repeat(90)).offline(),
    ];
    lab_with(&["web01"], |builder| machines.into_iter().fold(builder, Builder::machine))
}

#[test]
fn a_table_fits_any_terminal_and_distinguishes_machines_with_the_same_name() {
    let w = wide_machines();
    for limit in [200, 100, 60, 40, 24] {
        let shown = screen_of_width(&w, limit, "list");
        let (table, rest) = shown.split_once("\n\n").unwrap();
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines.len(), 7, "{shown}");
        assert!(shown.lines().all(|line| columns(line) <= limit), "{limit}: {shown}");
        assert!(limit > 200 || table.contains('…'), "{limit}: {shown}");
        assert_eq!(rest, "6 machines\n");
        if limit >= 40 {
            let mut same: Vec<&&str> = lines.iter().filter(|line| line.starts_with("db01 ")).collect();
            same.dedup();
            assert_eq!(same.len(), 3, "{limit}: {shown}");
        }
    }
    let table = list(&w, &[]);
    assert!(!table.contains('…') && table.contains(&"👍\u{1f3fd}".repeat(30)), "{table}");
}

/// The output of a command on a terminal of this width, without colours.
fn screen_of_width(w: &Lab, width: usize, command: &str) -> String {
    let mut terminal = w.command("script");
    terminal.env("NO_COLOR", "1");
    on_a_terminal(terminal, &format!("stty cols {width}; {ARCSSH} {command}")).1.replace('\r', "")
}

#[test]
fn a_terminal_shows_relative_times_colours_and_the_next_command() {
    let w = lab_with(&[], |builder| {
        builder
            .machine(Machine::new("db01").resource_group("rg-a").offline())
            .machine(Machine::new("db02").resource_group("rg-a"))
    });
    let colored = on_a_terminal(w.command("script"), &format!("stty cols 100; {ARCSSH} list")).1;
    assert!(colored.contains("\u{1b}[31mDisconnected\u{1b}[0m"), "{colored:?}");
    assert!(!colored.contains("mConnected"), "{colored:?}");
    let row = |shown: &str| {
        let line = shown.lines().find(|line| line.starts_with("db01 ")).unwrap();
        line.split("  ")
            .map(|cell| cell.trim().to_owned())
            .filter(|cell| !cell.is_empty())
            .collect::<Vec<_>>()
    };
    let last_lines = |shown: &str| shown.split_once("\n\n").unwrap().1.to_owned();
    let shown = screen_of_width(&w, 100, "list");
    assert!(row(&shown)[5].ends_with(" ago"), "{shown}");
    assert_eq!(last_lines(&shown), "2 machines, none with a host entry\nto add them: arcssh config --all\n");
    let shown = screen_of_width(&w, 36, "list -g rg-a db02");
    let next = "to add them:\n  arcssh config db02 -g rg-a\n";
    assert_eq!(last_lines(&shown), format!("2 machines, none with a host entry\n{next}"));
    let shown = screen_of_width(&w, 100, "list --all");
    assert!(last_lines(&shown).ends_with("\nto add them: arcssh config --all\n"), "{shown}");
    let shown = screen_of_width(&w, 100, "list db02");
    let next = "to add them: arcssh config db02\n";
    assert_eq!(last_lines(&shown), format!("1 machine, none with a host entry\n{next}"));
    let empty = lab_with(&[], |builder| builder);
    let shown = screen_of_width(&empty, 100, "list");
    assert_eq!(shown, "no machines\nto see your account: arcssh account\n");
}

/// The host entry of each listed machine. ssh connects to that machine through arcssh.
fn host_entries(w: &Lab) -> Vec<(String, Option<String>)> {
    let machines = json(w, &["--format", "json"]);
    let entry = |machine: &Value| {
        let alias = machine["hostEntry"].as_str().map(str::to_owned);
        if let Some(alias) = &alias {
            let resolved = run(w.command("ssh").args(["-T", "-G", alias])).clean();
            let line = resolved.lines().find(|line| line.starts_with("proxycommand ")).unwrap();
            let id = machine["id"].as_str().unwrap();
            assert!(line.contains(id) || line.contains(" proxy --host "), "{alias}: {line}");
        }
        (machine["id"].as_str().unwrap().rsplit('/').next().unwrap().to_owned(), alias)
    };
    machines.as_array().unwrap().iter().map(entry).collect()
}

#[test]
fn a_host_entry_is_shown_under_the_name_that_ssh_knows() {
    let w = lab_with(&[], |builder| {
        let machines = [("Web01", "rg-a"), ("db01", "rg-a"), ("db01", "rg-b"), ("shop", "rg-a")];
        let machine = |(name, group): (&str, &str)| Machine::new(name).resource_group(group);
        machines.into_iter().map(machine).fold(builder, Builder::machine)
    });
    let expected = |entries: [Option<&str>; 4]| {
        let machines = ["db01", "db01", "shop", "Web01"].into_iter().zip(entries);
        machines.map(|(name, entry)| (name.to_owned(), entry.map(str::to_owned))).collect::<Vec<_>>()
    };
    assert_eq!(host_entries(&w), expected([None, None, None, None]));
    let shop = format!(
        "Host Laden\n  ProxyCommand {ARCSSH} proxy {} --port %p\n",
        w.emulator().machine("shop").resource_id()
    );
    std::fs::write(w.configuration(), shop).unwrap();
    run(&mut w.arcssh(&["config", "web01", "rg-b/db01"]));
    assert_eq!(host_entries(&w), expected([None, Some("db01.rg-b"), Some("Laden"), Some("web01")]));
    run(&mut w.arcssh(&["config", "--wildcard", "*.arc"]));
    let all = [Some("db01.rg-a.arc"), Some("db01.rg-b"), Some("Laden"), Some("web01")];
    assert_eq!(host_entries(&w), expected(all));
    std::fs::rename(w.configuration(), w.home().join(".ssh/arc.conf")).unwrap();
    let include = "Include arc.conf\nHost other\n  Include absent.conf\n";
    std::fs::write(w.configuration(), include).unwrap();
    assert_eq!(host_entries(&w), expected(all), "in a file of an Include");
    std::fs::write(w.configuration(), "Host other\n  Include arc.conf\n").unwrap();
    assert_eq!(host_entries(&w), expected([None; 4]), "ssh reads the file for another host only");
    std::fs::write(w.configuration(), include).unwrap();
    let shown = screen_of_width(&w, 100, "list");
    assert!(shown.ends_with("\n4 machines\n"), "{shown}");
}

#[test]
fn error_texts_cannot_control_the_terminal() {
    let faults: [fn(&Lab); 4] = [
        |w| w.emulator().arm_fault(ArmFault::new(400, STEERING, STEERING).times(9)),
        |w| {
            w.emulator().arm_fault(
                ArmFault::new(
                    403,
                    "AuthorizationFailed",
                    &format!("{STEERING} perform action '{STEERING}' with object id '{STEERING}'"),
                )
                .times(9),
            )
        },
        |w| w.emulator().entra_fault(EntraFault::new(400, "invalid_grant", 70043, STEERING).times(9)),
        |w| {
            w.emulator()
                .relay_fault(RelayFault::refuse(403, "\u{9b}2J\u{202e}\u{200b}\u{e0041}Forged").always())
        },
    ];
    for (number, fault) in faults.into_iter().enumerate() {
        let w = lab(&["web01"]);
        fault(&w);
        let proxy = format!("proxy {} --wait 0", w.id());
        for command in [
            &proxy,
            &format!("{proxy} -vv"),
            "last",
            "doctor web01",
            "doctor web01 --json",
            "account",
            "cache show",
        ] {
            let screen = screen(&w, &format!("{command} </dev/null"));
            assert_eq!(steering_character(&screen), None, "{number} {command}: {screen:?}");
            assert!(command != proxy || screen.contains("Forged"), "{number}: {screen:?}");
        }
    }
}

#[test]
fn a_log_file_has_one_line_per_event_without_control_characters() {
    let w = lab(&["web01"]);
    w.emulator().entra_fault(EntraFault::new(400, "invalid_grant", 70043, STEERING).times(9));
    w.emulator().arm_fault(ArmFault::new(400, STEERING, STEERING).times(9));
    for words in [&["-vvv"][..], &["-v"]] {
        run(w.proxy("web01").args(["--wait", "0", "--log-file", "log"]).args(words));
    }
    let log = std::fs::read_to_string(w.home().join("log")).unwrap();
    assert_eq!(steering_character(&log), None, "{log:?}");
    assert!(log.lines().all(|line| line.starts_with("20")), "{log}");
}

#[test]
fn json_contains_all_properties() {
    let w = machines();
    let machines = json(&w, &["--format", "json", "web01"]);
    let machine = w.emulator().machine("web01");
    let mut expected = json!([{
        "name": "Web01", "alias": "web01", "hostEntry": "Web01", "resourceGroup": "rg-arc", "subscription": SUBSCRIPTION, "id": machine.resource_id(),
        "vmId": machine.vm_id(), "status": "Connected", "agentVersion": "1.67.03504.1320", "os": "linux", "tags": {},
    }]);
    expected[0]["lastStatusChange"] = machines[0]["lastStatusChange"].clone();
    assert_eq!(machines, expected);
}

#[test]
fn machines_are_selected_by_group_tag_subscription_and_name() {
    let w = machines();
    assert_eq!(names(&w, &[]), ALL);
    assert_eq!(names(&w, &["--all"]), ALL);
    assert_eq!(names(&w, &["-g", "RG-B"]), [ALL[0], ALL[2]]);
    assert_eq!(names(&w, &["-g", "rg-a", "-g", "rg-b"]), ALL[..3]);
    assert_eq!(names(&w, &["--tag", "env=live"]), [ALL[2], ALL[3]]);
    assert_eq!(names(&w, &["-g", "rg-b", "--tag", "env=live"]), [ALL[2]]);
    assert_eq!(names(&w, &["-s", OTHER]), [ALL[3]]);
    assert_eq!(names(&w, &["rg-a/db01", "WEB01"]), [ALL[1], ALL[4]]);
}

#[test]
fn a_filter_without_machines_is_an_error_except_for_an_inventory() {
    let w = machines();
    for filter in ["-g nope", "--tag env=nope"] {
        let list = |more: &[&str]| run(w.arcssh(&["list"]).args(filter.split(' ')).args(more));
        list(&[]).failed(
            5,
            &[
                &format!("arcssh: the account sees no Arc machine that matches {filter}; it sees 5 machines"),
                "arcssh: hint: list the machines that the account sees: arcssh list",
            ],
        );
        assert_eq!(list(&["--list"]).code, Some(0), "an inventory can be empty");
    }
}

#[test]
fn an_ambiguous_name_lists_the_candidates() {
    let w = machines();
    run(&mut w.arcssh(&["list", "db01"])).failed(
        5,
        &[
            "arcssh: 2 machines are named db01: rg-a/db01, rg-b/db01",
            "arcssh: hint: name the machine as GROUP/NAME",
        ],
    );
    run(&mut w.arcssh(&["list", "db02"])).failed(
        5,
        &[
            "arcssh: the account sees no Arc machine named db02",
            "arcssh: hint: did you mean db01? Otherwise, list the machines that the account sees: arcssh list",
        ],
    );
}

#[test]
fn an_ambiguous_name_in_the_same_group_lists_the_subscriptions() {
    let w = lab_with(&[], |builder| {
        builder
            .machine(Machine::new("db01").offline())
            .machine(Machine::new("db01").subscription(OTHER).offline())
    });
    let aliases = [SUBSCRIPTION, OTHER].map(|id| format!("db01.rg-arc.{id}"));
    for name in ["db01", "rg-arc/db01"] {
        let failed = run(&mut w.arcssh(&["list", name]));
        let [line, hint] = failed.arcssh_lines()[..] else { panic!("{}", failed.stderr) };
        let (_, candidates) = line.split_once(&format!("arcssh: 2 machines are named {name}: ")).unwrap();
        let candidates: BTreeSet<&str> = candidates.split(", ").collect();
        assert_eq!(candidates, aliases.iter().map(String::as_str).collect());
        assert_eq!((failed.code, hint), (Some(5), "arcssh: hint: name the machine with one of these names"));
    }
    for alias in &aliases {
        assert_eq!(names(&w, &[alias]), ["rg-arc/db01"]);
    }
    assert_eq!(names(&w, &["db01", "-s", "subscription 2"]), ["rg-arc/db01"]);
    for command in ["warm", "known-hosts"] {
        let failed = run(&mut w.arcssh(&[command, "--all", "--wait", "0"]));
        let line =
            failed.stderr.lines().find(|line| line.starts_with("arcssh: cannot connect to 2 machines: "));
        let line = line.unwrap_or_else(|| panic!("{}", failed.stderr));
        assert!(line.ends_with(&format!(": {}", aliases.join(", "))), "{line}");
    }
    let shown = run(&mut w.arcssh(&["last"])).clean();
    let other = shown.lines().last().unwrap();
    assert!(aliases.iter().any(|alias| other.starts_with(&format!("{alias} "))), "{shown}");
    let shown = run(&mut w.arcssh(&["cache", "show"])).clean();
    for alias in &aliases {
        let start = format!("relay     {alias} ");
        let rows = shown.lines().filter(|line| line.starts_with(&start) && line.contains("  SSH 22  "));
        assert_eq!(rows.count(), 1, "{shown}");
    }
}

#[test]
fn an_unknown_value_is_an_error_with_a_suggestion() {
    let w = lab_with(&[], |builder| {
        let machines = [("web01", "rg-web", "prod"), ("web02", "rg-web", "test"), ("db01", "rg-db", "prod")];
        let machine =
            |(name, group, env): (&str, &str, &str)| Machine::new(name).resource_group(group).tag("env", env);
        machines
            .into_iter()
            .map(machine)
            .fold(builder, Builder::machine)
            .machine(Machine::new("far").subscription(OTHER))
    });
    let list = "list the machines that the account sees: arcssh list";
    let account = "check account and tenant: arcssh account; to use another tenant, add --tenant TENANT, or run: arcssh login --tenant TENANT";
    for (arguments, error, suggestion, hint) in [
        ("-g rg-wbe", "no Arc machine that matches -g rg-wbe; it sees 4 machines", "rg-web", list),
        ("-g web", "no Arc machine that matches -g web; it sees 4 machines", "rg-web", list),
        ("-g rg-db -g rg-wbe", "no Arc machine that matches -g rg-wbe; it sees 4 machines", "rg-web", list),
        (
            "--tag env=Prod",
            "no Arc machine that matches --tag env=Prod; it sees 4 machines",
            "env=prod",
            list,
        ),
        (
            "--tag evn=test",
            "no Arc machine that matches --tag evn=test; it sees 4 machines",
            "env=test",
            list,
        ),
        ("wbe01", "no Arc machine named wbe01", "web01", list),
        ("web03", "no Arc machine named web03", "web01 or web02", list),
        ("rg-wbe/web02", "no Arc machine named rg-wbe/web02", "rg-web/web02", list),
        ("rg-web", "no Arc machine named rg-web", "-g rg-web", list),
        ("web01.contoso.com", "no Arc machine named web01.contoso.com", "web01", list),
        (
            "-s Subscriptoin",
            "no subscription named Subscriptoin",
            "Subscription 1 or Subscription 2",
            account,
        ),
        (
            "-g rg-db --tag env=test",
            "no Arc machine that matches -g rg-db --tag env=test; it sees 4 machines",
            "",
            list,
        ),
        ("-g zzzzzz", "no Arc machine that matches -g zzzzzz; it sees 4 machines", "", list),
        ("xy", "no Arc machine named xy", "", list),
    ] {
        let hint = match suggestion {
            "" => hint.to_owned(),
            _ => format!("did you mean {suggestion}? Otherwise, {hint}"),
        };
        for command in ["list", "warm", "config", "known-hosts", "setup"] {
            let mut arcssh = w.arcssh(&[command]);
            if arguments.starts_with("-s") {
                arcssh.arg("--all");
            }
            let failed = run(arcssh.args(arguments.split(' ')));
            let lines = [&format!("arcssh: the account sees {error}"), &*format!("arcssh: hint: {hint}")];
            failed.failed(5, &lines);
        }
    }
}

#[test]
fn inventory_modes_print_all_variables_or_those_of_one_host() {
    let w = machines();
    let read = |arguments: &[&str]| -> Value {
        let listed = run(w.arcssh(&["list"]).args(arguments));
        let note = "arcssh: the inventory has no group rg_rg_arc, because several resource groups match: ";
        let groups = format!("rg-arc in {SUBSCRIPTION}, rg-arc in {OTHER}\n");
        assert!(listed.stderr.contains(note) && listed.stderr.ends_with(&groups), "{}", listed.stderr);
        serde_json::from_slice(&listed.stdout).unwrap()
    };
    let inventory = read(&["--list"]);
    assert_eq!(read(&["--format", "ansible"]), inventory);
    let hosts = json!(["a-machine-with-a-long-name", "db01.rg-a", "db01.rg-b", "far", "web01"]);
    assert_eq!(inventory["arc"]["hosts"], hosts);
    assert_eq!(inventory["rg_rg_b"]["hosts"], json!([hosts[0], hosts[2]]));
    // Two subscriptions have a resource group rg-arc.
    let with_subscription = |id: &str| format!("rg_rg_arc_2d_{}", id.replace('-', ""));
    assert_eq!(inventory[with_subscription(OTHER)]["hosts"], json!([hosts[3]]));
    assert_eq!(inventory[with_subscription(SUBSCRIPTION)]["hosts"], json!([hosts[4]]));
    assert_eq!(inventory["rg_rg_arc"], Value::Null);
    assert_eq!(inventory["os_windows"]["hosts"], json!([hosts[0]]));
    let variables = &inventory["_meta"]["hostvars"];
    assert_eq!(variables.as_object().unwrap().len(), ALL.len());
    assert_eq!(variables["db01.rg-b"]["arc"]["tags"], json!({ "env": { "__ansible_unsafe": "live" } }));
    assert_eq!(json(&w, &["--host", "db01.rg-b"]), variables["db01.rg-b"]);
    assert_eq!(json(&w, &["--host", "unknown"]), json!({}));
}

#[test]
fn two_resource_groups_never_have_the_same_group_in_the_inventory() {
    let groups = ["rg-arc", "RG_ARC", "rg.arc", "rg-arc-2d", "rgarc"];
    let machines = groups.iter().enumerate();
    let w = lab_with(&[], |builder| {
        machines.fold(builder, |builder, (number, group)| {
            builder.machine(Machine::new(&format!("m{number}")).resource_group(group))
        })
    });
    let listed = run(&mut w.arcssh(&["list", "--list"]));
    assert_eq!(listed.code, Some(0), "{}", listed.stderr);
    let inventory: Value = serde_json::from_slice(&listed.stdout).unwrap();
    let names =
        ["rg_rg_arc_2d_", "rg_rg_arc_5f", "rg_rg_arc_2e", "rg_rg_arc_2d_2d2d", "rg_rgarc"].iter().enumerate();
    for (number, name) in names {
        let own = SUBSCRIPTION.replace('-', "");
        let name = if name.ends_with('_') { format!("{name}{own}") } else { (*name).to_owned() };
        assert_eq!(inventory[&name]["hosts"], json!([format!("m{number}")]), "{name}: {inventory}");
    }
    let note = "arcssh: the inventory has no group rg_rg_arc, because several resource groups match: ";
    assert!(listed.stderr.contains(note), "{}", listed.stderr);
}

#[test]
fn without_resource_graph_lists_return_the_same_machines() {
    let w = machines_with(|builder| builder.page_size(1));
    let graph = json(&w, &["--format", "json"]);
    let pages = |path: &str| {
        w.emulator().requests_to(Service::Arm).iter().filter(|r| r.path_and_query.contains(path)).count()
    };
    assert_eq!(pages("Microsoft.ResourceGraph"), ALL.len());
    w.emulator()
        .arm_fault(ArmFault::new(403, "AuthorizationFailed", "No.").on(ArmCall::ResourceGraph).times(9));
    assert_eq!(json(&w, &["--format", "json"]), graph);
    assert_eq!(pages("/providers/Microsoft.HybridCompute/machines"), ALL.len());
    assert_eq!(names(&w, &["-s", OTHER]), [ALL[3]]);
    assert_eq!(names(&w, &["-g", "rg-b"]), [ALL[0], ALL[2]]);
}
