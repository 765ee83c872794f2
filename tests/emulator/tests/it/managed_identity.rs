//! Machines that ask for tokens of their own.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use arcssh_emulator::{Emulator, Machine};
use serde_json::Value;

use crate::client;

const ARM: &str = "https%3A%2F%2Fmanagement.azure.com%2F";

struct Answer {
    status: u16,
    head: String,
    body: Value,
}

/// One request without TLS.
fn get(endpoint: &str, version: &str, headers: &str) -> Answer {
    let address = endpoint.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    let target = format!("/metadata/identity/oauth2/token?api-version={version}&resource={ARM}");
    write!(stream, "GET {target} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{headers}\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head: head.to_owned(), body: serde_json::from_str(body).unwrap() }
}

fn imds(emulator: &Emulator, headers: &str) -> Answer {
    get(&emulator.imds_endpoint(), "2018-02-01", headers)
}

fn himds(emulator: &Emulator, headers: &str) -> Answer {
    get(&emulator.arc_identity_endpoint(), "2020-06-01", headers)
}

/// The key file of a challenge.
fn realm(answer: &Answer) -> String {
    assert_eq!(answer.status, 401);
    let lower = answer.head.to_ascii_lowercase();
    let start =
        lower.find("www-authenticate: basic realm=").unwrap() + "www-authenticate: basic realm=".len();
    answer.head[start..].lines().next().unwrap().to_owned()
}

#[test]
fn a_vm_gets_a_token_that_arm_takes() {
    let emulator = client::emulator();
    let answer = imds(&emulator, "Metadata: true\r\n");
    assert_eq!(answer.status, 200, "{}", answer.body);
    let token = answer.body["access_token"].as_str().unwrap();
    let claims = client::claims(token);
    assert!(claims["xms_mirid"].as_str().unwrap().ends_with("/Microsoft.Compute/virtualMachines/vm01"));
    assert!(answer.body["expires_on"].is_string() && answer.body["expires_in"].is_string());
    assert!(emulator.secrets().iter().any(|secret| secret == token));
    let path = format!("{}?api-version=2024-07-10", emulator.machine("web01").resource_id());
    let url = format!("{}{path}", client::variable(&emulator, "ARCSSH_ARM_ENDPOINT"));
    let bearer = format!("Bearer {token}");
    assert_eq!(client::request(&emulator, "GET", &url, &[("Authorization", &bearer)], "").status, 200);
}

#[test]
fn a_vm_is_refused_in_the_words_of_its_service() {
    let emulator = client::emulator();
    let answer = imds(&emulator, "");
    assert_eq!((answer.status, answer.body["error"].as_str()), (400, Some("bad_request_102")));
    assert_eq!(get(&emulator.imds_endpoint(), "2000-01-01", "Metadata: true\r\n").status, 400);
    emulator.remove_managed_identities();
    let answer = imds(&emulator, "Metadata: true\r\n");
    assert_eq!((answer.status, answer.body["error"].as_str()), (400, Some("invalid_request")));
    assert_eq!(answer.body["error_description"], "Identity not found");
}

#[test]
fn an_arc_enabled_server_must_read_a_file_each_time() {
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
    assert_eq!(answer.status, 200, "{}", answer.body);
    let claims = client::claims(answer.body["access_token"].as_str().unwrap());
    assert_eq!(claims["xms_mirid"], emulator.machine("web01").resource_id());
    assert!(emulator.secrets().contains(&key));
    assert_ne!(realm(&himds(&emulator, &with_key)), file);
}
