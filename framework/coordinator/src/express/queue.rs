//! Asynchronous Express executions: each message on `stagepost.express` is one. It is acknowledged when the execution
//! has ended, which is within five minutes, so that whoever gets it after a crash runs the execution again.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    panic::AssertUnwindSafe,
    sync::Arc,
    time::Duration,
};

use futures_util::FutureExt;
use stagepost_broker::{Acker, Delivery};
use stagepost_protocol::{DeadReason, ExecutionId, ExpressStart};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{RunError, Runner};
use crate::{
    dispatch,
    options::Options,
    pipeline::{Backoff, await_store, deliver},
    sources::consume,
};

/// At most so many messages are taken at a time.
const TAKEN_MAX: usize = 64;
/// At a shutdown executions may go on for so long; the rest is run again elsewhere.
const GRACE: Duration = Duration::from_secs(5);

/// How an execution ended: `Err` says why it could not be run.
type Outcome = (ExecutionId, Result<(), String>);

struct Queue {
    runner: Arc<Runner>,
    name: String,
    acker: Arc<dyn Acker>,
    /// The newest delivery of each execution that runs.
    deliveries: BTreeMap<ExecutionId, Delivery>,
    running: JoinSet<Outcome>,
}

/// Consumes the queue until `shutdown`.
pub(crate) async fn run(runner: Arc<Runner>, options: Options, shutdown: CancellationToken) {
    let name = options.topology.express();
    let at_once = options.express_running_max;
    let Some(mut consumer) = consume(&runner.shared, &name, at_once, &shutdown).await else { return };
    let acker = consumer.acker();
    let mut queue = Queue { runner, name, acker, deliveries: BTreeMap::new(), running: JoinSet::new() };
    loop {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            Some(ended) = queue.running.join_next() => queue.settle(ended).await,
            deliveries = consumer.next(TAKEN_MAX) => match deliveries {
                Some(deliveries) => {
                    for delivery in deliveries {
                        queue.take(delivery).await;
                    }
                }
                None => break,
            },
        }
    }
    consumer.cancel().await;
    let rest = async {
        while let Some(ended) = queue.running.join_next().await {
            queue.settle(ended).await;
        }
    };
    if tokio::time::timeout(GRACE, rest).await.is_err() {
        tracing::warn!(
            executions = queue.running.len(),
            "Express executions were cut off by the shutdown; they are run again"
        );
    }
    queue.running.abort_all();
    // What is not settled goes back to the queue; at once, where it can.
    for delivery in queue.deliveries.values() {
        queue.acker.requeue(delivery.tag).await;
    }
}

impl Queue {
    async fn take(&mut self, delivery: Delivery) {
        let start = match ExpressStart::decode(&delivery.body, &delivery.properties) {
            Ok(start) => start,
            Err(reason) => return self.bury(&delivery, DeadReason::Malformed, &reason).await,
        };
        let id = start.execution.id();
        match self.deliveries.entry(id) {
            Entry::Vacant(place) => {
                place.insert(delivery);
                let runner = self.runner.clone();
                self.running.spawn(async move {
                    let ended = AssertUnwindSafe(run_one(runner, start)).catch_unwind().await;
                    (id, ended.unwrap_or_else(|_| Err(RunError::Internal.to_string())))
                });
            }
            // Whoever published it was not sure of that, and did so again: two messages, of which one is enough.
            Entry::Occupied(running) if running.get().tag.generation == delivery.tag.generation => {
                self.acker.ack(delivery.tag).await;
            }
            // It came again because the connection was lost: it is settled by its newest delivery.
            Entry::Occupied(mut running) => drop(running.insert(delivery)),
        }
    }

    async fn settle(&mut self, ended: Result<Outcome, tokio::task::JoinError>) {
        // A task that panics says so itself, and none is aborted before the end.
        let Ok((id, outcome)) = ended else { return };
        let Some(delivery) = self.deliveries.remove(&id) else { return };
        match outcome {
            Ok(()) => self.acker.ack(delivery.tag).await,
            Err(reason) => self.bury(&delivery, DeadReason::Refused, &reason).await,
        }
    }

    /// A message that can never be run goes to the dead letters.
    async fn bury(&self, delivery: &Delivery, kind: DeadReason, reason: &str) {
        tracing::warn!(reason, queue = self.name, "a message started nothing; it is among the dead letters");
        let shared = &self.runner.shared;
        let letter = dispatch::dead_letter(&self.runner.topology, &self.name, delivery, kind, reason);
        deliver(shared, &[], vec![letter], Vec::new()).await;
        self.acker.ack(delivery.tag).await;
    }
}

async fn run_one(runner: Arc<Runner>, start: ExpressStart) -> Result<(), String> {
    let mut backoff = Backoff::new();
    loop {
        match runner.begin(start.clone()).await {
            Ok(running) => {
                running.drive().await;
                return Ok(());
            }
            Err(RunError::Store(error)) => {
                tracing::warn!(%error, "an Express execution could not be started; trying again");
                backoff.wait().await;
                await_store(&runner.shared).await;
            }
            Err(error) => return Err(error.to_string()),
        }
    }
}
