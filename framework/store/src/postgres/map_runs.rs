//! Map Runs.

use stagepost_protocol::{ExecutionId, MapRun, MapRunArn, Namespace};
use tokio_postgres::Row;

use super::store::PostgresStore;
use crate::{Page, Result, paging, stored};

pub(super) const UPSERT: &str = "INSERT INTO map_runs (account, region, name, execution_id, started_at, record) \
     SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::bytea[], $5::bigint[], $6::text[]) \
     ON CONFLICT (account, region, name) DO UPDATE SET record = excluded.record";

#[derive(Default)]
pub(super) struct Columns<'a> {
    pub(super) account: Vec<&'a str>,
    pub(super) region: Vec<&'a str>,
    pub(super) name: Vec<&'a str>,
    pub(super) execution_id: Vec<Vec<u8>>,
    pub(super) started_at: Vec<i64>,
    pub(super) record: Vec<String>,
}

pub(super) fn columns(map_runs: &[MapRun]) -> Columns<'_> {
    let mut c = Columns::default();
    for run in map_runs {
        c.account.push(&run.arn.namespace.account);
        c.region.push(&run.arn.namespace.region);
        c.name.push(&run.arn.name);
        c.execution_id.push(run.execution.id().as_bytes().to_vec());
        c.started_at.push(run.started_at.as_millis());
        c.record.push(run.to_text());
    }
    c
}

/// See [`crate::Reader::map_run`].
pub(super) async fn map_run(store: &PostgresStore, arn: &MapRunArn) -> Result<Option<MapRun>> {
    const SELECT: &str = "SELECT record FROM map_runs WHERE account = $1 AND region = $2 AND name = $3";
    let Namespace { account, region } = &arn.namespace;
    let rows = store.api_rows("read a Map Run", SELECT, &[account, region, &arn.name]).await?;
    rows.first().map(record).transpose()
}

/// See [`crate::Reader::map_runs`].
pub(super) async fn map_runs(
    store: &PostgresStore,
    execution: ExecutionId,
    limit: usize,
    after: Option<&str>,
) -> Result<Page<MapRun>> {
    const SELECT: &str = "SELECT record FROM map_runs WHERE execution_id = $1 \
         AND (started_at, name) < ($2, $3) ORDER BY started_at DESC, name DESC LIMIT $4";
    let (before, name) = paging::map_run_place(after)?;
    let id: &[u8] = execution.as_bytes();
    let (before, probe) = (before.as_millis(), paging::probe(limit));
    let rows = store.api_rows("list Map Runs", SELECT, &[&id, &before, &name, &probe]).await?;
    let items = rows.iter().map(record).collect::<Result<Vec<_>>>()?;
    Ok(paging::page(items, limit, paging::map_run_key))
}

fn record(row: &Row) -> Result<MapRun> {
    stored::map_run(row.get(0))
}
