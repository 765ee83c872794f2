//! Every typed error as a code, a message, a hint and an exit status. Notes, and errors without a type, contain their
//! advice.

pub(crate) mod arm;
mod certificate;
pub(crate) mod code;
mod credentials;
mod extension;
pub(crate) mod finding;
pub(crate) mod last_error;
pub(crate) mod machines;
mod network;
pub(crate) mod relay;
mod several;
mod sign_in;
mod ssh;
pub(crate) mod system;
mod terminal;

use std::io::Write;
use std::panic::Location;

use serde::{Deserialize, Serialize};
use tracing::info;

use crate::azure::arm::ArmError;
use crate::azure::credentials::CredentialError;
use crate::azure::hybrid_connectivity::Service;
use crate::azure::login::LoginError;
use crate::azure::resource_id::{ResourceId, ResourceIdError};
use crate::azure::target::Target;
use crate::diagnosis::code::Code;
pub(crate) use crate::diagnosis::code::ExitStatus;
use crate::diagnosis::last_error::LastError;
use crate::entra_ssh::IssueError;
use crate::machines::SelectError;
use crate::net::NetError;
use crate::net::listener::ListenError;
use crate::provisioning::ProvisionError;
use crate::relay::bridge::BridgeError;
use crate::relay::handshake::ConnectError;
use crate::ssh::SshError;
use crate::system::SystemError;
use crate::system::clock::unix_now;
use crate::terminal::output::PRINTED;
use crate::terminal::{TerminalError, tty};
use crate::text::{sanitize, shell_quote};

/// The beginning of the hint to run `arcssh setup`.
const ENABLE: &str = "enable it: ";

/// Every way in which a command can fail.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A request to Azure Resource Manager.
    #[error(transparent)]
    Arm(#[from] ArmError),
    /// A token.
    #[error(transparent)]
    Credential(#[from] CredentialError),
    /// `arcssh login` and `arcssh logout`.
    #[error(transparent)]
    Login(#[from] LoginError),
    /// An SSH certificate.
    #[error(transparent)]
    Issue(#[from] IssueError),
    /// The text of a resource ID.
    #[error(transparent)]
    ResourceId(#[from] ResourceIdError),
    /// Selecting machines.
    #[error(transparent)]
    Select(#[from] SelectError),
    /// Enabling a service.
    #[error(transparent)]
    Provision(#[from] ProvisionError),
    /// Connecting to a machine.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// Connecting to a machine that Azure reports as disconnected, with this status.
    #[error("{error}; Azure reports the machine as {status}")]
    Offline { status: String, error: Box<ConnectError> },
    /// A connection that was established.
    #[error(transparent)]
    Bridge(#[from] BridgeError),
    /// The network.
    #[error(transparent)]
    Net(#[from] NetError),
    /// A local port or socket.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// ssh's configuration, keys and agent.
    #[error(transparent)]
    Ssh(#[from] SshError),
    /// This computer.
    #[error(transparent)]
    System(#[from] SystemError),
    /// The terminal and its user.
    #[error(transparent)]
    Terminal(#[from] TerminalError),
    /// An error with what arcssh was doing.
    #[error("{error}")]
    During {
        /// What arcssh was doing.
        context: Box<Context>,
        /// Why it failed.
        #[source]
        error: Box<Self>,
    },
    /// Several machines failed, each with a context of its own.
    #[error("{} machines failed", .0.len())]
    Several(Vec<Self>),
    /// Anything without a code of its own.
    #[error("{0:#}")]
    Other(#[from] anyhow::Error),
}

/// The result of a command.
pub(crate) type Result<T, E = Error> = std::result::Result<T, E>;

/// What arcssh was doing when an error occurred.
#[derive(Clone, Debug, Default)]
pub(crate) struct Context {
    pub(crate) action: Action,
    /// The machine and port, if one is known.
    pub(crate) target: Option<Target>,
}

/// An action on a machine or an account.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Action {
    /// Any command without an action of its own.
    #[default]
    Other,
    /// Connecting.
    Connect,
    /// `arcssh setup`.
    SetUp,
    /// `arcssh teardown`.
    TearDown,
}

/// A failure as the user sees it: printed, shown by `arcssh doctor`, and stored for `arcssh last`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Diagnosis {
    /// The kind of failure.
    #[serde(default)]
    pub(crate) code: Code,
    /// What failed, and why, on one line.
    #[serde(rename = "what")]
    pub(crate) summary: String,
    /// What the user can do.
    pub(crate) hint: Option<Hint>,
    /// The ID of the request that a service rejected, for its support.
    #[serde(rename = "request")]
    pub(crate) request_id: Option<String>,
}

/// What the user can do about a failure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "StoredHint")]
pub(crate) struct Hint {
    /// One line for the user; it contains the command, if there is one.
    pub(crate) text: String,
    /// A command that a shell of this computer runs as it stands, without a placeholder.
    pub(crate) command: Option<String>,
}

/// A hint as version 0.1 stored it, or as this version does.
#[derive(Deserialize)]
#[serde(untagged)]
enum StoredHint {
    Text(String),
    Hint { text: String, command: Option<String> },
}

impl From<StoredHint> for Hint {
    fn from(stored: StoredHint) -> Self {
        match stored {
            StoredHint::Text(text) => text.into(),
            StoredHint::Hint { text, command } => Self { text, command },
        }
    }
}

impl Hint {
    /// Returns a hint that ends with `command`.
    pub(crate) fn new(text: &str, command: impl Into<String>) -> Self {
        let command = command.into();
        Self { text: format!("{text}{command}"), command: Some(command) }
    }

    /// Returns a hint that is a command.
    pub(crate) fn command(command: impl Into<String>) -> Self {
        Self::new("run: ", command)
    }
}

impl From<&str> for Hint {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}

impl From<String> for Hint {
    fn from(text: String) -> Self {
        Self { text, command: None }
    }
}

impl Diagnosis {
    /// Returns a diagnosis with a hint.
    pub(crate) fn new(code: Code, summary: impl Into<String>, hint: impl Into<Hint>) -> Self {
        Self { code, summary: summary.into(), hint: Some(hint.into()), request_id: None }
    }

    /// Returns a diagnosis of a failure that the user can do nothing about.
    pub(crate) fn without_hint(code: Code, summary: impl Into<String>) -> Self {
        Self { code, summary: summary.into(), hint: None, request_id: None }
    }
}

impl Context {
    /// Returns the context of a connection.
    pub(crate) fn connecting(target: Target) -> Self {
        Self { action: Action::Connect, target: Some(target) }
    }

    fn machine_id(&self) -> Option<String> {
        Some(self.target.as_ref()?.machine.as_ref()?.to_string())
    }

    /// Returns the machine as one word of a command.
    fn machine(&self) -> String {
        let target = self.target.as_ref().filter(|target| target.machine.is_some());
        target.map_or("MACHINE".into(), |target| shell_quote(&target.argument))
    }

    fn service(&self) -> Service {
        self.target.as_ref().map_or(Service::Ssh, |target| target.service)
    }

    fn port(&self) -> u16 {
        self.target.as_ref().map_or(0, |target| target.port)
    }

    /// Returns a command for the machine.
    fn command(&self, name: &str, port: Option<u16>) -> String {
        let service = Some(self.service()).filter(|service| *service != Service::Ssh);
        let service = service.map_or(String::new(), |service| format!(" --service {service}"));
        let port = port.map_or(String::new(), |port| format!(" --port {port}"));
        format!("arcssh {name} {}{service}{port}", self.machine())
    }

    /// Returns a command for the machine, and for the port unless that is the service's default.
    fn command_for_port(&self, name: &str) -> String {
        let port = self.target.as_ref().map(|target| target.port);
        self.command(name, port.filter(|port| *port != self.service().default_port()))
    }

    /// Returns a hint with a command for the machine, which cannot be run as it stands if the machine is unknown.
    fn runnable(&self, text: &str, command: String) -> Hint {
        match self.machine_id() {
            Some(_) => Hint::new(text, command),
            None => format!("{text}{command}").into(),
        }
    }

    /// Returns the command that enables the service for the connection that was tried.
    fn set_up(&self) -> Hint {
        self.runnable(ENABLE, self.command_for_port("setup"))
    }

    /// Returns the beginning of a message.
    fn prefix(&self, error: &Error) -> String {
        let Some(target) = &self.target else { return String::new() };
        match (self.action, error) {
            (Action::SetUp, _) => format!("cannot set up {target}: "),
            (Action::TearDown, _) => format!("cannot tear down {target}: "),
            (Action::Connect, Error::Bridge(error)) if !matches!(error, BridgeError::NotSsh(_)) => {
                format!("lost the connection to {target}: ")
            }
            (Action::Connect, Error::Select(SelectError::NothingSelected { .. })) | (Action::Other, _) => {
                String::new()
            }
            (Action::Connect, _) => format!("cannot connect to {target}: "),
        }
    }
}

impl Error {
    /// Returns the error with what arcssh was doing.
    pub(crate) fn during(self, context: Context) -> Self {
        Self::During { context: context.into(), error: Box::new(self) }
    }

    /// Returns the error without its contexts, and the outermost context.
    fn split(&self) -> (&Self, Context) {
        let (mut error, mut outermost) = (self, None);
        while let Self::During { context, error: inner } = error {
            outermost.get_or_insert(context);
            error = inner;
        }
        (error, outermost.map_or_else(Context::default, |context| (**context).clone()))
    }

    /// Returns the resource ID of the machine for which arcssh was doing something.
    pub(crate) fn machine(&self) -> Option<ResourceId> {
        self.split().1.target?.machine
    }

    /// Returns the error without what arcssh was doing.
    pub(crate) fn cause(&self) -> &Self {
        self.split().0
    }

    /// Returns the error as the user sees it, without the beginning that names the machine.
    pub(crate) fn diagnose(&self) -> Diagnosis {
        let (error, context) = self.split();
        match error {
            Self::Arm(error) => arm::arm(error, &context),
            Self::Credential(error) => credentials::credential(error, &context),
            Self::Login(error) => credentials::login(error, None, &context),
            Self::Issue(error) => certificate::issue(error, &context),
            Self::ResourceId(error) => machines::resource_id(error),
            Self::Select(error) => machines::select(error, &context),
            Self::Provision(error) => machines::provision(error, &context),
            Self::Connect(error) => relay::connect(error, &context),
            Self::Offline { status, error } => relay::offline(status, error, &context),
            Self::Bridge(error) => relay::bridge(error, &context),
            Self::Net(error) => network::net(error),
            Self::Listen(error) => network::listen(error),
            Self::Ssh(error) => ssh::ssh(error),
            Self::System(error) => system::system(error),
            Self::Terminal(error) => {
                let command = context.machine_id().map(|_| context.command_for_port("warm"));
                terminal::terminal(error, command)
            }
            Self::During { error, .. } => error.diagnose(),
            Self::Several(_) | Self::Other(_) => Diagnosis::without_hint(Code::Failed, error.to_string()),
        }
    }
}

/// Combines the results of several machines.
///
/// # Errors
/// The error of the machine if there is only one; otherwise [`Error::Several`].
pub(crate) fn all_done<T>(results: Vec<Result<T>>) -> Result<()> {
    let total = results.len();
    let mut errors: Vec<Error> = results.into_iter().filter_map(Result::err).collect();
    match (errors.pop(), total) {
        (None, _) => Ok(()),
        (Some(error), 1) => Err(error),
        (Some(last), _) => {
            errors.push(last);
            Err(Error::Several(errors))
        }
    }
}

/// Prints an error, and returns the exit status. Several machines with the same error share a message.
pub(crate) fn report(error: &Error) -> u8 {
    if let Error::Several(errors) = error {
        errors.iter().for_each(|error| drop(record(error)));
        several::causes(errors.iter()).iter().for_each(several::Cause::print);
        return ExitStatus::Failed.into();
    }
    let Diagnosis { code, summary, hint, .. } = record(error);
    // After Ctrl-C, ssh ends too, and the user expects no message.
    if !matches!(code, Code::Interrupted | Code::Terminated) {
        print(&summary, hint.as_ref().map(|hint| hint.text.as_str()));
    }
    code.exit_status().into()
}

/// Writes an error to the log, and returns its diagnosis with the beginning that names the machine. Stores the error of a
/// connection: with ControlPersist, ssh discards the standard error of its ProxyCommand.
pub(crate) fn record(error: &Error) -> Diagnosis {
    let (cause, context) = error.split();
    let diagnosis = error.diagnose();
    let summary = format!("{}{}", context.prefix(cause), diagnosis.summary);
    info!(target: PRINTED, "{summary}");
    let diagnosis = Diagnosis { summary, ..diagnosis };
    if let Some(target) = context.target.filter(|_| context.action == Action::Connect) {
        last_error::store(&LastError {
            at: unix_now(),
            machine: target.machine.as_ref().map(ToString::to_string),
            name: target.name,
            port: target.port,
            diagnosis: diagnosis.clone().on_one_line(),
        });
    }
    diagnosis
}

/// Reports a panic with this text, from this place in the source.
pub(crate) fn report_panic(text: &str, place: Option<&Location<'_>>) {
    let Diagnosis { summary, hint, .. } = system::panic(text, place);
    print(&summary, hint.as_ref().map(|hint| hint.text.as_str()));
}

impl Diagnosis {
    /// Returns the diagnosis without characters that a terminal obeys, and without a command that contains any.
    pub(crate) fn on_one_line(self) -> Self {
        let hint = self.hint.map(|Hint { text, command }| Hint {
            text: sanitize(&text),
            command: command.filter(|command| sanitize(command) == *command),
        });
        Self { summary: sanitize(&self.summary), hint, ..self }
    }
}

/// Prints a message and its hint on standard error, and one line on the terminal if ssh discards standard error.
fn print(summary: &str, hint: Option<&str>) {
    let mut stderr = std::io::stderr().lock();
    let _ = writeln!(stderr, "{}", sanitize(&format!("arcssh: {summary}")));
    if let Some(hint) = hint {
        let _ = writeln!(stderr, "{}", sanitize(&format!("arcssh: hint: {hint}")));
    }
    if let Some(mut terminal) = tty::tty_if_stderr_discarded() {
        // A session may have made the terminal raw.
        let _ =
            write!(terminal, "\r{}; for details: arcssh last\r\n", sanitize(&format!("arcssh: {summary}")));
    }
}

#[cfg(test)]
mod tests;
