//! Arbitrary responses of Entra ID, of metadata services and of Azure CLI.

use azure_core::http::StatusCode;
use azure_core::http::headers::Headers;

use super::*;
use crate::tests::{each_input, text};

#[test]
fn a_token_expires_within_the_maximum_lifetime_and_an_error_is_one_line() {
    each_input("entra", |input| {
        let response = |status| RawResponse::from_bytes(status, Headers::new(), input.to_vec());
        let error =
            Rejection::new(&"https://login.example".parse().unwrap(), &response(StatusCode::BadRequest));
        assert!(!error.description.contains(['\n', '\r', '\t']));
        let _ = claims(&text(input));
        let normalized = normalized(&response(StatusCode::Ok));
        match serde_json::from_slice::<TokenResponse>(input) {
            Ok(token) => {
                assert!(normalized.is_some() && token.lifetime() <= MAX_LIFETIME);
                let lifetime = token.token().expires_on.unix_timestamp() - unix_now().cast_signed();
                assert!(lifetime <= MAX_LIFETIME.cast_signed() + 1, "{lifetime}");
                format!("token {}", lifetime > 0)
            }
            Err(_) => format!("none {} {}", error.error.is_empty(), error.description.is_empty()),
        }
    });
}
