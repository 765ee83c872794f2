//! The manual, as `make install` installs it, describes options, environment variables and exit statuses completely.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{run, run_arcssh};

/// Variables that belong to the system, to cargo and to tests, and not to a user of arcssh.
const OTHERS: [&str; 7] =
    ["CARGO_", "FUZZ_", "ARCSSH_TEST_", "ARCSSH_TARGET", "ARCSSH_RUSTC", "ARCSSH_PROFILE", "SSH_AUTH_SOCK"];

/// The text of a page, with each paragraph on one line.
pub(crate) fn page(name: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    run_arcssh(&["man", folder.path().to_str().unwrap()]).clean();
    let groff = ["-k", "-man", "-Tutf8", "-P-cbou", "-ww", "-rLL=999n", "-rHY=0"];
    run(Command::new("groff").args(groff).arg(folder.path().join(name))).clean()
}

/// The Rust files below a folder.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let files = entries.flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] });
    files.filter(|path| path.extension().is_some_and(|ending| ending == "rs")).collect()
}

fn text_of(folder: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    sources(&folder).iter().map(|path| fs::read_to_string(path).unwrap()).collect()
}

/// The string literals of the program, without its unit tests.
fn literals() -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let texts = sources(&folder).into_iter().filter(|path| !path.ends_with("tests.rs")).map(|path| {
        let text = fs::read_to_string(path).unwrap();
        text.split("#[cfg(test)]\nmod tests {").next().unwrap().to_owned()
    });
    texts.flat_map(|text| text.split('"').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>()).collect()
}

#[test]
fn every_option_of_the_proxy_is_in_the_manual_with_its_help_and_its_variable() {
    let help = run_arcssh(&["proxy", "--help"]).clean();
    let page = page("arcssh-proxy.1");
    let mut lines = help.lines().map(str::trim);
    let mut options = 0;
    while let Some(line) = lines.next() {
        if let Some(option) = line.split_whitespace().find(|word| word.starts_with("--")) {
            let text = lines.next().unwrap();
            assert!(
                page.contains(option.trim_end_matches('.')) && page.contains(text),
                "{option}: {text}\n{page}"
            );
            options += 1;
        } else if let Some(variable) = line.strip_prefix("[env: ") {
            let variable = variable.trim_end_matches("=]");
            assert!(page.contains(&format!("{variable} environment variable")), "{variable}\n{page}");
        }
    }
    assert!(options > 20, "{help}");
}

#[test]
fn every_environment_variable_is_in_the_manual() {
    // This file has parts of the names of variables whose values it hides.
    let hidden = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/commands/doctor/redaction.rs");
    let source = text_of("src").replace(&fs::read_to_string(hidden).unwrap(), "");
    let is_name = |word: &&str| {
        let plain = |c: char| c.is_ascii_uppercase() || c == '_' || c.is_ascii_digit();
        word.contains('_') && !word.starts_with('_') && word.chars().all(plain)
    };
    let is_read = |name: &&str| !OTHERS.iter().any(|other| name.starts_with(other));
    let names: BTreeSet<&str> = source.split('"').filter(is_name).filter(is_read).collect();
    assert!(names.len() > 15, "{names:?}");
    let page = page("arcssh.1");
    // Set by the desktop, by sshd, by GitHub's runners and by the build, and a setting of Azure CLI whose password arcssh does not print.
    let others = ["WAYLAND_DISPLAY", "SSH_CONNECTION", "GITHUB_ACTIONS", "ARCSSH_COMMIT", "HTTP_PROXY"];
    let missing = names.iter().filter(|name| !others.contains(*name) && !page.contains(**name));
    assert_eq!(missing.collect::<Vec<_>>(), Vec::<&&str>::new());
}

/// Those of ssh, of arcssh and of the programs that issue tokens, not those of the system.
#[test]
fn every_file_is_in_the_manual() {
    let page = page("arcssh.1");
    let (_, described) = page.split_once("\nFILES\n").unwrap();
    let folders = ["~/.", "/etc/ssh", "/var/opt/", "/opt/azcmagent/", "/etc/ssl/certs/"];
    let is_path =
        |text: &&String| folders.iter().any(|folder| text.starts_with(folder)) && !text.contains([' ', '\n']);
    let literals = literals();
    let files: BTreeSet<&String> = literals.iter().filter(is_path).collect();
    assert!(files.len() > 6, "{files:?}");
    let missing: Vec<_> = files.iter().filter(|file| !described.contains(file.as_str())).collect();
    assert!(missing.is_empty(), "{missing:?}");
    for folder in [".azure", ".azd", ".Azure"] {
        assert!(
            literals.iter().any(|text| text.starts_with(folder)) && described.contains(folder),
            "{folder}"
        );
    }
}

/// The sections of man-pages(7), in its order.
#[test]
fn each_page_has_the_same_sections_and_lists_every_option() {
    let folder = tempfile::tempdir().unwrap();
    run_arcssh(&["man", folder.path().to_str().unwrap()]).clean();
    let order = [
        "NAME",
        "SYNOPSIS",
        "DESCRIPTION",
        "OPTIONS",
        "SUBCOMMANDS",
        "VERSION",
        "EXIT STATUS",
        "ENVIRONMENT",
        "FILES",
        "EXAMPLES",
        "SEE ALSO",
    ];
    let required = ["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "EXIT STATUS", "SEE ALSO"];
    let pages: Vec<PathBuf> =
        fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(pages.len() > 17);
    for path in pages {
        let name = path.file_name().unwrap().to_str().unwrap();
        let page = page(name);
        let is_heading =
            |line: &&str| line.chars().all(|c| c.is_ascii_uppercase() || c == ' ') && !line.starts_with(' ');
        let sections: Vec<&str> = page.lines().filter(is_heading).filter(|line| !line.is_empty()).collect();
        let places: Vec<_> =
            sections.iter().map(|section| order.iter().position(|one| one == section)).collect();
        assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{name}: {sections:?}");
        assert!(required.iter().all(|section| sections.contains(section)), "{name}: {sections:?}");
        let words = name.trim_end_matches(".1").trim_start_matches("arcssh").trim_start_matches('-');
        let words: Vec<&str> = if words == "known-hosts" { vec![words] } else { words.split('-').collect() };
        let help = run_arcssh(
            &[&words[..], &["--help"]]
                .concat()
                .into_iter()
                .filter(|word| !word.is_empty())
                .collect::<Vec<_>>(),
        );
        let help = help.clean();
        let options =
            help.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with("--")));
        for option in options.filter(|option| !option.ends_with(':')) {
            let option = option.trim_end_matches('.').split(['[', ';', ',']).next().unwrap();
            assert!(page.contains(option), "{name}: {option}\n{page}");
        }
    }
}

/// Those that the other tests of this folder observe.
#[test]
fn every_exit_status_is_in_the_manual() {
    let tests = text_of("tests/it");
    let statuses: BTreeSet<u8> =
        tests.split(".failed(").filter_map(|rest| rest.split(',').next()?.parse().ok()).chain([0]).collect();
    assert!(statuses.len() > 6, "{statuses:?}");
    let page = page("arcssh.1");
    let (_, described) = page.split_once("EXIT STATUS").unwrap();
    for status in statuses {
        assert!(described.contains(&format!("\n       {status}      ")), "{status}\n{described}");
    }
    assert!(described.contains("\n       128+N"), "{described}");
}
