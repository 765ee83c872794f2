//! What arcssh needs of the system before it starts: file descriptors, a thread and random numbers.
//!
//! The libraries below arcssh panic when the system denies them one of these (tokio: the socket pair of its signal
//! handler, the threads for name resolution; tungstenite and uuid: random numbers). They are therefore tried first.

use std::fs::File;
use std::io;
use std::thread;

use ring::rand::{SecureRandom as _, SystemRandom};

/// File descriptors that a connection needs beside standard input, output and error: the runtime's five, those of the
/// state directory, name resolution, TCP, the trust store, an SSH agent, and the pipes of a credential program.
const DESCRIPTORS: usize = 24;

/// Why arcssh does not start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Exhausted {
    /// The limit of this process or of the system is too low.
    #[error("arcssh needs {DESCRIPTORS} free file descriptors: {0}")]
    Descriptors(io::Error),
    /// The user's limit of processes, or memory.
    #[error("the system does not start a thread: {0}")]
    Threads(io::Error),
    /// getrandom(2) fails.
    #[error("the system does not provide random numbers")]
    Randomness,
}

/// Tries whether there is enough of each.
///
/// # Errors
/// What is missing.
pub(crate) fn check() -> Result<(), Exhausted> {
    descriptors().map_err(Exhausted::Descriptors)?;
    // Before the first HashMap: its seed comes from the same source, and std panics without it.
    SystemRandom::new().fill(&mut [0; 32]).map_err(|_| Exhausted::Randomness)?;
    let thread = thread::Builder::new().spawn(|| {}).map_err(Exhausted::Threads)?;
    let _ = thread.join();
    Ok(())
}

#[cfg(unix)]
fn descriptors() -> io::Result<()> {
    let first = File::open("/dev/null")?;
    let _all = (1..DESCRIPTORS).map(|_| first.try_clone()).collect::<io::Result<Vec<File>>>()?;
    Ok(())
}

/// Windows has no such limit.
#[cfg(not(unix))]
fn descriptors() -> io::Result<()> {
    Ok(())
}

/// What a panic of a library means when the system ran out of something later; nothing of its text is shown, for it may
/// quote a secret.
pub(crate) fn cause_of_panic(text: &str) -> Option<&'static str> {
    [
        ("OS can't spawn", "the system does not start a thread"),
        ("failed to spawn thread", "the system does not start a thread"),
        ("random", "the system does not provide random numbers"),
        ("failed to create UnixStream", "too few file descriptors are free"),
    ]
    .into_iter()
    .find_map(|(marker, cause)| text.contains(marker).then_some(cause))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_for_want_of_something_is_told_without_its_text() {
        let cause =
            cause_of_panic("OS can't spawn worker thread: Resource temporarily unavailable (os error 11)");
        assert_eq!(cause, Some("the system does not start a thread"));
        assert_eq!(cause_of_panic("called `Result::unwrap()` on an `Err` value: \"secret\""), None);
    }
}
