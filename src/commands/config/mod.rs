//! `arcssh config`: host entries for Arc machines in the ssh configuration, written once ssh has proved that it uses them.

mod certificates;
mod clean;
mod entries;
mod options;
mod plan;
mod remove;
mod wildcard;

use std::io::{IsTerminal as _, stdout};
use std::path::Path;

use anyhow::{Result, bail, ensure};
use azure_core::time::OffsetDateTime;
use similar::TextDiff;
use tracing::info;

use crate::cli::ConfigArgs;
use crate::commands::config::clean::clean_up;
use crate::commands::config::entries::{Composed, Target, compose};
use crate::commands::config::options::Options;
use crate::commands::config::plan::{Notes, Plan};
use crate::commands::config::remove::without;
use crate::ssh::effective_config::{self, OverriddenError};
use crate::ssh::foreign_entries::{self, ForeignEntry};
use crate::ssh::managed_block::{self, LOCK_TIMEOUT, LockedConfig};
use crate::terminal::output::{note, print};
use crate::terminal::progress::Progress;
use crate::terminal::prompt::Confirm;
use crate::terminal::tty::use_color;
use crate::text::lines;

/// A text that a run made up for the file, and how it differs from the old one.
struct Next {
    text: String,
    plan: Plan,
}

/// Writes, shows, removes or verifies; the exit status.
///
/// # Errors
/// What Azure refuses, what ssh does not accept, a value that cannot stand in a configuration, or host entries whose removal
/// the user did not agree to.
pub(crate) async fn run(args: &ConfigArgs) -> Result<u8> {
    let file = args.file.clone().map_or_else(managed_block::default_path, Ok)?;
    if args.verify {
        return verify(&file);
    }
    if args.output.is_some() {
        let composed = compose(args, Options::default(), &[], Target { file: &file, text: "" }).await?;
        print(&managed_block::block(&composed.options.line()?, &composed.sections))?;
        return Ok(0);
    }
    let before = managed_block::read(&file)?;
    let mut next = changed(args, &file, &before).await?;
    if args.dry_run {
        next.plan.tell();
        return show_difference(&file, &before, &next.text);
    }
    let is_asked = !args.remove && !next.plan.removed.is_empty();
    if is_asked {
        next.plan.tell();
        let question = format!("remove {} from {}?", entries(next.plan.removed.len()), file.display());
        Confirm::of(args.yes).to(&question).await?;
    }
    // The lock is taken late, so that others do not wait while this run asks Azure or the user.
    let edit = lock_file(&file).await?;
    if edit.text() != before {
        info!("{} was changed meanwhile", file.display());
        let agreed = next.plan.removed;
        next = changed(args, &file, edit.text()).await?;
        let is_agreed = |entry| args.remove || args.yes || agreed.contains(entry);
        ensure!(
            next.plan.removed.iter().all(is_agreed),
            "{} was changed by another program meanwhile; run the command again",
            file.display()
        );
    }
    let status = write(&edit, &next, if is_asked { Told::Already } else { Told::NotYet }, args.remove)?;
    if args.adopt {
        clean_up(&next.text, args.clean, &args.azure.cloud.relay_suffixes())?;
    }
    Ok(status)
}

/// The file, once no other process changes it by arcssh.
async fn lock_file(file: &Path) -> Result<LockedConfig> {
    let waiting = Progress::default();
    waiting.set_deadline(format!("other arcssh that changes {}", file.display()), LOCK_TIMEOUT);
    waiting.run(LockedConfig::open(file)).await
}

/// The file's text as it should be.
async fn changed(args: &ConfigArgs, file: &Path, old: &str) -> Result<Next> {
    let unchanged = || Next { text: old.to_owned(), plan: Plan::default() };
    if args.remove {
        let text = without(&args.selection.selection().machines, old)?;
        let plan = Plan::between(own_block(old)?, own_block(&text)?, &Notes::default());
        return Ok(Next { text, plan });
    }
    let kept = Options::of(old)?;
    let foreign = if args.adopt { foreign_entries::find(old) } else { Vec::new() };
    if args.adopt && foreign.is_empty() && kept.is_empty() && args.selection.selection().is_empty() {
        note("there is no section of another program to take over");
        return Ok(unchanged());
    }
    let had_block = !kept.is_empty();
    let Composed { options, sections, notes } =
        compose(args, kept, &foreign, Target { file, text: old }).await?;
    if options.is_empty() && !had_block {
        return Ok(unchanged());
    }
    let taken: Vec<ForeignEntry> =
        foreign.into_iter().filter(|section| options.has_adopted(section)).collect();
    let date = OffsetDateTime::now_utc().date().to_string();
    let commented = &foreign_entries::commented_out(old, &taken, &date);
    let text = match options.is_empty() {
        true => managed_block::without_block(commented)?,
        false => managed_block::with_block(commented, &managed_block::block(&options.line()?, &sections))?,
    };
    let plan = Plan::between(own_block(old)?, own_block(&text)?, &notes);
    Ok(Next { text, plan })
}

/// Whether the user has read what a run changes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Told {
    Already,
    NotYet,
}

/// Writes the text if it is another, after ssh has been asked about it.
fn write(edit: &LockedConfig, next: &Next, told: Told, removing: bool) -> Result<u8> {
    let (file, new) = (edit.path().display(), &next.text);
    if *new == edit.text() {
        note(&format!("{file} is as it should be"));
        return Ok(0);
    }
    let candidate = edit.candidate(new)?;
    if !removing {
        let proof = prove(new, candidate.path(), edit.path())?;
        if proof.is_none() {
            note("no ssh is installed to prove the result with");
        }
    }
    let backup = edit.commit(candidate)?;
    if told == Told::NotYet {
        next.plan.tell();
    }
    let hosts = effective_config::sections(own_block(new)?).len().saturating_sub(1);
    let kept = backup.map_or(String::new(), |backup| format!("; as it was: {}", backup.display()));
    note(&if removing {
        format!("{file}: taken out{kept}")
    } else {
        format!("{file}: {}{kept}", counted(hosts))
    });
    Ok(0)
}

/// Asks ssh whether it uses the block's values when it reads `file`, which will be called `name`. How many hosts it
/// was asked about; `None` where no ssh is installed.
fn prove(text: &str, file: &Path, name: &Path) -> Result<Option<usize>> {
    let mut asked = 0;
    for (patterns, expected) in effective_config::sections(own_block(text)?) {
        for alias in patterns.iter().filter(|pattern| !pattern.contains(['*', '?'])) {
            let Some(shadowed) = effective_config::overridden(alias, &expected, file)? else {
                return Ok(None);
            };
            if let Some(mut first) = shadowed.into_iter().next() {
                first.by =
                    first.by.map(|(by, line)| if by == file { (name.to_owned(), line) } else { (by, line) });
                bail!(OverriddenError(first));
            }
            asked += 1;
        }
    }
    info!(hosts = asked, "ssh uses what was written");
    Ok(Some(asked))
}

fn counted(hosts: usize) -> String {
    if hosts == 1 { "1 host".into() } else { format!("{hosts} hosts") }
}

fn entries(hosts: usize) -> String {
    if hosts == 1 { "1 host entry".into() } else { format!("{hosts} host entries") }
}

fn own_block(text: &str) -> Result<&str> {
    Ok(managed_block::find(text)?.map_or("", |range| &text[range]))
}

fn verify(file: &Path) -> Result<u8> {
    let text = managed_block::read(file)?;
    ensure!(managed_block::find(&text)?.is_some(), "{} holds no arcssh block", file.display());
    match prove(&text, file, file)? {
        Some(hosts) => note(&format!("ssh uses what {} says of {}", file.display(), counted(hosts))),
        None => bail!("no ssh is installed"),
    }
    Ok(0)
}

/// Prints a unified diff; 1 if there is a difference.
fn show_difference(file: &Path, old: &str, new: &str) -> Result<u8> {
    let name = file.display().to_string();
    let mut diff = TextDiff::from_lines(old, new).unified_diff().header(&name, &name).to_string();
    // A pipe gets each byte as it is: a program may apply the difference.
    if stdout().is_terminal() {
        diff = lines(&diff);
    }
    if use_color(&stdout()) {
        diff = diff.split_inclusive('\n').map(colored).collect();
    }
    print(&diff)?;
    Ok(u8::from(old != new))
}

/// A line of a unified diff, added ones green, removed ones red, places cyan.
fn colored(line: &str) -> String {
    let colour = match line.as_bytes().first() {
        Some(b'+') => 32,
        Some(b'-') => 31,
        Some(b'@') => 36,
        _ => return line.to_owned(),
    };
    format!("\u{1b}[{colour}m{}\u{1b}[0m\n", line.trim_end_matches('\n'))
}
