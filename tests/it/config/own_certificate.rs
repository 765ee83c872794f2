//! `arcssh config --certificate-file`: certificates of the user's own certificate authority.

use super::*;

/// A directory with an authority that sshd trusts for the principal ada, and a key with a certificate.
fn keys(w: &Lab) -> PathBuf {
    let folder = w.home().join("my keys");
    fs::create_dir(&folder).unwrap();
    for name in ["ca", "key", "other"] {
        keygen(&folder, &["-t", "ed25519", "-N", "", "-f", name]);
    }
    keygen(&folder, &["-s", "ca", "-I", "id", "-n", "ada", "-V", "+1d", "key.pub"]);
    w.sshd().trust_authority(&fs::read_to_string(folder.join("ca.pub")).unwrap(), &["ada"]).unwrap();
    folder
}

fn keygen(folder: &Path, arguments: &[&str]) {
    run(Command::new("ssh-keygen").current_dir(folder).arg("-q").args(arguments));
}

/// `arcssh config` for the file that `ssh -F` reads in a lab.
fn config(w: &Lab, arguments: &[&str]) -> Run {
    let port = w.sshd().port().to_string();
    let mut config = w.arcssh(&["config", "--port", &port, "--file"]);
    run(config.arg(w.configuration()).args(arguments))
}

#[track_caller]
fn succeed(run: Run) -> String {
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    run.stderr
}

fn text(w: &Lab) -> String {
    fs::read_to_string(w.configuration()).unwrap()
}

#[test]
fn ssh_logs_in_with_a_certificate_of_the_users_own_authority() {
    let w = lab(&["web01"]);
    let folder = keys(&w);
    fs::remove_file(w.configuration()).unwrap();
    let [key, certificate] = ["key", "key-cert.pub"].map(|name| folder.join(name).display().to_string());
    succeed(config(&w, &["web01", "--identity", &key, "--certificate-file", &certificate]));
    assert!(text(&w).contains(&format!("    CertificateFile \"{certificate}\"\n")), "{}", text(&w));
    assert!(text(&w).contains("    IdentitiesOnly yes\n") && !text(&w).contains("PubkeyAcceptedKeyTypes"));
    assert_eq!(w.ssh_run(&["web01", "echo reached"]).clean(), "reached\n");
    assert!(w.sshd().log().contains("ED25519-CERT"), "{}", w.sshd().log());
    // Without options, a run keeps the certificate.
    assert!(succeed(config(&w, &[])).contains("is up to date"));
    let verify = ["config", "--verify", "--file", w.configuration().to_str().unwrap()].map(str::to_owned);
    let verify = |expected: &str| {
        let verified = run(&mut w.arcssh(&verify.each_ref().map(String::as_str)));
        let notes = succeed(verified);
        assert_eq!(notes.contains("names the certificate"), !expected.is_empty(), "{notes}");
        assert!(notes.contains(expected), "{notes}");
    };
    verify("");
    keygen(
        &folder,
        &["-s", "ca", "-I", "id", "-n", "ada", "-V", "20200101000000Z:20210101000000Z", "key.pub"],
    );
    verify("which expired at 2021-01-01T00:00:00Z");
    let doctor = run(w.arcssh(&["doctor", "web01", "--file"]).arg(w.configuration()));
    assert!(String::from_utf8_lossy(&doctor.stdout).contains("which expired at 2021-01-01T00:00:00Z"));
    fs::remove_file(&certificate).unwrap();
    verify("which does not exist");
    let notes = succeed(config(&w, &["web01", "--identity", &folder.join("missing").display().to_string()]));
    assert!(notes.contains("names the key") && notes.contains("names the certificate"), "{notes}");
}

#[test]
fn the_key_of_a_certificate_can_be_in_the_ssh_agent() {
    let w = lab(&["web01"]);
    let folder = keys(&w);
    fs::remove_file(w.configuration()).unwrap();
    let certificate = folder.join("elsewhere-cert.pub");
    fs::rename(folder.join("key-cert.pub"), &certificate).unwrap();
    succeed(config(&w, &["web01", "--certificate-file", certificate.to_str().unwrap()]));
    assert!(!text(&w).contains("IdentitiesOnly"), "{}", text(&w));
    // ssh-agent has the permissions of a group, so it passes no LD_PRELOAD on to a program that it starts.
    let login = format!(
        "eval $(ssh-agent -s 2> /dev/null) > /dev/null; ssh-add -q '{}' && ssh -F {} -o BatchMode=yes web01 echo reached; kill $SSH_AGENT_PID",
        folder.join("key").display(),
        w.configuration().display()
    );
    let login = run(w.command("sh").args(["-c", &login]));
    assert_eq!(login.clean(), "reached\n");
}

#[test]
fn a_file_that_is_no_certificate_for_the_key_is_rejected() {
    let w = lab(&["web01"]);
    let folder = keys(&w);
    fs::remove_file(w.configuration()).unwrap();
    keygen(&folder, &["-s", "ca", "-I", "id", "-h", "-n", "web01", "other.pub"]);
    let path = |name: &str| folder.join(name).display().to_string();
    for (file, key, cause) in [
        ("key", "key", "is a private key, not a certificate".to_owned()),
        ("key.pub", "key", "is a public key, not a certificate".to_owned()),
        ("other-cert.pub", "other", "is for a host, not for a user".to_owned()),
        ("key-cert.pub", "other", format!("is for another key than {}", path("other"))),
    ] {
        let failed = config(&w, &["web01", "--identity", &path(key), "--certificate-file", &path(file)]);
        let first = format!("arcssh: the certificate file {} {cause}", path(file));
        assert_eq!((failed.code, failed.arcssh_lines()[0]), (Some(1), first.as_str()));
        assert!(!w.configuration().exists());
    }
    let both = config(&w, &["web01", "--entra", "--certificate-file", &path("key-cert.pub")]);
    assert_eq!(both.code, Some(2), "{}", both.stderr);
}

#[test]
fn a_certificate_and_entra_replace_each_other() {
    let w = lab(&["web01"]);
    let folder = keys(&w);
    fs::remove_file(w.configuration()).unwrap();
    let certificate = folder.join("key-cert.pub").display().to_string();
    succeed(config(&w, &["--all", "--certificate-file", &certificate]));
    succeed(config(&w, &["--all", "--entra"]));
    assert!(text(&w).contains("IdentityAgent") && !text(&w).contains("CertificateFile"), "{}", text(&w));
    succeed(config(&w, &["web01", "--certificate-file", &certificate]));
    assert!(!text(&w).contains("IdentityAgent") && text(&w).contains("CertificateFile"), "{}", text(&w));
    succeed(config(&w, &["--all", "--certificate-file", &certificate]));
    assert!(!text(&w).contains("\"entra\""), "{}", text(&w));
}

#[test]
fn an_adopted_entry_keeps_a_certificate_that_az_did_not_create() {
    let w = lab(&["web01"]);
    let folder = keys(&w).display().to_string();
    let entry = format!(
        "Host old\n\tHostName web01\n\tUser ada\n\tCertificateFile \"{folder}/key-cert.pub\"\n\tIdentityFile \"{folder}/key\"\n\tProxyCommand \"/x/sshProxy_linux_amd64_1_3_026973\" -r \"/x/rg-arc-web01-relay_info\" -p 22\n"
    );
    fs::write(w.configuration(), entry).unwrap();
    succeed(config(&w, &["--adopt"]));
    for line in [
        format!("    IdentityFile \"{folder}/key\"\n"),
        format!("    CertificateFile \"{folder}/key-cert.pub\"\n"),
    ] {
        assert!(text(&w).contains(&line), "{}", text(&w));
    }
}

#[test]
fn a_message_names_a_missing_certificate_as_the_user_typed_it() {
    let w = lab(&["web01"]);
    fs::remove_file(w.configuration()).unwrap();
    for (file, named) in [
        ("/none/100%-cert.pub", "/none/100%-cert.pub"),
        ("100%-cert.pub", "100%-cert.pub in the current directory"),
        ("~/none-cert.pub", "~/none-cert.pub"),
    ] {
        let notes = succeed(config(&w, &["web01", "--certificate-file", file]));
        let expected = format!("names the certificate {named}, which does not exist");
        assert!(notes.contains(&expected), "{notes}");
    }
}
