//! Data that is made to hurt: every decision ends, within the limits, with an error that says what was wrong.

use serde_json::{Value, json};
use stagepost_engine::{End, Input};

use crate::support::{Run, states, task};

fn end_of(state: Value, input: Value) -> (String, String) {
    let run = Run::start(&states("A", json!({ "A": state })), input);
    match run.execution.end() {
        Some((End::Failed { error, cause }, _)) => {
            (error.clone().unwrap_or_default(), cause.clone().unwrap_or_default())
        }
        other => panic!("{other:?}"),
    }
}

fn jsonata(more: Value) -> Value {
    let mut state = json!({ "Type": "Pass", "QueryLanguage": "JSONata", "End": true });
    state.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    state
}

#[test]
fn a_cause_that_quotes_a_large_input_is_cut() {
    let pass = json!({ "Type": "Pass", "Parameters": { "y.$": "$.missing" }, "End": true });
    let (error, cause) = end_of(pass, json!({ "x": "ä".repeat(100_000) }));
    assert_eq!(error, "States.Runtime");
    assert!(cause.contains("$.missing") && cause.chars().count() == 32_768, "{} characters", cause.len());
    let fail = json!({ "Type": "Fail", "ErrorPath": "$", "CausePath": "$" });
    let (error, cause) = end_of(fail, json!("é".repeat(100_000)));
    assert_eq!((error.chars().count(), cause.chars().count()), (256, 32_768));
}

#[test]
fn states_all_catches_a_result_that_is_too_large() {
    let catch = json!([{ "ErrorEquals": ["States.ALL"], "Next": "B" }]);
    let machine = states(
        "A",
        json!({ "A": task("a", json!({ "Catch": catch, "End": true })), "B": { "Type": "Succeed" } }),
    );
    let mut run = Run::start(&machine, json!(0));
    run.succeed(3, json!("x".repeat(256 * 1024)));
    assert!(matches!(run.execution.end(), Some((End::Succeeded(_), _))), "{}", run.history());
}

#[test]
fn expressions_without_an_end_fail_their_state() {
    let endless = [
        "{% ($f := function($n) { $f($n + 1) }; $f(0)) %}",
        "{% ($f := function($n) { 1 + $f($n + 1) }; $f(0)) %}",
        "{% $sum([1..10000000]) %}",
        "{% $join([1..1000000].('x')) %}",
        "{% $map([1..100000], function($a) { $map([1..100000], function($b) { $a * $b }) }) %}",
        "{% $pad('', 100000000) %}",
        "{% ($f := function($s) { $f($s & $s) }; $f('ab')) %}",
        "{% $eval('1') %}",
        "{% 1/0 %}",
        "{% $power(10, 1000) %}",
        "{% $number('NaN') %}",
        "{% $parse('[1, 2') %}",
        "{% $parse($join([1..5000].('['))) %}",
    ];
    for expression in endless {
        let (error, cause) = end_of(jsonata(json!({ "Output": expression })), json!({}));
        let expected = ["States.QueryEvaluationError", "States.DataLimitExceeded"];
        assert!(expected.contains(&error.as_str()), "{expression}: {error}: {cause}");
    }
}

#[test]
fn patterns_that_explode_elsewhere_end_here() {
    let text = format!("{}!", "a".repeat(50_000));
    for pattern in ["/(a+)+$/", "/(a|aa)+$/", "/(.*)*x/", "/^(([a-z])+.)+[A-Z]([a-z])+$/"] {
        let output = format!("{{% $contains($states.input.text, {pattern}) %}}");
        let state = jsonata(json!({ "Output": output }));
        let run = Run::start(&states("A", json!({ "A": state })), json!({ "text": text }));
        assert!(run.execution.end().is_some(), "{pattern}");
    }
}

#[test]
fn numbers_beyond_what_doubles_hold_pass_through_untouched() {
    for number in [
        "9007199254740993",
        "-9223372036854775808",
        "18446744073709551615",
        "1e308",
        "0.1",
        "3.3333333333333334e31",
    ] {
        let input: Value = serde_json::from_str(&format!("{{\"n\":{number}}}")).unwrap();
        let pass =
            json!({ "Type": "Pass", "Parameters": { "m.$": "$.n" }, "OutputPath": "$.m", "End": true });
        let run = Run::start(&states("A", json!({ "A": pass })), input.clone());
        let Some((End::Succeeded(output), _)) = run.execution.end() else { panic!("{}", run.history()) };
        assert_eq!(output.to_value(), input["n"], "{number}");
    }
}

#[test]
fn arrays_made_to_grow_meet_a_limit() {
    for call in ["States.ArrayRange(1, 1000, 1)", "States.ArrayRange(0, 2000000000, 1)"] {
        let pass = json!({ "Type": "Pass", "Parameters": { "x.$": call }, "End": true });
        let run = Run::start(&states("A", json!({ "A": pass })), json!({}));
        assert!(run.execution.end().is_some(), "{call}");
    }
    let mut nested = json!({ "x.$": "$.big" });
    for _ in 0..40 {
        nested = json!({ "a": nested.clone(), "b.$": "$.big" });
    }
    let pass = json!({ "Type": "Pass", "Parameters": nested, "End": true });
    let (error, _) = end_of(pass, json!({ "big": "x".repeat(200_000) }));
    assert_eq!(error, "States.DataLimitExceeded");
}

#[test]
fn a_result_of_great_depth_is_refused() {
    // Every round nests the last result once more; the limit is met long before the payload's size is.
    let grow = json!({ "Type": "Pass", "Parameters": { "d.$": "$.d", "n.$": "States.MathAdd($.n, 1)" }, "Next": "C" });
    let wrap =
        json!({ "Type": "Pass", "Parameters": { "d.$": "States.Array($.d)", "n.$": "$.n" }, "Next": "A" });
    let choice = json!({ "Type": "Choice", "Default": "B",
                         "Choices": [{ "Variable": "$.n", "NumericGreaterThan": 200, "Next": "D" }] });
    let machine = states("A", json!({ "A": grow, "B": wrap, "C": choice, "D": { "Type": "Succeed" } }));
    let run = Run::start(&machine, json!({ "d": 0, "n": 0 }));
    let Some((End::Failed { error, cause }, _)) = run.execution.end() else { panic!("it went on for ever") };
    assert_eq!(error.as_deref(), Some("States.Runtime"));
    assert!(cause.as_deref().is_some_and(|cause| cause.contains("nested deeper")), "{cause:?}");
}

#[test]
fn a_result_path_that_nests_for_ever_meets_the_same_limit() {
    let choice = json!({ "Type": "Choice", "Default": "A",
                         "Choices": [{ "Variable": "$.stop", "IsPresent": true, "Next": "D" }] });
    let nest = json!({ "Type": "Pass", "ResultPath": "$.d", "Next": "C" });
    let machine = states("A", json!({ "A": nest, "C": choice, "D": { "Type": "Succeed" } }));
    let mut run = Run::start(&machine, json!({}));
    for _ in 0..100 {
        if run.execution.end().is_some() {
            break;
        }
        run.decide(Input::Wake).unwrap();
    }
    let Some((End::Failed { cause, .. }, _)) = run.execution.end() else { panic!("it went on for ever") };
    assert!(cause.as_deref().is_some_and(|cause| cause.contains("nested deeper")), "{cause:?}");
}
