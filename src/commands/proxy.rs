//! `arcssh proxy`: find the machine's relay, connect, carry bytes. It only ever reads from Azure.

use std::path::Path;
use std::pin::{Pin, pin};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::time::{Instant, timeout};
use tracing::info;

use crate::azure::arm::{Arm, ArmError};
use crate::azure::cloud::Cloud;
use crate::azure::credentials::Identity;
use crate::azure::hybrid_connectivity::RelayCredentials;
use crate::azure::relay_credential_cache::{Credentials, Minted};
use crate::azure::relay_host::RelaySuffixes;
use crate::azure::resource_id::ResourceId;
use crate::cli::{ProxyArgs, RELAY_INFO_VARIABLE};
use crate::connector::{AZURE, Goal, Way};
use crate::diagnosis::last_error;
use crate::entra_ssh::cache::{Holder, Pair};
use crate::files;
use crate::machines::{Names, NoMachine};
use crate::net::{self, Net};
use crate::process::signals::{HANGUP, stop};
use crate::process::stdio;
use crate::relay::bridge::{self, Broken, Ending};
use crate::relay::handshake::Upgraded;
use crate::ssh::agent::Agent;
use crate::state::Store;
use crate::terminal::progress::{Waiting, in_time};

/// How long a successor of the credentials may still be minted after ssh is done.
const LINGER: Duration = Duration::from_secs(10);

/// Connects standard input and output to a port of an Arc machine until either side is done; the exit status.
///
/// # Errors
/// Under a [`Goal`]: what kept the connection from coming about, or why it broke.
pub(crate) async fn run(args: &ProxyArgs) -> Result<u8> {
    let mut goal = goal(args);
    if args.machine.is_none() && args.host.is_none() {
        return by_relay_info(args, &goal).await.context(goal);
    }
    let parts = Parts::new(args).context(goal.clone())?;
    let holder = parts.holder(args).context(goal.clone())?;
    let mut stop = pin!(ssh_has_gone());
    let both = parts.reach_as(args, &mut goal, holder.as_ref());
    let reached = unless_stopped(both, &parts.waiting, &mut stop).await;
    let ((credentials, upgraded, minted), pair) = reached.context(goal.clone())?;
    info!(%goal, "connected");
    last_error::forget(&parts.store, &goal);
    let agent = agent(args, pair).context(goal.clone())?;
    let refresh = async {
        if credentials.is_due(&minted) {
            credentials.refresh(&minted).await;
        }
        if let Some(holder) = &holder {
            holder.refresh().await;
        }
    };
    carry(upgraded, agent, stop, refresh).await.context(goal)
}

/// Carries bytes until either side is done, and does `meanwhile` beside; after an end in order that may still take a
/// while, but nobody waits for it: ssh has gone, and its files are let go of.
async fn carry(
    upgraded: Upgraded<net::Stream>,
    agent: Option<Agent>,
    stop: Pin<&mut impl Future<Output = Ending>>,
    meanwhile: impl Future<Output = ()>,
) -> Result<u8> {
    stdio::readable().map_err(Broken::Input)?;
    stdio::writable().map_err(Broken::Output)?;
    let mut meanwhile = pin!(meanwhile);
    let in_order = |ending: &Ending| matches!(ending, Ending::Finished | Ending::Signal(HANGUP));
    let bridge = async {
        let ending = bridge::run(upgraded, stdio::input(), stdio::output(), stop).await;
        if in_order(&ending) {
            stdio::let_go();
        }
        ending
    };
    let mut bridge = pin!(async {
        match agent {
            Some(agent) => agent.during(bridge).await,
            None => bridge.await,
        }
    });
    let ending = tokio::select! {
        biased;
        ending = &mut bridge => {
            if in_order(&ending) {
                let _ = timeout(LINGER, meanwhile).await;
            }
            ending
        }
        () = &mut meanwhile => bridge.await,
    };
    match ending {
        Ending::Finished => Ok(0),
        Ending::Signal(number) => Ok(128 + number),
        Ending::Broken(broken) => Err(broken.into()),
    }
}

/// Resolves when ssh needs no connection any more: it sent a signal, or no process reads what arcssh writes.
async fn ssh_has_gone() -> Ending {
    tokio::select! {
        biased;
        number = stop() => Ending::Signal(number),
        () = stdio::output_closed() => Ending::Finished,
    }
}

/// Serves key and certificate where the section's `IdentityAgent` looks for them.
fn agent(args: &ProxyArgs, pair: Option<Pair>) -> Result<Option<Agent>> {
    let Some((path, pair)) = args.agent.as_ref().zip(pair) else { return Ok(None) };
    Ok(Some(Agent::open(path, pair.key, pair.certificate)?))
}

/// Whatever a connection to a machine by its ID or name needs. Nothing of it talks to anybody before it is used.
struct Parts {
    net: Net,
    store: Store,
    cloud: Cloud,
    arm: Arm,
    waiting: Waiting,
}

type Reached<'a> = (Credentials<'a>, Upgraded<net::Stream>, Minted);

impl Parts {
    fn new(args: &ProxyArgs) -> Result<Self> {
        let (net, store) = (Net::new(), Store::open()?);
        let cloud = Cloud::new(args.cloud.name(), &args.cloud.endpoints())?;
        let arm = Arm::new(&cloud, &net, &store, args.who.wanted());
        Ok(Self { net, store, cloud, arm, waiting: Waiting::behind_ssh() })
    }

    /// Who logs in with a certificate, if the section has one.
    fn holder(&self, args: &ProxyArgs) -> Result<Option<Holder>> {
        if args.agent.is_none() {
            return Ok(None);
        }
        let identity = Identity::new(&self.cloud, args.who.wanted(), &self.net, &self.store);
        Ok(Some(Holder::new(identity, args.certificate.asked())?))
    }

    /// Reaches the machine, and has the certificate ready by then: ssh would not tell why there is none.
    async fn reach_as(
        &self,
        args: &ProxyArgs,
        goal: &mut Goal,
        holder: Option<&Holder>,
    ) -> Result<(Reached<'_>, Option<Pair>)> {
        let (start, certificate) = (Instant::now(), "SSH certificate from Entra ID");
        let reach = async {
            let reached = self.reach_named(args, goal).await?;
            self.waiting.until(certificate.into(), AZURE.saturating_sub(start.elapsed()));
            Ok(reached)
        };
        let pair = async {
            match holder {
                Some(holder) => {
                    let pair = async { Ok(holder.pair().await?.for_section_of(args.login_name.as_deref())?) };
                    in_time(AZURE, certificate.into(), pair).await.map(Some)
                }
                None => Ok(None),
            }
        };
        self.waiting.during(async { tokio::try_join!(reach, pair) }).await
    }

    /// A name that was looked up before may have come to mean another machine: it is looked up once more where there is
    /// no such machine now.
    async fn reach_named(&self, args: &ProxyArgs, goal: &mut Goal) -> Result<Reached<'_>> {
        let Some(host) = &args.host else {
            let machine = args.machine.clone().context(NO_MACHINE)?;
            return self.reach_machine(args, goal, machine).await;
        };
        let name = host.strip_suffix(&args.suffix).unwrap_or(host);
        let names = Names::new(&self.arm, &self.store, name, args.subscription.as_deref());
        if let Some(machine) = names.kept()? {
            match self.reach_machine(args, goal, machine).await {
                Err(error) if is_gone(&error) => names.forget(),
                result => return result,
            }
        }
        let object = format!("resource ID of {host} from Azure Resource Manager");
        let machine = self.waiting.at_most(AZURE, object, names.look_up()).await?;
        self.reach_machine(args, goal, machine).await
    }

    async fn reach_machine(
        &self,
        args: &ProxyArgs,
        goal: &mut Goal,
        machine: ResourceId,
    ) -> Result<Reached<'_>> {
        let credentials = Credentials::new(&self.arm, &self.store, &machine, args.service, goal.port);
        goal.machine = Some(machine);
        let way = Way { net: &self.net, goal, wait: args.wait, waiting: &self.waiting };
        let (upgraded, minted) = way.reach(&credentials).await?;
        Ok((credentials, upgraded, minted))
    }
}

/// Whether ARM knows no such machine.
fn is_gone(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(ArmError::Refused(refusal)) if refusal.status == 404)
}

async fn by_relay_info(args: &ProxyArgs, goal: &Goal) -> Result<u8> {
    let credentials = relay_info(args.relay_info.as_deref(), &args.cloud.relay_suffixes())?;
    let (net, waiting) = (Net::new(), Waiting::behind_ssh());
    let way = Way { net: &net, goal, wait: args.wait, waiting: &waiting };
    let mut stop = pin!(ssh_has_gone());
    let reached = waiting.during(way.reach_with(&credentials));
    let upgraded = unless_stopped(reached, &waiting, &mut stop).await?;
    if let Ok(store) = Store::open() {
        last_error::forget(&store, goal);
    }
    carry(upgraded, None, stop, async {}).await
}

/// ssh has stopped waiting before there was a connection: its ConnectTimeout is over, or it was ended.
#[derive(Debug, thiserror::Error)]
#[error("ssh stopped waiting after {} s, for the {object}", .after.as_secs())]
pub(crate) struct StoppedWaiting {
    after: Duration,
    object: String,
    signal: u8,
}

impl StoppedWaiting {
    /// The exit status that shells give for the signal.
    pub(crate) fn status(&self) -> u8 {
        128 + self.signal
    }
}

/// What `work` comes to, unless a signal asks for the end before.
///
/// # Errors
/// Those of `work`, and [`StoppedWaiting`].
async fn unless_stopped<T>(
    work: impl Future<Output = Result<T>>,
    waiting: &Waiting,
    stop: &mut Pin<&mut impl Future<Output = Ending>>,
) -> Result<T> {
    let start = Instant::now();
    let ending = tokio::select! {
        biased;
        done = work => return done,
        ending = stop => ending,
    };
    let signal = if let Ending::Signal(number) = ending { number } else { HANGUP };
    bail!(StoppedWaiting { after: start.elapsed(), object: waiting.object(), signal })
}

fn relay_info(file: Option<&Path>, suffixes: &RelaySuffixes) -> Result<RelayCredentials> {
    let (text, origin) = match file {
        Some(file) => {
            let text = files::read_text(file, MAX_RELAY_INFO)
                .with_context(|| format!("cannot read {}", file.display()))?;
            (text, file.display().to_string())
        }
        None => match std::env::var(RELAY_INFO_VARIABLE) {
            Ok(text) => (text, RELAY_INFO_VARIABLE.to_owned()),
            Err(_) => bail!(NO_MACHINE),
        },
    };
    RelayCredentials::from_relay_info(&text, suffixes)
        .with_context(|| format!("{origin} holds no relay information"))
}

/// Bytes of relay information that are read; an answer of listCredentials is about 4 kB, and a third more in base64.
const MAX_RELAY_INFO: u64 = 64 * 1024;

/// Neither a resource ID nor relay information was given.
const NO_MACHINE: NoMachine = NoMachine { command: "proxy" };

fn goal(args: &ProxyArgs) -> Goal {
    let name = args.machine.as_ref().map(|machine| machine.name.clone()).or(args.host.clone());
    Goal {
        machine: args.machine.clone(),
        name: name.unwrap_or("the machine".into()),
        port: args.port.unwrap_or(args.service.default_port()),
        service: args.service,
    }
}
