//! Azure Relay's Hybrid Connections as a sender meets them. Knows nothing of ARM, of identities or of ssh.

pub(crate) mod bridge;
pub(crate) mod connector;
pub(crate) mod frame;
pub(crate) mod handshake;
pub(crate) mod liveness;
pub(crate) mod websocket;
