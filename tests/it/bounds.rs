//! Endless responses: arcssh reads each up to a limit and reports it.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use arcssh_emulator::{ArmCall, ArmFault, EntraFault, Service};
use serde_json::{Value, json};

use crate::support::{Lab, lab, run, script, service};

const JSON: &str = "application/json";
const ENDLESS: &str =
    "arcssh: the response of Azure Resource Manager has too many pages: a list has more than 1000 pages";
const ONE_SUBSCRIPTION: &str = "arcssh: hint: select the machines of one subscription: --subscription ID";

/// More pages than arcssh reads. Each page links to another.
fn endless(w: &Lab, call: ArmCall, page: impl Fn(usize) -> Value) {
    (0..1100).for_each(|n| w.emulator().arm_fault(ArmFault::raw(200, JSON, &page(n).to_string()).on(call)));
}

#[test]
fn an_endless_list_is_read_up_to_a_limit() {
    let w = lab(&["web01"]);
    let arm =
        w.emulator().environment().into_iter().find(|(name, _)| name == "ARCSSH_ARM_ENDPOINT").unwrap().1;
    endless(&w, ArmCall::ResourceGraph, |n| json!({ "data": [], "$skipToken": n.to_string() }));
    endless(
        &w,
        ArmCall::Subscriptions,
        |n| json!({ "value": [], "nextLink": format!("{arm}/subscriptions?page={n}") }),
    );
    run(&mut w.arcssh(&["list"])).failed(1, &[ENDLESS, ONE_SUBSCRIPTION]);
    assert_eq!(w.emulator().requests_to(Service::Arm).len(), 2000);
    // Machine lists have the same limit.
    w.emulator().clear_faults();
    let lists = w.emulator().requests_to(Service::Arm).len();
    endless(
        &w,
        ArmCall::List,
        |n| json!({ "value": [], "nextLink": format!("{arm}/subscriptions/x/resources?page={n}") }),
    );
    w.emulator().arm_fault(ArmFault::new(403, "AuthorizationFailed", "No.").on(ArmCall::ResourceGraph));
    run(&mut w.arcssh(&["list"])).failed(1, &[ENDLESS, ONE_SUBSCRIPTION]);
    assert!(w.emulator().requests_to(Service::Arm).len() <= lists + 2 + 1000);
}

#[test]
fn an_endless_body_is_read_up_to_a_limit() {
    let body = format!("\"{}\"", "a".repeat(5 * 1024 * 1024));
    let w = lab(&["web01"]);
    w.emulator().arm_fault(ArmFault::raw(200, JSON, &body));
    let run_arm = run(&mut w.proxy("web01"));
    let why = "arcssh: cannot connect to web01: cannot use the response of Azure Resource Manager: the response is longer than 4 MiB";
    assert_eq!((run_arm.arcssh_lines()[0], run_arm.code), (why, Some(1)));
    let w = lab(&["web01"]);
    w.emulator().entra_fault(EntraFault::raw(200, JSON, &body).times(9));
    let run_entra = run(&mut w.proxy("web01"));
    let why = "arcssh: cannot connect to web01: cannot get a token of the service principal (application c11e4700-0000-4000-8000-000000000001): the response is longer than 4 MiB";
    assert_eq!((run_entra.arcssh_lines()[0], run_entra.code), (why, Some(3)));
}

#[test]
fn an_endless_metadata_response_is_read_up_to_a_limit() {
    let w = lab(&["web01"]);
    let port = service(send_endlessly);
    for variables in [["IDENTITY_ENDPOINT", "IDENTITY_HEADER"], ["IDENTITY_ENDPOINT", "IMDS_ENDPOINT"]] {
        let mut arcssh = w.arcssh(&["account", "--credential", "managed-identity"]);
        let address = format!("http://localhost:{port}/token");
        let run = run(arcssh.envs(variables.map(|name| (name, &address))));
        assert_eq!(run.code, Some(3), "{}", run.stderr);
        let why = if variables[1] == "IDENTITY_HEADER" {
            "the response of the metadata service cannot be used: the response is longer than 4 MiB"
        } else if !rustix::process::geteuid().is_root() {
            // An ordinary user's process cannot be the Arc agent, so arcssh reads nothing from it.
            "in place of the Arc agent"
        } else {
            "cannot get a token of the managed identity: the response of the Arc agent is longer than 64 KiB"
        };
        assert!(run.stderr.contains(why), "{}", run.stderr);
    }
    // The sockets' buffers hold some megabytes more than arcssh reads.
    assert!(SENT.load(Relaxed) < 32 * 1024 * 1024, "{}", SENT.load(Relaxed));
}

#[test]
fn endless_program_output_is_read_up_to_a_limit() {
    let w = lab(&["web01"]);
    for (program, source, redirected) in [
        ("az", "azure-cli", ""),
        ("az", "azure-cli", ">&2"),
        ("pwsh", "azure-powershell", ""),
        ("azd", "azure-developer-cli", ""),
    ] {
        let folder = w.home().join(format!("bin-{program}"));
        script(&folder, program, &format!("#!/bin/sh\nPATH=/usr/bin:/bin exec yes {redirected}\n"));
        let run = run(w.arcssh(&["account", "--credential", source]).env("PATH", &folder));
        assert_eq!(run.code, Some(3), "{}", run.stderr);
        assert!(run.stderr.contains("it printed more than 4 MiB"), "{}", run.stderr);
    }
}

/// Bytes of endless responses that were read.
static SENT: AtomicUsize = AtomicUsize::new(0);

/// A response whose body ends only when the client closes the connection.
fn send_endlessly(mut connection: TcpStream) {
    let _ = connection.read(&mut [0; 4096]);
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n";
    let _ = connection.write_all(head.as_bytes());
    while let Ok(written) = connection.write(&[b' '; 65536]) {
        SENT.fetch_add(written, Relaxed);
    }
}
