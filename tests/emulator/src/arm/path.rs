//! Paths of ARM. They are compared without case, and a double slash at the start is accepted (azure-powershell's recorded
//! sessions).

use crate::machine::{known_type, resource_id};

/// The resource or operation behind a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Subscriptions,
    Provider(ProviderPath),
    Register(ProviderPath),
    Machines(Scope),
    Resources(Scope),
    Machine(MachinePath),
    Extensions(MachinePath),
    Extension(MachinePath, String),
    /// `GET …/providers/Microsoft.HybridCompute/locations/{location}/operationstatus/{id}`.
    OperationStatus(String, String),
    Permissions(MachinePath),
    Endpoints(MachinePath),
    Endpoint(MachinePath),
    ListCredentials(MachinePath),
    ServiceConfigurations(MachinePath),
    ServiceConfiguration(MachinePath, String),
    ResourceGraph,
    /// `POST …/providers/Microsoft.Authorization/acquirePolicyToken`.
    AcquirePolicyToken,
    Unknown,
}

/// A resource provider in a subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ProviderPath {
    pub(crate) subscription: String,
    pub(crate) namespace: String,
}

/// The resources of a subscription or of a resource group, of one type or of all types.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Scope {
    pub(crate) subscription: String,
    pub(crate) resource_group: Option<String>,
    pub(crate) resource_type: Option<&'static str>,
}

/// A machine, in the case of the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MachinePath {
    pub(crate) subscription: String,
    pub(crate) resource_group: String,
    pub(crate) resource_type: &'static str,
    pub(crate) name: String,
}

impl MachinePath {
    pub(crate) fn id(&self) -> String {
        let Self { subscription, resource_group, resource_type, name } = self;
        resource_id(subscription, resource_group, resource_type, name)
    }
}

impl Target {
    /// Parses a decoded path.
    pub(crate) fn parse(path: &str) -> Self {
        let segments: Vec<&str> = path.trim_matches('/').split('/').collect();
        let lower: Vec<String> = segments.iter().map(|segment| segment.to_ascii_lowercase()).collect();
        let lower: Vec<&str> = lower.iter().map(String::as_str).collect();
        match (lower.as_slice(), segments.as_slice()) {
            (["providers", "microsoft.resourcegraph", "resources"], _) => Self::ResourceGraph,
            (["subscriptions"], _) => Self::Subscriptions,
            (["subscriptions", _, rest @ ..], [_, subscription, original @ ..]) => {
                Self::in_subscription(subscription, rest, original)
            }
            _ => Self::Unknown,
        }
    }

    fn in_subscription(subscription: &str, lower: &[&str], original: &[&str]) -> Self {
        let provider =
            |namespace: &str| ProviderPath { subscription: subscription.into(), namespace: namespace.into() };
        let scope = |group: Option<&str>, resource_type| Scope {
            subscription: subscription.into(),
            resource_group: group.map(str::to_owned),
            resource_type,
        };
        match (lower, original) {
            (["resources"], _) => Self::Resources(scope(None, None)),
            (["providers", "microsoft.authorization", "acquirepolicytoken"], _) => Self::AcquirePolicyToken,
            (["providers", _], [_, namespace]) => Self::Provider(provider(namespace)),
            (["providers", _, "register"], [_, namespace, _]) => Self::Register(provider(namespace)),
            (
                ["providers", "microsoft.hybridcompute", "locations", _, "operationstatus", _],
                [.., operation],
            ) => Self::OperationStatus(subscription.into(), (*operation).into()),
            (["providers", namespace, kind], _) => match arc_type(namespace, kind) {
                Some(resource_type) => Self::Machines(scope(None, Some(resource_type))),
                None => Self::Unknown,
            },
            (["resourcegroups", _, "resources"], [_, group, _]) => Self::Resources(scope(Some(group), None)),
            (
                ["resourcegroups", _, "providers", namespace, kind, rest @ ..],
                [_, group, _, _, _, names @ ..],
            ) => match (arc_type(namespace, kind), rest, names) {
                (Some(resource_type), [], _) => Self::Machines(scope(Some(group), Some(resource_type))),
                (Some(resource_type), [_, rest @ ..], [name, names @ ..]) => {
                    let machine = MachinePath {
                        subscription: subscription.into(),
                        resource_group: (*group).into(),
                        resource_type,
                        name: (*name).into(),
                    };
                    Self::on_machine(machine, rest, names)
                }
                _ => Self::Unknown,
            },
            _ => Self::Unknown,
        }
    }

    fn on_machine(machine: MachinePath, lower: &[&str], original: &[&str]) -> Self {
        match lower {
            [] => Self::Machine(machine),
            ["extensions"] => Self::Extensions(machine),
            ["extensions", _] => {
                Self::Extension(machine, original.last().copied().unwrap_or_default().to_owned())
            }
            ["providers", "microsoft.authorization", "permissions"] => Self::Permissions(machine),
            ["providers", "microsoft.hybridconnectivity", "endpoints", rest @ ..] => match rest {
                [] => Self::Endpoints(machine),
                ["default"] => Self::Endpoint(machine),
                ["default", "listcredentials"] => Self::ListCredentials(machine),
                ["default", "serviceconfigurations"] => Self::ServiceConfigurations(machine),
                ["default", "serviceconfigurations", _] => Self::ServiceConfiguration(
                    machine,
                    original.last().copied().unwrap_or_default().to_owned(),
                ),
                _ => Self::Unknown,
            },
            _ => Self::Unknown,
        }
    }
}

fn arc_type(namespace: &str, kind: &str) -> Option<&'static str> {
    known_type(&format!("{namespace}/{kind}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MACHINE: &str =
        "//subscriptions/S/resourcegroups/rg/providers/microsoft.hybridcompute/Machines/Web01";

    fn machine() -> MachinePath {
        let resource_type = "Microsoft.HybridCompute/machines";
        let (subscription, resource_group, name) = ("S".into(), "rg".into(), "Web01".into());
        MachinePath { subscription, resource_group, resource_type, name }
    }

    #[test]
    fn paths_are_compared_without_case_and_names_are_unchanged() {
        assert_eq!(Target::parse(MACHINE), Target::Machine(machine()));
        let endpoint = format!("{MACHINE}/providers/Microsoft.HybridConnectivity/endpoints/default");
        assert_eq!(Target::parse(&format!("{endpoint}/listcredentials")), Target::ListCredentials(machine()));
        assert_eq!(
            Target::parse(&format!("{endpoint}/serviceconfigurations/SSH")),
            Target::ServiceConfiguration(machine(), "SSH".into())
        );
        assert_eq!(Target::parse(&format!("{endpoint}/else")), Target::Unknown);
    }

    #[test]
    fn lists_and_providers_have_their_own_targets() {
        let machines = "/providers/Microsoft.HybridCompute/machines";
        let scope = |group: Option<&str>| Scope {
            subscription: "S".into(),
            resource_group: group.map(Into::into),
            resource_type: Some("Microsoft.HybridCompute/machines"),
        };
        assert_eq!(Target::parse("/subscriptions"), Target::Subscriptions);
        assert_eq!(Target::parse("/subscriptions/S/providers/Microsoft.Compute/disks"), Target::Unknown);
        assert_eq!(Target::parse(&format!("/subscriptions/S{machines}")), Target::Machines(scope(None)));
        let in_group = format!("/subscriptions/S/resourceGroups/g{machines}");
        assert_eq!(Target::parse(&in_group), Target::Machines(scope(Some("g"))));
        let provider =
            ProviderPath { subscription: "S".into(), namespace: "Microsoft.HybridConnectivity".into() };
        let register = "/subscriptions/S/providers/Microsoft.HybridConnectivity/register";
        assert_eq!(Target::parse(register), Target::Register(provider));
    }
}
