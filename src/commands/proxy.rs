//! `arcssh proxy`: find the machine's relay, connect, carry bytes. It only ever reads from Azure.

use std::path::Path;
use std::pin::{Pin, pin};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::time::{Instant, timeout};
use tracing::info;

use crate::azure::arm::{Arm, ArmError};
use crate::azure::cloud::Cloud;
use crate::azure::credentials::CredentialChain;
use crate::azure::hybrid_connectivity::RelayCredentials;
use crate::azure::relay_credential_cache::{IssuedCredentials, RelayCredentialCache};
use crate::azure::relay_host::RelaySuffixes;
use crate::azure::resource_id::ResourceId;
use crate::azure::target::Target;
use crate::cli::{ProxyArgs, RELAY_INFO_VARIABLE};
use crate::diagnosis::last_error;
use crate::entra_ssh::cache::{CertificateCache, CertifiedKey};
use crate::machines::{NameCache, NothingSelected};
use crate::net::{self, Net};
use crate::relay::bridge::{self, BridgeEnd, BridgeError};
use crate::relay::connector::{ARM_TIMEOUT, Connector};
use crate::relay::handshake::Upgraded;
use crate::ssh::agent::Agent;
use crate::state::Store;
use crate::system::signals::{HANGUP, shutdown};
use crate::system::timeout::with_timeout;
use crate::system::{files, stdio};
use crate::terminal::progress::Progress;

/// How long a successor of the credentials may still be minted after ssh is done.
const LINGER: Duration = Duration::from_secs(10);

/// Connects standard input and output to a port of an Arc machine until either side is done; the exit status.
///
/// # Errors
/// Under a [`Target`]: what kept the connection from coming about, or why it broke.
pub(crate) async fn run(args: &ProxyArgs) -> Result<u8> {
    let mut target = target(args);
    if args.machine.is_none() && args.host.is_none() {
        return by_relay_info(args, &target).await.context(target);
    }
    let parts = Session::new(args).context(target.clone())?;
    let holder = parts.holder(args).context(target.clone())?;
    let mut stop = pin!(ssh_has_gone());
    let both = parts.reach_as(args, &mut target, holder.as_ref());
    let reached = or_interrupted(both, &parts.waiting, &mut stop).await;
    let ((credentials, upgraded, minted), pair) = reached.context(target.clone())?;
    info!(%target, "connected");
    last_error::forget(&parts.store, &target);
    let agent = agent(args, pair).context(target.clone())?;
    let refresh = async {
        if credentials.is_due(&minted) {
            credentials.refresh(&minted).await;
        }
        if let Some(holder) = &holder {
            holder.refresh().await;
        }
    };
    run_session(upgraded, agent, stop, refresh).await.context(target)
}

/// Carries bytes until either side is done, and does `meanwhile` beside; after an end in order that may still take a
/// while, but nobody waits for it: ssh has gone, and its files are let go of.
async fn run_session(
    upgraded: Upgraded<net::Stream>,
    agent: Option<Agent>,
    stop: Pin<&mut impl Future<Output = BridgeEnd>>,
    meanwhile: impl Future<Output = ()>,
) -> Result<u8> {
    stdio::readable().map_err(BridgeError::Input)?;
    stdio::writable().map_err(BridgeError::Output)?;
    let mut meanwhile = pin!(meanwhile);
    let in_order = |ending: &BridgeEnd| matches!(ending, BridgeEnd::Finished | BridgeEnd::Signal(HANGUP));
    let bridge = async {
        let ending = bridge::run(upgraded, stdio::input(), stdio::output(), stop).await;
        if in_order(&ending) {
            stdio::detach();
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
        BridgeEnd::Finished => Ok(0),
        BridgeEnd::Signal(number) => Ok(128 + number),
        BridgeEnd::Broken(broken) => Err(broken.into()),
    }
}

/// Resolves when ssh needs no connection any more: it sent a signal, or no process reads what arcssh writes.
async fn ssh_has_gone() -> BridgeEnd {
    tokio::select! {
        biased;
        number = shutdown() => BridgeEnd::Signal(number),
        () = stdio::output_closed() => BridgeEnd::Finished,
    }
}

/// Serves key and certificate where the section's `IdentityAgent` looks for them.
fn agent(args: &ProxyArgs, pair: Option<CertifiedKey>) -> Result<Option<Agent>> {
    let Some((path, pair)) = args.agent.as_ref().zip(pair) else { return Ok(None) };
    Ok(Some(Agent::open(path, pair.key, pair.certificate)?))
}

/// Whatever a connection to a machine by its ID or name needs. Nothing of it talks to anybody before it is used.
struct Session {
    net: Net,
    store: Store,
    cloud: Cloud,
    arm: Arm,
    waiting: Progress,
}

type Connection<'a> = (RelayCredentialCache<'a>, Upgraded<net::Stream>, IssuedCredentials);

impl Session {
    fn new(args: &ProxyArgs) -> Result<Self> {
        let (net, store) = (Net::new(), Store::open()?);
        let cloud = Cloud::new(args.cloud.name(), &args.cloud.endpoints())?;
        let arm = Arm::new(&cloud, &net, &store, args.who.wanted());
        Ok(Self { net, store, cloud, arm, waiting: Progress::behind_ssh() })
    }

    /// Who logs in with a certificate, if the section has one.
    fn holder(&self, args: &ProxyArgs) -> Result<Option<CertificateCache>> {
        if args.agent.is_none() {
            return Ok(None);
        }
        let identity = CredentialChain::new(&self.cloud, args.who.wanted(), &self.net, &self.store);
        Ok(Some(CertificateCache::new(identity, args.certificate.asked())?))
    }

    /// Reaches the machine, and has the certificate ready by then: ssh would not tell why there is none.
    async fn reach_as(
        &self,
        args: &ProxyArgs,
        target: &mut Target,
        holder: Option<&CertificateCache>,
    ) -> Result<(Connection<'_>, Option<CertifiedKey>)> {
        let (start, certificate) = (Instant::now(), "SSH certificate from Entra ID");
        let reach = async {
            let reached = self.reach_named(args, target).await?;
            self.waiting.set_deadline(certificate.into(), ARM_TIMEOUT.saturating_sub(start.elapsed()));
            Ok(reached)
        };
        let pair = async {
            match holder {
                Some(holder) => {
                    let pair = async { Ok(holder.pair().await?.for_login_name(args.login_name.as_deref())?) };
                    with_timeout(ARM_TIMEOUT, certificate, pair).await.map(Some)
                }
                None => Ok(None),
            }
        };
        self.waiting.run(async { tokio::try_join!(reach, pair) }).await
    }

    /// A name that was looked up before may have come to mean another machine: it is looked up once more where there is
    /// no such machine now.
    async fn reach_named(&self, args: &ProxyArgs, target: &mut Target) -> Result<Connection<'_>> {
        let Some(host) = &args.host else {
            let machine = args.machine.clone().context(NO_MACHINE)?;
            return self.reach_machine(args, target, machine).await;
        };
        let name = host.strip_suffix(&args.suffix).unwrap_or(host);
        let names = NameCache::new(&self.arm, &self.store, name, args.subscription.as_deref());
        if let Some(machine) = names.cached()? {
            match self.reach_machine(args, target, machine).await {
                Err(error) if is_not_found(&error) => names.forget(),
                result => return result,
            }
        }
        let object = format!("resource ID of {host} from Azure Resource Manager");
        let machine = self.waiting.run_with_timeout(ARM_TIMEOUT, object, names.resolve_name()).await?;
        self.reach_machine(args, target, machine).await
    }

    async fn reach_machine(
        &self,
        args: &ProxyArgs,
        target: &mut Target,
        machine: ResourceId,
    ) -> Result<Connection<'_>> {
        let credentials =
            RelayCredentialCache::new(&self.arm, &self.store, &machine, args.service, target.port);
        target.machine = Some(machine);
        let connector = Connector { net: &self.net, target, wait: args.wait, waiting: &self.waiting };
        let (upgraded, minted) = connector.connect(&credentials).await?;
        Ok((credentials, upgraded, minted))
    }
}

/// Whether ARM knows no such machine.
fn is_not_found(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(ArmError::Refused(refusal)) if refusal.status == 404)
}

async fn by_relay_info(args: &ProxyArgs, target: &Target) -> Result<u8> {
    let credentials = relay_info(args.relay_info.as_deref(), &args.cloud.relay_suffixes())?;
    let (net, waiting) = (Net::new(), Progress::behind_ssh());
    let connector = Connector { net: &net, target, wait: args.wait, waiting: &waiting };
    let mut stop = pin!(ssh_has_gone());
    let reached = waiting.run(connector.connect_with(&credentials));
    let upgraded = or_interrupted(reached, &waiting, &mut stop).await?;
    if let Ok(store) = Store::open() {
        last_error::forget(&store, target);
    }
    run_session(upgraded, None, stop, async {}).await
}

/// ssh has stopped waiting before there was a connection: its ConnectTimeout is over, or it was ended.
#[derive(Debug, thiserror::Error)]
#[error("ssh stopped waiting after {} s, for the {object}", .after.as_secs())]
pub(crate) struct Interrupted {
    after: Duration,
    object: String,
    signal: u8,
}

impl Interrupted {
    /// The exit status that shells give for the signal.
    pub(crate) fn status(&self) -> u8 {
        128 + self.signal
    }
}

/// What `work` comes to, unless a signal asks for the end before.
///
/// # Errors
/// Those of `work`, and [`Interrupted`].
async fn or_interrupted<T>(
    work: impl Future<Output = Result<T>>,
    waiting: &Progress,
    stop: &mut Pin<&mut impl Future<Output = BridgeEnd>>,
) -> Result<T> {
    let start = Instant::now();
    let ending = tokio::select! {
        biased;
        done = work => return done,
        ending = stop => ending,
    };
    let signal = if let BridgeEnd::Signal(number) = ending { number } else { HANGUP };
    bail!(Interrupted { after: start.elapsed(), object: waiting.object(), signal })
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
const NO_MACHINE: NothingSelected = NothingSelected { command: "proxy" };

fn target(args: &ProxyArgs) -> Target {
    let name = args.machine.as_ref().map(|machine| machine.name.clone()).or(args.host.clone());
    Target {
        machine: args.machine.clone(),
        name: name.unwrap_or("the machine".into()),
        port: args.port.unwrap_or(args.service.default_port()),
        service: args.service,
    }
}
