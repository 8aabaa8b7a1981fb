//! The [`Store`] and [`Reader`] traits and their two implementations: [`postgres`] and [`sqlite`]. One contract
//! suite, the tests in `contract`, holds for both.
//!
//! The store is append-only on the hot path: one history row per decision, many decisions to a [`Batch`], one
//! transaction to a batch. The execution's summary row is written at its start and at its end.

#[cfg(test)]
mod contract;
mod paging;
pub mod postgres;
mod slots;
pub mod sqlite;
mod stored;

use std::{ops::Range, time::Duration};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use stagepost_protocol::{
    ExecutionArn, ExecutionId, MapItem, MapRun, MapRunArn, Namespace, Parent, Payload, ShardId,
    StateMachineArn, Timestamp, limits,
};

/// Why the store could not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The database cannot be reached or is shutting down: wait and try again. Whether a commit that ended so
    /// took effect is not known.
    #[error("the database cannot be reached: {0}")]
    Unavailable(String),
    /// Another coordinator owns a shard of the batch: nothing was written; drop what is cached of it.
    #[error("shard {0:?} is owned by another coordinator: its lease was lost")]
    LeaseLost(ShardId),
    /// An execution or a history row of the batch is already there: nothing was written; load it and decide
    /// anew.
    #[error("the batch was decided on outdated state: {0}")]
    Conflict(String),
    /// The schema is newer than this binary.
    #[error("the database schema has version {found}, this binary knows {known}: use a newer binary")]
    SchemaTooNew {
        /// The version found.
        found: i64,
        /// The newest version this binary knows.
        known: i64,
    },
    /// The URL or path cannot be used.
    #[error("'{url}' cannot be used as a database: {reason}")]
    Url {
        /// The URL, without its password.
        url: String,
        /// Why.
        reason: String,
    },
    /// The database refused, or holds what cannot be read.
    #[error("the database refused to {what}: {reason}")]
    Database {
        /// What was asked for.
        what: &'static str,
        /// What it said.
        reason: String,
    },
}

/// The result of a store operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A shard, its owner's epoch and its slots. The epoch grows by one with every change of owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The shard.
    pub shard: ShardId,
    /// Fences commits of earlier owners off.
    pub epoch: i64,
}

/// The status of an execution.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ExecutionStatus {
    /// Not ended.
    Running,
    /// Ended with an output.
    Succeeded,
    /// Ended with an error.
    Failed,
    /// Ran longer than its `TimeoutSeconds`.
    TimedOut,
    /// Was stopped.
    Aborted,
    /// Was redriven and waits to go on.
    PendingRedrive,
}

impl ExecutionSummary {
    /// Why the execution cannot be redriven at `now` (`redriveStatusReason` of DescribeExecution), if it cannot. What
    /// only its history shows is left to the coordinator.
    pub fn not_redrivable(&self, now: Timestamp) -> Option<String> {
        let why = match self.status {
            ExecutionStatus::Failed | ExecutionStatus::TimedOut | ExecutionStatus::Aborted => {
                let age = self.stopped_at.map_or(0, |at| now.millis_since(at));
                if age > limits::REDRIVABLE_MILLIS {
                    "Execution redrivable period exceeded".to_owned()
                } else if self.redrive_count >= limits::REDRIVES_MAX {
                    "Execution redrive limit exceeded".to_owned()
                } else {
                    return None;
                }
            }
            status => format!("Execution is {}", status.as_str()),
        };
        Some(format!("{why} and cannot be redriven"))
    }
}

impl ExecutionStatus {
    /// Whether it is an end without success.
    pub const fn is_unsuccessful(self) -> bool {
        matches!(self, ExecutionStatus::Failed | ExecutionStatus::TimedOut | ExecutionStatus::Aborted)
    }

    /// As the API spells it.
    pub const fn as_str(self) -> &'static str {
        match self {
            ExecutionStatus::Running => "RUNNING",
            ExecutionStatus::Succeeded => "SUCCEEDED",
            ExecutionStatus::Failed => "FAILED",
            ExecutionStatus::TimedOut => "TIMED_OUT",
            ExecutionStatus::Aborted => "ABORTED",
            ExecutionStatus::PendingRedrive => "PENDING_REDRIVE",
        }
    }

    /// From the API's spelling.
    pub fn parse(text: &str) -> Option<ExecutionStatus> {
        use ExecutionStatus::*;
        [Running, Succeeded, Failed, TimedOut, Aborted, PendingRedrive]
            .into_iter()
            .find(|s| s.as_str() == text)
    }
}

/// An execution that a batch starts.
#[derive(Debug, Clone, PartialEq)]
pub struct NewExecution {
    /// Its id, a function of its ARN.
    pub id: ExecutionId,
    /// Its name, its state machine and its namespace.
    pub arn: ExecutionArn,
    /// What it is an execution of.
    pub state_machine: StateMachineArn,
    /// The definition that it runs to its end.
    pub definition_id: String,
    /// Its role.
    pub role_arn: String,
    /// Its input.
    pub input: Payload,
    /// When it started.
    pub started_at: Timestamp,
    /// Its first wake-up.
    pub wake_at: Option<Timestamp>,
    /// The caller's trace header.
    pub trace_header: Option<String>,
    /// The attempt that waits for its end.
    pub parent: Option<Parent>,
    /// What it is of a Map Run, if it is a child execution of one.
    pub map_item: Option<MapItem>,
}

/// The events of one decision.
#[derive(Debug, Clone, PartialEq)]
pub struct HistoryRow {
    /// Whose.
    pub execution: ExecutionId,
    /// The id of the first event in it. Rows of one execution follow each other without gaps.
    pub first_event_id: u64,
    /// The id of the last event in it; `first_event_id - 1` when the row holds only hidden notes.
    pub last_event_id: u64,
    /// The number of the decision, from 1: orders the rows, also those that hold only notes.
    pub sequence: u64,
    /// The epoch of the coordinator that decided.
    pub epoch: i64,
    /// The events, encoded by the engine (text without NUL).
    pub payload: String,
}

/// The end of an execution.
#[derive(Debug, Clone, PartialEq)]
pub struct EndedExecution {
    /// Whose.
    pub execution: ExecutionId,
    /// How it ended.
    pub status: ExecutionStatus,
    /// When.
    pub stopped_at: Timestamp,
    /// Its output, if it succeeded.
    pub output: Option<Payload>,
    /// Its error, if it did not.
    pub error: Option<String>,
    /// For people.
    pub cause: Option<String>,
    /// When to look at it again: for what follows from its end and may not be published. `None`: nothing does.
    pub wake_at: Option<Timestamp>,
}

/// An execution that had ended without success and goes on.
#[derive(Debug, Clone, PartialEq)]
pub struct RedrivenExecution {
    /// Whose.
    pub execution: ExecutionId,
    /// When.
    pub redriven_at: Timestamp,
    /// How often by now.
    pub redrive_count: u32,
    /// Its next wake-up.
    pub wake_at: Option<Timestamp>,
}

/// An execution's state as of a decision, so that a long history need not be replayed from its beginning.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// Whose.
    pub execution: ExecutionId,
    /// The decision that it includes.
    pub sequence: u64,
    /// The state, encoded by the engine.
    pub payload: String,
}

/// Entries that are added to the list which a record's body is, whatever it holds already. The record is made where there
/// is none.
#[derive(Debug, Clone, PartialEq)]
pub struct Appended {
    /// [`Record::kind`].
    pub kind: String,
    /// [`Record::namespace`].
    pub namespace: Namespace,
    /// [`Record::key`].
    pub key: String,
    /// The record's label from now on.
    pub label: String,
    /// When the record falls due from now on.
    pub due_at: Option<Timestamp>,
    /// In order; at least one.
    pub entries: Vec<Payload>,
}

impl Appended {
    /// The entries as the list that a new record holds.
    fn list(&self) -> String {
        let entries: Vec<&str> = self.entries.iter().map(Payload::as_str).collect();
        format!("[{}]", entries.join(","))
    }
}

/// Everything that one transaction changes.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Batch {
    /// The leases of all shards that the batch touches.
    pub leases: Vec<Lease>,
    /// Executions that start. One that exists is a [`Error::Conflict`].
    pub started: Vec<NewExecution>,
    /// Decisions, in order, of executions that exist or that `started` holds. One whose (execution, sequence)
    /// exists is a [`Error::Conflict`].
    pub history: Vec<HistoryRow>,
    /// Executions that go on; before those that end.
    pub redriven: Vec<RedrivenExecution>,
    /// Executions that end; their wake-ups are gone with it, but for the one that each names.
    pub ended: Vec<EndedExecution>,
    /// Wake-ups that move; `None`: gone, as of each that has ended. Each execution at most once; none that
    /// `started`, `redriven` or `ended` holds.
    pub wakes: Vec<(ExecutionId, Option<Timestamp>)>,
    /// Snapshots; each replaces the earlier one of its execution.
    pub snapshots: Vec<Snapshot>,
    /// Map Runs as they are now; each replaces what is stored of it. Each at most once.
    pub map_runs: Vec<MapRun>,
    /// What happened to records whose bodies are lists. Each record at most once.
    pub appended: Vec<Appended>,
}

impl Batch {
    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.started.is_empty()
            && self.history.is_empty()
            && self.redriven.is_empty()
            && self.ended.is_empty()
            && self.wakes.is_empty()
            && self.snapshots.is_empty()
            && self.map_runs.is_empty()
            && self.appended.is_empty()
    }
}

/// All that is needed to replay an execution.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredExecution {
    /// Its summary.
    pub summary: ExecutionSummary,
    /// Its newest snapshot.
    pub snapshot: Option<Snapshot>,
    /// Its history after the snapshot, or all of it, in order.
    pub history: Vec<HistoryRow>,
}

/// The summary row of an execution.
#[derive(Debug, Clone, PartialEq)]
pub struct ExecutionSummary {
    /// Its id.
    pub id: ExecutionId,
    /// Its ARN.
    pub arn: ExecutionArn,
    /// What it is an execution of.
    pub state_machine: StateMachineArn,
    /// The definition that it runs.
    pub definition_id: String,
    /// Its role.
    pub role_arn: String,
    /// How it stands.
    pub status: ExecutionStatus,
    /// When it started.
    pub started_at: Timestamp,
    /// When it ended.
    pub stopped_at: Option<Timestamp>,
    /// Its input.
    pub input: Payload,
    /// Its output.
    pub output: Option<Payload>,
    /// Its error.
    pub error: Option<String>,
    /// For people.
    pub cause: Option<String>,
    /// Its next wake-up.
    pub wake_at: Option<Timestamp>,
    /// The caller's trace header.
    pub trace_header: Option<String>,
    /// The attempt that waits for its end.
    pub parent: Option<Parent>,
    /// How often it was redriven.
    pub redrive_count: u32,
    /// When it was last redriven.
    pub redriven_at: Option<Timestamp>,
    /// What it is of a Map Run, if it is a child execution of one.
    pub map_item: Option<MapItem>,
}

/// An immutable definition; executions name it by its id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DefinitionRow {
    /// Its id (a UUID; the revision id of the API).
    pub id: String,
    /// The JSON document, as it was given.
    pub text: String,
}

/// A state machine as it is registered.
#[derive(Debug, Clone, PartialEq)]
pub struct StateMachineRow {
    /// Its ARN.
    pub arn: StateMachineArn,
    /// Its current definition; `DefinitionRow::id`.
    pub definition_id: String,
    /// Its role.
    pub role_arn: String,
    /// `STANDARD` or `EXPRESS`.
    pub kind: String,
    /// `ACTIVE` or `DELETING`.
    pub status: String,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it was last updated.
    pub updated_at: Timestamp,
    /// Further settings of the API (logging, tracing, encryption, tags), as one JSON object.
    pub settings: Payload,
}

impl StateMachineRow {
    /// Whether its executions are Express executions, which no store keeps.
    pub fn is_express(&self) -> bool {
        self.kind == "EXPRESS"
    }
}

/// An activity as it is registered.
#[derive(Debug, Clone, PartialEq)]
pub struct ActivityRow {
    /// Where it is filed.
    pub namespace: Namespace,
    /// Its name.
    pub name: String,
    /// When it was created.
    pub created_at: Timestamp,
    /// Further settings of the API (encryption, tags), as one JSON object.
    pub settings: Payload,
}

/// A page of a listing: what it holds and where the next one begins.
#[derive(Debug, Clone, PartialEq)]
pub struct Page<T> {
    /// The rows.
    pub items: Vec<T>,
    /// Pass it as `after` for the next page; `None` at the end.
    pub next: Option<String>,
}

/// What executions are listed of.
#[derive(Debug, Clone, PartialEq)]
pub enum ExecutionsOf {
    /// A state machine; without the child executions of its Map Runs.
    StateMachine(StateMachineArn),
    /// A Map Run: its child executions.
    MapRun(MapRunArn),
    /// A Map Run that was redriven then and runs: those of its child executions that ended without success before have the
    /// status [`ExecutionStatus::PendingRedrive`].
    RedrivenMapRun(MapRunArn, Timestamp),
}

impl ExecutionsOf {
    /// The column that names what they are of, with its values, and since when those of a Map Run are redriven.
    fn filter(&self) -> (&Namespace, &'static str, &str, Option<i64>) {
        match self {
            ExecutionsOf::StateMachine(arn) => (&arn.namespace, "state_machine", &arn.name, None),
            ExecutionsOf::MapRun(arn) => (&arn.namespace, "map_run", &arn.name, None),
            ExecutionsOf::RedrivenMapRun(arn, since) => {
                (&arn.namespace, "map_run", &arn.name, Some(since.as_millis()))
            }
        }
    }
}

/// Which executions to list, newest first.
#[derive(Debug, Clone, PartialEq)]
pub struct ListExecutions {
    /// Of what.
    pub of: ExecutionsOf,
    /// Only with this status.
    pub status: Option<ExecutionStatus>,
    /// Only those that were redriven, or only those that were not.
    pub redriven: Option<bool>,
    /// At most so many.
    pub limit: usize,
    /// The `next` of the page before.
    pub after: Option<String>,
}

/// What the coordinator needs. All methods may be called at once from many tasks.
#[async_trait]
pub trait Store: Reader {
    /// Writes a batch, all or nothing, durably once it returns `Ok`. Fails with [`Error::LeaseLost`] when one of
    /// its leases is no longer current, checked in the same transaction, so that a stale owner cannot write.
    async fn commit(&self, batch: Batch) -> Result<()>;

    /// Loads executions for replay; `None` where there is none. Same order as `ids`.
    async fn load(&self, ids: &[ExecutionId]) -> Result<Vec<Option<StoredExecution>>>;

    /// Wake-ups in these slots up to and including `until`, earliest first, at most `limit`.
    async fn due(
        &self,
        slots: &[Range<u16>],
        until: Timestamp,
        limit: usize,
    ) -> Result<Vec<(Timestamp, ExecutionId)>>;

    /// The running executions in these slots with an id greater than `after`, in order of id, at most `limit`:
    /// for recovery, which goes through all of them.
    async fn running(
        &self,
        slots: &[Range<u16>],
        after: Option<ExecutionId>,
        limit: usize,
    ) -> Result<Vec<ExecutionId>>;

    /// Tells that `owner` lives for `ttl` more, renews its unexpired leases by as much, takes free or expired shards of
    /// `0..shard_count` until it has its fair share (`shard_count` divided by the live owners, rounded up), and
    /// gives nothing away. Returns the leases it holds and its fair share: an owner with more is asked to
    /// [`Store::release`] some. The store's clock decides.
    async fn lease(&self, owner: &str, ttl: Duration, shard_count: u16) -> Result<(Vec<Lease>, usize)>;

    /// Gives leases back at once; all of them and the membership with `None`.
    async fn release(&self, owner: &str, shards: Option<&[ShardId]>) -> Result<()>;
}

/// A document that operators or features beside the engine keep: a trigger, a schedule, an approval, a dead letter.
/// The store looks at nothing in its body. Changes are by compare-and-swap on the version, so that of several
/// processes that act on the same record one wins.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// What it is; each kind has listings of its own. For instance `trigger`.
    pub kind: String,
    /// Where it is filed.
    pub namespace: Namespace,
    /// Names it within its kind and namespace; listings are in its order (by bytes).
    pub key: String,
    /// What listings can be narrowed to, for instance `OPEN`. May be empty.
    pub label: String,
    /// When somebody must look at it; see [`Records::due_records`].
    pub due_at: Option<Timestamp>,
    /// Grows by one with every change, from 1. 0: a record that is not stored yet.
    pub version: i64,
    /// What it holds.
    pub body: Payload,
}

/// Which records to list, by their keys.
#[derive(Debug, Clone, PartialEq)]
pub struct ListRecords {
    /// Of which kind.
    pub kind: String,
    /// Only those that are filed there. `None`: everywhere.
    pub namespace: Option<Namespace>,
    /// Only those with this label.
    pub label: Option<String>,
    /// Largest keys first.
    pub descending: bool,
    /// At most so many.
    pub limit: usize,
    /// The `next` of the page before.
    pub after: Option<String>,
}

/// Documents with compare-and-swap: all that is durable but is no execution and no definition.
#[async_trait]
pub trait Records: Send + Sync + 'static {
    /// Stores a record. Version 0: a new one, `false` when its key is taken. Otherwise replaces what is stored under
    /// its key, `false` when that is gone or has another version. What is stored has the next version.
    async fn put_record(&self, record: &Record) -> Result<bool>;

    /// A record.
    async fn record(&self, kind: &str, namespace: &Namespace, key: &str) -> Result<Option<Record>>;

    /// A page of records, by account, region and key.
    async fn records(&self, query: &ListRecords) -> Result<Page<Record>>;

    /// How many records of a kind there are, everywhere.
    async fn count_records(&self, kind: &str) -> Result<u64>;

    /// The records of a kind, everywhere, that fall due up to and including `until`, earliest first, at most `limit`.
    async fn due_records(&self, kind: &str, until: Timestamp, limit: usize) -> Result<Vec<Record>>;

    /// Deletes a record, only in this version if one is given. `false`: there was none.
    async fn delete_record(
        &self,
        kind: &str,
        namespace: &Namespace,
        key: &str,
        version: Option<i64>,
    ) -> Result<bool>;
}

/// Reads, and the registry of definitions: what the API needs.
#[async_trait]
pub trait Reader: Records {
    /// Whether the database answers.
    async fn ping(&self) -> Result<()>;

    /// The value of a setting; where there is none, `initial` is stored first. One value wins when several
    /// processes do this at once. (The task tokens' secret is kept so.)
    async fn setting(&self, name: &str, initial: &str) -> Result<String>;

    /// The summary of an execution.
    async fn execution(&self, id: ExecutionId) -> Result<Option<ExecutionSummary>>;

    /// A page of executions, newest first. `input` and `output` may be left out (`null`, `None`).
    async fn executions(&self, query: &ListExecutions) -> Result<Page<ExecutionSummary>>;

    /// A Map Run.
    async fn map_run(&self, arn: &MapRunArn) -> Result<Option<MapRun>>;

    /// A page of the Map Runs of an execution, newest first.
    async fn map_runs(
        &self,
        execution: ExecutionId,
        limit: usize,
        after: Option<&str>,
    ) -> Result<Page<MapRun>>;

    /// History rows of an execution with `last_event_id >= from` (ascending) or `first_event_id <= from`
    /// (descending), at most `limit` rows and about `max_bytes` bytes, at least one if there is one.
    async fn history(
        &self,
        id: ExecutionId,
        from: u64,
        descending: bool,
        limit: usize,
        max_bytes: usize,
    ) -> Result<Vec<HistoryRow>>;

    /// A definition by its id.
    async fn definition(&self, id: &str) -> Result<Option<DefinitionRow>>;

    /// Registers a state machine with its definition. Returns the one that is there when the name is taken, and
    /// changes nothing then.
    async fn create_state_machine(
        &self,
        row: &StateMachineRow,
        definition: &DefinitionRow,
    ) -> Result<Option<StateMachineRow>>;

    /// Replaces a state machine's row, and adds its definition if that is a new one. `false`: there is none.
    async fn update_state_machine(
        &self,
        row: &StateMachineRow,
        definition: Option<&DefinitionRow>,
    ) -> Result<bool>;

    /// A state machine.
    async fn state_machine(&self, arn: &StateMachineArn) -> Result<Option<StateMachineRow>>;

    /// A page of state machines, by name.
    async fn state_machines(
        &self,
        namespace: &Namespace,
        limit: usize,
        after: Option<&str>,
    ) -> Result<Page<StateMachineRow>>;

    /// Deletes a state machine; its definitions stay for the executions that run them. `false`: there is none.
    async fn delete_state_machine(&self, arn: &StateMachineArn) -> Result<bool>;

    /// Registers an activity. Returns the one that is there when the name is taken, and changes nothing then.
    async fn create_activity(&self, row: &ActivityRow) -> Result<Option<ActivityRow>>;

    /// An activity.
    async fn activity(&self, namespace: &Namespace, name: &str) -> Result<Option<ActivityRow>>;

    /// A page of activities, by name.
    async fn activities(
        &self,
        namespace: &Namespace,
        limit: usize,
        after: Option<&str>,
    ) -> Result<Page<ActivityRow>>;

    /// Replaces the settings of an activity. `false`: there is none.
    async fn update_activity(&self, row: &ActivityRow) -> Result<bool>;

    /// Deletes an activity. `false`: there is none.
    async fn delete_activity(&self, namespace: &Namespace, name: &str) -> Result<bool>;

    /// How many statements were sent to the database since the start: the idle cost is a promise of ours.
    fn statements_sent(&self) -> u64;
}
