//! The agent on systems without Unix sockets, which cannot be opened: OpenSSH for Windows supports named pipes only.

use std::path::Path;

use crate::ssh::SshError;
use crate::ssh::certificate::Certificate;
use crate::ssh::rsa_key::KeyPair;

/// Has no values.
pub(crate) enum Agent {}

impl Agent {
    /// # Errors
    /// Always.
    pub(crate) fn open(_path: &Path, _key: KeyPair, _certificate: Certificate) -> Result<Self, SshError> {
        Err(SshError::NoAgent)
    }

    /// Never called, since there is no agent.
    pub(crate) async fn during<T>(self, _connection: impl Future<Output = T>) -> T {
        match self {}
    }
}
