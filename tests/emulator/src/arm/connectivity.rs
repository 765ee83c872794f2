//! Microsoft.HybridConnectivity: endpoints, service configurations and listCredentials.
//!
//! Bodies follow azure-rest-api-specs hybridconnectivity 2023-03-15 and azure-powershell's recorded sessions.

use std::time::{Duration, Instant};

use hyper::Method;
use serde_json::{Value, json};

use crate::arm::error::ArmError;
use crate::arm::path::{MachinePath, Target};
use crate::arm::reply::Reply;
use crate::arm::{Arm, CONNECTIVITY_VERSIONS, HYBRID_CONNECTIVITY, error, json_body, require_method};
use crate::journal::lock;
use crate::machine::{IssuedCredentials, MachineState, Notice};
use crate::relay::{ConnectionState, Validity, sas};
use crate::server::Call;

/// `expiresin`: seconds (azure-rest-api-specs hybridconnectivity.json).
const MIN_LIFETIME: u64 = 600;
const MAX_LIFETIME: u64 = 10_800;

/// Seconds from `expiresOn` to the expiry of the access key (recorded: `se` − `expiresOn`).
const ACCESS_KEY_GRACE: u64 = 600;

/// The version without `serviceName` and service configuration tokens.
const BEFORE_SERVICES: &str = "2021-10-06-preview";

impl Arm {
    /// Answers all calls below `…/providers/Microsoft.HybridConnectivity/endpoints`.
    pub(crate) fn connectivity(
        &self,
        call: &Call,
        target: &Target,
        version: &str,
    ) -> Result<Reply, ArmError> {
        if lock(&self.registration).current() != "Registered" {
            return Err(error::missing_registration(HYBRID_CONNECTIVITY));
        }
        let path = match target {
            Target::Endpoints(path) | Target::Endpoint(path) | Target::ListCredentials(path) => path,
            Target::ServiceConfigurations(path) | Target::ServiceConfiguration(path, _) => path,
            _ => return Err(error::invalid_path(&call.path)),
        };
        let machine = self.machine(path)?;
        check_version(version, &machine)?;
        let answer = self.provide(call, target, path, &machine, version);
        // Answers of the resource provider have this header, answers of ARM itself do not (recorded).
        Ok(answer.unwrap_or_else(ArmError::reply).header("x-ms-providerhub-traffic", "True"))
    }

    fn provide(
        &self,
        call: &Call,
        target: &Target,
        path: &MachinePath,
        machine: &MachineState,
        version: &str,
    ) -> Result<Reply, ArmError> {
        match target {
            Target::ListCredentials(_) => self.list_credentials(call, machine, version),
            Target::Endpoints(_) => endpoint_list(call, path, machine),
            Target::Endpoint(_) => self.endpoint(call, path, machine),
            Target::ServiceConfiguration(_, service) => service_configuration(call, path, machine, service),
            _ => service_configuration_list(call, path, machine),
        }
    }

    fn endpoint(&self, call: &Call, path: &MachinePath, machine: &MachineState) -> Result<Reply, ArmError> {
        match call.method {
            Method::PUT | Method::PATCH => {
                let body = json_body(call)?;
                if !matches!(body["properties"]["type"].as_str(), Some("default")) {
                    return Err(error::bad_request(
                        "The property 'type' of a default endpoint must be 'default'.",
                    ));
                }
                if std::mem::replace(&mut *machine.endpoint(), true) {
                    self.disturb_listener(machine);
                }
                Ok(Reply::ok(&endpoint(path)))
            }
            Method::GET if *machine.endpoint() => Ok(Reply::ok(&endpoint(path))),
            Method::GET => Err(error::endpoint_not_found(&machine.facts)),
            Method::DELETE => {
                let existed = *machine.endpoint();
                self.remove_endpoint(machine);
                Ok(Reply::empty(if existed { 200 } else { 204 }))
            }
            _ => Err(error::method_not_allowed()),
        }
    }

    /// A PUT on an existing endpoint "may disrupt the Arc agent's relay listener, causing subsequent connections to
    /// fail with 404 'Endpoint does not exist' until the listener recovers" (aztunnel `internal/arc/arc.go`).
    fn disturb_listener(&self, machine: &MachineState) {
        for issued in machine.issued_credentials() {
            self.relay.delete(&issued.hybrid_connection_name, ConnectionState::ListenersDropped);
        }
    }

    /// Deletes the endpoint, its service configurations and its hybrid connections.
    pub(crate) fn remove_endpoint(&self, machine: &MachineState) {
        *machine.endpoint() = false;
        machine.service_configurations.send_modify(|all| all.clear());
        for issued in machine.issued_credentials() {
            self.relay.delete(&issued.hybrid_connection_name, ConnectionState::Deleted);
        }
    }

    fn list_credentials(
        &self,
        call: &Call,
        machine: &MachineState,
        version: &str,
    ) -> Result<Reply, ArmError> {
        require_method(call, &Method::POST)?;
        let lifetime = requested_lifetime(call)?;
        let body = if call.body.is_empty() { Value::Null } else { json_body(call)? };
        require_endpoint(machine)?;
        let service = body["serviceName"].as_str().filter(|_| version != BEFORE_SERVICES);
        let service = match service {
            Some(name) => {
                Some((name, machine.port(name).ok_or_else(|| error::no_service_configuration(name))?))
            }
            None => None,
        };
        let issued = self.issue_credentials(machine, lifetime, service);
        Ok(Reply::ok(&credentials(self, &issued)))
    }

    /// Creates a hybrid connection with its credentials. Recorded names end in the time of the request in nanoseconds; newer
    /// ones have `/v2` after it (Azure/azure-cli issue 29006). Recorded names begin with the type of Arc-enabled servers. For
    /// machines of other types, a name that begins with their type is an assumption.
    fn issue_credentials(
        &self,
        machine: &MachineState,
        lifetime: u64,
        service: Option<(&str, u16)>,
    ) -> IssuedCredentials {
        let (now, time) = (self.clock.unix_seconds(), self.clock.unix_nanoseconds());
        let resource_type = machine.facts.resource_type.to_ascii_lowercase();
        let name = format!("{resource_type}/{}/{time}/v2", machine.fingerprint());
        let expires_on =
            now + self.credential_lifetime.map_or(lifetime, |limit| lifetime.min(limit.as_secs()));
        let (resource, relay) = (self.relay.resource(&name), &self.relay);
        let token_expiry = expires_on + ACCESS_KEY_GRACE;
        let issued = IssuedCredentials {
            relay_authority: relay.namespace.authority(),
            access_key: relay.sender_key.token(&resource, token_expiry),
            service_configuration_token: service
                .map(|service| self.service_token(machine, service, expires_on)),
            listener_key_name: relay.listener_key.name.clone(),
            listener_key: relay.listener_key.key.clone(),
            listen_token: relay.listener_key.token(&resource, token_expiry),
            hybrid_connection_name: name,
            expires_on,
        };
        self.record_secrets(&issued);
        self.publish(machine, issued.clone());
        issued
    }

    /// Signs the service configuration token. It is a JWT (aztunnel `internal/arc/arc.go`). Its claims in Azure are not
    /// known; these are the ones that the emulated agent checks.
    fn service_token(&self, machine: &MachineState, (service, port): (&str, u16), expires: u64) -> String {
        self.service_token_key.sign(&json!({
            "iss": "microsoft.hybridconnectivity", "iat": self.clock.unix_seconds(), "exp": expires,
            "machine": machine.resource_id().to_ascii_lowercase(), "service": service, "port": port,
        }))
    }

    fn record_secrets(&self, issued: &IssuedCredentials) {
        self.journal.record_secret(issued.access_key.as_str());
        for token in [&issued.access_key, &issued.listen_token] {
            sas::signature_encodings(token).into_iter().flatten().for_each(|s| self.journal.record_secret(s));
        }
        self.journal.record_secret(issued.service_configuration_token.as_deref().unwrap_or_default());
        self.journal.record_secret(issued.listener_key.as_str());
    }

    /// Publishes the hybrid connection to the relay and to the agent, after the configured delays.
    fn publish(&self, machine: &MachineState, issued: IssuedCredentials) {
        let from = Instant::now() + self.endpoint_delay;
        let left = Duration::from_secs(issued.expires_on.saturating_sub(self.clock.unix_seconds()));
        let until = self.strict_expiry.then(|| Instant::now() + left);
        self.relay.create(&issued.hybrid_connection_name, Validity { from, until });
        machine.announce(Notice { issued, listen_from: from + self.listener_delay });
    }
}

fn check_version(version: &str, machine: &MachineState) -> Result<(), ArmError> {
    if CONNECTIVITY_VERSIONS.iter().any(|known| known.eq_ignore_ascii_case(version)) {
        return Ok(());
    }
    let (location, kind) = (&machine.facts.location, "endpoints");
    Err(error::no_registered_provider(location, version, kind, &CONNECTIVITY_VERSIONS))
}

/// Returns `expiresin`. No source has the error for a value outside the documented range; 400 is an assumption.
fn requested_lifetime(call: &Call) -> Result<u64, ArmError> {
    let Some(text) = call.query.value("expiresin") else { return Ok(MAX_LIFETIME) };
    let lifetime = text.parse().ok().filter(|lifetime| (MIN_LIFETIME..=MAX_LIFETIME).contains(lifetime));
    let range = format!("The parameter 'expiresin' must be between {MIN_LIFETIME} and {MAX_LIFETIME}.");
    lifetime.ok_or_else(|| error::bad_request(range))
}

fn credentials(arm: &Arm, issued: &IssuedCredentials) -> Value {
    let mut relay = json!({
        "namespaceName": arm.relay.namespace.name,
        "namespaceNameSuffix": arm.relay.namespace.suffix,
        "hybridConnectionName": issued.hybrid_connection_name,
        "accessKey": issued.access_key,
        "expiresOn": issued.expires_on,
    });
    if let Some(token) = &issued.service_configuration_token {
        relay["serviceConfigurationToken"] = token.as_str().into();
    }
    json!({ "relay": relay })
}

fn require_endpoint(machine: &MachineState) -> Result<(), ArmError> {
    if *machine.endpoint() { Ok(()) } else { Err(error::endpoint_not_found(&machine.facts)) }
}

fn endpoint(path: &MachinePath) -> Value {
    json!({
        "id": format!("{}/providers/{HYBRID_CONNECTIVITY}/endpoints/default", path.id()),
        "name": "default",
        "type": "microsoft.hybridconnectivity/endpoints",
        "properties": { "type": "default", "provisioningState": "Succeeded" },
    })
}

fn endpoint_list(call: &Call, path: &MachinePath, machine: &MachineState) -> Result<Reply, ArmError> {
    require_method(call, &Method::GET)?;
    let all: Vec<Value> = machine.endpoint().then(|| endpoint(path)).into_iter().collect();
    Ok(Reply::ok(&json!({ "value": all })))
}

fn service_configuration(
    call: &Call,
    path: &MachinePath,
    machine: &MachineState,
    service: &str,
) -> Result<Reply, ArmError> {
    require_endpoint(machine)?;
    let current = machine.port(service);
    let missing = || error::service_configuration_not_found(&machine.facts, service);
    match call.method {
        Method::GET => Ok(Reply::ok(&configuration(path, service, current.ok_or_else(missing)?))),
        Method::PUT | Method::PATCH => {
            if call.method == Method::PATCH {
                current.ok_or_else(missing)?;
            }
            let port = requested_port(call, service)?;
            machine.set_port(service, port);
            let status = if current.is_some() { 200 } else { 201 };
            Ok(Reply::json(status, &configuration(path, service, port)))
        }
        Method::DELETE => {
            machine.remove_port(service);
            Ok(Reply::empty(if current.is_some() { 200 } else { 204 }))
        }
        _ => Err(error::method_not_allowed()),
    }
}

/// Returns the port of a PUT or PATCH. The specification has an integer. A string, which older documentation shows, is
/// rejected, so that clients follow the specification.
fn requested_port(call: &Call, service: &str) -> Result<u16, ArmError> {
    let body = json_body(call)?;
    let properties = &body["properties"];
    if properties["serviceName"].as_str().is_some_and(|name| !name.eq_ignore_ascii_case(service)) {
        return Err(error::bad_request("The property 'serviceName' does not match the resource name."));
    }
    let port =
        properties["port"].as_u64().and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0);
    port.ok_or_else(|| error::bad_request("The property 'port' must be an integer between 1 and 65535."))
}

fn configuration(path: &MachinePath, service: &str, port: u16) -> Value {
    let endpoint = format!("{}/providers/{HYBRID_CONNECTIVITY}/endpoints/default", path.id());
    json!({
        "id": format!("{endpoint}/serviceconfigurations/{service}"),
        "name": service,
        "type": "Microsoft.HybridConnectivity/endpoints/serviceConfigurations",
        "properties": { "port": port, "provisioningState": "Succeeded", "serviceName": service },
    })
}

fn service_configuration_list(
    call: &Call,
    path: &MachinePath,
    machine: &MachineState,
) -> Result<Reply, ArmError> {
    require_method(call, &Method::GET)?;
    require_endpoint(machine)?;
    let all = machine.service_configurations.borrow();
    let all: Vec<Value> = all.iter().map(|(service, port)| configuration(path, service, *port)).collect();
    Ok(Reply::ok(&json!({ "value": all })))
}
