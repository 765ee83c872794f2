//! Settings of an emulator, and its start.

use std::collections::HashSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

use crate::Emulator;
use crate::agent::Agent;

use crate::arm::graph::MAX_RESPONSE;
use crate::arm::policy::Policy;
use crate::arm::role::Role;
use crate::arm::{Arm, Registration};
use crate::clock::Clock;
use crate::entra::sign_in::Decision;
use crate::entra::{Entra, ManagedIdentity, OTHER_TENANT, Settings, TENANT};
use crate::fault_queue::FaultQueue;
use crate::journal::Journal;
use crate::machine::{Machine, MachineState, RESOURCE_GROUP, SUBSCRIPTION};
use crate::managed_identity::{Endpoint, Himds, Imds, TOKEN_DIRECTORY};
use crate::relay::Relay;
use crate::relay::fault::Tail;
use crate::server::{Handler, Recorder, serve, serve_plain};
use crate::throttle::{Quota, Throttles};
use crate::tls::{Certificates, KeyExchange};
use crate::token::TokenKey;

/// Files of the emulator's directory.
pub(crate) const AUTHORITY_FILE: &str = "ca.pem";
pub(crate) const EMPTY_DIRECTORY: &str = "no-other-certificates";

/// The settings of an emulator that has not been started.
#[derive(Clone, Debug)]
pub struct Builder {
    address: IpAddr,
    machines: Vec<Machine>,
    agent: bool,
    clock: Clock,
    credential_lifetime: Option<Duration>,
    strict_expiry: bool,
    endpoint_delay: Duration,
    listener_delay: Duration,
    rendezvous_time: Duration,
    has_tail: bool,
    token_lifetime: Duration,
    user_principal_name: String,
    device_interval: Duration,
    device_decision: Decision,
    certificate_lifetime: Duration,
    subscription_tenant: &'static str,
    imds: Option<SocketAddr>,
    himds: Option<SocketAddr>,
    arc_token_directory: PathBuf,
    page_size: Option<usize>,
    graph_max_response: usize,
    graph_quota: (usize, Duration),
    role: Role,
    registration_state: String,
    registration_delay: Duration,
    key_exchange: KeyExchange,
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            address: Ipv4Addr::LOCALHOST.into(),
            machines: Vec::new(),
            agent: true,
            clock: Clock::default(),
            credential_lifetime: None,
            strict_expiry: false,
            endpoint_delay: Duration::ZERO,
            listener_delay: Duration::ZERO,
            // "The maximum to assume is 30 seconds" (protocol guide, "Accept message").
            rendezvous_time: Duration::from_secs(30),
            has_tail: false,
            // Entra's default is 60 to 90 minutes (Microsoft Learn, "Configurable token lifetimes").
            token_lifetime: Duration::from_secs(3600),
            user_principal_name: "Ada@arcssh.example".to_owned(),
            // `interval` of the example in Microsoft Learn, "OAuth 2.0 device authorization grant flow".
            device_interval: Duration::from_secs(5),
            device_decision: Decision::Pending,
            certificate_lifetime: Duration::from_secs(3600),
            subscription_tenant: TENANT,
            imds: None,
            himds: None,
            arc_token_directory: TOKEN_DIRECTORY.into(),
            page_size: None,
            graph_max_response: MAX_RESPONSE,
            graph_quota: (usize::MAX, Duration::from_secs(5)),
            role: Role::Owner,
            registration_state: "Registered".to_owned(),
            registration_delay: Duration::ZERO,
            key_exchange: KeyExchange::Any,
        }
    }
}

impl Builder {
    /// Sets the loopback address of all servers: any IPv4 loopback address, or ::1. The default is 127.0.0.1.
    pub fn bind(self, address: IpAddr) -> Self {
        Self { address, ..self }
    }

    /// Adds a machine.
    pub fn machine(mut self, machine: Machine) -> Self {
        self.machines.push(machine);
        self
    }

    /// Starts no agents, so that a test can attach another listener.
    pub fn without_agent(self) -> Self {
        Self { agent: false, ..self }
    }

    /// Sets the clock of Entra, ARM, relay and agents `offset` seconds ahead of the clock of this machine.
    pub fn clock_offset(self, offset: i64) -> Self {
        Self { clock: Clock { offset }, ..self }
    }

    /// Limits the lifetime of relay credentials, even if `expiresin` is longer. Whole seconds.
    pub fn credential_lifetime(self, lifetime: Duration) -> Self {
        Self { credential_lifetime: Some(lifetime), ..self }
    }

    /// Makes the relay delete a hybrid connection at `expiresOn`. Without this, the relay accepts the access key until its
    /// own expiry, ten minutes later, when no agent listens any more.
    pub fn strict_expiry(self) -> Self {
        Self { strict_expiry: true, ..self }
    }

    /// Sets for how long after listCredentials the relay answers `Endpoint does not exist.`
    pub fn endpoint_delay(self, endpoint_delay: Duration) -> Self {
        Self { endpoint_delay, ..self }
    }

    /// Sets for how long after the endpoint delay the relay answers `There are no listeners connected for the endpoint.`
    pub fn listener_delay(self, listener_delay: Duration) -> Self {
        Self { listener_delay, ..self }
    }

    /// Sets how long a sender waits for its listener. The default is 30 s.
    pub fn rendezvous_time(self, rendezvous_time: Duration) -> Self {
        Self { rendezvous_time, ..self }
    }

    /// Delays one sender in 20 by 3 to 7 s, and gives one in 50 no answer, in a fixed order. Queued faults come first.
    pub fn relay_tail(self) -> Self {
        Self { has_tail: true, ..self }
    }

    /// Sets the lifetime of access tokens. The default is an hour.
    pub fn token_lifetime(self, token_lifetime: Duration) -> Self {
        Self { token_lifetime, ..self }
    }

    /// Sets the name of the only user. The default is `Ada@arcssh.example`: Entra ID preserves the case of names.
    pub fn user_principal_name(self, name: &str) -> Self {
        Self { user_principal_name: name.to_owned(), ..self }
    }

    /// Sets the polling interval of a device code sign-in. The default is 5 s. Whole seconds.
    pub fn device_interval(self, device_interval: Duration) -> Self {
        Self { device_interval, ..self }
    }

    /// Makes the user approve every device code at once.
    pub fn approve_devices(self) -> Self {
        Self { device_decision: Decision::Approved, ..self }
    }

    /// Sets the lifetime of SSH certificates. The default is an hour. Whole seconds.
    pub fn certificate_lifetime(self, certificate_lifetime: Duration) -> Self {
        Self { certificate_lifetime, ..self }
    }

    /// Puts the subscriptions into another tenant than the home tenant of user and service principal. That tenant issues
    /// tokens for them on request.
    pub fn home_tenant_differs(self) -> Self {
        Self { subscription_tenant: OTHER_TENANT, ..self }
    }

    /// Sets the address of the metadata service of an Azure VM: 169.254.169.254:80 in Azure, by default a free port.
    pub fn imds(self, address: SocketAddr) -> Self {
        Self { imds: Some(address), ..self }
    }

    /// Sets the address of the metadata service of an Arc-enabled server: localhost:40342 on real servers, by default a
    /// free port.
    pub fn himds(self, address: SocketAddr) -> Self {
        Self { himds: Some(address), ..self }
    }

    /// Sets the directory of the key files of himds' challenges, which is created for the first challenge. The default is
    /// `/var/opt/azcmagent/tokens`.
    pub fn arc_token_directory(self, directory: &Path) -> Self {
        Self { arc_token_directory: directory.to_owned(), ..self }
    }

    /// Limits the machines of a page: of a list, where the default is 100, and of a Resource Graph query, where it also
    /// overrides a larger `$top`.
    pub fn page_size(self, machines: usize) -> Self {
        Self { page_size: Some(machines.max(1)), ..self }
    }

    /// Sets the longest response of Resource Graph in bytes, instead of 16 MiB.
    pub fn graph_max_response(self, bytes: usize) -> Self {
        Self { graph_max_response: bytes, ..self }
    }

    /// Sets how many queries of Resource Graph a user may send in each window. By default, tests have no limit; Azure's is
    /// 15 queries in 5 s.
    pub fn graph_quota(self, queries: usize, window: Duration) -> Self {
        Self { graph_quota: (queries, window), ..self }
    }

    /// Sets the role of all callers of Azure Resource Manager. The default is Owner.
    pub fn role(self, role: Role) -> Self {
        Self { role, ..self }
    }

    /// Sets the registration state of Microsoft.HybridConnectivity. The default is `Registered`.
    pub fn registration_state(self, state: &str) -> Self {
        Self { registration_state: state.to_owned(), ..self }
    }

    /// Sets how long a registration takes. The default is zero.
    pub fn registration_delay(self, registration_delay: Duration) -> Self {
        Self { registration_delay, ..self }
    }

    /// Sets the key-exchange groups that the relay accepts.
    pub fn relay_key_exchange(self, key_exchange: KeyExchange) -> Self {
        Self { key_exchange, ..self }
    }

    /// Starts all servers, each on a free port.
    ///
    /// # Errors
    ///
    /// If a port cannot be bound or a file cannot be written, or if two machines have one id.
    pub fn start(self) -> anyhow::Result<Emulator> {
        let runtime = runtime()?;
        let inside = runtime.enter();
        let certificates = Certificates::generate().context("certificates")?;
        let directory = directory(&certificates)?;
        let (entra_listener, arm_listener, relay_listener) =
            (self.listener()?, self.listener()?, self.listener()?);
        let journal = Arc::new(Journal::default());
        let recorder = Recorder { journal: Arc::clone(&journal), handshakes: Arc::default() };
        let entra_authority = entra_listener.local_addr()?.to_string();
        let entra = Arc::new(Entra::new(&self.entra(&entra_authority, &directory), Arc::clone(&journal)));
        let tail = self.has_tail.then(Tail::default);
        let relay = Relay::new(relay_listener.local_addr()?, self.rendezvous_time, self.clock, tail)?;
        let relay = Arc::new(relay);
        let arm = self.arm(arm_listener.local_addr()?, &entra, &relay, &certificates, &journal)?;
        let any = KeyExchange::Any;
        spawn(entra_listener, &certificates, any, &entra, &recorder)?;
        spawn(arm_listener, &certificates, any, &arm, &recorder)?;
        spawn(relay_listener, &certificates, self.key_exchange, &relay, &recorder)?;
        let identities = self.identities(&entra, &arm, &recorder)?;
        drop(inside);
        let handshakes = recorder.handshakes;
        Ok(Emulator {
            runtime: Some(runtime),
            directory,
            arm,
            entra_authority,
            handshakes,
            identities,
            certificates,
        })
    }

    fn listener(&self) -> anyhow::Result<TcpListener> {
        listener(SocketAddr::new(self.address, 0))
    }

    /// Starts the metadata services of a VM and of the first machine.
    fn identities(
        &self,
        entra: &Arc<Entra>,
        arm: &Arc<Arm>,
        recorder: &Recorder,
    ) -> anyhow::Result<ManagedIdentities> {
        let assigned = Arc::new(Mutex::new(true));
        let endpoint = |identity| {
            let (entra, assigned) = (Arc::clone(entra), Arc::clone(&assigned));
            Endpoint { entra, identity, assigned, clock: self.clock }
        };
        let own = SocketAddr::new(self.address, 0);
        let (imds, himds) = (listener(self.imds.unwrap_or(own))?, listener(self.himds.unwrap_or(own))?);
        let (imds_address, himds_address) = (imds.local_addr()?, himds.local_addr()?);
        let arc = endpoint(arc_identity(arm));
        let handler = Himds::new(arc, &self.arc_token_directory, Arc::clone(&recorder.journal));
        tokio::spawn(serve_plain(imds, Arc::new(Imds(endpoint(vm_identity()))), recorder.clone()));
        tokio::spawn(serve_plain(himds, Arc::new(handler), recorder.clone()));
        Ok(ManagedIdentities { imds: imds_address, himds: himds_address, assigned })
    }

    /// Creates ARM with its machines, and starts an agent for each machine.
    fn arm(
        &self,
        address: SocketAddr,
        entra: &Arc<Entra>,
        relay: &Arc<Relay>,
        certificates: &Certificates,
        journal: &Arc<Journal>,
    ) -> anyhow::Result<Arc<Arm>> {
        let service_token_key = Arc::new(TokenKey::generate());
        let (mut machines, mut ids) = (Vec::new(), HashSet::new());
        for facts in &self.machines {
            let (machine, notices) = MachineState::new(facts.clone(), self.clock);
            let machine = Arc::new(machine);
            let id = machine.resource_id();
            ensure!(ids.insert(id.to_ascii_lowercase()), "two machines have the id {id}");
            machines.push(Arc::clone(&machine));
            if self.agent {
                let (relay, tls) = (relay.address, certificates.client()?);
                let (service_token_key, journal) = (Arc::clone(&service_token_key), Arc::clone(journal));
                let agent = Agent { machine, relay, tls, service_token_key, journal, clock: self.clock };
                tokio::spawn(agent.run(notices));
            }
        }
        Ok(Arc::new(Arm {
            address,
            entra: Arc::clone(entra),
            relay: Arc::clone(relay),
            journal: Arc::clone(journal),
            machines,
            service_token_key,
            clock: self.clock,
            credential_lifetime: self.credential_lifetime,
            strict_expiry: self.strict_expiry,
            endpoint_delay: self.endpoint_delay,
            listener_delay: self.listener_delay,
            page_size: self.page_size,
            graph_quota: Quota::new(self.graph_quota.0, self.graph_quota.1),
            graph_max_response: self.graph_max_response,
            registration: Mutex::new(self.registration()),
            role: Mutex::new(self.role),
            requires_context: Mutex::default(),
            policy: Policy::default(),
            faults: FaultQueue::default(),
            throttles: Throttles::default(),
        }))
    }

    fn entra(&self, authority: &str, directory: &TempDir) -> Settings {
        Settings {
            authority: authority.to_owned(),
            directory: directory.path().to_owned(),
            clock: self.clock,
            token_lifetime: self.token_lifetime,
            user_principal_name: self.user_principal_name.clone(),
            device_interval: self.device_interval,
            device_decision: self.device_decision,
            certificate_lifetime: self.certificate_lifetime,
            subscription_tenant: self.subscription_tenant,
        }
    }

    fn registration(&self) -> Registration {
        Registration { state: self.registration_state.clone(), delay: self.registration_delay, done: None }
    }
}

/// Addresses of the metadata services, and whether the machines have identities.
pub(crate) struct ManagedIdentities {
    pub(crate) imds: SocketAddr,
    pub(crate) himds: SocketAddr,
    pub(crate) assigned: Arc<Mutex<bool>>,
}

fn vm_identity() -> ManagedIdentity {
    let group = format!("/subscriptions/{SUBSCRIPTION}/resourcegroups/{RESOURCE_GROUP}");
    ManagedIdentity {
        client_id: "1de47000-0000-4000-8000-000000000001",
        object_id: "0b1ec700-0000-4000-8000-000000000003",
        resource_id: format!("{group}/providers/Microsoft.Compute/virtualMachines/vm01"),
    }
}

fn arc_identity(arm: &Arm) -> ManagedIdentity {
    ManagedIdentity {
        client_id: "1de47000-0000-4000-8000-000000000002",
        object_id: "0b1ec700-0000-4000-8000-000000000004",
        resource_id: arm.machines.first().map(|machine| machine.resource_id()).unwrap_or_default(),
    }
}

fn listener(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let listener =
        std::net::TcpListener::bind(address).with_context(|| format!("cannot listen at {address}"))?;
    listener.set_nonblocking(true)?;
    Ok(TcpListener::from_std(listener)?)
}

/// A runtime with two workers: one for each direction of a busy connection.
fn runtime() -> anyhow::Result<Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(2).thread_name("arcssh-emulator").enable_all().build().context("runtime")
}

fn directory(certificates: &Certificates) -> anyhow::Result<TempDir> {
    let directory = tempfile::Builder::new().prefix("arcssh-emulator-").tempdir()?;
    fs::write(directory.path().join(AUTHORITY_FILE), certificates.authority_pem())?;
    fs::create_dir(directory.path().join(EMPTY_DIRECTORY))?;
    Ok(directory)
}

fn spawn<R: Handler>(
    listener: TcpListener,
    certificates: &Certificates,
    key_exchange: KeyExchange,
    handler: &Arc<R>,
    recorder: &Recorder,
) -> anyhow::Result<()> {
    let tls = certificates.server(key_exchange)?;
    tokio::spawn(serve(listener, tls, Arc::clone(handler), recorder.clone()));
    Ok(())
}
