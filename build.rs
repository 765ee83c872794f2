//! Notes of the build what `arcssh version --verbose` tells of it.

use std::env;
use std::io::Write;
use std::process::Command;

fn main() {
    let rustc = Command::new(env::var_os("RUSTC").unwrap_or("rustc".into())).arg("--version").output();
    let rustc = rustc.map_or(String::new(), |said| String::from_utf8_lossy(&said.stdout).trim().to_owned());
    let of = |name: &str| env::var(name).unwrap_or_default();
    let lines = [
        format!("cargo::rustc-env=ARCSSH_TARGET={}", of("TARGET")),
        format!("cargo::rustc-env=ARCSSH_PROFILE={}", of("PROFILE")),
        format!("cargo::rustc-env=ARCSSH_RUSTC={rustc}"),
        "cargo::rerun-if-changed=build.rs".into(),
    ];
    // Without them the program does not compile, and says so.
    let _ = writeln!(std::io::stdout(), "{}", lines.join("\n"));
}
