//! Extensions of a machine.

use crate::azure::hybrid_compute::extension::SshExtension;
use crate::diagnosis::finding::{FULL_MODE, as_administrator, update_agent};
use crate::diagnosis::relay::CHECK_AGENT;
use crate::diagnosis::{Action, Code, Context, Diagnosis, Hint};
use crate::provisioning::extension::{ExtensionError, Restriction};

pub(super) fn extension(error: &ExtensionError, context: &Context) -> Diagnosis {
    let summary = error.to_string();
    match error {
        ExtensionError::Unfit(SshExtension::Sshd) => {
            let text = "on the machine, install the package openssh-server and start sshd; then run: ";
            Diagnosis::new(Code::ExtensionUnsupported, summary, context.runnable(text, doctor(context)))
        }
        ExtensionError::Unfit(SshExtension::Entra) => Diagnosis::new(
            Code::ExtensionUnsupported,
            summary,
            "log in as a local or domain user: arcssh config MACHINE --user NAME",
        ),
        ExtensionError::UnknownSystem => Diagnosis::new(
            Code::ExtensionUnsupported,
            summary,
            context.runnable("check what Azure shows: ", doctor(context)),
        ),
        ExtensionError::OtherType { extension, .. } => Diagnosis::new(
            Code::ExtensionUnsupported,
            summary,
            format!("in the Azure portal, open the machine, and add the extension {extension}"),
        ),
        ExtensionError::Offline { .. } => Diagnosis::new(Code::AgentOffline, summary, CHECK_AGENT),
        ExtensionError::OldAgent { os, .. } => Diagnosis::new(Code::AgentOutdated, summary, update_agent(os)),
        ExtensionError::Restricted { extension, os, by } => {
            Diagnosis::new(Code::AgentRestricted, summary, allow(*extension, os, *by))
        }
        ExtensionError::NoIdentity(_) => Diagnosis::new(
            Code::ExtensionUnsupported,
            summary,
            "connect the machine to Azure again, which creates an identity: on the machine, run azcmagent disconnect, then azcmagent connect",
        ),
        ExtensionError::Failed { extension, .. } => {
            Diagnosis::new(Code::ExtensionFailed, summary, repair(*extension, context))
        }
        ExtensionError::Pending { extension, .. } => Diagnosis::new(
            Code::ExtensionPending,
            summary,
            context.runnable(
                "check that the machine is on and its Arc agent runs; to continue waiting, run: ",
                command(*extension, context),
            ),
        ),
    }
}

fn doctor(context: &Context) -> String {
    format!("arcssh doctor {}", context.machine())
}

/// Returns the command that failed, for one extension.
fn command(extension: SshExtension, context: &Context) -> String {
    let name = if context.action == Action::TearDown { "teardown" } else { "setup" };
    format!("{} {}", context.command(name, None), extension.option())
}

/// Returns how the agent comes to install the extension (azure-docs `security-extensions.md` and `azcmagent-config.md`).
fn allow(extension: SshExtension, os: &str, by: Restriction) -> String {
    let entry = format!("{}/{}", extension.publisher(), extension.kind());
    let setting = match by {
        Restriction::Monitor => return format!("on the machine, {}{FULL_MODE}", as_administrator(os)),
        Restriction::Disabled => "extensions.enabled true".to_owned(),
        Restriction::Allowlist => format!("extensions.allowlist {entry} --add"),
        Restriction::Blocklist => format!("extensions.blocklist {entry} --remove"),
    };
    format!("on the machine, {}azcmagent config set {setting}", as_administrator(os))
}

/// Returns how to find the cause of a failure, and the command that tries again. The places of logs are in azure-docs
/// `troubleshoot-vm-extensions.md`; the requirements of the extension for Linux in Microsoft Learn, "Log in to a Linux virtual
/// machine in Azure by using Microsoft Entra ID". Windows Server 2025 contains sshd (Microsoft Learn, "OpenSSH for Windows
/// overview").
fn repair(extension: SshExtension, context: &Context) -> Hint {
    let check = match extension {
        SshExtension::Sshd => {
            r"read %SystemDrive%\ProgramData\GuestConfig\extension_logs on the machine; Windows Server 2025 contains sshd, which Start-Service sshd starts"
        }
        SshExtension::Entra => {
            "check that the extension supports the distribution, that the machine reaches packages.microsoft.com, and read /var/lib/GuestConfig/extension_logs on it"
        }
    };
    context.runnable(&format!("{check}; to try again, run: "), command(extension, context))
}
