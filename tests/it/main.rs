//! Black-box tests of the shipped binary: real ssh, real sshd, and the emulator between them.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod adopt;
mod all_day;
mod bare;
mod bounds;
mod config;
mod consumers;
mod doctor;
mod drop_in;
mod entra;
mod failures;
mod faults;
mod guides;
mod hostile;
mod identity;
mod ipv6;
mod key_store;
mod last;
mod layers;
mod limits;
mod main_job;
mod managed_identity;
mod manual;
mod matrix;
mod memory;
mod named_files;
mod people;
mod proxies;
mod readme;
mod secrets;
mod security;
mod setup;
mod sign_in;
mod stdout;
mod store;
mod supply_chain;
mod support;
mod tls;
mod troubleshooting;
mod waiting;
mod words;
