//! Ending in order, beginning again, and a broker that forgot everything.

use std::time::Duration;

use serde_json::{Value, json};
use stagepost_tests::{
    Servers, Site,
    binaries::{ORDER_FULFILMENT, TEST_WORKER},
    orders, until,
};

use crate::{PATIENCE, ended, output, reaches};

const ORDERS: usize = 60;

/// Ends server and worker by SIGTERM while orders run, starts both again: every order ends.
async fn orders_go_on(site: &Site) {
    let (mut server, mut worker) = (site.start().await, site.worker(ORDER_FULFILMENT));
    site.api.deploy(orders::MACHINE, &orders::definition()).await.unwrap();
    orders::start(&site.api, 0..ORDERS).await;
    worker.terminated(PATIENCE).await;
    server.terminated(PATIENCE).await;
    let (_server, _worker) = (site.start().await, site.worker(ORDER_FULFILMENT));
    orders::all_end_right(&site.api, ORDERS, PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_in_the_midst_of_orders_loses_nothing_on_servers() {
    let Some(servers) = Servers::shared().await else { return };
    orders_go_on(&Site::on(&servers)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_in_the_midst_of_orders_loses_nothing_embedded() {
    orders_go_on(&Site::embedded()).await;
}

/// A worker that is told to end lets its running attempt end and reports it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_ends_completes_what_it_has_begun() {
    let Some(servers) = Servers::shared().await else { return };
    let site = Site::on(&servers);
    let (_server, mut worker) = (site.start().await, site.worker(TEST_WORKER));
    let definition = json!({"StartAt": "Sleep", "States": {"Sleep": {
        "Type": "Task", "Resource": "arn:aws:states:::activity:sleeps", "TimeoutSeconds": 60, "End": true}}});
    let machine = site.api.deploy("sleeps", &definition.to_string()).await.unwrap();
    let execution = site.api.start(&machine, "2500", None).await.unwrap();
    // It is announced after a second, and then runs on for more than one.
    reaches(&site.api, &execution, "ActivityStarted").await;
    worker.terminated(PATIENCE).await;
    let ended = ended(&site.api, &execution).await;
    assert_eq!(output(&ended), json!(1));
    let events = site.api.history(&execution).await.unwrap();
    let attempts = events.iter().filter(|event| event.kind == "ActivityScheduled").count();
    assert_eq!(attempts, 1);
}

/// Timers whose time came while everything was down fire after the start; later ones at their time.
async fn waits_go_on(site: &Site) {
    let definition = json!({"StartAt": "Wait", "States": {
        "Wait": {"Type": "Wait", "SecondsPath": "$.seconds", "Next": "Done"},
        "Done": {"Type": "Succeed"}
    }});
    let mut server = site.start().await;
    let machine = site.api.deploy("waits", &definition.to_string()).await.unwrap();
    let mut executions = Vec::new();
    for seconds in [1, 4] {
        let execution =
            site.api.start(&machine, &json!({"seconds": seconds}).to_string(), None).await.unwrap();
        reaches(&site.api, &execution, "WaitStateEntered").await;
        executions.push((execution, seconds));
    }
    server.terminated(PATIENCE).await;
    // The first is due while nothing runs.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let _server = site.start().await;
    for (execution, seconds) in executions {
        let ended = ended(&site.api, &execution).await;
        assert_eq!(ended.status.as_str(), "SUCCEEDED");
        let took = ended.stopped_at.unwrap().millis_since(ended.started_at);
        assert!(took >= seconds * 1000, "a wait of {seconds} s took {took} ms");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waits_go_on_after_a_restart_on_servers() {
    let Some(servers) = Servers::shared().await else { return };
    waits_go_on(&Site::on(&servers)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waits_go_on_after_a_restart_embedded() {
    waits_go_on(&Site::embedded()).await;
}

/// All queues are deleted while orders are under way and nothing runs; `recover` brings every order to its end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn recover_brings_back_what_the_broker_lost() {
    let Some(servers) = Servers::shared().await else { return };
    let site = Site::on(&servers);
    let mut server = site.start().await;
    site.api.deploy(orders::MACHINE, &orders::definition()).await.unwrap();
    // No worker: each order has a task on a queue.
    orders::start(&site.api, 0..ORDERS).await;
    let tasks = servers.queue("activity.check_stock");
    let queues = servers.queues().await;
    until("all tasks are queued", PATIENCE, async || (queues.count(&tasks).await >= 60).then_some(())).await;
    server.kill();
    for queue in servers.own_queues().into_iter().chain([tasks.clone()]) {
        queues.delete(&queue).await;
    }

    let recovered = site.cli(&["recover", "--json"]).await;
    let said = String::from_utf8_lossy(&recovered.stdout);
    assert!(recovered.status.success(), "{said}{}", String::from_utf8_lossy(&recovered.stderr));
    let counts: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(counts, json!({"executions": ORDERS, "messages": ORDERS, "broken": 0}));
    assert_eq!(queues.count(&tasks).await, 60);
    let (_server, _worker) = (site.start().await, site.worker(ORDER_FULFILMENT));
    orders::all_end_right(&site.api, ORDERS, PATIENCE).await;
}

/// Queues that vanish under running processes are declared again, and `recover` may run beside them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn recover_works_beside_a_running_installation() {
    let Some(servers) = Servers::shared().await else { return };
    let site = Site::on(&servers);
    let (_server, worker) = (site.start().await, site.worker(ORDER_FULFILMENT));
    site.api.deploy(orders::MACHINE, &orders::definition()).await.unwrap();
    orders::start(&site.api, 0..1).await;
    orders::all_end_right(&site.api, 1, PATIENCE).await;
    worker.signal("STOP");
    orders::start(&site.api, 1..ORDERS).await;
    let queues = servers.queues().await;
    for queue in servers.own_queues().into_iter().chain([servers.queue("activity.check_stock")]) {
        queues.delete(&queue).await;
    }
    worker.signal("CONT");
    let recovered = site.cli(&["recover"]).await;
    assert!(recovered.status.success(), "{}", String::from_utf8_lossy(&recovered.stderr));
    orders::all_end_right(&site.api, ORDERS, PATIENCE).await;
}
