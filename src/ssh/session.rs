//! A session of ssh in the place of arcssh.

use std::ffi::OsString;
use std::io::{self, ErrorKind};
use std::process::Command;

use anyhow::Context as _;

use crate::ssh::{SshError, client};

/// Runs ssh with the standard streams of arcssh, and returns its exit status. On Unix, ssh replaces the process of arcssh, so
/// that it gets its signals, and remains the job of the shell.
///
/// # Errors
/// [`SshError::NoClient`]; the system does not start ssh.
pub(crate) fn run(arguments: &[OsString]) -> Result<u8, SshError> {
    match replace(Command::new(client::ssh()?).args(arguments)) {
        Err(error) if error.kind() == ErrorKind::NotFound => Err(SshError::NoClient),
        result => Ok(result.context("cannot run ssh")?),
    }
}

#[cfg(unix)]
fn replace(ssh: &mut Command) -> io::Result<u8> {
    Err(std::os::unix::process::CommandExt::exec(ssh))
}

/// Waits for ssh. Windows sends Ctrl-C to both processes, and arcssh does not end before ssh.
#[cfg(not(unix))]
fn replace(ssh: &mut Command) -> io::Result<u8> {
    const FAILED: u8 = 255;
    let code = ssh.status()?.code();
    Ok(code.and_then(|code| code.try_into().ok()).unwrap_or(FAILED))
}
