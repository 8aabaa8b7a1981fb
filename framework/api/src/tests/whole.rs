//! The API over a real coordinator, the embedded store and the broker in process.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{body::Body, http::Request};
use serde_json::{Value, json};
use stagepost_broker::{Broker, in_process::InProcessBroker};
use stagepost_coordinator::{Client, Coordinator, Options, Parts, installation_token_key};
use stagepost_store::sqlite::{self, SqliteStore};

use super::{ROLE, Server, memory::Memory};
use crate::{Api, router};

pub(super) struct Whole {
    pub(super) server: Server,
    pub(super) coordinator: Coordinator,
}

pub(super) async fn whole() -> Whole {
    let store = SqliteStore::open(":memory:", &sqlite::Options::default()).unwrap();
    let broker = InProcessBroker::new();
    let token_key = installation_token_key(&*store).await.unwrap();
    let options = Options::default();
    let (topology, shards) = (options.topology.clone(), options.shards);
    let parts = Parts { store: store.clone(), broker: broker.clone() };
    let coordinator = Coordinator::start(parts, options, token_key.clone()).await.unwrap();
    let client = Client::connect(broker.clone(), topology, shards, token_key).await.unwrap();
    let options = crate::Options { activity_poll: Duration::from_secs(10), ..crate::Options::default() };
    let api = Arc::new(Api::new(store, client, coordinator.runner(), broker.health(), options));
    let (health, _) = tokio::sync::watch::channel(stagepost_broker::Health::Up);
    let server =
        Server { memory: Arc::new(Memory::default()), router: router(api.clone()), api, broker: health };
    Whole { server, coordinator }
}

pub(super) async fn ended(s: &Server, arn: &Value) -> Value {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let described = s.ok("DescribeExecution", json!({ "executionArn": arn })).await;
        if described["status"] != "RUNNING" {
            return described;
        }
        assert!(Instant::now() < deadline, "{arn} did not end");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn types(history: &Value) -> Vec<&str> {
    history["events"].as_array().unwrap().iter().map(|e| e["type"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_activity_runs_from_definition_to_history() {
    let Whole { server: s, coordinator } = whole().await;
    let activity = s.activity("charge").await;
    let definition = json!({
        "StartAt": "T",
        "States": { "T": { "Type": "Task", "Resource": activity, "HeartbeatSeconds": 60, "End": true } }
    });
    let create = json!({ "name": "m", "definition": definition.to_string(), "roleArn": ROLE });
    let machine = s.ok("CreateStateMachine", create).await["stateMachineArn"].clone();
    let start = json!({ "stateMachineArn": machine, "name": "one", "input": "{\"n\":7}" });
    let started = s.ok("StartExecution", start.clone()).await;
    assert_eq!(s.ok("StartExecution", start.clone()).await, started);
    let execution = started["executionArn"].clone();

    let poll = json!({ "activityArn": activity, "workerName": "worker-1" });
    let task = s.ok("GetActivityTask", poll).await;
    assert_eq!(task["input"], "{\"n\":7}");
    let token = task["taskToken"].clone();
    s.ok("SendTaskHeartbeat", json!({ "taskToken": token })).await;
    s.ok("SendTaskSuccess", json!({ "taskToken": token, "output": "{\"done\":[1,2]}" })).await;
    let described = ended(&s, &execution).await;
    assert_eq!(
        (&described["status"], &described["output"]),
        (&json!("SUCCEEDED"), &json!("{\"done\":[1,2]}"))
    );
    // The first result wins; what comes later is told so.
    assert_eq!(s.code("SendTaskSuccess", json!({ "taskToken": token, "output": "1" })).await, "TaskTimedOut");
    assert_eq!(s.code("SendTaskHeartbeat", json!({ "taskToken": "made-up" })).await, "InvalidToken");
    assert_eq!(s.code("StartExecution", start).await, "ExecutionAlreadyExists");

    let expected = [
        "ExecutionStarted",
        "TaskStateEntered",
        "ActivityScheduled",
        "ActivityStarted",
        "ActivitySucceeded",
        "TaskStateExited",
        "ExecutionSucceeded",
    ];
    let history = s.ok("GetExecutionHistory", json!({ "executionArn": execution })).await;
    assert_eq!(types(&history), expected);
    assert!(history.get("nextToken").is_none());
    assert_eq!(history["events"][3]["activityStartedEventDetails"]["workerName"], "worker-1");
    let bare = json!({ "executionArn": execution, "includeExecutionData": false });
    let bare = s.ok("GetExecutionHistory", bare).await;
    assert!(bare["events"][0]["executionStartedEventDetails"].get("input").is_none());

    let query = json!({ "executionArn": execution, "maxResults": 3 });
    let (sizes, ids) = s.pages("GetExecutionHistory", "events", "id", query).await;
    assert_eq!((sizes, ids), (vec![3, 3, 1], (1..=7).map(Value::from).collect()));
    let query = json!({ "executionArn": execution, "maxResults": 4, "reverseOrder": true });
    let (sizes, ids) = s.pages("GetExecutionHistory", "events", "id", query).await;
    assert_eq!((sizes, ids), (vec![4, 3], (1..=7).rev().map(Value::from).collect()));
    coordinator.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn executions_are_stopped_and_listed_by_pages() {
    let Whole { server: s, coordinator } = whole().await;
    let definition = r#"{"StartAt":"W","States":{"W":{"Type":"Wait","Seconds":600,"End":true}}}"#;
    let create = json!({ "name": "m", "definition": definition, "roleArn": ROLE });
    let machine = s.ok("CreateStateMachine", create).await["stateMachineArn"].clone();
    let mut started = Vec::new();
    for i in 0..5 {
        let start = json!({ "stateMachineArn": machine, "name": format!("e{i}") });
        started.push(s.ok("StartExecution", start).await["executionArn"].clone());
    }
    let query = json!({ "stateMachineArn": machine, "maxResults": 2, "statusFilter": "RUNNING" });
    let (sizes, mut arns) = s.pages("ListExecutions", "executions", "executionArn", query).await;
    arns.sort_by_key(Value::to_string);
    assert_eq!((sizes, &arns), (vec![2, 2, 1], &started));

    let stop = json!({ "executionArn": started[0], "error": "Why", "cause": "because" });
    let stopped = s.ok("StopExecution", stop.clone()).await;
    let described = ended(&s, &started[0]).await;
    for (name, value) in [("status", "ABORTED"), ("error", "Why"), ("cause", "because")] {
        assert_eq!(described[name], value, "{name}");
    }
    assert_eq!(described["stopDate"], stopped["stopDate"]);
    assert_eq!(s.ok("StopExecution", stop).await, stopped);
    let history = s.ok("GetExecutionHistory", json!({ "executionArn": started[0] })).await;
    assert_eq!(types(&history), ["ExecutionStarted", "WaitStateEntered", "ExecutionAborted"]);
    coordinator.shutdown().await;
}

/// A worker that closes its connection while it waits leaves no consumer behind that would take the next task.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_poller_that_went_away_takes_no_task() {
    let Whole { server: s, coordinator } = whole().await;
    let activity = s.activity("a").await;
    let definition = json!({
        "StartAt": "T", "States": { "T": { "Type": "Task", "Resource": activity, "End": true } }
    });
    let create = json!({ "name": "m", "definition": definition.to_string(), "roleArn": ROLE });
    let machine = s.ok("CreateStateMachine", create).await["stateMachineArn"].clone();
    let poll = json!({ "activityArn": activity });
    for _ in 0..3 {
        let waiting = s.call("GetActivityTask", poll.clone());
        // Dropped by the timeout, as hyper drops the handler of a connection that closed.
        let gone = tokio::time::timeout(Duration::from_millis(100), waiting).await;
        assert!(gone.is_err(), "there was a task: {gone:?}");
    }
    s.ok("StartExecution", json!({ "stateMachineArn": machine, "input": "5" })).await;
    let task = s.ok("GetActivityTask", poll).await;
    assert_eq!(task["input"], "5");
    coordinator.shutdown().await;
}

/// A worker that polls learns which try of which step it is given, and that two tries are of one step.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_polled_retry_is_the_second_attempt_of_its_step() {
    let Whole { server: s, coordinator } = whole().await;
    let activity = s.activity("a").await;
    let retry = json!([{ "ErrorEquals": ["States.ALL"], "IntervalSeconds": 1, "MaxAttempts": 1 }]);
    let state = json!({
        "Type": "Task", "Resource": activity, "Retry": retry, "TimeoutSeconds": 60, "HeartbeatSeconds": 30, "End": true
    });
    let definition = json!({ "StartAt": "Prüfen 1", "States": { "Prüfen 1": state } });
    let create = json!({ "name": "m", "definition": definition.to_string(), "roleArn": ROLE });
    let machine = s.ok("CreateStateMachine", create).await["stateMachineArn"].clone();
    let started = s.ok("StartExecution", json!({ "stateMachineArn": machine })).await;

    let mut keys = Vec::new();
    for attempt in ["1", "2"] {
        let poll = Request::post("/")
            .header("X-Amz-Target", "AWSStepFunctions.GetActivityTask")
            .body(Body::from(json!({ "activityArn": activity }).to_string()))
            .unwrap();
        let (_, headers, body) = s.send(poll).await;
        assert_eq!(headers["stagepost-attempt"], attempt);
        assert_eq!(headers["stagepost-state"], "Pr%C3%BCfen%201");
        assert_eq!(headers["stagepost-execution"], started["executionArn"].as_str().unwrap());
        assert_eq!(headers["stagepost-heartbeat"], "30000");
        assert!(headers.contains_key("stagepost-deadline"));
        keys.push(headers["stagepost-idempotency-key"].clone());
        let task: Value = serde_json::from_str(&body).unwrap();
        s.ok("SendTaskFailure", json!({ "taskToken": task["taskToken"], "error": "E" })).await;
    }
    assert_eq!(keys[0], keys[1]);
    assert_eq!(ended(&s, &started["executionArn"]).await["status"], "FAILED");
    coordinator.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_express_execution_is_worked_on_by_pollers() {
    let Whole { server: s, coordinator } = whole().await;
    let activity = s.activity("a").await;
    let definition = json!({
        "StartAt": "T",
        "States": { "T": { "Type": "Task", "Resource": activity, "HeartbeatSeconds": 60, "End": true } }
    });
    let create =
        json!({ "name": "m", "definition": definition.to_string(), "roleArn": ROLE, "type": "EXPRESS" });
    let machine = s.ok("CreateStateMachine", create).await["stateMachineArn"].clone();
    let start = json!({ "stateMachineArn": machine, "name": "one", "input": "{\"n\":7}" });
    let work = async {
        let task = s.ok("GetActivityTask", json!({ "activityArn": activity })).await;
        assert_eq!(task["input"], "{\"n\":7}");
        let token = task["taskToken"].clone();
        s.ok("SendTaskHeartbeat", json!({ "taskToken": token })).await;
        s.ok("SendTaskSuccess", json!({ "taskToken": token, "output": "8" })).await;
        token
    };
    let (answer, token) = tokio::join!(s.ok("StartSyncExecution", start.clone()), work);
    assert_eq!((&answer["status"], &answer["output"]), (&json!("SUCCEEDED"), &json!("8")));
    assert_eq!(s.code("SendTaskSuccess", json!({ "taskToken": token, "output": "1" })).await, "TaskTimedOut");

    let work = async {
        let task = s.ok("GetActivityTask", json!({ "activityArn": activity })).await;
        let failure = json!({ "taskToken": task["taskToken"], "error": "E", "cause": "c" });
        s.ok("SendTaskFailure", failure).await;
    };
    let (started, ()) = tokio::join!(s.ok("StartExecution", start), work);
    assert!(started["executionArn"].as_str().unwrap().contains(":express:m:one:"));
    // It has ended when its message is settled.
    coordinator.shutdown().await;
}
