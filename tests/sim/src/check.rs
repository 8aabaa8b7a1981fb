//! What must be true when all is over.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::Value;
use stagepost_engine::{EventKind, Execution, history};
use stagepost_protocol::{DeadLetter, DeadReason, Namespace, topology::Topology};
use stagepost_store::{ExecutionStatus, ExecutionSummary};

use crate::{
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
        schedule.check(&tables)?;
    }
    for machine in script.machines.iter().filter(|machine| machine.plan != Plan::Child) {
        let execution = workflow::arn(&machine.name).execution("e");
        let row = tables.executions.get(&execution.id());
        let row = row.ok_or_else(|| format!("{execution} was accepted, and is not there"))?;
        ending(&row.summary, &machine.endings)?;
    }
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
