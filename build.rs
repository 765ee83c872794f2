//! Passes build details to `arcssh version`, and the size of the stack to the linker for Windows.

use std::env;
use std::io::Write;
use std::process::Command;

fn main() {
    let rustc = Command::new(env::var_os("RUSTC").unwrap_or("rustc".into())).arg("--version").output();
    let rustc =
        rustc.map_or(String::new(), |output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    let variable = |name: &str| env::var(name).unwrap_or_default();
    let lines = [
        format!("cargo::rustc-env=ARCSSH_TARGET={}", variable("TARGET")),
        format!("cargo::rustc-env=ARCSSH_PROFILE={}", variable("PROFILE")),
        format!("cargo::rustc-env=ARCSSH_RUSTC={rustc}"),
        // The commit, from the scripts that build a release.
        format!("cargo::rustc-env=ARCSSH_COMMIT={}", variable("ARCSSH_COMMIT")),
        "cargo::rerun-if-env-changed=ARCSSH_COMMIT".into(),
        "cargo::rerun-if-changed=build.rs".into(),
    ];
    // Windows gives the main thread 1 MiB, too little for a build without optimisations. Linux and macOS give it 8 MiB.
    let stack = match (variable("CARGO_CFG_TARGET_OS").as_str(), variable("CARGO_CFG_TARGET_ENV").as_str()) {
        ("windows", "msvc") => "cargo::rustc-link-arg-bins=/STACK:8388608",
        ("windows", _) => "cargo::rustc-link-arg-bins=-Wl,--stack,8388608",
        _ => "",
    };
    // If this write fails, the variables are missing and the program does not compile.
    let _ = writeln!(std::io::stdout(), "{}\n{stack}", lines.join("\n"));
}
