//! An installation end to end, in this process.

use stagepost_store::ExecutionStatus;

use super::*;
use crate::{ApiClient, Deployed, Steps, Style};

const MACHINE: &str = r#"{
    "StartAt": "Prepare",
    "States": {
        "Prepare": {"Type": "Pass", "Result": {"ready": true}, "ResultPath": "$.prepared", "Next": "Large"},
        "Large": {
            "Type": "Choice",
            "Choices": [{"Variable": "$.amount", "NumericGreaterThan": 100, "Next": "Hold"}],
            "Default": "Done"
        },
        "Hold": {"Type": "Wait", "SecondsPath": "$.hold", "Next": "Done"},
        "Done": {"Type": "Succeed"}
    }
}"#;

async fn embedded(data: Option<PathBuf>) -> (Installation, ApiClient) {
    let mut installation = Installation::open_embedded(data).await.unwrap();
    let api = installation.api_client().await.unwrap();
    (installation, api)
}

struct TempDir(PathBuf);

impl TempDir {
    fn new() -> TempDir {
        let path = std::env::temp_dir().join(format!("stagepost-test-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir(&path).unwrap();
        TempDir(path)
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        // A test that failed may leave it; the system cleans up.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[tokio::test]
async fn a_machine_is_deployed_started_followed_and_gives_its_output() {
    let (installation, api) = embedded(None).await;
    let machine = api.deploy("hold", MACHINE).await.unwrap();
    let execution = api.start(&machine, r#"{"amount": 120, "hold": 1}"#, Some("one")).await.unwrap();
    let mut steps = Steps::new(Style::plain());
    let mut shown = String::new();
    let ended = api.follow(&execution, |events| shown += &steps.show(events)).await.unwrap();
    assert_eq!(ended.status, ExecutionStatus::Succeeded);
    assert_eq!(ended.output.as_deref(), Some(r#"{"amount":120,"hold":1,"prepared":{"ready":true}}"#));
    for line in ["✓ Prepare", "✓ Large", "◷ Hold", "✓ Hold  1.0s", "✓ Done"] {
        assert!(shown.contains(line), "{line} is missing:\n{shown}");
    }
    assert_eq!(api.history(&execution).await.unwrap().len(), 10);
    // Deployed again under its name it is another definition of the same machine.
    let changed = MACHINE.replace("100", "1000");
    for (text, done) in [(MACHINE, Deployed::Unchanged), (&changed, Deployed::Updated)] {
        assert_eq!(api.deploy_with("hold", text, None, None).await.unwrap(), (machine.clone(), done));
    }
    let error = api.start(&machine, "{}", Some("one")).await.unwrap_err();
    assert!(error.is("ExecutionAlreadyExists"), "{error}");
    installation.shutdown().await;
}

#[tokio::test]
async fn waits_that_follow_each_other_all_end() {
    let (installation, api) = embedded(None).await;
    let wait = |next: &str| format!(r#"{{"Type": "Wait", "Seconds": 1, {next}}}"#);
    let (next, end) = (|name: &str| wait(&format!(r#""Next": "{name}""#)), wait(r#""End": true"#));
    let states = format!(r#"{{"A": {}, "B": {}, "C": {}, "D": {end}}}"#, next("B"), next("C"), next("D"));
    let definition = format!(r#"{{"StartAt": "A", "States": {states}}}"#);
    let machine = api.deploy("waits", &definition).await.unwrap();
    let mut started = Vec::new();
    for _ in 0..4 {
        started.push(api.start(&machine, "{}", None).await.unwrap());
    }
    for execution in &started {
        let ended = tokio::time::timeout(std::time::Duration::from_secs(30), api.wait(execution)).await;
        assert_eq!(ended.expect("no wait is forgotten").unwrap().status, ExecutionStatus::Succeeded);
    }
    installation.shutdown().await;
}

#[tokio::test]
async fn a_waiting_execution_goes_on_after_a_restart_on_the_same_directory() {
    // Goal: both a graceful end and a death leave a directory with which the next process goes on.
    let data = TempDir::new();
    let path = Some(data.0.join("made-here"));
    let (installation, api) = embedded(path.clone()).await;
    let machine = api.deploy("hold", MACHINE).await.unwrap();
    let execution = api.start(&machine, r#"{"amount": 120, "hold": 2}"#, None).await.unwrap();
    assert_eq!(api.describe(&execution).await.unwrap().status, ExecutionStatus::Running);
    installation.shutdown().await;

    let (died, _) = embedded(path.clone()).await;
    drop(died);

    let (installation, api) = embedded(path).await;
    let ended = api.wait(&execution).await.unwrap();
    assert_eq!(ended.status, ExecutionStatus::Succeeded);
    installation.shutdown().await;
}

#[tokio::test]
async fn two_processes_do_not_share_a_directory_and_a_file_is_none() {
    let data = TempDir::new();
    let (installation, _) = embedded(Some(data.0.clone())).await;
    let error = Installation::open_embedded(Some(data.0.clone())).await.err().unwrap();
    assert!(error.to_string().contains("another process has it open"), "{error}");
    let file = data.0.join("file");
    std::fs::write(&file, "").unwrap();
    assert!(Installation::open_embedded(Some(file)).await.is_err());
    installation.shutdown().await;
}

#[tokio::test]
async fn without_the_api_role_only_operators_are_answered() {
    let mut settings = Settings::embedded(None);
    settings.roles.api = false;
    let mut installation = Installation::open(settings).await.unwrap();
    let api = installation.api_client().await.unwrap();
    let error = api.call("ListStateMachines", &serde_json::json!({})).await.unwrap_err();
    assert!(error.to_string().contains("is not the API"), "{error}");
    installation.shutdown().await;
}

fn calls(resource: &str, parameters: &str) -> String {
    format!(
        r#"{{"StartAt": "S", "States": {{"S": {{"Type": "Task", "End": true,
            "Resource": "arn:aws:states:::states:startExecution{resource}", "Parameters": {parameters}}}}}}}"#
    )
}

#[tokio::test]
async fn a_state_starts_an_execution_and_waits_for_it() {
    let (installation, api) = embedded(None).await;
    let child = r#"{"StartAt": "C", "States": {
        "C": {"Type": "Choice", "Default": "P",
              "Choices": [{"Variable": "$.fail", "IsPresent": true, "Next": "F"}]},
        "F": {"Type": "Fail", "Error": "Odd", "Cause": "as wanted"},
        "P": {"Type": "Pass", "Result": [1], "End": true}}}"#;
    let child = api.deploy("child", child).await.unwrap();
    let parameters = format!(r#"{{"StateMachineArn": "{child}", "Input.$": "$"}}"#);
    for (name, resource, input, expected) in [
        ("plain", "", "{}", None),
        ("text", ".sync", "{}", Some("\"Output\":\"[1]\"")),
        ("parsed", ".sync:2", r#"{"a": 1}"#, Some("\"Output\":[1]")),
    ] {
        let machine = api.deploy(name, &calls(resource, &parameters)).await.unwrap();
        let execution = api.start(&machine, input, None).await.unwrap();
        let ended = api.follow(&execution, |_| ()).await.unwrap();
        assert_eq!(ended.status, ExecutionStatus::Succeeded, "{name}: {ended:?}");
        let output = ended.output.unwrap();
        assert!(output.contains("execution:child:"), "{output}");
        assert!(expected.is_none_or(|part| output.contains(part)), "{output}");
        let kinds: Vec<_> = api.history(&execution).await.unwrap().into_iter().map(|e| e.kind).collect();
        // The child may end at once, but not before its parent knows that it has begun.
        let submitted = kinds.iter().position(|kind| kind == "TaskSubmitted");
        assert_eq!(submitted, expected.map(|_| 4), "{name}: {kinds:?}");
    }
    let parsed = api.deploy("parsed", &calls(".sync:2", &parameters)).await.unwrap();
    let execution = api.start(&parsed, r#"{"fail": true}"#, None).await.unwrap();
    let ended = api.follow(&execution, |_| ()).await.unwrap();
    assert_eq!((ended.status, ended.error.as_deref()), (ExecutionStatus::Failed, Some("States.TaskFailed")));
    assert!(ended.cause.unwrap().contains(r#""Error":"Odd""#));
    installation.shutdown().await;
}

#[tokio::test]
async fn a_start_that_is_refused_fails_the_state_as_at_the_service() {
    let (installation, api) = embedded(None).await;
    let child = api.deploy("child", MACHINE).await.unwrap();
    api.start(&child, r#"{"amount": 120, "hold": 60}"#, Some("taken")).await.unwrap();
    for (name, parameters, error) in [
        (
            "taken",
            format!(r#"{{"StateMachineArn": "{child}", "Name": "taken"}}"#),
            "StepFunctions.ExecutionAlreadyExistsException",
        ),
        (
            "missing",
            format!(r#"{{"StateMachineArn": "{child}x"}}"#),
            "StepFunctions.StateMachineDoesNotExistException",
        ),
    ] {
        let machine = api.deploy(name, &calls(".sync", &parameters)).await.unwrap();
        let execution = api.start(&machine, "{}", None).await.unwrap();
        let ended = api.follow(&execution, |_| ()).await.unwrap();
        assert_eq!(ended.error.as_deref(), Some(error), "{ended:?}");
        let cause = ended.cause.unwrap();
        assert!(cause.contains("Service: AWSStepFunctions; Status Code: 400"), "{cause}");
    }
    installation.shutdown().await;
}

#[tokio::test]
async fn a_map_run_is_redriven_with_the_children_that_failed_and_the_items_that_never_began() {
    let (installation, api) = embedded(None).await;
    let gate = r#"{"StartAt": "C", "States": {
        "C": {"Type": "Choice", "Default": "P", "Choices": [{"Variable": "$.n", "NumericEquals": 1, "Next": "F"}]},
        "F": {"Type": "Fail", "Error": "Closed"},
        "P": {"Type": "Pass", "End": true}}}"#;
    let gate_arn = api.deploy("gate", gate).await.unwrap();
    let mut document = serde_json::json!({ "StartAt": "M", "States": { "M": {
        "Type": "Map", "Label": "l", "MaxConcurrency": 1, "End": true,
        "ItemProcessor": {
            "ProcessorConfig": { "Mode": "DISTRIBUTED", "ExecutionType": "STANDARD" },
            "StartAt": "G",
            "States": { "G": {
                "Type": "Task",
                "Resource": "arn:aws:states:::states:startExecution.sync:2",
                "Parameters": { "StateMachineArn": gate_arn.to_string(), "Input.$": "$" },
                "ResultSelector": { "n.$": "$.Output.n" },
                "End": true,
            } },
        },
    } } });
    let parent = api.deploy("parent", &document.to_string()).await.unwrap();
    let execution = api.start(&parent, r#"[{"n": 0}, {"n": 1}, {"n": 2}]"#, None).await.unwrap();
    let ended = api.follow(&execution, |_| ()).await.unwrap();
    assert_eq!(ended.error.as_deref(), Some("States.ExceedToleratedFailureThreshold"), "{ended:?}");

    api.deploy("gate", r#"{"StartAt": "P", "States": {"P": {"Type": "Pass", "End": true}}}"#).await.unwrap();
    api.redrive(&execution).await.unwrap();
    let ended = api.follow(&execution, |_| ()).await.unwrap();
    assert_eq!(ended.output.as_deref(), Some(r#"[{"n":0},{"n":1},{"n":2}]"#), "{ended:?}");
    let kinds = api.history(&execution).await.unwrap().into_iter().map(|e| e.kind);
    let kinds: Vec<_> = kinds.filter(|kind| kind.starts_with("MapRun")).collect();
    assert_eq!(kinds, ["MapRunStarted", "MapRunFailed", "MapRunRedriven", "MapRunSucceeded"]);

    let request = serde_json::json!({ "executionArn": execution.to_string() });
    let runs = api.call("ListMapRuns", &request).await.unwrap();
    let [run] = runs["mapRuns"].as_array().unwrap().as_slice() else { panic!("{runs}") };
    let of_run = serde_json::json!({ "mapRunArn": run["mapRunArn"] });
    let described = api.call("DescribeMapRun", &of_run).await.unwrap();
    assert_eq!((&described["status"], &described["redriveCount"]), (&"SUCCEEDED".into(), &1.into()));
    assert_eq!(described["executionCounts"]["succeeded"], 3);
    let children = api.call("ListExecutions", &of_run).await.unwrap();
    let redrives: Vec<_> = children["executions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| e["redriveCount"].as_u64().unwrap())
        .collect();
    assert_eq!(redrives, [0, 1, 0]);

    // The results with what there is to say about each execution, without a file.
    document["States"]["M"]["ResultWriter"] =
        serde_json::json!({ "WriterConfig": { "Transformation": "NONE" } });
    let whole = api.deploy("whole", &document.to_string()).await.unwrap();
    let execution = api.start(&whole, r#"[{"n": 0}, {"n": 1}]"#, None).await.unwrap();
    let ended = api.follow(&execution, |_| ()).await.unwrap();
    let results: serde_json::Value = serde_json::from_str(&ended.output.unwrap()).unwrap();
    for (n, result) in results.as_array().unwrap().iter().enumerate() {
        assert_eq!(result["Output"], format!(r#"{{"n":{n}}}"#), "{results}");
        assert_eq!(result["Status"], "SUCCEEDED");
    }
    installation.shutdown().await;
}

#[tokio::test]
async fn an_execution_that_was_stopped_is_redriven() {
    let (installation, api) = embedded(None).await;
    let machine = api.deploy("hold", MACHINE).await.unwrap();
    let execution = api.start(&machine, r#"{"amount": 120, "hold": 1}"#, Some("one")).await.unwrap();
    api.stop(&execution, None, None).await.unwrap();
    api.redrive(&execution).await.unwrap();
    let ended = api.follow(&execution, |_| ()).await.unwrap();
    assert_eq!(ended.status, ExecutionStatus::Succeeded);
    assert!(api.redrive(&execution).await.unwrap_err().is("ExecutionNotRedrivable"));
    let redriven = api.history(&execution).await.unwrap();
    assert_eq!(redriven.iter().filter(|e| e.kind == "ExecutionRedriven").count(), 1);
    installation.shutdown().await;
}

#[tokio::test]
async fn who_stops_waiting_for_an_execution_stops_it() {
    let (installation, api) = embedded(None).await;
    let child = api.deploy("child", MACHINE).await.unwrap();
    let parameters = format!(r#"{{"StateMachineArn": "{child}", "Name.$": "$.name", "Input.$": "$"}}"#);
    let waits = api.deploy("waits", &calls(".sync", &parameters)).await.unwrap();
    let starts = api.deploy("starts", &calls("", &parameters)).await.unwrap();
    let timed =
        calls(".sync:2", &parameters).replace(r#""End": true"#, r#""End": true, "TimeoutSeconds": 1"#);
    let timed = api.deploy("timed", &timed).await.unwrap();
    let input = |name: &str| format!(r#"{{"amount": 120, "hold": 60, "name": "{name}"}}"#);
    let running = async |name: &str| {
        loop {
            match api.describe(&child.execution(name)).await {
                Ok(found) => return found.status,
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    };
    let stopped = async |name: &str| {
        while running(name).await == ExecutionStatus::Running {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        running(name).await
    };
    let parent = api.start(&waits, &input("one"), None).await.unwrap();
    let free = api.start(&starts, &input("free"), None).await.unwrap();
    api.start(&timed, &input("two"), None).await.unwrap();
    assert_eq!(running("one").await, ExecutionStatus::Running);
    api.stop(&parent, None, None).await.unwrap();
    assert_eq!(api.follow(&free, |_| ()).await.unwrap().status, ExecutionStatus::Succeeded);
    assert_eq!(stopped("one").await, ExecutionStatus::Aborted);
    assert_eq!(stopped("two").await, ExecutionStatus::Aborted);
    assert_eq!(running("free").await, ExecutionStatus::Running);
    installation.shutdown().await;
}
