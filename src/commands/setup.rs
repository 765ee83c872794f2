//! `arcssh setup`: look what a machine lacks, show it, ask once, make it, wait until it can be connected to, and offer it a
//! name.

use std::path::PathBuf;

use anyhow::{Result, ensure};

use crate::azure::arm::Arm;
use crate::azure::cloud::Cloud;
use crate::azure::hybrid_connectivity::Service;
use crate::cli::{ConfigArgs, SetupArgs};
use crate::connector::Goal;
use crate::machines::{Named, NoMachine, all_done, select_some};
use crate::net::Net;
use crate::provisioning::Wish;
use crate::provisioning::run::{Go, Work};
use crate::ssh::effective_config::section_of;
use crate::ssh::managed_block;
use crate::state::Store;
use crate::terminal::output::{warn, word};
use crate::terminal::prompt::{Consent, is_wanted};

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
    ensure!(!selection.is_empty(), NoMachine { command: "setup" });
    let (net, store) = (Net::new(), Store::open()?);
    let cloud = Cloud::new(args.cloud.name(), &args.cloud.endpoints())?;
    let arm = Arm::new(&cloud, &net, &store, args.who.wanted());
    let machines = select_some(&arm, &mut selection).await?;
    let wish = Wish { service: args.service, port: args.port, replace: args.replace_port };
    let work = Work { net: &net, store: &store, arm: &arm, wish, jobs: args.jobs.into(), wait: args.wait };
    let go = if args.dry_run { Go::NotAtAll } else { Go::With(Consent::of(args.yes)) };
    let done = work.run(machines.iter().map(|named| named.machine.id.clone()).collect(), go).await;
    let ready: Vec<Goal> = done.results.iter().flatten().cloned().collect();
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
    missing: Vec<(&'a str, &'a Goal)>,
}

impl<'a> Names<'a> {
    /// Looks them up, and says what to type for those that have a section; none where there is no home for a
    /// configuration.
    fn of(machines: &'a [Named], ready: &'a [Goal]) -> Option<Self> {
        let file = managed_block::of_this_user().ok()?;
        // One that cannot be read is arcssh config's to complain of: the machines are set up.
        let text = managed_block::read(&file).unwrap_or_default();
        let mut missing = Vec::new();
        for named in machines {
            let is = |goal: &&Goal| goal.machine.as_ref() == Some(&named.machine.id);
            let goal = ready.iter().find(is).filter(|goal| goal.service == Service::Ssh);
            let alias = named.patterns.iter().flatten().next();
            match (goal, section_of(&named.machine.id.to_string(), &text), alias) {
                (Some(goal), Some(section), _) => {
                    warn(&format!("hint: {}", ssh(&section.alias, goal, Some(section.port))));
                }
                (Some(goal), None, Some(alias)) => missing.push((alias.as_str(), goal)),
                _ => {}
            }
        }
        let first = missing.first().map(|(_, goal)| goal.port);
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
            self.missing.iter().map(|(alias, goal)| ssh(alias, goal, self.port)).collect();
        let (then, file) = (then.join(", "), self.file.display());
        if may_ask && is_wanted(&format!("write into {file} what is needed for: {then}?")).await? {
            return Ok(Some(self.words(|(_, goal)| id(goal))));
        }
        let words = self.words(|(alias, _)| word(alias)).join(" ");
        warn(&format!("hint: arcssh config {words} writes into {file} what is needed for: {then}"));
        Ok(None)
    }

    fn words(&self, machine: impl Fn(&(&str, &Goal)) -> String) -> Vec<String> {
        let port = self.port.iter().flat_map(|port| ["--port".to_owned(), port.to_string()]);
        self.missing.iter().map(machine).chain(port).collect()
    }
}

fn id(goal: &Goal) -> String {
    goal.machine.as_ref().map(ToString::to_string).unwrap_or_default()
}

/// What is to be typed for a machine whose section has this `Port`, ssh's own if none.
fn ssh(alias: &str, goal: &Goal, of_section: Option<u16>) -> String {
    match goal.port {
        port if port == of_section.unwrap_or(Service::Ssh.default_port()) => format!("ssh {}", word(alias)),
        port => format!("ssh -p {port} {}", word(alias)),
    }
}
