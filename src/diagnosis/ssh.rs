//! The ssh configuration, keys and the SSH agent.

use crate::diagnosis::{Code, Diagnosis, Hint};
use crate::ssh::{SocketProblem, SshError};
use crate::text::shell_quote;

pub(super) fn ssh(error: &SshError) -> Diagnosis {
    let summary = error.to_string();
    match error {
        SshError::NotWritten { .. } => Diagnosis::new(
            Code::ConfigNotWritable,
            summary,
            "write the host entries to another file, and begin your ssh configuration with the line Include FILE: arcssh config MACHINE --file FILE",
        ),
        SshError::Changed(_) => Diagnosis::new(Code::ConfigChanged, summary, "run the command again"),
        SshError::NotOurs(_) => {
            Diagnosis::new(Code::NotOverwritten, summary, "name another file with --file")
        }
        SshError::NoHostKey { machine, .. } => {
            let command = format!("arcssh doctor {}", shell_quote(machine));
            Diagnosis::new(Code::NoHostKey, summary, Hint::new("check the machine's sshd: ", command))
        }
        SshError::NoAgent => {
            Diagnosis::new(Code::AgentSocket, summary, "use certificate files: add --entra=files")
        }
        SshError::Rejected { .. } => Diagnosis::new(
            Code::ConfigRejected,
            summary,
            "correct the line that ssh names, and run the command again",
        ),
        SshError::NoEntry { .. } => Diagnosis::new(
            Code::NoMatch,
            summary,
            Hint::new("see the host entries, without changes: ", "arcssh config --remove --dry-run"),
        ),
        SshError::Failed(_) => Diagnosis::without_hint(Code::Failed, summary),
        SshError::Overridden(overridden) => {
            let hint = match &overridden.by {
                Some((file, line)) => {
                    let file = file.display();
                    format!("move the Host or Match section that contains line {line} of {file} below the managed block").into()
                }
                None => Hint::new(
                    "see which lines ssh applies: ",
                    format!("ssh -v -G {}", shell_quote(&overridden.alias)),
                ),
            };
            Diagnosis::new(Code::ConfigOverridden, summary, hint)
        }
        SshError::AgentSocket(problem) => {
            let hint = match problem {
                SocketProblem::Occupied(_) => {
                    "name an unused path in --agent, as arcssh config does: ~/.ssh/arcssh/NAME"
                }
                // The directory that others can open may be the user's home directory, which must stay open.
                SocketProblem::Open { .. } | SocketProblem::NotOwn(_) => {
                    "name a path in --agent whose directory only arcssh uses, such as ~/.ssh/arcssh/NAME"
                }
                SocketProblem::TooLong(_) => {
                    "name a shorter path in --agent, such as ~/.ssh/arcssh/NAME, or use certificate files: arcssh config --entra=files"
                }
            };
            Diagnosis::new(Code::AgentSocket, summary, hint)
        }
        SshError::NoKeygen | SshError::NoProcess(_) | SshError::KeyGeneration(_) => {
            super::certificate::no_key(error)
        }
    }
}
