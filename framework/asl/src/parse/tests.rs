//! One row per rule: a definition, and what is found in it and where.

use super::*;
use crate::model::StateKind;

/// Every state type, in a definition without a flaw.
const ALL_TYPES: &str = r#"{
    "Comment": "all of it", "Version": "1.0", "StartAt": "Task", "TimeoutSeconds": 60,
    "States": {
        "Task": {
            "Type": "Task", "Resource": "arn:aws:states:::activity:work", "Parameters": {"a.$": "$.a"},
            "ResultSelector": {"b.$": "$.b"}, "ResultPath": "$.r", "TimeoutSeconds": 30, "HeartbeatSeconds": 10,
            "Retry": [{"ErrorEquals": ["A"], "IntervalSeconds": 2, "MaxAttempts": 0, "BackoffRate": 1.5,
                       "MaxDelaySeconds": 9, "JitterStrategy": "FULL"}, {"ErrorEquals": ["States.ALL"]}],
            "Catch": [{"ErrorEquals": ["States.ALL"], "Next": "Fail", "ResultPath": null}],
            "Next": "Pass"
        },
        "Pass": {"Type": "Pass", "Result": {"x": 1}, "ResultPath": "$.p", "OutputPath": "$.p", "Next": "Choice"},
        "Choice": {
            "Type": "Choice", "Default": "Wait",
            "Choices": [{"Variable": "$.x", "NumericEquals": 1, "Next": "Parallel"}]
        },
        "Wait": {"Type": "Wait", "Seconds": 1, "Next": "Map"},
        "Parallel": {
            "Type": "Parallel", "Next": "Map",
            "Branches": [
                {"StartAt": "B1", "States": {"B1": {"Type": "Pass", "End": true}}},
                {"StartAt": "B2", "States": {"B2": {"Type": "Succeed"}}}
            ]
        },
        "Map": {
            "Type": "Map", "ItemsPath": "$.items", "MaxConcurrency": 2, "Label": "items", "Next": "Done",
            "ItemSelector": {"i.$": "$$.Map.Item.Index"},
            "ItemProcessor": {
                "ProcessorConfig": {"Mode": "INLINE"},
                "StartAt": "Item", "States": {"Item": {"Type": "Pass", "End": true}}
            }
        },
        "Done": {"Type": "Succeed"},
        "Fail": {"Type": "Fail", "Error": "E", "CausePath": "$.cause"}
    }
}"#;

#[test]
fn a_machine_with_every_state_type_is_read() {
    let (machine, findings) = parse(ALL_TYPES).unwrap();
    assert_eq!(findings, []);
    let types: Vec<&str> = machine.states.iter().map(|s| s.kind.type_name()).collect();
    let expected =
        ["Task", "Pass", "Choice", "Wait", "Parallel", "Map", "Succeed", "Fail", "Pass", "Succeed", "Pass"];
    assert_eq!(types, expected);
    assert_eq!(&*machine.state(machine.start_at).name, "Task");
    for (index, state) in machine.states.iter().enumerate() {
        assert_eq!(machine.by_name[&state.name].0 as usize, index);
    }
    let StateKind::Parallel(parallel) = &machine.state_named("Parallel").unwrap().kind else { panic!() };
    let starts: Vec<&str> = parallel.branches.iter().map(|b| &*machine.state(*b).name).collect();
    assert_eq!(starts, ["B1", "B2"]);
    assert_eq!(machine.state_named("B2").unwrap().pointer, "/States/Parallel/Branches/1/States/B2");
}
