//! `arcssh config`: host entries for Arc machines in the ssh configuration, written after `ssh -G` has returned their values.

mod clean;
mod entries;
mod options;
mod plan;
mod remove;
mod wildcard;

use std::io::{IsTerminal as _, stdout};
use std::path::Path;

use anyhow::anyhow;
use azure_core::time::OffsetDateTime;
use serde_json::{Value, json};
use similar::TextDiff;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tracing::info;

use crate::cli::entry_files::{self, Remark};
use crate::cli::proxy_command::find_entry;
use crate::cli::{ConfigArgs, ConfigFormat};
use crate::commands::config::clean::clean_up;
use crate::commands::config::entries::{Composed, Target, compose};
use crate::commands::config::options::Options;
use crate::commands::config::plan::{Notes, Plan, When};
use crate::commands::config::remove::{only, without};
use crate::commands::session::{finding, to_selector};
use crate::diagnosis::{Diagnosis, Error, Result};
use crate::ssh::SshError;
use crate::ssh::certificate_file::{self, Problem};
use crate::ssh::effective_config;
use crate::ssh::foreign_entries::{self, ForeignEntry};
use crate::ssh::home;
use crate::ssh::host_entry::{CertificateMode, Platform};
use crate::ssh::managed_block::{self, LOCK_TIMEOUT, LockedConfig};
use crate::ssh::patterns::is_wildcard;
use crate::ssh::rsa_key::PublicKey;
use crate::ssh::shell;
use crate::ssh::used_names::UsedNames;
use crate::ssh::verification::{self, Verified, View};
use crate::terminal::output::{note, print, print_json};
use crate::terminal::palette::{ASIDE, BAD, Colors, GOOD};
use crate::terminal::progress::{Progress, Step};
use crate::terminal::prompt::Confirm;
use crate::text::{grouped, lines, shell_quote};

/// The new text of the file, and its changes.
struct Next {
    text: String,
    plan: Plan,
}

/// Writes, shows, removes or verifies host entries. Returns the exit status.
///
/// # Errors
/// Azure returns an error; ssh rejects or overrides a host entry; a value is not valid in an ssh configuration; the user
/// does not confirm a removal.
pub(crate) async fn run(args: &ConfigArgs) -> Result<u8> {
    let file = args.file.clone().map_or_else(managed_block::default_path, Ok)?;
    if args.verify {
        return verify(args, &file).await;
    }
    check_certificate(args)?;
    if args.output == Some(ConfigFormat::Block) {
        let composed = compose(args, Options::default(), &[], Target { file: &file, text: "" }).await?;
        print(&managed_block::block(&composed.options.line()?, &composed.host_entries))?;
        return Ok(0);
    }
    let before = managed_block::read_valid(&file)?;
    let mut next = changed(args, &file, &before).await?;
    if args.dry_run {
        next.plan.print(When::DryRun);
        if args.is_json() {
            print_json(&report(&file, &next, &before, Written::No))?;
            return Ok(u8::from(next.text != before));
        }
        return show_difference(&file, &before, &next.text);
    }
    let is_confirmed = !args.remove && !args.yes && !next.plan.removed.is_empty();
    if is_confirmed {
        next.plan.print(When::Before);
        let question = format!("remove {} from {}?", entries(next.plan.removed.len()), file.display());
        Confirm::Ask.to(&question).await?;
    }
    // arcssh locks the file only now, so that others do not wait for Azure or for an answer of the user.
    let edit = lock_file(&file).await?;
    if edit.text() != before {
        info!("another program changed {}", file.display());
        let confirmed = next.plan.removed;
        next = changed(args, &file, edit.text()).await?;
        let may_remove = |entry| args.remove || args.yes || confirmed.contains(entry);
        if !next.plan.removed.iter().all(may_remove) {
            return Err(SshError::Changed(file).into());
        }
    }
    let shown = if is_confirmed { Shown::Already } else { Shown::NotYet };
    let verified = write(args, &edit, &next, shown).await?;
    if args.is_json() {
        print_json(&report(&file, &next, edit.text(), Written::Yes))?;
    }
    if args.adopt {
        clean_up(&next.text, args.clean, &args.azure.cloud.relay_suffixes())?;
    }
    if !args.remove && args.platform.is_none_or(|platform| platform == Platform::HERE) {
        shell::check().await?;
        if verified.is_some_and(|verified| verified.not_included.is_none()) {
            note_next_step(args, &next);
        }
    }
    Ok(0)
}

/// Checks the public key of `--public-key`, and the kind of the file in `--certificate-file`. A note about an expired or missing file follows the changes.
fn check_certificate(args: &ConfigArgs) -> Result<(), SshError> {
    let is_here = args.platform.is_none_or(|platform| platform == Platform::HERE);
    if let Some(key) = args.public_key.as_deref().filter(|_| is_here) {
        if args.entra == Some(Some(CertificateMode::Agent)) {
            let cause = "the agent of --entra=agent signs only with a key of arcssh: to use your own key, add --entra=files";
            return Err(SshError::Failed(cause.into()));
        }
        PublicKey::read(&home::expanded(Path::new(key)))?;
    }
    let Some(file) = args.certificate_file.as_deref().filter(|_| is_here).map(Path::new) else {
        return Ok(());
    };
    match certificate_file::check(file, args.identity.as_deref().map(Path::new)) {
        Err(Problem::Unusable(cause)) => Err(SshError::CertificateFile { file: file.to_owned(), cause }),
        Ok(()) | Err(Problem::NotNow(_)) => Ok(()),
    }
}

/// Whether the run writes the file.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Written {
    Yes,
    No,
}

/// Returns the changes of a run as JSON.
fn report(file: &Path, next: &Next, before: &str, written: Written) -> Value {
    let is_changed = next.text != before;
    json!({
        "file": file.display().to_string(), "changed": is_changed, "written": is_changed && written == Written::Yes,
        "changes": next.plan.json(),
    })
}

/// Prints the command that connects with a host entry that this run named, added or changed.
fn note_next_step(args: &ConfigArgs, next: &Next) {
    let named = args.selection.machines.iter().find_map(|name| find_entry(name, &next.text));
    let alias = named.as_ref().map(|entry| entry.alias.as_str()).or(next.plan.first_alias());
    if let Some(alias) = alias {
        // The names of a wildcard are those of all machines.
        let (machine, name) = if is_wildcard(alias) { (" to the machine NAME", "NAME") } else { ("", "") };
        let command = if is_wildcard(alias) { alias.replace(['*', '?'], name) } else { shell_quote(alias) };
        note(&format!("hint: to connect{machine}, run: ssh {command}"));
    }
}

/// Locks the file against other arcssh processes.
async fn lock_file(file: &Path) -> Result<LockedConfig> {
    let progress = Progress::default();
    let step = Step::wait(format!("lock of {}", file.display()))
        .or("lock of the file")
        .with(", which another arcssh process holds");
    progress.set_deadline(step, LOCK_TIMEOUT);
    Ok(progress.run(LockedConfig::open(file)).await?)
}

/// Makes the changes of this run to the text of the file.
async fn changed(args: &ConfigArgs, file: &Path, old: &str) -> Result<Next> {
    let unchanged = || Next { text: old.to_owned(), plan: Plan::default() };
    if args.remove {
        let text = without(&to_selector(&args.selection).machines, old, file)?;
        let plan = Plan::between(own_block(old)?, own_block(&text)?, &Notes::default());
        return Ok(Next { text, plan });
    }
    let options = Options::of(old)?;
    let foreign = if args.adopt { foreign_entries::find(old) } else { Vec::new() };
    let is_empty = options.is_empty() && to_selector(&args.selection).is_empty();
    // Entries that a previous run adopted are the usual reason to add --clean.
    if args.adopt && foreign.is_empty() && (is_empty || !args.clean) {
        note(&format!(
            "{} has no host entry of az ssh config, Export-AzSshConfig or azure_rm_arcssh; to search another file, add --file FILE",
            file.display()
        ));
    }
    if args.adopt && foreign.is_empty() && is_empty {
        return Ok(unchanged());
    }
    let had_entries = !options.is_empty();
    let Composed { options, host_entries, notes } =
        compose(args, options, &foreign, Target { file, text: old }).await?;
    if options.is_empty() && !had_entries {
        return Ok(unchanged());
    }
    let adopted: Vec<ForeignEntry> = foreign.into_iter().filter(|entry| options.has_adopted(entry)).collect();
    let date = OffsetDateTime::now_utc().date().to_string();
    let commented = &foreign_entries::commented_out(old, &adopted, &date);
    let text = if options.is_empty() {
        managed_block::without_block(commented)?
    } else {
        managed_block::with_block(commented, &managed_block::block(&options.line()?, &host_entries))?
    };
    let plan = Plan::between(own_block(old)?, own_block(&text)?, &notes);
    Ok(Next { text, plan })
}

/// Whether the run has printed the list of changes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shown {
    Already,
    NotYet,
}

/// Writes the text if it has changes, after ssh has accepted it. Returns how ssh uses the host entries; `None` if that is
/// unknown.
async fn write(
    args: &ConfigArgs,
    edit: &LockedConfig,
    next: &Next,
    changes: Shown,
) -> Result<Option<Verified>> {
    let (file, new) = (edit.path().display(), &next.text);
    if *new == edit.text() {
        let mut verified = None;
        if !args.remove {
            note_remarks(&remarks_on(new).await?);
            verified = verify_written(new, edit.path()).await?;
        }
        note(&format!("{file} is up to date"));
        return Ok(verified);
    }
    let candidate = edit.candidate(new)?;
    if !args.remove && verify_candidate(new, candidate.path(), edit.path()).await?.is_none() {
        note("cannot verify the host entries: ssh is not installed");
    }
    let remarks = if args.remove { Vec::new() } else { remarks_on(new).await? };
    let foreign = managed_block::foreign_lines(own_block(edit.text())?);
    let backup = edit.commit(candidate)?;
    if changes == Shown::NotYet {
        next.plan.print(When::After);
    }
    let hosts = effective_config::host_entries(own_block(new)?).len().saturating_sub(1);
    let backup = backup.map_or(String::new(), |backup| format!(" (backup: {})", backup.display()));
    if let Some(first) = foreign.lines().find(|line| !line.starts_with('#')) {
        note(&format!(
            "moved lines that arcssh did not write below the managed block: {:?} and {} more",
            first.trim(),
            grouped(foreign.lines().count() - 1)
        ));
    }
    note(&if args.remove {
        format!("removed host entries from {file}{backup}")
    } else {
        format!("wrote {} to {file}{backup}", counted(hosts))
    });
    if args.remove {
        return Ok(None);
    }
    note_remarks(&remarks);
    verify_written(new, edit.path()).await
}

/// Verifies the block of a text that is in `file` now, and in `name` later.
async fn verify_candidate(text: &str, file: &Path, name: &Path) -> Result<Option<usize>> {
    let block = own_block(text)?.to_owned();
    let view = View::alone(file, name);
    let name = name.to_owned();
    with_progress(move |on_done| {
        let hosts = verification::verify(&block, &view, None, on_done)?;
        verification::accept_other_files(&name)?;
        Ok(hosts)
    })
    .await
}

/// Checks the files of the host entries, and runs their programs.
async fn remarks_on(text: &str) -> Result<Vec<Remark>> {
    let text = text.to_owned();
    let progress = Progress::default();
    progress.set(Step::wait("programs").with(" of the host entries"));
    let remarks = progress.run(spawn_blocking(move || entry_files::check(&text, None))).await;
    Ok(remarks.map_err(|error| anyhow!(error))??)
}

fn note_remarks(remarks: &[Remark]) {
    remarks.iter().for_each(|remark| note_finding(finding(remark).diagnose()));
}

/// Verifies the block of a text in its place. Notes if ssh uses the block only with `-F`.
async fn verify_written(text: &str, file: &Path) -> Result<Option<Verified>> {
    let (block, file) = (own_block(text)?.to_owned(), file.to_owned());
    if block.is_empty() {
        return Ok(Some(Verified { hosts: 0, not_included: None }));
    }
    let verified =
        with_progress(move |on_done| verification::verify_file(&block, &file, None, on_done)).await?;
    let Some(verified) = verified else { return Ok(None) };
    if let Some(reason) = &verified.not_included {
        note_finding(Error::from(SshError::NotIncluded(reason.clone())).diagnose());
    }
    info!(verified.hosts, "ssh uses the host entries");
    Ok(Some(verified))
}

/// Runs a verification, which reports the number of finished runs and of all runs, in another thread.
async fn with_progress<T: Send + 'static>(
    verify: impl FnOnce(&dyn Fn(usize, usize)) -> std::result::Result<T, SshError> + Send + 'static,
) -> Result<T> {
    let (sender, mut runs) = watch::channel((0, 0));
    let on_done = move |done, all| {
        sender.send_replace((done, all));
    };
    let verification = spawn_blocking(move || verify(&on_done));
    let progress = Progress::default();
    let show = |(done, all)| {
        progress.set(Step::program("ssh", done, all).with(" kinds of host entries").with(" are verified"));
    };
    progress.set(Step::wait("verification").with(" of the host entries").with(" by ssh"));
    let work = async {
        while runs.changed().await.is_ok() {
            show(*runs.borrow());
        }
        verification.await
    };
    Ok(progress.run(work).await.map_err(|error| anyhow!(error))??)
}

fn note_finding(Diagnosis { summary, hint, .. }: Diagnosis) {
    note(&summary);
    hint.iter().for_each(|hint| note(&format!("hint: {}", hint.text)));
}

fn counted(hosts: usize) -> String {
    if hosts == 1 { "1 host".into() } else { format!("{} hosts", grouped(hosts)) }
}

fn entries(hosts: usize) -> String {
    if hosts == 1 { "1 host entry".into() } else { format!("{} host entries", grouped(hosts)) }
}

fn own_block(text: &str) -> Result<&str> {
    Ok(managed_block::find(text)?.map_or("", |range| &text[range]))
}

/// Verifies the host entries of the named machines, or all.
async fn verify(args: &ConfigArgs, file: &Path) -> Result<u8> {
    let names = &to_selector(&args.selection).machines;
    let mut text = managed_block::read_valid(file)?;
    if managed_block::find(&text)?.is_none() {
        let path = file.to_owned();
        let included = spawn_blocking(move || verification::included_block(&path)).await;
        let included = included.map_err(|error| anyhow!(error))?;
        return Err(SshError::NoBlock { path: file.to_owned(), included }.into());
    }
    if !names.is_empty() {
        text = only(names, &text, file)?;
    }
    let remarks = remarks_on(&text).await?;
    note_remarks(&remarks);
    if remarks.iter().any(|remark| matches!(remark, Remark::Elsewhere { .. })) {
        return Ok(1);
    }
    let Some(Verified { hosts, .. }) = verify_written(&text, file).await? else {
        return Err(anyhow!("ssh is not installed").into());
    };
    shell::check().await?;
    note(&format!("verified {} in {}", counted(hosts), file.display()));
    if args.is_json() {
        print_json(&json!({ "file": file.display().to_string(), "hosts": hosts }))?;
    }
    let (used, block) = (UsedNames::here(file), own_block(&text)?);
    let mut notes = Notes::default();
    managed_block::host_entries(block).iter().for_each(|entry| notes.add_options(&used, entry));
    Plan::between("", block, &notes).print_options();
    Ok(0)
}

/// Prints a unified diff. Returns exit status 1 if there are changes.
fn show_difference(file: &Path, old: &str, new: &str) -> Result<u8> {
    let name = file.display().to_string();
    let mut diff = TextDiff::from_lines(old, new).unified_diff().header(&name, &name).to_string();
    let is_terminal = stdout().is_terminal();
    if is_terminal {
        diff = lines(&diff);
    }
    if Colors::of(&stdout()) == Colors::On {
        diff = diff.split_inclusive('\n').map(colored).collect();
    }
    // A pipe gets the bytes unchanged, since a program may apply the diff.
    if is_terminal {
        print(&diff)?
    } else {
        print(&managed_block::encoded(&diff))?
    }
    Ok(u8::from(old != new))
}

/// Returns a line of a unified diff in its colour.
fn colored(line: &str) -> String {
    let style = match line.as_bytes().first() {
        Some(b'+') => GOOD,
        Some(b'-') => BAD,
        Some(b'@') => ASIDE,
        _ => return line.to_owned(),
    };
    format!("{}\n", Colors::On.paint(style, line.trim_end_matches('\n')))
}
