//! The commands: a file or a folder for each. `certificates`, `client`, `destination`, `provision` and `session` are shared by several
//! commands.

pub(crate) mod account;
pub(crate) mod cache;
pub(crate) mod cert;
mod certificates;
mod client;
pub(crate) mod complete;
pub(crate) mod completions;
pub(crate) mod config;
mod destination;
pub(crate) mod doctor;
pub(crate) mod forward;
pub(crate) mod known_hosts;
pub(crate) mod last;
pub(crate) mod list;
pub(crate) mod login;
pub(crate) mod logout;
pub(crate) mod man;
pub(crate) mod ping;
pub(crate) mod provision;
pub(crate) mod proxy;
pub(crate) mod rdp;
mod session;
pub(crate) mod setup;
pub(crate) mod ssh;
pub(crate) mod teardown;
pub(crate) mod version;
pub(crate) mod warm;
