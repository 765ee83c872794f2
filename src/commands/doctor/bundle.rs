//! `--bundle`: an archive with the report and other facts for a bug report, without secrets.

use std::ffi::{OsStr, OsString};
use std::io::{self, ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, SystemTime};

use flate2::Compression;
use flate2::write::GzEncoder;
use tempfile::NamedTempFile;
use tokio::process::Command;
use tokio::time::timeout;

use crate::azure::cloud::CloudName;
use crate::azure::hybrid_connectivity::Service;
use crate::cli::proxy_command::azure_options;
use crate::commands::doctor::checks::Evaluator;
use crate::commands::doctor::probe::{Connection, Prober};
use crate::commands::doctor::redaction::{is_secret, redacted};
use crate::commands::doctor::report::Report;
use crate::ssh::{client, excerpt, managed_block};
use crate::system::SystemError;
use crate::system::clock::{format_ago, format_time, unix_now};
use crate::system::files::{parent, temporary_file};
use crate::terminal::output::note;
use crate::text::{lines, shell_quote};

/// The time limit of a program. A connection waits for sshd after the end of its input.
const TIMEOUT: Duration = Duration::from_secs(60);
/// The most bytes of a program's output in the archive.
const MAX_OUTPUT: usize = 1 << 20;

/// The directory in the archive.
const DIRECTORY: &str = "arcssh-doctor";

const README: &str = "\
Evidence for a bug report about arcssh, written by: arcssh doctor --bundle

  report.txt       the report of arcssh doctor; it shows the proxy and the issuers
                   of certificates
  report.json      the same report as JSON
  version.txt      arcssh, ssh, the operating system, the C library and the shell
  environment.txt  the names of environment variables; the values of harmless ones
  ssh-config.txt   the managed block of the ssh configuration, and the keywords of
                   the other lines without their values
  ssh-G.txt        the output of ssh -G for the host entry; without values that can
                   contain a secret
  last.txt         the output of arcssh last: the last error of each machine
  state.txt        names, sizes and ages of the files in the state directory
  connection.txt   the log of a connection: arcssh proxy -vv

The files contain names and IDs of machines, resource groups, subscriptions and
tenants, names of users and hosts, IP addresses and paths of files. Review them, and
replace names that you do not want to publish.

They contain no passwords, tokens, keys or certificates. *** and … take the place of
values.
";

/// A new archive. Dropping it deletes its temporary file.
#[derive(Debug)]
pub(super) struct Bundle {
    path: PathBuf,
    file: NamedTempFile,
}

impl Bundle {
    /// Creates a temporary file in the directory of the archive, which only this user can read.
    ///
    /// # Errors
    /// [`SystemError::ArchiveExists`], also for a link; [`SystemError::ArchiveNotCreated`].
    pub(super) fn create(path: &Path) -> Result<Self, SystemError> {
        if path.symlink_metadata().is_ok() {
            return Err(SystemError::ArchiveExists(path.to_owned()));
        }
        let file = temporary_file(parent(path)).map_err(|error| not_created(path, &error))?;
        Ok(Self { path: path.to_owned(), file })
    }

    /// Writes the archive, and gives it its name if no file has that name.
    ///
    /// # Errors
    /// Those of [`Self::create`].
    pub(super) fn write(mut self, files: &[(&str, String)]) -> Result<(), SystemError> {
        archive(&mut self.file, files).map_err(|error| not_created(&self.path, &error))?;
        self.file.persist_noclobber(&self.path).map_err(|failed| match failed.error.kind() {
            ErrorKind::AlreadyExists => SystemError::ArchiveExists(self.path.clone()),
            _ => not_created(&self.path, &failed.error),
        })?;
        let path = self.path.display();
        note(&format!("wrote {path}: it contains names of machines, users and hosts, and no secrets"));
        let list = format!("tar -tzf {}", shell_quote(&path.to_string()));
        note(&format!("hint: review its files before you attach it to a bug report; to list them: {list}"));
        Ok(())
    }
}

fn not_created(path: &Path, error: &io::Error) -> SystemError {
    SystemError::ArchiveNotCreated { path: path.to_owned(), cause: error.to_string() }
}

fn archive(file: &mut NamedTempFile, files: &[(&str, String)]) -> io::Result<()> {
    let mut archive = tar::Builder::new(GzEncoder::new(file.as_file_mut(), Compression::default()));
    for (name, text) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(unix_now());
        archive.append_data(&mut header, format!("{DIRECTORY}/{name}"), text.as_bytes())?;
    }
    archive.into_inner()?.finish()?.flush()?;
    file.as_file().sync_all()
}

/// The sources of the archive's files.
pub(super) struct Evidence<'a> {
    pub(super) prober: &'a Prober<'a>,
    pub(super) evaluator: &'a Evaluator,
    pub(super) report: &'a Report,
}

impl Evidence<'_> {
    /// Returns the files, each with its name.
    pub(super) async fn files(&self) -> Vec<(&'static str, String)> {
        let machine = self.prober.args.machine.as_deref();
        // A connection replaces or deletes the last error.
        let last = own(&["last".into()]).await;
        let files = [
            ("README.txt", README.to_owned()),
            ("report.txt", self.report.text()),
            ("report.json", self.report.json(machine)),
            ("version.txt", version().await),
            ("environment.txt", environment()),
            ("ssh-config.txt", self.configuration()),
            ("ssh-G.txt", self.effective_configuration().await),
            ("last.txt", last),
            ("state.txt", self.state()),
            ("connection.txt", self.connection().await),
        ];
        let token = self.evaluator.facts.probes.token.get().and_then(|token| token.as_ref().ok());
        let mut secrets = secret_variables();
        secrets.extend(token.map(|token| token.secret.secret().to_owned()));
        files.map(|(name, text)| (name, redacted(&text, &secrets))).into()
    }

    fn configuration(&self) -> String {
        let file = &self.prober.file;
        match managed_block::read(file) {
            Ok(text) => format!("{}\n{}", file.display(), lines(&excerpt::of_file(&text))),
            Err(error) => format!("{error:#}\n"),
        }
    }

    /// The host entry's alias, or the machine as the user typed it.
    fn alias(&self) -> Option<&str> {
        let entry = self.prober.entry.as_ref().map(|entry| entry.alias.as_str());
        entry.or(self.prober.args.machine.as_deref())
    }

    async fn effective_configuration(&self) -> String {
        let Some(alias) = self.alias() else { return "you named no machine\n".into() };
        let mut command = match client::ssh() {
            Ok(ssh) => Command::new(ssh),
            Err(error) => return format!("{error}\n"),
        };
        let file = self.prober.args.file.iter().flat_map(|file| [OsStr::new("-F"), file.as_os_str()]);
        command.arg("-G").args(file).args(["--", alias]);
        // Messages of ssh can quote a line of the configuration.
        match run(&mut command).await {
            Ok(output) => excerpt::of_values(&output.stdout) + &output.status,
            Err(error) => error,
        }
    }

    fn state(&self) -> String {
        let Some(folder) = self.prober.store.folder() else { return "there is no state directory\n".into() };
        let now = SystemTime::now();
        let describe = |file: std::fs::DirEntry| {
            let metadata = file.metadata().ok()?;
            let age = metadata.modified().ok().and_then(|time| now.duration_since(time).ok());
            let written = format_ago(unix_now().saturating_sub(age.unwrap_or_default().as_secs()));
            Some(format!("{}  {} bytes, {written}\n", file.file_name().to_string_lossy(), metadata.len()))
        };
        let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
        let mut files: Vec<String> = files.filter_map(describe).collect();
        files.sort();
        lines(&format!("{}\n{}", folder.display(), files.concat()))
    }

    /// Connects to the machine as ssh would. The input is empty, so the connection ends after sshd's identification.
    async fn connection(&self) -> String {
        let prober = self.prober;
        let entry = prober.entry.as_ref();
        let machine = self.evaluator.machine().map(|id| id.to_string());
        let machine = machine.or_else(|| entry.map(|entry| entry.target.clone()));
        let Some(machine) = machine.or_else(|| prober.args.machine.clone()) else {
            return "you named no machine\n".into();
        };
        let port = self.evaluator.facts.probes.connection.get().map(|Connection { port, .. }| *port);
        let port = port.or(prober.args.port).unwrap_or(Service::Ssh.default_port());
        let mut words: Vec<OsString> = vec!["proxy".into()];
        words.extend(Some("--host".into()).filter(|_| !machine.starts_with('/')));
        words.push(machine.into());
        words.extend(["--port".into(), port.to_string().into(), "--wait".into(), "8".into(), "-vv".into()]);
        let cloud = prober.cloud.name().unwrap_or(CloudName::Public);
        words.extend(azure_options(&prober.credential, cloud).into_iter().map(Into::into));
        let is_other = |typed: &&[OsString]| {
            !["--credential", "--tenant", "--cloud"].iter().any(|name| typed[0] == *name)
        };
        words.extend(prober.args.typed.chunks(2).filter(is_other).flatten().cloned());
        own(&words).await
    }
}

/// The output of a program, sanitized.
struct Output {
    stdout: String,
    stderr: String,
    /// A line with the exit status.
    status: String,
}

/// Runs a program without input, in a process group of its own.
///
/// # Errors
/// A line with the reason why there is no output.
async fn run(command: &mut Command) -> Result<Output, String> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    #[cfg(unix)]
    command.process_group(0);
    let output = timeout(TIMEOUT, command.output()).await;
    let output = output.map_err(|_elapsed| format!("did not end within {} s\n", TIMEOUT.as_secs()))?;
    let output = output.map_err(|error| format!("cannot be started: {error}\n"))?;
    let text = |bytes: &[u8]| lines(&String::from_utf8_lossy(&bytes[..bytes.len().min(MAX_OUTPUT)]));
    let status = format!("({})\n", output.status);
    Ok(Output { stdout: text(&output.stdout), stderr: text(&output.stderr), status })
}

/// Returns the command line and the output of a program.
async fn shown(program: &OsStr, name: &str, arguments: &[OsString]) -> String {
    let words = arguments.iter().map(|word| shell_quote(&word.to_string_lossy()));
    let line = std::iter::once(name.to_owned()).chain(words).collect::<Vec<_>>().join(" ");
    let mut command = Command::new(program);
    // RUST_LOG would change the log.
    command.args(arguments).env_remove("RUST_LOG");
    command.envs(client::selected().map(|ssh| ("ARCSSH_SSH", ssh)));
    let output = run(&mut command).await;
    match output {
        Ok(Output { stdout, stderr, status }) => format!("$ {}\n{stdout}{stderr}{status}", lines(&line)),
        Err(error) => format!("$ {}\n{error}", lines(&line)),
    }
}

/// Returns a command line of this arcssh with its output.
async fn own(arguments: &[OsString]) -> String {
    match std::env::current_exe() {
        Ok(program) => shown(program.as_os_str(), "arcssh", arguments).await,
        Err(error) => format!("{error}\n"),
    }
}

async fn version() -> String {
    let mut text = own(&["version".into(), "--verbose".into()]).await;
    let programs: &[(&str, &str)] = if cfg!(windows) {
        &[("cmd", "/C ver")]
    } else if cfg!(target_os = "macos") {
        &[("uname", "-srm"), ("sw_vers", "")]
    } else {
        &[("uname", "-srm"), ("ldd", "--version")]
    };
    for (program, arguments) in programs {
        let arguments: Vec<OsString> = arguments.split_whitespace().map(Into::into).collect();
        text += &shown(OsStr::new(program), program, &arguments).await;
    }
    let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let name = release.lines().find(|line| line.starts_with("PRETTY_NAME="));
    let shell = std::env::var("SHELL").unwrap_or_default();
    format!("{text}{}\nSHELL={shell}\ntime: {}\n", lines(name.unwrap_or_default()), format_time(unix_now()))
}

/// The beginnings of names of environment variables that can change the behaviour of arcssh or ssh.
const RELEVANT: [&str; 27] = [
    "ACTIONS_",
    "ALL_PROXY",
    "ARCSSH_",
    "ARM_",
    "AZD_",
    "AZURE",
    "CI",
    "CLICOLOR",
    "GITHUB_ACTIONS",
    "HOME",
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "IDENTITY_",
    "IMDS_",
    "LANG",
    "MSI_",
    "NO_COLOR",
    "NO_PROXY",
    "PATH",
    "REQUESTS_CA_BUNDLE",
    "RUST_LOG",
    "SHELL",
    "SSH",
    "SSL_CERT_",
    "SYSTEM_",
    "TERM",
    "XDG_",
];
/// Those whose values are choices.
const HARMLESS: [&str; 11] = [
    "ARCSSH_CLOUD",
    "ARCSSH_CREDENTIAL",
    "ARCSSH_NO_KEYRING",
    "AZURE_CLOUD_NAME",
    "AZURE_TOKEN_CREDENTIALS",
    "CI",
    "CLICOLOR",
    "LANG",
    "NO_COLOR",
    "RUST_LOG",
    "TERM",
];

/// Returns a line for each relevant environment variable that is set.
fn environment() -> String {
    let variables = std::env::vars_os()
        .map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()));
    let is_relevant =
        |(name, _): &(String, String)| RELEVANT.iter().any(|start| name.to_uppercase().starts_with(start));
    let line = |(name, value): (String, String)| {
        let value = if HARMLESS.contains(&name.as_str()) || value.is_empty() { value } else { "…".into() };
        lines(&format!("{name}={value}")) + "\n"
    };
    let mut found: Vec<String> = variables.filter(is_relevant).map(line).collect();
    found.sort();
    found.concat()
}

/// Returns the values of environment variables that contain a secret.
fn secret_variables() -> Vec<String> {
    let text = |text: OsString| text.to_string_lossy().into_owned();
    let variables = std::env::vars_os().map(|(name, value)| (text(name), text(value)));
    variables.filter(|(name, value)| is_secret(name, value)).map(|(_, value)| value).collect()
}
