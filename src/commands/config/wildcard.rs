//! Checks the pattern of a wildcard entry, which must not match names of other hosts.

use anyhow::{Result, bail, ensure};

use crate::ssh::host_entry::is_pattern;
use crate::ssh::used_names::{Use, UsedNames};

/// Suffixes of names on the internet or on the local network, which a wildcard must not have as its only label (RFC 6761,
/// RFC 6762, RFC 8375; ICANN's "Delegated Strings" with the most registrations). A country's suffix has two letters.
const PUBLIC: [&str; 34] = [
    "com",
    "net",
    "org",
    "edu",
    "gov",
    "mil",
    "int",
    "arpa",
    "info",
    "biz",
    "name",
    "pro",
    "mobi",
    "asia",
    "dev",
    "app",
    "xyz",
    "top",
    "shop",
    "site",
    "online",
    "store",
    "tech",
    "cloud",
    "club",
    "page",
    "work",
    "link",
    "world",
    "zone",
    "local",
    "localhost",
    "localdomain",
    "internal",
];

/// Labels below which registries of countries sell names, such as `co.uk`.
const SECOND_LEVEL: [&str; 9] = ["co", "com", "net", "org", "edu", "gov", "ac", "or", "ne"];

/// Accepts a pattern such as `*.arc`: wildcards and a private suffix.
///
/// # Errors
/// The pattern matches names of other hosts.
pub(super) fn check(pattern: &str) -> Result<()> {
    ensure!(is_pattern(pattern), "{pattern:?} is not a pattern such as *.arc");
    let suffix = pattern.rsplit(['*', '?']).next().unwrap_or_default().to_lowercase();
    let labels: Vec<&str> = suffix.split('.').collect();
    ensure!(
        labels.len() > 1 && labels[0].is_empty() && labels[1..].iter().all(|label| !label.is_empty()),
        "{pattern:?} covers names that are not yours: it must end in a dot and a suffix, such as *.arc"
    );
    let is_country = |label: &str| label.chars().count() <= 2;
    let is_public = match labels[1..] {
        [label] => {
            is_country(label) || PUBLIC.contains(&label) || label.starts_with("xn--") || is_number(label)
        }
        [second, country] => is_country(country) && SECOND_LEVEL.contains(&second),
        _ => false,
    };
    ensure!(
        !is_public && !is_number(labels[labels.len() - 1]),
        "{pattern:?} covers names on the internet or the local network: choose a suffix that is only yours, such as *.arc"
    );
    Ok(())
}

/// Accepts a pattern that matches no name in the user's or the system's configuration, and no name that a pattern there connects
/// to another host.
///
/// # Errors
/// The pattern matches a name, or names that a pattern connects to other hosts; the error has the location.
pub(super) fn check_names(pattern: &str, used: &UsedNames) -> Result<()> {
    if let Some((name, location)) = used.covered_by(pattern) {
        bail!("{pattern:?} covers {name:?}, which ssh already uses: {location}; choose another suffix")
    }
    match used.redirected_by(pattern) {
        Some(location) => {
            bail!(
                "{pattern:?} covers names that already connect to other hosts: {location}; choose another suffix"
            )
        }
        None => Ok(()),
    }
}

/// Accepts a suffix, unless a pattern in the user's or the system's configuration connects its names to other hosts.
///
/// # Errors
/// The location of the pattern.
pub(super) fn check_suffix(suffix: &str, used: &UsedNames) -> Result<()> {
    let location = used.redirected(&format!("x{suffix}"), Use::AnyPattern).filter(|_| !suffix.is_empty());
    match location {
        Some(location) => {
            bail!(
                "names with the suffix {suffix} already connect to other hosts: {location}; choose another suffix"
            )
        }
        None => Ok(()),
    }
}

fn is_number(label: &str) -> bool {
    label.chars().all(|c| c.is_ascii_digit())
}
