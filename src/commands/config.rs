//! `arcssh config`: sections for Arc machines in the ssh configuration, written once ssh has proved that it uses them.

mod compose;
mod entra;
mod remove;

use std::io::{IsTerminal as _, Write, stdout};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use azure_core::time::OffsetDateTime;
use similar::TextDiff;
use tracing::info;

use crate::cli::ConfigArgs;
use crate::commands::config::compose::{Options, compose};
use crate::commands::config::remove::without;
use crate::line::{lines, one_line, print};
use crate::ssh::config_file::{self, Edit, PATIENCE};
use crate::ssh::judge::{self, NotUsed};
use crate::ssh::legacy::{self, Foreign};
use crate::terminal::takes_colours;
use crate::waiting::Waiting;

/// Writes, shows, takes out or verifies; the exit status.
///
/// # Errors
/// What Azure refuses, what ssh does not accept, or a value that cannot stand in a configuration.
pub(crate) async fn run(args: &ConfigArgs) -> Result<u8> {
    let file = args.file.clone().map_or_else(config_file::of_this_user, Ok)?;
    if args.verify {
        return verify(&file);
    }
    if args.output.is_some() {
        let (options, sections) = compose(args, Options::default(), &[]).await?;
        print(&config_file::block(&options.line()?, &sections))?;
        return Ok(0);
    }
    if args.dry_run {
        let old = config_file::read(&file)?;
        let new = changed(args, &old).await?;
        return show_difference(&file, &old, &new);
    }
    // Nobody is kept waiting while Azure is asked, but by whoever finds that another was faster.
    let before = config_file::read(&file)?;
    let mut wanted = changed(args, &before).await?;
    let edit = its_turn(&file).await?;
    if edit.text() != before {
        info!("{} was changed meanwhile", file.display());
        wanted = changed(args, edit.text()).await?;
    }
    let status = write(&edit, &wanted, args.remove)?;
    if args.adopt {
        clean_up(&wanted, args.clean)?;
    }
    Ok(status)
}

/// The file, once no other process changes it by arcssh.
async fn its_turn(file: &Path) -> Result<Edit> {
    let waiting = Waiting::default();
    waiting.until(format!("other arcssh that changes {}", file.display()), PATIENCE);
    waiting.during(Edit::open(file)).await
}

/// The file's text as it should be.
async fn changed(args: &ConfigArgs, old: &str) -> Result<String> {
    if args.remove {
        return without(&args.selection.selection().machines, old);
    }
    let kept = Options::of(old)?;
    let foreign = if args.adopt { legacy::find(old) } else { Vec::new() };
    if args.adopt && foreign.is_empty() && kept.is_empty() && args.selection.selection().is_empty() {
        tell("there is no section of another program to take over");
        return Ok(old.to_owned());
    }
    let (options, sections) = compose(args, kept, &foreign).await?;
    if options.is_empty() {
        return Ok(old.to_owned());
    }
    let taken: Vec<Foreign> = foreign.into_iter().filter(|section| options.has_adopted(section)).collect();
    let date = OffsetDateTime::now_utc().date().to_string();
    let old = &legacy::commented_out(old, &taken, &date);
    config_file::with_block(old, &config_file::block(&options.line()?, &sections))
}

/// Writes the text if it is another, after ssh has been asked about it.
fn write(edit: &Edit, new: &str, removing: bool) -> Result<u8> {
    let file = edit.path().display();
    if new == edit.text() {
        tell(&format!("{file} is as it should be"));
        return Ok(0);
    }
    let candidate = edit.candidate(new)?;
    if !removing {
        let proof = prove(new, candidate.path(), edit.path())?;
        if proof.is_none() {
            tell("no ssh is installed to prove the result with");
        }
    }
    let backup = edit.replace_by(candidate)?;
    let hosts = judge::sections(own_block(new)?).len().saturating_sub(1);
    let kept = backup.map_or(String::new(), |backup| format!("; as it was: {}", backup.display()));
    tell(&if removing {
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
    for (patterns, expected) in judge::sections(own_block(text)?) {
        for alias in patterns.iter().filter(|pattern| !pattern.contains(['*', '?'])) {
            let Some(shadowed) = judge::shadowed(alias, &expected, file)? else { return Ok(None) };
            if let Some(mut first) = shadowed.into_iter().next() {
                first.by =
                    first.by.map(|(by, line)| if by == file { (name.to_owned(), line) } else { (by, line) });
                bail!(NotUsed(first));
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

fn own_block(text: &str) -> Result<&str> {
    Ok(config_file::find(text)?.map_or("", |range| &text[range]))
}

fn verify(file: &Path) -> Result<u8> {
    let text = config_file::read(file)?;
    ensure!(config_file::find(&text)?.is_some(), "{} holds no arcssh block", file.display());
    match prove(&text, file, file)? {
        Some(hosts) => tell(&format!("ssh uses what {} says of {}", file.display(), counted(hosts))),
        None => bail!("no ssh is installed"),
    }
    Ok(0)
}

/// Lists what adopted sections leave behind, or deletes it.
fn clean_up(text: &str, delete: bool) -> Result<()> {
    let living: Vec<PathBuf> = legacy::find(text).iter().flat_map(Foreign::leftovers).collect();
    let mut left: Vec<PathBuf> = legacy::find_adopted(text).iter().flat_map(Foreign::leftovers).collect();
    left.sort();
    left.dedup();
    left.retain(|file| !living.contains(file) && !is_named(file, text));
    for file in &left {
        if delete {
            std::fs::remove_file(file).with_context(|| format!("cannot delete {}", file.display()))?;
            tell(&format!("deleted {}", file.display()));
        } else {
            tell(&format!("{} is left behind", file.display()));
        }
    }
    if !left.is_empty() && !delete {
        tell("hint: arcssh config --adopt --clean deletes what is left behind");
    }
    Ok(())
}

/// Whether a line that ssh reads names a file, from the home or the root on: by its own name and that of its folder.
fn is_named(file: &Path, text: &str) -> bool {
    let from = file.parent().and_then(Path::parent).unwrap_or(Path::new(""));
    let name = file.strip_prefix(from).unwrap_or(file).display().to_string();
    text.lines().any(|line| !line.trim_start().starts_with('#') && line.contains(&name))
}

/// Prints a unified diff; 1 if there is a difference.
fn show_difference(file: &Path, old: &str, new: &str) -> Result<u8> {
    let name = file.display().to_string();
    let mut diff = TextDiff::from_lines(old, new).unified_diff().header(&name, &name).to_string();
    // A pipe gets each byte as it is: a program may apply the difference.
    if stdout().is_terminal() {
        diff = lines(&diff);
    }
    if takes_colours(&stdout()) {
        diff = diff.split_inclusive('\n').map(coloured).collect();
    }
    print(&diff)?;
    Ok(u8::from(old != new))
}

/// A line of a unified diff, added ones green, removed ones red, places cyan.
fn coloured(line: &str) -> String {
    let colour = match line.as_bytes().first() {
        Some(b'+') => 32,
        Some(b'-') => 31,
        Some(b'@') => 36,
        _ => return line.to_owned(),
    };
    format!("\u{1b}[{colour}m{}\u{1b}[0m\n", line.trim_end_matches('\n'))
}

fn tell(text: &str) {
    let _ = writeln!(std::io::stderr(), "{}", one_line(&format!("arcssh: {text}")));
}
