//! Keeps the Compatibility page true: its lists and limits are those of the code.
//!
//! When a test here fails after a change of the code, the page is to be changed: the message says how.

#![expect(clippy::unwrap_used, reason = "a page that cannot be read fails the test")]

use std::{collections::BTreeSet, fs, path::Path};

use serde_json::{Value, json};
use stagepost_asl::{choice, intrinsic, jsonata, parse, path};
use stagepost_broker::in_process::InProcessBroker;
use stagepost_connectors::{
    Registry,
    aws::{Aws, Settings},
};
use stagepost_protocol::{error_names, limits};
use stagepost_server::Installation;

/// The operations of the Step Functions API (botocore's service model of 2026).
const AWS_OPERATIONS: &[&str] = &[
    "CreateActivity",
    "CreateStateMachine",
    "CreateStateMachineAlias",
    "DeleteActivity",
    "DeleteStateMachine",
    "DeleteStateMachineAlias",
    "DeleteStateMachineVersion",
    "DescribeActivity",
    "DescribeExecution",
    "DescribeMapRun",
    "DescribeStateMachine",
    "DescribeStateMachineAlias",
    "DescribeStateMachineForExecution",
    "GetActivityTask",
    "GetExecutionHistory",
    "ListActivities",
    "ListExecutions",
    "ListMapRuns",
    "ListStateMachineAliases",
    "ListStateMachineVersions",
    "ListStateMachines",
    "ListTagsForResource",
    "PublishStateMachineVersion",
    "RedriveExecution",
    "SendTaskFailure",
    "SendTaskHeartbeat",
    "SendTaskSuccess",
    "StartExecution",
    "StartSyncExecution",
    "StopExecution",
    "TagResource",
    "TestState",
    "UntagResource",
    "UpdateMapRun",
    "UpdateStateMachine",
    "UpdateStateMachineAlias",
    "ValidateStateMachineDefinition",
];

fn page() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/compatibility.md")).unwrap()
}

/// What stands in the second cell of the row with this label.
fn cell(row: &str) -> String {
    let start = format!("| {row} | ");
    let page = page();
    let line = page.lines().find(|line| line.starts_with(&start));
    let line = line.unwrap_or_else(|| panic!("docs/compatibility.md has no row '{row}'"));
    line[start.len()..].trim_end_matches(" |").to_owned()
}

/// That a row names in code spans what the code has, those words aside that begin like `other`.
fn compare(row: &str, there: impl IntoIterator<Item = impl Into<String>>, other: &[&str]) {
    let cell = cell(row);
    let named = cell.split('`').skip(1).step_by(2).filter(|name| !other.contains(name));
    let named: BTreeSet<String> = named.map(str::to_owned).collect();
    let there: BTreeSet<String> = there.into_iter().map(Into::into).collect();
    let add: Vec<_> = there.difference(&named).collect();
    let remove: Vec<_> = named.difference(&there).collect();
    assert!(
        add.is_empty() && remove.is_empty(),
        "docs/compatibility.md, row '{row}': add {add:?}, remove {remove:?} (in `code spans`)"
    );
}

#[test]
fn the_language_is_what_is_read() {
    compare("states", parse::TYPES.iter().copied(), &[]);
    compare("Choice operators", choice::OPERATORS.iter().copied(), &["Is", "Path"]);
    compare("intrinsic functions", intrinsic::names(), &[]);
    let added = jsonata::ADDED_FUNCTIONS.iter().map(|name| format!("${name}"));
    compare("JSONata functions", added, &["$eval"]);
    compare("error names", error_names::RESERVED.iter().copied(), &["States.Http.StatusCode."]);
}

#[test]
fn the_service_integrations_are_those_of_the_registry() {
    let registry = Registry::standard(InProcessBroker::new(), &Aws::new(Settings::default()));
    // The installation adds what it does itself.
    let own = ["states:startExecution", "stagepost:requestApproval"];
    let calls = registry.integrations().into_iter().chain(own.map(str::to_owned));
    compare("service integrations", calls, &[]);
}

#[test]
fn the_findings_are_those_of_the_parser() {
    compare("errors found", parse::codes::ERRORS.iter().copied(), &[]);
    compare("warnings", parse::codes::WARNINGS.iter().copied(), &[]);
}

#[test]
fn the_operations_are_those_of_the_api() {
    let there = stagepost_api::OPERATIONS;
    compare("operations", there.iter().copied(), &[]);
    let missing = AWS_OPERATIONS.iter().copied().filter(|name| !there.contains(name));
    compare("missing operations", missing, &[]);
    assert!(there.iter().all(|name| AWS_OPERATIONS.contains(name)), "{there:?}");
}

/// What differs from older recordings differs as the page says, and is on the page.
#[tokio::test]
async fn the_kept_deviations_are_as_the_page_says() {
    let mut installation = Installation::open_embedded(None).await.unwrap();
    let client = installation.api_client().await.unwrap();
    let child = client.deploy("child", r#"{"StartAt":"P","States":{"P":{"Type":"Pass","End":true}}}"#).await;
    let child = child.unwrap().to_string();
    let described = client.call("DescribeStateMachine", &json!({ "stateMachineArn": child })).await.unwrap();
    assert_eq!(described["encryptionConfiguration"], json!({ "type": "AWS_OWNED_KEY" }));
    let parent = json!({
        "StartAt": "Start",
        "States": {
            "Start": {
                "Type": "Task",
                "Resource": "arn:aws:states:::states:startExecution.sync",
                "Parameters": { "StateMachineArn": child },
                "ResultPath": "$.child",
                "Next": "Count",
            },
            "Count": {
                "Type": "Pass",
                "Parameters": { "child.$": "$.child.RedriveCount", "own.$": "$$.Execution.RedriveCount" },
                "Next": "Map",
            },
            "Map": {
                "Type": "Map",
                "ItemsPath": "$$.Execution.Input.items",
                "MaxConcurrencyPath": "$$.Execution.Input.concurrency",
                "ItemProcessor": { "StartAt": "I", "States": { "I": { "Type": "Pass", "End": true } } },
                "ResultPath": "$.items",
                "End": true,
            },
        },
    });
    let parent = client.deploy("parent", &parent.to_string()).await.unwrap();
    let run = async |concurrency: i64| {
        let input = json!({ "items": [1], "concurrency": concurrency }).to_string();
        let execution = client.start(&parent, &input, None).await.unwrap();
        client.wait(&execution).await.unwrap()
    };
    let ended = run(1).await;
    let output: Value = serde_json::from_str(&ended.output.unwrap()).unwrap();
    assert_eq!(output, json!({ "child": 0, "own": 0, "items": [1] }));
    assert_eq!(run(-1).await.error.as_deref(), Some("States.Runtime"));
    installation.shutdown().await;
    for group in ["callback", "scenarios", "sfn_api", "sfn_api_express", "timeouts"] {
        assert!(page().contains(&format!("`{group}`")), "docs/compatibility.md, Recorded histories: {group}");
    }
}

/// A number with commas between thousands, as the page writes it.
fn number(n: u64) -> String {
    let digits = n.to_string();
    let head = digits.len() % 3;
    let (first, rest) = digits.split_at(head);
    let groups = rest.as_bytes().chunks(3).map(|group| String::from_utf8(group.to_vec()).unwrap());
    let all: Vec<String> = (!first.is_empty()).then(|| first.to_owned()).into_iter().chain(groups).collect();
    all.join(",")
}

#[test]
fn the_limits_are_those_of_the_code() {
    assert_eq!(
        [number(1), number(100), number(1_000), number(1_048_576)],
        ["1", "100", "1,000", "1,048,576"]
    );
    let size = |n: usize| number(n as u64);
    for (row, expected) in [
        (
            "input or output of a state, a task or an execution",
            format!("{} bytes", size(limits::PAYLOAD_BYTES_MAX)),
        ),
        ("definition", format!("{} bytes", size(limits::DEFINITION_BYTES_MAX))),
        ("HTTP request", format!("{} bytes", size(limits::REQUEST_BYTES_MAX))),
        ("nesting of JSON", format!("{} levels", limits::JSON_DEPTH_MAX)),
        (
            "history of an execution",
            format!(
                "{} events, then it fails; a warning at {}",
                number(limits::HISTORY_EVENTS_MAX),
                number(limits::HISTORY_EVENTS_WARN)
            ),
        ),
        (
            "names of state machines, activities, executions",
            format!("{} characters", size(limits::NAME_CHARS_MAX)),
        ),
        ("name of an error", format!("{} characters", size(limits::ERROR_CHARS_MAX))),
        ("cause of an error", format!("{} characters", size(limits::CAUSE_CHARS_MAX))),
        ("a path", format!("{} bytes, {} steps", size(path::SOURCE_BYTES_MAX), path::STEPS_MAX)),
        ("nesting of intrinsic functions", format!("{} levels", intrinsic::NESTING_MAX)),
        ("JSONata expressions of one field", format!("{} milliseconds", jsonata::TIME_MAX.as_millis())),
    ] {
        assert_eq!(cell(row), expected, "docs/compatibility.md, row '{row}': on the left what is there");
    }
}
