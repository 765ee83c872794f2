//! The ssh that connects to a machine, with or without a host entry.

use std::ffi::OsString;

use anyhow::Context as _;

use crate::azure::hybrid_compute::Machine;
use crate::cli::LogArgs;
use crate::cli::destination::DestinationArgs;
use crate::cli::proxy_command::{ProxyCommand, ProxyMachine, program};
use crate::cli::ssh::{SshLogin, SshWords};
use crate::commands::destination::Destination;
use crate::diagnosis::{Error, Result};
use crate::machines::{KeyNames, find};
use crate::relay::connector::ARM_TIMEOUT;
use crate::ssh::host_entry::{CONNECTION, Host, LOGIN};
use crate::ssh::managed_block;
use crate::ssh::used_names::UsedNames;
use crate::terminal::progress::{Progress, Step};

/// The arguments of ssh for a machine.
pub(crate) struct Client {
    /// The options that override those of the user.
    connection: Vec<String>,
    /// The options that those of the user override.
    login: Vec<String>,
    host: String,
}

impl Client {
    /// Finds the arguments. With a host entry, they contain only what the command line adds to it.
    ///
    /// # Errors
    /// Azure rejects a request; a value is not valid in an ssh configuration.
    pub(crate) async fn new(
        destination: Destination,
        args: &DestinationArgs,
        login: &SshLogin,
        log: &LogArgs,
    ) -> Result<Self> {
        let login = Host {
            user: login.user.clone(),
            port: args.target.port,
            identity_file: login.identity.clone(),
            ..Host::default()
        };
        let options = proxy_options(args, log)?;
        let (host, connection) = match &destination.entry {
            Some(entry) if options.is_empty() => (entry.host.alias.clone(), Vec::new()),
            Some(entry) => {
                let command = ProxyCommand { program: program()?, ..entry.host.proxy_command() };
                let host = Host { proxy_command: with(command, &options).words(), ..Host::default() };
                (entry.host.alias.clone(), host.options(CONNECTION)?)
            }
            None => {
                let machine = known(destination).await?;
                let command =
                    ProxyCommand::new(&program()?, ProxyMachine::Id(machine.id.clone()), Vec::new());
                let name = key_name(&machine)?;
                let host = Host {
                    host_name: Some(name.clone()),
                    host_key_alias: Some(name.clone()),
                    proxy_command: with(command, &options).words(),
                    ..Host::default()
                };
                (name, host.options(CONNECTION)?)
            }
        };
        Ok(Self { connection, login: login.options(LOGIN)?, host })
    }

    /// Returns the arguments with those of the user. ssh uses the first value of an option.
    pub(crate) fn arguments(self, words: &SshWords) -> Vec<OsString> {
        let Self { connection, login, host } = self;
        let ours = |words: Vec<String>| words.into_iter().map(OsString::from);
        let host = ["--".to_owned(), host];
        let options = ours(connection).chain(words.options.iter().cloned()).chain(ours(login));
        options.chain(ours(host.into())).chain(words.command.iter().cloned()).collect()
    }
}

/// Returns the options of the command line for `arcssh proxy`, each with its value if it has one.
fn proxy_options(args: &DestinationArgs, log: &LogArgs) -> Result<Vec<(String, Option<String>)>> {
    let text = |word: &OsString| word.to_str().map(str::to_owned).context("an option is not valid Unicode");
    let mut options = Vec::new();
    for pair in args.typed.chunks(2).filter(|pair| pair[0] != "--port") {
        options.push((text(&pair[0])?, pair.get(1).map(text).transpose()?));
    }
    if let Some(file) = &log.log_file {
        let file = std::path::absolute(file).context("the path of the log file cannot be used")?;
        options.push(("--log-file".into(), Some(text(&file.into())?)));
    }
    options.extend((0..log.verbose).map(|_| ("--verbose".into(), None)));
    Ok(options)
}

fn with(mut command: ProxyCommand, options: &[(String, Option<String>)]) -> ProxyCommand {
    for (option, value) in options {
        match value {
            Some(value) => command.set(option, value.clone()),
            None => command.options.push(option.clone()),
        }
    }
    command
}

/// Returns the machine with its properties.
async fn known(destination: Destination) -> Result<Machine> {
    let Destination { session, machine, id, .. } = destination;
    if machine.vm_id.is_some() {
        return Ok(machine);
    }
    let step = Step::wait(format!("properties of {}", id.name)).with(" from Azure Resource Manager");
    let find = async { Ok::<_, Error>(find(&session.arm, &id.to_string(), &[]).await?) };
    Progress::default().run_with_timeout(ARM_TIMEOUT, step, find).await
}

/// Returns the name under which a host entry would record the host key, or the machine's name if Azure does not return its ID.
///
/// It is also the host name for ssh: no other host has it, so that no section of the user's configuration for another host
/// applies, and ssh shares no connection with that host (`ControlPath`, whose tokens contain the host name).
fn key_name(machine: &Machine) -> Result<String> {
    let used = UsedNames::here(&managed_block::default_path()?);
    let name = KeyNames::of(&managed_block::text_of_user(), &used).name(machine);
    Ok(name.unwrap_or_else(|| machine.id.name.to_lowercase()))
}
