//! What the identity may do with a machine: Azure's own arithmetic over what its roles allow (Microsoft Learn, "Azure
//! role definitions"), and the least role that would allow more.

use serde::Deserialize;

use crate::azure::arm::{Arm, ArmError};
use crate::azure::hybrid_compute::pages;
use crate::azure::json::or_default;
use crate::azure::resource_id::ResourceId;

/// azure-mgmt-authorization 4.0.0.
const API_VERSION: &str = "2022-04-01";

/// Asking for relay credentials: what every connection needs.
pub(crate) const CONNECT: &str = "Microsoft.HybridConnectivity/endpoints/listCredentials/action";
/// What setting a machine up needs.
pub(crate) const SET_UP: [&str; 2] = [
    "Microsoft.HybridConnectivity/endpoints/write",
    "Microsoft.HybridConnectivity/endpoints/serviceConfigurations/write",
];
/// What Entra ID's users need to log in, without and with administrator's rights (azure-docs
/// `built-in-roles/compute.md`).
pub(crate) const LOGIN: &str = "Microsoft.HybridCompute/machines/login/action";
/// The same with administrator's rights.
pub(crate) const LOGIN_AS_ADMIN: &str = "Microsoft.HybridCompute/machines/loginAsAdmin/action";

/// What one role assignment allows.
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

/// What all role assignments together allow.
#[derive(Clone, Debug)]
pub(crate) struct Permissions(Vec<Permission>);

impl Permissions {
    /// Those of the identity on a machine, inherited ones included.
    pub(crate) async fn on(arm: &Arm, machine: &ResourceId) -> Result<Self, ArmError> {
        let mut path = machine.segments().to_vec();
        path.extend(["providers", "Microsoft.Authorization", "permissions"]);
        Ok(Self(pages(arm, &path, &[("api-version", API_VERSION)]).await?))
    }

    /// Whether an operation of Azure Resource Manager is allowed.
    pub(crate) fn allow(&self, action: &str) -> bool {
        self.0.iter().any(|one| any(&one.actions, action) && !any(&one.not_actions, action))
    }

    /// Whether an operation on what a resource holds is allowed.
    pub(crate) fn allow_data(&self, action: &str) -> bool {
        self.0.iter().any(|one| any(&one.data_actions, action) && !any(&one.not_data_actions, action))
    }
}

fn any(patterns: &[impl AsRef<str>], action: &str) -> bool {
    patterns.iter().any(|pattern| matches(pattern.as_ref(), action))
}

/// Whether a pattern stands for an action: `*` is any run of characters, and case is of no account.
fn matches(pattern: &str, action: &str) -> bool {
    let (pattern, action) = (pattern.to_lowercase(), action.to_lowercase());
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == action };
    let Some(mut action) = action.strip_prefix(first) else { return false };
    let (middle, last) = rest.rsplit_once('*').unwrap_or(("", rest));
    for part in middle.split('*') {
        let Some(at) = action.find(part) else { return false };
        action = &action[at + part.len()..];
    }
    action.ends_with(last)
}

/// A built-in role, with what it allows as far as it matters here.
struct Role {
    name: &'static str,
    actions: &'static [&'static str],
    data_actions: &'static [&'static str],
}

/// From the least to the most (azure-docs `built-in-roles/compute.md` and `hybrid-multicloud.md`). That the first may
/// read a machine itself is said nowhere; Microsoft's clients read machines with it.
const ROLES: [Role; 5] = [
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
    Role { name: "Contributor", actions: &["*"], data_actions: &[] },
];

/// The least built-in role that allows an operation.
pub(crate) fn least_role(action: &str) -> &'static str {
    let allows = |role: &&Role| any(role.actions, action) || any(role.data_actions, action);
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
    fn an_action_is_allowed_by_one_assignment_that_does_not_take_it_back() {
        let contributor =
            permissions(r#"[{"actions":["*"],"notActions":["Microsoft.Authorization/*/Write"]}]"#);
        assert!(contributor.allow(CONNECT) && contributor.allow(SET_UP[0]));
        assert!(!contributor.allow("Microsoft.Authorization/roleAssignments/write"));
        assert!(!contributor.allow_data(LOGIN));
        let taken_back = r#"{"actions":["*"],"notActions":["microsoft.hybridconnectivity/*"]}"#;
        assert!(!permissions(&format!("[{taken_back}]")).allow(CONNECT));
        let elsewhere = format!(r#"[{taken_back},{{"actions":["{CONNECT}"]}}]"#);
        assert!(permissions(&elsewhere).allow(CONNECT), "what one takes back another may give");
        assert!(!permissions("[]").allow(CONNECT));
        let null = r#"[{"actions":["*"],"notActions":null,"dataActions":null}]"#;
        assert!(permissions(null).allow(CONNECT) && !permissions(null).allow_data(LOGIN));
    }

    #[test]
    fn data_actions_are_told_apart_from_actions() {
        let user = permissions(
            r#"[{"dataActions":["Microsoft.HybridCompute/machines/*"],"notDataActions":["*/loginAsAdmin/action"]}]"#,
        );
        assert!(user.allow_data(LOGIN) && !user.allow_data(LOGIN_AS_ADMIN) && !user.allow(LOGIN));
    }

    #[test]
    fn a_star_is_any_run_of_characters_slashes_included() {
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
    fn the_least_role_is_named_for_each_right_that_arcssh_asks_for() {
        assert_eq!(least_role(CONNECT), "Virtual Machine Local User Login");
        assert_eq!(least_role("Microsoft.HybridCompute/machines/read"), "Virtual Machine Local User Login");
        assert_eq!(least_role(&LOGIN.to_uppercase()), "Virtual Machine User Login");
        assert_eq!(least_role(LOGIN_AS_ADMIN), "Virtual Machine Administrator Login");
        for action in SET_UP {
            assert_eq!(least_role(action), "Azure Connected Machine Resource Manager");
        }
        assert_eq!(least_role("Microsoft.HybridConnectivity/register/action"), "Contributor");
        assert_eq!(least_role("Microsoft.HybridConnectivity/endpoints/delete"), "Contributor");
    }

    /// The same by trying every way in which the stars can be filled.
    fn slow(pattern: &[u8], action: &[u8]) -> bool {
        match (pattern, action) {
            ([], []) => true,
            ([b'*', rest @ ..], _) => {
                slow(rest, action) || action.split_first().is_some_and(|(_, left)| slow(pattern, left))
            }
            ([one, rest @ ..], [other, left @ ..]) => one.eq_ignore_ascii_case(other) && slow(rest, left),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn patterns_match_as_every_filling_of_their_stars_does(
            pattern in "[ab/*]{0,8}", action in "[abAB/]{0,8}",
        ) {
            prop_assert_eq!(matches(&pattern, &action), slow(pattern.as_bytes(), action.as_bytes()));
        }

        #[test]
        fn a_pattern_stands_for_itself_with_its_stars_filled(
            parts in proptest::collection::vec("[a-zA-Z./]{0,6}", 1..5), filling in "[a-z/]{0,4}",
        ) {
            prop_assert!(matches(&parts.join("*"), &parts.join(&filling).to_uppercase()));
        }

        #[test]
        fn what_is_taken_back_is_never_allowed_by_the_same_assignment(action in "[a-z./]{1,20}") {
            let permission = Permission {
                actions: vec!["*".into()], not_actions: vec![action.to_uppercase()], ..Permission::default()
            };
            prop_assert!(!Permissions(vec![permission]).allow(&action));
        }
    }
}
