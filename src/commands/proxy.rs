//! `arcssh proxy`: find the machine's relay, connect, carry bytes. It only ever reads from Azure.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::pin::pin;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tracing::info;

use crate::azure::arm::Arm;
use crate::azure::cloud::Cloud;
use crate::azure::hybrid_connectivity::{RelayCredentials, Service, list_credentials};
use crate::azure::resource_id::ResourceId;
use crate::cli::{ProxyArgs, RELAY_INFO_VARIABLE};
use crate::fleet::find;
use crate::net::{self, Net};
use crate::relay::bridge::{self, Ending};
use crate::relay::connect::{ConnectError, Upgraded, wait_for_listener};
use crate::stdio;
use crate::waiting::Waiting;

/// Connects standard input and output to a port of an Arc machine until either side is done; the exit status.
///
/// # Errors
/// Under a [`Goal`]: what kept the connection from coming about, or why it broke.
pub(crate) async fn run(args: &ProxyArgs) -> Result<u8> {
    let waiting = Waiting::default();
    let mut stop = pin!(stop());
    let (goal, upgraded) = tokio::select! {
        biased;
        connected = waiting.during(connect(args, &waiting)) => connected?,
        () = stdio::output_closed() => return Ok(0), // ssh has stopped waiting
        number = &mut stop => return Ok(128 + number),
    };
    info!(%goal, "connected");
    let stop = async { Ending::Signal(stop.await) };
    match bridge::run(upgraded, stdio::input(), stdio::output(), stop).await {
        Ending::Finished => Ok(0),
        Ending::Signal(number) => Ok(128 + number),
        Ending::Broken(broken) => Err(broken).context(goal),
    }
}

async fn connect(args: &ProxyArgs, waiting: &Waiting) -> Result<(Goal, Upgraded<net::Stream>)> {
    let mut goal = Goal::new(args);
    let net = Net::new();
    let source = Source::new(args, &net, waiting).await.context(goal.clone())?;
    goal.machine = source.machine().cloned();
    let upgraded = dial(&net, &source, &goal, args.wait, waiting).await.context(goal.clone())?;
    Ok((goal, upgraded))
}

/// Dials with credentials of `source`, and once more with new ones where the relay does not take the first.
async fn dial(
    net: &Net,
    source: &Source,
    goal: &Goal,
    wait: Duration,
    waiting: &Waiting,
) -> Result<Upgraded<net::Stream>> {
    let try_with = async |credentials: &RelayCredentials| {
        waiting.for_the(format!("relay {}", credentials.authority()));
        let on_retry = |error: &ConnectError| {
            waiting.for_the(format!(
                "agent of {goal} to listen, up to {} s ({})",
                wait.as_secs(),
                error.brief()
            ));
        };
        wait_for_listener(net, credentials, goal.port, wait, on_retry).await
    };
    match try_with(&source.credentials(waiting).await?).await {
        Err(error) if error.is_unauthorized() && source.machine().is_some() => {
            info!("{error}; asking for new credentials once");
            Ok(try_with(&source.credentials(waiting).await?).await?)
        }
        result => Ok(result?),
    }
}

/// Where relay credentials come from.
enum Source {
    /// Minted by ARM for a machine.
    Machine { arm: Box<Arm>, machine: ResourceId, service: Service },
    /// Given, as Microsoft's sshProxy takes them.
    RelayInfo(RelayCredentials),
}

impl Source {
    async fn new(args: &ProxyArgs, net: &Net, waiting: &Waiting) -> Result<Self> {
        if args.machine.is_none() && args.host.is_none() {
            return relay_info(args.relay_info.as_deref()).map(Self::RelayInfo);
        }
        let arm = Arm::new(&Cloud::new(args.cloud.name(), &args.cloud.endpoints())?, net)?;
        let machine = match (&args.machine, &args.host) {
            (Some(machine), _) => machine.clone(),
            (None, host) => {
                let host = host.as_deref().unwrap_or_default();
                waiting.for_the(format!("resource ID of {host} from Azure Resource Manager"));
                find(&arm, host.strip_suffix(&args.suffix).unwrap_or(host)).await?.id
            }
        };
        Ok(Self::Machine { arm: Box::new(arm), machine, service: args.service })
    }

    async fn credentials(&self, waiting: &Waiting) -> Result<RelayCredentials> {
        match self {
            Self::Machine { arm, machine, service } => {
                waiting.for_the(format!("relay credentials of {} from Azure Resource Manager", machine.name));
                let credentials = list_credentials(arm, machine, *service).await?;
                info!(
                    relay = credentials.authority(),
                    expires_on = credentials.expires_on,
                    "relay credentials"
                );
                Ok(credentials)
            }
            Self::RelayInfo(credentials) => Ok(credentials.clone()),
        }
    }

    /// The machine, for which new credentials can be minted; none where they were given.
    fn machine(&self) -> Option<&ResourceId> {
        match self {
            Self::Machine { machine, .. } => Some(machine),
            Self::RelayInfo(_) => None,
        }
    }
}

fn relay_info(file: Option<&Path>) -> Result<RelayCredentials> {
    let (text, origin) = match file {
        Some(file) => {
            let text = read_bounded(file).with_context(|| format!("cannot read {}", file.display()))?;
            (text, file.display().to_string())
        }
        None => match std::env::var(RELAY_INFO_VARIABLE) {
            Ok(text) => (text, RELAY_INFO_VARIABLE.to_owned()),
            Err(_) => bail!(NoMachine),
        },
    };
    RelayCredentials::from_relay_info(&text).with_context(|| format!("{origin} holds no relay information"))
}

/// The text of a file up to [`MAX_RELAY_INFO`]: a device, or a file named by mistake, is not read without end.
fn read_bounded(file: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    File::open(file)?.take(MAX_RELAY_INFO).read_to_string(&mut text)?;
    Ok(text)
}

/// Bytes of relay information that are read; an answer of listCredentials is about 4 kB, and a third more in base64.
const MAX_RELAY_INFO: u64 = 64 * 1024;

/// Neither a resource ID nor relay information was given.
#[derive(Debug, thiserror::Error)]
#[error("no machine is named")]
pub(crate) struct NoMachine;

/// What a connection is to reach: the context of every error.
#[derive(Clone, Debug)]
pub(crate) struct Goal {
    /// The machine; none before its name has been looked up, and where only relay information is given.
    pub(crate) machine: Option<ResourceId>,
    /// What it was called.
    name: String,
    /// The port on the machine.
    pub(crate) port: u16,
}

impl Goal {
    fn new(args: &ProxyArgs) -> Self {
        let name = args.machine.as_ref().map(|machine| machine.name.clone()).or(args.host.clone());
        Self {
            machine: args.machine.clone(),
            name: name.unwrap_or("the machine".into()),
            port: args.port.unwrap_or(args.service.default_port()),
        }
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// The signal that asks for the end, once there is one. ssh sends its ProxyCommand SIGHUP when it is done with it.
#[cfg(unix)]
async fn stop() -> u8 {
    use tokio::signal::unix::{SignalKind, signal};
    const HANGUP: u8 = 1;
    const INTERRUPT: u8 = 2;
    const TERMINATE: u8 = 15;
    let caught = async |number: u8| match signal(SignalKind::from_raw(number.into())) {
        Ok(mut signals) => drop(signals.recv().await),
        Err(_) => std::future::pending().await, // the system's own action stays
    };
    tokio::select! {
        () = caught(HANGUP) => HANGUP,
        () = caught(INTERRUPT) => INTERRUPT,
        () = caught(TERMINATE) => TERMINATE,
    }
}

/// The number of the signal that Ctrl-C stands for, once it asks for the end.
#[cfg(not(unix))]
async fn stop() -> u8 {
    const INTERRUPT: u8 = 2;
    match tokio::signal::ctrl_c().await {
        Ok(()) => INTERRUPT,
        Err(_) => std::future::pending().await,
    }
}
