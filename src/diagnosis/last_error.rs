//! Why machines could not be reached: one failure a machine, kept until a connection to it works. Knows the words that a
//! user was told, and nothing of what they mean.

use serde::{Deserialize, Serialize};

use crate::azure::resource_id::ResourceId;
use crate::azure::target::Target;
use crate::machines::is_called;
use crate::state::{InsecurePermissions, Key, Kind, Store};

/// What a user was told of a connection that failed.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct LastError {
    /// When, in seconds of Unix time.
    pub(crate) at: u64,
    /// The machine's resource ID, if it was known.
    pub(crate) machine: Option<String>,
    /// What the machine was called.
    pub(crate) name: String,
    /// The port on the machine.
    pub(crate) port: u16,
    /// What failed, and why.
    pub(crate) what: String,
    /// What to type.
    pub(crate) hint: Option<String>,
    /// How Azure names the request that it refused.
    pub(crate) request: Option<String>,
    /// The exit status.
    pub(crate) status: u8,
}

impl LastError {
    /// Its machine, if that was known.
    pub(crate) fn id(&self) -> Option<ResourceId> {
        self.machine.as_ref()?.parse().ok()
    }

    /// Whether it is about the machine that is called so, or was when it failed.
    pub(crate) fn is_about(&self, machine: &str) -> bool {
        self.name.eq_ignore_ascii_case(machine) || self.id().is_some_and(|id| is_called(&id, machine))
    }
}

/// Keeps it in the place of the machine's last one.
pub(crate) fn keep(error: &LastError) {
    if let Ok(store) = Store::open() {
        store.write(&key(error.machine.as_deref().unwrap_or(&error.name)), error);
    }
}

/// A connection works: whatever failed before it explains nothing any more.
pub(crate) fn forget(store: &Store, target: &Target) {
    store.remove(&key(&target.name));
    if let Some(machine) = &target.machine {
        store.remove(&key(&machine.to_string()));
    }
}

/// All that is kept, the latest first.
///
/// # Errors
/// Others can get at a file.
pub(crate) fn all(store: &Store) -> Result<Vec<LastError>, InsecurePermissions> {
    let keys = store.keys().into_iter().filter(|key| key.kind == Kind::Failure);
    let found: Result<Vec<Option<LastError>>, InsecurePermissions> =
        keys.map(|key| store.read(&key)).collect();
    let mut errors: Vec<LastError> = found?.into_iter().flatten().collect();
    errors.sort_by_key(|error| std::cmp::Reverse(error.at));
    Ok(errors)
}

fn key(subject: &str) -> Key {
    Key::new(Kind::Failure, subject.to_lowercase())
}
