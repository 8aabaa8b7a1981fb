//! The hot path: one savepoint for a batch, one sync for all batches that wait.

use rusqlite::{CachedStatement, Connection, OptionalExtension, params};
use stagepost_protocol::{Parent, Slot};

use super::{errors, map_runs, records, store::SqliteStore};
use crate::{Batch, EndedExecution, Error, HistoryRow, Lease, NewExecution, Result, Snapshot, stored};

const WHAT: &str = "commit a batch";

const CHECK: &str = "SELECT 1 FROM shards WHERE shard = ?1 AND epoch = ?2 AND owner IS NOT NULL";
const START: &str = "INSERT INTO executions (id, slot, account, region, state_machine, arn_state_machine, name, \
     definition_id, role_arn, status, started_at, wake_at, input, trace_header, parent, map_run, item_count) \
     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, 'RUNNING', ?10, ?11, ?12, ?13, ?14, ?15, ?16)";
const HISTORY: &str = "INSERT INTO history (execution, sequence, first_event_id, last_event_id, epoch, payload) \
     VALUES ((SELECT number FROM executions WHERE id = ?1), ?2, ?3, ?4, ?5, ?6)";
const WAKE: &str = "UPDATE executions SET wake_at = CASE WHEN stopped_at IS NULL THEN ?2 END WHERE id = ?1";
const END: &str = "UPDATE executions SET status = ?2, stopped_at = ?3, output = ?4, error = ?5, cause = ?6, \
     wake_at = ?7 WHERE id = ?1";
const REDRIVE: &str = "UPDATE executions SET status = 'RUNNING', stopped_at = NULL, output = NULL, error = NULL, \
     cause = NULL, redriven_at = ?2, redrive_count = ?3, wake_at = ?4 WHERE id = ?1";
const SNAPSHOT: &str = "INSERT INTO snapshots (execution_id, sequence, payload) VALUES (?1, ?2, ?3) \
     ON CONFLICT (execution_id) DO UPDATE SET sequence = excluded.sequence, payload = excluded.payload";

/// See [`crate::Store::commit`].
pub(super) async fn commit(store: &SqliteStore, batch: Batch) -> Result<()> {
    if batch.is_empty() && batch.leases.is_empty() {
        return Ok(());
    }
    let statements = batch.leases.len()
        + batch.started.len()
        + batch.history.len()
        + batch.wakes.len()
        + batch.redriven.len()
        + batch.ended.len()
        + batch.snapshots.len()
        + batch.map_runs.len()
        + batch.appended.len();
    store.write(statements, move |connection| write(connection, &batch)).await
}

fn write(connection: &Connection, batch: &Batch) -> Result<()> {
    check_leases(connection, &batch.leases)?;
    // Starts come before what changes them, wake-ups and redrives before ends, which drop them.
    each(connection, START, &batch.started, insert_execution)?;
    each(connection, HISTORY, &batch.history, insert_history)?;
    each(connection, WAKE, &batch.wakes, |s, (id, at)| {
        s.execute(params![id.as_bytes(), at.map(|t| t.as_millis())])
    })?;
    each(connection, REDRIVE, &batch.redriven, |s, e| {
        let (at, wake) = (e.redriven_at.as_millis(), e.wake_at.map(|t| t.as_millis()));
        s.execute(params![e.execution.as_bytes(), at, e.redrive_count, wake])
    })?;
    each(connection, END, &batch.ended, end_execution)?;
    each(connection, SNAPSHOT, &batch.snapshots, upsert_snapshot)?;
    each(connection, map_runs::UPSERT, &batch.map_runs, map_runs::upsert)?;
    each(connection, records::APPEND, &batch.appended, records::append)
}

fn each<T>(
    connection: &Connection,
    sql: &str,
    rows: &[T],
    execute: impl Fn(&mut CachedStatement<'_>, &T) -> rusqlite::Result<usize>,
) -> Result<()> {
    if rows.is_empty() {
        return Ok(());
    }
    let failed = errors::failed(WHAT);
    let mut statement = connection.prepare_cached(sql).map_err(&failed)?;
    rows.iter().try_for_each(|row| execute(&mut statement, row).map(drop).map_err(&failed))
}

fn check_leases(connection: &Connection, leases: &[Lease]) -> Result<()> {
    let failed = errors::failed(WHAT);
    let mut statement = connection.prepare_cached(CHECK).map_err(&failed)?;
    for lease in leases {
        let current = statement.query_row(params![lease.shard.0, lease.epoch], |_| Ok(())).optional();
        current.map_err(&failed)?.ok_or(Error::LeaseLost(lease.shard))?;
    }
    Ok(())
}

fn insert_execution(statement: &mut CachedStatement<'_>, e: &NewExecution) -> rusqlite::Result<usize> {
    statement.execute(params![
        e.id.as_bytes(),
        Slot::of(e.id).0,
        e.arn.namespace.account,
        e.arn.namespace.region,
        e.state_machine.name,
        e.arn.state_machine,
        e.arn.name,
        e.definition_id,
        stored::text(&e.role_arn),
        e.started_at.as_millis(),
        e.wake_at.map(|t| t.as_millis()),
        e.input.as_str(),
        e.trace_header.as_deref().map(stored::text),
        e.parent.as_ref().map(Parent::to_text),
        e.map_item.as_ref().map(|m| &m.map_run.name),
        e.map_item.as_ref().map(|m| m.items),
    ])
}

fn insert_history(statement: &mut CachedStatement<'_>, row: &HistoryRow) -> rusqlite::Result<usize> {
    statement.execute(params![
        row.execution.as_bytes(),
        row.sequence as i64,
        row.first_event_id as i64,
        row.last_event_id as i64,
        row.epoch,
        row.payload,
    ])
}

fn end_execution(statement: &mut CachedStatement<'_>, e: &EndedExecution) -> rusqlite::Result<usize> {
    statement.execute(params![
        e.execution.as_bytes(),
        e.status.as_str(),
        e.stopped_at.as_millis(),
        e.output.as_ref().map(|p| p.as_str()),
        e.error.as_deref().map(stored::text),
        e.cause.as_deref().map(stored::text),
        e.wake_at.map(|t| t.as_millis()),
    ])
}

fn upsert_snapshot(statement: &mut CachedStatement<'_>, s: &Snapshot) -> rusqlite::Result<usize> {
    statement.execute(params![s.execution.as_bytes(), s.sequence as i64, s.payload])
}
