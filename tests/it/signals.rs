//! Signals: those that come early are kept through a crash, and each counts once.

use lapin::BasicProperties;
use serde_json::{Value, json};
use stagepost_protocol::ExecutionArn;
use stagepost_tests::{Servers, Site};

use crate::{ended, letter, output, reaches};

/// Waits for two signals of which the second is sent first.
fn definition() -> Value {
    let wait = |name: &str, more: Value| {
        let mut state = json!({"Type": "Task", "Resource": "arn:aws:states:::stagepost:waitForSignal",
            "Parameters": {"Name": name}, "ResultPath": format!("$.{name}"), "TimeoutSeconds": 600});
        state.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        state
    };
    let states = json!({
        "Go": wait("go", json!({"Next": "Approved"})),
        "Approved": wait("approved", json!({"Next": "Again"})),
        "Again": wait("approved", json!({"End": true, "ResultPath": "$.again"})),
    });
    json!({"StartAt": "Go", "States": states})
}

async fn started(site: &Site) -> ExecutionArn {
    let machine = site.api.deploy("approval", &definition().to_string()).await.unwrap();
    let execution = site.api.start(&machine, "{}", Some("one")).await.unwrap();
    reaches(&site.api, &execution, "TaskStarted").await;
    execution
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signals_by_api_and_command_line_survive_a_crash_of_the_embedded_default() {
    let site = Site::embedded();
    let mut server = site.start().await;
    let execution = started(&site).await;
    // The second is the first one once more.
    for _ in 0..2 {
        site.api.signal(&execution, "approved", r#"{"n": 1}"#, Some("a")).await.unwrap();
    }
    server.kill();
    let _server = site.start().await;
    site.api.signal(&execution, "approved", r#"{"n": 1}"#, Some("a")).await.unwrap();
    let sent = site.cli(&["signal", "approval:one", "go", "--input", r#"{"by": "ann"}"#]).await;
    assert!(sent.status.success(), "{}", String::from_utf8_lossy(&sent.stderr));
    site.api.signal(&execution, "approved", r#"{"n": 2}"#, None).await.unwrap();
    let ended = output(&ended(&site.api, &execution).await);
    assert_eq!(ended, json!({"go": {"by": "ann"}, "approved": {"n": 1}, "again": {"n": 2}}));

    let late = site.cli(&["signal", "approval:one", "go"]).await;
    assert_eq!(late.status.code(), Some(3));
    let told = String::from_utf8_lossy(&late.stderr).into_owned();
    assert!(told.contains("ExecutionNotRunning"), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signals_by_message_count_once_and_those_for_nobody_are_dead_letters() {
    let Some(servers) = Servers::shared().await else { return };
    let queues = servers.queues().await;
    let site = Site::on(&servers);
    let mut server = site.start().await;
    let execution = started(&site).await;
    let signals = servers.queue("signals");
    let message = |execution: &str, name: &str, n: u64| {
        json!({"executionArn": execution, "signalName": name, "input": {"n": n}}).to_string().into_bytes()
    };
    let named = |id: &str| BasicProperties::default().with_message_id(id.into());
    let arn = execution.to_string();
    // The same message twice, once before and once after the crash.
    queues.publish(&signals, &message(&arn, "approved", 1), named("m-1")).await;
    server.kill();
    queues.publish(&signals, &message(&arn, "approved", 1), named("m-1")).await;
    let _server = site.start().await;
    queues.publish(&signals, &message(&arn, "go", 0), named("m-0")).await;
    queues.publish(&signals, &message(&arn, "approved", 2), named("m-2")).await;
    let ended = output(&ended(&site.api, &execution).await);
    assert_eq!(ended, json!({"go": {"n": 0}, "approved": {"n": 1}, "again": {"n": 2}}));

    let nobody = arn.replace(":one", ":two");
    for (body, reason) in [
        (message(&arn, "go", 3), "the execution has ended"),
        (message(&nobody, "go", 3), "there is no such execution"),
        (b"<signal/>".to_vec(), "its body is not a signal"),
    ] {
        queues.publish(&signals, &body, named("m-3")).await;
        let letter = letter(&site.api, None).await;
        assert!(letter["message"].as_str().unwrap().contains(reason), "{letter}");
    }
}
