//! The resource ID of an Arc machine: parsed and validated once, printed in ARM's spelling.

use std::fmt;
use std::str::FromStr;

/// The resource types that can have a `Microsoft.HybridConnectivity` endpoint, in ARM's spelling.
///
/// Source: azure-cli-extensions `src/ssh/azext_ssh/resource_type_utils.py`.
const ARC_TYPES: [(&str, &str); 4] = [
    ("Microsoft.HybridCompute", "machines"),
    ("Microsoft.ConnectedVMwarevSphere", "virtualMachines"),
    ("Microsoft.ScVmm", "virtualMachines"),
    ("Microsoft.AzureStackHCI", "virtualMachines"),
];

/// The longest name of a resource group, and of another resource, in characters.
///
/// Source: Microsoft Learn, "Naming rules and restrictions for Azure resources".
const MAX_GROUP: usize = 90;
const MAX_NAME: usize = 260;

/// The ID of one Arc machine: `/subscriptions/{s}/resourceGroups/{g}/providers/{type}/{name}`.
///
/// Keywords and types are case-insensitive, as in ARM. Names retain their spelling.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ResourceId {
    /// Usually a GUID.
    pub(crate) subscription: String,
    pub(crate) resource_group: String,
    /// The resource provider's namespace.
    pub(crate) namespace: &'static str,
    /// `machines` or `virtualMachines`.
    pub(crate) kind: &'static str,
    pub(crate) name: String,
}

impl ResourceId {
    /// Returns the segments for the path of a URL, not encoded.
    pub(crate) fn segments(&self) -> [&str; 8] {
        let Self { subscription, resource_group, namespace, kind, name } = self;
        ["subscriptions", subscription, "resourceGroups", resource_group, "providers", namespace, kind, name]
    }

    /// Returns `GROUP/NAME`, which other subscriptions and types can have too.
    pub(crate) fn grouped_name(&self) -> String {
        format!("{}/{}", self.resource_group, self.name)
    }
}

impl fmt::Display for ResourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.segments().iter().try_for_each(|segment| write!(f, "/{segment}"))
    }
}

impl FromStr for ResourceId {
    type Err = ResourceIdError;

    fn from_str(text: &str) -> Result<Self, ResourceIdError> {
        let segments: Vec<&str> = text.trim().trim_matches('/').split('/').collect();
        let [subscriptions, subscription, groups, group, providers, namespace, kind, name] =
            *machine_segments(&segments)
        else {
            return Err(ResourceIdError::Shape);
        };
        let keywords =
            [(subscriptions, "subscriptions"), (groups, "resourceGroups"), (providers, "providers")];
        if keywords.iter().any(|(segment, keyword)| !segment.eq_ignore_ascii_case(keyword)) {
            return Err(ResourceIdError::Shape);
        }
        let (namespace, kind) = arc_type(namespace, kind)?;
        if group.chars().count() > MAX_GROUP {
            return Err(ResourceIdError::Name(group.to_owned()));
        }
        Ok(Self {
            subscription: segment(subscription)?,
            resource_group: segment(group)?,
            namespace,
            kind,
            name: segment(name)?,
        })
    }
}

/// Removes `/providers/{namespace}/virtualMachineInstances/default` from the end: newer VMware, SCVMM and Azure Local
/// machines are `Microsoft.HybridCompute/machines` with such a child resource.
fn machine_segments<'a, 'b>(segments: &'b [&'a str]) -> &'b [&'a str] {
    match segments {
        [machine @ .., providers, _namespace, instances, default]
            if providers.eq_ignore_ascii_case("providers")
                && instances.eq_ignore_ascii_case("virtualMachineInstances")
                && default.eq_ignore_ascii_case("default") =>
        {
            machine
        }
        other => other,
    }
}

fn arc_type(namespace: &str, kind: &str) -> Result<(&'static str, &'static str), ResourceIdError> {
    let arc_type =
        ARC_TYPES.iter().find(|(ns, k)| ns.eq_ignore_ascii_case(namespace) && k.eq_ignore_ascii_case(kind));
    match arc_type {
        Some(arc_type) => Ok(*arc_type),
        None if namespace.eq_ignore_ascii_case("Microsoft.Compute") => Err(ResourceIdError::AzureVm),
        None => Err(ResourceIdError::Type(format!("{namespace}/{kind}"))),
    }
}

/// Validates one name of the ID. ARM allows letters, digits and `-_.()`, so a name can be part of a URL, of a header
/// and of a line in a file.
pub(crate) fn segment(text: &str) -> Result<String, ResourceIdError> {
    let allowed = |c: char| c.is_alphanumeric() || "-_.()".contains(c);
    let dots_only = text.chars().all(|c| c == '.');
    if dots_only || text.chars().count() > MAX_NAME || !text.chars().all(allowed) {
        return Err(ResourceIdError::Name(text.to_owned()));
    }
    Ok(text.to_owned())
}

/// Why a text is not the resource ID of an Arc machine.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ResourceIdError {
    /// The text does not have the form of a resource ID.
    #[error(
        "the resource ID of an Arc machine has the form /subscriptions/SUBSCRIPTION/resourceGroups/GROUP/providers/Microsoft.HybridCompute/machines/NAME"
    )]
    Shape,
    /// The ID of a plain Azure virtual machine.
    #[error(
        "the resource ID names an Azure virtual machine; arcssh connects to Arc machines (Microsoft.HybridCompute/machines)"
    )]
    AzureVm,
    /// The ID of another resource.
    #[error("{0} is not the resource type of an Arc machine")]
    Type(String),
    /// A name is empty, too long, or contains a character that ARM does not allow.
    #[error("{0:?} is not a valid name in a resource ID")]
    Name(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "/subscriptions/0a363e8c-a728-4970-8108-d104b63cb74f/resourceGroups/rg-web/providers/Microsoft.HybridCompute/machines/web01";

    fn parsed(text: &str) -> String {
        text.parse::<ResourceId>().unwrap().to_string()
    }

    #[test]
    fn an_id_round_trips() {
        assert_eq!(parsed(ID), ID);
    }

    #[test]
    fn the_case_of_keywords_and_outer_slashes_are_ignored() {
        assert_eq!(parsed(&ID[1..]), ID);
        assert_eq!(parsed(&format!("/{ID}/")), ID);
        let other_case =
            ID.replace("resourceGroups", "RESOURCEGROUPS").replace("HybridCompute", "hybridcompute");
        assert_eq!(parsed(&other_case), ID);
    }

    #[test]
    fn the_id_of_a_virtual_machine_instance_names_its_machine() {
        let instance =
            format!("{ID}/providers/Microsoft.ConnectedVMwarevSphere/virtualMachineInstances/default");
        assert_eq!(parsed(&instance), ID);
    }

    #[test]
    fn all_four_arc_types_are_accepted() {
        for (namespace, kind) in ARC_TYPES {
            let id = format!("/subscriptions/s/resourceGroups/g/providers/{namespace}/{kind}/n");
            assert_eq!(parsed(&id.to_lowercase()), id);
        }
    }

    #[test]
    fn ids_of_other_resources_are_rejected() {
        let error = |text: &str| text.parse::<ResourceId>().unwrap_err();
        assert_eq!(error("web01"), ResourceIdError::Shape);
        assert_eq!(error(""), ResourceIdError::Shape);
        assert_eq!(error(&format!("{ID}/extensions/x")), ResourceIdError::Shape);
        assert_eq!(
            error(&ID.replace("HybridCompute/machines", "Compute/virtualMachines")),
            ResourceIdError::AzureVm
        );
        assert_eq!(
            error(&ID.replace("machines", "licenses")),
            ResourceIdError::Type("Microsoft.HybridCompute/licenses".into())
        );
    }

    #[test]
    fn names_have_azures_maximum_length() {
        for (name, limit) in [("rg-web", MAX_GROUP), ("web01", MAX_NAME)] {
            let id = |length| ID.replace(name, &"x".repeat(length)).parse::<ResourceId>();
            assert!(id(limit).is_ok() && matches!(id(limit + 1), Err(ResourceIdError::Name(_))), "{name}");
        }
    }

    #[test]
    fn a_name_cannot_change_a_url() {
        for name in ["", ".", "..", "a b", "a?b", "a#b", "a%2fb", "a\r\nb", "a\"b", "a\\b"] {
            let id = ID.replace("rg-web", name);
            assert!(matches!(id.parse::<ResourceId>(), Err(ResourceIdError::Name(_))), "{name:?}");
        }
    }
}
