//! One line on a user's terminal, whoever wrote what stands in it.

use std::io::Write as _;

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

/// Control characters, Unicode's line separators, and what turns the direction of text.
fn steers(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

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
