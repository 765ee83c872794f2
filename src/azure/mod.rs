//! What Azure Resource Manager and Entra ID know. Nothing here learns of ssh, the relay's wire or a terminal.

pub(crate) mod arm;
pub(crate) mod cloud;
pub(crate) mod credential;
pub(crate) mod entra;
pub(crate) mod hybrid_compute;
pub(crate) mod hybrid_connectivity;
pub(crate) mod json;
pub(crate) mod permissions;
pub(crate) mod pipeline;
pub(crate) mod relay_credentials;
pub(crate) mod relay_host;
pub(crate) mod resource_id;
pub(crate) mod resource_provider;
pub(crate) mod sign_in;
pub(crate) mod ssh_certificate;
