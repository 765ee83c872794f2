//! Azure roles, as far as an ssh client meets them (azure-docs `role-based-access-control/built-in-roles`).

use serde_json::{Value, json};

/// What the emulator's identity may do on every machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// Owner: everything.
    #[default]
    Owner,
    /// Virtual Machine Local User Login: read machines and list credentials, and no more. It may read neither the
    /// endpoint nor its service configuration.
    LocalUserLogin,
    /// Virtual Machine User Login: that, and login by Entra ID.
    UserLogin,
    /// Virtual Machine Administrator Login: that, as administrator too.
    AdministratorLogin,
    /// No role at all.
    None,
}

impl Role {
    /// The role's `actions`.
    fn actions(self) -> &'static [&'static str] {
        match self {
            Self::Owner => &["*"],
            Self::LocalUserLogin | Self::UserLogin | Self::AdministratorLogin => &[
                "Microsoft.HybridCompute/machines/*/read",
                "Microsoft.HybridConnectivity/endpoints/listCredentials/action",
            ],
            Self::None => &[],
        }
    }

    /// The role's `dataActions`.
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

    /// Whether the role allows `action`. That `machines/*/read` covers the read of a machine itself is said nowhere;
    /// azure-cli's ssh extension reads machines with it.
    pub(crate) fn allows(self, action: &str) -> bool {
        let logs_in = matches!(self, Self::LocalUserLogin | Self::UserLogin | Self::AdministratorLogin);
        let machine_read = logs_in && action == "Microsoft.HybridCompute/machines/read";
        machine_read || self.actions().iter().any(|pattern| matches(pattern, action))
    }

    /// One element of the permissions list.
    pub(crate) fn permissions(self) -> Value {
        let one = json!({
            "actions": self.actions(), "notActions": [], "dataActions": self.data_actions(), "notDataActions": [],
        });
        let all = if self == Self::None { vec![] } else { vec![one] };
        json!({ "value": all, "nextLink": null })
    }
}

/// `*` stands for any run of characters; there is at most one in these roles.
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
    fn a_login_role_connects_and_sets_nothing_up() {
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
