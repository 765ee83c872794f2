//! Microsoft.HybridConnectivity in a subscription: whether it is registered, and registering it.

use std::time::Duration;

use serde::Deserialize;
use serde_json::json;

use crate::azure::arm::{Answer, Arm, ArmError};

/// The provider's namespace.
pub(crate) const NAMESPACE: &str = "Microsoft.HybridConnectivity";

/// The version that Azure CLI uses (azure-mgmt-resource, `providers`).
const QUERY: [(&str, &str); 1] = [("api-version", "2021-04-01")];

/// How far the provider is in a subscription.
#[derive(Clone, Debug)]
pub(crate) struct Registration {
    /// `NotRegistered`, `Registering`, `Registered`, …: an open set.
    pub(crate) state: String,
    /// When to look again, if ARM says so.
    pub(crate) retry_after: Option<Duration>,
    /// When ARM answered, by its own clock in seconds of Unix time.
    pub(crate) date: Option<u64>,
}

impl Registration {
    /// Whether the provider can be used.
    pub(crate) fn is_done(&self) -> bool {
        self.state.eq_ignore_ascii_case("Registered")
    }

    fn of(answer: &Answer) -> Result<Self, ArmError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Provider {
            registration_state: String,
        }
        let Provider { registration_state } = answer.json()?;
        Ok(Self { state: registration_state, retry_after: answer.retry_after, date: answer.date })
    }
}

/// Looks at the provider.
pub(crate) async fn registration(arm: &Arm, subscription: &str) -> Result<Registration, ArmError> {
    let path = ["subscriptions", subscription, "providers", NAMESPACE];
    Registration::of(&arm.read(&path, &QUERY).await?)
}

/// Begins to register the provider, which takes 2 to 5 minutes (azure-docs `ssh-arc-overview.md`).
pub(crate) async fn register(arm: &Arm, subscription: &str) -> Result<Registration, ArmError> {
    let path = ["subscriptions", subscription, "providers", NAMESPACE, "register"];
    let answer = arm.post(&path, &QUERY, &json!({})).await?;
    // It has begun, whether the answer shows it or not.
    let begun =
        || Registration { state: "Registering".into(), retry_after: answer.retry_after, date: answer.date };
    Ok(Registration::of(&answer).unwrap_or_else(|_| begun()))
}
