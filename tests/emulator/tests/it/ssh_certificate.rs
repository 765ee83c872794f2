//! SSH certificates of the service principal.

use std::fs;
use std::process::Command;

use arcssh_emulator::{CertificateFault, Emulator};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE, URL_SAFE_NO_PAD};
use serde_json::json;

use crate::client::{self, Answer, entra};

/// Returns `e` and `n` of a new key in SSH's wire format.
fn key() -> (Vec<u8>, Vec<u8>) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("key");
    let keygen = Command::new("ssh-keygen").args(["-q", "-t", "rsa", "-N", "", "-f"]).arg(&file).status();
    assert!(keygen.unwrap().success());
    let line = fs::read_to_string(file.with_extension("pub")).unwrap();
    let mut blob = STANDARD.decode(line.split(' ').nth(1).unwrap()).unwrap();
    let mut part = || {
        let length = u32::from_be_bytes(blob[..4].try_into().unwrap()) as usize;
        let rest = blob.split_off(4 + length);
        std::mem::replace(&mut blob, rest)[4..].to_vec()
    };
    part();
    (part(), part())
}

fn request(emulator: &Emulator, e: &str, n: &str) -> Answer {
    let variable = |name| client::variable(emulator, name);
    let fields = [
        ("grant_type", "client_credentials"),
        ("client_id", &variable("AZURE_CLIENT_ID")),
        ("client_secret", &variable("AZURE_CLIENT_SECRET")),
        ("scope", "https://pas.windows.net/CheckMyAccess/Linux/.default"),
        ("token_type", "ssh-cert"),
        ("req_cnf", &json!({ "kty": "RSA", "e": e, "n": n, "kid": "key1" }).to_string()),
        ("key_id", "key1"),
    ];
    entra(emulator, &format!("{}/token", variable("AZURE_TENANT_ID")), &fields)
}

/// Returns the output of `ssh-keygen -L` for the certificate of an answer.
fn shown(answer: &Answer) -> String {
    assert_eq!(answer.json()["token_type"], "ssh-cert", "{answer:?}");
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("cert.pub");
    let body = answer.json()["access_token"].as_str().unwrap().to_owned();
    fs::write(&file, format!("ssh-rsa-cert-v01@openssh.com {body}\n")).unwrap();
    let shown = Command::new("ssh-keygen").args(["-L", "-f"]).arg(&file).output().unwrap();
    String::from_utf8(shown.stdout).unwrap()
}

#[test]
fn all_encodings_of_a_key_yield_a_certificate_for_it() {
    let emulator = client::emulator();
    let (e, n) = key();
    let bare = &n[n.iter().position(|byte| *byte != 0).unwrap()..];
    for n in
        [URL_SAFE.encode(&n), URL_SAFE_NO_PAD.encode(&n), URL_SAFE.encode(bare), URL_SAFE_NO_PAD.encode(bare)]
    {
        let text = shown(&request(&emulator, &URL_SAFE_NO_PAD.encode(&e), &n));
        assert!(text.contains("user certificate") && text.contains("tid@sshservice.azure.net"), "{text}");
        assert!(text.contains(&client::variable(&emulator, "AZURE_CLIENT_ID")), "{text}");
    }
    assert!(emulator.ssh_ca_public_key().starts_with("ssh-rsa "));
}

#[test]
fn a_certificate_fault_applies_to_one_certificate() {
    let emulator = client::emulator();
    let (e, n) = key();
    let (e, n) = (URL_SAFE_NO_PAD.encode(e), URL_SAFE_NO_PAD.encode(n));
    emulator.certificate_fault(CertificateFault::HostType);
    emulator.certificate_fault(CertificateFault::Garbage);
    assert!(shown(&request(&emulator, &e, &n)).contains("host certificate"));
    assert_eq!(shown(&request(&emulator, &e, &n)), "");
    assert!(shown(&request(&emulator, &e, &n)).contains("user certificate"));
}
