//! The managed block in an ssh configuration. Finds, replaces and removes it, and replaces the file in one step.
//!
//! The edits are pure functions from text to text. They do not change a byte outside of the block.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tempfile::NamedTempFile;

use crate::ssh::SshError;
use crate::ssh::effective_config::directive;
use crate::system::files;

/// The template of the block.
const BLOCK: &str = include_str!("../../../config-templates/block.conf");
/// The start of the first line in every format. The number of the format follows.
const BEGIN: &str = "# >>> arcssh >>> block ";
/// The formats that arcssh reads. It writes the last one. They differ in the options line.
const FORMATS: [&str; 2] = ["1", "2"];
/// The most bytes of a configuration. 5,000 machines need 4 MiB.
const MAX_FILE: u64 = 64 << 20;
/// The number of backups in addition to the first one.
const BACKUPS: usize = 9;
/// The last line of every format.
const END: &str = "# <<< arcssh <<<";
/// The start of the options line.
const OPTIONS: &str = "# options ";
/// How long to wait for another arcssh that changes the file, and may be waiting for Azure.
pub(crate) const LOCK_TIMEOUT: Duration = Duration::from_secs(120);
/// The mark that some editors write before UTF-8 text.
const BYTE_ORDER_MARK: char = '\u{feff}';

/// Renders a block with host entries. `options` is one line, which the next run reads.
pub(crate) fn block(options: &str, host_entries: &str) -> String {
    // Each line has one placeholder, so that arcssh does not replace one inside a value.
    let filled = |line: &str| {
        if line.contains("{options}") {
            return line.replace("{options}", options);
        }
        line.replace("{host_entries}", host_entries.trim_end())
    };
    BLOCK.split_inclusive('\n').map(filled).collect()
}

/// Returns whether a block has the format that arcssh writes.
pub(crate) fn is_current(block: &str) -> bool {
    let [.., current] = FORMATS;
    let first = block.lines().next().unwrap_or_default().trim_start_matches(BYTE_ORDER_MARK);
    first.strip_prefix(BEGIN).is_some_and(|rest| rest.split(':').next() == Some(current))
}

/// The options line of the block in a text.
pub(crate) fn options(text: &str) -> Result<Option<&str>> {
    let Some(range) = find(text)? else { return Ok(None) };
    Ok(text[range].lines().find_map(|line| line.strip_prefix(OPTIONS)).map(str::trim_end))
}

/// Finds the block in a text, including the end of its last line.
///
/// # Errors
/// The markers do not match; the block has a later format. The error has the line number.
pub(crate) fn find(text: &str) -> Result<Option<Range<usize>>> {
    let (mut open, mut found) = (None, None);
    let mut end = 0;
    for (number, line) in (1..).zip(text.split_inclusive('\n')) {
        let start = end + line.len() - line.trim_start_matches(BYTE_ORDER_MARK).len();
        end += line.len();
        let content = line.trim_start_matches(BYTE_ORDER_MARK).trim_end();
        match (content.strip_prefix(BEGIN), open, &found) {
            (Some(_), Some((first, _)), _) => {
                bail!("line {number} begins a managed block inside the block of line {first}")
            }
            (Some(_), _, Some((first, _))) => {
                bail!("line {number} begins a second managed block; the first one begins at line {first}")
            }
            (Some(rest), None, None) => {
                let format = rest.split(':').next().unwrap_or_default();
                if !FORMATS.contains(&format) {
                    bail!(
                        "line {number} begins a managed block of format {format}, which this version does not know"
                    );
                }
                open = Some((number, start));
            }
            (None, None, _) if content == END => {
                bail!("line {number} ends a managed block that no line begins")
            }
            (None, Some((first, start)), _) if content == END => {
                found = Some((first, start..end));
                open = None;
            }
            _ => {}
        }
    }
    match open {
        Some((first, _)) => bail!("line {first} begins a managed block that no line ends"),
        None => Ok(found.map(|(_, range)| range)),
    }
}

/// Replaces the block of a text, or inserts it before everything else, since ssh uses the first value that it reads. The
/// block gets the line ends of the text.
///
/// # Errors
/// As for [`find`].
pub(crate) fn with_block(text: &str, block: &str) -> Result<String> {
    let line_end = if text.find('\n').is_some_and(|at| text[..at].ends_with('\r')) { "\r\n" } else { "\n" };
    let block = block.replace('\n', line_end);
    if let Some(range) = find(text)? {
        return Ok([&text[..range.start], &block, &text[range.end..]].concat());
    }
    let rest = text.trim_start_matches(BYTE_ORDER_MARK);
    let (mark, gap) = (&text[..text.len() - rest.len()], if rest.is_empty() { "" } else { line_end });
    Ok([mark, &block, gap, rest].concat())
}

/// Removes the block of a text, and the empty line that [`with_block`] inserts below it.
///
/// # Errors
/// As for [`find`].
pub(crate) fn without_block(text: &str) -> Result<String> {
    let Some(Range { start, end }) = find(text)? else { return Ok(text.to_owned()) };
    let (before, mut after) = (&text[..start], &text[end..]);
    if before.trim_start_matches(BYTE_ORDER_MARK).is_empty() {
        after = after.strip_prefix("\r\n").or(after.strip_prefix('\n')).unwrap_or(after);
    }
    Ok([before, after].concat())
}

/// The ranges of a block's host entries, each with the comments and the `Match` above it. Leaves out the `Host *` that ends
/// the block.
pub(crate) fn host_entries(block: &str) -> Vec<Range<usize>> {
    let lines: Vec<&str> = block.split_inclusive('\n').collect();
    let is_host = |at: &usize| directive(lines[*at]).is_some_and(|(keyword, _)| keyword == "host");
    let is_match = |line: &str| directive(line).is_some_and(|(keyword, _)| keyword == "match");
    let above = |line: &&&str| (line.starts_with('#') && !line.starts_with(OPTIONS)) || is_match(line);
    let start = |host: usize| host - lines[..host].iter().rev().take_while(above).count();
    let starts: Vec<usize> = (0..lines.len()).filter(is_host).map(start).collect();
    let start_of_next = |end: &mut usize, line: &&str| {
        *end += line.len();
        Some(*end)
    };
    let bytes: Vec<usize> = std::iter::once(0).chain(lines.iter().scan(0, start_of_next)).collect();
    starts.windows(2).map(|pair| bytes[pair[0]]..bytes[pair[1]]).collect()
}

/// A configuration file that no other arcssh can change.
pub(crate) struct LockedConfig {
    path: PathBuf,
    text: String,
    _lock: File,
}

impl LockedConfig {
    /// Locks and reads the file, after following links. A missing file counts as empty. Creates a missing directory for its
    /// owner only.
    ///
    /// # Errors
    /// The file cannot be read or is not UTF-8; another arcssh holds the lock for [`LOCK_TIMEOUT`].
    pub(crate) async fn open(path: &Path) -> Result<Self, SshError> {
        let path = resolve_link(path);
        let folder = files::parent(&path);
        files::create_private_dir(folder).map_err(not_written("create", folder))?;
        let lock = lock(&path).await.map_err(not_written("lock", &path))?;
        let text = read(&path)?;
        Ok(Self { path, text, _lock: lock })
    }

    /// The content of the file.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// The path of the file, without links.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a new version of the file to its directory, for ssh to check before it replaces the old one.
    ///
    /// # Errors
    /// The directory is not writable.
    pub(crate) fn candidate(&self, text: &str) -> Result<NamedTempFile, SshError> {
        let folder = files::parent(&self.path);
        let file =
            files::write_temporary(folder, text.as_bytes()).map_err(not_written("write to", folder))?;
        if let Ok(old) = fs::metadata(&self.path) {
            copy_owner(&old, file.as_file()).map_err(not_written("preserve the owner of", &self.path))?;
            fs::set_permissions(file.path(), old.permissions())
                .map_err(not_written("preserve the mode of", &self.path))?;
        }
        Ok(file)
    }

    /// Writes a [`backup`] and replaces the file in one step. Returns the backup, if there was a file.
    ///
    /// # Errors
    /// A file cannot be written, or another program has changed the configuration. The configuration is then unchanged.
    pub(crate) fn commit(&self, candidate: NamedTempFile) -> Result<Option<PathBuf>, SshError> {
        if read(&self.path)? != self.text {
            return Err(SshError::Changed(self.path.clone()));
        }
        let backup = if self.path.exists() { Some(backup(&self.path, self.text.as_bytes())?) } else { None };
        candidate.persist(&self.path).map_err(|error| not_written("replace", &self.path)(error.error))?;
        #[cfg(unix)]
        File::open(files::parent(&self.path))
            .and_then(|directory| directory.sync_all())
            .map_err(not_written("replace", &self.path))?;
        Ok(backup)
    }
}

/// Writes a backup to a hidden file in the same directory, which an `Include` of all its files does not match. arcssh never
/// replaces the first backup, which is the file before the first run, and otherwise replaces the oldest one. It does not
/// write a second backup with the same text.
///
/// # Errors
/// The backup cannot be written.
fn backup(file: &Path, text: &[u8]) -> Result<PathBuf, SshError> {
    let backups: Vec<PathBuf> = (0..=BACKUPS).map(|number| backup_name(file, number)).collect();
    let is_regular = |path: &Path| fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_file());
    let exists = |path: &&PathBuf| fs::symlink_metadata(path).is_ok();
    if let Some(same) =
        backups.iter().find(|path| is_regular(path) && fs::read(path).is_ok_and(|old| old == text))
    {
        return Ok(same.clone());
    }
    let age = |path: &&PathBuf| fs::symlink_metadata(path).and_then(|metadata| metadata.modified()).ok();
    let free = backups.iter().find(|path| !exists(path));
    let place = free.or_else(|| backups[1..].iter().min_by_key(age)).unwrap_or(&backups[0]);
    let write = || -> std::io::Result<()> {
        let made = files::write_temporary(files::parent(file), text)?;
        let old = fs::metadata(file)?;
        copy_owner(&old, made.as_file())?;
        fs::set_permissions(made.path(), old.permissions())?;
        made.persist(place)?;
        Ok(())
    };
    write().map_err(not_written("write", place))?;
    Ok(place.clone())
}

fn backup_name(file: &Path, number: usize) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(file.file_name().unwrap_or_default());
    name.push(".arcssh-backup");
    if number > 0 {
        name.push(format!(".{number}"));
    }
    file.with_file_name(name)
}

/// Returns the error of a file or directory that cannot be changed.
fn not_written(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> SshError {
    move |error| SshError::NotWritten { action, path: path.to_owned(), cause: error.to_string() }
}

/// The file that ssh reads for this user.
///
/// # Errors
/// The user has no home directory.
pub(crate) fn default_path() -> Result<PathBuf> {
    Ok(std::env::home_dir().context("this user has no home directory")?.join(".ssh/config"))
}

/// The text of a file; empty if the file does not exist.
///
/// # Errors
/// The file cannot be read or is not UTF-8.
pub(crate) fn read(path: &Path) -> Result<String> {
    match files::read(path, MAX_FILE) {
        Ok(bytes) => {
            String::from_utf8(bytes).ok().with_context(|| format!("{} is not UTF-8 text", path.display()))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// Follows links, also one to a file that does not exist.
fn resolve_link(path: &Path) -> PathBuf {
    if let Ok(path) = fs::canonicalize(path) {
        return path;
    }
    match fs::read_link(path) {
        Ok(target) => files::parent(path).join(target),
        Err(_) => path.to_owned(),
    }
}

/// Sets the owner of the old file on the new one, for a file of a user that root changes.
#[cfg(unix)]
fn copy_owner(old: &fs::Metadata, new: &File) -> std::io::Result<()> {
    use std::os::unix::fs::{MetadataExt as _, fchown};
    let metadata = new.metadata()?;
    if (metadata.uid(), metadata.gid()) == (old.uid(), old.gid()) {
        return Ok(());
    }
    fchown(new, Some(old.uid()), Some(old.gid()))
}

#[cfg(not(unix))]
fn copy_owner(_old: &fs::Metadata, _new: &File) -> std::io::Result<()> {
    Ok(())
}

/// Waits for the lock that each arcssh holds while it changes the file. The system releases it when the process ends. The
/// lock is on the directory, which no rename replaces. Windows cannot lock a directory, so there it is on a file.
async fn lock(path: &Path) -> std::io::Result<File> {
    #[cfg(unix)]
    let file = File::open(files::parent(path))?;
    #[cfg(not(unix))]
    let file = files::open_own(
        &path.with_file_name(".arcssh-lock"),
        fs::OpenOptions::new().create(true).truncate(false).write(true),
    )?;
    match files::lock(&file, LOCK_TIMEOUT).await {
        Err(error) if error.kind() == ErrorKind::WouldBlock => Err(std::io::Error::other(format!(
            "another arcssh process has locked the file for {} s",
            LOCK_TIMEOUT.as_secs()
        ))),
        locked => locked.map(|()| file),
    }
}

#[cfg(test)]
mod tests;
