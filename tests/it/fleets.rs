//! Many machines: the size of lists, and the quota of queries.

use std::process::{Child, Stdio};
use std::thread;
use std::time::Duration;

use arcssh_emulator::{ArmCall, ArmFault, Builder, Machine, RequestRecord, Service};
use serde_json::{Value, json};

use crate::support::{ARCSSH, Lab, finish, lab, lab_with, run};

const JSON: &str = "application/json";

fn machines(builder: Builder, count: usize) -> Builder {
    (0..count).fold(builder, |builder, number| builder.machine(Machine::new(&format!("web{number:02}"))))
}

/// The statuses of the queries of Resource Graph.
fn queries(w: &Lab) -> Vec<u16> {
    let requests = w.emulator().requests_to(Service::Arm).into_iter();
    let queries = requests.filter(|request: &RequestRecord| request.path_and_query.contains("ResourceGraph"));
    queries.map(|request| request.status.unwrap_or_default()).collect()
}

fn listed(w: &Lab) -> usize {
    let text = run(&mut w.arcssh(&["list", "--format", "json"])).clean();
    serde_json::from_str::<Value>(&text).unwrap().as_array().unwrap().len()
}

/// A machine with all properties has more than 1 kB.
#[test]
fn a_query_requests_only_the_properties_that_arcssh_reads() {
    let w = lab_with(&[], |builder| machines(builder, 30).graph_max_response(30 * 900));
    assert_eq!(listed(&w), 30);
    assert_eq!(queries(&w), [200]);
    let query = &w.emulator().requests_to(Service::Arm)[0].body;
    assert!(query.contains("project id, tags, ") && !query.contains("properties,"), "{query}");
}

#[test]
fn a_query_for_a_name_returns_only_machines_with_that_name() {
    let w = lab_with(&["web01.x"], |builder| machines(builder, 30).graph_max_response(3 * 900));
    let port = w.emulator().machine("web01.x").ssh_port().unwrap().to_string();
    let output = run(&mut w.arcssh(&["proxy", "--host", "web01.x", "--port", &port]));
    assert!(!output.stderr.contains("arcssh: hint"), "{}", output.stderr);
    assert_eq!(queries(&w), [200]);
}

#[test]
fn smaller_pages_are_requested_if_resource_graph_rejects_a_page() {
    let w = lab_with(&[], |builder| machines(builder, 30).graph_max_response(11 * 900));
    assert_eq!(listed(&w), 30);
    assert_eq!(queries(&w), [400, 400, 200, 200, 200]);
    // A page that is longer than arcssh reads has the same effect.
    let w = lab_with(&[], |builder| machines(builder, 3));
    let long = format!("[\"{}\"]", "a".repeat(17 * 1024 * 1024));
    w.emulator().arm_fault(ArmFault::raw(200, JSON, &long).on(ArmCall::ResourceGraph));
    assert_eq!((listed(&w), queries(&w)), (3, vec![200, 200]));
}

#[test]
fn each_subscription_is_listed_if_no_page_is_small_enough() {
    let w = lab_with(&[], |builder| machines(builder, 30).graph_max_response(600));
    assert_eq!(listed(&w), 30);
    assert_eq!(queries(&w), [400, 400, 400]);
}

/// A page of all properties of 1,000 machines with ten network interfaces each.
#[test]
fn a_list_can_have_pages_of_15_mb() {
    let w = lab(&["web01"]);
    w.emulator()
        .arm_fault(ArmFault::new(403, "AuthorizationFailed", "No.").on(ArmCall::ResourceGraph).times(2));
    let row = |number| {
        let id = w.id().replace("web01", &format!("node{number:04}"));
        json!({ "id": id, "properties": { "status": "Connected", "networkProfile": "x".repeat(15_000) } })
    };
    let page = json!({ "value": (0..1000).map(row).collect::<Vec<_>>() }).to_string();
    w.emulator().arm_fault(ArmFault::raw(200, JSON, &page).on(ArmCall::List));
    let peak = "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True); \
                print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024)";
    let output = run(w.command("python3").args(["-c", peak, ARCSSH, "list", "--format", "json"])).clean();
    let (machines, peak) = output.trim_end().rsplit_once('\n').unwrap();
    assert_eq!(serde_json::from_str::<Value>(machines).unwrap().as_array().unwrap().len(), 1000);
    // The page is in memory twice while it arrives. A debug build has 30 MiB of its own.
    assert!(peak.parse::<usize>().unwrap() < 80, "{peak} MiB");
    let endless = format!("[\"{}\"]", "a".repeat(17 * 1024 * 1024));
    w.emulator().arm_fault(ArmFault::raw(200, JSON, &endless).on(ArmCall::List));
    let why = "arcssh: the response of Azure Resource Manager is too long: a page is longer than 16 MiB";
    let hint = "arcssh: hint: select the machines of one subscription: --subscription ID";
    run(&mut w.arcssh(&["list"])).failed(1, &[why, hint]);
}

#[test]
fn an_incomplete_list_is_reported() {
    let w = lab(&["web01"]);
    for (rest, total) in [
        (json!({ "totalRecords": 2500, "count": 1, "resultTruncated": "true" }), 2500),
        (json!({ "totalRecords": 3, "count": 1, "resultTruncated": "false" }), 3),
        (json!({ "totalRecords": 1, "resultTruncated": true }), 1),
    ] {
        let mut page = rest.clone();
        page["data"] = json!([{ "id": w.id() }]);
        w.emulator().arm_fault(ArmFault::raw(200, JSON, &page.to_string()).on(ArmCall::ResourceGraph));
        let output = run(&mut w.arcssh(&["list"]));
        let warning =
            format!("the list of machines is incomplete: Azure Resource Graph returned 1 of {total}");
        assert!(output.code == Some(0) && output.stderr.contains(&warning), "{}", output.stderr);
    }
}

/// Some services write a byte order mark before JSON (Azure/azure-rest-api-specs issue 42472).
#[test]
fn a_byte_order_mark_before_json_is_ignored() {
    let w = lab(&["web01"]);
    let mark = '\u{feff}';
    let page = format!("{mark}{}", json!({ "data": [{ "id": w.id() }] }));
    w.emulator().arm_fault(ArmFault::raw(200, JSON, &page).on(ArmCall::ResourceGraph));
    assert_eq!(listed(&w), 1);
    w.emulator().arm_fault(ArmFault::raw(200, JSON, &format!("{mark}{{}}")));
    let output = run(&mut w.proxy("web01"));
    assert!(output.stderr.contains("it contains no relay credentials"), "{}", output.stderr);
}

#[test]
fn many_processes_share_the_quota_of_resource_graph() {
    let window = Duration::from_secs(3);
    let w = lab_with(&["web01"], |builder| builder.graph_quota(8, window));
    let start = || -> Child {
        let mut list = w.arcssh(&["list", "--standalone"]);
        list.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    run(&mut w.arcssh(&["account"])).clean();
    let first: Vec<Child> = (0..12).map(|_| start()).collect();
    thread::sleep(Duration::from_secs(1));
    let later: Vec<Child> = (0..8).map(|_| start()).collect();
    for child in first.into_iter().chain(later) {
        finish(child).clean();
    }
    let rejected = queries(&w).into_iter().filter(|status| *status == 429).count();
    // Only processes that send a query at the same time as the last one of a window.
    assert!(rejected <= 16, "{rejected} of {} queries", queries(&w).len());
    assert!(w.emulator().requests_to(Service::Arm).len() <= 20 + 16);
}

/// The time until the quota is reset is longer than a user waits.
#[test]
fn a_long_reset_of_the_quota_is_reported_by_all_processes() {
    let w = lab_with(&["web01"], |builder| builder.graph_quota(1, Duration::from_secs(50 * 60)));
    assert_eq!(listed(&w), 1);
    for _ in 0..2 {
        let output = run(&mut w.arcssh(&["list"]));
        assert!(output.stderr.contains("throttles requests (429)"), "{}", output.stderr);
    }
    assert_eq!(queries(&w), [200]);
    // Other requests of ARM have no such quota.
    let output = run(&mut w.proxy("web01"));
    assert!(!output.stderr.contains("429"), "{}", output.stderr);
}
