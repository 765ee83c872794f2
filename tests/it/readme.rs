//! The README's commands do what it says.

use std::process::Command;

use crate::support::run;

const README: &str = include_str!("../../README.md");

/// The lines of the README's `sh` blocks: what it asks its reader to type.
fn commands() -> Vec<&'static str> {
    let blocks = README.split("```sh\n").skip(1);
    blocks.flat_map(|block| block.split("```").next().unwrap_or_default().lines()).collect()
}

/// make, also when make runs the tests: a make below another takes its options, and prints each folder that it enters.
pub(crate) fn make(arguments: &[&str]) -> Command {
    let mut make = outside_of_cargo("make");
    for inherited in ["MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES"] {
        make.env_remove(inherited);
    }
    make.args(arguments);
    make
}

/// A program in the folder of the sources, without the variables that cargo sets for a test: packages that read them when
/// they are built would be built again.
pub(crate) fn outside_of_cargo(program: &str) -> Command {
    let mut command = Command::new(program);
    command.current_dir(env!("CARGO_MANIFEST_DIR"));
    let of_cargo = |name: &str| {
        name == "CARGO" || name.starts_with("CARGO_") && !["CARGO_HOME", "CARGO_TARGET_DIR"].contains(&name)
    };
    let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    for name in names.filter(|name| of_cargo(name) || name == "OUT_DIR") {
        command.env_remove(name);
    }
    command
}

/// `make test` is what runs this, and `make install` what .ci/run runs before.
#[test]
fn every_command_of_the_readme_is_run_by_a_test() {
    assert_eq!(commands(), ["make demo", "make test", "make install"]);
    let script = include_str!("../../.ci/run");
    assert!(script.contains("\nmake install") && script.trim_end().ends_with("\nmake test"));
    let test = run(&mut make(&["--dry-run", "test"]));
    assert!(String::from_utf8(test.stdout).unwrap().contains("cargo.sh test --locked --workspace"));
}

#[test]
fn make_demo_runs_the_main_job_and_leaves_nothing() {
    let temporary = tempfile::tempdir().unwrap();
    let demo = run(make(&["demo"]).env("TMPDIR", temporary.path()));
    let transcript = String::from_utf8(demo.stdout).unwrap();
    assert_eq!(demo.code, Some(0), "{transcript}{}", demo.stderr);
    for step in ["$ ssh -F", "\nLinux ", "$ scp ", "$ sftp ", "$ rsync ", "All checksums agree."] {
        assert!(
            transcript.contains(step) || cfg!(not(target_os = "linux")),
            "{step} is not in:\n{transcript}"
        );
    }
    assert_eq!(std::fs::read_dir(temporary.path()).unwrap().count(), 0, "the demo left files");
}
