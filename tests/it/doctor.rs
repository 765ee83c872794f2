//! `arcssh doctor`: for each fault, doctor reports exactly that one, with the same hint as `arcssh proxy`.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use arcssh_emulator::{ArmCall, ArmFault, Builder, Machine, RelayFault, Role, SUBSCRIPTION, Service};
use serde_json::Value;
use unicode_width::UnicodeWidthStr as _;

use crate::support::{
    ARCSSH, LIMIT, Lab, closed_port, lab, lab_with, on_a_terminal, run, run_with_input, script, service,
};

mod bundle;
mod screen;
mod unreadable;

/// A fault and the expected report of doctor.
struct Case {
    /// Label of the case.
    fault: &'static str,
    /// Configures the emulator.
    azure: fn(Builder) -> Builder,
    /// Changes the lab.
    lab: fn(&Lab),
    /// Changes the commands of doctor and proxy.
    program: fn(&Lab, &mut Command),
    /// The argument, from web01's resource ID.
    target: fn(String) -> String,
    /// Name of the failing check.
    check: &'static str,
    outcome: &'static str,
    /// Part of the check's text. `{HOME}` is replaced.
    why: &'static str,
    /// The code.
    code: &'static str,
    /// The hint. `{ID}`, `{SUBSCRIPTION}`, `{PORT}`, `{RELAY}` and `{HOME}` are replaced.
    fix: &'static str,
    proxy: Proxy,
}

/// Expected result of `arcssh proxy` for the same fault.
#[derive(Clone, Copy, PartialEq)]
enum Proxy {
    /// Fails with the same hint.
    SameHint,
    /// Fails with a less exact hint.
    Fails,
    /// Connects.
    Connects,
}

impl Default for Case {
    fn default() -> Self {
        Self {
            fault: "",
            azure: |builder| builder,
            lab: |_| {},
            program: |_, _| {},
            target: |id| id,
            check: "",
            outcome: "failed",
            why: "",
            code: "",
            fix: "",
            proxy: Proxy::SameHint,
        }
    }
}

/// Name, outcome, text and hint of each check that neither passed nor was skipped.
fn problems(report: &Value) -> Vec<[String; 4]> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let checks = report["checks"].as_array().expect("checks").iter();
    let output = checks
        .map(|check| [&check["name"], &check["outcome"], &check["text"], &check["hint"]["text"]].map(text));
    output.filter(|[_, outcome, ..]| !matches!(outcome.as_str(), "passed" | "skipped")).collect()
}

fn find<'a>(report: &'a Value, name: &str) -> &'a Value {
    report["checks"].as_array().unwrap().iter().find(|check| check["name"] == name).unwrap()
}

fn doctor(w: &Lab, target: &str, rest: &[&str]) -> Command {
    let (file, port) = (w.configuration().display().to_string(), w.sshd().port().to_string());
    w.arcssh(&[&["doctor", target, "--file", &file, "--port", &port], rest].concat())
}

/// The names of the checks that have this reason, and no result.
fn with_reason(report: &Value, reason: &str) -> Vec<String> {
    let checks = report["checks"].as_array().unwrap().iter();
    let checks = checks.filter(|check| check["outcome"] == "skipped" && check["reason"] == reason);
    checks.map(|check| check["name"].as_str().unwrap().to_owned()).collect()
}

/// Asserts that each check without a result has a reason, and that one which is blocked names a failed one.
fn assert_reasons(report: &Value) {
    for check in report["checks"].as_array().unwrap() {
        assert_eq!(check["outcome"] == "skipped", check["reason"].is_string(), "{check}");
        assert_ne!(check["reason"], "interrupted", "{report:#}");
        if check["reason"] == "blocked" {
            let cause = find(report, check["blocked_by"].as_str().unwrap());
            assert_eq!(cause["outcome"], "failed", "{check}: {cause}");
        }
    }
}

/// The lines that a terminal of this width shows when doctor has ended, without colours. doctor erases the line with the
/// checks that run. `change` changes the environment.
fn screen(w: &Lab, columns: usize, words: &[&str], change: impl Fn(&mut Command)) -> Vec<String> {
    let words: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
    let mut script = w.command("/usr/bin/script");
    change(&mut script);
    let command = format!("/bin/stty cols {columns} rows 50; {ARCSSH} doctor {}", words.join(" "));
    visible(&on_a_terminal(script, &command).1)
}

fn visible(output: &str) -> Vec<String> {
    let line = |line: &str| {
        let line = line.rsplit("\r\u{1b}[K").next().unwrap_or_default().trim_end_matches('\r');
        let mut parts = line.split("\u{1b}[");
        let start = parts.next().unwrap_or_default().to_owned();
        let line = parts.fold(start, |line, part| line + part.split_once('m').unwrap_or_default().1);
        assert!(
            !line.contains(|c: char| c.is_control()) && !line.contains("checking "),
            "{line:?}\n{output}"
        );
        line
    };
    output.lines().map(line).collect()
}

/// Asserts that each line fits into the terminal, except a command, which has a line of its own.
#[track_caller]
fn assert_fits(screen: &[String], columns: usize) {
    for (number, line) in screen.iter().enumerate() {
        let is_command = number > 0 && screen[number - 1].ends_with(':') && line.starts_with("    ");
        assert!(is_command || line.width() <= columns, "{columns}: {line:?}\n{screen:#?}");
    }
}

/// Text without the places where lines end, and without numbers: seconds that remain, and the ID of a request.
fn compact(text: &str) -> String {
    text.chars().filter(|c| !c.is_whitespace() && !c.is_ascii_hexdigit() && *c != '-').collect()
}

/// Asserts the screen of a case on a terminal of one of three widths: it ends with the finding and its fix.
fn assert_screen(case: &Case, w: &Lab, target: &str, why: &str, fix: &str) {
    let columns = [100, 60, 40][case.fault.len() % 3];
    let (file, port) = (w.configuration().display().to_string(), w.sshd().port().to_string());
    let words = [target, "--file", &file, "--port", &port];
    let screen = screen(w, columns, &words, |command| (case.program)(w, command));
    assert_fits(&screen, columns);
    let (lines, end) = match screen.iter().position(String::is_empty) {
        Some(empty) => (screen[..empty].join(" "), compact(&screen[empty..].concat())),
        None => panic!("{}: {screen:#?}", case.fault),
    };
    let mark = if case.outcome == "failed" { "FAIL  " } else { "warn  " };
    assert_eq!(
        lines.matches("FAIL  ").count() + lines.matches("warn  ").count(),
        1,
        "{}: {screen:#?}",
        case.fault
    );
    assert!(lines.contains(&format!("{mark}{}", case.check)), "{}: {screen:#?}", case.fault);
    if case.outcome == "failed" {
        let fix = if fix.is_empty() { String::new() } else { format!("Fix: {fix}") };
        assert_eq!(end, compact(&format!("Problem: {why}{fix}")), "{}: {screen:#?}", case.fault);
    } else {
        assert!(
            end.starts_with(&compact("No check failed; 1 has a warning.")),
            "{}: {screen:#?}",
            case.fault
        );
        assert!(compact(&lines).contains(&compact(&format!("hint: {fix}"))) || fix.is_empty(), "{screen:#?}");
    }
}

fn examine(case: &Case) {
    let w = lab_with(&["web01"], case.azure);
    (case.lab)(&w);
    let target = (case.target)(w.id());
    let mut doctor = doctor(&w, &target, &["--json"]);
    (case.program)(&w, &mut doctor);
    let start = Instant::now();
    let examined = run(&mut doctor);
    assert!(start.elapsed() < Duration::from_secs(60), "{}: {:?}", case.fault, start.elapsed());
    let report: Value = serde_json::from_slice(&examined.stdout)
        .unwrap_or_else(|error| panic!("{}: {error}: {}", case.fault, examined.stderr));
    let output = problems(&report);
    assert_reasons(&report);
    let [[name, outcome, why, fix]] = &output[..] else { panic!("{}: {output:#?}\n{report:#}", case.fault) };
    assert_eq!((name.as_str(), outcome.as_str()), (case.check, case.outcome), "{}: {why}", case.fault);
    let port = w.sshd().port().to_string();
    let home = w.home().display().to_string();
    assert!(why.contains(&case.why.replace("{HOME}", &home)), "{}: {why}", case.fault);
    let expected = case
        .fix
        .replace("{ID}", &target)
        .replace("{SUBSCRIPTION}", SUBSCRIPTION)
        .replace("{PORT}", &port)
        .replace("{RELAY}", &w.emulator().relay_authority())
        .replace("{HOME}", &home);
    assert_eq!(fix, &expected, "{}", case.fault);
    assert_eq!(examined.code, Some(i32::from(case.outcome == "failed")), "{}", case.fault);
    assert_eq!(report["ok"], case.outcome != "failed");
    assert_screen(case, &w, &target, why, fix);

    // Without a state directory, each connection has new credentials, which the agent learns a moment later.
    let wait = if case.proxy == Proxy::Connects { "30" } else { "0" };
    let mut proxy = w.arcssh(&["proxy", &target, "--port", &port, "--wait", wait]);
    (case.program)(&w, &mut proxy);
    let proxy = run_with_input(&mut proxy, Vec::new());
    match case.proxy {
        Proxy::Connects => assert_eq!(proxy.code, Some(0), "{}: {}", case.fault, proxy.stderr),
        Proxy::Fails => assert_ne!(proxy.code, Some(0), "{}", case.fault),
        Proxy::SameHint => {
            let hint = proxy.stderr.lines().last().unwrap_or_default();
            assert_eq!(hint.strip_prefix("arcssh: hint: "), Some(fix.as_str()), "{}", case.fault);
        }
    }
    let check = find(&report, case.check);
    assert_eq!(check["code"], case.code, "{}", case.fault);
    let command = check["hint"]["command"].as_str();
    assert!(
        ["fix", "command"].iter().all(|key| check.get(key).is_none())
            && command.is_none_or(|command| fix.ends_with(command)),
        "{check}"
    );
    // A hint that needs another person, a choice or a value is not a command.
    if ["check ", "export ", "connect ", "reconnect ", "ask ", "retry ", "name ", "use ", "move "]
        .iter()
        .any(|start| fix.starts_with(start))
    {
        assert_eq!(command, None, "{}", case.fault);
        return;
    }
    let can_run = ["arcssh setup ", "chmod ", "ssh-keygen "];
    if let Some(start) = can_run.iter().find_map(|start| fix.find(&format!(": {start}"))) {
        assert_eq!(command, Some(&fix[start + 2..]), "{}", case.fault);
        apply_hint(&w, case, &target, &fix[start + 2..]);
    }
}

/// Runs the hint's command as an owner of the machine, and doctor again.
fn apply_hint(w: &Lab, case: &Case, target: &str, fix: &str) {
    w.emulator().set_role(Role::Owner);
    let command = match fix.strip_prefix("arcssh ") {
        Some(words) => format!("{ARCSSH} {words} --yes"),
        None => fix.to_owned(),
    };
    let mut shell = w.command("sh");
    (case.program)(w, &mut shell);
    let fixed = run(shell.args(["-c", &command]));
    assert_eq!(fixed.code, Some(0), "{}: {fix}: {}", case.fault, fixed.stderr);
    let examined = run(&mut doctor(w, target, &["--json"]));
    let report = serde_json::from_slice(&examined.stdout).unwrap();
    assert_eq!(problems(&report), Vec::<[String; 4]>::new(), "{}: {fix}", case.fault);
}

const AGENT: &str =
    "check that the machine is on and its Arc agent is connected: on the machine, run azcmagent show";
const NETWORK: &str =
    "check the network of this computer; if it requires a proxy, run: export HTTPS_PROXY=http://PROXY:PORT";
const SERVICE_PRINCIPAL: &str =
    "check AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET, or unset them and run: arcssh login";
const INSPECTION: &str =
    "if a proxy inspects TLS, append its root certificate to the file in SSL_CERT_FILE, {HOME}/another.pem";
const WEBSOCKETS: &str = "allow WebSocket connections to {RELAY} in the proxy, without TLS inspection";
const SETUP: &str = "enable it: arcssh setup rg-arc/web01 --port {PORT}";
const INSTALL: &str = "run: sudo apt-get install openssh-client";
const SET_CLOCK: &str = "set the clock: sudo timedatectl set-ntp true";
const LIST: &str = "list the machines and their IDs: arcssh list -o json; to remove the host entry of a deleted machine, run: arcssh config --remove NAME";

#[test]
fn a_working_connection_has_no_problem() {
    let w = lab(&["web01"]);
    for target in ["web01", "rg-arc/web01", &w.id()] {
        let examined = run(&mut doctor(&w, target, &["--json"]));
        let report: Value = serde_json::from_slice(&examined.stdout).unwrap();
        assert_eq!((problems(&report), examined.code), (vec![], Some(0)), "{report:#}");
        let passed = |name: &str| {
            let mut checks = report["checks"].as_array().unwrap().iter();
            checks.find(|check| check["name"] == name).is_some_and(|check| check["outcome"] == "passed")
        };
        for name in [
            "ssh",
            "identity",
            "clock",
            "permissions",
            "endpoint",
            "relay",
            "sshd",
            "host key",
            "state directory",
        ] {
            assert!(passed(name), "{name}: {report:#}");
        }
    }
    let writes = w.emulator().requests_to(Service::Arm).into_iter().filter(|r| r.method == "PUT").count();
    assert_eq!(writes, 0);
    assert_eq!(w.ssh_run(&["web01", "echo reached"]).clean(), "reached\n");
}

#[test]
fn a_machine_can_be_named_by_any_alias() {
    let w = lab(&["web01"]);
    let text = fs::read_to_string(w.configuration()).unwrap();
    fs::write(w.configuration(), text.replacen("Host web01", "Host nice", 1)).unwrap();
    let (file, port) = (w.configuration().display().to_string(), w.sshd().port().to_string());
    let wildcard = ["config", "--wildcard", "*.arc", "--port", &port, "--file", &file];
    assert_eq!(run(&mut w.arcssh(&wildcard)).code, Some(0));
    for name in ["nice", "web01.arc", "web01"] {
        let examined = run(&mut doctor(&w, name, &["--json"]));
        let report: Value = serde_json::from_slice(&examined.stdout).unwrap();
        assert_eq!((problems(&report), examined.code), (vec![], Some(0)), "{report:#}");
    }
}

/// Each type has its own API versions. The versions of only one type are documented.
#[test]
fn a_virtual_machine_with_unsupported_api_versions_is_examined() {
    let fault = || ArmFault::new(400, "NoRegisteredProviderFound", "No such version.").on(ArmCall::Machine);
    for (provider, is_known) in [("ConnectedVMwarevSphere", true), ("ScVmm", false), ("AzureStackHCI", false)]
    {
        let kind = format!("Microsoft.{provider}/virtualMachines");
        let w = lab_with(&["web01"], |builder| builder.machine(Machine::new("vm").resource_type(&kind)));
        let vm = w.emulator().machine("vm");
        vm.set_ssh_port(w.sshd().port());
        if !is_known {
            w.emulator().arm_fault(fault().times(2));
        }
        let examined = run(&mut doctor(&w, &vm.resource_id(), &["--json"]));
        let report: Value = serde_json::from_slice(&examined.stdout).unwrap();
        assert_eq!((problems(&report), examined.code), (vec![], Some(0)), "{report:#}");
        assert_eq!(
            find(&report, "private link")["reason"],
            "unknown",
            "no virtual machine has this property"
        );
    }
}

/// The provider does not exist in every cloud.
#[test]
fn a_cloud_without_the_provider_is_reported_once() {
    let w = lab(&["web01"]);
    let message = "The resource namespace 'Microsoft.HybridConnectivity' is invalid.";
    for call in
        [ArmCall::Provider, ArmCall::Endpoint, ArmCall::ServiceConfiguration, ArmCall::ListCredentials]
    {
        w.emulator().arm_fault(ArmFault::new(404, "InvalidResourceNamespace", message).on(call).times(9));
    }
    let examined = run(&mut doctor(&w, &w.id(), &["--json"]));
    let report: Value = serde_json::from_slice(&examined.stdout).unwrap();
    let [[name, outcome, why, _]] = &problems(&report)[..] else { panic!("{report:#}") };
    assert_eq!((name.as_str(), outcome.as_str()), ("resource provider", "failed"));
    let expected =
        format!("this cloud does not provide SSH for Arc machines (InvalidResourceNamespace: {message})");
    assert_eq!(why, &expected);
    assert_eq!(find(&report, "resource provider")["code"], "region-not-served");
}

#[test]
fn a_machine_without_a_status_is_not_called_unreadable() {
    let w = lab(&["web01"]);
    let machine = serde_json::json!({ "id": w.id(), "location": "eastus", "properties": { "status": null } });
    let fault = ArmFault::raw(200, "application/json", &machine.to_string()).on(ArmCall::Machine);
    // The list of extensions is read at the same time.
    w.emulator().arm_fault(fault.times(2));
    let examined = run(&mut doctor(&w, &w.id(), &["--json"]));
    let report: Value = serde_json::from_slice(&examined.stdout).unwrap();
    let check = find(&report, "machine");
    assert_eq!((&check["outcome"], &check["text"]), (&"skipped".into(), &"Azure has no information".into()));
}

#[test]
fn without_a_machine_only_general_checks_run() {
    let w = lab(&["web01"]);
    let examined = run(&mut w.arcssh(&["doctor", "--json", "--file", "no-such-file"]));
    let report: Value = serde_json::from_slice(&examined.stdout).unwrap();
    assert_eq!((problems(&report), examined.code, &report["machine"]), (vec![], Some(0), &Value::Null));
    let outcomes = report["checks"].as_array().unwrap().iter();
    let passed: Vec<&str> =
        outcomes.filter(|check| check["outcome"] == "passed").filter_map(|c| c["name"].as_str()).collect();
    assert_eq!(
        passed,
        [
            "ssh",
            "ssh-keygen",
            "shell",
            "cloud",
            "proxy",
            "root certificates",
            "identity",
            "clock",
            "subscription",
            "network",
            "state directory"
        ]
    );
    assert_eq!(w.emulator().requests_to(Service::Relay).len(), 0);
}

#[test]
fn the_cached_certificate_is_shown() {
    let w = lab(&["web01"]);
    let certificate = || {
        let examined = run(&mut w.arcssh(&["doctor", "--json", "--file", "no-such-file"]));
        let report: Value = serde_json::from_slice(&examined.stdout).unwrap();
        let check = find(&report, "certificate");
        (check["outcome"].to_string(), check["text"].to_string())
    };
    assert_eq!(certificate().0, "\"skipped\"");
    let shown = run(&mut w.arcssh(&["cert"])).clean();
    let (outcome, text) = certificate();
    let name = text.trim_matches('"').split(',').next().unwrap();
    assert!(
        outcome == "\"passed\"" && text.ends_with(", expires in 60 min\"") && shown.contains(name),
        "{text} {shown}"
    );
}

#[test]
fn faults_of_programs_and_files_are_reported() {
    fn with_program(w: &Lab, command: &mut Command, program: &str) {
        let bin = w.home().join("bin");
        let _ = fs::create_dir(&bin);
        let _ = symlink(format!("/usr/bin/{program}"), bin.join(program));
        command.env("PATH", bin);
    }
    fn write_entry(w: &Lab, before: &str, mode: u32) {
        let file = w.configuration();
        fs::remove_file(&file).unwrap();
        let words = ["config", &w.id(), "--user", "ada", "--file", file.to_str().unwrap()];
        assert_eq!(run(&mut w.arcssh(&words)).code, Some(0));
        let text = fs::read_to_string(&file).unwrap();
        fs::write(&file, before.to_owned() + &text).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
    }
    fn connect_and_set_mode(w: &Lab, path: PathBuf, mode: u32) {
        run(&mut w.proxy("web01"));
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }
    let cases = [
        Case {
            fault: "no ssh",
            program: |w, command| with_program(w, command, "ssh-keygen"),
            check: "ssh",
            why: "not installed",
            code: "program-missing",
            fix: INSTALL,
            proxy: Proxy::Connects,
            ..Case::default()
        },
        Case {
            fault: "no ssh-keygen",
            program: |w, command| with_program(w, command, "ssh"),
            check: "ssh-keygen",
            why: "not installed",
            code: "program-missing",
            fix: INSTALL,
            proxy: Proxy::Connects,
            ..Case::default()
        },
        Case {
            fault: "another host key",
            lab: |w| {
                let key = fs::read_to_string(w.sshd().client_key().with_extension("pub")).unwrap();
                fs::write(w.home().join(".ssh/known_hosts"), format!("web01 {key}")).unwrap();
            },
            check: "host key",
            why: "the host key differs from the one in ",
            code: "host-key-changed",
            fix: "if the machine was reinstalled, remove the old key: ssh-keygen -f {HOME}/.ssh/known_hosts -R web01",
            proxy: Proxy::Connects,
            ..Case::default()
        },
        Case {
            fault: "a host entry that another line overrides",
            lab: |w| write_entry(w, "User intruder\n", 0o600),
            check: "ssh configuration",
            why: "ssh does not use the user written for web01",
            code: "config-overridden",
            fix: "move the Host or Match section that contains line 1 of {HOME}/.ssh/config below the managed block",
            proxy: Proxy::Connects,
            ..Case::default()
        },
        Case {
            fault: "an option that ssh does not support",
            lab: |w| write_entry(w, "Prroxy none\n", 0o600),
            check: "ssh configuration",
            why: "line 1: Bad configuration option: prroxy",
            code: "config-rejected",
            fix: "correct the option; if another version of ssh knows it, add it to the first IgnoreUnknown line of your ssh configuration, or begin the file with: IgnoreUnknown prroxy",
            proxy: Proxy::Connects,
            ..Case::default()
        },
        Case {
            fault: "a managed block without an end",
            lab: |w| fs::write(w.configuration(), "# >>> arcssh >>> block 1: kept\n").unwrap(),
            check: "ssh configuration",
            why: "line 1 begins a managed block that no line ends",
            code: "config-rejected",
            fix: "delete the markers of arcssh in {HOME}/.ssh/config and the host entries between them, and repeat the runs of arcssh config that you need; if a later version of arcssh wrote the block, update arcssh",
            proxy: Proxy::Connects,
            ..Case::default()
        },
        Case {
            fault: "a configuration that others may write to",
            lab: |w| write_entry(w, "", 0o666),
            check: "ssh configuration",
            why: "other users can write to {HOME}/.ssh/config (mode 0666), so ssh rejects it",
            code: "insecure-permissions",
            fix: "run: chmod go-w {HOME}/.ssh/config",
            proxy: Proxy::Connects,
            ..Case::default()
        },
        Case {
            fault: "an unusable state directory",
            program: |_, command| {
                command.env("ARCSSH_STATE_DIR", "/dev/null");
            },
            check: "state directory",
            outcome: "warned",
            why: "arcssh cannot write to its state directory, so it caches nothing",
            code: "no-state-directory",
            fix: "name a directory of yours in ARCSSH_STATE_DIR",
            proxy: Proxy::Connects,
            ..Case::default()
        },
        Case {
            fault: "a state directory that others can read",
            lab: |w| connect_and_set_mode(w, w.home().join(".local/state/arcssh"), 0o755),
            check: "state directory",
            why: "other users can access {HOME}/.local/state/arcssh (mode 0755)",
            code: "insecure-permissions",
            fix: "run: chmod 700 {HOME}/.local/state/arcssh",
            ..Case::default()
        },
    ];
    cases.iter().for_each(examine);
}

/// Each shell with its start-up file, and a part of the check's text if ssh cannot use the shell.
const SHELLS: [(&str, &str, &str, Option<&str>); 18] = [
    ("/usr/sbin/nologin", "", "", Some("which does not work: it runs no command (exit status: 1)")),
    ("/bin/false", "", "", Some("it runs no command (exit status: 1)")),
    ("/bin/true", "", "", Some("it runs no command (exit status: 0)")),
    ("/no/such/shell", "", "", Some("which does not work: No such file or directory")),
    ("no-such-shell", "", "", Some("which does not work: No such file or directory")),
    ("/etc/passwd", "", "", Some("which does not work: Permission denied")),
    ("/etc", "", "", Some("which does not work: Permission denied")),
    ("/usr/bin/zsh", ".zshenv", "printf noise", Some("print text into the connection: \"noise\"")),
    ("/usr/bin/zsh", ".zshenv", "seq 2000", Some("print text into the connection: \"1\"")),
    ("/usr/bin/zsh", ".zshenv", "yes", Some("print text into the connection: \"y\"")),
    ("/usr/bin/zsh", ".zshenv", "exec fish", Some("it runs no command")),
    ("/usr/bin/zsh", ".zshenv", "exit 3", Some("it runs no command (exit status: 3)")),
    (
        "/usr/bin/fish",
        ".config/fish/config.fish",
        "printf '\\e]0;title\\a'",
        Some("print text into the connection"),
    ),
    ("/bin/rbash", "", "", Some("it runs no command")),
    ("/usr/bin/zsh", ".zshenv", "echo welcome; sleep 5 2>/dev/null &", None),
    ("/usr/bin/fish", ".config/fish/config.fish", "echo welcome", None),
    ("/bin/bash", ".bashrc", "printf noise", None),
    ("dash", "", "", None),
];

#[test]
fn a_shell_in_which_ssh_cannot_run_arcssh_is_reported() {
    let w = lab(&["web01"]);
    let file = w.configuration().display().to_string();
    fs::remove_file(&file).unwrap();
    let port = w.sshd().port().to_string();
    let add = ["config", &w.id(), "--user", "ada", "--port", &port, "--file", &file];
    assert_eq!(run(&mut w.arcssh(&add)).code, Some(0));
    for (shell, startup, text, fault) in SHELLS {
        let label = format!("{shell}: {text}");
        let startup = w.home().join(startup);
        if !text.is_empty() {
            fs::create_dir_all(startup.parent().unwrap()).unwrap();
            fs::write(&startup, text).unwrap();
        }
        let with_shell = |mut command: Command| run(command.env("SHELL", shell));
        let mut ssh = w.ssh();
        ssh.args(["-o", "StrictHostKeyChecking=yes", "-o", "UserKnownHostsFile=/dev/null"]);
        ssh.args(["-o", "ConnectTimeout=4", "web01", "true"]);
        let reached = with_shell(ssh).stderr.contains("Host key verification failed");
        assert_eq!(reached, fault.is_none(), "{label}");
        let report: Value =
            serde_json::from_slice(&with_shell(doctor(&w, "web01", &["--json"])).stdout).unwrap();
        let verify = with_shell(w.arcssh(&["config", "--verify", "--file", &file]));
        let written = with_shell(w.arcssh(&add));
        if let Some(fault) = fault {
            let [[check, outcome, why, hint]] = &problems(&report)[..] else { panic!("{label}: {report:#}") };
            assert_eq!((check.as_str(), outcome.as_str()), ("shell", "failed"), "{label}: {report:#}");
            assert!(why.contains(fault), "{label}: {why}");
            assert!(hint.ends_with(" another shell: SHELL=/bin/sh ssh NAME"), "{label}: {hint}");
            let lines = [format!("arcssh: {why}"), format!("arcssh: hint: {hint}")];
            assert_eq!(
                (verify.code, &verify.arcssh_lines()[..]),
                (Some(1), &lines.each_ref().map(String::as_str)[..]),
                "{label}"
            );
            assert_eq!(
                (written.code, &written.arcssh_lines()[1..]),
                (Some(1), &lines.each_ref().map(String::as_str)[..]),
                "{label}"
            );
        } else {
            assert_eq!(
                (problems(&report), verify.code, written.code),
                (vec![], Some(0), Some(0)),
                "{label}: {report:#}"
            );
        }
        if !text.is_empty() {
            fs::remove_file(startup).unwrap();
        }
    }
}

#[test]
fn lines_of_the_user_do_not_disturb_the_check_of_the_host_key() {
    let w = lab(&["web01"]);
    let (entry, occupied) = (fs::read_to_string(w.configuration()).unwrap(), service(drop));
    let forward = format!("LocalForward {occupied} localhost:1\nExitOnForwardFailure yes");
    let local = format!("PermitLocalCommand yes\nLocalCommand touch {}/touched", w.home().display());
    let shared = "ControlMaster auto\nControlPath ./c\nControlPersist 60";
    let examine = |lines: &str| {
        fs::write(w.configuration(), format!("{entry}\nHost *\n{lines}\n")).unwrap();
        let examined = run(&mut doctor(&w, "web01", &["--json"]));
        let report: Value = serde_json::from_slice(&examined.stdout).unwrap();
        (problems(&report), find(&report, "host key")["text"].clone())
    };
    for lines in [
        "RemoteCommand tmux new -A -s main\nRequestTTY yes",
        "RequestTTY force",
        "LogLevel QUIET",
        "SessionType none",
        "SessionType subsystem",
        "ForkAfterAuthentication yes\nStdinNull yes",
        shared,
        &forward,
        &local,
        "BatchMode yes\nNumberOfPasswordPrompts 0",
        "ForwardX11 yes\nForwardAgent yes\nTunnel yes\nSendEnv *",
        "VisualHostKey yes\nHashKnownHosts yes\nPreferredAuthentications password",
        "StrictHostKeyChecking yes",
    ] {
        assert_eq!(examine(lines), (vec![], "matches known_hosts".into()), "{lines}");
    }
    assert!(!w.home().join("touched").exists());
    // A shared connection does not hide another host key.
    fs::write(w.configuration(), format!("{entry}\n{shared}\n")).unwrap();
    w.ssh_run(&["web01", "true"]);
    let known_hosts = w.home().join(".ssh/known_hosts");
    let known = fs::read_to_string(&known_hosts).unwrap();
    let key = fs::read_to_string(w.sshd().client_key().with_extension("pub")).unwrap();
    fs::write(&known_hosts, format!("web01 {key}")).unwrap();
    assert!(examine(shared).1.as_str().unwrap().starts_with("the host key differs from the one in "));
    run(w.ssh().args(["-O", "exit", "web01"]));
    // ssh does with an unknown key what the user's lines say.
    fs::write(&known_hosts, "").unwrap();
    for (lines, expected) in [
        ("StrictHostKeyChecking ask", "not in known_hosts yet; ssh will ask"),
        ("StrictHostKeyChecking accept-new", "not in known_hosts yet; ssh will add it"),
        ("StrictHostKeyChecking no", "not in known_hosts; ssh accepts any key"),
    ] {
        assert_eq!(examine(lines), (vec![], expected.into()), "{lines}");
    }
    let hint = "accept it: ssh -o StrictHostKeyChecking=accept-new web01";
    for lines in ["StrictHostKeyChecking yes", "BatchMode yes"] {
        let (found, _) = examine(lines);
        let [[name, outcome, text, fix]] = &found[..] else { panic!("{lines}: {found:?}") };
        assert_eq!((name.as_str(), outcome.as_str(), fix.as_str()), ("host key", "failed", hint), "{lines}");
        assert!(text.starts_with("the host key is not in known_hosts"), "{text}");
    }
    fs::write(&known_hosts, known).unwrap();
    let unstored = entry.replace("UserKnownHostsFile", "UserKnownHostsFile /dev/null #");
    fs::write(w.configuration(), format!("{unstored}StrictHostKeyChecking accept-new\n")).unwrap();
    let report: Value = serde_json::from_slice(&run(&mut doctor(&w, "web01", &["--json"])).stdout).unwrap();
    assert_eq!(find(&report, "host key")["text"], "not in known_hosts; ssh accepts any key");
    // ssh's first error, and not its last.
    let found = examine("ProxyUseFdpass yes").1;
    assert!(found.as_str().unwrap().starts_with("mm_receive_fd: "), "{found}");
}

#[test]
fn faults_of_account_and_network_are_reported() {
    let cases = [
        Case {
            fault: "a wrong secret",
            program: |_, command| {
                command.env("AZURE_CLIENT_SECRET", "wrong");
            },
            check: "identity",
            why: "AADSTS7000215",
            code: "credential-rejected",
            fix: SERVICE_PRINCIPAL,
            ..Case::default()
        },
        Case {
            fault: "a wrong tenant",
            program: |_, command| {
                command.env("AZURE_TENANT_ID", "00000000-0000-4000-8000-000000000000");
            },
            check: "identity",
            why: "AADSTS90002",
            code: "credential-rejected",
            fix: "check the tenant in --tenant, and AZURE_TENANT_ID if you set it; to see the tenant of your account, run: arcssh account",
            ..Case::default()
        },
        Case {
            fault: "an incomplete service principal",
            program: |_, command| {
                command.env_remove("AZURE_CLIENT_ID");
            },
            check: "identity",
            why: "AZURE_CLIENT_ID is not",
            code: "credential-rejected",
            fix: SERVICE_PRINCIPAL,
            ..Case::default()
        },
        Case {
            fault: "no sign-in",
            program: |_, command| {
                command.env("ARCSSH_CREDENTIAL", "arcssh");
            },
            check: "identity",
            why: "no account is signed in to arcssh",
            code: "credential-unavailable",
            fix: "sign in: arcssh login",
            ..Case::default()
        },
        Case {
            fault: "a clock ten minutes behind",
            azure: |builder| builder.clock_offset(600),
            check: "clock",
            why: "s behind Azure's",
            code: "clock-skew",
            fix: SET_CLOCK,
            proxy: Proxy::Connects,
            ..Case::default()
        },
        Case {
            fault: "a clock two minutes ahead",
            azure: |builder| builder.clock_offset(-120),
            check: "clock",
            outcome: "warned",
            why: "s ahead of Azure's",
            code: "clock-skew",
            fix: SET_CLOCK,
            proxy: Proxy::Connects,
            ..Case::default()
        },
        Case {
            fault: "a proxy that does not listen",
            program: |_, command| {
                command.env("HTTPS_PROXY", format!("http://127.0.0.1:{}", closed_port()));
            },
            check: "network",
            why: "the proxy 127.0.0.1:",
            code: "proxy-unreachable",
            fix: "check the proxy's address in HTTPS_PROXY",
            ..Case::default()
        },
        Case {
            fault: "a proxy that speaks another protocol",
            program: |_, command| {
                command.env("HTTPS_PROXY", "socks5://127.0.0.1:1");
            },
            check: "proxy",
            why: "the proxy setting HTTPS_PROXY is invalid: it names a SOCKS proxy",
            code: "unsupported-proxy",
            fix: "use an HTTP proxy: export HTTPS_PROXY=http://PROXY:PORT",
            ..Case::default()
        },
        Case {
            fault: "a proxy setting that cannot be used",
            program: |_, command| {
                command.env("https_proxy", "http://ada:secret@127.0.0.1:port");
            },
            check: "proxy",
            why: "the proxy setting https_proxy is invalid: its port is not a number from 1 to 65535",
            code: "unsupported-proxy",
            fix: "write the proxy as http://USER:PASSWORD@HOST:PORT; in USER and PASSWORD, write % as %25, : as %3A, @ as %40, / as %2F, # as %23 and \\ as %5C",
            ..Case::default()
        },
        Case {
            fault: "a file of root certificates that does not exist",
            program: |w, command| {
                command.env("SSL_CERT_FILE", w.home().join("missing.pem"));
            },
            check: "root certificates",
            why: "missing.pem: No such file or directory (os error 2) (SSL_CERT_FILE names it)",
            code: "unreadable-root-certificates",
            fix: "correct SSL_CERT_FILE, or remove it to trust only the system's certificates: unset SSL_CERT_FILE",
            ..Case::default()
        },
        Case {
            fault: "a proxy that inspects TLS",
            program: |w, command| {
                let certificate = w.home().join("another.pem");
                let mut openssl = w.command("openssl");
                openssl.args([
                    "req",
                    "-x509",
                    "-newkey",
                    "ec",
                    "-pkeyopt",
                    "ec_paramgen_curve:P-256",
                    "-nodes",
                ]);
                openssl.args(["-subj", "/CN=another", "-keyout", "another.key", "-out"]).arg(&certificate);
                assert_eq!(run(&mut openssl).code, Some(0));
                command.env("SSL_CERT_FILE", certificate);
            },
            check: "network",
            why: "an authority that this computer does not trust: arcssh emulator authority",
            code: "untrusted-certificate",
            fix: INSPECTION,
            ..Case::default()
        },
        Case {
            fault: "an unknown host name",
            program: |_, command| {
                command.env("ARCSSH_ARM_ENDPOINT", "https://arm.invalid");
            },
            check: "network",
            why: "failed to lookup address information",
            code: "network-unreachable",
            fix: NETWORK,
            ..Case::default()
        },
    ];
    cases.iter().for_each(examine);
}

#[test]
fn faults_of_azure_resources_are_reported() {
    let cases = [
        Case {
            fault: "an unknown subscription",
            target: |id| id.replace(SUBSCRIPTION, "00000000-0000-4000-8000-000000000001"),
            check: "subscription",
            why: "SubscriptionNotFound",
            code: "subscription-not-found",
            fix: "check account and tenant: arcssh account; to use another tenant, add --tenant TENANT, or run: arcssh login --tenant TENANT",
            ..Case::default()
        },
        Case {
            fault: "a machine that does not exist",
            target: |id| id.replace("web01", "web99"),
            check: "machine",
            why: "the machine does not exist (ResourceNotFound",
            code: "machine-not-found",
            fix: LIST,
            ..Case::default()
        },
        Case {
            fault: "an invalid machine name",
            target: |_| "https://portal.azure.com/#web01".into(),
            check: "machine",
            why: "the resource ID of an Arc machine has the form /subscriptions/",
            code: "invalid-resource-id",
            fix: "use NAME, GROUP/NAME or a resource ID; to list the IDs, run: arcssh list -o json",
            proxy: Proxy::Fails,
            ..Case::default()
        },
        Case {
            fault: "a resource group that does not exist",
            target: |id| id.replace("rg-arc", "rg-none"),
            check: "machine",
            why: "the machine does not exist (ResourceGroupNotFound",
            code: "machine-not-found",
            fix: LIST,
            ..Case::default()
        },
        Case {
            fault: "an unregistered resource provider",
            lab: |w| w.emulator().set_registration_state("NotRegistered"),
            check: "resource provider",
            why: "Microsoft.HybridConnectivity is NotRegistered",
            code: "provider-not-registered",
            fix: SETUP,
            ..Case::default()
        },
        Case {
            fault: "a resource provider that is being registered",
            lab: |w| w.emulator().set_registration_state("Registering"),
            check: "resource provider",
            why: "is Registering",
            code: "provider-not-registered",
            fix: SETUP,
            ..Case::default()
        },
        Case {
            fault: "an unsupported region",
            lab: |w| {
                let served = "No registered resource provider found. The supported locations are 'eastus'.";
                let fault = || ArmFault::new(400, "NoRegisteredProviderFound", served).times(100);
                w.emulator().arm_fault(fault().on(ArmCall::Endpoint));
                w.emulator().arm_fault(fault().on(ArmCall::ListCredentials));
            },
            check: "endpoint",
            why: "does not serve the machine's region (NoRegisteredProviderFound: No registered resource",
            code: "region-not-served",
            fix: "connect the machine in a region that the message names: on the machine, run azcmagent disconnect, then azcmagent connect --location REGION",
            proxy: Proxy::Fails,
            ..Case::default()
        },
        Case {
            fault: "no role",
            azure: |builder| builder.role(Role::None),
            check: "permissions",
            why: "the service principal (application c11e4700-0000-4000-8000-000000000001) has no permission to connect to the machine (403 AuthorizationFailed)",
            code: "access-denied",
            fix: "ask an owner of the machine to run: az role assignment create --role 'Virtual Machine Local User Login' --assignee 0b1ec700-0000-4000-8000-000000000001 --scope {ID}",
            ..Case::default()
        },
        Case {
            fault: "no endpoint",
            lab: |w| w.emulator().machine("web01").remove_endpoint(),
            check: "endpoint",
            why: "the machine has no connectivity endpoint",
            code: "no-endpoint",
            fix: SETUP,
            ..Case::default()
        },
        Case {
            fault: "no endpoint, without permission to read it",
            azure: |builder| builder.role(Role::LocalUserLogin),
            lab: |w| w.emulator().machine("web01").remove_endpoint(),
            check: "endpoint",
            why: "the machine has no connectivity endpoint",
            code: "no-endpoint",
            fix: SETUP,
            ..Case::default()
        },
        Case {
            fault: "no service configuration",
            lab: |w| w.emulator().machine("web01").remove_service_configuration(),
            check: "service configuration",
            why: "SSH is not enabled on the machine",
            code: "service-not-enabled",
            fix: SETUP,
            ..Case::default()
        },
        Case {
            fault: "no service configuration, without permission to read it",
            azure: |builder| builder.role(Role::LocalUserLogin),
            lab: |w| w.emulator().machine("web01").remove_service_configuration(),
            check: "service configuration",
            why: "SSH is not enabled on the machine",
            code: "service-not-enabled",
            fix: SETUP,
            ..Case::default()
        },
        Case {
            fault: "another port is enabled",
            lab: |w| w.emulator().machine("web01").set_ssh_port(7),
            check: "service configuration",
            why: "SSH is enabled on port 7, not on ",
            code: "port-in-use",
            fix: "to disconnect its users and change the port, run: arcssh setup rg-arc/web01 --port {PORT} --replace-port",
            proxy: Proxy::Fails,
            ..Case::default()
        },
        Case {
            fault: "no extension for Entra ID logins",
            azure: |builder| builder.role(Role::UserLogin),
            check: "entra login",
            outcome: "warned",
            why: "the account may log in with Entra ID, but the machine lacks the extension",
            code: "extension-missing",
            fix: "install it: arcssh setup rg-arc/web01 --entra",
            proxy: Proxy::Connects,
            ..Case::default()
        },
        Case {
            fault: "too many requests for credentials",
            lab: |w| {
                let limit = ArmFault::new(429, "TooManyRequests", "Slow down.").header("Retry-After", "300");
                w.emulator().arm_fault(limit.times(100));
            },
            check: "relay",
            why: "Azure Resource Manager throttles requests (429)",
            code: "throttled",
            fix: "retry in 300 s",
            proxy: Proxy::Fails,
            ..Case::default()
        },
    ];
    cases.iter().for_each(examine);
}

#[test]
fn faults_of_machine_agent_and_relay_are_reported() {
    let cases = [
        Case {
            fault: "an offline agent",
            lab: |w| w.emulator().machine("web01").set_online(false),
            check: "machine",
            why: "Disconnected since ",
            code: "agent-offline",
            fix: AGENT,
            ..Case::default()
        },
        Case {
            fault: "an offline agent that Azure still reports as connected",
            lab: |w| {
                w.emulator().machine("web01").set_online(false);
                w.emulator().machine("web01").set_status("Connected");
            },
            check: "relay",
            why: "the machine's Arc agent is not connected to the relay (the relay responded 404 ",
            code: "agent-offline",
            fix: AGENT,
            ..Case::default()
        },
        Case {
            fault: "an expired machine",
            lab: |w| {
                w.emulator().machine("web01").set_online(false);
                w.emulator().machine("web01").set_status("Expired");
            },
            check: "machine",
            why: "Expired since ",
            code: "machine-expired",
            fix: "reconnect the machine: on the machine, run azcmagent disconnect, then azcmagent connect",
            proxy: Proxy::Fails,
            ..Case::default()
        },
        Case {
            fault: "an outdated status",
            lab: |w| w.emulator().machine("web01").set_status("Disconnected"),
            check: "machine",
            outcome: "warned",
            why: "but the machine responds",
            code: "agent-offline",
            proxy: Proxy::Connects,
            ..Case::default()
        },
        Case {
            fault: "a relay that denies the connection",
            lab: |w| w.emulator().relay_fault(RelayFault::refuse(403, "Forbidden.").always()),
            check: "relay",
            why: "the relay or the machine's Arc agent rejected the connection (the relay responded 403 Forbidden",
            code: "connection-rejected",
            fix: "check that SSH is enabled on port {PORT}: arcssh setup rg-arc/web01 --dry-run",
            ..Case::default()
        },
        Case {
            fault: "a relay that rejects the credentials",
            lab: |w| w.emulator().relay_fault(RelayFault::expired_token().always()),
            check: "relay",
            why: "401 ExpiredToken",
            code: "relay-credentials-rejected",
            fix: "check the clock of this computer, and connect again",
            ..Case::default()
        },
        Case {
            fault: "a proxy that removes the upgrade",
            lab: |w| {
                let reason = "This endpoint is only for web-socket requests.";
                w.emulator().relay_fault(RelayFault::refuse(400, reason).always());
            },
            check: "relay",
            why: "a proxy removed the WebSocket upgrade from the request (",
            code: "unexpected-response",
            fix: WEBSOCKETS,
            ..Case::default()
        },
        Case {
            fault: "a relay that times out",
            lab: |w| w.emulator().relay_fault(RelayFault::refuse(504, "Gateway timeout").always()),
            check: "relay",
            why: "the machine's Arc agent did not respond in time (",
            code: "agent-offline",
            fix: AGENT,
            ..Case::default()
        },
    ];
    cases.iter().for_each(examine);
}

#[test]
fn unsuitable_machine_properties_are_reported() {
    type Change = fn(Machine) -> Machine;
    let cases: [(Change, &str, &str, &str, &str); 6] = [
        (
            |machine| machine.config_mode(Some("monitor")).offline(),
            "agent configuration",
            "failed",
            "monitor mode, which disables remote connectivity",
            "agent-restricted",
        ),
        (
            |machine| machine.agent_version("1.30.02313.960").offline(),
            "agent version",
            "failed",
            "1.30.02313.960 does not support service configurations; version 1.31 or later is required",
            "agent-outdated",
        ),
        (
            |machine| machine.agent_version("1.12.21285.002").offline(),
            "agent version",
            "failed",
            "1.12.21285.002 does not support SSH; version 1.31 or later is required",
            "agent-outdated",
        ),
        (
            |machine| machine.config_mode(Some("monitor")),
            "agent configuration",
            "warned",
            "monitor mode",
            "agent-restricted",
        ),
        (|machine| machine.private_link(), "private link", "warned", "private link scope", "private-link"),
        (
            |machine| machine.extension("Microsoft.Azure.ActiveDirectory", "AADSSHLoginForLinux", "Failed"),
            "entra login",
            "warned",
            "the extension for Entra ID logins has the state Failed",
            "extension-failed",
        ),
    ];
    for (change, check, outcome, why, code) in cases {
        let w = lab_with(&["web01"], |builder| {
            builder.machine(change(Machine::new("old").resource_group("rg(x)").ssh_port(22)))
        });
        let machine = w.emulator().machine("old");
        machine.set_ssh_port(w.sshd().port());
        machine.set_status("Connected");
        let examined = run(&mut doctor(&w, &machine.resource_id(), &["--json"]));
        let report = serde_json::from_slice(&examined.stdout).unwrap();
        let output = problems(&report);
        let [[name, result, text, fix]] = &output[..] else { panic!("{output:#?}") };
        assert_eq!((name.as_str(), result.as_str()), (check, outcome), "{text}");
        assert!(text.contains(why) && !fix.is_empty(), "{text}: {fix}");
        assert_eq!(find(&report, check)["code"], code);
        let options = format!(" --resource-group 'rg(x)' --subscription {SUBSCRIPTION}");
        assert_eq!(fix.contains(": az "), fix.contains(&options), "{fix}");
    }
}

#[test]
fn faults_of_the_ssh_server_are_reported() {
    let listen = |kind: &'static str| match kind {
        "" => closed_port(),
        "nothing" => service(drop),
        "HTTP" => service(|mut stream| drop(stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n"))),
        _ => service(|mut stream| {
            let _ = stream.write_all(b"Hello.\r\nSSH-2.0-OpenSSH_7.4\r\n");
            let _ = stream.read(&mut [0]);
        }),
    };
    for (kind, outcome, why, code) in [
        ("", "failed", "no service listens on port ", "port-closed"),
        ("HTTP", "failed", "is not an SSH server", "not-ssh"),
        ("nothing", "failed", "closes each connection without a byte", "sshd-closed"),
        ("SSH-2.0-OpenSSH_7.4", "warned", "only with SHA-1 signatures", "sshd-outdated"),
    ] {
        let w = lab(&["web01"]);
        let port = listen(kind);
        w.emulator().machine("web01").set_ssh_port(port);
        let words = ["doctor", &w.id(), "--port", &port.to_string(), "--json", "--file", "none"];
        let examined = run(&mut w.arcssh(&words));
        let report = serde_json::from_slice(&examined.stdout).unwrap();
        let output = problems(&report);
        let [[name, result, text, fix]] = &output[..] else { panic!("{output:#?}") };
        assert_eq!((name.as_str(), result.as_str()), ("sshd", outcome), "{text}");
        assert!(text.contains(why) && !fix.is_empty(), "{text}");
        assert_eq!(find(&report, "sshd")["code"], code);
        if kind.is_empty() {
            let proxy = run(&mut w.arcssh(&["proxy", &w.id(), "--port", &port.to_string()]));
            assert_eq!(proxy.stderr.lines().last(), Some(format!("arcssh: hint: {fix}").as_str()));
        }
    }
}

#[test]
fn silent_peers_time_out_with_a_hint() {
    fn read_and_stall(stream: TcpStream) {
        let _ = (&stream).read(&mut [0; 4096]);
        thread::park_timeout(LIMIT);
    }
    type Fault = fn(&Lab, &mut Command);
    let cases: [(&str, Fault, &str, &str, &str); 5] = [
        (
            "network",
            |_, doctor| {
                doctor.env("HTTPS_PROXY", format!("http://127.0.0.1:{}", service(read_and_stall)));
            },
            "opens no tunnel to ",
            "proxy-rejected",
            "check the proxy's address in HTTPS_PROXY",
        ),
        (
            "identity",
            |w, doctor| {
                script(&w.home().join("bin"), "az", "#!/bin/sh\nsleep 1000\n");
                doctor.env("PATH", format!("{}:/usr/bin:/bin", w.home().join("bin").display()));
                doctor.env("ARCSSH_CREDENTIAL", "azure-cli");
            },
            "the credential source did not respond within ",
            "timed-out",
            "sign in: arcssh login",
        ),
        (
            "subscription",
            |w, _| {
                let timeout = ArmFault::new(500, "", "").on(ArmCall::Any).after(LIMIT);
                w.emulator().arm_fault(timeout.times(100));
            },
            "Azure Resource Manager did not respond within ",
            "timed-out",
            NETWORK,
        ),
        (
            "relay",
            |w, _| w.emulator().relay_fault(RelayFault::silent_handshake().always()),
            "the relay did not respond within ",
            "agent-offline",
            AGENT,
        ),
        (
            "sshd",
            |w, doctor| {
                let port = service(read_and_stall);
                w.emulator().machine("web01").set_ssh_port(port);
                doctor.args(["--port", &port.to_string(), "--file", "none"]);
            },
            " sent nothing within 10 s",
            "not-ssh",
            "check which service listens on port ",
        ),
    ];
    let examine = |(check, fault, why, code, hint): &(&str, Fault, &str, &str, &str)| {
        let w = lab(&["web01"]);
        let mut doctor = w.arcssh(&["doctor", &w.id(), "--json"]);
        fault(&w, &mut doctor);
        let examined = run(&mut doctor);
        let report = serde_json::from_slice(&examined.stdout).unwrap();
        let output = problems(&report);
        let [[name, outcome, text, fix]] = &output[..] else { panic!("{check}: {output:#?}") };
        assert_eq!((name.as_str(), outcome.as_str()), (*check, "failed"), "{text}");
        assert!(text.contains(why) && fix.starts_with(hint), "{text}: {fix}");
        assert_eq!(find(&report, check)["code"], *code);
    };
    thread::scope(|scope| {
        for case in &cases {
            scope.spawn(|| examine(case));
        }
    });
}

#[test]
fn fix_sets_up_the_machine_and_examines_it_again() {
    let w = lab(&["web01"]);
    w.emulator().machine("web01").remove_endpoint();
    let unconfirmed = run(&mut doctor(&w, &w.id(), &["--fix"]));
    let hint = "arcssh: hint: to confirm without a question, add --yes";
    assert_eq!(
        (unconfirmed.code, unconfirmed.stderr.lines().last()),
        (Some(1), Some(hint)),
        "{}",
        unconfirmed.stderr
    );
    let report = String::from_utf8(unconfirmed.stdout).unwrap();
    assert!(report.contains("FAIL  endpoint "), "the report is printed without confirmation: {report}");
    assert_eq!(report.matches("FAIL  ").count(), 1, "{report}");
    assert!(!w.emulator().machine("web01").has_endpoint());
    let fixed = run(&mut doctor(&w, &w.id(), &["--fix", "--yes", "--json"]));
    let report: Value = serde_json::from_slice(&fixed.stdout).unwrap();
    assert_eq!((problems(&report), fixed.code), (vec![], Some(0)), "{}", fixed.stderr);
    assert_eq!(w.ssh_run(&["web01", "echo reached"]).clean(), "reached\n");
}

#[test]
fn fix_enables_the_port_of_the_host_entry() {
    let w = lab(&["web01"]);
    w.emulator().machine("web01").remove_service_configuration();
    let file = w.home().join("own.conf");
    let port = w.sshd().port().to_string();
    run(w.arcssh(&["config", "web01", "--port", &port, "--file"]).arg(&file)).code.unwrap();
    let fixed = run(w.arcssh(&["doctor", "web01", "--fix", "--yes", "--json", "--file"]).arg(&file));
    let report: Value = serde_json::from_slice(&fixed.stdout).unwrap();
    let failed = problems(&report).into_iter().filter(|complaint| complaint[1] == "failed").count();
    assert_eq!((failed, fixed.code), (0, Some(0)), "{report}");
    assert_eq!(w.ssh_run(&["web01", "echo reached"]).clean(), "reached\n");
}

#[test]
fn fix_never_replaces_an_enabled_port() {
    let w = lab(&["web01"]);
    let (file, port) = (w.home().join("own.conf"), w.sshd().port());
    assert_eq!(run(w.arcssh(&["config", "web01", "--file"]).arg(&file)).code, Some(0));
    let block = fs::read_to_string(&file).unwrap();
    fs::write(w.configuration(), "Include ~/own.conf\n").unwrap();
    let fixed = |machine: &str, lines: &str| {
        fs::write(&file, format!("{block}{lines}")).unwrap();
        let examined = run(w.arcssh(&["doctor", machine, "--fix", "--yes", "--json", "--file"]).arg(&file));
        let report = serde_json::from_slice(&examined.stdout).unwrap();
        (examined.code, problems(&report))
    };
    assert_eq!(
        fixed("web01", &format!("Host *\n  Port {port}\n")),
        (Some(0), vec![]),
        "doctor uses the port of ssh's configuration"
    );
    for (machine, lines, used) in [("rg-arc/web01", "", 22), ("web01", "Host *\n  Port 9\n", 9)] {
        let (code, output) = fixed(machine, lines);
        let [[check, outcome, why, fix]] = &output[..] else { panic!("{output:#?}") };
        assert_eq!((code, check.as_str(), outcome.as_str()), (Some(1), "service configuration", "failed"));
        assert!(
            why.contains(&format!("enabled on port {port}, but your ssh configuration uses {used}")),
            "{why}"
        );
        assert_eq!(fix, &format!("to connect once, run: ssh -p {port} web01"));
    }
    let writes = w.emulator().requests_to(Service::Arm).into_iter().filter(|r| r.method == "PUT").count();
    assert_eq!(writes, 0);
}

#[test]
fn a_configuration_that_ssh_rejects_blocks_the_check_of_the_host_key() {
    let w = lab(&["web01"]);
    let file = w.configuration();
    fs::remove_file(&file).unwrap();
    run(w.arcssh(&["config", &w.id(), "--file"]).arg(&file).arg("--port").arg(w.sshd().port().to_string()));
    let entry = fs::read_to_string(&file).unwrap();
    fs::write(&file, format!("Prroxy none\n{entry}")).unwrap();
    let report: Value = serde_json::from_slice(&run(&mut doctor(&w, &w.id(), &["--json"])).stdout).unwrap();
    assert_eq!(find(&report, "host key")["text"], "fix 'ssh configuration' first");
}

#[test]
fn without_ssh_the_check_of_the_configuration_is_skipped() {
    let w = lab(&["web01"]);
    let file = w.home().join("own.conf");
    assert_eq!(run(w.arcssh(&["config", "web01", "--file"]).arg(&file)).code, Some(0));
    let examined = run(w.arcssh(&["doctor", "--json", "--file"]).arg(&file).env("PATH", w.home()));
    let report: Value = serde_json::from_slice(&examined.stdout).unwrap();
    let check = find(&report, "ssh configuration");
    assert_eq!((&check["outcome"], &check["text"]), (&"skipped".into(), &"fix 'ssh' first".into()));
}

#[test]
fn credential_and_tenant_come_from_the_host_entry_unless_given() {
    let w = lab(&["web01"]);
    script(&w.home().join("bin"), "az", "#!/bin/sh\necho 'Please run az login.' >&2\nexit 1\n");
    let plain = fs::read_to_string(w.configuration()).unwrap();
    let examined = |options: &str, arguments: &[&str]| {
        fs::write(w.configuration(), plain.replacen("--port %p", &format!("--port %p {options}"), 1))
            .unwrap();
        let mut doctor = w.arcssh(&["doctor", "web01", "--json", "--file"]);
        doctor.arg(w.configuration()).args(arguments).env("ARCSSH_CREDENTIAL", "environment");
        doctor.env("PATH", format!("{}:/usr/bin:/bin", w.home().join("bin").display()));
        problems(&serde_json::from_slice(&run(&mut doctor).stdout).unwrap())
    };
    let no_problem = Vec::<[String; 4]>::new();
    assert_eq!(examined("", &[]), no_problem);
    assert_eq!(examined("--credential azure-cli", &["--credential", "environment"]), no_problem);
    for (options, why) in [
        ("--credential azure-cli", "Please run az login."),
        ("--tenant 00000000-0000-4000-8000-000000000000", "AADSTS90002"),
    ] {
        let output = examined(options, &[]);
        let [[check, _, text, _]] = &output[..] else { panic!("{options}: {output:#?}") };
        assert_eq!(check, "identity");
        assert!(text.contains(why), "{options}: {text}");
    }
}
