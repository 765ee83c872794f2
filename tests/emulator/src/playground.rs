//! Emulator, sshd, and a home directory whose ssh configuration has a host entry with arcssh for each machine.
//!
//! The only module that depends on arcssh: on its command line and on the template of its host entries.

use std::ffi::{OsStr, OsString};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::sshd::Sshd;
use crate::{Builder, Emulator, Machine, user_database};

/// The template of a host entry.
const HOST: &str = include_str!("../demo.conf");

/// The variables that programs in the playground inherit. Others, such as a credential, a proxy, an agent, a choice of
/// colours or the marks of a CI machine, would change the outcome.
const PRESERVED: [&str; 6] = ["PYENV_ROOT", "TMPDIR", "USER", "LOGNAME", "TERM", "RUST_BACKTRACE"];
/// UTF-8 and English messages.
const LOCALE: &str = if cfg!(target_os = "macos") { "en_US.UTF-8" } else { "C.UTF-8" };

/// Programs that arcssh runs, or that a test replaces. The playground hides those that are installed.
const HIDDEN: [&str; 6] = ["arcssh", "az", "azd", "pwsh", "powershell", "xdg-open"];

/// Emulator, sshd and home directory. Dropping it removes all of them.
pub struct Playground {
    emulator: Emulator,
    sshd: Sshd,
    home: TempDir,
    arcssh: PathBuf,
    path: OsString,
    isolation: Isolation,
}

/// Whether ssh uses the playground's home directory for its default files.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Isolation {
    /// ssh uses the real home directory, so it needs `-F`.
    None,
    /// By a user database.
    Database,
    /// By a program `ssh`, which reads `HOME`.
    Program,
}

impl Playground {
    /// Starts a playground with the hosts `machines`, which the program `arcssh` connects to. `configure` may change the
    /// emulator's settings.
    ///
    /// # Errors
    /// sshd is not installed, or no port is free.
    pub fn start(
        arcssh: &Path,
        machines: &[&str],
        configure: impl FnOnce(Builder) -> Builder,
    ) -> Result<Self> {
        let home = tempfile::Builder::new().prefix("arcssh-").tempdir()?;
        let server = home.path().join("server");
        fs::create_dir(&server)?;
        let sshd = Sshd::start(&server)?;
        let builder = machines.iter().fold(Emulator::builder(), |builder, name| {
            builder.machine(Machine::new(name).ssh_port(sshd.port()))
        });
        let emulator = configure(builder).start()?;
        let path = search_path(home.path())?;
        let playground =
            Self { emulator, sshd, home, arcssh: arcssh.to_owned(), path, isolation: Isolation::None };
        playground.write_configuration(machines)?;
        Ok(playground)
    }

    /// The emulator.
    pub fn emulator(&self) -> &Emulator {
        &self.emulator
    }

    /// The sshd behind every machine.
    pub fn sshd(&self) -> &Sshd {
        &self.sshd
    }

    /// The temporary home directory.
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// The ssh configuration, for `-F`.
    pub fn configuration(&self) -> PathBuf {
        self.home.path().join(".ssh/config")
    }

    /// Returns a command that runs `program` in the playground's home directory and environment.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        let preserved = PRESERVED.iter().filter_map(|name| Some((name, std::env::var_os(name)?)));
        command.current_dir(self.home.path()).env_clear().envs(preserved).env("HOME", self.home.path());
        command.env("PATH", &self.path).env("LANG", LOCALE);
        command.envs(self.emulator.environment());
        if self.isolation == Isolation::Database {
            command.envs(user_database::variables(&self.database(self.home())));
        }
        command
    }

    /// Gives ssh the playground's home directory, also for its default files.
    ///
    /// # Errors
    /// nss_wrapper is not installed.
    pub fn isolate(mut self) -> Result<Self> {
        if cfg!(target_os = "macos") {
            self.path = user_database::write_ssh(&self.home.path().join("path/ssh"), &self.path)?;
            self.isolation = Isolation::Program;
            return Ok(self);
        }
        self.isolation = Isolation::Database;
        self.add_home(self.home())?;
        user_database::ensure_isolated(&mut self.command("env"), self.home())?;
        Ok(self)
    }

    /// Adds a home directory for [`Self::command_in`].
    ///
    /// # Errors
    /// The user database cannot be written.
    pub fn add_home(&self, home: &Path) -> Result<()> {
        if self.isolation == Isolation::Database {
            user_database::write(&self.database(home), home, &[])?;
        }
        Ok(())
    }

    /// Does the same as [`Self::command`] with another home directory.
    pub fn command_in(&self, home: &Path, program: impl AsRef<OsStr>) -> Command {
        let mut command = self.command(program);
        command.current_dir(home).env("HOME", home);
        if self.isolation == Isolation::Database {
            command.env("NSS_WRAPPER_PASSWD", self.database(home).join("passwd"));
        }
        command
    }

    fn database(&self, home: &Path) -> PathBuf {
        self.home.path().join("server/users").join(home.file_name().unwrap_or_default())
    }

    /// The search path of [`Self::command`].
    pub fn path(&self) -> &OsStr {
        &self.path
    }

    /// `ssh -F {configuration}`: add a host and a command.
    pub fn ssh(&self) -> Command {
        let mut ssh = self.command("ssh");
        ssh.arg("-F").arg(self.configuration()).args(["-o", "BatchMode=yes"]);
        ssh
    }

    /// `arcssh proxy {resource ID} --port {sshd's}`.
    pub fn proxy(&self, machine: &str) -> Command {
        let mut proxy = self.command(&self.arcssh);
        let id = self.emulator.machine(machine).resource_id();
        proxy.args(["proxy", &id, "--port", &self.sshd.port().to_string()]);
        proxy
    }

    fn write_configuration(&self, machines: &[&str]) -> Result<()> {
        let directory = self.home.path().join(".ssh");
        fs::create_dir(&directory)?;
        let known_hosts = directory.join("known_hosts");
        let user = whoami().context("name of the current user")?;
        let (mut sections, mut keys) = (String::new(), String::new());
        for machine in machines {
            let values = [
                ("{alias}", (*machine).to_owned()),
                ("{user}", user.clone()),
                ("{port}", self.sshd.port().to_string()),
                ("{identity_file}", self.sshd.client_key().display().to_string()),
                ("{known_hosts}", known_hosts.display().to_string()),
                ("{arcssh}", self.arcssh.display().to_string()),
                ("{resource_id}", self.emulator.machine(machine).resource_id()),
            ];
            sections += &values.iter().fold(HOST.to_owned(), |text, (name, value)| text.replace(name, value));
            let vm_id = self.emulator.machine(machine).vm_id();
            let named = vm_id.as_ref().map(|id| format!("{}.{id}", machine.to_lowercase()));
            for name in [Some((*machine).to_owned()), vm_id, named].into_iter().flatten() {
                keys += &self.sshd.known_hosts_line(&name)?;
            }
        }
        ensure!(!sections.contains(['{', '}']), "a placeholder of the template has no value:\n{sections}");
        fs::write(self.configuration(), sections)?;
        // ssh rejects a configuration file that others may write.
        fs::set_permissions(self.configuration(), Permissions::from_mode(0o600))?;
        fs::write(known_hosts, keys)?;
        Ok(())
    }
}

/// Returns PATH without the programs in [`HIDDEN`]: a directory with one of them is replaced by links to its other
/// programs.
fn search_path(home: &Path) -> Result<OsString> {
    let folders = std::env::var_os("PATH").context("PATH is not set")?;
    let visible = std::env::split_paths(&folders).enumerate().map(|(number, folder)| {
        if HIDDEN.iter().any(|name| folder.join(name).exists()) {
            linked(&folder, &home.join(format!("path/{number}")))
        } else {
            Ok(folder)
        }
    });
    Ok(std::env::join_paths(visible.collect::<Result<Vec<_>>>()?)?)
}

/// Fills `links` with links to the programs in `folder` that are not hidden.
fn linked(folder: &Path, links: &Path) -> Result<PathBuf> {
    fs::create_dir_all(links)?;
    for program in fs::read_dir(folder)? {
        let name = program?.file_name();
        if !HIDDEN.iter().any(|hidden| name == *hidden) {
            std::os::unix::fs::symlink(folder.join(&name), links.join(&name))?;
        }
    }
    Ok(links.to_owned())
}

fn whoami() -> Result<String> {
    let id = Command::new("id").arg("-un").output()?;
    ensure!(
        id.status.success(),
        "the current user has no name, but ssh requires one: {}",
        String::from_utf8_lossy(&id.stderr)
    );
    Ok(String::from_utf8(id.stdout)?.trim().to_owned())
}
