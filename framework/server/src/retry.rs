//! How long to wait before the next try of something that will work again by itself. The only place of this crate
//! that knows the `backoff` crate.

use std::time::Duration;

use backoff::{ExponentialBackoff, ExponentialBackoffBuilder, backoff::Backoff as _};

/// The longest wait, before jitter.
const LONGEST: Duration = Duration::from_secs(4);

/// Growing, jittered waits without an end: from about 0.1 s to about 5 s.
pub(crate) struct Waits(ExponentialBackoff);

impl Waits {
    pub(crate) fn new() -> Waits {
        let backoff = ExponentialBackoffBuilder::new()
            .with_initial_interval(Duration::from_millis(100))
            .with_max_interval(LONGEST)
            .with_multiplier(2.0)
            .with_randomization_factor(0.3)
            .with_max_elapsed_time(None)
            .build();
        Waits(backoff)
    }

    /// The next wait.
    pub(crate) fn next(&mut self) -> Duration {
        self.0.next_backoff().unwrap_or(LONGEST)
    }

    /// Begins again with short waits.
    pub(crate) fn reset(&mut self) {
        self.0.reset();
    }
}
