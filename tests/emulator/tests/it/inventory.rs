//! Subscriptions, lists of machines, and machines.

use arcssh_emulator::{ArmCall, ArmFault, Emulator, Machine, Role, SUBSCRIPTION};
use serde_json::{Value, json};

use crate::client::{self, CONNECTIVITY, arm, emulator_of};

const OTHER: &str = "5b5c4700-0000-4000-8000-000000000002";
const VMWARE: &str = "Microsoft.ConnectedVMwarevSphere/virtualMachines";

fn get(emulator: &Emulator, path: &str) -> Value {
    let answer = arm(emulator, "GET", path, "");
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

fn show(emulator: &Emulator, machine: &str) -> Value {
    get(emulator, &client::machine_path(emulator, machine))
}

pub(crate) fn list_path(subscription: &str, resource_type: &str) -> String {
    format!("/subscriptions/{subscription}/providers/{resource_type}?api-version=2024-07-10")
}

fn names(list: &Value) -> Vec<&str> {
    list["value"].as_array().unwrap().iter().map(|machine| machine["name"].as_str().unwrap()).collect()
}

#[test]
fn a_vm_id_is_the_same_in_every_run_and_differs_between_machines() {
    let machines = || {
        [Machine::new("web01"), Machine::new("web01").resource_group("rg-b"), Machine::new("WEB02")]
            .map(|machine| machine.tag("env", "test").tag("owner", "ops"))
    };
    let (first, second) = (emulator_of(machines()), emulator_of(machines()));
    let vm_id = |emulator: &Emulator, name: &str| emulator.machine(name).vm_id().unwrap();
    assert_eq!(vm_id(&first, "web01"), vm_id(&second, "rg-arc/web01"));
    assert_ne!(vm_id(&first, "web01"), vm_id(&first, "rg-b/web01"));
    let shown = show(&first, "web02");
    assert_eq!(shown["properties"]["vmId"], vm_id(&first, "web02"));
    assert_eq!(
        (&shown["name"], &shown["tags"]),
        (&json!("WEB02"), &json!({ "env": "test", "owner": "ops" }))
    );
    assert_eq!(vm_id(&first, "web02").split('-').map(str::len).collect::<Vec<_>>(), [8, 4, 4, 4, 12]);
}

#[test]
fn a_vm_id_can_be_set_or_left_out() {
    let given = "096afdaf-73c8-454c-89ed-4aeffec75411";
    let emulator = emulator_of([Machine::new("web01").vm_id(given), Machine::new("web02").without_vm_id()]);
    assert_eq!(show(&emulator, "web01")["properties"]["vmId"], given);
    assert_eq!(emulator.machine("web02").vm_id(), None);
    assert!(show(&emulator, "web02")["properties"].get("vmId").is_none());
}

#[test]
fn a_name_in_two_groups_means_the_first_machine_unless_a_group_or_an_id_is_given() {
    let emulator = emulator_of([Machine::new("web01"), Machine::new("Web01").resource_group("RG-B")]);
    let id = |name: &str| emulator.machine(name).resource_id();
    assert!(id("WEB01").ends_with("/resourceGroups/rg-arc/providers/Microsoft.HybridCompute/machines/web01"));
    assert!(
        id("rg-b/web01").ends_with("/resourceGroups/RG-B/providers/Microsoft.HybridCompute/machines/Web01")
    );
    assert_eq!(id(&id("rg-b/web01")), id("rg-b/web01"));
    assert_eq!(show(&emulator, "rg-b/web01")["name"], "Web01");
}

#[test]
fn every_arc_type_lists_credentials_and_answers_with_its_type() {
    for kind in ["ConnectedVMwarevSphere", "ScVmm", "AzureStackHCI"] {
        let resource_type = format!("Microsoft.{kind}/virtualMachines");
        let emulator = emulator_of([Machine::new("web01").resource_type(&resource_type)]);
        let id = emulator.machine("web01").resource_id();
        let shown = get(&emulator, &format!("{id}?api-version=2022-07-15-preview"));
        assert_eq!(shown["type"], resource_type);
        assert_eq!(shown["properties"]["osProfile"]["osType"], "linux");
        let endpoint = format!("{id}/{CONNECTIVITY}/default");
        get(&emulator, &format!("{endpoint}/serviceConfigurations/SSH?api-version=2023-03-15"));
        let path = format!("{endpoint}/listCredentials?api-version=2023-03-15");
        let answer = arm(&emulator, "POST", &path, r#"{"serviceName":"SSH"}"#);
        let name = answer.json()["relay"]["hybridConnectionName"].as_str().unwrap().to_owned();
        assert!(name.starts_with(&resource_type.to_ascii_lowercase()), "{name}");
        emulator.machine("web01").remove_endpoint();
        let message = arm(&emulator, "POST", &path, "").error().2;
        assert!(message.starts_with(&format!("The resource '{resource_type}/web01/providers/")), "{message}");
    }
}

#[test]
fn a_machine_is_not_found_under_another_type() {
    let emulator = emulator_of([Machine::new("web01").resource_type(VMWARE)]);
    let id = emulator.machine("web01").resource_id().replace(VMWARE, "Microsoft.HybridCompute/machines");
    let (status, code, _) = arm(&emulator, "GET", &format!("{id}?api-version=2024-07-10"), "").error();
    assert_eq!((status, code.as_str()), (404, "ResourceNotFound"));
    assert!(names(&get(&emulator, &list_path(SUBSCRIPTION, "Microsoft.HybridCompute/machines"))).is_empty());
    assert_eq!(names(&get(&emulator, &list_path(SUBSCRIPTION, VMWARE))), ["web01"]);
}

#[test]
fn subscriptions_are_listed_and_have_separate_machines() {
    let emulator = emulator_of([Machine::new("web01"), Machine::new("web01").subscription(OTHER)]);
    let all = get(&emulator, "/subscriptions?api-version=2022-12-01");
    let one = &all["value"][1];
    assert_eq!(all["count"], json!({ "type": "Total", "value": 2 }));
    assert_eq!(all["value"][0]["subscriptionId"], SUBSCRIPTION);
    assert_eq!(one["id"], format!("/subscriptions/{OTHER}"));
    assert_eq!((&one["state"], &one["displayName"]), (&json!("Enabled"), &json!("Subscription 2")));
    for subscription in [SUBSCRIPTION, OTHER] {
        let machines = get(&emulator, &list_path(subscription, "Microsoft.HybridCompute/machines"));
        let id = machines["value"][0]["id"].as_str().unwrap();
        assert!(names(&machines) == ["web01"] && id.starts_with(&format!("/subscriptions/{subscription}/")));
        assert_eq!(emulator.machine(id).resource_id(), id);
    }
    let unknown = list_path("5b5c4700-0000-4000-8000-000000000009", "Microsoft.HybridCompute/machines");
    let (status, code, _) = arm(&emulator, "GET", &unknown, "").error();
    assert_eq!((status, code.as_str()), (404, "SubscriptionNotFound"));
}

#[test]
fn resources_are_filtered_by_name_and_type() {
    let emulator = emulator_of([
        Machine::new("web01"),
        Machine::new("web01").resource_type(VMWARE),
        Machine::new("web02").resource_group("rg-b"),
    ]);
    let found = |filter: &str| {
        let filter = filter.replace(' ', "%20");
        let path = format!("/subscriptions/{SUBSCRIPTION}/resources?$filter={filter}&api-version=2018-05-01");
        names(&get(&emulator, &path)).len()
    };
    assert_eq!((found(""), found("name eq 'WEB01'")), (3, 2));
    let servers = "resourceType eq 'Microsoft.HybridCompute/machines'";
    assert_eq!(found(&format!("name eq 'web01' and {servers}")), 1);
    assert_eq!(found(&format!("name eq 'web01' and ({servers} or resourceType eq '{VMWARE}')")), 2);
}

#[test]
fn a_role_reads_only_the_types_that_it_covers() {
    let emulator = emulator_of([Machine::new("web01"), Machine::new("vm01").resource_type(VMWARE)]);
    let list = |resource_type: &str| arm(&emulator, "GET", &list_path(SUBSCRIPTION, resource_type), "");
    emulator.set_role(Role::LocalUserLogin);
    assert_eq!(list("Microsoft.HybridCompute/machines").status, 200);
    let (status, code, message) = list(VMWARE).error();
    assert_eq!((status, code.as_str()), (403, "AuthorizationFailed"));
    assert!(message.contains(&format!("action '{VMWARE}/read' over scope")), "{message}");
    emulator.set_role(Role::None);
    assert_eq!(list("Microsoft.HybridCompute/machines").status, 403);
    assert_eq!(get(&emulator, "/subscriptions?api-version=2022-12-01")["value"], json!([]));
}

#[test]
fn lists_and_subscriptions_have_separate_faults() {
    let emulator = emulator_of([Machine::new("web01")]);
    let fault = |call| ArmFault::new(403, "AuthorizationFailed", "No.").on(call);
    emulator.arm_fault(fault(ArmCall::List));
    emulator.arm_fault(fault(ArmCall::Subscriptions));
    show(&emulator, "web01");
    let list = list_path(SUBSCRIPTION, "Microsoft.HybridCompute/machines");
    for path in [list.as_str(), "/subscriptions?api-version=2022-12-01"] {
        assert_eq!(arm(&emulator, "GET", path, "").status, 403);
        assert_eq!(arm(&emulator, "GET", path, "").status, 200);
    }
}
