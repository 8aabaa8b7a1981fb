//! Dead letters on a store and a broker that fail: whatever happens, none is lost.

use std::{collections::BTreeSet, time::Duration};

use stagepost_broker::QueueSpec;
use stagepost_protocol::{DeadLetter, DeadReason, Message, Properties};
use stagepost_store::{ListRecords, Records};
use tokio::time::Instant;

use crate::{
    pause,
    rig::{PATIENCE, Rig},
};

/// Nonsense comes to the queue of token messages while a coordinator crashes and another one takes its place.
pub(crate) async fn all_are_kept(seed: u64) {
    let mut rig = Rig::new(seed).await;
    rig.keep_dead_letters();
    rig.broker.declare(&[QueueSpec::ours(rig.topology.callbacks())]).await.unwrap();
    let first = rig.coordinator().await;
    let mut sent = send(&rig, 0..40).await;
    pause(&rig, 100).await;
    match rig.dice.below(2) {
        0 => drop(first),
        _ => first.shutdown().await,
    }
    let second = rig.coordinator().await;
    sent.extend(send(&rig, 40..60).await);
    let deadline = Instant::now() + PATIENCE;
    while kept(&rig).await != sent {
        assert!(Instant::now() < deadline, "not all are kept");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    rig.dice.stop_faults();
    for queue in [rig.topology.callbacks(), rig.topology.dead_letters()] {
        while rig.broker.depth(&queue).await.unwrap() != Some(0) {
            assert!(Instant::now() < deadline, "{queue} is not empty");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    second.shutdown().await;
}

/// Sends messages that are no token messages; gives their ids.
async fn send(rig: &Rig, numbers: std::ops::Range<u32>) -> BTreeSet<String> {
    let ids: BTreeSet<String> = numbers.map(|n| format!("message-{n}")).collect();
    let message = |id: &String| Message {
        queue: rig.topology.callbacks(),
        body: "hello".into(),
        properties: Properties { message_id: Some(id.clone()), ..Properties::default() },
        persistent: true,
    };
    let published = rig.broker.publish(ids.iter().map(message).collect()).await;
    assert!(published.iter().all(Result::is_ok), "{published:?}");
    ids
}

/// The ids of the messages that are kept. One that was delivered twice may be kept twice, each time as it came.
async fn kept(rig: &Rig) -> BTreeSet<String> {
    let query = ListRecords {
        kind: DeadLetter::RECORD.to_owned(),
        namespace: None,
        label: Some(rig.topology.callbacks()),
        descending: false,
        limit: 1_000,
        after: None,
    };
    let page = rig.store.records(&query).await.unwrap();
    let letters = page.items.iter().map(|record| DeadLetter::from_payload(&record.body).unwrap());
    letters
        .map(|letter| {
            assert_eq!((letter.kind, &letter.body[..]), (DeadReason::NotJson, &b"hello"[..]));
            letter.properties.message_id.unwrap()
        })
        .collect()
}
