//! Any definition that is accepted, run on any input: every decision ends, and the history replays to the live state.
#![no_main]

use std::{cell::Cell, sync::Arc};

use libfuzzer_sys::fuzz_target;
use stagepost_engine::{Applied, Command, Env, Execution, HistoryEvent, Input, Origin, Outcome};
use stagepost_protocol::{Payload, ReportOutcome, StateMachineArn, Timestamp, TokenKey};

const DECISIONS_MAX: usize = 40;

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let (definition, input) = text.split_once('\0').unwrap_or((text, "{}"));
    let Ok((machine, _)) = stagepost_asl::parse(definition) else { return };
    let Ok(input) = Payload::parse(input) else { return };
    let machine = Arc::new(machine);
    let key = TokenKey::new(&[1; 32]);
    let seed = Cell::new(7_u64);
    let random = || {
        seed.set(seed.get().wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
        seed.get()
    };
    let arn: StateMachineArn =
        "arn:aws:states:us-east-1:000000000000:stateMachine:m".parse().expect("an ARN");
    let mut now = Timestamp::from_millis(1_000_000);
    let origin = Origin {
        arn: arn.execution("e"),
        state_machine: arn,
        role_arn: "role".to_owned(),
        input: input.clone(),
        started_at: now,
        parent: None,
    };
    let env = Env { now, token_key: &key, random: &random, activity_exists: &|_| true };
    let (mut execution, applied) = Execution::start(origin.clone(), Arc::clone(&machine), &env);
    let mut events: Vec<HistoryEvent> = Vec::new();
    let mut tasks: Vec<u64> = Vec::new();
    let mut take = |applied: Applied, tasks: &mut Vec<u64>| {
        events.extend(applied.events);
        tasks.extend(applied.commands.iter().filter_map(|command| match command {
            Command::Dispatch(dispatch) => Some(dispatch.event_id),
            _ => None,
        }));
    };
    take(applied, &mut tasks);
    for turn in 0..DECISIONS_MAX {
        if execution.end().is_some() {
            break;
        }
        let next = match tasks.pop() {
            Some(event_id) => {
                let outcome = if turn % 3 == 2 {
                    ReportOutcome::Failed { error: Some("E".to_owned()), cause: None }
                } else {
                    ReportOutcome::Succeeded(input.clone())
                };
                Input::Report { event_id, worker: None, started_at: None, outcome, child: None }
            }
            None => {
                let Some(due) = execution.next_deadline() else { break };
                now = now.max(due);
                Input::Wake
            }
        };
        let env = Env { now, token_key: &key, random: &random, activity_exists: &|_| true };
        if let Outcome::Applied(applied) = execution.decide(next, &env) {
            take(applied, &mut tasks);
        }
        execution.check_invariants().expect("an invariant does not hold");
    }
    let replayed = Execution::replay(origin, machine, &events).expect("its own history cannot be replayed");
    assert!(replayed == execution, "the history replays to another state");
});
