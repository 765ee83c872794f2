//! The state directory: small files of this user, each replaced atomically, and locks between processes.
//!
//! This module handles directories, files and locks, and does not interpret the values. Without a usable directory the
//! store is empty: connections work, and only `arcssh login` fails. arcssh recognises its files by name, format and owner. It never reads, replaces
//! or deletes other files.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use etcetera::BaseStrategy;
use ring::digest::{SHA256, digest};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tempfile::TempDir;
use tracing::{debug, info, warn};
use zeroize::Zeroizing;

use crate::system::SystemError;
use crate::system::files::{self, TEMP_FILE, ensure_own, is_own, is_temporary, open_own, temporary};
use crate::text::hex;

/// The format of the files. A file of another format counts as absent, and arcssh replaces it.
const VERSION: u32 = 1;
/// The age at which a temporary file is a leftover. Generating a key takes a second, writing a file less.
const MAX_WORK: Duration = Duration::from_secs(3600);
/// The age at which a value is useless, except a sign-in. No value is valid for longer than a certificate's key.
const MAX_LIFETIME: Duration = Duration::from_secs(30 * 24 * 3600);
/// The suffix of a temporary directory in which ssh-keygen generates a key.
const TEMP_DIRECTORY: &str = ".key";
/// The files that ssh-keygen creates there (ssh-keygen(1), `-f`).
const KEY_FILES: [&str; 2] = ["key", "key.pub"];
/// The most bytes of a file that arcssh reads.
const MAX_FILE: u64 = 1024 * 1024;
/// How long a process waits for a lock. The system releases the locks of a process that ends, so a longer wait means that
/// the holder is suspended.
const LOCK_TIMEOUT: Duration = Duration::from_secs(15);

/// The environment variable for the directory in which arcssh creates its state directory.
pub(crate) const STATE_DIR_VARIABLE: &str = "ARCSSH_STATE_DIR";
/// The name of the state directory below [`STATE_DIR_VARIABLE`], which can contain other files.
const SUBDIRECTORY: &str = "arcssh-state";

/// A kind of value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    /// Relay credentials of a machine.
    Relay,
    /// A cached error: of ARM, or of the program that issues tokens.
    #[serde(rename = "refusal")]
    Rejection,
    /// When a throttled service accepts the next request.
    Throttle,
    /// The resource ID of a machine name.
    Name,
    /// The names of machines, for shell completion.
    Machines,
    /// An access token.
    Token,
    /// The sign-in of `arcssh login`.
    Account,
    /// A key and its SSH certificate.
    Certificate,
    /// The last error of a machine.
    Failure,
    /// Claims that a token of an account must have.
    Claims,
    /// The budget of second dials.
    Hedge,
}

impl Kind {
    const ALL: [Self; 11] = [
        Self::Relay,
        Self::Rejection,
        Self::Throttle,
        Self::Name,
        Self::Machines,
        Self::Token,
        Self::Account,
        Self::Certificate,
        Self::Failure,
        Self::Claims,
        Self::Hedge,
    ];

    /// Returns the kind of value in a file with this name (see [`Key::file`]).
    fn of_file(name: &str) -> Option<Self> {
        let (prefix, hash) = name.strip_suffix(".json")?.split_once('-')?;
        let is_hash = hash.len() == 32 && hash.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        Self::ALL.into_iter().find(|kind| is_hash && kind.name() == prefix)
    }

    /// Returns the kind as one word, with which file names begin.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Relay => "relay",
            Self::Rejection => "refusal",
            Self::Throttle => "throttle",
            Self::Name => "name",
            Self::Machines => "machines",
            Self::Token => "token",
            Self::Account => "account",
            Self::Certificate => "certificate",
            Self::Failure => "failure",
            Self::Claims => "claims",
            Self::Hedge => "hedge",
        }
    }
}

/// The key of a value. It contains no secret: `arcssh cache show` prints it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    /// The kind of value.
    pub(crate) kind: Kind,
    /// The machine, account or service of the value.
    pub(crate) name: String,
}

impl Key {
    /// Returns the key of a value.
    pub(crate) fn new(kind: Kind, name: impl Into<String>) -> Self {
        Self { kind, name: name.into() }
    }

    /// Returns a file name that is valid on every file system.
    fn file(&self) -> String {
        format!("{}-{}.json", self.kind.name(), self.hash())
    }

    /// Returns the name of the lock file. Lock files are never deleted, so keys share 4,096 of them per kind.
    fn lock_file(&self) -> String {
        format!("{}-{}.lock", self.kind.name(), &self.hash()[..3])
    }

    fn hash(&self) -> String {
        hex(&digest(&SHA256, self.name.as_bytes()).as_ref()[..16])
    }
}

/// The content of a file.
#[derive(Serialize, Deserialize)]
struct Envelope<T> {
    version: u32,
    kind: Kind,
    #[serde(rename = "subject")]
    name: String,
    value: T,
}

/// The origin of a file, judged by its content.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Content {
    /// A value of this version.
    Value,
    /// A value of another version.
    OtherVersion(u32),
    /// The remains of a value after a crash of the system: nothing, blocks of zeros, or a part.
    Damaged,
    /// A file that arcssh did not write.
    Foreign,
}

/// The first bytes of each value that arcssh writes.
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

/// The state directory of this user.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    /// `None`: there is no usable directory.
    directory: Option<PathBuf>,
}

/// A lock, held until the value is dropped or the process ends.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

impl Store {
    /// Opens the state directory, and creates it if it does not exist.
    ///
    /// # Errors
    /// Other users can access the directory.
    pub(crate) fn open() -> Result<Self, SystemError> {
        let Some(parent) = directory_of_variable() else {
            return platform_directory().map_or(Ok(Self::disabled()), Self::at);
        };
        let store = Self::at(parent.join(SUBDIRECTORY))?;
        store.migrate(&parent);
        Ok(store)
    }

    /// Returns a store that is always empty.
    pub(crate) fn disabled() -> Self {
        Self { directory: None }
    }

    /// Returns the number of values, or `None` if the directory is not writable.
    ///
    /// # Errors
    /// Other users can access a file.
    pub(crate) fn check(&self) -> Result<Option<usize>, SystemError> {
        let mut count = 0;
        for (_, path) in self.values() {
            count += usize::from(read_private(&path)?.is_some());
        }
        Ok(self.check_writable().is_ok().then_some(count))
    }

    /// Opens a state directory, and creates it if it does not exist.
    ///
    /// # Errors
    /// Other users can access the directory.
    pub(crate) fn at(directory: PathBuf) -> Result<Self, SystemError> {
        let metadata = resolved(&directory).or_else(|error| match error.kind() {
            ErrorKind::NotFound => files::create_private_dir(&directory).and_then(|()| resolved(&directory)),
            _ => Err(error),
        });
        let is_usable = match metadata {
            Ok(metadata) => metadata.is_dir() && check_owner(&directory, &metadata, DIRECTORY_MODE)?,
            Err(error) => {
                info!("no state directory: {}: {error}", directory.display());
                false
            }
        };
        Ok(Self { directory: is_usable.then_some(directory) })
    }

    /// Returns a value, if its file exists and is valid.
    ///
    /// # Errors
    /// Other users can access the file.
    pub(crate) fn read<T: DeserializeOwned>(&self, key: &Key) -> Result<Option<T>, SystemError> {
        let Some(path) = self.path(key) else { return Ok(None) };
        let Some(json) = read_private(&path)? else { return Ok(None) };
        match serde_json::from_slice::<Envelope<T>>(&json) {
            Ok(envelope) if envelope.version == VERSION && envelope.name == key.name => {
                Ok(Some(envelope.value))
            }
            _ => {
                discard_corrupt(&path, &json);
                Ok(None)
            }
        }
    }

    /// Stores a value, if possible.
    pub(crate) fn write<T: Serialize>(&self, key: &Key, value: &T) {
        if let Err(error) = self.try_write(key, value) {
            info!("cannot store a value: {error:#}");
        }
    }

    /// Stores a value.
    ///
    /// # Errors
    /// There is no state directory, or it is not writable.
    pub(crate) fn try_write<T: Serialize>(&self, key: &Key, value: &T) -> Result<()> {
        let path = self.directory()?.join(key.file());
        let envelope = Envelope { version: VERSION, kind: key.kind, name: key.name.clone(), value };
        replace(&path, &Zeroizing::new(serde_json::to_vec(&envelope)?))
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// Creates a private directory that is deleted when the value is dropped.
    ///
    /// # Errors
    /// There is no state directory, or it is not writable.
    pub(crate) fn temp_dir(&self) -> Result<TempDir> {
        let directory = self.directory()?;
        let temp_dir = temporary(TEMP_DIRECTORY).tempdir_in(directory);
        temp_dir.with_context(|| format!("cannot write to {}", directory.display()))
    }

    /// Checks that the directory is writable.
    ///
    /// # Errors
    /// There is no state directory, or it is not writable.
    pub(crate) fn check_writable(&self) -> Result<()> {
        files::write_temporary(self.directory()?, &[0; 16 * 1024])?;
        Ok(())
    }

    /// Deletes a value.
    pub(crate) fn remove(&self, key: &Key) {
        if let Some(path) = self.path(key) {
            remove_value(&path);
        }
    }

    /// Deletes a file that [`Store::files_of`] returned, unless arcssh did not write it. Returns whether it was deleted.
    pub(crate) fn delete(&self, path: &Path) -> bool {
        remove_value(path)
    }

    /// Deletes all values of the chosen kinds, also damaged ones, and returns the kind of each. Lock files remain for the
    /// processes that hold them.
    pub(crate) fn clear(&self, is_chosen: impl Fn(Kind) -> bool) -> Vec<Kind> {
        let deleted = self.values().filter(|(kind, path)| is_chosen(*kind) && remove_value(path));
        deleted.map(|(kind, _)| kind).collect()
    }

    /// Deletes values that are older than [`MAX_LIFETIME`], except a sign-in, and temporary files of killed processes.
    pub(crate) fn remove_expired(&self) {
        let age = |path: &Path| fs::symlink_metadata(path).ok()?.modified().ok()?.elapsed().ok();
        let is_older = |path: &Path, limit| age(path).is_some_and(|age| age > limit);
        for (kind, path) in self.values() {
            let is_value = || {
                let content = read_own(&path).map(|json| Content::of(&json));
                matches!(content, Ok(Content::Value | Content::OtherVersion(_)))
            };
            if kind != Kind::Account && is_older(&path, MAX_LIFETIME) && is_value() {
                remove_value(&path);
            }
        }
        remove_temporary(self.files().filter(|file| is_older(&file.path(), MAX_WORK)));
    }

    /// Deletes the temporary files of all processes, so that none outlives a sign-out.
    pub(crate) fn clear_temporary(&self) {
        remove_temporary(self.files());
    }

    fn files(&self) -> impl Iterator<Item = fs::DirEntry> + use<> {
        files_in(self.folder())
    }

    fn values(&self) -> impl Iterator<Item = (Kind, PathBuf)> + use<> {
        values_in(self.folder())
    }

    /// Moves values of versions that used the directory in [`STATE_DIR_VARIABLE`] itself. A file stays unless it is a value
    /// of this user whose name matches its content.
    fn migrate(&self, parent: &Path) {
        let Some(directory) = self.folder() else { return };
        for (_, path) in values_in(Some(parent)) {
            let envelope = read_own(&path).ok().and_then(|json| serde_json::from_slice(&json).ok());
            let Some(Envelope::<serde::de::IgnoredAny> { version: VERSION, kind, name, .. }) = envelope
            else {
                continue;
            };
            let name = Key { kind, name }.file();
            let target = directory.join(&name);
            if path.file_name().is_some_and(|old| *old == *name) && fs::symlink_metadata(&target).is_err() {
                let moved = fs::rename(&path, &target);
                debug!(?moved, "value of an earlier version: {}", path.display());
            }
        }
    }

    /// Returns the files of a kind, including unreadable ones.
    pub(crate) fn files_of(&self, kind: Kind) -> Vec<PathBuf> {
        self.values().filter(|(other, _)| *other == kind).map(|(_, path)| path).collect()
    }

    /// Returns the key of the value in a file, if the file is readable.
    pub(crate) fn key_of(&self, path: &Path) -> Option<Key> {
        let Envelope::<serde::de::IgnoredAny> { kind, name, .. } =
            serde_json::from_slice(&read_private(path).ok()??).ok()?;
        Some(Key { kind, name })
    }

    /// Returns the keys of all values.
    pub(crate) fn keys(&self) -> Vec<Key> {
        let mut keys: Vec<Key> = self.values().filter_map(|(_, path)| self.key_of(&path)).collect();
        keys.sort_by(|one, other| one.name.cmp(&other.name));
        keys
    }

    fn directory(&self) -> Result<&Path> {
        self.folder().context("there is no state directory")
    }

    /// Returns the state directory, if there is a usable one.
    pub(crate) fn folder(&self) -> Option<&Path> {
        self.directory.as_deref()
    }

    /// Waits until no other process works on this key's value. Returns `None` after [`LOCK_TIMEOUT`], and if there are no
    /// locks: the caller then works without one.
    pub(crate) async fn lock(&self, key: &Key) -> Option<Lock> {
        let lock = match self.lock_file(key) {
            Some(file) => files::lock(&file, LOCK_TIMEOUT).await.map(|()| Lock { _file: file }).ok(),
            None => None,
        };
        if lock.is_none() {
            info!("cannot lock {}", key.name);
        }
        lock
    }

    /// Returns the lock, unless another process holds it.
    pub(crate) fn try_lock(&self, key: &Key) -> Option<Lock> {
        let file = self.lock_file(key)?;
        file.try_lock().ok().map(|()| Lock { _file: file })
    }

    fn lock_file(&self, key: &Key) -> Option<File> {
        let path = self.folder()?.join(key.lock_file());
        let file = open_own(&path, OpenOptions::new().create(true).truncate(false).write(true));
        file.map_err(|error| debug!("cannot open the lock file {}: {error}", path.display())).ok()
    }

    /// Returns the path of a value's file.
    pub(crate) fn path(&self, key: &Key) -> Option<PathBuf> {
        Some(self.folder()?.join(key.file()))
    }
}

fn files_in(directory: Option<&Path>) -> impl Iterator<Item = fs::DirEntry> + use<> {
    directory.and_then(|directory| fs::read_dir(directory).ok()).into_iter().flatten().flatten()
}

/// Returns the files of this user that are named like values.
fn values_in(directory: Option<&Path>) -> impl Iterator<Item = (Kind, PathBuf)> + use<> {
    files_in(directory).filter_map(|file| {
        let kind = Kind::of_file(file.file_name().to_str()?)?;
        file.metadata().is_ok_and(|metadata| ensure_own(&metadata).is_ok()).then(|| (kind, file.path()))
    })
}

/// Returns whether arcssh did not write a file. A file that is not readable because of its mode counts as a value.
fn is_foreign(path: &Path) -> bool {
    read_own(path).is_ok_and(|json| Content::of(&json) == Content::Foreign)
}

/// Deletes a file that is named like a value, unless arcssh did not write it. Returns whether it was deleted.
fn remove_value(path: &Path) -> bool {
    let is_own = fs::symlink_metadata(path).is_ok_and(|metadata| ensure_own(&metadata).is_ok());
    is_own && !is_foreign(path) && fs::remove_file(path).is_ok()
}

fn remove_temporary(files: impl Iterator<Item = fs::DirEntry>) {
    for file in files {
        let (name, path) = (file.file_name(), file.path());
        let (Some(name), Ok(metadata)) = (name.to_str(), file.metadata()) else { continue };
        if is_temporary(name, TEMP_FILE) && ensure_own(&metadata).is_ok() {
            let _ = fs::remove_file(path);
        } else if is_temporary(name, TEMP_DIRECTORY) && metadata.is_dir() && is_own(&metadata) {
            remove_temp_dir(&path);
        }
    }
}

/// Deletes a directory of [`Store::temp_dir`], if it contains only files of ssh-keygen.
fn remove_temp_dir(temp_dir: &Path) {
    let is_key = |file: &fs::DirEntry| {
        let is_own = file.metadata().is_ok_and(|metadata| ensure_own(&metadata).is_ok());
        is_own && KEY_FILES.iter().any(|name| file.file_name() == *name)
    };
    let files: Vec<fs::DirEntry> = files_in(Some(temp_dir)).collect();
    if files.iter().all(is_key) {
        files.iter().for_each(|file| drop(fs::remove_file(file.path())));
        let _ = fs::remove_dir(temp_dir);
    }
}

fn directory_of_variable() -> Option<PathBuf> {
    let value = std::env::var_os(STATE_DIR_VARIABLE).filter(|value| !value.is_empty())?;
    std::path::absolute(value).ok()
}

/// Returns `arcssh` in the platform's directory for state: `$XDG_STATE_HOME` or `~/.local/state` (XDG Base Directory
/// Specification), `%LOCALAPPDATA%` on Windows.
fn platform_directory() -> Option<PathBuf> {
    let platform = etcetera::choose_base_strategy().ok()?;
    Some(platform.state_dir().unwrap_or_else(|| platform.cache_dir()).join("arcssh"))
}

/// Returns the metadata of a path, and does not follow a symbolic link of another user.
fn resolved(path: &Path) -> io::Result<fs::Metadata> {
    let metadata = fs::symlink_metadata(path)?;
    if metadata.is_symlink() && !is_own(&metadata) {
        return Err(io::Error::new(ErrorKind::PermissionDenied, "it is another user's symbolic link"));
    }
    fs::metadata(path)
}

/// Returns the bytes of a file, if it exists.
fn read_private(path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, SystemError> {
    let Ok(metadata) = fs::symlink_metadata(path) else { return Ok(None) };
    if !metadata.is_file() || !check_owner(path, &metadata, FILE_MODE)? {
        return Ok(None);
    }
    Ok(read_own(path).ok())
}

/// Returns the bytes of a file of this user. A buffer that grew would leave copies of a secret in memory.
fn read_own(path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    let file = open_own(path, OpenOptions::new().read(true))?;
    let length = file.metadata()?.len().min(MAX_FILE);
    let mut bytes = Zeroizing::new(Vec::with_capacity(length as usize + 1));
    file.take(MAX_FILE).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Replaces a value, unless arcssh did not write the file.
fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    if let Ok(metadata) = fs::symlink_metadata(path) {
        ensure_own(&metadata)?;
        ensure!(!is_foreign(path), "the existing file is not from arcssh");
    }
    Ok(files::replace(path, bytes)?)
}

/// Deletes a damaged file and warns the user. Two versions of arcssh can share the directory, so a value of another
/// version remains.
fn discard_corrupt(path: &Path, json: &[u8]) {
    match Content::of(json) {
        Content::OtherVersion(version) => info!("{} has version {version}", path.display()),
        Content::Foreign => info!("arcssh did not write {}", path.display()),
        Content::Value | Content::Damaged => {
            warn!("ignoring the damaged file {}", path.display());
            remove_value(path);
        }
    }
}

const DIRECTORY_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

/// Returns whether a file or directory belongs to this user.
///
/// # Errors
/// Other users can access it.
#[cfg(unix)]
fn check_owner(path: &Path, metadata: &fs::Metadata, required: u32) -> Result<bool, SystemError> {
    use std::os::unix::fs::MetadataExt as _;
    if !is_own(metadata) {
        warn!("ignoring {}: it belongs to another user", path.display());
        return Ok(false);
    }
    let mode = metadata.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(SystemError::InsecurePermissions { path: path.to_owned(), mode, required });
    }
    Ok(true)
}

/// On other platforms, only the user can access the directory.
#[cfg(not(unix))]
fn check_owner(_: &Path, _: &fs::Metadata, _: u32) -> Result<bool, SystemError> {
    Ok(true)
}

#[cfg(test)]
mod fuzz_tests;
#[cfg(all(test, unix))]
mod tests;
