//! What outlives one process: small files of this user alone, each replaced in one piece, with locks between processes.
//!
//! Knows directories, files and locks, not what the values mean. Whatever goes wrong with the disk, the program works
//! without: a store that cannot be had holds nothing. A name, its form and its owner say which files are arcssh's; no
//! others are read, replaced or deleted.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use etcetera::BaseStrategy;
use ring::digest::{SHA256, digest};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};
use tracing::{debug, info};
use zeroize::Zeroizing;

use crate::system::files::{ensure_own, is_own, open_own};
use crate::terminal::output::note;

/// The form of the files. A file of another form counts as absent, and is replaced.
const VERSION: u32 = 1;
/// The longest that anything is half made: a key takes a second, and a file less.
const MAX_WORK: Duration = Duration::from_secs(3600);
/// The longest that anything but a sign-in is of use after it was written: as long as a certificate's key.
const MAX_LIFETIME: Duration = Duration::from_secs(30 * 24 * 3600);
/// How the names of temporary files and directories begin; [`RANDOM`] letters and digits follow, and one of the ends.
const TEMPORARY: &str = ".arcssh-";
const RANDOM: usize = 12;
/// The end of a file that is still being written.
const TEMP_PREFIX: &str = ".tmp";
/// The end of a directory in which ssh-keygen makes a key.
const TEMP_DIR_PREFIX: &str = ".key";
/// What ssh-keygen leaves in it (ssh-keygen(1), `-f`).
const MADE: [&str; 2] = ["key", "key.pub"];
/// What marks the lock of those who have waited too long for another.
const SECOND: &str = "-second";
/// The longest file that is read.
const MAX_FILE: u64 = 1024 * 1024;
/// How long a lock is waited for. Its holder's work is bounded too, and the system frees what a dead one held; this is
/// for one that stands still.
const LOCK_TIMEOUT: Duration = Duration::from_secs(15);
/// How long the second one is waited for: longer than any work with it, lest all begin at once what takes long.
const LONG_LOCK_TIMEOUT: Duration = Duration::from_secs(75);
/// How often a lock is looked at. Waiting in the system would wake at once, but one after the other, and not be called
/// off.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Names the directory in which arcssh makes its state directory, in place of the platform's.
pub(crate) const STATE_DIR_VARIABLE: &str = "ARCSSH_STATE_DIR";
/// The state directory in the one that [`STATE_DIR_VARIABLE`] names, which can hold anything else.
const OWN_FOLDER: &str = "arcssh-state";
/// What to type where nothing can be kept.
pub(crate) const OTHER_DIRECTORY: &str = "name a folder of your own in ARCSSH_STATE_DIR";

/// What is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    /// Relay credentials of a machine.
    Relay,
    /// An answer of ARM that says no.
    Refusal,
    /// When a service may be asked again.
    Throttle,
    /// The resource ID behind a name.
    Name,
    /// An access token.
    Token,
    /// Our own sign-in.
    Account,
    /// A key, and the SSH certificate for it.
    Certificate,
    /// Why a machine could not be reached.
    Failure,
}

impl Kind {
    const ALL: [Self; 8] = [
        Self::Relay,
        Self::Refusal,
        Self::Throttle,
        Self::Name,
        Self::Token,
        Self::Account,
        Self::Certificate,
        Self::Failure,
    ];

    /// The kind of value in a file with this name; the name's form is that of [`Key::file`].
    fn of_file(name: &str) -> Option<Self> {
        let (prefix, hash) = name.strip_suffix(".json")?.split_once('-')?;
        let is_hash = hash.len() == 32 && hash.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        Self::ALL.into_iter().find(|kind| is_hash && kind.name() == prefix)
    }

    /// Returns the kind in one word: file names begin with it, and `arcssh cache show` prints it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Relay => "relay",
            Self::Refusal => "refusal",
            Self::Throttle => "throttle",
            Self::Name => "name",
            Self::Token => "token",
            Self::Account => "account",
            Self::Certificate => "certificate",
            Self::Failure => "failure",
        }
    }
}

/// The key of one value. Its name is no secret: `arcssh cache show` prints it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    /// What kind of value.
    pub(crate) kind: Kind,
    /// What it belongs to.
    pub(crate) name: String,
}

impl Key {
    pub(crate) fn new(kind: Kind, name: impl Into<String>) -> Self {
        Self { kind, name: name.into() }
    }

    /// Returns a file name that every file system accepts.
    fn file(&self) -> String {
        format!("{}-{}.json", self.kind.name(), self.hash())
    }

    /// Returns the name of the lock file. Several keys share one: lock files outlive the values, so their number is bounded.
    fn lock_file(&self, turn: &str) -> String {
        format!("{}-{}{turn}.lock", self.kind.name(), &self.hash()[..3])
    }

    fn hash(&self) -> String {
        let hash = digest(&SHA256, self.name.as_bytes());
        hash.as_ref().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
    }
}

/// What a file holds.
#[derive(Serialize, Deserialize)]
struct Envelope<T> {
    version: u32,
    kind: Kind,
    #[serde(rename = "subject")]
    name: String,
    value: T,
}

/// What a file is, going by its content.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Content {
    /// A value of this version.
    Value,
    /// A value of another version, whose number this is.
    OtherVersion(u32),
    /// What a crash of the system leaves of a value: nothing, blocks of zeros, or its beginning.
    Damaged,
    /// Something that arcssh did not write.
    Foreign,
}

/// The beginning of each value that arcssh writes.
const BEGINNING: &[u8] = b"{\"version\":";

impl Content {
    fn of(json: &[u8]) -> Self {
        let Ok(object) = serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(json) else {
            let is_rest = json.contains(&0) || json.starts_with(BEGINNING) || BEGINNING.starts_with(json);
            return if is_rest { Self::Damaged } else { Self::Foreign };
        };
        let version = object.get("version").and_then(serde_json::Value::as_u64);
        match version.and_then(|version| u32::try_from(version).ok()) {
            Some(version) if version != VERSION => Self::OtherVersion(version),
            Some(_) if object.contains_key("kind") && object.contains_key("subject") => Self::Value,
            None if !object.is_empty() => Self::Foreign,
            _ => Self::Damaged,
        }
    }
}

/// This user's store.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    /// None where there can be none.
    folder: Option<PathBuf>,
}

/// Holds a lock until it is dropped, or its process dies.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

/// A file or folder of the store that others can read or write.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{} is open to other users (mode {mode:04o})", path.display())]
pub(crate) struct InsecurePermissions {
    /// Which.
    pub(crate) path: PathBuf,
    /// Its permissions.
    mode: u32,
    /// The permissions that it should have.
    pub(crate) wanted: u32,
}

impl Store {
    /// The store of this user, its folder made if need be.
    ///
    /// # Errors
    /// Others can get at the folder: what it holds may be neither secret nor ours.
    pub(crate) fn open() -> Result<Self, InsecurePermissions> {
        let Some(named) = named_folder() else {
            return platform_folder().map_or(Ok(Self::disabled()), Self::at);
        };
        let store = Self::at(named.join(OWN_FOLDER))?;
        store.take_over(&named);
        Ok(store)
    }

    /// A store that holds nothing.
    pub(crate) fn disabled() -> Self {
        Self { folder: None }
    }

    /// How many values there are; none where no more can be kept.
    ///
    /// # Errors
    /// Others can get at one of them.
    pub(crate) fn check(&self) -> Result<Option<usize>, InsecurePermissions> {
        let mut count = 0;
        for (_, path) in self.values() {
            count += usize::from(load(&path)?.is_some());
        }
        Ok(self.check_writable().is_ok().then_some(count))
    }

    fn at(folder: PathBuf) -> Result<Self, InsecurePermissions> {
        let metadata = resolved(&folder).or_else(|error| match error.kind() {
            ErrorKind::NotFound => make(&folder).and_then(|()| resolved(&folder)),
            _ => Err(error),
        });
        let usable = match metadata {
            Ok(metadata) => metadata.is_dir() && check_owner(&folder, &metadata, FOLDER_MODE)?,
            Err(error) => {
                info!("working without a store: {}: {error}", folder.display());
                false
            }
        };
        Ok(Self { folder: usable.then_some(folder) })
    }

    /// The value of a key, if there is one that can be read.
    ///
    /// # Errors
    /// Others can get at the file.
    pub(crate) fn read<T: DeserializeOwned>(&self, key: &Key) -> Result<Option<T>, InsecurePermissions> {
        let Some(path) = self.path(key) else { return Ok(None) };
        let Some(json) = load(&path)? else { return Ok(None) };
        match serde_json::from_slice::<Envelope<T>>(&json) {
            Ok(found) if found.version == VERSION && found.name == key.name => Ok(Some(found.value)),
            _ => {
                discard_corrupt(&path, &json);
                Ok(None)
            }
        }
    }

    /// Keeps a value where that can be done.
    pub(crate) fn write<T: Serialize>(&self, key: &Key, value: &T) {
        if let Err(error) = self.keep(key, value) {
            info!("not kept: {error:#}");
        }
    }

    /// Keeps a value.
    ///
    /// # Errors
    /// There is no store, or its disk takes no more.
    pub(crate) fn keep<T: Serialize>(&self, key: &Key, value: &T) -> Result<()> {
        let folder = self.place()?;
        let envelope = Envelope { version: VERSION, kind: key.kind, name: key.name.clone(), value };
        let path = folder.join(key.file());
        replace(folder, &path, &Zeroizing::new(serde_json::to_vec(&envelope)?))
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// A private folder for something that is on its way, and gone with it.
    ///
    /// # Errors
    /// There is no store, or its disk takes no more.
    pub(crate) fn temp_dir(&self) -> Result<TempDir> {
        let folder = self.place()?;
        let temp_dir = temporary(TEMP_DIR_PREFIX).tempdir_in(folder);
        temp_dir.with_context(|| format!("cannot write to {}", folder.display()))
    }

    /// Whether anything more can be kept.
    ///
    /// # Errors
    /// There is no store, or its disk takes no more.
    pub(crate) fn check_writable(&self) -> Result<()> {
        let folder = self.place()?;
        let mut file = temporary(TEMP_PREFIX).tempfile_in(folder)?;
        file.write_all(&[0; 16 * 1024])?;
        Ok(file.as_file().sync_data()?)
    }

    /// Forgets the value of a key.
    pub(crate) fn remove(&self, key: &Key) {
        if let Some(path) = self.path(key) {
            remove_value(&path);
        }
    }

    /// Deletes a file that [`Store::files_of`] found, unless it is something else; whether it did.
    pub(crate) fn delete(&self, path: &Path) -> bool {
        remove_value(path)
    }

    /// Deletes all values of these kinds, also damaged ones; returns their number. Locks stay, for the processes that
    /// hold them.
    pub(crate) fn clear(&self, kinds: &[Kind]) -> usize {
        self.values().filter(|(kind, path)| kinds.contains(kind) && remove_value(path)).count()
    }

    /// Deletes values that are older than [`MAX_LIFETIME`], except a sign-in, and what killed processes left half made.
    pub(crate) fn remove_expired(&self) {
        let age = |path: &Path| fs::symlink_metadata(path).ok()?.modified().ok()?.elapsed().ok();
        let is_older = |path: &Path, limit| age(path).is_some_and(|age| age > limit);
        for (kind, path) in self.values() {
            let is_value = || {
                let content = raw(&path).map(|json| Content::of(&json));
                matches!(content, Ok(Content::Value | Content::OtherVersion(_)))
            };
            if kind != Kind::Account && is_older(&path, MAX_LIFETIME) && is_value() {
                remove_value(&path);
            }
        }
        remove_temporary(self.files().filter(|file| is_older(&file.path(), MAX_WORK)));
    }

    /// Deletes what is half made by other processes too: nothing of it may outlive the end of a sign-in.
    pub(crate) fn clear_temporary(&self) {
        remove_temporary(self.files());
    }

    fn files(&self) -> impl Iterator<Item = fs::DirEntry> + use<> {
        files_in(self.folder.as_deref())
    }

    fn values(&self) -> impl Iterator<Item = (Kind, PathBuf)> + use<> {
        values_in(self.folder.as_deref())
    }

    /// Moves the values that earlier versions wrote beside [`OWN_FOLDER`] into it. What is not a value of this user, with
    /// the name that its content demands, stays.
    fn take_over(&self, named: &Path) {
        let Some(folder) = self.folder() else { return };
        for (_, path) in values_in(Some(named)) {
            let found = raw(&path).ok().and_then(|json| serde_json::from_slice(&json).ok());
            let Some(Envelope::<serde::de::IgnoredAny> { version: VERSION, kind, name, .. }) = found else {
                continue;
            };
            let name = Key { kind, name }.file();
            let place = folder.join(&name);
            if path.file_name().is_some_and(|found| *found == *name) && fs::symlink_metadata(&place).is_err()
            {
                let moved = fs::rename(&path, &place);
                debug!(?moved, "a value of an earlier version: {}", path.display());
            }
        }
    }

    /// The files of a kind, whether they can be read or not.
    pub(crate) fn files_of(&self, kind: Kind) -> Vec<PathBuf> {
        self.values().filter(|(found, _)| *found == kind).map(|(_, path)| path).collect()
    }

    /// The key of the value in a file, if it can be read.
    pub(crate) fn key_of(&self, path: &Path) -> Option<Key> {
        let found: Envelope<serde::de::IgnoredAny> = serde_json::from_slice(&load(path).ok()??).ok()?;
        Some(Key { kind: found.kind, name: found.name })
    }

    /// The keys of all values.
    pub(crate) fn keys(&self) -> Vec<Key> {
        let mut keys: Vec<Key> = self.values().filter_map(|(_, path)| self.key_of(&path)).collect();
        keys.sort_by(|one, other| one.name.cmp(&other.name));
        keys
    }

    fn place(&self) -> Result<&Path> {
        self.folder().context("there is no folder to keep anything in")
    }

    /// Where values are kept, if they are.
    pub(crate) fn folder(&self) -> Option<&Path> {
        self.folder.as_deref()
    }

    /// Waits until no other process works on this key's value. Where one stands still with the lock, those that have
    /// waited [`LOCK_TIMEOUT`] for it take turns by a second one, and wait [`LONG_LOCK_TIMEOUT`] for either. `None` where it is
    /// not known whether another works: the work is done then as if nobody did.
    pub(crate) async fn lock(&self, key: &Key) -> Option<Lock> {
        let lock = match self.turn(key, &[""], LOCK_TIMEOUT).await {
            Some(lock) => Some(lock),
            None => self.turn(key, &["", SECOND], LONG_LOCK_TIMEOUT).await,
        };
        if lock.is_none() {
            info!("going on without a lock of {}", key.name);
        }
        lock
    }

    async fn turn(&self, key: &Key, turns: &[&str], patience: Duration) -> Option<Lock> {
        let mut files: Vec<File> = turns.iter().filter_map(|turn| self.lock_file(key, turn)).collect();
        let end = Instant::now() + patience;
        loop {
            let mut is_held = false;
            for (index, file) in files.iter().enumerate() {
                match file.try_lock() {
                    Ok(()) => return Some(Lock { _file: files.swap_remove(index) }),
                    Err(error) => is_held |= matches!(error, TryLockError::WouldBlock),
                }
            }
            if !is_held || Instant::now() >= end {
                return None;
            }
            sleep(POLL_INTERVAL).await;
        }
    }

    /// The lock, if no other process holds it.
    pub(crate) fn try_lock(&self, key: &Key) -> Option<Lock> {
        let file = self.lock_file(key, "")?;
        file.try_lock().ok().map(|()| Lock { _file: file })
    }

    fn lock_file(&self, key: &Key, turn: &str) -> Option<File> {
        let path = self.folder.as_ref()?.join(key.lock_file(turn));
        let file = open_own(&path, OpenOptions::new().create(true).truncate(false).write(true));
        file.map_err(|error| debug!("no lock {}: {error}", path.display())).ok()
    }

    /// The file of a key's value.
    pub(crate) fn path(&self, key: &Key) -> Option<PathBuf> {
        Some(self.folder.as_ref()?.join(key.file()))
    }
}

fn files_in(folder: Option<&Path>) -> impl Iterator<Item = fs::DirEntry> + use<> {
    folder.and_then(|folder| fs::read_dir(folder).ok()).into_iter().flatten().flatten()
}

/// The files of this user with the name of a value.
fn values_in(folder: Option<&Path>) -> impl Iterator<Item = (Kind, PathBuf)> + use<> {
    files_in(folder).filter_map(|file| {
        let kind = Kind::of_file(file.file_name().to_str()?)?;
        file.metadata().is_ok_and(|found| ensure_own(&found).is_ok()).then(|| (kind, file.path()))
    })
}

/// Deletes a file that has the name of a value, unless it is something else; whether it did.
fn remove_value(path: &Path) -> bool {
    let is_own = fs::symlink_metadata(path).is_ok_and(|found| ensure_own(&found).is_ok());
    // What cannot be read, because of its mode, is taken for what its name says.
    let is_foreign = raw(path).is_ok_and(|json| Content::of(&json) == Content::Foreign);
    is_own && !is_foreign && fs::remove_file(path).is_ok()
}

fn temporary(end: &'static str) -> tempfile::Builder<'static, 'static> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(TEMPORARY).rand_bytes(RANDOM).suffix(end);
    builder
}

/// Whether a name is one of [`temporary`].
fn is_temporary(name: &str, end: &str) -> bool {
    let random = name.strip_prefix(TEMPORARY).and_then(|name| name.strip_suffix(end));
    random.is_some_and(|random| {
        random.len() == RANDOM && random.bytes().all(|byte| byte.is_ascii_alphanumeric())
    })
}

fn remove_temporary(files: impl Iterator<Item = fs::DirEntry>) {
    for file in files {
        let (name, path) = (file.file_name(), file.path());
        let (Some(name), Ok(found)) = (name.to_str(), file.metadata()) else { continue };
        if is_temporary(name, TEMP_PREFIX) && ensure_own(&found).is_ok() {
            let _ = fs::remove_file(path);
        } else if is_temporary(name, TEMP_DIR_PREFIX) && found.is_dir() && is_own(&found) {
            remove_room(&path);
        }
    }
}

/// Deletes a directory in which a key was made, if it holds nothing else.
fn remove_room(temp_dir: &Path) {
    let is_made = |file: &fs::DirEntry| {
        let is_file = file.metadata().is_ok_and(|found| ensure_own(&found).is_ok());
        is_file && MADE.iter().any(|made| file.file_name() == *made)
    };
    let files: Vec<fs::DirEntry> = files_in(Some(temp_dir)).collect();
    if files.iter().all(is_made) {
        files.iter().for_each(|file| drop(fs::remove_file(file.path())));
        let _ = fs::remove_dir(temp_dir);
    }
}

/// The directory that `$ARCSSH_STATE_DIR` names.
fn named_folder() -> Option<PathBuf> {
    let given = std::env::var_os(STATE_DIR_VARIABLE).filter(|value| !value.is_empty())?;
    std::path::absolute(given).ok()
}

/// `arcssh` in the platform's directory for state: `$XDG_STATE_HOME` or `~/.local/state` (XDG Base Directory
/// Specification), `%LOCALAPPDATA%` on Windows.
fn platform_folder() -> Option<PathBuf> {
    let platform = etcetera::choose_base_strategy().ok()?;
    Some(platform.state_dir().unwrap_or_else(|| platform.cache_dir()).join("arcssh"))
}

/// What a path leads to; another user's symbolic link leads nowhere.
fn resolved(folder: &Path) -> io::Result<fs::Metadata> {
    let found = fs::symlink_metadata(folder)?;
    match found.is_symlink() && !is_own(&found) {
        true => Err(io::Error::new(ErrorKind::PermissionDenied, "it is another user's symbolic link")),
        false => fs::metadata(folder),
    }
}

fn make(folder: &Path) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, FOLDER_MODE);
    builder.recursive(true).create(folder)
}

/// A file's bytes, if it is there. What is no file is not opened: a pipe would wait for a writer.
fn load(path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, InsecurePermissions> {
    let Ok(found) = fs::symlink_metadata(path) else { return Ok(None) };
    if !found.is_file() || !check_owner(path, &found, FILE_MODE)? {
        return Ok(None);
    }
    Ok(raw(path).ok())
}

/// The bytes of a file of this user, whatever its mode. They are read into one piece of memory: a buffer that grew would
/// leave copies of a secret behind.
fn raw(path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    let file = open_own(path, OpenOptions::new().read(true))?;
    let length = file.metadata()?.len().min(MAX_FILE);
    let mut bytes = Zeroizing::new(Vec::with_capacity(length as usize + 1));
    file.take(MAX_FILE).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Writes a new file and renames it: a reader finds the old one or the new one. What arcssh did not write stays.
fn replace(folder: &Path, path: &Path, bytes: &[u8]) -> Result<()> {
    if let Ok(found) = fs::symlink_metadata(path) {
        ensure_own(&found)?;
        let is_foreign = raw(path).is_ok_and(|json| Content::of(&json) == Content::Foreign);
        ensure!(!is_foreign, "arcssh did not write what is there");
    }
    let mut file = temporary(TEMP_PREFIX).tempfile_in(folder)?;
    file.write_all(bytes)?;
    file.as_file().sync_data()?;
    file.persist(path)?;
    Ok(())
}

/// Reports a damaged file, once, for it is deleted. Two versions of arcssh can take turns: a file of another is not worth
/// a message.
fn discard_corrupt(path: &Path, json: &[u8]) {
    match Content::of(json) {
        Content::OtherVersion(version) => info!("{} has version {version}", path.display()),
        Content::Foreign => info!("arcssh did not write {}", path.display()),
        Content::Value | Content::Damaged => {
            note(&format!("{} is damaged, and is left out", path.display()));
            remove_value(path);
        }
    }
}

const FOLDER_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

/// Whether a file or folder is this user's; only theirs, too.
#[cfg(unix)]
fn check_owner(path: &Path, metadata: &fs::Metadata, wanted: u32) -> Result<bool, InsecurePermissions> {
    use std::os::unix::fs::MetadataExt as _;
    if !is_own(metadata) {
        note(&format!("{} belongs to another user, and is left out", path.display()));
        return Ok(false);
    }
    let mode = metadata.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(InsecurePermissions { path: path.to_owned(), mode, wanted });
    }
    Ok(true)
}

/// Elsewhere the platform's folder is its user's own.
#[cfg(not(unix))]
fn check_owner(_: &Path, _: &fs::Metadata, _: u32) -> Result<bool, InsecurePermissions> {
    Ok(true)
}

#[cfg(test)]
mod fuzz_tests;
#[cfg(all(test, unix))]
mod tests;
