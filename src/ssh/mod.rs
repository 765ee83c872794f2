//! What OpenSSH knows: its client configuration, and how it reads it. Never learns of Azure.

#[cfg_attr(not(unix), path = "agent/absent.rs")]
pub(crate) mod agent;
pub(crate) mod certificate;
pub(crate) mod config_file;
pub(crate) mod host;
pub(crate) mod judge;
pub(crate) mod key;
pub(crate) mod legacy;
pub(crate) mod wire;
