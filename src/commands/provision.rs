//! The story of setting machines up: shown, agreed to, made, and waited for.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result};
use futures_util::{StreamExt, stream};
use tokio::time::Instant;

use crate::azure::arm::Arm;
use crate::azure::relay_credential_cache::{RelayCredentialCache, forget};
use crate::azure::resource_id::ResourceId;
use crate::azure::resource_providers::NAMESPACE;
use crate::azure::target::Target;
use crate::diagnosis::last_error;
use crate::net::Net;
use crate::provisioning::{DesiredService, Plan, apply, inspect, registered, retry_until_consistent};
use crate::relay::connector::Connector;
use crate::state::Store;
use crate::terminal::output::note;
use crate::terminal::progress::Progress;
use crate::terminal::prompt::Confirm;

/// What is done, with what it needs.
pub(crate) struct Provisioner<'a> {
    /// The way out.
    pub(crate) net: &'a Net,
    /// What is kept.
    pub(crate) store: &'a Store,
    /// Where it is done.
    pub(crate) arm: &'a Arm,
    /// What is wanted of every machine.
    pub(crate) desired: DesiredService,
    /// Machines at a time.
    pub(crate) jobs: usize,
    /// How long an agent is waited for.
    pub(crate) wait: Duration,
}

/// How far to go.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Mode {
    /// What would change is shown, and nothing is changed.
    DryRun,
    /// It is changed, once the user agrees.
    Apply(Confirm),
}

/// What has come of it.
pub(crate) struct Report {
    /// Whether something was lacking.
    pub(crate) changes: bool,
    /// What can be connected to now; under [`SettingUp`] why something cannot.
    pub(crate) results: Vec<Result<Target>>,
}

impl Provisioner<'_> {
    /// Shows what the machines lack, and makes it where that is agreed to.
    pub(crate) async fn run(&self, machines: Vec<ResourceId>, go: Mode) -> Report {
        let (plans, mut results) = self.plans(machines).await;
        let changes = show(&plans);
        let agreed = async |consent: Confirm| match changes {
            true => consent.to("make these changes for everybody who connects to these machines?").await,
            false => Ok(()),
        };
        match go {
            Mode::DryRun => {}
            Mode::Apply(consent) => match agreed(consent).await {
                Ok(()) => results.extend(self.apply_all(plans).await),
                Err(not_agreed) => results.push(Err(not_agreed)),
            },
        }
        Report { changes, results }
    }

    /// What the machines lack; and why of some it is not known.
    async fn plans(&self, machines: Vec<ResourceId>) -> (Vec<Plan>, Vec<Result<Target>>) {
        let waiting = Progress::default();
        waiting.set("state of the machines from Azure Resource Manager".into());
        let port = self.desired.port.unwrap_or(self.desired.service.default_port());
        let plans = stream::iter(machines).map(async |machine| {
            self.plan(&machine).await.with_context(|| self.target(&machine, port)).context(SettingUp)
        });
        let plans: Vec<Result<Plan>> = waiting.run(plans.buffered(self.jobs).collect()).await;
        let (mut good, mut bad) = (Vec::new(), Vec::new());
        for plan in plans {
            match plan {
                Ok(plan) => good.push(plan),
                Err(error) => bad.push(Err(error)),
            }
        }
        (good, bad)
    }

    async fn plan(&self, machine: &ResourceId) -> Result<Plan> {
        let found = inspect(self.arm, machine, self.desired.service).await?;
        Ok(Plan::new(machine, &found, self.desired)?)
    }

    fn target(&self, machine: &ResourceId, port: u16) -> Target {
        Target {
            machine: Some(machine.clone()),
            name: machine.name.clone(),
            port,
            service: self.desired.service,
        }
    }

    /// Registers first, for that is done once a subscription; then all machines of those where it is done.
    async fn apply_all(&self, plans: Vec<Plan>) -> Vec<Result<Target>> {
        let mut results = Vec::new();
        let mut subscriptions: BTreeSet<&str> = plans.iter().filter_map(Plan::registers).collect();
        for subscription in subscriptions.clone() {
            if let Err(error) = self.register(subscription).await {
                results.push(Err(error.context(SettingUp)));
                subscriptions.remove(subscription);
            }
        }
        let can_be_done =
            |plan: &&Plan| plan.registers().is_none_or(|subscription| subscriptions.contains(subscription));
        let waiting = Progress::default();
        let work = stream::iter(plans.iter().filter(can_be_done))
            .map(async |plan| self.apply_one(plan, &waiting).await);
        results.extend(waiting.run(work.buffer_unordered(self.jobs).collect::<Vec<_>>()).await);
        results
    }

    async fn register(&self, subscription: &str) -> Result<()> {
        note(&format!(
            "registering {NAMESPACE} in the subscription {subscription}; 2 to 5 minutes are usual"
        ));
        let (start, waiting) = (Instant::now(), Progress::default());
        waiting.run(registered(self.arm, subscription, &waiting)).await?;
        note(&format!(
            "{NAMESPACE} is registered after {} s; where an agent does not listen now, restart it on its machine",
            start.elapsed().as_secs()
        ));
        Ok(())
    }

    async fn apply_one(&self, plan: &Plan, waiting: &Progress) -> Result<Target> {
        let target = self.target(&plan.machine, plan.port());
        let done = async {
            // What a provider that was not registered holds is known only now.
            let plan = if plan.registers().is_some() { &self.plan(&plan.machine).await? } else { plan };
            waiting.set(format!("changes to {target} in Azure Resource Manager"));
            apply(self.arm, plan).await?;
            self.reach(plan, waiting).await
        };
        match done.await {
            Ok(()) => Ok(target),
            Err(error) => Err(error.context(target).context(SettingUp)),
        }
    }

    /// Waits until the relay answers, and keeps what it answered to for the first connection.
    async fn reach(&self, plan: &Plan, waiting: &Progress) -> Result<()> {
        let (start, target) = (Instant::now(), self.target(&plan.machine, plan.port()));
        if plan.changes() {
            waiting.println(&format!(
                "{target}: done in Azure; its agent hears of it within 30 to 90 s as a rule"
            ));
        }
        let credentials =
            RelayCredentialCache::new(self.arm, self.store, &plan.machine, self.desired.service, target.port);
        let connector = Connector { net: self.net, target: &target, wait: self.wait, waiting };
        retry_until_consistent(async || {
            forget(self.arm, self.store, &plan.machine);
            connector.connect(&credentials).await
        })
        .await?;
        last_error::forget(self.store, &target);
        waiting.println(&format!(
            "{target}: ready to connect to, its agent answered within {} s",
            start.elapsed().as_secs()
        ));
        Ok(())
    }
}

/// Shows the plans; whether something is to be changed.
fn show(plans: &[Plan]) -> bool {
    let subscriptions: BTreeSet<&str> = plans.iter().filter_map(Plan::registers).collect();
    for subscription in subscriptions {
        note(&format!("subscription {subscription}: register {NAMESPACE}"));
    }
    for plan in plans {
        note(&format!("{} in {}: {plan}", plan.machine.name, plan.machine.resource_group));
    }
    plans.iter().any(Plan::changes)
}

/// What was under way when something went wrong.
#[derive(Debug, thiserror::Error)]
#[error("cannot set up")]
pub(crate) struct SettingUp;
