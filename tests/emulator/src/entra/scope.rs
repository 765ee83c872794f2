//! Scopes: those of resources, and those of OpenID Connect.

use crate::entra::error::EntraError;
use crate::entra::principal::Principal;

/// The audiences that Azure Resource Manager accepts: that of the Azure SDKs, and that of azure-cli, whose resource ends
/// in a slash, so that its scope has a double slash (azure-cli-core cloud.py).
pub(crate) const ARM_AUDIENCES: [&str; 2] =
    ["https://management.azure.com", "https://management.core.windows.net"];

/// The audience of the sign-in to Linux machines: in each cloud (azure-cli-extensions ssh custom.py `cloudtoscope`) and
/// as app ID (azure-powershell).
const SSH_AUDIENCES: [&str; 4] = [
    "https://pas.windows.net/CheckMyAccess/Linux",
    "https://pas.chinacloudapi.cn/CheckMyAccess/Linux",
    "https://pasff.usgovcloudapi.net/CheckMyAccess/Linux",
    "ce6ff14a-7fdc-4685-bbe0-f6afdfcfa8e0",
];

/// Microsoft Graph, the audience of a token without a resource in its scopes.
const GRAPH: &str = "00000003-0000-0000-c000-000000000000";

/// The scopes of a request.
#[derive(Clone, Debug)]
pub(crate) struct Scope {
    /// The scopes of the resource, unchanged.
    pub(crate) text: String,
    pub(crate) audience: String,
    openid: bool,
    offline_access: bool,
}

impl Scope {
    /// Parses the scopes that `principal` requests in `tenant`.
    pub(crate) fn parse(text: &str, principal: &Principal, tenant: &str) -> Result<Self, EntraError> {
        let (own, resources): (Vec<&str>, Vec<&str>) = text
            .split_ascii_whitespace()
            .partition(|scope| ["openid", "profile", "email", "offline_access"].contains(scope));
        let audience = match resources.as_slice() {
            [] if *principal == Principal::User && !own.is_empty() => GRAPH.to_owned(),
            [] => return Err(invalid(text)),
            [scope] => audience(scope, principal, tenant)?,
            // The documented text of 28000 is "The scopes ... are for more than one resource".
            _ => {
                let text = "Provided value for the input parameter scope isn't valid because it contains more than \
                            one resource.";
                return Err(EntraError::new("invalid_scope", 28000, text));
            }
        };
        Ok(Self {
            text: resources.join(" "),
            audience,
            openid: own.contains(&"openid"),
            offline_access: own.contains(&"offline_access"),
        })
    }

    /// Whether the request includes an ID token.
    pub(crate) fn wants_id_token(&self) -> bool {
        self.openid
    }

    /// Whether the resource is the sign-in to Linux machines.
    pub(crate) fn is_for_ssh(&self) -> bool {
        SSH_AUDIENCES.contains(&self.audience.as_str())
    }

    /// Whether the request includes a refresh token.
    pub(crate) fn wants_refresh_token(&self) -> bool {
        self.offline_access
    }
}

/// Returns the resource of a scope `{resource}/.default`. A user's scope may also have a permission.
fn audience(scope: &str, principal: &Principal, tenant: &str) -> Result<String, EntraError> {
    let (resource, permission) = scope.rsplit_once('/').ok_or_else(|| invalid(scope))?;
    let allowed =
        permission == ".default" || *principal == Principal::User && permission == "user_impersonation";
    if !allowed {
        return Err(invalid(scope));
    }
    let known = ARM_AUDIENCES.contains(&resource.trim_end_matches('/')) || SSH_AUDIENCES.contains(&resource);
    let unknown =
        || format!("The resource principal named {resource} was not found in the tenant named {tenant}.");
    if known { Ok(resource.to_owned()) } else { Err(EntraError::new("invalid_resource", 500_011, unknown())) }
}

fn invalid(scope: &str) -> EntraError {
    let text = format!("The provided value for the input parameter 'scope' is not valid: '{scope}'.");
    EntraError::new("invalid_scope", 70011, text)
}
