//! The store itself: its pools, and the traits by way of the files beside this one.

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use deadpool_postgres::{Object, Pool};
use stagepost_protocol::{ExecutionId, MapRun, MapRunArn, Namespace, ShardId, StateMachineArn, Timestamp};
use tokio_postgres::{Row, types::ToSql};

use super::{Options, commit, connect, errors, executions, leases, load, map_runs, records, registry};
use crate::{
    ActivityRow, Batch, DefinitionRow, ExecutionSummary, HistoryRow, Lease, ListExecutions, ListRecords,
    Page, Reader, Record, Records, Result, StateMachineRow, Store, StoredExecution,
};

/// The parameters of a statement.
pub(super) type Params<'a> = &'a [&'a (dyn ToSql + Sync)];

/// A store on PostgreSQL. Connections that break are replaced; what was under way on them ends with
/// [`crate::Error::Unavailable`].
pub struct PostgresStore {
    /// Commits, loads, wake-ups and leases.
    engine: Pool,
    /// Reads for people and programs, with a statement timeout, and the registry.
    api: Pool,
    statements: AtomicU64,
}

impl PostgresStore {
    /// Connects, and brings the schema up to date under a lock, so that several processes may do it at once.
    ///
    /// Fails with [`crate::Error::Unavailable`] while the database cannot be reached (try again),
    /// [`crate::Error::Url`] when the URL, the user, the password or the database's name is wrong, and
    /// [`crate::Error::SchemaTooNew`] when a newer binary has been here.
    pub async fn connect(url: &str, options: Options) -> Result<Arc<PostgresStore>> {
        let (engine, api) = connect::connect(url, &options).await?;
        Ok(Arc::new(PostgresStore { engine, api, statements: AtomicU64::new(0) }))
    }

    pub(super) async fn engine(&self) -> Result<Object> {
        self.engine.get().await.map_err(errors::pool)
    }

    pub(super) fn count(&self, statements: usize) {
        self.statements.fetch_add(statements as u64, Ordering::Relaxed);
    }

    /// Runs one statement for the coordinator.
    pub(super) async fn engine_rows(
        &self,
        what: &'static str,
        sql: &str,
        params: Params<'_>,
    ) -> Result<Vec<Row>> {
        self.rows(&self.engine, what, sql, params).await
    }

    /// Runs one statement for the API.
    pub(super) async fn api_rows(
        &self,
        what: &'static str,
        sql: &str,
        params: Params<'_>,
    ) -> Result<Vec<Row>> {
        self.rows(&self.api, what, sql, params).await
    }

    async fn rows(&self, pool: &Pool, what: &'static str, sql: &str, params: Params<'_>) -> Result<Vec<Row>> {
        let client = pool.get().await.map_err(errors::pool)?;
        let statement = client.prepare_cached(sql).await.map_err(errors::failed(what))?;
        self.count(1);
        client.query(&statement, params).await.map_err(errors::failed(what))
    }
}

#[async_trait]
impl Store for PostgresStore {
    async fn commit(&self, batch: Batch) -> Result<()> {
        commit::commit(self, &batch).await
    }

    async fn load(&self, ids: &[ExecutionId]) -> Result<Vec<Option<StoredExecution>>> {
        load::load(self, ids).await
    }

    async fn due(
        &self,
        slots: &[Range<u16>],
        until: Timestamp,
        limit: usize,
    ) -> Result<Vec<(Timestamp, ExecutionId)>> {
        load::due(self, slots, until, limit).await
    }

    async fn running(
        &self,
        slots: &[Range<u16>],
        after: Option<ExecutionId>,
        limit: usize,
    ) -> Result<Vec<ExecutionId>> {
        load::running(self, slots, after, limit).await
    }

    async fn lease(&self, owner: &str, ttl: Duration, shard_count: u16) -> Result<(Vec<Lease>, usize)> {
        leases::lease(self, owner, ttl, shard_count).await
    }

    async fn release(&self, owner: &str, shards: Option<&[ShardId]>) -> Result<()> {
        leases::release(self, owner, shards).await
    }
}

#[async_trait]
impl Records for PostgresStore {
    async fn put_record(&self, record: &Record) -> Result<bool> {
        records::put_record(self, record).await
    }

    async fn record(&self, kind: &str, namespace: &Namespace, key: &str) -> Result<Option<Record>> {
        records::record(self, kind, namespace, key).await
    }

    async fn records(&self, query: &ListRecords) -> Result<Page<Record>> {
        records::records(self, query).await
    }

    async fn count_records(&self, kind: &str) -> Result<u64> {
        records::count_records(self, kind).await
    }

    async fn due_records(&self, kind: &str, until: Timestamp, limit: usize) -> Result<Vec<Record>> {
        records::due_records(self, kind, until, limit).await
    }

    async fn delete_record(
        &self,
        kind: &str,
        namespace: &Namespace,
        key: &str,
        version: Option<i64>,
    ) -> Result<bool> {
        records::delete_record(self, kind, namespace, key, version).await
    }
}

#[async_trait]
impl Reader for PostgresStore {
    async fn ping(&self) -> Result<()> {
        self.api_rows("answer", "SELECT 1", &[]).await.map(drop)
    }

    async fn setting(&self, name: &str, initial: &str) -> Result<String> {
        registry::setting(self, name, initial).await
    }

    async fn execution(&self, id: ExecutionId) -> Result<Option<ExecutionSummary>> {
        executions::execution(self, id).await
    }

    async fn executions(&self, query: &ListExecutions) -> Result<Page<ExecutionSummary>> {
        executions::executions(self, query).await
    }

    async fn map_run(&self, arn: &MapRunArn) -> Result<Option<MapRun>> {
        map_runs::map_run(self, arn).await
    }

    async fn map_runs(
        &self,
        execution: ExecutionId,
        limit: usize,
        after: Option<&str>,
    ) -> Result<Page<MapRun>> {
        map_runs::map_runs(self, execution, limit, after).await
    }

    async fn history(
        &self,
        id: ExecutionId,
        from: u64,
        descending: bool,
        limit: usize,
        max_bytes: usize,
    ) -> Result<Vec<HistoryRow>> {
        executions::history(self, id, from, descending, limit, max_bytes).await
    }

    async fn definition(&self, id: &str) -> Result<Option<DefinitionRow>> {
        registry::definition(self, id).await
    }

    async fn create_state_machine(
        &self,
        row: &StateMachineRow,
        definition: &DefinitionRow,
    ) -> Result<Option<StateMachineRow>> {
        registry::create_state_machine(self, row, definition).await
    }

    async fn update_state_machine(
        &self,
        row: &StateMachineRow,
        definition: Option<&DefinitionRow>,
    ) -> Result<bool> {
        registry::update_state_machine(self, row, definition).await
    }

    async fn state_machine(&self, arn: &StateMachineArn) -> Result<Option<StateMachineRow>> {
        registry::state_machine(self, arn).await
    }

    async fn state_machines(
        &self,
        namespace: &Namespace,
        limit: usize,
        after: Option<&str>,
    ) -> Result<Page<StateMachineRow>> {
        registry::state_machines(self, namespace, limit, after).await
    }

    async fn delete_state_machine(&self, arn: &StateMachineArn) -> Result<bool> {
        registry::delete_state_machine(self, arn).await
    }

    async fn create_activity(&self, row: &ActivityRow) -> Result<Option<ActivityRow>> {
        registry::create_activity(self, row).await
    }

    async fn activity(&self, namespace: &Namespace, name: &str) -> Result<Option<ActivityRow>> {
        registry::activity(self, namespace, name).await
    }

    async fn activities(
        &self,
        namespace: &Namespace,
        limit: usize,
        after: Option<&str>,
    ) -> Result<Page<ActivityRow>> {
        registry::activities(self, namespace, limit, after).await
    }

    async fn update_activity(&self, row: &ActivityRow) -> Result<bool> {
        registry::update_activity(self, row).await
    }

    async fn delete_activity(&self, namespace: &Namespace, name: &str) -> Result<bool> {
        registry::delete_activity(self, namespace, name).await
    }

    fn statements_sent(&self) -> u64 {
        self.statements.load(Ordering::Relaxed)
    }
}
