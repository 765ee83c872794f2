//! Where there are no Unix sockets, there is no agent of ours: OpenSSH for Windows knows named pipes only.

use std::path::Path;

use anyhow::{Result, bail};

use crate::ssh::certificate::Certificate;
use crate::ssh::rsa_key::KeyPair;

/// There is none.
pub(crate) enum Agent {}

impl Agent {
    /// # Errors
    /// Always.
    pub(crate) fn open(path: &Path, _key: KeyPair, _certificate: Certificate) -> Result<Self> {
        bail!(
            "cannot serve {}: this system has no such sockets; arcssh config --entra=files does without",
            path.display()
        )
    }

    /// What `connection` comes to.
    pub(crate) async fn during<T>(self, _connection: impl Future<Output = T>) -> T {
        match self {}
    }
}
