//! OpenSSH: its configuration, keys, certificates and agent protocol. Does not depend on Azure.

#[cfg_attr(not(unix), path = "agent/unsupported.rs")]
pub(crate) mod agent;
#[cfg_attr(not(unix), allow(dead_code, reason = "only the agent uses some of it"))]
pub(crate) mod certificate;
pub(crate) mod effective_config;
pub(crate) mod foreign_entries;
pub(crate) mod host_entry;
pub(crate) mod managed_block;
#[cfg_attr(not(unix), allow(dead_code, reason = "only the agent uses some of it"))]
pub(crate) mod rsa_key;
pub(crate) mod used_names;
#[cfg_attr(not(unix), allow(dead_code, reason = "only the agent uses some of it"))]
pub(crate) mod wire;
