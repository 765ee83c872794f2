//! What may be typed. Knows words and their forms, and does nothing with them.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args, Parser, Subcommand};

use crate::azure::cloud::{CloudName, Endpoints};
use crate::azure::hybrid_connectivity::Service;
use crate::azure::resource_id::ResourceId;

/// The environment variable in which Microsoft's sshProxy finds its relay information; `az ssh arc` sets it.
pub(crate) const RELAY_INFO_VARIABLE: &str = "SSHPROXY_RELAY_INFO";

/// Plain ssh to Azure Arc-enabled servers that have no public IP address and no open port.
#[derive(Debug, Parser)]
#[command(version, subcommand_required = true, arg_required_else_help = true)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
    /// What to log.
    #[command(flatten)]
    pub(crate) log: LogArgs,
}

impl Cli {
    /// Reads the command line, and ends the program with clap's words on standard error where it cannot be read.
    pub(crate) fn from_command_line() -> Self {
        let mut words: Vec<OsString> = std::env::args_os().collect();
        let relay_info_given = std::env::var_os(RELAY_INFO_VARIABLE).is_some();
        if is_sshproxy_call(words.get(1).map(OsString::as_os_str), relay_info_given) {
            words.insert(1, "proxy".into());
        }
        Self::parse_from(words)
    }
}

/// Whether arcssh stands where Microsoft's sshProxy did. That has no commands: its first word is `-r` or `-p`, or it
/// has none and the relay information is in the environment.
fn is_sshproxy_call(first_word: Option<&OsStr>, relay_info_given: bool) -> bool {
    match first_word.and_then(OsStr::to_str) {
        Some(word) => word.starts_with("-r") || word.starts_with("-p"),
        None => relay_info_given && first_word.is_none(),
    }
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Carry one ssh connection: stands in an OpenSSH ProxyCommand
    #[command(after_help = PROXY_EXAMPLES)]
    Proxy(ProxyArgs),
}

const PROXY_EXAMPLES: &str = "\
In ~/.ssh/config:

  Host web01
      ProxyCommand arcssh proxy /subscriptions/…/resourceGroups/…/providers/Microsoft.HybridCompute/machines/web01 --port %p

A block that `az ssh config` wrote works once the path of its sshProxy is replaced by that of arcssh.";

/// Arguments of `arcssh proxy`.
#[derive(Debug, Args)]
pub(crate) struct ProxyArgs {
    /// Resource ID of the Arc machine, /subscriptions/…/machines/NAME
    #[arg(value_name = "RESOURCE-ID", conflicts_with = "relay_info")]
    pub(crate) machine: Option<ResourceId>,
    /// Port on the machine [default: the service's own, 22 for SSH]
    #[arg(short, long, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) port: Option<u16>,
    /// File with relay information that `az ssh config` wrote, in place of a resource ID
    #[arg(short, long, value_name = "FILE")]
    pub(crate) relay_info: Option<PathBuf>,
    /// Service of the machine to open
    #[arg(long, ignore_case = true, value_enum, default_value_t = Service::Ssh)]
    pub(crate) service: Service,
    /// Seconds to go on trying while the machine's agent does not answer; 0 tries once
    #[arg(long, value_name = "SECONDS", value_parser = seconds, default_value = "90")]
    pub(crate) wait: Duration,
    /// The cloud to talk to.
    #[command(flatten)]
    pub(crate) cloud: CloudArgs,
}

/// Which cloud, and its endpoints where they are other than the cloud's own.
#[derive(Debug, Args)]
#[command(next_help_heading = "Cloud")]
pub(crate) struct CloudArgs {
    /// Azure cloud of the machine
    #[arg(long, env = "ARCSSH_CLOUD", ignore_case = true, value_enum, default_value_t = CloudName::Public)]
    cloud: CloudName,
    /// Address of Azure Resource Manager, where it is not the cloud's
    #[arg(long, env = "ARCSSH_ARM_ENDPOINT", value_name = "URL")]
    arm_endpoint: Option<String>,
    /// Audience of its access tokens [default: its address]
    #[arg(long, env = "ARCSSH_ARM_AUDIENCE", value_name = "URL")]
    arm_audience: Option<String>,
    /// Address of Entra ID, where it is not the cloud's
    #[arg(long, env = "AZURE_AUTHORITY_HOST", value_name = "URL")]
    authority_host: Option<String>,
}

impl CloudArgs {
    /// The cloud's name, and the endpoints that replace its own.
    pub(crate) fn endpoints(&self) -> (CloudName, Endpoints) {
        let given = |value: &Option<String>| value.clone().filter(|text| !text.is_empty());
        let endpoints = Endpoints {
            arm_endpoint: given(&self.arm_endpoint),
            arm_audience: given(&self.arm_audience),
            authority_host: given(&self.authority_host),
        };
        (self.cloud, endpoints)
    }
}

/// What is logged, and where.
#[derive(Debug, Args)]
#[command(next_help_heading = "Logging")]
pub(crate) struct LogArgs {
    /// Log to standard error: -v what is done, -vv in detail; RUST_LOG says more
    #[arg(short, long, action = ArgAction::Count, global = true)]
    pub(crate) verbose: u8,
    /// Log to this file too
    #[arg(long, value_name = "FILE", global = true)]
    pub(crate) log_file: Option<PathBuf>,
}

fn seconds(text: &str) -> Result<Duration, String> {
    const DAY: u64 = 86_400;
    match text.parse() {
        Ok(seconds @ 0..=DAY) => Ok(Duration::from_secs(seconds)),
        _ => Err(format!("not a whole number of seconds up to {DAY}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn machine(words: &[&str]) -> Result<ProxyArgs, String> {
        let words = ["arcssh", "proxy"].iter().chain(words);
        let cli = Cli::try_parse_from(words).map_err(|error| error.to_string())?;
        let Command::Proxy(args) = cli.command;
        Ok(args)
    }

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_call_of_sshproxy_is_known_by_its_first_word() {
        let call = |word: &str| is_sshproxy_call(Some(OsStr::new(word)), true);
        assert!(call("-r") && call("-p") && call("-r/tmp/relay_info") && is_sshproxy_call(None, true));
        assert!(!call("proxy") && !call("--help") && !call("-v") && !is_sshproxy_call(None, false));
    }

    #[test]
    fn ports_and_services_are_checked_where_they_are_typed() {
        assert!(machine(&["--port", "0"]).unwrap_err().contains("0 is not in 1..=65535"));
        assert!(machine(&["--port", "%p"]).unwrap_err().contains("invalid digit"));
        assert!(machine(&["--wait", "soon"]).unwrap_err().contains("not a whole number of seconds"));
        assert!(machine(&["--wait", "18446744073709551615"]).unwrap_err().contains("up to 86400"));
        assert_eq!(machine(&["--service", "wac"]).unwrap().service, Service::Wac);
    }

    #[test]
    fn a_machine_and_relay_information_exclude_each_other() {
        let id = "/subscriptions/s/resourceGroups/g/providers/Microsoft.HybridCompute/machines/n";
        assert!(machine(&[id, "-r", "file"]).unwrap_err().contains("cannot be used with"));
        assert!(machine(&["web01"]).unwrap_err().contains("resource ID reads /subscriptions/"));
    }
}
