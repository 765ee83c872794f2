//! The system's key store for refresh tokens: macOS Keychain, Windows Credential Manager, Secret Service.
//!
//! arcssh uses it only to store, redeem or delete a refresh token: a connection with a cached access token does not
//! need it. Every call has a time limit.

#[cfg(any(windows, target_os = "macos"))]
mod native;
#[cfg(all(unix, not(target_vendor = "apple")))]
mod secret_service;

use std::time::Duration;

use tokio::time::timeout;
use tracing::info;

#[cfg(any(windows, target_os = "macos"))]
use crate::azure::login::key_store::native as platform;
#[cfg(all(unix, not(target_vendor = "apple")))]
use crate::azure::login::key_store::secret_service as platform;
use crate::system::secret::Secret;

/// The environment variable that disables the key store.
pub(crate) const NO_KEYRING: &str = "ARCSSH_NO_KEYRING";

/// The name of this platform's key store.
pub(crate) use platform::NAME;

/// Time limit without a prompt: a D-Bus daemon that hangs accepts connections and never responds.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Time limit for the user to unlock the key store.
const PROMPT_TIMEOUT: Duration = Duration::from_secs(90);

/// Whether the key store may ask the user to unlock it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Prompt {
    /// In a command that the user has typed.
    Allowed,
    /// In a connection, which may run unattended.
    Never,
}

/// Why the key store cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[cfg_attr(
    any(windows, target_vendor = "apple"),
    allow(dead_code, reason = "not every key store fails in every way")
)]
pub(crate) enum KeyStoreError {
    /// The user has disabled the key store.
    #[error("ARCSSH_NO_KEYRING is set")]
    Off,
    /// There is no key store, for example in a container, in a service or in a session without D-Bus.
    #[error("this session has no key store")]
    Unavailable,
    /// The user must unlock the key store.
    #[error("the key store is locked")]
    Locked,
    /// The key store does not respond.
    #[error("the key store does not respond")]
    TimedOut,
    /// The key store does not contain the item.
    #[error("the key store no longer has the refresh token")]
    Empty,
    /// Any other error, with the key store's message.
    #[error("the key store failed ({0})")]
    Failed(String),
}

impl KeyStoreError {
    /// Returns whether this is no error to report: the user has disabled the key store, or this machine has none.
    pub(crate) fn is_expected(&self) -> bool {
        matches!(self, Self::Off | Self::Unavailable)
    }
}

/// One item of the key store.
#[derive(Clone, Debug)]
pub(super) struct Item {
    /// The path of the account file, since each state directory has a sign-in of its own.
    pub(super) account_file: String,
    /// The text that key store programs show to the user.
    #[cfg_attr(
        any(windows, target_vendor = "apple"),
        allow(dead_code, reason = "only the Secret Service stores it")
    )]
    pub(super) label: String,
}

/// Returns the refresh token. Never prompts.
///
/// # Errors
/// See [`KeyStoreError`].
pub(super) async fn read(item: &Item) -> Result<Secret, KeyStoreError> {
    let secret = run(Prompt::Never, async |_| platform::read(item).await).await?;
    let text = String::from_utf8(secret)
        .map_err(|_| KeyStoreError::Failed("the stored value is not text".into()))?;
    Ok(Secret::from(text))
}

/// Stores a refresh token, and replaces the previous one.
///
/// # Errors
/// See [`KeyStoreError`].
pub(super) async fn write(item: &Item, token: &Secret, prompt: Prompt) -> Result<(), KeyStoreError> {
    run(prompt, async |prompt| platform::write(item, token.secret(), prompt).await).await
}

/// Deletes the refresh token, and returns whether there was one.
///
/// # Errors
/// See [`KeyStoreError`].
pub(super) async fn delete(item: &Item, prompt: Prompt) -> Result<bool, KeyStoreError> {
    run(prompt, async |prompt| platform::delete(item, prompt).await).await
}

/// Runs a call without a prompt first, so that only a locked key store gets the longer time limit.
async fn run<T>(
    prompt: Prompt,
    call: impl AsyncFn(Prompt) -> Result<T, KeyStoreError>,
) -> Result<T, KeyStoreError> {
    if std::env::var_os(NO_KEYRING).is_some_and(|value| !value.is_empty()) {
        return Err(KeyStoreError::Off);
    }
    let limited =
        async |limit, prompt| timeout(limit, call(prompt)).await.unwrap_or(Err(KeyStoreError::TimedOut));
    let mut result = limited(TIMEOUT, Prompt::Never).await;
    if matches!(result, Err(KeyStoreError::Locked)) && prompt == Prompt::Allowed {
        result = limited(PROMPT_TIMEOUT, prompt).await;
    }
    if let Err(error) = &result {
        info!("{NAME}: {error}");
    }
    result
}
