//! What may be typed. Knows words and their forms, and does nothing with them.

pub(crate) mod proxy_command;

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::time::Duration;

use clap::parser::ValueSource;
use clap::{
    Arg, ArgAction, ArgMatches, Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand,
    ValueEnum as _,
};
use clap_complete::Shell;

use crate::azure::cloud::{CloudName, Endpoints};
use crate::azure::credentials::{CredentialOptions, CredentialSource};
use crate::azure::hybrid_connectivity::Service;
use crate::azure::login::AZURE_CLI;
use crate::azure::relay_host::RelaySuffixes;
use crate::azure::resource_id::ResourceId;
use crate::entra_ssh::CertificateOptions;
use crate::machines::MachineSelector;
use crate::ssh::host_entry::{CertificateMode, Platform};

/// The environment variable in which Microsoft's sshProxy finds its relay information; `az ssh arc` sets it.
pub(crate) const RELAY_INFO_VARIABLE: &str = "SSHPROXY_RELAY_INFO";

/// Plain ssh to Azure Arc-enabled servers that have no public IP address and no open port.
#[derive(Debug, Parser)]
#[command(version, subcommand_required = true, arg_required_else_help = true, after_help = EXAMPLES)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
    /// What to log.
    #[command(flatten)]
    pub(crate) log: LogArgs,
}

impl Cli {
    /// Parses the command line.
    ///
    /// # Errors
    /// What clap prints instead: the help, the version, or what is wrong with the command line.
    pub(crate) fn from_command_line() -> Result<Self, clap::Error> {
        let mut words: Vec<OsString> = std::env::args_os().collect();
        let relay_info_given = std::env::var_os(RELAY_INFO_VARIABLE).is_some();
        if is_sshproxy_call(words.get(1).map(OsString::as_os_str), relay_info_given) {
            words.insert(1, "proxy".into());
        }
        Self::of(&Self::command().try_get_matches_from(words)?)
    }

    fn of(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut cli = Self::from_arg_matches(matches)?;
        if let (Command::Doctor(args), Some((_, matches))) = (&mut cli.command, matches.subcommand()) {
            args.typed = who_and_where(matches);
        }
        Ok(cli)
    }
}

/// The options for identity and cloud that were typed: not those that the environment gave.
fn who_and_where(matches: &ArgMatches) -> Vec<OsString> {
    let options = CloudArgs::augment_args(CredentialArgs::augment_args(clap::Command::new("any")));
    let typed = |option: &Arg| {
        let name = option.get_id().as_str();
        let is_typed = matches.value_source(name) == Some(ValueSource::CommandLine);
        let value = matches.get_raw(name).and_then(Iterator::last).filter(|_| is_typed)?;
        Some([format!("--{}", option.get_long()?).into(), value.to_owned()])
    };
    options.get_arguments().filter_map(typed).flatten().collect()
}

/// Whether arcssh stands where Microsoft's sshProxy did. That has no commands: its first word is `-r` or `-p`, or it
/// has none and the relay information is in the environment.
fn is_sshproxy_call(first_word: Option<&OsStr>, relay_info_given: bool) -> bool {
    match first_word.and_then(OsStr::to_str) {
        Some(word) => word.starts_with("-r") || word.starts_with("-p"),
        None => relay_info_given && first_word.is_none(),
    }
}

/// The commands, in the order in which somebody new meets them.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Sign in, so that no other program needs to be
    #[command(after_help = LOGIN_EXAMPLES)]
    Login(LoginArgs),
    /// Give Arc machines names in the ssh configuration, and prove that ssh uses them
    #[command(after_help = CONFIG_EXAMPLES)]
    Config(Box<ConfigArgs>),
    /// List Arc machines, as a table, JSON or an inventory for ansible
    #[command(after_help = LIST_EXAMPLES)]
    List(ListArgs),
    /// Get an SSH certificate of Entra ID, or show the one that there is
    #[command(after_help = CERT_EXAMPLES)]
    Cert(CertArgs),
    /// Connect to machines once, so that the next connection waits for nobody
    #[command(after_help = WARM_EXAMPLES)]
    Warm(WarmArgs),
    /// Make machines ready to be connected to, once and for everybody
    #[command(after_help = SETUP_EXAMPLES)]
    Setup(SetupArgs),
    /// Let machines not be connected to any more
    Teardown(TeardownArgs),
    /// Find out what keeps a machine from being connected to, and what to type
    #[command(after_help = DOCTOR_EXAMPLES)]
    Doctor(DoctorArgs),
    /// Explain why a machine could not be reached, when ssh has not shown it
    Last(LastArgs),
    /// Show who connects to Azure
    Account(AccountArgs),
    /// Forget who signed in, and all that Azure gave
    Logout,
    /// Show or clear what is kept between connections
    Cache(CacheArgs),
    /// Carry one connection: stands in an OpenSSH ProxyCommand, and ssh calls it
    #[command(after_help = PROXY_EXAMPLES)]
    Proxy(ProxyArgs),
    /// Print the completions of a shell
    #[command(after_help = COMPLETIONS_EXAMPLES)]
    Completions(CompletionsArgs),
    /// Write the pages of the manual into a folder
    Man(ManArgs),
    /// Print the version; with --verbose what a bug report needs
    Version,
}

const EXAMPLES: &str = "\
Examples:
  arcssh login                             sign in, once
  arcssh setup web01                       make a machine ready, once for all
  arcssh config -g rg-web --user azureuser
                                           names for a whole resource group
  ssh web01                                plain ssh, and scp, sftp, rsync, git
  arcssh last web01                        why that did not work
  arcssh doctor web01                      and what to do about it

arcssh COMMAND --help tells of one command.";

const LOGIN_EXAMPLES: &str = "\
Examples:
  arcssh login                             in a browser that opens here
  arcssh login --device-code               in one on another device
  arcssh login --tenant contoso.com        to a tenant that you are a guest of
  arcssh login --account me@contoso.com    with this account and no other

arcssh names the account that signed in. It asks first when that is not
--account, or when another account was signed in before; without a terminal it
fails.

The refresh token is stored in the system's key store: macOS Keychain, Windows
Credential Manager or Secret Service. Without one, or with ARCSSH_NO_KEYRING=1,
it is stored in a file that only you can read.";

const LIST_EXAMPLES: &str = "\
Examples:
  arcssh list -g rg-web                    the machines of a resource group
  arcssh list --tag env=prod --format json
                                           for programs
  arcssh list --list                       for ansible, as an inventory script";

const COMPLETIONS_EXAMPLES: &str = "\
Examples:
  arcssh completions bash >> ~/.bash_completion
  arcssh completions zsh > ~/.zfunc/_arcssh
                                           for an fpath with ~/.zfunc
  arcssh completions fish > ~/.config/fish/completions/arcssh.fish
  arcssh completions powershell | Out-String | Invoke-Expression
                                           in $PROFILE";

const WARM_EXAMPLES: &str = "\
Examples:
  arcssh warm -g rg-web                    before ansible plays on them
  arcssh warm --all --jobs 20";

const CERT_EXAMPLES: &str = "\
Examples:
  arcssh cert                              for sections of config --entra
  arcssh cert --show                       what it says
  arcssh cert --public-key ~/.ssh/id_rsa.pub
                                           for a key of one's own";

const SETUP_EXAMPLES: &str = "\
Examples:
  arcssh setup web01                       show what is missing, ask, make it
  arcssh setup -g rg-web --yes             a whole group, without a question
  arcssh setup web01 --dry-run             show what is missing";

const DOCTOR_EXAMPLES: &str = "\
Examples:
  arcssh doctor                            what depends on no machine
  arcssh doctor web01                      all the way to the sshd of web01
  arcssh doctor web01 --fix                and arcssh setup where that helps";

const CONFIG_EXAMPLES: &str = "\
Examples:
  arcssh config web01 --user azureuser     a host entry for one machine
  arcssh config -g rg-web                  and for all of a resource group
  arcssh config web01 --entra              with a certificate of Entra ID
  arcssh config --all --dry-run            what would change, and nothing else
  arcssh config                            again, with what is new in Azure
  arcssh config --remove                   everything out again";

const PROXY_EXAMPLES: &str = "\
In ~/.ssh/config, where arcssh config writes it:

  Host web01
      ProxyCommand arcssh proxy /subscriptions/…/machines/web01 --port %p

A block that `az ssh config` wrote works once the path of its sshProxy is
replaced by that of arcssh.";

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
    #[arg(long, requires = "host", default_value = "", hide_default_value = true)]
    pub(crate) suffix: String,
    /// Look for the name in this subscription only
    #[arg(long, value_name = "ID", requires = "host")]
    pub(crate) subscription: Option<String>,
    /// Port on the machine [default: the service's own, 22 for SSH and 6516 for WAC]
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
    /// Serve an SSH certificate of Entra ID at this path, which IdentityAgent names
    #[arg(long, value_name = "PATH", conflicts_with = "relay_info")]
    pub(crate) agent: Option<PathBuf>,
    /// User that the section logs in as, by a certificate or not at all
    #[arg(long, value_name = "NAME", requires = "agent")]
    pub(crate) login_name: Option<String>,
    /// Which certificate.
    #[command(flatten)]
    pub(crate) certificate: CertificateArgs,
    /// Who talks to it.
    #[command(flatten)]
    pub(crate) who: CredentialArgs,
    /// The cloud to talk to.
    #[command(flatten)]
    pub(crate) cloud: CloudArgs,
}

/// Which machines.
#[derive(Debug, Args)]
#[command(next_help_heading = "Machines")]
pub(crate) struct SelectionArgs {
    /// Name, GROUP/NAME or resource ID of a machine
    #[arg(value_name = "MACHINE", display_order = 0)]
    machines: Vec<String>,
    /// All machines of this resource group
    #[arg(short = 'g', long = "resource-group", value_name = "GROUP", display_order = 1)]
    groups: Vec<String>,
    /// Look in this subscription only
    #[arg(short, long = "subscription", value_name = "ID", display_order = 2)]
    subscriptions: Vec<String>,
    /// Machines with this tag
    #[arg(long = "tag", value_name = "KEY=VALUE", display_order = 3)]
    tags: Vec<String>,
    /// All machines that the identity sees
    #[arg(long, display_order = 4)]
    all: bool,
}

impl SelectionArgs {
    /// What was typed.
    pub(crate) fn selection(&self) -> MachineSelector {
        let set = |values: &[String]| values.iter().cloned().collect();
        MachineSelector {
            machines: set(&self.machines),
            groups: set(&self.groups),
            subscriptions: set(&self.subscriptions),
            tags: set(&self.tags),
            all: self.all,
            ..MachineSelector::default()
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
    /// Log in as the Entra user, with a certificate that arcssh renews [default: by agent, on Windows in files]
    #[arg(long, value_name = "HOW", num_args = 0..=1, require_equals = true, help_heading = "Sections")]
    pub(crate) entra: Option<Option<CertificateMode>>,
    /// Let sessions to a machine share one connection
    #[arg(long, help_heading = "Sections")]
    pub(crate) control_master: bool,
    /// Add a host entry that finds any machine by name when you connect, such as '*.arc'
    #[arg(long, value_name = "PATTERN", help_heading = "Sections")]
    pub(crate) wildcard: Option<String>,
    /// Let the selected machines use their own names that match, such as '*.corp.example.com', although a name with a dot or
    /// one that ssh already uses can be another host's: anyone who can onboard a machine can then take over such a name
    #[arg(long, value_name = "PATTERN", help_heading = "Sections")]
    pub(crate) allow_names: Vec<String>,
    /// Whether the machines were found by what they have in common, and not typed.
    #[arg(skip)]
    pub(crate) derived: bool,
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
    /// Remove the host entries of these machines, until you name them again; all host entries, if you name none
    #[arg(
        long,
        conflicts_with_all = ["verify", "wildcard", "user", "groups", "subscriptions", "tags", "all"],
        help_heading = "Output"
    )]
    pub(crate) remove: bool,
    /// Remove the host entries of machines that are gone from Azure without a question
    #[arg(short, long, help_heading = "Output")]
    pub(crate) yes: bool,
    /// Take over what az ssh config, Export-AzSshConfig and azure_rm_arcssh wrote in the file
    #[arg(long, conflicts_with_all = ["remove", "verify"], help_heading = "Output")]
    pub(crate) adopt: bool,
    /// Delete the relay tokens and keys that sections taken over leave behind
    #[arg(long, requires = "adopt", help_heading = "Output")]
    pub(crate) clean: bool,
    /// Ask ssh whether it uses what was written, and write nothing
    #[arg(long, help_heading = "Output")]
    pub(crate) verify: bool,
    /// Which certificate.
    #[command(flatten)]
    pub(crate) certificate: CertificateArgs,
    /// Who talks to it.
    #[command(flatten)]
    pub(crate) who: CredentialArgs,
    /// The cloud to talk to.
    #[command(flatten)]
    pub(crate) cloud: CloudArgs,
}

impl ConfigArgs {
    /// Those of a command line that another command hands on, in that one's name.
    ///
    /// # Errors
    /// The words are none of `arcssh config`.
    pub(crate) fn handed_on(words: &[String], from: &SetupArgs) -> Result<Self, clap::Error> {
        let command = Self::augment_args(clap::Command::new("config").no_binary_name(true));
        let found = Self::from_arg_matches(&command.try_get_matches_from(words)?)?;
        let derived = from.selection.selection().is_filter();
        Ok(Self { who: from.who.clone(), cloud: from.cloud.clone(), derived, ..found })
    }
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
    /// Who talks to it.
    #[command(flatten)]
    pub(crate) who: CredentialArgs,
    /// The cloud to talk to.
    #[command(flatten)]
    pub(crate) cloud: CloudArgs,
}

/// Arguments of `arcssh cert`.
#[derive(Debug, Args)]
pub(crate) struct CertArgs {
    /// Write the certificate to this file; without --public-key the private key too, to the same without -cert.pub
    #[arg(long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// Certify this key of one's own, and write KEY-cert.pub beside it unless --file says otherwise
    #[arg(long, value_name = "FILE")]
    pub(crate) public_key: Option<PathBuf>,
    /// Show what the kept certificate says, and ask for nothing
    #[arg(long, conflicts_with_all = ["file", "public_key"])]
    pub(crate) show: bool,
    /// Write it only if this user can log in with it
    #[arg(long, value_name = "NAME", requires = "file", conflicts_with = "public_key")]
    pub(crate) login_name: Option<String>,
    /// Which certificate.
    #[command(flatten)]
    pub(crate) certificate: CertificateArgs,
    /// Whose certificate.
    #[command(flatten)]
    pub(crate) who: CredentialArgs,
    /// The cloud it is for.
    #[command(flatten)]
    pub(crate) cloud: CloudArgs,
}

/// Which SSH certificate of Entra ID.
#[derive(Debug, Args)]
#[command(next_help_heading = "Certificate")]
pub(crate) struct CertificateArgs {
    /// Scope of the certificate [default: the cloud's for the sign-in to Linux machines]
    #[arg(long, value_name = "SCOPE")]
    scope: Option<String>,
    /// Application to ask through [default: the one that was signed in to]
    #[arg(long, value_name = "ID")]
    client_id: Option<String>,
}

impl CertificateArgs {
    /// What was typed.
    pub(crate) fn asked(&self) -> CertificateOptions {
        CertificateOptions { scope: self.scope.clone(), client_id: self.client_id.clone() }
    }
}

/// Arguments of `arcssh warm`.
#[derive(Debug, Args)]
pub(crate) struct WarmArgs {
    /// Which machines.
    #[command(flatten)]
    pub(crate) selection: SelectionArgs,
    /// Port on the machines, as in their sections [default: the service's own, 22 for SSH and 6516 for WAC]
    #[arg(short, long, value_parser = clap::value_parser!(u16).range(1..), help_heading = "Connections")]
    pub(crate) port: Option<u16>,
    /// Service of the machines to open
    #[arg(long, ignore_case = true, value_enum, default_value_t = Service::Ssh, help_heading = "Connections")]
    pub(crate) service: Service,
    /// Machines at a time
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u8).range(1..), default_value = "8", help_heading = "Connections")]
    pub(crate) jobs: u8,
    /// Seconds to go on trying while a machine's agent does not answer
    #[arg(long, value_name = "SECONDS", value_parser = seconds, default_value = "90", help_heading = "Connections")]
    pub(crate) wait: Duration,
    /// Who talks to it.
    #[command(flatten)]
    pub(crate) who: CredentialArgs,
    /// The cloud to talk to.
    #[command(flatten)]
    pub(crate) cloud: CloudArgs,
}

/// Arguments of `arcssh setup`.
#[derive(Debug, Args)]
pub(crate) struct SetupArgs {
    /// Which machines.
    #[command(flatten)]
    pub(crate) selection: SelectionArgs,
    /// Port on the machines [default: the one that is enabled, else the service's own, 22 for SSH and 6516 for WAC]
    #[arg(short, long, value_parser = clap::value_parser!(u16).range(1..), help_heading = "Set-up")]
    pub(crate) port: Option<u16>,
    /// Let --port take the place of another port, which nobody can connect by any more
    #[arg(long, requires = "port", help_heading = "Set-up")]
    pub(crate) replace_port: bool,
    /// Service of the machines to enable
    #[arg(long, ignore_case = true, value_enum, default_value_t = Service::Ssh, help_heading = "Set-up")]
    pub(crate) service: Service,
    /// Go ahead without a question
    #[arg(short, long, help_heading = "Set-up")]
    pub(crate) yes: bool,
    /// Show what would change, and exit with 1 if something would
    #[arg(long, conflicts_with = "yes", help_heading = "Set-up")]
    pub(crate) dry_run: bool,
    /// Machines at a time
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u8).range(1..), default_value = "8", help_heading = "Set-up")]
    pub(crate) jobs: u8,
    /// Seconds to go on trying while a machine's agent does not answer
    #[arg(long, value_name = "SECONDS", value_parser = seconds, default_value = "180", help_heading = "Set-up")]
    pub(crate) wait: Duration,
    /// Who talks to it.
    #[command(flatten)]
    pub(crate) who: CredentialArgs,
    /// The cloud to talk to.
    #[command(flatten)]
    pub(crate) cloud: CloudArgs,
}

/// Arguments of `arcssh teardown`.
#[derive(Debug, Args)]
pub(crate) struct TeardownArgs {
    /// Which machines.
    #[command(flatten)]
    pub(crate) selection: SelectionArgs,
    /// Delete the endpoint too, and with it every service of the machine
    #[arg(long, help_heading = "Set-up")]
    pub(crate) endpoint: bool,
    /// Service of the machines to disable
    #[arg(long, ignore_case = true, value_enum, default_value_t = Service::Ssh, help_heading = "Set-up")]
    pub(crate) service: Service,
    /// Go ahead without a question
    #[arg(short, long, help_heading = "Set-up")]
    pub(crate) yes: bool,
    /// Who talks to it.
    #[command(flatten)]
    pub(crate) who: CredentialArgs,
    /// The cloud to talk to.
    #[command(flatten)]
    pub(crate) cloud: CloudArgs,
}

/// Arguments of `arcssh doctor`.
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// Name, GROUP/NAME or resource ID of a machine, or what ssh calls it
    #[arg(value_name = "MACHINE")]
    pub(crate) machine: Option<String>,
    /// Port on the machine [default: that of its section, else the one that is enabled]
    #[arg(short, long, requires = "machine", value_parser = clap::value_parser!(u16).range(1..), help_heading = "Checks")]
    pub(crate) port: Option<u16>,
    /// Look in this subscription only
    #[arg(short, long, value_name = "ID", requires = "machine", help_heading = "Checks")]
    pub(crate) subscription: Option<String>,
    /// The ssh configuration to look at [default: ~/.ssh/config]
    #[arg(long, value_name = "FILE", help_heading = "Checks")]
    pub(crate) file: Option<PathBuf>,
    /// Print JSON
    #[arg(long, help_heading = "Checks")]
    pub(crate) json: bool,
    /// Let arcssh setup put right what it can
    #[arg(long, requires = "machine", help_heading = "Checks")]
    pub(crate) fix: bool,
    /// Fix without a question
    #[arg(short, long, requires = "fix", help_heading = "Checks")]
    pub(crate) yes: bool,
    /// Who talks to it.
    #[command(flatten)]
    pub(crate) who: CredentialArgs,
    /// The cloud to talk to.
    #[command(flatten)]
    pub(crate) cloud: CloudArgs,
    /// What of these two was typed, word by word: it goes before what a section says, the environment behind.
    #[arg(skip)]
    pub(crate) typed: Vec<OsString>,
}

/// Arguments of `arcssh cache`.
#[derive(Debug, Args)]
pub(crate) struct CacheArgs {
    /// What to do with it.
    #[command(subcommand)]
    pub(crate) command: CacheCommand,
}

/// What can be done with the store.
#[derive(Clone, Copy, Debug, Subcommand)]
pub(crate) enum CacheCommand {
    /// List what is kept, without its secrets
    Show,
    /// Forget everything but the sign-in
    Clear,
}

/// Arguments of `arcssh last`.
#[derive(Debug, Args)]
pub(crate) struct LastArgs {
    /// Name or resource ID of a machine [default: the one that failed last]
    #[arg(value_name = "MACHINE")]
    pub(crate) machine: Option<String>,
}

/// Arguments of `arcssh completions`.
#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// Which shell
    #[arg(value_enum)]
    pub(crate) shell: Shell,
}

/// Arguments of `arcssh man`.
#[derive(Debug, Args)]
pub(crate) struct ManArgs {
    /// Folder to write them into
    #[arg(value_name = "FOLDER")]
    pub(crate) folder: PathBuf,
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

/// Arguments of `arcssh login`.
#[derive(Debug, Args)]
pub(crate) struct LoginArgs {
    /// Tenant to sign in to [default: the account's own]
    #[arg(long, value_name = "TENANT", value_parser = tenant)]
    pub(crate) tenant: Option<String>,
    /// Account to expect, by its user principal name: the browser proposes it
    #[arg(long, value_name = "NAME")]
    pub(crate) account: Option<String>,
    /// Sign in with a browser on another device
    #[arg(long)]
    pub(crate) device_code: bool,
    /// Application to sign in to
    #[arg(long, value_name = "ID", default_value = AZURE_CLI)]
    pub(crate) client_id: String,
    /// What to sign in for, so that its policies are satisfied too [default: Azure Resource Manager]
    #[arg(long, value_name = "SCOPE")]
    pub(crate) scope: Option<String>,
    /// The cloud to sign in to.
    #[command(flatten)]
    pub(crate) cloud: CloudArgs,
}

/// Arguments of `arcssh account`.
#[derive(Debug, Args)]
pub(crate) struct AccountArgs {
    /// Whose account.
    #[command(flatten)]
    pub(crate) who: CredentialArgs,
    /// The cloud it is in.
    #[command(flatten)]
    pub(crate) cloud: CloudArgs,
}

/// Who talks to Azure.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Identity")]
pub(crate) struct CredentialArgs {
    /// Where to take the identity from [default: any]
    #[arg(long, env = "ARCSSH_CREDENTIAL", value_name = "NAME", ignore_case = true, value_enum)]
    credential: Option<CredentialSource>,
    /// Tenant to sign in to [default: the identity's own]
    #[arg(long, value_name = "TENANT", value_parser = tenant)]
    tenant: Option<String>,
}

impl CredentialArgs {
    /// What was typed.
    pub(crate) fn wanted(&self) -> CredentialOptions {
        CredentialOptions { source: self.credential.unwrap_or_default(), tenant: self.tenant.clone() }
    }

    /// The source of the identity, if one was given.
    pub(crate) fn credential(&self) -> Option<CredentialSource> {
        self.credential
    }
}

/// A tenant, by its ID or a domain of its.
fn tenant(text: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
    if text.is_empty() || !text.chars().all(plain) {
        return Err("neither the ID of a tenant nor a domain".into());
    }
    Ok(text.to_owned())
}

/// Which cloud, and its endpoints where they are other than the cloud's own.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Cloud")]
pub(crate) struct CloudArgs {
    /// Azure cloud of the machine [default: public]
    #[arg(long, env = "ARCSSH_CLOUD", ignore_case = true, value_enum)]
    cloud: Option<CloudName>,
    /// Address of Azure Resource Manager, where it is not the cloud's
    #[arg(long, env = "ARCSSH_ARM_ENDPOINT", value_name = "URL", hide_short_help = true)]
    arm_endpoint: Option<String>,
    /// Audience of its access tokens [default: its address]
    #[arg(long, env = "ARCSSH_ARM_AUDIENCE", value_name = "URL", hide_short_help = true)]
    arm_audience: Option<String>,
    /// Address of Entra ID, where it is not the cloud's
    #[arg(long, env = "AZURE_AUTHORITY_HOST", value_name = "URL", hide_short_help = true)]
    authority_host: Option<String>,
    /// Accept relays in these DNS domains too, not only in the cloud's
    #[arg(long, env = "ARCSSH_RELAY_SUFFIX", value_name = "SUFFIX,…", value_parser = RelaySuffixes::parse, hide_short_help = true)]
    relay_suffix: Option<RelaySuffixes>,
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
            relay_suffixes: self.relay_suffix.clone(),
        }
    }

    /// Where a relay may be that no Azure Resource Manager named: relay information does not say of which cloud it is.
    pub(crate) fn relay_suffixes(&self) -> RelaySuffixes {
        let clouds = self.cloud.as_ref().map_or(CloudName::value_variants(), std::slice::from_ref);
        let known: Vec<&str> = clouds.iter().map(|cloud| cloud.relay_suffix()).collect();
        RelaySuffixes::new(&known, self.relay_suffix.as_ref())
    }
}

/// What is logged, and where.
#[derive(Debug, Args)]
#[command(next_help_heading = "Logging")]
pub(crate) struct LogArgs {
    /// Log to standard error: -v what is done, -vv in detail; RUST_LOG says more
    #[arg(short, long, action = ArgAction::Count, global = true)]
    pub(crate) verbose: u8,
    /// Log to this file too: a new one, or an earlier log (regular, mode 0600)
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
