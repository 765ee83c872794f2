//! The signals that end arcssh.

use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};

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
/// of the same process group, so their failure can arrive before the signal.
pub(crate) async fn or_shutdown<T, E>(
    work: impl Future<Output = Result<T, E>>,
    on_signal: impl Fn(u8) -> Result<T, E>,
) -> Result<T, E> {
    let mut signal = pin!(shutdown());
    let result = tokio::select! {
        biased;
        number = &mut signal => return on_signal(number),
        result = work => result,
    };
    if result.is_err() {
        tokio::task::yield_now().await; // the runtime reads signals between two tasks
        return signal.now_or_never().map_or(result, on_signal);
    }
    result
}

/// Waits for a signal that ends arcssh, and returns its number. Signals that were ignored when arcssh started remain
/// ignored: `nohup` and shells, for background jobs of a script, ignore them, and ssh inherits that.
#[cfg(unix)]
pub(crate) async fn shutdown() -> u8 {
    use tokio::signal::unix::{SignalKind, signal};
    const TERMINATE: u8 = 15;
    let ignored = ignored();
    let received = async |number: u8| {
        if ignored >> (number - 1) & 1 == 1 {
            return std::future::pending().await;
        }
        match signal(SignalKind::from_raw(number.into())) {
            Ok(mut signals) => drop(signals.recv().await),
            Err(_) => std::future::pending().await, // the default action remains
        }
    };
    // Ctrl-C reaches ssh too, so its SIGHUP can arrive at the same time. The user's signal takes precedence.
    tokio::select! {
        biased;
        () = received(INTERRUPT) => INTERRUPT,
        () = received(TERMINATE) => TERMINATE,
        () = received(HANGUP) => HANGUP,
    }
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

/// Waits for Ctrl-C, and returns the number of its signal.
#[cfg(not(unix))]
pub(crate) async fn shutdown() -> u8 {
    match tokio::signal::ctrl_c().await {
        Ok(()) => INTERRUPT,
        Err(_) => std::future::pending().await,
    }
}
