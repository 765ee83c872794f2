//! The two ends that ssh gives its ProxyCommand. Knows nothing of what flows through them.
//!
//! ssh gives pipes, and a pipe can be waited for without a thread. O_NONBLOCK belongs to the open file, which other
//! processes of the same shell line share: on Linux the pipe is opened a second time, so that only our own open file
//! is changed. Whatever is no pipe (a terminal, a file, a socket) and every other system takes Tokio's stdin and
//! stdout, which wait on a thread.

#[cfg(target_os = "linux")]
pub(crate) use linux::{input, output};
#[cfg(not(target_os = "linux"))]
pub(crate) use tokio::io::{stdin as input, stdout as output};

/// Resolves when nothing can read standard output any more: its pipe has no reader, its socket is shut down in both
/// directions, or its terminal has hung up. Never resolves for an output that has no reader, as a file or /dev/null.
#[cfg(unix)]
pub(crate) async fn output_closed() {
    #[cfg(target_os = "linux")]
    if let Some(closed) = linux::pipe_closed() {
        return closed.await;
    }
    let (tell, told) = tokio::sync::oneshot::channel();
    // Asked for no event, poll(2) waits for POLLERR and POLLHUP alone and leaves the open file as it is. A runtime's queue
    // of events has no such wait without `unsafe`.
    let wait = move || {
        while !has_hung_up() {}
        let _ = tell.send(());
    };
    let thread = std::thread::Builder::new().name("output".into()).stack_size(64 * 1024).spawn(wait);
    match thread {
        Ok(_detached) => drop(told.await),
        Err(_no_thread) => std::future::pending().await,
    }
}

/// Waits for standard output to hang up; false if a signal came between.
#[cfg(unix)]
fn has_hung_up() -> bool {
    use rustix::event::{PollFd, PollFlags, poll};
    let stdout = std::io::stdout();
    let mut outputs = [PollFd::new(&stdout, PollFlags::empty())];
    match poll(&mut outputs, None) {
        Ok(_) if outputs[0].revents().intersects(PollFlags::ERR | PollFlags::HUP) => true,
        Err(rustix::io::Errno::INTR) => false,
        // What cannot be polled has no end: macOS reports POLLNVAL for devices.
        _ => loop {
            std::thread::park();
        },
    }
}

/// Never resolves: there is no event for an output that nothing reads any more, and the next write fails.
#[cfg(not(unix))]
pub(crate) async fn output_closed() {
    std::future::pending().await
}

/// Fails if standard input is not open for reading. The read itself would not fail: the standard library takes EBADF of
/// standard input for its end, and EBADF of standard output for success.
#[cfg(unix)]
pub(crate) fn readable() -> std::io::Result<()> {
    open_for(std::io::stdin(), rustix::fs::OFlags::WRONLY)
}

/// Fails if standard output is not open for writing.
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

/// Windows has no open modes to ask for; a failed read or write is reported when it happens.
#[cfg(not(unix))]
pub(crate) fn readable() -> std::io::Result<()> {
    Ok(())
}

/// See [`readable`].
#[cfg(not(unix))]
pub(crate) fn writable() -> std::io::Result<()> {
    Ok(())
}

/// Lets go of what ssh gave: whoever waits for the end of the pipes does not wait for this process.
pub(crate) fn detach() {
    #[cfg(unix)]
    if let Ok(null) = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null") {
        use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};
        let _ = (dup2_stdin(&null), dup2_stdout(&null), dup2_stderr(&null));
    }
}

#[cfg(target_os = "linux")]
mod linux {
    use std::os::fd::AsFd;

    use tokio::io::{Interest, Stdin, Stdout, stdin, stdout};
    use tokio::net::unix::pipe::{OpenOptions, Receiver, Sender};
    use tokio_util::either::Either;

    const STDIN: &str = "/proc/self/fd/0";
    const STDOUT: &str = "/proc/self/fd/1";

    /// Bytes that a pipe is asked to hold, so that fewer wake-ups carry more; a new pipe holds 64 KiB.
    const PIPE_SIZE: usize = 256 * 1024;

    /// What ssh sends.
    pub(crate) fn input() -> Either<Receiver, Stdin> {
        match OpenOptions::new().open_receiver(STDIN) {
            Ok(pipe) => Either::Left(widened(pipe)),
            Err(_no_pipe) => Either::Right(stdin()),
        }
    }

    /// What ssh reads.
    pub(crate) fn output() -> Either<Sender, Stdout> {
        match OpenOptions::new().open_sender(STDOUT) {
            Ok(pipe) => Either::Left(widened(pipe)),
            Err(_no_pipe) => Either::Right(stdout()),
        }
    }

    /// Resolves when the pipe has no reader; `None` if standard output is no pipe.
    pub(super) fn pipe_closed() -> Option<impl Future<Output = ()>> {
        let pipe = OpenOptions::new().open_sender(STDOUT).ok()?;
        Some(async move {
            if pipe.ready(Interest::ERROR).await.is_err() {
                std::future::pending().await
            }
        })
    }

    /// The system refuses where a user's pipes hold too much already; then the pipe stays as it is.
    fn widened<P: AsFd>(pipe: P) -> P {
        let _ = rustix::pipe::fcntl_setpipe_size(&pipe, PIPE_SIZE);
        pipe
    }
}
