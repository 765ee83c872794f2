//! `arcssh setup` and `arcssh teardown`: the changes, the confirmation, and no unnecessary write.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use arcssh_emulator::{ArmCall, ArmFault, Machine, Role, SUBSCRIPTION, Service};

use crate::support::{ARCSSH, Lab, Run, closed_port, lab, lab_with, run, run_with_input};

/// Returns whether setup reported that the machine is ready.
fn is_ready(run: &Run) -> bool {
    run.stderr.contains(": ready, the agent responded after ")
}

/// Method and last path segment of each request that changes a resource.
pub(crate) fn write_requests(w: &Lab) -> Vec<String> {
    let requests = w.emulator().requests_to(Service::Arm);
    let words = requests.iter().map(|request| {
        let path = request.path_and_query.split('?').next().unwrap_or_default();
        (request.method.as_str(), path.rsplit('/').next().unwrap_or_default())
    });
    // Resource Graph and listCredentials are POST requests without changes.
    words
        .filter(|word| word.0 != "GET" && !matches!(word.1, "resources" | "listCredentials"))
        .map(|(method, end)| format!("{method} {end}"))
        .collect()
}

fn setup(w: &Lab, rest: &[&str]) -> Command {
    let (id, port) = (w.id(), w.sshd().port().to_string());
    w.arcssh(&[&["setup", &id, "--port", &port], rest].concat())
}

/// Runs a command on a pseudo-terminal with this input. Returns its output as standard error.
pub(crate) fn on_a_terminal(w: &Lab, words: &str, typed: &str) -> Run {
    on_a_terminal_at(w, w.home(), words, typed)
}

/// Does the same with another home directory.
fn on_a_terminal_at(w: &Lab, home: &Path, words: &str, typed: &str) -> Run {
    let command = format!("{ARCSSH} {words}");
    let mut script = w.command_in(home, "script");
    script.env("TERM", "xterm");
    match cfg!(target_os = "linux") {
        true => script.args(["-qec", &command, "/dev/null"]),
        false => script.args(["-q", "/dev/null", "sh", "-c", &command]),
    };
    let run = run_with_input(&mut script, typed.as_bytes().to_vec());
    Run { stderr: String::from_utf8_lossy(&run.stdout).replace('\r', ""), ..run }
}

fn lab_without_setup(state: &str) -> Lab {
    let seconds = Duration::from_secs;
    let state = state.to_owned();
    let w = lab_with(&["web01"], |builder| {
        let builder = builder.registration_state(&state).registration_delay(seconds(4));
        builder.endpoint_delay(seconds(1)).listener_delay(seconds(2))
    });
    w.emulator().machine("web01").remove_endpoint();
    w
}

#[test]
fn setup_from_an_unregistered_subscription_makes_ssh_work() {
    for state in ["NotRegistered", "Unregistered"] {
        let w = lab_without_setup(state);
        let run = run(&mut setup(&w, &["--yes"]));
        assert_eq!(run.code, Some(0), "{}", run.stderr);
        assert_eq!(write_requests(&w), ["POST register", "PUT default", "PUT SSH"]);
        let port = w.sshd().port();
        for line in [
            &format!("arcssh: subscription {SUBSCRIPTION}: register Microsoft.HybridConnectivity"),
            &format!("arcssh: web01 in rg-arc: create the endpoint, enable SSH on port {port}"),
            "arcssh: web01: changed in Azure; the agent usually needs another 30 to 90 s",
            "arcssh: hint: to connect, run: ssh web01",
        ] {
            assert!(run.stderr.lines().any(|shown| shown == line), "{line}\nis not in\n{}", run.stderr);
        }
        assert!(is_ready(&run) && run.stdout.is_empty(), "{}", run.stderr);
        let issued = w.emulator().machine("web01").issued_credentials().len();
        assert_eq!(w.ssh_run(&["web01", "echo reached"]).clean(), "reached\n");
        assert_eq!(
            w.emulator().machine("web01").issued_credentials().len(),
            issued,
            "the credentials were cached"
        );
    }
}

#[test]
fn without_a_terminal_or_yes_nothing_is_changed() {
    let w = lab_without_setup("NotRegistered");
    let port = w.sshd().port();
    run(&mut setup(&w, &[])).failed(
        1,
        &[
            &format!("arcssh: subscription {SUBSCRIPTION}: register Microsoft.HybridConnectivity"),
            &format!("arcssh: web01 in rg-arc: create the endpoint, enable SSH on port {port}"),
            "arcssh: nothing was changed: there is no terminal to ask for confirmation",
            "arcssh: hint: to confirm without a question, add --yes",
        ],
    );
    assert_eq!(write_requests(&w), [""; 0]);
}

#[test]
fn a_dry_run_shows_the_changes_and_makes_none() {
    let w = lab(&["web01"]);
    let port = w.sshd().port();
    let expected = format!("arcssh: web01 in rg-arc: SSH is enabled on port {port}; nothing to change");
    run(&mut setup(&w, &["--dry-run"])).failed(0, &[&expected]);
    w.emulator().machine("web01").remove_service_configuration();
    let expected = format!("arcssh: web01 in rg-arc: enable SSH on port {port}");
    run(&mut setup(&w, &["--dry-run"])).failed(1, &[&expected]);
    assert_eq!(write_requests(&w), [""; 0]);
}

#[test]
fn existing_resources_are_not_written_again() {
    let w = lab(&["web01"]);
    let run_all = run(&mut setup(&w, &[]));
    assert!(
        run_all.code == Some(0) && is_ready(&run_all),
        "no confirmation without a change: {}",
        run_all.stderr
    );
    assert_eq!(write_requests(&w), [""; 0]);
    w.emulator().machine("web01").remove_service_configuration();
    let run = run(&mut setup(&w, &["--yes"]));
    assert!(run.code == Some(0) && is_ready(&run), "{}", run.stderr);
    assert_eq!(write_requests(&w), ["PUT SSH"], "a PUT on an endpoint would disconnect its listener");
}

#[test]
fn an_enabled_port_is_replaced_only_with_replace_port() {
    let w = lab(&["web01"]);
    let port = w.sshd().port();
    let other = closed_port();
    w.emulator().machine("web01").set_ssh_port(other);
    let why = format!(
        "arcssh: cannot set up web01: SSH is already enabled on port {other}; a change to port {port} would disconnect its users"
    );
    let hint = format!(
        "arcssh: hint: to disconnect its users and change the port, run: arcssh setup rg-arc/web01 --port {port} --replace-port"
    );
    run(&mut setup(&w, &["--yes"])).failed(5, &[&why, &hint]);
    assert_eq!(write_requests(&w), [""; 0]);
    let run = run(&mut setup(&w, &["--replace-port", "--yes"]));
    let plan = format!(
        "arcssh: web01 in rg-arc: move SSH from port {other} to {port}; users of port {other} lose access"
    );
    assert_eq!((run.code, run.stderr.lines().next()), (Some(0), Some(plan.as_str())), "{}", run.stderr);
    assert_eq!(
        (write_requests(&w), w.emulator().machine("web01").ssh_port()),
        (vec!["PUT SSH".into()], Some(port))
    );
    assert_eq!(w.ssh_run(&["web01", "echo reached"]).clean(), "reached\n");
}

#[test]
fn without_a_port_option_the_enabled_port_stays() {
    let w = lab(&["web01"]);
    let run = run(&mut w.arcssh(&["setup", &w.id()]));
    assert!(run.code == Some(0) && is_ready(&run), "{}", run.stderr);
    assert_eq!(write_requests(&w), [""; 0]);
}

#[test]
fn a_missing_permission_is_reported_with_the_least_role() {
    let object = "0b1ec700-0000-4000-8000-000000000001";
    let role = |resource: &str, role: &str, scope: &str| {
        format!(
            "arcssh: hint: ask an owner of the {resource} to run: az role assignment create --role '{role}' --assignee {object} --scope {scope}"
        )
    };
    let lacks = |permission: &str| {
        format!(
            "arcssh: cannot set up web01: the service principal (application c11e4700-0000-4000-8000-000000000001) lacks the permission {permission} (403 AuthorizationFailed)"
        )
    };
    let last = |w: &Lab| {
        let run = run(&mut setup(w, &["--yes"]));
        assert_eq!(run.code, Some(4), "{}", run.stderr);
        let lines: Vec<String> = run.stderr.lines().rev().take(2).map(Into::into).collect();
        [lines[1].clone(), lines[0].clone()]
    };
    let w = lab_with(&["web01"], |builder| builder.role(Role::LocalUserLogin));
    w.emulator().machine("web01").remove_service_configuration();
    let manager = role("machine", "Azure Connected Machine Resource Manager", &w.id());
    assert_eq!(
        last(&w),
        [lacks("Microsoft.HybridConnectivity/endpoints/serviceConfigurations/write"), manager.clone()]
    );
    w.emulator().machine("web01").remove_endpoint();
    assert_eq!(last(&w), [lacks("Microsoft.HybridConnectivity/endpoints/write"), manager]);
    w.emulator().set_registration_state("NotRegistered");
    let register = "arcssh: the service principal (application c11e4700-0000-4000-8000-000000000001) lacks the permission Microsoft.HybridConnectivity/register/action (403 AuthorizationFailed)";
    let scope = format!("/subscriptions/{SUBSCRIPTION}");
    assert_eq!(last(&w), [register.to_owned(), role("subscription", "Contributor", &scope)]);
    w.emulator().set_registration_state("Registered");
    w.emulator().set_role(Role::None);
    let connect = "arcssh: cannot set up web01: the service principal (application c11e4700-0000-4000-8000-000000000001) has no permission to connect to the machine (403 AuthorizationFailed)";
    let login = role("machine", "Virtual Machine Local User Login", &w.id());
    assert_eq!(last(&w), [connect.to_owned(), login]);
}

/// For each kind of change, with and without a terminal.
#[test]
fn a_missing_permission_is_part_of_the_plan_and_there_is_no_question() {
    let w = lab_with(&["web01"], |builder| builder.role(Role::LocalUserLogin));
    let machine = w.emulator().machine("web01");
    let (port, id) = (w.sshd().port(), w.id());
    let manager = "Azure Connected Machine Resource Manager";
    let connectivity = "Microsoft.HybridConnectivity";
    let subscription = format!("/subscriptions/{SUBSCRIPTION}");
    let denied = |plan: &str, action: &str, role: &str, scope: &str| {
        let resource = if scope == id { "machine" } else { "subscription" };
        let lines = [
            format!("arcssh: web01 in rg-arc: {plan}; skipped, because the account lacks a permission"),
            format!(
                "arcssh: cannot set up web01: the service principal (application c11e4700-0000-4000-8000-000000000001) lacks the permission {connectivity}/{action}"
            ),
            format!(
                "arcssh: hint: ask an owner of the {resource} to run: az role assignment create --role '{role}' --assignee 0b1ec700-0000-4000-8000-000000000001 --scope {scope}"
            ),
        ];
        for option in [&[][..], &["--dry-run"]] {
            run(&mut setup(&w, option)).failed(4, &lines.each_ref().map(String::as_str));
        }
        let screen = on_a_terminal(&w, &format!("setup {id} --port {port}"), "y\n").stderr;
        assert!(screen.contains(&lines.join("\n")) && !screen.contains("[y/N]"), "{screen}");
        assert_eq!(write_requests(&w), [""; 0]);
    };
    machine.remove_service_configuration();
    denied(&format!("enable SSH on port {port}"), "endpoints/serviceConfigurations/write", manager, &id);
    machine.remove_endpoint();
    let create = format!("create the endpoint, enable SSH on port {port}");
    denied(&create, "endpoints/write", manager, &id);
    w.emulator().set_role(Role::ResourceManager);
    w.emulator().set_registration_state("NotRegistered");
    denied(&create, "register/action", "Contributor", &subscription);
}

#[test]
fn teardown_without_a_permission_asks_nothing() {
    let w = lab_with(&["web01"], |builder| builder.role(Role::ResourceManager));
    for (option, change, action) in [
        ("", "disable SSH", "endpoints/serviceConfigurations/delete"),
        (" --endpoint", "delete the endpoint and all its services", "endpoints/delete"),
    ] {
        let run = on_a_terminal(&w, &format!("teardown {}{option}", w.id()), "y\n");
        let plan =
            format!("arcssh: web01 in rg-arc: {change}; skipped, because the account lacks a permission\n");
        let error = format!(") lacks the permission Microsoft.HybridConnectivity/{action}\n");
        assert_eq!(run.code, Some(4), "{}", run.stderr);
        assert!(run.stderr.contains(&plan) && run.stderr.contains(&error), "{}", run.stderr);
        assert!(run.stderr.contains("az role assignment create --role 'Contributor'"), "{}", run.stderr);
        assert!(!run.stderr.contains("[y/N]"), "{}", run.stderr);
        assert_eq!(write_requests(&w), [""; 0]);
    }
}

#[test]
fn a_role_that_can_only_connect_sees_that_setup_is_complete() {
    let w = lab_with(&["web01"], |builder| builder.role(Role::LocalUserLogin));
    let (all, port) = (run(&mut setup(&w, &[])), w.sshd().port());
    assert!(all.code == Some(0) && is_ready(&all), "{}", all.stderr);
    let unreadable = |port| {
        format!(
            "arcssh: web01 in rg-arc: SSH is enabled, but your role cannot read whether its port is {port}; nothing to change"
        )
    };
    assert_eq!(all.arcssh_lines()[0], unreadable(port));
    run(&mut w.arcssh(&["setup", &w.id(), "--dry-run"])).failed(0, &[&unreadable(22)]);
    assert_eq!(write_requests(&w), [""; 0]);
    let moved = run(&mut setup(&w, &["--replace-port", "--yes"]));
    let lacks = "arcssh: cannot set up web01: the service principal (application c11e4700-0000-4000-8000-000000000001) lacks the permission Microsoft.HybridConnectivity/endpoints/serviceConfigurations/write (403 AuthorizationFailed)";
    assert_eq!((moved.code, moved.arcssh_lines()[1]), (Some(4), lacks), "{}", moved.stderr);
}

#[test]
fn a_lock_or_a_policy_is_reported() {
    let cases = [
        (
            ArmFault::new(409, "ScopeLocked", "The scope cannot perform write operation."),
            "a lock protects the machine against changes (The scope cannot perform write operation.)",
        ),
        (
            ArmFault::new(403, "RequestDisallowedByPolicy", "Resource was disallowed by policy."),
            "Azure Policy denies the request of the service principal (application c11e4700-0000-4000-8000-000000000001) (Resource was disallowed by policy.)",
        ),
    ];
    for (fault, why) in cases {
        let w = lab(&["web01"]);
        w.emulator().machine("web01").remove_service_configuration();
        // setup reads the port before it writes.
        let missing = "The resource 'x/providers/Microsoft.HybridConnectivity/endpoints/default/serviceConfigurations/SSH' could not be found.";
        w.emulator()
            .arm_fault(ArmFault::new(404, "ResourceNotFound", missing).on(ArmCall::ServiceConfiguration));
        w.emulator().arm_fault(fault.on(ArmCall::ServiceConfiguration));
        let run = run(&mut setup(&w, &["--yes"]));
        let output = run.arcssh_lines().into_iter().rev().nth(1).unwrap_or_default().to_owned();
        assert_eq!(
            (run.code, output),
            (Some(4), format!("arcssh: cannot set up web01: {why}")),
            "{}",
            run.stderr
        );
    }
}

#[test]
fn an_unsupported_region_is_reported_without_a_retry() {
    let w = lab(&["web01"]);
    let served = "The supported locations are 'eastus'.";
    w.emulator().arm_fault(ArmFault::new(400, "NoRegisteredProviderFound", served).on(ArmCall::Endpoint));
    let why = format!(
        "arcssh: cannot set up web01: Microsoft.HybridConnectivity does not serve the machine's region (NoRegisteredProviderFound: {served})"
    );
    let hint = "arcssh: hint: connect the machine in a region that the message names: on the machine, run azcmagent disconnect, then azcmagent connect --location REGION";
    run(&mut setup(&w, &["--yes"])).failed(5, &[&why, hint]);
}

/// No source documents the texts of these responses.
#[test]
fn every_404_counts_as_a_missing_resource() {
    let json = r#"{"error":{"code":"NotFound","message":"There is none."}}"#;
    for body in ["", "<html>", json] {
        for call in [ArmCall::Endpoint, ArmCall::ServiceConfiguration] {
            let w = lab(&["web01"]);
            match call {
                ArmCall::Endpoint => w.emulator().machine("web01").remove_endpoint(),
                _ => w.emulator().machine("web01").remove_service_configuration(),
            }
            w.emulator().arm_fault(ArmFault::raw(404, "application/json", body).on(call));
            let run = run(&mut setup(&w, &["--yes"]));
            assert!(run.code == Some(0) && is_ready(&run), "{call:?} {body}: {}", run.stderr);
        }
    }
}

#[test]
fn a_missing_machine_is_reported_before_its_endpoint() {
    let w = lab(&["web01"]);
    w.emulator().arm_fault(ArmFault::raw(404, "application/json", "").on(ArmCall::Endpoint));
    let run = run(&mut w.arcssh(&["setup", &w.id().replace("web01", "web99"), "--yes"]));
    assert!(run.stderr.contains("the machine does not exist (ResourceNotFound: "), "{}", run.stderr);
    assert_eq!(write_requests(&w), [""; 0]);
}

#[test]
fn an_accepted_change_is_polled() {
    let w = lab(&["web01"]);
    let port = w.sshd().port();
    let raw = |status, body: &str| ArmFault::raw(status, "application/json", body);
    w.emulator().arm_fault(raw(200, r#"{"registrationState":"NotRegistered"}"#).on(ArmCall::Provider));
    w.emulator().arm_fault(raw(202, "").on(ArmCall::Provider));
    w.emulator().arm_fault(raw(404, "").on(ArmCall::ServiceConfiguration));
    w.emulator().arm_fault(raw(202, "").on(ArmCall::ServiceConfiguration));
    let run = run(&mut w.arcssh(&["setup", &w.id(), "--port", &port.to_string(), "--yes"]));
    assert!(run.code == Some(0) && is_ready(&run), "{}", run.stderr);
}

#[test]
fn the_setup_hint_of_a_failed_connection_works() {
    let w = lab(&["web01"]);
    w.emulator().machine("web01").remove_endpoint();
    let failed = run(&mut w.proxy("web01"));
    let hint = failed.stderr.lines().last().unwrap_or_default();
    let words = hint.strip_prefix("arcssh: hint: enable it: arcssh ").expect("a command");
    let words: Vec<&str> = words.split(' ').chain(["--yes"]).collect();
    let run = run(&mut w.arcssh(&words));
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    assert_eq!(w.ssh_run(&["web01", "echo reached"]).clean(), "reached\n");
}

#[test]
fn a_closed_port_is_reported_after_the_setup() {
    let w = lab(&["web01"]);
    let port = closed_port();
    w.emulator().machine("web01").remove_endpoint();
    let run = run(&mut w.arcssh(&["setup", &w.id(), "--port", &port.to_string(), "--yes"]));
    let why = format!("arcssh: cannot set up web01: no service listens on port {port} of the machine (");
    assert!(run.stderr.lines().any(|line| line.starts_with(&why)), "{}", run.stderr);
    assert_eq!((run.code, w.emulator().machine("web01").ssh_port()), (Some(7), Some(port)));
}

#[test]
fn a_group_needs_one_confirmation_and_one_failure_stops_no_other() {
    let w = lab_with(&["web01", "web02"], |builder| builder.machine(Machine::new("off").offline()));
    for name in ["web01", "web02", "off"] {
        w.emulator().machine(name).remove_endpoint();
    }
    let port = w.sshd().port();
    let run = on_a_terminal(&w, &format!("setup -g rg-arc --port {port} --wait 2"), "y\n");
    assert_eq!(run.code, Some(1), "{}", run.stderr);
    assert_eq!(run.stderr.matches("[y/N]").count(), 1, "{}", run.stderr);
    for name in ["web01", "web02"] {
        assert!(run.stderr.contains(&format!("arcssh: {name}: ready, ")), "{}", run.stderr);
        assert_eq!(w.ssh_run(&[name, "echo reached"]).clean(), "reached\n");
    }
    assert!(
        run.stderr
            .contains("arcssh: cannot set up off: the machine's Arc agent is not connected to the relay ("),
        "{}",
        run.stderr
    );
    assert_eq!(write_requests(&w).len(), 6);
}

#[test]
fn errors_are_reported_without_confirmation_too() {
    let w = lab(&["web01", "web02"]);
    w.emulator().machine("web01").remove_endpoint();
    w.emulator().machine("web02").set_ssh_port(2222);
    let port = w.sshd().port().to_string();
    let run = run(&mut w.arcssh(&["setup", "-g", "rg-arc", "--port", &port]));
    let output = run.arcssh_lines().join("\n");
    assert!(
        output.contains("arcssh: cannot set up web02: SSH is already enabled on port 2222; "),
        "{output}"
    );
    assert!(output.contains("arcssh: hint: to confirm without a question, add --yes"), "{output}");
    assert_eq!((run.code, write_requests(&w)), (Some(1), Vec::<String>::new()));
}

#[test]
fn a_terminal_shows_plan_confirmation_and_progress() {
    let w = lab_without_setup("NotRegistered");
    let words = format!("setup {} --port {}", w.id(), w.sshd().port());
    let question = "arcssh: apply these changes for all users of these machines? [y/N] ";
    for (answer, code) in [("n\n", 1), ("\n", 1), ("\u{4}", 1), ("y\n", 0)] {
        assert_eq!(write_requests(&w), [""; 0]);
        let run = on_a_terminal(&w, &words, answer);
        assert_eq!(run.code, Some(code), "{}", run.stderr);
        let screen = &run.stderr;
        let plan = screen.find("create the endpoint, enable SSH").expect("the plan");
        assert!(screen.find(question).expect("the question") > plan, "{screen}");
        assert_eq!(
            screen.contains("arcssh: nothing was changed: you did not confirm the changes\n"),
            code == 1,
            "{screen}"
        );
        assert_eq!(is_ready(&run), code == 0, "{screen}");
    }
    assert_eq!(write_requests(&w), ["POST register", "PUT default", "PUT SSH"]);
}

/// A home directory without an ssh configuration.
fn new_home(w: &Lab) -> PathBuf {
    let home = w.home().join("new");
    fs::create_dir(&home).unwrap();
    w.add_home(&home).unwrap();
    home
}

#[test]
fn a_terminal_is_offered_a_host_entry_that_works() {
    let w = lab(&["web01"]);
    let home = new_home(&w);
    let file = home.join(".ssh/config");
    let question = format!("arcssh: add a host entry for web01 to {}? [Y/n] ", file.display());
    let port = w.sshd().port();
    let hint = format!(
        "arcssh: hint: to connect with ssh web01, add its host entry: arcssh config web01 --port {port} --user NAME\n"
    );
    let words = format!("setup {}", w.id());
    for (answer, is_written) in [("n\n", false), ("\u{4}", false), ("\n", true)] {
        let run = on_a_terminal_at(&w, &home, &words, answer);
        assert_eq!((run.code, file.exists()), (Some(0), is_written), "{}", run.stderr);
        assert!(run.stderr.contains(&question), "{}", run.stderr);
        assert_eq!(run.stderr.contains(&hint), !is_written, "{}", run.stderr);
    }
    let mut ssh = w.command_in(&home, "ssh");
    ssh.arg("-F").arg(&file).args(["-o", "BatchMode=yes"]);
    ssh.arg("-i").arg(w.sshd().client_key());
    ssh.arg("-o").arg(format!("UserKnownHostsFile={}/.ssh/known_hosts", w.home().display()));
    ssh.args(["web01", "echo reached"]);
    assert_eq!(run(&mut ssh).clean(), "reached\n");
    let second = on_a_terminal_at(&w, &home, &words, "");
    assert!(second.code == Some(0) && !second.stderr.contains("[Y/n]"), "{}", second.stderr);
    assert!(second.stderr.contains("arcssh: hint: to connect, run: ssh web01\n"), "{}", second.stderr);
}

#[test]
fn without_a_terminal_or_with_yes_the_config_command_is_shown() {
    let w = lab(&["web01", "web02"]);
    let home = new_home(&w);
    let port = w.sshd().port();
    let hint = format!(
        "arcssh: hint: to connect with ssh web01, ssh web02, add their host entries: arcssh config web01 web02 --port {port} --user NAME"
    );
    let silent = run(w.command_in(&home, ARCSSH).args(["setup", "-g", "rg-arc"]));
    assert_eq!(
        (silent.code, silent.stderr.lines().last()),
        (Some(0), Some(hint.as_str())),
        "{}",
        silent.stderr
    );
    let agreed = on_a_terminal_at(&w, &home, "setup -g rg-arc --yes", "");
    assert!(agreed.code == Some(0) && agreed.stderr.contains(&hint), "{}", agreed.stderr);
    assert!(!agreed.stderr.contains("[Y/n]") && !home.join(".ssh").exists(), "{}", agreed.stderr);
}

#[test]
fn existing_host_entries_keep_their_port() {
    let w = lab(&["web01", "web02"]);
    let home = new_home(&w);
    let config = ["config", "web02", "--user", "ada"];
    assert_eq!(run(w.command_in(&home, ARCSSH).args(config)).code, Some(0));
    let run = on_a_terminal_at(&w, &home, "setup web01", "y\n");
    let question = format!(
        "add a host entry for ssh -p {} web01 to {}? [Y/n] ",
        w.sshd().port(),
        home.join(".ssh/config").display()
    );
    assert!(run.code == Some(0) && run.stderr.contains(&question), "{}", run.stderr);
    let text = fs::read_to_string(home.join(".ssh/config")).unwrap();
    assert!(text.contains("\nHost web01\n") && !text.contains("  Port "), "{text}");
}

#[test]
fn teardown_disables_the_service_and_clears_the_cache() {
    let w = lab(&["web01"]);
    assert_eq!(w.ssh_run(&["web01", "echo reached"]).clean(), "reached\n");
    let id = w.id();
    run(&mut w.arcssh(&["teardown", &id])).failed(
        1,
        &[
            "arcssh: web01 in rg-arc: disable SSH",
            "arcssh: nothing was changed: there is no terminal to ask for confirmation",
            "arcssh: hint: to confirm without a question, add --yes",
        ],
    );
    assert_eq!(write_requests(&w), [""; 0]);
    let azcmagent = "arcssh: to block incoming connections on a machine itself, run there: azcmagent config set incomingconnections.enabled false";
    let entry = "arcssh: hint: to remove the host entries too, run: arcssh config --remove web01";
    run(&mut w.arcssh(&["teardown", &id, "--yes"]))
        .failed(0, &["arcssh: web01 in rg-arc: disable SSH", "arcssh: web01: done", entry, azcmagent]);
    assert_eq!(
        (write_requests(&w), w.emulator().machine("web01").ssh_port()),
        (vec!["DELETE SSH".into()], None)
    );
    assert!(w.emulator().machine("web01").has_endpoint());
    let failed = run(&mut w.proxy("web01"));
    assert!(
        failed.stderr.contains("SSH is not enabled on the machine (412 Precondition Failed)"),
        "the cached credentials are deleted: {}",
        failed.stderr
    );
    let nothing = |words: &[&str], state: &str| {
        let line = format!("arcssh: web01 in rg-arc: {state}; nothing to change");
        let writes = write_requests(&w);
        for option in ["--dry-run", "--yes"] {
            let run = run(w.arcssh(&["teardown", "web01"]).args(words).arg(option));
            assert_eq!(
                (run.code, run.arcssh_lines()[0], write_requests(&w)),
                (Some(0), line.as_str(), writes.clone())
            );
        }
        // There is nothing to confirm.
        let run = run(w.arcssh(&["teardown", "web01"]).args(words));
        assert_eq!((run.code, run.arcssh_lines()[0]), (Some(0), line.as_str()), "{}", run.stderr);
    };
    nothing(&[], "SSH is not enabled");
    let run = run(&mut w.arcssh(&["teardown", "web01", "--endpoint", "--yes"]));
    assert!(run.code == Some(0) && !w.emulator().machine("web01").has_endpoint(), "{}", run.stderr);
    nothing(&["--endpoint"], "there is no endpoint");
    nothing(&[], "SSH is not enabled");
}

#[test]
fn teardown_needs_confirmation_on_a_terminal() {
    let w = lab(&["web01"]);
    for (answer, code) in [("n\n", 1), ("\n", 1), ("y\n", 0)] {
        assert_eq!(write_requests(&w), [""; 0]);
        let run = on_a_terminal(&w, "teardown -g rg-arc --endpoint", answer);
        assert_eq!(run.code, Some(code), "{}", run.stderr);
        for text in [
            "arcssh: web01 in rg-arc: delete the endpoint and all its services\n",
            "arcssh: apply these changes? All users of these machines lose access. [y/N] ",
        ] {
            assert!(run.stderr.contains(text), "{}", run.stderr);
        }
        assert_eq!(run.stderr.contains("arcssh: web01: done\n"), code == 0, "{}", run.stderr);
    }
    assert_eq!(write_requests(&w), ["DELETE default"]);
}

#[test]
fn a_command_without_a_machine_gets_a_hint() {
    let w = lab(&["web01"]);
    for command in ["setup", "teardown"] {
        let hint = format!("arcssh: hint: to see how to name a machine, run: arcssh {command} --help");
        run(&mut w.arcssh(&[command])).failed(2, &["arcssh: no machine was given", &hint]);
    }
}

#[test]
fn an_invalid_machine_name_is_a_usage_error() {
    let w = lab(&["web01"]);
    let hint =
        "arcssh: hint: use NAME, GROUP/NAME or a resource ID; to list the IDs, run: arcssh list -o json";
    let portal = format!("https://portal.azure.com/#@contoso.example/resource{}/overview", w.id());
    let form = "arcssh: the resource ID of an Arc machine has the form /subscriptions/SUBSCRIPTION/resourceGroups/GROUP/providers/Microsoft.HybridCompute/machines/NAME";
    run(&mut w.arcssh(&["setup", &portal])).failed(2, &[form, hint]);
    let name = "arcssh: \"web 01\" is not a valid name in a resource ID";
    run(&mut w.arcssh(&["warm", "web 01"])).failed(2, &[name, hint]);
}

#[test]
fn a_filter_without_a_match_is_reported_before_the_confirmation() {
    let w = lab(&["web01"]);
    let hint = "arcssh: hint: list the machines that the account sees: arcssh list";
    for (words, selector) in [
        (&["setup", "-g", "typo"][..], "-g typo"),
        (&["teardown", "-g", "rg-arc", "--tag", "env=typo"], "-g rg-arc --tag env=typo"),
        (&["warm", "--tag", "env=it's"], "--tag 'env=it'\\''s'"),
    ] {
        let expected =
            format!("arcssh: the account sees no Arc machine that matches {selector}; it sees 1 machine");
        run(&mut w.arcssh(words)).failed(5, &[&expected, hint]);
    }
    let empty = lab(&[]);
    let expected = "arcssh: the account sees no Arc machine";
    let hint = "arcssh: hint: check account and tenant: arcssh account; to use another tenant, add --tenant TENANT, or run: arcssh login --tenant TENANT";
    run(&mut empty.arcssh(&["warm", "--all"])).failed(5, &[expected, hint]);
}
