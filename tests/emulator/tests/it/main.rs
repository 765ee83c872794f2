//! The emulator, held to the documents of the services that it stands for.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod client;
mod relay;
