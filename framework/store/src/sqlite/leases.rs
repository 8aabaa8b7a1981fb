//! Who owns which shard: the rules of PostgreSQL's `take_leases`, where all is one writer's transaction.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, params};
use stagepost_protocol::ShardId;

use super::{errors, store::SqliteStore};
use crate::{Lease, Result};

const WHAT: &str = "renew leases";

/// See [`crate::Store::lease`].
pub(super) async fn lease(
    store: &SqliteStore,
    owner: &str,
    ttl: Duration,
    shard_count: u16,
) -> Result<(Vec<Lease>, usize)> {
    let owner = owner.to_owned();
    store.write(6, move |c| take_leases(c, &owner, ttl, shard_count).map_err(errors::failed(WHAT))).await
}

fn take_leases(
    connection: &Connection,
    owner: &str,
    ttl: Duration,
    shard_count: u16,
) -> rusqlite::Result<(Vec<Lease>, usize)> {
    let execute =
        |sql: &str, params: &[&dyn rusqlite::ToSql]| connection.prepare_cached(sql)?.execute(params);
    let count = |sql: &str, params: &[&dyn rusqlite::ToSql]| {
        connection.prepare_cached(sql)?.query_row(params, |row| row.get::<_, i64>(0))
    };
    let millis = |d: Duration| i64::try_from(d.as_millis()).unwrap_or(i64::MAX / 4);
    let now = millis(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default());
    let shards = i64::from(shard_count);

    // Also the caller, if it comes too late: its shards are then taken anew, with another epoch.
    if execute("DELETE FROM owners WHERE expires_at <= ?1", &[&now])? > 0 {
        let free = "UPDATE shards SET owner = NULL \
                    WHERE owner IS NOT NULL AND owner NOT IN (SELECT owner FROM owners)";
        execute(free, &[])?;
    }
    let live = "INSERT INTO owners (owner, expires_at) VALUES (?1, ?2) \
                ON CONFLICT (owner) DO UPDATE SET expires_at = excluded.expires_at";
    execute(live, &[&owner, &now.saturating_add(millis(ttl))])?;
    if count("SELECT count(*) FROM shards WHERE shard < ?1", &[&shards])? < shards {
        for shard in 0..shards {
            execute("INSERT OR IGNORE INTO shards (shard, epoch) VALUES (?1, 0)", &[&shard])?;
        }
    }

    let owners = count("SELECT count(*) FROM owners", &[])?.max(1);
    let fair_share = (shards + owners - 1) / owners;
    let held = count("SELECT count(*) FROM shards WHERE owner = ?1 AND shard < ?2", &[&owner, &shards])?;
    if held < fair_share {
        let take = "UPDATE shards SET owner = ?1, epoch = epoch + 1 WHERE shard IN ( \
                    SELECT shard FROM shards WHERE owner IS NULL AND shard < ?2 ORDER BY shard LIMIT ?3)";
        execute(take, &[&owner, &shards, &(fair_share - held)])?;
    }
    let leases = "SELECT shard, epoch FROM shards WHERE owner = ?1 AND shard < ?2 ORDER BY shard";
    let mut leases = connection.prepare_cached(leases)?;
    let leases = leases.query_map(params![owner, shards], |row| {
        Ok(Lease { shard: ShardId(row.get(0)?), epoch: row.get(1)? })
    })?;
    Ok((leases.collect::<rusqlite::Result<_>>()?, fair_share as usize))
}

/// See [`crate::Store::release`].
pub(super) async fn release(store: &SqliteStore, owner: &str, shards: Option<&[ShardId]>) -> Result<()> {
    let owner = owner.to_owned();
    let shards = shards.map(<[ShardId]>::to_vec);
    let statements = shards.as_ref().map_or(2, Vec::len);
    let release = move |connection: &Connection| {
        let failed = errors::failed("release leases");
        let execute = |sql: &str, params: &[&dyn rusqlite::ToSql]| {
            connection.prepare_cached(sql).and_then(|mut s| s.execute(params)).map(drop).map_err(&failed)
        };
        let Some(shards) = shards else {
            execute("DELETE FROM owners WHERE owner = ?1", &[&owner])?;
            return execute("UPDATE shards SET owner = NULL WHERE owner = ?1", &[&owner]);
        };
        shards.iter().try_for_each(|shard| {
            execute("UPDATE shards SET owner = NULL WHERE owner = ?1 AND shard = ?2", &[&owner, &shard.0])
        })
    };
    store.write(statements, release).await
}
