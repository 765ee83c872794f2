//! Programs that the user or a file names.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::system::children;

/// How long a program may take to print its version.
const VERSION_TIMEOUT: Duration = Duration::from_secs(10);

/// Returns whether a program is named by a path, and not by a name that is in `PATH`.
pub(crate) fn is_path(program: &Path) -> bool {
    program.to_string_lossy().contains(std::path::is_separator)
}

/// Finds an executable file: the one at a path with a directory, or else the first one in `PATH`.
///
/// # Errors
/// Why there is none: a verb with its object, such as "does not exist".
pub(crate) fn find(program: &Path) -> Result<PathBuf, String> {
    let is_path = is_path(program);
    if is_path {
        let metadata = program.metadata().map_err(|error| match error.kind() {
            ErrorKind::NotFound => "does not exist".to_owned(),
            _ => format!("cannot be opened: {error}"),
        })?;
        if !metadata.is_file() {
            return Err("is not a file".into());
        }
    }
    which::which(program).map_err(|_| if is_path { "is not executable" } else { "is not in PATH" }.to_owned())
}

/// Runs a program with the option that prints its version, without standard input. Kills a program that does not end.
///
/// # Errors
/// Why the system does not start it: a verb with its object.
pub(crate) fn version(program: &Path, option: &str) -> Result<Output, String> {
    let mut command = Command::new(program);
    command.arg(option).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut program = children::spawn(&mut command).map_err(|error| format!("cannot be started: {error}"))?;
    let start = Instant::now();
    while matches!(program.child.try_wait(), Ok(None)) {
        if start.elapsed() > VERSION_TIMEOUT {
            program.kill();
        }
        sleep(Duration::from_millis(5));
    }
    program.output().map_err(|error| format!("cannot be started: {error}"))
}
