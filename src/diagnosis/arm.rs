//! Azure Resource Manager.

use crate::azure::arm::{ArmError, ErrorResponse};
use crate::azure::credentials::{Caller, CredentialSource};
use crate::azure::rbac::{CONNECT, least_role};
use crate::azure::resource_providers::NAMESPACE;
use crate::diagnosis::credentials::{credential, option, sign_in, source_hint};
use crate::diagnosis::network::{self, TRY_LATER, allow_https, retry_in};
use crate::diagnosis::{Action, Code, Context, Diagnosis, Hint, system};
use crate::text::{set_variable, shell_quote};

/// Azure knows the provider, but not in the machine's region.
pub(crate) const SERVED_REGION: &str = "connect the machine in a region that the message names: on the machine, run azcmagent disconnect, then azcmagent connect --location REGION";
/// Only `arcssh login` takes a tenant for users.
pub(super) const OTHER_TENANT: &str = "check account and tenant: arcssh account; to use another tenant, add --tenant TENANT, or run: arcssh login --tenant TENANT";

pub(super) fn arm(error: &ArmError, context: &Context) -> Diagnosis {
    match error {
        ArmError::Rejected(response) => rejected(response, context),
        ArmError::Credential(error) => credential(error, context),
        ArmError::Net(error) => network::net(error),
        ArmError::State(error) => system::system(error),
        ArmError::UntrustedRelay(host) => untrusted_relay(host),
        ArmError::TooManyPages(why) => too_long(&format!("has too many pages: {why}")),
        ArmError::ListTooLong => too_long(&format!("is too long: {error}")),
        ArmError::InvalidResponse { host, cause } => Diagnosis::new(
            Code::InvalidResponse,
            format!("cannot use the response of Azure Resource Manager: {cause}"),
            allow_arm(host),
        ),
    }
}

fn too_long(problem: &str) -> Diagnosis {
    Diagnosis::new(
        Code::InvalidResponse,
        format!("the response of Azure Resource Manager {problem}"),
        "select the machines of one subscription: --subscription ID",
    )
}

/// Azure, or relay information, names a host that must not get the relay's tokens.
fn untrusted_relay(host: &str) -> Diagnosis {
    let variable = set_variable("ARCSSH_RELAY_SUFFIX", "DOMAIN");
    Diagnosis::new(
        Code::UntrustedRelay,
        format!("the host {host:?} is not in a trusted relay domain, so arcssh sends it no token"),
        format!(
            "check --cloud; if your administrator confirms another relay domain, add --relay-suffix, or run: {variable}"
        ),
    )
}

/// Diagnoses an error response by its code, if it has one (azure-docs "Resolve errors for resource provider
/// registration"; Microsoft Learn, "Troubleshoot SSH access to Azure Arc-enabled servers"; recorded bodies of
/// azure-powershell).
fn rejected(response: &ErrorResponse, context: &Context) -> Diagnosis {
    let ErrorResponse { status, code, message, .. } = response;
    let diagnosis = match (*status, &**code) {
        (_, "NoRegisteredProviderFound" | "MissingSubscriptionRegistration") => {
            unregistered(response, context)
        }
        _ if response.is_unknown_provider() => Diagnosis::new(
            Code::RegionNotServed,
            format!("this cloud does not provide SSH for Arc machines ({})", details(response)),
            "check --cloud; if the machine is in this cloud, ask Azure support whether it offers SSH for Arc machines",
        ),
        _ if response.claims.is_some() || is_about_mfa(response) => weak_sign_in(response),
        (401, _) => Diagnosis::new(
            Code::TokenRejected,
            format!("Azure rejected the access token{} ({})", of_account(response), details(response)),
            source_hint(response.source(), response.tenant.as_deref()),
        ),
        (_, "ScopeLocked") => locked(message, context),
        (400..=499, code) if is_of_disabled_subscription(code) => Diagnosis::new(
            Code::AccessDenied,
            format!("the subscription is disabled ({})", details(response)),
            "ask the billing administrator of the subscription to enable it again",
        ),
        (403, _) => denied(response, context),
        (404, _) => not_found(response, context),
        (412, _) => Diagnosis::new(
            Code::ServiceNotEnabled,
            format!("{} is not enabled on the machine (412 Precondition Failed)", context.service()),
            context.set_up(),
        ),
        (408, _) => Diagnosis::new(
            Code::TimedOut,
            format!("Azure Resource Manager did not receive the request in time ({})", answer(response)),
            TRY_LATER,
        ),
        (429, _) => Diagnosis::new(
            Code::Throttled,
            "Azure Resource Manager throttles requests (429)",
            retry_in(response.retry_after),
        ),
        (500.., _) => Diagnosis::new(
            Code::ServiceError,
            format!("Azure Resource Manager failed ({})", answer(response)),
            TRY_LATER,
        ),
        (..=399 | 407, _) => Diagnosis::new(
            Code::UnexpectedResponse,
            format!(
                "a proxy or captive portal responded instead of Azure Resource Manager ({})",
                answer(response)
            ),
            allow_arm(&response.host),
        ),
        _ => Diagnosis::new(
            Code::RequestRejected,
            format!("Azure Resource Manager rejected the request ({})", answer(response)),
            "fix the cause that the response names; if the cause is unclear, ask Azure support",
        ),
    };
    let request_id = response.request_id.as_ref().map(|id| format!("{id} of Azure Resource Manager"));
    Diagnosis { request_id, ..diagnosis }
}

/// Returns whether the code is that of a disabled, expired or suspended subscription, such as
/// `ReadOnlyDisabledSubscription` (microsoft/vscode-azureappservice issues 912 and 1646).
fn is_of_disabled_subscription(code: &str) -> bool {
    let code = code.to_ascii_lowercase();
    code.contains("subscription")
        && ["disabled", "expired", "suspended", "warned", "notactive"]
            .iter()
            .any(|state| code.contains(state))
}

/// Returns whether Azure denies a request for lack of multi-factor authentication, without a claims challenge
/// (azure-docs-cli, "Troubleshoot the Azure CLI": "Reasons: MFA is required").
fn is_about_mfa(response: &ErrorResponse) -> bool {
    let is_word = |word: &str| word == "MFA" || word.to_ascii_lowercase().starts_with("multifactor");
    let text = response.message.replace("ulti-factor", "ultifactor");
    response.code.starts_with("RequestDisallowedBy")
        && text.split(|c: char| !c.is_ascii_alphanumeric()).any(is_word)
}

/// Diagnoses a token without the claims that Azure requires. The programs' options are those that their authors print
/// (azure-cli-core, `_generate_login_command`; azure-powershell pull request 28193; azure-sdk-for-python pull request
/// 42488).
fn weak_sign_in(response: &ErrorResponse) -> Diagnosis {
    let source = response.source();
    let tenant = response.tenant.as_deref();
    let claims = response.claims.as_ref().map(|claims| format!("\"{}\"", claims.base64()));
    let challenge = |name| option(name, claims.as_deref());
    let again = |command: String| Hint::new("sign in again: ", command);
    let hint = match source {
        CredentialSource::Any | CredentialSource::Unset | CredentialSource::Arcssh => {
            sign_in(&option("--tenant", tenant))
        }
        CredentialSource::AzureCli => {
            again(format!("az login{}{}", challenge("--claims-challenge"), option("--tenant", tenant)))
        }
        CredentialSource::AzurePowershell => {
            again(format!("Connect-AzAccount{}{}", challenge("-ClaimsChallenge"), option("-Tenant", tenant)))
        }
        // The first command stores the claims, and prints a token if none is necessary.
        CredentialSource::AzureDeveloperCli => again(format!(
            "azd auth token{}{tenant}{}; azd auth login{tenant}",
            challenge("--claims"),
            if cfg!(windows) { " | Out-Null" } else { " >/dev/null" },
            tenant = option("--tenant-id", tenant),
        )),
        CredentialSource::Environment
        | CredentialSource::WorkloadIdentity
        | CredentialSource::ManagedIdentity => {
            "ask an administrator of the tenant which Conditional Access policy blocks this identity".into()
        }
    };
    let summary = format!(
        "Azure requires more than {} provides, such as multi-factor authentication ({})",
        if source == CredentialSource::Unset { "this sign-in" } else { source.title() },
        details(response)
    );
    Diagnosis::new(Code::TokenRejected, summary, hint)
}

/// ARM names the scope of the lock, which can be above the machine (Azure/azure-cli issue 9884). `az lock list --resource`
/// lists only the locks of a resource and below it.
fn locked(message: &str, context: &Context) -> Diagnosis {
    let scope = quoted_after(message, "locked:");
    let segments: Vec<&str> = scope.unwrap_or_default().trim_matches('/').split('/').collect();
    let (what, command) = match segments[..] {
        [_, subscription] => (
            format!("the subscription {subscription}"),
            Some(format!("az account lock list --subscription {}", shell_quote(subscription))),
        ),
        [_, subscription, _, group] => (
            format!("the resource group {group}"),
            Some(format!(
                "az group lock list --resource-group {} --subscription {}",
                shell_quote(group),
                shell_quote(subscription)
            )),
        ),
        [_, _, _, _, "providers", .., name] => (
            format!("the resource {name}"),
            scope.map(|scope| format!("az lock list --resource {}", shell_quote(scope))),
        ),
        _ => ("the machine".to_owned(), None),
    };
    let text = "delete the lock, or ask an owner to delete it; to list the locks, run: ";
    let hint = match command {
        Some(command) => Hint::new(text, command),
        None => {
            let id = context.machine_id().unwrap_or("ID".into());
            context.runnable(text, format!("az lock list --resource {}", shell_quote(&id)))
        }
    };
    Diagnosis::new(Code::ResourceLocked, format!("a lock protects {what} against changes ({message})"), hint)
}

fn unregistered(response: &ErrorResponse, context: &Context) -> Diagnosis {
    if !response.is_unserved() {
        let summary = format!("{NAMESPACE} is not registered in the subscription ({})", response.code);
        return Diagnosis::new(Code::ProviderNotRegistered, summary, context.set_up());
    }
    // Setup has registered the provider, so only the region remains.
    if context.action == Action::SetUp {
        return region_not_served(response);
    }
    let summary = format!(
        "{NAMESPACE} is not registered in the subscription, or does not serve the machine's region ({})",
        details(response)
    );
    Diagnosis::new(Code::ProviderNotRegistered, summary, context.set_up())
}

/// Diagnoses a response for a machine whose subscription has the provider registered.
pub(crate) fn region_not_served(response: &ErrorResponse) -> Diagnosis {
    let summary = format!("{NAMESPACE} does not serve the machine's region ({})", details(response));
    Diagnosis::new(Code::RegionNotServed, summary, SERVED_REGION)
}

fn not_found(response: &ErrorResponse, context: &Context) -> Diagnosis {
    if response.message.to_lowercase().contains("/endpoints/default") {
        let summary = "the machine has no connectivity endpoint (404 ResourceNotFound)";
        return Diagnosis::new(Code::NoEndpoint, summary, context.set_up());
    }
    let details = details(response);
    match &*response.code {
        "SubscriptionNotFound" => Diagnosis::new(
            Code::SubscriptionNotFound,
            format!(
                "the subscription does not exist, or {} has no access to it ({details})",
                account(response)
            ),
            OTHER_TENANT,
        ),
        "ResourceNotFound" | "ResourceGroupNotFound" => Diagnosis::new(
            Code::MachineNotFound,
            format!("the machine does not exist ({details})"),
            "list the machines and their IDs: arcssh list -o json; to remove the host entry of a deleted machine, run: arcssh config --remove NAME",
        ),
        _ => Diagnosis::new(
            Code::MachineNotFound,
            format!("the machine or its connectivity endpoint does not exist ({details})"),
            context.runnable("check which one is missing: ", format!("arcssh doctor {}", context.machine())),
        ),
    }
}

fn denied(response: &ErrorResponse, context: &Context) -> Diagnosis {
    match &*response.code {
        "AuthorizationFailed" => missing_permission(response, context),
        "RequestDisallowedByPolicy" => Diagnosis::new(
            Code::BlockedByPolicy,
            format!("Azure Policy denies the request{} ({})", of_account(response), response.message),
            "ask an administrator of the subscription's policies",
        ),
        "RequestDisallowedByAzure" => Diagnosis::new(
            Code::BlockedByPolicy,
            format!("Azure denies the request ({})", response.message),
            "fix the cause that the response names; if the cause is unclear, ask Azure support",
        ),
        "DenyAssignmentAuthorizationFailed" => Diagnosis::new(
            Code::AccessDenied,
            format!(
                "a deny assignment denies the access ({})",
                deny_assignment(&response.message).unwrap_or(&response.message)
            ),
            "ask an administrator of the subscription; no role overrides a deny assignment",
        ),
        _ => Diagnosis::new(
            Code::AccessDenied,
            format!(
                "Azure Resource Manager rejected the request{} ({})",
                of_account(response),
                answer(response)
            ),
            or_other_account(
                response.caller.as_deref(),
                if response.code.is_empty() {
                    "ask an owner of the machine; if a proxy sent this response, ask the proxy's administrator"
                } else {
                    "ask an owner of the machine"
                }
                .into(),
            ),
        ),
    }
}

/// Returns the name of a deny assignment, which can contain quotes.
fn deny_assignment(message: &str) -> Option<&str> {
    let (_, rest) = message.split_once("deny assignment with name '")?;
    rest.split_once("' and Id").map(|(name, _)| name)
}

/// ARM names the missing permission, the account and the scope (Microsoft Learn, "Troubleshoot SSH access to Azure
/// Arc-enabled servers").
fn missing_permission(response: &ErrorResponse, context: &Context) -> Diagnosis {
    let message = &*response.message;
    let account = account(response);
    let action = quoted_after(message, "perform action").unwrap_or(CONNECT);
    let summary = if action.eq_ignore_ascii_case(CONNECT) {
        format!("{account} has no permission to connect to the machine (403 AuthorizationFailed)")
    } else {
        format!("{account} lacks the permission {action} (403 AuthorizationFailed)")
    };
    let assignee = quoted_after(message, "with object id").unwrap_or("YOU");
    // A role on the machine includes all below it; a permission on a subscription is not part of a machine's roles.
    let id = context.machine_id().unwrap_or_default();
    let scope = quoted_after(message, "over scope").filter(|scope| id.is_empty() || is_subscription(scope));
    let scope = scope.unwrap_or(&id);
    let hint = assign_role(action, assignee, scope);
    Diagnosis::new(Code::AccessDenied, summary, or_other_account(response.caller.as_deref(), hint))
}

fn is_subscription(scope: &str) -> bool {
    scope.trim_matches('/').split('/').count() == 2
}

/// Returns the hint to assign the least-privileged role for an action.
pub(super) fn assign_role(action: &str, assignee: &str, scope: &str) -> String {
    format!(
        "ask an owner of the {} to run: az role assignment create --role '{}' --assignee {} --scope {}",
        if is_subscription(scope) { "subscription" } else { "machine" },
        least_role(action),
        shell_quote(assignee),
        shell_quote(scope)
    )
}

/// Returns the account of a request, for a sentence.
fn account(response: &ErrorResponse) -> String {
    response.caller.as_ref().map_or("the account".to_owned(), |caller| caller.to_string())
}

fn of_account(response: &ErrorResponse) -> String {
    response.caller.as_ref().map_or(String::new(), |caller| format!(" of {caller}"))
}

/// Returns a hint after another one: to use an account that may already have the permission.
pub(super) fn or_other_account(caller: Option<&Caller>, hint: String) -> String {
    let others = caller.iter().flat_map(|caller| &caller.others);
    let options: Vec<String> = others.map(|source| format!("--credential {}", source.name())).collect();
    if options.is_empty() {
        hint
    } else {
        format!("to use another account, add {}; or {hint}", options.join(" or "))
    }
}

/// Returns the quoted text after a marker in a message of ARM.
fn quoted_after<'a>(text: &'a str, marker: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(marker)?;
    rest.split('\'').nth(1).filter(|quoted| !quoted.is_empty())
}

/// Returns ARM's code and message, if the response has any.
fn details(response: &ErrorResponse) -> String {
    let ErrorResponse { code, message, .. } = response;
    if code.is_empty() && message.is_empty() { answer(response) } else { format!("{code}: {message}") }
}

fn answer(ErrorResponse { status, code, message, request_id, .. }: &ErrorResponse) -> String {
    let request = request_id.as_ref().map(|id| format!("request {id}"));
    let parts = [Some(status.to_string()), Some(code.to_string()), Some(message.to_string()), request];
    parts.into_iter().flatten().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ")
}

fn allow_arm(host: &str) -> String {
    format!("{}; check --cloud, and ARCSSH_ARM_ENDPOINT if you set it", allow_https(host))
}
