//! macOS Keychain and Windows Credential Manager. Their calls block, so each has a thread.

use keyring_core::api::CredentialStoreApi as _;
use keyring_core::{Entry, Error};
use tokio::task::spawn_blocking;

#[cfg(target_os = "macos")]
use apple_native_keyring_store::keychain::Store;
#[cfg(windows)]
use windows_native_keyring_store::Store;

use crate::azure::login::key_store::{Item, Prompt, Unusable};

/// As the documents call it.
#[cfg(target_os = "macos")]
pub(crate) const NAME: &str = "the macOS Keychain";
#[cfg(windows)]
pub(crate) const NAME: &str = "the Windows Credential Manager";

pub(super) async fn read(item: &Item) -> Result<Vec<u8>, Unusable> {
    with_entry(item, Prompt::Never, |entry| entry.get_secret()).await
}

/// As bytes: as a password the token would take two bytes a character in Windows, whose limit is 2560 bytes
/// (Microsoft Learn, `CREDENTIALW`: `CRED_MAX_CREDENTIAL_BLOB_SIZE`).
pub(super) async fn write(item: &Item, token: &str, prompt: Prompt) -> Result<(), Unusable> {
    let token = token.to_owned();
    with_entry(item, prompt, move |entry| entry.set_secret(token.as_bytes())).await
}

pub(super) async fn delete(item: &Item, prompt: Prompt) -> Result<bool, Unusable> {
    match with_entry(item, prompt, |entry| entry.delete_credential()).await {
        Err(Unusable::Empty) => Ok(false),
        result => result.map(|()| true),
    }
}

async fn with_entry<T: Send + 'static>(
    item: &Item,
    prompt: Prompt,
    work: impl FnOnce(Entry) -> Result<T, Error> + Send + 'static,
) -> Result<T, Unusable> {
    let account_file = item.account_file.clone();
    let work = move || {
        let _quiet = quiet(prompt);
        work(Store::new()?.build("arcssh", &account_file, None)?)
    };
    match spawn_blocking(work).await {
        Ok(result) => result.map_err(Unusable::from),
        Err(error) => Err(Unusable::Failed(error.to_string())),
    }
}

/// Keeps macOS from asking for the keychain's password, or whether this program may use the item: it fails instead.
/// Without it macOS asks when the keychain is locked, or when another build of arcssh made the item.
#[cfg(target_os = "macos")]
fn quiet(prompt: Prompt) -> Option<impl Sized> {
    use security_framework::os::macos::keychain::SecKeychain;
    (prompt == Prompt::Never).then(|| SecKeychain::disable_user_interaction().ok()).flatten()
}

/// The Credential Manager never asks.
#[cfg(windows)]
fn quiet(_: Prompt) {}

/// `errSecInteractionNotAllowed` (Apple, Security framework result codes): the keychain would have to ask.
#[cfg(target_os = "macos")]
const NO_INTERACTION: i32 = -25308;

impl From<Error> for Unusable {
    fn from(error: Error) -> Self {
        match error {
            Error::NoEntry => Self::Empty,
            Error::TooLong(_, limit) => Self::Failed(format!("it takes no more than {limit} bytes")),
            #[cfg(target_os = "macos")]
            Error::PlatformFailure(ref cause)
                if cause
                    .downcast_ref::<security_framework::base::Error>()
                    .is_some_and(|error| error.code() == NO_INTERACTION) =>
            {
                Self::Locked
            }
            // A service or a session without a profile: ERROR_NO_SUCH_LOGON_SESSION.
            #[cfg(windows)]
            Error::NoStorageAccess(_) => Self::Unavailable,
            error => Self::Failed(error.to_string()),
        }
    }
}
