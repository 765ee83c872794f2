//! The ssh configuration, keys and the SSH agent.

use crate::diagnosis::{Code, Diagnosis, Hint};
use crate::ssh::effective_config::{Location, Overridden};
use crate::ssh::rejection::{Fix, Rejection};
use crate::ssh::requirements;
use crate::ssh::verification::NotIncluded;
use crate::ssh::{SocketProblem, SshError};
use crate::text::shell_quote;

/// The section that overrides a host entry must be below the managed block.
fn move_section(alias: &str, by: Option<&Location>) -> Hint {
    match by {
        Some(Location { file, line }) => {
            let file = file.display();
            format!(
                "move the Host or Match section that contains line {line} of {file} below the managed block"
            )
            .into()
        }
        None => Hint::new("see which lines ssh applies: ", format!("ssh -v -G {}", shell_quote(alias))),
    }
}

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
        SshError::Rejected(rejection) => Diagnosis::new(Code::ConfigRejected, summary, correction(rejection)),
        SshError::NotIncluded(reason) => {
            let NotIncluded { alias, file, config, .. } = reason;
            let (file, alias) = (shell_quote(&file.display().to_string()), shell_quote(alias));
            let include = reason.include();
            let hint = format!(
                "connect with ssh -F {file} {alias}, or begin {} with the line: {include}",
                config.display()
            );
            Diagnosis::new(Code::ConfigOverridden, summary, hint)
        }
        SshError::NoUser(id) => Diagnosis::new(
            Code::ConfigRejected,
            summary,
            format!(
                "add a line for the user ID {id} to /etc/passwd, or run ssh and arcssh as a user that has one"
            ),
        ),
        SshError::Shell { .. } => {
            Diagnosis::new(Code::ShellUnusable, summary, "use another shell: SHELL=/bin/sh ssh NAME")
        }
        SshError::ShellPrints { .. } => Diagnosis::new(
            Code::ShellUnusable,
            summary,
            "print text only in interactive shells, or use another shell: SHELL=/bin/sh ssh NAME",
        ),
        SshError::DamagedBlock { path, rest, .. } => {
            let file = path.display();
            let hint = match rest {
                Some((first, last)) => format!(
                    "delete lines {first} to {last} of {file}, which arcssh wrote, and repeat the runs of arcssh config that you need"
                ),
                None => format!(
                    "delete the markers of arcssh in {file} and the host entries between them, and repeat the runs of arcssh config that you need; if a later version of arcssh wrote the block, update arcssh"
                ),
            };
            Diagnosis::new(Code::ConfigRejected, summary, hint)
        }
        SshError::NoBlock { included: None, .. } => Diagnosis::without_hint(Code::Failed, summary),
        SshError::NoBlock { included: Some(file), .. } => {
            let command =
                format!("arcssh config --verify --file {}", shell_quote(&file.display().to_string()));
            Diagnosis::new(
                Code::Failed,
                summary,
                Hint::new("verify the managed block that it includes: ", command),
            )
        }
        SshError::NoEntry { .. } => Diagnosis::new(
            Code::NoMatch,
            summary,
            Hint::new("see the host entries, without changes: ", "arcssh config --remove --dry-run"),
        ),
        SshError::Failed(_) => Diagnosis::without_hint(Code::Failed, summary),
        SshError::Overridden(Overridden { alias, by, .. }) => {
            Diagnosis::new(Code::ConfigOverridden, summary, move_section(alias, by.as_ref()))
        }
        SshError::Conflict(conflict) => {
            let hint = match conflict.fix {
                requirements::Fix::Move => move_section(&conflict.alias, conflict.by.as_ref()),
                requirements::Fix::Write { keyword, value } => Hint::new(
                    &format!(
                        "write the host entries again, and add the line {keyword} {value} to a template of your own: "
                    ),
                    "arcssh config",
                ),
                requirements::Fix::Change(change) => change.into(),
            };
            Diagnosis::new(Code::ConfigOverridden, summary, hint)
        }
        SshError::NoProgram { .. } => Diagnosis::new(
            Code::ProgramMissing,
            summary,
            Hint::new("write the host entries again with the path of this arcssh: ", "arcssh config"),
        ),
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

/// How the user corrects an error in a configuration.
fn correction(rejection: &Rejection) -> Hint {
    let file = shell_quote(&rejection.file.display().to_string());
    match rejection.fix() {
        Fix::IgnoreUnknown(option) => format!(
            "correct the option; if another version of ssh knows it, add it to the first IgnoreUnknown line of your ssh configuration, or begin the file with: IgnoreUnknown {option}"
        )
        .into(),
        Fix::Permissions if cfg!(windows) => {
            format!("allow only yourself, SYSTEM and Administrators to write to {file}").into()
        }
        Fix::Permissions => Hint::command(format!("chmod go-w {file}")),
        Fix::Owner => Hint::command(format!("sudo chown $(id -un) {file}")),
        Fix::Template => "correct the template of the host entries, and run the command again".into(),
        Fix::Variable => "set the environment variable, or correct the option that contains it".into(),
        Fix::CanonicalName => {
            "write CanonicalizeHostname yes instead of always, which does not apply to these host entries, or CanonicalizeFallbackLocal yes".into()
        }
        Fix::Unnamed => "correct your ssh configuration as the message of ssh says, and run the command again".into(),
        Fix::ByteOrderMark => {
            format!("save {file} as UTF-8 text without a byte order mark, and run the command again").into()
        }
        Fix::Line => "correct the line that ssh names, and run the command again".into(),
    }
}
