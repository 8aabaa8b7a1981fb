//! How long a decision takes: sequences of ten activities, encoding of the events included.
//! `cargo bench -p stagepost-engine --bench decide`
#![expect(clippy::print_stdout, reason = "it prints what it measured")]

use std::{cell::Cell, hint::black_box, sync::Arc, time::Instant};

use serde_json::json;
use stagepost_engine::{Applied, Command, Env, Execution, Input, Origin, Outcome, history};
use stagepost_protocol::{Payload, ReportOutcome, StateMachineArn, Timestamp, TokenKey};

const STEPS: usize = 10;
const EXECUTIONS: usize = 20_000;

fn main() {
    let plain = json!({});
    let with_paths = json!({ "Parameters": { "order.$": "$.id", "n": 1 }, "ResultPath": "$.result" });
    for (name, more) in [("passing payloads on", plain), ("with Parameters and ResultPath", with_paths)] {
        let (nanos, bytes) = measure(&more);
        println!("sequence of {STEPS} activities, {name}: {nanos:.0} ns and {bytes} bytes per decision");
    }
    println!("map of 10,000 activities: {:.0} ns per item", map(10_000));
    println!("map of 1,000 activities: {:.0} ns per item", map(1_000));
}

struct Shell {
    key: TokenKey,
    random: Cell<u64>,
    bytes: usize,
}

impl Shell {
    fn with_env<T>(&self, run: impl FnOnce(&Env<'_>) -> T) -> T {
        let random = || {
            self.random.set(self.random.get().wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
            self.random.get()
        };
        run(&Env {
            now: Timestamp::from_millis(1_700_000_000_000),
            token_key: &self.key,
            random: &random,
            activity_exists: &|_| true,
        })
    }

    /// Gives the attempts to work on.
    fn take(&mut self, applied: &Applied) -> Vec<u64> {
        self.bytes += black_box(history::encode(&applied.events)).len();
        let attempt = |command: &Command| match command {
            Command::Dispatch(dispatch) => dispatch.event_id,
            Command::Send(send) => send.event_id,
        };
        applied.commands.iter().map(attempt).collect()
    }

    fn start(&mut self, document: &str, input: &str) -> (Execution, Vec<u64>) {
        let (definition, _) = stagepost_asl::parse(document).expect("the definition is valid");
        self.start_parsed(&Arc::new(definition), input)
    }

    fn start_parsed(
        &mut self,
        definition: &Arc<stagepost_asl::StateMachine>,
        input: &str,
    ) -> (Execution, Vec<u64>) {
        let machine = "arn:aws:states:us-east-1:000000000000:stateMachine:m";
        let machine: StateMachineArn = machine.parse().expect("it is an ARN");
        let origin = Origin {
            arn: machine.execution("e"),
            state_machine: machine,
            role_arn: "role".into(),
            input: Payload::parse(input).expect("it is JSON"),
            started_at: Timestamp::from_millis(1_700_000_000_000),
            parent: None,
        };
        let (execution, applied) = self.with_env(|env| Execution::start(origin, Arc::clone(definition), env));
        let attempts = self.take(&applied);
        (execution, attempts)
    }

    fn decide(&mut self, execution: &mut Execution, input: Input) -> Vec<u64> {
        match self.with_env(|env| execution.decide(input, env)) {
            Outcome::Applied(applied) => self.take(&applied),
            Outcome::Ignored(ignored) => panic!("{ignored:?}"),
        }
    }
}

fn shell() -> Shell {
    Shell { key: TokenKey::new(&[1; 32]), random: Cell::new(1), bytes: 0 }
}

fn success(event_id: u64, output: &Payload) -> Input {
    let outcome = ReportOutcome::Succeeded(output.clone());
    Input::Report { event_id, worker: Some("worker-1".into()), started_at: None, outcome, child: None }
}

fn measure(more: &serde_json::Value) -> (f64, usize) {
    let mut states = serde_json::Map::new();
    for step in 0..STEPS {
        let mut state = json!({ "Type": "Task", "Resource": "arn:aws:states:::activity:step" });
        let fields = state.as_object_mut().expect("it is an object");
        fields.extend(more.as_object().expect("it is an object").clone());
        if step + 1 < STEPS {
            fields.insert("Next".into(), format!("Step{}", step + 1).into());
        } else {
            fields.insert("End".into(), true.into());
        }
        states.insert(format!("Step{step}"), state);
    }
    let document = json!({ "StartAt": "Step0", "States": states }).to_string();
    let (definition, _) = stagepost_asl::parse(&document).expect("the definition is valid");
    let definition = Arc::new(definition);
    let output = Payload::parse(r#"{"id":"order-17","amount":1299,"items":["a","b"]}"#).expect("it is JSON");
    let mut shell = shell();
    let begin = Instant::now();
    for _ in 0..EXECUTIONS {
        let (mut execution, mut attempts) = shell.start_parsed(&definition, output.as_str());
        while let Some(event_id) = attempts.pop() {
            attempts = shell.decide(&mut execution, success(event_id, &output));
        }
        assert!(execution.end().is_some(), "it has ended");
    }
    let decisions = EXECUTIONS * (STEPS + 1);
    (begin.elapsed().as_nanos() as f64 / decisions as f64, shell.bytes / decisions)
}

fn map(items: usize) -> f64 {
    let task = json!({ "Type": "Task", "Resource": "arn:aws:states:::activity:step", "End": true });
    let processor = json!({ "StartAt": "A", "States": { "A": task } });
    let states = json!({ "M": { "Type": "Map", "ItemProcessor": processor, "End": true } });
    let document = json!({ "StartAt": "M", "States": states }).to_string();
    let input = json!((0..items).collect::<Vec<_>>()).to_string();
    let output = Payload::parse(r#"{"done":true}"#).expect("it is JSON");
    let mut shell = shell();
    let begin = Instant::now();
    let (mut execution, mut attempts) = shell.start(&document, &input);
    while execution.next_deadline().is_some() {
        attempts.extend(shell.decide(&mut execution, Input::Wake));
    }
    for event_id in attempts {
        shell.decide(&mut execution, success(event_id, &output));
    }
    assert!(execution.end().is_some(), "it has ended");
    begin.elapsed().as_nanos() as f64 / items as f64
}
