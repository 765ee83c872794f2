//! The README's commands and options.

use std::process::Command;

use crate::support::{run, run_arcssh};

const README: &str = include_str!("../../README.md");

/// The commands in the README's `sh` blocks.
fn commands() -> Vec<&'static str> {
    let blocks = README.split("```sh\n").skip(1);
    blocks.flat_map(|block| block.split("```").next().unwrap_or_default().lines()).collect()
}

/// make without the variables of an outer make, which would change its options and make it print each directory.
pub(crate) fn make(arguments: &[&str]) -> Command {
    let mut make = outside_of_cargo("make");
    for inherited in ["MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES"] {
        make.env_remove(inherited);
    }
    make.args(arguments);
    make
}

/// A program in the source directory, without the variables that cargo sets for a test. Packages that read these
/// variables at build time would be built again.
pub(crate) fn outside_of_cargo(program: &str) -> Command {
    let mut command = Command::new(program);
    command.current_dir(env!("CARGO_MANIFEST_DIR"));
    let set_by_cargo = |name: &str| {
        name == "CARGO" || name.starts_with("CARGO_") && !["CARGO_HOME", "CARGO_TARGET_DIR"].contains(&name)
    };
    let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    for name in names.filter(|name| set_by_cargo(name) || name == "OUT_DIR") {
        command.env_remove(name);
    }
    command
}

#[test]
fn ci_runs_the_readmes_make_targets() {
    assert_eq!(commands(), ["make demo", "make test", "make install"]);
    let script = include_str!("../../.ci/run");
    assert!(script.contains("\nmake install") && script.trim_end().ends_with("\nmake test"));
    let test = run(&mut make(&["--dry-run", "test"]));
    assert!(String::from_utf8(test.stdout).unwrap().contains("cargo.sh test --locked --workspace"));
}

#[test]
fn every_option_of_the_proxy_is_in_the_readme() {
    let help = run_arcssh(&["proxy", "-h"]).clean();
    let words = help.split_whitespace().filter(|word| word.starts_with("--") && *word != "--help");
    let options: Vec<&str> = words.map(|word| word.trim_end_matches(['.', ','])).collect();
    assert!(options.len() > 15, "{options:?}");
    // The README has the short form of --verbose.
    let missing = options.iter().filter(|option| **option != "--verbose" && !README.contains(*option));
    assert_eq!(missing.collect::<Vec<_>>(), Vec::<&&str>::new());
}

#[test]
fn make_demo_succeeds_and_leaves_no_files() {
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
