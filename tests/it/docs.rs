//! Each command in the `sh` blocks of docs/ succeeds, for a user with the machine web01 in the resource group rg-web.

use std::fs;
use std::path::Path;

use arcssh_emulator::Machine;

use crate::support::{ARCSSH, lab_with, run};

/// The commands in a page's `sh` blocks.
fn commands(guide: &str) -> Vec<String> {
    let blocks = guide.split("```sh\n").skip(1);
    blocks.flat_map(|block| block.split("```").next().unwrap_or_default().lines()).map(Into::into).collect()
}

#[test]
fn every_command_in_the_guides_succeeds() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    let path =
        format!("{}:{}", Path::new(ARCSSH).parent().unwrap().display(), std::env::var("PATH").unwrap());
    let mut tried = 0;
    let guides =
        ["SSH-CONFIG.md", "VSCODE.md", "ANSIBLE.md", "CACHE.md", "SETUP.md", "DOCTOR.md", "ENTRA.md"];
    for guide in guides {
        let w = lab_with(&["solo"], |builder| {
            builder.machine(Machine::new("web01").resource_group("rg-web").tag("env", "prod"))
        });
        fs::remove_file(w.configuration()).unwrap();
        for line in commands(&fs::read_to_string(docs.join(guide)).unwrap()) {
            // ssh reads the real home directory. Tests of host entries connect, so `ssh -G` is enough here.
            let line = line
                .strip_prefix("ssh ")
                .map_or(line.clone(), |host| format!("ssh -G -F .ssh/config {host}"));
            let result = run(w.command("sh").args(["-c", &line]).env("PATH", &path));
            assert_eq!(result.code, Some(0), "{guide}: {line}: {}", result.stderr);
            tried += 1;
        }
    }
    assert!(tried >= 10, "{tried} commands");
}
