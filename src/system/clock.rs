//! Unix time: reading it, and formatting it for the user.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Returns this machine's time in seconds of Unix time.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_time_has_a_text() {
        assert_eq!(format_time(1_772_356_207), "2026-03-01T09:10:07Z");
        assert_eq!(format_time(u64::MAX), "second 18446744073709551615 of Unix time");
    }
}
