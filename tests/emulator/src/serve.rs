//! `arcssh-emulator serve`: starts an emulator, prints how to use it, and waits for a signal.

use std::collections::HashMap;
use std::fs;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use arcssh_emulator::{Builder, Emulator, IssuedCredentials, KeyExchange, Machine, RelayFault};
use clap::Args;

/// How often `--no-agent` checks for new hybrid connections.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Run an emulator until a signal stops it
#[derive(Args)]
pub(crate) struct Serve {
    /// A machine and the port of its sshd; may be repeated
    #[arg(long = "machine", value_name = "NAME=SSHPORT", value_parser = parse_machine, default_value = "web01=22")]
    machines: Vec<(String, u16)>,

    /// The loopback address of all servers
    #[arg(long, value_name = "ADDRESS", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    bind: IpAddr,

    /// Seconds for which the relay answers "Endpoint does not exist." for a new hybrid connection
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds, default_value = "0")]
    endpoint_delay: Duration,

    /// Seconds after the endpoint delay for which the relay answers "There are no listeners connected for the endpoint."
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds, default_value = "0")]
    listener_delay: Duration,

    /// Address of the metadata service of an Azure VM (169.254.169.254:80 in Azure) [default: a free port]
    #[arg(long, value_name = "ADDRESS:PORT")]
    imds: Option<SocketAddr>,

    /// Address of the metadata service of an Arc-enabled server (127.0.0.1:40342 on real servers) [default: a free port]
    #[arg(long, value_name = "ADDRESS:PORT")]
    himds: Option<SocketAddr>,

    /// Write the environment to this file
    #[arg(long, value_name = "PATH")]
    env_file: Option<PathBuf>,

    /// Start no agent, and print for each new hybrid connection how to attach another listener
    #[arg(long)]
    no_agent: bool,

    /// Start the machines without endpoint and service configuration
    #[arg(long)]
    not_set_up: bool,

    /// Let the relay accept only secp384r1 in TLS
    #[arg(long)]
    secp384r1_only: bool,

    /// Reject every sender with this status and text
    #[arg(long, value_name = "STATUS=TEXT", value_parser = parse_refusal)]
    refuse: Option<(u16, String)>,

    /// Drop every connection after this many bytes to the sender
    #[arg(long, value_name = "BYTES")]
    cut_after: Option<u64>,

    /// Ping every sender at this interval
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds)]
    ping_every: Option<Duration>,

    /// Split messages to senders into frames of this size
    #[arg(long, value_name = "BYTES")]
    fragments: Option<usize>,
}

impl Serve {
    /// Runs until SIGINT, SIGTERM or SIGHUP.
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let emulator = self.builder().start()?;
        self.faults().into_iter().for_each(|fault| emulator.relay_fault(fault.always()));
        let env_file = self.env_file.clone().unwrap_or_else(|| emulator.directory().join("env"));
        write_env_file(&env_file, &env_text(&emulator))
            .with_context(|| format!("environment file {}", env_file.display()))?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            // The handlers are installed before the output that a caller may wait for.
            let interrupted = interrupted()?;
            self.greet(&emulator, &env_file);
            tokio::select! {
                () = interrupted => Ok(()),
                () = self.report_issued(&emulator) => Ok(()),
            }
        })
    }

    fn builder(&self) -> Builder {
        let mut builder = Emulator::builder()
            .bind(self.bind)
            .endpoint_delay(self.endpoint_delay)
            .listener_delay(self.listener_delay);
        for (name, port) in &self.machines {
            let machine = Machine::new(name).ssh_port(*port);
            builder = builder.machine(if self.not_set_up { machine.without_endpoint() } else { machine });
        }
        if let Some(address) = self.imds {
            builder = builder.imds(address);
        }
        if let Some(address) = self.himds {
            builder = builder.himds(address);
        }
        if self.secp384r1_only {
            builder = builder.relay_key_exchange(KeyExchange::Secp384r1Only);
        }
        if self.no_agent { builder.without_agent() } else { builder }
    }

    /// The fault of the command line. One fault applies to a connection, so the first option wins.
    fn faults(&self) -> Option<RelayFault> {
        let refuse = self.refuse.as_ref().map(|(status, text)| RelayFault::refuse(*status, text));
        let cut = self.cut_after.map(RelayFault::cut_after);
        let fragments = self.fragments.map(RelayFault::fragments);
        let pings = self.ping_every.map(RelayFault::pings);
        refuse.or(cut).or(fragments).or(pings)
    }

    #[expect(clippy::print_stdout, reason = "the text is the product of this function")]
    fn greet(&self, emulator: &Emulator, env_file: &std::path::Path) {
        println!("{}", env_text(emulator));
        for (name, port) in &self.machines {
            println!("# {name}, sshd on port {port}: {}", emulator.machine(name).resource_id());
        }
        println!("\n# In another terminal:\n. {}", env_file.display());
        for (name, port) in &self.machines {
            let id = emulator.machine(name).resource_id();
            println!("ssh -o ProxyCommand='arcssh proxy {id} --port {port}' {name}");
        }
        println!("\n# Stop the emulator with Ctrl-C.");
    }

    /// Prints the address and token of a listener for every new hybrid connection, for `--no-agent`.
    async fn report_issued(&self, emulator: &Emulator) {
        let mut reported: HashMap<&str, usize> = HashMap::new();
        loop {
            tokio::time::sleep(POLL_INTERVAL).await;
            for (name, _) in self.machines.iter().filter(|_| self.no_agent) {
                let issued = emulator.machine(name).issued_credentials();
                let seen = reported.entry(name.as_str()).or_default();
                issued.iter().skip(*seen).for_each(|issued| print_issued(name, issued));
                *seen = issued.len();
            }
        }
    }
}

#[expect(clippy::print_stdout, reason = "the text is the product of this function")]
fn print_issued(machine: &str, issued: &IssuedCredentials) {
    println!("# {machine}: a listener can connect to\n{}", issued.listen_uri());
    println!("# with the header\nServiceBusAuthorization: {}", issued.listen_token);
}

fn env_text(emulator: &Emulator) -> String {
    emulator.environment().iter().map(|(name, value)| format!("export {name}='{value}'\n")).collect()
}

/// Writes a file that only its owner may read, because it contains the client secret.
fn write_env_file(path: &std::path::Path, text: &str) -> anyhow::Result<()> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
        options.mode(0o600);
        if path.exists() {
            fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
        }
    }
    options.open(path)?.write_all(text.as_bytes())?;
    Ok(())
}

/// Installs the signal handlers; the future ends with the first signal.
#[cfg(unix)]
pub(crate) fn interrupted() -> anyhow::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut interrupt, mut terminate, mut hangup) =
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?, signal(SignalKind::hangup())?);
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    })
}

#[cfg(not(unix))]
pub(crate) fn interrupted() -> anyhow::Result<impl Future<Output = ()>> {
    Ok(async { drop(tokio::signal::ctrl_c().await) })
}

fn parse_machine(text: &str) -> anyhow::Result<(String, u16)> {
    let (name, port) = text.split_once('=').context("expected NAME=SSHPORT")?;
    Ok((name.to_owned(), port.parse().context("port")?))
}

fn parse_refusal(text: &str) -> anyhow::Result<(u16, String)> {
    let (status, reason) = text.split_once('=').context("expected STATUS=TEXT")?;
    Ok((status.parse().context("status")?, reason.to_owned()))
}

fn parse_seconds(text: &str) -> anyhow::Result<Duration> {
    Ok(Duration::try_from_secs_f64(text.parse()?)?)
}
