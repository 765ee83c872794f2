//! The table of modules in docs/ARCHITECTURE.md matches the `crate::` paths in `src`.

use std::fs;
use std::path::{Path, PathBuf};

const DOCUMENT: &str = include_str!("../../docs/ARCHITECTURE.md");

/// A row of the table.
struct Module {
    name: &'static str,
    layer: u32,
    /// The last column of its row.
    may_use: &'static str,
}

fn table() -> Vec<Module> {
    let rows = DOCUMENT.lines().map(|line| line.split(" | ").collect::<Vec<_>>());
    let modules = rows.filter_map(|row| {
        let [layer, names, _, may_use] = row[..] else { return None };
        let layer = layer.strip_prefix("| ")?.parse().ok()?;
        Some(names.split('`').skip(1).step_by(2).map(move |name| Module { name, layer, may_use }))
    });
    modules.flatten().collect()
}

impl Module {
    fn allows(&self, other: &Self) -> bool {
        if self.may_use.contains("lower layers") {
            return other.layer > self.layer;
        }
        let folder = |name: &'static str| name.split_once("::").map_or(name, |(folder, _)| folder);
        let short = other.name.strip_prefix(folder(self.name)).and_then(|rest| rest.strip_prefix("::"));
        let named = |name: &str| self.may_use.contains(&format!("`{name}`"));
        let is_below = other.layer > self.layer || folder(other.name) == folder(self.name);
        is_below && (named(other.name) || named(folder(other.name)) || short.is_some_and(named))
    }
}

/// The table's module for a path such as `azure::sign_in::browser::Port`.
fn module<'a>(table: &'a [Module], path: &str) -> Option<&'a Module> {
    let matches = |module: &&Module| {
        path.strip_prefix(module.name).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
    };
    table.iter().filter(matches).max_by_key(|module| module.name.len())
}

/// The paths after `crate::`, with each item of a group such as `use crate::azure::{entra, sign_in}`.
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

/// The files of production code below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let files = entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] });
    files
        .filter(|path| !["tests", "fuzz", "targets"].iter().any(|name| path.file_stem().unwrap() == *name))
        .collect()
}

#[test]
fn each_module_uses_only_what_its_row_in_the_architecture_allows() {
    let table = table();
    assert!(table.len() > 60, "{} modules", table.len());
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut wrong = Vec::new();
    let mut checked = 0;
    for file in files(&src) {
        let path = file.strip_prefix(&src).unwrap().with_extension("").display().to_string();
        let name = path.replace('/', "::").replace("::mod", "");
        let Some(user) = module(&table, &name) else {
            assert!(["azure", "commands", "relay", "ssh"].contains(&name.as_str()), "{name} has no row");
            continue;
        };
        let source = fs::read_to_string(&file).unwrap();
        let source = source.split("\nmod tests {").next().unwrap();
        for path in paths(source) {
            let Some(used) = module(&table, &path).filter(|used| used.name != user.name) else { continue };
            checked += 1;
            if !user.allows(used) {
                wrong.push(format!("{name} uses {path}"));
            }
        }
    }
    assert!(checked > 300, "{checked} paths");
    assert!(wrong.is_empty(), "{wrong:#?}");
}
