//! A machine with only IPv6. An IPv6 address has no DNS label, so that the emulator's relay has a name: it resolves in a
//! mount namespace with an /etc/hosts of its own.

use std::fs;
use std::net::Ipv6Addr;
use std::process::Command;

use crate::support::{Lab, has_ipv6, namespaces, run, world_with};

#[test]
fn entra_id_arm_and_relay_are_reached_over_ipv6() {
    let Some(own_mounts) = has_ipv6().then(|| namespaces("m")).flatten() else { return };
    let w = world_with(&["web01"], |builder| builder.bind(Ipv6Addr::LOCALHOST.into()));
    assert!(w.emulator().relay_authority().starts_with("ipv6.relay.test:"));
    let id = w.id();
    assert_eq!(
        run(&mut resolved(&w, &own_mounts, &format!("arcssh proxy {id} --port %p"))).clean(),
        "reached\n"
    );
}

#[test]
fn relay_information_may_lead_to_an_ipv6_address() {
    let Some(own_mounts) = has_ipv6().then(|| namespaces("m")).flatten() else { return };
    let w = world_with(&["web01"], |builder| builder.bind(Ipv6Addr::LOCALHOST.into()));
    fs::write(w.home().join("relay_info"), w.relay_info()).unwrap();
    assert_eq!(run(&mut resolved(&w, &own_mounts, "arcssh -r relay_info -p %p")).clean(), "reached\n");
}

/// ssh to web01 where the relay's name is that of ::1.
fn resolved(w: &Lab, own_mounts: &str, proxy_command: &str) -> Command {
    fs::write(w.home().join("hosts"), "127.0.0.1 localhost\n::1 localhost ipv6.relay.test\n").unwrap();
    let ssh = w.ssh_by(proxy_command, "echo reached");
    let mut shell = w.command("unshare");
    // ssh as root, which the user is in the namespace, reads root's home: each path is given.
    shell.args([own_mounts, "sh", "-euc", "mount --bind hosts /etc/hosts; exec \"$0\" \"$@\""]);
    shell.arg(ssh.get_program()).args(ssh.get_args());
    shell
}
