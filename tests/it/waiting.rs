//! Progress messages while arcssh waits for a machine's agent or for Azure.

use std::thread;
use std::time::Duration;

use arcssh_emulator::{ArmCall, ArmFault, Machine};

use crate::interruption::Terminal;
use crate::matrix::to_relay_with;
use crate::support::{ARCSSH, LIMIT, Lab, eventually, lab, lab_with, on_a_terminal, run, service};

const ERASED: &str = "\r\u{1b}[K";

/// A lab whose agent needs this many seconds to listen.
fn slow_agent(seconds: u64) -> Lab {
    lab_with(&["web01"], |builder| builder.listener_delay(Duration::from_secs(seconds)))
}

/// The output on a terminal with this number of columns.
fn screen_of(w: &Lab, columns: usize, command: &str) -> String {
    let command = format!("stty cols {columns} rows 30; {command}");
    let (code, screen) = on_a_terminal(w.command("script"), &command);
    assert_eq!(code, Some(0), "{screen}");
    screen
}

/// The output on a terminal of 100 columns.
fn screen(w: &Lab, command: &str) -> String {
    screen_of(w, 100, command)
}

#[test]
fn a_terminal_shows_one_progress_line_within_a_second_and_erases_it() {
    let screen = screen(&slow_agent(4), "ssh -F .ssh/config web01 echo reached");
    let output: Vec<&str> = screen.split(ERASED).collect();
    let [first, waiting @ .., last] = &output[..] else { panic!("{screen}") };
    assert_eq!((*first, *last), ("", "reached\r\n"), "{screen}");
    assert!(waiting.len() >= 3, "{screen}");
    for (number, line) in waiting.iter().enumerate() {
        assert!(line.starts_with("arcssh: waiting for the "), "{screen}");
        assert!(line.contains(&format!("; {} s so far", number + 1)), "{screen}");
        assert!(line.chars().count() < 100, "{line}");
    }
}

/// Without `-v`, it also has no text of the relay's protocol.
#[test]
fn a_narrow_terminal_shows_a_complete_phrase() {
    let agent = "waiting for the agent of web01";
    let lines = [
        (100, format!("arcssh: {agent}, which is not connected yet; 2 s so far")),
        (60, format!("arcssh: {agent}; 2 s so far")),
        (40, format!("{agent}; 2 s")),
    ];
    thread::scope(|scope| {
        for (columns, expected) in &lines {
            scope.spawn(move || {
                let screen = screen_of(&slow_agent(4), *columns, "ssh -F .ssh/config web01 echo reached");
                let shown: Vec<&str> = screen.split(ERASED).collect();
                assert!(shown.iter().any(|line| line.starts_with(expected.as_str())), "{columns}: {screen}");
                assert!(!screen.contains("404") && !screen.contains("TrackingId"), "{screen}");
                assert!(shown[..shown.len() - 1].iter().all(|line| line.len() < *columns), "{screen}");
            });
        }
    });
}

#[test]
fn without_a_terminal_a_short_wait_prints_nothing() {
    let run = run(slow_agent(4).ssh().args(["web01", "echo reached"]));
    assert_eq!((run.code, run.waiting_lines()), (Some(0), vec![]), "{}", run.stderr);
}

#[test]
fn with_control_persist_progress_goes_to_the_standard_error_of_ssh() {
    if !cfg!(target_os = "linux") {
        return; // other systems do not show which file another process has open
    }
    let shared =
        "ssh -F .ssh/config -o ControlMaster=auto -o ControlPath=./c -o ControlPersist=1 web01 echo reached";
    let screen_of = |more: &str| screen(&slow_agent(3), &format!("{shared} {more}"));
    let (shown, elsewhere) = std::thread::scope(|scope| {
        let elsewhere = scope.spawn(|| screen_of("2>errors"));
        (screen_of(""), elsewhere.join().unwrap())
    });
    let output: Vec<&str> = shown.split(ERASED).collect();
    let ["", line, .., last] = &output[..] else { panic!("{shown}") };
    assert!(line.starts_with("arcssh: waiting for the "), "{shown}");
    assert_eq!((*last, elsewhere.as_str()), ("reached\r\n", "reached\r\n"));
}

#[test]
fn a_dumb_terminal_gets_one_line_for_each_wait() {
    let screen = screen(&slow_agent(4), "TERM=dumb ssh -F .ssh/config web01 echo reached");
    assert!(!screen.contains('\u{1b}'), "{screen}");
    assert_eq!(screen.lines().filter(|line| line.starts_with("arcssh: waiting for the ")).count(), 1);
}

#[test]
fn waiting_for_azure_shows_elapsed_time_and_limit() {
    let slow = |call| ArmFault::new(500, "InternalServerError", "").on(call).after(Duration::from_secs(3));
    let w = lab(&["web01"]);
    let (id, port) = (w.id(), w.sshd().port());
    for (call, words, expected) in [
        (
            ArmCall::ListCredentials,
            format!("proxy {id} --port {port} </dev/null >/dev/null"),
            "relay credentials of web01 from Azure Resource Manager; 1 s so far, 150 s at most",
        ),
        (
            ArmCall::ResourceGraph,
            format!("proxy --host web01 --port {port} </dev/null >/dev/null"),
            "resource ID of web01 from Azure Resource Manager; 1 s so far, 150 s at most",
        ),
        (ArmCall::ResourceGraph, "list".into(), "list of machines from Azure Resource Manager; 1 s so far"),
    ] {
        w.emulator().arm_fault(slow(call));
        let screen = screen_of(&w, 120, &format!("{ARCSSH} {words}"));
        let line = format!("{ERASED}arcssh: waiting for the {expected}{ERASED}");
        assert!(screen.contains(&line), "{line:?}\nis not in\n{screen:?}");
    }
}

/// Also in the commands that find a machine by its name, or without a host entry.
#[test]
fn each_command_that_connects_shows_what_it_waits_for() {
    let slow = |call| ArmFault::new(500, "InternalServerError", "").on(call).after(Duration::from_secs(3));
    let w = lab_with(&["web01"], |builder| builder.machine(Machine::new("web02").offline()));
    let id = w.emulator().machine("web02").resource_id();
    let azure = "from Azure Resource Manager; 1 s so far, 150 s at most";
    for (call, words, expected) in [
        (ArmCall::ResourceGraph, "ssh --wait 0 web02 true".into(), format!("resource ID of web02 {azure}")),
        (ArmCall::ResourceGraph, "rdp --wait 0 web02".into(), format!("resource ID of web02 {azure}")),
        (ArmCall::ResourceGraph, "forward web02 --exec true".into(), format!("resource ID of web02 {azure}")),
        (ArmCall::ResourceGraph, "ping --wait 0 web02".into(), format!("resource ID of web02 {azure}")),
        (ArmCall::Machine, format!("ssh --wait 0 {id} true"), format!("properties of web02 {azure}")),
        (ArmCall::ListCredentials, "ping web01".into(), format!("relay credentials of web01 {azure}")),
    ] {
        w.clear_cache();
        w.emulator().arm_fault(slow(call));
        let screen = screen_of(&w, 120, &format!("{ARCSSH} {words} </dev/null; true"));
        let line = format!("{ERASED}arcssh: waiting for the {expected}{ERASED}");
        assert!(screen.contains(&line), "{line:?}\nis not in\n{screen:?}");
    }
}

#[test]
fn login_shows_that_it_waits_for_the_browser() {
    let w = lab(&["web01"]);
    let words = format!("stty cols 100 rows 30; BROWSER=true exec {ARCSSH} login");
    let terminal = Terminal::open(w.command("script"), &words);
    let line = "arcssh: waiting for the sign-in in the browser; 2 s so far";
    assert!(eventually(LIMIT, || terminal.shown().contains(line)), "{}", terminal.shown());
    assert_eq!(terminal.interrupt(), (Some(130), format!("^C{ERASED}")));
}

#[test]
fn ping_shows_that_it_waits_for_sshd() {
    let w = lab(&["web01"]);
    let (port, silent) = (w.sshd().port(), service(|_stream| thread::park_timeout(LIMIT)));
    w.emulator().machine("web01").move_port(port, silent);
    let screen = screen(&w, &format!("{ARCSSH} ping web01 --port {port}; true"));
    let line = format!("{ERASED}arcssh: waiting for the sshd of web01; 1 s so far, 10 s at most{ERASED}");
    assert!(screen.contains(&line), "{screen:?}");
}

#[test]
fn waiting_for_the_registration_shows_its_state() {
    let w = lab_with(&["web01"], |builder| {
        builder.registration_state("NotRegistered").registration_delay(Duration::from_secs(3))
    });
    let screen = screen_of(&w, 200, &format!("{ARCSSH} setup web01 --yes"));
    let start = "arcssh: waiting for the registration of Microsoft.HybridConnectivity in subscription ";
    let is_shown = |line: &str| line.starts_with(start) && line.contains(" (Registering); ");
    assert!(screen.split(ERASED).any(is_shown), "{screen:?}");
}

/// The last attempt begins when `--wait` ends, and has 10 s.
#[test]
fn the_shown_limit_of_a_silent_relay_is_the_one_that_applies() {
    let w = lab(&["web01"]);
    let port = service(|stream| {
        thread::park_timeout(LIMIT);
        drop(stream);
    });
    let silent = to_relay_with(&w, "127", &format!("0.0.1:{port}"), &["--wait", "14"]);
    let words: Vec<&str> = silent.get_args().map(|word| word.to_str().unwrap()).collect();
    let mut script = w.command("script");
    script.envs(silent.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let command = format!("TERM=dumb {ARCSSH} {} >/dev/null", words.join(" "));
    let (code, screen) = on_a_terminal(script, &command);
    let relay = format!("127.0.0.1:{port}");
    let why = "arcssh: cannot connect to the machine: TLS with";
    let expected = [
        format!("arcssh: waiting for the relay {relay}; 1 s so far, 24 s at most"),
        format!("arcssh: waiting for the relay {relay}, which does not respond; 16 s so far, 24 s at most"),
        format!("{why} {relay} failed: no response within 10 s during the handshake"),
    ];
    let lines: Vec<&str> = screen.lines().collect();
    let [shown @ .., hint] = &lines[..] else { panic!("{screen}") };
    assert_eq!(shown, expected, "{screen}");
    assert!(hint.starts_with("arcssh: hint: allow https://127.0.0.1"), "{hint}");
    assert_eq!(code, Some(6));
}

#[test]
fn an_unknown_name_of_the_relay_is_explained() {
    let w = lab(&["web01"]);
    let unknown = run(&mut to_relay_with(&w, "azgn", "relay.invalid", &["--wait", "60"]));
    let hint = "arcssh: hint: check DNS, which does not know azgn.relay.invalid; if the private DNS zone privatelink.relay.invalid ";
    assert!(unknown.arcssh_lines()[1].starts_with(hint), "{}", unknown.stderr);
}

#[test]
fn setup_of_several_machines_shows_those_that_are_left() {
    let w = lab_with(&["web01"], |builder| builder.machine(Machine::new("web02").offline()));
    let (id, port) = (w.emulator().machine("web02").resource_id(), w.sshd().port());
    let setup = format!("{ARCSSH} setup web01 {id} --port {port} --replace-port --wait 3 --yes");
    let command = format!("stty cols 100 rows 30; {setup}");
    let (code, screen) = on_a_terminal(w.command("script"), &command);
    assert!(screen.contains("arcssh: waiting for 1 of 2 machines: web02; "), "{screen:?}");
    assert!(screen.contains("arcssh: web01: ready, "), "{screen:?}");
    assert!(screen.ends_with("arcssh: 1 of 2 machines are ready\r\n"), "{screen:?}");
    assert_eq!(code, Some(1));
}
