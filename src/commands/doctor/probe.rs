//! Collects the facts for the checks: in parallel if they do not depend on each other, each with a time limit.

use std::cell::OnceCell;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::anyhow;
use clap::ValueEnum as _;
use http::uri::Authority;
use tokio::io::{AsyncRead, AsyncReadExt, duplex};
use tokio::sync::Notify;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::azure::arm::Arm;
use crate::azure::cloud::Cloud;
use crate::azure::credentials::{AccessToken, CredentialChain, CredentialOptions};
use crate::azure::hybrid_compute::extension::{Extension, extensions};
use crate::azure::hybrid_compute::{Machine, MachineRef, subscriptions};
use crate::azure::hybrid_connectivity::Service;
use crate::azure::hybrid_connectivity::endpoint::Lookup;
use crate::azure::rbac::Permissions;
use crate::azure::relay_credential_cache::{RelayCredentialCache, forget_rejections};
use crate::azure::resource_id::ResourceId;
use crate::azure::resource_providers::{Registration, registration};
use crate::azure::target::Target;
use crate::cli::DoctorArgs;
use crate::cli::proxy_command::HostEntry;
use crate::commands::doctor::local::{self, Block, HostKey};
use crate::diagnosis::{Context, Error, Result};
use crate::entra_ssh::CertificateOptions;
use crate::entra_ssh::cache::{CertificateCache, CertifiedKey};
use crate::machines::{distinguished, find, find_or_suggest, without_suffix};
use crate::net::{self, Net, NetError, x509};
use crate::provisioning::{ServiceState, inspect};
use crate::relay::bridge::{self, BridgeEnd};
use crate::relay::connector::Connector;
use crate::relay::greeting::{MAX_GREETING, NotSsh, identification};
use crate::relay::handshake::Upgraded;
use crate::ssh::managed_block;
use crate::ssh::shell;
use crate::state::Store;
use crate::system::SystemError;
use crate::system::clock::unix_now;
use crate::system::timeout::with_timeout;
use crate::terminal::progress::Progress;

const ARM: &str = "Azure Resource Manager";

/// The time limit of one probe.
const PROBE_TIMEOUT: Duration = Duration::from_secs(15);
/// The time limit of a probe that has limits of its own: a proxy has 20 s for its tunnel, and a program issues a token in
/// some seconds.
const LONG_PROBE_TIMEOUT: Duration = Duration::from_secs(30);
/// The time limit of all probes: two long ones and six others can run one after the other.
pub(super) const TOTAL_TIMEOUT: Duration =
    Duration::from_secs(2 * LONG_PROBE_TIMEOUT.as_secs() + 6 * PROBE_TIMEOUT.as_secs());
/// How long to wait for an agent that is not connected.
const LISTENER_TIMEOUT: Duration = Duration::from_secs(8);
/// The longest silence of a server before its identification. sshd may look up names first.
const BANNER_TIMEOUT: Duration = Duration::from_secs(10);

/// The result of a probe; `None` if the probe was not made.
pub(super) type Probe<T> = Option<Result<T>>;

/// All facts.
pub(super) struct Facts {
    /// The machine as the user named it.
    pub(super) name: Option<String>,
    /// Whether the user gave a port.
    pub(super) is_port_given: bool,
    /// The ssh configuration's file.
    pub(super) file: PathBuf,
    /// The number of cached values; `None` if there is no state directory.
    pub(super) state: Result<Option<usize>, SystemError>,
    /// The cloud and its endpoints.
    pub(super) cloud: String,
    /// The proxy, and the hosts that arcssh reaches without it.
    pub(super) proxy: Result<String>,
    /// The origin of the root certificates.
    pub(super) roots: Result<String>,
    /// The cached certificate for logging in as an Entra user.
    pub(super) certificate: Result<Option<CertifiedKey>, SystemError>,
    pub(super) probes: Probes,
}

/// The facts that take time. Each is there as soon as its probe has ended, and does not change.
#[derive(Default)]
pub(super) struct Probes {
    /// The version of ssh; `None` if it is not installed.
    pub(super) ssh: OnceCell<Result<Option<String>>>,
    /// The same of ssh-keygen.
    pub(super) ssh_keygen: OnceCell<Result<Option<String>>>,
    /// The shell that ssh uses; `None` if it uses none.
    pub(super) shell: OnceCell<Result<Option<PathBuf>>>,
    /// The managed block in the ssh configuration's file.
    pub(super) configuration: OnceCell<Result<Block>>,
    /// The services of Azure, with the issuer of each certificate.
    pub(super) issuers: OnceCell<Vec<(&'static str, Result<String>)>>,
    /// The access token; only if Azure is reachable.
    pub(super) token: OnceCell<Result<AccessToken>>,
    /// The number of visible subscriptions; only if no machine was named.
    pub(super) subscriptions: OnceCell<Result<usize>>,
    /// By how many seconds the clock of this computer is ahead of Azure's; `None` if Azure did not show its clock.
    pub(super) skew: OnceCell<Option<i64>>,
    pub(super) machine: OnceCell<Result<Machine>>,
    /// The registration of the resource provider; not made if the machine's ID is unknown.
    pub(super) registration: OnceCell<Probe<Registration>>,
    /// The account's permissions on the machine.
    pub(super) permissions: OnceCell<Result<Permissions>>,
    /// The endpoint and the service configuration.
    pub(super) service: OnceCell<Result<ServiceState>>,
    /// The machine's extensions.
    pub(super) extensions: OnceCell<Result<Vec<Extension>>>,
    pub(super) connection: OnceCell<Connection>,
    /// Whether the relay connects to the agent.
    pub(super) relay: OnceCell<Probe<()>>,
    /// The first line of the machine's sshd.
    pub(super) banner: OnceCell<Probe<Banner>>,
    /// The machine's host key, compared with known_hosts.
    pub(super) host_key: OnceCell<Probe<HostKey>>,
}

/// The connection that ssh would make.
pub(super) struct Connection {
    pub(super) port: u16,
    /// The machine's host entry, which can have another port.
    pub(super) entry: Option<HostEntry>,
}

impl Connection {
    /// Returns the machine's host entry, if ssh uses it for this port: ssh connects to the entry's, whatever the user gave
    /// here.
    pub(super) fn entry_for_port(&self) -> Option<&HostEntry> {
        self.entry.as_ref().filter(|entry| entry.port == self.port)
    }
}

/// Collects the facts.
pub(super) struct Prober<'a> {
    pub(super) args: &'a DoctorArgs,
    /// The ssh configuration, and its host entry for the machine.
    pub(super) file: PathBuf,
    pub(super) entry: Option<HostEntry>,
    /// The account, and the options of its certificate.
    pub(super) credential: CredentialOptions,
    pub(super) certificate: CertificateOptions,
    pub(super) cloud: Cloud,
    pub(super) net: Net,
    pub(super) store: Store,
    pub(super) arm: Arm,
}

impl Prober<'_> {
    /// Returns the facts that need no waiting.
    pub(super) fn facts(&self, state: Result<Option<usize>, SystemError>) -> Facts {
        Facts {
            name: self.args.machine.clone(),
            is_port_given: self.args.port.is_some(),
            file: self.file.clone(),
            state,
            cloud: self.cloud_text(),
            proxy: self.proxy(),
            roots: self.roots(),
            certificate: self.cached_certificate(),
            probes: Probes::default(),
        }
    }

    /// Collects the other facts.
    pub(super) async fn probe(&self, probes: &Probes) {
        let in_azure = async {
            let (entry, ()) =
                tokio::join!(self.effective(self.entry.clone()), store(&probes.issuers, self.issuers()));
            if probes.issuers.get().is_some_and(|issuers| issuers.iter().all(|(_, issuer)| issuer.is_ok())) {
                self.azure(probes, entry).await;
            }
        };
        tokio::join!(
            store(&probes.ssh, blocking(local::ssh)),
            store(&probes.ssh_keygen, blocking(local::ssh_keygen)),
            store(&probes.shell, async { Ok(shell::check().await?) }),
            store(&probes.configuration, self.configuration()),
            in_azure,
        );
        let entry = probes.connection.get().and_then(Connection::entry_for_port);
        let host_key = match (probes.ssh.get(), probes.banner.get(), entry) {
            (Some(Ok(Some(_))), Some(Some(Ok(Banner::Ssh(_)))), Some(entry)) => {
                Some(self.host_key(entry).await)
            }
            _ => None,
        };
        put(&probes.host_key, host_key);
    }

    fn chain(&self) -> CredentialChain {
        CredentialChain::new(&self.cloud, self.credential.clone(), &self.net, &self.store)
    }

    fn cached_certificate(&self) -> Result<Option<CertifiedKey>, SystemError> {
        CertificateCache::new(self.chain(), self.certificate.clone())?.cached()
    }

    async fn configuration(&self) -> Result<Block> {
        let (file, entry) = (self.file.clone(), self.entry.clone());
        blocking(move || local::configuration(&file, entry.as_ref())).await
    }

    /// Returns the host entry as ssh uses it, or as it is written if ssh does not show it.
    async fn effective(&self, entry: Option<HostEntry>) -> Option<HostEntry> {
        let (given, file, written) = (self.args.file.clone(), self.file.clone(), entry.clone()?);
        let used = blocking(move || Ok(written.used(given.as_deref(), &file)?)).await;
        used.ok().or(entry)
    }

    async fn host_key(&self, entry: &HostEntry) -> Result<HostKey> {
        let file = self.args.file.clone();
        let host_key = async { Ok(local::host_key(entry, file.as_deref()).await?) };
        let found = within(PROBE_TIMEOUT, "ssh", host_key).await?;
        if !matches!(found, HostKey::New(_)) {
            return Ok(found);
        }
        let alias = entry.alias.clone();
        blocking(move || Ok(HostKey::New(local::unknown_key(&alias, file.as_deref())?))).await
    }

    fn cloud_text(&self) -> String {
        let Cloud { arm_endpoint, authority_host, .. } = &self.cloud;
        let name = self.cloud.name().and_then(|name| Some(name.to_possible_value()?.get_name().to_owned()));
        let name = name.unwrap_or("custom endpoints".into());
        format!("{name}: {}, {}", arm_endpoint.authority(), authority_host.authority())
    }

    /// Returns the proxy, and the hosts of the cloud that arcssh reaches without it.
    fn proxy(&self) -> Result<String> {
        let arm = self.cloud.arm_endpoint.authority();
        let entra = self.cloud.authority_host.authority();
        let relay = self.cloud.name().map(|name| format!("relay.{}", name.relay_suffix()));
        let hosts = [Some(arm.to_owned()), Some(entra.to_owned()), relay];
        let (mut proxy, mut direct) = (None, Vec::new());
        for host in hosts.into_iter().flatten() {
            let authority: Authority = host.parse().map_err(|error| anyhow!("{host}: {error}"))?;
            match self.net.proxy(&authority)? {
                Some(one) => proxy = Some(one),
                None => direct.push(host.replace("relay.", "*.")),
            }
        }
        Ok(match proxy {
            None => "none".into(),
            Some(proxy) if direct.is_empty() => proxy.to_string(),
            Some(proxy) => format!("{proxy}; NO_PROXY excludes {}", direct.join(", ")),
        })
    }

    fn roots(&self) -> Result<String> {
        let host = self.cloud.arm_endpoint.authority().to_owned();
        Ok(self.net.root_certificates().map_err(|error| NetError::Tls { host, error })?)
    }

    /// Connects to ARM and Entra ID: name resolution, proxies, TLS.
    async fn issuers(&self) -> Vec<(&'static str, Result<String>)> {
        let (arm, entra) = (&self.cloud.arm_endpoint, &self.cloud.authority_host);
        let (arm, entra) = tokio::join!(self.issuer(arm.authority()), self.issuer(entra.authority()));
        vec![(ARM, arm), ("Entra ID", entra)]
    }

    /// Returns the host, and the issuer of its certificate.
    async fn issuer(&self, authority: &str) -> Result<String> {
        let connect = async {
            let authority: Authority = authority.parse().map_err(|error| anyhow!("{authority}: {error}"))?;
            let stream = self.net.connect(&authority).await?;
            let (_, session) = stream.get_ref();
            let certificate = session.peer_certificates().and_then(|certificates| certificates.first());
            let issuer = certificate.and_then(|certificate| x509::issuer(certificate));
            Ok(format!(
                "{}, certificate issued by {}",
                authority.host(),
                issuer.unwrap_or("an unnamed authority".into())
            ))
        };
        within(LONG_PROBE_TIMEOUT, authority, connect).await
    }

    async fn azure(&self, probes: &Probes, entry: Option<HostEntry>) {
        let token = within(LONG_PROBE_TIMEOUT, "the credential source", async {
            Ok(self.chain().token(None).await?)
        });
        let token = token.await;
        let is_signed_in = token.is_ok();
        put(&probes.token, token);
        if !is_signed_in {
            return;
        }
        let Some(name) = entry.as_ref().map(|entry| entry.target.clone()).or(self.args.machine.clone())
        else {
            let seen = within(PROBE_TIMEOUT, ARM, async { Ok(subscriptions(&self.arm).await?) }).await;
            put(&probes.skew, seen.as_ref().ok().and_then(|(_, date)| skew(*date)));
            put(&probes.subscriptions, seen.map(|(count, _)| count));
            return;
        };
        match self.id(&name).await {
            Ok(id) => self.machine(probes, entry, &id).await,
            Err(error) => {
                put(&probes.machine, Err(error));
                put(&probes.registration, None);
                put(&probes.skew, None);
            }
        }
    }

    /// Collects the facts of a machine in Azure, and connects to its relay. A machine's ID can have a host entry that its
    /// name does not have.
    async fn machine(&self, probes: &Probes, entry: Option<HostEntry>, id: &ResourceId) {
        let entry = match entry {
            None => self.effective(local::entry(&self.file, &id.to_string())).await,
            entry => entry,
        };
        let given_port = self.args.port.or(entry.as_ref().map(|entry| entry.port));
        let requested_port = given_port.unwrap_or(Service::Ssh.default_port());
        let context = &Context::connecting(target(id, requested_port));
        forget_rejections(&self.arm, &self.store, id);
        let registration = async {
            let registration =
                in_arm(context, async { Ok(registration(&self.arm, &id.subscription).await?) }).await;
            put(&probes.skew, registration.as_ref().ok().and_then(|registration| skew(registration.date)));
            put(&probes.registration, Some(registration));
        };
        let connection = async {
            let service = in_arm(context, async { Ok(inspect(&self.arm, id, Service::Ssh).await?) }).await;
            let port = match (given_port, &service) {
                (None, Ok(ServiceState { port: Lookup::Found(enabled), .. })) => *enabled,
                _ => requested_port,
            };
            let is_ready = is_ready(&service, port);
            put(&probes.connection, Connection { port, entry });
            put(&probes.service, service);
            let upgraded = if is_ready { Some(self.connect(&target(id, port)).await) } else { None };
            let (relay, upgraded) = match upgraded {
                Some(Ok(upgraded)) => (Some(Ok(())), Some(upgraded)),
                Some(Err(error)) => (Some(Err(error.during(Context::connecting(target(id, port))))), None),
                None => (None, None),
            };
            put(&probes.relay, relay);
            put(
                &probes.banner,
                match upgraded {
                    Some(upgraded) => Some(within(PROBE_TIMEOUT, "sshd", banner(upgraded)).await),
                    None => None,
                },
            );
        };
        tokio::join!(
            store(
                &probes.machine,
                in_arm(context, async { Ok(find(&self.arm, &id.to_string(), &[]).await?) })
            ),
            store(&probes.permissions, in_arm(context, async { Ok(Permissions::on(&self.arm, id).await?) })),
            store(&probes.extensions, in_arm(context, async { Ok(extensions(&self.arm, id).await?) })),
            registration,
            connection,
        );
    }

    async fn id(&self, name: &str) -> Result<ResourceId> {
        if let MachineRef::Id(id) = name.parse()? {
            return Ok(id);
        }
        let subscriptions: Vec<String> = self.args.subscription.iter().cloned().collect();
        let suffix = managed_block::suffix(&managed_block::read(&self.file).unwrap_or_default());
        let name = without_suffix(name, &suffix, &[]);
        within(PROBE_TIMEOUT, ARM, async {
            Ok(find_or_suggest(&self.arm, &self.store, name, &subscriptions).await?.id)
        })
        .await
    }

    async fn connect(&self, target: &Target) -> Result<Upgraded<net::Stream>> {
        let id = target.machine.as_ref().expect("a target of the doctor has a machine");
        let credentials = RelayCredentialCache::new(&self.arm, &self.store, id, target.service, target.port);
        let connector = Connector {
            net: &self.net,
            target,
            wait: LISTENER_TIMEOUT,
            progress: &Progress::default(),
            on_no_listener: &|| (),
        };
        within(PROBE_TIMEOUT, "the relay", async { Ok(connector.connect(&credentials).await?.0) }).await
    }
}

fn target(id: &ResourceId, port: u16) -> Target {
    distinguished(Target::new(id, Service::Ssh, port))
}

/// Returns by how many seconds the clock of this computer is ahead of a server's.
fn skew(date: Option<u64>) -> Option<i64> {
    Some(unix_now().cast_signed() - date?.cast_signed())
}

/// Returns whether a connection can work: the service is enabled on the port, as far as the account can read.
fn is_ready(service: &Result<ServiceState>, port: u16) -> bool {
    service.as_ref().is_ok_and(|service| {
        let is_registered = service.registration.as_ref().is_none_or(Registration::is_done);
        let is_other = matches!(service.port, Lookup::Found(enabled) if enabled != port);
        is_registered && service.endpoint != Lookup::NotFound && service.port != Lookup::NotFound && !is_other
    })
}

/// The first bytes of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Banner {
    /// The line that begins with `SSH-` (RFC 4253, section 4.2).
    Ssh(String),
    /// Anything else.
    NotSsh(NotSsh),
}

async fn banner(upgraded: Upgraded<net::Stream>) -> Result<Banner> {
    let (read, write) = duplex(4096);
    let (input, _silent) = duplex(1);
    let banner_read = Notify::new();
    let stop = async {
        banner_read.notified().await;
        BridgeEnd::Finished
    };
    let listen = async {
        let banner = first_bytes(read).await;
        banner_read.notify_one();
        banner
    };
    let (_, banner) = tokio::join!(bridge::run(upgraded, input, write, stop), listen);
    banner
}

/// Reads the identification, or what the server sends until it closes the connection or is silent.
async fn first_bytes(from: impl AsyncRead + Unpin) -> Result<Banner> {
    let mut from = from.take(MAX_GREETING as u64);
    let mut bytes = Vec::new();
    loop {
        match timeout(BANNER_TIMEOUT, from.read_buf(&mut bytes)).await {
            Ok(read) => {
                if read.map_err(anyhow::Error::from)? == 0 {
                    break;
                }
            }
            Err(_elapsed) if bytes.is_empty() => return Ok(Banner::NotSsh(NotSsh::Silent(BANNER_TIMEOUT))),
            Err(_elapsed) => break,
        }
        if let Some(line) = identification(&bytes) {
            return Ok(Banner::Ssh(line));
        }
    }
    Ok(Banner::NotSsh(NotSsh::of(&bytes)))
}

/// Stores a fact, which no other probe stores.
fn put<T>(fact: &OnceCell<T>, value: T) {
    let _ = fact.set(value);
}

async fn store<T>(fact: &OnceCell<T>, probe: impl Future<Output = T>) {
    put(fact, probe.await);
}

/// Runs a request to Azure Resource Manager about a machine.
async fn in_arm<T>(context: &Context, probe: impl Future<Output = Result<T>>) -> Result<T> {
    within(PROBE_TIMEOUT, ARM, probe).await.map_err(|error| error.during(context.clone()))
}

/// Runs a probe with a time limit.
async fn within<T>(limit: Duration, host: &str, probe: impl Future<Output = Result<T>>) -> Result<T> {
    with_timeout(limit, probe, |after| NetError::TimedOut { host: host.to_owned(), after }.into()).await
}

/// Runs a probe that waits for a program on a thread of its own.
async fn blocking<T: Send + 'static>(probe: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let probe = async { spawn_blocking(probe).await.map_err(|error| Error::from(anyhow!(error)))? };
    within(PROBE_TIMEOUT, "ssh", probe).await
}
