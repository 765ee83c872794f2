//! Black-box tests of the shipped binary with the system's ssh and sshd, and the emulator between them.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod adopt;
mod bare;
mod bounds;
mod claims;
mod cli;
mod config;
mod config_injection;
mod consumers;
mod docs;
mod doctor;
mod end_to_end;
mod entra;
mod failures;
mod faults;
mod fleets;
mod identity;
mod ipv6;
mod key_store;
mod last;
mod layers;
mod limits;
mod managed_identity;
mod manual;
mod matrix;
mod memory;
mod named_files;
mod plain_ssh;
mod proxies;
mod readme;
mod scale;
mod secrets;
mod security;
mod setup;
mod sign_in;
mod soak;
mod sshproxy_compat;
mod stdout;
mod store;
mod supply_chain;
mod support;
mod tls;
mod troubleshooting;
mod waiting;
mod words;
