//! The story of setting machines up: shown, agreed to, made, and waited for.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result};
use futures_util::{StreamExt, stream};
use tokio::time::Instant;

use crate::azure::arm::Arm;
use crate::azure::relay_credential_cache::{Credentials, forget};
use crate::azure::resource_id::ResourceId;
use crate::azure::resource_providers::NAMESPACE;
use crate::connector::{Goal, Way};
use crate::diagnosis::last_error;
use crate::net::Net;
use crate::provisioning::{Plan, Wish, look, make, patiently, registered};
use crate::state::Store;
use crate::terminal::output::warn;
use crate::terminal::progress::Waiting;
use crate::terminal::prompt::Consent;

/// What is done, with what it needs.
pub(crate) struct Work<'a> {
    /// The way out.
    pub(crate) net: &'a Net,
    /// What is kept.
    pub(crate) store: &'a Store,
    /// Where it is done.
    pub(crate) arm: &'a Arm,
    /// What is wanted of every machine.
    pub(crate) wish: Wish,
    /// Machines at a time.
    pub(crate) jobs: usize,
    /// How long an agent is waited for.
    pub(crate) wait: Duration,
}

/// How far to go.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Go {
    /// What would change is shown, and nothing is changed.
    NotAtAll,
    /// It is changed, once the user agrees.
    With(Consent),
}

/// What has come of it.
pub(crate) struct Done {
    /// Whether something was lacking.
    pub(crate) changes: bool,
    /// What can be connected to now; under [`SettingUp`] why something cannot.
    pub(crate) results: Vec<Result<Goal>>,
}

impl Work<'_> {
    /// Shows what the machines lack, and makes it where that is agreed to.
    pub(crate) async fn run(&self, machines: Vec<ResourceId>, go: Go) -> Done {
        let (plans, mut results) = self.plans(machines).await;
        let changes = show(&plans);
        let agreed = async |consent: Consent| match changes {
            true => consent.to("make these changes for everybody who connects to these machines?").await,
            false => Ok(()),
        };
        match go {
            Go::NotAtAll => {}
            Go::With(consent) => match agreed(consent).await {
                Ok(()) => results.extend(self.carry_out(plans).await),
                Err(not_agreed) => results.push(Err(not_agreed)),
            },
        }
        Done { changes, results }
    }

    /// What the machines lack; and why of some it is not known.
    async fn plans(&self, machines: Vec<ResourceId>) -> (Vec<Plan>, Vec<Result<Goal>>) {
        let waiting = Waiting::default();
        waiting.for_the("state of the machines from Azure Resource Manager".into());
        let port = self.wish.port.unwrap_or(self.wish.service.default_port());
        let plans = stream::iter(machines).map(async |machine| {
            self.plan(&machine).await.with_context(|| self.goal(&machine, port)).context(SettingUp)
        });
        let plans: Vec<Result<Plan>> = waiting.during(plans.buffered(self.jobs).collect()).await;
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
        let found = look(self.arm, machine, self.wish.service).await?;
        Ok(Plan::new(machine, &found, self.wish)?)
    }

    fn goal(&self, machine: &ResourceId, port: u16) -> Goal {
        Goal { machine: Some(machine.clone()), name: machine.name.clone(), port, service: self.wish.service }
    }

    /// Registers first, for that is done once a subscription; then all machines of those where it is done.
    async fn carry_out(&self, plans: Vec<Plan>) -> Vec<Result<Goal>> {
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
        let waiting = Waiting::default();
        let work = stream::iter(plans.iter().filter(can_be_done))
            .map(async |plan| self.carry_out_one(plan, &waiting).await);
        results.extend(waiting.during(work.buffer_unordered(self.jobs).collect::<Vec<_>>()).await);
        results
    }

    async fn register(&self, subscription: &str) -> Result<()> {
        warn(&format!(
            "registering {NAMESPACE} in the subscription {subscription}; 2 to 5 minutes are usual"
        ));
        let (start, waiting) = (Instant::now(), Waiting::default());
        waiting.during(registered(self.arm, subscription, &waiting)).await?;
        warn(&format!(
            "{NAMESPACE} is registered after {} s; where an agent does not listen now, restart it on its machine",
            start.elapsed().as_secs()
        ));
        Ok(())
    }

    async fn carry_out_one(&self, plan: &Plan, waiting: &Waiting) -> Result<Goal> {
        let goal = self.goal(&plan.machine, plan.port());
        let done = async {
            // What a provider that was not registered holds is known only now.
            let plan = if plan.registers().is_some() { &self.plan(&plan.machine).await? } else { plan };
            waiting.for_the(format!("changes to {goal} in Azure Resource Manager"));
            make(self.arm, plan).await?;
            self.reach(plan, waiting).await
        };
        match done.await {
            Ok(()) => Ok(goal),
            Err(error) => Err(error.context(goal).context(SettingUp)),
        }
    }

    /// Waits until the relay answers, and keeps what it answered to for the first connection.
    async fn reach(&self, plan: &Plan, waiting: &Waiting) -> Result<()> {
        let (start, goal) = (Instant::now(), self.goal(&plan.machine, plan.port()));
        if plan.changes() {
            waiting.say(&format!("{goal}: done in Azure; its agent hears of it within 30 to 90 s as a rule"));
        }
        let credentials = Credentials::new(self.arm, self.store, &plan.machine, self.wish.service, goal.port);
        let way = Way { net: self.net, goal: &goal, wait: self.wait, waiting };
        patiently(async || {
            forget(self.arm, self.store, &plan.machine);
            way.reach(&credentials).await
        })
        .await?;
        last_error::forget(self.store, &goal);
        waiting.say(&format!(
            "{goal}: ready to connect to, its agent answered within {} s",
            start.elapsed().as_secs()
        ));
        Ok(())
    }
}

/// Shows the plans; whether something is to be changed.
fn show(plans: &[Plan]) -> bool {
    let subscriptions: BTreeSet<&str> = plans.iter().filter_map(Plan::registers).collect();
    for subscription in subscriptions {
        warn(&format!("subscription {subscription}: register {NAMESPACE}"));
    }
    for plan in plans {
        warn(&format!("{} in {}: {plan}", plan.machine.name, plan.machine.resource_group));
    }
    plans.iter().any(Plan::changes)
}

/// What was under way when something went wrong.
#[derive(Debug, thiserror::Error)]
#[error("cannot set up")]
pub(crate) struct SettingUp;
