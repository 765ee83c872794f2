//! What outlives one process: small files of this user alone, each replaced in one piece, with locks between processes.
//!
//! Knows folders, files and locks; what the values mean is the business of whoever keeps them. Whatever goes wrong
//! with the disk, the program works without: a store that cannot be had holds nothing.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use etcetera::BaseStrategy;
use ring::digest::{SHA256, digest};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tempfile::{NamedTempFile, TempDir};
use tokio::time::{Instant, sleep};
use tracing::{debug, info};

use crate::line::warn;

/// The form of the files. A file of another form counts as absent, and is replaced.
const VERSION: u32 = 1;
/// The longest that anything is half made: a key takes a second, and a file less.
const LONGEST_WORK: Duration = Duration::from_secs(3600);
/// The longest that anything but a sign-in is of use after it was written: as long as a certificate's key.
const LONGEST_LIFE: Duration = Duration::from_secs(30 * 24 * 3600);
/// What the names of files that are still being written begin with, and of folders in which something is made.
const HALF_WRITTEN: &str = "new-";
const ROOM: &str = ".key-";
/// What marks the lock of those who have waited too long for another.
const SECOND: &str = "-second";
/// The longest file that is read.
const MAX_FILE: u64 = 1024 * 1024;
/// How long a lock is waited for. Its holder's work is bounded too, and the system frees what a dead one held; this is
/// for one that stands still.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long the second one is waited for: longer than any work with it, lest all begin at once what takes long.
const LONG_PATIENCE: Duration = Duration::from_secs(75);
/// How often a lock is looked at. Waiting in the system would wake at once, but one after the other, and not be called
/// off.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// The store's folder, in place of the platform's.
pub(crate) const FOLDER_VARIABLE: &str = "ARCSSH_STATE_DIR";
/// What to type where nothing can be kept.
pub(crate) const ANOTHER_FOLDER: &str = "name a folder of your own in ARCSSH_STATE_DIR";

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
    /// What the names of its files begin with.
    fn prefix(self) -> &'static str {
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

/// Names one value. The subject is no secret: `arcssh cache show` prints it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    /// What kind of value.
    pub(crate) kind: Kind,
    /// What it belongs to.
    pub(crate) subject: String,
}

impl Key {
    /// The key of a subject's value.
    pub(crate) fn new(kind: Kind, subject: impl Into<String>) -> Self {
        Self { kind, subject: subject.into() }
    }

    /// A file name that any file system takes, whatever the subject.
    fn file(&self) -> String {
        format!("{}-{}.json", self.kind.prefix(), self.hash())
    }

    /// Some subjects share a lock: its file outlives their values, so that there is a bound to how many there are.
    fn lock_file(&self, turn: &str) -> String {
        format!("{}-{}{turn}.lock", self.kind.prefix(), &self.hash()[..3])
    }

    fn hash(&self) -> String {
        let hash = digest(&SHA256, self.subject.as_bytes());
        hash.as_ref().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
    }
}

/// What a file holds.
#[derive(Serialize, Deserialize)]
struct Envelope<T> {
    version: u32,
    kind: Kind,
    subject: String,
    value: T,
}

/// Any file of ours, whatever its version.
#[derive(Deserialize)]
struct AnyVersion {
    version: u32,
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
pub(crate) struct TooOpen {
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
    pub(crate) fn open() -> Result<Self, TooOpen> {
        match folder() {
            Some(folder) => Self::at(folder),
            None => Ok(Self { folder: None }),
        }
    }

    /// A store that holds nothing.
    pub(crate) fn nothing() -> Self {
        Self { folder: None }
    }

    /// How many values there are; none where no more can be kept.
    ///
    /// # Errors
    /// Others can get at one of them.
    pub(crate) fn check(&self) -> Result<Option<usize>, TooOpen> {
        let mut count = 0;
        for path in self.values() {
            count += usize::from(load(&path)?.is_some());
        }
        Ok(self.try_out().is_ok().then_some(count))
    }

    fn at(folder: PathBuf) -> Result<Self, TooOpen> {
        let metadata = fs::metadata(&folder).or_else(|_| {
            make(&folder)?;
            fs::metadata(&folder)
        });
        let usable = match metadata {
            Ok(metadata) => metadata.is_dir() && ours(&folder, &metadata, FOLDER_MODE)?,
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
    pub(crate) fn read<T: DeserializeOwned>(&self, key: &Key) -> Result<Option<T>, TooOpen> {
        let Some(path) = self.path(key) else { return Ok(None) };
        let Some(json) = load(&path)? else { return Ok(None) };
        match serde_json::from_slice::<Envelope<T>>(&json) {
            Ok(found) if found.version == VERSION && found.subject == key.subject => Ok(Some(found.value)),
            _ => {
                complain(&path, &json);
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
        let envelope = Envelope { version: VERSION, kind: key.kind, subject: key.subject.clone(), value };
        let path = folder.join(key.file());
        replace(folder, &path, &serde_json::to_vec(&envelope)?)
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// A private folder for something that is on its way, and gone with it.
    ///
    /// # Errors
    /// There is no store, or its disk takes no more.
    pub(crate) fn room(&self) -> Result<TempDir> {
        let folder = self.place()?;
        let room = tempfile::Builder::new().prefix(ROOM).tempdir_in(folder);
        room.with_context(|| format!("cannot write to {}", folder.display()))
    }

    /// Whether anything more can be kept.
    ///
    /// # Errors
    /// There is no store, or its disk takes no more.
    pub(crate) fn try_out(&self) -> Result<()> {
        let folder = self.place()?;
        let mut file = NamedTempFile::with_prefix_in(HALF_WRITTEN, folder)?;
        file.write_all(&[0; 16 * 1024])?;
        Ok(file.as_file().sync_data()?)
    }

    /// Forgets the value of a key.
    pub(crate) fn remove(&self, key: &Key) {
        if let Some(path) = self.path(key) {
            let _ = fs::remove_file(path);
        }
    }

    /// Deletes a file that [`Store::files_of`] found; whether it was there.
    pub(crate) fn delete(&self, path: &Path) -> bool {
        fs::remove_file(path).is_ok()
    }

    /// Forgets all values of these kinds, whether they can be read or not; how many there were. Locks stay, for whoever
    /// holds them.
    pub(crate) fn clear(&self, kinds: &[Kind]) -> usize {
        let cleared = self.values().filter(|path| kinds.iter().any(|kind| is_of(path, *kind)));
        cleared.filter(|path| fs::remove_file(path).is_ok()).count()
    }

    /// Removes what nobody has written for [`LONGEST_LIFE`], but no sign-in, and what processes that were killed have
    /// left half made.
    pub(crate) fn sweep(&self) {
        let account = Kind::Account.prefix();
        let age = |file: &fs::DirEntry| file.metadata().ok()?.modified().ok()?.elapsed().ok();
        let is_old = |file: &fs::DirEntry| age(file).is_some_and(|age| age > LONGEST_LIFE);
        let is_value = |path: &PathBuf| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.ends_with(".json") && !name.starts_with(account)
        };
        let old = self.files().filter(is_old).map(|file| file.path());
        for path in old.filter(is_value) {
            let _ = fs::remove_file(path);
        }
        let left = self.files().filter(|file| age(file).is_some_and(|age| age > LONGEST_WORK));
        remove_half_made(left);
    }

    /// Removes what is half made, too, whoever is at it: nothing of it may outlive the end of a sign-in.
    pub(crate) fn clear_half_made(&self) {
        remove_half_made(self.files());
    }

    fn files(&self) -> impl Iterator<Item = fs::DirEntry> {
        self.folder.as_ref().and_then(|folder| fs::read_dir(folder).ok()).into_iter().flatten().flatten()
    }

    fn values(&self) -> impl Iterator<Item = PathBuf> {
        let paths = self.files().map(|file| file.path());
        paths.filter(|path| path.extension().is_some_and(|extension| extension == "json"))
    }

    /// The files of a kind, whether they can be read or not.
    pub(crate) fn files_of(&self, kind: Kind) -> Vec<PathBuf> {
        self.values().filter(|path| is_of(path, kind)).collect()
    }

    /// The key of the value in a file, if it can be read.
    pub(crate) fn key_of(&self, path: &Path) -> Option<Key> {
        let found: Envelope<serde::de::IgnoredAny> = serde_json::from_slice(&load(path).ok()??).ok()?;
        Some(Key { kind: found.kind, subject: found.subject })
    }

    /// The keys of all values.
    pub(crate) fn keys(&self) -> Vec<Key> {
        let mut keys: Vec<Key> = self.values().filter_map(|path| self.key_of(&path)).collect();
        keys.sort_by(|one, other| one.subject.cmp(&other.subject));
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
    /// waited [`PATIENCE`] for it take turns by a second one, and wait [`LONG_PATIENCE`] for either. `None` where it is
    /// not known whether another works: the work is done then as if nobody did.
    pub(crate) async fn lock(&self, key: &Key) -> Option<Lock> {
        let lock = match self.turn(key, &[""], PATIENCE).await {
            Some(lock) => Some(lock),
            None => self.turn(key, &["", SECOND], LONG_PATIENCE).await,
        };
        if lock.is_none() {
            info!("going on without a lock of {}", key.subject);
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
            sleep(LOOK_AGAIN).await;
        }
    }

    /// The lock, if no other process holds it.
    pub(crate) fn try_lock(&self, key: &Key) -> Option<Lock> {
        let file = self.lock_file(key, "")?;
        file.try_lock().ok().map(|()| Lock { _file: file })
    }

    fn lock_file(&self, key: &Key, turn: &str) -> Option<File> {
        let mut options = OpenOptions::new();
        options.create(true).truncate(false).write(true);
        private(&mut options);
        let path = self.folder.as_ref()?.join(key.lock_file(turn));
        if path.metadata().is_ok_and(|metadata| !metadata.is_file()) {
            return None;
        }
        options.open(path).map_err(|error| debug!("no lock: {error}")).ok()
    }

    /// The file of a key's value.
    pub(crate) fn path(&self, key: &Key) -> Option<PathBuf> {
        Some(self.folder.as_ref()?.join(key.file()))
    }
}

/// Whether a file's name is that of a kind.
fn is_of(path: &Path, kind: Kind) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.split('-').next() == Some(kind.prefix())
}

fn remove_half_made(files: impl Iterator<Item = fs::DirEntry>) {
    for file in files {
        let name = file.file_name();
        let _ = match name.to_string_lossy() {
            name if name.starts_with(HALF_WRITTEN) => fs::remove_file(file.path()),
            name if name.starts_with(ROOM) => fs::remove_dir_all(file.path()),
            _ => Ok(()),
        };
    }
}

/// Seconds of Unix time, as this machine has it.
pub(crate) fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// `$ARCSSH_STATE_DIR`, else `arcssh` where the platform keeps what programs leave from run to run: `$XDG_STATE_HOME` or
/// `~/.local/state` (XDG Base Directory Specification), `%LOCALAPPDATA%` on Windows.
fn folder() -> Option<PathBuf> {
    if let Some(given) = std::env::var_os(FOLDER_VARIABLE).filter(|value| !value.is_empty()) {
        return std::path::absolute(given).ok();
    }
    let platform = etcetera::choose_base_strategy().ok()?;
    Some(platform.state_dir().unwrap_or_else(|| platform.cache_dir()).join("arcssh"))
}

fn make(folder: &Path) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, FOLDER_MODE);
    builder.recursive(true).create(folder)
}

/// A file's bytes, if it is there. What is no file is not opened: a pipe would wait for a writer.
fn load(path: &Path) -> Result<Option<Vec<u8>>, TooOpen> {
    if !path.is_file() {
        return Ok(None);
    }
    let Ok(file) = File::open(path) else { return Ok(None) };
    let Ok(metadata) = file.metadata() else { return Ok(None) };
    if !ours(path, &metadata, FILE_MODE)? {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    Ok(file.take(MAX_FILE).read_to_end(&mut bytes).is_ok().then_some(bytes))
}

/// Writes the file beside its place and moves it there: a reader finds the old one or the new one.
fn replace(folder: &Path, path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = NamedTempFile::with_prefix_in(HALF_WRITTEN, folder)?;
    file.write_all(bytes)?;
    file.as_file().sync_data()?;
    file.persist(path)?;
    Ok(())
}

/// A file of another version is nothing to tell a user of: two versions of the program take turns. A damaged one is told
/// of once.
fn complain(path: &Path, json: &[u8]) {
    match serde_json::from_slice::<AnyVersion>(json) {
        Ok(AnyVersion { version }) if version != VERSION => info!("{} has form {version}", path.display()),
        _ => {
            warn(&format!("{} is damaged, and is left out", path.display()));
            let _ = fs::remove_file(path);
        }
    }
}

const FOLDER_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

#[cfg(unix)]
fn private(options: &mut OpenOptions) {
    std::os::unix::fs::OpenOptionsExt::mode(options, FILE_MODE);
}

#[cfg(not(unix))]
fn private(_: &mut OpenOptions) {}

/// Whether a file or folder is this user's; only theirs, too.
#[cfg(unix)]
fn ours(path: &Path, metadata: &fs::Metadata, wanted: u32) -> Result<bool, TooOpen> {
    use std::os::unix::fs::MetadataExt as _;
    if metadata.uid() != rustix::process::geteuid().as_raw() {
        warn(&format!("{} belongs to another user, and is left out", path.display()));
        return Ok(false);
    }
    let mode = metadata.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(TooOpen { path: path.to_owned(), mode, wanted });
    }
    Ok(true)
}

/// Elsewhere the platform's folder is its user's own.
#[cfg(not(unix))]
fn ours(_: &Path, _: &fs::Metadata, _: u32) -> Result<bool, TooOpen> {
    Ok(true)
}

#[cfg(all(test, unix))]
mod tests;
