//! What OpenSSH knows: its client configuration, and how it reads it. Never learns of Azure.

pub(crate) mod config_file;
pub(crate) mod host;
pub(crate) mod judge;
pub(crate) mod legacy;
