//! docs/SECURITY.md names an existing test for each promise.

use std::fs;
use std::path::Path;

const PAGE: &str = include_str!("../../docs/SECURITY.md");

/// File and function of each test in the last column of a row.
fn tests_of(row: &str) -> Vec<(String, String)> {
    let column = row.trim_end_matches(" |").rsplit(" | ").next().unwrap_or_default();
    let names = column.split('`').skip(1).step_by(2);
    names
        .map(|name| match name.split_once(".rs: ") {
            Some((file, test)) if file.starts_with("src/") => (format!("{file}.rs"), test.to_owned()),
            Some((file, test)) => (format!("tests/it/{file}.rs"), test.to_owned()),
            None => {
                let (file, test) = name.split_once("::").unwrap_or_else(|| panic!("{name} names no file"));
                (format!("tests/it/{file}.rs"), test.to_owned())
            }
        })
        .collect()
}

#[test]
fn every_promise_names_an_existing_test() {
    let (_, promises) = PAGE.split_once("## Promises").unwrap();
    let rows: Vec<&str> =
        promises.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| Promise |")).collect();
    assert!(rows.len() > 30, "{} promises", rows.len());
    for row in rows {
        let tests = tests_of(row);
        assert!(!tests.is_empty(), "no test: {row}");
        for (file, test) in tests {
            let source = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(&file));
            let source = source.unwrap_or_else(|error| panic!("{file}: {error}"));
            assert!(source.contains(&format!("fn {test}(")), "{file} has no {test}");
        }
    }
}
