//! What OpenSSH knows: its client configuration, and how it reads it. Never learns of Azure.

#[cfg_attr(not(unix), path = "agent/absent.rs")]
pub(crate) mod agent;
#[cfg_attr(not(unix), allow(dead_code, reason = "some of it is the agent's alone"))]
pub(crate) mod certificate;
pub(crate) mod config_file;
pub(crate) mod host;
pub(crate) mod judge;
#[cfg_attr(not(unix), allow(dead_code, reason = "some of it is the agent's alone"))]
pub(crate) mod key;
pub(crate) mod legacy;
pub(crate) mod used_names;
#[cfg_attr(not(unix), allow(dead_code, reason = "some of it is the agent's alone"))]
pub(crate) mod wire;
