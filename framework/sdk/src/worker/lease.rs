//! The lease by which a worker stands for the attempts that it has announced: it says a few times per lease that it is
//! there, and stops its attempts when that was not heard for a lease.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use stagepost_broker::{Broker, Published};
use stagepost_protocol::claim::part_of_lease;
use stagepost_protocol::topology::Topology;
use stagepost_protocol::{Alive, Lease, ShardMessage, TaskMessage};
use tokio::time::Instant;

use super::run::Activities;
use super::shared::STOP_WITHIN;
use crate::context::Attempt;

/// An attempt that has not ended after so long is announced as started, or sooner where leases are short.
const ANNOUNCE_AFTER: Duration = Duration::from_secs(1);
/// The service of calls that the engine makes for itself; they may be made twice.
const OWN_SERVICE: &str = "stagepost";

/// Who a worker is to the coordinators, and when they last heard of it.
pub(super) struct Leases {
    /// Names this running worker and no other.
    pub(super) holder: String,
    lease: Duration,
    topology: Topology,
    /// When what was last heard of it was sent: by shard queue, or by task token for a worker that polls.
    heard: Mutex<HashMap<String, Instant>>,
}

impl Leases {
    pub(super) fn new(holder: String, lease: Duration, topology: Topology) -> Leases {
        Leases { holder, lease, topology, heard: Mutex::default() }
    }

    pub(super) fn millis(&self) -> u64 {
        u64::try_from(self.lease.as_millis()).unwrap_or(u64::MAX)
    }

    /// A third of the lease.
    pub(super) fn part(&self) -> Duration {
        Duration::from_millis(part_of_lease(self.millis()))
    }

    /// The queue on which coordinators answer.
    pub(super) fn control_queue(&self) -> String {
        self.topology.control(&self.holder)
    }

    /// What a task's attempt is held by here. `None` where nothing is kept of its execution, as of Express executions:
    /// its unacknowledged delivery stands for it, and it may run twice.
    pub(super) fn of(&self, task: &TaskMessage, idempotent: bool) -> Option<Lease> {
        let own = task.call.as_ref().is_some_and(|call| call.service == OWN_SERVICE);
        (self.topology.is_shard(&task.reply_to) && !own).then(|| self.own(idempotent))
    }

    pub(super) fn own(&self, idempotent: bool) -> Lease {
        Lease { holder: self.holder.clone(), millis: self.millis(), idempotent }
    }

    /// How long an attempt may run without being announced.
    pub(super) fn announce_after(&self) -> Duration {
        ANNOUNCE_AFTER.min(self.part())
    }

    /// How long an activity has to stop when the lease is lost: then others may begin what it does.
    pub(super) fn stop_within(&self) -> Duration {
        STOP_WITHIN.min(self.part())
    }

    /// Whether the coordinators may believe that this worker is gone. What may run twice goes on all the same.
    pub(super) fn is_lost(&self, attempt: &Attempt) -> bool {
        if attempt.lease.as_ref().is_none_or(|lease| lease.idempotent) {
            return false;
        }
        let announced = {
            let progress = attempt.progress();
            progress.announced.filter(|_| progress.held && !progress.closed)
        };
        // Before the announcement has arrived nothing else counts: it is not known whose the attempt is.
        let last = match announced {
            None => attempt.started,
            Some(announced) => self.heard(&attempt.reply_to).map_or(announced, |heard| heard.max(announced)),
        };
        last.elapsed() >= self.lease
    }

    fn heard(&self, queue: &str) -> Option<Instant> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).get(queue).copied()
    }

    /// Says to all shards of which it has announced attempts that it is there, until it is dropped. It never says so
    /// twice at a time: while the broker is away one message waits, not many.
    pub(super) async fn keep(&self, broker: &dyn Broker, activities: &Activities) {
        loop {
            let sent = Instant::now();
            let queues = self.to_tell(activities);
            let alive = ShardMessage::Alive(Alive { holder: self.holder.clone(), millis: self.millis() });
            let messages = queues.iter().map(|queue| {
                let mut message = alive.encode(queue.clone(), None);
                // After a restart of the broker it says nothing.
                message.persistent = false;
                message
            });
            let results = broker.publish(messages.collect()).await;
            self.note_results(&queues, results, sent);
            tokio::time::sleep_until(sent + self.part()).await;
        }
    }

    fn note_results(&self, queues: &[String], results: Vec<Published>, sent: Instant) {
        self.forget_others(queues.iter().map(String::as_str));
        for (queue, result) in queues.iter().zip(results) {
            match result {
                Ok(()) => self.note_heard(queue, sent),
                Err(error) => tracing::warn!(queue, "the worker could not say that it is there: {error}"),
            }
        }
    }

    /// What was sent then has arrived.
    pub(super) fn note_heard(&self, place: &str, sent: Instant) {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).insert(place.to_owned(), sent);
    }

    /// Nothing is said any more but at these places.
    pub(super) fn forget_others<'p>(&self, places: impl Iterator<Item = &'p str>) {
        let places: HashSet<&str> = places.collect();
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.retain(|place, _| places.contains(place.as_str()));
    }

    fn to_tell(&self, activities: &Activities) -> Vec<String> {
        let attempts = activities.iter().flat_map(|(_, ledger)| ledger.all());
        let announced = attempts.filter(|attempt| {
            let progress = attempt.progress();
            attempt.lease.is_some() && progress.announced.is_some() && !progress.closed
        });
        let queues: BTreeSet<String> = announced.map(|attempt| attempt.reply_to.clone()).collect();
        queues.into_iter().collect()
    }
}

/// Says that the worker is there, in a task of its own.
pub(super) async fn keep(
    shared: Arc<super::shared::Shared>,
    broker: Arc<dyn Broker>,
    activities: Activities,
) {
    shared.leases.keep(&*broker, &activities).await;
}
