//! The machine, service and port of a connection.

use std::fmt;

use crate::azure::hybrid_connectivity::Service;
use crate::azure::resource_id::ResourceId;

/// The destination of a connection; the context of each error.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// The machine; `None` before its name is resolved, and if only relay information is given.
    pub(crate) machine: Option<ResourceId>,
    /// The name of the machine on the command line.
    pub(crate) name: String,
    pub(crate) port: u16,
    /// The service on that port.
    pub(crate) service: Service,
}

impl Target {
    /// Creates the target of a machine whose resource ID is known.
    pub(crate) fn new(machine: &ResourceId, service: Service, port: u16) -> Self {
        Self { machine: Some(machine.clone()), name: machine.name.clone(), port, service }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}
