//! What deciding costs, with the encoding of the events: reading a definition, a step of a sequence, JSONata, Map.
//!
//! `cargo bench -p stagepost-engine --bench decide`. A sequence of ten activities takes eleven decisions, a Map of n
//! items n + 1; the items per second that are shown with them are decisions and items.

use std::{cell::Cell, hint::black_box, sync::Arc};

use divan::{Bencher, counter::ItemsCount};
use serde_json::{Map, Value, json};
use stagepost_asl::StateMachine;
use stagepost_engine::{Applied, Command, Env, Execution, Input, Origin, Outcome, history};
use stagepost_protocol::{Payload, ReportOutcome, StateMachineArn, Timestamp, TokenKey};

const STEPS: usize = 10;

fn main() {
    divan::main();
}

/// Parse and validate.
#[divan::bench(args = [10, 100])]
fn parse_definition_of_states(bencher: Bencher<'_, '_>, states: usize) {
    let document = definition_of(states);
    bencher.bench(|| stagepost_asl::parse(black_box(&document)).expect("the definition is valid"));
}

#[divan::bench(args = ["plain", "paths"])]
fn sequence_of_10_activities(bencher: Bencher<'_, '_>, kind: &str) {
    let more = match kind {
        "paths" => json!({ "Parameters": { "order.$": "$.id", "n": 1 }, "ResultPath": "$.result" }),
        _ => json!({}),
    };
    let definition = parse(&sequence(&more));
    let output = Payload::parse(r#"{"id":"order-17","amount":1299,"items":["a","b"]}"#).expect("it is JSON");
    bencher.counter(ItemsCount::new(STEPS + 1)).bench_local(|| {
        let mut shell = Shell::new();
        let (mut execution, mut attempts) = shell.start(&definition, output.clone());
        while let Some(event_id) = attempts.pop() {
            attempts = shell.decide(&mut execution, success(event_id, &output));
        }
        assert!(execution.end().is_some(), "it has ended");
    });
}

/// One Pass state over 100 orders: what an expression costs, with reading the input and writing the output.
#[divan::bench(args = ["$states.input.customer.name", "$sum($states.input.orders.(price * quantity))", "$states.input.orders[quantity > 4].{ 'sku': sku, 'total': price * quantity }"])]
fn jsonata_over_100_orders(bencher: Bencher<'_, '_>, expression: &str) {
    let state = json!({ "Type": "Pass", "Output": format!("{{% {expression} %}}"), "End": true });
    let document = json!({ "QueryLanguage": "JSONata", "StartAt": "P", "States": { "P": state } });
    let definition = parse(&document);
    let orders: Vec<Value> = (0..100)
        .map(|n| json!({ "sku": format!("sku-{n}"), "price": 3.25 * f64::from(n), "quantity": n % 9, "gift": n % 7 == 0 }))
        .collect();
    let input = Payload::from_value(&json!({ "customer": { "name": "Ada" }, "orders": orders }));
    bencher.bench_local(|| {
        let (execution, _) = Shell::new().start(&definition, input.clone());
        assert!(execution.end().is_some(), "it has ended");
    });
}

#[divan::bench(args = [1_000, 10_000], sample_count = 20)]
fn map_of_activities(bencher: Bencher<'_, '_>, items: usize) {
    let task = json!({ "Type": "Task", "Resource": "arn:aws:states:::activity:step", "End": true });
    map(bencher, items, &task);
}

#[divan::bench(args = [1_000, 10_000], sample_count = 20)]
fn map_of_passes(bencher: Bencher<'_, '_>, items: usize) {
    map(bencher, items, &json!({ "Type": "Pass", "End": true }));
}

fn map(bencher: Bencher<'_, '_>, items: usize, state: &Value) {
    let processor = json!({ "StartAt": "A", "States": { "A": state } });
    let states = json!({ "M": { "Type": "Map", "ItemProcessor": processor, "End": true } });
    let definition = parse(&json!({ "StartAt": "M", "States": states }));
    let input = Payload::from_value(&json!((0..items).collect::<Vec<_>>()));
    let output = Payload::parse(r#"{"done":true}"#).expect("it is JSON");
    bencher.counter(ItemsCount::new(items)).bench_local(|| {
        let mut shell = Shell::new();
        let (mut execution, mut attempts) = shell.start(&definition, input.clone());
        while execution.next_deadline().is_some() {
            attempts.extend(shell.decide(&mut execution, Input::Wake));
        }
        for event_id in attempts {
            shell.decide(&mut execution, success(event_id, &output));
        }
        assert!(execution.end().is_some(), "it has ended");
    });
}

/// Groups of five states as real definitions have them: Task with Retry and Catch, Choice, Wait, Pass, Parallel.
fn definition_of(count: usize) -> String {
    let mut states = Map::new();
    for group in 0..count / 5 {
        let name = |kind: &str| format!("{kind}{group}");
        let next = if (group + 1) * 5 < count { format!("Task{}", group + 1) } else { "Done".to_owned() };
        let task = json!({
            "Type": "Task", "Resource": "arn:aws:states:::activity:work", "TimeoutSeconds": 60,
            "Parameters": { "id.$": "$.id", "text.$": "States.Format('{} of {}', $.id, $$.Execution.Name)" },
            "ResultSelector": { "value.$": "$.value" }, "ResultPath": "$.result",
            "Retry": [{ "ErrorEquals": ["States.Timeout"], "MaxAttempts": 3, "BackoffRate": 2 }],
            "Catch": [{ "ErrorEquals": ["States.ALL"], "ResultPath": "$.error", "Next": name("Pass") }],
            "Next": name("Choice"),
        });
        let rule = json!({ "And": [{ "Variable": "$.result.value", "IsPresent": true },
                                   { "Variable": "$.result.value", "NumericGreaterThan": 3 }],
                           "Next": name("Wait") });
        let branch =
            json!({ "StartAt": name("Inner"), "States": { name("Inner"): { "Type": "Pass", "End": true } } });
        states.insert(name("Task"), task);
        states
            .insert(name("Choice"), json!({ "Type": "Choice", "Choices": [rule], "Default": name("Pass") }));
        states
            .insert(name("Wait"), json!({ "Type": "Wait", "SecondsPath": "$.pause", "Next": name("Pass") }));
        states.insert(
            name("Pass"),
            json!({ "Type": "Pass", "Parameters": { "id.$": "$.id" }, "Next": name("Parallel") }),
        );
        states.insert(
            name("Parallel"),
            json!({ "Type": "Parallel", "Branches": [branch], "ResultPath": null, "Next": next }),
        );
    }
    states.insert("Done".to_owned(), json!({ "Type": "Succeed" }));
    json!({ "StartAt": "Task0", "States": states }).to_string()
}

fn sequence(more: &Value) -> Value {
    let mut states = Map::new();
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
    json!({ "StartAt": "Step0", "States": states })
}

fn parse(document: &Value) -> Arc<StateMachine> {
    let (definition, _) = stagepost_asl::parse(&document.to_string()).expect("the definition is valid");
    Arc::new(definition)
}

fn success(event_id: u64, output: &Payload) -> Input {
    let outcome = ReportOutcome::Succeeded(output.clone());
    Input::Report { event_id, worker: Some("worker-1".into()), started_at: None, outcome, child: None }
}

/// What a coordinator does around a decision, without the IO.
struct Shell {
    key: TokenKey,
    random: Cell<u64>,
}

impl Shell {
    fn new() -> Shell {
        Shell { key: TokenKey::new(&[1; 32]), random: Cell::new(1) }
    }

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

    fn start(&mut self, definition: &Arc<StateMachine>, input: Payload) -> (Execution, Vec<u64>) {
        let machine = "arn:aws:states:us-east-1:000000000000:stateMachine:m";
        let machine: StateMachineArn = machine.parse().expect("it is an ARN");
        let origin = Origin {
            arn: machine.execution("e"),
            state_machine: machine,
            role_arn: "role".into(),
            input,
            started_at: Timestamp::from_millis(1_700_000_000_000),
            parent: None,
        };
        let (execution, applied) = self.with_env(|env| Execution::start(origin, Arc::clone(definition), env));
        (execution, attempts(&applied))
    }

    fn decide(&mut self, execution: &mut Execution, input: Input) -> Vec<u64> {
        match self.with_env(|env| execution.decide(input, env)) {
            Outcome::Applied(applied) => attempts(&applied),
            Outcome::Ignored(ignored) => panic!("{ignored:?}"),
        }
    }
}

/// Encodes the events, as the shell does, and gives the attempts to work on.
fn attempts(applied: &Applied) -> Vec<u64> {
    black_box(history::encode(&applied.events));
    let attempt = |command: &Command| match command {
        Command::Dispatch(dispatch) => Some(dispatch.event_id),
        _ => None,
    };
    applied.commands.iter().filter_map(attempt).collect()
}
