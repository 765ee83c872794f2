//! `arcssh setup` and `arcssh teardown` with `--sshd` and `--entra`: the extensions of machines.

use std::process::{Command, Stdio};
use std::time::Duration;

use arcssh_emulator::{ArmCall, ArmFault, Machine, Role, Service};
use serde_json::{Value, json};

use crate::setup::{on_a_terminal, write_requests};
use crate::support::{Lab, Run, eventually, finish, lab_with, run, signal};

const ENTRA: [&str; 2] = ["Microsoft.Azure.ActiveDirectory", "AADSSHLoginForLinux"];
const SSHD: [&str; 2] = ["Microsoft.Azure.OpenSSH", "WindowsOpenSSH"];

/// The machine m01, on Linux unless the test changes that.
fn m01() -> Machine {
    Machine::new("m01")
}

fn windows() -> Machine {
    m01().os_name("windows")
}

/// A lab with m01, on whose SSH port web01's sshd listens.
fn lab_of(machine: Machine) -> Lab {
    lab_of_all([machine])
}

fn lab_of_all<const N: usize>(machines: [Machine; N]) -> Lab {
    let names = ["m01", "m02", "m03"];
    let w = lab_with(&["web01"], |builder| {
        machines.into_iter().fold(builder, |builder, one| builder.machine(one))
    });
    for name in &names[..N] {
        w.emulator().machine(name).set_ssh_port(w.sshd().port());
    }
    w
}

fn arcssh(w: &Lab, words: &str) -> Run {
    run(&mut w.arcssh(&words.split(' ').collect::<Vec<_>>()))
}

/// Lines of arcssh, with N for each number of seconds.
fn lines(run: &Run) -> Vec<String> {
    let line = |line: &str| match line.rsplit_once("after ") {
        Some((start, end)) if end.ends_with(" s") => format!("{start}after N s"),
        _ => line.to_owned(),
    };
    run.arcssh_lines().into_iter().map(line).collect()
}

fn state(w: &Lab, name: &str) -> Value {
    w.emulator()
        .machine("m01")
        .extension(name)
        .map_or(Value::Null, |extension| extension["properties"]["provisioningState"].clone())
}

#[test]
fn entra_logins_are_installed_on_linux() {
    let w = lab_of(m01());
    let port = w.sshd().port();
    let run = arcssh(&w, "setup m01 --entra --yes");
    let id = w.emulator().machine("m01").resource_id();
    assert_eq!(
        lines(&run),
        [
            "arcssh: m01 in rg-arc: install the extension AADSSHLoginForLinux".to_owned(),
            format!("arcssh: m01 in rg-arc: SSH is enabled on port {port}; nothing to change"),
            "arcssh: m01: the extension AADSSHLoginForLinux is installed, after N s".into(),
            "arcssh: m01: ready, the agent responded after N s".into(),
            format!("arcssh: hint: to allow a user to log in with Entra ID, an owner runs: az role assignment create --role 'Virtual Machine User Login' --assignee USER --scope {id}"),
            format!("arcssh: hint: to connect with ssh -p {port} m01, add its host entry: arcssh config m01 --port {port} --entra").replace(&format!("ssh -p {port} m01"), "ssh m01"),
        ]
    );
    assert_eq!((run.code, write_requests(&w)), (Some(0), vec!["PUT AADSSHLogin".into()]));
    let extension = w.emulator().machine("m01").extension("AADSSHLogin").unwrap();
    let [publisher, kind] = ENTRA;
    assert_eq!(extension["properties"]["publisher"], publisher);
    assert_eq!((&extension["properties"]["type"], &extension["location"]), (&json!(kind), &json!("eastus")));
    let again = arcssh(&w, "setup m01 --entra --dry-run");
    assert_eq!(again.code, Some(0), "{}", again.stderr);
    assert_eq!(
        lines(&again)[0],
        "arcssh: m01 in rg-arc: the extension AADSSHLoginForLinux is installed; nothing to change"
    );
}

#[test]
fn sshd_is_installed_on_windows_before_the_agent_connects_to_it() {
    let w = lab_of(windows().without_endpoint());
    let port = w.sshd().port();
    let run = arcssh(&w, &format!("setup m01 --sshd --yes --port {port}"));
    assert_eq!((run.code, state(&w, "WindowsOpenSSH")), (Some(0), json!("Succeeded")), "{}", run.stderr);
    assert_eq!(write_requests(&w), ["PUT WindowsOpenSSH", "PUT default", "PUT SSH"]);
    assert!(!run.stderr.contains("role assignment"), "{}", run.stderr);
}

#[test]
fn an_option_for_the_other_system_is_rejected_before_any_change() {
    let w = lab_of(m01().without_endpoint());
    arcssh(&w, "setup m01 --sshd --yes").failed(
        1,
        &[
            "arcssh: cannot set up m01: --sshd does not apply to this machine: on Linux, sshd is a package of the distribution",
            "arcssh: hint: on the machine, install the package openssh-server and start sshd; then run: arcssh doctor rg-arc/m01",
        ],
    );
    assert_eq!(write_requests(&w), [""; 0]);
    let w = lab_of(windows().without_endpoint());
    arcssh(&w, "setup m01 --entra --yes").failed(
        1,
        &[
            "arcssh: cannot set up m01: --entra does not apply to this machine: with ssh, Entra ID users log in to Linux only",
            "arcssh: hint: log in as a local or domain user: arcssh config MACHINE --user NAME",
        ],
    );
    assert_eq!(write_requests(&w), [""; 0]);
}

#[test]
fn each_of_several_machines_gets_what_fits() {
    let m02 = Machine::new("m02").os_name("windows");
    let w = lab_of_all([m01(), m02]);
    let port = w.sshd().port();
    let enabled =
        |name: &str| format!("arcssh: {name} in rg-arc: SSH is enabled on port {port}; nothing to change");
    let both = arcssh(&w, "setup m01 m02 --sshd --entra --dry-run");
    let expected = [
        "arcssh: m01 in rg-arc: install the extension AADSSHLoginForLinux".to_owned(),
        enabled("m01"),
        "arcssh: m02 in rg-arc: install the extension WindowsOpenSSH".to_owned(),
        enabled("m02"),
    ];
    assert_eq!((both.code, lines(&both)), (Some(1), expected.to_vec()));
    let one = arcssh(&w, "setup m01 m02 --sshd --yes");
    assert_eq!(one.code, Some(0), "{}", one.stderr);
    assert_eq!(
        lines(&one)[0],
        "arcssh: m01 in rg-arc: --sshd does not apply: on Linux, sshd is a package of the distribution"
    );
    assert_eq!(write_requests(&w), ["PUT WindowsOpenSSH"]);
}

#[test]
fn the_plan_is_confirmed_once_on_a_terminal() {
    let w = lab_of(m01());
    let port = w.sshd().port();
    let plan = format!(
        "arcssh: m01 in rg-arc: install the extension AADSSHLoginForLinux\narcssh: m01 in rg-arc: SSH is enabled on port {port}; nothing to change\narcssh: apply these changes for all users of these machines? [y/N] "
    );
    let declined = on_a_terminal(&w, "setup m01 --entra", "n\n");
    assert!(declined.code == Some(1) && declined.stderr.contains(&plan), "{}", declined.stderr);
    assert_eq!(write_requests(&w), [""; 0]);
    w.emulator().machine("m01").set_extension_delay(Duration::from_secs(3));
    let run = on_a_terminal(&w, "setup m01 --entra", "y\nn\n");
    assert!(run.code == Some(0) && run.stderr.contains(&plan), "{}", run.stderr);
    let progress = "arcssh: waiting for the extension AADSSHLoginForLinux of m01 (Creating); ";
    assert!(run.stderr.contains(progress), "{:?}", run.stderr);
    assert_eq!(run.stderr.matches("[y/N]").count(), 1, "{}", run.stderr);
    let done = "\narcssh: m01: the extension AADSSHLoginForLinux is installed, after ";
    assert!(run.stderr.contains(done), "{:?}", run.stderr);
}

#[test]
fn without_a_terminal_or_yes_no_extension_is_installed() {
    let w = lab_of(m01());
    let run = arcssh(&w, "setup m01 --entra");
    assert_eq!(run.code, Some(1));
    assert!(run.stderr.contains("nothing was changed: there is no terminal"), "{}", run.stderr);
    assert_eq!(write_requests(&w), [""; 0]);
}

#[test]
fn a_missing_permission_is_reported_before_the_question() {
    let w = lab_of(m01());
    w.emulator().set_role(Role::LocalUserLogin);
    let id = w.emulator().machine("m01").resource_id();
    let skipped = "arcssh: m01 in rg-arc: install the extension AADSSHLoginForLinux; skipped, because the account lacks a permission";
    let lacks = "arcssh: cannot set up m01: the service principal (application c11e4700-0000-4000-8000-000000000001) lacks the permission Microsoft.HybridCompute/machines/extensions/write";
    let hint = format!(
        "arcssh: hint: ask an owner of the machine to run: az role assignment create --role 'Azure Connected Machine Resource Administrator' --assignee 0b1ec700-0000-4000-8000-000000000001 --scope {id}"
    );
    let run = on_a_terminal(&w, "setup m01 --entra", "y\n");
    assert_eq!(run.code, Some(4), "{}", run.stderr);
    for line in [skipped, lacks, &hint] {
        assert!(run.stderr.lines().any(|shown| shown == line), "{line}\nis not in\n{}", run.stderr);
    }
    assert!(!run.stderr.contains("[y/N]"), "{}", run.stderr);
    let unasked = arcssh(&w, "setup m01 --entra --yes");
    assert_eq!(unasked.code, Some(4));
    assert!(
        unasked.stderr.contains(&format!("{lacks} (403 AuthorizationFailed)\n{hint}")),
        "{}",
        unasked.stderr
    );
}

/// Each property of a machine with which its agent installs no extension.
#[test]
fn a_machine_that_cannot_install_an_extension_is_reported_before_any_change() {
    let other = json!([{ "publisher": "Microsoft.Azure.Monitor", "type": "AzureMonitorLinuxAgent" }]);
    let own = json!([{ "publisher": ENTRA[0], "type": ENTRA[1] }]);
    let not_installed = "the agent does not install the extension AADSSHLoginForLinux, because of its";
    let cases = [
        (m01().offline(), 7, "because Azure reports the machine as Disconnected since ", "azcmagent show"),
        (
            m01().agent_version("1.30.02000.1"),
            1,
            "agent 1.30.02000.1 does not support SSH",
            "update the package azcmagent",
        ),
        (
            m01().config_mode(Some("monitor")),
            1,
            &format!("{not_installed} monitor mode"),
            "sudo azcmagent config set config.mode full",
        ),
        (
            m01().agent_setting("extensionsEnabled", json!("false")),
            1,
            &format!("{not_installed} setting extensions.enabled"),
            "extensions.enabled true",
        ),
        (
            m01().agent_setting("extensionsAllowList", other),
            1,
            &format!("{not_installed} setting extensions.allowlist"),
            "extensions.allowlist Microsoft.Azure.ActiveDirectory/AADSSHLoginForLinux --add",
        ),
        (
            m01().agent_setting("extensionsBlockList", own.clone()),
            1,
            &format!("{not_installed} setting extensions.blocklist"),
            "--remove",
        ),
        (m01().without_identity(), 1, "has no system-assigned managed identity", "azcmagent connect"),
        (
            m01().resource_type("Microsoft.ScVmm/virtualMachines"),
            1,
            "on a machine of the type Microsoft.ScVmm/virtualMachines",
            "in the Azure portal",
        ),
        (m01().os_name(""), 1, "Azure does not show the operating system", "arcssh doctor rg-arc/m01"),
    ];
    for (machine, code, why, hint) in cases {
        let w = lab_of(machine);
        let run = arcssh(&w, "setup m01 --entra --yes");
        assert_eq!(run.code, Some(code), "{}", run.stderr);
        assert!(run.stderr.contains(why) && run.stderr.contains(hint), "{why}: {}", run.stderr);
        assert_eq!(write_requests(&w), [""; 0], "{why}");
    }
    let w = lab_of(m01().agent_setting("extensionsAllowList", own));
    assert_eq!(arcssh(&w, "setup m01 --entra --yes").code, Some(0));
}

#[test]
fn a_failure_shows_the_message_of_the_extension_without_control_characters() {
    let w = lab_of(m01());
    let message = "Non-zero exit code: 20\n\u{1b}[31mCannot access https://packages.microsoft.com/ol/";
    w.emulator().machine("m01").fail_extension(message);
    let run = arcssh(&w, "setup m01 --entra --yes");
    assert_eq!(run.code, Some(1), "{}", run.stderr);
    let expected = "arcssh: cannot set up m01: the extension AADSSHLoginForLinux failed (Non-zero exit code: 20  [31mCannot access https://packages.microsoft.com/ol/)";
    let shown = run.arcssh_lines();
    assert_eq!(shown[2], expected);
    assert!(shown[3].ends_with("to try again, run: arcssh setup rg-arc/m01 --entra"), "{}", shown[3]);
    // Another run offers to install it again.
    let plan = arcssh(&w, "setup m01 --entra --dry-run");
    assert_eq!(plan.code, Some(1));
    let expected = "arcssh: m01 in rg-arc: remove the extension AADSSHLoginForLinux, which has failed, and install it again (Non-zero exit code: 20  [31mCannot access https://packages.microsoft.com/ol/)";
    assert_eq!(plan.arcssh_lines()[0], expected);
}

#[test]
fn a_failed_extension_is_installed_again_with_its_name_and_settings() {
    let [publisher, kind] = ENTRA;
    let properties = json!({
        "publisher": publisher, "type": kind, "typeHandlerVersion": "1.0.2385.1", "enableAutomaticUpgrade": false,
        "autoUpgradeMinorVersion": true, "settings": { "proxy": "http://proxy:3128" },
    });
    let w = lab_of(m01().extension_resource("login", properties.clone(), "Failed", Some("exit code 22")));
    let run = arcssh(&w, "setup m01 --entra --yes");
    assert_eq!(
        (run.code, write_requests(&w)),
        (Some(0), vec!["DELETE login".into(), "PUT login".into()]),
        "{}",
        run.stderr
    );
    let extension = w.emulator().machine("m01").extension("login").unwrap();
    assert_eq!((&extension["tags"], state(&w, "login")), (&json!({ "owner": "ops" }), json!("Succeeded")));
    for (name, value) in properties.as_object().unwrap() {
        assert_eq!(&extension["properties"][name], value, "{name}");
    }
}

#[test]
fn an_extension_of_another_type_with_the_usual_name_is_never_replaced() {
    let other = json!({ "publisher": "Contoso", "type": "Login" });
    let w = lab_of(m01().extension_resource("aadsshlogin", other, "Succeeded", None));
    let run = arcssh(&w, "setup m01 --entra --yes");
    assert_eq!(
        (run.code, write_requests(&w)),
        (Some(0), vec!["PUT AADSSHLoginForLinux".into()]),
        "{}",
        run.stderr
    );
    let kept = w.emulator().machine("m01").extension("aadsshlogin").unwrap();
    assert_eq!(kept["properties"]["publisher"], "Contoso");
}

#[test]
fn an_installation_in_progress_is_waited_for_without_a_request() {
    let w = lab_of(m01());
    let m01 = w.emulator().machine("m01");
    m01.set_extension_delay(Duration::from_secs(3));
    let first = arcssh(&w, "setup m01 --entra --yes --wait 0");
    assert_eq!(first.code, Some(1), "{}", first.stderr);
    let pending = "arcssh: cannot set up m01: the extension AADSSHLoginForLinux is still in the state Creating after 0 s";
    let hint = "arcssh: hint: check that the machine is on and its Arc agent runs; to continue waiting, run: arcssh setup rg-arc/m01 --entra";
    assert_eq!(first.arcssh_lines()[2..], [pending, hint]);
    let second = arcssh(&w, "setup m01 --entra");
    assert_eq!(second.code, Some(0), "no question: {}", second.stderr);
    assert_eq!(
        lines(&second)[0],
        "arcssh: m01 in rg-arc: the extension AADSSHLoginForLinux is Creating; wait until it is installed"
    );
    assert_eq!(write_requests(&w), ["PUT AADSSHLogin"]);
}

#[test]
fn another_change_in_progress_delays_the_request() {
    let w = lab_of(m01());
    let text = "An extension of type AADSSHLoginForLinux is still processing. Only one instance of an extension may be in progress at a time for the same resource. Please retry after sometime.";
    w.emulator().arm_fault(ArmFault::new(409, "HCRP409", text).on(ArmCall::Extension));
    let late = arcssh(&w, "setup m01 --entra --yes");
    assert_eq!((late.code, write_requests(&w).len()), (Some(0), 2), "{}", late.stderr);
    let w = lab_of(m01());
    w.emulator().arm_fault(ArmFault::new(409, "HCRP409", text).on(ArmCall::Extension).times(9));
    let never = arcssh(&w, "setup m01 --entra --yes --wait 0");
    assert!(never.code == Some(1) && never.stderr.contains(text), "{}", never.stderr);
}

#[test]
fn a_policy_and_a_lock_are_reported() {
    for (fault, why) in [
        (
            ArmFault::new(403, "RequestDisallowedByPolicy", "no extensions here"),
            "Azure Policy denies the request of ",
        ),
        (ArmFault::new(409, "ScopeLocked", "The scope cannot perform write operation."), "a lock protects "),
    ] {
        let w = lab_of(m01());
        w.emulator().arm_fault(fault.on(ArmCall::Extension));
        let run = arcssh(&w, "setup m01 --entra --yes");
        assert!(run.code == Some(4) && run.stderr.contains(why), "{}", run.stderr);
        assert_eq!(write_requests(&w).len(), 1, "one request");
    }
}

/// An operation can fail without an extension, for instance if its version does not exist.
#[test]
fn an_operation_that_creates_no_extension_is_reported_with_its_error() {
    let w = lab_of(m01());
    let missing = "The Resource 'm01/extensions/AADSSHLogin' under resource group 'rg-arc' was not found.";
    let m01 = w.emulator().machine("m01");
    m01.set_extension_delay(Duration::from_secs(2));
    let mut setup = w.arcssh(&["setup", "m01", "--entra", "--yes"]);
    let child = setup.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    assert!(eventually(Duration::from_secs(30), || !write_requests(&w).is_empty()));
    let failed = r#"{"status":"Failed","error":{"code":"HCRP404","message":"no such version"}}"#;
    w.emulator().arm_fault(ArmFault::new(404, "ResourceNotFound", missing).on(ArmCall::Extension).times(99));
    w.emulator()
        .arm_fault(ArmFault::raw(200, "application/json", failed).on(ArmCall::OperationStatus).times(99));
    let run = finish(child);
    let expected = "arcssh: cannot set up m01: the extension AADSSHLoginForLinux failed (no such version)";
    assert_eq!((run.code, run.arcssh_lines()[2]), (Some(1), expected), "{}", run.stderr);
}

#[test]
fn an_interrupted_wait_says_that_azure_continues() {
    let w = lab_of(m01());
    w.emulator().machine("m01").set_extension_delay(Duration::from_secs(60));
    let mut setup: Command = w.arcssh(&["setup", "m01", "--entra", "--yes"]);
    let child = setup.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let polled = || {
        let requests = w.emulator().requests_to(Service::Arm);
        requests
            .iter()
            .any(|one| one.method == "GET" && one.path_and_query.contains("/extensions/AADSSHLogin?"))
    };
    assert!(eventually(Duration::from_secs(30), polled));
    signal(child.id(), "INT");
    let run = finish(child);
    assert_eq!((run.code, state(&w, "AADSSHLogin")), (Some(130), json!("Creating")), "{}", run.stderr);
    let last = run.arcssh_lines().last().copied().unwrap_or_default().to_owned();
    assert_eq!(
        last,
        "arcssh: m01: Azure completes the change of the extension AADSSHLoginForLinux that it has accepted; to see its state, run: arcssh setup rg-arc/m01 --entra --dry-run"
    );
}

#[test]
fn teardown_removes_only_the_extension_that_an_option_names() {
    let [publisher, kind] = ENTRA;
    let w =
        lab_of(m01().extension(publisher, kind, "Succeeded").extension("Contoso", "Monitor", "Succeeded"));
    assert_eq!(arcssh(&w, "teardown m01 --yes").code, Some(0));
    assert_eq!(write_requests(&w), ["DELETE SSH"]);
    let dry = on_a_terminal(&w, "teardown m01 --entra --sshd", "n\n");
    let plan = "arcssh: m01 in rg-arc: remove the extension AADSSHLoginForLinux; Entra ID users can no longer log in\n";
    assert!(dry.code == Some(1) && dry.stderr.contains(plan), "{}", dry.stderr);
    let run = arcssh(&w, "teardown m01 --entra --sshd --yes");
    assert_eq!(
        (run.code, state(&w, "extension0"), state(&w, "extension1")),
        (Some(0), Value::Null, json!("Succeeded")),
        "{}",
        run.stderr
    );
    let shown = lines(&run);
    assert_eq!(shown[1], "arcssh: m01: the extension AADSSHLoginForLinux is removed, after N s");
    let [publisher, kind] = SSHD;
    let w = lab_of(windows().extension(publisher, kind, "Succeeded"));
    w.emulator().set_role(Role::LocalUserLogin);
    let denied = on_a_terminal(&w, "teardown m01 --sshd", "y\n");
    let plan = "remove the extension WindowsOpenSSH; sshd goes away with it, and open sessions end; skipped, because the account lacks a permission";
    assert!(denied.code == Some(4) && denied.stderr.contains(plan), "{}", denied.stderr);
    assert_eq!(write_requests(&w), [""; 0]);
}

#[test]
fn the_doctor_suggests_the_option_and_installs_sshd_after_a_question() {
    let w = lab_of(windows());
    let closed = crate::support::closed_port();
    w.emulator().machine("m01").set_ssh_port(closed);
    let report = arcssh(&w, &format!("doctor m01 --port {closed}"));
    let text = String::from_utf8(report.stdout).unwrap();
    let hint = format!("to install sshd, run:\n        arcssh setup rg-arc/m01 --port {closed} --sshd");
    let flat = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(flat(&text).contains(&flat(&hint)), "{text}");
    let fixed = on_a_terminal(&w, &format!("doctor m01 --port {closed} --fix"), "n\n").stderr;
    assert!(fixed.contains("m01 in rg-arc: install the extension WindowsOpenSSH\n"), "{fixed}");
    assert_eq!(write_requests(&w), [""; 0]);
}
