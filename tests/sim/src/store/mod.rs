//! A store whose calls fail before they have an effect, fail after it, or hang.
//!
//! [`tables`] is the database; [`SimStore`] is what one process has of it.

pub(crate) mod commit;
mod leases;
mod listings;
pub(crate) mod tables;

use std::{ops::Range, sync::Arc, time::Duration};

use async_trait::async_trait;
use stagepost_protocol::{
    ExecutionId, MapRun, MapRunArn, Namespace, ShardId, Slot, StateMachineArn, Timestamp,
};
use stagepost_store::{
    ActivityRow, Batch, DefinitionRow, Error, ExecutionStatus, ExecutionSummary, HistoryRow, Lease,
    ListExecutions, ListRecords, Page, Reader, Record, Records, Result, StateMachineRow, Store,
    StoredExecution,
};

use crate::process::Process;
use tables::Tables;

/// How long a call that hangs does so at most: longer than a lease.
const HANG_MAX: Duration = Duration::from_secs(20);

/// One process's access to the database.
pub(crate) struct SimStore {
    process: Arc<Process>,
}

impl SimStore {
    pub(crate) fn new(process: &Arc<Process>) -> Arc<SimStore> {
        Arc::new(SimStore { process: Arc::clone(process) })
    }

    /// Whether the store is wrong now.
    fn errs(&self) -> bool {
        self.process.world.happens(self.process.world.faults.store_errs)
    }

    async fn call<T: Send + 'static>(
        &self,
        what: String,
        apply: impl FnOnce(&mut Tables) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let process = &self.process;
        let world = &process.world;
        let unavailable = || Error::Unavailable("chance".to_owned());
        process.call(&what).await;
        if world.happens(world.faults.store_fails_before) {
            world.note(&process.name, format!("is refused: {what}"));
            return Err(unavailable());
        }
        let result = if world.happens(world.faults.store_hangs) {
            world.note(&process.name, format!("waits long for: {what}"));
            // The database goes on with it even if who asked is gone.
            let (world, hang) = (Arc::clone(world), world.up_to(HANG_MAX));
            let late = tokio::spawn(async move {
                tokio::time::sleep(hang).await;
                let result = apply(&mut world.tables());
                world.note("store", "has done at last what was asked");
                result
            });
            late.await.unwrap_or_else(|error| Err(Error::Unavailable(error.to_string())))
        } else {
            apply(&mut world.tables())
        };
        if let Some(wrong) = world.tables().wrong.take() {
            world.violate(wrong);
        }
        if let Err(error) = &result {
            world.note(&process.name, format!("is told: {error}"));
        }
        process.answered().await;
        if world.happens(world.faults.store_fails_after) {
            world.note(&process.name, format!("does not hear of: {what}"));
            return Err(unavailable());
        }
        result
    }
}

fn described(batch: &Batch) -> String {
    let rows: Vec<String> =
        batch.history.iter().map(|r| format!("{}#{}", short(r.execution), r.sequence)).collect();
    let ends: Vec<String> =
        batch.ended.iter().map(|e| format!("{} {}", short(e.execution), e.status.as_str())).collect();
    let wakes: Vec<String> = batch
        .wakes
        .iter()
        .map(|(id, at)| format!("{} {}", short(*id), at.map_or(0, |at| at.as_millis() % 100_000_000)))
        .collect();
    let epochs: Vec<String> = batch.leases.iter().map(|l| format!("{}@{}", l.shard.0, l.epoch)).collect();
    format!("commits {epochs:?} rows {rows:?} ends {ends:?} wakes {wakes:?}")
}

/// Enough of an id to know it again.
fn short(id: ExecutionId) -> String {
    id.to_string()[8..16].to_owned()
}

#[async_trait]
impl Store for SimStore {
    async fn commit(&self, batch: Batch) -> Result<()> {
        let what = described(&batch);
        let errs = self.errs();
        let write = move |tables: &mut Tables| match batch.leases.first().filter(|_| errs) {
            Some(lease) => Err(Error::LeaseLost(lease.shard)),
            None => commit::commit(tables, batch),
        };
        self.call(what, write).await
    }

    async fn load(&self, ids: &[ExecutionId]) -> Result<Vec<Option<StoredExecution>>> {
        let ids = ids.to_vec();
        let what = format!("loads {:?}", ids.iter().map(|id| short(*id)).collect::<Vec<_>>());
        let errs = ids.len() > 1 && self.errs();
        let load = move |tables: &mut Tables| match errs {
            true => Err(Error::Database { what: "load", reason: "chance".to_owned() }),
            false => Ok(ids.iter().map(|id| tables.stored(*id)).collect()),
        };
        self.call(what, load).await
    }

    async fn due(
        &self,
        slots: &[Range<u16>],
        until: Timestamp,
        limit: usize,
    ) -> Result<Vec<(Timestamp, ExecutionId)>> {
        let slots = slots.to_vec();
        let due = move |tables: &mut Tables| {
            let wake = |(id, row): (&ExecutionId, &tables::Row)| Some((row.summary.wake_at?, *id));
            let mut due: Vec<_> = tables
                .executions
                .iter()
                .filter_map(wake)
                .filter(|(at, id)| *at <= until && within(&slots, *id))
                .collect();
            due.sort_unstable();
            due.truncate(limit);
            Ok(due)
        };
        self.call(format!("asks what is due until {}", until.as_millis() % 100_000_000), due).await
    }

    async fn running(
        &self,
        slots: &[Range<u16>],
        after: Option<ExecutionId>,
        limit: usize,
    ) -> Result<Vec<ExecutionId>> {
        let slots = slots.to_vec();
        let running = move |tables: &mut Tables| {
            let wanted = |(id, row): (&ExecutionId, &tables::Row)| {
                let running = row.summary.status == ExecutionStatus::Running;
                (running && after.is_none_or(|after| *id > after) && within(&slots, *id)).then_some(*id)
            };
            Ok(tables.executions.iter().filter_map(wanted).take(limit).collect())
        };
        self.call("asks what is running".to_owned(), running).await
    }

    async fn lease(&self, owner: &str, ttl: Duration, shard_count: u16) -> Result<(Vec<Lease>, usize)> {
        let owner = owner.to_owned();
        self.call("leases".to_owned(), move |tables| Ok(leases::lease(tables, &owner, ttl, shard_count)))
            .await
    }

    async fn release(&self, owner: &str, shards: Option<&[ShardId]>) -> Result<()> {
        let (owner, shards) = (owner.to_owned(), shards.map(<[ShardId]>::to_vec));
        let release = move |tables: &mut Tables| {
            leases::release(tables, &owner, shards.as_deref());
            Ok(())
        };
        self.call("releases".to_owned(), release).await
    }
}

fn within(slots: &[Range<u16>], id: ExecutionId) -> bool {
    slots.iter().any(|range| range.contains(&Slot::of(id).0))
}

#[async_trait]
impl Records for SimStore {
    async fn put_record(&self, record: &Record) -> Result<bool> {
        let record = record.clone();
        self.call(format!("puts a {}", record.kind), move |t| Ok(t.put_record(record))).await
    }

    async fn record(&self, kind: &str, namespace: &Namespace, key: &str) -> Result<Option<Record>> {
        let place = (kind.to_owned(), namespace.clone(), key.to_owned());
        self.call(format!("reads {kind} {key}"), move |t| Ok(t.records.get(&place).cloned())).await
    }

    async fn count_records(&self, kind: &str) -> Result<u64> {
        let place = kind.to_owned();
        let count =
            move |t: &mut Tables| Ok(t.records.keys().filter(|(kind, ..)| *kind == place).count() as u64);
        self.call(format!("counts {kind}"), count).await
    }

    async fn records(&self, query: &ListRecords) -> Result<Page<Record>> {
        let query = query.clone();
        self.call(format!("lists {}", query.kind), move |t| Ok(listings::records(t, &query))).await
    }

    async fn due_records(&self, kind: &str, until: Timestamp, limit: usize) -> Result<Vec<Record>> {
        let kind = kind.to_owned();
        self.call(format!("asks for due {kind}"), move |t| Ok(listings::due_records(t, &kind, until, limit)))
            .await
    }

    async fn delete_record(
        &self,
        kind: &str,
        namespace: &Namespace,
        key: &str,
        version: Option<i64>,
    ) -> Result<bool> {
        let place = (kind.to_owned(), namespace.clone(), key.to_owned());
        let delete = move |t: &mut Tables| {
            let there = t.records.get(&place).is_some_and(|r| version.is_none_or(|v| v == r.version));
            Ok(there && t.records.remove(&place).is_some())
        };
        self.call(format!("deletes {kind} {key}"), delete).await
    }
}

#[async_trait]
impl Reader for SimStore {
    async fn ping(&self) -> Result<()> {
        self.call("pings".to_owned(), |_| Ok(())).await
    }

    async fn setting(&self, name: &str, initial: &str) -> Result<String> {
        let (name, initial) = (name.to_owned(), initial.to_owned());
        let setting = move |t: &mut Tables| Ok(t.settings.entry(name).or_insert(initial).clone());
        self.call("asks for a setting".to_owned(), setting).await
    }

    async fn execution(&self, id: ExecutionId) -> Result<Option<ExecutionSummary>> {
        let read = move |t: &mut Tables| Ok(t.executions.get(&id).map(|row| row.summary.clone()));
        self.call(format!("describes {}", short(id)), read).await
    }

    async fn executions(&self, query: &ListExecutions) -> Result<Page<ExecutionSummary>> {
        let query = query.clone();
        self.call("lists executions".to_owned(), move |t| Ok(listings::executions(t, &query))).await
    }

    async fn map_run(&self, arn: &MapRunArn) -> Result<Option<MapRun>> {
        let arn = arn.clone();
        self.call("describes a Map Run".to_owned(), move |t| Ok(t.map_runs.get(&arn).cloned())).await
    }

    async fn map_runs(
        &self,
        execution: ExecutionId,
        limit: usize,
        after: Option<&str>,
    ) -> Result<Page<MapRun>> {
        let after = after.map(str::to_owned);
        let list = move |t: &mut Tables| Ok(listings::map_runs(t, execution, limit, after.as_deref()));
        self.call("lists Map Runs".to_owned(), list).await
    }

    async fn history(
        &self,
        id: ExecutionId,
        from: u64,
        descending: bool,
        limit: usize,
        max_bytes: usize,
    ) -> Result<Vec<HistoryRow>> {
        let read = move |t: &mut Tables| Ok(listings::history(t, id, from, descending, limit, max_bytes));
        self.call(format!("reads the history of {}", short(id)), read).await
    }

    async fn definition(&self, id: &str) -> Result<Option<DefinitionRow>> {
        let key = id.to_owned();
        self.call(format!("reads the definition {id}"), move |t| Ok(t.definitions.get(&key).cloned())).await
    }

    async fn create_state_machine(
        &self,
        row: &StateMachineRow,
        definition: &DefinitionRow,
    ) -> Result<Option<StateMachineRow>> {
        let (row, definition) = (row.clone(), definition.clone());
        let create = move |t: &mut Tables| Ok(listings::create_state_machine(t, row, definition));
        self.call("creates a state machine".to_owned(), create).await
    }

    async fn update_state_machine(
        &self,
        row: &StateMachineRow,
        definition: Option<&DefinitionRow>,
    ) -> Result<bool> {
        let (row, definition) = (row.clone(), definition.cloned());
        let update = move |t: &mut Tables| Ok(listings::update_state_machine(t, row, definition));
        self.call("updates a state machine".to_owned(), update).await
    }

    async fn state_machine(&self, arn: &StateMachineArn) -> Result<Option<StateMachineRow>> {
        let name = arn.to_string();
        self.call("reads a state machine".to_owned(), move |t| Ok(t.state_machines.get(&name).cloned())).await
    }

    async fn state_machines(
        &self,
        namespace: &Namespace,
        limit: usize,
        after: Option<&str>,
    ) -> Result<Page<StateMachineRow>> {
        let (namespace, after) = (namespace.clone(), after.map(str::to_owned));
        let list = move |t: &mut Tables| Ok(listings::state_machines(t, &namespace, limit, after.as_deref()));
        self.call("lists state machines".to_owned(), list).await
    }

    async fn delete_state_machine(&self, arn: &StateMachineArn) -> Result<bool> {
        let name = arn.to_string();
        self.call("deletes a state machine".to_owned(), move |t| Ok(t.state_machines.remove(&name).is_some()))
            .await
    }

    async fn create_activity(&self, row: &ActivityRow) -> Result<Option<ActivityRow>> {
        let row = row.clone();
        let create = move |t: &mut Tables| {
            let place = (row.namespace.clone(), row.name.clone());
            let there = t.activities.get(&place).cloned();
            t.activities.entry(place).or_insert(row);
            Ok(there)
        };
        self.call("creates an activity".to_owned(), create).await
    }

    async fn activity(&self, namespace: &Namespace, name: &str) -> Result<Option<ActivityRow>> {
        let place = (namespace.clone(), name.to_owned());
        self.call(format!("reads the activity {name}"), move |t| Ok(t.activities.get(&place).cloned())).await
    }

    async fn activities(
        &self,
        namespace: &Namespace,
        limit: usize,
        after: Option<&str>,
    ) -> Result<Page<ActivityRow>> {
        let (namespace, after) = (namespace.clone(), after.map(str::to_owned));
        let list = move |t: &mut Tables| Ok(listings::activities(t, &namespace, limit, after.as_deref()));
        self.call("lists activities".to_owned(), list).await
    }

    async fn update_activity(&self, row: &ActivityRow) -> Result<bool> {
        let row = row.clone();
        let update = move |t: &mut Tables| {
            let there = t.activities.get_mut(&(row.namespace.clone(), row.name.clone()));
            Ok(there.map(|there| *there = row).is_some())
        };
        self.call("updates an activity".to_owned(), update).await
    }

    async fn delete_activity(&self, namespace: &Namespace, name: &str) -> Result<bool> {
        let place = (namespace.clone(), name.to_owned());
        self.call("deletes an activity".to_owned(), move |t| Ok(t.activities.remove(&place).is_some())).await
    }

    fn statements_sent(&self) -> u64 {
        self.process.world.tables().calls
    }
}
