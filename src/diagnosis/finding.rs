//! Findings of `arcssh doctor` that no error describes.

use crate::azure::hybrid_compute::is_windows;
use crate::azure::rbac::{CONNECT, least_role};
use crate::azure::resource_id::ResourceId;
use crate::azure::resource_providers::NAMESPACE;
use crate::diagnosis::relay::{CHECK_AGENT, CONNECT_AGENT};
use crate::diagnosis::system::OTHER_DIRECTORY;
use crate::diagnosis::{Code, Diagnosis, ENABLE, Hint};
use crate::text::shell_quote;

/// A fact that makes connections fail, now or soon.
pub(crate) enum Finding<'a> {
    /// A program of OpenSSH is not installed; its package on Debian.
    ProgramMissing { program: &'a str, package: &'a str },
    /// The access token, which this text describes, expires now.
    TokenExpires(&'a str),
    /// By how many seconds the clock of this computer is ahead of Azure's.
    ClockSkew(i64),
    /// The provider has this state in the subscription; the command enables it.
    ProviderState { state: &'a str, set_up: &'a str },
    /// The machine has this status; whether it responds all the same.
    Disconnected { status: &'a str, is_expired: bool, responds: bool },
    /// The agent has this version, and this operating system.
    AgentVersion { version: &'a str, os: &'a str, supports_ssh: bool },
    /// The agent of a machine with this operating system is in monitor mode.
    MonitorMode { os: &'a str },
    /// The agent uses a private link scope.
    PrivateLink(&'a ResourceId),
    /// The account may not connect.
    NoPermission,
    /// The machine has no connectivity endpoint; the command creates it.
    NoEndpoint { set_up: &'a str },
    /// The service is not enabled; the command enables it.
    NotEnabled { set_up: &'a str },
    /// SSH is enabled on another port than the one of the host entry `alias`.
    PortOfEntry { enabled: u16, port: u16, alias: &'a str },
    /// SSH is enabled on another port than the requested one; the command changes it.
    PortTaken { enabled: u16, port: u16, set_up: &'a str },
    /// The extension for Entra ID logins is missing, and the account has a role for it; the command installs it.
    NoExtension { set_up: &'a str },
    /// The extension for Entra ID logins has this state; the command waits for it, or installs it again.
    ExtensionState { state: &'a str, set_up: &'a str },
    /// No service listens on the port of a Windows machine, as this error says; the command installs sshd.
    NoSshd { summary: &'a str, set_up: &'a str },
    /// The machine's OpenSSH is older than 7.8.
    SshdOutdated(&'a str),
    /// The host key differs from the one in the file, under this name.
    HostKeyChanged { file: &'a str, name: &'a str },
    /// No host key of this host entry is known, and ssh neither asks for one nor accepts it.
    HostKeyUnknown { alias: &'a str },
    /// The configuration belongs to another user.
    #[cfg_attr(not(unix), allow(dead_code, reason = "only Unix has modes and owners of files"))]
    ForeignConfig(&'a str),
    /// Others can write to the configuration; whether only its group can.
    #[cfg_attr(not(unix), allow(dead_code, reason = "only Unix has modes and owners of files"))]
    WritableConfig { file: &'a str, mode: u32, by_group: bool },
    /// The host entries start the arcssh at the first path; this one has the second.
    OtherProgram { entry: &'a str, own: &'a str },
    /// The host entries start a program of another computer. The cause is a verb with its object.
    ProgramElsewhere { program: &'a str, cause: &'a str },
    /// The `IdentityFile` of the host entry does not exist.
    NoKey { alias: &'a str, file: &'a str },
    /// ssh cannot use the `CertificateFile` of the host entry. The cause is a verb with its object.
    CertificateFile { alias: &'a str, file: &'a str, cause: &'a str },
    /// Others can access the private key of the host entry.
    ExposedKey { alias: &'a str, file: &'a str, mode: u32 },
    /// There is no state directory.
    NoStateDirectory,
}

impl Finding<'_> {
    /// Returns the finding as the user sees it.
    pub(crate) fn diagnose(&self) -> Diagnosis {
        match *self {
            Self::ProgramMissing { program, package } => Diagnosis::new(
                Code::ProgramMissing,
                format!("{program} is not installed"),
                Hint::command(installation(package)),
            ),
            Self::TokenExpires(token) => Diagnosis::new(
                Code::TokenExpiring,
                format!("{token}: the token expires now"),
                Hint::new("discard it: ", "arcssh cache clear"),
            ),
            Self::ClockSkew(skew) => Diagnosis::new(
                Code::ClockSkew,
                format!(
                    "the clock of this computer is {} s {} Azure's",
                    skew.unsigned_abs(),
                    if skew < 0 { "behind" } else { "ahead of" }
                ),
                Hint::new("set the clock: ", set_clock()),
            ),
            Self::ProviderState { state, set_up } => Diagnosis::new(
                Code::ProviderNotRegistered,
                format!("{NAMESPACE} is {state} in the subscription"),
                Hint::new(ENABLE, set_up),
            ),
            Self::Disconnected { status, responds: true, .. } => Diagnosis::without_hint(
                Code::AgentOffline,
                format!("the status is {status}, but the machine responds"),
            ),
            Self::Disconnected { status, is_expired: true, .. } => Diagnosis::new(
                Code::MachineExpired,
                format!("{status}: Azure removes the connection of a machine after 45 days offline"),
                CONNECT_AGENT,
            ),
            Self::Disconnected { status, .. } => Diagnosis::new(Code::AgentOffline, status, CHECK_AGENT),
            Self::AgentVersion { version, os, supports_ssh } => {
                let why = if supports_ssh { "service configurations" } else { "SSH" };
                Diagnosis::new(
                    Code::AgentOutdated,
                    format!("agent {version} does not support {why}; version 1.31 or later is required"),
                    update_agent(os),
                )
            }
            Self::MonitorMode { os } => Diagnosis::new(
                Code::AgentRestricted,
                "the agent is in monitor mode, which disables remote connectivity",
                format!("on the machine, {}{FULL_MODE}", as_administrator(os)),
            ),
            Self::PrivateLink(machine) => Diagnosis::new(
                Code::PrivateLink,
                "the agent uses a private link scope, which does not support SSH",
                Hint::new(
                    "remove the machine from the scope: ",
                    format!(
                        "az connectedmachine update --name {} {} --private-link-scope-resource-id=",
                        shell_quote(&machine.name),
                        scope_options(machine)
                    ),
                ),
            ),
            Self::NoPermission => Diagnosis::new(
                Code::AccessDenied,
                format!("the account lacks the permission {CONNECT}"),
                format!(
                    "ask an owner of the machine to assign the role {} to the account",
                    least_role(CONNECT)
                ),
            ),
            Self::NoEndpoint { set_up } => Diagnosis::new(
                Code::NoEndpoint,
                "the machine has no connectivity endpoint",
                Hint::new(ENABLE, set_up),
            ),
            Self::NotEnabled { set_up } => Diagnosis::new(
                Code::ServiceNotEnabled,
                "SSH is not enabled on the machine",
                Hint::new(ENABLE, set_up),
            ),
            Self::PortOfEntry { enabled, port, alias } => Diagnosis::new(
                Code::PortInUse,
                format!(
                    "SSH is enabled on port {enabled}, but your ssh configuration uses {port}; to change all host entries, run arcssh config --port {enabled}"
                ),
                Hint::new("to connect once, run: ", format!("ssh -p {enabled} {}", shell_quote(alias))),
            ),
            Self::PortTaken { enabled, port, set_up } => Diagnosis::new(
                Code::PortInUse,
                format!(
                    "SSH is enabled on port {enabled}, not on {port}; a machine has one port for SSH, which ssh -p {enabled} uses"
                ),
                Hint::new(
                    "to disconnect its users and change the port, run: ",
                    format!("{set_up} --port {port} --replace-port"),
                ),
            ),
            Self::NoExtension { set_up } => Diagnosis::new(
                Code::ExtensionMissing,
                "the account may log in with Entra ID, but the machine lacks the extension",
                Hint::new("install it: ", format!("{set_up} --entra")),
            ),
            Self::ExtensionState { state, set_up } => Diagnosis::new(
                Code::ExtensionFailed,
                format!("the extension for Entra ID logins has the state {state}"),
                Hint::new(
                    "wait for it, or see its error and install it again: ",
                    format!("{set_up} --entra"),
                ),
            ),
            Self::NoSshd { summary, set_up } => Diagnosis::new(
                Code::PortClosed,
                summary,
                Hint::new(
                    "start sshd on the machine, or name its port with --port; to install sshd, run: ",
                    format!("{set_up} --sshd"),
                ),
            ),
            Self::SshdOutdated(banner) => Diagnosis::new(
                Code::SshdOutdated,
                format!("{banner} accepts Entra ID certificates only with SHA-1 signatures"),
                "update OpenSSH on the machine, or use ssh -o PubkeyAcceptedKeyTypes=+ssh-rsa-cert-v01@openssh.com",
            ),
            Self::HostKeyChanged { file, name } => Diagnosis::new(
                Code::HostKeyChanged,
                format!(
                    "the host key differs from the one in {file}: the machine was reinstalled, or the connection is intercepted"
                ),
                Hint::new(
                    "if the machine was reinstalled, remove the old key: ",
                    format!("ssh-keygen -f {} -R {}", shell_quote(file), shell_quote(name)),
                ),
            ),
            Self::HostKeyUnknown { alias } => Diagnosis::new(
                Code::HostKeyUnknown,
                "the host key is not in known_hosts, and ssh does not ask for it (StrictHostKeyChecking or BatchMode)",
                Hint::new(
                    "accept it: ",
                    format!("ssh -o StrictHostKeyChecking=accept-new {}", shell_quote(alias)),
                ),
            ),
            Self::ForeignConfig(file) => Diagnosis::new(
                Code::InsecurePermissions,
                format!("{file} belongs to another user, so ssh does not read it"),
                Hint::command(format!("sudo chown $(id -un) {}", shell_quote(file))),
            ),
            Self::WritableConfig { file, mode, by_group } => {
                let (writer, result) = if by_group {
                    ("its group", "some versions of ssh reject it")
                } else {
                    ("other users", "ssh rejects it")
                };
                Diagnosis::new(
                    Code::InsecurePermissions,
                    format!("{writer} can write to {file} (mode {mode:04o}), so {result}"),
                    Hint::command(format!("chmod go-w {}", shell_quote(file))),
                )
            }
            Self::OtherProgram { entry, own } => Diagnosis::new(
                Code::ProgramMissing,
                format!("the host entries start {entry}, not this arcssh, {own}"),
                Hint::new("to change the path, write the host entries again: ", "arcssh config"),
            ),
            Self::ProgramElsewhere { program, cause } => Diagnosis::new(
                Code::ProgramMissing,
                format!("the host entries do not work on this computer, where {program} {cause}"),
                "set the path of arcssh with arcssh config --program PATH",
            ),
            Self::NoKey { alias, file } => Diagnosis::new(
                Code::Failed,
                format!("the host entry {alias} names the key {file}, which does not exist"),
                "name an existing key with arcssh config --identity FILE",
            ),
            Self::CertificateFile { alias, file, cause } => Diagnosis::new(
                Code::UnusableCertificate,
                format!("the host entry {alias} names the certificate {file}, which {cause}"),
                "request another certificate from your certificate authority, or name another file with arcssh config --certificate-file FILE",
            ),
            Self::ExposedKey { alias, file, mode } => Diagnosis::new(
                Code::InsecurePermissions,
                format!(
                    "other users can access {file} (mode {mode:04o}), so ssh ignores this key of the host entry {alias}"
                ),
                Hint::command(format!("chmod 600 {}", shell_quote(file))),
            ),
            Self::NoStateDirectory => Diagnosis::new(
                Code::NoStateDirectory,
                "arcssh cannot write to its state directory, so it caches nothing",
                OTHER_DIRECTORY,
            ),
        }
    }
}

/// Returns the options of Azure CLI that select the machine's subscription and group.
fn scope_options(ResourceId { subscription, resource_group, .. }: &ResourceId) -> String {
    format!("--resource-group {} --subscription {}", shell_quote(resource_group), shell_quote(subscription))
}

/// The command that ends the agent's monitor mode.
pub(super) const FULL_MODE: &str = "azcmagent config set config.mode full";

/// Returns how a command on a machine gets its privileges, up to the command.
pub(super) fn as_administrator(os: &str) -> &'static str {
    if is_windows(os) { "run as an administrator: " } else { "run: sudo " }
}

pub(super) fn update_agent(os: &str) -> &'static str {
    if is_windows(os) {
        "update the agent: on the machine, install Windows updates, or run msiexec /i AzureConnectedMachineAgent.msi"
    } else {
        "update the package azcmagent on the machine with its package manager (apt, dnf, yum or zypper)"
    }
}

fn installation(package: &str) -> String {
    match std::env::consts::OS {
        "windows" => "Add-WindowsCapability -Online -Name OpenSSH.Client~~~~0.0.1.0".into(),
        "macos" => "brew install openssh".into(),
        _ => package_command(package),
    }
}

/// Returns the command of the package manager that this system has.
fn package_command(package: &str) -> String {
    let managers = [
        ("apt-get", format!("sudo apt-get install {package}")),
        ("dnf", "sudo dnf install openssh-clients".into()),
        ("yum", "sudo yum install openssh-clients".into()),
        ("zypper", "sudo zypper install openssh-clients".into()),
        ("apk", "sudo apk add openssh-client".into()),
        ("pacman", "sudo pacman -S openssh".into()),
    ];
    let is_installed = |name: &str| {
        ["/usr/bin", "/bin", "/sbin"].iter().any(|dir| std::path::Path::new(dir).join(name).exists())
    };
    let found = managers.iter().find(|(name, _)| is_installed(name)).unwrap_or(&managers[0]);
    found.1.clone()
}

fn set_clock() -> &'static str {
    match std::env::consts::OS {
        "windows" => "w32tm /resync",
        "macos" => "sudo sntp -sS time.apple.com",
        _ => "sudo timedatectl set-ntp true",
    }
}
