//! Resources that arcssh requires before it starts: file descriptors, a thread and random numbers.
//!
//! Libraries panic if the system denies them one of these (tokio: the socket pair of its signal handler, the threads for
//! name resolution; tungstenite and uuid: random numbers). arcssh therefore tries them first.

use std::fs::File;
use std::io;
use std::thread;

use ring::rand::{SecureRandom as _, SystemRandom};

/// The file descriptors of a connection in addition to the standard streams: five of the runtime, and those for the state
/// directory, name resolution, TCP, the trust store, an SSH agent and the pipes of a credential program.
const DESCRIPTORS: usize = 24;

/// A resource that the system does not provide.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Exhausted {
    /// The limit of this process or of the system is too low.
    #[error("arcssh needs {DESCRIPTORS} free file descriptors: {0}")]
    Descriptors(io::Error),
    /// The user has too many processes, or there is no memory.
    #[error("the system does not start a thread: {0}")]
    Threads(io::Error),
    /// getrandom(2) fails.
    #[error("the system does not provide random numbers")]
    Randomness,
}

/// Checks that the resources are available.
///
/// # Errors
/// A resource is missing.
pub(crate) fn check() -> Result<(), Exhausted> {
    descriptors().map_err(Exhausted::Descriptors)?;
    // Checked before the first HashMap: std panics if the system provides no seed for it.
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
