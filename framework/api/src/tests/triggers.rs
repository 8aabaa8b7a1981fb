//! Triggers.

use serde_json::{Value, json};

use super::{BASE, Server};

fn trigger(name: &str, source: &Value) -> Value {
    json!({ "name": name, "source": source, "stateMachineArn": format!("{BASE}:stateMachine:orders") })
}

async fn own(server: &Server, operation: &str, body: Value) -> Value {
    server.call_own(operation, body.clone()).await.unwrap_or_else(|e| panic!("{operation} {body}: {e:?}"))
}

async fn refused(server: &Server, operation: &str, body: Value) -> (String, String) {
    server.call_own(operation, body.clone()).await.expect_err(&format!("{operation} {body}"))
}

#[tokio::test]
async fn a_trigger_is_created_changed_paused_and_deleted() {
    let server = Server::new();
    let create = trigger("web", &json!({ "queue": "web-orders" }));
    let created = own(&server, "CreateTrigger", create.clone()).await;
    assert_eq!(created["status"], "ACTIVE");
    assert_eq!((&created["body"], &created["prefetch"]), (&json!("JSON"), &json!(64)));
    assert!(created["problem"].as_str().unwrap().contains("does not exist"));
    // Once more is no mistake; another one of that name is.
    assert_eq!(own(&server, "CreateTrigger", create).await, created);
    let (code, _) = refused(&server, "CreateTrigger", trigger("web", &json!({ "queue": "other" }))).await;
    assert_eq!(code, "TriggerAlreadyExists");
    let (code, message) =
        refused(&server, "CreateTrigger", trigger("twin", &json!({ "queue": "web-orders" }))).await;
    assert_eq!(code, "InvalidTrigger");
    assert!(message.contains("'web' takes its messages from the same source"), "{message}");

    server.machine("orders").await;
    let change = json!({ "name": "web", "mapping": "{'input': body}", "body": "TEXT", "prefetch": 7 });
    let changed = own(&server, "UpdateTrigger", change).await;
    assert_eq!(changed.get("problem"), None);
    assert_eq!((&changed["mapping"], &changed["body"]), (&json!("{'input': body}"), &json!("TEXT")));
    let cleared = own(&server, "UpdateTrigger", json!({ "name": "web", "mapping": "" })).await;
    assert_eq!((cleared.get("mapping"), &cleared["prefetch"]), (None, &json!(7)));

    let paused = own(&server, "PauseTrigger", json!({ "name": "web", "reason": "migration" })).await;
    assert_eq!((&paused["status"], &paused["statusReason"]), (&json!("PAUSED"), &json!("migration")));
    let resumed = own(&server, "ResumeTrigger", json!({ "name": "web" })).await;
    assert_eq!((&resumed["status"], resumed.get("statusReason")), (&json!("ACTIVE"), None));
    assert_eq!(own(&server, "DescribeTrigger", json!({ "name": "web" })).await, resumed);

    own(&server, "DeleteTrigger", json!({ "name": "web" })).await;
    for operation in ["DescribeTrigger", "UpdateTrigger", "PauseTrigger", "ResumeTrigger", "DeleteTrigger"] {
        let (code, message) = refused(&server, operation, json!({ "name": "web" })).await;
        assert_eq!(
            (code.as_str(), message.as_str()),
            ("TriggerDoesNotExist", "Trigger Does Not Exist: 'web'")
        );
    }
}

/// Coordinators must take the binding back, so the trigger stays until they have.
#[tokio::test]
async fn a_trigger_on_an_exchange_is_deleted_by_coordinators() {
    let server = Server::new();
    let create = trigger("events", &json!({ "exchange": "orders", "routingKey": "order.#" }));
    own(&server, "CreateTrigger", create.clone()).await;
    for _ in 0..2 {
        own(&server, "DeleteTrigger", json!({ "name": "events" })).await;
    }
    let deleting = own(&server, "DescribeTrigger", json!({ "name": "events" })).await;
    assert_eq!(deleting["status"], "DELETING");
    assert_eq!(refused(&server, "ResumeTrigger", json!({ "name": "events" })).await.0, "TriggerDoesNotExist");
    assert_eq!(refused(&server, "CreateTrigger", create).await.0, "TriggerAlreadyExists");
}

#[tokio::test]
async fn triggers_are_listed_by_name_and_status() {
    let server = Server::new();
    for n in 0..5 {
        own(&server, "CreateTrigger", trigger(&format!("t-{n}"), &json!({ "queue": format!("q-{n}") })))
            .await;
    }
    own(&server, "PauseTrigger", json!({ "name": "t-3" })).await;
    let names = |answer: &Value| {
        let triggers = answer["triggers"].as_array().unwrap();
        triggers.iter().map(|t| t["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>().join(" ")
    };
    let first = own(&server, "ListTriggers", json!({ "maxResults": 3 })).await;
    assert_eq!(names(&first), "t-0 t-1 t-2");
    let query = json!({ "maxResults": 3, "nextToken": first["nextToken"] });
    assert_eq!(names(&own(&server, "ListTriggers", query).await), "t-3 t-4");
    let paused = own(&server, "ListTriggers", json!({ "statusFilter": "PAUSED" })).await;
    assert_eq!(names(&paused), "t-3");
    let away = server.call_target("Stagepost.ListTriggers", json!({}), "test", "eu-west-1").await.unwrap();
    assert_eq!(names(&away), "");
}

#[tokio::test]
async fn what_cannot_be_a_trigger_is_refused_with_all_that_is_wrong() {
    let server = Server::new();
    let good = trigger("t", &json!({ "queue": "q" }));
    for (member, value, code, told) in [
        ("name", json!("a b"), "InvalidTrigger", "letters, digits"),
        ("name", Value::Null, "ValidationException", "'name'"),
        ("source", Value::Null, "ValidationException", "'source'"),
        ("source", json!({}), "InvalidTrigger", "either 'queue'"),
        ("source", json!({ "queue": "q", "queueUrl": "http://h/q" }), "InvalidTrigger", "either 'queue'"),
        ("source", json!({ "queue": "stagepost.callbacks" }), "InvalidTrigger", "itself uses"),
        ("source", json!({ "queueUrl": "ftp://h/q" }), "InvalidTrigger", "https://HOST"),
        ("source", json!("q"), "SerializationException", "Structure"),
        ("stateMachineArn", Value::Null, "ValidationException", "'stateMachineArn'"),
        ("stateMachineArn", json!("orders"), "InvalidArn", "orders"),
        ("mapping", json!("{"), "InvalidTrigger", "no JSONata expression"),
        ("body", json!("XML"), "ValidationException", "BY_CONTENT_TYPE"),
        ("prefetch", json!(0), "ValidationException", "'prefetch'"),
    ] {
        let mut bad = good.clone();
        bad[member] = value;
        let (found, message) = refused(&server, "CreateTrigger", bad).await;
        assert_eq!(found, code, "{member}: {message}");
        assert!(message.contains(told), "{message}");
    }
    own(&server, "CreateTrigger", good).await;
    let change = json!({ "name": "t", "source": { "queue": "other" } });
    let (code, message) = refused(&server, "UpdateTrigger", change).await;
    assert_eq!(code, "InvalidTrigger");
    assert!(message.contains("cannot be changed"), "{message}");
}
