//! What a schedule is told to do.

use serde::{Deserialize, Serialize};
use stagepost_protocol::{Payload, StateMachineArn, Timestamp, limits};

use crate::times::{Times, TimesError};

/// Longest name of a schedule, in characters: with the time of a firing it makes the name of an execution.
pub(crate) const NAME_CHARS_MAX: usize = 60;
/// The furthest that jitter moves a firing: a day.
pub(crate) const JITTER_SECONDS_MAX: u32 = 24 * 3_600;
/// The longest that a missed firing is made up for: a year.
pub(crate) const CATCH_UP_SECONDS_MAX: u32 = 366 * 24 * 3_600;

/// What happens when the execution of an earlier firing still runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Overlap {
    /// Another one is started.
    #[default]
    AllowAll,
    /// The firing is left out.
    Skip,
    /// It starts when the earlier one has ended. One firing waits; those that come meanwhile are left out.
    BufferOne,
    /// The earlier one is stopped, and another one is started.
    CancelOther,
}

impl Overlap {
    /// All of them.
    pub const ALL: [Overlap; 4] =
        [Overlap::AllowAll, Overlap::Skip, Overlap::BufferOne, Overlap::CancelOther];

    /// As the API spells it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Overlap::AllowAll => "ALLOW_ALL",
            Overlap::Skip => "SKIP",
            Overlap::BufferOne => "BUFFER_ONE",
            Overlap::CancelOther => "CANCEL_OTHER",
        }
    }

    /// Reads what [`Overlap::as_str`] wrote.
    pub fn parse(text: &str) -> Option<Overlap> {
        Overlap::ALL.into_iter().find(|overlap| overlap.as_str() == text)
    }
}

/// What the owner of a schedule decides.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Settings {
    /// When it fires; see [`Times`].
    pub expression: String,
    /// Where the expression's local times are.
    pub time_zone: String,
    /// What it starts.
    pub state_machine: StateMachineArn,
    /// The executions' input; see [`Settings::input_of`].
    pub input: Payload,
    /// When the execution before still runs.
    pub overlap: Overlap,
    /// Each firing is moved by up to so many seconds, always the same for the same firing.
    pub jitter_seconds: u32,
    /// A firing that could not happen in time is made up for so long.
    pub catch_up_seconds: u32,
    /// Nothing fires before.
    pub starts_at: Option<Timestamp>,
    /// Nothing fires after.
    pub ends_at: Option<Timestamp>,
}

/// Why settings are no good.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// The expression or the time zone.
    #[error(transparent)]
    Times(#[from] TimesError),
    /// The name.
    #[error("'{0}' is no name of a schedule: it has 1 to {NAME_CHARS_MAX} letters, digits, '-', '_' and '.'")]
    Name(String),
    /// The jitter.
    #[error("a jitter of {0} seconds is too much: at most {JITTER_SECONDS_MAX}")]
    Jitter(u32),
    /// The catch-up window.
    #[error("a catch-up window of {0} seconds is too long: at most {CATCH_UP_SECONDS_MAX}")]
    CatchUp(u32),
    /// The end is before the start.
    #[error("it ends at {ends_at}, before it starts at {starts_at}")]
    Order {
        /// When it starts.
        starts_at: Timestamp,
        /// When it ends.
        ends_at: Timestamp,
    },
    /// There is no time at which it fires.
    #[error("'{0}' never fires from now on, or not between start and end")]
    Never(String),
    /// With the scheduled time in it, the input is too large.
    #[error("with what its placeholders stand for, the input has {0} bytes, more than {max}", max = limits::PAYLOAD_BYTES_MAX)]
    Input(usize),
}

/// Checks the name of a schedule.
pub(crate) fn check_name(name: &str) -> Result<(), SettingsError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let fits = !name.is_empty() && name.len() <= NAME_CHARS_MAX && name.chars().all(plain);
    if fits { Ok(()) } else { Err(SettingsError::Name(name.chars().take(NAME_CHARS_MAX + 1).collect())) }
}

impl Settings {
    /// When it fires.
    pub fn times(&self) -> Result<Times, TimesError> {
        Times::parse(&self.expression, &self.time_zone, self.starts_at)
    }

    /// The first time after this one, between start and end.
    pub fn next_after(&self, times: &Times, after: Timestamp) -> Option<Timestamp> {
        // The start itself is a time at which it may fire.
        let after = self.starts_at.map_or(after, |start| after.max(start.plus_millis(-1)));
        times.next_after(after).filter(|at| self.ends_at.is_none_or(|end| *at <= end))
    }

    /// Checks them for a schedule of this name. Gives its times.
    pub fn check(&self, name: &str, now: Timestamp) -> Result<Times, SettingsError> {
        check_name(name)?;
        if self.jitter_seconds > JITTER_SECONDS_MAX {
            return Err(SettingsError::Jitter(self.jitter_seconds));
        }
        if self.catch_up_seconds > CATCH_UP_SECONDS_MAX {
            return Err(SettingsError::CatchUp(self.catch_up_seconds));
        }
        if let (Some(starts_at), Some(ends_at)) = (self.starts_at, self.ends_at)
            && ends_at < starts_at
        {
            return Err(SettingsError::Order { starts_at, ends_at });
        }
        let times = self.times()?;
        if self.next_after(&times, now).is_none() {
            return Err(SettingsError::Never(self.expression.clone()));
        }
        match self.input_of(name, now).len() {
            bytes if bytes > limits::PAYLOAD_BYTES_MAX => Err(SettingsError::Input(bytes)),
            _ => Ok(times),
        }
    }

    /// The input of the execution that a firing starts. EventBridge Scheduler's placeholders stand in it for the time that
    /// it was meant for, the execution's name and the schedule.
    pub fn input_of(&self, name: &str, scheduled: Timestamp) -> Payload {
        let text = self.input.as_str();
        if !text.contains("<aws.scheduler.") {
            return self.input.clone();
        }
        let namespace = &self.state_machine.namespace;
        let arn =
            format!("arn:aws:scheduler:{}:{}:schedule/default/{name}", namespace.region, namespace.account);
        let text = text
            .replace("<aws.scheduler.scheduled-time>", &seconds(scheduled))
            .replace("<aws.scheduler.execution-id>", &execution_name(name, scheduled))
            .replace("<aws.scheduler.schedule-arn>", &arn);
        // What is put in needs no escape, so the text stays JSON.
        Payload::parse(&text).unwrap_or_else(|_| self.input.clone())
    }

    /// How far jitter moves a firing.
    pub(crate) fn jitter_millis(&self, name: &str, scheduled: Timestamp) -> i64 {
        use sha2::{Digest, Sha256};
        if self.jitter_seconds == 0 {
            return 0;
        }
        let digest = Sha256::digest(format!("{}/{name}/{}", self.state_machine, scheduled.as_millis()));
        let mut number = [0; 8];
        number.copy_from_slice(&digest[..8]);
        (u64::from_be_bytes(number) % (u64::from(self.jitter_seconds) * 1_000 + 1)) as i64
    }
}

/// `2026-11-27T09:00:00Z`.
fn seconds(time: Timestamp) -> String {
    let text = time.to_string();
    match text.split_once('.') {
        Some((seconds, _)) => format!("{seconds}Z"),
        None => text,
    }
}

/// The name of the execution that a firing starts: `NAME-20261127T090000Z`.
pub(crate) fn execution_name(name: &str, scheduled: Timestamp) -> String {
    format!("{name}-{}", seconds(scheduled).replace(['-', ':'], ""))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn settings(expression: &str) -> Settings {
        Settings {
            expression: expression.to_owned(),
            time_zone: "UTC".to_owned(),
            state_machine: "arn:aws:states:us-east-1:000000000000:stateMachine:report".parse().unwrap(),
            input: Payload::empty_object(),
            overlap: Overlap::AllowAll,
            jitter_seconds: 0,
            catch_up_seconds: 3_600,
            starts_at: None,
            ends_at: None,
        }
    }

    #[test]
    fn settings_that_are_no_good_are_told() {
        let now = Timestamp::parse_rfc3339("2026-11-27T00:00:00Z").unwrap();
        let good = settings("0 9 * * *");
        assert!(good.check("daily-report_1.0", now).is_ok());
        let check = |change: &dyn Fn(&mut Settings)| {
            let mut settings = good.clone();
            change(&mut settings);
            settings.check("n", now).map(|_| ()).unwrap_err().to_string()
        };
        for (told, error) in [
            ("is no time zone", check(&|s| s.time_zone = "Mars/Olympus".into())),
            ("a jitter of 86401 seconds", check(&|s| s.jitter_seconds = 86_401)),
            ("catch-up window", check(&|s| s.catch_up_seconds = u32::MAX)),
            ("never fires", check(&|s| s.expression = "0 0 30 2 *".into())),
            ("never fires", check(&|s| s.ends_at = Some(now))),
            (
                "before it starts",
                check(&|s| (s.starts_at, s.ends_at) = (Some(now), Some(now.plus_millis(-1)))),
            ),
            (
                "the input has",
                check(&|s| {
                    let text = "<aws.scheduler.schedule-arn>".repeat(9_000);
                    s.input = Payload::from_value(&text.into());
                }),
            ),
        ] {
            assert!(error.contains(told), "{told}: {error}");
        }
        for name in ["", "a b", "ä", &"x".repeat(61)] {
            assert!(matches!(good.check(name, now), Err(SettingsError::Name(_))), "{name}");
        }
    }

    #[test]
    fn an_input_says_what_fired() {
        let mut settings = settings("0 9 * * *");
        let at = Timestamp::parse_rfc3339("2026-11-27T09:00:00Z").unwrap();
        let input = r#"{"at": "<aws.scheduler.scheduled-time>", "who": "<aws.scheduler.schedule-arn>", "id": "<aws.scheduler.execution-id>"}"#;
        settings.input = Payload::parse(input).unwrap();
        let expected = r#"{"at": "2026-11-27T09:00:00Z", "who": "arn:aws:scheduler:us-east-1:000000000000:schedule/default/daily", "id": "daily-20261127T090000Z"}"#;
        assert_eq!(settings.input_of("daily", at).as_str(), expected);
        assert_eq!(execution_name(&"x".repeat(60), at).len(), 77);
    }

    #[test]
    fn jitter_spreads_schedules_evenly_and_always_alike() {
        let mut settings = settings("0 * * * *");
        settings.jitter_seconds = 60;
        let at = Timestamp::from_millis(1_800_000_000_000);
        let jitter = |n: u32| settings.jitter_millis(&format!("s-{n}"), at);
        let all: Vec<i64> = (0..6_000).map(jitter).collect();
        assert_eq!(jitter(17), all[17]);
        assert!(all.iter().all(|millis| (0..=60_000).contains(millis)));
        for second in 0..60 {
            let here = all.iter().filter(|millis| **millis / 1_000 == second).count();
            assert!((50..=150).contains(&here), "{here} of 6,000 in second {second}");
        }
        assert_ne!(settings.jitter_millis("s", at), settings.jitter_millis("s", at.plus_millis(3_600_000)));
    }

    #[test]
    fn nothing_fires_before_the_start_or_after_the_end() {
        let at = |text: &str| Timestamp::parse_rfc3339(text).unwrap();
        let mut settings = settings("0 * * * *");
        settings.starts_at = Some(at("2026-11-27T09:00:00Z"));
        settings.ends_at = Some(at("2026-11-27T10:00:00Z"));
        let times = settings.times().unwrap();
        let next = |after: &str| settings.next_after(&times, at(after));
        assert_eq!(next("2020-01-01T00:00:00Z"), settings.starts_at);
        assert_eq!(next("2026-11-27T09:00:00Z"), settings.ends_at);
        assert_eq!(next("2026-11-27T10:00:00Z"), None);
    }
}
