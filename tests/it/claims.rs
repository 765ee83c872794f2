//! Claims challenges of Azure Resource Manager, and policy tokens.

use std::fs;
use std::process::{Command, Stdio};

use arcssh_emulator::{ArmFault, EntraFault, PolicyTokens, RequestRecord, Service};
use serde_json::json;

use crate::support::{Lab, Run, finish, lab, lab_with, run, script};

const TENANT: &str = "7e4a4700-0000-4000-8000-000000000001";
/// `{"access_token":{"acrs":{"essential":true,"values":["p1"]}}}`.
const CLAIMS: &str = "eyJhY2Nlc3NfdG9rZW4iOnsiYWNycyI6eyJlc3NlbnRpYWwiOnRydWUsInZhbHVlcyI6WyJwMSJdfX19";

/// Without the service principal of the emulator's environment.
fn anonymous(command: &mut Command) -> &mut Command {
    command.env_remove("AZURE_CLIENT_ID").env_remove("AZURE_CLIENT_SECRET").env_remove("AZURE_TENANT_ID")
}

fn login(w: &Lab, arguments: &[&str]) -> Run {
    let browser = "#!/bin/sh\ncurl -sS -L --cacert \"$SSL_CERT_FILE\" \"$1\"\n";
    script(&w.home().join("bin"), "browser", browser);
    let mut login = w.arcssh(&["login"]);
    run(anonymous(&mut login).args(arguments).env("BROWSER", w.home().join("bin/browser")))
}

/// A connection with new credentials.
fn connect(w: &Lab) -> Run {
    for file in fs::read_dir(w.state_directory()).unwrap().flatten() {
        if file.file_name().to_string_lossy().starts_with("relay-") {
            fs::remove_file(file.path()).unwrap();
        }
    }
    run(anonymous(&mut w.proxy("web01")))
}

fn stored_challenges(w: &Lab) -> usize {
    let files = fs::read_dir(w.state_directory()).unwrap().flatten();
    files
        .filter(|file| file.file_name().to_string_lossy().ends_with(".json"))
        .filter(|file| file.file_name().to_string_lossy().starts_with("claims-"))
        .count()
}

/// The requests to Entra ID with claims: the end of the path, and the grant type.
fn requests_with_claims(w: &Lab) -> Vec<String> {
    let has_claims = |request: &RequestRecord| {
        request.body.contains("claims=%7B") || request.path_and_query.contains("claims=%7B")
    };
    let describe = |request: &RequestRecord| {
        let path = request.path_and_query.split('?').next().unwrap_or_default();
        let grant = request.body.split('&').find_map(|field| field.strip_prefix("grant_type="));
        let grant = grant.map(|grant| grant.rsplit("%3A").next().unwrap_or(grant));
        grant.map_or(path.rsplit('/').next().unwrap_or_default().to_owned(), str::to_owned)
    };
    w.emulator().requests_to(Service::Entra).iter().filter(|r| has_claims(r)).map(describe).collect()
}

#[test]
fn a_challenge_is_satisfied_by_the_next_login_with_a_browser() {
    let w = lab(&["web01"]);
    assert_eq!(login(&w, &[]).code, Some(0));
    connect(&w);
    w.emulator().require_second_factor();
    let rejected = connect(&w);
    assert_eq!(rejected.code, Some(3), "{}", rejected.stderr);
    assert!(rejected.stderr.contains("AADSTS50076"), "{}", rejected.stderr);
    assert!(rejected.stderr.contains("arcssh: hint: sign in: arcssh login"), "{}", rejected.stderr);
    assert_eq!(requests_with_claims(&w), ["refresh_token"]);
    assert_eq!(stored_challenges(&w), 1);
    let again = connect(&w);
    assert!(again.stderr.contains("AADSTS50076"), "{}", again.stderr);
    let signed_in = login(&w, &[]);
    assert_eq!(signed_in.code, Some(0), "{}", signed_in.stderr);
    let connected = connect(&w);
    assert_eq!(connected.code, Some(0), "{}", connected.stderr);
    assert_eq!(stored_challenges(&w), 0);
    let sent = requests_with_claims(&w);
    assert_eq!(sent[sent.len() - 3..], ["authorize", "authorization_code", "refresh_token"], "{sent:?}");
    // The next token needs the claims again, and no sign-in.
    w.clear_cache();
    let connected = connect(&w);
    assert_eq!((connected.code, stored_challenges(&w)), (Some(0), 0), "{}", connected.stderr);
}

#[test]
fn a_challenge_is_satisfied_by_the_next_login_with_a_device_code() {
    let w = lab_with(&["web01"], |builder| builder.approve_devices());
    assert_eq!(login(&w, &[]).code, Some(0));
    w.emulator().require_second_factor();
    connect(&w);
    let mut login = w.arcssh(&["login", "--device-code"]);
    let login = anonymous(&mut login).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let signed_in = finish(login.spawn().unwrap());
    assert_eq!(signed_in.code, Some(0), "{}", signed_in.stderr);
    let connected = connect(&w);
    assert_eq!((connected.code, stored_challenges(&w)), (Some(0), 0), "{}", connected.stderr);
    assert_eq!(requests_with_claims(&w)[1..], ["devicecode", "device_code", "refresh_token"]);
}

/// Conditional Access names its claims in the error to a refresh (Microsoft Learn, "Developer guidance for Microsoft Entra
/// Conditional Access").
#[test]
fn claims_of_entra_id_are_part_of_the_next_login() {
    let w = lab(&["web01"]);
    assert_eq!(login(&w, &[]).code, Some(0));
    w.clear_cache();
    let claims = r#"{"access_token":{"capolids":{"essential":true,"values":["a"]}}}"#;
    let error = json!({
        "error": "interaction_required", "error_description": "AADSTS50079: Enroll.", "claims": claims,
    });
    w.emulator().entra_fault(EntraFault::raw(400, "application/json", &error.to_string()));
    let rejected = connect(&w);
    assert!(rejected.stderr.contains("AADSTS50079: Enroll."), "{}", rejected.stderr);
    assert_eq!((login(&w, &[]).code, stored_challenges(&w)), (Some(0), 0));
    assert_eq!(requests_with_claims(&w), ["authorize", "authorization_code", "refresh_token"]);
    let requests = w.emulator().requests_to(Service::Entra);
    assert!(requests.iter().any(|request| request.path_and_query.contains("%22capolids%22")));
}

/// A service principal has no user whom Entra ID could ask.
#[test]
fn a_service_principal_requests_the_claims_at_once() {
    let w = lab(&["web01"]);
    run(&mut w.arcssh(&["list"])).clean();
    w.emulator().require_second_factor();
    let connected = run(&mut w.proxy("web01"));
    assert_eq!(connected.code, Some(0), "{}", connected.stderr);
    assert_eq!(requests_with_claims(&w), ["client_credentials"]);
}

#[test]
fn claims_are_found_in_any_of_several_challenges() {
    for first in [0, 1] {
        let w = lab(&["web01"]);
        let bearer = format!("Bearer error=\"insufficient_claims\", claims=\"{CLAIMS}\"");
        let challenges = ["PoP nonce=\"x\"", bearer.as_str()];
        let fault =
            ArmFault::new(401, "InteractionRequired", "No.").header("WWW-Authenticate", challenges[first]);
        w.emulator().arm_fault(fault.header("WWW-Authenticate", challenges[1 - first]));
        let connected = run(&mut w.proxy("web01"));
        assert_eq!(connected.code, Some(0), "{}", connected.stderr);
        assert_eq!(requests_with_claims(&w), ["client_credentials"]);
    }
}

/// Azure CLI returns the same token until a new sign-in.
#[test]
fn azure_cli_gets_the_exact_command() {
    let w = lab(&["web01"]);
    let token = r#"#!/bin/sh
        token=$(curl -sS --cacert "$SSL_CERT_FILE" -d grant_type=client_credentials -d "client_id=$ID" \
            --data-urlencode "client_secret=$SECRET" -d "scope=$ARCSSH_ARM_AUDIENCE/.default" \
            "$AZURE_AUTHORITY_HOST$TENANT/oauth2/v2.0/token" | sed 's/.*"access_token":"\([^"]*\)".*/\1/')
        echo "{\"accessToken\":\"$token\",\"expires_on\":$(($(date +%s) + 86400))}""#;
    script(&w.home().join("az-bin"), "az", token);
    let variable = |name: &str| {
        let variables = w.emulator().environment();
        variables.into_iter().find(|(other, _)| other == name).unwrap().1
    };
    w.emulator().require_second_factor();
    let path = format!("{}:{}", w.home().join("az-bin").display(), std::env::var("PATH").unwrap());
    let mut proxy = w.proxy("web01");
    anonymous(&mut proxy)
        .envs([("ID", variable("AZURE_CLIENT_ID")), ("SECRET", variable("AZURE_CLIENT_SECRET"))]);
    let rejected = run(proxy.env("TENANT", TENANT).env("PATH", path));
    let why = "arcssh: cannot connect to web01: Azure requires more than Azure CLI provides, such as multi-factor authentication (InteractionRequired: The request requires multi-factor authentication.)";
    let hint =
        format!("arcssh: hint: sign in again: az login --claims-challenge \"{CLAIMS}\" --tenant {TENANT}");
    rejected.failed(3, &[why, &hint]);
    assert_eq!(requests_with_claims(&w), [""; 0]);
}

#[test]
fn hostile_claims_are_not_stored_and_not_printed() {
    let w = lab(&["web01"]);
    assert_eq!(login(&w, &[]).code, Some(0));
    let long = "A".repeat(100_000);
    for claims in ["$(touch x)", "WzFd", "e30=\\\" --debug", long.as_str(), ""] {
        let challenge = format!("Bearer error=\"insufficient_claims\", claims=\"{claims}\"");
        let fault =
            || ArmFault::new(401, "InvalidAuthenticationToken", "No.").header("WWW-Authenticate", &challenge);
        w.emulator().arm_fault(fault().times(2));
        let rejected = connect(&w);
        assert_eq!((rejected.code, stored_challenges(&w)), (Some(3), 0), "{}", rejected.stderr);
        assert!(claims.is_empty() || !rejected.stderr.contains(claims), "{}", rejected.stderr);
        w.emulator().clear_faults();
    }
}

// Policy tokens.

fn acquisitions(w: &Lab) -> Vec<RequestRecord> {
    let requests = w.emulator().requests_to(Service::Arm).into_iter();
    requests.filter(|request| request.path_and_query.contains("acquirePolicyToken")).collect()
}

#[test]
fn a_policy_token_is_acquired_for_exactly_the_rejected_request() {
    let w = lab(&["web01"]);
    w.emulator().set_policy_tokens(PolicyTokens::Issued);
    let connected = run(&mut w.proxy("web01"));
    assert_eq!(connected.code, Some(0), "{}", connected.stderr);
    let [acquisition] = &acquisitions(&w)[..] else { panic!("{:?}", acquisitions(&w)) };
    assert!(acquisition.path_and_query.starts_with("/subscriptions/"), "{}", acquisition.path_and_query);
    assert!(acquisition.path_and_query.ends_with("/acquirePolicyToken?api-version=2025-03-01"));
    // Setup writes two resources.
    let port = w.emulator().machine("web01").ssh_port().unwrap().to_string();
    w.emulator().machine("web01").remove_endpoint();
    let set_up = run(&mut w.arcssh(&["setup", "web01", "--yes", "--port", &port]));
    assert_eq!(set_up.code, Some(0), "{}", set_up.stderr);
    assert!(acquisitions(&w).len() >= 3, "{:?}", acquisitions(&w));
}

#[test]
fn without_a_policy_token_the_policy_is_reported() {
    for (tokens, requests) in [(PolicyTokens::Failed, 1), (PolicyTokens::ChangeReferenceRequired, 0)] {
        let w = lab(&["web01"]);
        w.emulator().set_policy_tokens(tokens);
        let why = "arcssh: cannot connect to web01: Azure Policy denies the request of the service principal (application c11e4700-0000-4000-8000-000000000001) (Resource was disallowed by policy. A policy token is required.)";
        let hint = "arcssh: hint: ask an administrator of the subscription's policies";
        run(&mut w.proxy("web01")).failed(4, &[why, hint]);
        assert_eq!(acquisitions(&w).len(), requests);
    }
}
