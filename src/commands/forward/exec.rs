//! `--exec`: a command that uses the forwarded ports.

use std::io::{IsTerminal as _, stdin};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::ExitStatus;

use anyhow::Context as _;
use tokio::process::{Child, Command};

use crate::commands::forward::Forward;
use crate::diagnosis::Result;
use crate::system::signals::{INTERRUPT, Signals};

/// The beginning of the environment variables of the command.
const VARIABLE: &str = "ARCSSH_FORWARD_";

/// A running command.
pub(super) struct Exec {
    child: Child,
    place: Place,
}

/// The process group of a command.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// That of arcssh: the command can read from the terminal, whose Ctrl-C reaches both.
    Terminal,
    /// Its own, so that signals reach the programs of the shell too.
    Own,
}

impl Exec {
    /// Starts a command in the shell, as ssh starts a `ProxyCommand`: the user writes both. Only addresses, ports and paths
    /// of the command line replace its placeholders, and no text of Azure.
    ///
    /// # Errors
    /// The system does not start the shell.
    pub(super) fn start(command: &str, forwards: &[Forward]) -> Result<Self> {
        let values = values(forwards);
        let mut shell = shell(&expand(command, &values));
        for (name, value) in &values {
            shell.env(format!("{VARIABLE}{}", name.to_uppercase()), value);
        }
        let place = if stdin().is_terminal() { Place::Terminal } else { Place::Own };
        #[cfg(unix)]
        if place == Place::Own {
            shell.process_group(0);
        }
        let child = shell.kill_on_drop(true).spawn().context("cannot start the shell of --exec")?;
        Ok(Self { child, place })
    }

    /// Waits for the end of the command, and returns its status. Passes on signals, except Ctrl-C of the terminal.
    pub(super) async fn status(&mut self, signals: &mut Signals) -> Result<u8> {
        loop {
            tokio::select! {
                biased;
                status = self.child.wait() => {
                    return Ok(number_of(status.context("cannot wait for the command of --exec")?));
                }
                number = signals.next() => if number != INTERRUPT || self.place == Place::Own {
                    self.signal(number);
                }
            }
        }
    }

    #[cfg(unix)]
    fn signal(&self, number: u8) {
        use rustix::process::{Pid, Signal, kill_process, kill_process_group};
        let process = self.child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        if let Some((process, signal)) = process.zip(Signal::from_named_raw(number.into())) {
            let _ = match self.place {
                Place::Terminal => kill_process(process, signal),
                Place::Own => kill_process_group(process, signal),
            };
        }
    }

    /// Windows has no other signal than Ctrl-C.
    #[cfg(not(unix))]
    fn signal(&self, _: u8) {}
}

#[cfg(unix)]
fn shell(command: &str) -> Command {
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", command]);
    shell
}

#[cfg(not(unix))]
fn shell(command: &str) -> Command {
    let mut shell = Command::new("cmd");
    shell.raw_arg(format!("/D /S /C \"{command}\""));
    shell
}

/// Returns the status as a shell reports it.
fn number_of(status: ExitStatus) -> u8 {
    #[cfg(unix)]
    if let Some(signal) = std::os::unix::process::ExitStatusExt::signal(&status) {
        return u8::try_from(128 + signal).unwrap_or(u8::MAX);
    }
    status.code().map_or(1, |code| u8::try_from(code).unwrap_or(1))
}

/// Returns the name and the value of each placeholder: those of the first machine also without a number.
fn values(forwards: &[Forward]) -> Vec<(String, String)> {
    let mut values = Vec::new();
    for (number, Forward { listener, .. }) in (1..).zip(forwards) {
        let suffixes = if number == 1 { vec![String::new(), "1".into()] } else { vec![number.to_string()] };
        let address = listener.addresses().first().copied();
        let socket = listener.socket().map(|path| path.display().to_string());
        for suffix in suffixes {
            values.extend(
                address.map(|address| (format!("host{suffix}"), reachable(address.ip()).to_string())),
            );
            values.extend(address.map(|address| (format!("port{suffix}"), address.port().to_string())));
            values.extend(socket.clone().map(|path| (format!("socket{suffix}"), path)));
        }
    }
    values
}

/// Returns an address to connect to. A listener on all addresses has none of its own.
fn reachable(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
        address => address,
    }
}

/// Replaces each placeholder such as `{port}`. `${port}` is a variable of the shell.
fn expand(command: &str, values: &[(String, String)]) -> String {
    let mut expanded = String::new();
    let mut rest = command;
    while let Some(at) = rest.find('{') {
        let (before, from) = rest.split_at(at);
        expanded += before;
        let word = from[1..].split_once('}').map(|(word, _)| word);
        let value = values.iter().find(|(name, _)| word == Some(name) && !before.ends_with('$'));
        let (text, length) = value.map_or(("{", 1), |(name, value)| (value.as_str(), name.len() + 2));
        expanded += text;
        rest = &from[length..];
    }
    expanded + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_known_placeholders_are_replaced() {
        let values = [("port", "2201"), ("host", "127.0.0.1"), ("port2", "2202")];
        let values = values.map(|(name, value)| (name.to_owned(), value.to_owned()));
        for (command, expected) in [
            ("psftp -P {port} {host}", "psftp -P 2201 127.0.0.1"),
            ("{port}{port2}{port3}", "22012202{port3}"),
            ("echo ${port} a{b,c} {", "echo ${port} a{b,c} {"),
            ("{{port}}", "{2201}"),
            ("ä{host}ö", "ä127.0.0.1ö"),
            ("", ""),
        ] {
            assert_eq!(expand(command, &values), expected);
        }
    }
}
