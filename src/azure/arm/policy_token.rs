//! Policy tokens: proof for Azure Policy that a request satisfies conditions outside of the request ("external evaluation").
//!
//! If a policy requires a token, ARM rejects the request with 403 `RequestDisallowedByPolicy`. `acquirePolicyToken` issues
//! a token for exactly this request, which is then sent again with the token in a header. As in Terraform's azapi provider
//! (`internal/clients`), this applies to all methods except GET, so also to the POST of listCredentials. Sources: azapi;
//! azure-sdk-for-python `azure-mgmt-core`, `PolicyTokenHeaderPolicy`; azure-cli-core, `get_custom_hook_policy`.

use azure_core::http::{Body, Method, Request};
use serde::Deserialize;
use serde_json::{Value, json};
use tracing::info;

use crate::azure::arm::{Arm, ArmError};
use crate::azure::credentials::AccessToken;
use crate::azure::json::{or_default, parse};
use crate::system::secret::Secret;

/// The only stable version in these clients.
const API_VERSION: &str = "2025-03-01";
/// The header with the policy token, verbatim with its prefix `PoP `.
const HEADER: &str = "x-ms-policy-external-evaluations";

#[derive(Deserialize)]
struct Acquired {
    #[serde(default, deserialize_with = "or_default")]
    result: String,
    token: Option<Secret>,
}

/// Returns whether an error asks for a policy token: `additionalInfo[].info.evaluationDetails.missingPolicyTokenDetails`.
/// azure-core-management for Java also has the details directly in `info`. arcssh cannot name a change, which some policies
/// require.
pub(super) fn is_required(error: &Value) -> bool {
    let is_missing = |info: &Value| {
        ["/info/evaluationDetails/missingPolicyTokenDetails", "/info/missingPolicyTokenDetails"]
            .iter()
            .filter_map(|path| info.pointer(path))
            .any(|details| details["shouldDeny"] == true && details["isChangeReferenceRequired"] != true)
    };
    let has_code =
        error["code"].as_str().is_some_and(|code| code.eq_ignore_ascii_case("RequestDisallowedByPolicy"));
    has_code && error["additionalInfo"].as_array().into_iter().flatten().any(is_missing)
}

/// Returns the request with a policy token; `None` if Azure issues none.
pub(super) async fn acquire(
    arm: &Arm,
    token: &AccessToken,
    request: &Request,
) -> Result<Option<Request>, ArmError> {
    let url = request.url();
    let segments: Vec<&str> = url.path_segments().into_iter().flatten().collect();
    let ["subscriptions", subscription, ..] = segments[..] else { return Ok(None) };
    if request.method() == Method::Get {
        return Ok(None);
    }
    let mut operation = json!({ "uri": url.as_str(), "httpMethod": request.method().as_ref() });
    if let Body::Bytes(body) = request.body()
        && let Ok(content) = parse::<Value>(body)
    {
        operation["content"] = content;
    }
    let path = ["subscriptions", subscription, "providers", "Microsoft.Authorization", "acquirePolicyToken"];
    let mut acquisition = Request::new(arm.url(&path, &[("api-version", API_VERSION)]), Method::Post);
    acquisition.insert_header("content-type", "application/json");
    acquisition.insert_header("x-ms-force-sync", "true");
    acquisition.set_body(json!({ "operation": operation }).to_string());
    info!("requesting a policy token");
    let acquired: Acquired = match arm.send_with(token, acquisition).await {
        Err(ArmError::Rejected(response)) => {
            info!("no policy token: {response}");
            return Ok(None);
        }
        response => response?.json()?,
    };
    let is_header = |token: &Secret| {
        !token.secret().is_empty() && token.secret().bytes().all(|byte| (b' '..=b'~').contains(&byte))
    };
    let token =
        acquired.token.filter(|token| acquired.result.eq_ignore_ascii_case("Succeeded") && is_header(token));
    Ok(token.map(|token| {
        let mut request = request.clone();
        request.insert_header(HEADER, token.secret().to_owned());
        request
    }))
}
