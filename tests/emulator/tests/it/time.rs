//! Lifetimes, clocks and throttling.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arcssh_emulator::{ArmCall, Emulator, Service};

use crate::client::{self, TIMEOUT, list_credentials, token_request};

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// Returns whether `second` is now or a few seconds ago.
fn is_recent(second: u64) -> bool {
    (now() - 10..=now() + 1).contains(&second)
}

#[test]
fn the_lifetime_of_credentials_can_be_limited() {
    let emulator = client::emulator_with(|builder| builder.credential_lifetime(Duration::from_secs(60)));
    let issued = client::issue_credentials(&emulator);
    assert!(is_recent(issued.expires_on - 60), "{}", issued.expires_on);
    assert!(
        issued.access_key.contains(&format!("&se={}&", issued.expires_on + 600)),
        "{}",
        issued.access_key
    );
}

#[test]
fn strict_expiry_deletes_a_hybrid_connection_when_its_credentials_expire() {
    let emulator =
        client::emulator_with(|builder| builder.credential_lifetime(Duration::from_secs(2)).strict_expiry());
    let issued = client::issue_credentials(&emulator);
    client::wait_for_agent(&emulator, 1);
    let reason = |emulator: &Emulator| client::sender_handshake(emulator, &issued, 1).reason;
    assert!(!reason(&emulator).starts_with("Endpoint does not exist."));
    assert!(
        emulator.wait_until(TIMEOUT, |emulator| reason(emulator).starts_with("Endpoint does not exist."))
    );
    assert!(now() >= issued.expires_on);
}

#[test]
fn all_services_have_the_same_clock() {
    for offset in [-7200, 7200] {
        let emulator = client::emulator_with(|builder| builder.clock_offset(offset));
        let here = |second: u64| second.checked_add_signed(-offset).unwrap();
        let claims = client::claims(&client::access_token(&emulator));
        assert!(is_recent(here(claims["iat"].as_u64().unwrap())));
        assert!(is_recent(here(claims["exp"].as_u64().unwrap() - 3600)));
        let answer = list_credentials(&emulator);
        let expires_on = answer.json()["relay"]["expiresOn"].as_u64().unwrap();
        assert!(is_recent(here(expires_on - 3600)));
        // The credentials are valid by that clock, so relay and agent accept them: 403 is for the port.
        let issued = emulator.machine("web01").issued_credentials().pop().unwrap();
        client::wait_for_agent(&emulator, 1);
        assert_eq!(client::sender_handshake(&emulator, &issued, 1).status, 403);
    }
}

#[test]
fn every_answer_has_a_date() {
    let emulator = client::emulator_with(|builder| builder.clock_offset(-31_536_000));
    let dates = [list_credentials(&emulator), token_request(&emulator, &[("client_secret", "wrong")])]
        .map(|answer| answer.header("date").unwrap().to_owned());
    let years = 1970 + (now() - 31_536_000) / 31_556_952;
    assert!(
        dates.iter().all(|date| date.ends_with(" GMT") && date.contains(&format!(" {years} "))),
        "{dates:?}"
    );
}

#[test]
fn a_throttling_window_rejects_all_requests_until_it_closes() {
    let emulator = client::emulator();
    emulator.throttle(ArmCall::ListCredentials, Duration::from_millis(1500));
    let machine = client::machine_path(&emulator, "web01");
    assert_eq!(client::arm(&emulator, "GET", &machine, "").status, 200);
    let begun = Instant::now();
    let first = list_credentials(&emulator);
    assert_eq!((first.status, first.header("retry-after")), (429, Some("2")));
    assert!(emulator.wait_until(TIMEOUT, |emulator| {
        let answer = list_credentials(emulator);
        answer.status == 200 || answer.header("retry-after").is_none()
    }));
    assert!(begun.elapsed() >= Duration::from_millis(1450));
    let arrivals: Vec<Instant> =
        emulator.requests_to(Service::Arm).iter().map(|request| request.arrived).collect();
    assert!(arrivals.is_sorted() && arrivals[0] < begun && arrivals[1] >= begun);
}

#[test]
fn the_token_endpoint_can_be_throttled() {
    let emulator = client::emulator();
    emulator.throttle_tokens(Duration::from_millis(300));
    let throttled = token_request(&emulator, &[]);
    assert_eq!((throttled.status, throttled.header("retry-after")), (429, Some("1")));
    assert_eq!(throttled.json()["error_codes"][0], 90055);
    assert!(emulator.wait_until(TIMEOUT, |emulator| token_request(emulator, &[]).status == 200));
}
