//! Takes an activity's tasks off its queue, as many as there are free slots, and begins them.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use stagepost_broker::{Broker, Consumer, Delivery, Error};
use stagepost_protocol::{DeadLetter, DeadReason, Message, TaskMessage};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::attempt;
use super::ledger::{Delivered, Ledger};
use super::shared::Shared;
use crate::activity::Registration;
use crate::context::{Attempt, Progress, Sink};

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
    /// Begin it.
    Run,
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
        loop {
            let first = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                slot = free() => slot,
            };
            let batch = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                batch = consumer.next(1 + slots.available_permits()) => batch,
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
        consumer.cancel().await;
        let acker = consumer.acker();
        while let Some(batch) = consumer.next(usize::MAX).await {
            for delivery in batch {
                acker.requeue(delivery.tag).await;
            }
        }
        Ok(consumer)
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
            Admission::Run => {
                let input = task.input.clone();
                let attempt = Arc::new(self.attempt(task, &delivery));
                attempt::begin(&self.shared, &self.ledger, &self.registration, attempt, input, slot);
                None
            }
            Admission::Running(attempt) => {
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

    /// Decides whether a delivered task is begun here. The one place for it: a task that may have been begun by
    /// another worker (`redelivered`, or `republished` after a crash of the coordinator) is begun for now, so an
    /// activity must bear to be run twice after a crash; asking the coordinator first belongs here.
    fn admit(&self, task: &TaskMessage, delivery: &Delivery) -> Admission {
        // Only a second delivery can be of an attempt that runs here; the first ones need not be looked up.
        if (delivery.redelivered || task.republished)
            && let Some(attempt) = self.ledger.find(&task.attempt_id)
        {
            return Admission::Running(attempt);
        }
        if task.deadline.is_some_and(|deadline| self.shared.clock.now() > deadline) {
            return Admission::Expired;
        }
        Admission::Run
    }

    fn attempt(&self, task: TaskMessage, delivery: &Delivery) -> Attempt {
        let millis = |n: i64| Duration::from_millis(u64::try_from(n).unwrap_or(0));
        Attempt {
            activity: self.registration.name,
            id: task.attempt_id,
            token: task.token,
            number: task.attempt,
            execution: task.execution,
            state: task.state,
            idempotency_key: task.idempotency_key,
            deadline: task.deadline,
            call: task.call,
            heartbeat_every: task.heartbeat_millis.map(millis).or(self.registration.options.heartbeat),
            reply_to: task.reply_to,
            clock: self.shared.clock.clone(),
            started_at: self.shared.clock.now(),
            started: Instant::now(),
            sink: Sink::Worker(self.shared.reports.clone()),
            cancel: Notify::new(),
            abort: Notify::new(),
            progress: Mutex::new(Progress {
                delivered: Some(Delivered(delivery.tag)),
                ..Progress::default()
            }),
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
