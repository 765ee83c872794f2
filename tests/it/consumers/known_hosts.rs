//! `arcssh known-hosts`, whose output ssh uses as known hosts.

use std::fs;
use std::net::TcpListener;
use std::thread;

use arcssh_emulator::Machine;

use super::Configuration;
use crate::support::{lab, lab_with, run};

#[test]
fn ssh_verifies_machines_with_the_printed_host_keys() {
    let names = ["web01", "Web02"];
    let w = lab_with(&names, |builder| builder.machine(Machine::new("other").resource_group("rg-b")));
    let hosts = Configuration::generate(&w, &["-g", "rg-arc"]);
    let port = w.sshd().port().to_string();
    let printed = run(&mut w.arcssh(&["known-hosts", "-g", "rg-arc", "--port", &port])).clean();
    let lines: Vec<&str> = printed.lines().collect();
    assert_eq!(lines.len(), names.len(), "{printed}");
    let known_hosts = w.home().join(".ssh/known_hosts");
    fs::write(&known_hosts, &printed).unwrap();
    for (line, name) in lines.iter().zip(names) {
        let id = w.emulator().machine(name).vm_id().unwrap();
        let names = format!("{}.{id},{id}", name.to_lowercase());
        let key = w.sshd().known_hosts_line(&names).unwrap();
        let key: Vec<&str> = key.split_whitespace().take(3).collect();
        assert_eq!(*line, format!("{} rg-arc/{name}", key.join(" ")));
        hosts.ssh(&["-o", "StrictHostKeyChecking=yes", &name.to_lowercase(), "true"]).clean();
    }
    assert_eq!(fs::read_to_string(&known_hosts).unwrap(), printed);
}

#[test]
fn a_machine_without_host_key_is_an_error_and_the_others_are_printed() {
    let w = lab(&["web01", "web02"]);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    thread::spawn(move || listener.incoming().for_each(drop));
    w.emulator().machine("web01").set_ssh_port(port.parse().unwrap());
    let failed = run(&mut w.arcssh(&["known-hosts", "web01", "--port", &port]));
    assert_eq!((failed.code, failed.stdout.len()), (Some(1), 0), "{}", failed.stderr);
    assert!(
        failed.stderr.contains("arcssh: cannot connect to web01: ssh received no host key: ")
            && failed.stderr.contains("arcssh: hint: check the machine's sshd: arcssh doctor rg-arc/web01\n"),
        "{}",
        failed.stderr
    );

    w.emulator().machine("web01").set_online(false);
    let port = w.sshd().port().to_string();
    let partly = run(&mut w.arcssh(&["known-hosts", "--all", "--port", &port, "--wait", "0"]));
    assert_ne!(partly.code, Some(0), "{}", partly.stderr);
    let printed = String::from_utf8(partly.stdout).unwrap();
    assert!(printed.ends_with(" rg-arc/web02\n") && !printed.contains("web01"), "{printed}");
    assert!(partly.stderr.contains("cannot connect to web01"), "{}", partly.stderr);
}
