//! What Azure must hold before a machine can be connected to: what is there, what is missing, and how that is made.
//! Nothing that is there is made again: that can throw the machine's agent off the relay.

use std::fmt;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use tokio::time::{Instant, sleep};
use tracing::info;

use crate::azure::arm::{Arm, ArmError};
use crate::azure::hybrid_compute::show;
use crate::azure::hybrid_connectivity::endpoint::{self, Lookup, create_endpoint, is_not_found, set_port};
use crate::azure::hybrid_connectivity::{Service, list_credentials};
use crate::azure::resource_id::ResourceId;
use crate::azure::resource_providers::{self, NAMESPACE, Registration, register};
use crate::terminal::progress::Progress;

/// How long a registration is waited for; 2 to 5 minutes are usual (azure-docs `ssh-arc-overview.md`).
const REGISTRATION: Duration = Duration::from_secs(600);
/// The longest pause between two looks at it.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// How long Azure may go on answering as it was before a change.
const CONSISTENCY_TIMEOUT: Duration = Duration::from_secs(60);
/// The pause between two tries in that time.
const AGAIN: Duration = Duration::from_secs(3);

/// What Azure holds for one service of a machine. Hidden is what is there, and may not be looked at.
#[derive(Clone, Debug)]
pub(crate) struct ServiceState {
    /// How far the provider is; none where that may not be looked at.
    pub(crate) registration: Option<Registration>,
    /// The endpoint.
    pub(crate) endpoint: Lookup<()>,
    /// The port of the service.
    pub(crate) port: Lookup<u16>,
}

/// Looks at what Azure holds.
///
/// # Errors
/// What ARM refuses, rights to look excepted.
pub(crate) async fn inspect(
    arm: &Arm,
    machine: &ResourceId,
    service: Service,
) -> Result<ServiceState, ArmError> {
    let registration = match resource_providers::registration(arm, &machine.subscription).await {
        Err(ArmError::Refused(refusal)) if refusal.is_forbidden() => None,
        registration => Some(registration?),
    };
    if registration.as_ref().is_some_and(|registration| !registration.is_done()) {
        return Ok(ServiceState { registration, endpoint: Lookup::NotFound, port: Lookup::NotFound });
    }
    let (endpoint, port) = match endpoint::endpoint(arm, machine).await {
        Ok(Lookup::NotFound) => (Lookup::NotFound, Lookup::NotFound),
        Err(error) if is_not_found(&error) => nothing_of(arm, machine).await?,
        seen => (seen?, endpoint::port(arm, machine, service).await?),
    };
    if endpoint != Lookup::Forbidden && port != Lookup::Forbidden {
        return Ok(ServiceState { registration, endpoint, port });
    }
    // Whoever may connect learns from the refusal of relay credentials what is not there.
    let (endpoint, port) = match list_credentials(arm, machine, service).await {
        Ok(_) => (endpoint, port),
        Err(error) if endpoint::is_missing(&error) => (Lookup::NotFound, Lookup::NotFound),
        Err(error) if is_not_found(&error) => nothing_of(arm, machine).await?,
        Err(ArmError::Refused(refusal)) if refusal.status == 412 => (endpoint, Lookup::NotFound),
        Err(error) => return Err(error),
    };
    Ok(ServiceState { registration, endpoint, port })
}

/// What there is of a machine where Azure does not say what it has not found: nothing, unless that is the machine.
async fn nothing_of(arm: &Arm, machine: &ResourceId) -> Result<(Lookup<()>, Lookup<u16>), ArmError> {
    match show(arm, machine).await {
        Err(error) if is_not_found(&error) => Err(error),
        _ => Ok((Lookup::NotFound, Lookup::NotFound)),
    }
}

/// What a service is to be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DesiredService {
    /// Which service.
    pub(crate) service: Service,
    /// The port that it is to be reached at, if not any.
    pub(crate) port: Option<u16>,
    /// Whether the port that is enabled now may give way to it.
    pub(crate) replace: bool,
}

impl DesiredService {
    fn port(&self) -> u16 {
        self.port.unwrap_or(self.service.default_port())
    }
}

/// What is to be done for one machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// The machine.
    pub(crate) machine: ResourceId,
    service: Service,
    register: bool,
    create: bool,
    port: Change,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Keep(u16),
    /// One that may not be looked at: perhaps this one.
    Unseen(u16),
    Enable(u16),
    Replace {
        from: Option<u16>,
        to: u16,
    },
}

impl Plan {
    /// What is missing of a wish.
    ///
    /// # Errors
    /// Another port is enabled, and may not give way.
    pub(crate) fn new(
        machine: &ResourceId,
        found: &ServiceState,
        desired: DesiredService,
    ) -> Result<Self, PortTaken> {
        let port = match (found.port, desired.port) {
            (Lookup::NotFound, _) => Change::Enable(desired.port()),
            (Lookup::Forbidden, Some(to)) if desired.replace => Change::Replace { from: None, to },
            (Lookup::Forbidden, _) => Change::Unseen(desired.port()),
            (Lookup::Found(from), Some(to)) if from != to && !desired.replace => {
                return Err(PortTaken { service: desired.service, from, to });
            }
            (Lookup::Found(from), Some(to)) if from != to => Change::Replace { from: Some(from), to },
            (Lookup::Found(port), _) => Change::Keep(port),
        };
        Ok(Self {
            machine: machine.clone(),
            service: desired.service,
            register: found.registration.as_ref().is_some_and(|registration| !registration.is_done()),
            create: found.endpoint == Lookup::NotFound,
            port,
        })
    }

    /// The port that will be reached.
    pub(crate) fn port(&self) -> u16 {
        match self.port {
            Change::Keep(port) | Change::Unseen(port) | Change::Enable(port) => port,
            Change::Replace { to, .. } => to,
        }
    }

    /// The subscription whose provider must be registered first.
    pub(crate) fn registers(&self) -> Option<&str> {
        self.register.then_some(self.machine.subscription.as_str())
    }

    /// Whether something is to be changed.
    pub(crate) fn changes(&self) -> bool {
        self.register || self.create || !matches!(self.port, Change::Keep(_) | Change::Unseen(_))
    }
}

/// As it is told to the user before and after.
impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let service = self.service;
        let endpoint = if self.create { "create its endpoint, " } else { "" };
        match self.port {
            Change::Keep(port) if self.create => {
                write!(f, "create its endpoint; {service} keeps port {port}")
            }
            Change::Keep(port) => write!(f, "{service} is enabled on port {port}; nothing to change"),
            Change::Unseen(port) => write!(
                f,
                "{service} is enabled, on port {port} or another: this role may not read which; nothing to change"
            ),
            Change::Enable(port) => write!(f, "{endpoint}enable {service} on port {port}"),
            Change::Replace { from: None, to } => write!(
                f,
                "move {service} to port {to}, from one that this role may not read: whoever connects to this machine by that can no longer"
            ),
            Change::Replace { from: Some(from), to } => write!(
                f,
                "{endpoint}move {service} from port {from} to {to}: whoever connects to this machine by port {from} can no longer"
            ),
        }
    }
}

/// One port of a machine can be reached, and it is another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{service} is enabled on port {from}; a machine has one port for it, and moving it to {to} takes it from everybody who connects by {from}"
)]
pub(crate) struct PortTaken {
    service: Service,
    /// The port that is enabled.
    pub(crate) from: u16,
    /// The port that was asked for.
    pub(crate) to: u16,
}

/// Registers the provider in a subscription, and waits until it is.
///
/// # Errors
/// What ARM refuses; it took longer than [`REGISTRATION`].
pub(crate) async fn registered(arm: &Arm, subscription: &str, waiting: &Progress) -> Result<()> {
    let start = Instant::now();
    let mut registration = register(arm, subscription).await?;
    let mut pause = Duration::from_secs(1);
    while !registration.is_done() {
        let state = &registration.state;
        ensure!(
            start.elapsed() < REGISTRATION,
            NotRegistered { state: state.clone(), subscription: subscription.into() }
        );
        let object = format!(
            "registration of {NAMESPACE} in the subscription {subscription} ({state}), which takes 2 to 5 minutes as a rule"
        );
        let left = REGISTRATION.saturating_sub(start.elapsed());
        waiting.set_deadline(object, left);
        sleep(registration.retry_after.unwrap_or(pause).min(left)).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
        registration = resource_providers::registration(arm, subscription).await?;
    }
    Ok(())
}

/// A registration that takes too long.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{NAMESPACE} is still {state} in the subscription {subscription} after {} minutes", REGISTRATION.as_secs() / 60)]
pub(crate) struct NotRegistered {
    state: String,
    subscription: String,
}

/// Makes what a plan says, and reads it back.
///
/// # Errors
/// What ARM refuses, and goes on refusing for [`CONSISTENCY_TIMEOUT`] where it may not have heard of a registration yet.
pub(crate) async fn apply(arm: &Arm, plan: &Plan) -> Result<()> {
    let (machine, service) = (&plan.machine, plan.service);
    if plan.create {
        retry_until_consistent(async || Ok(create_endpoint(arm, machine).await?)).await?;
        retry_until_consistent(async || match endpoint::endpoint(arm, machine).await? {
            Lookup::NotFound => bail!(NotShown),
            _ => Ok(()),
        })
        .await?;
    }
    if let Change::Enable(port) | Change::Replace { to: port, .. } = plan.port {
        retry_until_consistent(async || Ok(set_port(arm, machine, service, port).await?)).await?;
        retry_until_consistent(async || match endpoint::port(arm, machine, service).await? {
            Lookup::Found(other) if other != port => bail!(NotShown),
            Lookup::NotFound => bail!(NotShown),
            _ => Ok(()),
        })
        .await?;
    }
    Ok(())
}

/// Azure has accepted a change, and goes on showing what was before.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("Azure accepted the change, and does not show it")]
pub(crate) struct NotShown;

/// Tries until Azure has heard of what was changed a moment ago.
///
/// # Errors
/// The last one.
pub(crate) async fn retry_until_consistent<T>(work: impl AsyncFn() -> Result<T>) -> Result<T> {
    let end = Instant::now() + CONSISTENCY_TIMEOUT;
    loop {
        match work().await {
            Err(error) if is_inconsistent(&error) && Instant::now() < end => info!("{error}; trying again"),
            result => return result,
        }
        sleep(AGAIN).await;
    }
}

/// Whether Azure answers as if a change that it accepted had not been made.
fn is_inconsistent(error: &anyhow::Error) -> bool {
    const NOT_REGISTERED: [&str; 2] = ["NoRegisteredProviderFound", "MissingSubscriptionRegistration"];
    error.is::<NotShown>()
        || error.downcast_ref::<ArmError>().is_some_and(|error| match error {
            ArmError::Refused(refusal) => {
                matches!(refusal.status, 404 | 412) || NOT_REGISTERED.contains(&refusal.code.as_str())
            }
            _ => false,
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "/subscriptions/s/resourceGroups/g/providers/Microsoft.HybridCompute/machines/web01";

    fn plan(
        state: &str,
        endpoint: Lookup<()>,
        port: Lookup<u16>,
        desired: DesiredService,
    ) -> Result<Plan, PortTaken> {
        let registration = Registration { state: state.into(), retry_after: None, date: None };
        let found = ServiceState { registration: Some(registration), endpoint, port };
        Plan::new(&ID.parse().unwrap(), &found, desired)
    }

    fn desired(port: Option<u16>, replace: bool) -> DesiredService {
        DesiredService { service: Service::Ssh, port, replace }
    }

    #[test]
    fn what_is_missing_is_made_and_nothing_else() {
        let there = Lookup::Found(());
        let cases = [
            (
                "Registered",
                Lookup::NotFound,
                Lookup::NotFound,
                None,
                22,
                "create its endpoint, enable SSH on port 22",
            ),
            ("Registered", there, Lookup::NotFound, Some(2222), 2222, "enable SSH on port 2222"),
            (
                "registered",
                there,
                Lookup::Found(2222),
                None,
                2222,
                "SSH is enabled on port 2222; nothing to change",
            ),
            (
                "Registered",
                there,
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
                "SSH is enabled, on port 24 or another: this role may not read which; nothing to change",
            ),
            (
                "Registering",
                Lookup::NotFound,
                Lookup::NotFound,
                None,
                22,
                "create its endpoint, enable SSH on port 22",
            ),
        ];
        for (state, endpoint, found, wanted, port, words) in cases {
            let plan = plan(state, endpoint, found, desired(wanted, false)).unwrap();
            assert_eq!((plan.to_string().as_str(), plan.port()), (words, port));
            assert_eq!(plan.changes(), !words.contains("nothing"), "{words}");
            assert_eq!(plan.registers(), (state == "Registering").then_some("s"));
        }
    }

    #[test]
    fn a_port_gives_way_only_where_that_was_said() {
        let there = |desired| plan("Registered", Lookup::Found(()), Lookup::Found(22), desired);
        let taken = there(desired(Some(2222), false)).unwrap_err();
        assert_eq!((taken.from, taken.to), (22, 2222));
        let hidden = |desired| plan("Registered", Lookup::Forbidden, Lookup::Forbidden, desired).unwrap();
        assert!(hidden(desired(Some(2222), true)).changes() && !hidden(desired(None, true)).changes());
        let plan = there(desired(Some(2222), true)).unwrap();
        assert!(plan.changes() && plan.port() == 2222);
        assert!(plan.to_string().starts_with("move SSH from port 22 to 2222: "), "{plan}");
    }
}
