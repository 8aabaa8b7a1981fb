//! Who owns which shard. The rules are the functions `take_leases`, `release_leases` and
//! `check_leases` of the schema, so that a
//! heartbeat is one statement and the server's clock decides.

use std::time::Duration;

use stagepost_protocol::ShardId;

use super::store::PostgresStore;
use crate::{Error, Lease, Result};

const TAKE: &str = "SELECT leased, epochs, fair_share FROM take_leases($1, $2, $3)";
const RELEASE: &str = "SELECT release_leases($1, $2)";

/// See [`crate::Store::lease`].
pub(super) async fn lease(
    store: &PostgresStore,
    owner: &str,
    ttl: Duration,
    shard_count: u16,
) -> Result<(Vec<Lease>, usize)> {
    const WHAT: &str = "renew leases";
    let ttl_millis = i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX / 4);
    let rows = store.engine_rows(WHAT, TAKE, &[&owner, &ttl_millis, &i32::from(shard_count)]).await?;
    let row = rows.first().ok_or(Error::Database { what: WHAT, reason: "it told nothing".to_owned() })?;
    let (shards, epochs): (Vec<i16>, Vec<i64>) = (row.get(0), row.get(1));
    let leases =
        shards.into_iter().zip(epochs).map(|(shard, epoch)| Lease { shard: ShardId(shard as u16), epoch });
    Ok((leases.collect(), row.get::<_, i32>(2) as usize))
}

/// See [`crate::Store::release`].
pub(super) async fn release(store: &PostgresStore, owner: &str, shards: Option<&[ShardId]>) -> Result<()> {
    let shards: Option<Vec<i16>> = shards.map(|shards| shards.iter().map(|s| s.0 as i16).collect());
    store.engine_rows("release leases", RELEASE, &[&owner, &shards]).await.map(drop)
}
