//! Claims of attempts, what they are answered, and leases that are over.

use stagepost_engine::{Held, Input};
use stagepost_protocol::{
    Alive, Claim, ControlMessage, ExecutionId, Lease, TaskToken, Told, Verdict, shard::Reply,
};

use super::{Deciding, round::Round, workers::LEASE_MILLIS_MAX};
use crate::metrics::add;

impl Round<'_> {
    /// A worker that holds attempts is there.
    pub(super) fn alive(&mut self, alive: &Alive) {
        let now = self.now();
        self.deciding.workers.hear(&alive.holder, alive.millis.min(LEASE_MILLIS_MAX), now);
    }

    /// As [`Round::alive`], by what it says of an attempt.
    pub(super) fn hear(&mut self, lease: &mut Lease) {
        lease.millis = lease.millis.min(LEASE_MILLIS_MAX);
        let now = self.now();
        self.deciding.workers.hear(&lease.holder, lease.millis, now);
    }

    /// A heartbeat stands for the one attempt that its sender has, where that is held by a lease.
    pub(super) fn hear_heartbeat(&mut self, id: ExecutionId, event_id: u64) {
        let now = self.now();
        let Deciding { cache, workers, .. } = &mut *self.deciding;
        if let Some(Held::ByWorker(holder)) = cache.get(id).and_then(|entry| entry.execution.held(event_id)) {
            workers.hear_again(holder, now);
        }
    }

    /// Decides whose an attempt is. The answer goes to the worker's own queue after the commit, or is what a request is
    /// replied.
    pub(super) fn claim(
        &mut self,
        id: ExecutionId,
        event_id: u64,
        token: TaskToken,
        worker: Option<String>,
        mut claim: Claim,
        replied: bool,
    ) -> Reply {
        if let Some(lease) = &mut claim.lease {
            self.hear(lease);
        }
        let millis = claim.lease.as_ref().map(|lease| lease.millis);
        let doubt_millis = self.deciding.workers.longest_lease(millis, self.now());
        let holder = claim.lease.as_ref().map(|lease| lease.holder.clone());
        let (returns, delivered) = (claim.returns, Some(claim.delivered));
        if self.deciding.cache.contains(id) {
            let ignored = self.decide(id, Input::Claim { event_id, worker, claim, doubt_millis });
            if ignored.is_some() {
                // It may come again because a crash came in between.
                self.republish(id);
            }
        }
        let entry = self.deciding.cache.get(id);
        let held = entry.and_then(|entry| entry.execution.held(event_id));
        let granted = matches!((held, &holder), (Some(Held::ByWorker(has)), Some(asks)) if has == asks);
        let metrics = &self.deciding.shared.metrics;
        add(if granted { &metrics.claims_granted } else { &metrics.claims_dropped }, 1);
        if let Some(holder) = holder.filter(|_| !replied) {
            let verdict = if granted { Verdict::Run } else { Verdict::Drop };
            self.tell(holder, Told { token, returns, delivered, verdict });
        }
        if granted { Reply::Accepted } else { Reply::TaskTimedOut }
    }

    /// Tells a worker what to do with an attempt.
    pub(super) fn tell(&mut self, holder: String, told: Told) {
        self.verdicts.entry(holder).or_default().push(told);
    }

    /// The messages to workers, for after the commit.
    pub(super) fn send_verdicts(&mut self) {
        for (holder, verdicts) in std::mem::take(&mut self.verdicts) {
            let queue = self.deciding.options.topology.control(&holder);
            self.decided.replies.push(ControlMessage::Verdicts(verdicts).encode(queue));
        }
    }

    /// Ends what workers have left behind, or gives it to others.
    pub(super) fn end_leases(&mut self, id: ExecutionId) {
        let Some(entry) = self.deciding.cache.get(id) else { return };
        let shard = self.deciding.options.shards.of(id);
        for event_id in self.deciding.workers.lost(shard, &entry.execution, self.now()) {
            if self.decide(id, Input::LeaseOver { event_id }).is_none() {
                add(&self.deciding.shared.metrics.leases_lost, 1);
            }
        }
    }
}
