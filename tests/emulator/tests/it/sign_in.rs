//! Sign-in with a browser, a device code and a refresh token.

use std::time::Duration;

use arcssh_emulator::{AZURE_CLI, Emulator, PUBLIC_CLIENT, RefreshRefusal};
use serde_json::Value;

use crate::client::{self, Answer, encoded, entra};

const ARM: &str = "https://management.core.windows.net//.default offline_access openid profile";
const REDIRECT: &str = "http://localhost:12345";
/// RFC 7636, appendix B.
const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
const CHALLENGE: &str = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";

/// Sends a valid authorization request with some fields replaced or added.
fn authorize(emulator: &Emulator, replaced: &[(&str, &str)]) -> Answer {
    let mut fields = vec![
        ("client_id", AZURE_CLI),
        ("response_type", "code"),
        ("redirect_uri", REDIRECT),
        ("scope", ARM),
        ("state", "a b&c\""),
        ("code_challenge", CHALLENGE),
        ("code_challenge_method", "S256"),
    ];
    fields.retain(|(name, _)| replaced.iter().all(|(other, _)| other != name));
    fields.extend_from_slice(replaced);
    let authority = client::variable(emulator, "AZURE_AUTHORITY_HOST");
    let url = format!("{authority}organizations/oauth2/v2.0/authorize?{}", encoded(&fields));
    client::request(emulator, "GET", &url, &[], "")
}

fn field(location: &str, name: &str) -> Option<String> {
    let query = location.split_once('?')?.1;
    query.split('&').find_map(|pair| pair.strip_prefix(&format!("{name}="))).map(str::to_owned)
}

fn code(emulator: &Emulator) -> String {
    let answer = authorize(emulator, &[]);
    assert_eq!(answer.status, 302, "{answer:?}");
    let location = answer.header("location").unwrap();
    assert!(location.starts_with(&format!("{REDIRECT}?")), "{location}");
    assert_eq!(field(location, "state").unwrap(), "a%20b%26c%22");
    field(location, "code").unwrap()
}

/// Redeems `code` with some fields replaced.
fn redeem(emulator: &Emulator, code: &str, replaced: &[(&str, &str)]) -> Answer {
    let mut fields = vec![
        ("grant_type", "authorization_code"),
        ("client_id", AZURE_CLI),
        ("code", code),
        ("redirect_uri", REDIRECT),
        ("code_verifier", VERIFIER),
        ("client_info", "1"),
    ];
    fields.retain(|(name, _)| replaced.iter().all(|(other, _)| other != name));
    fields.extend_from_slice(replaced);
    entra(emulator, "organizations/token", &fields)
}

fn signed_in(emulator: &Emulator) -> Value {
    let answer = redeem(emulator, &code(emulator), &[]);
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

fn refresh(emulator: &Emulator, client: &str, token: &str) -> Answer {
    let fields =
        [("grant_type", "refresh_token"), ("client_id", client), ("refresh_token", token), ("scope", ARM)];
    entra(emulator, "organizations/token", &fields)
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_else(|| panic!("{name} in {value}"))
}

/// The OAuth error and the AADSTS number.
fn error(answer: &Answer) -> (String, u64) {
    let body = answer.json();
    (text(&body, "error").to_owned(), body["error_codes"][0].as_u64().unwrap())
}

#[test]
fn a_browser_sign_in_issues_all_tokens_of_the_user() {
    let emulator = client::emulator();
    let tokens = signed_in(&emulator);
    let access = client::claims(text(&tokens, "access_token"));
    assert_eq!((text(&access, "upn"), text(&access, "appid")), ("Ada@arcssh.example", AZURE_CLI));
    assert_eq!(text(&access, "aud"), "https://management.core.windows.net/");
    let id = client::claims(text(&tokens, "id_token"));
    assert_eq!((text(&id, "preferred_username"), text(&id, "name")), ("Ada@arcssh.example", "Ada Lovelace"));
    assert_eq!((id["oid"].clone(), id["tid"].clone()), (access["oid"].clone(), access["tid"].clone()));
    assert!(tokens["client_info"].is_string() && tokens["expires_in"].is_u64() && tokens["foci"] == "1");
    let secrets = emulator.secrets();
    for secret in ["access_token", "refresh_token", "id_token"] {
        assert!(secrets.iter().any(|known| known == text(&tokens, secret)), "{secret}");
    }
    let path = client::machine_path(&emulator, "web01");
    let token = text(&tokens, "access_token");
    assert_eq!(client::arm_with_token(&emulator, token, "GET", &path, "").status, 200);
}

#[test]
fn only_requested_tokens_are_issued() {
    let emulator = client::emulator();
    let scope = [("scope", "https://management.azure.com/.default")];
    let tokens = redeem(&emulator, &code(&emulator), &scope).json();
    assert!(tokens.get("refresh_token").is_none() && tokens.get("id_token").is_none());
}

#[test]
fn a_code_is_valid_once_and_only_with_its_client_redirect_uri_and_verifier() {
    let emulator = client::emulator();
    let code = code(&emulator);
    let rejected = |replaced: &[(&str, &str)]| error(&redeem(&emulator, &code, replaced));
    assert_eq!(rejected(&[("code_verifier", "wrong")]), ("invalid_grant".into(), 501_481));
    assert_eq!(rejected(&[("redirect_uri", "http://localhost:1")]), ("invalid_client".into(), 500_112));
    assert_eq!(rejected(&[("client_id", PUBLIC_CLIENT)]), ("invalid_grant".into(), 70000));
    let unknown = "00000000-0000-4000-8000-000000000000";
    assert_eq!(rejected(&[("client_id", unknown)]), ("unauthorized_client".into(), 700_016));
    assert_eq!(redeem(&emulator, &code, &[]).status, 200);
    assert_eq!(rejected(&[]), ("invalid_grant".into(), 54005));
    assert!(emulator.secrets().contains(&code));
}

#[test]
fn an_unregistered_redirect_uri_is_rejected() {
    let emulator = client::emulator();
    for address in ["http://127.0.0.1:12345", "https://localhost:12345", "http://localhost.evil:1", "urn:x"] {
        let answer = authorize(&emulator, &[("redirect_uri", address)]);
        assert!(answer.status == 400 && answer.body.contains("AADSTS50011: "), "{answer:?}");
    }
    assert_eq!(authorize(&emulator, &[("redirect_uri", "http://localhost:1/")]).status, 302);
}

#[test]
fn a_failed_sign_in_is_reported_at_the_redirect_uri() {
    let emulator = client::emulator();
    emulator.deny_sign_in();
    let answer = authorize(&emulator, &[]);
    let location = answer.header("location").unwrap();
    assert_eq!(field(location, "error").unwrap(), "access_denied");
    assert!(field(location, "error_description").unwrap().starts_with("AADSTS65004%3A"), "{location}");
    assert!(field(location, "state").is_some() && field(location, "code").is_none());
    let plain = authorize(&emulator, &[("code_challenge_method", "plain")]);
    assert_eq!(field(plain.header("location").unwrap(), "error").unwrap(), "invalid_request");
    assert_eq!(authorize(&emulator, &[]).status, 302);
}

#[test]
fn form_post_is_a_page_that_posts_the_code() {
    let emulator = client::emulator();
    let answer = authorize(&emulator, &[("response_mode", "form_post")]);
    assert_eq!(answer.status, 200);
    assert!(
        answer.body.contains(&format!("<form method=\"POST\" name=\"hiddenform\" action=\"{REDIRECT}\">"))
    );
    assert!(answer.body.contains("name=\"state\" value=\"a b&amp;c&quot;\""), "{}", answer.body);
    let code = answer.body.split("name=\"code\" value=\"").nth(1).unwrap().split('"').next().unwrap();
    assert_eq!(redeem(&emulator, code, &[]).status, 200);
}

#[test]
fn refresh_tokens_rotate_and_earlier_ones_stay_valid() {
    let emulator = client::emulator();
    let first = text(&signed_in(&emulator), "refresh_token").to_owned();
    let second = refresh(&emulator, AZURE_CLI, &first).json();
    assert_ne!(text(&second, "refresh_token"), first);
    assert_eq!(refresh(&emulator, AZURE_CLI, &first).status, 200);
    assert_eq!(refresh(&emulator, AZURE_CLI, text(&second, "refresh_token")).status, 200);
    assert_eq!(error(&refresh(&emulator, PUBLIC_CLIENT, &first)), ("invalid_grant".into(), 70000));
}

#[test]
fn rejected_refresh_tokens_need_a_new_sign_in() {
    let emulator = client::emulator();
    for (reason, code, number) in [
        (RefreshRefusal::Revoked, "invalid_grant", 50173),
        (RefreshRefusal::Inactive, "invalid_grant", 700_082),
        (RefreshRefusal::SecondFactor, "interaction_required", 50076),
    ] {
        let token = text(&signed_in(&emulator), "refresh_token").to_owned();
        emulator.refuse_refresh_tokens(reason);
        assert_eq!(error(&refresh(&emulator, AZURE_CLI, &token)), (code.into(), number));
        let token = text(&signed_in(&emulator), "refresh_token").to_owned();
        assert_eq!(refresh(&emulator, AZURE_CLI, &token).status, 200);
    }
}

fn device(emulator: &Emulator) -> Value {
    let answer = entra(emulator, "organizations/devicecode", &[("client_id", PUBLIC_CLIENT), ("scope", ARM)]);
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

fn poll(emulator: &Emulator, device: &Value) -> Answer {
    let grant = "urn:ietf:params:oauth:grant-type:device_code";
    let fields =
        [("grant_type", grant), ("client_id", PUBLIC_CLIENT), ("device_code", text(device, "device_code"))];
    entra(emulator, "organizations/token", &fields)
}

#[test]
fn a_device_code_is_pending_until_the_user_approves_it() {
    let emulator = client::emulator_with(|builder| builder.device_interval(Duration::ZERO));
    let device = device(&emulator);
    let user_code = text(&device, "user_code");
    assert!(text(&device, "message").contains(user_code));
    assert_eq!(error(&poll(&emulator, &device)).0, "authorization_pending");
    assert_eq!(emulator.pending_devices(), [user_code]);
    emulator.approve_device(&user_code.to_ascii_lowercase());
    let tokens = poll(&emulator, &device);
    assert_eq!(tokens.status, 200, "{tokens:?}");
    let tokens = tokens.json();
    assert!(tokens["id_token"].is_string() && tokens.get("foci").is_none());
    assert_eq!(refresh(&emulator, PUBLIC_CLIENT, text(&tokens, "refresh_token")).status, 200);
    assert_eq!(error(&poll(&emulator, &device)).0, "invalid_grant");
    assert!(emulator.secrets().contains(&text(&device, "device_code").to_owned()));
}

#[test]
fn a_device_code_can_be_declined_expired_or_unknown() {
    let emulator = client::emulator_with(|builder| builder.device_interval(Duration::ZERO));
    let (declined, expired) = (device(&emulator), device(&emulator));
    emulator.decline_device(text(&declined, "user_code"));
    emulator.expire_device(text(&expired, "user_code"));
    assert_eq!(error(&poll(&emulator, &declined)).0, "authorization_declined");
    assert_eq!(error(&poll(&emulator, &expired)).0, "expired_token");
    let unknown = serde_json::json!({ "device_code": "unknown" });
    assert_eq!(error(&poll(&emulator, &unknown)).0, "bad_verification_code");
}

#[test]
fn a_device_that_polls_too_often_must_slow_down() {
    let emulator =
        client::emulator_with(|builder| builder.device_interval(Duration::from_secs(1)).approve_devices());
    let device = device(&emulator);
    assert_eq!(device["interval"], 1);
    assert_eq!(poll(&emulator, &device).status, 200);
    assert_eq!(error(&poll(&emulator, &device)).0, "slow_down");
}

#[test]
fn each_kind_of_client_has_its_own_grants() {
    let emulator = client::emulator();
    let application = client::variable(&emulator, "AZURE_CLIENT_ID");
    let answer = entra(&emulator, "organizations/devicecode", &[("client_id", &application), ("scope", ARM)]);
    assert_eq!(error(&answer), ("invalid_client".into(), 7_000_218));
    let answer = client::token_request(&emulator, &[("client_id", AZURE_CLI)]);
    assert_eq!(error(&answer), ("invalid_client".into(), 7_000_218));
    let answer = client::token_request(&emulator, &[("tenant", "organizations")]);
    assert_eq!(error(&answer), ("invalid_request".into(), 50059));
    assert_eq!(client::token_request(&emulator, &[("tenant", "arcssh.example")]).status, 200);
}
