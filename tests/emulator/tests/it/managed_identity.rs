//! Managed identities.

use std::fs;
use std::io::Write as _;
use std::net::TcpStream;

use arcssh_emulator::{Emulator, Machine};
use serde_json::json;

use crate::client::{self, Answer};

const ARM: &str = "https%3A%2F%2Fmanagement.azure.com%2F";

/// Sends one request without TLS.
fn get(endpoint: &str, version: &str, headers: &str) -> Answer {
    let address = endpoint.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    let target = format!("/metadata/identity/oauth2/token?api-version={version}&resource={ARM}");
    write!(stream, "GET {target} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{headers}\r\n").unwrap();
    client::read_answer(&mut stream)
}

fn imds(emulator: &Emulator, headers: &str) -> Answer {
    get(&emulator.imds_endpoint(), "2018-02-01", headers)
}

fn himds(emulator: &Emulator, headers: &str) -> Answer {
    get(&emulator.arc_identity_endpoint(), "2020-06-01", headers)
}

/// Returns the key file of a challenge.
fn realm(answer: &Answer) -> String {
    assert_eq!(answer.status, 401);
    answer.header("www-authenticate").unwrap().strip_prefix("Basic realm=").unwrap().to_owned()
}

#[test]
fn arm_accepts_the_token_of_a_vm() {
    let emulator = client::emulator();
    let answer = imds(&emulator, "Metadata: true\r\n");
    assert_eq!(answer.status, 200, "{answer:?}");
    let body = answer.json();
    let token = body["access_token"].as_str().unwrap();
    let claims = client::claims(token);
    assert!(claims["xms_mirid"].as_str().unwrap().ends_with("/Microsoft.Compute/virtualMachines/vm01"));
    assert!(body["expires_on"].is_string() && body["expires_in"].is_string());
    assert!(emulator.secrets().iter().any(|secret| secret == token));
    let path = client::machine_path(&emulator, "web01");
    assert_eq!(client::arm_with_token(&emulator, token, "GET", &path, "").status, 200);
}

#[test]
fn imds_has_documented_errors() {
    let emulator = client::emulator();
    let answer = imds(&emulator, "");
    assert_eq!((answer.status, &answer.json()["error"]), (400, &json!("bad_request_102")));
    assert_eq!(get(&emulator.imds_endpoint(), "2000-01-01", "Metadata: true\r\n").status, 400);
    emulator.remove_managed_identities();
    let answer = imds(&emulator, "Metadata: true\r\n");
    assert_eq!((answer.status, &answer.json()["error"]), (400, &json!("invalid_request")));
    assert_eq!(answer.json()["error_description"], "Identity not found");
}

#[test]
fn himds_requires_a_new_key_file_for_each_token() {
    let directory = tempfile::tempdir().unwrap();
    let tokens = directory.path().join("tokens");
    let builder = Emulator::builder().machine(Machine::new("web01")).arc_token_directory(&tokens);
    let emulator = builder.start().unwrap();
    assert_eq!(himds(&emulator, "").status, 400);
    let file = realm(&himds(&emulator, "Metadata: true\r\n"));
    assert!(file.starts_with(tokens.to_str().unwrap()) && file.ends_with(".key"), "{file}");
    let key = fs::read_to_string(&file).unwrap();
    assert_ne!(realm(&himds(&emulator, "Metadata: true\r\nAuthorization: Basic wrong\r\n")), file);
    let with_key = format!("Metadata: true\r\nAuthorization: Basic {key}\r\n");
    let answer = himds(&emulator, &with_key);
    assert_eq!(answer.status, 200, "{answer:?}");
    let claims = client::claims(answer.json()["access_token"].as_str().unwrap());
    assert_eq!(claims["xms_mirid"], emulator.machine("web01").resource_id());
    assert!(emulator.secrets().contains(&key));
    assert_ne!(realm(&himds(&emulator, &with_key)), file);
}
