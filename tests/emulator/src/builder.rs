//! How an emulator is put together and started.

use std::collections::HashSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

use crate::Emulator;
use crate::agent::Agent;
use crate::arm::fault::ArmFaults;
use crate::arm::role::Role;
use crate::arm::{Arm, Registration};
use crate::entra::Entra;
use crate::journal::Journal;
use crate::machine::{Machine, MachineState};
use crate::relay::Relay;
use crate::server::{Room, Witness, serve};
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
    endpoint_delay: Duration,
    listener_delay: Duration,
    rendezvous_time: Duration,
    token_lifetime: Duration,
    page_size: Option<usize>,
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
            endpoint_delay: Duration::ZERO,
            listener_delay: Duration::ZERO,
            // "The maximum to assume is 30 seconds" (protocol guide, "Accept message").
            rendezvous_time: Duration::from_secs(30),
            // What Entra gives at least: 60 to 90 minutes (Microsoft Learn, "Configurable token lifetimes").
            token_lifetime: Duration::from_secs(3600),
            page_size: None,
            role: Role::Owner,
            registration_state: "Registered".to_owned(),
            registration_delay: Duration::ZERO,
            key_exchange: KeyExchange::Any,
        }
    }
}

impl Builder {
    /// The loopback address of all servers: 127.0.0.1 (the default), another IPv4 one, or ::1.
    pub fn bind(self, address: IpAddr) -> Self {
        Self { address, ..self }
    }

    /// Adds a machine.
    pub fn machine(mut self, machine: Machine) -> Self {
        self.machines.push(machine);
        self
    }

    /// Leaves out the agents, so that a foreign listener can take their place.
    pub fn without_agent(self) -> Self {
        Self { agent: false, ..self }
    }

    /// For how long after listCredentials the relay answers `Endpoint does not exist.`
    pub fn endpoint_delay(self, endpoint_delay: Duration) -> Self {
        Self { endpoint_delay, ..self }
    }

    /// For how long after that it answers `There are no listeners connected for the endpoint.`
    pub fn listener_delay(self, listener_delay: Duration) -> Self {
        Self { listener_delay, ..self }
    }

    /// How long a sender waits for its listener, 30 s unless set.
    pub fn rendezvous_time(self, rendezvous_time: Duration) -> Self {
        Self { rendezvous_time, ..self }
    }

    /// The life of access tokens, an hour unless set.
    pub fn token_lifetime(self, token_lifetime: Duration) -> Self {
        Self { token_lifetime, ..self }
    }

    /// How many machines a page has at most: of a list, which has 100 unless set, and of a graph query, whatever `$top`
    /// says.
    pub fn page_size(self, machines: usize) -> Self {
        Self { page_size: Some(machines.max(1)), ..self }
    }

    /// What the identity may do, everything unless set.
    pub fn role(self, role: Role) -> Self {
        Self { role, ..self }
    }

    /// The registration state of Microsoft.HybridConnectivity, `Registered` unless set.
    pub fn registration_state(self, state: &str) -> Self {
        Self { registration_state: state.to_owned(), ..self }
    }

    /// How long registering takes, no time unless set.
    pub fn registration_delay(self, registration_delay: Duration) -> Self {
        Self { registration_delay, ..self }
    }

    /// Which key-exchange groups the relay accepts.
    pub fn relay_key_exchange(self, key_exchange: KeyExchange) -> Self {
        Self { key_exchange, ..self }
    }

    /// Starts all servers on ports of their own.
    ///
    /// # Errors
    ///
    /// If a port cannot be bound or a file cannot be written, or if two machines have one id.
    pub fn start(self) -> anyhow::Result<Emulator> {
        let runtime = runtime()?;
        let inside = runtime.enter();
        let certificates = Certificates::generate().context("certificates")?;
        let directory = directory(&certificates)?;
        let (entra_listener, arm_listener, relay_listener) = (self.bound()?, self.bound()?, self.bound()?);
        let journal = Arc::new(Journal::default());
        let witness = Witness { journal: Arc::clone(&journal), handshakes: Arc::default() };
        let entra = Arc::new(Entra::new(self.token_lifetime, Arc::clone(&journal)));
        let relay = Arc::new(Relay::new(relay_listener.local_addr()?, self.rendezvous_time)?);
        let arm = self.arm(arm_listener.local_addr()?, &entra, &relay, &certificates, &journal)?;
        let entra_authority = entra_listener.local_addr()?.to_string();
        let any = KeyExchange::Any;
        spawn(entra_listener, &certificates, any, &entra, &witness)?;
        spawn(arm_listener, &certificates, any, &arm, &witness)?;
        spawn(relay_listener, &certificates, self.key_exchange, &relay, &witness)?;
        drop(inside);
        let handshakes = witness.handshakes;
        Ok(Emulator { runtime: Some(runtime), directory, arm, entra_authority, handshakes })
    }

    fn bound(&self) -> anyhow::Result<TcpListener> {
        let listener = std::net::TcpListener::bind(SocketAddr::new(self.address, 0))?;
        listener.set_nonblocking(true)?;
        Ok(TcpListener::from_std(listener)?)
    }

    /// ARM with its machines, and an agent for each of them.
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
            let (machine, notices) = MachineState::new(facts.clone());
            let machine = Arc::new(machine);
            let id = machine.resource_id();
            ensure!(ids.insert(id.to_ascii_lowercase()), "two machines have the id {id}");
            machines.push(Arc::clone(&machine));
            if self.agent {
                let (relay, tls) = (relay.address, certificates.client()?);
                let (service_token_key, journal) = (Arc::clone(&service_token_key), Arc::clone(journal));
                tokio::spawn(Agent { machine, relay, tls, service_token_key, journal }.run(notices));
            }
        }
        Ok(Arc::new(Arm {
            address,
            entra: Arc::clone(entra),
            relay: Arc::clone(relay),
            journal: Arc::clone(journal),
            machines,
            service_token_key,
            endpoint_delay: self.endpoint_delay,
            listener_delay: self.listener_delay,
            page_size: self.page_size,
            registration: Mutex::new(self.registration()),
            role: Mutex::new(self.role),
            faults: ArmFaults::default(),
        }))
    }

    fn registration(&self) -> Registration {
        Registration { state: self.registration_state.clone(), delay: self.registration_delay, done: None }
    }
}

/// Two workers: one for each direction of a busy connection.
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

fn spawn<R: Room>(
    listener: TcpListener,
    certificates: &Certificates,
    key_exchange: KeyExchange,
    room: &Arc<R>,
    witness: &Witness,
) -> anyhow::Result<()> {
    let tls = certificates.server(key_exchange)?;
    tokio::spawn(serve(listener, tls, Arc::clone(room), witness.clone()));
    Ok(())
}
