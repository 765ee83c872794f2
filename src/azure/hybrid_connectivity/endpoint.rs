//! The endpoint of a machine and the port that a service may be reached at: looked at, made, changed, deleted. When
//! that is to be done is decided elsewhere.

use std::fmt;

use serde::{Deserialize, Deserializer};
use serde_json::json;

use crate::azure::arm::{Arm, ArmError};
use crate::azure::hybrid_connectivity::{API_VERSION, Service};
use crate::azure::resource_id::ResourceId;

/// What a look at something in Azure shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen<T> {
    /// It is there.
    There(T),
    /// It is not.
    Missing,
    /// The identity may not look. None of the login roles may (azure-docs `built-in-roles/compute.md`).
    Hidden,
}

impl<T> Seen<T> {
    fn of(result: Result<T, ArmError>) -> Result<Self, ArmError> {
        match result {
            Ok(value) => Ok(Self::There(value)),
            Err(ArmError::Refused(refusal)) if refusal.is_forbidden() => Ok(Self::Hidden),
            Err(error) if is_missing(&error) => Ok(Self::Missing),
            Err(error) => Err(error),
        }
    }
}

/// Whether the provider says that the endpoint, or what stands below it, is not there; 404 is also what ARM itself says
/// of a machine that does not exist (recorded: azure-powershell `TestGetArcConfig.json`).
pub(crate) fn is_missing(error: &ArmError) -> bool {
    let ArmError::Refused(refusal) = error else { return false };
    refusal.status == 404 && refusal.message.to_lowercase().contains("/endpoints/default")
}

fn path(machine: &ResourceId) -> Vec<&str> {
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

/// Looks at the endpoint.
pub(crate) async fn endpoint(arm: &Arm, machine: &ResourceId) -> Result<Seen<()>, ArmError> {
    Seen::of(arm.read(&path(machine), &QUERY).await.map(drop))
}

/// Makes the endpoint. Done to one that is there, it can throw the machine's agent off the relay (aztunnel
/// `internal/arc/arc.go`).
pub(crate) async fn create_endpoint(arm: &Arm, machine: &ResourceId) -> Result<(), ArmError> {
    let body = json!({ "properties": { "type": "default" } });
    arm.put(&path(machine), &QUERY, &body).await.map(drop)
}

/// Deletes the endpoint, and with it all that depends on it.
pub(crate) async fn delete_endpoint(arm: &Arm, machine: &ResourceId) -> Result<(), ArmError> {
    arm.delete(&path(machine), &QUERY).await
}

/// Looks at the port that a service may be reached at.
pub(crate) async fn port(arm: &Arm, machine: &ResourceId, service: Service) -> Result<Seen<u16>, ArmError> {
    let configuration = arm.get(&configuration_path(machine, service), &QUERY).await;
    Seen::of(configuration.map(|Configuration { properties }| properties.port))
}

/// Sets the one port that a service may be reached at, for everybody; the port that is set now. The specification has an
/// integer, which the documents once showed as text.
pub(crate) async fn set_port(
    arm: &Arm,
    machine: &ResourceId,
    service: Service,
    port: u16,
) -> Result<u16, ArmError> {
    let body = json!({ "properties": { "serviceName": service.name(), "port": port } });
    let answer = arm.put(&configuration_path(machine, service), &QUERY, &body).await?;
    Ok(answer.json::<Configuration>()?.properties.port)
}

/// Deletes the configuration of a service: it cannot be reached any more.
pub(crate) async fn delete_port(arm: &Arm, machine: &ResourceId, service: Service) -> Result<(), ArmError> {
    arm.delete(&configuration_path(machine, service), &QUERY).await
}

/// A service configuration (azure-rest-api-specs `ServiceConfigurationsPutSSH.json`).
#[derive(Deserialize)]
struct Configuration {
    properties: Properties,
}

#[derive(Deserialize)]
struct Properties {
    #[serde(deserialize_with = "number_or_text")]
    port: u16,
}

/// An int64 of the specification; what was written as text is read too.
fn number_or_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u16, D::Error> {
    struct Port;
    impl serde::de::Visitor<'_> for Port {
        type Value = u16;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a port")
        }

        fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<u16, E> {
            u16::try_from(number).map_err(E::custom)
        }

        fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<u16, E> {
            text.parse().map_err(E::custom)
        }
    }
    deserializer.deserialize_any(Port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_read_as_a_number_and_as_text() {
        let port = |json: &str| serde_json::from_str::<Configuration>(json).map(|c| c.properties.port);
        let shown = r#"{"properties":{"port":22,"provisioningState":"Succeeded","serviceName":"SSH"}}"#;
        assert_eq!(port(shown).unwrap(), 22);
        assert_eq!(port(&shown.replace("22", "\"2222\"")).unwrap(), 2222);
        for broken in ["\"ssh\"", "70000", "-1", "null"] {
            assert!(port(&shown.replace("22", broken)).is_err(), "{broken}");
        }
    }
}
