//! Checks of the relay, and of the machine's sshd behind it.

use crate::azure::hybrid_connectivity::endpoint::Lookup;
use crate::commands::doctor::checks::{Evaluator, blocked_by, is_forbidden, numbers, warned};
use crate::commands::doctor::probe::Banner;
use crate::commands::doctor::report::Outcome::{self, Failed, Passed, Skipped};
use crate::diagnosis::Error;
use crate::diagnosis::finding::Finding;
use crate::diagnosis::relay::not_ssh;
use crate::relay::handshake::ConnectError;

/// The first OpenSSH that accepts RSA certificates with SHA-2 signatures, the only ones that newer clients make
/// (bugzilla.mindrot.org 3351; entra-docs `howto-vm-sign-in-azure-ad-linux.md`).
const SHA2_CERTIFICATES: [u64; 2] = [7, 8];

impl Evaluator {
    pub(super) fn relay(&self) -> Outcome {
        let service = match self.service_state() {
            Ok(service) => service,
            Err(Skipped(why)) => return Skipped(why),
            Err(_) => return blocked_by("endpoint"),
        };
        if service.endpoint == Lookup::NotFound {
            return blocked_by("endpoint");
        }
        let connected = || Passed("connected to the machine's Arc agent".into());
        match &self.facts.azure.relay {
            None => blocked_by("service configuration"),
            Some(Ok(())) => connected(),
            Some(Err(error)) if is_port_closed(error) => connected(),
            Some(Err(error)) if is_forbidden(error) => blocked_by("permissions"),
            Some(Err(_)) if matches!(self.machine_status(), Failed(_)) => blocked_by("machine"),
            Some(Err(_)) if matches!(self.agent_version(), Failed(_)) => blocked_by("agent version"),
            Some(Err(_)) if matches!(self.agent_configuration(), Failed(_)) => {
                blocked_by("agent configuration")
            }
            Some(Err(error)) => Failed(error.diagnose()),
        }
    }

    pub(super) fn sshd(&self) -> Outcome {
        let port = self.facts.azure.port;
        match (self.relay(), &self.facts.azure.relay, &self.facts.azure.banner) {
            (Skipped(why), ..) => Skipped(why),
            (_, Some(Err(error)), _) if is_port_closed(error) => Failed(error.diagnose()),
            (Passed(_), _, Some(Ok(Banner::Ssh(banner)))) => ssh_version(banner),
            (Passed(_), _, Some(Ok(Banner::NotSsh(failure)))) => {
                let os = self.machine_in_azure().map_or("", |machine| &machine.os);
                Failed(not_ssh(failure, port, os))
            }
            (Passed(_), _, Some(Err(error))) => Failed(error.diagnose()),
            _ => blocked_by("relay"),
        }
    }
}

fn is_port_closed(error: &Error) -> bool {
    matches!(error.cause(), Error::Connect(ConnectError::Rejected(rejection)) if rejection.is_port_closed())
}

/// Evaluates the version of a server, such as `SSH-2.0-OpenSSH_7.4p1 Debian-10`.
fn ssh_version(banner: &str) -> Outcome {
    let version = banner.split_once("OpenSSH_").map_or("", |(_, version)| version);
    let version = version.strip_prefix("for_Windows_").unwrap_or(version);
    let version =
        numbers(version.split(|c: char| !c.is_ascii_digit() && c != '.').next().unwrap_or_default());
    if version.is_empty() || version.as_slice() >= &SHA2_CERTIFICATES[..] {
        return Passed(banner.to_owned());
    }
    warned(&Finding::SshdOutdated(banner))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_before_7_8_warns_about_certificates() {
        for old in
            ["SSH-2.0-OpenSSH_7.4", "SSH-2.0-OpenSSH_6.6.1p1 Ubuntu", "SSH-2.0-OpenSSH_for_Windows_7.7"]
        {
            assert!(matches!(ssh_version(old), Outcome::Warned(_)), "{old}");
        }
        for new in [
            "SSH-2.0-OpenSSH_7.8p1",
            "SSH-2.0-OpenSSH_10.0",
            "SSH-2.0-OpenSSH_for_Windows_9.5",
            "SSH-2.0-dropbear",
        ] {
            assert_eq!(ssh_version(new), Passed(new.into()));
        }
    }
}
