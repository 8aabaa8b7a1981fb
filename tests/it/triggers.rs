//! Triggers: what existing producers send starts executions.

use lapin::{BasicProperties, ExchangeKind};
use serde_json::{Value, json};
use stagepost_server::ApiClient;
use stagepost_tests::{Servers, Site, Sqs, until};

use crate::{PATIENCE, ended, run};

const PASS: &str = r#"{"StartAt": "Done", "States": {"Done": {"Type": "Pass", "End": true}}}"#;

/// The names of the executions of `orders`, sorted.
async fn executions(api: &ApiClient) -> Vec<String> {
    let machine = api.state_machine_arn("orders").unwrap();
    let request = json!({"stateMachineArn": machine});
    let Ok(executions) = api.pages("ListExecutions", request, "executions", 1000).await else {
        return Vec::new();
    };
    let mut names: Vec<String> =
        executions.iter().map(|execution| execution["name"].as_str().unwrap().to_owned()).collect();
    names.sort_unstable();
    names
}

async fn starts(api: &ApiClient, name: &str) {
    until(&format!("{name} is started"), PATIENCE, async || {
        executions(api).await.contains(&name.to_owned()).then_some(())
    })
    .await;
}

/// The reasons and sources of the dead letters, once there are so many.
async fn dead_letters(api: &ApiClient, count: usize) -> Vec<Value> {
    until(&format!("{count} dead letters"), PATIENCE, async || {
        let letters = api.own_pages("ListDeadLetters", json!({}), "deadLetters", 100).await.ok()?;
        (letters.len() >= count).then_some(letters)
    })
    .await
}

/// Waits until a sample of the metrics has a value.
async fn measures(site: &Site, sample: &str, value: u64) {
    let line = format!("{sample} {value}");
    until(&line, PATIENCE, async || {
        let metrics = site.get("/metrics").await?;
        metrics.lines().any(|l| l.trim_end() == line).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_message_of_a_foreign_queue_starts_one_execution() {
    let Some(servers) = Servers::shared().await else { return };
    let queues = servers.queues().await;
    let web = format!("{}-web-orders", servers.prefix);
    // It is the producer's: a classic queue, although ours are quorum queues.
    queues.declare(&web).await;
    let site = Site::on(&servers);
    let trigger = format!("{web}=orders");
    let _server = site.start_with(&["--trigger", &trigger]).await;
    let machine = site.api.deploy("orders", PASS).await.unwrap();

    let named = |id: &str| BasicProperties::default().with_message_id(id.into());
    queues.publish(&web, br#"{"order": 1}"#, named("order-1")).await;
    queues.publish(&web, br#"{"order": 2}"#, named("order-2")).await;
    // The same message once more, and once more with another body: its id was used.
    queues.publish(&web, br#"{"order": 1}"#, named("order-1")).await;
    queues.publish(&web, br#"{"order": "other"}"#, named("order-1")).await;
    queues.publish(&web, b"<order/>", named("order-3")).await;
    queues.publish(&web, br#"{"order": 4}"#, named("order-4")).await;

    starts(&site.api, "order-4").await;
    let ended = ended(&site.api, &machine.execution("order-1")).await;
    assert_eq!(ended.output.as_deref(), Some(r#"{"order": 1}"#));
    let letters = dead_letters(&site.api, 1).await;
    assert_eq!((&letters[0]["source"], &letters[0]["reason"]), (&json!(web), &json!("not-json")));
    assert_eq!(letters[0]["messageId"], "order-3");
    assert_eq!(executions(&site.api).await, ["order-1", "order-2", "order-4"]);
    until("all messages are taken", PATIENCE, async || (queues.count(&web).await == 0).then_some(())).await;
    queues.delete(&web).await;
}

/// A trigger on an exchange gets what its key matches, with everything that a mapping can make of it. Paused, it loses
/// nothing; deleted, it leaves nothing behind.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trigger_on_an_exchange_is_paused_resumed_and_deleted() {
    let Some(servers) = Servers::shared().await else { return };
    let queues = servers.queues().await;
    let (exchange, queue) = (format!("{}-events", servers.prefix), servers.queue("trigger.events"));
    queues.declare_exchange(&exchange, ExchangeKind::Topic).await;
    let site = Site::on(&servers);
    // Two coordinators share the queue, and both must forget it at the end.
    let _server = site.start().await;
    let second = site.another();
    let _second = second.start().await;
    site.api.deploy("orders", PASS).await.unwrap();
    let mapping = "{'input': {'key': properties.routing_key, 'order': body}, 'name': 'order-' & body.id}";
    let create = json!({
        "name": "events",
        "source": { "exchange": exchange, "routingKey": "order.#" },
        "stateMachineArn": site.api.state_machine_arn("orders").unwrap(),
        "mapping": mapping,
    });
    site.api.call_own("CreateTrigger", &create).await.unwrap();
    let publish = async |key: &str, id: u32| {
        queues.publish_to(&exchange, key, format!(r#"{{"id": {id}}}"#).as_bytes(), "").await
    };
    until("the exchange is bound", PATIENCE, async || publish("order.new", 1).await.then_some(())).await;
    assert!(!publish("invoice.new", 2).await, "its key does not match");
    starts(&site.api, "order-1").await;
    let started = site.api.state_machine_arn("orders").unwrap().execution("order-1");
    let ended = ended(&site.api, &started).await;
    assert_eq!(ended.output.as_deref(), Some(r#"{"key":"order.new","order":{"id":1}}"#));

    site.api.call_own("PauseTrigger", &json!({ "name": "events", "reason": "migration" })).await.unwrap();
    for site in [&site, &second] {
        measures(site, "stagepost_trigger_consuming{trigger=\"events\"}", 0).await;
    }
    assert!(publish("order.late", 3).await);
    until("the message waits", PATIENCE, async || (queues.count(&queue).await == 1).then_some(())).await;
    site.api.call_own("ResumeTrigger", &json!({ "name": "events" })).await.unwrap();
    starts(&site.api, "order-3").await;

    site.api.call_own("DeleteTrigger", &json!({ "name": "events" })).await.unwrap();
    until("the trigger is gone", PATIENCE, async || {
        let described = site.api.call_own("DescribeTrigger", &json!({ "name": "events" })).await;
        described.is_err_and(|error| error.is("TriggerDoesNotExist")).then_some(())
    })
    .await;
    assert!(!publish("order.new", 4).await, "nothing is bound to the exchange");
    assert_eq!(executions(&site.api).await, ["order-1", "order-3"]);
    queues.delete_exchange(&exchange).await;
}

/// Bodies and headers as other clients send them; whatever cannot be used is a dead letter and holds nothing up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_of_all_kinds_start_executions_or_are_dead_letters() {
    let Some(servers) = Servers::shared().await else { return };
    let queues = servers.queues().await;
    let web = format!("{}-kinds", servers.prefix);
    queues.declare(&web).await;
    let site = Site::on(&servers);
    let file = std::env::temp_dir().join(format!("{}-triggers.json", servers.prefix));
    let triggers = json!([{
        "name": "kinds", "source": { "queue": web }, "stateMachineArn": "orders", "body": "BY_CONTENT_TYPE",
        "mapping": "{'input': body}", "prefetch": 2,
    }]);
    std::fs::write(&file, triggers.to_string()).unwrap();
    let _server = site.start_with(&["--triggers", file.to_str().unwrap()]).await;
    let machine = site.api.deploy("orders", PASS).await.unwrap();
    let sent = |id: &str, kind: &str| {
        BasicProperties::default().with_message_id(id.into()).with_content_type(kind.into())
    };
    let large = format!("\"{}\"", "x".repeat(300_000));
    for (id, kind, encoding, body) in [
        ("text", "text/plain", "", &b"hello"[..]),
        ("bytes", "application/octet-stream", "", b"\0\xff"),
        ("latin", "application/json; charset=iso-8859-1", "", b"\"\xe4\""),
        ("broken", "application/json", "", b"{"),
        ("packed", "application/json", "br", b"{}"),
        ("large", "application/json", "", large.as_bytes()),
        ("nothing", "application/json", "", b"null"),
        ("json", "application/json", "utf-8", b"\xef\xbb\xbf{\"a\":1}"),
    ] {
        queues.publish(&web, body, sent(id, kind).with_content_encoding(encoding.into())).await;
    }
    starts(&site.api, "json").await;
    for (name, output) in [
        ("text", "\"hello\""),
        ("bytes", "\"AP8=\""),
        ("latin", "\"ä\""),
        ("nothing", "null"),
        ("json", "{\"a\":1}"),
    ] {
        let ended = ended(&site.api, &machine.execution(name)).await;
        assert_eq!(ended.output.as_deref(), Some(output), "{name}");
    }
    let mut letters: Vec<String> = dead_letters(&site.api, 3)
        .await
        .iter()
        .map(|letter| format!("{} {}", letter["messageId"], letter["reason"]).replace('"', ""))
        .collect();
    letters.sort_unstable();
    assert_eq!(letters, ["broken not-json", "large too-large", "packed encoding"]);
    measures(&site, "stagepost_trigger_dead_letters{trigger=\"kinds\",reason=\"encoding\"}", 1).await;
    measures(&site, "stagepost_trigger_started{trigger=\"kinds\"}", 5).await;
    queues.delete(&web).await;
    std::fs::remove_file(file).unwrap();
}

/// The same without servers, through the command line. Messages that nothing could start yet wait.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn triggers_work_without_a_broker_and_wait_for_their_state_machine() {
    let site = Site::embedded();
    let _server = site.start().await;
    let mapping = "{'input': body, 'name': 'order-' & $number(body.id)}";
    let create = [
        "trigger",
        "create",
        "web",
        "--queue",
        "web-orders",
        "--state-machine",
        "orders",
        "--mapping",
        mapping,
    ];
    let created = site.cli(&create).await;
    let told = String::from_utf8_lossy(&created.stderr);
    assert!(created.status.success() && told.contains("does not exist"), "{told}");

    let send = json!({
        "StartAt": "Send",
        "States": { "Send": {
            "Type": "Task", "Resource": "arn:aws:states:::sqs:sendMessage", "End": true,
            "Parameters": { "QueueUrl": "web-orders", "MessageBody.$": "$" }
        } }
    });
    let sends = async |body: Value| {
        assert_eq!(run(&site.api, "sender", &send, &body).await.status.as_str(), "SUCCEEDED");
    };
    sends(json!({ "id": 1 })).await;
    let listed = site.cli(&["trigger", "list"]).await;
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    assert!(listed.contains("web   ACTIVE  queue web-orders  orders"), "{listed}");
    assert!(listed.contains("does not exist"), "{listed}");

    site.api.deploy("orders", PASS).await.unwrap();
    starts(&site.api, "order-1").await;
    // The same order in another message, one with an odd id, and one whose body is no JSON.
    sends(json!({ "id": 1 })).await;
    sends(json!({ "id": "odd" })).await;
    sends(json!("<order/>")).await;
    sends(json!({ "id": 2 })).await;
    starts(&site.api, "order-2").await;
    let letters = dead_letters(&site.api, 2).await;
    let mut reasons: Vec<&str> = letters.iter().map(|letter| letter["reason"].as_str().unwrap()).collect();
    reasons.sort_unstable();
    assert_eq!(reasons, ["mapping", "not-json"]);

    let paused = site.cli(&["trigger", "pause", "web"]).await;
    assert!(paused.status.success(), "{paused:?}");
    measures(&site, "stagepost_trigger_consuming{trigger=\"web\"}", 0).await;
    sends(json!({ "id": 3 })).await;
    assert_eq!(executions(&site.api).await, ["order-1", "order-2"]);
    assert!(site.cli(&["trigger", "resume", "web"]).await.status.success());
    starts(&site.api, "order-3").await;

    assert!(site.cli(&["trigger", "delete", "web"]).await.status.success());
    let gone = site.cli(&["trigger", "show", "web"]).await;
    assert_eq!(gone.status.code(), Some(3), "{gone:?}");
}

/// `stagepost dev` has exchanges too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exchange_without_a_broker_starts_executions() {
    let site = Site::embedded();
    let _server = site.start().await;
    site.api.deploy("orders", PASS).await.unwrap();
    let mapping = "{'input': properties.routing_key, 'name': 'order-' & body.id}";
    let create = [
        "trigger",
        "create",
        "events",
        "--exchange",
        "shop",
        "--routing-key",
        "order.*",
        "--state-machine",
        "orders",
        "--mapping",
        mapping,
    ];
    assert!(site.cli(&create).await.status.success());
    let publish = json!({
        "StartAt": "Publish",
        "States": { "Publish": {
            "Type": "Task", "Resource": "arn:aws:states:::sns:publish", "End": true,
            "Parameters": { "TopicArn": "amqp:///shop/order.new", "Message": { "id": 1 } }
        } }
    });
    // Nothing is bound before a coordinator has seen the trigger. The same order starts one execution, however often.
    until("the order is started", PATIENCE, async || {
        run(&site.api, "publisher", &publish, &json!({})).await;
        (executions(&site.api).await == ["order-1"]).then_some(())
    })
    .await;
    let started = site.api.state_machine_arn("orders").unwrap().execution("order-1");
    assert_eq!(ended(&site.api, &started).await.output.as_deref(), Some("\"order.new\""));
}

/// A queue of SQS starts executions, also when a message comes twice, and brings answers to waiting tasks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queues_of_sqs_start_executions_and_bring_answers() {
    let (orders, answers) = (Sqs::start().await, Sqs::start().await);
    let site = Site::embedded();
    let _server = site.start_with(&["--callback-queue", &answers.url]).await;
    site.api.deploy("orders", PASS).await.unwrap();
    let create = json!({
        "name": "sqs",
        "source": { "queueUrl": orders.url },
        "stateMachineArn": site.api.state_machine_arn("orders").unwrap(),
        "mapping": "{'input': {'kind': headers.kind, 'order': body}}",
    });
    site.api.call_own("CreateTrigger", &create).await.unwrap();
    orders.forget_deletions(2);
    for id in 1..=12 {
        let attributes = json!({ "kind": { "DataType": "String", "StringValue": "new" } });
        orders.send(&json!({ "id": id }).to_string(), &attributes);
    }
    orders.send("<order/>", &json!({}));
    until("all messages are deleted", PATIENCE, async || (orders.deleted() == 13).then_some(())).await;
    starts(&site.api, "m-12").await;
    let mut expected: Vec<String> = (1..=12).map(|id| format!("m-{id}")).collect();
    expected.sort_unstable();
    until("all are started", PATIENCE, async || (executions(&site.api).await == expected).then_some(()))
        .await;
    let first = site.api.state_machine_arn("orders").unwrap().execution("m-1");
    assert_eq!(ended(&site.api, &first).await.output.as_deref(), Some(r#"{"kind":"new","order":{"id":1}}"#));
    let letters = dead_letters(&site.api, 1).await;
    assert_eq!((&letters[0]["source"], &letters[0]["reason"]), (&json!(orders.url), &json!("not-json")));

    let waits = json!({
        "StartAt": "Ask",
        "States": { "Ask": {
            "Type": "Task", "Resource": "arn:aws:states:::sqs:sendMessage.waitForTaskToken", "End": true,
            "Parameters": { "QueueUrl": "tokens", "MessageBody": { "token.$": "$$.Task.Token" } }
        } }
    });
    let machine = site.api.deploy("asks", &waits.to_string()).await.unwrap();
    let execution = site.api.start(&machine, "{}", None).await.unwrap();
    let token = until("the task has its token", PATIENCE, async || {
        let history =
            site.api.call("GetExecutionHistory", &json!({ "executionArn": execution })).await.ok()?;
        let events = history["events"].as_array()?;
        let parameters = events.iter().find_map(|e| e["taskScheduledEventDetails"]["parameters"].as_str())?;
        let parameters: Value = serde_json::from_str(parameters).ok()?;
        Some(parameters["MessageBody"]["token"].as_str()?.to_owned())
    })
    .await;
    answers.send(&json!({ "taskToken": token, "output": { "approved": true } }).to_string(), &json!({}));
    let ended = ended(&site.api, &execution).await;
    assert_eq!(ended.output.as_deref(), Some(r#"{"approved":true}"#));
}
