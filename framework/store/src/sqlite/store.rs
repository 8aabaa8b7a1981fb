//! The store itself: its connections, and the traits by way of the files beside this one.

use std::{
    ops::Range,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use rusqlite::Connection;
use stagepost_protocol::{ExecutionId, MapRun, MapRunArn, Namespace, ShardId, StateMachineArn, Timestamp};
use tokio::sync::Semaphore;

use super::{
    Options, commit, connect, errors, executions, leases, load, map_runs, records, registry, writer::Writer,
};
use crate::{
    ActivityRow, Batch, DefinitionRow, Error, ExecutionSummary, HistoryRow, Lease, ListExecutions,
    ListRecords, Page, Reader, Record, Records, Result, StateMachineRow, Store, StoredExecution,
};

/// A store on SQLite. It alone has the database open, until it is dropped.
pub struct SqliteStore {
    writer: Writer,
    /// None when the database is in memory.
    readers: Option<Arc<Readers>>,
    statements: AtomicU64,
    /// After the connections, so that it is let go of last.
    _lock: Option<Mutex<Connection>>,
}

/// Connections that only read, and how many of them are free.
struct Readers {
    free: Mutex<Vec<Connection>>,
    permits: Arc<Semaphore>,
}

impl SqliteStore {
    /// Opens the database at `path`, made where there is none (`:memory:`: one that lives as long as the store),
    /// and brings its schema up to date. Blocks for a moment.
    ///
    /// Fails with [`Error::Url`] when the path cannot be used or another process has the database open, and
    /// with [`Error::SchemaTooNew`] when a newer binary has been here.
    pub fn open(path: impl AsRef<Path>, options: &Options) -> Result<Arc<SqliteStore>> {
        let connect::Connections { writer, readers, lock } = connect::connect(path.as_ref(), options)?;
        let readers = (!readers.is_empty()).then(|| {
            let permits = Arc::new(Semaphore::new(readers.len()));
            Arc::new(Readers { free: Mutex::new(readers), permits })
        });
        let writer = Writer::start(writer)?;
        Ok(Arc::new(SqliteStore {
            writer,
            readers,
            statements: AtomicU64::new(0),
            _lock: lock.map(Mutex::new),
        }))
    }

    /// Runs `run`, of so many statements, in a transaction that is durable afterwards.
    pub(super) async fn write<T: Send + 'static>(
        &self,
        statements: usize,
        run: impl FnOnce(&Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.count(statements + 2);
        self.writer.call(run).await
    }

    /// Runs `run`, of so many statements, on a connection that only reads.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        statements: usize,
        run: impl FnOnce(&Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.count(statements);
        let Some(readers) = self.readers.clone() else { return self.writer.call(run).await };
        let unavailable = |e: String| Error::Unavailable(e);
        let permit = readers.permits.clone().acquire_owned().await.map_err(|e| unavailable(e.to_string()))?;
        let reading = tokio::task::spawn_blocking(move || {
            let taken = readers.free.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let connection = taken.ok_or_else(|| unavailable("no free connection".to_owned()))?;
            let result = snapshot(&connection, run);
            readers.free.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
            drop(permit);
            result
        });
        reading.await.map_err(|e| unavailable(e.to_string()))?
    }

    fn count(&self, statements: usize) {
        self.statements.fetch_add(statements as u64, Ordering::Relaxed);
    }
}

/// Runs `run` on the database as it is at one moment.
fn snapshot<T>(connection: &Connection, run: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
    let transaction = connection.unchecked_transaction().map_err(errors::failed("read"))?;
    let result = run(&transaction);
    transaction.finish().map_err(errors::failed("read"))?;
    result
}

#[async_trait]
impl Store for SqliteStore {
    async fn commit(&self, batch: Batch) -> Result<()> {
        commit::commit(self, batch).await
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
impl Records for SqliteStore {
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
impl Reader for SqliteStore {
    async fn ping(&self) -> Result<()> {
        let ask = |c: &Connection| c.query_row("SELECT 1", [], |_| Ok(())).map_err(errors::failed("answer"));
        self.read(1, ask).await
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
