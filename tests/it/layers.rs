//! The layers in docs/ARCHITECTURE.md match the `crate::` paths in `src`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

const DOCUMENT: &str = include_str!("../../docs/ARCHITECTURE.md");

/// Modules of `commands` that several commands share.
const SHARED: [&str; 6] = ["certificates", "client", "destination", "provision", "session", "mod"];

/// The layer of each module in the table.
fn layers() -> BTreeMap<&'static str, u32> {
    let rows = DOCUMENT.lines().map(|line| line.split(" | ").collect::<Vec<_>>());
    rows.filter_map(|row| {
        let layer = row.first()?.strip_prefix("| ")?.parse().ok()?;
        Some((row.get(1)?.trim_matches('`'), layer))
    })
    .collect()
}

/// The paths after `crate::`, with each item of a group such as `use crate::azure::{entra, login}`.
fn paths(source: &str) -> Vec<String> {
    let code: Vec<&str> = source.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
    let code = code.join("\n");
    let uses = code.split("crate::").skip(1).flat_map(|rest| {
        let end = rest.find(|c: char| !c.is_alphanumeric() && !"_:".contains(c)).unwrap_or(rest.len());
        let (path, rest) = rest.split_at(end);
        let group =
            rest.strip_prefix('{').and_then(|rest| rest.split_once('}')).map_or("", |(group, _)| group);
        group.split(',').map(|item| format!("{path}{}", item.trim())).collect::<Vec<_>>()
    });
    uses.collect()
}

/// The files of production code below a directory.
fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let is_test =
        |path: &PathBuf| ["tests", "fuzz_tests"].iter().any(|name| path.file_stem().unwrap() == *name);
    entries
        .filter(|path| !is_test(path))
        .flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] })
        .collect()
}

/// The modules of each file, outermost first, with the paths that the file's production code uses.
fn uses() -> Vec<(Vec<String>, Vec<String>)> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let uses = files(&src).into_iter().map(|file| {
        let path = file.strip_prefix(&src).unwrap().with_extension("");
        let module = path.iter().map(|part| part.to_str().unwrap().to_owned()).filter(|part| part != "mod");
        let source = fs::read_to_string(&file).unwrap();
        (module.collect(), paths(source.split("\nmod tests {").next().unwrap()))
    });
    uses.collect()
}

#[test]
fn each_module_depends_only_on_lower_layers() {
    let layers = layers();
    assert_eq!(layers.len(), 16, "{layers:?}");
    let (mut wrong, mut modules, mut checked) = (Vec::new(), BTreeSet::new(), 0);
    for (module, paths) in uses() {
        let name = module[0].as_str();
        modules.insert(name.to_owned());
        for path in paths {
            let used = path.split("::").next().unwrap();
            if used == name {
                continue;
            }
            checked += 1;
            if layers.get(used) <= layers.get(name) {
                wrong.push(format!("{} uses {path}", module.join("::")));
            }
        }
    }
    assert!(checked > 300, "{checked} paths");
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(
        modules.iter().map(String::as_str).collect::<Vec<_>>(),
        layers.into_keys().collect::<Vec<_>>()
    );
}

#[test]
fn no_command_depends_on_another_command() {
    let mut wrong = Vec::new();
    for (module, paths) in uses().into_iter().filter(|(module, _)| module[0] == "commands") {
        let Some(command) = module.get(1) else { continue };
        wrong.extend(paths.into_iter().filter(|path| {
            let used = path.strip_prefix("commands::").map(|rest| rest.split("::").next().unwrap());
            used.is_some_and(|used| used != command && !SHARED.contains(&used))
        }));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// The children of a module that reach `from` by their paths.
fn reaches<'a>(graph: &'a BTreeMap<String, BTreeSet<String>>, from: &'a str) -> BTreeSet<&'a str> {
    let (mut reached, mut open) = (BTreeSet::new(), vec![from]);
    while let Some(module) = open.pop() {
        for used in graph.get(module).into_iter().flatten() {
            if reached.insert(used.as_str()) {
                open.push(used);
            }
        }
    }
    reached
}

#[test]
fn the_modules_of_a_folder_form_no_cycle() {
    let mut folders: BTreeMap<String, BTreeMap<String, BTreeSet<String>>> = BTreeMap::new();
    for (module, paths) in uses() {
        for path in paths {
            let used: Vec<&str> = path.split("::").collect();
            let common = module.iter().zip(&used).take_while(|(module, used)| module == *used).count();
            let (Some(user), Some(used)) = (module.get(common), used.get(common)) else { continue };
            let folder = folders.entry(module[..common].join("::")).or_default();
            folder.entry(user.clone()).or_default().insert((*used).to_owned());
        }
    }
    assert!(folders.len() > 8, "{folders:?}");
    for (name, folder) in &folders {
        for module in folder.keys() {
            assert!(
                !reaches(folder, module).contains(module.as_str()),
                "{name}: {module} is part of a cycle"
            );
        }
    }
}
