//! What may be typed. Knows words and their forms, and does nothing with them.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args, Parser, Subcommand};

use crate::azure::cloud::{CloudName, Endpoints};
use crate::azure::hybrid_connectivity::Service;
use crate::azure::resource_id::ResourceId;
use crate::fleet::Selection;
use crate::ssh::host::Platform;

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
    /// Write Host sections for Arc machines into the ssh configuration, and prove that ssh uses them
    #[command(after_help = CONFIG_EXAMPLES)]
    Config(Box<ConfigArgs>),
    /// List Arc machines; an inventory for ansible with --list or --format ansible
    List(ListArgs),
}

const CONFIG_EXAMPLES: &str = "\
  arcssh config web01 --user azureuser     a section for one machine
  arcssh config -g rg-web                  for all machines of a resource group
  arcssh config --all --dry-run            what would change, and nothing else
  arcssh config                            the same again as the last time, with what is new in Azure
  arcssh config --remove                   everything out again";

const PROXY_EXAMPLES: &str = "\
In ~/.ssh/config:

  Host web01
      ProxyCommand arcssh proxy /subscriptions/…/resourceGroups/…/providers/Microsoft.HybridCompute/machines/web01 --port %p

A block that `az ssh config` wrote works once the path of its sshProxy is replaced by that of arcssh.";

/// Arguments of `arcssh proxy`.
#[derive(Debug, Args)]
pub(crate) struct ProxyArgs {
    /// Resource ID of the Arc machine, /subscriptions/…/machines/NAME
    #[arg(value_name = "RESOURCE-ID", conflicts_with_all = ["relay_info", "host"])]
    pub(crate) machine: Option<ResourceId>,
    /// Name of the Arc machine, looked up when connecting; %n in a ProxyCommand
    #[arg(long, value_name = "NAME", conflicts_with = "relay_info")]
    pub(crate) host: Option<String>,
    /// What the name ends in, if it is none of the machine's, such as .arc
    #[arg(long, requires = "host", default_value = "")]
    pub(crate) suffix: String,
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

/// Which machines.
#[derive(Debug, Args)]
#[command(next_help_heading = "Machines")]
pub(crate) struct SelectionArgs {
    /// Name, GROUP/NAME or resource ID of a machine
    #[arg(value_name = "MACHINE")]
    machines: Vec<String>,
    /// All machines of this resource group
    #[arg(short = 'g', long = "resource-group", value_name = "GROUP")]
    groups: Vec<String>,
    /// Look in this subscription only
    #[arg(short, long = "subscription", value_name = "ID")]
    subscriptions: Vec<String>,
    /// Machines with this tag
    #[arg(long = "tag", value_name = "KEY=VALUE")]
    tags: Vec<String>,
    /// All machines that the identity sees
    #[arg(long)]
    all: bool,
}

impl SelectionArgs {
    /// What was typed.
    pub(crate) fn selection(&self) -> Selection {
        let set = |values: &[String]| values.iter().cloned().collect();
        Selection {
            machines: set(&self.machines),
            groups: set(&self.groups),
            subscriptions: set(&self.subscriptions),
            tags: set(&self.tags),
            all: self.all,
            ..Selection::default()
        }
    }
}

/// Arguments of `arcssh config`.
#[derive(Debug, Args)]
pub(crate) struct ConfigArgs {
    /// Which machines.
    #[command(flatten)]
    pub(crate) selection: SelectionArgs,
    /// User to log in as
    #[arg(long, value_name = "NAME", help_heading = "Sections")]
    pub(crate) user: Option<String>,
    /// Port of sshd on the machines [default: ssh's, 22]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..), help_heading = "Sections")]
    pub(crate) port: Option<u16>,
    /// Private key to log in with
    #[arg(long, value_name = "FILE", help_heading = "Sections")]
    pub(crate) identity: Option<String>,
    /// Let sessions to a machine share one connection
    #[arg(long, help_heading = "Sections")]
    pub(crate) control_master: bool,
    /// Add a section that finds any machine by name when it is connected to, such as '*.arc'
    #[arg(long, value_name = "PATTERN", help_heading = "Sections")]
    pub(crate) wildcard: Option<String>,
    /// Template of a section in place of the built-in one
    #[arg(long, value_name = "FILE", help_heading = "Sections")]
    pub(crate) template: Option<PathBuf>,
    /// System to write for [default: the one it runs on]
    #[arg(long, value_enum, help_heading = "Sections")]
    pub(crate) platform: Option<Platform>,
    /// File to write, for Include or ssh -F [default: ~/.ssh/config]
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub(crate) file: Option<PathBuf>,
    /// Print the block: only - is known
    #[arg(long, value_name = "-", value_parser = ["-"], conflicts_with_all = ["file", "dry_run", "remove", "verify"], help_heading = "Output")]
    pub(crate) output: Option<String>,
    /// Show what would change, and exit with 1 if something would
    #[arg(long, help_heading = "Output")]
    pub(crate) dry_run: bool,
    /// Take the sections of these machines out, until they are named again; everything, if none is named
    #[arg(
        long,
        conflicts_with_all = ["verify", "wildcard", "user", "groups", "subscriptions", "tags", "all"],
        help_heading = "Output"
    )]
    pub(crate) remove: bool,
    /// Take over what az ssh config, Export-AzSshConfig and azure_rm_arcssh wrote in the file
    #[arg(long, conflicts_with_all = ["remove", "verify"], help_heading = "Output")]
    pub(crate) adopt: bool,
    /// Delete the relay tokens and keys that sections taken over leave behind
    #[arg(long, requires = "adopt", help_heading = "Output")]
    pub(crate) clean: bool,
    /// Ask ssh whether it uses what was written, and write nothing
    #[arg(long, help_heading = "Output")]
    pub(crate) verify: bool,
    /// The cloud to talk to.
    #[command(flatten)]
    pub(crate) cloud: CloudArgs,
}

/// Arguments of `arcssh list`.
#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Which machines.
    #[command(flatten)]
    pub(crate) selection: SelectionArgs,
    /// Form of the list [default: table]
    #[arg(long, value_enum, help_heading = "Output")]
    pub(crate) format: Option<ListFormat>,
    /// As ansible calls an inventory: all hosts
    #[arg(long, help_heading = "Output")]
    pub(crate) list: bool,
    /// As ansible calls an inventory: the variables of one host
    #[arg(long, value_name = "ALIAS", help_heading = "Output")]
    pub(crate) host: Option<String>,
    /// The cloud to talk to.
    #[command(flatten)]
    pub(crate) cloud: CloudArgs,
}

/// The forms of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum ListFormat {
    /// Columns for people.
    Table,
    /// An array of objects.
    Json,
    /// An ansible inventory.
    Ansible,
}

/// Which cloud, and its endpoints where they are other than the cloud's own.
#[derive(Debug, Args)]
#[command(next_help_heading = "Cloud")]
pub(crate) struct CloudArgs {
    /// Azure cloud of the machine [default: public]
    #[arg(long, env = "ARCSSH_CLOUD", ignore_case = true, value_enum)]
    cloud: Option<CloudName>,
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
    /// The cloud's name.
    pub(crate) fn name(&self) -> CloudName {
        self.cloud.unwrap_or(CloudName::Public)
    }

    /// The cloud's name, if one was given.
    pub(crate) fn given(&self) -> Option<CloudName> {
        self.cloud
    }

    /// The endpoints that replace the cloud's own.
    pub(crate) fn endpoints(&self) -> Endpoints {
        let given = |value: &Option<String>| value.clone().filter(|text| !text.is_empty());
        Endpoints {
            arm_endpoint: given(&self.arm_endpoint),
            arm_audience: given(&self.arm_audience),
            authority_host: given(&self.authority_host),
        }
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
        let Command::Proxy(args) = cli.command else { return Err("another command".into()) };
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
