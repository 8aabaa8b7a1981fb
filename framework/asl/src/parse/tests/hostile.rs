//! Definitions that are meant to hurt: each is answered within the limits and within bounded time.

use std::time::{Duration, Instant};

use super::*;

/// Far more than any of these takes on a busy machine without optimization, far less than one that grows with the square of
/// its size would.
const TIME_MAX: Duration = Duration::from_secs(20);

/// What is found in a definition, the first thousand characters of it, and that it was found in time.
fn hurt(what: &str, definition: &str) -> Vec<String> {
    let started = Instant::now();
    let found = found(definition);
    assert!(started.elapsed() < TIME_MAX, "{what}: {:?}", started.elapsed());
    let size: usize = found.iter().map(String::len).sum();
    assert!(found.len() <= 1_000 && size < 4 << 20, "{what}: {} findings, {size} bytes", found.len());
    found
}

fn query(expression: &str) -> String {
    let output = serde_json::to_string(&format!("{{% {expression} %}}")).unwrap();
    jsonata(&format!(r#""Type": "Pass", "Output": {output}, "End": true"#))
}

#[test]
fn many_states() {
    let chain = |count: usize, last: &str| {
        let states: Vec<String> =
            (0..count).map(|i| format!(r#""{i}":{{"Type":"Pass","Next":"{}"}}"#, i + 1)).collect();
        format!(r#"{{"StartAt":"0","States":{{{},"{count}":{last}}}}}"#, states.join(","))
    };
    // Too many for the longest definition.
    let found = hurt("100,000 states", &chain(100_000, r#"{"Type":"Succeed"}"#));
    assert!(found.len() == 1 && found[0].starts_with("DEFINITION_TOO_LARGE"), "{found:?}");
    assert_eq!(hurt("a long chain", &chain(25_000, r#"{"Type":"Succeed"}"#)), [""; 0]);
    let found = hurt("a long circle", &chain(25_000, r#"{"Type":"Pass","Next":"0"}"#));
    assert_eq!(found, ["MISSING_END_STATE : Workflow has no terminal state"]);
    // Everything leads everywhere.
    let choices: Vec<String> =
        (0..120).map(|i| format!(r#"{{"Variable":"$.a","IsNull":true,"Next":"{i}"}}"#)).collect();
    let states: Vec<String> = (0..120)
        .map(|i| format!(r#""{i}":{{"Type":"Choice","Choices":[{}],"Default":"E"}}"#, choices.join(",")))
        .collect();
    let dense = format!(r#"{{"StartAt":"0","States":{{{},"E":{{"Type":"Succeed"}}}}}}"#, states.join(","));
    assert_eq!(hurt("a dense graph", &dense), [""; 0]);
}

#[test]
fn strange_texts() {
    for (what, definition, expected) in [
        ("half of a pair", state(r#""Type": "Pass", "End": true, "Comment": "\ud800""#), "INVALID_JSON"),
        ("a control character", state("\"Type\": \"Pass\", \"Comment\": \"\u{1}\""), "INVALID_JSON"),
        ("a number that is none", state(r#""Type": "Wait", "End": true, "Seconds": 01"#), "INVALID_JSON"),
        ("infinity", state(r#""Type": "Wait", "End": true, "Seconds": Infinity"#), "INVALID_JSON"),
        ("a byte order mark", format!("\u{feff}{}", state(r#""Type": "Succeed""#)), "INVALID_JSON"),
        (
            "a long name",
            machine(&format!(r#""{}": {{"Type": "Succeed"}}"#, "n".repeat(900_000))),
            "INVALID_STATE",
        ),
        (
            "a long path",
            state(&format!(r#""Type": "Pass", "End": true, "InputPath": "$.{}""#, "a.".repeat(400_000))),
            "SCHEMA_VALIDATION_FAILED /States/S/InputPath",
        ),
        (
            "a long call",
            state(&format!(
                r#""Type": "Pass", "End": true, "Parameters": {{"a.$": "{}1{}"}}"#,
                "States.Array(".repeat(60_000),
                ")".repeat(60_000)
            )),
            "SCHEMA_VALIDATION_FAILED /States/S/Parameters",
        ),
    ] {
        let found = hurt(what, &definition);
        assert!(found.iter().any(|finding| finding.starts_with(expected)), "{what}: {:?}", found.first());
    }
    let twice = vec![r#""a": 1"#; 100_000].join(",");
    let found =
        hurt("fields twice", &state(&format!(r#""Type": "Pass", "End": true, "Result": {{{twice}}}"#)));
    assert!(found.iter().all(|finding| finding.starts_with("DUPLICATE_FIELD")), "{:?}", found.first());
}

#[test]
fn large_numbers_are_kept_as_they_are() {
    let text = rule(r#""Variable": "$.n", "NumericEquals": 9007199254740993"#);
    assert_eq!(found(&text), [""; 0]);
    let text = state(r#""Type": "Pass", "End": true, "Result": 9007199254740993"#);
    let (machine, _) = parse(&text).unwrap();
    let StateKind::Pass(pass) = &machine.states[0].kind else { panic!("it is a Pass state") };
    assert_eq!(pass.result.as_ref().unwrap().to_string(), "9007199254740993");
}

#[test]
fn hostile_expressions() {
    for (what, expression) in [
        ("deep parentheses", format!("{}1{}", "(".repeat(100_000), ")".repeat(100_000))),
        ("open parentheses", "(".repeat(100_000)),
        ("deep arrays", format!("{}1{}", "[".repeat(50_000), "]".repeat(50_000))),
        ("deep functions", format!("{}1{}", "function($x){".repeat(30_000), "}".repeat(30_000))),
        ("a long text", format!("'{}", "x".repeat(1_000_000))),
        ("a long regular expression", format!("$match('a', /{}/)", "(a+)+".repeat(100_000))),
        ("nothing but operators", "+".repeat(500_000)),
    ] {
        let found = hurt(what, &query(&expression));
        assert!(found.len() <= 1, "{what}: {found:?}");
    }
    // Names are looked up nowhere, again and again.
    let names: Vec<String> = (0..60_000).map(|i| format!("a{i}")).collect();
    let found = hurt("many names", &query(&names.join("&")));
    assert!(!found.is_empty(), "names at the top are refused");
    let bindings: Vec<String> = (0..30_000).map(|i| format!("$a{i}:=$b{i}")).collect();
    hurt("many bindings", &query(&format!("({})", bindings.join(";"))));
    let broken: Vec<String> = (0..20_000).map(|i| format!(r#""{i}": "{{% (1 + %}}""#)).collect();
    let output = format!("{{{}}}", broken.join(","));
    let found = hurt(
        "many broken expressions",
        &jsonata(&format!(r#""Type": "Pass", "Output": {output}, "End": true"#)),
    );
    assert_eq!(found.len(), 100, "a template reports so many");
}
