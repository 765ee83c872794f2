//! The answer to each kind of message.

use std::sync::LazyLock;

use proptest::prelude::*;

use super::*;
use crate::ssh::agent::tests::{keys, pair};

static IDENTITY: LazyLock<Identity> = LazyLock::new(|| {
    let (key, certificate) = pair(keys().path());
    Identity::new(key, certificate)
});

const FAILED: [u8; 5] = [0, 0, 0, 1, FAILURE];
const SUCCEEDED: [u8; 5] = [0, 0, 0, 1, SUCCESS];

fn strings(parts: &[&[u8]]) -> Vec<u8> {
    let mut message = Vec::new();
    parts.iter().for_each(|part| put_string(&mut message, part));
    message
}

fn login(session: &[u8], identity: &[u8]) -> Vec<u8> {
    let mut data = strings(&[session]);
    data.push(USERAUTH_REQUEST);
    data.extend(strings(&[b"alice", b"ssh-connection", PUBLICKEY]));
    data.push(1);
    data.extend(strings(&[b"rsa-sha2-512-cert-v01@openssh.com", identity]));
    data
}

fn sign(identity: &[u8], data: &[u8], flags: u32) -> Vec<u8> {
    [vec![SIGN_REQUEST], strings(&[identity, data]), flags.to_be_bytes().to_vec()].concat()
}

fn bind(session: &[u8], forwarded: u8) -> Vec<u8> {
    [vec![EXTENSION], strings(&[SESSION_BIND, b"host key", session, b"signature"]), vec![forwarded]].concat()
}

fn certificate() -> &'static [u8] {
    IDENTITY.certificate.blob()
}

fn login_to(session: &[u8]) -> Vec<u8> {
    sign(certificate(), &login(session, certificate()), RSA_SHA2_512)
}

fn is_signature(answer: &[u8]) -> bool {
    answer[4] == SIGN_RESPONSE
}

#[test]
fn a_login_with_the_certificate_is_signed_with_the_requested_algorithm() {
    for (flags, algorithm) in
        [(RSA_SHA2_256, "rsa-sha2-256"), (RSA_SHA2_512, "rsa-sha2-512"), (6, "rsa-sha2-256")]
    {
        let request = sign(certificate(), &login(b"id", certificate()), flags);
        let answer = IDENTITY.answer(&mut Session::default(), &request);
        assert!(is_signature(&answer));
        let mut signature = Reader::new(Reader::new(&answer[5..]).string().unwrap());
        assert_eq!(signature.text().unwrap(), algorithm);
    }
}

#[test]
fn sha_1_other_keys_and_data_other_than_logins_are_not_signed() {
    let public = IDENTITY.key.public().blob();
    let ours = certificate();
    let data = login(b"id", ours);
    let with = |at: usize, byte: u8| {
        let mut data = data.clone();
        data[at] = byte;
        data
    };
    let requests = [
        sign(ours, &data, 0),
        sign(ours, &data, 8),
        sign(&public, &data, RSA_SHA2_512),
        sign(&public, &login(b"id", &public), RSA_SHA2_512),
        sign(ours, &login(b"id", &public), RSA_SHA2_512),
        sign(ours, b"any data", RSA_SHA2_512),
        sign(ours, b"", RSA_SHA2_512),
        sign(ours, &with(6, 51), RSA_SHA2_512), // another kind of message
        sign(ours, &with(20, b'x'), RSA_SHA2_512), // another service
        sign(ours, &[&data[..], b"more"].concat(), RSA_SHA2_512),
        [sign(ours, &data, RSA_SHA2_512), vec![0]].concat(),
    ];
    for request in requests {
        assert_eq!(IDENTITY.answer(&mut Session::default(), &request), FAILED);
    }
}

#[test]
fn every_other_message_fails() {
    let listing = IDENTITY.answer(&mut Session::default(), &[REQUEST_IDENTITIES]);
    for number in 0..=u8::MAX {
        let answer = IDENTITY.answer(&mut Session::default(), &[number]);
        match number {
            REQUEST_IDENTITIES => assert_eq!(answer, listing),
            _ => assert_eq!(answer, FAILED, "{number}"),
        }
    }
    let query = [vec![EXTENSION], strings(&[b"query"])].concat();
    assert_eq!(IDENTITY.answer(&mut Session::default(), &query), FAILED);
    assert_eq!(IDENTITY.answer(&mut Session::default(), &[]), FAILED);
}

#[test]
fn a_bound_socket_signs_for_no_other_connection() {
    let mut session = Session::default();
    assert_eq!(IDENTITY.answer(&mut session, &bind(b"mine", 0)), SUCCEEDED);
    assert!(is_signature(&IDENTITY.answer(&mut session, &login_to(b"mine"))));
    assert_eq!(IDENTITY.answer(&mut session, &login_to(b"other")), FAILED);
    assert_eq!(IDENTITY.answer(&mut session, &bind(b"other", 0)), FAILED);
    assert_eq!(IDENTITY.answer(&mut session, &login_to(b"other")), FAILED);
}

#[test]
fn nothing_is_listed_or_signed_over_a_forwarded_socket() {
    for before in [None, Some(bind(b"mine", 0))] {
        let mut session = Session::default();
        before.map(|bind| IDENTITY.answer(&mut session, &bind));
        assert_eq!(IDENTITY.answer(&mut session, &bind(b"mine", 1)), SUCCEEDED);
        assert_eq!(IDENTITY.answer(&mut session, &bind(b"theirs", 0)), SUCCEEDED);
        assert_eq!(
            IDENTITY.answer(&mut session, &[REQUEST_IDENTITIES])[4..],
            [IDENTITIES_ANSWER, 0, 0, 0, 0]
        );
        for id in [b"mine".as_slice(), b"theirs"] {
            assert_eq!(IDENTITY.answer(&mut session, &login_to(id)), FAILED);
        }
    }
}

proptest! {
    #[test]
    fn only_a_login_gets_a_signature(number: u8, rest: Vec<u8>, flags: u32, data: Vec<u8>) {
        let messages = [
            [vec![number], rest.clone()].concat(),
            [vec![SIGN_REQUEST], rest.clone()].concat(),
            sign(&rest, &data, flags),
            sign(certificate(), &data, flags),
            [vec![EXTENSION], strings(&[SESSION_BIND]), rest].concat(),
        ];
        let mut session = Session::default();
        for message in messages {
            prop_assert!(!is_signature(&IDENTITY.answer(&mut session, &message)));
        }
    }
}

#[test]
fn a_truncated_or_changed_request_gets_no_signature() {
    let request = login_to(b"id");
    // ssh chooses the user name, the name of the algorithm and the flags.
    let data = strings(&[certificate()]).len() + 5;
    let name = data + strings(&[b"id"]).len() + 5..data + strings(&[b"id", b"alice"]).len() + 1;
    let algorithm = request.len() - strings(&[certificate()]).len() - 4 - 33;
    let algorithm = algorithm..algorithm + 33;
    let flags = request.len() - 4..request.len();
    for at in 0..request.len() {
        assert_eq!(IDENTITY.answer(&mut Session::default(), &request[..at]), FAILED, "{at}");
        if [&name, &algorithm, &flags].iter().any(|free| free.contains(&at)) {
            continue;
        }
        for change in 1..=u8::MAX {
            let mut damaged = request.clone();
            damaged[at] ^= change;
            let answer = IDENTITY.answer(&mut Session::Bound(b"id".to_vec()), &damaged);
            assert_eq!(answer, FAILED, "{at} {change}");
        }
    }
}
