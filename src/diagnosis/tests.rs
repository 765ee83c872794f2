//! Every failure that Azure's documents and the field know of has its sentence and its next thing to type.

use super::*;
use anyhow::anyhow;

use crate::azure::cloud::{Cloud, CloudName, Endpoints};
use crate::azure::credentials::{CredentialError, CredentialSource};
use crate::azure::entra::EntraError;
use crate::relay::frame::{PeerClose, Violation};

const ID: &str = "/subscriptions/s/resourceGroups/rg/providers/Microsoft.HybridCompute/machines/web01";

const RELAY: &str = "azgn.servicebus.windows.net";

fn target() -> Target {
    let machine = Some(ID.parse().unwrap());
    Target { machine, name: "web01".into(), port: 22, service: Service::Ssh }
}

fn arm(status: u16, code: &str, message: &str) -> Error {
    let (code, message) = (code.into(), message.into());
    let tenant = (code == "InvalidAuthenticationTokenTenant").then(|| "contoso".into());
    let host = "management.azure.com".into();
    let refusal = ErrorResponse { host, status, code, message, retry_after: None, request_id: None, tenant };
    ArmError::Rejected(refusal).into()
}

fn forbidden(action: &str) -> Error {
    let scope = match action.ends_with("register/action") {
        true => "/subscriptions/s".into(),
        false => format!("{ID}/providers/Microsoft.HybridConnectivity/endpoints/default"),
    };
    let message = format!(
        "The client 'ada' with object id 'oid' does not have authorization to perform action '{action}' over scope '{scope}' or the scope is invalid. If access was recently granted, please refresh your credentials."
    );
    arm(403, "AuthorizationFailed", &message)
}

fn relay(status: u16, reason: &str) -> Error {
    ConnectError::refused(RELAY, status, reason).into()
}

fn closed(code: u16) -> Error {
    BridgeError::Closed(PeerClose::parse(&code.to_be_bytes())).into()
}

/// Asserts for each row that the sentence and the hint hold these parts.
#[track_caller]
fn told(rows: &[(Error, u8, &str, &str)]) {
    for (error, status, why, hint) in rows {
        let told = explain(error, Some(&target()));
        let found = told.hint.clone().map(|hint| hint.text).unwrap_or_default();
        assert!(told.why.contains(why) && found.contains(hint), "{error:#}\n{}\n{found}", told.why);
        assert_eq!(told.status, *status, "{error:#}");
        assert!(!found.is_empty() && sanitize(&told.why) == told.why, "{error:#}");
    }
}

/// The errors of ARM and Microsoft.HybridConnectivity, by status and code.
#[test]
fn each_refusal_of_azure_resource_manager_has_its_words() {
    let endpoint = "The resource 'Microsoft.HybridCompute/machines/web01/providers/Microsoft.HybridConnectivity/endpoints/default' could not be found.";
    let machine =
        "The Resource 'Microsoft.HybridCompute/machines/web01' under resource group 'rg' was not found.";
    let setup = format!("arcssh setup {ID}");
    told(&[
        (
            arm(401, "InvalidAuthenticationToken", ""),
            EXIT_AUTH,
            "does not accept this sign-in",
            "arcssh login",
        ),
        (
            arm(401, "ExpiredAuthenticationToken", ""),
            EXIT_AUTH,
            "does not accept this sign-in",
            "arcssh login",
        ),
        (
            arm(401, "InvalidAuthenticationTokenTenant", ""),
            EXIT_AUTH,
            "sign-in",
            "arcssh login --tenant contoso",
        ),
        (
            arm(404, "SubscriptionNotFound", ""),
            EXIT_NOT_CONFIGURED,
            "sees no such subscription",
            "arcssh account",
        ),
        (
            arm(404, "ResourceGroupNotFound", ""),
            EXIT_NOT_CONFIGURED,
            "there is no such machine",
            "shows the IDs of those that there are",
        ),
        (
            arm(404, "ResourceNotFound", machine),
            EXIT_NOT_CONFIGURED,
            "there is no such machine",
            "shows the IDs of those that there are",
        ),
        (arm(404, "ResourceNotFound", endpoint), EXIT_NOT_CONFIGURED, "no connectivity endpoint yet", &setup),
        (arm(412, "", ""), EXIT_NOT_CONFIGURED, "the service is not enabled", &setup),
        (
            arm(400, "NoRegisteredProviderFound", "The supported locations are 'eastus'."),
            EXIT_NOT_CONFIGURED,
            "or does not serve the machine's region (NoRegisteredProviderFound: The supported locations are 'eastus'.)",
            &setup,
        ),
        (arm(409, "MissingSubscriptionRegistration", ""), EXIT_NOT_CONFIGURED, "is not registered", &setup),
        (arm(409, "ScopeLocked", "locked"), EXIT_DENIED, "locked against changes", "az lock"),
        (arm(403, "RequestDisallowedByPolicy", ""), EXIT_DENIED, "a policy of Azure", "policies"),
        (arm(429, "TooManyRequests", ""), FAILED, "too many requests", "try again"),
        (arm(500, "InternalServerError", ""), FAILED, "has a fault", "try again"),
        (arm(503, "", ""), FAILED, "has a fault", "try again"),
        (arm(302, "", ""), EXIT_NETWORK, "something on the way", "proxy"),
        (arm(407, "", ""), EXIT_NETWORK, "something on the way", "proxy"),
        (arm(403, "", "blocked"), EXIT_DENIED, "refused", "owner of the machine"),
    ]);
}

#[test]
fn each_missing_right_is_told_with_the_least_role_that_has_it() {
    let connectivity = "Microsoft.HybridConnectivity";
    let manager = "'Azure Connected Machine Resource Manager' --assignee oid";
    let login = "'Virtual Machine Local User Login' --assignee oid";
    let rows = [
        ("endpoints/listCredentials/action", "may not ask for its relay credentials", login),
        ("endpoints/write", "lacks the right Microsoft.HybridConnectivity/endpoints/write", manager),
        ("endpoints/serviceConfigurations/write", "lacks the right", manager),
        ("endpoints/delete", "lacks the right", "'Contributor' --assignee oid"),
        ("register/action", "lacks the right", "'Contributor' --assignee oid --scope /subscriptions/s"),
    ];
    for (action, why, hint) in rows {
        told(&[(forbidden(&format!("{connectivity}/{action}")), EXIT_DENIED, why, hint)]);
    }
    let read = forbidden("Microsoft.HybridCompute/machines/read");
    told(&[(read, EXIT_DENIED, "lacks the right", &format!("{login} --scope {ID}"))]);
}

/// What Azure Relay answers, and the agent through it; and what Microsoft's sshProxy says of the same.
#[test]
fn each_refusal_of_the_relay_has_its_words() {
    let closed_port = "connection to localhost:22 failed: dial tcp [::1]:22: connectex: No connection could be made because the target machine actively refused it.";
    let ip = "Generic: Ip has been prevented to connect to the endpoint";
    told(&[
        (relay(404, "Endpoint does not exist."), EXIT_NO_LISTENER, "its agent does not listen", AGENT),
        (
            relay(404, "There are no listeners connected for the endpoint."),
            EXIT_NO_LISTENER,
            "not listen",
            AGENT,
        ),
        (
            relay(401, "InvalidSignature: The token has an invalid signature."),
            EXIT_DENIED,
            "credentials",
            "clock",
        ),
        (relay(401, "InvalidAudience: a wrong audience."), EXIT_DENIED, "credentials", "clock"),
        (relay(401, "ExpiredToken: The token is expired."), EXIT_DENIED, "credentials", "clock"),
        (relay(401, ip), EXIT_NETWORK, "does not let this network in", "another network"),
        (
            relay(403, "Forbidden"),
            FAILED,
            "its agent or the relay refused",
            &format!("22 is the port that is enabled on the machine: arcssh setup {ID} --dry-run shows it"),
        ),
        (
            relay(400, "This endpoint is only for web-socket requests"),
            EXIT_NETWORK,
            "WebSocket upgrade",
            "unchanged",
        ),
        (relay(407, "Proxy Authentication Required"), EXIT_NETWORK, "in the relay's place", "unchanged"),
        (relay(408, "Timeout"), EXIT_NO_LISTENER, "did not answer in time", AGENT),
        (relay(504, "Timeout"), EXIT_NO_LISTENER, "did not answer in time", AGENT),
        (relay(500, "Internal error"), FAILED, "the relay has a fault", "try again"),
        (relay(502, "Bad gateway"), FAILED, "the relay has a fault", "try again"),
        (relay(503, closed_port), EXIT_NO_LISTENER, "nothing listens on its port 22", "start sshd"),
        (relay(503, "Busy"), FAILED, "the relay has a fault (", "try again"),
        (relay(503, "Service Unavailable"), FAILED, "or a proxy in its place", "sshd listens on port 22"),
        (relay(426, ""), EXIT_NETWORK, "takes the WebSocket upgrade out", "pass the proxy unchanged"),
        (relay(511, ""), EXIT_NETWORK, "answered in the relay's place", "pass the proxy unchanged"),
        (
            relay(418, "Not this port"),
            FAILED,
            "refused",
            &format!("22 is the port that is enabled on the machine: arcssh setup {ID} --dry-run shows it"),
        ),
        (
            ConnectError::TimedOut(Duration::from_secs(40)).into(),
            EXIT_NO_LISTENER,
            "did not answer within 40 s",
            AGENT,
        ),
        (closed(1001), FAILED, "its agent went away", "connect again"),
        (closed(1008), FAILED, "token has expired", "connect again"),
        (closed(1011), FAILED, "the relay has a fault", "connect again"),
        (
            BridgeError::Lost(std::io::Error::from(std::io::ErrorKind::ConnectionReset)).into(),
            FAILED,
            "lost",
            "connect again",
        ),
        (
            BridgeError::NotSent(std::io::Error::from_raw_os_error(104)).into(),
            FAILED,
            "the relay cannot be written to: Connection reset by peer (os error 104)",
            "connect again",
        ),
        (
            BridgeError::Silent.into(),
            FAILED,
            "the relay no longer answers: 2 pings are unanswered",
            "connect again",
        ),
        (
            BridgeError::Violation { relay: RELAY.into(), violation: Violation::Masked }.into(),
            FAILED,
            "the relay broke the WebSocket protocol: a frame is masked",
            "connect again; if a proxy inspects TLS",
        ),
        (
            BridgeError::Input(std::io::Error::from_raw_os_error(5)).into(),
            FAILED,
            "standard input cannot be read: Input/output error (os error 5)",
            "that can be read",
        ),
    ]);
}

/// A firewall team opens the host that a hint names: it has to be that of the cloud in use.
#[test]
fn a_hint_names_the_hosts_of_the_cloud_in_use_and_of_no_other() {
    let clouds = [CloudName::Public, CloudName::China, CloudName::UsGov];
    let hosts = clouds.map(|name| {
        let cloud = Cloud::new(name, &Endpoints::default()).unwrap();
        let [arm, entra] = [&cloud.arm_endpoint, &cloud.authority_host].map(|url| url.authority().to_owned());
        [arm, entra, format!("azgn.{}", name.relay_suffix())]
    });
    for (arm, entra, relay) in hosts.iter().map(|[arm, entra, relay]| (arm, entra, relay)) {
        let refusal = ErrorResponse {
            host: arm.as_str().into(),
            status: 302,
            code: String::new(),
            message: String::new(),
            retry_after: None,
            request_id: None,
            tenant: None,
        };
        let unexpected = ArmError::InvalidResponse { host: arm.clone(), error: anyhow!("no JSON") };
        let (host, description) = (entra.clone(), String::new());
        let from_entra =
            EntraError { host, status: 302, error: String::new(), description, retry_after: None };
        let from_entra = CredentialError::Refused {
            from: CredentialSource::Environment,
            tenant: None,
            error: Error::new(from_entra),
        };
        let host = format!("{relay}:443");
        let from_proxy = Error::new(ProxyRefused { target: host, status: 403, reason: "Forbidden".into() });
        let violation = BridgeError::Violation { relay: relay.clone(), violation: Violation::Masked };
        let rows: [(Error, &str); 8] = [
            (ArmError::Rejected(refusal).into(), arm),
            (unexpected.into(), arm),
            (ArmError::CredentialError(from_entra).into(), entra),
            (ConnectError::refused(relay, 426, "").into(), relay),
            (ConnectError::refused(relay, 302, "Found").into(), relay),
            (ConnectError::refused(relay, 503, "Service Unavailable").into(), relay),
            (ConnectError::Unreachable(from_proxy).into(), relay),
            (violation.into(), relay),
        ];
        for (error, wanted) in rows {
            let hint = explain(&error, Some(&target())).hint.unwrap().text;
            let is_named = |host: &&String| {
                let after = |at: usize| hint[at + host.len()..].chars().next();
                hint.match_indices(host.as_str())
                    .any(|(at, _)| !after(at).is_some_and(|c| c == '.' || c.is_alphanumeric()))
            };
            let named: Vec<&String> = hosts.iter().flatten().filter(is_named).collect();
            assert_eq!(named, [wanted], "{error:#}: {hint}");
        }
    }
}

#[test]
fn a_certificate_out_of_its_time_is_told_as_the_clock() {
    let time = rustls::pki_types::UnixTime::since_unix_epoch(Duration::ZERO);
    for (error, why) in [
        (CertificateError::Expired, "has expired"),
        (CertificateError::ExpiredContext { time, not_after: time }, "has expired"),
        (CertificateError::NotValidYet, "is not valid yet"),
        (CertificateError::NotValidYetContext { time, not_before: time }, "is not valid yet"),
    ] {
        let told = explain_tls(&rustls::Error::InvalidCertificate(error), "Entra ID");
        assert_eq!((told.status, told.why), (EXIT_NETWORK, format!("the certificate of Entra ID {why}")));
        assert_eq!(told.hint, Some("check this machine's clock".into()));
    }
}

#[test]
fn what_setting_up_runs_into_has_its_words() {
    let declined = explain(&anyhow!(PromptError::Declined), None);
    assert_eq!((declined.status, declined.hint), (FAILED, None));
    told(&[
        (anyhow!(PromptError::NotInteractive), FAILED, "no terminal to ask on", "--yes"),
        (anyhow!(NotShown).context(SettingUp), FAILED, "does not show it", "the same command again"),
    ]);
}

#[test]
fn the_command_that_sets_a_machine_up_does_so_for_the_connection_that_was_tried() {
    let hint = |port, service| setup(Some(&Target { port, service, ..target() }));
    let setup = |port, service| hint(port, service).text;
    assert_eq!(hint(22, Service::Ssh), Hint::set_up(setup(22, Service::Ssh)));
    assert_eq!(super::setup(None).command, None, "a placeholder cannot be run");
    assert_eq!(setup(22, Service::Ssh), format!("arcssh setup {ID}"));
    assert_eq!(setup(2222, Service::Ssh), format!("arcssh setup {ID} --port 2222"));
    assert_eq!(setup(6516, Service::Wac), format!("arcssh setup {ID} --service WAC"));
    assert_eq!(setup(22, Service::Wac), format!("arcssh setup {ID} --service WAC --port 22"));
}

#[test]
fn a_panic_for_want_of_something_is_explained_and_no_other_text_is_shown() {
    use crate::diagnosis::system::{ALLOW_GETRANDOM, RAISE_PROCESSES, exhaustion};
    let no_thread = "OS can't spawn worker thread: Resource temporarily unavailable (os error 11)";
    assert_eq!(exhaustion(no_thread).map(|(_, hint)| hint), Some(RAISE_PROCESSES));
    let no_randomness = "could not retrieve random bytes for uuid: FAILED";
    assert_eq!(exhaustion(no_randomness).map(|(_, hint)| hint), Some(ALLOW_GETRANDOM));
    assert_eq!(exhaustion("called `Result::unwrap()` on an `Err` value: secret"), None);
}

#[test]
fn a_key_without_its_password_is_written_in_the_syntax_of_each_platforms_shell() {
    use crate::diagnosis::credentials::{without_password_in_powershell, without_password_in_unix};
    let unix = without_password_in_unix("'a b.pem'", "'a b.pem.pem'");
    assert!(unix.contains(" && openssl x509 -in 'a b.pem' >> 'a b.pem.pem'"), "{unix}");
    let powershell = without_password_in_powershell("'a b.pem'", "'a b.pem.pem'");
    assert!(!powershell.contains("&&") && !powershell.contains('>'), "{powershell}");
    assert!(powershell.contains("| Add-Content -Encoding ascii 'a b.pem.pem'"), "{powershell}");
}
