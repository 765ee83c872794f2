//! The managed block in an ssh configuration. Finds, replaces and removes it, and replaces the file in one step.
//!
//! The edits are pure functions from text to text. They do not change a byte outside of the block.
//!
//! Programs that parse the structure of a configuration attach comments and settings to the section above them. The block
//! therefore ends with an empty `Host *`, to which its last marker belongs. A second `Host *` below the marker belongs to the
//! user's settings.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tempfile::NamedTempFile;

use crate::ssh::SshError;
use crate::ssh::effective_config::{MAX_FILE, directive};
use crate::ssh::home;
use crate::ssh::host_entry;
use crate::system::files;

/// The template of the block.
const BLOCK: &str = include_str!("../../../config-templates/block.conf");
/// The start of the first line in every format. The number of the format follows.
const BEGIN: &str = "# >>> arcssh >>> block ";
/// The formats that arcssh reads. It writes the last one. They differ in the options line.
const FORMATS: [&str; 2] = ["1", "2"];
/// The number of backups in addition to the first one.
const BACKUPS: usize = 9;
/// The start of the comments above the last section, also in earlier versions.
const CLOSING: &str = "# End of the arcssh host entries.";
/// The last line of every format.
const END: &str = "# <<< arcssh <<<";
/// The lines below the last marker, with which the user's settings apply to every host.
const ALL_HOSTS: [&str; 2] = ["# The settings below apply to all hosts.", "Host *"];
/// The start of the options line.
const OPTIONS: &str = "# options ";
/// How long to wait for another arcssh that changes the file, and may be waiting for Azure.
pub(crate) const LOCK_TIMEOUT: Duration = Duration::from_secs(120);
/// The mark that some editors write before UTF-8 text.
pub(crate) const BYTE_ORDER_MARK: char = '\u{feff}';

/// Renders a block with host entries. `options` is one line, which the next run reads. The `Match` lines that renew
/// certificates go below all host entries, since some programs read no host entry below a `Match`.
pub(crate) fn block(options: &str, host_entries: &str) -> String {
    let renewals = sections(host_entries).into_iter().filter(|section| section.is_renewal(host_entries));
    let renewals: BTreeMap<usize, Range<usize>> =
        renewals.map(|section| (section.header.start, section.header)).collect();
    let is_entry = |line: &&Range<usize>| !renewals.contains_key(&line.start);
    let entries: String =
        line_ranges(host_entries).iter().filter(is_entry).map(|line| &host_entries[line.clone()]).collect();
    let renewals: String = renewals.into_values().map(|line| &host_entries[line]).collect();
    let gap = if renewals.is_empty() { "" } else { "\n\n" };
    let entries = [entries.trim_end(), gap, renewals.trim_end()].concat();
    // Each line has one placeholder, so that arcssh does not replace one inside a value.
    let filled = |line: &str| {
        if line.contains("{options}") {
            return line.replace("{options}", options);
        }
        line.replace("{host_entries}", &entries)
    };
    BLOCK.split_inclusive('\n').map(filled).collect()
}

/// Returns whether a line is a comment of the block that arcssh writes.
pub(crate) fn is_own_comment(line: &str) -> bool {
    let line = line.trim_end();
    let is_options = line.strip_prefix(OPTIONS).is_some_and(|options| options.starts_with('{'));
    is_options || line.starts_with('#') && BLOCK.lines().any(|own| own == line)
}

/// Returns whether a block has the format that arcssh writes.
pub(crate) fn is_current(block: &str) -> bool {
    let [.., current] = FORMATS;
    let first = block.lines().next().unwrap_or_default().trim_start_matches(BYTE_ORDER_MARK);
    // A block without its first line has the options of the current format; see `find`.
    first.strip_prefix(BEGIN).is_none_or(|rest| rest.split(':').next() == Some(current))
}

/// The options line of the block in a text.
pub(crate) fn options(text: &str) -> Result<Option<&str>> {
    let Some(range) = find(text)? else { return Ok(None) };
    Ok(text[range].lines().find_map(|line| line.strip_prefix(OPTIONS)).map(str::trim_end))
}

/// The options of the block in a text; null if there are none.
pub(crate) fn parsed_options(text: &str) -> Value {
    let line = options(text).ok().flatten().unwrap_or_default();
    serde_json::from_str(line).unwrap_or_default()
}

/// The suffix of all aliases of the block in a text, such as `.arc`; empty if they have none.
pub(crate) fn suffix(text: &str) -> String {
    parsed_options(text)["suffix"].as_str().unwrap_or_default().to_owned()
}

/// Whether a ProxyCommand runs `proxy` with the arguments of arcssh.
fn names_machine(command: &str) -> bool {
    command.contains(" proxy /subscriptions/") || command.contains(" proxy --host %")
}

/// Whether a ProxyCommand runs arcssh, also in a wrapper or a template of the user. Other programs have a `proxy` too.
pub(crate) fn is_own_command(command: &str) -> bool {
    let has_proxy = command.split_whitespace().any(|word| word == "proxy");
    names_machine(command) || has_proxy && command.to_lowercase().contains("arcssh")
}

/// Finds the block in a text, including the end of its last line. The options line is directly above the last marker, so a
/// block that has lost its first marker is still complete; see [`rest_of_block`].
///
/// # Errors
/// The markers do not match; the block has a later format. The error has the line number.
pub(crate) fn find(text: &str) -> Result<Option<Range<usize>>> {
    let has_options = |range: &Range<usize>| {
        let mut lines = text[range.clone()].lines().rev();
        lines.next().is_some_and(|line| line == END)
            && lines.next().is_some_and(|line| line.starts_with(OPTIONS))
    };
    find_markers(text).or_else(|error| rest_of_block(text).filter(has_options).map(Some).ok_or(error))
}

fn find_markers(text: &str) -> Result<Option<Range<usize>>> {
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

/// The end of the block with the lines of [`ALL_HOSTS`] that follow it.
fn end_with_all_hosts(text: &str, end: usize) -> usize {
    let mut end = end;
    for (line, expected) in text[end..].split_inclusive('\n').zip(ALL_HOSTS) {
        if line.trim_end() != expected {
            break;
        }
        end += line.len();
    }
    end
}

/// The [`foreign_lines`] of a block, after which settings apply to every host.
fn below_block(block: &str) -> String {
    let mut foreign = foreign_lines(block);
    let is_section = |line: &&str| directive(line).is_some_and(|(keyword, _)| is_header(&keyword));
    if foreign.lines().rev().find(is_section).is_some_and(|last| last.trim_end() != ALL_HOSTS[1]) {
        let line_end = if foreign.ends_with("\r\n") { "\r\n" } else { "\n" };
        foreign += &[ALL_HOSTS[1], line_end].concat();
    }
    foreign
}

/// Replaces the block of a text, or inserts it before everything else, since ssh uses the first value that it reads. The
/// block gets the line ends of the text. [`foreign_lines`] of the old block go below the new one.
///
/// # Errors
/// As for [`find`].
pub(crate) fn with_block(text: &str, block: &str) -> Result<String> {
    let line_end = if text.find('\n').is_some_and(|at| text[..at].ends_with('\r')) { "\r\n" } else { "\n" };
    let block = block.replace('\n', line_end);
    if let Some(range) = find(text)? {
        let foreign = below_block(&text[range.clone()]);
        let rest = &text[end_with_all_hosts(text, range.end)..];
        return Ok([&text[..range.start], &block, &foreign, rest].concat());
    }
    let rest = text.trim_start_matches(BYTE_ORDER_MARK);
    let (mark, gap) = (&text[..text.len() - rest.len()], if rest.is_empty() { "" } else { line_end });
    Ok([mark, &block, gap, rest].concat())
}

/// Removes the block of a text, and the empty line that [`with_block`] inserts below it. [`foreign_lines`] stay.
///
/// # Errors
/// As for [`find`].
pub(crate) fn without_block(text: &str) -> Result<String> {
    let Some(Range { start, end }) = find(text)? else { return Ok(text.to_owned()) };
    let foreign = below_block(&text[start..end]);
    let (before, mut after) = (&text[..start], &text[end_with_all_hosts(text, end)..]);
    if before.trim_start_matches(BYTE_ORDER_MARK).is_empty() && foreign.is_empty() {
        after = after.strip_prefix("\r\n").or(after.strip_prefix('\n')).unwrap_or(after);
    }
    Ok([before, &foreign, after].concat())
}

/// A section of a block: a `Host` or `Match` line with the lines below it, up to the comments of the next section.
struct Section {
    /// Includes the comments above the header.
    range: Range<usize>,
    header: Range<usize>,
    keyword: String,
    value: String,
}

fn is_header(keyword: &str) -> bool {
    keyword == "host" || keyword == "match"
}

/// The offsets of the lines of a text.
fn line_ranges(text: &str) -> Vec<Range<usize>> {
    let end_of_next = |end: &mut usize, line: &str| {
        let start = std::mem::replace(end, *end + line.len());
        Some(start..*end)
    };
    text.split_inclusive('\n').scan(0, end_of_next).collect()
}

fn sections(block: &str) -> Vec<Section> {
    let lines = line_ranges(block);
    let is_marker = |line: &str| {
        [BEGIN, OPTIONS, END]
            .iter()
            .any(|marker| line.trim_start_matches(BYTE_ORDER_MARK).starts_with(marker))
    };
    let is_comment = |range: &&Range<usize>| {
        let line = &block[(*range).clone()];
        line.starts_with('#') && !is_marker(line)
    };
    let mut sections: Vec<Section> = Vec::new();
    for (at, header) in lines.iter().enumerate() {
        let Some((keyword, value)) = directive(&block[header.clone()]) else { continue };
        if !is_header(&keyword) {
            continue;
        }
        let comments = lines[..at].iter().rev().take_while(is_comment).count();
        let start = lines[at - comments].start;
        if let Some(last) = sections.last_mut() {
            last.range.end = start;
        }
        sections.push(Section { range: start..block.len(), header: header.clone(), keyword, value });
    }
    let is_end =
        |line: &&Range<usize>| block[(*line).clone()].trim_start_matches(BYTE_ORDER_MARK).trim_end() == END;
    if let Some((last, line)) = sections.last_mut().zip(lines.last().filter(is_end)) {
        last.range.end = line.start;
    }
    sections
}

impl Section {
    fn directives<'a>(&self, block: &'a str) -> impl Iterator<Item = (&'a str, String, String)> + use<'a> {
        let body = &block[self.header.end..self.range.end];
        body.split_inclusive('\n').filter_map(|line| {
            let (keyword, value) = directive(line)?;
            Some((line, keyword, value))
        })
    }

    /// Whether arcssh wrote the section: a host entry with its ProxyCommand, a `Match` that renews a certificate, or the
    /// empty `Host *` at the end.
    fn is_own(&self, block: &str) -> bool {
        let is_proxy =
            |(_, keyword, value): (&str, String, String)| keyword == "proxycommand" && is_own_command(&value);
        self.is_renewal(block) || self.is_closing(block) || self.directives(block).any(is_proxy)
    }

    /// Whether the section connects through arcssh.
    fn connects(&self, block: &str) -> bool {
        self.directives(block).any(|(_, keyword, value)| keyword == "proxycommand" && names_machine(&value))
    }

    /// Whether the section has only lines that arcssh writes, so that it needs no markers to be recognized.
    fn is_certain(&self, block: &str) -> bool {
        let own = own_keywords();
        let has_own = || self.directives(block).all(|(_, keyword, _)| own.contains(&keyword));
        self.is_renewal(block) || self.connects(block) && has_own()
    }

    /// Whether the section is a `Match` line that renews a certificate.
    fn is_renewal(&self, block: &str) -> bool {
        let is_match = self.keyword == "match" && self.value.starts_with("originalhost ");
        is_match && self.directives(block).next().is_none()
    }

    /// Whether the section is the empty `Host *` at the end.
    fn is_closing(&self, block: &str) -> bool {
        self.keyword == "host" && self.value == "*" && self.directives(block).next().is_none()
    }

    /// The patterns of this host entry, as in the `Match` line that renews its certificate.
    fn match_patterns(&self) -> String {
        self.value.split_whitespace().collect::<Vec<_>>().join(",")
    }
}

/// Whether the host entries of a block have a template of the user, which may contain any line.
fn has_template(block: &str) -> bool {
    block.lines().any(|line| line.starts_with(OPTIONS) && line.contains("\"template\":"))
}

/// The keywords of the built-in templates.
fn own_keywords() -> Vec<String> {
    let templates = [host_entry::HOST, host_entry::WILDCARD];
    templates.iter().flat_map(|text| text.lines()).filter_map(directive).map(|one| one.0).collect()
}

/// Keywords of the built-in templates, with the options of which one has a value if a host entry has the keyword.
const BY_OPTION: [(&str, &[&str]); 12] = [
    ("user", &["user", "entra"]),
    ("port", &["port"]),
    ("identityfile", &["identity", "entra"]),
    ("certificatefile", &["certificate_file", "entra"]),
    ("identityagent", &["entra"]),
    ("identitiesonly", &["certificate_file", "entra"]),
    ("pubkeyauthentication", &["entra"]),
    ("pubkeyacceptedkeytypes", &["entra"]),
    ("forwardagent", &["entra"]),
    ("controlmaster", &["control_master"]),
    ("controlpath", &["control_master"]),
    ("controlpersist", &["control_master"]),
];

/// The keywords of the lines that arcssh can have written into a block. A line with another keyword is the user's.
fn written_keywords(block: &str) -> Vec<String> {
    let options = block.lines().find(|line| line.starts_with(OPTIONS)).unwrap_or_default();
    let has = |option: &&str| options.contains(&format!("\"{option}\":"));
    // Format 1 has other options; see [`is_current`].
    let is_known = has(&"selections");
    let is_written = |keyword: &String| match BY_OPTION.iter().find(|(name, _)| name == keyword) {
        Some((_, options)) if is_known => options.iter().any(has),
        _ => true,
    };
    own_keywords().into_iter().filter(is_written).collect()
}

/// A block of which one marker is missing, if it is certain which lines arcssh wrote. Programs that parse a configuration and
/// remove a section also remove the comments below it, such as a marker.
fn rest_of_block(text: &str) -> Option<Range<usize>> {
    let lines = line_ranges(text);
    let content = |line: &&Range<usize>| text[(*line).clone()].trim_start_matches(BYTE_ORDER_MARK).trim_end();
    let begins: Vec<&Range<usize>> = lines.iter().filter(|line| content(line).starts_with(BEGIN)).collect();
    let ends: Vec<&Range<usize>> = lines.iter().filter(|line| content(line) == END).collect();
    match (&begins[..], &ends[..]) {
        ([], [end]) => {
            let above = &text[..end.end];
            let sections = sections(above);
            let (closing, entries) = sections.split_last().filter(|(last, _)| last.is_closing(above))?;
            let other = entries.iter().rposition(|section| !section.is_certain(above));
            let start =
                entries.get(other.map_or(0, |at| at + 1)).map_or(closing.range.start, |one| one.header.start);
            let is_doubtful = has_template(above) || other.is_some_and(|at| entries[at].connects(above));
            (!is_doubtful).then_some(start..end.end)
        }
        ([begin], []) => {
            let below = &text[begin.start..];
            let sections = sections(below);
            let own = sections.iter().take_while(|section| section.is_certain(below));
            Some(begin.start..begin.start + own.last()?.range.end)
        }
        _ => None,
    }
}

/// The first and the last line of the [`rest_of_block`].
fn lines_of_rest(text: &str) -> Option<(usize, usize)> {
    let range = rest_of_block(text)?;
    let number = |at: usize| text[..at].matches('\n').count() + 1;
    let end = end_with_all_hosts(text, range.end);
    Some((number(range.start), number(text[..end].trim_end().len())))
}

/// The lines inside of a block that arcssh did not write. Programs that write a parsed configuration put new sections into
/// the block, and users add settings to host entries.
pub(crate) fn foreign_lines(block: &str) -> String {
    let sections = sections(block);
    let first = sections.first().map_or(block.len(), |section| section.range.start);
    let line = |line: &str| format!("{}\n", line.trim_end_matches('\n'));
    let mut foreign: String =
        block[..first].split_inclusive('\n').filter(|text| directive(text).is_some()).map(line).collect();
    let has_template = has_template(block);
    let own = written_keywords(block);
    for section in &sections {
        let is_closing = section.value == "*" && section.keyword == "host";
        if has_template && !is_closing {
            continue;
        }
        if !section.is_own(block) {
            // The comment with a resource ID belongs to the host entry below a section that another program inserted.
            let text = &block[section.range.clone()];
            let is_id = |text: &&str| text.starts_with("# /subscriptions/") || text.starts_with(CLOSING);
            let text: String = text.split_inclusive('\n').filter(|text| !is_id(text)).collect();
            foreign += &line(text.trim_end());
            continue;
        }
        let added = section.directives(block).filter(|(_, keyword, _)| !own.contains(keyword));
        let added: String = added.map(|(text, ..)| line(text)).collect();
        if !added.is_empty() {
            foreign += &(line(&block[section.header.clone()]) + &added);
        }
    }
    foreign
}

/// The host entries of a block, each with the comments above it and the `Match` that renews its certificate. Leaves out the
/// `Host *` that ends the block, and sections that arcssh did not write.
pub(crate) fn host_entries(block: &str) -> Vec<String> {
    let sections = sections(block);
    let has_template = has_template(block);
    let mut renewals: BTreeMap<String, &Section> = BTreeMap::new();
    for renewal in sections.iter().filter(|section| section.is_renewal(block)) {
        let patterns = renewal.value.split_whitespace().nth(1).unwrap_or_default();
        renewals.entry(patterns.to_owned()).or_insert(renewal);
    }
    let is_entry = |section: &&Section| {
        section.keyword == "host" && !section.is_closing(block) && (has_template || section.is_own(block))
    };
    let text = |section: &Section| {
        let renewal = renewals.get(&section.match_patterns());
        let range = &section.range;
        let Some(renewal) = renewal else { return block[range.clone()].to_owned() };
        // An earlier version wrote the `Match` between the comments and the host entry.
        let above = if renewal.range.end == range.start { renewal.range.start } else { range.start };
        let comments = &block[above..section.header.start.min(renewal.header.start).max(above)];
        let line = block[renewal.header.clone()].trim_end();
        [comments, line, "\n", &block[section.header.start..range.end]].concat()
    };
    sections.iter().filter(is_entry).map(text).collect()
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
    /// The file cannot be read; another arcssh holds the lock for [`LOCK_TIMEOUT`].
    pub(crate) async fn open(path: &Path) -> Result<Self, SshError> {
        let path = resolve_link(path);
        let folder = files::parent(&path);
        files::create_private_dir(folder).map_err(not_written("create", folder))?;
        let lock = lock(&path).await.map_err(not_written("lock", &path))?;
        let text = read_valid(&path)?;
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
        let file = files::write_temporary(folder, &encoded(text)).map_err(not_written("write to", folder))?;
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
        let backup = if self.path.exists() { Some(backup(&self.path, &encoded(&self.text))?) } else { None };
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
/// As for [`home::directory`].
pub(crate) fn default_path() -> Result<PathBuf, SshError> {
    Ok(home::directory()?.join(".ssh/config"))
}

/// The first of the characters, at the end of a private use area, that replace bytes outside of UTF-8.
const FIRST_BYTE: u32 = 0x0010_ff80;

/// The text of bytes. ssh reads a configuration as bytes, so a comment may have any encoding. A byte outside of UTF-8 becomes
/// a character of a private use area, from which [`encoded`] restores the byte.
fn decoded(bytes: &[u8]) -> String {
    let replaced = |byte: u8| char::from_u32(FIRST_BYTE - 0x80 + u32::from(byte)).unwrap_or_default();
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            if byte_of(character).is_some() {
                text.extend(character.encode_utf8(&mut [0; 4]).bytes().map(replaced));
            } else {
                text.push(character);
            }
        }
        text.extend(chunk.invalid().iter().copied().map(replaced));
    }
    text
}

/// The byte that a character of [`decoded`] replaces.
fn byte_of(character: char) -> Option<u8> {
    u8::try_from(u32::from(character).checked_sub(FIRST_BYTE)? + 0x80).ok()
}

/// The bytes of a text that was read from a configuration.
pub(crate) fn encoded(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    for character in text.chars() {
        match byte_of(character) {
            Some(byte) => bytes.push(byte),
            None => bytes.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    bytes
}

/// Returns the text of the user's configuration; an empty one if it cannot be read.
pub(crate) fn text_of_user() -> String {
    default_path().ok().and_then(|file| read(&file).ok()).unwrap_or_default()
}

/// The text of a file, with bytes outside of UTF-8 for [`encoded`]; empty if the file does not exist.
///
/// # Errors
/// The file cannot be read.
pub(crate) fn read(path: &Path) -> Result<String> {
    match files::read(path, MAX_FILE) {
        Ok(bytes) => Ok(decoded(&bytes)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// The text of a file, as from [`read`], whose managed block has both markers.
///
/// # Errors
/// As for [`read`]; [`SshError::DamagedBlock`].
pub(crate) fn read_valid(path: &Path) -> Result<String, SshError> {
    let text = read(path)?;
    match find(&text) {
        Ok(_) => Ok(text),
        Err(error) => Err(SshError::DamagedBlock {
            path: path.to_owned(),
            cause: error.to_string(),
            rest: lines_of_rest(&text),
        }),
    }
}

/// The most links in a row that Linux follows (path_resolution(7)).
const MAX_LINKS: usize = 40;

/// Follows links, also those to a file that does not exist.
fn resolve_link(path: &Path) -> PathBuf {
    if let Ok(path) = fs::canonicalize(path) {
        return path;
    }
    let mut file = path.to_owned();
    for _ in 0..MAX_LINKS {
        match fs::read_link(&file) {
            Ok(target) => file = files::parent(&file).join(target),
            Err(_) => return file,
        }
    }
    path.to_owned()
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
