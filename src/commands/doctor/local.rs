//! What is on this machine: OpenSSH's programs, the ssh configuration, and whose host key ssh knows. Nothing here is
//! changed, and nobody is asked for anything.

use std::io::ErrorKind;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use tokio::process;

use crate::cli::proxy_command::{HostEntry as Section, find_entry};
use crate::ssh::{effective_config, managed_block};

/// What a program of OpenSSH says of itself; none where it is not installed. `ssh-keygen` has no option for it: that it
/// starts is all there is to know.
pub(super) fn program(name: &str, arguments: &[&str]) -> Result<Option<String>> {
    match Command::new(name).args(arguments).stdin(Stdio::null()).output() {
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            Ok(Some(text.lines().next().unwrap_or_default().split(',').next().unwrap_or_default().to_owned()))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot run {name}")),
    }
}

/// What the ssh configuration holds of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Block {
    /// There is none.
    Missing,
    /// There is one, and no ssh to judge it.
    Unjudged,
    /// ssh uses what it says of so many hosts.
    Used(usize),
}

/// The section of a machine; none where the configuration cannot be read, of which another look tells.
pub(super) fn section(file: &Path, machine: &str) -> Option<Section> {
    find_entry(machine, &managed_block::read(file).ok()?)
}

/// Reads the configuration, and asks ssh whether it uses what `arcssh config` wrote: of one section, or of all.
///
/// # Errors
/// ssh does not accept it, or does not use it.
pub(super) fn configuration(file: &Path, section: Option<&Section>) -> Result<Block> {
    let text = managed_block::read(file)?;
    let Some(range) = managed_block::find(&text)? else { return Ok(Block::Missing) };
    let only = section.map(|section| section.alias.as_str());
    let hosts = effective_config::verify(&text[range], file, file, only)?;
    Ok(hosts.map_or(Block::Unjudged, Block::Used))
}

/// What ssh makes of a machine's host key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum HostKey {
    /// It is the one that it knows.
    Known,
    /// It knows none.
    New,
    /// It knows another, in this file.
    Changed(String),
}

/// Connects as ssh would, up to the host key and no further: with `StrictHostKeyChecking=yes` and `UpdateHostKeys=no` ssh
/// never writes to known_hosts, with `PreferredAuthentications=none` no key is offered and nobody asked. A server that
/// then refuses the login has shown the host key that ssh knows. ssh-keyscan would need no login either, but knows no
/// ProxyCommand.
pub(super) async fn host_key(section: &Section, file: Option<&Path>) -> Result<HostKey> {
    let mut ssh = process::Command::new("ssh");
    if let Some(file) = file {
        ssh.arg("-F").arg(file);
    }
    for option in [
        "BatchMode=yes",
        "StrictHostKeyChecking=yes",
        "UpdateHostKeys=no",
        "PreferredAuthentications=none",
        "ControlMaster=no",
        "ControlPath=none",
        "LogLevel=INFO",
    ] {
        ssh.args(["-o", option]);
    }
    ssh.args(["-T", "--", &section.alias, "true"]).stdin(Stdio::null()).kill_on_drop(true);
    let output = ssh.output().await.context("cannot run ssh")?;
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    judged(&told, output.status.success())
        .with_context(|| told.lines().last().unwrap_or_default().trim().to_owned())
}

/// What OpenSSH's words mean (sshconnect.c, `check_host_key`; sshconnect2.c).
fn judged(told: &str, logged_in: bool) -> Option<HostKey> {
    if told.contains("REMOTE HOST IDENTIFICATION HAS CHANGED") {
        let file = told.lines().find_map(|line| line.strip_prefix("Offending ")?.split_once(" key in "));
        let file =
            file.map_or("known_hosts", |(_, place)| place.rsplit_once(':').map_or(place, |(file, _)| file));
        return Some(HostKey::Changed(file.trim().to_owned()));
    }
    if told.contains("Host key verification failed") {
        return Some(HostKey::New);
    }
    (logged_in || told.contains("Permission denied")).then_some(HostKey::Known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_ssh_about_a_host_key_are_understood() {
        let changed = "@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\nOffending ED25519 key in /h/.ssh/known_hosts:7\nHost key verification failed.";
        assert_eq!(judged(changed, false), Some(HostKey::Changed("/h/.ssh/known_hosts".into())));
        let new = "No ED25519 host key is known for web01 and you have requested strict checking.\nHost key verification failed.";
        assert_eq!(judged(new, false), Some(HostKey::New));
        assert_eq!(judged("me@web01: Permission denied (publickey).", false), Some(HostKey::Known));
        assert_eq!(judged("Connection closed by UNKNOWN port 65535", false), None);
        assert_eq!(judged("", true), Some(HostKey::Known));
    }
}
