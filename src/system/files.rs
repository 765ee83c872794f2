//! Files: opened without blocking, read up to a limit, replaced atomically, locked for a limited time.

use std::fs::{self, DirBuilder, File, Metadata, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::path::Path;
use std::time::Duration;

use tempfile::NamedTempFile;
use tokio::time::{Instant, sleep};

/// The most bytes that arcssh reads of a certificate, a token, a template or an ssh configuration.
pub(crate) const MAX_TEXT: u64 = 4 * 1024 * 1024;
/// How often a process retries to take a lock. flock(2) without LOCK_NB would block the only thread.
const LOCK_INTERVAL: Duration = Duration::from_millis(20);

/// The name of a temporary file or directory: this prefix, random letters and digits, and a suffix.
const TEMP_PREFIX: &str = ".arcssh-";
const TEMP_RANDOM: usize = 12;
/// The suffix of a file that arcssh is writing.
pub(crate) const TEMP_FILE: &str = ".tmp";

/// Returns the bytes of a regular file.
///
/// # Errors
/// Those of [`open_regular`]; the file is longer than `limit` bytes.
pub(crate) fn read(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open_regular(path)?.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(io::Error::new(ErrorKind::FileTooLarge, format!("it is longer than {limit} bytes")));
    }
    Ok(bytes)
}

/// Returns the text of a regular file.
///
/// # Errors
/// Those of [`read`]; the file is not UTF-8.
pub(crate) fn read_text(path: &Path, limit: u64) -> io::Result<String> {
    let text = String::from_utf8(read(path, limit)?);
    text.map_err(|_| io::Error::new(ErrorKind::InvalidData, "it is not UTF-8 text"))
}

/// Opens a regular file for reading. Follows symbolic links.
///
/// # Errors
/// The file cannot be opened, or is a directory, a FIFO, a device or a socket.
pub(crate) fn open_regular(path: &Path) -> io::Result<File> {
    ensure_regular(&fs::metadata(path)?)?; // opening a device can have effects
    let mut options = OpenOptions::new();
    options.read(true);
    #[cfg(unix)]
    flags(&mut options, NONBLOCKING);
    let file = options.open(path)?;
    ensure_regular(&file.metadata()?)?;
    Ok(file)
}

/// Checks that a file is a regular file.
///
/// # Errors
/// The file is a directory, a link, a FIFO, a device or a socket.
pub(crate) fn ensure_regular(metadata: &Metadata) -> io::Result<()> {
    if !metadata.is_file() {
        return Err(io::Error::new(ErrorKind::InvalidInput, "it is not a regular file"));
    }
    Ok(())
}

/// Opens a file of arcssh without following symbolic links. Creates a new one with mode 0600.
///
/// # Errors
/// The file cannot be opened, or is not a regular file of this user.
pub(crate) fn open_own(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    match fs::symlink_metadata(path) {
        Ok(metadata) => ensure_own(&metadata)?,
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    #[cfg(unix)]
    {
        std::os::unix::fs::OpenOptionsExt::mode(options, 0o600);
        flags(options, NONBLOCKING | rustix::fs::OFlags::NOFOLLOW);
    }
    let file = options.open(path)?;
    ensure_own(&file.metadata()?)?;
    Ok(file)
}

/// Checks that a file is a regular file of this user.
///
/// # Errors
/// The file has another type or another owner.
pub(crate) fn ensure_own(metadata: &Metadata) -> io::Result<()> {
    if metadata.is_symlink() {
        return Err(io::Error::new(ErrorKind::InvalidInput, "it is a symbolic link"));
    }
    ensure_regular(metadata)?;
    if !is_own(metadata) {
        return Err(io::Error::new(ErrorKind::PermissionDenied, "it belongs to another user"));
    }
    Ok(())
}

/// Returns whether a file belongs to this user.
#[cfg(unix)]
pub(crate) fn is_own(metadata: &Metadata) -> bool {
    std::os::unix::fs::MetadataExt::uid(metadata) == rustix::process::geteuid().as_raw()
}

/// On Windows, the access control list of the user's directory applies.
#[cfg(not(unix))]
pub(crate) fn is_own(_metadata: &Metadata) -> bool {
    true
}

/// Returns the directory of a file.
pub(crate) fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Creates a directory and its parents with mode 0700. An existing directory stays unchanged.
///
/// # Errors
/// A directory cannot be created.
pub(crate) fn create_private_dir(path: &Path) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.recursive(true).create(path)
}

/// Returns a builder of temporary files and directories, which only this user can access.
pub(crate) fn temporary(suffix: &str) -> tempfile::Builder<'_, '_> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(TEMP_PREFIX).rand_bytes(TEMP_RANDOM).suffix(suffix);
    builder
}

/// Creates a file of [`temporary`] in a directory.
///
/// # Errors
/// The directory cannot be written to. The message does not contain the temporary name.
pub(crate) fn temporary_file(directory: &Path) -> io::Result<NamedTempFile> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    temporary(TEMP_FILE).make_in(directory, |path| options.open(path))
}

/// Returns whether [`temporary`] creates files with this name.
pub(crate) fn is_temporary(name: &str, suffix: &str) -> bool {
    let random = name.strip_prefix(TEMP_PREFIX).and_then(|name| name.strip_suffix(suffix));
    random.is_some_and(|random| {
        random.len() == TEMP_RANDOM && random.bytes().all(|byte| byte.is_ascii_alphanumeric())
    })
}

/// Writes a temporary file to the disk. To replace another file of the same directory, rename it.
///
/// # Errors
/// The directory cannot be written to.
pub(crate) fn write_temporary(directory: &Path, bytes: &[u8]) -> io::Result<NamedTempFile> {
    let mut file = temporary_file(directory)?;
    file.as_file_mut().write_all(bytes)?;
    file.as_file().sync_data()?;
    Ok(file)
}

/// Creates a file with mode 0600, or replaces it: a reader sees the old content or the new content.
///
/// # Errors
/// The directory cannot be written to.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    write_temporary(parent(path), bytes)?.persist(path)?;
    Ok(())
}

/// Locks a file until it is closed, and waits up to `limit` for other processes that hold the lock.
///
/// # Errors
/// [`ErrorKind::WouldBlock`]: another process still holds the lock. Other errors: the file system has no locks.
pub(crate) async fn lock(file: &File, limit: Duration) -> io::Result<()> {
    let deadline = Instant::now() + limit;
    loop {
        match file.try_lock() {
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => sleep(LOCK_INTERVAL).await,
            result => return result.map_err(io::Error::from),
        }
    }
}

/// Without O_NONBLOCK, open(2) of a FIFO waits for its other end (fifo(7)). Without O_NOCTTY, a terminal can become the
/// controlling terminal of arcssh (open(2)).
#[cfg(unix)]
const NONBLOCKING: rustix::fs::OFlags = rustix::fs::OFlags::NONBLOCK.union(rustix::fs::OFlags::NOCTTY);

#[cfg(unix)]
fn flags(options: &mut OpenOptions, flags: rustix::fs::OFlags) {
    std::os::unix::fs::OpenOptionsExt::custom_flags(options, flags.bits().cast_signed());
}
