//! The codes and exit statuses of errors, for scripts and for docs/TROUBLESHOOTING.md.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The exit statuses of arcssh. ssh passes none of them on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum ExitStatus {
    /// Any failure without a status of its own.
    Failed = 1,
    /// The command line cannot be used; clap exits with the same status.
    Usage = 2,
    /// No account is signed in, or Entra ID rejects its credential.
    Auth = 3,
    /// The account, a policy or a lock does not allow it.
    Denied = 4,
    /// The machine, its endpoint or its service does not exist.
    NotConfigured = 5,
    /// The network, a proxy or TLS.
    Network = 6,
    /// The machine's Arc agent or its port does not accept the connection.
    NoListener = 7,
    /// SIGHUP, as shells report it: ssh no longer needs the connection.
    HungUp = 129,
    /// SIGINT, as shells report it.
    Interrupted = 130,
    /// SIGTERM, as shells report it.
    Terminated = 143,
}

impl ExitStatus {
    /// Each status and its meaning, for arcssh(1).
    pub(crate) const MEANINGS: [(&str, &str); 9] = [
        ("0", "Success. For arcssh proxy: the session has ended."),
        (
            "1",
            "Any other error. For config and setup with --dry-run: there are changes. For doctor: a check failed. For \
             commands on several machines: one of them failed.",
        ),
        ("2", "The command line is invalid."),
        ("3", "There is no usable credential, or Entra ID rejected it."),
        (
            "4",
            "Access is denied: a permission is missing, a policy forbids the request, or arcssh does not trust the relay.",
        ),
        ("5", "The machine does not exist, or SSH is not enabled on it: arcssh-setup(1)."),
        ("6", "The network, a proxy or a TLS certificate prevents the connection to Azure."),
        ("7", "The machine's agent does not respond, or no server listens on its port."),
        ("128+N", "Signal N ended arcssh. 129 (SIGHUP): ssh closed the connection first."),
    ];
}

impl From<ExitStatus> for u8 {
    fn from(status: ExitStatus) -> Self {
        status as Self
    }
}

macro_rules! codes {
    ($($(#[$meta:meta])+ $name:ident = $slug:literal, $status:ident;)+) => {
        /// What kind of failure it is. The slugs and exit statuses never change.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub(crate) enum Code {
            $($(#[$meta])+ $name,)+
        }

        impl Code {
            /// Every code.
            #[cfg(test)]
            pub(crate) const ALL: &[Self] = &[$(Self::$name,)+];

            /// Returns the name of the code in JSON, in `arcssh last` and in docs/TROUBLESHOOTING.md.
            pub(crate) fn slug(self) -> &'static str {
                match self {
                    $(Self::$name => $slug,)+
                }
            }

            /// Returns the exit status of a command that fails with the code.
            pub(crate) fn exit_status(self) -> ExitStatus {
                match self {
                    $(Self::$name => ExitStatus::$status,)+
                }
            }

            fn of_slug(slug: &str) -> Option<Self> {
                match slug {
                    $($slug => Some(Self::$name),)+
                    _ => None,
                }
            }
        }
    };
}

codes! {
    /// Anything without a code of its own.
    #[default]
    Failed = "failed", Failed;

    /// A resource ID is malformed.
    InvalidResourceId = "invalid-resource-id", Usage;
    /// The command requires a machine, and none was given.
    NoMachine = "no-machine", Usage;

    /// No credential source has an account.
    NotSignedIn = "not-signed-in", Auth;
    /// The selected credential source is not available.
    CredentialUnavailable = "credential-unavailable", Auth;
    /// A credential source failed, or Entra ID rejected its credential.
    CredentialRejected = "credential-rejected", Auth;
    /// The Arc agent of this computer, which issues tokens, cannot be trusted or reached.
    ArcAgentUnavailable = "arc-agent-unavailable", Auth;
    /// Azure Resource Manager rejected the access token.
    TokenRejected = "token-rejected", Auth;
    /// `arcssh login` failed.
    LoginFailed = "login-failed", Auth;
    /// Another account than the expected one signed in.
    WrongAccount = "wrong-account", Auth;
    /// Entra ID issues no SSH certificate to the account.
    CertificateRejected = "certificate-rejected", Auth;
    /// The system's key store does not return the refresh token.
    KeyStoreUnavailable = "key-store-unavailable", Auth;

    /// The account lacks a permission.
    AccessDenied = "access-denied", Denied;
    /// Azure Policy denies the request.
    BlockedByPolicy = "blocked-by-policy", Denied;
    /// A lock protects the resource.
    ResourceLocked = "resource-locked", Denied;
    /// The relay rejected the relay credentials.
    RelayCredentialsRejected = "relay-credentials-rejected", Denied;
    /// The relay information of `az ssh config` has expired.
    RelayInformationExpired = "relay-information-expired", Denied;
    /// Relay credentials name a host outside of the relay domains.
    UntrustedRelay = "untrusted-relay", Denied;

    /// The resource provider is not registered.
    ProviderNotRegistered = "provider-not-registered", NotConfigured;
    /// The registration of the resource provider takes long.
    RegistrationPending = "registration-pending", NotConfigured;
    /// The resource provider does not serve the machine's region.
    RegionNotServed = "region-not-served", NotConfigured;
    /// The machine has no connectivity endpoint.
    NoEndpoint = "no-endpoint", NotConfigured;
    /// The service is not enabled on the machine.
    ServiceNotEnabled = "service-not-enabled", NotConfigured;
    /// The service is enabled on another port.
    PortInUse = "port-in-use", NotConfigured;
    /// The machine does not exist, or the account does not see it.
    MachineNotFound = "machine-not-found", NotConfigured;
    /// Several machines have the name.
    AmbiguousName = "ambiguous-name", NotConfigured;
    /// No machine matches the selection.
    NoMatch = "no-match", NotConfigured;
    /// The subscription does not exist, or the account sees none.
    SubscriptionNotFound = "subscription-not-found", NotConfigured;

    /// A host cannot be reached.
    NetworkUnreachable = "network-unreachable", Network;
    /// A host did not respond in time.
    TimedOut = "timed-out", Network;
    /// The proxy cannot be reached.
    ProxyUnreachable = "proxy-unreachable", Network;
    /// The proxy rejected the connection.
    ProxyRejected = "proxy-rejected", Network;
    /// The proxy cannot reach the host at the moment.
    ProxyFailed = "proxy-failed", Network;
    /// The proxy setting names no HTTP proxy, or cannot be used.
    UnsupportedProxy = "unsupported-proxy", Network;
    /// This computer does not trust the authority of a certificate.
    UntrustedCertificate = "untrusted-certificate", Network;
    /// A certificate has expired, or is not valid yet.
    CertificateDate = "certificate-date", Network;
    /// This computer has no root certificates.
    NoRootCertificates = "no-root-certificates", Network;
    /// The root certificates cannot be read.
    UnreadableRootCertificates = "unreadable-root-certificates", Network;
    /// TLS failed for another reason.
    TlsFailed = "tls-failed", Network;
    /// A proxy or a captive portal responded instead of the service.
    UnexpectedResponse = "unexpected-response", Network;
    /// The relay rejects the address of this network.
    IpBlocked = "ip-blocked", Network;

    /// The machine's Arc agent is not connected to the relay.
    AgentOffline = "agent-offline", NoListener;
    /// No service listens on the port of the machine.
    PortClosed = "port-closed", NoListener;

    /// The relay or the machine's agent rejected the connection.
    ConnectionRejected = "connection-rejected", Failed;
    /// A service throttles requests.
    Throttled = "throttled", Failed;
    /// A service of Azure failed.
    ServiceError = "service-error", Failed;
    /// A service of Azure rejected the request.
    RequestRejected = "request-rejected", Failed;
    /// A response of Azure cannot be used.
    InvalidResponse = "invalid-response", Failed;
    /// Azure does not show a change yet.
    ChangeNotVisible = "change-not-visible", Failed;
    /// The connection ended after it was established.
    ConnectionLost = "connection-lost", Failed;
    /// The relay violated the WebSocket protocol.
    ProtocolViolation = "protocol-violation", Failed;
    /// Standard input cannot be read.
    InputFailed = "input-failed", Failed;
    /// Standard output cannot be written.
    OutputFailed = "output-failed", Failed;
    /// Entra ID issued a certificate that cannot be used.
    UnusableCertificate = "unusable-certificate", Failed;
    /// No certificate is cached.
    NoCertificate = "no-certificate", Failed;
    /// A key for a certificate cannot be created.
    KeyGenerationFailed = "key-generation-failed", Failed;
    /// The sign-in cannot be stored.
    NotStored = "not-stored", Failed;
    /// The refresh token cannot be deleted.
    NotDeleted = "not-deleted", Failed;
    /// The user did not confirm the changes.
    NotConfirmed = "not-confirmed", Failed;
    /// Other users can access a file of arcssh.
    InsecurePermissions = "insecure-permissions", Failed;
    /// The ssh configuration cannot be written.
    ConfigNotWritable = "config-not-writable", Failed;
    /// Another program changed the ssh configuration at the same time.
    ConfigChanged = "config-changed", Failed;
    /// arcssh does not overwrite a file that it did not create.
    NotOverwritten = "not-overwritten", Failed;
    /// A machine sends no host key.
    NoHostKey = "no-host-key", Failed;
    /// ssh does not accept the ssh configuration.
    ConfigRejected = "config-rejected", Failed;
    /// ssh cannot run a ProxyCommand in the user's shell.
    ShellUnusable = "shell-unusable", Failed;
    /// A line of the ssh configuration overrides a host entry of arcssh.
    ConfigOverridden = "config-overridden", Failed;
    /// The socket of the SSH agent cannot be created.
    AgentSocket = "agent-socket", Failed;
    /// arcssh cannot listen on the local port or socket.
    CannotListen = "cannot-listen", Failed;
    /// The log file cannot be used.
    LogFile = "log-file", Failed;
    /// A limit of the system is reached.
    LimitReached = "limit-reached", Failed;

    /// A program of OpenSSH is not installed.
    ProgramMissing = "program-missing", Failed;
    /// This computer's clock differs from Azure's.
    ClockSkew = "clock-skew", Failed;
    /// The access token expires soon.
    TokenExpiring = "token-expiring", Failed;
    /// The state directory cannot be used.
    NoStateDirectory = "no-state-directory", Failed;
    /// Azure has removed the connection of the machine.
    MachineExpired = "machine-expired", Failed;
    /// The machine's Arc agent is too old.
    AgentOutdated = "agent-outdated", Failed;
    /// The machine's Arc agent is in a mode without remote connectivity.
    AgentRestricted = "agent-restricted", Failed;
    /// The machine's Arc agent uses a private link scope.
    PrivateLink = "private-link", Failed;
    /// The extension for Entra ID logins is not installed on the machine.
    ExtensionMissing = "extension-missing", Failed;
    /// An extension that logins need is not installed correctly.
    ExtensionFailed = "extension-failed", Failed;
    /// No extension does this on the machine.
    ExtensionUnsupported = "extension-unsupported", Failed;
    /// The installation or removal of an extension takes long.
    ExtensionPending = "extension-pending", Failed;
    /// The service on the port closes each connection.
    SshdClosed = "sshd-closed", Failed;
    /// sshd rejects the connection because of a limit.
    SshdLimited = "sshd-limited", Failed;
    /// The service on the port is not an SSH server.
    NotSsh = "not-ssh", Failed;
    /// The machine's OpenSSH is too old for the certificates of new clients.
    SshdOutdated = "sshd-outdated", Failed;
    /// The machine's host key differs from the known one.
    HostKeyChanged = "host-key-changed", Failed;
    /// The machine's host key is unknown, and ssh cannot ask the user.
    HostKeyUnknown = "host-key-unknown", Failed;

    /// ssh no longer waits for the connection.
    HungUp = "hung-up", HungUp;
    /// The user stopped arcssh.
    Interrupted = "interrupted", Interrupted;
    /// A signal stopped arcssh.
    Terminated = "terminated", Terminated;
}

impl Code {
    /// Returns the code of a command that a signal stopped before it was done.
    pub(crate) fn of_signal(number: u8) -> Self {
        match number {
            2 => Self::Interrupted,
            15 => Self::Terminated,
            _ => Self::HungUp,
        }
    }

    /// Returns whether `arcssh setup` repairs the failure.
    pub(crate) fn is_fixed_by_setup(self) -> bool {
        matches!(self, Self::ProviderNotRegistered | Self::NoEndpoint | Self::ServiceNotEnabled)
    }
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.slug())
    }
}

/// A newer version may have written a code that this one does not know.
impl<'de> Deserialize<'de> for Code {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let slug = String::deserialize(deserializer)?;
        Ok(Self::of_slug(&slug).unwrap_or(Self::Failed))
    }
}
