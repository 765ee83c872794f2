//! ARM's error envelope, and the errors with recorded or documented texts.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::arm::path::MachinePath;
use crate::arm::policy::PolicyTokens;
use crate::arm::reply::Reply;
use crate::clock::{self, Clock};
use crate::entra::AUTHENTICATION_CONTEXT;
use crate::machine::Machine;

/// An error answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ArmError {
    status: u16,
    code: &'static str,
    message: String,
    details: Vec<Value>,
    additional_info: Option<Box<Value>>,
    headers: Vec<(&'static str, String)>,
}

impl ArmError {
    pub(crate) fn new(status: u16, code: &'static str, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { status, code, message, details: Vec::new(), additional_info: None, headers: Vec::new() }
    }

    fn detail(mut self, detail: Value) -> Self {
        self.details.push(detail);
        self
    }

    fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// Marks an answer of ARM itself: a recorded 404 has this header and no `x-ms-providerhub-traffic` (azure-powershell
    /// recorded session TestGetArcConfig.json).
    fn by_gateway(self) -> Self {
        self.header("x-ms-failure-cause", "gateway")
    }

    /// Returns the answer with the envelope. Recorded bodies have only code and message (azure-rest-api-specs
    /// hybridconnectivity); those of Resource Graph have details too.
    pub(crate) fn reply(self) -> Reply {
        let mut body = json!({ "error": { "code": self.code, "message": self.message } });
        if !self.details.is_empty() {
            body["error"]["details"] = self.details.into();
        }
        if let Some(info) = self.additional_info {
            body["error"]["additionalInfo"] = json!([{ "type": "PolicyViolation", "info": info }]);
        }
        let reply = Reply::json(self.status, &body);
        self.headers.into_iter().fold(reply, |reply, (name, value)| reply.header(name, &value))
    }
}

/// 401 with the header that names the authority.
pub(crate) fn unauthorized(code: &'static str, message: &str, tenant: &str) -> ArmError {
    let challenge = format!(
        "Bearer authorization_uri=\"https://login.microsoftonline.com/{tenant}\", error=\"invalid_token\", \
         error_description=\"{message}\""
    );
    ArmError::new(401, code, message).header("WWW-Authenticate", challenge)
}

/// 401 for a token of another tenant. The body is quoted in Azure/pcs-cli issue 357 and
/// microsoft/vscode-azureappservice issue 2095; header and body together in an exception of Azure.Core of 2022-09-05 in
/// public code.
pub(crate) fn wrong_issuer(authority: &str, wrong: &str, right: &str) -> ArmError {
    let message = format!(
        "The access token is from the wrong issuer 'https://sts.windows.net/{wrong}/'. It must match the tenant \
         'https://sts.windows.net/{right}/' associated with this subscription. Please use the authority (URL) \
         'https://{authority}/{right}' to get the token. Note, if the subscription is transferred to another tenant \
         there is no impact to the services, but information about new tenant could take time to propagate (up to an \
         hour). If you just transferred your subscription and see this error message, please try back later."
    );
    let challenge = format!(
        "Bearer authorization_uri=\"https://{authority}/{right}\", error=\"invalid_token\", \
         error_description=\"The access token is from the wrong issuer. It must match the tenant associated with this \
         subscription. Please use correct authority to get the token.\""
    );
    ArmError::new(401, "InvalidAuthenticationTokenTenant", message).header("WWW-Authenticate", challenge)
}

/// 401 for a token without multi-factor authentication (Microsoft Learn, "Claims challenges, claims requests, and client
/// capabilities"; azure-powershell pull request 28193). No source has code and text of the body.
pub(crate) fn insufficient_claims(authority: &str) -> ArmError {
    let claims =
        json!({ "access_token": { "acrs": { "essential": true, "values": [AUTHENTICATION_CONTEXT] } } });
    let challenge = format!(
        "Bearer realm=\"\", authorization_uri=\"https://{authority}/common/oauth2/authorize\", \
         error=\"insufficient_claims\", claims=\"{}\"",
        STANDARD.encode(claims.to_string())
    );
    let text = "The request requires multi-factor authentication.";
    ArmError::new(401, "InteractionRequired", text).header("WWW-Authenticate", challenge)
}

/// 403 for a request without a policy token (terraform-provider-azapi, `missingPolicyTokenDetails`).
pub(crate) fn missing_policy_token(tokens: PolicyTokens) -> ArmError {
    let details = json!({
        "shouldDeny": true, "endpointKind": "AzureResourceGraph",
        "isChangeReferenceRequired": tokens == PolicyTokens::ChangeReferenceRequired,
    });
    let text = "Resource was disallowed by policy. A policy token is required.";
    let info = json!({ "evaluationDetails": { "missingPolicyTokenDetails": details } });
    ArmError { additional_info: Some(info.into()), ..ArmError::new(403, "RequestDisallowedByPolicy", text) }
}

pub(crate) fn missing_api_version() -> ArmError {
    let text = "The api-version query parameter (?api-version=) is required for all requests.";
    ArmError::new(400, "MissingApiVersionParameter", text)
}

/// An unregistered provider and an unknown api-version have the same code (azure-docs
/// `error-register-resource-provider.md`). No source has the HTTP status.
pub(crate) fn no_registered_provider(
    location: &str,
    version: &str,
    kind: &str,
    versions: &[&str],
) -> ArmError {
    let text = format!(
        "No registered resource provider found for location '{location}' and API version '{version}' for type \
         '{kind}'. The supported api-versions are '{}'. The supported locations are '{location}'.",
        versions.join(", ")
    );
    ArmError::new(400, "NoRegisteredProviderFound", text)
}

/// azure-docs `error-register-resource-provider.md`.
pub(crate) fn missing_registration(namespace: &str) -> ArmError {
    let text = format!(
        "The subscription is not registered to use namespace '{namespace}'. See https://aka.ms/rps-not-found for how \
         to register subscriptions."
    );
    ArmError::new(409, "MissingSubscriptionRegistration", text)
}

pub(crate) fn subscription_not_found(subscription: &str) -> ArmError {
    let text = format!("The subscription '{subscription}' could not be found.");
    ArmError::new(404, "SubscriptionNotFound", text).by_gateway()
}

/// Recorded (azure-powershell TestGetArcConfig.json).
pub(crate) fn resource_group_not_found(resource_group: &str) -> ArmError {
    let text = format!("Resource group '{resource_group}' could not be found.");
    ArmError::new(404, "ResourceGroupNotFound", text).by_gateway()
}

/// Recorded for the GET of a machine. For listCredentials no source has the error; the same is an assumption.
pub(crate) fn machine_not_found(path: &MachinePath) -> ArmError {
    let MachinePath { resource_group, resource_type, name, .. } = path;
    let text = format!(
        "The Resource '{resource_type}/{name}' under resource group '{resource_group}' was not found. For more \
         details please go to https://aka.ms/ARMResourceNotFoundFix"
    );
    ArmError::new(404, "ResourceNotFound", text).by_gateway()
}

/// Recorded for an endpoint that does not exist. The resource provider answers, not ARM.
pub(crate) fn endpoint_not_found(machine: &Machine) -> ArmError {
    not_found_at_provider(machine, "")
}

/// No source has the body of this 404; it is modelled on that of the endpoint.
pub(crate) fn service_configuration_not_found(machine: &Machine, service: &str) -> ArmError {
    not_found_at_provider(machine, &format!("/serviceConfigurations/{service}"))
}

fn not_found_at_provider(machine: &Machine, rest: &str) -> ArmError {
    let Machine { resource_type, name, .. } = machine;
    let endpoint =
        format!("{resource_type}/{name}/providers/Microsoft.HybridConnectivity/endpoints/default{rest}");
    let text = format!("The resource '{endpoint}' could not be found.");
    ArmError::new(404, "ResourceNotFound", text).by_gateway()
}

/// azure-cli-extensions ssh connectivity_utils.py checks for 412. No source has code and text.
pub(crate) fn no_service_configuration(service: &str) -> ArmError {
    let text = format!("The service configuration for service '{service}' does not exist.");
    ArmError::new(412, "PreconditionFailed", text)
}

/// The text is in Microsoft Learn, "Troubleshoot SSH access to Azure Arc-enabled servers".
pub(crate) fn authorization_failed(client: &str, object_id: &str, action: &str, scope: &str) -> ArmError {
    let text = format!(
        "The client '{client}' with object id '{object_id}' does not have authorization to perform action '{action}' \
         over scope '{scope}' or the scope is invalid. If access was recently granted, please refresh your credentials."
    );
    ArmError::new(403, "AuthorizationFailed", text)
}

/// A request that violates the specification. No source has code and text.
pub(crate) fn bad_request(message: impl Into<String>) -> ArmError {
    ArmError::new(400, "BadRequest", message)
}

pub(crate) fn invalid_content() -> ArmError {
    let text = "The request content was invalid and could not be deserialized.";
    ArmError::new(400, "InvalidRequestContent", text)
}

/// An invalid query, with the first invalid token (Azure/aztfexport issue 485).
pub(crate) fn invalid_query(token: &str) -> ArmError {
    let text = "Query is invalid. Please refer to the documentation for the Azure Resource Graph service and fix the \
                error before retrying.";
    let parser = json!({ "code": "ParserFailure", "message": "ParserFailure", "token": token });
    graph_error("InvalidQuery", text).detail(parser)
}

/// The caller may read none of the requested subscriptions (Azure/aztfexport issues 331 and 491).
pub(crate) fn no_valid_subscriptions(unknown: &[&str]) -> ArmError {
    let text = format!(
        "There must be at least one subscription that is eligible to contain resources. Given: '{}'.",
        unknown.join(",")
    );
    graph_error("NoValidSubscriptionsInQueryRequest", &text)
}

/// The user has sent too many queries (Azure/azure-cli issue 31484).
pub(crate) fn quota_exceeded() -> ArmError {
    let text = "Client application has been throttled and should not attempt to repeat the request until an amount of \
                time has elapsed. Please see https://aka.ms/resourcegraph-throttling for help.";
    ArmError { status: 429, code: "RateLimiting", ..graph_error("RateLimiting", text) }
}

/// A page that is longer than the limit (microsoft/ARI issue 199).
pub(crate) fn response_too_large(length: usize, limit: usize) -> ArmError {
    let text = format!(
        "Response payload size is {length}, and has exceeded the limit of {limit}. Please consider querying less data at \
         a time and make paginated call if needed."
    );
    graph_error("ResponsePayloadTooLarge", &text)
}

/// An option that violates the specification. No source has code and text of the detail.
pub(crate) fn invalid_option(text: &str) -> ArmError {
    graph_error("BadRequest", text)
}

/// An error of Resource Graph: its cause is in the details only.
fn graph_error(code: &str, text: &str) -> ArmError {
    let time = clock::timestamp(Clock::default().unix_seconds());
    let message = format!(
        "Please provide below info when asking for support: timestamp = {time}.0000000Z, correlationId = {}.",
        Uuid::new_v4()
    );
    bad_request(message).detail(json!({ "code": code, "message": text }))
}

/// Status and header are documented (Microsoft Learn, "Understand how Azure Resource Manager throttles requests"). No
/// source has code and text.
pub(crate) fn throttled(seconds: u64) -> ArmError {
    let text =
        format!("The number of requests exceeded the limit. Please try again after '{seconds}' seconds.");
    ArmError::new(429, "TooManyRequests", text).header("Retry-After", seconds.to_string())
}

/// An extension that the machine does not have: ARM's form for a nested resource.
pub(crate) fn extension_not_found(path: &MachinePath, name: &str) -> ArmError {
    let MachinePath { resource_group, resource_type, name: machine, .. } = path;
    let text = format!(
        "The Resource '{resource_type}/{machine}/extensions/{name}' under resource group '{resource_group}' was not found. \
         For more details please go to https://aka.ms/ARMResourceNotFoundFix"
    );
    ArmError::new(404, "ResourceNotFound", text)
}

/// Another change of an extension of this type is in progress (microsoft/sql-server-samples, `activate-pcore-license`).
pub(crate) fn extension_in_progress(kind: &str) -> ArmError {
    let text = format!(
        "An extension of type {kind} is still processing. Only one instance of an extension may be in progress at a time \
         for the same resource. Please retry after sometime."
    );
    ArmError::new(409, "HCRP409", text)
}

pub(crate) fn method_not_allowed() -> ArmError {
    ArmError::new(405, "MethodNotAllowed", "The requested resource does not support this http method.")
}

/// A path that ARM cannot route.
pub(crate) fn invalid_path(path: &str) -> ArmError {
    ArmError::new(404, "InvalidResourceType", format!("The resource type could not be found for '{path}'."))
}
