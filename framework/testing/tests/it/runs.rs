//! Runs: virtual time, mocks, and what is seen of a run.

use std::sync::Arc;

use serde_json::{Value, json};
use stagepost_asl::StateMachine;
use stagepost_testing::{Coverage, Mock, Simulation, Status, Stop, parse};

pub(crate) fn states(start_at: &str, states: &Value) -> Arc<StateMachine> {
    let definition = json!({ "StartAt": start_at, "States": states });
    parse(&definition.to_string()).unwrap_or_else(|findings| panic!("{findings:?}"))
}

pub(crate) fn task(name: &str, more: Value) -> Value {
    let mut task = json!({ "Type": "Task", "Resource": format!("arn:aws:states:::activity:{name}") });
    if let (Some(task), Value::Object(more)) = (task.as_object_mut(), more) {
        task.extend(more);
    }
    task
}

fn path(run: &stagepost_testing::Run) -> Vec<&str> {
    run.path().collect()
}

#[test]
fn a_year_of_waiting_takes_no_time() {
    let machine = states(
        "Wait",
        &json!({
            "Wait": { "Type": "Wait", "Seconds": 31_536_000, "Next": "Until" },
            "Until": { "Type": "Wait", "Timestamp": "2028-01-01T00:00:00Z", "End": true },
        }),
    );
    let run = Simulation::new(&machine).run();
    assert_eq!((run.status(), run.duration_seconds()), (Status::Succeeded, 63_072_000.0));
    assert_eq!(path(&run), ["Wait", "Until"]);
}

#[test]
fn answers_come_in_order_and_when_they_say() {
    let machine = states(
        "A",
        &json!({ "A": task("a", json!({
            "TimeoutSeconds": 10, "Retry": [{ "ErrorEquals": ["States.ALL"], "IntervalSeconds": 1, "BackoffRate": 1 }],
            "End": true,
        })) }),
    );
    let run = Simulation::new(&machine).mock("A", Mock::new().timeout().error("E").result(json!(7))).run();
    assert_eq!(run.output(), Some(json!(7)));
    // The timeout, and two times the interval.
    assert_eq!(run.duration_seconds(), 12.0);
    assert_eq!(run.event_types().iter().filter(|kind| *kind == "ActivityTimedOut").count(), 1);
    // Nobody is asked more often than the mock has answers.
    let run = Simulation::new(&machine).mock("A", Mock::new().errors("E", 2)).run();
    assert_eq!(run.stop(), &Stop::NoAnswer { state: "A".to_owned(), had: 2, input: json!({}) });
    assert_eq!(run.status(), Status::Running);
}

#[test]
fn missed_heartbeats_are_noticed() {
    let machine = states(
        "A",
        &json!({ "A": task("a", json!({
            "TimeoutSeconds": 600, "HeartbeatSeconds": 5, "End": true,
            "Catch": [{ "ErrorEquals": ["States.HeartbeatTimeout"], "Next": "B" }],
        })), "B": { "Type": "Succeed" } }),
    );
    let run = Simulation::new(&machine).mock("A", Mock::new().timeout()).run();
    assert_eq!((path(&run), run.duration_seconds()), (vec!["A", "B"], 5.0));
}

#[test]
fn a_run_that_never_ends_is_told_from_one_that_waits_forever() {
    let waits = states("A", &json!({ "A": task("a", json!({ "End": true })) }));
    let cases = stagepost_testing::Cases::parse(
        &json!({ "cases": [{ "name": "n", "mocks": { "A": { "never": true } }, "expect": { "status": "RUNNING" } }] })
            .to_string(),
        &waits,
    );
    let report = stagepost_testing::run_cases(&waits, &cases.unwrap_or_else(|errors| panic!("{errors:?}")));
    assert_eq!(report.failed(), 0);
    assert_eq!(report.results[0].run.stop(), &Stop::WaitsForever);
    let spins = states(
        "A",
        &json!({
            "A": { "Type": "Wait", "Seconds": 1, "Next": "C" },
            "C": { "Type": "Choice", "Choices": [{ "Variable": "$.a", "IsPresent": true, "Next": "E" }], "Default": "A" },
            "E": { "Type": "Succeed" },
        }),
    );
    let run = Simulation::new(&spins).events_max(1000).run();
    assert_eq!((run.stop(), run.status()), (&Stop::Endless, Status::Running));
}

#[test]
fn every_way_out_of_a_state_is_covered_by_the_run_that_takes_it() {
    let machine = states(
        "A",
        &json!({
            "A": task("a", json!({
                "Retry": [{ "ErrorEquals": ["R"], "MaxAttempts": 1 }, { "ErrorEquals": ["S"], "MaxAttempts": 1 }],
                "Catch": [{ "ErrorEquals": ["C"], "Next": "B" }, { "ErrorEquals": ["States.ALL"], "Next": "B" }],
                "Next": "Choice",
            })),
            "Choice": {
                "Type": "Choice", "Default": "B",
                "Choices": [
                    { "Variable": "$.n", "NumericEquals": 1, "Next": "B" },
                    { "Variable": "$.n", "NumericEquals": 2, "Next": "B" },
                ],
            },
            "B": { "Type": "Succeed" },
        }),
    );
    let rows: [(Mock, &[&str]); 6] = [
        (Mock::always(json!({ "n": 1 })), &["Choice: rule 1 → B"]),
        (Mock::always(json!({ "n": 2 })), &["Choice: rule 2 → B"]),
        (Mock::always(json!({ "n": 3 })), &["Choice: default → B"]),
        (Mock::new().errors("R", 2), &["A: retrier 1 (R)", "A: catcher 2 (States.ALL) → B"]),
        (Mock::new().error("S").error("C"), &["A: retrier 2 (S)", "A: catcher 1 (C) → B"]),
        (Mock::new().error("States.Runtime"), &[]),
    ];
    let all: Vec<String> = {
        let coverage = Coverage::new(&machine);
        coverage.missing().map(|item| coverage.describe(item)).collect()
    };
    assert_eq!(all.len(), 3 + 3 + 2 + 2);
    for (mock, expected) in rows {
        let run = Simulation::new(&machine).mock("A", mock).run();
        let mut coverage = Coverage::new(&machine);
        coverage.add(&run);
        let missing: Vec<String> = coverage.missing().map(|item| coverage.describe(item)).collect();
        let mut covered: Vec<&str> = all
            .iter()
            .filter(|item| !missing.contains(item) && !item.starts_with("state"))
            .map(String::as_str)
            .collect();
        let mut expected = expected.to_vec();
        covered.sort_unstable();
        expected.sort_unstable();
        assert_eq!(covered, expected);
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let machine = states(
        "A",
        &json!({ "A": { "Type": "Pass", "Parameters": { "id.$": "States.UUID()" }, "End": true } }),
    );
    let id = |seed| Simulation::new(&machine).seed(seed).run().output();
    assert_eq!(id(1), id(1));
    assert_ne!(id(1), id(2));
}

#[test]
fn whatever_a_task_calls_its_mock_answers() {
    let resources = [
        "arn:aws:states:::activity:a",
        "arn:aws:states:us-east-1:000000000000:activity:a",
        "arn:aws:lambda:us-east-1:000000000000:function:f",
        "arn:aws:states:::lambda:invoke",
        "arn:aws:states:::sqs:sendMessage",
        "arn:aws:states:::sqs:sendMessage.waitForTaskToken",
        "arn:aws:states:::states:startExecution.sync:2",
        "arn:aws:states:::aws-sdk:s3:getObject",
    ];
    for resource in resources {
        let machine = states(
            "A",
            &json!({ "A": {
                "Type": "Task", "Resource": resource, "Parameters": { "StateMachineArn": "m" }, "End": true, "TimeoutSeconds": 9,
                "Retry": [{ "ErrorEquals": ["States.Timeout", "E"], "IntervalSeconds": 1, "BackoffRate": 1 }],
            } }),
        );
        let mock = Mock::new().timeout().error("E").result(json!(7));
        let run = Simulation::new(&machine).mock("A", mock).run();
        assert_eq!(
            (run.output(), run.duration_seconds()),
            (Some(json!(7)), 11.0),
            "{resource}: {:?}",
            run.cause()
        );
    }
}
