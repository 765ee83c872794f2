//! Azure Resource Manager: the calls of an ssh client for Arc.

pub(crate) mod connectivity;
pub(crate) mod error;
pub(crate) mod extensions;
pub(crate) mod fault;
pub(crate) mod graph;
pub(crate) mod inventory;
pub(crate) mod path;
pub(crate) mod policy;
pub(crate) mod reply;
pub(crate) mod role;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hyper::Method;
use serde_json::{Value, json};

use crate::arm::error::ArmError;
use crate::arm::fault::{ArmCall, ArmFault};
use crate::arm::path::{MachinePath, Scope, Target};
use crate::arm::policy::Policy;
use crate::arm::reply::Reply;
use crate::arm::role::Role;
use crate::clock::Clock;
use crate::encoding::{decode, is_one_of};
use crate::entra::{ARM_AUDIENCES, Bearer, Entra};
use crate::fault_queue::FaultQueue;
use crate::journal::{Journal, Service, lock};
use crate::machine::{MachineState, SUBSCRIPTION};
use crate::relay::Relay;
use crate::server::{Answer, Call, Handler};
use crate::throttle::{Quota, Throttles};
use crate::token::TokenKey;

/// The resource provider of endpoints and service configurations.
pub(crate) const HYBRID_CONNECTIVITY: &str = "Microsoft.HybridConnectivity";

/// Its api-versions (azure-rest-api-specs hybridconnectivity; azure-mgmt-hybridconnectivity 2.0.0).
const CONNECTIVITY_VERSIONS: [&str; 6] = [
    "2021-10-06-preview",
    "2022-05-01-preview",
    "2023-03-15",
    "2024-12-01",
    "2025-12-01-preview",
    "2027-01-01",
];

/// The only version that a source has for the GET of a VMware virtual machine (azure-cli-extensions
/// `target_os_utils.py`).
const VMWARE: &str = "Microsoft.ConnectedVMwarevSphere/virtualMachines";
const VMWARE_VERSION: &str = "2022-07-15-preview";

/// The state of the service.
pub(crate) struct Arm {
    pub(crate) address: SocketAddr,
    pub(crate) entra: Arc<Entra>,
    pub(crate) relay: Arc<Relay>,
    pub(crate) journal: Arc<Journal>,
    pub(crate) machines: Vec<Arc<MachineState>>,
    pub(crate) service_token_key: Arc<TokenKey>,
    pub(crate) clock: Clock,
    /// The limit of `expiresin`.
    pub(crate) credential_lifetime: Option<Duration>,
    /// Whether the relay deletes a hybrid connection when its credentials expire.
    pub(crate) strict_expiry: bool,
    pub(crate) endpoint_delay: Duration,
    pub(crate) listener_delay: Duration,
    /// The limit of the machines of a page.
    pub(crate) page_size: Option<usize>,
    pub(crate) graph_quota: Quota,
    /// The longest response of Resource Graph, in bytes.
    pub(crate) graph_max_response: usize,
    pub(crate) registration: Mutex<Registration>,
    pub(crate) role: Mutex<Role>,
    /// Whether a token needs multi-factor authentication.
    pub(crate) requires_context: Mutex<bool>,
    pub(crate) policy: Policy,
    pub(crate) faults: FaultQueue<ArmFault>,
    pub(crate) throttles: Throttles<ArmCall>,
}

/// Whether the subscription is registered for Microsoft.HybridConnectivity.
pub(crate) struct Registration {
    pub(crate) state: String,
    /// How long a registration takes.
    pub(crate) delay: Duration,
    /// When a pending registration is complete.
    pub(crate) done: Option<Instant>,
}

impl Registration {
    /// Returns the state. A pending registration that is complete becomes `Registered`.
    pub(crate) fn current(&mut self) -> &str {
        if self.done.is_some_and(|done| done <= Instant::now()) {
            self.done = None;
            self.state = "Registered".to_owned();
        }
        &self.state
    }
}

impl Handler for Arm {
    const SERVICE: Service = Service::Arm;

    fn clock(&self) -> Clock {
        self.clock
    }

    async fn answer(self: Arc<Self>, call: Call) -> Answer {
        let target = Target::parse(&decode(&call.path));
        let kind = ArmCall::of(&target);
        if let Some(seconds) = self.throttles.retry_after(|armed| armed.includes(kind)) {
            return error::throttled(seconds).reply().finish();
        }
        if let Some(fault) = self.faults.next(|fault| fault.call.includes(kind)) {
            return fault.reply().await.finish();
        }
        self.route(&call, &target).unwrap_or_else(ArmError::reply).finish()
    }
}

impl Arm {
    fn route(&self, call: &Call, target: &Target) -> Result<Reply, ArmError> {
        let bearer = self.authenticate(call)?;
        let version = call.query.value("api-version").ok_or_else(error::missing_api_version)?;
        if bearer.tenant != self.entra.subscription_tenant {
            return self.answer_other_tenant(target, &bearer);
        }
        self.check_subscription(target)?;
        self.authorize(call, target, &bearer)?;
        self.policy.check(call)?;
        match target {
            Target::AcquirePolicyToken => self.acquire_policy_token(call),
            Target::Subscriptions => self.subscription_list(call),
            Target::Provider(provider) => self.provider(provider),
            Target::Register(provider) => self.register(provider),
            Target::Machines(scope) => self.machine_list(call, scope),
            Target::Resources(scope) => self.resources(call, scope),
            Target::Machine(path) => {
                Ok(Reply::ok(&inventory::machine(&*self.machine_in_version(path, version)?)))
            }
            Target::Extensions(path) => self.extension_list(call, &*self.machine_in_version(path, version)?),
            Target::Extension(path, name) => {
                self.extension(call, path, &*self.machine_in_version(path, version)?, name)
            }
            Target::OperationStatus(_, id) => self.operation_status(call, id),
            Target::Permissions(path) => {
                self.machine(path).map(|_| Reply::ok(&lock(&self.role).permissions()))
            }
            Target::ResourceGraph => Ok(self.within_quota(call)),
            Target::Unknown => Err(error::invalid_path(&call.path)),
            connectivity => self.connectivity(call, connectivity, version),
        }
    }

    /// Answers a call with a token of another tenant: it lists no subscriptions, and the error for a subscription names the
    /// right tenant.
    fn answer_other_tenant(&self, target: &Target, bearer: &Bearer) -> Result<Reply, ArmError> {
        match target {
            Target::Subscriptions => Ok(Reply::ok(&json!({ "value": [] }))),
            Target::ResourceGraph => Err(error::no_valid_subscriptions(&[])),
            _ => {
                let right = self.entra.subscription_tenant;
                Err(error::wrong_issuer(&self.entra.authority, &bearer.tenant, right))
            }
        }
    }

    /// Checks the bearer token. The codes are ARM's; the texts are abridged.
    fn authenticate(&self, call: &Call) -> Result<Bearer, ArmError> {
        let tenant = self.entra.subscription_tenant;
        let invalid = |text| error::unauthorized("InvalidAuthenticationToken", text, tenant);
        let header = call.header("authorization").and_then(|value| value.strip_prefix("Bearer "));
        let token =
            header.ok_or_else(|| invalid("The 'Authorization' header is missing or not a bearer token."))?;
        let bearer = self.entra.bearer(token).ok_or_else(|| invalid("The access token is invalid."))?;
        if !ARM_AUDIENCES.contains(&bearer.audience.trim_end_matches('/')) {
            return Err(error::unauthorized(
                "InvalidAuthenticationTokenAudience",
                "The access token has been obtained for wrong audience or resource.",
                tenant,
            ));
        }
        if bearer.expires <= self.clock.unix_seconds() {
            return Err(error::unauthorized(
                "ExpiredAuthenticationToken",
                "The access token expired.",
                tenant,
            ));
        }
        if *lock(&self.requires_context) && !bearer.has_context {
            return Err(error::insufficient_claims(&self.entra.authority));
        }
        Ok(bearer)
    }

    fn check_subscription(&self, target: &Target) -> Result<(), ArmError> {
        let subscription = match target {
            Target::Provider(path) | Target::Register(path) => &path.subscription,
            Target::Machines(scope) | Target::Resources(scope) => &scope.subscription,
            Target::Machine(path)
            | Target::Extensions(path)
            | Target::Extension(path, _)
            | Target::Permissions(path)
            | Target::Endpoints(path)
            | Target::Endpoint(path)
            | Target::ListCredentials(path)
            | Target::ServiceConfigurations(path)
            | Target::ServiceConfiguration(path, _) => &path.subscription,
            Target::OperationStatus(subscription, _) => subscription,
            Target::Subscriptions | Target::ResourceGraph | Target::AcquirePolicyToken | Target::Unknown => {
                return Ok(());
            }
        };
        let known = is_one_of(&self.subscriptions(), subscription);
        if known { Ok(()) } else { Err(error::subscription_not_found(subscription)) }
    }

    /// Rejects a call that the role does not allow.
    fn authorize(&self, call: &Call, target: &Target, bearer: &Bearer) -> Result<(), ArmError> {
        let Some((action, scope)) = action(&call.method, target) else { return Ok(()) };
        if lock(&self.role).allows(&action) {
            return Ok(());
        }
        Err(error::authorization_failed(&bearer.name, &bearer.object_id, &action, &scope))
    }

    /// Returns the machine at `path`.
    pub(crate) fn machine(&self, path: &MachinePath) -> Result<Arc<MachineState>, ArmError> {
        let found = self.in_group(&path.subscription, &path.resource_group)?.into_iter().find(|machine| {
            let facts = &machine.facts;
            facts.resource_type == path.resource_type && facts.name.eq_ignore_ascii_case(&path.name)
        });
        found.cloned().ok_or_else(|| error::machine_not_found(path))
    }

    /// Returns the machine at `path`, if its type has the api-version `version`.
    fn machine_in_version(&self, path: &MachinePath, version: &str) -> Result<Arc<MachineState>, ArmError> {
        let machine = self.machine(path)?;
        let facts = &machine.facts;
        if facts.resource_type == VMWARE && version != VMWARE_VERSION {
            let kind = "virtualMachines";
            return Err(error::no_registered_provider(&facts.location, version, kind, &[VMWARE_VERSION]));
        }
        Ok(machine)
    }

    /// Returns the machines of a resource group. A resource group without machines does not exist.
    fn in_group(&self, subscription: &str, group: &str) -> Result<Vec<&Arc<MachineState>>, ArmError> {
        let machines = self.machines.iter().filter(|machine| {
            let facts = &machine.facts;
            facts.subscription.eq_ignore_ascii_case(subscription)
                && facts.resource_group.eq_ignore_ascii_case(group)
        });
        let found: Vec<_> = machines.collect();
        if found.is_empty() { Err(error::resource_group_not_found(group)) } else { Ok(found) }
    }

    /// Returns the subscriptions of the tenant: [`SUBSCRIPTION`] and those of machines.
    pub(crate) fn subscriptions(&self) -> Vec<&str> {
        let mut all = vec![SUBSCRIPTION];
        for machine in &self.machines {
            let subscription = machine.facts.subscription.as_str();
            if !is_one_of(&all, subscription) {
                all.push(subscription);
            }
        }
        all
    }

    /// Whether the role may read `machine`.
    pub(crate) fn readable(&self, machine: &MachineState) -> bool {
        lock(&self.role).allows(&read_action(machine.facts.resource_type))
    }
}

/// Returns the permission that a call needs and the scope in the error without it (azure-docs
/// `role-based-access-control/permissions/hybrid-multicloud.md`).
fn action(method: &Method, target: &Target) -> Option<(String, String)> {
    let verb = match *method {
        Method::GET => "read",
        Method::DELETE => "delete",
        _ => "write",
    };
    let connectivity = |kind: &str, path: &MachinePath, rest: &str| {
        let scope = format!("{}/providers/{HYBRID_CONNECTIVITY}/{rest}", path.id());
        Some((format!("{HYBRID_CONNECTIVITY}/{kind}"), scope))
    };
    match target {
        Target::ListCredentials(path) => {
            connectivity("endpoints/listCredentials/action", path, "endpoints/default")
        }
        Target::Endpoints(path) => connectivity(&format!("endpoints/{verb}"), path, "endpoints"),
        Target::Endpoint(path) => connectivity(&format!("endpoints/{verb}"), path, "endpoints/default"),
        Target::ServiceConfigurations(path) => {
            let action = format!("endpoints/serviceConfigurations/{verb}");
            connectivity(&action, path, "endpoints/default/serviceConfigurations")
        }
        Target::ServiceConfiguration(path, service) => {
            let action = format!("endpoints/serviceConfigurations/{verb}");
            connectivity(&action, path, &format!("endpoints/default/serviceConfigurations/{service}"))
        }
        Target::Machine(path) => Some((read_action(path.resource_type), path.id())),
        Target::Extensions(path) => {
            Some((read_action(&format!("{}/extensions", path.resource_type)), path.id()))
        }
        Target::Extension(path, name) => {
            let scope = format!("{}/extensions/{name}", path.id());
            Some((format!("{}/extensions/{verb}", path.resource_type), scope))
        }
        Target::OperationStatus(subscription, _) => {
            let action = "Microsoft.HybridCompute/locations/operationstatus/read";
            Some((action.to_owned(), format!("/subscriptions/{subscription}")))
        }
        Target::Machines(scope) => Some((read_action(scope.resource_type?), scope_id(scope))),
        Target::Register(path) => {
            let scope = format!("/subscriptions/{}", path.subscription);
            Some((format!("{}/register/action", path.namespace), scope))
        }
        // Any permission in the subscription suffices. Lists and Resource Graph contain only resources that the caller may
        // read.
        Target::Provider(_) | Target::Resources(_) | Target::Permissions(_) => None,
        Target::Subscriptions | Target::ResourceGraph | Target::AcquirePolicyToken | Target::Unknown => None,
    }
}

/// Parses the body of a request.
pub(crate) fn json_body(call: &Call) -> Result<Value, ArmError> {
    serde_json::from_slice(&call.body).map_err(|_| error::invalid_content())
}

pub(crate) fn require_method(call: &Call, method: &Method) -> Result<(), ArmError> {
    if call.method == *method { Ok(()) } else { Err(error::method_not_allowed()) }
}

fn read_action(resource_type: &str) -> String {
    format!("{resource_type}/read")
}

fn scope_id(scope: &Scope) -> String {
    let group = scope.resource_group.as_ref().map(|group| format!("/resourceGroups/{group}"));
    format!("/subscriptions/{}{}", scope.subscription, group.unwrap_or_default())
}
