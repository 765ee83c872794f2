//! A machine to reach and a way to reach it: emulator, sshd, and a home with an ssh configuration whose hosts use
//! arcssh. The one room that knows arcssh, by the path of its binary and its command line.

use std::ffi::{OsStr, OsString};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::sshd::Sshd;
use crate::{Builder, Emulator, Machine};

/// One Host section of the playground's ssh configuration.
const HOST: &str = include_str!("../../../config-templates/demo.conf");

/// What a program keeps of its user's environment: what finds other programs and shows text. Whatever else is set there
/// (an identity, a proxy, an agent, a taste in colours, the signs of a CI machine) would make the playground another one.
const PRESERVED: [&str; 6] = ["PYENV_ROOT", "TMPDIR", "USER", "LOGNAME", "TERM", "RUST_BACKTRACE"];
/// UTF-8, and messages in English, whatever the user's language is.
const LOCALE: &str = if cfg!(target_os = "macos") { "en_US.UTF-8" } else { "C.UTF-8" };

/// Programs that arcssh runs or that a test puts in their place. Those of this machine are hidden.
const HIDDEN: [&str; 6] = ["arcssh", "az", "azd", "pwsh", "powershell", "xdg-open"];

/// Emulator, sshd and home. All of it disappears when it is dropped.
pub struct Playground {
    emulator: Emulator,
    sshd: Sshd,
    home: TempDir,
    arcssh: PathBuf,
    path: OsString,
}

impl Playground {
    /// A playground whose hosts are `machines`, reached by the program `arcssh`; `configure` has the last word on the
    /// emulator.
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
        let playground = Self { emulator, sshd, home, arcssh: arcssh.to_owned(), path };
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

    /// A program in the playground's home and environment.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        let preserved = PRESERVED.iter().filter_map(|name| Some((name, std::env::var_os(name)?)));
        command.current_dir(self.home.path()).env_clear().envs(preserved).env("HOME", self.home.path());
        command.env("PATH", &self.path).env("LANG", LOCALE);
        command.envs(self.emulator.environment());
        command
    }

    /// The search path of [`Self::command`].
    pub fn path(&self) -> &OsStr {
        &self.path
    }

    /// `ssh -F {configuration}`, to be given a host and what to do there.
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
        let user = whoami().context("who runs this?")?;
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
            for name in [Some((*machine).to_owned()), vm_id].into_iter().flatten() {
                keys += &self.sshd.known_hosts_line(&name)?;
            }
        }
        ensure!(!sections.contains(['{', '}']), "a placeholder of the template has no value:\n{sections}");
        fs::write(self.configuration(), sections)?;
        // Others may not write it, whatever the user's umask says: ssh reads no such file.
        fs::set_permissions(self.configuration(), Permissions::from_mode(0o600))?;
        fs::write(known_hosts, keys)?;
        Ok(())
    }
}

/// PATH without the programs in [`HIDDEN`]: a folder with one of them is replaced by links to its other programs.
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
        "this user has no name, which ssh requires: {}",
        String::from_utf8_lossy(&id.stderr)
    );
    Ok(String::from_utf8(id.stdout)?.trim().to_owned())
}
