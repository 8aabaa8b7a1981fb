//! What the API reads of executions.

use stagepost_protocol::{ExecutionId, Namespace, Timestamp};
use tokio_postgres::Row;

use super::store::PostgresStore;
use crate::{ExecutionSummary, HistoryRow, ListExecutions, Page, Result, paging, stored};

const HISTORY_ASCENDING: &str = "SELECT execution_id, sequence, first_event_id, last_event_id, epoch, payload FROM ( \
     SELECT h.*, sum(octet_length(payload)) OVER (ORDER BY sequence) AS total, \
     row_number() OVER (ORDER BY sequence) AS place FROM ( \
     SELECT * FROM history WHERE execution_id = $1 AND last_event_id >= first_event_id \
     AND sequence >= (SELECT history_row_of($1, $2)) ORDER BY sequence LIMIT $3) h) page \
     WHERE total <= $4 OR place = 1 ORDER BY sequence";
const HISTORY_DESCENDING: &str = "SELECT execution_id, sequence, first_event_id, last_event_id, epoch, payload FROM ( \
     SELECT h.*, sum(octet_length(payload)) OVER (ORDER BY sequence DESC) AS total, \
     row_number() OVER (ORDER BY sequence DESC) AS place FROM ( \
     SELECT * FROM history WHERE execution_id = $1 AND last_event_id >= first_event_id AND first_event_id <= $2 \
     AND sequence <= (SELECT coalesce(history_row_of($1, $2), 9223372036854775807)) \
     ORDER BY sequence DESC LIMIT $3) h) page \
     WHERE total <= $4 OR place = 1 ORDER BY sequence DESC";

/// The status in a listing: see [`crate::ExecutionsOf::RedrivenMapRun`].
const LISTED_STATUS: &str = "CASE WHEN stopped_at < $9::bigint AND status IN ('FAILED', 'TIMED_OUT', 'ABORTED') \
     THEN 'PENDING_REDRIVE' ELSE status END";

/// Selects what [`summary`] reads.
pub(super) fn select(rest: &str) -> String {
    format!(
        "SELECT id, account, region, state_machine, arn_state_machine, name, definition_id, role_arn, status, \
         started_at, stopped_at, wake_at, input, output, error, cause, trace_header, \
         parent, redrive_count, redriven_at, map_run, item_count FROM executions {rest}"
    )
}

/// See [`crate::Reader::execution`].
pub(super) async fn execution(store: &PostgresStore, id: ExecutionId) -> Result<Option<ExecutionSummary>> {
    let id: &[u8] = id.as_bytes();
    let rows = store.api_rows("read an execution", &select("WHERE id = $1"), &[&id]).await?;
    rows.first().map(summary).transpose()
}

/// See [`crate::Reader::executions`].
pub(super) async fn executions(
    store: &PostgresStore,
    query: &ListExecutions,
) -> Result<Page<ExecutionSummary>> {
    let (namespace, column, name, redriven_since) = query.of.filter();
    let select = format!(
        "SELECT id, account, region, state_machine, arn_state_machine, name, definition_id, \
         role_arn, {LISTED_STATUS}, started_at, stopped_at, wake_at, 'null', NULL::text, error, cause, trace_header, \
         parent, redrive_count, redriven_at, map_run, item_count \
         FROM executions WHERE account = $1 AND region = $2 AND {column} = $3 \
         AND (started_at, id) < ($4, $5) AND ($6::text IS NULL OR {LISTED_STATUS} = $6) \
         AND ($8::boolean IS NULL OR (redrive_count > 0) = $8) \
         ORDER BY started_at DESC, id DESC LIMIT $7"
    );
    let (before, id) = paging::execution_place(query.after.as_deref())?;
    let Namespace { account, region } = namespace;
    let status = query.status.map(|s| s.as_str());
    let limit = paging::probe(query.limit);
    let before = before.as_millis();
    let params: [&(dyn tokio_postgres::types::ToSql + Sync); 9] =
        [account, region, &name, &before, &id, &status, &limit, &query.redriven, &redriven_since];
    let rows = store.api_rows("list executions", &select, &params).await?;
    let items = rows.iter().map(summary).collect::<Result<Vec<_>>>()?;
    Ok(paging::page(items, query.limit, paging::execution_key))
}

/// See [`crate::Reader::history`].
pub(super) async fn history(
    store: &PostgresStore,
    id: ExecutionId,
    from: u64,
    descending: bool,
    limit: usize,
    max_bytes: usize,
) -> Result<Vec<HistoryRow>> {
    let sql = if descending { HISTORY_DESCENDING } else { HISTORY_ASCENDING };
    let id: &[u8] = id.as_bytes();
    let saturated = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let (from, limit, max_bytes) = (saturated(from), saturated(limit as u64), saturated(max_bytes as u64));
    let rows = store.api_rows("read a history", sql, &[&id, &from, &limit, &max_bytes]).await?;
    rows.iter().map(history_row).collect()
}

pub(super) fn summary(row: &Row) -> Result<ExecutionSummary> {
    let namespace = Namespace { account: row.get(1), region: row.get(2) };
    let map_item = stored::map_item(&namespace, row.get(20), row.get(21));
    let (arn, state_machine) = stored::arns(namespace, row.get(3), row.get(4), row.get(5));
    Ok(ExecutionSummary {
        id: stored::id(row.get(0))?,
        arn,
        state_machine,
        definition_id: row.get(6),
        role_arn: row.get(7),
        status: stored::status(row.get(8))?,
        started_at: Timestamp::from_millis(row.get(9)),
        stopped_at: row.get::<_, Option<i64>>(10).map(Timestamp::from_millis),
        wake_at: row.get::<_, Option<i64>>(11).map(Timestamp::from_millis),
        input: stored::payload(row.get(12))?,
        output: row.get::<_, Option<&str>>(13).map(stored::payload).transpose()?,
        error: row.get(14),
        cause: row.get(15),
        trace_header: row.get(16),
        parent: stored::parent(row.get(17))?,
        redrive_count: u32::try_from(row.get::<_, i32>(18)).unwrap_or(0),
        redriven_at: row.get::<_, Option<i64>>(19).map(Timestamp::from_millis),
        map_item,
    })
}

pub(super) fn history_row(row: &Row) -> Result<HistoryRow> {
    Ok(HistoryRow {
        execution: stored::id(row.get(0))?,
        sequence: row.get::<_, i64>(1) as u64,
        first_event_id: row.get::<_, i64>(2) as u64,
        last_event_id: row.get::<_, i64>(3) as u64,
        epoch: row.get(4),
        payload: row.get(5),
    })
}
