//! The Azure resources that a connection requires: inspects them, plans the missing ones and creates them. A resource
//! that exists is never created again, because that can disconnect the machine's agent from the relay. `extension` contains
//! the extensions of a machine.

pub(crate) mod extension;

use std::fmt;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tracing::info;

use crate::azure::arm::{Arm, ArmError};
use crate::azure::credentials::Caller;
use crate::azure::hybrid_compute::show;
use crate::azure::hybrid_connectivity::endpoint::{self, Lookup, create_endpoint, is_not_found, set_port};
use crate::azure::hybrid_connectivity::{Service, list_credentials};
use crate::azure::rbac::{CREATE_ENDPOINT, Permissions, REGISTER, SET_PORT};
use crate::azure::resource_id::ResourceId;
use crate::azure::resource_providers::{self, NAMESPACE, Registration, register};
use crate::provisioning::extension::ExtensionError;

/// The limit for a registration, which usually takes 2 to 5 minutes (azure-docs `ssh-arc-overview.md`).
const REGISTRATION_TIMEOUT: Duration = Duration::from_secs(600);
/// The longest pause between two requests for the state of a registration.
const MAX_PAUSE: Duration = Duration::from_secs(10);
/// How long Azure can return the state before a change.
const CONSISTENCY_TIMEOUT: Duration = Duration::from_secs(60);
/// The pause between two attempts in that time.
const RETRY_PAUSE: Duration = Duration::from_secs(3);

/// The Azure resources for one service of a machine.
#[derive(Clone, Debug)]
pub(crate) struct ServiceState {
    /// The registration of the resource provider; `None` if the account has no permission to read it.
    pub(crate) registration: Option<Registration>,
    pub(crate) endpoint: Lookup<()>,
    /// The port of the service.
    pub(crate) port: Lookup<u16>,
}

/// Reads the Azure resources for a service of a machine.
///
/// # Errors
/// Azure Resource Manager rejects a request, except for a missing permission to read.
pub(crate) async fn inspect(
    arm: &Arm,
    machine: &ResourceId,
    service: Service,
) -> Result<ServiceState, ArmError> {
    let registration = match resource_providers::registration(arm, &machine.subscription).await {
        Err(ArmError::Rejected(response)) if response.is_forbidden() => None,
        registration => Some(registration?),
    };
    if registration.as_ref().is_some_and(|registration| !registration.is_done()) {
        return Ok(ServiceState { registration, endpoint: Lookup::NotFound, port: Lookup::NotFound });
    }
    let (endpoint, port) = match endpoint::endpoint(arm, machine).await {
        Ok(Lookup::NotFound) => (Lookup::NotFound, Lookup::NotFound),
        Err(error) if is_not_found(&error) => ensure_machine_exists(arm, machine).await?,
        endpoint => (endpoint?, endpoint::port(arm, machine, service).await?),
    };
    if endpoint != Lookup::Forbidden && port != Lookup::Forbidden {
        return Ok(ServiceState { registration, endpoint, port });
    }
    // An account without permission to read can still connect: the error of listCredentials names the missing resource.
    let (endpoint, port) = match list_credentials(arm, machine, service).await {
        Ok(_) => (endpoint, port),
        Err(error) if endpoint::is_missing(&error) => (Lookup::NotFound, Lookup::NotFound),
        Err(error) if is_not_found(&error) => ensure_machine_exists(arm, machine).await?,
        Err(ArmError::Rejected(response)) if response.status == 412 => (endpoint, Lookup::NotFound),
        Err(error) => return Err(error),
    };
    Ok(ServiceState { registration, endpoint, port })
}

/// Returns that endpoint and port are missing if the machine exists. Azure's 404 does not say which of them is missing.
async fn ensure_machine_exists(
    arm: &Arm,
    machine: &ResourceId,
) -> Result<(Lookup<()>, Lookup<u16>), ArmError> {
    match show(arm, machine).await {
        Err(error) if is_not_found(&error) => Err(error),
        _ => Ok((Lookup::NotFound, Lookup::NotFound)),
    }
}

/// The configuration that a service must have.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DesiredService {
    pub(crate) service: Service,
    /// The port, or `None` for the enabled port.
    pub(crate) port: Option<u16>,
    /// Whether to replace another enabled port.
    pub(crate) replace: bool,
}

impl DesiredService {
    /// Returns the port that arcssh enables if none is enabled.
    pub(crate) fn port(&self) -> u16 {
        self.port.unwrap_or(self.service.default_port())
    }
}

/// The changes for one machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) machine: ResourceId,
    service: Service,
    register: bool,
    create: bool,
    port: Change,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Keep(u16),
    /// A port is enabled that the account has no permission to read; this one is expected.
    Unreadable(u16),
    Enable(u16),
    Replace {
        from: Option<u16>,
        to: u16,
    },
}

impl Plan {
    /// Plans the changes from the current to the desired state.
    ///
    /// # Errors
    /// Another port is enabled, and `desired` does not replace it.
    pub(crate) fn new(
        machine: &ResourceId,
        state: &ServiceState,
        desired: DesiredService,
    ) -> Result<Self, ProvisionError> {
        let port = match (state.port, desired.port) {
            (Lookup::NotFound, _) => Change::Enable(desired.port()),
            (Lookup::Forbidden, Some(to)) if desired.replace => Change::Replace { from: None, to },
            (Lookup::Forbidden, _) => Change::Unreadable(desired.port()),
            (Lookup::Found(from), Some(to)) if from != to && !desired.replace => {
                return Err(ProvisionError::PortTaken { service: desired.service, from, to });
            }
            (Lookup::Found(from), Some(to)) if from != to => Change::Replace { from: Some(from), to },
            (Lookup::Found(port), _) => Change::Keep(port),
        };
        Ok(Self {
            machine: machine.clone(),
            service: desired.service,
            register: state.registration.as_ref().is_some_and(|registration| !registration.is_done()),
            create: state.endpoint == Lookup::NotFound,
            port,
        })
    }

    /// Returns the port after the changes.
    pub(crate) fn port(&self) -> u16 {
        match self.port {
            Change::Keep(port) | Change::Unreadable(port) | Change::Enable(port) => port,
            Change::Replace { to, .. } => to,
        }
    }

    /// Returns the subscription in which the resource provider must be registered first.
    pub(crate) fn registers(&self) -> Option<&str> {
        self.register.then_some(self.machine.subscription.as_str())
    }

    /// Returns the permissions that the changes require.
    pub(crate) fn actions(&self) -> Vec<&'static str> {
        let sets_port = matches!(self.port, Change::Enable(_) | Change::Replace { .. });
        let actions = [(self.register, REGISTER), (self.create, CREATE_ENDPOINT), (sets_port, SET_PORT)];
        actions.into_iter().filter(|(is_required, _)| *is_required).map(|(_, action)| action).collect()
    }

    pub(crate) fn changes(&self) -> bool {
        self.register || self.create || !matches!(self.port, Change::Keep(_) | Change::Unreadable(_))
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let service = self.service;
        let endpoint = if self.create { "create the endpoint, " } else { "" };
        match self.port {
            Change::Keep(port) if self.create => {
                write!(f, "create the endpoint; {service} stays on port {port}")
            }
            Change::Keep(port) => write!(f, "{service} is enabled on port {port}; nothing to change"),
            Change::Unreadable(port) => write!(
                f,
                "{service} is enabled, but your role cannot read whether its port is {port}; nothing to change"
            ),
            Change::Enable(port) => write!(f, "{endpoint}enable {service} on port {port}"),
            Change::Replace { from: None, to } => write!(
                f,
                "move {service} to port {to}; your role cannot read the current port, and its users lose access"
            ),
            Change::Replace { from: Some(from), to } => write!(
                f,
                "{endpoint}move {service} from port {from} to {to}; users of port {from} lose access"
            ),
        }
    }
}

/// Why a service is not enabled.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProvisionError {
    /// A request failed.
    #[error(transparent)]
    Arm(#[from] ArmError),
    /// The service is enabled on another port.
    #[error("{service} is already enabled on port {from}; a change to port {to} would disconnect its users")]
    PortTaken {
        service: Service,
        /// The enabled port.
        from: u16,
        /// The requested port.
        to: u16,
    },
    /// The registration takes longer than [`REGISTRATION_TIMEOUT`].
    #[error("{NAMESPACE} is still {state} in the subscription {subscription} after {} minutes", REGISTRATION_TIMEOUT.as_secs() / 60)]
    NotRegistered {
        /// The state of the registration.
        state: String,
        subscription: String,
    },
    /// The account lacks a permission for a change.
    #[error("{caller} lacks the permission {action}")]
    NotPermitted {
        caller: Box<Caller>,
        /// The object ID of the account.
        object_id: String,
        action: &'static str,
    },
    /// An extension is not installed.
    #[error(transparent)]
    Extension(#[from] ExtensionError),
    /// Azure shows the state before the change for longer than [`CONSISTENCY_TIMEOUT`].
    #[error("Azure accepted the change, but does not show it yet")]
    NotVisible,
}

/// Checks that the account may change a machine. A permission on the subscription is also one on the machine. If the
/// account cannot read its permissions, Azure decides when the change is made.
///
/// # Errors
/// [`ProvisionError::NotPermitted`] for the first action that is not allowed.
pub(crate) async fn check_permissions(
    arm: &Arm,
    machine: &ResourceId,
    actions: &[&'static str],
) -> Result<(), ProvisionError> {
    let Ok(permissions) = Permissions::on(arm, machine).await else { return Ok(()) };
    let Some(action) = actions.iter().find(|action| !permissions.allow(action)) else { return Ok(()) };
    let (caller, object_id) = arm.caller().await?;
    Err(ProvisionError::NotPermitted { caller: Box::new(caller), object_id, action })
}

/// Registers the resource provider in a subscription and waits until it is registered. Calls `on_wait` before each
/// pause, with the state of the registration and the time until the limit.
///
/// # Errors
/// Azure Resource Manager rejects a request; the registration takes longer than [`REGISTRATION_TIMEOUT`].
pub(crate) async fn wait_until_registered(
    arm: &Arm,
    subscription: &str,
    on_wait: impl Fn(&str, Duration),
) -> Result<(), ProvisionError> {
    let start = Instant::now();
    let mut registration = register(arm, subscription).await?;
    let mut pause = Duration::from_secs(1);
    while !registration.is_done() {
        let state = &registration.state;
        if start.elapsed() >= REGISTRATION_TIMEOUT {
            let (state, subscription) = (state.clone(), subscription.to_owned());
            return Err(ProvisionError::NotRegistered { state, subscription });
        }
        let left = REGISTRATION_TIMEOUT.saturating_sub(start.elapsed());
        on_wait(state, left);
        sleep(registration.retry_after.unwrap_or(pause).min(left)).await;
        pause = (pause * 2).min(MAX_PAUSE);
        registration = resource_providers::registration(arm, subscription).await?;
    }
    Ok(())
}

/// Applies a plan and verifies the result.
///
/// # Errors
/// Azure Resource Manager rejects a request, or shows the old state for longer than [`CONSISTENCY_TIMEOUT`].
pub(crate) async fn apply(arm: &Arm, plan: &Plan) -> Result<(), ProvisionError> {
    let machine = &plan.machine;
    let service = plan.service;
    if plan.create {
        retry_until_consistent(async || create_endpoint(arm, machine).await, is_stale).await?;
        let is_visible = async || match endpoint::endpoint(arm, machine).await? {
            Lookup::NotFound => Err(ProvisionError::NotVisible),
            _ => Ok(()),
        };
        retry_until_consistent(is_visible, is_not_visible).await?;
    }
    if let Change::Enable(port) | Change::Replace { to: port, .. } = plan.port {
        retry_until_consistent(async || set_port(arm, machine, service, port).await, is_stale).await?;
        let is_visible = async || match endpoint::port(arm, machine, service).await? {
            Lookup::Found(other) if other != port => Err(ProvisionError::NotVisible),
            Lookup::NotFound => Err(ProvisionError::NotVisible),
            _ => Ok(()),
        };
        retry_until_consistent(is_visible, is_not_visible).await?;
    }
    Ok(())
}

/// Retries while Azure returns the state before a recent change, for up to [`CONSISTENCY_TIMEOUT`].
///
/// # Errors
/// The error of the last attempt.
pub(crate) async fn retry_until_consistent<T, E: fmt::Display>(
    work: impl AsyncFn() -> Result<T, E>,
    is_stale: impl Fn(&E) -> bool,
) -> Result<T, E> {
    let deadline = Instant::now() + CONSISTENCY_TIMEOUT;
    loop {
        match work().await {
            Err(error) if is_stale(&error) && Instant::now() < deadline => info!("{error}; retrying"),
            result => return result,
        }
        sleep(RETRY_PAUSE).await;
    }
}

/// Returns whether an error of ARM can be due to the state before a change that Azure has accepted.
pub(crate) fn is_stale(error: &ArmError) -> bool {
    const NOT_REGISTERED: [&str; 2] = ["NoRegisteredProviderFound", "MissingSubscriptionRegistration"];
    match error {
        ArmError::Rejected(response) => {
            matches!(response.status, 404 | 412) || NOT_REGISTERED.contains(&&*response.code)
        }
        _ => false,
    }
}

fn is_not_visible(error: &ProvisionError) -> bool {
    match error {
        ProvisionError::Arm(error) => is_stale(error),
        error => matches!(error, ProvisionError::NotVisible),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "/subscriptions/s/resourceGroups/g/providers/Microsoft.HybridCompute/machines/web01";

    fn plan(
        registration: &str,
        endpoint: Lookup<()>,
        port: Lookup<u16>,
        desired: DesiredService,
    ) -> Result<Plan, ProvisionError> {
        let registration = Registration { state: registration.into(), retry_after: None, date: None };
        let state = ServiceState { registration: Some(registration), endpoint, port };
        Plan::new(&ID.parse().unwrap(), &state, desired)
    }

    fn desired(port: Option<u16>, replace: bool) -> DesiredService {
        DesiredService { service: Service::Ssh, port, replace }
    }

    #[test]
    fn only_missing_resources_are_planned() {
        let exists = Lookup::Found(());
        let cases = [
            (
                "Registered",
                Lookup::NotFound,
                Lookup::NotFound,
                None,
                22,
                "create the endpoint, enable SSH on port 22",
            ),
            ("Registered", exists, Lookup::NotFound, Some(2222), 2222, "enable SSH on port 2222"),
            (
                "registered",
                exists,
                Lookup::Found(2222),
                None,
                2222,
                "SSH is enabled on port 2222; nothing to change",
            ),
            (
                "Registered",
                exists,
                Lookup::Found(22),
                Some(22),
                22,
                "SSH is enabled on port 22; nothing to change",
            ),
            (
                "Registered",
                Lookup::Forbidden,
                Lookup::Forbidden,
                Some(24),
                24,
                "SSH is enabled, but your role cannot read whether its port is 24; nothing to change",
            ),
            (
                "Registering",
                Lookup::NotFound,
                Lookup::NotFound,
                None,
                22,
                "create the endpoint, enable SSH on port 22",
            ),
        ];
        for (registration, endpoint, current, requested, port, text) in cases {
            let plan = plan(registration, endpoint, current, desired(requested, false)).unwrap();
            assert_eq!((plan.to_string().as_str(), plan.port()), (text, port));
            assert_eq!(plan.changes(), !text.contains("nothing"), "{text}");
            assert_eq!(plan.registers(), (registration == "Registering").then_some("s"));
        }
    }

    #[test]
    fn a_port_is_replaced_only_on_request() {
        let enabled = |desired| plan("Registered", Lookup::Found(()), Lookup::Found(22), desired);
        let taken = enabled(desired(Some(2222), false)).unwrap_err();
        assert!(matches!(taken, ProvisionError::PortTaken { from: 22, to: 2222, .. }), "{taken}");
        let unreadable = |desired| plan("Registered", Lookup::Forbidden, Lookup::Forbidden, desired).unwrap();
        assert!(unreadable(desired(Some(2222), true)).changes());
        assert!(!unreadable(desired(None, true)).changes());
        let plan = enabled(desired(Some(2222), true)).unwrap();
        assert!(plan.changes() && plan.port() == 2222);
        assert!(plan.to_string().starts_with("move SSH from port 22 to 2222; "), "{plan}");
    }
}
