//! Unix time: reading it, and formatting it for the user.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Returns the local clock's time in seconds of Unix time.
pub(crate) fn unix_now() -> u64 {
    since_epoch().as_secs()
}

/// Returns this machine's time since the Unix epoch.
pub(crate) fn since_epoch() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Returns seconds of Unix time as RFC 3339 in UTC.
pub(crate) fn format_time(seconds: u64) -> String {
    let time = i64::try_from(seconds).ok().and_then(|time| OffsetDateTime::from_unix_timestamp(time).ok());
    time.and_then(|time| time.format(&Rfc3339).ok())
        .unwrap_or_else(|| format!("second {seconds} of Unix time"))
}

/// Returns seconds of Unix time from a time in RFC 3339.
pub(crate) fn parse_time(text: &str) -> Option<u64> {
    OffsetDateTime::parse(text, &Rfc3339).ok()?.unix_timestamp().try_into().ok()
}

/// Returns how long ago a time in seconds of Unix time was, such as "3 hours ago".
pub(crate) fn format_ago(time: u64) -> String {
    format!("{} ago", format_duration(Duration::from_secs(unix_now().saturating_sub(time))))
}

/// Returns a duration as a whole number of its largest suitable unit, such as "89 minutes" or "2 hours".
pub(crate) fn format_duration(duration: Duration) -> String {
    const UNITS: [(u64, &str); 3] = [(24 * 3600, "day"), (3600, "hour"), (60, "minute")];
    let seconds = duration.as_secs();
    let (unit, name) =
        UNITS.into_iter().find(|(unit, _)| seconds >= unit + unit / 2).unwrap_or((1, "second"));
    let count = (seconds + unit / 2) / unit;
    format!("{count} {name}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_rounded_to_at_least_two_of_a_unit() {
        for (seconds, text) in [
            (0, "0 seconds"),
            (1, "1 second"),
            (89, "89 seconds"),
            (90, "2 minutes"),
            (3599, "60 minutes"),
            (5400, "2 hours"),
            (30 * 24 * 3600, "30 days"),
        ] {
            assert_eq!(format_duration(Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn any_number_of_seconds_is_formatted() {
        assert_eq!(format_time(1_772_356_207), "2026-03-01T09:10:07Z");
        assert_eq!(parse_time("2026-03-01T09:10:07.1234567Z"), Some(1_772_356_207));
        assert_eq!(parse_time("2026-03-01"), None);
        assert_eq!(format_time(u64::MAX), "second 18446744073709551615 of Unix time");
    }
}
