//! What adopted sections leave behind: files that azure-cli-extensions `ssh` wrote, and no other.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::azure::hybrid_connectivity::RelayCredentials;
use crate::azure::relay_host::RelaySuffixes;
use crate::ssh::certificate::Certificate;
use crate::ssh::foreign_entries::{self, ForeignEntry, KeyPair, Leftover};
use crate::ssh::rsa_key::PublicKey;
use crate::system::files::{MAX_TEXT, read_text};
use crate::terminal::output::note;

/// Lists what adopted sections leave behind, or deletes it. A file that a living section or any other line names is in use,
/// and one that does not hold what its name says is the user's.
///
/// # Errors
/// A file cannot be deleted.
pub(super) fn clean_up(text: &str, delete: bool, suffixes: &RelaySuffixes) -> Result<()> {
    let living: Vec<Leftover> =
        foreign_entries::find(text).iter().flat_map(ForeignEntry::leftovers).collect();
    let mut left: Vec<Leftover> = Vec::new();
    for leftover in foreign_entries::find_adopted(text).iter().flat_map(ForeignEntry::leftovers) {
        let is_used = living.contains(&leftover) || leftover.files().iter().any(|file| is_named(file, text));
        if !is_used && !left.contains(&leftover) && holds_what_az_wrote(&leftover, suffixes) {
            left.push(leftover);
        }
    }
    for file in left.iter().flat_map(Leftover::files) {
        if delete {
            fs::remove_file(file).with_context(|| format!("cannot delete {}", file.display()))?;
            note(&format!("deleted {}", file.display()));
        } else {
            note(&format!("{} is left behind", file.display()));
        }
    }
    if !left.is_empty() && !delete {
        note("hint: arcssh config --adopt --clean deletes what is left behind");
    }
    Ok(())
}

/// Whether the content of files shows that az wrote them: relay information in a file of its name (`ssh_info.py`), or a
/// certificate for the public key beside it.
fn holds_what_az_wrote(leftover: &Leftover, suffixes: &RelaySuffixes) -> bool {
    match leftover {
        Leftover::RelayInfo(file) => {
            let is_named_so =
                file.file_name().is_some_and(|name| name.to_string_lossy().ends_with("-relay_info"));
            let text = read_text(file, MAX_TEXT).unwrap_or_default();
            is_named_so && RelayCredentials::from_relay_info(&text, suffixes).is_ok()
        }
        Leftover::KeyPair(KeyPair { private, public, certificate }) => {
            let is_private = read_text(private, MAX_TEXT).is_ok_and(|text| text.contains("PRIVATE KEY-----"));
            let text = read_text(certificate, MAX_TEXT).unwrap_or_default();
            let is_for =
                |certificate: Certificate| PublicKey::read(public).is_ok_and(|key| certificate.is_for(&key));
            is_private && Certificate::parse(&text).is_ok_and(is_for)
        }
    }
}

/// Whether a line that ssh reads names a file, from the home or the root on: by its own name and that of its folder.
fn is_named(file: &Path, text: &str) -> bool {
    let from = file.parent().and_then(Path::parent).unwrap_or(Path::new(""));
    let name = file.strip_prefix(from).unwrap_or(file).display().to_string();
    text.lines().any(|line| !line.trim_start().starts_with('#') && line.contains(&name))
}
