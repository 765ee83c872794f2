//! The program `arcssh-emulator`.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

#[test]
fn serve_writes_a_private_environment_file_and_removes_its_directory() {
    let directory = tempfile::tempdir().unwrap();
    let env_file = directory.path().join("env");
    let mut serve = Command::new(env!("CARGO_BIN_EXE_arcssh-emulator"))
        .args(["serve", "--machine", "web01=2222", "--env-file"])
        .arg(&env_file)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(serve.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.any(|line| line.contains("/machines/web01")));
    assert!(lines.any(|line| line.ends_with("/machines/web01 --port 2222' web01")));
    let environment = fs::read_to_string(&env_file).unwrap();
    assert_eq!(fs::metadata(&env_file).unwrap().permissions().mode() & 0o777, 0o600);
    let authority = environment.lines().find_map(|line| line.strip_prefix("export SSL_CERT_FILE='")).unwrap();
    let authority = Path::new(authority.trim_end_matches('\''));
    assert!(authority.exists());
    let kill = Command::new("kill").args(["-TERM", &serve.id().to_string()]).status().unwrap();
    assert!(kill.success() && serve.wait().unwrap().success());
    assert!(!authority.parent().unwrap().exists());
}
