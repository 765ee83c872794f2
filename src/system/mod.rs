//! The operating system: files, the clock, secrets in memory, the standard streams, signals, limits and timeouts.

pub(crate) mod clock;
pub(crate) mod files;
pub(crate) mod limits;
pub(crate) mod secret;
pub(crate) mod signals;
pub(crate) mod stdio;
pub(crate) mod timeout;
