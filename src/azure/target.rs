//! The machine and port of a connection.

use std::fmt;

use crate::azure::hybrid_connectivity::Service;
use crate::azure::resource_id::ResourceId;

/// What a connection is to reach: the context of every error.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// The machine; none before its name has been looked up, and where only relay information is given.
    pub(crate) machine: Option<ResourceId>,
    /// What it was called.
    pub(crate) name: String,
    /// The port on the machine.
    pub(crate) port: u16,
    /// Whose port that is.
    pub(crate) service: Service,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}
