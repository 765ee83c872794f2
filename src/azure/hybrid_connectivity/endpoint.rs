//! The endpoint of a machine, and the port of each of its services: read, create, change, delete.

use std::num::TryFromIntError;

use serde::Deserialize;
use serde_json::json;

use crate::azure::arm::{Arm, ArmError};
use crate::azure::hybrid_connectivity::{API_VERSION, Service};
use crate::azure::json::optional_number;
use crate::azure::resource_id::ResourceId;

/// The result of reading a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lookup<T> {
    Found(T),
    NotFound,
    /// The account cannot read it. The login roles do not allow it (azure-docs `built-in-roles/compute.md`).
    Forbidden,
}

impl<T> Lookup<T> {
    fn of(result: Result<T, ArmError>) -> Result<Self, ArmError> {
        match result {
            Ok(value) => Ok(Self::Found(value)),
            Err(ArmError::Rejected(response)) if response.is_forbidden() => Ok(Self::Forbidden),
            Err(error) if is_missing(&error) => Ok(Self::NotFound),
            Err(error) => Err(error),
        }
    }
}

/// Returns whether the provider did not find the endpoint or a resource in it. ARM itself responds with 404 for a machine
/// that does not exist (recorded: azure-powershell `TestGetArcConfig.json`).
pub(crate) fn is_missing(error: &ArmError) -> bool {
    let ArmError::Rejected(response) = error else { return false };
    response.status == 404 && response.message.to_lowercase().contains("/endpoints/default")
}

/// Returns whether Azure did not find a resource, whichever it is.
pub(crate) fn is_not_found(error: &ArmError) -> bool {
    matches!(error, ArmError::Rejected(response) if response.status == 404)
}

pub(super) fn path(machine: &ResourceId) -> Vec<&str> {
    let mut path = machine.segments().to_vec();
    path.extend(["providers", "Microsoft.HybridConnectivity", "endpoints", "default"]);
    path
}

fn configuration_path(machine: &ResourceId, service: Service) -> Vec<&str> {
    let mut path = path(machine);
    path.extend(["serviceConfigurations", service.name()]);
    path
}

const QUERY: [(&str, &str); 1] = [("api-version", API_VERSION)];

/// Reads the endpoint.
pub(crate) async fn endpoint(arm: &Arm, machine: &ResourceId) -> Result<Lookup<()>, ArmError> {
    Lookup::of(arm.read(&path(machine), &QUERY).await.map(drop))
}

/// Creates the endpoint. For an existing one, this can disconnect the machine's agent from the relay (aztunnel
/// `internal/arc/arc.go`).
pub(crate) async fn create_endpoint(arm: &Arm, machine: &ResourceId) -> Result<(), ArmError> {
    let body = json!({ "properties": { "type": "default" } });
    arm.put(&path(machine), &QUERY, &body).await.map(drop)
}

/// Deletes the endpoint, with its service configurations.
pub(crate) async fn delete_endpoint(arm: &Arm, machine: &ResourceId) -> Result<(), ArmError> {
    arm.delete(&path(machine), &QUERY).await
}

/// Reads the enabled port of a service. The endpoint must exist, because a 404 counts as a missing configuration: no
/// source shows the message of that error.
pub(crate) async fn port(arm: &Arm, machine: &ResourceId, service: Service) -> Result<Lookup<u16>, ArmError> {
    match arm.get::<Configuration>(&configuration_path(machine, service), &QUERY).await {
        Err(error) if is_not_found(&error) => Ok(Lookup::NotFound),
        configuration => Lookup::of(configuration.and_then(|configuration| {
            configuration.port(service).map_err(|error| arm.unexpected(error.to_string()))
        })),
    }
}

/// Sets the one enabled port of a service, for all users. It is an integer in the specification; documents once showed
/// a string.
pub(crate) async fn set_port(
    arm: &Arm,
    machine: &ResourceId,
    service: Service,
    port: u16,
) -> Result<(), ArmError> {
    let body = json!({ "properties": { "serviceName": service.name(), "port": port } });
    arm.put(&configuration_path(machine, service), &QUERY, &body).await.map(drop)
}

/// Deletes the configuration of a service, and so disables it.
pub(crate) async fn delete_port(arm: &Arm, machine: &ResourceId, service: Service) -> Result<(), ArmError> {
    arm.delete(&configuration_path(machine, service), &QUERY).await
}

/// A service configuration (azure-rest-api-specs `ServiceConfigurationsPutSSH.json`). Its port is an int64 that may be
/// absent.
#[derive(Deserialize)]
struct Configuration {
    properties: Properties,
}

#[derive(Deserialize)]
struct Properties {
    #[serde(default, deserialize_with = "optional_number")]
    port: Option<u64>,
}

impl Configuration {
    fn port(&self, service: Service) -> Result<u16, TryFromIntError> {
        self.properties.port.map_or(Ok(service.default_port()), u16::try_from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_a_number_or_text_or_the_services_default() {
        let port = |json: &str| serde_json::from_str::<Configuration>(json).unwrap().port(Service::Ssh);
        let json = r#"{"properties":{"port":22,"provisioningState":"Succeeded","serviceName":"SSH"}}"#;
        for (form, expected) in [("22", 22), ("\"2222\"", 2222), ("2222.0", 2222), ("null", 22)] {
            assert_eq!(port(&json.replace("22", form)).unwrap(), expected, "{form}");
        }
        assert_eq!(port(&json.replace("port", "ports")).unwrap(), 22);
        assert!(port(&json.replace("22", "70000")).is_err());
    }
}
