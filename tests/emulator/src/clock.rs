//! The clock of the emulated services, and Azure's formats of date and time, all in UTC.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

const SECONDS_PER_DAY: u64 = 86_400;

/// The days of the week, starting with that of the Unix epoch.
const WEEKDAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// The clock of all services.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Clock {
    /// Seconds by which it is ahead of the clock of this machine.
    pub(crate) offset: i64,
}

impl Clock {
    /// Unix time in seconds.
    pub(crate) fn unix_seconds(self) -> u64 {
        since_epoch().as_secs().saturating_add_signed(self.offset)
    }

    /// Unix time in nanoseconds.
    pub(crate) fn unix_nanoseconds(self) -> u128 {
        let offset = i128::from(self.offset) * 1_000_000_000;
        since_epoch().as_nanos().saturating_add_signed(offset)
    }
}

fn since_epoch() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// `2025-04-24T11:08:04`, the format in status descriptions of Azure Relay.
pub(crate) fn timestamp(unix_seconds: u64) -> String {
    let (year, month, day) = date(unix_seconds);
    let (hours, minutes) = (unix_seconds / 3600 % 24, unix_seconds / 60 % 60);
    format!("{year:04}-{month:02}-{day:02}T{hours:02}:{minutes:02}:{:02}", unix_seconds % 60)
}

/// `Thu, 24 Apr 2025 11:08:04 GMT`, the format of the header `Date` (RFC 9110, section 5.6.7).
pub(crate) fn http_date(unix_seconds: u64) -> String {
    let (year, month, day) = date(unix_seconds);
    let weekday = WEEKDAYS[(unix_seconds / SECONDS_PER_DAY % 7) as usize];
    let month = MONTHS[usize::from(month) - 1];
    let (hours, minutes) = (unix_seconds / 3600 % 24, unix_seconds / 60 % 60);
    format!("{weekday}, {day:02} {month} {year:04} {hours:02}:{minutes:02}:{:02} GMT", unix_seconds % 60)
}

/// `20250424`, the format in names of SAS keys.
pub(crate) fn compact_date(unix_seconds: u64) -> String {
    let (year, month, day) = date(unix_seconds);
    format!("{year:04}{month:02}{day:02}")
}

/// Returns year, month and day: Howard Hinnant's `civil_from_days`, for days after 1970.
pub(crate) fn date(unix_seconds: u64) -> (i32, u8, u8) {
    let days = unix_seconds / SECONDS_PER_DAY + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (year as i32, month as u8, day as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_format_is_written() {
        assert_eq!(timestamp(1_745_492_884), "2025-04-24T11:08:04");
        assert_eq!(http_date(1_745_492_884), "Thu, 24 Apr 2025 11:08:04 GMT");
        assert_eq!(http_date(784_111_777), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(compact_date(1_664_908_286), "20221004");
        assert_eq!(compact_date(951_782_400), "20000229");
    }
}
