//! One row per rule: a definition, and what is found in it and where.

mod expressions;
mod hostile;
mod specification;
mod warnings;

use super::*;
use crate::model::StateKind;

mod distributed;

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

/// Errors and warnings as `CODE pointer: message`.
fn found(definition: &str) -> Vec<String> {
    let findings = match parse(definition) {
        Ok((_, warnings)) => {
            assert!(warnings.iter().all(|f| f.severity == Severity::Warning));
            warnings
        }
        Err(findings) => {
            assert!(findings.iter().any(|f| f.severity == Severity::Error));
            findings
        }
    };
    findings.into_iter().map(|f| format!("{} {}: {}", f.code, f.pointer, f.message)).collect()
}

/// Each row: a definition, and the beginnings of what must be found, in order and completely.
fn check(rows: &[(String, &[&str])]) {
    for (definition, expected) in rows {
        let found = found(definition);
        let agree =
            found.len() == expected.len() && found.iter().zip(*expected).all(|(f, e)| f.starts_with(e));
        assert!(agree, "in {definition}\nfound    {found:#?}\nexpected {expected:#?}");
    }
}

/// A machine around the states.
fn machine(states: &str) -> String {
    format!(r#"{{"StartAt": "S", "States": {{{states}}}}}"#)
}

/// A machine of one state.
fn state(fields: &str) -> String {
    machine(&format!(r#""S": {{{fields}}}"#))
}

/// A machine of one Task state.
fn task(fields: &str) -> String {
    state(&format!(r#""Type": "Task", "Resource": "arn:aws:states:::activity:a", "End": true, {fields}"#))
}

/// A machine of a Choice state with one rule that leads to T.
fn rule(fields: &str) -> String {
    machine(&format!(
        r#""S": {{"Type": "Choice", "Choices": [{{{fields}, "Next": "T"}}], "Default": "T"}},
        "T": {{"Type": "Succeed"}}"#
    ))
}

#[test]
fn the_document_as_a_whole() {
    let states = r#""States": {"S": {"Type": "Succeed"}}"#;
    check(&[
        (String::new(), &["SCHEMA_VALIDATION_FAILED : Definition must be a valid JSON object"]),
        (" \n".to_owned(), &["SCHEMA_VALIDATION_FAILED : Definition must be a valid JSON object"]),
        ("[]".to_owned(), &["SCHEMA_VALIDATION_FAILED : Definition must be a valid JSON object"]),
        ("null".to_owned(), &["SCHEMA_VALIDATION_FAILED : Definition must be a valid JSON object"]),
        ("not json".to_owned(), &["INVALID_JSON_DESCRIPTION : expected ident at line 1 column 2"]),
        ("{\n \"a\": }".to_owned(), &["INVALID_JSON_DESCRIPTION : expected value at line 2 column 7"]),
        ("{} {}".to_owned(), &["INVALID_JSON_DESCRIPTION : trailing characters at line 1 column 4"]),
        ("{}".to_owned(), &["SCHEMA_VALIDATION_FAILED : These fields are required: [StartAt, States]"]),
        (format!(r#"{{{states}}}"#), &["SCHEMA_VALIDATION_FAILED : These fields are required: [StartAt]"]),
        (
            r#"{"StartAt": "S"}"#.to_owned(),
            &["SCHEMA_VALIDATION_FAILED : These fields are required: [States]"],
        ),
        (
            r#"{"StartAt": "S", "States": {}}"#.to_owned(),
            &["SCHEMA_VALIDATION_FAILED /States: Value cannot be empty"],
        ),
        (
            r#"{"StartAt": "S", "States": []}"#.to_owned(),
            &["SCHEMA_VALIDATION_FAILED /States: Expected value of type Object"],
        ),
        (
            r#"{"StartAt": "S", "States": {"S": 1}}"#.to_owned(),
            &["SCHEMA_VALIDATION_FAILED /States/S: Expected value of type Object"],
        ),
        (
            format!(r#"{{"StartAt": 1, {states}}}"#),
            &["SCHEMA_VALIDATION_FAILED /StartAt: Expected value of type String"],
        ),
        (
            format!(r#"{{"StartAt": "X", {states}}}"#),
            &["MISSING_TRANSITION_TARGET /StartAt: Missing 'StartAt' target: X"],
        ),
        (
            format!(
                r#"{{"StartAt": "S", "Version": "2.0", "Coment": "", "Comment": 1, "TimeoutSeconds": 0, {states}}}"#
            ),
            &[
                "SCHEMA_VALIDATION_FAILED : Field 'Coment' is not supported",
                "SCHEMA_VALIDATION_FAILED /Comment: Expected value of type String",
                "SCHEMA_VALIDATION_FAILED /Version: The field 'Version' should have one of these values: [1.0]",
                "SCHEMA_VALIDATION_FAILED /TimeoutSeconds: Value must be a whole number from 1 to 99999999",
            ],
        ),
        (
            format!(r#"{{"StartAt": "S", "StartAt": "S", {states}}}"#),
            &["DUPLICATE_FIELD /StartAt: This field stands here more than once; the last one counts"],
        ),
    ]);
    let findings = parse(&format!(r#"{{"StartAt": "S", "Coment": "", {states}}}"#)).unwrap_err();
    assert_eq!(findings[0].help.as_deref(), Some("did you mean 'Comment'?"));
}

#[test]
fn flow_between_states() {
    let long = "n".repeat(81);
    let at_long = format!("INVALID_STATE_NAME /States/{long}: ");
    check(&[
        (
            state(r#""Type": "Pass""#),
            &["SCHEMA_VALIDATION_FAILED /States/S: Exactly one of these fields is required: [Next, End]"],
        ),
        (
            state(r#""Type": "Pass", "End": false"#),
            &["SCHEMA_VALIDATION_FAILED /States/S: Exactly one of these fields is required: [Next, End]"],
        ),
        (
            state(r#""Type": "Pass", "Next": "S", "End": true"#),
            &["SCHEMA_VALIDATION_FAILED /States/S: Only one of these fields is allowed: [Next, End]"],
        ),
        (machine(r#""S": {"Type": "Pass", "Next": "T", "End": false}, "T": {"Type": "Succeed"}"#), &[]),
        // A loop without a way out is reported alone, dangling targets beside it.
        (
            machine(r#""S": {"Type": "Pass", "Next": "S"}, "Lost": {"Type": "Pass", "Next": "S"}"#),
            &["MISSING_END_STATE : Workflow has no terminal state"],
        ),
        (
            state(r#""Type": "Pass", "Next": "Nope""#),
            &[
                "MISSING_TRANSITION_TARGET /States/S/Next: Missing 'Next' target: Nope",
                "MISSING_END_STATE : Workflow has no terminal state",
            ],
        ),
        (
            machine(r#""S": {"Type": "Pass", "Next": "Nope"}, "Lost": {"Type": "Succeed"}"#),
            &[
                "MISSING_TRANSITION_TARGET /States/S/Next: Missing 'Next' target: Nope",
                "MISSING_TRANSITION_TARGET /States/Lost: State \"Lost\" is not reachable.",
            ],
        ),
        (
            machine(
                r#""S": {"Type": "Choice", "Default": "D", "Choices": [
                    {"Variable": "$.x", "IsNull": true, "Next": "N"}, {"Variable": "$.x", "IsNull": true}]}"#,
            ),
            &[
                "MISSING_TRANSITION_TARGET /States/S/Choices/0/Next: Missing 'Next' target: N",
                "SCHEMA_VALIDATION_FAILED /States/S/Choices/1: These fields are required: [Next]",
                "MISSING_TRANSITION_TARGET /States/S/Default: Missing 'Next' target: D",
            ],
        ),
        // What a branch does is its own affair, but it is told.
        (
            state(
                r#""Type": "Parallel", "End": true, "Branches": [
                    {"StartAt": "A", "States": {"A": {"Type": "Pass", "Next": "A"}, "B": {"Type": "Pass", "Next": "A"}}}]"#,
            ),
            &[
                "ENDLESS_SCOPE /States/S/Branches/0: ",
                "MISSING_TRANSITION_TARGET /States/S/Branches/0/States/B: State \"B\" is not reachable.",
            ],
        ),
        // Transitions stay in their scope, names are unique over all of them.
        (
            state(
                r#""Type": "Parallel", "End": true, "Branches": [
                    {"StartAt": "A", "States": {"A": {"Type": "Pass", "Next": "S"}, "B": {"Type": "Succeed"}}},
                    {"StartAt": "A", "States": {"A": {"Type": "Succeed"}}}]"#,
            ),
            &[
                "MISSING_TRANSITION_TARGET /States/S/Branches/0/States/A/Next: Missing 'Next' target: S",
                "MISSING_TRANSITION_TARGET /States/S/Branches/0/States/B: State \"B\" is not reachable.",
                "DUPLICATE_STATE_NAME /States/S/Branches/1/States/A: The state name 'A' appears more than once",
            ],
        ),
        (machine(&format!(r#""S": {{"Type": "Succeed"}}, "{long}": {{"Type": "Succeed"}}"#)), &[&at_long]),
        (
            machine(r#""S": {"Type": "Pass", "Next": "a/b~c"}, "a/b~c": {"Type": "Pass"}"#),
            &["SCHEMA_VALIDATION_FAILED /States/a~1b~0c: Exactly one of"],
        ),
    ]);
}

#[test]
fn fields_of_states() {
    check(&[
        (state(""), &["SCHEMA_VALIDATION_FAILED /States/S: These fields are required: [Type]"]),
        (
            state(r#""Type": "Tsk""#),
            &[
                "SCHEMA_VALIDATION_FAILED /States/S/Type: The field 'Type' should have one of these values: [Task, Wait, Pass, Succeed, Fail, Choice, Parallel, Map]",
            ],
        ),
        (
            state(r#""Type": "Succeed", "Parameters": {}, "TimeoutSeconds": 1, "Next": "S""#),
            &[
                "SCHEMA_VALIDATION_FAILED /States/S: Field 'Parameters' is not supported",
                "SCHEMA_VALIDATION_FAILED /States/S: Field 'TimeoutSeconds' is not supported",
                "SCHEMA_VALIDATION_FAILED /States/S: Field 'Next' is not supported",
            ],
        ),
        (
            state(r#""Type": "Pass", "End": true, "Retry": [], "Catch": [], "Resource": "x""#),
            &[
                "SCHEMA_VALIDATION_FAILED /States/S: Field 'Retry' is not supported",
                "SCHEMA_VALIDATION_FAILED /States/S: Field 'Catch' is not supported",
                "SCHEMA_VALIDATION_FAILED /States/S: Field 'Resource' is not supported",
            ],
        ),
        (
            state(r#""Type": "Pass", "End": true, "Result": {"a.$": "$.a"}"#),
            &["PASS_RESULT_IS_STATIC /States/S/Result/a.$: "],
        ),
        (
            state(
                r#""Type": "Pass", "End": true, "Parameters": {"a": ["x", {"b": "$.b"}], "c": "States.UUID()"}"#,
            ),
            &["NO_DOLLAR /States/S/Parameters/a/1/b: ", "NO_DOLLAR /States/S/Parameters/c: "],
        ),
        (
            state(r#""Type": "Pass", "End": true, "InputPath": 1, "OutputPath": null, "ResultPath": true"#),
            &[
                "SCHEMA_VALIDATION_FAILED /States/S/InputPath: Expected value of type String",
                "SCHEMA_VALIDATION_FAILED /States/S/ResultPath: Expected value of type String",
            ],
        ),
        (
            state(r#""Type": "Wait", "End": true"#),
            &[
                "SCHEMA_VALIDATION_FAILED /States/S: Exactly one of these fields is required: [Seconds, SecondsPath, Timestamp, TimestampPath]",
            ],
        ),
        (
            state(r#""Type": "Wait", "End": true, "Seconds": 1, "TimestampPath": "$.t""#),
            &["SCHEMA_VALIDATION_FAILED /States/S: Only one of these fields is allowed: [Seconds, "],
        ),
        (
            state(r#""Type": "Wait", "End": true, "Seconds": -1"#),
            &["SCHEMA_VALIDATION_FAILED /States/S/Seconds: Value must be a whole number from 0 to 99999999"],
        ),
        (
            state(r#""Type": "Wait", "End": true, "Timestamp": "2026-13-01T00:00:00Z""#),
            &["SCHEMA_VALIDATION_FAILED /States/S/Timestamp: String does not match RFC3339 timestamp"],
        ),
        (
            state(r#""Type": "Fail", "Error": "E", "ErrorPath": "$.e", "End": true"#),
            &[
                "SCHEMA_VALIDATION_FAILED /States/S: Field 'End' is not supported",
                "SCHEMA_VALIDATION_FAILED /States/S: Only one of these fields is allowed: [Error, ErrorPath]",
            ],
        ),
        (
            state(r#""Type": "Parallel", "End": true, "Branches": []"#),
            &["SCHEMA_VALIDATION_FAILED /States/S/Branches: Value cannot be empty"],
        ),
        (
            state(r#""Type": "Parallel", "End": true, "Branches": [1, {"StartAt": "A"}]"#),
            &[
                "SCHEMA_VALIDATION_FAILED /States/S/Branches/0: Expected value of type Object",
                "SCHEMA_VALIDATION_FAILED /States/S/Branches/1: These fields are required: [States]",
            ],
        ),
        (
            state(r#""Type": "Choice""#),
            &["SCHEMA_VALIDATION_FAILED /States/S: These fields are required: [Choices]"],
        ),
        (
            state(r#""Type": "Choice", "Choices": []"#),
            &["SCHEMA_VALIDATION_FAILED /States/S/Choices: Value cannot be empty"],
        ),
    ]);
}

#[test]
fn tasks() {
    check(&[
        (
            state(r#""Type": "Task", "End": true"#),
            &["SCHEMA_VALIDATION_FAILED /States/S: These fields are required: [Resource]"],
        ),
        (
            state(r#""Type": "Task", "End": true, "Resource": "arn:aws:states:::dynamodb:query""#),
            &[
                "SCHEMA_VALIDATION_FAILED /States/S/Resource: The resource provided arn:aws:states:::dynamodb:query is not recognized.",
            ],
        ),
        (
            state(r#""Type": "Task", "End": true, "Resource": "arn:aws:states:::lamda:invoke""#),
            &["UNKNOWN_SERVICE /States/S/Resource: "],
        ),
        (task(r#""TimeoutSeconds": 5.0, "HeartbeatSecondsPath": "$.h""#), &[]),
        (
            task(r#""TimeoutSeconds": 5, "HeartbeatSeconds": 5"#),
            &["SCHEMA_VALIDATION_FAILED /States/S/HeartbeatSeconds: HeartbeatSeconds (5) must be smaller"],
        ),
        (
            task(r#""TimeoutSeconds": 0, "HeartbeatSeconds": "1""#),
            &[
                "SCHEMA_VALIDATION_FAILED /States/S/TimeoutSeconds: Value must be a whole number from 1 to 99999999",
                "SCHEMA_VALIDATION_FAILED /States/S/HeartbeatSeconds: Expected value of type Integer",
            ],
        ),
        (
            task(r#""TimeoutSeconds": 1, "TimeoutSecondsPath": "$.t""#),
            &[
                "SCHEMA_VALIDATION_FAILED /States/S: Only one of these fields is allowed: [TimeoutSeconds, TimeoutSecondsPath]",
            ],
        ),
        (task(r#""Credentials": {"RoleArn.$": "$.role"}"#), &[]),
        (
            task(r#""Credentials": {}"#),
            &[
                "SCHEMA_VALIDATION_FAILED /States/S/Credentials: The field 'RoleArn' is required but was missing",
            ],
        ),
        (
            task(r#""Credentials": {"Role": "x"}"#),
            &[
                "SCHEMA_VALIDATION_FAILED /States/S/Credentials: Field 'Role' is not supported",
                "SCHEMA_VALIDATION_FAILED /States/S/Credentials: The field 'RoleArn' is required but was missing",
            ],
        ),
    ]);
}

#[test]
fn retriers_and_catchers() {
    check(&[
        (task(r#""Retry": [], "Catch": []"#), &[]),
        (task(r#""Retry": {}"#), &["SCHEMA_VALIDATION_FAILED /States/S/Retry: Expected value of type Array"]),
        (
            task(r#""Retry": [1, {}, {"ErrorEquals": []}, {"ErrorEquals": [1]}]"#),
            &[
                "SCHEMA_VALIDATION_FAILED /States/S/Retry/0: Expected value of type Object",
                "SCHEMA_VALIDATION_FAILED /States/S/Retry/1: These fields are required: [ErrorEquals]",
                "SCHEMA_VALIDATION_FAILED /States/S/Retry/2/ErrorEquals: Value cannot be empty",
                "SCHEMA_VALIDATION_FAILED /States/S/Retry/3/ErrorEquals/0: Expected value of type String",
            ],
        ),
        (
            task(r#""Retry": [{"ErrorEquals": ["States.ALL"]}, {"ErrorEquals": ["A"]}]"#),
            &[
                "SCHEMA_VALIDATION_FAILED /States/S/Retry/0/ErrorEquals: 'States.ALL' is only allowed in the last",
            ],
        ),
        (
            task(r#""Retry": [{"ErrorEquals": ["A", "States.ALL"]}]"#),
            &["SCHEMA_VALIDATION_FAILED /States/S/Retry/0/ErrorEquals: 'States.ALL' must stand alone"],
        ),
        (
            task(
                r#""Retry": [{"ErrorEquals": ["A"], "IntervalSeconds": 0, "MaxAttempts": 100000000,
                   "BackoffRate": 0.5, "MaxDelaySeconds": 31622401, "JitterStrategy": "SOME", "Next": "S"}]"#,
            ),
            &[
                "SCHEMA_VALIDATION_FAILED /States/S/Retry/0: Field 'Next' is not supported",
                "SCHEMA_VALIDATION_FAILED /States/S/Retry/0/IntervalSeconds: Value must be a whole number from 1",
                "SCHEMA_VALIDATION_FAILED /States/S/Retry/0/MaxAttempts: Value must be a whole number from 0",
                "SCHEMA_VALIDATION_FAILED /States/S/Retry/0/MaxDelaySeconds: Value must be a whole number from 1",
                "SCHEMA_VALIDATION_FAILED /States/S/Retry/0/JitterStrategy: The field 'JitterStrategy' should",
                "SCHEMA_VALIDATION_FAILED /States/S/Retry/0/BackoffRate: Value must be greater than or equal to 1.0",
            ],
        ),
        (
            task(r#""Retry": [{"ErrorEquals": ["A"], "IntervalSeconds": 5, "MaxDelaySeconds": 5}]"#),
            &[
                "SCHEMA_VALIDATION_FAILED /States/S/Retry/0/MaxDelaySeconds: MaxDelaySeconds (5) must be greater",
            ],
        ),
        (
            task(
                r#""Catch": [{"ErrorEquals": ["A"]}, {"ErrorEquals": ["B"], "Next": "X", "MaxAttempts": 1}]"#,
            ),
            &[
                "SCHEMA_VALIDATION_FAILED /States/S/Catch/0: These fields are required: [Next]",
                "SCHEMA_VALIDATION_FAILED /States/S/Catch/1: Field 'MaxAttempts' is not supported",
                "MISSING_TRANSITION_TARGET /States/S/Catch/1/Next: Missing 'Next' target: X",
            ],
        ),
    ]);
}

#[test]
fn choice_rules() {
    check(&[
        (rule(r#""Variable": "$.x", "StringMatches": "a*", "Comment": "c""#), &[]),
        (
            rule(r#""Variable": "$.x""#),
            &[
                "SCHEMA_VALIDATION_FAILED /States/S/Choices/0: A comparison operator, And, Or or Not is required",
            ],
        ),
        (
            rule(r#""IsNull": true"#),
            &["SCHEMA_VALIDATION_FAILED /States/S/Choices/0: These fields are required: [Variable]"],
        ),
        (
            rule(r#""Variable": "$.x", "IsNull": true, "IsPresent": true"#),
            &[
                "SCHEMA_VALIDATION_FAILED /States/S/Choices/0: Only one of these fields is allowed: [IsNull, IsPresent]",
            ],
        ),
        (
            rule(r#""Variable": "$.x", "StringEqual": "a""#),
            &[
                "SCHEMA_VALIDATION_FAILED /States/S/Choices/0: Field 'StringEqual' is not supported",
                "SCHEMA_VALIDATION_FAILED /States/S/Choices/0: A comparison operator",
            ],
        ),
        (
            rule(r#""Variable": "$.x", "NumericEquals": "1""#),
            &["SCHEMA_VALIDATION_FAILED /States/S/Choices/0/NumericEquals: Expected value of type Number"],
        ),
        (
            rule(r#""Variable": "$.x", "StringEqualsPath": 1"#),
            &["SCHEMA_VALIDATION_FAILED /States/S/Choices/0/StringEqualsPath: Expected value of type String"],
        ),
        (
            rule(r#""Variable": "$.x", "TimestampEquals": "today""#),
            &["SCHEMA_VALIDATION_FAILED /States/S/Choices/0/TimestampEquals: String does not match RFC3339"],
        ),
        (
            rule(r#""Variable": "$.x", "StringMatchesPath": "$.y""#),
            &[
                "SCHEMA_VALIDATION_FAILED /States/S/Choices/0: Field 'StringMatchesPath' is not supported",
                "SCHEMA_VALIDATION_FAILED /States/S/Choices/0: A comparison operator",
            ],
        ),
        (rule(r#""And": []"#), &["SCHEMA_VALIDATION_FAILED /States/S/Choices/0/And: Value cannot be empty"]),
        (
            rule(
                r#""Or": [{"Not": {"Variable": "$.x", "IsNull": 1}}, {"Variable": "$.x", "IsNull": true, "Next": "T"}]"#,
            ),
            &[
                "SCHEMA_VALIDATION_FAILED /States/S/Choices/0/Or/0/Not/IsNull: Expected value of type Boolean",
                "SCHEMA_VALIDATION_FAILED /States/S/Choices/0/Or/1: Field 'Next' is not supported",
            ],
        ),
        (
            rule(r#""Not": {"Variable": "$.x", "IsNull": true}, "Variable": "$.x""#),
            &["SCHEMA_VALIDATION_FAILED /States/S/Choices/0: Field 'Variable' is not supported"],
        ),
    ]);
}

#[test]
fn maps() {
    let item = r#""StartAt": "I", "States": {"I": {"Type": "Succeed"}}"#;
    let map = |fields: &str| state(&format!(r#""Type": "Map", "End": true, {fields}"#));
    let processed = |fields: &str| map(&format!(r#""ItemProcessor": {{{item}}}, {fields}"#));
    check(&[
        (map(&format!(r#""Iterator": {{{item}}}, "Parameters": {{"x.$": "$"}}"#)), &[]),
        (
            map(r#""ItemsPath": "$.x""#),
            &[
                "SCHEMA_VALIDATION_FAILED /States/S: Exactly one of these fields is required: [ItemProcessor, Iterator]",
            ],
        ),
        (
            processed(r#""Iterator": {}"#),
            &[
                "SCHEMA_VALIDATION_FAILED /States/S: Only one of these fields is allowed: [ItemProcessor, Iterator]",
            ],
        ),
        (
            processed(r#""ItemSelector": {}, "Parameters": {}"#),
            &[
                "SCHEMA_VALIDATION_FAILED /States/S: Only one of these fields is allowed: [ItemSelector, Parameters]",
            ],
        ),
        (
            processed(
                r#""MaxConcurrencyPath": "$.n", "ToleratedFailureCount": 0, "ToleratedFailurePercentage": 100"#,
            ),
            &[],
        ),
        (
            processed(r#""MaxConcurrency": -1, "ToleratedFailurePercentage": 101, "Label": "a b""#),
            &[
                "SCHEMA_VALIDATION_FAILED /States/S/MaxConcurrency: ",
                "SCHEMA_VALIDATION_FAILED /States/S/ToleratedFailurePercentage: ",
                "INVALID_LABEL_NAME /States/S/Label: ",
            ],
        ),
        (
            map(&format!(r#""ItemProcessor": {{"QueryLanguage": "JSONata", {item}}}"#)),
            &["SCHEMA_VALIDATION_FAILED /States/S/ItemProcessor: Field 'QueryLanguage' is not supported"],
        ),
        (
            map(&format!(r#""ItemProcessor": {{"ProcessorConfig": {{"Mode": "BATCH"}}, {item}}}"#)),
            &[
                "SCHEMA_VALIDATION_FAILED /States/S/ItemProcessor/ProcessorConfig/Mode: The field 'Mode' should",
            ],
        ),
    ]);
}

#[test]
fn locations_are_spelled_as_in_the_services_api() {
    let shown = |definition: &str| parse(definition).unwrap_err()[0].to_string();
    assert_eq!(shown("{}"), "SCHEMA_VALIDATION_FAILED: These fields are required: [StartAt, States] at /");
    assert_eq!(shown(""), "SCHEMA_VALIDATION_FAILED: Definition must be a valid JSON object at null");
    assert_eq!(
        shown(&state(r#""Type": "Pass", "Next": "S""#)),
        "MISSING_END_STATE: Workflow has no terminal state at null"
    );
    assert_eq!(
        shown(&rule(r#""And": [{"Variable": "$.x", "IsNull": 1}]"#)),
        "SCHEMA_VALIDATION_FAILED: Expected value of type Boolean at /States/S/Choices[0]/And[0]/IsNull"
    );
    assert_eq!(
        shown(&machine(
            r#""S": {"Type": "Pass", "Next": "a/0"}, "a/0": {"Type": "Wait", "End": true, "Seconds": "1"}"#
        )),
        "SCHEMA_VALIDATION_FAILED: Expected value of type Integer at /States/a/0/Seconds"
    );
}

#[test]
fn express_machines_have_no_jobs_and_no_tokens() {
    let resource = |arn: &str| {
        let (machine, _) =
            parse(&state(&format!(r#""Type": "Task", "End": true, "Resource": "{arn}""#))).unwrap();
        express_findings(&machine).into_iter().map(|f| f.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(
        resource("arn:aws:states:::states:startExecution.sync"),
        [
            "SCHEMA_VALIDATION_FAILED: Express state machine does not support '.sync' service integration at /States/S/Resource"
        ]
    );
    // The service says it so, with a space at its end.
    let wait = resource("arn:aws:states:::sqs:sendMessage.waitForTaskToken");
    assert!(wait[0].contains("'.waitForTaskToken' service integration  at /States"), "{wait:?}");
    let signal = parse(&state(
        r#""Type": "Task", "End": true, "Resource": "arn:aws:states:::stagepost:waitForSignal",
            "Parameters": {"Name": "a"}"#,
    ));
    let signal: Vec<String> =
        express_findings(&signal.unwrap().0).into_iter().map(|f| f.to_string()).collect();
    assert!(signal[0].contains("does not support tasks that wait for a signal"), "{signal:?}");
    assert_eq!(resource("arn:aws:states:::activity:a"), [""; 0]);
    assert_eq!(resource("arn:aws:states:::sqs:sendMessage"), [""; 0]);
}

#[test]
fn hostile_text_is_refused_and_not_dwelt_on() {
    let nested = |open: &str, close: &str, n: usize| {
        state(&format!(r#""Type": "Pass", "End": true, "Result": {}1{}"#, open.repeat(n), close.repeat(n)))
    };
    check(&[
        (nested("[", "]", 100_000), &["TOO_DEEPLY_NESTED : "]),
        (nested(r#"{"a":"#, "}", 100_000), &["TOO_DEEPLY_NESTED : "]),
        ("[".repeat(500_000), &["TOO_DEEPLY_NESTED : "]),
        (format!("\"{}", "[".repeat(500_000)), &["INVALID_JSON_DESCRIPTION : EOF while parsing a string"]),
        (nested("[", "]", 100), &[]),
        (format!(r#"{{"Comment": "{}"}}"#, "x".repeat(2 << 20)), &["DEFINITION_TOO_LARGE : "]),
        (
            state(r#""Type": "Wait", "End": true, "Seconds": 1e999"#),
            &["INVALID_JSON_DESCRIPTION : number out of range"],
        ),
        (
            state(r#""Type": "Wait", "End": true, "Seconds": NaN"#),
            &["INVALID_JSON_DESCRIPTION : expected value"],
        ),
        (
            state(r#""Type": "Wait", "End": true, "Seconds": 123456789012345678901234567890"#),
            &["SCHEMA_VALIDATION_FAILED /States/S/Seconds: Value must be a whole number from 0"],
        ),
        (
            state(r#""Type": "Wait", "End": true, "Seconds": 1e300"#),
            &["SCHEMA_VALIDATION_FAILED /States/S/Seconds: Value must be a whole number from 0"],
        ),
    ]);
    // The deepest document that passes the depth check also passes the JSON reader.
    let levels = stagepost_protocol::limits::JSON_DEPTH_MAX - 1 - 3;
    check(&[(nested("[", "]", levels), &[]), (nested("[", "]", levels + 1), &["TOO_DEEPLY_NESTED : "])]);

    // Tens of thousands of problems: what is kept is bounded, and it is still an error.
    let dangling: Vec<String> =
        (0..15_000).map(|i| format!(r#""s{i}": {{"Type": "Pass", "Next": "t{i}"}}"#)).collect();
    assert_eq!(found(&machine(&dangling.join(","))).len(), 1_000);
    let broken: Vec<String> = (0..50_000).map(|i| format!(r#""{i}.$":0"#)).collect();
    let below_a_long_name = format!(r#"{{"{}": {{{}}}}}"#, "n".repeat(400_000), broken.join(","));
    let found = found(&state(&format!(r#""Type": "Pass", "End": true, "Parameters": {below_a_long_name}"#)));
    assert!(found.iter().map(String::len).sum::<usize>() < 4 << 20);
    let warnings: Vec<String> = (0..20_000).map(|i| format!(r#""f{i}.$": 1"#)).collect();
    let flooded = state(&format!(r#""Type": "Pass", "Result": {{{}}}"#, warnings.join(",")));
    assert!(parse(&flooded).is_err());
}

#[test]
fn a_large_machine_is_read() {
    let states: Vec<String> =
        (0..5_000).map(|i| format!(r#""s{i}": {{"Type": "Pass", "Next": "s{}"}}"#, i + 1)).collect();
    let text =
        format!(r#"{{"StartAt": "s0", "States": {{{}, "s5000": {{"Type": "Succeed"}}}}}}"#, states.join(","));
    let (machine, findings) = parse(&text).unwrap();
    assert_eq!((machine.states.len(), findings.len()), (5_001, 0));
}

/// A machine in JSONata of one state.
fn jsonata(fields: &str) -> String {
    format!(r#"{{"QueryLanguage": "JSONata", "StartAt": "S", "States": {{"S": {{{fields}}}}}}}"#)
}

#[test]
fn each_language_has_its_fields() {
    check(&[
        (
            jsonata(
                r#""Type": "Pass", "Output": {"a": ["{% 1 %}"]}, "Assign": {"x": "{% $states.result %}"}, "End": true"#,
            ),
            &[],
        ),
        (
            jsonata(r#""Type": "Pass", "QueryLanguage": "JSONPath", "End": true"#),
            &[
                "SCHEMA_VALIDATION_FAILED /States/S: 'QueryLanguage' can not be 'JSONPath' if set to 'JSONata'",
            ],
        ),
        (
            state(r#""Type": "Pass", "Output": 1, "End": true"#),
            &[
                "SCHEMA_VALIDATION_FAILED /States/S: The QueryLanguage is set to 'JSONPath', but field 'Output' is only supported for the 'JSONata' QueryLanguage",
            ],
        ),
        (
            jsonata(r#""Type": "Pass", "InputPath": "$.a", "End": true"#),
            &[
                "SCHEMA_VALIDATION_FAILED /States/S: The QueryLanguage is set to 'JSONata', but field 'InputPath' is only supported for the 'JSONPath' QueryLanguage",
            ],
        ),
        (
            jsonata(
                r#""Type": "Task", "Resource": "arn:aws:states:::activity:a", "Arguments": {"b": "{% 1 + %}"},
                "TimeoutSeconds": "{% 1 %}", "HeartbeatSeconds": "{% 2 %}", "End": true"#,
            ),
            &["INVALID_JSONATA_EXPRESSION /States/S/Arguments/b: Unexpected end of expression"],
        ),
        (
            jsonata(
                r#""Type": "Task", "Resource": "arn:aws:states:::activity:a", "TimeoutSeconds": "x", "End": true"#,
            ),
            &["SCHEMA_VALIDATION_FAILED /States/S/TimeoutSeconds: Expected value of type Integer"],
        ),
        (
            jsonata(r#""Type": "Choice", "Choices": [{"Condition": true, "Next": "S"}], "Default": "S""#),
            &["MISSING_END_STATE"],
        ),
        (
            jsonata(r#""Type": "Choice", "Choices": [{"Condition": "true", "Next": "S"}], "Default": "S""#),
            &[
                "SCHEMA_VALIDATION_FAILED /States/S/Choices/0/Condition: Expected a JSONata expression",
                "MISSING_END_STATE",
            ],
        ),
        (
            jsonata(
                r#""Type": "Choice", "Choices": [{"Variable": "$.a", "IsNull": true, "Next": "S"}], "Default": "S""#,
            ),
            &[
                "SCHEMA_VALIDATION_FAILED /States/S/Choices/0: The QueryLanguage is set to 'JSONata', but field 'Variable'",
                "SCHEMA_VALIDATION_FAILED /States/S/Choices/0: Field 'IsNull' is not supported",
                "SCHEMA_VALIDATION_FAILED /States/S/Choices/0: These fields are required: [Condition]",
                "MISSING_END_STATE",
            ],
        ),
        (jsonata(r#""Type": "Wait", "Seconds": "{% 1 %}", "End": true"#), &[]),
        (jsonata(r#""Type": "Wait", "Timestamp": "{% $now() %}", "End": true"#), &[]),
        (jsonata(r#""Type": "Fail", "Error": "{% 'E' %}", "Cause": "{% 'c' %}""#), &[]),
    ]);
}

#[test]
fn variables_have_names_and_scopes() {
    let wrong = |name: &str| state(&format!(r#""Type": "Pass", "Assign": {{"{name}": 1}}, "End": true"#));
    let nested = |inner: &str| {
        machine(&format!(
            r#""S": {{"Type": "Pass", "Assign": {{"outer": 1}}, "Next": "P"}}, "P": {{"Type": "Parallel", "End": true,
                "Branches": [{{"StartAt": "I", "States": {{"I": {{"Type": "Pass", "Assign": {{"{inner}": 1}},
                "End": true}}}}}}]}}"#
        ))
    };
    let invalid = "SCHEMA_VALIDATION_FAILED /States/S/Assign: The variable name '";
    check(&[
        (wrong("a"), &[]),
        (wrong("größe_2"), &[]),
        (wrong("states"), &[invalid]),
        (wrong("2a"), &[invalid]),
        (wrong("a-b"), &[invalid]),
        (wrong(""), &[invalid]),
        (wrong(&"a".repeat(80)), &[]),
        (wrong(&"a".repeat(81)), &[invalid]),
        (
            state(r#""Type": "Pass", "Assign": [], "End": true"#),
            &["SCHEMA_VALIDATION_FAILED /States/S/Assign: Expected value of type Object"],
        ),
        (
            state(r#""Type": "Pass", "Assign": {"a.$": "$.["}, "End": true"#),
            &[
                "SCHEMA_VALIDATION_FAILED /States/S/Assign: The value for the field 'a.$' must be a valid JSONPath",
            ],
        ),
        (nested("inner"), &[]),
        (
            machine(
                r#""S": {"Type": "Pass", "Assign": {"total": 1, "x.$": "$total"}, "Next": "C"}, "C": {"Type": "Choice",
                "Choices": [{"Variable": "$totl", "IsPresent": true, "Next": "D"}], "Default": "D"},
                "D": {"Type": "Pass", "Parameters": {"a.$": "States.Array($total, $none)"}, "End": true}"#,
            ),
            &[
                "UNASSIGNED_VARIABLE /States/S: The variable '$total' is not assigned on any way to this state",
                "UNASSIGNED_VARIABLE /States/C: No state assigns the variable '$totl'",
                "UNASSIGNED_VARIABLE /States/D: No state assigns the variable '$none'",
            ],
        ),
        // What the state around assigns, it assigns when all within is over.
        (
            state(
                r#""Type": "Parallel", "End": true, "Assign": {"x": 1}, "Branches": [{"StartAt": "I", "States": {
                    "I": {"Type": "Pass", "Assign": {"x": 2}, "End": true}}}]"#,
            ),
            &[],
        ),
        (
            nested("outer"),
            &[
                "SCHEMA_VALIDATION_FAILED /States/P/Branches/0/States/I/Assign: The variable 'outer' is assigned in an outer scope",
            ],
        ),
    ]);
}

#[test]
fn a_state_that_stands_alone_is_checked_without_what_is_around_it() {
    use serde_json::json;

    use crate::parse::{LONE_STATE, parse_state};
    let (machine, _) = parse_state(
        &json!({
            "Type": "Choice", "Default": "Elsewhere",
            "Choices": [{ "Variable": "$.a", "IsPresent": true, "Next": "There" },
                        { "Variable": "$.b", "IsPresent": true, "Next": LONE_STATE }],
        })
        .to_string(),
    )
    .unwrap();
    assert_eq!(machine.state_named(LONE_STATE).unwrap().kind.type_name(), "Choice");
    assert!(machine.state_named("There").is_some() && machine.state_named("Elsewhere").is_some());
    // Only the state itself can be wrong: that it leads to itself alone is not.
    for (state, expected) in [
        (json!({ "Type": "Pass", "Next": LONE_STATE }), None),
        (json!({ "Type": "Fail" }), None),
        (json!({ "Type": "Pass", "Parameters": { "x.$": "$unknown" }, "End": true }), None),
        (json!({ "Type": "Pass" }), Some("/States/StateName")),
        (json!({ "Type": "Nothing", "End": true }), Some("/States/StateName/Type")),
        (json!({ "StartAt": "A", "States": {} }), Some("/States/StateName")),
        (json!([]), Some("/")),
    ] {
        let found = parse_state(&state.to_string()).err().map(|findings| findings[0].pointer.clone());
        let expected = expected.map(|e| if e == "/" { String::new() } else { e.to_owned() });
        assert_eq!(found, expected, "{state}");
    }
}
