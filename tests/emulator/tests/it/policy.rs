//! Multi-factor authentication, and policy tokens.

use arcssh_emulator::{Emulator, PolicyTokens};
use serde_json::{Value, json};

use crate::client::{self, Answer, access_token, arm, arm_with_token, list_credentials, request, variable};

const CLAIMS: &str = r#"{"access_token":{"acrs":{"essential":true,"values":["p1"]}}}"#;

fn token_with(emulator: &Emulator, claims: &str) -> String {
    let field = |name| variable(emulator, name);
    let (id, secret) = (field("AZURE_CLIENT_ID"), field("AZURE_CLIENT_SECRET"));
    let fields = [
        ("grant_type", "client_credentials"),
        ("client_id", &id),
        ("client_secret", &secret),
        ("scope", "https://management.azure.com/.default"),
        ("claims", claims),
    ];
    let answer = client::entra(emulator, &format!("{}/token", field("AZURE_TENANT_ID")), &fields);
    answer.json()["access_token"].as_str().unwrap().to_owned()
}

#[test]
fn a_token_without_the_required_claims_is_challenged() {
    let emulator = client::emulator();
    let path = client::machine_path(&emulator, "web01");
    let status = |token: &str| arm_with_token(&emulator, token, "GET", &path, "").status;
    let token = access_token(&emulator);
    assert_eq!(status(&token), 200);
    emulator.require_second_factor();
    let challenged = arm_with_token(&emulator, &token, "GET", &path, "");
    assert_eq!(challenged.status, 401);
    let challenge = challenged.header("www-authenticate").unwrap();
    let claims = "eyJhY2Nlc3NfdG9rZW4iOnsiYWNycyI6eyJlc3NlbnRpYWwiOnRydWUsInZhbHVlcyI6WyJwMSJdfX19";
    assert!(
        challenge.ends_with(&format!("error=\"insufficient_claims\", claims=\"{claims}\"")),
        "{challenge}"
    );
    assert_eq!(status(&access_token(&emulator)), 401);
    assert_eq!(status(&token_with(&emulator, r#"{"access_token":{"acrs":{"values":["p2"]}}}"#)), 401);
    assert_eq!(status(&token_with(&emulator, CLAIMS)), 200);
}

/// Acquires a policy token for a PUT of the endpoint with this body.
fn acquire(emulator: &Emulator, uri: &str, content: &Value) -> Value {
    let path = "/subscriptions/5b5c4700-0000-4000-8000-000000000001/providers/Microsoft.Authorization/acquirePolicyToken";
    let url = format!("{}{path}?api-version=2025-03-01", variable(emulator, "ARCSSH_ARM_ENDPOINT"));
    let bearer = format!("Bearer {}", access_token(emulator));
    let headers = [("Authorization", bearer.as_str()), ("x-ms-force-sync", "true")];
    let operation = json!({ "uri": uri, "httpMethod": "PUT", "content": content });
    let answer = request(emulator, "POST", &url, &headers, &json!({ "operation": operation }).to_string());
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

#[test]
fn a_policy_token_is_valid_for_one_operation() {
    let emulator = client::emulator();
    let id = emulator.machine("web01").resource_id();
    let path = format!("{id}/{}/default?api-version=2023-03-15", client::CONNECTIVITY);
    let uri = format!("{}{path}", variable(&emulator, "ARCSSH_ARM_ENDPOINT"));
    let body = json!({ "properties": { "type": "default" } });
    let put = |token: &str, body: &Value| -> Answer {
        let bearer = format!("Bearer {}", access_token(&emulator));
        let headers = [("Authorization", bearer.as_str()), ("x-ms-policy-external-evaluations", token)];
        request(&emulator, "PUT", &uri, &headers, &body.to_string())
    };
    emulator.set_policy_tokens(PolicyTokens::Issued);
    let denied = arm(&emulator, "PUT", &path, &body.to_string());
    assert_eq!((denied.status, denied.error().1.as_str()), (403, "RequestDisallowedByPolicy"));
    let info = &denied.json()["error"]["additionalInfo"][0];
    assert_eq!(info["type"], "PolicyViolation");
    assert_eq!(info["info"]["evaluationDetails"]["missingPolicyTokenDetails"]["shouldDeny"], true);
    let acquired = acquire(&emulator, &uri, &body);
    assert_eq!(acquired["result"], "Succeeded");
    let token = acquired["token"].as_str().unwrap();
    assert!(token.starts_with("PoP "), "{token}");
    assert_eq!(put(token, &json!({ "properties": { "type": "custom" } })).status, 403);
    assert_eq!(put("PoP other", &body).status, 403);
    assert_eq!(put(token, &body).status, 200);
    assert_eq!(arm(&emulator, "GET", &path, "").status, 200);
    emulator.set_policy_tokens(PolicyTokens::Failed);
    assert_eq!(acquire(&emulator, &uri, &body)["result"], "Failed");
    assert_eq!(list_credentials(&emulator).status, 403);
}
