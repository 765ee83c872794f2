//! Each error has a code, a message and a hint, and docs/TROUBLESHOOTING.md has all of them.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use super::*;
use crate::azure::arm::ErrorResponse;
use crate::azure::cloud::{Cloud, CloudName, Endpoints};
use crate::azure::credentials::source::{
    CertificateProblem, Issuer, MetadataServiceError, SourceError, Unavailable,
};
use crate::azure::credentials::{Caller, CredentialSource};
use crate::azure::entra::{self, ClaimsChallenge};
use crate::azure::hybrid_compute::extension::SshExtension::{self, Entra, Sshd};
use crate::azure::login::key_store::KeyStoreError;
use crate::azure::rbac::{REGISTER, SET_UP};
use crate::azure::resource_id::ResourceId;
use crate::diagnosis::finding::Finding;
use crate::net::error::Cause;
use crate::net::listener::ListenError;
use crate::net::proxy::Problem;
use crate::net::tls::{CERT_FILE, TlsError, Unreadable};
use crate::provisioning::extension::{ExtensionError, Restriction};
use crate::relay::frame::{PeerClose, Violation};
use crate::relay::greeting::NotSsh;
use crate::relay::handshake::Rejection;
use crate::ssh::SocketProblem;
use crate::ssh::certificate::CertificateError;
use crate::ssh::effective_config::{Location, Overridden};
use crate::ssh::rejection::{self, Place};
use crate::ssh::requirements::{Conflict, Fix};
use crate::ssh::verification::NotIncluded;

const DOCUMENT: &str = include_str!("../../docs/TROUBLESHOOTING.md");
const ID: &str = "/subscriptions/s/resourceGroups/rg/providers/Microsoft.HybridCompute/machines/web01";
const NAME: &str = "rg/web01";
const RELAY: &str = "azgn.servicebus.windows.net";

fn id() -> ResourceId {
    ID.parse().unwrap()
}

fn target() -> Target {
    Target::new(&id(), Service::Ssh, 22)
}

/// Diagnoses an error of a connection to web01.
fn diagnose(error: impl Into<Error>) -> Diagnosis {
    error.into().during(Context::connecting(target())).diagnose()
}

/// Diagnoses an error without a machine.
fn without_target(error: impl Into<Error>) -> Diagnosis {
    error.into().diagnose()
}

fn arm(status: u16, code: &str, message: &str) -> ArmError {
    let tenant = (code == "InvalidAuthenticationTokenTenant").then(|| "contoso".into());
    let (code, message) = (code.into(), message.into());
    let host = "management.azure.com".into();
    ArmError::Rejected(ErrorResponse { host, status, code, message, tenant, ..ErrorResponse::default() })
}

const CLAIMS: &str = "eyJhY2Nlc3NfdG9rZW4iOnsiYWNycyI6eyJlc3NlbnRpYWwiOnRydWUsInZhbHVlcyI6WyJwMSJdfX19";

/// Returns ARM's rejection of a token of a source; with a challenge, ARM requires claims.
fn of_token(source: CredentialSource, challenge: Option<&str>) -> ArmError {
    let claims = challenge.and_then(ClaimsChallenge::from_base64).map(Box::new);
    let tenant = claims.as_ref().map(|_| "contoso".into());
    let (status, code) = (401, "InvalidAuthenticationToken".into());
    let caller = Caller { source, name: String::new(), others: Vec::new() };
    let caller = Some(caller.into());
    ArmError::Rejected(ErrorResponse { status, code, caller, claims, tenant, ..ErrorResponse::default() })
}

/// Returns ARM's response to an account without the permission.
fn forbidden(permission: &str) -> ArmError {
    let scope = if permission.ends_with("register/action") {
        "/subscriptions/s".into()
    } else {
        format!("{ID}/providers/Microsoft.HybridConnectivity/endpoints/default")
    };
    let message = format!(
        "The client 'ada' with object id 'oid' does not have authorization to perform action '{permission}' over scope '{scope}' or the scope is invalid. If access was recently granted, please refresh your credentials."
    );
    arm(403, "AuthorizationFailed", &message)
}

fn entra(status: u16, description: &str) -> SourceError {
    let (host, description) = ("login.microsoftonline.com".into(), description.into());
    SourceError::Entra(entra::Rejection { host, status, description, ..entra::Rejection::default() })
}

fn of_source(from: CredentialSource, error: SourceError) -> CredentialError {
    CredentialError::Failed { from, tenant: None, error: error.into() }
}

fn certificate(from: CredentialSource, error: SourceError) -> IssueError {
    IssueError::Credential { scope: "scope".into(), error: of_source(from, error) }
}

fn relay(status: u16, reason: &str) -> ConnectError {
    Rejection::new(RELAY, status, reason).into()
}

fn closed(code: u16) -> BridgeError {
    BridgeError::Closed(PeerClose::parse(&code.to_be_bytes()))
}

fn tls(error: TlsError) -> NetError {
    NetError::Tls { host: "login.microsoftonline.com".into(), error }
}

/// The text of Rust's library and glibc.
fn unknown_host(host: &str) -> NetError {
    let cause = "failed to lookup address information: Name or service not known";
    NetError::Unreachable { host: host.into(), cause: cause.into() }
}

fn reset() -> io::Error {
    io::ErrorKind::ConnectionReset.into()
}

/// Diagnoses at least one error for each row of docs/TROUBLESHOOTING.md.
fn examples() -> Vec<Diagnosis> {
    let mut examples = examples_of_authentication();
    examples.extend(examples_of_machines());
    examples.extend(examples_of_connections());
    examples.extend(examples_of_the_network());
    examples.extend(examples_of_this_computer());
    examples.extend(examples_of_the_doctor());
    examples
}

fn examples_of_authentication() -> Vec<Diagnosis> {
    let other_cloud = |own: &str| SourceError::OtherCloud {
        own: own.into(),
        cloud: CloudName::Public,
        message: "no".into(),
    };
    let oidc = |issuer| SourceError::Oidc { issuer, cause: "403".into() };
    use CredentialSource::{AzureCli, Environment, ManagedIdentity};
    let errors: Vec<Error> = vec![
        CredentialError::NotSignedIn(Vec::new()).into(),
        CredentialError::TokenCredentials("BrokerCredential".into()).into(),
        of_source(AzureCli, SourceError::NoToken).into(),
        of_source(AzureCli, other_cloud("AzureChinaCloud")).into(),
        of_source(AzureCli, other_cloud("Stack")).into(),
        of_source(CredentialSource::WorkloadIdentity, oidc(Issuer::GitHubActions)).into(),
        of_source(CredentialSource::WorkloadIdentity, oidc(Issuer::AzurePipelines)).into(),
        of_source(AzureCli, SourceError::OtherTenant { own: "t".into(), tenant: "u".into() }).into(),
        of_source(
            Environment,
            SourceError::Variable { name: "A", value: "x".into(), expected: "true or false" },
        )
        .into(),
        of_source(AzureCli, SourceError::Unavailable(Unavailable::NoSignIn)).into(),
        of_source(Environment, SourceError::IncompleteEnvironment { by: "A", missing: "B" }).into(),
        of_source(ManagedIdentity, SourceError::AgentNotRunning("connection refused".into())).into(),
        of_source(
            ManagedIdentity,
            SourceError::Impostor { address: "127.0.0.1:40342".parse().unwrap(), user: 7 },
        )
        .into(),
        of_source(Environment, SourceError::Failed("it is damaged".into())).into(),
        arm(401, "InvalidAuthenticationToken", "").into(),
        of_token(CredentialSource::Arcssh, Some(CLAIMS)).into(),
        of_token(AzureCli, Some(CLAIMS)).into(),
        of_token(CredentialSource::AzureDeveloperCli, Some(CLAIMS)).into(),
        of_token(CredentialSource::AzurePowershell, Some(CLAIMS)).into(),
        of_token(Environment, Some(CLAIMS)).into(),
        of_token(ManagedIdentity, Some(CLAIMS)).into(),
        LoginError::Failed("the browser was closed".into()).into(),
        LoginError::Rejected(entra::Rejection::in_browser(
            &"https://login.example".parse().unwrap(),
            "access_denied",
            "AADSTS65004: the user declined",
        ))
        .into(),
        of_source(CredentialSource::Arcssh, entra(400, "AADSTS90002: Tenant 'x' not found")).into(),
        LoginError::DeviceCodeRejected(entra::Rejection::in_browser(
            &"https://login.example".parse().unwrap(),
            "access_denied",
            "AADSTS53003: blocked",
        ))
        .into(),
        LoginError::DeviceCodeRejected(entra::Rejection::in_browser(
            &"https://login.example".parse().unwrap(),
            "access_denied",
            "AADSTS65004: the user declined",
        ))
        .into(),
        LoginError::Declined(None).into(),
        LoginError::Declined(Some("ada in the tenant t".into())).into(),
        LoginError::AnotherAccount { name: "ada".into(), tenant: "t".into(), expected: "bob".into() }.into(),
        LoginError::NotStored("the disk is full".into()).into(),
        IssueError::WrongLoginName { name: "ada".into(), entry: "bob".into() }.into(),
        certificate(CredentialSource::Arcssh, entra(400, "AADSTS53003: blocked")).into(),
        certificate(CredentialSource::Arcssh, entra(400, "AADSTS500011: no such application")).into(),
        certificate(AzureCli, SourceError::MissingSshExtension).into(),
        certificate(AzureCli, SourceError::AzureCliOptions).into(),
        IssueError::Unsupported(ManagedIdentity).into(),
        IssueError::Unsupported(CredentialSource::AzurePowershell).into(),
        IssueError::Unusable(CertificateError::AnotherKey).into(),
        IssueError::NotCached.into(),
        SshError::NoClient.into(),
        IssueError::NoKey(SshError::NoKeygen).into(),
        SshError::NoProcess("no memory".into()).into(),
        SshError::KeyGeneration("the disk is full".into()).into(),
    ];
    errors.into_iter().map(diagnose).chain(examples_of_sources()).collect()
}

/// Diagnoses each source, and each cause of its failure.
fn examples_of_sources() -> Vec<Diagnosis> {
    use CredentialSource::{AzureCli, Environment, ManagedIdentity};
    let sources = [
        CredentialSource::Any,
        CredentialSource::Arcssh,
        Environment,
        CredentialSource::WorkloadIdentity,
        ManagedIdentity,
        AzureCli,
        CredentialSource::AzureDeveloperCli,
        CredentialSource::AzurePowershell,
    ];
    let unavailable = || {
        [
            Unavailable::NoSignIn,
            Unavailable::NoSecret,
            Unavailable::NoFederatedToken,
            Unavailable::IncompletePipeline {
                issuer: Issuer::AzurePipelines,
                missing: "SYSTEM_ACCESSTOKEN".into(),
            },
            Unavailable::NotInstalled { program: "az".into(), product: "Azure CLI".into() },
            Unavailable::CannotRun {
                program: "az".into(),
                product: "Azure CLI".into(),
                cause: "no interpreter".into(),
            },
            Unavailable::SignedOut("Please run 'az login'".into()),
            Unavailable::NoResponse(10),
            Unavailable::NoPowerShellModule,
            Unavailable::KeyOfAgent("/tokens".into()),
            Unavailable::NoManagedIdentity("no identity is assigned".into()),
        ]
    };
    let key_store = || {
        [
            KeyStoreError::Off,
            KeyStoreError::Unavailable,
            KeyStoreError::Locked,
            KeyStoreError::TimedOut,
            KeyStoreError::Empty,
            KeyStoreError::Failed("damaged".into()),
        ]
    };
    let mut errors: Vec<Error> = Vec::new();
    errors.extend(sources.map(|from| of_source(from, entra(400, "AADSTS7000215: wrong secret")).into()));
    let rejected = |description: &str, client_id: Option<&str>| MetadataServiceError {
        status: 400,
        description: description.into(),
        client_id: client_id.map(Into::into),
    };
    errors.extend(
        [
            rejected("Multiple user assigned identities exist", None),
            rejected("Identity not found", Some("c")),
            rejected("no", None),
        ]
        .map(|error| of_source(ManagedIdentity, error.into()).into()),
    );
    for code in ["AADSTS700024", "AADSTS7000222", "AADSTS700027", "AADSTS90002"] {
        errors.extend(sources.map(|from| of_source(from, entra(400, &format!("{code}: no"))).into()));
    }
    errors.extend(unavailable().map(|reason| CredentialError::NotSignedIn(vec![(AzureCli, reason)]).into()));
    errors.extend(
        unavailable().map(|unavailable| CredentialError::Unavailable { from: AzureCli, unavailable }.into()),
    );
    errors.extend(key_store().map(|problem| LoginError::KeyStore(problem).into()));
    errors.extend(key_store().map(|problem| LoginError::NotDeleted(problem).into()));
    let problems = [
        CertificateProblem::NotPem,
        CertificateProblem::Locked,
        CertificateProblem::NoCertificate,
        CertificateProblem::AnotherKey,
        CertificateProblem::NoKey,
        CertificateProblem::NotRsa,
    ];
    let unusable = |problem| SourceError::ClientCertificate { path: "sp.pem".into(), problem };
    errors.extend(problems.map(|problem| of_source(Environment, unusable(problem)).into()));
    errors.into_iter().map(diagnose).collect()
}

fn examples_of_machines() -> Vec<Diagnosis> {
    let connectivity = "Microsoft.HybridConnectivity/endpoints";
    let errors: Vec<Error> = vec![
        forbidden(&format!("{connectivity}/listCredentials/action")).into(),
        forbidden(&format!("{connectivity}/write")).into(),
        arm(403, "", "blocked").into(),
        arm(400, "BadRequest", "no").into(),
        arm(403, "RequestDisallowedByPolicy", "no").into(),
        arm(403, "DenyAssignmentAuthorizationFailed", "no").into(),
        arm(403, "RequestDisallowedByAzure", "the region is not allowed").into(),
        arm(403, "LinkedAuthorizationFailed", "no").into(),
        arm(409, "ReadOnlyDisabledSubscription", "the subscription is disabled").into(),
        arm(404, "InvalidResourceNamespace", "The resource namespace is invalid.").into(),
        arm(408, "", "").into(),
        arm(409, "ScopeLocked", "locked").into(),
        arm(404, "ResourceNotFound", "The resource 'x/endpoints/default' could not be found.").into(),
        arm(412, "", "").into(),
        arm(400, "NoRegisteredProviderFound", "The supported locations are 'eastus'.").into(),
        arm(409, "MissingSubscriptionRegistration", "").into(),
        ProvisionError::NotRegistered { state: "Registering".into(), subscription: "s".into() }.into(),
        ProvisionError::NotVisible.into(),
        extension(ExtensionError::Unfit(Sshd)),
        extension(ExtensionError::Unfit(Entra)),
        extension(ExtensionError::UnknownSystem),
        extension(ExtensionError::OtherType {
            extension: Sshd,
            kind: "Microsoft.ScVmm/virtualMachines".into(),
        }),
        extension(ExtensionError::Offline { extension: Sshd, status: "Disconnected".into() }),
        extension(ExtensionError::OldAgent { version: "1.30".into(), os: "windows".into() }),
        extension(restricted("linux", Restriction::Monitor)),
        extension(restricted("windows", Restriction::Disabled)),
        extension(restricted("linux", Restriction::Allowlist)),
        extension(restricted("linux", Restriction::Blocklist)),
        extension(ExtensionError::NoIdentity(Entra)),
        extension(ExtensionError::Failed { extension: Sshd, message: "exit code 1".into() }),
        extension(ExtensionError::Failed { extension: Entra, message: String::new() }),
        extension(pending(Sshd)),
        not_permitted(REGISTER).into(),
        ProvisionError::PortTaken { service: Service::Ssh, from: 22, to: 2222 }.into(),
        TerminalError::NotInteractive.into(),
        TerminalError::Declined.into(),
        TerminalError::NothingPicked.into(),
        arm(404, "ResourceNotFound", "no machine").into(),
        arm(404, "", "").into(),
        arm(404, "SubscriptionNotFound", "no").into(),
        SelectError::Unknown { name: "web02".into(), similar: Vec::new() }.into(),
        SelectError::Unknown { name: "wbe02".into(), similar: vec!["web02".into(), "web01".into()] }.into(),
        SelectError::NoMatch { filter: String::new(), similar: Vec::new(), total: 0 }.into(),
        SelectError::NoMatch { filter: "-g rg".into(), similar: Vec::new(), total: 3 }.into(),
        SelectError::NoMatch { filter: "-g gr-web".into(), similar: vec!["rg-web".into()], total: 3 }.into(),
        SelectError::UnknownSubscription { name: "Prod".into(), similar: Vec::new() }.into(),
        SelectError::UnknownSubscription { name: "Prdo".into(), similar: vec!["Prod".into()] }.into(),
        SelectError::NoSubscription.into(),
        SelectError::Unexpanded("%n".into()).into(),
        SelectError::Unexpanded("%h".into()).into(),
        SelectError::NothingSelected { command: "warm" }.into(),
        SelectError::ResourceId(ResourceIdError::Shape).into(),
        ResourceIdError::AzureVm.into(),
        ResourceIdError::Type("Microsoft.Web/sites".into()).into(),
        ResourceIdError::Name("a/b".into()).into(),
        ArmError::InvalidResponse { host: "management.azure.com".into(), cause: "no JSON".into() }.into(),
        ArmError::TooManyPages("more than 1000".into()).into(),
        ArmError::ListTooLong.into(),
        ArmError::UntrustedRelay("relay.example".into()).into(),
    ];
    let with_caller = |error| {
        let ArmError::Rejected(response) = error else { return error };
        let others = vec![CredentialSource::AzureCli, CredentialSource::Arcssh];
        let caller = Caller { source: CredentialSource::ManagedIdentity, name: "vm01".into(), others };
        ArmError::Rejected(ErrorResponse { caller: Some(caller.into()), ..response })
    };
    let of_caller = [
        forbidden(&format!("{connectivity}/listCredentials/action")),
        forbidden(&format!("{connectivity}/write")),
        arm(403, "", "blocked"),
        arm(401, "InvalidAuthenticationToken", ""),
        arm(404, "SubscriptionNotFound", "no"),
        arm(403, "RequestDisallowedByPolicy", "no"),
    ];
    let ambiguous = |candidates: [&str; 2]| SelectError::Ambiguous {
        name: "web01".into(),
        candidates: candidates.map(Into::into).into(),
    };
    let during_setup = Context { action: Action::SetUp, target: Some(target()) };
    let unserved =
        Error::from(arm(400, "NoRegisteredProviderFound", "The supported locations are 'eastus'."));
    let mut examples = vec![
        diagnose(ambiguous([NAME, "rg2/web01"])),
        without_target(ambiguous([NAME, "rg2/web01"])),
        without_target(ambiguous(["web01.rg.s", "web01.rg.s2"])),
        unserved.during(during_setup).diagnose(),
    ];
    examples.extend(errors.into_iter().map(diagnose));
    examples.extend(of_caller.map(|error| diagnose(with_caller(error))));
    examples
}

fn examples_of_connections() -> Vec<Diagnosis> {
    let offline = |status: &str| {
        let error = relay(404, "Endpoint does not exist.");
        Error::Offline { status: status.into(), error: error.into() }
    };
    let port_closed = "connection to localhost:22 failed: dial tcp [::1]:22: connectex: No connection could be made because the target machine actively refused it.";
    let interrupted = |signal| TerminalError::Interrupted {
        object: "agent of web01".into(),
        after: Duration::from_secs(7),
        signal,
    };
    let errors: Vec<Error> = vec![
        relay(404, "Endpoint does not exist.").into(),
        offline("Disconnected since 03:15 UTC"),
        offline("Expired since 2026-03-02 09:14 UTC"),
        relay(504, "Timeout").into(),
        ConnectError::Net(unknown_host(RELAY)).into(),
        ConnectError::TimedOut(Duration::from_secs(40)).into(),
        relay(503, port_closed).into(),
        relay(403, "Forbidden").into(),
        relay(401, "Generic: Ip has been prevented to connect to the endpoint").into(),
        relay(401, "ExpiredToken: The token is expired.").into(),
        relay(429, "Too many requests").into(),
        relay(500, "Internal error").into(),
        relay(503, "Service Unavailable").into(),
        relay(426, "").into(),
        relay(511, "").into(),
        arm(429, "TooManyRequests", "").into(),
        arm(503, "", "").into(),
        closed(1001).into(),
        closed(1008).into(),
        closed(1011).into(),
        closed(1002).into(),
        BridgeError::Lost(reset()).into(),
        BridgeError::NotSent(reset()).into(),
        BridgeError::Silent.into(),
        BridgeError::NotSsh(NotSsh::of(b"Not allowed at this time\r\n")).into(),
        BridgeError::NotSsh(NotSsh::of(b"Exceeded MaxStartups\r\n")).into(),
        BridgeError::NotSsh(NotSsh::Closed).into(),
        BridgeError::NotSsh(NotSsh::of(b"HTTP/1.1 400 Bad Request\r\n")).into(),
        BridgeError::NotSsh(NotSsh::of(b"You are not welcome here.\r\n")).into(),
        BridgeError::NotSsh(NotSsh::of(b"SSH-1.5-old\r\n")).into(),
        BridgeError::NotSsh(NotSsh::of(b"SSH-2.0-Open")).into(),
        BridgeError::NotSsh(NotSsh::Silent(std::time::Duration::from_secs(11))).into(),
        BridgeError::Violation { relay: RELAY.into(), violation: Violation::Masked }.into(),
        ConnectError::InvalidResponse { relay: RELAY.into(), cause: "no HTTP".into() }.into(),
        BridgeError::Input(io::ErrorKind::IsADirectory.into()).into(),
        BridgeError::Output(io::ErrorKind::StorageFull.into()).into(),
        TerminalError::Stdout(io::ErrorKind::StorageFull.into()).into(),
        interrupted(1).into(),
        interrupted(2).into(),
        interrupted(15).into(),
    ];
    let by_relay_information = Context::connecting(Target { machine: None, ..target() });
    let expired = Error::from(relay(401, "ExpiredToken: The token is expired."));
    let mut examples = vec![expired.during(by_relay_information).diagnose(), without_target(interrupted(1))];
    let admin_center = || Context::connecting(Target { port: 6516, service: Service::Wac, ..target() });
    examples.extend(
        [relay(503, port_closed), relay(503, "Service Unavailable")]
            .map(|error| Error::from(error).during(admin_center()).diagnose()),
    );
    examples.extend(errors.into_iter().map(diagnose));
    examples
}

fn examples_of_the_network() -> Vec<Diagnosis> {
    let host = || "login.microsoftonline.com".to_owned();
    let rejected = |status: Option<u16>| NetError::ProxyRejected {
        proxy: "proxy:3128".into(),
        host: host(),
        status,
        cause: status.map_or("no response".into(), |status| format!("the proxy responded {status}").into()),
    };
    let setting = |variable, problem| NetError::Setting { variable, problem };
    let descriptors = Unreadable::new("/roots".as_ref(), &io::Error::from_raw_os_error(24), "");
    let errors: Vec<Error> = vec![
        NetError::Unreachable { host: host(), cause: "no route".into() }.into(),
        NetError::Unreachable { host: host(), cause: Cause::Silence(Duration::from_secs(9)) }.into(),
        NetError::TimedOut { host: host(), after: Duration::from_secs(9) }.into(),
        TerminalError::TimedOut { object: "relay".into(), after: Duration::from_secs(9) }.into(),
        of_source(CredentialSource::Environment, entra(408, "")).into(),
        of_source(CredentialSource::Environment, entra(429, "")).into(),
        of_source(CredentialSource::Environment, entra(503, "")).into(),
        of_source(CredentialSource::Environment, entra(302, "")).into(),
        arm(302, "", "").into(),
        arm(407, "", "").into(),
        NetError::ProxyUnreachable { proxy: "proxy:3128".into(), cause: "no route".into() }.into(),
        setting("ALL_PROXY", Problem::Socks).into(),
        setting("HTTPS_PROXY", Problem::Port).into(),
        setting("NO_PROXY", Problem::Exception(2)).into(),
        rejected(Some(407)).into(),
        rejected(Some(403)).into(),
        rejected(Some(502)).into(),
        rejected(None).into(),
        tls(TlsError::UnknownIssuer { issuer: Some("Zscaler".into()), unreadable: None }).into(),
        tls(TlsError::Expired(None)).into(),
        tls(TlsError::Expired(Some(1))).into(),
        tls(TlsError::NotYetValid(None)).into(),
        tls(TlsError::NotTls).into(),
        tls(TlsError::Incompatible("the two sides have no cipher in common")).into(),
        tls(TlsError::Rejected("the other side denies access")).into(),
        tls(TlsError::Interrupted("the connection was closed".into())).into(),
        tls(TlsError::TimedOut(Duration::from_secs(9))).into(),
        tls(TlsError::NoRoots).into(),
        tls(TlsError::Unreadable(Unreadable::new(
            "/roots".as_ref(),
            &io::ErrorKind::PermissionDenied.into(),
            "",
        )))
        .into(),
        tls(TlsError::Unreadable(Unreadable::new(
            "/roots".as_ref(),
            &io::ErrorKind::NotFound.into(),
            CERT_FILE,
        )))
        .into(),
        tls(TlsError::Unreadable(descriptors)).into(),
        tls(TlsError::InvalidCertificate { why: "is malformed".into(), issuer: Some("Zscaler".into()) })
            .into(),
        tls(TlsError::Other("no cipher suite".into())).into(),
    ];
    errors.into_iter().map(diagnose).collect()
}

/// Changes of an option with which a host entry does not work.
const CHANGES: [&str; 4] = [
    "add publickey to the list in that line",
    "set RequiredRSASize to 3072 or less in that line",
    "add the token %C to the path in that line",
    "shorten the path with the token %C",
];

/// Reasons why a program cannot be started.
const PROGRAMS: [&str; 6] = [
    "does not exist",
    "is not a file",
    "is not executable",
    "is not in PATH",
    "is not arcssh",
    "cannot be opened: Permission denied",
];

const CERTIFICATE_FILES: [&str; 11] = [
    "is for a host, not for a user",
    "is for another key than /home/me/.ssh/id_rsa",
    "is a private key, not a certificate",
    "is a public key, not a certificate",
    "is in another format than OpenSSH's",
    "is no OpenSSH certificate",
    "is damaged",
    "does not exist",
    "cannot be read: Permission denied",
    "expired at 2026-01-01T00:00:00Z",
    "is not valid before 2026-01-01T00:00:00Z",
];

const CLIENTS: [&str; 6] = [
    "does not exist",
    "is not a file",
    "is not executable",
    "is not in PATH",
    "is not OpenSSH: for -V, it prints \"Dropbear v2022.83\"",
    "cannot be started: Exec format error",
];

fn examples_of_this_computer() -> Vec<Diagnosis> {
    let address = ([127, 0, 0, 1], 2201).into();
    let path = || PathBuf::from("/home/me/file");
    let overridden =
        |by| Overridden { alias: "web01".into(), keyword: "User".into(), instead: "root".into(), by };
    let rejected = |place, message: &str| {
        let (message, is_old) = (message.to_owned(), matches!(place, Place::Line(_)));
        SshError::Rejected(rejection::Rejection { file: path(), place, message, is_old }).into()
    };
    let not_included = |conditional| {
        let config = "/home/me/.ssh/config".into();
        let reason = NotIncluded { alias: "web01".into(), file: path(), config, conditional };
        SshError::NotIncluded(reason).into()
    };
    let damaged =
        |cause: &str, rest| Error::from(SshError::DamagedBlock { path: path(), cause: cause.into(), rest });
    let conflict = |by, fix| {
        let (alias, value) = ("web01".into(), "yes".into());
        Box::new(Conflict { alias, keyword: "proxyusefdpass", value, by, is_own: false, fix })
    };
    let errors: Vec<Error> = vec![
        SshError::Conflict(conflict(Some(Location { file: path(), line: 1 }), Fix::Move)).into(),
        SshError::Conflict(conflict(None, Fix::Move)).into(),
        SshError::Conflict(conflict(None, Fix::Write { keyword: "ProxyUseFdpass", value: "no" })).into(),
        SystemError::InsecurePermissions { path: path(), mode: 0o644, required: 0o600 }.into(),
        SshError::NotWritten { action: "write", path: path(), cause: "the disk is full".into() }.into(),
        SshError::Changed(path()).into(),
        SshError::NotOurs(path()).into(),
        SshError::NoHostKey { machine: NAME.into(), cause: "Connection closed".into() }.into(),
        SshError::NoAgent.into(),
        rejected(Place::Line(1), "Bad number 'x'."),
        rejected(Place::Line(1), "Bad configuration option: usekeychain"),
        rejected(Place::Line(1), "Bad configuration option: \u{feff}host"),
        rejected(Place::Block(3, "Bogus 1".into()), "Bad configuration option: bogus"),
        rejected(Place::File, "Bad owner or permissions"),
        rejected(Place::File, "Too many recursive configuration includes"),
        rejected(Place::File, "vdollar_percent_expand: env var ${X} has no value"),
        rejected(Place::File, "ssh: Could not resolve host \"web01\""),
        not_included(None),
        not_included(Some("/home/me/.ssh/config line 5".into())),
        SshError::NoUser("12345".into()).into(),
        SshError::Shell { shell: path(), cause: "No such file or directory".into() }.into(),
        SshError::ShellPrints { shell: path(), text: "\"Welcome\"".into() }.into(),
        damaged("line 9 ends a managed block that no line begins", Some((3, 9))),
        damaged("line 3 begins a managed block that no line ends", None),
        SshError::NoBlock { path: path(), included: None }.into(),
        SshError::NoBlock { path: path(), included: Some("/home/me/.ssh/conf.d/arc".into()) }.into(),
        SshError::NoEntry { path: path(), name: "web01".into(), similar: Vec::new() }.into(),
        SshError::NoEntry { path: path(), name: "wbe01".into(), similar: vec!["web01".into()] }.into(),
        SshError::Overridden(overridden(Some(Location { file: path(), line: 1 }))).into(),
        SshError::Overridden(overridden(None)).into(),
        SystemError::LogNotOpened { path: path(), cause: "it is a directory".into() }.into(),
        SystemError::LogInsecure { path: path(), mode: 0o644 }.into(),
        SystemError::NotALog(path()).into(),
        SystemError::ArchiveExists(path()).into(),
        SystemError::ArchiveNotCreated { path: path(), cause: "Permission denied".into() }.into(),
        SshError::OtherForwarding { forwarding: "LocalForward 2201".into(), by: None }.into(),
        ListenError::PortInUse(address).into(),
        ListenError::PortDenied(address).into(),
        ListenError::NoSuchAddress(address).into(),
        ListenError::SocketInUse(path()).into(),
        ListenError::Occupied(path()).into(),
        ListenError::TooLong(path()).into(),
        ListenError::Exposed { socket: path(), directory: path(), mode: 0o1777 }.into(),
        ListenError::Failed { place: "/a".into(), cause: reset() }.into(),
        SshError::AgentSocket(SocketProblem::Occupied(path())).into(),
        SshError::AgentSocket(SocketProblem::Open { directory: path(), mode: 0o777 }).into(),
        SshError::AgentSocket(SocketProblem::NotOwn(path())).into(),
        SshError::AgentSocket(SocketProblem::TooLong(path())).into(),
        SystemError::Descriptors("1024 of 1024 are open".into()).into(),
        SystemError::Threads("no memory".into()).into(),
        SystemError::Randomness.into(),
        SshError::Failed("it failed".into()).into(),
    ];
    let changes = CHANGES.iter().map(|change| SshError::Conflict(conflict(None, Fix::Change(change))).into());
    let no_program = |cause: &str| {
        SshError::NoProgram { alias: "web01".into(), program: "/a".into(), cause: cause.into() }.into()
    };
    let programs = PROGRAMS.iter().copied().map(no_program);
    let client = |cause: &str| SshError::Client { program: "/ssh".into(), cause: cause.into() }.into();
    let certificate =
        |cause: &str| SshError::CertificateFile { file: "/c".into(), cause: cause.into() }.into();
    let certificates = CERTIFICATE_FILES.iter().copied().map(certificate);
    let clients = CLIENTS.iter().copied().map(client);
    let errors = errors.into_iter().chain(changes).chain(programs).chain(clients).chain(certificates);
    let panics = ["OS can't spawn worker thread", "cannot create UnixStream", "no random bytes", "a bug"];
    let mut examples: Vec<Diagnosis> = errors.into_iter().map(diagnose).collect();
    examples.extend(panics.map(|text| system::panic(text, None)));
    examples
}

fn examples_of_the_doctor() -> Vec<Diagnosis> {
    let (id, set_up) = (id(), "arcssh setup web01");
    let expired = "Expired since 2026-01-01";
    let disconnected = "Disconnected since 2026-01-01";
    [
        Finding::ProgramMissing { program: "ssh", package: "openssh-client" },
        Finding::TokenExpires("Azure CLI"),
        Finding::ClockSkew(400),
        Finding::ProviderState { state: "NotRegistered", set_up },
        Finding::Disconnected { status: disconnected, is_expired: false, responds: true },
        Finding::Disconnected { status: disconnected, is_expired: false, responds: false },
        Finding::Disconnected { status: expired, is_expired: true, responds: false },
        Finding::AgentVersion { version: "1.30", os: "linux", supports_ssh: false },
        Finding::AgentVersion { version: "1.30", os: "windows", supports_ssh: true },
        Finding::MonitorMode { os: "linux" },
        Finding::MonitorMode { os: "windows" },
        Finding::PrivateLink(&id),
        Finding::NoPermission,
        Finding::NoEndpoint { set_up },
        Finding::NotEnabled { set_up },
        Finding::PortOfEntry { enabled: 22, port: 2222, alias: "web01" },
        Finding::PortTaken { enabled: 22, port: 2222, set_up },
        Finding::NoExtension { set_up },
        Finding::ExtensionState { state: "Failed", set_up },
        Finding::NoSshd { summary: "no service listens on port 22 of the machine (503)", set_up },
        Finding::SshdOutdated("OpenSSH_7.4"),
        Finding::HostKeyChanged { file: "known_hosts", name: "web01" },
        Finding::HostKeyUnknown { alias: "web01" },
        Finding::ForeignConfig("config"),
        Finding::WritableConfig { file: "config", mode: 0o666, by_group: false },
        Finding::OtherProgram { entry: "/a/arcssh", own: "/b/arcssh" },
        Finding::ProgramElsewhere { program: "/a/arcssh", cause: "does not exist" },
        Finding::NoKey { alias: "web01", file: "~/.ssh/id" },
        Finding::CertificateFile {
            alias: "web01",
            file: "/c-cert.pub",
            cause: "expired at 2026-01-01T00:00:00Z",
        },
        Finding::ExposedKey { alias: "web01", file: "/h/.ssh/id", mode: 0o644 },
        Finding::NoStateDirectory,
    ]
    .map(|finding| finding.diagnose())
    .into()
}

/// A row of a table in docs/TROUBLESHOOTING.md.
struct Row<'a> {
    messages: Vec<&'a str>,
    codes: Vec<&'a str>,
    fixes: Vec<&'a str>,
}

/// Parses the tables with the columns Message, Code, Cause and Fix.
fn rows() -> Vec<Row<'static>> {
    let quotes = |cell: &'static str| cell.split('`').skip(1).step_by(2).collect::<Vec<_>>();
    let (_, text) = DOCUMENT.split_once("\n## What arcssh prints\n").unwrap();
    let mut rows: Vec<Row<'_>> = Vec::new();
    for line in text.lines() {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").collect();
        let [message, code, _, fix] = cells[..] else { continue };
        let codes = quotes(code);
        if codes.is_empty() {
            continue;
        }
        let mut fixes = quotes(fix);
        let other =
            |row: &&Row<'_>| fix.contains("as above") || fix.contains("as for ") && row.codes == [fixes[0]];
        if let Some(row) = rows.iter().rev().find(other) {
            fixes.extend(&row.fixes);
        }
        if fix.contains("the command in the hint") {
            fixes.push("run: …");
        }
        rows.push(Row { messages: quotes(message), codes, fixes });
    }
    rows
}

/// Returns whether a pattern, in which `…` is any text, matches all of `text`.
fn matches(pattern: &str, text: &str) -> bool {
    let pieces: Vec<&str> = pattern.split('…').collect();
    let [first, middle @ .., last] = &pieces[..] else { return pattern == text };
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    for piece in middle {
        match rest.split_once(piece) {
            Some((_, after)) => rest = after,
            None => return false,
        }
    }
    rest.ends_with(last)
}

fn any_matches(patterns: &[&str], text: &str) -> bool {
    patterns.iter().any(|pattern| matches(pattern, text))
}

#[test]
fn every_error_is_documented_with_its_code_and_hint() {
    let rows = rows();
    let mut missing = Vec::new();
    for Diagnosis { code, summary, hint, .. } in examples() {
        let of_code: Vec<&Row<'_>> = rows.iter().filter(|row| row.codes.contains(&code.slug())).collect();
        if code == Code::Failed && hint.is_none() {
            assert!(!of_code.is_empty());
            continue;
        }
        let documented: Vec<&&Row<'_>> =
            of_code.iter().filter(|row| any_matches(&row.messages, &summary)).collect();
        if documented.is_empty() {
            missing.push(format!("{}: {summary}", code.slug()));
        } else if let Some(Hint { text, .. }) = hint
            && !documented.iter().any(|row| any_matches(&row.fixes, &text))
        {
            missing.push(format!("{}: hint: {text}", code.slug()));
        }
    }
    assert!(missing.is_empty(), "not documented:\n{}", missing.join("\n"));
}

#[test]
fn every_documented_message_exists() {
    let examples = examples();
    let mut unknown = Vec::new();
    for Row { messages, codes, .. } in rows() {
        unknown.extend(
            codes.iter().copied().filter(|code| !Code::ALL.iter().any(|known| known.slug() == *code)),
        );
        let exists = |message: &str| {
            let is_printed = |example: &Diagnosis| {
                codes.contains(&example.code.slug()) && matches(message, &example.summary)
            };
            examples.iter().any(is_printed)
        };
        unknown.extend(messages.into_iter().filter(|message| !exists(message)));
    }
    assert!(unknown.is_empty(), "no error has:\n{}", unknown.join("\n"));
}

#[test]
fn every_code_is_documented_once_and_has_an_error() {
    let (rows, examples) = (rows(), examples());
    for code in Code::ALL {
        let slug = code.slug();
        assert!(slug.chars().all(|c| c.is_ascii_lowercase() || c == '-'), "{slug}");
        assert_eq!(Code::ALL.iter().filter(|other| other.slug() == slug).count(), 1, "{slug}");
        assert!(rows.iter().any(|row| row.codes.contains(&slug)), "{slug} is not documented");
        assert!(examples.iter().any(|example| example.code == *code), "{slug} has no error");
    }
}

#[test]
fn a_message_is_one_line_and_a_hint_contains_its_command() {
    for Diagnosis { summary, hint, .. } in examples() {
        assert!(!summary.is_empty() && sanitize(&summary) == summary, "{summary}");
        let Some(Hint { text, command }) = hint else { continue };
        assert!(!text.is_empty() && sanitize(&text) == text, "{text}");
        if let Some(command) = command {
            assert!(text.ends_with(&command), "{text}");
            let placeholder = |word: &str| word.len() > 2 && word.chars().all(|c| c.is_ascii_uppercase());
            let words: Vec<&str> = command.split_whitespace().collect();
            assert!(!words.iter().any(|word| placeholder(word)), "a shell cannot run: {command}");
        }
    }
}

/// Asserts the code of each error, and parts of its message and hint.
#[track_caller]
fn assert_diagnoses<E: Into<Error>>(rows: impl IntoIterator<Item = (E, Code, &'static str, String)>) {
    for (error, code, summary, hint) in rows {
        let diagnosis = diagnose(error);
        let text = diagnosis.hint.map(|hint| hint.text).unwrap_or_default();
        assert_eq!(diagnosis.code, code, "{}", diagnosis.summary);
        assert!(diagnosis.summary.contains(summary), "{}", diagnosis.summary);
        assert!(text.contains(&hint), "{text}");
    }
}

/// The error codes of ARM and of Microsoft.HybridConnectivity.
#[test]
fn errors_of_azure_resource_manager_have_codes_by_status_and_code() {
    let endpoint = "The resource 'Microsoft.HybridCompute/machines/web01/providers/Microsoft.HybridConnectivity/endpoints/default' could not be found.";
    let machine =
        "The Resource 'Microsoft.HybridCompute/machines/web01' under resource group 'rg' was not found.";
    let set_up = format!("arcssh setup {NAME}");
    let rows = [
        (arm(401, "InvalidAuthenticationToken", ""), Code::TokenRejected, "rejected", "arcssh login"),
        (arm(401, "ExpiredAuthenticationToken", ""), Code::TokenRejected, "rejected", "arcssh login"),
        (arm(401, "InvalidAuthenticationTokenTenant", ""), Code::TokenRejected, "", "login --tenant contoso"),
        (arm(404, "SubscriptionNotFound", ""), Code::SubscriptionNotFound, "subscription", "arcssh account"),
        (arm(404, "ResourceGroupNotFound", ""), Code::MachineNotFound, "does not exist", "arcssh list"),
        (arm(404, "ResourceNotFound", machine), Code::MachineNotFound, "does not exist", "arcssh list"),
        (arm(404, "ResourceNotFound", endpoint), Code::NoEndpoint, "no connectivity endpoint", &set_up),
        (arm(412, "", ""), Code::ServiceNotEnabled, "SSH is not enabled", &set_up),
        (
            arm(400, "NoRegisteredProviderFound", "The supported locations are 'eastus'."),
            Code::ProviderNotRegistered,
            "(NoRegisteredProviderFound: The supported locations are 'eastus'.)",
            &set_up,
        ),
        (arm(409, "MissingSubscriptionRegistration", ""), Code::ProviderNotRegistered, "registered", &set_up),
        (arm(409, "ScopeLocked", "locked"), Code::ResourceLocked, "lock", "az lock list --resource /sub"),
        (
            arm(409, "ReadOnlyDisabledSubscription", ""),
            Code::AccessDenied,
            "subscription is disabled",
            "billing",
        ),
        (arm(403, "DisabledSubscription", ""), Code::AccessDenied, "subscription is disabled", "billing"),
        (arm(404, "SubscriptionIsSuspended", ""), Code::AccessDenied, "subscription is disabled", "billing"),
        (
            arm(404, "InvalidResourceNamespace", ""),
            Code::RegionNotServed,
            "cloud does not provide SSH",
            "--cloud",
        ),
        (arm(400, "InvalidResourceType", ""), Code::RegionNotServed, "cloud does not provide SSH", "--cloud"),
        (arm(403, "RequestDisallowedByAzure", "the region"), Code::BlockedByPolicy, "the region", "support"),
        (arm(403, "RequestDisallowedByAzure", "MFA is required"), Code::TokenRejected, "MFA", "arcssh login"),
        (
            arm(403, "RequestDisallowedByPolicy", "Users must use multi-factor"),
            Code::TokenRejected,
            "",
            "login",
        ),
        (arm(408, "", ""), Code::TimedOut, "in time", "retry"),
        (arm(409, "Conflict", "busy"), Code::RequestRejected, "busy", "Azure support"),
        (arm(400, "", ""), Code::RequestRejected, "400", "Azure support"),
        (arm(418, "", ""), Code::RequestRejected, "418", "Azure support"),
        (arm(403, "RequestDisallowedByPolicy", ""), Code::BlockedByPolicy, "Azure Policy", "policies"),
        (arm(429, "TooManyRequests", ""), Code::Throttled, "throttles", "retry in a minute"),
        (arm(500, "InternalServerError", ""), Code::ServiceError, "failed", "retry"),
        (arm(503, "", ""), Code::ServiceError, "failed", "retry"),
        (arm(302, "", ""), Code::UnexpectedResponse, "proxy", "https://management.azure.com"),
        (arm(407, "", ""), Code::UnexpectedResponse, "proxy", "https://management.azure.com"),
        (arm(403, "", "blocked"), Code::AccessDenied, "rejected", "owner of the machine"),
    ];
    assert_diagnoses(rows.map(|(error, code, summary, hint)| (error, code, summary, hint.to_owned())));
}

/// The scope of the lock is in the message, and can be above the machine.
#[test]
fn the_hint_for_a_lock_lists_the_locks_of_its_scope() {
    let subscription = "/subscriptions/5b5c";
    for (scope, what, command) in [
        (subscription.to_owned(), "the subscription 5b5c", "az account lock list --subscription 5b5c"),
        (
            format!("{subscription}/resourcegroups/rg (1)"),
            "the resource group rg (1)",
            "az group lock list --resource-group 'rg (1)' --subscription 5b5c",
        ),
        (
            format!("{subscription}/resourceGroups/rg/providers/P/t/n"),
            "the resource n",
            "az lock list --resource /subscriptions/5b5c/resourceGroups/rg/providers/P/t/n",
        ),
    ] {
        let message = format!(
            "The scope '{ID}/providers/x' cannot perform write operation because following scope(s) are locked: '{scope}'. Please remove the lock and try again."
        );
        let diagnosis = diagnose(arm(409, "ScopeLocked", &message));
        assert!(
            diagnosis.summary.contains(&format!("a lock protects {what} against changes")),
            "{diagnosis:?}"
        );
        assert_eq!(diagnosis.hint.unwrap().command.as_deref(), Some(command));
    }
}

/// The texts are those of a managed application and of a deployment stack, whose name contains quotes.
#[test]
fn a_deny_assignment_is_named() {
    for name in [
        "System deny assignment created by managed application /subscriptions/s",
        "Deny assignment 'x' created by Deployment Stack '/y'.",
    ] {
        let message = format!(
            "The client 'a' with object id 'b' has permission to perform action 'c' on scope 'd'; however, the access is denied because of the deny assignment with name '{name}' and Id 'e' at scope '/subscriptions/s/resourceGroups/rg'."
        );
        let diagnosis = diagnose(arm(403, "DenyAssignmentAuthorizationFailed", &message));
        assert!(diagnosis.summary.ends_with(&format!("denies the access ({name})")), "{}", diagnosis.summary);
        assert!(!diagnosis.hint.unwrap().text.contains("retry"));
    }
}

/// Only sources whose sign-in can be repeated here get a command.
#[test]
fn a_rejected_token_gets_the_hint_of_its_source() {
    use CredentialSource::*;
    let challenge = format!("--claims-challenge \"{CLAIMS}\" --tenant contoso");
    let rows = [
        (Arcssh, None, "arcssh login".to_owned()),
        (Environment, None, "check AZURE_TENANT_ID".to_owned()),
        (WorkloadIdentity, None, "federated credentials".to_owned()),
        (ManagedIdentity, None, "another credential source".to_owned()),
        (AzureCli, None, "az login".to_owned()),
        (Any, Some(CLAIMS), "arcssh login --tenant contoso".to_owned()),
        (Arcssh, Some(CLAIMS), "arcssh login --tenant contoso".to_owned()),
        (AzureCli, Some(CLAIMS), format!("sign in again: az login {challenge}")),
        (
            AzurePowershell,
            Some(CLAIMS),
            format!("Connect-AzAccount -ClaimsChallenge \"{CLAIMS}\" -Tenant contoso"),
        ),
        (Environment, Some(CLAIMS), "ask an administrator".to_owned()),
        (ManagedIdentity, Some(CLAIMS), "ask an administrator".to_owned()),
    ];
    for (source, challenge, hint) in rows {
        let diagnosis = diagnose(of_token(source, challenge));
        let found = diagnosis.hint.unwrap();
        assert_eq!(diagnosis.code, Code::TokenRejected);
        assert!(found.text.contains(&hint), "{source:?}: {}", found.text);
        assert_eq!(diagnosis.summary.contains("multi-factor"), challenge.is_some(), "{}", diagnosis.summary);
        if matches!(source, AzureCli | AzurePowershell) && challenge.is_some() {
            assert!(found.command.is_some());
        }
    }
}

#[test]
fn a_missing_permission_gets_the_least_privileged_role() {
    let connectivity = "Microsoft.HybridConnectivity";
    let manager = "'Azure Connected Machine Resource Manager' --assignee oid";
    let login = "'Virtual Machine Local User Login' --assignee oid";
    let rows = [
        ("endpoints/listCredentials/action", "no permission to connect", login),
        ("endpoints/write", "lacks the permission Microsoft.HybridConnectivity/endpoints/write", manager),
        ("endpoints/serviceConfigurations/write", "lacks the permission", manager),
        ("endpoints/delete", "lacks the permission", "'Contributor' --assignee oid"),
        ("register/action", "lacks the permission", "'Contributor' --assignee oid --scope /subscriptions/s"),
    ];
    let of = |permission: &str| forbidden(&format!("{connectivity}/{permission}"));
    assert_diagnoses(
        rows.map(|(name, summary, hint)| (of(name), Code::AccessDenied, summary, hint.to_owned())),
    );
    let read = forbidden("Microsoft.HybridCompute/machines/read");
    let hint = format!("{login} --scope {ID}");
    assert_diagnoses([(read, Code::AccessDenied, "lacks the permission", hint)]);
    let subscription = "'Contributor' --assignee oid --scope /subscriptions/s";
    for (action, hint) in
        [(SET_UP[0], format!("{manager} --scope {ID}")), (REGISTER, subscription.to_owned())]
    {
        let summary = "the account of arcssh login (ada) lacks the permission Microsoft.HybridConnectivity/";
        assert_diagnoses([(not_permitted(action), Code::AccessDenied, summary, hint)]);
    }
}

fn extension(error: ExtensionError) -> Error {
    ProvisionError::from(error).into()
}

fn restricted(os: &str, by: Restriction) -> ExtensionError {
    ExtensionError::Restricted { extension: Sshd, os: os.into(), by }
}

fn pending(extension: SshExtension) -> ExtensionError {
    ExtensionError::Pending { extension, state: "Creating".into(), after: Duration::from_secs(900) }
}

#[test]
fn errors_of_extensions_have_the_command_that_continues() {
    let set_up = |option| format!("arcssh setup {NAME} {option}");
    let failed = ExtensionError::Failed { extension: Entra, message: "exit code 22".into() };
    let allow = "sudo azcmagent config set extensions.allowlist Microsoft.Azure.OpenSSH/WindowsOpenSSH --add";
    let rows = [
        (
            ExtensionError::Unfit(Sshd),
            Code::ExtensionUnsupported,
            "a package of the distribution",
            format!("arcssh doctor {NAME}"),
        ),
        (
            failed,
            Code::ExtensionFailed,
            "the extension AADSSHLoginForLinux failed (exit code 22)",
            set_up("--entra"),
        ),
        (pending(Sshd), Code::ExtensionPending, "still in the state Creating after 900 s", set_up("--sshd")),
        (
            restricted("linux", Restriction::Allowlist),
            Code::AgentRestricted,
            "extensions.allowlist",
            allow.to_owned(),
        ),
    ];
    assert_diagnoses(
        rows.map(|(error, code, summary, hint)| (ProvisionError::from(error), code, summary, hint)),
    );
}

/// The error of a check before the change.
fn not_permitted(action: &'static str) -> ProvisionError {
    let caller = Caller { source: CredentialSource::Arcssh, name: "ada".into(), others: Vec::new() };
    ProvisionError::NotPermitted { caller: Box::new(caller), object_id: "oid".into(), action }
}

/// Responses of Azure Relay, and of the agent through it.
#[test]
fn errors_of_the_relay_have_codes_by_status_and_reason() {
    let port_closed = "connection to localhost:22 failed: dial tcp [::1]:22: connectex: No connection could be made because the target machine actively refused it.";
    let ip = "Generic: Ip has been prevented to connect to the endpoint";
    let dry_run = format!("arcssh setup {NAME} --dry-run");
    let rows = [
        (relay(404, "Endpoint does not exist."), Code::AgentOffline, "not connected", "azcmagent show"),
        (
            relay(404, "There are no listeners connected for the endpoint."),
            Code::AgentOffline,
            "",
            "azcmagent",
        ),
        (
            relay(401, "InvalidSignature: The token has an invalid signature."),
            Code::RelayCredentialsRejected,
            "",
            "clock",
        ),
        (
            relay(401, "InvalidAudience: a wrong audience."),
            Code::RelayCredentialsRejected,
            "rejected",
            "clock",
        ),
        (relay(401, "ExpiredToken: The token is expired."), Code::RelayCredentialsRejected, "", "clock"),
        (relay(401, ip), Code::IpBlocked, "blocks the IP address", "another network"),
        (relay(403, "Forbidden"), Code::ConnectionRejected, "rejected the connection", &dry_run),
        (
            relay(400, "This endpoint is only for web-socket requests"),
            Code::UnexpectedResponse,
            "WebSocket",
            RELAY,
        ),
        (
            relay(407, "Proxy Authentication Required"),
            Code::UnexpectedResponse,
            "instead of the relay",
            RELAY,
        ),
        (relay(408, "Timeout"), Code::AgentOffline, "did not respond in time", "azcmagent show"),
        (relay(504, "Timeout"), Code::AgentOffline, "did not respond in time", "azcmagent show"),
        (relay(500, "Internal error"), Code::ServiceError, "the relay failed", "retry"),
        (relay(502, "Bad gateway"), Code::ServiceError, "the relay failed", "retry"),
        (relay(503, port_closed), Code::PortClosed, "no service listens on port 22", "start sshd"),
        (relay(503, "Busy"), Code::ServiceError, "the relay failed (", "retry"),
        (relay(503, "Service Unavailable"), Code::ServiceError, "or a proxy", "sshd listens on port 22"),
        (relay(426, ""), Code::UnexpectedResponse, "removed the WebSocket upgrade", RELAY),
        (relay(511, ""), Code::UnexpectedResponse, "instead of the relay", RELAY),
        (relay(418, "Not this port"), Code::ConnectionRejected, "rejected the connection", &dry_run),
        (
            ConnectError::TimedOut(Duration::from_secs(40)),
            Code::AgentOffline,
            "within 40 s",
            "azcmagent show",
        ),
    ];
    assert_diagnoses(rows.map(|(error, code, summary, hint)| (error, code, summary, hint.to_owned())));
}

#[test]
fn the_end_of_a_connection_names_its_cause() {
    let rows = [
        (closed(1001), Code::ConnectionLost, "agent disconnected", "connect again"),
        (closed(1008), Code::ConnectionLost, "token has expired", "connect again"),
        (closed(1011), Code::ConnectionLost, "the relay failed", "connect again"),
        (BridgeError::Lost(reset()), Code::ConnectionLost, "was lost", "connect again"),
        (
            BridgeError::NotSent(io::Error::from_raw_os_error(104)),
            Code::ConnectionLost,
            "cannot send to the relay: Connection reset by peer (os error 104)",
            "connect again",
        ),
        (BridgeError::Silent, Code::ConnectionLost, "2 pings are unanswered", "connect again"),
        (
            BridgeError::Violation { relay: RELAY.into(), violation: Violation::Masked },
            Code::ProtocolViolation,
            "violated the WebSocket protocol: a frame is masked",
            "connect again; if a proxy inspects TLS",
        ),
        (
            BridgeError::Input(io::Error::from_raw_os_error(5)),
            Code::InputFailed,
            "cannot read standard input: Input/output error (os error 5)",
            "readable file",
        ),
    ];
    assert_diagnoses(rows.map(|(error, code, summary, hint)| (error, code, summary, hint.to_owned())));
}

/// Azure Resource Manager has issued the name, so only the relay's domain can be the cause.
#[test]
fn an_unknown_relay_gets_a_hint_about_dns_and_its_private_zone() {
    for suffix in [CloudName::Public, CloudName::China, CloudName::UsGov].map(CloudName::relay_suffix) {
        let host = format!("azgn.{suffix}");
        let unknown = diagnose(ConnectError::Net(unknown_host(&host)));
        let hint = unknown.hint.unwrap().text;
        assert!(hint.contains(&format!("does not know {host}")), "{hint}");
        assert!(hint.contains(&format!("zone privatelink.{suffix} is linked")), "{hint}");
    }
    let arm = diagnose(unknown_host("management.azure.com")).hint.unwrap().text;
    assert!(arm.contains("check the network of this computer"), "{arm}");
}

/// An administrator allows in the firewall the host that a hint names.
#[test]
fn a_hint_names_the_hosts_of_the_selected_cloud_only() {
    let clouds = [CloudName::Public, CloudName::China, CloudName::UsGov];
    let hosts = clouds.map(|name| {
        let cloud = Cloud::new(name, &Endpoints::default()).unwrap();
        let [arm, entra] = [&cloud.arm_endpoint, &cloud.authority_host].map(|url| url.authority().to_owned());
        [arm, entra, format!("azgn.{}", name.relay_suffix())]
    });
    for [arm, entra, relay] in &hosts {
        let response = ErrorResponse { host: arm.as_str().into(), status: 302, ..ErrorResponse::default() };
        let invalid = ArmError::InvalidResponse { host: arm.clone(), cause: "no JSON".into() };
        let host = entra.clone();
        let from_entra = entra::Rejection { host, status: 302, ..entra::Rejection::default() };
        let from_entra = of_source(CredentialSource::Environment, SourceError::Entra(from_entra));
        let from_proxy = NetError::ProxyRejected {
            proxy: "proxy:3128".into(),
            host: format!("{relay}:443"),
            status: Some(403),
            cause: "Forbidden".into(),
        };
        let violation = BridgeError::Violation { relay: relay.clone(), violation: Violation::Masked };
        let rejected = |status, reason| ConnectError::from(Rejection::new(relay, status, reason));
        let rows: [(Error, &str); 8] = [
            (ArmError::Rejected(response).into(), arm),
            (invalid.into(), arm),
            (ArmError::Credential(from_entra).into(), entra),
            (rejected(426, "").into(), relay),
            (rejected(302, "Found").into(), relay),
            (rejected(503, "Service Unavailable").into(), relay),
            (from_proxy.into(), relay),
            (violation.into(), relay),
        ];
        for (error, host) in rows {
            let hint = diagnose(error).hint.unwrap().text;
            let is_named = |host: &&String| {
                let after = |at: usize| hint[at + host.len()..].chars().next();
                hint.match_indices(host.as_str())
                    .any(|(at, _)| !after(at).is_some_and(|c| c == '.' || c.is_alphanumeric()))
            };
            let named: Vec<&String> = hosts.iter().flatten().filter(is_named).collect();
            assert_eq!(named, [host], "{hint}");
        }
    }
}

#[test]
fn the_setup_command_is_for_the_connection_that_failed() {
    let set_up = |port, service| Context::connecting(Target { port, service, ..target() }).set_up();
    let command = |port, service| set_up(port, service).command.unwrap();
    assert_eq!(Context::default().set_up().command, None, "a shell cannot run a placeholder");
    assert_eq!(command(22, Service::Ssh), format!("arcssh setup {NAME}"));
    assert_eq!(command(2222, Service::Ssh), format!("arcssh setup {NAME} --port 2222"));
    assert_eq!(command(6516, Service::Wac), format!("arcssh setup {NAME} --service WAC"));
    assert_eq!(command(22, Service::Wac), format!("arcssh setup {NAME} --service WAC --port 22"));
}

#[test]
fn a_message_begins_with_the_action_and_the_machine() {
    let prefix = |action, error: Error| Context { action, target: Some(target()) }.prefix(&error);
    assert_eq!(prefix(Action::Connect, relay(404, "").into()), "cannot connect to web01: ");
    assert_eq!(prefix(Action::Connect, BridgeError::Silent.into()), "lost the connection to web01: ");
    let not_ssh = BridgeError::NotSsh(NotSsh::Closed);
    assert_eq!(prefix(Action::Connect, not_ssh.into()), "cannot connect to web01: ");
    assert_eq!(prefix(Action::SetUp, ProvisionError::NotVisible.into()), "cannot set up web01: ");
    assert_eq!(prefix(Action::TearDown, arm(500, "", "").into()), "cannot tear down web01: ");
    assert_eq!(prefix(Action::Other, arm(500, "", "").into()), "");
    assert_eq!(Context::default().prefix(&arm(500, "", "").into()), "");
}

#[test]
fn one_failed_machine_of_several_keeps_its_exit_status() {
    let offline = || Err::<(), _>(Error::from(relay(404, "")));
    let status = |results| all_done(results).unwrap_err().diagnose().code.exit_status();
    assert!(all_done(vec![Ok(()), Ok(())]).is_ok());
    assert_eq!(status(vec![offline()]), ExitStatus::NoListener);
    assert_eq!(status(vec![offline(), Ok(())]), ExitStatus::Failed);
}

#[test]
fn a_panic_shows_no_text_of_the_panic() {
    let diagnosis = system::panic("called `Result::unwrap()` on an `Err` value: secret", None);
    assert_eq!(diagnosis.summary, "stopped by a bug in arcssh");
    let no_thread = "OS can't spawn worker thread: Resource temporarily unavailable (os error 11)";
    assert_eq!(system::panic(no_thread, None).code, Code::LimitReached);
    let no_randomness = "could not retrieve random bytes for uuid: FAILED";
    assert_eq!(system::panic(no_randomness, None).code, Code::LimitReached);
}

#[test]
fn the_hint_for_a_locked_key_is_in_the_syntax_of_each_shell() {
    use crate::diagnosis::credentials::{without_password_in_powershell, without_password_in_unix};
    let unix = without_password_in_unix("'a b.pem'", "'a b.pem.pem'");
    assert!(unix.contains(" && openssl x509 -in 'a b.pem' >> 'a b.pem.pem'"), "{unix}");
    let powershell = without_password_in_powershell("'a b.pem'", "'a b.pem.pem'");
    assert!(!powershell.contains("&&") && !powershell.contains('>'), "{powershell}");
    assert!(powershell.contains("| Add-Content -Encoding ascii 'a b.pem.pem'"), "{powershell}");
}
