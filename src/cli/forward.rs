//! The options of `arcssh forward`.

use std::net::IpAddr;
use std::str::FromStr;

use clap::Args;

use crate::cli::destination::DestinationArgs;
use crate::cli::{OutputOrJsonArgs, complete};
use crate::net::listener::Local;

/// A machine, and where its clients connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Forward {
    pub(crate) machine: String,
    pub(crate) local: Local,
}

#[derive(Debug, Args)]
#[command(
    next_help_heading = "Local side",
    mut_arg("output", |arg| arg.help("Output format; json: an object for each event [default: table]"))
)]
pub(crate) struct ForwardArgs {
    /// Host entry, name, GROUP/NAME or resource ID of a machine, and the local port or socket for it
    ///
    /// LOCAL is a port, or the path of a Unix socket, which contains a slash [default: a free port]
    #[arg(value_name = "MACHINE[=LOCAL]", display_order = 0, help_heading = "Machines", add = complete::machine())]
    pub(crate) forwards: Vec<Forward>,
    /// Address to listen on [default: 127.0.0.1 and ::1]
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) bind: Option<IpAddr>,
    /// Run a shell command when arcssh listens, and exit with its status
    ///
    /// {host} and {port} become the local address and port of the first machine, {host2} and {port2} those of the second
    /// one, and {socket} the path of a socket. Environment variables have the same values: ARCSSH_FORWARD_HOST,
    /// ARCSSH_FORWARD_PORT, ARCSSH_FORWARD_PORT2 and so on
    #[arg(long, value_name = "COMMAND", conflicts_with_all = ["json", "output"])]
    pub(crate) exec: Option<String>,
    #[command(flatten)]
    pub(crate) output: OutputOrJsonArgs,
    #[command(flatten)]
    pub(crate) destination: DestinationArgs,
}

impl ForwardArgs {
    /// Returns the error of a local port or socket that two machines have.
    pub(super) fn conflict(&self) -> Option<String> {
        let locals = self.forwards.iter().map(|forward| &forward.local);
        let fixed: Vec<&Local> = locals.filter(|local| **local != Local::Port(0)).collect();
        let twice = (0..fixed.len()).find_map(|at| fixed[..at].iter().find(|local| **local == fixed[at]))?;
        let local = match twice {
            Local::Port(port) => format!("port {port}"),
            Local::Socket(path) => format!("socket {}", path.display()),
        };
        Some(format!("two machines have the local {local}; each needs its own"))
    }
}

impl FromStr for Forward {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (machine, local) = match text.split_once('=') {
            Some((machine, local)) => (machine, parse_local(machine, local)?),
            None => (text, Local::Port(0)),
        };
        if machine.is_empty() {
            return Err("the name of the machine is missing".into());
        }
        match other_form(machine, &local) {
            Some(error) => Err(error),
            None => Ok(Self { machine: machine.to_owned(), local }),
        }
    }
}

/// Explains a machine in the form that ssh or scp expects. The name of an Arc machine has neither a colon nor an at sign (Azure
/// naming rules, Microsoft.HybridCompute).
fn other_form(machine: &str, local: &Local) -> Option<String> {
    if let Some((_, machine)) = machine.rsplit_once('@') {
        return Some(format!(
            "the client logs in, so give the user to the client, and arcssh only the machine: {machine}"
        ));
    }
    let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if machine.split(':').all(is_number) {
        let port = machine.split(':').next().unwrap_or_default();
        return Some(format!(
            "this is not a machine: to listen on a port, append it to the machine, such as web01={port}"
        ));
    }
    // As for `ssh -L`: LOCAL:MACHINE:PORT.
    if let Some((port, machine)) = machine.split_once(':').filter(|(port, _)| is_port(port)) {
        let (machine, on_machine) = machine.split_once(':').unwrap_or((machine, ""));
        let option = if on_machine.is_empty() { String::new() } else { format!(" --port {on_machine}") };
        return Some(format!("append the local port with an equals sign: {machine}={port}{option}"));
    }
    let (machine, ports) = machine.split_once(':')?;
    let port = ports.split(':').next().unwrap_or_default();
    Some(match local {
        Local::Port(0) => format!("append the local port with an equals sign: {machine}={port}"),
        _ => format!("the port on the machine has an option of its own: {machine} --port {port}"),
    })
}

/// Parses the text after the equals sign.
fn parse_local(machine: &str, local: &str) -> Result<Local, String> {
    if local.contains(['/', std::path::MAIN_SEPARATOR]) {
        return Ok(Local::Socket(local.into()));
    }
    if let Ok(port) = local.parse() {
        return Ok(Local::Port(port));
    }
    Err(match local.rsplit_once(':') {
        Some((address, port)) if port.parse::<u16>().is_ok() && !is_port(address) => {
            let address = address.trim_matches(['[', ']']);
            format!("the address has an option of its own: {machine}={port} --bind {address}")
        }
        Some((local, port)) if is_port(local) && is_port(port) => {
            format!("the port on the machine has an option of its own: {machine}={local} --port {port}")
        }
        _ => "after the equals sign, arcssh expects a port from 0 to 65535, or the path of a socket with a slash".into(),
    })
}

fn is_port(text: &str) -> bool {
    text.parse::<u16>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_may_have_a_port_or_a_socket() {
        let parse = |text: &str| text.parse::<Forward>();
        let forward = |machine: &str, local| Ok(Forward { machine: machine.into(), local });
        let id = "/subscriptions/s/resourceGroups/g/providers/Microsoft.HybridCompute/machines/web01";
        assert_eq!(parse("web01"), forward("web01", Local::Port(0)));
        assert_eq!(parse("web01=2201"), forward("web01", Local::Port(2201)));
        assert_eq!(parse("rg/web01=0"), forward("rg/web01", Local::Port(0)));
        assert_eq!(parse("rg/2201=1"), forward("rg/2201", Local::Port(1)));
        assert_eq!(parse(&format!("{id}=1")), forward(id, Local::Port(1)));
        assert_eq!(parse("web01=./web01"), forward("web01", Local::Socket("./web01".into())));
        assert_eq!(parse("web01=/run/a=b"), forward("web01", Local::Socket("/run/a=b".into())));
    }

    #[test]
    fn each_wrong_form_is_explained() {
        for (text, part) in [
            ("2201", "such as web01=2201"),
            ("2201:22", "such as web01=2201"),
            ("=2201", "name of the machine is missing"),
            ("", "name of the machine is missing"),
            ("web01=", "a port from 0 to 65535"),
            ("web01=65536", "a port from 0 to 65535"),
            ("web01=-1", "a port from 0 to 65535"),
            ("web01=ssh", "a port from 0 to 65535"),
            ("web01=2201:22", "web01=2201 --port 22"),
            ("web01:2201", "with an equals sign: web01=2201"),
            ("web01:2201:22", "with an equals sign: web01=2201"),
            ("2201:web01:22", "with an equals sign: web01=2201 --port 22"),
            ("2201:web01", "with an equals sign: web01=2201"),
            ("web01:22=2201", "of its own: web01 --port 22"),
            ("ada@web01", "only the machine: web01"),
            ("ada@contoso.com@rg/web01=1", "only the machine: rg/web01"),
            ("web01=0.0.0.0:2201", "web01=2201 --bind 0.0.0.0"),
            ("web01=[::1]:2201", "web01=2201 --bind ::1"),
        ] {
            let error = text.parse::<Forward>().unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
