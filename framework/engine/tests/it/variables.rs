//! Variables and JSONata, event by event.

use serde_json::json;
use stagepost_engine::history::describe;

use crate::support::{Run, machine, states, task};

#[test]
fn assignments_see_the_variables_from_before_and_are_shown_as_texts() {
    let definition = states(
        "A",
        json!({
            "A": { "Type": "Pass", "Assign": { "x": 1, "y.$": "$.n" }, "Next": "B" },
            "B": { "Type": "Pass", "Assign": { "x.$": "$y", "y.$": "$x", "z.$": "States.Array($x, $y)" }, "Next": "C" },
            "C": { "Type": "Choice", "Choices": [
                { "Variable": "$x", "NumericEquals": 7, "Assign": { "chosen": true }, "Next": "D" }
            ], "Default": "E", "Assign": { "chosen": false } },
            "D": { "Type": "Pass", "Parameters": { "x.$": "$x", "y.$": "$y", "z.$": "$z[1]", "c.$": "$chosen" },
                "End": true },
            "E": { "Type": "Fail" }
        }),
    );
    let run = Run::start(&definition, json!({ "n": 7 }));
    run.shows(
        r#"
        1<-0 ExecutionStarted < {"n":7}
        2<-0 PassStateEntered A < {"n":7}
        3<-2 PassStateExited A > {"n":7} assignedVariables={"x":"1","y":"7"}
        4<-3 PassStateEntered B < {"n":7}
        5<-4 PassStateExited B > {"n":7} assignedVariables={"x":"7","y":"1","z":"[1,7]"}
        6<-5 ChoiceStateEntered C < {"n":7}
        7<-6 ChoiceStateExited C > {"n":7} assignedVariables={"chosen":"true"}
        8<-7 PassStateEntered D < {"n":7}
        9<-8 PassStateExited D > {"x":7,"y":1,"z":7,"c":true}
        10<-9 ExecutionSucceeded > {"x":7,"y":1,"z":7,"c":true}
        "#,
    );
    let exited = describe(&run.events[2], false).unwrap();
    assert_eq!(exited["stateExitedEventDetails"], json!({ "name": "A" }));
}

#[test]
fn an_iteration_sees_outer_variables_and_keeps_its_own_to_itself() {
    let definition = states(
        "A",
        json!({
            "A": { "Type": "Pass", "Assign": { "x": 1, "items": [5, 6] }, "Next": "M" },
            "M": { "Type": "Map", "ItemsPath": "$items", "ItemProcessor": { "StartAt": "I", "States": {
                "I": { "Type": "Pass", "Assign": { "mine.$": "$" }, "Next": "J" },
                "J": { "Type": "Pass", "Parameters": { "s.$": "States.MathAdd($x, $mine)" }, "End": true }
            } }, "Next": "Z" },
            "Z": { "Type": "Pass", "InputPath": "$mine", "End": true }
        }),
    );
    let run = Run::start(&definition, json!({}));
    let history = run.history();
    assert!(history.contains(r#"MapStateExited M > [{"s":6},{"s":7}]"#), "{history}");
    assert!(history.contains("Invalid path '$mine' : "), "{history}");
}

#[test]
fn variables_have_limits() {
    let double = json!({ "Type": "Pass", "Assign": { "x.$": "States.Format('{}{}', $x, $x)" }, "Next": "B" });
    let mut all =
        json!({ "A": { "Type": "Pass", "Assign": { "x": "0123456789abcdef" }, "Next": "B" }, "B": double });
    all["C"] = json!({ "Type": "Succeed" });
    all["B"]["Next"] = json!("D");
    all["D"] = json!({ "Type": "Choice", "Choices": [{ "Variable": "$x", "StringEquals": "", "Next": "C" }],
        "Default": "B" });
    let run = Run::start(&states("A", all), json!({}));
    assert!(run.history().contains("error=States.DataLimitExceeded"), "{}", run.history());
}

#[test]
fn a_task_in_jsonata() {
    let definition = machine(&json!({
        "QueryLanguage": "JSONata",
        "StartAt": "T",
        "States": {
            "T": task("t", json!({
                "Arguments": { "n": "{% $states.input.n + 1 %}", "c": ["{% $states.context.State.Name %}"] },
                "TimeoutSeconds": "{% $states.input.n * 10 %}",
                "Assign": { "seen": "{% $states.result.v %}" },
                "Output": { "both": "{% [$states.input.n, $states.result.v] %}" },
                "Catch": [{ "ErrorEquals": ["States.ALL"], "Next": "F", "Assign": { "e": "{% $states.errorOutput.Error %}" } }],
                "Next": "F"
            })),
            "F": { "Type": "Fail", "Error": "{% 'E' & $string($seen) & $e %}", "Cause": "fixed" }
        }
    }));
    let mut run = Run::start(&definition, json!({ "n": 1 }));
    run.succeed(3, json!({ "v": 9 }));
    run.shows(
        r#"
        1<-0 ExecutionStarted < {"n":1}
        2<-0 TaskStateEntered T < {"n":1}
        3<-2 ActivityScheduled < {"n":2,"c":["T"]} timeoutInSeconds=10
        4<-3 ActivityStarted workerName=w
        5<-4 ActivitySucceeded > {"v":9}
        6<-5 TaskStateExited T > {"both":[1,9]} assignedVariables={"seen":"9"}
        7<-6 FailStateEntered F < {"both":[1,9]}
        8<-7 ExecutionFailed error=E9 cause=fixed
        "#,
    );
    let mut run = Run::start(&definition, json!({ "n": 1 }));
    run.fail(3, "X");
    let history = run.history();
    assert!(
        history
            .contains(r#"TaskStateExited T > {"Error":"X","Cause":"why"} assignedVariables={"e":"\"X\""}"#),
        "{history}"
    );
    assert!(history.contains("ExecutionFailed error=EX cause=fixed"), "{history}");
}

#[test]
fn a_failed_expression_is_an_event_and_can_be_caught() {
    let definition = machine(&json!({
        "QueryLanguage": "JSONata",
        "StartAt": "T",
        "States": {
            "T": task("t", json!({
                "Arguments": { "a": "{% $states.input.none %}" },
                "Retry": [{ "ErrorEquals": ["States.QueryEvaluationError"], "MaxAttempts": 1 }],
                "Catch": [{ "ErrorEquals": ["States.QueryEvaluationError"], "Next": "M" }],
                "Next": "M"
            })),
            "M": { "Type": "Map", "Items": "{% true %}", "ItemProcessor": { "StartAt": "I", "States": {
                "I": { "Type": "Succeed" }
            } }, "End": true }
        }
    }));
    let mut run = Run::start(&definition, json!({}));
    run.wake_at_deadline();
    let history = run.history();
    let shown: Vec<&str> = history.lines().map(|l| l.split(" <").next().unwrap_or(l)).collect();
    let starts = |line: usize, start: &str| assert!(shown[line].starts_with(start), "{history}");
    starts(
        2,
        "3<-0 EvaluationFailed error=States.QueryEvaluationError cause=An error occurred while executing the \
               state 'T' (entered at the event id #2). The JSONata expression '$states.input.none' specified for the \
               field 'Arguments/a' returned nothing (undefined). location=Arguments/a state=T",
    );
    starts(3, "4<-3 EvaluationFailed");
    starts(4, "5<-4 TaskStateExited T");
    starts(5, "6<-5 MapStateEntered M");
    starts(6, "7<-5 EvaluationFailed");
    assert!(shown[6].contains("Expected 'array', but was 'boolean' for value: true location=Items state=M"));
    starts(7, "8<-7 MapStateFailed");
    starts(8, "9<-8 ExecutionFailed error=States.QueryEvaluationError");
}
