//! Callbacks: a state hands out its task token and waits, whoever is asked and however the answer comes.

use lapin::BasicProperties;
use serde_json::{Value, json};
use stagepost_server::ExecutionDescription;
use stagepost_tests::{Desk, Queues, Servers, Site};

use crate::{PATIENCE, ended, letter, output, reaches, run};

fn token() -> Value {
    json!({"token.$": "$$.Task.Token"})
}

/// One state that calls a service with its token.
fn asks(resource: &str, parameters: &Value) -> Value {
    json!({"StartAt": "Ask", "States": {"Ask": {
        "Type": "Task",
        "Resource": format!("arn:aws:states:::{resource}.waitForTaskToken"),
        "Parameters": parameters,
        "TimeoutSeconds": 600,
        "End": true
    }}})
}

/// Where the token arrives.
enum Arrives {
    Queue,
    Desk,
}

/// How an execution is answered.
#[derive(Clone, Copy, Debug)]
enum By {
    Api,
    Message,
    FailureMessage,
}

async fn answer(site: &Site, queues: &Queues, callbacks: &str, by: By, token: &str) {
    let message = match by {
        By::Api => return site.api.send_success(token, r#"{"by":"api"}"#).await.unwrap(),
        By::Message => json!({"taskToken": token, "output": {"by": "message"}}),
        By::FailureMessage => json!({"taskToken": token, "error": "No", "cause": "too expensive"}),
    };
    queues.publish(callbacks, message.to_string().as_bytes(), BasicProperties::default()).await;
}

fn check(by: By, ended: &ExecutionDescription) {
    match by {
        By::Api => assert_eq!(output(ended), json!({"by": "api"})),
        By::Message => assert_eq!(output(ended), json!({"by": "message"})),
        By::FailureMessage => {
            assert_eq!((ended.error.as_deref(), ended.cause.as_deref()), (Some("No"), Some("too expensive")));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_asked_answers_by_the_api_or_by_a_message() {
    let Some(servers) = Servers::shared().await else { return };
    let mut desk = Desk::open().await;
    let site = Site::on(&servers).with_variable("AWS_ENDPOINT_URL_LAMBDA", &desk.url);
    let _server = site.start().await;
    let mut queues = servers.queues().await;
    let (questions, events) = (format!("{}-questions", servers.prefix), format!("{}-events", servers.prefix));
    queues.declare(&questions).await;
    queues.bind(&questions, &events, "questions.#").await;
    let callbacks = servers.queue("callbacks");
    // The nested execution passes the token on that it was started with.
    let inner = json!({"StartAt": "Send", "States": {"Send": {
        "Type": "Task",
        "Resource": "arn:aws:states:::sqs:sendMessage",
        "Parameters": {"QueueUrl": format!("amqp:///{questions}"), "MessageBody": {"token.$": "$.token"}},
        "End": true
    }}});
    let inner = site.api.deploy("inner", &inner.to_string()).await.unwrap();
    for (name, resource, parameters, arrives) in [
        (
            "queue",
            "sqs:sendMessage",
            json!({"QueueUrl": format!("amqp:///{questions}"), "MessageBody": token()}),
            Arrives::Queue,
        ),
        (
            "topic",
            "sns:publish",
            json!({"TopicArn": format!("amqp:///{events}/questions.orders"), "Message": token()}),
            Arrives::Queue,
        ),
        ("function", "lambda:invoke", json!({"FunctionName": "approve", "Payload": token()}), Arrives::Desk),
        (
            "http",
            "http:invoke",
            json!({"ApiEndpoint": desk.url, "Method": "POST", "RequestBody": token()}),
            Arrives::Desk,
        ),
        (
            "nested",
            "states:startExecution",
            json!({"StateMachineArn": inner.to_string(), "Input": token()}),
            Arrives::Queue,
        ),
    ] {
        let machine = site.api.deploy(name, &asks(resource, &parameters).to_string()).await.unwrap();
        for by in [By::Api, By::Message, By::FailureMessage] {
            let execution = site.api.start(&machine, "{}", None).await.unwrap();
            let asked = match arrives {
                Arrives::Queue => queues.taken(&questions, PATIENCE).await.json(),
                Arrives::Desk => desk.asked(PATIENCE).await,
            };
            reaches(&site.api, &execution, "TaskSubmitted").await;
            answer(&site, &queues, &callbacks, by, asked["token"].as_str().unwrap()).await;
            check(by, &ended(&site.api, &execution).await);
        }
    }
    queues.delete(&questions).await;
    queues.delete_exchange(&events).await;
}

/// A silent task times out; the answer that comes after that is a dead letter, and is one again when it is requeued.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_after_the_timeout_is_a_dead_letter() {
    let Some(servers) = Servers::shared().await else { return };
    let site = Site::on(&servers);
    let _server = site.start().await;
    let mut queues = servers.queues().await;
    let questions = format!("{}-questions", servers.prefix);
    let parameters = json!({"QueueUrl": format!("amqp:///{questions}"), "MessageBody": token()});
    let mut definition = asks("sqs:sendMessage", &parameters);
    definition["States"]["Ask"]["HeartbeatSeconds"] = 1.into();
    definition["States"]["Ask"]["Catch"] =
        json!([{"ErrorEquals": ["States.HeartbeatTimeout"], "ResultPath": null, "Next": "Silent"}]);
    definition["States"]["Silent"] = json!({"Type": "Pass", "Result": "silent", "End": true});
    let ended = run(&site.api, "silent", &definition, &json!({})).await;
    assert_eq!(output(&ended), "silent");
    let token = queues.taken(&questions, PATIENCE).await.json()["token"].as_str().unwrap().to_owned();
    let callbacks = servers.queue("callbacks");
    let body = json!({"taskToken": token, "output": 1}).to_string();
    let properties = BasicProperties::default().with_correlation_id("c-1".into());
    queues.publish(&callbacks, body.as_bytes(), properties).await;
    let expired = letter(&site.api, Some(&callbacks)).await;
    assert_eq!(expired["reason"], "expired");
    assert_eq!((&expired["body"], &expired["properties"]["correlationId"]), (&json!(body), &json!("c-1")));
    queues.delete(&questions).await;
}

/// Without a broker of its own: an exchange that nobody listens at, and answers that executions send.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callbacks_on_the_embedded_default() {
    let site = Site::embedded();
    let _server = site.start().await;
    let topic = json!({"TopicArn": "amqp:///events/orders.new", "Message": token()});
    let asked = run(&site.api, "asks-nobody", &asks("sns:publish", &topic), &json!({})).await;
    assert_eq!(asked.error.as_deref(), Some("SNS.NotFoundException"));
    // Without a token, as nobody is waited for.
    let mut tells = asks("sns:publish", &json!({"TopicArn": "amqp:///events/orders.new", "Message": "new"}));
    tells["States"]["Ask"]["Resource"] = "arn:aws:states:::sns:publish".into();
    let told = run(&site.api, "tells-nobody", &tells, &json!({})).await;
    assert!(output(&told)["MessageId"].is_string(), "{told:#?}");

    // It waits for an answer, and another execution sends some, each as a token message.
    let wait = json!({"StartAt": "Ask", "States": {"Ask": {
        "Type": "Task",
        "Resource": "arn:aws:states:::states:startExecution.waitForTaskToken",
        "Parameters": {
            "StateMachineArn": site.api.state_machine_arn("answers").unwrap().to_string(),
            "Input": token()
        },
        "TimeoutSeconds": 600,
        "End": true
    }}});
    let send = |message: Value, next: Option<&str>| {
        let mut state = json!({
            "Type": "Task",
            "Resource": "arn:aws:states:::sqs:sendMessage",
            "Parameters": {"QueueUrl": "stagepost.callbacks", "MessageBody": message},
            "ResultPath": null
        });
        match next {
            Some(next) => state["Next"] = next.into(),
            None => state["End"] = true.into(),
        }
        state
    };
    let says = |output: &str| json!({"taskToken.$": "$.token", "output": output});
    let answers = json!({"StartAt": "First", "States": {
        "First": send(says("first"), Some("Again")),
        "Again": send(says("first"), Some("Other")),
        "Other": send(says("other"), Some("Forged")),
        "Forged": send(json!({"taskToken": "forged", "output": 1}), None),
    }});
    site.api.deploy("answers", &answers.to_string()).await.unwrap();
    let ended = run(&site.api, "waits", &wait, &json!({})).await;
    assert_eq!(output(&ended), "first");
    let mut reasons = Vec::new();
    for _ in 0..2 {
        let letter = letter(&site.api, Some("stagepost.callbacks")).await;
        reasons.push(letter["reason"].as_str().unwrap().to_owned());
    }
    reasons.sort();
    assert_eq!(reasons, ["expired", "invalid-token"]);
    let left = site.api.own_pages("ListDeadLetters", json!({}), "deadLetters", 10).await.unwrap();
    assert_eq!(left, Vec::<Value>::new());
}
