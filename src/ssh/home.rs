//! The home directory in which ssh reads this user's files. ssh takes it from the user database and ignores `HOME` (ssh.c,
//! `getpwuid`; misc.c, `tilde_expand`). OpenSSH for Windows takes the user's profile directory
//! (contrib/win32/win32compat/pwd.c, `get_passwd`).
//!
//! arcssh asks ssh. A static arcssh could not read a user database other than `/etc/passwd`, such as LDAP.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::Context as _;

use crate::ssh::SshError;
use crate::ssh::effective_config::{no_user, parse, ssh};

/// Returns ssh's home directory; without a usable ssh, or if its answer is not a path of this system, the home directory of the
/// environment. The ssh of Git for Windows answers with a path such as `/c/Users/me`.
///
/// # Errors
/// [`SshError::NoUser`]; this user has no home directory.
pub(crate) fn directory() -> Result<PathBuf, SshError> {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    if let Some(directory) = DIRECTORY.get() {
        return Ok(directory.clone());
    }
    let directory = match of_ssh()? {
        Some(directory) => directory,
        None => std::env::home_dir().context("this user has no home directory")?,
    };
    Ok(DIRECTORY.get_or_init(|| directory).clone())
}

/// Replaces `~` at the start of a path as ssh does.
pub(crate) fn expanded(path: &Path) -> PathBuf {
    match (path.strip_prefix("~"), path.starts_with("~").then(directory)) {
        (Ok(rest), Some(Ok(home))) => home.join(rest),
        _ => path.to_owned(),
    }
}

/// `ssh -G` prints `ControlPath` with `~` expanded (ssh.c). `-F none` leaves out every configuration file.
fn of_ssh() -> Result<Option<PathBuf>, SshError> {
    let output = match ssh(&["-G", "-F", "none", "-o", "ControlPath=~"], "localhost", None) {
        Ok(Some(output)) => output,
        Ok(None) | Err(SshError::Client { .. }) => return Ok(None),
        Err(error) => return Err(error),
    };
    no_user(&output.stderr)?;
    let printed = parse(&output.stdout).remove("controlpath");
    let printed =
        printed.filter(|path| output.status.success() && !path.contains(char::REPLACEMENT_CHARACTER));
    // Removes the slash at the end.
    let directory: Option<PathBuf> = printed.map(|path| Path::new(&path).components().collect());
    Ok(directory.filter(|path| path.is_absolute()))
}
