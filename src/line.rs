//! One line on a user's terminal, whoever wrote what stands in it.

use std::io::{ErrorKind, Write as _};

use anyhow::{Context as _, Result};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// The longest line, in characters: it holds a command with a full resource ID.
const MAX_LINE: usize = 900;

/// `text` as one line that can neither steer a terminal nor pass for another line, nor flood.
pub(crate) fn one_line(text: &str) -> String {
    let plain = |c: char| if steers(c) { ' ' } else { c };
    let mut line: String = text.chars().take(MAX_LINE).map(plain).collect();
    if text.chars().nth(MAX_LINE).is_some() {
        line.push('…');
    }
    line
}

/// A second of Unix time as text, in UTC.
pub(crate) fn moment(seconds: u64) -> String {
    let time = i64::try_from(seconds).ok().and_then(|time| OffsetDateTime::from_unix_timestamp(time).ok());
    time.and_then(|time| time.format(&Rfc3339).ok())
        .unwrap_or_else(|| format!("second {seconds} of Unix time"))
}

/// Tells the user of something that is no failure. A standard error that is gone leaves nobody to tell.
pub(crate) fn warn(text: &str) {
    let _ = writeln!(std::io::stderr(), "{}", one_line(&format!("arcssh: {text}")));
}

/// Prints what a command was asked for. Whoever closes the pipe has read enough.
///
/// # Errors
/// [`NotPrinted`]: a disk is full.
pub(crate) fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error).context(NotPrinted),
        _ => Ok(()),
    }
}

/// Standard output takes no more.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("standard output cannot be written")]
pub(crate) struct NotPrinted;

/// A word of others as a shell takes it: a resource group's name may hold parentheses, a path spaces.
pub(crate) fn word(text: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "/._-+:@%=,~".contains(c) || cfg!(windows) && c == '\\';
    if text.chars().all(plain) { text.to_owned() } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

/// Control characters, Unicode's line separators, and what turns the direction of text.
fn steers(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_quoted_where_a_shell_would_make_something_else_of_it() {
        for plain in ["/subscriptions/s/resourceGroups/g_1/machines/web-01.x", "~/.ssh/config"] {
            assert_eq!(word(plain), plain);
        }
        assert_eq!(word("rg (test)"), "'rg (test)'");
        assert_eq!(word("it's; rm"), r"'it'\''s; rm'");
    }

    #[test]
    fn a_moment_is_told_in_full_whenever_it_is() {
        assert_eq!(moment(1_772_356_207), "2026-03-01T09:10:07Z");
        assert_eq!(moment(u64::MAX), "second 18446744073709551615 of Unix time");
    }

    #[test]
    fn a_line_stays_one_line_of_bounded_length() {
        assert_eq!(one_line("a\r\nb\u{1b}[2J\u{202e}ü"), "a  b [2J ü");
        assert_eq!(one_line(&"x".repeat(5000)).chars().count(), MAX_LINE + 1);
    }
}
