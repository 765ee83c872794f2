//! Microsoft.HybridConnectivity: requests relay credentials. `endpoint` contains the resources that this request needs.

pub(crate) mod endpoint;

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use crate::azure::arm::{Arm, ArmError};
use crate::azure::json::{optional_number, parse};
use crate::azure::relay_host::{RelayHost, RelaySuffixes, UntrustedRelay};
use crate::azure::resource_id::ResourceId;
use crate::system::secret::Secret;

/// The version of Microsoft's clients and documents, the first with service configurations.
const API_VERSION: &str = "2023-03-15";

/// The requested lifetime of relay credentials, in seconds: the longest that the API allows.
///
/// Source: azure-rest-api-specs hybridconnectivity 2023-03-15, `expiresin` minimum 600, maximum 10800.
const EXPIRES_IN: &str = "10800";

/// A service of a machine that is reachable through the relay (`serviceName` of the API).
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Service {
    /// OpenSSH on the machine.
    #[value(name = "SSH")]
    Ssh,
    /// Windows Admin Center on the machine.
    #[value(name = "WAC")]
    Wac,
}

impl Service {
    /// Returns the name in the API.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ssh => "SSH",
            Self::Wac => "WAC",
        }
    }

    /// Returns the port of the service if its configuration contains none.
    ///
    /// Source: azure-rest-api-specs hybridconnectivity `ServiceConfigurationsList.json`.
    pub(crate) fn default_port(self) -> u16 {
        match self {
            Self::Ssh => 22,
            Self::Wac => 6516,
        }
    }
}

/// Requests relay credentials: `POST …/endpoints/default/listCredentials` issues a new hybrid connection name, and
/// permission to send to it. Also returns the server's time, in seconds of Unix time.
///
/// # Errors
/// See [`ArmError`].
pub(crate) async fn list_credentials(
    arm: &Arm,
    machine: &ResourceId,
    service: Service,
) -> Result<(RelayCredentials, Option<u64>), ArmError> {
    let mut path = endpoint::path(machine);
    path.push("listCredentials");
    let query = [("expiresin", EXPIRES_IN), ("api-version", API_VERSION)];
    let response = arm.post(&path, &query, &serde_json::json!({ "serviceName": service.name() })).await?;
    let credentials = RelayCredentials::from_json(&response.body, arm.relay_suffixes());
    let credentials = credentials.map_err(|error| match error {
        InvalidCredentials::UntrustedRelay(host) => ArmError::UntrustedRelay(host),
        InvalidCredentials::Malformed(cause) => arm.unexpected(cause),
    })?;
    Ok((credentials, response.date))
}

/// Temporary permission to open one hybrid connection.
///
/// All parts are validated: the host is that of a trusted relay, and no part can change the HTTP request that contains
/// it.
#[derive(Clone, Debug, Serialize)]
#[serde(into = "Unchecked")]
pub(crate) struct RelayCredentials {
    pub(crate) relay: RelayHost,
    /// The path of the hybrid connection, with its slashes. Its parts have no documented meaning.
    pub(crate) hybrid_connection_name: String,
    /// A shared access signature with the Send permission, as received.
    pub(crate) access_key: Secret,
    /// In seconds of Unix time; relay information of other programs may lack it.
    pub(crate) expires_on: Option<u64>,
    /// The token for the machine's agent; absent before api-version 2023-03-15.
    pub(crate) service_configuration_token: Option<Secret>,
}

impl RelayCredentials {
    /// Parses a response of `listCredentials`: `{"relay":{…}}`.
    ///
    /// # Errors
    /// [`InvalidCredentials::UntrustedRelay`], or the JSON is not relay credentials.
    pub(crate) fn from_json(json: &[u8], suffixes: &RelaySuffixes) -> Result<Self, InvalidCredentials> {
        // serde_json's errors can quote the text, which contains secrets.
        let Ok(Envelope { relay }) = parse(json) else {
            return Err("it contains no relay credentials".into());
        };
        relay.check(suffixes)
    }

    /// Parses the relay information of Microsoft's sshProxy (`-r FILE` or `SSHPROXY_RELAY_INFO`): the same JSON in
    /// base64.
    ///
    /// Ignores white space and a byte order mark, which editors may add (azure-cli-extensions `connectivity_utils.py` writes
    /// none).
    ///
    /// # Errors
    /// As for [`Self::from_json`], or the text is not base64.
    pub(crate) fn from_relay_info(text: &str, suffixes: &RelaySuffixes) -> Result<Self, InvalidCredentials> {
        let base64: String = text.trim_start_matches('\u{feff}').split_ascii_whitespace().collect();
        if base64.is_empty() {
            return Err("it is empty".into());
        }
        let json = STANDARD.decode(base64).map_err(|_| "it is not base64")?;
        Self::from_json(&json, suffixes)
    }
}

#[derive(Deserialize)]
struct Envelope {
    relay: Unchecked,
}

/// Relay credentials that are not validated, from Azure, from relay information or from the state directory.
/// `accessKey`, `expiresOn` and `serviceConfigurationToken` are optional in the schema.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Unchecked {
    namespace_name: String,
    namespace_name_suffix: String,
    hybrid_connection_name: String,
    access_key: Option<Secret>,
    // An integer in every recorded response; relay information of other programs may contain text.
    #[serde(default, deserialize_with = "optional_number")]
    expires_on: Option<u64>,
    service_configuration_token: Option<Secret>,
}

impl Unchecked {
    /// Validates all parts.
    ///
    /// # Errors
    /// [`InvalidCredentials::UntrustedRelay`], or a part cannot be in an HTTP request.
    pub(crate) fn check(self, suffixes: &RelaySuffixes) -> Result<RelayCredentials, InvalidCredentials> {
        let access_key = self.access_key.ok_or("the relay credentials have no accessKey")?;
        let token = self.service_configuration_token.filter(|token| !token.secret().is_empty());
        Ok(RelayCredentials {
            relay: suffixes.host(&self.namespace_name, &self.namespace_name_suffix)?,
            hybrid_connection_name: path(self.hybrid_connection_name)?,
            access_key: header_value(access_key, "accessKey")?,
            expires_on: self.expires_on,
            service_configuration_token: token
                .map(|token| header_value(token, "serviceConfigurationToken"))
                .transpose()?,
        })
    }
}

impl From<RelayCredentials> for Unchecked {
    fn from(credentials: RelayCredentials) -> Self {
        let (name, suffix) = credentials.relay.parts();
        Self {
            namespace_name: name.to_owned(),
            namespace_name_suffix: suffix.to_owned(),
            access_key: Some(credentials.access_key),
            service_configuration_token: credentials.service_configuration_token,
            hybrid_connection_name: credentials.hybrid_connection_name,
            expires_on: credentials.expires_on,
        }
    }
}

fn path(text: String) -> Result<String, &'static str> {
    let allowed = |c: char| c.is_ascii_graphic() && !"?#".contains(c);
    if text.is_empty() || !text.chars().all(allowed) {
        return Err("the hybridConnectionName of the relay credentials is not a path");
    }
    Ok(text)
}

fn header_value(secret: Secret, field: &str) -> Result<Secret, String> {
    let allowed = |c: char| c.is_ascii_graphic() || c == ' ';
    if !secret.secret().chars().all(allowed) {
        return Err(format!("the {field} of the relay credentials cannot be an HTTP header"));
    }
    Ok(secret)
}

/// Why a text is not relay credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum InvalidCredentials {
    /// They name a host outside of the trusted domains.
    UntrustedRelay(String),
    /// They are malformed. The error names the problem.
    Malformed(String),
}

impl From<UntrustedRelay> for InvalidCredentials {
    fn from(UntrustedRelay { host }: UntrustedRelay) -> Self {
        Self::UntrustedRelay(host)
    }
}

impl From<&str> for InvalidCredentials {
    fn from(cause: &str) -> Self {
        Self::Malformed(cause.to_owned())
    }
}

impl From<String> for InvalidCredentials {
    fn from(cause: String) -> Self {
        Self::Malformed(cause)
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::azure::cloud::CloudName;

    /// The recorded response of azure-powershell `TestGetArcConfig.json`, with a shortened signature.
    const RECORDED: &str = r#"{"relay":{
        "namespaceName":"azgnrelay-eastus-l1","namespaceNameSuffix":"servicebus.windows.net",
        "hybridConnectionName":"microsoft.hybridcompute/machines/3cf2188f2bdab27b/1664908286977728256",
        "accessKey":"SharedAccessSignature sr=http%3A%2F%2Fazgnrelay&sig=PeFR%3D&se=1664912486&skn=sender20221003",
        "expiresOn":1664911886}}"#;

    fn suffixes() -> RelaySuffixes {
        RelaySuffixes::new(&[CloudName::Public.relay_suffix()], None)
    }

    fn parse(json: &str) -> Result<RelayCredentials, InvalidCredentials> {
        RelayCredentials::from_json(json.as_bytes(), &suffixes())
    }

    #[test]
    fn a_recorded_response_is_parsed() {
        let credentials = parse(RECORDED).unwrap();
        assert_eq!(credentials.relay.to_string(), "azgnrelay-eastus-l1.servicebus.windows.net");
        assert_eq!(credentials.expires_on, Some(1664911886));
        assert!(credentials.access_key.secret().ends_with("skn=sender20221003"));
        assert!(credentials.service_configuration_token.is_none());
    }

    #[test]
    fn relay_info_may_contain_white_space_and_numbers_as_text() {
        let json =
            RECORDED.replace("1664911886}}", "\"1664911886\",\"serviceConfigurationToken\":\"eyJ0.x.y\"}}");
        let mut text = STANDARD.encode(json);
        text.insert_str(40, "\r\n");
        let credentials = RelayCredentials::from_relay_info(&format!(" {text}\n"), &suffixes()).unwrap();
        assert_eq!(credentials.expires_on, Some(1664911886));
        assert_eq!(credentials.service_configuration_token.unwrap().secret(), "eyJ0.x.y");
    }

    #[test]
    fn credentials_print_no_secret() {
        let printed = format!("{:?}", parse(RECORDED).unwrap());
        assert!(!printed.contains("sig="), "{printed}");
    }

    #[test]
    fn credentials_round_trip() {
        let credentials = parse(RECORDED).unwrap();
        let json = serde_json::to_string(&credentials).unwrap();
        let unchecked: Unchecked = serde_json::from_str(&json).unwrap();
        let read = unchecked.check(&suffixes()).unwrap();
        assert_eq!(read.access_key.secret(), credentials.access_key.secret());
        assert_eq!(serde_json::to_string(&read).unwrap(), json);
    }

    #[test]
    fn errors_do_not_quote_the_response() {
        for invalid in ["", "{}", "not json", &RECORDED[..RECORDED.len() - 5]] {
            let error = parse(invalid).unwrap_err();
            assert_eq!(error, "it contains no relay credentials".into());
        }
        let error = RelayCredentials::from_relay_info("%%%", &suffixes()).unwrap_err();
        assert_eq!(error, "it is not base64".into());
    }

    #[test]
    fn a_response_cannot_add_a_header_to_the_request() {
        for (field, from, to) in [
            ("hybridConnectionName", "3cf2188f2bdab27b", "a b\\r\\nX: y"),
            ("hybridConnectionName", "3cf2188f2bdab27b", "a?sb-hc-action=listen"),
            ("accessKey", "sig=PeFR", "sig=\\r\\nX-Injected: 1"),
        ] {
            let error = parse(&RECORDED.replace(from, to)).unwrap_err();
            assert!(
                matches!(&error, InvalidCredentials::Malformed(cause) if cause.contains(field)),
                "{error:?}"
            );
        }
    }

    #[test]
    fn credentials_for_a_host_that_is_no_relay_are_rejected() {
        for (from, to) in [
            ("azgnrelay-eastus-l1\"", "localhost:x\""),
            ("azgnrelay-eastus-l1\"", "evil.example/x\""),
            ("\"servicebus.windows.net", "\"x@evil"),
            ("\"servicebus.windows.net", "\"servicebus.windows.net.evil.example"),
            ("\"servicebus.windows.net", "\"servicebus.chinacloudapi.cn"),
        ] {
            let error = parse(&RECORDED.replace(from, to)).unwrap_err();
            assert!(matches!(error, InvalidCredentials::UntrustedRelay(_)), "{to}: {error:?}");
        }
    }
}
