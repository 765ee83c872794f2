//! Messages of anybody who can open the agent's socket.

use super::*;
use crate::fuzz::each_input;
use crate::ssh::agent::tests::{keys, pair};

/// An input is a message; in it, `CERT` is where our certificate is put with its length, so that requests name it.
#[test]
fn only_login_requests_are_signed() {
    let (key, certificate) = pair(keys().path());
    let mut ours = Vec::new();
    put_string(&mut ours, certificate.blob());
    let identity = Identity::new(key, certificate);
    each_input("agent", |input| {
        let message = filled(input, &ours);
        let mut session = Session::default();
        let answer = identity.answer(&mut session, &message);
        let length = u32::from_be_bytes(answer[..4].try_into().unwrap()) as usize;
        assert_eq!(length, answer.len() - 4);
        assert!([FAILURE, SUCCESS, IDENTITIES_ANSWER, SIGN_RESPONSE].contains(&answer[4]));
        if answer[4] == SIGN_RESPONSE {
            let named = message.windows(ours.len()).filter(|window| *window == ours).count();
            assert!(named >= 2 && message[0] == SIGN_REQUEST, "it is signed without naming our certificate");
        }
        session = Session::Forwarded;
        let answer = identity.answer(&mut session, &message);
        assert!(session.is_forwarded() && answer[4] != SIGN_RESPONSE, "nothing is signed for another machine");
        format!("{}", answer[4])
    });
}

fn filled(input: &[u8], ours: &[u8]) -> Vec<u8> {
    let mut message = Vec::new();
    let mut rest = input;
    while let Some(at) = rest.windows(4).position(|window| window == b"CERT") {
        message.extend_from_slice(&rest[..at]);
        message.extend_from_slice(ours);
        rest = &rest[at + 4..];
    }
    message.extend_from_slice(rest);
    message
}
