//! Publishes reports to the shard queues, and acknowledges deliveries once the broker has confirmed them.
//!
//! ```text
//!  attempts ──► channel ──► gather what is ready ──► publish, wait for confirms ──► ack ──┐
//!                                 ▲                                                       │
//!                                 └───────────────────────────────────────────────────────┘
//! ```
//!
//! A report that finds the reporter idle is published at once; those that become ready while it waits for confirms go
//! out together, as one message for each shard queue. So one step at a time waits for nothing, and under load a
//! report costs a fraction of a message.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use stagepost_broker::{Broker, DeliveryTag, Error};
use stagepost_protocol::{Message, Report, ReportOutcome, ShardMessage};
use tokio::sync::mpsc;

use super::ledger::Ledger;
use crate::context::{Attempt, Outgoing};

/// Most reports in one message.
const REPORTS_MAX: usize = 256;
/// Bytes of outputs after which a message takes no further report.
const MESSAGE_BYTES_MAX: usize = 1 << 20;
/// Most reports that are gathered at a time.
const GATHER_MAX: usize = 4_096;
/// A message that the broker refused is published again after this pause.
const REFUSED_PAUSE: Duration = Duration::from_secs(1);
/// When the worker stops, a refused message is tried so often; then its deliveries go back to their queues.
const LAST_TRIES: u32 = 3;

/// Reports to a process that runs Express executions are dropped when its queue is missing so many times: it is gone,
/// and the executions with it.
const RUNNER_TRIES: u32 = 4;

/// Reports that travel together.
#[derive(Default)]
struct Batch {
    queue: String,
    /// How often they were refused.
    tries: u32,
    attempts: Vec<Arc<Attempt>>,
    reports: Vec<Report>,
    payload_bytes: usize,
}

impl Batch {
    fn is_for_runner(&self) -> bool {
        self.attempts.first().is_some_and(|attempt| attempt.token.claimed_runner().is_some())
    }
}

/// The reporter of a worker on a broker.
pub(super) struct Reporter {
    pub(super) broker: Arc<dyn Broker>,
    pub(super) worker: String,
    /// By the activity's name.
    pub(super) ledgers: HashMap<&'static str, Arc<Ledger>>,
}

impl Reporter {
    /// Runs until it is told to stop, or the broker connection was closed.
    pub(super) async fn run(self, mut outgoing: mpsc::Receiver<Outgoing>) {
        let mut refused: Vec<Batch> = Vec::new();
        let mut stopping = false;
        let mut last_tries = 0;
        loop {
            let mut gathered = Vec::new();
            if refused.is_empty() && !stopping {
                if outgoing.recv_many(&mut gathered, GATHER_MAX).await == 0 {
                    return;
                }
                // The attempts that are ready to run now may be ready to report in a moment.
                tokio::task::yield_now().await;
            } else if !refused.is_empty() {
                tokio::time::sleep(REFUSED_PAUSE).await;
            }
            while gathered.len() < GATHER_MAX
                && let Ok(next) = outgoing.try_recv()
            {
                gathered.push(next);
            }
            stopping |= gathered.iter().any(|next| matches!(next, Outgoing::Stop));
            let mut batches = std::mem::take(&mut refused);
            batches.extend(self.batches(gathered));
            match self.publish(batches).await {
                Ok(again) => refused = again,
                Err(Closed) => return,
            }
            if stopping {
                last_tries += 1;
                if refused.is_empty() || last_tries >= LAST_TRIES {
                    return;
                }
            }
        }
    }

    /// One message for each shard queue, or more where it would grow too large.
    fn batches(&self, gathered: Vec<Outgoing>) -> Vec<Batch> {
        let mut batches: Vec<Batch> = Vec::new();
        for next in gathered {
            let Outgoing::Report { attempt, outcome } = next else { continue };
            let bytes = payload_bytes(&outcome);
            let fits = |b: &&mut Batch| {
                b.queue == attempt.reply_to
                    && b.reports.len() < REPORTS_MAX
                    && b.payload_bytes + bytes <= MESSAGE_BYTES_MAX
            };
            // The last one of a queue: reports on one attempt stay in their order.
            let last = batches.iter_mut().rev().find(|b| b.queue == attempt.reply_to).filter(fits);
            let batch = match last {
                Some(batch) => batch,
                None => {
                    batches.push(Batch { queue: attempt.reply_to.clone(), ..Batch::default() });
                    batches.last_mut().expect("one was just added")
                }
            };
            batch.payload_bytes += bytes;
            batch.reports.push(Report {
                token: attempt.token.clone(),
                worker: Some(self.worker.clone()),
                started_at: Some(attempt.started_at),
                outcome,
                child: None,
                answer: None,
            });
            batch.attempts.push(attempt);
        }
        batches
    }

    /// Publishes, settles what was confirmed, and returns what the broker refused.
    async fn publish(&self, batches: Vec<Batch>) -> Result<Vec<Batch>, Closed> {
        let mut messages: Vec<Message> = Vec::with_capacity(batches.len());
        let mut sent = Vec::with_capacity(batches.len());
        for mut batch in batches {
            let message = ShardMessage::Reports(std::mem::take(&mut batch.reports));
            messages.push(message.encode(batch.queue.clone(), None));
            let ShardMessage::Reports(reports) = message else { continue };
            sent.push(Batch { reports, ..batch });
        }
        if messages.is_empty() {
            return Ok(Vec::new());
        }
        let results = self.broker.publish(messages).await;
        let mut refused = Vec::new();
        let mut confirmed = Vec::new();
        for (batch, result) in sent.into_iter().zip(results) {
            match result {
                Ok(()) => confirmed.push(batch),
                Err(Error::Closed) => {
                    tracing::warn!(
                        reports = batch.reports.len(),
                        "the broker connection was closed before all was reported"
                    );
                    return Err(Closed);
                }
                Err(Error::Unroutable { .. }) if batch.tries >= RUNNER_TRIES && batch.is_for_runner() => {
                    tracing::warn!(
                        reports = batch.reports.len(),
                        "the process that ran these Express executions is gone; nobody wants these reports"
                    );
                    confirmed.push(batch);
                }
                Err(error) => {
                    tracing::warn!(
                        reports = batch.reports.len(), pause = ?REFUSED_PAUSE,
                        "reports could not be published and are tried again: {error}"
                    );
                    refused.push(Batch { tries: batch.tries + 1, ..batch });
                }
            }
        }
        self.settle(&confirmed).await;
        Ok(refused)
    }

    /// Acknowledges the deliveries of attempts whose last report is confirmed.
    async fn settle(&self, confirmed: &[Batch]) {
        let mut by_activity: Vec<(&'static str, Vec<DeliveryTag>)> = Vec::new();
        for (attempt, report) in confirmed.iter().flat_map(|b| b.attempts.iter().zip(&b.reports)) {
            if matches!(report.outcome, ReportOutcome::Held { .. }) {
                attempt.progress().held = true;
            }
            if !is_last(&report.outcome) {
                continue;
            }
            let delivered = attempt.progress().delivered.take();
            let Some(ledger) = self.ledgers.get(attempt.activity) else { continue };
            ledger.end(&attempt.id);
            let Some(delivered) = delivered else { continue };
            match by_activity.iter_mut().find(|(activity, _)| *activity == attempt.activity) {
                Some((_, tags)) => tags.push(delivered.0),
                None => by_activity.push((attempt.activity, vec![delivered.0])),
            }
        }
        for (activity, tags) in by_activity {
            if let Some(ledger) = self.ledgers.get(activity) {
                ledger.ack(&tags).await;
            }
        }
    }
}

/// The broker connection was closed: nothing more can be published.
struct Closed;

fn payload_bytes(outcome: &ReportOutcome) -> usize {
    match outcome {
        ReportOutcome::Succeeded(output) | ReportOutcome::Submitted(output) => output.len(),
        ReportOutcome::Failed { cause, .. }
        | ReportOutcome::TimedOut { cause, .. }
        | ReportOutcome::Aborted { cause, .. } => cause.as_ref().map_or(0, String::len),
        ReportOutcome::Started
        | ReportOutcome::Held { .. }
        | ReportOutcome::Claimed(_)
        | ReportOutcome::Released { .. }
        | ReportOutcome::Heartbeat => 0,
    }
}

/// Whether an outcome ends its attempt, as far as this worker is concerned.
fn is_last(outcome: &ReportOutcome) -> bool {
    !matches!(outcome, ReportOutcome::Started | ReportOutcome::Held { .. } | ReportOutcome::Heartbeat)
}
