//! Leases: one owner per shard, a new epoch with every change, a fair share for everybody.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use stagepost_protocol::ShardId;

use super::{Database, all_shards, new_execution};
use crate::{Batch, Error, Store};

const MINUTE: Duration = Duration::from_secs(60);

/// Renews an owner's leases, and gives away what it has beyond its share.
async fn beat(store: &dyn Store, owner: &str, shards: u16) -> Vec<(ShardId, i64)> {
    let (mut leases, share) = store.lease(owner, MINUTE, shards).await.unwrap();
    let surplus = leases.split_off(leases.len().min(share));
    if !surplus.is_empty() {
        let surplus: Vec<_> = surplus.iter().map(|l| l.shard).collect();
        store.release(owner, Some(&surplus)).await.unwrap();
    }
    leases.iter().map(|l| (l.shard, l.epoch)).collect()
}

pub(crate) async fn three_owners_share_all_shards_and_never_one(db: Arc<dyn Database>) {
    const SHARDS: u16 = 16;
    let store = db.open().await;
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let beats = ["a", "b", "c"].map(|owner| {
            let store = store.clone();
            tokio::spawn(async move { beat(&*store, owner, SHARDS).await })
        });
        let mut held = BTreeMap::new();
        let mut shares = Vec::new();
        for leases in beats {
            let leases = leases.await.unwrap();
            shares.push(leases.len());
            for (shard, epoch) in leases {
                // Two owners may see one shard in one round, one after the other; never with one epoch.
                let others: &mut Vec<i64> = held.entry(shard).or_default();
                assert!(!others.contains(&epoch), "{shard:?} has two owners in epoch {epoch}");
                others.push(epoch);
            }
        }
        // 16 among 3: nobody has more than 6, so nobody less than 4.
        let fair = shares.iter().all(|n| (4..=6).contains(n));
        if fair && held.len() == usize::from(SHARDS) && shares.iter().sum::<usize>() == held.len() {
            break;
        }
        assert!(Instant::now() < deadline, "the shards were not shared: {shares:?}");
    }
}

pub(crate) async fn an_expired_owner_loses_its_shards_to_a_higher_epoch(db: Arc<dyn Database>) {
    let store = db.open().await;
    let (old, share) = store.lease("a", MINUTE, 4).await.unwrap();
    assert_eq!((old.len(), share), (4, 4));
    let (none, share) = store.lease("b", MINUTE, 4).await.unwrap();
    assert_eq!((none.len(), share), (0, 2));
    let (renewed, _) = store.lease("a", Duration::from_millis(50), 4).await.unwrap();
    assert_eq!(renewed, old);

    let deadline = Instant::now() + Duration::from_secs(20);
    let new = loop {
        let (leases, _) = store.lease("b", MINUTE, 4).await.unwrap();
        if leases.len() == 4 {
            break leases;
        }
        assert!(leases.is_empty() && Instant::now() < deadline, "{leases:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    for (old, new) in old.iter().zip(&new) {
        assert_eq!((old.shard, old.epoch + 1), (new.shard, new.epoch));
    }
    let stale = Batch { leases: old, started: vec![new_execution("one")], ..Batch::default() };
    assert!(matches!(store.commit(stale).await, Err(Error::LeaseLost(_))));
    let (back, share) = store.lease("a", MINUTE, 4).await.unwrap();
    assert_eq!((back.len(), share), (0, 2));
    let current = Batch { leases: new, started: vec![new_execution("one")], ..Batch::default() };
    store.commit(current).await.unwrap();
}

pub(crate) async fn an_owner_that_returns_too_late_takes_its_shards_anew(db: Arc<dyn Database>) {
    let store = db.open().await;
    let (first, _) = store.lease("a", Duration::ZERO, 2).await.unwrap();
    let (second, _) = store.lease("a", MINUTE, 2).await.unwrap();
    let (third, _) = store.lease("a", MINUTE, 2).await.unwrap();
    assert_eq!(second, third);
    for (first, second) in first.iter().zip(&second) {
        assert_eq!((first.shard, first.epoch + 1), (second.shard, second.epoch));
    }
}

pub(crate) async fn released_shards_go_to_others_at_once(db: Arc<dyn Database>) {
    let store = db.open().await;
    let old = all_shards(&*store, "a", 4).await;
    assert_eq!(store.lease("b", MINUTE, 4).await.unwrap(), (vec![], 2));
    // Not the owner: nothing happens.
    store.release("b", Some(&[ShardId(0)])).await.unwrap();
    assert_eq!(store.lease("b", MINUTE, 4).await.unwrap(), (vec![], 2));
    store.release("a", Some(&[ShardId(1), ShardId(3)])).await.unwrap();
    let (taken, _) = store.lease("b", MINUTE, 4).await.unwrap();
    assert_eq!(taken.iter().map(|l| l.shard.0).collect::<Vec<_>>(), [1, 3]);
    assert!(taken.iter().all(|l| l.epoch == old[usize::from(l.shard.0)].epoch + 1));
    let (kept, _) = store.lease("a", MINUTE, 4).await.unwrap();
    assert_eq!(kept, [old[0].clone(), old[2].clone()]);
    store.release("a", None).await.unwrap();
    let (all, share) = store.lease("b", MINUTE, 4).await.unwrap();
    assert_eq!((all.len(), share), (4, 4));
}

pub(crate) async fn an_idle_heartbeat_keeps_its_leases_and_is_cheap(db: Arc<dyn Database>) {
    let store = db.open().await;
    let leases = all_shards(&*store, "a", 16).await;
    let before = store.statements_sent();
    for _ in 0..10 {
        assert_eq!(all_shards(&*store, "a", 16).await, leases);
    }
    let sent = store.statements_sent() - before;
    assert!((10..=80).contains(&sent), "{sent} statements for ten heartbeats");
}
