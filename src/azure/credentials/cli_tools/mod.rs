//! Tokens of Azure CLI, Azure Developer CLI and Azure PowerShell, for the account that is signed in there.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use async_trait::async_trait;
use azure_core::credentials::{AccessToken as SdkToken, TokenCredential};
use azure_core::time::OffsetDateTime;
use azure_identity::{AzureDeveloperCliCredential, AzureDeveloperCliCredentialOptions, Executor};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::{Child, Command};
use tokio::time::timeout;
use zeroize::Zeroize as _;

use crate::azure::credentials::source::{SourceError, Unavailable};
use crate::azure::credentials::{TokenResult, resource};
use crate::azure::entra::TokenResponse;
use crate::system::secret::Secret;

/// Time limit for a program; Azure CLI takes 0.5 to 5 s.
const PROGRAM_TIMEOUT: Duration = Duration::from_secs(60);

/// The longest accepted output, in bytes: a token takes about 4 kB, a warning or a stack trace less than 1 MiB.
const MAX_OUTPUT: u64 = 4 * 1024 * 1024;
/// The errors of the programs when no account is signed in (azure-cli-core, `_profile.py`; azure-dev,
/// `pkg/auth/manager.go`; Az.Accounts, `Resources.resx`). An expired sign-in has another error.
const AZURE_CLI_SIGNED_OUT: &str = "Please run 'az login' to setup account";
const AZURE_DEVELOPER_CLI_SIGNED_OUT: &str = "not logged in, run `azd auth login` to login";
const AZURE_POWERSHELL_SIGNED_OUT: &str = "Run Connect-AzAccount to login";

/// Returns the error of a program with this message.
fn failed(message: String, signed_out: &str) -> SourceError {
    if message.contains(signed_out) { SourceError::SignedOut(message) } else { SourceError::Failed(message) }
}

/// Requests a token from Azure CLI.
pub(crate) async fn azure_cli(scope: &str, tenant: Option<&str>) -> TokenResult {
    let program = azure_cli_program()?;
    let mut args = vec!["account", "get-access-token", "--output", "json", "--scope", scope];
    if let Some(tenant) = tenant {
        args.extend(["--tenant", tenant]);
    }
    let args: Vec<&OsStr> = args.into_iter().map(OsStr::new).collect();
    let output = SecretOutput::of(&program, &args).await?;
    if !output.0.status.success() {
        return Err(failed(error_message(&output.0), AZURE_CLI_SIGNED_OUT));
    }
    // Versions before 2.54 print the expiry only in local time, without its zone.
    let token: TokenResponse = serde_json::from_slice(output.json()).context(NO_TOKEN)?;
    Ok(token.token())
}

const NO_TOKEN: &str = "its output is not a token";

/// The output of a program, which contains a token.
struct SecretOutput(Output);

impl SecretOutput {
    async fn of(program: &Path, args: &[&OsStr]) -> Result<Self> {
        IsolatedExecutor.run(program.as_os_str(), args).await.map(Self).context("cannot start the program")
    }

    /// Returns the JSON without the text before it.
    fn json(&self) -> &[u8] {
        let start = self.0.stdout.iter().position(|&byte| byte == b'{').unwrap_or_default();
        &self.0.stdout[start..]
    }
}

impl Drop for SecretOutput {
    fn drop(&mut self) {
        self.0.stdout.zeroize();
    }
}

/// Returns a program's error message, or its exit status.
fn error_message(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if text.is_empty() { output.status.to_string() } else { text }
}

/// Requests a token from Azure Developer CLI.
pub(crate) async fn azure_developer_cli(scope: &str, tenant: Option<&str>) -> TokenResult {
    on_path(&["azd"], "Azure Developer CLI")?;
    let options = AzureDeveloperCliCredentialOptions {
        tenant_id: tenant.map(Into::into),
        executor: Some(Arc::new(IsolatedExecutor)),
    };
    let token = AzureDeveloperCliCredential::new(Some(options))?.get_token(&[scope], None).await;
    token.map_err(|error| {
        let signed_out = error.to_string().contains(AZURE_DEVELOPER_CLI_SIGNED_OUT);
        match SourceError::from(error) {
            SourceError::Failed(message) if signed_out => SourceError::SignedOut(message),
            error => error,
        }
    })
}

/// The errors of `az` without the `ssh` extension, if it does not offer to install it and if it cannot ask
/// (azure-cli-core, `azclierror` texts of `parser.py` and `dynamic_install.py`).
const NO_EXTENSION: [&str; 2] =
    ["'ssh' is misspelled or not recognized by the system", "requires the extension ssh"];

/// Returns the path of Azure CLI.
pub(crate) fn azure_cli_program() -> Result<PathBuf, Unavailable> {
    on_path(&["az"], "Azure CLI")
}

/// Requests an SSH certificate for the public key in a file, and writes it to another file (azure-cli-extensions `ssh`,
/// `az ssh cert`).
pub(crate) async fn azure_cli_certificate(
    program: &Path,
    public_key: &Path,
    certificate: &Path,
) -> Result<(), SourceError> {
    let args = [
        OsStr::new("ssh"),
        OsStr::new("cert"),
        OsStr::new("--public-key-file"),
        public_key.as_os_str(),
        OsStr::new("--file"),
        certificate.as_os_str(),
    ];
    let output =
        IsolatedExecutor.run(program.as_os_str(), &args).await.context("cannot start the program")?;
    if output.status.success() {
        return Ok(());
    }
    let message = error_message(&output);
    if NO_EXTENSION.iter().any(|text| message.contains(text)) {
        return Err(SourceError::MissingSshExtension);
    }
    Err(SourceError::Failed(message))
}

/// PowerShell, and on Windows also Windows PowerShell.
const POWERSHELLS: &[&str] = if cfg!(windows) { &["pwsh", "powershell"] } else { &["pwsh"] };

/// The exit status of [`SCRIPT`] if the module is not installed.
const NO_MODULE: i32 = 42;

/// Requests a token from Az.Accounts. `-TenantId` exists since version 2.2.0. Since version 5, the token is a
/// `SecureString` (Microsoft Learn, `Get-AzAccessToken`).
const SCRIPT: &str = r"
$ErrorActionPreference = 'Stop'
$ProgressPreference = 'SilentlyContinue'
$WarningPreference = 'SilentlyContinue'
if (-not (Get-Module -ListAvailable -Name Az.Accounts)) { exit 42 }
try {
    Import-Module Az.Accounts -MinimumVersion 2.2.0
    $found = Get-AzAccessToken {arguments}
    $token = $found.Token
    if ($token -is [securestring]) { $token = [Net.NetworkCredential]::new('', $token).Password }
    @{ token = $token; expiresOn = $found.ExpiresOn.ToUnixTimeSeconds() } | ConvertTo-Json -Compress
} catch {
    [Console]::Error.WriteLine($_.Exception.Message)
    exit 1
}";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PowerShellToken {
    token: Secret,
    expires_on: i64,
}

/// Requests a token from Azure PowerShell.
pub(crate) async fn azure_powershell(scope: &str, tenant: Option<&str>) -> TokenResult {
    let program = on_path(POWERSHELLS, "Azure PowerShell")?;
    let mut arguments = format!("-ResourceUrl {}", literal(resource(scope)));
    if let Some(tenant) = tenant {
        arguments += &format!(" -TenantId {}", literal(tenant));
    }
    let script = encoded(&SCRIPT.replace("{arguments}", &arguments));
    let args =
        ["-NoLogo", "-NoProfile", "-NonInteractive", "-OutputFormat", "Text", "-EncodedCommand", &script];
    let output = SecretOutput::of(&program, &args.map(OsStr::new)).await?;
    if output.0.status.code() == Some(NO_MODULE) {
        return Err(Unavailable::NoPowerShellModule.into());
    }
    if !output.0.status.success() {
        return Err(failed(error_message(&output.0), AZURE_POWERSHELL_SIGNED_OUT));
    }
    let token: PowerShellToken = serde_json::from_slice(output.json()).context(NO_TOKEN)?;
    let expires_on =
        OffsetDateTime::from_unix_timestamp(token.expires_on).context("its output has no valid expiry")?;
    Ok(SdkToken::new(token.token.secret().to_owned(), expires_on))
}

/// Returns a text as a PowerShell string literal. PowerShell accepts all of these characters as quotes.
fn literal(text: &str) -> String {
    format!("'{}'", text.replace(['\'', '\u{2018}', '\u{2019}', '\u{201a}', '\u{201b}'], "''"))
}

/// Encodes a script for `-EncodedCommand` (Microsoft Learn, about_Pwsh).
fn encoded(script: &str) -> String {
    STANDARD.encode(script.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>())
}

/// Returns the path of the first of these programs that is on PATH.
fn on_path(names: &[&'static str], product: &'static str) -> Result<PathBuf, Unavailable> {
    let found = names.iter().find_map(|name| which::which(name).ok());
    found.ok_or(Unavailable::NotInstalled { program: names[0], product })
}

/// Runs a program without standard input, which belongs to ssh: a program that reads it would steal the first bytes of
/// the connection. A cancelled run kills the program and its child processes.
#[derive(Debug)]
struct IsolatedExecutor;

#[async_trait]
impl Executor for IsolatedExecutor {
    async fn run(&self, program: &OsStr, args: &[&OsStr]) -> std::io::Result<Output> {
        let mut command = Command::new(program);
        command
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        #[cfg(unix)]
        command.process_group(0);
        let child = command.spawn()?;
        let group = ProcessGroup(child.id());
        let timed_out =
            |_elapsed| std::io::Error::other(format!("no response within {} s", PROGRAM_TIMEOUT.as_secs()));
        let output = timeout(PROGRAM_TIMEOUT, output(child)).await.map_err(timed_out)??;
        group.disarm();
        Ok(output)
    }
}

/// Waits for a program, and reads at most [`MAX_OUTPUT`] of each of its two outputs.
async fn output(mut child: Child) -> std::io::Result<Output> {
    let stdout = read(child.stdout.take());
    let stderr = read(child.stderr.take());
    let (stdout, stderr) = tokio::try_join!(stdout, stderr)?;
    Ok(Output { status: child.wait().await?, stdout, stderr })
}

async fn read(stream: Option<impl AsyncRead + Unpin>) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(stream) = stream {
        stream.take(MAX_OUTPUT + 1).read_to_end(&mut bytes).await?;
    }
    if bytes.len() as u64 > MAX_OUTPUT {
        let message = format!("it printed more than {} MiB", MAX_OUTPUT / 1024 / 1024);
        return Err(std::io::Error::other(message));
    }
    Ok(bytes)
}

/// The processes of a program, killed on drop.
struct ProcessGroup(Option<u32>);

impl ProcessGroup {
    /// Kills nothing on drop, because the program has exited.
    fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        #[cfg(unix)]
        if let Some(leader) = self.0.and_then(|id| rustix::process::Pid::from_raw(id.cast_signed())) {
            let _ = rustix::process::kill_process_group(leader, rustix::process::Signal::KILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn powershell_quotes_are_escaped() {
        assert_eq!(literal("a'; exit"), "'a''; exit'");
        assert_eq!(encoded("é"), "6QA=");
    }
}

#[cfg(test)]
mod fuzz_tests;
