//! Map Runs.

use rusqlite::{CachedStatement, Connection, OptionalExtension, params};
use stagepost_protocol::{ExecutionId, MapRun, MapRunArn, Namespace};

use super::{errors, statement, store::SqliteStore};
use crate::{Page, Result, paging, stored};

pub(super) const UPSERT: &str = "INSERT INTO map_runs (account, region, name, execution_id, started_at, record) \
     VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT (account, region, name) DO UPDATE SET record = excluded.record";

pub(super) fn upsert(statement: &mut CachedStatement<'_>, run: &MapRun) -> rusqlite::Result<usize> {
    statement.execute(params![
        run.arn.namespace.account,
        run.arn.namespace.region,
        run.arn.name,
        run.execution.id().as_bytes(),
        run.started_at.as_millis(),
        run.to_text(),
    ])
}

/// See [`crate::Reader::map_run`].
pub(super) async fn map_run(store: &SqliteStore, arn: &MapRunArn) -> Result<Option<MapRun>> {
    const SELECT: &str = "SELECT record FROM map_runs WHERE account = ?1 AND region = ?2 AND name = ?3";
    let arn = arn.clone();
    let find = move |connection: &Connection| {
        let failed = errors::failed("read a Map Run");
        let Namespace { account, region } = &arn.namespace;
        let mut statement = connection.prepare_cached(SELECT).map_err(&failed)?;
        let record = statement.query_row(params![account, region, arn.name], |row| row.get::<_, String>(0));
        record.optional().map_err(&failed)?.as_deref().map(stored::map_run).transpose()
    };
    store.read(1, find).await
}

/// See [`crate::Reader::map_runs`].
pub(super) async fn map_runs(
    store: &SqliteStore,
    execution: ExecutionId,
    limit: usize,
    after: Option<&str>,
) -> Result<Page<MapRun>> {
    const SELECT: &str = "SELECT record FROM map_runs WHERE execution_id = ?1 \
         AND (started_at, name) < (?2, ?3) ORDER BY started_at DESC, name DESC LIMIT ?4";
    let (before, name) = paging::map_run_place(after)?;
    let list = move |connection: &Connection| {
        const WHAT: &str = "list Map Runs";
        let params = params![execution.as_bytes(), before.as_millis(), name, paging::probe(limit)];
        let items = statement::select(connection, WHAT, SELECT, params, |row| {
            stored::map_run(&row.get::<_, String>(0).map_err(errors::failed(WHAT))?)
        })?;
        Ok(paging::page(items, limit, paging::map_run_key))
    };
    store.read(1, list).await
}
