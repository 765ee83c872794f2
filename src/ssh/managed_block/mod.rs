//! The managed block in an ssh configuration: found, replaced, taken out, and the file written in one piece.
//!
//! The edits are pure functions from text to text. What is not ours is never touched, byte for byte.

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
/// How the first line of every format begins; the format's number follows.
const BEGIN: &str = "# >>> arcssh >>> block ";
/// The formats that this program reads; it writes the last one. They differ in the line with the options.
const FORMATS: [&str; 2] = ["1", "2"];
/// The most bytes of a configuration: a fleet of 5,000 machines takes 4 MiB.
const MAX_FILE: u64 = 64 << 20;
/// How many files as they were are kept beside the first one.
const BACKUPS: usize = 9;
/// The last line of every format.
const END: &str = "# <<< arcssh <<<";
/// How the line with the options begins.
const OPTIONS: &str = "# options ";
/// How long others that change the file by arcssh are waited for: the longest of them asks Azure meanwhile.
pub(crate) const LOCK_TIMEOUT: Duration = Duration::from_secs(120);
/// The mark that some editors put before the first byte of UTF-8.
const BYTE_ORDER_MARK: char = '\u{feff}';

/// The block around these sections; `options` is one line, for the next run to read.
pub(crate) fn block(options: &str, sections: &str) -> String {
    // Line by line: a value that looks like a placeholder stays what it is.
    let filled = |line: &str| match line.contains("{options}") {
        true => line.replace("{options}", options),
        false => line.replace("{sections}", sections.trim_end()),
    };
    BLOCK.split_inclusive('\n').map(filled).collect()
}

/// Whether a block has the format that this program writes.
pub(crate) fn is_current(block: &str) -> bool {
    let [.., current] = FORMATS;
    let first = block.lines().next().unwrap_or_default().trim_start_matches(BYTE_ORDER_MARK);
    first.strip_prefix(BEGIN).is_some_and(|rest| rest.split(':').next() == Some(current))
}

/// The options that a text's block was written with.
pub(crate) fn options(text: &str) -> Result<Option<&str>> {
    let Some(range) = find(text)? else { return Ok(None) };
    Ok(text[range].lines().find_map(|line| line.strip_prefix(OPTIONS)).map(str::trim_end))
}

/// Where the block is: from its first line's first byte to behind its last line.
///
/// # Errors
/// Markers that do not pair, by line number; a block of a later format.
pub(crate) fn find(text: &str) -> Result<Option<Range<usize>>> {
    let (mut open, mut found) = (None, None);
    let mut end = 0;
    for (number, line) in (1..).zip(text.split_inclusive('\n')) {
        let start = end + line.len() - line.trim_start_matches(BYTE_ORDER_MARK).len();
        end += line.len();
        let content = line.trim_start_matches(BYTE_ORDER_MARK).trim_end();
        match (content.strip_prefix(BEGIN), open, &found) {
            (Some(_), Some((first, _)), _) => {
                bail!("line {number} begins an arcssh block inside that of line {first}")
            }
            (Some(_), _, Some((first, _))) => {
                bail!("line {number} begins a second arcssh block; one is at line {first}")
            }
            (Some(rest), None, None) => {
                let format = rest.split(':').next().unwrap_or_default();
                if !FORMATS.contains(&format) {
                    bail!(
                        "line {number} begins an arcssh block of format {format}, which this version does not know"
                    );
                }
                open = Some((number, start));
            }
            (None, None, _) if content == END => {
                bail!("line {number} ends an arcssh block that no line begins")
            }
            (None, Some((first, start)), _) if content == END => {
                found = Some((first, start..end));
                open = None;
            }
            _ => {}
        }
    }
    match open {
        Some((first, _)) => bail!("line {first} begins an arcssh block that no line ends"),
        None => Ok(found.map(|(_, range)| range)),
    }
}

/// The text with this block in it: in the place of the one it has, or before everything else, since ssh takes the first
/// value that it meets. The block takes on the file's line ends.
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

/// The text without its block, and without the empty line that [`with_block`] put behind one at the top.
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

/// Where a block's sections are, each with the comments and the `Match` above it; not the last one, which closes the
/// block.
pub(crate) fn sections(block: &str) -> Vec<Range<usize>> {
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

/// A configuration file that is being changed, while nobody else changes it by arcssh.
pub(crate) struct LockedConfig {
    path: PathBuf,
    text: String,
    _lock: File,
}

impl LockedConfig {
    /// Takes the lock and reads the file; one that is not there is empty. Links are followed to the file that will be
    /// written. A folder that is missing is made for its owner alone.
    ///
    /// # Errors
    /// It cannot be read, or is no UTF-8; others change it for longer than [`LOCK_TIMEOUT`].
    pub(crate) async fn open(path: &Path) -> Result<Self, SshError> {
        let path = resolve_link(path);
        let folder = files::parent(&path);
        files::create_private_dir(folder).map_err(not_written("create", folder))?;
        let lock = lock(&path).await.map_err(not_written("lock", &path))?;
        let text = read(&path)?;
        Ok(Self { path, text, _lock: lock })
    }

    /// What the file holds.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// The file, links followed.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// A new version of the file, beside it, which ssh can be asked about before it takes the old one's place.
    ///
    /// # Errors
    /// The folder cannot be written to.
    pub(crate) fn candidate(&self, text: &str) -> Result<NamedTempFile, SshError> {
        let folder = files::parent(&self.path);
        let file =
            files::write_temporary(folder, text.as_bytes()).map_err(not_written("write to", folder))?;
        if let Ok(old) = fs::metadata(&self.path) {
            keep_owner(&old, file.as_file()).map_err(not_written("preserve the owner of", &self.path))?;
            fs::set_permissions(file.path(), old.permissions())
                .map_err(not_written("preserve the mode of", &self.path))?;
        }
        Ok(file)
    }

    /// Keeps the old version in a backup, and puts the new one in its place in one step; the backup, if there was something
    /// to keep. See [`backup`].
    ///
    /// # Errors
    /// Either cannot be written, or somebody else has changed the file. It is then as it was.
    pub(crate) fn commit(&self, candidate: NamedTempFile) -> Result<Option<PathBuf>, SshError> {
        if read(&self.path)? != self.text {
            let file = self.path.display();
            return Err(SshError::Failed(format!("another program changed {file}; run the command again")));
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

/// Keeps what a file held in a hidden file beside it, which an Include of all files in the folder does not read. The first
/// backup is never replaced, since it holds the file as it was before arcssh; of the others the oldest gives way. A text
/// that a backup holds already is not kept twice.
///
/// # Errors
/// It cannot be written.
fn backup(file: &Path, text: &[u8]) -> Result<PathBuf, SshError> {
    let backups: Vec<PathBuf> = (0..=BACKUPS).map(|number| backup_name(file, number)).collect();
    let is_regular = |path: &Path| fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_file());
    let is_there = |path: &&PathBuf| fs::symlink_metadata(path).is_ok();
    if let Some(same) =
        backups.iter().find(|path| is_regular(path) && fs::read(path).is_ok_and(|old| old == text))
    {
        return Ok(same.clone());
    }
    let age = |path: &&PathBuf| fs::symlink_metadata(path).and_then(|metadata| metadata.modified()).ok();
    let free = backups.iter().find(|path| !is_there(path));
    let place = free.or_else(|| backups[1..].iter().min_by_key(age)).unwrap_or(&backups[0]);
    let write = || -> std::io::Result<()> {
        let made = files::write_temporary(files::parent(file), text)?;
        let old = fs::metadata(file)?;
        keep_owner(&old, made.as_file())?;
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

/// The text of a file; empty where there is none.
///
/// # Errors
/// It cannot be read, or is no UTF-8.
pub(crate) fn read(path: &Path) -> Result<String> {
    match files::read(path, MAX_FILE) {
        Ok(bytes) => {
            String::from_utf8(bytes).ok().with_context(|| format!("{} is not UTF-8 text", path.display()))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// Where a path leads, also through a link to a file that is not there yet.
fn resolve_link(path: &Path) -> PathBuf {
    if let Ok(path) = fs::canonicalize(path) {
        return path;
    }
    match fs::read_link(path) {
        Ok(target) => files::parent(path).join(target),
        Err(_) => path.to_owned(),
    }
}

/// What root changes for a user stays the user's.
#[cfg(unix)]
fn keep_owner(old: &fs::Metadata, new: &File) -> std::io::Result<()> {
    use std::os::unix::fs::{MetadataExt as _, fchown};
    let made = new.metadata()?;
    if (made.uid(), made.gid()) == (old.uid(), old.gid()) {
        return Ok(());
    }
    fchown(new, Some(old.uid()), Some(old.gid()))
}

#[cfg(not(unix))]
fn keep_owner(_old: &fs::Metadata, _new: &File) -> std::io::Result<()> {
    Ok(())
}

/// Waits for the lock that each arcssh holds while it edits the file, and that the system frees when the process ends. It is
/// on the directory, which no rename replaces. Windows locks no directory: there it is on a file in that directory.
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
            "another arcssh has been changing it for {} s",
            LOCK_TIMEOUT.as_secs()
        ))),
        locked => locked.map(|()| file),
    }
}

#[cfg(test)]
mod tests;
