//! Azure Resource Graph.

use std::time::Duration;

use arcssh_emulator::{ArmCall, ArmFault, Emulator, Machine, Role, SUBSCRIPTION};
use serde_json::{Value, json};

use crate::client::{Answer, arm, emulator_of};
use crate::inventory::list_path;

const GRAPH: &str = "/providers/Microsoft.ResourceGraph/resources?api-version=2021-03-01";
const OTHER: &str = "5b5c4700-0000-4000-8000-000000000002";
const VMWARE: &str = "Microsoft.ConnectedVMwarevSphere/virtualMachines";

/// A query that lists machines.
const INVENTORY: &str = "resources | where type in~ ('microsoft.hybridcompute/machines',\
    'microsoft.connectedvmwarevsphere/virtualmachines') | project id, name, type, resourceGroup, subscriptionId, tags, \
    properties | order by id asc";

fn post(emulator: &Emulator, body: &Value) -> Answer {
    arm(emulator, "POST", GRAPH, &body.to_string())
}

fn ask(emulator: &Emulator, body: &Value) -> Value {
    let answer = post(emulator, body);
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

fn names(page: &Value) -> Vec<&str> {
    page["data"].as_array().unwrap().iter().map(|row| row["name"].as_str().unwrap()).collect()
}

/// The status, and the code of the first detail.
fn error(answer: &Answer) -> (u16, String) {
    let (status, code, message) = answer.error();
    assert_eq!(code, "BadRequest");
    assert!(
        message.starts_with("Please provide below info when asking for support: timestamp = "),
        "{message}"
    );
    (status, answer.json()["error"]["details"][0]["code"].as_str().unwrap().to_owned())
}

#[test]
fn a_row_has_the_projected_columns() {
    let emulator = emulator_of([Machine::new("Web01").resource_group("RG-B").tag("env", "test")]);
    let answer = ask(&emulator, &json!({ "subscriptions": [SUBSCRIPTION], "query": INVENTORY }));
    let machine = emulator.machine("web01");
    let mut row = answer["data"][0].clone();
    let properties = row.as_object_mut().unwrap().remove("properties").unwrap();
    let expected = json!({
        "id": machine.resource_id(), "name": "Web01", "type": "microsoft.hybridcompute/machines",
        "resourceGroup": "rg-b", "subscriptionId": SUBSCRIPTION, "tags": { "env": "test" },
    });
    assert_eq!(row, expected);
    assert_eq!((&properties["status"], &properties["vmId"]), (&json!("Connected"), &json!(machine.vm_id())));
    assert_eq!(properties["agentVersion"], "1.67.03504.1320");
    assert_eq!((&answer["totalRecords"], &answer["count"]), (&json!(1), &json!(1)));
    assert_eq!(answer["resultTruncated"], "false");
    assert!(answer.get("$skipToken").is_none());
}

#[test]
fn types_are_compared_without_case() {
    let emulator = emulator_of([Machine::new("web01"), Machine::new("vm01").resource_type(VMWARE)]);
    let found = |types: &str| {
        let query = format!("resources | where type in~ ({types}) | project id, name | order by id asc");
        let page = ask(&emulator, &json!({ "query": query }));
        names(&page).iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(found("'MICROSOFT.HYBRIDCOMPUTE/MACHINES'"), ["web01"]);
    assert_eq!(found(&format!("'{VMWARE}', 'microsoft.hybridcompute/machines'")), ["vm01", "web01"]);
    assert!(found("'microsoft.scvmm/virtualmachines'").is_empty());
}

#[test]
fn a_query_filters_by_name_and_group_and_projects_texts() {
    let emulator = emulator_of([
        Machine::new("Web01").resource_group("RG-B").tag("env", "test"),
        Machine::new("web01").resource_group("other"),
        Machine::new("web02").resource_group("rg-b"),
    ]);
    let rows = |filter: &str| {
        let columns =
            "id, status = tostring(properties.status), env = tostring(tags.env), none = tostring(tags.a.b)";
        let query = format!(
            "resources | where type in~ ('microsoft.hybridcompute/machines'){filter} | project {columns} | order by id asc"
        );
        ask(&emulator, &json!({ "query": query }))["data"].as_array().unwrap().clone()
    };
    assert_eq!(rows("").len(), 3);
    assert_eq!(rows(" | where name in~ ('WEB01', 'x')").len(), 2);
    assert!(rows(r" | where name in~ ('\\', 'web\' | 01')").is_empty());
    let row = &rows(" | where name in~ ('web01') | where resourceGroup =~ 'rg-B'")[0];
    let id = row["id"].as_str().unwrap();
    assert_eq!(row, &json!({ "id": id, "status": "Connected", "env": "test", "none": "" }));
}

#[test]
fn a_response_has_a_limit() {
    let machines = (0..30).map(|number| Machine::new(&format!("web{number:02}")));
    let builder = machines.fold(Emulator::builder(), |builder, machine| builder.machine(machine));
    let emulator = builder.graph_max_response(20_000).start().unwrap();
    let with = |top: usize| post(&emulator, &json!({ "query": INVENTORY, "options": { "$top": top } }));
    assert_eq!(error(&with(1000)), (400, "ResponsePayloadTooLarge".to_owned()));
    assert_eq!(with(10).status, 200);
}

#[test]
fn a_user_has_a_quota_of_queries() {
    let builder = Emulator::builder().machine(Machine::new("web01"));
    let emulator = builder.graph_quota(2, Duration::from_secs(90)).start().unwrap();
    let answers: Vec<Answer> = (0..3).map(|_| post(&emulator, &json!({ "query": INVENTORY }))).collect();
    let state = |answer: &Answer| {
        let header = |name| answer.header(name).map(str::to_owned);
        let name = "x-ms-user-quota-remaining";
        (answer.status, header(name).unwrap(), header("retry-after"))
    };
    assert_eq!(
        answers.iter().map(state).collect::<Vec<_>>(),
        [(200, "1".into(), None), (200, "0".into(), None), (429, "0".into(), None)]
    );
    assert_eq!(answers[0].header("x-ms-user-quota-resets-after"), Some("00:01:30"));
}

/// All pages of a query: each request has the `$skipToken` of the page before.
fn pages(emulator: &Emulator, mut body: Value) -> Vec<Value> {
    let mut pages = vec![ask(emulator, &body)];
    while let Some(token) = pages.last().and_then(|page| page.get("$skipToken")) {
        body["options"]["$skipToken"] = token.clone();
        pages.push(ask(emulator, &body));
    }
    pages
}

#[test]
fn skip_tokens_lead_through_all_pages() {
    let machines = || (0..7).rev().map(|number| Machine::new(&format!("web{number:02}")));
    let expected: Vec<String> = (0..7).map(|number| format!("web{number:02}")).collect();
    let builder = machines().fold(Emulator::builder(), |builder, machine| builder.machine(machine));
    let forced = builder.page_size(3).start().unwrap();
    let free = emulator_of(machines());
    for (emulator, top, sizes) in
        [(&forced, 1000, vec![3, 3, 1]), (&free, 2, vec![2, 2, 2, 1]), (&free, 7, vec![7])]
    {
        let options = json!({ "resultFormat": "objectArray", "$top": top });
        let pages = pages(emulator, json!({ "query": INVENTORY, "options": options }));
        assert_eq!(pages.iter().map(|page| page["count"].as_u64().unwrap()).collect::<Vec<_>>(), sizes);
        assert!(pages.iter().all(|page| page["totalRecords"] == 7 && page["resultTruncated"] == "false"));
        assert_eq!(pages.iter().flat_map(names).collect::<Vec<_>>(), expected);
    }
}

#[test]
fn a_page_has_100_rows_unless_more_are_asked_for() {
    let emulator = emulator_of((0..150).map(|number| Machine::new(&format!("web{number:03}"))));
    let count = |body: Value| ask(&emulator, &body)["count"].clone();
    assert_eq!(count(json!({ "query": INVENTORY })), 100);
    assert_eq!(count(json!({ "query": INVENTORY, "options": { "$top": 1000 } })), 150);
    assert_eq!(count(json!({ "query": INVENTORY, "options": { "$skip": 140 } })), 10);
}

#[test]
fn a_skip_token_is_valid_only_with_its_query_and_scopes() {
    let emulator = emulator_of([Machine::new("web01"), Machine::new("web02")]);
    let first = json!({ "query": INVENTORY, "options": { "$top": 1 } });
    let token = ask(&emulator, &first)["$skipToken"].clone();
    let options = json!({ "$skipToken": token });
    assert_eq!(names(&ask(&emulator, &json!({ "query": INVENTORY, "options": options }))), ["web02"]);
    for body in [
        json!({ "query": INVENTORY.replace("name, ", ""), "options": options }),
        json!({ "query": INVENTORY, "subscriptions": [SUBSCRIPTION], "options": options }),
        json!({ "query": INVENTORY, "options": { "$skipToken": "eyJub25lIjowfQ==" } }),
    ] {
        assert_eq!(error(&post(&emulator, &body)), (400, "BadRequest".to_owned()));
    }
}

#[test]
fn any_other_query_is_invalid() {
    let emulator = emulator_of([Machine::new("web01")]);
    let replaced = |from: &str, to: &str| {
        assert!(INVENTORY.contains(from), "{from}");
        INVENTORY.replace(from, to)
    };
    let order = " | order by id asc";
    for (query, token) in [
        (String::new(), "<EOF>"),
        ("resources".to_owned(), "<EOF>"),
        (replaced("resources |", "securityresources |"), "securityresources"),
        (replaced("where type in~", "where type in"), "where"),
        (replaced("where type in~", "where name in~"), "where"),
        (
            replaced("'microsoft.hybridcompute/machines',", "microsoft.hybridcompute/machines,"),
            "microsoft.hybridcompute/machines",
        ),
        (replaced("'microsoft.hybridcompute/machines',", "'it''s',"), "'it''s'"),
        (replaced("| project", "| where name in~ ('a') or true) | project"), "'a') or true"),
        (replaced("| project", "| where name =~ 'a' | project"), "where"),
        (replaced("tags, ", "t = tostring(tag.env), "), "tag"),
        (replaced("project id, ", "project id, state, "), "state"),
        (replaced("name, ", "Name, "), "Name"),
        (replaced(order, " | order by name asc"), "order"),
        (replaced(order, " | order by id"), "order"),
        (replaced(order, ""), "<EOF>"),
        (replaced(order, " | order by id asc | take 5"), "take"),
    ] {
        let answer = post(&emulator, &json!({ "query": query }));
        assert_eq!(error(&answer), (400, "InvalidQuery".to_owned()), "{query}");
        let details = &answer.json()["error"]["details"];
        assert!(details[0]["message"].as_str().unwrap().starts_with("Query is invalid. Please refer to"));
        assert_eq!(
            (&details[1]["code"], &details[1]["token"]),
            (&json!("ParserFailure"), &json!(token)),
            "{query}"
        );
    }
}

/// Azure orders by projected columns only, and does not page a result that has dynamic columns only.
#[test]
fn a_query_that_orders_by_id_projects_it() {
    let emulator = emulator_of([Machine::new("web01")]);
    let answer = post(
        &emulator,
        &json!({ "query": INVENTORY.replace("project id, name, type, resourceGroup, subscriptionId, tags", "project tags") }),
    );
    assert_eq!(error(&answer), (400, "InvalidQuery".to_owned()));
    assert_eq!(answer.json()["error"]["details"][1]["token"], "id");
}

#[test]
fn options_outside_the_specification_are_rejected() {
    let emulator = emulator_of([Machine::new("web01")]);
    for options in [
        json!({ "$top": 0 }),
        json!({ "$top": 1001 }),
        json!({ "$top": "10" }),
        json!({ "resultFormat": "table" }),
    ] {
        let answer = post(&emulator, &json!({ "query": INVENTORY, "options": options }));
        assert_eq!(error(&answer), (400, "BadRequest".to_owned()), "{options}");
    }
    assert_eq!(arm(&emulator, "POST", GRAPH, "resources").error().1, "InvalidRequestContent");
    assert_eq!(arm(&emulator, "GET", GRAPH, "").status, 405);
}

#[test]
fn only_the_requested_subscriptions_are_searched() {
    let emulator = emulator_of([Machine::new("web01"), Machine::new("web02").subscription(OTHER)]);
    let unknown = "5b5c4700-0000-4000-8000-000000000009";
    let asked = |subscriptions: Value| json!({ "query": INVENTORY, "subscriptions": subscriptions });
    assert_eq!(names(&ask(&emulator, &json!({ "query": INVENTORY }))), ["web01", "web02"]);
    assert_eq!(names(&ask(&emulator, &asked(json!([OTHER.to_ascii_uppercase(), unknown])))), ["web02"]);
    let rejected = post(&emulator, &asked(json!([unknown])));
    assert_eq!(error(&rejected), (400, "NoValidSubscriptionsInQueryRequest".to_owned()));
    let message = rejected.json()["error"]["details"][0]["message"].as_str().unwrap().to_owned();
    assert!(message.ends_with(&format!("Given: '{unknown}'.")), "{message}");
}

#[test]
fn only_machines_that_the_role_may_read_are_found() {
    let emulator = emulator_of([Machine::new("web01"), Machine::new("vm01").resource_type(VMWARE)]);
    let query = json!({ "query": INVENTORY });
    emulator.set_role(Role::LocalUserLogin);
    assert_eq!(names(&ask(&emulator, &query)), ["web01"]);
    emulator.set_role(Role::None);
    assert_eq!(error(&post(&emulator, &query)), (400, "NoValidSubscriptionsInQueryRequest".to_owned()));
}

#[test]
fn a_resource_graph_fault_leaves_other_calls_alone() {
    let emulator = emulator_of([Machine::new("web01")]);
    let throttled = ArmFault::new(429, "RateLimiting", "Please retry.").header("Retry-After", "5");
    for fault in
        [ArmFault::new(403, "AccessDenied", "No."), ArmFault::new(400, "BadRequest", "No."), throttled]
    {
        emulator.arm_fault(fault.on(ArmCall::ResourceGraph));
    }
    let list = list_path(SUBSCRIPTION, "Microsoft.HybridCompute/machines");
    assert_eq!(arm(&emulator, "GET", &list, "").status, 200);
    let answers: Vec<Answer> = (0..4).map(|_| post(&emulator, &json!({ "query": INVENTORY }))).collect();
    assert_eq!(answers.iter().map(|answer| answer.status).collect::<Vec<_>>(), [403, 400, 429, 200]);
    assert_eq!(answers[2].header("retry-after"), Some("5"));
}
