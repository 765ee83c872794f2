//! VM extensions of a machine, and the operations that change them.

use std::time::Duration;

use arcssh_emulator::{Emulator, Machine, Role};
use serde_json::{Value, json};

use crate::client::{self, Answer, TIMEOUT, arm};

const VERSION: &str = "api-version=2024-07-10";
const BODY: &str = r#"{"location":"eastus","properties":{"publisher":"P","type":"T","settings":{"a":1},"protectedSettings":{"b":2}}}"#;

fn send(emulator: &Emulator, method: &str, name: &str, body: &str) -> Answer {
    let machine = emulator.machine("web01").resource_id();
    arm(emulator, method, &format!("{machine}/extensions/{name}?{VERSION}"), body)
}

fn state(emulator: &Emulator, name: &str) -> Value {
    send(emulator, "GET", name, "").json()["properties"]["provisioningState"].clone()
}

/// The status of the operation that an answer started.
fn operation(emulator: &Emulator, answer: &Answer) -> Value {
    let url = answer.header("Azure-AsyncOperation").unwrap();
    arm(emulator, "GET", &url[url.find("/subscriptions").unwrap()..], "").json()
}

#[test]
fn an_installation_is_accepted_and_ends_later() {
    let emulator = client::emulator();
    emulator.machine("web01").set_extension_delay(Duration::from_secs(1));
    let answer = send(&emulator, "PUT", "mine", BODY);
    assert_eq!((answer.status, answer.body.as_str(), answer.header("Retry-After")), (202, "", Some("1")));
    assert!(answer.header("Location").unwrap().contains("/locations/eastus/operationresults/"));
    assert_eq!(
        (state(&emulator, "mine"), operation(&emulator, &answer)["status"].clone()),
        (json!("Creating"), json!("InProgress"))
    );
    assert!(emulator.wait_until(TIMEOUT, |emulator| state(emulator, "MINE") == "Succeeded"));
    let properties = send(&emulator, "GET", "mine", "").json()["properties"].clone();
    assert_eq!(properties["settings"], json!({ "a": 1 }));
    assert!(properties.get("protectedSettings").is_none(), "{properties}");
    assert_eq!(properties["instanceView"]["status"]["level"], "Information");
    let ended = operation(&emulator, &answer);
    assert_eq!((&ended["status"], &ended["properties"]["name"]), (&json!("Succeeded"), &json!("mine")));
}

#[test]
fn a_failure_has_the_message_of_the_handler_and_remains_until_the_extension_is_deleted() {
    let emulator = client::emulator();
    emulator.machine("web01").fail_extension("unsupported distribution");
    let answer = send(&emulator, "PUT", "mine", BODY);
    let message = |emulator: &Emulator| {
        let properties = send(emulator, "GET", "mine", "").json()["properties"].clone();
        (properties["provisioningState"].clone(), properties["instanceView"]["status"]["message"].clone())
    };
    let failed = (json!("Failed"), json!("unsupported distribution"));
    assert_eq!(message(&emulator), failed);
    assert_eq!(operation(&emulator, &answer)["error"]["message"], "unsupported distribution");
    assert_eq!(send(&emulator, "PUT", "mine", BODY).status, 202);
    assert_eq!(message(&emulator), failed, "the configuration is unchanged");
    assert_eq!(send(&emulator, "DELETE", "mine", "").status, 202);
    assert_eq!(send(&emulator, "GET", "mine", "").error().1, "ResourceNotFound");
    assert_eq!(send(&emulator, "DELETE", "mine", "").status, 204);
    assert_eq!(send(&emulator, "PUT", "mine", BODY).status, 202);
    assert_eq!(state(&emulator, "mine"), "Succeeded");
}

#[test]
fn an_agent_that_does_not_run_completes_nothing() {
    let emulator = client::emulator_of([Machine::new("web01").offline()]);
    assert_eq!(send(&emulator, "PUT", "mine", BODY).status, 202);
    assert_eq!(state(&emulator, "mine"), "Creating");
    let text = "An extension of type T is still processing. Only one instance of an extension may be in progress at a time for the same resource. Please retry after sometime.";
    for (method, name) in [("PUT", "mine"), ("PUT", "other"), ("DELETE", "mine")] {
        let error = send(&emulator, method, name, BODY).error();
        assert_eq!(error, (409, "HCRP409".to_owned(), text.to_owned()));
    }
    emulator.machine("web01").set_online(true);
    assert_eq!(state(&emulator, "mine"), "Succeeded");
}

#[test]
fn the_agents_settings_decide_which_extension_is_installed() {
    let listed = json!([{ "publisher": "p", "type": "t" }]);
    let web01 = || Machine::new("web01");
    for (machine, expected) in [
        (web01().agent_setting("extensionsEnabled", json!("false")), "Failed"),
        (web01().config_mode(Some("monitor")), "Failed"),
        (web01().agent_setting("extensionsAllowList", listed.clone()), "Succeeded"),
        (web01().agent_setting("extensionsAllowList", json!([{ "publisher": "P", "type": "X" }])), "Failed"),
        (web01().agent_setting("extensionsBlockList", listed), "Failed"),
    ] {
        let emulator = client::emulator_of([machine]);
        assert_eq!(send(&emulator, "PUT", "mine", BODY).status, 202);
        assert_eq!(state(&emulator, "mine"), expected);
    }
}

#[test]
fn a_change_needs_its_permission_and_the_required_properties() {
    let emulator = client::emulator();
    for (body, code) in [
        (r#"{"properties":{"publisher":"P","type":"T"}}"#, "LocationRequired"),
        (r#"{"location":"eastus","properties":{"type":"T"}}"#, "BadRequest"),
    ] {
        let (status, error, _) = send(&emulator, "PUT", "mine", body).error();
        assert_eq!((status, error.as_str()), (400, code));
    }
    emulator.set_role(Role::LocalUserLogin);
    for (method, action) in [("PUT", "write"), ("DELETE", "delete")] {
        let (status, _, message) = send(&emulator, method, "mine", BODY).error();
        let action = format!("'Microsoft.HybridCompute/machines/extensions/{action}'");
        assert!(status == 403 && message.contains(&action), "{message}");
    }
}
