//! Tests that the emulator follows the documents of the emulated services.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod arm;
mod assertions;
mod client;
mod entra;
mod extensions;
mod faults;
mod graph;
mod hyco_ws;
mod inventory;
mod listener;
mod managed_identity;
mod policy;
mod relay;
#[cfg(unix)]
mod serve;
mod sign_in;
mod ssh_certificate;
mod time;
