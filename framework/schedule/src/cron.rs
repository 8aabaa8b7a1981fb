//! Cron patterns: which local times they name.
//!
//! A line of five fields is Unix's (minute, hour, day of month, month, day of week), one of six has seconds in front of
//! them. `cron(…)` is EventBridge's: minute, hour, day of month, month, day of week, year, where Sunday is 1 and one of the
//! two days is `?`.

use jiff::civil::{Date, DateTime, Time, Weekday};

/// Why a text is no cron pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CronError {
    /// It has too few or too many fields.
    #[error("it has {found} fields; {expected}")]
    Fields {
        /// How many it has.
        found: usize,
        /// How many it may have.
        expected: &'static str,
    },
    /// A field holds what it cannot hold.
    #[error("the field '{field}' has '{text}'; expected {expected}")]
    Field {
        /// The name of the field.
        field: &'static str,
        /// The part of it that is wrong.
        text: String,
        /// What could stand there.
        expected: String,
    },
    /// In `cron(…)`, a day of the month and a day of the week, or neither.
    #[error("one of day of month and day of week must be '?', the other one must not")]
    Days,
}

/// Years that a pattern is followed into the future. Leap years and weekdays repeat within 40.
const YEARS_MAX: i16 = 100;

/// A pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cron {
    seconds: u64,
    minutes: u64,
    hours: u64,
    days: Days,
    months: u64,
    weekdays: Weekdays,
    /// `None`: every year.
    years: Option<Vec<i16>>,
    /// The hour is `*`.
    every_hour: bool,
}

/// Days of a month.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Days {
    /// `*` or `?`.
    any: bool,
    /// A bit for each day.
    set: u64,
    /// `L`.
    last: bool,
    /// `LW`: the last weekday from Monday to Friday.
    last_working: bool,
    /// `nW`: the weekday from Monday to Friday that is nearest to the day, within the month. A bit for each day.
    nearest_working: u64,
}

/// Days of a week, Sunday first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Weekdays {
    any: bool,
    set: u64,
    /// `nL`: the last of the month. A bit for each weekday.
    last: u64,
    /// `d#n`: the n-th of the month. For each n from 1 a bit for each weekday.
    nth: [u64; 5],
}

const MONTHS: [&str; 12] =
    ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"];
const WEEKDAYS: [&str; 7] = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"];

/// What a field can hold.
struct Field {
    name: &'static str,
    min: u64,
    max: u64,
    /// Words that stand for the numbers from `min`.
    words: &'static [&'static str],
}

impl Field {
    const fn new(name: &'static str, min: u64, max: u64) -> Field {
        Field { name, min, max, words: &[] }
    }

    fn wrong(&self, text: &str) -> CronError {
        let mut expected = format!("a number from {} to {}", self.min, self.max);
        if let (Some(first), Some(last)) = (self.words.first(), self.words.last()) {
            expected.push_str(&format!(" or a word from {first} to {last}"));
        }
        expected.push_str(", a range, a step or a list of them");
        CronError::Field { field: self.name, text: text.to_owned(), expected }
    }

    fn number(&self, text: &str) -> Result<u64, CronError> {
        let word = self.words.iter().position(|word| word.eq_ignore_ascii_case(text));
        let number = match word {
            Some(place) => Some(self.min + place as u64),
            None if text.len() <= 4 && text.bytes().all(|b| b.is_ascii_digit()) => text.parse().ok(),
            None => None,
        };
        number.filter(|n| (self.min..=self.max).contains(n)).ok_or_else(|| self.wrong(text))
    }

    /// The numbers of an item: `*`, `n`, `n-m`, each maybe with `/step`; `n/step` goes on to the end.
    fn item(&self, text: &str) -> Result<Vec<u64>, CronError> {
        let (range, step) = match text.split_once('/') {
            None => (text, None),
            Some((range, step)) => {
                let step = step.parse::<u64>().ok().filter(|step| (1..=self.max).contains(step));
                (range, Some(step.ok_or_else(|| self.wrong(text))?))
            }
        };
        let (from, to) = match range.split_once('-') {
            _ if range == "*" => (self.min, self.max),
            Some((from, to)) => (self.number(from)?, self.number(to)?),
            None if step.is_some() => (self.number(range)?, self.max),
            None => (self.number(range)?, self.number(range)?),
        };
        if from > to {
            return Err(self.wrong(text));
        }
        Ok((from..=to).step_by(step.unwrap_or(1) as usize).collect())
    }

    /// The numbers of a whole field, as bits.
    fn bits(&self, text: &str) -> Result<u64, CronError> {
        let mut bits = 0;
        for item in text.split(',') {
            self.item(item)?.into_iter().for_each(|n| bits |= 1 << n);
        }
        Ok(bits)
    }
}

const DAY: Field = Field::new("day of month", 1, 31);
const YEAR: Field = Field::new("year", 1970, 2199);

impl Cron {
    /// Reads a line of five or six fields.
    pub(crate) fn parse_line(text: &str) -> Result<Cron, CronError> {
        let fields: Vec<&str> = text.split_ascii_whitespace().collect();
        let (second, rest) = match fields[..] {
            [minute, hour, day, month, weekday] => ("0", [minute, hour, day, month, weekday]),
            [second, minute, hour, day, month, weekday] => (second, [minute, hour, day, month, weekday]),
            _ => {
                let expected = "a cron line has five (minute, hour, day of month, month, day of week), or six with \
                                seconds in front of them";
                return Err(CronError::Fields { found: fields.len(), expected });
            }
        };
        // Sunday is 0 and 7.
        let weekday = Field { name: "day of week", min: 0, max: 7, words: &WEEKDAYS };
        Cron::read(second, rest, "*", &weekday, |number| number % 7)
    }

    /// Reads what stands in `cron(…)`.
    pub(crate) fn parse_aws(text: &str) -> Result<Cron, CronError> {
        let fields: Vec<&str> = text.split_ascii_whitespace().collect();
        let [minute, hour, day, month, weekday, year] = fields[..] else {
            let expected = "cron(…) has six: minute, hour, day of month, month, day of week, year";
            return Err(CronError::Fields { found: fields.len(), expected });
        };
        if (day == "?") == (weekday == "?") {
            return Err(CronError::Days);
        }
        // Sunday is 1.
        let weekdays = Field { name: "day of week", min: 1, max: 7, words: &WEEKDAYS };
        Cron::read("0", [minute, hour, day, month, weekday], year, &weekdays, |number| number - 1)
    }

    fn read(
        second: &str,
        [minute, hour, day, month, weekday]: [&str; 5],
        year: &str,
        weekdays: &Field,
        from_sunday: impl Fn(u64) -> u64,
    ) -> Result<Cron, CronError> {
        let years = match year {
            "*" => None,
            text => {
                let mut years = Vec::new();
                for item in text.split(',') {
                    years.extend(YEAR.item(item)?.into_iter().filter_map(|year| i16::try_from(year).ok()));
                }
                Some(years)
            }
        };
        let months = Field { name: "month", min: 1, max: 12, words: &MONTHS };
        Ok(Cron {
            seconds: Field::new("second", 0, 59).bits(second)?,
            minutes: Field::new("minute", 0, 59).bits(minute)?,
            hours: Field::new("hour", 0, 23).bits(hour)?,
            days: Days::read(day)?,
            months: months.bits(month)?,
            weekdays: Weekdays::read(weekday, weekdays, from_sunday)?,
            years,
            every_hour: hour == "*",
        })
    }

    /// Whether it fires in every hour of its days.
    pub(crate) fn every_hour(&self) -> bool {
        self.every_hour
    }

    /// The first time at or after `from` that it names; whole seconds. `None`: there is none for as long as it is
    /// followed.
    pub(crate) fn next(&self, from: DateTime) -> Option<DateTime> {
        let last_year = from.year().saturating_add(YEARS_MAX);
        let mut date = from.date();
        let mut time = from.time();
        while date.year() <= last_year {
            let next = if !self.years.as_ref().is_none_or(|years| years.contains(&date.year())) {
                date.last_of_year().tomorrow()
            } else if !has(self.months, date.month()) {
                date.last_of_month().tomorrow()
            } else {
                match self.is_day(date).then(|| self.next_time(time)).flatten() {
                    Some(found) => return Some(date.to_datetime(found)),
                    None => date.tomorrow(),
                }
            };
            date = next.ok()?;
            time = Time::midnight();
        }
        None
    }

    /// As in Unix: where both the day of the month and that of the week are given, either will do.
    fn is_day(&self, date: Date) -> bool {
        match (self.days.any, self.weekdays.any) {
            (true, true) => true,
            (false, true) => self.days.has(date),
            (true, false) => self.weekdays.has(date),
            (false, false) => self.days.has(date) || self.weekdays.has(date),
        }
    }

    /// The first time of a day at or after this one.
    fn next_time(&self, from: Time) -> Option<Time> {
        let [hour, minute, second] = [from.hour(), from.minute(), from.second()].map(i8::unsigned_abs);
        let time = |hour: u8, minute: u8, second: u8| {
            let [hour, minute, second] = [hour, minute, second].map(u8::cast_signed);
            Time::new(hour, minute, second, 0).ok()
        };
        if has(self.hours, from.hour()) {
            if has(self.minutes, from.minute())
                && let Some(second) = next_bit(self.seconds, second)
            {
                return time(hour, minute, second);
            }
            if let Some(minute) = next_bit(self.minutes, minute + 1) {
                return time(hour, minute, next_bit(self.seconds, 0)?);
            }
        }
        let hour = next_bit(self.hours, hour + 1)?;
        time(hour, next_bit(self.minutes, 0)?, next_bit(self.seconds, 0)?)
    }
}

impl Days {
    fn read(text: &str) -> Result<Days, CronError> {
        let mut days = Days { any: matches!(text, "*" | "?"), ..Days::default() };
        if days.any {
            return Ok(days);
        }
        for item in text.split(',') {
            match item.to_ascii_uppercase().as_str() {
                "L" => days.last = true,
                "LW" => days.last_working = true,
                upper => match upper.strip_suffix('W') {
                    Some(day) => days.nearest_working |= 1 << DAY.number(day)?,
                    None => DAY.item(item)?.into_iter().for_each(|n| days.set |= 1 << n),
                },
            }
        }
        Ok(days)
    }

    fn has(&self, date: Date) -> bool {
        let length = date.days_in_month();
        has(self.set, date.day())
            || self.last && date.day() == length
            || self.last_working && Some(date) == nearest_working(date, length)
            || self.nearest_working != 0
                && (1..=length)
                    .any(|day| has(self.nearest_working, day) && nearest_working(date, day) == Some(date))
    }
}

/// The day from Monday to Friday that is nearest to this day of the month, within the month.
fn nearest_working(date: Date, day: i8) -> Option<Date> {
    let (first, length) = (1, date.days_in_month());
    let day = Date::new(date.year(), date.month(), day).ok()?;
    let shift = match day.weekday() {
        Weekday::Saturday if day.day() == first => 2,
        Weekday::Saturday => -1,
        Weekday::Sunday if day.day() == length => -2,
        Weekday::Sunday => 1,
        _ => 0,
    };
    Date::new(day.year(), day.month(), day.day() + shift).ok()
}

impl Weekdays {
    fn read(text: &str, field: &Field, from_sunday: impl Fn(u64) -> u64) -> Result<Weekdays, CronError> {
        let mut weekdays = Weekdays { any: matches!(text, "*" | "?"), ..Weekdays::default() };
        if weekdays.any {
            return Ok(weekdays);
        }
        for item in text.split(',') {
            if let Some((day, nth)) = item.split_once('#') {
                let place = nth.parse::<usize>().ok().and_then(|n| n.checked_sub(1));
                let place = place.filter(|place| *place < 5).ok_or_else(|| CronError::Field {
                    field: field.name,
                    text: item.to_owned(),
                    expected: "a number from 1 to 5 after '#'".to_owned(),
                })?;
                weekdays.nth[place] |= 1 << from_sunday(field.number(day)?);
            } else if let Some(day) = item.strip_suffix(['L', 'l']) {
                weekdays.last |= 1 << from_sunday(field.number(day)?);
            } else {
                field.item(item)?.into_iter().for_each(|n| weekdays.set |= 1 << from_sunday(n));
            }
        }
        Ok(weekdays)
    }

    fn has(&self, date: Date) -> bool {
        let weekday = date.weekday().to_sunday_zero_offset();
        let place = ((date.day() - 1) / 7).unsigned_abs();
        has(self.set, weekday)
            || has(self.last, weekday) && date.day() + 7 > date.days_in_month()
            || self.nth.get(usize::from(place)).is_some_and(|nth| has(*nth, weekday))
    }
}

fn has(bits: u64, number: i8) -> bool {
    bits & (1 << number) != 0
}

/// The first bit at or after a place.
fn next_bit(bits: u64, from: u8) -> Option<u8> {
    let rest = bits.checked_shr(u32::from(from)).filter(|rest| *rest != 0)?;
    u8::try_from(rest.trailing_zeros()).ok().map(|zeros| from + zeros)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(pattern: &str, from: &str, count: usize) -> Vec<String> {
        let parsed = match pattern.strip_prefix("cron(").and_then(|rest| rest.strip_suffix(')')) {
            Some(inner) => Cron::parse_aws(inner),
            None => Cron::parse_line(pattern),
        };
        let cron = parsed.unwrap_or_else(|error| panic!("{pattern}: {error}"));
        let mut from: DateTime = from.parse().unwrap();
        let mut found = Vec::new();
        while found.len() < count {
            let Some(at) = cron.next(from) else { break };
            found.push(at.to_string());
            from = at.saturating_add(jiff::ToSpan::seconds(1));
        }
        found
    }

    #[test]
    fn patterns_name_their_times() {
        for (pattern, from, expected) in [
            ("* * * * *", "2026-11-27T10:00:01", &["2026-11-27T10:01:00", "2026-11-27T10:02:00"][..]),
            ("*/20 9-10 * * *", "2026-11-27T09:50:00", &["2026-11-27T10:00:00", "2026-11-27T10:20:00"]),
            ("15,45 23 31 12 *", "2026-01-01T00:00:00", &["2026-12-31T23:15:00", "2026-12-31T23:45:00"]),
            ("30 0 12 * * *", "2026-11-27T12:00:30", &["2026-11-27T12:00:30", "2026-11-28T12:00:30"]),
            ("*/25 * * * * *", "2026-11-27T23:59:51", &["2026-11-28T00:00:00", "2026-11-28T00:00:25"]),
            ("0 0 * * MON-FRI", "2026-11-27T00:00:01", &["2026-11-30T00:00:00", "2026-12-01T00:00:00"]),
            ("0 0 * * 5-7", "2026-11-28T12:00:00", &["2026-11-29T00:00:00", "2026-12-04T00:00:00"]),
            ("0 0 * * 0,7", "2026-11-27T00:00:00", &["2026-11-29T00:00:00", "2026-12-06T00:00:00"]),
            ("0 0 29 2 *", "2026-11-27T00:00:00", &["2028-02-29T00:00:00", "2032-02-29T00:00:00"]),
            // Either day will do.
            ("0 0 1 * mon", "2026-11-27T00:00:00", &["2026-11-30T00:00:00", "2026-12-01T00:00:00"]),
            ("0 0 L * *", "2027-02-01T00:00:00", &["2027-02-28T00:00:00", "2027-03-31T00:00:00"]),
            ("0 0 LW * *", "2026-02-01T00:00:00", &["2026-02-27T00:00:00", "2026-03-31T00:00:00"]),
            // The first of August 2026 is a Saturday, the 15th too.
            ("0 0 1W,15W 8 *", "2026-08-01T00:00:00", &["2026-08-03T00:00:00", "2026-08-14T00:00:00"]),
            // The 31st of May 2026 is a Sunday. A month without this day has no firing.
            ("0 0 31W * *", "2026-05-01T00:00:00", &["2026-05-29T00:00:00", "2026-07-31T00:00:00"]),
            ("0 0 * * FRI#5", "2026-11-01T00:00:00", &["2027-01-29T00:00:00", "2027-04-30T00:00:00"]),
            ("0 0 * * 5L", "2026-11-01T00:00:00", &["2026-11-27T00:00:00", "2026-12-25T00:00:00"]),
            ("10/20 * * * *", "2026-11-27T10:11:00", &["2026-11-27T10:30:00", "2026-11-27T10:50:00"]),
            ("cron(0 12 ? * 2 *)", "2026-11-27T00:00:00", &["2026-11-30T12:00:00", "2026-12-07T12:00:00"]),
            (
                "cron(15 10 1 JAN,JUL ? 2027-2028)",
                "2026-11-27T00:00:00",
                &["2027-01-01T10:15:00", "2027-07-01T10:15:00"],
            ),
            ("cron(0 0 1 1 ? 2027)", "2026-11-27T00:00:00", &["2027-01-01T00:00:00"]),
            ("0 0 30 2 *", "2026-11-27T00:00:00", &[]),
            ("cron(0 0 1 1 ? 2001)", "2026-11-27T00:00:00", &[]),
        ] {
            assert_eq!(next(pattern, from, 2), expected, "{pattern}");
        }
    }

    #[test]
    fn what_is_no_pattern_is_told() {
        for (pattern, told) in [
            ("", "it has 0 fields; a cron line has five"),
            ("* * * *", "it has 4 fields"),
            ("* * * * * * *", "it has 7 fields"),
            ("60 * * * *", "the field 'minute' has '60'; expected a number from 0 to 59, a range"),
            ("* 24 * * *", "the field 'hour' has '24'"),
            ("* * 0 * *", "the field 'day of month' has '0'; expected a number from 1 to 31"),
            (
                "* * * 13 *",
                "the field 'month' has '13'; expected a number from 1 to 12 or a word from JAN to DEC",
            ),
            ("* * * * 8", "the field 'day of week' has '8'"),
            ("* * * * MO", "the field 'day of week' has 'MO'"),
            ("9-5 * * * *", "the field 'minute' has '9-5'"),
            ("*/0 * * * *", "the field 'minute' has '*/0'"),
            ("1,,2 * * * *", "the field 'minute' has ''"),
            ("* * * * MON#6", "expected a number from 1 to 5 after '#'"),
            ("+1 * * * *", "the field 'minute' has '+1'"),
        ] {
            let error = Cron::parse_line(pattern).unwrap_err().to_string();
            assert!(error.contains(told), "{pattern}: {error}");
        }
        for (pattern, told) in [
            ("0 12 * * ?", "cron(…) has six"),
            ("0 12 * * * *", "must be '?'"),
            ("0 12 ? * ? *", "must be '?'"),
            ("0 12 ? * 0 *", "the field 'day of week' has '0'"),
            ("0 12 * * ? 2200", "the field 'year' has '2200'"),
        ] {
            let error = Cron::parse_aws(pattern).unwrap_err().to_string();
            assert!(error.contains(told), "{pattern}: {error}");
        }
    }
}
