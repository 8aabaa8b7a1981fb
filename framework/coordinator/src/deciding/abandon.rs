//! What an execution stopped waiting for when a deadline passed, read from its history.
//!
//! The stops of such executions follow from a decision that no message would lead to again. Its wake-up stays in the store
//! until they are published: whoever loads the execution meanwhile finds in its history what they are.

use std::sync::Arc;

use stagepost_asl::StateMachine;
use stagepost_engine::{EventKind, Execution, HistoryEvent};
use stagepost_protocol::{Timestamp, TokenKey, shard::Stop};
use stagepost_store::{HistoryRow, StoredExecution};

use super::{
    decode_rows,
    family::{stop_of_child, stop_of_map_child},
    replay,
};

/// What the decisions since a wake-up fired gave up.
pub(super) fn since(
    fired: Timestamp,
    stored: &StoredExecution,
    definition: Arc<StateMachine>,
    token_key: &TokenKey,
) -> Result<Vec<Stop>, String> {
    let decided = |row: &HistoryRow| {
        let events = decode_rows(std::slice::from_ref(row))?;
        Ok::<_, String>(events.first().is_some_and(|event| event.at >= fired))
    };
    let mut first = stored.history.len();
    while first > 0 && decided(&stored.history[first - 1])? {
        first -= 1;
    }
    let (before, rows) = stored.history.split_at(first);
    if rows.is_empty() || (before.is_empty() && stored.snapshot.is_none()) {
        return Ok(Vec::new());
    }
    let (summary, snapshot) = (stored.summary.clone(), stored.snapshot.clone());
    let before = StoredExecution { summary, snapshot, history: before.to_vec() };
    let mut execution = replay(before, definition)?.execution;
    let mut stops = Vec::new();
    for event in decode_rows(rows)? {
        give_up(&mut execution, &event, token_key, &mut stops)?;
    }
    Ok(stops)
}

fn give_up(
    execution: &mut Execution,
    event: &HistoryEvent,
    token_key: &TokenKey,
    stops: &mut Vec<Stop>,
) -> Result<(), String> {
    let before = execution.sync_children(token_key);
    if matches!(event.kind, EventKind::MapRunAborted) {
        stops.extend(execution.map_children_of(event.scope, token_key).into_iter().map(stop_of_map_child));
    }
    execution.evolve(event).map_err(|error| error.to_string())?;
    // A child whose end was reported needs no stop.
    if !matches!(event.kind, EventKind::TaskSucceeded { .. } | EventKind::TaskFailed { .. }) {
        let closed = before.into_iter().filter(|child| !execution.is_open(child.event_id));
        stops.extend(closed.map(|child| stop_of_child(child.execution, child.parent)));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use stagepost_engine::{Env, Input, Origin, Outcome, history};
    use stagepost_protocol::{Namespace, Payload, StateMachineArn};
    use stagepost_store::{ExecutionStatus, ExecutionSummary};

    use super::*;

    /// An execution whose Task state waits for another one for ten seconds and is caught then, as it is stored.
    fn timed_out(key: &TokenKey) -> (StoredExecution, Arc<StateMachine>, Timestamp) {
        let parameters =
            json!({ "StateMachineArn": "arn:aws:states:us-east-1:000000000000:stateMachine:child" });
        let document = json!({ "StartAt": "T", "States": {
            "T": { "Type": "Task", "Resource": "arn:aws:states:::states:startExecution.sync:2",
                   "Parameters": parameters, "TimeoutSeconds": 10, "Next": "W",
                   "Catch": [{ "ErrorEquals": ["States.Timeout"], "Next": "W" }] },
            "W": { "Type": "Wait", "Seconds": 100, "End": true },
        } });
        let (definition, _) = stagepost_asl::parse(&document.to_string()).unwrap();
        let definition = Arc::new(definition);
        let state_machine = StateMachineArn { namespace: Namespace::default(), name: "m".into() };
        let (arn, started_at) = (state_machine.execution("e"), Timestamp::from_millis(1_000));
        let origin = Origin {
            arn: arn.clone(),
            state_machine: state_machine.clone(),
            role_arn: "r".into(),
            input: Payload::empty_object(),
            started_at,
            parent: None,
        };
        let env = |now| Env { now, token_key: key, random: &|| 7, activity_exists: &|_| true };
        let (mut execution, started) = Execution::start(origin, definition.clone(), &env(started_at));
        let fired = execution.next_deadline().unwrap();
        let Outcome::Applied(woken) = execution.decide(Input::Wake, &env(fired)) else { panic!("it is due") };
        let row = |sequence, events: &[HistoryEvent]| HistoryRow {
            execution: arn.id(),
            first_event_id: events[0].id,
            last_event_id: events[events.len() - 1].id,
            sequence,
            epoch: 1,
            payload: history::encode(events),
        };
        let history = vec![row(1, &started.events), row(2, &woken.events)];
        let summary = ExecutionSummary {
            id: arn.id(),
            arn,
            state_machine,
            definition_id: "d".into(),
            role_arn: "r".into(),
            status: ExecutionStatus::Running,
            started_at,
            stopped_at: None,
            input: Payload::empty_object(),
            output: None,
            error: None,
            cause: None,
            wake_at: Some(fired),
            trace_header: None,
            parent: None,
            redrive_count: 0,
            redriven_at: None,
            map_item: None,
        };
        (StoredExecution { summary, snapshot: None, history }, definition, fired)
    }

    #[test]
    fn a_child_that_was_waited_for_when_the_wake_up_fired_is_stopped() {
        let key = TokenKey::new(&[1; 32]);
        let (stored, definition, fired) = timed_out(&key);
        let name = format!("{}-3", stored.summary.id);
        let stops = since(fired, &stored, definition.clone(), &key).unwrap();
        let [Stop { execution, parent: Some(parent), .. }] = stops.as_slice() else { panic!("{stops:?}") };
        assert_eq!((execution.name.as_str(), execution.state_machine.as_str()), (name.as_str(), "child"));
        assert_eq!(key.verify(parent.as_str()), Some((stored.summary.id, 3)));
        // What was decided before a wake-up fired was published before that moved.
        let later = fired.plus_millis(1);
        assert_eq!(since(later, &stored, definition, &key).unwrap(), []);
    }
}
