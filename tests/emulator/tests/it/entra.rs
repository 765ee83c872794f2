//! The token endpoint.

use arcssh_emulator::{Emulator, EntraFault, Service};

use crate::client::{self, token_request};

#[test]
fn a_token_names_its_audience_tenant_and_principal() {
    let emulator = client::emulator();
    let claims = client::claims(&client::access_token(&emulator));
    assert_eq!(claims["aud"], "https://management.azure.com");
    assert_eq!(claims["tid"], client::variable(&emulator, "AZURE_TENANT_ID"));
    assert!(claims["oid"].is_string() && claims["exp"].is_u64());
}

#[test]
fn the_scope_of_azure_cli_with_its_double_slash_is_accepted() {
    let scope = "https://management.core.windows.net//.default";
    let answer = token_request(&client::emulator(), &[("scope", scope)]);
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(
        client::claims(answer.json()["access_token"].as_str().unwrap())["aud"],
        "https://management.core.windows.net/"
    );
}

#[test]
fn each_invalid_field_has_its_own_error() {
    let emulator = client::emulator();
    let cases = [
        ("client_secret", "wrong", 401, "invalid_client", 7_000_215),
        ("client_id", "wrong", 400, "unauthorized_client", 700_016),
        ("tenant", "wrong", 400, "invalid_request", 90002),
        ("scope", "https://example.org/.default", 400, "invalid_resource", 500_011),
        ("grant_type", "password", 400, "unsupported_grant_type", 70003),
    ];
    for (field, value, status, error, number) in cases {
        let answer = token_request(&emulator, &[(field, value)]);
        let body = answer.json();
        assert_eq!((answer.status, body["error"].as_str().unwrap()), (status, error));
        assert_eq!(body["error_codes"][0], number);
        let description = body["error_description"].as_str().unwrap();
        assert!(description.starts_with(&format!("AADSTS{number}: ")), "{description}");
        assert!(
            description.contains("Trace ID: ") && description.contains("Correlation ID: "),
            "{description}"
        );
    }
}

#[test]
fn a_fault_applies_to_the_configured_number_of_requests() {
    let emulator = client::emulator();
    emulator
        .entra_fault(EntraFault::new(503, "temporarily_unavailable", 90033, "A transient error.").times(2));
    let statuses: Vec<u16> = (0..3).map(|_| token_request(&emulator, &[]).status).collect();
    assert_eq!(statuses, [503, 503, 200]);
    assert_eq!(emulator.requests_to(Service::Entra).len(), 3);
}

#[test]
fn secrets_include_all_tokens_and_keys() {
    let emulator: Emulator = client::emulator();
    let (token, issued) = (client::access_token(&emulator), client::issue_credentials(&emulator));
    let secrets = emulator.secrets();
    let signature = issued.access_key.split("sig=").nth(1).unwrap().split('&').next().unwrap();
    let service_token = issued.service_configuration_token.unwrap();
    let client_secret = client::variable(&emulator, "AZURE_CLIENT_SECRET");
    for secret in [token.as_str(), &issued.access_key, signature, &service_token, &client_secret] {
        assert!(secrets.iter().any(|known| known == secret), "{secret} is not among the secrets");
    }
}
