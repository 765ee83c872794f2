//! The command line of `arcssh rdp`.

use std::path::PathBuf;

use clap::Args;
use clap::builder::NonEmptyStringValueParser;

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
        value_parser = NonEmptyStringValueParser::new(),
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
