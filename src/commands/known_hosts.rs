//! `arcssh known-hosts`: reads host keys of machines through the relay, as lines for known_hosts.
//!
//! sshd limits connections that end without a login (`PerSourcePenalties`, `MaxStartups`), so each kind of key that the
//! machine has costs one connection, and nothing else does.

use std::io::{IsTerminal as _, stdout};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::{Value, json};
use tokio::process::Command;

use crate::azure::cloud::CloudName;
use crate::cli::KnownHostsArgs;
use crate::cli::proxy_command::{ProxyCommand, ProxyMachine, azure_options, program};
use crate::commands::session::{Session, failure, for_each, note_disconnected, report_failures};
use crate::diagnosis::{Context, Error, Result};
use crate::machines::{NamedMachine, key_names};
use crate::ssh::host_entry::{Host, Platform, is_alias};
use crate::ssh::{SshError, client, fault};
use crate::system::files::{MAX_TEXT, read_text};
use crate::system::timeout::with_timeout;
use crate::terminal::output::{note, print, print_json};
use crate::text::{sanitize, shell_quote};

/// The algorithms to request, one kind in each connection: ssh receives one host key. An RSA key has several algorithms
/// (RFC 8332).
const ALGORITHMS: [&str; 3] = [
    "ssh-ed25519",
    "ecdsa-sha2-nistp256,ecdsa-sha2-nistp384,ecdsa-sha2-nistp521",
    "rsa-sha2-512,rsa-sha2-256",
];
/// The time limit of one connection, whose credentials are cached, in addition to `--wait`.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Prints the host keys and returns the exit status.
///
/// # Errors
/// Those of [`Session::select_some`]; the output cannot be written.
pub(crate) async fn run(args: &KnownHostsArgs) -> Result<u8> {
    client::ssh()?;
    let session = &Session::open(&args.azure)?;
    let machines = session.select_some(&args.selection, "known-hosts").await?;
    note_disconnected(&machines, args.target.wait);
    let program = &program()?;
    let read = async |named: &NamedMachine| {
        let target = named.target(args.target.service, args.target.port());
        let lines = async {
            session.cache_credentials(&target).await?;
            let failed = match lines(args, program, named).await {
                Err(Error::Ssh(failed)) => failed,
                result => return result,
            };
            // The error of the relay, if there is one, is the cause.
            session.connect(&target, Duration::ZERO).await?;
            Err(failed.into())
        };
        lines.await.map_err(|error: Error| error.during(Context::connecting(target)))
    };
    let results = for_each(&machines, args.jobs, read).await;
    if args.output.is_json() {
        print_json(&Value::from_iter(
            machines.iter().zip(&results).map(|(named, lines)| keys(named, lines)),
        ))?;
    } else {
        results.iter().flatten().try_for_each(print)?;
    }
    if let Some(status) = report_failures(results, |machines| format!("read the host keys of {machines}")) {
        return Ok(status);
    }
    if cfg!(unix) && stdout().is_terminal() && !args.output.is_json() {
        let words: Vec<String> =
            std::env::args_os().skip(1).map(|word| shell_quote(&word.to_string_lossy())).collect();
        let command = format!("arcssh {} >> ~/.ssh/known_hosts", words.join(" "));
        note(&format!("hint: to add these host keys to ssh's known hosts, run: {command}"));
    }
    Ok(0)
}

/// Returns the host keys of a machine as JSON. A line has the names, the type and the key (sshd(8), "SSH_KNOWN_HOSTS FILE
/// FORMAT").
fn keys(named: &NamedMachine, lines: &Result<String>) -> Value {
    let key = |line: &str| {
        let mut words = line.split(' ');
        let names: Vec<&str> = words.next()?.split(',').collect();
        Some(json!({ "names": names, "type": words.next()?, "key": words.next()? }))
    };
    let keys = lines.iter().flat_map(|lines| lines.lines()).filter_map(key);
    let mut object = failure(named, lines.as_ref().err());
    object["keys"] = keys.collect();
    object
}

/// Returns a line for each host key of a machine.
async fn lines(args: &KnownHostsArgs, program: &str, named: &NamedMachine) -> Result<String> {
    let id = &named.machine.id;
    let alias = named.patterns.as_ref().and_then(|patterns| patterns.first());
    let key_names = key_names(&named.machine).into_iter().filter(|name| is_alias(name));
    let mut names: Vec<String> = key_names.collect();
    if names.is_empty() {
        names.push(alias.unwrap_or(&id.name).to_lowercase());
    }
    let name = &names[0];
    let cloud = args.azure.chosen_cloud().unwrap_or(CloudName::Public);
    let mut options = azure_options(&args.azure.credential.options(), cloud);
    options.extend(["--wait".into(), args.target.wait.as_secs().to_string()]);
    let command = ProxyCommand::new(program, ProxyMachine::Id(id.clone()), options);
    let host = Host { proxy_command: command.words(), ..Host::default() };
    let command = host.proxy_command(Platform::HERE)?;
    let directory = tempfile::tempdir().context("cannot create a temporary directory")?;
    let file = directory.path().join("known_hosts");
    let (mut lines, mut cause) = (String::new(), String::new());
    let mut offer: Option<Vec<String>> = None;
    for algorithms in ALGORITHMS {
        if offer.as_ref().is_some_and(|offer| !is_offered(algorithms, offer)) {
            continue;
        }
        let _ = std::fs::remove_file(&file);
        let mut ssh = ssh(name, &command, &file, algorithms)?;
        ssh.args(["-p", &args.target.port().to_string(), "--", name, "true"]);
        let output = async { ssh.output().await.context("cannot run ssh") };
        let output = with_timeout(TIMEOUT + args.target.wait, output, |after| {
            anyhow::anyhow!("ssh did not end within {} s", after.as_secs())
        })
        .await?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        if let Some(error) = error_of_proxy(&stderr) {
            cause = error.to_owned();
            break;
        }
        offer = host_key_algorithms(&stderr).or(offer);
        cause = fault(&stderr).to_owned();
        let written = read_text(&file, MAX_TEXT).unwrap_or_default();
        for line in written.lines() {
            let machine = sanitize(&format!("{}/{}", id.resource_group, id.name));
            // Host entries of this version have the first name, those of earlier versions the second.
            let key = line.trim_end().strip_prefix(name.as_str()).unwrap_or_default();
            lines.push_str(&format!("{}{key} {machine}\n", names.join(",")));
        }
    }
    if lines.is_empty() {
        return Err(SshError::NoHostKey { machine: named.argument.clone(), cause }.into());
    }
    Ok(lines)
}

/// Returns the error of the arcssh that ssh runs. Its first line is the message, without the name of the machine here.
fn error_of_proxy(stderr: &str) -> Option<&str> {
    let message = stderr.lines().find_map(|line| line.strip_prefix("arcssh: cannot connect to "))?;
    message.split_once(": ").map(|(_, cause)| cause)
}

/// Returns the host key algorithms of the machine. ssh logs its own first (OpenSSH, kex.c: `kex_buf2prop`).
fn host_key_algorithms(stderr: &str) -> Option<Vec<String>> {
    let lists = stderr.lines().filter_map(|line| line.strip_prefix("debug2: host key algorithms: "));
    let [_own, .., machine] = &lists.collect::<Vec<_>>()[..] else { return None };
    Some(machine.trim_end().split(',').map(Into::into).collect())
}

fn is_offered(algorithms: &str, offer: &[String]) -> bool {
    algorithms.split(',').any(|algorithm| offer.iter().any(|offered| offered == algorithm))
}

/// Returns ssh with options to write the host key of a machine to `file`, and to offer no key and no password. ssh-keyscan
/// does not support ProxyCommand.
fn ssh(name: &str, command: &str, file: &Path, algorithms: &str) -> Result<Command> {
    let file = file.to_str().context("the name of the temporary directory is not valid Unicode")?;
    let mut ssh = Command::new(client::ssh()?);
    ssh.args(["-F", "none", "-T"]);
    for option in [
        "BatchMode=yes",
        "StrictHostKeyChecking=accept-new",
        "GlobalKnownHostsFile=/dev/null",
        "HashKnownHosts=no",
        "UpdateHostKeys=no",
        "PreferredAuthentications=none",
        "LogLevel=DEBUG2",
        &format!("UserKnownHostsFile=\"{}\"", file.replace('\\', "/").replace('%', "%%")),
        &format!("HostKeyAlias={name}"),
        &format!("HostKeyAlgorithms={algorithms}"),
        &format!("ProxyCommand={command}"),
    ] {
        ssh.args(["-o", option]);
    }
    ssh.stdin(Stdio::null()).kill_on_drop(true);
    #[cfg(unix)]
    ssh.process_group(0);
    Ok(ssh)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_kinds_of_keys_that_the_machine_has_are_requested() {
        let stderr = "debug2: host key algorithms: ssh-ed25519\r\ndebug2: ciphers ctos: x\r\ndebug2: host key algorithms: rsa-sha2-512,rsa-sha2-256\r\n";
        let offer = host_key_algorithms(stderr).unwrap();
        assert_eq!(ALGORITHMS.map(|algorithms| is_offered(algorithms, &offer)), [false, false, true]);
        assert_eq!(host_key_algorithms("debug2: host key algorithms: ssh-ed25519"), None);
    }

    #[test]
    fn the_error_of_arcssh_is_the_cause() {
        let stderr = "debug1: x\narcssh: waiting for the relay\narcssh: cannot connect to web01: sshd rejects: a\narcssh: hint: wait\nConnection closed by UNKNOWN port 65535\r\ndebug1: y\n";
        assert_eq!(error_of_proxy(stderr), Some("sshd rejects: a"));
    }
}
