//! Azure roles of ssh users (azure-docs `role-based-access-control/built-in-roles`).

use serde_json::{Value, json};

/// The role of all callers, on every machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// Owner: all permissions.
    #[default]
    Owner,
    /// Virtual Machine Local User Login: reads machines and lists credentials. It may not read the endpoint and its service
    /// configuration.
    LocalUserLogin,
    /// Virtual Machine User Login: the same, and login with Entra ID.
    UserLogin,
    /// Virtual Machine Administrator Login: the same, and login as administrator.
    AdministratorLogin,
    /// Azure Connected Machine Resource Manager: sets machines up, but registers no provider, deletes only extensions and does
    /// not connect.
    ResourceManager,
    /// No role.
    None,
}

impl Role {
    fn actions(self) -> &'static [&'static str] {
        match self {
            Self::Owner => &["*"],
            Self::LocalUserLogin | Self::UserLogin | Self::AdministratorLogin => &[
                "Microsoft.HybridCompute/machines/*/read",
                "Microsoft.HybridConnectivity/endpoints/listCredentials/action",
            ],
            Self::ResourceManager => &[
                "Microsoft.HybridCompute/*/read",
                "Microsoft.HybridCompute/machines/extensions/write",
                "Microsoft.HybridCompute/machines/extensions/delete",
                "Microsoft.HybridConnectivity/endpoints/read",
                "Microsoft.HybridConnectivity/endpoints/write",
                "Microsoft.HybridConnectivity/endpoints/serviceConfigurations/read",
                "Microsoft.HybridConnectivity/endpoints/serviceConfigurations/write",
            ],
            Self::None => &[],
        }
    }

    fn data_actions(self) -> &'static [&'static str] {
        match self {
            Self::UserLogin => &["Microsoft.HybridCompute/machines/login/action"],
            Self::AdministratorLogin => &[
                "Microsoft.HybridCompute/machines/login/action",
                "Microsoft.HybridCompute/machines/loginAsAdmin/action",
            ],
            _ => &[],
        }
    }

    /// Returns whether the role allows `action`. No source says that `machines/*/read` covers the read of the machine, but
    /// azure-cli's ssh extension reads machines with these roles.
    pub(crate) fn allows(self, action: &str) -> bool {
        let logs_in = matches!(self, Self::LocalUserLogin | Self::UserLogin | Self::AdministratorLogin);
        let machine_read = logs_in && action == "Microsoft.HybridCompute/machines/read";
        machine_read || self.actions().iter().any(|pattern| matches(pattern, action))
    }

    /// The permissions list of this role.
    pub(crate) fn permissions(self) -> Value {
        let one = json!({
            "actions": self.actions(), "notActions": [], "dataActions": self.data_actions(), "notDataActions": [],
        });
        let all = if self == Self::None { vec![] } else { vec![one] };
        json!({ "value": all, "nextLink": null })
    }
}

/// Matches a pattern with at most one `*`, which matches any characters.
fn matches(pattern: &str, action: &str) -> bool {
    let (pattern, action) = (pattern.to_ascii_lowercase(), action.to_ascii_lowercase());
    match pattern.split_once('*') {
        Some((start, end)) => action.strip_prefix(start).is_some_and(|rest| rest.ends_with(end)),
        None => pattern == action,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_role_allows_connections_but_no_setup() {
        let role = Role::LocalUserLogin;
        assert!(role.allows("Microsoft.HybridConnectivity/endpoints/listCredentials/action"));
        assert!(role.allows("Microsoft.HybridCompute/machines/read"));
        assert!(role.allows("Microsoft.HybridCompute/machines/extensions/read"));
        assert!(!role.allows("Microsoft.HybridConnectivity/endpoints/read"));
        assert!(!role.allows("Microsoft.HybridConnectivity/endpoints/write"));
        assert!(Role::Owner.allows("Microsoft.HybridConnectivity/endpoints/write"));
        assert!(!Role::None.allows("Microsoft.HybridCompute/machines/read"));
    }
}
