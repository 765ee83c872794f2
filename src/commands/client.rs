//! The ssh that connects to a machine, with or without a host entry.

use std::ffi::OsString;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, anyhow};

use crate::azure::cloud::CloudName;
use crate::azure::hybrid_compute::Machine;
use crate::cli::destination::DestinationArgs;
use crate::cli::proxy_command::{ProxyCommand, ProxyMachine, azure_options, program};
use crate::cli::ssh::{SshLogin, SshWords};
use crate::cli::{AzureArgs, LogArgs};
use crate::commands::certificates::{Entra, ONLY_LINUX, is_windows};
use crate::commands::destination::Destination;
use crate::commands::session::Session;
use crate::diagnosis::{Error, Result};
use crate::machines::{KeyNames, find};
use crate::relay::connector::ARM_TIMEOUT;
use crate::ssh::SshError;
use crate::ssh::certificate_file;
use crate::ssh::host_entry::{CONNECTION, CertificateMode, Host, LOGIN, Platform};
use crate::ssh::managed_block;
use crate::ssh::used_names::UsedNames;
use crate::terminal::progress::{Progress, Step};

/// The methods of a login with a certificate, after which a server can ask questions (sshd_config(5), `AuthenticationMethods`).
const CERTIFICATE_METHODS: [&str; 2] = ["-o", "PreferredAuthentications publickey,keyboard-interactive"];

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
    /// [`SshError::CertificateFile`]; Azure rejects a request; Entra ID issues no certificate; a value is not valid in an ssh configuration.
    pub(crate) async fn new(
        destination: &Destination,
        args: &DestinationArgs,
        login: &SshLogin,
        log: &LogArgs,
    ) -> Result<Self> {
        let mut host = Host {
            user: login.user.clone(),
            port: args.target.port,
            identity_file: login.identity.clone(),
            certificate_file: login.certificate_file.clone(),
            ..Host::default()
        };
        if let Some(file) = login.certificate_file.as_deref().map(Path::new) {
            certificate_file::check(file, login.identity.as_deref().map(Path::new)).map_err(|problem| {
                SshError::CertificateFile { file: file.to_owned(), cause: problem.cause().to_owned() }
            })?;
        }
        let mut options = proxy_options(args, log)?;
        let is_enough = destination.entry.is_some() && login.entra().is_none();
        let machine = if is_enough { destination.machine.clone() } else { known(destination).await? };
        if let Some(mode) = login.entra() {
            let azure = destination.entry.as_ref().map_or(&args.azure, |entry| &entry.proxy.azure);
            let session = &destination.session;
            options.extend(add_certificate(&mut host, session, azure, &machine, login, mode).await?);
        }
        let is_certified = login.entra().is_some() || login.certificate_file.is_some();
        let mut login = host.options(LOGIN)?;
        if is_certified {
            login.extend(CERTIFICATE_METHODS.map(str::to_owned));
        }
        let (host, mut command) = match &destination.entry {
            Some(entry) if options.is_empty() => {
                return Ok(Self { connection: Vec::new(), login, host: entry.host.alias.clone() });
            }
            Some(entry) => {
                (Host::default(), ProxyCommand { program: program()?, ..entry.host.proxy_command() })
            }
            None => {
                let name = Some(key_name(&machine)?);
                let machine = ProxyMachine::Id(machine.id);
                let command = ProxyCommand::new(&program()?, machine, Vec::new());
                (Host { host_name: name.clone(), host_key_alias: name, ..Host::default() }, command)
            }
        };
        for (option, value) in options {
            match value {
                Some(value) => command.set(&option, value),
                None => command.options.push(option),
            }
        }
        let host = Host { proxy_command: command.words(), ..host };
        let connection = host.options(CONNECTION)?;
        let alias = destination.entry.as_ref().map(|entry| entry.host.alias.clone());
        Ok(Self { connection, login, host: alias.or(host.host_name).unwrap_or_default() })
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

/// An option of `arcssh proxy`, with its value if it has one.
type ProxyOption = (String, Option<String>);

/// Returns the options of the command line for `arcssh proxy`.
fn proxy_options(args: &DestinationArgs, log: &LogArgs) -> Result<Vec<ProxyOption>> {
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

/// Adds an Entra ID certificate to the login, and returns the options with which `arcssh proxy` serves it. Certificate files are
/// written now, since a `Match exec` of a host entry cannot be an option of ssh's command line.
async fn add_certificate(
    host: &mut Host,
    session: &Session,
    azure: &AzureArgs,
    machine: &Machine,
    login: &SshLogin,
    mode: CertificateMode,
) -> Result<Vec<ProxyOption>> {
    if is_windows(machine) {
        return Err(anyhow!(ONLY_LINUX).into());
    }
    let options = login.certificate.options();
    let request = Entra::request(session.credentials(), &options, mode, Platform::HERE);
    let progress = Progress::default();
    progress.set(Step::wait("SSH certificate").with(" from Entra ID"));
    let entra = progress.run(request).await?;
    let arguments = entra.arguments(host.user.as_ref());
    host.user.get_or_insert(entra.login_name.clone());
    match mode {
        CertificateMode::Agent => {
            let path = entra.agent(&machine.id.to_string())?;
            host.identity_agent = Some(path.clone());
            let pairs = arguments.chunks(2).map(|pair| (pair[0].clone(), pair.get(1).cloned()));
            Ok(std::iter::once(("--agent".into(), Some(path))).chain(pairs).collect())
        }
        CertificateMode::Files => {
            let key = entra.file(None);
            let certificate = format!("{key}-cert.pub");
            let cloud = azure.chosen_cloud().unwrap_or(CloudName::Public);
            let access = azure_options(&azure.credential.options(), cloud);
            write_certificate(&certificate, &[arguments, access].concat())?;
            host.identity_file = Some(key);
            host.certificate_file = Some(certificate);
            Ok(Vec::new())
        }
    }
}

/// Runs `arcssh cert` for the certificate in a file, as the `Match exec` of a host entry does.
fn write_certificate(file: &str, arguments: &[String]) -> Result<()> {
    let mut cert = Command::new(program()?);
    cert.args(["cert", "--file", file]).args(arguments).stdin(Stdio::null()).stdout(Stdio::null());
    let status = cert.status().context("cannot run arcssh cert")?;
    if status.success() {
        return Ok(());
    }
    Err(anyhow!("arcssh cert wrote no certificate").into())
}

/// Returns the machine with its properties.
async fn known(destination: &Destination) -> Result<Machine> {
    let Destination { session, machine, id, .. } = destination;
    if machine.vm_id.is_some() {
        return Ok(machine.clone());
    }
    let step = Step::wait(format!("properties of {}", id.name)).or("properties of the machine");
    let step = step.with(" from Azure Resource Manager");
    let find = async { Ok::<_, Error>(find(&session.arm, &id.to_string(), &[]).await?) };
    let progress = Progress::default();
    progress.run(progress.run_with_timeout(ARM_TIMEOUT, step, find)).await
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
