//! The machine and port of a connection.

use std::fmt;

use crate::azure::hybrid_connectivity::Service;
use crate::azure::resource_id::ResourceId;

/// The machine and port of a connection, which every error names.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// `None` before the name is resolved, and for a connection with only relay information.
    pub(crate) machine: Option<ResourceId>,
    /// The machine's name, as the user typed it.
    pub(crate) name: String,
    pub(crate) port: u16,
    pub(crate) service: Service,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}
