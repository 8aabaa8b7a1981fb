//! Asks the coordinators for tasks that another worker may have begun, and does as they answer.
//!
//! ```text
//!  queue ──► claim (in the ledger) ──► control ──► stagepost.shard.NN
//!                                        ▲  │
//!            stagepost.control.HOLDER ───┘  └──► begin, or acknowledge
//! ```
//!
//! A claim holds its delivery and its slot until it is answered. An answer may get lost, so a claim is repeated; that
//! changes nothing at the coordinator.

use std::sync::Arc;
use std::time::Duration;

use stagepost_broker::{Broker, Consumer, DeliveryTag};
use stagepost_protocol::{
    Claim, ControlMessage, DeliveredAs, Lease, Report, ReportOutcome, ShardMessage, TaskMessage, Told,
    Verdict,
};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::attempt;
use super::run::Activities;
use super::shared::Shared;
use crate::failure::Cancelled;

/// A claim that is not answered is repeated after so long.
const AGAIN_AFTER: Duration = Duration::from_secs(3);
/// How often that is looked for.
const PERIOD: Duration = Duration::from_secs(1);
/// Most answers that are taken at a time.
const ANSWERS_MAX: usize = 256;

/// A delivered task that another worker may have begun.
pub(super) struct Claiming {
    pub(super) task: TaskMessage,
    pub(super) delivered: DeliveryTag,
    pub(super) copy: DeliveredAs,
    pub(super) lease: Lease,
    /// When the coordinator was last asked.
    pub(super) asked: Option<Instant>,
    /// For when it is granted.
    pub(super) slot: OwnedSemaphorePermit,
}

/// The claims of a worker.
pub(super) struct Control {
    pub(super) shared: Arc<Shared>,
    pub(super) broker: Arc<dyn Broker>,
    pub(super) activities: Activities,
}

impl Control {
    /// Runs until it is dropped. `answers`: what comes on the worker's own queue.
    pub(super) async fn run(self, mut answers: Box<dyn Consumer>) {
        let mut again = tokio::time::interval(PERIOD);
        again.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = self.shared.claimed.notified() => self.ask().await,
                _ = again.tick() => self.ask().await,
                came = answers.next(ANSWERS_MAX) => {
                    // The broker was closed: the worker ends for that reason.
                    let Some(came) = came else { return };
                    for answer in came {
                        match ControlMessage::decode(&answer.body, &answer.properties) {
                            Ok(ControlMessage::Verdicts(verdicts)) => {
                                for told in verdicts {
                                    self.told(told).await;
                                }
                            }
                            Err(error) => tracing::warn!("an answer of a coordinator cannot be read: {error}"),
                        }
                    }
                }
            }
        }
    }

    /// Asks for what was not asked for yet, or not lately.
    async fn ask(&self) {
        let mut queues: Vec<(String, Vec<Report>)> = Vec::new();
        for (_, ledger) in &self.activities {
            ledger.each_claim(|claiming| {
                if claiming.asked.is_some_and(|asked| asked.elapsed() < AGAIN_AFTER) {
                    return;
                }
                claiming.asked = Some(Instant::now());
                let claim = Claim {
                    returns: claiming.task.returns,
                    lease: Some(claiming.lease.clone()),
                    delivered: claiming.copy,
                };
                let report = Report {
                    token: claiming.task.token.clone(),
                    worker: Some(self.shared.name.clone()),
                    started_at: None,
                    outcome: ReportOutcome::Claimed(claim),
                    child: None,
                    answer: None,
                };
                match queues.iter_mut().find(|(queue, _)| *queue == claiming.task.reply_to) {
                    Some((_, reports)) => reports.push(report),
                    None => queues.push((claiming.task.reply_to.clone(), vec![report])),
                }
            });
        }
        if queues.is_empty() {
            return;
        }
        let messages =
            queues.into_iter().map(|(queue, reports)| ShardMessage::Reports(reports).encode(queue, None));
        for published in self.broker.publish(messages.collect()).await {
            if let Err(error) = published {
                tracing::warn!("a task could not be asked for and is asked for again: {error}");
            }
        }
    }

    async fn told(&self, told: Told) {
        for (registration, ledger) in &self.activities {
            let Some(delivered) = told.delivered else {
                if let Some(attempt) = ledger.find_token(&told.token)
                    && attempt.returns() <= told.returns
                {
                    attempt.cancel(Cancelled::Ended);
                }
                continue;
            };
            let Some(claiming) = ledger.take_claim(&told.token, told.returns, delivered) else { continue };
            let execution_arn = claiming.task.execution.as_str();
            let (activity, attempt) = (registration.name, claiming.task.attempt);
            match told.verdict {
                Verdict::Run => {
                    tracing::info!(
                        activity,
                        execution_arn,
                        attempt,
                        "a task that was asked for is this worker's"
                    );
                    attempt::begin_granted(&self.shared, ledger, registration, claiming);
                }
                Verdict::Drop => {
                    tracing::info!(activity, execution_arn, attempt, "a task that was asked for is dropped");
                    ledger.ack(&[claiming.delivered]).await;
                }
            }
        }
    }
}
