//! The README's commands and options.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::support::{run, run_arcssh};

const README: &str = include_str!("../../README.md");

/// The headings whose commands need a network, a cloud or an account that the playground lacks.
const ELSEWHERE: [&str; 3] = ["Corporate proxy", "Several tenants and clouds", "CI with workload identity"];
/// What the playground lacks: VS Code, and ansible, which `consumers::ansible` runs.
const OTHER_PROGRAMS: [&str; 2] = ["ansible ", "code "];

/// The lines of the `sh` blocks below a heading, without comments.
fn commands(section: &str) -> impl Iterator<Item = &str> {
    let blocks = section.split("```sh\n").skip(1);
    let lines = blocks.flat_map(|block| block.split("```").next().unwrap_or_default().lines());
    lines.map(|line| line.split("  # ").next().unwrap_or_default())
}

/// The sections of the README: heading and text.
fn sections() -> impl Iterator<Item = (&'static str, &'static str)> {
    README.split("\n## ").flat_map(|part| part.split("\n### ")).filter_map(|part| part.split_once('\n'))
}

/// The commands of the quick start, without their output.
pub(crate) fn quick_start() -> Vec<&'static str> {
    let (_, section) = sections().find(|(heading, _)| *heading == "Quick start").unwrap();
    section.lines().filter_map(|line| line.strip_prefix("$ ")).collect()
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

/// `make test` runs this test, and `.ci/run` runs `make install` before.
#[test]
fn every_make_target_of_the_readme_exists() {
    let lines = sections().flat_map(|(_, text)| commands(text));
    let targets: Vec<&str> = lines.filter_map(|line| line.strip_prefix("make ")).collect();
    assert_eq!(targets, ["install", "uninstall", "demo", "test"]);
    for target in targets {
        let recipe = run(&mut make(&["--dry-run", target]));
        assert_eq!(recipe.code, Some(0), "{target}: {}", recipe.stderr);
    }
    let script = include_str!("../../.ci/run");
    assert!(script.contains("\nmake install") && script.trim_end().ends_with("\nmake test"));
    let test = run(&mut make(&["--dry-run", "test"]));
    assert!(String::from_utf8(test.stdout).unwrap().contains("cargo.sh nextest run --locked --workspace"));
}

/// In the order of the README. From `--entra` on there is no key, so that only the certificate can log in.
#[test]
#[cfg(target_os = "linux")]
fn the_commands_of_the_readme_work_in_the_playground() {
    let here = sections().filter(|(heading, _)| !ELSEWHERE.contains(heading));
    let lines = here.flat_map(|(_, text)| commands(text));
    let can_run = |line: &&str| {
        !line.starts_with("make ") && !OTHER_PROGRAMS.iter().any(|program| line.starts_with(program))
    };
    let lines: Vec<&str> = quick_start().into_iter().chain(lines.filter(can_run)).collect();
    assert!(lines.len() > 12, "{lines:?}");
    let entra = "arcssh config web01 --entra --user ";
    let commands = lines.join("\n");
    let commands = commands.replace(
        &format!("{entra}me@contoso.com"),
        &format!("rm .ssh/id_ed25519\n{entra}ada@arcssh.example"),
    );
    assert!(commands.contains("ada@"), "{commands}");
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("script");
    fs::write(&script, format!("set -ex\n{commands}\n: done\n")).unwrap();
    let ran = run(&mut make(&["playground", &format!("RUN=sh '{}'", script.display())]));
    assert!(ran.code == Some(0) && ran.stderr.contains("+ : done\n"), "{}", ran.stderr);
}

#[test]
fn commands_of_the_readme_that_need_another_network_are_valid() {
    let there = sections().filter(|(heading, _)| ELSEWHERE.contains(heading));
    let lines: Vec<&str> = there.flat_map(|(_, text)| commands(text)).collect();
    for line in &lines {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[0] {
            "arcssh" => {
                let help = run_arcssh(&[&words[1..], &["--help"]].concat()).clean();
                assert!(help.contains(&format!("Usage: arcssh {}", words[1])), "{line}: {help}");
            }
            "ssh" => {
                run(Command::new("ssh").args(["-G", "-F", "/dev/null"]).args(&words[1..])).clean();
            }
            "export" => {
                let page = crate::manual::page("arcssh.1");
                let names = words[1..].iter().filter_map(|word| Some(word.split_once('=')?.0));
                let missing: Vec<&str> = names.filter(|name| !page.contains(name)).collect();
                assert_eq!(missing, Vec::<&str>::new(), "{line}");
            }
            program => panic!("{program}: {line}"),
        }
    }
    assert!(lines.len() > 7, "{lines:?}");
}

/// docs/session.svg and the quick start.
#[test]
#[cfg(target_os = "linux")]
fn the_recorded_session_is_what_the_program_prints() {
    let checked = run(&mut make(&["session", "CHECK=--check"]));
    assert_eq!(checked.code, Some(0), "{}", checked.stderr);
}

#[test]
fn the_readme_is_short_and_its_links_lead_to_files() {
    assert!(README.lines().count() <= 200, "{} lines", README.lines().count());
    let links = README.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    for link in links.filter(|link| !link.starts_with("https://")) {
        let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
        let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file));
        let text = text.unwrap_or_else(|error| panic!("{link}: {error}"));
        let headings = text.lines().filter_map(|line| line.strip_prefix("## ")).map(str::to_lowercase);
        assert!(anchor.is_empty() || headings.into_iter().any(|heading| heading == anchor), "{link}");
    }
}

#[test]
fn the_readme_agrees_with_the_manifest_and_with_the_list_of_messages() {
    let manifest = include_str!("../../Cargo.toml");
    let (_, version) = manifest.split_once("rust-version = \"").unwrap();
    let version = version.split('"').next().unwrap();
    assert!(README.contains(&format!("Rust {version} or later")), "{version}");
    let list = include_str!("../../docs/TROUBLESHOOTING.md");
    let (_, section) = sections().find(|(heading, _)| *heading == "Troubleshooting").unwrap();
    let messages = section.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    let messages: Vec<&str> = messages.collect();
    assert_eq!(messages.len(), 3, "{section}");
    assert!(messages.iter().all(|message| list.contains(&format!("| `{message}"))), "{messages:?}");
}

#[test]
fn make_demo_succeeds_and_leaves_no_files() {
    let temporary = tempfile::tempdir().unwrap();
    let demo = run(make(&["demo"]).env("TMPDIR", temporary.path()));
    let transcript = String::from_utf8(demo.stdout).unwrap();
    assert_eq!(demo.code, Some(0), "{transcript}{}", demo.stderr);
    for step in [
        "$ ssh -F",
        "\nLinux ",
        "$ scp ",
        "$ sftp ",
        "$ rsync ",
        "All checksums agree.",
        "$ arcssh list",
        "$ arcssh ssh",
        "$ arcssh ping",
        "$ arcssh forward",
        "$ arcssh rdp",
        "$ arcssh doctor",
    ] {
        assert!(
            transcript.contains(step) || cfg!(not(target_os = "linux")),
            "{step} is not in:\n{transcript}"
        );
    }
    assert_eq!(std::fs::read_dir(temporary.path()).unwrap().count(), 0, "the demo left files");
}
