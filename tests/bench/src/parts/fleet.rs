//! The configuration of 5,000 machines.

use std::path::Path;
use std::process::Stdio;
use std::time::Instant;

use anyhow::{Result, ensure};
use arcssh_emulator::playground::Playground;
use arcssh_emulator::{Builder, Machine};

use crate::report::Row;

const MACHINES: usize = 5000;

pub(crate) fn measure(arcssh: &Path) -> Result<Vec<Row>> {
    let playground = Playground::start(arcssh, &[], with_machines)?.isolate()?;
    let steps: [(&str, &[&str]); 7] = [
        ("config --all", &["config", "--all", "--user", "azureuser"]),
        ("config --verify", &["config", "--verify"]),
        ("config without a change", &["config"]),
        ("config with a change of all entries", &["config", "--user", "root"]),
        ("list", &["list"]),
        ("config --remove of one machine", &["config", "--remove", "fleet7"]),
        ("config --remove", &["config", "--remove"]),
    ];
    let mut rows = Vec::new();
    for (name, arguments) in steps {
        let start = Instant::now();
        let output = playground.command(arcssh).args(arguments).stdin(Stdio::null()).output()?;
        let time = start.elapsed().as_secs_f64() * 1e3;
        ensure!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
        rows.push(Row::alone(format!("{MACHINES} machines: {name}"), "ms", time));
    }
    Ok(rows)
}

fn with_machines(builder: Builder) -> Builder {
    (0..MACHINES).fold(builder, |builder, number| {
        builder.machine(Machine::new(&format!("fleet{number}")).resource_group("rg-fleet"))
    })
}
