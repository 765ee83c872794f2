//! What Azure Resource Manager and Entra ID know. Nothing here learns of ssh, the relay's wire or a terminal.

pub(crate) mod arm;
pub(crate) mod cloud;
pub(crate) mod credential;
pub(crate) mod entra;
pub(crate) mod hybrid_compute;
pub(crate) mod hybrid_connectivity;
pub(crate) mod pipeline;
pub(crate) mod resource_id;
