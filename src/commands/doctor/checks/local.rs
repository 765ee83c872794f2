//! Checks of this computer: OpenSSH, the ssh configuration, the certificate and the state directory.

use std::path::Path;

use crate::cli::entry_files::Remark;
use crate::commands::doctor::checks::{Evaluator, blocked_by, failed, failed_or, warned};
use crate::commands::doctor::local::{Block, HostKey, UnknownKey};
use crate::commands::doctor::report::Outcome::{self, Failed, Passed, Skipped, Warned};
use crate::commands::session::finding;
use crate::diagnosis::finding::Finding;
use crate::diagnosis::{Error, Hint};
use crate::ssh::SshError;
use crate::ssh::verification::Verified;
use crate::text::shell_quote;

impl Evaluator {
    pub(super) fn program(&self, number: usize) -> Outcome {
        match &self.facts.programs[number] {
            Ok(Some(version)) if number == 0 => Passed(version.clone()),
            Ok(Some(_)) => Passed("installed".into()),
            Ok(None) => {
                let program = ["ssh", "ssh-keygen"][number];
                failed(&Finding::ProgramMissing { program, package: "openssh-client" })
            }
            Err(error) => Failed(error.diagnose()),
        }
    }

    pub(super) fn shell(&self) -> Outcome {
        match &self.facts.shell {
            Ok(Some(shell)) => Passed(shell.display().to_string()),
            Ok(None) => Skipped("ssh uses none on Windows".into()),
            Err(error) => Failed(error.diagnose()),
        }
    }

    pub(super) fn host_key(&self) -> Outcome {
        match (self.sshd(), &self.facts.host_key, &self.facts.azure.entry) {
            (Skipped(why), ..) => Skipped(why),
            (Failed(_), ..) => blocked_by("sshd"),
            // ssh starts another arcssh, which the state directory stops.
            _ if self.facts.state.is_err() => blocked_by("state directory"),
            _ if self.facts.shell.is_err() => blocked_by("shell"),
            _ if self.is_configuration_rejected() => blocked_by("ssh configuration"),
            (_, None, _) | (_, _, None) => Skipped(format!(
                "{} has no host entry for this port of the machine; {}",
                self.facts.file.display(),
                self.other_file().unwrap_or("name another file with --file".into())
            )),
            (_, Some(Ok(HostKey::Known)), _) => Passed("matches known_hosts".into()),
            (_, Some(Ok(HostKey::New(unknown))), Some(entry)) => match unknown {
                UnknownKey::Asks => Passed("not in known_hosts yet; ssh will ask".into()),
                UnknownKey::Adds => Passed("not in known_hosts yet; ssh will add it".into()),
                UnknownKey::Accepts => Passed("not in known_hosts; ssh accepts any key".into()),
                UnknownKey::Rejects => failed(&Finding::HostKeyUnknown { alias: &entry.alias }),
            },
            (_, Some(Ok(HostKey::Changed(file))), Some(entry)) => {
                failed(&Finding::HostKeyChanged { file, name: &entry.key_name })
            }
            (_, Some(Err(error)), Some(entry)) => failed_or(
                error,
                Hint::new(
                    "see how far the connection gets: ",
                    format!("ssh -v {}", shell_quote(&entry.alias)),
                ),
            ),
        }
    }

    /// The option for the file with the managed block that the configuration includes.
    fn other_file(&self) -> Option<String> {
        let Ok(Block::Missing(Some(file))) = &self.facts.configuration else { return None };
        let file = shell_quote(&file.display().to_string());
        Some(format!("to check the managed block that it includes, add --file {file}"))
    }

    fn is_configuration_rejected(&self) -> bool {
        let error = self.facts.configuration.as_ref().err().map(Error::cause);
        matches!(error, Some(Error::Ssh(SshError::Rejected(_))))
    }

    pub(super) fn configuration(&self) -> Outcome {
        let file = &self.facts.file;
        match (&self.facts.configuration, exposed_to_others(file)) {
            (_, Some(Failed(exposed))) => Failed(exposed),
            (Err(error), _) => {
                let file = shell_quote(&file.display().to_string());
                let command = format!("arcssh config --verify --file {file}");
                failed_or(error, Hint::new("correct the file, then check it: ", command))
            }
            (_, Some(exposed)) => exposed,
            (Ok(Block::Missing(_)), _) => {
                let other = self.other_file().map_or(String::new(), |other| format!("; {other}"));
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
        }
    }

    /// An expired certificate is no failure: the next connection requests another.
    pub(super) fn certificate(&self) -> Outcome {
        match &self.facts.certificate {
            Ok(None) => Skipped("none is cached; host entries with --entra use one".into()),
            Ok(Some(pair)) => {
                let name = pair.certificate.login_name().unwrap_or_default();
                Passed(
                    pair.left()
                        .map_or(format!("{name}, expired; the next connection requests another"), |left| {
                            format!("{name}, expires in {} min", left.as_secs().div_ceil(60))
                        }),
                )
            }
            Err(error) => Failed(Error::from(error.clone()).diagnose()),
        }
    }

    pub(super) fn state(&self) -> Outcome {
        match &self.facts.state {
            Ok(None) => warned(&Finding::NoStateDirectory),
            Ok(Some(1)) => Passed("1 cached value".into()),
            Ok(Some(count)) => Passed(format!("{count} cached values")),
            Err(error) => Failed(Error::from(error.clone()).diagnose()),
        }
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
