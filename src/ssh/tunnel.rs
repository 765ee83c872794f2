//! A local port that ssh forwards.

use std::ffi::OsString;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::time::sleep;

use crate::ssh::host_entry::{Platform, command_line, escape_percent};
use crate::ssh::verification::View;
use crate::ssh::{SshError, client, effective_config, managed_block};
use crate::system::files;

/// The time between two checks whether ssh forwards the port.
const INTERVAL: Duration = Duration::from_millis(50);

/// The options that override a user's section for all hosts: ssh would not end with the tunnel (`ControlPath`), or not forward
/// the port (ssh_config(5): `ClearAllForwardings`; `AddressFamily`, which also limits local addresses).
const OPTIONS: [&str; 9] = [
    "-NT",
    "-o",
    "ExitOnForwardFailure=yes",
    "-o",
    "ControlPath=none",
    "-o",
    "ClearAllForwardings=no",
    "-o",
    "AddressFamily=any",
];

/// A running ssh that forwards a local port. It ends on drop.
pub(crate) struct Tunnel {
    ssh: Child,
    arguments: Vec<OsString>,
    local: SocketAddr,
    /// ssh creates a directory in this one when it forwards the port. Only this user can.
    directory: TempDir,
}

/// Returns a free address of this computer.
///
/// # Errors
/// The port is in use.
pub(crate) fn free_address(port: Option<u16>) -> anyhow::Result<SocketAddr> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port.unwrap_or(0)));
    let listener = TcpListener::bind(address).with_context(|| format!("cannot listen on {address}"))?;
    Ok(listener.local_addr()?)
}

/// Returns the options that keep ssh from going to the background, which would outlive the tunnel. Versions before 8.7 do not
/// know the option (OpenSSH 8.7, release notes), and `ssh -G` prints each option that ssh knows.
fn stay_in_foreground() -> &'static [&'static str] {
    let known = effective_config::values("localhost", Some(Path::new("none"))).ok().flatten();
    let is_known = known.is_some_and(|known| known.contains_key("forkafterauthentication"));
    if is_known { &["-o", "ForkAfterAuthentication=no"] } else { &[] }
}

impl Tunnel {
    /// Starts ssh. `arguments` adds the options of the tunnel to ssh's arguments.
    ///
    /// Another process can take the port before ssh does, and a client of the tunnel would then trust that process. So only
    /// ssh's `LocalCommand` tells that ssh has the port: ssh runs it after its forwardings (ssh.c, `ssh_session2`), and ends if
    /// one of those fails (ssh_config(5), `ExitOnForwardFailure`). mkdir is a program or a command of each shell.
    ///
    /// # Errors
    /// [`SshError::NoClient`]; the system does not start ssh; there is no temporary directory.
    pub(crate) fn start(
        local: SocketAddr,
        to: &str,
        arguments: impl FnOnce(Vec<OsString>) -> Vec<OsString>,
    ) -> Result<Self, SshError> {
        let directory = files::temporary("").tempdir().context("cannot create a temporary directory")?;
        let ready = directory.path().join(READY);
        let ready = ready.to_str().context("the path of the temporary directory is not valid Unicode")?;
        let ready = command_line(&["mkdir".to_owned(), escape_percent(ready)], Platform::HERE)?;
        let (local_command, forward) = (format!("LocalCommand {ready}"), format!("{local}:{to}"));
        let own = ["-o", "PermitLocalCommand=yes", "-o", &local_command, "-L", &forward];
        let options = OPTIONS.iter().chain(stay_in_foreground()).chain(&own).map(OsString::from).collect();
        let mut ssh = Command::new(client::ssh()?);
        let arguments = arguments(options);
        ssh.args(&arguments).stdin(Stdio::null());
        match ssh.spawn() {
            Ok(ssh) => Ok(Self { ssh, arguments, local, directory }),
            Err(error) if error.kind() == ErrorKind::NotFound => Err(SshError::NoClient),
            Err(error) => Err(error).context("cannot run ssh")?,
        }
    }

    /// Waits until ssh forwards the port. The user may answer questions of ssh meanwhile, so there is no time limit. Returns the
    /// exit status if ssh ends first.
    ///
    /// # Errors
    /// [`SshError::OtherForwarding`]; the system does not return the exit status.
    pub(crate) async fn ready(&mut self) -> Result<Option<ExitStatus>, SshError> {
        let ready = self.directory.path().join(READY);
        let is_ready = async {
            while !ready.exists() {
                sleep(INTERVAL).await;
            }
        };
        tokio::select! {
            biased;
            status = self.ssh.wait() => {
                let status = status?;
                self.check_other_forwardings()?;
                Ok(Some(status))
            }
            () = is_ready => Ok(None),
        }
    }

    /// Finds a forwarding of the user's configuration that ended ssh (ssh_config(5), `ExitOnForwardFailure`). Without them
    /// (`ClearAllForwardings`), ssh would not forward the port of the tunnel either.
    fn check_other_forwardings(&self) -> Result<(), SshError> {
        let words = [OsString::from("-G")].into_iter().chain(self.arguments.iter().cloned());
        let mut print = std::process::Command::new(client::ssh()?);
        let output = print.args(words).stdin(Stdio::null()).output().context("cannot run ssh")?;
        let own = format!("[{}]:{}", self.local.ip(), self.local.port());
        let text = String::from_utf8_lossy(&output.stdout);
        let others: Vec<(&str, &str)> =
            text.lines().filter_map(forwarding).filter(|(_, place)| *place != own).collect();
        let Some((keyword, place)) = others.iter().find(|(_, place)| is_in_use(place)) else { return Ok(()) };
        let is_only = others.iter().filter(|(other, _)| other == keyword).count() == 1;
        let host = self.arguments.last().and_then(|host| host.to_str()).filter(|_| is_only);
        let line = |host| View::plain(&managed_block::default_path()?)?.first_line_with(keyword, host);
        let by = host.map(line).transpose()?.flatten();
        Err(SshError::OtherForwarding { forwarding: format!("{keyword} {place}"), by })
    }

    /// Waits for the end of ssh.
    ///
    /// # Errors
    /// The system does not return the exit status.
    pub(crate) async fn ended(&mut self) -> Result<ExitStatus, SshError> {
        Ok(self.ssh.wait().await?)
    }
}

const READY: &str = "ready";

/// Returns the keyword and the local address of a line of `ssh -G` about a forwarding.
fn forwarding(line: &str) -> Option<(&'static str, &str)> {
    let (keyword, rest) = line.split_once(' ')?;
    let keyword =
        ["LocalForward", "DynamicForward"].into_iter().find(|one| one.eq_ignore_ascii_case(keyword))?;
    Some((keyword, rest.split(' ').next()?))
}

/// Returns whether ssh can listen on none of the addresses of `PORT` or `[HOST]:PORT` because another program does.
fn is_in_use(place: &str) -> bool {
    let (host, port) = place.rsplit_once(':').unwrap_or(("localhost", place));
    let Ok(port) = port.parse::<u16>() else { return false };
    let addresses: Vec<IpAddr> = match host.trim_matches(['[', ']']) {
        "localhost" => vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
        "*" => vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()],
        address => address.parse().into_iter().collect(),
    };
    let errors: Vec<ErrorKind> = addresses
        .iter()
        .filter_map(|address| TcpListener::bind((*address, port)).err().map(|error| error.kind()))
        .collect();
    errors.len() == addresses.len() && errors.contains(&ErrorKind::AddrInUse)
}

impl Drop for Tunnel {
    /// On SIGTERM, ssh also ends its ProxyCommand (sshconnect.c, `ssh_kill_proxy_command`).
    fn drop(&mut self) {
        #[cfg(unix)]
        if let Some(id) = self.ssh.id().and_then(|id| rustix::process::Pid::from_raw(id.cast_signed())) {
            let _ = rustix::process::kill_process(id, rustix::process::Signal::TERM);
        }
        #[cfg(not(unix))]
        let _ = self.ssh.start_kill();
    }
}
