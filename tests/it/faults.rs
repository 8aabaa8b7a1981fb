//! kill -9 of everything, at random moments, while orders run: every order ends, with its one right result. And what is
//! no order and comes while a server is away.

use std::{collections::BTreeMap, time::Duration};

use lapin::BasicProperties;
use serde_json::{Value, json};
use stagepost_tests::{Process, Random, Servers, Service, Site, binaries::ORDER_FULFILMENT, orders, until};

use crate::{PATIENCE, ended, output};

/// How many orders run while things die.
const ORDERS: usize = 200;
/// How long they may take after the last fault.
const END_WITHIN: Duration = Duration::from_secs(90);

async fn deploy(site: &Site) {
    site.api.deploy(orders::MACHINE, &orders::definition()).await.unwrap();
}

/// Starts all orders while `faults` happen, and waits for their end.
async fn orders_survive<T>(site: &Site, faults: impl Future<Output = T>) -> T {
    let (left, ()) = tokio::join!(faults, orders::start(&site.api, 0..ORDERS));
    orders::all_end_right(&site.api, ORDERS, END_WITHIN).await;
    left
}

/// Kills the coordinator `times` times while orders are started and run.
async fn coordinator_dies(site: &Site, mut server: Process, times: usize) -> Process {
    let mut random = Random::seeded();
    for _ in 0..times {
        random.moment(50, 1500).await;
        server.kill();
        random.moment(0, 300).await;
        server = site.start().await;
    }
    server
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orders_survive_kill_9_of_the_coordinator_on_servers() {
    let Some(servers) = Servers::shared().await else { return };
    let site = Site::on(&servers);
    let (server, _worker) = (site.start().await, site.worker(ORDER_FULFILMENT));
    deploy(&site).await;
    orders_survive(&site, coordinator_dies(&site, server, 4)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orders_survive_kill_9_of_the_embedded_default() {
    let site = Site::embedded();
    let (server, _worker) = (site.start().await, site.worker(ORDER_FULFILMENT));
    deploy(&site).await;
    orders_survive(&site, coordinator_dies(&site, server, 4)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orders_survive_kill_9_of_their_worker() {
    let Some(servers) = Servers::shared().await else { return };
    let site = Site::on(&servers);
    let (_server, mut worker) = (site.start().await, site.worker(ORDER_FULFILMENT));
    deploy(&site).await;
    let faults = async {
        let mut random = Random::seeded();
        for _ in 0..4 {
            random.moment(50, 1500).await;
            worker.kill();
            worker = site.worker(ORDER_FULFILMENT);
        }
    };
    orders_survive(&site, faults).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_coordinator_takes_over_from_a_killed_one() {
    let Some(servers) = Servers::shared().await else { return };
    let site = Site::on(&servers);
    let mut first = site.start_with(&["--roles", "coordinator"]).await;
    let other = site.another();
    let (_second, _worker) = (other.start().await, site.worker(ORDER_FULFILMENT));
    deploy(&other).await;
    // Shards are shared out before it begins.
    until("each has some shards", PATIENCE, async || {
        let owned = async |site: &Site| site.metric("stagepost_coordinator_shards_owned").await;
        (owned(&site).await? == 2.0 && owned(&other).await? == 2.0).then_some(())
    })
    .await;
    let faults = async {
        Random::seeded().moment(300, 1500).await;
        first.kill();
    };
    orders_survive(&other, faults).await;
    assert_eq!(other.metric("stagepost_coordinator_shards_owned").await, Some(4.0));
}

/// Kills or hangs a server while orders are started and run.
async fn server_fails(service: Service, kills: usize) {
    let Some(servers) = Servers::own().await else { return };
    let site = Site::on(&servers);
    let (_server, _worker) = (site.start().await, site.worker(ORDER_FULFILMENT));
    deploy(&site).await;
    let faults = async {
        let mut random = Random::seeded();
        for _ in 0..kills {
            random.moment(500, 3000).await;
            servers.kill(service).await;
            random.moment(0, 2000).await;
            servers.restart(service).await;
        }
    };
    orders_survive(&site, faults).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orders_survive_kill_9_of_rabbitmq() {
    server_fails(Service::RabbitMq, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orders_survive_kill_9_of_postgresql() {
    server_fails(Service::Postgres, 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orders_survive_servers_that_hang() {
    let Some(servers) = Servers::own().await else { return };
    let site = Site::on(&servers);
    let (_server, _worker) = (site.start().await, site.worker(ORDER_FULFILMENT));
    deploy(&site).await;
    let faults = async {
        let mut random = Random::seeded();
        for service in [Service::Postgres, Service::RabbitMq] {
            random.moment(300, 1500).await;
            servers.pause(service).await;
            random.moment(3000, 8000).await;
            servers.resume(service).await;
        }
    };
    orders_survive(&site, faults).await;
}

/// Nonsense is sent before PostgreSQL is killed and while it is away: each message is kept once, with its reason, and
/// what is no nonsense does not wait behind it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_letters_wait_for_the_store() {
    /// Of each kind, before it is killed and after: then more than are on their way at a time.
    const BEFORE: usize = 20;
    const AFTER: usize = 70;

    let Some(servers) = Servers::own().await else { return };
    let site = Site::on(&servers);
    let _server = site.start().await;
    let mut queues = servers.queues().await;
    let callbacks = servers.queue("callbacks");
    let definition = json!({"StartAt": "Ask", "States": {"Ask": {
        "Type": "Task", "Resource": "arn:aws:states:::activity:asked", "TimeoutSeconds": 600, "End": true}}});
    let machine = site.api.deploy("asks", &definition.to_string()).await.unwrap();
    let running = site.api.start(&machine, "{}", None).await.unwrap();
    let task = queues.taken(&servers.queue("activity.asked"), PATIENCE).await;
    let token = task.header("stagepost-task-token").unwrap();
    let nobodys = servers.token_key().await.sign(machine.execution("nobody").id(), 5);

    let mut expected = BTreeMap::new();
    let mut batch = |numbers: std::ops::Range<usize>| {
        let mut sent = Vec::new();
        for n in numbers {
            let forged = "A".repeat(54);
            for (reason, body) in [
                ("not-json", format!("letter {n}")),
                ("malformed", json!({"taskToken": token, "letter": n}).to_string()),
                ("invalid-token", json!({"taskToken": forged, "output": n}).to_string()),
                ("unknown-task", json!({"taskToken": nobodys, "output": n}).to_string()),
            ] {
                expected.insert(body.clone(), reason.to_owned());
                sent.push(body);
            }
        }
        sent
    };
    for body in batch(0..BEFORE) {
        queues.publish(&callbacks, body.as_bytes(), BasicProperties::default()).await;
    }
    // Some are stored, and others on their way.
    let kept = async || site.metric("stagepost_coordinator_dead_letters_kept").await;
    until("the first is kept", PATIENCE, async || (kept().await? >= 1.0).then_some(())).await;
    servers.kill(Service::Postgres).await;
    for body in batch(BEFORE..BEFORE + AFTER) {
        queues.publish(&callbacks, body.as_bytes(), BasicProperties::default()).await;
    }
    let answer = json!({"taskToken": token, "output": "answered"}).to_string();
    queues.publish(&callbacks, answer.as_bytes(), BasicProperties::default()).await;
    until("none waits at the callbacks", PATIENCE, async || {
        (queues.count(&callbacks).await == 0).then_some(())
    })
    .await;
    servers.restart(Service::Postgres).await;

    assert_eq!(output(&ended(&site.api, &running).await), "answered");
    let mut listed = Vec::new();
    until("all are kept", PATIENCE, async || {
        let all = site.api.own_pages("ListDeadLetters", json!({}), "deadLetters", 1_000).await.ok()?;
        listed = all;
        (listed.len() >= expected.len()).then_some(())
    })
    .await;
    let mut found = BTreeMap::new();
    for letter in listed {
        let request = json!({"deadLetterId": letter["deadLetterId"], "reveal": true});
        let letter = site.api.call_own("DescribeDeadLetter", &request).await.unwrap();
        assert_eq!(letter["source"], Value::from(callbacks.as_str()));
        let text = |member: &str| letter[member].as_str().unwrap().to_owned();
        assert_eq!(found.insert(text("body"), text("reason")), None, "it is kept twice: {letter}");
    }
    assert_eq!(found, expected);
    // Nothing is left that would be kept once more.
    let dead_letters = servers.queue("dead-letters");
    for queue in [&callbacks, &dead_letters] {
        until("nothing is left", PATIENCE, async || (queues.count(queue).await == 0).then_some(())).await;
    }
}
