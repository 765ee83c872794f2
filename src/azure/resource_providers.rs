//! The registration of the resource provider Microsoft.HybridConnectivity in a subscription.

use std::time::Duration;

use serde::Deserialize;
use serde_json::json;

use crate::azure::arm::{Arm, ArmError, ArmResponse};

/// The provider's namespace.
pub(crate) const NAMESPACE: &str = "Microsoft.HybridConnectivity";

/// The version that Azure CLI uses (azure-mgmt-resource, `providers`).
const QUERY: [(&str, &str); 1] = [("api-version", "2021-04-01")];

/// The registration of the provider in a subscription.
#[derive(Clone, Debug)]
pub(crate) struct Registration {
    /// `NotRegistered`, `Registering`, `Registered`, …: an open set.
    pub(crate) state: String,
    pub(crate) retry_after: Option<Duration>,
    /// ARM's time of the response, in seconds of Unix time.
    pub(crate) date: Option<u64>,
}

impl Registration {
    /// Returns whether the provider is registered.
    pub(crate) fn is_done(&self) -> bool {
        self.state.eq_ignore_ascii_case("Registered")
    }

    fn of(response: &ArmResponse) -> Result<Self, ArmError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Provider {
            registration_state: String,
        }
        let Provider { registration_state } = response.json()?;
        Ok(Self { state: registration_state, retry_after: response.retry_after, date: response.date })
    }
}

/// Returns the registration.
pub(crate) async fn registration(arm: &Arm, subscription: &str) -> Result<Registration, ArmError> {
    let path = ["subscriptions", subscription, "providers", NAMESPACE];
    Registration::of(&arm.read(&path, &QUERY).await?)
}

/// Starts the registration, which takes 2 to 5 minutes (azure-docs `ssh-arc-overview.md`).
pub(crate) async fn register(arm: &Arm, subscription: &str) -> Result<Registration, ArmError> {
    let path = ["subscriptions", subscription, "providers", NAMESPACE, "register"];
    let response = arm.post(&path, &QUERY, &json!({})).await?;
    // A 2xx status means that the registration has started, whatever the body contains.
    Ok(Registration::of(&response).unwrap_or_else(|_| Registration {
        state: "Registering".into(),
        retry_after: response.retry_after,
        date: response.date,
    }))
}
