//! Files of cases: what is read, what is refused, and what a report says.

use serde_json::{Value, json};
use stagepost_testing::{Cases, plain, run_cases};

use crate::runs::{states, task};

fn machine() -> std::sync::Arc<stagepost_asl::StateMachine> {
    states(
        "Each",
        &json!({
            "Each": {
                "Type": "Map", "ItemsPath": "$.items", "Next": "Wait",
                "ItemProcessor": { "StartAt": "Do", "States": { "Do": task("do", json!({ "End": true })) } },
                "Catch": [{ "ErrorEquals": ["E"], "Next": "Wait" }],
            },
            "Wait": { "Type": "Wait", "Seconds": 60, "End": true },
        }),
    )
}

fn report(cases: &Value) -> stagepost_testing::Report {
    let machine = machine();
    let cases = Cases::parse(&cases.to_string(), &machine).unwrap_or_else(|errors| panic!("{errors:?}"));
    let written =
        Cases::parse(&cases.to_json().to_string(), &machine).unwrap_or_else(|errors| panic!("{errors:?}"));
    assert_eq!(written, cases, "what is written is what was read");
    run_cases(&machine, &cases)
}

#[test]
fn a_report_says_what_differs() {
    let report = report(&json!({
        "comment": "Two items, two answers.",
        "mocks": { "Do": { "items": { "0": { "result": "first" } }, "default": { "result": { "n": 1, "m": 2 } } } },
        "cases": [
            { "name": "all is well", "input": { "items": [1, 2] }, "now": "2030-01-01T00:00:00Z",
              "context": { "Execution": { "Name": "x" }, "StateMachine": { "Name": "m" } }, "seed": 7, "maxEvents": 100,
              "expect": { "output": ["first", { "n": 1.0, "m": 2 }], "path": ["Each", "Do", "Do", "Wait"],
                          "visits": { "Do": 2 }, "duration": 60, "events": { "atLeast": 5, "atMost": 100 } } },
            { "name": "part of the output", "input": { "items": [1, 2] },
              "expect": { "outputIncludes": ["first", { "n": 1 }], "duration": { "atMost": 60 } } },
            { "name": "all is different", "input": { "items": [1, 2] },
              "expect": { "output": ["second", { "n": 2, "o": null }], "path": ["Each", "Wait"],
                          "visited": ["Do"], "notVisited": ["Wait"], "visits": { "Do": 1 }, "duration": 59 } },
            { "name": "it should have failed", "input": { "items": [] }, "expect": { "error": "E" } },
            { "name": "it should not have failed", "input": { "items": [1] },
              "mocks": { "Do": { "error": "F", "cause": "why" } } },
            { "name": "another error", "input": { "items": [1] },
              "mocks": { "Do": { "error": "F", "cause": "why" } }, "expect": { "error": "G", "causeIncludes": "because" } },
            { "name": "no answer", "input": { "items": [1, 2] }, "mocks": { "Do": [{ "result": 1 }] } },
        ],
    }));
    let expected = "\
ok      all is well                SUCCEEDED, 4 states, 1 min
ok      part of the output         SUCCEEDED, 4 states, 1 min
FAILED  all is different           SUCCEEDED, 4 states, 1 min
          output[0]: expected \"second\", was \"first\"
          output[1].n: expected 2, was 1
          output[1].o: expected null, was absent
          output[1].m: was 2, not expected
          path: expected 'Wait' as state 2, was 'Do'; it went Each → Do → Do → Wait
          notVisited: 'Wait' was entered once
          visits of 'Do': expected 1, was 2
          duration in seconds: expected 59, was 60
FAILED  it should have failed      SUCCEEDED, 2 states, 1 min
          status: expected a failure, was SUCCEEDED
          error: expected \"E\", was absent
FAILED  it should not have failed  FAILED, 2 states, 0 s
          status: expected SUCCEEDED, was FAILED with F in 'Do': why
FAILED  another error              FAILED, 2 states, 0 s
          error: expected \"G\", was \"F\"
          cause: expected to include \"because\", was \"why\"
FAILED  no answer                  RUNNING, 3 states, 0 s
          the state 'Do' was asked again, and its mock has 1 answer; it was given 2

coverage 75 %: 3 of 3 states, 0 of 1 catchers
  not covered Each: catcher 1 (E) → Wait
";
    assert_eq!(report.render(&plain), expected);
    assert_eq!(report.summary(&plain), "2 passed, 5 failed");
    let json = report.to_json();
    assert_eq!(json["failed"], 5);
    assert_eq!(json["cases"][4]["error"], "F");
    assert_eq!(json["coverage"]["percent"], 75);
    let junit = report.to_junit("a<b");
    assert!(junit.contains("<testsuite name=\"a&lt;b\" tests=\"7\" failures=\"5\">"), "{junit}");
    assert!(junit.contains("error: expected &quot;G&quot;, was &quot;F&quot;"), "{junit}");
}

#[test]
fn everything_that_is_wrong_with_a_file_is_told_with_its_place() {
    let cases = json!({
        "cases": [
            { "name": "a", "mocks": { "do": {}, "Do": [{ "result": 1, "error": "E" }, {}, { "result": 1, "repeat": 0 }] } },
            { "name": "a", "expect": { "status": "FINE", "path": "Each", "visited": ["Nope"], "duration": -1, "out": 1 } },
            { "input": 1, "now": "today", "mocks": { "Do": { "items": { "x": [] } } } },
        ],
        "case": [],
    });
    let errors = Cases::parse(&cases.to_string(), &machine()).expect_err("much is wrong");
    let shown: Vec<String> = errors.iter().map(ToString::to_string).collect();
    let expected = [
        "/cases/0/mocks/do: the definition has no state 'do'; do you mean 'Do'?",
        "/cases/0/mocks/Do/0: an answer needs exactly one of result, error, timeout, never",
        "/cases/0/mocks/Do/1: an answer needs exactly one of result, error, timeout, never",
        "/cases/0/mocks/Do/2/repeat: it must be a positive whole number or \"always\"",
        "/cases/1/expect/status: it must be one of SUCCEEDED, FAILED, TIMED_OUT, ABORTED, RUNNING",
        "/cases/1/expect/path: it must be an array of states",
        "/cases/1/expect/visited/0: the definition has no state 'Nope'",
        "/cases/1/expect/duration: it must be a number from 0 to 1e11",
        "/cases/1/expect/out: there is no such field; there are comment, output, outputIncludes, status, error, \
         cause, causeIncludes, path, visited, notVisited, visits, duration, events",
        "/cases/1/name: another case has this name",
        "/cases/2: the field 'name' is missing",
        "/cases/2/now: it must be a time such as \"2026-01-01T00:00:00Z\"",
        "/cases/2/mocks/Do/items/x: items go by their place, from \"0\"",
        "/case: there is no such field; there are comment, mocks, cases",
    ];
    assert_eq!(shown, expected);
    for (text, expected) in [
        ("{", "it is not JSON: EOF while parsing an object at line 1 column 1"),
        ("[]", "it must be an object"),
        ("{}", "the field 'cases' is missing"),
        (r#"{"cases": []}"#, "/cases: there must be at least one case"),
    ] {
        let errors = Cases::parse(text, &machine()).expect_err(text);
        assert_eq!(errors[0].to_string(), expected);
    }
}
