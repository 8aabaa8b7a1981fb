//! A store and a coordinator that keep everything in memory and decide nothing.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard},
    time::Duration,
};

use async_trait::async_trait;
use stagepost_coordinator::{
    client::{ClientError, OneCall, Poller},
    express::{Ended, RunError},
};
use stagepost_engine::End;
use stagepost_protocol::{
    ExecutionId, ExpressStart, MapRun, MapRunArn, Message, Namespace, Payload, Report, ReportOutcome, Signal,
    StateMachineArn, TaskMessage, Timestamp,
    shard::{Redrive, Reply, Start, Stop, UpdateMapRun},
};
use stagepost_store::{
    ActivityRow, DefinitionRow, ExecutionStatus, ExecutionSummary, ExecutionsOf, HistoryRow, ListExecutions,
    ListRecords, Page, Reader, Record, Records, Result, StateMachineRow,
};

use crate::commands::Commands;

#[derive(Default)]
pub(super) struct Tables {
    pub(super) machines: BTreeMap<String, StateMachineRow>,
    pub(super) definitions: BTreeMap<String, String>,
    pub(super) activities: BTreeMap<String, ActivityRow>,
    pub(super) executions: Vec<ExecutionSummary>,
    pub(super) history: Vec<HistoryRow>,
    pub(super) express: Vec<ExpressStart>,
    pub(super) map_runs: Vec<MapRun>,
    pub(super) updates: Vec<UpdateMapRun>,
    pub(super) signals: Vec<Signal>,
    pub(super) signal_reply: Option<Reply>,
    pub(super) reports: Vec<Report>,
    pub(super) report_reply: Option<Reply>,
    pub(super) task: Option<TaskMessage>,
    pub(super) calls: Vec<(OneCall, Duration)>,
    pub(super) call_outcome: Option<ReportOutcome>,
    /// By kind, namespace and key.
    pub(super) records: BTreeMap<(String, String, String), Record>,
    pub(super) published: Vec<Message>,
    pub(super) missing_queues: Vec<String>,
    pub(super) down: bool,
}

#[derive(Default)]
pub(super) struct Memory(Mutex<Tables>);

impl Memory {
    pub(super) fn tables(&self) -> MutexGuard<'_, Tables> {
        self.0.lock().unwrap()
    }
}

fn page<T: Clone>(all: &[(String, T)], limit: usize, after: Option<&str>) -> Page<T> {
    let start = after.map_or(0, |a| all.iter().position(|(key, _)| key.as_str() > a).unwrap_or(all.len()));
    let items: Vec<_> = all[start..].iter().take(limit).cloned().collect();
    let more = start + items.len() < all.len();
    let next = items.last().filter(|_| more).map(|(key, _)| key.clone());
    Page { items: items.into_iter().map(|(_, row)| row).collect(), next }
}

fn record_key(kind: &str, namespace: &Namespace, key: &str) -> (String, String, String) {
    (kind.to_owned(), namespace.to_string(), key.to_owned())
}

#[async_trait]
impl Records for Memory {
    async fn put_record(&self, record: &Record) -> Result<bool> {
        let mut tables = self.tables();
        let key = record_key(&record.kind, &record.namespace, &record.key);
        let stored = tables.records.get(&key).map_or(0, |stored| stored.version);
        if stored != record.version {
            return Ok(false);
        }
        tables.records.insert(key, Record { version: stored + 1, ..record.clone() });
        Ok(true)
    }

    async fn record(&self, kind: &str, namespace: &Namespace, key: &str) -> Result<Option<Record>> {
        Ok(self.tables().records.get(&record_key(kind, namespace, key)).cloned())
    }

    async fn records(&self, query: &ListRecords) -> Result<Page<Record>> {
        let tables = self.tables();
        let wanted = |r: &&Record| {
            r.kind == query.kind
                && query.namespace.as_ref().is_none_or(|n| *n == r.namespace)
                && query.label.as_ref().is_none_or(|l| *l == r.label)
        };
        let mut all: Vec<_> = tables.records.values().filter(wanted).cloned().collect();
        if query.descending {
            all.reverse();
        }
        let keyed: Vec<_> = all.into_iter().enumerate().map(|(i, r)| (format!("{i:04}"), r)).collect();
        Ok(page(&keyed, query.limit, query.after.as_deref()))
    }

    async fn count_records(&self, kind: &str) -> Result<u64> {
        Ok(self.tables().records.values().filter(|r| r.kind == kind).count() as u64)
    }

    async fn due_records(&self, kind: &str, until: Timestamp, limit: usize) -> Result<Vec<Record>> {
        let tables = self.tables();
        let due = |r: &&Record| r.kind == kind && r.due_at.is_some_and(|at| at <= until);
        let mut found: Vec<_> = tables.records.values().filter(due).cloned().collect();
        found.sort_by_key(|r| r.due_at);
        found.truncate(limit);
        Ok(found)
    }

    async fn delete_record(
        &self,
        kind: &str,
        namespace: &Namespace,
        key: &str,
        version: Option<i64>,
    ) -> Result<bool> {
        let mut tables = self.tables();
        let key = record_key(kind, namespace, key);
        let found = tables.records.get(&key).is_some_and(|r| version.is_none_or(|v| v == r.version));
        if found {
            tables.records.remove(&key);
        }
        Ok(found)
    }
}

#[async_trait]
impl Reader for Memory {
    async fn ping(&self) -> Result<()> {
        match self.tables().down {
            true => Err(stagepost_store::Error::Unavailable("connection refused".into())),
            false => Ok(()),
        }
    }

    async fn setting(&self, _: &str, initial: &str) -> Result<String> {
        Ok(initial.to_owned())
    }

    async fn execution(&self, id: ExecutionId) -> Result<Option<ExecutionSummary>> {
        Ok(self.tables().executions.iter().find(|e| e.id == id).cloned())
    }

    async fn executions(&self, query: &ListExecutions) -> Result<Page<ExecutionSummary>> {
        let tables = self.tables();
        let wanted = |e: &&ExecutionSummary| {
            let of = match &query.of {
                ExecutionsOf::StateMachine(arn) => e.state_machine == *arn,
                ExecutionsOf::MapRun(arn) | ExecutionsOf::RedrivenMapRun(arn, _) => {
                    e.map_item.as_ref().is_some_and(|m| m.map_run == *arn)
                }
            };
            of && query.status.is_none_or(|s| s == e.status)
                && query.redriven.is_none_or(|r| r == (e.redrive_count > 0))
        };
        let mut executions = tables.executions.clone();
        if let ExecutionsOf::RedrivenMapRun(_, since) = &query.of {
            let before = |e: &&mut ExecutionSummary| e.stopped_at.is_some_and(|at| at < *since);
            for waiting in executions.iter_mut().filter(|e| e.status.is_unsuccessful()).filter(before) {
                waiting.status = ExecutionStatus::PendingRedrive;
            }
        }
        let all: Vec<_> = executions.iter().rev().filter(wanted).cloned().collect();
        let keyed: Vec<_> = all.into_iter().enumerate().map(|(i, e)| (format!("{i:04}"), e)).collect();
        Ok(page(&keyed, query.limit, query.after.as_deref()))
    }

    async fn map_run(&self, arn: &MapRunArn) -> Result<Option<MapRun>> {
        Ok(self.tables().map_runs.iter().find(|run| run.arn == *arn).cloned())
    }

    async fn map_runs(
        &self,
        execution: ExecutionId,
        limit: usize,
        after: Option<&str>,
    ) -> Result<Page<MapRun>> {
        let tables = self.tables();
        let of = |run: &&MapRun| run.execution.id() == execution;
        let all = tables.map_runs.iter().rev().filter(of).cloned();
        let keyed: Vec<_> = all.enumerate().map(|(i, run)| (format!("{i:04}"), run)).collect();
        Ok(page(&keyed, limit, after))
    }

    async fn history(
        &self,
        id: ExecutionId,
        from: u64,
        descending: bool,
        limit: usize,
        _: usize,
    ) -> Result<Vec<HistoryRow>> {
        let tables = self.tables();
        let mut rows: Vec<_> = tables.history.iter().filter(|r| r.execution == id).cloned().collect();
        match descending {
            true => {
                rows.reverse();
                rows.retain(|r| r.first_event_id <= from);
            }
            false => rows.retain(|r| r.last_event_id >= from),
        }
        rows.truncate(limit);
        Ok(rows)
    }

    async fn definition(&self, id: &str) -> Result<Option<DefinitionRow>> {
        let text = self.tables().definitions.get(id).cloned();
        Ok(text.map(|text| DefinitionRow { id: id.to_owned(), text }))
    }

    async fn create_state_machine(
        &self,
        row: &StateMachineRow,
        definition: &DefinitionRow,
    ) -> Result<Option<StateMachineRow>> {
        let mut tables = self.tables();
        if let Some(existing) = tables.machines.get(&row.arn.to_string()) {
            return Ok(Some(existing.clone()));
        }
        tables.machines.insert(row.arn.to_string(), row.clone());
        tables.definitions.insert(definition.id.clone(), definition.text.clone());
        Ok(None)
    }

    async fn update_state_machine(
        &self,
        row: &StateMachineRow,
        definition: Option<&DefinitionRow>,
    ) -> Result<bool> {
        let mut tables = self.tables();
        if let Some(definition) = definition {
            tables.definitions.insert(definition.id.clone(), definition.text.clone());
        }
        Ok(tables.machines.insert(row.arn.to_string(), row.clone()).is_some())
    }

    async fn state_machine(&self, arn: &StateMachineArn) -> Result<Option<StateMachineRow>> {
        Ok(self.tables().machines.get(&arn.to_string()).cloned())
    }

    async fn state_machines(
        &self,
        namespace: &Namespace,
        limit: usize,
        after: Option<&str>,
    ) -> Result<Page<StateMachineRow>> {
        let tables = self.tables();
        let rows = tables.machines.values().filter(|r| r.arn.namespace == *namespace);
        let all: Vec<_> = rows.map(|r| (r.arn.name.clone(), r.clone())).collect();
        Ok(page(&all, limit, after))
    }

    async fn delete_state_machine(&self, arn: &StateMachineArn) -> Result<bool> {
        Ok(self.tables().machines.remove(&arn.to_string()).is_some())
    }

    async fn create_activity(&self, row: &ActivityRow) -> Result<Option<ActivityRow>> {
        let mut tables = self.tables();
        let key = format!("{} {}", row.namespace, row.name);
        if let Some(existing) = tables.activities.get(&key) {
            return Ok(Some(existing.clone()));
        }
        tables.activities.insert(key, row.clone());
        Ok(None)
    }

    async fn activity(&self, namespace: &Namespace, name: &str) -> Result<Option<ActivityRow>> {
        Ok(self.tables().activities.get(&format!("{namespace} {name}")).cloned())
    }

    async fn activities(
        &self,
        namespace: &Namespace,
        limit: usize,
        after: Option<&str>,
    ) -> Result<Page<ActivityRow>> {
        let tables = self.tables();
        let rows = tables.activities.values().filter(|r| r.namespace == *namespace);
        let all: Vec<_> = rows.map(|r| (r.name.clone(), r.clone())).collect();
        Ok(page(&all, limit, after))
    }

    async fn update_activity(&self, row: &ActivityRow) -> Result<bool> {
        let key = format!("{} {}", row.namespace, row.name);
        Ok(self.tables().activities.insert(key, row.clone()).is_some())
    }

    async fn delete_activity(&self, namespace: &Namespace, name: &str) -> Result<bool> {
        Ok(self.tables().activities.remove(&format!("{namespace} {name}")).is_some())
    }

    fn statements_sent(&self) -> u64 {
        0
    }
}

#[async_trait]
impl Commands for Memory {
    async fn start(&self, start: Start) -> Result<Reply, ClientError> {
        let mut tables = self.tables();
        let started_at = Timestamp::from_millis(1_000_500 + tables.executions.len() as i64);
        let id = start.execution.id();
        if let Some(existing) = tables.executions.iter().find(|e| e.id == id) {
            let same = existing.input == start.input && existing.status == ExecutionStatus::Running;
            return Ok(if same {
                Reply::Started { started_at: existing.started_at }
            } else {
                Reply::AlreadyExists
            });
        }
        tables.executions.push(ExecutionSummary {
            id,
            arn: start.execution,
            state_machine: start.state_machine,
            definition_id: start.definition_id,
            role_arn: start.role_arn,
            status: ExecutionStatus::Running,
            started_at,
            stopped_at: None,
            input: start.input,
            output: None,
            error: None,
            cause: None,
            wake_at: None,
            trace_header: start.trace_header,
            parent: start.parent,
            redrive_count: 0,
            redriven_at: None,
            map_item: start.map_item,
        });
        Ok(Reply::Started { started_at })
    }

    async fn redrive(&self, redrive: Redrive) -> Result<Reply, ClientError> {
        let mut tables = self.tables();
        let id = redrive.execution.id();
        let Some(execution) = tables.executions.iter_mut().find(|e| e.id == id) else {
            return Ok(Reply::NotFound);
        };
        let redriven_at = Timestamp::from_millis(4_000_000);
        if let Some(why) = execution.not_redrivable(redriven_at) {
            return Ok(Reply::NotRedrivable(why));
        }
        execution.status = ExecutionStatus::Running;
        (execution.stopped_at, execution.error, execution.cause) = (None, None, None);
        (execution.redrive_count, execution.redriven_at) = (execution.redrive_count + 1, Some(redriven_at));
        Ok(Reply::Redriven { redriven_at })
    }

    async fn stop(&self, stop: Stop) -> Result<Reply, ClientError> {
        let mut tables = self.tables();
        let id = stop.execution.id();
        let Some(execution) = tables.executions.iter_mut().find(|e| e.id == id) else {
            return Ok(Reply::NotFound);
        };
        let stopped_at = Timestamp::from_millis(2_000_250);
        execution.status = ExecutionStatus::Aborted;
        execution.stopped_at = Some(stopped_at);
        (execution.error, execution.cause) = (stop.error, stop.cause);
        Ok(Reply::Stopped { stopped_at })
    }

    async fn update_map_run(&self, update: UpdateMapRun) -> Result<Reply, ClientError> {
        self.tables().updates.push(update);
        Ok(Reply::Accepted)
    }

    async fn signal(&self, signal: Signal) -> Result<Reply, ClientError> {
        let mut tables = self.tables();
        tables.signals.push(signal);
        Ok(tables.signal_reply.clone().unwrap_or(Reply::Accepted))
    }

    async fn report(&self, report: Report) -> Result<Reply, ClientError> {
        let mut tables = self.tables();
        tables.reports.push(report);
        Ok(tables.report_reply.clone().unwrap_or(Reply::Accepted))
    }

    async fn start_express(&self, start: ExpressStart) -> Result<(), ClientError> {
        self.tables().express.push(start);
        Ok(())
    }

    /// Gives its input back, unless that names an end.
    async fn run_express(&self, start: ExpressStart) -> Result<Ended, RunError> {
        let end = match start.input.to_value()["end"].as_str() {
            Some("busy") => return Err(RunError::TooMany(7)),
            Some("late") => End::TimedOut,
            Some(error) => End::Failed { error: Some(error.to_owned()), cause: None },
            None => End::Succeeded(start.input.clone()),
        };
        let (started_at, stopped_at) = (Timestamp::from_millis(1_000), Timestamp::from_millis(1_101));
        self.tables().express.push(start);
        Ok(Ended { end, started_at, stopped_at, peak_bytes: 1_000 })
    }

    async fn call(
        &self,
        call: OneCall,
        wait: Duration,
    ) -> std::result::Result<Option<ReportOutcome>, ClientError> {
        let mut tables = self.tables();
        tables.calls.push((call, wait));
        Ok(tables.call_outcome.clone())
    }

    async fn publish(&self, message: Message) -> Result<(), ClientError> {
        let mut tables = self.tables();
        if tables.missing_queues.contains(&message.queue) {
            return Err(stagepost_broker::Error::Unroutable { queue: message.queue }.into());
        }
        tables.published.push(message);
        Ok(())
    }

    async fn poll_activity(
        &self,
        _: &Namespace,
        _: &str,
        _: Poller,
        wait: Duration,
    ) -> Result<Option<TaskMessage>, ClientError> {
        let task = self.tables().task.take();
        if task.is_none() {
            tokio::time::sleep(wait).await;
        }
        Ok(task)
    }
}

impl Memory {
    /// Ends an execution as a coordinator would have done.
    pub(super) fn succeed(&self, name: &str, output: &str) {
        let mut tables = self.tables();
        let execution = tables.executions.iter_mut().find(|e| e.arn.name == name).unwrap();
        execution.status = ExecutionStatus::Succeeded;
        execution.stopped_at = Some(Timestamp::from_millis(3_000_000));
        execution.output = Some(Payload::parse(output).unwrap());
    }
}
