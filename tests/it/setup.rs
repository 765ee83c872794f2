//! `arcssh setup` and `teardown`: from nothing to connected and back, with one question and no write too many.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use arcssh_emulator::{ArmCall, ArmFault, Machine, Role, SUBSCRIPTION, Service};

use crate::support::{ARCSSH, Run, World, closed_port, run, run_with_input, world, world_with};

/// What setting up tells when all is done.
fn ready(run: &Run) -> bool {
    run.stderr.contains(": ready to connect to, its agent answered within ")
}

/// The requests that change something in Azure, with the last part of their paths.
fn writes(w: &World) -> Vec<String> {
    let requests = w.emulator().requests_to(Service::Arm);
    let words = requests.iter().map(|request| {
        let path = request.path_and_query.split('?').next().unwrap_or_default();
        (request.method.as_str(), path.rsplit('/').next().unwrap_or_default())
    });
    // Resource Graph and listCredentials only read, by POST.
    words
        .filter(|word| word.0 != "GET" && !matches!(word.1, "resources" | "listCredentials"))
        .map(|(method, end)| format!("{method} {end}"))
        .collect()
}

fn setup(w: &World, rest: &[&str]) -> Command {
    let (id, port) = (w.id(), w.sshd().port().to_string());
    w.arcssh(&[&["setup", &id, "--port", &port], rest].concat())
}

/// Runs a command under a pseudo-terminal where `typed` is typed; its screen.
fn on_a_terminal(w: &World, words: &str, typed: &str) -> Run {
    on_a_terminal_at(w, w.home(), words, typed)
}

/// The same in another home.
fn on_a_terminal_at(w: &World, home: &Path, words: &str, typed: &str) -> Run {
    let command = format!("{ARCSSH} {words}");
    let mut script = w.command("script");
    script.env("HOME", home).env("TERM", "xterm");
    match cfg!(target_os = "linux") {
        true => script.args(["-qec", &command, "/dev/null"]),
        false => script.args(["-q", "/dev/null", "sh", "-c", &command]),
    };
    let run = run_with_input(&mut script, typed.as_bytes().to_vec());
    Run { stderr: String::from_utf8_lossy(&run.stdout).replace('\r', ""), ..run }
}

fn nothing_set_up(state: &str) -> World {
    let seconds = Duration::from_secs;
    let state = state.to_owned();
    let w = world_with(&["web01"], |builder| {
        let builder = builder.registration_state(&state).registration_delay(seconds(4));
        builder.endpoint_delay(seconds(1)).listener_delay(seconds(2))
    });
    w.emulator().machine("web01").remove_endpoint();
    w
}

#[test]
fn an_unregistered_subscription_is_led_to_a_working_ssh() {
    for state in ["NotRegistered", "Unregistered"] {
        let w = nothing_set_up(state);
        let run = run(&mut setup(&w, &["--yes"]));
        assert_eq!(run.code, Some(0), "{}", run.stderr);
        assert_eq!(writes(&w), ["POST register", "PUT default", "PUT SSH"]);
        let port = w.sshd().port();
        for line in [
            &format!("arcssh: subscription {SUBSCRIPTION}: register Microsoft.HybridConnectivity"),
            &format!("arcssh: web01 in rg-arc: create its endpoint, enable SSH on port {port}"),
            &format!(
                "arcssh: waiting for the registration of Microsoft.HybridConnectivity in the subscription {SUBSCRIPTION} (Registering), which takes 2 to 5 minutes as a rule; 2 s so far, 600 s at most"
            ),
            "arcssh: web01: done in Azure; its agent hears of it within 30 to 90 s as a rule",
            "arcssh: hint: ssh web01",
        ] {
            assert!(run.stderr.lines().any(|told| told == line), "{line}\nis not in\n{}", run.stderr);
        }
        assert!(ready(&run) && run.stdout.is_empty(), "{}", run.stderr);
        let minted = w.emulator().machine("web01").issued_credentials().len();
        assert_eq!(w.ssh_run(&["web01", "echo reached"]).clean(), "reached\n");
        assert_eq!(w.emulator().machine("web01").issued_credentials().len(), minted, "the store was warm");
    }
}

#[test]
fn without_a_terminal_and_without_yes_nothing_is_written() {
    let w = nothing_set_up("NotRegistered");
    let port = w.sshd().port();
    run(&mut setup(&w, &[])).failed(
        1,
        &[
            &format!("arcssh: subscription {SUBSCRIPTION}: register Microsoft.HybridConnectivity"),
            &format!("arcssh: web01 in rg-arc: create its endpoint, enable SSH on port {port}"),
            "arcssh: nothing was changed: there is no terminal to ask on",
            "arcssh: hint: the same command with --yes goes ahead",
        ],
    );
    assert_eq!(writes(&w), [""; 0]);
}

#[test]
fn a_dry_run_shows_the_changes_and_makes_none() {
    let w = world(&["web01"]);
    let port = w.sshd().port();
    let told = format!("arcssh: web01 in rg-arc: SSH is enabled on port {port}; nothing to change");
    run(&mut setup(&w, &["--dry-run"])).failed(0, &[&told]);
    w.emulator().machine("web01").remove_service_configuration();
    let told = format!("arcssh: web01 in rg-arc: enable SSH on port {port}");
    run(&mut setup(&w, &["--dry-run"])).failed(1, &[&told]);
    assert_eq!(writes(&w), [""; 0]);
}

#[test]
fn what_is_there_is_not_made_again() {
    let w = world(&["web01"]);
    let run_all = run(&mut setup(&w, &[]));
    assert!(
        run_all.code == Some(0) && ready(&run_all),
        "no question where nothing changes: {}",
        run_all.stderr
    );
    assert_eq!(writes(&w), [""; 0]);
    w.emulator().machine("web01").remove_service_configuration();
    let run = run(&mut setup(&w, &["--yes"]));
    assert!(run.code == Some(0) && ready(&run), "{}", run.stderr);
    assert_eq!(writes(&w), ["PUT SSH"], "a PUT on an endpoint disturbs its listener");
}

#[test]
fn a_port_in_use_gives_way_only_where_that_is_said() {
    let w = world(&["web01"]);
    let (id, port) = (w.id(), w.sshd().port());
    let other = closed_port();
    w.emulator().machine("web01").set_ssh_port(other);
    let why = format!(
        "arcssh: cannot set up web01: SSH is enabled on port {other}; a machine has one port for it, and moving it to {port} takes it from everybody who connects by {other}"
    );
    let hint = format!("arcssh: hint: arcssh setup {id} --port {port} --replace-port");
    run(&mut setup(&w, &["--yes"])).failed(5, &[&why, &hint]);
    assert_eq!(writes(&w), [""; 0]);
    let run = run(&mut setup(&w, &["--replace-port", "--yes"]));
    let plan = format!(
        "arcssh: web01 in rg-arc: move SSH from port {other} to {port}: whoever connects to this machine by port {other} can no longer"
    );
    assert_eq!((run.code, run.stderr.lines().next()), (Some(0), Some(plan.as_str())), "{}", run.stderr);
    assert_eq!((writes(&w), w.emulator().machine("web01").ssh_port()), (vec!["PUT SSH".into()], Some(port)));
    assert_eq!(w.ssh_run(&["web01", "echo reached"]).clean(), "reached\n");
}

#[test]
fn a_port_that_is_enabled_is_kept_where_none_is_named() {
    let w = world(&["web01"]);
    let run = run(&mut w.arcssh(&["setup", &w.id()]));
    assert!(run.code == Some(0) && ready(&run), "{}", run.stderr);
    assert_eq!(writes(&w), [""; 0]);
}

#[test]
fn a_missing_right_is_told_with_the_least_role_that_has_it() {
    let object = "0b1ec700-0000-4000-8000-000000000001";
    let role = |who: &str, role: &str, scope: &str| {
        format!(
            "arcssh: hint: an owner of the {who} types: az role assignment create --role '{role}' --assignee {object} --scope {scope}"
        )
    };
    let lacks = |right: &str| {
        format!(
            "arcssh: cannot set up web01: this identity lacks the right {right} (403 AuthorizationFailed)"
        )
    };
    let last = |w: &World| {
        let run = run(&mut setup(w, &["--yes"]));
        assert_eq!(run.code, Some(4), "{}", run.stderr);
        let lines: Vec<String> = run.stderr.lines().rev().take(2).map(Into::into).collect();
        [lines[1].clone(), lines[0].clone()]
    };
    let w = world_with(&["web01"], |builder| builder.role(Role::LocalUserLogin));
    w.emulator().machine("web01").remove_service_configuration();
    let manager = role("machine", "Azure Connected Machine Resource Manager", &w.id());
    assert_eq!(
        last(&w),
        [lacks("Microsoft.HybridConnectivity/endpoints/serviceConfigurations/write"), manager.clone()]
    );
    w.emulator().machine("web01").remove_endpoint();
    assert_eq!(last(&w), [lacks("Microsoft.HybridConnectivity/endpoints/write"), manager]);
    w.emulator().set_registration_state("NotRegistered");
    let register = "arcssh: this identity lacks the right Microsoft.HybridConnectivity/register/action (403 AuthorizationFailed)";
    let scope = format!("/subscriptions/{SUBSCRIPTION}");
    assert_eq!(last(&w), [register.to_owned(), role("subscription", "Contributor", &scope)]);
    w.emulator().set_registration_state("Registered");
    w.emulator().set_role(Role::None);
    let connect = "arcssh: cannot set up web01: this identity may not ask for its relay credentials (403 AuthorizationFailed)";
    let login = role("machine", "Virtual Machine Local User Login", &w.id());
    assert_eq!(last(&w), [connect.to_owned(), login]);
}

#[test]
fn whoever_may_only_connect_is_told_that_all_is_there() {
    let w = world_with(&["web01"], |builder| builder.role(Role::LocalUserLogin));
    let (all, port) = (run(&mut setup(&w, &[])), w.sshd().port());
    assert!(all.code == Some(0) && ready(&all), "{}", all.stderr);
    let unseen = |port| {
        format!(
            "arcssh: web01 in rg-arc: SSH is enabled, on port {port} or another: this role may not read which; nothing to change"
        )
    };
    assert_eq!(all.arcssh_lines()[0], unseen(port));
    run(&mut w.arcssh(&["setup", &w.id(), "--dry-run"])).failed(0, &[&unseen(22)]);
    assert_eq!(writes(&w), [""; 0]);
    let moved = run(&mut setup(&w, &["--replace-port", "--yes"]));
    let lacks = "arcssh: cannot set up web01: this identity lacks the right Microsoft.HybridConnectivity/endpoints/serviceConfigurations/write (403 AuthorizationFailed)";
    assert_eq!((moved.code, moved.arcssh_lines()[1]), (Some(4), lacks), "{}", moved.stderr);
}

#[test]
fn what_keeps_azure_from_writing_is_told() {
    let cases = [
        (
            ArmFault::new(409, "ScopeLocked", "The scope cannot perform write operation."),
            "it is locked against changes (The scope cannot perform write operation.)",
        ),
        (
            ArmFault::new(403, "RequestDisallowedByPolicy", "Resource was disallowed by policy."),
            "a policy of Azure forbids it (Resource was disallowed by policy.)",
        ),
    ];
    for (fault, why) in cases {
        let w = world(&["web01"]);
        w.emulator().machine("web01").remove_service_configuration();
        // The first of these requests is the look at the port.
        let missing = "The resource 'x/providers/Microsoft.HybridConnectivity/endpoints/default/serviceConfigurations/SSH' could not be found.";
        w.emulator()
            .arm_fault(ArmFault::new(404, "ResourceNotFound", missing).on(ArmCall::ServiceConfiguration));
        w.emulator().arm_fault(fault.on(ArmCall::ServiceConfiguration));
        let run = run(&mut setup(&w, &["--yes"]));
        let told = run.arcssh_lines().into_iter().rev().nth(1).unwrap_or_default().to_owned();
        assert_eq!(
            (run.code, told),
            (Some(4), format!("arcssh: cannot set up web01: {why}")),
            "{}",
            run.stderr
        );
    }
}

#[test]
fn a_region_that_is_not_served_is_told_and_not_set_up_in_a_circle() {
    let w = world(&["web01"]);
    let served = "The supported locations are 'eastus'.";
    w.emulator().arm_fault(ArmFault::new(400, "NoRegisteredProviderFound", served).on(ArmCall::Endpoint));
    let why = format!(
        "arcssh: cannot set up web01: Microsoft.HybridConnectivity is not registered in the subscription, or does not serve the machine's region (NoRegisteredProviderFound: {served})"
    );
    let hint = "arcssh: hint: on the machine: azcmagent disconnect, and then azcmagent connect --location REGION, with a region that Azure names";
    run(&mut setup(&w, &["--yes"])).failed(5, &[&why, hint]);
}

/// No source has the words of these answers.
#[test]
fn what_azure_does_not_find_is_missing_in_whatever_words() {
    let json = r#"{"error":{"code":"NotFound","message":"There is none."}}"#;
    for body in ["", "<html>", json] {
        for call in [ArmCall::Endpoint, ArmCall::ServiceConfiguration] {
            let w = world(&["web01"]);
            match call {
                ArmCall::Endpoint => w.emulator().machine("web01").remove_endpoint(),
                _ => w.emulator().machine("web01").remove_service_configuration(),
            }
            w.emulator().arm_fault(ArmFault::raw(404, "application/json", body).on(call));
            let run = run(&mut setup(&w, &["--yes"]));
            assert!(run.code == Some(0) && ready(&run), "{call:?} {body}: {}", run.stderr);
        }
    }
}

#[test]
fn a_machine_that_is_not_there_is_told_whatever_is_said_of_its_endpoint() {
    let w = world(&["web01"]);
    w.emulator().arm_fault(ArmFault::raw(404, "application/json", "").on(ArmCall::Endpoint));
    let run = run(&mut w.arcssh(&["setup", &w.id().replace("web01", "web99"), "--yes"]));
    assert!(run.stderr.contains("there is no such machine (ResourceNotFound: "), "{}", run.stderr);
    assert_eq!(writes(&w), [""; 0]);
}

#[test]
fn a_change_that_is_accepted_without_a_word_is_looked_for() {
    let w = world(&["web01"]);
    let port = w.sshd().port();
    let raw = |status, body: &str| ArmFault::raw(status, "application/json", body);
    w.emulator().arm_fault(raw(200, r#"{"registrationState":"NotRegistered"}"#).on(ArmCall::Provider));
    w.emulator().arm_fault(raw(202, "").on(ArmCall::Provider));
    w.emulator().arm_fault(raw(404, "").on(ArmCall::ServiceConfiguration));
    w.emulator().arm_fault(raw(202, "").on(ArmCall::ServiceConfiguration));
    let run = run(&mut w.arcssh(&["setup", &w.id(), "--port", &port.to_string(), "--yes"]));
    assert!(run.code == Some(0) && ready(&run), "{}", run.stderr);
}

#[test]
fn a_no_is_forgotten_and_the_hint_of_a_connection_leads_to_a_working_one() {
    let w = world(&["web01"]);
    w.emulator().machine("web01").remove_endpoint();
    let failed = run(&mut w.proxy("web01"));
    let hint = failed.stderr.lines().last().unwrap_or_default();
    let words = hint.strip_prefix("arcssh: hint: arcssh ").expect("a command");
    let words: Vec<&str> = words.split(' ').chain(["--yes"]).collect();
    let run = run(&mut w.arcssh(&words));
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    assert_eq!(w.ssh_run(&["web01", "echo reached"]).clean(), "reached\n");
}

#[test]
fn a_server_that_does_not_listen_is_told_after_all_is_set_up() {
    let w = world(&["web01"]);
    let port = closed_port();
    w.emulator().machine("web01").remove_endpoint();
    let run = run(&mut w.arcssh(&["setup", &w.id(), "--port", &port.to_string(), "--yes"]));
    let why = format!("arcssh: cannot set up web01: nothing listens on its port {port} ");
    assert!(run.stderr.lines().any(|line| line.starts_with(&why)), "{}", run.stderr);
    assert_eq!((run.code, w.emulator().machine("web01").ssh_port()), (Some(7), Some(port)));
}

#[test]
fn a_group_is_set_up_after_one_question_and_one_failure_keeps_no_other_machine() {
    let w = world_with(&["web01", "web02"], |builder| builder.machine(Machine::new("off").offline()));
    for name in ["web01", "web02", "off"] {
        w.emulator().machine(name).remove_endpoint();
    }
    let port = w.sshd().port();
    let run = on_a_terminal(&w, &format!("setup -g rg-arc --port {port} --wait 2"), "y\n");
    assert_eq!(run.code, Some(1), "{}", run.stderr);
    assert_eq!(run.stderr.matches("[y/N]").count(), 1, "{}", run.stderr);
    for name in ["web01", "web02"] {
        assert!(run.stderr.contains(&format!("arcssh: {name}: ready to connect to")), "{}", run.stderr);
        assert_eq!(w.ssh_run(&[name, "echo reached"]).clean(), "reached\n");
    }
    assert!(run.stderr.contains("arcssh: cannot set up off: its agent does not listen"), "{}", run.stderr);
    assert_eq!(writes(&w).len(), 6);
}

#[test]
fn a_no_hides_no_machine_that_could_not_be_set_up_either() {
    let w = world(&["web01", "web02"]);
    w.emulator().machine("web01").remove_endpoint();
    w.emulator().machine("web02").set_ssh_port(2222);
    let port = w.sshd().port().to_string();
    let run = run(&mut w.arcssh(&["setup", "-g", "rg-arc", "--port", &port]));
    let told = run.arcssh_lines().join("\n");
    assert!(told.contains("arcssh: cannot set up web02: SSH is enabled on port 2222"), "{told}");
    assert!(told.contains("arcssh: hint: the same command with --yes goes ahead"), "{told}");
    assert_eq!((run.code, writes(&w)), (Some(1), Vec::<String>::new()));
}

#[test]
fn a_terminal_shows_the_plan_and_the_question_and_how_it_goes_on() {
    let w = nothing_set_up("NotRegistered");
    let words = format!("setup {} --port {}", w.id(), w.sshd().port());
    let question = "arcssh: make these changes for everybody who connects to these machines? [y/N] ";
    for (typed, code) in [("n\n", 1), ("\n", 1), ("\u{4}", 1), ("y\n", 0)] {
        assert_eq!(writes(&w), [""; 0]);
        let run = on_a_terminal(&w, &words, typed);
        assert_eq!(run.code, Some(code), "{}", run.stderr);
        let screen = &run.stderr;
        let plan = screen.find("create its endpoint, enable SSH").expect("the plan");
        assert!(screen.find(question).expect("the question") > plan, "{screen}");
        assert_eq!(screen.contains("arcssh: nothing was changed\n"), code == 1, "{screen}");
        assert_eq!(ready(&run), code == 0, "{screen}");
    }
    assert_eq!(writes(&w), ["POST register", "PUT default", "PUT SSH"]);
}

/// A home without an ssh configuration.
fn new_home(w: &World) -> PathBuf {
    let home = w.home().join("new");
    fs::create_dir(&home).unwrap();
    home
}

#[test]
fn a_terminal_is_offered_the_section_and_ssh_uses_it() {
    let w = world(&["web01"]);
    let home = new_home(&w);
    let file = home.join(".ssh/config");
    let question = format!("arcssh: write into {} what is needed for: ssh web01? [Y/n] ", file.display());
    let port = w.sshd().port();
    let hint = format!(
        "arcssh: hint: arcssh config web01 --port {port} writes into {} what is needed for: ssh web01\n",
        file.display()
    );
    let words = format!("setup {}", w.id());
    for (typed, is_written) in [("n\n", false), ("\u{4}", false), ("\n", true)] {
        let run = on_a_terminal_at(&w, &home, &words, typed);
        assert_eq!((run.code, file.exists()), (Some(0), is_written), "{}", run.stderr);
        assert!(run.stderr.contains(&question), "{}", run.stderr);
        assert_eq!(run.stderr.contains(&hint), !is_written, "{}", run.stderr);
    }
    let mut ssh = w.command("ssh");
    ssh.env("HOME", &home).arg("-F").arg(&file).args(["-o", "BatchMode=yes"]);
    ssh.arg("-i").arg(w.sshd().client_key());
    ssh.arg("-o").arg(format!("UserKnownHostsFile={}/.ssh/known_hosts", w.home().display()));
    ssh.args(["web01", "echo reached"]);
    assert_eq!(run(&mut ssh).clean(), "reached\n");
    let again = on_a_terminal_at(&w, &home, &words, "");
    assert!(again.code == Some(0) && !again.stderr.contains("[Y/n]"), "{}", again.stderr);
    assert!(again.stderr.contains("arcssh: hint: ssh web01\n"), "{}", again.stderr);
}

#[test]
fn without_a_terminal_or_with_yes_the_command_for_the_section_is_told() {
    let w = world(&["web01", "web02"]);
    let home = new_home(&w);
    let port = w.sshd().port();
    let hint = format!(
        "arcssh: hint: arcssh config web01 web02 --port {port} writes into {} what is needed for: ssh web01, ssh web02",
        home.join(".ssh/config").display()
    );
    let silent = run(w.arcssh(&["setup", "-g", "rg-arc"]).env("HOME", &home));
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
fn sections_that_are_there_keep_their_port() {
    let w = world(&["web01", "web02"]);
    let home = new_home(&w);
    let config = ["config", "web02", "--user", "ada"];
    assert_eq!(run(w.arcssh(&config).env("HOME", &home)).code, Some(0));
    let run = on_a_terminal_at(&w, &home, "setup web01", "y\n");
    let question = format!("what is needed for: ssh -p {} web01? [Y/n] ", w.sshd().port());
    assert!(run.code == Some(0) && run.stderr.contains(&question), "{}", run.stderr);
    let text = fs::read_to_string(home.join(".ssh/config")).unwrap();
    assert!(text.contains("\nHost web01\n") && !text.contains("  Port "), "{text}");
}

#[test]
fn taking_down_disables_the_service_and_forgets_what_was_kept() {
    let w = world(&["web01"]);
    assert_eq!(w.ssh_run(&["web01", "echo reached"]).clean(), "reached\n");
    let id = w.id();
    run(&mut w.arcssh(&["teardown", &id])).failed(
        1,
        &[
            "arcssh: web01 in rg-arc: disable SSH",
            "arcssh: nothing was changed: there is no terminal to ask on",
            "arcssh: hint: the same command with --yes goes ahead",
        ],
    );
    assert_eq!(writes(&w), [""; 0]);
    let azcmagent = "arcssh: on a machine itself, azcmagent config set incomingconnections.enabled false keeps everybody out, whatever Azure says";
    run(&mut w.arcssh(&["teardown", &id, "--yes"]))
        .failed(0, &["arcssh: web01 in rg-arc: disable SSH", "arcssh: web01: done", azcmagent]);
    assert_eq!((writes(&w), w.emulator().machine("web01").ssh_port()), (vec!["DELETE SSH".into()], None));
    assert!(w.emulator().machine("web01").has_endpoint());
    let again = run(&mut w.proxy("web01"));
    assert!(
        again.stderr.contains("the service is not enabled on it yet"),
        "nothing is kept: {}",
        again.stderr
    );
    for _ in 0..2 {
        let run = run(&mut w.arcssh(&["teardown", "web01", "--endpoint", "--yes"]));
        assert!(run.code == Some(0) && !w.emulator().machine("web01").has_endpoint(), "{}", run.stderr);
    }
    let run = run(&mut w.arcssh(&["teardown", "web01", "--yes"]));
    assert_eq!(run.code, Some(0), "what is not there is down: {}", run.stderr);
}

#[test]
fn a_terminal_is_asked_before_anything_is_taken_down() {
    let w = world(&["web01"]);
    for (typed, code) in [("n\n", 1), ("\n", 1), ("y\n", 0)] {
        assert_eq!(writes(&w), [""; 0]);
        let run = on_a_terminal(&w, "teardown -g rg-arc --endpoint", typed);
        assert_eq!(run.code, Some(code), "{}", run.stderr);
        for told in [
            "arcssh: web01 in rg-arc: delete its endpoint, and with it every service\n",
            "arcssh: take this from everybody who connects to these machines? [y/N] ",
        ] {
            assert!(run.stderr.contains(told), "{}", run.stderr);
        }
        assert_eq!(run.stderr.contains("arcssh: web01: done\n"), code == 0, "{}", run.stderr);
    }
    assert_eq!(writes(&w), ["DELETE default"]);
}

#[test]
fn a_command_without_a_machine_says_how_to_name_one() {
    let w = world(&["web01"]);
    for command in ["setup", "teardown"] {
        let hint = format!("arcssh: hint: arcssh {command} --help shows how to name one");
        run(&mut w.arcssh(&[command])).failed(2, &["arcssh: no machine is named", &hint]);
    }
}

#[test]
fn what_can_be_no_machine_is_told_as_a_mistake_of_typing() {
    let w = world(&["web01"]);
    let hint = "arcssh: hint: name the machine by NAME, GROUP/NAME or the resource ID that arcssh list --format json shows";
    let portal = format!("https://portal.azure.com/#@contoso.example/resource{}/overview", w.id());
    let form = "arcssh: an Arc machine's resource ID reads /subscriptions/SUBSCRIPTION/resourceGroups/GROUP/providers/Microsoft.HybridCompute/machines/NAME";
    run(&mut w.arcssh(&["setup", &portal])).failed(2, &[form, hint]);
    let name = "arcssh: \"web 01\" is not a name that Azure allows in a resource ID";
    run(&mut w.arcssh(&["warm", "web 01"])).failed(2, &[name, hint]);
}

#[test]
fn a_group_or_tag_that_no_machine_has_is_told_before_any_question() {
    let w = world(&["web01"]);
    let hint = "arcssh: hint: arcssh list shows the machines that this identity sees";
    for (words, meant) in [
        (&["setup", "-g", "typo"][..], "-g typo"),
        (&["teardown", "-g", "rg-arc", "--tag", "env=typo"], "-g rg-arc --tag env=typo"),
        (&["warm", "--tag", "env=it's"], "--tag 'env=it'\\''s'"),
    ] {
        let told = format!("arcssh: no Arc machine that this identity sees fits {meant}");
        run(&mut w.arcssh(words)).failed(5, &[&told, hint]);
    }
    let empty = world(&[]);
    let told = "arcssh: no Arc machine that this identity sees fits --all";
    run(&mut empty.arcssh(&["warm", "--all"])).failed(5, &[told, hint]);
}
