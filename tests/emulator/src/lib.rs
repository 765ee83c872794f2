//! Entra ID, Azure Resource Manager, Azure Relay and the Arc agent on loopback.
//!
//! Everything that arcssh talks to when it opens a connection, over real TLS, HTTP and WebSockets, held to the public
//! documents of those services. Tests start an [`Emulator`], hand its [`Emulator::environment`] to the programs under
//! test and look at what arrived. Nothing but [`playground`] knows arcssh.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test may panic"))]

mod agent;
mod arm;
mod builder;
mod clock;
mod encoding;
mod entra;
mod journal;
mod machine;
#[cfg(unix)]
pub mod playground;
mod relay;
mod server;
#[cfg(unix)]
pub mod sshd;
mod tls;
mod token;

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::arm::Arm;
use crate::journal::{Journal, lock};
use crate::machine::MachineState;
use crate::relay::Relay;

pub use crate::arm::fault::{ArmCall, ArmFault};
pub use crate::arm::role::Role;
pub use crate::builder::Builder;
pub use crate::entra::EntraFault;
pub use crate::journal::{RequestRecord, Service};
pub use crate::machine::{Machine, Minted, RESOURCE_GROUP, SUBSCRIPTION};
pub use crate::relay::fault::RelayFault;
pub use crate::relay::observations::{Heartbeat, SenderEnd};
pub use crate::tls::{KeyExchange, TlsHandshake};

/// How often [`Emulator::wait_until`] looks.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// A running emulator. It stops, and its files disappear, when it is dropped.
pub struct Emulator {
    /// Taken when the emulator is dropped.
    runtime: Option<Runtime>,
    directory: TempDir,
    arm: Arc<Arm>,
    entra_authority: String,
    handshakes: Arc<Mutex<Vec<TlsHandshake>>>,
}

impl Emulator {
    /// An emulator with the defaults of [`Builder`].
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// The variables that make a client use this emulator as its service principal: identity, endpoints and trust.
    /// `SSL_CERT_DIR` is an empty directory, so that nothing else is trusted.
    pub fn environment(&self) -> Vec<(String, String)> {
        let file = |name: &str| self.directory.path().join(name).display().to_string();
        let variables = [
            ("AZURE_TENANT_ID", entra::TENANT.to_owned()),
            ("AZURE_CLIENT_ID", entra::CLIENT_ID.to_owned()),
            ("AZURE_CLIENT_SECRET", self.arm.entra.client_secret.clone()),
            ("AZURE_AUTHORITY_HOST", format!("https://{}/", self.entra_authority)),
            ("ARCSSH_ARM_ENDPOINT", format!("https://{}", self.arm.address)),
            ("ARCSSH_ARM_AUDIENCE", entra::ARM_AUDIENCES[0].to_owned()),
            ("SSL_CERT_FILE", file(builder::AUTHORITY_FILE)),
            ("SSL_CERT_DIR", file(builder::EMPTY_DIRECTORY)),
        ];
        variables.map(|(name, value)| (name.to_owned(), value)).to_vec()
    }

    /// The file with the certificate of the throw-away authority, in PEM.
    pub fn authority_file(&self) -> std::path::PathBuf {
        self.directory.path().join(builder::AUTHORITY_FILE)
    }

    /// The directory of this emulator's files; it goes with the emulator.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Host and port of the relay, as listCredentials' two pieces spell it.
    pub fn relay_authority(&self) -> String {
        self.relay().namespace.authority()
    }

    /// The machine called `name`; the first one, if several are. `group/name` and the full ARM id are understood too.
    ///
    /// # Panics
    ///
    /// If there is none.
    pub fn machine(&self, name: &str) -> MachineHandle {
        let found = self.arm.machines.iter().find(|machine| machine.is_called(name));
        let machine = found.unwrap_or_else(|| panic!("the emulator has no machine called {name}"));
        MachineHandle { machine: Arc::clone(machine), arm: Arc::clone(&self.arm) }
    }

    /// Every request so far, in order of arrival.
    pub fn requests(&self) -> Vec<RequestRecord> {
        self.journal().requests()
    }

    /// The requests to one service.
    pub fn requests_to(&self, service: Service) -> Vec<RequestRecord> {
        self.requests().into_iter().filter(|request| request.service == service).collect()
    }

    /// Every secret that was configured or handed out so far: client secret, access tokens, SAS tokens and keys, their
    /// signatures raw and encoded, service configuration tokens.
    pub fn secrets(&self) -> Vec<String> {
        self.journal().secrets()
    }

    /// Adds a fault of Azure Resource Manager behind those that wait already.
    pub fn arm_fault(&self, fault: ArmFault) {
        self.arm.faults.add(fault);
    }

    /// Adds a fault of Entra ID behind those that wait already.
    pub fn entra_fault(&self, fault: EntraFault) {
        self.arm.entra.add_fault(fault);
    }

    /// Adds a fault of the relay behind those that wait already.
    pub fn relay_fault(&self, fault: RelayFault) {
        self.relay().add_fault(fault);
    }

    /// Forgets the faults of Azure Resource Manager and of the relay that have not been met.
    pub fn clear_faults(&self) {
        self.arm.faults.clear();
        self.relay().clear_faults();
    }

    /// Changes what the identity may do.
    pub fn set_role(&self, role: Role) {
        *lock(&self.arm.role) = role;
    }

    /// Changes the registration state of Microsoft.HybridConnectivity, such as `NotRegistered`.
    pub fn set_registration_state(&self, state: &str) {
        let mut registration = lock(&self.arm.registration);
        registration.state = state.to_owned();
        registration.done = None;
    }

    /// Changes the life of the access tokens that Entra issues from now on.
    pub fn set_token_lifetime(&self, lifetime: Duration) {
        self.arm.entra.set_token_lifetime(lifetime);
    }

    /// How many data sockets are joined.
    pub fn open_connections(&self) -> usize {
        self.relay().observations.open()
    }

    /// The pings that senders sent.
    pub fn sender_pings(&self) -> Vec<Heartbeat> {
        self.relay().observations.pings()
    }

    /// The pongs with which senders answered.
    pub fn sender_pongs(&self) -> Vec<Heartbeat> {
        self.relay().observations.pongs()
    }

    /// How the senders of joined data sockets left, in order.
    pub fn sender_ends(&self) -> Vec<SenderEnd> {
        self.relay().observations.ends()
    }

    /// The TLS handshakes of all servers, in order, the agent's own with the relay among them.
    pub fn tls_handshakes(&self) -> Vec<TlsHandshake> {
        lock(&self.handshakes).clone()
    }

    /// Waits until `condition` holds, at most for `limit`; the result says whether it does.
    pub fn wait_until(&self, limit: Duration, condition: impl Fn(&Self) -> bool) -> bool {
        let end = Instant::now() + limit;
        while !condition(self) {
            if Instant::now() >= end {
                return false;
            }
            thread::sleep(POLL_INTERVAL);
        }
        true
    }

    fn relay(&self) -> &Relay {
        &self.arm.relay
    }

    fn journal(&self) -> &Journal {
        &self.arm.journal
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Waiting could deadlock with a client that waits for the emulator.
            runtime.shutdown_background();
        }
    }
}

/// One machine of a running emulator.
#[derive(Clone)]
pub struct MachineHandle {
    machine: Arc<MachineState>,
    arm: Arc<Arm>,
}

impl MachineHandle {
    /// The full ARM id.
    pub fn resource_id(&self) -> String {
        self.machine.resource_id()
    }

    /// `properties.vmId`, the same in every run unless the test set it.
    pub fn vm_id(&self) -> Option<String> {
        self.machine.vm_id()
    }

    /// Starts or stops the agent. Connections that it carries already go on.
    pub fn set_online(&self, online: bool) {
        self.machine.online.send_replace(online);
    }

    /// Sets `properties.status` apart from whether the agent runs.
    pub fn set_status(&self, status: &str) {
        self.machine.set_status(status);
    }

    /// Deletes the default endpoint, its service configurations and its hybrid connections.
    pub fn remove_endpoint(&self) {
        self.arm.remove_endpoint(&self.machine);
    }

    /// Deletes the service configuration SSH.
    pub fn remove_service_configuration(&self) {
        self.machine.remove_port("SSH");
    }

    /// Changes the port in the service configuration SSH.
    pub fn set_ssh_port(&self, port: u16) {
        self.machine.set_port("SSH", port);
    }

    /// The port in the service configuration SSH.
    pub fn ssh_port(&self) -> Option<u16> {
        self.machine.port("SSH")
    }

    /// Whether the default endpoint exists.
    pub fn has_endpoint(&self) -> bool {
        *self.machine.endpoint()
    }

    /// What listCredentials has created so far, in order.
    pub fn minted(&self) -> Vec<Minted> {
        self.machine.minted()
    }
}
