//! Policy tokens of Azure Policy ("external evaluation").
//!
//! Request and response follow the clients: azure-sdk-for-python `azure-mgmt-core` (`PolicyTokenHeaderPolicy`),
//! terraform-provider-azapi (`internal/clients`), azure-core-management for Java (`ExternalEvaluationPolicyE2ETests`).

use std::sync::Mutex;

use hyper::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::arm::error::{self, ArmError};
use crate::arm::reply::Reply;
use crate::arm::{Arm, json_body, require_method};
use crate::journal::lock;
use crate::server::Call;

/// The header with the token.
const HEADER: &str = "x-ms-policy-external-evaluations";

/// How Azure Policy judges requests other than GET to a resource.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PolicyTokens {
    /// No policy requires a token.
    #[default]
    NotRequired,
    /// A policy requires a token, and the conditions hold.
    Issued,
    /// A policy requires a token, and the conditions do not hold.
    Failed,
    /// A policy requires a token for a change in a change management system.
    ChangeReferenceRequired,
}

/// The policy, and the operations for which it issued tokens.
#[derive(Default)]
pub(crate) struct Policy {
    pub(crate) tokens: Mutex<PolicyTokens>,
    issued: Mutex<Vec<(String, Value)>>,
}

impl Policy {
    /// Rejects a request for a resource without a token of exactly this request.
    pub(crate) fn check(&self, call: &Call) -> Result<(), ArmError> {
        let tokens = *lock(&self.tokens);
        let is_on_resource = call.path.to_ascii_lowercase().contains("/resourcegroups/");
        if tokens == PolicyTokens::NotRequired || call.method == Method::GET || !is_on_resource {
            return Ok(());
        }
        let operation = (call.method.as_str(), call.path.as_str(), content(call));
        let is_valid = |token: &str| {
            lock(&self.issued).iter().any(|(issued, requested)| {
                let uri = requested["uri"].as_str().unwrap_or_default();
                issued == token
                    && requested["httpMethod"] == operation.0
                    && uri.split('?').next().is_some_and(|uri| uri.ends_with(operation.1))
                    && requested["content"] == operation.2
            })
        };
        if call.header(HEADER).is_some_and(is_valid) {
            return Ok(());
        }
        Err(error::missing_policy_token(tokens))
    }
}

fn content(call: &Call) -> Value {
    serde_json::from_slice(&call.body).unwrap_or_default()
}

impl Arm {
    /// `POST /subscriptions/{sub}/providers/Microsoft.Authorization/acquirePolicyToken`.
    pub(crate) fn acquire_policy_token(&self, call: &Call) -> Result<Reply, ArmError> {
        require_method(call, &Method::POST)?;
        let operation = json_body(call)?["operation"].clone();
        if operation["uri"].as_str().is_none() || operation["httpMethod"].as_str().is_none() {
            return Err(error::bad_request("The property 'operation' is invalid."));
        }
        if call.header("x-ms-force-sync") != Some("true") {
            return Err(error::bad_request("The emulator issues policy tokens only synchronously."));
        }
        if *lock(&self.policy.tokens) != PolicyTokens::Issued {
            let results = json!([{ "result": "Failed", "message": "The conditions do not hold." }]);
            return Ok(Reply::ok(&json!({ "result": "Failed", "results": results })));
        }
        let token = format!("PoP {}", Uuid::new_v4().simple());
        self.journal.record_secret(token.as_str());
        lock(&self.policy.issued).push((token.clone(), operation));
        Ok(Reply::ok(&json!({ "result": "Succeeded", "token": token, "tokenId": Uuid::new_v4() })))
    }
}
