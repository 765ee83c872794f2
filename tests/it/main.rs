//! Black-box tests of the shipped binary: real ssh, real sshd, and the emulator between them.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod adopt;
mod config;
mod consumers;
mod drop_in;
mod failures;
mod faults;
mod guides;
mod hostile;
mod ipv6;
mod main_job;
mod proxies;
mod readme;
mod secrets;
mod stdout;
mod support;
mod tls;
