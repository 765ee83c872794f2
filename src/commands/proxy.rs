//! `arcssh proxy`: find the machine's relay, connect, carry bytes. It only ever reads from Azure.

use std::fmt;
use std::path::Path;
use std::pin::pin;

use anyhow::{Context, Result, bail};
use tracing::info;

use crate::azure::arm::Arm;
use crate::azure::cloud::Cloud;
use crate::azure::hybrid_connectivity::{RelayCredentials, Service, list_credentials};
use crate::azure::resource_id::ResourceId;
use crate::cli::{ProxyArgs, RELAY_INFO_VARIABLE};
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
    let goal = Goal::new(args);
    let waiting = Waiting::default();
    let mut stop = pin!(stop());
    let upgraded = tokio::select! {
        biased;
        upgraded = waiting.during(connect(args, &goal, &waiting)) => upgraded.context(goal.clone())?,
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

async fn connect(args: &ProxyArgs, goal: &Goal, waiting: &Waiting) -> Result<Upgraded<net::Stream>> {
    let net = Net::new();
    let source = Source::new(args, &net)?;
    let dial = async |credentials: &RelayCredentials| {
        waiting.for_the(format!("relay {}", credentials.authority()));
        let on_retry = |error: &ConnectError| {
            waiting.for_the(format!(
                "agent of {goal} to listen, up to {} s ({})",
                args.wait.as_secs(),
                error.brief()
            ));
        };
        wait_for_listener(&net, credentials, goal.port, args.wait, on_retry).await
    };
    match dial(&source.credentials(waiting).await?).await {
        Err(error) if error.is_unauthorized() && source.mints() => {
            info!("{error}; asking for new credentials once");
            Ok(dial(&source.credentials(waiting).await?).await?)
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
    fn new(args: &ProxyArgs, net: &Net) -> Result<Self> {
        let Some(machine) = args.machine.clone() else {
            return relay_info(args.relay_info.as_deref()).map(Self::RelayInfo);
        };
        let (name, endpoints) = args.cloud.endpoints();
        let cloud = Cloud::new(name, &endpoints)?;
        let http = net.http_client([&cloud.arm_endpoint, &cloud.authority_host])?;
        let arm = Arm::new(&cloud, http)?;
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

    fn mints(&self) -> bool {
        matches!(self, Self::Machine { .. })
    }
}

fn relay_info(file: Option<&Path>) -> Result<RelayCredentials> {
    let (text, origin) = match file {
        Some(file) => {
            let text =
                std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
            (text, file.display().to_string())
        }
        None => match std::env::var(RELAY_INFO_VARIABLE) {
            Ok(text) => (text, RELAY_INFO_VARIABLE.to_owned()),
            Err(_) => bail!(NoMachine),
        },
    };
    RelayCredentials::from_relay_info(&text).with_context(|| format!("{origin} holds no relay information"))
}

/// Neither a resource ID nor relay information was given.
#[derive(Debug, thiserror::Error)]
#[error("no machine is named")]
pub(crate) struct NoMachine;

/// What a connection is to reach: the context of every error.
#[derive(Clone, Debug)]
pub(crate) struct Goal {
    /// The machine; none where only relay information is given.
    pub(crate) machine: Option<ResourceId>,
    /// The port on the machine.
    pub(crate) port: u16,
}

impl Goal {
    fn new(args: &ProxyArgs) -> Self {
        Self { machine: args.machine.clone(), port: args.port.unwrap_or(args.service.default_port()) }
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.machine {
            Some(machine) => f.write_str(&machine.name),
            None => f.write_str("the machine"),
        }
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
