//! Refusals of Azure Resource Manager, whatever answers in its place.

use azure_core::http::StatusCode;

use super::*;
use crate::fuzz::{each_input, is_plain, text};
use crate::terminal::output::one_line;

/// The first line of an input is a challenge, the rest the body.
#[test]
fn a_refusal_can_be_stored_and_shown() {
    each_input("arm", |input| {
        let end = input.iter().position(|byte| *byte == b'\n').unwrap_or(0);
        let (challenge, body) = (text(&input[..end]), input[end..].to_vec());
        let mut headers = Headers::new();
        headers.insert(WWW_AUTHENTICATE.clone(), challenge);
        let refusal = Refusal::new(
            &"https://arm.example".parse().unwrap(),
            &RawResponse::from_bytes(StatusCode::Forbidden, headers, body),
        );
        let tenant = refusal.tenant.as_deref().unwrap_or_default();
        assert!(tenant.chars().all(|c| c.is_ascii_alphanumeric() || "-.".contains(c)));
        let stored = serde_json::to_vec(&refusal).unwrap();
        let read: Refusal = serde_json::from_slice(&stored).unwrap();
        assert_eq!(
            (&read.code, &read.message, &read.tenant),
            (&refusal.code, &refusal.message, &refusal.tenant)
        );
        assert!(is_plain(&one_line(&refusal.to_string())));
        format!("{} {} {}", refusal.code.is_empty(), refusal.message.is_empty(), tenant.is_empty())
    });
}
