//! Programs that somebody has signed in to: Azure CLI, Azure Developer CLI, Azure PowerShell.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use async_trait::async_trait;
use azure_core::credentials::{AccessToken as SdkToken, TokenCredential};
use azure_core::time::OffsetDateTime;
use azure_identity::{AzureDeveloperCliCredential, AzureDeveloperCliCredentialOptions, Executor};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::{Child, Command};
use tokio::time::timeout;
use zeroize::Zeroize as _;

use crate::azure::credentials::{SourceError, TokenResult, Unavailable, resource};
use crate::azure::entra::TokenResponse;
use crate::system::secret::Secret;

/// How long a program may take to give a token; Azure CLI takes 0.5 to 5 s.
const PROGRAM_TIMEOUT: Duration = Duration::from_secs(60);

/// The most of a program's output that is read: a token takes about 4 kB, a warning or a stack trace less than 1 MiB.
const MAX_OUTPUT: u64 = 4 * 1024 * 1024;
/// What each program says if the user has not signed in to it (azure-cli-core, `_profile.py`; azure-dev,
/// `pkg/auth/manager.go`; Az.Accounts, `Resources.resx`). A sign-in that has expired is worded otherwise.
const AZURE_CLI_SIGNED_OUT: &str = "Please run 'az login' to setup account";
const AZURE_DEVELOPER_CLI_SIGNED_OUT: &str = "not logged in, run `azd auth login` to login";
const AZURE_POWERSHELL_SIGNED_OUT: &str = "Run Connect-AzAccount to login";

/// A program that failed, in its own words.
fn failed(words: String, signed_out: &str) -> SourceError {
    match words.contains(signed_out) {
        true => SourceError::SignedOut(anyhow!(words)),
        false => SourceError::Refused(anyhow!(words)),
    }
}

/// The token of whoever is signed in to Azure CLI.
pub(crate) async fn azure_cli(scope: &str, tenant: Option<&str>) -> TokenResult {
    let program = azure_cli_program()?;
    let mut words = vec!["account", "get-access-token", "--output", "json", "--scope", scope];
    if let Some(tenant) = tenant {
        words.extend(["--tenant", tenant]);
    }
    let words: Vec<&OsStr> = words.into_iter().map(OsStr::new).collect();
    let output =
        Printed(IsolatedExecutor.run(program.as_os_str(), &words).await.context("it cannot be run")?);
    if !output.0.status.success() {
        return Err(failed(said(&output.0), AZURE_CLI_SIGNED_OUT));
    }
    // Before 2.54 the end of a token was told only in local time, without its zone.
    let given: TokenResponse = serde_json::from_slice(output.json()).context(NO_TOKEN)?;
    Ok(given.token())
}

const NO_TOKEN: &str = "what it printed is no token";

/// What a program printed, a token among it.
struct Printed(Output);

impl Printed {
    /// The JSON, without the text before.
    fn json(&self) -> &[u8] {
        let start = self.0.stdout.iter().position(|&byte| byte == b'{').unwrap_or_default();
        &self.0.stdout[start..]
    }
}

impl Drop for Printed {
    fn drop(&mut self) {
        self.0.stdout.zeroize();
    }
}

/// Why a program failed, in its own words if it has any.
fn said(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if text.is_empty() { output.status.to_string() } else { text }
}

/// The token of whoever is signed in to Azure Developer CLI.
pub(crate) async fn azure_developer_cli(scope: &str, tenant: Option<&str>) -> TokenResult {
    on_path(&["azd"], "Azure Developer CLI")?;
    let options = AzureDeveloperCliCredentialOptions {
        tenant_id: tenant.map(Into::into),
        executor: Some(Arc::new(IsolatedExecutor)),
    };
    let token = AzureDeveloperCliCredential::new(Some(options))?.get_token(&[scope], None).await;
    token.map_err(|error| match error.to_string().contains(AZURE_DEVELOPER_CLI_SIGNED_OUT) {
        true => SourceError::SignedOut(error.into()),
        false => error.into(),
    })
}

/// What `az` says where it has no `ssh` commands: without asking, and where it may not ask (azure-cli-core,
/// `azclierror` texts of `parser.py` and `dynamic_install.py`).
const NO_EXTENSION: [&str; 2] =
    ["'ssh' is misspelled or not recognized by the system", "requires the extension ssh"];

/// Azure CLI is there without its `ssh` extension.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, thiserror::Error)]
#[error("Azure CLI has no ssh extension, and no other account is signed in")]
pub(crate) struct MissingSshExtension;

/// The program that is asked for certificates.
pub(crate) fn azure_cli_program() -> Result<PathBuf, Unavailable> {
    on_path(&["az"], "Azure CLI")
}

/// The SSH certificate of whoever is signed in to Azure CLI for the public key in a file, written to another
/// (azure-cli-extensions `ssh`, `az ssh cert`).
pub(crate) async fn azure_cli_certificate(
    program: &Path,
    public_key: &Path,
    certificate: &Path,
) -> Result<(), SourceError> {
    let words = ["ssh", "cert", "--public-key-file"].map(OsStr::new);
    let words = [&words[..], &[public_key.as_os_str(), OsStr::new("--file"), certificate.as_os_str()]];
    let output =
        IsolatedExecutor.run(program.as_os_str(), &words.concat()).await.context("it cannot be run")?;
    let said = said(&output);
    match output.status.success() {
        true => Ok(()),
        false if NO_EXTENSION.iter().any(|text| said.contains(text)) => {
            Err(anyhow!(MissingSshExtension).into())
        }
        false => Err(anyhow!(said).into()),
    }
}

/// PowerShell, and on Windows the one that comes with it.
const POWERSHELLS: &[&str] = if cfg!(windows) { &["pwsh", "powershell"] } else { &["pwsh"] };

/// The exit status of [`SCRIPT`] where the module is not installed.
const NO_MODULE: i32 = 42;

/// Asks Az.Accounts for a token; `-TenantId` exists since 2.2.0. From version 5 on the token is a `SecureString`
/// (Microsoft Learn, `Get-AzAccessToken`).
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

/// The token of whoever is signed in to Azure PowerShell.
pub(crate) async fn azure_powershell(scope: &str, tenant: Option<&str>) -> TokenResult {
    let program = on_path(POWERSHELLS, "Azure PowerShell")?;
    let mut arguments = format!("-ResourceUrl {}", literal(resource(scope)));
    if let Some(tenant) = tenant {
        arguments += &format!(" -TenantId {}", literal(tenant));
    }
    let script = encoded(&SCRIPT.replace("{arguments}", &arguments));
    let words =
        ["-NoLogo", "-NoProfile", "-NonInteractive", "-OutputFormat", "Text", "-EncodedCommand", &script];
    let words = words.map(OsStr::new);
    let output =
        Printed(IsolatedExecutor.run(program.as_os_str(), &words).await.context("it cannot be run")?);
    if output.0.status.code() == Some(NO_MODULE) {
        return Err(
            Unavailable::new("Azure PowerShell is not installed", "Install-Module Az.Accounts").into()
        );
    }
    if !output.0.status.success() {
        return Err(failed(said(&output.0), AZURE_POWERSHELL_SIGNED_OUT));
    }
    let found: PowerShellToken = serde_json::from_slice(output.json()).context(NO_TOKEN)?;
    let expires_on = OffsetDateTime::from_unix_timestamp(found.expires_on).context("it gave no time")?;
    Ok(SdkToken::new(found.token.secret().to_owned(), expires_on))
}

/// Text as PowerShell takes it, whatever it holds.
fn literal(text: &str) -> String {
    format!("'{}'", text.replace(['\'', '\u{2018}', '\u{2019}', '\u{201a}', '\u{201b}'], "''"))
}

/// A script as one word that no shell changes (Microsoft Learn, about_Pwsh, `-EncodedCommand`).
fn encoded(script: &str) -> String {
    STANDARD.encode(script.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>())
}

/// Returns the path of the first of these programs that is on PATH.
fn on_path(names: &[&str], product: &str) -> Result<PathBuf, Unavailable> {
    names
        .iter()
        .find_map(|name| which::which(name).ok())
        .ok_or_else(|| Unavailable::new(format!("{} is not on PATH", names[0]), format!("install {product}")))
}

/// Runs a program apart from ssh's connection: standard input belongs to ssh, and what would read it would steal the
/// first bytes. A program that nobody waits for any more is ended, with all that it has started.
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
        let late =
            |_elapsed| std::io::Error::other(format!("no answer within {} s", PROGRAM_TIMEOUT.as_secs()));
        let output = timeout(PROGRAM_TIMEOUT, output(child)).await.map_err(late)??;
        group.disarm();
        Ok(output)
    }
}

/// Waits for a program, and reads what it prints, up to [`MAX_OUTPUT`] on each of its two outputs.
async fn output(mut child: Child) -> std::io::Result<Output> {
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let (stdout, stderr) = tokio::try_join!(bounded(stdout), bounded(stderr))?;
    Ok(Output { status: child.wait().await?, stdout, stderr })
}

async fn bounded(stream: Option<impl AsyncRead + Unpin>) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(stream) = stream {
        stream.take(MAX_OUTPUT + 1).read_to_end(&mut bytes).await?;
    }
    match bytes.len() as u64 > MAX_OUTPUT {
        true => Err(std::io::Error::other(format!("it printed more than {} MiB", MAX_OUTPUT / 1024 / 1024))),
        false => Ok(bytes),
    }
}

/// The processes of a program; ended when dropped.
struct ProcessGroup(Option<u32>);

impl ProcessGroup {
    /// Lets them be: the program has ended by itself.
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
    fn a_word_for_powershell_stays_one_literal() {
        assert_eq!(literal("a'; exit"), "'a''; exit'");
        assert_eq!(encoded("é"), "6QA=");
    }
}

#[cfg(test)]
mod fuzz_tests;
