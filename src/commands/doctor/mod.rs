//! `arcssh doctor`: look at everything between here and a machine's sshd, and say what is wrong and what to type.

mod checks;
mod local;
pub(crate) mod probe;
pub(crate) mod report;

use std::io::stdout;
use std::time::Duration;

use anyhow::{Error, Result};
use tracing::info;

use crate::azure::arm::Arm;
use crate::azure::hybrid_connectivity::Service;
use crate::azure::resource_id::ResourceId;
use crate::cli::{DoctorArgs, ProxyArgs};
use crate::commands::doctor::checks::{Evaluator, is_fixable};
use crate::commands::doctor::probe::{Prober, TOTAL_TIMEOUT};
use crate::commands::doctor::report::{Check, Style, Words, json_report, report};
use crate::commands::provision::{Mode, Provisioner};
use crate::entra_ssh::CertificateOptions;
use crate::machines::all_done;
use crate::net::Net;
use crate::provisioning::DesiredService;
use crate::ssh::managed_block;
use crate::state::Store;
use crate::terminal::output::print;
use crate::terminal::progress::Progress;
use crate::terminal::prompt::Confirm;
use crate::terminal::tty::use_color;

/// How many machines are set up at a time.
const ONE: usize = 1;
/// How long setting up waits for the machine's agent.
const WAIT: Duration = Duration::from_secs(180);

/// Examines, and shows what was found; 1 if something keeps a connection from coming about. `explain` has the words of
/// errors, which are those of a connection that fails by them.
///
/// # Errors
/// An endpoint that cannot be one; what keeps a fix from being made.
pub(crate) async fn run(args: &DoctorArgs, explain: fn(&Error) -> Words) -> Result<u8> {
    // Only what it is told of says how well the store is: the rest goes on without.
    let (store, health) = match Store::open().and_then(|store| Ok((store.check()?, store))) {
        Ok((count, store)) => (store, Ok(count)),
        Err(open) => (Store::disabled(), Err(open)),
    };
    let file = args.file.clone().map_or_else(managed_block::default_path, Ok)?;
    let section = args.machine.as_ref().and_then(|machine| local::section(&file, machine));
    let proxy = section.as_ref().and_then(|section| ProxyArgs::of_section(section.arguments(), &args.typed));
    let (who, certificate, cloud) = match &proxy {
        Some(proxy) => (proxy.azure.credential.options(), proxy.certificate.options(), &proxy.azure.cloud),
        None => (args.azure.credential.options(), CertificateOptions::default(), &args.azure.cloud),
    };
    let (cloud, net) = (cloud.cloud()?, Net::new());
    let arm = Arm::new(&cloud, &net, &store, who.clone());
    let prober = Prober { args, file, section, who, certificate, cloud, net, store, arm };
    let waiting = Progress::default();
    waiting.set_deadline("checks".into(), TOTAL_TIMEOUT);
    let facts = waiting.run(prober.look(health.clone())).await;
    let mut evaluator = Evaluator { facts, explain };
    let (mut checks, mut fixed) = (evaluator.checks(), Ok(()));
    if let Some(machine) = evaluator.machine().filter(|_| args.fix && checks.iter().any(is_fixable)) {
        fixed = fix(&prober, machine, evaluator.facts.port).await;
        waiting.set_deadline("checks".into(), TOTAL_TIMEOUT);
        evaluator.facts = waiting.run(prober.look(health)).await;
        checks = evaluator.checks();
    }
    show(args, &checks)?;
    fixed?;
    Ok(u8::from(checks.iter().any(Check::has_failed)))
}

/// What `arcssh setup` can put right.
async fn fix(prober: &Prober<'_>, machine: ResourceId, port: u16) -> Result<()> {
    let Prober { args, net, store, arm, .. } = prober;
    info!("setting {machine} up");
    let desired = DesiredService { service: Service::Ssh, port: Some(port), replace: false };
    let work = Provisioner { net, store, arm, desired, jobs: ONE, wait: WAIT };
    all_done(work.run(vec![machine], Mode::Apply(Confirm::of(args.yes))).await.results)
}

fn show(args: &DoctorArgs, checks: &[Check]) -> Result<()> {
    let style = if use_color(&stdout()) { Style::Colored } else { Style::Plain };
    let text = match args.json {
        true => json_report(args.machine.as_deref(), checks),
        false => report(checks, style),
    };
    print(&text)
}
