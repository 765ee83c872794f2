//! IPv6 without IPv4. An IP address has no DNS label, but the relay's host name needs one. So the name resolves in a
//! mount namespace with its own /etc/hosts.

use std::fs;
use std::net::Ipv6Addr;
use std::process::Command;

use crate::support::{Lab, has_ipv6, lab_with, namespaces, run};

#[test]
fn entra_id_arm_and_relay_are_reached_over_ipv6() {
    let Some(own_mounts) = has_ipv6().then(|| namespaces("m")).flatten() else { return };
    let w = lab_with(&["web01"], |builder| builder.bind(Ipv6Addr::LOCALHOST.into()));
    assert!(w.emulator().relay_authority().starts_with("ipv6.relay.test:"));
    let id = w.id();
    assert_eq!(
        run(&mut ssh_with_hosts_file(&w, &own_mounts, &format!("arcssh proxy {id} --port %p"))).clean(),
        "reached\n"
    );
}

#[test]
fn relay_information_works_over_ipv6() {
    let Some(own_mounts) = has_ipv6().then(|| namespaces("m")).flatten() else { return };
    let w = lab_with(&["web01"], |builder| builder.bind(Ipv6Addr::LOCALHOST.into()));
    fs::write(w.home().join("relay_info"), w.relay_info()).unwrap();
    assert_eq!(
        run(&mut ssh_with_hosts_file(&w, &own_mounts, "arcssh -r relay_info -p %p")).clean(),
        "reached\n"
    );
}

/// ssh to web01 with a relay host name that resolves to ::1.
fn ssh_with_hosts_file(w: &Lab, own_mounts: &str, proxy_command: &str) -> Command {
    fs::write(w.home().join("hosts"), "127.0.0.1 localhost\n::1 localhost ipv6.relay.test\n").unwrap();
    let ssh = w.ssh_by(proxy_command, "echo reached");
    let mut shell = w.command("unshare");
    // In the namespace ssh runs as root and uses root's home directory, so each path is an argument.
    shell.args([own_mounts, "sh", "-euc", "mount --bind hosts /etc/hosts; exec \"$0\" \"$@\""]);
    shell.arg(ssh.get_program()).args(ssh.get_args());
    shell
}
