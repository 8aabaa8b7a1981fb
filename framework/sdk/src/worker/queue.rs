//! Takes an activity's tasks off its queue, as many as there are free slots, and begins them.
//!
//! An attempt that runs for long is not stood for by its delivery: that is acknowledged once its announcement has
//! arrived. The broker would send another task for it, which would wait here, so the consumer is changed first to admit
//! only as many as there are free slots. Short attempts never come to that.
//!
//! A quorum queue that is told to end or change a consumer takes back what it is just giving to it, and flags that as
//! delivered, although nobody has seen it; whoever gets it must take it for begun. So a consumer is changed when it has
//! no room, for then nothing is on its way to it, and ended by [`Consumer::wind_down`].

use std::sync::Arc;
use std::time::Duration;

use stagepost_broker::{Broker, Consumer, Delivery, DeliveryTag, Error};
use stagepost_protocol::{DeadLetter, DeadReason, DeliveredAs, Lease, Message, TaskMessage};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::attempt;
use super::control::Claiming;
use super::ledger::{Delivered, Ledger};
use super::shared::Shared;
use crate::activity::Registration;
use crate::context::Attempt;

/// How often it is looked whether the consumer is to be changed.
const ADJUST_EVERY: Duration = Duration::from_secs(1);
/// A delivery is acknowledged after so long, whatever is on its way: RabbitMQ closes a channel with one that is open for
/// 30 minutes.
const ACK_LATEST: Duration = Duration::from_secs(20 * 60);
/// How long a worker that stops may wait for a further task before it cancels its consumer.
const LAST_WITHIN: Duration = Duration::from_millis(500);

/// One activity's consumer.
pub(super) struct Queue {
    pub(super) shared: Arc<Shared>,
    pub(super) broker: Arc<dyn Broker>,
    pub(super) registration: Arc<Registration>,
    pub(super) ledger: Arc<Ledger>,
    /// The queue's name.
    pub(super) name: String,
    pub(super) dead_letters: String,
    pub(super) slots: u16,
}

/// What is to become of a task that was delivered.
enum Admission {
    /// Begin it, held by this lease.
    Run(Option<Lease>),
    /// Ask the coordinator for it: another worker may have begun it, or been given it.
    Claim(Lease),
    /// This worker is working on it: the delivery takes the place of the earlier one.
    Running(Arc<Attempt>),
    /// Its time was over before it began.
    Expired,
}

impl Queue {
    /// Runs until `stop` says so; then gives back what was not begun, and returns the consumer, which must live until
    /// what was begun is settled.
    pub(super) async fn run(
        self,
        mut consumer: Box<dyn Consumer>,
        stop: CancellationToken,
    ) -> Result<Box<dyn Consumer>, Error> {
        let slots = Arc::new(Semaphore::new(usize::from(self.slots)));
        // Only closed together with the worker, and this loop holds a handle.
        let free = || async { Arc::clone(&slots).acquire_owned().await.ok() };
        let mut admitted = self.slots;
        let mut adjust = tokio::time::interval(ADJUST_EVERY);
        adjust.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let next = async {
                let first = free().await;
                (first, consumer.next(1 + slots.available_permits()).await)
            };
            let came = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                _ = adjust.tick() => None,
                next = next => Some(next),
            };
            let Some((first, batch)) = came else {
                self.adjust(&mut *consumer, &slots, &mut admitted).await;
                continue;
            };
            let Some(batch) = batch else { return Err(Error::Closed) };
            self.ledger.delivered(batch.iter().map(|delivery| delivery.tag)).await;
            let mut next = first;
            for delivery in batch {
                let slot = match next.take() {
                    Some(slot) => Some(slot),
                    None => free().await,
                };
                if let Some(slot) = slot {
                    next = self.take(delivery, slot).await;
                }
            }
        }
        for delivery in self.last_deliveries(&mut *consumer).await {
            let task = TaskMessage::decode(&self.name, &delivery.body, &delivery.properties).ok();
            let copy = task.as_ref().map(|task| DeliveredAs::of(delivery.redelivered, task.republished));
            self.give_back(task.filter(|_| copy == Some(DeliveredAs::First)), delivery.tag).await;
        }
        for claiming in self.ledger.take_claims() {
            let first = Some(claiming.task).filter(|_| claiming.copy == DeliveredAs::First);
            self.give_back(first, claiming.delivered).await;
        }
        Ok(consumer)
    }

    /// Ends a consumer, and gives what has come and was not taken.
    async fn last_deliveries(&self, consumer: &mut dyn Consumer) -> Vec<Delivery> {
        let mut last = Vec::new();
        self.ledger.pause().await;
        consumer.wind_down(LAST_WITHIN).await;
        while let Some(batch) = consumer.next(usize::MAX).await {
            self.ledger.delivered(batch.iter().map(|delivery| delivery.tag)).await;
            last.extend(batch);
        }
        self.ledger.resume().await;
        last
    }

    /// Lets the broker send as many tasks as there are free slots, and acknowledges what it would otherwise count; not
    /// before nothing is on its way, if possible.
    async fn adjust(&self, consumer: &mut dyn Consumer, slots: &Semaphore, admitted: &mut u16) {
        let held = |attempt: &Arc<Attempt>| {
            let progress = attempt.progress();
            attempt.lease.is_some() && progress.held && !progress.closed && progress.delivered.is_some()
        };
        let held: Vec<_> = self.ledger.all().into_iter().filter(held).collect();
        let free = slots.available_permits();
        let uncounted = usize::from(self.slots).saturating_sub(free + self.ledger.counted().await);
        if held.is_empty() && usize::from(*admitted) + uncounted == usize::from(self.slots) {
            return;
        }
        self.ledger.pause().await;
        let overdue = held.iter().any(|attempt| attempt.started.elapsed() >= ACK_LATEST);
        if overdue || self.ledger.is_full(*admitted).await {
            self.change(consumer, slots, admitted, &held).await;
        }
        self.ledger.resume().await;
    }

    async fn change(
        &self,
        consumer: &mut dyn Consumer,
        slots: &Semaphore,
        admitted: &mut u16,
        held: &[Arc<Attempt>],
    ) {
        *admitted = u16::try_from(slots.available_permits()).unwrap_or(u16::MAX);
        consumer.admit(*admitted).await;
        self.ledger.count_anew().await;
        // Some may have ended meanwhile, and then have none any more.
        let tags: Vec<DeliveryTag> =
            held.iter().filter_map(|attempt| attempt.progress().delivered.take()).map(|d| d.0).collect();
        self.ledger.ack(&tags).await;
    }

    /// Gives back what was not begun. `first`: the task, where this was its first delivery. Another worker gets it at once
    /// then; if not, it may have been begun elsewhere, and looks to the next worker as it did here.
    async fn give_back(&self, first: Option<TaskMessage>, tag: DeliveryTag) {
        let lease = first.as_ref().and_then(|task| self.lease(task));
        match first.zip(lease) {
            Some((task, lease)) => {
                let (shared, ledger) = (&self.shared, &self.ledger);
                attempt::give_back(shared, ledger, &self.registration, task, tag, lease).await;
            }
            None => self.ledger.requeue(tag).await,
        }
    }

    fn lease(&self, task: &TaskMessage) -> Option<Lease> {
        self.shared.leases.of(task, self.registration.options.idempotent)
    }

    /// Begins the task of a delivery, or settles it; gives the slot back if it needs none.
    async fn take(&self, delivery: Delivery, slot: OwnedSemaphorePermit) -> Option<OwnedSemaphorePermit> {
        let task = match TaskMessage::decode(&self.name, &delivery.body, &delivery.properties) {
            Ok(task) => task,
            Err(error) => {
                self.bury(delivery, &error.to_string()).await;
                return Some(slot);
            }
        };
        match self.admit(&task, &delivery) {
            Admission::Run(lease) => {
                let input = task.input.clone();
                let attempt = attempt::of_task(&self.shared, &self.registration, task, delivery.tag, lease);
                let (shared, ledger) = (&self.shared, &self.ledger);
                attempt::begin(shared, ledger, &self.registration, Arc::new(attempt), input, slot);
                None
            }
            Admission::Claim(lease) => {
                let copy = DeliveredAs::of(delivery.redelivered, task.republished);
                let claiming = Claiming { task, delivered: delivery.tag, copy, lease, asked: None, slot };
                let replaced = self.ledger.claim(claiming);
                self.shared.claimed.notify_one();
                // The same attempt, delivered twice: one claim is enough.
                let replaced = replaced?;
                self.ledger.ack(&[replaced.delivered]).await;
                Some(replaced.slot)
            }
            Admission::Running(attempt) => {
                attempt.came_again(task.returns);
                let before = attempt.progress().delivered.replace(Delivered(delivery.tag));
                // What was published twice was delivered twice, and is one task.
                if let Some(before) = before {
                    self.ledger.ack(&[before.0]).await;
                }
                Some(slot)
            }
            Admission::Expired => {
                tracing::warn!(
                    activity = self.registration.name, execution_arn = %task.execution, state = %task.state,
                    attempt = task.attempt, "a task was not begun: its deadline had passed when it arrived"
                );
                self.ledger.ack(&[delivery.tag]).await;
                Some(slot)
            }
        }
    }

    /// Decides whether a delivered task is begun here. A first delivery is, if it has only just come; of any other the
    /// coordinator knows whose it is, or sees to it that nobody has it.
    fn admit(&self, task: &TaskMessage, delivery: &Delivery) -> Admission {
        let first = DeliveredAs::of(delivery.redelivered, task.republished) == DeliveredAs::First;
        // Of an attempt that runs here only another message can come; most need not be looked up.
        if (!first || task.returns > 0)
            && let Some(attempt) = self.ledger.find(&task.attempt_id)
        {
            return Admission::Running(attempt);
        }
        if task.deadline.is_some_and(|deadline| self.shared.clock.now() > deadline) {
            return Admission::Expired;
        }
        match self.lease(task) {
            Some(lease) if !first || self.shared.pulse.stood_still() => Admission::Claim(lease),
            lease => Admission::Run(lease),
        }
    }

    /// Moves a message that is no task to the dead letters.
    async fn bury(&self, delivery: Delivery, reason: &str) {
        tracing::warn!(queue = %self.name, "a message is no task and goes to {}: {reason}", self.dead_letters);
        let (queue, id) = (self.name.clone(), uuid::Uuid::now_v7().to_string());
        let message =
            Message { queue, body: delivery.body, properties: delivery.properties, persistent: true };
        let letter = DeadLetter::bury(self.dead_letters.clone(), message, DeadReason::Malformed, reason, id);
        let published = self.broker.publish(vec![letter]).await;
        match published.into_iter().next() {
            Some(Err(error)) => {
                tracing::error!(queue = %self.name, "the dead letter could not be kept, the message goes back: {error}");
                self.ledger.requeue(delivery.tag).await;
            }
            _ => self.ledger.ack(&[delivery.tag]).await,
        }
    }
}
