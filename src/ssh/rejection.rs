//! The error that ssh reports in a configuration, with the file and line that the user knows.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::ssh::effective_config::{shown, unescaped};
use crate::ssh::{fault, managed_block};
use crate::text::sanitize;

/// The first error of ssh in a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rejection {
    pub(crate) file: PathBuf,
    pub(crate) place: Place,
    /// ssh's message, without the place.
    pub(crate) message: String,
    /// Whether ssh rejects the present file too, which arcssh has not changed.
    pub(crate) is_old: bool,
}

/// The place of an error in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// The whole file, or an unknown line.
    File,
    Line(usize),
    /// A line of the managed block that arcssh was about to write, counted in the block, and its text.
    Block(usize, String),
}

/// How the user corrects an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fix {
    /// Another version of ssh knows the option (ssh_config(5), IgnoreUnknown).
    IgnoreUnknown(String),
    /// Other users can write to the file.
    Permissions,
    /// The file belongs to neither root nor the user.
    Owner,
    /// The line is in the template of the host entries.
    Template,
    /// An editor has put a byte order mark into the file, in UTF-8 or UTF-16.
    ByteOrderMark,
    /// The line is wrong.
    Line,
    /// A value contains an environment variable that is not set.
    Variable,
    /// ssh finds no canonical name of a host (ssh_config(5), CanonicalizeFallbackLocal).
    CanonicalName,
    /// ssh names no line.
    Unnamed,
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, place, message, is_old } = self;
        write!(f, "ssh {}rejects {}: ", if *is_old { "already " } else { "" }, file.display())?;
        match place {
            Place::File => {}
            Place::Line(line) => write!(f, "line {line}: ")?,
            Place::Block(line, text) => write!(f, "line {line} of the new managed block ({text:?}): ")?,
        }
        f.write_str(&sanitize(message))
    }
}

impl Rejection {
    /// Parses ssh's messages about `file`, which the user knows by another name while arcssh has not written it there.
    pub(crate) fn of(stderr: &[u8], file: &Path, name: &Path) -> Self {
        let text = String::from_utf8_lossy(stderr);
        let unknown = || {
            let (file, message) = (name.to_owned(), unescaped(fault(&text)));
            Self { file, place: Place::File, message, is_old: false }
        };
        let mut rejection =
            text.lines().find_map(|line| Self::parse(&unescaped(line.trim()))).unwrap_or_else(unknown);
        if file != name && rejection.file.to_string_lossy() == shown(file) || rejection.file == file {
            rejection.file = name.to_owned();
            if let (Place::Line(line), true) = (&rejection.place, file != name) {
                rejection.place = place(*line, file, name);
            }
        }
        rejection
    }

    /// Parses one message (readconf.c): `FILE: line NUMBER: …`, `FILE line NUMBER: …`, or `Bad owner or permissions on FILE`.
    fn parse(text: &str) -> Option<Self> {
        let permissions = "Bad owner or permissions";
        let (file, place, message) = match text.strip_prefix(permissions) {
            Some(rest) => (rest.strip_prefix(" on ")?, Place::File, permissions),
            None => {
                let at = |(at, _)| {
                    let (line, message) = text[at + " line ".len()..].split_once(": ")?;
                    let file = text[..at].trim_end_matches(':');
                    Some((file, Place::Line(line.parse().ok()?), message))
                };
                text.match_indices(" line ").find_map(at)?
            }
        };
        // ssh goes on after these two.
        let is_harmless =
            ["Unsupported option", "Deprecated option"].iter().any(|one| message.starts_with(one));
        let (file, message) = (file.into(), message.to_owned());
        (!text.starts_with("debug") && !is_harmless).then_some(Self { file, place, message, is_old: false })
    }

    /// Returns how the user corrects the error.
    pub(crate) fn fix(&self) -> Fix {
        let unknown = self.message.strip_prefix("Bad configuration option: ");
        let is_word = |option: &&str| option.chars().all(|c| c.is_ascii_alphanumeric());
        match (&self.place, unknown.filter(is_word)) {
            (Place::Block(..), _) => Fix::Template,
            (Place::Line(_), _) if self.message.contains([managed_block::BYTE_ORDER_MARK, '\u{fffd}']) => {
                Fix::ByteOrderMark
            }
            (Place::Line(_), Some(option)) => Fix::IgnoreUnknown(option.to_owned()),
            (Place::File, _) if self.message.starts_with("Bad owner") => {
                if is_own(&self.file) {
                    Fix::Permissions
                } else {
                    Fix::Owner
                }
            }
            (Place::File, _) if self.message.contains("env var ") => Fix::Variable,
            (Place::File, _) if self.message.contains("Could not resolve host") => Fix::CanonicalName,
            (Place::File, _) => Fix::Unnamed,
            _ => Fix::Line,
        }
    }
}

#[cfg(unix)]
fn is_own(file: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let own = [0, rustix::process::getuid().as_raw()];
    file.metadata().is_ok_and(|metadata| own.contains(&metadata.uid()))
}

#[cfg(not(unix))]
fn is_own(_: &Path) -> bool {
    true
}

/// The place in a file of a line of its new version.
pub(crate) fn place(number: usize, new: &Path, old: &Path) -> Place {
    let read = |file| managed_block::read(file).unwrap_or_default();
    place_in(number, &read(new), &read(old))
}

fn place_in(number: usize, new: &str, old: &str) -> Place {
    let lines: Vec<&str> = new.lines().collect();
    let Some(text) = number.checked_sub(1).and_then(|at| lines.get(at)) else { return Place::File };
    let block = managed_block::find(new).ok().flatten().unwrap_or_default();
    let first = new[..block.start].matches('\n').count();
    let is_in_block = (first + 1..=first + new[block].lines().count()).contains(&number);
    if is_in_block && !text.starts_with(managed_block::BYTE_ORDER_MARK) {
        return Place::Block(number - first, text.trim().to_owned());
    }
    let old: Vec<&str> = old.lines().collect();
    let expected = if number <= first { Some(number) } else { (old.len() + number).checked_sub(lines.len()) };
    let is_same = |number: &usize| number.checked_sub(1).and_then(|at| old.get(at)) == Some(text);
    let anywhere = (1..=old.len()).find(is_same);
    expected.filter(is_same).or(anywhere).map_or(Place::File, Place::Line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_error_of_ssh_is_parsed() {
        for (stderr, shown) in [
            (
                "/c: line 3: Bad configuration option: one\r\n/c: line 4: Bad configuration option: two\r\n/c: terminating, 2 bad configuration options\r\n",
                "ssh rejects /c: line 3: Bad configuration option: one",
            ),
            (
                "/c line 3: no argument after keyword \"port\"",
                "ssh rejects /c: line 3: no argument after keyword \"port\"",
            ),
            (
                "/a line 1/c line 7: Unsupported option \"gssapiauthentication\"\n/a line 1/c line 9: Bad number 'x'.\n",
                "ssh rejects /a line 1/c: line 9: Bad number 'x'.",
            ),
            ("Bad owner or permissions on /h\\303\\274/c\r\n", "ssh rejects /hü/c: Bad owner or permissions"),
            (
                "Can't open user config file /c: No such file\n",
                "ssh rejects /file: Can't open user config file /c: No such file",
            ),
        ] {
            let rejection = Rejection::of(stderr.as_bytes(), Path::new("/file"), Path::new("/file"));
            assert_eq!(rejection.to_string(), shown);
        }
    }

    #[test]
    fn a_line_of_a_new_text_is_found_in_the_old_one() {
        let block = managed_block::block("{}", "Host a\n  Bogus 1\n");
        let old = "One 1\nTwo 2\n\nTwo 2\nThree 3\n";
        let new = managed_block::with_block(old, &block).unwrap();
        let line = |text: &str, nth| {
            new.lines().enumerate().filter(|(_, line)| *line == text).nth(nth).unwrap().0 + 1
        };
        for (text, nth, expected) in [("One 1", 0, 1), ("Two 2", 0, 2), ("Two 2", 1, 4), ("Three 3", 0, 5)] {
            assert_eq!(place_in(line(text, nth), &new, old), Place::Line(expected), "{text}");
        }
        let bogus = line("  Bogus 1", 0);
        assert_eq!(place_in(bogus, &new, old), Place::Block(bogus, "Bogus 1".into()));
        assert_eq!(place_in(bogus + 5, &format!("{old}{block}"), old), Place::Block(bogus, "Bogus 1".into()));
        assert_eq!(place_in(2, &format!("{old}{block}"), old), Place::Line(2));
        assert_eq!(place_in(999, &new, old), Place::File);
    }
}
