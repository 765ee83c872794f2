//! The OpenSSH client that arcssh runs: ssh and ssh-keygen of `PATH`, or those that the user selects.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::ssh::SshError;
use crate::system::programs;
use crate::text::cut;

/// The most characters of a program's output in a message.
const MAX_QUOTE: usize = 60;

static SELECTED: OnceLock<PathBuf> = OnceLock::new();

/// Selects ssh for this process: a path, a name in `PATH`, or the directory of ssh and ssh-keygen. [`ssh`] checks it.
pub(crate) fn select(program: &Path) {
    if !program.as_os_str().is_empty() {
        let _ = SELECTED.set(program.to_owned());
    }
}

/// Returns the value that the user selected, if any.
pub(crate) fn selected() -> Option<&'static Path> {
    SELECTED.get().map(PathBuf::as_path)
}

/// Returns the program to run as ssh. Without a selection, it may be missing.
///
/// # Errors
/// [`SshError::Client`].
pub(crate) fn ssh() -> Result<PathBuf, SshError> {
    static CHECKED: OnceLock<PathBuf> = OnceLock::new();
    let Some(selected) = SELECTED.get() else { return Ok("ssh".into()) };
    if let Some(program) = CHECKED.get() {
        return Ok(program.clone());
    }
    let program = find(selected)?;
    is_openssh(&program).map_err(|cause| SshError::Client { program: program.clone(), cause })?;
    Ok(CHECKED.get_or_init(|| program).clone())
}

/// Returns the program to run as ssh-keygen: that of the directory of a selected ssh, if there is one.
///
/// # Errors
/// [`SshError::Client`].
pub(crate) fn ssh_keygen() -> Result<PathBuf, SshError> {
    let Some(selected) = SELECTED.get() else { return Ok("ssh-keygen".into()) };
    let keygen = find(selected)?.with_file_name(executable("ssh-keygen"));
    Ok(if keygen.is_file() { keygen } else { "ssh-keygen".into() })
}

/// Returns the absolute path of the selected program.
fn find(selected: &Path) -> Result<PathBuf, SshError> {
    let is_directory = programs::is_path(selected) && selected.is_dir();
    let program = if is_directory { selected.join(executable("ssh")) } else { selected.to_owned() };
    let found = programs::find(&program)
        .and_then(|found| std::path::absolute(found).map_err(|error| format!("cannot be opened: {error}")));
    found.map_err(|cause| SshError::Client { program, cause })
}

fn executable(name: &str) -> String {
    format!("{name}{}", std::env::consts::EXE_SUFFIX)
}

/// Checks that a program is OpenSSH's client, by its version (version.h, `SSH_VERSION`), which it prints to standard error.
fn is_openssh(program: &Path) -> Result<(), String> {
    let output = programs::version(program, "-V")?;
    let text = String::from_utf8_lossy(&output.stderr);
    // A script that starts ssh may print other lines.
    if text.lines().any(|line| line.starts_with("OpenSSH_")) {
        return Ok(());
    }
    let line = text.lines().map(str::trim).find(|line| !line.is_empty());
    Err(match line {
        Some(line) => format!("is not OpenSSH: for -V, it prints {:?}", cut(line, MAX_QUOTE)),
        None => format!("is not OpenSSH: for -V, it prints no version ({})", output.status),
    })
}

#[cfg(all(test, unix))]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn problem(path: &Path) -> String {
        find(path)
            .and_then(|program| is_openssh(&program).map_err(|cause| SshError::Client { program, cause }))
            .err()
            .map(|error| error.to_string())
            .unwrap_or_default()
    }

    #[test]
    fn the_client_must_be_an_executable_file_that_is_openssh() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("a b");
        fs::create_dir(&folder).unwrap();
        let path = folder.join("ssh");
        let name = path.display();
        assert_eq!(problem(&path), format!("the ssh client {name} does not exist"));
        assert_eq!(problem(&folder), format!("the ssh client {name} does not exist"));
        fs::write(&path, "#!/bin/sh\necho Dropbear v2022.83 >&2\n").unwrap();
        assert_eq!(problem(&path), format!("the ssh client {name} is not executable"));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        let other = format!("the ssh client {name} is not OpenSSH: for -V, it prints \"Dropbear v2022.83\"");
        assert_eq!(problem(&path), other);
        fs::write(&path, "#!/bin/sh\nexit 3\n").unwrap();
        assert!(problem(&path).contains("it prints no version (exit status: 3)"));
        assert_eq!(problem(Path::new("no-such-ssh")), "the ssh client no-such-ssh is not in PATH");
        assert_eq!(problem(Path::new("ssh")), "");
        fs::remove_file(&path).unwrap();
        symlink(which::which("ssh").unwrap(), &path).unwrap();
        assert_eq!(problem(&folder), "");
        assert_eq!(find(&folder).unwrap(), path);
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert_eq!(problem(&folder), format!("the ssh client {name} is not a file"));
    }
}
