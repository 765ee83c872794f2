//! `arcssh setup`: look what a machine lacks, show it, ask once, make it, wait until it can be connected to, and offer it a
//! name.

use std::path::PathBuf;

use anyhow::{Result, ensure};

use crate::azure::arm::Arm;
use crate::azure::cloud::Cloud;
use crate::azure::hybrid_connectivity::Service;
use crate::azure::target::Target;
use crate::cli::proxy_command::find_entry;
use crate::cli::{ConfigArgs, SetupArgs};
use crate::commands::provision::{Mode, Provisioner};
use crate::machines::{NamedMachine, NothingSelected, all_done, select_some};
use crate::net::Net;
use crate::provisioning::DesiredService;
use crate::ssh::managed_block;
use crate::state::Store;
use crate::terminal::output::note;
use crate::terminal::prompt::{Confirm, confirm};
use crate::text::shell_quote;

/// How it goes on.
pub(crate) enum Next {
    /// With this exit status.
    End(u8),
    /// With the sections that the user wants.
    Config(Box<ConfigArgs>),
}

/// Sets the machines up.
///
/// # Errors
/// What Azure refuses, and that nobody agreed to the changes.
pub(crate) async fn run(args: &SetupArgs) -> Result<Next> {
    let mut selection = args.selection.selection();
    ensure!(!selection.is_empty(), NothingSelected { command: "setup" });
    let (net, store) = (Net::new(), Store::open()?);
    let cloud = Cloud::new(args.cloud.name(), &args.cloud.endpoints())?;
    let arm = Arm::new(&cloud, &net, &store, args.who.wanted());
    let machines = select_some(&arm, &mut selection).await?;
    let desired = DesiredService { service: args.service, port: args.port, replace: args.replace_port };
    let work =
        Provisioner { net: &net, store: &store, arm: &arm, desired, jobs: args.jobs.into(), wait: args.wait };
    let go = if args.dry_run { Mode::DryRun } else { Mode::Apply(Confirm::of(args.yes)) };
    let done = work.run(machines.iter().map(|named| named.machine.id.clone()).collect(), go).await;
    let ready: Vec<Target> = done.results.iter().flatten().cloned().collect();
    let may_ask = !args.yes && ready.len() == done.results.len();
    let words = match Names::of(&machines, &ready) {
        Some(names) => names.offer(may_ask).await?,
        None => None,
    };
    all_done(done.results)?;
    match words {
        Some(words) => Ok(Next::Config(Box::new(ConfigArgs::handed_on(&words, args)?))),
        None => Ok(Next::End(u8::from(done.changes && args.dry_run))),
    }
}

/// What ssh calls machines that can be connected to.
struct Names<'a> {
    /// The user's ssh configuration.
    file: PathBuf,
    /// The `Port` that all sections of a new block get: one that is there keeps its own.
    port: Option<u16>,
    /// Those without a section of theirs.
    missing: Vec<(&'a str, &'a Target)>,
}

impl<'a> Names<'a> {
    /// Looks them up, and says what to type for those that have a section; none where there is no home for a
    /// configuration.
    fn of(machines: &'a [NamedMachine], ready: &'a [Target]) -> Option<Self> {
        let file = managed_block::default_path().ok()?;
        // One that cannot be read is arcssh config's to complain of: the machines are set up.
        let text = managed_block::read(&file).unwrap_or_default();
        let mut missing = Vec::new();
        for named in machines {
            let is = |target: &&Target| target.machine.as_ref() == Some(&named.machine.id);
            let target = ready.iter().find(is).filter(|target| target.service == Service::Ssh);
            let alias = named.patterns.iter().flatten().next();
            match (target, find_entry(&named.machine.id.to_string(), &text), alias) {
                (Some(target), Some(section), _) => {
                    note(&format!("hint: {}", ssh(&section.alias, target, Some(section.port))));
                }
                (Some(target), None, Some(alias)) => missing.push((alias.as_str(), target)),
                _ => {}
            }
        }
        let first = missing.first().map(|(_, target)| target.port);
        let port = first.filter(|port| *port != Service::Ssh.default_port());
        let has_block = managed_block::find(&text).is_ok_and(|block| block.is_some());
        Some(Self { file, port: port.filter(|_| !has_block), missing })
    }

    /// Has those without a section given one where the user wants that, and says what to type otherwise; the words of
    /// `arcssh config` that do it.
    async fn offer(&self, may_ask: bool) -> Result<Option<Vec<String>>> {
        if self.missing.is_empty() {
            return Ok(None);
        }
        let then: Vec<String> =
            self.missing.iter().map(|(alias, target)| ssh(alias, target, self.port)).collect();
        let (then, file) = (then.join(", "), self.file.display());
        if may_ask && confirm(&format!("write into {file} what is needed for: {then}?")).await? {
            return Ok(Some(self.words(|(_, target)| id(target))));
        }
        let words = self.words(|(alias, _)| shell_quote(alias)).join(" ");
        note(&format!("hint: arcssh config {words} writes into {file} what is needed for: {then}"));
        Ok(None)
    }

    fn words(&self, machine: impl Fn(&(&str, &Target)) -> String) -> Vec<String> {
        let port = self.port.iter().flat_map(|port| ["--port".to_owned(), port.to_string()]);
        self.missing.iter().map(machine).chain(port).collect()
    }
}

fn id(target: &Target) -> String {
    target.machine.as_ref().map(ToString::to_string).unwrap_or_default()
}

/// What is to be typed for a machine whose section has this `Port`, ssh's own if none.
fn ssh(alias: &str, target: &Target, of_section: Option<u16>) -> String {
    match target.port {
        port if port == of_section.unwrap_or(Service::Ssh.default_port()) => {
            format!("ssh {}", shell_quote(alias))
        }
        port => format!("ssh -p {port} {}", shell_quote(alias)),
    }
}
