//! The signals that end arcssh.

#[cfg(unix)]
use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, Ordering};
#[cfg(unix)]
use std::task::Poll;

use futures_util::FutureExt as _;

/// The signal that ssh sends its ProxyCommand at the end (OpenSSH sshconnect.c, `ssh_kill_proxy_command`).
pub(crate) const HANGUP: u8 = 1;
/// Ctrl-C.
pub(crate) const INTERRUPT: u8 = 2;

/// Whether the command handles signals until its end.
static IS_TAKEN_OVER: AtomicBool = AtomicBool::new(false);

/// Declares that the command handles signals from now on, so that nothing else ends arcssh.
pub(crate) fn take_over() {
    IS_TAKEN_OVER.store(true, Ordering::Relaxed);
}

/// Returns whether the command handles signals.
#[cfg(unix)]
pub(crate) fn is_taken_over() -> bool {
    IS_TAKEN_OVER.load(Ordering::Relaxed)
}

/// Runs work, unless a signal ends arcssh first: then returns what `on_signal` makes of its number. Ctrl-C also ends programs
/// of the same process group, so their end can arrive before the signal.
pub(crate) async fn or_shutdown<T, E>(
    signals: &mut Signals,
    work: impl Future<Output = Result<T, E>>,
    on_signal: impl Fn(u8) -> Result<T, E>,
) -> Result<T, E> {
    let result = tokio::select! {
        biased;
        number = signals.next() => return on_signal(number),
        result = work => result,
    };
    tokio::task::yield_now().await; // the runtime reads signals between two tasks
    signals.next().now_or_never().map_or(result, on_signal)
}

/// The signals that end arcssh. Those that arrive between two calls of [`Self::next`] are not lost.
///
/// Signals that were ignored when arcssh started remain ignored: `nohup` and shells, for background jobs of a script, ignore
/// them, and ssh inherits that.
#[cfg(unix)]
pub(crate) struct Signals(Vec<(u8, tokio::signal::unix::Signal)>);

#[cfg(unix)]
impl Signals {
    /// Receives signals from now on.
    pub(crate) fn new() -> Self {
        use tokio::signal::unix::{SignalKind, signal};
        const TERMINATE: u8 = 15;
        let ignored = ignored();
        // Ctrl-C reaches ssh too, so its SIGHUP can arrive at the same time. The user's signal takes precedence.
        let numbers = [INTERRUPT, TERMINATE, HANGUP].into_iter();
        let received = numbers.filter(|number| ignored >> (number - 1) & 1 == 0);
        // If the system denies a handler, the default action remains.
        let signals =
            received.filter_map(|number| Some((number, signal(SignalKind::from_raw(number.into())).ok()?)));
        Self(signals.collect())
    }

    /// Waits for the next signal, and returns its number.
    pub(crate) async fn next(&mut self) -> u8 {
        poll_fn(|context| {
            let ready = self
                .0
                .iter_mut()
                .find_map(|(number, signal)| signal.poll_recv(context).is_ready().then_some(*number));
            ready.map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }
}

/// Waits for a signal that ends arcssh, and returns its number.
pub(crate) async fn shutdown() -> u8 {
    Signals::new().next().await
}

/// Returns the mask of ignored signals, with signal 1 in the lowest bit (Linux, proc(5)). Other systems do not show it.
#[cfg(unix)]
fn ignored() -> u64 {
    // One read(2): the file has about 1,500 bytes.
    let mut status = [0; 4096];
    let file = std::fs::File::open("/proc/self/status");
    let length = file.and_then(|mut file| std::io::Read::read(&mut file, &mut status)).unwrap_or(0);
    let status = String::from_utf8_lossy(&status[..length]);
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

/// Ctrl-C. One that arrives between two calls of [`Self::next`] is not lost.
#[cfg(not(unix))]
pub(crate) struct Signals(Option<tokio::signal::windows::CtrlC>);

#[cfg(not(unix))]
impl Signals {
    /// Receives Ctrl-C from now on.
    pub(crate) fn new() -> Self {
        Self(tokio::signal::windows::ctrl_c().ok())
    }

    /// Waits for Ctrl-C, and returns the number of its signal.
    pub(crate) async fn next(&mut self) -> u8 {
        match &mut self.0 {
            Some(signal) => drop(signal.recv().await),
            None => std::future::pending().await,
        }
        INTERRUPT
    }
}
