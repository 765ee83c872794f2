//! tests/words.sh, the documentation and the source.

use std::fs;
use std::process::Command;

use crate::readme::make;
use crate::support::run;

fn words() -> Command {
    Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/words.sh"))
}

#[test]
fn documentation_and_source_contain_no_rejected_word() {
    let result = run(&mut words());
    let hits = String::from_utf8(result.stdout).unwrap();
    assert_eq!((result.code, hits.as_str()), (Some(0), ""), "{}", result.stderr);
}

/// Asserts that the check of a file with this text finds these words, each after its line number.
#[track_caller]
fn finds(name: &str, text: &str, hits: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join(name);
    fs::write(&file, text).unwrap();
    let result = run(words().arg(&file));
    let found = String::from_utf8(result.stdout).unwrap();
    let expected: String = hits.iter().map(|hit| format!("{}:{hit}\n", file.display())).collect();
    assert_eq!((result.code, found), (Some(i32::from(!hits.is_empty())), expected), "{}", result.stderr);
}

#[test]
fn a_rejected_word_in_a_page_is_reported_with_its_file_and_line() {
    let rejected = "# Page\n\nAsk Whoever runs it.\nThe user is\n  told why; **nobody**, one’s own.\n";
    let accepted = "`nobody is signed in`, renewed, foretold.\n```console\n$ whoever\n```\n";
    let hits = ["3: whoever", "4: is told", "5: nobody", "5: one's own"];
    finds("PAGE.md", &format!("{rejected}{accepted}"), &hits);
}

#[test]
fn a_rejected_word_in_rust_is_reported_with_its_file_and_line() {
    let rejected = "//! Asks whoever runs it.\n/// What is passed\n/// over is left.\nfn in_vain() -> NobodyToAsk {\n    \
                    fail(\"ask somebody\"); // stands\n    // in for it\n    fail(\"the user is \\\n        told\");\n}\n";
    let hits = [
        "1: whoever",
        "2: passed over",
        "4: nobody",
        "4: in vain",
        "5: somebody",
        "5: stands in",
        "7: is told",
    ];
    finds("main.rs", rejected, &hits);
    finds(
        "clean.rs",
        "/// Renews the file that `nobody` owns.\nfn told() { note(\"renewed; foretold\"); }\n",
        &[],
    );
}

#[test]
fn make_check_runs_the_word_check() {
    let recipe = run(&mut make(&["--dry-run", "check"]));
    let recipe = String::from_utf8(recipe.stdout).unwrap();
    assert!(recipe.lines().any(|line| line == "tests/words.sh"), "{recipe}");
}
