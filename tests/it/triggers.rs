//! Triggers: what existing producers put on their queues starts executions.

use lapin::BasicProperties;
use serde_json::json;
use stagepost_server::ApiClient;
use stagepost_tests::{Servers, Site, until};

use crate::{PATIENCE, ended, letter};

const PASS: &str = r#"{"StartAt": "Done", "States": {"Done": {"Type": "Pass", "End": true}}}"#;

/// The names of the executions of `orders`.
async fn executions(api: &ApiClient) -> Vec<String> {
    let machine = api.state_machine_arn("orders").unwrap();
    let request = json!({"stateMachineArn": machine});
    let Ok(executions) = api.pages("ListExecutions", request, "executions", 1000).await else {
        return Vec::new();
    };
    executions.iter().map(|execution| execution["name"].as_str().unwrap().to_owned()).collect()
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

    until("order-4 is started", PATIENCE, async || {
        executions(&site.api).await.contains(&"order-4".into()).then_some(())
    })
    .await;
    let ended = ended(&site.api, &machine.execution("order-1")).await;
    assert_eq!(ended.output.as_deref(), Some(r#"{"order": 1}"#));
    let letter = letter(&site.api, Some(&web)).await;
    assert_eq!((&letter["body"], &letter["messageId"]), (&json!("<order/>"), &json!("order-3")));
    assert_eq!(letter["reason"], "not-json");

    let mut names = executions(&site.api).await;
    names.sort_unstable();
    assert_eq!(names, ["order-1", "order-2", "order-4"]);
    until("all messages are taken", PATIENCE, async || (queues.count(&web).await == 0).then_some(())).await;
    queues.delete(&web).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trigger_whose_state_machine_is_missing_keeps_its_messages_as_dead_letters() {
    let Some(servers) = Servers::shared().await else { return };
    let queues = servers.queues().await;
    let web = format!("{}-web-orders", servers.prefix);
    queues.declare(&web).await;
    let site = Site::on(&servers);
    let _server = site.start_with(&["--trigger", &format!("{web}=nobody")]).await;
    queues.publish(&web, b"{}", BasicProperties::default()).await;
    let letter = letter(&site.api, Some(&web)).await;
    assert_eq!(letter["reason"], "no-state-machine");
    assert!(letter["message"].as_str().unwrap().contains("nobody"), "{letter}");
    queues.delete(&web).await;
}
