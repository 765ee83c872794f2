//! Black-box tests of the shipped binary: real ssh, real sshd, and the emulator between them.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod failures;
mod main_job;
mod readme;
mod support;
