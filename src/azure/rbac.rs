//! The account's permissions on a machine (Microsoft Learn, "Azure role definitions"), and the least-privileged role
//! for a missing one.

use serde::Deserialize;

use crate::azure::arm::{Arm, ArmError};
use crate::azure::hybrid_compute::pages;
use crate::azure::json::or_default;
use crate::azure::resource_id::ResourceId;

/// azure-mgmt-authorization 4.0.0.
const API_VERSION: &str = "2022-04-01";

/// Permission to request relay credentials, which every connection needs.
pub(crate) const CONNECT: &str = "Microsoft.HybridConnectivity/endpoints/listCredentials/action";
/// Permissions to set up a machine.
pub(crate) const SET_UP: [&str; 2] = [CREATE_ENDPOINT, SET_PORT];
pub(crate) const CREATE_ENDPOINT: &str = "Microsoft.HybridConnectivity/endpoints/write";
pub(crate) const SET_PORT: &str = "Microsoft.HybridConnectivity/endpoints/serviceConfigurations/write";
/// Permissions to undo the setup.
pub(crate) const DELETE_ENDPOINT: &str = "Microsoft.HybridConnectivity/endpoints/delete";
pub(crate) const DELETE_PORT: &str = "Microsoft.HybridConnectivity/endpoints/serviceConfigurations/delete";
/// Permission to register the resource provider, on the subscription.
pub(crate) const REGISTER: &str = "Microsoft.HybridConnectivity/register/action";
/// Permissions to install and to remove an extension, which runs as an administrator of the machine.
pub(crate) const INSTALL_EXTENSION: &str = "Microsoft.HybridCompute/machines/extensions/write";
pub(crate) const DELETE_EXTENSION: &str = "Microsoft.HybridCompute/machines/extensions/delete";
/// Permission to log in with Entra ID (azure-docs `built-in-roles/compute.md`).
pub(crate) const LOGIN: &str = "Microsoft.HybridCompute/machines/login/action";
/// Permission to log in with Entra ID as an administrator.
pub(crate) const LOGIN_AS_ADMIN: &str = "Microsoft.HybridCompute/machines/loginAsAdmin/action";

/// The permissions of one role assignment.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Permission {
    #[serde(deserialize_with = "or_default")]
    actions: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    not_actions: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    data_actions: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    not_data_actions: Vec<String>,
}

/// The permissions of all role assignments.
#[derive(Clone, Debug)]
pub(crate) struct Permissions(Vec<Permission>);

impl Permissions {
    /// Returns the account's permissions on a machine, including inherited ones.
    pub(crate) async fn on(arm: &Arm, machine: &ResourceId) -> Result<Self, ArmError> {
        let mut path = machine.segments().to_vec();
        path.extend(["providers", "Microsoft.Authorization", "permissions"]);
        Ok(Self(pages(arm, &path, &[("api-version", API_VERSION)]).await?))
    }

    /// Returns whether a control-plane action is allowed.
    pub(crate) fn allow(&self, action: &str) -> bool {
        self.0.iter().any(|one| any_matches(&one.actions, action) && !any_matches(&one.not_actions, action))
    }

    /// Returns whether a data-plane action is allowed.
    pub(crate) fn allow_data(&self, action: &str) -> bool {
        let allows = |one: &Permission| {
            any_matches(&one.data_actions, action) && !any_matches(&one.not_data_actions, action)
        };
        self.0.iter().any(allows)
    }
}

fn any_matches(patterns: &[impl AsRef<str>], action: &str) -> bool {
    patterns.iter().any(|pattern| matches(pattern.as_ref(), action))
}

/// Returns whether a case-insensitive pattern matches an action; `*` matches any characters, including none.
fn matches(pattern: &str, action: &str) -> bool {
    let (pattern, action) = (pattern.to_lowercase(), action.to_lowercase());
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == action };
    let Some(mut action) = action.strip_prefix(first) else { return false };
    let (middle, last) = rest.rsplit_once('*').unwrap_or(("", rest));
    for part in middle.split('*') {
        let Some(start) = action.find(part) else { return false };
        action = &action[start + part.len()..];
    }
    action.ends_with(last)
}

/// A built-in role, with the actions that arcssh uses.
struct Role {
    name: &'static str,
    actions: &'static [&'static str],
    data_actions: &'static [&'static str],
}

/// The least privileged first (azure-docs `built-in-roles/compute.md` and `hybrid-multicloud.md`). No document says
/// that the first role can read a machine, but Microsoft's clients read machines with it.
const ROLES: [Role; 6] = [
    Role {
        name: "Virtual Machine Local User Login",
        actions: &[
            "Microsoft.HybridCompute/machines/read",
            "Microsoft.HybridCompute/machines/*/read",
            CONNECT,
        ],
        data_actions: &[],
    },
    Role { name: "Virtual Machine User Login", actions: &[], data_actions: &[LOGIN] },
    Role { name: "Virtual Machine Administrator Login", actions: &[], data_actions: &[LOGIN_AS_ADMIN] },
    Role {
        name: "Azure Connected Machine Resource Manager",
        actions: &[
            "Microsoft.HybridConnectivity/endpoints/read",
            "Microsoft.HybridConnectivity/endpoints/write",
            "Microsoft.HybridConnectivity/endpoints/serviceConfigurations/read",
            "Microsoft.HybridConnectivity/endpoints/serviceConfigurations/write",
        ],
        data_actions: &[],
    },
    Role {
        name: "Azure Connected Machine Resource Administrator",
        actions: &["Microsoft.HybridCompute/*/read", INSTALL_EXTENSION, DELETE_EXTENSION],
        data_actions: &[],
    },
    Role { name: "Contributor", actions: &["*"], data_actions: &[] },
];

/// Returns the least-privileged built-in role that allows an action.
pub(crate) fn least_role(action: &str) -> &'static str {
    let allows = |role: &&Role| any_matches(role.actions, action) || any_matches(role.data_actions, action);
    ROLES.iter().find(allows).map_or("Owner", |role| role.name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn permissions(json: &str) -> Permissions {
        Permissions(serde_json::from_str(json).unwrap())
    }

    #[test]
    fn an_action_needs_one_assignment_that_allows_and_does_not_exclude_it() {
        let contributor =
            permissions(r#"[{"actions":["*"],"notActions":["Microsoft.Authorization/*/Write"]}]"#);
        assert!(contributor.allow(CONNECT) && contributor.allow(SET_UP[0]));
        assert!(!contributor.allow("Microsoft.Authorization/roleAssignments/write"));
        assert!(!contributor.allow_data(LOGIN));
        let excluded = r#"{"actions":["*"],"notActions":["microsoft.hybridconnectivity/*"]}"#;
        assert!(!permissions(&format!("[{excluded}]")).allow(CONNECT));
        let allowed_by_another = format!(r#"[{excluded},{{"actions":["{CONNECT}"]}}]"#);
        assert!(permissions(&allowed_by_another).allow(CONNECT));
        assert!(!permissions("[]").allow(CONNECT));
        let null = r#"[{"actions":["*"],"notActions":null,"dataActions":null}]"#;
        assert!(permissions(null).allow(CONNECT) && !permissions(null).allow_data(LOGIN));
    }

    #[test]
    fn actions_and_data_actions_are_separate() {
        let user = permissions(
            r#"[{"dataActions":["Microsoft.HybridCompute/machines/*"],"notDataActions":["*/loginAsAdmin/action"]}]"#,
        );
        assert!(user.allow_data(LOGIN) && !user.allow_data(LOGIN_AS_ADMIN) && !user.allow(LOGIN));
    }

    #[test]
    fn a_star_matches_any_characters_including_slashes() {
        let cases = [
            ("*", CONNECT, true),
            ("*/action", CONNECT, true),
            ("*/read", CONNECT, false),
            ("microsoft.hybridconnectivity/*/ACTION", CONNECT, true),
            ("Microsoft.HybridConnectivity/*/*/action", CONNECT, true),
            ("Microsoft.HybridConnectivity/*/*/*/action", CONNECT, false),
            ("Microsoft.HybridCompute/machines/*/read", "Microsoft.HybridCompute/machines/read", false),
            ("a*a", "a", false),
            ("a*b*c", "abbc", true),
            ("a*b*c", "acb", false),
            ("", "", true),
            ("", "a", false),
        ];
        for (pattern, action, expected) in cases {
            assert_eq!(matches(pattern, action), expected, "{pattern} {action}");
        }
    }

    #[test]
    fn each_permission_has_a_least_privileged_role() {
        assert_eq!(least_role(CONNECT), "Virtual Machine Local User Login");
        assert_eq!(least_role("Microsoft.HybridCompute/machines/read"), "Virtual Machine Local User Login");
        assert_eq!(least_role(&LOGIN.to_uppercase()), "Virtual Machine User Login");
        assert_eq!(least_role(LOGIN_AS_ADMIN), "Virtual Machine Administrator Login");
        for action in SET_UP {
            assert_eq!(least_role(action), "Azure Connected Machine Resource Manager");
        }
        for action in [INSTALL_EXTENSION, DELETE_EXTENSION] {
            assert_eq!(least_role(action), "Azure Connected Machine Resource Administrator");
        }
        assert_eq!(least_role(REGISTER), "Contributor");
        assert_eq!(least_role(DELETE_ENDPOINT), "Contributor");
    }

    /// Matches by backtracking.
    fn reference(pattern: &[u8], action: &[u8]) -> bool {
        match (pattern, action) {
            ([], []) => true,
            ([b'*', rest @ ..], _) => {
                let skip = |(_, left)| reference(pattern, left);
                reference(rest, action) || action.split_first().is_some_and(skip)
            }
            ([one, rest @ ..], [other, left @ ..]) => {
                one.eq_ignore_ascii_case(other) && reference(rest, left)
            }
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn patterns_match_as_the_reference_does(
            pattern in "[ab/*]{0,8}", action in "[abAB/]{0,8}",
        ) {
            prop_assert_eq!(matches(&pattern, &action), reference(pattern.as_bytes(), action.as_bytes()));
        }

        #[test]
        fn a_pattern_matches_itself_with_any_text_for_its_stars(
            parts in proptest::collection::vec("[a-zA-Z./]{0,6}", 1..5), filling in "[a-z/]{0,4}",
        ) {
            prop_assert!(matches(&parts.join("*"), &parts.join(&filling).to_uppercase()));
        }

        #[test]
        fn an_excluded_action_is_never_allowed_by_the_same_assignment(action in "[a-z./]{1,20}") {
            let permission = Permission {
                actions: vec!["*".into()], not_actions: vec![action.to_uppercase()], ..Permission::default()
            };
            prop_assert!(!Permissions(vec![permission]).allow(&action));
        }
    }
}
