//! What all parts need: the emulator, sshd, the relay, and arcssh with cached credentials of that relay.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use arcssh_emulator::ServerCertificate;
use arcssh_emulator::playground::Playground;

use crate::relay::Relay;

/// The machine to which all connections go.
const MACHINE: &str = "web01";

pub(crate) struct Stage {
    pub(crate) playground: Playground,
    pub(crate) relay: Relay,
    /// The base line, `arcssh-bench-limit`.
    limit: PathBuf,
}

impl Stage {
    /// Starts the servers and fills arcssh's cache: a first connection requests credentials of the emulator. Then the file
    /// names the relay of this program as their host. The base line is in arcssh's directory.
    pub(crate) fn start(arcssh: &Path) -> Result<Self> {
        let playground = Playground::start(arcssh, &[MACHINE], |builder| builder)?;
        let relay = Relay::start(playground.emulator().tls_server(ServerCertificate::Genuine))?;
        let stage = Self { playground, relay, limit: arcssh.with_file_name("arcssh-bench-limit") };
        let first = stage.arcssh().stdin(Stdio::null()).output().context("arcssh cannot be started")?;
        ensure!(
            first.stdout.starts_with(b"SSH-2.0-"),
            "the first connection failed: {}",
            String::from_utf8_lossy(&first.stderr)
        );
        let emulated = stage.playground.emulator().relay_authority();
        let (_, port) = emulated.rsplit_once(':').context("the emulator's relay has a port")?;
        stage.move_relay(port.parse()?, stage.relay.address.port())?;
        Ok(stage)
    }

    /// `arcssh proxy`, as ssh starts it.
    pub(crate) fn arcssh(&self) -> Command {
        self.with_state(self.playground.proxy(MACHINE))
    }

    /// The base line with TLS.
    pub(crate) fn limit(&self) -> Command {
        let mut limit = Command::new(&self.limit);
        limit.arg("tls").arg(self.relay.address.to_string()).arg(self.playground.emulator().authority_file());
        limit
    }

    /// The `ProxyCommand` of the base line without TLS, to a port on loopback: `nc`, if it is installed.
    pub(crate) fn plain_proxy(&self, port: u16) -> String {
        let nc = Command::new("nc").arg("-h").stdin(Stdio::null()).output();
        match nc {
            Ok(_) => format!("nc 127.0.0.1 {port}"),
            Err(_) => format!("{} tcp 127.0.0.1:{port}", self.limit.display()),
        }
    }

    /// `ssh OPTIONS web01 COMMAND` through arcssh. An earlier option replaces one of the configuration (ssh_config(5)).
    pub(crate) fn ssh(&self, options: &[&str], command: &str) -> Command {
        let mut ssh = self.with_state(self.playground.ssh());
        ssh.args(options).args([MACHINE, command]);
        ssh
    }

    /// Changes the port of the relay in arcssh's cache.
    pub(crate) fn move_relay(&self, from: u16, to: u16) -> Result<()> {
        let (from, to) = (format!(":{from}\""), format!(":{to}\""));
        let mut changed = 0;
        for entry in fs::read_dir(self.state().join("arcssh-state"))? {
            let path = entry?.path();
            let Ok(text) = fs::read_to_string(&path) else { continue };
            if text.contains(&from) {
                fs::write(path, text.replace(&from, &to))?;
                changed += 1;
            }
        }
        ensure!(changed == 1, "{changed} files of the state directory name the relay");
        Ok(())
    }

    fn with_state(&self, mut command: Command) -> Command {
        command.env("ARCSSH_STATE_DIR", self.state());
        command
    }

    fn state(&self) -> &Path {
        self.playground.home()
    }
}
