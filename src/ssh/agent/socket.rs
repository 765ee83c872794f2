//! Where ssh finds an agent: one path for all processes that serve a host, since `IdentityAgent` has no token that
//! tells one process from another.
//!
//! Each process listens on a socket of its own, `{path}.{number}`, and the path is a symbolic link to one of them. It
//! leads to the newest process that lives: one that is at least as young as the ssh that asks, whose certificate is at
//! least as fresh. Whoever comes takes the path over, whoever leaves hands it to the newest that stays, and where a
//! process dies the others do that for it. Links are replaced by rename(2), so that the path never leads nowhere while
//! somebody could serve. The folder is locked meanwhile, and only its owner can enter it.
//!
//! A path, a socket or a link that arcssh did not make is neither replaced nor deleted.

use std::ffi::OsStr;
use std::fs::{self, File, Metadata, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketType};
use tracing::{debug, info};

use crate::ssh::agent::NotServed;
use crate::system::files::{create_private_dir, is_own};

/// How long another process may hold the lock, which takes it microseconds unless it is stopped. Then we go on.
const LOCK_TRIES: u32 = 200;
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// Numbers of sockets are less, so that their paths are not too long; another file's may be anything.
const MAX_NUMBER: u64 = 1_000_000_000;

/// Modes of sockets. That of a process that is about to end says so; to connect takes the right to write alone.
const STAYING: u32 = 0o600;
const RETIRING: u32 = 0o200;

/// What stands between a path and the random letters of a link that is about to take its place, and their number.
const NEW: &str = ".new-";
const RANDOM: usize = 6;

/// A process' part in a path. Dropping it takes its socket away.
pub(super) struct SharedSocket {
    path: PathBuf,
    number: u64,
}

impl SharedSocket {
    /// Makes the path lead to a new socket.
    ///
    /// # Errors
    /// [`NotServed`]; no socket can be made in the folder.
    pub(super) fn take(path: &Path) -> Result<(Self, UnixListener)> {
        let folder = path.parent().ok_or_else(|| NotServed::Occupied(path.to_owned()))?;
        ensure!(SocketAddrUnix::new(socket(path, 1)).is_ok(), NotServed::TooLong(path.to_owned()));
        ensure_private(folder)?;
        let _lock = lock(folder);
        ensure_replaceable(path)?;
        remove_new_links(path);
        let number = free_number(path)?;
        let listener = UnixListener::bind(socket(path, number))?;
        let place = Self { path: path.to_owned(), number };
        fs::set_permissions(place.own(), Permissions::from_mode(STAYING))?;
        let before = fs::read_link(path);
        place.point_to(number)?;
        if let Ok(before) = before {
            is_live(&folder.join(before)); // so that it hears of us
        }
        Ok((place, listener))
    }

    /// The path that all share.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the path leads to our socket.
    pub(super) fn is_current(&self) -> bool {
        self.target() == Some(self.number)
    }

    /// Makes the path lead to the newest process that stays.
    pub(super) fn repair(&self) {
        let _lock = lock(self.folder());
        self.promote(self.newest());
    }

    /// Hands the path over; whether anyone is there to take it. Our socket stays for those who are on their way to it.
    pub(super) fn leave(&self) -> bool {
        let _lock = lock(self.folder());
        self.hand_over()
    }

    fn hand_over(&self) -> bool {
        let _ = fs::set_permissions(self.own(), Permissions::from_mode(RETIRING));
        let successor = self.newest();
        self.promote(successor);
        successor.is_some()
    }

    /// The newest that stays; those found dead are cleared away.
    fn newest(&self) -> Option<u64> {
        for number in numbers(&self.path) {
            let socket = socket(&self.path, number);
            if !is_live(&socket) {
                debug!(number, "a process ended without clearing its socket away");
                remove_socket(&socket);
            } else if fs::metadata(socket).is_ok_and(|found| found.mode() & 0o777 == STAYING) {
                return Some(number);
            }
        }
        None
    }

    fn promote(&self, newest: Option<u64>) {
        let done = match newest {
            Some(number) if self.target() == Some(number) => Ok(()),
            Some(number) => self.point_to(number),
            None => self.remove_link(),
        };
        if let Err(error) = done {
            info!(%error, path = %self.path.display(), "the agent's path cannot be changed");
        }
    }

    fn point_to(&self, number: u64) -> Result<()> {
        ensure_replaceable(&self.path)?;
        let socket = socket(&self.path, number);
        let target = socket.file_name().unwrap_or_default();
        let mut prefix = self.path.file_name().unwrap_or_default().to_owned();
        prefix.push(NEW);
        let mut builder = tempfile::Builder::new();
        builder.prefix(&prefix).rand_bytes(RANDOM);
        let link = builder.make_in(self.folder(), |link| symlink(target, link))?;
        Ok(link.into_temp_path().persist(&self.path)?)
    }

    fn remove_link(&self) -> Result<()> {
        ensure_replaceable(&self.path)?;
        Ok(fs::remove_file(&self.path).or_else(absent_is_fine)?)
    }

    /// The number of the socket that the path leads to.
    fn target(&self) -> Option<u64> {
        target(&self.path, &self.path)
    }

    fn own(&self) -> PathBuf {
        socket(&self.path, self.number)
    }

    fn folder(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new("/"))
    }
}

impl Drop for SharedSocket {
    fn drop(&mut self) {
        let _lock = lock(self.folder());
        self.hand_over();
        remove_socket(&self.own());
    }
}

/// Refuses a path at which there is anything but a link of ours.
fn ensure_replaceable(path: &Path) -> Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error.into()),
        Ok(_) if target(path, path).is_some() => Ok(()),
        Ok(_) => bail!(NotServed::Occupied(path.to_owned())),
    }
}

/// The number of the socket of `path` that a symbolic link of this user leads to.
fn target(path: &Path, link: &Path) -> Option<u64> {
    fs::symlink_metadata(link).ok().filter(is_own)?;
    number_of(path, fs::read_link(link).ok()?.as_os_str())
}

/// Deletes the links of processes that were killed before they put them in place.
fn remove_new_links(path: &Path) {
    let is_new = |name: &OsStr| {
        let random = suffix(path, name).and_then(|suffix| suffix.strip_prefix(NEW));
        random.is_some_and(|random| random.len() == RANDOM)
    };
    let links = entries(path).filter(|entry| is_new(&entry.file_name()));
    for link in links.map(|entry| entry.path()).filter(|link| target(path, link).is_some()) {
        let _ = fs::remove_file(link);
    }
}

/// Deletes a socket that arcssh made: its mode says so.
fn remove_socket(path: &Path) {
    let is_ours =
        |found: &Metadata| is_socket(found) && [STAYING, RETIRING].contains(&(found.mode() & 0o777));
    if fs::symlink_metadata(path).is_ok_and(|found| is_ours(&found)) {
        let _ = fs::remove_file(path);
    }
}

/// Whether a file is a socket of this user.
fn is_socket(found: &Metadata) -> bool {
    found.file_type().is_socket() && is_own(found)
}

fn absent_is_fine(error: io::Error) -> io::Result<()> {
    if error.kind() == ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

fn socket(path: &Path, number: u64) -> PathBuf {
    suffixed(path, &number.to_string())
}

fn suffixed(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    name.into()
}

fn entries(path: &Path) -> impl Iterator<Item = fs::DirEntry> + use<> {
    path.parent().and_then(|folder| fs::read_dir(folder).ok()).into_iter().flatten().flatten()
}

/// The numbers of all sockets, the newest first.
fn numbers(path: &Path) -> Vec<u64> {
    let sockets = entries(path).filter(|entry| entry.metadata().is_ok_and(|found| is_socket(&found)));
    let mut numbers: Vec<u64> = sockets.filter_map(|entry| number_of(path, &entry.file_name())).collect();
    numbers.sort_unstable_by(|a, b| b.cmp(a));
    numbers
}

/// A number above those of all sockets, at which there is nothing.
fn free_number(path: &Path) -> Result<u64> {
    let next = numbers(path).first().map_or(1, |newest| newest + 1);
    let is_free = |number: &u64| {
        let found = fs::symlink_metadata(socket(path, *number));
        found.is_err_and(|error| error.kind() == ErrorKind::NotFound)
    };
    (next..MAX_NUMBER).find(is_free).context("no number is left for another socket")
}

/// The number at the end of a socket's name, in the form in which [`socket`] writes it.
fn number_of(path: &Path, name: &OsStr) -> Option<u64> {
    let digits = suffix(path, name)?.strip_prefix('.')?;
    let number: u64 = digits.parse().ok().filter(|number| *number < MAX_NUMBER)?;
    (number.to_string() == digits).then_some(number)
}

/// What follows the path's own name in the name of a file beside it.
fn suffix<'a>(path: &Path, name: &'a OsStr) -> Option<&'a str> {
    let suffix = name.as_encoded_bytes().strip_prefix(path.file_name()?.as_encoded_bytes())?;
    std::str::from_utf8(suffix).ok()
}

/// Whether a process may listen on a socket. It is not waited for: the queue of one that is stopped is full in the end.
fn is_live(socket: &Path) -> bool {
    let connect = || {
        let probe = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None)?;
        rustix::io::ioctl_fionbio(&probe, true)?;
        rustix::net::connect(&probe, &SocketAddrUnix::new(socket)?)
    };
    !matches!(connect(), Err(Errno::CONNREFUSED | Errno::NOENT | Errno::NOTSOCK))
}

/// A lock that every process takes that changes a path of the folder.
fn lock(folder: &Path) -> Option<File> {
    let file = File::open(folder).ok()?;
    for _ in 0..LOCK_TRIES {
        match file.try_lock() {
            Ok(()) => return Some(file),
            Err(fs::TryLockError::WouldBlock) => thread::sleep(LOCK_PAUSE),
            Err(fs::TryLockError::Error(_)) => return None,
        }
    }
    None
}

/// Makes the folder for its owner alone, or checks that it is private.
fn ensure_private(folder: &Path) -> Result<()> {
    match create_private_dir(folder) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error.into()),
        _ => {}
    }
    let found = fs::symlink_metadata(folder)?;
    ensure!(found.is_dir() && is_own(&found), NotServed::NotOwn(folder.to_owned()));
    let mode = found.mode() & 0o777;
    ensure!(mode & 0o077 == 0, NotServed::Open { folder: folder.to_owned(), mode });
    Ok(())
}
