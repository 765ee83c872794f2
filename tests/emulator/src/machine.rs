//! An Arc machine: its initial properties, and its state, which ARM changes and the agent watches.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Mutex, MutexGuard};
use std::time::Instant;

use ring::digest;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};

use crate::arm::extensions::{Extension, Extensions};
use crate::clock::Clock;
use crate::encoding::is_one_of;
use crate::journal::lock;

/// The default subscription of a machine.
pub const SUBSCRIPTION: &str = "5b5c4700-0000-4000-8000-000000000001";
/// The default resource group of a machine.
pub const RESOURCE_GROUP: &str = "rg-arc";
/// The resource types that can have a `Microsoft.HybridConnectivity` endpoint, Arc-enabled servers first
/// (azure-cli-extensions `src/ssh/azext_ssh/resource_type_utils.py`).
pub(crate) const RESOURCE_TYPES: [&str; 4] = [
    "Microsoft.HybridCompute/machines",
    "Microsoft.ConnectedVMwarevSphere/virtualMachines",
    "Microsoft.ScVmm/virtualMachines",
    "Microsoft.AzureStackHCI/virtualMachines",
];

/// Service name to port: the `serviceConfigurations` of the default endpoint.
pub(crate) type ServiceConfigurations = BTreeMap<String, u16>;

/// The source of a machine's `vmId`.
#[derive(Clone, Debug)]
enum VmId {
    /// Derived from the resource ID, so that it is the same in every run.
    Derived,
    Given(String),
    Absent,
}

/// The initial properties of a machine. By default it is connected, with a default endpoint and SSH on port 22.
#[derive(Clone, Debug)]
pub struct Machine {
    pub(crate) name: String,
    pub(crate) subscription: String,
    pub(crate) resource_group: String,
    pub(crate) resource_type: &'static str,
    vm_id: VmId,
    pub(crate) tags: BTreeMap<String, String>,
    pub(crate) location: String,
    pub(crate) os_name: String,
    pub(crate) agent_version: String,
    pub(crate) extensions: Vec<Extension>,
    /// Whether the machine has a system-assigned managed identity.
    pub(crate) has_identity: bool,
    /// Settings of the agent in `agentConfiguration`.
    pub(crate) agent_configuration: Value,
    pub(crate) private_link: bool,
    pub(crate) config_mode: Option<&'static str>,
    pub(crate) online: bool,
    pub(crate) endpoint: bool,
    pub(crate) service_configurations: ServiceConfigurations,
}

impl Machine {
    /// A Linux machine in [`RESOURCE_GROUP`].
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            subscription: SUBSCRIPTION.to_owned(),
            resource_type: RESOURCE_TYPES[0],
            vm_id: VmId::Derived,
            tags: BTreeMap::new(),
            resource_group: RESOURCE_GROUP.to_owned(),
            location: "eastus".to_owned(),
            os_name: "linux".to_owned(),
            // A version in the agent's release notes. Service configurations need 1.31.
            agent_version: "1.67.03504.1320".to_owned(),
            extensions: Vec::new(),
            has_identity: true,
            agent_configuration: json!({ "extensionsEnabled": "true" }),
            private_link: false,
            config_mode: Some("full"),
            online: true,
            endpoint: true,
            service_configurations: BTreeMap::from([("SSH".to_owned(), 22)]),
        }
    }

    /// Sets the port in the service configuration SSH.
    pub fn ssh_port(mut self, port: u16) -> Self {
        self.service_configurations.insert("SSH".to_owned(), port);
        self
    }

    /// Sets the resource group.
    pub fn resource_group(self, resource_group: &str) -> Self {
        Self { resource_group: resource_group.to_owned(), ..self }
    }

    /// Sets the subscription, a GUID.
    pub fn subscription(self, subscription: &str) -> Self {
        Self { subscription: subscription.to_owned(), ..self }
    }

    /// Sets the resource type, such as `Microsoft.ScVmm/virtualMachines`.
    ///
    /// # Panics
    ///
    /// If it is not one of the four types that can have an SSH endpoint.
    pub fn resource_type(self, resource_type: &str) -> Self {
        let known = known_type(resource_type);
        Self { resource_type: known.unwrap_or_else(|| panic!("{resource_type} is not an Arc type")), ..self }
    }

    /// Sets `properties.vmId`.
    pub fn vm_id(self, vm_id: &str) -> Self {
        Self { vm_id: VmId::Given(vm_id.to_owned()), ..self }
    }

    /// Leaves out `properties.vmId`.
    pub fn without_vm_id(self) -> Self {
        Self { vm_id: VmId::Absent, ..self }
    }

    /// Adds a tag.
    pub fn tag(mut self, key: &str, value: &str) -> Self {
        self.tags.insert(key.to_owned(), value.to_owned());
        self
    }

    /// Sets the region.
    pub fn location(self, location: &str) -> Self {
        Self { location: location.to_owned(), ..self }
    }

    /// Sets the operating system, `linux` or `windows`.
    pub fn os_name(self, os_name: &str) -> Self {
        Self { os_name: os_name.to_owned(), ..self }
    }

    /// Sets the version of the agent.
    pub fn agent_version(self, agent_version: &str) -> Self {
        Self { agent_version: agent_version.to_owned(), ..self }
    }

    /// Adds an extension with the provisioning state `state`. Its name differs from its type, as in Microsoft's guide.
    pub fn extension(self, publisher: &str, kind: &str, state: &str) -> Self {
        let name = format!("extension{}", self.extensions.len());
        self.extension_resource(&name, json!({ "publisher": publisher, "type": kind }), state, None)
    }

    /// Adds an extension with these properties, a tag, and the message of its handler.
    pub fn extension_resource(
        mut self,
        name: &str,
        properties: Value,
        state: &str,
        message: Option<&str>,
    ) -> Self {
        let (name, state, message) = (name.to_owned(), state.to_owned(), message.map(str::to_owned));
        let tags = json!({ "owner": "ops" });
        self.extensions.push(Extension { name, tags, properties, state, message });
        self
    }

    /// Removes the managed identity.
    pub fn without_identity(self) -> Self {
        Self { has_identity: false, ..self }
    }

    /// Sets a setting of the agent in `agentConfiguration`, such as `extensionsEnabled` (azure-rest-api-specs hybridcompute).
    pub fn agent_setting(mut self, name: &str, value: Value) -> Self {
        self.agent_configuration[name] = value;
        self
    }

    /// Sets the agent's mode; `None` as for a machine about which Azure has no information.
    pub fn config_mode(self, config_mode: Option<&'static str>) -> Self {
        Self { config_mode, ..self }
    }

    /// Makes the agent use a private link.
    pub fn private_link(self) -> Self {
        Self { private_link: true, ..self }
    }

    /// Starts the machine without a running agent.
    pub fn offline(self) -> Self {
        Self { online: false, ..self }
    }

    /// Starts the machine without a default endpoint and without service configurations.
    pub fn without_endpoint(self) -> Self {
        Self { endpoint: false, ..self.without_service_configuration() }
    }

    /// Starts the machine with a default endpoint but without service configurations.
    pub fn without_service_configuration(self) -> Self {
        Self { service_configurations: BTreeMap::new(), ..self }
    }
}

/// The result of one listCredentials call.
#[derive(Clone, Debug)]
pub struct IssuedCredentials {
    /// The name of the new hybrid connection.
    pub hybrid_connection_name: String,
    /// Host and port of the relay.
    pub relay_authority: String,
    /// A SAS token with the Send right: `accessKey` of the answer.
    pub access_key: String,
    /// The token for the agent, if the request named a service.
    pub service_configuration_token: Option<String>,
    /// The name of a key with the Listen right.
    pub listener_key_name: String,
    /// The key with this name.
    pub listener_key: String,
    /// A SAS token with the Listen right for this hybrid connection.
    pub listen_token: String,
    /// Unix time in seconds: `expiresOn` of the answer.
    pub expires_on: u64,
}

impl IssuedCredentials {
    /// The URI at which a listener registers.
    pub fn listen_uri(&self) -> String {
        format!("wss://{}/$hc/{}?sb-hc-action=listen", self.relay_authority, self.hybrid_connection_name)
    }

    /// The URI to which a sender connects.
    pub fn connect_uri(&self) -> String {
        format!("wss://{}/$hc/{}?sb-hc-action=connect", self.relay_authority, self.hybrid_connection_name)
    }
}

/// A notification to the agent: a hybrid connection to listen at. Azure's guest notification service has no documented
/// protocol, so this is a message on a channel.
#[derive(Clone, Debug)]
pub(crate) struct Notice {
    pub(crate) issued: IssuedCredentials,
    /// The agent does not listen before this moment.
    pub(crate) listen_from: Instant,
}

/// A machine while the emulator runs.
pub(crate) struct MachineState {
    pub(crate) facts: Machine,
    endpoint: Mutex<bool>,
    pub(crate) extensions: Mutex<Extensions>,
    status: Mutex<Option<String>>,
    /// The last status in an answer, and the time of the first answer with it.
    shown: Mutex<(String, u64)>,
    pub(crate) service_configurations: watch::Sender<ServiceConfigurations>,
    pub(crate) online: watch::Sender<bool>,
    notices: mpsc::UnboundedSender<Notice>,
    clock: Clock,
    issued: Mutex<Vec<IssuedCredentials>>,
    /// The loopback port of each machine port that has another one on this host.
    moved: Mutex<BTreeMap<u16, u16>>,
}

impl MachineState {
    /// Returns the state, and the agent's end of the notification channel.
    pub(crate) fn new(facts: Machine, clock: Clock) -> (Self, mpsc::UnboundedReceiver<Notice>) {
        let (notices, receiver) = mpsc::unbounded_channel();
        let state = Self {
            endpoint: Mutex::new(facts.endpoint),
            extensions: Mutex::new(Extensions::new(facts.extensions.clone())),
            status: Mutex::default(),
            shown: Mutex::default(),
            service_configurations: watch::Sender::new(facts.service_configurations.clone()),
            online: watch::Sender::new(facts.online),
            notices,
            clock,
            issued: Mutex::default(),
            moved: Mutex::default(),
            facts,
        };
        (state, receiver)
    }

    pub(crate) fn clock(&self) -> Clock {
        self.clock
    }

    pub(crate) fn resource_id(&self) -> String {
        let Machine { subscription, resource_group, resource_type, name, .. } = &self.facts;
        resource_id(subscription, resource_group, resource_type, name)
    }

    /// Returns whether `name` is the machine's name, `group/name` or full ARM id, compared without case.
    pub(crate) fn has_name(&self, name: &str) -> bool {
        let Machine { resource_group, name: own, .. } = &self.facts;
        is_one_of(&[own.clone(), format!("{resource_group}/{own}"), self.resource_id()], name)
    }

    /// `properties.vmId`, a GUID.
    pub(crate) fn vm_id(&self) -> Option<String> {
        match &self.facts.vm_id {
            VmId::Derived => Some(self.derived_vm_id()),
            VmId::Given(vm_id) => Some(vm_id.clone()),
            VmId::Absent => None,
        }
    }

    fn derived_vm_id(&self) -> String {
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&self.hash().as_ref()[..16]);
        uuid::Builder::from_random_bytes(bytes).into_uuid().to_string()
    }

    fn hash(&self) -> digest::Digest {
        digest::digest(&digest::SHA256, self.resource_id().to_ascii_lowercase().as_bytes())
    }

    /// 64 hexadecimal digits, the same in every run, as in recorded hybrid connection names.
    pub(crate) fn fingerprint(&self) -> String {
        self.hash().as_ref().iter().fold(String::new(), |mut text, byte| {
            write!(text, "{byte:02x}").expect("writing to a String cannot fail");
            text
        })
    }

    /// Whether the default endpoint exists.
    pub(crate) fn endpoint(&self) -> MutexGuard<'_, bool> {
        lock(&self.endpoint)
    }

    /// `Connected` while the agent runs, unless a test set another status. In Azure the status changes later: the
    /// heartbeat comes every five minutes (Microsoft Learn, Azure Arc-enabled servers overview).
    pub(crate) fn status(&self) -> String {
        let usual = if *self.online.borrow() { "Connected" } else { "Disconnected" };
        lock(&self.status).clone().unwrap_or_else(|| usual.to_owned())
    }

    /// The Unix time in seconds of the last change of status that an answer showed.
    pub(crate) fn status_since(&self) -> u64 {
        let (status, mut shown) = (self.status(), lock(&self.shown));
        if shown.0 != status {
            *shown = (status, self.clock.unix_seconds());
        }
        shown.1
    }

    pub(crate) fn set_status(&self, status: &str) {
        *lock(&self.status) = Some(status.to_owned());
    }

    /// Returns the port of a service, whose name is compared without case.
    pub(crate) fn port(&self, service: &str) -> Option<u16> {
        port(&self.service_configurations.borrow(), service)
    }

    pub(crate) fn set_port(&self, service: &str, port: u16) {
        self.service_configurations.send_modify(|all| {
            all.retain(|name, _| !name.eq_ignore_ascii_case(service));
            all.insert(service.to_owned(), port);
        });
    }

    pub(crate) fn remove_port(&self, service: &str) {
        self.service_configurations
            .send_modify(|all| all.retain(|name, _| !name.eq_ignore_ascii_case(service)));
    }

    /// Returns the loopback port that the agent dials for a port of the machine.
    pub(crate) fn loopback_port(&self, port: u16) -> u16 {
        lock(&self.moved).get(&port).copied().unwrap_or(port)
    }

    pub(crate) fn move_port(&self, port: u16, here: u16) {
        lock(&self.moved).insert(port, here);
    }

    /// Records the credentials and notifies the agent, if there is one.
    pub(crate) fn announce(&self, notice: Notice) {
        lock(&self.issued).push(notice.issued.clone());
        let _ = self.notices.send(notice);
    }

    pub(crate) fn issued_credentials(&self) -> Vec<IssuedCredentials> {
        lock(&self.issued).clone()
    }
}

/// Returns the port of a service, whose name is compared without case.
pub(crate) fn port(configurations: &ServiceConfigurations, service: &str) -> Option<u16> {
    configurations.iter().find(|(name, _)| name.eq_ignore_ascii_case(service)).map(|(_, port)| *port)
}

/// Returns a full ARM id.
pub(crate) fn resource_id(subscription: &str, group: &str, resource_type: &str, name: &str) -> String {
    format!("/subscriptions/{subscription}/resourceGroups/{group}/providers/{resource_type}/{name}")
}

/// Returns the member of [`RESOURCE_TYPES`] that equals `resource_type`, compared without case.
pub(crate) fn known_type(resource_type: &str) -> Option<&'static str> {
    RESOURCE_TYPES.into_iter().find(|known| known.eq_ignore_ascii_case(resource_type))
}
