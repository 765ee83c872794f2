//! Properties by which a user selects machines.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::azure::hybrid_compute::Machine;

/// The operating system of a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum OperatingSystem {
    Linux,
    Windows,
}

impl OperatingSystem {
    /// Returns whether the machine has this system. Azure does not know the system of a machine whose agent never connected.
    pub(crate) fn is_of(self, machine: &Machine) -> bool {
        match self {
            Self::Windows => machine.is_windows(),
            Self::Linux => !machine.os.is_empty() && !machine.is_windows(),
        }
    }
}

/// The type of a machine's resource ID. Newer virtual machines of VMware, SCVMM and Azure Local are
/// `Microsoft.HybridCompute/machines` too. Azure CLI also accepts the namespace alone (azure-cli-extensions
/// `src/ssh/azext_ssh/resource_type_utils.py`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum ArcType {
    /// Microsoft.HybridCompute/machines
    #[value(aliases = ["machine", "Microsoft.HybridCompute/machines", "Microsoft.HybridCompute"])]
    Machines,
    /// Microsoft.ConnectedVMwarevSphere/virtualMachines
    #[value(aliases = ["vcenter", "Microsoft.ConnectedVMwarevSphere/virtualMachines", "Microsoft.ConnectedVMwarevSphere"])]
    Vmware,
    /// Microsoft.ScVmm/virtualMachines
    #[value(aliases = ["Microsoft.ScVmm/virtualMachines", "Microsoft.ScVmm"])]
    Scvmm,
    /// Microsoft.AzureStackHCI/virtualMachines
    #[value(aliases = ["hci", "Microsoft.AzureStackHCI/virtualMachines", "Microsoft.AzureStackHCI"])]
    AzureLocal,
}

impl ArcType {
    /// Returns whether the machine's resource ID has this type.
    pub(crate) fn is_of(self, machine: &Machine) -> bool {
        let namespace = match self {
            Self::Machines => "Microsoft.HybridCompute",
            Self::Vmware => "Microsoft.ConnectedVMwarevSphere",
            Self::Scvmm => "Microsoft.ScVmm",
            Self::AzureLocal => "Microsoft.AzureStackHCI",
        };
        machine.id.namespace == namespace
    }
}

/// The status of a machine (azure-rest-api-specs, hybridcompute, `StatusTypes`). `Expired` is only in azure-docs
/// `articles/azure-arc/servers/overview.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Status {
    Connected,
    Disconnected,
    Expired,
    Error,
    /// The agent has not connected yet
    #[value(alias = "AwaitingConnection")]
    AwaitingConnection,
}

impl Status {
    /// Returns whether the machine has this status.
    pub(crate) fn is_of(self, machine: &Machine) -> bool {
        machine.status.eq_ignore_ascii_case(&format!("{self:?}"))
    }
}

/// Returns the word of a value on the command line.
pub(crate) fn word(value: &impl ValueEnum) -> String {
    value.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_az_are_accepted_in_any_case() {
        let id = "/subscriptions/s/resourceGroups/g/providers/TYPE/n";
        for (word, kind) in [
            ("microsoft.hybridcompute/machines", "Microsoft.HybridCompute/machines"),
            ("VCenter", "Microsoft.ConnectedVMwarevSphere/virtualMachines"),
            ("Microsoft.ScVmm", "Microsoft.ScVmm/virtualMachines"),
            ("hci", "Microsoft.AzureStackHCI/virtualMachines"),
            ("machines", "Microsoft.HybridCompute/machines"),
        ] {
            let machine = Machine::from_id(id.replace("TYPE", kind).parse().unwrap());
            let value = ArcType::from_str(word, true).unwrap();
            assert!(value.is_of(&machine), "{word}");
            assert_eq!(ArcType::value_variants().iter().filter(|value| value.is_of(&machine)).count(), 1);
        }
        let mut machine =
            Machine::from_id(id.replace("TYPE", "Microsoft.HybridCompute/machines").parse().unwrap());
        for (word, status) in [("CONNECTED", "Connected"), ("AwaitingConnection", "AwaitingConnection")] {
            machine.status = status.into();
            assert!(Status::from_str(word, true).unwrap().is_of(&machine), "{word}");
        }
        assert_eq!(word(&Status::AwaitingConnection), "awaiting-connection");
        assert!(
            !OperatingSystem::value_variants().iter().any(|os| os.is_of(&machine)),
            "its system is unknown"
        );
        machine.os = "windows server 2022".into();
        assert!(OperatingSystem::Windows.is_of(&machine));
        machine.os = "ubuntu".into();
        assert!(OperatingSystem::Linux.is_of(&machine));
    }
}
