//! The command line of `arcssh rdp`.

use std::net::Ipv6Addr;
use std::path::PathBuf;

use clap::Args;

use crate::cli::destination::DestinationArgs;
use crate::cli::ssh::SshLogin;
use crate::cli::{OutputArgs, complete};

pub(super) const EXAMPLES: &str = "\
Examples:
  arcssh rdp Administrator@win01           open the desktop of win01
  arcssh rdp win01 --file win01.rdp        write a file for another client
  arcssh rdp win01 --gateway-to 10.0.0.5   open a desktop in its network

The desktop is reached through sshd on the machine: arcssh runs ssh, which
forwards a local port, and then a client: mstsc on Windows, the app for .rdp
files on macOS, and FreeRDP or Remmina elsewhere. The tunnel ends with the
client, or with Ctrl-C.";

#[derive(Debug, Args)]
#[command(
    mut_arg("service", |arg| arg.hide(true)),
    mut_arg("wait", |arg| arg.hide_short_help(true)),
    mut_arg("port", |arg| arg.help("Port of sshd on the machine [default: ssh's, 22]").hide_short_help(true))
)]
pub(crate) struct RdpArgs {
    /// Name, GROUP/NAME, resource ID or ssh host name of a machine; USER@ before it names the user
    #[arg(value_name = "MACHINE", help_heading = "Machines", add = complete::user_and_machine())]
    pub(crate) machine: Option<String>,
    /// Program to start with an .rdp file
    #[arg(long, value_name = "PATH", conflicts_with = "file", help_heading = "Remote desktop")]
    pub(crate) client: Option<PathBuf>,
    /// Write an .rdp file for another client, and start none
    #[arg(long, value_name = "FILE", help_heading = "Remote desktop")]
    pub(crate) file: Option<PathBuf>,
    /// User of the desktop [default: the user who logs in to sshd]
    #[arg(long, value_name = "NAME", hide_short_help = true, help_heading = "Remote desktop")]
    pub(crate) rdp_user: Option<String>,
    /// Port of the desktop
    #[arg(long, value_name = "PORT", default_value_t = 3389, value_parser = clap::value_parser!(u16).range(1..), hide_short_help = true, help_heading = "Remote desktop")]
    pub(crate) rdp_port: u16,
    /// Host of the desktop, if it is another one in the machine's network
    #[arg(
        long,
        value_name = "HOST",
        default_value = "localhost",
        value_parser = host,
        hide_default_value = true,
        help_heading = "Remote desktop"
    )]
    pub(crate) gateway_to: String,
    /// Local port of the tunnel [default: a free one]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..), hide_short_help = true, help_heading = "Remote desktop")]
    pub(crate) local_port: Option<u16>,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
    #[command(flatten)]
    pub(crate) login: SshLogin,
    #[command(flatten)]
    pub(crate) destination: DestinationArgs,
}

/// Parses a host as a part of `ssh -L`, which would take a path for a socket, and a colon for the beginning of the port.
fn host(text: &str) -> Result<String, String> {
    let address = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    // An address can have a zone (RFC 4007, section 11).
    let is_address = address.split('%').next().is_some_and(|address| address.parse::<Ipv6Addr>().is_ok());
    let is_name = |text: &str| {
        let is_plain = |c: char| c.is_alphanumeric() || "._-".contains(c);
        !text.is_empty() && !text.starts_with('-') && text.chars().all(is_plain)
    };
    if is_name(text)
        || is_address && address.chars().all(|c| c.is_ascii_alphanumeric() || ":%._-".contains(c))
    {
        return Ok(text.to_owned());
    }
    Err(match text.rsplit_once(':') {
        Some((host, port)) if is_name(host) && port.parse::<u16>().is_ok() => {
            format!("the port has an option of its own: --gateway-to {host} --rdp-port {port}")
        }
        _ => "this is neither the name of a host nor its IP address".into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_a_name_or_an_address() {
        for text in [
            "localhost",
            "10.0.0.5",
            "win-02.corp.example",
            "Win_02",
            "::1",
            "[fe80::1%eth0]",
            "fe80::1%3",
            "büro",
        ] {
            assert_eq!(host(text).as_deref(), Ok(text));
        }
        for text in [
            "",
            " ",
            "a b",
            "-x",
            "/run/socket",
            "./a",
            "a\nb",
            "[a]",
            "fe80::1%a b",
            "a:b",
            "a:99999",
            ":3389",
            "[::1]:1",
            "a@b",
        ] {
            assert_eq!(
                host(text).unwrap_err(),
                "this is neither the name of a host nor its IP address",
                "{text}"
            );
        }
        assert_eq!(
            host("win02:3390").unwrap_err(),
            "the port has an option of its own: --gateway-to win02 --rdp-port 3390"
        );
    }
}
