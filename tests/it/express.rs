//! Express executions: in memory, and yet run again when their process dies.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use stagepost_protocol::StateMachineArn;
use stagepost_server::CallError;
use stagepost_tests::{Random, Servers, Site, binaries::TEST_WORKER, until};

use crate::PATIENCE;

/// How many executions run while coordinators die.
const EXECUTIONS: u64 = 60;

async fn deploy(site: &Site, name: &str, states: Value) -> StateMachineArn {
    let definition = json!({"StartAt": "First", "States": states}).to_string();
    let deployed = site.api.deploy_with(name, &definition, None, Some("EXPRESS")).await;
    deployed.unwrap().0
}

/// Executions of both kinds run with a worker; of neither there is anything to ask for.
async fn both_kinds_run(site: &Site) {
    let (_server, _worker) = (site.start().await, site.worker(TEST_WORKER));
    let retry = json!([{"ErrorEquals": ["Test.Flaky"], "IntervalSeconds": 1, "MaxAttempts": 3}]);
    let machine = deploy(
        site,
        "both",
        json!({
            "First": {"Type": "Task", "Resource": "arn:aws:states:::activity:fails_first", "Retry": retry,
                "InputPath": "$.times", "ResultPath": "$.attempt", "Next": "Second"},
            "Second": {"Type": "Task", "Resource": "arn:aws:states:::activity:echo", "OutputPath": "$.input", "End": true},
        }),
    )
    .await;
    let ended = site.api.run_express(&machine, r#"{"times": 1}"#, Some("one")).await.unwrap();
    assert_eq!(ended.status.as_str(), "SUCCEEDED", "{ended:#?}");
    let output: Value = serde_json::from_str(ended.output.as_deref().unwrap()).unwrap();
    assert_eq!(output, json!({"times": 1, "attempt": 2}));
    let ended = site.api.run_express(&machine, r#"{"times": 9}"#, Some("one")).await.unwrap();
    assert_eq!((ended.status.as_str(), ended.error.as_deref()), ("FAILED", Some("Test.Flaky")));

    let started = site.api.start(&machine, r#"{"times": 0}"#, Some("one")).await.unwrap();
    assert!(started.is_express(), "{started}");
    until("the asynchronous execution has ended", PATIENCE, async || {
        (site.metric("stagepost_coordinator_express_ended").await? == 3.0).then_some(())
    })
    .await;
    let refused = site.api.describe(&started).await.unwrap_err();
    assert!(refused.is("InvalidArn"), "{refused}");
    let list = site.api.call("ListExecutions", &json!({"stateMachineArn": machine})).await;
    assert!(list.unwrap_err().is("StateMachineTypeNotSupported"));
    assert_eq!(site.metric("stagepost_coordinator_executions_started").await, Some(0.0));

    // The command line runs it to its end.
    let run = site.cli(&["start", "both", "--input", r#"{"times": 0}"#, "--wait"]).await;
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let output: Value = serde_json::from_slice(&run.stdout).unwrap();
    assert_eq!(output, json!({"times": 0, "attempt": 1}));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn express_executions_run_on_servers() {
    let Some(servers) = Servers::shared().await else { return };
    both_kinds_run(&Site::on(&servers)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn express_executions_run_embedded() {
    both_kinds_run(&Site::embedded()).await;
}

/// Each started execution has come to its end at least once, although coordinators were killed meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn asynchronous_express_executions_survive_kill_9_of_the_coordinator() {
    let Some(servers) = Servers::shared().await else { return };
    let mut queues = servers.queues().await;
    let told = format!("{}-told", servers.prefix);
    queues.declare(&told).await;
    let site = Site::on(&servers);
    let (mut server, _worker) = (site.start().await, site.worker(TEST_WORKER));
    let machine = deploy(
        &site,
        "survivors",
        json!({
            "First": {"Type": "Task", "Resource": "arn:aws:states:::activity:sleeps", "InputPath": "$.millis",
                "ResultPath": null, "Next": "Wait"},
            "Wait": {"Type": "Wait", "Seconds": 1, "Next": "Tell"},
            "Tell": {"Type": "Task", "Resource": "arn:aws:states:::sqs:sendMessage", "End": true,
                "Parameters": {"QueueUrl": format!("amqp:///{told}"), "MessageBody.$": "$.n"}},
        }),
    )
    .await;
    let starts = async {
        for n in 0..EXECUTIONS {
            let input = json!({"n": n, "millis": 100 + n * 10}).to_string();
            until(&format!("execution {n} is started"), PATIENCE, async || {
                match site.api.start(&machine, &input, None).await {
                    Ok(_) => Some(()),
                    Err(CallError::Unreachable { .. } | CallError::Trouble { .. }) => None,
                    Err(error) => panic!("execution {n} is refused: {error}"),
                }
            })
            .await;
        }
    };
    let faults = async {
        let mut random = Random::seeded();
        for _ in 0..3 {
            random.moment(300, 1500).await;
            server.kill();
            server = site.start().await;
        }
    };
    tokio::join!(starts, faults);
    let mut ended = BTreeSet::new();
    while ended.len() < EXECUTIONS as usize {
        ended.insert(queues.taken(&told, PATIENCE).await.json().as_u64().unwrap());
    }
    assert_eq!(ended, (0..EXECUTIONS).collect());
    until("all starts are settled", PATIENCE, async || {
        let running = site.metric("stagepost_coordinator_express_running").await? > 0.0;
        (!running && queues.count(&servers.queue("express")).await == 0).then_some(())
    })
    .await;
    queues.delete(&told).await;
}
