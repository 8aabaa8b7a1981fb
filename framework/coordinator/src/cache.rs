//! The executions in memory: those that were decided lately, up to a number of bytes.

use std::collections::{BTreeMap, HashMap};

use stagepost_engine::{Execution, approvals::asks_for_approvals, children::waits_for_executions};
use stagepost_protocol::{ExecutionId, Timestamp, shard::Stop};

/// An execution and what the coordinator knows about its rows in the store.
pub(crate) struct Entry {
    pub(crate) execution: Execution,
    /// The definition that it runs.
    pub(crate) definition_id: Box<str>,
    /// The number of its newest history row.
    pub(crate) sequence: u64,
    /// The newest event in that row, or before.
    pub(crate) last_event_id: u64,
    /// What its history led to may never have been published: an earlier owner wrote it, or a commit of ours
    /// whose outcome is not known. Until it is published again.
    pub(crate) unconfirmed: bool,
    /// `wake_at` as the store has it, or will after the batches that are on their way.
    pub(crate) stored_wake: Option<Timestamp>,
    /// Events since the newest snapshot.
    pub(crate) events_since_snapshot: u64,
    /// Batches on their way that hold decisions of it: until they are committed the store is behind, so it must
    /// not be evicted.
    pub(crate) in_flight: u32,
    /// Its definition has states that wait for executions that they start.
    pub(crate) waits_for_executions: bool,
    /// Its definition has states that ask for approvals.
    pub(crate) asks_for_approvals: bool,
    /// So many batches are on their way up to the newest that stops executions. Until they are settled these are read from
    /// the rows, so no snapshot replaces them.
    pub(crate) stopping: u32,
    /// Executions that it waited for until its wake-up fired, and that may not have been stopped.
    pub(crate) abandoned: Vec<Stop>,
    bytes: usize,
    tick: u64,
}

impl Entry {
    /// An execution that has just been started.
    pub(crate) fn started(execution: Execution, definition_id: &str) -> Entry {
        Entry::new(execution, definition_id, 0, 0, None)
    }

    /// An execution as it was replayed, with the number of its newest row.
    pub(crate) fn replayed(
        execution: Execution,
        definition_id: &str,
        sequence: u64,
        stored_wake: Option<Timestamp>,
    ) -> Entry {
        let last_event_id = execution.last_event_id();
        Entry::new(execution, definition_id, sequence, last_event_id, stored_wake)
    }

    fn new(
        execution: Execution,
        definition_id: &str,
        sequence: u64,
        last_event_id: u64,
        stored_wake: Option<Timestamp>,
    ) -> Entry {
        Entry {
            waits_for_executions: waits_for_executions(execution.definition()),
            asks_for_approvals: asks_for_approvals(execution.definition()),
            execution,
            definition_id: definition_id.into(),
            sequence,
            last_event_id,
            unconfirmed: false,
            stored_wake,
            events_since_snapshot: 0,
            in_flight: 0,
            stopping: 0,
            abandoned: Vec::new(),
            bytes: 0,
            tick: 0,
        }
    }
}

/// Bytes that an entry takes besides the execution itself.
const ENTRY_BYTES: usize = 256;

#[derive(Default)]
pub(crate) struct Cache {
    entries: HashMap<ExecutionId, Entry>,
    by_use: BTreeMap<u64, ExecutionId>,
    tick: u64,
    bytes: usize,
}

impl Cache {
    pub(crate) fn contains(&self, id: ExecutionId) -> bool {
        self.entries.contains_key(&id)
    }

    pub(crate) fn get(&self, id: ExecutionId) -> Option<&Entry> {
        self.entries.get(&id)
    }

    /// The entry, which becomes the most recently used one. After changing it call [`Cache::weigh`].
    pub(crate) fn use_mut(&mut self, id: ExecutionId) -> Option<&mut Entry> {
        let entry = self.entries.get_mut(&id)?;
        self.by_use.remove(&entry.tick);
        self.tick += 1;
        entry.tick = self.tick;
        self.by_use.insert(self.tick, id);
        Some(entry)
    }

    pub(crate) fn get_mut(&mut self, id: ExecutionId) -> Option<&mut Entry> {
        self.entries.get_mut(&id)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (ExecutionId, &Entry)> {
        self.entries.iter().map(|(id, entry)| (*id, entry))
    }

    pub(crate) fn insert(&mut self, id: ExecutionId, mut entry: Entry) {
        self.remove(id);
        self.tick += 1;
        entry.tick = self.tick;
        entry.bytes = ENTRY_BYTES + entry.execution.approximate_bytes();
        self.bytes += entry.bytes;
        self.by_use.insert(self.tick, id);
        self.entries.insert(id, entry);
    }

    /// Takes the present size of an entry into account.
    pub(crate) fn weigh(&mut self, id: ExecutionId) {
        if let Some(entry) = self.entries.get_mut(&id) {
            self.bytes -= entry.bytes;
            entry.bytes = ENTRY_BYTES + entry.execution.approximate_bytes();
            self.bytes += entry.bytes;
        }
    }

    pub(crate) fn remove(&mut self, id: ExecutionId) {
        if let Some(entry) = self.entries.remove(&id) {
            self.by_use.remove(&entry.tick);
            self.bytes -= entry.bytes;
        }
    }

    /// Forgets those for which `keep` says no.
    pub(crate) fn retain(&mut self, keep: impl Fn(ExecutionId) -> bool) {
        let gone: Vec<ExecutionId> = self.entries.keys().copied().filter(|id| !keep(*id)).collect();
        gone.into_iter().for_each(|id| self.remove(id));
    }

    /// Forgets the least recently used ones until `bytes_max` is kept, passing over what is in flight.
    pub(crate) fn evict(&mut self, bytes_max: usize) {
        if self.bytes <= bytes_max {
            return;
        }
        let mut excess = self.bytes - bytes_max;
        let mut gone = Vec::new();
        for id in self.by_use.values() {
            let Some(entry) = self.entries.get(id).filter(|e| e.in_flight == 0) else { continue };
            gone.push(*id);
            excess = excess.saturating_sub(entry.bytes);
            if excess == 0 {
                break;
            }
        }
        gone.into_iter().for_each(|id| self.remove(id));
    }

    pub(crate) fn clear(&mut self) {
        *self = Cache::default();
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}
