//! Azure Resource Manager.

use std::time::Duration;

use arcssh_emulator::{ArmCall, ArmFault, Builder, Emulator, Machine, Role, Service};
use serde_json::{Value, json};

use crate::client::{self, CONNECTIVITY, TIMEOUT, arm, list_credentials};
use crate::inventory::list_path;

const VERSION: &str = "api-version=2023-03-15";

fn endpoint(emulator: &Emulator) -> String {
    format!("{}/{CONNECTIVITY}/default", emulator.machine("web01").resource_id())
}

#[test]
fn list_credentials_answers_in_the_recorded_shape() {
    let emulator = client::emulator();
    let answer = list_credentials(&emulator);
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("x-ms-providerhub-traffic"), Some("True"));
    assert!(
        answer.header("x-ms-request-id").is_some() && answer.header("x-ms-correlation-request-id").is_some()
    );
    let relay = answer.json()["relay"].clone();
    let text = |name: &str| relay[name].as_str().unwrap().to_owned();
    let name = text("hybridConnectionName");
    let parts: Vec<&str> = name.split('/').collect();
    let ["microsoft.hybridcompute", "machines", fingerprint, time, "v2"] = parts[..] else {
        panic!("{name}")
    };
    assert!(fingerprint.len() == 64 && time.len() == 19, "{name}");
    let expires_on = relay["expiresOn"].as_u64().unwrap();
    let requested_at: u64 = time[..10].parse().unwrap();
    assert!((3599..=3601).contains(&(expires_on - requested_at)));
    let host = format!("{}.{}", text("namespaceName"), text("namespaceNameSuffix"));
    assert_eq!(host, emulator.relay_authority());
    let resource = format!("sr=http%3A%2F%2F{}%2F{}%2F&", host.replace(':', "%3A"), name.replace('/', "%2F"));
    assert!(text("accessKey").starts_with(&format!("SharedAccessSignature {resource}")), "{relay}");
    assert!(text("accessKey").contains(&format!("&se={}&skn=sender20", expires_on + 600)), "{relay}");
    assert_eq!(text("serviceConfigurationToken").split('.').count(), 3);
}

#[test]
fn every_call_creates_a_hybrid_connection() {
    let emulator = client::emulator();
    assert_ne!(
        client::issue_credentials(&emulator).hybrid_connection_name,
        client::issue_credentials(&emulator).hybrid_connection_name
    );
    assert_eq!(emulator.machine("web01").issued_credentials().len(), 2);
}

#[test]
fn without_a_service_there_is_no_service_token() {
    let emulator = client::emulator_of([Machine::new("web01").without_service_configuration()]);
    let path = format!("{}/listcredentials?{VERSION}", endpoint(&emulator));
    let answer = arm(&emulator, "POST", &path, "");
    assert_eq!(answer.status, 200);
    assert!(answer.json()["relay"].get("serviceConfigurationToken").is_none());
}

#[test]
fn a_doubled_slash_and_any_case_are_accepted() {
    let emulator = client::emulator();
    let path = format!("/{}/LISTCREDENTIALS?{VERSION}", endpoint(&emulator).to_ascii_lowercase());
    assert_eq!(arm(&emulator, "POST", &path, r#"{"serviceName":"ssh"}"#).status, 200);
}

#[test]
fn the_lifetime_of_credentials_has_documented_limits() {
    let emulator = client::emulator();
    for (seconds, status) in [("599", 400), ("600", 200), ("10800", 200), ("10801", 400), ("3600.0", 400)] {
        let path = format!("{}/listCredentials?expiresin={seconds}&{VERSION}", endpoint(&emulator));
        assert_eq!(arm(&emulator, "POST", &path, "").status, status, "{seconds}");
    }
}

#[test]
fn missing_resources_have_the_recorded_errors() {
    let emulator = client::emulator_of([Machine::new("web01").without_endpoint()]);
    let (status, code, message) = list_credentials(&emulator).error();
    assert_eq!((status, code.as_str()), (404, "ResourceNotFound"));
    assert_eq!(
        message,
        "The resource 'Microsoft.HybridCompute/machines/web01/providers/Microsoft.HybridConnectivity/endpoints/default' could not be found."
    );
    let id = emulator.machine("web01").resource_id();
    let query = "?api-version=2024-07-10";
    let other_group = id.replace("rg-arc", "rg-none");
    let (status, code, message) = arm(&emulator, "GET", &format!("{other_group}{query}"), "").error();
    assert_eq!((status, code.as_str()), (404, "ResourceGroupNotFound"));
    assert_eq!(message, "Resource group 'rg-none' could not be found.");
    let answer = arm(&emulator, "GET", &format!("{}{query}", id.replace("web01", "web02")), "");
    assert_eq!(answer.header("x-ms-failure-cause"), Some("gateway"));
    assert_eq!(answer.header("x-ms-providerhub-traffic"), None);
    assert!(answer.error().2.starts_with(
        "The Resource 'Microsoft.HybridCompute/machines/web02' under resource group 'rg-arc' was not found."
    ));
}

#[test]
fn a_machine_is_set_up_step_by_step() {
    let emulator = client::emulator_of([Machine::new("web01").without_endpoint()]);
    let endpoint = endpoint(&emulator);
    let put = arm(&emulator, "PUT", &format!("{endpoint}?{VERSION}"), r#"{"properties":{"type":"default"}}"#);
    assert_eq!(
        (put.status, put.json()["properties"]["provisioningState"].as_str()),
        (200, Some("Succeeded"))
    );
    assert_eq!(list_credentials(&emulator).error().0, 412);
    let configuration = format!("{endpoint}/serviceConfigurations/SSH?{VERSION}");
    let body = json!({ "properties": { "serviceName": "SSH", "port": 2222 } }).to_string();
    assert_eq!(arm(&emulator, "PUT", &configuration, &body).status, 201);
    assert_eq!(arm(&emulator, "PUT", &configuration, &body).status, 200);
    assert_eq!(arm(&emulator, "GET", &configuration, "").json()["properties"]["port"], 2222);
    assert_eq!(list_credentials(&emulator).status, 200);
    let patch = arm(&emulator, "PATCH", &configuration, r#"{"properties":{"port":22}}"#);
    assert_eq!((patch.status, emulator.machine("web01").ssh_port()), (200, Some(22)));
    let list = format!("{endpoint}/serviceConfigurations?{VERSION}");
    assert_eq!(arm(&emulator, "GET", &list, "").json()["value"].as_array().unwrap().len(), 1);
    assert_eq!(arm(&emulator, "DELETE", &configuration, "").status, 200);
    assert_eq!(arm(&emulator, "DELETE", &configuration, "").status, 204);
    assert_eq!(arm(&emulator, "DELETE", &format!("{endpoint}?{VERSION}"), "").status, 200);
    assert_eq!(list_credentials(&emulator).error().0, 404);
}

#[test]
fn a_valid_token_is_required() {
    let emulator = client::emulator();
    let path = format!("{}/listCredentials?{VERSION}", endpoint(&emulator));
    let url = format!("{}{path}", client::variable(&emulator, "ARCSSH_ARM_ENDPOINT"));
    let answer = client::request(&emulator, "POST", &url, &[], "");
    assert_eq!(answer.status, 401);
    assert!(answer.header("www-authenticate").unwrap().starts_with("Bearer authorization_uri="));
    let answer = client::request(&emulator, "POST", &url, &[("Authorization", "Bearer x.y.z")], "");
    assert_eq!(answer.error().1, "InvalidAuthenticationToken");
    emulator.set_token_lifetime(Duration::ZERO);
    assert_eq!(arm(&emulator, "POST", &path, "").error().1, "ExpiredAuthenticationToken");
}

#[test]
fn a_known_api_version_is_required() {
    let emulator = client::emulator();
    let path = format!("{}/listCredentials", endpoint(&emulator));
    assert_eq!(arm(&emulator, "POST", &path, "").error().1, "MissingApiVersionParameter");
    let (_, code, message) = arm(&emulator, "POST", &format!("{path}?api-version=2019-01-01"), "").error();
    assert_eq!(code, "NoRegisteredProviderFound");
    assert!(message.contains("API version '2019-01-01'"), "{message}");
}

#[test]
fn the_get_of_a_vmware_virtual_machine_has_one_api_version() {
    let kind = "Microsoft.ConnectedVMwarevSphere/virtualMachines";
    let emulator = client::emulator_of([Machine::new("vm").resource_type(kind)]);
    let id = emulator.machine("vm").resource_id();
    let shown = |version: &str| arm(&emulator, "GET", &format!("{id}?api-version={version}"), "");
    assert_eq!(shown("2024-07-10").error().1, "NoRegisteredProviderFound");
    assert_eq!(shown("2022-07-15-preview").status, 200);
}

#[test]
fn a_login_role_may_list_credentials_but_not_read_the_endpoint() {
    let emulator = client::emulator();
    emulator.set_role(Role::LocalUserLogin);
    assert_eq!(list_credentials(&emulator).status, 200);
    let (status, code, message) =
        arm(&emulator, "GET", &format!("{}?{VERSION}", endpoint(&emulator)), "").error();
    assert_eq!((status, code.as_str()), (403, "AuthorizationFailed"));
    assert!(message.contains("action 'Microsoft.HybridConnectivity/endpoints/read' over scope"), "{message}");
    emulator.set_role(Role::None);
    let message = list_credentials(&emulator).error().2;
    assert!(message.contains("'Microsoft.HybridConnectivity/endpoints/listCredentials/action'"), "{message}");
    assert!(
        message.ends_with("If access was recently granted, please refresh your credentials."),
        "{message}"
    );
}

#[test]
fn a_provider_can_be_registered() {
    let emulator = Emulator::builder()
        .machine(Machine::new("web01"))
        .registration_state("NotRegistered")
        .registration_delay(Duration::from_millis(50))
        .start()
        .unwrap();
    let (status, code, _) = list_credentials(&emulator).error();
    assert_eq!((status, code.as_str()), (409, "MissingSubscriptionRegistration"));
    let provider =
        format!("/subscriptions/{}/providers/Microsoft.HybridConnectivity", arcssh_emulator::SUBSCRIPTION);
    let state = |emulator: &Emulator, method, path: &str| {
        let answer = arm(emulator, method, &format!("{path}?api-version=2021-04-01"), "");
        answer.json()["registrationState"].as_str().unwrap().to_owned()
    };
    assert_eq!(state(&emulator, "POST", &format!("{provider}/register")), "Registering");
    let registered = |emulator: &Emulator| state(emulator, "GET", &provider) == "Registered";
    assert!(emulator.wait_until(TIMEOUT, registered));
    assert_eq!(list_credentials(&emulator).status, 200);
}

#[test]
fn lists_have_pages() {
    let mut builder = Emulator::builder().page_size(2);
    for name in ["web01", "web02", "web03"] {
        builder = builder.machine(Machine::new(name));
    }
    let emulator = builder.start().unwrap();
    let list = list_path(arcssh_emulator::SUBSCRIPTION, "Microsoft.HybridCompute/machines");
    let first = arm(&emulator, "GET", &list, "").json();
    let next = first["nextLink"].as_str().unwrap();
    let next = next.strip_prefix(&client::variable(&emulator, "ARCSSH_ARM_ENDPOINT")).unwrap();
    let second = arm(&emulator, "GET", next, "").json();
    let names = |page: &Value| -> Vec<String> {
        page["value"].as_array().unwrap().iter().map(|m| m["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!([names(&first), names(&second)].concat(), ["web01", "web02", "web03"]);
    assert!(second.get("nextLink").is_none());
}

#[test]
fn the_resources_list_filters_by_name() {
    let emulator = client::emulator();
    let group = format!("/subscriptions/{}/resourceGroups/rg-arc", arcssh_emulator::SUBSCRIPTION);
    let found = |name: &str| {
        let filter = format!("$filter=name%20eq%20'{name}'");
        let path = format!("{group}/resources?{filter}&api-version=2018-05-01");
        arm(&emulator, "GET", &path, "").json()["value"].as_array().unwrap().len()
    };
    assert_eq!((found("WEB01"), found("web02")), (1, 0));
}

#[test]
fn a_fault_applies_to_its_kind_of_call_only() {
    let emulator = client::emulator();
    emulator.arm_fault(ArmFault::new(429, "TooManyRequests", "Slow down.").header("Retry-After", "1"));
    emulator.arm_fault(ArmFault::raw(502, "text/html", "<html>Bad Gateway</html>").on(ArmCall::Machine));
    let machine = client::machine_path(&emulator, "web01");
    assert_eq!(arm(&emulator, "GET", &machine, "").body, "<html>Bad Gateway</html>");
    let answer = list_credentials(&emulator);
    assert_eq!((answer.status, answer.header("retry-after")), (429, Some("1")));
    assert_eq!(list_credentials(&emulator).status, 200);
}

#[test]
fn requests_are_recorded_in_order() {
    let emulator = client::emulator();
    list_credentials(&emulator);
    let requests = emulator.requests();
    assert_eq!((requests[0].service, requests[0].method.as_str()), (Service::Entra, "POST"));
    assert_eq!((requests[1].service, requests[1].status), (Service::Arm, Some(200)));
    assert_eq!(requests[1].body, r#"{"serviceName":"SSH"}"#);
    assert!(requests[1].header("Authorization").is_some_and(|value| value.starts_with("Bearer ")));
}

#[test]
fn the_error_for_a_token_of_another_tenant_names_the_right_tenant() {
    let emulator = client::emulator_with(Builder::home_tenant_differs);
    let (wrong, right) = (client::variable(&emulator, "AZURE_TENANT_ID"), emulator.subscription_tenant());
    let answer = list_credentials(&emulator);
    let (status, code, message) = answer.error();
    assert_eq!((status, code.as_str()), (401, "InvalidAuthenticationTokenTenant"));
    assert!(message.starts_with(&format!(
        "The access token is from the wrong issuer 'https://sts.windows.net/{wrong}/'. It must match the tenant \
         'https://sts.windows.net/{right}/' associated with this subscription."
    )));
    let authority = client::variable(&emulator, "AZURE_AUTHORITY_HOST");
    let challenge = format!("Bearer authorization_uri=\"{authority}{right}\", error=\"invalid_token\", ");
    assert!(answer.header("www-authenticate").unwrap().starts_with(&challenge), "{answer:?}");
    assert_eq!(arm(&emulator, "GET", "/subscriptions?api-version=2022-12-01", "").json()["value"], json!([]));
    let token = client::token_request(&emulator, &[("tenant", right)]).json();
    let token = token["access_token"].as_str().unwrap();
    let path = client::machine_path(&emulator, "web01");
    assert_eq!(client::arm_with_token(&emulator, token, "GET", &path, "").status, 200);
}
