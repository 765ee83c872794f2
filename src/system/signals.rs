//! The signals that ask for the end.

/// The signal that ssh sends its ProxyCommand when it is done with it (OpenSSH sshconnect.c, `ssh_kill_proxy_command`).
pub(crate) const HANGUP: u8 = 1;

/// The number of the signal that asks for the end, once there is one. None does that was ignored from the start: `nohup`
/// and what a script runs in its background ask for it to be outlived, and ssh hands that down.
#[cfg(unix)]
pub(crate) async fn shutdown() -> u8 {
    use tokio::signal::unix::{SignalKind, signal};
    const INTERRUPT: u8 = 2;
    const TERMINATE: u8 = 15;
    let ignored = ignored();
    let caught = async |number: u8| match ignored >> (number - 1) & 1 {
        0 => match signal(SignalKind::from_raw(number.into())) {
            Ok(mut signals) => drop(signals.recv().await),
            Err(_) => std::future::pending().await, // the system's own action stays
        },
        _ => std::future::pending().await,
    };
    // Ctrl-C reaches ssh too, whose SIGHUP may come at the same time: the user's own word counts.
    tokio::select! {
        biased;
        () = caught(INTERRUPT) => INTERRUPT,
        () = caught(TERMINATE) => TERMINATE,
        () = caught(HANGUP) => HANGUP,
    }
}

/// The signals that are ignored, the first in the lowest bit; none where the system does not tell (Linux, proc(5)).
#[cfg(unix)]
fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

/// The number of the signal that Ctrl-C stands for, once it asks for the end.
#[cfg(not(unix))]
pub(crate) async fn shutdown() -> u8 {
    const INTERRUPT: u8 = 2;
    match tokio::signal::ctrl_c().await {
        Ok(()) => INTERRUPT,
        Err(_) => std::future::pending().await,
    }
}
