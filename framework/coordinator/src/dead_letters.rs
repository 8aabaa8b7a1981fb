//! Keeps dead letters in the store, where they can be looked at, requeued and discarded one by one: a queue shows
//! nothing of what is on it without moving it.
//!
//! A letter is acknowledged when it is stored. Nothing is taken off the queue while the store is away or holds as many
//! letters as it may: they wait where they are.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use stagepost_broker::{Consumer, Delivery};
use stagepost_protocol::{DeadLetter, DeadReason, Namespace};
use stagepost_store::Record;
use tokio_util::sync::CancellationToken;

use crate::{
    metrics::add,
    options::Options,
    pipeline::{Backoff, Shared, await_store},
    sources::consume,
};

/// At most so many letters are unsettled, which bounds the memory that large ones take.
const PREFETCH: u16 = 16;
/// How often letters are counted while none come: others requeue and discard them.
const RECOUNT: Duration = Duration::from_secs(60);
/// How often, while there are too many.
const RECOUNT_FULL: Duration = Duration::from_secs(5);

/// Why no more letters are taken.
enum Paused {
    Full,
    /// This one could not be stored.
    Unstored(Box<Record>, DeadReason),
    Shutdown,
}

/// Keeps letters until `shutdown`.
pub(crate) async fn run(shared: Arc<Shared>, options: Options, shutdown: CancellationToken) {
    let keeping = async {
        loop {
            room(&shared, options.dead_letters_max).await;
            let queue = options.topology.dead_letters();
            let Some(consumer) = consume(&shared, &queue, PREFETCH, &shutdown).await else { return };
            match take(&shared, &options, consumer, &shutdown).await {
                Paused::Shutdown => return,
                Paused::Full => {}
                // The queue is left alone until this one is stored: RabbitMQ counts deliveries, and drops a message that
                // was given back too often.
                Paused::Unstored(record, kind) => store_patiently(&shared, &record, kind).await,
            }
        }
    };
    tokio::select! {
        biased;
        () = keeping => {}
        // What is not acknowledged comes again.
        () = shutdown.cancelled() => {}
    }
}

/// Waits until there is room for as many letters as can be on their way.
async fn room(shared: &Shared, max: u32) {
    let mut full = false;
    while !has_room(shared, max).await {
        if !full {
            tracing::warn!(
                max,
                "there are too many dead letters; further ones wait in their queue until some are requeued or discarded"
            );
            shared.metrics.dead_letters_full.store(1, Relaxed);
        }
        full = true;
        tokio::time::sleep(RECOUNT_FULL).await;
    }
    shared.metrics.dead_letters_full.store(0, Relaxed);
}

/// Counts the letters, and whether there is room for more.
async fn has_room(shared: &Shared, max: u32) -> bool {
    let mut backoff = Backoff::new();
    loop {
        match shared.store.count_records(DeadLetter::RECORD).await {
            Ok(kept) => {
                shared.metrics.dead_letters_kept.store(kept, Relaxed);
                return kept < u64::from(max);
            }
            Err(error) => {
                tracing::warn!(%error, "dead letters could not be counted; trying again");
                backoff.wait().await;
                await_store(shared).await;
            }
        }
    }
}

/// Takes letters off the queue and stores them.
async fn take(
    shared: &Shared,
    options: &Options,
    mut consumer: Box<dyn Consumer>,
    shutdown: &CancellationToken,
) -> Paused {
    let acker = consumer.acker();
    let mut full = false;
    loop {
        let deliveries = tokio::select! {
            biased;
            () = shutdown.cancelled() => return Paused::Shutdown,
            deliveries = consumer.next(usize::from(PREFETCH)) => deliveries,
            () = tokio::time::sleep(RECOUNT), if !full => {
                has_room(shared, options.dead_letters_max).await;
                continue;
            }
        };
        let Some(deliveries) = deliveries else {
            return if full { Paused::Full } else { Paused::Shutdown };
        };
        for delivery in deliveries {
            let tag = delivery.tag;
            let (record, kind) = record(options, delivery);
            match shared.store.put_record(&record).await {
                Ok(true) => add(shared.metrics.dead_letters.of(kind), 1),
                // It was stored before and is delivered once more.
                Ok(false) => {}
                Err(error) => {
                    tracing::warn!(%error, "a dead letter could not be stored; it stays in its queue for now");
                    return Paused::Unstored(Box::new(record), kind);
                }
            }
            acker.ack(tag).await;
        }
        if !full && !has_room(shared, options.dead_letters_max).await {
            // What is on its way already is stored all the same: it would be counted as delivered.
            full = true;
            consumer.cancel().await;
        }
    }
}

/// Stores a letter as soon as the store lets it. It is still in its queue, and recognised when it comes from there.
async fn store_patiently(shared: &Shared, record: &Record, kind: DeadReason) {
    let mut backoff = Backoff::new();
    loop {
        backoff.wait().await;
        await_store(shared).await;
        match shared.store.put_record(record).await {
            Ok(stored) => return add(shared.metrics.dead_letters.of(kind), usize::from(stored)),
            Err(error) => tracing::warn!(%error, "a dead letter could not be stored; trying again"),
        }
    }
}

/// A letter as it is stored. One that we made ourselves has an id; any other one gets it here, and is stored twice if
/// it is delivered twice.
fn record(options: &Options, delivery: Delivery) -> (Record, DeadReason) {
    let (id, letter) = DeadLetter::read(delivery.body, delivery.properties, options.clock.now());
    let record = Record {
        kind: DeadLetter::RECORD.to_owned(),
        // They are of the installation, not of an account.
        namespace: Namespace::default(),
        key: id.unwrap_or_else(|| uuid::Uuid::now_v7().to_string()),
        label: letter.source.clone().unwrap_or_default(),
        due_at: None,
        version: 0,
        body: letter.to_payload(),
    };
    (record, letter.kind)
}
