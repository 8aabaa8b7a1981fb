//! The end-to-end and fault tests: one program, a module for each subject.
//!
//! Tests on RabbitMQ and PostgreSQL need `AMQP_URL` and `DATABASE_URL` (`tests/run` sets them) and say so when they
//! do not run. Those in `faults::`, `chaos::`, `redelivery::` and `shutdown::` kill what they run on, so one of them
//! runs at a time (`.config/nextest.toml`), and those that kill servers start their own.
#![expect(clippy::unwrap_used, reason = "these are tests")]

mod approvals;
mod bad_input;
mod callbacks;
mod chaos;
mod claims;
mod data_sets;
mod dead_letters;
mod examples;
mod express;
mod faults;
mod foreign_workers;
mod map_runs;
mod redelivery;
mod schedules;
mod shutdown;
mod signals;
mod tidy;
mod triggers;
mod workers;

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use stagepost_protocol::ExecutionArn;
use stagepost_server::{ApiClient, ExecutionDescription};
use stagepost_tests::{orders, until};

/// Longer than anything takes, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Deploys a definition that is given as JSON, starts it and waits for its end.
async fn run(api: &ApiClient, name: &str, definition: &Value, input: &Value) -> ExecutionDescription {
    let machine = api.deploy(name, &definition.to_string()).await.unwrap();
    let execution = api.start(&machine, &input.to_string(), None).await.unwrap();
    ended(api, &execution).await
}

/// Waits for its end.
async fn ended(api: &ApiClient, execution: &ExecutionArn) -> ExecutionDescription {
    match tokio::time::timeout(PATIENCE, api.wait(execution)).await {
        Ok(ended) => ended.unwrap(),
        Err(_) => {
            let events = api.history(execution).await.unwrap();
            panic!("{execution} does not end: {}", orders::kinds(&events).join(" "))
        }
    }
}

/// The output as JSON.
fn output(ended: &ExecutionDescription) -> Value {
    assert_eq!(ended.status.as_str(), "SUCCEEDED", "{ended:#?}");
    serde_json::from_str(ended.output.as_deref().unwrap()).unwrap()
}

/// Waits for a dead letter, from this queue if one is named, discards it, and returns it with all its secrets.
async fn letter(api: &ApiClient, source: Option<&str>) -> Value {
    let request = json!({"source": source});
    let id = until(&format!("a dead letter from {source:?}"), PATIENCE, async || {
        let letters = api.own_pages("ListDeadLetters", request.clone(), "deadLetters", 1).await.ok()?;
        letters.first().map(|letter| letter["deadLetterId"].clone())
    })
    .await;
    let letter =
        api.call_own("DescribeDeadLetter", &json!({"deadLetterId": id, "reveal": true})).await.unwrap();
    let discarded = api.call_own("DiscardDeadLetters", &json!({"deadLetterIds": [id]})).await.unwrap();
    assert_eq!(discarded, json!({"discarded": [id], "failures": []}));
    letter
}

/// Waits until an event of this type is in the history.
async fn reaches(api: &ApiClient, execution: &ExecutionArn, kind: &str) {
    let began = Instant::now();
    until(&format!("{execution} reaches {kind}"), PATIENCE * 2, async || {
        let events = api.history(execution).await.ok()?;
        let reached = events.iter().any(|event| event.kind == kind);
        let kinds = orders::kinds(&events).join(" ");
        assert!(reached || began.elapsed() < PATIENCE, "{execution} does not reach {kind}: {kinds}");
        reached.then_some(())
    })
    .await;
}
