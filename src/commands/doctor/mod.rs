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
use crate::azure::cloud::Cloud;
use crate::azure::hybrid_connectivity::Service;
use crate::azure::resource_id::ResourceId;
use crate::cli::{DoctorArgs, ProxyArgs};
use crate::commands::doctor::checks::{Judge, is_fixable};
use crate::commands::doctor::probe::{Examiner, LONGEST};
use crate::commands::doctor::report::{Check, Paint, Words, json_report, report};
use crate::entra_ssh::Asked;
use crate::machines::all_done;
use crate::net::Net;
use crate::provisioning::Wish;
use crate::provisioning::run::{Go, Work};
use crate::ssh::managed_block;
use crate::state::Store;
use crate::terminal::output::print;
use crate::terminal::progress::Waiting;
use crate::terminal::prompt::Consent;
use crate::terminal::tty::takes_colours;

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
        Err(open) => (Store::nothing(), Err(open)),
    };
    let file = args.file.clone().map_or_else(managed_block::of_this_user, Ok)?;
    let section = args.machine.as_ref().and_then(|machine| local::section(&file, machine));
    let proxy = section.as_ref().and_then(|section| ProxyArgs::of_section(section.arguments(), &args.typed));
    let (who, certificate, cloud) = match &proxy {
        Some(proxy) => (proxy.who.wanted(), proxy.certificate.asked(), &proxy.cloud),
        None => (args.who.wanted(), Asked::default(), &args.cloud),
    };
    let (cloud, net) = (Cloud::new(cloud.name(), &cloud.endpoints())?, Net::new());
    let arm = Arm::new(&cloud, &net, &store, who.clone());
    let examiner = Examiner { args, file, section, who, certificate, cloud, net, store, arm };
    let waiting = Waiting::default();
    waiting.until("checks".into(), LONGEST);
    let findings = waiting.during(examiner.look(health.clone())).await;
    let mut judge = Judge { findings, explain };
    let (mut checks, mut fixed) = (judge.checks(), Ok(()));
    if let Some(machine) = judge.machine().filter(|_| args.fix && checks.iter().any(is_fixable)) {
        fixed = fix(&examiner, machine, judge.findings.port).await;
        waiting.until("checks".into(), LONGEST);
        judge.findings = waiting.during(examiner.look(health)).await;
        checks = judge.checks();
    }
    show(args, &checks)?;
    fixed?;
    Ok(u8::from(checks.iter().any(Check::has_failed)))
}

/// What `arcssh setup` can put right.
async fn fix(examiner: &Examiner<'_>, machine: ResourceId, port: u16) -> Result<()> {
    let Examiner { args, net, store, arm, .. } = examiner;
    info!("setting {machine} up");
    let wish = Wish { service: Service::Ssh, port: Some(port), replace: false };
    let work = Work { net, store, arm, wish, jobs: ONE, wait: WAIT };
    all_done(work.run(vec![machine], Go::With(Consent::of(args.yes))).await.results)
}

fn show(args: &DoctorArgs, checks: &[Check]) -> Result<()> {
    let paint = if takes_colours(&stdout()) { Paint::Coloured } else { Paint::Plain };
    let text = match args.json {
        true => json_report(args.machine.as_deref(), checks),
        false => report(checks, paint),
    };
    print(&text)
}
