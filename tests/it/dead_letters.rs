//! Dead letters: what an operator sees of messages that could not be used, and what becomes of them.

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};
use serde_json::{Value, json};
use stagepost_tests::{Servers, Site, until};

use crate::{PATIENCE, ended, letter, output, run};

/// What `stagepost dead-letters …` prints as JSON.
async fn cli(site: &Site, arguments: &[&str]) -> (Option<i32>, Value) {
    let output = site.cli(&[&["dead-letters"], arguments, &["--json"]].concat()).await;
    let printed = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| {
        panic!("{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    });
    (output.status.code(), printed)
}

/// Waits until so many letters are listed.
async fn listed(site: &Site, count: usize) -> Vec<Value> {
    until(&format!("{count} dead letters"), PATIENCE, async || {
        let (_, letters) = cli(site, &["list"]).await;
        let letters = letters.as_array().unwrap().clone();
        (letters.len() == count).then_some(letters)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_letters_are_listed_shown_requeued_and_discarded() {
    let Some(servers) = Servers::shared().await else { return };
    let site = Site::on(&servers);
    let _server = site.start().await;
    let mut queues = servers.queues().await;
    let callbacks = servers.queue("callbacks");
    let headers = FieldTable::from(std::collections::BTreeMap::from([
        ("tenant".into(), AMQPValue::LongInt(7)),
        ("since".into(), AMQPValue::Timestamp(17)),
    ]));
    let token = "A".repeat(54);
    let forged = json!({"taskToken": token, "output": 1}).to_string();
    let properties = BasicProperties::default().with_message_id("m-1".into()).with_headers(headers);
    queues.publish(&callbacks, forged.as_bytes(), properties.clone()).await;
    queues.publish(&callbacks, b"hello", BasicProperties::default()).await;
    queues.publish(&callbacks, b"\xff\xfeh\0i\0", BasicProperties::default()).await;
    let letters = listed(&site, 3).await;
    let reasons: Vec<_> = letters.iter().map(|letter| letter["reason"].as_str().unwrap()).collect();
    assert_eq!(reasons, ["not-json", "not-json", "invalid-token"]);
    assert!(letters.iter().all(|letter| letter["source"] == callbacks.as_str()), "{letters:?}");

    // A secret is shown when it is asked for.
    let id = letters[2]["deadLetterId"].as_str().unwrap();
    let (_, shown) = cli(&site, &["show", id]).await;
    assert!(!shown.to_string().contains(&token), "{shown}");
    assert_eq!(shown["headers"], json!({"tenant": 7, "since": 17}));
    let (_, shown) = cli(&site, &["show", id, "--reveal"]).await;
    assert_eq!((&shown["body"], &shown["properties"]["messageId"]), (&json!(forged), &json!("m-1")));
    let text = site.cli(&["dead-letters", "list", "--reason", "invalid-token"]).await;
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(text.contains(id) && text.contains("not of this installation"), "{text}");

    // To another queue, as it was.
    let elsewhere = format!("{}-elsewhere", servers.prefix);
    let (code, answer) = cli(&site, &["requeue", id, "--queue", &elsewhere]).await;
    assert_eq!((code, answer["requeued"].as_array().map(Vec::len)), (Some(3), Some(0)));
    assert!(answer["failures"][0]["message"].as_str().unwrap().contains("no queue"), "{answer}");
    queues.declare(&elsewhere).await;
    let (code, answer) = cli(&site, &["requeue", id, "--queue", &elsewhere]).await;
    assert_eq!((code, &answer), (Some(0), &json!({"requeued": [id], "failures": []})));
    let message = queues.taken(&elsewhere, PATIENCE).await;
    assert_eq!(message.body, forged.as_bytes());
    let found = message.properties.headers().as_ref().unwrap().inner();
    assert_eq!(found.keys().map(|name| name.as_str()).collect::<Vec<_>>(), ["since", "tenant"]);
    assert_eq!(message.properties.message_id(), properties.message_id());
    queues.delete(&elsewhere).await;

    // To where they came from: they are still no token messages, and become dead letters again, under new ids.
    let before = listed(&site, 2).await;
    let (_, answer) = cli(&site, &["requeue", "--all", "--source", &callbacks]).await;
    assert_eq!(answer["requeued"].as_array().unwrap().len(), 2);
    until("both are dead letters again", PATIENCE, async || {
        let (_, after) = cli(&site, &["list"]).await;
        let after = after.as_array().unwrap().clone();
        (after.len() == 2 && after.iter().all(|letter| !before.contains(letter))).then_some(())
    })
    .await;
    let (_, answer) = cli(&site, &["discard", "--all", "--reason", "not-json"]).await;
    assert_eq!(answer["discarded"].as_array().unwrap().len(), 2);
    listed(&site, 0).await;
}

/// Tokens that are signed as they should be, of tasks that there never were.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_to_unknown_tasks_are_dead_letters() {
    let Some(servers) = Servers::shared().await else { return };
    let site = Site::on(&servers);
    let _server = site.start().await;
    let mut queues = servers.queues().await;
    let (tasks, callbacks) = (servers.queue("activity.asked"), servers.queue("callbacks"));
    let definition = json!({"StartAt": "Ask", "States": {"Ask": {
        "Type": "Task", "Resource": "arn:aws:states:::activity:asked", "TimeoutSeconds": 600, "End": true}}});
    let machine = site.api.deploy("asks", &definition.to_string()).await.unwrap();
    let running = site.api.start(&machine, "{}", None).await.unwrap();
    let known = queues.taken(&tasks, PATIENCE).await.header("stagepost-task-token").unwrap();
    let key = servers.token_key().await;
    let (_, event_id) = key.verify(&known).expect("that is the installation's key");
    let nobodys = key.sign(machine.execution("nobody").id(), event_id);
    let not_yet = key.sign(running.id(), 1_000);

    let answer = |token: &str, what: &str| {
        let mut message = json!({"taskToken": token});
        message[what] = if what == "error" { "Denied".into() } else { true.into() };
        message.to_string()
    };
    let sent = [
        answer(nobodys.as_str(), "output"),
        answer(nobodys.as_str(), "error"),
        answer(not_yet.as_str(), "output"),
    ];
    // A heartbeat says nothing that could be lost.
    let ignored = async || site.metric("stagepost_coordinator_inputs_ignored").await.unwrap();
    let before = ignored().await;
    let heartbeat = answer(nobodys.as_str(), "heartbeat");
    queues.publish(&callbacks, heartbeat.as_bytes(), BasicProperties::default()).await;
    until("it is counted", PATIENCE, async || (ignored().await > before).then_some(())).await;
    for body in &sent {
        queues.publish(&callbacks, body.as_bytes(), BasicProperties::default()).await;
    }
    let letters = listed(&site, sent.len()).await;
    for letter in &letters {
        assert_eq!((&letter["reason"], &letter["source"]), (&json!("unknown-task"), &json!(callbacks)));
    }
    let text = site.cli(&["dead-letters", "list", "--reason", "unknown-task"]).await;
    let text = String::from_utf8(text.stdout).unwrap();
    assert_eq!(text.matches("there is no such task").count(), sent.len(), "{text}");
    let metric = r#"stagepost_coordinator_dead_letters{reason="unknown-task"}"#;
    assert_eq!(site.metric(metric).await, Some(3.0));
    for token in [&nobodys, &not_yet] {
        let refused = site.api.send_success(token.as_str(), "1").await.unwrap_err();
        assert!(refused.is("TaskDoesNotExist"), "{refused}");
    }

    // All of them, as they came; and the task that there is goes on.
    let mut bodies = Vec::new();
    for _ in &sent {
        bodies.push(letter(&site.api, Some(&callbacks)).await["body"].as_str().unwrap().to_owned());
    }
    bodies.sort_unstable();
    let mut sent = sent.to_vec();
    sent.sort_unstable();
    assert_eq!(bodies, sent);
    queues.publish(&callbacks, answer(&known, "output").as_bytes(), BasicProperties::default()).await;
    assert_eq!(output(&ended(&site.api, &running).await), true);
    queues.delete(&tasks).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_letters_of_the_broker_are_kept_and_those_beyond_the_limit_wait() {
    let Some(servers) = Servers::shared().await else { return };
    let site = Site::on(&servers);
    let _server = site.start_with(&["--dead-letters-max", "2"]).await;
    let queues = servers.queues().await;
    let dead_letters = servers.queue("dead-letters");
    // As RabbitMQ moves them there.
    let headers = FieldTable::from(std::collections::BTreeMap::from([
        ("x-first-death-queue".into(), AMQPValue::LongString("web".into())),
        ("x-first-death-reason".into(), AMQPValue::LongString("expired".into())),
    ]));
    for n in 0..40 {
        let properties = BasicProperties::default().with_headers(headers.clone());
        queues.publish(&dead_letters, n.to_string().as_bytes(), properties).await;
    }
    until("there are too many", PATIENCE, async || {
        let full = site.metric("stagepost_coordinator_dead_letters_full").await;
        (full == Some(1.0)).then_some(())
    })
    .await;
    let kept = site.metric("stagepost_coordinator_dead_letters_kept").await.unwrap() as u32;
    assert!((2..40).contains(&kept), "{kept} are kept");
    until("the others are in their queue", PATIENCE, async || {
        (queues.count(&dead_letters).await == 40 - kept).then_some(())
    })
    .await;
    // Each is taken when there is room for it, and none is lost.
    let mut bodies = Vec::new();
    while bodies.len() < 40 {
        let letter = letter(&site.api, Some("web")).await;
        assert!(letter["message"].as_str().unwrap().contains("expired"), "{letter}");
        bodies.push(letter["body"].as_str().unwrap().parse::<u32>().unwrap());
    }
    bodies.sort_unstable();
    assert_eq!(bodies, (0..40).collect::<Vec<_>>());
}

/// A task that lies twice, once among the dead letters: requeued, it is asked about, and nobody is given it again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_requeued_task_is_claimed() {
    let Some(servers) = Servers::shared().await else { return };
    let site = Site::on(&servers);
    let _server = site.start().await;
    let mut queues = servers.queues().await;
    let activity = site.api.call("CreateActivity", &json!({"name": "ask"})).await.unwrap();
    let poll = json!({"activityArn": activity["activityArn"]});
    let definition = json!({"StartAt": "Ask", "States": {"Ask": {
        "Type": "Task", "Resource": activity["activityArn"], "End": true
    }}});
    let machine = site.api.deploy("asks", &definition.to_string()).await.unwrap();
    let execution = site.api.start(&machine, "{}", None).await.unwrap();
    let queue = servers.queue("activity.ask");
    let task = queues.taken(&queue, PATIENCE).await;
    queues.publish(&queue, &task.body, task.properties.clone()).await;
    // As RabbitMQ moves it there.
    let mut headers = task.properties.headers().clone().unwrap();
    headers.insert("x-first-death-queue".into(), AMQPValue::LongString(queue.as_str().into()));
    let dead = task.properties.clone().with_headers(headers);
    queues.publish(&servers.queue("dead-letters"), &task.body, dead).await;
    let letters = listed(&site, 1).await;
    let id = letters[0]["deadLetterId"].as_str().unwrap();

    let begun = site.api.call("GetActivityTask", &poll).await.unwrap();
    let token = begun["taskToken"].as_str().expect("the task is there");
    let (_, answer) = cli(&site, &["requeue", id]).await;
    assert_eq!(answer, json!({"requeued": [id], "failures": []}));
    tokio::select! {
        again = site.api.call("GetActivityTask", &poll) => panic!("given out again: {again:?}"),
        () = until("the claim is answered", PATIENCE, async || {
            let dropped = site.metric("stagepost_coordinator_claims_dropped").await;
            (dropped == Some(1.0)).then_some(())
        }) => {}
    }
    site.api.send_success(token, "1").await.unwrap();
    assert_eq!(output(&ended(&site.api, &execution).await), 1);
}

/// An execution can send what it likes to a queue of ours.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_letters_outlive_the_embedded_default() {
    let site = Site::embedded();
    let mut server = site.start().await;
    let definition = json!({"StartAt": "Send", "States": {"Send": {
        "Type": "Task",
        "Resource": "arn:aws:states:::sqs:sendMessage",
        "Parameters": {"QueueUrl": "amqp:///stagepost.callbacks", "MessageBody": "hello"},
        "End": true
    }}});
    let ended = run(&site.api, "sends", &definition, &json!({})).await;
    assert_eq!(ended.status.as_str(), "SUCCEEDED");
    let before = listed(&site, 1).await;
    server.kill();
    let _server = site.start().await;
    assert_eq!(listed(&site, 1).await, before);
    let id = before[0]["deadLetterId"].as_str().unwrap();
    let (_, answer) = cli(&site, &["requeue", id]).await;
    assert_eq!(answer, json!({"requeued": [id], "failures": []}));
    let letter = letter(&site.api, Some("stagepost.callbacks")).await;
    assert_eq!((&letter["body"], &letter["reason"]), (&json!("hello"), &json!("not-json")));
    assert_ne!(letter["deadLetterId"], id);
}
