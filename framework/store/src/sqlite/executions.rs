//! What the API reads of executions.

use rusqlite::{Connection, OptionalExtension, Row, params};
use stagepost_protocol::{ExecutionId, Namespace, Timestamp};

use super::{errors, statement, store::SqliteStore};
use crate::{ExecutionSummary, HistoryRow, ListExecutions, Page, Result, paging, stored};

const HISTORY_ASCENDING: &str = "SELECT ?1, sequence, first_event_id, last_event_id, epoch, payload FROM history \
     WHERE execution = (SELECT number FROM executions WHERE id = ?1) AND sequence >= ?2 \
     AND first_event_id <= last_event_id ORDER BY sequence LIMIT ?3";
const HISTORY_DESCENDING: &str = "SELECT ?1, sequence, first_event_id, last_event_id, epoch, payload FROM history \
     WHERE execution = (SELECT number FROM executions WHERE id = ?1) AND sequence <= ?2 \
     AND first_event_id <= last_event_id ORDER BY sequence DESC LIMIT ?3";

/// The status in a listing: see [`crate::ExecutionsOf::RedrivenMapRun`].
const LISTED_STATUS: &str = "CASE WHEN stopped_at < ?9 AND status IN ('FAILED', 'TIMED_OUT', 'ABORTED') \
     THEN 'PENDING_REDRIVE' ELSE status END";

/// Selects what [`summary`] reads.
pub(super) fn select(rest: &str) -> String {
    format!(
        "SELECT id, account, region, state_machine, arn_state_machine, name, definition_id, role_arn, status, \
         started_at, stopped_at, wake_at, input, output, error, cause, trace_header, \
         parent, redrive_count, redriven_at, map_run, item_count FROM executions {rest}"
    )
}

/// Selects what a listing shows of executions, by a column that names what they are of.
fn listing(column: &str) -> String {
    format!(
        "SELECT id, account, region, state_machine, arn_state_machine, name, definition_id, role_arn, \
         {LISTED_STATUS}, started_at, stopped_at, wake_at, 'null', NULL, error, cause, trace_header, parent, redrive_count, \
         redriven_at, map_run, item_count FROM executions \
         WHERE account = ?1 AND region = ?2 AND {column} = ?3 \
         AND (started_at, id) < (?4, ?5) AND (?6 IS NULL OR {LISTED_STATUS} = ?6) \
         AND (?8 IS NULL OR (redrive_count > 0) = ?8) \
         ORDER BY started_at DESC, id DESC LIMIT ?7"
    )
}

/// See [`crate::Reader::execution`].
pub(super) async fn execution(store: &SqliteStore, id: ExecutionId) -> Result<Option<ExecutionSummary>> {
    store.read(1, move |connection| find(connection, id)).await
}

pub(super) fn find(connection: &Connection, id: ExecutionId) -> Result<Option<ExecutionSummary>> {
    let failed = errors::failed("read an execution");
    let mut statement = connection.prepare_cached(&select("WHERE id = ?1")).map_err(&failed)?;
    let mut rows = statement.query([id.as_bytes()]).map_err(&failed)?;
    rows.next().map_err(&failed)?.map(summary).transpose()
}

/// See [`crate::Reader::executions`].
pub(super) async fn executions(
    store: &SqliteStore,
    query: &ListExecutions,
) -> Result<Page<ExecutionSummary>> {
    let (before, id) = paging::execution_place(query.after.as_deref())?;
    let query = query.clone();
    let list = move |connection: &Connection| {
        let (namespace, column, name, redriven_since) = query.of.filter();
        let Namespace { account, region } = namespace;
        let status = query.status.map(|s| s.as_str());
        let limit = paging::probe(query.limit);
        let before = before.as_millis();
        let params =
            params![account, region, name, before, id, status, limit, query.redriven, redriven_since];
        let items = statement::select(connection, "list executions", &listing(column), params, summary)?;
        Ok(paging::page(items, query.limit, paging::execution_key))
    };
    store.read(1, list).await
}

/// See [`crate::Reader::history`].
pub(super) async fn history(
    store: &SqliteStore,
    id: ExecutionId,
    from: u64,
    descending: bool,
    limit: usize,
    max_bytes: usize,
) -> Result<Vec<HistoryRow>> {
    let event = i64::try_from(from).unwrap_or(i64::MAX);
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let read = move |connection: &Connection| {
        let failed = errors::failed("read a history");
        let start = history_row_of(connection, id, event).map_err(&failed)?;
        let (sql, start) = match (descending, start) {
            (true, start) => (HISTORY_DESCENDING, start.unwrap_or(i64::MAX)),
            (false, Some(start)) => (HISTORY_ASCENDING, start),
            (false, None) => return Ok(Vec::new()),
        };
        let mut statement = connection.prepare_cached(sql).map_err(&failed)?;
        let mut rows = statement.query(params![id.as_bytes(), start, limit]).map_err(&failed)?;
        let (mut found, mut bytes) = (Vec::new(), 0);
        while let Some(row) = rows.next().map_err(&failed)? {
            let row = history_row(row)?;
            bytes += row.payload.len();
            if bytes > max_bytes && !found.is_empty() {
                break;
            }
            if !(descending && row.first_event_id > from) {
                found.push(row);
            }
        }
        Ok(found)
    };
    store.read(2, read).await
}

/// The first row of a history that ends at an event or after it: found by halving, as the events of a history
/// rise with its rows, and an index by event would cost every commit. `None`: it ends before.
fn history_row_of(connection: &Connection, id: ExecutionId, event: i64) -> rusqlite::Result<Option<i64>> {
    const NUMBER: &str = "SELECT number FROM executions WHERE id = ?1";
    const LAST: &str = "SELECT sequence, last_event_id FROM history WHERE execution = ?1 \
         ORDER BY sequence DESC LIMIT 1";
    const FROM: &str = "SELECT sequence, last_event_id FROM history WHERE execution = ?1 AND sequence >= ?2 \
         ORDER BY sequence LIMIT 1";
    let number = connection.prepare_cached(NUMBER)?.query_row([id.as_bytes()], |row| row.get::<_, i64>(0));
    let Some(number) = number.optional()? else { return Ok(None) };
    let pair = |row: &Row<'_>| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?));
    let last = connection.prepare_cached(LAST)?.query_row([number], pair).optional()?;
    let Some((mut high, _)) = last.filter(|(_, last)| *last >= event) else { return Ok(None) };
    let mut from = connection.prepare_cached(FROM)?;
    // Rows up to `low` end before the event; the first row from `high` on does not.
    let mut low = 0;
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        let (sequence, last) = from.query_row(params![number, middle], pair)?;
        if last >= event {
            high = middle;
        } else {
            low = sequence;
        }
    }
    from.query_row(params![number, high], pair).map(|(sequence, _)| Some(sequence))
}

pub(super) fn summary(row: &Row<'_>) -> Result<ExecutionSummary> {
    let failed = errors::failed("read an execution");
    let text = |n: usize| row.get::<_, String>(n).map_err(&failed);
    let maybe_text = |n: usize| row.get::<_, Option<String>>(n).map_err(&failed);
    let maybe_time =
        |n: usize| row.get::<_, Option<i64>>(n).map(|t| t.map(Timestamp::from_millis)).map_err(&failed);
    let namespace = Namespace { account: text(1)?, region: text(2)? };
    let items = row.get::<_, Option<i64>>(21).map_err(&failed)?;
    let map_item = stored::map_item(&namespace, maybe_text(20)?, items);
    let (arn, state_machine) = stored::arns(namespace, text(3)?, text(4)?, text(5)?);
    Ok(ExecutionSummary {
        id: ExecutionId::from_bytes(row.get(0).map_err(&failed)?),
        arn,
        state_machine,
        definition_id: text(6)?,
        role_arn: text(7)?,
        status: stored::status(&text(8)?)?,
        started_at: Timestamp::from_millis(row.get(9).map_err(&failed)?),
        stopped_at: maybe_time(10)?,
        wake_at: maybe_time(11)?,
        input: stored::payload(&text(12)?)?,
        output: maybe_text(13)?.as_deref().map(stored::payload).transpose()?,
        error: maybe_text(14)?,
        cause: maybe_text(15)?,
        trace_header: maybe_text(16)?,
        parent: stored::parent(maybe_text(17)?.as_deref())?,
        redrive_count: row.get(18).map_err(&failed)?,
        redriven_at: maybe_time(19)?,
        map_item,
    })
}

pub(super) fn history_row(row: &Row<'_>) -> Result<HistoryRow> {
    let read = || {
        Ok(HistoryRow {
            execution: ExecutionId::from_bytes(row.get(0)?),
            sequence: row.get::<_, i64>(1)? as u64,
            first_event_id: row.get::<_, i64>(2)? as u64,
            last_event_id: row.get::<_, i64>(3)? as u64,
            epoch: row.get(4)?,
            payload: row.get(5)?,
        })
    };
    read().map_err(errors::failed("read a history"))
}
