//! Files that a user, the environment or another program names: opened without waiting, and read up to a limit.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Read as _};
use std::path::Path;

/// The most bytes of a certificate, a token, a template or an ssh configuration that arcssh reads.
pub(crate) const MAX_TEXT: u64 = 4 * 1024 * 1024;

/// The bytes of a regular file.
///
/// # Errors
/// Those of [`open_regular`]; the file is longer than `limit` bytes.
pub(crate) fn read(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open_regular(path)?.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > limit {
        true => Err(io::Error::new(ErrorKind::FileTooLarge, format!("it is longer than {limit} bytes"))),
        false => Ok(bytes),
    }
}

/// The text of a regular file.
///
/// # Errors
/// Those of [`read`]; the file is not UTF-8.
pub(crate) fn read_text(path: &Path, limit: u64) -> io::Result<String> {
    let text = String::from_utf8(read(path, limit)?);
    text.map_err(|_| io::Error::new(ErrorKind::InvalidData, "it is not UTF-8 text"))
}

/// A regular file, open for reading. Symbolic links are followed.
///
/// # Errors
/// The file cannot be opened, or is a directory, a FIFO, a device or a socket.
pub(crate) fn open_regular(path: &Path) -> io::Result<File> {
    ensure_regular(&fs::metadata(path)?)?; // opening a device can have effects
    let mut options = OpenOptions::new();
    options.read(true);
    #[cfg(unix)]
    flags(&mut options, WITHOUT_WAITING);
    let file = options.open(path)?;
    ensure_regular(&file.metadata()?)?;
    Ok(file)
}

/// Refuses what is not a regular file.
///
/// # Errors
/// It is a directory, a link, a FIFO, a device or a socket.
pub(crate) fn ensure_regular(found: &Metadata) -> io::Result<()> {
    match found.is_file() {
        true => Ok(()),
        false => Err(io::Error::new(ErrorKind::InvalidInput, "it is not a regular file")),
    }
}

/// Opens a file of arcssh's own: never through a symbolic link, and a new one for its owner alone.
///
/// # Errors
/// The file cannot be opened, or is not a regular file of this user.
pub(crate) fn open_own(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    match fs::symlink_metadata(path) {
        Ok(found) => ensure_own(&found)?,
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    #[cfg(unix)]
    {
        std::os::unix::fs::OpenOptionsExt::mode(options, 0o600);
        flags(options, WITHOUT_WAITING | rustix::fs::OFlags::NOFOLLOW);
    }
    let file = options.open(path)?;
    ensure_own(&file.metadata()?)?;
    Ok(file)
}

/// Refuses what is not a regular file of this user.
///
/// # Errors
/// It is something else, or another user's.
pub(crate) fn ensure_own(found: &Metadata) -> io::Result<()> {
    if found.is_symlink() {
        return Err(io::Error::new(ErrorKind::InvalidInput, "it is a symbolic link"));
    }
    ensure_regular(found)?;
    match is_own(found) {
        true => Ok(()),
        false => Err(io::Error::new(ErrorKind::PermissionDenied, "it belongs to another user")),
    }
}

/// Whether a file belongs to this user.
#[cfg(unix)]
pub(crate) fn is_own(found: &Metadata) -> bool {
    std::os::unix::fs::MetadataExt::uid(found) == rustix::process::geteuid().as_raw()
}

/// On Windows the access list of the user's own directory decides.
#[cfg(not(unix))]
pub(crate) fn is_own(_found: &Metadata) -> bool {
    true
}

/// Without O_NONBLOCK, open(2) of a FIFO waits for its other end (fifo(7)); without O_NOCTTY, a terminal can become ours.
#[cfg(unix)]
const WITHOUT_WAITING: rustix::fs::OFlags = rustix::fs::OFlags::NONBLOCK.union(rustix::fs::OFlags::NOCTTY);

#[cfg(unix)]
fn flags(options: &mut OpenOptions, flags: rustix::fs::OFlags) {
    std::os::unix::fs::OpenOptionsExt::custom_flags(options, flags.bits().cast_signed());
}
