//! OpenSSH: its configuration, keys, certificates and agent protocol. Does not depend on Azure.

#[cfg_attr(not(unix), path = "agent/unsupported.rs")]
pub(crate) mod agent;
#[cfg_attr(not(unix), allow(dead_code, reason = "only the agent uses some of it"))]
pub(crate) mod certificate;
pub(crate) mod certificate_file;
pub(crate) mod client;
pub(crate) mod effective_config;
pub(crate) mod excerpt;
pub(crate) mod foreign_entries;
pub(crate) mod home;
pub(crate) mod host_entry;
pub(crate) mod managed_block;
pub(crate) mod patterns;
pub(crate) mod rejection;
pub(crate) mod requirements;
#[cfg_attr(not(unix), allow(dead_code, reason = "only the agent uses some of it"))]
pub(crate) mod rsa_key;
pub(crate) mod session;
pub(crate) mod shell;
pub(crate) mod tunnel;
pub(crate) mod used_names;
pub(crate) mod user_options;
pub(crate) mod verification;
#[cfg_attr(not(unix), allow(dead_code, reason = "only the agent uses some of it"))]
pub(crate) mod wire;

use std::path::PathBuf;

use crate::ssh::effective_config::{Location, Overridden};
use crate::ssh::rejection::Rejection;
use crate::ssh::requirements::Conflict;
use crate::ssh::verification::NotIncluded;

/// Returns the line of ssh's messages that contains the cause of a failure: the first one with a word of an error. Others only
/// repeat it (readconf.c: `FILE: terminating, 1 bad configuration options`; `Connection closed by UNKNOWN port 65535`), and
/// earlier ones are notes, warnings, or output of the programs that ssh starts. Ignores the lines of `-v`.
pub(crate) fn fault(stderr: &str) -> &str {
    const ERRORS: [&str; 16] = [
        "bad ",
        "cannot ",
        "can't ",
        "closed",
        "could not ",
        "denied",
        "did not ",
        "fail",
        "invalid",
        "no such ",
        "not ",
        "no ",
        "refused",
        "reset",
        "timed out",
        "unsupported",
    ];
    const NOTES: [&str; 6] = [
        "warning",
        "**",
        "@",
        "arcssh: waiting for the ",
        "arcssh: hint: ",
        "pseudo-terminal will not be allocated",
    ];
    let is_message = |line: &&str| !line.is_empty() && !line.starts_with("debug");
    let lines = || stderr.lines().map(str::trim).filter(is_message);
    let is_error = |line: &&str| {
        let line = line.to_lowercase();
        !NOTES.iter().any(|note| line.starts_with(note)) && ERRORS.iter().any(|error| line.contains(error))
    };
    lines().find(is_error).or_else(|| lines().next_back()).unwrap_or_default()
}

/// The ssh configuration, a key or the agent cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SshError {
    /// A file or directory of the configuration cannot be changed.
    #[error("cannot {action} {}: {cause}", path.display())]
    NotWritten {
        /// The action that failed.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        cause: String,
    },
    /// Another program changed the configuration at the same time.
    #[error("another program changed {}", .0.display())]
    Changed(PathBuf),
    /// A file of a certificate exists, and arcssh did not create it.
    #[error("cannot overwrite {}: arcssh did not create it", .0.display())]
    NotOurs(PathBuf),
    /// This platform has no SSH agent that arcssh can serve.
    #[error("OpenSSH for Windows does not support --entra=agent")]
    NoAgent,
    /// ssh reports an error in the configuration.
    #[error("{0}")]
    Rejected(Rejection),
    /// Without `-F`, ssh does not read the file with a host entry.
    #[error("ssh {} does not use {}: {}", .0.alias, .0.file.display(), .0.reason())]
    NotIncluded(NotIncluded),
    /// The user database has no entry for this user's ID, without which ssh does not run.
    #[error("ssh does not run: no user exists for uid {0}")]
    NoUser(String),
    /// The markers of the managed block do not match.
    #[error("{}: {cause}", path.display())]
    DamagedBlock {
        path: PathBuf,
        cause: String,
        /// The first and the last of the lines that arcssh wrote, if they are certain.
        rest: Option<(usize, usize)>,
    },
    /// A configuration has no managed block.
    #[error("{} has no managed block", path.display())]
    NoBlock {
        path: PathBuf,
        /// A file with a managed block that the configuration includes.
        included: Option<PathBuf>,
    },
    /// arcssh has written no host entry with the name.
    #[error("{} has no host entry of arcssh for {name}", path.display())]
    NoEntry {
        path: PathBuf,
        name: String,
        /// Names of host entries that the user may mean.
        similar: Vec<String>,
    },
    /// ssh does not use a value of a host entry.
    #[error("{0}")]
    Overridden(Overridden),
    /// A host entry does not work with an option of the configuration.
    #[error("{0}")]
    Conflict(Box<Conflict>),
    /// The program of a ProxyCommand cannot be started.
    #[error("the host entry {alias} does not work: {program} {cause}")]
    NoProgram {
        /// The first alias or pattern of the host entry.
        alias: String,
        program: String,
        /// A verb with its object, such as "does not exist".
        cause: String,
    },
    /// No agent can listen at a path.
    #[error("{0}")]
    AgentSocket(SocketProblem),
    /// The user's shell, in which ssh runs a ProxyCommand, runs no command.
    #[error("ssh runs arcssh in the shell {}, which does not work: {cause}", shell.display())]
    Shell { shell: PathBuf, cause: String },
    /// The shell prints text that ssh cannot skip.
    #[error("ssh runs arcssh in the shell {}, whose start-up files print text into the connection: {text}", shell.display())]
    ShellPrints {
        shell: PathBuf,
        /// The first line of the text, in quotes.
        text: String,
    },
    /// A machine sends no host key to ssh.
    #[error("ssh received no host key: {cause}")]
    NoHostKey {
        /// The machine as an argument of commands.
        machine: String,
        /// ssh's message.
        cause: String,
    },
    /// ssh ended: another program uses the local port of a forwarding of the user's configuration.
    #[error("ssh ended, because another program uses the port of {forwarding} in {}", by.as_ref().map_or("your ssh configuration".into(), Location::to_string))]
    OtherForwarding {
        /// The keyword and the local port.
        forwarding: String,
        /// The location of the line, if arcssh finds it.
        by: Option<Location>,
    },
    /// A file is no certificate that a host entry can name. The cause is a verb with its object.
    #[error("the certificate file {} {cause}", file.display())]
    CertificateFile { file: PathBuf, cause: String },
    /// The ssh that the user selected cannot be used. The cause is a verb with its object.
    #[error("the ssh client {} {cause}", program.display())]
    Client { program: PathBuf, cause: String },
    /// ssh is not installed.
    #[error("ssh is not installed")]
    NoClient,
    /// ssh-keygen is not installed.
    #[error("ssh-keygen is not installed")]
    NoKeygen,
    /// The system starts no process for ssh-keygen.
    #[error("ssh-keygen cannot be started: {0}")]
    NoProcess(String),
    /// ssh-keygen failed.
    #[error("{0}")]
    KeyGeneration(String),
    /// Anything else.
    #[error("{0}")]
    Failed(String),
}

impl From<anyhow::Error> for SshError {
    fn from(error: anyhow::Error) -> Self {
        Self::Failed(format!("{error:#}"))
    }
}

impl From<std::io::Error> for SshError {
    fn from(error: std::io::Error) -> Self {
        Self::Failed(error.to_string())
    }
}

/// Why no agent can listen at a path.
#[derive(Clone, Debug, thiserror::Error)]
#[cfg_attr(not(unix), allow(dead_code, reason = "only Unix has the agent"))]
pub(crate) enum SocketProblem {
    /// A file that arcssh did not create is at the path.
    #[error("cannot replace {} with an SSH agent: arcssh did not create it", .0.display())]
    Occupied(PathBuf),
    /// Other users can reach sockets in the directory.
    #[error("other users can open {} (mode {mode:04o}), the directory of the SSH agent", directory.display())]
    Open {
        directory: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// The directory is a symbolic link, another kind of file, or another user's.
    #[error("{} is not a directory of this user, so arcssh serves no SSH agent there", .0.display())]
    NotOwn(PathBuf),
    /// The path is too long for the address of a socket (unix(7), `sun_path`).
    #[error("the path of the SSH agent is too long for a socket: {}", .0.display())]
    TooLong(PathBuf),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_error_of_ssh_is_the_fault() {
        for (stderr, expected) in [
            (
                "/c: line 3: Bad configuration option: x\r\n/c: terminating, 1 bad configuration options\r\n",
                "/c: line 3: Bad configuration option: x",
            ),
            (
                "/c line 3: unsupported option \"x\".\n/c: terminating, 1 bad configuration options",
                "/c line 3: unsupported option \"x\".",
            ),
            (
                "hello\nWarning: not now\nkex_exchange_identification: Connection closed by remote host\nConnection closed by UNKNOWN port 65535",
                "kex_exchange_identification: Connection closed by remote host",
            ),
            (
                "arcssh: waiting for the agent (404 Not Found); 2 s so far\narcssh: cannot connect to web01\narcssh: hint: do not\n",
                "arcssh: cannot connect to web01",
            ),
            (
                "debug1: failed\nConnection closed by UNKNOWN port 65535\r\ndebug1: y\n",
                "Connection closed by UNKNOWN port 65535",
            ),
            (
                "Pseudo-terminal will not be allocated because stdin is not a terminal.\nvdollar_percent_expand: env var ${X} has no value\n",
                "vdollar_percent_expand: env var ${X} has no value",
            ),
            ("one\n\ntwo\ndebug1: y\n", "two"),
            ("", ""),
        ] {
            assert_eq!(fault(stderr), expected);
        }
    }
}
