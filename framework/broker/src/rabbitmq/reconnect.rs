//! How long to wait before the next attempt. The only place that knows the `backoff` crate.

use std::time::Duration;

use backoff::backoff::Backoff as _;
use backoff::{ExponentialBackoff, ExponentialBackoffBuilder};

/// The first wait, before jitter.
const FIRST: Duration = Duration::from_millis(100);
/// The longest wait before jitter; with it, about 5 s.
const LONGEST: Duration = Duration::from_millis(3500);
/// Waits vary by this fraction up and down, so that many clients do not come back at the same moment.
const JITTER: f64 = 0.4;

/// Growing, jittered waits without an end.
pub(super) struct Backoff(ExponentialBackoff);

impl Backoff {
    pub(super) fn new() -> Backoff {
        let backoff = ExponentialBackoffBuilder::new()
            .with_initial_interval(FIRST)
            .with_max_interval(LONGEST)
            .with_multiplier(2.0)
            .with_randomization_factor(JITTER)
            .with_max_elapsed_time(None)
            .build();
        Backoff(backoff)
    }

    /// The next wait.
    pub(super) fn next(&mut self) -> Duration {
        self.0.next_backoff().unwrap_or(LONGEST)
    }

    /// Waits.
    pub(super) async fn wait(&mut self) {
        tokio::time::sleep(self.next()).await;
    }

    /// Begins again with short waits.
    pub(super) fn reset(&mut self) {
        self.0.reset();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_about_five_seconds_and_start_again() {
        let mut backoff = Backoff::new();
        assert!(backoff.next() < Duration::from_millis(150));
        let waits: Vec<Duration> = (0..50).map(|_| backoff.next()).collect();
        assert!(waits.iter().all(|wait| *wait <= Duration::from_secs(5)));
        assert!(waits[40..].iter().all(|wait| *wait >= Duration::from_secs(2)));
        backoff.reset();
        assert!(backoff.next() < Duration::from_millis(150));
    }
}
