//! When a schedule fires: an expression in a time zone.
//!
//! What happens when clocks are changed (see `docs/schedules.md`): a local time that is left out fires at the moment of
//! the change. One that comes twice fires the first time, unless the pattern fires in every hour: then each hour counts.
//! Nothing fires twice at one moment.

use jiff::{
    Timestamp as Instant,
    civil::DateTime,
    tz::{AmbiguousOffset, TimeZone},
};
use stagepost_protocol::Timestamp;

use crate::cron::{Cron, CronError};

/// Why there are no such times.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TimesError {
    /// It is of no form that is known.
    #[error(
        "'{0}' is no schedule expression: expected a cron line such as '0 9 * * MON-FRI', cron(0 9 ? * MON-FRI *), \
         rate(15 minutes) or at(2026-12-24T18:00:00)"
    )]
    Form(String),
    /// It is no cron pattern.
    #[error("'{expression}' is no cron pattern: {error}")]
    Cron {
        /// The expression.
        expression: String,
        /// What is wrong with it.
        error: CronError,
    },
    /// The number or the unit of a rate.
    #[error(
        "'{0}' is no rate: expected a whole number from 1 to 1,000,000 and seconds, minutes, hours, days or weeks"
    )]
    Rate(String),
    /// The local time in `at(…)`.
    #[error("'{0}' is no local time: expected at(YYYY-MM-DDThh:mm:ss)")]
    At(String),
    /// The time zone.
    #[error("'{0}' is no time zone: expected a name such as Europe/Berlin or UTC")]
    Zone(String),
}

/// The times at which a schedule fires.
#[derive(Debug, Clone)]
pub struct Times {
    kind: Kind,
    zone: TimeZone,
}

#[derive(Debug, Clone)]
enum Kind {
    Cron(Box<Cron>),
    Rate { every_millis: i64, from: Timestamp },
    At(DateTime),
}

const RATE_MAX: i64 = 1_000_000;

impl Times {
    /// Reads an expression. Rates count from `anchor`, or from 1970 without one.
    pub fn parse(expression: &str, zone: &str, anchor: Option<Timestamp>) -> Result<Times, TimesError> {
        let text = expression.trim();
        let inside = |name: &str| text.strip_prefix(name)?.strip_prefix('(')?.strip_suffix(')');
        let cron = |parsed: Result<Cron, CronError>| match parsed {
            Ok(cron) => Ok(Kind::Cron(Box::new(cron))),
            Err(error) => Err(TimesError::Cron { expression: text.to_owned(), error }),
        };
        let kind = if let Some(rate) = inside("rate") {
            let every_millis = rate_millis(rate).ok_or_else(|| TimesError::Rate(text.to_owned()))?;
            Kind::Rate { every_millis, from: anchor.unwrap_or_default() }
        } else if let Some(at) = inside("at") {
            Kind::At(local_time(at).ok_or_else(|| TimesError::At(text.to_owned()))?)
        } else if let Some(pattern) = inside("cron") {
            cron(Cron::parse_aws(pattern))?
        } else if text.contains('(') || text.split_ascii_whitespace().count() < 2 {
            return Err(TimesError::Form(text.to_owned()));
        } else {
            cron(Cron::parse_line(text))?
        };
        let zone = TimeZone::get(zone).map_err(|_| TimesError::Zone(zone.to_owned()))?;
        Ok(Times { kind, zone })
    }

    /// The first time after this one.
    pub fn next_after(&self, after: Timestamp) -> Option<Timestamp> {
        let found = match &self.kind {
            Kind::Rate { every_millis, from } => {
                let periods = after.millis_since(*from).div_euclid(*every_millis) + 1;
                from.plus_millis(periods.saturating_mul(*every_millis))
            }
            Kind::At(at) => timestamp(self.instant(*at)?),
            Kind::Cron(cron) => timestamp(self.next_of_cron(cron, instant(after)?)?),
        };
        (found > after).then_some(found)
    }

    fn next_of_cron(&self, cron: &Cron, after: Instant) -> Option<Instant> {
        // Patterns name whole seconds.
        let from = Instant::new(after.as_second().checked_add(1)?, 0).ok()?;
        if cron.every_hour() { self.next_by_hours(cron, from) } else { self.next_by_clock(cron, from) }
    }

    /// Hours count as they pass: between two changes of the clocks, local time is time.
    fn next_by_hours(&self, cron: &Cron, mut from: Instant) -> Option<Instant> {
        loop {
            let offset = self.zone.to_offset(from);
            let at = offset.to_timestamp(cron.next(offset.to_datetime(from))?).ok()?;
            match self.zone.following(from).next() {
                Some(change) if change.timestamp() <= at => from = change.timestamp(),
                _ => return Some(at),
            }
        }
    }

    /// The clock on the wall decides.
    fn next_by_clock(&self, cron: &Cron, from: Instant) -> Option<Instant> {
        let mut local = self.zone.to_offset(from).to_datetime(from);
        loop {
            let named = cron.next(local)?;
            match self.instant(named)? {
                at if at >= from => return Some(at),
                // The second time of two.
                _ => local = named.checked_add(jiff::SignedDuration::from_secs(1)).ok()?,
            }
        }
    }

    /// The moment of a local time.
    fn instant(&self, local: DateTime) -> Option<Instant> {
        match self.zone.to_ambiguous_timestamp(local).offset() {
            AmbiguousOffset::Unambiguous { offset } => offset.to_timestamp(local).ok(),
            AmbiguousOffset::Fold { before, .. } => before.to_timestamp(local).ok(),
            AmbiguousOffset::Gap { before, .. } => {
                let beyond = before.to_timestamp(local).ok()?;
                let change = self.zone.preceding(Instant::new(beyond.as_second() + 1, 0).ok()?).next()?;
                Some(change.timestamp())
            }
        }
    }
}

fn instant(time: Timestamp) -> Option<Instant> {
    Instant::from_millisecond(time.as_millis()).ok()
}

fn timestamp(instant: Instant) -> Timestamp {
    Timestamp::from_millis(instant.as_millisecond())
}

/// `15 minutes`.
fn rate_millis(text: &str) -> Option<i64> {
    let (number, unit) = text.trim().split_once(' ')?;
    let seconds = match unit.trim().trim_end_matches('s') {
        "second" => 1,
        "minute" => 60,
        "hour" => 3_600,
        "day" => 86_400,
        "week" => 7 * 86_400,
        _ => return None,
    };
    let number: i64 = number.parse().ok().filter(|number| (1..=RATE_MAX).contains(number))?;
    Some(number * seconds * 1_000)
}

/// A local time with neither an offset nor a zone.
fn local_time(text: &str) -> Option<DateTime> {
    let shaped = text.len() == "2026-12-24T18:00:00".len() && text.as_bytes()[10] == b'T';
    text.parse().ok().filter(|_| shaped)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> Timestamp {
        Timestamp::parse_rfc3339(text).unwrap()
    }

    fn next(expression: &str, zone: &str, after: &str, count: usize) -> Vec<String> {
        let times = Times::parse(expression, zone, None).unwrap();
        let mut after = at(after);
        let next = || {
            after = times.next_after(after)?;
            Some(after.to_string().replace(".000Z", "Z"))
        };
        std::iter::from_fn(next).take(count).collect()
    }

    #[test]
    fn clocks_that_are_changed_leave_nothing_out_and_repeat_nothing() {
        for (expression, zone, after, expected) in [
            // Plain: winter and summer.
            ("0 9 * * *", "Europe/Berlin", "2026-11-27T00:00:00Z", &["2026-11-27T08:00:00Z"][..]),
            ("0 9 * * *", "Europe/Berlin", "2026-07-01T00:00:00Z", &["2026-07-01T07:00:00Z"]),
            ("cron(0 9 * * ? *)", "Asia/Kolkata", "2026-07-01T00:00:00Z", &["2026-07-01T03:30:00Z"]),
            // 2:30 does not exist on the 29th of March: it fires at 3:00, when the clocks are changed.
            (
                "30 2 * * *",
                "Europe/Berlin",
                "2026-03-28T00:00:00Z",
                &["2026-03-28T01:30:00Z", "2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"],
            ),
            // All that is left out fires once, and with what fires then anyway.
            (
                "*/20 2-3 * * *",
                "Europe/Berlin",
                "2026-03-29T00:00:00Z",
                &[
                    "2026-03-29T01:00:00Z",
                    "2026-03-29T01:20:00Z",
                    "2026-03-29T01:40:00Z",
                    "2026-03-30T00:00:00Z",
                ],
            ),
            // 2:30 comes twice on the 25th of October: it fires the first time.
            (
                "30 2 * * *",
                "Europe/Berlin",
                "2026-10-24T00:00:00Z",
                &["2026-10-24T00:30:00Z", "2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"],
            ),
            // Also where one asks within the second hour.
            ("45 2 * * *", "Europe/Berlin", "2026-10-25T01:30:00Z", &["2026-10-26T01:45:00Z"]),
            ("*/30 2 * * *", "Europe/Berlin", "2026-10-25T00:45:00Z", &["2026-10-26T01:00:00Z"]),
            // What fires in every hour does so in each of two.
            (
                "30 * * * *",
                "Europe/Berlin",
                "2026-10-24T23:00:00Z",
                &[
                    "2026-10-24T23:30:00Z",
                    "2026-10-25T00:30:00Z",
                    "2026-10-25T01:30:00Z",
                    "2026-10-25T02:30:00Z",
                ],
            ),
            (
                "30 * * * *",
                "Europe/Berlin",
                "2026-03-29T00:00:00Z",
                &["2026-03-29T00:30:00Z", "2026-03-29T01:30:00Z", "2026-03-29T02:30:00Z"],
            ),
            // Half an hour: Lord Howe goes from 2:00 to 2:30 and back from 2:00 to 1:30.
            (
                "15 2 * * *",
                "Australia/Lord_Howe",
                "2026-10-02T16:00:00Z",
                &["2026-10-03T15:30:00Z", "2026-10-04T15:15:00Z"],
            ),
            (
                "45 1 * * *",
                "Australia/Lord_Howe",
                "2026-04-03T16:00:00Z",
                &["2026-04-04T14:45:00Z", "2026-04-05T15:15:00Z"],
            ),
            (
                "*/15 * * * *",
                "Australia/Lord_Howe",
                "2026-10-03T15:10:00Z",
                &["2026-10-03T15:15:00Z", "2026-10-03T15:30:00Z", "2026-10-03T15:45:00Z"],
            ),
            // A whole day: Samoa had no 30th of December 2011.
            (
                "0 12 * * *",
                "Pacific/Apia",
                "2011-12-29T00:00:00Z",
                &["2011-12-29T22:00:00Z", "2011-12-30T10:00:00Z", "2011-12-30T22:00:00Z"],
            ),
            // Rates know no clocks. They count from 1970 here.
            (
                "rate(12 hours)",
                "Europe/Berlin",
                "2026-03-28T13:00:00Z",
                &["2026-03-29T00:00:00Z", "2026-03-29T12:00:00Z"],
            ),
            ("rate(1 minute)", "UTC", "2026-03-28T13:00:00Z", &["2026-03-28T13:01:00Z"]),
            ("at(2026-12-24T18:00:00)", "Europe/Berlin", "2026-03-28T13:00:00Z", &["2026-12-24T17:00:00Z"]),
            ("at(2026-03-29T02:30:00)", "Europe/Berlin", "2026-03-28T13:00:00Z", &["2026-03-29T01:00:00Z"]),
            ("at(2026-10-25T02:30:00)", "Europe/Berlin", "2026-03-28T13:00:00Z", &["2026-10-25T00:30:00Z"]),
            ("at(2026-03-28T13:00:00)", "UTC", "2026-03-28T13:00:00Z", &[]),
        ] {
            let count =
                if expected.len() == 1 && expression.starts_with("at") { 2 } else { expected.len().max(1) };
            assert_eq!(next(expression, zone, after, count), expected, "{expression} {zone}");
        }
    }

    #[test]
    fn rates_count_from_their_anchor() {
        let anchor = at("2026-11-27T10:07:30.250Z");
        let times = Times::parse("rate(15 minutes)", "UTC", Some(anchor)).unwrap();
        assert_eq!(times.next_after(anchor.plus_millis(-1)), Some(anchor));
        assert_eq!(times.next_after(anchor), Some(anchor.plus_millis(900_000)));
        assert_eq!(times.next_after(anchor.plus_millis(-1_800_000)), Some(anchor.plus_millis(-900_000)));
    }

    #[test]
    fn what_is_no_expression_is_told() {
        for (expression, zone, told) in [
            ("", "UTC", "expected a cron line such as"),
            ("hourly", "UTC", "'hourly' is no schedule expression"),
            ("every(5 minutes)", "UTC", "is no schedule expression"),
            ("* * * *", "UTC", "it has 4 fields"),
            ("cron(0 12 * * * *)", "UTC", "'cron(0 12 * * * *)' is no cron pattern: one of day of month"),
            ("rate(0 minutes)", "UTC", "is no rate"),
            ("rate(5 fortnights)", "UTC", "is no rate"),
            ("rate(5)", "UTC", "is no rate"),
            ("at(2026-12-24)", "UTC", "is no local time"),
            ("at(2026-12-24T18:00:00Z)", "UTC", "is no local time"),
            ("0 9 * * *", "Europe/Nowhere", "'Europe/Nowhere' is no time zone"),
            ("0 9 * * *", "", "'' is no time zone"),
        ] {
            let error = Times::parse(expression, zone, None).unwrap_err().to_string();
            assert!(error.contains(told), "{expression}: {error}");
        }
    }

    const ZONES: [&str; 6] = [
        "UTC",
        "Europe/Berlin",
        "America/New_York",
        "Australia/Lord_Howe",
        "Africa/Casablanca",
        "Asia/Kathmandu",
    ];

    /// The local time is one that the pattern names.
    fn named(cron: &Cron, zone: &TimeZone, at: Timestamp) -> bool {
        let local = zone.to_datetime(instant(at).unwrap());
        cron.next(local) == Some(local)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

        /// Goal: each minute whose local time a pattern names is a firing, but for the second of two; what is no such
        /// minute is the moment of a change. Method: all minutes of three days are looked at one by one.
        #[test]
        fn firings_are_the_minutes_that_a_pattern_names(
            minute in 0..6_usize, hour in 0..5_usize, weekday in 0..3_usize, zone in 0..ZONES.len(),
            // From January 2026, in quarters of an hour.
            start in 0..35_000_i64,
        ) {
            let minute = ["*", "0", "*/15", "30", "7,37", "59"][minute];
            let hour = ["*", "*", "2", "1-3", "*/6"][hour];
            let weekday = ["*", "SUN", "6,0"][weekday];
            let line = format!("{minute} {hour} * * {weekday}");
            let times = Times::parse(&line, ZONES[zone], None).unwrap();
            let Kind::Cron(cron) = &times.kind else { panic!("{line}") };
            let from = at("2026-01-01T00:00:00Z").plus_millis(start * 900_000);
            let minutes: Vec<Timestamp> = (1..3 * 24 * 60).map(|n| from.plus_millis(n * 60_000)).collect();
            let last = *minutes.last().unwrap();

            let mut fired = Vec::new();
            let mut after = from;
            while let Some(at) = times.next_after(after).filter(|at| *at <= last) {
                prop_assert!(at > after);
                fired.push(at);
                after = at;
            }
            let is_second = |at: Timestamp| {
                let local = times.zone.to_datetime(instant(at).unwrap());
                times.instant(local) != instant(at)
            };
            for at in &minutes {
                let expected = named(cron, &times.zone, *at) && (cron.every_hour() || !is_second(*at));
                let is_change = times.zone.preceding(instant(at.plus_millis(1)).unwrap()).next();
                let is_change = is_change.is_some_and(|change| timestamp(change.timestamp()) == *at);
                let found = fired.contains(at);
                prop_assert!(found == expected || found && is_change, "{line} {} {at}", ZONES[zone]);
            }
            prop_assert!(fired.iter().all(|at| minutes.contains(at)));
        }
    }
}
