//! Where there is only IPv6.

use std::net::Ipv6Addr;

use crate::support::{run, world_with};

#[test]
fn entra_id_arm_and_relay_are_reached_over_ipv6() {
    let w = world_with(&["web01"], |builder| builder.bind(Ipv6Addr::LOCALHOST.into()));
    assert!(w.emulator().relay_authority().starts_with("[::"));
    assert_eq!(w.ssh_run(&["web01", "echo reached"]).clean(), "reached\n");
}

#[test]
fn relay_information_may_lead_to_an_ipv6_address() {
    let w = world_with(&["web01"], |builder| builder.bind(Ipv6Addr::LOCALHOST.into()));
    std::fs::write(w.home().join("relay_info"), w.relay_info()).unwrap();
    let run = run(&mut w.ssh_by("arcssh -r relay_info -p %p", "echo reached"));
    assert_eq!(run.clean(), "reached\n");
}
