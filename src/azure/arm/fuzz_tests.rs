//! Arbitrary error responses of ARM.

use azure_core::http::StatusCode;

use super::*;
use crate::tests::{each_input, is_plain, text};
use crate::text::sanitize;

/// The first line of an input is a challenge; the rest is the body.
#[test]
fn an_error_response_can_be_stored_and_printed() {
    each_input("arm", |input| {
        let end = input.iter().position(|byte| *byte == b'\n').unwrap_or(0);
        let (challenge, body) = (text(&input[..end]), input[end..].to_vec());
        let mut headers = Headers::new();
        headers.insert(WWW_AUTHENTICATE.clone(), challenge);
        let response = ErrorResponse::new(
            &"https://arm.example".parse().unwrap(),
            &RawResponse::from_bytes(StatusCode::Forbidden, headers, body),
        );
        let tenant = response.tenant.as_deref().unwrap_or_default();
        assert!(tenant.chars().all(|c| c.is_ascii_alphanumeric() || "-.".contains(c)));
        // The claims become a quoted word of a command.
        let claims = response.claims.as_ref().map(|claims| claims.base64()).unwrap_or_default();
        assert!(claims.chars().all(|c| c.is_ascii_alphanumeric() || "+/=".contains(c)));
        let stored = serde_json::to_vec(&response).unwrap();
        let read: ErrorResponse = serde_json::from_slice(&stored).unwrap();
        assert_eq!(
            (&read.code, &read.message, &read.tenant),
            (&response.code, &response.message, &response.tenant)
        );
        assert!(is_plain(&sanitize(&response.to_string())));
        format!("{} {} {}", response.code.is_empty(), response.message.is_empty(), tenant.is_empty())
    });
}
