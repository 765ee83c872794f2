//! The two ends that ssh gives its ProxyCommand. Knows nothing of what flows through them.
//!
//! ssh gives pipes, and a pipe can be waited for without a thread. O_NONBLOCK belongs to the open file, which other
//! processes of the same shell line share: on Linux the pipe is opened a second time, so that only our own open file
//! is changed. Whatever is no pipe (a terminal, a file, a socket) and every other system takes Tokio's stdin and
//! stdout, which wait on a thread.

#[cfg(target_os = "linux")]
pub(crate) use linux::{input, output, output_closed};
#[cfg(not(target_os = "linux"))]
pub(crate) use portable::{input, output, output_closed};

/// Lets go of what ssh gave: whoever waits for the end of the pipes does not wait for this process.
pub(crate) fn let_go() {
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

    /// Resolves when nobody reads standard output any more, if it is a pipe; never otherwise.
    pub(crate) async fn output_closed() {
        if let Ok(pipe) = OpenOptions::new().open_sender(STDOUT)
            && pipe.ready(Interest::ERROR).await.is_ok()
        {
            return;
        }
        std::future::pending().await
    }

    /// The system refuses where a user's pipes hold too much already; then the pipe stays as it is.
    fn widened<P: AsFd>(pipe: P) -> P {
        let _ = rustix::pipe::fcntl_setpipe_size(&pipe, PIPE_SIZE);
        pipe
    }
}

#[cfg(not(target_os = "linux"))]
mod portable {
    pub(crate) use tokio::io::{stdin as input, stdout as output};

    /// Never resolves: that nobody reads is learnt when something is written.
    pub(crate) async fn output_closed() {
        std::future::pending().await
    }
}
