//! The command line: commands, options, arguments and their help.

pub(crate) mod complete;
pub(crate) mod destination;
pub(crate) mod entry_files;
pub(crate) mod forward;
pub(crate) mod ping;
pub(crate) mod proxy_command;
pub(crate) mod rdp;
pub(crate) mod ssh;

use std::convert::Infallible;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::anyhow;
use clap::builder::{OsStringValueParser, StyledStr};
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::parser::ValueSource;
use clap::{
    Arg, ArgAction, ArgMatches, Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand,
    ValueEnum as _, ValueHint,
};
use clap_complete::Shell;

use crate::azure::cloud::{Cloud, CloudName, Endpoints};
use crate::azure::credentials::cli_tools::cloud::azure_cli_cloud;
use crate::azure::credentials::{CredentialOptions, CredentialSource};
use crate::azure::hybrid_compute::extension::SshExtension;
use crate::azure::hybrid_compute::filter::{ArcType, OperatingSystem, Status};
use crate::azure::hybrid_connectivity::Service;
use crate::azure::login::AZURE_CLI;
use crate::azure::relay_host::RelaySuffixes;
use crate::azure::resource_id::ResourceId;
use crate::cli::forward::ForwardArgs;
use crate::cli::ping::PingArgs;
use crate::cli::rdp::RdpArgs;
use crate::cli::ssh::{SshArgs, SshWords};
use crate::entra_ssh::CertificateOptions;
use crate::machines::similar;
use crate::ssh::host_entry::{CertificateMode, Platform, from_word};
use crate::terminal::palette::{COMMAND, HEADING, HELP};

/// The environment variable from which Microsoft's sshProxy reads its relay information; `az ssh arc` sets it.
pub(crate) const RELAY_INFO_VARIABLE: &str = "SSHPROXY_RELAY_INFO";

/// Plain ssh to Azure Arc-enabled servers that have no public IP address and no open port.
#[derive(Debug, Parser)]
#[command(
    version, subcommand_required = true, arg_required_else_help = true, disable_help_flag = true, disable_version_flag = true,
    args = general(), styles = HELP, help_template = help_template(), before_help = command_list(&RARE),
    before_long_help = command_list(&[]), after_long_help = EXAMPLES
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
    #[command(flatten)]
    pub(crate) log: LogArgs,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

impl Cli {
    /// Parses the command line.
    ///
    /// # Errors
    /// The text that clap prints instead of running a command: the help, the version or a usage error.
    pub(crate) fn from_command_line() -> Result<Self, clap::Error> {
        let mut words: Vec<OsString> = std::env::args_os().collect();
        let relay_info_given = std::env::var_os(RELAY_INFO_VARIABLE).is_some();
        if is_sshproxy_call(words.get(1).map(OsString::as_os_str), relay_info_given) {
            words.insert(1, "proxy".into());
        }
        if words.get(1).is_some_and(|word| word == "proxy")
            && let Ok(cli) = ProxyCli::try_parse_from(&words)
        {
            return Ok(cli.into());
        }
        let ssh_words = take_ssh_words(&mut words);
        let matches = match Self::command().try_get_matches_from(&words) {
            Err(error) if error.use_stderr() => {
                let matches = with_fixed_usage(Self::command()).try_get_matches_from(&words);
                matches.map_err(|error| with_similar_option(error, &words))
            }
            result => result,
        };
        let mut cli = Self::of(&matches?)?;
        if let Command::Ssh(args) = &mut cli.command {
            args.words = ssh_words;
        }
        Ok(cli)
    }

    fn of(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut cli = Self::from_arg_matches(matches)?;
        if let Some((_, matches)) = matches.subcommand() {
            let azure = AzureArgs::augment_args(clap::Command::new("azure"));
            let connection = TargetArgs::augment_args(azure.clone());
            match &mut cli.command {
                Command::Doctor(args) => args.typed = typed_options(&azure, matches),
                Command::Rdp(args) => args.destination.typed = typed_options(&connection, matches),
                Command::Ssh(args) => args.destination.typed = typed_options(&connection, matches),
                Command::Forward(args) => args.destination.typed = typed_options(&connection, matches),
                Command::Ping(args) => args.destination.typed = typed_options(&connection, matches),
                _ => {}
            }
        }
        let with_output =
            |option, format| format!("the argument '{option}' cannot be used with '--output {format}'");
        let conflict = match &cli.command {
            Command::List(args) => {
                args.conflict_with_table().map(|option| ("list", with_output(option, "table")))
            }
            Command::Config(args) => {
                args.conflict_with_block().map(|option| ("config", with_output(option, "-")))
            }
            Command::Forward(args) => args.conflict().map(|message| ("forward", message)),
            _ => None,
        };
        if let Some((name, message)) = conflict {
            let mut command = with_fixed_usage(Self::command());
            let command = command.find_subcommand_mut(name).cloned().unwrap_or_default();
            let mut command = command.bin_name(format!("arcssh {name}"));
            return Err(command.error(ErrorKind::ArgumentConflict, message));
        }
        Ok(cli)
    }
}

/// The command line of a `ProxyCommand`. Building only this command, with the same types, takes a small part of the time for
/// all commands. [`Cli`] parses what is not valid here, so help and errors are the same.
#[derive(Debug, Parser)]
#[command(name = "arcssh", disable_help_subcommand = true)]
struct ProxyCli {
    #[command(subcommand)]
    command: ProxyCommand,
    #[command(flatten)]
    log: LogArgs,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, Subcommand)]
enum ProxyCommand {
    Proxy(ProxyArgs),
}

impl From<ProxyCli> for Cli {
    fn from(ProxyCli { command: ProxyCommand::Proxy(args), log, client }: ProxyCli) -> Self {
        Self { command: Command::Proxy(args), log, client }
    }
}

/// Removes the words of `arcssh ssh` that are for ssh from a command line, and returns them.
fn take_ssh_words(words: &mut Vec<OsString>) -> SshWords {
    if !words.iter().any(|word| word == "ssh") {
        return SshWords::default();
    }
    let mut command = Cli::command();
    command.build();
    let has_value = |command: &clap::Command, option: &str| {
        let is_it = |arg: &&Arg| arg.get_long().is_some_and(|long| option.strip_prefix("--") == Some(long));
        let arg = command.get_arguments().find(is_it);
        arg.is_some_and(|arg| arg.get_action().takes_values() && !arg.is_require_equals_set())
    };
    let mut at = 1;
    while let Some(option) = words.get(at).and_then(|word| word.to_str()).filter(|word| word.starts_with('-'))
    {
        at += if has_value(&command, option) { 2 } else { 1 };
    }
    let Some(ssh) =
        command.find_subcommand("ssh").filter(|_| words.get(at).is_some_and(|word| word == "ssh"))
    else {
        return SshWords::default();
    };
    let split = ssh::split(words.drain(at + 1..), |option| has_value(ssh, option));
    words.extend(split.own);
    split.ssh
}

/// Returns the words of a command line before the word to complete without the options of ssh, which the parser does not know;
/// `None` if that word is the argument of one of these, such as a port.
pub(crate) fn without_ssh_options(words: Vec<OsString>) -> Option<Vec<OsString>> {
    let mut own = words.clone();
    let ssh = take_ssh_words(&mut own);
    if !ssh.command.is_empty() || words.iter().any(|word| word == "--") {
        return Some(words);
    }
    own.retain(|word| word != "--");
    if ssh.lacks_argument() {
        // This option of arcssh completes a file too.
        let is_file = ssh.options.last().is_some_and(|option| ssh::has_file(option));
        return is_file.then(|| [own, vec!["--identity".into()]].concat());
    }
    Some(own)
}

/// Sets the usage of each command. An error of clap would otherwise list the options of the command line and of the
/// environment.
fn with_fixed_usage(mut command: clap::Command) -> clap::Command {
    command.build();
    let usage = command.render_usage().to_string();
    let command = command.override_usage(usage.trim_start_matches("Usage: ").to_owned());
    command.mut_subcommands(with_fixed_usage)
}

/// Replaces clap's suggestions for an unknown option: an unrelated one, such as `--output` for `--group`, and to pass the option
/// as the name of a machine.
fn with_similar_option(mut error: clap::Error, words: &[OsString]) -> clap::Error {
    let Some(ContextValue::String(typed)) = error.get(ContextKind::InvalidArg) else { return error };
    let Some(name) = typed.strip_prefix("--").filter(|_| error.kind() == ErrorKind::UnknownArgument) else {
        return error;
    };
    let mut all = Cli::command();
    all.build();
    let before = words.iter().take_while(|word| !word.to_string_lossy().starts_with(typed.as_str()));
    let command = before.skip(1).fold(&all, |command, word| command.find_subcommand(word).unwrap_or(command));
    let options = command.get_arguments().filter(|arg| !arg.is_hide_set()).filter_map(Arg::get_long);
    let similar = similar(name, options.filter(|option| option.len() > 2));
    match similar.first() {
        Some(option) => {
            error.insert(ContextKind::SuggestedArg, ContextValue::String(format!("--{option}")));
        }
        None => drop(error.remove(ContextKind::SuggestedArg)),
    }
    if let Some(ContextValue::StyledStrs(mut tips)) = error.remove(ContextKind::Suggested) {
        tips.retain(|tip| !tip.to_string().starts_with("to pass '"));
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(tips));
    }
    error
}

/// Returns the text of a usage error, with the command that prints the help of the command on this command line.
pub(crate) fn usage_error(error: &clap::Error, words: impl Iterator<Item = OsString>) -> String {
    let all = Cli::command();
    let command = words.skip(1).find_map(|word| Some(format!(" {}", all.find_subcommand(word)?.get_name())));
    let help = format!("For help: arcssh{} --help", command.unwrap_or_default());
    let text = error.render().to_string().replace("For more information, try '--help'.", &help);
    NUMBERS.into_iter().fold(text, |text, (rust, plain)| text.replace(rust, plain))
}

/// The texts of Rust for a value that is no number (`std::num::ParseIntError`), and plain ones.
const NUMBERS: [(&str, &str); 3] = [
    ("invalid digit found in string", "not a whole number"),
    ("cannot parse integer from empty string", "not a whole number"),
    ("number too large to fit in target type", "the number is too large"),
];

/// The options that every command has, and the version.
fn general() -> [Arg; 2] {
    let general = |name, letter| Arg::new(name).long(name).short(letter).help_heading(GENERAL);
    let help = "Print help; --help lists all options, with examples";
    [
        general("help", 'h').action(ArgAction::Help).global(true).help(help),
        general("version", 'V').action(ArgAction::Version).help("Print the version").hide_short_help(true),
    ]
}

const GENERAL: &str = "General";

/// The help of arcssh. clap has no headings for commands, so the list of commands is [`COMMANDS`].
fn help_template() -> String {
    format!(
        "{{about-with-newline}}\n{{usage-heading}} {{usage}}\n\n{{before-help}}{HEADING}{GENERAL}:{HEADING:#}\n{{options}}{{after-help}}"
    )
}

/// Returns [`COMMANDS`] in the style of clap's help, without these commands.
fn command_list(without: &[&str]) -> StyledStr {
    let style = |line: &str| match line.strip_prefix("  ").and_then(|line| line.split_once(' ')) {
        Some((name, _)) if without.contains(&name) => None,
        Some((name, about)) => Some(format!("  {COMMAND}{name}{COMMAND:#} {about}")),
        None if line.is_empty() => Some(String::new()),
        None => Some(format!("{HEADING}{line}{HEADING:#}")),
    };
    StyledStr::from(COMMANDS.lines().filter_map(style).collect::<Vec<_>>().join("\n"))
}

/// The commands in groups, in the order in which a new user needs them.
const COMMANDS: &str = "\
Start here:
  login        Sign in to Azure
  setup        Enable SSH on machines in Azure
  config       Add Arc machines to your ssh configuration

Connect:
  ssh          Connect to a machine, without a host entry
  rdp          Open the remote desktop of a machine
  list         List Arc machines (table, JSON, Ansible)
  forward      Forward local ports to sshd of machines
  warm         Fill the credential cache in advance
  cert         Get or show an Entra ID SSH certificate
  known-hosts  Print host keys as known_hosts lines
  proxy        Connect ssh to a machine, as its ProxyCommand

Maintain:
  doctor       Diagnose connection problems
  last         Show the last connection error
  ping         Measure a connection and round trips
  account      Show the Azure account in use
  cache        Show or clear the cache
  logout       Sign out and delete cached credentials
  teardown     Disable SSH on machines in Azure
  completions  Print a shell completion script
  man          Write the manual pages to a directory
  version      Print the version, and details with --verbose";

/// The commands that the short help omits, so that it fits a terminal of 24 lines.
const RARE: [&str; 11] = [
    "forward",
    "rdp",
    "warm",
    "cert",
    "known-hosts",
    "proxy",
    "ping",
    "teardown",
    "completions",
    "man",
    "version",
];

/// Returns those of some options that are on the command line, without those from the environment.
fn typed_options(options: &clap::Command, matches: &ArgMatches) -> Vec<OsString> {
    let typed = |option: &Arg| {
        let name = option.get_id().as_str();
        let is_typed = matches.value_source(name) == Some(ValueSource::CommandLine);
        let value = matches.get_raw(name).and_then(Iterator::last).filter(|_| is_typed)?;
        Some([format!("--{}", option.get_long()?).into(), value.to_owned()])
    };
    options.get_arguments().filter_map(typed).flatten().collect()
}

/// Returns whether the command line is one of Microsoft's sshProxy. sshProxy has no commands: its first word is `-r` or
/// `-p`, or it has no words and the relay information is in the environment.
fn is_sshproxy_call(first_word: Option<&OsStr>, relay_info_given: bool) -> bool {
    match first_word.and_then(OsStr::to_str) {
        Some(word) => word.starts_with("-r") || word.starts_with("-p"),
        None => relay_info_given && first_word.is_none(),
    }
}

/// The commands. [`COMMANDS`] lists them for the help.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Sign in to Azure
    #[command(after_long_help = LOGIN_EXAMPLES)]
    Login(LoginArgs),
    /// Add Arc machines to your ssh configuration
    #[command(after_long_help = CONFIG_EXAMPLES)]
    Config(Box<ConfigArgs>),
    /// Connect to a machine, without a host entry
    #[command(after_long_help = ssh::EXAMPLES)]
    Ssh(Box<SshArgs>),
    /// Open the remote desktop of a machine
    #[command(after_long_help = rdp::EXAMPLES)]
    Rdp(Box<RdpArgs>),
    /// List Arc machines (table, JSON, Ansible)
    #[command(after_long_help = LIST_EXAMPLES)]
    List(ListArgs),
    /// Forward local ports to sshd of machines
    ///
    /// Only the ports that setup enables can be reached: the one of SSH, and that of Windows Admin Center with --service WAC.
    /// For other ports of a machine, use the options -L and -D of ssh.
    #[command(after_help = FORWARD_SCOPE, after_long_help = FORWARD_EXAMPLES)]
    Forward(Box<ForwardArgs>),
    /// Get or show an Entra ID SSH certificate
    #[command(after_long_help = CERT_EXAMPLES)]
    Cert(CertArgs),
    /// Fill the credential cache in advance
    #[command(after_long_help = WARM_EXAMPLES)]
    Warm(WarmArgs),
    /// Print host keys as known_hosts lines
    #[command(after_long_help = KNOWN_HOSTS_EXAMPLES)]
    KnownHosts(KnownHostsArgs),
    /// Enable SSH on machines in Azure
    #[command(after_long_help = SETUP_EXAMPLES)]
    Setup(SetupArgs),
    /// Disable SSH on machines in Azure
    Teardown(TeardownArgs),
    /// Diagnose connection problems
    #[command(after_long_help = DOCTOR_EXAMPLES)]
    Doctor(DoctorArgs),
    /// Show the last connection error
    Last(LastArgs),
    /// Measure a connection and round trips
    #[command(after_long_help = PING_EXAMPLES)]
    Ping(Box<PingArgs>),
    /// Show the Azure account in use
    Account(AccountArgs),
    /// Sign out and delete cached credentials
    Logout(OutputArgs),
    /// Show or clear the cache
    Cache(CacheArgs),
    /// Connect ssh to a machine, as its ProxyCommand
    #[command(after_long_help = PROXY_EXAMPLES)]
    Proxy(ProxyArgs),
    /// Print a shell completion script
    #[command(after_long_help = COMPLETIONS_EXAMPLES)]
    Completions(CompletionsArgs),
    /// Print what the current word of a command line can be, for the scripts of `arcssh completions`
    #[command(hide = true)]
    Complete(complete::CompleteArgs),
    /// Write the manual pages to a directory
    Man(ManArgs),
    /// Print the version, and details with --verbose
    Version(OutputArgs),
}

const EXAMPLES: &str = "\
Examples:
  arcssh login                             sign in
  arcssh setup web01                       enable SSH on web01
  arcssh config -g rg-web --user azureuser
                                           add a whole resource group
  ssh web01                                connect; scp, sftp, rsync work too
  arcssh last web01                        show the last connection error
  arcssh doctor web01                      diagnose the connection

For the options of a command, run: arcssh COMMAND --help";

const LOGIN_EXAMPLES: &str = "\
Examples:
  arcssh login                             use the browser of this computer
  arcssh login --device-code               use a browser on another device
  arcssh login --tenant contoso.com        sign in to another tenant as a guest
  arcssh login --account me@contoso.com    accept only this account

After the sign-in, arcssh prints the name of the account. If --account names
another account, or if another account was signed in before, arcssh asks for
confirmation. Without a terminal, the sign-in then fails.

The refresh token is stored in the system's key store: macOS Keychain, Windows
Credential Manager or Secret Service. Without one, or with ARCSSH_NO_KEYRING=1,
it is stored in a file that only you can read.";

const LIST_EXAMPLES: &str = "\
Examples:
  arcssh list -g rg-web                    list a resource group
  arcssh list --tag env=prod -o json
                                           print JSON
  arcssh list --list                       print an Ansible inventory
  arcssh list --standalone                 one that needs no ssh configuration";

const FORWARD_SCOPE: &str = "\
Other ports of a machine cannot be reached: use the options -L and -D of ssh.";

const FORWARD_EXAMPLES: &str = "\
Examples:
  arcssh forward web01                     choose a free port, and print it
  arcssh forward web01=2201 web02=2202     for WinSCP, PuTTY and others
  arcssh forward web01=./web01.sock        a Unix socket that only you can open
  arcssh forward win01=6516 --service WAC  for https://localhost:6516
  arcssh forward web01 --exec 'psftp -P {port} ada@{host}'
                                           end with the command

A connection that fails does not end arcssh. Ctrl-C does.";

const PING_EXAMPLES: &str = "\
Examples:
  arcssh ping web01                        5 round trips
  arcssh ping web01 -c 0 --interval 10     until Ctrl-C
  arcssh ping web01 -o json                print JSON

The relay answers each ping; only the first line includes the machine. arcssh
connects to the machine's sshd once, without a login, and again each minute.
OpenSSH 9.8 and later limits such connections (PerSourcePenalties).";

const COMPLETIONS_EXAMPLES: &str = "\
Examples:
  arcssh completions bash >> ~/.bash_completion
  arcssh completions zsh > ~/.zfunc/_arcssh
                                           if fpath contains ~/.zfunc
  arcssh completions fish > ~/.config/fish/completions/arcssh.fish
  arcssh completions powershell | Out-String | Invoke-Expression
                                           in $PROFILE";

const WARM_EXAMPLES: &str = "\
Examples:
  arcssh warm -g rg-web                    before you run a playbook
  arcssh warm --all --jobs 20              20 machines in parallel
  arcssh warm --os linux --status connected
                                           by their properties in Azure

Connects to each machine's sshd once, without a login. OpenSSH 9.8 and later
limits such connections (PerSourcePenalties).";

const KNOWN_HOSTS_EXAMPLES: &str = "\
Examples:
  arcssh known-hosts -g rg-web >> ~/.ssh/known_hosts
  arcssh known-hosts web01 | ssh-keygen -lf -
                                           print the fingerprints

The first key that you accept is not verified. Compare its fingerprint with the
one that an administrator sees on the machine, with ssh-keygen -lf FILE.

Connects to each machine's sshd once for each kind of key, without a login.
OpenSSH 9.8 and later limits such connections (PerSourcePenalties).";

const CERT_EXAMPLES: &str = "\
Examples:
  arcssh cert                              for host entries of config --entra
  arcssh cert --show                       show the cached certificate
  arcssh cert --public-key ~/.ssh/id_rsa.pub
                                           for your own key";

const SETUP_EXAMPLES: &str = "\
Examples:
  arcssh setup web01                       show, confirm and apply the changes
  arcssh setup -g rg-web --yes             a resource group, unattended
  arcssh setup web01 --dry-run             show the changes only
  arcssh setup web01 --entra               also install logins with Entra ID";

const DOCTOR_EXAMPLES: &str = "\
Examples:
  arcssh doctor                            check this computer and the account
  arcssh doctor web01                      check each step up to sshd on web01
  arcssh doctor web01 --fix                also run arcssh setup if that helps
  arcssh doctor web01 --bundle bug.tar.gz  write an archive for a bug report

Connects to the machine's sshd without a login: once, and once more for a host
entry. OpenSSH 9.8 and later limits such connections (PerSourcePenalties).";

const CONFIG_EXAMPLES: &str = "\
Examples:
  arcssh config web01 --user azureuser     add one machine
  arcssh config -g rg-web                  add a resource group
  arcssh config web01 --entra              log in with an Entra ID certificate
  arcssh config --all --dry-run            show the changes only
  arcssh config                            update the entries from Azure
  arcssh config --remove                   remove all entries";

const PROXY_EXAMPLES: &str = "\
A host entry in ~/.ssh/config, as arcssh config writes it:

  Host web01
      ProxyCommand arcssh proxy /subscriptions/…/machines/web01 --port %p

Entries of `az ssh config` work too: replace the path of its sshProxy with the
path of arcssh.";

#[derive(Debug, Args)]
pub(crate) struct ProxyArgs {
    /// Resource ID of the Arc machine, /subscriptions/…/machines/NAME
    #[arg(value_name = "RESOURCE-ID", conflicts_with_all = ["relay_info", "host"])]
    pub(crate) machine: Option<ResourceId>,
    /// Name of the Arc machine, to resolve when connecting; %h in a ProxyCommand
    #[arg(long, value_name = "NAME", conflicts_with = "relay_info", help_heading = "Machine")]
    pub(crate) host: Option<String>,
    /// Suffix to strip from the host name, for example .arc
    #[arg(
        long,
        requires = "host",
        default_value = "",
        hide_default_value = true,
        hide_short_help = true,
        help_heading = "Machine"
    )]
    pub(crate) suffix: String,
    /// Subscription of the machine [default: all that the account can see]
    #[arg(long, value_name = "ID", requires = "host", hide_short_help = true, help_heading = "Machine")]
    pub(crate) subscription: Option<String>,
    /// File with relay information of `az ssh config`, instead of a resource ID
    #[arg(short, long, value_name = "FILE", help_heading = "Machine")]
    pub(crate) relay_info: Option<PathBuf>,
    #[command(flatten, next_help_heading = "Connection")]
    pub(crate) target: TargetArgs,
    /// Path at which to serve an Entra ID SSH certificate; the IdentityAgent of the host entry
    #[arg(
        long,
        value_name = "PATH",
        conflicts_with = "relay_info",
        hide_short_help = true,
        help_heading = "Certificate"
    )]
    pub(crate) agent: Option<PathBuf>,
    /// Fail unless the certificate is valid for this login name
    #[arg(long, value_name = "NAME", requires = "agent", value_parser = login_name, hide_short_help = true, help_heading = "Certificate")]
    pub(crate) login_name: Option<String>,
    #[command(flatten)]
    pub(crate) certificate: CertificateArgs,
    #[command(flatten)]
    pub(crate) azure: AzureArgs,
}

/// The service of a machine to connect to.
#[derive(Clone, Debug, Args)]
pub(crate) struct TargetArgs {
    /// Port on the machine [default: 22 for SSH, 6516 for WAC]
    #[arg(short, long, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) port: Option<u16>,
    /// Service on the machine
    #[arg(long, ignore_case = true, value_enum, default_value_t = Service::Ssh, hide_short_help = true)]
    pub(crate) service: Service,
    /// Seconds to keep retrying while the machine's agent is not ready (0: try once)
    #[arg(long, value_name = "SECONDS", value_parser = seconds, default_value = "90")]
    pub(crate) wait: Duration,
}

impl TargetArgs {
    /// Returns the port of the command line, or the service's default port.
    pub(crate) fn port(&self) -> u16 {
        self.port.unwrap_or(self.service.default_port())
    }
}

/// The selection of machines.
#[derive(Debug, Args)]
#[command(next_help_heading = "Machines")]
pub(crate) struct SelectionArgs {
    /// Name, GROUP/NAME or resource ID of a machine
    #[arg(value_name = "MACHINE", display_order = 0, add = complete::machine())]
    pub(crate) machines: Vec<String>,
    /// Select all machines of this resource group
    #[arg(short = 'g', long = "resource-group", value_name = "GROUP", display_order = 1, add = complete::group())]
    pub(crate) groups: Vec<String>,
    /// Search only the subscription with this name or ID
    #[arg(
        short,
        long = "subscription",
        value_name = "SUBSCRIPTION",
        display_order = 2,
        add = complete::subscription(),
        hide_short_help = true
    )]
    pub(crate) subscriptions: Vec<String>,
    /// Select machines with this tag
    #[arg(long = "tag", value_name = "KEY=VALUE", value_parser = tag, display_order = 3, add = complete::tag())]
    pub(crate) tags: Vec<String>,
    /// Select machines with this operating system
    #[arg(long, value_enum, ignore_case = true, display_order = 4, hide_short_help = true)]
    pub(crate) os: Vec<OperatingSystem>,
    /// Select machines with this status; Azure learns about a lost machine up to half an hour late
    #[arg(
        long = "status",
        value_name = "STATUS",
        value_enum,
        ignore_case = true,
        display_order = 5,
        hide_short_help = true
    )]
    pub(crate) statuses: Vec<Status>,
    /// Select machines whose resource ID has this type, also as Azure spells it
    #[arg(
        long = "type",
        alias = "resource-type",
        value_name = "TYPE",
        value_enum,
        ignore_case = true,
        display_order = 6,
        hide_short_help = true
    )]
    pub(crate) types: Vec<ArcType>,
    /// Select all machines that the account can see
    #[arg(long, display_order = 7)]
    pub(crate) all: bool,
}

impl SelectionArgs {
    /// Returns whether the selection is a filter, which selects machines that the user did not name.
    fn is_filter(&self) -> bool {
        let Self { groups, tags, os, types, statuses, .. } = self;
        let is_narrowed = !(groups.is_empty()
            && tags.is_empty()
            && os.is_empty()
            && types.is_empty()
            && statuses.is_empty());
        self.all || is_narrowed
    }
}

/// The value of `arcssh config --status`: the entry of a machine that is offline would disappear with the next run.
fn no_status(_: &str) -> Result<Status, &'static str> {
    Err("a host entry must not depend on the status of its machine: select machines by --os, --type or --tag")
}

#[derive(Debug, Args)]
#[command(mut_arg("statuses", |arg| arg.hide(true).value_parser(no_status)))]
pub(crate) struct ConfigArgs {
    #[command(flatten)]
    pub(crate) selection: SelectionArgs,
    /// User to log in as
    #[arg(long, value_name = "NAME", help_heading = "Host entries")]
    pub(crate) user: Option<String>,
    /// Port of sshd on the machines [default: ssh's, 22]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..), hide_short_help = true, help_heading = "Host entries")]
    pub(crate) port: Option<u16>,
    /// Private key to log in with
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = "Host entries")]
    pub(crate) identity: Option<String>,
    /// Certificate of your own certificate authority to log in with, for the key of --identity or a default key of ssh
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, conflicts_with_all = ["entra", "remove", "verify"], hide_short_help = true, help_heading = "Host entries")]
    pub(crate) certificate_file: Option<String>,
    /// Log in with an Entra ID SSH certificate
    ///
    /// An agent of arcssh serves the certificate, or arcssh writes it to files [default: agent; on Windows: files]
    #[arg(long, value_name = "MODE", num_args = 0..=1, require_equals = true, help_heading = "Host entries")]
    pub(crate) entra: Option<Option<CertificateMode>>,
    /// With --entra=files: request the certificate for your own RSA key, whose private key ssh-agent may have
    #[arg(
        long,
        value_name = "FILE",
        value_hint = ValueHint::FilePath,
        requires = "entra",
        hide_short_help = true,
        help_heading = "Host entries"
    )]
    pub(crate) public_key: Option<String>,
    /// Share one connection between the sessions to a machine
    #[arg(long, hide_short_help = true, help_heading = "Host entries")]
    pub(crate) control_master: bool,
    /// Add a host entry that resolves any machine by name when you connect, such as '*.arc'
    #[arg(long, value_name = "PATTERN", hide_short_help = true, help_heading = "Host entries")]
    pub(crate) wildcard: Option<String>,
    /// Suffix of the names of all host entries, such as '.arc', so that no other host has their names; '' removes it.
    /// Adopted entries have no suffix
    #[arg(long, value_name = "SUFFIX", conflicts_with_all = ["remove", "verify"], hide_short_help = true, help_heading = "Host entries")]
    pub(crate) suffix: Option<String>,
    /// Allow the selected machines to use their own names that match this pattern, such as '*.corp.example.com'.
    /// Without this option, arcssh does not use a name with a dot, or a name that ssh already uses. Anyone who can
    /// onboard a machine can take over a name that you allow
    #[arg(long, value_name = "PATTERN", hide_short_help = true, help_heading = "Host entries")]
    pub(crate) allow_names: Vec<String>,
    /// Whether the machines were selected by group, tag or --all, and not by name.
    #[arg(skip)]
    pub(crate) derived: bool,
    /// Template of a host entry [default: the built-in template]
    #[arg(long, value_name = "FILE", hide_short_help = true, help_heading = "Host entries")]
    pub(crate) template: Option<PathBuf>,
    /// Target platform [default: this one]
    #[arg(long, value_enum, hide_short_help = true, help_heading = "Host entries")]
    pub(crate) platform: Option<Platform>,
    /// Path of arcssh on the computer that uses the host entries [default: of this program]
    #[arg(long, value_name = "PATH", conflicts_with_all = ["remove", "verify"], hide_short_help = true, help_heading = "Host entries")]
    pub(crate) program: Option<String>,
    /// File to write, for Include or ssh -F [default: ~/.ssh/config]
    #[arg(long, value_name = "FILE", hide_short_help = true, help_heading = "Output")]
    pub(crate) file: Option<PathBuf>,
    /// Output format [default: table]; `-` prints the managed block instead of writing it
    #[arg(
        short,
        long,
        value_name = "FORMAT",
        value_enum,
        ignore_case = true,
        hide_short_help = true,
        help_heading = "Output"
    )]
    pub(crate) output: Option<ConfigFormat>,
    /// Show the changes only; exit with status 1 if there are any
    #[arg(long, help_heading = "Output")]
    pub(crate) dry_run: bool,
    /// Remove the host entries of these machines; without MACHINE, all
    ///
    /// They stay removed until you name the machines again. Without MACHINE, the managed block and its selections are
    /// removed.
    #[arg(
        long,
        conflicts_with_all = ["verify", "wildcard", "user", "groups", "subscriptions", "tags", "os", "types", "all"],
        help_heading = "Output"
    )]
    pub(crate) remove: bool,
    /// Remove the host entries of deleted machines without confirmation
    #[arg(short, long, hide_short_help = true, help_heading = "Output")]
    pub(crate) yes: bool,
    /// Replace the host entries of az ssh config, Export-AzSshConfig and azure_rm_arcssh in the file
    #[arg(long, conflicts_with_all = ["remove", "verify"], hide_short_help = true, help_heading = "Output")]
    pub(crate) adopt: bool,
    /// With --adopt: delete the relay tokens and keys left over by replaced host entries
    #[arg(long, requires = "adopt", hide_short_help = true, help_heading = "Output")]
    pub(crate) clean: bool,
    /// Check with ssh that it uses the host entries, or those of these machines, and write nothing
    #[arg(
        long,
        conflicts_with_all = ["wildcard", "groups", "subscriptions", "tags", "os", "types", "all"],
        hide_short_help = true, help_heading = "Output"
    )]
    pub(crate) verify: bool,
    #[command(flatten)]
    pub(crate) certificate: CertificateArgs,
    #[command(flatten)]
    pub(crate) azure: AzureArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum ConfigFormat {
    #[value(help = "text for people")]
    Table,
    #[value(help = "the changes as one JSON document, docs/JSON.md")]
    Json,
    #[value(name = "-", help = "the managed block")]
    Block,
}

impl ConfigArgs {
    pub(crate) fn is_json(&self) -> bool {
        self.output == Some(ConfigFormat::Json)
    }

    /// The option that writes or checks a file, if the user also asks for the managed block on standard output.
    fn conflict_with_block(&self) -> Option<&'static str> {
        let options = [
            (self.file.is_some(), "--file"),
            (self.dry_run, "--dry-run"),
            (self.remove, "--remove"),
            (self.verify, "--verify"),
        ];
        let is_block = self.output == Some(ConfigFormat::Block);
        options.iter().find(|(given, _)| *given && is_block).map(|(_, option)| *option)
    }

    /// Parses a command line of `arcssh config` that `arcssh setup` runs, with the credential and cloud of `setup`.
    ///
    /// # Errors
    /// The words are not a valid command line of `arcssh config`.
    pub(crate) fn from_setup(words: &[String], setup: &SetupArgs) -> Result<Self, clap::Error> {
        let command = Self::augment_args(clap::Command::new("config").no_binary_name(true));
        let args = Self::from_arg_matches(&command.try_get_matches_from(words)?)?;
        let derived = setup.selection.is_filter();
        Ok(Self { azure: setup.azure.clone(), derived, ..args })
    }
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    pub(crate) selection: SelectionArgs,
    /// Output format [default: table]
    #[arg(
        short = 'o',
        long = "output",
        alias = "format",
        value_name = "FORMAT",
        value_enum,
        ignore_case = true,
        help_heading = "Output"
    )]
    pub(crate) format: Option<ListFormat>,
    /// Print all hosts, as an Ansible inventory script
    #[arg(long, help_heading = "Output")]
    pub(crate) list: bool,
    /// Print the variables of one host, as an Ansible inventory script
    #[arg(long, value_name = "ALIAS", help_heading = "Output", add = complete::alias())]
    pub(crate) host: Option<String>,
    /// Print an Ansible inventory with the ssh options of each host, for a computer without the ssh configuration
    ///
    /// It names no certificate: docs/ANSIBLE.md shows how to use one there
    #[arg(long, help_heading = "Output")]
    pub(crate) standalone: bool,
    /// User to log in as
    #[arg(
        long,
        value_name = "NAME",
        requires = "standalone",
        hide_short_help = true,
        help_heading = "Output"
    )]
    pub(crate) user: Option<String>,
    /// Path of arcssh on the computer that runs Ansible [default: of this program]
    #[arg(
        long,
        value_name = "PATH",
        requires = "standalone",
        hide_short_help = true,
        help_heading = "Output"
    )]
    pub(crate) program: Option<String>,
    #[command(flatten)]
    pub(crate) azure: AzureArgs,
}

impl ListArgs {
    /// The option for an inventory, if the user also asks for a table.
    fn conflict_with_table(&self) -> Option<&'static str> {
        let options =
            [(self.list, "--list"), (self.host.is_some(), "--host"), (self.standalone, "--standalone")];
        let is_table = self.format == Some(ListFormat::Table);
        options.iter().find(|(given, _)| *given && is_table).map(|(_, option)| *option)
    }
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Certificate")]
pub(crate) struct CertArgs {
    /// Write the certificate to FILE, which must end in -cert.pub; without --public-key, also write the private key, to
    /// FILE without -cert.pub
    #[arg(long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// Request a certificate for your own public key [default of --file: KEY-cert.pub in the same directory]
    #[arg(long, value_name = "FILE")]
    pub(crate) public_key: Option<PathBuf>,
    /// Show the cached certificate
    #[arg(long, conflicts_with_all = ["file", "public_key"])]
    pub(crate) show: bool,
    /// With --public-key: keep a certificate in the file that is valid for 5 more minutes
    #[arg(long, requires = "public_key", hide_short_help = true)]
    pub(crate) if_needed: bool,
    /// With --show: output format [default: table]
    #[arg(
        short,
        long,
        value_name = "FORMAT",
        value_enum,
        ignore_case = true,
        requires = "show",
        conflicts_with_all = ["file", "public_key"],
        hide_short_help = true
    )]
    pub(crate) output: Option<OutputFormat>,
    /// With --file: fail unless the certificate is valid for this login name
    #[arg(long, value_name = "NAME", requires = "file", value_parser = login_name, hide_short_help = true)]
    pub(crate) login_name: Option<String>,
    #[command(flatten)]
    pub(crate) certificate: CertificateArgs,
    #[command(flatten)]
    pub(crate) azure: AzureArgs,
}

/// The request for an Entra ID SSH certificate.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Certificate")]
pub(crate) struct CertificateArgs {
    /// Scope of the certificate [default: sign-in to Linux machines of the cloud]
    #[arg(long, value_name = "SCOPE", hide_short_help = true)]
    scope: Option<String>,
    /// Application (client) ID for the request [default: the application that you signed in to]
    #[arg(long, value_name = "ID", hide_short_help = true)]
    client_id: Option<String>,
}

impl CertificateArgs {
    /// Returns the options of the request.
    pub(crate) fn options(&self) -> CertificateOptions {
        CertificateOptions { scope: self.scope.clone(), client_id: self.client_id.clone() }
    }
}

#[derive(Debug, Args)]
pub(crate) struct WarmArgs {
    #[command(flatten)]
    pub(crate) selection: SelectionArgs,
    #[command(flatten, next_help_heading = "Connections")]
    pub(crate) target: TargetArgs,
    /// Number of machines to connect to in parallel
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u8).range(1..), default_value = "8")]
    pub(crate) jobs: u8,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
    #[command(flatten)]
    pub(crate) azure: AzureArgs,
}

#[derive(Debug, Args)]
#[command(mut_arg("service", |arg| arg.hide(true)))]
pub(crate) struct KnownHostsArgs {
    #[command(flatten)]
    pub(crate) selection: SelectionArgs,
    #[command(flatten, next_help_heading = "Connections")]
    pub(crate) target: TargetArgs,
    /// Number of machines to connect to in parallel
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u8).range(1..), default_value = "8")]
    pub(crate) jobs: u8,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
    #[command(flatten)]
    pub(crate) azure: AzureArgs,
}

/// The help of `arcssh setup --port`: an enabled port is not changed by default.
const SETUP_PORT: &str =
    "Port on the machine [default: the enabled port; if none is enabled, 22 for SSH and 6516 for WAC]";

/// The default of `arcssh setup --wait` with an extension: in a recording of azure-powershell, an installation took 140 s
/// (`New-AzConnectedMachineExtension`), and one that installs packages takes longer.
const EXTENSION_WAIT: &str = "900";
const SETUP_WAIT: &str = "Seconds to wait for an extension, and to keep retrying while the machine's agent is not ready (0: \
    try once) [default: 180; with --sshd or --entra: 900]";

/// The extensions to install or to remove.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct ExtensionArgs {
    /// sshd of Windows machines
    #[arg(long)]
    sshd: bool,
    /// Entra ID logins of Linux machines
    #[arg(long)]
    pub(crate) entra: bool,
}

impl ExtensionArgs {
    /// Returns the extensions that the options name.
    pub(crate) fn wanted(self) -> Vec<SshExtension> {
        let options = [(self.sshd, SshExtension::Sshd), (self.entra, SshExtension::Entra)];
        options.into_iter().filter(|(is_given, _)| *is_given).map(|(_, extension)| extension).collect()
    }
}

#[derive(Debug, Args)]
#[command(
    mut_arg("port", |arg| arg.help(SETUP_PORT)),
    mut_arg("wait", |arg| {
        let options = [("sshd", "true", EXTENSION_WAIT), ("entra", "true", EXTENSION_WAIT)];
        let arg = arg.default_value("180").default_value_ifs(options).hide_default_value(true);
        arg.help("Seconds to wait for the agent [default: 180 or 900]").long_help(SETUP_WAIT)
    }),
    mut_arg("sshd", |arg| arg.help("Also install sshd on Windows machines (WindowsOpenSSH)")),
    mut_arg("entra", |arg| arg.help("Also install Entra ID logins (AADSSHLoginForLinux)"))
)]
pub(crate) struct SetupArgs {
    #[command(flatten)]
    pub(crate) selection: SelectionArgs,
    #[command(flatten, next_help_heading = "Setup")]
    pub(crate) target: TargetArgs,
    /// Replace the enabled port with --port; users of the old port lose access
    #[arg(long, requires = "port", hide_short_help = true)]
    pub(crate) replace_port: bool,
    #[command(flatten)]
    pub(crate) extensions: ExtensionArgs,
    /// Do not ask for confirmation
    #[arg(short, long)]
    pub(crate) yes: bool,
    /// Show the changes only; exit with status 1 if there are any
    #[arg(long, conflicts_with = "yes")]
    pub(crate) dry_run: bool,
    /// Number of machines to set up in parallel
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u8).range(1..), default_value = "8")]
    pub(crate) jobs: u8,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
    #[command(flatten)]
    pub(crate) azure: AzureArgs,
}

#[derive(Debug, Args)]
#[command(
    mut_arg("sshd", |arg| arg.help("Also remove sshd of Windows machines (WindowsOpenSSH)")),
    mut_arg("entra", |arg| arg.help("Also remove Entra ID logins (AADSSHLoginForLinux)"))
)]
pub(crate) struct TeardownArgs {
    #[command(flatten)]
    pub(crate) selection: SelectionArgs,
    /// Delete the endpoint, and with it all services of the machine
    #[arg(long, help_heading = "Setup")]
    pub(crate) endpoint: bool,
    /// Service to disable
    #[arg(long, ignore_case = true, value_enum, default_value_t = Service::Ssh, help_heading = "Setup")]
    pub(crate) service: Service,
    #[command(flatten, next_help_heading = "Setup")]
    pub(crate) extensions: ExtensionArgs,
    /// Do not ask for confirmation
    #[arg(short, long, help_heading = "Setup")]
    pub(crate) yes: bool,
    /// Show the changes only; exit with status 1 if there are any
    #[arg(long, conflicts_with = "yes", help_heading = "Setup")]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
    #[command(flatten)]
    pub(crate) azure: AzureArgs,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Checks")]
pub(crate) struct DoctorArgs {
    /// Name, GROUP/NAME, resource ID or ssh host name of a machine
    #[arg(value_name = "MACHINE", help_heading = "Machines", add = complete::machine())]
    pub(crate) machine: Option<String>,
    /// Port on the machine [default: the port of the host entry, else the enabled port]
    #[arg(short, long, requires = "machine", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) port: Option<u16>,
    /// Search only the subscription with this name or ID
    #[arg(short, long, value_name = "NAME", requires = "machine", add = complete::subscription())]
    pub(crate) subscription: Option<String>,
    /// ssh configuration to check [default: ~/.ssh/config]
    #[arg(long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) output: OutputOrJsonArgs,
    /// Write an archive (.tar.gz) for a bug report, without passwords, tokens and keys
    #[arg(long, value_name = "FILE", conflicts_with = "fix")]
    pub(crate) bundle: Option<PathBuf>,
    /// Run arcssh setup if it can fix the problem
    #[arg(long, requires = "machine")]
    pub(crate) fix: bool,
    /// Fix without confirmation
    #[arg(short, long, requires = "fix")]
    pub(crate) yes: bool,
    #[command(flatten)]
    pub(crate) azure: AzureArgs,
    /// The options of `azure` from the command line. They override those of a host entry, which override the
    /// environment.
    #[arg(skip)]
    pub(crate) typed: Vec<OsString>,
}

#[derive(Debug, Args)]
pub(crate) struct CacheArgs {
    #[command(subcommand)]
    pub(crate) command: CacheCommand,
}

#[derive(Clone, Copy, Debug, Subcommand)]
pub(crate) enum CacheCommand {
    /// List the cached entries, without secrets
    Show(OutputArgs),
    /// Delete everything except the sign-in
    Clear(OutputArgs),
}

#[derive(Debug, Args)]
pub(crate) struct LastArgs {
    /// Name, GROUP/NAME, resource ID or ssh host name of a machine [default: the machine of the latest error]
    #[arg(value_name = "MACHINE", add = complete::machine())]
    pub(crate) machine: Option<String>,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// Shell to print the script for
    #[arg(value_enum)]
    pub(crate) shell: Shell,
}

#[derive(Debug, Args)]
pub(crate) struct ManArgs {
    /// Directory to write to
    #[arg(value_name = "DIRECTORY")]
    pub(crate) directory: PathBuf,
}

/// The format of standard output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum OutputFormat {
    #[default]
    #[value(help = "text for people")]
    Table,
    #[value(help = "JSON, docs/JSON.md")]
    Json,
}

/// The format of the output. Errors are text on standard error in either format.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct OutputArgs {
    /// Output format [default: table]
    #[arg(
        short,
        long,
        value_name = "FORMAT",
        value_enum,
        ignore_case = true,
        default_value_t,
        hide_default_value = true,
        hide_short_help = true,
        help_heading = "Output"
    )]
    pub(crate) output: OutputFormat,
}

impl OutputArgs {
    pub(crate) fn is_json(self) -> bool {
        self.output == OutputFormat::Json
    }
}

/// The format of the output of commands whose `--json` is older than `--output`.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct OutputOrJsonArgs {
    #[command(flatten)]
    output: OutputArgs,
    /// Print JSON
    #[arg(long, hide = true, conflicts_with = "output")]
    json: bool,
}

impl OutputOrJsonArgs {
    pub(crate) fn is_json(self) -> bool {
        self.json || self.output.is_json()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum ListFormat {
    #[value(help = "columns")]
    Table,
    #[value(help = "array of objects")]
    Json,
    #[value(help = "Ansible inventory")]
    Ansible,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Sign-in")]
pub(crate) struct LoginArgs {
    /// Tenant to sign in to [default: the account's home tenant]
    #[arg(long, value_name = "TENANT", value_parser = tenant)]
    pub(crate) tenant: Option<String>,
    /// User principal name of the expected account; the browser suggests it
    #[arg(long, value_name = "NAME")]
    pub(crate) account: Option<String>,
    /// Sign in with a browser on another device
    #[arg(long)]
    pub(crate) device_code: bool,
    /// Application (client) ID to sign in to
    #[arg(long, value_name = "ID", default_value = AZURE_CLI, hide_short_help = true)]
    pub(crate) client_id: String,
    /// Scope whose Conditional Access policies to satisfy [default: Azure Resource Manager]
    #[arg(long, value_name = "SCOPE", hide_short_help = true)]
    pub(crate) scope: Option<String>,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
    #[command(flatten)]
    pub(crate) cloud: CloudArgs,
}

#[derive(Debug, Args)]
pub(crate) struct AccountArgs {
    #[command(flatten)]
    pub(crate) output: OutputArgs,
    #[command(flatten)]
    pub(crate) azure: AzureArgs,
}

/// The account and the cloud of requests to Azure.
#[derive(Clone, Debug, Args)]
pub(crate) struct AzureArgs {
    #[command(flatten)]
    pub(crate) credential: CredentialArgs,
    #[command(flatten)]
    pub(crate) cloud: CloudArgs,
}

impl AzureArgs {
    /// Returns the cloud with the endpoints of the command line. If Azure CLI is the selected credential source, its cloud
    /// is the default.
    ///
    /// # Errors
    /// See [`Cloud::new`]; Azure CLI uses a cloud whose endpoints are unknown.
    pub(crate) fn cloud(&self) -> anyhow::Result<Cloud> {
        let name = match self.cloud_of_azure_cli() {
            None => self.cloud.cloud.unwrap_or(CloudName::Public),
            Some(own) => CloudName::from_str(&own, true).map_err(|_| {
                anyhow!(
                    "Azure CLI uses the cloud {own}, which arcssh does not know: add --cloud, or set ARCSSH_ARM_ENDPOINT and AZURE_AUTHORITY_HOST to its endpoints"
                )
            })?,
        };
        Cloud::new(name, &self.cloud.endpoints())
    }

    /// Returns the user's cloud, or that of Azure CLI if it is the selected credential source.
    pub(crate) fn chosen_cloud(&self) -> Option<CloudName> {
        self.cloud.cloud.or_else(|| CloudName::from_str(&self.cloud_of_azure_cli()?, true).ok())
    }

    /// Returns Azure CLI's name of its cloud, if Azure CLI selects the cloud.
    fn cloud_of_azure_cli(&self) -> Option<String> {
        let is_selected = || {
            self.credential.options().sources().is_ok_and(|sources| sources == [CredentialSource::AzureCli])
        };
        (self.cloud.cloud.is_none() && !self.cloud.endpoints().are_set() && is_selected())
            .then(azure_cli_cloud)?
    }
}

/// The source of access tokens.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Credential")]
pub(crate) struct CredentialArgs {
    /// Credential source [default: any]
    #[arg(
        long,
        env = "ARCSSH_CREDENTIAL",
        value_name = "NAME",
        ignore_case = true,
        value_enum,
        hide_short_help = true
    )]
    credential: Option<CredentialSource>,
    /// Tenant to sign in to [default: the credential's own]
    #[arg(long, value_name = "TENANT", value_parser = tenant, hide_short_help = true)]
    tenant: Option<String>,
}

impl CredentialArgs {
    /// Returns the options of the credential chain.
    pub(crate) fn options(&self) -> CredentialOptions {
        CredentialOptions { source: self.credential.unwrap_or_default(), tenant: self.tenant.clone() }
    }

    /// Returns the credential source, if the user chose one.
    pub(crate) fn source(&self) -> Option<CredentialSource> {
        self.credential.filter(|source| *source != CredentialSource::Unset)
    }
}

fn tag(text: &str) -> Result<String, String> {
    match text.split_once('=') {
        Some((key, _)) if !key.is_empty() => Ok(text.to_owned()),
        _ => Err("--tag has the form KEY=VALUE, such as env=prod".into()),
    }
}

/// Returns the login name of a host entry.
fn login_name(word: &str) -> Result<String, Infallible> {
    Ok(from_word(word))
}

/// Checks that a tenant is an ID or a domain.
fn tenant(text: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
    if text.is_empty() || !text.chars().all(plain) {
        return Err("neither the ID of a tenant nor a domain".into());
    }
    Ok(text.to_owned())
}

/// The Azure cloud, and endpoints that replace those of the cloud.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Cloud")]
pub(crate) struct CloudArgs {
    /// Azure cloud of the machine [default: public]
    #[arg(long, env = "ARCSSH_CLOUD", ignore_case = true, value_enum, hide_short_help = true)]
    cloud: Option<CloudName>,
    /// Address of Azure Resource Manager [default: the cloud's]
    #[arg(long, env = "ARCSSH_ARM_ENDPOINT", value_name = "URL", hide_short_help = true)]
    arm_endpoint: Option<String>,
    /// Audience of access tokens for Azure Resource Manager [default: its address]
    #[arg(long, env = "ARCSSH_ARM_AUDIENCE", value_name = "URL", hide_short_help = true)]
    arm_audience: Option<String>,
    /// Address of Entra ID [default: the cloud's]
    #[arg(long, env = "AZURE_AUTHORITY_HOST", value_name = "URL", hide_short_help = true)]
    authority_host: Option<String>,
    /// DNS domains of relays to accept in addition to the cloud's
    #[arg(long, env = "ARCSSH_RELAY_SUFFIX", value_name = "SUFFIX,…", value_parser = RelaySuffixes::parse, hide_short_help = true)]
    relay_suffix: Option<RelaySuffixes>,
}

impl CloudArgs {
    /// Returns the cloud with the endpoints of the command line.
    ///
    /// # Errors
    /// See [`Cloud::new`].
    pub(crate) fn cloud(&self) -> anyhow::Result<Cloud> {
        Cloud::new(self.cloud.unwrap_or(CloudName::Public), &self.endpoints())
    }

    /// Returns the endpoints that replace those of the cloud.
    pub(crate) fn endpoints(&self) -> Endpoints {
        let non_empty = |value: &Option<String>| value.clone().filter(|text| !text.is_empty());
        Endpoints {
            arm_endpoint: non_empty(&self.arm_endpoint),
            arm_audience: non_empty(&self.arm_audience),
            authority_host: non_empty(&self.authority_host),
            relay_suffixes: self.relay_suffix.clone(),
        }
    }

    /// Returns the domains in which a relay from relay information may be. Relay information does not name its cloud.
    pub(crate) fn relay_suffixes(&self) -> RelaySuffixes {
        let clouds = self.cloud.as_ref().map_or(CloudName::value_variants(), std::slice::from_ref);
        let known: Vec<&str> = clouds.iter().map(|cloud| cloud.relay_suffix()).collect();
        RelaySuffixes::new(&known, self.relay_suffix.as_ref())
    }
}

#[derive(Debug, Args)]
#[command(next_help_heading = GENERAL)]
pub(crate) struct LogArgs {
    /// Log to standard error (-v: info, -vv: debug); RUST_LOG can select more
    #[arg(short, long, action = ArgAction::Count, global = true, hide_short_help = true)]
    pub(crate) verbose: u8,
    /// Also log to this file (a new file, or an earlier log of mode 0600)
    #[arg(long, value_name = "FILE", global = true, hide_short_help = true)]
    pub(crate) log_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = GENERAL)]
pub(crate) struct ClientArgs {
    /// OpenSSH client to run: its path, its name in PATH, or the directory of ssh and ssh-keygen [default: ssh in PATH]
    #[arg(long, env = "ARCSSH_SSH", value_name = "PATH", value_hint = ValueHint::AnyPath, value_parser = OsStringValueParser::new(), global = true, hide_short_help = true)]
    pub(crate) ssh: Option<OsString>,
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

    fn proxy(words: &[&str]) -> Result<ProxyArgs, String> {
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
    fn both_parsers_of_the_proxy_command_agree() {
        let id = "/subscriptions/s/resourceGroups/g/providers/Microsoft.HybridCompute/machines/n";
        for words in [
            &[id, "--port", "22"][..],
            &[id, "-p22", "-vv", "--log-file", "log"],
            &[id, "--wait", "5", "--service", "wac", "--cloud", "china", "--credential", "azure-cli"],
            &["--host", "web01", "--suffix", ".arc", "--subscription", "s"],
            &["-r", "file", "-p", "2222"],
            &[],
        ] {
            let words = || ["arcssh", "proxy"].iter().chain(words);
            let short = ProxyCli::try_parse_from(words()).map(Cli::from).unwrap();
            let full = Cli::try_parse_from(words()).unwrap();
            assert_eq!(format!("{short:?}"), format!("{full:?}"));
        }
        for words in [
            &[id, "--port", "0"][..],
            &["--help"],
            &["-h"],
            &["--version"],
            &["-V"],
            &["web01"],
            &["--prot", "22"],
            &["help"],
            &[id, "-r", "file"],
        ] {
            let words = || ["arcssh", "proxy"].iter().chain(words);
            assert!(ProxyCli::try_parse_from(words()).is_err(), "{:?}", words().collect::<Vec<_>>());
            assert!(Cli::try_parse_from(words()).is_err());
        }
    }

    #[test]
    fn each_command_is_in_one_group_of_the_help_with_its_description() {
        let command = Cli::command();
        let line = |name: &str, about: &str| format!("  {name:11}  {about}");
        let mut described: Vec<String> = command
            .get_subcommands()
            .filter(|command| !command.is_hide_set())
            .map(|command| line(command.get_name(), &command.get_about().unwrap_or_default().to_string()))
            .collect();
        let mut listed: Vec<&str> = COMMANDS.lines().filter(|line| line.starts_with(' ')).collect();
        described.sort();
        listed.sort_unstable();
        assert_eq!(listed, described);
        assert!(listed.iter().all(|line| line.len() <= 60), "no line wraps on a narrow terminal");
        let all = command_list(&[]).to_string();
        assert_eq!(all, COMMANDS);
        let short = command_list(&RARE).to_string();
        assert_eq!(short.lines().count() + RARE.len(), all.lines().count());
        assert!(COMMANDS.split("\n\n").all(|group| group.lines().count() > 3));
    }

    #[test]
    fn a_command_line_of_sshproxy_is_recognized_by_its_first_word() {
        let call = |word: &str| is_sshproxy_call(Some(OsStr::new(word)), true);
        assert!(call("-r") && call("-p") && call("-r/tmp/relay_info") && is_sshproxy_call(None, true));
        assert!(!call("proxy") && !call("--help") && !call("-v") && !is_sshproxy_call(None, false));
    }

    #[test]
    fn invalid_ports_and_waiting_times_are_usage_errors() {
        assert!(proxy(&["--port", "0"]).unwrap_err().contains("0 is not in 1..=65535"));
        assert!(proxy(&["--port", "%p"]).unwrap_err().contains("invalid digit"));
        assert!(proxy(&["--wait", "soon"]).unwrap_err().contains("not a whole number of seconds"));
        assert!(proxy(&["--wait", "18446744073709551615"]).unwrap_err().contains("up to 86400"));
        assert_eq!(proxy(&["--service", "wac"]).unwrap().target.service, Service::Wac);
    }

    #[test]
    fn an_inventory_is_no_table() {
        for (words, is_valid) in [
            (&["--list", "--format", "table"][..], false),
            (&["--host", "web01", "--format", "table"], false),
            (&["--standalone", "--format", "table"], false),
            (&["--standalone", "--format", "ansible"], true),
            (&["--list", "--format", "json"], true),
            (&["--format", "table"], true),
        ] {
            let words = ["arcssh", "list"].iter().chain(words);
            let matches = Cli::command().try_get_matches_from(words).unwrap();
            let error = Cli::of(&matches).err().map(|error| error.to_string());
            assert_eq!(error.is_none(), is_valid, "{error:?}");
            assert!(error.is_none_or(|error| error.contains("cannot be used with '--output table'")));
        }
    }

    #[test]
    fn a_tag_without_a_value_is_a_usage_error() {
        let list = |tag: &str| Cli::try_parse_from(["arcssh", "list", "--tag", tag]);
        let error = list("env").unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("--tag has the form KEY=VALUE, such as env=prod"));
        assert!(list("=prod").is_err() && list("env=").is_ok());
    }

    #[test]
    fn the_usage_of_an_error_contains_no_option_of_the_command_line() {
        let words = ["arcssh", "config", "--adopt", "--remove", "--cloud", "usgov"];
        let error = with_fixed_usage(Cli::command()).try_get_matches_from(words).unwrap_err().to_string();
        assert!(error.contains("Usage: arcssh config [OPTIONS] [MACHINE]...\n"), "{error}");
    }

    #[test]
    fn a_machine_and_relay_information_exclude_each_other() {
        let id = "/subscriptions/s/resourceGroups/g/providers/Microsoft.HybridCompute/machines/n";
        assert!(proxy(&[id, "-r", "file"]).unwrap_err().contains("cannot be used with"));
        assert!(proxy(&["web01"]).unwrap_err().contains("has the form /subscriptions/"));
    }
}
