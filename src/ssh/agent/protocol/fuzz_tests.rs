//! Messages from any process that can open the agent's socket.

use super::*;
use crate::ssh::agent::tests::{keys, pair};
use crate::tests::each_input;

/// The bytes that open and close a string in an input. The message has its length first.
const OPEN: u8 = 0xf0;
const CLOSE: u8 = 0xf1;

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
        let kind = answer[4];
        if kind == SIGN_RESPONSE {
            let count = message.windows(ours.len()).filter(|window| *window == ours).count();
            assert!(
                count >= 2 && message[0] == SIGN_REQUEST,
                "signed without the certificate in the request"
            );
        }
        session = Session::Forwarded;
        let answer = identity.answer(&mut session, &message);
        assert!(session.is_forwarded() && answer[4] != SIGN_RESPONSE, "signed for another machine");
        "x".repeat(usize::from(kind))
    });
}

/// Converts an input into a message: inserts the lengths of strings, and the certificate for `CERT`.
fn filled(input: &[u8], ours: &[u8]) -> Vec<u8> {
    let mut strings = vec![Vec::new()];
    let mut rest = input;
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        let message = strings.last_mut().unwrap();
        match (first, after.strip_prefix(b"ERT")) {
            (b'C', Some(after)) => {
                message.extend_from_slice(ours);
                rest = after;
            }
            (&OPEN, _) => strings.push(Vec::new()),
            (&CLOSE, _) => close(&mut strings),
            (byte, _) => message.push(*byte),
        }
    }
    while strings.len() > 1 {
        close(&mut strings);
    }
    strings.concat()
}

fn close(strings: &mut Vec<Vec<u8>>) {
    if strings.len() > 1 {
        let string = strings.pop().unwrap();
        put_string(strings.last_mut().unwrap(), &string);
    }
}
