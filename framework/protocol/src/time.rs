//! Points in time.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A point in time in whole milliseconds since 1970-01-01T00:00:00Z, the resolution of AWS's histories.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The largest point in time that can be written in RFC 3339 (the end of the year 9999).
    pub const MAX: Timestamp = Timestamp(253_402_207_200_999);

    /// From milliseconds since the epoch.
    pub const fn from_millis(millis: i64) -> Timestamp {
        Timestamp(millis)
    }

    /// Milliseconds since the epoch.
    pub const fn as_millis(self) -> i64 {
        self.0
    }

    /// Seconds since the epoch, as the AWS JSON protocol writes times.
    pub fn as_seconds_f64(self) -> f64 {
        self.0 as f64 / 1000.0
    }

    /// This time plus `millis` milliseconds, kept within [`Timestamp::MAX`].
    pub const fn plus_millis(self, millis: i64) -> Timestamp {
        let sum = self.0.saturating_add(millis);
        if sum > Timestamp::MAX.0 { Timestamp::MAX } else { Timestamp(sum) }
    }

    /// This time plus `seconds` seconds, kept within [`Timestamp::MAX`].
    pub fn plus_seconds_f64(self, seconds: f64) -> Timestamp {
        self.plus_millis((seconds * 1000.0) as i64)
    }

    /// Milliseconds from `earlier` to this time; negative when `earlier` is later.
    pub const fn millis_since(self, earlier: Timestamp) -> i64 {
        self.0.saturating_sub(earlier.0)
    }

    /// Reads an RFC 3339 time such as `2026-11-22T17:00:00Z`. Digits below a millisecond are dropped.
    pub fn parse_rfc3339(text: &str) -> Option<Timestamp> {
        // RFC 3339 wants a date, a `T`, a time with seconds and an offset; jiff alone would also accept less.
        let bytes = text.as_bytes();
        let shaped = bytes.len() >= 20 && bytes[4] == b'-' && bytes[7] == b'-' && bytes[10] == b'T';
        if !shaped || text.contains(['[', 'z']) {
            return None;
        }
        text.parse::<jiff::Timestamp>().ok().map(|t| Timestamp(t.as_millisecond()))
    }
}

impl fmt::Display for Timestamp {
    /// RFC 3339 in UTC with milliseconds, as the context object writes times.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_millisecond(self.0) {
            Ok(t) => write!(f, "{t:.3}"),
            Err(_) => write!(f, "{}ms", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc3339_is_read_and_written() {
        let t = Timestamp::parse_rfc3339("2026-11-22T17:00:00.5Z").unwrap();
        assert_eq!(t.to_string(), "2026-11-22T17:00:00.500Z");
        assert_eq!(Timestamp::parse_rfc3339("2026-11-22T18:00:00.500+01:00"), Some(t));
        for bad in ["", "2026-11-22", "2026-11-22 17:00:00Z", "2026-11-22T17:00:00", "x026-11-22T17:00:00Z"] {
            assert_eq!(Timestamp::parse_rfc3339(bad), None, "{bad}");
        }
    }

    #[test]
    fn sums_stay_within_the_calendar() {
        assert_eq!(Timestamp::from_millis(0).plus_seconds_f64(1e18), Timestamp::MAX);
        assert_eq!(Timestamp::from_millis(5).plus_millis(-10).as_millis(), -5);
    }
}
