//! Which retrier or catcher applies, and how long a retry waits.

use crate::model::{Catcher, ErrorHandling, Retrier};

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
/// from them (`States.ALL` does not match `States.DataLimitExceeded` nor `States.Runtime`; `States.TaskFailed` matches
/// all but `States.Timeout`).
pub fn error_matches(error_equals: &[String], error: &str) -> bool {
    let _ = (error_equals, error);
    unimplemented!()
}

/// What follows `error` when the retriers have been used `used` times each (missing entries: never).
/// `random` is uniform in `0.0..1.0`, for full jitter.
pub fn handle<'a>(errors: &'a ErrorHandling, error: &str, used: &[u32], random: f64) -> Handling<'a> {
    let _ = (errors, error, used, random);
    unimplemented!()
}

/// How long the `n`-th retry (from 0) of a retrier waits, in seconds.
pub fn delay_seconds(retrier: &Retrier, n: u32, random: f64) -> f64 {
    let _ = (retrier, n, random);
    unimplemented!()
}
