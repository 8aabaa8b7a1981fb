//! Carries decided batches out: commit → publish → ack, in this order for each batch, and batch after batch.
//!
//! While one batch is committed the next is decided on top of it. So when a commit fails, whatever was decided
//! later is worthless: the generation is raised, batches of earlier generations are given up (their deliveries
//! go back to the queues), and the deciding side drops its cache.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesOrdered};
use stagepost_broker::{Acker, Broker, DeliveryTag, Error as BrokerError, QueueSpec};
use stagepost_protocol::{DeadReason, ExecutionId, Message, topology::Topology};
use stagepost_store::{Batch, Lease, Store};
use tokio::{
    sync::{Notify, mpsc, oneshot, watch},
    time::Instant,
};

use crate::{
    dispatch::dead_message,
    late::Late,
    metrics::{Metrics, add},
    options::{Observer, Options},
    run::Parts,
    sources::RemoteQueues,
};

/// Batches whose publications may be unconfirmed at a time.
const PUBLISHING_MAX: usize = 32;
/// A message that no queue takes is a dead letter after so many attempts, some ten seconds.
const UNROUTABLE_MAX: u32 = 8;
/// How long after a failure the next attempt begins, at first and at most.
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_MOST: Duration = Duration::from_secs(5);

/// A batch that was decided: what to write, and what to do once it is written.
pub(crate) struct Decided {
    pub(crate) generation: u64,
    /// Its shards were ours then.
    ours_at: Instant,
    pub(crate) batch: Batch,
    /// Queues that messages go to and that may not exist yet.
    pub(crate) declare: Vec<QueueSpec>,
    /// Must be confirmed before the inputs are acknowledged.
    pub(crate) messages: Vec<Message>,
    /// Answers that came too late: dead letters, unless they repeat what ended their attempts.
    pub(crate) late: Vec<Late>,
    /// Answers to requests; who does not wait for one any more does not get it.
    pub(crate) replies: Vec<Message>,
    /// The deliveries that led to this batch, in order.
    pub(crate) deliveries: Vec<(Arc<dyn Acker>, Vec<DeliveryTag>)>,
    /// The executions that it ends.
    pub(crate) ended: Vec<ExecutionId>,
    /// The executions that it changes.
    pub(crate) executions: Vec<ExecutionId>,
    /// Told when this batch and all before it are settled.
    pub(crate) barriers: Vec<oneshot::Sender<()>>,
}

impl Decided {
    pub(crate) fn new(generation: u64) -> Decided {
        Decided {
            generation,
            ours_at: Instant::now(),
            batch: Batch::default(),
            declare: Vec::new(),
            messages: Vec::new(),
            late: Vec::new(),
            replies: Vec::new(),
            deliveries: Vec::new(),
            ended: Vec::new(),
            executions: Vec::new(),
            barriers: Vec::new(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.batch.is_empty()
            && self.messages.is_empty()
            && self.replies.is_empty()
            && self.deliveries.is_empty()
            && self.executions.is_empty()
            && self.barriers.is_empty()
    }

    async fn give_back(self) {
        for (acker, tags) in self.deliveries {
            for tag in tags {
                acker.requeue(tag).await;
            }
        }
    }
}

/// Who is to learn that a lease was lost.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Side {
    Deciding,
    Leases,
}

/// What the two sides tell each other. Locks are held for a push or a take only.
pub(crate) struct Shared {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) broker: Arc<dyn Broker>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) topology: Topology,
    pub(crate) remote_queues: Option<RemoteQueues>,
    /// So long after one of ours was valid another owner may have a shard.
    lease_ttl: Duration,
    on_end: Option<Observer>,
    generation: AtomicU64,
    settled: Mutex<Vec<(u64, Vec<ExecutionId>)>>,
    /// For the deciding side and for the side that holds the leases; each takes its own.
    lost: [Mutex<Vec<Lease>>; 2],
    suspects: Mutex<Vec<ExecutionId>>,
    /// Something was settled.
    pub(crate) settled_changed: Notify,
    /// A commit showed that a lease is gone.
    pub(crate) lease_lost: Notify,
    /// The first shard is ours, and with it what one coordinator of the installation does.
    pub(crate) leads: watch::Sender<bool>,
}

fn take<T: Default>(mutex: &Mutex<T>) -> T {
    std::mem::take(&mut *mutex.lock().unwrap_or_else(PoisonError::into_inner))
}

impl Shared {
    pub(crate) fn new(parts: Parts, metrics: Arc<Metrics>, options: &Options) -> Shared {
        Shared {
            store: parts.store,
            broker: parts.broker,
            metrics,
            topology: options.topology.clone(),
            remote_queues: options.remote_queues.clone(),
            lease_ttl: options.lease_ttl,
            on_end: options.on_end.clone(),
            generation: AtomicU64::new(0),
            settled: Mutex::default(),
            lost: Default::default(),
            suspects: Mutex::default(),
            settled_changed: Notify::new(),
            lease_lost: Notify::new(),
            leads: watch::Sender::new(false),
        }
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// The executions of batches that were committed, published and acknowledged since the last call.
    pub(crate) fn take_settled(&self) -> Vec<(u64, Vec<ExecutionId>)> {
        take(&self.settled)
    }

    /// The leases that were found lost since this side's last call. With their epochs: the shard may have been
    /// gained anew meanwhile.
    pub(crate) fn take_lost(&self, side: Side) -> Vec<Lease> {
        take(&self.lost[side as usize])
    }

    /// The executions of batches of which it is not known whether they were committed, since the last call.
    pub(crate) fn take_suspects(&self) -> Vec<ExecutionId> {
        take(&self.suspects)
    }

    fn settle(&self, generation: u64, executions: Vec<ExecutionId>) {
        self.settled.lock().unwrap_or_else(PoisonError::into_inner).push((generation, executions));
        self.settled_changed.notify_one();
    }

    /// Lets a shard be given up, and gained anew if its lease is still ours.
    pub(crate) fn begin_anew(&self, lease: Lease) {
        let mut lost = self.lost[Side::Leases as usize].lock().unwrap_or_else(PoisonError::into_inner);
        if !lost.contains(&lease) {
            lost.push(lease);
            self.lease_lost.notify_one();
        }
    }

    fn fail(&self, lost: Option<Lease>, suspects: &[ExecutionId]) {
        if let Some(lease) = lost {
            for side in &self.lost {
                side.lock().unwrap_or_else(PoisonError::into_inner).push(lease.clone());
            }
            self.lease_lost.notify_one();
        }
        // Before the generation: who sees the new one sees these too.
        self.suspects.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(suspects);
        self.generation.fetch_add(1, Ordering::AcqRel);
        add(&self.metrics.batches_failed, 1);
        self.settled_changed.notify_one();
    }
}

/// Waits, longer from time to time.
pub(crate) struct Backoff(Duration);

impl Backoff {
    pub(crate) fn new() -> Backoff {
        Backoff(RETRY_FIRST)
    }

    pub(crate) async fn wait(&mut self) {
        tokio::time::sleep(self.0).await;
        self.0 = (self.0 * 2).min(RETRY_MOST);
    }
}

/// Commits batches one after the other and hands them on. Ends when the deciding side is gone.
pub(crate) async fn commit(
    shared: Arc<Shared>,
    mut decided: mpsc::Receiver<Decided>,
    committed: mpsc::Sender<Decided>,
) {
    let mut failures = Backoff::new();
    while let Some(mut next) = decided.recv().await {
        if next.generation < shared.generation() {
            next.give_back().await;
            continue;
        }
        let batch = std::mem::take(&mut next.batch);
        let (rows, written) = (batch.history.len(), !batch.is_empty());
        let leases = batch.leases.clone();
        // Where nothing is written, that the shards are still ours is what is asked.
        let asks = written || !leases.is_empty();
        // Committing asks the store whether they are, at some time after this.
        next.ours_at = Instant::now();
        let result = if asks { shared.store.commit(batch).await } else { Ok(()) };
        match result {
            Ok(()) => {
                if asks {
                    failures = Backoff::new();
                }
                if written {
                    add(&shared.metrics.batches, 1);
                    add(&shared.metrics.decisions, rows);
                }
                if let Some(on_end) = &shared.on_end {
                    next.ended.iter().for_each(|id| on_end(*id));
                }
                if committed.send(next).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                tracing::warn!(%error, "a batch could not be committed; its messages go back to their queues");
                use stagepost_store::Error;
                let lost = match error {
                    Error::LeaseLost(shard) => leases.into_iter().find(|lease| lease.shard == shard),
                    _ => None,
                };
                // These two wrote nothing; after anything else nobody knows.
                let known = matches!(error, Error::LeaseLost(_) | Error::Conflict(_));
                shared.fail(lost, if known { &[] } else { &next.executions });
                // What is decided next must not be committed before all that was committed earlier is confirmed:
                // a wake-up moves on only when what it caused is, and the deciding side has just forgotten what
                // is on its way.
                let (done, settled) = oneshot::channel();
                let mut barrier = Decided::new(next.generation);
                barrier.barriers.push(done);
                if committed.send(barrier).await.is_err() || settled.await.is_err() {
                    return;
                }
                // A store that refuses again and again must not be asked, nor messages requeued, without a pause.
                failures.wait().await;
                await_store(&shared).await;
                next.give_back().await;
            }
        }
    }
}

/// Waits until the store answers.
pub(crate) async fn await_store(shared: &Shared) {
    let mut backoff = Backoff::new();
    while let Err(error) = shared.store.ping().await {
        shared.metrics.store_down.store(true, Ordering::Relaxed);
        tracing::warn!(%error, "the store does not answer; waiting for it");
        backoff.wait().await;
    }
    shared.metrics.store_down.store(false, Ordering::Relaxed);
}

type Publishing = Pin<Box<dyn Future<Output = Decided> + Send>>;

/// Publishes what committed batches lead to, several at a time, and settles them in order. Ends when the
/// committing side is gone and everything is settled.
pub(crate) async fn publish(shared: Arc<Shared>, mut committed: mpsc::Receiver<Decided>) {
    let mut publishing: FuturesOrdered<Publishing> = FuturesOrdered::new();
    let mut open = true;
    while open || !publishing.is_empty() {
        tokio::select! {
            biased;
            Some(done) = publishing.next(), if !publishing.is_empty() => settle(&shared, done).await,
            next = committed.recv(), if open && publishing.len() < PUBLISHING_MAX => match next {
                Some(decided) => publishing.push_back(Box::pin(publish_one(shared.clone(), decided))),
                None => open = false,
            },
        }
    }
}

async fn publish_one(shared: Arc<Shared>, mut decided: Decided) -> Decided {
    let declare = std::mem::take(&mut decided.declare);
    let replies = std::mem::take(&mut decided.replies);
    let mut messages = std::mem::take(&mut decided.messages);
    // Another owner may have published them, as repetitions: then these must not pass for the only ones.
    if decided.ours_at.elapsed() >= shared.lease_ttl {
        messages.iter_mut().for_each(Message::mark_republished);
    }
    for late in std::mem::take(&mut decided.late) {
        if !late.is_repetition(&shared).await {
            tracing::warn!(execution = %late.execution, "an answer came too late; it is among the dead letters");
            messages.push(late.letter);
        }
    }
    deliver(&shared, &declare, messages, replies).await;
    decided
}

/// Publishes until every message is confirmed, or is among the dead letters because no queue takes it. Replies are
/// published once: who does not wait for one any more does not get it.
pub(crate) async fn deliver(
    shared: &Shared,
    declare: &[QueueSpec],
    mut messages: Vec<Message>,
    mut replies: Vec<Message>,
) {
    // A queue that cannot be declared may still take messages; publishing tells. A broker that is away is waited
    // for by `declare` itself.
    if !declare.is_empty() && shared.broker.declare(declare).await.is_err() {
        for queue in declare {
            if let Err(error) = shared.broker.declare(std::slice::from_ref(queue)).await {
                tracing::error!(%error, queue = queue.name, "a queue could not be declared");
            }
        }
    }
    let must = messages.len();
    messages.append(&mut replies);
    let mut refused = publish_all(shared, messages, must).await;
    let mut backoff = Backoff::new();
    let mut attempts = 0;
    while !refused.is_empty() {
        backoff.wait().await;
        attempts += 1;
        let mut again = Vec::with_capacity(refused.len());
        for (message, error) in refused {
            again.push(remedy(shared, message, &error, attempts).await);
        }
        let must = again.len();
        refused = publish_all(shared, again, must).await;
    }
}

/// What is to be published instead of a message that was refused. A full queue is waited for. A queue that does
/// not exist is declared again; if that does not help, the message goes to the dead letters, so that one bad name
/// in a definition does not stop everything.
async fn remedy(shared: &Shared, mut message: Message, error: &BrokerError, attempts: u32) -> Message {
    let BrokerError::Unroutable { queue } = error else {
        // Some of the queue's replicas may have it all the same.
        message.mark_republished();
        return message;
    };
    let dead_letters = shared.topology.dead_letters();
    if let Err(error) = shared.broker.declare(&[QueueSpec::ours(queue)]).await {
        tracing::error!(%error, queue, "a queue could not be declared");
    }
    if attempts < UNROUTABLE_MAX || *queue == dead_letters {
        return message;
    }
    let message = Message { queue: queue.clone(), ..message };
    dead_message(&shared.topology, message, DeadReason::Unroutable, &error.to_string())
}

/// Publishes, and returns those of the first `must` that were refused. Whoever a reply is for may be gone.
async fn publish_all(shared: &Shared, messages: Vec<Message>, must: usize) -> Vec<(Message, BrokerError)> {
    if messages.is_empty() {
        return Vec::new();
    }
    // Bodies are reference counted; this copy is only taken where something may have to be repeated.
    let kept: Vec<Message> = messages[..must].to_vec();
    let results = shared.broker.publish(messages).await;
    let refused = |(message, result): (Message, Result<(), BrokerError>)| match result {
        Ok(()) => None,
        // The broker was closed: the process is going down, and the unacknowledged inputs bring it all back.
        Err(BrokerError::Closed) => None,
        Err(error) => {
            tracing::error!(%error, queue = message.queue, "a message was refused; trying again");
            Some((message, error))
        }
    };
    kept.into_iter().zip(results).filter_map(refused).collect()
}

async fn settle(shared: &Shared, decided: Decided) {
    for (acker, tags) in decided.deliveries {
        // Tags are in order; the last of each generation stands for those before it.
        for (i, tag) in tags.iter().enumerate() {
            if tags.get(i + 1).is_none_or(|next| next.generation != tag.generation) {
                acker.ack_up_to(*tag).await;
            }
        }
    }
    shared.settle(decided.generation, decided.executions);
    for barrier in decided.barriers {
        // Who waited for it may have given up.
        let _ = barrier.send(());
    }
}
