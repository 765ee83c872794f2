//! Checks of this computer: OpenSSH, the ssh configuration, the certificate and the state directory.

use std::path::Path;

use crate::cli::entry_files::Remark;
use crate::commands::doctor::checks::{Evaluation, Evaluator, blocked_by, failed, failed_or, known, warned};
use crate::commands::doctor::local::{Block, HostKey, UnknownKey};
use crate::commands::doctor::outcome::Outcome::{self, Failed, Passed, Skipped, Unknown, Warned};
use crate::commands::session::finding;
use crate::diagnosis::finding::Finding;
use crate::diagnosis::{Error, Hint};
use crate::ssh::SshError;
use crate::ssh::verification::Verified;
use crate::text::shell_quote;

/// The hint for a program of OpenSSH that is installed and does not start.
const REINSTALL: &str = "reinstall OpenSSH's client on this computer";

impl Evaluator {
    pub(super) fn ssh(&self) -> Evaluation {
        Ok(match known(&self.facts.probes.ssh)? {
            Ok(Some(version)) if version.is_empty() => Unknown("ssh shows no version".into()),
            Ok(Some(version)) => Passed(version.clone()),
            Ok(None) => failed(&Finding::ProgramMissing { program: "ssh", package: "openssh-client" }),
            Err(error) => failed_or(error, REINSTALL),
        })
    }

    pub(super) fn ssh_keygen(&self) -> Evaluation {
        Ok(match known(&self.facts.probes.ssh_keygen)? {
            Ok(Some(_)) => Passed("installed".into()),
            Ok(None) => failed(&Finding::ProgramMissing { program: "ssh-keygen", package: "openssh-client" }),
            Err(error) if matches!(error.cause(), Error::Ssh(SshError::Client { .. })) => {
                return Err(blocked_by("ssh").into());
            }
            Err(error) => failed_or(error, REINSTALL),
        })
    }

    pub(super) fn shell(&self) -> Evaluation {
        Ok(match known(&self.facts.probes.shell)? {
            Ok(Some(shell)) => Passed(shell.display().to_string()),
            Ok(None) => Skipped("ssh uses none on Windows".into()),
            Err(error) => Failed(error.diagnose()),
        })
    }

    pub(super) fn host_key(&self) -> Evaluation {
        if self.has_failed(Self::sshd)? {
            return Err(blocked_by("sshd").into());
        }
        self.sshd()?;
        self.ssh_can_connect()?;
        let entry = known(&self.facts.probes.connection)?.entry_for_port();
        let (Some(host_key), Some(entry)) = (known(&self.facts.probes.host_key)?, entry) else {
            return Ok(Skipped(format!(
                "{} has no host entry for this port of the machine; {}",
                self.facts.file.display(),
                self.other_file()?.unwrap_or("name another file with --file".into())
            )));
        };
        Ok(match host_key {
            Ok(HostKey::Known) => Passed("matches known_hosts".into()),
            Ok(HostKey::New(UnknownKey::Asks)) => Passed("not in known_hosts yet; ssh will ask".into()),
            Ok(HostKey::New(UnknownKey::Adds)) => Passed("not in known_hosts yet; ssh will add it".into()),
            Ok(HostKey::New(UnknownKey::Accepts)) => Passed("not in known_hosts; ssh accepts any key".into()),
            Ok(HostKey::New(UnknownKey::Rejects)) => failed(&Finding::HostKeyUnknown { alias: &entry.alias }),
            Ok(HostKey::New(UnknownKey::Unread)) => {
                Unknown("not in known_hosts; ssh -G does not show whether ssh will ask".into())
            }
            Ok(HostKey::Changed(file)) => failed(&Finding::HostKeyChanged { file, name: &entry.key_name }),
            Err(error) => failed_or(
                error,
                Hint::new(
                    "see how far the connection gets: ",
                    format!("ssh -v {}", shell_quote(&entry.alias)),
                ),
            ),
        })
    }

    /// Returns the check of this computer that must pass before ssh can connect. ssh starts another arcssh, which the state
    /// directory can stop.
    fn ssh_can_connect(&self) -> Evaluation<()> {
        let blocked = if self.has_failed(Self::ssh)? {
            "ssh"
        } else if self.facts.state.is_err() {
            "state directory"
        } else if known(&self.facts.probes.shell)?.is_err() {
            "shell"
        } else if self.is_configuration_rejected()? {
            "ssh configuration"
        } else {
            return Ok(());
        };
        Err(blocked_by(blocked).into())
    }

    /// The option for the file with the managed block that the configuration includes.
    fn other_file(&self) -> Evaluation<Option<String>> {
        let Ok(Block::Missing(Some(file))) = known(&self.facts.probes.configuration)? else {
            return Ok(None);
        };
        let file = shell_quote(&file.display().to_string());
        Ok(Some(format!("to check the managed block that it includes, add --file {file}")))
    }

    fn is_configuration_rejected(&self) -> Evaluation<bool> {
        let error = known(&self.facts.probes.configuration)?.as_ref().err().map(Error::cause);
        Ok(matches!(error, Some(Error::Ssh(SshError::Rejected(_)))))
    }

    pub(super) fn configuration(&self) -> Evaluation {
        let file = &self.facts.file;
        Ok(match (known(&self.facts.probes.configuration)?, exposed_to_others(file)) {
            (_, Some(Failed(exposed))) => Failed(exposed),
            (Err(error), _) => {
                let file = shell_quote(&file.display().to_string());
                let command = format!("arcssh config --verify --file {file}");
                failed_or(error, Hint::new("correct the file, then check it: ", command))
            }
            (_, Some(exposed)) => exposed,
            (Ok(Block::Missing(_)), _) => {
                let other = self.other_file()?.map_or(String::new(), |other| format!("; {other}"));
                Skipped(format!("{} has no managed block{other}", file.display()))
            }
            (Ok(Block::Unverified), _) => blocked_by("ssh"),
            (Ok(Block::Remarked(remark @ Remark::Elsewhere { .. })), _) => failed(&finding(remark)),
            (Ok(Block::Remarked(remark)), _) => warned(&finding(remark)),
            (Ok(Block::Verified(Verified { not_included: Some(reason), .. })), _) => {
                Warned(Error::from(SshError::NotIncluded(reason.clone())).diagnose())
            }
            (Ok(Block::Verified(Verified { hosts: 1, .. })), _) => {
                Passed(format!("verified 1 host in {}", file.display()))
            }
            (Ok(Block::Verified(Verified { hosts, .. })), _) => {
                Passed(format!("verified {hosts} hosts in {}", file.display()))
            }
        })
    }

    /// An expired certificate is no failure: the next connection requests another.
    pub(super) fn certificate(&self) -> Evaluation {
        if self.facts.state.is_err() {
            return Err(blocked_by("state directory").into());
        }
        Ok(match &self.facts.certificate {
            Ok(None) => Skipped("none is cached; host entries with --entra use one".into()),
            Ok(Some(pair)) => match (pair.certificate.login_name(), pair.left()) {
                (None, _) => Unknown("the cached certificate does not show its user".into()),
                (Some(name), None) => {
                    Passed(format!("{name}, expired; the next connection requests another"))
                }
                (Some(name), Some(left)) => {
                    Passed(format!("{name}, expires in {} min", left.as_secs().div_ceil(60)))
                }
            },
            Err(error) => Failed(Error::from(error.clone()).diagnose()),
        })
    }

    pub(super) fn state(&self) -> Evaluation {
        Ok(match &self.facts.state {
            Ok(None) => warned(&Finding::NoStateDirectory),
            Ok(Some(1)) => Passed("1 cached value".into()),
            Ok(Some(count)) => Passed(format!("{count} cached values")),
            Err(error) => Failed(Error::from(error.clone()).diagnose()),
        })
    }
}

/// Returns why ssh does not read the configuration: others can write to it.
#[cfg(unix)]
fn exposed_to_others(file: &Path) -> Option<Outcome> {
    use std::os::unix::fs::MetadataExt as _;
    let metadata = file.metadata().ok()?;
    let is_own = [0, rustix::process::getuid().as_raw()].contains(&metadata.uid());
    exposed(file, is_own, metadata.mode() & 0o7777)
}

/// On other systems, only the user can write to the user's directory.
#[cfg(not(unix))]
fn exposed_to_others(_: &Path) -> Option<Outcome> {
    None
}

/// ssh reads a file of its user or root that others cannot write to (readconf.c, `SSHCONF_CHECKPERM`). Debian's ssh also
/// reads one that a group can write to of which only the owner is a member ("Allow harmless group-writability").
#[cfg(unix)]
fn exposed(file: &Path, is_own: bool, mode: u32) -> Option<Outcome> {
    let file = &file.display().to_string();
    match (is_own, mode & 0o002, mode & 0o020) {
        (false, ..) => Some(failed(&Finding::ForeignConfig(file))),
        (true, 0, 0) => None,
        (true, 0, _) => Some(warned(&Finding::WritableConfig { file, mode, by_group: true })),
        _ => Some(failed(&Finding::WritableConfig { file, mode, by_group: false })),
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_that_others_can_write_to_fails_and_one_of_the_group_warns() {
        let exposed = |is_own, mode| exposed(Path::new("config"), is_own, mode);
        for (is_own, mode) in [(false, 0o600), (true, 0o666), (true, 0o602)] {
            let outcome = exposed(is_own, mode);
            assert!(matches!(&outcome, Some(Failed(diagnosis)) if diagnosis.hint.is_some()), "{outcome:?}");
        }
        assert!(matches!(exposed(true, 0o664), Some(Outcome::Warned(diagnosis)) if diagnosis.hint.is_some()));
        assert_eq!((exposed(true, 0o644), exposed(true, 0o600)), (None, None));
    }
}
