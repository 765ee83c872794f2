//! Checks of the relay, and of the machine's sshd behind it.

use crate::azure::hybrid_connectivity::endpoint::Lookup;
use crate::commands::doctor::checks::{
    CheckFn, Evaluation, Evaluator, blocked_by, failed, is_forbidden, known, numbers, warned,
};
use crate::commands::doctor::outcome::Outcome::{self, Failed, Passed};
use crate::commands::doctor::probe::Banner;
use crate::diagnosis::finding::Finding;
use crate::diagnosis::relay::not_ssh;
use crate::diagnosis::{Diagnosis, Error};
use crate::relay::handshake::ConnectError;

/// The first OpenSSH that accepts RSA certificates with SHA-2 signatures, the only ones that newer clients make
/// (bugzilla.mindrot.org 3351; entra-docs `howto-vm-sign-in-azure-ad-linux.md`).
const SHA2_CERTIFICATES: [u64; 2] = [7, 8];

impl Evaluator {
    /// An error is an outcome other than passed and failed.
    pub(super) fn relay(&self) -> Evaluation {
        let service = self.service_state().map_err(|early| early.or_blocked_by("endpoint"))?;
        if service.endpoint == Lookup::NotFound {
            return Err(blocked_by("endpoint").into());
        }
        let Some(relay) = known(&self.facts.probes.relay)? else {
            return Err(blocked_by("service configuration").into());
        };
        match relay {
            Err(error) if !is_port_closed(error) => Ok(Failed(self.relay_failed(error)?)),
            _ => Ok(Passed("connected to the machine's Arc agent".into())),
        }
    }

    /// Returns the failure, unless another check reports its cause.
    fn relay_failed(&self, error: &Error) -> Evaluation<Diagnosis> {
        if is_forbidden(error) {
            return Err(blocked_by("permissions").into());
        }
        let causes: [(&str, CheckFn); 3] = [
            ("machine", Self::machine_status),
            ("agent version", Self::agent_version),
            ("agent configuration", Self::agent_configuration),
        ];
        for (name, check) in causes {
            if self.has_failed(check)? {
                return Err(blocked_by(name).into());
            }
        }
        Ok(error.diagnose())
    }

    pub(super) fn sshd(&self) -> Evaluation {
        let relay = self.relay()?;
        match known(&self.facts.probes.relay)? {
            Some(Err(error)) if is_port_closed(error) => return self.port_closed(error),
            _ if matches!(relay, Failed(_)) => return Err(blocked_by("relay").into()),
            _ => {}
        }
        Ok(match known(&self.facts.probes.banner)? {
            Some(Ok(Banner::Ssh(banner))) => ssh_version(banner),
            Some(Ok(Banner::NotSsh(failure))) => {
                let port = known(&self.facts.probes.connection)?.port;
                Failed(not_ssh(failure, port, &self.machine_in_azure()?.os))
            }
            Some(Err(error)) => Failed(error.diagnose()),
            None => return Err(blocked_by("relay").into()),
        })
    }

    /// An extension installs sshd on Windows. On Linux, it is a package of the distribution.
    fn port_closed(&self, error: &Error) -> Evaluation {
        let diagnosis = error.diagnose();
        if !self.machine_in_azure()?.is_windows() {
            return Ok(Failed(diagnosis));
        }
        let set_up = self.set_up_command()?;
        Ok(failed(&Finding::NoSshd { summary: &diagnosis.summary, set_up: &set_up }))
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
