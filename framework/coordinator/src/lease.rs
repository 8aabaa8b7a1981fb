//! Gains and loses shards. One task asks the store every third of a lease; one task per owned shard moves its
//! queue's deliveries into the feed.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use stagepost_broker::{ConsumeOptions, QueueSpec};
use stagepost_protocol::ShardId;
use stagepost_store::Lease;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use crate::{
    deciding::Feed,
    options::Options,
    pipeline::{Backoff, Shared, Side},
    recover::recover_shard,
};

struct Owned {
    epoch: i64,
    stop: oneshot::Sender<Stop>,
    task: JoinHandle<()>,
}

/// How a shard is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stop {
    /// What was delivered is decided and settled first.
    Graceful,
    /// Somebody else owns it already.
    AtOnce,
}

/// Runs until `shutdown`, then gives everything back.
pub(crate) async fn run(
    shared: Arc<Shared>,
    options: Options,
    token_key: stagepost_protocol::TokenKey,
    feed: mpsc::Sender<Feed>,
    shutdown: CancellationToken,
) {
    let mut owned: BTreeMap<ShardId, Owned> = BTreeMap::new();
    let mut known: BTreeSet<ShardId> = BTreeSet::new();
    let every = options.lease_ttl / 3;
    while !shutdown.is_cancelled() {
        drop_failed(&shared, &mut owned).await;
        match shared.store.lease(&options.owner, options.lease_ttl, options.shards.count()).await {
            Ok((leases, fair)) => {
                lose_others(&mut owned, &leases).await;
                for lease in leases {
                    owned.entry(lease.shard).or_insert_with(|| {
                        let first = known.insert(lease.shard);
                        Shard::start(&shared, &options, &token_key, &feed, lease, first)
                    });
                }
                release_surplus(&shared, &options, &mut owned, fair).await;
                let leads = owned.contains_key(&ShardId(0));
                shared.leads.send_if_modified(|led| std::mem::replace(led, leads) != leads);
            }
            Err(error) => tracing::warn!(%error, "leases could not be renewed; trying again"),
        }
        tokio::select! {
            biased;
            () = tokio::time::sleep(every) => {}
            () = shared.lease_lost.notified() => {}
            () = shutdown.cancelled() => {}
        }
    }
    let ending = owned.into_values().map(|shard| stop(shard, Stop::Graceful));
    futures_util::future::join_all(ending).await;
    if let Err(error) = shared.store.release(&options.owner, None).await {
        tracing::warn!(%error, "leases could not be released; they run out by themselves");
    }
}

/// Gives up the shards whose leases a commit found lost, and those whose tasks have ended by themselves; what of
/// them is still ours begins anew.
async fn drop_failed(shared: &Shared, owned: &mut BTreeMap<ShardId, Owned>) {
    let mut gone: Vec<ShardId> = Vec::new();
    for lost in shared.take_lost(Side::Leases) {
        gone.extend(owned.get(&lost.shard).filter(|o| o.epoch == lost.epoch).map(|_| lost.shard));
    }
    gone.extend(owned.iter().filter(|(_, o)| o.task.is_finished()).map(|(shard, _)| *shard));
    for shard in gone {
        if let Some(gone) = owned.remove(&shard) {
            tracing::warn!(
                ?shard,
                "a shard was lost or its task has ended; it begins anew if it is still ours"
            );
            stop(gone, Stop::AtOnce).await;
        }
    }
}

async fn lose_others(owned: &mut BTreeMap<ShardId, Owned>, leases: &[Lease]) {
    let current = |shard: &ShardId, epoch: i64| leases.iter().any(|l| l.shard == *shard && l.epoch == epoch);
    let lost: Vec<ShardId> = owned.iter().filter(|(s, o)| !current(s, o.epoch)).map(|(s, _)| *s).collect();
    for shard in lost {
        if let Some(gone) = owned.remove(&shard) {
            tracing::info!(?shard, "shard lost");
            stop(gone, Stop::AtOnce).await;
        }
    }
}

async fn release_surplus(
    shared: &Shared,
    options: &Options,
    owned: &mut BTreeMap<ShardId, Owned>,
    fair: usize,
) {
    while owned.len() > fair {
        let Some((shard, surplus)) = owned.pop_last() else { return };
        stop(surplus, Stop::Graceful).await;
        match shared.store.release(&options.owner, Some(&[shard])).await {
            Ok(()) => tracing::info!(?shard, "shard released to another coordinator"),
            Err(error) => {
                tracing::warn!(%error, ?shard, "a lease could not be released; it runs out by itself")
            }
        }
    }
}

async fn stop(owned: Owned, how: Stop) {
    // A task that has ended does not listen any more.
    let _ = owned.stop.send(how);
    if let Err(error) = owned.task.await {
        tracing::error!(%error, "the task of a shard failed");
    }
}

struct Shard {
    shared: Arc<Shared>,
    options: Options,
    token_key: stagepost_protocol::TokenKey,
    feed: mpsc::Sender<Feed>,
    lease: Lease,
    /// This process has not had the shard before.
    first: bool,
}

impl Shard {
    fn start(
        shared: &Arc<Shared>,
        options: &Options,
        token_key: &stagepost_protocol::TokenKey,
        feed: &mpsc::Sender<Feed>,
        lease: Lease,
        first: bool,
    ) -> Owned {
        let (stop, stopped) = oneshot::channel();
        let epoch = lease.epoch;
        let shard = Shard {
            shared: shared.clone(),
            options: options.clone(),
            token_key: token_key.clone(),
            feed: feed.clone(),
            lease,
            first,
        };
        Owned { epoch, stop, task: tokio::spawn(shard.run(stopped)) }
    }

    async fn run(self, mut stopped: oneshot::Receiver<Stop>) {
        let shard = self.lease.shard;
        let queue = self.options.topology.shard(shard);
        let prepared = tokio::select! {
            biased;
            _ = &mut stopped => return,
            consumer = self.prepare(&queue) => consumer,
        };
        let mut consumer = prepared;
        let acker = consumer.acker();
        if self.feed.send(Feed::Gained(self.lease.clone())).await.is_err() {
            return;
        }
        tracing::info!(?shard, epoch = self.lease.epoch, "shard gained");
        let how = loop {
            tokio::select! {
                biased;
                how = &mut stopped => break how.unwrap_or(Stop::Graceful),
                deliveries = consumer.next(self.options.batch_max) => match deliveries {
                    Some(deliveries) => {
                        let fed = Feed::Deliveries { lease: self.lease.clone(), deliveries, acker: acker.clone() };
                        tokio::select! {
                            biased;
                            sent = self.feed.send(fed) => if sent.is_err() { return },
                            // The loop is stuck, and these deliveries are dropped unsettled: none after them may
                            // be acknowledged, so nothing more is taken.
                            _ = &mut stopped => break Stop::AtOnce,
                        }
                    }
                    // The broker was closed, or the queue is gone.
                    None => return,
                },
            }
        };
        // Whatever is not settled when the consumer is dropped goes to the next owner, as after a crash: so a
        // loop that is stuck, because store or broker is away, is not waited for.
        let give_up = self.give_up(&mut *consumer, how);
        if tokio::time::timeout(self.options.lease_ttl, give_up).await.is_err() {
            tracing::warn!(?shard, "not all could be settled in time; the rest goes to the next owner");
        }
    }

    async fn give_up(&self, consumer: &mut dyn stagepost_broker::Consumer, how: Stop) {
        let shard = self.lease.shard;
        if how == Stop::Graceful {
            consumer.cancel().await;
            let acker = consumer.acker();
            while let Some(deliveries) = consumer.next(self.options.batch_max).await {
                let fed = Feed::Deliveries { lease: self.lease.clone(), deliveries, acker: acker.clone() };
                if self.feed.send(fed).await.is_err() {
                    return;
                }
            }
        }
        let (done, settled) = oneshot::channel();
        if self.feed.send(Feed::Released { shard, done }).await.is_ok() && how == Stop::Graceful {
            // An error means that the pipeline gave the batch up: nothing is left to wait for.
            let _ = settled.await;
        }
    }

    /// Declares and consumes the shard's queue; waits for store and broker as long as it takes.
    async fn prepare(&self, queue: &str) -> Box<dyn stagepost_broker::Consumer> {
        let mut backoff = Backoff::new();
        if self.options.recover_shards {
            // At first there is nothing of the shard at a broker that keeps nothing: nobody was given what is
            // published now. Whatever had begun it either said so or died with the process.
            let mut republished = !self.first;
            while let Err(error) = recover_shard(
                &*self.shared.store,
                &*self.shared.broker,
                &self.options,
                &self.token_key,
                self.lease.shard,
                republished,
            )
            .await
            {
                republished = true;
                tracing::warn!(%error, "what is pending could not be published again; trying again");
                backoff.wait().await;
            }
        }
        let prefetch = ConsumeOptions { prefetch: self.options.prefetch };
        loop {
            let consumed = async {
                self.shared.broker.declare(&[QueueSpec::ours(queue)]).await?;
                self.shared.broker.consume(queue, prefetch).await
            };
            match consumed.await {
                Ok(consumer) => return consumer,
                Err(error) => {
                    tracing::error!(%error, queue, "a shard's queue cannot be consumed; trying again");
                    backoff.wait().await;
                }
            }
        }
    }
}
