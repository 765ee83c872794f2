//! The system's key store, which holds refresh tokens: macOS Keychain, Windows Credential Manager, Secret Service.
//!
//! It is used only when a refresh token is stored, redeemed or deleted: a connection with a cached access token never
//! reaches it. Every call ends within a limit.

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

/// Turns the key store off.
pub(crate) const NO_KEYRING: &str = "ARCSSH_NO_KEYRING";

/// The name of this platform's key store.
pub(crate) use platform::NAME;

/// How long a key store may take without a prompt. A D-Bus daemon that hangs takes its connections and never answers.
const LIMIT: Duration = Duration::from_secs(3);

/// How long a user may take to unlock it.
const PROMPT_LIMIT: Duration = Duration::from_secs(90);

/// Whether the user may be asked to unlock the key store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Prompt {
    /// In a command that the user has typed.
    Allowed,
    /// In a connection: its user may not be there, and may not know what asks.
    Never,
}

/// Why the key store cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[cfg_attr(
    any(windows, target_vendor = "apple"),
    allow(dead_code, reason = "not every key store fails in every way")
)]
pub(crate) enum Unusable {
    /// The user has turned it off.
    #[error("ARCSSH_NO_KEYRING is set")]
    Off,
    /// There is none, as in a container, in a service or in a session without D-Bus.
    #[error("this session has no key store")]
    Unavailable,
    /// It is there, and would have to ask the user for its password.
    #[error("the key store is locked")]
    Locked,
    /// It is there, and does not answer.
    #[error("the key store does not answer")]
    Silent,
    /// It does not hold the item.
    #[error("the key store no longer holds the refresh token")]
    Empty,
    /// Anything else, in the key store's own words.
    #[error("the key store failed ({0})")]
    Failed(String),
}

impl Unusable {
    /// Whether it is nothing to report: the user turned the key store off, or this machine has none.
    pub(crate) fn is_expected(&self) -> bool {
        matches!(self, Self::Off | Self::Unavailable)
    }
}

/// One item of the key store.
#[derive(Clone, Debug)]
pub(super) struct Item {
    /// The account file that it belongs to: two state directories have two sign-ins.
    pub(super) account_file: String,
    /// What key store programs show to the user.
    pub(super) label: String,
}

/// Returns the refresh token. Never prompts.
///
/// # Errors
/// See [`Unusable`].
pub(super) async fn read(item: &Item) -> Result<Secret, Unusable> {
    let secret = within(Prompt::Never, async |_| platform::read(item).await).await?;
    let text = String::from_utf8(secret).map_err(|_| Unusable::Failed("it holds no text".into()))?;
    Ok(Secret::from(text))
}

/// Stores a refresh token, in place of the one before.
///
/// # Errors
/// See [`Unusable`].
pub(super) async fn write(item: &Item, token: &Secret, prompt: Prompt) -> Result<(), Unusable> {
    within(prompt, async |prompt| platform::write(item, token.secret(), prompt).await).await
}

/// Deletes the refresh token; whether there was one.
///
/// # Errors
/// See [`Unusable`].
pub(super) async fn delete(item: &Item, prompt: Prompt) -> Result<bool, Unusable> {
    within(prompt, async |prompt| platform::delete(item, prompt).await).await
}

/// Does the work without a prompt first, so that only a locked key store is waited for as long as a user takes.
async fn within<T>(prompt: Prompt, work: impl AsyncFn(Prompt) -> Result<T, Unusable>) -> Result<T, Unusable> {
    if std::env::var_os(NO_KEYRING).is_some_and(|value| !value.is_empty()) {
        return Err(Unusable::Off);
    }
    let limited = async |limit, prompt| timeout(limit, work(prompt)).await.unwrap_or(Err(Unusable::Silent));
    let mut done = limited(LIMIT, Prompt::Never).await;
    if matches!(done, Err(Unusable::Locked)) && prompt == Prompt::Allowed {
        done = limited(PROMPT_LIMIT, prompt).await;
    }
    if let Err(error) = &done {
        info!("{NAME}: {error}");
    }
    done
}
