//! A batch, written whole or not at all, and checked: its history must follow from what is stored, and replay.

use stagepost_engine::{Execution, Origin, history};
use stagepost_protocol::{ExecutionId, Payload};
use stagepost_store::{
    Appended, Batch, EndedExecution, Error, ExecutionStatus, ExecutionSummary, HistoryRow, NewExecution,
    Record, RedrivenExecution, Result, Snapshot,
};

use super::{
    leases, short,
    tables::{Row, Tables},
};

pub(super) fn commit(tables: &mut Tables, batch: Batch) -> Result<()> {
    if let Some(lost) = batch.leases.iter().find(|lease| !leases::is_current(tables, lease)) {
        return Err(Error::LeaseLost(lost.shard));
    }
    if let Some(taken) = batch.started.iter().find(|new| tables.executions.contains_key(&new.id)) {
        return Err(Error::Conflict(format!("{} is there", taken.arn)));
    }
    let newest = |id: ExecutionId| tables.executions.get(&id).and_then(|row| row.history.last());
    if let Some(row) =
        batch.history.iter().find(|r| newest(r.execution).is_some_and(|n| r.sequence <= n.sequence))
    {
        return Err(Error::Conflict(format!("row {} of {} is there", row.sequence, row.execution)));
    }
    if let Err(wrong) = write(tables, batch) {
        tables.violated(wrong);
    }
    Ok(())
}

/// Writes what was found to be writable; says what must not be written.
fn write(tables: &mut Tables, batch: Batch) -> Result<(), String> {
    tables.calls += 1;
    check_leases(tables, &batch)?;
    for new in batch.started {
        start(tables, new);
    }
    for row in batch.history {
        append(tables, row)?;
    }
    for (id, at) in batch.wakes {
        let row =
            tables.executions.get_mut(&id).ok_or_else(|| format!("a wake-up of {id}, which is not there"))?;
        row.summary.wake_at = at.filter(|_| row.summary.stopped_at.is_none());
    }
    for redriven in batch.redriven {
        redrive(tables, &redriven)?;
    }
    for ended in batch.ended {
        end(tables, ended)?;
    }
    for snapshot in batch.snapshots {
        replace_snapshot(tables, snapshot)?;
    }
    tables.map_runs.extend(batch.map_runs.into_iter().map(|run| (run.arn.clone(), run)));
    batch.appended.into_iter().try_for_each(|appended| note(tables, appended))
}

/// Adds to the list that a record holds.
fn note(tables: &mut Tables, appended: Appended) -> Result<(), String> {
    let Appended { kind, namespace, key, label, due_at, entries } = appended;
    let place = (kind.clone(), namespace.clone(), key.clone());
    let (version, mut list) = match tables.records.get(&place) {
        None => (0, Vec::new()),
        Some(there) => {
            let list: Vec<Payload> =
                there.body.read().map_err(|e| format!("the record {kind} {key} is no list: {e}"))?;
            (there.version, list)
        }
    };
    list.extend(entries);
    let body = Payload::from_serialize(&list).map_err(|e| e.to_string())?;
    let record = Record { kind, namespace, key, label, due_at, version: version + 1, body };
    tables.records.insert(place, record);
    Ok(())
}

/// A batch must name the leases of all shards that it touches.
fn check_leases(tables: &Tables, batch: &Batch) -> Result<(), String> {
    let Some(shards) = tables.spread else { return Ok(()) };
    let touched = batch.history.iter().map(|row| row.execution).chain(batch.wakes.iter().map(|(id, _)| *id));
    for id in touched.chain(batch.ended.iter().map(|e| e.execution)) {
        let shard = shards.of(id);
        if !batch.leases.iter().any(|lease| lease.shard == shard) {
            return Err(format!("{id} is written without the lease of its shard {}", shard.0));
        }
    }
    Ok(())
}

fn start(tables: &mut Tables, new: NewExecution) {
    let summary = ExecutionSummary {
        id: new.id,
        arn: new.arn,
        state_machine: new.state_machine,
        definition_id: new.definition_id,
        role_arn: new.role_arn,
        status: ExecutionStatus::Running,
        started_at: new.started_at,
        stopped_at: None,
        input: new.input,
        output: None,
        error: None,
        cause: None,
        wake_at: new.wake_at,
        trace_header: new.trace_header,
        parent: new.parent,
        redrive_count: 0,
        redriven_at: None,
        map_item: new.map_item,
    };
    tables.executions.insert(new.id, Row { summary, history: Vec::new(), snapshot: None, replayed: None });
}

fn append(tables: &mut Tables, new: HistoryRow) -> Result<(), String> {
    let id = new.execution;
    let definition_id = row(tables, id)?.summary.definition_id.clone();
    let definition = tables.compiled(&definition_id)?;
    let row = row(tables, id)?;
    let (sequence, last_event) = row.history.last().map_or((0, 0), |r| (r.sequence, r.last_event_id));
    let (due, first) = (sequence + 1, last_event + 1);
    if (new.sequence, new.first_event_id) != (due, first) {
        let (sequence, event) = (new.sequence, new.first_event_id);
        return Err(format!(
            "{id} has row {sequence} from event {event} where row {due} from event {first} belongs"
        ));
    }
    let said = |what: String| format!("row {due} of {id}: {what}");
    let events = history::decode(&new.payload).map_err(|e| said(format!("cannot be read: {e}")))?;
    let replayed = match row.replayed.take() {
        Some(mut execution) => {
            let evolved = events.iter().try_for_each(|event| execution.evolve(event));
            evolved.map(|()| execution)
        }
        None => Execution::replay(origin(&row.summary), definition, &events),
    };
    let replayed = replayed.map_err(|error| said(error.to_string()))?;
    replayed.check_invariants().map_err(said)?;
    if replayed.last_event_id() != new.last_event_id {
        let (is, says) = (replayed.last_event_id(), new.last_event_id);
        return Err(said(format!("says that its last event is {says}, which is {is}")));
    }
    row.replayed = Some(replayed);
    row.history.push(new);
    Ok(())
}

/// What an execution was started with, as its row has it.
pub(crate) fn origin(summary: &ExecutionSummary) -> Origin {
    Origin {
        arn: summary.arn.clone(),
        state_machine: summary.state_machine.clone(),
        role_arn: summary.role_arn.clone(),
        input: summary.input.clone(),
        started_at: summary.started_at,
        parent: summary.parent.clone(),
    }
}

fn row(tables: &mut Tables, id: ExecutionId) -> Result<&mut Row, String> {
    tables.executions.get_mut(&id).ok_or_else(|| format!("{id} is written, which is not there"))
}

fn redrive(tables: &mut Tables, redriven: &RedrivenExecution) -> Result<(), String> {
    let summary = &mut row(tables, redriven.execution)?.summary;
    if summary.status == ExecutionStatus::Running {
        return Err(format!("{} is redriven while it runs", summary.arn));
    }
    summary.status = ExecutionStatus::Running;
    (summary.stopped_at, summary.output, summary.error, summary.cause) = (None, None, None, None);
    (summary.redriven_at, summary.redrive_count) = (Some(redriven.redriven_at), redriven.redrive_count);
    summary.wake_at = redriven.wake_at;
    Ok(())
}

fn end(tables: &mut Tables, ended: EndedExecution) -> Result<(), String> {
    let row = row(tables, ended.execution)?;
    let summary = &mut row.summary;
    if summary.status != ExecutionStatus::Running {
        return Err(format!("{} ends twice", summary.arn));
    }
    if row.replayed.as_ref().is_none_or(|execution| execution.end().is_none()) {
        return Err(format!("{} ends, but not by its history", summary.arn));
    }
    (summary.status, summary.stopped_at) = (ended.status, Some(ended.stopped_at));
    (summary.output, summary.error, summary.cause) = (ended.output, ended.error, ended.cause);
    summary.wake_at = ended.wake_at;
    Ok(())
}

/// A snapshot is the state in the memory of whoever decided: it must be what the history comes to.
fn replace_snapshot(tables: &mut Tables, snapshot: Snapshot) -> Result<(), String> {
    let row = row(tables, snapshot.execution)?;
    let newest = row.history.last().map_or(0, |r| r.sequence);
    let replayed = row.replayed.as_ref().map(Execution::snapshot).unwrap_or_default();
    let live = snapshot.payload.split_once(' ').map(|(_, state)| state);
    if newest != snapshot.sequence || live != Some(replayed.as_str()) {
        return Err(format!(
            "{}: the state in memory at row {} is not what the history comes to:\n  {}\n  {replayed}",
            short(snapshot.execution),
            snapshot.sequence,
            snapshot.payload,
        ));
    }
    row.snapshot = Some(snapshot);
    Ok(())
}
