//! One path that all processes of a host entry share, since `IdentityAgent` has no token that identifies a process.
//!
//! Each process listens on its own socket, `{path}.{number}`, and the path is a symbolic link to one of them. A process
//! that starts links the path to its own socket, so the link points to a process that is at least as new as the ssh that
//! asks, with a certificate that is at least as new. A process that ends links the path to the newest process that is
//! still listening. rename(2) replaces the link, so that it never disappears in between. Processes lock the directory
//! while they change the link, and only the directory's owner can enter it.
//!
//! arcssh neither replaces nor deletes a file, a socket or a link that it did not create.

use std::ffi::OsStr;
use std::fs::{self, File, Metadata, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketType};
use tracing::{debug, info};

use crate::ssh::{SocketProblem, SshError};
use crate::system::files::{create_private_dir, is_own};

/// How often to try the lock, which a process holds for microseconds unless it is stopped. Then arcssh goes on without.
const LOCK_TRIES: u32 = 200;
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// The bound of a socket's number, so that its path is not too long. A file with a higher number is not arcssh's.
const MAX_NUMBER: u64 = 1_000_000_000;

/// The mode of a socket.
const MODE: u32 = 0o600;

/// The suffix of the path in the name of a link that is about to replace it, and the number of random letters after that.
const NEW: &str = ".new-";
const RANDOM: usize = 6;

/// The socket of this process, and its share in the path. Dropping it is [`SharedSocket::release`].
pub(super) struct SharedSocket {
    path: PathBuf,
    /// `None` after [`SharedSocket::release`].
    number: Option<u64>,
}

impl SharedSocket {
    /// Creates a socket and links the path to it.
    ///
    /// # Errors
    /// [`SshError::AgentSocket`]; the socket cannot be created in the directory.
    pub(super) fn bind(path: &Path) -> Result<(Self, UnixListener), SshError> {
        let folder =
            path.parent().ok_or_else(|| SshError::AgentSocket(SocketProblem::Occupied(path.to_owned())))?;
        if SocketAddrUnix::new(socket(path, 1)).is_err() {
            return Err(SshError::AgentSocket(SocketProblem::TooLong(path.to_owned())));
        }
        ensure_private(folder)?;
        let _lock = lock(folder);
        ensure_replaceable(path)?;
        remove_new_links(path);
        let number = free_number(path)?;
        let listener = UnixListener::bind(socket(path, number))?;
        let shared = Self { path: path.to_owned(), number: Some(number) };
        fs::set_permissions(socket(path, number), Permissions::from_mode(MODE))?;
        shared.point_to(number)?;
        Ok((shared, listener))
    }

    /// Links the path to the newest other process, or removes the link, and deletes the socket's file. Returns whether
    /// another process has taken over. The listener still receives the clients that connected before.
    pub(super) fn release(&mut self) -> bool {
        let Some(number) = self.number.take() else { return false };
        let _lock = lock(self.folder());
        let successor = self.newest_except(number);
        self.promote(successor);
        remove_socket(&socket(&self.path, number));
        successor.is_some()
    }

    /// The newest other socket that a process listens on. Deletes those of dead processes.
    fn newest_except(&self, own: u64) -> Option<u64> {
        for number in numbers(&self.path).into_iter().filter(|number| *number != own) {
            let socket = socket(&self.path, number);
            if is_live(&socket) {
                return Some(number);
            }
            debug!(number, "a process ended without deleting its socket");
            remove_socket(&socket);
        }
        None
    }

    fn promote(&self, successor: Option<u64>) {
        let result = match successor {
            Some(number) if target(&self.path, &self.path) == Some(number) => Ok(()),
            Some(number) => self.point_to(number),
            None => self.remove_link(),
        };
        if let Err(error) = result {
            info!(%error, path = %self.path.display(), "cannot change the link to the agent");
        }
    }

    fn point_to(&self, number: u64) -> Result<(), SshError> {
        ensure_replaceable(&self.path)?;
        let socket = socket(&self.path, number);
        let target = socket.file_name().unwrap_or_default();
        let mut prefix = self.path.file_name().unwrap_or_default().to_owned();
        prefix.push(NEW);
        let mut builder = tempfile::Builder::new();
        builder.prefix(&prefix).rand_bytes(RANDOM);
        let link = builder.make_in(self.folder(), |link| symlink(target, link))?;
        link.into_temp_path().persist(&self.path).map_err(|error| error.error)?;
        Ok(())
    }

    fn remove_link(&self) -> Result<(), SshError> {
        ensure_replaceable(&self.path)?;
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }

    fn folder(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new("/"))
    }
}

impl Drop for SharedSocket {
    fn drop(&mut self) {
        self.release();
    }
}

/// Fails if there is anything at the path but a link of arcssh's.
fn ensure_replaceable(path: &Path) -> Result<(), SshError> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error.into()),
        Ok(_) if target(path, path).is_some() => Ok(()),
        Ok(_) => Err(SshError::AgentSocket(SocketProblem::Occupied(path.to_owned()))),
    }
}

/// The number of the socket of `path` that a symbolic link of this user points to.
fn target(path: &Path, link: &Path) -> Option<u64> {
    fs::symlink_metadata(link).ok().filter(is_own)?;
    number_of(path, fs::read_link(link).ok()?.as_os_str())
}

/// Deletes the links of processes that were killed between creating a link and renaming it.
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

/// Deletes a socket that arcssh created, which its mode shows.
fn remove_socket(path: &Path) {
    let is_ours = |metadata: &Metadata| is_socket(metadata) && metadata.mode() & 0o777 == MODE;
    if fs::symlink_metadata(path).is_ok_and(|metadata| is_ours(&metadata)) {
        let _ = fs::remove_file(path);
    }
}

/// Returns whether a file is a socket of this user.
fn is_socket(metadata: &Metadata) -> bool {
    metadata.file_type().is_socket() && is_own(metadata)
}

fn socket(path: &Path, number: u64) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    name.into()
}

/// The entries of the path's directory.
fn entries(path: &Path) -> impl Iterator<Item = fs::DirEntry> + use<> {
    path.parent().and_then(|folder| fs::read_dir(folder).ok()).into_iter().flatten().flatten()
}

/// The numbers of all sockets, the newest first.
fn numbers(path: &Path) -> Vec<u64> {
    let sockets = entries(path).filter(|entry| entry.metadata().is_ok_and(|metadata| is_socket(&metadata)));
    let mut numbers: Vec<u64> = sockets.filter_map(|entry| number_of(path, &entry.file_name())).collect();
    numbers.sort_unstable_by(|a, b| b.cmp(a));
    numbers
}

/// An unused number above those of all sockets.
fn free_number(path: &Path) -> Result<u64, SshError> {
    let next = numbers(path).first().map_or(1, |newest| newest + 1);
    let is_free = |number: &u64| {
        let metadata = fs::symlink_metadata(socket(path, *number));
        metadata.is_err_and(|error| error.kind() == ErrorKind::NotFound)
    };
    Ok((next..MAX_NUMBER).find(is_free).context("all numbers for sockets are in use")?)
}

/// The number at the end of a socket's name, in the form in which [`socket`] writes it.
fn number_of(path: &Path, name: &OsStr) -> Option<u64> {
    let digits = suffix(path, name)?.strip_prefix('.')?;
    let number: u64 = digits.parse().ok().filter(|number| *number < MAX_NUMBER)?;
    (number.to_string() == digits).then_some(number)
}

/// Returns the text after the path's name in the name of another file of its directory.
fn suffix<'a>(path: &Path, name: &'a OsStr) -> Option<&'a str> {
    let suffix = name.as_encoded_bytes().strip_prefix(path.file_name()?.as_encoded_bytes())?;
    std::str::from_utf8(suffix).ok()
}

/// Returns whether a process listens on a socket. Does not wait for a stopped process, whose queue fills up.
fn is_live(socket: &Path) -> bool {
    let connect = || {
        let probe = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None)?;
        rustix::io::ioctl_fionbio(&probe, true)?;
        rustix::net::connect(&probe, &SocketAddrUnix::new(socket)?)
    };
    !matches!(connect(), Err(Errno::CONNREFUSED | Errno::NOENT | Errno::NOTSOCK))
}

/// Locks the directory against other processes that change one of its paths.
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

/// Creates the directory for its owner alone, or checks that it is private.
fn ensure_private(folder: &Path) -> Result<(), SshError> {
    match create_private_dir(folder) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error.into()),
        _ => {}
    }
    let metadata = fs::symlink_metadata(folder)?;
    if !metadata.is_dir() || !is_own(&metadata) {
        return Err(SshError::AgentSocket(SocketProblem::NotOwn(folder.to_owned())));
    }
    let mode = metadata.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(SshError::AgentSocket(SocketProblem::Open { directory: folder.to_owned(), mode }));
    }
    Ok(())
}
