//! What the coordinator reads: executions to replay, wake-ups, and what runs.

use std::{collections::HashMap, ops::Range};

use futures_util::future::try_join_all;
use stagepost_protocol::{ExecutionId, Timestamp};
use tokio_postgres::Row;

use super::{errors, executions, store::PostgresStore};
use crate::{HistoryRow, Result, Snapshot, StoredExecution, slots::merged, stored};

const WHAT: &str = "load executions";

// Nothing commits between the three: they see the database as of the first one.
const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
const SNAPSHOTS: &str = "SELECT execution_id, sequence, payload FROM snapshots WHERE execution_id = ANY ($1)";
pub(super) const HISTORY: &str = "SELECT h.execution_id, h.sequence, h.first_event_id, h.last_event_id, h.epoch, h.payload \
     FROM unnest($1::bytea[]) AS wanted (id) LEFT JOIN snapshots s ON s.execution_id = wanted.id \
     CROSS JOIN LATERAL (SELECT * FROM history h \
     WHERE h.execution_id = wanted.id AND h.sequence > coalesce(s.sequence, 0) ORDER BY h.sequence) h";
pub(super) const DUE: &str = "SELECT wake_at, id FROM executions \
     WHERE wake_at <= $1 AND EXISTS (SELECT FROM unnest($2::int[], $3::int[]) AS r (first, past) \
     WHERE slot >= r.first AND slot < r.past) ORDER BY wake_at, id LIMIT $4";
pub(super) const RUNNING: &str = "SELECT id FROM executions \
     WHERE stopped_at IS NULL AND id > $1 AND EXISTS (SELECT FROM unnest($2::int[], $3::int[]) AS r (first, past) \
     WHERE slot >= r.first AND slot < r.past) ORDER BY id LIMIT $4";

/// See [`crate::Store::load`].
pub(super) async fn load(store: &PostgresStore, ids: &[ExecutionId]) -> Result<Vec<Option<StoredExecution>>> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let mut wanted: Vec<&[u8]> = ids.iter().map(|id| &id.as_bytes()[..]).collect();
    wanted.sort_unstable();
    wanted.dedup();
    let client = store.engine().await?;
    let failed = errors::failed(WHAT);
    let summaries = executions::select("WHERE id = ANY ($1)");
    let mut statements = Vec::with_capacity(3);
    for sql in [&summaries, SNAPSHOTS, HISTORY] {
        statements.push(client.prepare_cached(sql).await.map_err(&failed)?);
    }
    store.count(5);
    let wanted: [&(dyn tokio_postgres::types::ToSql + Sync); 1] = [&wanted];
    // Sent in this order, in one round trip.
    let (began, read, ended) = tokio::join!(
        biased;
        client.batch_execute(BEGIN),
        try_join_all(statements.iter().map(|s| client.query(s, &wanted))),
        client.batch_execute("COMMIT"),
    );
    began.map_err(&failed)?;
    let mut read = read.map_err(&failed)?;
    ended.map_err(&failed)?;
    let (history, snapshots, summaries) = (read.pop(), read.pop(), read.pop());
    assemble(
        ids,
        &summaries.unwrap_or_default(),
        &snapshots.unwrap_or_default(),
        &history.unwrap_or_default(),
    )
}

fn assemble(
    ids: &[ExecutionId],
    summaries: &[Row],
    snapshots: &[Row],
    history: &[Row],
) -> Result<Vec<Option<StoredExecution>>> {
    let mut loaded = HashMap::with_capacity(summaries.len());
    for row in summaries {
        let summary = executions::summary(row)?;
        loaded.insert(summary.id, StoredExecution { summary, snapshot: None, history: Vec::new() });
    }
    for row in snapshots {
        let execution = stored::id(row.get(0))?;
        if let Some(e) = loaded.get_mut(&execution) {
            let sequence = row.get::<_, i64>(1) as u64;
            e.snapshot = Some(Snapshot { execution, sequence, payload: row.get(2) });
        }
    }
    for row in history {
        let row: HistoryRow = executions::history_row(row)?;
        if let Some(e) = loaded.get_mut(&row.execution) {
            e.history.push(row);
        }
    }
    Ok(ids.iter().map(|id| loaded.get(id).cloned()).collect())
}

/// See [`crate::Store::due`].
pub(super) async fn due(
    store: &PostgresStore,
    slots: &[Range<u16>],
    until: Timestamp,
    limit: usize,
) -> Result<Vec<(Timestamp, ExecutionId)>> {
    let (first, past) = bounds(slots);
    let params: [&(dyn tokio_postgres::types::ToSql + Sync); 4] =
        [&until.as_millis(), &first, &past, &rows_max(limit)];
    let rows = store.engine_rows("find due wake-ups", DUE, &params).await?;
    rows.iter().map(|row| Ok((Timestamp::from_millis(row.get(0)), stored::id(row.get(1))?))).collect()
}

/// See [`crate::Store::running`].
pub(super) async fn running(
    store: &PostgresStore,
    slots: &[Range<u16>],
    after: Option<ExecutionId>,
    limit: usize,
) -> Result<Vec<ExecutionId>> {
    let (first, past) = bounds(slots);
    let after: &[u8] = after.as_ref().map_or(&[], |id| id.as_bytes());
    let rows =
        store.engine_rows("find what runs", RUNNING, &[&after, &first, &past, &rows_max(limit)]).await?;
    rows.iter().map(|row| stored::id(row.get(0))).collect()
}

fn bounds(slots: &[Range<u16>]) -> (Vec<i32>, Vec<i32>) {
    merged(slots).into_iter().map(|r| (i32::from(r.start), i32::from(r.end))).unzip()
}

fn rows_max(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}
