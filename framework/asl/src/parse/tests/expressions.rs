//! What is said of JSONata expressions, in the service's words, and which variables states refer to.

use super::*;

/// A machine in JSONata of one Pass state with an `Output`.
fn output(expression: &str) -> String {
    let output = serde_json::to_string(&format!("{{% {expression} %}}")).unwrap();
    format!(
        r#"{{"QueryLanguage": "JSONata", "StartAt": "S", "States": {{"S":
            {{"Type": "Pass", "Output": {output}, "End": true}}}}}}"#
    )
}

/// A machine in JSONata of a Task state with such fields, in which `RESULT` and `ERROR` stand for expressions that look
/// at what the task gave and at what was caught.
fn task(fields: &str) -> String {
    let fields = fields.replace("RESULT", r#""{% $states.result.a %}""#);
    let fields = fields.replace("ERROR", r#""{% $states.errorOutput.Cause %}""#);
    format!(
        r#"{{"QueryLanguage": "JSONata", "StartAt": "S", "States": {{
            "S": {{"Type": "Task", "Resource": "arn:aws:states:::lambda:invoke", "Next": "T", {fields}}},
            "T": {{"Type": "Succeed"}}}}}}"#
    )
}

#[test]
fn what_cannot_be_read_is_told_as_the_parser_tells_it() {
    for (expression, message) in [
        ("a[1,2)", r#"Expected "]", got ",""#),
        ("\"unterminated", "String literal must be terminated by a matching quote"),
        ("1 +", "Unexpected end of expression"),
        ("{\"a\":}", r#"The symbol "}" cannot be used as a unary operator"#),
        ("$x :=", "Unexpected end of expression"),
        ("phone %.other", r#"The symbol "." cannot be used as a unary operator"#),
        ("", "Unexpected end of expression"),
    ] {
        let expected = format!("INVALID_JSONATA_EXPRESSION /States/S/Output: {message}");
        assert_eq!(found(&output(expression)), [expected], "{expression}");
    }
}

#[test]
fn what_is_not_there_cannot_be_asked_for() {
    for (expression, messages) in [
        ("phone[0]", &["Reference to 'phone' at the top level is not supported."][..]),
        ("$.phone", &["Reference to '$' at the top level is not supported."]),
        ("$$", &["Reference to '$$' is not supported."]),
        ("$states.errorOutput", &["Field '$states.errorOutput' does not exist."]),
        ("$states.Input", &["Field '$states.Input' does not exist."]),
        (
            "{'a': a, 'b': $.b}",
            &[
                "Reference to 'a' at the top level is not supported.",
                "Reference to '$' at the top level is not supported.",
            ],
        ),
        ("$states.input.items[value > 3]", &[]),
        ("$states.context.Execution.Id", &[]),
    ] {
        let expected: Vec<String> = messages
            .iter()
            .map(|message| format!("UNSUPPORTED_JSONATA_EXPRESSION /States/S/Output: {message}"))
            .collect();
        assert_eq!(found(&output(expression)), expected, "{expression}");
    }
}

#[test]
fn results_and_errors_are_there_in_some_fields_only() {
    let result = "Field '$states.result' does not exist.";
    let error = "Field '$states.errorOutput' does not exist.";
    let catch = r#""Catch": [{"ErrorEquals": ["States.ALL"], "Next": "T", "#;
    for (fields, expected) in [
        (r#""Output": RESULT, "Assign": {"x": RESULT}"#.to_owned(), vec![]),
        (format!(r#"{catch} "Output": ERROR, "Assign": {{"x": ERROR}}}}]"#), vec![]),
        (r#""Arguments": {"a": [RESULT]}"#.to_owned(), vec![("Arguments/a/0", result)]),
        (r#""TimeoutSeconds": RESULT"#.to_owned(), vec![("TimeoutSeconds", result)]),
        (r#""Assign": {"x": ERROR}"#.to_owned(), vec![("Assign/x", error)]),
        (format!(r#"{catch} "Output": RESULT}}]"#), vec![("Catch/0/Output", result)]),
    ] {
        let expected: Vec<String> = expected
            .into_iter()
            .map(|(field, message)| format!("UNSUPPORTED_JSONATA_EXPRESSION /States/S/{field}: {message}"))
            .collect();
        assert_eq!(found(&task(&fields)), expected, "{fields}");
    }
    let choice = r#"{"QueryLanguage": "JSONata", "StartAt": "S", "States": {
        "S": {"Type": "Choice", "Default": "T", "Choices": [
            {"Condition": true, "Next": "T"},
            {"Condition": "{% $states.result %}", "Next": "T", "Output": "{% x %}"}]},
        "T": {"Type": "Succeed"}}}"#;
    let location = "/States/S/Choices/1";
    assert_eq!(
        found(choice),
        [
            format!("UNSUPPORTED_JSONATA_EXPRESSION {location}/Condition: {result}"),
            format!(
                "UNSUPPORTED_JSONATA_EXPRESSION {location}/Output: Reference to 'x' at the top level is not \
                 supported."
            ),
        ]
    );
}

#[test]
fn states_tell_which_variables_they_refer_to() {
    let (machine, _) = parse(
        r#"{"StartAt": "Set", "States": {
            "Set": {"Type": "Pass", "Next": "Paths", "Assign": {"a": "$b", "b": 1, "c": 2, "d": 3, "e": 4, "f": 5}},
            "Paths": {
                "Type": "Task", "Resource": "arn:aws:states:::lambda:invoke", "Next": "Choose",
                "InputPath": "$a", "OutputPath": "$b.x", "TimeoutSecondsPath": "$c",
                "Parameters": {"x.$": "States.Format('{}', $d)", "y": "$f", "z.$": "$.c"},
                "Catch": [{"ErrorEquals": ["States.ALL"], "Next": "End", "Assign": {"x.$": "$e.Cause"}}]
            },
            "Choose": {"Type": "Choice", "Default": "Query",
                "Choices": [{"Variable": "$a", "NumericEqualsPath": "$b", "Next": "Query"}]},
            "Query": {"Type": "Pass", "QueryLanguage": "JSONata", "Next": "Map",
                "Output": "{% $sum($a.b) + ($x := 1; $x) %}", "Assign": {"y": "{% $c %}"}},
            "Map": {"Type": "Map", "QueryLanguage": "JSONata", "Items": "{% $a %}", "MaxConcurrency": "{% $b %}",
                "Next": "End", "ItemProcessor": {"StartAt": "Item", "States": {
                    "Item": {"Type": "Wait", "SecondsPath": "$f", "End": true}}}},
            "End": {"Type": "Fail", "ErrorPath": "States.Format('{}', $a)", "CausePath": "$b"}
        }}"#,
    )
    .unwrap();
    let references: Vec<(&str, Vec<&str>)> = machine.variable_references().into_iter().collect();
    assert_eq!(
        references,
        [
            ("Choose", vec!["a", "b"]),
            ("End", vec!["a", "b"]),
            ("Item", vec!["f"]),
            ("Map", vec!["a", "b"]),
            ("Paths", vec!["a", "b", "c", "d", "e"]),
            ("Query", vec!["a", "c"]),
        ]
    );
}
