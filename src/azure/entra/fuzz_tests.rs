//! Answers of Entra ID, of metadata services and of Azure CLI, whatever they hold.

use azure_core::http::StatusCode;
use azure_core::http::headers::Headers;

use super::*;
use crate::fuzz_tests::{each_input, text};

#[test]
fn a_token_ends_within_the_longest_life_and_a_refusal_is_one_line() {
    each_input("entra", |input| {
        let response = |status| RawResponse::from_bytes(status, Headers::new(), input.to_vec());
        let refusal =
            EntraError::new(&"https://login.example".parse().unwrap(), &response(StatusCode::BadRequest));
        assert!(!refusal.description.contains(['\n', '\r', '\t']));
        let _ = claims(&text(input));
        let form = in_one_form(&response(StatusCode::Ok));
        match serde_json::from_slice::<TokenResponse>(input) {
            Ok(given) => {
                assert!(form.is_some() && given.lives() <= LONGEST_LIFE);
                let lifetime = given.token().expires_on.unix_timestamp() - unix_now().cast_signed();
                assert!(lifetime <= LONGEST_LIFE.cast_signed() + 1, "{lifetime}");
                format!("token {}", lifetime > 0)
            }
            Err(_) => format!("none {} {}", refusal.error.is_empty(), refusal.description.is_empty()),
        }
    });
}
