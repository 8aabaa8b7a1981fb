//! What the coordinator reads: executions to replay, wake-ups, and what runs.

use std::ops::Range;

use rusqlite::{Connection, OptionalExtension, params};
use stagepost_protocol::{ExecutionId, Timestamp};

use super::{errors, executions, statement, store::SqliteStore};
use crate::{Result, Snapshot, StoredExecution, slots::merged, stored};

const WHAT: &str = "load executions";

const SNAPSHOT: &str = "SELECT sequence, payload FROM snapshots WHERE execution_id = ?1";
const HISTORY: &str = "SELECT ?1, sequence, first_event_id, last_event_id, epoch, payload FROM history \
     WHERE execution = (SELECT number FROM executions WHERE id = ?1) AND sequence > ?2 ORDER BY sequence";

/// See [`crate::Store::load`].
pub(super) async fn load(store: &SqliteStore, ids: &[ExecutionId]) -> Result<Vec<Option<StoredExecution>>> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let ids = ids.to_vec();
    store.read(3 * ids.len(), move |c| ids.iter().map(|id| load_one(c, *id)).collect()).await
}

fn load_one(connection: &Connection, id: ExecutionId) -> Result<Option<StoredExecution>> {
    let failed = errors::failed(WHAT);
    let Some(summary) = executions::find(connection, id)? else { return Ok(None) };
    let snapshot = connection
        .prepare_cached(SNAPSHOT)
        .and_then(|mut s| {
            s.query_row([id.as_bytes()], |row| {
                let sequence = row.get::<_, i64>(0)? as u64;
                Ok(Snapshot { execution: id, sequence, payload: row.get(1)? })
            })
            .optional()
        })
        .map_err(&failed)?;
    let after = snapshot.as_ref().map_or(0, |s| s.sequence);
    let params = params![id.as_bytes(), after as i64];
    let history = statement::select(connection, WHAT, HISTORY, params, executions::history_row)?;
    Ok(Some(StoredExecution { summary, snapshot, history }))
}

/// See [`crate::Store::due`].
pub(super) async fn due(
    store: &SqliteStore,
    slots: &[Range<u16>],
    until: Timestamp,
    limit: usize,
) -> Result<Vec<(Timestamp, ExecutionId)>> {
    let sql = format!(
        "SELECT wake_at, id FROM executions WHERE wake_at <= ?1 AND ({}) ORDER BY wake_at, id LIMIT ?2",
        within(slots)
    );
    let rows = move |connection: &Connection| {
        const WHAT: &str = "find due wake-ups";
        let failed = errors::failed(WHAT);
        statement::select(connection, WHAT, &sql, params![until.as_millis(), limit as i64], |row| {
            let (at, id): (i64, [u8; 16]) = (row.get(0).map_err(&failed)?, row.get(1).map_err(&failed)?);
            Ok((Timestamp::from_millis(at), ExecutionId::from_bytes(id)))
        })
    };
    store.read(1, rows).await
}

/// See [`crate::Store::running`].
pub(super) async fn running(
    store: &SqliteStore,
    slots: &[Range<u16>],
    after: Option<ExecutionId>,
    limit: usize,
) -> Result<Vec<ExecutionId>> {
    let sql = format!(
        "SELECT id FROM executions WHERE stopped_at IS NULL AND id > ?1 AND ({}) ORDER BY id LIMIT ?2",
        within(slots)
    );
    let rows = move |connection: &Connection| {
        const WHAT: &str = "find what runs";
        let after: &[u8] = after.as_ref().map_or(&[], |id| id.as_bytes());
        statement::select(connection, WHAT, &sql, params![after, limit as i64], |row| {
            stored::id(row.get_ref(0).and_then(|v| Ok(v.as_blob()?)).map_err(errors::failed(WHAT))?)
        })
    };
    store.read(1, rows).await
}

/// The condition that a slot is in one of the ranges. Numbers only, so the text is safe; an owner's ranges seldom
/// change, so the statement is cached.
fn within(slots: &[Range<u16>]) -> String {
    let ranges = merged(slots);
    if ranges.is_empty() {
        return "FALSE".to_owned();
    }
    let each = ranges.iter().map(|r| format!("(slot >= {} AND slot < {})", r.start, r.end));
    each.collect::<Vec<_>>().join(" OR ")
}
