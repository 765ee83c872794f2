//! macOS Keychain and Windows Credential Manager. Their calls block, so each runs in a thread.

use keyring_core::api::CredentialStoreApi as _;
use keyring_core::{Entry, Error};
use tokio::task::spawn_blocking;

#[cfg(target_os = "macos")]
use apple_native_keyring_store::keychain::Store;
#[cfg(windows)]
use windows_native_keyring_store::Store;

use crate::azure::login::key_store::{Item, KeyStoreError, Prompt};

#[cfg(target_os = "macos")]
pub(crate) const NAME: &str = "the macOS Keychain";
#[cfg(windows)]
pub(crate) const NAME: &str = "the Windows Credential Manager";

pub(super) async fn read(item: &Item) -> Result<Vec<u8>, KeyStoreError> {
    with_entry(item, Prompt::Never, |entry| entry.get_secret()).await
}

/// Stores the token as bytes: Windows stores a password in UTF-16, and its limit is 2560 bytes (Microsoft Learn,
/// `CREDENTIALW`: `CRED_MAX_CREDENTIAL_BLOB_SIZE`).
pub(super) async fn write(item: &Item, token: &str, prompt: Prompt) -> Result<(), KeyStoreError> {
    let token = token.to_owned();
    with_entry(item, prompt, move |entry| entry.set_secret(token.as_bytes())).await
}

pub(super) async fn delete(item: &Item, prompt: Prompt) -> Result<bool, KeyStoreError> {
    match with_entry(item, prompt, |entry| entry.delete_credential()).await {
        Err(KeyStoreError::Empty) => Ok(false),
        result => result.map(|()| true),
    }
}

async fn with_entry<T: Send + 'static>(
    item: &Item,
    prompt: Prompt,
    call: impl FnOnce(Entry) -> Result<T, Error> + Send + 'static,
) -> Result<T, KeyStoreError> {
    let account_file = item.account_file.clone();
    let call = move || {
        let _no_prompt = disable_prompt(prompt);
        call(Store::new()?.build("arcssh", &account_file, None)?)
    };
    match spawn_blocking(call).await {
        Ok(result) => result.map_err(KeyStoreError::from),
        Err(error) => Err(KeyStoreError::Failed(error.to_string())),
    }
}

/// Makes a call fail instead of prompting. Otherwise macOS prompts when the keychain is locked, or when another build
/// of arcssh has created the item.
#[cfg(target_os = "macos")]
fn disable_prompt(prompt: Prompt) -> Option<impl Sized> {
    use security_framework::os::macos::keychain::SecKeychain;
    (prompt == Prompt::Never).then(|| SecKeychain::disable_user_interaction().ok()).flatten()
}

/// The Credential Manager never prompts.
#[cfg(windows)]
fn disable_prompt(_: Prompt) -> impl Sized {}

/// `errSecInteractionNotAllowed` (Apple, Security framework result codes): the keychain needs a prompt.
#[cfg(target_os = "macos")]
const NO_INTERACTION: i32 = -25308;

impl From<Error> for KeyStoreError {
    fn from(error: Error) -> Self {
        match error {
            Error::NoEntry => Self::Empty,
            Error::TooLong(_, limit) => Self::Failed(format!("it accepts at most {limit} bytes")),
            #[cfg(target_os = "macos")]
            Error::PlatformFailure(ref cause)
                if cause
                    .downcast_ref::<security_framework::base::Error>()
                    .is_some_and(|error| error.code() == NO_INTERACTION) =>
            {
                Self::Locked
            }
            // ERROR_NO_SUCH_LOGON_SESSION: a service, or a session without a profile.
            #[cfg(windows)]
            Error::NoStorageAccess(_) => Self::Unavailable,
            error => Self::Failed(error.to_string()),
        }
    }
}
