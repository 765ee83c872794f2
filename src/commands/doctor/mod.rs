//! `arcssh doctor`: checks everything between this computer and a machine's sshd, and suggests fixes.

mod checks;
mod local;
mod probe;
mod report;

use std::io::stdout;
use std::time::Duration;

use tracing::info;

use crate::azure::arm::Arm;
use crate::azure::hybrid_connectivity::Service;
use crate::azure::resource_id::ResourceId;
use crate::cli::DoctorArgs;
use crate::commands::doctor::checks::Evaluator;
use crate::commands::doctor::probe::{Prober, TOTAL_TIMEOUT};
use crate::commands::doctor::report::{Check, Colors, json_report, report};
use crate::commands::provision::{Mode, Provisioner};
use crate::diagnosis::{Result, all_done};
use crate::entra_ssh::CertificateOptions;
use crate::net::Net;
use crate::provisioning::DesiredService;
use crate::ssh::managed_block;
use crate::state::Store;
use crate::terminal::output::print;
use crate::terminal::progress::Progress;
use crate::terminal::prompt::Confirm;
use crate::terminal::tty::use_color;

/// How long `--fix` waits for the machine's agent.
const WAIT: Duration = Duration::from_secs(180);

/// Prints the report; 1 if a check failed.
///
/// # Errors
/// An invalid endpoint; a fix that failed.
pub(crate) async fn run(args: &DoctorArgs) -> Result<u8> {
    // A state directory that cannot be used fails its own check, and the other checks run without it.
    let (store, health) = match Store::open().and_then(|store| Ok((store.check()?, store))) {
        Ok((count, store)) => (store, Ok(count)),
        Err(error) => (Store::disabled(), Err(error)),
    };
    let file = args.file.clone().map_or_else(managed_block::default_path, Ok)?;
    let entry = args.machine.as_ref().and_then(|machine| local::entry(&file, machine));
    let proxy = entry.as_ref().and_then(|entry| entry.proxy_args(&args.typed));
    let (azure, certificate) = match &proxy {
        Some(proxy) => (&proxy.azure, proxy.certificate.options()),
        None => (&args.azure, CertificateOptions::default()),
    };
    let (credential, cloud, net) = (azure.credential.options(), azure.cloud()?, Net::unchecked());
    let arm = Arm::new(&cloud, &net, &store, credential.clone());
    let prober = Prober { args, file, entry, credential, certificate, cloud, net, store, arm };
    let progress = Progress::default();
    progress.set_deadline("checks".into(), TOTAL_TIMEOUT);
    let mut evaluator = Evaluator { facts: progress.run(prober.probe(health.clone())).await };
    let (mut checks, mut fixed) = (evaluator.checks(), Ok(()));
    if let Some(machine) = evaluator.machine().filter(|_| args.fix && checks.iter().any(Check::is_fixable)) {
        fixed = fix(&prober, machine, evaluator.facts.azure.port).await;
        progress.set_deadline("checks".into(), TOTAL_TIMEOUT);
        evaluator.facts = progress.run(prober.probe(health)).await;
        checks = evaluator.checks();
    }
    show(args, &checks)?;
    fixed?;
    Ok(u8::from(checks.iter().any(Check::has_failed)))
}

/// Enables SSH as `arcssh setup` does.
async fn fix(prober: &Prober<'_>, machine: ResourceId, port: u16) -> Result<()> {
    let Prober { args, net, store, arm, .. } = prober;
    info!("setting up {machine}");
    let desired = DesiredService { service: Service::Ssh, port: Some(port), replace: false };
    let provisioner = Provisioner { net, store, arm, desired, jobs: 1, wait: WAIT };
    all_done(provisioner.run(vec![machine], Mode::Apply(Confirm::of(args.yes))).await.results)
}

fn show(args: &DoctorArgs, checks: &[Check]) -> Result<()> {
    let text = if args.json {
        json_report(args.machine.as_deref(), checks)
    } else {
        report(checks, if use_color(&stdout()) { Colors::On } else { Colors::Off })
    };
    Ok(print(&text)?)
}
