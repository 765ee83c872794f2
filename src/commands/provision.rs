//! Sets machines up: plans, confirmation, changes in Azure and of extensions, and the wait until the agents accept
//! connections.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Context as _;
use futures_util::{StreamExt, stream};
use tokio::time::Instant;

use crate::azure::arm::Arm;
use crate::azure::hybrid_compute::extension::SshExtension;
use crate::azure::relay_credential_cache::{RelayCredentialCache, forget};
use crate::azure::resource_id::ResourceId;
use crate::azure::resource_providers::NAMESPACE;
use crate::azure::target::Target;
use crate::commands::session::for_each_of;
use crate::diagnosis::{Action, Context, Error, Result, last_error};
use crate::net::Net;
use crate::provisioning::extension::{ExtensionPlan, Unfit, plan_extensions};
use crate::provisioning::{
    DesiredService, Plan, apply, check_permissions, inspect, is_stale, retry_until_consistent,
    wait_until_registered,
};
use crate::relay::connector::Connector;
use crate::relay::handshake::ConnectError;
use crate::state::Store;
use crate::terminal::output::note;
use crate::terminal::progress::{Progress, Step};
use crate::terminal::prompt::Confirm;
use crate::text::shell_quote;

/// Sets machines up for one service.
pub(crate) struct Provisioner<'a> {
    pub(crate) net: &'a Net,
    pub(crate) store: &'a Store,
    pub(crate) arm: &'a Arm,
    /// The service that each machine gets.
    pub(crate) desired: DesiredService,
    /// The extensions that each machine gets, if they are for its operating system.
    pub(crate) extensions: &'a [SshExtension],
    /// How to treat a machine for which none of them is.
    pub(crate) unfit: Unfit,
    /// The number of machines to set up in parallel.
    pub(crate) jobs: usize,
    /// How long to wait for an extension, and for an agent.
    pub(crate) wait: Duration,
}

/// Whether to apply the changes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Mode {
    /// Show the changes only.
    DryRun,
    /// Apply the changes after the user confirms them.
    Apply(Confirm),
}

/// The result of a run.
pub(crate) struct Report {
    /// The changes of each machine for which arcssh found them out.
    pub(crate) changes: Vec<Changes>,
    /// The machines that accept connections now, and the errors of others.
    pub(crate) results: Vec<Result<Target>>,
    /// The errors that all machines of a subscription have in common; without its ID, all machines.
    pub(crate) common: Vec<(Option<String>, Error)>,
}

impl Report {
    /// Returns the results of the machines, and the errors that machines have in common.
    pub(crate) fn into_results(self) -> Vec<Result<Target>> {
        let common = self.common.into_iter().map(|(_, error)| Err(error));
        self.results.into_iter().chain(common).collect()
    }

    /// Returns the error of a machine, if it has one.
    pub(crate) fn error(&self, machine: &ResourceId) -> Option<&Error> {
        let mut own = self.results.iter().filter_map(|result| result.as_ref().err());
        let is_common = |(of, _): &&(Option<String>, _)| {
            of.as_ref().is_none_or(|subscription| subscription.eq_ignore_ascii_case(&machine.subscription))
        };
        let common = || self.common.iter().find(is_common).map(|(_, error)| error);
        own.find(|error| error.machine().as_ref() == Some(machine)).or_else(common)
    }

    /// Returns whether a machine accepts connections.
    pub(crate) fn is_ready(&self, machine: &ResourceId) -> bool {
        self.results.iter().flatten().any(|target| target.machine.as_ref() == Some(machine))
    }
}

/// The changes of a machine.
pub(crate) struct Changes {
    pub(crate) machine: ResourceId,
    /// The port after the changes.
    pub(crate) port: u16,
    /// Each change as a sentence.
    pub(crate) texts: Vec<String>,
    /// The permissions that the changes require.
    pub(crate) permissions: Vec<&'static str>,
}

/// The plan for a machine.
struct Planned {
    /// The machine, with the port of the plan.
    target: Target,
    plan: Plan,
    extensions: Vec<ExtensionPlan>,
}

impl Planned {
    fn summary(&self) -> Changes {
        let Self { target, plan, extensions } = self;
        let register = plan.registers().map(|_| format!("register {NAMESPACE}"));
        let extensions = extensions.iter().filter(|one| one.changes()).map(ToString::to_string);
        // A machine of a subscription that is not registered has no endpoint yet.
        let service = Some(plan.to_string()).filter(|_| plan.changes());
        Changes {
            machine: plan.machine.clone(),
            port: target.port,
            texts: register.into_iter().chain(extensions).chain(service).collect(),
            permissions: self.actions(),
        }
    }

    /// Returns a line for each change.
    fn lines(&self) -> Vec<String> {
        let title = self.target.title();
        let extensions = self.extensions.iter().map(|extension| format!("{title}: {extension}"));
        extensions.chain([format!("{title}: {}", self.plan)]).collect()
    }

    fn changes(&self) -> bool {
        self.plan.changes() || self.extensions.iter().any(ExtensionPlan::changes)
    }

    /// Returns the permissions that the changes require.
    fn actions(&self) -> Vec<&'static str> {
        let extensions = self.extensions.iter().flat_map(|extension| extension.actions());
        self.plan.actions().into_iter().chain(extensions.copied()).collect()
    }
}

impl Provisioner<'_> {
    /// Shows the plans, and applies them if `mode` and the user permit it.
    pub(crate) async fn run(&self, targets: Vec<Target>, mode: Mode) -> Report {
        let (plans, mut results) = self.plans(targets).await;
        let changes = plans.iter().map(Planned::summary).collect();
        let (plans, denied) = self.permitted(plans, mode).await;
        show(&plans);
        results.extend(denied);
        let mut common = Vec::new();
        if let Mode::Apply(confirm) = mode {
            let confirm = if plans.iter().any(Planned::changes) { confirm } else { Confirm::Yes };
            match confirm.to("apply these changes for all users of these machines?").await {
                Ok(()) => {
                    let (applied, unregistered) = self.apply_all(plans).await;
                    results.extend(applied);
                    common.extend(unregistered);
                }
                Err(error) => common.push((None, error.into())),
            }
        }
        Report { changes, results, common }
    }

    /// Plans the changes. Returns the plans and the errors of the machines that have none.
    async fn plans(&self, targets: Vec<Target>) -> (Vec<Planned>, Vec<Result<Target>>) {
        let (progress, all) = (Progress::default(), targets.len());
        let left = Cell::new(all);
        let show = || {
            let step = Step::left(left.get(), all, "machines", Vec::new());
            progress.set(step.with(", whose state Azure Resource Manager lists"));
        };
        show();
        let plans = stream::iter(targets).map(async |target| {
            let plan = async { Ok((self.plan(&target).await?, self.plan_extensions(&target).await?)) };
            let plan: Result<_> = plan.await;
            left.set(left.get() - 1);
            show();
            match plan {
                Ok((plan, extensions)) => {
                    Ok(Planned { target: Target { port: plan.port(), ..target }, plan, extensions })
                }
                Err(error) => Err(error.during(setting_up(target))),
            }
        });
        let results: Vec<Result<Planned>> = progress.run(plans.buffered(self.jobs).collect()).await;
        let mut plans = Vec::new();
        let mut errors = Vec::new();
        for result in results {
            match result {
                Ok(plan) => plans.push(plan),
                Err(error) => errors.push(Err(error)),
            }
        }
        (plans, errors)
    }

    /// Returns the plans that the account may apply, and the errors of the others, which it shows. With `--yes`, Azure
    /// decides when a plan is applied.
    async fn permitted(&self, plans: Vec<Planned>, mode: Mode) -> (Vec<Planned>, Vec<Result<Target>>) {
        if matches!(mode, Mode::Apply(Confirm::Yes)) {
            return (plans, Vec::new());
        }
        let progress = Progress::default();
        progress.set("permissions of the account from Azure Resource Manager".into());
        let checks = stream::iter(plans).map(async |planned| match &planned.actions()[..] {
            [] => (planned, Ok(())),
            actions => {
                let checked = check_permissions(self.arm, &planned.plan.machine, actions).await;
                (planned, checked)
            }
        });
        let checked: Vec<_> = progress.run(checks.buffered(self.jobs).collect()).await;
        let (mut permitted, mut denied) = (Vec::new(), Vec::new());
        for (planned, checked) in checked {
            match checked {
                Ok(()) => permitted.push(planned),
                Err(error) => {
                    planned.lines().iter().for_each(|line| note(&format!("{line}; {NOT_PERMITTED}")));
                    denied.push(Err(Error::from(error).during(setting_up(planned.target))));
                }
            }
        }
        (permitted, denied)
    }

    async fn plan(&self, target: &Target) -> Result<Plan> {
        let machine = target.machine.as_ref().context("the machine has no resource ID")?;
        let state = inspect(self.arm, machine, self.desired.service).await?;
        Ok(Plan::new(machine, &state, self.desired)?)
    }

    async fn plan_extensions(&self, target: &Target) -> Result<Vec<ExtensionPlan>> {
        let machine = target.machine.as_ref().context("the machine has no resource ID")?;
        Ok(plan_extensions(self.arm, machine, self.extensions, self.unfit).await?)
    }

    /// Registers the resource provider in each subscription, then changes the machines of the registered subscriptions. Returns
    /// the results of these, and the errors of the other subscriptions.
    async fn apply_all(&self, plans: Vec<Planned>) -> (Vec<Result<Target>>, Vec<(Option<String>, Error)>) {
        let mut unregistered = Vec::new();
        let mut subscriptions: BTreeSet<&str> =
            plans.iter().filter_map(|planned| planned.plan.registers()).collect();
        for subscription in subscriptions.clone() {
            if let Err(error) = self.register(subscription).await {
                let error = error.during(Context { action: Action::SetUp, target: None });
                unregistered.push((Some(subscription.to_owned()), error));
                subscriptions.remove(subscription);
            }
        }
        let is_registered = |planned: &&Planned| {
            planned.plan.registers().is_none_or(|subscription| subscriptions.contains(subscription))
        };
        let plans: Vec<&Planned> = plans.iter().filter(is_registered).collect();
        let progress = Progress::default();
        if let [planned] = plans[..] {
            return (vec![progress.run(self.apply_one(planned, &progress, &progress)).await], unregistered);
        }
        let hidden = Progress::default();
        let apply = async |planned: &&Planned| self.apply_one(planned, &progress, &hidden).await;
        let name = |planned: &&Planned| planned.target.to_string();
        (for_each_of(&plans, name, self.jobs, &progress, apply).await, unregistered)
    }

    async fn register(&self, subscription: &str) -> Result<()> {
        note(&format!(
            "registering {NAMESPACE} in subscription {subscription}; this usually takes 2 to 5 minutes"
        ));
        let start = Instant::now();
        let progress = Progress::default();
        let on_wait = |state: &str, left| {
            let step = Step::wait(format!("registration of {NAMESPACE}")).or("registration");
            progress.set_deadline(step.with(format!(" in subscription {subscription} ({state})")), left);
        };
        progress.run(wait_until_registered(self.arm, subscription, on_wait)).await?;
        note(&format!(
            "registered {NAMESPACE} in {} s; if an agent does not connect, restart it on its machine",
            start.elapsed().as_secs()
        ));
        Ok(())
    }

    /// Sets one machine up. `steps` gets the steps of this machine, which are hidden if there are several.
    async fn apply_one(
        &self,
        Planned { target, plan, extensions }: &Planned,
        progress: &Progress,
        steps: &Progress,
    ) -> Result<Target> {
        let result = async {
            // A connection needs the sshd that an extension installs.
            for extension in extensions.iter().filter(|extension| extension.has_work()) {
                apply_extension(self.arm, target, extension, self.wait, progress, steps).await?;
            }
            // Azure shows the endpoint and the services only after the registration of the provider.
            let plan = if plan.registers().is_some() { &self.plan(target).await? } else { plan };
            steps.set(
                Step::wait(format!("changes to {target}"))
                    .or("changes in Azure")
                    .with(" in Azure Resource Manager"),
            );
            apply(self.arm, plan).await?;
            let target = Target { port: plan.port(), ..target.clone() };
            self.wait_until_ready(&target, plan, progress, steps).await
        };
        match result.await {
            Ok(()) => Ok(target.clone()),
            Err(error) => Err(error.during(setting_up(target.clone()))),
        }
    }

    /// Waits until the machine's agent accepts a connection. The first `ssh` then uses the credentials of that
    /// connection.
    async fn wait_until_ready(
        &self,
        target: &Target,
        plan: &Plan,
        progress: &Progress,
        steps: &Progress,
    ) -> Result<()> {
        let start = Instant::now();
        if plan.changes() {
            progress
                .println(&format!("{target}: changed in Azure; the agent usually needs another 30 to 90 s"));
        }
        let credentials =
            RelayCredentialCache::new(self.arm, self.store, &plan.machine, self.desired.service, target.port);
        let (wait, on_no_listener) = (self.wait, &|| ());
        let connector = Connector { net: self.net, target, wait, progress: steps, on_no_listener };
        let connect = async || {
            forget(self.arm, self.store, &plan.machine);
            connector.connect(&credentials).await
        };
        let is_stale =
            |error: &ConnectError| matches!(error, ConnectError::Credentials(error) if is_stale(error));
        retry_until_consistent(connect, is_stale).await?;
        last_error::clear(self.store, target);
        progress
            .println(&format!("{target}: ready, the agent responded after {} s", start.elapsed().as_secs()));
        Ok(())
    }
}

/// Changes an extension of a machine, and reports it.
pub(crate) async fn apply_extension(
    arm: &Arm,
    target: &Target,
    plan: &ExtensionPlan,
    limit: Duration,
    progress: &Progress,
    steps: &Progress,
) -> Result<()> {
    let (start, extension) = (Instant::now(), plan.extension);
    let on_wait = |state: &str, left| {
        let step = Step::wait(format!("extension {extension} of {target}")).or("extension");
        steps.set_deadline(step.with(format!(" ({state})")), left);
    };
    steps.set(Step::wait(format!("extension {extension} of {target}")).or("extension"));
    let command = format!("arcssh setup {} {} --dry-run", shell_quote(&target.argument), extension.option());
    let interrupted = Interrupted(format!(
        "{target}: Azure completes the change of the extension {extension} that it has accepted; to see its state, run: {command}"
    ));
    let result = plan.apply(arm, limit, on_wait).await;
    std::mem::forget(interrupted);
    result?;
    let done = if plan.installs() { "installed" } else { "removed" };
    let seconds = start.elapsed().as_secs();
    progress.println(&format!("{target}: the extension {extension} is {done}, after {seconds} s"));
    Ok(())
}

/// A change that Azure completes even if a signal ends arcssh.
struct Interrupted(String);

impl Drop for Interrupted {
    fn drop(&mut self) {
        note(&self.0);
    }
}

fn setting_up(target: Target) -> Context {
    Context { action: Action::SetUp, target: Some(target) }
}

/// The end of the line of a change that the account may not make.
pub(crate) const NOT_PERMITTED: &str = "skipped, because the account lacks a permission";

/// Prints the plans.
fn show(plans: &[Planned]) {
    let subscriptions: BTreeSet<&str> = plans.iter().filter_map(|planned| planned.plan.registers()).collect();
    for subscription in subscriptions {
        note(&format!("subscription {subscription}: register {NAMESPACE}"));
    }
    plans.iter().flat_map(Planned::lines).for_each(|line| note(&line));
}
