//! Certificates from ssh-keygen, compared with the output of ssh-keygen.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::LazyLock;

use proptest::prelude::*;
use proptest::sample::Index;
use tempfile::TempDir;

use super::*;

/// The validity of the certificates in these tests, in Unix time.
const FROM: u64 = 1_790_000_000;
const TO: u64 = FROM + 3600;
const NOW: u64 = FROM + 60;

/// The options of a certificate as Entra ID issues it.
const OPTIONS: [&str; 14] = [
    "-I",
    "oid@tid",
    "-z",
    "42",
    "-n",
    "Alice@Contoso.com,alice",
    "-V",
    "0x6AB13B80:0x6AB14990",
    "-O",
    "clear",
    "-O",
    "permit-pty",
    "-O",
    "extension:oid@sshservice.azure.net=1d0f",
];

fn keygen(folder: &Path, arguments: &[&str]) -> String {
    let output = Command::new("ssh-keygen")
        .current_dir(folder)
        .env("TZ", "UTC")
        .args(arguments)
        .output()
        .expect("ssh-keygen is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A directory with the key pairs `key` and `ca`.
fn keys() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    keygen(folder.path(), &["-q", "-t", "rsa", "-b", "2048", "-N", "", "-f", "key"]);
    keygen(folder.path(), &["-q", "-t", "rsa", "-b", "2048", "-N", "", "-f", "ca"]);
    folder
}

/// A certificate for `key`, and that key.
fn certified(folder: &Path, options: &[&str]) -> (String, PublicKey) {
    keygen(folder, &[&["-q", "-s", "ca"], options, &["key.pub"]].concat());
    let line = fs::read_to_string(folder.join("key-cert.pub")).unwrap();
    (line, PublicKey::read(&folder.join("key.pub")).unwrap())
}

/// A certificate for tests that modify it.
static CERTIFIED: LazyLock<(String, PublicKey)> = LazyLock::new(|| certified(keys().path(), &OPTIONS));

fn blob() -> Vec<u8> {
    Certificate::parse(&CERTIFIED.0).unwrap().blob
}

fn checked(text: &str, now: u64) -> Result<(), CertificateError> {
    Certificate::parse(text).unwrap().check(&CERTIFIED.1, now)
}

#[test]
fn a_certificate_of_ssh_keygen_is_valid_for_its_first_principal_in_lower_case() {
    let (line, key) = &*CERTIFIED;
    let certificate = Certificate::parse(line).unwrap();
    assert_eq!(certificate.check(key, NOW), Ok(()));
    assert_eq!(certificate.login_name().as_deref(), Some("alice@contoso.com"));
    assert_eq!(certificate.valid_before(), TO);
}

#[test]
fn the_base64_body_alone_is_parsed_and_written_as_a_line_that_ssh_reads() {
    let folder = keys();
    let (line, _) = certified(folder.path(), &OPTIONS);
    let body = line.split(' ').nth(1).unwrap();
    let written = Certificate::parse(&format!(" {body}\r\n")).unwrap().to_line();
    fs::write(folder.path().join("written-cert.pub"), written).unwrap();
    let shown = |file| keygen(folder.path(), &["-L", "-f", file]).replace(file, "");
    assert_eq!(shown("written-cert.pub"), shown("key-cert.pub"));
}

#[test]
fn the_displayed_fields_are_those_of_ssh_keygen() {
    let folder = keys();
    let (line, _) = certified(folder.path(), &OPTIONS);
    let shown = Certificate::parse(&line).unwrap().to_string();
    let reference = keygen(folder.path(), &["-L", "-f", "key-cert.pub"]);
    let fingerprints: Vec<&str> =
        reference.split_whitespace().filter(|word| word.starts_with("SHA256:")).collect();
    let [public_key, authority] = fingerprints.as_slice() else { panic!("{reference}") };
    assert!(reference.contains("from 2026-09-21T14:13:20 to 2026-09-21T15:13:20"), "{reference}");
    let expected = format!(
        "login name        alice@contoso.com
principals        Alice@Contoso.com, alice
valid             from 2026-09-21T14:13:20Z to 2026-09-21T15:13:20Z
key ID            oid@tid
serial            42
public key        {public_key}
signed by         {authority}
critical options  none
extensions        oid@sshservice.azure.net=1d0f, permit-pty
"
    );
    assert_eq!(shown, expected);
}

#[test]
fn validity_allows_for_a_local_clock_that_is_behind() {
    let line = &CERTIFIED.0;
    assert_eq!(checked(line, TO - 1), Ok(()));
    assert_eq!(checked(line, TO), Err(CertificateError::Expired(TO)));
    assert_eq!(checked(line, FROM - CLOCK_SKEW), Ok(()));
    let early = checked(line, FROM - CLOCK_SKEW - 1).unwrap_err();
    assert_eq!(early, CertificateError::NotYetValid(FROM));
    assert!(early.to_string().contains("not valid before 2026-09-21T14:13:20Z"), "{early}");
}

#[test]
fn a_certificate_for_another_key_for_a_host_or_without_principals_is_an_error() {
    let folder = keys();
    let (other, key) = certified(folder.path(), &OPTIONS);
    assert_eq!(checked(&other, NOW), Err(CertificateError::AnotherKey));
    let check = |line: &str| Certificate::parse(line).unwrap().check(&key, NOW);
    let (host, _) = certified(folder.path(), &["-h", "-I", "x", "-n", "web01"]);
    assert_eq!(check(&host), Err(CertificateError::ForHost));
    let (without_principals, _) = certified(folder.path(), &["-I", "x"]);
    assert_eq!(check(&without_principals), Err(CertificateError::NoPrincipals));
}

#[test]
fn a_certificate_without_an_end_is_displayed_as_valid_forever() {
    let folder = keys();
    let (line, key) = certified(folder.path(), &["-I", "x", "-n", "alice"]);
    let certificate = Certificate::parse(&line).unwrap();
    assert_eq!(certificate.check(&key, NOW), Ok(()));
    assert!(certificate.to_string().contains("valid             forever\n"), "{certificate}");
}

#[test]
fn signatures_of_other_key_types_are_not_checked() {
    let folder = keys();
    keygen(folder.path(), &["-q", "-t", "ed25519", "-N", "", "-f", "other"]);
    keygen(folder.path(), &["-q", "-s", "other", "-I", "x", "-n", "alice", "key.pub"]);
    let line = fs::read_to_string(folder.path().join("key-cert.pub")).unwrap();
    assert!(Certificate::parse(&line).is_ok());
}

#[test]
fn other_texts_are_not_certificates() {
    let folder = keys();
    keygen(folder.path(), &["-q", "-t", "ed25519", "-N", "", "-f", "small"]);
    keygen(folder.path(), &["-q", "-s", "ca", "-I", "x", "-n", "alice", "small.pub"]);
    let file = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
    let (public, body) = (file("key.pub"), file("small-cert.pub").split(' ').nth(1).unwrap().to_owned());
    for text in ["", "eyJ0eXAiOiJKV1QifQ.e30.x", "AAAA", &public, &body, &file("small-cert.pub")] {
        let error = Certificate::parse(text).unwrap_err();
        assert!(matches!(error, CertificateError::Malformed(_)), "{text}: {error}");
    }
    assert_eq!(Certificate::parse(&"A".repeat(MAX_TEXT + 1)), Err(CertificateError::TooLarge));
}

#[test]
fn a_truncated_certificate_is_an_error_at_every_length() {
    let blob = blob();
    for length in 0..blob.len() {
        assert!(Certificate::from_blob(blob[..length].to_vec()).is_err(), "at {length}");
    }
    assert!(Certificate::from_blob([&blob[..], &[0]].concat()).is_err());
}

#[test]
fn text_of_a_certificate_cannot_control_the_terminal() {
    let mut certificate = Certificate::parse(&CERTIFIED.0).unwrap();
    certificate.key_id = "x\u{1b}[2J\nlogin name        root".into();
    let shown = certificate.to_string();
    assert_eq!(shown.lines().count(), 9);
    assert!(!shown.contains('\u{1b}'));
}

proptest! {
    #[test]
    fn a_certificate_with_a_changed_byte_is_an_error(at: Index, change in 1_u8..) {
        let mut blob = blob();
        let at = at.index(blob.len());
        blob[at] ^= change;
        prop_assert!(Certificate::from_blob(blob).is_err());
    }

    #[test]
    fn arbitrary_bytes_are_errors_and_no_panics(bytes: Vec<u8>, text: String) {
        prop_assert!(Certificate::parse(&text).is_err());
        prop_assert!(Certificate::from_blob(bytes.clone()).is_err());
        let mut named = Vec::new();
        crate::ssh::wire::put_string(&mut named, ALGORITHM.as_bytes());
        prop_assert!(Certificate::from_blob([named, bytes].concat()).is_err());
    }
}
