//! What the database holds.

use std::{collections::BTreeMap, sync::Arc};

use stagepost_asl::StateMachine;
use stagepost_engine::Execution;
use stagepost_protocol::{ExecutionId, MapRun, MapRunArn, Namespace, Shards};
use stagepost_store::{
    ActivityRow, DefinitionRow, ExecutionSummary, HistoryRow, Record, Snapshot, StateMachineRow,
    StoredExecution,
};
use tokio::time::Instant;

/// The tables.
#[derive(Default)]
pub(crate) struct Tables {
    pub(crate) executions: BTreeMap<ExecutionId, Row>,
    pub(crate) map_runs: BTreeMap<MapRunArn, MapRun>,
    pub(crate) definitions: BTreeMap<String, DefinitionRow>,
    pub(crate) state_machines: BTreeMap<String, StateMachineRow>,
    pub(crate) activities: BTreeMap<(Namespace, String), ActivityRow>,
    pub(crate) settings: BTreeMap<String, String>,
    pub(crate) records: BTreeMap<(String, Namespace, String), Record>,
    /// Who lives, and until when.
    pub(super) owners: BTreeMap<String, Instant>,
    /// Owner and epoch of each shard.
    pub(super) shards: BTreeMap<u16, (Option<String>, i64)>,
    /// How executions are spread; only to check what is written.
    pub(crate) spread: Option<Shards>,
    /// Calls that changed something.
    pub(super) calls: u64,
    /// Something was written that must not be.
    pub(super) wrong: Option<String>,
    compiled: BTreeMap<String, Arc<StateMachine>>,
}

/// An execution: its rows, and what they come to.
pub(crate) struct Row {
    pub(crate) summary: ExecutionSummary,
    pub(crate) history: Vec<HistoryRow>,
    pub(crate) snapshot: Option<Snapshot>,
    /// Its history, replayed row by row as it was written.
    pub(crate) replayed: Option<Execution>,
}

impl Tables {
    pub(super) fn stored(&self, id: ExecutionId) -> Option<StoredExecution> {
        let row = self.executions.get(&id)?;
        let after = row.snapshot.as_ref().map_or(0, |snapshot| snapshot.sequence);
        let history = row.history.iter().filter(|r| r.sequence > after).cloned().collect();
        Some(StoredExecution { summary: row.summary.clone(), snapshot: row.snapshot.clone(), history })
    }

    /// The definition of this id, or that of a Map Run's children, `ID/LABEL`.
    pub(crate) fn compiled(&mut self, id: &str) -> Result<Arc<StateMachine>, String> {
        if let Some(compiled) = self.compiled.get(id) {
            return Ok(Arc::clone(compiled));
        }
        let compiled = match id.split_once('/') {
            Some((parent, label)) => {
                let parent = self.compiled(parent)?;
                Arc::new(parent.processor(label).ok_or_else(|| format!("there is no {id}"))?)
            }
            None => {
                let row = self.definitions.get(id).ok_or_else(|| format!("there is no definition {id}"))?;
                let parsed =
                    stagepost_asl::parse(&row.text).map_err(|findings| format!("{id}: {findings:?}"))?;
                Arc::new(parsed.0)
            }
        };
        self.compiled.insert(id.to_owned(), Arc::clone(&compiled));
        Ok(compiled)
    }

    /// Stores a record, if it is changed as it was read.
    pub(crate) fn put_record(&mut self, record: Record) -> bool {
        let place = (record.kind.clone(), record.namespace.clone(), record.key.clone());
        let stored = self.records.get(&place).map_or(0, |there| there.version);
        let fits = stored == record.version;
        if fits {
            self.records.insert(place, Record { version: stored + 1, ..record });
        }
        fits
    }

    pub(super) fn violated(&mut self, what: String) {
        self.wrong.get_or_insert(what);
    }
}
