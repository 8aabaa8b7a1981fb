//! The deadlines of the near future, in memory. The store's `wake_at` is the truth; here is what of it falls due
//! before the horizon, so that an idle coordinator asks the store only once per horizon.

use std::{cmp::Reverse, collections::BinaryHeap};

use stagepost_protocol::{ExecutionId, Timestamp};

/// A heap that may hold outdated and repeated entries: who takes one checks it against the execution.
pub(crate) struct Wakes {
    heap: BinaryHeap<Reverse<(Timestamp, ExecutionId)>>,
    /// Everything in the store up to here is in the heap.
    horizon: Timestamp,
}

impl Wakes {
    pub(crate) fn new() -> Wakes {
        Wakes { heap: BinaryHeap::new(), horizon: Timestamp::from_millis(0) }
    }

    /// Remembers a wake-up, if it falls before the horizon; else it will be loaded from the store.
    pub(crate) fn push(&mut self, at: Timestamp, id: ExecutionId) {
        if at <= self.horizon {
            self.heap.push(Reverse((at, id)));
        }
    }

    /// Takes the next wake-up that is due.
    pub(crate) fn pop_due(&mut self, now: Timestamp) -> Option<ExecutionId> {
        match self.heap.peek() {
            Some(Reverse((at, _))) if *at <= now => self.heap.pop().map(|Reverse((_, id))| id),
            _ => None,
        }
    }

    /// When to look again: the next wake-up, or the horizon, where the next ones are loaded. A little before it, so
    /// that nothing is late.
    pub(crate) fn next(&self) -> Timestamp {
        let ahead = self.horizon.plus_millis(-LOAD_AHEAD_MILLIS);
        self.heap.peek().map_or(ahead, |Reverse((at, _))| (*at).min(ahead))
    }

    /// Whether the store must be asked for more.
    pub(crate) fn wants_load(&self, now: Timestamp) -> bool {
        now >= self.horizon.plus_millis(-LOAD_AHEAD_MILLIS)
    }

    /// How far the heap reaches.
    pub(crate) fn horizon(&self) -> Timestamp {
        self.horizon
    }

    /// Takes what was loaded up to `horizon`.
    pub(crate) fn loaded(&mut self, rows: Vec<(Timestamp, ExecutionId)>, horizon: Timestamp) {
        self.heap.extend(rows.into_iter().map(Reverse));
        self.horizon = horizon;
    }

    /// Forgets everything; the next load begins anew.
    pub(crate) fn clear(&mut self) {
        *self = Wakes::new();
    }
}

/// So long before the horizon the next stretch is loaded.
const LOAD_AHEAD_MILLIS: i64 = 2_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_falls_before_the_horizon_is_kept() {
        let t = Timestamp::from_millis;
        let id = |n| ExecutionId::from_bytes([n; 16]);
        let mut wakes = Wakes::new();
        assert!(wakes.wants_load(t(0)));
        wakes.loaded(vec![(t(500), id(1))], t(60_000));
        wakes.push(t(61_000), id(2));
        wakes.push(t(400), id(3));
        assert_eq!(wakes.next(), t(400));
        assert_eq!((wakes.pop_due(t(399)), wakes.pop_due(t(450)), wakes.pop_due(t(450))), (None, Some(id(3)), None));
        assert_eq!(wakes.pop_due(t(500)), Some(id(1)));
        assert_eq!(wakes.next(), t(58_000));
        assert!(!wakes.wants_load(t(57_999)) && wakes.wants_load(t(58_000)));
    }
}
