//! ssh-keygen, which generates RSA keys and SSH certificates; rcgen with ring can do neither.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, ensure};

/// `ssh-keygen -t` for an RSA key in PKCS #8, which rcgen and ring read.
pub(crate) const RSA: [&str; 6] = ["-t", "rsa", "-b", "2048", "-m", "PKCS8"];
/// `ssh-keygen -t` for an Ed25519 key.
#[cfg(unix)]
pub(crate) const ED25519: [&str; 2] = ["-t", "ed25519"];

/// Generates a key pair without a passphrase: the private key in `file`, the public key in `file.pub`.
pub(crate) fn generate_key(algorithm: &[&str], file: &Path) -> anyhow::Result<()> {
    let options = [algorithm, &["-N", "", "-C", "arcssh", "-f"]].concat();
    ssh_keygen(options.into_iter().map(OsStr::new).chain([file.as_os_str()]))
}

pub(crate) fn ssh_keygen(arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> anyhow::Result<()> {
    let output = Command::new("ssh-keygen").arg("-q").args(arguments).output();
    let output = output.context("ssh-keygen is not installed: apt-get install openssh-client")?;
    ensure!(output.status.success(), "ssh-keygen: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
