//! TLS trust, and the first key share.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use arcssh_emulator::{KeyExchange, Service};

use crate::support::{
    ARCSSH, LIMIT, Lab, eventually, free_port, lab, lab_with, namespaces, run, script, service,
};

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

/// An administrator can add a certificate to the system's directory without adding it to the file of all certificates.
#[test]
#[cfg(target_os = "linux")]
fn a_certificate_in_the_directory_of_the_system_alone_is_trusted() {
    let w = lab(&["web01"]);
    let Some(own_mounts) = namespaces("m") else { return };
    let directory = w.home().join("certs");
    fs::create_dir(&directory).unwrap();
    fs::copy(w.emulator().authority_file(), directory.join("authority.pem")).unwrap();
    run(w.command("openssl").arg("rehash").arg(&directory)).clean();
    fs::rename(another_authority(&w), directory.join("ca-certificates.crt")).unwrap();
    let mounted = "mount --bind certs /etc/ssl/certs; exec \"$0\" \"$@\"";
    let mut shell = w.command("unshare");
    let port = w.sshd().port().to_string();
    shell.args([&own_mounts, "sh", "-euc", mounted, ARCSSH, "proxy", &w.id(), "--port", &port]);
    shell.env_remove("SSL_CERT_FILE").env_remove("SSL_CERT_DIR");
    let run = run(&mut shell);
    assert!(run.stdout.starts_with(b"SSH-2.0-"), "{}", run.stderr);
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

/// A TLS server of OpenSSL in place of Entra ID, and a directory with its authority `ca.pem`.
struct OpenSsl {
    server: Child,
    port: u16,
}

impl OpenSsl {
    /// Runs openssl in the lab's home directory.
    fn make(w: &Lab, words: &str) {
        let made = run(w.command("openssl").args(words.split(' ')).current_dir(w.home()));
        assert_eq!(made.code, Some(0), "openssl {words}: {}", made.stderr);
    }

    /// Signs a certificate `leaf.pem` with these options of `openssl x509` and lines of its extensions.
    fn certificate(w: &Lab, key: &str, options: &str, extensions: &str) {
        Self::make(w, "req -x509 -newkey rsa:2048 -nodes -subj /CN=Corp -days 2 -keyout ca.key -out ca.pem");
        fs::write(w.home().join("extensions"), extensions).unwrap();
        Self::make(w, &format!("req -new -newkey {key} -nodes -subj /CN=x -keyout leaf.key -out leaf.csr"));
        let sign =
            "x509 -req -in leaf.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile extensions";
        Self::make(w, &format!("{sign} -out leaf.pem {options}"));
    }

    fn serve(w: &Lab, options: &str) -> Self {
        let port = free_port();
        let mut server = w.command("openssl");
        server.args([
            "s_server",
            "-quiet",
            "-accept",
            &format!("127.0.0.1:{port}"),
            "-key",
            "leaf.key",
            "-cert",
            "leaf.pem",
        ]);
        server.args(options.split_whitespace()).current_dir(w.home());
        let server =
            server.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let listens = || TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok();
        assert!(eventually(LIMIT, listens), "openssl s_server {options}");
        Self { server, port }
    }
}

impl Drop for OpenSsl {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// Asserts that the error about Entra ID at this port contains these texts, and nothing that `Debug` wrote.
#[track_caller]
fn assert_fails(w: &Lab, port: u16, why: &str, hint: &str) {
    let mut proxy = w.proxy("web01");
    proxy.env("AZURE_AUTHORITY_HOST", format!("https://127.0.0.1:{port}/"));
    proxy.env("SSL_CERT_FILE", w.home().join("ca.pem"));
    let failed = run(&mut proxy);
    let lines = failed.arcssh_lines();
    let [message, advice] = lines[..] else { panic!("{}", failed.stderr) };
    assert!(message.contains(why) && message.contains(&format!("127.0.0.1:{port}")), "{message}");
    assert!(advice.contains(hint), "{message}: {advice}");
    assert!(!message.contains(['{', '[', '_']) && !message.contains("Error"), "{message}");
}

#[test]
fn an_unusable_certificate_is_described_by_a_sentence() {
    const KEY: &str = "rsa:2048";
    const NAME: &str = "subjectAltName=IP:127.0.0.1\n";
    let other_name = "subjectAltName=DNS:login.corp.example,IP:192.0.2.1\n";
    let client = format!("{NAME}extendedKeyUsage=clientAuth\n");
    let authority = format!("{NAME}basicConstraints=critical,CA:true\n");
    let critical = format!("{NAME}1.2.3.4=critical,DER:0500\n");
    let cases = [
        (KEY, "-sha1", NAME, "is not valid: it is signed with SHA-1, which is not accepted (issued by Corp)"),
        (KEY, "-sha224", NAME, "it is signed with SHA-224, which is not accepted"),
        (KEY, "-sha256", other_name, "it is for login.corp.example and 192.0.2.1 (issued by Corp)"),
        (KEY, "-sha256", client.as_str(), "it is for another purpose than a server"),
        (KEY, "-sha256", authority.as_str(), "it is an authority's own, not a server's"),
        (KEY, "-sha256", critical.as_str(), "it has an extension that is not supported"),
        ("rsa:1024", "-sha256", NAME, "127.0.0.1"),
    ];
    for (key, options, extensions, why) in cases {
        let w = lab(&["web01"]);
        OpenSsl::certificate(&w, key, options, extensions);
        let server = OpenSsl::serve(&w, "-cipher ALL:@SECLEVEL=0 -www");
        assert_fails(&w, server.port, why, "");
    }
    let w = lab(&["web01"]);
    OpenSsl::certificate(&w, KEY, "-sha256 -days -1", NAME);
    let server = OpenSsl::serve(&w, "-www");
    assert_fails(&w, server.port, "has expired", "clock");
}

#[test]
fn a_failed_handshake_is_described_by_a_sentence() {
    let w = lab(&["web01"]);
    OpenSsl::certificate(&w, "rsa:2048", "-sha256", "subjectAltName=IP:127.0.0.1\n");
    let cases = [
        (
            "-tls1_2 -cipher AES128-SHA",
            "accepts neither TLS 1.3 nor the ciphers of TLS 1.2 with forward secrecy",
        ),
        ("-tls1_1 -cipher ALL:@SECLEVEL=0", "accepts neither TLS 1.3 nor TLS 1.2"),
        ("-tls1_2 -groups P-521", "accepts neither TLS 1.3"),
    ];
    for (options, why) in cases {
        let server = OpenSsl::serve(&w, options);
        assert_fails(&w, server.port, why, "; or exclude 127.0.0.1");
    }
    let other = lab(&["web01"]);
    OpenSsl::certificate(&other, "ed448", "-sha256", "subjectAltName=IP:127.0.0.1\n");
    let server = OpenSsl::serve(&other, "-tls1_3");
    let why = "or its certificate has a key other than RSA, ECDSA P-256, ECDSA P-384 or Ed25519";
    assert_fails(&other, server.port, why, "");
    // OpenSSL resets the connection behind its alert, so either is what arcssh sees.
    let server = OpenSsl::serve(&w, "-tls1_3 -Verify 1 -verify_return_error");
    assert_fails(&w, server.port, "", "");
    // A connection that is closed with unread bytes is reset.
    let answer = |bytes: &'static [u8]| {
        service(move |mut stream| {
            let _ = stream.read(&mut [0; 4096]);
            drop(stream.write_all(bytes));
        })
    };
    let http = answer(b"HTTP/1.1 302 Found\r\nLocation: http://portal\r\n\r\n");
    assert_fails(&w, http, "failed: the response is not TLS", "open a web browser and sign in");
    let ssh = answer(b"SSH-2.0-x\r\n");
    assert_fails(&w, ssh, "failed: the response is not TLS", "open a web browser");
    let closes = answer(b"");
    assert_fails(&w, closes, "closed", "check the network");
}
