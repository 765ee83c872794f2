//! TLS trust, and the first key share.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use arcssh_emulator::{KeyExchange, Service};

use crate::support::{Lab, lab, lab_with, run, script};

const HINT: &str = "arcssh: hint: if a proxy inspects TLS, add its root certificate to the system's trust store, or name its file in SSL_CERT_FILE";

#[test]
fn an_untrusted_certificate_of_entra_id_fails_at_once() {
    let w = lab(&["web01"]);
    let start = Instant::now();
    let run = run(w.proxy("web01").env("SSL_CERT_FILE", another_authority(&w)));
    let entra = w.address("AZURE_AUTHORITY_HOST").replace("https://", "");
    run.failed(6, &[&format!("arcssh: cannot connect to web01: the certificate of {entra} comes from an authority that this computer does not trust: arcssh emulator authority"), &set_hint(&w)]);
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    assert!(w.emulator().requests_to(Service::Entra).is_empty());
}

#[test]
fn an_untrusted_certificate_of_arm_fails_at_once() {
    let w = lab(&["web01"]);
    let token = r#"echo '{"accessToken":"a","expiresOn":"2099-01-01 00:00:00.000000","expires_on":4070908800,"subscription":"s","tenant":"t","tokenType":"Bearer"}'"#;
    script(&w.home().join("bin"), "az", &format!("#!/bin/sh\n{token}\n"));
    let mut proxy = w.proxy("web01");
    proxy.env_remove("AZURE_CLIENT_SECRET").env("SSL_CERT_FILE", another_authority(&w));
    proxy.env("PATH", format!("{}:/usr/bin:/bin", w.home().join("bin").display()));
    let start = Instant::now();
    let arm = w.address("ARCSSH_ARM_ENDPOINT").replace("https://", "");
    run(&mut proxy).failed(6, &[&format!("arcssh: cannot connect to web01: the certificate of {arm} comes from an authority that this computer does not trust: arcssh emulator authority"), &set_hint(&w)]);
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

#[test]
fn an_untrusted_certificate_of_the_relay_fails_at_once() {
    let w = lab(&["web01"]);
    fs::write(w.home().join("relay_info"), w.relay_info()).unwrap();
    let start = Instant::now();
    let run = run(w.arcssh(&["-r", "relay_info"]).env("SSL_CERT_FILE", another_authority(&w)));
    let error = format!(
        "arcssh: cannot connect to the machine: the certificate of {} comes from an authority that this computer does not trust: arcssh emulator authority",
        w.emulator().relay_authority()
    );
    run.failed(6, &[&error, &set_hint(&w)]);
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

#[test]
fn ssl_cert_dir_is_trusted() {
    let w = lab(&["web01"]);
    let directory = w.home().join("certificates");
    fs::create_dir(&directory).unwrap();
    fs::copy(w.emulator().authority_file(), directory.join("authority.pem")).unwrap();
    run(w.command("openssl").arg("rehash").arg(&directory)).clean();
    let mut ssh = w.ssh();
    ssh.args(["web01", "echo reached"]).env_remove("SSL_CERT_FILE").env("SSL_CERT_DIR", &directory);
    assert_eq!(run(&mut ssh).clean(), "reached\n");
}

#[test]
fn a_file_with_a_byte_order_mark_and_in_quotes_is_trusted() {
    let w = lab(&["web01"]);
    let authority = fs::read_to_string(w.emulator().authority_file()).unwrap();
    let file = w.home().join("authority.pem");
    fs::write(&file, format!("\u{feff}{}", authority.replace('\n', "\r\n"))).unwrap();
    let mut ssh = w.ssh();
    ssh.args(["web01", "echo reached"]).env("SSL_CERT_FILE", format!(" \"{}\" ", file.display()));
    assert_eq!(run(&mut ssh).clean(), "reached\n");
}

/// A proxy that inspects some hosts requires both its own authority and those of the system.
#[test]
fn the_certificates_of_a_file_are_added_to_those_of_the_system() {
    let w = lab(&[]);
    let roots = |file: &Path| {
        let run = run(w.arcssh(&["doctor"]).env("SSL_CERT_FILE", file));
        let output = String::from_utf8(run.stdout).unwrap();
        let line = output.lines().find(|line| line.contains("root certificates")).unwrap_or_default();
        line.to_owned()
    };
    let file = w.emulator().authority_file();
    let expected = format!(
        "ok    root certificates      /etc/ssl/certs/ca-certificates.crt and {} (SSL_CERT_FILE)",
        file.display()
    );
    assert!(roots(&file).starts_with(&expected), "{}", roots(&file));
    let missing = w.home().join("missing.pem");
    assert!(roots(&missing).starts_with("FAIL  root certificates      cannot read"), "{}", roots(&missing));
}

#[test]
fn the_hint_for_an_untrusted_authority_depends_on_the_variables() {
    let w = lab(&["web01"]);
    let another = another_authority(&w);
    let run_with = |variables: &[(&str, &Path)]| {
        let mut proxy = w.proxy("web01");
        proxy.env_remove("SSL_CERT_FILE").env_remove("SSL_CERT_DIR").envs(variables.iter().copied());
        run(&mut proxy).arcssh_lines().last().unwrap().to_string()
    };
    assert_eq!(run_with(&[]), HINT);
    let bundle = Path::new("/etc/corp bundle.pem");
    assert_eq!(
        run_with(&[("REQUESTS_CA_BUNDLE", bundle)]),
        "arcssh: hint: if a proxy inspects TLS, let arcssh trust the certificates in REQUESTS_CA_BUNDLE too: export SSL_CERT_FILE='/etc/corp bundle.pem'"
    );
    assert_eq!(run_with(&[("REQUESTS_CA_BUNDLE", bundle), ("SSL_CERT_FILE", &another)]), set_hint(&w));
}

#[test]
fn the_first_key_share_is_the_one_that_azure_relay_supports() {
    let w = lab_with(&["web01"], |builder| {
        builder.without_agent().relay_key_exchange(KeyExchange::Secp384r1Only)
    });
    // No agent connects, so every handshake with the relay is arcssh's.
    assert_eq!(run(w.proxy("web01").args(["--wait", "0"])).code, Some(7));
    let handshakes = w.emulator().tls_handshakes();
    let relay: Vec<_> =
        handshakes.into_iter().filter(|handshake| handshake.service == Service::Relay).collect();
    let [handshake] = &relay[..] else { panic!("{relay:?}") };
    assert!(!handshake.hello_retry_request);
    assert_eq!(handshake.protocol_version, "TLSv1_3");
}

/// The hint if `SSL_CERT_FILE` names [`another_authority`].
fn set_hint(w: &Lab) -> String {
    let text =
        "arcssh: hint: if a proxy inspects TLS, append its root certificate to the file in SSL_CERT_FILE";
    format!("{text}, {}", w.home().join("another.pem").display())
}

/// The certificate of an authority that signed none of the emulator's certificates.
fn another_authority(w: &Lab) -> PathBuf {
    let certificate = w.home().join("another.pem");
    let mut openssl = w.command("openssl");
    openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]);
    openssl.args(["-subj", "/CN=another", "-days", "2", "-keyout", "another.key", "-out"]).arg(&certificate);
    assert_eq!(run(&mut openssl).code, Some(0));
    certificate
}
