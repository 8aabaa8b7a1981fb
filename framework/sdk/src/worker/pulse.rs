//! Notices that the worker stood still: it was stopped, or its machine slept. What it was delivered before may have
//! been given to others since, so it asks for that before it begins it.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// For so long after it stood still a worker does not trust what it is delivered: it takes that long at most until all
/// that had come to its machine has come to it.
const SETTLES_WITHIN: Duration = Duration::from_secs(5);

/// Whether the worker stood still lately.
pub(super) struct Pulse {
    /// A worker that shows no sign of life for so long stood still.
    still: Duration,
    state: Mutex<State>,
}

struct State {
    last: Instant,
    trusts_from: Instant,
}

impl Pulse {
    /// `still`: well below the lease, after which others may be given what the worker has.
    pub(super) fn new(still: Duration) -> Pulse {
        let now = Instant::now();
        Pulse { still, state: Mutex::new(State { last: now, trusts_from: now }) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The worker is there. To be called much more often than it may stand still.
    pub(super) fn beat(&self) {
        drop(self.note(Instant::now()));
    }

    /// Whether what is delivered now may have come long ago.
    pub(super) fn stood_still(&self) -> bool {
        let now = Instant::now();
        self.note(now).trusts_from > now
    }

    fn note(&self, now: Instant) -> MutexGuard<'_, State> {
        let mut state = self.lock();
        if now.saturating_duration_since(state.last) >= self.still {
            state.trusts_from = now + SETTLES_WITHIN;
        }
        state.last = state.last.max(now);
        state
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_pause_is_noticed_by_whoever_looks_first_and_forgotten_after_a_while() {
        let pulse = Pulse::new(Duration::from_secs(10));
        let pass = |millis| tokio::time::advance(Duration::from_millis(millis));
        for _ in 0..200 {
            pass(100).await;
            pulse.beat();
            assert!(!pulse.stood_still());
        }
        pass(10_000).await;
        assert!(pulse.stood_still(), "before any beat");
        pass(20_000).await;
        pulse.beat();
        pass(4_999).await;
        assert!(pulse.stood_still(), "after a beat");
        pulse.beat();
        pass(1).await;
        assert!(!pulse.stood_still());
    }
}
