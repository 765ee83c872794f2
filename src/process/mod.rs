//! The process itself: its standard streams and its signals.

pub(crate) mod limits;
pub(crate) mod signals;
pub(crate) mod stdio;
