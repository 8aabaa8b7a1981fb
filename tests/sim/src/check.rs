//! What must be true when all is over.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::Value;
use stagepost_engine::{EventKind, Execution, history};
use stagepost_protocol::{
    DeadLetter, DeadReason, MapRun, MapRunCounts, MapRunStatus, Namespace, topology::Topology,
};
use stagepost_store::{ExecutionStatus, ExecutionSummary};

use crate::{
    express,
    scenario::Script,
    schedules,
    store::{
        commit::origin,
        tables::{Row, Tables},
    },
    workflow::{self, Endings, Plan},
    world::World,
};

/// Says what is not over.
pub(crate) fn unfinished(world: &World) -> Option<String> {
    let tables = world.tables();
    for row in tables.executions.values() {
        let summary = &row.summary;
        if summary.status == ExecutionStatus::Running {
            return Some(format!("{} runs, and wakes up at {:?}", summary.arn, summary.wake_at));
        }
        if let Some(at) = summary.wake_at {
            return Some(format!("{} has ended, and wakes up at {at}", summary.arn));
        }
    }
    if let Some(due) = schedules::unfinished(&tables) {
        return Some(due);
    }
    let nobody = Topology::default().activity(&Namespace::default(), "nobody");
    let busy = world.broker().busy();
    let busy = busy.into_iter().find(|(queue, _)| *queue != nobody);
    busy.map(|(queue, count)| format!("{count} messages are on {queue}"))
}

/// Checks every execution, and that nothing was lost.
pub(crate) fn results(world: &World, script: &Script) -> Result<(), String> {
    let mut tables = world.tables();
    let letters = letters(&tables)?;
    let queues: Vec<String> = script.producers.iter().map(|producer| producer.queue()).collect();
    for letter in letters.iter().filter(|letter| letter.source.as_ref().is_none_or(|s| !queues.contains(s))) {
        // An answer or a signal may come too late.
        if letter.kind != DeadReason::Expired && letter.reason != "the execution has ended" {
            return Err(format!("a dead letter: {}", letter.reason));
        }
    }
    for producer in &script.producers {
        producer.check(world, &tables, &letters)?;
    }
    if let Some(schedule) = &script.schedule {
        schedule.check(world, &tables)?;
    }
    express::check(world)?;
    for machine in script.machines.iter().filter(|machine| machine.plan != Plan::Child) {
        let execution = workflow::arn(&machine.name).execution("e");
        let row = tables.executions.get(&execution.id());
        let row = row.ok_or_else(|| format!("{execution} was accepted, and is not there"))?;
        ending(&row.summary, &machine.endings)?;
        let (redriven, count) = (machine.plan == Plan::Redrive, row.summary.redrive_count);
        if count != u32::from(redriven) {
            return Err(format!("{execution} was redriven {count} times"));
        }
        if let Some(expected) = &machine.map_run {
            let mut runs = tables.map_runs.values().filter(|run| run.execution == execution);
            match (runs.next(), runs.next()) {
                (Some(run), None) => expected.check(run)?,
                other => return Err(format!("{execution} has not had one Map Run: {other:?}")),
            }
        }
    }
    tables.map_runs.values().try_for_each(|run| map_run(&tables, run))?;
    let definitions: Vec<(_, String)> =
        tables.executions.iter().map(|(id, row)| (*id, row.summary.definition_id.clone())).collect();
    for (id, definition) in definitions {
        let definition = tables.compiled(&definition)?;
        replay(&tables.executions[&id], definition)?;
    }
    Ok(())
}

fn letters(tables: &Tables) -> Result<Vec<DeadLetter>, String> {
    let letters = tables.records.values().filter(|record| record.kind == DeadLetter::RECORD);
    let read = letters.map(|record| DeadLetter::from_payload(&record.body));
    read.map(|letter| letter.ok_or_else(|| "a dead letter cannot be read".to_owned())).collect()
}

/// Checks that an execution has succeeded with this output.
pub(crate) fn succeeded(summary: &ExecutionSummary, output: &Value) -> Result<(), String> {
    ending(summary, &Endings { outputs: vec![output.clone()], ..Endings::default() })
}

fn ending(summary: &ExecutionSummary, endings: &Endings) -> Result<(), String> {
    let right = match summary.status {
        ExecutionStatus::Succeeded => {
            let output = summary.output.as_ref().map(stagepost_protocol::Payload::to_value);
            output.is_some_and(|output| endings.outputs.contains(&output))
        }
        ExecutionStatus::Failed => endings.failed.is_some() && summary.error.as_deref() == endings.failed,
        ExecutionStatus::TimedOut => endings.timed_out,
        ExecutionStatus::Aborted => endings.aborted,
        ExecutionStatus::Running | ExecutionStatus::PendingRedrive => false,
    };
    if right {
        return Ok(());
    }
    Err(format!(
        "{} has ended with {} {:?} {:?} {:?}, which is none of {endings:?}",
        summary.arn,
        summary.status.as_str(),
        summary.output.as_ref().map(stagepost_protocol::Payload::as_str),
        summary.error,
        summary.cause,
    ))
}

/// What a Map Run has counted is what its child executions came to, in executions and in items.
fn map_run(tables: &Tables, run: &MapRun) -> Result<(), String> {
    let mut ended: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for summary in tables.executions.values().map(|row| &row.summary) {
        if let Some(item) = summary.map_item.as_ref().filter(|item| item.map_run == run.arn) {
            let (executions, items) = ended.entry(summary.status.as_str()).or_default();
            (*executions, *items) = (*executions + 1, *items + u64::from(item.items));
        }
    }
    let of = |status: ExecutionStatus| ended.get(status.as_str()).copied().unwrap_or_default();
    let both = |count: fn(&MapRunCounts) -> u64| (count(&run.executions), count(&run.items));
    let (succeeded, failed, aborted) =
        (both(|counts| counts.succeeded), both(|counts| counts.failed), both(|counts| counts.aborted));
    let right = match run.status {
        MapRunStatus::Running => false,
        // One that is stopped before it began has left nothing.
        MapRunStatus::Succeeded | MapRunStatus::Failed => {
            succeeded == of(ExecutionStatus::Succeeded)
                && failed == of(ExecutionStatus::Failed)
                && aborted >= of(ExecutionStatus::Aborted)
        }
        // It was not waited for how those end that ran.
        MapRunStatus::Aborted => {
            succeeded <= of(ExecutionStatus::Succeeded) && failed <= of(ExecutionStatus::Failed)
        }
    };
    if !right || run.stopped_at.is_none() || (run.executions.running, run.items.running) != (0, 0) {
        return Err(format!("the executions of a Map Run came to {ended:?}, and it to {run:?}"));
    }
    Ok(())
}

/// The history as a whole comes to what its rows came to one by one, and each attempt has ended once.
fn replay(row: &Row, definition: Arc<stagepost_asl::StateMachine>) -> Result<(), String> {
    let arn = &row.summary.arn;
    let mut events = Vec::new();
    for row in &row.history {
        events.extend(history::decode(&row.payload).map_err(|error| format!("{arn}: {error}"))?);
    }
    let replayed = Execution::replay(origin(&row.summary), definition, &events);
    let replayed = replayed.map_err(|error| format!("{arn}: {error}"))?;
    if row.replayed.as_ref() != Some(&replayed) {
        return Err(format!("{arn}: its whole history comes to something else than its rows one by one"));
    }
    let mut ends: BTreeMap<u64, usize> = BTreeMap::new();
    let mut scheduled: BTreeMap<u64, u64> = BTreeMap::new();
    for event in &events {
        let attempt = scheduled.get(&event.previous_id).copied();
        match (part(&event.kind), attempt) {
            (Part::Begin, _) => drop(scheduled.insert(event.id, event.id)),
            (Part::Middle, Some(attempt)) => drop(scheduled.insert(event.id, attempt)),
            (Part::End, Some(attempt)) => *ends.entry(attempt).or_default() += 1,
            (Part::Middle | Part::End, None) => {
                return Err(format!("{arn}: event {} is about no attempt", event.id));
            }
            (Part::None, _) => {}
        }
    }
    match ends.iter().find(|(_, count)| **count > 1) {
        Some((attempt, count)) => {
            Err(format!("{arn}: the attempt of event {attempt} has ended {count} times"))
        }
        None => Ok(()),
    }
}

/// What an event is of the life of an attempt.
enum Part {
    Begin,
    Middle,
    End,
    None,
}

fn part(kind: &EventKind) -> Part {
    match kind {
        EventKind::ActivityScheduled { .. } | EventKind::TaskScheduled { .. } => Part::Begin,
        EventKind::ActivityStarted { .. }
        | EventKind::TaskStarted { .. }
        | EventKind::TaskSubmitted { .. } => Part::Middle,
        EventKind::ActivitySucceeded { .. }
        | EventKind::ActivityFailed(_)
        | EventKind::ActivityTimedOut(_)
        | EventKind::TaskSucceeded { .. }
        | EventKind::TaskFailed { .. }
        | EventKind::TaskTimedOut { .. } => Part::End,
        _ => Part::None,
    }
}
