//! Azure Resource Manager (ARM) and Entra ID. Independent of ssh, of the relay's protocol and of the terminal.

pub(crate) mod arm;
pub(crate) mod cloud;
pub(crate) mod credentials;
pub(crate) mod entra;
pub(crate) mod http;
pub(crate) mod hybrid_compute;
pub(crate) mod hybrid_connectivity;
pub(crate) mod json;
pub(crate) mod login;
pub(crate) mod rbac;
pub(crate) mod relay_credential_cache;
pub(crate) mod relay_host;
pub(crate) mod resource_id;
pub(crate) mod resource_providers;
pub(crate) mod target;
