//! Where ssh finds an agent: one path for all processes that serve a host, since `IdentityAgent` has no token that
//! tells one process from another.
//!
//! Each process listens on a socket of its own, `{path}.{number}`, and the path is a symbolic link to one of them. It
//! leads to the newest process that lives: one that is at least as young as the ssh that asks, whose certificate is at
//! least as fresh. Whoever comes takes the path over, whoever leaves hands it to the newest that stays, and where a
//! process dies the others do that for it. Links are replaced by rename(2), so that the path never leads nowhere while
//! somebody could serve. The folder is locked meanwhile, and only its owner can enter it.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketType};
use tracing::{debug, info};

/// How long another process may hold the lock, which takes it microseconds unless it is stopped. Then we go on.
const LOCK_TRIES: u32 = 200;
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// Numbers of sockets are less, so that their paths are not too long; another file's may be anything.
const MAX_NUMBER: u64 = 1_000_000_000;

/// Modes of sockets. That of a process that is about to end says so; to connect takes the right to write alone.
const STAYING: u32 = 0o600;
const LEAVING: u32 = 0o200;

/// A process' part in a path. Dropping it takes its socket away.
pub(super) struct Place {
    path: PathBuf,
    number: u64,
}

impl Place {
    /// Makes the path lead to a new socket.
    ///
    /// # Errors
    /// Others can enter the folder, or no socket can be made in it.
    pub(super) fn take(path: &Path) -> Result<(Self, UnixListener)> {
        let folder = path.parent().context("it is not in a folder")?;
        ensure_private(folder)?;
        let _lock = lock(folder);
        let number = numbers(path).first().map_or(1, |newest| newest + 1);
        let place = Self { path: path.to_owned(), number };
        let listener = UnixListener::bind(place.own())?;
        fs::set_permissions(place.own(), Permissions::from_mode(STAYING))?;
        let before = fs::read_link(path);
        place.lead_to(number)?;
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
    pub(super) fn leads_here(&self) -> bool {
        self.target() == Some(self.number)
    }

    /// Makes the path lead to the newest process that stays.
    pub(super) fn settle(&self) {
        let _lock = lock(self.folder());
        self.elect(self.newest());
    }

    /// Hands the path over; whether anyone is there to take it. Our socket stays for those who are on their way to it.
    pub(super) fn leave(&self) -> bool {
        let _lock = lock(self.folder());
        self.hand_over()
    }

    fn hand_over(&self) -> bool {
        let _ = fs::set_permissions(self.own(), Permissions::from_mode(LEAVING));
        let heir = self.newest();
        self.elect(heir);
        heir.is_some()
    }

    /// The newest that stays; those found dead are cleared away.
    fn newest(&self) -> Option<u64> {
        for number in numbers(&self.path) {
            let socket = socket(&self.path, number);
            if !is_live(&socket) {
                debug!(number, "a process ended without clearing its socket away");
                let _ = fs::remove_file(socket);
            } else if fs::metadata(socket).is_ok_and(|found| found.mode() & 0o777 == STAYING) {
                return Some(number);
            }
        }
        None
    }

    fn elect(&self, newest: Option<u64>) {
        let done = match newest {
            Some(number) if self.target() == Some(number) => Ok(()),
            Some(number) => self.lead_to(number),
            None => fs::remove_file(&self.path).or_else(absent_is_fine),
        };
        if let Err(error) = done {
            info!(%error, path = %self.path.display(), "the agent's path cannot be changed");
        }
    }

    fn lead_to(&self, number: u64) -> io::Result<()> {
        let link = suffixed(&self.path, "new");
        let _ = fs::remove_file(&link); // a process died between the next two
        symlink(socket(&self.path, number).file_name().unwrap_or_default(), &link)?;
        fs::rename(&link, &self.path)
    }

    /// The number of the socket that the path leads to.
    fn target(&self) -> Option<u64> {
        number_of(&self.path, fs::read_link(&self.path).ok()?.to_str()?)
    }

    fn own(&self) -> PathBuf {
        socket(&self.path, self.number)
    }

    fn folder(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new("/"))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _lock = lock(self.folder());
        self.hand_over();
        let _ = fs::remove_file(self.own());
    }
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

/// The numbers of all sockets, the newest first.
fn numbers(path: &Path) -> Vec<u64> {
    let entries = path.parent().and_then(|folder| fs::read_dir(folder).ok()).into_iter().flatten();
    let mut numbers: Vec<u64> =
        entries.flatten().filter_map(|entry| number_of(path, entry.file_name().to_str()?)).collect();
    numbers.sort_unstable_by(|a, b| b.cmp(a));
    numbers
}

fn number_of(path: &Path, name: &str) -> Option<u64> {
    let number = name.strip_prefix(path.file_name()?.to_str()?)?.strip_prefix('.')?.parse().ok()?;
    (number < MAX_NUMBER).then_some(number)
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

/// Makes the folder for its owner alone, or sees that it is so.
fn ensure_private(folder: &Path) -> Result<()> {
    match DirBuilder::new().recursive(true).mode(0o700).create(folder) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error.into()),
        _ => {}
    }
    let found = fs::symlink_metadata(folder)?;
    let (mode, user) = (found.mode() & 0o777, rustix::process::geteuid().as_raw());
    let shown = folder.display();
    ensure!(found.is_dir() && found.uid() == user, "{shown} is not a folder of this user");
    ensure!(mode & 0o077 == 0, "{shown} is open to others (mode {mode:04o}); chmod 700 keeps them out");
    Ok(())
}
