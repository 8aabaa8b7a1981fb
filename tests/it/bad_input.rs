//! Bad input gets a clear error or a dead letter with the reason, and changes nothing.

use lapin::BasicProperties;
use serde_json::{Value, json};
use stagepost_server::{ApiClient, CallError};
use stagepost_tests::{Queues, Servers, Site, orders};

use crate::{PATIENCE, ended, letter, output, reaches, run};

const PASS: &str = r#"{"StartAt": "Done", "States": {"Done": {"Type": "Pass", "End": true}}}"#;

/// What the API says when it refuses, after its code was checked.
fn refused<T: std::fmt::Debug>(result: Result<T, CallError>, code: &str) -> String {
    match result {
        Err(CallError::Refused { code: found, message }) if found == code => message,
        other => panic!("{code} was expected: {other:?}"),
    }
}

/// Everything that the installation shows: state machines and executions.
async fn all(api: &ApiClient) -> Vec<Value> {
    let machines = api.pages("ListStateMachines", json!({}), "stateMachines", 1000).await.unwrap();
    let mut all = machines.clone();
    for machine in machines {
        let request = json!({"stateMachineArn": machine["stateMachineArn"]});
        all.extend(api.pages("ListExecutions", request, "executions", 1000).await.unwrap());
    }
    all
}

async fn requests_are_refused(api: &ApiClient) {
    let machine = api.deploy("pass", PASS).await.unwrap();
    let execution = api.start(&machine, r#"{"n": 1}"#, Some("one")).await.unwrap();
    ended(api, &execution).await;
    let before = all(api).await;

    // Every finding of a definition, each with its place.
    let wrong =
        r#"{"StartAt": "Nowhere", "States": {"A": {"Type": "Pass", "Next": "B"}, "C": {"Type": "Wait"}}}"#;
    let message = refused(api.deploy("wrong", wrong).await, "InvalidDefinition");
    for place in ["/StartAt", "/States/A/Next", "/States/C"] {
        assert!(message.contains(place), "{place} is missing: {message}");
    }
    refused(api.deploy("wrong", "{").await, "InvalidDefinition");
    refused(api.deploy("a b", PASS).await, "InvalidName");

    let message = refused(api.start(&machine, "{not json", None).await, "InvalidExecutionInput");
    assert!(!message.is_empty());
    let unknown = api.state_machine_arn("nobody").unwrap();
    let message = refused(api.start(&unknown, "{}", None).await, "StateMachineDoesNotExist");
    assert!(message.contains("nobody"), "{message}");
    // 256 KiB are taken, one byte more is not.
    let text = |bytes: usize| format!("\"{}\"", "x".repeat(bytes - 2));
    refused(api.start(&machine, &text(262_145), None).await, "ValidationException");

    refused(api.start(&machine, r#"{"n": 2}"#, Some("one")).await, "ExecutionAlreadyExists");
    refused(api.describe(&machine.execution("nobody")).await.map(drop), "ExecutionDoesNotExist");
    refused(api.stop(&machine.execution("nobody"), None, None).await, "ExecutionDoesNotExist");
    refused(api.send_success("forged", "{}").await, "InvalidToken");
    refused(api.call("Nonsense", &json!({})).await, "UnknownOperationException");
    assert_eq!(all(api).await, before);

    let large = api.start(&machine, &text(262_144), None).await.unwrap();
    assert_eq!(ended(api, &large).await.status.as_str(), "SUCCEEDED");
}

/// The same name and input while it runs gives the same execution; another input is refused.
async fn names_are_used_once(api: &ApiClient) {
    let wait = r#"{"StartAt": "Wait", "States": {"Wait": {"Type": "Wait", "Seconds": 600, "End": true}}}"#;
    let machine = api.deploy("waits", wait).await.unwrap();
    let request = |input: &str| json!({"stateMachineArn": machine, "name": "one", "input": input});
    let first = api.call("StartExecution", &request("{\"n\":1}")).await.unwrap();
    let again = api.call("StartExecution", &request("{\"n\":1}")).await.unwrap();
    assert_eq!(first, again);
    refused(api.call("StartExecution", &request("{\"n\":2}")).await, "ExecutionAlreadyExists");
    let execution = machine.execution("one");
    api.stop(&execution, Some("Enough"), None).await.unwrap();
    assert_eq!(api.describe(&execution).await.unwrap().status.as_str(), "ABORTED");
    let events = api.history(&execution).await.unwrap();
    orders::check_history(&events).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_make_no_sense_are_refused_on_servers() {
    let Some(servers) = Servers::shared().await else { return };
    let site = Site::on(&servers);
    let _server = site.start().await;
    requests_are_refused(&site.api).await;
    names_are_used_once(&site.api).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_make_no_sense_are_refused_embedded() {
    let site = Site::embedded();
    let _server = site.start().await;
    requests_are_refused(&site.api).await;
    names_are_used_once(&site.api).await;
}

/// Publishes something unusable and expects it among the dead letters, untouched, with a reason that says this.
async fn buried(api: &ApiClient, queues: &Queues, queue: &str, body: &str, kind: Option<&str>, reason: &str) {
    let mut properties = BasicProperties::default().with_message_id("a-stranger".into());
    if let Some(kind) = kind {
        properties = properties.with_type(kind.into());
    }
    queues.publish(queue, body.as_bytes(), properties).await;
    let letter = letter(api, Some(queue)).await;
    assert_eq!((&letter["body"], &letter["messageId"]), (&json!(body), &json!("a-stranger")));
    let told = letter["message"].as_str().unwrap();
    assert!(told.contains(reason), "{body} on {queue}: {told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_of_strangers_become_dead_letters_with_the_reason() {
    let Some(servers) = Servers::shared().await else { return };
    let site = Site::on(&servers);
    let _server = site.start().await;
    let _worker = site.worker(stagepost_tests::binaries::TEST_WORKER);
    let queues = servers.queues().await;
    let ours = json!({"StartAt": "Echo", "States": {"Echo": {
        "Type": "Task", "Resource": "arn:aws:states:::activity:echo", "TimeoutSeconds": 60, "End": true}}});
    assert_eq!(output(&run(&site.api, "echo", &ours, &json!(1)).await)["input"], 1);
    let before = all(&site.api).await;

    let q = |name: &str| servers.queue(name);
    let shard_kind = Some("stagepost.shard.1");
    buried(&site.api, &queues, &q("shard.00"), "hello", None, "type").await;
    buried(&site.api, &queues, &q("shard.01"), "hello", shard_kind, "not a shard message").await;
    buried(&site.api, &queues, &q("shard.02"), r#"{"Surprise": 1}"#, shard_kind, "not a shard message").await;
    buried(&site.api, &queues, &q("callbacks"), "hello", None, "not JSON").await;
    buried(&site.api, &queues, &q("callbacks"), r#"{"taskToken": "forged", "output": 1}"#, None, "token")
        .await;
    let both = r#"{"taskToken": "x", "output": 1, "error": "E"}"#;
    buried(&site.api, &queues, &q("callbacks"), both, None, "").await;
    buried(&site.api, &queues, &q("activity.echo"), "{}", None, "stagepost-task-token").await;

    assert_eq!(all(&site.api).await, before);
    assert_eq!(output(&run(&site.api, "echo", &ours, &json!(2)).await)["input"], 2);
}

/// A result that comes after another, or after its attempt's end, changes nothing: the API says so, a message is a dead
/// letter.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn late_results_change_nothing() {
    let Some(servers) = Servers::shared().await else { return };
    let site = Site::on(&servers);
    let _server = site.start().await;
    let mut queues = servers.queues().await;
    let asks = format!("{}-questions", servers.prefix);
    let definition = json!({"StartAt": "Ask", "States": {
        "Ask": {
            "Type": "Task",
            "Resource": "arn:aws:states:::sqs:sendMessage.waitForTaskToken",
            "Parameters": {"QueueUrl": format!("amqp:///{asks}"), "MessageBody": {"token.$": "$$.Task.Token"}},
            "TimeoutSeconds": 600,
            "Next": "Wait"
        },
        "Wait": {"Type": "Wait", "Seconds": 600, "End": true}
    }});
    let machine = site.api.deploy("asks", &definition.to_string()).await.unwrap();
    let execution = site.api.start(&machine, "{}", None).await.unwrap();
    let token = queues.taken(&asks, PATIENCE).await.json()["token"].as_str().unwrap().to_owned();
    site.api.send_success(&token, r#""first""#).await.unwrap();
    reaches(&site.api, &execution, "WaitStateEntered").await;
    let before = site.api.history(&execution).await.unwrap();

    refused(site.api.send_success(&token, r#""second""#).await, "TaskTimedOut");
    refused(site.api.send_failure(&token, Some("E"), None).await, "TaskTimedOut");
    refused(site.api.call("SendTaskHeartbeat", &json!({"taskToken": token})).await, "TaskTimedOut");
    // By message: what was said before is no news, what was not is a dead letter, and a heartbeat has nothing to lose.
    let callbacks = servers.queue("callbacks");
    for late in [json!({"output": "first"}), json!({"heartbeat": true}), json!({"error": "third"})] {
        let mut late = late;
        late["taskToken"] = token.as_str().into();
        let properties = BasicProperties::default().with_message_id("late".into());
        queues.publish(&callbacks, late.to_string().as_bytes(), properties).await;
    }
    let expired = letter(&site.api, Some(&callbacks)).await;
    assert_eq!((&expired["reason"], &expired["messageId"]), (&json!("expired"), &json!("late")));
    let body: Value = serde_json::from_str(expired["body"].as_str().unwrap()).unwrap();
    assert_eq!(body, json!({"taskToken": token, "error": "third"}));
    // Its queue is served in order: when this one is among the dead letters, those before were taken too.
    buried(&site.api, &queues, &callbacks, "the end", None, "not JSON").await;
    let left = site.api.own_pages("ListDeadLetters", json!({}), "deadLetters", 10).await.unwrap();
    assert_eq!(left, Vec::<Value>::new());
    assert_eq!(site.api.history(&execution).await.unwrap(), before);

    site.api.stop(&execution, None, None).await.unwrap();
    refused(site.api.send_success(&token, "1").await, "TaskTimedOut");
    queues.delete(&asks).await;
}
