//! Entra ID, Azure Resource Manager, Azure Relay and the Arc agent on loopback.
//!
//! The servers speak real TLS, HTTP and WebSocket, and follow the public documents of those services. A test starts an
//! [`Emulator`], passes [`Emulator::environment`] to the program under test and inspects [`Emulator::requests`]. Only
//! [`playground`] depends on arcssh.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test may panic"))]

mod agent;
mod arm;
mod builder;
mod clock;
mod encoding;
mod entra;
mod fault_queue;
mod journal;
mod keygen;
mod machine;
mod managed_identity;
#[cfg(unix)]
pub mod playground;
mod relay;
mod server;
#[cfg(unix)]
pub mod sshd;
mod throttle;
mod tls;
mod token;
#[cfg(unix)]
pub mod user_database;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::arm::Arm;
use crate::builder::ManagedIdentities;
use crate::entra::sign_in::Decision;
use crate::journal::{Journal, lock};
use crate::machine::MachineState;
use crate::relay::Relay;
use crate::tls::Certificates;

pub use crate::arm::fault::{ArmCall, ArmFault};
pub use crate::arm::policy::PolicyTokens;
pub use crate::arm::role::Role;
pub use crate::builder::Builder;
pub use crate::entra::fault::EntraFault;
pub use crate::entra::sign_in::RefreshRefusal;
pub use crate::entra::ssh_certificate::CertificateFault;
pub use crate::entra::{AZURE_CLI, JOB_TOKEN, PUBLIC_CLIENT};
pub use crate::journal::{RequestRecord, Service};
pub use crate::machine::{IssuedCredentials, Machine, RESOURCE_GROUP, SUBSCRIPTION};
pub use crate::relay::fault::RelayFault;
pub use crate::relay::observations::{Heartbeat, SenderEnd};
pub use crate::tls::{KeyExchange, ServerCertificate, TlsHandshake};

/// How often [`Emulator::wait_until`] checks its condition.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// A running emulator. Dropping it stops the servers and deletes the files.
pub struct Emulator {
    /// `None` only while the emulator is dropped.
    runtime: Option<Runtime>,
    directory: TempDir,
    arm: Arc<Arm>,
    entra_authority: String,
    handshakes: Arc<Mutex<Vec<TlsHandshake>>>,
    identities: ManagedIdentities,
    certificates: Certificates,
}

impl Emulator {
    /// An emulator with the defaults of [`Builder`].
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// The variables with which a client uses this emulator as the service principal: credential, endpoints and trust.
    /// `SSL_CERT_DIR` is an empty directory, so that the client trusts no other certificate.
    pub fn environment(&self) -> Vec<(String, String)> {
        let file = |name: &str| self.directory.path().join(name).display().to_string();
        let variables = [
            ("AZURE_TENANT_ID", entra::TENANT.to_owned()),
            ("AZURE_CLIENT_ID", entra::CLIENT_ID.to_owned()),
            ("AZURE_CLIENT_SECRET", self.arm.entra.client_secret.clone()),
            ("AZURE_AUTHORITY_HOST", format!("https://{}/", self.entra_authority)),
            ("ARCSSH_ARM_ENDPOINT", format!("https://{}", self.arm.address)),
            ("ARCSSH_ARM_AUDIENCE", entra::ARM_AUDIENCES[0].to_owned()),
            ("ARCSSH_RELAY_SUFFIX", self.relay().namespace.domain().to_owned()),
            ("SSL_CERT_FILE", file(builder::AUTHORITY_FILE)),
            ("SSL_CERT_DIR", file(builder::EMPTY_DIRECTORY)),
            // A sign-in in a test must not write to the key store of the person who runs it.
            ("ARCSSH_NO_KEYRING", "1".to_owned()),
        ];
        variables.map(|(name, value)| (name.to_owned(), value)).to_vec()
    }

    /// The PEM file with the certificate of the temporary certificate authority.
    pub fn authority_file(&self) -> PathBuf {
        self.directory.path().join(builder::AUTHORITY_FILE)
    }

    /// The directory of this emulator's files. Dropping the emulator deletes it.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The TLS configuration of a server that a test runs instead of one of the emulator's.
    ///
    /// # Panics
    ///
    /// If no certificate can be generated.
    pub fn tls_server(&self, certificate: ServerCertificate) -> Arc<rustls::ServerConfig> {
        self.certificates.presenting(certificate).expect("a certificate is generated")
    }

    /// Host and port of the relay: `namespaceName` and `namespaceNameSuffix` of listCredentials, joined by a dot.
    pub fn relay_authority(&self) -> String {
        self.relay().namespace.authority()
    }

    /// Returns the first machine with this `name`, `group/name` or full ARM id.
    ///
    /// # Panics
    ///
    /// If no machine matches.
    pub fn machine(&self, name: &str) -> MachineHandle {
        let found = self.arm.machines.iter().find(|machine| machine.has_name(name));
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

    /// Every secret so far: client secret, access tokens, SAS tokens and keys, their signatures raw and encoded, and
    /// service configuration tokens.
    pub fn secrets(&self) -> Vec<String> {
        self.journal().secrets()
    }

    /// Queues a fault of Azure Resource Manager.
    pub fn arm_fault(&self, fault: ArmFault) {
        self.arm.faults.add(fault.clone(), fault.times);
    }

    /// Queues a fault of Entra ID.
    pub fn entra_fault(&self, fault: EntraFault) {
        self.arm.entra.faults.add(fault.clone(), fault.times);
    }

    /// The PEM file with the private key and the certificate of the service principal.
    ///
    /// # Panics
    ///
    /// If ssh-keygen is not installed.
    pub fn client_certificate(&self) -> PathBuf {
        self.arm.entra.assertions.certificate().to_owned()
    }

    /// The file with a federated token: another issuer signed it, and Entra ID accepts it for the service principal. Every
    /// call writes a new token.
    ///
    /// # Panics
    ///
    /// If the file cannot be written.
    pub fn federated_token(&self) -> PathBuf {
        self.arm.entra.federated_token().expect("the emulator's directory is writable")
    }

    /// The public key of the authority that signs SSH certificates, for `TrustedUserCAKeys`.
    pub fn ssh_ca_public_key(&self) -> String {
        self.arm.entra.ssh_certificates.public_key()
    }

    /// Queues a fault of SSH certificates. Each fault applies to one certificate.
    pub fn certificate_fault(&self, fault: CertificateFault) {
        self.arm.entra.ssh_certificates.faults.add(fault, 1);
    }

    /// The tenant of the subscriptions.
    pub fn subscription_tenant(&self) -> &'static str {
        self.arm.entra.subscription_tenant
    }

    /// The metadata service of an Azure VM, such as `http://127.0.0.1:1234`.
    pub fn imds_endpoint(&self) -> String {
        format!("http://{}", self.identities.imds)
    }

    /// The metadata service of an Arc-enabled server (himds).
    pub fn arc_identity_endpoint(&self) -> String {
        format!("http://{}", self.identities.himds)
    }

    /// Removes the managed identities of the VM and of the server.
    pub fn remove_managed_identities(&self) {
        *lock(&self.identities.assigned) = false;
    }

    /// Makes the user deny the next browser sign-in.
    pub fn deny_sign_in(&self) {
        self.arm.entra.sign_ins.deny_next();
    }

    /// The user codes of the pending device code sign-ins.
    pub fn pending_devices(&self) -> Vec<String> {
        self.arm.entra.sign_ins.pending_devices()
    }

    /// Makes the user enter `user_code` and sign in.
    ///
    /// # Panics
    ///
    /// If there is no such code.
    pub fn approve_device(&self, user_code: &str) {
        self.decide(user_code, Decision::Approved);
    }

    /// Makes the user enter `user_code` and decline.
    ///
    /// # Panics
    ///
    /// If there is no such code.
    pub fn decline_device(&self, user_code: &str) {
        self.decide(user_code, Decision::Declined);
    }

    /// Makes `user_code` expire.
    ///
    /// # Panics
    ///
    /// If there is no such code.
    pub fn expire_device(&self, user_code: &str) {
        self.decide(user_code, Decision::Expired);
    }

    /// Rejects all refresh tokens issued so far.
    pub fn refuse_refresh_tokens(&self, refusal: RefreshRefusal) {
        self.arm.entra.sign_ins.refuse_refresh_tokens(refusal);
    }

    /// Queues a fault of the relay.
    pub fn relay_fault(&self, fault: RelayFault) {
        self.relay().faults.add(fault.clone(), fault.times.unwrap_or(1));
    }

    /// Arms one throttling window of Azure Resource Manager: it opens with the next request of the kind `call` and lasts
    /// `retry_after`. All requests of that kind in the window are answered with 429.
    pub fn throttle(&self, call: ArmCall, retry_after: Duration) {
        self.arm.throttles.arm(call, retry_after);
    }

    /// Arms one throttling window of Entra's token endpoint.
    pub fn throttle_tokens(&self, retry_after: Duration) {
        self.arm.entra.throttles.arm((), retry_after);
    }

    /// Removes the queued faults of Azure Resource Manager and of the relay, and all throttling windows.
    pub fn clear_faults(&self) {
        self.arm.faults.clear();
        self.arm.throttles.clear();
        self.arm.entra.throttles.clear();
        self.relay().faults.clear();
    }

    /// Changes the role of all callers of Azure Resource Manager.
    pub fn set_role(&self, role: Role) {
        *lock(&self.arm.role) = role;
    }

    /// Makes Azure Resource Manager require multi-factor authentication.
    pub fn require_second_factor(&self) {
        *lock(&self.arm.requires_context) = true;
    }

    /// Changes whether a policy requires a policy token of all requests to resources except GET.
    pub fn set_policy_tokens(&self, tokens: PolicyTokens) {
        *lock(&self.arm.policy.tokens) = tokens;
    }

    /// Changes the registration state of Microsoft.HybridConnectivity, such as `NotRegistered`.
    pub fn set_registration_state(&self, state: &str) {
        let mut registration = lock(&self.arm.registration);
        registration.state = state.to_owned();
        registration.done = None;
    }

    /// Changes the lifetime of the access tokens that Entra issues from now on.
    pub fn set_token_lifetime(&self, lifetime: Duration) {
        self.arm.entra.set_token_lifetime(lifetime);
    }

    /// The number of open connections between a sender and a listener.
    pub fn open_connections(&self) -> usize {
        self.relay().observations.open()
    }

    /// The number of senders that closed their connection before they got an answer.
    pub fn abandoned_dials(&self) -> usize {
        self.relay().observations.abandoned()
    }

    /// The pings that senders sent.
    pub fn sender_pings(&self) -> Vec<Heartbeat> {
        self.relay().observations.pings()
    }

    /// The pongs that senders sent.
    pub fn sender_pongs(&self) -> Vec<Heartbeat> {
        self.relay().observations.pongs()
    }

    /// How senders ended their connections, in order.
    pub fn sender_ends(&self) -> Vec<SenderEnd> {
        self.relay().observations.ends()
    }

    /// The TLS handshakes of all servers, in order. Those of the agent with the relay are included.
    pub fn tls_handshakes(&self) -> Vec<TlsHandshake> {
        lock(&self.handshakes).clone()
    }

    /// Waits until `condition` holds, at most for `limit`. Returns whether it holds.
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

    fn decide(&self, user_code: &str, decision: Decision) {
        let known = self.arm.entra.sign_ins.decide(user_code, decision);
        assert!(known, "there is no user code {user_code}");
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
            // A wait could deadlock with a client that waits for the emulator.
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

    /// Starts or stops the agent. Open connections stay open.
    pub fn set_online(&self, online: bool) {
        self.machine.online.send_replace(online);
    }

    /// Sets `properties.status`, whether the agent runs or not.
    pub fn set_status(&self, status: &str) {
        self.machine.set_status(status);
    }

    /// Sets how long the agent needs to install or remove an extension.
    pub fn set_extension_delay(&self, delay: Duration) {
        lock(&self.machine.extensions).delay = delay;
    }

    /// Makes the next installation of an extension fail with a message of its handler.
    pub fn fail_extension(&self, message: &str) {
        lock(&self.machine.extensions).failures.push(message.to_owned());
    }

    /// The extension with this name, as ARM shows it.
    pub fn extension(&self, name: &str) -> Option<serde_json::Value> {
        let extensions = lock(&self.machine.extensions);
        let found = extensions.all.iter().find(|extension| extension.name == name);
        found.map(|extension| extension.json(&self.machine))
    }

    /// Deletes the default endpoint, its service configurations and its hybrid connections.
    pub fn remove_endpoint(&self) {
        self.arm.remove_endpoint(&self.machine);
    }

    /// Deletes the service configuration SSH.
    pub fn remove_service_configuration(&self) {
        self.machine.remove_port("SSH");
    }

    /// Makes the agent dial `loopback_port` for the machine's port `port`. The emulated machine shares the loopback
    /// interface with the host, where port 22 is in use or needs root.
    pub fn move_port(&self, port: u16, loopback_port: u16) {
        self.machine.move_port(port, loopback_port);
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

    /// The results of all listCredentials calls so far, in order.
    pub fn issued_credentials(&self) -> Vec<IssuedCredentials> {
        self.machine.issued_credentials()
    }
}
