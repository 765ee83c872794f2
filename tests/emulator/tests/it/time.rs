//! Lives, clocks and limits.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arcssh_emulator::{ArmCall, Builder, Emulator, Machine, Service};

use crate::client::{self, TIMEOUT, list_credentials, token_request};

fn emulator(configure: impl FnOnce(Builder) -> Builder) -> Emulator {
    configure(Emulator::builder().machine(Machine::new("web01"))).start().unwrap()
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// Whether `second` is the current one, or one of the last few.
fn is_recent(second: u64) -> bool {
    (now() - 10..=now() + 1).contains(&second)
}

#[test]
fn credentials_live_no_longer_than_the_test_wants() {
    let emulator = emulator(|builder| builder.credential_lifetime(Duration::from_secs(60)));
    let issued = client::issue_credentials(&emulator);
    assert!(is_recent(issued.expires_on - 60), "{}", issued.expires_on);
    assert!(
        issued.access_key.contains(&format!("&se={}&", issued.expires_on + 600)),
        "{}",
        issued.access_key
    );
}

#[test]
fn the_relay_forgets_a_name_when_its_credentials_expire() {
    let emulator = emulator(|builder| builder.credential_lifetime(Duration::from_secs(2)).strict_expiry());
    let issued = client::issue_credentials(&emulator);
    client::wait_for_agent(&emulator, 1);
    let refused = |emulator: &Emulator| client::sender_handshake(emulator, &issued, 1).reason;
    assert!(!refused(&emulator).starts_with("Endpoint does not exist."));
    assert!(
        emulator.wait_until(TIMEOUT, |emulator| refused(emulator).starts_with("Endpoint does not exist."))
    );
    assert!(now() >= issued.expires_on);
}

#[test]
fn all_services_share_a_clock_of_their_own() {
    for offset in [-7200, 7200] {
        let emulator = emulator(|builder| builder.clock_offset(offset));
        let here = |second: u64| second.checked_add_signed(-offset).unwrap();
        let claims = client::claims(&client::access_token(&emulator));
        assert!(is_recent(here(claims["iat"].as_u64().unwrap())));
        assert!(is_recent(here(claims["exp"].as_u64().unwrap() - 3600)));
        let answer = list_credentials(&emulator);
        let expires_on = answer.json()["relay"]["expiresOn"].as_u64().unwrap();
        assert!(is_recent(here(expires_on - 3600)));
        // Good in that clock, and so for its relay and agent.
        let issued = emulator.machine("web01").issued_credentials().pop().unwrap();
        client::wait_for_agent(&emulator, 1);
        assert_eq!(client::sender_handshake(&emulator, &issued, 1).status, 403);
    }
}

#[test]
fn every_answer_tells_the_date() {
    let emulator = emulator(|builder| builder.clock_offset(-31_536_000));
    let dates = [list_credentials(&emulator), token_request(&emulator, &[("client_secret", "wrong")])]
        .map(|answer| answer.header("date").unwrap().to_owned());
    let years = 1970 + (now() - 31_536_000) / 31_556_952;
    assert!(
        dates.iter().all(|date| date.ends_with(" GMT") && date.contains(&format!(" {years} "))),
        "{dates:?}"
    );
}

#[test]
fn a_limit_refuses_everything_until_its_window_ends() {
    let emulator = emulator(|builder| builder);
    emulator.throttle(ArmCall::ListCredentials, Duration::from_millis(1500));
    let machine = format!("{}?api-version=2024-07-10", emulator.machine("web01").resource_id());
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
fn the_token_endpoint_has_a_limit_too() {
    let emulator = emulator(|builder| builder);
    emulator.throttle_tokens(Duration::from_millis(300));
    let refused = token_request(&emulator, &[]);
    assert_eq!((refused.status, refused.header("retry-after")), (429, Some("1")));
    assert_eq!(refused.json()["error_codes"][0], 90055);
    assert!(emulator.wait_until(TIMEOUT, |emulator| token_request(emulator, &[]).status == 200));
}
