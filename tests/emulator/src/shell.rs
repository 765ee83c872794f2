//! `arcssh-emulator playground`: a shell to try arcssh in. It has a temporary home directory with its own ssh
//! configuration, host keys and state directory.
//!
//! The programs in the playground and the machines' sshd read the playground's user database.

use std::convert::Infallible;
use std::fs::{self, Permissions};
use std::io::IsTerminal as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, bail, ensure};
use arcssh_emulator::playground::Playground;
use arcssh_emulator::{Builder, Machine, user_database};
use tokio::signal::unix::{SignalKind, signal};

use crate::demo::{Arcssh, print, quoted};

/// The login name in the README's commands, and the name of the user in Entra ID.
const LOGINS: [&str; 2] = ["azureuser", "ada@arcssh.example"];
/// The principal of the second one's certificate: the emulator's user, as registered.
const PRINCIPAL: &str = "Ada@arcssh.example";
/// Machines with their resource groups.
const MACHINES: [(&str, &str); 3] = [("web01", "rg-web"), ("web02", "rg-web"), ("db01", "rg-db")];
/// The variables of the service principal. The playground leaves them out, so that the user signs in.
const SERVICE_PRINCIPAL: [&str; 3] = ["AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET"];
/// A browser in which the user signs in at once.
const BROWSER: &str = "#!/bin/sh\nexec curl -sSL --cacert \"$SSL_CERT_FILE\" -o /dev/null \"$1\"\n";

/// Open a shell in which arcssh reaches emulated machines
#[derive(clap::Args)]
pub(crate) struct Shell {
    #[command(flatten)]
    arcssh: Arcssh,
    /// The number of machines in addition to the usual ones
    #[arg(long, value_name = "COUNT", default_value_t = 0)]
    more_machines: usize,
    /// Delay one connection in 20 by 3 to 7 s, and give one in 50 no answer
    #[arg(long)]
    relay_tail: bool,
    /// A command to run instead of an interactive shell
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

impl Shell {
    /// Runs the shell or the command until it exits. Returns the exit status of the command.
    pub(crate) fn run(&self) -> Result<ExitCode> {
        let arcssh = self.arcssh.path()?;
        let more = |builder| (0..self.more_machines).fold(builder, with_numbered_machine);
        let tail = |builder: Builder| if self.relay_tail { builder.relay_tail() } else { builder };
        let playground = Playground::start(&arcssh, &[], |builder| tail(more(with_machines(builder))))?;
        set_up_home(&playground, &arcssh)?;
        let enter = write_enter_script(&playground)?;
        user_database::ensure_isolated(&mut Command::new(&enter), playground.home())?;
        let mut shell = Command::new(&enter);
        if !self.command.is_empty() {
            return run_to_end(&playground, shell.args(&self.command));
        }
        print(&greeting(&enter));
        ensure!(std::io::stdin().is_terminal(), "the playground needs a terminal, or a command after --");
        run_to_end(&playground, &mut shell)?;
        Ok(ExitCode::SUCCESS)
    }
}

fn with_machines(builder: Builder) -> Builder {
    MACHINES.iter().fold(builder, |builder, (name, group)| {
        builder.machine(Machine::new(name).resource_group(group).tag("env", "prod"))
    })
}

fn with_numbered_machine(builder: Builder, number: usize) -> Builder {
    builder.machine(Machine::new(&format!("fleet{number}")).resource_group("rg-fleet"))
}

fn greeting(enter: &Path) -> String {
    format!(
        "web01, web02 and db01 are emulated. This shell has a temporary home directory, \
        which is deleted when you type exit.

  arcssh login
  arcssh config web01 --user azureuser
  ssh web01

Run a second shell in another terminal: {}\n",
        enter.display()
    )
}

/// Writes arcssh, a key, the machines' host keys and sshd's user database into the home directory.
fn set_up_home(playground: &Playground, arcssh: &Path) -> Result<()> {
    let (home, sshd) = (playground.home(), playground.sshd());
    let known_hosts = MACHINES.iter().map(|(name, _)| {
        let machine = playground.emulator().machine(name);
        machine.move_port(22, sshd.port());
        let id = machine.vm_id().context("a machine without VM ID")?;
        sshd.known_hosts_line(&format!("{name}.{id}"))
    });
    fs::write(home.join(".ssh/known_hosts"), known_hosts.collect::<Result<String>>()?)?;
    fs::remove_file(playground.configuration())?;
    fs::rename(sshd.client_key(), home.join(".ssh/id_ed25519"))?;
    sshd.trust_authority(&playground.emulator().ssh_ca_public_key(), &[PRINCIPAL])?;
    fs::create_dir(home.join("bin"))?;
    symlink(arcssh, home.join("bin/arcssh"))?;
    write_program(&home.join("bin/browser"), BROWSER)?;
    fs::write(home.join(".bashrc"), "PS1='(playground) \\w \\$ '\n")?;
    let machine = home.join("server");
    sshd.add_environment(user_database::write(&machine, &machine.join("home"), &LOGINS)?);
    Ok(())
}

/// Writes the script that runs bash or its arguments in the playground.
fn write_enter_script(playground: &Playground) -> Result<PathBuf> {
    let home = playground.home();
    let path = playground.path().to_str().context("PATH is not UTF-8")?;
    let own = [
        ("HOME", home.display().to_string()),
        ("PATH", format!("{}:{path}", home.join("bin").display())),
        ("ARCSSH_STATE_DIR", home.join(".local/state/arcssh").display().to_string()),
        ("BROWSER", home.join("bin/browser").display().to_string()),
    ];
    let own = own.map(|(name, value)| (name.to_owned(), value));
    let emulator = playground.emulator().environment();
    let emulator = emulator.into_iter().filter(|(name, _)| !SERVICE_PRINCIPAL.contains(&name.as_str()));
    let variables = emulator.chain(own).chain(user_database::write(home, home, &LOGINS)?);
    let words: Vec<String> = variables.map(|(name, value)| quoted(&format!("{name}={value}"))).collect();
    let script = format!(
        "#!/bin/sh\ncd {} || exit\n[ $# -gt 0 ] || set -- bash\nexec env -i ${{TERM+\"TERM=$TERM\"}} ${{LANG+\"LANG=$LANG\"}} {} \"$@\"\n",
        quoted(&home.display().to_string()),
        words.join(" ")
    );
    let enter = home.join("enter");
    write_program(&enter, &script)?;
    Ok(enter)
}

/// Runs `command` until it exits. Approves every device code sign-in meanwhile. SIGTERM and SIGHUP end the command;
/// SIGINT is left to the command.
fn run_to_end(playground: &Playground, command: &mut Command) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let _interrupt = signal(SignalKind::interrupt())?;
        let (mut terminate, mut hangup) = (signal(SignalKind::terminate())?, signal(SignalKind::hangup())?);
        let mut command = tokio::process::Command::from(std::mem::replace(command, Command::new("")));
        let mut child = command.kill_on_drop(true).spawn()?;
        let status = tokio::select! {
            status = child.wait() => status?,
            never = approve_devices(playground) => match never {},
            _ = terminate.recv() => bail!("terminated"),
            _ = hangup.recv() => bail!("the terminal was closed"),
        };
        Ok(ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)))
    })
}

/// Approves each device code sign-in.
async fn approve_devices(playground: &Playground) -> Infallible {
    loop {
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        let codes = playground.emulator().pending_devices();
        codes.iter().for_each(|code| playground.emulator().approve_device(code));
    }
}

fn write_program(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text)?;
    fs::set_permissions(path, Permissions::from_mode(0o700))?;
    Ok(())
}
