//! What one consumer has delivered and is not settled, and the attempts that came of it.
//!
//! Deliveries are acknowledged in runs where that is possible (`ack_up_to`) and one by one behind a slow attempt, so
//! that a slow one never holds the slots of those that are done.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex as StdMutex, MutexGuard, PoisonError};

use stagepost_broker::{Acker, DeliveryTag};
use stagepost_protocol::{DeliveredAs, TaskToken};
use tokio::sync::{Mutex, Notify};

use super::control::Claiming;
use crate::context::Attempt;

/// A delivery that an attempt holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Delivered(pub(super) DeliveryTag);

/// The attempts and deliveries of one activity in this worker.
pub(super) struct Ledger {
    /// None for a worker that polls: there is nothing to acknowledge.
    acker: Option<Arc<dyn Acker>>,
    /// Held while acknowledgements are sent: one for a delivery that an `ack_up_to` has already taken with it would be
    /// an error to RabbitMQ, so their order must be that of the decisions.
    open: Mutex<Open>,
    attempts: StdMutex<BTreeMap<String, Arc<Attempt>>>,
    /// By their tokens.
    claims: StdMutex<BTreeMap<String, Claiming>>,
    changed: Notify,
}

impl Ledger {
    pub(super) fn new(acker: Option<Arc<dyn Acker>>) -> Ledger {
        Ledger {
            acker,
            open: Mutex::default(),
            attempts: StdMutex::default(),
            claims: StdMutex::default(),
            changed: Notify::new(),
        }
    }

    fn attempts(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Attempt>>> {
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes deliveries, in the order in which they came.
    pub(super) async fn delivered(&self, tags: impl Iterator<Item = DeliveryTag>) {
        let mut open = self.open.lock().await;
        tags.for_each(|tag| open.delivered(tag));
    }

    /// Acknowledges deliveries.
    pub(super) async fn ack(&self, tags: &[DeliveryTag]) {
        let Some(acker) = &self.acker else { return };
        let mut open = self.open.lock().await;
        if let Some(waiting) = &mut open.waiting {
            return waiting.extend(tags);
        }
        let plan = open.settle(tags);
        if let Some(tag) = plan.up_to {
            acker.ack_up_to(tag).await;
        }
        for tag in plan.single {
            acker.ack(tag).await;
        }
    }

    /// From now on acknowledgements wait, so the broker sends no more than there is room for now.
    pub(super) async fn pause(&self) {
        self.open.lock().await.waiting.get_or_insert_default();
    }

    /// Acknowledges what was to be acknowledged since [`Ledger::pause`].
    pub(super) async fn resume(&self) {
        let waiting = self.open.lock().await.waiting.take();
        self.ack(&waiting.unwrap_or_default()).await;
    }

    /// Whether the broker has nothing on its way to a consumer that it sends so many unsettled deliveries.
    pub(super) async fn is_full(&self, admitted: u16) -> bool {
        let open = self.open.lock().await;
        let unsettled =
            open.deliveries.iter().filter(|(tag, standing)| *standing == Standing::Open && open.counts(*tag));
        unsettled.count() >= usize::from(admitted)
    }

    /// Gives a delivery back.
    pub(super) async fn requeue(&self, tag: DeliveryTag) {
        let Some(acker) = &self.acker else { return };
        let mut open = self.open.lock().await;
        open.give_up(tag);
        acker.requeue(tag).await;
    }

    /// The attempt of this id that is not finished and reported.
    pub(super) fn find(&self, id: &str) -> Option<Arc<Attempt>> {
        self.attempts().get(id).cloned()
    }

    /// As [`Ledger::find`], by the token.
    pub(super) fn find_token(&self, token: &TaskToken) -> Option<Arc<Attempt>> {
        self.attempts().values().find(|attempt| attempt.token == *token).cloned()
    }

    fn claims(&self) -> MutexGuard<'_, BTreeMap<String, Claiming>> {
        self.claims.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a claim. Gives the one of the same attempt whose place it takes: both are as new as the newer one, and may
    /// have been begun as that may.
    pub(super) fn claim(&self, mut claiming: Claiming) -> Option<Claiming> {
        let mut claims = self.claims();
        let replaced = claims.remove(claiming.task.token.as_str());
        if let Some(before) = &replaced {
            let newest = (claiming.task.returns, claiming.copy).max((before.task.returns, before.copy));
            (claiming.task.returns, claiming.copy) = newest;
        }
        claims.insert(claiming.task.token.as_str().to_owned(), claiming);
        replaced
    }

    pub(super) fn each_claim(&self, look: impl FnMut(&mut Claiming)) {
        self.claims().values_mut().for_each(look);
    }

    /// Takes the claim of a message that was given out and delivered so; not one of another message of the attempt.
    pub(super) fn take_claim(
        &self,
        token: &TaskToken,
        returns: u32,
        delivered: DeliveredAs,
    ) -> Option<Claiming> {
        let mut claims = self.claims();
        let asked = claims.get(token.as_str())?;
        if (asked.task.returns, asked.copy) != (returns, delivered) {
            return None;
        }
        claims.remove(token.as_str())
    }

    /// Takes all claims.
    pub(super) fn take_claims(&self) -> Vec<Claiming> {
        std::mem::take(&mut *self.claims()).into_values().collect()
    }

    /// From now on no delivery counts that has come before.
    pub(super) async fn count_anew(&self) {
        let mut open = self.open.lock().await;
        open.uncounted = open.last;
    }

    /// How many of those that take a slot have a delivery that counts.
    pub(super) async fn counted(&self) -> usize {
        let open = self.open.lock().await;
        let of_attempts = self.attempts();
        let attempts = of_attempts.values().filter(|attempt| {
            let progress = attempt.progress();
            progress.running && progress.delivered.is_some_and(|delivered| open.counts(delivered.0))
        });
        attempts.count() + self.claims().values().filter(|claiming| open.counts(claiming.delivered)).count()
    }

    pub(super) fn begin(&self, attempt: &Arc<Attempt>) {
        self.attempts().insert(attempt.id.clone(), Arc::clone(attempt));
    }

    /// Forgets an attempt whose last report has arrived, or that was given back.
    pub(super) fn end(&self, id: &str) {
        let mut attempts = self.attempts();
        attempts.remove(id);
        if attempts.is_empty() {
            self.changed.notify_waiters();
        }
    }

    /// All attempts that are not finished and reported.
    pub(super) fn all(&self) -> Vec<Arc<Attempt>> {
        self.attempts().values().cloned().collect()
    }

    /// Waits until there is none.
    pub(super) async fn empty(&self) {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            if self.attempts().is_empty() {
                return;
            }
            changed.await;
        }
    }
}

/// Where a delivery stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Open,
    /// To be acknowledged by the call that is under way.
    Done,
    /// Acknowledged alone, or given back.
    Settled,
}

/// The unsettled deliveries of the consumer's present channel, in order.
#[derive(Debug, Default)]
struct Open {
    deliveries: VecDeque<(DeliveryTag, Standing)>,
    /// The newest delivery, and the newest of those that the broker does not count any more.
    last: Option<DeliveryTag>,
    uncounted: Option<DeliveryTag>,
    /// Acknowledgements that wait.
    waiting: Option<Vec<DeliveryTag>>,
}

/// Which acknowledgements to send, in this order.
#[derive(Debug, Default, PartialEq, Eq)]
struct Plan {
    up_to: Option<DeliveryTag>,
    single: Vec<DeliveryTag>,
}

impl Open {
    fn delivered(&mut self, tag: DeliveryTag) {
        // A new channel: the broker has taken back what was open on the old one.
        if self.deliveries.back().is_some_and(|(last, _)| last.generation != tag.generation) {
            self.deliveries.clear();
        }
        self.deliveries.push_back((tag, Standing::Open));
        self.last = Some(tag);
    }

    /// Whether the broker counts a delivery that is unsettled.
    fn counts(&self, tag: DeliveryTag) -> bool {
        self.last.is_some_and(|last| last.generation == tag.generation)
            && self.uncounted.is_none_or(|uncounted| tag > uncounted)
    }

    fn mark(&mut self, tag: DeliveryTag, to: Standing) {
        // Tags ascend; one of an earlier channel is not found, and need not be.
        if let Ok(i) = self.deliveries.binary_search_by_key(&tag, |(tag, _)| *tag)
            && self.deliveries[i].1 == Standing::Open
        {
            self.deliveries[i].1 = to;
        }
    }

    fn settle(&mut self, tags: &[DeliveryTag]) -> Plan {
        tags.iter().for_each(|tag| self.mark(*tag, Standing::Done));
        let mut run = Vec::new();
        while let Some((tag, standing)) = self.deliveries.front().copied()
            && standing != Standing::Open
        {
            self.deliveries.pop_front();
            if standing == Standing::Done {
                run.push(tag);
            }
        }
        let mut plan = Plan::default();
        match run.as_slice() {
            [] => {}
            [one] => plan.single.push(*one),
            [.., last] => plan.up_to = Some(*last),
        }
        // Only the tags of this call can be done behind an open one: look for them, not through the whole queue.
        for tag in tags {
            if let Ok(i) = self.deliveries.binary_search_by_key(tag, |(tag, _)| *tag)
                && self.deliveries[i].1 == Standing::Done
            {
                self.deliveries[i].1 = Standing::Settled;
                plan.single.push(*tag);
            }
        }
        plan
    }

    fn give_up(&mut self, tag: DeliveryTag) {
        self.mark(tag, Standing::Settled);
        while matches!(self.deliveries.front(), Some((_, Standing::Settled))) {
            self.deliveries.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use stagepost_protocol::{Lease, Payload, TaskMessage};

    use super::*;

    fn tag(tag: u64) -> DeliveryTag {
        DeliveryTag { generation: 1, tag }
    }

    fn tags(numbers: &[u64]) -> Vec<DeliveryTag> {
        numbers.iter().copied().map(tag).collect()
    }

    #[test]
    fn runs_are_acknowledged_at_once_and_stragglers_hold_nobody_up() {
        let mut open = Open::default();
        (1..=6).for_each(|n| open.delivered(tag(n)));
        let plan = |up_to: Option<u64>, single: &[u64]| Plan { up_to: up_to.map(tag), single: tags(single) };
        assert_eq!(open.settle(&tags(&[3, 4])), plan(None, &[3, 4]));
        assert_eq!(open.settle(&tags(&[1])), plan(None, &[1]));
        assert_eq!(open.settle(&tags(&[6, 2, 5])), plan(Some(6), &[]));
        assert!(open.deliveries.is_empty());
    }

    #[test]
    fn what_was_given_back_is_never_the_end_of_a_run() {
        let mut open = Open::default();
        (1..=3).for_each(|n| open.delivered(tag(n)));
        open.give_up(tag(3));
        assert_eq!(open.settle(&tags(&[1, 2])).up_to, Some(tag(2)));
        assert!(open.deliveries.is_empty());
        open.delivered(tag(4));
        open.give_up(tag(4));
        assert!(open.deliveries.is_empty());
    }

    #[test]
    fn what_came_before_the_consumer_was_changed_does_not_count() {
        let mut open = Open::default();
        (1..=3).for_each(|n| open.delivered(tag(n)));
        assert!(open.counts(tag(3)));
        open.uncounted = open.last;
        open.delivered(tag(4));
        assert_eq!([3, 4].map(|n| open.counts(tag(n))), [false, true]);
        open.delivered(DeliveryTag { generation: 2, tag: 1 });
        assert!(!open.counts(tag(4)) && open.counts(DeliveryTag { generation: 2, tag: 1 }));
    }

    #[tokio::test]
    async fn a_claim_that_takes_the_place_of_another_may_have_been_begun_as_that() {
        let ledger = Ledger::new(None);
        let slots = Arc::new(tokio::sync::Semaphore::new(2));
        let task = TaskMessage {
            queue: "q".into(),
            attempt_id: "a".into(),
            token: TaskToken::from_untrusted("t"),
            attempt: 1,
            execution: "e".into(),
            state: "S".into(),
            idempotency_key: "k".into(),
            deadline: None,
            heartbeat_millis: None,
            call: None,
            input: Payload::empty_object(),
            reply_to: "r".into(),
            priority: 0,
            fairness_key: String::new(),
            republished: true,
            returns: 0,
            traceparent: None,
        };
        for (n, copy) in [(1, DeliveredAs::Redelivered), (2, DeliveredAs::First)] {
            let lease = Lease { holder: "h".into(), millis: 1, idempotent: false };
            let slot = Arc::clone(&slots).acquire_owned().await.unwrap();
            let claiming = Claiming { task: task.clone(), delivered: tag(n), copy, lease, asked: None, slot };
            assert_eq!(ledger.claim(claiming).map(|before| before.delivered), (n == 2).then_some(tag(1)));
        }
        assert!(ledger.take_claim(&task.token, 0, DeliveredAs::First).is_none(), "that was another claim");
        assert!(ledger.take_claim(&task.token, 1, DeliveredAs::Redelivered).is_none());
        let claiming = ledger.take_claim(&task.token, 0, DeliveredAs::Redelivered).unwrap();
        assert_eq!(claiming.delivered, tag(2));
    }

    #[test]
    fn tags_of_an_earlier_channel_mean_nothing() {
        let mut open = Open::default();
        open.delivered(tag(1));
        open.delivered(DeliveryTag { generation: 2, tag: 1 });
        assert_eq!(open.settle(&tags(&[1])), Plan::default());
        assert_eq!(open.settle(&[DeliveryTag { generation: 2, tag: 1 }]).single.len(), 1);
        assert_eq!(open.settle(&[DeliveryTag { generation: 2, tag: 1 }]), Plan::default());
    }
}
