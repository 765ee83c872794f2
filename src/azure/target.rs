//! The machine, service and port of a connection.

use std::fmt;

use crate::azure::hybrid_connectivity::Service;
use crate::azure::resource_id::ResourceId;

/// The destination of a connection; the context of each error.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// The machine; `None` before its name is resolved, and if only relay information is given.
    pub(crate) machine: Option<ResourceId>,
    /// The name of the machine in messages.
    pub(crate) name: String,
    /// The machine as an argument of commands.
    pub(crate) argument: String,
    pub(crate) port: u16,
    /// The service on that port.
    pub(crate) service: Service,
}

impl Target {
    /// Creates the target of a machine whose resource ID is known.
    pub(crate) fn new(machine: &ResourceId, service: Service, port: u16) -> Self {
        let (name, argument) = (machine.name.clone(), machine.grouped_name());
        Self { machine: Some(machine.clone()), name, argument, port, service }
    }

    /// Returns the machine and its group, and its subscription if other subscriptions have that group and name too.
    pub(crate) fn title(&self) -> String {
        let Some(id) = &self.machine else { return self.name.clone() };
        let title = format!("{} in {}", id.name, id.resource_group);
        if self.argument == id.grouped_name() {
            return title;
        }
        format!("{title} of the subscription {}", id.subscription)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}
