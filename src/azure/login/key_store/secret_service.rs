//! The Secret Service of the desktop: GNOME Keyring, KWallet, KeePassXC (freedesktop.org, "Secret Service API").
//!
//! Only `Unlock`, and sometimes `CreateItem` and `Delete`, prompt. If prompts are not allowed, this module calls none of them
//! while anything is locked.

use std::collections::HashMap;

use rustix::process::geteuid;
use secret_service::{Collection, EncryptionType, Error, Item as Found, SecretService};
use tracing::info;
use zbus::Connection;

use crate::azure::login::key_store::{Item, Prompt, Unusable};

pub(crate) const NAME: &str = "the Secret Service";

pub(super) async fn read(item: &Item) -> Result<Vec<u8>, Unusable> {
    let service = connect().await?;
    match find(&service, item, Prompt::Never).await?.first() {
        Some(found) => Ok(found.get_secret().await?),
        None => Err(Unusable::Empty),
    }
}

pub(super) async fn write(item: &Item, token: &str, prompt: Prompt) -> Result<(), Unusable> {
    let service = connect().await?;
    if let Some(found) = find(&service, item, prompt).await?.first() {
        return Ok(found.set_secret(token.as_bytes(), CONTENT_TYPE).await?);
    }
    let collection = service.get_default_collection().await?;
    unlock(&collection, prompt).await?;
    collection.create_item(&item.label, attributes(item), token.as_bytes(), true, CONTENT_TYPE).await?;
    Ok(())
}

pub(super) async fn delete(item: &Item, prompt: Prompt) -> Result<bool, Unusable> {
    let service = connect().await?;
    let found = find(&service, item, prompt).await?;
    for found in &found {
        found.delete().await?;
    }
    Ok(!found.is_empty())
}

const CONTENT_TYPE: &str = "text/plain; charset=utf8";

fn attributes(item: &Item) -> HashMap<&str, &str> {
    HashMap::from([("application", "arcssh"), ("account-file", &item.account_file)])
}

/// Connects to the service on this user's session bus. The address of a bus can outlive the bus: another user who listens there
/// would get the token.
async fn connect() -> Result<SecretService<'static>, Unusable> {
    let bus = Connection::session().await.map_err(|error| {
        info!("no session bus: {error}");
        Unusable::Unavailable
    })?;
    let owner = bus.peer_creds().await.ok().and_then(|peer| peer.unix_user_id());
    if owner.is_none_or(|user| user != 0 && user != geteuid().as_raw()) {
        info!("the session bus belongs to another user");
        return Err(Unusable::Unavailable);
    }
    Ok(SecretService::connect_with_existing(EncryptionType::Dh, bus).await?)
}

/// Returns the items of this sign-in, unlocked.
async fn find<'a>(
    service: &'a SecretService<'_>,
    item: &Item,
    prompt: Prompt,
) -> Result<Vec<Found<'a>>, Unusable> {
    let found = service.search_items(attributes(item)).await?;
    let mut items = found.unlocked;
    for locked in found.locked {
        if !may_unlock(prompt) {
            return Err(Unusable::Locked);
        }
        locked.unlock().await?;
        items.push(locked);
    }
    if items.is_empty() {
        // KeePassXC does not list the items of a locked database.
        match service.get_default_collection().await {
            Ok(collection) => unlock(&collection, prompt).await?,
            Err(error) => info!("no default collection: {error}"),
        }
        items = service.search_items(attributes(item)).await?.unlocked;
    }
    Ok(items)
}

async fn unlock(collection: &Collection<'_>, prompt: Prompt) -> Result<(), Unusable> {
    if !collection.is_locked().await? {
        return Ok(());
    }
    if !may_unlock(prompt) {
        return Err(Unusable::Locked);
    }
    collection.unlock().await?;
    Ok(collection.ensure_unlocked().await?)
}

/// A prompt is a window, and needs a display.
fn may_unlock(prompt: Prompt) -> bool {
    let is_set = |name| std::env::var_os(name).is_some_and(|value: std::ffi::OsString| !value.is_empty());
    prompt == Prompt::Allowed && ["DISPLAY", "WAYLAND_DISPLAY"].into_iter().any(is_set)
}

impl From<Error> for Unusable {
    fn from(error: Error) -> Self {
        match error {
            Error::Locked | Error::Prompt | Error::PromptDisconnected => Self::Locked,
            // There is no service, or no collection.
            Error::Unavailable | Error::NoResult => Self::Unavailable,
            Error::Zbus(zbus::Error::MethodError(ref name, _, _))
            | Error::ZbusFdo(zbus::fdo::Error::ZBus(zbus::Error::MethodError(ref name, _, _))) => {
                from_name(name).unwrap_or_else(|| other(&error))
            }
            Error::ZbusFdo(zbus::fdo::Error::ServiceUnknown(_)) => Self::Unavailable,
            error => other(&error),
        }
    }
}

/// Maps the names of D-Bus errors: no service, a service that cannot be started (D-Bus specification, "Message bus starting
/// services"), or a locked object (Secret Service API, "Errors").
fn from_name(name: &str) -> Option<Unusable> {
    match name.strip_prefix("org.freedesktop.") {
        Some("Secret.Error.IsLocked") => Some(Unusable::Locked),
        Some("DBus.Error.ServiceUnknown" | "DBus.Error.NameHasNoOwner") => Some(Unusable::Unavailable),
        Some("DBus.Error.NoReply" | "DBus.Error.Timeout" | "DBus.Error.TimedOut") => Some(Unusable::Silent),
        Some(name) if name.starts_with("DBus.Error.Spawn.") => Some(Unusable::Unavailable),
        _ => None,
    }
}

fn other(error: &Error) -> Unusable {
    Unusable::Failed(error.to_string())
}
