//! `--bundle`: an archive for a bug report that contains no secret, also if nothing works.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use arcssh_emulator::{ArmFault, Service};

use crate::secrets::{assert_no_secret, encodings};
use crate::support::{ARCSSH, LIMIT, Lab, Run, closed_port, eventually, finish, lab, run, script, signal};

/// The files of an archive, by name.
fn unpacked(w: &Lab, archive: &Path) -> Vec<(String, String)> {
    let directory = tempfile::tempdir_in(w.home()).unwrap();
    run(Command::new("tar").arg("-xzf").arg(archive).arg("-C").arg(directory.path())).clean();
    let files =
        fs::read_dir(directory.path().join("arcssh-doctor")).unwrap().map(|file| file.unwrap().path());
    let name = |file: &PathBuf| file.file_name().unwrap().to_str().unwrap().to_owned();
    files.map(|file| (name(&file), fs::read_to_string(file).unwrap())).collect()
}

/// Runs doctor with `--bundle`, and returns its result with the files of the archive.
fn bundle(w: &Lab, doctor: &mut Command) -> (Run, Vec<(String, String)>) {
    let archive = w.home().join("bug.tar.gz");
    let done = run(doctor.arg("--bundle").arg(&archive));
    assert!(done.stderr.contains(&format!("arcssh: wrote {}: ", archive.display())), "{done:?}");
    assert_eq!(fs::metadata(&archive).unwrap().permissions().mode() & 0o7777, 0o600);
    let files = unpacked(w, &archive);
    fs::remove_file(archive).unwrap();
    (done, files)
}

#[track_caller]
fn file<'a>(files: &'a [(String, String)], name: &str) -> &'a str {
    &files.iter().find(|(other, _)| other == name).unwrap_or_else(|| panic!("{name} is missing")).1
}

#[track_caller]
fn assert_no_canary(w: &Lab, files: &[(String, String)], canaries: &[&str]) {
    for (name, text) in files {
        assert_no_secret(w, name, text);
        for encoding in canaries.iter().flat_map(|canary| encodings(canary)) {
            assert!(!text.contains(&encoding), "{name} contains {encoding}: {text}");
        }
    }
}

/// Variables that contain a secret, of each source of credentials.
const VARIABLES: [&str; 9] = [
    "AZURE_CLIENT_CERTIFICATE_PASSWORD",
    "AZURE_PASSWORD",
    "ARM_CLIENT_SECRET",
    "ACTIONS_ID_TOKEN_REQUEST_TOKEN",
    "SYSTEM_ACCESSTOKEN",
    "IDENTITY_HEADER",
    "MSI_SECRET",
    "SSHPROXY_RELAY_INFO",
    "HTTP_PROXY",
];

/// Adds a secret to each place of the ssh configuration that can have one.
fn configure(w: &Lab, secret: &str) {
    let port = w.sshd().port().to_string();
    let key = w.sshd().client_key().display().to_string();
    let file = w.configuration();
    fs::remove_file(&file).unwrap();
    let arguments =
        ["config", "web01", "--port", &port, "--identity", &key, "--file", file.to_str().unwrap()];
    assert_eq!(run(&mut w.arcssh(&arguments)).code, Some(0));
    let block = fs::read_to_string(&file).unwrap();
    let block =
        block.replacen("    HostName web01\n", &format!("    HostName web01\n    SetEnv A={secret}\n"), 1);
    let own = format!(
        "# {secret}\nHost other\n  ProxyCommand nc -P {secret} %h %p\n  SetEnv B={secret}\n  RemoteCommand echo {secret}\nMatch host x exec \"true {secret}\"\n  LocalCommand {secret}\nHost *\n  SetEnv C={secret}\n"
    );
    fs::write(&file, block + &own).unwrap();
}

#[test]
fn an_archive_of_a_working_connection_contains_no_secret() {
    let w = lab(&["web01"]);
    configure(&w, "canary-conf#1");
    let canary = "canary-v\u{e4}r%/+\"x";
    let mut doctor = w.arcssh(&["doctor", "web01"]);
    doctor.envs(VARIABLES.map(|name| (name, canary))).env("RUST_LOG", "trace");
    let (done, files) = bundle(&w, &mut doctor);
    let report = String::from_utf8_lossy(&done.stdout).into_owned();
    assert_eq!(done.code, Some(0), "{report}");
    assert_no_canary(&w, &files, &["canary-conf#1", canary]);
    assert!(file(&files, "report.txt").contains("ok    relay "));
    let json: serde_json::Value = serde_json::from_str(file(&files, "report.json")).unwrap();
    assert_eq!(json["ok"], true);
    assert!(file(&files, "version.txt").contains("OpenSSH_"));
    assert!(file(&files, "environment.txt").contains("IDENTITY_HEADER=…\n"));
    let configuration = file(&files, "ssh-config.txt");
    assert!(
        configuration.contains("Host web01\n") && configuration.contains("setenv …\n"),
        "{configuration}"
    );
    assert!(configuration.contains(&format!("proxy {} --port %p\n", w.id())), "{configuration}");
    assert!(file(&files, "ssh-G.txt").contains("hostname web01\n"));
    assert!(file(&files, "last.txt").contains("no error is recorded"));
    assert!(file(&files, "state.txt").contains("token-"));
    let log = file(&files, "connection.txt");
    assert!(log.contains("DEBUG") && log.contains("SSH-2.0-") && log.contains("(exit status: 0)"), "{log}");
    for (name, _) in files.iter().filter(|(name, _)| name != "README.txt") {
        assert!(file(&files, "README.txt").contains(name.as_str()), "{name} is not described");
    }
}

#[test]
fn an_archive_of_failures_contains_no_secret() {
    type Fault = fn(&Lab, &mut Command);
    let canary = "canary~secret.x/+1";
    let faults: [(&str, Fault); 7] = [
        ("a wrong secret", |_, doctor| {
            doctor.env("AZURE_CLIENT_SECRET", "canary~secret.x/+1");
        }),
        ("a proxy with a password", |_, doctor| {
            let proxy = format!("http://ada:canary~secret.x%2f+1@127.0.0.1:{}", closed_port());
            doctor.env("HTTPS_PROXY", proxy);
        }),
        ("an invalid proxy", |_, doctor| {
            doctor.env("HTTPS_PROXY", "canary~secret.x/+1");
        }),
        ("a message that quotes secrets", |w, _| {
            let text = "Bearer eyJhbGciOiJub25lIn0.eyJ0aWQiOiJjYW5hcnkifQ.c2ln-canary~secret.x SharedAccessSignature sr=x&sig=canary~secret.x/+1&se=1 sr%3Dx%26sig%3Dcanary~secret.x%26se%3D1 Authorization: Basic canary~secret.x/+1 Set-Cookie: a=canary~secret.x/+1 {\"refresh_token\":\"canary~secret.x/+1\"} AccountKey=canary~secret.x/+1;";
            w.emulator().arm_fault(ArmFault::new(403, "AuthorizationFailed", text).times(100));
        }),
        ("a message that quotes a variable", |w, doctor| {
            doctor.env("SSHPASS", "canary~secret.x/+1\n");
            let start = "x".repeat(860);
            let text =
                format!("canary%7Esecret.x%2F%2B1 Y2FuYXJ5fnNlY3JldC54LysxCg {start} canary~secret.x/+1");
            w.emulator().arm_fault(ArmFault::new(403, "AuthorizationFailed", &text).times(100));
        }),
        ("output of az", |w, doctor| {
            let bin = w.home().join("programs");
            let output = "{\\\"accessToken\\\":\\\"canary~secret.x/+1\\\"";
            script(&bin, "az", &format!("#!/bin/sh\necho \"{output}\"; echo \"{output}\" >&2; exit 0\n"));
            let path = format!("{}:/usr/bin:/bin", bin.display());
            doctor.env("PATH", path).args(["--credential", "azure-cli"]);
        }),
        ("a damaged state directory", |w, _| {
            let file = w.state_directory().join("account-00000000000000000000000000000000.json");
            fs::create_dir_all(w.state_directory()).unwrap();
            fs::write(file, "{\"refresh_token\":\"canary~secret.x/+1\"}").unwrap();
            fs::set_permissions(w.state_directory(), fs::Permissions::from_mode(0o755)).unwrap();
        }),
    ];
    for (name, fault) in faults {
        let w = lab(&["web01"]);
        let mut doctor = w.arcssh(&["doctor", "web01"]);
        fault(&w, &mut doctor);
        let (done, files) = bundle(&w, &mut doctor);
        assert_eq!(done.code, Some(1), "{name}");
        assert!(file(&files, "report.txt").contains("\nProblem: "), "{name}");
        assert!(file(&files, "connection.txt").contains("\narcssh: "), "{name}");
        for (file, text) in &files {
            for encoding in encodings(canary).iter().chain([&"canary~secret".to_owned()]) {
                assert!(!text.contains(encoding), "{name}: {file} contains {encoding}: {text}");
            }
        }
    }
}

#[test]
fn an_archive_needs_no_ssh_no_network_and_no_machine() {
    let w = lab(&["web01"]);
    let empty = w.home().join("empty");
    fs::create_dir(&empty).unwrap();
    let mut doctor = w.arcssh(&["doctor"]);
    doctor
        .env("PATH", empty)
        .env("ARCSSH_ARM_ENDPOINT", "https://arm.invalid")
        .env("ARCSSH_STATE_DIR", "/dev/null");
    let (done, files) = bundle(&w, &mut doctor);
    assert_eq!(done.code, Some(1));
    assert!(file(&files, "report.txt").contains("FAIL  ssh "), "{files:?}");
    assert_eq!(file(&files, "connection.txt"), "you named no machine\n");
}

#[test]
fn an_archive_replaces_no_file_and_leaves_nothing_if_it_fails() {
    let w = lab(&["web01"]);
    let directory = w.home().join("bugs");
    fs::create_dir(&directory).unwrap();
    let (taken, link) = (directory.join("taken"), directory.join("link"));
    fs::write(&taken, "mine").unwrap();
    symlink(w.home().join("target"), &link).unwrap();
    for path in [&taken, &link, &directory] {
        let failed = run(w.arcssh(&["doctor", "--bundle"]).arg(path));
        let first = format!("arcssh: the archive {} exists already", path.display());
        failed.failed(1, &[&first, "arcssh: hint: name a new file with --bundle"]);
    }
    assert!(!w.home().join("target").exists());
    let missing = run(w.arcssh(&["doctor", "--bundle"]).arg(directory.join("no/x")));
    assert!(missing.stderr.starts_with("arcssh: cannot create the archive "), "{missing:?}");
    assert!(missing.stderr.contains("/no/x: No such file or directory (os error 2)\n"), "{missing:?}");
    assert_eq!(w.emulator().requests().len(), 0, "arcssh makes no check");
    // The limit of a file's size stands for a full disk.
    let full = directory.join("full.tar.gz");
    let limited = format!("ulimit -f 1; exec {ARCSSH} doctor --bundle {}", full.display());
    let limited = run(w.command("bash").args(["-c", &limited]));
    assert!(limited.stderr.contains("arcssh: cannot create the archive "), "{limited:?}");
    assert!(!limited.stderr.contains("/.arcssh-"), "{limited:?}");
    assert_eq!(limited.code, Some(1));
    let mut names: Vec<_> = fs::read_dir(&directory).unwrap().map(|file| file.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["link", "taken"]);
    assert_eq!(fs::read_to_string(taken).unwrap(), "mine");
}

#[test]
fn an_interrupted_doctor_leaves_no_archive() {
    for name in ["INT", "TERM"] {
        let w = lab(&["web01"]);
        let directory = w.home().join("bugs");
        fs::create_dir(&directory).unwrap();
        let silent = ArmFault::new(500, "Late", "Late.").after(Duration::from_secs(60));
        w.emulator().arm_fault(silent.times(100));
        let mut doctor = w.arcssh(&["doctor", "web01", "--bundle"]);
        doctor
            .arg(directory.join("bug.tar.gz"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let doctor = doctor.spawn().unwrap();
        assert!(eventually(LIMIT, || !w.emulator().requests_to(Service::Arm).is_empty()));
        signal(doctor.id(), name);
        let done = finish(doctor);
        assert_eq!(done.code, Some(if name == "INT" { 130 } else { 143 }));
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 0, "{name}");
    }
}
