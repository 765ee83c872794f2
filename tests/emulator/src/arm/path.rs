//! What a request path addresses.
//!
//! Paths are compared without case, and a doubled leading slash is accepted, as azure-powershell's recorded sessions
//! show.

use crate::machine::RESOURCE_TYPE;

/// The resource or operation behind a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Provider(ProviderPath),
    Register(ProviderPath),
    Machines(Scope),
    Resources(Scope),
    Machine(MachinePath),
    Permissions(MachinePath),
    Endpoints(MachinePath),
    Endpoint(MachinePath),
    ListCredentials(MachinePath),
    ServiceConfigurations(MachinePath),
    ServiceConfiguration(MachinePath, String),
    ResourceGraph,
    Unknown,
}

/// A resource provider in a subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ProviderPath {
    pub(crate) subscription: String,
    pub(crate) namespace: String,
}

/// A subscription, or a resource group in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Scope {
    pub(crate) subscription: String,
    pub(crate) resource_group: Option<String>,
}

/// A machine, in the spelling of the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MachinePath {
    pub(crate) subscription: String,
    pub(crate) resource_group: String,
    pub(crate) name: String,
}

impl MachinePath {
    /// The full ARM id.
    pub(crate) fn id(&self) -> String {
        let Self { subscription, resource_group, name } = self;
        format!(
            "/subscriptions/{subscription}/resourceGroups/{resource_group}/providers/{RESOURCE_TYPE}/{name}"
        )
    }
}

impl Target {
    /// Reads a decoded path.
    pub(crate) fn parse(path: &str) -> Self {
        let segments: Vec<&str> = path.trim_matches('/').split('/').collect();
        let lower: Vec<String> = segments.iter().map(|segment| segment.to_ascii_lowercase()).collect();
        let lower: Vec<&str> = lower.iter().map(String::as_str).collect();
        match (lower.as_slice(), segments.as_slice()) {
            (["providers", "microsoft.resourcegraph", "resources"], _) => Self::ResourceGraph,
            (["subscriptions", _, rest @ ..], [_, subscription, original @ ..]) => {
                Self::in_subscription(subscription, rest, original)
            }
            _ => Self::Unknown,
        }
    }

    fn in_subscription(subscription: &str, lower: &[&str], original: &[&str]) -> Self {
        let provider =
            |namespace: &str| ProviderPath { subscription: subscription.into(), namespace: namespace.into() };
        let scope = |group: Option<&str>| Scope {
            subscription: subscription.into(),
            resource_group: group.map(str::to_owned),
        };
        match (lower, original) {
            (["providers", "microsoft.hybridcompute", "machines"], _) => Self::Machines(scope(None)),
            (["providers", _], [_, namespace]) => Self::Provider(provider(namespace)),
            (["providers", _, "register"], [_, namespace, _]) => Self::Register(provider(namespace)),
            (["resourcegroups", _, "resources"], [_, group, _]) => Self::Resources(scope(Some(group))),
            (["resourcegroups", _, "providers", "microsoft.hybridcompute", "machines", rest @ ..], _) => {
                match (rest, original) {
                    ([], [_, group, ..]) => Self::Machines(scope(Some(group))),
                    ([_, rest @ ..], [_, group, _, _, _, name, ..]) => {
                        let machine = MachinePath {
                            subscription: subscription.into(),
                            resource_group: (*group).into(),
                            name: (*name).into(),
                        };
                        Self::on_machine(machine, rest, &original[6..])
                    }
                    _ => Self::Unknown,
                }
            }
            _ => Self::Unknown,
        }
    }

    fn on_machine(machine: MachinePath, lower: &[&str], original: &[&str]) -> Self {
        match lower {
            [] => Self::Machine(machine),
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

#[cfg(test)]
mod tests {
    use super::*;

    const MACHINE: &str =
        "//subscriptions/S/resourcegroups/rg/providers/microsoft.hybridcompute/Machines/Web01";

    fn machine() -> MachinePath {
        MachinePath { subscription: "S".into(), resource_group: "rg".into(), name: "Web01".into() }
    }

    #[test]
    fn paths_are_read_without_case_and_keep_their_spelling() {
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
    fn lists_and_providers_are_told_apart() {
        let scope =
            |group: Option<&str>| Scope { subscription: "S".into(), resource_group: group.map(Into::into) };
        let machines = "/providers/Microsoft.HybridCompute/machines";
        assert_eq!(Target::parse(&format!("/subscriptions/S{machines}")), Target::Machines(scope(None)));
        let in_group = format!("/subscriptions/S/resourceGroups/g{machines}");
        assert_eq!(Target::parse(&in_group), Target::Machines(scope(Some("g"))));
        let provider =
            ProviderPath { subscription: "S".into(), namespace: "Microsoft.HybridConnectivity".into() };
        let register = "/subscriptions/S/providers/Microsoft.HybridConnectivity/register";
        assert_eq!(Target::parse(register), Target::Register(provider));
    }
}
