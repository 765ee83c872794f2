//! Looks at everything between here and a machine's sshd, one thing beside the other where they do not need each other,
//! and never for long. What it means is judged elsewhere.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use http::uri::Authority;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader, duplex};
use tokio::sync::Notify;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::azure::arm::Arm;
use crate::azure::cloud::Cloud;
use crate::azure::credentials::{AccessToken, CredentialChain, CredentialOptions};
use crate::azure::hybrid_compute::{Extension, Machine, MachineRef, extensions, subscriptions};
use crate::azure::hybrid_connectivity::Service;
use crate::azure::hybrid_connectivity::endpoint::Lookup;
use crate::azure::rbac::Permissions;
use crate::azure::relay_credential_cache::{RelayCredentialCache, forget_refusals};
use crate::azure::resource_id::ResourceId;
use crate::azure::resource_providers::{Registration, registration};
use crate::azure::target::Target;
use crate::cli::DoctorArgs;
use crate::cli::proxy_command::HostEntry as Section;
use crate::commands::doctor::local::{self, Block, HostKey};
use crate::entra_ssh::CertificateOptions;
use crate::entra_ssh::cache::{CertificateCache, CertifiedKey};
use crate::machines::find;
use crate::net::{self, Net, x509};
use crate::provisioning::{ServiceState, inspect};
use crate::relay::bridge::{self, BridgeEnd};
use crate::relay::connector::Connector;
use crate::relay::handshake::{ConnectError, Upgraded};
use crate::state::{InsecurePermissions, Store};
use crate::system::clock::unix_now;
use crate::terminal::progress::Progress;

/// How long one look may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(15);
/// How long those may take that others bound too: a proxy has 20 s for its tunnel, and a program gives a token in some.
const LONG_PROBE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long all of them may take: at the most two long ones and six others come one after the other.
pub(super) const TOTAL_TIMEOUT: Duration =
    Duration::from_secs(2 * LONG_PROBE_TIMEOUT.as_secs() + 6 * PROBE_TIMEOUT.as_secs());
/// How long an agent that does not listen is waited for.
const LISTENER_TIMEOUT: Duration = Duration::from_secs(8);
/// How much a server may say before its identification (RFC 4253, section 4.2, sets no limit).
const MAX_BANNER: u64 = 8192;

/// A look that was taken, or none where it would have told nothing.
pub(super) type Probe<T> = Option<Result<T>>;

/// Everything that was seen.
pub(super) struct Facts {
    /// The versions of ssh and ssh-keygen.
    pub(super) programs: [Result<Option<String>>; 2],
    /// The ssh configuration's file.
    pub(super) file: PathBuf,
    /// What it holds of ours.
    pub(super) configuration: Result<Block>,
    /// The machine's section in it, if that leads to the port to connect to.
    pub(super) section: Option<Section>,
    /// How many values are kept; none where nothing can be.
    pub(super) store: Result<Option<usize>, InsecurePermissions>,
    /// ARM and Entra ID, with who vouches for each.
    pub(super) way: Vec<(&'static str, Result<String>)>,
    /// Who we are.
    pub(super) token: Probe<AccessToken>,
    /// How many subscriptions there are to see; only without a machine.
    pub(super) subscriptions: Probe<usize>,
    /// By how many seconds this machine's clock is ahead of Azure's.
    pub(super) skew: Option<i64>,
    /// What the machine is called by whoever asks.
    pub(super) named: Option<String>,
    /// The port to connect to.
    pub(super) port: u16,
    /// Whether it is the one that was typed.
    pub(super) is_typed: bool,
    /// The machine.
    pub(super) machine: Probe<Machine>,
    /// Its subscription's provider.
    pub(super) registration: Probe<Registration>,
    /// What the identity may do with it.
    pub(super) permissions: Probe<Permissions>,
    /// Its endpoint and service configuration.
    pub(super) found: Probe<ServiceState>,
    /// Its extensions.
    pub(super) extensions: Probe<Vec<Extension>>,
    /// Whether the relay leads to its agent.
    pub(super) relay: Probe<()>,
    /// How its sshd greets.
    pub(super) banner: Probe<Banner>,
    /// What ssh makes of its host key.
    pub(super) host_key: Probe<HostKey>,
    /// The certificate that is kept for logging in as an Entra user, if there is one.
    pub(super) certificate: Result<Option<CertifiedKey>, InsecurePermissions>,
}

/// Who looks, and with what.
pub(super) struct Prober<'a> {
    pub(super) args: &'a DoctorArgs,
    /// The ssh configuration, and what it has for the machine.
    pub(super) file: PathBuf,
    pub(super) section: Option<Section>,
    /// As whom, and with which certificate, the machine is connected to.
    pub(super) who: CredentialOptions,
    pub(super) certificate: CertificateOptions,
    pub(super) cloud: Cloud,
    pub(super) net: Net,
    pub(super) store: Store,
    pub(super) arm: Arm,
}

/// What Azure and the relay show.
#[derive(Default)]
struct AzureFacts {
    token: Probe<AccessToken>,
    subscriptions: Probe<usize>,
    date: Option<(u64, u64)>,
    machine: Probe<Machine>,
    registration: Probe<Registration>,
    permissions: Probe<Permissions>,
    found: Probe<ServiceState>,
    extensions: Probe<Vec<Extension>>,
    relay: Probe<()>,
    banner: Probe<Banner>,
}

impl Prober<'_> {
    /// Looks at everything.
    pub(super) async fn look(&self, store: Result<Option<usize>, InsecurePermissions>) -> Facts {
        let (ssh, keygen, configuration, mut section, way) = tokio::join!(
            blocking(|| local::program("ssh", &["-V"])),
            blocking(|| local::program("ssh-keygen", &["-l", "-f", "-"])),
            self.configuration(),
            self.used(self.section.clone()),
            self.way(),
        );
        let named = section.as_ref().map(|section| section.target.clone()).or(self.args.machine.clone());
        let mut remote = AzureFacts::default();
        let mut reached = self.port(section.as_ref()).unwrap_or(Service::Ssh.default_port());
        if way.iter().all(|(_, way)| way.is_ok()) {
            remote = self.remote(named.as_deref(), &mut section, &mut reached).await;
        }
        // ssh connects to the port of the section, whatever was asked for here.
        let section = section.filter(|section| section.port == reached);
        let host_key = match (&ssh, &remote.banner, &section) {
            (Ok(Some(_)), Some(Ok(Banner::Ssh(_))), Some(section)) => Some(self.host_key(section).await),
            _ => None,
        };
        Facts {
            programs: [ssh, keygen],
            file: self.file.clone(),
            configuration,
            section,
            store,
            way,
            token: remote.token,
            subscriptions: remote.subscriptions,
            skew: remote.date.map(|(ours, theirs)| ours.cast_signed() - theirs.cast_signed()),
            named: self.args.machine.clone(),
            port: reached,
            is_typed: self.args.port.is_some(),
            machine: remote.machine,
            registration: remote.registration,
            permissions: remote.permissions,
            found: remote.found,
            extensions: remote.extensions,
            relay: remote.relay,
            banner: remote.banner,
            host_key,
            certificate: self.cached_certificate(),
        }
    }

    fn identity(&self) -> CredentialChain {
        CredentialChain::new(&self.cloud, self.who.clone(), &self.net, &self.store)
    }

    fn cached_certificate(&self) -> Result<Option<CertifiedKey>, InsecurePermissions> {
        CertificateCache::new(self.identity(), self.certificate.clone())?.cached()
    }

    async fn configuration(&self) -> Result<Block> {
        let (file, section) = (self.file.clone(), self.section.clone());
        blocking(move || local::configuration(&file, section.as_ref())).await
    }

    /// The section as ssh uses it; as it stands where ssh does not tell.
    async fn used(&self, section: Option<Section>) -> Option<Section> {
        let (typed, file, written) = (self.args.file.clone(), self.file.clone(), section.clone()?);
        let used = blocking(move || written.used(typed.as_deref(), &file)).await;
        used.ok().or(section)
    }

    async fn host_key(&self, section: &Section) -> Result<HostKey> {
        within(PROBE_TIMEOUT, "ssh", local::host_key(section, self.args.file.as_deref())).await
    }

    /// The way to ARM and Entra ID: names, proxies, TLS.
    async fn way(&self) -> Vec<(&'static str, Result<String>)> {
        let (arm, entra) = (&self.cloud.arm_endpoint, &self.cloud.authority_host);
        let (arm, entra) = tokio::join!(self.tls_issuer(arm.authority()), self.tls_issuer(entra.authority()));
        vec![("Azure Resource Manager", arm), ("Entra ID", entra)]
    }

    /// Who made out the certificate of a host that can be reached.
    async fn tls_issuer(&self, authority: &str) -> Result<String> {
        let connect = async {
            let authority: Authority = authority.parse()?;
            let stream = self.net.connect(&authority).await.map_err(ConnectError::Unreachable)?;
            let (_, session) = stream.get_ref();
            let certificate = session.peer_certificates().and_then(|certificates| certificates.first());
            let issuer = certificate.and_then(|certificate| x509::issuer(certificate));
            Ok(format!("{}, certificate by {}", authority.host(), issuer.unwrap_or("nobody".into())))
        };
        within(LONG_PROBE_TIMEOUT, authority, connect).await
    }

    /// The port to connect to, if there is one to tell by.
    fn port(&self, section: Option<&Section>) -> Option<u16> {
        self.args.port.or(section.map(|section| section.port))
    }

    async fn remote(
        &self,
        named: Option<&str>,
        section: &mut Option<Section>,
        reached: &mut u16,
    ) -> AzureFacts {
        let identity = self.identity();
        let token = within(LONG_PROBE_TIMEOUT, "the identity", async {
            Ok(identity.token(None).await.map_err(crate::azure::arm::ArmError::from)?)
        });
        let token = token.await;
        let mut remote = AzureFacts::default();
        match (&token, named) {
            (Err(_), _) => {}
            (Ok(_), None) => {
                let seen = within(PROBE_TIMEOUT, "Azure Resource Manager", async {
                    Ok(subscriptions(&self.arm).await?)
                })
                .await;
                remote.date = seen.as_ref().ok().and_then(|(_, date)| Some((unix_now(), (*date)?)));
                remote.subscriptions = Some(seen.map(|(count, _)| count));
            }
            (Ok(_), Some(name)) => remote = self.azure(name, section, reached).await,
        }
        AzureFacts { token: Some(token), ..remote }
    }

    /// What Azure holds of a machine, and whether its relay leads to it. Its ID may lead to a section that its name does
    /// not.
    async fn azure(&self, name: &str, section: &mut Option<Section>, reached: &mut u16) -> AzureFacts {
        let mut remote = AzureFacts::default();
        let id = match self.id(name).await {
            Ok(id) => id,
            Err(error) => return AzureFacts { machine: Some(Err(error)), ..remote },
        };
        let target =
            |port| Target { machine: Some(id.clone()), name: id.name.clone(), port, service: Service::Ssh };
        let by_id = id.to_string();
        if section.is_none() {
            *section = self.used(local::section(&self.file, &by_id)).await;
        }
        let port = self.port(section.as_ref());
        let asked = port.unwrap_or(Service::Ssh.default_port());
        forget_refusals(&self.arm, &self.store, &id);
        let (machine, provider, permissions, extensions, found) = tokio::join!(
            within(PROBE_TIMEOUT, "Azure Resource Manager", find(&self.arm, &by_id, &[])),
            within(PROBE_TIMEOUT, "Azure Resource Manager", async {
                Ok(registration(&self.arm, &id.subscription).await?)
            }),
            within(PROBE_TIMEOUT, "Azure Resource Manager", async {
                Ok(Permissions::on(&self.arm, &id).await?)
            }),
            within(PROBE_TIMEOUT, "Azure Resource Manager", async { Ok(extensions(&self.arm, &id).await?) }),
            within(PROBE_TIMEOUT, "Azure Resource Manager", async {
                Ok(inspect(&self.arm, &id, Service::Ssh).await?)
            }),
        );
        remote.date = provider.as_ref().ok().and_then(|provider| Some((unix_now(), provider.date?)));
        *reached = match (port, &found) {
            (None, Ok(ServiceState { port: Lookup::Found(enabled), .. })) => *enabled,
            _ => asked,
        };
        let is_ready = found.as_ref().is_ok_and(|found| {
            let done = found.registration.as_ref().is_none_or(Registration::is_done);
            let matches = !matches!(found.port, Lookup::Found(enabled) if enabled != *reached);
            done && found.endpoint != Lookup::NotFound && found.port != Lookup::NotFound && matches
        });
        if is_ready {
            match self.reach(&id, &target(*reached)).await {
                Ok(upgraded) => {
                    remote.relay = Some(Ok(()));
                    remote.banner = Some(within(PROBE_TIMEOUT, "sshd", banner(upgraded)).await);
                }
                Err(error) => remote.relay = Some(Err(error.context(target(*reached)))),
            }
        }
        AzureFacts {
            machine: Some(machine.with_context(|| target(asked))),
            registration: Some(provider.with_context(|| target(asked))),
            permissions: Some(permissions.with_context(|| target(asked))),
            extensions: Some(extensions.with_context(|| target(asked))),
            found: Some(found.with_context(|| target(asked))),
            ..remote
        }
    }

    async fn id(&self, name: &str) -> Result<ResourceId> {
        if let MachineRef::Id(id) = name.parse()? {
            return Ok(id);
        }
        let subscriptions: Vec<String> = self.args.subscription.iter().cloned().collect();
        Ok(within(PROBE_TIMEOUT, "Azure Resource Manager", find(&self.arm, name, &subscriptions)).await?.id)
    }

    async fn reach(&self, id: &ResourceId, target: &Target) -> Result<Upgraded<net::Stream>> {
        let credentials = RelayCredentialCache::new(&self.arm, &self.store, id, target.service, target.port);
        let connector =
            Connector { net: &self.net, target, wait: LISTENER_TIMEOUT, waiting: &Progress::default() };
        let (upgraded, _) = within(PROBE_TIMEOUT, "the relay", connector.connect(&credentials)).await?;
        Ok(upgraded)
    }
}

/// What a server says first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Banner {
    /// The line that begins with `SSH-` (RFC 4253, section 4.2).
    Ssh(String),
    /// Something else.
    Other,
    /// It ends the connection without a word.
    Nothing,
}

async fn banner(upgraded: Upgraded<net::Stream>) -> Result<Banner> {
    let (read, write) = duplex(4096);
    let (input, _silent) = duplex(1);
    let heard = Notify::new();
    let stop = async {
        heard.notified().await;
        BridgeEnd::Finished
    };
    let listen = async {
        let line = identification(read).await;
        heard.notify_one();
        line
    };
    let (_, line) = tokio::join!(bridge::run(upgraded, input, write, stop), listen);
    line
}

async fn identification(from: impl AsyncRead + Unpin) -> Result<Banner> {
    let mut lines = BufReader::new(from.take(MAX_BANNER));
    let (mut line, mut said) = (Vec::new(), Banner::Nothing);
    while lines.read_until(b'\n', &mut line).await? > 0 {
        if line.starts_with(b"SSH-") {
            return Ok(Banner::Ssh(String::from_utf8_lossy(&line).trim_end().to_owned()));
        }
        line.clear();
        said = Banner::Other;
    }
    Ok(said)
}

/// A look that keeps nobody waiting.
async fn within<T>(limit: Duration, whom: &str, look: impl Future<Output = Result<T>>) -> Result<T> {
    timeout(limit, look).await.unwrap_or_else(|_elapsed| bail!(Slow { whom: whom.to_owned(), limit }))
}

/// What was looked at keeps silent.
#[derive(Debug, thiserror::Error)]
#[error("{whom} did not answer within {} s", .limit.as_secs())]
pub(crate) struct Slow {
    whom: String,
    limit: Duration,
}

/// The same of programs that are waited for on a thread of their own.
async fn blocking<T: Send + 'static>(look: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let look = async { spawn_blocking(look).await.map_err(|error| anyhow!(error)).and_then(|seen| seen) };
    within(PROBE_TIMEOUT, "ssh", look).await
}
