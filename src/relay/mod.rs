//! The sender's side of Azure Relay Hybrid Connections.

pub(crate) mod bridge;
pub(crate) mod connector;
pub(crate) mod frame;
pub(crate) mod greeting;
pub(crate) mod handshake;
pub(crate) mod hedge;
pub(crate) mod liveness;
pub(crate) mod round_trip;
pub(crate) mod websocket;
