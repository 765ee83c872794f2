//! Progress messages while arcssh waits for a machine's agent or for Azure.

use std::thread;
use std::time::Duration;

use arcssh_emulator::{ArmCall, ArmFault};

use crate::matrix::to_relay_with;
use crate::support::{LIMIT, Lab, lab, lab_with, on_a_terminal, run, service};

const ERASED: &str = "\r\u{1b}[K";

/// A lab whose agent needs this many seconds to listen.
fn slow_agent(seconds: u64) -> Lab {
    lab_with(&["web01"], |builder| builder.listener_delay(Duration::from_secs(seconds)))
}

/// The output on a terminal of 100 columns.
fn screen(w: &Lab, command: &str) -> String {
    let (code, screen) = on_a_terminal(w.command("script"), &format!("stty cols 100 rows 30; {command}"));
    assert_eq!(code, Some(0), "{screen}");
    screen
}

#[test]
fn a_terminal_shows_one_progress_line_and_erases_it() {
    let screen = screen(&slow_agent(4), "ssh -F .ssh/config web01 echo reached");
    let output: Vec<&str> = screen.split(ERASED).collect();
    let [first, waiting @ .., last] = &output[..] else { panic!("{screen}") };
    assert_eq!((*first, *last), ("", "reached\r\n"), "{screen}");
    assert!(waiting.len() >= 2, "{screen}");
    for (number, line) in waiting.iter().enumerate() {
        assert!(line.starts_with("arcssh: waiting for the "), "{screen}");
        assert!(
            line.contains(&format!("; {} s so far, ", number + 2)) && line.ends_with(" s at most"),
            "{screen}"
        );
        assert!(line.chars().count() < 100, "{line}");
    }
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
    assert!(line.starts_with("arcssh: waiting for the agent of web01 to listen "), "{shown}");
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
    w.emulator().arm_fault(slow(ArmCall::ListCredentials));
    let proxy = run(&mut w.proxy("web01"));
    let expected = "arcssh: waiting for the relay credentials of web01 from Azure Resource Manager; 2 s so far, 150 s at most";
    assert_eq!(proxy.waiting_lines(), [expected]);
    w.emulator().arm_fault(slow(ArmCall::ResourceGraph));
    let named = run(&mut w.arcssh(&["proxy", "--host", "web01", "--port", &w.sshd().port().to_string()]));
    let expected =
        "arcssh: waiting for the resource ID of web01 from Azure Resource Manager; 2 s so far, 150 s at most";
    assert_eq!(named.waiting_lines(), [expected]);
    w.emulator().arm_fault(slow(ArmCall::ResourceGraph));
    let list = run(&mut w.arcssh(&["list"]));
    let expected = "arcssh: waiting for the list of machines from Azure Resource Manager; 2 s so far";
    assert_eq!(list.waiting_lines(), [expected]);
    assert!([proxy.code, named.code, list.code].iter().all(|code| *code == Some(0)));
}

/// The last attempt begins when `--wait` ends, and has 10 s.
#[test]
fn the_shown_limit_of_a_silent_relay_is_the_one_that_applies() {
    let w = lab(&["web01"]);
    let port = service(|stream| {
        thread::park_timeout(LIMIT);
        drop(stream);
    });
    let silent = run(&mut to_relay_with(&w, "127", &format!("0.0.1:{port}"), &["--wait", "14"]));
    let (relay, error) =
        (format!("127.0.0.1:{port}"), "failed: no response within 10 s during the handshake");
    let expected = [
        format!("arcssh: waiting for the relay {relay}; 2 s so far, 24 s at most"),
        format!(
            "arcssh: waiting for the relay {relay} (TLS with {relay} {error}); 17 s so far, 24 s at most"
        ),
    ];
    assert_eq!(silent.waiting_lines(), expected, "{}", silent.stderr);
    let why = format!("arcssh: cannot connect to the machine: TLS with {relay} {error}");
    let [first, hint] = silent.arcssh_lines()[..] else { panic!("{}", silent.stderr) };
    assert_eq!(first, why);
    assert!(hint.starts_with("arcssh: hint: allow https://127.0.0.1"), "{hint}");
    assert_eq!(silent.code, Some(6));
}

#[test]
fn an_unknown_name_of_the_relay_is_explained() {
    let w = lab(&["web01"]);
    let unknown = run(&mut to_relay_with(&w, "azgn", "relay.invalid", &["--wait", "60"]));
    let hint = "arcssh: hint: check DNS, which does not know azgn.relay.invalid; if the private DNS zone privatelink.relay.invalid ";
    assert!(unknown.arcssh_lines()[1].starts_with(hint), "{}", unknown.stderr);
}
