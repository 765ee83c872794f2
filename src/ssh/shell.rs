//! The user's shell, in which ssh runs the ProxyCommand of a host entry.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::ssh::SshError;
use crate::text::cut;

/// The time limit of the shell. Start-up files can take some seconds.
const TIMEOUT: Duration = Duration::from_secs(10);
/// A program that every Unix has. A restricted shell runs no program by its path.
const COMMAND: &str = r#"exec /bin/sh -c "echo arcssh-is-running""#;
const OUTPUT: &[u8] = b"arcssh-is-running\n";
/// The most text before the banner of a server: lines of at most 8192 bytes, and fewer than 1024 of them (OpenSSH kex.c,
/// `kex_exchange_identification`), or 64 KiB before OpenSSH 8.0 (sshconnect.c, `ssh_exchange_identification`).
const MAX_LINE: usize = 8192;
const MAX_LINES: usize = 1024;
const MAX_TEXT: usize = 65536;
/// The most characters of the shell's output in a message.
const MAX_QUOTE: usize = 60;

/// Checks that the shell runs a command, and that the output of its start-up files does not disturb ssh, which reads that
/// output as the machine's. Returns the shell; `None` on Windows, where ssh starts a ProxyCommand without a shell
/// (PowerShell/Win32-OpenSSH issue 355).
///
/// # Errors
/// [`SshError::Shell`]; [`SshError::ShellPrints`].
pub(crate) async fn check() -> Result<Option<PathBuf>, SshError> {
    if cfg!(windows) {
        return Ok(None);
    }
    // OpenSSH sshconnect.c, `ssh_proxy_connect`: an empty SHELL counts as unset, and execvp(3) searches PATH.
    let shell = std::env::var_os("SHELL").filter(|shell| !shell.is_empty());
    let shell = shell.map_or("/bin/sh".into(), PathBuf::from);
    check_shell(&shell, TIMEOUT).await?;
    Ok(Some(shell))
}

async fn check_shell(shell: &Path, limit: Duration) -> Result<(), SshError> {
    let unusable = |cause: String| SshError::Shell { shell: shell.to_owned(), cause };
    let mut command = Command::new(shell);
    command.args(["-c", COMMAND]).kill_on_drop(true);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().map_err(|error| unusable(error.to_string()))?;
    let Ok(output) = timeout(limit, output(&mut child)).await else {
        return Err(unusable(format!("it runs no command within {} s", limit.as_secs())));
    };
    let output = output?;
    let Some(text) = output.strip_suffix(OUTPUT) else {
        if output.len() > MAX_TEXT {
            return Err(prints(shell, &output));
        }
        let status = timeout(limit, child.wait()).await.map(|status| Ok::<_, SshError>(status?.to_string()));
        let status = status.unwrap_or(Ok("it does not end".into()))?;
        return Err(unusable(format!("it runs no command ({status}){}", quoted(&output, ": "))));
    };
    if is_skipped(text) { Ok(()) } else { Err(prints(shell, text)) }
}

/// Reads the output up to that of the command. A process of the start-up files that remains can have it open.
async fn output(child: &mut Child) -> std::io::Result<Vec<u8>> {
    let mut output = Vec::new();
    if let Some(stdout) = &mut child.stdout {
        while !output.ends_with(OUTPUT) && output.len() <= MAX_TEXT && stdout.read_buf(&mut output).await? > 0
        {
        }
    }
    Ok(output)
}

/// Returns whether ssh skips the text before the server's banner. It reads the banner as a part of an incomplete line.
fn is_skipped(text: &[u8]) -> bool {
    let mut lines = text.split(|byte| *byte == b'\n');
    let is_complete = lines.next_back().is_some_and(<[u8]>::is_empty);
    let is_line = |line: &[u8]| {
        let end = line.iter().rposition(|byte| *byte != b'\r').map_or(0, |last| last + 1);
        let is_text = !line[..end].iter().any(|byte| [b'\r', 0].contains(byte));
        is_text && end <= MAX_LINE && !line.starts_with(b"SSH-")
    };
    is_complete && text.len() <= MAX_TEXT && lines.clone().count() < MAX_LINES && lines.all(is_line)
}

fn prints(shell: &Path, text: &[u8]) -> SshError {
    SshError::ShellPrints { shell: shell.to_owned(), text: quoted(text, "") }
}

/// The first line of a text that has any, after `before`.
fn quoted(text: &[u8], before: &str) -> String {
    let text = String::from_utf8_lossy(text);
    let line = text.lines().map(str::trim).find(|line| !line.is_empty());
    line.map_or(String::new(), |line| format!("{before}{:?}", cut(line, MAX_QUOTE)))
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn complete_lines_before_the_banner_are_skipped() {
        for text in ["", "Welcome!\n", "two\r\nlines\r\r\n", "\n\n"] {
            assert!(is_skipped(text.as_bytes()), "{text:?}");
        }
        assert!(is_skipped("x\n".repeat(1023).as_bytes()));
        for text in ["no end", "\u{1b}]0;title\u{7}", "a\rb\n", "a\0\n", "SSH-2.0-OpenSSH_9.2\n", "a\nb"] {
            assert!(!is_skipped(text.as_bytes()), "{text:?}");
        }
        assert!(!is_skipped("x\n".repeat(1024).as_bytes()));
        assert!(!is_skipped(format!("{}\n", "x".repeat(8193)).as_bytes()));
    }

    #[tokio::test]
    async fn a_shell_that_does_not_end_is_reported() {
        let directory = tempfile::tempdir().unwrap();
        let shell = directory.path().join("shell");
        // This process has no file open for writing while another thread starts a program (execve(2), ETXTBSY).
        let script =
            format!("printf '#!/bin/sh\\nexec tail -f /dev/null\\n' > {0} && chmod 700 {0}", shell.display());
        std::process::Command::new("sh").args(["-c", &script]).status().unwrap();
        let error = check_shell(&shell, Duration::from_millis(100)).await.unwrap_err();
        assert!(error.to_string().contains("it runs no command within"), "{error}");
    }
}
