//! Which patterns a wildcard entry may have: it must cover no name that the user types for something else.

use anyhow::{Result, bail, ensure};

use crate::ssh::host_entry::is_pattern;
use crate::ssh::used_names::UsedNames;

/// Endings that no one label of a wildcard may be: names that exist on the internet or on the local network end in them
/// (RFC 6761, RFC 6762, RFC 8375; ICANN's "Delegated Strings" with the most registrations). A country's have two letters.
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

/// Labels under which a country's registry sells names, such as `co.uk`.
const SECOND_LEVEL: [&str; 9] = ["co", "com", "net", "org", "edu", "gov", "ac", "or", "ne"];

/// Accepts `*.arc` and the like: wildcards, and then an ending that is the user's own.
///
/// # Errors
/// The pattern covers names that are not the user's.
pub(super) fn check(pattern: &str) -> Result<()> {
    ensure!(is_pattern(pattern), "{pattern:?} is not a pattern such as *.arc");
    let ending = pattern.rsplit(['*', '?']).next().unwrap_or_default().to_lowercase();
    let labels: Vec<&str> = ending.split('.').collect();
    let is_whole = |label: &&str| !label.is_empty();
    ensure!(
        labels.len() > 1 && labels[0].is_empty() && labels[1..].iter().all(is_whole),
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

/// Accepts a pattern that covers no name of the user's or the system's configuration.
///
/// # Errors
/// The name that it covers, and its place.
pub(super) fn check_names(pattern: &str, used: &UsedNames) -> Result<()> {
    match used.covered_by(pattern) {
        Some((name, place)) => {
            bail!("{pattern:?} covers {name:?}, which ssh already uses: {place}; choose another suffix")
        }
        None => Ok(()),
    }
}

fn is_number(label: &str) -> bool {
    label.chars().all(|c| c.is_ascii_digit())
}
