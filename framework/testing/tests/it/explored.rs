//! The walk through every path: what it finds, and that what it finds is so.

use serde_json::{Value, json};
use stagepost_testing::{Bounds, Cases, Exploration, KINDS, Known, explore, parse, plain, run_cases};

use crate::runs::task;

const DEFECTS: &str = include_str!("../definitions/defects.asl.json");

fn walk(definition: &str, inputs: &[Known]) -> Exploration {
    let explored = explore(definition, inputs, Bounds::default(), &|| false);
    let explored = explored.unwrap_or_else(|findings| panic!("{findings:?}"));
    cases_pass(definition, &explored);
    explored
}

/// Every case that comes with a finding passes, as the file that would be written.
fn cases_pass(definition: &str, explored: &Exploration) {
    let machine = parse(definition).unwrap_or_else(|findings| panic!("{findings:?}"));
    for finding in &explored.findings {
        let Some(case) = &finding.case else { continue };
        let text = Cases { cases: vec![case.clone()] }.to_json().to_string();
        let cases = Cases::parse(&text, &machine).unwrap_or_else(|errors| panic!("{text}: {errors:?}"));
        let report = run_cases(&machine, &cases);
        assert_eq!(report.failed(), 0, "{text}\n{}", report.render(&plain));
    }
}

/// `kind state`, with a question mark where it is only possible.
fn found(explored: &Exploration) -> Vec<String> {
    let shown = explored.findings.iter().map(|f| {
        let possible = if f.certain { "" } else { "?" };
        format!("{}{possible} {}", f.kind, f.state)
    });
    shown.collect()
}

/// A machine of these states.
fn of(start_at: &str, states: &Value) -> String {
    json!({ "StartAt": start_at, "States": states }).to_string()
}

/// A task that fails well, and does not wait for ever.
fn safe(name: &str, more: &Value) -> Value {
    let mut state = task(
        name,
        json!({
            "TimeoutSeconds": 60, "Catch": [{ "ErrorEquals": ["States.ALL"], "Next": "Stop" }],
        }),
    );
    if let (Some(state), Some(more)) = (state.as_object_mut(), more.as_object()) {
        state.extend(more.clone());
    }
    state
}

#[test]
fn one_of_each_defect() {
    let explored = walk(DEFECTS, &[Known::Nothing]);
    let expected = "\
28 paths and 6 situations were looked at
longest duration: no limit: a loop goes over 'Status', and the time of AskManager
most events: no limit: a loop goes over 'Status'

uncaught  an error of a task that nothing catches
  Status: nothing catches its timeout (States.Timeout)
      path Fetch → IsUrgent → Poll → Status
      case uncaught-status-states-timeout.json
  Status: nothing catches an error that no Retry or Catch names
      path Fetch → IsUrgent → Poll → Status
      case uncaught-status-unknown-error.json
  Ship: nothing catches its timeout (States.Timeout)
      path Fetch → IsUrgent → Ship
      case uncaught-ship-states-timeout.json
  Ship: nothing catches an error that no Retry or Catch names
      path Fetch → IsUrgent → Ship
      case uncaught-ship-unknown-error.json

no-default  a choice of which no rule may hold, and which has no default
  IsUrgent: no rule holds, and there is no Default
      path Fetch → IsUrgent
      case no-default-isurgent-states-runtime.json

endless  a loop that no path leaves but by an error
  Status: no way out of Status but by an error
      case endless-status.json

waits-forever  a task that nobody need ever answer
  AskManager: nobody need ever answer: it has no TimeoutSeconds or HeartbeatSeconds
      path Fetch → IsUrgent → AskManager
      case waits-forever-askmanager.json

unreached  a state that no path leads to
  Never: no path leads to it

unused  a rule, retrier or catcher that never applies
  Fetch: catcher 2 (States.Timeout) → Never
";
    let file = |finding: &stagepost_testing::Defect| finding.case.as_ref().map(|_| finding.file_name());
    assert_eq!(explored.render(&plain, &file), expected);
    assert_eq!(explored.summary(&plain), "9 findings");
    assert!(explored.findings.iter().all(|finding| finding.certain));
    assert!(explored.is_bad(&[]));
    assert!(!explored.is_bad(&KINDS.map(|(kind, _)| kind.to_owned())));
    let json = explored.to_json();
    assert_eq!(json["findings"][4]["case"]["expect"]["error"], "States.Runtime");
    assert_eq!(json["loopAt"], "Status");
}

#[test]
fn what_is_known_of_the_input_decides() {
    let definition = of(
        "C",
        &json!({
            "C": {
                "Type": "Choice",
                "Choices": [{ "Variable": "$.n", "NumericGreaterThan": 3, "Next": "A" }],
                "Default": "B",
            },
            "A": { "Type": "Succeed" },
            "B": { "Type": "Succeed" },
        }),
    );
    let rows: [(Vec<Known>, &[&str]); 4] = [
        (vec![Known::Nothing], &[]),
        (vec![Known::Value(json!({ "n": 4 }))], &["unreached B", "unused C"]),
        (vec![Known::Value(json!({ "n": 3 }))], &["unreached A", "unused C"]),
        (vec![Known::Value(json!({ "n": 3 })), Known::Value(json!({ "n": 4 }))], &[]),
    ];
    for (inputs, expected) in rows {
        assert_eq!(found(&walk(&definition, &inputs)), expected, "{inputs:?}");
    }
    // On data that is known, an expression that fails is a finding.
    let explored = walk(&definition, &[Known::Value(json!({}))]);
    assert!(found(&explored).contains(&"fails C".to_owned()), "{explored:?}");
}

#[test]
fn data_is_made_up_for_every_way_out_of_a_choice() {
    // Each rule, after a task whose result it looks at, and what must be reached.
    let rules = json!([
        { "Variable": "$.s", "StringEquals": "x" },
        { "Variable": "$.s", "StringMatches": "a*b\\*" },
        { "Variable": "$.s", "StringGreaterThan": "m" },
        { "Variable": "$.n", "NumericLessThanEquals": -2.5 },
        { "Variable": "$.b", "BooleanEquals": false },
        { "Variable": "$.t", "TimestampLessThan": "2020-01-01T00:00:00Z" },
        { "Variable": "$.deep[1].x", "IsNull": true },
        { "Variable": "$.n", "IsNumeric": true },
        { "Variable": "$.s", "StringEqualsPath": "$.other" },
        { "Variable": "$.n", "NumericLessThanPath": "$$.Execution.Input.limit" },
        { "And": [{ "Variable": "$.p", "IsPresent": true }, { "Variable": "$.p.q", "StringEquals": "y" }] },
        { "And": [{ "Variable": "$.p", "IsPresent": true }, { "Variable": "$.p", "NumericEquals": 7 }] },
        { "Or": [{ "Variable": "$.p", "IsPresent": true }, { "Variable": "$.q", "IsPresent": true }] },
        { "Not": { "Variable": "$.s", "StringEquals": "x" } },
        { "Not": { "Variable": "$.p", "IsPresent": true } },
        { "Condition": "{% $states.input.s = 'x' %}" },
        { "Condition": "{% $states.input.n > 10 and $states.input.s != \"x\" %}" },
        { "Condition": "{% $exists($states.input.p) %}" },
        { "Condition": "{% $count($states.input.list) = 0 %}" },
        { "Condition": "{% $v in ['a', 'b'] %}" },
    ]);
    for rule in rules.as_array().into_iter().flatten() {
        let is_jsonata = rule.get("Condition").is_some();
        let mut choice = rule.clone();
        choice["Next"] = "Yes".into();
        let assign = if is_jsonata { json!({ "v": "{% $states.result.v %}" }) } else { json!({ "v": 1 }) };
        let language = if is_jsonata { "JSONata" } else { "JSONPath" };
        let definition = json!({
            "StartAt": "T",
            "QueryLanguage": language,
            "States": {
                "T": safe("t", &json!({ "Next": "C", "Assign": assign })),
                "C": { "Type": "Choice", "Choices": [choice], "Default": "No" },
                "Yes": { "Type": "Succeed" },
                "No": { "Type": "Succeed" },
                "Stop": { "Type": "Fail" },
            },
        });
        let explored = walk(&definition.to_string(), &[Known::Nothing]);
        assert_eq!((found(&explored), &explored.open), (Vec::new(), &Vec::new()), "{rule}");
    }
}

#[test]
fn expressions_get_the_data_that_they_need() {
    let definition = of(
        "Read",
        &json!({
            "Read": safe("read", &json!({
                "Parameters": { "id.$": "$.order.ids[0]", "at.$": "$$.Execution.Input.when" },
                "ResultSelector": { "body.$": "States.StringToJson($.Payload.body)", "n.$": "$.Payload.n" },
                "ResultPath": "$.read", "Next": "Pause",
            })),
            "Pause": { "Type": "Wait", "SecondsPath": "$.read.body.pause", "Next": "Sum" },
            "Sum": {
                "Type": "Pass", "Next": "Each",
                "Parameters": { "sum.$": "States.MathAdd($.read.n, 1)", "list.$": "$.read.body.list" },
            },
            "Each": {
                "Type": "Map", "ItemsPath": "$.list", "Next": "All", "ResultPath": "$.each",
                "ItemSelector": { "key.$": "$$.Map.Item.Value.key" },
                "ItemProcessor": { "StartAt": "Inner", "States": { "Inner": { "Type": "Pass", "OutputPath": "$.key", "End": true } } },
                "Catch": [{ "ErrorEquals": ["States.ALL"], "Next": "Stop" }],
            },
            "All": {
                "Type": "Parallel", "Next": "Done",
                "Branches": [{ "StartAt": "In", "States": { "In": task("in", json!({ "TimeoutSeconds": 1, "End": true })) } }],
                "ResultSelector": { "x.$": "$[0].deep.x" },
                "Catch": [{ "ErrorEquals": ["States.ALL"], "Next": "Stop" }],
            },
            "Done": { "Type": "Choice", "Choices": [{ "Variable": "$.x", "NumericGreaterThan": 3, "Next": "End" }], "Default": "End" },
            "End": { "Type": "Succeed" },
            "Stop": { "Type": "Fail" },
        }),
    );
    let explored = walk(&definition, &[Known::Nothing]);
    // Nothing in the Map state can fail; its catcher never applies.
    assert_eq!((found(&explored), explored.open), (vec!["unused Each".to_owned()], Vec::new()));
}

#[test]
fn a_choice_that_looks_at_what_was_computed_is_gone_through_both_ways() {
    let definition = of(
        "T",
        &json!({
            "T": safe("t", &json!({ "Next": "Count" })),
            "Count": { "Type": "Pass", "Parameters": { "n.$": "States.ArrayLength($.items)" }, "Next": "C" },
            "C": {
                "Type": "Choice", "Choices": [{ "Variable": "$.n", "NumericGreaterThanEquals": 2, "Next": "Many" }],
                "Default": "Few",
            },
            "Many": { "Type": "Succeed" },
            "Few": { "Type": "Succeed" },
            "Stop": { "Type": "Fail" },
        }),
    );
    assert_eq!(found(&walk(&definition, &[Known::Nothing])), Vec::<String>::new());
}

#[test]
fn retries_are_used_and_used_up() {
    let definition = of(
        "T",
        &json!({
            "T": safe("t", &json!({
                "Retry": [
                    { "ErrorEquals": ["A"], "MaxAttempts": 2, "IntervalSeconds": 10, "BackoffRate": 1 },
                    { "ErrorEquals": ["B"], "MaxAttempts": 0 },
                ],
                "End": true,
            })),
            "Stop": { "Type": "Fail" },
        }),
    );
    let explored = walk(&definition, &[Known::Nothing]);
    // MaxAttempts 0 never retries.
    assert_eq!(found(&explored), ["unused T"]);
    // Three attempts of 60 seconds each, and the intervals between them.
    assert_eq!(explored.longest_millis, Ok(200_000));
}

#[test]
fn loops_are_told_apart() {
    let poll = |choices: Value| {
        of(
            "Ask",
            &json!({
                "Ask": safe("ask", &json!({ "Next": "Done" })),
                "Done": { "Type": "Choice", "Choices": choices, "Default": "Pause" },
                "Pause": { "Type": "Wait", "Seconds": 5, "Next": "Ask" },
                "End": { "Type": "Succeed" },
                "Stop": { "Type": "Fail" },
            }),
        )
    };
    // Of a loop that can be left, only that nothing limits it is to be told.
    let explored = walk(
        &poll(json!([{ "Variable": "$.done", "BooleanEquals": true, "Next": "End" }])),
        &[Known::Nothing],
    );
    assert_eq!((found(&explored), explored.longest_millis), (Vec::new(), Err("Ask".to_owned())));
    // What goes round without a task, waiting or not.
    for pause in
        [json!({ "Type": "Wait", "Seconds": 1, "Next": "C" }), json!({ "Type": "Pass", "Next": "C" })]
    {
        let spins = of(
            "C",
            &json!({
                "C": { "Type": "Choice", "Choices": [{ "Variable": "$.go", "IsPresent": true, "Next": "End" }], "Default": "Pause" },
                "Pause": pause,
                "End": { "Type": "Succeed" },
            }),
        );
        let explored = walk(&spins, &[Known::Nothing]);
        assert_eq!(found(&explored), ["endless C"], "{pause}");
    }
    // A counter ends it.
    let counts = of(
        "Zero",
        &json!({
            "Zero": { "Type": "Pass", "Result": { "n": 0 }, "Next": "Work" },
            "Work": safe("work", &json!({ "ResultPath": null, "Next": "Add" })),
            "Add": { "Type": "Pass", "Parameters": { "n.$": "States.MathAdd($.n, 1)" }, "Next": "C" },
            "C": { "Type": "Choice", "Choices": [{ "Variable": "$.n", "NumericLessThan": 4, "Next": "Work" }], "Default": "End" },
            "End": { "Type": "Succeed" },
            "Stop": { "Type": "Fail" },
        }),
    );
    let explored = walk(&counts, &[Known::Nothing]);
    assert_eq!((found(&explored), explored.longest_millis), (Vec::new(), Ok(240_000)));
}

#[test]
fn bounds_are_told() {
    let tasks: serde_json::Map<String, Value> = (0..12)
        .map(|n| {
            let (next, caught) = (format!("T{}", n + 1), json!([{ "ErrorEquals": ["States.ALL"], "Next": format!("T{}", n + 1), "ResultPath": format!("$.e{n}") }]));
            (format!("T{n}"), task("t", json!({ "ResultPath": null, "TimeoutSeconds": 1, "Catch": caught, "Next": next })))
        })
        .chain([("T12".to_owned(), json!({ "Type": "Choice", "Choices": [{ "Variable": "$.never", "IsPresent": true, "Next": "X" }], "Default": "End" })),
                ("X".to_owned(), json!({ "Type": "Succeed" })), ("End".to_owned(), json!({ "Type": "Succeed" }))])
        .collect();
    let definition = of("T0", &Value::Object(tasks));
    let bounds = Bounds { paths: 300, visits: 12 };
    let input = [Known::Value(json!({}))];
    let explored =
        explore(&definition, &input, bounds, &|| false).unwrap_or_else(|findings| panic!("{findings:?}"));
    assert_eq!(explored.stopped, Some(("--max-paths", 2)));
    // What was not reached may yet be.
    assert!(found(&explored).contains(&"unreached? X".to_owned()), "{:?}", found(&explored));
    assert!(
        explored
            .render(&plain, &|_| None)
            .contains("stopped by --max-paths: of the paths with 2 faults or more")
    );
    let explored = explore(&definition, &input, Bounds::default(), &|| true)
        .unwrap_or_else(|findings| panic!("{findings:?}"));
    assert_eq!(explored.stopped.map(|(bound, _)| bound), Some("--timeout"));
}

#[test]
fn the_examples_of_the_project_are_walked_through() {
    let orders = include_str!("../../../../examples/order_fulfilment/definition.asl.json");
    let explored = walk(orders, &[Known::Nothing]);
    let kinds: std::collections::BTreeSet<&str> =
        explored.findings.iter().map(|finding| finding.kind).collect();
    assert_eq!((kinds.into_iter().collect::<Vec<_>>(), explored.stopped), (vec!["uncaught"], None));
    let jobs = include_str!("../../../../examples/job_poller/definition.asl.json");
    assert_eq!(walk(jobs, &[Known::Nothing]).stopped, None);
}

#[test]
fn what_a_later_state_needs_as_an_array_may_be_something_else_to_a_choice() {
    let definition = of(
        "T",
        &json!({
            "T": safe("t", &json!({ "Next": "C" })),
            "C": {
                "Type": "Choice", "Choices": [{ "Variable": "$", "StringEquals": "nothing", "Next": "End" }],
                "Default": "Each",
            },
            "Each": {
                "Type": "Map", "Next": "End",
                "ItemProcessor": { "StartAt": "I", "States": { "I": { "Type": "Succeed" } } },
            },
            "End": { "Type": "Succeed" },
            "Stop": { "Type": "Fail" },
        }),
    );
    assert_eq!(found(&walk(&definition, &[Known::Nothing])), Vec::<String>::new());
}

#[test]
fn what_was_computed_from_unknown_data_does_not_rule_out_a_way() {
    let definition = of(
        "T",
        &json!({
            "T": safe("t", &json!({ "ResultSelector": { "found.$": "$.items[?(@.kind == 'x')]" }, "Next": "C" })),
            "C": {
                "Type": "Choice", "Choices": [{ "Variable": "$.found[0]", "IsPresent": true, "Next": "Yes" }],
                "Default": "No",
            },
            "Yes": { "Type": "Succeed" },
            "No": { "Type": "Succeed" },
            "Stop": { "Type": "Fail" },
        }),
    );
    let found = found(&walk(&definition, &[Known::Nothing]));
    assert!(found.iter().all(|finding| finding.contains('?')), "{found:?}");
}
