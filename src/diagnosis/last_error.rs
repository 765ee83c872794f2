//! The last error of each machine, stored until a connection to the machine works.

use serde::{Deserialize, Serialize};

use crate::azure::resource_id::ResourceId;
use crate::azure::target::Target;
use crate::diagnosis::Diagnosis;
use crate::machines::is_called;
use crate::state::{Key, Kind, Store};
use crate::system::SystemError;

/// A connection that failed.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct LastError {
    /// The time, in seconds of Unix time.
    pub(crate) at: u64,
    /// The machine's resource ID, if it was known.
    pub(crate) machine: Option<String>,
    /// The name of the machine that the user typed.
    pub(crate) name: String,
    /// The port on the machine.
    pub(crate) port: u16,
    /// The failure, on one line each.
    #[serde(flatten)]
    pub(crate) diagnosis: Diagnosis,
}

impl LastError {
    /// Returns the machine's resource ID, if it was known.
    pub(crate) fn id(&self) -> Option<ResourceId> {
        self.machine.as_ref()?.parse().ok()
    }

    /// Returns whether the machine has the name, or had it when the connection failed.
    pub(crate) fn is_about(&self, machine: &str) -> bool {
        self.name.eq_ignore_ascii_case(machine) || self.id().is_some_and(|id| is_called(&id, machine))
    }
}

/// Stores the error in place of the machine's last one.
pub(super) fn store(error: &LastError) {
    if let Ok(store) = Store::open() {
        store.write(&key(error.machine.as_deref().unwrap_or(&error.name)), error);
    }
}

/// Deletes the error of a machine, because a connection works.
pub(crate) fn clear(store: &Store, target: &Target) {
    store.remove(&key(&target.name));
    if let Some(machine) = &target.machine {
        store.remove(&key(&machine.to_string()));
    }
}

/// Returns all errors, the latest first.
///
/// # Errors
/// Other users can access a file.
pub(crate) fn all(store: &Store) -> Result<Vec<LastError>, SystemError> {
    let keys = store.keys().into_iter().filter(|key| key.kind == Kind::Failure);
    let found: Result<Vec<Option<LastError>>, SystemError> = keys.map(|key| store.read(&key)).collect();
    let mut errors: Vec<LastError> = found?.into_iter().flatten().collect();
    errors.sort_by_key(|error| std::cmp::Reverse(error.at));
    Ok(errors)
}

fn key(name: &str) -> Key {
    Key::new(Kind::Failure, name.to_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnosis::{Code, Hint};

    #[test]
    fn an_error_of_version_0_1_can_be_read() {
        let old = r#"{"at":7,"machine":null,"name":"web01","port":22,"what":"cannot connect","hint":"retry","request":"9 of Azure Relay","status":7}"#;
        let LastError { diagnosis, .. } = serde_json::from_str(old).unwrap();
        let hint = Some(Hint { text: "retry".into(), command: None });
        let request_id = Some("9 of Azure Relay".into());
        assert_eq!(
            diagnosis,
            Diagnosis { code: Code::Failed, summary: "cannot connect".into(), hint, request_id }
        );
    }

    #[test]
    fn an_error_is_stored_with_its_code() {
        let diagnosis = Diagnosis::new(Code::AgentOffline, "offline", Hint::command("arcssh doctor web01"));
        let error = LastError { at: 7, machine: None, name: "web01".into(), port: 22, diagnosis };
        let json = serde_json::to_string(&error).unwrap();
        assert!(json.contains(r#""code":"agent-offline""#), "{json}");
        let LastError { diagnosis, .. } = serde_json::from_str(&json).unwrap();
        assert_eq!(diagnosis, error.diagnosis);
        let newer: LastError = serde_json::from_str(&json.replace("agent-offline", "of-the-future")).unwrap();
        assert_eq!(newer.diagnosis.code, Code::Failed);
    }
}
