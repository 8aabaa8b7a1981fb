//! Which workers were heard of lately: what the leases of running attempts rest on. In memory only: after a change of
//! owner every lease is counted anew.
//!
//! A silent worker is not a lost one while nobody could be heard. So the count begins anew whenever messages may not
//! have come through: the broker was away, the shard or its channel is a new one, the store failed, or the loop was
//! busy for too long. That can only make a lease longer.

use std::collections::HashMap;

use stagepost_engine::{Execution, Leased};
use stagepost_protocol::{ShardId, Timestamp, claim::certainly_over_after, claim::part_of_lease};

/// More than so many workers are not remembered one by one.
const HEARD_MAX: usize = 100_000;
/// What nobody's lease is said to be longer than, while nobody was heard of: the default of workers.
pub(super) const LEASE_MILLIS_DEFAULT: u64 = 30_000;
/// A lease is not longer than this, whatever a worker says: one day.
pub(super) const LEASE_MILLIS_MAX: u64 = 24 * 3_600 * 1_000;

struct Heard {
    at: Timestamp,
    millis: u64,
}

impl Heard {
    fn is_over(&self, now: Timestamp) -> bool {
        self.at.plus_millis(certainly_over_after(self.millis)) <= now
    }
}

/// The workers that hold attempts.
pub(crate) struct Workers {
    heard: HashMap<Box<str>, Heard>,
    /// Before this nobody could be heard, by shard and for all.
    shards: HashMap<ShardId, Timestamp>,
    all: Timestamp,
    /// The shortest lease of those who were heard of.
    shortest: u64,
}

impl Workers {
    pub(super) fn new() -> Workers {
        Workers {
            heard: HashMap::new(),
            shards: HashMap::new(),
            all: Timestamp::from_millis(i64::MIN),
            shortest: LEASE_MILLIS_MAX,
        }
    }

    /// A worker with this lease is there.
    pub(super) fn hear(&mut self, holder: &str, millis: u64, now: Timestamp) {
        self.shortest = self.shortest.min(millis);
        match self.heard.get_mut(holder) {
            Some(heard) => *heard = Heard { at: now, millis },
            None => {
                if self.heard.len() >= HEARD_MAX {
                    self.forget(now);
                }
                self.heard.insert(holder.into(), Heard { at: now, millis });
            }
        }
    }

    /// A worker that was heard of before is there.
    pub(super) fn hear_again(&mut self, holder: &str, now: Timestamp) {
        // Perhaps by another coordinator: then its lease is not known here.
        let millis = self.heard.get(holder).map_or(LEASE_MILLIS_DEFAULT, |heard| heard.millis);
        self.hear(holder, millis, now);
    }

    /// Makes room: who is gone is forgotten, and if nobody is, all are, and get another lease.
    fn forget(&mut self, now: Timestamp) {
        self.heard.retain(|_, heard| !heard.is_over(now));
        if self.heard.len() >= HEARD_MAX {
            tracing::warn!("very many workers hold attempts: leases are counted anew");
            self.heard.clear();
            self.all = now;
        }
        self.shortest = self.heard.values().map(|heard| heard.millis).min().unwrap_or(LEASE_MILLIS_MAX);
    }

    /// Until now nobody could be heard.
    pub(super) fn count_anew(&mut self, now: Timestamp) {
        self.all = self.all.max(now);
    }

    /// As [`Workers::count_anew`], for one shard.
    pub(super) fn count_anew_in(&mut self, shard: ShardId, now: Timestamp) {
        self.shards.insert(shard, now);
    }

    /// The loop did nothing else for so long. That is as if nobody could be heard, for those who speak more often.
    pub(super) fn was_busy(&mut self, millis: i64, now: Timestamp) {
        let part = i64::try_from(part_of_lease(self.shortest)).unwrap_or(i64::MAX);
        if millis > part {
            self.count_anew(now);
        }
    }

    /// No worker that was heard of lately, nor one that says it has this lease, has a longer one.
    pub(super) fn longest_lease(&self, claimed: Option<u64>, now: Timestamp) -> u64 {
        let heard = self.heard.values().filter(|heard| !heard.is_over(now)).map(|heard| heard.millis);
        heard.chain(claimed).max().unwrap_or(LEASE_MILLIS_DEFAULT)
    }

    /// When a lease is certainly over, if its holder is not heard of until then.
    pub(super) fn over(&self, shard: ShardId, leased: &Leased<'_>) -> Timestamp {
        let heard = leased.holder.and_then(|holder| self.heard.get(holder)).map(|heard| heard.at);
        let counted = self.shards.get(&shard).copied();
        let last = [heard, counted].into_iter().flatten().fold(leased.since.max(self.all), Timestamp::max);
        last.plus_millis(certainly_over_after(leased.millis))
    }

    /// When an execution must be woken at the latest, its leases included.
    pub(super) fn next_deadline(&self, shard: ShardId, execution: &Execution) -> Option<Timestamp> {
        let mut next = execution.next_deadline();
        for leased in execution.leases() {
            let over = self.over(shard, &leased);
            next = Some(next.map_or(over, |next| next.min(over)));
            // Those in doubt come last, the earliest first.
            if leased.holder.is_none() {
                break;
            }
        }
        next
    }

    /// An attempt of each lease that is over.
    pub(super) fn lost(&self, shard: ShardId, execution: &Execution, now: Timestamp) -> Vec<u64> {
        let over = execution.leases().filter(|leased| self.over(shard, leased) <= now);
        over.map(|leased| leased.event_id).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARD: ShardId = ShardId(1);

    fn t(millis: i64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    fn leased(holder: Option<&str>) -> Leased<'_> {
        Leased { event_id: 3, holder, since: t(1_000), millis: 3_000 }
    }

    #[test]
    fn a_lease_counts_from_when_its_holder_was_last_heard_of() {
        let mut workers = Workers::new();
        assert_eq!(workers.over(SHARD, &leased(Some("h"))), t(5_000));
        workers.hear("h", 3_000, t(2_500));
        workers.hear("i", 3_000, t(9_000));
        assert_eq!(workers.over(SHARD, &leased(Some("h"))), t(6_500));
        assert_eq!(workers.over(SHARD, &leased(None)), t(5_000));
    }

    #[test]
    fn a_lease_counts_anew_when_nobody_could_be_heard() {
        let mut workers = Workers::new();
        workers.hear("h", 3_000, t(2_000));
        workers.count_anew_in(SHARD, t(3_000));
        assert_eq!(workers.over(SHARD, &leased(Some("h"))), t(7_000));
        assert_eq!(workers.over(ShardId(2), &leased(Some("h"))), t(6_000));
        workers.was_busy(1_000, t(4_000));
        assert_eq!(workers.over(SHARD, &leased(None)), t(7_000), "not longer than a worker is silent");
        workers.was_busy(1_001, t(4_000));
        assert_eq!(workers.over(SHARD, &leased(None)), t(8_000));
        workers.count_anew(t(3_500));
        assert_eq!(workers.over(ShardId(2), &leased(None)), t(8_000), "time does not go back");
    }

    #[test]
    fn a_doubt_lasts_as_long_as_the_longest_lease() {
        let mut workers = Workers::new();
        assert_eq!(workers.longest_lease(None, t(0)), LEASE_MILLIS_DEFAULT);
        assert_eq!(workers.longest_lease(Some(2_000), t(0)), 2_000);
        workers.hear("h", 60_000, t(0));
        assert_eq!(workers.longest_lease(Some(2_000), t(79_999)), 60_000);
        assert_eq!(workers.longest_lease(Some(2_000), t(80_000)), 2_000);
    }
}
