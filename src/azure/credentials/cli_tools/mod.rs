//! Tokens of Azure CLI, Azure Developer CLI and Azure PowerShell, for the account that is signed in there.

pub(crate) mod cloud;
mod output;
pub(crate) mod redaction;

use std::env;
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use anyhow::Context;
use azure_core::credentials::AccessToken as SdkToken;
use azure_core::time::{OffsetDateTime, parse_rfc3339};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::{Child, Command};
use tokio::time::timeout;
use zeroize::Zeroize as _;

use crate::azure::credentials::cli_tools::output::{error_message, json, text};
use crate::azure::credentials::source::{SourceError, Unavailable};
use crate::azure::credentials::{CredentialSource, TokenResult, resource, service_principal};
use crate::azure::entra::{self, TokenResponse};
use crate::system::files;
use crate::system::secret::Secret;

/// Time limit for a program; Azure CLI takes 0.5 to 5 s.
const PROGRAM_TIMEOUT: Duration = Duration::from_secs(60);

/// The longest accepted output, in bytes: a token takes about 4 kB, a warning or a stack trace less than 1 MiB.
const MAX_OUTPUT: u64 = 4 * 1024 * 1024;

/// The exit statuses of a shell, and of a script, that cannot start a program (POSIX, Shell Command Language, 2.8.2).
const NOT_STARTED: [i32; 2] = [126, 127];
/// The errors of the system for a file that is not a program: ENOEXEC (errno(3)) and ERROR_BAD_EXE_FORMAT.
const NO_PROGRAM: i32 = if cfg!(windows) { 193 } else { 8 };

/// A program that issues tokens.
struct Program {
    /// The names of its file. The first one is for messages.
    names: &'static [&'static str],
    /// The product that contains the program.
    product: &'static str,
    /// Texts of its errors if no account is signed in, in lower case. An expired sign-in has another error.
    signed_out: &'static [&'static str],
}

/// Errors: azure-cli-core, `_profile.py` and `auth/identity.py`; azure-identity for Python, `azure_cli.py`.
const AZURE_CLI: Program = Program {
    names: &["az"],
    product: "Azure CLI",
    signed_out: &[
        "please run 'az login' to setup account",
        "please run \"az login\"",
        "run `az login`",
        "run 'az account set'",
    ],
};
/// Error: azure-dev, `pkg/auth/manager.go`.
const AZURE_DEVELOPER_CLI: Program = Program {
    names: &["azd"],
    product: "Azure Developer CLI",
    signed_out: &["not logged in, run `azd auth login` to login"],
};
/// PowerShell, and on Windows also Windows PowerShell. Error: Az.Accounts, `Resources.resx`.
const AZURE_POWERSHELL: Program = Program {
    names: if cfg!(windows) { &["pwsh", "powershell"] } else { &["pwsh"] },
    product: "Azure PowerShell",
    signed_out: &["run connect-azaccount to login"],
};

impl Program {
    /// Returns the path of the program: on PATH, else in a usual directory. Programs of a desktop have a shorter PATH
    /// than a terminal (microsoft/vscode-azurecli issue 39).
    fn find(&self) -> Result<PathBuf, Unavailable> {
        let on_path = self.names.iter().find_map(|name| which::which(name).ok());
        let usual = || {
            let directories = env::join_paths(usual_directories()).ok()?;
            self.names.iter().find_map(|name| which::which_in(name, Some(&directories), ".").ok())
        };
        let not_installed = || Unavailable::NotInstalled {
            program: self.names[0].to_owned(),
            product: self.product.to_owned(),
        };
        on_path.or_else(usual).ok_or_else(not_installed)
    }

    /// Runs the program, which must print a token.
    async fn run<T: DeserializeOwned>(&self, args: &[&OsStr]) -> Result<T, SourceError> {
        let output = SecretOutput(self.start(&self.find()?, args).await?);
        let (status, code) = (output.0.status, output.0.status.code());
        if status.success() {
            return json(&output.0.stdout).ok_or(SourceError::NoToken);
        }
        let message = error_message(&output.0);
        Err(match code {
            Some(NO_MODULE) if self.product == AZURE_POWERSHELL.product => {
                Unavailable::NoPowerShellModule.into()
            }
            Some(code) if NOT_STARTED.contains(&code) => self.cannot_run(message).into(),
            _ if self.is_signed_out(&output.0) => Unavailable::SignedOut(message).into(),
            _ => SourceError::Failed(message),
        })
    }

    /// Runs the program. An `Err` is not one of the program.
    async fn start(&self, path: &Path, args: &[&OsStr]) -> Result<Output, SourceError> {
        let child = match spawn(path, args) {
            Ok(child) => child,
            Err(error) if is_no_program(&error) => return Err(self.cannot_run(error.to_string()).into()),
            Err(error) => return Err(SourceError::Failed(format!("cannot start the program: {error}"))),
        };
        let group = ProcessGroup(child.id());
        let timed_out =
            |_elapsed| io::Error::other(format!("no response within {} s", PROGRAM_TIMEOUT.as_secs()));
        let output = timeout(PROGRAM_TIMEOUT, output(child)).await.map_err(timed_out).flatten();
        let output = output.map_err(|error| SourceError::Failed(error.to_string()))?;
        group.disarm();
        Ok(output)
    }

    fn cannot_run(&self, cause: String) -> Unavailable {
        Unavailable::CannotRun { program: self.names[0].to_owned(), product: self.product.to_owned(), cause }
    }

    /// Returns whether no account is signed in. An error of Entra ID is one of an account.
    fn is_signed_out(&self, output: &Output) -> bool {
        let text = text(&[&output.stderr[..], &output.stdout].concat()).to_lowercase();
        !text.contains("aadsts") && self.signed_out.iter().any(|error| text.contains(error))
    }
}

/// Directories of programs that PATH may lack: those of package managers and of Microsoft's installers (Microsoft Learn,
/// "Install the Azure CLI", "Install or update the Azure Developer CLI", "Install PowerShell").
fn usual_directories() -> Vec<PathBuf> {
    let below = |base: Option<PathBuf>, directories: &[&str]| -> Vec<PathBuf> {
        let base = base.unwrap_or_default();
        directories.iter().filter(|_| base.is_absolute()).map(|directory| base.join(directory)).collect()
    };
    if cfg!(windows) {
        let variable = |name: &str| env::var_os(name).map(PathBuf::from);
        let installed = [r"Microsoft SDKs\Azure\CLI2\wbin", "Azure Dev CLI", r"PowerShell\7"];
        let mut directories = below(variable("ProgramFiles"), &installed);
        directories.extend(below(variable("ProgramFiles(x86)"), &installed));
        directories
            .extend(below(variable("LOCALAPPDATA"), &[r"Programs\Azure Dev CLI", r"Microsoft\WindowsApps"]));
        return directories;
    }
    let mut directories = vec![
        "/usr/local/bin".into(),
        "/opt/homebrew/bin".into(),
        "/home/linuxbrew/.linuxbrew/bin".into(),
        "/opt/local/bin".into(),
        "/snap/bin".into(),
        "/opt/microsoft/azd".into(),
        "/opt/microsoft/powershell/7".into(),
        "/usr/local/microsoft/powershell/7".into(),
    ];
    directories.extend(below(env::home_dir(), &[".local/bin", "bin", ".dotnet/tools"]));
    directories
}

/// Returns a file of a program, in the directory of a variable or below the home directory.
pub(crate) fn file(variable: &str, folder: &str, file: &str) -> Option<PathBuf> {
    let configured = service_principal::variable(variable).ok().flatten().map(PathBuf::from);
    let folder = configured.or_else(|| Some(env::home_dir()?.join(folder)))?;
    Some(folder.join(file))
}

/// Returns whether a program is installed and has stored an account: Azure CLI in `azureProfile.json` (azure-cli-core,
/// `_profile.py`), Azure Developer CLI in `auth.json` (azure-dev, `pkg/auth/manager.go`), Azure PowerShell in
/// `AzureRmContext.json` (Microsoft Learn, "Azure PowerShell context objects").
pub(crate) fn has_account(source: CredentialSource) -> bool {
    let (program, file) = match source {
        CredentialSource::AzureCli => (AZURE_CLI, file("AZURE_CONFIG_DIR", ".azure", "azureProfile.json")),
        CredentialSource::AzureDeveloperCli => {
            (AZURE_DEVELOPER_CLI, file("AZD_CONFIG_DIR", ".azd", "auth.json"))
        }
        CredentialSource::AzurePowershell => {
            (AZURE_POWERSHELL, env::home_dir().map(|home| home.join(".Azure/AzureRmContext.json")))
        }
        _ => return false,
    };
    let text = file.and_then(|file| files::read(&file, files::MAX_TEXT).ok()).unwrap_or_default();
    let has_subscription = || {
        let profile: Option<Value> = json(&text);
        profile.is_some_and(|profile| profile["subscriptions"].as_array().is_some_and(|all| !all.is_empty()))
    };
    let has_account =
        if source == CredentialSource::AzureCli { has_subscription() } else { !text.is_empty() };
    has_account && program.find().is_ok()
}

/// The output of a program, which contains a token.
struct SecretOutput(Output);

impl Drop for SecretOutput {
    fn drop(&mut self) {
        self.0.stdout.zeroize();
    }
}

/// The error of Azure CLI before version 2.76 if an account is given a tenant that can have none: a managed identity, or
/// the account of Cloud Shell (azure-cli-core, `_profile.py`).
const NO_TENANT: &str = "Tenant shouldn't be specified for";

/// Requests a token from Azure CLI.
pub(crate) async fn azure_cli(scope: &str, tenant: Option<&str>) -> TokenResult {
    match (azure_cli_token(scope, tenant).await, tenant) {
        (Err(SourceError::Failed(message)), Some(tenant)) if message.contains(NO_TENANT) => {
            let token = azure_cli_token(scope, None).await?;
            in_tenant(token, tenant)
        }
        (token, _) => token,
    }
}

/// Returns the token of a managed identity if it is one of the tenant.
fn in_tenant(token: SdkToken, tenant: &str) -> TokenResult {
    let own = entra::claims(token.token.secret())["tid"].as_str().unwrap_or_default().to_owned();
    if own.eq_ignore_ascii_case(tenant) {
        return Ok(token);
    }
    Err(SourceError::OtherTenant { own, tenant: tenant.to_owned() })
}

async fn azure_cli_token(scope: &str, tenant: Option<&str>) -> TokenResult {
    let mut args = vec!["account", "get-access-token", "--output", "json", "--scope", scope];
    args.extend(tenant.into_iter().flat_map(|tenant| ["--tenant", tenant]));
    let args: Vec<&OsStr> = args.into_iter().map(OsStr::new).collect();
    // Versions before 2.54 print the expiry only in local time, without its zone.
    let token: TokenResponse = AZURE_CLI.run(&args).await?;
    Ok(token.token())
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct DeveloperCliToken {
    token: Secret,
    expires_on: String,
}

/// Requests a token from Azure Developer CLI (azure_identity 1.0, `azure_developer_cli_credential.rs`).
pub(crate) async fn azure_developer_cli(scope: &str, tenant: Option<&str>) -> TokenResult {
    let mut args = vec!["auth", "token", "--output", "json", "--no-prompt", "--scope", scope];
    args.extend(tenant.into_iter().flat_map(|tenant| ["--tenant-id", tenant]));
    let args: Vec<&OsStr> = args.into_iter().map(OsStr::new).collect();
    let token: DeveloperCliToken = AZURE_DEVELOPER_CLI.run(&args).await?;
    let expires_on = parse_rfc3339(&token.expires_on).context("its output has no valid expiry")?;
    Ok(SdkToken::new(token.token.secret().to_owned(), expires_on))
}

/// The errors of `az` without the `ssh` extension, if it does not offer to install it and if it cannot ask
/// (azure-cli-core, `azclierror` texts of `parser.py` and `dynamic_install.py`).
const NO_EXTENSION: [&str; 2] =
    ["'ssh' is misspelled or not recognized by the system", "requires the extension ssh"];

/// Returns the path of Azure CLI.
pub(crate) fn azure_cli_program() -> Result<PathBuf, Unavailable> {
    AZURE_CLI.find()
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
    let output = AZURE_CLI.start(program, &args).await?;
    if output.status.success() {
        return Ok(());
    }
    let message = error_message(&output);
    if NO_EXTENSION.iter().any(|text| message.contains(text)) {
        return Err(SourceError::MissingSshExtension);
    }
    Err(SourceError::Failed(message))
}

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
    let mut arguments = format!("-ResourceUrl {}", literal(resource(scope)));
    if let Some(tenant) = tenant {
        arguments += &format!(" -TenantId {}", literal(tenant));
    }
    let script = encoded(&SCRIPT.replace("{arguments}", &arguments));
    let args =
        ["-NoLogo", "-NoProfile", "-NonInteractive", "-OutputFormat", "Text", "-EncodedCommand", &script];
    let token: PowerShellToken = AZURE_POWERSHELL.run(&args.map(OsStr::new)).await?;
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

/// Starts a program without standard input, which belongs to ssh: a program that reads it would steal the first bytes of
/// the connection.
fn spawn(path: &Path, args: &[&OsStr]) -> io::Result<Child> {
    let mut command = Command::new(path);
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    #[cfg(unix)]
    command.process_group(0);
    command.spawn()
}

/// Returns whether the file is no program, or its interpreter is missing.
fn is_no_program(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied)
        || error.raw_os_error() == Some(NO_PROGRAM)
}

/// Waits for a program, and reads at most [`MAX_OUTPUT`] of each of its two outputs.
async fn output(mut child: Child) -> io::Result<Output> {
    let stdout = read(child.stdout.take());
    let stderr = read(child.stderr.take());
    let (stdout, stderr) = tokio::try_join!(stdout, stderr)?;
    Ok(Output { status: child.wait().await?, stdout, stderr })
}

async fn read(stream: Option<impl AsyncRead + Unpin>) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(stream) = stream {
        stream.take(MAX_OUTPUT + 1).read_to_end(&mut bytes).await?;
    }
    if bytes.len() as u64 > MAX_OUTPUT {
        let message = format!("it printed more than {} MiB", MAX_OUTPUT / 1024 / 1024);
        return Err(io::Error::other(message));
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
