//! What a user sees on a terminal while a machine's agent is waited for.

use std::time::Duration;

use arcssh_emulator::{ArmCall, ArmFault};

use crate::support::{Lab, on_a_terminal, run, world, world_with};

const ERASED: &str = "\r\u{1b}[K";

/// A world whose agent takes this many seconds to listen.
fn slow(seconds: u64) -> Lab {
    world_with(&["web01"], |builder| builder.listener_delay(Duration::from_secs(seconds)))
}

/// What stands on a terminal of 100 columns.
fn screen(w: &Lab, command: &str) -> String {
    let (code, screen) = on_a_terminal(w.command("script"), &format!("stty cols 100 rows 30; {command}"));
    assert_eq!(code, Some(0), "{screen}");
    screen
}

#[test]
fn on_a_terminal_one_line_counts_the_seconds_and_is_gone_at_the_end() {
    let screen = screen(&slow(4), "ssh -F .ssh/config web01 echo reached");
    let told: Vec<&str> = screen.split(ERASED).collect();
    let [first, waiting @ .., last] = &told[..] else { panic!("{screen}") };
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
fn with_control_persist_the_line_stands_where_the_messages_of_ssh_do() {
    if !cfg!(target_os = "linux") {
        return; // elsewhere it cannot be seen where that is
    }
    let shared =
        "ssh -F .ssh/config -o ControlMaster=auto -o ControlPath=./c -o ControlPersist=1 web01 echo reached";
    let screen_of = |more: &str| screen(&slow(3), &format!("{shared} {more}"));
    let (shown, elsewhere) = std::thread::scope(|scope| {
        let elsewhere = scope.spawn(|| screen_of("2>errors"));
        (screen_of(""), elsewhere.join().unwrap())
    });
    let told: Vec<&str> = shown.split(ERASED).collect();
    let ["", line, .., last] = &told[..] else { panic!("{shown}") };
    assert!(line.starts_with("arcssh: waiting for the agent of web01 to listen "), "{shown}");
    assert_eq!((*last, elsewhere.as_str()), ("reached\r\n", "reached\r\n"));
}

#[test]
fn a_terminal_without_a_cursor_has_a_line_each_time() {
    let screen = screen(&slow(4), "TERM=dumb ssh -F .ssh/config web01 echo reached");
    assert!(!screen.contains('\u{1b}'), "{screen}");
    assert_eq!(screen.lines().filter(|line| line.starts_with("arcssh: waiting for the ")).count(), 1);
}

#[test]
fn azure_is_waited_for_with_an_end_in_sight() {
    let slow = |call| ArmFault::new(500, "InternalServerError", "").on(call).after(Duration::from_secs(3));
    let w = world(&["web01"]);
    w.emulator().arm_fault(slow(ArmCall::ListCredentials));
    let proxy = run(&mut w.proxy("web01"));
    let told = "arcssh: waiting for the relay credentials of web01 from Azure Resource Manager; 2 s so far, 150 s at most";
    assert_eq!(proxy.waiting_lines(), [told]);
    w.emulator().arm_fault(slow(ArmCall::ResourceGraph));
    let named = run(&mut w.arcssh(&["proxy", "--host", "web01", "--port", &w.sshd().port().to_string()]));
    let told =
        "arcssh: waiting for the resource ID of web01 from Azure Resource Manager; 2 s so far, 150 s at most";
    assert_eq!(named.waiting_lines(), [told]);
    w.emulator().arm_fault(slow(ArmCall::ResourceGraph));
    let list = run(&mut w.arcssh(&["list"]));
    let told = "arcssh: waiting for the list of machines from Azure Resource Manager; 2 s so far";
    assert_eq!(list.waiting_lines(), [told]);
    assert!([proxy.code, named.code, list.code].iter().all(|code| *code == Some(0)));
}
