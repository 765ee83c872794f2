//! Files of adopted host entries that azure-cli-extensions `ssh` wrote and ssh no longer uses.

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

/// Lists or deletes the leftover files of adopted host entries. Does not touch a file that another host entry or line uses,
/// or whose content does not show that az wrote it.
///
/// # Errors
/// A file cannot be deleted.
pub(super) fn clean_up(text: &str, delete: bool, suffixes: &RelaySuffixes) -> Result<()> {
    let used: Vec<Leftover> = foreign_entries::find(text).iter().flat_map(ForeignEntry::leftovers).collect();
    let mut left: Vec<Leftover> = Vec::new();
    for leftover in foreign_entries::find_adopted(text).iter().flat_map(ForeignEntry::leftovers) {
        let is_used = used.contains(&leftover) || leftover.files().iter().any(|file| is_named(file, text));
        if !is_used && !left.contains(&leftover) && is_from_az(&leftover, suffixes) {
            left.push(leftover);
        }
    }
    for file in left.iter().flat_map(Leftover::files) {
        if delete {
            fs::remove_file(file).with_context(|| format!("cannot delete {}", file.display()))?;
            note(&format!("deleted {}", file.display()));
        } else {
            note(&format!("no longer used: {}", file.display()));
        }
    }
    if !left.is_empty() && !delete {
        note("hint: delete these files: arcssh config --adopt --clean");
    }
    Ok(())
}

/// Returns whether the content shows that az wrote the files: relay information in a file with its name (`ssh_info.py`), or
/// a certificate for the public key in the same directory.
fn is_from_az(leftover: &Leftover, suffixes: &RelaySuffixes) -> bool {
    match leftover {
        Leftover::RelayInfo(file) => {
            let has_name =
                file.file_name().is_some_and(|name| name.to_string_lossy().ends_with("-relay_info"));
            let text = read_text(file, MAX_TEXT).unwrap_or_default();
            has_name && RelayCredentials::from_relay_info(&text, suffixes).is_ok()
        }
        Leftover::KeyPair(KeyPair { private, public, certificate }) => {
            let is_private = read_text(private, MAX_TEXT).is_ok_and(|text| text.contains("PRIVATE KEY-----"));
            let text = read_text(certificate, MAX_TEXT).unwrap_or_default();
            let is_for_key =
                |certificate: Certificate| PublicKey::read(public).is_ok_and(|key| certificate.is_for(&key));
            is_private && Certificate::parse(&text).is_ok_and(is_for_key)
        }
    }
}

/// Returns whether a line that ssh reads contains the name of the file and of its directory.
fn is_named(file: &Path, text: &str) -> bool {
    let from = file.parent().and_then(Path::parent).unwrap_or(Path::new(""));
    let name = file.strip_prefix(from).unwrap_or(file).display().to_string();
    text.lines().any(|line| !line.trim_start().starts_with('#') && line.contains(&name))
}
