//! tests/words.sh and the documentation.

use std::fs;
use std::process::Command;

use crate::readme::make;
use crate::support::run;

fn words() -> Command {
    Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/words.sh"))
}

#[test]
fn the_documentation_contains_no_rejected_word() {
    let result = run(&mut words());
    let hits = String::from_utf8(result.stdout).unwrap();
    assert_eq!((result.code, hits.as_str()), (Some(0), ""), "{}", result.stderr);
}

#[test]
fn a_rejected_word_is_reported_with_its_file_and_line() {
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("PAGE.md");
    let rejected = "# Page\n\nAsk Whoever runs it.\nThe user is\n  told why; **nobody**, one’s own.\n";
    let accepted = "`nobody is signed in`, renewed, foretold.\n```console\n$ whoever\n```\n";
    fs::write(&page, format!("{rejected}{accepted}")).unwrap();
    let result = run(words().arg(&page));
    let hits = String::from_utf8(result.stdout).unwrap();
    let expected: String = ["3: whoever", "4: is told", "5: nobody", "5: one's own"]
        .iter()
        .map(|hit| format!("{}:{hit}\n", page.display()))
        .collect();
    assert_eq!((result.code, hits), (Some(1), expected), "{}", result.stderr);
}

#[test]
fn make_check_runs_the_word_check() {
    let recipe = run(&mut make(&["--dry-run", "check"]));
    let recipe = String::from_utf8(recipe.stdout).unwrap();
    assert!(recipe.lines().any(|line| line == "tests/words.sh"), "{recipe}");
}
