//! Leases, by the rules of the other stores.

use std::time::Duration;

use stagepost_protocol::ShardId;
use stagepost_store::Lease;
use tokio::time::Instant;

use super::tables::Tables;

pub(super) fn lease(
    tables: &mut Tables,
    owner: &str,
    ttl: Duration,
    shard_count: u16,
) -> (Vec<Lease>, usize) {
    let now = Instant::now();
    // Also the caller, if it comes too late: its shards are then taken anew, with another epoch.
    tables.owners.retain(|_, until| *until > now);
    let owners = &tables.owners;
    for (holder, _) in tables.shards.values_mut() {
        *holder = holder.take().filter(|holder| owners.contains_key(holder));
    }
    tables.owners.insert(owner.to_owned(), now + ttl);
    for shard in 0..shard_count {
        tables.shards.entry(shard).or_insert((None, 0));
    }
    let fair = usize::from(shard_count).div_ceil(tables.owners.len());
    let is_mine = |holder: &Option<String>| holder.as_deref() == Some(owner);
    let mut held = tables.shards.values().filter(|(holder, _)| is_mine(holder)).count();
    for (holder, epoch) in tables.shards.values_mut() {
        if holder.is_none() && held < fair {
            (*holder, *epoch) = (Some(owner.to_owned()), *epoch + 1);
            held += 1;
        }
    }
    let mine = tables.shards.iter().filter(|(_, (holder, _))| is_mine(holder));
    (mine.map(|(shard, (_, epoch))| Lease { shard: ShardId(*shard), epoch: *epoch }).collect(), fair)
}

pub(super) fn release(tables: &mut Tables, owner: &str, shards: Option<&[ShardId]>) {
    for (shard, (holder, _)) in &mut tables.shards {
        let meant = shards.is_none_or(|shards| shards.contains(&ShardId(*shard)));
        if meant && holder.as_deref() == Some(owner) {
            *holder = None;
        }
    }
    if shards.is_none() {
        tables.owners.remove(owner);
    }
}

/// Whether a lease is current.
pub(super) fn is_current(tables: &Tables, lease: &Lease) -> bool {
    tables.shards.get(&lease.shard.0).is_some_and(|(holder, epoch)| holder.is_some() && *epoch == lease.epoch)
}
