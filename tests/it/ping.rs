//! `arcssh ping`: one connection to sshd, and round trips to the relay.

use std::io::Write as _;
use std::time::Duration;

use arcssh_emulator::RelayFault;
use serde_json::{Value, json};

use crate::interruption::Terminal;
use crate::support::{ARCSSH, LIMIT, Lab, Run, eventually, lab, run, service};

fn ping(w: &Lab, port: u16, options: &[&str]) -> Run {
    w.emulator().machine("web01").set_ssh_port(port);
    run(w.arcssh(&["ping", "web01", "--interval", "0.2", "--port", &port.to_string()]).args(options))
}

/// The lines with each number replaced by #.
fn lines(output: &str) -> Vec<String> {
    let number = regex_lite::Regex::new(r"[0-9]+(\.[0-9]+)?").unwrap();
    output.lines().map(|line| number.replace_all(line, "#").into_owned()).collect()
}

#[test]
fn round_trips_use_one_connection_to_sshd() {
    let w = lab(&["web01"]);
    let output = ping(&w, w.sshd().port(), &["-c", "3"]).clean();
    let lines = lines(&output);
    let [connected, banner, rounds @ .., summary] = &lines[..] else { panic!("{output}") };
    let steps = ": connected in # ms: tcp # ms, tls # ms, upgrade # ms";
    assert!(connected.starts_with("web#:# through ") && connected.ends_with(steps), "{output}");
    assert!(banner.starts_with("SSH-#-OpenSSH") && banner.ends_with(" after # ms"), "{output}");
    assert_eq!(rounds, ["#: # ms"; 3]);
    assert_eq!(summary, "# of # round trips to the relay; min # ms, median # ms, max # ms");
    assert_eq!(w.dialled().len(), 1);
    assert_eq!(w.emulator().sender_pings().len(), 3);
}

#[test]
fn json_has_all_times() {
    let w = lab(&["web01"]);
    let output = ping(&w, w.sshd().port(), &["-c", "2", "--json"]).clean();
    let report: Value = serde_json::from_str(&output).unwrap();
    for (name, value) in [
        ("machine", json!("web01")),
        ("id", json!(w.id())),
        ("service", json!("SSH")),
        ("port", json!(w.sshd().port())),
        ("relay", json!(w.emulator().relay_authority())),
        ("method", json!("ping")),
        ("ok", json!(true)),
        ("error", Value::Null),
    ] {
        assert_eq!(report[name], value, "{output}");
    }
    let time = |value: &Value| value.as_f64().unwrap_or_else(|| panic!("{value} in {output}"));
    let steps = &report["connect"]["steps"];
    let sum = ["tcp", "tls", "upgrade"].map(|step| time(&steps[step])).iter().sum::<f64>();
    assert!(sum <= time(&report["connect"]["seconds"]), "{output}");
    assert!(time(&report["banner"]["seconds"]) > 0.0, "{output}");
    let rounds: Vec<f64> = report["rounds"].as_array().unwrap().iter().map(time).collect();
    assert_eq!(rounds.len(), 2);
    assert!(
        time(&report["min"]) <= time(&report["median"]) && time(&report["median"]) <= time(&report["max"])
    );
}

#[test]
fn a_relay_that_answers_no_pings_is_measured_by_tls() {
    let w = lab(&["web01"]);
    w.emulator().relay_fault(RelayFault::blocked_reader());
    let run = ping(&w, w.sshd().port(), &["-c", "3"]);
    let output = String::from_utf8_lossy(&run.stdout).into_owned();
    assert_eq!(run.code, Some(0), "{output}{}", run.stderr);
    let note = "arcssh: the relay answers no pings; arcssh measures TLS connections to the relay instead";
    assert_eq!(run.arcssh_lines(), [note]);
    assert!(output.contains("\n1: no answer within 5 s\n2: "), "{output}");
    assert!(output.contains("\n2 of 3 TLS connections to the relay; min "), "{output}");
    assert_eq!(w.dialled().len(), 1);
    // The emulator does not notice the end of a connection that it does not read.
    w.emulator().machine("web01").remove_endpoint();
}

#[test]
fn with_an_option_each_round_trip_connects_to_the_machine() {
    let w = lab(&["web01"]);
    let output = ping(&w, w.sshd().port(), &["-c", "2", "--connect"]).clean();
    assert!(output.contains("\n2 of 2 connections to the machine; min "), "{output}");
    assert_eq!(w.dialled().len(), 3);
}

#[test]
fn a_failure_has_the_status_of_its_diagnosis() {
    let w = lab(&["web01"]);
    let web = service(|mut connection| drop(connection.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")));
    let run = ping(&w, web, &[]);
    assert_eq!(run.code, Some(1));
    let why = "the service on port # is not an SSH server: it is a web server (\"HTTP/# # Bad Request\")";
    assert!(lines(&run.stderr)[0].ends_with(why), "{}", run.stderr);
    w.emulator().relay_fault(RelayFault::close_after(30, 1011, "an internal error"));
    assert_eq!(ping(&w, w.sshd().port(), &["-c", "0"]).code, Some(1));
    w.emulator().machine("web01").set_online(false);
    let run = ping(&w, w.sshd().port(), &["--wait", "0", "--json"]);
    assert_eq!(run.code, Some(7), "{}", run.stderr);
    let report: Value = serde_json::from_slice(&run.stdout).unwrap();
    assert_eq!((&report["ok"], &report["error"]["code"]), (&false.into(), &"agent-offline".into()));
    let unknown = crate::support::run(&mut w.arcssh(&["ping", "web02"]));
    assert_eq!((unknown.code, unknown.stdout.len()), (Some(5), 0), "{}", unknown.stderr);
}

#[test]
fn ctrl_c_prints_the_summary() {
    let w = lab(&["web01"]);
    w.emulator().machine("web01").set_ssh_port(w.sshd().port());
    let words = format!("exec {ARCSSH} ping web01 --port {} -c 0 -i 0.2", w.sshd().port());
    let terminal = Terminal::open(w.command("script"), &words);
    assert!(eventually(LIMIT, || terminal.shown().contains("\n2: ")), "{}", terminal.shown());
    let (status, screen) = terminal.interrupt();
    assert_eq!(status, Some(130), "{screen}");
    assert!(screen.contains("^C\n") && screen.contains(" round trips to the relay; min "), "{screen}");
    assert!(eventually(Duration::from_secs(15), || w.emulator().open_connections() == 0));
}
