//! Runs executions without a shell, and shows their histories as text.
use std::{cell::Cell, sync::Arc};

use serde_json::{Value, json};
use stagepost_asl::StateMachine;
use stagepost_engine::{
    Applied, Command, Dispatch, Env, Execution, HistoryEvent, Ignored, Input, Origin, Outcome,
    history::{decode, describe, encode},
};
use stagepost_protocol::{MapRun, Payload, ReportOutcome, StateMachineArn, Timestamp, TokenKey};

/// An execution under test, with its clock.
pub(crate) struct Run {
    pub(crate) execution: Execution,
    pub(crate) now: Timestamp,
    pub(crate) events: Vec<HistoryEvent>,
    /// Not taken yet.
    pub(crate) commands: Vec<Command>,
    /// As they were to be stored, one after the other.
    pub(crate) map_runs: Vec<MapRun>,
    /// Replay and invariants are looked at after every decision.
    pub(crate) checked: bool,
    /// Activities that are not registered.
    pub(crate) missing: Vec<String>,
    key: TokenKey,
    random: Cell<u64>,
}

pub(crate) fn machine(definition: &Value) -> Arc<StateMachine> {
    match stagepost_asl::parse(&definition.to_string()) {
        Ok((machine, _)) => Arc::new(machine),
        Err(findings) => panic!("{findings:?}"),
    }
}

/// A machine of these states.
pub(crate) fn states(start_at: &str, states: Value) -> Arc<StateMachine> {
    machine(&json!({ "StartAt": start_at, "States": states }))
}

/// A Task state that calls an activity named like it.
pub(crate) fn task(name: &str, more: Value) -> Value {
    let mut task = json!({ "Type": "Task", "Resource": format!("arn:aws:states:::activity:{name}") });
    task.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    task
}

pub(crate) fn payload(value: &Value) -> Payload {
    Payload::from_value(value)
}

impl Run {
    pub(crate) fn start(definition: &Arc<StateMachine>, input: Value) -> Run {
        Run::start_without(definition, input, &[])
    }

    pub(crate) fn start_without(definition: &Arc<StateMachine>, input: Value, missing: &[&str]) -> Run {
        let machine: StateMachineArn =
            "arn:aws:states:us-east-1:000000000000:stateMachine:m".parse().unwrap();
        let now = Timestamp::from_millis(1_000_000);
        let origin = Origin {
            arn: machine.execution("e"),
            state_machine: machine,
            role_arn: "role".into(),
            input: payload(&input),
            started_at: now,
            parent: None,
        };
        let (key, random) = (TokenKey::new(&[1; 32]), Cell::new(7));
        let missing: Vec<String> = missing.iter().map(|m| (*m).to_owned()).collect();
        let next_random = || next(&random);
        let env = Env {
            now,
            token_key: &key,
            random: &next_random,
            activity_exists: &|arn| !missing.iter().any(|m| m == arn),
        };
        let (execution, applied) = Execution::start(origin, Arc::clone(definition), &env);
        let mut run = Run {
            execution,
            now,
            events: vec![],
            commands: vec![],
            map_runs: vec![],
            checked: true,
            missing,
            key,
            random,
        };
        run.take(applied);
        run
    }

    fn take(&mut self, applied: Applied) {
        assert!(!applied.events.is_empty(), "a decision that applies has events");
        let decoded = decode(&encode(&applied.events)).unwrap();
        assert_eq!(decoded, applied.events, "the stored text says the same");
        self.events.extend(applied.events);
        self.commands.extend(applied.commands);
        self.map_runs.extend(applied.map_runs);
        if self.checked {
            self.check();
        }
    }

    /// Replay, snapshot and invariants.
    pub(crate) fn check(&self) {
        let origin = || self.execution.origin().clone();
        let definition = || Arc::clone(self.execution.definition());
        self.execution.check_invariants().unwrap();
        let replayed = Execution::replay(origin(), definition(), &self.events).unwrap();
        assert_eq!(replayed, self.execution, "replay gives the live state");
        let restored = Execution::restore(origin(), definition(), &self.execution.snapshot()).unwrap();
        assert_eq!(restored, self.execution, "a snapshot gives the live state");
    }

    pub(crate) fn decide(&mut self, input: Input) -> Result<(), Ignored> {
        let before = if self.checked { self.execution.snapshot() } else { String::new() };
        let (random, missing) = (&self.random, &self.missing);
        let next_random = || next(random);
        let env = Env {
            now: self.now,
            token_key: &self.key,
            random: &next_random,
            activity_exists: &|arn| !missing.iter().any(|m| m == arn),
        };
        match self.execution.decide(input, &env) {
            Outcome::Applied(applied) => {
                self.take(applied);
                Ok(())
            }
            Outcome::Ignored(ignored) => {
                if self.checked {
                    assert_eq!(self.execution.snapshot(), before, "what is ignored changes nothing");
                }
                Err(ignored)
            }
        }
    }

    pub(crate) fn report(&mut self, event_id: u64, outcome: ReportOutcome) -> Result<(), Ignored> {
        self.decide(Input::Report {
            event_id,
            worker: Some("w".into()),
            started_at: None,
            outcome,
            child: None,
        })
    }

    pub(crate) fn succeed(&mut self, event_id: u64, output: Value) {
        self.report(event_id, ReportOutcome::Succeeded(payload(&output))).unwrap();
    }

    pub(crate) fn fail(&mut self, event_id: u64, error: &str) {
        let failed = ReportOutcome::Failed { error: Some(error.into()), cause: Some("why".into()) };
        self.report(event_id, failed).unwrap();
    }

    /// Moves the clock to the next deadline and wakes the execution.
    pub(crate) fn wake_at_deadline(&mut self) {
        let due = self.execution.next_deadline().expect("there is a deadline");
        self.now = self.now.max(due);
        self.decide(Input::Wake).unwrap();
    }

    pub(crate) fn pending(&self) -> Vec<Command> {
        let env = Env {
            now: self.now,
            token_key: &self.key,
            random: &|| panic!("nothing is drawn for pending"),
            activity_exists: &|_| true,
        };
        self.execution.pending(&env)
    }

    pub(crate) fn dispatches(&self) -> Vec<Dispatch> {
        let only = |command| match command {
            Command::Dispatch(dispatch) => Some(dispatch),
            Command::Call(_) | Command::StartChild(_) | Command::RedriveChild(_) | Command::StopChild(_) => {
                None
            }
        };
        self.pending().into_iter().filter_map(only).collect()
    }

    pub(crate) fn key(&self) -> &TokenKey {
        &self.key
    }

    /// `id<-previous Type what`, a line per event that is shown.
    pub(crate) fn history(&self) -> String {
        self.events.iter().filter_map(line).collect::<Vec<_>>().join("\n")
    }

    pub(crate) fn shows(&self, expected: &str) {
        let expected: Vec<&str> = expected.lines().map(str::trim).filter(|l| !l.is_empty()).collect();
        assert_eq!(self.history(), expected.join("\n"));
    }
}

fn next(random: &Cell<u64>) -> u64 {
    let x = random.get().wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    random.set(x);
    x ^ (x >> 33)
}

fn line(event: &HistoryEvent) -> Option<String> {
    let shown = describe(event, true)?;
    let mut line = format!("{}<-{} {}", shown["id"], shown["previousEventId"], shown["type"].as_str()?);
    let details = shown.as_object()?.iter().find(|(key, _)| key.ends_with("EventDetails"));
    for (key, value) in details.and_then(|(_, d)| d.as_object()).into_iter().flatten() {
        if key.ends_with("Details")
            || matches!(key.as_str(), "resource" | "roleArn" | "region" | "resourceType")
        {
            continue;
        }
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        line.push_str(&match key.as_str() {
            "name" => format!(" {value}"),
            "input" | "parameters" => format!(" < {value}"),
            "output" => format!(" > {value}"),
            "index" | "length" => format!(" #{value}"),
            _ => format!(" {key}={value}"),
        });
    }
    Some(line)
}
