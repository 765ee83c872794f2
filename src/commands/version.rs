//! `arcssh version`: one line, or what a bug report needs.

use std::process::{Command, Stdio};

use anyhow::Result;

use crate::cli::LogArgs;
use crate::state::Store;
use crate::terminal::output::print;
use crate::text::sanitize;

/// Prints it; the exit status.
///
/// # Errors
/// Standard output takes no more.
pub(crate) fn run(log: &LogArgs) -> Result<u8> {
    let mut text = format!("arcssh {}\n", env!("CARGO_PKG_VERSION"));
    if log.verbose > 0 {
        text.extend(details().iter().map(|(what, value)| format!("{what:9} {}\n", sanitize(value))));
    }
    print(&text)?;
    Ok(0)
}

/// What build.rs noted, and what is found here.
fn details() -> [(&'static str, String); 8] {
    [
        ("target", env!("ARCSSH_TARGET").into()),
        ("profile", env!("ARCSSH_PROFILE").into()),
        ("rustc", env!("ARCSSH_RUSTC").into()),
        ("tls", "rustls with ring; the system's verifier".into()),
        ("features", features().into()),
        ("store", store()),
        ("program", std::env::current_exe().map_or("unknown".into(), |path| path.display().to_string())),
        ("ssh", ssh()),
    ]
}

/// What differs from system to system; there is nothing to choose when it is built.
fn features() -> &'static str {
    match (cfg!(target_os = "linux"), cfg!(unix)) {
        (true, _) => "agent for --entra, pipes without threads, failures on the terminal behind ssh",
        (_, true) => "agent for --entra",
        _ => "--entra=files",
    }
}

fn store() -> String {
    match Store::open() {
        Ok(store) => {
            store.folder().map_or("nothing can be kept here".into(), |path| path.display().to_string())
        }
        Err(too_open) => too_open.to_string(),
    }
}

/// The ssh that comes first: it tells its version on standard error.
fn ssh() -> String {
    let Ok(program) = which::which("ssh") else { return "none found".into() };
    let version = Command::new(&program).arg("-V").stdin(Stdio::null()).output();
    let version =
        version.map_or_else(|error| error.to_string(), |said| String::from_utf8_lossy(&said.stderr).into());
    format!("{}, {}", version.trim(), program.display())
}
