//! The deadlines of the near future, in memory. The store's `wake_at` is the truth; here is what of it falls due
//! before the horizon, so that an idle coordinator asks the store only once per horizon.

use std::collections::BTreeSet;

use stagepost_protocol::{ExecutionId, Timestamp};

/// What falls due before the horizon.
pub(crate) struct Wakes {
    by_time: BTreeSet<(Timestamp, ExecutionId)>,
    /// Everything in the store up to here is in the set.
    horizon: Timestamp,
}

/// More than so many wake-ups are not kept; the later half is loaded again when its time comes.
const KEPT_MAX: usize = 100_000;
/// So long before the horizon the next stretch is loaded.
const LOAD_AHEAD_MILLIS: i64 = 2_000;

impl Wakes {
    pub(crate) fn new() -> Wakes {
        Wakes { by_time: BTreeSet::new(), horizon: Timestamp::from_millis(0) }
    }

    /// Follows a wake-up of the store from one time to another. What falls behind the horizon will be loaded.
    pub(crate) fn moved(&mut self, id: ExecutionId, from: Option<Timestamp>, to: Option<Timestamp>) {
        if let Some(from) = from {
            self.by_time.remove(&(from, id));
        }
        if let Some(to) = to.filter(|to| *to <= self.horizon) {
            self.by_time.insert((to, id));
        }
        if self.by_time.len() > KEPT_MAX {
            self.forget_later_half();
        }
    }

    fn forget_later_half(&mut self) {
        let Some(middle) = self.by_time.iter().nth(self.by_time.len() / 2).copied() else { return };
        // Everything at the middle's time goes, so that all of what is before it is there.
        self.by_time.split_off(&(middle.0, ExecutionId::from_bytes([0; 16])));
        self.horizon = middle.0.plus_millis(-1);
    }

    /// Takes the next wake-up that is due.
    pub(crate) fn pop_due(&mut self, now: Timestamp) -> Option<ExecutionId> {
        if self.by_time.first()?.0 > now {
            return None;
        }
        self.by_time.pop_first().map(|(_, id)| id)
    }

    /// When to look again: at the next wake-up, or when the store must be asked for more.
    pub(crate) fn next(&self) -> Timestamp {
        let load = self.horizon.plus_millis(-LOAD_AHEAD_MILLIS);
        self.by_time.first().map_or(load, |(at, _)| (*at).min(load))
    }

    /// Whether the store must be asked for more. Not while something is due: that comes first, and goes from the
    /// store when it is done.
    pub(crate) fn wants_load(&self, now: Timestamp) -> bool {
        now >= self.horizon.plus_millis(-LOAD_AHEAD_MILLIS)
            && self.by_time.first().is_none_or(|(at, _)| *at > now)
    }

    /// Takes what was loaded up to `horizon`.
    pub(crate) fn loaded(&mut self, rows: Vec<(Timestamp, ExecutionId)>, horizon: Timestamp) {
        self.by_time.extend(rows);
        self.horizon = self.horizon.max(horizon);
    }

    /// Forgets everything; the next load begins anew.
    pub(crate) fn clear(&mut self) {
        *self = Wakes::new();
    }
}

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
        wakes.moved(id(2), None, Some(t(61_000)));
        wakes.moved(id(3), None, Some(t(300)));
        wakes.moved(id(3), Some(t(300)), Some(t(400)));
        assert_eq!(wakes.next(), t(400));
        assert_eq!(
            (wakes.pop_due(t(399)), wakes.pop_due(t(450)), wakes.pop_due(t(450))),
            (None, Some(id(3)), None)
        );
        assert_eq!(wakes.pop_due(t(500)), Some(id(1)));
        assert_eq!(wakes.next(), t(58_000));
        assert!(!wakes.wants_load(t(57_999)) && wakes.wants_load(t(58_000)));
    }

    #[test]
    fn what_is_due_comes_before_another_load() {
        let t = Timestamp::from_millis;
        let mut wakes = Wakes::new();
        wakes.loaded(vec![(t(10), ExecutionId::from_bytes([1; 16]))], t(10));
        assert!(!wakes.wants_load(t(20)));
        assert!(wakes.pop_due(t(20)).is_some());
        assert!(wakes.wants_load(t(20)));
    }

    #[test]
    fn what_is_too_much_to_keep_is_loaded_again_later() {
        let t = Timestamp::from_millis;
        let mut wakes = Wakes::new();
        wakes.loaded(Vec::new(), t(10_000_000));
        for n in 0..=KEPT_MAX as u64 {
            let mut id = [0; 16];
            id[8..].copy_from_slice(&n.to_be_bytes());
            wakes.moved(ExecutionId::from_bytes(id), None, Some(t(n as i64)));
        }
        let (kept, horizon) = (wakes.by_time.len(), wakes.horizon);
        assert_eq!((kept, horizon), (KEPT_MAX / 2, t(KEPT_MAX as i64 / 2 - 1)));
        assert!(wakes.by_time.last().is_some_and(|(at, _)| *at <= horizon));
    }
}
