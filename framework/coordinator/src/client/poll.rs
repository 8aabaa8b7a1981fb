//! A poll of an activity's queue (GetActivityTask). It runs on a task of its own, so that an asker who goes away
//! loses nothing: what had come for it goes to somebody else, and never back to the queue, where it would look as if
//! it might have been begun.

use std::{
    convert::Infallible,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use stagepost_broker::{Acker, ConsumeOptions, Consumer, Delivery, QueueSpec};
use stagepost_protocol::{
    Claim, DeadReason, DeliveredAs, Lease, Report, ReportOutcome, TaskMessage, TaskToken, shard::Reply,
};
use tokio::{sync::oneshot, time::Instant};

use super::{Client, ClientError};
use crate::dispatch;

/// Who polls.
#[derive(Debug, Clone, Default)]
pub struct Poller {
    /// Its name.
    pub worker: Option<String>,
    /// It sends heartbeats of what it is given at least so often, in milliseconds, or it is gone. `None`: nothing stands
    /// for what it is given but the definition's limits, as at AWS.
    pub lease_millis: Option<u64>,
    /// The activity may run twice.
    pub idempotent: bool,
}

pub(super) async fn run(
    client: &Arc<Client>,
    queue: String,
    poller: Poller,
    wait: Duration,
) -> Result<Option<TaskMessage>, ClientError> {
    let end = Instant::now() + wait;
    client.broker.declare(&[QueueSpec::ours(&queue)]).await?;
    let consumer = client.broker.consume(&queue, ConsumeOptions { prefetch: 1 }).await?;
    let poll = Poll {
        client: Arc::clone(client),
        queue,
        poller,
        // No other client has its queue.
        holder: format!("{}.{}", client.reply_to, client.next_id.fetch_add(1, Ordering::Relaxed)),
        acker: consumer.acker(),
    };
    // It is dropped with this future: then nobody waits any more.
    let (_asker, gone) = oneshot::channel();
    let polled = tokio::spawn(poll.run(consumer, end, gone)).await;
    polled.unwrap_or_else(|_| Err(stagepost_broker::Error::Closed.into()))
}

struct Poll {
    client: Arc<Client>,
    queue: String,
    poller: Poller,
    /// Names this poll, and nothing else, where it holds something or gives it back.
    holder: String,
    acker: Arc<dyn Acker>,
}

impl Poll {
    async fn run(
        self,
        mut consumer: Box<dyn Consumer>,
        end: Instant,
        mut gone: oneshot::Receiver<Infallible>,
    ) -> Result<Option<TaskMessage>, ClientError> {
        let mut found = None;
        while found.is_none() {
            let delivery = tokio::select! {
                biased;
                deliveries = consumer.next(1) => deliveries.and_then(|mut deliveries| deliveries.pop()),
                () = tokio::time::sleep_until(end) => None,
                _ = &mut gone => None,
            };
            let Some(delivery) = delivery else { break };
            found = self.take(delivery, true).await?;
        }
        consumer.cancel().await;
        // What came at the last moment.
        while let Some(deliveries) = consumer.next(1).await {
            for delivery in deliveries {
                if let Err(error) = self.take(delivery, false).await {
                    tracing::warn!(queue = self.queue, %error, "a task is delivered again");
                }
            }
        }
        // A closed channel says that the asker went away while this was announced for it.
        if let (Some(task), Err(oneshot::error::TryRecvError::Closed)) = (&found, gone.try_recv())
            && let Err(error) = self.release(task).await
        {
            tracing::warn!(queue = self.queue, %error, "a task could not be given to somebody else");
        }
        Ok(found)
    }

    /// Makes of a delivery what is to become of it; gives its task if that is for the asker, who must be there still.
    async fn take(&self, delivery: Delivery, wanted: bool) -> Result<Option<TaskMessage>, ClientError> {
        let task = match TaskMessage::decode(&self.queue, &delivery.body, &delivery.properties) {
            Ok(task) => task,
            Err(error) => {
                let (topology, reason) = (&self.client.topology, error.to_string());
                let kind = DeadReason::Malformed;
                let letter = dispatch::dead_letter(topology, &self.queue, &delivery, kind, &reason);
                for published in self.client.broker.publish(vec![letter]).await {
                    published?;
                }
                self.acker.ack(delivery.tag).await;
                return Ok(None);
            }
        };
        let may_have_begun = delivery.redelivered || task.republished;
        let kept = task.token.claimed_runner().is_none();
        let reply = if may_have_begun && kept {
            let lease = self.lease(&task).filter(|_| wanted);
            let delivered = DeliveredAs::of(delivery.redelivered, task.republished);
            let claim = Claim { returns: task.returns, lease, delivered };
            self.report(&task.token, ReportOutcome::Claimed(claim)).await?
        } else if wanted {
            let begun = self
                .lease(&task)
                .filter(|_| kept)
                .map_or(ReportOutcome::Started, |lease| ReportOutcome::Held { lease, returns: task.returns });
            self.report(&task.token, begun).await?
        } else if kept {
            self.release(&task).await?
        } else {
            self.acker.requeue(delivery.tag).await;
            return Ok(None);
        };
        self.acker.ack(delivery.tag).await;
        // An attempt that has ended meanwhile is not worth a worker's time.
        Ok((wanted && reply == Reply::Accepted).then_some(task))
    }

    /// What the task's attempt is held by. Where heartbeats must come by the definition, those stand for it.
    fn lease(&self, task: &TaskMessage) -> Option<Lease> {
        let millis = self.poller.lease_millis.filter(|_| task.heartbeat_millis.is_none())?;
        Some(Lease { holder: self.holder.clone(), millis, idempotent: self.poller.idempotent })
    }

    async fn release(&self, task: &TaskMessage) -> Result<Reply, ClientError> {
        let outcome = ReportOutcome::Released { holder: self.holder.clone(), returns: task.returns };
        self.report(&task.token, outcome).await
    }

    async fn report(&self, token: &TaskToken, outcome: ReportOutcome) -> Result<Reply, ClientError> {
        let (token, worker) = (token.clone(), self.poller.worker.clone());
        self.client
            .report(Report { token, worker, started_at: None, outcome, child: None, answer: None })
            .await
    }
}
