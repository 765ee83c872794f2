//! arcssh is built from reviewed sources only: the versions in Cargo.lock, and pinned actions.

#![expect(clippy::print_stderr, reason = "a skipped test prints the reason")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::run;

/// The files of this repository that may run cargo.
fn scripts() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let named = ["Makefile", ".ci/run"].map(|name| root.join(name));
    let files_in = |directory: &str, extension: &str| {
        let entries = fs::read_dir(root.join(directory)).unwrap().map(|entry| entry.unwrap().path());
        entries.filter(|path| path.extension().is_some_and(|e| e == extension)).collect::<Vec<_>>()
    };
    [named.to_vec(), files_in("tests", "sh"), files_in(".github/workflows", "yml")].concat()
}

fn workflows() -> Vec<(PathBuf, String)> {
    let files = scripts().into_iter().filter(|path| path.extension().is_some_and(|e| e == "yml"));
    let files: Vec<_> = files.map(|path| (path.clone(), fs::read_to_string(path).unwrap())).collect();
    assert!(!files.is_empty());
    files
}

/// Returns whether a line runs a cargo command that resolves dependencies.
fn resolves(line: &str) -> bool {
    const COMMANDS: [&str; 11] =
        ["bench", "build", "check", "clippy", "deny", "doc", "install", "metadata", "run", "test", "tree"];
    let line = line.replace("\"$cargo\"", "cargo").replace("$(CARGO)", "cargo");
    let words: Vec<&str> = line.split_whitespace().collect();
    let is_version_query = line.contains("--version >");
    !line.trim_start().starts_with('#')
        && !is_version_query
        && words.windows(2).any(|pair| pair[0].ends_with("cargo") && COMMANDS.contains(&pair[1]))
}

/// Without `--locked`, cargo may choose newer versions than the reviewed ones.
#[test]
fn every_cargo_command_uses_the_versions_in_cargo_lock() {
    let mut count = 0;
    for path in scripts() {
        for line in fs::read_to_string(&path).unwrap().lines().filter(|line| resolves(line)) {
            assert!(line.contains("--locked"), "{}: {line}", path.display());
            count += 1;
        }
    }
    assert!(count > 8, "only {count} commands found");
}

/// A tag can be moved, a commit hash cannot.
#[test]
fn every_action_is_pinned_by_its_commit() {
    for (path, text) in workflows() {
        let used: Vec<&str> =
            text.lines().filter_map(|line| line.split_once("uses:")).map(|(_, u)| u).collect();
        assert!(!used.is_empty(), "{}", path.display());
        for action in used {
            let (_, pin) = action.trim().split_once('@').unwrap_or_default();
            let (commit, version) = pin.split_once(" # v").unwrap_or_default();
            let is_hash = commit.len() == 40 && commit.bytes().all(|byte| byte.is_ascii_hexdigit());
            assert!(is_hash && !version.is_empty(), "{}: {action}", path.display());
        }
    }
}

#[test]
fn workflows_may_only_read_and_store_no_token() {
    for (path, text) in workflows() {
        assert!(text.contains("\npermissions:\n  contents: read\n"), "{}", path.display());
        assert!(!text.contains("secrets."), "{}", path.display());
        let writes = text.lines().map(str::trim).filter(|line| line.ends_with(": write"));
        if path.ends_with("release.yml") {
            // The last job, which runs no code of dependencies, publishes what the others built.
            let (builds, publishes) = text.split_once("\n  publish:\n").unwrap();
            assert!(!builds.contains(": write") && !publishes.contains("cargo"), "{}", path.display());
            let granted: Vec<_> = writes.collect();
            assert_eq!(granted, ["contents: write", "id-token: write", "attestations: write"]);
            assert!(publishes.contains("if: github.ref_type == 'tag'"), "{}", path.display());
        } else {
            assert_eq!((text.matches("permissions:").count(), writes.count()), (1, 0), "{}", path.display());
        }
        // pull_request_target runs the code of any pull request with the repository's permissions.
        assert!(!text.contains("pull_request_target"), "{}", path.display());
        let checkouts = text.matches("actions/checkout@").count();
        assert_eq!(text.matches("persist-credentials: false").count(), checkouts, "{}", path.display());
    }
}

#[test]
fn every_dependency_comes_from_crates_io_with_a_checksum() {
    let lock = include_str!("../../Cargo.lock");
    let own = ["arcssh", "arcssh-bench", "arcssh-bench-limit", "arcssh-emulator"];
    for package in lock.split("[[package]]").skip(1) {
        let value = |key: &str| {
            let line = package.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(" = \""));
            line.map(|line| line.trim_end_matches('"'))
        };
        if own.contains(&value("name").unwrap()) {
            continue;
        }
        assert_eq!(
            value("source"),
            Some("registry+https://github.com/rust-lang/crates.io-index"),
            "{package}"
        );
        assert_eq!(value("checksum").map(str::len), Some(64), "{package}");
    }
}

/// Writes an advisory database with an invented advisory for `ring` that is fixed in `patched`.
fn database(cargo_home: &Path, patched: &str) {
    // cargo-deny 0.20 gives the clone of https://github.com/RustSec/advisory-db this name.
    let clone = cargo_home.join("advisory-dbs/advisory-db-3157b0e258782691");
    fs::create_dir_all(clone.join("crates/ring")).unwrap();
    let advisory = format!(
        "```toml\n[advisory]\nid = \"RUSTSEC-2026-0001\"\npackage = \"ring\"\ndate = \"2026-01-01\"\n\n[versions]\npatched = [\">= {patched}\"]\n```\n\n# Made up\n\nText.\n"
    );
    fs::write(clone.join("crates/ring/RUSTSEC-2026-0001.md"), advisory).unwrap();
    let git =
        "git init -q -b main . && git add -A && git -c user.name=a -c user.email=a@example.com commit -qm a";
    run(Command::new("sh").args(["-c", git]).current_dir(clone)).clean();
}

/// Without network, cargo-deny uses an existing database. A missing database causes a notice.
#[test]
fn an_advisory_fails_the_check_and_a_missing_database_is_reported() {
    let cargo = option_env!("CARGO").unwrap_or("cargo");
    if !Command::new(cargo).args(["deny", "--version"]).output().is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: cargo-deny is not installed; make check installs it");
        return;
    }
    let home = std::env::var("CARGO_HOME").unwrap_or(format!("{}/.cargo", std::env::var("HOME").unwrap()));
    for (patched, required, code, expected) in [
        (None, "", 0, "NOT CHECKED"),
        (None, "required", 1, "NOT CHECKED"),
        (Some("99.0.0"), "", 1, "RUSTSEC-2026-0001"),
        (Some("0.17.0"), "", 0, "advisories ok"),
    ] {
        let cargo_home = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(format!("{home}/registry"), cargo_home.path().join("registry")).unwrap();
        if let Some(patched) = patched {
            database(cargo_home.path(), patched);
        }
        let mut check = Command::new("tests/advisories.sh");
        check.current_dir(env!("CARGO_MANIFEST_DIR")).env("CARGO_HOME", cargo_home.path());
        check.env("CARGO", cargo).env("ADVISORIES", required);
        // git cannot reach the network.
        check.env("GIT_CONFIG_COUNT", "1").env("GIT_CONFIG_KEY_0", "url.file:///nowhere/.insteadOf");
        check.env("GIT_CONFIG_VALUE_0", "https://github.com/");
        let run = run(&mut check);
        let output = format!("{}{}", String::from_utf8_lossy(&run.stdout), run.stderr);
        assert_eq!(run.code, Some(code), "{output}");
        assert!(output.contains(expected), "{output}");
    }
}
