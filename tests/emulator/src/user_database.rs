//! Gives programs another home directory of this user.
//!
//! ssh takes the home directory from the user database and ignores `HOME` (ssh(1), FILES; misc.c `tilde_expand`). Programs on
//! Linux read the user database of a playground through nss_wrapper (<https://cwrap.org/nss_wrapper.html>).

use std::ffi::{OsStr, OsString};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

/// For `LD_PRELOAD`.
const NSS_WRAPPER: &str = "libnss_wrapper.so";

/// macOS starts its ssh without libraries of others. This script gives ssh the files of `HOME`, and their names.
const SSH_OF_HOME: &str = r#"#!/bin/sh
file=$HOME/.ssh/config
[ -e "$file" ] || file=none
for word do
    shift
    case $word in
    -F) file= ;;
    ControlPath=~) word=ControlPath=$HOME ;;
    esac
    set -- "$@" "$word"
done
[ -z "$file" ] || set -- -F "$file" "$@"
exec '{ssh}' "$@"
"#;

/// Writes a user database into `directory`: the system's, with `home` as the home directory of this user and `logins` as
/// more names of this user. Returns the variables with which a program reads the database.
///
/// # Errors
/// The system has no user database for getent(1).
pub fn write(directory: &Path, home: &Path, logins: &[&str]) -> Result<Vec<(String, String)>> {
    let own = printed(Command::new("getent").args(["passwd", &own_id()?]))?;
    let fields: Vec<&str> = own.split(':').collect();
    let [name, password, uid, gid, gecos, _, shell] = fields[..] else {
        bail!("not a line of passwd: {own}")
    };
    let home = home.to_str().context("the temporary directory's path is not UTF-8")?;
    let line = |name: &str| [name, password, uid, gid, gecos, home, shell].join(":") + "\n";
    let names = [name].into_iter().chain(logins.iter().copied());
    let others = fs::read_to_string("/etc/passwd")?;
    let others = others.lines().filter(|entry| !entry.starts_with(&format!("{name}:")));
    let passwd = names.map(line).chain(others.map(|entry| format!("{entry}\n"))).collect::<String>();
    fs::create_dir_all(directory)?;
    fs::write(directory.join("passwd"), passwd)?;
    fs::copy("/etc/group", directory.join("group"))?;
    Ok(variables(directory))
}

/// The variables with which a program reads the database in `directory`.
pub fn variables(directory: &Path) -> Vec<(String, String)> {
    let file = |name: &str| directory.join(name).display().to_string();
    let variables = [
        ("LD_PRELOAD", NSS_WRAPPER.into()),
        ("NSS_WRAPPER_PASSWD", file("passwd")),
        ("NSS_WRAPPER_GROUP", file("group")),
    ];
    variables.map(|(name, value)| (name.to_owned(), value)).to_vec()
}

/// Checks that the user database gives the programs that `command` starts this home directory.
///
/// # Errors
/// nss_wrapper is not installed.
pub fn ensure_isolated(command: &mut Command, home: &Path) -> Result<()> {
    let entry = printed(command.args(["getent", "passwd", &own_id()?]))?;
    ensure!(
        entry.split(':').nth(5) == home.to_str(),
        "your home directory cannot be hidden from ssh: install nss_wrapper (apt-get install libnss-wrapper)"
    );
    Ok(())
}

/// Writes a program `ssh` into `directory` that takes the home directory from `HOME`.
///
/// # Errors
/// ssh is not in the search path.
pub fn write_ssh(directory: &Path, path: &OsStr) -> Result<OsString> {
    let ssh = std::env::split_paths(path).map(|folder| folder.join("ssh")).find(|ssh| ssh.exists());
    let ssh = ssh.context("ssh is not installed")?.display().to_string();
    let script = directory.join("ssh");
    fs::create_dir_all(directory)?;
    fs::write(&script, SSH_OF_HOME.replace("{ssh}", &ssh))?;
    fs::set_permissions(&script, Permissions::from_mode(0o700))?;
    Ok(std::env::join_paths([directory.to_owned()].into_iter().chain(std::env::split_paths(path)))?)
}

fn own_id() -> Result<String> {
    printed(Command::new("id").arg("-u"))
}

fn printed(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("{command:?} cannot be started"))?;
    ensure!(output.status.success(), "{command:?} failed: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}
