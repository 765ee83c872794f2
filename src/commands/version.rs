//! `arcssh version`: one line, or the details for a bug report.

use std::process::{Command, Stdio};

use serde_json::Value;

use crate::cli::{LogArgs, OutputArgs};
use crate::diagnosis::Result;
use crate::ssh::client;
use crate::state::Store;
use crate::terminal::output::{print, print_json};
use crate::text::fields;

/// Prints the version and returns the exit status.
///
/// # Errors
/// Standard output cannot be written.
pub(crate) fn run(args: &OutputArgs, log: &LogArgs) -> Result<u8> {
    if args.is_json() {
        let details = details().map(|(name, value)| (name.to_owned(), Value::from(value)));
        let version = ("version".to_owned(), Value::from(env!("CARGO_PKG_VERSION")));
        print_json(&Value::Object([version].into_iter().chain(details).collect()))?;
        return Ok(0);
    }
    let mut text = format!("arcssh {} ({})\n", env!("CARGO_PKG_VERSION"), origin(env!("ARCSSH_COMMIT")));
    if log.verbose > 0 {
        text += &fields(&details());
    }
    print(&text)?;
    Ok(0)
}

/// Returns the start of the commit, if the build was given one, and the target.
fn origin(commit: &str) -> String {
    let target = format!("{}{}", env!("ARCSSH_TARGET"), linking());
    if commit.is_empty() { target } else { format!("{commit:.12}, {target}") }
}

fn details() -> [(&'static str, String); 9] {
    let commit = env!("ARCSSH_COMMIT");
    [
        ("commit", if commit.is_empty() { "unknown".into() } else { commit.into() }),
        ("target", format!("{}{}", env!("ARCSSH_TARGET"), linking())),
        ("profile", env!("ARCSSH_PROFILE").into()),
        ("rustc", env!("ARCSSH_RUSTC").into()),
        ("tls", tls().into()),
        ("features", features().into()),
        ("state", state_directory()),
        ("program", std::env::current_exe().map_or("unknown".into(), |path| path.display().to_string())),
        ("ssh", ssh()),
    ]
}

/// Returns how the C library is linked, if that is not usual.
fn linking() -> &'static str {
    if cfg!(all(target_env = "gnu", target_feature = "crt-static")) { ", static" } else { "" }
}

/// Returns the TLS library and its trust store.
fn tls() -> &'static str {
    if cfg!(any(windows, target_vendor = "apple")) {
        "rustls with ring, platform verifier"
    } else {
        "rustls with ring, root certificates in files"
    }
}

/// Returns the features of this platform.
fn features() -> &'static str {
    match (cfg!(target_os = "linux"), cfg!(unix)) {
        (true, _) => "ssh-agent for --entra, asynchronous pipes, errors on the terminal of ssh",
        (_, true) => "ssh-agent for --entra",
        _ => "--entra=files",
    }
}

fn state_directory() -> String {
    match Store::open() {
        Ok(store) => store.folder().map_or("none".into(), |path| path.display().to_string()),
        Err(error) => error.to_string(),
    }
}

/// Returns version and path of ssh, which prints its version to standard error.
fn ssh() -> String {
    let program = match client::ssh() {
        Ok(program) => which::which(program),
        Err(error) => return error.to_string(),
    };
    let Ok(program) = program else { return "none found".into() };
    let version = Command::new(&program).arg("-V").stdin(Stdio::null()).output();
    let version = version
        .map_or_else(|error| error.to_string(), |output| String::from_utf8_lossy(&output.stderr).into());
    format!("{}, {}", version.trim(), program.display())
}
