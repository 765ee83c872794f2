//! Standard input and output, which carry the bytes of ssh.
//!
//! ssh gives its ProxyCommand pipes, and reading a pipe needs no thread. O_NONBLOCK belongs to the open file description,
//! which other processes of the same shell line share. On Linux, arcssh therefore opens the pipe a second time. Terminals,
//! files and sockets, and other systems, use Tokio's stdin and stdout, which block a thread.

#[cfg(target_os = "linux")]
pub(crate) use linux::{input, output};

#[cfg(not(target_os = "linux"))]
use crate::system::SystemError;
#[cfg(not(target_os = "linux"))]
use crate::system::limits::check_thread;

/// Opens standard input.
///
/// # Errors
/// The system does not start a thread.
#[cfg(not(target_os = "linux"))]
pub(crate) fn input() -> Result<tokio::io::Stdin, SystemError> {
    check_thread().map(|()| tokio::io::stdin())
}

/// Opens standard output.
///
/// # Errors
/// The system does not start a thread.
#[cfg(not(target_os = "linux"))]
pub(crate) fn output() -> Result<tokio::io::Stdout, SystemError> {
    check_thread().map(|()| tokio::io::stdout())
}

/// Resolves when standard output has lost its reader: its pipe has no reader, its socket is shut down in both directions,
/// or its terminal has hung up. Never resolves for a file or /dev/null, which never have a reader.
#[cfg(unix)]
pub(crate) async fn output_closed() {
    #[cfg(target_os = "linux")]
    if let Some(closed) = linux::pipe_closed() {
        return closed.await;
    }
    let (sender, receiver) = tokio::sync::oneshot::channel();
    // Without requested events, poll(2) waits only for POLLERR and POLLHUP, and does not change the open file description.
    // Tokio has no such wait without `unsafe`.
    let wait = move || {
        while !has_hung_up() {}
        let _ = sender.send(());
    };
    let thread = std::thread::Builder::new().name("output".into()).stack_size(64 * 1024).spawn(wait);
    match thread {
        Ok(_detached) => drop(receiver.await),
        Err(_no_thread) => std::future::pending().await,
    }
}

/// Waits until standard output hangs up. Returns false if a signal interrupted the wait.
#[cfg(unix)]
fn has_hung_up() -> bool {
    use rustix::event::{PollFd, PollFlags, poll};
    let stdout = std::io::stdout();
    let mut outputs = [PollFd::new(&stdout, PollFlags::empty())];
    match poll(&mut outputs, None) {
        Ok(_) if outputs[0].revents().intersects(PollFlags::ERR | PollFlags::HUP) => true,
        Err(rustix::io::Errno::INTR) => false,
        // macOS reports POLLNVAL for devices, which do not hang up.
        _ => loop {
            std::thread::park();
        },
    }
}

/// Never resolves: Windows has no such event, and the next write fails.
#[cfg(not(unix))]
pub(crate) async fn output_closed() {
    std::future::pending().await
}

/// Checks that standard input is open for reading. The standard library treats EBADF of standard input as end of file, and
/// EBADF of standard output as success.
#[cfg(unix)]
pub(crate) fn readable() -> std::io::Result<()> {
    open_for(std::io::stdin(), rustix::fs::OFlags::WRONLY)
}

/// Checks that standard output is open for writing.
#[cfg(unix)]
pub(crate) fn writable() -> std::io::Result<()> {
    open_for(std::io::stdout(), rustix::fs::OFlags::RDONLY)
}

#[cfg(unix)]
fn open_for(file: impl std::os::fd::AsFd, other: rustix::fs::OFlags) -> std::io::Result<()> {
    use rustix::fs::{OFlags, fcntl_getfl};
    let usable = fcntl_getfl(file)? & OFlags::RWMODE != other;
    usable.then_some(()).ok_or_else(|| rustix::io::Errno::BADF.into())
}

/// Windows does not show open modes. A failed read or write is reported later.
#[cfg(not(unix))]
pub(crate) fn readable() -> std::io::Result<()> {
    Ok(())
}

/// See [`readable`].
#[cfg(not(unix))]
pub(crate) fn writable() -> std::io::Result<()> {
    Ok(())
}

/// Redirects the standard streams to /dev/null, so that no process waits for this one to close its pipes.
pub(crate) fn detach() {
    #[cfg(unix)]
    if let Ok(null) = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null") {
        use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};
        let _ = (dup2_stdin(&null), dup2_stdout(&null), dup2_stderr(&null));
    }
}

/// Redirects standard error to /dev/null if it is a pipe or a socket: its reader waits until no process can write to it.
pub(crate) fn release_stderr() {
    #[cfg(unix)]
    if has_reader(std::io::stderr())
        && let Ok(null) = std::fs::OpenOptions::new().write(true).open("/dev/null")
    {
        let _ = rustix::stdio::dup2_stderr(&null);
    }
}

#[cfg(unix)]
fn has_reader(file: impl std::os::fd::AsFd) -> bool {
    use rustix::fs::{FileType, fstat};
    let file_type = fstat(file).map(|stat| FileType::from_raw_mode(stat.st_mode));
    matches!(file_type, Ok(FileType::Fifo | FileType::Socket))
}

#[cfg(target_os = "linux")]
mod linux {
    use std::os::fd::AsFd;

    use tokio::io::{Interest, Stdin, Stdout, stdin, stdout};
    use tokio::net::unix::pipe::{OpenOptions, Receiver, Sender};
    use tokio_util::either::Either;

    use crate::system::SystemError;
    use crate::system::limits::check_thread;

    const STDIN: &str = "/proc/self/fd/0";
    const STDOUT: &str = "/proc/self/fd/1";

    /// The requested capacity of a pipe, for fewer wake-ups. A new pipe holds 64 KiB (pipe(7)).
    const PIPE_SIZE: usize = 256 * 1024;

    /// Opens standard input. Anything but a pipe of this user needs a thread.
    ///
    /// # Errors
    /// The system does not start a thread.
    pub(crate) fn input() -> Result<Either<Receiver, Stdin>, SystemError> {
        match OpenOptions::new().open_receiver(STDIN) {
            Ok(pipe) => Ok(Either::Left(enlarged(pipe))),
            Err(_no_pipe) => check_thread().map(|()| Either::Right(stdin())),
        }
    }

    /// Opens standard output. Anything but a pipe of this user needs a thread.
    ///
    /// # Errors
    /// The system does not start a thread.
    pub(crate) fn output() -> Result<Either<Sender, Stdout>, SystemError> {
        match OpenOptions::new().open_sender(STDOUT) {
            Ok(pipe) => Ok(Either::Left(enlarged(pipe))),
            Err(_no_pipe) => check_thread().map(|()| Either::Right(stdout())),
        }
    }

    /// Resolves when the pipe has no reader; `None`: standard output is not a pipe.
    pub(super) fn pipe_closed() -> Option<impl Future<Output = ()>> {
        let pipe = OpenOptions::new().open_sender(STDOUT).ok()?;
        Some(async move {
            if pipe.ready(Interest::ERROR).await.is_err() {
                std::future::pending().await
            }
        })
    }

    /// Linux denies more capacity if the user's pipes already have too much (pipe(7), `pipe-user-pages-soft`).
    fn enlarged<P: AsFd>(pipe: P) -> P {
        let _ = rustix::pipe::fcntl_setpipe_size(&pipe, PIPE_SIZE);
        pipe
    }
}
