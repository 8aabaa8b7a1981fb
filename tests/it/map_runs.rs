//! Map Runs on RabbitMQ and PostgreSQL: what a redrive runs again, and what it does not.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
};

use serde_json::{Value, json};
use stagepost::{Failure, State, Worker, activities, activity};
use stagepost_tests::{Servers, Site};
use tokio::sync::oneshot;

use crate::{ended, output};

const ITEMS: u64 = 30;

/// The other side of the children.
#[derive(Default)]
struct Gate {
    open: AtomicBool,
    /// How often each item has come.
    seen: Mutex<BTreeMap<u64, u32>>,
}

/// Whether an item fails until the gate is open: each third one, and the last of all.
fn is_held(n: u64) -> bool {
    n % 3 == 2
}

/// Lets all items pass but those.
#[activity]
async fn pass_gate(gate: State<Gate>, n: u64) -> Result<u64, Failure> {
    *gate.seen.lock().unwrap().entry(n).or_default() += 1;
    if is_held(n) && !gate.open.load(SeqCst) {
        return Err(Failure::new("Gate.Closed", format!("item {n}")));
    }
    Ok(n * n)
}

fn definition() -> Value {
    json!({"StartAt": "Items", "States": {
        "Items": {
            "Type": "Map",
            "Label": "Items",
            // One after the other, and the last failure is one too many: all others have ended then.
            "MaxConcurrency": 1,
            "ToleratedFailureCount": ITEMS / 3 - 1,
            "ItemProcessor": {
                "ProcessorConfig": {"Mode": "DISTRIBUTED", "ExecutionType": "STANDARD"},
                "StartAt": "Before",
                "States": {
                    "Before": {"Type": "Pass", "Next": "Gate"},
                    "Gate": {
                        "Type": "Task", "Resource": "arn:aws:states:::activity:pass_gate",
                        "TimeoutSeconds": 60, "End": true
                    }
                }
            },
            "Next": "Done"
        },
        "Done": {"Type": "Pass", "End": true}
    }})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redrive_runs_the_failed_children_and_no_others() {
    let Some(servers) = Servers::shared().await else { return };
    let site = Site::on(&servers);
    let _server = site.start().await;
    let gate = Arc::new(Gate::default());
    let (stop, stopped) = oneshot::channel::<()>();
    let worker = Worker::connect(servers.amqp_url.clone())
        .queue_prefix(servers.prefix.clone())
        .shared_state(gate.clone())
        .register(activities![pass_gate]);
    let worker = tokio::spawn(worker.run_until(async {
        // Also when the test has failed.
        let _ = stopped.await;
    }));

    let machine = site.api.deploy("gates", &definition().to_string()).await.unwrap();
    let items: Vec<u64> = (0..ITEMS).collect();
    let execution = site.api.start(&machine, &json!(items).to_string(), None).await.unwrap();
    let failed = ended(&site.api, &execution).await;
    let threshold = "States.ExceedToleratedFailureThreshold";
    assert_eq!((failed.status.as_str(), failed.error.as_deref()), ("FAILED", Some(threshold)), "{failed:#?}");
    let runs = site.api.call("ListMapRuns", &json!({"executionArn": execution})).await.unwrap();
    let [run] = runs["mapRuns"].as_array().unwrap().as_slice() else { panic!("{runs}") };
    let of_run = json!({"mapRunArn": run["mapRunArn"]});
    let before = site.api.call("DescribeMapRun", &of_run).await.unwrap();
    assert_eq!((&before["status"], &before["redriveCount"]), (&json!("FAILED"), &json!(0)), "{before}");
    let counts = |run: &Value, name: &str| run["executionCounts"][name].as_u64().unwrap();
    assert_eq!((counts(&before, "succeeded"), counts(&before, "failed")), (20, 10), "{before}");

    gate.open.store(true, SeqCst);
    let request = json!({"executionArn": execution, "clientToken": "again"});
    let answer = site.api.call("RedriveExecution", &request).await.unwrap();
    assert!(answer["redriveDate"].is_number(), "{answer}");
    let squares: Vec<u64> = items.iter().map(|n| n * n).collect();
    assert_eq!(output(&ended(&site.api, &execution).await), json!(squares));

    let seen = gate.seen.lock().unwrap().clone();
    let expected = items.iter().map(|n| (*n, if is_held(*n) { 2 } else { 1 })).collect();
    assert_eq!(seen, expected, "each item as often as it has come");
    let after = site.api.call("DescribeMapRun", &of_run).await.unwrap();
    assert_eq!((&after["status"], &after["redriveCount"]), (&json!("SUCCEEDED"), &json!(1)), "{after}");
    assert!(after["redriveDate"].is_number(), "{after}");
    assert_eq!((counts(&after, "succeeded"), counts(&after, "total")), (ITEMS, ITEMS), "{after}");
    let children = site.api.pages("ListExecutions", of_run, "executions", 100).await.unwrap();
    let redriven = children.iter().filter(|child| child["redriveCount"] == 1).count();
    assert_eq!((children.len(), redriven), (30, 10), "{children:#?}");

    let events = site.api.history(&execution).await.unwrap();
    let of_map: Vec<&str> =
        events.iter().map(|event| event.kind.as_str()).filter(|kind| kind.starts_with("MapRun")).collect();
    assert_eq!(of_map, ["MapRunStarted", "MapRunFailed", "MapRunRedriven", "MapRunSucceeded"]);
    let redriven = events.iter().find(|event| event.kind == "MapRunRedriven").unwrap();
    assert_eq!(redriven.details["redriveCount"], 1, "{redriven:?}");
    assert_eq!(redriven.details["mapRunArn"], run["mapRunArn"], "{redriven:?}");

    // Repeated, the request is the same one; anew, it is refused.
    let repeated = site.api.call("RedriveExecution", &request).await.unwrap();
    assert_eq!(repeated, answer);
    let refused = site.api.redrive(&execution).await.unwrap_err();
    assert!(refused.is("ExecutionNotRedrivable"), "{refused}");
    // The worker may have ended by itself, which it then says.
    let _ = stop.send(());
    worker.await.unwrap().unwrap();
    servers.queues().await.delete(&servers.queue("activity.pass_gate")).await;
}
