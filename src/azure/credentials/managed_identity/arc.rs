//! The managed identity of an Arc-enabled server: the agent names a key file, and issues a token for its content.
//!
//! The key is as valuable as the machine's token. arcssh reads it only from the agent's own file, and sends it only over a
//! connection that the agent has accepted: while the agent is stopped, any user can listen on its port.

use std::fs::File;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, ensure};
use bytes::Bytes;
use http::header::{AUTHORIZATION, HOST, HeaderValue, WWW_AUTHENTICATE};
use http::{Request, Response};
use http_body_util::Empty;
use reqwest::Url;
use zeroize::Zeroizing;

use crate::azure::credentials::managed_identity::describe;
use crate::azure::credentials::service_principal::variable;
use crate::azure::credentials::{SourceError, TokenResult, Unavailable, resource};
use crate::azure::entra::TokenResponse;
use crate::azure::json::parse;
use crate::net::error::root;
use crate::net::http_head::auth_param;
use crate::net::loopback::{Loopback, MAX_BODY};
use crate::system::secret::Secret;

/// The agent's default endpoint (MSAL Go, `managedidentity.go`), and the version of its protocol (MSAL,
/// `managed_identity.py`). `localhost` can be `::1`, where the agent does not listen and another user can.
const ENDPOINT: &str = "http://127.0.0.1:40342/metadata/identity/oauth2/token";
const API_VERSION: &str = "2020-06-01";
/// The longest key, in bytes (MSAL, `managed_identity.py`).
const MAX_KEY: u64 = 4096;
/// The longest name of a key file, in characters.
const MAX_NAME: usize = 128;
/// The extension of a key file (MSAL, `managed_identity.py`).
const KEY_SUFFIX: &str = ".key";

/// The agent's endpoint on this machine.
#[derive(Debug)]
pub(super) struct Agent {
    address: SocketAddr,
    url: Url,
}

impl Agent {
    /// Finds the agent if this is an Arc-enabled server: the environment names its endpoint, or its program is installed
    /// (MSAL, `managed_identity.py`; MSAL Go, `managedidentity.go`).
    ///
    /// # Errors
    /// The environment names an endpoint that is not on this machine.
    pub(super) fn find() -> Result<Option<Self>> {
        if variable("IDENTITY_HEADER")?.is_some() {
            return Ok(None);
        }
        match (variable("IDENTITY_ENDPOINT")?, variable("IMDS_ENDPOINT")?) {
            (Some(endpoint), Some(_)) => Self::at(&endpoint).map(Some),
            _ if program().is_file() => Self::at(ENDPOINT).map(Some),
            _ => Ok(None),
        }
    }

    fn at(endpoint: &str) -> Result<Self> {
        let url =
            Url::parse(endpoint).with_context(|| format!("IDENTITY_ENDPOINT={endpoint} is not a URL"))?;
        let ip = match url.host_str() {
            Some("localhost" | "127.0.0.1") => Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            Some("[::1]") => Some(IpAddr::V6(Ipv6Addr::LOCALHOST)),
            _ => None,
        };
        let ip = ip.filter(|_| url.scheme() == "http");
        let ip = ip.with_context(|| format!("IDENTITY_ENDPOINT={endpoint} is not on this machine"))?;
        let address = SocketAddr::new(ip, url.port_or_known_default().unwrap_or_default());
        Ok(Self { address, url })
    }

    /// Requests a token of the machine.
    pub(super) async fn token(mut self, scope: &str) -> TokenResult {
        let query = [("api-version", API_VERSION), ("resource", resource(scope))];
        self.url.query_pairs_mut().extend_pairs(query);
        let challenge = self.get(None).await?;
        let mut headers = challenge.headers().get_all(WWW_AUTHENTICATE).iter();
        let realm = headers.find_map(|header| auth_param(header.to_str().ok()?, "Basic", "realm"));
        let file = realm.with_context(|| {
            format!("the Arc agent responded {} instead of a challenge", challenge.status().as_u16())
        })?;
        let response = self.get(Some(&key(&file)?)).await?;
        let status = response.status();
        let body = response.into_body();
        if !status.is_success() {
            let reason = describe(&body);
            let reason = if reason.is_empty() { reason } else { format!(": {reason}") };
            return Err(anyhow!("the Arc agent responded {}{reason}", status.as_u16()).into());
        }
        let token: Option<TokenResponse> = parse(&body).ok();
        let token = token.context("the response of the Arc agent contains no token")?;
        Ok(token.token())
    }

    /// Sends a request over a new connection, if the agent has accepted this connection.
    async fn get(&self, key: Option<&Secret>) -> Result<Response<Bytes>, SourceError> {
        let connection = Loopback::connect(self.address)
            .await
            .map_err(|error| SourceError::AgentNotRunning(error.to_string()))?;
        self.check(connection.owner().await?)?;
        let target = format!("{}?{}", self.url.path(), self.url.query().unwrap_or_default());
        let mut request = Request::get(target).header(HOST, self.url.authority()).header("Metadata", "true");
        if let Some(key) = key {
            let value = Zeroizing::new(format!("Basic {}", key.secret()));
            let mut value = HeaderValue::from_str(&value).context("the key cannot be an HTTP header")?;
            value.set_sensitive(true);
            request = request.header(AUTHORIZATION, value);
        }
        let request = request.body(Empty::new()).context("the Arc agent's URL cannot be requested")?;
        match connection.exchange(request).await {
            Ok(Some(response)) => Ok(response),
            Ok(None) => {
                let limit = MAX_BODY / 1024;
                Err(SourceError::Failed(format!("the response of the Arc agent is longer than {limit} KiB")))
            }
            Err(error) => Err(SourceError::AgentNotRunning(root(error.as_ref()))),
        }
    }

    /// Checks the owner of a connection, which only Linux shows.
    fn check(&self, owner: Option<u32>) -> Result<(), SourceError> {
        match owner.filter(|&owner| !is_agent(owner)) {
            Some(user) => Err(SourceError::Impostor { address: self.address, user }),
            None => Ok(()),
        }
    }
}

/// Reads the key from the file that the agent names, which must be in the agent's own folder.
fn key(file: &str) -> Result<Secret, SourceError> {
    let name = file.rsplit(['/', '\\']).next().unwrap_or_default();
    let path = key_folder().join(name);
    if path != Path::new(file) || !is_key_name(name) {
        return Err(anyhow!("the Arc agent named a key outside its directory: {file}").into());
    }
    match read_key(&path) {
        Ok(key) => Ok(key),
        Err(error) if is_denied(&error) => Err(Unavailable::KeyOfAgent(path).into()),
        Err(error) => Err(error.context(format!("cannot read {}", path.display())).into()),
    }
}

/// The agent uses UUIDs as names, but no source guarantees this.
fn is_key_name(name: &str) -> bool {
    let stem = name.strip_suffix(KEY_SUFFIX).unwrap_or_default();
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    !stem.is_empty() && name.len() <= MAX_NAME && stem.bytes().all(is_allowed)
}

fn read_key(path: &Path) -> Result<Secret> {
    let file = open(path)?;
    let metadata = file.metadata()?;
    ensure!(metadata.is_file(), "it is not a regular file");
    #[cfg(unix)]
    {
        let owner = std::os::unix::fs::MetadataExt::uid(&metadata);
        ensure!(is_agent(owner), "it belongs to user ID {owner}, not to the Arc agent");
    }
    ensure!(metadata.len() <= MAX_KEY, "it is longer than {MAX_KEY} bytes");
    let mut key = Zeroizing::new(String::with_capacity(MAX_KEY as usize));
    file.take(MAX_KEY).read_to_string(&mut key)?;
    let key = key.trim_end();
    ensure!(!key.is_empty() && key.bytes().all(|byte| byte.is_ascii_graphic()), "it contains no key");
    Ok(Secret::from(key))
}

/// Opens a file without following a link or waiting for the other end of a pipe.
#[cfg(unix)]
fn open(path: &Path) -> Result<File> {
    use rustix::fs::OFlags;
    use std::os::unix::fs::OpenOptionsExt as _;
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    let opened = File::options().read(true).custom_flags(flags.bits().cast_signed()).open(path);
    let is_link =
        |error: &std::io::Error| error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error());
    if opened.as_ref().is_err_and(is_link) {
        anyhow::bail!("it is a symbolic link");
    }
    Ok(opened?)
}

#[cfg(not(unix))]
fn open(path: &Path) -> Result<File> {
    Ok(File::open(path)?)
}

fn is_denied(error: &anyhow::Error) -> bool {
    let cause = error.downcast_ref::<std::io::Error>();
    cause.is_some_and(|cause| cause.kind() == std::io::ErrorKind::PermissionDenied)
}

/// The user ID that a user namespace shows for all users that it does not map (user_namespaces(7), overflowuid).
#[cfg(unix)]
const UNMAPPED: u32 = 65534;

/// Returns whether a user ID is that of the agent, or of root, who can read every key.
///
/// The agent runs as the user `himds`, which owns the key folder (the agent's package for Linux). Only root can create that
/// user or that folder.
#[cfg(unix)]
fn is_agent(user: u32) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let owns_keys = || key_folder().metadata().is_ok_and(|folder| folder.uid() == user);
    user == 0 || user != UNMAPPED && (owns_keys() || himds() == Some(user))
}

#[cfg(not(unix))]
fn is_agent(_: u32) -> bool {
    true
}

/// Returns the user ID of `himds` (passwd(5)). A container with the host's network may have only the key folder.
#[cfg(unix)]
fn himds() -> Option<u32> {
    let accounts = std::fs::read_to_string("/etc/passwd").ok()?;
    accounts.lines().find_map(|line| line.strip_prefix("himds:")?.split(':').nth(1)?.parse().ok())
}

#[cfg(not(windows))]
fn program() -> PathBuf {
    PathBuf::from("/opt/azcmagent/bin/himds")
}

#[cfg(windows)]
fn program() -> PathBuf {
    let folder = std::env::var_os("ProgramFiles").unwrap_or_default();
    Path::new(&folder).join(r"AzureConnectedMachineAgent\himds.exe")
}

#[cfg(not(windows))]
fn key_folder() -> PathBuf {
    PathBuf::from("/var/opt/azcmagent/tokens")
}

#[cfg(windows)]
fn key_folder() -> PathBuf {
    let folder = std::env::var_os("ProgramData").unwrap_or_default();
    Path::new(&folder).join(r"AzureConnectedMachineAgent\Tokens")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_endpoint_must_be_on_loopback_and_localhost_is_ipv4() {
        let address = |endpoint: &str| Agent::at(endpoint).map(|agent| agent.address.to_string()).ok();
        for (endpoint, expected) in [
            ("http://localhost:40342/token", Some("127.0.0.1:40342")),
            ("http://LOCALHOST/token", Some("127.0.0.1:80")),
            ("http://127.0.0.1:1/token?a=b", Some("127.0.0.1:1")),
            ("http://[::1]:1/token", Some("[::1]:1")),
            ("https://localhost:40342/token", None),
            ("http://localhost.example:40342/token", None),
            ("http://127.0.0.1@203.0.113.1/token", None),
            ("http://[::ffff:127.0.0.1]:1/token", None),
            ("http://0.0.0.0:1/token", None),
        ] {
            assert_eq!(address(endpoint).as_deref(), expected, "{endpoint}");
        }
    }

    #[test]
    fn key_file_names_are_plain() {
        assert!(is_key_name("0f3a2b10-0000-4000-8000-000000000001.key"));
        for name in ["", ".key", "a.txt", "a.key.txt", "..key", "a b.key", "a\n.key", &"a".repeat(129)] {
            assert!(!is_key_name(name), "{name}");
        }
        assert!(!is_key_name(&format!("{}.key", "a".repeat(125))));
    }
}
