//! Facts of this computer: OpenSSH's programs, the ssh configuration, and known host keys. Changes nothing and asks the
//! user nothing.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use tokio::process;

use crate::cli::entry_files::{self, Remark};
use crate::cli::proxy_command::{HostEntry, find_entry};
use crate::diagnosis;
use crate::ssh::verification::{self, Verified};
use crate::ssh::{SshError, client, effective_config, fault, managed_block};

/// Returns the version of ssh, which is empty if ssh shows none, and the path of an ssh that the user selected; `None` if ssh
/// is not installed.
///
/// # Errors
/// ssh does not work.
pub(super) fn ssh() -> diagnosis::Result<Option<String>> {
    let ssh = client::ssh()?;
    let version = program(&ssh, "ssh", &["-V"], &[0])?;
    let path = if client::selected().is_some() { format!(", {}", ssh.display()) } else { String::new() };
    Ok(version.map(|version| version + &path))
}

/// Returns any text if ssh-keygen is installed. It has no option for its version: arcssh lets it read an empty key, for which
/// it exits with 255 (OpenSSH ssh-keygen.c, `do_fingerprint`).
///
/// # Errors
/// ssh-keygen does not work.
pub(super) fn ssh_keygen() -> diagnosis::Result<Option<String>> {
    Ok(program(&client::ssh_keygen()?, "ssh-keygen", &["-l", "-f", "-"], &[0, 1, 255])?)
}

/// Runs a program and returns the start of its first line. A program that the loader cannot start exits with another status.
fn program(program: &Path, name: &str, arguments: &[&str], statuses: &[i32]) -> Result<Option<String>> {
    let output = match Command::new(program).args(arguments).stdin(Stdio::null()).output() {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        output => output.with_context(|| format!("cannot run {name}"))?,
    };
    let text = String::from_utf8_lossy(&output.stderr);
    let line = text.lines().next().unwrap_or_default();
    if !output.status.code().is_some_and(|status| statuses.contains(&status)) {
        bail!("{name} does not work: {line} ({})", output.status);
    }
    Ok(Some(line.split(',').next().unwrap_or_default().to_owned()))
}

/// The managed block of the ssh configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Block {
    /// There is none, except in this file that the configuration includes.
    Missing(Option<PathBuf>),
    /// There is one, but no ssh to verify it.
    Unverified,
    /// ssh uses it.
    Verified(Verified),
    /// ssh uses it, with this remark.
    Remarked(Remark),
}

/// Returns the host entry of a machine; `None` if the configuration cannot be read, which another check reports.
pub(super) fn entry(file: &Path, machine: &str) -> Option<HostEntry> {
    find_entry(machine, &managed_block::read(file).ok()?)
}

/// Verifies with ssh that it uses one host entry of the managed block, or all.
///
/// # Errors
/// ssh rejects the configuration, or another line overrides a host entry.
pub(super) fn configuration(file: &Path, entry: Option<&HostEntry>) -> diagnosis::Result<Block> {
    let text = managed_block::read_valid(file)?;
    let Some(range) = managed_block::find(&text)? else {
        return Ok(Block::Missing(verification::included_block(file)));
    };
    let only = entry.map(|entry| entry.alias.as_str());
    let verified = match verification::verify_file(&text[range], file, only, &|_, _| {}) {
        Ok(Some(verified)) => verified,
        // The check of ssh reports a client that cannot be used.
        Ok(None) | Err(SshError::Client { .. }) => return Ok(Block::Unverified),
        Err(error) => return Err(error.into()),
    };
    let remark = entry_files::check(&text, only)?.into_iter().next();
    Ok(remark.filter(|_| verified.not_included.is_none()).map_or(Block::Verified(verified), Block::Remarked))
}

/// A machine's host key, compared with known_hosts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum HostKey {
    /// The key is known.
    Known,
    /// No key of the machine is known.
    New(UnknownKey),
    /// Another key is known, in this file.
    Changed(String),
}

/// What ssh does with a host key that it does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum UnknownKey {
    /// It asks the user.
    Asks,
    /// It adds the key to known_hosts.
    Adds,
    /// It accepts any key.
    Accepts,
    /// It closes the connection.
    Rejects,
    /// ssh does not show its configuration.
    Unread,
}

/// Returns what ssh does with an unknown host key of a host entry (ssh_config(5), `StrictHostKeyChecking`, `BatchMode`).
pub(super) fn unknown_key(alias: &str, file: Option<&Path>) -> diagnosis::Result<UnknownKey> {
    let values = effective_config::values(alias, file)?.unwrap_or_default();
    if values.is_empty() {
        return Ok(UnknownKey::Unread);
    }
    let value = |keyword| values.get(keyword).map_or("", String::as_str);
    let is_stored = !["/dev/null", "none"].contains(&value("userknownhostsfile"));
    // `ssh -G` prints yes and no as true and false.
    Ok(match (value("stricthostkeychecking"), value("batchmode")) {
        ("accept-new", _) if is_stored => UnknownKey::Adds,
        ("accept-new" | "false" | "no" | "off", _) => UnknownKey::Accepts,
        ("true" | "yes", _) | (_, "true" | "yes") => UnknownKey::Rejects,
        _ => UnknownKey::Asks,
    })
}

/// Connects with ssh up to the host key. With `StrictHostKeyChecking=yes` and `UpdateHostKeys=no`, ssh never writes to
/// known_hosts; with `PreferredAuthentications=none`, it offers no key and asks for no password. A server that then rejects
/// the login has shown the known host key. ssh-keyscan does not support ProxyCommand.
///
/// The user's configuration applies, except what would hide a fault or start something. `-W` ends a session of a server that
/// accepts the login: it replaces RemoteCommand and SessionType, which older versions of ssh do not know as options, and all
/// forwardings (ssh(1)). Port 1 (TCPMUX, RFC 1078) is not in use.
pub(super) async fn host_key(entry: &HostEntry, file: Option<&Path>) -> Result<HostKey> {
    let mut ssh = process::Command::new(client::ssh()?);
    if let Some(file) = file {
        ssh.arg("-F").arg(file);
    }
    for option in [
        "BatchMode=yes",
        "StrictHostKeyChecking=yes",
        "UpdateHostKeys=no",
        "PreferredAuthentications=none",
        "PermitLocalCommand=no",
        "Tunnel=no",
        "ControlMaster=no",
        "ControlPath=none",
        "LogLevel=INFO",
    ] {
        ssh.args(["-o", option]);
    }
    ssh.args(["-T", "-W", "127.0.0.1:1", "--", &entry.alias]).stdin(Stdio::null()).kill_on_drop(true);
    let output = ssh.output().await.context("cannot run ssh")?;
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    parse_host_key(&stderr).with_context(|| fault(&stderr).to_owned())
}

/// Parses the messages of OpenSSH (sshconnect.c, `check_host_key`; sshconnect2.c).
fn parse_host_key(stderr: &str) -> Option<HostKey> {
    if stderr.contains("REMOTE HOST IDENTIFICATION HAS CHANGED") {
        let file = stderr.lines().find_map(|line| line.strip_prefix("Offending ")?.split_once(" key in "));
        let file =
            file.map_or("known_hosts", |(_, place)| place.rsplit_once(':').map_or(place, |(file, _)| file));
        return Some(HostKey::Changed(file.trim().to_owned()));
    }
    if stderr.contains("Host key verification failed") {
        return Some(HostKey::New(UnknownKey::Asks));
    }
    let is_known = stderr.contains("Permission denied") || stderr.contains("stdio forwarding failed");
    is_known.then_some(HostKey::Known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_about_a_host_key_are_parsed() {
        let changed = "@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\nOffending ED25519 key in /h/.ssh/known_hosts:7\nHost key verification failed.";
        assert_eq!(parse_host_key(changed), Some(HostKey::Changed("/h/.ssh/known_hosts".into())));
        let new = "No ED25519 host key is known for web01 and you have requested strict checking.\nHost key verification failed.";
        assert_eq!(parse_host_key(new), Some(HostKey::New(UnknownKey::Asks)));
        assert_eq!(parse_host_key("me@web01: Permission denied (publickey)."), Some(HostKey::Known));
        assert_eq!(parse_host_key("Connection closed by UNKNOWN port 65535"), None);
        let logged_in = "channel 0: open failed: connect failed: Connection refused\nstdio forwarding failed";
        assert_eq!(parse_host_key(logged_in), Some(HostKey::Known));
    }
}
