//! The ssh configuration, keys and the SSH agent.

use std::path::Path;

use crate::diagnosis::machines::did_you_mean;
use crate::diagnosis::{Code, Diagnosis, Hint, certificate};
use crate::ssh::effective_config::{Location, Overridden};
use crate::ssh::rejection::{Fix, Rejection};
use crate::ssh::requirements::{self, Conflict};
use crate::ssh::verification::NotIncluded;
use crate::ssh::{SocketProblem, SshError};
use crate::text::shell_quote;

/// Returns how to move the section that overrides a host entry below the managed block.
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
    let (code, hint) = match error {
        SshError::NotWritten { .. } => (
            Code::ConfigNotWritable,
            "write the host entries to another file, and begin your ssh configuration with the line Include FILE: arcssh config MACHINE --file FILE".into(),
        ),
        SshError::Changed(_) => (Code::ConfigChanged, "run the command again".into()),
        SshError::NotOurs(_) => (Code::NotOverwritten, "name another file with --file".into()),
        SshError::NoHostKey { machine, .. } => {
            let command = format!("arcssh doctor {}", shell_quote(machine));
            (Code::NoHostKey, Hint::new("check the machine's sshd: ", command))
        }
        SshError::NoAgent => (Code::AgentSocket, "use certificate files: add --entra=files".into()),
        SshError::Rejected(rejection) => (Code::ConfigRejected, correction(rejection)),
        SshError::NotIncluded(reason) => (Code::ConfigOverridden, include(reason)),
        SshError::NoUser(id) => (
            Code::ConfigRejected,
            format!(
                "add a line for the user ID {id} to /etc/passwd, or run ssh and arcssh as a user that has one"
            )
            .into(),
        ),
        SshError::Shell { .. } => {
            (Code::ShellUnusable, "use another shell: SHELL=/bin/sh ssh NAME".into())
        }
        SshError::ShellPrints { .. } => (
            Code::ShellUnusable,
            "print text only in interactive shells, or use another shell: SHELL=/bin/sh ssh NAME".into(),
        ),
        SshError::DamagedBlock { path, rest, .. } => (Code::ConfigRejected, delete_block(path, *rest)),
        SshError::NoBlock { included: None, .. } => {
            return Diagnosis::without_hint(Code::Failed, error.to_string());
        }
        SshError::NoBlock { included: Some(file), .. } => {
            let command = format!("arcssh config --verify --file {}", shell_quote(&file.display().to_string()));
            (Code::Failed, Hint::new("verify the managed block that it includes: ", command))
        }
        SshError::NoEntry { similar, .. } => {
            let hint = Hint::new("see the host entries, without changes: ", "arcssh config --remove --dry-run");
            (Code::NoMatch, did_you_mean(similar, hint))
        }
        SshError::Failed(_) => return Diagnosis::without_hint(Code::Failed, error.to_string()),
        SshError::Overridden(Overridden { alias, by, .. }) => {
            (Code::ConfigOverridden, move_section(alias, by.as_ref()))
        }
        SshError::Conflict(conflict) => (Code::ConfigOverridden, resolution(conflict)),
        SshError::NoProgram { .. } => (
            Code::ProgramMissing,
            Hint::new("write the host entries again with the path of this arcssh: ", "arcssh config"),
        ),
        SshError::OtherForwarding { .. } => {
            (Code::CannotListen, "end that program, or remove the line of the forwarding".into())
        }
        SshError::CertificateFile { .. } => (
            Code::UnusableCertificate,
            "name an OpenSSH certificate for a user and for the key of --identity, such as ~/.ssh/id_ed25519-cert.pub, with --certificate-file".into(),
        ),
        SshError::Client { .. } => (
            Code::ProgramMissing,
            "name the ssh program of OpenSSH with --ssh or ARCSSH_SSH, or unset ARCSSH_SSH".into(),
        ),
        SshError::NoClient => (
            Code::ProgramMissing,
            "install the OpenSSH client, and add the directory of ssh to PATH".into(),
        ),
        SshError::AgentSocket(problem) => (Code::AgentSocket, other_socket(problem).into()),
        SshError::NoKeygen | SshError::NoProcess(_) | SshError::KeyGeneration(_) => {
            return certificate::no_key(error);
        }
    };
    Diagnosis::new(code, error.to_string(), hint)
}

/// Returns how to use a file of host entries that ssh does not read.
fn include(reason: &NotIncluded) -> Hint {
    let NotIncluded { alias, file, config, .. } = reason;
    let (file, alias) = (shell_quote(&file.display().to_string()), shell_quote(alias));
    let (config, include) = (config.display(), reason.include());
    format!("connect with ssh -F {file} {alias}, or begin {config} with the line: {include}").into()
}

/// Returns how to delete a managed block without one of its markers; `rest` are the lines that remain of it.
fn delete_block(path: &Path, rest: Option<(usize, usize)>) -> Hint {
    let file = path.display();
    match rest {
        Some((first, last)) => format!(
            "delete lines {first} to {last} of {file}, which arcssh wrote, and repeat the runs of arcssh config that you need"
        ),
        None => format!(
            "delete the markers of arcssh in {file} and the host entries between them, and repeat the runs of arcssh config that you need; if a later version of arcssh wrote the block, update arcssh"
        ),
    }
    .into()
}

/// Returns how to remove an option that conflicts with a host entry.
fn resolution(conflict: &Conflict) -> Hint {
    match conflict.fix {
        requirements::Fix::Move => move_section(&conflict.alias, conflict.by.as_ref()),
        requirements::Fix::Write { keyword, value } => Hint::new(
            &format!(
                "write the host entries again, and add the line {keyword} {value} to a template of your own: "
            ),
            "arcssh config",
        ),
        requirements::Fix::Change(change) => change.into(),
    }
}

fn other_socket(problem: &SocketProblem) -> &'static str {
    match problem {
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
    }
}

/// Returns how to correct an error in a configuration.
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
