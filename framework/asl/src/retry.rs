//! Which retrier or catcher applies, and how long a retry waits.

use stagepost_protocol::error_names;

use crate::model::{Catcher, ErrorHandling, Retrier};

/// No retry waits longer than this, in seconds: the largest number that the service takes anywhere. Without
/// it a backoff rate of 10 passes every calendar after a few dozen attempts.
const DELAY_SECONDS_MAX: f64 = 99_999_999.0;

/// What a failure leads to.
#[derive(Debug, Clone, Copy)]
pub enum Handling<'a> {
    /// Try again after `delay_seconds`; counts as one more use of the retrier at `retrier`.
    Retry {
        /// Its place in `Retry`.
        retrier: usize,
        /// From now.
        delay_seconds: f64,
    },
    /// Go on where the catcher says.
    Catch(&'a Catcher),
    /// The scope fails.
    Fail,
}

/// Whether `ErrorEquals` holds this error: the wildcards of the specification, and what the service excepts
/// from them (`States.ALL` does not match `States.Runtime`; `States.TaskFailed` matches all but this and
/// `States.Timeout`). The developer guide excepts `States.DataLimitExceeded` from `States.ALL` as well; the service was
/// recorded to catch it, and so do we. A missed heartbeat is a kind of timeout: `States.Timeout` matches
/// `States.HeartbeatTimeout` too, and `States.TaskFailed` does not.
pub fn error_matches(error_equals: &[String], error: &str) -> bool {
    let terminal = error == error_names::RUNTIME;
    error_equals.iter().any(|pattern| match pattern.as_str() {
        name if name == error => true,
        error_names::ALL => !terminal,
        error_names::TASK_FAILED => {
            !terminal && error != error_names::TIMEOUT && error != error_names::HEARTBEAT_TIMEOUT
        }
        error_names::TIMEOUT => error == error_names::HEARTBEAT_TIMEOUT,
        _ => false,
    })
}

/// What follows `error` when the retriers have been used `used` times each (missing entries: never).
/// `random` is uniform in `0.0..1.0`, for full jitter.
///
/// Only the first retrier that matches counts: when it is used up, the catchers are next, even where a later
/// retrier would match as well (developer guide, "Retry and Catch examples").
pub fn handle<'a>(errors: &'a ErrorHandling, error: &str, used: &[u32], random: f64) -> Handling<'a> {
    let matching = errors.retry.iter().enumerate().find(|(_, r)| error_matches(&r.error_equals, error));
    if let Some((retrier, rule)) = matching {
        let n = used.get(retrier).copied().unwrap_or(0);
        if u64::from(n) < rule.max_attempts {
            return Handling::Retry { retrier, delay_seconds: delay_seconds(rule, n, random) };
        }
    }
    match errors.catch.iter().find(|c| error_matches(&c.error_equals, error)) {
        Some(catcher) => Handling::Catch(catcher),
        None => Handling::Fail,
    }
}

/// How long the `n`-th retry (from 0) of a retrier waits, in seconds.
pub fn delay_seconds(retrier: &Retrier, n: u32, random: f64) -> f64 {
    let max = retrier.max_delay_seconds.map_or(DELAY_SECONDS_MAX, |s| (s as f64).min(DELAY_SECONDS_MAX));
    let delay = (retrier.interval_seconds as f64 * retrier.backoff_rate.powf(f64::from(n))).min(max);
    if retrier.full_jitter { delay * random } else { delay }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ResultPath, StateIndex};

    fn retrier(error: &str, max_attempts: u64) -> Retrier {
        Retrier {
            error_equals: vec![error.to_owned()],
            interval_seconds: 2,
            max_attempts,
            backoff_rate: 3.0,
            max_delay_seconds: None,
            full_jitter: false,
        }
    }

    #[test]
    fn wildcards_match_as_the_service_says() {
        let rows = [
            ("A", "A", true),
            ("A", "B", false),
            ("a", "A", false),
            ("States.ALL", "A", true),
            ("States.ALL", "States.Timeout", true),
            ("States.ALL", "States.HeartbeatTimeout", true),
            ("States.ALL", "States.TaskFailed", true),
            ("States.ALL", "States.NoChoiceMatched", true),
            ("States.ALL", "States.Runtime", false),
            ("States.ALL", "States.DataLimitExceeded", true),
            ("States.Runtime", "States.Runtime", true),
            ("States.DataLimitExceeded", "States.DataLimitExceeded", true),
            ("States.TaskFailed", "A", true),
            ("States.TaskFailed", "Lambda.Unknown", true),
            ("States.TaskFailed", "States.Permissions", true),
            ("States.TaskFailed", "States.Timeout", false),
            ("States.TaskFailed", "States.HeartbeatTimeout", false),
            ("States.TaskFailed", "States.Runtime", false),
            ("States.Timeout", "States.HeartbeatTimeout", true),
            ("States.HeartbeatTimeout", "States.Timeout", false),
            ("States.HeartbeatTimeout", "States.HeartbeatTimeout", true),
        ];
        for (pattern, error, expected) in rows {
            assert_eq!(error_matches(&[pattern.to_owned()], error), expected, "{pattern} over {error}");
        }
        assert!(error_matches(&["A".to_owned(), "B".to_owned()], "B"));
        assert!(!error_matches(&[], "A"));
    }

    #[test]
    fn delays_back_off_and_stay_within_their_limits() {
        let plain = retrier("A", 9);
        assert_eq!([0, 1, 2].map(|n| delay_seconds(&plain, n, 0.5)), [2.0, 6.0, 18.0]);
        let capped = Retrier { max_delay_seconds: Some(10), ..plain.clone() };
        assert_eq!([0, 1, 2].map(|n| delay_seconds(&capped, n, 0.5)), [2.0, 6.0, 10.0]);
        let jittered = Retrier { full_jitter: true, ..capped };
        assert_eq!([0, 1, 2].map(|n| delay_seconds(&jittered, n, 0.5)), [1.0, 3.0, 5.0]);
        assert_eq!(delay_seconds(&jittered, 2, 0.0), 0.0);
        let endless = Retrier { backoff_rate: 1e300, ..plain };
        assert_eq!(delay_seconds(&endless, u32::MAX, 0.5), DELAY_SECONDS_MAX);
    }

    #[test]
    fn only_the_first_matching_retrier_counts_and_catch_follows_it() {
        let errors = ErrorHandling {
            retry: vec![retrier("A", 2), retrier("B", 1), retrier("Never", 0), retrier("States.ALL", 5)],
            catch: vec![Catcher {
                error_equals: vec!["States.TaskFailed".to_owned()],
                next: StateIndex(7),
                result_path: ResultPath::Replace,
                output: None,
                assign: None,
            }],
        };
        let shown = |error: &str, used: &[u32]| match handle(&errors, error, used, 0.5) {
            Handling::Retry { retrier, delay_seconds } => format!("retry {retrier} {delay_seconds}"),
            Handling::Catch(catcher) => format!("catch {}", catcher.next.0),
            Handling::Fail => "fail".to_owned(),
        };
        assert_eq!(shown("A", &[]), "retry 0 2");
        assert_eq!(shown("A", &[1, 1]), "retry 0 6");
        assert_eq!(shown("A", &[2]), "catch 7");
        assert_eq!(shown("B", &[2]), "retry 1 2");
        assert_eq!(shown("Never", &[]), "catch 7");
        assert_eq!(shown("C", &[2, 1, 0, 1]), "retry 3 6");
        assert_eq!(shown("States.Timeout", &[0, 0, 0, 5]), "fail");
        assert_eq!(shown("States.Runtime", &[]), "fail");
    }
}
